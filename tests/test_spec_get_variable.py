"""SPEC section 4, get_variable: names, shapes, dtypes, hooks, collections, values, errors."""

import functools
import importlib.util
import inspect
import itertools
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import varscope as vs

HERE = Path(__file__).name
EXCEPTIONS = [ValueError, KeyboardInterrupt, SystemExit, RecursionError, MemoryError]


def create(name="v", shape=(2,), **options):
    options.setdefault("initializer", vs.zeros)
    return vs.get_variable(name, shape, **options)


def names_in(key, scope=None):
    return [v.op_name for v in vs.get_collection(key, scope)]


def this_line():
    return inspect.currentframe().f_back.f_lineno


def shows(text, shape):
    """Whether a shape can be read in the text, as a tuple, as a list or as a number."""
    if not np.iterable(shape):
        return str(shape) in text
    return any(str(form) in text for form in (tuple(shape), list(shape)))


def shows_place(text, line):
    return re.search(rf"{re.escape(HERE)}\D{{1,10}}{line}\b", text) is not None


# --- the call and the name -----------------------------------------------------------------------


@pytest.mark.one_thread
def test_parameters_their_order_and_defaults():
    parameters = list(inspect.signature(vs.get_variable).parameters.values())
    assert [(p.name, p.default) for p in parameters] == [
        ("name", inspect.Parameter.empty),
        ("shape", None),
        ("dtype", None),
        ("initializer", None),
        ("regularizer", None),
        ("trainable", True),
        ("collections", None),
        ("caching_device", None),
        ("partitioner", None),
        ("validate_shape", True),
        ("custom_getter", None),
        ("constraint", None),
    ]
    assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters[:-1])
    assert parameters[-1].kind is inspect.Parameter.KEYWORD_ONLY


def test_all_but_the_constraint_may_be_given_by_position():
    v = vs.get_variable("v", [2], "float64", vs.ones, None, False, ["mine"], None, None, True, None)
    assert (v.shape, v.dtype, v.initializer, v.trainable) == ((2,), np.float64, vs.ones, False)
    assert names_in("mine") == ["v"]


def test_the_full_name_is_the_scope_path_and_the_name():
    with vs.variable_scope("foo"), vs.variable_scope("bar"):
        v, deep = create("v"), create("x/y")
    assert (v.name, v.op_name) == ("foo/bar/v:0", "foo/bar/v")
    assert deep.op_name == "foo/bar/x/y"
    assert create("w").name == "w:0"


def test_name_scopes_never_change_the_name():
    with vs.name_scope("n"), vs.variable_scope("foo"), vs.name_scope("m"):
        assert create("v").name == "foo/v:0"
    with vs.variable_scope("foo"):
        assert vs.get_default_graph().get_name_scope() == "foo"
    with vs.variable_scope("foo"):
        assert vs.get_default_graph().get_name_scope() == "foo_1"
        assert create("w").name == "foo/w:0"


def test_a_name_with_a_path_is_the_variable_of_that_scope():
    v = create("foo/v")
    with vs.variable_scope("foo", reuse=True):
        assert create("v") is v


@pytest.mark.parametrize("wrong", ["", None, 42, b"v", ["v"]])
def test_a_name_is_a_string_that_is_not_empty(wrong, refused):
    with refused(ValueError if wrong == "" else TypeError):
        create(wrong)


# --- None means the scope's default --------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "default", "other"),
    [
        ("dtype", np.dtype("float64"), np.dtype("int8")),
        ("initializer", vs.ones, vs.zeros),
        ("constraint", np.abs, np.negative),
    ],
)
def test_none_means_the_default_of_the_scope(which, default, other):
    with vs.variable_scope("foo", **{which: default}):
        assert getattr(vs.get_variable("a", [2]), which) == default
        assert getattr(vs.get_variable("b", [2], **{which: None}), which) == default
        assert getattr(vs.get_variable("c", [2], **{which: other}), which) == other


def test_no_regularizer_means_none_also_where_the_scope_has_one():
    with vs.variable_scope("foo", regularizer=np.sum):
        assert create("v", regularizer=vs.no_regularizer).regularizer is None
    with vs.variable_scope("bar", regularizer=vs.no_regularizer):
        assert create("v").regularizer is None


# --- dtype ---------------------------------------------------------------------------------------

DTYPES = ["f2", "f8", ">f4", np.float64, np.dtype("int8"), np.uint64, float, int, bool, complex]
if importlib.util.find_spec("ml_dtypes"):
    import ml_dtypes

    DTYPES += ["bfloat16", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]


