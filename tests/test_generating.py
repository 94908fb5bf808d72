"""Stamps and grafts: graphs that they make are those that building would make."""

import concurrent.futures
import contextlib
import functools
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from interrupting import Interrupt, interrupted
from snapshots import snap

import varscope as vs
from varscope import errors

# --- random models -------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "a_1", "b_1", "b_2", "c/a", "part_0", "layer_2"])
BODIES = st.deferred(lambda: st.lists(STEP, max_size=3))
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
        made.append(vs.get_variable(what, [6, 2], partitioner=vs.fixed_size_partitioner(rest[0])))
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
    inside = [f"{a}/{b}" if a and b else a + b for a in SCOPES for b in SCOPES[:4]]
    return [*SCOPES[:4], *(f"{prefix}/{path}" for path in inside if path), prefix]


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
    max_size=3,
    unique=True,
)


SHARD_AND_WHOLE = [  # of one path
    ("open", "a", [("open", "a", [("parts", "part_0", 1)]), ("parts", "a", 1)]),
    ("collect", 0),
    ("collect", 1),
]


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


@example("first", SHARD_AND_WHOLE, ["x"], [])
@given(st.sampled_from(["layer_0", "layer_4", "first"]), BODIES, INTO, BODIES)
@settings(max_examples=60, deadline=None)
def test_stamping_in_a_fresh_scope_is_building_again(first, body, into, after):
    if not any(kind in ("variable", "parts") for kind, *_ in body):
        body = [*body, ("variable", "w", 0)]
    loop, defaults = looped(first, body, into, [], False)
    stamp, same = looped(first, body, into, [], True)
    assert defaults == same
    alike(loop, stamp, after=after)


@given(st.sampled_from(["layer_0", "a", "b_1"]), BODIES, INTO, BODIES, st.booleans())
@settings(max_examples=60, deadline=None)
def test_stamping_beside_others(first, body, into, before, by_name):
    """Also where name scopes get numbers, because their names were taken before.

    Not that of the original: then nothing tells whether a variable or an op took a name first.
    """
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
                there = graph.find(f"model/{first}/**")
                with vs.variable_scope(first) as scope:
                    build(body)
                if there or scope.original_name_scope != f"{scope.name}/":
                    return
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


@example("tower", SHARD_AND_WHOLE, [])
@given(st.sampled_from(["tower", "tower_3", "c/d", ""]), BODIES, BODIES)
@settings(max_examples=60, deadline=None)
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
@settings(max_examples=60, deadline=None)
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
    with vs.Graph(seed=1).as_default() as graph, vs.variable_scope("model"):
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


@pytest.mark.parametrize("storage", ["heap", "arena"])
@pytest.mark.parametrize("what", ["stamp", "graft"])
def test_an_interrupt_comes_before_or_after(what, storage):
    """At each place in turn at which Python looks for signals."""
    for at in range(100_000):
        with vs.Graph(seed=1, storage=storage).as_default() as graph, vs.variable_scope("model"):
            with vs.variable_scope("layer_0"):
                layer()
            before = everything(graph)
            if what == "stamp":
                result, places = interrupted(lambda: vs.stamp("layer_0", ["layer_1", "x"]), at)
            else:
                part = part_with_values()
                result, places = interrupted(functools.partial(graph.graft, part, "layer_1"), at)
            if len(graph) == len(before[0]["variables"]):
                assert everything(graph) == before, at
                assert isinstance(result, Interrupt)
            else:
                assert graph["model/layer_1/cut"].shape == (5,)
                assert len(graph.get_collection("kept")) == (3 if what == "stamp" else 2)
                if what == "graft":
                    assert graph["model/layer_1/w_1"].numpy().tolist() == [1, 2]
        if not isinstance(result, Interrupt):
            break
    assert places > 20


