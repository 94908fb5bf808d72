"""Model code of 2016 to 2019 on `varscope.compat.tf1`.

It stands as it was written, but for the import line, for mathematics, which NumPy does, and for
what came in through placeholders, which are arguments.
"""
# ruff: noqa: SIM117, UP031 (as it was written)

import copy

import numpy as np
import pytest

from varscope.compat import tf1 as tf

slim = tf.contrib.slim


def names(variables):
    return [v.name for v in variables]


def relu(x):
    return np.maximum(x, 0)


# --- a dense network for MNIST, with weight decay in a collection


def _variable_on_cpu(name, shape, initializer):
    with tf.device("/cpu:0"):
        dtype = tf.float32
        var = tf.get_variable(name, shape, initializer=initializer, dtype=dtype)
    return var


def _variable_with_weight_decay(name, shape, stddev, wd):
    dtype = tf.float32
    var = _variable_on_cpu(name, shape, tf.truncated_normal_initializer(stddev=stddev, dtype=dtype))
    if wd is not None:
        weight_decay = np.sum(np.square(var)) / 2 * wd
        tf.add_to_collection("losses", weight_decay)
    return var


def inference(images):
    with tf.variable_scope("local3") as scope:
        dim = images.shape[1]
        weights = _variable_with_weight_decay("weights", shape=[dim, 38], stddev=0.04, wd=0.004)
        biases = _variable_on_cpu("biases", [38], tf.constant_initializer(0.1))
        local3 = relu(images @ weights + biases)
        assert scope.name == "local3"
    with tf.variable_scope("softmax_linear") as scope:
        weights = _variable_with_weight_decay("weights", [38, 10], stddev=1 / 38.0, wd=0.0)
        biases = _variable_on_cpu("biases", [10], tf.constant_initializer(0.0))
        softmax_linear = local3 @ weights + biases
    return softmax_linear


def tower_loss(images):
    logits = inference(images)
    tf.add_to_collection("losses", np.mean(np.square(logits)))
    return sum(tf.get_collection("losses"), 0.0)


def test_a_network_trained_on_several_towers():
    with tf.Graph().as_default(), tf.device("/cpu:0"):
        global_step = tf.get_variable(
            "global_step", [], initializer=tf.constant_initializer(0), trainable=False
        )
        outputs, prefixes = [], []
        with tf.variable_scope(tf.get_variable_scope()):
            for i in range(3):
                with tf.device("/gpu:%d" % i), tf.name_scope("%s_%d" % ("tower", i)) as scope:
                    outputs.append(tower_loss(np.ones((4, 20), np.float32)))
                    prefixes.append(scope)
                    tf.get_variable_scope().reuse_variables()
        init = tf.global_variables_initializer()
        sess = tf.Session()
        sess.run(init)
        assert prefixes == ["tower_0/", "tower_1/", "tower_2/"]
        assert names(tf.trainable_variables()) == [
            "local3/weights:0",
            "local3/biases:0",
            "softmax_linear/weights:0",
            "softmax_linear/biases:0",
        ]
        assert len(tf.get_collection("losses")) == 9
        assert outputs[1] == pytest.approx(2 * outputs[0])  # the same weights, counted again
        assert sess.run(global_step) == 0
        np.testing.assert_array_equal(
            sess.run(tf.trainable_variables()[1]), np.full(38, 0.1, np.float32)
        )


# --- reuse as a parameter that is False or True


def generator(z, is_training=True, reuse=False):
    with tf.variable_scope("generator", reuse=reuse):
        h = relu(linear(z, 32, "g_fc1"))
        return np.tanh(linear(h, 16, scope="g_fc2"))


def discriminator(x, reuse=False):
    with tf.variable_scope("discriminator") as scope:
        if reuse:
            scope.reuse_variables()
        h = relu(linear(x, 32, "d_fc1"))
        return linear(h, 1, "d_fc2")


