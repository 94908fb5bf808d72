"""`varscope.compat.tf1`, name by name; `test_compat_tf1_models.py` has whole models."""

import collections
import copy
import importlib
import inspect
import json
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tf1_cases
from requires import require_ml_dtypes

import varscope as vs
from varscope.compat import tf1 as tf
from varscope.compat.tf1 import _missing
from varscope.errors import ArgumentTypeError, NotCoveredError

slim = tf.contrib.slim


def names(variables):
    return [v.name for v in variables]


def relu(x):
    return np.maximum(x, 0)


# === What TensorFlow did ========================================================================

RECORDED = json.loads((Path(__file__).parent / "data" / "tf1_cases.json").read_text("utf-8"))


@pytest.mark.parametrize("case", tf1_cases.CASES, ids=lambda case: case.__name__)
def test_a_program_does_what_it_did(case):
    lines = tf1_cases.run(case, tf)
    assert json.loads(json.dumps(lines)) == RECORDED[case.__name__]


# === Scopes and variables =======================================================================


@pytest.mark.parametrize("off", [None, False, 0, np.False_])
def test_reuse_false_means_none(off):
    with tf.variable_scope("a"):
        v = tf.get_variable("v", [1])
    with tf.variable_scope("a", reuse=off) as scope:
        assert scope.reuse is False
        with pytest.raises(ValueError, match="already exists"):
            tf.get_variable("v", [1])
    with tf.variable_scope("a", reuse=True), tf.variable_scope("", reuse=off) as scope:
        assert scope.reuse is True  # it cannot be switched off
        assert tf.get_variable("v") is v
    with tf.variable_scope(scope, reuse=off) as again:
        assert again.reuse is True
    with tf.variable_scope(None, "b", reuse=off) as new:
        assert new.name == "b"


@pytest.mark.parametrize("on", [True, 1, np.True_, tf.AUTO_REUSE])
def test_reuse_as_it_was_given(on):
    with tf.variable_scope("a"):
        v = tf.get_variable("v", [1])
    with tf.variable_scope("a", reuse=on):
        assert tf.get_variable("v") is v


@pytest.mark.parametrize("reuse", [2, "yes", 0.5, np.ones(2)])
def test_reuse_that_never_was(reuse, refused):
    with refused(ValueError, "reuse must be None"):
        tf.variable_scope("a", reuse=reuse)


def test_the_order_of_arguments():
    def getter(g, *args, **kwargs):
        return g(*args, **kwargs)

    with tf.variable_scope(
        "a", None, None, tf.ones_initializer(), None, None, None, getter, tf.AUTO_REUSE, tf.float64,
        True, np.abs, False,
    ) as scope:  # fmt: skip
        assert scope.custom_getter is getter and scope.constraint is np.abs
        v = tf.get_variable(
            "v", [2], tf.float64, tf.zeros_initializer(), None, False, ["mine"], None, None, True,
            False, getter, np.negative,
        )  # fmt: skip
        assert tf.get_default_graph().get_name_scope() == ""
    assert v.initializer == vs.zeros and not v.trainable and v.constraint is np.negative
    assert tf.get_collection("mine") == [v] and tf.global_variables() == []


def test_signatures_begin_as_those_of_varscope():
    for name in ("variable_scope", "get_variable"):
        ours = [*inspect.signature(getattr(tf, name)).parameters]
        own = inspect.signature(getattr(vs, name)).parameters
        positional = [p for p in own if own[p].kind is not inspect.Parameter.KEYWORD_ONLY]
        positional = [p for p in positional if p != "custom_getter"]
        assert [p for p in ours if p in positional] == positional
        assert set(own) < set(ours)


def test_where_a_variable_and_a_scope_were_made_is_told_of_the_model():
    with tf.variable_scope("a"):
        v = tf.get_variable("v", [1])
        w = tf.Variable(1.0)
    assert v.creation_site[0] == w.creation_site[0] == __file__
    with tf.variable_scope("a", reuse=True), pytest.raises(ValueError, match="test_compat_tf1"):
        tf.get_variable("missing")


def test_lists_as_first_values_take_32_bits():
    v = tf.get_variable("v", initializer=[1.0, 2.0])
    with tf.variable_scope("s", initializer=[1, 2]):
        w = tf.get_variable("w")
    assert (v.dtype, w.dtype) == (tf.float32, tf.int32)
    assert tf.get_variable("x", initializer=np.array([1.0])).dtype == tf.float64


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1, None, "int32"),
        (1.5, None, "float32"),
        ([[1.5]], None, "float32"),
        ([1j], None, "complex128"),
        (True, None, "bool"),
        (np.zeros(2), None, "float64"),
        (np.zeros(2), tf.float32, "float32"),
        (3, tf.float16, "float16"),
        (3, tf.int64, "int64"),
        (lambda: np.ones(3, "int8"), None, "int8"),
        (lambda: 4, tf.float64, "float64"),
    ],
)
def test_the_dtype_of_a_plain_variable(value, dtype, expected):
    v = tf.Variable(value, dtype=dtype)
    assert v.dtype == expected
    np.testing.assert_array_equal(v.eval(), value() if callable(value) else value)


