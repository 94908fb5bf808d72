"""Draws what bench/peers.py measured; it runs in the environment of bench/peers/plot.txt.

    python bench/peers/plot.py peers.json peers.svg

Kaleido, which writes plotly's pictures to files, starts a Chromium for it.
"""

import json
import sys
from math import log10
from pathlib import Path

# All of middling brightness, for a page that may be light or dark: the picture has no background.
COLOURS = {
    "varscope": "#e8590c",
    "dict": "#868e96",
    "tensorflow": "#b58900",
    "haiku": "#2f9e6e",
    "flax": "#9c5fd6",
    "nnabla": "#d6568f",
    "torch": "#3d85d9",
}
TEXT, GRID, NOTHING = "#808890", "rgba(128, 136, 144, 0.25)", "rgba(0, 0, 0, 0)"
FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"

# Two panels side by side: what is timed, its title, the axes' numbers, and the share of the width.
PANELS = [
    ("created", "created: the model is built", "", (0, 0.48)),
    ("found", "found: it is built again, shared", "2", (0.52, 1)),
]
WIDTH, HEIGHT = 960, 500
MARGIN = {"l": 85, "r": 10, "t": 40, "b": 55}
LABEL = (80, 15)  # width and height in pixels: what a label keeps free

NAMES = {10**i: f"{10**i:,}" for i in (3, 4, 5)} | {10**6: "1 million", 10**7: "10 million"}
TIMES = {10**i: f"{10 ** (i % 3)} {('ns', 'µs', 'ms', 's')[i // 3]}" for i in range(10)}


def points(peer, step):
    """Names, and nanoseconds a variable, both as logarithms."""
    sizes = peer["sizes"]
    return [(log10(size["names"]), log10(size[step] / size["names"]) + 9) for size in sizes]


def figure(data):
    """Return the picture in plotly's form, which is dicts and lists."""
    peers = data["peers"]
    ends = [point for peer in peers.values() for step, *_ in PANELS for point in points(peer, step)]
    x_range = (2.85, max(x for x, _ in ends) + 0.95)  # the labels stand behind the lines
    y_range = (min(y for _, y in ends) - 0.2, max(y for _, y in ends) + 0.2)
    layout = {
        "width": WIDTH, "height": HEIGHT, "margin": MARGIN, "showlegend": False,
        "font": {"family": FONT, "size": 13, "color": TEXT},
        "paper_bgcolor": NOTHING, "plot_bgcolor": NOTHING, "annotations": [],
    }  # fmt: skip
    lines = []
    for step, title, number, domain in PANELS:
        layout[f"xaxis{number}"] = axis(NAMES, x_range, "variables in the model") | {
            "domain": domain, "anchor": f"y{number}",
        }  # fmt: skip
        layout[f"yaxis{number}"] = axis(TIMES, y_range, "" if number else "time a variable") | {
            "anchor": f"x{number}", "showticklabels": not number,
        }  # fmt: skip
        lines += [line(name, peer, step, number) for name, peer in peers.items()]
        layout["annotations"] += [heading(title, domain), *labels(peers, step, number, layout)]
    return {"data": lines, "layout": layout}


def axis(ticks, within, title):
    return {
        "type": "log", "range": within, "title": {"text": title}, "zeroline": False,
        "tickvals": [*ticks], "ticktext": [*ticks.values()], "gridcolor": GRID,
    }  # fmt: skip


def line(name, peer, step, number):
    ours = name == "varscope"
    x, y = zip(*points(peer, step), strict=True)
    return {
        "type": "scatter", "mode": "lines+markers", "name": peer["title"],
        "x": [10**value for value in x], "y": [10**value for value in y],
        "xaxis": f"x{number}", "yaxis": f"y{number}",
        "line": {"color": COLOURS.get(name, TEXT), "width": 3 if ours else 1.75},
        "marker": {"size": 7 if ours else 5},
    }  # fmt: skip


def heading(title, domain):
    return {
        "text": title, "font": {"size": 16}, "showarrow": False, "xref": "paper", "yref": "paper",
        "x": sum(domain) / 2, "y": 1, "xanchor": "center", "yanchor": "bottom",
    }  # fmt: skip


def labels(peers, step, number, layout):
    """The libraries' names at the ends of their lines; those that would overlap move up."""
    (left, right), (low, high) = layout["xaxis"]["range"], layout["yaxis"]["range"]
    panel = (WIDTH - MARGIN["l"] - MARGIN["r"]) * 0.48
    wide = LABEL[0] * (right - left) / panel
    tall = LABEL[1] * (high - low) / (HEIGHT - MARGIN["t"] - MARGIN["b"])
    placed = []
    ends = {name: points(peer, step)[-1] for name, peer in peers.items()}
    for name, (x, y) in sorted(ends.items(), key=lambda end: end[1][1]):
        for other_x, other_y in placed:
            if abs(x - other_x) < wide:
                y = max(y, other_y + tall)
        placed.append((x, y))
        title = peers[name]["title"].split()[0].rstrip(",")
        yield {
            "text": f"<b>{title}</b>" if name == "varscope" else title,
            "font": {"color": COLOURS.get(name, TEXT)}, "showarrow": False,
            "xref": f"x{number}", "yref": f"y{number}", "x": x, "y": y,
            "xanchor": "left", "xshift": 6,
        }  # fmt: skip


def main(file, picture):
    import plotly.graph_objects

    data = json.loads(Path(file).read_text(encoding="utf-8"))
    try:
        plotly.graph_objects.Figure(figure(data)).write_image(picture, format="svg")
    except Exception as error:
        if "Chrome" not in type(error).__name__ + str(error):
            raise
        sys.exit(
            "Error: it takes a Chromium or Chrome: install one (on Debian, the package chromium), "
            "or write where it is into the environment variable BROWSER_PATH"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