def linear(input_, output_size, scope=None, stddev=0.02, bias_start=0.0, with_w=False):
    shape = list(input_.shape)
    with tf.variable_scope(scope or "Linear"):
        matrix = tf.get_variable(
            "Matrix",
            [shape[1], output_size],
            tf.float32,
            tf.random_normal_initializer(stddev=stddev),
        )
        bias = tf.get_variable(
            "bias", [output_size], initializer=tf.constant_initializer(bias_start)
        )
        if with_w:
            return np.matmul(input_, matrix) + bias, matrix, bias
        return np.matmul(input_, matrix) + bias


def test_a_generator_and_a_discriminator():
    z, x = np.ones((2, 8), np.float32), np.zeros((2, 16), np.float32)
    fake = generator(z)
    real_logits = discriminator(x, reuse=False)
    fake_logits = discriminator(fake, reuse=True)
    sample = generator(z, is_training=False, reuse=True)
    np.testing.assert_array_equal(sample, fake)
    assert real_logits.shape == fake_logits.shape == (2, 1)

    t_vars = tf.trainable_variables()
    d_vars = [var for var in t_vars if "d_" in var.name]
    g_vars = [var for var in t_vars if var.name.startswith("generator")]
    assert len(d_vars) == len(g_vars) == 4
    assert d_vars == tf.get_collection(tf.GraphKeys.TRAINABLE_VARIABLES, scope="discriminator")
    with pytest.raises(ValueError, match="already exists"):
        generator(z)


# --- an LSTM, unrolled


class BasicLSTMCell:
    def __init__(self, num_units, forget_bias=1.0):
        self._num_units = num_units
        self._forget_bias = forget_bias

    def __call__(self, inputs, state, scope=None):
        with tf.variable_scope(scope or type(self).__name__):
            c, h = state
            concat = _linear([inputs, h], 4 * self._num_units, True)
            i, j, f, o = np.split(concat, 4, 1)

            def sigmoid(x):
                return 1 / (1 + np.exp(-x))

            new_c = c * sigmoid(f + self._forget_bias) + sigmoid(i) * np.tanh(j)
            new_h = np.tanh(new_c) * sigmoid(o)
            return new_h, (new_c, new_h)


def _linear(args, output_size, bias, bias_start=0.0, scope=None):
    total_arg_size = sum(a.shape[1] for a in args)
    dtype = args[0].dtype
    with tf.variable_scope(scope or "Linear"):
        matrix = tf.get_variable("Matrix", [total_arg_size, output_size], dtype=dtype)
        res = np.matmul(np.concatenate(args, 1), matrix)
        if not bias:
            return res
        bias_term = tf.get_variable(
            "Bias",
            [output_size],
            dtype=dtype,
            initializer=tf.constant_initializer(bias_start, dtype=dtype),
        )
    return res + bias_term