def test_a_plain_variable_stands_outside_of_variable_scopes():
    def getter(*args, **kwargs):
        raise AssertionError("asked")

    with tf.variable_scope("s", reuse=True, custom_getter=getter, dtype=tf.float16):
        a = tf.Variable(1.0, name="a", collections=["mine"], trainable=False)
        b = tf.Variable(a, name="a")
    assert (a.name, b.name, b.dtype) == ("s/a:0", "s/a_1:0", tf.float32)
    assert tf.get_collection("mine") == [a]
    assert tf.trainable_variables() == [b]
    assert b.eval() == 1.0


def test_a_plain_variable_needs_a_value(refused):
    with refused(ValueError, "first value"):
        tf.Variable()
    with refused(TypeError, "float64", "int32", "astype"):
        tf.Variable(np.array([1.5]), dtype=tf.int32)


def test_what_is_a_tf_variable():
    v = tf.get_variable("v", [1])
    assert isinstance(v, tf.Variable) and issubclass(type(v), tf.Variable)
    assert not isinstance(v.value(), tf.Variable)


def test_local_variables():
    with tf.variable_scope("metrics"):
        total = tf.get_local_variable("total", [], initializer=tf.zeros_initializer())
        count = slim.local_variable(0, name="count")
    assert tf.local_variables() == [total, count]
    assert tf.global_variables() == tf.trainable_variables() == []
    update = tf.assign_add(total, 2.0)
    with tf.Session() as sess:
        sess.run(tf.group(tf.global_variables_initializer(), tf.local_variables_initializer()))
        assert [sess.run(update) for _ in range(2)] == [2.0, 4.0]
        sess.run(tf.local_variables_initializer())
        assert total.eval() == 0.0


# --- name scopes


def test_name_scopes():
    x = np.ones(2)
    with tf.name_scope("a") as scope:
        assert scope == "a/"
        with tf.name_scope(None, "b", [x, 3]) as inner:
            assert inner == "a/b/"
        with tf.name_scope("c", "b", values=[x]) as inner:
            assert inner == "a/c/"
        with tf.name_scope(None) as root:
            assert root == ""
        with tf.name_scope("a/") as same:
            assert same == "a/"
    with pytest.raises(ValueError, match="no name"):
        tf.name_scope(None, None, [x])


def test_a_name_scope_in_the_graph_of_its_values():
    other = tf.Graph()
    with other.as_default():
        v = tf.get_variable("v", [1])
    manager = tf.name_scope("op", values=[v])
    for expected in ("op/", "op_1/"):
        with manager as scope:
            assert scope == expected
            assert tf.get_default_graph() is other
        assert tf.get_default_graph() is not other
    with pytest.raises(ValueError, match="a//b"), tf.name_scope("a//b", values=[v]):
        pass
    assert tf.get_default_graph() is not other
    mine = tf.get_variable("mine", [1])
    with pytest.raises(ValueError, match="different graphs"):
        tf.name_scope("op", values=[v, mine])


# --- collections


def test_a_scope_of_a_collection_is_a_regular_expression():
    for name in ("D", "D_pre", "E"):
        with tf.variable_scope(name):
            tf.get_variable("w", [1])
    assert names(tf.get_collection(tf.GraphKeys.GLOBAL_VARIABLES, "D")) == ["D/w:0", "D_pre/w:0"]
    assert names(tf.global_variables("D/")) == ["D/w:0"]
    assert names(tf.trainable_variables(".*w:0$")) == ["D/w:0", "D_pre/w:0", "E/w:0"]
    assert names(tf.trainable_variables(re.compile("E|F"))) == ["E/w:0"]
    assert names(tf.get_default_graph().get_collection("variables", "D")) == ["D/w:0"]


def test_collections_that_grow():
    v = tf.get_variable("v", [1])
    tf.add_to_collections(["a", "b", "a"], v)
    tf.add_to_collections("c", 1)
    assert (tf.get_collection("a"), tf.get_collection("b")) == ([v], [v])
    reference = tf.get_collection_ref("c")
    assert list(reference) == [1] and reference[0] == 1 and 1 in reference
    reference.append(2)
    reference.extend([3, 4])
    assert tf.get_collection("c") == [1, 2, 3, 4] and len(reference) == 4
    assert "c" in repr(reference)
    with pytest.raises(NotCoveredError, match="only grow"):
        del reference[:]
    found = tf.get_collection("c")
    found.append(5)
    assert tf.get_collection("c") == [1, 2, 3, 4]


