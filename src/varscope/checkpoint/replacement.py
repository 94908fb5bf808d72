"""Files that take the place of others at once: written beside them, synced, then renamed.

A writer has a *workplace*, a folder of its own beside what it replaces, on the same file system.
What it leaves there when it is killed is removed by whoever writes to the same place next.  The
dead are told from the living by a lock: each writer holds one on a file in its workplace, and the
system lets go of it when the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol

from varscope._scopecore import FileLock

try:
    import fcntl
except ImportError:  # Windows: there, what a killed writer left stays
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
LONG = 200  # bytes of a name; with what is added it stays below what file systems take


class Workplace:
    """A folder in `folder` for what is to become `name`; `token` tells it from all others."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.mode = 0o666
        self.lock: FileLock | None = None
        self.draw()

    def draw(self) -> None:
        """Take a new token, and so another path."""
        self.token = secrets.token_hex(4)
        self.path = self.folder / f".{short(self.name)}.{self.token}.partial"

    def claim(self) -> None:
        """Make the folder and lock it.

        Between the two steps another writer may take it for one of a dead writer.  It locks the
        folder before it removes it; so what this one has locked and finds in its place stays.
        """
        while self.lock is None:
            try:
                self.path.mkdir()
            except FileExistsError:
                self.draw()
                continue
            with contextlib.suppress(FileNotFoundError):
                self.lock = locked(self.path, wait=True)
        # What a new file may be used for here.
        self.mode = os.fstat(self.lock.descriptor).st_mode & 0o777

    def move(self) -> None:
        """Give the folder another path: other processes that write by the old one come too late."""
        before = self.path
        self.draw()
        try:
            os.rename(before, self.path)
        except OSError:
            self.path = before

    def remove(self) -> None:
        """Remove the folder and all in it, as far as that is possible."""
        if fcntl is None and self.lock is not None:
            self.lock.close()  # Windows removes no file that is open
        empty(self.path)
        if self.lock is not None:
            self.lock.close()


def short(name: str) -> str:
    """What a workplace is called after: file systems take names of 255 bytes."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= LONG else f"{zlib.crc32(encoded):08x}"


@contextlib.contextmanager
def workplace(folder: Path, name: str, make_folder: bool = False) -> Iterator[Workplace]:
    """A workplace for the time of a `with` block; what dead writers left is removed first.

    With `make_folder`, the folder around it is made where there is none, and removed again where
    the block ends by an exception and nothing is in it.
    """
    place, made = Workplace(folder, name), False
    try:
        while place.lock is None:
            if make_folder and not folder.exists():
                try:
                    folder.mkdir()
                    made = True
                except FileExistsError:
                    if folder.is_symlink():  # that leads nowhere
                        raise
            try:
                remove_leftovers(folder, name)
                place.claim()
            except FileNotFoundError:
                # Another writer, who had made the folder, failed and removed it.
                if not make_folder or not folder.parent.exists():
                    raise
        if made:
            sync_folder(folder.parent)
        yield place
        place.remove()
    except BaseException:
        place.remove()
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


# --- what the dead leave


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove the workplaces of writers that are no more, for what is called `name`."""
    pattern = re.compile(rf"\.{re.escape(short(name))}\.[0-9a-f]{{8}}\.partial")
    for found in sorted(os.listdir(folder)):
        path = folder / found
        if fcntl is None or not pattern.fullmatch(found) or path.is_symlink():
            continue
        with contextlib.suppress(OSError):  # somebody else's, or just being removed
            lock = locked(path, wait=False)
            if lock is not None:
                try:
                    empty(path)
                finally:
                    lock.close()


def empty(path: Path) -> None:
    """Remove a workplace, its lock last, as far as that is possible."""
    with contextlib.suppress(OSError):
        for found in sorted(os.listdir(path), key=lambda name: name == LOCK):
            with contextlib.suppress(OSError):
                os.unlink(path / found)
        os.rmdir(path)


