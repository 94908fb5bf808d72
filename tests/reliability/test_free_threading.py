"""Many threads at once in one graph: what the GIL guards, or what stands in its place.

On a free-threaded build these run in parallel; on the others threads switch as often as they can.
"""

import contextlib
import gc
import itertools
import os
import pickle
import random
import subprocess
import sys
import sysconfig
import threading
import weakref

import numpy as np
import pytest

import varscope as vs
from varscope import errors

pytestmark = [pytest.mark.promise("threads"), pytest.mark.usefixtures("hasty_switching")]
THREADS = 8
FREE = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
# Free-threaded versions of CPython for which the module says that it is ready: none so far.
READY: set[tuple[int, int]] = set()


def in_threads(function, count=THREADS, rounds=1, before=None):
    """Call `function(thread, round)` in each thread, all of them at once in each round.

    `before(round)` is called ahead of each round; returns what the last round gave, by thread.
    """
    answers, errors = [None] * count, []
    turn = threading.Barrier(count, (lambda: before(next(numbers))) if before else None)
    numbers = itertools.count()

    def run(thread):
        try:
            for number in range(rounds):
                turn.wait(60)
                answers[thread] = function(thread, number)
        except BaseException as error:
            errors.append(error)
            turn.abort()

    threads = [threading.Thread(target=run, args=(thread,), daemon=True) for thread in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a thread hangs"
    real = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    for error in real or errors:
        raise error
    return answers


def test_the_gil_stays_off_where_the_library_says_that_it_is_ready():
    if not FREE:
        pytest.skip("needs a free-threaded build of CPython")
    code = "import sys, numpy; a = sys._is_gil_enabled(); import varscope; print(a, end=' ');"
    code += "print(sys._is_gil_enabled())"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHON_GIL"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    before, after = done.stdout.split()
    assert (after == "False") == (before == "False" and sys.version_info[:2] in READY)


# --- names


def test_one_thread_creates_each_name():
    graph = None

    def renew(_):
        nonlocal graph
        graph = vs.Graph(seed=1)

    def create(thread, number):
        won = []
        with graph.as_default(), vs.variable_scope(f"m{number % 3}"):
            for i in random.Random(thread).sample(range(12), 12):
                with contextlib.suppress(errors.VariableExistsError):
                    won.append(vs.get_variable(f"v{i}", [2]).name)
        turns.wait(60)
        won_by[thread] = won
        if turns.wait(60) == 0:
            names = sorted(itertools.chain.from_iterable(won_by))
            assert names == sorted(f"m{number % 3}/v{i}:0" for i in range(12))
            assert sorted(v.name for v in graph.variables) == names

    turns, won_by = threading.Barrier(THREADS), [None] * THREADS
    in_threads(create, rounds=150, before=renew)


@pytest.mark.parametrize("shape", [None, [2]])
def test_all_threads_find_the_same_object(shape):
    graph = None

    def renew(_):
        nonlocal graph
        graph = vs.Graph(seed=1)

    def find(thread, number):
        arguments = () if shape is None and thread % 2 else (shape or [2],)
        with graph.as_default(), vs.variable_scope("m", reuse=vs.AUTO_REUSE):
            vs.get_variable("v0", [2])
            held[thread] = [vs.get_variable(f"v{i % 3}", *arguments or ([2],)) for i in range(9)]
        if turns.wait(60) == 0:
            for i, same in enumerate(zip(*held, strict=True)):
                assert len(set(map(id, same))) == 1 and same[0].path == f"m/v{i % 3}"
            assert len(graph) == 3

    held, turns = [None] * THREADS, threading.Barrier(THREADS)
    in_threads(find, rounds=200, before=renew)


def test_no_op_name_is_handed_out_twice():
    graph = vs.Graph()

    def take(thread, number):
        names = []
        with graph.as_default():
            for i in range(20):
                names.append(graph.unique_name(random.choice(["x", "x_1", "y/x"])))
                with vs.name_scope("scope") as scope, vs.variable_scope("b"):
                    names += [scope, graph.get_name_scope()]
                with contextlib.suppress(errors.VariableExistsError):
                    names.append(vs.get_variable(f"b{i % 5}/w{number}_{thread}", [1]).op_name)
        taken.extend(names)

    taken = []
    in_threads(take, rounds=40)
    assert len(set(taken)) == len(taken)


def test_siblings_by_default_names_are_distinct():
    graph = vs.Graph()

    def open_siblings(thread, number):
        names, ops = [], []
        with graph.as_default(), vs.variable_scope(f"m{thread}_{number}"):
            for _ in range(30):
                with vs.variable_scope(None, "layer") as scope:
                    names.append(scope.name)
                    vs.get_variable("w", [1])
        with graph.as_default():
            for _ in range(10):
                with vs.variable_scope(None, "top"):
                    ops.append(graph.get_name_scope())
        assert [name.rpartition("/")[2] for name in names] == [
            f"layer_{i}" if i else "layer" for i in range(30)
        ]
        taken.extend(ops)

    taken = []
    in_threads(open_siblings, rounds=20)
    assert len(graph) == THREADS * 20 * 30 and len(set(taken)) == len(taken) == THREADS * 200


def test_tables_grow_under_many_threads():
    graph = vs.Graph()

    def create(thread, number):
        with graph.as_default():
            for i in range(300):
                with vs.variable_scope(f"layer_{thread}_{i}"):
                    v = vs.get_variable("w", [i % 4 + 1])
                    b = vs.get_variable(f"b{thread}_{i % 7}", [2], trainable=i % 2 == 0)
                    assert v.shape == (i % 4 + 1,) and b.trainable == (i % 2 == 0)
        assert graph.find(f"layer_{thread}_17/*") and len(graph.trainable_variables()) >= 300

    in_threads(create)
    assert len(graph) == THREADS * 600
    paths = {v.path for v in graph.variables}
    assert len(paths) == THREADS * 600
    for path in paths:
        assert graph[path].path == path


def test_searches_while_variables_come_and_go():
    """Some are withdrawn again, so rows move while others look for patterns."""
    graph = vs.Graph()

    def failing(getter, name, *args, **kwargs):
        getter(name, *args, **kwargs)
        raise LookupError

    def use(thread, number):
        scope = f"m{thread}/r{number}"
        for i in range(20):
            with graph.as_default():
                kept = vs.get_variable(f"{scope}/s{i}/w", [1])
                with pytest.raises(LookupError):
                    vs.get_variable(f"{scope}/s{i}/gone", [1], custom_getter=failing)
            assert graph.find(f"{scope}/s{i}/w*") == [kept]
            assert len(graph.find(f"{scope}/**")) == i + 1
            assert kept in graph.find(f"**/s{i}/?")

    in_threads(use, rounds=4)
    assert len(graph.find("**/w")) == len(graph.find("m*/r?/**")) == len(graph) == THREADS * 80
    assert graph.find("**/gone") == []


# --- handles


def test_handles_that_come_and_go():
    graph = vs.Graph(seed=1)
    with graph.as_default(), vs.variable_scope("m"):
        for i in range(3):
            vs.get_variable(f"v{i}", [2])

    def get_and_drop(thread, number):
        with graph.as_default(), vs.variable_scope("m", reuse=True):
            for i in range(60):
                v = vs.get_variable(f"v{i % 3}")
                again = vs.get_variable(f"v{i % 3}", [2])
                assert v is again and v.path == f"m/v{i % 3}" and v.graph is graph
                if thread % 2:
                    reference = weakref.ref(v)
                    assert reference() is v
                    del v, again
                    found = reference()
                    assert found is None or found.path == f"m/v{i % 3}"
                else:
                    assert graph[f"m/v{i % 3}"] is v and graph.variables[i % 3] is v
        if number % 50 == 0 and thread == 0:
            gc.collect()

    in_threads(get_and_drop, rounds=150)
    assert len(graph) == 3


def test_a_handle_that_is_passed_on_stays_the_one():
    """The thread that made it lets it go while others hold it, and the other way round."""
    graph = vs.Graph(seed=1)

    def renew(_):
        with graph.as_default(), vs.variable_scope("m", reuse=vs.AUTO_REUSE):
            held[:] = [vs.get_variable("v", [2])] * THREADS

    def pass_on(thread, number):
        mine = held[thread]
        held[thread] = None
        if thread % 3:
            del mine
            mine = graph["m/v"]
        turns.wait(60)
        assert mine is graph["m/v"] and graph._find("m/v") is mine

    held, turns = [], threading.Barrier(THREADS)
    in_threads(pass_on, rounds=400, before=renew)


# --- what fails, what is set, what is replaced


def test_getters_that_fail_beside_threads_that_create():
    graph = vs.Graph(seed=1)

    def failing(getter, name, **arguments):
        getter(name + "_first", **arguments)
        getter(name + "_second", **arguments)
        raise ArithmeticError(name)

    def create(thread, number):
        with graph.as_default():
            for i in range(10):
                name = f"v{thread}_{number}_{i}"
                if thread % 2:
                    with pytest.raises(ArithmeticError):
                        vs.get_variable(name, [2], custom_getter=failing)
                else:
                    v = vs.get_variable(name, [thread + 1])
                    assert v.path == name and v.shape == (thread + 1,) and graph[name] is v

    in_threads(create, rounds=60)
    names = [v.path for v in graph.variables]
    assert len(set(names)) == len(names) == THREADS // 2 * 60 * 10
    assert not any(name.endswith(("_first", "_second")) for name in names)
    assert list(graph) == [graph[name].op_name for name in names]


def test_scopes_that_are_set_while_others_open_them():
    with vs.variable_scope("m") as scope:
        pass
    graph = vs.get_default_graph()
    dtypes = ["float32", "float64", "float16", "int32"]

    def use(thread, number):
        if thread < 3:
            scope.set_dtype(dtypes[(thread + number) % 4])
            scope.set_regularizer(vs.l2_regularizer(0.1 + number))
            scope.set_initializer(vs.constant(number))
            if number == 100:
                scope.reuse_variables()
        else:
            assert scope.dtype.name in dtypes and scope.name == "m" and repr(scope)
            with graph.as_default(), vs.variable_scope(scope, reuse=vs.AUTO_REUSE) as inner:
                assert inner.dtype.name in dtypes and inner.reuse in (True, vs.AUTO_REUSE)
                v = vs.get_variable(f"v{thread}_{number}", [1])
                assert v.dtype.name in dtypes
                with vs.variable_scope("deeper", dtype="int64"):
                    assert vs.get_variable_scope().dtype.name == "int64"

    in_threads(use, rounds=200)


def test_equal_settings_stay_one_object():
    def renew(number):
        settings.clear()

    def ask(thread, number):
        with vs.variable_scope(f"m{thread}"):
            vs.get_variable(
                f"v{number}", [2], initializer=vs.constant(number),
                regularizer=vs.l2_regularizer(0.5 + number),
            )  # fmt: skip
        settings.append((vs.constant(number), vs.l2_regularizer(0.5 + number)))
        if turns.wait(60) == 0:
            assert len({(id(a), id(b)) for a, b in settings}) == 1

    settings, turns = [], threading.Barrier(THREADS)
    in_threads(ask, rounds=300, before=renew)
    specs = {id(v._spec) for v in vs.get_default_graph().variables}
    assert len(specs) == 300


def test_the_default_graph_is_replaced_while_others_use_it():
    def use(thread, number):
        if thread == 0:
            vs.reset_default_graph()
        for i in range(5):
            try:
                v = vs.get_variable(f"v{thread}_{number}_{i}", [1])
            except errors.VariableExistsError:
                pytest.fail("no other thread has that name")
            assert v.path == f"v{thread}_{number}_{i}" and v.graph._find(v.path) is v
            with vs.variable_scope(f"s{thread}"):
                w = vs.get_variable(f"w{number}_{i}", [1])
                assert w.graph[w.path] is w

    in_threads(use, rounds=150)


def test_threads_with_graphs_of_their_own():
    def build(thread, number):
        graph = vs.Graph(seed=thread)
        with graph.as_default():
            for _i in range(20):
                with vs.variable_scope(None, "layer"):
                    vs.get_variable("w", [3])
            vs.initialize(threads=2)
        return graph["layer_7/w"].numpy().tolist()

    answers = in_threads(build, rounds=10)
    for thread, answer in enumerate(answers):
        assert answer == build(thread, 0)


# --- parts


def test_variables_in_parts_have_one_creator_and_one_object():
    graph = None

    def renew(_):
        nonlocal graph
        graph = vs.Graph(seed=1)

    def create(thread, number):
        with graph.as_default(), vs.variable_scope("m", reuse=vs.AUTO_REUSE):
            found[thread] = [
                vs.get_variable(f"v{i}", [6], partitioner=vs.fixed_size_partitioner(3))
                for i in range(3)
            ]
        if turns.wait(60) == 0:
            for same in zip(*found, strict=True):
                assert len(set(map(id, same))) == 1 and len(list(same[0])) == 3
            assert len(graph) == 9

    found, turns = [None] * THREADS, threading.Barrier(THREADS)
    in_threads(create, rounds=100, before=renew)


# --- values


@pytest.mark.parametrize("storage", ["heap", "arena", "files"])
def test_values_while_some_initialize_some_read_and_some_assign(storage, tmp_path):
    def model(graph):
        with graph.as_default():
            for i in range(40):
                with vs.variable_scope(f"l{i}"):
                    vs.get_variable("w", [5, i + 1], initializer=vs.random_normal())
                    vs.get_variable("b", [i + 1], initializer=vs.constant(i))
            vs.get_variable("large", [300, 400], initializer=vs.random_normal())
            vs.get_variable("set", [7], initializer=vs.random_normal())
        return graph

    expected = {v.path: v.numpy() for v in model(vs.Graph(seed=3)).variables}
    graph = None

    def renew(number):
        nonlocal graph
        kept = vs.MemoryMapped(tmp_path / str(number)) if storage == "files" else storage
        graph = model(vs.Graph(seed=3, storage=kept))

    def use(thread, number):
        shuffled = random.Random(thread).sample(sorted(expected), len(expected))
        if thread == 0:
            with graph.as_default():
                vs.initialize(threads=2)
        elif thread == 1:
            graph["set"].assign([number] * 7)
        elif thread == 2:
            assert len(graph.find("**/w")) == 40 and graph.nbytes > 0
        else:
            for path in shuffled:
                if path != "set":
                    np.testing.assert_array_equal(graph[path].value(), expected[path])
        turns.wait(60)
        assert graph["set"].value().tolist() in (
            [number] * 7, expected["set"].tolist(),
        )  # fmt: skip
        assert all(v.initialized for v in graph.variables)

    turns = threading.Barrier(THREADS)
    in_threads(use, rounds=12, before=renew)


def test_each_assignment_is_counted():
    v = vs.get_variable("v", [2], initializer=vs.zeros)
    v.initialize()

    def write(thread, number):
        v.assign([thread, number])

    in_threads(write, rounds=300)
    assert v.version == 1 + THREADS * 300


def test_a_new_shape_is_settled_once():
    graph = None

    def renew(_):
        nonlocal graph
        graph = vs.Graph(seed=1)
        with graph.as_default():
            vs.get_variable(
                "v", initializer=lambda shape, dtype: np.ones([3], dtype), validate_shape=False
            )

    def read(thread, number):
        v = graph["v"]
        values = v.value()
        assert v.shape == (3,) and values.tolist() == [1, 1, 1]
        arrays[thread] = v.array
        if turns.wait(60) == 0:
            assert all(np.shares_memory(arrays[0], other) for other in arrays)

    arrays, turns = [None] * THREADS, threading.Barrier(THREADS)
    in_threads(read, rounds=150, before=renew)


# --- copies, forks


def test_a_graph_is_pickled_while_others_create():
    graph = vs.Graph(seed=1)

    def use(thread, number):
        with graph.as_default(), vs.variable_scope(f"m{thread}"):
            if thread < 6:
                for i in range(20):
                    vs.get_variable(f"v{number}_{i}", [thread + 1])
                    graph.unique_name("op")
            else:
                copy = pickle.loads(pickle.dumps(graph))
                for v in copy.variables:
                    assert v.shape == (int(v.path[1]) + 1,) and copy[v.path] is v

    in_threads(use, rounds=8)
    assert len(graph) == 6 * 8 * 20


FORKING = """
import os, sys, threading, warnings
import varscope as vs
from varscope import errors
warnings.simplefilter("ignore", DeprecationWarning)
graph, stop = vs.Graph(seed=1), False

def create(thread):
    i = 0
    with graph.as_default(), vs.variable_scope(f"m{thread}"):
        while not stop:
            i += 1
            vs.get_variable(f"v{i}", [2])

threads = [threading.Thread(target=create, args=(k,)) for k in range(4)]
for thread in threads:
    thread.start()
for turn in range(25):
    child = os.fork()
    if child == 0:
        with graph.as_default():
            for i in range(20):
                vs.get_variable(f"child{i}", [2]).value()
            assert graph["child7"].path == "child7" and graph.unique_name("op") == "op"
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop = True
for thread in threads:
    thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.promise("processes")
def test_a_forked_child_finds_no_graph_held():
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", FORKING], capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