def test_keys_are_those_of_tensorflow():
    assert tf.GraphKeys.GLOBAL_VARIABLES == vs.GraphKeys.GLOBAL_VARIABLES == "variables"
    assert tf.GraphKeys.REGULARIZATION_LOSSES == vs.GraphKeys.REGULARIZATION_LOSSES
    assert tf.GraphKeys.UPDATE_OPS == "update_ops"


# === Initializers ===============================================================================

SPELLED = [
    (tf.zeros_initializer(), vs.zeros),
    (tf.ones_initializer(tf.float16), vs.ones),
    (tf.constant_initializer(0.5, tf.float32), vs.constant(0.5)),
    (tf.constant_initializer(value=np.float32(2)), vs.constant(2.0)),
    (tf.random_uniform_initializer(-1, 1, seed=3), vs.random_uniform(-1, 1, 3)),
    (tf.random_uniform_initializer(), vs.random_uniform(0, None)),
    (tf.random_normal_initializer(0.5, 0.1, 7, tf.float64), vs.random_normal(0.5, 0.1, 7)),
    (tf.truncated_normal_initializer(stddev=0.02), vs.truncated_normal(0.0, 0.02)),
    (tf.uniform_unit_scaling_initializer(1.4, seed=1), vs.uniform_unit_scaling(1.4, 1)),
    (tf.variance_scaling_initializer(), vs.variance_scaling()),
    (
        tf.variance_scaling_initializer(2.0, "fan_out", "normal"),
        vs.variance_scaling(2.0, "fan_out", "truncated_normal"),
    ),
    (tf.glorot_uniform_initializer(5), vs.glorot_uniform(5)),
    (tf.glorot_normal_initializer(), vs.glorot_normal()),
    (tf.orthogonal_initializer(gain=2.0), vs.orthogonal(2.0)),
    (tf.initializers.he_normal(), vs.he_normal()),
    (tf.initializers.he_uniform(4), vs.he_uniform(4)),
    (tf.initializers.lecun_normal(), vs.lecun_normal()),
    (tf.initializers.lecun_uniform(seed=4), vs.lecun_uniform(4)),
    (tf.initializers.identity(), vs.identity()),
    (tf.initializers.zeros(), vs.zeros),
    (tf.contrib.layers.xavier_initializer(), vs.glorot_uniform()),
    (tf.contrib.layers.xavier_initializer_conv2d(False, 3), vs.glorot_normal(3)),
    (
        tf.contrib.layers.variance_scaling_initializer(),
        vs.variance_scaling(2.0, "fan_in", "truncated_normal"),
    ),
    (
        slim.variance_scaling_initializer(1.0, "FAN_AVG", True),
        vs.variance_scaling(1.0, "fan_avg", "uniform"),
    ),
]


@pytest.mark.parametrize(("spelled", "own"), SPELLED, ids=lambda value: repr(value))
def test_an_initializer_is_one_of_varscope(spelled, own):
    assert spelled == own
    assert type(spelled) is type(own)


ALL = [name for name in tf.__all__ if name.endswith("_initializer") and "variables" not in name]


@pytest.mark.parametrize("name", [name for name in ALL if name != "tables_initializer"])
def test_an_initializer_may_be_passed_without_being_called(name):
    kind = getattr(tf, name)
    a = tf.get_variable("a", [3, 2], initializer=kind())
    b = tf.get_variable("b", [3, 2], initializer=kind)
    with tf.variable_scope("s", initializer=kind):
        c = tf.get_variable("c", [3, 2])
    assert a.initializer == b.initializer == c.initializer
    assert c.eval().shape == (3, 2)
    assert "dtype" in inspect.signature(kind).parameters
    assert kind()([2, 2]).dtype == tf.float32
    assert kind()(shape=[2, 2], dtype=tf.float16).dtype == tf.float16


def test_an_initializer_takes_a_dtype_and_nothing_else_for_it():
    with pytest.raises(TypeError, match="dtype"):
        tf.zeros_initializer([3, 4])


def test_a_constant_of_several_elements():
    init = tf.constant_initializer([1, 2, 3])
    assert init([2, 2], tf.float32).tolist() == [[1, 2], [3, 3]]
    assert init([3], tf.int32).dtype == tf.int32
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(init))([3], "int8"), [1, 2, 3])
    v = tf.get_variable("v", [5, 2], initializer=init, partitioner=tf.fixed_size_partitioner(2))
    assert v.numpy().ravel().tolist() == [1, 2] + [3] * 8
    with pytest.raises(ValueError, match="more than the 2"):
        init([2], tf.float32)
    with pytest.raises(ValueError, match="verify_shape"):
        tf.constant_initializer([1, 2], verify_shape=True)([2, 1], tf.float32)
    assert tf.constant_initializer([1, 2], verify_shape=True)([2]).tolist() == [1, 2]
    with pytest.raises(ValueError, match="numbers"):
        tf.constant_initializer([])
    with pytest.raises(ValueError, match="numbers"):
        tf.constant_initializer(["a"])


