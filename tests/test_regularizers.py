"""Penalties: what the regularizers compute, and the lazy losses that variables with one give."""

import copy
import pickle
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from snapshots import snap

import varscope as vs
from varscope.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    NotCallableError,
    RegularizerError,
)

LOSSES = vs.GraphKeys.REGULARIZATION_LOSSES
EXCEPTIONS = [ValueError, KeyboardInterrupt, SystemExit, RecursionError, MemoryError]
l1, l2, both = vs.l1_regularizer, vs.l2_regularizer, vs.l1_l2_regularizer


def make(name="v", shape=(2,), initializer=vs.ones, **options):
    return vs.get_variable(name, shape, initializer=initializer, **options)


def names(scope=None):
    return [loss.name for loss in vs.get_regularization_losses(scope)]


# --- what they compute ---------------------------------------------------------------------------

floats = arrays.arrays(
    st.sampled_from(["float16", "float32", "float64", "int8", "int64", "bool", "uint8"]),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)


@given(floats, st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.one_thread
def test_the_formulas(values, a, b):
    exact = values.astype("float64")
    with np.errstate(all="ignore"):
        sums = np.sum(np.abs(exact)), np.sum(exact * exact)
        expected = [a * sums[0], a * sums[1] / 2, a * sums[0] + b * sums[1] / 2]
        found = [l1(a)(values), l2(a)(values), both(a, b)(values)]
        found.append(vs.sum_regularizer([l1(a), l2(b)])(values))
    np.testing.assert_allclose(found, [*expected, expected[2]], rtol=1e-12)
    assert all(type(penalty) is float for penalty in found)


def test_precision_and_range_of_narrow_dtypes():
    many = np.full(200_000, 0.1, "float16")
    assert l1(1.0)(many) == pytest.approx(200_000 * float(np.float16(0.1)), rel=1e-12)
    assert l2(1.0)(np.full(3, 60_000, "float16")) == 1.5 * float(np.float16(60_000)) ** 2
    assert l2(2.0)(np.array([200, 100], "uint8")) == 50_000
    assert l1(1.0)(np.array([-128], "int8")) == 128
    assert l1(1.0)(np.array([3 + 4j])) == 5 and l2(2.0)(np.array([3 + 4j], "complex64")) == 25
    assert l2(1.0)(np.array([1e200])) == np.inf
    assert np.isnan(l2(1.0)(np.array([np.nan, 1.0])))
    assert l1(1.0)(np.ones((3, 70_000), "int8").T[::2]) == 105_000  # not contiguous


def test_the_floats_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.array([0.5, -2.0], ml_dtypes.bfloat16)
    assert (l1(1.0)(values), l2(1.0)(values)) == (2.5, 2.125)


def test_they_take_variables_arrays_and_lists():
    v = make()
    w = make("w", [4, 2], partitioner=vs.fixed_size_partitioner(2))
    for regularizer in (l2(1.0), both(0.0, 1.0), vs.sum_regularizer([l2(1.0)])):
        assert regularizer(v) == 1.0 and regularizer(w) == 4.0
        assert regularizer([1, 1]) == 1.0 == regularizer(np.ones(2))


@pytest.mark.parametrize("scale", [-1, -1e-30, np.nan, np.inf, -np.inf, 10**400])
@pytest.mark.parametrize("make", [l1, l2, both, lambda scale: both(1.0, scale)])
def test_scales_that_cannot_be(make, scale):
    with pytest.raises(ArgumentValueError, match=r"scale.* must be a finite number"):
        make(scale)


@pytest.mark.parametrize("scale", [True, False, np.True_, "1", b"1", None, 1j, [1.0, 2.0], vs.ones])
@pytest.mark.parametrize("make", [l1, l2, both, lambda scale: both(1.0, scale)])
def test_scales_that_are_no_numbers(make, scale):
    with pytest.raises(ArgumentTypeError, match=r"scale.* must be a number"):
        make(scale)


def test_they_are_values():
    for regularizer in (l1(0.5), l2(0.5), both(0.5, 2), vs.sum_regularizer([l1(1.0), l2(2.0)])):
        twin = pickle.loads(pickle.dumps(regularizer))
        assert twin == regularizer and hash(twin) == hash(regularizer)
        assert repr(twin) == repr(regularizer)
        with pytest.raises(AttributeError):
            regularizer.scale = 1.0
    assert l1(1) == l1(1.0) == l1(np.float32(1.0)) != l2(1.0) and l1(1.0) != l1(2.0)
    assert repr(l2(1)) == "l2_regularizer(scale=1.0)"
    assert repr(l1(-0.0)) == "l1_regularizer(scale=0.0)"
    assert repr(both()) == "l1_l2_regularizer(scale_l1=1.0, scale_l2=1.0)"


@pytest.mark.parametrize("wrong", [3, None, l1(1.0), [3], [l1(1.0), "l2"]])
def test_what_cannot_be_summed(wrong):
    with pytest.raises(ArgumentTypeError, match="regularizer"):
        vs.sum_regularizer(wrong)


OFF = [
    vs.no_regularizer,
    l1(0),
    l2(0.0),
    both(0.0, 0.0),
    vs.sum_regularizer([]),
    vs.sum_regularizer([None, l1(0.0), vs.no_regularizer]),
]


@pytest.mark.parametrize("off", OFF, ids=repr)
def test_what_switches_off(off):
    assert off(np.ones(2)) is None
    with vs.variable_scope("a", regularizer=l2(1.0)), vs.variable_scope("b", regularizer=off):
        v = make()
        w = make("w", regularizer=l1(1.0))
        u = make("u", [4], regularizer=off, partitioner=vs.fixed_size_partitioner(2))
    assert v.regularizer is None is u.regularizer
    assert [loss.variable for loss in vs.get_regularization_losses()] == [w]


# --- the losses ----------------------------------------------------------------------------------


def test_one_entry_for_each_new_variable_in_order():
    with vs.variable_scope("a", regularizer=l2(1.0)):
        v = make()
        w = make("w", regularizer=l1(2.0))
        make("x", regularizer=vs.no_regularizer)
        with vs.variable_scope("b"):
            u = make("u", [4], partitioner=vs.fixed_size_partitioner(2))
            t = make("t")
    make("s")
    with vs.variable_scope("a", reuse=True, regularizer=l1(9.0)):
        assert make() is v and vs.get_variable("b/u", regularizer=l1(1.0)) is u
    losses = vs.get_regularization_losses()
    assert [loss.variable for loss in losses] == [v, w, u, t]
    assert [loss.regularizer for loss in losses] == [l2(1.0), l1(2.0), l2(1.0), l2(1.0)]
    assert [loss.value() for loss in losses] == [1.0, 4.0, 2.0, 1.0]
    assert names() == [
        "a/v/Regularizer",
        "a/w/Regularizer",
        "a/b/u/Regularizer",
        "a/b/t/Regularizer",
    ]
    assert vs.get_collection(LOSSES) == losses == vs.get_collection(LOSSES)
    assert vs.get_regularization_loss() == 8.0


def test_nothing_is_computed_before_it_is_asked_for():
    calls = []

    def regularizer(values):
        calls.append(values)
        return float(values.sum())

    v = make(regularizer=regularizer)
    (loss,) = vs.get_regularization_losses()
    assert not calls and not v.initialized
    assert loss.value() == 2.0 and calls[0].tolist() == [1, 1] and not calls[0].flags.writeable
    v.assign([3, 4])
    assert loss.value() == 7.0 == float(loss) and len(calls) == 3


def test_arithmetic_with_losses_computes():
    make(regularizer=vs.l1_regularizer(1.0))
    make("w", regularizer=vs.l2_regularizer(3.0))
    first, second = losses = vs.get_regularization_losses()
    assert sum(losses) == first + second == np.sum(losses) == 5.0
    assert 0.5 * first == first / 2 == 3 - first == 1.0 and -second == -3.0
    assert (np.float32(1) + second, np.maximum(first, 9), first < second) == (4.0, 9, True)
    assert (first + np.ones(2)).tolist() == [3.0, 3.0] and np.asarray(first).shape == ()
    assert np.asarray(first, dtype="float32").dtype == "float32"
    v = first.variable
    assert (v * first).tolist() == [2.0, 2.0]
    v.assign([0, 0])
    assert sum(losses) == 3.0


def test_one_entry_for_a_variable_in_parts():
    shapes = []

    def regularizer(values):
        shapes.append(values.shape)
        return np.linalg.norm(values)

    v = make(shape=[7, 2], partitioner=vs.fixed_size_partitioner(3), regularizer=regularizer)
    (loss,) = vs.get_regularization_losses()
    assert loss.variable is v and loss.name == "v/Regularizer" and v.regularizer is regularizer
    assert loss.value() == pytest.approx(14**0.5) and shapes == [(7, 2)]
    assert all(shard.regularizer is None for shard in v)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
@pytest.mark.parametrize("regularizer", [l1(1.0), l2(2.0), both(0.5, 1.0)])
def test_scalar_and_zero_size(shape, regularizer):
    make(shape=shape, regularizer=regularizer, partitioner=vs.fixed_size_partitioner(2))
    assert vs.get_regularization_loss() == (1.0 if shape == () else 0.0)


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (None, ["D/v", "D/p", "D_pre/v", "D/in/v"]),
        ("D", ["D/v", "D/p", "D/in/v"]),
        ("D/", ["D/v", "D/p", "D/in/v"]),
        ("D/v", ["D/v"]),
        ("D/p", ["D/p"]),
        ("D/p/part_0", []),
        ("D/in", ["D/in/v"]),
        ("nowhere", []),
        ("", ["D/v", "D/p", "D_pre/v", "D/in/v"]),
        (re.compile("D_"), ["D_pre/v"]),
        (re.compile(".*/p/Reg"), ["D/p"]),
    ],
)
def test_scopes_choose(scope, expected):
    with vs.variable_scope("", regularizer=l2(1.0)):
        make("D/v")
        make("D/p", [4], partitioner=vs.fixed_size_partitioner(2))
        make("D_pre/v")
        make("D/in/v")
    assert names(scope) == [f"{name}/Regularizer" for name in expected]
    loss = vs.get_regularization_loss(scope)
    assert loss == sum(2.0 if name == "D/p" else 1.0 for name in expected) and type(loss) is float
    graph = vs.get_default_graph()
    assert graph.get_regularization_loss(scope) == loss
    assert graph.get_regularization_losses(scope) == vs.get_regularization_losses(scope)