@pytest.mark.parametrize("dtype", DTYPES, ids=repr)
def test_dtype_is_anything_that_numpy_accepts(dtype):
    v = create(dtype=dtype)
    assert isinstance(v.dtype, np.dtype)
    assert v.dtype == v.numpy().dtype == np.dtype(dtype)


def test_the_default_dtype_is_float32():
    assert create().dtype == np.float32


@pytest.mark.parametrize("dtype", ["no such dtype", 42, object()])
def test_what_is_no_dtype_is_an_error(dtype, refused):
    with refused((TypeError, ValueError)):
        create(dtype=dtype)
    with pytest.raises((TypeError, ValueError)), vs.variable_scope("foo", dtype=dtype):
        create()
    assert len(vs.get_default_graph()) == 0


# --- arrays and numbers as initializers ----------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [np.arange(6, dtype="int8").reshape(2, 3), np.float32(0.5), np.zeros((0, 2)), np.array(True)],
)
def test_an_array_as_initializer_fixes_shape_and_dtype(value):
    with vs.variable_scope("foo", dtype="float16"):
        v = vs.get_variable("v", initializer=value)
    w = vs.get_variable("w", dtype=value.dtype, initializer=value)
    for variable in (v, w):
        assert (variable.shape, variable.dtype) == (value.shape, value.dtype)
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize(("number", "kind"), [(3, "i"), (0.5, "f"), (True, "b"), (1j, "c")])
def test_a_number_as_initializer_fixes_shape_and_dtype(number, kind):
    v = vs.get_variable("v", initializer=number)
    assert (v.shape, v.dtype.kind) == ((), kind)
    assert v.numpy() == number


def test_an_array_as_default_of_the_scope_does_the_same():
    with vs.variable_scope("foo", initializer=np.ones((2, 3), "int8")):
        v = vs.get_variable("v")
    assert (v.shape, v.dtype) == ((2, 3), np.int8)


def test_the_array_stays_what_it_was():
    value = np.ones(3, np.float32)
    v = vs.get_variable("v", initializer=value)
    v.assign([4, 5, 6])
    v.array[0] = 7
    assert value.tolist() == [1, 1, 1]


@pytest.mark.parametrize("shape", [[2], (2,), [3], [None]])
def test_an_array_and_a_shape_are_a_value_error(shape, refused):
    with refused(ValueError, "do not specify shape"):
        vs.get_variable("v", shape, initializer=np.ones(2))
    with refused(ValueError, "do not specify shape"):
        vs.get_variable("v", [], initializer=3)


def test_an_array_and_a_dtype_that_differs_are_a_value_error(refused):
    with refused(ValueError, "don't match", "float64", "float16"):
        vs.get_variable("v", dtype="float16", initializer=np.ones(2, "float64"))


# --- shape ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        (3, (3,)),
        (0, (0,)),
        (np.uint8(3), (3,)),
        ((2, 3), (2, 3)),
        ([2, 3], (2, 3)),
        (np.array([2, 3]), (2, 3)),
        ([np.int64(2), np.int8(3)], (2, 3)),
        (range(1, 3), (1, 2)),
        ((), ()),
        ([], ()),
        ((3, 0), (3, 0)),
        ([1] * 20, (1,) * 20),
    ],
    ids=repr,
)
def test_a_shape_is_an_int_or_a_sequence_of_ints(given, shape):
    v = create(shape=given)
    assert v.shape == shape
    assert type(v.shape) is tuple
    assert all(type(size) is int for size in v.shape)
    assert v.numpy().shape == shape


@pytest.mark.parametrize(
    "shape",
    [
        True,
        [True, 2],
        (np.True_,),
        np.array([True]),
        2.0,
        [2.0, 3],
        np.float32(2),
        np.array([2.5]),
        -1,
        [2, -1],
        np.array([-3]),
        ["2"],
        [[2]],
        [2j],
    ],
    ids=repr,
)
def test_other_shapes_are_an_error_that_shows_the_shape(shape, refused):
    with refused((TypeError, ValueError)) as caught:
        create(shape=shape)
    sizes = shape if np.iterable(shape) else [shape]
    assert all(str(size) in str(caught.value) for size in sizes)


@pytest.mark.parametrize("shape", ["2", object(), {2: 3}.items()], ids=["str", "object", "items"])
def test_what_is_no_shape_is_an_error(shape, refused):
    with refused((TypeError, ValueError)):
        create(shape=shape)


DIMENSIONS = [-1, 0, 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63]
PAIRS = list(itertools.product(DIMENSIONS, repeat=2))
ITEMSIZE = np.dtype("float32").itemsize


def nbytes(shape):
    return math.prod(shape) * ITEMSIZE


POSSIBLE = [s for s in PAIRS if all(0 <= n < 2**63 for n in s) and nbytes(s) < 2**63]
COUNTABLE = [s for s in PAIRS if min(s) > 0 and max(s) < 2**63 and math.prod(s) < 2**63]


