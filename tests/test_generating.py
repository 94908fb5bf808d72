"""Stamps and grafts: graphs that they make are those that building would make."""

import contextlib
import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots import snap

import varscope as vs
from varscope import errors

# --- random models -------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "a_1", "b_1", "b_2", "c/a", "part_0", "layer_2"])
BODIES = st.deferred(lambda: st.lists(STEP, max_size=4))
STEP = st.one_of(
    st.tuples(st.just("variable"), NAMES, st.integers(0, 3)),
    st.tuples(st.just("variable"), NAMES, st.integers(0, 3)),
    st.tuples(st.just("open"), NAMES, BODIES),
    st.tuples(st.just("bare"), NAMES, BODIES),  # without a name scope
    st.tuples(st.just("default"), NAMES, BODIES),
    st.tuples(st.just("name scope"), NAMES, BODIES),
    st.tuples(st.just("unique"), NAMES),
    st.tuples(st.just("parts"), NAMES, st.integers(1, 3)),
    st.tuples(st.just("collect"), st.integers(0, 5)),
    st.tuples(st.just("twice"), BODIES),
)
KINDS = [
    {"shape": [2, 3]},
    {"shape": [], "initializer": vs.ones, "trainable": False},
    {"initializer": np.arange(3), "collections": ["mine"]},
    {"shape": [4], "dtype": "float64", "regularizer": vs.l2_regularizer(0.5)},
]


def build(body, made=None):
    """Run the steps of a body in the current scope; what cannot be is left out."""
    made = [] if made is None else made  # by the body as a whole
    for kind, *rest in body:
        with contextlib.suppress(ValueError):
            step(made, kind, *rest)


def step(made, kind, what, *rest):
    graph = vs.get_default_graph()
    if kind == "variable":
        made.append(vs.get_variable(what, **KINDS[rest[0]]))
    elif kind == "parts":
        made.append(
            vs.get_variable(what, [6, 2], partitioner=vs.fixed_size_partitioner(rest[0]))
        )
    elif kind == "unique":
        graph.unique_name(what)
    elif kind == "collect":  # as model functions do
        if made:
            variable = made[what % len(made)]
            graph.add_to_collection("kept", variable)
            if variable.regularizer is not None:
                loss = vs.RegularizationLoss(variable, variable.regularizer)
                graph.add_to_collection("losses", loss)
    elif kind == "twice":
        build(what, made)
        build(what, made)
    elif kind == "name scope":
        with vs.name_scope(what):
            build(rest[0], made)
    else:
        with {
            "open": lambda: vs.variable_scope(what),
            "bare": lambda: vs.variable_scope(what, auxiliary_name_scope=False),
            "default": lambda: vs.variable_scope(None, what),
        }[kind]():
            build(rest[0], made)


# --- all that can be seen ------------------------------------------------------------------------

LEAVES = ["a", "a_1", "a_2", "b", "b_1", "b_2", "b_3", "c", "part_0", "new", "layer_1", "layer_2"]
SCOPES = ["", "a", "a_1", "b", "b_1", "c", "layer_0", "layer_1", "layer_2", "x", "x_1"]


def of_variable(v):
    return {
        "name": v.name,
        "path": v.path,
        "shape": v.shape,
        "dtype": v.dtype,
        "trainable": v.trainable,
        "initialized": v.initialized,
        "version": v.version,
        "values": v.initial_value().tolist(),
        "regularizer": v.regularizer,
        "device": v.caching_device,
        "site": v.creation_site,
        "slice": v.save_slice_info,
    }


def seen(graph, scopes=()):
    """What a graph shows; `scopes` are paths in which it is asked for op names."""
    keys = [value for name, value in vars(vs.GraphKeys).items() if name.isupper()]
    found = {
        "variables": [of_variable(v) for v in graph.variables],
        "collections": {
            key: [getattr(value, "name", value) for value in graph.get_collection(key)]
            for key in [*keys, "mine", "kept"]
        },
        "parts": [(path, kept.slicing) for path, kept in graph._partitions()],
        "names": list(graph),
        "found": [v.name for v in graph.find("**/a")],
        "seed": graph.seed,
    }
    with graph.as_default():
        for scope in scopes:
            with vs.name_scope(scope + "/" if scope else None):
                found[scope] = [graph.unique_name(leaf, mark_as_used=False) for leaf in LEAVES]
    return found


