"""What a graph has to save: variables and their names, as tensors that a file can have."""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from varscope import initialization
from varscope._scopecore import spec_numbers, unfilled_rows
from varscope.checkpoint import dtypes
from varscope.checkpoint.safetensors_headers import DTYPES
from varscope.creation import GraphKeys
from varscope.errors import (
    CheckpointError,
    NameMapError,
    shown,
)
from varscope.graph import Graph, unmoved
from varscope.partitioned import PartitionedVariable, find_partitioned
from varscope.storage import SlabStorage
from varscope.variables import Variable

LONGEST_HEADER = 100_000_000  # bytes; readers refuse longer ones
LONG_HEADER = 90_000_000  # from here on another file is begun
MAKE_IT = (
    'varscope.save writes with the safetensors library: pip install "varscope-core[checkpoints]"'
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
    specs: npt.NDArray[np.uint32] | None = None  # by row, where there are no `variables`

    def add(self, name: str, row: int | None, other: Any = None) -> None:
        if row is None:
            self.others.append(other)
            row = -len(self.others)
        self.names.append(name)
        self.rows.append(row)

    def spec_numbers(self) -> npt.NDArray[np.intp]:
        """The number of each entry's spec, -1 of what is not one variable."""
        if self.specs is None:
            variables = self.variables
            return np.array(
                [variables[row]._spec_number if row >= 0 else -1 for row in self.rows], np.intp
            )
        rows = np.array(self.rows, np.intp)
        found = np.full(len(rows), -1, np.intp)
        found[rows >= 0] = self.specs[rows[rows >= 0]]
        return found


def collected(graph: Graph) -> Entries:
    """All variables of a graph that are saved, in the order of creation, parts as a whole.

    Where another thread withdraws a variable, because what created it raised, rows move up: then
    it begins again.  Later nothing is found by its row any more.
    """
    return unmoved(graph, lambda: looked_through(graph))


def looked_through(graph: Graph, with_handles: bool = True) -> Entries:
    """The same; without handles good for as long as no row moves."""
    names = graph._op_names()
    variables = graph._handles(range(len(names))) if with_handles else []
    specs = None if with_handles else np.frombuffer(spec_numbers(graph), np.uint32)
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
        return Entries(names, list(range(len(names))), variables=variables, specs=specs)
    entries = Entries(variables=variables, specs=specs)
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
            target,
            twice,
            "two variables would be saved under this name",
            "write names= to tell them",
        )
    for name in names if "__metadata__" in names or not encodes("".join(names)) else ():
        if name == "__metadata__" or not encodes(name):
            raise CheckpointError.of(
                target,
                name,
                "the format cannot have a tensor of this name",
                "write names= to rename",
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


class Listing:
    """What is to be saved in columns, and how files have it; `kinds` holds indices into `table`."""

    def __init__(
        self,
        names: list[str],
        table: list[Kind],
        kinds: npt.NDArray[np.intp],
        noted: npt.NDArray[np.bool_],
    ) -> None:
        """`noted` says of which entries the name stands in the notes of a file too."""
        self.names, self.table, self.kinds = names, table, kinds
        self.nbytes_of = self.column(lambda kind: kind.nbytes)
        self.nbytes = int(self.nbytes_of.sum())
        self.ranks = self.column(lambda kind: order()[kind.stored_dtype])
        self.described = self.bytes_described(noted)

    def column(self, fact: Callable[[Kind], int]) -> npt.NDArray[np.int64]:
        """Something that a kind knows, by entry."""
        return np.array([fact(kind) for kind in self.table], np.int64)[self.kinds]

    def bytes_described(self, noted: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """At most how many bytes of a header describe each entry."""
        lengths = np.fromiter(map(len, self.names), np.int64, len(self.names))
        text = "".join(self.names).encode()
        if not text.isascii() or len(text.translate(None, bytes(range(32)) + b'"\\')) < len(text):
            lengths *= 12  # the most that JSON makes of a character
        # Names of what is in parts, or of a dtype that the format lacks, stand there again.
        again = self.column(lambda kind: kind.text is not None) | noted
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


class Tensors(Listing):
    """The entries of a graph with what is known of them, in columns."""

    def __init__(self, graph: Graph, entries: Entries) -> None:
        self.graph, self.others = graph, entries.others
        self.rows, self.variables = entries.rows, entries.variables
        self.table: list[Kind] = []
        self.numbers: dict[tuple[tuple[int, ...], np.dtype], int] = {}
        self.specs = entries.spec_numbers()
        super().__init__(entries.names, self.table, self.find_kinds(), np.array(self.rows, int) < 0)

    def find_kinds(self) -> npt.NDArray[np.intp]:
        """The number of each entry's kind."""
        found = self.specs
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
