"""Short programs, and what TensorFlow did with each: `data/tf1_cases.json`.

A program is a function of the module that stands for TensorFlow and of `say`, which notes a line.
This file runs on TensorFlow as it runs on `varscope.compat.tf1`; the data were made by

    python tests/tf1_cases.py > tests/data/tf1_cases.json

with TensorFlow 2.21, whose `tensorflow.compat.v1` has the behaviour of version 1.15.
"""

import builtins

import numpy as np

CASES = []


def case(function):
    CASES.append(function)
    return function


def names(variables):
    return [v.name for v in variables]


def dtype(v):
    return getattr(v.dtype, "base_dtype", v.dtype).name  # TensorFlow's may be a reference


def outcome(function, *args, **kwargs):
    """What came back, or which of Python's own errors."""
    try:
        result = function(*args, **kwargs)
    except Exception as error:
        return next(
            kind.__name__ for kind in type(error).__mro__ if kind in vars(builtins).values()
        )
    return plain(getattr(result, "name", result))


def plain(value):
    """Without what JSON does not have."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value if isinstance(value, int | float | str | list | None) else type(value).__name__


@case
def plain_variables_go_by_name_scopes(tf, say):
    with tf.variable_scope("s"):
        say(names([tf.Variable(1.0), tf.Variable(1.0, name="w"), tf.Variable(1.0, name="w")]))
    with tf.variable_scope("s", reuse=True):
        say(tf.Variable(1.0, name="w").name)
    with tf.name_scope("n"):
        say(tf.Variable(1.0, name="w").name, tf.get_variable("w", [1]).name)
    with tf.variable_scope("t"):
        say(tf.get_variable("w", [1]).name, tf.Variable(1.0, name="w").name)
    say(names([tf.Variable(1.0, name="a/b"), tf.Variable(1.0, name="a/b")]))
    say(names(tf.global_variables()), names(tf.trainable_variables()))


@case
def plain_variables_have_dtypes(tf, say):
    for value in (2, 1.5, True, [1.5], [[1, 2]], np.zeros(2), np.int8(3), 1j):
        say(dtype(tf.Variable(value)))
    say(dtype(tf.Variable(2, dtype=tf.float32)), dtype(tf.Variable(lambda: 3.0)))
    say(dtype(tf.Variable(np.array([1.5]), dtype=tf.float32)))
    say(outcome(tf.Variable, 1.5, dtype=tf.int32), outcome(tf.Variable))


@case
def reuse(tf, say):
    with tf.variable_scope("a"):
        tf.get_variable("v", [1])
    for given in (False, True, None, tf.AUTO_REUSE):
        with tf.variable_scope("a", reuse=given) as scope:
            say(scope.reuse is True, scope.reuse is tf.AUTO_REUSE)
            say(outcome(tf.get_variable, "v", [1]), outcome(tf.get_variable, "new", [1]))
    with (
        tf.variable_scope("a", reuse=True) as captured,
        tf.variable_scope("b", reuse=False) as scope,
    ):
        say(scope.reuse)
    with tf.variable_scope(captured, reuse=False) as scope:
        say(scope.reuse)

    def opened(*args, **kwargs):
        with tf.variable_scope(*args, **kwargs) as scope:
            return scope

    say(outcome(opened, "a", reuse="x"), outcome(opened, "a", reuse=2))
    say(outcome(opened, None, "d", reuse=True), outcome(opened, None, "d", reuse=False))
    say(outcome(opened, None), outcome(opened, 3))


@case
def towers(tf, say):
    def tower():
        with tf.variable_scope("layer"):
            w = tf.get_variable("w", [2])
        with tf.variable_scope(None, "block") as scope:
            return [w.name, tf.get_variable("w", [2]).name, scope.original_name_scope]

    with tf.variable_scope(tf.get_variable_scope()):
        for i in range(2):
            with tf.device(f"/cpu:{i}"), tf.name_scope(f"tower_{i}") as scope:
                say(scope, outcome(tower))
                tf.get_variable_scope().reuse_variables()
    say(tf.get_variable_scope().reuse, names(tf.global_variables()))


@case
def name_scopes(tf, say):
    q = tf.get_variable("q", [1])

    def opened(*args, **kwargs):
        with tf.name_scope(*args, **kwargs) as scope:
            return scope

    for args in (
        ["a"],
        [None, "b"],
        [None, "b", [q]],
        ["a"],
        [None],
        ["a/"],
        [""],
        ["a", "b", [1]],
    ):
        say(opened(*args))
    say(outcome(opened, None, None, [1]), outcome(opened, 3), outcome(opened, "x y"))
    with tf.op_scope([1], None, "old") as scope:
        say(scope)
    with tf.variable_op_scope([1.0], None, "old") as scope:
        say(scope.name, scope.original_name_scope)
    with tf.variable_op_scope([1.0], "given", "old") as scope:
        say(scope.name, scope.original_name_scope)


@case
def collections(tf, say):
    for name in ("D", "D_pre", "E"):
        with tf.variable_scope(name):
            tf.get_variable("w", [1])
    for scope in (None, "", "D", "D/", ".*w:0$", "[DE]/", "w"):
        say(names(tf.get_collection("variables", scope)))
        say(names(tf.trainable_variables(scope)), names(tf.global_variables(scope=scope)))
    tf.add_to_collections(["a", "b", "a"], 3)
    tf.add_to_collections(("c", "d"), 1)
    tf.add_to_collections("word", 2)
    tf.add_to_collection("a", 3)
    say([tf.get_collection(key) for key in ("a", "b", "c", "d", "word", "w")])
    say(tf.get_collection("a", "x"))
    reference = tf.get_collection_ref("z")
    reference.append(1)
    reference.extend([2, 3])
    say(tf.get_collection("z"), len(reference), list(reference), reference[-1])


@case
def variables(tf, say):
    say(tf.get_variable("a", [1], trainable=None) in tf.trainable_variables())
    say(dtype(tf.get_variable("b", initializer=[1, 2])))
    say(dtype(tf.get_variable("c", initializer=[1.0, 2])))
    say(tf.get_local_variable("d", [1], trainable=True).name, names(tf.local_variables()))
    say(tf.get_variable("e", tf.TensorShape([1, 2])).get_shape().as_list())
    say(tf.get_variable("f", [2], initializer=tf.zeros_initializer).name)
    with tf.variable_scope("s", initializer=tf.ones_initializer, dtype=tf.float64):
        say(tf.get_variable("f", [2]).name, dtype(tf.get_variable("g", [2])))
    say(tf.get_variable("h", [1], collections=["mine"]).name, names(tf.get_collection("mine")))
    say(names(tf.trainable_variables()), names(tf.global_variables()))
    v = tf.get_variable("v", [3, 4])
    shape = v.get_shape()
    say(v.op.name, shape.as_list(), shape.ndims, shape.num_elements(), shape.is_fully_defined())


@case
def names_of_operations(tf, say):
    v = tf.get_variable("v", initializer=1.0)
    say(tf.global_variables_initializer().name, tf.variables_initializer([v]).name)
    say(tf.initialize_all_variables().name, tf.local_variables_initializer().name)
    say(tf.no_op().name, tf.group(tf.no_op(), name="g").name, tf.group(tf.no_op()).name)
    for ref in (tf.assign(v, 2.0), tf.assign(v, 2.0), tf.assign_add(v, 1.0, name="x/inc")):
        say(ref.name.split(":")[0])
    with tf.name_scope("n"):
        say(tf.assign_sub(v, 1.0).name.split(":")[0])


@case
def the_global_step(tf, say):
    say(tf.train.get_global_step())
    with tf.variable_scope("sc"):
        step = tf.train.get_or_create_global_step()
    say(step.name, dtype(step), step.trainable, names(tf.get_collection("global_step")))
    say(tf.train.get_or_create_global_step() is step, outcome(tf.train.create_global_step))


@case
def a_global_step_by_its_name(tf, say):
    step = tf.Variable(0, name="global_step", trainable=False)
    say(step.name, tf.train.get_global_step().name, tf.train.get_or_create_global_step().name)


@case
def moving_averages(tf, say):
    with tf.variable_scope("a"):
        w = tf.get_variable("w", initializer=1.0)
        n = tf.get_variable("n", initializer=0, trainable=False)
        ema = tf.train.ExponentialMovingAverage(0.9, num_updates=n)
        say(ema.average(w), ema.average_name(w))
        update = ema.apply([w])
        say(update.name, ema.average(w).name, ema.average_name(w))
    with tf.name_scope("ns"):
        x = tf.get_variable("x", initializer=2.0)
        say(ema.apply([x]).name, ema.average(x).name, ema.average_name(x))
    say(names(tf.global_variables()), names(tf.trainable_variables()))
    say(names(tf.moving_average_variables()))
    say(sorted((key, v.name) for key, v in ema.variables_to_restore().items()))
    say(sorted((key, v.name) for key, v in ema.variables_to_restore([]).items()))
    say(outcome(ema.apply, [w]))
    with tf.variable_scope("r", reuse=tf.AUTO_REUSE):
        y = tf.get_variable("y", initializer=2.0)
        say(ema.apply([y]).name, ema.average(y).name)
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        w.load(11.0, sess)
        sess.run(update)
        say(round(float(sess.run(ema.average(w))), 4))
        sess.run(tf.assign_add(n, 100))
        w.load(21.0, sess)
        sess.run(update)
        say(round(float(sess.run(ema.average(w))), 4))
    tf.train.ExponentialMovingAverage(0.5, name="other").apply()
    say(names(tf.moving_average_variables()))


@case
def templates(tf, say):
    def layer(name):
        return tf.get_variable(name, [1])

    first = tf.make_template("t", layer, name="q")
    say(first().name, first().name)
    say(tf.make_template("t", layer, name="q")().name)


@case
def running(tf, say):
    v = tf.get_variable("v", initializer=[1.0, 2.0])
    s = tf.get_variable("s", initializer=3)
    say(tf.get_default_session())
    with tf.Session() as sess:
        say(tf.get_default_session() is sess)
        say(sess.run(tf.report_uninitialized_variables()).tolist() == [b"v", b"s"])
        say(
            bool(sess.run(tf.is_variable_initialized(s))),
            sess.run(tf.global_variables_initializer()),
        )
        values = sess.run([v, (s, {"a": s})])
        say([type(part).__name__ for part in (values, *values, *values[1])])
        say(values[0].tolist(), outcome(sess.run, "v:0"))
        for fetch in ("nope:0", None, [None], object(), [], {}):
            say(outcome(sess.run, fetch))
        say(
            sess.run(tf.no_op()),
            *(int(sess.run(op)) for op in (tf.assign(s, 4), tf.assign_add(s, 5))),
        )
        say(int(s.eval()), sess.run(tf.report_uninitialized_variables()).tolist())
        v.load([5.0, 6.0], sess)
        say(v.eval().tolist(), sess.run(v).tolist())
        sess.run(tf.variables_initializer([v]))
        say(v.eval().tolist())
        other = tf.Graph()
        with other.as_default():
            w = tf.get_variable("w", initializer=1.0)
        say(outcome(sess.run, w))
    say(outcome(sess.run, v), tf.get_default_session())
    with tf.Session(graph=other) as sess:
        say(tf.get_default_graph() is other, sess.graph is other)
    sess = tf.InteractiveSession()
    say(tf.get_default_session() is sess)
    sess.close()
    say(tf.get_default_session())


@case
def control_dependencies(tf, say):
    v = tf.get_variable("v", initializer=1.0)
    change = tf.assign(v, 5.0)
    with tf.control_dependencies([change]):
        after = tf.no_op()
        with tf.control_dependencies(None):
            alone = tf.no_op()
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        sess.run(alone)
        say(float(sess.run(v)))
        sess.run(after)
        say(float(sess.run(v)))


@case
def constants(tf, say):
    numbers = iter(range(100))

    def values(shape, *args, **kwargs):
        initializer = tf.constant_initializer(*args, **kwargs)
        v = tf.get_variable(f"v{next(numbers)}", shape, initializer=initializer)
        with tf.Session() as sess:
            sess.run(tf.variables_initializer([v]))
            return sess.run(v).tolist()

    say(outcome(values, [2, 2], [1, 2, 3]), outcome(values, [2], [1, 2, 3]))
    say(outcome(values, [2], [[1, 2]]), outcome(values, [3], [7]), outcome(values, [2]))
    say(outcome(values, [2], [1, 2], tf.float32, True), outcome(values, [], np.float64(0.5)))
    say(outcome(values, [2, 1], np.ones((2, 1)), verify_shape=True))


@case
def parts(tf, say):
    with tf.variable_scope("s", partitioner=tf.fixed_size_partitioner(3)):
        table = tf.get_variable("table", [10, 4])
    say(table.name, names(table), [v.get_shape().as_list() for v in table])
    say(names(tf.trainable_variables()), table.get_shape().as_list())


def run(function, tf):
    """The lines of one program."""
    lines = []
    tf.reset_default_graph()
    function(tf, lambda *words: lines.append(list(words)))
    return lines


if __name__ == "__main__":
    import json

    import tensorflow.compat.v1 as tensorflow

    tensorflow.disable_v2_behavior()
    notes = [f'"{f.__name__}": {json.dumps(run(f, tensorflow))}' for f in CASES]
    print("{", ",\n".join(notes), "}", sep="\n")
