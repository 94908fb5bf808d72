"""Ctrl-C at random times: a build is at one step or the next, goes on, and is stopped soon."""

import random
import sys

import pytest
from children import python
from requires import on_posix

pytestmark = [pytest.mark.promise("interrupts"), on_posix]

# `interrupt_after(seconds)` has another process send SIGINT, so that it arrives wherever this one
# is, in compiled code too.
START = """
import faulthandler, gc, os, pickle, random, signal, struct, sys, tempfile, time
import varscope as vs
from varscope import errors

faulthandler.dump_traceback_later(300, exit=True)
# A shell's background jobs ignore SIGINT, and so would this process.
signal.signal(signal.SIGINT, signal.default_int_handler)
asked, ask = os.pipe()
if os.fork() == 0:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.close(ask)
    while delay := os.read(asked, 8):
        time.sleep(struct.unpack("d", delay)[0])
        os.kill(os.getppid(), signal.SIGINT)
    os._exit(0)
os.close(asked)

def interrupt_after(seconds):
    os.write(ask, struct.pack("d", seconds))

def ignored(unraisable):
    # What a callback of a weak reference raises Python only prints: once more, then.
    assert unraisable.exc_type is KeyboardInterrupt, unraisable
    interrupt_after(0)

sys.unraisablehook = ignored
"""

# Each step of a build is done or not, whatever it creates: `state` tells of it, and `check` says
# that nothing in a graph contradicts anything else.
BUILD = """
def two(getter, name, **arguments):
    getter(name + "_first", **arguments)
    return getter(name + "_second", **arguments)

def step(i):
    kind = i % 10
    with vs.variable_scope(f"m{i // 50}", reuse=vs.AUTO_REUSE), vs.name_scope("op"):
        if kind == 3:
            vs.get_variable(f"p{i}", [5], partitioner=vs.fixed_size_partitioner(3))
        elif kind == 5:
            vs.get_variable(f"g{i}", [2], custom_getter=two)
        elif kind == 7:
            with vs.variable_scope(None, "layer"):
                vs.get_variable(f"w{i}", [2, i % 4], regularizer=vs.l2_regularizer(0.1))
        elif kind == 9:
            vs.get_local_variable(f"l{i}", i % 3)
        else:
            vs.get_variable(f"v{i}", [2], trainable=kind != 1)

def names(i):
    scope, kind = f"m{i // 50}", i % 10
    if kind == 3:
        return [f"{scope}/p{i}/part_{k}" for k in range(3)]
    if kind == 5:
        return [f"{scope}/g{i}_first", f"{scope}/g{i}_second"]
    return [f"{scope}/layer/w{i}" if kind == 7 else f"{scope}/{'l' if kind == 9 else 'v'}{i}"]

def build(graph, last):
    with graph.as_default():
        for i in range(last.get(graph, 0), count):
            last[graph] = i
            step(i)
        last[graph] = count

def check(graph, at):
    assert vs.get_variable_scope().name == "" and vs.get_default_graph() is not graph
    with graph.as_default():
        assert vs.get_variable_scope().name == "" and graph.get_name_scope() == ""
    done = [name for i in range(at) for name in names(i)]
    paths = [v.path for v in graph.variables]
    more = names(at) if at < count else []
    assert paths in (done, done + more), (paths[-5:], done[-5:], more)
    assert list(graph) == [v.op_name for v in graph.variables] and len(set(graph)) == len(graph)
    locals_, frozen = {}, {}
    for i in range(at + (paths != done)):
        locals_.update(dict.fromkeys(names(i) if i % 10 == 9 else []))
        frozen.update(dict.fromkeys(names(i) if i % 10 in (1, 9) else []))
    in_collection = {key: [v.path for v in graph.get_collection(key)] for key in (
        "variables", "local_variables", "trainable_variables")}
    assert in_collection["local_variables"] == list(locals_)
    assert in_collection["variables"] == [p for p in paths if p not in locals_]
    assert in_collection["trainable_variables"] == [p for p in paths if p not in frozen]
    wholes = [name.rpartition("/")[0] for name in paths if name.endswith("/part_0")]
    for whole in wholes:
        assert len(list(graph[whole])) == 3
    assert len(graph.get_regularization_losses()) == sum("/w" in path for path in paths)

count, interrupts = int(sys.argv[1]), int(sys.argv[2])
draw = random.Random(sys.argv[3])
last, built = {}, 0
plain = vs.Graph(seed=1)
started = time.perf_counter()
build(plain, last)
whole = time.perf_counter() - started
check(plain, count)
graph = vs.Graph(seed=1)
for turn in range(interrupts):
    try:
        interrupt_after(draw.uniform(0, whole))
        while True:
            build(graph, last)
            graph, built = vs.Graph(seed=1), built + 1
    except KeyboardInterrupt:
        pass
    else:
        sys.exit("no KeyboardInterrupt")
    check(graph, last.get(graph, 0))
build(graph, last)
check(graph, count)
# Where a step was done twice its op names were taken; all else is as it would have been.
same = [(v.path, v.shape, v.trainable) for v in plain.variables]
assert [(v.path, v.shape, v.trainable) for v in graph.variables] == same
for v in draw.sample(list(graph.variables), 50):
    assert v.numpy().tolist() == plain[v.path].numpy().tolist()
print(interrupts, built)
"""


