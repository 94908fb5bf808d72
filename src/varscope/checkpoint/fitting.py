"""`Fit`: which tensors of files go into which variables of a graph, and all that differs.

Nothing is read or changed here.  Half a million names are a few columns: what differs is decided
once for each kind of variable and tensor, not for each pair.
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from varscope import folding, shapes
from varscope._scopecore import Spec, spec_numbers
from varscope.checkpoint.contents import Checkpoint, readable_dtype
from varscope.checkpoint.opening import open as open_checkpoint
from varscope.creation import GraphKeys
from varscope.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    CheckpointError,
    NameMapError,
    RestoreError,
    shown,
)
from varscope.graph import Graph, unmoved
from varscope.shapes import Part

if TYPE_CHECKING:
    import numpy.typing as npt

    from varscope.variables import Variable

CASTS = ("safe", "same_kind", "unsafe")
SHOWN = 10  # lines of each group in an error
TIMES = "\N{MULTIPLICATION SIGN}"
SAMPLE = 2000  # names that show whether folding helps
CANDIDATES = 200  # names that are compared with one that is missing


def none() -> npt.NDArray[np.int64]:
    return np.empty(0, np.int64)


# --- what there is to read


class Sources:
    """The checkpoints that are read, by what a name map may call them; closed if opened here."""

    def __init__(self, path: Any) -> None:
        self.labels: list[Any] | None = None
        self.opened: list[Checkpoint] = []
        self.checkpoints: list[Checkpoint] = []
        several = isinstance(path, (list, tuple, Mapping)) and not isinstance(path, Checkpoint)
        if several and len(path) == 0:
            raise ArgumentValueError.of("path", "at least one path", path)
        if isinstance(path, Mapping) and not isinstance(path, Checkpoint):
            self.labels = list(path)
            path = list(path.values())
        try:
            for each in path if several else [path]:
                self.checkpoints.append(self._opened(each))
        except BaseException:
            self.close()
            raise

    def _opened(self, path: Any) -> Checkpoint:
        if isinstance(path, Checkpoint):
            return path
        if not isinstance(path, (str, os.PathLike)):
            expected = "a path, an open Checkpoint, or a list or dict of these"
            raise ArgumentTypeError.of("path", expected, path)
        self.opened.append(open_checkpoint(path))
        return self.opened[-1]

    @property
    def text(self) -> str:
        return ", ".join(str(checkpoint.path) for checkpoint in self.checkpoints)

    def for_plan(self) -> Any:
        """What a name map plans with."""
        if self.labels is None:
            return self.checkpoints
        return dict(zip(self.labels, self.checkpoints, strict=True))

    def close(self) -> None:
        for checkpoint in self.opened:
            checkpoint.close()


class Tensors:
    """The tensors of all sources as columns, and what a name map makes of several of them.

    A tensor has a number; `number_of` leads there from the name that a variable would have.
    """

    def __init__(self, sources: Sources, names: Any) -> None:
        self.sources = sources
        self.shapes: list[tuple[int, ...]] = []
        self.dtypes: list[Any] = []  # numpy.dtype; of one that cannot be read its name
        self.bases: list[int] = []
        self.recipes: dict[int, Any] = {}
        self.unused: list[str] = []
        self._known: dict[str, Any] = {}
        for checkpoint in sources.checkpoints:
            self.bases.append(len(self.shapes))
            self.shapes += checkpoint.shapes
            self.dtypes += map(self._dtype, checkpoint.dtype_names)
        if names is None:
            self.number_of = self._by_own_names()
        else:
            self.number_of = self._by_plan(names)

    def _dtype(self, name: str) -> Any:
        found = self._known.get(name)
        if found is None:
            try:
                found = readable_dtype(name, self.sources.checkpoints[-1].path, name)
            except CheckpointError:
                found = name
            self._known[name] = found
        return found

    def _by_own_names(self) -> Mapping[str, int]:
        checkpoints = self.sources.checkpoints
        if len(checkpoints) == 1:
            return checkpoints[0]._by_name()
        numbers: dict[str, int] = {}
        for base, checkpoint in zip(self.bases, checkpoints, strict=True):
            for place, name in enumerate(checkpoint.names):
                if numbers.setdefault(name, base + place) != base + place:
                    raise NameMapError(
                        f"tensor {shown(name)} is in more than one of the sources "
                        f"{self.sources.text}; write names=, a map that says which one is meant"
                    )
        return numbers

    def _by_plan(self, names: Any) -> Mapping[str, int]:
        from varscope.name_maps import NameMap  # seldom needed

        rules = NameMap.of(names)
        if rules is None:
            return self._by_own_names()
        plan = rules.plan(self.sources.for_plan())
        checkpoints = self.sources.checkpoints
        self.unused = [name for _, name in plan.unused]
        if plan.renames is not None:
            places = checkpoints[0]._by_name()
            return {written: places[name] for written, name in plan.renames.items()}
        numbers: dict[str, int] = {}
        for written, recipe in plan.recipes.items():
            if recipe.plain:
                (number, name), *_ = recipe.sources
                numbers[written] = self.bases[number] + checkpoints[number]._by_name()[name]
            else:
                numbers[written] = len(self.shapes)
                self.recipes[len(self.shapes)] = recipe
                self.shapes.append(tuple(recipe.shape))
                self.dtypes.append(recipe.dtype)
        return numbers

    def origin(self, number: int) -> tuple[Checkpoint, int]:
        """The checkpoint of a tensor, and its place there."""
        source = max(i for i, base in enumerate(self.bases) if base <= number)
        return self.sources.checkpoints[source], number - self.bases[source]

    def without(self, numbers: np.ndarray) -> dict[str, tuple[Any, Any]]:
        """The dtype and the shape of all tensors but these, by name."""
        used = np.zeros(len(self.shapes), bool)
        used[numbers] = True
        if used.all():
            return {}
        return {
            name: (self.dtypes[number], self.shapes[number])
            for name, number in self.number_of.items()
            if not used[number]
        }

    def name(self, number: int) -> str:
        """What a tensor is called in its file."""
        if number in self.recipes:
            return ", ".join(name for _, name in self.recipes[number].sources[:3])
        checkpoint, place = self.origin(number)
        return checkpoint.names[place]


# --- what there is to fill


class Wanted:
    """The variables of a graph that take part, as columns; a shard counts by itself.

    Local variables do not: they are what one process needs for itself.
    """

    @classmethod
    def of(cls, graph: Graph) -> Wanted:
        """Those of a graph in which other threads may create, and withdraw."""
        return unmoved(graph, lambda: cls(graph))

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.op_names: list[str] = graph._op_names()
        self.names = list(self.op_names)  # those of whole variables for their shards
        self.specs: list[int] = np.frombuffer(spec_numbers(graph), np.uint32).tolist()
        self.all_specs: list[Spec] = graph._all_specs()
        count = min(len(self.names), len(self.specs))
        local = [GraphKeys.LOCAL_VARIABLES in spec.collections for spec in self.all_specs]
        local.append(True)  # of a row that was taken out
        last = len(local) - 1
        self.specs = [min(number, last) for number in self.specs]
        self.rows: Sequence[int] = range(count)
        if any(local[number] for number in set(self.specs[:count])):
            self.rows = [row for row in range(count) if not local[self.specs[row]]]
        self.is_all = len(self.rows) == count
        self.parts: dict[int, Part] = {}
        for path, kept in graph._partitions():
            for i in range(kept.slicing.count):
                row = graph._row(f"{path}/part_{i}")
                if 0 <= row < count:
                    self.names[row] = path
                    self.parts[row] = kept.slicing.part(i)

    def handles(self, rows: list[int]) -> list[Variable] | None:
        """The variables of some rows; None where others have moved to these rows meanwhile.

        They do where a variable before them is withdrawn, because what created it raised.
        """
        try:
            found = [self.graph._handle(row) for row in rows]
        except IndexError:
            return None
        count = len(self.op_names)
        return found if self.graph._op_names()[:count] == self.op_names else None

    def facts(self, row: int) -> tuple[Any, Any]:
        """The dtype and the shape of a variable, those of the whole for a shard."""
        spec, part = self.all_specs[self.specs[row]], self.parts.get(row)
        return spec.dtype, spec.shape if part is None else part.full_shape


# --- which fits which


@dataclass(frozen=True, slots=True)
class Kind:
    """Variables that are alike, and what they get: all that is the same for them."""

    shape: tuple[int, ...]  # of each variable
    dtype: np.dtype
    stored: np.dtype  # the dtype in the file
    spec: Spec | None  # with the shape of the file, where the variables' is open
    given: Spec  # what they are now

    @property
    def plain(self) -> bool:
        """Whether the bytes in the file are those of the variable."""
        return self.dtype == self.stored


@dataclass(repr=False)
class Fit:
    """What goes where: the names that fit, and all that does not.

    `restored` are names of variables that have a tensor which fits, `missing` those that have
    none, and `left_over` names of tensors that no variable takes; `shapes` and `dtypes` map a name
    to (what the variable has, what the file has).
    """

    path: str
    restored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    dtypes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    # Of those that fit, by variable, shards by themselves.
    rows: npt.NDArray[np.int64] = field(default_factory=none)
    numbers: npt.NDArray[np.int64] = field(default_factory=none)  # of their tensors
    which: npt.NDArray[np.int64] = field(default_factory=none)  # their places in `kinds`
    kinds: list[Any] = field(default_factory=list)
    _unused: list[str] = field(default_factory=list)
    _details: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)

    def error(self, partial: bool = False) -> RestoreError | None:
        """What `restore` raises; None where it goes on."""
        differs = self.shapes or self.dtypes
        if partial:
            nothing = not self.restored and (self.missing or self.left_over)
            if not differs and not nothing:
                return None
        elif not differs and not self.missing and not self.left_over:
            return None
        return RestoreError.stating(
            "\n".join(described(self, partial)),
            path=self.path,
            tensor=None,
            missing=self.missing,
            left_over=self.left_over,
            shapes=self.shapes,
            dtypes=self.dtypes,
        )

    def __repr__(self) -> str:
        return (
            f"<Fit of {self.path!r}: {len(self.restored):,} fit, {len(self.missing):,} missing, "
            f"{len(self.left_over):,} left over, {len(self.shapes):,} of another shape, "
            f"{len(self.dtypes):,} of another dtype>"
        )


def fit(graph: Graph, path: Any, *, names: Any = None, cast: str | None = None) -> Fit:
    """Which tensors would go into which variables, as `restore` with these arguments decides it.

    No values are read, and the graph stays as it is.

    >>> import numpy as np, varscope as vs
    >>> from safetensors.numpy import save_file
    >>> save_file({"w": np.ones([2, 3], "float32"), "b": np.ones(3, "float32")}, "fit.safetensors")
    >>> g = vs.Graph()
    >>> with g.as_default():
    ...     w, v = vs.get_variable("w", [2, 3]), vs.get_variable("v", [3])
    >>> found = fit(g, "fit.safetensors")
    >>> found.restored, found.missing, found.left_over
    (['w'], ['v'], ['b'])
    """
    check_arguments(graph, cast)
    sources = Sources(path)
    try:
        return fitted(Wanted.of(graph), Tensors(sources, names), cast)
    finally:
        sources.close()


def check_arguments(graph: Any, cast: Any) -> None:
    if not isinstance(graph, Graph):
        raise ArgumentTypeError.of("graph", "a varscope.Graph", graph)
    if cast is not None and cast not in CASTS:
        which = ArgumentValueError if isinstance(cast, str) else ArgumentTypeError
        raise which.of("cast", "None, 'safe', 'same_kind' or 'unsafe', as for numpy.can_cast", cast)


def fitted(wanted: Wanted, tensors: Tensors, cast: str | None) -> Fit:
    """Compare what is wanted with what there is, by columns."""
    names, number_of = wanted.names, tensors.number_of
    rows = np.asarray(wanted.rows, np.int64)
    asked: list[str] = names[: len(rows)] if wanted.is_all else [names[row] for row in wanted.rows]
    numbers = np.fromiter(map(number_of.get, asked, itertools.repeat(-1)), np.int64, len(rows))
    there = numbers >= 0
    found = Fit(tensors.sources.text, _unused=tensors.unused)
    missing = {names[row]: wanted.facts(row) for row in rows[~there].tolist()}
    found.missing, found._details["missing"] = list(missing), missing
    left_over = tensors.without(numbers[there])
    found.left_over, found._details["left_over"] = [*left_over, *tensors.unused], left_over
    rows, numbers = rows[there], numbers[there]
    kinds, which = kinds_of_pairs(wanted, tensors, rows, numbers, cast)
    fits = np.array([type(kind) is Kind for kind in kinds], bool)[which]
    for row, number in zip(rows[~fits].tolist(), which[~fits].tolist(), strict=True):
        for attribute, fact in kinds[number].items():
            getattr(found, attribute)[names[row]] = fact
    found.rows, found.numbers, found.which = rows[fits], numbers[fits], which[fits]
    found.kinds = kinds
    found.restored = [names[row] for row in found.rows.tolist()]
    if wanted.parts:
        found.restored = list(dict.fromkeys(found.restored))
    return found


def kinds_of_pairs(
    wanted: Wanted, tensors: Tensors, rows: np.ndarray, numbers: np.ndarray, cast: str | None
) -> tuple[list[Any], np.ndarray]:
    """What becomes of each pair of variable and tensor: its verdict's place in a list."""
    alike, of_tensor = numbered(zip(tensors.dtypes, tensors.shapes, strict=True))
    # Shards are of a spec too, and of a place in the whole: these are told apart.
    parts: list[Any] = [None]
    of_part = np.zeros(len(rows), np.int64)
    if wanted.parts:
        parts, of_part = numbered(wanted.parts.get(row) for row in rows.tolist())
    specs = np.asarray(wanted.specs, np.int64)[rows]
    codes = (specs * len(parts) + of_part) * max(1, len(alike)) + of_tensor[numbers]
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    kinds = []
    for at in first.tolist():
        dtype, shape = alike[of_tensor[numbers[at]]]
        kinds.append(judged(wanted.all_specs[specs[at]], parts[of_part[at]], dtype, shape, cast))
    return kinds, which.reshape(-1)


