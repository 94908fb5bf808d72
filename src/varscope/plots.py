"""Pictures of a model: a treemap in which each variable has the area of its bytes.

``treemap`` draws the rows of a summary, so half a million variables are a dozen rectangles, as they
are a dozen lines of a table.  A scope is a frame around what it holds; a click on it zooms in.  A
model in which little repeats has more rows than anybody can see: the largest are drawn, and one
rectangle stands for what else is in a scope.

Drawing needs plotly, which is imported when it is used.  Pictures that are not HTML need kaleido
too, and a browser that it finds.
"""

from __future__ import annotations

import contextlib
import heapq
import html
import importlib
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from varscope import folding
from varscope.errors import ArgumentValueError, PictureError
from varscope.summary import SummaryRow, format_bytes, format_type

__all__ = ["ending", "treemap", "write"]

ENDINGS = (".html", ".svg", ".png")
WIDTH, HEIGHT = 1200, 750  # of a picture that is not HTML
ROWS_DRAWN = 300
DEEPEST = 20  # frames around a rectangle: more of them leave no room for it
LONGEST_TEXT = 160  # names in foreign files may be of any length, and so may lists of numbers

# Light, so that dark text is read on each of them.
COLOURS = (
    "#8ab8e6", "#f2b56b", "#8fcf9f", "#e58f8f", "#c3a5e0", "#f0dc75", "#7fd1cf", "#e6a3c8",
    "#b9a58c", "#bcd35f",
)  # fmt: skip
MIXED = "#c8c8c8"  # several dtypes, or those for which no colour is left


def treemap(rows: Iterable[SummaryRow], title: str = "model") -> Any:
    """A ``plotly.graph_objects.Figure`` of variables, each kind with the area of its bytes.

    A rectangle has the colour of its dtype, and says under the mouse all that its row says.

    Parameters
    ----------
    rows : iterable of SummaryRow
        The ``rows`` of ``summary.summarize`` of a graph or a checkpoint, or what ``summary.fold``
        gives.  What has no bytes, or no known shape yet, has no area; its scopes count it.
    title : str
        What the variables are of.  It stands above the picture, before the totals.

    Raises
    ------
    ImportError
        plotly is not installed.

    >>> from varscope.summary import fold
    >>> figure = treemap(fold((f"layers_{i}/w", "float32", (2, 3)) for i in range(9)), "nine")
    >>> figure.layout.title.text
    'nine: 9 variables, 54 parameters, 216 bytes'
    >>> figure.data[0].labels
    ('nine', 'layers_[0-8]/w')
    """
    graph_objects = _imported("plotly.graph_objects")
    rows = list(rows)
    root = _boxes(rows, title)
    bytes_of = dict(root.bytes_of.most_common())
    colours = dict(zip(bytes_of, COLOURS, strict=False))
    drawn = _Drawn()
    for place in _in_order(root):
        drawn.add(*place, colours)
    boxes = graph_objects.Treemap(
        **vars(drawn),
        branchvalues="remainder",  # a frame has no area but that of what is inside
        hoverinfo="text",
        textinfo="label+text",
        tiling={"pad": 2},
        pathbar={"thickness": 24},
    )
    legend = [
        _legend_entry(graph_objects, f"{name}: {format_bytes(bytes_of[name])}", colour)
        for name, colour in colours.items()
    ]
    if MIXED in drawn.marker["colors"]:
        legend.append(_legend_entry(graph_objects, "other or several dtypes", MIXED))
    heading = f"{title}: {_amounts(root)}, {format_bytes(root.nbytes)}"
    return graph_objects.Figure([boxes, *legend], _layout(heading))


