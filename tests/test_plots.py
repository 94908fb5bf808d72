"""The treemap: what is drawn, what a browser makes of it, and the files that are written."""

import re
import struct
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from chromium import Chromium
from requires import require_large, require_program

import varscope as vs
from varscope import plots
from varscope.errors import ArgumentValueError, PictureError
from varscope.summary import SummaryRow, fold, summarize

INSTALL = '"varscope-core[plots]"'
F4 = "float32"

# Names that a file may hold, though no graph does; what is shown of each is the second.
FOREIGN = {
    "<img src=x onerror=alert(1)>": "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>": "</script><script>alert(2)</script>",
    "<a href='javascript:alert(3)'>x</a>": "<a href='javascript:alert(3)'>x</a>",
    "<b>bold</b>": "<b>bold</b>",
    "&lt;": "&lt;",
    "%{label}": "%{label}",
    "$x^2$": "$x^2$",
    "{title}": "{title}",
    "]]>": "]]>",
    "a//b": "a//b",
    "": "<i>F8</i>[9]",  # its type comes next
    "two\nlines\x00": r"two\nlines\x00",
    "turned\u202earound": r"turned\u202earound",
    "half\ud800": r"half\ud800",
    "q" * 5000: "q" * 80 + "…" + "q" * 80,
}


@pytest.fixture(scope="module", autouse=True)
def plotly():
    return require_large("plotly", INSTALL)


def row(path, dtype=F4, size=1):
    return SummaryRow(path, dtype, (size,), 1, size, 4 * size)


def boxes(rows, title="model"):
    """(label, the label around it, bytes) of what is drawn."""
    drawn = plots.treemap(rows, title).data[0]
    labels = dict(zip(drawn.ids, drawn.labels, strict=True))
    around = [labels.get(parent) for parent in drawn.parents]
    return list(zip(drawn.labels, around, drawn.values, strict=True))


# --- what is drawn


def test_a_scope_is_around_what_it_holds():
    rows = fold([("a/w", F4, (2,)), ("a/b/w", "int8", (5,)), ("a/b/v", F4, ()), ("c", F4, (1,))])
    assert boxes(rows) == [
        ("model", None, 0),
        ("a", "model", 0),
        ("w", "a", 8),
        ("b", "a", 0),
        ("w", "b", 5),
        ("v", "b", 4),
        ("c", "model", 4),
    ]


def test_a_scope_of_one_thing_has_no_frame_of_its_own():
    rows = fold([("a/b/c/w", F4, (2,)), ("d/e/v", F4, (2,)), ("d/e/w", F4, (2,))])
    assert [label for label, *_ in boxes(rows)] == ["model", "a/b/c/w", "d/e", "v", "w"]
    assert [label for label, *_ in boxes(rows[:1])] == ["model", "a/b/c/w"]


def test_scopes_end_at_dots_too():
    rows = fold((f"model.layers.{i}.{name}", F4, (2,)) for i in range(3) for name in "ab")
    assert [label for label, *_ in boxes(rows)] == ["model", "model.layers.[0-2]", "a", "b"]
    assert plots.treemap(rows).data[0].hovertext[1].startswith("model.layers.[0-2]<br>2 kinds")


def test_a_variable_and_a_scope_of_the_same_name():
    rows = fold([("w", F4, (2,)), ("w/v", F4, (3,)), ("w/u", F4, (1,))])
    assert boxes(rows)[1:] == [("w", "model", 8), ("w", "model", 0), ("v", "w", 12), ("u", "w", 4)]


def test_what_has_no_bytes_or_no_shape_yet_has_no_area():
    rows = fold([("a", F4, (0, 3)), ("b", F4, None), ("c", F4, (None, 2)), ("d", F4, ())])
    assert [size for _, _, size in boxes(rows)] == [0, 0, 0, 0, 4]
    hints = plots.treemap(rows).data[0].hovertext
    assert hints[1].endswith("1 variable, 0 parameters<br>0 bytes")
    assert "float32[...]" in hints[2]
    assert "float32[?, 2]" in hints[3]
    assert hints[2].endswith(hints[3].split("<br>")[-1]) and hints[3].endswith("not known yet")
    assert boxes([]) == [("model", None, 0)]


