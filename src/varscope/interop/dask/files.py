"""`materialise` and `save`: a cluster writes the files of a checkpoint, piece by piece.

The files lie where those of a plan lie, and are finished as those are: see
`varscope.checkpoint.materialising`.  A task writes one piece and records it.  Who writes a piece
again, or while another one does it, writes the same bytes; so a worker that dies loses nothing.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import os
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from varscope import shapes
from varscope._scopecore import crc32c
from varscope.checkpoint import materialising
from varscope.checkpoint.entries import (
    Entries,
    Kind,
    Listing,
    Made,
    check_names,
    collected,
)
from varscope.checkpoint.materialising import READ_WRITE, Record, Site, read_mark, write_at
from varscope.checkpoint.planning import STORED, Draft, page_after, piece_size, plan
from varscope.checkpoint.plans import Layout, Plan, PlannedFile, PlannedKind, digest_of
from varscope.checkpoint.replacement import Workplace, put_file, workplace
from varscope.checkpoint.safetensors_files import SINGLE
from varscope.checkpoint.saving import SUFFIX, as_size, as_target, check_place, told_of
from varscope.errors import ArgumentTypeError, CheckpointError, StorageError
from varscope.graph import Graph
from varscope.interop.dask.clients import as_client, completed, library, mapped, new_keys
from varscope.interop.dask.sources import FirstValues
from varscope.partitioned import PartitionedVariable
from varscope.progress import Progress, as_report
from varscope.shapes import Part
from varscope.variables import Variable

SHARES = 4  # of a plan, for each thread of the cluster: who is done early takes another one
MOST = 1 << 26  # bytes of a piece: what a worker makes at once
BLOCK = 1 << 22  # bytes that are written at once
TRIES = 3  # of sending values that this process has, where workers die that hold them


def materialise(
    graph: Graph,
    client: Any,
    path: str | os.PathLike[str],
    *,
    max_shard_size: int | str = "5GB",
    progress: Progress | bool | None = None,
) -> None:
    """Have a cluster write a checkpoint of first values: `varscope.plan` with dask as the workers.

    All workers see the folder, as this process does.  The files are those that `varscope.save`
    would write.  A worker that dies is replaced: what it had written counts.  After an exception,
    or where this process died, the same call does what is left.

    Parameters
    ----------
    graph : Graph
        As for `varscope.plan`: its variables are only declared, their initializers built-in ones.
    client : dask.distributed.Client
    path : path
        The folder that becomes the checkpoint.
    max_shard_size : int or str
        How many bytes a file may have, as in `varscope.save`.
    progress : callable, or bool, optional
        `progress(done_bytes, total_bytes)` is called in the calling thread, again and again until
        both are equal.  Left out, there is a bar where rich is installed and stderr is a terminal;
        False: none.  dask's dashboard shows the tasks as "materialise".

    Raises
    ------
    ArgumentTypeError, ArgumentValueError, PlanError, CheckpointError, OSError, ImportError
        As `varscope.plan`, `varscope.materialise` and `varscope.finish` do.
    Exception
        What has gone wrong on the cluster: a task that ended several workers, say.

    >>> import varscope as vs
    >>> from varscope.interop.dask import materialise
    >>> from distributed import Client
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default():
    ...     v = vs.get_variable("v", [1000, 100])
    >>> with Client(processes=False, dashboard_address=":0") as client:
    ...     materialise(g, client, "model")
    >>> bool((vs.open("model")["v"].value() == v).all())
    True
    """
    client = as_client(client)
    shares = SHARES * max(1, sum(client.nthreads().values()))
    planned = plan(graph, path, workers=shares, max_shard_size=max_shard_size)
    check_place(planned.path)
    with as_report(progress, "materialise") as report, told_of(planned.path):
        layout = planned._layout
        sizes = [sum(end - begin for _, begin, end in layout.share(k)) for k in range(shares)]
        chosen = [k for k in range(shares) if next(layout.share(k), None) is not None]
        site = Site(layout)
        site.claim()
        # Workers read the plan there, each the lines of its own files.  It goes with the site.
        where = site.path / f"{shares}.{digest_of(layout.head(site.path))}.plan"
        planned.save(where)
        keys = new_keys("materialise", len(chosen))
        futures = mapped(client, keys, fill_share, [os.fspath(where)] * len(chosen), chosen)
        done = 0
        for number, _ in completed(futures):  # nothing was sent that could be lost
            futures[number].release()  # or it would be done again where a worker dies
            done += sizes[chosen[number]]
            if report is not None and done < planned.nbytes:
                report(done, planned.nbytes)
        materialising.finish(planned)
        if report is not None:
            report(planned.nbytes, planned.nbytes)


@functools.lru_cache(maxsize=2)
def loaded(where: str) -> Plan:
    """A plan that others of these tasks on a worker need too."""
    return Plan.load(where)


def fill_share(where: str, k: int) -> None:
    """On a worker: fill one share of a plan."""
    materialising.materialise(loaded(where), k, threads=1, progress=False)


def save(
    what: Graph | Mapping[str, Any],
    client: Any,
    path: str | os.PathLike[str],
    *,
    max_shard_size: int | str = "5GB",
    progress: Progress | bool | None = None,
) -> None:
    """Have a cluster write a checkpoint, of a graph or of dask arrays: files as of `varscope.save`.

    All workers see the folder, as this process does.  Each writes pieces of what it holds, or of
    what is computed on it.  Of a graph's variables those that are only declared stay so: their
    first values are made by whoever writes them.  What this process has is sent, once.  Readers
    see what was there before until all is written, as with `varscope.save`; a worker that dies is
    replaced.

    Parameters
    ----------
    what : Graph, or mapping from name to dask.array.Array
        Of a graph all variables but local ones take part.
    client : dask.distributed.Client
    path : path
        One file, where it ends in `.safetensors`; else a folder.
    max_shard_size : int or str
        How many bytes a file of a folder may have, as in `varscope.save`.
    progress : callable, or bool, optional
        As for `materialise`.  The dashboard shows the tasks as "write".

    Raises
    ------
    ArgumentTypeError, ArgumentValueError : TypeError, ValueError
    CheckpointError : ValueError
        A name that cannot be in a file, or an array whose shape is not known.
    StorageError : ValueError
        Values were lost with a worker, which nobody has any more.
    OSError
    ImportError
        dask, distributed or safetensors is not installed here.

    >>> import dask.array, varscope as vs
    >>> from varscope.interop.dask import save
    >>> from distributed import Client
    >>> with Client(processes=False, dashboard_address=":0") as client:
    ...     save({"w": dask.array.ones((4, 3), chunks=(2, 3))}, client, "arrays.safetensors")
    >>> vs.open("arrays.safetensors")["w"]
    <StoredTensor 'w' shape=(4, 3) dtype=float64>
    """
    client = as_client(client)
    target, most = as_target(path), as_size(max_shard_size)
    check_place(target)
    if isinstance(what, Graph):
        entries = collected(what)
        check_names(entries.names, target)
        tensors = tensors_of(entries, target)
    elif isinstance(what, Mapping):
        tensors = [tensor_of(name, array, target) for name, array in what.items()]
        check_names([tensor.name for tensor in tensors], target)
    else:
        raise ArgumentTypeError.of(
            "what is saved", "a varscope.Graph or a mapping from name to dask array", what
        )
    with as_report(progress, "save") as report:
        nbytes = save_tensors(tensors, client, target, most, report)
        if report is not None:
            report(nbytes, nbytes)


# --- what is saved


class Chunk(NamedTuple):
    """A block of a tensor, and where it comes from.

    That is `FirstValues`, an array of this process, or what dask will have: a future, or a delayed
    one.
    """

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    source: Any


@dataclass(eq=False)
class Tensor:
    """A tensor in chunks, in the order of their places."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: list[Chunk]
    partitions: tuple[int, ...] | None = None  # of a variable in parts

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @cached_property
    def is_flat(self) -> bool:
        """Whether the chunks follow each other in the file: none is narrower than the tensor."""
        return all(chunk.shape[1:] == self.shape[1:] for chunk in self.chunks)

    @cached_property
    def origins(self) -> list[int]:
        """Where each chunk begins: its first element where they follow each other, or its row."""
        row = math.prod(self.shape[1:]) if self.is_flat else 1
        return [chunk.offset[0] * row if chunk.offset else 0 for chunk in self.chunks]

    def overlapping(self, first: int, last: int) -> Iterator[tuple[Chunk, int]]:
        """The chunks that have elements, or rows, from `first` to before `last`; their origins."""
        origins = self.origins
        begin = bisect.bisect_right(origins, first) - 1
        begin = bisect.bisect_left(origins, origins[begin])  # those beside it too
        for i in range(begin, bisect.bisect_left(origins, last)):
            yield self.chunks[i], origins[i]

    def steps(self, size: int) -> Iterator[int]:
        """The bytes behind which it is best cut, where a piece is to have so many."""
        row = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        chunk = self.chunks[0] if len(self.chunks) == 1 else None
        if chunk is not None and isinstance(chunk.source, FirstValues):
            if chunk.source.divisible:
                yield from range(size, self.nbytes, size)
        elif self.is_flat:
            for chunk in self.chunks[:-1]:
                yield (chunk.offset[0] + chunk.shape[0]) * row
        else:
            yield from range(-(-size // row) * row, self.nbytes, -(-size // row) * row)
        yield self.nbytes


def source_of(variable: Variable) -> Any:
    """Where the values of a variable come from, or of a shard."""
    source = FirstValues.of(variable) if not variable._filled else None
    if source is not None:
        return source
    content: Any = variable._materialised()
    return getattr(content, "future", None) or content.view


def tensors_of(entries: Entries, target: Path) -> list[Tensor]:
    """The entries of a graph."""
    found = []
    for name, row in zip(entries.names, entries.rows, strict=True):
        variable: Any = entries.variables[row] if row >= 0 else entries.others[-1 - row]
        if isinstance(variable, Made):
            raise CheckpointError.of(
                target, name, "a name map makes it of the values of variables, which a cluster "
                "does not do", "write a map that only renames",
            )  # fmt: skip
        found.append(tensor_of_variable(name, variable))
    return found


def tensor_of_variable(name: str, variable: Variable | PartitionedVariable) -> Tensor:
    """A variable in one piece, or in parts."""
    if isinstance(variable, Variable):
        source = source_of(variable)
        shape: Any = variable._known_shape()
        return Tensor(name, shape, variable.dtype, [Chunk((0,) * len(shape), shape, source)])
    chunks = []
    for shard in variable:
        part = shard._origin()[1]
        chunks.append(Chunk(part.offset, part.shape, source_of(shard)))
    shape, partitions = variable._known_shape(), tuple(variable.partitions)
    first = chunks[0].source
    if all(isinstance(chunk.source, FirstValues) for chunk in chunks):
        whole = FirstValues(first.initializer, first.dtype, first.key, Part.of_whole(shape))
        chunks = [Chunk((0,) * len(shape), shape, whole)]
    return Tensor(name, shape, variable.dtype, chunks, partitions)


def tensor_of(name: Any, array: Any, target: Path) -> Tensor:
    """A dask array."""
    if not isinstance(name, str):
        raise ArgumentTypeError.of("the name of an array", "a str", name)
    if not isinstance(array, library("dask").array.Array):
        raise ArgumentTypeError.of(f"array {name!r:.100}", "a dask.array.Array", array)
    if not shapes.is_known(tuple(None if n != n else n for n in array.shape)):
        raise CheckpointError.of(
            target, name, "the shape of this array is not known", "call its compute_chunk_sizes()"
        )
    dtype = shapes.as_dtype(array.dtype)
    starts = [list(itertools.accumulate(sizes, initial=0)) for sizes in array.chunks]
    delayed = array.to_delayed()
    chunks = [
        Chunk(
            tuple(begins[i] for begins, i in zip(starts, place, strict=True)),
            tuple(sizes[i] for sizes, i in zip(array.chunks, place, strict=True)),
            delayed[place],
        )
        for place in np.ndindex(*array.numblocks)
    ]
    return Tensor(name, tuple(map(int, array.shape)), dtype, chunks)


# --- which bytes lie where


class Laid(Draft):
    """The files of a save in the making."""

    def __init__(self, tensors: list[Tensor], most: int | None, piece: int) -> None:
        self.tensors, self.piece = tensors, piece
        numbers: dict[tuple[Any, np.dtype], int] = {}
        kinds = [numbers.setdefault((t.shape, t.dtype), len(numbers)) for t in tensors]
        table = [Kind.of(*form) for form in numbers]
        noted = np.array([tensor.partitions is not None for tensor in tensors], np.bool_)
        listing = Listing([t.name for t in tensors], table, np.array(kinds, np.intp), noted)
        super().__init__(listing)
        nothing: Any = None  # nobody draws these values
        self.kinds = [
            PlannedKind(kind.shape, kind.dtype, STORED[kind.stored_dtype], nothing)
            for kind in table
        ]
        self.kind_of = listing.kinds
        cuts = [slice(0, len(tensors))] if most is None else listing.cuts(most)
        for part in cuts:
            self.add_file(part)

    def partitions(self, places: list[int], names: list[str]) -> dict[str, Any]:
        found = (
            (name, self.tensors[at].partitions) for at, name in zip(places, names, strict=True)
        )
        return {name: list(cut) for name, cut in found if cut is not None}

    def cuts(
        self,
        start: int,
        places: list[int],
        kinds: npt.NDArray[np.intp],
        ends: npt.NDArray[np.int64],
    ) -> list[int]:
        found, last, begin = [], 0, 0
        for place, end in zip(places, ends.tolist(), strict=True):
            for step in self.tensors[place].steps(self.piece):
                at = page_after(start + begin + step) - start
                if at - last >= self.piece and at < ends[-1]:
                    found.append(at)
                    last = at
            begin = end
        return found

    def layout(self, path: Path, token: str) -> Layout:
        """As of a plan for one worker, that nobody draws values from."""
        return self.laid_out(
            path=path,
            relative=False,
            seed=0,
            token=token,
            by="bytes",
            borders=[0, sum(self.columns["pieces"])],
        )


# --- what a task is


@dataclass(frozen=True, slots=True)
class Placed:
    """Some values of a source, and where in a block they go.

    The source is number `source` of the values that a task depends on, or of those that were sent
    with it for a negative one, counted from -1 downwards; or it makes them.
    """

    index: Any
    source: int | FirstValues
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The bytes of one tensor in a piece: those of a block, but for some at its edges.

    A block is some elements in a row (`flat`), or some rows; so are what `placed` says of sources.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    flat: bool
    placed: tuple[Placed, ...]
    skipped: int
    nbytes: int

    def make(self, values: list[Any], sent: list[Any]) -> npt.NDArray[np.uint8]:
        if not self.nbytes:
            return np.empty(0, np.uint8)
        block = None
        for part in self.placed:
            found = self.taken(part, values, sent)
            if len(self.placed) == 1 and found.shape == self.shape:
                block = np.ascontiguousarray(found, self.dtype)
            else:
                block = np.empty(self.shape, self.dtype) if block is None else block
                block[part.index] = found
        assert block is not None
        data = block.reshape(-1).view(np.uint8)
        return data[self.skipped : self.skipped + self.nbytes]

    def taken(self, part: Placed, values: list[Any], sent: list[Any]) -> np.ndarray:
        source, first, last = part.source, part.first, part.last
        if isinstance(source, FirstValues):
            return source.elements(first, last) if self.flat else source.rows(first, last).make()
        found = values[source] if source >= 0 else sent[-1 - source]
        return cut(found, self.flat, first, last)


def cut(values: Any, flat: bool, first: int, last: int) -> np.ndarray:
    """Some elements of an array, or some rows."""
    found = np.asarray(values)
    return found.reshape(-1)[first:last] if flat else found[first:last]


@dataclass(frozen=True, slots=True)
class Writing:
    """What a task writes: a piece of a file, of which `record` tells when it is on the disk."""

    path: str
    record: str
    place: int  # in the file
    segments: list[Segment]

    def run(self, sent: list[Any], values: list[Any]) -> None:
        """On a worker."""
        descriptor = os.open(self.path, READ_WRITE)
        try:
            record = self.write(descriptor, sent, values)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        record.put(Path(self.record))

    def write(self, descriptor: int, sent: list[Any], values: list[Any]) -> Record:
        sums, at = np.zeros(len(self.segments), np.uint32), self.place
        mark, waiting = read_mark(descriptor), bytearray()
        for i, segment in enumerate(self.segments):
            data: Any = segment.make(values, sent)
            sums[i] = crc32c(data)
            waiting += data.data
            if len(waiting) >= BLOCK:
                write_at(descriptor, memoryview(waiting), at)
                at += len(waiting)
                waiting = bytearray()
        write_at(descriptor, memoryview(waiting), at)
        return Record.of(mark, sums, [segment.nbytes for segment in self.segments])


def write(task: bytes, sent: list[Any], values: list[Any]) -> None:
    """On a worker: write a piece."""
    writing: Writing = pickle.loads(task)
    writing.run(sent, values)


# --- which task writes what


class Task(NamedTuple):
    """A piece to write, with what it depends on and what has to be sent."""

    writing: Writing
    values: list[Any]
    sent: list[np.ndarray]
    names: list[str]
    nbytes: int


class Tasks:
    """The tasks of one save."""

    def __init__(self, tensors: list[Tensor], site: Site) -> None:
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.layout, self.site = site.layout, site

    def __iter__(self) -> Iterator[Task]:
        for number in range(len(self.layout.files)):
            file = self.layout.file(number)
            os.close(self.site.open(number))
            for begin, end in itertools.pairwise([0, *file.cuts, file.nbytes]):
                yield self.task(file, begin, end)

    def task(self, file: PlannedFile, begin: int, end: int) -> Task:
        values: list[Any] = []
        sent: list[np.ndarray] = []
        part = file.overlapping(begin, end)
        segments = []
        for i in range(part.start, part.stop):
            start = int(file.begins[i])
            first, last = max(begin, start) - start, min(end, int(file.ends[i])) - start
            segments.append(segment(self.tensors[file.names[i]], first, last, values, sent))
        site, number = self.site, file.number
        writing = Writing(
            os.fspath(site.path / self.layout.files[number]),
            os.fspath(site.record_path(number, begin, end)),
            self.layout.size_of(number) - file.nbytes + begin,
            segments,
        )
        return Task(writing, values, sent, file.names[part], end - begin)


def segment(
    tensor: Tensor, begin: int, end: int, values: list[Any], sent: list[np.ndarray]
) -> Segment:
    """Bytes `begin` to before `end` of a tensor; adds what they take to `values` and `sent`."""
    itemsize, flat = tensor.dtype.itemsize, tensor.is_flat
    if begin == end:
        return Segment((0,), tensor.dtype, True, (), 0, 0)
    unit = itemsize if flat else itemsize * math.prod(tensor.shape[1:])
    first, last = begin // unit, -(-end // unit)  # elements, or rows
    placed = []
    for chunk, origin in tensor.overlapping(first, last):
        count = math.prod(chunk.shape) if flat else chunk.shape[0]
        low, high = max(first, origin), min(last, origin + count)
        if low >= high or not math.prod(chunk.shape):
            continue
        index: Any = slice(low - first, high - first)
        if not flat:
            across = zip(chunk.offset[1:], chunk.shape[1:], strict=True)
            index = (index, *(slice(start, start + size) for start, size in across))
        source = where(chunk.source, flat, low - origin, high - origin, count, values, sent)
        placed.append(Placed(index, *source))
    shape = (last - first,) if flat else (last - first, *tensor.shape[1:])
    return Segment(shape, tensor.dtype, flat, tuple(placed), begin - first * unit, end - begin)


def where(
    source: Any,
    flat: bool,
    first: int,
    last: int,
    count: int,
    values: list[Any],
    sent: list[np.ndarray],
) -> tuple[int | FirstValues, int, int]:
    """From where a task gets some elements or rows of a source that has `count`."""
    if isinstance(source, FirstValues):
        return source, first, last
    if isinstance(source, np.ndarray):
        sent.append(np.ascontiguousarray(cut(source, flat, first, last)))
        return -len(sent), 0, last - first
    if 2 * (last - first) < count:  # a little of a chunk that another task writes
        [key] = new_keys("cut", 1)
        call = library("dask").delayed(cut, pure=False)
        values.append(call(source, flat, first, last, dask_key_name=key))
        return len(values) - 1, 0, last - first
    values.append(source)
    return len(values) - 1, first, last


# --- the whole


def save_tensors(
    tensors: list[Tensor], client: Any, target: Path, most: int, report: Progress | None
) -> int:
    """Have a cluster write them; how many bytes they are."""
    total = sum(tensor.nbytes for tensor in tensors)
    threads = max(1, sum(client.nthreads().values()))
    piece = min(piece_size(total, threads), MOST)
    single = target.name.endswith(SUFFIX)
    laid = Laid(tensors, None if single else most, piece)
    folder, name = (target.parent, target.name) if single else (target, SINGLE)
    with told_of(target), workplace(folder, name, make_folder=not single) as place:
        site = Site(laid.layout(folder, place.token), place)
        try:
            run(list(Tasks(tensors, site)), client, total, report)
        except BaseException:
            place.move()  # workers may be in the middle of tasks
            raise
        if single:
            finish_single(site, place, target)
        else:
            site.finish(resumes=False)
    return total


def finish_single(site: Site, place: Workplace, target: Path) -> None:
    """Finish the one file of a save, and put it in place."""
    missing = site.complete(site.layout.file(0), verify=False)
    if missing:
        raise site.unfinished(missing)
    site.check(0, site.path / site.layout.files[0])
    put_file(place, site.layout.files[0], target)


def run(tasks: list[Task], client: Any, total: int, report: Progress | None) -> None:
    """Have all tasks done.  Where values were lost that this process has, they are sent again."""
    done = 0
    for _ in range(TRIES):
        futures, lost = submitted(tasks, client), []
        for number, is_lost in completed(futures):
            if is_lost:
                lost.append(tasks[number])
                continue
            futures[number].release()  # or it would be written again where a worker dies
            done += tasks[number].nbytes
            if report is not None and done < total:
                report(done, total)
        if not lost:
            return
        tasks = lost
        if any(not task.sent for task in lost):
            break
    raise StorageError.lost(client, [name for task in lost for name in task.names])


def submitted(tasks: list[Task], client: Any) -> list[Any]:
    """The futures of tasks."""
    keys, names = new_keys("write", len(tasks)), new_keys("sent", len(tasks))
    data = {name: task.sent for name, task in zip(names, tasks, strict=True) if task.sent}
    sent = client.scatter(data) if data else {}
    calls = [
        library("dask").delayed(
            write, pure=False
        )(  # bytes, as dask would look into anything else for its own
            pickle.dumps(task.writing), sent.get(name, []), task.values, dask_key_name=key
        )
        for task, key, name in zip(tasks, keys, names, strict=True)
    ]
    futures: list[Any] = client.compute(calls)
    return futures
