"""bench/: that what it times is what it says, and that it still runs."""

import importlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from requires import require

import varscope as vs

BENCH = Path(__file__).resolve().parent.parent / "bench"
require("pytest_benchmark", "pytest-benchmark")


@pytest.fixture(scope="module")
def bench():
    """The modules; the processes that measure memory import one too, and get a copy of the path."""
    sys.path.insert(0, str(BENCH))
    names = ["cases", "generated", "ratios", "memory", "test_registry"]
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(BENCH))


@pytest.fixture
def small(bench):
    return bench.cases.Data(scopes=3, siblings=1_100, descents=2, layers=2, experts=3)


def numbers(output):
    """The cells of a table that read as numbers."""
    cells = [cell.replace(",", "") for cell in output.split()]
    return [float(cell) for cell in cells if cell.replace(".", "", 1).isdigit()]


# --- names for life -----------------------------------------------------------------------------

AT_SIZES = [
    "found", "found, held", "found, shape", "auto reuse", "created", "full name", "find",
    "find, one scope", "opened", "opened, object", "opened, options", "name scope",
]  # fmt: skip
AT_ONE_SIZE = ["default name", "default name, late", "nested", "model"]
FAST = [*AT_ONE_SIZE, *(f"{name}, 16 thousand" for name in AT_SIZES)]
SLOW = [
    *(f"{name}, 1.6 million" for name in AT_SIZES), "found, 10 million", "created, 10 million"
]  # fmt: skip


def under_pytest(*options):
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options,
         str(BENCH / "test_registry.py")],
        capture_output=True, check=False, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_names_that_charts_follow():
    """A name that goes or changes ends a line in every chart."""
    collected = under_pytest("--collect-only", "-m", "slow or not slow")
    ids = [line.partition("::")[2] for line in collected.splitlines() if "::" in line]
    twins = ("varscope", "python")
    assert ids == [f"test_statement[{name}-{twin}]" for name in FAST + SLOW for twin in twins]


@pytest.mark.slow
def test_under_pytest_benchmark():
    output = under_pytest("--benchmark-disable", "-m", "not slow")
    assert f"{2 * len(FAST)} passed, {2 * len(SLOW)} deselected" in output


def test_twins_are_in_one_group(tmp_path):
    file = tmp_path / "run.json"
    under_pytest(f"--benchmark-json={file}", "-k", "opened and 16")
    run = json.loads(file.read_text(encoding="utf-8"))
    groups = {}
    for row in run["benchmarks"]:
        assert row["stats"]["min"] > 0
        assert row["extra_info"]["statements"] == 1_000
        groups.setdefault(row["group"].partition(":")[0], []).append(row["params"]["which"])
    names = ["opened", "opened, object", "opened, options"]
    assert groups == {f"{name}, 16 thousand": ["varscope", "python"] for name in names}


def test_late_siblings_are_in_the_group_of_the_first_ones(bench):
    first, late, *_ = (parameter.values for parameter in bench.test_registry.parameters())
    assert [first[0].name, late[0].name] == ["default name", "default name, late"]
    assert first[1:] == late[1:]
    assert (first[0].statement, first[0].beside) == (late[0].statement, late[0].beside)


# --- what is timed ------------------------------------------------------------------------------


class Log:
    """What happens between two looks at the clock."""

    def __init__(self):
        self.timed, self.events = False, []

    def clock(self):
        self.timed = not self.timed
        return 1.0 if self.timed else 2.0

    def note(self, kind, what):
        if self.timed:
            self.events.append((kind, what))

    def take(self):
        assert not self.timed
        taken, self.events = self.events, []
        return taken


class Paths(dict):
    """A dict that notes which keys it is asked for."""

    def __init__(self, log, *entries):
        super().__init__(*entries)
        self.log = log

    def __getitem__(self, key):
        self.log.note("name", key)
        return super().__getitem__(key)

    def __setitem__(self, key, value):
        self.log.note("name", key)
        super().__setitem__(key, value)

    def setdefault(self, key, value=None):
        self.log.note("name", key)
        return super().setdefault(key, value)


