"""`varscope plan` and `varscope materialise`: what they write, find and say."""

import json
import textwrap

import numpy as np
import pytest
from command_line import invoke, pairs, refused, run
from requires import require

import varscope as vs

require("safetensors", '"varscope-core[checkpoints]"')

BUILDER = """
    import varscope as vs

    def build(layers=3, width=64):
        for i in range(layers):
            with vs.variable_scope(f"layers_{i}"):
                vs.get_variable("w", [width, width])

    def arrays():
        vs.get_variable("w", initializer=[1.0, 2.0])
"""


@pytest.fixture
def builder(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(textwrap.dedent(BUILDER), encoding="utf-8")
    return path


@pytest.fixture
def plan(builder, tmp_path):
    """A plan for three workers."""
    out = tmp_path / "plan"
    result = invoke("plan", builder, "-o", out, "--path", tmp_path / "out", "--workers", 3,
                    "--seed", 7, "--max-shard-size", 20_000)  # fmt: skip
    assert result.exit_code == 0, result.output
    return out


def test_a_plan(builder, plan, tmp_path):
    size = plan.stat().st_size
    again = ["--path", "out", "--workers", 2, "--seed", 7, "--by", "files", "--set", "layers=2"]
    result = invoke("plan", builder, "-o", tmp_path / "other", *again)
    found = pairs(result.output)
    assert float(found.pop("seconds")) >= 0 and found.pop("plan").startswith(str(tmp_path))
    assert found == {
        "of": "out", "tensors": "2", "bytes": "32,768 (32.0 KiB)", "files": "1", "workers": "2",
        "seed": "7",
    }  # fmt: skip
    facts = json.loads(invoke("plan", builder, "-o", plan, *again, "--json").stdout)
    assert facts.pop("seconds") >= 0 and facts.pop("plan_bytes") != size
    assert facts == {
        "plan": str(plan), "path": "out", "seed": 7, "workers": 2, "tensors": 2, "bytes": 32768,
        "files": 1,
    }  # fmt: skip
    assert vs.Plan.load(plan).by == "files"


def test_workers_and_the_last_step(plan, tmp_path):
    out = tmp_path / "out"
    found = pairs(invoke("materialise", plan, "--worker", 1).output)
    assert float(found.pop("seconds")) >= 0
    assert found == {
        "checkpoint": f"{out}, not finished", "pieces": "1 filled, 0 found filled",
        "bytes": "16,384 (16.0 KiB)",
    }  # fmt: skip
    early = invoke("materialise", plan, "--finish")
    refused(early, "2 of 3 pieces are not filled, of worker 0, 2; run these again", status=1)
    both = json.loads(invoke("materialise", plan, "--worker", 0, "--worker", 1, "--json").stdout)
    assert both.pop("seconds") >= 0
    pieces = both.pop("pieces")
    assert both == {
        "path": str(out), "workers": [0, 1], "finished": False, "found": 1, "bytes": 16384
    }  # fmt: skip
    assert [piece["found"] for piece in pieces] == [False, True]
    assert all(len(piece["crc32c"]) == 8 and piece["end"] == 16384 for piece in pieces)
    assert invoke("materialise", plan, "--worker", 2, "--threads", 1).exit_code == 0
    assert not (out / "model.safetensors.index.json").exists()
    assert pairs(invoke("materialise", plan, "--finish").output)["checkpoint"] == str(out)
    assert invoke("verify", out).exit_code == 0
    graph = vs.Graph(seed=7)
    with graph.as_default(), vs.variable_scope("layers_2"):
        w = vs.get_variable("w", [64, 64])
    assert np.array_equal(vs.open(out)["layers_2/w"].value(), w.value())


def test_all_at_once(plan, tmp_path):
    assert invoke("materialise", plan, "--worker", 2).exit_code == 0
    found = pairs(invoke("materialise", plan, "--verify").output)
    assert found["pieces"] == "2 filled, 1 found filled"
    found = json.loads(invoke("materialise", plan, "--json").stdout)
    assert found["finished"] and found["workers"] is None and found["found"] == 3
    assert [piece["crc32c"] for piece in found["pieces"]] == [None] * 3
    assert invoke("verify", tmp_path / "out").exit_code == 0


def test_as_processes_with_a_relative_path(builder, tmp_path):
    done = run("plan", builder, "-o", "p", "--path", "out", "--workers", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "elsewhere").mkdir()
    for arguments in (["--worker", 0], ["--worker", 1], ["--finish"]):
        done = run("materialise", "../p", *arguments, cwd=tmp_path / "elsewhere")
        assert done.returncode == 0, done.stderr
    assert len(vs.open(tmp_path / "out")) == 3


def test_what_is_refused(builder, plan, tmp_path):
    out = ["-o", tmp_path / "p", "--path", tmp_path / "out"]
    assert invoke("plan", builder, *out).exit_code == 2
    refused(invoke("plan", builder, *out, "--workers", 0), "workers must be at least 1")
    refused(
        invoke("plan", f"{builder}:arrays", *out, "--workers", 1), "\n    w  float64[2]\n", status=1
    )
    refused(invoke("plan", builder, "-o", tmp_path / "p", "--path", "a.pt", "--workers", 1), "a.pt")
    assert invoke("plan", builder, *out, "--workers", 1, "--by", "names").exit_code == 2
    refused(invoke("materialise", tmp_path / "none"), "none")
    refused(invoke("materialise", builder), "no plan that can be read")
    refused(invoke("materialise", plan, "--worker", 3), "from 0 to 2")
    refused(invoke("materialise", plan, "--worker", 1, "--finish"), "--finish is the last step")
    refused(invoke("materialise", plan, "--worker", 1, "--verify"), "--verify belongs to the last")
    refused(invoke("materialise", plan, "--threads", 0), "threads must be at least 1")
    assert not (tmp_path / "out").exists() and not (tmp_path / "p").exists()