def test_an_lstm_language_model():
    class PTBModel:
        def __init__(self, is_training, inputs):
            size, vocab = 6, 20
            with tf.device("/cpu:0"):
                embedding = tf.get_variable("embedding", [vocab, size], dtype=tf.float32)
                inputs = embedding.value()[inputs]
            cell = BasicLSTMCell(size, forget_bias=0.0)
            state = (np.zeros((2, size), np.float32),) * 2
            outputs = []
            with tf.variable_scope("RNN"):
                for time_step in range(inputs.shape[1]):
                    if time_step > 0:
                        tf.get_variable_scope().reuse_variables()
                    (cell_output, state) = cell(inputs[:, time_step, :], state)
                    outputs.append(cell_output)
            output = np.reshape(np.concatenate(outputs, 1), [-1, size])
            softmax_w = tf.get_variable("softmax_w", [size, vocab], dtype=tf.float32)
            softmax_b = tf.get_variable("softmax_b", [vocab], dtype=tf.float32)
            self.logits = np.matmul(output, softmax_w) + softmax_b
            if is_training:
                self._lr = tf.Variable(0.0, trainable=False)
                self.tvars = tf.trainable_variables()

    inputs = np.arange(6).reshape(2, 3)
    with tf.Graph().as_default():
        initializer = tf.random_uniform_initializer(-0.1, 0.1)
        with (
            tf.name_scope("Train"),
            tf.variable_scope("Model", reuse=None, initializer=initializer),
        ):
            m = PTBModel(is_training=True, inputs=inputs)
        with (
            tf.name_scope("Valid"),
            tf.variable_scope("Model", reuse=True, initializer=initializer),
        ):
            mvalid = PTBModel(is_training=False, inputs=inputs)
        with tf.Session() as session:
            tf.global_variables_initializer().run()
            session.run(tf.assign(m._lr, 0.5))
            assert m._lr.eval() == 0.5
        np.testing.assert_array_equal(m.logits, mvalid.logits)
        assert names(m.tvars) == [
            "Model/embedding:0",
            "Model/RNN/BasicLSTMCell/Linear/Matrix:0",
            "Model/RNN/BasicLSTMCell/Linear/Bias:0",
            "Model/softmax_w:0",
            "Model/softmax_b:0",
        ]
        assert m._lr.name == "Train/Model/Variable:0"  # by name scopes, as in TensorFlow
        assert all(np.abs(v.eval()).max() <= 0.1 for v in m.tvars)
        assert m.tvars[0].dtype == tf.float32


# --- residual blocks, with arguments by scope


@slim.add_arg_scope
def batch_norm(inputs, decay=0.999, is_training=True, scope=None, reuse=None):
    with tf.variable_scope(scope, "BatchNorm", [inputs], reuse=reuse):
        depth = inputs.shape[-1]
        beta = slim.model_variable("beta", shape=[depth], initializer=tf.zeros_initializer())
        gamma = slim.model_variable("gamma", shape=[depth], initializer=tf.ones_initializer())
        moving_mean = slim.model_variable(
            "moving_mean", [depth], initializer=tf.zeros_initializer, trainable=False
        )
        if is_training:
            tf.add_to_collection(
                tf.GraphKeys.UPDATE_OPS,
                tf.assign_sub(moving_mean, (1 - decay) * (moving_mean - inputs.mean((0, 1, 2)))),
            )
        return gamma * (inputs - moving_mean) + beta


@slim.add_arg_scope
def conv2d(
    inputs,
    num_outputs,
    kernel_size,
    weights_initializer=None,
    weights_regularizer=None,
    normalizer_fn=None,
    normalizer_params=None,
    reuse=None,
    scope=None,
):
    with tf.variable_scope(scope, "Conv", [inputs], reuse=reuse) as sc:
        weights = slim.model_variable(
            "weights",
            shape=[kernel_size, kernel_size, inputs.shape[-1], num_outputs],
            dtype=inputs.dtype,
            initializer=weights_initializer,
            regularizer=weights_regularizer,
        )
        outputs = inputs @ weights.value().mean((0, 1))
        if normalizer_fn:
            outputs = normalizer_fn(outputs, **(normalizer_params or {}))
        assert sc.name.split("/")[-1].startswith(("Conv", "conv", "shortcut"))
        return outputs


@slim.add_arg_scope
def bottleneck(inputs, depth, depth_bottleneck, scope=None):
    with tf.variable_scope(scope, "bottleneck_v1", [inputs]):
        shortcut = conv2d(inputs, depth, 1, scope="shortcut")
        residual = conv2d(inputs, depth_bottleneck, 1, scope="conv1")
        residual = conv2d(residual, depth_bottleneck, 3, scope="conv2")
        residual = conv2d(residual, depth, 1, scope="conv3")
        return relu(shortcut + residual)


def resnet_arg_scope(weight_decay=0.0001, is_training=True):
    with slim.arg_scope(
        [conv2d],
        weights_regularizer=slim.l2_regularizer(weight_decay),
        weights_initializer=slim.variance_scaling_initializer(),
        normalizer_fn=batch_norm,
    ):
        with slim.arg_scope([batch_norm], is_training=is_training) as arg_sc:
            return arg_sc


