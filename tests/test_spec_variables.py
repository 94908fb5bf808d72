"""SPEC section 5, variables: attributes, reading, writing, arithmetic, sharing of storage."""

import gc
import operator
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import varscope as vs


def variable(value, name="v"):
    """A variable that holds the value, with its shape and dtype."""
    return vs.get_variable(name, initializer=np.asarray(value))


def counting(calls):
    def initializer(shape, dtype):
        calls.append(shape)
        return np.full(shape, len(calls), dtype)

    return initializer


@pytest.fixture
def v():
    return variable(np.array([1, 2, 4], "float32"))


# --- attributes ----------------------------------------------------------------------------------


def test_every_attribute():
    graph = vs.get_default_graph()
    with vs.variable_scope("foo"):
        v = vs.get_variable(
            "v", [2, 3], "float64", vs.ones, vs.no_regularizer, False, constraint=np.abs
        )
    assert (v.name, v.op_name) == ("foo/v:0", "foo/v")
    assert type(v.shape) is tuple
    assert v.shape == (2, 3)
    assert isinstance(v.dtype, np.dtype)
    assert v.dtype == np.float64
    assert (v.trainable, v.initializer, v.regularizer) == (False, vs.ones, None)
    assert (v.graph, v.constraint) == (graph, np.abs)
    assert isinstance(v.device, str)
    assert v.initialized is False
    assert isinstance(v.version, int)


def test_the_attributes_of_a_plain_one():
    v = vs.get_variable("v", [2])
    assert v.trainable is True
    assert callable(v.initializer)
    assert v.constraint is v.regularizer is None


def test_it_is_a_variable(v):
    assert isinstance(v, vs.Variable)


# --- reading -------------------------------------------------------------------------------------


def test_value_is_read_only(v):
    value = v.value()
    assert isinstance(value, np.ndarray)
    assert value.tolist() == [1, 2, 4]
    with pytest.raises(ValueError, match="read-only"):
        value[0] = 9
    with pytest.raises(ValueError, match="read-only"):
        value += 1
    assert v.numpy().tolist() == [1, 2, 4]


def test_numpy_is_a_copy(v):
    copy = v.numpy()
    assert copy.flags.writeable
    assert not np.shares_memory(copy, v.array)
    copy[0] = 9
    assert v.numpy().tolist() == [1, 2, 4]
    v.assign([5, 6, 7])
    assert copy.tolist() == [9, 2, 4]


def test_array_is_the_live_and_writable_storage(v):
    array = v.array
    array[0] = 9
    assert v.numpy().tolist() == v.value().tolist() == [9, 2, 4]
    v.assign([5, 6, 7])
    assert array.tolist() == [5, 6, 7]


READERS = {
    "value": lambda v: v.value(),
    "numpy": lambda v: v.numpy(),
    "array": lambda v: v.array,
    "asarray": np.asarray,
    "memoryview": memoryview,
    "from_dlpack": np.from_dlpack,
    "arithmetic": lambda v: v + 0,
    "reflected": lambda v: 0 + v,
    "ufunc": np.negative,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_reading_a_declared_variable_materialises_it(read):
    calls = []
    v = vs.get_variable("v", [2], initializer=counting(calls))
    assert (v.initialized, calls) == (False, [])
    read(v)
    assert (v.initialized, calls) == (True, [(2,)])
    read(v)
    assert v.numpy().tolist() == [1, 1]
    assert len(calls) == 1


def test_looking_at_its_attributes_does_not_materialise_it():
    v = vs.get_variable("v", [2], initializer=counting([]))
    assert (v.name, v.shape, v.dtype, v.version, v.device) is not None
    assert v == v and hash(v) is not None
    assert not v.initialized


def test_two_threads_that_read_at_once_see_one_value():
    with ThreadPoolExecutor(8) as pool:
        for i in range(50):
            v = vs.get_variable(f"v{i}", [4])
            values = list(pool.map(lambda _, v=v: v.array, range(8)))
            assert all(np.shares_memory(value, v.array) for value in values)


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [[5, 6, 7], (5, 6, 7), np.array([5, 6, 7], "float32")], ids=str)
def test_assign_replaces_the_value(v, given):
    v.assign(given)
    assert v.numpy().tolist() == [5, 6, 7]
    assert v.dtype == np.float32


