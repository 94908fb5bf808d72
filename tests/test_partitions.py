"""Variables in parts: how they are cut, made, shared, read, set, copied, and what fails."""

import copy
import gc
import pickle
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from requires import on_posix
from snapshots import snap

import varscope as vs
from varscope.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    DTypeMismatchError,
    FinalizedGraphError,
    PartitionerError,
    PartitionMismatchError,
    ShapeMismatchError,
    VariableExistsError,
    VariableMissingError,
    WithdrawnError,
)
from varscope.summary import summarize

EXCEPTIONS = [ValueError, KeyboardInterrupt, SystemExit, RecursionError, MemoryError]
cut = vs.fixed_size_partitioner


def into(*partitions):
    return lambda shape, dtype: list(partitions)


def through(getter, *args, **kwargs):
    return getter(*args, **kwargs)


def ramp(shape, dtype):
    return np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)


def parted(name="v", shape=(7, 2), n=3, axis=0, **options):
    options = {"initializer": ramp, **options}
    return vs.get_variable(name, shape, partitioner=cut(n, axis), **options)


def sharing(reuse=True):
    return vs.variable_scope("", reuse=reuse)


# --- partitioners --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("partitioner", "shape", "dtype", "expected"),
    [
        (cut(3), (7, 2), "float32", [3, 1]),
        (cut(3, axis=1), (7, 5), "float32", [1, 3]),
        (cut(3, axis=-1), (7, 5), "float32", [1, 3]),
        (cut(9), (7, 2), "float32", [7, 1]),
        (cut(2), (0, 2), "float32", [1, 1]),
        # 4 KiB a row: 16 rows in 64 KiB
        (vs.variable_axis_size_partitioner(64 << 10), (64, 1024), "float32", [4, 1]),
        (vs.variable_axis_size_partitioner((64 << 10) - 1), (64, 1024), "float32", [5, 1]),
        (vs.variable_axis_size_partitioner(1), (64, 1024), "float32", [64, 1]),
        (vs.variable_axis_size_partitioner(1, axis=1), (4, 8), "float32", [1, 8]),
        (vs.variable_axis_size_partitioner(1, max_shards=5), (64, 1024), "float32", [5, 1]),
        (vs.variable_axis_size_partitioner(1 << 30), (64, 1024), "float32", [1, 1]),
        (vs.variable_axis_size_partitioner(64), (4, 8), "S3", [4, 1]),
        (vs.variable_axis_size_partitioner(64, bytes_per_string_element=4), (4, 8), "S3", [2, 1]),
        (vs.variable_axis_size_partitioner(8), (0, 3), "float32", [1, 1]),
        (vs.variable_axis_size_partitioner(8), (3, 0), "float32", [1, 1]),
        # 4 MiB: 16 times 256 KiB
        (vs.min_max_variable_partitioner(100), (1024, 1024), "float32", [16, 1]),
        (vs.min_max_variable_partitioner(8), (1024, 1024), "float32", [8, 1]),
        (vs.min_max_variable_partitioner(100, axis=1), (1024, 1024), "float32", [1, 16]),
        (vs.min_max_variable_partitioner(100), (1024, 1025), "float32", [17, 1]),
        (vs.min_max_variable_partitioner(100), (3, 1024, 1024), "float32", [3, 1, 1]),
        (vs.min_max_variable_partitioner(100), (10,), "float32", [1]),
        (vs.min_max_variable_partitioner(100, min_slice_size=2 << 10), (2048,), "float32", [4]),
        (vs.min_max_variable_partitioner(0), (1024, 1024), "float32", [1, 1]),
        (vs.min_max_variable_partitioner(), (1024, 1024), "float32", [1, 1]),
        (vs.min_max_variable_partitioner(9, min_slice_size=16), (4,), "U2", [4]),
        (vs.min_max_variable_partitioner(9), (0, 4), "float32", [1, 1]),
    ],
)
def test_what_the_partitioners_return(partitioner, shape, dtype, expected):
    assert partitioner(shape=shape, dtype=np.dtype(dtype)) == expected


@given(st.lists(st.integers(1, 50), min_size=1, max_size=3), st.integers(1, 500), st.data())
def test_slices_of_a_number_of_bytes_are_as_few_as_possible(shape, size, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    slices = vs.variable_axis_size_partitioner(size, axis)(shape=shape, dtype="float16")[axis]
    row = 2 * int(np.prod(shape)) // shape[axis]
    longest = -(-shape[axis] // slices)
    assert longest * row <= size or longest == 1
    assert slices == 1 or -(-shape[axis] // (slices - 1)) * row > size


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: cut(0), ArgumentValueError),
        (lambda: cut(-1), ArgumentValueError),
        (lambda: cut(True), ArgumentTypeError),
        (lambda: cut(2.0), ArgumentTypeError),
        (lambda: cut(2, axis=None), ArgumentTypeError),
        (lambda: vs.variable_axis_size_partitioner(0), ArgumentValueError),
        (lambda: vs.variable_axis_size_partitioner(8, max_shards=0), ArgumentValueError),
        (
            lambda: vs.variable_axis_size_partitioner(8, bytes_per_string_element=0),
            ArgumentValueError,
        ),
        (lambda: vs.min_max_variable_partitioner(-1), ArgumentValueError),
        (lambda: vs.min_max_variable_partitioner(2, min_slice_size=0), ArgumentValueError),
        (lambda: vs.min_max_variable_partitioner("2"), ArgumentTypeError),
    ],
)
def test_arguments_of_partitioners_are_checked(make, error):
    with pytest.raises(error, match=r"(num_shards|axis|max_|min_|bytes_).* must be"):
        make()


