"""The built-in initializers: what they make, how they look, and what they refuse."""

import copy
import dataclasses
import gc
import inspect
import math
import pickle
import typing
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from requires import require_ml_dtypes

import varscope as vs

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "float32", "float64"]

RANDOM = [
    vs.random_uniform(-0.5, 2),
    vs.random_normal(0.5, 2.0),
    vs.truncated_normal(0.5, 2.0),
    vs.uniform_unit_scaling(1.43),
    vs.variance_scaling(2.0, "fan_out", "uniform"),
    vs.variance_scaling(2.0, "fan_avg", "untruncated_normal"),
    vs.glorot_uniform(),
    vs.glorot_normal(),
    vs.he_uniform(),
    vs.he_normal(),
    vs.lecun_uniform(),
    vs.lecun_normal(),
    vs.orthogonal(0.5),
]
OTHERS = [vs.zeros, vs.ones, vs.constant(0.5), vs.constant([[1.5, 2], [3, 4]]), vs.identity(2.0)]
ALL = OTHERS + RANDOM


def make(initializer, shape, dtype="float32", name="v", seed=1, **arguments):
    graph = vs.Graph(seed=seed)
    with graph.as_default():
        return vs.get_variable(name, shape, dtype, initializer=initializer, **arguments)


# --- as objects


@pytest.mark.parametrize("initializer", ALL, ids=repr)
def test_they_are_frozen_equal_by_their_settings_and_survive_copies(initializer):
    for other in (pickle.loads(pickle.dumps(initializer)), copy.deepcopy(initializer)):
        assert other == initializer
        assert hash(other) == hash(initializer)
        assert repr(other) == repr(initializer)
    with pytest.raises(AttributeError):
        initializer.seed = 3
    assert sum(other == initializer for other in ALL) == 1


@pytest.mark.parametrize("initializer", [i for i in ALL if i not in (vs.zeros, vs.ones)], ids=repr)
def test_the_repr_makes_an_equal_one(initializer):
    assert eval(f"vs.{initializer!r}", {"vs": vs}) == initializer


def test_the_repr_shows_what_is_not_the_default():
    assert repr(vs.random_normal()) == "random_normal()"
    assert repr(vs.random_normal(stddev=2, seed=7)) == "random_normal(stddev=2.0, seed=7)"
    assert repr(vs.glorot_uniform(seed=3)) == "glorot_uniform(seed=3)"
    assert repr(vs.zeros) == "zeros"


def test_constants_are_told_apart_by_type_and_sign():
    assert vs.constant(0.5) == vs.constant(0.5)
    assert len({vs.constant(x) for x in (0, 0.0, -0.0, False, 1, 1.0, True, 1 + 0j)}) == 8
    assert vs.constant([1, 2]) == vs.constant([1, 2]) != vs.constant([1.0, 2.0])
    assert vs.constant(math.nan) == vs.constant(math.nan)


def test_the_same_settings_give_the_same_object_however_they_are_written():
    first = vs.random_normal(stddev=2)
    assert vs.random_normal(0, 2.0) is first is vs.random_normal(stddev=2)
    assert vs.random_normal(stddev=2, seed=1) is not first
    assert vs.constant(0.0) is not vs.constant(-0.0)
    assert vs.constant(1) is not vs.constant(True)
    assert vs.l1_l2_regularizer(1) is vs.l1_l2_regularizer(scale_l1=1.0)
    assert vs.sum_regularizer([vs.l1_regularizer(1)]) is vs.sum_regularizer((vs.l1_regularizer(1),))
    assert vs.fixed_size_partitioner(2) is vs.fixed_size_partitioner(num_shards=2, axis=0)


def test_they_are_shared_while_somebody_holds_them_only():
    reference = weakref.ref(vs.random_normal(stddev=123.5))
    gc.collect()
    assert reference() is None


def test_classes_of_users_make_objects_of_their_own():
    class Mine(vs.Initializer):
        pass

    assert Mine() is not Mine()


@pytest.mark.parametrize("kind", [vs.random_normal, vs.he_uniform, vs.l2_regularizer, vs.constant])
def test_the_signature_is_that_of_the_settings(kind):
    assert [*inspect.signature(kind).parameters] == [f.name for f in dataclasses.fields(kind)]


# --- called by hand