def numbered(values: Iterable[Any]) -> tuple[list[Any], np.ndarray]:
    """The different values, and for each of all its place among those."""
    numbers: dict[Any, int] = {}
    places = [numbers.setdefault(value, len(numbers)) for value in values]
    return list(numbers), np.array(places, np.int64)


def judged(
    spec: Spec, part: Part | None, stored: Any, shape: tuple[int, ...], cast: str | None
) -> Kind | dict[str, tuple[Any, Any]]:
    """How a tensor goes into a variable; or what differs, by the name of `Fit`'s attribute."""
    facts: dict[str, tuple[Any, Any]] = {}
    asked = spec.shape if part is None else part.full_shape
    if not shapes.is_compatible(asked, shape):
        facts["shapes"] = asked, shape
    if stored != spec.dtype and not (
        cast is not None and isinstance(stored, np.dtype) and shapes.fits(stored, spec.dtype, cast)
    ):
        facts["dtypes"] = spec.dtype, stored
    if facts:
        return facts
    own = shape if part is None else part.shape
    return Kind(own, spec.dtype, stored, spec.resolved(own) if spec.size < 0 else None, spec)


# --- the text of an error


def described(found: Fit, partial: bool) -> Iterator[str]:
    """The lines of an error: each group of differences, then what to write."""
    missing, left_over = found._details["missing"], found._details["left_over"]
    if partial and not found.restored and not found.shapes and not found.dtypes:
        yield f"checkpoint {found.path} has nothing in common with the graph:"
    else:
        yield f"checkpoint {found.path} does not fit the graph, and nothing was restored:"
    rows = folded(missing)
    proposals = near(missing, left_over, [pattern for pattern, *_ in rows[:SHOWN]])
    yield from group(rows, "variable has", "variables have", "no tensor", kind_text, proposals)
    yield from group(folded(left_over), "tensor has", "tensors have", "no variable", kind_text)
    unused = dict.fromkeys(found._unused, (None, None))
    by_no_rule = "matched by no rule of names="
    yield from group(folded(unused), "tensor is", "tensors are", by_no_rule, kind_text)
    for which, facts in ("shape", found.shapes), ("dtype", found.dtypes):
        one, many = f"variable has another {which}", f"variables have other {which}s"
        rest = "than its tensor" if len(facts) == 1 else "than their tensors"
        yield from group(folded(facts), one, many, rest, differing)
    yield from advice(found, partial)


