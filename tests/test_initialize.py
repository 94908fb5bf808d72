"""`initialize`: many first values at once, the same ones as one by one, whatever happens."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from requires import on_posix, require

import varscope as vs
from varscope import errors

STORAGES = ["heap", "arena"]


def open_shape(shape, dtype):
    return np.ones(2, dtype)


def build(graph, layers=40, large=150_000):
    """A model with all that `initialize` treats differently."""
    with graph.as_default():
        for i in range(layers):
            with vs.variable_scope(f"layer_{i}"):
                vs.get_variable("w", [4, i])
                vs.get_variable("b", [3], initializer=vs.zeros)
                vs.get_variable("n", [5], "float64", initializer=vs.random_normal(seed=i))
                vs.get_variable("k", [2], "int32", initializer=vs.random_uniform(0, 9))
        vs.get_variable("large", [large], initializer=vs.truncated_normal())
        vs.get_variable("larger", [large, 3], "float64", initializer=vs.random_normal())
        vs.get_variable("ones", [large], initializer=vs.ones)
        vs.get_variable("matrix", [20, 20], initializer=vs.orthogonal())
        vs.get_variable("array", initializer=np.arange(5.0))
        vs.get_variable("mine", [3], initializer=lambda shape, dtype: np.full(shape, 7, dtype))
        vs.get_variable(
            "open", [None], validate_shape=False, initializer=lambda *_: np.ones(2, "f4")
        )
        vs.get_variable("half", [70], "float16")
        vs.get_variable("wide", [2, 2], ">f4")
    return graph


@pytest.fixture(scope="module")
def expected():
    return {v.op_name: v.numpy() for v in build(vs.Graph(seed=5)).variables}


def check(graph, expected):
    for variable in graph.variables:
        assert variable.initialized, variable
        assert variable.version == 1
        assert np.array_equal(variable.value(), expected[variable.op_name]), variable


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_all_variables_get_the_values_they_would_have(storage, threads, expected):
    graph = build(vs.Graph(seed=5, storage=storage))
    with graph.as_default():
        vs.initialize(threads=threads)
    assert all(v.initialized for v in graph.variables)
    check(graph, expected)


@pytest.mark.parametrize("storage", STORAGES)
def test_only_those_that_were_asked_for(storage, expected):
    graph = build(vs.Graph(seed=5, storage=storage))
    chosen = [graph[name] for name in ("larger", "layer_3/w", "mine", "layer_7/n", "open")]
    vs.initialize(iter(chosen + chosen), threads=2)
    assert {v.op_name for v in graph.variables if v.initialized} == {v.op_name for v in chosen}
    vs.initialize(graph.variables)
    check(graph, expected)


def test_variables_of_several_graphs():
    graphs = [build(vs.Graph(seed=5, storage=storage)) for storage in STORAGES]
    vs.initialize([v for graph in graphs for v in graph.variables], threads=2)
    for a, b in zip(*(graph.variables for graph in graphs), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("storage", STORAGES)
def test_values_that_are_there_stay(storage):
    graph = build(vs.Graph(seed=5, storage=storage))
    graph["layer_0/b"].assign([1, 2, 3])
    graph["large"].assign(np.ones(150_000))
    graph["mine"].value()
    graph["mine"].array[0] = 9
    with graph.as_default():
        vs.initialize(threads=2)
        vs.initialize()
    assert graph["layer_0/b"].value().tolist() == [1, 2, 3]
    assert graph["large"].value().sum() == 150_000
    assert graph["mine"].value().tolist() == [9, 7, 7]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("threads", [1, 2])
def test_variables_in_parts_are_filled_as_the_whole(storage, threads):
    def make(graph, partitioner):
        with graph.as_default(), vs.variable_scope("scope", partitioner=partitioner):
            return [
                vs.get_variable("small", [7, 5]),
                vs.get_variable("plain", [7, 5], partitioner=lambda shape, dtype: [1, 1]),
                vs.get_variable("large", [3000, 101], initializer=vs.he_normal()),
                vs.get_variable("mine", [4, 2], initializer=lambda s, d: np.ones(s, d)),
                vs.get_variable("matrix", [9, 9], initializer=vs.orthogonal()),
            ]

    wholes = make(vs.Graph(seed=2), None)
    for axis in (0, 1):
        graph = vs.Graph(seed=2, storage=storage)
        variables = make(graph, vs.fixed_size_partitioner(2, axis=axis))
        vs.initialize(variables, threads=threads)
        assert all(v.initialized for v in graph.variables)
        for variable, whole in zip(variables, wholes, strict=True):
            assert np.array_equal(variable, whole)
        graph = vs.Graph(seed=2, storage=storage)
        variables = make(graph, vs.fixed_size_partitioner(3, axis=axis))
        with graph.as_default():
            vs.initialize(threads=threads)
        for variable, whole in zip(variables, wholes, strict=True):
            assert np.array_equal(variable, whole)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [({"variables": "v"}, TypeError), ({"variables": ["v"]}, TypeError),
     ({"variables": 3}, TypeError), ({"variables": [None]}, TypeError),
     ({"threads": 0}, ValueError), ({"threads": -1}, ValueError), ({"threads": True}, TypeError),
     ({"threads": 1.5}, TypeError), ({"threads": "2"}, TypeError), ({"progress": True}, TypeError),
     ({"progress": 3}, TypeError)],
)  # fmt: skip
def test_wrong_arguments_are_refused_before_anything_starts(arguments, kind, refused):
    v = vs.get_variable("v", [2])
    if "variables" in arguments and isinstance(arguments["variables"], list):
        arguments["variables"] = [v, *arguments["variables"]]
    with refused(kind, next(iter(arguments))):
        vs.initialize(**arguments)


def test_a_variable_by_itself_is_refused(refused):
    v = vs.get_variable("v", [2])
    with refused(TypeError, "iterable"):
        vs.initialize(v)


def test_a_withdrawn_variable_is_refused():
    held = []

    def failing(getter, name, *args, **kwargs):
        held.append(getter(name, *args, **kwargs))
        raise KeyError

    with pytest.raises(KeyError):
        vs.get_variable("v", [2], custom_getter=failing)
    with pytest.raises(errors.WithdrawnError):
        vs.initialize(held)


def test_nothing_to_do():
    vs.initialize()
    vs.initialize([])
    seen = []
    vs.initialize([], progress=lambda *args: seen.append(args))
    assert seen == [(0, 0)]


# --- functions of the user


@pytest.mark.parametrize("storage", STORAGES)
def test_functions_run_in_the_calling_thread_and_scope(storage):
    seen = []

    def note(shape, dtype):
        seen.append((threading.get_ident(), vs.get_variable_scope().name))
        return np.zeros(shape, dtype)

    with build(vs.Graph(storage=storage)).as_default(), vs.variable_scope("here"):
        vs.get_variable("v", [2], initializer=note)
        vs.get_variable("w", [300_000], initializer=note)
        vs.initialize(threads=3)
    assert seen == [(threading.get_ident(), "here")] * 2


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_keeps_what_is_done(storage, threads, expected):
    graph, failing = vs.Graph(seed=5, storage=storage), [True]

    def fail(shape, dtype):
        if failing:
            raise KeyError("mine")
        return np.zeros(shape, dtype)

    with graph.as_default():
        first = vs.get_variable("first", [2], initializer=lambda s, d: np.ones(s, d))
        bad = vs.get_variable("bad", [2], initializer=fail)
    build(graph)
    with graph.as_default():
        with pytest.raises(KeyError, match="mine"):
            vs.initialize(threads=threads)
        assert first.initialized
        assert not bad.initialized
        for variable in graph.variables:
            if variable.initialized and variable not in (first, bad):
                assert np.array_equal(variable.value(), expected[variable.op_name])
        failing.clear()
        vs.initialize(threads=threads)
    check(graph, {**expected, "first": np.ones(2), "bad": np.zeros(2)})


def test_an_error_of_a_built_in_initializer():
    with vs.Graph(storage="arena").as_default():
        vs.get_variable("v", [2], "int32", initializer=vs.random_uniform(0.5))
        fine = vs.get_variable("w", [2])
        with pytest.raises(errors.InitializerError, match="random_uniform"):
            vs.initialize()
        vs.initialize([fine])
        assert fine.initialized


@pytest.mark.parametrize("storage", STORAGES)
def test_a_function_may_read_and_create_and_initialize(storage):
    graph = vs.Graph(seed=1, storage=storage)

    def curious(shape, dtype):
        vs.get_variable("made", [2])
        vs.initialize(threads=2)
        return np.full(shape, graph["large"].value()[0], dtype)

    def once(shape, dtype):
        return np.zeros(shape, dtype)

    with graph.as_default():
        vs.get_variable("large", [400_000])
        v = vs.get_variable("v", [2], initializer=once)
        w = vs.get_variable("w", [2], initializer=lambda s, d: graph["large"].value()[-2:])
        vs.initialize([v, w, graph["large"]], threads=2)
        assert w.value().tolist() == graph["large"].value()[-2:].tolist()
        u = vs.get_variable("u", [2], initializer=curious)
        with pytest.raises(errors.InitializerError, match="reads the variable itself"):
            vs.initialize(threads=2)
        assert not u.initialized
        assert "made" in graph


# --- progress


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("threads", [1, 3])
def test_progress_counts_up_to_the_total(storage, threads):
    graph, seen = build(vs.Graph(storage=storage)), []
    open_bytes = graph.nbytes  # without those of the variable whose shape is open
    with graph.as_default():
        graph["layer_1/w"].value()
        vs.initialize(
            threads=threads,
            progress=lambda done, total: seen.append((done, total, threading.get_ident())),
        )
    assert {total for _, total, _ in seen} == {open_bytes - graph["layer_1/w"].nbytes}
    done = [done for done, _, _ in seen]
    assert done == sorted(set(done))
    assert done[-1] == seen[-1][1]
    assert {thread for _, _, thread in seen} == {threading.get_ident()}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("threads", [1, 2])
def test_an_exception_in_progress_stops_and_keeps(storage, threads, expected):
    graph, calls = build(vs.Graph(seed=5, storage=storage)), []
    before = len(sys._current_frames())

    def stop(done, total):
        calls.append(done)
        raise KeyboardInterrupt

    with graph.as_default():
        with pytest.raises(KeyboardInterrupt):
            vs.initialize(threads=threads, progress=stop)
        assert len(calls) == 1
        assert len(sys._current_frames()) <= before  # no thread of ours is left
        vs.initialize(threads=threads, progress=None)
    check(graph, expected)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("threads", [1, 2])
def test_progress_may_read_what_is_being_filled(storage, threads):
    graph = vs.Graph(seed=1, storage=storage)
    with graph.as_default():
        v = vs.get_variable("v", [3_000_000])
        vs.initialize(threads=threads, progress=lambda *_: v.value()[-1])
    with vs.Graph(seed=1).as_default():
        assert np.array_equal(v, vs.get_variable("v", [3_000_000]))


class Terminal:
    """An stderr that is a terminal."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return True


