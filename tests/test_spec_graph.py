"""SPEC section 6, graphs: names, ops, finding, copying, and what is freed."""

import collections.abc
import copy
import inspect
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

import varscope as vs


@pytest.fixture
def graph():
    return vs.get_default_graph()


def create(name="v", shape=(2,), **options):
    options.setdefault("initializer", vs.zeros)
    return vs.get_variable(name, shape, **options)


# --- the default graph ---------------------------------------------------------------------------


def test_parameters_of_a_graph():
    parameters = inspect.signature(vs.Graph).parameters.values()
    assert [(p.name, p.default) for p in parameters] == [("seed", None), ("storage", None)]


def test_there_is_always_a_default_graph(graph):
    assert isinstance(graph, vs.Graph)
    assert vs.get_default_graph() is graph
    assert create().graph is graph


def test_as_default_makes_it_the_default_graph_inside(graph):
    one, two = vs.Graph(), vs.Graph()
    with one.as_default() as entered:
        assert vs.get_default_graph() is entered is one
        with two.as_default():
            assert vs.get_default_graph() is two
            assert create().graph is two
        assert vs.get_default_graph() is one
    assert vs.get_default_graph() is graph
    assert (len(one), len(two), len(graph)) == (0, 1, 0)


def test_as_default_is_left_on_an_exception_and_can_be_entered_again(graph):
    other = vs.Graph()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), other.as_default(), vs.variable_scope("foo"):
            raise KeyboardInterrupt
        assert vs.get_default_graph() is graph


def test_reset_default_graph_starts_an_empty_one(graph):
    create()
    vs.reset_default_graph()
    assert vs.get_default_graph() is not graph
    assert len(vs.get_default_graph()) == 0
    assert vs.global_variables() == []
    assert create().op_name == "v"
    assert len(graph) == 1


def test_reset_default_graph_inside_an_open_graph_or_scope_is_a_runtime_error(graph, refused):
    with vs.variable_scope("foo"), refused(RuntimeError):
        vs.reset_default_graph()
    with vs.Graph().as_default(), refused(RuntimeError):
        vs.reset_default_graph()
    with graph.as_default(), refused(RuntimeError):
        vs.reset_default_graph()
    assert vs.get_default_graph() is graph


# --- op names ------------------------------------------------------------------------------------


def test_unique_name_adds_suffixes(graph):
    assert [graph.unique_name("op") for _ in range(3)] == ["op", "op_1", "op_2"]
    assert graph.unique_name("other") == "other"


def test_unique_name_passes_over_what_is_taken(graph):
    for name in ("op", "op_1", "op_3"):
        assert graph.unique_name(name) == name
    assert [graph.unique_name("op") for _ in range(2)] == ["op_2", "op_4"]
    assert graph.unique_name("op_1") == "op_1_1"


def test_unique_name_is_below_the_current_name_scope(graph):
    with vs.name_scope("n"), vs.variable_scope("foo"):
        assert [graph.unique_name("op") for _ in range(2)] == ["n/foo/op", "n/foo/op_1"]
    assert graph.unique_name("op") == "op"


def test_unique_name_without_marking_it_as_used(graph):
    assert [graph.unique_name("op", mark_as_used=False) for _ in range(2)] == ["op", "op"]
    assert graph.unique_name("op") == "op"
    assert [graph.unique_name("op", mark_as_used=False) for _ in range(2)] == ["op_1", "op_1"]
    assert graph.unique_name("op") == "op_1"


def test_names_are_case_sensitive(graph):
    assert [graph.unique_name(name) for name in ("op", "Op", "OP", "op")] == [
        "op", "Op", "OP", "op_1",
    ]  # fmt: skip
    with vs.variable_scope("Foo") as upper, vs.variable_scope(None, "d"):
        pass
    with vs.variable_scope(None, "foo") as lower, vs.variable_scope(None, "D") as below:
        assert (upper.name, lower.name, below.name) == ("Foo", "foo", "foo/D")
        assert graph.get_name_scope() == "foo/D"
    assert create("w") is not create("W")
    assert "W" in graph and "w" in graph


