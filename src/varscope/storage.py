"""Who keeps the values of a graph's variables: the heap, an arena, or files."""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from varscope import randomness, shapes
from varscope._scopecore import Filling, Memory, begin_filling, end_filling
from varscope.errors import ArgumentTypeError, StorageError, StorageFullError, WithdrawnError

if TYPE_CHECKING:
    from pathlib import Path

    from varscope.randomness import Distribution
    from varscope.shapes import Part

LARGE = 1 << 16  # elements; a variable with more is filled in place, block by block
ROOMY = 1 << 40  # bytes of addresses for a slab, where nobody says how many
MODEST = 1 << 30  # the same where that many are not to be had
HUGE = 1 << 22  # bytes from which on large pages pay
SEGMENT = 1 << 26  # bytes by which a file grows
GRANULE = 1 << 20  # bytes of a file for which room is made at once


class Variable(Protocol):
    """What a storage needs of a variable: most of it is the core's `Handle`."""

    @property
    def path(self) -> str: ...
    @property
    def shape(self) -> shapes.Shape | None: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def _filled(self) -> bool: ...
    def _place(self) -> int | None: ...
    def _copy_in(self, values: np.ndarray) -> bool: ...
    def _mark(self, filled: bool) -> None: ...
    def _own(self, array: np.ndarray) -> bool: ...