def test_a_bar_where_stderr_is_a_terminal(monkeypatch):
    require("rich", '"varscope-core[cli]"')
    monkeypatch.setattr(vs.progress, "QUIET", 0.0)
    monkeypatch.setattr("varscope.progress.REPORT", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    for progress, shows in [(None, True), (False, False), (lambda *_: None, False)]:
        monkeypatch.setattr(sys, "stderr", Terminal())
        with build(vs.Graph()).as_default():
            vs.initialize(progress=progress)
        assert ("initialize" in sys.stderr.text) is shows


def test_no_bar_where_it_is_none(capsys):
    with build(vs.Graph()).as_default():
        vs.initialize()
    assert capsys.readouterr() == ("", "")


# --- interruption


INTERRUPTED = """
import signal, sys, time
import numpy as np
import varscope as vs

storage, threads, kind, delay = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])

def build(storage):
    graph = vs.Graph(seed=3, storage=storage)
    with graph.as_default():
        if kind == "small":
            for i in range(20_000):
                vs.get_variable(f"v{i}", [40], initializer=vs.truncated_normal())
        elif kind == "large":
            for i in range(3):
                vs.get_variable(f"v{i}", [8_000_000], initializer=vs.random_normal())
        else:
            for i in range(300):
                vs.get_variable(f"v{i}", [10], initializer=lambda shape, dtype:
                                time.sleep(0.002) or np.ones(shape, dtype))
    return graph

graph = build(storage)
def interrupt(*_):
    global when
    when = time.perf_counter()
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, delay)
with graph.as_default():
    try:
        vs.initialize(threads=threads)
        late = "all"
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        late = time.perf_counter() - when
    done = [v.op_name for v in graph.variables if v.initialized]
    other = build("heap")
    for name in done[:50] + done[-50:]:
        assert np.array_equal(graph[name].value(), other[name].value()), name
    vs.initialize(threads=threads)
    assert all(v.initialized and v.version == 1 for v in graph.variables)
    for i in (0, 1, 2, len(graph) - 1):
        assert np.array_equal(graph.variables[i].value(), other.variables[i].value()), i
print(len(done), late)
"""


def interrupted(storage, threads, kind, delay):
    result = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, storage, str(threads), kind, str(delay)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    done, late = result.stdout.split()
    return int(done), late


@on_posix
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("kind", "delay"), [("small", 0.01), ("large", 0.02), ("mine", 0.05)])
def test_ctrl_c_keeps_what_is_done(storage, kind, delay):
    _, late = interrupted(storage, 2, kind, delay)
    assert late == "all" or float(late) < 0.3 * (10 if os.environ.get("CI") else 1)


