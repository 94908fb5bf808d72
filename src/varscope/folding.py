"""Many names in a few patterns: siblings that differ in a number only become one.

``fold`` turns ``layers_0/w``, ``layers_1/w``, … into ``layers_[0-91]/w`` wherever the kinds of what
is named so are equal.  Nothing is lost, whatever the names: ``expand`` gives back each of them.

How a pattern reads:

``layers_[0-3,5]/w``, ``layers.[0-3].w``
    ``w`` in ``layers_0`` to ``layers_3`` and ``layers_5``; in ``layers.0`` to ``layers.3``.
``norm{,_1}`` and ``norm{,_[1-91]}``
    ``norm`` and ``norm_1``, the names that default-named scopes get; ``norm`` to ``norm_91``.
``a\\[0]``, ``a\\{,_1}``, ``a\\\\``, ``a\\x1b``
    What would be read as one of those, a backslash, or a character that cannot be printed, in a
    name.  So a pattern can be shown on any terminal.

How it works: the names, whose components end at slashes and dots, become a tree, which is folded
once from the bottom.  Scopes with equal children are folded once, however often they occur.  Where
siblings differ in a part of what is below them, that is taken apart into rows, equal ones of which
are one number; so they merge wherever the rests agree.  The work is linear in the number of names,
and in names times depth where nearly alike siblings stand in each other all the way down.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, TypeVar

from varscope._scopecore import name_tree, number_scopes

__all__ = ["components", "escaped", "expand", "fold", "printable"]

_Kind = TypeVar("_Kind", bound=Hashable)

# A number is only read as one where writing it again gives the same text: no leading zeros.
# Eighteen digits are more siblings than anyone has, and keep int() from meeting hostile lengths.
_NUMBERED = re.compile(r"(|.*_)(0|[1-9][0-9]{0,17})([/.]?)", re.DOTALL)
_SEPARATORS = ("/", ".")
_DIGITS = frozenset("0123456789")
_BARE = -1  # the number of a sibling that has none: `norm` beside `norm_1`

_SPECIAL = re.compile(r"\\|\[(?=[0-9])|\{(?=,)")
_ESCAPE = r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[\\\[{])"
_PARTS = re.compile(
    rf"\{{,_\[?(?P<beside_bare>[0-9,-]+)\]?\}}|\[(?P<numbers>[0-9][0-9,-]*)\]|(?P<escape>{_ESCAPE})"
)
_COMPONENT = re.compile(r"[^/.]*[/.]|[^/.]+$")


def fold(items: Iterable[tuple[str, _Kind]]) -> list[tuple[str, _Kind, int]]:
    """Fold (name, kind) pairs into (pattern, kind, count), in the order in which they first appear.

    Names may be any text, each at most once (``ValueError`` otherwise).

    >>> fold([("layers_0/w", "a"), ("layers_1/w", "a"), ("layers_1/b", "a"), ("layers_2/w", "b")])
    [('layers_[0-1]/w', 'a', 2), ('layers_1/b', 'a', 1), ('layers_2/w', 'b', 1)]
    """
    pairs = list(items)
    names, kinds = [name for name, _ in pairs], [kind for _, kind in pairs]
    contents = _Contents()
    number_of_kind = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    content_of_kind = {kind: contents.add_kind(number) for kind, number in number_of_kind.items()}
    root, scopes, parents, components = name_tree(names, [content_of_kind[kind] for kind in kinds])
    number_scopes(scopes, parents, components, contents.of_scope, contents.fold_children)
    found = list(number_of_kind)
    rows = contents.unfolded(contents.fold_children(root))
    folded = [(pattern, found[kind], count) for pattern, kind, count in rows]
    if sum(count for _, _, count in folded) != len(names):
        raise ValueError("the same path occurs twice; give each name once")
    return folded


def expand(pattern: str) -> Iterator[str]:
    """Every name that a pattern stands for.

    >>> list(expand("h_[0-1]/norm{,_1}"))
    ['h_0/norm', 'h_0/norm_1', 'h_1/norm', 'h_1/norm_1']
    """
    parts, end = [], 0
    for match in _PARTS.finditer(pattern):
        parts += [[pattern[end : match.start()]], _alternatives(match)]
        end = match.end()
    if not parts:
        return iter([pattern])
    return map("".join, itertools.product(*parts, [pattern[end:]]))


def components(pattern: str) -> list[str]:
    """The components of a name or a pattern, each with the slash or the dot that ends it.

    >>> components("model.layers.[0-3]/w")
    ['model.', 'layers.', '[0-3]/', 'w']
    """
    # Where a name ends with a separator, its last component is empty.
    return _COMPONENT.findall(pattern) + [""] * (not pattern or pattern[-1] in "/.")


def escaped(name: str) -> str:
    """A name, or a component, as the pattern that stands for it alone.

    >>> print(escaped("a[0]"), escaped("red" + chr(27)))
    a\\[0] red\\x1b
    """
    if "\\" in name or "[" in name or "{" in name:
        name = _SPECIAL.sub(r"\\\g<0>", name)
    return printable(name)


def printable(text: str) -> str:
    """A text with nothing in it that a terminal would obey, or that cannot be seen."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


