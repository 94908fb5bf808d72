#!/usr/bin/env python
"""Many threads and tasks do everything at once, and what has to hold is checked all the time.

    python tools/stress.py                     for an hour
    python tools/stress.py --seconds 60        for a minute
    python tools/stress.py --seed 7            other choices
    python tools/stress.py --first-round 214   begin there: what a violation says

In each round there is a new graph.  Half of the threads work by themselves, the others run asyncio
tasks.  Each opens scopes, creates, shares and finds variables, asks for default names and op names,
reads, assigns and initialises, has custom getters fail, copies and pickles the graph, saves it and
restores it, and forks.  Threads switch as often as they can.  Afterwards the graph is compared
with what all of them say that they did, and dropped.

The first thing that is not as it should be ends it with status 1, and so does a deadlock.  At the
end, Ctrl-C included, it prints what it did.  The choices are the same for a seed and a round; when
threads switch is not.
"""

import argparse
import array
import asyncio
import collections
import contextlib
import copy
import faulthandler
import gc
import itertools
import os
import pickle
import platform
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
import weakref
from pathlib import Path

import numpy as np

import varscope as vs
from varscope import errors

TASKS = 6  # in each thread that runs tasks
STEPS = 120  # of each thread and of all tasks of a thread, in each round
PATIENCE = 300  # seconds a round may take: longer is a deadlock
WARM = 5  # rounds: from four times as many on memory has to be flat

# --- the names that all ask for: few, so that they meet

SCOPES = [*(f"m{i}" for i in range(4)), *(f"m{i}/s{j}" for i in range(4) for j in range(2))]
LEAVES = {
    "v": {"shape": [2]},
    "u": {"shape": [3, 2], "regularizer": vs.l2_regularizer(0.1)},
    "i": {"shape": 4, "dtype": "int32", "initializer": vs.ones},
    "n": {"shape": (), "trainable": False, "initializer": vs.random_normal(seed=3)},
    "l": {"shape": [2, 1]},  # local
    "p": {"shape": [5, 3], "partitioner": vs.fixed_size_partitioner(2)},
}
NAMES = [f"{scope}/{leaf}{i}" for scope in SCOPES for leaf in LEAVES for i in range(3)]
PARTS = 2
TAKEN = "v2"  # the leaves whose op names are asked for too, so that variables are renamed


def kind_of(path):
    return path.rpartition("/")[2][0]


def ask(name, **more):
    """The variable of a name, as all ask for it."""
    kind = kind_of(name)
    get = vs.get_local_variable if kind == "l" else vs.get_variable
    return get(name, **{**LEAVES[kind], **more})


class Expected:
    """What a graph of a seed has to have: made by one thread, and saved."""

    def __init__(self, seed, folder):
        self.seed, self.values = seed, {}
        graph = vs.Graph(seed)
        with graph.as_default():
            for name in NAMES:
                self.values[name] = ask(name).numpy()
                if kind_of(name) == "p":
                    rows = [(0, 3), (3, 5)]
                    for part, (first, last) in enumerate(rows):
                        self.values[f"{name}/part_{part}"] = self.values[name][first:last]
        self.file = folder / f"expected-{seed}.safetensors"
        vs.save(graph, self.file, threads=1, progress=False)


class Violation(AssertionError):
    """What must not be."""


def check(holds, *facts):
    if not holds:
        raise Violation(" ".join(map(str, facts)))


def same_value(variable, expected):
    value = variable.numpy()
    check(value.dtype == expected.dtype and np.array_equal(value, expected),
          variable, "is", value, "and not", expected)  # fmt: skip


class Refused(Exception):
    """A custom getter that fails."""


class Host:
    """A graph of another library, or an object in it."""


# --- what is done