def test_an_initializer_of_the_old_form():
    def ortho(shape, dtype=tf.float32, partition_info=None):
        return np.eye(*shape, dtype=dtype)

    assert tf.get_variable("v", [2, 2], initializer=ortho).eval().tolist() == [[1, 0], [0, 1]]


def test_seeds():
    def values():
        with tf.Graph().as_default():
            tf.set_random_seed(7)
            return tf.get_variable("v", [3]).eval().tolist()

    assert values() == values()


# === Regularizers ===============================================================================


def test_regularizers():
    layers = tf.contrib.layers
    assert layers.l1_regularizer(0.5) == vs.l1_regularizer(0.5)
    assert layers.l2_regularizer(0.5, scope="x") == vs.l2_regularizer(0.5)
    assert layers.l1_l2_regularizer(0.5, 0.25) == vs.l1_l2_regularizer(0.5, 0.25)
    both = layers.sum_regularizer([layers.l1_regularizer(1.0), None, layers.l2_regularizer(1.0)])
    assert both(np.array([2.0])) == 4.0
    assert layers.sum_regularizer([None]) is None
    for make in (layers.l1_regularizer, layers.l2_regularizer):
        with pytest.raises((TypeError, ValueError), match="float"):
            make(1)
        with tf.variable_scope("s", regularizer=vs.l2_regularizer(1.0), reuse=tf.AUTO_REUSE):
            tf.get_variable("w", [1], regularizer=make(0.0))
    assert tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES) == []


def test_apply_regularization():
    w = tf.get_variable("w", initializer=[3.0, 4.0], collections=[tf.GraphKeys.WEIGHTS])
    total = tf.contrib.layers.apply_regularization(tf.contrib.layers.l2_regularizer(1.0))
    assert total == 12.5
    assert tf.contrib.layers.apply_regularization(vs.l1_regularizer(1.0), [w, w]) == 14.0
    assert sum(tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)) == 26.5
    assert tf.losses.get_regularization_loss() == 26.5
    assert tf.contrib.layers.apply_regularization(tf.no_regularizer, [w]) == 0.0


def test_losses():
    tf.losses.add_loss(np.float32(1.5))
    tf.losses.add_loss(2.0)
    tf.losses.add_loss(8.0, loss_collection=None)
    tf.get_variable("w", initializer=2.0, regularizer=vs.l2_regularizer(1.0))
    assert tf.losses.get_losses() == [1.5, 2.0]
    assert tf.losses.get_total_loss() == 5.5
    assert tf.losses.get_total_loss(add_regularization_losses=False) == 3.5


# === Sessions ===================================================================================


@pytest.fixture
def v():
    return tf.get_variable("v", initializer=[1.0, 2.0])


def test_run_keeps_the_structure(v):
    Pair = collections.namedtuple("Pair", ["first", "second"])
    s = tf.get_variable("s", initializer=3)
    sess = tf.Session()
    one, two = sess.run([v, s])
    assert one.tolist() == [1.0, 2.0] and two == 3 and isinstance(two, np.int32)
    assert sess.run((s,)) == (3,)
    assert sess.run({"a": s, "b": [s, {"c": s}]}) == {"a": 3, "b": [3, {"c": 3}]}
    assert sess.run(Pair(s, [s])) == Pair(3, [3])
    assert sess.run([]) == []
    assert sess.run("s:0") == sess.run("s") == 3
    assert sess.run(np.float32(4)) == sess.run(4.0) == 4
    assert sess.run(tf.no_op()) is None
    array = np.ones(2)
    assert sess.run(array) is array


def test_run_copies_values(v):
    value = tf.Session().run(v)
    value[:] = 0
    assert v.eval().tolist() == [1.0, 2.0]


def test_run_gives_regularization_losses():
    tf.get_variable("w", initializer=2.0, regularizer=vs.l2_regularizer(1.0))
    assert tf.Session().run(tf.losses.get_regularization_losses()) == [2.0]


def test_what_run_refuses(v):
    sess = tf.Session()
    with pytest.raises(NotCoveredError, match="arguments of the function"):
        sess.run(v, feed_dict={"x": 1})
    sess.run(v, feed_dict={})
    with pytest.raises(NotCoveredError, match="leave it out"):
        sess.run(v, options=1)
    with pytest.raises(NotCoveredError, match=r"variables_initializer\(\[v\]\)"):
        sess.run(v.initializer)
    with pytest.raises(NotCoveredError, match="yourself"):
        sess.run(lambda: 1)
    with pytest.raises(ValueError, match="no variable of this name"):
        sess.run("nothing")
    for fetch in (None, object(), int):
        with pytest.raises(TypeError, match="fetches"):
            sess.run(fetch)
    for arguments in ({"target": "grpc://x"}, {"config": 1}):
        with pytest.raises(NotCoveredError, match=r"tf\.Session\(\)"):
            tf.Session(**arguments)
    with pytest.raises(TypeError, match="graph"):
        tf.Session(graph=1)