def write(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure; the ending of ``path`` says as what.

    ``.html`` is a page that needs nothing else, no network either; ``.svg`` and ``.png`` are made
    by kaleido.  What is at ``path`` is replaced at once, when the new picture is complete.

    Raises
    ------
    ArgumentValueError : ValueError
        Another ending.
    ImportError
        plotly or kaleido is not installed.
    PictureError : RuntimeError
        kaleido has found no browser, or has failed with the one that it found.
    OSError
        The file cannot be written.
    """
    path = Path(path)
    kind = ending(path)
    content = _page(figure) if kind == ".html" else _image(figure, kind)
    beside = path.with_name(f".varscope-{secrets.token_hex(8)}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def ending(path: str | os.PathLike[str]) -> str:
    """What ``path`` ends with, in lower case; an error where ``write`` cannot write that.

    >>> ending("Model.PNG")
    '.png'
    """
    found = Path(path).suffix.lower()
    if found not in ENDINGS:
        raise ArgumentValueError.stating(
            f"a picture is written as .html, .svg or .png, by the ending of its name, which is "
            f"{os.fspath(path)!r:.200}; give it one of these endings",
            value=path,
        )
    return found


# --- what is drawn


@dataclass(slots=True)
class _Box:
    """A rectangle: the variables of a row, or a scope with others inside, or the rest of one."""

    name: str  # of a scope with the slash or the dot that ends it
    row: SummaryRow | None = None
    inside: list[_Box] = field(default_factory=list)
    scopes: dict[str, _Box] = field(default_factory=dict)  # those inside, by name
    rest: _Box | None = None  # inside too
    bytes_of: Counter[str] = field(default_factory=Counter)  # by dtype
    rows: int = 0
    variables: int = 0
    parameters: int = 0
    nbytes: int = 0

    def count(self, row: SummaryRow) -> None:
        self.bytes_of[row.dtype] += row.nbytes or 0
        self.rows += 1
        self.variables += row.count
        self.parameters += row.parameters or 0
        self.nbytes += row.nbytes or 0

    def put(self, box: _Box) -> _Box:
        self.inside.append(box)
        return box


def _boxes(rows: list[SummaryRow], title: str) -> _Box:
    """The box around all others."""
    root = _Box(title)
    largest = heapq.nlargest(ROWS_DRAWN, range(len(rows)), lambda i: rows[i].nbytes or 0)
    drawn = set(largest)
    for i in sorted(drawn):
        _draw(root, rows[i])
    # All scopes that have a box are there now.
    for i, row in enumerate(rows):
        if i not in drawn:
            _leave_out(root, row)
    return root


def _draw(root: _Box, row: SummaryRow) -> None:
    box = root
    box.count(row)
    scopes, name = _split(row)
    for scope in scopes:
        if scope not in box.scopes:
            box.scopes[scope] = box.put(_Box(scope))
        box = box.scopes[scope]
        box.count(row)
    box.put(_Box(name, row)).count(row)


def _leave_out(root: _Box, row: SummaryRow) -> None:
    box = root
    box.count(row)
    for scope in _split(row)[0]:
        if scope not in box.scopes:
            break
        box = box.scopes[scope]
        box.count(row)
    if box.rest is None:
        box.rest = box.put(_Box(""))
    box.rest.count(row)
    box.rest.name = f"… {box.rest.rows:,} more"


def _split(row: SummaryRow) -> tuple[list[str], str]:
    """The scopes of a row, as many as get a frame, and the rest of its path."""
    components = folding.components(row.path)
    last = min(len(components) - 1, DEEPEST)
    return components[:last], "".join(components[last:])


def _in_order(root: _Box) -> Iterator[tuple[_Box, str, str, int]]:
    """Each box with its name, its path, and the place in this order of the one around it.

    A scope that holds one thing only is left out: its name is part of that one's.
    """
    waiting = [(root, root.name, root.name, -1)]
    place = 0
    while waiting:
        box, name, path, around = waiting.pop()
        yield box, name, path, around
        for inner in reversed(box.inside):
            names = [inner.name]
            while len(inner.inside) == 1:
                [inner] = inner.inside
                names.append(inner.name)
            name = "".join(names)
            waiting.append((inner, name, name if box is root else path + name, place))
        place += 1


# --- how it is drawn


class _Drawn:
    """What plotly is told of the boxes, under its names for it."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.parents: list[str] = []
        self.labels: list[str] = []
        self.text: list[str] = []
        self.hovertext: list[str] = []
        self.values: list[float] = []  # of any size, as JSON takes them
        self.marker: dict[str, Any] = {
            "colors": [],
            "line": {"width": 1, "color": "#ffffff"},
            "pad": {"t": 20, "l": 3, "r": 3, "b": 3},
        }

    def add(self, box: _Box, name: str, path: str, around: int, colours: dict[str, str]) -> None:
        row, is_frame = box.row, bool(box.inside) or around < 0
        kind = f"{box.rows:,} kinds" if row is None else format_type(row.dtype, row.shape)
        size = f"{box.nbytes:,} bytes"
        if box.nbytes >= 1024:
            size += f" ({format_bytes(box.nbytes)})"
        amounts = _amounts(box)
        if row is not None and row.nbytes is None:
            amounts, size = f"{box.variables:,} variables", "size not known yet"
        if is_frame and around >= 0:
            name, path = name[:-1], path[:-1]  # a frame's edge says what a slash says
        lines = [path, kind, amounts, size]
        self.ids.append(str(len(self.ids)))
        self.parents.append(str(around) if around >= 0 else "")
        self.labels.append(_shown(name))
        self.text.append("" if is_frame else "<br>".join(map(_shown, lines[1:])))
        self.hovertext.append("<br>".join(map(_shown, lines)))
        self.values.append(0.0 if is_frame else float(box.nbytes))
        self.marker["colors"].append(_colour(box, is_frame, colours))


def _amounts(box: _Box) -> str:
    return f"{box.variables:,} variable{'s' * (box.variables != 1)}, {box.parameters:,} parameters"


def _colour(box: _Box, is_frame: bool, colours: dict[str, str]) -> str:
    """That of the only dtype; a frame has that of most of its bytes, lighter."""
    [(dtype, _)] = box.bytes_of.most_common(1) or [("", 0)]
    if is_frame:
        return _lighter(colours.get(dtype, MIXED))
    return colours.get(dtype, MIXED) if len(box.bytes_of) == 1 else MIXED


def _lighter(colour: str) -> str:
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{(part + 3 * 255) // 4:02x}" for part in parts)


def _shown(text: str) -> str:
    """A text that plotly, for which texts are a kind of HTML, shows letter by letter."""
    if len(text) > LONGEST_TEXT:
        half = LONGEST_TEXT // 2
        text = f"{text[:half]}…{text[-half:]}"
    if not text.isprintable():  # line ends, what turns the direction of text, halves of letters
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return html.escape(text, quote=False)  # it knows no entities for quotes


def _legend_entry(graph_objects: Any, name: str, colour: str) -> Any:
    """A treemap has no legend.  That of points without a place is the one that it gets."""
    return graph_objects.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={"symbol": "square", "size": 14, "color": colour},
        name=_shown(name),
        showlegend=True,
    )


def _layout(heading: str) -> dict[str, Any]:
    return {
        "title": {"text": _shown(heading), "x": 0, "xref": "paper", "font": {"size": 18}},
        "margin": {"l": 10, "r": 10, "t": 60, "b": 10},
        "legend": {
            "orientation": "h", "x": 0, "y": 0, "yanchor": "top",
            "itemclick": False, "itemdoubleclick": False,
        },
        "xaxis": {"visible": False, "fixedrange": True},
        "yaxis": {"visible": False, "fixedrange": True},
        "font": {"family": "DejaVu Sans, Verdana, sans-serif", "color": "#222222"},
        "template": "none",
    }  # fmt: skip


# --- what is written

# Nothing that the page says can make it ask for anything, whatever the names in it are.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>{title}</title>
<style>html, body, body > div {{ height: 100%; margin: 0; }}</style>
</head>
<body>
{picture}
</body>
</html>
"""


def _page(figure: Any) -> bytes:
    picture = _imported("plotly.io").to_html(
        figure,
        full_html=False,
        include_plotlyjs=True,
        div_id="picture",  # not one drawn by chance, so that the same model gives the same file
        config={"displaylogo": False, "modeBarButtons": [["toImage"]], "responsive": True},
    )
    return PAGE.format(title=figure.layout.title.text, picture=picture).encode()


def _image(figure: Any, kind: str) -> bytes:
    kaleido = _imported("kaleido")
    # MathJax would come from the network, and make formulas of names with dollar signs.
    options = {"format": kind[1:], "width": WIDTH, "height": HEIGHT, "scale": 1}
    try:
        image = kaleido.calc_fig_sync(figure.to_dict(), opts=options, kopts={"mathjax": False})
    except Exception as error:  # of several libraries, and of the browser
        raise PictureError.of(kind, error) from error
    return bytes(image)


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise ImportError(
            f"a picture needs {library}, which cannot be imported ({error}); install it: "
            'pip install "varscope-core[plots]"',
            name=library,
        ) from error
