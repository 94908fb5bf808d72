"""What first values cost, beside NumPy that makes the same kind of values.  See `ratios.py`."""

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter as clock

import numpy as np
from cases import NAMES

import varscope as vs
from varscope import randomness
from varscope.randomness import Normal

# --- random numbers -----------------------------------------------------------------------------
# NumPy's generator draws the same words.

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
