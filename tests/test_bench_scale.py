"""bench/scale.py and tools/scale.py: that they run, and that what they say adds up."""

import argparse
import importlib.util
import re
from pathlib import Path

import pytest
from children import python
from requires import on_posix, require

import varscope as vs

ROOT = Path(__file__).resolve().parent.parent
require("safetensors", '"varscope-core[checkpoints]"')


def load(name):
    spec = importlib.util.spec_from_file_location(f"{name}_scale", ROOT / name / "scale.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ran(name, *arguments):
    code = f"import runpy; runpy.run_path({str(ROOT / name)!r}, None, '__main__')"
    done = python(code, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@on_posix
def test_a_model_through_files(tmp_path):
    said = ran("bench/scale.py", "--bytes", 8e6, "--names", 400, "--rounds", 1, "--memory", 2e9,
               "--limit", "data", "--folder", tmp_path)  # fmt: skip
    assert re.search(r"workers beside the (disk|kernels): \d+\.\d\d\n", said)
    assert "400 names, in seconds" in said and not list(tmp_path.iterdir())


@on_posix
def test_too_little_memory_is_said(tmp_path):
    bench = load("bench")
    with pytest.raises(SystemExit, match="a worker with 1,000,000 bytes has failed"):
        bench.workers(tmp_path, 1 << 20, 1, 10**6, "RLIMIT_AS")


def test_models_are_as_large_as_they_say():
    bench = load("bench")
    graph = bench.large_model(10**8)
    assert abs(graph.nbytes - 10**8) < 10**7
    assert max(v.size for v in graph.variables) > 10**8 // 4 // 4
    assert len(bench.small_model(400)) == 400


def given(**changed):
    facts = {
        "names": 1000, "bytes": 1e12, "workers": 100, "measure": 400, "shard": 5e9, "kernels": 2.0,
        "write": 0.5, "small": 1e6, "finish": 1e6, "start": 0.0, "store": 100.0, "latency": 0.0,
    }  # fmt: skip
    return argparse.Namespace(**{**facts, **changed})


def test_on_paper(tmp_path):
    paper = load("tools")
    graph = paper.declared(400, 4e9)
    assert len(graph) == 400 and abs(graph.nbytes - 4e9) < 4e8
    here = paper.measured(given(), tmp_path)
    assert here["counted"] == 400 and here["line"] > 10
    one, ten = (paper.on_paper(given(), here, workers) for workers in (1, 10))
    assert one["seconds: fill"] == pytest.approx(2000, rel=0.01)  # a terabyte at half a GB/s
    assert ten["seconds: fill"] == pytest.approx(200, rel=0.01)
    shared = paper.on_paper(given(store=1.0), here, 10)
    assert shared["seconds: fill"] == pytest.approx(1000, rel=0.01)
    steps = sum(value for what, value in one.items() if what.startswith("seconds: "))
    assert steps == pytest.approx(2 * one["seconds: all"])
    # What it says of a plan is what the plan is.
    plan = vs.plan(graph, tmp_path / "m", workers=10, max_shard_size=10**9)
    plan.save(tmp_path / "plan")
    told = paper.on_paper(given(names=400, bytes=graph.nbytes, shard=1e9, workers=10),
                          paper.measured(given(names=400, workers=10, bytes=4e9, shard=1e9),
                                         tmp_path), 10)  # fmt: skip
    assert told["plan bytes"] == pytest.approx((tmp_path / "plan").stat().st_size, rel=0.1)


def test_the_table():
    lines = ran("tools/scale.py", "--measure", 800, "--names", 8000, "--workers", 50).splitlines()
    assert lines[0].startswith("measured here: 800 names")
    assert lines[1].split() == ["workers", "1", "10", "50"]
    assert lines[-1].startswith("TB a second")
