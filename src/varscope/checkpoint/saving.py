"""`save`: the variables of a graph in safetensors files, which take their place at once."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from varscope import initialization
from varscope._scopecore import checksums, locate, unfilled_rows
from varscope.checkpoint import dtypes
from varscope.checkpoint.replacement import Workplace, put_file, put_series, workplace
from varscope.checkpoint.safetensors_files import INDEX, SINGLE
from varscope.checkpoint.safetensors_headers import DTYPES
from varscope.creation import GraphKeys
from varscope.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    CheckpointError,
    NameMapError,
    shown,
)
from varscope.graph import Graph
from varscope.partitioned import PartitionedVariable, find_partitioned
from varscope.progress import REPORT, Progress, as_report, as_threads
from varscope.storage import SlabStorage
from varscope.variables import Variable

SUFFIX = ".safetensors"
OURS = re.compile(r"model-[0-9a-f]{8}-\d{5,}-of-\d{5,}\.safetensors")
SHARD = re.compile(r"model-([0-9a-f]{8}-)?\d{5,}-of-\d{5,}\.safetensors")  # ours, or of others
# Names that say another format: as a folder of safetensors files they would mislead.
FOREIGN = re.compile(r".*\.(ckpt(-\d+)?|index|json|pt|pth|bin|npz|h5|gguf)", re.IGNORECASE)
UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
LONGEST_HEADER = 100_000_000  # bytes; readers refuse longer ones
LONG_HEADER = 90_000_000  # from here on another file is begun
MAKE_IT = (
    'varscope.save writes with the safetensors library: pip install "varscope-core[checkpoints]"'
)


def save(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    names: Any = None,
    max_shard_size: int | str = "5GB",
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> None:
    """Save all variables of a graph, but for local ones, in safetensors files.

    Readers see what was there before until all is written and on the disk, and then the new
    files; so they do after an exception, a crash or a kill at any moment.  Where several save to
    one path, the last one who is done counts.  Variables that are only declared get their first
    values.  A variable in parts is saved whole, and can be restored in other parts.

    Values must not be changed while they are saved.

    Parameters
    ----------
    graph : Graph
    path : path
        One file, where it ends in `.safetensors`; else a folder in the layout of Hugging Face:
        `model.safetensors.index.json`, and files that it lists.  The folder is made where there
        is none.
    names : optional
        How the names of variables become those in the files: a `NameMap`, or what
        `NameMap.of` takes.  Left out: each variable's `op_name`.
    max_shard_size : int or str
        How many bytes a file of a folder may have, as a number or in the way of "5GB" or
        "512MiB".  A tensor that is larger has a file of its own.
    threads : int, optional
        How many files are written at a time; as many as the process may use processors where it
        is left out.
    progress : callable, or bool, optional
        `progress(done_bytes, total_bytes)` is called in the calling thread, again and again until
        both are equal.  Left out, there is a bar where rich is installed and stderr is a terminal;
        False: none.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError : TypeError, ValueError
    NameMapError, CheckpointError : ValueError
        A name that cannot be in a file, or two variables of one name.  Nothing was written.
    OSError
        What the system said.  What was there before is as it was, unless it was only the last
        step that failed, which sees to it that the new checkpoint is on the disk.
    ImportError
        The library safetensors is not installed.

    >>> import tempfile, varscope as vs
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default():
    ...     v = vs.get_variable("layer/v", [2], initializer=vs.ones)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vs.save(g, f"{folder}/model.safetensors")
    ...     vs.open(f"{folder}/model.safetensors")["layer/v"].numpy()
    array([1., 1.], dtype=float32)
    """
    if not isinstance(graph, Graph):
        raise ArgumentTypeError.of("graph", "a varscope.Graph", graph)
    target = as_target(path)
    most, workers = as_size(max_shard_size), as_threads(threads)
    with as_report(progress, "save") as report:
        library()
        check_place(target)
        entries = as_named(collected(graph), names)
        check_names(entries.names, target)
        make_values(graph, entries, workers)
        tensors = Tensors(graph, entries)
        if target.name.endswith(SUFFIX):
            save_file(tensors, target, workers, report)
        else:
            save_series(tensors, target, most, workers, report)
        if report is not None:
            report(tensors.nbytes, tensors.nbytes)


# --- what was asked for


def as_target(path: Any) -> Path:
    """The path of a file or folder that `save` may write."""
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise ArgumentTypeError.of("path", "a str or a path", path)
    if not os.fspath(path):  # which would be the current folder
        raise ArgumentValueError.of("path", "the path of a file or folder", path)
    target = Path(path)
    if FOREIGN.fullmatch(target.name):
        raise ArgumentValueError.of(
            "path", f"a folder, or a file that ends in {SUFFIX}: varscope.save writes those", path
        )
    # From here on it is the same place, wherever the process goes meanwhile.  Links to folders are
    # followed, and one to a file is replaced.
    if target.name.endswith(SUFFIX):
        return Path(os.path.realpath(target.parent)) / target.name
    return Path(os.path.realpath(target))


def as_size(size: Any) -> int:
    """A number of bytes, from a number or a text such as "5GB" or "512 MiB"."""
    expected = 'a positive number of bytes, or a text such as "5GB" or "512MiB"'
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B\s*", size, re.IGNORECASE)
        if found is None:
            raise ArgumentValueError.of("max_shard_size", expected, size)
        number, unit, binary = found.groups()
        nbytes = int(float(number) * (1024 if binary else 1000) ** UNITS[unit.upper()])
    elif isinstance(size, (int, np.integer)) and not isinstance(size, bool):
        nbytes = int(size)
    else:
        raise ArgumentTypeError.of("max_shard_size", expected, size)
    if nbytes < 1:
        raise ArgumentValueError.of("max_shard_size", expected, size)
    return nbytes


def check_place(target: Path) -> None:
    """Refuse a target that cannot be, or would not be found, before anything is done."""
    in_file = target.name.endswith(SUFFIX)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "there is no such folder to save in; make it first", str(target.parent)
        )
    if in_file and target.is_dir():
        raise IsADirectoryError(
            errno.EISDIR,
            f"a path that ends in {SUFFIX} is one file, and this is a folder; give a file in it, "
            "or the folder another name",
            str(target),
        )
    if not in_file and target.exists() and not target.is_dir():
        raise NotADirectoryError(
            errno.ENOTDIR,
            f"this is a file, and varscope.save would make a folder of that name; one file must "
            f"end in {SUFFIX}",
            str(target),
        )
    folder, other = (target.parent, INDEX) if target.name == SINGLE else (target, SINGLE)
    if (target.name == SINGLE or not in_file) and os.path.lexists(folder / other):
        raise FileExistsError(
            errno.EEXIST,
            "this belongs to another model in the same folder, and readers differ in which of "
            "the two they take; remove it, or save elsewhere",
            str(folder / other),
        )


def library() -> Any:
    """The library that writes the files."""
    try:
        import safetensors

        safetensors.TensorSpec  # noqa: B018 - there is one since 0.8
    except (ImportError, AttributeError) as error:
        raise ImportError(MAKE_IT) from error
    return safetensors


# --- which variables, and under which names


@dataclass
class Entries:
    """What is to be saved: names, and the variable's place in `variables` for each.

    Behind a negative number stands something else: `others[-1 - number]`, a variable in parts or
    the recipe of a name map.
    """

    names: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)  # all of the graph

    def add(self, name: str, row: int | None, other: Any = None) -> None:
        if row is None:
            self.others.append(other)
            row = -len(self.others)
        self.names.append(name)
        self.rows.append(row)


def collected(graph: Graph) -> Entries:
    """All variables of a graph that are saved, in the order of creation, parts as a whole.

    Where another thread withdraws a variable, because what created it raised, rows move up: then
    it begins again.  Later nothing is found by its row any more.
    """
    while True:
        removed, found = graph._removed(), None
        try:
            found = looked_through(graph)
        except IndexError:
            if graph._removed() == removed:
                raise
        if found is not None and graph._removed() == removed:
            return found


def looked_through(graph: Graph) -> Entries:
    names = graph._op_names()
    variables = list(map(graph._handle, range(len(names))))
    left_out = bytearray(len(names))
    for row in graph._rows_in(GraphKeys.LOCAL_VARIABLES):
        if row < len(names):  # what another thread creates from here on is not saved
            left_out[row] = True
    wholes: dict[int, str] = {}
    for path, kept in graph._partitions():
        rows = [graph._row(f"{path}/part_{i}") for i in range(kept.slicing.count)]
        if not 0 <= min(rows) <= max(rows) < len(names):
            continue
        if not left_out[rows[0]]:
            wholes[rows[0]] = path
        for row in rows:
            left_out[row] = True
    if not any(left_out):
        return Entries(names, list(range(len(names))), variables=variables)
    entries = Entries(variables=variables)
    for row, name in enumerate(names):
        if row in wholes:
            whole = find_partitioned(graph, wholes[row])
            if whole is not None:  # else it was withdrawn meanwhile
                entries.add(wholes[row], None, whole)
        elif not left_out[row]:
            entries.add(name, row)
    return entries


def as_named(entries: Entries, names: Any) -> Entries:
    """The entries under the names that a map gives them, and made of what it says."""
    if names is None:
        return entries
    from varscope.name_maps import NameMap  # most saves have none

    things = {}
    for name, row in zip(entries.names, entries.rows, strict=True):
        things[name] = entries.others[-1 - row] if row < 0 else entries.variables[row]
        things[name]._known_shape()
    rules = NameMap.of(names)
    assert rules is not None  # as `names` is not
    plan = rules.plan([things])
    if plan.unused:
        raise NameMapError(
            f"no rule of names= takes {len(plan.unused):,} of the variables, "
            f"{', '.join(shown(name) for _, name in plan.unused[:3])} for one; write "
            '{"glob": "**", "to": "**"} as the last rule to save them under their own names, or '
            '{"glob": "**", "drop": true} to leave them out'
        )
    places = dict(zip(entries.names, entries.rows, strict=True))
    renames = plan.renames
    if renames is not None:
        rows = [places[name] for name in renames.values()]
        return Entries(list(renames), rows, entries.others, entries.variables)
    named = Entries(variables=entries.variables)
    for name, recipe in plan.recipes.items():
        if recipe.plain:
            row = places[recipe.sources[0][1]]
            named.add(name, *(row,) if row >= 0 else (None, entries.others[-1 - row]))
        else:
            named.add(name, None, Made(recipe, [things[source] for _, source in recipe.sources]))
    return named


class Made(NamedTuple):
    """A tensor that a name map makes of variables."""

    recipe: Any
    variables: list[Variable | PartitionedVariable]


def check_names(names: list[str], target: Path) -> None:
    """Refuse names that cannot be in a file, before anything is written."""
    if len(set(names)) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore
        raise CheckpointError.of(
            target, twice, "two variables would be saved under this name; write names= to tell them"
        )
    for name in names if "__metadata__" in names or not encodes("".join(names)) else ():
        if name == "__metadata__" or not encodes(name):
            raise CheckpointError.of(
                target, name, "the format cannot have a tensor of this name; write names= to rename"
            )


def encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a character
        return False
    return True


def make_values(graph: Graph, entries: Entries, threads: int) -> None:
    """First values for what is saved and only declared."""
    count = graph._count()
    unfilled = unfilled_rows(graph, None, 0, count, count)[0]
    if not unfilled:
        return
    wanted = [entries.variables[row] for row in entries.rows if row >= 0]
    for other in entries.others:
        for variable in other.variables if isinstance(other, Made) else [other]:
            for part in variable if isinstance(variable, PartitionedVariable) else [variable]:
                wanted.append(part)
    chosen = None
    if not {variable._index for variable in wanted}.issuperset(unfilled):
        chosen = [variable for variable in wanted if not variable._filled]
    initialization.Run([initialization.Group(graph, chosen)], threads, None).run()


# --- tensors as a file has them


class Kind(NamedTuple):
    """What tensors of one shape and dtype are, and how a file has them.

    Of a dtype that the format lacks a file has the bytes, as one more dimension; `text` is then the
    name of the dtype.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    nbytes: int
    text: str | None
    stored_shape: tuple[int, ...]
    stored_dtype: str
    described: int  # bytes that describe one in the header of a file, without its name

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: np.dtype) -> Kind:
        name, nbytes = dtypes.text_of(dtype), math.prod(shape) * dtype.itemsize
        described = 100 + len(str(shape))  # numbers of 13 digits and a checksum among it
        if name in order():
            return cls(shape, dtype, nbytes, None, shape, name, described)
        stored, described = (*shape, dtype.itemsize), described + 40 + 4 * len(name)
        return cls(shape, dtype, nbytes, name, stored, "uint8", described)