def test_unique_name_passes_over_many_taken_names(graph):
    for i in range(1, 20_000):
        graph.unique_name(f"op_{i}")
    assert graph.unique_name("op") == "op"
    assert [graph.unique_name("op") for _ in range(3)] == ["op_20000", "op_20001", "op_20002"]


# --- name scopes ---------------------------------------------------------------------------------


def test_a_name_scope_is_made_unique_at_each_opening(graph):
    for expected in ("n", "n_1"):
        with vs.name_scope("n") as scope:
            assert (scope, graph.get_name_scope()) == (f"{expected}/", expected)
            with vs.name_scope("m") as deep:
                assert (deep, graph.get_name_scope()) == (f"{expected}/m/", f"{expected}/m")
    assert graph.get_name_scope() == ""


def test_a_name_that_ends_in_a_slash_enters_that_exact_scope_again(graph):
    with vs.name_scope("n"), vs.name_scope("m") as scope:
        graph.unique_name("op")
    with vs.name_scope("elsewhere"):
        for expected in ("n/m/op_1", "n/m/op_2"):
            with vs.name_scope(scope) as again:
                assert (again, graph.get_name_scope()) == ("n/m/", "n/m")
                assert graph.unique_name("op") == expected
        assert graph.get_name_scope() == "elsewhere"


@pytest.mark.parametrize("root", [None, ""])
def test_none_or_the_empty_string_returns_to_the_root(graph, root):
    with vs.name_scope("n"), vs.variable_scope("foo"):
        with vs.name_scope(root):
            assert graph.get_name_scope() == ""
            assert graph.unique_name("op") == "op"
            with vs.name_scope("deep"):
                assert graph.get_name_scope() == "deep"
        assert graph.get_name_scope() == "n/foo"


def test_a_name_scope_is_left_on_an_exception(graph):
    with vs.name_scope("n"):
        with pytest.raises(KeyboardInterrupt), vs.name_scope("m"), vs.name_scope(None):
            raise KeyboardInterrupt
        assert graph.get_name_scope() == "n"


def test_a_name_scope_changes_no_variable_scope(graph):
    with vs.variable_scope("foo"), vs.name_scope("n"):
        assert vs.get_variable_scope().name == "foo"
        with vs.variable_scope("bar") as bar:
            assert (bar.name, graph.get_name_scope()) == ("foo/bar", "foo/n/bar")


def test_variable_scopes_name_scopes_and_ops_share_one_set_of_names(graph):
    with vs.variable_scope("x"):
        pass
    with vs.name_scope("x") as scope:
        assert scope == "x_1/"
    assert graph.unique_name("x") == "x_2"
    with vs.variable_scope("x"):
        assert graph.get_name_scope() == "x_3"


# --- finalize ------------------------------------------------------------------------------------


def test_creation_in_a_finalized_graph_is_a_runtime_error(graph, refused):
    v = create()
    graph.finalize()
    with refused(RuntimeError, "finalized"):
        create("w")
    with vs.variable_scope("foo", reuse=vs.AUTO_REUSE), refused(RuntimeError, "finalized"):
        create("w")
    with vs.variable_scope("", reuse=True):
        assert create() is v
    v.assign([1, 2])
    assert v.numpy().tolist() == [1, 2]


# --- the variables of a graph --------------------------------------------------------------------


@pytest.fixture
def variables():
    with vs.variable_scope("foo"):
        return [create(name) for name in ("c", "a", "b", "deep/a")]


def test_variables_is_a_sequence_in_creation_order(graph, variables):
    found = graph.variables
    assert isinstance(found, collections.abc.Sequence)
    assert list(found) == variables
    assert len(found) == 4
    assert [found[i] for i in range(-4, 4)] == variables * 2
    assert list(found[1:3]) == variables[1:3]
    assert list(found[::-1]) == list(reversed(found)) == variables[::-1]
    assert variables[2] in found
    assert "foo/b" not in found
    assert found.index(variables[1]) == 1
    assert all(a is b for a, b in zip(found, variables, strict=True))


