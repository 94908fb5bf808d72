"""``varscope restore``: whether a checkpoint fits what a builder declares, through a name map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from varscope import folding
from varscope.checkpoint.fitting import Fit, fit
from varscope.checkpoint.opening import open as open_checkpoint
from varscope.checkpoint.restoring import restore as restore_graph
from varscope.cli import builders, printing
from varscope.cli.failures import STATUS_FAILED
from varscope.cli.printing import Column, times
from varscope.folding import printable
from varscope.graph import Graph
from varscope.name_maps import NameMap
from varscope.name_maps.reports import Report, ReportNames
from varscope.summary import format_type

COLUMNS = [Column("name", "<", "bold"), Column("", "<", "cyan"), Column("count", ">", "green")]


def restore(
    target: str,
    settings: Sequence[str],
    path: str,
    names: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Build, and restore; or only say what would be restored."""
    graph = Graph()
    builders.run(target, settings, graph, as_json)
    found = fit(graph, path, names=names)
    mapped = planned(path, names) if dry_run and names is not None else None
    fits = not (found.missing or found.left_over or found.shapes or found.dtypes)
    if fits and not dry_run:
        restore_graph(graph, path, names=names, verify=True)
    if as_json:
        more = {} if mapped is None else said(mapped)
        printing.print_json({**document(found, fits, dry_run), **more})
        return 0 if fits else STATUS_FAILED
    sections = [
        ("missing in the checkpoint", [(name, "") for name in found.missing]),
        ("left over in the checkpoint", [(name, "") for name in found.left_over]),
        ("other shape", list(differing(found.shapes, lambda shape: format_type("", shape)))),
        ("other dtype", list(differing(found.dtypes, str))),
    ]
    if mapped is not None:
        print_mapped(mapped)
    elif dry_run:
        sections.insert(0, ("would be restored", [(name, "") for name in found.restored]))
    for title, items in sections:
        rows = [
            [pattern, printable(kind), times(count)] for pattern, kind, count in folding.fold(items)
        ]
        if rows:
            printing.print_table([COLUMNS[0]._replace(title=title), *COLUMNS[1:]], rows)
            printing.print_lines([[]])
    printing.print_pairs(totals(found, fits, dry_run))
    return 0 if fits else STATUS_FAILED


def planned(path: str, names: str) -> Report:
    """What a name map would read and write, folded."""
    rules = NameMap.of(names)
    assert rules is not None
    with open_checkpoint(path) as checkpoint:
        return rules.plan([checkpoint]).report()


def print_mapped(mapped: Report) -> None:
    rows = [
        [f"{patterns(row.read)} -> {patterns(row.written)}", row.how, times(row.count)]
        for row in mapped.rows
    ]
    dropped = [[names.pattern, "", times(names.count)] for names in mapped.dropped]
    for title, lines in (("would be read -> restored", rows), ("left out on purpose", dropped)):
        if lines:
            printing.print_table([COLUMNS[0]._replace(title=title), *COLUMNS[1:]], lines)
            printing.print_lines([[]])


def patterns(names: Sequence[ReportNames]) -> str:
    return ", ".join(each.pattern for each in names)


def said(mapped: Report) -> dict[str, Any]:
    """The same for programs."""
    return {
        "map": [
            {
                "read": [each.pattern for each in row.read],
                "written": [each.pattern for each in row.written],
                "how": row.how,
                "tensors": row.tensors,
                "count": row.count,
            }
            for row in mapped.rows
        ],
        "dropped": [each.pattern for each in mapped.dropped],
    }


def differing(facts: dict[str, tuple[Any, Any]], text: Any) -> Iterator[tuple[str, str]]:
    """What a variable has, and what the file has in its place."""
    for name, (wanted, stored) in facts.items():
        yield name, f"{text(wanted)}, in the file {text(stored)}"


def document(found: Fit, fits: bool, dry_run: bool) -> dict[str, Any]:
    """The same for programs, name by name."""
    return {
        "fits": fits,
        "dry_run": dry_run,
        "restored": found.restored,
        "missing": found.missing,
        "left_over": found.left_over,
        "shapes": [
            {"name": name, "variable": wanted, "file": stored}
            for name, (wanted, stored) in found.shapes.items()
        ],
        "dtypes": [
            {"name": name, "variable": str(wanted), "file": str(stored)}
            for name, (wanted, stored) in found.dtypes.items()
        ],
    }


def totals(found: Fit, fits: bool, dry_run: bool) -> Iterator[tuple[str, str]]:
    """Whether it fits, and how many names are of which sort."""
    if fits:
        verb = "would be restored" if dry_run else "restored, checksums verified"
        yield "fits", f"{len(found.restored):,} variables {verb}"
        return
    counts = [
        (found.restored, "fit"),
        (found.missing, "missing"),
        (found.left_over, "left over"),
        (found.shapes, "of another shape"),
        (found.dtypes, "of another dtype"),
    ]
    yield "does not fit", ", ".join(f"{len(those):,} {what}" for those, what in counts if those)
