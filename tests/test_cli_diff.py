"""`varscope diff`: what it prints, its status, and that JSON has it all."""

import json
import textwrap

import numpy as np
import pytest
from command_line import invoke, on_terminal, refused, write
from requires import on_posix

from varscope.cli.printing import ARROW, TIMES

F4 = np.float32


def diff(*arguments):
    return invoke("diff", *arguments)


def document(*arguments):
    result = diff(*arguments, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == (0 if found["same"] else 1)
    return found


def sections(output):
    """Title to rows, as lists of words; the totals are under ""."""
    *tables, totals = output.rstrip("\n").split("\n\n")
    found = {"": totals.splitlines()}
    for table in tables:
        title, *rows = table.splitlines()
        found[title.split("  ")[0]] = [row.split() for row in rows]
    return found


@pytest.fixture
def files(tmp_path):
    """Write two files, and give their paths."""

    def files(a, b):
        return [
            write(tmp_path / f"{name}.safetensors", each) for name, each in (("a", a), ("b", b))
        ]

    return files


def test_the_same(files, tmp_path):
    a, b = files({"v": np.array([1, np.nan], F4)}, {"v": np.array([1, np.nan], F4)})
    result = diff(a, b)
    assert result.exit_code == 0
    assert sections(result.output) == {
        "": [f"{a}  1 tensors", f"{b}  1 tensors",
             f"{'same':<{len(str(a))}}  0 of 1 compared have other values"]
    }  # fmt: skip
    assert document(a, b)["same"]


def test_all_that_differs(files):
    both = {f"l_{i}/w": np.full((2, 3), i, F4) for i in range(12)}
    a = both | {f"old_{i}": np.full(i + 9, 1, F4) for i in range(2)}
    b = {name: value + (name != "l_0/w") for name, value in both.items()}
    a |= {"shape": np.zeros((2, 3), F4), "dtype": np.zeros(3, F4), "h_1.w": np.array([7, 8.0])}
    b |= {"shape": np.zeros((2, 4), F4), "dtype": np.zeros(3, np.float16)}
    b |= {"block_1.w": np.array([7, 8.0]), "new": np.zeros(1, bool)}
    paths = files(a, b)
    result = diff(*paths)
    assert result.exit_code == 1
    found = sections(result.output)
    assert found.pop("")[-1].split(maxsplit=1)[1] == (
        "2 removed, 1 added, 1 renamed, 1 of another shape, 1 of another dtype, "
        "11 of 14 compared have other values"
    )
    assert found == {
        "removed": [["old_0", "float32[9]"], ["old_1", "float32[10]"]],
        "added": [["new", "bool[1]"]],
        "renamed (a guess)": [["h_1.w", ARROW, "block_1.w", "float64[2]", "values"]],
        "other shapes": [["shape", "[2,", "3]", ARROW, "[2,", "4]"]],
        "other dtypes": [["dtype", "float32", ARROW, "float16"]],
        "other values": [["l_[1-11]/w", "float32[2,", "3]", f"{TIMES}11", "66", "1", "0.5"]],
    }
    full = document(*paths)
    assert full["removed"] == ["old_0", "old_1"] and full["added"] == ["new"]
    assert full["renamed"] == [{"old": "h_1.w", "new": "block_1.w", "by": "values"}]
    assert full["shapes"] == [{"name": "shape", "old": [2, 3], "new": [2, 4]}]
    assert full["dtypes"] == [{"name": "dtype", "old": "float32", "new": "float16"}]
    assert sorted(each["name"] for each in full["values"]) == sorted(
        f"l_{i}/w" for i in range(1, 12)
    )
    assert full["values"][0].keys() == {
        "name", "dtype", "shape", "elements", "absolute", "relative"
    }  # fmt: skip
    assert (full["tensors"], full["compared"]) == ([17, 16], 14)


def test_renamed_through_the_same_numbers_fold(files):
    a = {f"h_{i}/{n}": np.full(3, i * 10 + k, F4) for i in range(12) for k, n in enumerate("wb")}
    b = {
        f"layers.{i}.{n}": np.full(3, i * 10 + k, F4)
        for i in range(12)
        for k, n in enumerate(["weight", "bias"])
    }
    found = sections(diff(*files(a, b)).output)
    assert sorted(found["renamed (a guess)"]) == [
        ["h_[0-11]/b", ARROW, "layers.[0-11].bias", "float32[3]", f"{TIMES}12", "values"],
        ["h_[0-11]/w", ARROW, "layers.[0-11].weight", "float32[3]", f"{TIMES}12", "values"],
    ]


def test_renamed_across_each_other_stay_pairs(files):
    a = {f"x_{i}": np.full(3, i, F4) for i in range(3)}
    b = {f"y_{2 - i}": np.full(3, i, F4) for i in range(3)}
    rows = sections(diff(*files(a, b)).output)["renamed (a guess)"]
    assert sorted(row[:3] for row in rows) == [[f"x_{i}", ARROW, f"y_{2 - i}"] for i in range(3)]


def test_tolerances(files):
    a, b = files({"v": np.array([100.0])}, {"v": np.array([101.0])})
    assert diff(a, b).exit_code == 1
    assert diff(a, b, "--rtol", "0.01").exit_code == 0
    assert diff(a, b, "--atol", "1").exit_code == 0
    assert diff(a, b, "--atol", "0.5").exit_code == 1
    refused(diff(a, b, "--atol", "-1"), "atol", "-1")


def test_infinite_differences_are_json_too(files):
    a, b = files({"v": np.array([np.nan, 1])}, {"v": np.array([1.0, 1])})
    assert document(a, b)["values"][0]["absolute"] == "inf"
    assert " inf" in diff(a, b).output


BUILDER = """
    import varscope as vs

    def build(width=3):
        with vs.variable_scope("layer"):
            vs.get_variable("w", [width, 2])
        vs.get_local_variable("steps", [], dtype="int64")
"""


def test_a_builder_has_names_and_shapes(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(textwrap.dedent(BUILDER), encoding="utf-8")
    file = write(tmp_path / "a.safetensors", {"layer/w": np.ones((3, 2), F4)})
    result = diff(file, path)
    assert result.exit_code == 0
    assert result.output.splitlines()[-1].endswith("  names and shapes")
    found = sections(diff(file, path, "--set", "width=4").output)
    assert found["other shapes"] == [["layer/w", "[3,", "2]", ARROW, "[4,", "2]"]]
    assert document(f"{path}:build", path, "width=5")["same"]
    assert diff(path, file).exit_code == 0


def test_what_cannot_be_compared(files, tmp_path):
    a, b = files({"v": np.ones(1)}, {"v": np.ones(1)})
    refused(diff(a, tmp_path / "none"), "none")
    refused(diff(a, b, "width=3"), "'width=3'")
    b.write_bytes(b"junk")
    refused(diff(a, b), "b.safetensors")
    assert diff(a).exit_code == 2


def test_hostile_names(files):
    names = ["a[0]", "red\x1b[31m", "two\nlines", "x{,_1}"]
    a, b = files({name: np.ones(2) for name in names}, {name: np.zeros(2) for name in names})
    output = diff(a, b).output
    assert all(line.isprintable() for line in output.split("\n"))
    assert sorted(each["name"] for each in document(a, b)["values"]) == sorted(names)


@on_posix
def test_on_a_terminal(files):
    a, b = files({f"v{i}": np.zeros(i + 1) for i in range(250)}, {"w": np.ones(2)})
    status, shown = on_terminal("diff", str(a), str(b))
    assert status == 1
    assert "50 more rows; --json lists all" in shown and "\x1b[36mfloat64[" in shown