@pytest.mark.parametrize(
    "partitioner",
    [
        cut(2),
        cut(2, axis=1),
        vs.variable_axis_size_partitioner(64, max_shards=3),
        vs.min_max_variable_partitioner(8),
    ],
)
def test_partitioners_are_values(partitioner):
    twin = pickle.loads(pickle.dumps(partitioner))
    assert twin == partitioner and hash(twin) == hash(partitioner)
    assert repr(twin) == repr(partitioner) and type(partitioner).__name__ in repr(partitioner)
    assert cut(np.int8(2)) == cut(2) != cut(3)
    with pytest.raises(AttributeError):
        partitioner.axis = 1


@pytest.mark.parametrize("partitioner", [cut(2, axis=1), cut(2, axis=-2)])
def test_an_axis_that_is_not_there(partitioner, refused):
    with refused(PartitionerError, "(3,)", "axis"):
        vs.get_variable("v", [3], partitioner=partitioner)


class Endless(list):
    def __iter__(self):
        while True:
            yield 1


@pytest.mark.parametrize(
    "result",
    [
        [2], [2, 1, 1], [], [0, 1], [-1, 1], [True, 1], [2.0, 1], [2, None], [np.True_, 1],
        [8, 1], [1, 3], [2, 2], "21", b"21", None, 2, {2: 1}, {2, 1}, iter([2, 1]), [2**63, 1],
        np.array([2.0, 1.0]), np.array([[2, 1], [2, 1]]), np.array(2), Endless([1]), Endless(),
    ],
    ids=repr,
)  # fmt: skip
def test_what_a_partitioner_must_not_return(result, refused):
    with refused(PartitionerError, "(7, 2)", "returned", "one a dimension") as caught:
        vs.get_variable("v", [7, 2], partitioner=lambda shape, dtype: result)
    assert caught.value.result is result and caught.value.shape == (7, 2)
    assert parted().name == "v"


@pytest.mark.parametrize(
    "result", [(2, 1), np.array([2, 1]), [np.int64(2), np.uint8(1)], range(2, 0, -1)]
)
def test_what_a_partitioner_may_return(result):
    v = vs.get_variable("v", [7, 2], partitioner=lambda shape, dtype: result)
    assert v.partitions == (2, 1) and type(v.partitions[0]) is int


def test_what_a_partitioner_is_asked():
    seen = []

    def partitioner(**asked):
        seen.append(asked)
        return [1, 2]

    vs.get_variable("v", [4, 6], "float16", partitioner=partitioner)
    assert seen == [{"shape": (4, 6), "dtype": np.dtype("float16")}]
    assert type(seen[0]["shape"]) is tuple and isinstance(seen[0]["dtype"], np.dtype)


@pytest.mark.parametrize("wrong", [3, [2, 1], "two", vs.fixed_size_partitioner])
def test_a_partitioner_that_cannot_be_called(wrong, refused):
    with refused(vs.errors.NotCallableError, "partitioner", "fixed_size_partitioner"):
        vs.get_variable("v", [2], partitioner=wrong)


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_a_partitioner_that_fails_leaves_the_graph_as_it_was(exception, refused):
    def fail(shape, dtype):
        raise exception("no")

    with refused(exception):
        vs.get_variable("v", [4], partitioner=fail)
    assert parted("v").name == "v"


def test_a_partitioner_that_creates_the_same_name():
    def partitioner(shape, dtype):
        if "v" not in vs.get_default_graph():
            vs.get_variable("v", [4])
        return [2]

    with pytest.raises(PartitionMismatchError, match="made whole"):
        vs.get_variable("v", [4], partitioner=partitioner)


def test_a_partitioner_that_creates_other_variables():
    def partitioner(shape, dtype):
        if "a/inner" not in vs.get_default_graph():
            with vs.variable_scope("a"):
                parted("inner")
        return [2, 1]

    v = vs.get_variable("v", [4, 2], partitioner=partitioner)
    names = [w.name for w in vs.global_variables()]
    assert names == [*(f"a/inner/part_{i}:0" for i in range(3)), *(s.name for s in v)]


@pytest.mark.parametrize("slices", [2, 3])
def test_a_partitioner_that_creates_the_same_name_in_parts(slices):
    def partitioner(shape, dtype):
        with sharing(vs.AUTO_REUSE):
            parted(shape=shape)
        return [slices, 1]

    with sharing(vs.AUTO_REUSE):
        if slices == 3:
            v = vs.get_variable("v", [7, 2], partitioner=partitioner)
            assert v is vs.get_default_graph()["v"] and len(v) == 3
        else:
            with pytest.raises(PartitionMismatchError, match=r"\[3, 1\].*\[2, 1\]"):
                vs.get_variable("v", [7, 2], partitioner=partitioner)