def places(prefix):
    """Where it is looked for op names: a few levels below a prefix."""
    inside = [f"{a}/{b}" if a and b else a + b for a in SCOPES for b in SCOPES[:7]]
    return [*SCOPES, *(f"{prefix}/{path}" for path in inside if path), prefix]


def alike(one, other, prefix="model", after=()):
    """Assert that two graphs are equal now, as pickles, and after more was built in each."""
    where = places(prefix)
    assert seen(one, where) == seen(other, where)
    assert seen(pickle.loads(pickle.dumps(other)), where) == seen(one, where)
    for graph in (one, other):
        with graph.as_default():
            build(after)
            with vs.variable_scope(prefix):
                build(after)
    assert seen(one, where) == seen(other, where)


INTO = st.lists(
    st.sampled_from(["layer_1", "layer_2", "layer_3", "a", "x", "x_1", "b_2", "c/d"]),
    min_size=1,
    max_size=4,
    unique=True,
)


# --- stamping ------------------------------------------------------------------------------------


def looped(first, body, into, before, stamped):
    with vs.Graph(seed=3).as_default() as graph:
        build(before)
        with vs.variable_scope("model"):
            build(before)
            with vs.variable_scope(first):
                build(body)
            if stamped:
                vs.stamp(first, into=into)
            else:
                for name in into:
                    with vs.variable_scope(name):
                        build(body)
            defaults = []
            for name in LEAVES:
                with vs.variable_scope(None, name, auxiliary_name_scope=False) as scope:
                    defaults.append(scope.name)
    return graph, defaults


@given(st.sampled_from(["layer_0", "layer_4", "first"]), BODIES, INTO, BODIES)
@settings(max_examples=300, deadline=None)
def test_stamping_in_a_fresh_scope_is_building_again(first, body, into, after):
    if not any(kind in ("variable", "parts") for kind, *_ in body):
        body = [*body, ("variable", "w", 0)]
    loop, defaults = looped(first, body, into, [], False)
    stamp, same = looped(first, body, into, [], True)
    assert defaults == same
    alike(loop, stamp, after=after)


@given(st.sampled_from(["layer_0", "a", "b_1"]), BODIES, INTO, BODIES, st.booleans())
@settings(max_examples=200, deadline=None)
def test_stamping_beside_others(first, body, into, before, by_name):
    """Also where name scopes get numbers, because their names were taken before."""
    if first in into or not any(kind in ("variable", "parts") for kind, *_ in body):
        return
    graphs = []
    for stamped in (False, True):
        with vs.Graph(seed=3).as_default() as graph:
            build(before)
            with vs.variable_scope("model"):
                build(before)
                for name in into:  # something else is there
                    with vs.variable_scope(name, auxiliary_name_scope=False):
                        vs.get_variable("else", [1])
                with vs.variable_scope(first) as scope:
                    build(body)
                if graph.find(f"{scope.name}/**") and stamped:
                    try:
                        vs.stamp(first if by_name else scope, into=into)
                    except errors.NamesTakenError:
                        return
                elif not stamped:
                    for name in into:
                        with vs.variable_scope(name):
                            build(body)
            graphs.append(graph)
    assert but_scopes(graphs[0]) == but_scopes(graphs[1])


# --- grafting ------------------------------------------------------------------------------------


def grafted(under, body, before, whole):
    with vs.Graph(seed=4).as_default() as part:
        build(body)
    with vs.Graph(seed=3).as_default() as graph:
        build(before)
        with vs.variable_scope("model"):
            build(before)
            if whole:
                with vs.variable_scope(under):
                    build(body)
            else:
                graph.graft(part, under)
            defaults = []
            for name in LEAVES:
                with vs.variable_scope(None, name, auxiliary_name_scope=False) as scope:
                    defaults.append(scope.name)
    return graph, defaults


