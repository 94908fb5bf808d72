"""What the registry costs, beside the plain Python that it stands in for.

    python bench/ratios.py            everything, a few minutes
    python bench/ratios.py --quick    16 thousand names only, seconds

Each statement is timed in turn with its twin, A B A B, in one process; the best round of each
counts.  So a ratio of one run means something, and a time by itself means little.
"""

import argparse
import gc
import importlib.util
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter as clock

# NumPy's BLAS threads wait by spinning, on the cores that are being measured.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

import varscope as vs
from varscope import randomness
from varscope.randomness import Normal, TruncatedNormal, Uniform

NAMES = [f"w{i}" for i in range(16)]  # in each scope
SIBLINGS = 1_000  # default-named scopes that are timed
MOE = Path(__file__).resolve().parent.parent / "examples" / "moe.py"


class Data:
    """16 names in each of so many scopes: in a graph, and as full paths in a dict."""

    def __init__(self, scopes, siblings=1_000_000):
        self.scopes = [f"scope_{i}" for i in range(scopes)]
        self.siblings = siblings  # default-named scopes in one parent

    @cached_property
    def graph(self):
        return filled_graph(len(self.scopes))

    @cached_property
    def paths(self):
        return filled_dict(len(self.scopes))


def filled_graph(scopes):
    graph = vs.Graph()
    with graph.as_default():
        for i in range(scopes):
            with vs.variable_scope(f"scope_{i}"):
                for name in NAMES:
                    vs.get_variable(name, [4, 4])
    return graph


def filled_dict(scopes):
    paths = {}
    for i in range(scopes):
        prefix = f"scope_{i}/"
        for name in NAMES:
            paths[prefix + name] = None
    return paths


# --- the statements -----------------------------------------------------------------------------
# Each function returns the seconds of its inner loops: the loop and the one statement in it.


def found(data):
    get_variable, names, seconds = vs.get_variable, NAMES, 0.0
    with data.graph.as_default():
        for scope in data.scopes:
            with vs.variable_scope(scope, reuse=True):
                start = clock()
                for name in names:
                    get_variable(name)
                seconds += clock() - start
    return seconds


def found_held(data):
    """The same while the program holds all variables in a list of its own."""
    held = list(data.graph.variables)
    seconds = found(data)
    del held
    return seconds


def found_with_shape(data):
    get_variable, names, seconds = vs.get_variable, NAMES, 0.0
    with data.graph.as_default():
        for scope in data.scopes:
            with vs.variable_scope(scope, reuse=True):
                start = clock()
                for name in names:
                    get_variable(name, [4, 4])
                seconds += clock() - start
    return seconds


def found_in_dict(data):
    d, names, seconds = data.paths, NAMES, 0.0
    for scope in data.scopes:
        prefix = scope + "/"
        start = clock()
        for name in names:
            d[prefix + name]
        seconds += clock() - start
    return seconds


def created(data):
    get_variable, names, seconds = vs.get_variable, NAMES, 0.0
    with vs.Graph().as_default():
        for scope in data.scopes:
            with vs.variable_scope(scope):
                start = clock()
                for name in names:
                    get_variable(name, [4, 4])
                seconds += clock() - start
    return seconds


def created_in_dict(data):
    d, names, seconds = {}, NAMES, 0.0
    for scope in data.scopes:
        prefix = scope + "/"
        start = clock()
        for name in names:
            d[prefix + name] = None
        seconds += clock() - start
    return seconds


def opened(data):
    variable_scope = vs.variable_scope
    with data.graph.as_default():
        start = clock()
        for name in data.scopes:
            with variable_scope(name):
                pass
        return clock() - start


def name_scope_opened(data):
    name_scope = vs.name_scope
    with data.graph.as_default():
        start = clock()
        for name in data.scopes:
            with name_scope(name):
                pass
        return clock() - start