# How often; what is dear is rare.
CHOICES = {
    "create": 30, "share": 30, "find": 8, "search": 4, "open": 10, "default_names": 6,
    "op_names": 12, "read": 10, "initialize": 2, "assign": 8, "fail": 8, "refuse": 6,
    "template": 4, "collect": 4, "drop": 4, "other_graph": 3, "attach": 1, "other_thread": 2,
    "pickle": 0.5, "save": 0.2, "restore": 0.2, "fork": 0.12, "garbage": 0.3,
}  # fmt: skip


class Worker:
    """A thread or task: what it does, and what it says that it did."""

    def __init__(self, round_, label):
        self.round, self.label, self.graph = round_, label, round_.graph
        self.random = random.Random(f"{round_.seed} {round_.number} {label}")
        self.done, self.expected = collections.Counter(), collections.Counter()
        self.created, self.got, self.assigned = [], set(), {}
        self.taken, self.steps, self.now = [], 0, None
        self.names = itertools.count()
        self.choices = dict(CHOICES)
        if not hasattr(os, "fork"):
            del self.choices["fork"]

    def step(self):
        (self.now,) = self.random.choices(list(self.choices), list(self.choices.values()))
        before = here(self.graph)
        getattr(self, self.now)()
        check(here(self.graph) == before, "after", self.now, here(self.graph), "was", before)
        self.steps += 1
        self.done[self.now] += 1

    @contextlib.contextmanager
    def may_raise(self, *kinds):
        try:
            yield
        except kinds as error:
            self.expected[type(error).__name__] += 1

    @contextlib.contextmanager
    def must_raise(self, kind):
        try:
            yield
        except kind as error:
            self.expected[type(error).__name__] += 1
        else:
            check(False, "no", kind.__name__)

    @contextlib.contextmanager
    def at_root(self, **options):
        """The root scope, wherever a task is."""
        with vs.variable_scope(self.round.root, **options):
            yield

    def own_name(self, kind):
        return f"{kind}/{self.label}_{next(self.names)}"

    def seen(self, path, variable):
        """All who ask for a name get one object."""
        self.got.add(path)
        held = self.round.held.setdefault(path, variable)
        check(held is variable, "two objects for", path, held, variable)
        check(path == variable.path if hasattr(variable, "path") else variable.name == path,
              variable, "for", path)  # fmt: skip

    def kept(self, variables):
        """Of variables those that no custom getter of another worker has lost, and their paths."""
        found = []
        for variable in variables:
            with self.may_raise(errors.WithdrawnError):
                found.append((variable, variable.path))
        return [variable for variable, _ in found], [path for _, path in found]

    # --- names
    def create(self):
        name = self.random.choice(NAMES)
        with self.may_raise(errors.VariableExistsError), self.at_root():
            scope, _, leaf = name.rpartition("/")
            if self.random.random() < 0.5:
                variable = ask(name)
            else:
                with vs.variable_scope(scope):
                    variable = ask(leaf)
            self.created.append(name)
            self.seen(name, variable)

    def share(self):
        name = self.random.choice(NAMES)
        scope, _, leaf = name.rpartition("/")
        with self.at_root(), vs.variable_scope(scope, reuse=vs.AUTO_REUSE):
            variable = ask(leaf)
            self.seen(name, variable)
            check(ask(leaf) is variable, "another object for", name)

    def find(self):
        name = self.random.choice(NAMES)
        with self.at_root(reuse=True):
            if name in self.got:
                self.seen(name, ask(name))
            else:
                with self.may_raise(errors.VariableMissingError):
                    self.seen(name, ask(name))

    def search(self):
        scope = self.random.choice(SCOPES)
        pattern, below = self.random.choice(
            [
                (f"{scope}/*", f"{scope}/"),
                (f"{scope}/**", f"{scope}/"),
                ("**/u*", ""),
                ("m?/v1", ""),
            ]
        )
        expected = {name for name in self.got if name.startswith(f"{scope}/v")}
        found, paths = self.kept(self.graph.find(pattern))
        check(len(set(paths)) == len(paths), "found twice:", pattern, paths)
        check(all(path.startswith(below) for path in paths), pattern, paths)
        if pattern == f"{scope}/**":
            check(expected <= set(paths), "not found:", expected - set(paths))
        for variable in found[:3]:
            check(self.graph[variable.op_name] is variable, "not by its op name:", variable)

    def refuse(self):
        which = self.random.randrange(5)
        with self.at_root():
            if which == 0:
                with self.must_raise(errors.InvalidNameError):
                    vs.get_variable("bad name", [1])
            elif which == 1:
                with self.must_raise(errors.InvalidShapeError):
                    vs.get_variable(self.own_name("never"), [-1])
            elif which == 2:
                with (
                    self.must_raise(errors.VariableMissingError),
                    vs.variable_scope("", reuse=True),
                ):
                    vs.get_variable(self.own_name("never"), [1])
            elif which == 3:
                with self.must_raise(errors.OpenScopeError):
                    vs.reset_default_graph()
            else:
                name = next((n for n in self.got if kind_of(n) == "v"), None)
                if name is not None:
                    with (
                        self.must_raise(errors.ShapeMismatchError),
                        vs.variable_scope("", reuse=True),
                    ):
                        vs.get_variable(name, [7])

    # --- scopes
    def open(self):
        """Scopes in scopes, left by an exception at times."""
        name, inner = self.own_name("scope"), f"s{self.random.randrange(3)}"
        with self.may_raise(Refused), self.at_root(), vs.variable_scope(name) as scope:
            check(scope.name == name and here(self.graph)[0] == name, scope, name)
            with vs.variable_scope(inner, reuse=True) as second:
                check(second.name == f"{name}/{inner}" and second.reuse is True, second)
                with vs.variable_scope(scope) as third:
                    check(third.name == name and third.reuse is False, third)
            with vs.variable_scope(f"{inner}/{inner}", dtype="float16") as second:
                check(vs.get_variable_scope().dtype == np.float16, second)
                if self.random.random() < 0.3:
                    raise Refused

    def default_names(self):
        with self.at_root(), vs.variable_scope(self.own_name("tower")) as tower:
            for expected in ["layer", "layer_1", "layer_2"]:
                with vs.variable_scope(None, "layer") as scope:
                    check(scope.name == f"{tower.name}/{expected}", scope, "is not", expected)
        with self.at_root(), vs.variable_scope(tower), vs.variable_scope(None, "layer") as scope:
            check(scope.name == f"{tower.name}/layer", scope)

    def op_names(self):
        with self.at_root(), vs.name_scope(None):
            self.op_names_taken()

    def op_names_taken(self):
        base = self.random.choice(["op", "x", f"{self.random.choice(SCOPES)}/{TAKEN}"])
        free = self.graph.unique_name(base, mark_as_used=False)
        check(free.startswith(base), free, base)
        self.taken.append(self.graph.unique_name(base))
        with vs.name_scope("op") as opened:
            self.taken.append(opened.removesuffix("/"))
            self.taken.append(self.graph.unique_name("inner"))

    # --- values
    def any_got(self, *kinds):
        names = sorted(name for name in self.got if not kinds or kind_of(name) in kinds)
        return self.random.choice(names) if names else None

    def variable_of(self, name):
        with self.at_root(reuse=True):
            return ask(name)

    def read(self):
        name = self.any_got()
        if name in self.round.expected.values:
            same_value(self.variable_of(name), self.round.expected.values[name])

    def initialize(self):
        names = self.random.sample(sorted(self.got), min(8, len(self.got)))
        some = [self.variable_of(name) for name in names if name in self.round.expected.values]
        vs.initialize(some, threads=self.random.choice([1, 2]), progress=False)
        for variable in some:
            check(all(v.initialized for v in parts_of(variable)), variable, "is only declared")
        if self.random.random() < 0.3:
            vs.initialize(threads=self.random.choice([1, 2]), progress=False)

    def assign(self):
        """To variables that no other worker changes."""
        with self.at_root(), vs.variable_scope("", reuse=vs.AUTO_REUSE):
            path = f"own/{self.label}_{self.random.randrange(5)}"
            variable = vs.get_variable(path, [3], initializer=vs.zeros)
            self.seen_own(path, variable)
            value, version = np.full(3, self.random.randrange(1000), "f"), variable.version
            which = self.random.randrange(3)
            if which == 0:
                variable.assign(value)
                self.assigned[path] = value
            elif which == 1:
                variable.assign_add(value)
                self.assigned[path] = self.assigned[path] + value
            else:
                variable[...] = value
                self.assigned[path] = value
            check(variable.version > version, variable, "has version", variable.version)
            same_value(variable, self.assigned[path])

    def seen_own(self, path, variable):
        self.seen(path, variable)
        self.assigned.setdefault(path, np.zeros(3, "f"))
        same_value(variable, self.assigned[path])

    # --- what fails
    def fail(self):
        """What a custom getter made before it failed is gone, whoever else created meanwhile."""
        name, parted = self.own_name("gone"), self.random.random() < 0.3

        def failing(getter, full_name, **arguments):
            getter(full_name, **arguments)
            if parted:
                getter(f"{full_name}_parts", shape=[4], partitioner=vs.fixed_size_partitioner(2))
            getter(f"{full_name}_more", **arguments)
            raise Refused

        with self.at_root():
            with self.must_raise(Refused):
                vs.get_variable(name, [2], custom_getter=failing)
            for gone in [name, f"{name}_more", f"{name}_parts", f"{name}_parts/part_0"]:
                with (
                    self.must_raise(errors.VariableMissingError),
                    vs.variable_scope("", reuse=True),
                ):
                    vs.get_variable(gone)
        check(self.graph.find(f"{name}*") == [], "still found:", name)

    # --- the whole graph
    def template(self):
        with self.at_root():
            self.seen("t/w", self.round.template())

    def collect(self):
        key = self.random.choice(["trainable_variables", "variables", "local_variables"])
        entries, paths = self.kept(self.graph.get_collection(key))
        check(len(set(map(id, entries))) == len(entries), "twice in", key)
        allowed = {"trainable_variables": "vuipt", "variables": "vuipnt", "local_variables": "l"}
        for variable, path in zip(entries, paths, strict=True):
            if path.partition("/")[0] not in ("own", "gone", "t"):
                check(kind_of(path_of_whole(variable)) in allowed[key], variable, "in", key)
        for loss in self.graph.get_regularization_losses()[:5]:
            check(loss.value() > 0, loss)

    def drop(self):
        """Nobody holds it any more, for a moment."""
        names = list(self.round.held)
        for name in self.random.sample(names, min(5, len(names))):
            self.round.held.pop(name, None)

    def other_graph(self):
        graph = vs.Graph(seed=self.round.expected.seed)
        with graph.as_default():
            check(here(graph) == ("", False, ""), here(graph))
            with vs.variable_scope("m0"):
                same_value(ask("v0"), self.round.expected.values["m0/v0"])
            check(len(graph) == 1, graph)
        self.round.graphs.append(weakref.ref(graph))

    def attach(self):
        host, node = Host(), Host()
        node.graph, graph = host, vs.attach(host)
        check(vs.attach(host) is graph, "attached twice")
        with vs.variable_scope("s", values=[node]):
            v = vs.get_variable(
                "v", [2], initializer=lambda shape, dtype, kept=node: np.ones(shape, dtype)
            )
            check(v.graph is graph and v.path == "s/v", v)
            check(v.numpy().tolist() == [1, 1], v)
        self.round.graphs += [weakref.ref(graph), weakref.ref(host)]

    def other_thread(self):
        found, graph = [], self.graph

        def look():
            found.append(vs.get_variable_scope().name)
            with graph.as_default():
                found.append(here(graph))

        with vs.variable_scope("m0", reuse=True):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        check(found == ["", ("", False, "")], found)

    def pickle(self):
        if self.random.random() < 0.5:
            twin = pickle.loads(pickle.dumps(self.graph))
        else:
            twin = copy.deepcopy(self.graph)
        self.check_copy(twin)
        self.round.graphs.append(weakref.ref(twin))
        return twin

    def check_copy(self, twin):
        """It has what was there when it was made: each variable whole, and none twice."""
        check(twin.seed == self.graph.seed, twin.seed)
        paths = [variable.path for variable in twin.variables]
        check(len(set(paths)) == len(paths), "twice in a copy:", paths)
        check(len(set(twin)) == len(paths), "op names twice in a copy:", list(twin))
        for variable in twin.variables:
            expected = self.round.expected.values.get(variable.path)
            if expected is not None:
                check(variable.shape == expected.shape, variable, "is not", expected.shape)
                if kind_of(path_of_whole(variable)) != "p":
                    same_value(variable, expected)
        missing = {name for name in self.got if kind_of(name) != "p"} - set(paths)
        check(not missing, "not in a copy:", missing)

    def save(self):
        """What was saved comes back, whatever happened meanwhile."""
        name = f"{self.label}-{next(self.names)}"
        folder = name if self.random.random() < 0.5 else f"{name}.safetensors"
        path = self.round.folder / folder
        vs.save(self.graph, path, threads=self.random.choice([1, 2]), progress=False)
        found = [
            v
            for v, path in zip(*self.kept(self.graph.variables), strict=True)
            if path[:4] != "gone"
        ]
        paths = {variable.op_name: variable.path for variable in found}
        with vs.open(path) as saved:
            for op_name, tensor in saved.items():
                expected = self.round.expected.values.get(paths.get(op_name, op_name))
                if expected is not None:
                    check(np.array_equal(tensor.numpy(), expected), op_name, "in", path)
            missing = {name for name in self.got if kind_of(name) == "v"}
            missing -= {paths.get(op_name) for op_name in saved}
            check(not missing, "not saved:", missing)
        twin = self.pickle()
        vs.save(twin, path, threads=1, progress=False)
        other = copy.deepcopy(twin)
        for variable in other.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        report = vs.restore(other, path, threads=self.random.choice([1, 2]), progress=False,
                            verify=True)  # fmt: skip
        check(not report.missing and not report.left_over, report)
        for variable in twin.variables:
            if kind_of(path_of_whole(variable)) != "l":
                same_value(other[variable.op_name], variable.numpy())
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def restore(self):
        """Values that they have already, into the graph that all of them use."""
        self.seen("m0/v0", self.round.first)
        report = vs.restore(self.graph, self.round.expected.file, partial=True, progress=False,
                            threads=self.random.choice([1, 2]))  # fmt: skip
        check(report.restored, report)

    def garbage(self):
        gc.collect()

    def fork(self):
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            self.be_child()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        check(status == 0, "a forked child ended with", status)

    def be_child(self):
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(PATIENCE // 2)  # a lock that was held is held for ever
            name, graph = f"child/{self.label}", vs.get_default_graph()
            with self.at_root():
                for path in sorted(self.got)[:20]:
                    if path in self.round.expected.values:
                        same_value(self.variable_of(path), self.round.expected.values[path])
                for i in range(20):
                    check(vs.get_variable(f"{name}/v{i}", [2]).path == f"{name}/v{i}", "child", i)
                check(len(graph.find(f"{name}/*")) == 20, graph.find(f"{name}/*"))
                vs.initialize(graph.find(f"{name}/*"), threads=2, progress=False)
                taken = {graph.unique_name("op") for _ in range(20)}
                check(len(taken) == 20 and not taken & set(self.taken), "twice in a child")
            twin = copy.deepcopy(graph)
            vs.save(twin, self.round.folder / f"child-{os.getpid()}.safetensors", threads=1,
                    progress=False)  # fmt: skip
            os.unlink(self.round.folder / f"child-{os.getpid()}.safetensors")
            status = 0
        except BaseException:
            print(f"in a child of {self.label}:", file=sys.stderr)
            traceback.print_exc()
        finally:
            os._exit(status)


def here(graph):
    scope = vs.get_variable_scope()
    return scope.name, scope.reuse, graph.get_name_scope()


def parts_of(variable):
    return list(variable) if isinstance(variable, vs.PartitionedVariable) else [variable]


def path_of_whole(variable):
    """Of a shard the path of the whole."""
    info = getattr(variable, "save_slice_info", None)
    return variable.path if info is None else info.full_name


# --- a round


class Round:
    """One graph, all threads and tasks that use it, and what has to hold at the end."""

    def __init__(self, number, options, expected, folder):
        self.number, self.seed, self.folder = number, options.seed, folder
        self.expected, self.graph = expected, vs.Graph(expected.seed)
        self.held, self.graphs, self.violations = {}, [], []
        self.stopped, self.begun = threading.Event(), threading.Barrier(options.threads)
        self.steps = options.steps
        with self.graph.as_default():
            self.root = vs.get_variable_scope()
            self.first = ask("m0/v0")
        self.template = vs.make_template("t", lambda: vs.get_variable("w", [2]))
        self.workers, self.runs = [], []
        for i in range(options.threads):
            count = TASKS if i % 2 else 1
            group = [Worker(self, f"w{i}" if count == 1 else f"w{i}t{j}") for j in range(count)]
            self.workers += group
            run = self.run_tasks if count > 1 else self.run_alone
            self.runs.append(threading.Thread(target=run, args=(group,), name=group[0].label))

    def run(self):
        for thread in self.runs:
            thread.start()
        for thread in self.runs:
            thread.join()
        if not self.violations:
            self.watched(self.check, "the end")

    def watched(self, function, *labels):
        try:
            return function()
        except BaseException:
            self.violations.append((*labels, traceback.format_exc()))
            self.stopped.set()

    def run_alone(self, group):
        def work():
            (worker,) = group
            self.begun.wait(PATIENCE)
            with self.graph.as_default():
                while worker.steps < self.steps and not self.stopped.is_set():
                    worker.step()
            check(vs.get_variable_scope().name == "", "a thread ends in a scope")

        self.watched(work, group[0].label)

    def run_tasks(self, group):
        async def work():
            with self.graph.as_default(), vs.variable_scope(f"tasks/{group[0].label}"):
                async with asyncio.TaskGroup() as tasks:
                    for worker in group:
                        tasks.create_task(self.wander(worker))

        def run():
            self.begun.wait(PATIENCE)
            asyncio.run(work())
            check(vs.get_variable_scope().name == "", "a thread ends in a scope")

        self.watched(run, group[0].label)

    async def wander(self, worker):
        """A task: it waits inside of scopes while others of its thread open theirs."""
        begin = here(self.graph)
        while worker.steps < self.steps // TASKS and not self.stopped.is_set():
            name = f"{worker.label}_{worker.steps}"
            with contextlib.suppress(Refused), vs.variable_scope(name):
                inside = here(self.graph)
                check(inside[0] == f"{begin[0]}/{name}", inside, begin)
                for _ in range(worker.random.randrange(1, 4)):
                    await asyncio.sleep(0)
                    check(here(self.graph) == inside, here(self.graph), "was", inside)
                    worker.step()
                if worker.random.random() < 0.1:
                    slow = asyncio.create_task(self.suspended(inside))
                    await asyncio.sleep(0)
                    slow.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await slow
                    worker.expected["CancelledError"] += 1
                if worker.random.random() < 0.1:
                    worker.expected["Refused"] += 1
                    raise Refused
            check(here(self.graph) == begin, here(self.graph), "was", begin)

    async def suspended(self, begin):
        check(here(self.graph) == begin, "a task begins in", here(self.graph), "not", begin)
        with vs.variable_scope("cancelled"):
            await asyncio.sleep(PATIENCE)

    def check(self):
        """The graph is what all of them say together."""
        graph, workers = self.graph, self.workers
        created = collections.Counter(name for worker in workers for name in worker.created)
        created["m0/v0"] += 1
        twice = [name for name, count in created.items() if count > 1]
        check(not twice, "created by several:", twice)

        names = {"m0/v0"}.union(*(worker.got for worker in workers))
        paths = set()
        for name in names:
            if kind_of(name) == "p":
                paths |= {f"{name}/part_{i}" for i in range(PARTS)}
            else:
                paths.add(name)
        there = [variable.path for variable in graph.variables]
        check(len(there) == len(set(there)) == len(graph), "rows twice")
        check(set(there) == paths, "half registered:", set(there) ^ paths)

        op_names = [variable.op_name for variable in graph.variables]
        check(op_names == list(graph), "op names differ")
        taken = collections.Counter(op_names)
        taken.update(name for worker in workers for name in worker.taken)
        twice = [name for name, count in taken.items() if count > 1]
        check(not twice, "op names handed out twice:", twice)

        kinds = {variable: kind_of(path_of_whole(variable)) for variable in graph.variables}
        for key, members in [
            ("variables", [v for v in graph.variables if kinds[v] != "l"]),
            ("trainable_variables", [v for v in graph.variables if kinds[v] not in "ln"]),
            ("local_variables", [v for v in graph.variables if kinds[v] == "l"]),
        ]:
            check(graph.get_collection(key) == members, "collection", key)
        penalties = sum(kind == "u" for kind in kinds.values())
        check(len(graph.get_regularization_losses()) == penalties, "losses")

        assigned = dict(
            itertools.chain.from_iterable(worker.assigned.items() for worker in workers)
        )
        with graph.as_default(), vs.variable_scope("", reuse=True):
            for name in sorted(names):
                variable = vs.get_variable(name) if name in assigned or name == "t/w" else ask(name)
                check(self.held.setdefault(name, variable) is variable, "two objects for", name)
                if name != "t/w":
                    values = assigned if name in assigned else self.expected.values
                    same_value(variable, values[name])

        twin = pickle.loads(pickle.dumps(graph))
        check(list(twin) == list(graph), "a pickled copy has other op names")
        for one, other in zip(graph.variables, twin.variables, strict=True):
            check(one.path == other.path and one.version == other.version, one, other)
            same_value(other, one.numpy())

    def drop(self):
        """Let go of all; whatever is alive afterwards is a leak."""
        watched = [*self.graphs, weakref.ref(self.graph)]
        variables = len(self.graph)
        self.held.clear()
        self.graph = self.root = self.first = self.template = None
        for worker in self.workers:
            worker.graph = None
        gc.collect()
        alive = [reference() for reference in watched if reference() is not None]
        check(not alive, "not collected:", alive)
        return len(watched), variables


# --- all rounds


def memory():
    """Allocated blocks of Python's, and MiB that the process has in memory."""
    with contextlib.suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return sys.getallocatedblocks(), pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return sys.getallocatedblocks(), 0.0


class Report:
    def __init__(self, options):
        self.options = options
        self.done, self.expected = collections.Counter(), collections.Counter()
        self.rounds = self.graphs = self.variables = 0
        self.started = time.monotonic()
        self.memories = array.array("q"), array.array("d")  # which hold no objects of Python's

    def add(self, round_, graphs, variables):
        for worker in round_.workers:
            self.done += worker.done
            self.expected += worker.expected
        self.rounds += 1
        self.graphs += graphs
        self.variables += variables
        for numbers, number in zip(self.memories, memory(), strict=True):
            numbers.append(number)

    def check_memory(self):
        """Rounds leave nothing behind; caches of Python's have filled in the first quarter."""
        if self.rounds < 4 * WARM:
            return
        quarter = self.rounds // 4
        count = min(quarter, 50)
        first = [min(numbers[quarter : quarter + count]) for numbers in self.memories]
        last = [min(numbers[-count:]) for numbers in self.memories]
        most = first[0] * 1.01 + 1000
        check(last[0] < most, "allocated blocks grew from", first[0], "to", last[0])
        check(last[1] < first[1] * 1.25 + 64, "memory grew from", first[1], "MiB to", last[1])

    def show(self):
        options = self.options
        print(f"\nseed {options.seed}, Python {platform.python_version()}, NumPy {np.__version__}")
        print(f"{options.threads} threads, each second one with {TASKS} tasks, switching after "
              f"{sys.getswitchinterval():g} s")  # fmt: skip
        print(f"{self.rounds:,} rounds in {time.monotonic() - self.started:,.0f} s: "
              f"{self.graphs:,} graphs, {self.variables:,} shared variables")  # fmt: skip
        print(f"\n{'done':24}{'times':>12}")
        for name, number in self.done.most_common():
            print(f"{name.replace('_', ' '):24}{number:12,}")
        print(f"\n{'refused or raised':24}{'times':>12}")
        for name, number in self.expected.most_common():
            print(f"{name:24}{number:12,}")
        if self.rounds:
            print(f"\n{'':24}{'blocks':>12}{'MiB':>12}")
            for label, place in [("after a quarter", self.rounds // 4), ("at the end", -1)]:
                blocks, mib = (numbers[place] for numbers in self.memories)
                print(f"{label:24}{blocks:12,}{mib:12,.0f}")
        sys.stdout.flush()


def main(arguments=None):
    options = parsed(arguments)
    stopped = threading.Event()
    old_handler = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    old_interval = sys.getswitchinterval()
    if not faulthandler.is_enabled():
        faulthandler.enable()
    sys.setswitchinterval(1e-6)
    report = Report(options)
    try:
        with tempfile.TemporaryDirectory() as folder:
            failed = run(options, Path(folder), report, stopped)
        report.show()
    finally:
        faulthandler.cancel_dump_traceback_later()
        sys.setswitchinterval(old_interval)
        signal.signal(signal.SIGINT, old_handler)
    if failed:
        sys.exit(1)
    print("\nnothing was lost")


def run(options, folder, report, stopped):
    """Round after round; True where something is not as it should be."""
    expected = [Expected(options.seed + i, folder) for i in range(3)]
    ends = time.monotonic() + options.seconds
    for number in itertools.count(options.first_round):
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=sys.__stderr__)
        round_ = Round(number, options, expected[number % len(expected)], folder)
        round_.run()
        if not round_.violations:
            facts = round_.watched(round_.drop, "what is left over")
        if not round_.violations:
            report.add(round_, *facts)
            round_.watched(report.check_memory, "memory")
        for label, *text in round_.violations:
            print(f"\nin round {number}, {label}:", *text, sep="\n")
        if round_.violations:
            print(f"python tools/stress.py --seed {options.seed} --threads {options.threads} "
                  f"--steps {options.steps} --first-round {number}")  # fmt: skip
            return True
        if time.monotonic() >= ends or stopped.is_set():
            return False
        if report.rounds % 100 == 0:
            blocks, mib = (numbers[-1] for numbers in report.memories)
            print(f"{time.monotonic() - report.started:8,.0f} s {report.rounds:8,} rounds "
                  f"{sum(report.done.values()):12,} steps {blocks:10,} blocks {mib:6,.0f} MiB",
                  flush=True)  # fmt: skip
    raise AssertionError("unreachable")


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each thread, in each round")
    parser.add_argument("--first-round", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