@functools.cache
def order() -> dict[str, int]:
    """The dtypes that the library can write, in the order in which their tensors lie in a file.

    It puts all tensors of a dtype together, sorted by name; which dtype comes first it tells here.
    """
    known = library()
    specs = {}
    for dtype, _ in DTYPES.values():
        with contextlib.suppress(known.SafetensorError):
            for name in ("b", "\N{LATIN SMALL LETTER E WITH ACUTE}", "a/b", "\U0001d11e", "Z"):
                specs[f"{dtype} {name}"] = known.TensorSpec(
                    dtype=dtype, shape=(0,), data_ptr=0, data_len=0
                )
    written = known.serialize(specs)
    found = list(json.loads(bytes(written[8:])))
    dtypes_found = dict.fromkeys(name.partition(" ")[0] for name in found)
    ranks = {dtype: rank for rank, dtype in enumerate(dtypes_found)}
    if found != sorted(specs, key=lambda name: (ranks[name.partition(" ")[0]], name)):
        raise ImportError(
            f"safetensors {known.__version__} lays out its files in an order that varscope does "
            "not know; install another version"
        )
    return ranks


class Tensors:
    """The entries with what is known of them, in columns; `kinds` holds indices into `table`."""

    def __init__(self, graph: Graph, entries: Entries) -> None:
        self.graph, self.names, self.others = graph, entries.names, entries.others
        self.rows, self.variables = entries.rows, entries.variables
        self.table: list[Kind] = []
        self.numbers: dict[tuple[tuple[int, ...], np.dtype], int] = {}
        self.kinds = self.find_kinds()
        self.nbytes_of = self.column(lambda kind: kind.nbytes)
        self.nbytes = int(self.nbytes_of.sum())
        self.ranks = self.column(lambda kind: order()[kind.stored_dtype])
        self.described = self.bytes_described()

    def find_kinds(self) -> npt.NDArray[np.intp]:
        """The number of each entry's kind."""
        variables, rows = self.variables, self.rows
        found = np.array([variables[row]._spec_number if row >= 0 else -1 for row in rows], int)
        specs = self.graph._all_specs()
        kinds = np.zeros(len(specs) + 1, np.intp)
        for number in np.unique(found[found >= 0]).tolist():
            kinds[number] = self.number(specs[number].shape, specs[number].dtype)
        answer: npt.NDArray[np.intp] = kinds[found]
        for place in np.flatnonzero(found < 0).tolist():
            other = self.others[-1 - self.rows[place]]
            shaped = other.recipe if isinstance(other, Made) else other
            answer[place] = self.number(shaped.shape, shaped.dtype)
        return answer

    def number(self, shape: Any, dtype: np.dtype) -> int:
        """The number of a kind, of a shape that is known by now."""
        found = self.numbers.get((shape, dtype))
        if found is None:
            found = self.numbers[shape, dtype] = len(self.table)
            self.table.append(Kind.of(shape, dtype))
        return found

    def column(self, fact: Callable[[Kind], int]) -> npt.NDArray[np.int64]:
        """Something that a kind knows, by entry."""
        return np.array([fact(kind) for kind in self.table], np.int64)[self.kinds]

    def bytes_described(self) -> npt.NDArray[np.int64]:
        """At most how many bytes of a header describe each entry."""
        lengths = np.fromiter(map(len, self.names), np.int64, len(self.names))
        text = "".join(self.names).encode()
        if not text.isascii() or len(text.translate(None, bytes(range(32)) + b'"\\')) < len(text):
            lengths *= 12  # the most that JSON makes of a character
        # Names of what is in parts, or of a dtype that the format lacks, stand there again.
        again = self.column(lambda kind: kind.text is not None) | (np.array(self.rows, int) < 0)
        return self.column(lambda kind: kind.described) + lengths + (lengths + 100) * again

    def cuts(self, most: int) -> list[slice]:
        """Which entries go to which file: as many as fit, in their order."""
        headers, sizes = np.cumsum(self.described), np.cumsum(self.nbytes_of)
        found, first, count = [], 0, len(self.names)
        while first < count:
            header = headers[first] - self.described[first]
            size = sizes[first] - self.nbytes_of[first]
            last = min(
                np.searchsorted(headers, header + LONG_HEADER, "right"),
                np.searchsorted(sizes, size + most, "right"),
            )
            last = max(first + 1, int(last))
            found.append(slice(first, last))
            first = last
        return found

    def sorted(self, part: slice) -> list[int]:
        """Some entries in the order in which the library puts them into a file."""
        ranks = self.ranks[part]
        found: list[int] = []
        for rank in np.unique(ranks):
            places = (np.flatnonzero(ranks == rank) + part.start).tolist()
            found += sorted(places, key=self.names.__getitem__)
        return found

    def arrays(self, places: list[int]) -> list[np.ndarray]:
        """The values of some entries, contiguous."""
        variables, storage, rows = self.variables, self.graph.storage, self.rows
        slabs = storage if isinstance(storage, SlabStorage) else None
        kinds = self.kinds[places].tolist()
        # NumPy gives elements of no bytes some.
        without = {number for number, kind in enumerate(self.table) if kind.nbytes == 0}
        arrays: list[np.ndarray] = []
        for place, kind in zip(places, kinds, strict=True):
            row, start = rows[place], None
            if kind in without:
                arrays.append(np.empty(0))
                continue
            if row < 0:
                arrays.append(self.made(self.others[-1 - row]))
                continue
            variable = variables[row]
            if slabs is not None:
                start = variable._filled_place
            if slabs is None or start is None:
                arrays.append(variable._materialised().array)
            else:  # without an object for it that stays
                arrays.append(slabs.view(self.table[kind].dtype, start, self.table[kind].shape))
        return arrays

    def made(self, other: Any) -> np.ndarray:
        """The values of what is not a variable in one piece."""
        values = other.recipe.read() if isinstance(other, Made) else other.value()
        return np.ascontiguousarray(values)


