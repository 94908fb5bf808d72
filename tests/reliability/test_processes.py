"""Processes forked while threads are in the middle of something, and those of multiprocessing."""

import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings

import numpy as np
import pytest
from children import environment, python
from requires import on_posix

import varscope as vs
from varscope.checkpoint import restoring

pytestmark = pytest.mark.promise("processes")
PATIENCE = 60  # seconds after which a child is said to hang


def in_child(function):
    """Call a function in a forked child, which has to end well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks while threads run
        child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE)
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- forks

# What four threads do again and again, and what a child does that was forked meanwhile.
BUSY = """
import faulthandler, os, random, sys, tempfile, threading, time, traceback, warnings
import numpy as np
import varscope as vs
from varscope import errors

warnings.simplefilter("ignore", DeprecationWarning)   # of forks while threads run
sys.setswitchinterval(1e-6)
folder = tempfile.mkdtemp()
file = f"{folder}/model.safetensors"
small, stop, failures = vs.Graph(seed=2), threading.Event(), []
with small.as_default():
    for i in range(20):
        vs.get_variable(f"s/v{i}", [8])
# Once before all else: what another thread is importing is half imported in a child.
vs.save(small, file, progress=False)
vs.restore(small, file, progress=False)
graph = vs.Graph(seed=1)
template = vs.make_template("t", lambda: vs.get_variable("w", [2]))

def create(name):
    for i in range(200):
        with vs.variable_scope(f"{name}/m{i % 7}", reuse=vs.AUTO_REUSE), vs.name_scope("op"):
            assert vs.get_variable(f"v{i}", [2]).path == f"{name}/m{i % 7}/v{i}"
            graph.unique_name("op")

def fail(name):
    def failing(getter, full_name, **arguments):
        getter(full_name, **arguments)
        raise LookupError
    for i in range(50):
        try:
            vs.get_variable(f"{name}/v{i}", [2], custom_getter=failing)
        except LookupError:
            pass

def values(name):
    with vs.Graph(seed=1).as_default():
        for i in range(30):
            vs.get_variable(f"v{i}", [2, 3])
        vs.initialize(threads=2, progress=False)
        vs.make_template("t", lambda: vs.get_variable("w", [2]))()

def files(name):
    vs.restore(small, file, threads=2, progress=False)
    vs.save(small, f"{folder}/{name.partition('/')[0]}.safetensors", threads=1, progress=False)

def work(which):
    number = 0
    try:
        with graph.as_default():
            while not stop.is_set():
                number += 1
                which(f"{which.__name__}/{number % 30}")  # so the graph stops growing
    except BaseException:
        failures.append(traceback.format_exc())

def child():
    faulthandler.dump_traceback_later(60, exit=True)
    with graph.as_default(), vs.variable_scope("child", reuse=vs.AUTO_REUSE):
        assert vs.get_variable_scope().name == "child"
        made = [vs.get_variable(f"v{i}", [2]) for i in range(50)]
        assert [vs.get_variable(f"v{i}") for i in range(50)] == made
        assert made[7].numpy().tolist() == expected
        assert graph.find("child/v?") == made[:10]
        names = [v.op_name for v in graph.variables] + [graph.unique_name("op") for _ in range(50)]
        assert len(set(names)) == len(names)
        assert all(v.path.partition("/")[0] in ("create", "fail", "child") for v in graph.variables)
        template()
        vs.initialize(made, threads=2, progress=False)
    for work in (create, fail, values, files):
        with vs.Graph(seed=1).as_default():
            work(f"child/{os.getpid()}")
    os.unlink(f"{folder}/child.safetensors")

with vs.Graph(seed=1).as_default():
    expected = vs.get_variable("child/v7", [2]).numpy().tolist()
threads = [threading.Thread(target=work, args=(which,)) for which in (create, fail, values, files)]
for thread in threads:
    thread.start()
for turn in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        failures.append(f"a child ended with {status}")
        break
    time.sleep(random.random() / 100)
stop.set()
for thread in threads:
    thread.join()
if failures:
    sys.exit("\\n".join(failures))