def test_an_initializer_that_asks_for_its_own_variable():
    def initializer(shape, dtype):
        with sharing(vs.AUTO_REUSE):
            assert vs.get_variable("v").shape == shape
            vs.get_variable("scratch", [2], partitioner=cut(2))
        return np.ones(shape, dtype)

    assert parted(initializer=initializer).numpy().sum() == 14 and "scratch" in parted("w").graph


# --- what is made --------------------------------------------------------------------------------


def test_shards_are_variables_and_the_whole_is_not():
    with vs.variable_scope("a"):
        v = parted()
    g = vs.get_default_graph()
    assert v.name == v.op_name == v.path == "a/v"
    assert [shard.name for shard in v] == [f"a/v/part_{i}:0" for i in range(3)]
    assert [shard.shape for shard in v] == [(3, 2), (2, 2), (2, 2)]
    assert len(v) == 3 and v[0] is next(iter(v)) and v[-1] is v[2] and v[:2] == [v[0], v[1]]
    assert list(g.variables) == list(v) and len(g) == 3 and g.num_parameters == 14
    assert g["a/v"] is v and "a/v" in g and "a/v:0" not in g and g["a/v/part_1"] is v[1]
    assert g.find("a/v/*") == list(v) and g.find("a/v") == []
    assert (v.shape, v.ndim, v.size, v.nbytes, v.dtype) == ((7, 2), 2, 14, 56, np.float32)
    assert v.graph is g and v.trainable and v.partitions == (3, 1) and v.device == "cpu"
    assert v.creation_site == v[0].creation_site and v.creation_site[0] == __file__
    with pytest.raises(IndexError):
        v[3]


def test_the_slices_that_shards_are():
    v = parted(shape=[4, 7], axis=1)
    infos = [shard.save_slice_info for shard in v]
    assert [info.var_offset for info in infos] == [(0, 0), (0, 3), (0, 5)]
    assert [info.var_shape for info in infos] == [(4, 3), (4, 2), (4, 2)]
    assert {info.full_name for info in infos} == {"v"}
    assert {info.full_shape for info in infos} == {(4, 7)}
    assert infos[1].spec == "4 7 0,4:3,2"
    assert pickle.loads(pickle.dumps(infos[1])) == infos[1]


def test_what_is_no_shard_has_no_slice():
    parted(n=2)
    for name in ["w", "v/part_2", "v/part_00", "v/part_x", "v/part", "v/part_0/w", "x/part_0"]:
        assert vs.get_variable(name, [2]).save_slice_info is None, name


@pytest.mark.parametrize("given", [into(1, 1), cut(1), vs.min_max_variable_partitioner()])
def test_one_slice_is_one_shard(given):
    v = vs.get_variable("v", [4, 2], partitioner=given, initializer=ramp)
    assert isinstance(v, vs.PartitionedVariable) and [s.name for s in v] == ["v/part_0:0"]
    assert np.shares_memory(v.value(), v[0].array) and not v.value().flags.writeable
    assert v[0].save_slice_info.var_shape == (4, 2)


@pytest.mark.parametrize("options", [{"shape": []}, {"initializer": 3.0}])
def test_a_scalar_is_never_partitioned(options):
    def partitioner(shape, dtype):
        raise AssertionError

    with vs.variable_scope("a", partitioner=partitioner, reuse=vs.AUTO_REUSE):
        v = vs.get_variable("step", **options)
        assert isinstance(v, vs.Variable) and vs.get_variable("step", **options) is v
        assert vs.get_variable("step") is v


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (1,), (1, 0)])
@pytest.mark.parametrize("dtype", ["float32", "int8", "bool"])
def test_zero_size(shape, dtype):
    v = parted(shape=shape, n=2, dtype=dtype, initializer=vs.zeros)
    assert v.shape == shape and v.numpy().shape == shape and v.dtype == dtype
    assert sum(shard.size for shard in v) == v.size
    assert v.assign(np.ones(shape, dtype)).numpy().tolist() == np.ones(shape, dtype).tolist()


@pytest.mark.parametrize("dim", [-1, 2**63 - 1, 2**63, 2**62])
def test_shapes_that_overflow(dim, refused):
    with refused(vs.errors.InvalidShapeError):
        vs.get_variable("v", [dim, 2], partitioner=cut(2))


def test_a_huge_variable_is_cut_without_being_allocated():
    v = parted(shape=[10**12, 3], n=4, axis=0, initializer=None)
    assert v.nbytes == 12 * 10**12 and not v.initialized
    assert v[3].save_slice_info.var_offset == (75 * 10**10, 0)
    part = v[3].initial_value((slice(0, 2), 1))
    assert part.tolist() == v.initial_value((slice(75 * 10**10, 75 * 10**10 + 2), 1)).tolist()


@pytest.mark.parametrize("shape", [None, [None, 2]])
def test_the_shape_must_be_known(shape, refused):
    with refused(PartitionerError, "every dimension known"):
        vs.get_variable("v", shape, partitioner=cut(2), validate_shape=False)
    with refused(vs.errors.InvalidShapeError):
        vs.get_variable("v", shape, partitioner=cut(2))