@pytest.fixture
def log(bench, small, monkeypatch):
    """Notes names asked for, scopes and locks opened, and what was searched for and found."""
    log = Log()

    def noting_entry(kind, opener):
        class Noted:
            def __init__(self, *args, **kwargs):
                self.inner = opener(*args, **kwargs)

            def __enter__(self):
                entered = self.inner.__enter__()
                log.note(kind, getattr(entered, "name", entered))
                return entered

            def __exit__(self, *error):
                return self.inner.__exit__(*error)

        return Noted

    def get_variable(*args, inner=vs.get_variable, **kwargs):
        v = inner(*args, **kwargs)
        log.note("name", v.op_name)
        return v

    def find(graph, pattern, inner=vs.Graph.find):
        variables = inner(graph, pattern)
        log.note("found", [v.op_name for v in variables])
        return variables

    def fnmatch(names, pattern, inner=bench.cases.fnmatch.filter):
        found = inner(names, pattern)
        log.note("found", found)
        return found

    small.paths = Paths(log, small.paths)
    monkeypatch.setattr(small, "new_dict", lambda: Paths(log))
    monkeypatch.setattr(bench.cases, "clock", log.clock)
    monkeypatch.setattr(bench.cases.fnmatch, "filter", fnmatch)
    monkeypatch.setattr(threading, "Lock", noting_entry("lock", threading.Lock))
    monkeypatch.setattr(vs, "get_variable", get_variable)
    monkeypatch.setattr(vs, "variable_scope", noting_entry("scope", vs.variable_scope))
    monkeypatch.setattr(vs, "name_scope", noting_entry("scope", vs.name_scope))
    monkeypatch.setattr(vs.Graph, "find", find)
    assert small.graph
    return log


def taken(log, run, data):
    assert run(data) > 0
    return log.take()


def texts(run, data, variable):
    """What a local variable of the function, or of one that it calls, holds in turn."""
    held = []

    def look(frame, event, argument):
        value = frame.f_locals.get(variable)
        if isinstance(value, str) and held[-1:] != [value]:
            held.append(value)
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        run(data)
    finally:
        sys.settrace(before)
    return held


@pytest.mark.parametrize("case", ["FOUND", "HELD", "SHAPED", "AUTO_REUSE", "CREATED"])
def test_each_name_is_asked_for_once(bench, small, log, case):
    case = getattr(bench.cases, case)
    wanted = [("name", f"scope_{i}/w{j}") for i in range(3) for j in range(16)]
    assert case.statements(small) == len(wanted)
    assert taken(log, case.run, small) == wanted
    assert taken(log, case.run_beside, small) == wanted


def test_full_names(bench, small):
    case = bench.cases.FULL_NAME
    wanted = [f"scope_{i}/w{j}" for i in range(3) for j in range(16)]
    assert case.statements(small) == len(wanted)
    assert texts(case.run, small, "text") == wanted
    assert texts(case.run_beside, small, "text") == wanted


def test_find(bench, small, log):
    case = bench.cases.FIND
    assert case.statements(small) == len(small.graph) == len(small.paths)
    wanted = [("found", [f"scope_{i}/w1" for i in range(3)])]
    assert taken(log, case.run, small) == wanted
    assert taken(log, case.run_beside, small) == wanted


def test_find_in_scopes(bench, small, log):
    case = bench.cases.FIND_SCOPE
    assert case.statements(small) == 3
    wanted = [("found", [f"scope_{i}/w{j}" for j in range(10)]) for i in range(3)]
    assert taken(log, case.run, small) == wanted
    assert taken(log, case.run_beside, small) == wanted
    assert case.statements(bench.cases.Data()) == 8


@pytest.mark.parametrize("case", ["OPENED", "BY_OBJECT", "WITH_OPTIONS", "NAME_SCOPE"])
def test_each_scope_is_opened_once(bench, small, log, case):
    case = getattr(bench.cases, case)
    assert case.statements(small) == 3
    opened = taken(log, case.run, small)
    assert [kind for kind, _ in opened] == ["scope"] * 3
    if case is not bench.cases.NAME_SCOPE:  # its names have numbers: each time is another one
        assert [name for _, name in opened] == ["scope_0", "scope_1", "scope_2"]
    assert taken(log, case.run_beside, small) == [("lock", True)] * 3


