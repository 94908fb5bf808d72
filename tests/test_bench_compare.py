"""bench/compare.py: the report of base against head, and what is compared."""

import importlib.util
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "bench" / "compare.py"
BASE = {"a[found-varscope]": 1e-3, "a[found-python]": 2e-3, "a[opened-varscope]": 4e-3}


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("bench_compare", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equals_pass(compare, capsys):
    assert compare.report(BASE, BASE) == 0
    shown = capsys.readouterr().out
    assert "| a[found-varscope] | 1.000 | 1.000 | 1.00 |" in shown
    assert "a[found-python]" not in shown
    assert "0 of 2" in shown
    assert shown.endswith("plain Python, the same on both sides: 1.00 to 1.00\n")


def test_what_is_slower_than_the_threshold_fails(compare, capsys):
    head = {**BASE, "a[found-varscope]": 1.19e-3, "a[opened-varscope]": 5e-3}
    assert compare.report(BASE, head) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "**slower**" in line] == [
        "| a[opened-varscope] | 4.000 | 5.000 | 1.25 **slower** |"
    ]


def test_slower_plain_python_fails_nothing(compare, capsys):
    assert compare.report(BASE, {**BASE, "a[found-python]": 3e-3}) == 0
    assert "1.50 to 1.50" in capsys.readouterr().out


def test_benchmarks_of_one_side_alone(compare, capsys):
    head = {"a[found-varscope]": 1e-3, "a[new-varscope]": 1e-3}
    assert compare.report({**head, "a[old-varscope]": 1e-3} | BASE, {**BASE, **head}) == 0
    shown = capsys.readouterr().out
    assert "| a[old-varscope] | only in the base | | |" in shown


def test_the_quickest_of_all_turns_counts(compare):
    runs = [{"a": 2.0, "b": 1.0}, {"a": 1.5, "b": 3.0}, {"a": 1.7}]
    assert compare.quickest(runs) == {"a": 1.5, "b": 1.0}


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_head_is_the_checkout_as_it_stands(compare, tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "kept").write_text("old")
    (tmp_path / ".gitignore").write_text("ignored")
    git("add", "--all")
    git("commit", "-m", "first")
    (tmp_path / "kept").write_text("new")
    (tmp_path / "untracked").write_text("")
    (tmp_path / "ignored").write_text("")
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    with tarfile.open(fileobj=io.BytesIO(compare.archive_of_head())) as archive:
        assert sorted(archive.getnames()) == [".gitignore", "kept", "untracked"]
        assert archive.extractfile("kept").read() == b"new"
    assert compare.git("diff", "--cached", "--name-only") == b""  # nothing was staged
    with tarfile.open(fileobj=io.BytesIO(compare.git("archive", "HEAD"))) as archive:
        assert archive.extractfile("kept").read() == b"old"