@on_posix
@pytest.mark.slow
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["small", "large", "mine"])
def test_ctrl_c_at_any_time(storage, threads, kind):
    delays = np.random.default_rng(1).uniform(0.0005, 0.15, 10)
    for delay in delays:
        interrupted(storage, threads, kind, delay)


# --- threads


@pytest.mark.parametrize("storage", STORAGES)
def test_calls_at_once_and_readers_beside_them(storage, expected):
    for _ in range(3):
        graph = build(vs.Graph(seed=5, storage=storage))
        barrier, failed = threading.Barrier(4), []

        def work(how, graph=graph, barrier=barrier, failed=failed):
            try:
                barrier.wait()
                if how == "read":
                    for variable in reversed(list(graph.variables)):
                        array = variable.array
                        if variable.op_name.startswith("la"):  # written to as soon as it is there
                            array[...] += 0
                else:
                    with graph.as_default():
                        vs.initialize(threads=how)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(how,)) for how in (1, 2, "read", "read")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed, failed
        check(graph, expected)


@pytest.mark.parametrize("storage", STORAGES)
def test_what_a_reader_changes_stays_changed(storage):
    for _ in range(10):
        graph = vs.Graph(seed=5, storage=storage)
        with graph.as_default():
            names = [vs.get_variable(f"v{i}", [50]).op_name for i in range(3000)]
            names += [vs.get_variable(f"w{i}", [90_000]).op_name for i in range(5)]
        stop, changed = threading.Event(), []

        def change(graph=graph, names=names, stop=stop, changed=changed):
            for name in names[::7] + names[-5:]:
                graph[name].array[...] = 3
                changed.append(name)
                if stop.is_set():
                    break

        thread = threading.Thread(target=change)
        thread.start()
        with graph.as_default():
            vs.initialize(threads=2)
        stop.set()
        thread.join()
        assert all((graph[name].value() == 3).all() for name in changed)