# --- files


def save_file(tensors: Tensors, target: Path, threads: int, report: Progress | None) -> None:
    """Save everything in one file."""
    with workplace(target.parent, target.name) as place:
        files = {target.name: slice(0, len(tensors.names))}
        Writing(tensors, files, place, target).run(threads, report)
        put_file(place, target.name, target)


def save_series(
    tensors: Tensors, folder: Path, most: int, threads: int, report: Progress | None
) -> None:
    """Save everything in a folder, in as many files as it takes."""
    cuts = tensors.cuts(most)
    with workplace(folder, SINGLE, make_folder=True) as place:
        files = {
            f"model-{place.token}-{number:05}-of-{len(cuts):05}{SUFFIX}": part
            for number, part in enumerate(cuts, 1)
        }
        Writing(tensors, files, place, folder).run(
            threads, report, lambda: write_index(tensors, files, place, folder)
        )
        put_series(place, files, INDEX, listed, lambda name: bool(OURS.fullmatch(name)))


def write_index(tensors: Tensors, files: dict[str, slice], place: Workplace, target: Path) -> None:
    """Write the list of all names with the file in which each lies."""
    as_json = json.encoder.encode_basestring_ascii
    with told_of(target), open(place.path / INDEX, "w", encoding="ascii") as index:
        index.write(f'{{"metadata": {{"total_size": {tensors.nbytes}}},\n"weight_map": {{')
        comma = ""
        for file, part in files.items():
            lines = [f'\n{as_json(name)}: "{file}"' for name in tensors.names[part]]
            index.write(comma + ",".join(lines))
            comma = ","
        index.write("\n}}\n")
        finish(index, place)


