"""Many variables in a few lines: repeated siblings fold into one row.

A generated model has half a million variables and a dozen kinds of them.  ``fold`` finds the
kinds: it turns ``layers_0/w``, ``layers_1/w``, … into the row ``layers_[0-91]/w`` wherever dtype
and shape agree.  Nothing is lost: ``expand`` gives back every variable.

How a pattern reads:

``layers_[0-3,5,7-9]``
    ``layers_0`` to ``layers_3``, ``layers_5``, and ``layers_7`` to ``layers_9``.
``norm{,_1}`` and ``norm{,_[1-91]}``
    ``norm`` and ``norm_1``, the names that default-named scopes get; ``norm`` to ``norm_91``.

How it works: the paths become a tree, which is folded once from the bottom.  Scopes with equal
children are folded once, however often they occur.  A folded path is a pair (pattern of its first
component, folded rest), and equal pairs are one number; so rows of siblings merge wherever the
rests agree, although the siblings may differ elsewhere.  The work is linear in the number of
names where a model repeats itself, and in names times depth where nothing repeats.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy

if TYPE_CHECKING:
    from varscope.graph import Graph

__all__ = [
    "Summary",
    "SummaryRow",
    "expand",
    "fold",
    "format_bytes",
    "format_type",
    "summarize",
]

Shape = tuple[int | None, ...] | None
_Kind = TypeVar("_Kind", bound=Hashable)

# A number is only read as one where writing it again gives the same text: no leading zeros.
# Eighteen digits are more siblings than anyone has, and keep int() from meeting hostile lengths.
_NUMBERED = re.compile(r"(|.*_)(0|[1-9][0-9]{0,17})(/?)", re.DOTALL)
_PATTERN = re.compile(r"(.*?)(?:\{,_\[?([0-9,-]+)\]?\}|\[([0-9,-]+)\])?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """All variables of one kind: a path pattern, what they share, and how many they are.

    ``parameters`` and ``nbytes`` are those of all ``count`` variables together; None where the
    shape is not known yet.
    """

    path: str
    dtype: str
    shape: Shape
    count: int
    parameters: int | None
    nbytes: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The rows of a graph and their totals (variables of unknown shape count as nothing)."""

    rows: tuple[SummaryRow, ...]
    variables: int
    parameters: int
    nbytes: int


def summarize(graph: Graph) -> Summary:
    """Fold all variables of ``graph``.

    >>> import varscope as vs
    >>> graph = vs.Graph()
    >>> with graph.as_default():
    ...     for i in range(12):
    ...         with vs.variable_scope(f"layers_{i}"):
    ...             kernel = vs.get_variable("kernel", [8, 8])
    >>> summary = summarize(graph)
    >>> [(row.path, row.count) for row in summary.rows]
    [('layers_[0-11]/kernel', 12)]
    >>> summary.parameters
    768
    """
    rows = fold((v.op_name, v.dtype, v.shape) for v in graph.variables)
    return Summary(
        rows=tuple(rows),
        variables=sum(row.count for row in rows),
        parameters=sum(row.parameters or 0 for row in rows),
        nbytes=sum(row.nbytes or 0 for row in rows),
    )


def fold(variables: Iterable[tuple[str, Any, Shape]]) -> list[SummaryRow]:
    """Fold (path, dtype, shape) triples into rows, in the order in which kinds first appear.

    Paths are names that a graph accepts, each at most once (``ValueError`` otherwise); a dtype is
    anything that ``numpy.dtype`` accepts.

    >>> [row.path for row in fold([("w", "float32", (2,)), ("w_1", "float32", (2,))])]
    ['w{,_1}']
    """
    kinds = ((path, (dtype, shape)) for path, dtype, shape in variables)
    dtypes: dict[Any, tuple[str, int]] = {}
    rows = []
    for pattern, (dtype, shape), count in _fold_paths(kinds):
        if dtype not in dtypes:
            # str() shows the byte order where it is not the machine's own; .name hides it.
            dtypes[dtype] = str(numpy.dtype(dtype)), numpy.dtype(dtype).itemsize
        parameters = _parameters(shape, count)
        name, itemsize = dtypes[dtype]
        nbytes = None if parameters is None else parameters * itemsize
        rows.append(SummaryRow(pattern, name, shape, count, parameters, nbytes))
    return rows