def locked(data):
    Lock = threading.Lock
    start = clock()
    for name in data.scopes:  # noqa: B007
        with Lock():
            pass
    return clock() - start


def first_siblings(data):
    return siblings_after(0)


def last_siblings(data):
    return siblings_after(data.siblings - SIBLINGS)


def siblings_after(others):
    """A thousand default-named scopes in a parent that has so many others already."""
    variable_scope = vs.variable_scope
    with vs.Graph().as_default(), variable_scope("model"):
        for _ in range(others):
            with variable_scope(None, "layer"):
                pass
        start = clock()
        for _ in range(SIBLINGS):
            with variable_scope(None, "layer"):
                pass
        return clock() - start


def locked_siblings(data):
    Lock = threading.Lock
    start = clock()
    for _ in range(SIBLINGS):
        with Lock():
            pass
    return clock() - start


@dataclass(frozen=True)
class Case:
    """A statement of the registry, and the one beside it."""

    group: str
    statement: str
    run: Callable[[Data], float]
    beside: str
    run_beside: Callable[[Data], float]
    by: str = "names"  # "names", "scopes" or "siblings": one statement for each

    def statements(self, data):
        return {
            "names": len(data.scopes) * len(NAMES),
            "scopes": len(data.scopes),
            "siblings": SIBLINGS,
        }[self.by]


LOOK_UP, LOCK = "d[prefix + name]", "with threading.Lock()"
FOUND = Case("found", "get_variable(name)", found, LOOK_UP, found_in_dict)
HELD = Case("found, held", "get_variable(name)", found_held, LOOK_UP, found_in_dict)
SHAPED = Case(
    "found, shape", "get_variable(name, [4, 4])", found_with_shape, LOOK_UP, found_in_dict
)
CREATED = Case(
    "created", "get_variable(name, [4, 4])", created, f"{LOOK_UP} = None", created_in_dict
)
OPENED = Case("opened", "with variable_scope(name)", opened, LOCK, locked, "scopes")
NAMED = Case("name scope", "with name_scope(name)", name_scope_opened, LOCK, locked, "scopes")
CASES = [FOUND, HELD, SHAPED, CREATED, OPENED, NAMED]
FIRST_SIBLINGS = Case(
    "default name", 'with variable_scope(None, "layer")', first_siblings, LOCK, locked_siblings,
    "siblings",
)  # fmt: skip
LAST_SIBLINGS = Case(
    "default name", "last thousand of a million", last_siblings, "the first thousand",
    first_siblings, "siblings",
)  # fmt: skip


def measure(case, data, rounds):
    """Nanoseconds a statement, its own and the other's."""
    ours, others = alternately(partial(case.run, data), partial(case.run_beside, data), rounds)
    scale = 1e9 / case.statements(data)
    return ours * scale, others * scale


def alternately(run, run_beside, rounds):
    """The best seconds of each of two, timed in turn."""
    run()  # fills caches, the data's own included
    run_beside()
    ours, others = [], []
    for _ in range(rounds):
        ours.append(run())
        others.append(run_beside())
    return min(ours), min(others)


# --- memory -------------------------------------------------------------------------------------