def advice(found: Fit, partial: bool) -> Iterator[str]:
    if (found.missing or found.left_over) and not partial:
        yield "to restore what is there on both sides, write partial=True"
    if found.missing and found._details["left_over"]:
        yield "where names differ, write a name map, as in names={'name in the file': 'variable'}"
    if found._unused:
        yield 'to leave out what no rule takes, write a last rule {"glob": "**", "drop": True}'
    if found.dtypes:
        yield castable(found.dtypes.values())
    if found.shapes:
        yield "shapes must be equal: a name map can change that of a tensor, or leave it out"


def castable(pairs: Iterable[tuple[Any, Any]]) -> str:
    """Which cast would do for dtypes that differ."""
    pairs = set(pairs)
    for cast in CASTS:
        if all(
            isinstance(stored, np.dtype) and shapes.fits(stored, dtype, cast)
            for dtype, stored in pairs
        ):
            return f"to convert dtypes, write cast={cast!r}"
    unknown = sorted(str(stored) for _, stored in pairs if not isinstance(stored, np.dtype))
    return (
        f"{', '.join(unknown[:SHOWN])}: not a dtype that can be read here; for bfloat16 and "
        "float8: pip install ml_dtypes"
    )


def differing(fact: tuple[Any, Any]) -> str:
    return f"{fact[0]} here, {fact[1]} in the file"


