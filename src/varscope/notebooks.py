"""What a notebook shows of a graph, a scope or a variable: small tables of HTML.

The core loads this module when a notebook asks, and not before.  Looking changes nothing: a
variable that is only declared stays so, and of one that has values only the first are read.  The
tables have no colours of their own, so that they suit a dark notebook too.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from varscope._scopecore import VariableScope
from varscope.graph import Graph
from varscope.partitioned import PartitionedVariable
from varscope.summary import SummaryRow, fold, format_bytes, format_type, summarize, total
from varscope.variables import Variable

__all__ = ["html_of"]

ROWS_SHOWN = 50
VALUES_SHOWN = 6
LONGEST_TEXT = 300


def html_of(thing: Graph | VariableScope | Variable | PartitionedVariable) -> str | None:
    """The HTML; None of a variable that was withdrawn, so that a notebook shows its repr.

    >>> import varscope as vs
    >>> w = vs.get_variable("w", [2, 3])
    >>> "(2, 3)" in html_of(w), w.initialized
    (True, False)
    """
    if isinstance(thing, Graph):
        return _heading("Graph") + _folded(summarize(thing).rows)
    if isinstance(thing, VariableScope):
        return _of_scope(thing)
    if isinstance(thing, Variable):
        return None if thing._withdrawn else _of_variable(thing)
    return None if thing._shards[0]._withdrawn else _of_partitioned(thing)


def _of_scope(scope: VariableScope) -> str:
    path = scope.name
    if path:
        below = scope.graph.find(f"{path}/**")
        rows: Sequence[SummaryRow] = fold((v.op_name, v.dtype, v.shape) for v in below)
    else:
        rows = summarize(scope.graph).rows
    facts = {"reuse": str(scope.reuse), "dtype": str(scope.dtype)}
    return _heading("VariableScope", path) + _facts(facts) + _folded(rows)


def _of_variable(variable: Variable) -> str:
    facts = _what_it_is(variable)
    if variable.initialized:
        facts["values"] = _first_values(variable._read, variable.size)
    return _heading("Variable", variable.name) + _facts(facts)


def _of_partitioned(variable: PartitionedVariable) -> str:
    facts = {**_what_it_is(variable), "partitions": str(variable.partitions)}
    if variable[0].initialized:
        facts["values"] = _first_values(variable[0]._read, variable.size)
    parts = [[p.name, str(p.shape), _state(p)] for p in variable[:ROWS_SHOWN]]
    more = f"… and {len(variable) - ROWS_SHOWN:,} more" if len(variable) > ROWS_SHOWN else ""
    table = _table(["part", "shape", "initialized"], parts, more)
    return _heading("PartitionedVariable", variable.name) + _facts(facts) + table


def _what_it_is(variable: Variable | PartitionedVariable) -> dict[str, str]:
    file, line, function = variable.creation_site
    size = variable._spec.size  # -1 where only the initializer knows; it is not asked here
    nbytes = size * variable.dtype.itemsize
    return {
        "shape": "not known yet" if variable.shape is None else str(variable.shape),
        "dtype": str(variable.dtype),
        "parameters": f"{size:,}" if size >= 0 else "not known yet",
        "bytes": _bytes(nbytes) if size >= 0 else "not known yet",
        "trainable": "yes" if variable.trainable else "no",
        "created": f"{file}:{line} in {function}",
        "initialized": _state(variable),
    }


def _state(variable: Variable | PartitionedVariable) -> str:
    return "yes" if variable.initialized else "no, only declared"


def _first_values(array: np.ndarray, size: int) -> str:
    """The first of `size` values; the array has the first of them, or all."""
    text = np.array2string(array.flat[:VALUES_SHOWN], separator=", ")
    return f"{text.removesuffix(']')}, …]" if size > min(VALUES_SHOWN, array.size) else text


def _folded(rows: Sequence[SummaryRow]) -> str:
    """A table of variables, with their totals."""
    cells = [
        [row.path, format_type(row.dtype, row.shape), f"{row.count:,}", _number(row.parameters)]
        for row in rows[:ROWS_SHOWN]
    ]
    more = ""
    if len(rows) > ROWS_SHOWN:
        left_out = sum(row.count for row in rows[ROWS_SHOWN:])
        more = f"… and {len(rows) - ROWS_SHOWN:,} more, of {left_out:,} variables"
    sums = total(rows)
    totals = f"{sums.variables:,} variables, {sums.parameters:,} parameters, {_bytes(sums.nbytes)}"
    return _table(["variable", "type", "count", "parameters"], cells, more) + f"<p>{totals}</p>"


def _number(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def _bytes(nbytes: int) -> str:
    return format_bytes(nbytes) if nbytes < 1024 else f"{nbytes:,} bytes ({format_bytes(nbytes)})"


# --- HTML

LEFT, RIGHT = ' style="text-align: left"', ' style="text-align: right"'


def _heading(kind: str, name: str = "") -> str:
    return f"<p><b>{kind}</b> {_text(name)}</p>"


def _facts(facts: dict[str, str]) -> str:
    return _table([], [[name, value] for name, value in facts.items()])


def _table(head: list[str], rows: list[list[str]], more: str = "") -> str:
    """Texts as a table: numbers, which are what stands behind the second column, to the right."""
    lines = [_line("th", head)] if head else []
    lines += [_line("td", row) for row in rows]
    if more:
        lines.append(f'<tr><td colspan="{len(head)}"{LEFT}>{_text(more)}</td></tr>')
    return f"<table>{''.join(lines)}</table>"


def _line(tag: str, texts: list[str]) -> str:
    cells = (
        f"<{tag}{LEFT if column < 2 else RIGHT}>{_text(text)}</{tag}>"
        for column, text in enumerate(texts)
    )
    return f"<tr>{''.join(cells)}</tr>"


def _text(text: str) -> str:
    return escape(text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…")
