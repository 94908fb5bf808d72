"""Models as pure functions of JAX; test_interop.py runs this in a process of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from test_generating import BODIES, build
from test_substitution import without_collections

import varscope as vs
from varscope import errors

X = jnp.arange(8.0).reshape(2, 4) / 8


def model(x):
    """A bit of everything: default names, sharing, parts, losses, an initializer of JAX."""
    with vs.variable_scope("net", regularizer=vs.l2_regularizer(0.1)):
        table = vs.get_variable("table", [6, 4], partitioner=vs.fixed_size_partitioner(3))
        x = x + table[1]
        for _ in range(2):
            with vs.variable_scope(None, "layer"):
                w = vs.get_variable("w", [4, 4], initializer=jax.nn.initializers.lecun_normal())
                x = jnp.tanh(x @ w + vs.get_variable("b", [4], regularizer=vs.no_regularizer))
        with vs.variable_scope("layer", reuse=True):
            x = x @ vs.get_variable("w")
    return jnp.sum(x * x) + vs.get_regularization_loss()


def by_hand(params, x):
    p = params
    x = x + p["net/table"][1]
    x = jnp.tanh(x @ p["net/layer/w"] + p["net/layer/b"])
    x = jnp.tanh(x @ p["net/layer_1/w"] + p["net/layer_1/b"])
    x = x @ p["net/layer/w"]
    shrunk = [p["net/table"], p["net/layer/w"], p["net/layer_1/w"]]
    return jnp.sum(x * x) + sum(0.05 * jnp.sum(w * w) for w in shrunk)


def close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


@pytest.fixture
def params():
    return vs.transform(model).init(3, X)


init, apply = vs.transform(model)


def test_first_values_are_those_of_the_variables(params):
    with vs.Graph(3).as_default() as graph:
        with vs.substitute({}):
            model(np.asarray(X))
        assert list(params) == ["net/table", *(p for p in map(path, graph) if "layer" in p)]
        for name, value in params.items():
            assert isinstance(value, jax.Array)
            assert np.array_equal(value, graph[name].numpy())
    assert not vs.global_variables()  # nothing is left outside


def path(name):
    return name.removesuffix(":0")


def test_seeds_tell_them_apart_and_again_gives_the_same(params):
    again, other = init(3, X), init(np.int64(4), X)
    assert all(np.array_equal(params[name], again[name]) for name in params)
    assert not np.array_equal(params["net/layer/w"], other["net/layer/w"])
    assert not np.array_equal(params["net/layer/w"], params["net/layer_1/w"])


def test_it_is_the_function_that_would_be_written_by_hand(params):
    close(apply(params, X), by_hand(params, X))
    close(jax.grad(apply)(params, X), jax.grad(by_hand)(params, X))
    close(jax.jit(jax.value_and_grad(apply))(params, X), jax.value_and_grad(by_hand)(params, X))
    rows = X[:, None]
    over_rows = [jax.vmap(f, (None, 0))(params, rows) for f in (apply, by_hand)]
    close(*over_rows)
    hessians = [jax.jacfwd(jax.grad(f, argnums=1), argnums=1)(params, X) for f in (apply, by_hand)]
    close(*hessians)


def test_it_is_pure(params):
    first = apply(params, X)
    assert apply(params, X) == first  # names are counted anew each time
    assert jax.make_jaxpr(apply)(params, X).effects == set()
    with vs.Graph().as_default() as graph, vs.variable_scope("elsewhere", reuse=True):
        assert apply(params, X) == first
    assert len(graph) == 0


def test_what_stands_around_it_does_not_matter(params):
    first = apply(params, X)
    with vs.substitute({"net/layer/w": np.zeros([4, 4], "float32")}):
        assert apply(params, X) == first
        again = init(3, X)
    assert np.array_equal(again["net/layer/w"], params["net/layer/w"])


def test_an_optimizer_of_optax_makes_the_loss_fall(params):
    optimizer = optax.adam(0.05)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        loss, gradients = jax.value_and_grad(apply)(params, X)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(20):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_init_can_be_compiled_and_evaluated_for_its_shapes(params):
    compiled = jax.jit(init, static_argnums=0)(3, X)
    assert all(np.array_equal(params[name], compiled[name]) for name in params)
    shapes = jax.eval_shape(lambda x: init(3, x), X)
    assert jax.tree.map(jnp.shape, params) == {name: one.shape for name, one in shapes.items()}


def test_first_values_are_nobody_elses():
    """Also where JAX would share memory, as it does with what begins at 64 bytes."""
    memory = np.zeros(1 << 12, "float32")
    start = -memory.ctypes.data % 64 // 4
    mine = memory[start : start + 64]
    found = vs.transform(lambda: vs.adopt("w", mine)).init(0)["w"]
    mine[:] = 5
    assert not found.any()


def test_variables_of_other_graphs_are_left_alone():
    other = vs.Graph(3)

    def function():
        mine = vs.get_variable("w", [2], initializer=vs.ones)
        with other.as_default(), vs.variable_scope("", reuse=vs.AUTO_REUSE):
            theirs = vs.get_variable("w", [2], initializer=vs.constant(7.0))
            only = vs.get_variable("only", [2], initializer=vs.zeros)
        return mine, theirs.value() + only.value()

    transformed = vs.transform(function)
    params = transformed.init(0)
    assert list(params) == ["w"]
    mine, theirs = transformed.apply(params)
    assert (mine.tolist(), theirs.tolist()) == ([1, 1], [7, 7])


# --- dicts by scope ------------------------------------------------------------------------------


def test_dicts_by_scope(params):
    nested = vs.transform(model, nested=True).init(3, X)
    assert set(nested["net"]) == {"table", "layer", "layer_1"}
    assert set(nested["net"]["layer"]) == {"w", "b"}
    mixed = {"net": {k: v for k, v in nested["net"].items() if k != "layer_1"}}
    mixed |= {"net/layer_1": nested["net"]["layer_1"]}
    for one in (nested, mixed):
        assert apply(one, X) == apply(params, X)
    gradients = jax.grad(apply)(nested, X)
    close(gradients["net"]["layer"]["w"], jax.grad(apply)(params, X)["net/layer/w"])


@example([("open", "a", []), ("variable", "a", 0), ("variable", "a_1", 1)])  # an op is a_1
@example([("open", "a", [("parts", "part_0", 1)]), ("parts", "a", 1)])
@given(BODIES)
@settings(max_examples=30, deadline=None)
def test_any_model(body):
    """Flat and nested, it is given what it asks for, in the order in which it first asks."""
    body = without_collections(body)
    returned = []

    def function():
        returned.clear()
        build(body, returned)

    def narrow():
        # NumPy's default integers have 64 bits, and those stay out of JAX.
        try:
            return vs.transform(function).init(0)
        except errors.DeviceError:
            return None

    entries = narrow()
    if entries is None:
        return
    vs.transform(function).apply(entries)
    assert {id(entry) for entry in returned} == {id(entry) for entry in entries.values()}
    try:
        nested = vs.transform(function, nested=True).init(0)
    except errors.ParameterError:
        paths = list(entries)
        assert any(other.startswith(f"{one}/") for one in paths for other in paths)
        return
    vs.transform(function).apply(nested)
    assert len(jax.tree.leaves(nested)) == len(entries)


def test_a_tree_that_cannot_be(params):
    def function():
        vs.get_variable("a", [1])
        with vs.variable_scope("a"):
            vs.get_variable("b", [1])

    with pytest.raises(errors.ParameterError, match="variable a/b does not fit into dicts"):
        vs.transform(function, nested=True).init(0)
    twice = {"net/layer/w": params["net/layer/w"], "net": {"layer": params}}
    twice["net"] = {"layer": {"w": params["net/layer/w"]}}
    with pytest.raises(errors.ParameterError, match="two entries for variable net/layer/w"):
        apply(twice, X)


# --- what can go wrong ---------------------------------------------------------------------------


def test_parameters_that_are_not_those_of_the_function(params):
    missing = {name: value for name, value in params.items() if name != "net/layer_1/w"}
    with pytest.raises(errors.ParameterError, match=r"net/layer_1/w, which is not in params") as e:
        apply(missing, X)
    assert "net/layer/w" in e.value.similar
    wide = {**params, "net/layer/w": jnp.zeros([4, 5])}
    with pytest.raises(errors.ShapeMismatchError, match="net/layer/w has shape"):
        jax.jit(apply)(wide, X)
    half = {**params, "net/layer/w": jnp.zeros([4, 4], "bfloat16")}
    with pytest.raises(errors.DTypeMismatchError, match="bfloat16 was substituted"):
        apply(half, X)
    with pytest.raises(errors.ArgumentTypeError, match="params must be a dict"):
        apply([1], X)
    more = {**params, "other": jnp.zeros(3)}  # which another function may ask for
    assert apply(more, X) == apply(params, X)


def test_wrong_arguments():
    with pytest.raises(errors.NotCallableError, match=r"write varscope\.transform"):
        vs.transform(model(X))
    with pytest.raises(errors.ArgumentTypeError, match="seed must be an int"):
        init(jax.random.key(0), X)
    with pytest.raises(errors.ArgumentTypeError, match="seed must be an int"):
        jax.jit(init)(3, X)


def test_64_bits_are_never_made_32_in_silence():
    def function():
        return vs.get_variable("w", [2], "float64")

    with pytest.raises(errors.DeviceError, match=r"variable w: .*jax_enable_x64"):
        vs.transform(function).init(0)
    with jax.enable_x64(True):
        assert vs.transform(function).init(0)["w"].dtype == "float64"


def test_inside_apply_a_variable_itself_has_no_values(params):
    def function(x):
        loss = model(x)
        return loss + vs.trainable_variables()[0].value().sum()

    for call in ("value", "numpy", "initialize"):

        def read(x, call=call):
            model(x)
            return getattr(vs.trainable_variables()[0], call)()

        with pytest.raises(errors.StorageError, match="has no values inside apply"):
            vs.transform(read).apply(params, X)
    with pytest.raises(errors.StorageError, match="has no values inside apply"):
        vs.transform(function).apply(params, X)
    with pytest.raises(errors.StorageError, match="has no values inside apply"):
        vs.transform(lambda: vs.trainable_variables()[0] + 1 if model(X) else 0).apply(params)


def test_what_a_function_raises_comes_out(params):
    def function(x):
        model(x)
        raise KeyError("mine")

    for call in (lambda: vs.transform(function).apply(params, X), lambda: apply(params, None)):
        with pytest.raises((KeyError, TypeError)):
            call()
        assert vs.get_variable_scope().name == ""
        assert isinstance(vs.get_variable("free", [1]), vs.Variable)
        vs.reset_default_graph()


# --- initializers of JAX -------------------------------------------------------------------------

INITIALIZERS = [
    jax.nn.initializers.lecun_normal(),
    jax.nn.initializers.orthogonal(),
    jax.nn.initializers.uniform(0.1),
    jax.nn.initializers.zeros,
    jax.nn.initializers.constant(2.5),
]


@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_an_initializer_of_jax_fills_a_variable(initializer):
    with vs.Graph(1).as_default():
        w = vs.get_variable("w", [6, 4], initializer=initializer)
        cut = vs.fixed_size_partitioner(3)
        with vs.Graph(1).as_default():
            parts = vs.get_variable("w", [6, 4], initializer=initializer, partitioner=cut)
        assert w.numpy().dtype == "float32"
        assert np.array_equal(parts.numpy(), w.numpy())
        other = vs.get_variable("other", [6, 4], initializer=initializer)
        drawn = initializer in INITIALIZERS[:3]
        assert np.array_equal(other.numpy(), w.numpy()) != drawn
    with vs.Graph(1).as_default():
        assert np.array_equal(vs.get_variable("w", [6, 4], initializer=initializer).numpy(), w)


def test_its_key_is_made_of_that_of_the_variable():
    keys = []

    def initializer(key, shape, dtype):
        keys.append(jax.random.key_data(key).tolist())
        return jnp.zeros(shape, dtype)

    for seed in (1, 2, 1):
        with vs.Graph(seed).as_default():
            vs.get_variable("w", [2], initializer=initializer).initialize()
    assert keys[0] == keys[2] != keys[1]
    assert all(keys[0])


def test_an_initializer_of_jax_that_fails_names_the_variable():
    w = vs.get_variable("w", [3], initializer=jax.nn.initializers.lecun_normal())
    with pytest.raises(ValueError, match="input and output sizes") as error:
        w.value()
    assert "variable w" in "".join(error.value.__notes__)


def test_the_dtypes_that_jax_has():
    for dtype in ("bfloat16", "float16", "float8_e4m3fn"):
        w = vs.get_variable(dtype, [4], dtype, initializer=jax.nn.initializers.ones)
        assert w.numpy().astype("float32").tolist() == [1, 1, 1, 1]

    def function():
        return vs.get_variable("w", [4], "bfloat16")

    params = vs.transform(function).init(0)
    assert vs.transform(function).apply(params).dtype == "bfloat16"


# --- memory that is shared


def test_the_storage_as_an_array_of_jax_and_back():
    for number, dtype in enumerate(("float32", "int8", "bfloat16", "float8_e5m2")):
        v = vs.get_variable(f"v_{number}", [2, 3], dtype, initializer=vs.ones)
        shown = jnp.from_dlpack(v)
        assert shown.dtype == v.dtype and shown.tolist() == v.numpy().tolist()
        with pytest.raises(errors.AdoptionError, match=r"does not say|read-only"):
            vs.adopt(f"w_{number}", shown)
        with pytest.raises(errors.AdoptionError, match="read-only"):
            vs.adopt(f"w_{number}", np.asarray(shown))
        assert vs.adopt(f"w_{number}", np.array(shown)).dtype == v.dtype


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")
def test_an_initializer_of_jax_is_not_cut_short_in_silence():
    w = vs.get_variable("w", [3], "float64", initializer=jax.nn.initializers.normal())
    with pytest.raises(errors.InitializerError, match=r"float32 for float64.*jax_enable_x64"):
        w.value()
    with jax.enable_x64(True):
        assert w.value().dtype == "float64"
    v = vs.get_variable("v", [3], initializer=lambda key, shape: jnp.zeros(shape))
    with pytest.raises(errors.InitializerError, match=r"write it as 'def initializer\(key, shape"):
        v.value()