def test_the_hint_says_all_of_a_row():
    rows = fold((f"layers_{i}/w", "float16", (64, 32)) for i in range(12))
    figure = plots.treemap(rows, "twelve")
    assert figure.data[0].hovertext[1].split("<br>") == [
        "layers_[0-11]/w",
        "float16[64, 32]",
        "12 variables, 24,576 parameters",
        "49,152 bytes (48.0 KiB)",
    ]
    assert figure.layout.title.text == "twelve: 12 variables, 24,576 parameters, 48.0 KiB"


def test_where_little_repeats_the_largest_are_drawn_and_one_box_is_the_rest():
    rows = [row(f"s{i % 7}x/n{i}x", ["int8", F4][i % 2], 1 + i) for i in range(5000)]
    drawn = boxes(rows)
    assert len(drawn) == 1 + 7 + 300 + 7
    assert sum(size for *_, size in drawn) == sum(r.nbytes for r in rows)
    rest = [label for label, *_ in drawn if label.endswith(" more")]
    assert sum(int(label.split()[1].replace(",", "")) for label in rest) == 4700
    assert plots.treemap(rows).layout.title.text.startswith("model: 5,000 variables")


def test_frames_end_where_nobody_could_see_them():
    rows = [row("s/" * depth + "w", size=depth + 1) for depth in range(500)]
    drawn = boxes(rows)
    assert len(drawn) < 2 * 300
    assert sum(size for *_, size in drawn) == sum(r.nbytes for r in rows)
    assert max(len(label) for label, *_ in drawn) <= plots.LONGEST_TEXT + 1


def test_there_are_more_dtypes_than_colours():
    rows = [row(f"v{i}", f"dtype{i}", 100 - i) for i in range(15)]
    figure = plots.treemap(rows)
    colours = figure.data[0].marker.colors[1:]
    assert len(set(colours[:10])) == 10
    assert set(colours[10:]) == {plots.MIXED}
    legend = {entry.name: entry.marker.color for entry in figure.data[1:]}
    assert legend["dtype3: 388 bytes"] == colours[3]
    assert legend["other or several dtypes"] == plots.MIXED
    assert len(legend) == 11


# --- what is written