def test_what_a_failing_getter_has_stamped_is_withdrawn(model):
    def failing(getter, name, *args, **kwargs):
        with vs.variable_scope(vs.get_variable_scope(), custom_getter=None):
            first = getter(name + "_first", [2])
            vs.stamp("layer_0", ["layer_1", "layer_2"])
            model.graft(part_with_values(), "part")
            last = getter(name + "_last", [2])
        kept.extend([first, last, model["model/layer_1/w"], model["model/part/cut"]])
        raise OSError

    kept = []
    before = everything(model)
    with pytest.raises(OSError):
        vs.get_variable("v", [1], custom_getter=failing)
    assert everything(model)[0]["variables"] == before[0]["variables"]
    assert everything(model)[0]["collections"] == before[0]["collections"]
    assert everything(model)[2] == before[2]
    for variable in kept:
        with pytest.raises(errors.WithdrawnError):
            variable.numpy()
    vs.stamp("layer_0", ["layer_1", "layer_2"])
    assert model["model/layer_2/cut"].partitions == (2,)


def test_a_withdrawn_variable_before_others_moves_them(model):
    def failing(getter, name, *args, **kwargs):
        getter(name, *args, **kwargs)
        vs.stamp("layer_0", ["layer_1"])
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        raise OSError

    def elsewhere():
        with model.as_default():
            vs.stamp("model/layer_0", ["layer_2"])

    with pytest.raises(OSError):
        vs.get_variable("v", [1], custom_getter=failing)
    assert [v.path for v in model.find("model/layer_2/**")] == [
        f"model/layer_2/{name}" for name in ("head_1/w", "w", "cut/part_0", "cut/part_1")
    ]
    assert model["model/layer_2/w"].path == "model/layer_2/w"
    assert "model/layer_1/w" not in model and model["model/layer_2/w_1"].op_name.endswith("w_1")


def test_names_that_are_there_are_listed_and_nothing_is_declared(model):
    with vs.variable_scope("layer_2"):
        vs.get_variable("w", [2])
    before = everything(model)
    with pytest.raises(errors.NamesTakenError) as caught:
        vs.stamp("layer_0", [f"layer_{i}" for i in range(1, 9)])
    assert caught.value.names == ["model/layer_2/w"] and caught.value.site[0] == __file__
    assert "1 variable is there already" in str(caught.value)
    part = vs.Graph()
    with part.as_default():
        for i in range(12):
            vs.get_variable(f"v{i}", [1])
    model.graft(part, "many")
    before = everything(model)
    with pytest.raises(errors.VariableExistsError, match=r"(?s)12 .*and 2 more") as caught:
        model.graft(part, "many")
    assert caught.value.names == [f"model/many/v{i}" for i in range(12)]
    assert everything(model) == before


def test_a_variable_in_parts_of_the_path_of_the_scope_is_none_of_it(model):
    vs.get_variable("layer_0", [4], partitioner=vs.fixed_size_partitioner(2))
    vs.stamp("layer_0", ["layer_1"])
    assert "model/layer_0/part_0" in model and "model/layer_1/part_0" not in model
    assert [v.path for v in model.find("model/layer_1/**")] == [
        f"model/layer_1/{name}" for name in ("head_1/w", "w", "cut/part_0", "cut/part_1")
    ]


@pytest.mark.parametrize("collected", ["x", "shard", "loss"])
def test_entries_of_collections_stay_in_their_places_beside_shards(collected):
    def built(inside):
        x = vs.get_variable("x", [1])
        if inside and collected != "x":  # nothing that copies have
            x = next(iter(vs.get_default_graph()["a"]))
            x = vs.RegularizationLoss(x, vs.l2_regularizer(0.5)) if collected == "loss" else x
        if inside or collected == "x":
            vs.get_default_graph().add_to_collection("mine", x)
        vs.get_variable("y", [1], collections=["mine"])

    graphs = vs.Graph(), vs.Graph()
    for graph in graphs:
        with graph.as_default():
            vs.get_variable("a", [6], partitioner=vs.fixed_size_partitioner(3))
            with vs.variable_scope("a"):
                built(inside=True)
            if graph is graphs[0]:
                vs.stamp("a", into=["b"])
            else:
                with vs.variable_scope("b"):
                    built(inside=False)
    stamped, looped = ([entry.name for entry in g.get_collection("mine")] for g in graphs)
    assert stamped == looped