def test_a_session_has_one_graph(v):
    other = tf.Graph()
    with tf.Session(graph=other) as sess:
        assert tf.get_default_graph() is other is sess.graph
        w = tf.get_variable("w", [1])
        init = tf.global_variables_initializer()
        sess.run([w, init])
        assert sess.run("w").shape == (1,)
        with pytest.raises(ValueError, match="different graphs"):
            sess.run(v)
        with pytest.raises(ValueError, match="different graphs"):
            v.eval(session=sess)
    assert tf.get_default_graph() is not other
    with pytest.raises(ValueError, match="different graphs"):
        tf.Session().run(init)


def test_the_default_session(v):
    assert tf.get_default_session() is None
    with tf.Session() as outer:
        assert tf.get_default_session() is outer
        inner = tf.Session()
        with inner.as_default() as same:
            assert tf.get_default_session() is inner is same
            seen = []
            thread = threading.Thread(target=lambda: seen.append(tf.get_default_session()))
            thread.start()
            thread.join()
            assert seen == [None]
        assert tf.get_default_session() is outer
        inner.run(v)
    assert tf.get_default_session() is None
    with pytest.raises(RuntimeError, match="closed"):
        outer.run(v)
    with pytest.raises(KeyError), tf.Session():
        raise KeyError
    assert tf.get_default_session() is None


def test_an_interactive_session(v):
    graph = tf.Graph()
    sess = tf.InteractiveSession(graph=graph)
    assert tf.get_default_session() is sess and tf.get_default_graph() is graph
    sess.close()
    sess.close()
    assert tf.get_default_session() is None and tf.get_default_graph() is v.graph


def test_values_belong_to_variables_and_not_to_sessions(v):
    tf.Session().run(tf.assign(v, [5.0, 6.0]))
    assert tf.Session().run(v).tolist() == [5.0, 6.0]


# --- operations


def test_assignments_wait_and_can_be_repeated(v):
    step = tf.train.get_or_create_global_step()
    increment = tf.assign_add(step, 1)
    halve = tf.assign(v, lambda: v / 2)
    less = tf.assign_sub(v, np.ones(2))
    assert int(step) == 0 and v.eval().tolist() == [1.0, 2.0]
    sess = tf.Session()
    sess.run(tf.global_variables_initializer())
    assert [sess.run(increment) for _ in range(3)] == [1, 2, 3]
    assert tf.train.global_step(sess, step) == 3
    assert sess.run(halve).tolist() == [0.5, 1.0] and sess.run(halve).tolist() == [0.25, 0.5]
    assert sess.run(less).tolist() == [-0.75, -0.5]
    less.run(session=sess)
    assert v.eval().tolist() == [-1.75, -1.5]
    halve.run()
    assert halve.eval().tolist() == [-0.4375, -0.375]
    with pytest.raises(NotCoveredError):
        halve.run({"x": 1})
    with pytest.raises(TypeError, match="ref"):
        tf.assign(np.ones(2), 1)
    with pytest.raises(ValueError, match="shape"):
        sess.run(tf.assign(v, [1.0]))


def test_initializers_put_first_values_back(v):
    w = tf.get_variable("w", [2])
    init = tf.global_variables_initializer()
    later = tf.get_variable("later", [2])
    first = w.eval().tolist()
    w.load([0.0, 0.0])
    v.load([0.0, 0.0])
    with tf.Session():
        init.run()
    assert w.eval().tolist() == first and v.eval().tolist() == [1.0, 2.0]
    assert not later.initialized  # it was not there when `init` was made
    with pytest.raises(TypeError, match="var_list"):
        tf.variables_initializer([v, 1])


def test_an_operation_runs_once_in_a_run_and_after_what_it_waits_for(v):
    done = []

    def noting(word):
        return tf.assign(v, lambda: done.append(word) or 0.0 * v)

    first = noting("first")
    with tf.control_dependencies([first, v]):
        second = noting("second")
        with tf.control_dependencies([noting("inner")]):
            third = noting("third")
        with tf.control_dependencies(None):
            alone = noting("alone")
    assert done == []
    sess = tf.Session()
    sess.run(tf.group(third, [second, (first, third)]))
    assert done == ["first", "inner", "third", "second"]
    assert second.control_inputs == (first,)
    del done[:]
    sess.run([alone, alone, third])
    assert done == ["alone", "first", "inner", "third"]


def test_a_long_chain_of_operations():
    op = tf.no_op()
    for _ in range(5000):
        with tf.control_dependencies([op]):
            op = tf.no_op()
    assert tf.Session().run(op) is None