@pytest.mark.parametrize(("case", "first"), [("SIBLINGS_FIRST", 0), ("SIBLINGS_LATE", 100)])
def test_siblings(bench, small, log, case, first):
    case = getattr(bench.cases, case)
    assert case.statements(small) == 1_000
    wanted = [f"layer_{i}" if i else "layer" for i in range(first, first + 1_000)]
    opened = taken(log, case.run, small)
    assert opened == [("scope", f"model/{name}") for name in wanted]
    assert taken(log, case.run_beside, small) == [("lock", True)] * 1_000
    assert texts(case.run_beside, small, "name") == wanted


def test_nested(bench, small, log):
    case = bench.cases.NESTED
    path = "/".join(f"level_{i}" for i in range(64))
    assert case.statements(small) == 2 * 64
    ours = taken(log, case.run, small)
    assert [what for kind, what in ours if kind == "scope"][63::64] == [path] * 2
    assert sum(kind == "scope" for kind, _ in ours) == 2 * 64
    asked = [event for event in ours if event[0] == "name"]
    assert asked == taken(log, case.run_beside, small) == [("name", f"{path}/w")] * 2


def test_model(bench, small, log):
    case = bench.cases.MODEL
    ours = [event for event in taken(log, case.run, small) if event[0] == "name"]
    assert len(ours) == case.statements(small)
    assert ours == taken(log, case.run_beside, small)
    full_size = bench.cases.Data()
    assert case.statements(full_size) == 495_238 + 1  # the table is asked for twice


def test_no_case_is_untested(bench):
    assert [case.name for case in bench.cases.CASES] == [*AT_SIZES, *AT_ONE_SIZE]


# --- the scripts --------------------------------------------------------------------------------


def test_the_tables_of_times(bench, small, capsys):
    bench.ratios.print_sized(small, rounds=1)
    bench.ratios.print_others(small, rounds=1)
    sized, others = capsys.readouterr().out.strip().split("\n\n")
    assert sized.startswith("48 names in 3 scopes, best of 1 rounds\n")
    assert "d[prefix + name] = None" in sized
    assert "the first thousand" in others
    for output, names in ((sized, AT_SIZES), (others, AT_ONE_SIZE)):
        _, head, *lines = output.splitlines()
        assert head.split() == ["statement", "ns", "beside", "ns", "ratio"]
        assert [line.partition("  ")[0] for line in lines] == names
        assert all(numbers(line)[-1] > 0 for line in lines)


def test_growth(bench, capsys):
    bench.ratios.print_growth([2, 4, 6], rounds=1)
    _, _, *lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["32", "64", "96"]
    assert lines[3].startswith("cost at 64 names over that at 32: ")
    assert lines[4].startswith("cost at 96 names over that at 32: ")
    assert lines[5].startswith("exponent of the cost of all names over their number: ")


def test_the_table_of_what_is_declared_at_once(bench, capsys):
    bench.ratios.print_generated(layers=3, scopes=2, rounds=1)
    title, head, *lines = capsys.readouterr().out.strip().splitlines()
    assert title == "1,000 names stamped, 32 joined, best of 1 rounds"
    assert head.split() == ["statement", "ns", "beside", "ns", "ratio"]
    assert [line.split()[0] for line in lines] == ["stamp", "graft", "pickled"]
    assert all(numbers(line)[-1] > 0 for line in lines)


def test_what_is_declared_at_once_is_what_the_loops_build(bench, monkeypatch):
    graphs = []
    make = vs.Graph

    def noted(seed):
        graphs.append(make(seed))
        return graphs[-1]

    monkeypatch.setattr(vs, "Graph", noted)
    bench.generated.looped(3)
    bench.generated.stamped(3)
    part = bench.generated.part_of(2)
    bench.generated.built(2)
    bench.generated.grafted(part)
    looped, stamped, _, built, grafted = map(list, graphs)
    assert looped == stamped and len(looped) == 1_500
    assert built == grafted and len(built) == 32


def test_starting_up(bench, capsys):
    bench.ratios.print_import(rounds=1)
    title, head, line = capsys.readouterr().out.strip().splitlines()
    assert title == "starting up, best of 1 rounds"
    assert head.split() == ["statement", "ms", "beside", "ms", "ratio"]
    assert line.startswith("import  import varscope ")