def test_an_initializer_can_be_called_by_hand():
    assert vs.random_normal(seed=3)([4, 5]).shape == (4, 5)
    assert vs.random_normal(seed=3)([4]).dtype == "float32"
    assert vs.random_normal(seed=3)(4, "float16").dtype == "float16"


def test_by_hand_a_seed_decides_and_without_one_values_are_new():
    a, b = vs.random_normal(seed=3), vs.random_normal(seed=4)
    assert (a([9]) == a([9])).all()
    assert (a([9]) != b([9])).any()
    assert (vs.random_normal()([9]) != vs.random_normal()([9])).any()


@pytest.mark.parametrize("shape", [None, [None], [2, None]])
def test_by_hand_a_shape_has_to_be_known(shape):
    with pytest.raises(ValueError, match="every dimension known"):
        vs.random_normal()(shape)


@pytest.mark.parametrize("initializer", ALL, ids=repr)
def test_a_key_gives_the_same_as_the_variable(initializer):
    from varscope import randomness

    v = make(initializer, [2, 2])
    key = randomness.path_key(1, "v")
    np.testing.assert_array_equal(initializer([2, 2], "float32", key=key), v.value())


# --- what they make


@pytest.mark.parametrize("dtype", ["bool", *INTEGERS, *FLOATS, "complex64"])
def test_zeros_ones_and_constants_of_every_kind(dtype):
    assert (make(vs.zeros, [3], dtype).value() == 0).all()
    assert (make(vs.ones, [3], dtype).value() == 1).all()
    assert (make(vs.constant(1), [3], dtype).value() == 1).all()
    assert make(vs.constant(1), [], dtype).value().shape == ()


def test_a_constant_array_is_reshaped():
    assert make(vs.constant([[1, 2], [3, 4]]), [4]).numpy().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(0.5, "int32"), (300, "int8"), (-1, "uint8"), (2, "bool"), (1e6, "float16"), (1j, "float32"),
     ([0.5, 1], "int32"), (math.nan, "int32"), (math.inf, "int64")],
)  # fmt: skip
def test_a_constant_that_the_dtype_cannot_hold_is_refused(value, dtype):
    shape = [2] if isinstance(value, list) else [3]
    v = make(vs.constant(value), shape, dtype)
    with pytest.raises(vs.errors.InitializerError, match="cannot be held"):
        v.initialize()
    assert not v.initialized


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_stays_so(value):
    np.testing.assert_array_equal(make(vs.constant(value), [2]).value(), [value] * 2)


def test_a_constant_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"3 elements.*shape \(2,\)"):
        make(vs.constant([1, 2, 3]), [2]).initialize()


@pytest.mark.parametrize("bad", ["1", b"1", None, [[1], [2, 3]], ["a"], object()])
def test_a_constant_is_made_of_numbers(bad):
    with pytest.raises((TypeError, ValueError), match="constant"):
        vs.constant(bad)


def test_identity():
    expected = 3 * np.eye(3, 5)
    np.testing.assert_array_equal(make(vs.identity(3), [3, 5]).value(), expected)
    assert make(vs.identity(), [2, 2], "int32").numpy().tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="matrices"):
        make(vs.identity(), [3]).initialize()


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 6), (6, 1), (0, 3), (3, 0)])
def test_any_run_of_an_identity(shape):
    whole = (2 * np.eye(*shape)).reshape(-1)
    for first in range(whole.size + 1):
        for last in range(first, whole.size + 1):
            found = vs.identity(2).run(shape, np.dtype("float16"), first, last)
            assert found.dtype == "float16" and found.tolist() == whole[first:last].tolist()


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (3, 2, 4), (1, 1), (5, 1), (1, 5)])
@pytest.mark.parametrize("gain", [1.0, 0.5, -2.0])
def test_orthogonal(shape, gain):
    q = make(vs.orthogonal(gain), shape, "float64").value().reshape(-1, shape[-1])
    rows, columns = q.shape
    product = q @ q.T if rows < columns else q.T @ q
    np.testing.assert_allclose(product, gain**2 * np.eye(min(q.shape)), atol=1e-14)