def test_operations_have_names(v):
    with tf.name_scope("train"):
        op = tf.assign(v, [0.0, 0.0])
        named = tf.assign(v, [0.0, 0.0], name="reset")
    assert (op.name, named.name, tf.no_op().name) == ("train/Assign", "train/reset", "NoOp")
    assert tf.global_variables_initializer().name == "init"
    assert isinstance(op, tf.Operation) and op.graph is v.graph and "reset" in repr(named)


def test_what_makes_no_difference():
    with tf.device("/job:ps/task:0"), tf.device(None), tf.device(lambda op: "/gpu:0"):
        pass
    tf.disable_v2_behavior()
    tf.disable_eager_execution()
    tf.enable_resource_variables()
    tf.disable_resource_variables()
    tf.Session().run([tf.tables_initializer(), tf.initialize_all_tables(), tf.no_op("x")])
    assert tf.compat.v1 is tf
    assert tf.__version__.startswith("1.15")


# === The global step and moving averages ========================================================


def test_the_global_step():
    assert tf.train.get_global_step() is None
    step = tf.train.create_global_step()
    assert (step.name, step.dtype, step.trainable) == ("global_step:0", tf.int64, False)
    assert tf.train.get_or_create_global_step() is step
    assert tf.contrib.framework.get_global_step() is step
    assert tf.get_collection(tf.GraphKeys.GLOBAL_STEP) == [step]
    with pytest.raises(ValueError, match="already exists"):
        tf.train.create_global_step()
    other = tf.Graph()
    assert tf.train.get_global_step(other) is None
    assert slim.create_global_step(other).graph is other
    tf.add_to_collection(tf.GraphKeys.GLOBAL_STEP, step)
    assert tf.train.get_global_step() is step
    tf.add_to_collection(tf.GraphKeys.GLOBAL_STEP, tf.get_variable("other", [1]))
    with pytest.raises(ValueError, match="2 variables"):
        tf.train.get_global_step()


def test_a_global_step_of_ones_own():
    step = tf.Variable(0, name="global_step", trainable=False)
    assert tf.train.get_global_step() is step


def test_moving_averages(v):
    updates = tf.get_variable("updates", initializer=0, trainable=False)
    ema = tf.train.ExponentialMovingAverage(0.9, num_updates=updates, name="ema")
    assert ema.average_name(v) == "v/ema"
    with tf.variable_scope("elsewhere", reuse=True):
        op = ema.apply()
    average = ema.average(v)
    assert (average.name, average.trainable) == ("elsewhere/v/ema:0", False)
    assert ema.average_name(v) == "elsewhere/v/ema" and ema.average(updates) is None
    v.load([11.0, 12.0])
    op.run()
    assert average.eval() == pytest.approx([10.0, 11.0])  # a decay of 1 / 10 at first
    again = ema.apply([v])
    assert ema.average(v) is average and tf.moving_average_variables() == [v]
    again.run()
    assert average.eval() == pytest.approx([10.9, 11.9])
    with pytest.raises(TypeError, match="var_list"):
        ema.apply([1.0])
    with pytest.raises(TypeError, match="zero_debias"):
        tf.train.ExponentialMovingAverage(0.9, zero_debias=True)


# === contrib ====================================================================================


@slim.add_arg_scope
def layer(size, activation=None, scale=1.0):
    """A layer."""
    return size, activation, scale


def test_arg_scopes():
    assert layer(1) == (1, None, 1.0)
    with slim.arg_scope([layer], activation="relu") as outer:
        assert layer(1) == (1, "relu", 1.0)
        with slim.arg_scope([layer], scale=2.0):
            assert layer(1) == (1, "relu", 2.0)
            assert layer(1, activation="tanh") == (1, "tanh", 2.0)
            with slim.arg_scope(outer):
                assert layer(1) == (1, "relu", 1.0)
            with slim.arg_scope({}):
                assert layer(1) == (1, None, 1.0)
        with pytest.raises(KeyError), slim.arg_scope([layer], scale=3.0):
            raise KeyError
        assert layer(1) == (1, "relu", 1.0)
    assert layer(1) == (1, None, 1.0)
    assert tf.contrib.framework.current_arg_scope() == {}


def test_arg_scopes_belong_to_a_thread():
    seen = []
    with slim.arg_scope([layer], scale=2.0):
        thread = threading.Thread(target=lambda: seen.append(layer(1)))
        thread.start()
        thread.join()
    assert seen == [(1, None, 1.0)]


def test_arg_scopes_say_what_they_cannot():
    assert slim.has_arg_scope(layer) and not slim.has_arg_scope(relu)
    assert slim.arg_scoped_arguments(layer) == ("activation", "scale")
    assert layer.__name__ == "layer" and layer.__doc__ == "A layer."
    with pytest.raises(ValueError, match="add_arg_scope"), slim.arg_scope([relu], x=1):
        pass
    with pytest.raises(ValueError, match="add_arg_scope"):
        slim.arg_scoped_arguments(relu)
    with pytest.raises(ValueError, match="brings back"), slim.arg_scope({}, x=1):
        pass
    with pytest.raises(TypeError, match="list_ops_or_scope"), slim.arg_scope(layer, x=1):
        pass