class Storage:
    """Where the values of one graph's variables lie; how they get there.

    A small variable's values are made aside and put in place at once, by whoever is first.  A
    large one's are made in place, block by block, by every thread that wants them: its `Filling`
    says how far they are.  No lock is held while a function of the user runs, or at all.
    """

    adopts = False  # arrays that were made elsewhere, as they are
    elsewhere = False  # whether values lie in other processes: see `RemoteStorage`

    def __init__(self) -> None:
        self._taken = False
        self._fillings: dict[Any, Filling] = {}

    def take(self) -> None:
        """Become the storage of a graph, and of no other one."""
        if self._taken:
            raise StorageError.taken(self)
        self._taken = True

    def for_copy(self) -> Storage:
        """The storage of a copy of the graph."""
        return Heap()

    # --- first values
    def make(self, variable: Variable, content: Any = None) -> bool:
        """Have first values made where they are to lie; False where this process makes them.

        With the content of a variable that has values, in place of those.
        """
        return False

    def keep(self, variable: Variable, values: np.ndarray) -> bool:
        """Make these the variable's first values; False where it got some from elsewhere."""
        own = np.empty(values.shape, variable.dtype)
        own[...] = values
        return self._put(variable, own)

    def draw(self, variable: Variable, distribution: Distribution, key: int, part: Part) -> None:
        """See to it that it has values; if it has none yet, these of a distribution."""
        filling = self.drawing(variable, distribution, key, part)
        if filling is not None:
            try:
                self.finish(variable, filling)
            except BaseException:
                self.give_up(filling)
                raise
        if not variable._filled:
            own = np.empty(part.shape, variable.dtype)
            randomness.fill(own, distribution, key, part.first, part.strides)
            self._put(variable, own)

    def drawing(
        self, variable: Variable, distribution: Distribution, key: int, part: Part
    ) -> Filling | None:
        """What fills a large variable block by block, begun here or by another thread."""
        if math.prod(part.shape) <= LARGE or not is_run(part):
            return None
        law = randomness.law(distribution, variable.dtype)
        return None if law is None else self._begin(variable, part.shape, law, key, part.first)

    def finish(self, variable: Variable, filling: Filling) -> None:
        """Help to fill until all is there, or until the filling was given up."""
        while filling.step():
            pass
        while not filling.complete:  # other threads are in their last blocks
            if filling.dropped and filling.at_rest:
                end_filling(self._fillings, filling)
                return
            time.sleep(0.0002)
        try:
            self._settle(variable, filling)
        except WithdrawnError:
            end_filling(self._fillings, filling)
            raise
        end_filling(self._fillings, filling)

    def give_up(self, filling: Filling) -> None:
        """Leave a filling that was interrupted."""
        end_filling(self._fillings, filling)  # whoever helps has the array, and goes on

    def _offered(self, variable: Variable, new: Filling) -> Filling | None:
        """The filling that is under way, or the new one; None where there are values."""
        filling: Filling = begin_filling(self._fillings, new)
        try:
            if not variable._filled:
                return filling
        except WithdrawnError:
            end_filling(self._fillings, filling)
            raise
        end_filling(self._fillings, new)
        return None

    def _begin(
        self, variable: Variable, shape: tuple[int, ...], law: Any, key: int, first: int
    ) -> Filling | None:
        raise NotImplementedError

    def _put(self, variable: Variable, own: np.ndarray) -> bool:
        """Make an array that nobody else has the values; False where there are some."""
        raise NotImplementedError

    def _settle(self, variable: Variable, filling: Filling) -> None:
        """Make what was filled the values; may be called more than once."""
        raise NotImplementedError

    # --- what slabs have, and the heap has not
    def flat(self, dtype: np.dtype, nbytes: int) -> np.ndarray:
        """The first bytes of a dtype's slab as an array."""
        raise StorageError.not_flat(self)

    def prepare(self, dtype: np.dtype, start: int, stop: int) -> None:
        """Get ready for writing to these bytes of a slab."""

    def expect(self, used: dict[np.dtype, int]) -> None:
        """Most of these bytes of each dtype are about to be filled."""

    def preparation(self) -> Any:
        """`prepare`, where it must be called for small pieces too."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Heap(Storage):
    """Each variable's array is allocated for itself, when its values are made: the default.

    >>> import varscope as vs
    >>> vs.Graph(storage=vs.Heap()).storage
    Heap()
    """

    adopts = True

    def __reduce__(self) -> tuple[type[Heap], tuple[()]]:
        return Heap, ()

    def _begin(
        self, variable: Variable, shape: tuple[int, ...], law: Any, key: int, first: int
    ) -> Filling | None:
        # A view: more than one thread may make it the values, and then it has to be as it was.
        array = np.empty(shape, variable.dtype).view()
        # The one handle of the variable, and by being here the one that remains so: a filling that
        # was interrupted must not be taken for that of another variable.
        new = Filling(variable, array, as_bytes(array), array.size, law, key, first, None)
        return self._offered(variable, new)

    def _put(self, variable: Variable, own: np.ndarray) -> bool:
        return variable._own(own)

    def _settle(self, variable: Variable, filling: Filling) -> None:
        variable._own(filling.array)


class RemoteStorage(Storage):
    """Values that lie in other processes: they come to this one where somebody reads them.

    What a variable has is then no array but something that can get one, with the methods of
    `variables.Content`.
    """

    elsewhere = True

    def make_all(self, variables: list[Any], tick: Callable[[int], None]) -> None:
        """`make` for many at once, and wait for all; `tick` hears how many bytes more are there."""
        raise NotImplementedError

    def save(self, entries: Any, target: Path, most: int, report: Any) -> int:
        """Have the entries of a graph written from there; how many bytes they are."""
        raise NotImplementedError

    def restore(
        self, handles: list[Any], tensors: Any, found: Any, parts: Any, report: Any
    ) -> None:
        """Have what fits read there, and make it the values of all these variables, or of none."""
        raise NotImplementedError

    def drawing(
        self, variable: Variable, distribution: Distribution, key: int, part: Part
    ) -> Filling | None:
        return None


class Range:
    """The addresses of a slab: a map of memory, or of a file and beyond its end."""

    __slots__ = ("bytes", "file", "pages", "read_only", "roomy")

    def __init__(self, pages: mmap.mmap, file: int = -1) -> None:
        self.pages, self.file = pages, file
        # A base without a way to close it: the map stays for as long as any array shows it.
        self.bytes = np.ndarray((len(pages),), np.uint8, Memory(pages))  # type: ignore[arg-type]
        # The same, and nobody can make an array writable whose base this is.
        memory: Any = Memory(pages, read_only=True)
        self.read_only = np.ndarray((len(pages),), np.uint8, memory)
        self.roomy = bytearray()  # of a file: which granules have room on the disk


class SlabStorage(Storage):
    """What arenas and files share: one contiguous slab a dtype, which grows and never moves."""

    def __init__(self) -> None:
        super().__init__()
        self._ranges: dict[np.dtype, Range] = {}
        # Held by the one `restore` that writes to the places of variables before they count.
        self.restoring = threading.Lock()

    # --- asked by the core
    def reserve(self, dtype: np.dtype, wanted: int) -> np.ndarray:
        """The bytes in which a slab grows; so many are wanted for what is declared now."""
        found = self._ranges.get(dtype)
        if found is None:
            # Where two threads come here at once, the second one's range is dropped again.
            found = self._ranges.setdefault(dtype, self._reserved(dtype, wanted))
        return found.bytes

    def back(self, dtype: np.dtype, nbytes: int) -> int:
        """How many bytes of a slab can be used, at least so many."""
        raise NotImplementedError

    def _reserved(self, dtype: np.dtype, wanted: int) -> Range:
        raise NotImplementedError

    # --- arrays
    def view(
        self, dtype: np.dtype, place: int, shape: tuple[int, ...], writable: bool = True
    ) -> np.ndarray:
        """The array at a place; it keeps the memory, whatever becomes of the graph."""
        found = self._ranges[dtype]
        return np.ndarray(shape, dtype, found.bytes if writable else found.read_only, place)

    def flat(self, dtype: np.dtype, nbytes: int) -> np.ndarray:
        if nbytes == 0:
            return np.empty(0, dtype)
        self.prepare(dtype, 0, nbytes)
        return self.view(dtype, 0, (nbytes // dtype.itemsize,))

    # --- first values
    def keep(self, variable: Variable, values: np.ndarray) -> bool:
        return self._put(variable, np.ascontiguousarray(values, variable.dtype))

    def _put(self, variable: Variable, own: np.ndarray) -> bool:
        if variable.dtype.itemsize == 0:  # no bytes to lie anywhere; NumPy makes one of some
            return variable._own(own.reshape(variable.shape))  # type: ignore[arg-type]
        if own.size <= LARGE:
            place = variable._place()
            if place is None:
                return False
            self.prepare(variable.dtype, place, place + own.nbytes)
            return variable._copy_in(as_bytes(own))
        while True:
            filling, new = self._joined(variable, own.shape, None, 0, 0, as_bytes(own))
            if filling is None:
                return False
            if filling is not new:
                self._wait_for(variable, filling)
                continue
            try:
                self.finish(variable, filling)
            except BaseException:
                filling.drop()  # they are not to become the values later
                raise
            return not filling.dropped

    def _begin(
        self, variable: Variable, shape: tuple[int, ...], law: Any, key: int, first: int
    ) -> Filling | None:
        while True:
            filling, new = self._joined(variable, shape, law, key, first, None)
            if filling is None or new is None or filling.is_like(new):
                return filling
            # It was interrupted, and then the graph got another seed.
            filling.drop()
            self.finish(variable, filling)

    def claim(
        self, variable: Variable, shape: tuple[int, ...]
    ) -> tuple[Filling, np.ndarray] | None:
        """The right to write to a large variable's place, before that counts; and the place.

        It ends where another thread wants values at once, which then makes them.  None where there
        are values.
        """
        while True:
            place = variable._place()
            filling, new = self._joined(variable, shape, None, 0, 0, None)
            if filling is None or place is None:
                return None
            if filling is new:
                return filling, self.view(variable.dtype, place, shape)
            self._wait_for(variable, filling)

    def _wait_for(self, variable: Variable, filling: Filling) -> None:
        """Get the filling of somebody else out of the way."""
        if filling.provisional:
            filling.drop()
        self.finish(variable, filling)

    def _joined(
        self,
        variable: Variable,
        shape: tuple[int, ...],
        law: Any,
        key: int,
        first: int,
        source: np.ndarray | None,
    ) -> tuple[Filling | None, Filling | None]:
        """The filling that is under way, None where there are values; and the one offered."""
        place = variable._place()
        if place is None:
            return None, None
        dtype, size = variable.dtype, math.prod(shape)
        self.prepare(dtype, place, place + size * dtype.itemsize)
        out = self._ranges[dtype].bytes[place : place + size * dtype.itemsize]
        new = Filling((dtype, place), None, out, size, law, key, first, source)
        variable._mark(False)
        filling = self._offered(variable, new)
        if filling is None:
            return None, None
        return filling, new

    def _settle(self, variable: Variable, filling: Filling) -> None:
        variable._mark(True)

    def give_up(self, filling: Filling) -> None:
        """What is filled is in its place: whoever comes next goes on with the rest."""


class Arena(SlabStorage):
    """All variables of a dtype in one contiguous piece of memory, in the order of creation.

    `Graph.flat` shows such a piece as one vector, which is what an optimizer updates.  A piece is
    a range of addresses that is reserved when it is first needed, so it grows with the graph and
    never moves; memory is taken where values are written.

    Parameters
    ----------
    capacity : int, optional
        The bytes that the variables of each dtype may take together.  Left out: a tebibyte of
        addresses, or four times what is declared by then; less where the system does not give that.

    >>> import varscope as vs
    >>> g = vs.Graph(seed=1, storage=vs.Arena())
    >>> with g.as_default():
    ...     v = vs.get_variable("v", [2], initializer=vs.zeros)
    ...     w = vs.get_variable("w", [3], initializer=vs.ones)
    >>> g.flat("float32").tolist()
    [0.0, 0.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, capacity: int | None = None) -> None:
        super().__init__()
        self.capacity = None if capacity is None else as_capacity(capacity)

    def for_copy(self) -> Storage:
        return Arena(self.capacity)

    def __reduce__(self) -> tuple[type[Arena], tuple[int | None]]:
        return Arena, (self.capacity,)

    def back(self, dtype: np.dtype, nbytes: int) -> int:
        capacity = self._ranges[dtype].bytes.size
        if nbytes > capacity:
            raise StorageFullError.arena(dtype, nbytes, capacity)
        return capacity

    def _reserved(self, dtype: np.dtype, wanted: int) -> Range:
        if self.capacity is not None:
            return Range(anonymous(dtype, [self.capacity]))
        return Range(anonymous(dtype, range_sizes(wanted, GRANULE)))

    def expect(self, used: dict[np.dtype, int]) -> None:
        for dtype, nbytes in used.items():
            self.prepare(dtype, 0, nbytes)

    def prepare(self, dtype: np.dtype, start: int, stop: int) -> None:
        """Ask for large pages, as NumPy does for large arrays."""
        if stop - start >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            start -= start % mmap.PAGESIZE
            with contextlib.suppress(OSError):  # a system without them
                self._ranges[dtype].pages.madvise(mmap.MADV_HUGEPAGE, start, stop - start)

    def __repr__(self) -> str:
        return "Arena()" if self.capacity is None else f"Arena(capacity={self.capacity})"


