"""`vs.explain`: where a name and its settings come from, told without changing anything."""

import contextlib
import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshots import snap

import varscope as vs
from varscope._scopecore import open_frames


def everything(graph):
    """All that can be asked of a graph, and the scopes that are open in it."""
    return snap(graph), pickle.dumps(graph), open_frames()


def pieces(found):
    return [(piece.text, piece.given_by) for piece in found.pieces]


def givers(found):
    return {name: setting.given_by for name, setting in found.settings.items()}


LIBRARY = "the library's default"


# --- the path


def test_at_the_root_a_name_is_the_path_and_all_is_the_librarys():
    found = vs.explain("w")
    assert (found.path, found.op_name, found.name_scope, found.variable) == ("w", "w", "", None)
    assert pieces(found) == [("w", "the name that is asked for")]
    assert givers(found) == {
        **dict.fromkeys(givers(found), LIBRARY), "reuse": "no scope switches it on"
    }  # fmt: skip
    assert found.settings["dtype"].value == np.float32
    assert found.settings["initializer"].value is vs.get_variable("w", [2]).initializer
    assert (found.outcome, found.error) == ("create", None)


def test_each_scope_gives_its_piece():
    op = vs.name_scope("op")
    with vs.variable_scope("a/b"), vs.variable_scope(""), op, vs.variable_scope("c"):
        found = vs.explain("d/w")
    assert found.path == "a/b/c/d/w"
    assert pieces(found) == [
        ("a/b", "variable_scope('a/b')"),
        ("c", "variable_scope('c')"),
        ("d/w", "the name that is asked for"),
    ]


def test_a_default_name_says_why_it_has_its_suffix():
    with vs.variable_scope("a"):
        with vs.variable_scope(None, "layer"):
            first = vs.explain("w").pieces[1]
        with vs.variable_scope(None, "layer"):
            second = vs.explain("w").pieces[1]
        with vs.variable_scope(None, "x/y"):
            pass
        with vs.variable_scope(None, "x/y"):
            third = vs.explain("w").pieces[1]
    assert first == ("layer", "variable_scope(None, 'layer')", "")
    assert second[:2] == ("layer_1", "variable_scope(None, 'layer')")
    assert second.reason == (
        "the first of layer, layer_1, ... that was not opened in scope 'a' before"
    )
    assert third.text == "x/y_1" and "x/y, x/y_1, ..." in third.reason


def test_a_captured_scope_brings_its_whole_path():
    with vs.variable_scope("model"), vs.variable_scope("encoder", dtype="float64") as encoder:
        pass
    with vs.variable_scope("other", dtype="float16"), vs.variable_scope(encoder):
        found = vs.explain("w")
        with vs.variable_scope("inner"):
            below = vs.explain("w")
    captured = "variable_scope(<captured scope 'model/encoder'>)"
    assert pieces(found)[0] == ("model/encoder", captured)
    assert found.pieces[0].reason == "it is opened from anywhere, so 'other' is not before it"
    assert pieces(below)[:2] == [("model/encoder", captured), ("inner", "variable_scope('inner')")]
    for each in (found, below):
        assert each.settings["dtype"] == (np.float64, "captured scope 'model/encoder'")
        none = "the library's default, as captured scope 'model/encoder' sets none"
        assert givers(each)["regularizer"] == none
    with vs.variable_scope("") as root:
        pass
    with vs.variable_scope("a"), vs.variable_scope(root):
        assert pieces(vs.explain("w")) == [("w", "the name that is asked for")]


# --- settings


def test_a_default_is_of_the_nearest_scope_that_sets_it():
    l2 = vs.l2_regularizer(0.1)
    a = vs.variable_scope("a", dtype="float16", regularizer=l2)
    c = vs.variable_scope("c", initializer=vs.ones, dtype=np.float16, caching_device="cpu")
    with a, vs.variable_scope("b"), c:
        found = vs.explain("w")
        v = vs.get_variable("w", [2])
    told = givers(found)
    assert told["regularizer"] == "variable_scope('a', regularizer=...)"
    assert told["dtype"] == "variable_scope('c', dtype=...)"  # the same once more
    assert told["initializer"] == "variable_scope('c', initializer=...)"
    assert told["constraint"] == LIBRARY
    for name in ("dtype", "initializer", "regularizer", "caching_device", "constraint"):
        assert found.settings[name].value == getattr(v, name)


def test_what_is_set_on_an_open_scope():
    with vs.variable_scope("a", initializer=vs.ones) as scope:
        scope.set_dtype("float64")
        with vs.variable_scope("b") as inner, vs.name_scope("op"):
            inner.set_initializer(None)
            inner.set_constraint(abs)
            told = givers(vs.explain("w"))
    assert told["dtype"] == "set_dtype(...) on scope 'a'"
    assert told["initializer"] == f"{LIBRARY}, after set_initializer(None) on scope 'a/b'"
    assert told["constraint"] == "set_constraint(...) on scope 'a/b'"
    with vs.Graph().as_default():
        vs.get_variable_scope().set_initializer(np.ones(3))
        vs.get_variable_scope().set_dtype("float16")
        found = vs.explain("w")
        assert givers(found)["initializer"] == "set_initializer(...) on the root scope"
        assert found.settings["dtype"].given_by.startswith("the initializer, from set_init")
        assert found.settings["dtype"].value == np.float64
        assert found.answer == "get_variable creates it; write get_variable('w')"


