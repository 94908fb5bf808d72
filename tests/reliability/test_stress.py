"""A short run of tools/stress.py, and that it notices what is wrong."""

import importlib.util
import re
from pathlib import Path

import pytest

import varscope as vs

pytestmark = [
    pytest.mark.promise("threads"),
    pytest.mark.promise("tasks"),
    # Children are forked while other threads run, on purpose.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def stress():
    path = Path(__file__).resolve().parents[2] / "tools" / "stress.py"
    spec = importlib.util.spec_from_file_location("stress", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(stress, capsys, *options):
    """What it prints, and whether it ended well."""
    pytest.importorskip("safetensors", reason="vs.save needs the library safetensors")
    try:
        stress.main(list(map(str, options)))
        ended = True
    except SystemExit as end:
        assert end.code == 1
        ended = False
    return capsys.readouterr().out, ended


def test_a_second_of_everything_at_once(stress, capsys, tally):
    output, ended = run(stress, capsys, "--seconds", 1, "--steps", 60)
    assert ended and output.endswith("nothing was lost\n"), output
    done = dict(re.findall(r"^([a-z ]+?) +([\d,]+)$", output, re.MULTILINE))
    assert {"create", "share", "fail", "op names", "read"} <= set(done), output
    for name, number in done.items():
        tally(f"times {name}", int(number.replace(",", "")))


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda stress, patch: patch.setitem(stress.LEAVES, "n", {"shape": (), "trainable": True}),
         "trainable_variables"),
        (lambda stress, patch: patch.setattr(vs.Graph, "unique_name", lambda _, name, **__: name),
         "op names handed out twice"),
        (lambda stress, patch: patch.setattr(stress.Worker, "fork", lambda self: 1 / 0),
         "ZeroDivisionError"),
    ],
    ids=["a collection", "an op name", "an exception"],
)  # fmt: skip
def test_it_notices(stress, capsys, monkeypatch, break_it, words):
    monkeypatch.setattr(stress, "CHOICES", {**stress.CHOICES, "fork": 20})
    monkeypatch.setattr(stress.Worker, "fork", lambda self: None)
    break_it(stress, monkeypatch)
    output, ended = run(stress, capsys, "--seconds", 0, "--steps", 30, "--seed", 4)
    assert not ended and words in output, output
    assert "python tools/stress.py --seed 4 --threads 8 --steps 30 --first-round 0" in output