def test_a_scopes_partitioner_is_for_all_below_it():
    with vs.variable_scope("a", partitioner=cut(2)):
        with vs.variable_scope("b"):
            v = vs.get_variable("v", [4])
            w = vs.get_variable("w", [4], partitioner=cut(4))
        local = vs.get_local_variable("local", [4])
    assert (len(v), len(w), len(local)) == (2, 4, 2)
    assert vs.global_variables() == [*v, *w] and vs.local_variables() == list(local)
    assert vs.trainable_variables("a/b/v") == list(v)


def test_op_names_of_shards_are_made_unique():
    g = vs.get_default_graph()
    assert g.unique_name("v/part_1") == "v/part_1"
    v = parted(n=2)
    assert [shard.name for shard in v] == ["v/part_0:0", "v/part_1_1:0"]
    assert [shard.path for shard in v] == ["v/part_0", "v/part_1"]
    assert v[1].save_slice_info.var_offset == (4, 0)
    assert g.unique_name("v") == "v"


# --- values --------------------------------------------------------------------------------------

BUILT_IN = [
    vs.zeros,
    vs.ones,
    vs.constant(0.5),
    vs.random_uniform(-1.0, 1.0),
    vs.random_normal(stddev=0.5),
    vs.truncated_normal(seed=3),
    vs.uniform_unit_scaling(),
    vs.variance_scaling(2.0, "fan_out", "uniform"),
    vs.glorot_uniform(),
    vs.glorot_normal(),
    vs.he_uniform(),
    vs.he_normal(),
    vs.lecun_uniform(),
    vs.lecun_normal(),
    vs.orthogonal(),
    vs.identity(2.0),
]


@settings(max_examples=120)
@given(
    st.sampled_from(BUILT_IN),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 9),
    st.integers(0, 1),
    st.integers(0, 2**64),
    st.sampled_from(["float16", "float32", "float64"]),
    st.data(),
)
def test_values_do_not_depend_on_how_a_variable_is_cut(
    initializer, shape, n, axis, seed, dtype, data
):
    def built(partitioner):
        with vs.Graph(seed).as_default(), vs.variable_scope("a", initializer=initializer):
            vs.get_variable("before", [data.draw(st.integers(1, 3))])
            return vs.get_variable("v", shape, dtype, partitioner=partitioner)

    whole, v = built(None), built(cut(n, axis))
    order = data.draw(st.permutations(range(len(v))))
    for i in order:
        region = v[i].save_slice_info
        index = tuple(
            slice(o, o + s) for o, s in zip(region.var_offset, region.var_shape, strict=True)
        )
        assert v[i].numpy().tobytes() == whole.numpy()[index].tobytes()
    assert v.numpy().tobytes() == whole.numpy().tobytes()
    assert v.initial_value().tobytes() == whole.numpy().tobytes()


def test_the_whole_is_computed_once_where_it_must_be():
    asked = []

    def initializer(shape, dtype):
        asked.append(shape)
        return ramp(shape, dtype)

    v = parted(initializer=initializer)
    assert v[1].numpy().tolist() == [[6, 7], [8, 9]]
    assert v.initialized and asked == [(7, 2)]
    assert v.numpy().tolist() == ramp((7, 2), "float32").tolist()
    v[0].assign(np.zeros([3, 2]))
    v.initialize()
    assert v[0].numpy().tolist() == [[0, 0]] * 3 and asked == [(7, 2)]
    v.initialize(force=True)
    assert v.numpy().tolist() == ramp((7, 2), "float32").tolist()
    assert asked == [(7, 2)] * 2


def test_what_is_made_anew_comes_from_one_call():
    numbers = iter(range(10))
    v = parted(initializer=lambda shape, dtype: np.full(shape, next(numbers), dtype))
    v[1].initialize()
    v.initialize(force=True)
    assert (v.numpy() == 1).all() and [shard.version for shard in v] == [2] * len(v)


def test_what_is_made_anew_in_parts():
    def initializer(shape, dtype, partition_info):
        return np.full(shape, partition_info.var_offset[0], dtype)

    v = parted(n=2, initializer=initializer)
    v.assign(np.ones((7, 2)))
    v.initialize(force=True)
    assert v.numpy()[:, 0].tolist() == [0, 0, 0, 0, 4, 4, 4]


def test_an_initializer_that_takes_partition_info_is_asked_for_its_part():
    asked = []

    def initializer(shape, dtype, partition_info):
        asked.append((shape, partition_info.full_shape, partition_info.var_offset))
        return np.full(shape, partition_info.var_offset[0], dtype)

    v = parted(n=2, initializer=initializer)
    assert v.numpy()[:, 0].tolist() == [0, 0, 0, 0, 4, 4, 4]
    assert asked == [((4, 2), (7, 2), (0, 0)), ((3, 2), (7, 2), (4, 0))]


def test_an_array_as_initializer_is_cut():
    array = np.arange(6, dtype="int16").reshape(3, 2)
    v = vs.get_variable("v", initializer=array, partitioner=cut(2, axis=1))
    array[:] = 0
    assert v.shape == (3, 2) and v.dtype == "int16"
    assert v[1].numpy().tolist() == [[1], [3], [5]] and not v[0].initialized