def resident():
    """The bytes of memory that this process takes now."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    shown = subprocess.check_output(["ps", "-o", "rss=", "-p", str(os.getpid())])
    return int(shown) * 1024


def growth(fill, scopes):
    """Resident bytes a name of what `fill` returns; no handle of a variable is kept."""
    # Memory comes from the system in large pieces: small ones are filled many times over.
    copies = max(1, 62_500 // scopes)
    fill(scopes=10)
    gc.collect()
    before = resident()
    filled = [fill(scopes) for _ in range(copies)]
    gc.collect()
    return (resident() - before) / sum(map(len, filled))


def graph_bytes(scopes):
    return growth(filled_graph, scopes)


def dict_bytes(scopes):
    return growth(filled_dict, scopes)


def reentry_bytes(times):
    """Resident bytes that so many openings of the same scope leave behind, all together."""

    def enter(times):
        for _ in range(times):
            with vs.variable_scope("model"):
                pass

    return left_behind(enter, times)


def nested_reentry_bytes(times):
    """The same with a second scope inside, for which each name scope has to be kept apart."""

    def enter(times):
        for _ in range(times):
            with vs.variable_scope("model"), vs.variable_scope("layer"):
                pass

    return left_behind(enter, times)


def left_behind(enter, times):
    enter(20_000)
    gc.collect()
    before = resident()
    enter(times)
    gc.collect()
    return resident() - before


def in_fresh_process(function, argument):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, argument).result()


# --- a whole model ------------------------------------------------------------------------------


def load_moe():
    spec = importlib.util.spec_from_file_location("moe", MOE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def moe_in_graph(moe, layers, experts):
    graph = vs.Graph()
    start = clock()
    with graph.as_default():
        moe.build(layers, experts)
    return clock() - start, graph


def moe_in_dict(layers, experts):
    """The names of examples/moe.py, by the same loops."""
    d = {}
    start = clock()
    d["embeddings/table"] = None
    for layer in range(layers):
        d[f"layers_{layer}/norm/scale"] = None
        for name in ("query", "key", "value", "output"):
            d[f"layers_{layer}/attention/{name}"] = None
        d[f"layers_{layer}/norm_1/scale"] = None
        d[f"layers_{layer}/router/kernel"] = None
        for expert in range(experts):
            d[f"layers_{layer}/experts_{expert}/w1"] = None
            d[f"layers_{layer}/experts_{expert}/w2"] = None
            d[f"layers_{layer}/experts_{expert}/w3"] = None
            d[f"layers_{layer}/experts_{expert}/w1_scale"] = None
            d[f"layers_{layer}/experts_{expert}/w2_scale"] = None
            d[f"layers_{layer}/experts_{expert}/w3_scale"] = None
    d["norm/scale"] = None
    return clock() - start, d


# --- values -------------------------------------------------------------------------------------
# What random numbers cost beside those of NumPy's generator.  Its words are the same ones.

BLOCK = 1 << 20  # elements that are filled in one call
KEY = 1


def filled(distribution, out):
    start = clock()
    for block in out:
        randomness.fill(block, distribution, KEY)
    return clock() - start


def filled_by_numpy(method, out):
    generate = getattr(np.random.Generator(np.random.Philox(key=KEY)), method)
    start = clock()
    for block in out:
        generate(out=block, dtype=block.dtype)
    return clock() - start


def filled_by_threads(count, out):
    """The blocks shared out among so many threads."""
    shares = [out[i::count] for i in range(count)]
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda share: None, shares))  # the threads are there
        start = clock()
        list(pool.map(lambda share: filled(Normal(0.0, 1.0), share), shares))
        return clock() - start


def small_ones(out):
    """As many variables of sixteen elements, each with a key of its own, filled in an arena."""
    with vs.Graph(seed=1, storage=vs.Arena()).as_default():
        for scope in range(len(out) // 16):
            with vs.variable_scope(f"scope_{scope}", initializer=vs.random_normal()):
                for name in NAMES:
                    vs.get_variable(name, [16])
        start = clock()
        vs.initialize(threads=1, progress=False)
        return clock() - start


def small_ones_by_numpy(out):
    normal = np.random.Generator(np.random.Philox(key=KEY)).standard_normal
    start = clock()
    for row in out:
        normal(out=row, dtype=np.float32)
    return clock() - start


def print_values(blocks, small, rounds):
    """Nanoseconds an element, and for the small ones a variable."""
    single = np.empty((blocks, BLOCK), np.float32)
    double, rows_of_16 = single.reshape(-1).view(np.float64), np.empty((small, 16), np.float32)
    double = double.reshape(-1, min(BLOCK, double.size))
    fill, numpy = filled, filled_by_numpy
    cases = [
        ("normal, float32", partial(fill, Normal(0.0, 1.0), single), single.size,
         "standard_normal(out=...)", partial(numpy, "standard_normal", single)),
        ("uniform, float32", partial(fill, Uniform(0.0, 1.0), single), single.size,
         "random(out=...)", partial(numpy, "random", single)),
        ("truncated, float32", partial(fill, TruncatedNormal(0.0, 1.0), single), single.size,
         "standard_normal(out=...)", partial(numpy, "standard_normal", single)),
        ("normal, float64", partial(fill, Normal(0.0, 1.0), double), double.size,
         "standard_normal(out=...)", partial(numpy, "standard_normal", double)),
        ("normal, two threads", partial(filled_by_threads, 2, single), single.size,
         "one thread", partial(filled_by_threads, 1, single)),
        ("variables of [16]", partial(small_ones, rows_of_16), small,
         "standard_normal(out=row)", partial(small_ones_by_numpy, rows_of_16)),
    ]  # fmt: skip
    rows = []
    for name, run, count, beside, run_beside in cases:
        ours, others = alternately(run, run_beside, rounds)
        rows.append((name, ours / count * 1e9, beside, others / count * 1e9, ours / others))
    table(
        f"random values beside numpy.random.Generator(Philox()), blocks of {BLOCK:,}",
        ("", "ns", "beside", "ns", "ratio"),
        rows,
    )


# --- many variables at once ---------------------------------------------------------------------


def initialized(variables, shape, initializer, threads=1):
    """Seconds that the first values of so many variables take, in an arena."""
    graph = vs.Graph(seed=1, storage="arena")
    with graph.as_default():
        for i in range(variables):
            with vs.variable_scope(f"layer_{i}"):
                vs.get_variable("w", shape, initializer=initializer)
        start = clock()
        vs.initialize(threads=threads)
        return clock() - start


def numpy_loop(draw, variables):
    """The same kind of values as plain NumPy code makes them."""
    rng, d = np.random.Generator(np.random.Philox(1)), {}
    start = clock()
    for i in range(variables):
        d[f"layer_{i}/w"] = draw(rng)
    return clock() - start


def uniform_row(rng):
    return rng.uniform(-0.4, 0.4, 16).astype(np.float32)


def normal_row(rng):
    return rng.standard_normal(16, dtype=np.float32)


def touched_zeros(elements):
    """Zeros as NumPy makes them, and every page of them touched."""
    start = clock()
    np.full(elements, 0, np.float32)
    return clock() - start


def print_initialize(variables, elements, rounds):
    """Milliseconds; the first ratio is to be below 1."""
    tenth = variables // 10
    cases = [
        (f"{variables:,} of shape [16]", partial(initialized, variables, [16], None),
         f"a NumPy loop over {tenth:,}", partial(numpy_loop, uniform_row, tenth)),
        (f"normal, {variables:,}", partial(initialized, variables, [16], vs.random_normal()),
         f"a NumPy loop over {tenth:,}", partial(numpy_loop, normal_row, tenth)),
        (f"zeros, {variables:,} of shape [16]", partial(initialized, variables, [16], vs.zeros),
         "np.full of all", partial(touched_zeros, 16 * variables)),
        ("a large one, two threads",
         partial(initialized, 1, [elements], vs.random_normal(), 2),
         "one thread", partial(initialized, 1, [elements], vs.random_normal(), 1)),
    ]  # fmt: skip
    rows = []
    for name, run, beside, run_beside in cases:
        ours, others = alternately(run, run_beside, rounds)
        rows.append((name, ours * 1e3, beside, others * 1e3, ours / others))
    table("vs.initialize() in an arena", ("", "ms", "beside", "ms", "ratio"), rows)


# --- the tables ---------------------------------------------------------------------------------


def table(title, head, rows):
    """Print columns: text to the left, numbers to the right."""
    cells = [head, *([text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for line in cells:
        print("  ".join(
            cell.ljust(width) if isinstance(kind, str) else cell.rjust(width)
            for cell, width, kind in zip(line, widths, rows[0], strict=True)
        ).rstrip())  # fmt: skip


def text(cell):
    if isinstance(cell, float):
        return f"{cell:.2f}" if cell < 10 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def print_statements(data, cases, rounds):
    rows = []
    for case in cases:
        ours, others = measure(case, data, rounds)
        rows.append((case.group, case.statement, ours, case.beside, others, ours / others))
    names = len(data.scopes) * len(NAMES)
    table(
        f"{names:,} names in {len(data.scopes):,} scopes, best of {rounds} rounds",
        ("", "statement", "ns", "beside", "ns", "ratio"),
        rows,
    )


def print_growth(scope_counts, rounds):
    """What a name costs in small and large graphs."""
    case, rows = CREATED, []
    for scopes in scope_counts:
        ours, others = measure(case, Data(scopes), rounds)
        rows.append((scopes * len(NAMES), ours, others, ours / others))
    table(
        f"{case.statement}, created: cost of a name as the graph grows",
        ("names", "ns", "dict: ns", "ratio"),
        rows,
    )
    first, last = rows[0], rows[-1]
    print(
        f"cost at {last[0]:,} names over that at {first[0]:,}: "
        f"{last[1] / first[1]:.2f}, dict {last[2] / first[2]:.2f}"
    )


def print_memory(scope_counts, reentries):
    rows = []
    for scopes in scope_counts:
        ours = in_fresh_process(graph_bytes, scopes)
        others = in_fresh_process(dict_bytes, scopes)
        rows.append((scopes * len(NAMES), ours, others, ours / others))
    table(
        "memory of a declared variable, name included, beside a dict of full paths",
        ("names", "bytes", "dict: bytes", "ratio"),
        rows,
    )
    left = in_fresh_process(reentry_bytes, reentries)
    nested = in_fresh_process(nested_reentry_bytes, reentries)
    table(
        f"bytes that {reentries:,} re-entries leave behind, and for each of them",
        ("", "bytes", "each"),
        [
            ('with variable_scope("model")', left, left / reentries),
            ('with variable_scope("model"), variable_scope("layer")', nested, nested / reentries),
        ],
    )


def print_model(layers, experts, rounds):
    moe, ours, others = load_moe(), [], []
    for _ in range(rounds):
        seconds, graph = moe_in_graph(moe, layers, experts)
        ours.append(seconds)
        seconds, paths = moe_in_dict(layers, experts)
        others.append(seconds)
        if set(paths) != set(graph):
            raise AssertionError("the two loops make different names")
        del graph, paths
    best, best_other = min(ours), min(others)
    table(
        f"examples/moe.py, {layers} layers of {experts} experts, best of {rounds} rounds",
        ("", "seconds", "beside", "seconds", "ratio"),
        [("varscope", best, "f-string key, d[key] = None", best_other, best / best_other)],
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Times and bytes beside plain Python.")
    parser.add_argument("--quick", action="store_true", help="16 thousand names only")
    quick = parser.parse_args(arguments).quick
    system = f"{platform.system()} {platform.machine()}"
    print(f"varscope {vs.__version__}, {platform.python_implementation()} "
          f"{platform.python_version()}, {system}")  # fmt: skip
    print_statements(Data(1_000), [*CASES, FIRST_SIBLINGS], 15)
    print_values(16, 16_000, 5)
    print_initialize(20_000, 1 << 22, 5)
    if quick:
        return
    print_initialize(1_000_000, 1 << 26, 3)
    print_statements(Data(100_000), [*CASES, LAST_SIBLINGS], 5)
    print_growth([625, 6_250, 62_500], 5)
    print_memory([625, 62_500], 1_000_000)
    print_model(92, 896, 5)


if __name__ == "__main__":
    sys.exit(main())