def resnet(inputs, scope="resnet_v1", reuse=None):
    with tf.variable_scope(scope, "resnet_v1", [inputs], reuse=reuse):
        net = conv2d(inputs, 8, 7, scope="conv1")
        for i in range(2):
            with tf.variable_scope("block%d" % (i + 1), values=[net]):
                for j in range(2):
                    with tf.variable_scope("unit_%d" % (j + 1), values=[net]):
                        net = bottleneck(net, 8, 4)
        return net


def test_residual_blocks():
    images = np.ones((2, 4, 4, 3), np.float32)
    with slim.arg_scope(resnet_arg_scope(weight_decay=0.5)):
        net = resnet(images)
        again = resnet(images, reuse=True)
    np.testing.assert_array_equal(net, again)

    first = "resnet_v1/block1/unit_1/bottleneck_v1/conv2/"
    assert names(slim.get_variables(first)) == [
        first + "weights:0",
        first + "BatchNorm/beta:0",
        first + "BatchNorm/gamma:0",
        first + "BatchNorm/moving_mean:0",
    ]
    convolutions = 1 + 4 * 4
    assert len(slim.get_model_variables()) == len(tf.model_variables()) == 4 * convolutions
    assert len(tf.trainable_variables()) == 3 * convolutions
    assert len(slim.get_variables_by_name("weights")) == convolutions
    assert len(slim.get_variables_by_suffix("gamma:0", "resnet_v1/block2")) == 8
    assert len(tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)) == convolutions
    weights = slim.get_variables_by_name("weights")
    expected = sum(0.5 * np.sum(np.square(w.eval(), dtype=np.float64)) / 2 for w in weights)
    assert float(tf.losses.get_regularization_loss()) == pytest.approx(expected, rel=1e-5)

    update_ops = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
    assert len(update_ops) == 2 * convolutions
    with tf.control_dependencies(update_ops):
        train_op = tf.no_op()
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        means = slim.get_variables_by_name("moving_mean")
        assert not any(mean.eval().any() for mean in means)
        sess.run(train_op)
        assert means[0].eval().any()


# --- weight decay through regularizers


def test_weight_decay():
    regularizer = tf.contrib.layers.l2_regularizer(scale=0.1)
    with tf.variable_scope("net", regularizer=regularizer):
        w = tf.get_variable("w", [3], initializer=tf.constant_initializer(2.0))
        tf.get_variable("b", [3], regularizer=tf.no_regularizer)
    with tf.variable_scope("net", regularizer=regularizer, reuse=True):
        tf.get_variable("w", [3])
    reg_losses = tf.get_collection(tf.GraphKeys.REGULARIZATION_LOSSES)
    assert len(reg_losses) == 1
    base_loss = 1.0
    reg_constant = 0.01
    assert base_loss + reg_constant * sum(reg_losses) == pytest.approx(1.006)
    assert tf.losses.get_regularization_loss() == pytest.approx(0.6)
    w.load(np.zeros(3))
    assert tf.losses.get_regularization_loss() == 0
    assert tf.losses.get_regularization_losses(scope="elsewhere") == []


# --- averages in place of variables, by a custom getter


