"""SPEC section 3, VariableScope: properties, setters, sharing, comparing, pickling."""

import copy
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import varscope as vs


def capture(name, **options):
    with vs.variable_scope(name, **options) as scope:
        return scope


def create(name="v", shape=(2,), **options):
    return vs.get_variable(name, shape, **options)


def in_new_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def halve(value):
    return value * 0.5


def split_in_two(shape, dtype):
    return [2] + [1] * (len(shape) - 1)


def untrainable(getter, name, *args, **kwargs):
    kwargs["trainable"] = False
    return getter(name, *args, **kwargs)


DEFAULTS = {  # property: a value for it
    "initializer": vs.ones,
    "regularizer": halve,
    "caching_device": "cpu",
    "partitioner": split_in_two,
    "custom_getter": untrainable,
    "dtype": np.dtype("float64"),
    "constraint": halve,
}
each_default = pytest.mark.parametrize("which", DEFAULTS)


# --- properties ----------------------------------------------------------------------------------


def test_the_properties_of_a_fresh_scope():
    with vs.variable_scope("foo"), vs.variable_scope("bar") as scope:
        assert scope.name == "foo/bar"
        assert scope.reuse is False
        assert scope.original_name_scope == "foo/bar/"
        assert scope.dtype == np.float32
        for unset in set(DEFAULTS) - {"dtype"}:
            assert getattr(scope, unset) is None


@each_default
def test_what_is_passed_is_shown_and_stays_shown(which):
    with vs.variable_scope("foo", **{which: DEFAULTS[which]}) as scope:
        assert getattr(scope, which) == DEFAULTS[which]
        assert getattr(vs.get_variable_scope(), which) == DEFAULTS[which]
    assert getattr(scope, which) == DEFAULTS[which]


@each_default
def test_what_is_passed_is_inherited_by_sub_scopes(which):
    with vs.variable_scope("foo", **{which: DEFAULTS[which]}):
        with vs.variable_scope("bar"), vs.variable_scope(None, "d"), vs.variable_scope("") as deep:
            assert getattr(deep, which) == DEFAULTS[which]
        assert getattr(capture("bar"), which) == DEFAULTS[which]
    assert getattr(capture("beside"), which) == getattr(vs.get_variable_scope(), which)


@each_default
def test_what_is_passed_comes_back_with_the_captured_scope(which):
    captured = capture("foo", **{which: DEFAULTS[which]})
    with vs.variable_scope("x"), vs.variable_scope(captured) as again:
        assert getattr(again, which) == DEFAULTS[which]


OTHERS = {
    "initializer": vs.zeros,
    "regularizer": vs.no_regularizer,
    "caching_device": "",
    "partitioner": lambda shape, dtype: [1],
    "dtype": np.dtype("int8"),
    "constraint": np.abs,
}


@pytest.mark.parametrize("which", OTHERS)
def test_what_a_sub_scope_is_given_overrides_what_it_inherits(which):
    with vs.variable_scope("foo", **{which: DEFAULTS[which]}) as foo:
        with vs.variable_scope("bar", **{which: OTHERS[which]}) as bar:
            assert getattr(bar, which) == OTHERS[which]
        assert getattr(foo, which) == DEFAULTS[which]


@pytest.mark.parametrize("read_only", ["name", "reuse", "original_name_scope", *DEFAULTS])
def test_properties_are_set_by_their_methods_only(read_only):
    scope = capture("foo")
    before = getattr(scope, read_only)
    with pytest.raises(AttributeError):
        setattr(scope, read_only, DEFAULTS.get(read_only, "other"))
    assert getattr(scope, read_only) == before


# --- accepted here, used later -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "off"), [("regularizer", vs.no_regularizer), ("caching_device", "")]
)
@pytest.mark.parametrize("where", ["scope", "setter", "argument"])
def test_what_is_switched_off_is_not_used(which, off, where):
    outer = vs.variable_scope("foo", **{which: DEFAULTS[which]})
    inner = vs.variable_scope("bar", **{which: off} if where == "scope" else {})
    with outer, inner as scope:
        if where == "setter":
            getattr(scope, f"set_{which}")(off)
        v = create(**{which: off} if where == "argument" else {})
    assert v.name == "foo/bar/v:0"
    assert v.regularizer is None


@pytest.mark.parametrize("which", ["regularizer", "caching_device"])
def test_reuse_makes_no_new_variable_and_so_uses_none_of_them(which):
    v = create()
    with vs.variable_scope("", reuse=True, **{which: DEFAULTS[which]}):
        assert create() is v