@pytest.mark.parametrize("name", ["model.jpg", "model", "model.html.gz", ".png"])
def test_another_ending(name, tmp_path):
    with pytest.raises(ArgumentValueError, match=r"\.html, \.svg or \.png.*" + re.escape(name)):
        plots.write(plots.treemap([]), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_same_model_gives_the_same_page(tmp_path):
    for name in ("a.html", "b.HTML"):
        plots.write(plots.treemap([row("w")]), tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.HTML").read_bytes()


def test_a_failure_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "model.html"
    path.write_text("old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        plots.write(plots.treemap([row("w")]), path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
    with pytest.raises(FileNotFoundError):
        plots.write(plots.treemap([row("w")]), tmp_path / "none" / "model.html")


@pytest.mark.parametrize(
    ("missing", "act"),
    [
        ("plotly", lambda path: plots.treemap([])),
        ("kaleido", lambda path: plots.write(plots.treemap([]), path / "model.svg")),
    ],
)
def test_a_library_is_missing(missing, act, tmp_path, monkeypatch):
    for module in [missing, *(name for name in sys.modules if name.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'{missing}.*pip install "varscope-core\[plots\]"'):
        act(tmp_path)


def test_no_browser(tmp_path, monkeypatch):
    require_large("kaleido", INSTALL)
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    with pytest.raises(PictureError, match=r"apt-get install chromium.*BROWSER_PATH.*\.html"):
        plots.write(plots.treemap([row("w")]), tmp_path / "model.png")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def drawing():
    """For pictures that a browser draws, through kaleido."""
    require_large("kaleido", INSTALL)
    require_program("chromium", "chromium")


def test_svg(drawing, tmp_path):
    path = tmp_path / "model.svg"
    foreign = FOREIGN.keys() - {"]]>", "&lt;"}  # older versions of plotly write these wrongly
    plots.write(plots.treemap([row(name, "<i>F8</i>", 9) for name in foreign]), path)
    elements = list(ET.fromstring(path.read_text(encoding="utf-8")).iter())
    texts = {element.text for element in elements if element.text}
    assert {FOREIGN[name] for name in foreign} < texts
    assert {"script", "img", "a"}.isdisjoint(e.tag.rpartition("}")[2] for e in elements)
    assert [*tmp_path.iterdir()] == [path]


def test_png(drawing, tmp_path):
    path = tmp_path / "model.png"
    plots.write(plots.treemap([row("w")]), path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", content[16:24]) == (plots.WIDTH, plots.HEIGHT)


# --- what a browser makes of it


@pytest.fixture(scope="module")
def browser(plotly, tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def figure(plotly):
    """Half a million variables."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
    try:
        import moe
    finally:
        del sys.path[0]
    graph = vs.Graph()
    with graph.as_default():
        moe.build(layers=92, experts=896)
    return plots.treemap(summarize(graph).rows, "moe.py")


@pytest.fixture(scope="module")
def path(figure, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "moe.html"
    plots.write(figure, path)
    return path


@pytest.fixture(scope="module")
def page(browser, path):
    """The page of half a million variables; each test leaves it as it was."""
    return browser.open(path)


SLICES = "[...document.querySelectorAll('g.treemaplayer g.slice')]"
PATH_BAR = "[...document.querySelectorAll('g.treemaplayer g.pathbar')]"


def texts(page, what=SLICES):
    """The first lines of rectangles, which are names; an empty one is not drawn."""
    return page.evaluate(
        f"{what}.map(e => (e.querySelector('tspan.line') ?? e.querySelector('text'))?.textContent "
        "?? '')"
    )


def surfaces(page):
    """(left, top, width, height, colour) of rectangles, by the names that plotly was given."""
    found = page.evaluate(
        f"{SLICES}.map(e => [e.__data__.data.data.label, e.querySelector('path.surface')])"
        ".map(([name, e]) => [name, e.getBoundingClientRect(), getComputedStyle(e).fill])"
        ".map(([name, r, fill]) => [name, [r.x, r.y, r.width, r.height, fill]])"
    )
    assert len(dict(found)) == len(found)
    return dict(found)


def test_the_page_is_small_but_for_the_library(path, plotly):
    library = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    assert path.stat().st_size - library.stat().st_size < 20_000


def test_all_is_drawn(page, figure, path):
    drawn = surfaces(page)
    assert sorted(drawn) == sorted(figure.data[0].labels)
    # These are 1/8000 of the bytes and less: not a tenth of a pixel wide.
    small = {"embeddings/table", "norm{,_1}/scale", "norm/scale"}
    seen = {name for name, (_, _, width, height, _) in drawn.items() if width > 0 and height > 0}
    assert seen == set(drawn) - small
    assert len(seen) == 15
    areas = {name: drawn[name][2] * drawn[name][3] for name in ("w1", "w2", "w2_scale")}
    assert areas["w1"] == pytest.approx(areas["w2"], rel=0.02)
    assert areas["w1"] == pytest.approx(16 * areas["w2_scale"], rel=0.1)  # but for the gaps
    assert page.evaluate("document.title").startswith("moe.py: 495,238 variables")
    assert page.complaints == []
    assert page.requests == [path.as_uri()]


def test_a_click_zooms_and_the_path_leads_back(page):
    everything = surfaces(page)
    left, top, *_ = everything["experts_[0-895]"]
    page.click(left + 20, top + 8)
    page.wait_until(f"{PATH_BAR}.length == 2 && {SLICES}.length == 7")
    assert sorted(texts(page, PATH_BAR)) == ["layers_[0-91]", "moe.py"]
    zoomed = surfaces(page)
    assert set(zoomed) == {"experts_[0-895]", "w1", "w2", "w3", "w1_scale", "w2_scale", "w3_scale"}
    x, y = page.evaluate(
        f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])"
        f"({PATH_BAR}.find(e => e.textContent == 'moe.py').getBoundingClientRect())"
    )
    page.click(x, y)
    page.wait_until(f"{SLICES}.length == 18")
    page.wait_until(f"{PATH_BAR}.length == 0")
    assert set(surfaces(page)) == set(everything)
    assert page.complaints == []


def test_the_mouse_shows_what_a_row_says(page):
    left, top, width, height, _ = surfaces(page)["w2"]
    page.move(left + width / 2, top + height / 2)
    page.wait_until("document.querySelector('g.hoverlayer text') != null")
    lines = "[...document.querySelectorAll('g.hoverlayer tspan.line')].map(e => e.textContent)"
    assert page.evaluate(lines) == [
        "layers_[0-91]/experts_[0-895]/w2",
        "float16[32, 64]",
        "82,432 variables, 168,820,736 parameters",
        "337,641,472 bytes (322.0 MiB)",
    ]


def test_the_legend_has_the_colours_of_the_rectangles(page):
    legend = page.evaluate(
        "[...document.querySelectorAll('g.legend g.traces')].map(e => "
        "[e.querySelector('text').textContent, "
        "getComputedStyle(e.querySelector('.legendpoints path')).fill])"
    )
    drawn = surfaces(page)
    assert dict(legend) == {
        "float16: 968.3 MiB": drawn["w1"][4],
        "float32: 60.4 MiB": drawn["w1_scale"][4],
    }
    # It says what is what, and hides nothing when it is clicked.
    x, y = page.evaluate(
        "(({x, y}) => [x + 5, y + 5])(document.querySelector('g.legend g.traces')"
        ".getBoundingClientRect())"
    )
    page.click(x, y)
    assert surfaces(page) == drawn


def test_foreign_names_are_shown_as_text(browser, tmp_path):
    path = tmp_path / "foreign.html"
    title = "<script>alert(0)</script>"
    rows = [row(name, "<i>F8</i>", 9) for name in FOREIGN]
    plots.write(plots.treemap(rows, title), path)
    page = browser.open(path)
    assert sorted(texts(page)) == sorted([title, *FOREIGN.values()])
    assert page.evaluate("document.title").startswith(title)
    assert page.evaluate("document.querySelectorAll('svg a, svg img, svg i, svg b').length") == 0
    assert page.complaints == []  # no window that a script opens is among them
    assert page.requests == [path.as_uri()]


@pytest.mark.parametrize(
    "rows",
    [
        fold([("a/w", F4, (0,)), ("b", F4, (3, 0)), ("c/d", F4, None)]),
        pytest.param(
            [row("a/b"), SummaryRow("a/c", F4, (2**40, 2**40), 3, 3 * 2**80, 12 * 2**80)],
            marks=pytest.mark.slow,
        ),
        pytest.param([], marks=pytest.mark.slow),
        pytest.param(
            [row("s/" * depth + "w", size=depth + 1) for depth in range(500)],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["no bytes", "more bytes than integers", "nothing", "deep"],
)
def test_odd_models_are_drawn(rows, browser, tmp_path):
    path = tmp_path / "odd.html"
    figure = plots.treemap(rows)
    plots.write(figure, path)
    page = browser.open(path)
    assert page.evaluate(f"{SLICES}.length") == len(figure.data[0].ids)
    assert page.complaints == []
