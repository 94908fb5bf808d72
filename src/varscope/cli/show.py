"""``varscope show``: the folded tree of a model, with the sums of each scope."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from varscope.checkpoint.contents import Checkpoint
from varscope.cli import models, printing, trees
from varscope.cli.failures import CommandError
from varscope.cli.printing import Column, number, times
from varscope.folding import printable
from varscope.graph import Graph
from varscope.summary import Summary, SummaryRow, format_type, total

COLUMNS = [
    Column("name", "<", "bold"),
    Column("type", "<", "cyan"),
    Column("count", ">", "green"),
    Column("parameters", ">", ""),
    Column("bytes", ">", ""),
]
INDENT = "  "
SHORTER = "--depth and --find show less, a pipe or --json all"


def show(
    target: str, settings: Sequence[str], depth: int | None, pattern: str | None, as_json: bool
) -> int:
    """Show one model."""
    if as_json and depth is not None:
        raise CommandError(
            "--depth is for the tree: what --json prints is always complete; leave one out"
        )
    with models.opened([target], settings, as_json) as (model,):
        summary = total(models.folded(model, pattern))
        if as_json:
            printing.print_json(document(target, model, summary))
        else:
            printing.print_table(COLUMNS, list(lines(summary, depth)), SHORTER)
            printing.print_lines([[]])
            printing.print_pairs(totals(model, summary))
    return 0


def document(target: str, model: Checkpoint | Graph, summary: Summary) -> dict[str, Any]:
    """All that there is to say, for programs."""
    found: dict[str, Any] = {"model": target, "format": "python", "files": []}
    if isinstance(model, Checkpoint):
        found["format"] = model.format
        found["files"] = [str(file) for file in model.files]
    return found | {
        "tensors": summary.variables,
        "parameters": summary.parameters,
        "bytes": summary.nbytes,
        "summary": [json_row(row) for row in summary.rows],
    }


def json_row(row: SummaryRow) -> dict[str, Any]:
    """A row of a summary for programs."""
    fields = row._asdict()
    fields["bytes"] = fields.pop("nbytes")
    return fields


def lines(summary: Summary, depth: int | None) -> Iterator[list[str]]:
    """The cells of the tree."""
    for level, label, node in trees.entries(trees.tree(summary.rows), depth):
        row = node.row
        if row is None:
            kind, parameters, nbytes = "", f"{node.parameters:,}", f"{node.nbytes:,}"
        else:
            kind = printable(format_type(row.dtype, row.shape))
            parameters, nbytes = number(row.parameters), number(row.nbytes)
        yield [INDENT * level + label, kind, times(node.count), parameters, nbytes]


def totals(model: Checkpoint | Graph, summary: Summary) -> Iterator[tuple[str, str]]:
    """How much it is in all; of what was found, where not all was looked for."""
    count = len(model)
    of = "" if summary.variables == count else f" of {count:,}"
    if isinstance(model, Checkpoint):
        yield "tensors", f"{summary.variables:,}{of}"
    else:
        yield "variables", f"{summary.variables:,}{of}"
    yield "parameters", f"{summary.parameters:,}"
    yield "bytes", printing.byte_count(summary.nbytes)
    if isinstance(model, Checkpoint):
        yield "files", f"{len(model.files):,} ({model.format})"
