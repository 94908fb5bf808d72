"""`substitute`: what is found and created is as ever; what is returned stands in a mapping."""

import asyncio
import collections
import contextvars
import pickle
import threading
import types

import numpy as np
import pytest
from hypothesis import example, given, settings
from snapshots import snap
from test_generating import BODIES, build, seen

import varscope as vs
from varscope import errors
from varscope.partitioned import find_partitioned


def array(*shape, dtype="float32"):
    return np.full(shape, 7, dtype)


# --- what is returned ----------------------------------------------------------------------------


def test_an_entry_is_returned_in_place_of_the_variable():
    entry = array(2)
    with vs.substitute({"a/w": entry}), vs.variable_scope("a"):
        assert vs.get_variable("w", [2]) is entry
        b = vs.get_variable("b", [2])  # which the mapping lacks
    assert isinstance(b, vs.Variable)
    graph = vs.get_default_graph()
    assert [v.path for v in graph.variables] == ["a/w", "a/b"]
    assert not graph["a/w"].initialized  # nothing was written, and nothing made
    with vs.variable_scope("a", reuse=True):
        assert vs.get_variable("w") is graph["a/w"]


def test_all_ways_to_ask_give_the_entry():
    entry = array(2)
    with vs.substitute({"a/w": entry, "a/t": entry, "steps": array(dtype="int64")}):
        with vs.variable_scope("a") as scope:
            found = [vs.get_variable("w", [2])]
        with vs.variable_scope("a", reuse=True):
            found += [vs.get_variable("w"), vs.get_variable("w", shape=[2])]
            found += [vs.get_variable("w", [2], dtype="float32", initializer=vs.ones)]
        scope.reuse_variables()
        found += [scope.get_variable("w"), scope.get_variable("w", [None])]
        with vs.variable_scope(scope):
            found += [vs.get_variable("w")]
        assert all(one is entry for one in found)
        assert vs.get_local_variable("steps", [], "int64").dtype == "int64"
        template = vs.make_template("a", lambda: vs.get_variable("t", [2]))
        assert template() is template() is not None


def test_a_custom_getter_gets_the_entry():
    def doubled(getter, *args, **kwargs):
        return 2 * getter(*args, **kwargs)

    with vs.substitute({"a/w": array(2)}), vs.variable_scope("a", custom_getter=doubled):
        assert vs.get_variable("w", [2]).tolist() == [14, 14]


def test_a_variable_in_parts_is_one_entry():
    whole = array(6, 2)
    with vs.substitute({"table": whole}):
        cut = vs.fixed_size_partitioner(3)
        assert vs.get_variable("table", [6, 2], partitioner=cut) is whole
    assert len(vs.global_variables()) == 3


def test_any_mapping_will_do():
    made = []

    class Lazy(collections.abc.Mapping):
        def __getitem__(self, path):
            made.append(path)
            return array(2)

        def __iter__(self):
            return iter(())

        def __len__(self):
            return 0

    entries = types.MappingProxyType({"w": array(3)})
    with vs.substitute(Lazy()) as lazy, vs.substitute(entries):
        assert isinstance(lazy, Lazy)
        assert vs.get_variable("w", [3]).shape == (3,)
        assert vs.get_variable("v", [2]).shape == (2,)
    assert made == ["v"]


def test_the_inner_one_counts_and_what_it_lacks_comes_from_outside():
    outer = {"w": array(2), "b": array(2)}
    inner = {"w": array(2)}
    with vs.variable_scope("", reuse=vs.AUTO_REUSE):
        with vs.substitute(outer):
            with vs.substitute(inner):
                assert vs.get_variable("w", [2]) is inner["w"]
                assert vs.get_variable("b", [2]) is outer["b"]
            assert vs.get_variable("w", [2]) is outer["w"]
        assert isinstance(vs.get_variable("w", [2]), vs.Variable)


def test_one_may_be_entered_again_also_while_it_is_open():
    again = vs.substitute({"w": array(2)})
    with again, again:
        vs.get_variable("w", [2])
    with again, vs.variable_scope("", reuse=True):
        assert isinstance(vs.get_variable("w"), np.ndarray)
    with vs.variable_scope("", reuse=True):
        assert isinstance(vs.get_variable("w"), vs.Variable)