@pytest.mark.parametrize("index", [4, -5, 10**30])
def test_an_index_out_of_range_is_an_index_error(graph, variables, index):
    with pytest.raises(IndexError):
        graph.variables[index]


def test_variables_of_another_graph_are_not_in_the_sequence(graph, variables):
    with vs.Graph().as_default():
        assert create("c") not in graph.variables


def test_the_sequence_does_not_let_anybody_change_the_graph(graph, variables):
    with pytest.raises((TypeError, AttributeError)):
        graph.variables[0] = variables[1]
    with pytest.raises((TypeError, AttributeError)):
        graph.variables.append(variables[1])
    assert list(graph.variables) == variables


def test_len_in_and_item(graph, variables):
    assert len(graph) == 4
    assert "foo/a" in graph
    assert "foo/deep/a" in graph
    for absent in ("foo", "a", "foo/A", "foo/a/", "", "foo/a/b"):
        assert absent not in graph
    assert graph["foo/a"] is variables[1]


@pytest.mark.parametrize("absent", ["foo/z", "foo", "a b"])
def test_an_absent_name_is_a_key_error_that_shows_it(graph, variables, absent):
    with pytest.raises(KeyError) as caught:
        graph[absent]
    assert absent in str(caught.value)


def test_an_empty_graph(graph):
    assert (len(graph), list(graph.variables), graph.num_parameters, graph.nbytes) == (0, [], 0, 0)
    assert list(graph.find("**")) == []


def test_num_parameters_and_nbytes(graph):
    create("a", [2, 3])
    create("b", [], dtype="float64")
    create("c", [5, 0])
    create("d", 7, dtype="int8")
    vs.initialize()
    assert graph.num_parameters == 6 + 1 + 0 + 7
    assert graph.nbytes == 6 * 4 + 8 + 0 + 7


# --- find ----------------------------------------------------------------------------------------

NAMES = ["v", "enc/w", "enc/b", "enc/l1/w", "enc/l2/w", "enc/l10/w", "enc/l1/in/w", "encoder/w"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("v", ["v"]),
        ("enc/w", ["enc/w"]),
        ("enc", []),
        ("w", []),
        ("*", ["v"]),
        ("enc/*", ["enc/w", "enc/b"]),
        ("enc/*/w", ["enc/l1/w", "enc/l2/w", "enc/l10/w"]),
        ("enc/l*/w", ["enc/l1/w", "enc/l2/w", "enc/l10/w"]),
        ("enc/l?/w", ["enc/l1/w", "enc/l2/w"]),
        ("enc/l??/w", ["enc/l10/w"]),
        ("enc?l1/w", []),
        ("enc*/w", ["enc/w", "encoder/w"]),
        ("*/*/*", ["enc/l1/w", "enc/l2/w", "enc/l10/w"]),
        ("enc/*1*/w", ["enc/l1/w", "enc/l10/w"]),
        ("enc/*/*/w", ["enc/l1/in/w"]),
        ("**", NAMES),
        ("enc/**", [name for name in NAMES if name.startswith("enc/")]),
        ("ENC/w", []),
        ("enc.w", []),
        (re.compile("enc/.*w"), [n for n in NAMES if n.startswith("enc/") and n.endswith("w")]),
        (re.compile(r"enc/l\d/w"), ["enc/l1/w", "enc/l2/w"]),
        (re.compile("nothing"), []),
    ],
    ids=str,
)
def test_find_matches_components_or_a_compiled_regex(graph, pattern, names):
    for name in NAMES:
        create(name)
    assert [v.op_name for v in graph.find(pattern)] == names


def test_two_stars_stand_for_any_number_of_components(graph):
    for name in NAMES:
        create(name)
    below = [v.op_name for v in graph.find("enc/**/w")]
    deep = ["enc/l1/w", "enc/l2/w", "enc/l10/w", "enc/l1/in/w"]
    assert [name for name in below if name != "enc/w"] == deep
    assert {"enc/w", "enc/l1/in/w", "encoder/w"} <= {v.op_name for v in graph.find("**/w")}
    assert [v.op_name for v in graph.find("**/in/*")] == ["enc/l1/in/w"]
    assert [v.op_name for v in graph.find("**/l1/**")] == ["enc/l1/w", "enc/l1/in/w"]


