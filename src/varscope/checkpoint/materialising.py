"""`materialise` and `finish`: many workers fill the files of a plan, and one makes them count.

The files lie in a *site*, a hidden folder in the one that becomes the checkpoint, until `finish`
renames them; so readers see nothing of them, or what was there before.  All writing is of bytes
that the plan settles, to places that it settles.  So whoever does a piece twice, or while another
one does it, changes nothing.

    .model.safetensors.0a1b2c3d.plan/
        model-0a1b2c3d-00001-of-00002.safetensors   as long as it will be, its header not yet there
        00001.0.4194304.json                        a record: these bytes of file 1 are on the disk
        lock                                        of those who finish

The worker who finds that all of a file is recorded writes its header, and `finish` does so where
none did.  Until then a file begins with a *mark*: eight bytes that no safetensors file begins with,
and sixteen by which it can be told from any other.  A record holds that mark: it says nothing of a
file that was lost, and made again under the same name.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from varscope import initializers, randomness
from varscope._scopecore import FileLock, crc32c, crc32c_each, crc32c_joined, fill_named
from varscope.checkpoint import replacement
from varscope.checkpoint.plans import Layout, Plan, PlannedFile, PlannedKind
from varscope.checkpoint.replacement import Workplace, empty, put_series, sync_folder
from varscope.checkpoint.safetensors_files import INDEX, SINGLE
from varscope.checkpoint.saving import (
    OURS,
    check_place,
    listed,
    told_of,
    write_index,
)
from varscope.checkpoint.written_headers import is_intact
from varscope.errors import ArgumentTypeError, CheckpointError, PlanError
from varscope.progress import Helpers, Progress, SharedWork, as_report, as_threads
from varscope.shapes import Part

BLOCK = 1 << 22  # bytes that a thread fills before it writes them
MARK, MARKED = b"\xff" * 8, 24  # how a file begins that has no header; bytes of the whole mark
AGAIN = "remove it, and run its workers again"
READ_WRITE = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


class Filled(NamedTuple):
    """A piece that is on the disk: its place, as in `Piece`, and a digest of its bytes.

    `crc32c` is None where the checkpoint was finished already: then its files have the checksums.
    `found` says whether another call, or another process, had filled it.
    """

    file: str
    begin: int
    end: int
    crc32c: int | None
    found: bool


def materialise(
    plan: Plan,
    worker: int | None = None,
    *,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> list[Filled]:
    """Fill what a plan gives to one worker, or all of it, and see to it that it is on the disk.

    What is there already is left alone: after an exception or a kill, another call does what is
    left.  Any number of calls may run at once, also of the same worker.  There is no checkpoint
    before `varscope.finish`.

    Parameters
    ----------
    plan : Plan
    worker : int, optional
        From 0 on.  Left out: one after the other, all of them.
    threads : int, optional
        How many pieces are filled at a time; as many as the process may use processors where it is
        left out.  Each takes 4 MiB, and what the names of a file take.
    progress : callable, or bool, optional
        `progress(done_bytes, total_bytes)` is called in the calling thread, again and again until
        both are equal.  Left out, there is a bar where rich is installed and stderr is a terminal;
        False: none.

    Returns
    -------
    list of Filled
        The pieces of the worker with the CRC-32C of each.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError : TypeError, ValueError
    PlanError : ValueError
        The plan is damaged, or another worker's.
    InitializerError : ValueError
        An initializer has no values of that dtype or shape.
    OSError
        What the system said.  What was filled by then counts.

    >>> import varscope as vs
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default():
    ...     v = vs.get_variable("v", [1000, 100])
    >>> plan = vs.plan(g, "model", workers=2)
    >>> for k in range(plan.workers):  # each on another machine, say
    ...     filled = vs.materialise(plan, k)
    >>> vs.finish(plan)
    >>> bool((vs.open("model")["v"].value() == v).all())
    True
    """
    if not isinstance(plan, Plan):
        raise ArgumentTypeError.of("plan", "a varscope.Plan", plan)
    layout = plan._layout
    chosen = range(plan.workers) if worker is None else [layout.checked_worker(worker)]
    workers = as_threads(threads)
    check_place(plan.path)
    with as_report(progress, "materialise") as report, told_of(plan.path):
        site = Site(layout)
        pieces = [piece for each in chosen for piece in layout.share(each)]
        return Run(site, pieces, workers, report).run()


def finish(plan: Plan, *, verify: bool = False) -> None:
    """Check that all pieces of a plan are there, and make them the checkpoint.

    The files take their places, and the index that lists them is renamed last of all: in that
    moment the new checkpoint counts.  What other one was there is removed then, and so is what
    the workers have left.  Another call after a kill does what is left.

    Parameters
    ----------
    plan : Plan
        All of it, and not what `Plan.for_worker` gives.
    verify : bool
        Read all bytes again and compare them with the checksums that the workers have taken, before
        anything counts.  It takes as long as reading does; `Checkpoint.verify` can do so later.

    Raises
    ------
    ArgumentTypeError : TypeError
    PlanError : ValueError
        Pieces are missing, or are not what was filled: `workers` are those who have to be run
        again.  What was there before is as it was.
    CheckpointError : ValueError
        A file is not what the plan has made.
    OSError
        What the system said.

    >>> import varscope as vs
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default():
    ...     v = vs.get_variable("v", [3], initializer=vs.ones)
    >>> plan = vs.plan(g, "model", workers=1)
    >>> _ = vs.materialise(plan)
    >>> vs.finish(plan)
    >>> vs.open("model")["v"].numpy()
    array([1., 1., 1.], dtype=float32)
    """
    if not isinstance(plan, Plan):
        raise ArgumentTypeError.of("plan", "a varscope.Plan", plan)
    check_place(plan.path)
    with told_of(plan.path):
        site = Site(plan._layout)
        if not site.path.exists():
            missing = site.missing()
            if missing:
                raise site.unfinished(missing)
            if (plan.path / INDEX).exists():
                return
        with site.alone():
            site.finish(verify)


# --- where the files lie


class Record(NamedTuple):
    """What is noted of a piece: its file, its CRC-32C, and those of the parts of tensors in it."""

    mark: bytes
    crc32c: int
    parts: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, mark: bytes, parts: npt.NDArray[np.uint32], lengths: list[int]) -> Self:
        """The record of parts that have so many bytes each."""
        checksum = 0
        for each, length in zip(parts.tolist(), lengths, strict=True):
            checksum = crc32c_joined(checksum, each, length)
        return cls(mark, checksum, parts)

    def put(self, path: Path) -> None:
        """Write it to a file of its own."""
        parts = self.parts.astype(">u4").tobytes()
        facts = {
            "crc32c": self.crc32c,
            "parts": parts.hex(),
            "mark": self.mark.hex(),
            "check": crc32c(self.mark + parts),
        }
        new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
        with open(new, "w", encoding="ascii") as file:
            json.dump(facts, file)
            sync(file)
        os.replace(new, path)


class Site:
    """The folder in which workers write the files of a plan, until they count."""

    def __init__(self, layout: Layout, place: Workplace | None = None) -> None:
        """`place` is one that goes with whoever holds it, and with all that others wrote there."""
        self.layout, self.folder = layout, layout.path
        own = layout.path / f".{SINGLE}.{layout.token}.plan"
        self.path = own if place is None else place.path
        # Of files that `finish` writes: see `alone`.
        self.mode = 0o666 if place is None else place.mode

    def claim(self) -> None:
        """Make the folder, which nobody makes again: it is gone when somebody has finished."""
        self.folder.mkdir(exist_ok=True)
        self.path.mkdir(exist_ok=True)

    # --- files
    def is_complete(self, number: int) -> bool:
        """Whether a file has its header: then it lies in the site, or in its place already."""
        return any(
            start_of(folder / self.layout.files[number])[:8] == self.length(number)
            for folder in (self.folder, self.path)
        )

    def length(self, number: int) -> bytes:
        """How a file begins that has its header: with the length of that."""
        return int(self.layout.columns["header"][number]).to_bytes(8, "little")

    def open(self, number: int) -> int:
        """A descriptor of a file without a header, which is made where there is none."""
        path = self.path / self.layout.files[number]
        while True:
            try:
                opened = os.open(path, READ_WRITE)
            except FileNotFoundError:
                self.make(path, self.layout.size_of(number))
                continue
            size = os.fstat(opened).st_size
            if size == self.layout.size_of(number):
                return opened
            os.close(opened)
            raise CheckpointError.of(
                path,
                None,
                f"it has {size:,} bytes, not {self.layout.size_of(number):,}",
                AGAIN,
            )

    def make(self, path: Path, size: int) -> None:
        """Make a file with its mark, unless another process was quicker."""
        new = self.path / f"{path.name}.{secrets.token_hex(4)}.new"
        opened = os.open(new, READ_WRITE | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.ftruncate(opened, size)
            write_at(opened, memoryview(MARK + secrets.token_bytes(MARKED - len(MARK))), 0)
        finally:
            os.close(opened)
        try:
            os.link(new, path)  # which takes nobody's place, as a renaming would
        except FileExistsError:
            pass
        except OSError:
            os.rename(new, path)  # no links here: two that come at once do some pieces twice
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)

    # --- records
    def record_path(self, number: int, begin: int, end: int) -> Path:
        return self.path / f"{number + 1:05}.{begin}.{end}.json"

    def mark(self, number: int) -> bytes | None:
        """How a file begins that has no header yet; None where it has one."""
        if self.is_complete(number):
            return None
        return start_of(self.path / self.layout.files[number])

    def record(self, number: int, begin: int, end: int, mark: bytes | None) -> Record | None:
        """The record of a piece; None where it is not there, or is one of another file."""
        try:
            facts = json.loads(self.record_path(number, begin, end).read_bytes())
            noted, parts = bytes.fromhex(facts["mark"]), bytes.fromhex(facts["parts"])
            found = Record(noted, facts["crc32c"], np.frombuffer(parts, ">u4").astype(np.uint32))
            good = facts["check"] == crc32c(noted + parts)
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return None
        return found if good and mark in (None, noted) else None

    def note(self, number: int, begin: int, end: int, record: Record) -> None:
        """Record that a piece is on the disk."""
        record.put(self.record_path(number, begin, end))

    # --- the last step
    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for others who finish; the site is gone behind the block."""
        lock: FileLock | None = None
        while lock is None:
            self.claim()
            with contextlib.suppress(FileNotFoundError):  # the one before has just removed it
                lock = replacement.locked(self.path, wait=True)
        try:
            self.mode = os.fstat(lock.descriptor).st_mode & 0o777
            yield
            empty(self.path)
        finally:
            lock.close()

    def finish(self, verify: bool = False, resumes: bool = True) -> None:
        """Write the headers and the index, and put all in place.

        Where another call can go on with it, what fails leaves the files where they are.
        """
        layout, missing = self.layout, []
        for number in range(len(layout.files)):
            if verify:
                self.reopen(number)
            if not self.is_complete(number):
                missing += self.complete(layout.file(number), verify)
        if missing:
            raise self.unfinished(missing)
        there = [name for name in layout.files if (self.folder / name).exists()]
        for number, name in enumerate(layout.files):
            self.check(number, (self.folder if name in there else self.path) / name)
        lists = ((name, layout.file(i).names) for i, name in enumerate(layout.files))
        write_index(lists, sum(layout.columns["nbytes"]), self, self.folder)
        sync_folder(self.path)
        resumed = there if resumes else None
        put_series(
            self, layout.files, INDEX, listed, lambda name: bool(OURS.fullmatch(name)), resumed
        )
        sync_folder(self.folder.parent)

    def missing(self) -> list[tuple[int, int]]:
        """All pieces of files that are not complete."""
        pieces = self.layout.columns["pieces"]
        return [
            (number, place)
            for number in range(len(pieces))
            if not self.is_complete(number)
            for place in range(pieces[number])
        ]

    def complete_if_filled(self, file: PlannedFile) -> None:
        """Write the header of a file, if all of it is there: one of its workers is the last one.

        Others may do so at the same time, and then write the same.
        """
        with contextlib.suppress(FileNotFoundError):  # it was just put in its place
            if not self.is_complete(file.number):
                self.complete(file, verify=False)

    def unfinished(self, missing: list[tuple[int, int]]) -> PlanError:
        """What to say where pieces of files are not there."""
        workers = sorted({self.layout.worker_of(number, place) for number, place in missing})
        pieces = self.layout.first_pieces[-1]
        return PlanError.unfinished(self.folder, len(missing), pieces, workers)

    def complete(self, file: PlannedFile, verify: bool) -> list[tuple[int, int]]:
        """Write the header of a file all of which is there; else the pieces that are not."""
        number = file.number
        edges = [0, *file.cuts, file.nbytes]
        sums, missing, mark = np.zeros(len(file.names), np.uint32), [], self.mark(number)
        for place, (begin, end) in enumerate(itertools.pairwise(edges)):
            part, found = file.overlapping(begin, end), self.record(number, begin, end, mark)
            if found is not None and verify and self.differs(number, begin, end, found.crc32c):
                self.record_path(number, begin, end).unlink()
                found = None
            if found is None or len(found.parts) != part.stop - part.start:
                missing.append((number, place))
            else:
                lengths = lengths_in(file, part, begin, end)
                for i, tensor in enumerate(range(part.start, part.stop)):
                    sums[tensor] = crc32c_joined(int(sums[tensor]), int(found.parts[i]), lengths[i])
        if not missing:
            text = self.length(number) + file.entries.header(sums.tobytes())
            if len(text) != 8 + self.layout.columns["header"][number]:
                raise self.layout.damaged(f"the header of file {number + 1} has another length")
            with open(self.path / self.layout.files[number], "r+b") as opened:
                # The mark goes last, in one write of a few bytes: whoever is killed before that can
                # begin again.
                opened.seek(MARKED)
                opened.write(text[MARKED:])
                sync(opened)
                opened.seek(0)
                opened.write(text[:MARKED])
                sync(opened)
        return missing

    def reopen(self, number: int) -> None:
        """Take back the header of a file that was not put in its place, to look at it again."""
        path = self.path / self.layout.files[number]
        begin, end, *_ = self.layout.edges(number)
        record = self.record(number, begin, end, None)
        if record is not None and start_of(path)[:8] == self.length(number):
            with open(path, "r+b") as opened:
                opened.write(record.mark)

    def differs(self, number: int, begin: int, end: int, checksum: int) -> bool:
        """Whether the bytes of a piece are others than those with this checksum."""
        start = self.layout.size_of(number) - self.layout.columns["nbytes"][number]
        found, buffer = 0, memoryview(bytearray(BLOCK))
        with open(self.path / self.layout.files[number], "rb") as opened:
            opened.seek(start + begin)
            while begin < end:
                got = opened.readinto(buffer[: min(end - begin, BLOCK)])
                if not got:
                    return True  # the file ends before
                found, begin = crc32c(buffer[:got], found), begin + got
        return found != checksum

    def check(self, number: int, path: Path) -> None:
        """Compare a file's size and header with what was planned and recorded."""
        size, wanted = path.stat().st_size, self.layout.size_of(number)
        if size != wanted:
            raise CheckpointError.of(path, None, f"it has {size:,} bytes, not {wanted:,}", AGAIN)
        with open(path, "rb") as opened:
            opened.seek(8)
            header = opened.read(self.layout.columns["header"][number])
        if not is_intact(header):
            raise CheckpointError.of(
                path, None, "its header is not the one that was written", AGAIN
            )