def test_a_scope_object_sees_its_losses():
    with vs.variable_scope("a", regularizer=l2(1.0)) as scope:
        v = make()
    with vs.variable_scope("ab", regularizer=l2(1.0)):
        make()
    assert [loss.variable for loss in scope.get_collection(LOSSES)] == [v]


def test_what_is_added_by_hand_counts_too():
    class Entry:
        name = "b/mine"

        def value(self):
            return np.float32(0.5)

    entry = Entry()
    vs.add_to_collection(LOSSES, 2)
    make("a/v", regularizer=l2(1.0))
    vs.add_to_collection(LOSSES, entry)
    make("b/v", regularizer=l2(1.0))
    first, second, third, fourth = vs.get_regularization_losses()
    assert (first, third) == (2, entry) and (second.name, fourth.name) == (
        "a/v/Regularizer",
        "b/v/Regularizer",
    )
    assert vs.get_regularization_loss() == 4.5 and vs.get_regularization_loss("b") == 1.5


def test_none_is_no_penalty():
    make(regularizer=lambda values: None)
    make("w", regularizer=vs.sum_regularizer([lambda values: None, l2(1.0)]))
    assert [loss.value() for loss in vs.get_regularization_losses()] == [0.0, 1.0]


def test_a_penalty_must_be_a_number():
    make(regularizer=np.abs)
    (loss,) = vs.get_regularization_losses()
    with pytest.raises(RegularizerError, match=r"variable v: .*shape \(2,\).*a sum") as caught:
        loss.value()
    assert caught.value.name == "v"