def test_arg_scopes_over_variables():
    with slim.arg_scope([slim.variable, slim.model_variable], device="/cpu:0", trainable=False):
        a = slim.variable("a", [1])
        b = slim.model_variable("b", [1])
    c = slim.variable("c", [1], collections=["mine"])
    assert tf.trainable_variables() == [c]
    assert tf.global_variables() == [a, b] and tf.model_variables() == [b]
    slim.add_model_variable(a)
    slim.add_model_variable(a)
    assert tf.model_variables() == [b, a] or tf.model_variables() == [a, b]


def test_finding_variables():
    for scope in ("encoder", "decoder"):
        with tf.variable_scope(scope) as sc:
            tf.get_variable("w", [1])
            tf.get_variable("b", [1], trainable=False)
            tf.get_local_variable("count", [1])
    assert names(slim.get_variables(sc)) == ["decoder/w:0", "decoder/b:0"]
    assert names(slim.get_variables("encoder", suffix="b:0")) == ["encoder/b:0"]
    assert names(slim.get_trainable_variables()) == ["encoder/w:0", "decoder/w:0"]
    assert names(slim.get_local_variables("dec")) == ["decoder/count:0"]
    assert slim.get_unique_variable("encoder/w").name == "encoder/w:0"
    with pytest.raises(ValueError, match="no variable 'x'"):
        slim.get_unique_variable("x")
    restored = slim.get_variables_to_restore(exclude=["decoder/w"])
    assert names(restored) == ["encoder/w:0", "encoder/b:0", "decoder/b:0"]
    assert names(slim.get_variables_to_restore(["decoder"], ["decoder/b"])) == ["decoder/w:0"]


# === Variables' methods =========================================================================


def test_what_old_code_calls_on_a_variable(v):
    assert v.eval().tolist() == v.read_value().tolist() == v.initialized_value().tolist()
    assert v.op.name == "v" and v.op.graph is v.graph
    assert isinstance(tf.get_variable("s", initializer=2.0).eval(), np.float32)
    v.load([3.0, 4.0])
    assert v.eval(session=tf.Session()).tolist() == [3.0, 4.0]
    v.eval()[:] = 0
    assert v.eval().tolist() == [3.0, 4.0]


def test_shapes():
    shape = tf.get_variable("w", [3, 4]).get_shape()
    assert shape == (3, 4) and shape.as_list() == [3, 4] and type(shape.as_list()[0]) is int
    assert shape.ndims == 2 and shape.num_elements() == 12 and shape.is_fully_defined()
    assert shape[-1].value == 4 and shape.dims[0] == 3
    unknown = tf.TensorShape([None, tf.Dimension(4)])
    assert unknown.as_list() == [None, 4] and not unknown.is_fully_defined()
    assert unknown.num_elements() is None
    assert tf.get_variable("x", tf.TensorShape([2, tf.Dimension(3)])).shape == (2, 3)
    decided = tf.get_variable("d", initializer=lambda shape, dtype: np.ones(3, dtype),
                              validate_shape=False)  # fmt: skip
    assert decided.get_shape().as_list() == [3]


# === Dtypes =====================================================================================


def test_dtypes():
    for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8",
                 "uint16", "uint32", "uint64", "bool", "complex64", "complex128"):  # fmt: skip
        assert getattr(tf, name) == np.dtype(name) == tf.as_dtype(name)
        assert isinstance(getattr(tf, name), tf.DType)
    assert (tf.half, tf.double) == (tf.float16, tf.float64)


def test_bfloat16():
    require_ml_dtypes()
    assert tf.get_variable("v", [2], tf.bfloat16).dtype.name == "bfloat16"


def test_bfloat16_where_it_is_not_installed(monkeypatch):
    def unknown(dtype):
        raise ArgumentTypeError(f"dtype {dtype!r} is none that NumPy knows")

    monkeypatch.setattr("varscope.shapes.as_dtype", unknown)
    with pytest.raises(NotCoveredError, match="pip install ml_dtypes"):
        _ = tf.bfloat16
    assert not hasattr(tf, "bfloat16")


# === What is not there ==========================================================================


