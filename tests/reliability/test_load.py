"""As much as a program may ask for: how much of everything, and that memory stays as it was."""

import asyncio
import copy
import gc
import pickle
import sys
import time
from pathlib import Path

import pytest
from children import python

import varscope as vs

THREADS = 8


def in_memory():
    """Bytes that this process has in memory; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    import resource

    return pages * resource.getpagesize()


# --- many threads

# In a process of its own, whose memory nothing else has a part in.
MILLIONS = """
import gc, sys, threading, time
import varscope as vs
sys.path.insert(0, sys.argv[3])
from test_load import in_memory

each, threads = int(sys.argv[1]) // int(sys.argv[2]), int(sys.argv[2])
graph, failures = vs.Graph(seed=1), []

def create(number):
    try:
        with graph.as_default(), vs.variable_scope(f"t{number}"):
            for i in range(0, each, 10):
                with vs.variable_scope(f"m{i}"):
                    for k in range(i, min(i + 10, each)):
                        vs.get_variable(f"v{k % 10}", [4, 4])
    except BaseException as error:
        failures.append(error)

before, started = in_memory(), time.perf_counter()
running = [threading.Thread(target=create, args=(number,)) for number in range(threads)]
for thread in running:
    thread.start()
for thread in running:
    thread.join()
seconds, after = time.perf_counter() - started, in_memory()
assert not failures, failures
assert len(graph) == each * threads and graph.num_parameters == 16 * len(graph)
for number in range(threads):
    for k in range(0, each, each // 1000):
        path = f"t{number}/m{k // 10 * 10}/v{k % 10}"
        assert graph[path].path == path
    assert len(graph.find(f"t{number}/m0/*")) == 10
created = [0] * threads
for variable in graph.variables:
    created[int(variable.path[1])] += 1
assert created == [each] * threads
print(len(graph), seconds, 0 if after is None else (after - before) / len(graph))
"""


def millions(count, most, tally):
    done = python(MILLIONS, count, THREADS, Path(__file__).parent, timeout=1200)
    assert done.returncode == 0, done.stderr
    number, seconds, each = map(float, done.stdout.split())
    assert number == count
    print(f"{count:,} variables by {THREADS} threads in {seconds:.1f} s, {each:.0f} bytes each")
    assert each <= most
    tally("variables created by threads", count)


@pytest.mark.promise("threads")
def test_a_hundred_thousand_variables_from_eight_threads(tally):
    millions(104_000, 400, tally)


@pytest.mark.slow
@pytest.mark.promise("threads")
def test_ten_million_variables_from_eight_threads(tally):
    millions(10_000_000, 160, tally)


# --- many tasks


def names_by_tasks(count, tasks, tally):
    """Tasks that let each other go on inside of scopes, and ask for names of their own and shared.

    Each of the first is created once, each of the second by one of them.
    """
    graph = vs.Graph(seed=1)
    each = count // tasks

    async def ask(number):
        with vs.variable_scope(f"task{number}"):
            for i in range(0, each, 50):
                with vs.variable_scope(None, "layer") as layer:
                    await asyncio.sleep(0)
                    assert vs.get_variable_scope() == layer
                    for k in range(i, min(i + 50, each)):
                        vs.get_variable(f"v{k}", [2])
                with vs.variable_scope(root), vs.variable_scope("shared", reuse=vs.AUTO_REUSE):
                    await asyncio.sleep(0)
                    shared[i].add(id(vs.get_variable(f"v{i}", [2])))
            return layer.name

    async def main():
        return await asyncio.gather(*(ask(number) for number in range(tasks)))

    shared = {i: set() for i in range(0, each, 50)}
    with graph.as_default():
        root = vs.get_variable_scope()
        kept = [vs.get_variable(f"shared/v{i}", [2]) for i in shared]
        started = time.perf_counter()
        last = asyncio.run(main())
        seconds = time.perf_counter() - started
        assert vs.get_variable_scope().name == ""
    layers = (each - 1) // 50
    assert last == [f"task{i}/layer" + (f"_{layers}" if layers else "") for i in range(tasks)]
    assert [set(map(id, [v])) for v in kept] == list(shared.values())
    assert len(graph) == tasks * each + len(shared)
    for number in range(tasks):
        assert len(graph.find(f"task{number}/**")) == each
    print(f"{tasks * each:,} names by {tasks} tasks in {seconds:.1f} s")
    tally("names asked for by tasks", tasks * each)


@pytest.mark.promise("tasks")
def test_twenty_thousand_names_by_two_hundred_tasks(tally):
    names_by_tasks(20_000, 200, tally)


@pytest.mark.slow
@pytest.mark.promise("tasks")
def test_half_a_million_names_by_two_hundred_tasks(tally):
    names_by_tasks(500_000, 200, tally)


# --- again and again


def first_values(shape, dtype):
    return [vs.get_variable_scope().name == ""] * 8


def model():
    graph = vs.Graph(seed=1)
    with graph.as_default():
        for i in range(20):
            with vs.variable_scope(f"layer{i}", regularizer=vs.l2_regularizer(0.1)):
                vs.get_variable("w", [8, 8], initializer=vs.random_normal())
                vs.get_variable("b", [8], initializer=first_values)
                vs.get_variable("p", [9], partitioner=vs.fixed_size_partitioner(3))
    vs.initialize(list(graph.variables)[:10], progress=False)
    return graph


def again_and_again(times, tally):
    """Build, pickle, copy and drop: what Python and the process have stays as it was."""
    measured = []
    for turn in range(times):
        graph = model()
        twin, other = pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)
        assert list(twin) == list(other) == list(graph)
        assert twin["layer3/w"].numpy().tolist() == other["layer3/w"].numpy().tolist()
        del graph, twin, other
        if turn % 10 == 9:
            gc.collect()
            measured.append((sys.getallocatedblocks(), in_memory() or 0, len(gc.get_objects())))
    # The first ones fill caches.
    first, last = measured[len(measured) // 4], measured[-1]
    print(f"{times:,} graphs: from {first} to {last} blocks, bytes and objects")
    assert last[0] <= first[0] + 500
    assert last[1] <= first[1] + 8 * 2**20
    assert last[2] <= first[2] + 50
    tally("graphs built, pickled, copied and dropped", times)


@pytest.mark.promise("cycles")
def test_a_graph_is_built_copied_and_dropped_eighty_times(tally):
    again_and_again(80, tally)


@pytest.mark.slow
@pytest.mark.promise("cycles")
def test_a_graph_is_built_copied_and_dropped_a_thousand_times(tally):
    again_and_again(1000, tally)