@pytest.mark.parametrize("shape", [s for s in POSSIBLE if max(s) * ITEMSIZE < 2**63], ids=str)
def test_large_shapes_are_declared_without_allocating(shape):
    v = create(shape=shape)
    assert v.shape == shape
    assert not v.initialized


@pytest.mark.parametrize("shape", [s for s in COUNTABLE if s not in POSSIBLE], ids=str)
def test_more_bytes_than_an_address_holds_are_an_error_before_anything_is_allocated(shape):
    with pytest.raises((ValueError, MemoryError)):
        create(shape=shape).numpy()


@pytest.mark.parametrize("shape", [s for s in PAIRS if s not in POSSIBLE + COUNTABLE], ids=str)
def test_overflowing_and_negative_shapes_are_a_value_error_that_shows_the_shape(shape, refused):
    with refused(ValueError) as caught:
        create(shape=shape)
    assert shows(str(caught.value), shape)


@pytest.mark.parametrize("shape", [None, [None], [None, 3], [2, None]], ids=str)
def test_a_new_variable_needs_a_fully_known_shape(shape, refused):
    with refused(ValueError) as caught:
        vs.get_variable("v", shape)
    assert shows(str(caught.value), shape)


@pytest.fixture
def reused():
    """A variable v of shape (2, 3) and dtype int32, in a scope that reuses."""
    v = create("v", (2, 3), dtype="int32")
    with vs.variable_scope("", reuse=True, dtype="int32"):
        yield v


@pytest.mark.parametrize(
    "shape", [None, (2, 3), [2, 3], np.array([2, 3]), [None, 3], [2, None], [None, None]], ids=str
)
@pytest.mark.one_thread
def test_on_reuse_the_shape_may_be_none_or_have_none_dimensions(reused, shape):
    assert vs.get_variable("v", shape) is reused


@pytest.mark.parametrize(
    "shape", [(3, 2), [2], [2, 3, 1], [None, 2], [None], [None] * 3, [], 6, (6,)], ids=str
)
@pytest.mark.one_thread
def test_on_reuse_a_shape_that_differs_is_a_value_error_showing_both(reused, shape, refused):
    with refused(ValueError, "v") as caught:
        vs.get_variable("v", shape)
    assert shows(str(caught.value), (2, 3))
    assert shows(str(caught.value), shape)


@pytest.mark.parametrize("shape", [True, 2.0, [2, -1], [2.0, 3], ["2", 3]], ids=str)
def test_on_reuse_what_is_no_shape_is_an_error_as_well(reused, shape, refused):
    with refused((TypeError, ValueError)):
        vs.get_variable("v", shape)


@pytest.mark.one_thread
def test_on_reuse_a_dtype_that_differs_is_a_value_error_showing_both(reused, refused):
    assert vs.get_variable("v", dtype=np.int32) is reused
    with refused(ValueError, "v", "int32", "float64"):
        vs.get_variable("v", dtype="float64")
    with vs.variable_scope("", dtype="int8"), refused(ValueError, "v", "int32", "int8"):
        vs.get_variable("v")


@pytest.mark.one_thread
def test_on_reuse_an_array_as_initializer_stands_for_its_shape_and_dtype(reused, refused):
    assert vs.get_variable("v", initializer=np.zeros((2, 3), "int32")) is reused
    with refused(ValueError, "v", "(2, 3)", "(4,)"):
        vs.get_variable("v", initializer=np.zeros(4, "int32"))
    with refused(ValueError, "v", "int32", "float64"):
        vs.get_variable("v", initializer=np.zeros((2, 3), "float64"))


# --- default initializer -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "fans"),
    [
        ((100, 200), 300),
        ((6000,), 12000),
        ((5, 40, 60), 5 * (40 + 60)),
        ((3, 3, 20, 40), 9 * (20 + 40)),
        ((2, 2, 2, 10, 100), 8 * (10 + 100)),
    ],
    ids=str,
)
def test_floats_are_glorot_uniform_by_the_full_shape(shape, fans, dtype):
    values = vs.get_variable("v", shape, dtype).numpy().astype("float64") / math.sqrt(6 / fans)
    assert 0.98 < values.max() < 1.001
    assert -0.98 > values.min() > -1.001
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1 / math.sqrt(3)) < 0.02