def test_a_getter_of_moving_averages():
    def network(x):
        with tf.variable_scope("pi", reuse=tf.AUTO_REUSE):
            w = tf.get_variable("w", [2], initializer=tf.ones_initializer())
            return x * w

    ema = tf.train.ExponentialMovingAverage(decay=0.75)

    def ema_getter(getter, name, *args, **kwargs):
        var = getter(name, *args, **kwargs)
        average = ema.average(var)
        return average if average is not None else var

    network(1.0)
    target_update = ema.apply(tf.trainable_variables("pi"))
    [w] = tf.trainable_variables()
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        w.load([5.0, 9.0], sess)
        sess.run(target_update)
        with tf.variable_scope("", custom_getter=ema_getter):
            assert network(1.0).tolist() == [2.0, 3.0]
        assert network(1.0).tolist() == [5.0, 9.0]
        assert sess.run(ema.average(w)).tolist() == [2.0, 3.0]
    assert names(tf.global_variables()) == ["pi/w:0", "pi/w/ExponentialMovingAverage:0"]
    assert tf.moving_average_variables() == tf.trainable_variables() == [w]
    assert ema.average_name(w) == "pi/w/ExponentialMovingAverage"
    assert ema.variables_to_restore() == {"pi/w/ExponentialMovingAverage": w}


# --- a large table in parts


def test_a_partitioned_embedding():
    vocabulary, size = 10, 4
    with tf.variable_scope(
        "input", partitioner=tf.fixed_size_partitioner(3), initializer=tf.ones_initializer()
    ):
        embeddings = tf.get_variable("embeddings", shape=[vocabulary, size])
    parts = list(embeddings)
    assert [p.get_shape().as_list() for p in parts] == [[4, 4], [3, 4], [3, 4]]
    assert names(tf.trainable_variables()) == [
        "input/embeddings/part_0:0",
        "input/embeddings/part_1:0",
        "input/embeddings/part_2:0",
    ]
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        assert sess.run(embeddings).shape == (10, 4)
        sess.run(tf.assign(embeddings, np.arange(40.0).reshape(10, 4)))
        assert sess.run(parts[1])[0, 0] == 16
        sess.run(tf.variables_initializer([embeddings]))
        assert sess.run(embeddings).sum() == 40
        assert sess.run(tf.is_variable_initialized(embeddings)) is True
        assert sess.run(tf.report_uninitialized_variables([embeddings])).tolist() == []
    with tf.variable_scope("input", reuse=True):
        assert tf.get_variable("embeddings", [vocabulary, size]) is embeddings
    assert not isinstance(embeddings, tf.Variable)


# --- a target network


def test_a_target_network():
    def q_network(observations, scope, reuse=False):
        with tf.variable_scope(scope, reuse=reuse):
            with tf.variable_scope("q_func"):
                return linear(observations, 2, "out")

    obs = np.ones((1, 3), np.float32)
    q_network(obs, "q")
    q_network(obs, "target_q")
    q_vars = tf.get_collection(tf.GraphKeys.GLOBAL_VARIABLES, scope="q/")
    target_vars = tf.get_collection(tf.GraphKeys.GLOBAL_VARIABLES, scope="target_q/")
    update_target_fn = []
    for var, var_target in zip(
        sorted(q_vars, key=lambda v: v.name), sorted(target_vars, key=lambda v: v.name), strict=True
    ):
        update_target_fn.append(tf.assign(var_target, var))
    update_target_fn = tf.group(*update_target_fn)

    sess = tf.InteractiveSession()
    sess.run(tf.global_variables_initializer())
    assert not np.array_equal(q_vars[0].eval(), target_vars[0].eval())
    for value in (3.0, 7.0):
        q_vars[0].load(np.full((3, 2), value), sess)
        sess.run(update_target_fn)
        assert (target_vars[0].eval() == value).all()
    sess.close()
    assert tf.get_default_session() is None


# --- shorter ones


def test_counting_parameters_both_ways():
    tf.get_variable("a", [3, 4])
    tf.get_variable("b", [5])
    total_parameters = 0
    for variable in tf.trainable_variables():
        shape = variable.get_shape()
        variable_parameters = 1
        for dim in shape:
            variable_parameters *= dim.value
        total_parameters += variable_parameters
    assert total_parameters == 17
    assert np.sum([np.prod(v.get_shape().as_list()) for v in tf.trainable_variables()]) == 17