def passing(getter, *args, **kwargs):
    return getter(*args, **kwargs)


def also(getter, *args, **kwargs):
    return getter(*args, **kwargs)


def test_custom_getters_are_told_one_around_the_other():
    c = vs.variable_scope("c", custom_getter=also)
    with vs.variable_scope("a", custom_getter=passing) as a, vs.variable_scope("b"), c:
        found = vs.explain("w")
    with vs.variable_scope(a, custom_getter=also):
        again = vs.explain("w")
    assert givers(found)["custom_getter"] == (
        "variable_scope('c', custom_getter=...), around it variable_scope('a', custom_getter=...)"
    )
    assert givers(again)["custom_getter"].endswith("around it that of captured scope 'a'")
    assert "custom getter may ask for something else" in str(found)


def test_who_switched_reuse_on_and_where():
    with vs.variable_scope("a", reuse=True), vs.variable_scope("b"):
        found = vs.explain("w")
    value, by = found.settings["reuse"]
    assert value is True and by.startswith("scope 'a', at ") and "test_explain.py:" in by
    with vs.variable_scope("a") as scope:
        scope.reuse_variables()
        assert givers(vs.explain("w"))["reuse"].startswith("scope 'a', at ")
        kept = pickle.loads(pickle.dumps(scope))
    with vs.variable_scope(kept):
        assert givers(vs.explain("w"))["reuse"] == "captured scope 'a'"


# --- what get_variable would do


def test_a_variable_that_is_there():
    with vs.variable_scope("a"):
        v = vs.get_variable("w", [2, 3])
        found = vs.explain("w")
    assert found.variable is v and found.outcome == "raise"
    assert isinstance(found.error, vs.errors.VariableExistsError)
    assert str(found.error) in found.answer
    assert any("float32[2, 3], created at" in note for note in found.notes)
    assert not v.initialized
    with vs.variable_scope("a", reuse=True):
        found = vs.explain("w")
        assert (found.outcome, found.error) == ("share", None)
        assert found.answer == "get_variable shares it; write get_variable('w')"
    with vs.variable_scope("a", reuse=True, dtype="float16"):
        assert isinstance(vs.explain("w").error, vs.errors.DTypeMismatchError)


def test_a_name_that_is_elsewhere_is_pointed_to():
    with vs.variable_scope("a"):
        v = vs.get_variable("w", [2])
        found = vs.explain("a/w")
    assert found.path == "a/a/w" and found.outcome == "create"
    assert any("full path 'a/w' is there" in note for note in found.notes)
    assert vs.explain("a/w").variable is v


def test_a_variable_that_needs_an_initializer():
    with vs.variable_scope("a", dtype="complex64"):
        found = vs.explain("w")
    assert found.settings["initializer"].value is None
    assert "initializer=varscope.zeros" in found.answer


def test_what_is_substituted():
    with vs.variable_scope("a"), vs.substitute({"a/w": np.zeros(2, "f4")}):
        assert "varscope.substitute is open" in str(vs.explain("w"))
    assert "varscope.substitute" not in str(vs.explain("a/w"))


def test_a_finalized_graph():
    vs.get_default_graph().finalize()
    assert isinstance(vs.explain("w").error, vs.errors.FinalizedGraphError)


def test_parts():
    cut = vs.fixed_size_partitioner(2)
    v = vs.get_variable("v", [5, 2], partitioner=cut)
    assert isinstance(vs.explain("v").error, vs.errors.PartitionMismatchError)
    asked = []

    def partitioner(shape, dtype):
        asked.append(shape)
        return [2, 1]

    with vs.variable_scope("", reuse=vs.AUTO_REUSE, partitioner=partitioner):
        found, new = vs.explain("v"), vs.explain("new")
    assert found.variable is v and found.outcome == "share"
    assert new.outcome == "create" and "the partitioner is asked" in str(new)
    assert asked == []
    part = vs.explain(v[1])
    assert pieces(part)[0][0] == "v" and part.pieces[1].reason == "it cuts (5, 2) into [2, 1]"
    assert vs.explain(v).settings["shape"].value == (5, 2)
    assert "in parts [2, 1]" in str(vs.explain(v))