# --- collections of a graph ----------------------------------------------------------------------


def test_anything_can_be_added_to_a_collection(graph):
    v, other, something = create("foo/v"), create("foo_pre/v"), object()
    for value in (something, v, other):
        graph.add_to_collection("mine", value)
    w = create("foo/w", collections=["mine"])
    assert graph.get_collection("mine") == vs.get_collection("mine") == [something, v, other, w]
    assert graph.get_collection("mine", scope="foo") == [v, w]
    assert graph.get_collection("mine", scope=re.compile("foo")) == [v, other, w]
    assert vs.Graph().get_collection("mine") == []


MEMORY_PROBE = """
import gc, resource, sys
import varscope as vs

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

with vs.variable_scope("captured") as captured:
    pass

def enter(times):
    for _ in range(times):
        with {opening}:
            pass
    gc.collect()
    return peak()

before = enter(20_000)
print(enter({times}) - before)
"""


@pytest.mark.parametrize(
    "opening",
    [
        "vs.variable_scope('foo')",
        "vs.variable_scope('a/b')",
        "vs.variable_scope(captured)",
        "vs.variable_scope(captured), vs.variable_scope(None, 'd', auxiliary_name_scope=False)",
        "vs.variable_scope('foo'), vs.variable_scope(None, 'd', auxiliary_name_scope=False)",
        "vs.name_scope('n')",
    ],
)
def test_entering_a_scope_again_and_again_leaves_memory_flat(opening):
    program = MEMORY_PROBE.format(opening=opening, times=300_000)
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 300_000


# --- copies --------------------------------------------------------------------------------------


def build_to_copy():
    graph = vs.Graph(seed=42)
    with graph.as_default():
        with vs.variable_scope("foo", initializer=vs.ones):
            vs.get_variable("z", [2, 3]).assign(np.full((2, 3), 7))
            vs.get_variable("a", [4], "int16", trainable=False).initialize()
        vs.get_variable("declared", [30])
        vs.get_variable("half", [2], collections=["mine"], initializer=vs.constant(0.5))
        vs.get_variable("array", initializer=np.arange(3))
        vs.get_local_variable("step", [], "int64")
        with vs.variable_scope("taken"):
            vs.get_variable("w", [])
        vs.get_variable("taken", [])
    graph.add_to_collection("mine", graph["foo/z"])
    return graph


COPIES = {
    "deepcopy": copy.deepcopy,
    **{
        f"protocol {n}": lambda graph, n=n: pickle.loads(pickle.dumps(graph, n))
        for n in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
}
each_copy = pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)


@each_copy
def test_copies_keep_names_order_values_collections_and_seed(duplicate):
    graph = build_to_copy()
    clone = duplicate(graph)
    assert isinstance(clone, vs.Graph) and clone is not graph
    assert clone.seed == 42
    assert [v.name for v in clone.variables] == [v.name for v in graph.variables]
    keys = [*(getattr(vs.GraphKeys, k) for k in dir(vs.GraphKeys) if k.isupper()), "mine"]
    for key in keys:
        originals, copies = graph.get_collection(key), clone.get_collection(key)
        assert [v.op_name for v in copies] == [v.op_name for v in originals]
        assert all(v in clone.variables for v in copies)
    names = [g.unique_name("taken", mark_as_used=False) for g in (graph, clone)]
    assert names[0] == names[1]
    assert [v.initialized for v in clone.variables] == [v.initialized for v in graph.variables]
    for v, w in zip(graph.variables, clone.variables, strict=True):
        assert (w.graph, w.shape, w.dtype, w.trainable) == (clone, v.shape, v.dtype, v.trainable)
        np.testing.assert_array_equal(w.numpy(), v.numpy())