@pytest.mark.parametrize("power", [1.0, 1.05, 2.0])
def test_the_exponent(bench, power):
    names = [10**4, 10**5, 10**6, 10**7]
    each = [3 * n**power / n for n in names]
    assert bench.ratios.exponent(names, each) == pytest.approx(power)


def test_the_table_of_values(bench, capsys):
    bench.ratios.print_values(blocks=1, small=64, rounds=1)
    title, head, *lines = capsys.readouterr().out.strip().splitlines()
    assert "random values" in title
    assert head.split() == ["ns", "beside", "ns", "ratio"]
    assert len(lines) == 6
    for line in lines:
        assert 0 < numbers(line)[-1] < 100


def test_the_table_of_many_variables(bench, capsys):
    bench.ratios.print_initialize(variables=100, elements=1000, rounds=1)
    title, head, *lines = capsys.readouterr().out.strip().splitlines()
    assert title == "vs.initialize() in an arena"
    assert head.split() == ["ms", "beside", "ms", "ratio"]
    assert len(lines) == 4
    for line in lines:
        assert numbers(line)[-1] > 0


# --- memory -------------------------------------------------------------------------------------


@pytest.fixture
def memory(bench):
    if bench.memory.resident() is None:
        pytest.skip("resident memory is read from /proc or asked of ps")
    return bench.memory


def test_resident_memory(memory):
    before = memory.resident()
    held = b"1" * (64 << 20)
    assert 60 << 20 < memory.resident() - before < 90 << 20
    assert held


@pytest.mark.parametrize(("told", "bytes_taken"), [(" 4096\n", 4 << 20), ("", None)])
def test_resident_memory_as_ps_tells_it(bench, monkeypatch, tmp_path, told, bytes_taken):
    memory = bench.memory
    monkeypatch.setattr(memory, "STATM", tmp_path / "none")
    monkeypatch.setattr(memory.shutil, "which", lambda command: f"/bin/{command}")
    monkeypatch.setattr(
        memory.subprocess, "run", lambda command, **options: SimpleNamespace(stdout=told)
    )
    assert memory.resident() == bytes_taken


def test_handles_are_kept_or_dropped(memory):
    names = [f"scope_{i}/w{j}" for i in range(3) for j in range(16)]
    held = memory.filled_and_held(3)
    assert [v.op_name for v in held] == names
    assert list(memory.filled_graph(3)) == list(memory.filled_dict(3)) == names


def test_the_tables_of_memory_and_the_figures_for_charts(memory, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "SIZES", {"small": 50, "never measured": None})
    file = tmp_path / "memory.json"
    memory.main(["--quick", "--json", str(file)])
    _, variables, reentries = capsys.readouterr().out.strip().split("\n\n")
    names, *each = numbers(variables.splitlines()[-1])
    assert names == 50 * 16
    assert all(20 < value < 500 for value in each[:3])
    dropped, kept, beside, ratio, ratio_kept = each
    assert dropped < kept
    assert ratio == pytest.approx(dropped / beside, rel=0.05)
    assert ratio_kept == pytest.approx(kept / beside, rel=0.05)
    assert len(reentries.splitlines()) == 4
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert {figure["unit"] for figure in figures} == {"bytes"}
    assert [figure["name"] for figure in figures] == [
        "a variable, handles dropped, small", "a variable, handles kept, small",
        "a path in a dict, small", "a million re-entries of a scope",
        "a million re-entries of two scopes",
    ]  # fmt: skip
    values = [figure["value"] for figure in figures]
    assert values[:3] == pytest.approx([dropped, kept, beside], abs=1)
    assert all(vs.__version__ in figure["extra"] for figure in figures)


def test_a_word_where_resident_memory_cannot_be_read(bench, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench.memory, "STATM", tmp_path / "none")
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(
        SystemExit, match=r"nothing is measured: .* ps, and here neither tells"
    ) as stopped:
        bench.memory.main(["--quick"])
    assert stopped.value.code != 0
    assert capsys.readouterr().out == ""
