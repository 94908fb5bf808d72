"""What commands print: tables with colours on a terminal, plain ones in a pipe, and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from varscope.summary import format_bytes

ROWS_SHOWN = 200
WIDEST_COLUMN = 80
TIMES = "\N{MULTIPLICATION SIGN}"
ARROW = "\N{RIGHTWARDS ARROW}"
PLAINER = str.maketrans({TIMES: "x", ARROW: "->", "…": "..."})

Line = list[tuple[str, str]]  # cells: text and style


class Column(NamedTuple):
    """A column of a table; `align` is "<" or ">" as in format specifications."""

    title: str
    align: str
    style: str


def print_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], shorter: str = "--json lists all"
) -> None:
    """Aligned rows below their titles; on a terminal not more than can be looked at.

    Cells are text that can be printed.  `shorter` is what to do about the rows that are left out.
    """
    shown = rows[:ROWS_SHOWN] if on_terminal() else rows
    titles = [column.title for column in columns]
    widths = [
        min(max(map(len, cells)), WIDEST_COLUMN) for cells in zip(titles, *shown, strict=True)
    ]
    formats = [f"{{:{c.align}{width}}}" for c, width in zip(columns, widths, strict=True)]
    if not on_terminal():
        row_format = "  ".join(formats).format
        write_lines(row_format(*row).rstrip() for row in [titles, *rows])
        return
    gaps = ["  "] * (len(columns) - 1) + [""]
    lines: list[Line] = []
    for row in [titles, *shown]:
        styles = [column.style if lines else "dim" for column in columns]
        cells = zip(formats, row, gaps, styles, strict=True)
        lines.append([(form.format(text) + gap, style) for form, text, gap, style in cells])
    if len(rows) > len(shown):
        lines.append([(f"… {len(rows) - len(shown):,} more rows; {shorter}", "dim")])
    print_lines(lines)


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Labels, and what is to be said of each."""
    pairs = list(pairs)
    width = max(len(label) for label, _ in pairs)
    print_lines([(f"{label:<{width}}  ", "dim"), (value, "bold")] for label, value in pairs)


def print_lines(lines: Iterable[Line]) -> None:
    """Lines of cells, with their styles on a terminal."""
    if not on_terminal():
        write_lines("".join(text for text, _ in line).rstrip() for line in lines)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for line in lines:
        cells = [(printable(text, console.encoding), style) for text, style in line]
        # A long line goes over the edge as it would from print(): cropped, it could not be copied.
        console.print(Text.assemble(*cells), soft_wrap=True)


def print_json(document: dict[str, Any]) -> None:
    """One JSON object; each entry of a list in it stands on a line of its own."""
    sys.stdout.write("{\n")
    for number, (key, value) in enumerate(document.items()):
        sys.stdout.write(",\n" if number else "")
        sys.stdout.write(f"  {json.dumps(key)}: {_json(value)}")
    sys.stdout.write("\n}\n")


def _json(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value, allow_nan=False)
    entries = ",\n    ".join(json.dumps(entry, allow_nan=False) for entry in value)
    return f"[\n    {entries}\n  ]"


def on_terminal() -> bool:
    """Whether what is printed is looked at."""
    return sys.stdout.isatty()


def write_lines(lines: Iterable[str]) -> None:
    """Plain lines, many of them at a time."""
    for text in _joined(lines):
        sys.stdout.write(printable(text, sys.stdout.encoding))


def _joined(lines: Iterable[str]) -> Iterator[str]:
    some: list[str] = []
    for line in lines:
        some.append(line)
        if len(some) == 10_000:
            yield "\n".join(some) + "\n"
            some.clear()
    if some:
        yield "\n".join(some) + "\n"


def printable(text: str, encoding: str | None) -> str:
    """``text``, or a plainer one where ``encoding`` has no signs for it."""
    encoding = encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(PLAINER).encode(encoding, "backslashreplace").decode(encoding)
    return text


# --- texts of cells


def times(count: int) -> str:
    """How often something is there, where that is more than once."""
    return f"{TIMES}{count:,}" if count > 1 else ""


def number(value: int | None) -> str:
    """A number, or a question mark."""
    return "?" if value is None else f"{value:,}"


def byte_count(nbytes: int) -> str:
    """Bytes as a number, and in words where there are many."""
    in_words = f" ({format_bytes(nbytes)})" if nbytes >= 1024 else ""
    return f"{nbytes:,}{in_words}"