class _Contents:
    """What names stand for, numbered: equal contents of scopes are one number.

    A content is a variable of some kind, or the folded inside of a scope: branches, each a pattern
    of one component, how many names that is, and the content below it.  They lie in flat lists, not
    in linked objects, so that the garbage collector need not walk them and chains may be deeper
    than recursion goes.
    """

    def __init__(self) -> None:
        self._starts = [0]  # the branches of a content lie from its start to that of the next one
        self._patterns: list[str] = []
        self._repeats: list[int] = []
        self._below: list[int] = []
        self._kinds: dict[int, int] = {}
        self.of_scope: dict[tuple[Any, ...], int] = {}  # by its children: names, then contents
        self._rows: dict[int, list[int]] = {}
        self._of_row: dict[tuple[str, int], int] = {}
        self._splits: dict[str, tuple[str, int]] = {}

    def add_kind(self, number: int) -> int:
        """The content of a variable of the kind with this number."""
        content = self._close()
        self._kinds[content] = number
        self._rows[content] = [content]
        return content

    def fold_children(self, children: dict[str, int]) -> int:
        """A content with one branch for all children that differ in their number only."""
        if not any(map(_may_be_numbered, children)):
            self._patterns += map(escaped, children)
            self._repeats += itertools.repeat(1, len(children))
            self._below += children.values()
            return self._close()
        families: dict[str, list[str]] = {}
        for name in children:
            stem = self._split(name)[0]
            family = families.get(stem)
            if family is None:
                families[stem] = [name]
            else:
                family.append(name)
        branches: list[tuple[str, int, int]] = []
        for stem, names in families.items():
            for sharing, below in self._shared(names, children):
                if len(sharing) == 1:
                    pattern = escaped(sharing[0])
                else:
                    pattern = _pattern(stem, [self._split(name)[1] for name in sharing])
                branches.append((pattern, len(sharing), below))
        for branch in branches:
            self._add(*branch)
        return self._close()

    def unfolded(self, content: int) -> Iterator[tuple[str, int, int]]:
        """The rows of a content: pattern, the number of the kind, and how many names it is."""
        starts, kinds = self._starts, self._kinds
        above: list[str] = []
        # A level each: the branches that are left there, and how many names one of them stands for.
        levels = [(iter(range(starts[content], starts[content + 1])), 1)]
        while levels:
            branches, count = levels[-1]
            for branch in branches:
                below, repeats = self._below[branch], count * self._repeats[branch]
                kind = kinds.get(below)
                if kind is None:
                    above.append(self._patterns[branch])
                    levels.append((iter(range(starts[below], starts[below + 1])), repeats))
                    break
                yield "".join((*above, self._patterns[branch])), kind, repeats
            else:
                levels.pop()
                del above[-1:]

    def _shared(
        self, names: list[str], children: dict[str, int]
    ) -> Iterable[tuple[list[str], int]]:
        """Siblings, with what these and no other siblings have."""
        first = children[names[0]]
        if len(names) == 1 or all(children[name] == first for name in names):
            return [(names, first)]
        names_of_content: dict[int, list[str]] = {}
        for name in names:
            names_of_content.setdefault(children[name], []).append(name)
        names_of_row: dict[int, list[str]] = {}
        for content, sharing in names_of_content.items():
            for row in self._rows_of(content):
                names_of_row.setdefault(row, []).extend(sharing)
        return ((sharing, row) for row, sharing in names_of_row.items())

    def _rows_of(self, content: int) -> list[int]:
        """A content taken apart: contents of one row each, equal ones of which are one number."""
        rows = self._rows
        waiting = [content]
        while waiting:
            content = waiting[-1]
            branches = range(self._starts[content], self._starts[content + 1])
            missing = [self._below[each] for each in branches if self._below[each] not in rows]
            if missing:
                waiting += missing
                continue
            if content not in rows:
                rows[content] = [
                    self._row(branch, row)
                    for branch in branches
                    for row in rows[self._below[branch]]
                ]
            waiting.pop()
        return rows[content]

    def _row(self, branch: int, below: int) -> int:
        pattern = self._patterns[branch]
        row = self._of_row.get((pattern, below))
        if row is None:
            self._add(pattern, self._repeats[branch], below)
            row = self._of_row[pattern, below] = self._close()
            self._rows[row] = [row]
        return row

    def _add(self, pattern: str, repeats: int, below: int) -> None:
        self._patterns.append(pattern)
        self._repeats.append(repeats)
        self._below.append(below)

    def _close(self) -> int:
        """The number of the content whose branches were added last."""
        self._starts.append(len(self._below))
        return len(self._starts) - 2

    def _split(self, name: str) -> tuple[str, int]:
        split = self._splits.get(name)
        if split is None:
            split = self._splits[name] = _split(name)
        return split