# --- reuse_variables and the setters -------------------------------------------------------------


def test_reuse_variables_acts_on_the_open_scope():
    with vs.variable_scope("foo") as scope:
        v = create()
        scope.reuse_variables()
        assert scope.reuse is vs.get_variable_scope().reuse is True
        assert create() is v


def test_get_variable_scope_is_the_open_scope_itself():
    with vs.variable_scope("foo") as scope:
        vs.get_variable_scope().reuse_variables()
        vs.get_variable_scope().set_dtype("float64")
        assert (scope.reuse, scope.dtype) == (True, np.float64)


@each_default
def test_a_setter_acts_on_the_open_scope(which):
    with vs.variable_scope("foo") as scope:
        getattr(scope, f"set_{which}")(DEFAULTS[which])
        assert getattr(scope, which) == DEFAULTS[which]
        assert getattr(vs.get_variable_scope(), which) == DEFAULTS[which]
        with vs.variable_scope("bar") as bar:
            assert getattr(bar, which) == DEFAULTS[which]


@each_default
def test_a_setter_acts_on_an_open_scope_and_not_on_those_opened_inside(which):
    with vs.variable_scope("foo") as foo:
        before = getattr(foo, which)
        with vs.variable_scope("bar") as bar:
            getattr(foo, f"set_{which}")(DEFAULTS[which])
            foo.reuse_variables()
            for scope in (bar, vs.get_variable_scope()):
                assert (getattr(scope, which), scope.reuse) == (before, False)
        for scope in (foo, vs.get_variable_scope(), capture("later")):
            assert (getattr(scope, which), scope.reuse) == (DEFAULTS[which], True)


def test_what_setters_set_is_what_get_variable_uses():
    with vs.variable_scope("foo") as scope:
        scope.set_initializer(vs.ones)
        scope.set_dtype("float64")
        scope.set_constraint(halve)
        scope.set_custom_getter(untrainable)
        v = create()
    assert v.numpy().tolist() == [1, 1]
    assert (v.dtype, v.constraint, v.trainable) == (np.float64, halve, False)


@each_default
@pytest.mark.parametrize("when", ["open", "closed"])
def test_a_setter_acts_on_every_later_opening_of_the_captured_object(which, when):
    with vs.variable_scope("foo") as scope:
        if when == "open":
            getattr(scope, f"set_{which}")(DEFAULTS[which])
    if when == "closed":
        getattr(scope, f"set_{which}")(DEFAULTS[which])
    for _ in range(2):
        with vs.variable_scope(scope) as again:
            assert getattr(again, which) == DEFAULTS[which]


@pytest.mark.parametrize("when", ["open", "closed"])
def test_reuse_variables_acts_on_every_later_opening_of_the_captured_object(when):
    with vs.variable_scope("foo") as scope:
        v = create()
        if when == "open":
            scope.reuse_variables()
    if when == "closed":
        scope.reuse_variables()
    for _ in range(2):
        with vs.variable_scope(scope) as again:
            assert again.reuse is True
            assert create() is v


@each_default
def test_a_setter_never_acts_on_other_openings_of_the_same_path(which):
    with vs.variable_scope("foo") as first:
        before = getattr(first, which)
    with vs.variable_scope("foo") as second:
        pass
    with vs.variable_scope(first) as again, vs.variable_scope(again) as nested:
        getattr(again, f"set_{which}")(DEFAULTS[which])
        assert getattr(nested, which) == before
    for scope in (first, second, capture("foo"), capture(first)):
        assert getattr(scope, which) == before


def test_reuse_variables_never_acts_on_other_openings_of_the_same_path():
    first, second = capture("foo"), capture("foo")
    with vs.variable_scope(first) as again, vs.variable_scope("bar") as bar:
        again.reuse_variables()
        assert (again.reuse, bar.reuse) == (True, False)
    for scope in (first, second, capture("foo"), capture(first)):
        assert scope.reuse is False


def test_reuse_variables_on_an_auto_reusing_scope_means_reuse():
    with vs.variable_scope("foo", reuse=vs.AUTO_REUSE) as scope:
        scope.reuse_variables()
        assert scope.reuse is True


# --- get_variable and the collections of a scope -------------------------------------------------