def listed(index: Path) -> list[str] | None:
    """The files that an index lists and that a save may remove; None where it cannot be read."""
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        return [name for name in names if SHARD.fullmatch(name)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def finish(file: Any, place: Workplace) -> None:
    """See to it that a file is on the disk, for whom new files are."""
    file.flush()
    if hasattr(os, "fchmod"):
        os.fchmod(file.fileno(), place.mode)  # the library makes them for the user alone
    os.fsync(file.fileno())


def nothing() -> None:
    """What there is to do beside."""


class Writing:
    """The files of one save on their way into a workplace; `files` says what each one holds."""

    def __init__(
        self, tensors: Tensors, files: dict[str, slice], place: Workplace, target: Path
    ) -> None:
        self.tensors, self.files, self.place, self.target = tensors, files, place, target
        self.waiting = deque(files)
        self.begun: list[bool] = []  # an entry for each thread
        self.ended: list[bool] = []
        self.reported = -1
        self.share = tensors.nbytes / max(tensors.nbytes + int(tensors.described.sum()), 1)

    def run(
        self, threads: int, report: Progress | None, meanwhile: Callable[[], None] = nothing
    ) -> None:
        """Write them all: in this thread, or in others while this one reports.

        `meanwhile` is what else there is to do.
        """
        if threads == 1 and report is None:
            meanwhile()
            self.work(None)
            return
        try:
            with ThreadPoolExecutor(threads) as helpers, ThreadPoolExecutor(threads) as writers:
                try:
                    count = min(threads, len(self.files))
                    running = {writers.submit(self.work, helpers) for _ in range(count)}
                    meanwhile()
                    while running:
                        done, running = wait(running, REPORT, FIRST_EXCEPTION)
                        for future in done:
                            future.result()
                        self.tell(report)
                finally:
                    self.waiting.clear()  # after an exception: files that are begun are finished
        finally:
            # The pools have waited for that, unless it was there that an interrupt came.
            while len(self.ended) < len(self.begun):
                time.sleep(0.001)

    def work(self, helpers: Executor | None) -> None:
        """What a thread does: write one file after the other."""
        self.begun.append(True)
        try:
            while True:
                try:
                    file = self.waiting.popleft()
                except IndexError:
                    return
                self.write(file, helpers)
        finally:
            self.ended.append(True)

    def tell(self, report: Progress | None) -> None:
        """Report how many bytes there are by now; that all are, `save` says when it is done."""
        if report is None:
            return
        nbytes, total = 0, self.tensors.nbytes
        with os.scandir(self.place.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # just renamed
                    found = entry.stat()
                    # The library makes a file as long as it is going to be, and then fills it.
                    nbytes += min(found.st_size, getattr(found, "st_blocks", 0) * 512)
        done = min(int(nbytes * self.share), total - 1)
        if done > self.reported:
            self.reported = done
            report(done, total)

    def write(self, file: str, helpers: Executor | None) -> None:
        """Write one file; a helper takes the checksums at the same time."""
        places = self.tensors.sorted(self.files[file])
        arrays = self.tensors.arrays(places)
        if [array.nbytes for array in arrays] != self.tensors.nbytes_of[places].tolist():
            raise CheckpointError.of(self.target, None, "a shape changed while it was saved")
        summing = None if helpers is None else helpers.submit(checksums, arrays)
        specs, facts = self.specs(places, locate(arrays)), self.facts(places)
        path, known = self.place.path / file, library()
        with told_of(self.target):
            try:
                known.serialize_file(specs, path, metadata=metadata(facts, len(places)))
            except known.SafetensorError as error:
                raise as_system_error(error, self.target) from error
            sums = checksums(arrays) if summing is None else summing.result()
            self.complete(path, facts, sums)

    def specs(self, places: list[int], addresses: list[int]) -> dict[str, Any]:
        """What the library is told of some entries."""
        tensors, spec = self.tensors, library().TensorSpec
        kinds = [tensors.table[kind] for kind in tensors.kinds[places].tolist()]
        return {
            tensors.names[place]: spec(
                dtype=kind.stored_dtype,
                shape=kind.stored_shape,
                data_ptr=address,
                data_len=kind.nbytes,
            )
            for place, kind, address in zip(places, kinds, addresses, strict=True)
        }

    def facts(self, places: list[int]) -> dict[str, Any]:
        """What the format has no place for, by name: how tensors were cut, dtypes that it lacks."""
        tensors = self.tensors
        cut, texts = {}, {}
        for place in places if tensors.others else ():
            row = tensors.rows[place]
            other = tensors.others[-1 - row] if row < 0 else None
            if isinstance(other, PartitionedVariable):
                cut[tensors.names[place]] = other.partitions
        for place in places if any(kind.text is not None for kind in tensors.table) else ():
            text = tensors.table[tensors.kinds[place]].text
            if text is not None:
                texts[tensors.names[place]] = text
        return {**({"partitions": cut} if cut else {}), **({"dtypes": texts} if texts else {})}

    def complete(self, path: Path, facts: dict[str, Any], sums: bytes) -> None:
        """Put the checksums into a file, where the library was given zeros, and sync it.

        It writes the metadata in any order, and here they get the one that they always have: so
        the same values give the same bytes.
        """
        count = len(sums) // 4
        blank, full = metadata(facts, count), metadata(facts, count, sums)
        start = header_start(full)
        with open(path, "r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LONGEST_HEADER:
                raise CheckpointError.of(
                    self.target,
                    None,
                    f"the header of one file for {count:,} tensors would have {length:,} bytes, "
                    f"and readers take {LONGEST_HEADER:,}; save to a folder, as several files",
                )
            turned = dict(reversed(blank.items()))
            if file.read(len(start)) not in (header_start(blank), header_start(turned)):
                raise CheckpointError.of(
                    path, None, "the safetensors library wrote another header than it was given"
                )
            file.seek(8)
            file.write(start)
            finish(file, self.place)


def metadata(facts: dict[str, Any], count: int, sums: bytes | None = None) -> dict[str, str]:
    """The metadata of a file of so many tensors, with their checksums or as long without."""
    digits = "0" * 8 * count
    if sums is not None:
        digits = np.frombuffer(sums, np.uint32).astype(">u4").tobytes().hex()
    ours = {"version": 1, "crc32c": digits, **facts}
    return {"format": "pt", "varscope": json.dumps(ours, separators=(",", ":"))}


def header_start(metadata: dict[str, str]) -> bytes:
    """How the header of a file with this metadata begins."""
    return b'{"__metadata__":' + json.dumps(metadata, separators=(",", ":")).encode()


# --- errors


@contextlib.contextmanager
def told_of(target: Path) -> Iterator[None]:
    """Let what the system says name what is saved, and not a file beside it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(target)) from error


def as_system_error(error: Exception, target: Path) -> Exception:
    """What the library raised, as what the system said."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found is None:
        return CheckpointError.of(target, None, f"the safetensors library says: {error}")
    number = int(found[1])
    if sys.platform == "win32":  # a number of its own kind
        return OSError(0, str(error), os.fspath(target), number)
    return OSError(number, os.strerror(number), os.fspath(target))
