"""bench/instructions.py: what it reads, compares, writes and refuses."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from requires import require_program

BENCH = Path(__file__).resolve().parent.parent / "bench"
HERE = "CPython 3.11, x86_64, gcc 12"


@pytest.fixture(scope="module")
def instructions():
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module("instructions")
    sys.path.remove(str(BENCH))


@pytest.fixture
def counts(instructions):
    """The same made-up numbers for every case."""
    return dict.fromkeys(instructions.CASES, instructions.Count(400.0, 1000.0))


# --- callgrind's output

PART = """\
# callgrind format
version: 1
part: 2

positions: line
events: Ir
summary: 1130

ob=(1) /usr/lib/libpython3.11.so.1.0
fl=(1) ???
fn=(0) _PyEval_EvalFrameDefault
0 1000
+3 20
cob=(2) /lib/varscope/_scopecore.cpython-311-x86_64-linux-gnu.so
cfi=(7) ???
cfn=(8) get_variable
calls=16 76
* 110

ob=(2)
fn=(8)
51300 60
* 15
-4 5
cob=(3) /usr/lib/libc.so.6
cfn=(9) memset
calls=16 0
* 30

ob=(3)
fn=(9)
0x10 30
totals: 1130
"""


def test_a_part_is_read(instructions):
    assert instructions.read_part(PART) == instructions.Count(core=80, all=1130)


@pytest.mark.parametrize(
    "text", ["", "<html>", PART.replace("totals: 1130", "totals: 1131"),
             PART.replace("totals: 1130\n", ""), PART.replace("_scopecore", "_another")],
)  # fmt: skip
def test_another_output_is_refused(instructions, text):
    with pytest.raises(SystemExit, match="callgrind's output is not as expected"):
        instructions.read_part(text)


def test_a_call_is_what_many_take_more_than_few(instructions, monkeypatch):
    def sections(task, numbers, expected):
        assert (task, numbers) == ("calls", [10, 30])
        warm, few, many = ((999, 9999), (150, 600), (350, 1001))
        return [instructions.Count(*pair) for pair in (warm, few, many)] * (expected // 3)

    monkeypatch.setattr(instructions, "under_callgrind", sections)
    counted = instructions.count_calls(10, 30)
    assert list(counted) == list(instructions.CASES)
    assert set(counted.values()) == {instructions.Count(core=10.0, all=20.1)}


def test_totals_of_graphs_that_grow_are_added_up(instructions, monkeypatch):
    def sections(task, numbers, expected):
        values = {"names": [1, 2, 3, 4, 5, 10, 20, 30, 40, 50], "siblings": [7, 8]}[task]
        assert len(values) == expected
        return [instructions.Count(0, value) for value in values]

    monkeypatch.setattr(instructions, "under_callgrind", sections)
    totals = instructions.count_growth([16, 32])
    assert totals == {
        "found": [2, 20],
        "found, shape": [3, 30],
        "created": [1, 11],
        "opened": [4, 40],
        "name scope": [5, 50],
        "default name": [7, 15],
    }
    assert list(totals) == list(instructions.CASES)


# --- beside a baseline


@pytest.mark.parametrize(
    ("core", "everything", "words"),
    [
        (0.5, 0.5, []),
        (1.0, 1.0, []),
        (1.049, 1.049, []),
        (1.051, 1.0, ["420.4 instructions a call in the core, the baseline has 400.0: +5.1%"]),
        (1.0, 1.051, ["1,051.0 instructions a call in all, the baseline has 1,000.0: +5.1%"]),
        (1.051, 1.051, ["in the core", "in all"]),
    ],
)  # fmt: skip
def test_five_percent_more_are_too_many(instructions, counts, core, everything, words):
    now = {**counts, "found": instructions.Count(400 * core, 1000 * everything)}
    wrong = instructions.compare(now, counts, instructions.LIMIT)
    assert len(wrong) == len(words)
    for line, word in zip(wrong, words, strict=True):
        assert line.startswith("found: ")
        assert word in line
        assert line.endswith("at most +5%")


def test_a_case_on_one_side_only(instructions, counts):
    fewer = {case: count for case, count in counts.items() if case != "opened"}
    assert instructions.compare(counts, fewer, 1.05) == [
        "opened: not in the baseline; write one with --update"
    ]
    assert instructions.compare(fewer, counts, 1.05) == [
        "opened: in the baseline, and not counted; write a new one with --update"
    ]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (HERE, HERE),
        (f"{HERE}, stack protector", HERE),
        ("CPython 3.11, x86_64, gcc 14", HERE),
        ("CPython 3.12, x86_64, clang 19", "CPython 3.12, x86_64, gcc 13, stack protector"),
        ("CPython 3.11, aarch64, gcc 12", None),
    ],
)
def test_the_nearest_baseline(instructions, build, expected):
    builds = ["CPython 3.12, x86_64, gcc 13, stack protector", HERE]
    assert instructions.nearest(builds, build) == expected
    assert instructions.nearest([], build) is None


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (b"..GCC: (Debian 12.2.0-14+deb12u1) 12.2.0\0..", "gcc 12"),
        (b"GCC: (GNU) 14.2.1\0 __stack_chk_fail\0", "gcc 14, stack protector"),
        (b"GCC: (Debian) 12.2.0\0Debian clang version 14.0.6\0", "clang 14 and gcc 12"),
        (b"", "compiler unknown"),
    ],
)
def test_the_compiler_is_read_from_the_module(instructions, module, words):
    assert instructions.compiled_by(module) == words


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        ("'--enable-shared'", ""),
        ("'--with-lto' '--enable-optimizations'", ", optimised interpreter"),
        (None, ""),
    ],
)
def test_a_build_has_a_name(instructions, monkeypatch, arguments, more):
    monkeypatch.setattr(instructions.platform, "python_version_tuple", lambda: ("3", "11", "7"))
    monkeypatch.setattr(instructions.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(instructions, "compiled_by", lambda module: "gcc 12")
    monkeypatch.setattr(instructions.sysconfig, "get_config_var", lambda name: arguments)
    assert instructions.this_build() == HERE + more


@pytest.mark.parametrize(
    ("totals", "ratios"),
    [
        ([100, 205, 410], []),
        ([100, 219, 481], []),
        ([100, 200, 441], ["2.205 times as many instructions for 4,000 as for 2,000"]),
        ([100, 221, 500], ["for 2,000 as for 1,000", "for 4,000 as for 2,000"]),
    ],
)
def test_growth(instructions, totals, ratios):
    wrong = instructions.compare_growth([1000, 2000, 4000], {"found": totals, "opened": [1, 2, 4]})
    assert len(wrong) == len(ratios)
    for line, words in zip(wrong, ratios, strict=True):
        assert line.startswith("found: ")
        assert words in line
        assert line.endswith("at most 2.2")


# --- as it is called


@pytest.fixture
def called(instructions, counts, monkeypatch, tmp_path):
    """`called(*arguments)` with made-up counts and a baseline in a temporary folder."""
    monkeypatch.setattr(instructions, "BASELINE", tmp_path / "baseline.json")
    monkeypatch.setattr(instructions, "this_build", lambda: HERE)
    monkeypatch.setattr(instructions, "count_calls", lambda few, many: dict(counts))
    doubling = {case: [1, 2, 4, 8] for case in counts}
    monkeypatch.setattr(instructions, "count_growth", lambda sizes: doubling)
    return lambda *arguments: instructions.main(list(arguments))


def test_an_update_and_what_it_is_for(instructions, called, counts, monkeypatch, capsys):
    assert called("--update") == 0
    assert called() == 0
    output = capsys.readouterr().out
    assert "instructions a call, CPython 3.11, x86_64, gcc 12\n" in output
    assert "at most +5% is allowed" in output
    assert output.endswith("\nnothing takes more than it may\n")

    counts["created"] = instructions.Count(430.0, 1030.0)
    assert called() == 1
    output = capsys.readouterr().out
    row = next(line for line in output.splitlines() if line.startswith("created "))
    assert row.split()[-6:] == ["430.0", "400.0", "+7.5%", "1,030.0", "1,000.0", "+3.0%"]
    assert output.splitlines()[-1] == (
        "created: 430.0 instructions a call in the core, the baseline has 400.0: +7.5%, at most +5%"
    )
    # On another build it may: how much of that is the compiler nobody knows.
    monkeypatch.setattr(instructions, "this_build", lambda: HERE + ", stack protector")
    assert called() == 0
    assert "beside the baseline of CPython 3.11, x86_64, gcc 12, of which at most +30%" in (
        capsys.readouterr().out
    )


def test_an_update_leaves_other_builds_alone(instructions, called, counts, monkeypatch):
    monkeypatch.setattr(instructions, "this_build", lambda: "CPython 3.12, x86_64, gcc 13")
    called("--update")
    before = instructions.BASELINE.read_text()
    monkeypatch.setattr(instructions, "this_build", lambda: HERE)
    counts["found"] = instructions.Count(1.5, 2.5)
    called("--update")
    written = instructions.BASELINE.read_text()
    assert json.loads(before).items() < json.loads(written).items()
    assert instructions.read_baseline(instructions.BASELINE)[HERE] == counts
    assert '    "found": {"core": 1.5, "all": 2.5},\n' in written
    called("--update")
    assert instructions.BASELINE.read_text() == written


def test_without_a_baseline(called, capsys):
    assert called() == 1
    assert capsys.readouterr().out.endswith(
        "\nbaseline.json has no baseline for CPython 3.11, x86_64, gcc 12: "
        "write one with --update\n"
    )


def test_growth_alone_fails_too(instructions, called, counts, monkeypatch, capsys):
    called("--update")
    monkeypatch.setattr(instructions, "count_growth", lambda sizes: {"opened": [1, 2, 4, 9]})
    assert called() == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "opened: 2.250 times as many instructions for 1,000,000 as for 500,000, at most 2.2"
    )


def test_the_committed_baseline(instructions):
    builds = instructions.read_baseline(instructions.BASELINE)
    assert builds
    for counted in builds.values():
        assert list(counted) == list(instructions.CASES)
        assert all(0 < count.core < count.all for count in counted.values())


# --- under valgrind


def test_valgrind_is_missing(instructions, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="apt-get install valgrind"):
        instructions.count_calls(1, 2)


def require_valgrind():
    if not sys.platform.startswith("linux"):
        pytest.skip("instructions are counted on Linux only")
    require_program("valgrind", "valgrind")


@pytest.mark.slow
def test_under_valgrind(instructions, monkeypatch, tmp_path, capsys):
    require_valgrind()
    monkeypatch.setattr(instructions, "BASELINE", tmp_path / "baseline.json")
    monkeypatch.setattr(instructions, "FEW", 320)
    monkeypatch.setattr(instructions, "MANY", 640)
    monkeypatch.setattr(instructions, "SIZES", [160, 320, 640])
    assert instructions.main(["--update"]) == 0
    (counts,) = instructions.read_baseline(instructions.BASELINE).values()
    assert list(counts) == list(instructions.CASES)
    for count in counts.values():
        assert 50 < count.core < count.all < 100_000
    # So few calls are not as even as many; that the second count is near the first is the point.
    monkeypatch.setattr(instructions, "GROWTH_LIMIT", 3)
    result = instructions.main([])
    assert result == 0, capsys.readouterr().out
