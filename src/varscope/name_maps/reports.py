"""What a plan would read and write, folded into a few lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from varscope.folding import fold

TIMES = "\N{MULTIPLICATION SIGN}"
LINES = 40  # of each part of a report's text; the data have all

# What folding merges: `_3` at the end of a component, and a component that is a number.
_NUMBERS = re.compile(r"_(?:0|[1-9][0-9]*)(?![^./])|(?<![^./])(?:0|[1-9][0-9]*)(?![^./])")


class Plan(Protocol):
    """What a report needs of a plan."""

    unused: list[tuple[int, str]]
    dropped: list[tuple[int, str]]
    recipes: Mapping[str, Any]

    @property
    def number_of_sources(self) -> int: ...
    def entries(self) -> Iterator[tuple[str, tuple[tuple[int, str], ...], str]]: ...


@dataclass(frozen=True, slots=True)
class ReportNames:
    """A pattern that stands for `count` names of a source; None where they are of no source."""

    pattern: str
    count: int
    source: int | None = None


@dataclass(frozen=True, slots=True)
class ReportRow:
    """Tensors that go the same way: patterns of the names that are read and written.

    `how` says what is done to them, in words; it is empty where they are only renamed.
    """

    read: tuple[ReportNames, ...]
    written: tuple[ReportNames, ...]
    how: str

    @property
    def tensors(self) -> int:
        """How many are read."""
        return sum(names.count for names in self.read)

    @property
    def count(self) -> int:
        """How many are written."""
        return sum(names.count for names in self.written)


@dataclass(frozen=True, slots=True)
class Report:
    """A plan, folded; `str()` of it is a text of few lines.

    `tensors` are read and `count` are written, as the rows say.  `unused` are names that no rule
    matches, `dropped` those that are left out on purpose; `missing` names are wanted and not
    written, those `left_over` are written and not wanted.  The last two are empty where nobody
    said what is wanted.
    """

    rows: tuple[ReportRow, ...]
    tensors: int
    count: int
    unused: tuple[ReportNames, ...]
    dropped: tuple[ReportNames, ...]
    missing: tuple[ReportNames, ...]
    left_over: tuple[ReportNames, ...]

    def __str__(self) -> str:
        lines = _cut([line for row in self.rows for line in _shown_row(row)])
        lines.append(f"{self.tensors:,} tensors read, {self.count:,} written")
        for names, title in (
            (self.dropped, "left out on purpose"),
            (self.unused, "that no rule matches"),
            (self.missing, "missing"),
            (self.left_over, "left over"),
        ):
            if names:
                lines.append(f"{sum(each.count for each in names):,} {title}:")
                lines += _cut([f"    {_shown(each)}" for each in names])
        return "\n".join(lines)


def report(plan: Plan, graph_names: Iterable[str] | None = None) -> Report:
    """The report of a plan; see `Plan.report`."""
    missing: list[str] = []
    left_over: list[str] = []
    if graph_names is not None:
        wanted = dict.fromkeys(graph_names)
        missing = [name for name in wanted if name not in plan.recipes]
        left_over = [name for name in plan.recipes if name not in wanted]
    several = plan.number_of_sources > 1
    return Report(
        rows=tuple(_rows(plan)),
        tensors=len({source for _, sources, _ in plan.entries() for source in sources}),
        count=len(plan.recipes),
        unused=_folded_by_source(_by_source(plan.unused), several),
        dropped=_folded_by_source(_by_source(plan.dropped), several),
        missing=_folded(missing),
        left_over=_folded(left_over),
    )


def _shown_row(row: ReportRow) -> Iterator[str]:
    how = f"  ({row.how})" if row.how else ""
    if row.tensors != row.count:
        how = f"  {row.tensors:,} to {row.count:,}{how}"
    elif row.count > 1:
        how = f"  {TIMES}{row.count:,}{how}"
    *others, last = (_shown(names, counted=False) for names in row.read)
    yield from others
    if len(row.read) == len(row.written) == 1:
        yield f"{last} -> {row.written[0].pattern}{how}"
        return
    yield f"{last} ->{how}"
    yield from (f"    {names.pattern}" for names in row.written)


def _shown(names: ReportNames, counted: bool = True) -> str:
    source = "" if names.source is None else f"source {names.source}: "
    times = f"  {TIMES}{names.count:,}" if counted and names.count > 1 else ""
    return f"{source}{names.pattern}{times}"


def _cut(lines: list[str]) -> list[str]:
    if len(lines) <= LINES:
        return lines
    return [*lines[:LINES], f"    ... and {len(lines) - LINES:,} lines more"]


# --- folding


@dataclass(slots=True)
class _Group:
    """Names that differ in numbers only, on both sides, and fare alike; those read by source."""

    read: dict[int, list[str]] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)


def _rows(plan: Plan) -> Iterator[ReportRow]:
    groups: dict[tuple[object, ...], _Group] = {}
    for written, sources, how in plan.entries():
        alike = dict.fromkeys((place, _skeleton(name)) for place, name in sources)
        key: tuple[object, ...] = (_skeleton(written), how, *alike)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group()
        group.written.append(written)
        for place, name in sources:
            group.read.setdefault(place, []).append(name)
    for key, group in groups.items():
        read = _folded_by_source(group.read, plan.number_of_sources > 1)
        yield ReportRow(read, _folded(group.written), str(key[1]))


def _skeleton(name: str) -> str:
    """The name without what folding merges, and with its separators as they are."""
    return _NUMBERS.sub("", name)


def _by_source(names: Iterable[tuple[int, str]]) -> dict[int, list[str]]:
    by_source: dict[int, list[str]] = {}
    for place, name in names:
        by_source.setdefault(place, []).append(name)
    return by_source


def _folded_by_source(
    by_source: Mapping[int, Sequence[str]], several: bool
) -> tuple[ReportNames, ...]:
    return tuple(
        names
        for place, of_source in by_source.items()
        for names in _folded(of_source, place if several else None)
    )


def _folded(names: Iterable[str], source: int | None = None) -> tuple[ReportNames, ...]:
    return tuple(
        ReportNames(pattern, count, source)
        for pattern, _, count in fold((name, 0) for name in dict.fromkeys(names))
    )