PATHS = [f"{scope}/{name}" for scope in ("s/a", "s/b", "s/c", "s", "other") for name in "uvw"]


@example(["s/a/u", "s/a/v", "s/b/u", "s/b/v", "other/u", "s/b/w", "s/c/u", "s/c/v"])
@given(st.lists(st.sampled_from(PATHS), unique=True))
@settings(max_examples=60, deadline=None)
def test_variables_may_be_created_in_any_order(paths):
    """Also scopes that begin alike, and then something stands between."""
    paths = [*paths, "s/d/u"]
    graph = vs.Graph()
    with graph.as_default():
        for path in paths:
            vs.get_variable(path, [1])
        vs.stamp("s", into=["t"])
    expected = [*paths, *(f"t{path[1:]}" for path in paths if path.startswith("s/"))]
    for same in (graph, pickle.loads(pickle.dumps(graph))):
        assert list(same) == expected
        assert all(same[path].path == path for path in expected)


def test_names_in_parts_clash_too(model):
    vs.get_variable("a/cut", [5])
    vs.get_variable("b/head_1", [5], partitioner=vs.fixed_size_partitioner(2))
    vs.get_variable("c/w", [4], partitioner=vs.fixed_size_partitioner(2))
    for name, names in {"a": ["model/a/cut"], "c": ["model/c/w"]}.items():
        with pytest.raises(errors.NamesTakenError) as caught:
            vs.stamp("layer_0", [name])
        assert caught.value.names == names
    vs.stamp("layer_0", ["b"])
    assert model["model/b/head_1"].partitions == (2,) and "model/b/head_1/w" in model


def test_reuse_shares_what_is_there(model):
    here = vs.get_variable_scope()
    with vs.variable_scope(here, reuse=True), pytest.raises(errors.VariableMissingError) as caught:
        vs.stamp("layer_0", ["layer_1"])
    assert caught.value.name == "model/layer_1/head_1/w" and "layer_1" not in model
    vs.stamp("layer_0", ["layer_1"])
    names = list(model)
    with vs.variable_scope(here, reuse=True):
        vs.stamp("layer_0", ["layer_1"])
        assert list(model) == names
    with vs.variable_scope(here, reuse=vs.AUTO_REUSE):
        v = vs.get_variable("layer_2/w", [2])
        vs.stamp("layer_0", ["layer_1", "layer_2"])
        assert len(model) == len(names) + 4 and vs.get_variable("layer_2/w", [2]) is v
        assert [w.path for w in model.variables][-4:] == [
            f"model/layer_2/{name}" for name in ("w", "head_1/w", "cut/part_0", "cut/part_1")
        ]
        vs.get_variable("layer_4/w", [3])
        with pytest.raises(errors.ShapeMismatchError):
            vs.stamp("layer_0", ["layer_4"])
        vs.get_variable("layer_5/w", [2], dtype="float64")
        with pytest.raises(errors.DTypeMismatchError):
            vs.stamp("layer_0", ["layer_5"])


def test_threads_create_beside_stamps_and_grafts():
    part = part_with_values()
    with vs.Graph(seed=1).as_default() as graph, vs.variable_scope("model/layer_0"):
        layer()
    raised = []

    def work(number):
        with graph.as_default():
            for turn in range(20):
                try:
                    if number % 3 == 0:
                        vs.stamp("model/layer_0", [f"t_{turn}", f"u_{number}_{turn}"])
                    elif number % 3 == 1:
                        graph.graft(part, f"g_{turn}")
                    else:
                        with vs.variable_scope(f"model/t_{turn}", reuse=vs.AUTO_REUSE):
                            vs.get_variable("w", [2])
                except errors.VariableExistsError:
                    raised.append(number)
                except BaseException as error:
                    raised.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(number, int) for number in raised), raised
    names = list(graph)
    assert len(set(names)) == len(names)
    for turn in range(20):
        assert graph[f"g_{turn}/cut"].numpy().shape == (5,)
    assert len(pickle.loads(pickle.dumps(graph))) == len(graph)