@pytest.mark.parametrize(
    ("use", "instead"),
    [
        (lambda: tf.matmul, "numpy.matmul"),
        (lambda: tf.reduce_mean, "numpy.mean"),
        (lambda: tf.math.log, "numpy.log"),
        (lambda: tf.random.uniform, "numpy"),
        (lambda: tf.linalg.inv, "numpy"),
        (lambda: tf.add_n, r"sum\(list\)"),
        (lambda: tf.nn.relu, r"numpy.maximum\(x, 0\)"),
        (lambda: tf.nn.conv2d, "jax.nn or torch"),
        (lambda: tf.nn.rnn_cell.LSTMCell, "kernel and bias"),
        (lambda: tf.placeholder, "arguments"),
        (lambda: tf.gradients, "jax or torch"),
        (lambda: tf.train.AdamOptimizer, "jax or torch"),
        (lambda: tf.train.SomethingElse, "jax or torch"),
        (lambda: tf.train.Saver, r"varscope.save\(.*varscope.restore\("),
        (lambda: tf.layers.dense, "tf.get_variable"),
        (lambda: tf.layers("x"), "tf.get_variable"),
        (lambda: tf.contrib.layers.fully_connected, "tf.get_variable"),
        (lambda: tf.contrib.rnn.BasicLSTMCell, "kernel and bias"),
        (lambda: tf.contrib.slim.conv2d, "tf.get_variable"),
        (lambda: tf.contrib.framework.load_variable, r"varscope.open\(path\)"),
        (lambda: tf.contrib.framework.nest, "arg_scope"),
        (lambda: tf.contrib.slim.learning.train, "a loop"),
        (lambda: tf.contrib.training.HParams, "SimpleNamespace"),
        (lambda: tf.errors.NotFoundError, "varscope.errors"),
        (lambda: tf.contrib.learn, "framework, layers and slim"),
        (lambda: tf.losses.softmax_cross_entropy, "it computes"),
        (lambda: tf.initializers.something, "initializers"),
        (lambda: tf.keras, "tf.variable_scope"),
        (lambda: tf.keras.layers, "tf.variable_scope"),
        (lambda: tf.keras.initializers, "tf.initializers"),
        (lambda: tf.summary, "logging library"),
        (lambda: tf.ConfigProto, r"tf.Session\(\)"),
        (lambda: tf.random_normal, "tf.random_normal_initializer"),
        (lambda: tf.truncated_normal, "tf.truncated_normal_initializer"),
        (lambda: tf.flags, "argparse"),
        (lambda: tf.string, "numbers"),
        (lambda: tf.get_varaible, "get_variable"),
        (lambda: tf.compat.v2, "v1"),
        (lambda: tf.qwerty, "a library of its own"),
    ],
)
def test_what_is_not_covered_says_what_to_use(use, instead):
    with pytest.raises(NotCoveredError, match=instead) as caught:
        use()
        _ = use().anything
    error = caught.value
    assert isinstance(error, NotImplementedError) and isinstance(error, AttributeError)
    assert str(error).startswith(error.name) and error.name.startswith("tf.")
    assert error.instead in str(error)
    twin = pickle.loads(pickle.dumps(error))
    assert (str(twin), twin.name, twin.instead) == (str(error), error.name, error.instead)


def test_tools_that_look_around_go_on():
    assert (
        not hasattr(tf, "matmul") and not hasattr(tf.nn, "relu") and not hasattr(tf, "__wrapped__")
    )
    assert getattr(tf, "placeholder", None) is None
    assert "get_variable" in dict(inspect.getmembers(tf))
    assert repr(tf.nn) == "<tf.nn, not covered>"
    assert copy.copy(tf.nn) is not None
    with pytest.raises(ImportError, match="matmul"):
        from varscope.compat.tf1 import matmul  # noqa: F401


def known_advice():
    return [(name, text) for name, text in _missing.ADVICE.items() if "numpy." in text]


@pytest.mark.parametrize(("name", "text"), known_advice(), ids=lambda value: value[:20])
def test_advice_names_what_numpy_has(name, text):
    for path in re.findall(r"\bnumpy((?:\.[a-z_]\w*)+)", text):
        found = np
        for part in path[1:].split("."):
            found = getattr(found, part)


def test_advice_names_what_is_here():
    for text in _missing.ADVICE.values():
        for path in re.findall(r"\btf((?:\.[a-z_]\w*)+)", text):
            found = tf
            for part in path[1:].split("."):
                found = getattr(found, part)


def test_nothing_is_both_there_and_missing():
    modules = {"": tf} | {
        path: importlib.import_module(f"varscope.compat.tf1.{path}")
        for path in ("train", "losses", "initializers", "contrib", "contrib.layers",
                     "contrib.framework", "contrib.slim")
    }  # fmt: skip
    for path, module in modules.items():
        for name in module.__all__:
            full = f"{path}.{name}".lstrip(".")
            assert full in modules or full not in _missing.ADVICE, full
            assert getattr(module, name).__doc__ or isinstance(getattr(module, name), np.dtype)


def test_importing_varscope_does_not_load_it():
    code = "import sys, varscope; print(any('compat' in name for name in sys.modules "
    code += "if name.startswith('varscope')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "False"


def test_submodules_can_be_imported_by_their_names():
    module = importlib.import_module("varscope.compat.tf1.contrib.slim")
    assert module is slim
    from varscope.compat.tf1.contrib.framework import arg_scope

    assert arg_scope is slim.arg_scope