def test_orthogonal_of_zero_size_and_of_too_few_dimensions():
    assert make(vs.orthogonal(), (0, 3)).value().shape == (0, 3)
    for shape, dtype in (((), "float32"), ((3,), "float32"), ((3, 3), "int32")):
        with pytest.raises(ValueError, match="two dimensions"):
            make(vs.orthogonal(), shape, dtype, name="bad").initialize()


def test_orthogonal_is_uniformly_distributed():
    # The first entry of a random unit vector of three dimensions is uniform in [-1, 1].
    first = [vs.orthogonal(seed=i)((3, 3), "float64")[0, 0] for i in range(2000)]
    assert abs(np.mean(first)) < 0.06
    assert abs(np.var(first) - 1 / 3) < 0.03


# --- scaling

SHAPE = (3, 3, 20, 50)
FANS = {"fan_in": 180, "fan_out": 450, "fan_avg": 315}


@pytest.mark.parametrize("mode", FANS)
@pytest.mark.parametrize(
    "distribution", ["uniform", "truncated_normal", "normal", "untruncated_normal"]
)
def test_variance_scaling_has_the_variance_it_says(mode, distribution):
    v = make(vs.variance_scaling(3.0, mode, distribution), SHAPE, "float64").value()
    assert v.var() == pytest.approx(3.0 / FANS[mode], rel=0.05)
    limit = {"uniform": math.sqrt(9.0 / FANS[mode]), "untruncated_normal": math.inf}.get(
        distribution, 2 * math.sqrt(3.0 / FANS[mode]) / 0.8796256610342398
    )
    assert abs(v).max() <= limit
    assert abs(v).max() > 0.97 * min(limit, 3.5 * v.std())


@pytest.mark.parametrize(
    ("named", "settings"),
    [
        (vs.glorot_uniform(), (1.0, "fan_avg", "uniform")),
        (vs.glorot_normal(), (1.0, "fan_avg", "truncated_normal")),
        (vs.he_uniform(), (2.0, "fan_in", "uniform")),
        (vs.he_normal(), (2.0, "fan_in", "truncated_normal")),
        (vs.lecun_uniform(), (1.0, "fan_in", "uniform")),
        (vs.lecun_normal(), (1.0, "fan_in", "truncated_normal")),
    ],
    ids=repr,
)
def test_the_named_ones_are_variance_scalings(named, settings):
    scaling = make(vs.variance_scaling(*settings), SHAPE).value()
    np.testing.assert_array_equal(make(named, SHAPE).value(), scaling)


def test_uniform_unit_scaling_counts_all_but_the_last_dimension():
    v = make(vs.uniform_unit_scaling(2.0), [4, 5, 3], "float64").value()
    assert 0.9 * 2 * math.sqrt(3 / 20) < abs(v).max() <= 2 * math.sqrt(3 / 20)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3), (7,)])
@pytest.mark.parametrize("initializer", RANDOM[:-1], ids=repr)
def test_scalars_vectors_and_nothing(initializer, shape):
    v = make(initializer, shape).value()
    assert v.shape == shape
    assert np.isfinite(v).all()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_uniform_integers(dtype):
    v = make(vs.random_uniform(3, 7), [1000], dtype).value()
    assert sorted(set(v.tolist())) == [3, 4, 5, 6]


def test_uniform_integers_of_a_wide_range_are_exact():
    low, high = 2**62, 2**62 + 3
    v = make(vs.random_uniform(low, high), [100], "int64").value()
    assert set(v.tolist()) == {low, low + 1, low + 2}


@pytest.mark.parametrize("bounds", [(), (0,), (0.5, 3), (3, 3)])
def test_uniform_integers_need_integer_bounds(bounds):
    with pytest.raises(vs.errors.InitializerError, match="integers"):
        make(vs.random_uniform(*bounds), [3], "int32").initialize()


@pytest.mark.parametrize("bounds", [(-1, 3), (0, 257), (300, 400)])
def test_uniform_integers_have_to_fit_the_dtype(bounds):
    with pytest.raises(vs.errors.InitializerError, match="uint8"):
        make(vs.random_uniform(*bounds), [3], "uint8").initialize()


