"""``varscope diff``: what differs between two models, folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from varscope import folding
from varscope.checkpoint.comparing import (
    Changed,
    Comparison,
    Listing,
    Renamed,
    ValueChanges,
    compare,
)
from varscope.cli import models, printing
from varscope.cli.failures import STATUS_FAILED
from varscope.cli.printing import ARROW, Column, times
from varscope.folding import printable
from varscope.progress import as_report
from varscope.summary import format_type

if TYPE_CHECKING:
    import numpy.typing as npt

NUMBERS = re.compile("[0-9]+")
RANGES = re.compile(r"\[[0-9][0-9,-]*\]")  # of a pattern
NAME, TYPE = Column("", "<", "bold"), Column("type", "<", "cyan")
COUNT = Column("count", ">", "green")


def diff(
    targets: tuple[str, str], settings: Sequence[str], rtol: float, atol: float, as_json: bool
) -> int:
    """Compare two models; the status says whether they differ."""
    with models.opened(targets, settings, as_json) as (a, b), as_report(None, "diff") as report:
        found = compare(a, b, rtol=rtol, atol=atol, progress=report)
    if as_json:
        printing.print_json(document(targets, found))
    else:
        print_sections(found)
        printing.print_pairs(totals(targets, found))
    return 0 if found.same else STATUS_FAILED


# --- for programs


def document(targets: tuple[str, str], found: Comparison) -> dict[str, Any]:
    """All that differs, tensor by tensor."""
    return {
        "a": targets[0],
        "b": targets[1],
        "same": found.same,
        "tensors": [len(found.a.names), len(found.b.names)],
        "compared": found.compared,
        "removed": found.removed,
        "added": found.added,
        "renamed": [each._asdict() for each in found.renamed],
        "shapes": [each._asdict() for each in found.shapes],
        "dtypes": [each._asdict() for each in found.dtypes],
        "values": [finite(each._asdict()) for each in found.values],
    }


def finite(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinite numbers: they are texts there."""
    for key in ("absolute", "relative"):
        if fields[key] == float("inf"):
            fields[key] = "inf"
    return fields


# --- for people


def print_sections(found: Comparison) -> None:
    """A table for each way in which they differ."""
    section("removed", [TYPE, COUNT], folded(found.removed, found.a))
    section("added", [TYPE, COUNT], folded(found.added, found.b))
    section(
        "renamed (a guess)",
        [TYPE, COUNT, Column("by", "<", "")],
        renamed_rows(found.renamed, found.a),
    )
    for title, changes, text in (
        ("other shapes", found.shapes, shape_text),
        ("other dtypes", found.dtypes, printable),
    ):
        section(title, [TYPE, COUNT], changed_rows(changes, text))
    columns = [TYPE, COUNT, *(Column(title, ">", "") for title in VALUE_TITLES)]
    section("other values", columns, value_rows(found.values))


VALUE_TITLES = ("elements", "absolute", "relative")


def section(title: str, columns: list[Column], rows: Iterable[list[str]]) -> None:
    """A titled table, where it has rows."""
    rows = list(rows)
    if rows:
        printing.print_table([NAME._replace(title=title), *columns], rows)
        printing.print_lines([[]])


def kinds_of(names: Iterable[str], listing: Listing) -> dict[str, tuple[str, Any]]:
    """Dtype and shape of some names."""
    kinds = zip(listing.dtype_names, listing.shapes, strict=True)
    kind_of = dict(zip(listing.names, kinds, strict=True))
    return {name: kind_of[name] for name in names}


def folded(names: list[str], listing: Listing) -> Iterator[list[str]]:
    """The cells of names that are on one side only."""
    kinds = kinds_of(names, listing) if names else {}
    for pattern, kind, count in folding.fold((name, kinds[name]) for name in names):
        yield [pattern, printable(format_type(*kind)), times(count)]


