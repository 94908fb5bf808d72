"""`varscope save`, `verify`, `restore` and `plot`: what they write, find and say."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from command_line import environment, invoke, pairs, refused, write
from requires import on_posix, require

import varscope as vs

require("safetensors", '"varscope-core[checkpoints]"')

BUILDER = """
    import varscope as vs

    def build(layers=2, width=4):
        for i in range(layers):
            with vs.variable_scope(f"layers_{i}"):
                vs.get_variable("w", [width, width])
        vs.get_local_variable("steps", [], dtype="int64")

    def failing():
        vs.get_variable("w", [2], initializer=lambda shape, dtype: 1 / 0)
"""
TF1 = Path(__file__).parent / "data" / "tf1_checkpoints"


@pytest.fixture
def builder(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(textwrap.dedent(BUILDER), encoding="utf-8")
    return path


@pytest.fixture
def saved(builder, tmp_path):
    """A file that `save` wrote."""
    path = tmp_path / "saved.safetensors"
    assert invoke("save", builder, "-o", path, "--seed", 1).exit_code == 0
    return path


# ---------------------------------------------------------------------------- save


def test_save(builder, tmp_path):
    folder = tmp_path / "folder"
    result = invoke("save", builder, "-o", folder, "--seed", 7, "--set", "layers=3")
    assert result.exit_code == 0
    found = pairs(result.output)
    assert float(found.pop("seconds")) >= 0
    assert found == {
        "written": str(folder), "tensors": "3", "bytes": "192", "files": "1", "seed": "7"
    }  # fmt: skip
    graph = vs.Graph(seed=7)
    with graph.as_default(), vs.variable_scope("layers_2"):
        w = vs.get_variable("w", [4, 4])
    with vs.open(folder) as checkpoint:
        assert list(checkpoint) == [f"layers_{i}/w" for i in range(3)]
        assert np.array_equal(checkpoint["layers_2/w"], w.value())


def test_save_in_several_files_as_json(builder, tmp_path):
    folder = tmp_path / "folder"
    result = invoke("save", builder, "-o", folder, "--max-shard-size", 64, "layers=3", "--json")
    found = json.loads(result.stdout)
    assert (found["tensors"], found["bytes"], len(found["files"])) == (3, 192, 3)
    assert all(Path(file).is_file() for file in found["files"])
    assert isinstance(found["seed"], int)


def test_an_initializer_that_fails(builder, tmp_path):
    out = tmp_path / "out.safetensors"
    result = invoke("save", f"{builder}:failing", "-o", out)
    message = refused(result, "an initializer of", "raised ZeroDivisionError", "1 / 0", status=1)
    assert message.splitlines()[2].startswith(f'  File "{builder}"')
    assert not out.exists()


def test_save_refuses(builder, tmp_path):
    out = tmp_path / "out.safetensors"
    assert invoke("save", builder).exit_code == 2
    refused(invoke("save", builder, "-o", tmp_path / "gone" / out.name), "gone")
    for size in ("much", "0", "1" * 5000):
        refused(invoke("save", builder, "-o", tmp_path / "d", "--max-shard-size", size), size[:5])
    refused(invoke("save", tmp_path / "none.py", "-o", out), "no such file")
    assert not out.exists()


# ---------------------------------------------------------------------------- verify


def test_verify(saved):
    result = invoke("verify", saved)
    assert result.exit_code == 0
    assert pairs(result.output) == {"checked": "2 of 2 tensors", "bytes": "128 of 128"}
    assert json.loads(invoke("verify", saved, "--json").stdout) == {
        "path": str(saved), "good": True, "tensors": 2, "bytes": 128, "checked": 2,
        "checked_bytes": 128,
    }  # fmt: skip


def test_verify_names_what_is_damaged(saved):
    data = bytearray(saved.read_bytes())
    data[-70] ^= 1
    saved.write_bytes(data)
    for arguments in ((), ("--json",)):
        result = invoke("verify", saved, *arguments)
        assert result.exit_code == 1
        assert str(saved) in result.stderr and "'layers_0/w'" in result.stderr
        assert result.stderr.count("\n") == 1
    found = json.loads(result.stdout)
    assert found["good"] is False
    assert (found["damage"]["file"], found["damage"]["tensor"]) == (str(saved), "layers_0/w")
    saved.write_bytes(data[:-1])
    assert invoke("verify", saved).exit_code == 1
    assert invoke("verify", saved.with_name("none")).exit_code == 2


def test_verify_says_where_there_is_nothing_to_verify(tmp_path):
    path = write(tmp_path / "plain.safetensors", {"v": np.ones(3)})
    result = invoke("verify", path)
    assert result.exit_code == 0
    assert "0 of 1 tensors" in result.stdout
    assert "1 of the tensors in" in result.stderr and "no checksum" in result.stderr
    assert json.loads(invoke("verify", path, "--json").stdout)["checked"] == 0


def test_texts_of_tensorflow_are_verified():
    result = invoke("verify", TF1 / "merged")
    assert "37 of 37 tensors" in result.stdout
    assert not result.stderr


def test_a_tensorflow_checkpoint():
    prefix = TF1 / "plain" / "model.ckpt"
    prefix = Path(str(next((TF1 / "plain").glob("*.index"))).removesuffix(".index"))
    shown = json.loads(invoke("show", prefix, "--json").stdout)
    assert shown["format"] == "tensorflow" and shown["tensors"] > 5
    checked = json.loads(invoke("verify", prefix, "--json").stdout)
    assert checked["good"] and checked["checked"] == checked["tensors"] == shown["tensors"]
    same = invoke("diff", prefix, f"{prefix}.index")
    assert same.exit_code == 0, same.output


# ---------------------------------------------------------------------------- restore


def test_restore(builder, saved):
    result = invoke("restore", builder, saved)
    assert result.exit_code == 0
    assert result.output == "fits  2 variables restored, checksums verified\n"
    result = invoke("restore", builder, saved, "--dry-run")
    assert result.exit_code == 0
    assert result.output.splitlines()[1].startswith("layers_[0-1]/w")
    assert result.output.splitlines()[-1] == "fits  2 variables would be restored"


def test_restore_what_does_not_fit(builder, saved):
    result = invoke("restore", builder, saved, "--dry-run", "layers=3", "width=5")
    assert result.exit_code == 1
    lines = [line.split() for line in result.output.splitlines()]
    assert ["layers_2/w"] in lines
    assert (
        "layers_[0-1]/w  [5, 5], in the file [4, 4]     \N{MULTIPLICATION SIGN}2" in result.output
    )
    assert lines[-1] == ["does", "not", "fit", "1", "missing,", "2", "of", "another", "shape"]
    found = json.loads(invoke("restore", builder, saved, "layers=1", "--json").stdout)
    assert (found["fits"], found["left_over"], found["missing"]) == (False, ["layers_1/w"], [])


def test_restore_through_a_name_map(builder, saved, tmp_path):
    foreign = write(
        tmp_path / "foreign.safetensors",
        {f"model.layers.{i}.w": np.ones((4, 4), np.float32) for i in range(2)},
    )
    names = tmp_path / "names.json"
    names.write_text(json.dumps({f"model.layers.{i}.w": f"layers_{i}/w" for i in range(2)}))
    assert invoke("restore", builder, foreign, "--dry-run").exit_code == 1
    for more in ((), ("--dry-run",)):
        result = invoke("restore", builder, foreign, "--names", names, *more)
        assert result.exit_code == 0, result.output


def test_restore_finds_damage(builder, saved):
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    assert invoke("restore", builder, saved, "--dry-run").exit_code == 0
    refused(invoke("restore", builder, saved), "'layers_1/w'")


# ---------------------------------------------------------------------------- plot


def test_plot(builder, saved, tmp_path, monkeypatch):
    from varscope import plots

    drawn = []
    monkeypatch.setattr(plots, "treemap", lambda rows, title: (rows, title))
    monkeypatch.setattr(plots, "write", lambda figure, path: drawn.append((figure, path)) or
                        Path(path).write_text("drawn"))  # fmt: skip
    out = tmp_path / "out.html"
    assert invoke("plot", saved, "-o", out).output == f"written  {out}\n"
    (rows, title), path = drawn[0]
    assert (title, path, [row.path for row in rows]) == (saved.name, str(out), ["layers_[0-1]/w"])
    assert invoke("plot", builder, "-o", out, "layers=5").exit_code == 0
    assert sum(row.count for row in drawn[1][0][0]) == 6  # the local one too
    found = json.loads(invoke("plot", saved, "-o", out, "--json").stdout)
    assert found == {"file": str(out), "bytes": 5}
    refused(invoke("plot", saved, "-o", tmp_path / "out.txt"), ".html", "out.txt")
    assert len(drawn) == 3


# ---------------------------------------------------------------------------- all of them


@on_posix
def test_ctrl_c_while_values_are_made(builder, tmp_path):
    slow = tmp_path / "slow.py"
    slow.write_text(
        textwrap.dedent("""
        import time
        import varscope as vs

        def fill(shape, dtype):
            print("ready", flush=True)
            time.sleep(100)

        def build():
            vs.get_variable("w", [2], initializer=fill)
        """),
        encoding="utf-8",
    )
    # A shell's background jobs ignore SIGINT, and so would what they start: begin with it on.
    out = tmp_path / "out.safetensors"
    command = [sys.executable, "-m", "varscope", "save", str(slow), "-o", str(out)]
    listen = "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv({}, {})"
    with subprocess.Popen(
        [sys.executable, "-c", listen.format(repr(sys.executable), command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            child.send_signal(signal.SIGINT)
            err = child.communicate(timeout=60)[1]
        finally:
            child.kill()
    assert (child.returncode, err) == (130, "varscope: interrupted\n")
    assert list(tmp_path.glob("*.safetensors*")) == []