@pytest.mark.parametrize("wrong", [3, "l2", [l2(1.0)], vs.l2_regularizer])
@pytest.mark.parametrize("where", ["argument", "scope"])
def test_a_regularizer_that_cannot_be_called(wrong, where, refused):
    with vs.variable_scope("a", regularizer=wrong if where == "scope" else None):
        with refused(NotCallableError, "regularizer", "l2_regularizer"):
            make(**{"regularizer": wrong} if where == "argument" else {})
        make(regularizer=l2(1.0))


@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("n", [None, 1, 3])
def test_a_regularizer_that_fails(exception, n):
    def fail(values):
        raise exception("no")

    partitioner = n and vs.fixed_size_partitioner(n)
    v = make(shape=[7, 2], regularizer=fail, partitioner=partitioner)
    v.value()
    (loss,) = vs.get_regularization_losses()
    before = snap(vs.get_default_graph())
    for ask in (loss.value, vs.get_regularization_loss):
        with pytest.raises(exception):
            ask()
    assert snap(vs.get_default_graph()) == before


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_losses_of_what_was_withdrawn_are_gone(exception, refused):
    def fail(getter, *args, **kwargs):
        getter(*args, **kwargs)
        raise exception("no")

    with refused(exception):
        make(regularizer=l2(1.0), custom_getter=fail)
    assert vs.get_regularization_losses() == [] and vs.get_regularization_loss() == 0.0


