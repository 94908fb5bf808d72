"""bench/checkpoints.py: that what it times is what it says, and that it still runs."""

import importlib
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from requires import on_posix, require

import varscope as vs

BENCH = Path(__file__).resolve().parent.parent / "bench"
require("safetensors", "safetensors")
require("click", "click")


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module("checkpoints")
    sys.path.remove(str(BENCH))


def test_a_line_has_both_times_and_their_ratio(bench, tmp_path):
    rows = bench.lines(partial(bench.small_ones, 30), tmp_path, 1)
    assert [row[0].partition(",")[0].partition(";")[0] for row in rows] == [
        "save", "save", "restore", "restore", "open"
    ]  # fmt: skip
    assert all(ours > 0 and other > 0 and ratio == ours / other for _, ours, other, ratio in rows)


def test_both_write_and_read_the_same_values(bench, tmp_path):
    graph = bench.filled(bench.large_ones(1 << 16))
    assert graph.nbytes == 1 << 16 and len(graph) == 16
    bench.saved(graph, tmp_path / "ours.safetensors")
    bench.saved_by_library(bench.as_arrays(graph), tmp_path / "other.safetensors")
    again = bench.restored(bench.large_ones(1 << 16), tmp_path / "other.safetensors")
    loaded = bench.loaded_by_library(tmp_path / "ours.safetensors")
    for name in graph:
        assert np.array_equal(again[name], graph[name]) and np.array_equal(
            loaded[name], again[name]
        )
    ours, theirs = (tmp_path / f"{name}.safetensors" for name in ("ours", "other"))
    assert set(bench.opened(ours)[0]) == bench.opened_by_library(theirs)[1]


def test_what_is_given_as_a_function_is_made_before_the_clock_starts(bench, monkeypatch):
    made = []
    monkeypatch.setattr(bench, "clock", lambda: len(made))
    assert bench.seconds(made.extend, partial(list, "abc")) == 3
    assert bench.seconds(len, lambda: made.append("d") or "") == 0


def test_whole_commands(bench, tmp_path):
    graph = bench.filled(bench.small_ones(10))
    vs.save(graph, tmp_path / "one.safetensors")
    vs.save(graph, tmp_path / "several")
    rows = bench.commands(tmp_path, 1)
    assert [row[0].split()[1] for row in rows] == ["show", "show", "diff"]


@on_posix
def test_the_peak_of_a_restore(bench, tmp_path, capsys):
    vs.save(bench.filled(bench.large_ones(1 << 24)), tmp_path / "one.safetensors")
    bench.print_peaks(1 << 24, tmp_path / "one.safetensors")
    printed = capsys.readouterr().out.split()
    assert {"heap", "arena"} <= set(printed) or not bench.PEAK.exists()