@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("k", range(3))
def test_an_initializer_that_fails_for_one_shard(exception, k):
    failing = [True]

    def initializer(shape, dtype, partition_info):
        if partition_info.var_offset[0] == [0, 3, 5][k] and failing:
            raise exception("no")
        return np.ones(shape, dtype)

    v = parted(initializer=initializer)
    before = snap(vs.get_default_graph())
    with pytest.raises(exception):
        v[k].value()
    assert snap(vs.get_default_graph()) == before
    with pytest.raises(exception):
        v.value()
    assert not v[k].initialized
    failing.clear()
    assert v.numpy().tolist() == np.ones((7, 2)).tolist()


def test_an_initializer_that_reads_another_shard_of_its_variable():
    v = parted(n=2, initializer=lambda shape, dtype: v[1].numpy())
    with pytest.raises(vs.errors.InitializerError, match="reads the variable itself"):
        v[0].value()


# --- reading and setting the whole ---------------------------------------------------------------


def test_value_numpy_and_array():
    v = parted()
    whole = ramp((7, 2), "float32")
    for array in (v.value(), v.numpy(), np.asarray(v), np.array(v)):
        assert array.dtype == np.float32 and (array == whole).all()
    assert not v.value().flags.writeable and v.numpy().flags.writeable
    assert np.asarray(v, dtype="float64").dtype == np.float64
    with pytest.raises(ValueError, match="parts"):
        v.__array__(copy=False)


def test_arithmetic_is_as_on_its_value():
    v, whole = parted(), ramp((7, 2), "float32")
    assert (v + 1).tolist() == (whole + 1).tolist() and type(v + 1) is np.ndarray
    assert np.exp(v).tolist() == np.exp(whole).tolist()
    assert (v @ np.ones(2)).tolist() == (whole @ np.ones(2)).tolist()
    assert (v * v[0].value()[0, 1]).tolist() == whole.tolist() and (-v).sum() == -whole.sum()
    w = v
    v += 1
    assert v is w and v.numpy().tolist() == (whole + 1).tolist()
    assert np.add(v, 1, out=v) is v and v.numpy().tolist() == (whole + 2).tolist()


def test_it_compares_and_hashes_by_identity():
    v, w = parted("v"), parted("w")
    assert v == v and v != w and (v == w) is False and {v: 1}[v] == 1 and v in [w, v] and bool(v)
    with pytest.raises(TypeError):
        v < w  # noqa: B015
    with pytest.raises(ArgumentTypeError, match="get_variable"):
        vs.PartitionedVariable()


def test_assign():
    v, array = parted(), np.full((7, 2), 3.0)
    assert v.assign(array) is v and v.initialized and v.numpy().tolist() == array.tolist()
    assert v[2].numpy().tolist() == [[3, 3], [3, 3]] and v.version == 3
    assert v.assign_add(array).assign_sub(np.ones((7, 2))).numpy().tolist() == (array + 2).tolist()
    v[1].assign(np.zeros((2, 2)))
    assert v.numpy()[:, 0].tolist() == [5, 5, 5, 0, 0, 5, 5]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.zeros((2, 7)), ShapeMismatchError),
        (np.zeros((3, 2)), ShapeMismatchError),
        (0.0, ShapeMismatchError),
        (np.zeros((7, 2), complex), DTypeMismatchError),
    ],
)
@pytest.mark.parametrize("method", ["assign", "assign_add", "assign_sub"])
def test_what_cannot_be_assigned_changes_nothing(method, value, error):
    v = parted(initializer=vs.ones)
    v[0].value()
    with pytest.raises(error, match="variable v has"):
        getattr(v, method)(value)
    assert [shard.initialized for shard in v] == [True, False, False]
    assert v.numpy().tolist() == np.ones((7, 2)).tolist()


def test_a_cast_that_fails_changes_nothing():
    if np.lib.NumpyVersion(np.__version__) < "1.24.0":
        pytest.skip("this NumPy casts without a warning, so nothing fails")
    v = parted(dtype="float16")
    value = np.zeros((7, 2))
    value[6] = 1e9  # in the last shard
    with pytest.raises(RuntimeWarning):
        v.assign(value)
    assert v.numpy().tolist() == ramp((7, 2), "float16").tolist()


def test_a_constraint_is_of_the_whole():
    def unit(x):
        return x / np.sqrt(np.sum(x * x))

    v = parted(initializer=vs.ones, constraint=unit)
    assert v.constraint is unit and v[0].constraint is unit
    assert np.allclose(v.project().numpy(), 14**-0.5)
    assert np.allclose(v.assign(np.full((7, 2), 4.0), apply_constraint=True).numpy(), 14**-0.5)


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_a_constraint_that_fails_changes_nothing(exception):
    def fail(x):
        raise exception("no")

    v = parted(constraint=fail)
    for call in (v.project, lambda: v.assign(np.zeros((7, 2)), apply_constraint=True)):
        with pytest.raises(exception):
            call()
        assert v.numpy().tolist() == ramp((7, 2), "float32").tolist()


def test_repr():
    v = parted()
    assert repr(v) == (
        "<PartitionedVariable 'v' shape=(7, 2) dtype=float32 partitions=(3, 1), declared>"
    )
    v.initialize()
    assert repr(v).endswith("partitions=(3, 1)>")