def expand(rows: Iterable[SummaryRow]) -> Iterator[tuple[str, str, Shape]]:
    """Undo ``fold``: every (path, dtype, shape), row by row.

    >>> rows = fold([("w", "float32", (2,)), ("w_1", "float32", (2,))])
    >>> list(expand(rows))
    [('w', 'float32', (2,)), ('w_1', 'float32', (2,))]
    """
    for row in rows:
        components = [_component_names(pattern) for pattern in row.path.split("/")]
        for names in itertools.product(*components):
            yield "/".join(names), row.dtype, row.shape


def format_bytes(nbytes: int) -> str:
    """``nbytes`` in the largest binary unit that leaves a number of at least one.

    >>> format_bytes(1536)
    '1.5 KiB'
    """
    if nbytes < 1024:
        return f"{nbytes} bytes"
    units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    size = nbytes / 1024
    # 1023.96 would be shown as 1024.0, which is one of the next unit.
    while round(size, 1) >= 1024 and len(units) > 1:
        size /= 1024
        del units[0]
    return f"{size:,.1f} {units[0]}"


def format_type(dtype: str, shape: Shape) -> str:
    """``dtype`` with ``shape`` behind it; sizes that are not known yet are question marks.

    >>> format_type("float16", (64, None)), format_type("int8", None)
    ('float16[64, ?]', 'int8[...]')
    """
    if shape is None:
        return f"{dtype}[...]"
    return f"{dtype}[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _parameters(shape: Shape, count: int) -> int | None:
    if shape is None:
        return None
    parameters = count
    for size in shape:
        if size is None:
            return None
        parameters *= size
    return parameters


class _Tails:
    """The folded rests of paths, and the contents of scopes made of them.

    A tail is one component's pattern and the tail below it; the lowest has no component, only
    the kind of the variable.  Equal tails are one number.  Numbers and flat lists, not linked
    objects: the garbage collector need not walk them, and chains may be deeper than recursion
    goes.  A content is what one name stands for: the lowest tail for a variable, all tails below
    for a scope; it is known by its index in ``contents``.
    """

    def __init__(self) -> None:
        self.contents: list[list[int]] = []
        self._content_of_scope: dict[tuple[str | int, ...], int] = {}
        self._patterns: list[str] = []
        self._below: list[int] = []
        self._counts: list[int] = []
        self._first_keys: dict[str, int] = {}
        self._numbers: dict[int, int] = {}
        self._splits: dict[str, tuple[str, int]] = {}

    def add_kind(self, number: int) -> int:
        """The content of a variable of the kind with this number."""
        # The lowest tail keeps the number of its kind where others keep the tail below.
        self.contents.append([self._add("", ~number, 1)])
        return len(self.contents) - 1

    def add_scope(self, children: dict[str, int]) -> int:
        """The content of a scope with these children, the same for equal children."""
        key: tuple[str | int, ...] = (*children, *children.values())
        content = self._content_of_scope.get(key)
        if content is None:
            self.contents.append(self.fold_children(children))
            content = self._content_of_scope[key] = len(self.contents) - 1
        return content

    def fold_children(self, children: dict[str, int]) -> list[int]:
        """One tail for all children that differ in their number only."""
        families: dict[str, list[str]] = {}
        for name in children:
            families.setdefault(self._split(name)[0], []).append(name)
        folded: list[int] = []
        for stem, names in families.items():
            for sharing, tails in self._shared(names, children):
                if len(sharing) == 1:
                    pattern = sharing[0]
                else:
                    pattern = _pattern(stem, [self._split(name)[1] for name in sharing])
                folded += self._above(pattern, tails, len(sharing))
        return folded

    def unfold(self, tail: int) -> tuple[str, int, int]:
        """A tail's whole pattern, the number of its kind, and how many variables it stands for."""
        count = self._counts[tail]
        patterns = []
        while tail >= 0:
            patterns.append(self._patterns[tail])
            tail = self._below[tail]
        return "".join(patterns), ~tail, count

    def _shared(
        self, names: list[str], children: dict[str, int]
    ) -> Iterable[tuple[list[str], list[int]]]:
        """Siblings, with the tails that these and no other siblings have."""
        if len({children[name] for name in names}) == 1:
            return [(names, self.contents[children[names[0]]])]
        names_of_content: dict[int, list[str]] = {}
        for name in names:
            names_of_content.setdefault(children[name], []).append(name)
        names_of_tail: dict[int, list[str]] = {}
        for content, sharing in names_of_content.items():
            for tail in self.contents[content]:
                names_of_tail.setdefault(tail, []).extend(sharing)
        return ((sharing, [tail]) for tail, sharing in names_of_tail.items())

    def _above(self, pattern: str, tails: list[int], repeats: int) -> list[int]:
        # One integer for (pattern, tail): the collector need not walk it, as it would a tuple.
        first_key = self._first_keys.setdefault(pattern, len(self._first_keys) << 48)
        above = []
        for tail in tails:
            number = self._numbers.get(first_key + tail)
            if number is None:
                number = self._add(pattern, tail, repeats * self._counts[tail])
                self._numbers[first_key + tail] = number
            above.append(number)
        return above

    def _add(self, pattern: str, below: int, count: int) -> int:
        self._patterns.append(pattern)
        self._below.append(below)
        self._counts.append(count)
        return len(self._counts) - 1

    def _split(self, name: str) -> tuple[str, int]:
        split = self._splits.get(name)
        if split is None:
            split = self._splits[name] = _split(name)
        return split