def test_assign_add_and_assign_sub(v):
    v.assign_add([1, 1, 1])
    assert v.numpy().tolist() == [2, 3, 5]
    v.assign_sub(np.array([2, 2, 2], "float32"))
    assert v.numpy().tolist() == [0, 1, 3]


def test_assigning_to_all_of_it(v):
    v[...] = [5, 6, 7]
    assert v.numpy().tolist() == [5, 6, 7]
    v[...] = 8
    assert v.numpy().tolist() == [8, 8, 8]


def test_another_variable_can_be_assigned(v):
    w = variable(np.ones(3, "float32"), "w")
    v.assign_add(w)
    w.assign(v)
    assert w.numpy().tolist() == [2, 3, 5]
    assert not np.shares_memory(v.array, w.array)


WRITERS = {
    "assign": lambda v, x: v.assign(x),
    "assign_add": lambda v, x: v.assign_add(x),
    "assign_sub": lambda v, x: v.assign_sub(x),
    "item": lambda v, x: v.__setitem__(..., x),
}
each_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@each_writer
def test_the_version_grows_whenever_the_value_is_assigned(v, write):
    versions = [v.version]
    for _ in range(3):
        write(v, [1, 1, 1])
        versions.append(v.version)
    assert versions == sorted(set(versions))
    v.numpy(), v.value(), v + 1
    assert v.version == versions[-1]


@each_writer
@pytest.mark.parametrize("wrong", [[1, 2], [[1, 2, 3]] * 2, ["a", "b", "c"], object()])
def test_what_does_not_fit_is_an_error_and_changes_nothing(v, write, wrong):
    v.initialize()
    version = v.version
    with pytest.raises((ValueError, TypeError)):
        write(v, wrong)
    assert v.numpy().tolist() == [1, 2, 4]
    assert v.version == version


@each_writer
def test_a_variable_that_is_written_is_initialized(write):
    v = vs.get_variable("v", [2], initializer=vs.zeros)
    write(v, [1, 1])
    assert v.initialized
    assert np.abs(v.numpy()).tolist() == [1, 1]


def test_initialize_runs_the_initializer_once_or_by_force():
    calls = []
    v = vs.get_variable("v", [2], initializer=counting(calls))
    v.initialize()
    assert (v.initialized, calls) == (True, [(2,)])
    v.assign([5, 6])
    v.initialize()
    assert v.numpy().tolist() == [5, 6]
    v.initialize(force=True)
    assert v.numpy().tolist() == [2, 2]
    assert len(calls) == 2


def test_a_forced_initialization_brings_the_same_values_back():
    v = vs.get_variable("v", [20])
    before = v.numpy()
    v[...] = 0
    v.initialize(force=True)
    np.testing.assert_array_equal(v.numpy(), before)


def test_a_forced_initialization_that_fails_leaves_the_value():
    results = [np.ones(2, "float32"), np.ones(3, "float32")]
    v = vs.get_variable("v", [2], initializer=lambda shape, dtype: results.pop(0))
    v.initialize()
    with pytest.raises(ValueError):
        v.initialize(force=True)
    assert v.initialized
    assert v.numpy().tolist() == [1, 1]


def test_initialize_materialises_many_at_once():
    variables = [vs.get_variable(f"v{i}", [2]) for i in range(5)]
    with vs.Graph().as_default():
        elsewhere = vs.get_variable("v", [2])
    vs.initialize(variables[:2])
    assert [v.initialized for v in variables] == [True, True, False, False, False]
    variables[0].assign([5, 6])
    vs.initialize()
    assert all(v.initialized for v in variables)
    assert variables[0].numpy().tolist() == [5, 6]
    assert not elsewhere.initialized


# --- arithmetic ----------------------------------------------------------------------------------

BINARY = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
    operator.pow, divmod,
]  # fmt: skip
BITWISE = [operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift]
UNARY = [operator.neg, operator.pos, operator.abs]