# --- sharing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", [True, vs.AUTO_REUSE])
def test_sharing_gives_the_same_object(reuse):
    v = parted()
    with sharing(reuse):
        assert vs.get_variable("v") is v and vs.get_variable("v", [7, 2]) is v
        assert vs.get_variable("v", [None, 2]) is v and parted() is v
        assert vs.get_variable("v", partitioner=into(3, 1)) is v
        assert vs.get_variable("v/part_1") is v[1]
    assert vs.get_default_graph()["v"] is v


@pytest.mark.parametrize("reuse", [True, vs.AUTO_REUSE])
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"shape": [7, 3]}, ShapeMismatchError, "(7, 2)"),
        ({"shape": [7]}, ShapeMismatchError, "(7, 2)"),
        ({"shape": []}, ShapeMismatchError, "(7, 2)"),
        ({"dtype": "int32"}, DTypeMismatchError, "float32"),
        ({"partitioner": cut(2)}, PartitionMismatchError, "[3, 1]"),
        ({"partitioner": cut(2, axis=1)}, PartitionMismatchError, "[1, 2]"),
        ({"partitioner": into(9, 1)}, PartitionerError, "[9, 1]"),
        ({"partitioner": cut(3), "shape": [8, 2]}, ShapeMismatchError, "(7, 2)"),
    ],
)
def test_what_differs_cannot_be_shared(reuse, options, error, words, refused):
    parted()
    with sharing(reuse), refused(error, words) as caught:
        vs.get_variable("v", **options)
    assert "already exists" not in str(caught.value)
    assert "does not exist" not in str(caught.value)


def test_asking_again_without_reuse(refused):
    v = parted()
    with refused(VariableExistsError, "v", "already exists", __file__):
        parted()
    with refused(PartitionMismatchError, "in partitions [3, 1]", __file__, "reuse=True") as caught:
        vs.get_variable("v", [7, 2])
    assert caught.value.expected == (3, 1) and caught.value.site == v.creation_site
    with refused(VariableExistsError, "v/part_0"):
        vs.get_variable("v/part_0", [3, 2])


@pytest.mark.parametrize("reuse", [None, True, vs.AUTO_REUSE])
def test_a_partitioner_for_what_was_made_whole(reuse, refused):
    w = vs.get_variable("w", [7, 2])
    with sharing(reuse), refused(PartitionMismatchError, "made whole", __file__) as caught:
        parted("w")
    assert caught.value.expected is None and caught.value.site == w.creation_site


def test_reusing_what_is_missing(refused):
    parted("v")
    with sharing(), refused(VariableMissingError, "does not exist"):
        parted("vv")


@pytest.mark.parametrize("reuse", [None, vs.AUTO_REUSE])
@pytest.mark.parametrize("taken", ["v/part_0", "v/part_2"])
def test_the_name_of_a_shard_may_be_taken(taken, reuse, refused):
    vs.get_variable(taken, [1])
    with sharing(reuse), refused(VariableExistsError, taken):
        parted()
    with sharing(reuse):
        assert isinstance(vs.get_variable("v", [7, 2]), vs.Variable)  # no part of a whole
        assert len(parted("w")) == 3


def test_fast_ways_do_not_make_what_is_there_in_parts():
    for name in ["a", "b", "c"]:
        vs.get_variable(name, [2])  # so that the request is known
        with vs.variable_scope("s", reuse=vs.AUTO_REUSE):
            vs.get_variable(name, [2])
    v = parted("v", shape=[2], n=2)
    with pytest.raises(PartitionMismatchError):
        vs.get_variable("v", [2])
    with vs.variable_scope("s", reuse=vs.AUTO_REUSE):
        w = parted("v", shape=[2], n=2)
        assert vs.get_variable("v", [2]) is w is not v
    with sharing(vs.AUTO_REUSE):
        assert vs.get_variable("v", [2]) is v


def test_a_finalized_graph_takes_no_parts(refused):
    v = parted()
    vs.get_default_graph().finalize()
    with refused(FinalizedGraphError, "w"):
        parted("w")
    with sharing():
        assert vs.get_variable("v") is v


# --- life and death ------------------------------------------------------------------------------


def test_it_is_one_object_while_somebody_holds_it():
    g = vs.get_default_graph()
    v = parted()
    reference = weakref.ref(v)
    shard = v[0]
    number = id(v)
    assert g["v"] is v and id(g["v"]) == number
    del v
    assert reference() is None
    v = g["v"]
    assert v[0] is shard and len(v) == 3 and g["v"] is v