@given(st.sampled_from(["tower", "tower_3", "c/d", ""]), BODIES, BODIES)
@settings(max_examples=300, deadline=None)
def test_grafting_in_a_fresh_scope_is_building_there(under, body, after):
    whole, defaults = grafted(under, body, [], True)
    graft, same = grafted(under, body, [], False)
    if under:
        assert defaults == same
    alike(whole, graft, after=after)


def but_scopes(graph):
    """What a graph shows, but for the op names that it would hand out."""
    return seen(graph)


@given(st.sampled_from(["tower", "a", "b_1", "c/a"]), BODIES, BODIES)
@settings(max_examples=200, deadline=None)
def test_grafting_beside_others(under, body, before):
    """Variables are as if built there; of scopes that share a name with one, see the docs."""
    whole, _ = grafted(under, body, before, True)
    try:
        graft, _ = grafted(under, body, before, False)
    except errors.NamesTakenError:
        return
    assert but_scopes(whole) == but_scopes(graft)


# --- all of it or nothing ------------------------------------------------------------------------


def layer():
    """A layer with a bit of everything."""
    graph = vs.get_default_graph()
    with vs.variable_scope("head_1", regularizer=vs.l2_regularizer(0.5)):
        w = vs.get_variable("w", [2, 3])
        graph.add_to_collection("kept", w)
    with vs.variable_scope("w"):
        pass
    vs.get_variable("w", [2])  # whose op name is w_1
    vs.get_variable("cut", [5], partitioner=vs.fixed_size_partitioner(2))


@pytest.fixture
def model():
    with vs.Graph(seed=1).as_default() as graph:
        with vs.variable_scope("model"):
            with vs.variable_scope("layer_0"):
                layer()
            with vs.variable_scope("layer_3", auxiliary_name_scope=False):
                vs.get_variable("else", [1])
            yield graph


def part_with_values(seed=2):
    with vs.Graph(seed=seed).as_default() as part:
        layer()
        part["w_1"].assign([1, 2])
        vs.get_variable("large", [70_000]).initialize()
    return part


INSIDE = ["model", "model/layer_0", "model/layer_1", "model/layer_1_1", "model/layer_3", ""]


def everything(graph):
    with vs.variable_scope(vs.get_variable_scope(), auxiliary_name_scope=False):
        return seen(graph, INSIDE), snap(graph), len(graph._extras.get("kept", ()))


def with_failing_allocation(function, number):
    """Call a function; the allocation of this number fails. Whether it was made."""
    testcapi = pytest.importorskip("_testcapi")
    testcapi.set_nomemory(number, number + 1)
    try:
        function()
    except MemoryError:
        return False
    finally:
        testcapi.remove_mem_hooks()
    return True


@pytest.mark.parametrize("what", ["stamp", "graft", "graft in an arena"])
def test_a_failed_allocation_leaves_the_graph_as_it_was(what, model):
    part = part_with_values()
    if what == "graft in an arena":
        with vs.Graph(seed=1, storage="arena").as_default() as graph, vs.variable_scope("model"):
            each_allocation_fails(graph, lambda: graph.graft(part, "layer_1"), part)
    elif what == "graft":
        each_allocation_fails(model, lambda: model.graft(part, "layer_1"), part)
    else:
        into = ["layer_1", "layer_2", "layer_3", "other"]
        each_allocation_fails(model, lambda: vs.stamp("layer_0", into), None)


def each_allocation_fails(graph, function, part):
    before, failed = everything(graph), 0
    for number in range(10_000):
        if with_failing_allocation(function, number):
            break
        failed += 1
        assert len(graph) == len(before[0]["variables"])
        if number % 7 == 0:
            assert everything(graph) == before, number
    assert failed > 20
    if part is not None:
        assert graph["model/layer_1/w_1"].numpy().tolist() == [1, 2]