def test_losses_are_equal_where_they_mean_the_same():
    v, w = make("v", regularizer=l2(1.0)), make("w", regularizer=l2(1.0))
    first, second = vs.get_regularization_losses()
    assert first == vs.RegularizationLoss(v, l2(1.0)) and first != vs.RegularizationLoss(v, l1(1.0))
    assert first != second and second.variable is w and first != 1.0
    assert {first, *vs.get_regularization_losses()} == {first, second}
    assert repr(first) == "<RegularizationLoss 'v/Regularizer' by l2_regularizer(scale=1.0)>"


def test_the_name_is_that_of_the_op():
    vs.get_default_graph().unique_name("v")
    make(regularizer=l2(1.0))
    assert names() == ["v_1/Regularizer"] and names("v") == ["v_1/Regularizer"]


def test_copies():
    make(regularizer=l2(1.0)).assign([2, 2])
    make("w", [4], regularizer=l1(1.0), partitioner=vs.fixed_size_partitioner(2))
    graph = vs.get_default_graph()
    for twin in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        losses = twin.get_regularization_losses()
        assert [loss.value() for loss in losses] == [4.0, 4.0]
        assert all(loss.variable.graph is twin is loss.graph for loss in losses)
    loss = pickle.loads(pickle.dumps(graph.get_regularization_losses()[0]))
    assert loss.value() == 4.0 and loss.graph is not graph


# --- a million of them ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        lambda: {"regularizer": l2(1e-4)},
        lambda: {"regularizer": vs.sum_regularizer([l1(1e-4), l2(1e-4)])},
        lambda: {"initializer": vs.constant(0.5)},
        lambda: {"initializer": vs.random_normal(stddev=0.02)},
    ],
)
def test_variables_alike_share_what_they_are(options):
    vs.get_variable("first", [2], **options())
    graph = vs.get_default_graph()
    spec = graph["first"]._spec
    for i in range(10):
        vs.get_variable(f"v{i}", [2], **options())
        assert graph[f"v{i}"]._spec is spec


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (vs.constant(0.0), vs.constant(-0.0)),
        (vs.constant(1), vs.constant(True)),
        (vs.random_normal(seed=1), vs.random_normal(seed=2)),
        (vs.random_normal(seed=0), vs.random_normal()),
    ],
)
def test_what_differs_a_little_is_kept_apart(one, other):
    for name, initializer in zip("ab", (one, other), strict=True):
        v = vs.get_variable(name, [1], initializer=initializer)
        assert repr(v.initializer) == repr(initializer)


@pytest.mark.one_thread
def test_penalties_take_no_memory():
    def grown(**options):
        with vs.Graph().as_default():
            vs.get_variable("first", [2], **options)
            tracemalloc.start()
            for i in range(2000):
                vs.get_variable(f"v{i}", [2], **options)
            used = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            assert len(vs.get_regularization_losses()) == (2001 if options else 0)
        return used

    grown()
    assert abs(grown(regularizer=l2(1e-4)) - grown()) < 20_000


def test_one_object_for_the_same_settings_however_written():
    for kind in (vs.l1_regularizer, vs.l2_regularizer):
        one = kind(1.0)
        assert kind(1) is one and kind(scale=1.0) is one and kind(np.float64(1)) is one
    assert vs.random_normal(stddev=np.sqrt(0.25)) is vs.random_normal(0.0, 0.5)
    assert vs.sum_regularizer([one]) is vs.sum_regularizer((one,))


def test_what_users_derive_is_not_told_apart_by_its_text():
    class Mine(vs.l2_regularizer):
        def __init__(self, scale, factor):
            super().__init__(scale)
            object.__setattr__(self, "factor", factor)

        def __call__(self, values):
            return self.factor * super().__call__(values)

    class Alike:
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, values):
            return self.factor

        def __repr__(self):
            return "Alike"

    def derived(factor):
        return vs.sum_regularizer([Mine(2.0, factor)])

    def nested(factor):
        return vs.sum_regularizer([vs.sum_regularizer([Alike(factor)])])

    for make in (derived, nested):
        made = [make(factor) for factor in (1, 2, 3)]
        assert [regularizer([1.0]) for regularizer in made] == [1, 2, 3]
