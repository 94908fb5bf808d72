"""Saves that are killed, fail or run at once: what the tests of them share.

Every value of a model tells which model it is.  So what is at a path is one model from end to end,
or something is wrong.
"""

import collections
import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from children import environment
from requires import require_program

import varscope as vs

INDEX = "model.safetensors.index.json"
LAYOUTS = ["m.safetensors", "m"]
# Names of another kind, and a tensor that is made of a variable in parts.
RULES = [{"glob": "b/c", "to": "x/c", "transpose": True}, {"glob": "**", "to": "x/**"}]
NAMES = [{"a", "b/c", "d"}, {"x/a", "x/c", "x/d"}]
ELEMENTS = 53
# Path, whether something is replaced, whether names are mapped, threads.
SCENES = list(itertools.product(["m", "m.safetensors"], [True, False], [False, True], [1, 2]))
MOST = 200  # calls of one kind that a save of this model makes, and more


def model(number):
    """A graph whose every value tells which one it is, as a whole and in parts."""
    graph = vs.Graph(seed=1)
    with graph.as_default():
        for name, shape, parts in [("a", [40], 1), ("b/c", [6, 2], 2), ("d", [], 0)]:
            cut = vs.fixed_size_partitioner(parts) if parts else None
            vs.get_variable(name, shape, initializer=vs.constant(number), partitioner=cut)
    return graph


def save(number, path, planned=False, **options):
    if planned:
        materialise(number, path, **options)
    else:
        vs.save(model(number), path, **{"max_shard_size": 160, "progress": False, **options})


def materialise(number, path, threads=1):
    """The same by two workers, one after the other."""
    plan = vs.plan(model(number), path, workers=2, max_shard_size=160)
    for worker in range(2):
        vs.materialise(plan, worker, threads=threads, progress=False)
    vs.finish(plan)


def held(path):
    """The number of the model at a path, all of it and nothing else; None where there is none."""
    try:
        opened = vs.open(path)
    except FileNotFoundError:
        return None
    with opened:
        opened.verify()
        assert set(opened) in NAMES
        values = np.concatenate([tensor.value().reshape(-1) for tensor in opened.values()])
    assert values.shape == (ELEMENTS,) and (values == values[0]).all()
    return int(values[0])


def held_or_empty(path):
    """The same as `held`, but for a folder that was made and in which nothing is yet."""
    if path.is_dir() and not (path / INDEX).exists():
        return None
    return held(path)


def prepare(path, replacing):
    """What is there before: model 1, or nothing.  Returns its number."""
    if replacing:
        save(1, path)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return 1 if replacing else None


def large(nbytes=1 << 20):
    """A graph of four variables."""
    graph = vs.Graph()
    with graph.as_default():
        for i in range(4):
            vs.get_variable(f"v{i}", [nbytes // 16], initializer=vs.zeros)
    return graph


def files_at(path):
    """All files of a checkpoint and beside it."""
    found = os.listdir(path.parent)
    return set(found) | (set(os.listdir(path)) if path.is_dir() else set())


def wanted_at(path):
    """What is there when nothing is left of those who failed."""
    if path.name.endswith(".safetensors"):
        return {path.name}
    listed = json.loads((path / INDEX).read_text())["weight_map"].values()
    return {path.name, INDEX, *listed}


# --- one system call after the other

SERVER = """
import ctypes, json, os, sys
import saves

saves.save(0, sys.argv[1])  # what is imported or computed once
saves.save(0, sys.argv[1] + ".safetensors", names=saves.RULES)
saves.save(0, sys.argv[1], planned=True)
for line in sys.stdin:
    number, path, options = json.loads(line)
    start, go = os.pipe()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # let strace attach
        os.read(start, 1)
        try:
            saves.save(number, path, **options)
        except OSError as error:
            assert error.filename is not None, error
            os._exit(error.errno)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(255)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()
    os.write(go, b"x")
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os.close(start)
    os.close(go)
"""
CALLS = [
    *("mkdir", "openat", "flock", "ftruncate", "write", "pwrite64", "fchmod", "fsync", "rename"),
    *("renameat", "unlink", "unlinkat", "rmdir", "link"),
]


class Saver:
    """A process that saves in children of its own, each watched by strace."""

    def __init__(self, folder):
        self.strace = require_program("strace", "strace")
        self.log = folder / "strace.log"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(folder / "warm")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def save(self, number, path, injected=None, **options):
        """How a save ended: 0, the number of an error, or that of a signal, negative."""
        self.ask(json.dumps([number, str(path), {"threads": 1, **options}]))
        child = self.process.stdout.readline().strip()
        assert child, "the process that saves has ended"
        injection = ["-e", f"inject={injected}"] if injected else []
        calls = ",".join(CALLS)
        with subprocess.Popen(
            [self.strace, "-f", "-y", "-s", "4096", "-o", str(self.log), "-e", f"trace={calls}",
             *injection, "-p", child],
            stderr=subprocess.PIPE, text=True,
        ) as strace:  # fmt: skip
            first = strace.stderr.readline()
            if "attached" not in first:
                self.ask("")
                self.process.stdout.readline()
                pytest.skip(f"strace must not watch other processes here: {first}")
            self.ask("")
            return int(self.process.stdout.readline())

    def trace(self, number, path, **options):
        """The calls of a save that goes through, in the order in which they began.

        Names, and text that begins with what they were given.
        """
        assert self.save(number, path, **options) == 0
        return re.findall(r"^\d+ +(\w+)\((.*)$", self.log.read_text(), re.MULTILINE)

    def count(self, number, path, **options):
        """How often a save makes each call."""
        return collections.Counter(name for name, _ in self.trace(number, path, **options))

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(10) == 0
        self.process.stdout.close()
