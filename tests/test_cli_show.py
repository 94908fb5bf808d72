"""`varscope show`: the folded tree of files and builders, and what a terminal gets of names."""

import itertools
import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from command_line import environment, invoke, on_terminal, refused, run, write
from requires import on_posix

from varscope import folding
from varscope.cli import models
from varscope.cli.printing import TIMES

W = np.zeros((2, 3), np.float32)


def show(*arguments):
    return invoke("show", *arguments)


def document(*arguments):
    return json.loads(show(*arguments, "--json").stdout)


def expanded(found):
    """Every (name, dtype, shape) of a JSON document."""
    return sorted(
        (name, row["dtype"], tuple(row["shape"]))
        for row in found["summary"]
        for name in folding.expand(row["path"])
    )


def tree(output):
    """The lines above the totals, without their titles, as lists of words."""
    lines = output.split("\n\n")[0].splitlines()[1:]
    return [line.split() for line in lines]


@pytest.fixture
def layers(tmp_path):
    """A file of the usual kind, with dots in its names."""
    names = {f"model.layers.{i}.{part}.weight": W for i in range(12) for part in ("up", "down")}
    return write(tmp_path / "layers.safetensors", names | {"head": np.zeros(5, np.int8)})


def test_the_tree(layers):
    result = show(layers)
    assert result.exit_code == 0
    assert sorted(tree(result.output)) == sorted(
        [
            ["model.layers.[0-11].", f"{TIMES}24", "144", "576"],
            ["down.weight", "float32[2,", "3]", f"{TIMES}12", "72", "288"],
            ["up.weight", "float32[2,", "3]", f"{TIMES}12", "72", "288"],
            ["head", "int8[5]", "5", "5"],
        ]
    )
    assert "\n  down.weight         float32[2, 3]  " in result.output
    totals = dict(line.split(None, 1) for line in result.output.split("\n\n")[1].splitlines())
    assert totals == {
        "tensors": "25", "parameters": "149", "bytes": "581", "files": "1 (safetensors)"
    }  # fmt: skip


def test_depth_cuts_and_sums_what_is_below(layers):
    first = tree(show(layers, "--depth", 1).output)
    assert ["model.layers.[0-11].", f"{TIMES}24", "144", "576"] in first
    assert len(first) == 2
    assert tree(show(layers, "--depth", 2).output) == tree(show(layers).output)
    assert show(layers, "--depth", 0).exit_code == 2


def test_json_is_complete_and_expands_to_the_list(layers):
    found = document(layers)
    parts = [(i, part) for i in range(12) for part in ("up", "down")]
    names = [(f"model.layers.{i}.{part}.weight", "float32", (2, 3)) for i, part in parts]
    assert expanded(found) == sorted([*names, ("head", "int8", (5,))])
    assert (found["tensors"], found["parameters"], found["bytes"]) == (25, 149, 581)
    assert (found["format"], found["files"]) == ("safetensors", [str(layers)])
    refused(show(layers, "--json", "--depth", 1), "--depth", "--json")


def test_find(layers, tmp_path):
    assert document(layers, "--find", "model.layers.?.up.*")["tensors"] == 10
    assert document(layers, "--find", "**.up.weight")["tensors"] == 12
    assert document(layers, "--find", "model.**")["tensors"] == 24
    assert document(layers, "--find", "*")["tensors"] == 1
    assert "tensors     1 of 25" in show(layers, "--find", "*").output
    assert show(layers, "--find", "nothing").output.split("\n\n")[0].split() == [
        "name", "type", "count", "parameters", "bytes"
    ]  # fmt: skip
    slashes = write(tmp_path / "slashes.safetensors", {"a/b.0/w": W, "a/b.1/w": W, "a/w": W})
    assert document(slashes, "--find", "a/*/w")["tensors"] == 2
    assert document(slashes, "--find", "a/**/w")["tensors"] == 3
    refused(show(slashes, "--find", "a**/w"), "component of its own")


BUILDER = """
    import varscope as vs

    def build(layers=2):
        for i in range(layers):
            with vs.variable_scope(f"layers_{i}"):
                vs.get_variable("w", [4, 4])

    def odd():
        vs.get_variable("later", validate_shape=False, initializer=vs.zeros)
"""