def test_scalars_are_glorot_uniform_with_fans_of_one():
    values = np.array([vs.get_variable(f"v{i}", []).numpy() for i in range(400)]) / math.sqrt(3)
    assert 0.9 < values.max() < 1.001
    assert -0.9 > values.min() > -1.001


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3), (0, 0)])
def test_the_default_initializer_knows_empty_shapes(shape):
    assert vs.get_variable("v", shape).numpy().shape == shape


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint64", "bool"])
def test_integers_and_bool_are_zeros(dtype):
    values = vs.get_variable("v", [2, 3], dtype).numpy()
    assert values.dtype == dtype
    assert not values.any()


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "datetime64[s]", "U3"])
def test_anything_else_needs_an_explicit_initializer(dtype, refused):
    with refused(ValueError, "initializer"):
        vs.get_variable("v", [2], dtype)


def test_the_initializer_of_the_scope_is_an_explicit_one():
    with vs.variable_scope("foo", initializer=vs.ones):
        assert vs.get_variable("v", [2], "complex64").numpy().tolist() == [1, 1]


# --- already exists, does not exist --------------------------------------------------------------


def first_creation():
    return vs.get_variable("v", [2]), this_line()


def test_already_exists_says_where_it_was_created_and_how_to_share_it(refused):
    with vs.variable_scope("foo"):
        _, line = first_creation()
        with refused(ValueError, "foo/v", "already exists", "first_creation", "reuse") as caught:
            create("v")
    assert shows_place(str(caught.value), line)


def test_already_exists_comes_first_whatever_else_differs(refused):
    create("v")
    with refused(ValueError, "already exists"):
        create("v", shape=[7], dtype="int8")


def by_opening(look):
    with vs.variable_scope("switch", reuse=True):
        return this_line() - 1, look()


def by_a_call(look):
    with vs.variable_scope("switch"):
        vs.get_variable_scope().reuse_variables()
        return this_line() - 1, look()


def by_opening_what_was_captured(look):
    with vs.variable_scope("switch") as captured:
        pass
    with vs.variable_scope("x"), vs.variable_scope(captured, reuse=True):
        return this_line() - 1, look()


def by_a_call_at_the_root(look):
    vs.get_variable_scope().reuse_variables()
    line = this_line() - 1
    with vs.variable_scope("switch"):
        return line, look()


@pytest.mark.parametrize(
    "switch", [by_opening, by_a_call, by_opening_what_was_captured, by_a_call_at_the_root]
)
def test_does_not_exist_says_which_scope_switched_reuse_on_and_where(switch, refused):
    def look():
        inner = vs.variable_scope("inner")
        with inner, refused(ValueError, "switch/inner/v", "does not exist") as caught:
            create("v")
        return str(caught.value)

    line, text = switch(look)
    assert "root" in text if switch is by_a_call_at_the_root else re.search("switch(?!/in)", text)
    assert shows_place(text, line)


def test_does_not_exist_names_the_nearest_existing_names(refused):
    far = [create(f"decoder/attention_{i}/query").op_name for i in range(30)]
    create("encoder/kernel")
    words = "encoder/kernal", "does not exist", "encoder/kernel"
    with vs.variable_scope("encoder", reuse=True), refused(ValueError, *words) as caught:
        create("kernal")
    assert not all(name in str(caught.value) for name in far)


def test_does_not_exist_in_an_empty_graph(refused):
    with vs.variable_scope("foo", reuse=True), refused(ValueError, "foo/v", "does not exist"):
        create("v")


# --- validate_shape ------------------------------------------------------------------------------


def five_by_three(shape, dtype):
    return np.ones((5, 3), dtype)


@pytest.mark.parametrize("shape", [None, [None, 3], [None, None], [5, 3]], ids=str)
def test_without_validate_shape_the_initializer_decides(shape):
    v = vs.get_variable("v", shape, validate_shape=False, initializer=five_by_three)
    assert not v.initialized
    assert v.numpy().shape == (5, 3)
    assert v.shape == (5, 3)
    assert names_in(vs.GraphKeys.GLOBAL_VARIABLES) == ["v"]


@pytest.mark.parametrize("shape", [[None, 4], [None], [5, 3, None]], ids=str)
def test_what_is_known_of_the_shape_must_hold(shape, refused):
    v = vs.get_variable("v", shape, validate_shape=False, initializer=five_by_three)
    with refused(ValueError):
        v.numpy()
    assert not v.initialized


# --- anything that fails leaves the graph as it was ----------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"name": "a b", "shape": [1]},
        {"shape": [-1]},
        {"shape": None},
        {"dtype": "no such dtype"},
        {"dtype": "complex64", "initializer": None},
        {"initializer": np.ones(2)},
        {"shape": None, "dtype": "int8", "initializer": np.ones(2)},
        {"collections": ["mine", []]},
        {"custom_getter": 3},
        {"regularizer": 3},
        {"partitioner": 3},
        {"partitioner": lambda shape, dtype: [2, 2]},
        {"caching_device": "nowhere"},
        {"caching_device": lambda variable: "nowhere"},
    ],
    ids=lambda options: "-".join(options),
)
def test_arguments_that_fail_leave_the_graph_as_it_was(options, refused):
    with refused(Exception):
        create(**options)
    with vs.variable_scope("foo"), refused(Exception):
        create(**options)
    assert create().name == "v:0"
    assert len(vs.get_default_graph()) == 1