def assert_same(result, expected):
    """The results agree in value, shape and dtype, and neither is a variable."""
    assert not isinstance(result, vs.Variable)
    pairs = zip(result, expected, strict=True) if type(expected) is tuple else [(result, expected)]
    for a, b in pairs:
        assert type(a) is type(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def name_of(function):
    return getattr(function, "__name__", None)


FLOATS, INTEGERS = np.array([[1.5, 2], [4, 8]], "float32"), np.array([1, 2, 5], "int16")
OTHERS = [2, 0.5, np.float64(2), np.int8(3), FLOATS, FLOATS[0], [[1, 2], [3, 4]]]


@pytest.mark.parametrize("op", BINARY, ids=name_of)
@pytest.mark.parametrize("other", OTHERS, ids=lambda other: type(other).__name__)
def test_arithmetic_works_as_on_the_value_from_either_side(op, other):
    v = variable(FLOATS)
    assert_same(op(v, other), op(FLOATS, other))
    assert_same(op(other, v), op(other, FLOATS))
    assert v.numpy().tolist() == FLOATS.tolist()


@pytest.mark.parametrize("op", BINARY + BITWISE, ids=name_of)
def test_arithmetic_of_integers_and_of_two_variables(op):
    v, w = variable(INTEGERS), variable(INTEGERS[::-1].copy(), "w")
    assert_same(op(v, w), op(INTEGERS, INTEGERS[::-1]))
    assert_same(op(v, v), op(INTEGERS, INTEGERS))
    assert_same(op(v, 3), op(INTEGERS, 3))
    assert_same(op(3, v), op(3, INTEGERS))


@pytest.mark.parametrize("other", [FLOATS, FLOATS[0], FLOATS.tolist()], ids=str)
def test_matrix_products(other):
    v = variable(FLOATS)
    assert_same(v @ other, FLOATS @ other)
    assert_same(other @ v, other @ FLOATS)
    assert_same(v @ v, FLOATS @ FLOATS)


@pytest.mark.parametrize("op", UNARY, ids=name_of)
def test_unary_operators(op):
    assert_same(op(variable(FLOATS)), op(FLOATS))
    assert_same(op(variable(INTEGERS, "w")), op(INTEGERS))


def test_inversion():
    assert_same(~variable(INTEGERS), ~INTEGERS)
    flags = np.array([True, False])
    assert_same(~variable(flags, "w"), ~flags)


@pytest.mark.parametrize("function", [np.exp, np.sum, np.sqrt, np.transpose], ids=name_of)
def test_numpy_functions_take_a_variable(function):
    assert_same(function(variable(FLOATS)), function(FLOATS))


def test_an_array_is_updated_in_place_by_a_variable(v):
    total = np.ones(3, "float32")
    alias = total
    total += v
    assert total is alias
    assert total.tolist() == [2, 3, 5]


def test_scalars_and_empty_variables_calculate_as_well():
    scalar, empty = variable(np.float32(2)), variable(np.zeros((0, 3)), "w")
    assert (scalar + 1, 1 - scalar, -scalar) == (3, -1, -2)
    assert (empty * 2).shape == (2 * empty).shape == (0, 3)


# --- comparing and hashing -----------------------------------------------------------------------


def test_variables_hash_and_compare_by_identity(v):
    twin = variable(v.numpy(), "w")
    assert (v == v, v == twin) == (True, False)
    assert (v != v, v != twin) == (False, True)
    assert len({v, twin, v}) == 2
    assert [twin, v].index(v) == 1
    assert {v: "found"}[v] == "found"


@pytest.mark.parametrize("op", [operator.lt, operator.le, operator.gt, operator.ge], ids=name_of)
def test_variables_have_no_order(v, op):
    for other in (v, 2):
        with pytest.raises(TypeError):
            op(v, other)


def test_the_same_object_is_got_under_reuse(v):
    for get in (lambda: vs.get_variable("v"), lambda: vs.get_variable("v", [3])):
        with vs.variable_scope("", reuse=True):
            assert get() is v
        with vs.variable_scope("", reuse=vs.AUTO_REUSE):
            assert get() is v
    assert vs.global_variables()[0] is v
    assert vs.get_default_graph()["v"] is v


def test_the_value_outlives_the_handle():
    v = vs.get_variable("v", [3], initializer=vs.zeros)
    v.assign([5, 6, 7])
    version = v.version
    del v
    gc.collect()
    with vs.variable_scope("", reuse=True):
        again = vs.get_variable("v", [3])
    assert again.numpy().tolist() == [5, 6, 7]
    assert again.version == version


# --- the storage without a copy ------------------------------------------------------------------


@pytest.mark.parametrize("view", [np.asarray, memoryview, np.from_dlpack], ids=name_of)
def test_views_share_the_storage(v, view):
    seen = np.asarray(view(v))
    assert np.shares_memory(seen, v.array)
    assert (seen.shape, seen.dtype) == (v.shape, v.dtype)
    v.assign([5, 6, 7])
    assert seen.tolist() == [5, 6, 7]


@pytest.mark.parametrize("view", [np.asarray, memoryview], ids=name_of)
def test_writing_through_a_view_writes_the_variable(v, view):
    view(v)[0] = 9
    assert v.numpy().tolist() == [9, 2, 4]


def test_asarray_converts_where_it_is_asked_to(v):
    assert np.shares_memory(np.asarray(v, dtype="float32"), v.array)
    assert np.shares_memory(np.array(v, copy=False), v.array)
    converted = np.asarray(v, dtype="float64")
    assert (converted.dtype, converted.tolist()) == (np.float64, [1, 2, 4])
    assert not np.shares_memory(converted, v.array)


def test_array_copies(v):
    assert not np.shares_memory(np.array(v), v.array)
    assert not np.shares_memory(np.array(v, dtype="float32"), v.array)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float32", "f8"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (3, 0)], ids=str)
def test_the_buffer_shows_every_shape_and_dtype(shape, dtype):
    value = np.ones(shape, dtype)
    v = variable(value)
    view = memoryview(v)
    assert (view.shape, view.ndim, view.nbytes) == (shape, len(shape), value.nbytes)
    assert view.format == memoryview(value).format
    assert not view.readonly
    np.testing.assert_array_equal(np.asarray(view), value)
    if dtype != "bool":  # older NumPy versions export no bool
        exported = np.from_dlpack(v)
        assert (exported.shape, exported.dtype) == (shape, dtype)
        np.testing.assert_array_equal(exported, value)


def test_dlpack_says_that_it_lives_on_the_cpu(v):
    assert v.__dlpack_device__() == v.array.__dlpack_device__()


def test_a_view_keeps_the_storage_alive():
    with vs.Graph().as_default():
        v = variable(np.arange(1000.0))
        views = [np.asarray(v), memoryview(v), np.from_dlpack(v), v.value()]
    del v
    for view in views:
        np.testing.assert_array_equal(view, np.arange(1000.0))


# --- every dtype and shape -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bool", "int32", "float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3)], ids=str)
def test_scalars_and_empty_shapes_work_everywhere(shape, dtype):
    v = vs.get_variable("v", shape, dtype, initializer=vs.ones)
    assert v.numpy().shape == v.value().shape == v.array.shape == np.asarray(v).shape == shape
    assert isinstance(v.numpy(), np.ndarray) and isinstance(v.value(), np.ndarray)
    v.assign(np.zeros(shape, dtype))
    v[...] = np.ones(shape, dtype)
    assert v.numpy().dtype == dtype
    assert v.numpy().all()
    assert pickle.loads(pickle.dumps(v.numpy())).shape == shape


def test_pythons_numbers_go_where_their_values_fit():
    v = vs.get_variable("v", [2], "uint8", initializer=vs.zeros)
    assert v.assign([3, 255]).value().tolist() == [3, 255]
    for wrong in ([3, 256], [-1, 0], [0.5, 1]):
        with pytest.raises(ValueError, match="uint8"):
            v.assign(wrong)
    with pytest.raises(ValueError, match="int64"):
        v.assign(np.array([1, 2], "int64"))  # an array means the dtype that it has
    assert v.value().tolist() == [3, 255]