def kind_text(fact: tuple[Any, Any]) -> str:
    dtype, shape = fact
    if dtype is None:
        return ""
    sizes = "..." if shape is None else ", ".join("?" if n is None else str(n) for n in shape)
    return f"{dtype}[{sizes}]"


def folded(facts: Mapping[str, tuple[Any, Any]]) -> list[tuple[str, Any, int]]:
    """(pattern of names, fact, how many): where they are many, those that are alike in one.

    Folding half a million names that are not alike takes long, and helps nobody: some show it.
    """
    if len(facts) > SHOWN:
        if len(facts) <= SAMPLE:
            return folding.fold(facts.items())
        if 2 * len(folding.fold(itertools.islice(facts.items(), SAMPLE))) < SAMPLE:
            return folding.fold(facts.items())
    return [(folding.escaped(name), fact, 1) for name, fact in facts.items()]


def cut(pattern: str) -> str:
    """A pattern for a line; one of many numbers without a pattern may be megabytes."""
    return pattern if len(pattern) <= 150 else f"{pattern[:130]}... ({len(pattern):,} characters)"


def group(
    rows: Sequence[tuple[str, Any, int]],
    one: str,
    many: str,
    rest: str,
    text: Callable[[Any], str],
    proposals: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """A line that counts, and a line for each of the first rows."""
    total = sum(count for *_, count in rows)
    if not total:
        return
    yield f"  {total:,} {one if total == 1 else many} {rest}:"
    for pattern, fact, count in rows[:SHOWN]:
        line = f"    {cut(pattern)}  {text(fact)}".rstrip()
        line += f"  {TIMES}{count:,}" if count > 1 else ""
        if proposals and pattern in proposals:
            line += f"  (is it {shown(proposals[pattern])} in the file?)"
        yield line
    left = sum(count for *_, count in rows[SHOWN:])
    if left:
        yield f"    ... and {left:,} more"


# --- names that may be meant

NUMBERS = re.compile(r"\d+")


def last(name: str) -> str:
    """The last component of a name, as others spell names too."""
    return re.split(r"[/.]", name)[-1]


def near(
    missing: Mapping[str, tuple[Any, Any]],
    left_over: Mapping[str, tuple[Any, Any]],
    names: Iterable[str],
) -> dict[str, str]:
    """For some missing names: the name in the file that may be meant.

    Comparing texts takes long, so each is compared with a few only: names with the same last
    component and the same numbers, then such of the same shape.
    """
    asked = [name for name in names if name in missing and left_over]
    close: dict[Any, list[str]] = {}
    for name in asked:
        numbers = tuple(NUMBERS.findall(name))
        close[last(name), numbers], close[missing[name][1], numbers] = [], []
        close[last(name)], close[missing[name][1]] = [], []
    if not close:
        return {}
    for name, (_, shape) in left_over.items():
        leaf = name.rpartition("/")[2].rpartition(".")[2]
        if leaf in close or shape in close:
            numbers = tuple(NUMBERS.findall(name))
            for key in (leaf, numbers), (shape, numbers), leaf, shape:
                if key in close and len(close[key]) < CANDIDATES:
                    close[key].append(name)
    found = {}
    for name in asked:
        leaf, shape, numbers = last(name), missing[name][1], tuple(NUMBERS.findall(name))
        names = itertools.chain(
            close[leaf, numbers], close[shape, numbers], close[leaf], close[shape]
        )
        best = difflib.get_close_matches(name, dict.fromkeys(names), 1, 0.6)
        if f"{name}/part_0" in left_over:  # shards that somebody has written one by one
            best = [f"{name}/part_0"]
        if best:
            found[name] = best[0]
    return found