@each_copy
def test_copies_are_independent(duplicate):
    graph = build_to_copy()
    clone = duplicate(graph)
    clone["foo/z"].assign(np.zeros((2, 3)))
    graph["half"].array[...] = 9
    with clone.as_default():
        create("only_in_the_clone")
        with vs.variable_scope("foo", reuse=True):
            assert vs.get_variable("z", [2, 3]) is clone["foo/z"]
    assert graph["foo/z"].numpy().tolist() == [[7] * 3] * 2
    assert clone["half"].numpy().tolist() == [0.5, 0.5]
    assert len(clone) == len(graph) + 1


@each_copy
def test_a_copy_goes_on_where_the_original_was(duplicate, refused):
    clone = duplicate(build_to_copy())
    with clone.as_default(), vs.variable_scope("foo"):
        with refused(ValueError, "foo/z", "already exists"):
            vs.get_variable("z", [2, 3])
        with vs.Graph(seed=42).as_default(), vs.variable_scope("foo"):
            expected = vs.get_variable("new", [20]).numpy()
        np.testing.assert_array_equal(vs.get_variable("new", [20]).numpy(), expected)


@each_copy
def test_a_copy_of_an_empty_graph_draws_no_new_seed(duplicate):
    graph = vs.Graph()
    assert duplicate(graph).seed == graph.seed
    assert len(duplicate(graph)) == 0


def test_deepcopy_takes_any_initializer():
    with vs.Graph().as_default() as graph:
        create("declared", initializer=lambda shape, dtype: np.full(shape, 3, dtype))
    assert copy.deepcopy(graph)["declared"].numpy().tolist() == [3, 3]


def test_a_graph_is_iterated_and_indexed_by_op_names():
    graph = vs.Graph()
    with graph.as_default():
        with vs.variable_scope("b"):
            pass
        first, second = vs.get_variable("b", [1]), vs.get_variable("b_1", [1])
    assert list(graph) == ["b_1", "b_1_1"]
    assert [graph[name] for name in graph] == [first, second]
    assert graph["b"] is first  # nobody has that op name: it can only mean the path
    assert graph.find("b_1") == [first]


def test_a_variable_that_was_withdrawn_can_still_be_looked_at():
    kept = []

    def failing(getter, name, *args, **kwargs):
        kept.append(getter(name, *args, **kwargs))
        raise OSError

    with pytest.raises(OSError):
        vs.get_variable("w", [2], custom_getter=failing)
    assert "withdrawn" in repr(kept[0])
    for use in (lambda v: v.name, lambda v: v.value(), lambda v: v.assign([1, 2])):
        with pytest.raises(RuntimeError, match="withdrawn"):
            use(kept[0])
    assert vs.get_variable("w", [2]) is not kept[0]


@each_copy
def test_what_lies_in_collections_finds_its_variables_in_a_copy(duplicate):
    graph = vs.Graph(seed=1)
    with graph.as_default(), vs.variable_scope("s", regularizer=vs.l2_regularizer(0.5)):
        v = vs.get_variable("v", [4], partitioner=vs.fixed_size_partitioner(2))
        w = vs.get_variable("w", [3])
        for loss in graph.get_regularization_losses():
            graph.add_to_collection("losses", loss)
        graph.add_to_collection("lists", {"all": [v, w, v[1]]})
    twin = duplicate(graph)
    (found,) = twin.get_collection("lists")
    assert found["all"][0] is twin["s/v"] and found["all"][1] is twin["s/w"]
    assert found["all"][2] is twin["s/v"][1]
    ours, theirs = graph.get_collection("losses"), twin.get_collection("losses")
    assert [loss.value() for loss in theirs] == [loss.value() for loss in ours]
    assert [loss.graph for loss in theirs] == [twin] * 2
    alone = pickle.loads(pickle.dumps(w))
    assert alone is alone.graph["s/w"] is alone.graph.get_collection("lists")[0]["all"][1]


def test_a_shallow_copy_of_a_graph_is_another_graph():
    graph = vs.Graph(seed=1)
    with graph.as_default():
        v = vs.get_variable("v", [3])
        graph.add_to_collection("mine", v)
    twin = copy.copy(graph)
    assert twin["v"] is not v and twin["v"].numpy().tolist() == v.numpy().tolist()
    assert twin.get_collection("mine") == [twin["v"]]