def interrupted_builds(count, interrupts, seed, tally):
    done = python(START + BUILD, count, interrupts, seed, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    tally("interrupts", interrupts)
    tally("variables", count)


@pytest.mark.fails_without(
    "src/core/registry.pxi",
    """        for entry in reversed(journal):
            take_back(entry)
        raise
""",
    """        raise
""",
)
def test_a_build_that_is_interrupted_goes_on(tally):
    interrupted_builds(1_500, 40, random.randrange(1_000_000), tally)


@pytest.mark.slow
def test_a_large_build_that_is_interrupted_often(tally):
    interrupted_builds(200_000, 50, random.randrange(1_000_000), tally)


# What takes long in compiled code, on as many variables as it takes to be long: it is stopped
# before it is over, changes nothing, and does its work when it is called again.
LONG = """
count, which, draw = int(sys.argv[1]), sys.argv[2], random.Random(1)
graph = vs.Graph(seed=1)
with graph.as_default():
    for i in range(count):
        vs.get_variable(f"v{i}_{i * 7919 % 1000003}", [2])
folder = tempfile.mkdtemp()

def initialize():
    with graph.as_default():
        vs.initialize(threads=2, progress=False)

def parts():
    with vs.Graph().as_default():
        cut = vs.fixed_size_partitioner(count)
        vs.get_variable("v", [count], partitioner=cut)

def summary():
    from varscope.summary import summarize
    return summarize(graph)

work = {
    "find": lambda: graph.find("*1*2*3*4*5*6*7*x"),
    "find all": lambda: graph.find("*"),
    "all": lambda: graph.variables[:],
    "loop": lambda: sum(1 for _ in graph.variables),
    "collection": lambda: graph.get_collection("trainable_variables"),
    "names": lambda: list(graph),
    "initialize": initialize,
    "save": lambda: vs.save(graph, folder + "/m.safetensors", threads=1, progress=False),
    "parts": parts,
    "summary": summary,
}[which]
gc.disable()                     # it would take its time at other moments each time
# After so much time of processors, however busy they are with something else.
signal.signal(signal.SIGPROF, signal.default_int_handler)
if which == "initialize":        # can be done once
    whole = 3e-7 * count
else:
    work()                       # the first one gets ready what the others use
    cpu = time.process_time()
    work()
    whole = time.process_time() - cpu
before = list(graph), len(os.listdir(folder))
stopped = []
for turn in range(20):
    cpu = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_PROF, whole * draw.uniform(0.1, 0.3))
        work()
        while True:              # it came to an end before
            pass
    except KeyboardInterrupt:
        stopped.append((time.process_time() - cpu) / whole)
    assert (list(graph), len(os.listdir(folder))) == before
    assert vs.get_variable_scope().name == "" and len(graph) == count
    if 0.05 < stopped[-1] < 0.7:
        break
work()
print(which, "takes", whole, "s, stopped after these parts of it:", stopped)
assert 0.05 < stopped[-1] < 0.7, (which, whole, stopped)
"""
LONG_ONES = {  # pickling is not among them: a million variables take a fraction of a second
    "find": 400_000, "find all": 400_000, "initialize": 300_000, "save": 60_000,
    "parts": 60_000, "summary": 60_000, "loop": 400_000,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("which", LONG_ONES)
def test_what_takes_long_is_stopped_before_it_is_over(which, tally):
    if which == "save":
        pytest.importorskip("safetensors", reason="vs.save needs the library safetensors")
    done = python(START + LONG, LONG_ONES[which], which, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    sys.stdout.write(done.stdout)
    tally("long calls stopped")


@pytest.mark.fails_without(
    "src/core/finding.pxi",
    """            self.steps = 0
            PyErr_CheckSignals()
""",
    """            self.steps = 0
""",
)
def test_a_search_is_stopped_before_it_is_over(tally):
    done = python(START + LONG, 400_000, "find all", timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    tally("long calls stopped")