def test_get_variable_of_a_scope_creates_below_it_with_its_defaults():
    with vs.variable_scope("foo", dtype="float64", initializer=vs.ones) as scope:
        v = scope.get_variable("v", [2])
    assert (v.name, v.dtype, v.initializer) == ("foo/v:0", np.float64, vs.ones)
    with vs.variable_scope("x", dtype="int8"):
        w = scope.get_variable("w", [2])
    assert (w.name, w.dtype, w.initializer) == ("foo/w:0", np.float64, vs.ones)


def test_get_variable_of_a_scope_follows_its_reuse_mode(refused):
    scope = capture("foo")
    v = scope.get_variable("v", [2])
    with refused(ValueError, "foo/v", "already exists"):
        scope.get_variable("v", [2])
    scope.reuse_variables()
    assert scope.get_variable("v", [2]) is v
    with refused(ValueError, "foo/w", "does not exist"):
        scope.get_variable("w", [2])


def test_get_variable_of_a_scope_takes_what_the_function_takes():
    method = inspect.signature(capture("foo").get_variable).parameters.values()
    function = inspect.signature(vs.get_variable).parameters.values()
    assert [(p.name, p.kind, p.default) for p in method] == [
        (p.name, p.kind, p.default) for p in function
    ]


@pytest.fixture
def populated():
    """Variables at the root, in D and in D_pre, of which each scope shows its own."""
    for scope in ("", "D", "D/E", "D_pre"):
        with vs.variable_scope(scope):
            create("kernel")
            create("moments", trainable=False)
            create("mine", collections=["mine"], trainable=False)
            vs.get_local_variable("step", [2])


@pytest.mark.parametrize(
    ("method", "names"),
    [
        ("global_variables", ["kernel", "moments"]),
        ("trainable_variables", ["kernel"]),
        ("local_variables", ["step"]),
    ],
)
@pytest.mark.one_thread
def test_a_scope_lists_its_own_variables(populated, method, names):
    def listed(scope):
        return [v.op_name for v in getattr(scope, method)()]

    in_d = [f"D/{name}" for name in names] + [f"D/E/{name}" for name in names]
    with vs.variable_scope("D") as d:
        assert listed(d) == in_d
    assert listed(d) == in_d
    assert listed(capture("D/E")) == [f"D/E/{name}" for name in names]
    assert listed(capture("D_pre")) == [f"D_pre/{name}" for name in names]
    everywhere = [v.op_name for v in getattr(vs, method)()]
    assert listed(vs.get_variable_scope()) == everywhere
    assert len(everywhere) == 4 * len(names)


@pytest.mark.one_thread
def test_a_scope_shows_its_part_of_a_collection(populated):
    d = capture("D")
    assert [v.op_name for v in d.get_collection("mine")] == ["D/mine", "D/E/mine"]
    assert d.get_collection(vs.GraphKeys.TRAINABLE_VARIABLES) == d.trainable_variables()
    assert d.get_collection("unheard of") == []


# --- the current scope ---------------------------------------------------------------------------


def test_get_variable_scope_returns_the_current_one():
    assert vs.get_variable_scope().name == ""
    with vs.variable_scope("foo") as foo:
        assert vs.get_variable_scope() == foo
        with vs.variable_scope("bar") as bar:
            assert vs.get_variable_scope() == bar
        assert vs.get_variable_scope() == foo


def test_what_is_set_on_the_root_stays():
    def model():
        with vs.variable_scope("layer"):
            return create()

    first = model()
    vs.get_variable_scope().reuse_variables()
    assert model() is first
    assert vs.get_variable_scope().reuse is True
    vs.get_variable_scope().set_dtype("float64")
    assert vs.get_variable_scope().dtype == capture("x").dtype == np.float64


@each_default
def test_every_setter_of_the_root_stays(which):
    getattr(vs.get_variable_scope(), f"set_{which}")(DEFAULTS[which])
    assert getattr(vs.get_variable_scope(), which) == DEFAULTS[which]
    with vs.variable_scope("foo") as foo:
        assert getattr(foo, which) == DEFAULTS[which]
    assert getattr(vs.get_variable_scope(), which) == DEFAULTS[which]


def test_the_root_is_that_of_this_graph_and_this_thread():
    vs.get_variable_scope().reuse_variables()
    assert in_new_thread(lambda: vs.get_variable_scope().reuse) is False
    with vs.Graph().as_default() as other:
        assert vs.get_variable_scope().reuse is False
        vs.get_variable_scope().set_dtype("float64")
    assert (vs.get_variable_scope().reuse, vs.get_variable_scope().dtype) == (True, np.float32)
    with other.as_default():
        assert vs.get_variable_scope().dtype == np.float64