def range_sizes(wanted: int, least: int) -> Iterator[int]:
    """How many bytes of addresses to ask for, one after the other until they are given.

    Where the first is refused, addresses are scarce: the largest range that could be had would
    leave none for anything else in the process, so it goes on with what will do for now.
    """
    size = max(ROOMY, 4 * wanted)
    modest = max(MODEST, 4 * wanted)
    while size >= least:
        yield size
        size = min(size // 2, modest)


def anonymous(dtype: np.dtype, sizes: Iterable[int]) -> mmap.mmap:
    """A range of addresses, of the first size that can be had, that takes no memory yet."""
    # Private, so that a fork has its own values, as on the heap.
    options: dict[str, int] = {}
    if sys.platform != "win32":
        options["flags"] = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if sys.platform == "linux":
        options["flags"] |= getattr(mmap, "MAP_NORESERVE", 0x4000)  # in Python's mmap since 3.13
    for nbytes in sizes:
        try:
            return mmap.mmap(-1, nbytes, **options)
        except (OSError, OverflowError) as error:
            refused = StorageFullError.refused(dtype, nbytes, error)
    raise refused


class MemoryMapped(SlabStorage):
    """All variables of a dtype in one sparse file, mapped into memory: more than memory holds.

    Files are called `0.bin`, `1.bin`, ... in the order in which dtypes are first needed, and hold
    the elements in the order in which the variables were created.  A file grows by 64 MiB at a
    time; a block of it takes room on the disk when a variable that lies there gets its values.
    Files stay when the graph goes.  Windows cannot map a file that grows: it has no such storage.

    Parameters
    ----------
    directory : path
        Made when the graph is; one that exists must be empty.

    >>> import tempfile, varscope as vs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     g = vs.Graph(seed=1, storage=vs.MemoryMapped(folder))
    ...     with g.as_default():
    ...         v = vs.get_variable("v", [3], initializer=vs.ones)
    ...     v.value().tolist(), [path.name for path in g.storage.directory.iterdir()]
    ([1.0, 1.0, 1.0], ['0.bin'])
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        super().__init__()
        if not isinstance(directory, (str, os.PathLike)) or isinstance(os.fspath(directory), bytes):
            raise ArgumentTypeError.of("directory", "a path", directory)
        from pathlib import Path  # most programs have no files, and pathlib takes a while

        self.directory = Path(directory).absolute()
        if sys.platform == "win32":
            raise StorageError.needs_posix(self)
        # Two threads that look how long a file is and then set it might make it shorter.
        self._growing = threading.Lock()

    def __reduce__(self) -> Any:
        raise ArgumentTypeError(
            f"{self!r} cannot be copied or pickled: its files belong to one graph; copy the graph, "
            "whose copy has its values in memory"
        )

    def take(self) -> None:
        if not self._taken:
            self.directory.mkdir(parents=True, exist_ok=True)
            if any(self.directory.iterdir()):
                raise StorageError.not_empty(self.directory)
        super().take()

    def _reserved(self, dtype: np.dtype, wanted: int) -> Range:
        path, file = self._new_file()
        try:
            pages = self._mapped(dtype, wanted, file)
        except BaseException:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        weakref.finalize(self, os.close, file)
        return Range(pages, file)

    def _mapped(self, dtype: np.dtype, wanted: int, file: int) -> mmap.mmap:
        for nbytes in range_sizes(wanted, SEGMENT):
            try:
                # Python maps what a file has; addresses beyond its end may be mapped as well,
                # and can be used as soon as it has grown.
                os.ftruncate(file, nbytes)
                pages = mmap.mmap(file, nbytes)
                os.ftruncate(file, 0)
                return pages
            except (OSError, OverflowError) as error:
                refused = StorageFullError.refused(dtype, nbytes, error)
        raise refused

    def _new_file(self) -> tuple[Path, int]:
        number = len(self._ranges)
        while True:
            path = self.directory / f"{number}.bin"
            try:
                return path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                number += 1  # of another thread, or of somebody else

    def back(self, dtype: np.dtype, nbytes: int) -> int:
        with self._growing:
            return self._backed(dtype, nbytes)

    def _backed(self, dtype: np.dtype, nbytes: int) -> int:
        reserved = self._ranges[dtype]
        capacity = reserved.bytes.size
        if nbytes > capacity:
            raise StorageFullError.file(self.directory, dtype, nbytes, capacity)
        size = min(-(-nbytes // SEGMENT) * SEGMENT, capacity)
        if os.fstat(reserved.file).st_size < size:
            os.ftruncate(reserved.file, size)
        return size

    def preparation(self) -> Any:
        return self.prepare

    def prepare(self, dtype: np.dtype, start: int, stop: int) -> None:
        """Get room on the disk: what is full says so here, not with a signal while writing."""
        if not hasattr(os, "posix_fallocate"):
            return
        with self._growing:
            self._make_room(dtype, start, stop)

    def _make_room(self, dtype: np.dtype, start: int, stop: int) -> None:
        roomy, file = self._ranges[dtype].roomy, self._ranges[dtype].file
        first, last = start // GRANULE, -(-stop // GRANULE)
        if len(roomy) < last:
            roomy.extend(bytes(last - len(roomy)))
        while (first := roomy.find(0, first, last)) >= 0:
            end = roomy.find(1, first, last)
            end = last if end < 0 else end
            try:
                os.posix_fallocate(file, first * GRANULE, (end - first) * GRANULE)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
            roomy[first:end] = b"\1" * (end - first)

    def __repr__(self) -> str:
        return f"MemoryMapped({str(self.directory)!r})"


def is_run(part: Part) -> bool:
    """Whether a part's elements follow each other without a gap in the whole variable."""
    return all(
        dim == 1 or stride == packed
        for dim, stride, packed in zip(
            part.shape, part.strides, shapes.c_strides(part.shape), strict=True
        )
    )


def as_bytes(array: np.ndarray) -> np.ndarray:
    """The bytes of a contiguous array, also of one whose dtype the buffer protocol lacks."""
    return array.reshape(-1).view(np.uint8)


def as_capacity(capacity: Any) -> int:
    """A capacity as a positive int."""
    nbytes = shapes.as_int("capacity", capacity, "an int of bytes")
    if not 1 <= nbytes < 2**62:
        raise StorageError(f"capacity is {nbytes}; write the bytes of each dtype, at least 1")
    return nbytes


def as_storage(storage: Any) -> Storage:
    """What `Graph(storage=...)` was given, as the storage of a graph."""
    if storage is None or (isinstance(storage, str) and storage == "heap"):
        storage = Heap()
    elif isinstance(storage, str) and storage == "arena":
        storage = Arena()
    if not isinstance(storage, (Heap, SlabStorage, RemoteStorage)):
        raise ArgumentTypeError(
            f"storage must be None, 'heap', 'arena', or one of varscope.Heap(), varscope.Arena(), "
            f"varscope.MemoryMapped(directory) and varscope.interop.dask.Cluster(client), not "
            f"{storage!r:.200}; write one of these"
        )
    storage.take()
    return storage