def test_losses_are_those_of_the_entries():
    with vs.variable_scope("a", regularizer=vs.l2_regularizer(0.5)):
        vs.get_variable("w", [2], initializer=vs.ones)
        vs.get_variable("cut", [4], initializer=vs.ones, partitioner=vs.fixed_size_partitioner(2))
    assert vs.get_regularization_loss() == 0.5 * (1 + 2)
    with vs.substitute({"a/w": array(2), "a/cut": array(4)}):
        assert vs.get_regularization_loss() == 0.5 * 49 * 3
    assert vs.get_regularization_loss() == 0.5 * (1 + 2)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        (array(3), errors.ShapeMismatchError, r"variable a/w has shape \(2,\), and \(3,\) was"),
        (array(2, dtype="int32"), errors.DTypeMismatchError, "has dtype float32, and int32 was"),
        (7.0, errors.ArgumentTypeError, "variable a/w must be an array with a shape and a dtype"),
        ([1.0, 2.0], errors.ArgumentTypeError, "not list"),
    ],
)
def test_an_entry_that_does_not_fit_takes_back_what_was_created(entry, error, message):
    with vs.variable_scope("a", auxiliary_name_scope=False), vs.substitute({"a/w": entry}):
        before = snap(vs.get_default_graph())
        with pytest.raises(error, match=message):
            vs.get_variable("w", [2])
        assert snap(vs.get_default_graph()) == before
        with pytest.raises(error, match=message):  # the like of it was asked for before
            vs.get_variable("w", [2])
        assert vs.get_variable("v", [2]).path == "a/v"
        with pytest.raises(error, match=message):
            vs.get_variable("w", [2])
    assert [v.path for v in vs.get_default_graph().variables] == ["a/v"]
    with vs.variable_scope("a", auxiliary_name_scope=False):
        assert vs.get_variable("w", [2]).name == "a/w:0"


def test_a_variable_that_was_there_stays():
    w = vs.get_variable("w", [2])
    with (
        vs.substitute({"w": array(3)}),
        vs.variable_scope("", reuse=True),
        pytest.raises(errors.ShapeMismatchError),
    ):
        vs.get_variable("w")
    assert vs.get_default_graph()["w"] is w


def test_what_is_asked_for_is_checked_as_ever():
    with vs.substitute({"w": array(2)}):
        with vs.variable_scope("", reuse=True), pytest.raises(errors.VariableMissingError):
            vs.get_variable("w", [2])
        vs.get_variable("w", [2])
        with pytest.raises(errors.VariableExistsError):
            vs.get_variable("w", [2])
        with vs.variable_scope("", reuse=True):
            with pytest.raises(errors.ShapeMismatchError):
                vs.get_variable("w", [3])
            with pytest.raises(errors.DTypeMismatchError):
                vs.get_variable("w", [2], "int32")


@pytest.mark.parametrize("mapping", [None, [("w", 1)], "w", 3])
def test_what_is_no_mapping_is_refused(mapping):
    with pytest.raises(errors.ArgumentTypeError, match="mapping must be a dict of paths"):
        vs.substitute(mapping)


def test_a_dtype_that_numpy_lacks_does_not_fit():
    class Odd:
        shape, dtype = (2,), "quantum8"

    with vs.substitute({"w": Odd()}), pytest.raises(errors.DTypeMismatchError, match="quantum8"):
        vs.get_variable("w", [2])


# --- who sees it ---------------------------------------------------------------------------------


def test_other_threads_do_not():
    found = []

    def ask():
        with vs.Graph().as_default():
            found.append(vs.get_variable("w", [2]))

    with vs.substitute({"w": array(2)}):
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert isinstance(found[0], vs.Variable)


def test_tasks_have_that_of_whoever_started_them():
    async def ask(name):
        with vs.substitute({name: array(2)}):
            await asyncio.sleep(0)
            inside = vs.get_variable(name, [2])
        with vs.variable_scope("", reuse=True):
            return inside, vs.get_variable(name), vs.get_variable("outer")

    async def main():
        return await asyncio.gather(*(ask(name) for name in "abc"))

    vs.get_variable("outer", [1])
    graph = vs.get_default_graph()
    with vs.substitute({"outer": array(1)}), graph.as_default():
        for inside, plain, outer in asyncio.run(main()):
            assert isinstance(inside, np.ndarray)
            assert isinstance(plain, vs.Variable)
            assert isinstance(outer, np.ndarray)


def test_a_generator_that_is_dropped_leaves_nothing_open():
    def asking():
        with vs.substitute({"w": array(2)}):
            yield

    generator = asking()
    next(generator)
    generator.close()
    assert isinstance(vs.get_variable("w", [2]), vs.Variable)


def test_one_that_is_closed_out_of_order_is_reported_and_gone():
    first, second = vs.substitute({"w": array(2)}), vs.substitute({})
    first.__enter__()
    second.__enter__()
    with pytest.raises(errors.ScopeOrderError, match="a substitute was closed while another one"):
        first.__exit__(None, None, None)
    assert isinstance(vs.get_variable("w", [2]), vs.Variable)
    second.__exit__(None, None, None)
    with pytest.raises(errors.ScopeOrderError, match="is not open in this thread or task"):
        second.__exit__(None, None, None)