def test_a_graph_that_an_initializer_of_parts_reaches_is_collected():
    with vs.Graph().as_default() as g:
        parted(initializer=lambda shape, dtype, graph=g: np.zeros(shape, dtype)).value()
    reference = weakref.ref(g)
    del g
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("name", ["/v", "v/", "v/part_3", "v/part_00", "", "/", "a/v", "v:0"])
def test_names_that_are_none_of_its(name):
    parted()
    g = vs.get_default_graph()
    assert name not in g
    with pytest.raises(KeyError):
        g[name]


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_copies_of_a_graph(way, protocol):
    g = vs.Graph(seed=5)
    with g.as_default():
        g.unique_name("a/v/part_1")
        with vs.variable_scope("a", regularizer=vs.l2_regularizer(0.5)):
            v = parted(initializer=None)
            vs.get_variable("w", [2])
        parted("u", n=2, regularizer=vs.l1_regularizer(1.0))
        g.add_to_collection("mine", v)
        g.add_to_collection("mine", v[1])
        v[0].assign(np.ones((3, 2)))
    twin = pickle.loads(pickle.dumps(g, protocol)) if way == "pickle" else copy.deepcopy(g)
    w = twin["a/v"]
    assert isinstance(w, vs.PartitionedVariable) and w is not v and w.graph is twin
    assert [s.name for s in w] == [s.name for s in v] and w.partitions == v.partitions
    assert [s.save_slice_info for s in w] == [s.save_slice_info for s in v]
    assert [s.initialized for s in w] == [True, False, False]
    assert w.numpy().tobytes() == v.numpy().tobytes()
    assert twin.get_collection("mine") == [w, w[1]]
    losses = twin.get_regularization_losses()
    assert [loss.name for loss in losses] == ["a/v/Regularizer", "a/w/Regularizer", "u/Regularizer"]
    assert losses[0].value() == g.get_regularization_losses()[0].value()
    with twin.as_default(), vs.variable_scope("a", reuse=vs.AUTO_REUSE):
        assert vs.get_variable("v") is w and len(twin) == 6


def test_a_variable_that_is_pickled_brings_its_graph():
    v = parted()
    w = pickle.loads(pickle.dumps(v))
    assert w.graph is not v.graph and w is w.graph["v"]
    assert w.numpy().tolist() == v.numpy().tolist()
    both = pickle.loads(pickle.dumps([v, v[0]]))
    assert both[0][0] is both[1]


# --- custom getters ------------------------------------------------------------------------------


def test_a_getter_sees_the_partitioner_and_may_change_it():
    seen = []

    def getter(true, name, *args, **kwargs):
        seen.append((name, kwargs["partitioner"]))
        return true(name, *args, **{**kwargs, "partitioner": cut(2)})

    four = cut(4)
    with vs.variable_scope("a", custom_getter=getter, partitioner=four):
        v = vs.get_variable("v", [4])
    assert seen == [("a/v", four)] and len(v) == 2 and v.name == "a/v"


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_what_a_failing_getter_made_is_withdrawn(exception, refused):
    made = []

    def fail(getter, name, *args, **kwargs):
        getter(name + "_first", *args, **kwargs)
        made.append(getter(name, *args, **kwargs))
        getter(name + "_last", [2])
        raise exception("no")

    outer = parted("there", regularizer=vs.l2_regularizer(1.0))
    with vs.variable_scope("a", custom_getter=through), refused(exception):
        parted(custom_getter=fail, regularizer=vs.l2_regularizer(1.0))
    (v,) = made
    shards = v._shards
    for use in (v.numpy, lambda: v[0], lambda: len(v), lambda: v.assign(np.zeros((7, 2)))):
        with pytest.raises(WithdrawnError):
            use()
    assert "withdrawn" in repr(v) and all("withdrawn" in repr(shard) for shard in shards)
    g = vs.get_default_graph()
    assert "a/v" not in g and list(g.variables) == list(outer)
    assert [loss.variable for loss in vs.get_regularization_losses()] == [outer]
    with vs.variable_scope("a"):
        again = parted()
    assert again is not v and [s.name for s in again] == [f"a/v/part_{i}:0" for i in range(3)]
    assert outer.numpy().tolist() == ramp((7, 2), "float32").tolist()


def test_a_getter_may_make_parts_of_its_own():
    def getter(true, name, *args, **kwargs):
        return true(name, *args, **kwargs).value() * 2

    v = parted(custom_getter=getter)
    assert v.tolist() == (ramp((7, 2), "float32") * 2).tolist()


# --- threads -------------------------------------------------------------------------------------