print(len(graph), len(set(graph)))
"""


def fork_beside_threads(forks, tally):
    done = python(BUSY, forks, timeout=600)
    assert done.returncode == 0, done.stderr
    count, distinct = map(int, done.stdout.split())
    assert count == distinct >= 200
    tally("forks", forks)


@on_posix
def test_a_child_does_everything_whatever_four_threads_were_doing(tally):
    fork_beside_threads(12, tally)


@on_posix
@pytest.mark.slow
def test_many_children_do(tally):
    fork_beside_threads(400, tally)


@on_posix
@pytest.mark.fails_without(
    "src/varscope/checkpoint/restoring.py",
    "os.register_at_fork(after_in_child=free_in_child)",
    "pass",
)
def test_a_child_restores_though_another_thread_was_about_to(tmp_path, tally):
    """It held what the child would wait for, and is not there to let go of it."""
    graph, file = vs.get_default_graph(), tmp_path / "model.safetensors"
    v = vs.get_variable("v", [2], initializer=vs.ones)
    vs.save(graph, file, progress=False)
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with restoring.committing:
            held.set()
            go_on.wait(PATIENCE)

    def child():
        v.assign([3, 4])
        vs.restore(graph, file, threads=2, progress=False)
        assert v.numpy().tolist() == [1, 1]

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(PATIENCE)
    try:
        in_child(child)
    finally:
        go_on.set()
        thread.join()
    vs.restore(graph, file, progress=False)
    tally("forks")


@on_posix
@pytest.mark.fails_without(
    "src/core/bulk.pxi", "if self.process != getpid():", "if self.process == 0:"
)
def test_a_child_fills_anew_what_threads_were_filling(tally):
    """The blocks that they had begun are done by nobody in the child."""
    shape, forks = [1 << 21], 6
    with vs.Graph(seed=1).as_default():
        expected = vs.get_variable("v", shape).numpy()
    for _ in range(forks):
        with vs.Graph(seed=1).as_default():
            v = vs.get_variable("v", shape)
        begun = threading.Event()

        def fill(v=v, begun=begun):
            vs.initialize([v], threads=3, progress=lambda done, _: done and begun.set())

        def child(v=v):
            assert np.array_equal(v.numpy(), expected)

        thread = threading.Thread(target=fill)
        thread.start()
        assert begun.wait(PATIENCE)
        in_child(child)
        thread.join()
        assert np.array_equal(v.numpy(), expected)
    tally("forks", forks)


@on_posix
@pytest.mark.fails_without(
    "src/varscope/templates.py",
    "call = uses.first.setdefault(process, mine)",
    "call = uses.first.setdefault(0, mine)",
)
def test_a_child_calls_a_template_that_another_thread_calls_first(tally):
    graph = vs.get_default_graph()
    called, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    def model():
        if os.getpid() == parent:
            called.set()
            go_on.wait(PATIENCE)
        return vs.get_variable("w", [2])

    template = vs.make_template("t", model)

    def call():
        with graph.as_default():
            template()

    def child():
        assert template().path == "t/w" and template() is graph["t/w"]

    thread = threading.Thread(target=call)
    thread.start()
    assert called.wait(PATIENCE)
    try:
        in_child(child)
    finally:
        go_on.set()
        thread.join()
    assert template() is graph["t/w"]
    tally("forks")


@on_posix
def test_a_child_is_where_its_parent_was_and_each_goes_its_own_way():
    graph = vs.get_default_graph()
    with vs.variable_scope("a", reuse=vs.AUTO_REUSE), vs.name_scope("op"):
        kept = vs.get_variable("v", [1], initializer=vs.ones)
        kept.initialize()

        def child():
            assert vs.get_variable_scope().name == "a" and graph.get_name_scope() == "a/op"
            assert vs.get_variable("v") is kept and graph.unique_name("x") == "a/op/x"
            kept.assign([2])
            vs.get_variable("childs", [1])

        in_child(child)
        assert kept.numpy().tolist() == [1] and len(graph) == 1
        assert graph.unique_name("x") == "a/op/x"


# --- multiprocessing

POOL = """
import multiprocessing, pickle, sys, threading, warnings
import numpy as np
import varscope as vs
from varscope import errors

def build(number):
    graph = vs.Graph(seed=number)
    with graph.as_default(), vs.variable_scope(None, "model"):
        for i in range(20):
            with vs.variable_scope(None, "layer"):
                vs.get_variable("w", [3, 2], regularizer=vs.l2_regularizer(0.1))
                vs.get_variable("b", [2], initializer=vs.zeros, trainable=False)
        vs.get_variable("parts", [5], partitioner=vs.fixed_size_partitioner(2))
    vs.initialize(graph.variables, threads=2, progress=False)
    return graph

def facts(graph):
    return [
        (v.path, v.op_name, v.trainable, v.version, v.numpy().tolist()) for v in graph.variables
    ]

def further(graph):
    graph["model/layer/b"].assign([1, 2])
    with graph.as_default():
        vs.get_variable("more", [1])
    return graph

def twice(graph):
    with graph.as_default():
        vs.get_variable("model/layer/b", [2])

def create(number):
    with shared.as_default(), vs.variable_scope(f"m{number}"):
        for i in range(30_000):
            if stop.is_set():
                return
            vs.get_variable(f"v{i}", [2])

if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)
    shared, stop = vs.Graph(seed=1), threading.Event()
    threads = [threading.Thread(target=create, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        for number, graph in enumerate(pool.map(build, range(4))):
            assert facts(graph) == facts(build(number)), number
            returned = pool.apply(further, (graph,))
            assert returned["model/layer/b"].numpy().tolist() == [1, 2] and "more" in returned
            assert graph["model/layer/b"].numpy().tolist() == [0, 0] and "more" not in graph
            assert returned["model/parts"].partitions == (2,)
            try:
                pool.apply(twice, (graph,))
            except errors.VariableExistsError as error:
                assert "model/layer/b already exists" in str(error), error
            else:
                sys.exit("no VariableExistsError")
    stop.set()
    for thread in threads:
        thread.join()
    print("fine")
"""


@pytest.mark.parametrize(
    "method", [pytest.param("fork", marks=on_posix), "spawn",
               pytest.param("forkserver", marks=[on_posix, pytest.mark.slow])],
)  # fmt: skip
def test_pools_of_processes_build_the_same_and_send_it_to_and_fro(method, tmp_path, tally):
    script = tmp_path / "pool.py"
    script.write_text(POOL, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, method], env=environment(), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
    tally("pools of processes")