@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("when", ["before", "after", "between"])
@pytest.mark.parametrize("where", ["argument", "scope"])
def test_a_custom_getter_that_fails_leaves_the_graph_as_it_was(exception, when, where, refused):
    def fail(getter, name, *args, **kwargs):
        if when != "before":
            getter(name, *args, **kwargs)
        if when == "between":
            getter(name + "_more", *args, **kwargs)
        raise exception("in the custom getter")

    given = {"custom_getter": fail}
    scope = vs.variable_scope("foo", **given if where == "scope" else {})
    with scope, refused(exception):
        create("v", collections=["mine"], **given if where == "argument" else {})
    with vs.variable_scope("foo"):
        assert [create("v").op_name, create("v_more").op_name] == ["foo/v", "foo/v_more"]


def test_a_custom_getter_that_fails_under_reuse_leaves_the_variable_there(refused):
    def fail(getter, name, *args, **kwargs):
        getter(name, *args, **kwargs)
        raise ValueError("in the custom getter")

    v = create("v")
    with vs.variable_scope("", reuse=True), refused(ValueError):
        create("v", custom_getter=fail)
    assert list(vs.get_default_graph().variables) == vs.global_variables() == [v]
    assert v.numpy().tolist() == [0, 0]


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_an_initializer_that_fails_leaves_the_variable_unmaterialised(exception, refused):
    attempts = []

    def fail_once(shape, dtype):
        attempts.append(shape)
        if len(attempts) == 1:
            raise exception("in the initializer")
        return np.ones(shape, dtype)

    v = create(initializer=fail_once)
    with refused(exception):
        v.numpy()
    assert not v.initialized
    assert v.numpy().tolist() == [1, 1]


@pytest.mark.parametrize(
    "which",
    [
        {"shape": (3,)},
        {"shape": ()},
        {"shape": (2, 1)},
        {"dtype": "float64"},
        {"dtype": "complex64"},
        {"dtype": "int64"},
        {"dtype": "U3"},
    ],
    ids=str,
)
def test_a_result_of_another_shape_or_dtype_is_a_value_error(which, refused):
    result = np.ones(**{"shape": (2,), "dtype": "float32", **which})
    v = create(initializer=lambda shape, dtype: result)
    with refused(ValueError):
        v.numpy()
    assert not v.initialized


@pytest.mark.parametrize(
    ("given", "dtype"), [("float16", "float32"), ("int16", "float32"), ("bool", "int8")]
)
def test_a_result_whose_dtype_casts_safely_is_cast(given, dtype):
    v = create(dtype=dtype, initializer=lambda shape, _: np.ones(shape, given))
    assert v.numpy().dtype == dtype
    assert v.numpy().tolist() == [1, 1]


# --- collections ---------------------------------------------------------------------------------


def test_new_variables_go_to_the_global_and_the_trainable_ones():
    create("v")
    create("w", trainable=False)
    assert names_in(vs.GraphKeys.GLOBAL_VARIABLES) == ["v", "w"]
    assert names_in(vs.GraphKeys.TRAINABLE_VARIABLES) == ["v"]
    assert [v.op_name for v in vs.global_variables()] == ["v", "w"]
    assert [v.op_name for v in vs.trainable_variables()] == ["v"]
    assert vs.local_variables() == []


def test_new_variables_go_to_the_collections_given_and_to_the_trainable_ones():
    v = create("v", collections=["mine", ("any", "key")])
    w = create("w", collections=["mine"], trainable=False)
    assert vs.get_collection("mine") == [v, w]
    assert vs.get_collection(("any", "key")) == [v]
    assert vs.trainable_variables() == [v]
    assert vs.global_variables() == []


def test_a_variable_is_in_a_collection_once():
    v = create("v", collections=[vs.GraphKeys.TRAINABLE_VARIABLES])
    with vs.variable_scope("", reuse=True):
        assert create("v", collections=["mine"]) is v
    assert vs.trainable_variables() == [v]
    assert vs.get_collection("mine") == []


def test_a_local_variable_is_local_and_not_trainable():
    with vs.variable_scope("foo", dtype="float64"):
        v = vs.get_local_variable("v", [2], initializer=vs.ones)
    assert (v.name, v.dtype, v.initializer) == ("foo/v:0", np.float64, vs.ones)
    assert v.trainable is False
    assert vs.local_variables() == vs.get_collection(vs.GraphKeys.LOCAL_VARIABLES) == [v]
    assert vs.global_variables() == vs.trainable_variables() == []