@pytest.fixture
def builder(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(textwrap.dedent(BUILDER), encoding="utf-8")
    return str(path)


def test_a_builder(builder):
    result = show(builder, "--set", "layers=3")
    assert tree(result.output) == [["layers_[0-2]/w", "float32[4,", "4]", f"{TIMES}3", "48", "192"]]
    assert "variables   3\n" in result.output and "files" not in result.output
    assert document(builder, "layers=5", "--find", "layers_[0]/*")["tensors"] == 0
    assert document(builder, "layers=5", "--find", "*/w")["tensors"] == 5
    assert tree(show(f"{builder}:odd").output) == [["later", "float32[...]", "?", "?"]]


def test_which_targets_are_builders(builder, layers, tmp_path):
    refused(show(layers, "layers=3"), "'layers=3'", "FILE[:FUNCTION]")
    refused(show(tmp_path / "none"), "none")
    refused(show(tmp_path / "none.py"), "no such file")
    refused(show(f"{tmp_path / 'none.py'}:build"), "no such file")
    plain = tmp_path / "plain"
    plain.write_bytes((tmp_path / "model.py").read_bytes())
    assert show(f"{plain}:build").exit_code == 0
    refused(show(plain), str(plain))


def test_a_folder_an_index_and_tensorflow(layers, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "a.safetensors", {"w": W})
    write(folder / "b.safetensors", {"v": W})
    index = {"weight_map": {"w": "a.safetensors", "v": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in (folder, folder / "model.safetensors.index.json"):
        assert expanded(document(path)) == [("v", "float32", (2, 3)), ("w", "float32", (2, 3))]
        assert "files       2 (safetensors)" in show(path).output


# ---------------------------------------------------------------------------- hostile names

HOSTILE = {
    "a[0]": W,
    "a[1]": W,
    "b{,_1}": W,
    "back\\slash": W,
    "red\x1b[31m": W,
    "two\nlines": W,
    "bell\a.0": W,
    "bell\a.1": W,
    "turned\u202eround": W,
    "ünï/cødé.名": W,
    " ": W,
    "x" * 300: W,
}


def test_what_a_terminal_would_obey_does_not_reach_it(tmp_path):
    path = write(tmp_path / "hostile.safetensors", HOSTILE)
    found = document(path)
    assert expanded(found) == sorted((name, "float32", (2, 3)) for name in HOSTILE)
    output = show(path).output
    assert all(line.isprintable() for line in output.split("\n"))
    assert r"red\x1b\[31m" in output and r"bell\x07.[0-1]" in output and "ünï/cødé.名" in output
    result = show(tmp_path / "no\x1b[31msuch\nfile.safetensors")
    refused(result, r"no\x1b[31msuch file")
    assert "\x1b" not in result.output


def test_a_narrow_encoding(tmp_path):
    path = write(tmp_path / "foreign.safetensors", {"ü.0": W, "ü.1": W})
    done = run("show", path, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\xfc.[0-1]" in done.stdout and " x2 " in done.stdout


def test_a_file_that_is_none(tmp_path):
    path = tmp_path / "junk.safetensors"
    path.write_bytes(b"\x01\x02")
    refused(show(path), "junk.safetensors")


# ---------------------------------------------------------------------------- terminals and pipes


@on_posix
def test_colours_and_fewer_rows_on_a_terminal(tmp_path):
    path = write(tmp_path / "many.safetensors", {f"v{i}": np.zeros(i, np.int8) for i in range(300)})
    status, shown = on_terminal("show", str(path))
    assert status == 0
    assert "\x1b[36mint8[" in shown
    assert "100 more rows; --depth and --find show less, a pipe or --json all" in shown
    assert len(tree(show(path).output)) == 300
    assert "\x1b" not in show(path).output


@on_posix
def test_a_pipe_that_nobody_reads_any_more(tmp_path):
    path = write(
        tmp_path / "many.safetensors", {f"v{i}": np.zeros(i, np.int8) for i in range(9000)}
    )
    command = [sys.executable, "-m", "varscope", "show", str(path)]
    read, written = os.pipe()
    with subprocess.Popen(
        command, stdout=written, stderr=subprocess.PIPE, env=environment()
    ) as child:
        os.close(written)
        os.read(read, 10)
        os.close(read)
        assert child.communicate(timeout=60)[1] == b""
    assert child.returncode == 141


@pytest.mark.parametrize(
    "pattern",
    [
        "/".join(["**", "*", "a*"] * 10 + ["x"]),
        "/".join(["**"] * 20 + ["x"]),
        "**/" + "*a" * 40 + "x",
    ],
    ids=["parts", "deep", "stars"],
)
def test_no_pattern_takes_long(pattern):
    """A plain regex would try all ways to share a name out among the wildcards."""
    find = models.glob(pattern, "/").fullmatch
    assert not find("/".join(["a"] * 200))
    assert not find("a/" + "a" * 1000)
    assert find("/".join(["a"] * 50 + ["a" * 60 + "x"])) or not pattern.endswith("*a" * 40 + "x")


@pytest.mark.parametrize("separator", "/.")
def test_patterns_are_those_of_find(separator):
    """Beside the plain regex of a pattern, on all short names of a few components."""
    inner, end = f"[^{separator}]", re.escape(separator)
    names = [
        separator.join(parts)
        for count in range(1, 5)
        for parts in itertools.product(["a", "b", "ab"], repeat=count)
    ]
    for parts in itertools.product(["**", "*", "a", "a*", "*b*", "?"], repeat=3):
        *scopes, last = (
            part if part == "**" else part.replace("*", f"{inner}*").replace("?", inner)
            for part in parts
        )
        text = "".join(f"(?:{inner}*{end})*" if part == "**" else part + end for part in scopes)
        plain = re.compile(text + (".*" if last == "**" else last))
        found = models.glob(separator.join(parts), separator)
        for name in names:
            assert bool(found.fullmatch(name)) == bool(plain.fullmatch(name)), (parts, name)


def test_a_name_of_many_components(tmp_path):
    """One line of the tree, put together at once and not of ever longer texts."""
    name = "/".join(["a"] * 20_000)
    path = write(tmp_path / "deep.safetensors", {name: W})
    assert tree(show(path).stdout) == [[name, "float32[2,", "3]", "6", "24"]]
