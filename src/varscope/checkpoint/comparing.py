"""`compare`: what differs between two checkpoints, or a checkpoint and a graph, as data."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import numpy as np

from varscope.checkpoint import renames
from varscope.checkpoint.contents import Checkpoint
from varscope.checkpoint.differing_values import Differences
from varscope.creation import GraphKeys
from varscope.errors import ArgumentTypeError, ArgumentValueError
from varscope.graph import Graph

if TYPE_CHECKING:
    import numpy.typing as npt

    _Places: TypeAlias = npt.NDArray[np.intp]
    _Numbers: TypeAlias = tuple[_Places, _Places]

Progress = Callable[[int, int], object]


class Listing(NamedTuple):
    """What one side has: parallel columns; a shape is None where it is not known yet."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[Any]


class Renamed(NamedTuple):
    """A tensor that seems to be there under another name; `by` is "values" or "names"."""

    old: str
    new: str
    by: str


class Changed(NamedTuple):
    """A tensor whose shape or dtype differs; `old` and `new` are what it was and is."""

    name: str
    old: Any
    new: Any


class ChangedValues(NamedTuple):
    """A tensor whose values differ: in how many of its elements, and by how much at most.

    `dtype` and `shape` are those that `a` has.  `relative` is relative to the larger of two values.
    Both are infinite where only one of two values is NaN or infinite, and None where the dtype has
    no numbers.  Of a dtype that cannot be read here `elements` are bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    absolute: float | None
    relative: float | None


@dataclass(eq=False)
class ValueChanges(Sequence[ChangedValues]):
    """The tensors whose values differ; columns, as there may be half a million of them.

    `absolute` and `relative` are NaN where an entry has None.
    """

    names: list[str]
    dtypes: list[str]
    shapes: list[tuple[int, ...]]
    elements: npt.NDArray[np.int64]
    absolute: npt.NDArray[np.float64]
    relative: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> ChangedValues: ...
    @overload
    def __getitem__(self, index: slice) -> list[ChangedValues]: ...
    def __getitem__(self, index: int | slice) -> ChangedValues | list[ChangedValues]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        absolute, relative = float(self.absolute[index]), float(self.relative[index])
        return ChangedValues(
            self.names[index],
            self.dtypes[index],
            self.shapes[index],
            int(self.elements[index]),
            None if math.isnan(absolute) else absolute,
            None if math.isnan(relative) else relative,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)


@dataclass(frozen=True)
class Comparison:
    """What differs between `a` and `b`; a tensor may be in several of the lists.

    `compared` is the number of tensors in both whose values were compared, or seen to be equal by
    their checksums.
    """

    a: Listing
    b: Listing
    removed: list[str]
    added: list[str]
    renamed: list[Renamed]
    shapes: list[Changed]
    dtypes: list[Changed]
    values: ValueChanges
    compared: int

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        lists = self.removed, self.added, self.renamed, self.shapes, self.dtypes, self.values
        return not any(lists)


def compare(
    a: Checkpoint | Graph,
    b: Checkpoint | Graph,
    *,
    rtol: float = 0,
    atol: float = 0,
    progress: Progress | None = None,
) -> Comparison:
    """What differs between two checkpoints: names, shapes, dtypes and values.

    Values differ where abs(a - b) > atol + rtol * max(abs(a), abs(b)).  NaN is equal to NaN.  Where
    both sides recorded a checksum and these are equal, so are the values; others are read, a block
    at a time.  A graph has names, shapes and dtypes only.

    Parameters
    ----------
    a, b : Checkpoint or Graph
    rtol, atol : float
        Not negative.
    progress : callable, optional
        `progress(done_bytes, total_bytes)` is called again and again while values are read.

    Returns
    -------
    Comparison

    Raises
    ------
    ArgumentTypeError, ArgumentValueError : TypeError, ValueError

    >>> import numpy as np, tempfile, varscope as vs
    >>> from varscope.checkpoint.comparing import compare
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for i in range(2):
    ...         with vs.Graph().as_default() as g:
    ...             w = vs.get_variable("w", initializer=np.array([1.0, 2.0 + i]))
    ...             b = vs.get_variable(f"b{i}", initializer=np.zeros(3))
    ...             vs.save(g, f"{folder}/{i}.safetensors")
    ...     found = compare(*(vs.open(f"{folder}/{i}.safetensors") for i in range(2)))
    >>> found.same, found.renamed, found.values[0].absolute
    (False, [Renamed(old='b0', new='b1', by='values')], 1.0)
    """
    for what, tolerance in (("rtol", rtol), ("atol", atol)):
        if not tolerance >= 0:  # NaN is refused too
            raise ArgumentValueError.of(what, "a number that is not negative", tolerance)
    return _Run(listing(a), listing(b), a, b, (rtol, atol), progress).compared()


def listing(model: Checkpoint | Graph) -> Listing:
    """The names, dtypes and shapes of a checkpoint, or of what a graph would save."""
    if isinstance(model, Checkpoint):
        return Listing(model.names, model.dtype_names, model.shapes)
    if not isinstance(model, Graph):
        raise ArgumentTypeError.of("what is compared", "a Checkpoint or a Graph", model)
    local = set(model.get_collection(GraphKeys.LOCAL_VARIABLES))
    whole: dict[str, tuple[str, Any]] = {}
    for variable in model.variables:
        if variable in local:
            continue
        part = variable.save_slice_info
        name, shape = variable.op_name, variable.shape
        if part is not None:
            name, shape = part.full_name, part.full_shape
        whole[name] = str(variable.dtype), shape
    return Listing(
        list(whole), [dtype for dtype, _ in whole.values()], [shape for _, shape in whole.values()]
    )


@dataclass
class _Run:
    """One comparison."""

    a: Listing
    b: Listing
    model_a: Checkpoint | Graph
    model_b: Checkpoint | Graph
    tolerances: tuple[float, float]
    progress: Progress | None

    @functools.cached_property
    def checkpoints(self) -> tuple[Checkpoint, Checkpoint] | None:
        """Both, where both have values."""
        both = self.model_a, self.model_b
        return both if all(isinstance(each, Checkpoint) for each in both) else None  # type: ignore[return-value]

    @functools.cached_property
    def same_order(self) -> bool:
        """Whether equal bytes are equal values: not where one machine wrote them back to front."""
        assert self.checkpoints is not None
        a, b = self.checkpoints
        return a._columns.swapped == b._columns.swapped

    def compared(self) -> Comparison:
        places_a, places_b = self.common()
        removed = _others(len(self.a.names), places_a)
        added = _others(len(self.b.names), places_b)
        shapes = self.changed(places_a, places_b, self.a.shapes, self.b.shapes, self.shape_numbers)
        dtypes = self.changed(
            places_a, places_b, self.a.dtype_names, self.b.dtype_names, self.dtype_numbers
        )
        renamed = list(self.renamed(removed, added))
        gone = {old for old, _, _ in renamed}
        come = {new for _, new, _ in renamed}
        # What is alike by its name only may have other values.
        by_names = [(old, new) for old, new, by in renamed if by == renames.BY_NAMES]
        places_a = np.append(places_a, [old for old, _ in by_names]).astype(np.intp)
        places_b = np.append(places_b, [new for _, new in by_names]).astype(np.intp)
        values, compared = self.values(places_a, places_b)
        return Comparison(
            a=self.a,
            b=self.b,
            removed=[self.a.names[place] for place in removed.tolist() if place not in gone],
            added=[self.b.names[place] for place in added.tolist() if place not in come],
            renamed=[Renamed(self.a.names[old], self.b.names[new], by) for old, new, by in renamed],
            shapes=[each for each in shapes if not _may_be_equal(each.old, each.new)],
            dtypes=dtypes,
            values=values,
            compared=compared + len(renamed) - len(by_names),
        )

    @functools.cached_property
    def shape_numbers(self) -> _Numbers:
        """Of each tensor a number of its shape, the same on both sides."""
        return _numbered(self.a.shapes, self.b.shapes)

    @functools.cached_property
    def dtype_numbers(self) -> _Numbers:
        """Of each tensor a number of its dtype."""
        return _numbered(self.a.dtype_names, self.b.dtype_names)

    def common(self) -> tuple[_Places, _Places]:
        """Where the names are that both sides have, in the order of `a`."""
        if self.a.names == self.b.names:
            everywhere = np.arange(len(self.a.names))
            return everywhere, everywhere
        place_of = dict(zip(self.b.names, range(len(self.b.names)), strict=True))
        found = np.array([place_of.get(name, -1) for name in self.a.names], np.intp)
        places = np.flatnonzero(found >= 0)
        return places, found[places]

    def renamed(self, removed: _Places, added: _Places) -> Iterable[tuple[int, int, str]]:
        """Places of what seems to be renamed, of what is on one side only."""
        if not len(removed) or not len(added):
            return []
        contents = None
        if self.checkpoints is not None and self.same_order:
            a, b = self.checkpoints
            contents = renames.checksums(a, removed), renames.checksums(b, added)
        kinds_a, kinds_b = (
            shapes.astype(np.int64) << 32 | dtypes
            for shapes, dtypes in zip(self.shape_numbers, self.dtype_numbers, strict=True)
        )
        return renames.renamed(
            (self.a.names, removed, kinds_a[removed]),
            (self.b.names, added, kinds_b[added]),
            contents,
        )

    def changed(
        self,
        places_a: _Places,
        places_b: _Places,
        column_a: Sequence[Any],
        column_b: Sequence[Any],
        numbers: _Numbers,
    ) -> list[Changed]:
        """The tensors of two places whose entries in a column differ."""
        where = np.flatnonzero(numbers[0][places_a] != numbers[1][places_b])
        places = zip(places_a[where].tolist(), places_b[where].tolist(), strict=True)
        return [Changed(self.a.names[i], column_a[i], column_b[j]) for i, j in places]

    def values(self, places_a: _Places, places_b: _Places) -> tuple[ValueChanges, int]:
        """The tensors of one shape whose values differ, and how many were compared."""
        if self.checkpoints is None:
            nothing = np.empty(0)
            return ValueChanges([], [], [], nothing.astype(np.int64), nothing, nothing), 0
        shapes = self.shape_numbers[0][places_a]
        same_shape = np.flatnonzero(shapes == self.shape_numbers[1][places_b])
        shapes, places_a, places_b = (each[same_shape] for each in (shapes, places_a, places_b))
        same_dtype = self.dtype_numbers[0][places_a] == self.dtype_numbers[1][places_b]
        unknown = np.flatnonzero(~(same_dtype & self.same_checksums(places_a, places_b)))
        found = Differences(*self.checkpoints, places_a, places_b, self.tolerances)
        with _Told(
            self.progress, int(self.checkpoints[0].nbytes_of[places_a[unknown]].sum())
        ) as tell:
            found.find(unknown, tell)
        where = np.flatnonzero(found.elements)
        places = places_a[where].tolist()
        values = ValueChanges(
            list(map(self.a.names.__getitem__, places)),
            list(map(self.a.dtype_names.__getitem__, places)),
            list(map(self.a.shapes.__getitem__, places)),
            found.elements[where],
            found.absolute[where],
            found.relative[where],
        )
        return values, len(same_shape)

    def same_checksums(self, places_a: _Places, places_b: _Places) -> npt.NDArray[np.bool_]:
        """Of each pair, whether both have a recorded checksum, and the same one."""
        assert self.checkpoints is not None
        a, b = map(renames.recorded_checksums, self.checkpoints)
        if a is None or b is None or not self.same_order:
            return np.zeros(len(places_a), np.bool_)
        (sums_a, known_a), (sums_b, known_b) = a, b
        equal: npt.NDArray[np.bool_] = sums_a[places_a] == sums_b[places_b]
        return equal & known_a[places_a] & known_b[places_b]


class _Told:
    """Adds up how far the work is, and says so now and then."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, nbytes: int) -> None:
        self.done += nbytes
        if self.progress is not None:
            self.progress(self.done, self.total)

    def __enter__(self) -> _Told:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.progress is not None and kind is None:
            self.progress(self.total, self.total)


def _others(count: int, places: _Places) -> _Places:
    rest = np.ones(count, np.bool_)
    rest[places] = False
    return np.flatnonzero(rest)


def _numbered(a: Sequence[Hashable], b: Sequence[Hashable]) -> _Numbers:
    """The entries of two columns as numbers, equal ones as equal numbers."""
    number_of = {entry: number for number, entry in enumerate(dict.fromkeys(itertools.chain(a, b)))}
    first = np.fromiter(map(number_of.__getitem__, a), np.intp, len(a))
    if a == b:  # mostly
        return first, first
    return first, np.fromiter(map(number_of.__getitem__, b), np.intp, len(b))


def _may_be_equal(a: Iterable[int | None] | None, b: Iterable[int | None] | None) -> bool:
    """Whether two shapes are equal as far as they are known."""
    if a is None or b is None:
        return True
    a, b = tuple(a), tuple(b)
    return len(a) == len(b) and all(
        x is None or y is None or x == y for x, y in zip(a, b, strict=True)
    )