def test_variables_that_are_created_meanwhile_are_left_alone():
    graph = vs.Graph(storage="arena")

    def create(done, total):
        with vs.variable_scope("", reuse=vs.AUTO_REUSE):
            vs.get_variable("new", [2])

    with graph.as_default():
        vs.get_variable("v", [3_000_000])
        vs.initialize(progress=create)
    assert not graph["new"].initialized


@pytest.mark.parametrize("size", [3, 1_000_000])
@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
def test_variables_that_go_meanwhile(storage, chosen, filled, size):
    """Between two reports of progress a getter of another thread fails, and takes some out."""
    graph = vs.Graph(seed=1, storage=storage)
    made, go, gone = threading.Event(), threading.Event(), threading.Event()
    variables = []

    def failing(getter, name, *args, **kwargs):
        variables.extend(getter(f"{name}_{i}", *args, **kwargs) for i in range(2000 // size + 3))
        if filled:
            vs.initialize(variables)
        made.set()
        go.wait(60)
        raise KeyError

    def create():
        scope = vs.variable_scope("failing", custom_getter=failing)
        with contextlib.suppress(KeyError), graph.as_default(), scope:
            vs.get_variable("w", [size])
        gone.set()

    def report(done, total):
        go.set()
        gone.wait(60)

    with graph.as_default():
        if not filled:
            vs.get_variable("before", [size])
        thread = threading.Thread(target=create)
        thread.start()
        made.wait(60)
        for name in ("behind", "last"):
            vs.get_variable(name, [size])
        vs.initialize([*graph.variables] if chosen else None, threads=1, progress=report)
        thread.join()
    assert [v.op_name for v in graph.variables][-2:] == ["behind", "last"]
    assert len(graph) == 2 + (not filled)
    for v in graph.variables:
        assert v.initialized
        np.testing.assert_array_equal(v, v.initial_value())
    assert not graph.storage._fillings


def test_rows_that_move_meanwhile():
    """A getter that fails takes its variables out, and the rows behind them move up."""
    for storage in STORAGES:
        graph = vs.Graph(seed=1, storage=storage)
        stop = threading.Event()

        def failing(getter, name, *args, **kwargs):
            getter(name, *args, **kwargs)
            time.sleep(0.001)
            raise KeyError

        def churn(graph=graph, stop=stop):
            with graph.as_default():
                i = 0
                while not stop.is_set():
                    i += 1
                    with contextlib.suppress(KeyError):
                        vs.get_variable(f"gone{i}", [3], custom_getter=failing)

        thread = threading.Thread(target=churn)
        thread.start()
        with graph.as_default():
            for i in range(300):
                held = [vs.get_variable(f"v{i}_{k}", [2]) for k in range(20)]
                vs.initialize(held, threads=2)
                assert all(v.initialized for v in held)
            stop.set()
            thread.join()
            vs.initialize()
        assert all(v.initialized for v in graph.variables)
        with vs.Graph(seed=1).as_default():
            assert np.array_equal(graph["v7_3"], vs.get_variable("v7_3", [2]))


@settings(max_examples=30, deadline=None)
@given(
    paths=st.lists(
        st.lists(st.text("ab1_.-", min_size=1, max_size=40).map(lambda s: "x" + s), min_size=1,
                 max_size=9),
        max_size=20, unique_by=tuple,
    ),
    seed=st.integers(-(2**70), 2**70),
    own=st.sampled_from([None, 0, 3]),
)  # fmt: skip
def test_keys_of_many_paths_at_once(paths, seed, own):
    graphs = [vs.Graph(seed=seed, storage=storage) for storage in ("arena", "heap")]
    for graph in graphs:
        with graph.as_default():
            for path in paths:
                vs.get_variable("/".join(path), [3], initializer=vs.random_normal(seed=own))
    with graphs[0].as_default():
        vs.initialize(threads=1)
    for a, b in zip(*(graph.variables for graph in graphs), strict=True):
        assert a.initialized
        assert np.array_equal(a, b)


def test_very_deep_and_very_long_paths():
    graphs = [vs.Graph(seed=1, storage=storage) for storage in ("arena", "heap")]
    for graph in graphs:
        with graph.as_default():
            for name in ("/".join(["a"] * 3000), "b" * 100_000, "c/" + "d" * 70_000):
                vs.get_variable(name, [3])
    with graphs[0].as_default():
        vs.initialize(threads=1)
    for a, b in zip(*(graph.variables for graph in graphs), strict=True):
        assert np.array_equal(a, b)