def test_a_local_variable_follows_the_reuse_mode(refused):
    v = vs.get_local_variable("v", [2])
    with refused(ValueError, "already exists"):
        vs.get_local_variable("v", [2])
    with vs.variable_scope("", reuse=True):
        assert vs.get_local_variable("v", [2]) is v
        with refused(ValueError, "does not exist"):
            vs.get_local_variable("w", [2])


@pytest.fixture
def discriminators():
    for name in ("D/v", "D_pre/v", "D/E/v", "x/D/v", "Dv", "d/v"):
        create(name, collections=["mine"])


@pytest.mark.parametrize(
    ("scope", "names"),
    [
        (None, ["D/v", "D_pre/v", "D/E/v", "x/D/v", "Dv", "d/v"]),
        ("D", ["D/v", "D/E/v"]),
        ("D/E", ["D/E/v"]),
        ("D_pre", ["D_pre/v"]),
        ("x", ["x/D/v"]),
        ("D.", []),
        ("D.pre", []),
        ("E", []),
        (re.compile("D"), ["D/v", "D_pre/v", "D/E/v", "Dv"]),
        (re.compile("D_?.*/v"), ["D/v", "D_pre/v", "D/E/v"]),
        (re.compile("E"), []),
        (re.compile(".*E"), ["D/E/v"]),
    ],
    ids=str,
)
@pytest.mark.one_thread
def test_scope_is_a_path_matched_at_its_borders_or_a_compiled_regex(discriminators, scope, names):
    assert names_in("mine", scope) == names


def test_an_unknown_collection_is_empty_and_a_list_that_is_changed_is_a_copy():
    assert vs.get_collection("unheard of") == []
    v = create()
    vs.global_variables().clear()
    vs.get_collection(vs.GraphKeys.GLOBAL_VARIABLES).clear()
    assert vs.global_variables() == [v]


# --- custom_getter -------------------------------------------------------------------------------


def spy(label, calls):
    def record(getter, name, *args, **kwargs):
        calls.append((label, name))
        return getter(name, *args, **kwargs)

    return record


def test_getters_get_the_full_name_and_run_from_the_inside_out():
    calls = []
    outer = vs.variable_scope("outer", custom_getter=spy("outer", calls))
    inner = vs.variable_scope("inner", custom_getter=spy("inner", calls))
    with outer, inner:
        v = create("v", custom_getter=spy("call", calls))
    name = "outer/inner/v"
    assert calls == [("call", name), ("inner", name), ("outer", name)]
    assert v.op_name == name


def test_the_getter_of_the_inner_one_is_the_next_outer_one():
    def rename(suffix):
        return lambda getter, name, *args, **kwargs: getter(name + suffix, *args, **kwargs)

    outer = vs.variable_scope("s", custom_getter=rename("_outer"))
    inner = vs.variable_scope("t", custom_getter=rename("_inner"))
    with outer, inner:
        assert create("v").op_name == "s/t/v_inner_outer"


def test_a_captured_scope_brings_its_own_getters_only():
    calls = []
    with vs.variable_scope("foo", custom_getter=spy("own", calls)) as captured:
        pass
    with vs.variable_scope("x", custom_getter=spy("around", calls)), vs.variable_scope(captured):
        create("v")
    assert calls == [("own", "foo/v")]


def test_a_getter_may_change_the_arguments():
    def change(getter, name, *args, **kwargs):
        kwargs.update(trainable=False, initializer=vs.ones, collections=["mine"])
        return getter(name + "_changed", *args, **kwargs)

    v = create("v", custom_getter=change)
    assert (v.op_name, v.trainable, v.initializer) == ("v_changed", False, vs.ones)
    assert vs.get_collection("mine") == [v]


def test_a_getter_may_call_its_getter_any_number_of_times():
    def pair(getter, name, *args, **kwargs):
        return [getter(f"{name}/{part}", *args, **kwargs) for part in ("mean", "scale")]

    with vs.variable_scope("foo", custom_getter=pair) as foo:
        first = create("v")
    assert [v.op_name for v in first] == ["foo/v/mean", "foo/v/scale"]
    with vs.variable_scope(foo, reuse=True):
        assert all(a is b for a, b in zip(create("v"), first, strict=True))


def test_a_getter_may_return_something_else():
    something = object()
    assert create("v", custom_getter=lambda getter, name, *args, **kwargs: something) is something
    assert len(vs.get_default_graph()) == 0