def test_one_that_is_not_closed_here_leaves_those_that_are_open():
    context, elsewhere = contextvars.copy_context(), vs.substitute({"w": array(2)})

    def asking():
        with elsewhere:
            while True:
                yield vs.get_variable("w", [2])

    generator = asking()
    assert isinstance(context.run(next, generator), np.ndarray)
    with vs.substitute({"v": array(2)}), vs.variable_scope("", reuse=vs.AUTO_REUSE):
        with pytest.raises(errors.ScopeOrderError, match="is not open in this thread or task"):
            generator.close()
        assert isinstance(vs.get_variable("v", [2]), np.ndarray)
        assert isinstance(vs.get_variable("w", [2]), vs.Variable)
    context.run(elsewhere.__exit__, None, None, None)


def test_tasks_may_share_one():
    shared = vs.substitute({"w": array(2)})

    async def task(seconds):
        with shared, vs.variable_scope("", reuse=vs.AUTO_REUSE):
            await asyncio.sleep(seconds)
            assert isinstance(vs.get_variable("w", [2]), np.ndarray)
        with vs.variable_scope("", reuse=True):
            assert isinstance(vs.get_variable("w"), vs.Variable)

    async def main():
        await asyncio.gather(task(0.01), task(0.02), task(0))

    asyncio.run(main())


def test_what_a_getter_swallows_leaves_nothing_behind():
    def swallowing(getter, name, **arguments):
        try:
            return getter(name, **arguments)
        except errors.ShapeMismatchError:
            return None

    with vs.substitute({"w": array(3)}):
        assert vs.get_variable("w", [2], custom_getter=swallowing) is None
    assert len(vs.get_default_graph()) == 0


@pytest.mark.parametrize("shape", [(), (2,)])
def test_an_entry_is_held_against_the_variable_that_is_there(shape):
    """Not against what the like of the request has made before."""
    with vs.variable_scope("s", reuse=vs.AUTO_REUSE, initializer=5.0):
        vs.get_variable("w", [2], initializer=vs.zeros)
        vs.get_variable("a")  # a scalar, of the scope's initializer
        with vs.substitute({"s/w": array(*shape)}):
            if shape:
                assert isinstance(vs.get_variable("w"), np.ndarray)
                return
            with pytest.raises(errors.ShapeMismatchError):
                vs.get_variable("w")


class Odd:
    def __init__(self, shape, dtype):
        self.shape, self.dtype = shape, dtype


@pytest.mark.parametrize(
    "entry",
    [
        Odd(np.array([2]), np.dtype("float32")),
        Odd([2], np.float32),
        Odd((2,), types.SimpleNamespace(as_numpy_dtype=np.float32)),
    ],
)
def test_what_shapes_and_dtypes_of_other_libraries_may_be(entry):
    with vs.substitute({"w": entry, "v": entry}):
        assert vs.get_variable("w", [2]) is entry
        assert vs.get_variable("v", [2]) is entry


# --- laws ----------------------------------------------------------------------------------------


class Everything(dict):
    """An entry for whatever is asked for, of the variable in this graph."""

    def __missing__(self, path):
        graph = vs.get_default_graph()
        variable = find_partitioned(graph, path) or graph._find(path)  # graph[path]: by op name
        self[path] = np.zeros(variable.shape, variable.dtype)
        return self[path]


def run(body, mapping):
    with vs.Graph(seed=3).as_default() as graph:
        kept = []
        with vs.variable_scope("model"):
            if mapping is None:
                build(body, kept)
            else:
                with vs.substitute(mapping):
                    build(body, kept)
        return graph, kept


@example([("open", "a", [("parts", "part_0", 1)]), ("parts", "a", 1)])
@example([("open", "a", []), ("variable", "a", 0), ("variable", "a_1", 1)])
@given(BODIES)
@settings(max_examples=60, deadline=None)
def test_a_graph_does_not_depend_on_what_stands_for_its_variables(body):
    body = without_collections(body)
    plain, variables = run(body, None)
    empty, same = run(body, {})
    everything = Everything()
    filled, entries = run(body, everything)
    quick, again = run(body, dict(everything))  # of a plain dict the core looks entries up
    assert list(map(id, again)) == list(map(id, entries))
    assert seen(plain, ["model"]) == seen(empty, ["model"]) == seen(filled, ["model"])
    assert seen(quick, ["model"]) == seen(plain, ["model"])
    assert [v.path for v in variables] == [v.path for v in same]
    assert len(entries) == len(variables)
    assert all(isinstance(entry, np.ndarray) for entry in entries)
    assert [(e.shape, e.dtype) for e in entries] == [(v.shape, v.dtype) for v in variables]
    assert seen(pickle.loads(pickle.dumps(filled)), ["model"]) == seen(plain, ["model"])


def without_collections(body):
    """What is added to collections by hand is what `get_variable` returned: not the same here."""
    kept = []
    for kind, *rest in body:
        if kind == "collect":
            continue
        rest = [without_collections(part) if isinstance(part, list) else part for part in rest]
        kept.append((kind, *rest))
    return kept