def _split(name: str) -> tuple[str, int]:
    """A name's stem and number; a scope's stem keeps the separator that ends its name.

    So a variable `w` and the scopes `w/` and `w.` have three stems.
    """
    match = _NUMBERED.fullmatch(name) if _may_be_numbered(name) else None
    if match:
        stem, digits, separator = match.groups()
        return stem + separator, int(digits)
    if name.endswith(_SEPARATORS):
        return f"{name[:-1]}_{name[-1]}", _BARE
    return f"{name}_", _BARE


def _may_be_numbered(name: str) -> bool:
    # Cheaper than the expression, and for most names enough.
    return name[-1:] in _DIGITS or name[-2:-1] in _DIGITS


def _pattern(stem: str, numbers: list[int]) -> str:
    """The pattern of two or more siblings."""
    separator = stem[-1] if stem.endswith(_SEPARATORS) else ""
    stem = escaped(stem.removesuffix(separator))
    first, *others = ordered = sorted(numbers)
    if first != _BARE:
        return f"{stem}[{_ranges(ordered)}]{separator}"
    beside_bare = str(others[0]) if len(others) == 1 else f"[{_ranges(others)}]"
    return f"{stem[:-1]}{{,_{beside_bare}}}{separator}"


def _ranges(ordered: list[int]) -> str:
    runs: list[list[int]] = []
    for number in ordered:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _alternatives(match: re.Match[str]) -> list[str]:
    """The texts for which one part of a pattern stands."""
    if match["escape"]:
        return [_character(match["escape"])]
    if match["numbers"]:
        return [str(number) for number in _numbers(match["numbers"])]
    return ["", *(f"_{number}" for number in _numbers(match["beside_bare"]))]


def _character(escape: str) -> str:
    return escape[1] if len(escape) == 2 else chr(int(escape[2:], 16))


def _numbers(ranges: str) -> Iterator[int]:
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
