"""Work that several threads do, interrupted at every place where Python looks for signals.

Each sweep runs in a process of its own, which can be ended where it should hang.
"""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from children import python
from interrupting import Interrupt, interrupted
from requires import on_posix, require

import varscope as vs
from varscope.progress import Helpers

require("safetensors", 'safetensors>=0.8 or "varscope-core[checkpoints]"')
pytestmark = [on_posix, pytest.mark.promise("interrupts")]

SIZE = 200  # of each of the variables
LARGE = 1 << 18  # bytes, which are a thread's worth
NAMES = "abc"


def model(number, storage="heap"):
    graph = vs.Graph(seed=number, storage=storage)
    with graph.as_default():
        for name in NAMES:
            vs.get_variable(name, [SIZE], initializer=vs.constant(number))
    return graph


def held(values):
    """The one number that all these are."""
    values = np.concatenate([np.ravel(value) for value in values])
    assert values.shape == (SIZE * len(NAMES),) and (values == values[0]).all()
    return int(values[0])


def in_file(path):
    with vs.open(path) as opened:
        opened.verify()
        return held([opened[name].value() for name in NAMES])


class Saves:
    """The old checkpoint or the new one is there, and nothing else."""

    def __init__(self, folder, layout, threads):
        self.path, self.folder, self.threads, self.old = folder / layout, folder, threads, 0
        self.save(model(0))

    def save(self, graph):
        vs.save(graph, self.path, threads=self.threads, max_shard_size=SIZE * 4, progress=False)

    def begin(self, number):
        self.number, self.graph = number, model(number)
        return lambda: self.save(self.graph)

    def check(self):
        found = in_file(self.path)
        assert found in (self.old, self.number)
        self.old = found
        left = [name for name in os.listdir(self.folder) if name != self.path.name]
        if self.path.is_dir():
            left += [name for name in os.listdir(self.path) if not name.startswith("model")]
            assert len(os.listdir(self.path)) == len(NAMES) + 1
        assert left == []


class Restores:
    """All variables have the old values, or all have the new ones."""

    def __init__(self, folder, storage, threads):
        self.paths, self.threads, self.storage = [folder / "m0", folder / "m1"], threads, storage
        for number, path in enumerate(self.paths):
            vs.save(model(number), path, max_shard_size=SIZE * 4, progress=False)

    def begin(self, number):
        self.graph = model(7, self.storage)
        if number % 2:
            vs.restore(self.graph, self.paths[0], progress=False)
        options = {"threads": self.threads, "progress": False}
        return lambda: vs.restore(self.graph, self.paths[1], **options)

    def check(self):
        filled = {v.initialized for v in self.graph.variables}
        assert len(filled) == 1
        if filled == {True}:
            assert held([v.value() for v in self.graph.variables]) in (0, 1)
        vs.restore(self.graph, self.paths[1], progress=False)
        assert held([v.value() for v in self.graph.variables]) == 1


class Initialisations:
    """What has values has its own, and what is left gets them the next time."""

    def __init__(self, folder, storage, threads):
        self.storage, self.threads = storage, threads
        self.graph = self.build()
        vs.initialize(self.graph.variables, progress=False)
        self.expected = [v.numpy() for v in self.graph.variables]

    def build(self):
        graph = vs.Graph(seed=5, storage=self.storage)
        with graph.as_default():
            for name in NAMES:
                vs.get_variable(name, [LARGE // 4])
            vs.get_variable("function", [3], initializer=lambda shape, dtype: np.ones(shape, dtype))
            for number in range(100):
                vs.get_variable(f"small_{number}", [3])
        return graph

    def begin(self, number):
        self.graph = self.build()
        return lambda: vs.initialize(self.graph.variables, threads=self.threads, progress=False)

    def check(self):
        for again in (False, True):
            if again:
                vs.initialize(self.graph.variables, progress=False)
            for v, expected in zip(self.graph.variables, self.expected, strict=True):
                assert v.initialized or not again
                if v.initialized:
                    assert (v.value() == expected).all()


KINDS = {kind.__name__: kind for kind in (Saves, Restores, Initialisations)}
CASES = [
    ("Saves", "m.safetensors", 1), ("Saves", "m.safetensors", 2), ("Saves", "m", 1),
    ("Saves", "m", 2), ("Restores", "heap", 2), ("Restores", "arena", 2),
    ("Initialisations", "heap", 2), ("Initialisations", "arena", 2),
]  # fmt: skip


def sweep(kind, what, threads, step):
    """Interrupt at every `step`-th place, each time in the like of what was done before."""
    folder = Path(tempfile.mkdtemp())
    try:
        case = KINDS[kind](folder, what, threads)
        interrupted(case.begin(1), -1)  # what is imported or computed once
        at = count = 0
        while True:
            outcome, places = interrupted(case.begin(count + 1), at)
            if places < at:
                break
            if isinstance(outcome, Interrupt):
                outcome.__traceback__ = None  # which keeps alive what was in use
            case.check()
            at, count = at + step, count + 1
        print(count)
    finally:
        shutil.rmtree(folder)


SWEEP = "import sys, test_interrupts_everywhere as t; t.sweep(*t.arguments(sys.argv))"


def arguments(words):
    return words[1], words[2], int(words[3]), int(words[4])


def swept(tally, case, step, timeout):
    done = python(SWEEP, *case, step, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 3
    tally("interrupts", int(done.stdout))


@pytest.mark.parametrize("case", CASES[1::2], ids=lambda case: "-".join(map(str, case)))
def test_an_interrupt_at_any_place_leaves_all_in_order(case, tally):
    swept(tally, case, 199, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_an_interrupt_at_each_place_leaves_all_in_order(case, tally):
    swept(tally, case, 3 if case[0] == "Initialisations" else 2, timeout=280)


def helpers(step):
    """Interrupt the starting of threads, and see that all that have begun end."""
    for at in range(0, 10**6, step):
        crew, done = Helpers(), []

        def work(crew=crew, done=done):
            try:
                for number in range(2):
                    crew.start(done.append, number)
            finally:
                crew.close()

        _, places = interrupted(work, at)
        crew.close()
        assert not crew.busy
        if places < at:
            print(at)
            return


@pytest.mark.fails_without(
    "src/varscope/progress.py",
    "_thread.start_new_thread(self._call, (len(self.working) - 1, function, args))",
    "__import__('threading').Thread(\n"
    "    target=self._call, args=(len(self.working) - 1, function, args)).start()",
)
def test_an_interrupt_while_a_thread_is_started_leaves_none_that_waits(tally):
    done = python("import test_interrupts_everywhere as t; t.helpers(1)", timeout=30)
    assert done.returncode == 0, done.stderr[-3000:]
    tally("interrupts", int(done.stdout))