_BARE = -1  # the number of a sibling that has none: `norm` beside `norm_1`


def _split(name: str) -> tuple[str, int]:
    """A name's stem and number; a scope's stem keeps the slash that ends its name.

    So a variable `w` and a scope `w/` have two stems.
    """
    match = _NUMBERED.fullmatch(name)
    if match:
        stem, digits, slash = match.groups()
        return stem + slash, int(digits)
    if name.endswith("/"):
        return f"{name[:-1]}_/", _BARE
    return f"{name}_", _BARE


def _fold_paths(items: Iterable[tuple[str, _Kind]]) -> Iterator[tuple[str, _Kind, int]]:
    """Fold (path, kind) pairs into (pattern, kind, count): equal kinds may share a row."""
    tails = _Tails()
    tree = _Tree(items, tails)
    # Parents come before their children in this list, so backwards every child is ready.
    for children, parent, name in reversed(tree.scopes):
        parent[name] = tails.add_scope(children)
    kinds = list(tree.content_of_kind)
    folded = [tails.unfold(tail) for tail in tails.fold_children(tree.root)]
    if sum(count for _, _, count in folded) != tree.number_of_paths:
        raise ValueError("the same path occurs twice; a summary is of distinct names")
    return ((pattern, kinds[kind], count) for pattern, kind, count in folded)


class _Tree(Generic[_Kind]):
    """The paths as nested dicts from name to child; names of scopes end with a slash.

    A child is a dict for a scope and a content for a variable.  ``scopes`` lists all scopes but
    the root as (children, parent, name), parents first.
    """

    def __init__(self, items: Iterable[tuple[str, _Kind]], tails: _Tails) -> None:
        self.root: dict[str, Any] = {}
        self.scopes: list[tuple[dict[str, Any], dict[str, Any], str]] = []
        self.content_of_kind: dict[_Kind, int] = {}
        self.number_of_paths = 0
        # Only scopes that hold a variable are remembered by path: remembering their ancestors
        # too would take memory quadratic in the depth.
        scope_at = {"": self.root}
        content_of_kind = self.content_of_kind
        for path, kind in items:
            self.number_of_paths += 1
            content = content_of_kind.get(kind)
            if content is None:
                content = content_of_kind[kind] = tails.add_kind(len(content_of_kind))
            cut = path.rfind("/") + 1
            prefix = path[:cut]
            children = scope_at.get(prefix)
            if children is None:
                children = scope_at[prefix] = self._open_scope(prefix)
            children[path[cut:]] = content

    def _open_scope(self, prefix: str) -> dict[str, Any]:
        children = self.root
        for component in prefix[:-1].split("/"):
            name = component + "/"
            child = children.get(name)
            if child is None:
                child = children[name] = {}
                self.scopes.append((child, children, name))
            children = child
        return children


def _pattern(stem: str, numbers: list[int]) -> str:
    """The pattern of two or more siblings."""
    slash = "/" if stem.endswith("/") else ""
    stem = stem.removesuffix("/")
    first, *others = ordered = sorted(numbers)
    if first != _BARE:
        return f"{stem}[{_ranges(ordered)}]{slash}"
    beside_bare = str(others[0]) if len(others) == 1 else f"[{_ranges(others)}]"
    return f"{stem[:-1]}{{,_{beside_bare}}}{slash}"


def _ranges(ordered: list[int]) -> str:
    runs: list[list[int]] = []
    for number in ordered:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _component_names(pattern: str) -> list[str]:
    match = _PATTERN.fullmatch(pattern)
    assert match is not None  # every part of the expression may be empty
    stem, numbers_beside_bare, numbers = match.groups()
    if numbers_beside_bare is not None:
        return [stem, *(f"{stem}_{number}" for number in _numbers(numbers_beside_bare))]
    if numbers is not None:
        return [f"{stem}{number}" for number in _numbers(numbers)]
    return [stem]


def _numbers(ranges: str) -> Iterator[int]:
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
