"""``varscope build``: run a builder, and show what it declared."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from varscope.cli import builders, printing
from varscope.cli.printing import Column, number, times
from varscope.cli.show import json_row
from varscope.folding import printable
from varscope.graph import Graph
from varscope.summary import format_type, summarize

COLUMNS = [
    Column("variable", "<", "bold"),
    Column("type", "<", "cyan"),
    Column("count", ">", "green"),
    Column("parameters", ">", ""),
]


def build(target: str, settings: Sequence[str], as_json: bool) -> int:
    """Run one builder in a fresh graph."""
    graph = Graph()
    seconds = builders.run(target, settings, graph, as_json)
    summary = summarize(graph)
    per_second = summary.variables / seconds if seconds else 0.0
    if as_json:
        printing.print_json(
            {
                "variables": summary.variables,
                "parameters": summary.parameters,
                "bytes": summary.nbytes,
                "seconds": seconds,
                "variables_per_second": per_second,
                "summary": [json_row(row) for row in summary.rows],
            }
        )
        return 0
    rows = [
        [
            row.path,
            printable(format_type(row.dtype, row.shape)),
            times(row.count),
            number(row.parameters),
        ]
        for row in summary.rows
    ]
    printing.print_table(COLUMNS, rows, "a pipe or --json gets all")
    printing.print_lines([[]])
    printing.print_pairs(
        [
            ("variables", f"{summary.variables:,}"),
            ("parameters", f"{summary.parameters:,}"),
            ("bytes", printing.byte_count(summary.nbytes)),
            ("seconds", f"{seconds:.3f}"),
            ("variables/s", f"{per_second:,.0f}"),
        ]
    )
    if not summary.variables:
        print("varscope: the builder declared nothing in the default graph", file=sys.stderr)
    return 0