def changed_rows(changes: list[Changed], text: Any) -> Iterator[list[str]]:
    for pattern, (old, new), count in folding.fold((c.name, (c.old, c.new)) for c in changes):
        yield [pattern, f"{text(old)} {ARROW} {text(new)}", times(count)]


def shape_text(shape: Any) -> str:
    return format_type("", shape)


def value_rows(values: ValueChanges) -> Iterator[list[str]]:
    """The largest differences of all the tensors in a row."""
    place_of = dict(zip(values.names, range(len(values)), strict=True))
    kinds = zip(values.dtypes, values.shapes, strict=True)
    for pattern, kind, count in folding.fold(zip(values.names, kinds, strict=True)):
        those = np.fromiter(map(place_of.__getitem__, folding.expand(pattern)), np.intp, count)
        yield [
            pattern,
            printable(format_type(*kind)),
            times(count),
            f"{values.elements[those].sum():,}",
            largest(values.absolute[those]),
            largest(values.relative[those]),
        ]


def largest(differences: npt.NDArray[np.float64]) -> str:
    """The largest of some differences; nothing where they have no size."""
    known = differences[~np.isnan(differences)]
    return f"{known.max():.3g}" if len(known) else ""


def renamed_rows(renamed: list[Renamed], listing: Listing) -> Iterator[list[str]]:
    """Old and new names, folded together where they go through the same numbers."""
    new_name = {each.old: each.new for each in renamed}
    kinds = kinds_of(new_name, listing) if renamed else {}
    # What becomes of one row is of one kind, has one reason and new names of one form.
    items = ((old, (kinds[old], by, without_digits(new))) for old, new, by in renamed)
    for pattern, (kind, by, _), count in folding.fold(items):
        olds = list(folding.expand(pattern))
        news = [new_name[old] for old in olds]
        new_pattern = pattern_of(news, pattern)
        if new_pattern is not None:
            pairs = [(pattern, new_pattern, times(count))]
        else:
            pairs = [
                (folding.escaped(old), folding.escaped(new), "")
                for old, new in zip(olds, news, strict=True)
            ]
        for old, new, how_often in pairs:
            yield [f"{old} {ARROW} {new}", printable(format_type(*kind)), how_often, by]


def without_digits(name: str) -> bytes:
    # Of bytes it takes a tenth of the time.
    return name.encode("utf-8", "surrogatepass").translate(None, b"0123456789")


def pattern_of(names: list[str], other: str) -> str | None:
    """The pattern that stands for these names in this order, if there is one.

    ``other`` is the pattern of as many other names, whose numbers these may have.
    """
    # Mostly it is the first name, with the ranges where its numbers are the first of theirs.
    ranges = RANGES.findall(other)[::-1]
    first, parts, end = names[0], [], 0
    for match in NUMBERS.finditer(first):
        if ranges and ranges[-1].startswith((f"[{match[0]}-", f"[{match[0]},", f"[{match[0]}]")):
            parts += [folding.escaped(first[end : match.start()]), ranges.pop()]
            end = match.end()
    guess = "".join(parts) + folding.escaped(first[end:])
    if list(folding.expand(guess)) == names:
        return guess
    rows = folding.fold((name, None) for name in names)
    pattern = rows[0][0]
    return pattern if len(rows) == 1 and list(folding.expand(pattern)) == names else None


def totals(targets: tuple[str, str], found: Comparison) -> Iterator[tuple[str, str]]:
    """How much differs in all."""
    for target, listing in zip(targets, (found.a, found.b), strict=True):
        yield printable(target), f"{len(listing.names):,} tensors"
    counts: list[tuple[Sequence[Any], str]] = [
        (found.removed, "removed"),
        (found.added, "added"),
        (found.renamed, "renamed"),
        (found.shapes, "of another shape"),
        (found.dtypes, "of another dtype"),
    ]
    said = [f"{len(those):,} {what}" for those, what in counts if those]
    if found.compared or found.values:
        said.append(f"{len(found.values):,} of {found.compared:,} compared have other values")
    yield "same" if found.same else "different", ", ".join(said) or "names and shapes"