def start_of(path: Path) -> bytes:
    """The first bytes of a file; none where there is no file."""
    try:
        with open(path, "rb") as opened:
            return opened.read(MARKED)
    except FileNotFoundError:
        return b""


def sync(file: Any) -> None:
    """See to it that what was written to a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def write_at(descriptor: int, data: memoryview, place: int) -> None:
    """Write all of some bytes to a place of a file."""
    while data:
        if hasattr(os, "pwrite"):
            written = os.pwrite(descriptor, data, place)
        else:  # Windows: no other thread has this descriptor
            os.lseek(descriptor, place, os.SEEK_SET)
            written = os.write(descriptor, data)
        data, place = data[written:], place + written


def lengths_in(file: PlannedFile, part: slice, begin: int, end: int) -> list[int]:
    """How many bytes each of some tensors has from `begin` to before `end`."""
    first = np.maximum(file.begins[part], begin)
    found: list[int] = (np.minimum(file.ends[part], end) - first).tolist()
    return found


# --- filling


class Source:
    """What makes the bytes of tensors of one kind."""

    def __init__(self, seed: int, kind: PlannedKind) -> None:
        self.seed, self.kind, self.dtype = seed, kind, kind.dtype
        self.size = kind.nbytes // max(kind.dtype.itemsize, 1)  # elements
        self.distribution = kind.initializer.drawn_from(kind.shape, kind.dtype)
        own = getattr(kind.initializer, "seed", None)
        self.own_seed = own if isinstance(own, int) else None
        self.prefix = randomness.path_message(seed, "", self.own_seed)[:-8]
        self.law = None
        if self.distribution is not None and kind.text is None:
            self.law = randomness.law(self.distribution, kind.dtype)
        self.whole: tuple[str, np.ndarray] | None = None

    def key(self, path: str) -> int:
        return randomness.path_key(self.seed, path, self.own_seed)

    def fill(self, out: npt.NDArray[np.uint8], path: str, begin: int) -> None:
        """Fill bytes of one tensor, those from `begin` on."""
        size = self.dtype.itemsize
        first, last = begin // size, -(-(begin + len(out)) // size)
        if begin % size or len(out) % size or out.ctypes.data % min(size, 16):
            values = self.elements(path, first, last)
            skipped = begin - first * size
            out[:] = values.view(np.uint8)[skipped : skipped + len(out)]
        elif self.distribution is not None:
            self.draw(out.view(self.dtype), path, first)
        else:
            out[:] = self.elements(path, first, last).view(np.uint8)

    def elements(self, path: str, first: int, last: int) -> np.ndarray:
        """Elements number `first` to before `last` of a tensor, contiguous."""
        if self.distribution is not None:
            values = np.empty(last - first, self.dtype)
            self.draw(values, path, first)
            return values
        initializer = self.kind.initializer
        if isinstance(initializer, initializers.identity):
            return initializer.run(self.kind.shape, self.dtype, first, last)
        kept = self.whole  # of the tensor whose last block this thread made, mostly
        if kept is None or kept[0] != path:
            part = Part.of_whole(self.kind.shape)
            values = initializer.part(part, self.dtype, self.key(path))
            kept = self.whole = path, np.ascontiguousarray(values).reshape(-1)
        if last == self.size:
            self.whole = None
        return kept[1][first:last]

    def draw(self, out: np.ndarray, path: str, first: int) -> None:
        assert self.distribution is not None
        randomness.fill(out, self.distribution, self.key(path), first, (1,))


class Filler:
    """What a thread fills files with, a block at a time."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.buffer = np.empty(BLOCK, np.uint8)
        self.sources: dict[int, Source] = {}

    def source(self, number: int) -> Source:
        found = self.sources.get(number)
        if found is None:
            layout = self.run.site.layout
            found = self.sources[number] = Source(layout.seed, layout.kinds[number])
        return found

    def piece(
        self, file: PlannedFile, descriptor: int, begin: int, end: int, slot: int
    ) -> Record | None:
        """Fill and write a piece; None where the run is stopped."""
        mark, whole = read_mark(descriptor), file.overlapping(begin, end)
        sums = np.zeros(whole.stop - whole.start, np.uint32)
        start = self.run.site.layout.size_of(file.number) - file.nbytes
        for at in range(begin, end, BLOCK):
            if self.run.stopped:
                return None
            stop = min(at + BLOCK, end)
            block = self.buffer[: stop - at]
            part = file.overlapping(at, stop)
            firsts = np.maximum(file.begins[part], at) - at
            lengths = np.minimum(file.ends[part], stop) - at - firsts
            self.block(file, block, part, firsts, lengths, at)
            data: Any = block  # whose buffer it is
            found = np.frombuffer(crc32c_each(data, firsts, lengths), np.uint32)
            inside = slice(part.start - whole.start, part.stop - whole.start)
            # The first one may have begun in the block before.
            first = crc32c_joined(int(sums[inside.start]), int(found[0]), int(lengths[0]))
            sums[inside] = found
            sums[inside.start] = first
            write_at(descriptor, memoryview(data), start + at)
            self.run.tick(slot, stop - at)
        return Record.of(mark, sums, lengths_in(file, whole, begin, end))

    def block(
        self,
        file: PlannedFile,
        block: npt.NDArray[np.uint8],
        part: slice,
        firsts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        at: int,
    ) -> None:
        """Make the bytes of a block that begins at `at`: tensors, or parts of them, in a row."""
        kinds = file.kinds[part]
        entire = lengths == file.ends[part] - file.begins[part]
        for number in np.unique(kinds).tolist():
            source, places = self.source(number), np.flatnonzero(kinds == number)
            many = places[entire[places]] if source.law is not None else places[:0]
            if source.law is not None and len(many):
                paths = [file.path(part.start + i) for i in many.tolist()]
                fill_named(block, firsts[many], source.law, source.size, source.prefix, paths)
            for i in np.setdiff1d(places, many, assume_unique=True).tolist():
                out = block[firsts[i] : firsts[i] + lengths[i]]
                if len(out):
                    begin = at + int(firsts[i]) - int(file.begins[part.start + i])
                    source.fill(out, file.path(part.start + i), begin)