def test_a_getter_runs_under_reuse_as_well():
    v, calls = create("v"), []
    with vs.variable_scope("", reuse=True, custom_getter=spy("s", calls)):
        assert create("v") is v
    assert calls == [("s", "v")]


@pytest.mark.parametrize("wrong", [3, "getter", [print]], ids=repr)
@pytest.mark.parametrize("where", ["argument", "scope", "setter"])
def test_a_getter_that_is_not_callable_is_a_value_error(wrong, where, refused):
    with refused(ValueError, "custom_getter", "not callable"):
        if where == "argument":
            create(custom_getter=wrong)
        with vs.variable_scope("", custom_getter=wrong if where == "scope" else None) as scope:
            scope.set_custom_getter(wrong)
            create()


# --- initializers: what is called, and with what -------------------------------------------------


class OldStyle:
    def __call__(self, shape, dtype=None, partition_info=None):
        return np.full(shape, 2, dtype)


class Unhashable(OldStyle):
    __hash__ = None


INITIALIZERS = {
    "zeros": (vs.zeros, 0),
    "ones": (vs.ones, 1),
    "constant": (vs.constant(0.5), 0.5),
    "lambda": (lambda shape, dtype: np.full(shape, 2, dtype), 2),
    "keywords": (lambda shape, dtype=None, **kwargs: np.full(shape, 2, dtype), 2),
    "object": (OldStyle(), 2),
    "unhashable": (Unhashable(), 2),
    "partial": (functools.partial(lambda x, shape, dtype: np.full(shape, x, dtype), 3), 3),
    "numpy": (np.ones, 1),
}


@pytest.mark.parametrize(("initializer", "value"), INITIALIZERS.values(), ids=INITIALIZERS)
def test_an_initializer_is_any_callable_of_shape_and_dtype(initializer, value):
    values = create(shape=(2, 3), initializer=initializer).numpy()
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.full((2, 3), value))


def test_an_initializer_gets_the_shape_as_a_tuple_and_the_dtype_as_a_numpy_dtype():
    seen = []

    def initializer(shape, dtype):
        seen.append((shape, dtype))
        return np.zeros(shape, dtype)

    create(shape=[2, 3], dtype="f8", initializer=initializer).numpy()
    assert seen == [((2, 3), np.dtype("float64"))]
    assert isinstance(seen[0][0], tuple) and isinstance(seen[0][1], np.dtype)


def test_partition_info_has_the_full_shape_and_the_offset():
    seen = []

    def initializer(shape, dtype, partition_info):
        seen.append(partition_info)
        return np.zeros(shape, dtype)

    create(shape=[2, 3], initializer=initializer).numpy()
    (info,) = seen
    assert tuple(info.full_shape) == (2, 3)
    assert tuple(info.var_offset) == (0, 0)


def key_given(seed, path):
    keys = []

    def initializer(shape, dtype, *, key):
        keys.append(key)
        return np.zeros(shape, dtype)

    with vs.Graph(seed=seed).as_default():
        create(path, initializer=initializer).numpy()
    (key,) = keys
    return key


def test_the_key_is_one_of_the_graph_seed_and_the_path():
    assert key_given(1, "v") == key_given(1, "v")
    assert len({str(key_given(*k)) for k in [(1, "v"), (2, "v"), (1, "w"), (1, "a/v")]}) == 4


# --- values are a function of (graph seed, path, element index) ----------------------------------


def drawn(path="v", shape=(50,), seed=1, before=(), after=(), **options):
    with vs.Graph(seed=seed).as_default():
        for name in before:
            vs.get_variable(name, [3]).numpy()
        v = vs.get_variable(path, shape, **options)
        for name in after:
            vs.get_variable(name, [3]).numpy()
        return v.numpy()


def same(a, b):
    return np.array_equal(a, b)


def test_values_are_the_same_in_two_graphs_of_the_same_seed():
    assert same(drawn(), drawn())


def test_values_do_not_depend_on_other_variables_nor_on_the_order_of_creation():
    assert same(drawn(), drawn(before=["a", "b"]))
    assert same(drawn(), drawn(after=["a", "b"]))
    assert same(drawn("a/v", before=["a/w"]), drawn("a/v", after=["a/w"]))


def test_values_do_not_depend_on_how_the_path_was_opened_nor_on_trainability():
    def stepwise():
        with vs.variable_scope("a"), vs.name_scope("n"), vs.variable_scope("b"):
            return vs.get_variable("v", [50], trainable=False).numpy()

    with vs.Graph(seed=1).as_default():
        assert same(stepwise(), drawn("a/b/v"))