def test_a_variable_tells_how_it_is_called():
    with vs.variable_scope("b"):
        pass
    v = vs.get_variable("b", [1], dtype="int8", trainable=False)
    found = vs.explain(v)
    assert (found.path, found.op_name, found.outcome) == ("b", "b_1", "there")
    assert "the op name 'b' was taken before" in str(found)
    assert found.settings["dtype"].value == np.int8 and not found.settings["trainable"].value
    assert "test_explain.py" in found.pieces[0].given_by
    with vs.Graph().as_default():
        assert "in its graph" in vs.explain(v).answer


@pytest.mark.parametrize("name", [["w"], None, 5, b"w"])
def test_a_name_is_text_or_a_variable(refused, name):
    with refused(vs.errors.ArgumentTypeError, "a str or a Variable"):
        vs.explain(name)


@pytest.mark.parametrize("name", ["", "a//b", "w:0", "/a", "_w"])
def test_a_name_that_cannot_be_is_refused_as_by_get_variable(refused, name):
    with refused(vs.errors.InvalidNameError) as ours:
        vs.explain(name)
    with refused(vs.errors.InvalidNameError) as theirs:
        vs.get_variable(name, [2])
    assert str(ours.value) == str(theirs.value)


def test_it_is_frozen_and_prints_a_table():
    with vs.variable_scope("model", dtype="float16"):
        found = vs.explain("w")
    with pytest.raises(AttributeError):
        found.path = "x"
    assert str(pickle.loads(pickle.dumps(found))) == str(copy.deepcopy(found)) == str(found)
    lines = str(found).splitlines()
    assert lines[0] == "get_variable('w') in scope 'model'"
    assert lines[-1] == found.answer
    assert repr(found) == str(found)
    assert any(line.split()[:2] == ["dtype", "float16"] for line in lines)


# --- laws: programs of scopes, variables and ops

NAMES = st.sampled_from(["a", "a_1", "a_2", "b", "b_1", "a/b", "a_1/b", "b/a_1", "model_7/a"])
REUSE = st.sampled_from([None, None, True, vs.AUTO_REUSE])


def blocks(inner):
    scope = st.tuples(st.just("scope"), NAMES, REUSE, st.booleans(), inner)
    default = st.tuples(st.just("default"), NAMES, st.none(), st.booleans(), inner)
    again = st.tuples(st.just("again"), st.integers(0, 5), REUSE, st.booleans(), inner)
    ops = st.tuples(st.just("ops"), NAMES, st.none(), st.booleans(), inner)
    return st.lists(STEPS | scope | default | again | ops, max_size=4)


STEPS = st.tuples(st.sampled_from(["get", "get", "get", "op", "reuse"]), NAMES)
PROGRAMS = st.recursive(st.lists(STEPS, max_size=3), blocks, max_leaves=12)


def run(program, kept, look):
    for step in program:
        kind, name = step[:2]
        if kind == "get":
            look(name)
        elif kind == "op":
            vs.get_default_graph().unique_name(name)
        elif kind == "reuse":
            if vs.get_variable_scope().name:
                vs.get_variable_scope().reuse_variables()
        else:
            with opened(step, kept) as scope:
                kept.append(scope)
                run(step[4], kept, look)


@contextlib.contextmanager
def opened(step, kept):
    kind, name, reuse, named, _ = step
    if kind == "ops":
        with vs.name_scope(name):
            yield vs.get_variable_scope()
        return
    scope, default = name, None
    if kind == "default":
        scope, default = None, name
    elif kind == "again":
        scope = kept[name % len(kept)] if kept else ""
    with vs.variable_scope(scope, default, reuse=reuse, auxiliary_name_scope=named) as inside:
        yield inside


@given(PROGRAMS)
def test_what_it_says_is_what_get_variable_does(program):
    def look(name):
        found = vs.explain(name)
        path = "/".join(piece.text for piece in found.pieces)
        assert path == found.path
        try:
            v = vs.get_variable(name, None if found.outcome == "share" else [2])
        except vs.errors.VarscopeError as error:
            assert found.outcome == "raise"
            assert type(error) is type(found.error) and str(error) == str(found.error)
            return
        assert (v.path, v.op_name) == (found.path, found.op_name)
        assert found.outcome == ("create" if found.variable is None else "share")
        assert found.variable in (None, v)
        told = vs.explain(v)
        assert (told.path, told.op_name, told.variable) == (v.path, v.op_name, v)

    with vs.Graph().as_default():
        run(program, [], look)


@given(PROGRAMS, NAMES)
def test_asking_changes_nothing(program, other):
    def look(name):
        graph = vs.get_default_graph()
        before = everything(graph)
        vs.explain(name)
        vs.explain(other)
        assert everything(graph) == before
        with contextlib.suppress(vs.errors.VarscopeError):
            vs.get_variable(name, [2])

    with vs.Graph(seed=1).as_default():
        run(program, [], look)


def test_looking_does_not_even_make_a_scope_of_the_root():
    assert [facts[0] for facts in open_frames()] == ["root"]
    graph = vs.get_default_graph()
    before = snap(graph)
    vs.explain("a_1/b_2/c")
    assert snap(graph) == before and len(graph) == 0