def locked(path: Path, *, wait: bool) -> FileLock | None:
    """The lock of a workplace; None where it cannot be had.

    Where the file system knows no locks, whoever waits for one goes on without, and nobody's
    workplace is removed.
    """
    lock = FileLock(fcntl)
    lock.open(path / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0))
    if not (lock.take(wait) or wait):
        return None
    found = os.path.samestat(os.stat(path / LOCK), os.fstat(lock.descriptor))
    return lock if found else None


# --- putting in place


def put_file(place: Workplace, name: str, target: Path) -> None:
    """Let a finished file of the workplace take the place of a file."""
    os.replace(place.path / name, target)
    sync_folder(target.parent)


class Place(Protocol):
    """Where new files lie: a `Workplace`, or another folder of such a kind."""

    folder: Path
    path: Path


def put_series(
    place: Place,
    names: Collection[str],
    index: str,
    listed: Callable[[Path], Collection[str] | None],
    is_ours: Callable[[str], bool],
    resumed: Collection[str] | None = None,
) -> None:
    """Let files of the workplace, and the index that lists them, take the place of others.

    The moment in which the index is renamed is the one in which the new files count.  What then
    lies there and is listed no more is removed; or the new files are, where it does not come to
    that.  Writers do so one after the other.

    Parameters
    ----------
    listed : callable
        The names in the index at a path that may be removed when it is replaced: none where there
        is no index, None where it cannot be read.
    is_ours : callable
        Whether a file of this name was put there by this function: it may go where no index lists
        it, whoever put it there, as long as nobody is about to add one that does.
    resumed : collection of str, optional
        Given where what fails is tried again with the same files, which then stay where they are:
        those of `names` that an earlier try has put in place.
    """
    folder = place.folder
    lock = FileLock(fcntl)
    try:
        is_alone = take_folder(lock, folder)
        replaced: set[str] = set()
        if not is_alone or not all(is_ours(name) or name == index for name in visible(folder)):
            replaced.update(listed(folder / index) or ())
        new = os.stat(place.path / index)

        def clear(is_safe: bool) -> None:
            # By what is there now: an exception may come just after the index was renamed.
            done = is_file(folder / index, new)
            if done and not is_safe:
                return  # after a crash the old index may be there again, and wants its files
            current = names if done else listed(folder / index)
            known = replaced.union(names) if done else set(names)
            if current is not None:
                remove_unlisted(
                    folder, current, lambda name: (is_alone and is_ours(name)) or name in known
                )

        try:
            for name in names:
                if name not in (resumed or ()):
                    os.replace(place.path / name, folder / name)
            sync_folder(folder)
            os.replace(place.path / index, folder / index)
            sync_folder(folder)
            clear(True)
        except BaseException as error:
            if resumed is None:
                clear(not isinstance(error, OSError) and is_synced(folder))
            raise
    finally:
        lock.close()


def visible(folder: Path) -> Iterator[str]:
    return (name for name in os.listdir(folder) if not name.startswith("."))


def is_file(path: Path, known: os.stat_result) -> bool:
    """Whether a path leads to a file of which this is known."""
    try:
        return os.path.samestat(os.stat(path), known)
    except FileNotFoundError:
        return False


def remove_unlisted(folder: Path, listed: Collection[str], may_go: Callable[[str], bool]) -> None:
    """Remove files that are not listed; what cannot be removed now can the next time."""
    kept = set(listed)
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name not in kept and may_go(name):
                with contextlib.suppress(OSError):
                    os.unlink(folder / name)


def take_folder(lock: FileLock, folder: Path) -> bool:
    """Wait for a folder that other writers hold; False where there are no locks."""
    if fcntl is None:
        return False  # nor can a folder be opened
    lock.open(folder, os.O_RDONLY)
    return lock.take(wait=True)


# --- the disk


# What file systems say that sync no folders.
UNSYNCED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


def is_synced(folder: Path) -> bool:
    try:
        sync_folder(folder)
        return True
    except OSError:
        return False


def sync_folder(folder: Path) -> None:
    """See to it that what was renamed in a folder is so on the disk."""
    if os.name == "nt":
        return  # where folders cannot be opened
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise OSError(error.errno, error.strerror, os.fspath(folder)) from None
    finally:
        os.close(opened)
