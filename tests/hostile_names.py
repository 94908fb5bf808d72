"""Names chosen so that hash tables are slow, and the instructions that they take.

`count(attacks, sizes, data)` runs this file again as its worker under callgrind, which is how
bench/instructions.py counts too.  Each attack is run in a fresh graph for each size, between two
calls of `os.getppid()`.
"""

import gc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from children import environment, python

import varscope as vs

INSTRUCTIONS = Path(__file__).resolve().parent.parent / "bench" / "instructions.py"
SEED = "0"  # of the hashes of str in the worker: whoever sets it gives up what it protects from


# --- looking for names that meet


def names_of_equal_low_bits(count, bits):
    """Names whose hashes, in a process with the worker's seed, agree in so many low bits."""
    code = (
        "import itertools, sys; count, bits = map(int, sys.argv[1:]); mask = (1 << bits) - 1;"
        "names = map('n{:x}'.format, itertools.count());"
        "found = (name for name in names if not hash(name) & mask);"
        "print(*itertools.islice(found, count))"
    )
    done = python(code, count, bits, env=environment(PYTHONHASHSEED=SEED))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def mixed(a, b, secret=0):
    """What the core makes of two ids, of a node and of a name: here without its secret."""
    a, b = np.asarray(a, np.uint64), np.asarray(b, np.uint64)
    with np.errstate(over="ignore"):
        x = a * np.uint64(0x9E3779B97F4A7C15) ^ (b >> np.uint64(2)) * np.uint64(0xBF58476D1CE4E5B9)
        x ^= np.uint64(secret)
        x = (x ^ x >> np.uint64(32)) * np.uint64(0x94D049BB133111EB)
        return ((x ^ x >> np.uint64(32)) << np.uint64(2)) + (b & np.uint64(3))


def pairs_that_meet(count, scopes, bits, secret=0):
    """Pairs (i, j) so that `p<i>/p<j>` all have one place in a table of 2**bits slots.

    Scopes p0, p1, ... are the first that a graph gets: p<i> is its node i + 1 and its name i.
    """
    found = []
    names = np.arange(scopes, dtype=np.uint64)
    for i in range(scopes):
        places = mixed(i + 1, names, secret) & np.uint64((1 << bits) - 1)
        found += [(i, j) for j in np.flatnonzero(places < 8).tolist() if i != j]
        if len(found) >= count:
            return found[:count]
    raise AssertionError(f"{len(found)} pairs of {scopes} scopes, {count} were wanted")


# --- the attacks: each gets a size and what was looked for, and gives what is counted


def opened(names):
    for name in names:
        with vs.variable_scope(name, auxiliary_name_scope=False):
            pass


def created(names):
    for name in names:
        vs.get_variable(name, [1])


def names_that_meet(size, data):
    names = data["names"][:size]
    return lambda: (opened(names), created(names))


def paths_that_meet(size, data):
    opened(f"p{i}" for i in range(data["scopes"]))
    paths = [f"p{i}/p{j}" for i, j in data["pairs"][:size]]
    return lambda: (opened(paths), created(paths), opened(paths))


def numbered(form, order):
    """x_1 to x_n are taken, then the bare name is asked for as often."""

    def attack(size, data):
        graph = vs.get_default_graph()
        taken = [f"x_{i}" for i in range(1, size + 1)][::order]
        if form == "scopes":
            many = range(size)
            return lambda: (opened(taken), [by_default("x") for _ in many])
        if form == "ops":
            unique_name = graph.unique_name
            return lambda: ([unique_name(n) for n in taken], [unique_name("x") for _ in taken])
        return lambda: (created(taken), [graph.unique_name("x") for _ in taken])

    return attack


def by_default(name):
    with vs.variable_scope(None, name) as scope:
        return scope


def same_default_name(size, data):
    return lambda: [by_default("x") for _ in range(size)]


def same_unique_name(size, data):
    unique_name = vs.get_default_graph().unique_name
    return lambda: [unique_name("x") for _ in range(size)]


def same_name_scope(size, data):
    def run():
        for _ in range(size):
            with vs.name_scope("x"):
                vs.get_default_graph().unique_name("y")

    return run


def numbers_upon_numbers(size, data):
    """x_1_1, x_1_2, ...: each is a base for others."""
    unique_name = vs.get_default_graph().unique_name
    names = ["x", "x_1", "x_1_1", "x_2"]
    return lambda: [unique_name(names[i % 4]) for i in range(size)]


def one_leaf_everywhere(size, data):
    """One name below very many scopes, and many below one."""
    names = [f"s{i}/w" for i in range(size // 2)] + [f"t/w{i}" for i in range(size // 2)]
    return lambda: (created(names), opened(names))


ATTACKS = {
    "names of equal low bits": names_that_meet,
    "ids that meet": paths_that_meet,
    "scopes x_1 to x_n": numbered("scopes", 1),
    "scopes x_n to x_1": numbered("scopes", -1),
    "ops x_1 to x_n": numbered("ops", 1),
    "ops x_n to x_1": numbered("ops", -1),
    "variables x_n to x_1": numbered("variables", -1),
    "one default name": same_default_name,
    "one unique name": same_unique_name,
    "one name scope": same_name_scope,
    "numbers upon numbers": numbers_upon_numbers,
    "one leaf everywhere": one_leaf_everywhere,
}


# --- counting


def count(attacks, sizes, data):
    """Of each attack: the instructions at each size, in the core and in all."""
    spec = importlib.util.spec_from_file_location("instructions", INSTRUCTIONS)
    instructions = sys.modules["instructions"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(instructions)
    with tempfile.TemporaryDirectory() as folder:
        task, out = Path(folder, "task.json"), Path(folder, "part")
        task.write_text(json.dumps([list(attacks), list(sizes), data]))
        command = [
            "valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}",
            "--dump-before=getppid", sys.executable, __file__, str(task),
        ]  # fmt: skip
        settings = {**instructions.SETTINGS, "PYTHONHASHSEED": SEED}
        done = subprocess.run(command, env=environment(**settings), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        parts = sorted(out.parent.glob("part.*"), key=lambda path: int(path.suffix[1:]))
        assert len(parts) == 2 * len(attacks) * len(sizes)
        counts = [instructions.read_part(part.read_text()) for part in parts[1::2]]
    sections = iter(counts)
    return {attack: [next(sections) for _ in sizes] for attack in attacks}


def work(attacks, sizes, data):
    gc.collect()
    gc.disable()
    for attack in attacks:
        for size in sizes:
            with vs.Graph(seed=1).as_default():
                run = ATTACKS[attack](size, data)
                os.getppid()
                run()
                os.getppid()


if __name__ == "__main__":
    work(*json.loads(Path(sys.argv[1]).read_text()))