class Run(SharedWork):
    """One call of `materialise`: pieces in a row, of which every thread takes the next one."""

    def __init__(
        self, site: Site, pieces: list[tuple[int, int, int]], threads: int, report: Progress | None
    ) -> None:
        self.site, self.pieces = site, pieces
        self.filled: dict[int, Filled] = {}
        self.waiting: deque[int] = deque()
        self.errors: list[BaseException] = []
        self.stopped = False
        self.files: dict[int, PlannedFile] = {}
        self.left: dict[int, set[int]] = {}  # the pieces of each file that are not filled
        self.look()
        if self.waiting:
            site.claim()
        total = sum(self.pieces[i][2] - self.pieces[i][1] for i in self.waiting)
        super().__init__(max(1, min(threads, len(self.waiting))), total, report)
        self.at_work = [-1] * self.threads  # the file that each thread is in

    def look(self) -> None:
        """Find out which pieces are there already."""
        marks: dict[int, bytes | None] = {}
        for i, (number, begin, end) in enumerate(self.pieces):
            if number not in marks:
                marks[number] = self.site.mark(number)
            record = self.site.record(number, begin, end, marks[number])
            if marks[number] is not None:
                self.left.setdefault(number, set())
                if record is None:
                    self.left[number].add(i)
                    self.waiting.append(i)
                    continue
            checksum = None if record is None else record.crc32c
            self.filled[i] = Filled(self.site.layout.files[number], begin, end, checksum, True)

    def file(self, number: int) -> PlannedFile:
        """What a file holds, read once while a thread is in it."""
        found = self.files.get(number)
        if found is None:
            found = self.files[number] = self.site.layout.file(number)
        return found

    def run(self) -> list[Filled]:
        helpers = Helpers()
        try:
            for slot in range(1, self.threads):
                helpers.start(self.help_out, slot)
            self.work(0)
            while helpers.busy:
                self.tick()
                time.sleep(0.0005)
            if not self.errors:
                self.work(0)  # what a thread that never began would have done
        finally:
            self.stopped = True
            helpers.close()
        if self.errors:
            raise self.errors[0]
        for number in [number for number, left in self.left.items() if not left]:
            self.complete(number)  # where nothing was left to fill
        self.tell(self.total)
        return [self.filled[i] for i in range(len(self.pieces))]

    def complete(self, number: int) -> None:
        """Complete a file all of whose pieces this call has filled, or found."""
        if self.left.pop(number, None) is not None:
            self.site.complete_if_filled(self.file(number))

    def help_out(self, slot: int) -> None:
        """What a thread of the run's own does."""
        try:
            self.work(slot)
        except BaseException as error:
            self.errors.append(error)
            self.stopped = True

    def work(self, slot: int) -> None:
        """Fill one piece after the other."""
        filler = None
        while not self.stopped:
            try:
                i = self.waiting.popleft()
            except IndexError:
                break
            filler = Filler(self) if filler is None else filler
            self.one(filler, i, slot)
        self.at_work[slot] = -1

    def one(self, filler: Filler, i: int, slot: int) -> None:
        number, begin, end = self.pieces[i]
        self.at_work[slot] = number
        name = self.site.layout.files[number]
        file = self.file(number)
        for other in set(self.files) - {number, *self.at_work}:
            self.files.pop(other, None)
        try:
            descriptor = self.site.open(number)
            try:
                record = filler.piece(file, descriptor, begin, end, slot)
                if record is None:
                    return
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self.site.note(number, begin, end, record)
            left = self.left.get(number, set())
            left.discard(i)
            if not left:
                self.complete(number)
        except FileNotFoundError:
            # Somebody has finished meanwhile: then all was there, and is in its place.
            if not self.site.is_complete(number):
                raise
            self.filled[i] = Filled(name, begin, end, None, True)
            return
        self.filled[i] = Filled(name, begin, end, record.crc32c, False)


def read_mark(descriptor: int) -> bytes:
    """How a file begins that has no header yet."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, MARKED, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, MARKED)