def race(*functions, rounds=60):
    """Run functions of a round's name at the same time; yields their results a round."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(rounds):
            graph, barrier = vs.Graph(), threading.Barrier(len(functions))
            results = [None] * len(functions)

            name = f"a/v{number % 3}"

            def work(place, function, name=name, graph=graph, barrier=barrier, results=results):
                barrier.wait()
                with graph.as_default():
                    try:
                        results[place] = function(name)
                    except ValueError as error:
                        results[place] = error

            threads = [threading.Thread(target=work, args=pair) for pair in enumerate(functions)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            yield graph, results
    finally:
        sys.setswitchinterval(interval)


def test_one_of_several_threads_creates():
    for graph, results in race(*[parted] * 4):
        made = [r for r in results if isinstance(r, vs.PartitionedVariable)]
        assert len(made) == 1 and len(graph) == 3 and list(graph.variables) == list(made[0])
        others = [r for r in results if r is not made[0]]
        assert all(isinstance(r, VariableExistsError) for r in others), others


def test_threads_that_share_get_the_same_object():
    def share(name):
        with sharing(vs.AUTO_REUSE):
            return parted(name)

    for graph, results in race(*[share] * 4):
        assert len(graph) == 3 and len({id(r) for r in results}) == 1, results


def test_whole_and_in_parts_at_once():
    def whole(name):
        return vs.get_variable(name, [7, 2])

    for graph, results in race(parted, whole, parted, whole):
        made = [r for r in results if not isinstance(r, Exception)]
        assert len(made) == 1 and len(graph) == (1 if isinstance(made[0], vs.Variable) else 3)
        others = [r for r in results if r is not made[0]]
        assert all(isinstance(r, (VariableExistsError, PartitionMismatchError)) for r in others)


@pytest.mark.one_thread
def test_threads_that_look_up_what_nobody_holds_get_one_object():
    def look(name):
        return vs.get_default_graph()["v"]

    for _ in range(50):
        parted()
        graph = vs.get_default_graph()
        barrier = threading.Barrier(4)
        found = []

        def work(graph=graph, barrier=barrier, found=found):
            barrier.wait()
            found.append(graph["v"])

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(v) for v in found}) == 1
        vs.reset_default_graph()


# --- with the rest of the library ----------------------------------------------------------------


def test_all_variables_can_be_initialized_and_summarized():
    with vs.variable_scope("a", partitioner=cut(2)):
        for i in range(3):
            with vs.variable_scope(f"layer_{i}"):
                vs.get_variable("w", [4, 2])
    vs.initialize()
    g = vs.get_default_graph()
    assert g["a/layer_1/w"].initialized
    rows = summarize(g).rows
    assert [(row.path, row.count) for row in rows] == [("a/layer_[0-2]/w/part_[0-1]", 6)]


def test_scopes_know_the_shards():
    with vs.variable_scope("a", partitioner=cut(2)) as scope:
        v = vs.get_variable("v", [4])
    vs.get_variable("b", [1])
    assert scope.global_variables() == list(v) == scope.trainable_variables()
    assert scope.get_collection("variables") == list(v)


INTERRUPTED = """
import os, random, signal, threading, time
import varscope as vs

# A shell's background jobs ignore SIGINT, and so would this process.
signal.signal(signal.SIGINT, signal.default_int_handler)
cut, many = vs.fixed_size_partitioner(3), vs.fixed_size_partitioner(200)
draw, hits = random.Random(1), 0

def interrupt(delay):
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGINT)

for _ in range(40):
    g = vs.Graph()
    thread = threading.Thread(target=interrupt, args=[draw.uniform(0.0005, 0.01)])
    try:
        thread.start()
        with g.as_default():
            for i in range(1_000_000):
                with vs.variable_scope(f"s{i}", partitioner=cut if i % 3 else many):
                    vs.get_variable("v", [200, 2])
    except KeyboardInterrupt:
        hits += 1
    thread.join()
    wholes = {name.rpartition("/part_")[0] for name in g}
    assert sum(len(g[name]) for name in wholes) == len(g)
    with g.as_default():
        assert vs.get_variable_scope().name == ""
        assert len(vs.get_variable("v", [200, 2], partitioner=cut)) == 3
print(hits)
"""


@on_posix
def test_an_interrupt_leaves_all_parts_or_none():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "40\n", done.stderr


NOMEMORY = """
import os, sys, _testcapi
import varscope as vs
from varscope.partitioned import add_partitioned

cut, zeros = vs.fixed_size_partitioner(3), vs.zeros
names = ["v/part_0:0", "v/part_1_1:0", "v/part_2:0"]

def whole_call():
    return vs.get_variable("v", [7, 2], partitioner=cut, initializer=zeros)

def last_step():
    return add_partitioned(g, "v", spec, (3, 1))

def attempt(g, n):
    with g.as_default():
        make = whole_call if sys.argv[1] == "whole call" else last_step
        _testcapi.set_nomemory(n, n + 1)
        try:
            v = make()
        except MemoryError:
            v = None
        finally:
            _testcapi.remove_mem_hooks()
        failed = v is None
        if failed:
            assert "v" not in g and len(g) == 9 and not g.get_regularization_losses(), n
            v = vs.get_variable("v", [7, 2], partitioner=cut, initializer=zeros)
        assert [s.name for s in v] == names and v.numpy().sum() == 0, (n, list(v))
    return failed

g = vs.Graph()
with g.as_default():
    g.unique_name("v/part_1")
    for i in range(3):
        vs.get_variable(f"u{i}", [7, 2], partitioner=cut, initializer=zeros)
spec = g["u0"]._spec
for n in range(1000):
    child = os.fork()  # each in a process of its own
    if child == 0:
        os._exit(2 if attempt(g, n) else 0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 2:
        break
print(status, n > 20)
"""


@on_posix
@pytest.mark.parametrize("what", ["whole call", "last step"])
def test_out_of_memory_at_any_time(what):
    pytest.importorskip("_testcapi")
    if what == "whole call" and sys.version_info >= (3, 13):
        pytest.skip("CPython 3.13 crashes where there is no memory for a nested function")
    done = subprocess.run([sys.executable, "-c", NOMEMORY, what], capture_output=True, text=True)
    assert done.stdout == "0 True\n", done.stderr


def test_one_that_is_missing_may_be_meant_for_one_in_parts():
    with vs.variable_scope("a", partitioner=cut(2)):
        vs.get_variable("kernel", [4])
    with vs.variable_scope("a", reuse=True), pytest.raises(ValueError, match="names: a/kernel;"):
        vs.get_variable("kernels")