def test_initializing_what_is_not_initialized():
    def initialize_uninitialized(sess):
        global_vars = tf.global_variables()
        is_not_initialized = sess.run([tf.is_variable_initialized(var) for var in global_vars])
        not_initialized_vars = [
            v for (v, f) in zip(global_vars, is_not_initialized, strict=True) if not f
        ]
        if len(not_initialized_vars):
            sess.run(tf.variables_initializer(not_initialized_vars))
        return not_initialized_vars

    a = tf.get_variable("a", [2])
    b = tf.get_variable("b", [2])
    a.load([1.0, 2.0])
    with tf.Session() as sess:
        missing = set(sess.run(tf.report_uninitialized_variables()))
        assert missing == {b"b"}
        assert initialize_uninitialized(sess) == [b]
        assert a.eval(session=sess).tolist() == [1.0, 2.0]
        assert initialize_uninitialized(sess) == []


def test_word_vectors_in_plain_variables():
    graph = tf.Graph()
    with graph.as_default():
        rng = np.random.default_rng(0)
        embeddings = tf.Variable(rng.uniform(-1.0, 1.0, (50, 8)).astype(np.float32))
        with tf.name_scope("weights"):
            nce_weights = tf.Variable(rng.normal(size=(50, 8)), dtype=tf.float32)
        nce_biases = tf.Variable(np.zeros([50]), name="nce_biases")
        norm = np.sqrt(np.sum(np.square(embeddings), 1, keepdims=True))
        normalized_embeddings = embeddings / norm
        init = tf.global_variables_initializer()
    with tf.Session(graph=graph) as session:
        init.run()
        final = normalized_embeddings
        assert np.allclose(np.linalg.norm(final, axis=1), 1)
        assert session.run([nce_weights, nce_biases])[0].dtype == np.float32
    assert names(graph.variables) == ["Variable:0", "weights/Variable:0", "nce_biases:0"]
    assert nce_biases.dtype == tf.float64
    assert isinstance(embeddings, tf.Variable)


def test_a_template_and_a_template_of_an_old_kind():
    def my_op(x, scalar_name):
        var1 = tf.get_variable(scalar_name, shape=[], initializer=tf.constant_initializer(2))
        return x * var1

    scale_by_y = tf.make_template("scale_by_y", my_op, scalar_name="y")
    z, w = scale_by_y(3.0), scale_by_y(4.0)
    assert (float(z), float(w)) == (6.0, 8.0)
    assert names(tf.global_variables()) == ["scale_by_y/y:0"]
    own = tf.make_template(
        "t", my_op, create_scope_now_=True, unique_name_="exact", scalar_name="y"
    )
    assert own(1.0) == 2.0
    assert tf.global_variables()[1].name == "exact/y:0"


def test_code_from_before_version_one():
    def layer(x, name=None):
        with tf.variable_op_scope([x], name, "layer"), tf.op_scope([x], None, "inner"):
            return x * tf.get_variable("w", [2], initializer=tf.zeros_initializer)

    layer(np.ones(2))
    layer(np.ones(2))
    sess = tf.Session()
    sess.run(tf.initialize_all_variables())
    sess.run(tf.initialize_variables(tf.all_variables()))
    sess.run(tf.initialize_local_variables())
    assert names(tf.all_variables()) == ["layer/w:0", "layer_1/w:0"]
    assert tf.GraphKeys.VARIABLES == tf.GraphKeys.GLOBAL_VARIABLES
    sess.close()


def test_a_pretrained_embedding_as_a_constant():
    matrix = np.arange(6, dtype=np.float64).reshape(3, 2)
    w = tf.get_variable("w", shape=matrix.shape, initializer=tf.constant_initializer(matrix))
    w2 = tf.get_variable("w2", initializer=matrix.astype(np.float32), trainable=False)
    np.testing.assert_array_equal(w.eval(), w2.eval())
    assert w.dtype == w2.dtype == tf.float32
    assert copy.deepcopy(tf.get_default_graph())["w"].eval().tolist() == matrix.tolist()
