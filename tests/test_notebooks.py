"""What a notebook shows: well-formed tables, of which looking changes nothing."""

import copy
import html.parser
import subprocess
import sys

import numpy as np
import pytest
from chromium import Chromium
from requires import require_ml_dtypes

import varscope as vs
from varscope import notebooks
from varscope.summary import fold


class Tables(html.parser.HTMLParser):
    """The tables of a text as lists of rows, and the text outside; every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.outside, self._open = [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        assert tag in {"p", "b", "table", "tr", "th", "td"}
        assert {name for name, _ in attributes} <= {"style", "colspan"}
        self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data
        else:
            self.outside.append(data.strip())


def shown(thing):
    return Tables(thing._repr_html_())


def facts(thing):
    return dict(shown(thing).tables[0])


def layers(count):
    for i in range(count):
        with vs.variable_scope(f"layers_{i}"):
            vs.get_variable("w", [2, 3])
            vs.get_variable("b", [3], "float16")


def test_a_graph_is_its_folded_variables():
    layers(12)
    page = shown(vs.get_default_graph())
    assert page.tables == [
        [
            ["variable", "type", "count", "parameters"],
            ["layers_[0-11]/w", "float32[2, 3]", "12", "72"],
            ["layers_[0-11]/b", "float16[3]", "12", "36"],
        ]
    ]
    assert page.outside == ["Graph", "", "24 variables, 108 parameters, 360 bytes"]


def test_an_empty_graph_and_an_empty_scope():
    assert shown(vs.Graph()).tables == [[["variable", "type", "count", "parameters"]]]
    with vs.variable_scope("empty") as scope:
        pass
    assert shown(scope).outside[-1] == "0 variables, 0 parameters, 0 bytes"


def test_a_scope_is_what_lies_below_it():
    with vs.variable_scope("a", dtype="float16", reuse=vs.AUTO_REUSE) as scope:
        layers(3)
    with vs.variable_scope("a_b"):
        vs.get_variable("w", [2])
    page = shown(scope)
    assert page.outside[:2] == ["VariableScope", "a"]
    assert page.tables[0] == [["reuse", "AUTO_REUSE"], ["dtype", "float16"]]
    assert [row[0] for row in page.tables[1][1:]] == ["a/layers_[0-2]/w", "a/layers_[0-2]/b"]
    with vs.variable_scope("") as root:
        assert len(shown(root).tables[1]) == 1 + 3


def test_where_little_repeats_the_first_rows_are_shown():
    for i in range(80):
        vs.get_variable(f"v{i}x", [i + 1])
    page = shown(vs.get_default_graph())
    table = page.tables[0]
    assert len(table) == 1 + 50 + 1
    assert table[50][0] == "v49x"
    assert table[51] == ["… and 30 more, of 30 variables"]
    assert page.outside[-1].startswith("80 variables, 3,240 parameters, 12,960 bytes")


def test_a_shape_that_is_not_known_yet():
    v = vs.get_variable("v", initializer=lambda *_: np.ones(3, "f4"), validate_shape=False)
    assert facts(v)["shape"] == facts(v)["bytes"] == "not known yet"
    assert shown(vs.get_default_graph()).tables[0][1] == ["v", "float32[...]", "1", "?"]
    assert not v.initialized
    v.initialize()
    assert facts(v)["shape"] == "(3,)"


def test_a_declared_variable_stays_so():
    v = vs.get_variable("v", [10**6, 10**6])
    page = shown(v)
    assert page.outside == ["Variable", "v:0"]
    found = dict(page.tables[0])
    file, line, function = v.creation_site
    assert found.pop("created") == f"{file}:{line} in {function}"
    assert found == {
        "shape": "(1000000, 1000000)",
        "dtype": "float32",
        "parameters": "1,000,000,000,000",
        "bytes": "4,000,000,000,000 bytes (3.6 TiB)",
        "trainable": "yes",
        "initialized": "no, only declared",
    }
    assert not v.initialized


def test_the_first_values_are_shown():
    v = vs.get_variable("v", initializer=np.arange(12.0).reshape(3, 4)).initialize()
    assert facts(v)["values"] == "[0., 1., 2., 3., 4., 5., …]"
    assert (facts(v)["initialized"], v.version) == ("yes", 1)
    six = vs.get_variable("six", initializer=np.arange(6)).initialize()
    assert facts(six)["values"] == "[0, 1, 2, 3, 4, 5]"
    scalar = vs.get_variable("scalar", [], initializer=vs.ones, trainable=False).initialize()
    assert (facts(scalar)["values"], facts(scalar)["trainable"]) == ("[1.]", "no")
    none = vs.get_variable("none", [0, 3]).initialize()
    assert facts(none)["values"] == "[]"


def test_values_of_every_kind():
    require_ml_dtypes()
    for dtype in ("bfloat16", "float8_e4m3fn", "int4", "complex64", "bool", "float16", "uint8"):
        v = vs.get_variable(dtype, [9], dtype, initializer=vs.zeros).initialize()
        assert facts(v)["values"].endswith(", …]")
        assert facts(v)["dtype"] == dtype


def test_a_variable_in_parts_shows_them():
    v = vs.get_variable("v", [7, 3], partitioner=vs.fixed_size_partitioner(2), initializer=vs.ones)
    page = shown(v)
    assert page.outside == ["PartitionedVariable", "v"]
    assert dict(page.tables[0])["partitions"] == "(2, 1)"
    assert page.tables[1] == [
        ["part", "shape", "initialized"],
        ["v/part_0:0", "(4, 3)", "no, only declared"],
        ["v/part_1:0", "(3, 3)", "no, only declared"],
    ]
    v[0].initialize()
    assert [row[2] for row in shown(v).tables[1][1:]] == ["yes", "no, only declared"]
    assert facts(v)["values"] == "[1., 1., 1., 1., 1., 1., …]"
    assert not v[1].initialized
    many = vs.get_variable("many", [70], partitioner=vs.fixed_size_partitioner(70))
    assert shown(many).tables[1][-1] == ["… and 20 more"]
    many[0].initialize()
    assert facts(many)["values"].endswith(", …]")


def test_a_withdrawn_variable_shows_its_repr():
    kept = []

    def failing(getter, name, *args, **kwargs):
        kept.append(getter(name, *args, **kwargs))
        raise RuntimeError

    for partitioner in (None, vs.fixed_size_partitioner(2)):
        with vs.variable_scope("scope", custom_getter=failing), pytest.raises(RuntimeError):
            vs.get_variable("v", [2], partitioner=partitioner)
    assert [v._repr_html_() for v in kept] == [None, None]


def test_text_is_escaped(tmp_path):
    """The name of a file, say: names of variables are harmless."""
    name = "<img src=x onerror=alert(1)>"
    scope = {"vs": vs}
    exec(compile("v = vs.get_variable('v', [2])", name, "exec"), scope)
    assert facts(scope["v"])["created"].startswith(name)
    path = tmp_path / "v.html"
    path.write_text(scope["v"]._repr_html_(), encoding="utf-8")
    with Chromium(tmp_path) as browser:
        page = browser.open(path)
        assert name in page.evaluate("document.body.innerText")
        assert page.evaluate("document.querySelectorAll('img').length") == 0
        assert page.complaints == []
        assert page.requests == [path.as_uri()]


def test_a_long_text_is_cut():
    gaps = fold((f"x_{2 * i}", "float32", (2,)) for i in range(10_000))
    table = Tables(notebooks._folded(gaps)).tables[0]
    assert len(table[1][0]) == notebooks.LONGEST_TEXT + 1


def test_a_copy_shows_the_same():
    layers(2)
    graph = vs.get_default_graph()
    assert copy.deepcopy(graph)._repr_html_() == graph._repr_html_()


def test_nothing_is_loaded_before_a_notebook_asks():
    code = (
        "import sys, varscope as vs; v = vs.get_variable('v', [2]); repr(v); "
        "names = {'varscope.notebooks', 'varscope.plots', 'varscope.summary', 'html', 'plotly'}; "
        "before = names & set(sys.modules); v._repr_html_(); "
        "print(sorted(before), 'varscope.notebooks' in sys.modules, 'plotly' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True False"