@pytest.mark.parametrize("initializer", [vs.random_normal(), vs.truncated_normal()], ids=repr)
@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_normal_numbers_are_real(initializer, dtype):
    v = make(initializer, [3], dtype)
    with pytest.raises(vs.errors.InitializerError, match=dtype):
        v.initialize()
    assert not v.initialized


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("initializer", [*RANDOM, vs.constant(0.5)], ids=repr)
def test_the_floats_of_ml_dtypes(name, initializer):
    require_ml_dtypes()
    v = make(initializer, [8, 8], name).value()
    wide = make(initializer, [8, 8], "float32").value()
    # What would round to a value outside the bounds goes to the last one inside.
    inside = abs(wide) < 0.8 * abs(wide).max()
    np.testing.assert_array_equal(v[inside], wide.astype(v.dtype)[inside])
    np.testing.assert_allclose(v.astype(float), wide, rtol=0.2, atol=0.02)


# --- settings that cannot be


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: vs.random_normal(stddev=-1), "stddev"),
        (lambda: vs.random_normal(mean=math.nan), "mean"),
        (lambda: vs.random_normal(stddev=math.inf), "finite"),
        (lambda: vs.random_normal(mean="0"), "mean"),
        (lambda: vs.random_normal(mean=[0, 1]), "mean"),
        (lambda: vs.random_normal(stddev=True), "stddev"),
        (lambda: vs.truncated_normal(stddev=-1), "stddev"),
        (lambda: vs.random_uniform(2, 1), "maxval"),
        (lambda: vs.random_uniform(2), "maxval"),
        (lambda: vs.random_uniform(0, math.inf), "maxval"),
        (lambda: vs.uniform_unit_scaling(-1), "factor"),
        (lambda: vs.variance_scaling(0), "scale"),
        (lambda: vs.variance_scaling(-1), "scale"),
        (lambda: vs.variance_scaling(mode="fan"), "'fan_in', 'fan_out', 'fan_avg'"),
        (lambda: vs.variance_scaling(distribution="gauss"), "'untruncated_normal'"),
        (lambda: vs.orthogonal(gain=None), "gain"),
        (lambda: vs.identity(gain=math.nan), "gain"),
        (lambda: vs.glorot_uniform(seed="1"), "seed"),
        (lambda: vs.he_normal(seed=1.0), "seed"),
    ],
)
def test_settings_are_checked_at_once(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


# --- values follow from graph seed, path and element alone


@pytest.mark.parametrize("initializer", RANDOM, ids=repr)
def test_values_differ_by_seed_path_and_initializer_seed(initializer):
    values = [
        make(initializer, [4, 4]).numpy(),
        make(initializer, [4, 4], seed=2).numpy(),
        make(initializer, [4, 4], name="w").numpy(),
        make(type(initializer)(seed=5), [4, 4]).numpy(),
    ]
    for i, a in enumerate(values):
        assert not any((a == b).all() for b in values[:i])
    np.testing.assert_array_equal(make(initializer, [4, 4]).value(), values[0])


@pytest.mark.parametrize("initializer", RANDOM, ids=repr)
@pytest.mark.parametrize("dtype", FLOATS)
def test_narrow_dtypes_round_the_same_numbers(initializer, dtype):
    if dtype == "float64":
        pytest.skip("float64 has words of its own")
    narrow = make(initializer, [4, 4], dtype).value()
    wide = make(initializer, [4, 4], "float32").value()
    np.testing.assert_allclose(narrow, wide, rtol=1e-3, atol=1e-3)


indices = st.one_of(
    st.integers(-5, 4), st.slices(5), st.just(...), st.just(slice(None, None, -1))
)  # fmt: skip


@pytest.mark.parametrize("initializer", ALL[:3] + ALL[4:], ids=repr)
@given(index=st.one_of(indices, st.tuples(st.slices(5), st.slices(6)), st.tuples(indices)))
def test_a_part_of_the_first_values_is_that_part_of_the_whole(initializer, index):
    v = make(initializer, [5, 6])
    expected = v.numpy()[index]
    part = v.initial_value(index)
    assert part.dtype == v.dtype
    np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("index", [5, (0, 9), (0, 0, 0), "a", [0, 1], None, 1.5, (..., ...)])
def test_an_index_that_selects_no_part_is_refused(index):
    v = make(vs.random_normal(), [5, 6])
    with pytest.raises(IndexError):
        v.initial_value(index)


def test_a_part_of_something_huge_is_made_alone():
    v = make(vs.truncated_normal(), [2**40, 2**20])
    part = v.initial_value((slice(2**39, 2**39 + 2), slice(-3, None)))
    assert part.shape == (2, 3)
    np.testing.assert_array_equal(v.initial_value((2**39, -1)), part[0, -1])
    assert not v.initialized


def test_functions_are_asked_for_the_whole_or_the_part_that_they_want():
    asked = []

    def whole(shape, dtype):
        asked.append(tuple(shape))
        return np.arange(math.prod(shape), dtype=dtype).reshape(shape)

    def part(shape, dtype, partition_info):
        asked.append((tuple(shape), partition_info.full_shape, partition_info.var_offset))
        return np.zeros(shape, dtype)

    assert make(whole, [4, 3]).initial_value((slice(1, 3), 2)).tolist() == [5, 8]
    assert make(part, [4, 3]).initial_value((slice(1, 3), 2)).tolist() == [0, 0]
    assert asked == [(4, 3), ((2, 1), (4, 3), (1, 2))]


def test_force_makes_the_first_values_again():
    v = make(vs.random_normal(), [5])
    first = v.numpy()
    array = v.assign(np.zeros(5)).array
    v.initialize(force=True)
    np.testing.assert_array_equal(v.value(), first)
    np.testing.assert_array_equal(array, first)
    assert v.version == 3


@pytest.mark.parametrize("kind", [vs.random_normal, vs.glorot_uniform, vs.he_normal, vs.orthogonal])
def test_a_class_stands_for_its_defaults(kind):
    np.testing.assert_array_equal(
        make(kind, [3, 3]).value(), make(kind(), [3, 3]).value()
    )  # fmt: skip


@pytest.mark.parametrize("kind", [vs.random_normal, vs.truncated_normal])
@pytest.mark.parametrize("settings", [{"mean": 1e39}, {"stddev": 1e39}, {"mean": -1e39}], ids=str)
def test_a_mean_or_stddev_that_the_dtype_cannot_hold(kind, settings):
    assert np.isfinite(kind(**settings)([9], "float64")).all()
    for dtype in ("float16", "float32"):
        with pytest.raises(
            vs.errors.InitializerError, match=f"{dtype}: mean and stddev must be from -[0-9]"
        ):
            kind(**settings)([9], dtype)


@pytest.mark.parametrize("read", [
    lambda v: v.value(), lambda v: v.initial_value(0), lambda v: vs.initialize([v], progress=False),
])  # fmt: skip
@pytest.mark.parametrize("storage", ["heap", "arena"])
@pytest.mark.parametrize("shape", [(3,), (1000, 1000)])
def test_what_an_initializer_raises_says_of_which_variable(read, storage, shape):
    def fails(shape, dtype):
        raise RuntimeError("no luck")

    with vs.Graph(storage=storage).as_default(), vs.variable_scope("some/layer"):
        ours = vs.get_variable("a", shape, "int32", initializer=vs.constant(0.5))
        theirs = vs.get_variable("b", shape, initializer=fails)
    with pytest.raises(vs.errors.InitializerError, match=r"^variable some/layer/a: ") as caught:
        read(ours)
    assert caught.value.variable == "some/layer/a"
    with pytest.raises(RuntimeError, match="no luck") as caught:
        read(theirs)
    assert caught.value.__notes__ == ["(in the initializer of variable some/layer/b)"]


def test_a_variable_that_is_read_by_an_initializer_is_named_itself():
    inner = vs.get_variable("inner", [2], "int32", initializer=vs.constant(0.5))
    outer = vs.get_variable("outer", [2], initializer=lambda shape, dtype: inner.value())
    with pytest.raises(vs.errors.InitializerError, match=r"^variable inner: constant 0\.5"):
        outer.value()


def test_classes_of_users_compare_and_show_what_their_fields_say():
    @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    class Noted(vs.l2_regularizer):
        kind: typing.ClassVar[str]
        since: dataclasses.InitVar[int] = 0
        seen: list = dataclasses.field(default_factory=list, compare=False, repr=False)

        def __post_init__(self, since):
            super().__post_init__()

    one, other = Noted(0.5, since=1, seen=[1]), Noted(0.5)
    assert one == other != Noted(0.25)
    assert hash(one) == hash(other)
    assert repr(one).endswith("Noted(scale=0.5)")
