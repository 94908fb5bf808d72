"""Models declared at once, beside the loop that builds the same names.  See `ratios.py`."""

import gc
import pickle
from time import perf_counter as clock

import varscope as vs

EXPERTS = 125  # in each layer that is stamped, of four variables
NAMES = [f"w{i}" for i in range(16)]  # in each scope of a part that is grafted


def layer():
    for expert in range(EXPERTS):
        with vs.variable_scope(f"expert_{expert}"):
            for name in ("wi", "wo", "bi", "bo"):
                vs.get_variable(name, [4, 4])


def looped(layers):
    """Seconds of building all layers but the first."""
    with vs.Graph(seed=1).as_default(), vs.variable_scope("model"):
        with vs.variable_scope("layer_0"):
            layer()
        start = clock()
        for i in range(1, layers):
            with vs.variable_scope(f"layer_{i}"):
                layer()
        return clock() - start


def stamped(layers):
    """The same by one call; making the list of names is a part of it."""
    with vs.Graph(seed=1).as_default(), vs.variable_scope("model"):
        with vs.variable_scope("layer_0"):
            layer()
        gc.collect()
        start = clock()
        vs.stamp("layer_0", into=[f"layer_{i}" for i in range(1, layers)])
        return clock() - start


def filled(scopes):
    for i in range(scopes):
        with vs.variable_scope(f"scope_{i}"):
            for name in NAMES:
                vs.get_variable(name, [4, 4])


def part_of(scopes):
    with vs.Graph(seed=1).as_default() as part:
        filled(scopes)
    return part


def built(scopes):
    """Seconds of building in a scope what `grafted` joins to one."""
    with vs.Graph(seed=1).as_default(), vs.variable_scope("tower_3"):
        start = clock()
        filled(scopes)
        return clock() - start


def grafted(part):
    graph = vs.Graph(seed=1)
    gc.collect()
    start = clock()
    graph.graft(part, under="tower_3")
    return clock() - start


def pickled(part):
    """Seconds that a part takes to be a pickle, and a graph again."""
    gc.collect()
    start = clock()
    pickle.loads(pickle.dumps(part))
    return clock() - start