# --- in worker processes -------------------------------------------------------------------------

# Later versions of Python say so where other threads run.
forking = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def tower(width, values=False):
    layer()
    with vs.variable_scope(None, "dense"):
        for i in range(width):
            vs.get_variable(f"w_{i}", [2, i + 1])
    w = vs.get_variable("read", [3])
    if values:
        w.initialize()
    vs.add_to_collection("notes", f"{width} wide")


def failing_tower():
    vs.get_variable("w", [2])
    raise OSError("no such tower")


def tower_elsewhere():
    with vs.variable_scope(vs.get_variable_scope()):
        vs.get_variable("w", [2])
    with vs.Graph().as_default(), vs.variable_scope("far") as far:
        pass
    with vs.variable_scope(far):
        vs.get_variable("away", [2])


@forking
@pytest.mark.parametrize("under", ["tower", "tower_4", ""])
def test_worker_processes_build_what_calls_would(under):
    builders = {under: functools.partial(tower, 2)}
    if under:
        builders["other"] = functools.partial(tower, 3, values=True)
    whole, built = vs.Graph(seed=5), vs.Graph(seed=5)
    defaults = {"initializer": vs.ones, "dtype": "float64"}
    with whole.as_default(), vs.variable_scope("model", **defaults):
        for name, builder in builders.items():
            with vs.variable_scope(name):
                builder()
    with built.as_default(), vs.variable_scope("model", **defaults):
        built.build(builders, processes=2)
    if under:
        assert built["model/other/read"].initialized
        assert built["model/other/w_1"].dtype == "float64"
        assert built.get_collection("notes") == ["2 wide", "3 wide"]
    alike(whole, built)


@forking
def test_a_builder_that_fails_leaves_the_graph_as_it_was(model):
    before = everything(model)
    with pytest.raises(OSError, match="no such tower") as caught:
        model.build({"a": layer, "b": failing_tower}, processes=1)
    assert "'b'" in caught.value.__notes__[0]
    with pytest.raises(errors.ArgumentValueError, match="'far/away'"):
        model.build({"a": layer, "b": tower_elsewhere}, processes=1)
    with pytest.raises(errors.NamesTakenError):
        model.build({"a": layer, "layer_0": layer}, processes=1)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        model.build({"a": lambda: None}, processes=1)
    assert everything(model) == before
    model.build({})
    assert everything(model) == before


@pytest.mark.parametrize(
    ("builders", "processes"),
    [
        ([layer], 1),
        ({1: layer}, 1),
        ({"a": 1}, 1),
        ({"a": layer}, 0),
        ({"a": layer}, True),
        ({"a": layer}, 1.5),
        ({"a": layer, "a/b": layer}, 1),
        ({"": layer, "b": layer}, 1),
    ],
)
def test_what_cannot_be_built_is_an_error_that_shows_it(builders, processes, model):
    with pytest.raises((TypeError, ValueError), match="must be"):
        model.build(builders, processes=processes)


def test_worker_processes_may_be_spawned(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(SPAWNING)
    subprocess.run([sys.executable, program], check=True)


SPAWNING = """
import multiprocessing
import numpy as np
import varscope as vs

def tower():
    vs.get_variable("w", [2], initializer=vs.ones)

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    graph = vs.Graph()
    graph.build({"a": tower, "b": tower}, processes=np.int64(1))
    assert list(graph) == ["a/w", "b/w"]
"""


@forking
def test_a_pool_of_ones_own_and_graft(model):
    """What `build` does for those who have an executor already."""
    with concurrent.futures.ProcessPoolExecutor(1) as executor:
        part = executor.submit(built_apart).result()
    model.graft(part, under="tower")
    assert model["model/tower/w_1"].graph is model


def built_apart():
    with vs.Graph().as_default() as part:
        layer()
    return part
