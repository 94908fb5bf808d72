"""bench/: that what it times is what it says, and that it still runs."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from requires import require

BENCH = Path(__file__).resolve().parent.parent / "bench"
require("pytest_benchmark", "pytest-benchmark")

measures_memory = pytest.mark.skipif(
    not os.path.exists("/proc/self/statm") and shutil.which("ps") is None,
    reason="resident memory is read from /proc or asked of ps",
)


@pytest.fixture(scope="module")
def ratios():
    # The processes that measure memory import it by name, and get a copy of this path.
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module("ratios")
    sys.path.remove(str(BENCH))


@pytest.fixture
def small(ratios):
    return ratios.Data(scopes=3, siblings=1_100)


def numbers(output):
    """The cells of a table that read as numbers."""
    cells = [cell.replace(",", "") for cell in output.split()]
    return [float(cell) for cell in cells if cell.replace(".", "", 1).isdigit()]


def test_under_pytest_benchmark():
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-disable",
         "-m", "not slow", str(BENCH / "test_registry.py")],
        capture_output=True, check=False, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "14 passed, 14 deselected" in result.stdout


def test_graph_and_dict_hold_the_same_names(small):
    assert list(small.graph) == list(small.paths)
    assert len(small.graph) == 3 * 16


@pytest.mark.parametrize(
    "name", ["FOUND", "HELD", "SHAPED", "CREATED", "OPENED", "NAMED", "FIRST_SIBLINGS",
             "LAST_SIBLINGS"]
)  # fmt: skip
def test_a_case_and_its_twin_are_timed(ratios, small, name):
    case = getattr(ratios, name)
    assert case.statements(small) in (48, 3, 1_000)
    ours, others = ratios.measure(case, small, rounds=2)
    assert 0 < ours < 1e6
    assert 0 < others < 1e6


def test_the_twin_of_the_model_makes_the_same_names(ratios):
    seconds, graph = ratios.moe_in_graph(ratios.load_moe(), layers=3, experts=5)
    seconds_beside, paths = ratios.moe_in_dict(layers=3, experts=5)
    assert sorted(graph) == sorted(paths)
    assert 0 < seconds < 60
    assert 0 < seconds_beside < 60


def test_the_tables_of_times(ratios, small, capsys):
    ratios.print_statements(small, [*ratios.CASES, ratios.LAST_SIBLINGS], rounds=1)
    ratios.print_growth([2, 4], rounds=1)
    ratios.print_model(layers=2, experts=3, rounds=1)
    times, growth, model = capsys.readouterr().out.strip().split("\n\n")
    assert times.startswith("48 names in 3 scopes, best of 1 rounds\n")
    assert len(times.splitlines()) == 2 + 7
    assert "d[prefix + name] = None" in times
    assert [line.split()[0] for line in growth.splitlines()[2:4]] == ["32", "64"]
    assert growth.splitlines()[-1].startswith("cost at 64 names over that at 32: ")
    assert len(numbers(model.splitlines()[-1])) == 3


def test_the_table_of_values(ratios, capsys):
    ratios.print_values(blocks=1, small=64, rounds=1)
    title, head, *lines = capsys.readouterr().out.strip().splitlines()
    assert "random values" in title
    assert head.split() == ["ns", "beside", "ns", "ratio"]
    assert len(lines) == 6
    for line in lines:
        assert 0 < numbers(line)[-1] < 100


def test_the_table_of_many_variables(ratios, capsys):
    ratios.print_initialize(variables=100, elements=1000, rounds=1)
    title, head, *lines = capsys.readouterr().out.strip().splitlines()
    assert title == "vs.initialize() in an arena"
    assert head.split() == ["ms", "beside", "ms", "ratio"]
    assert len(lines) == 4
    for line in lines:
        assert numbers(line)[-1] > 0


@measures_memory
def test_the_tables_of_memory(ratios, capsys):
    ratios.print_memory([50], reentries=1_000)
    variables, reentries = capsys.readouterr().out.strip().split("\n\n")
    names, ours, others, ratio = numbers(variables.splitlines()[-1])
    assert names == 50 * 16
    assert 20 < ours < 500
    assert 20 < others < 500
    assert ratio == pytest.approx(ours / others, rel=0.05)
    assert len(reentries.splitlines()) == 4
