"""Half a million names on the command line: what it says is right, and what it took is printed."""

import json
import os
import time

import numpy as np
import pytest
from command_line import run, write
from requires import on_posix

from varscope import folding

pytestmark = [pytest.mark.slow, on_posix]

SHAPES = {"gate_proj": (2, 3), "up_proj": (2, 3), "down_proj": (3, 2)}
NAMES = {
    f"model.layers.{i}.mlp.experts.{j}.{part}.{kind}": shape if kind == "weight" else shape[:1]
    for i in range(92)
    for j in range(896)
    for part, shape in SHAPES.items()
    for kind in ("weight", "scale")
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of the same names, of which all tensors differ."""
    folder = tmp_path_factory.mktemp("large")
    values = [
        {name: np.full(shape, n, np.float32) for name, shape in NAMES.items()} for n in (1, 2)
    ]
    return [write(folder / f"{n}.safetensors", each) for n, each in enumerate(values)]


@pytest.fixture
def timed(record_property, capsys):
    """Run a command, and print what it took of a processor."""

    def timed(*arguments):
        before, started = os.times(), time.perf_counter()
        done = run(*arguments)
        after, seconds = os.times(), time.perf_counter() - started
        used = after.children_user - before.children_user
        used += after.children_system - before.children_system
        record_property(f"{arguments[0]}_seconds", used)
        with capsys.disabled():
            words = " ".join(str(each) for each in arguments if "/" not in str(each))
            print(f"\n{words}: {used:.2f} s of a processor, {seconds:.2f} s in all")
        assert done.stderr == ""
        return done

    return timed


def test_show(files, timed):
    done = timed("show", files[0])
    assert done.stdout.count("\n") < 20 and "494,592" in done.stdout
    rows = json.loads(timed("show", files[0], "--json").stdout)["summary"]
    expanded = {name: tuple(row["shape"]) for row in rows for name in folding.expand(row["path"])}
    assert len(rows) == 6 and expanded == NAMES


def test_show_what_a_pattern_finds(files, timed):
    done = timed("show", files[0], "--find", "**.up_proj.weight")
    assert "82,432 of 494,592" in done.stdout


def test_diff_of_the_same(files, timed):
    done = timed("diff", files[0], files[0])
    assert done.returncode == 0 and "0 of 494,592 compared" in done.stdout


def test_diff_where_all_differ(files, timed):
    done = timed("diff", files[0], files[1])
    assert done.returncode == 1 and "494,592 of 494,592 compared" in done.stdout
    assert done.stdout.count("\n") < 15
    found = json.loads(timed("diff", files[0], files[1], "--json").stdout)
    assert {each["name"] for each in found["values"]} == NAMES.keys()
    assert {(each["absolute"], each["relative"]) for each in found["values"]} == {(1.0, 0.5)}


def test_diff_where_all_are_renamed(files, timed, tmp_path):
    renamed = {f"old/{name}": np.full(shape, 1, np.float32) for name, shape in NAMES.items()}
    done = timed("diff", files[0], write(tmp_path / "renamed.safetensors", renamed))
    assert done.returncode == 1 and "494,592 renamed" in done.stdout
    assert done.stdout.count("\n") < 15