def test_values_do_not_depend_on_the_thread():
    with vs.Graph(seed=1).as_default():
        variables = [vs.get_variable(f"v{i}", [50]) for i in range(20)]
    with ThreadPoolExecutor(4) as pool:
        values = list(pool.map(lambda v: v.numpy(), variables))
    assert all(same(value, drawn(f"v{i}")) for i, value in enumerate(values))


@pytest.mark.parametrize(
    ("path", "other"), [("v", "w"), ("v", "V"), ("a/b", "b/a"), ("1/11", "11/1"), ("a/b", "a-b")]
)
def test_values_differ_by_path(path, other):
    assert not np.intersect1d(drawn(path), drawn(other)).size


def test_values_differ_by_seed():
    assert not np.intersect1d(drawn(seed=1), drawn(seed=2)).size
    assert not np.intersect1d(drawn(seed=0), drawn(seed=2**32)).size


def test_an_element_depends_on_its_index_and_the_scale_on_the_full_shape():
    def unscaled(shape, fans):
        return drawn(shape=shape, dtype="float64").ravel() / math.sqrt(6 / fans)

    long = unscaled((60,), 120)
    np.testing.assert_allclose(unscaled((24,), 48), long[:24], rtol=1e-12)
    np.testing.assert_allclose(unscaled((4, 6), 10), long[:24], rtol=1e-12)
    np.testing.assert_allclose(unscaled((5, 4, 3), 35), long, rtol=1e-12)
    assert len(np.unique(long)) == 60


def test_values_are_the_same_in_another_process():
    program = (
        "import varscope as vs; vs.set_random_seed(1);"
        "print(vs.get_variable('v', [50]).numpy().tobytes().hex())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert bytes.fromhex(result.stdout) == drawn().tobytes()


def test_values_are_the_same_on_every_machine_and_numpy_version():
    assert drawn("a/b", [4]).tolist() == [
        -0.10285347700119019, -0.8266997337341309, 0.3331286609172821, -0.7584561705589294,
    ]  # fmt: skip
    assert drawn("v", [3, 2], dtype="float64").tolist() == [
        [0.5673584219228853, -0.648478956577354],
        [-0.7986860133878102, -0.5049954690628591],
        [1.0782262492145829, -0.3833237770276877],
    ]


def test_a_seed_is_given_to_the_graph_or_set():
    assert vs.Graph(seed=7).seed == 7
    vs.set_random_seed(7)
    assert vs.get_default_graph().seed == 7
    assert same(vs.get_variable("v", [50]).numpy(), drawn(seed=7))
    with vs.Graph(seed=1).as_default() as other:
        vs.set_random_seed(8)
    assert (other.seed, vs.get_default_graph().seed) == (8, 7)


def test_without_a_seed_the_graph_draws_one_and_shows_it():
    graph, other = vs.Graph(), vs.Graph()
    assert isinstance(graph.seed, int)
    assert graph.seed == graph.seed != other.seed
    with graph.as_default():
        values = vs.get_variable("v", [50]).numpy()
    assert same(values, drawn(seed=graph.seed))


def test_the_seed_of_an_initializer_is_mixed_in():
    plain, one, two = (
        drawn(initializer=vs.glorot_uniform(**given)) for given in ({}, {"seed": 1}, {"seed": 2})
    )
    assert same(one, drawn(initializer=vs.glorot_uniform(seed=1)))
    assert same(plain, drawn())
    for a, b in itertools.combinations((plain, one, two), 2):
        assert not np.intersect1d(a, b).size
    other_graph = drawn(initializer=vs.glorot_uniform(seed=1), seed=2)
    assert not np.intersect1d(one, other_graph).size


# --- constraint ----------------------------------------------------------------------------------


def clip(value):
    return np.clip(value, -1, 1)


def test_the_constraint_is_kept_on_the_variable():
    assert create("v").constraint is None
    assert create("w", constraint=clip).constraint is clip
    with vs.variable_scope("foo", constraint=clip):
        assert create("v").constraint is clip


def test_assign_and_project_use_the_constraint():
    v = create(constraint=clip)
    v.assign([-5, 0.5])
    assert v.numpy().tolist() == [-5, 0.5]
    v.assign([0.25, 7], apply_constraint=True)
    assert v.numpy().tolist() == [0.25, 1]
    v.assign([-5, 0.5])
    v.project()
    assert v.numpy().tolist() == [-1, 0.5]


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_a_constraint_that_fails_changes_nothing(exception, refused):
    def fail(value):
        value[...] = 9
        raise exception("in the constraint")

    v = create(constraint=fail)
    v.assign([1, 2])
    version = v.version
    with pytest.raises((exception, ValueError)):
        v.assign([3, 4], apply_constraint=True)
    with pytest.raises((exception, ValueError)):
        v.project()
    assert v.numpy().tolist() == [1, 2]
    assert v.version == version