def test_the_root_opened_as_a_scope_keeps_what_is_set_on_it_to_itself():
    with vs.variable_scope(vs.get_variable_scope()) as root:
        root.reuse_variables()
        assert vs.get_variable_scope().reuse is True
    assert vs.get_variable_scope().reuse is False


# --- comparing -----------------------------------------------------------------------------------


def test_scopes_of_the_same_graph_and_path_are_equal():
    with vs.variable_scope("foo"):
        stepwise = capture("bar")
    at_once = capture("foo/bar", reuse=True, dtype="float64")
    assert stepwise == at_once
    assert stepwise == capture(stepwise)
    assert (stepwise != at_once) is False
    assert vs.get_variable_scope() == vs.get_variable_scope()


def test_scopes_of_another_graph_or_path_are_not_equal():
    foo = capture("foo")
    with vs.Graph().as_default():
        elsewhere = capture("foo")
        assert elsewhere != foo
        assert elsewhere == capture(foo)
    assert foo != capture("Foo")
    assert foo != capture("foo/bar")
    assert foo != vs.get_variable_scope()
    assert foo != "foo"


# --- pickling ------------------------------------------------------------------------------------

protocols = pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))


@protocols
@pytest.mark.parametrize("mode", [None, True, vs.AUTO_REUSE])
def test_a_pickled_scope_keeps_all_it_shows(protocol, mode):
    with vs.variable_scope("foo"):
        scope = capture("bar", reuse=mode, **DEFAULTS)
    clone = pickle.loads(pickle.dumps(scope, protocol))
    assert isinstance(clone, vs.VariableScope)
    assert (clone.name, clone.original_name_scope) == ("foo/bar", "foo/bar/")
    assert clone.reuse is scope.reuse
    for which, value in DEFAULTS.items():
        assert getattr(clone, which) == value


@protocols
def test_a_pickled_scope_can_be_opened(protocol):
    scope = pickle.loads(pickle.dumps(capture("foo/bar", dtype="float64"), protocol))
    with vs.variable_scope("x"), vs.variable_scope(scope) as again:
        assert again.name == "foo/bar"
        v = create()
    assert (v.name, v.dtype) == ("foo/bar/v:0", np.float64)
    assert v.graph is vs.get_default_graph()


@protocols
def test_an_open_scope_and_the_root_can_be_pickled(protocol):
    with vs.variable_scope("foo") as foo:
        assert pickle.loads(pickle.dumps(foo, protocol)).name == "foo"
    vs.get_variable_scope().set_dtype("float64")
    root = pickle.loads(pickle.dumps(vs.get_variable_scope(), protocol))
    assert (root.name, root.dtype) == ("", np.float64)
    with vs.variable_scope("x"), vs.variable_scope(root):
        assert vs.get_default_graph().get_name_scope() == "x"
        assert create().name == "v:0"


@protocols
def test_auto_reuse_is_one_object_also_after_pickling_and_copying(protocol):
    assert pickle.loads(pickle.dumps(vs.AUTO_REUSE, protocol)) is vs.AUTO_REUSE
    assert copy.deepcopy(vs.AUTO_REUSE) is copy.copy(vs.AUTO_REUSE) is vs.AUTO_REUSE


@pytest.mark.parametrize("name", ["", "encoder"])
def test_another_graph_knows_where_reuse_was_switched_on(name):
    with vs.variable_scope(name):
        scope = vs.get_variable_scope()
        scope.reuse_variables()
    other = vs.Graph()
    for graph in (vs.get_default_graph(), other):
        with (
            graph.as_default(),
            vs.variable_scope(scope),
            pytest.raises(vs.errors.VariableMissingError) as raised,
        ):
            vs.get_variable("w", [1])
        path, (file, _, function) = raised.value.origin
        assert (path, file) == (name, __file__)
        assert function == "test_another_graph_knows_where_reuse_was_switched_on"


@pytest.mark.parametrize("reuse", [None, True, vs.AUTO_REUSE])
def test_reuse_by_keyword_and_by_position_are_the_same(reuse):
    with vs.variable_scope("a") as captured:
        pass
    for scope in ("a", captured):
        with vs.variable_scope(scope, reuse=reuse) as by_keyword:
            pass
        with vs.variable_scope(scope, None, None, reuse=reuse, dtype=None) as by_other_words:
            pass
        assert by_keyword == by_other_words
        assert by_keyword.reuse == by_other_words.reuse == (reuse if reuse else False)
