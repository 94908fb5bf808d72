"""Models in ONNX: what onnx's checker accepts, and two runtimes compute as NumPy does.

test_interop.py runs this in a process of its own.
"""

import gc
import math
import os
import re
import tracemalloc

import ml_dtypes
import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import pytest
from children import python
from hypothesis import given, settings
from hypothesis import strategies as st
from requires import on_posix

import varscope as vs
from varscope import errors
from varscope.interop import onnx as vo

NEWEST = onnx.defs.onnx_opset_version()
DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES += ["float16", "float32", "float64", "bfloat16", "complex64", "complex128"]
DTYPES += ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "int4", "uint4"]
NARROW = ["float4_e2m1fn", "float8_e8m0fnu", "int2", "uint2"]  # of later opsets
COMPUTED = ["bool", "int8", "int64", "uint16", "float16", "float32", "float64"]


def run(model, **feeds):
    """What onnxruntime makes of a model or a path: its outputs by name."""
    source = model if isinstance(model, str) else model.SerializeToString()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def referred(model, **feeds):
    """The same by the reference implementation."""
    names = [output.name for output in model.graph.output]
    return dict(zip(names, onnx.reference.ReferenceEvaluator(model).run(names, feeds), strict=True))


def checked(model):
    onnx.checker.check_model(model, full_check=True)
    return model


def stored(model):
    """The values of a model's initializers, by name."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def variable(name, array):
    """A variable with the values of an array of any dtype."""
    made = vs.get_variable(name, array.shape, array.dtype, lambda s, d: np.zeros(s, d))
    return made.assign(array)


def same(left, right):
    """Whether two arrays are the same to the last bit."""
    return (left.shape, left.dtype) == (right.shape, right.dtype) and (
        left.tobytes() == right.tobytes()
    )


def assert_well_named(model):
    """Nodes have names of scopes, each its own, and so have tensors."""
    nodes = [node.name for node in model.graph.node]
    assert len(set(nodes)) == len(nodes)
    for name in nodes:
        assert re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.\-]*(/[A-Za-z0-9_.\-]+)*", name)
    tensors = [tensor.name for tensor in model.graph.initializer]
    tensors += [value.name for value in model.graph.input]
    tensors += [output for node in model.graph.node for output in node.output]
    assert len(set(tensors)) == len(tensors)


# --- a model of scopes


def dense(model, x, name, units):
    with vs.variable_scope(name):
        w = vs.get_variable("w", [x.shape[-1], units])
        b = vs.get_variable("b", [units], initializer=vs.random_normal())
        return model.node("Add", model.node("MatMul", x, w), b)


def attention(model, x, heads):
    """Over x of (tokens, width): the nodes, in a scope."""
    width = x.shape[-1]
    with vs.variable_scope("attention"):

        def split(name, order):
            y = model.node("Reshape", dense(model, x, name, width), np.array([0, heads, -1]))
            return model.node("Transpose", y, perm=order)

        query, key = split("query", [1, 0, 2]), split("key", [1, 2, 0])
        scores = model.node("MatMul", query, key)
        scores = model.node("Div", scores, np.float32(math.sqrt(width // heads)))
        mixed = model.node("MatMul", model.node("Softmax", scores), split("value", [1, 0, 2]))
        mixed = model.node("Transpose", mixed, perm=[1, 0, 2])
        return dense(model, model.node("Reshape", mixed, np.array([0, -1])), "out", width)


def network(seed=3):
    """A builder: two layers around an attention block; one table for the input and the output."""
    graph = vs.Graph(seed=seed)
    with graph.as_default(), vs.variable_scope("model"):
        model = vo.Builder()
        ids = model.input("ids", ["tokens"], "int64")
        table = vs.get_variable("table", [11, 8])
        x = model.node("Gather", table, ids)
        x = model.node("Relu", dense(model, x, "layer_0", 12))
        x = model.node("Add", x, attention(model, x, heads=3))
        x = dense(model, x, "layer_1", 8)
        model.output("logits", model.node("MatMul", x, model.node("Transpose", table)))
    return model


def in_numpy(graph, ids):
    """The same in NumPy."""

    def dense(x, name):
        return x @ graph[f"model/{name}/w"].value() + graph[f"model/{name}/b"].value()

    def split(y):
        return y.reshape(len(y), 3, -1).swapaxes(0, 1)

    table = graph["model/table"].value()
    x = np.maximum(dense(table[ids], "layer_0"), 0)
    query, key, value = (split(dense(x, f"attention/{name}")) for name in ("query", "key", "value"))
    scores = np.exp(query @ key.swapaxes(1, 2) / math.sqrt(4))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ value
    x = x + dense(mixed.swapaxes(0, 1).reshape(len(x), -1), "attention/out")
    return dense(x, "layer_1") @ table.T


@pytest.mark.parametrize("ids", [[1], [3, 1, 4, 1, 5, 9, 2, 6]])
def test_a_model_of_scopes_computes_what_numpy_does(ids):
    builder = network()
    model, ids = checked(builder.make_model()), np.array(ids)
    want = in_numpy(builder.graph, ids)
    for outcome in (run(model, ids=ids), referred(model, ids=ids)):
        np.testing.assert_allclose(outcome["logits"], want, rtol=0, atol=1e-5)


def test_nodes_are_named_by_their_scopes_and_variables_by_their_paths():
    builder = network()
    model = builder.make_model()
    assert_well_named(model)
    names = [node.name for node in model.graph.node]
    assert names[:4] == [
        "model/Gather", "model/layer_0/MatMul", "model/layer_0/Add", "model/Relu"
    ]  # fmt: skip
    assert "model/attention/query/MatMul" in names and "model/attention/MatMul_1" in names
    tensors = [tensor.name for tensor in model.graph.initializer]
    assert set(tensors) >= {v.op_name for v in builder.graph.variables}
    assert tensors.count("model/table") == 1  # of two that use it
    [logits] = model.graph.output
    assert logits.name == "logits"
    assert [dim.dim_param or dim.dim_value for dim in logits.type.tensor_type.shape.dim][1] == 11


def test_models_are_the_same_on_every_run():
    first, second = (network().make_model().SerializeToString() for _ in range(2))
    assert first == second
    assert first != network(seed=4).make_model().SerializeToString()


def test_a_node_and_a_variable_of_one_name_get_two():
    with vs.variable_scope("a"):
        model = vo.Builder()
        v = variable("MatMul", np.eye(2, dtype=np.float32))
        y = model.node("MatMul", v, v)
    assert y.name == "a/MatMul_1:0"
    model.output("y", y)
    assert_well_named(checked(model.make_model()))


def test_a_graph_names_the_nodes_of_all_its_models_and_a_fresh_one_begins_again():
    def build():
        model = vo.Builder()
        return model.node("Relu", model.input("x", [2])).name

    assert [build(), build()] == ["Relu:0", "Relu_1:0"]
    with vs.Graph().as_default():
        assert build() == "Relu:0"


def test_scopes_are_those_of_the_graph_of_the_builder():
    other = vs.Graph()
    model = vo.Builder(other)
    x = model.input("x", [2])
    with vs.variable_scope("here"):
        assert model.node("Relu", x).name == "Relu:0"
        with other.as_default(), vs.variable_scope("there", values=[x]):
            assert model.node("Relu", x).name == "there/Relu:0"
        with vs.variable_scope(None, "of_values", values=[x]) as scope:
            assert scope.graph is other


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_program_of_scopes_gives_unique_names_and_shares_variables(data):
    scopes = st.sampled_from(["a", "b", "Add", "a_1"])
    with vs.Graph().as_default():
        model = vo.Builder()
        x = model.input("x", [2])
        for _ in range(data.draw(st.integers(1, 12))):
            path = data.draw(st.lists(scopes, max_size=3))
            with vs.variable_scope("/".join(["m", *path]), reuse=vs.AUTO_REUSE):
                v = vs.get_variable(data.draw(scopes), [2])
                x = model.node("Add", x, v)
        model.output("y", x)
        made = checked(model.make_model())
        assert_well_named(made)
        used = sum(v.op_name in stored(made) for v in vs.global_variables())
        assert used == len(vs.global_variables()) == len(made.graph.initializer)


# --- values


def bits(dtype):
    """Arrays of a dtype and any values, infinities and their like among them."""
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))

    def array(drawn):
        shape, seed = drawn
        random = np.random.default_rng(seed)
        if dtype.kind == "b":
            return random.integers(0, 2, shape).astype(bool)
        if "int" in dtype.name and dtype.kind == "V":
            low, high = ml_dtypes.iinfo(dtype).min, ml_dtypes.iinfo(dtype).max
            return random.integers(low, high + 1, shape).astype(dtype)
        high = 16 if dtype.name.startswith("float4") else 256
        raw = random.integers(0, high, [*shape, dtype.itemsize], np.uint8)
        return np.ascontiguousarray(raw).view(dtype).reshape(shape)

    shapes = st.lists(st.integers(0, 5), max_size=3)
    return st.tuples(shapes, st.integers(0, 2**32)).map(array)


@pytest.mark.parametrize(("opset", "dtypes"), [(21, DTYPES), (25, NARROW)])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_all_values_of_all_dtypes_are_kept(opset, dtypes, data, tmp_path_factory):
    arrays = {dtype: data.draw(bits(dtype)) for dtype in dtypes}
    path = str(tmp_path_factory.getbasetemp() / f"dtypes_{opset}.onnx")
    with vs.Graph().as_default() as graph:
        model, computed = vo.Builder(opset=opset), vo.Builder()
        for dtype, array in arrays.items():
            v = variable(dtype, array)
            model.output(f"{dtype}_out", v)
            if dtype in COMPUTED:
                computed.output(f"{dtype}_out", v)
        made = checked(model.make_model())
        model.save(path, size_threshold=1)
        checked(path)
        assert vo.initializers(graph) == list(made.graph.initializer)
        for found in (stored(made), stored(onnx.load(path))):
            assert all(same(found[dtype], array) for dtype, array in arrays.items())
        if dtypes is DTYPES:
            computed.save(path, size_threshold=1)
            for name, outcome in run(path).items():
                assert same(outcome, arrays[name.removesuffix("_out")])


def test_a_runtime_reads_narrow_dtypes_as_they_are(tmp_path):
    model, wanted = vo.Builder(), {}
    for dtype in DTYPES[DTYPES.index("float16") :]:
        if "complex" not in dtype:
            array = np.array([[0, 1, 2], [3, 4, 5]], getattr(ml_dtypes, dtype, dtype))
            wanted[f"{dtype}_out"] = array.astype(np.float32)
            value = model.node("Cast", variable(dtype, array), to=onnx.TensorProto.FLOAT)
            model.output(f"{dtype}_out", value)
    model.save(tmp_path / "m.onnx", size_threshold=1)
    for outcome in (run(model.make_model()), run(str(tmp_path / "m.onnx"))):
        assert outcome.keys() == wanted.keys()
        assert all(same(outcome[name], array) for name, array in wanted.items())


@pytest.mark.parametrize("dtype", [">f4", ">i8", ">c16"])
def test_values_in_the_other_byte_order_are_turned(dtype, tmp_path):
    model = vo.Builder()
    array = np.arange(6).reshape(2, 3).astype(dtype)
    model.output("y", variable("v", array))
    model.save(tmp_path / "m.onnx", size_threshold=1)
    for made in (model.make_model(), onnx.load(tmp_path / "m.onnx")):
        assert same(stored(made)["v"], array.astype(array.dtype.newbyteorder("=")))


@pytest.mark.parametrize("array", [["", "ä", "\U0001d11e b"], [b"a", b"\xff"], ["x"] * 9000])
def test_text_stays_in_the_model(array, tmp_path):
    model = vo.Builder()
    model.output("y", variable("v", np.array(array)))
    model.save(tmp_path / "m.onnx", size_threshold=1)
    assert os.listdir(tmp_path) == ["m.onnx"]
    [tensor] = checked(onnx.load(tmp_path / "m.onnx")).graph.initializer
    texts = [text if isinstance(text, bytes) else text.encode() for text in array]
    assert list(tensor.string_data) == texts and list(tensor.dims) == [len(array)]


@pytest.mark.parametrize(
    "dtype", ["float8_e3m4", "float8_e4m3", "longdouble", "M8[s]", "V3", [("x", "f4")]]
)
def test_a_dtype_that_onnx_lacks_is_refused(dtype, refused):
    if isinstance(dtype, str) and hasattr(ml_dtypes, dtype):
        dtype = getattr(ml_dtypes, dtype)
    v = vs.get_variable("scope/v", [2], dtype=dtype, initializer=lambda s, d: np.zeros(s, d))
    model = vo.Builder()
    words = "dtype", "one that ONNX has, such as float32", repr(np.dtype(dtype))
    with refused(errors.ArgumentTypeError, "variable scope/v", *words):
        model.node("Identity", v)
    with refused(errors.ArgumentTypeError, "variable scope/v", *words):
        vo.initializers(vs.get_default_graph())
    with refused(errors.ArgumentTypeError, "input 'x'", *words):
        model.input("x", [2], dtype)
    assert not v.initialized


def test_variables_in_parts_are_whole_and_their_shards_are_themselves():
    cut = vs.get_variable("cut", [5, 2], partitioner=vs.fixed_size_partitioner(3))
    model = vo.Builder()
    model.output("whole", model.node("Neg", cut))
    model.output("part", model.node("Neg", cut[1]))
    made = checked(model.make_model())
    assert list(stored(made)) == ["cut", "cut/part_1"]
    outcome = run(made)
    np.testing.assert_array_equal(outcome["whole"], -cut.numpy())
    np.testing.assert_array_equal(outcome["part"], -cut[1].numpy())


def test_initializers_are_all_variables_but_local_ones():
    graph = vs.Graph(seed=1)
    with graph.as_default(), vs.variable_scope("b"):
        late = vs.get_variable("late", validate_shape=False, initializer=lambda s, d: np.ones(3, d))
        vs.get_variable("cut", [5], partitioner=vs.fixed_size_partitioner(2))
        vs.get_local_variable("step", [])
    with graph.as_default():
        renamed = vs.get_variable("b", [2])
    assert renamed.op_name == "b_1"
    found = vo.initializers(graph)
    assert [tensor.name for tensor in found] == ["b/late", "b/cut", "b_1"]
    assert not graph.local_variables()[0].initialized
    for tensor in found:
        assert same(onnx.numpy_helper.to_array(tensor), graph[tensor.name].numpy())
    assert late.shape == (3,)


def test_values_are_those_of_the_moment_and_those_on_a_device_are_read_where_they_lie():
    v = vs.get_variable("v", [2], initializer=vs.ones, caching_device="cpu")
    model = vo.Builder()
    model.output("y", v)
    before = model.make_model()
    v.assign([3, 4])
    assert stored(before)["v"].tolist() == [1, 1]
    assert stored(model.make_model())["v"].tolist() == [3, 4]


def test_constants_are_copied():
    constant = np.array([1.0, 2.0], np.float32)
    model = vo.Builder()
    with vs.name_scope("scope"):
        y = model.node("Add", constant, np.float32(1))
    model.output("y", y)
    constant[:] = 7
    made = checked(model.make_model())
    assert list(stored(made)) == ["scope/Constant:0", "scope/Constant_1:0"]
    assert run(made)["y"].tolist() == [2, 3]


# --- nodes


def test_values_know_their_shapes_and_dtypes():
    model = vo.Builder()
    x = model.input("x", ("batch", None, 6))
    assert (x.name, x.shape, x.dtype) == ("x", ("batch", None, 6), np.float32)
    assert model.input("any").shape is None
    assert model.input("none", []).shape == () and model.input("five", 5).shape == (5,)
    y = model.node("Reshape", x, np.array([0, 0, 2, 3]))
    assert (y.shape, y.dtype) == (("batch", None, 2, 3), np.float32)
    assert model.node("Cast", x, to=onnx.TensorProto.BFLOAT16).dtype == ml_dtypes.bfloat16
    assert repr(y) == f"<Value 'Reshape:0' shape={y.shape} dtype=float32>"
    sequence = model.node("SplitToSequence", x, axis=2)
    assert (sequence.dtype, sequence.shape) == (None, None)
    assert model.node("SequenceAt", sequence, np.int64(0)).dtype == np.float32


def test_several_outputs_and_inputs_that_are_left_out():
    model = vo.Builder()
    x = model.input("x", [2, 6])
    left, right = model.node("Split", x, outputs=2, axis=1, num_outputs=2)
    assert (left.name, right.name) == ("Split:0", "Split:1")
    low = model.node("Clip", right, None, np.float32(0))
    model.output("left", left)
    model.output("low", low)
    model.output("again", low)
    model.output("x_as_it_is", x)
    array = np.linspace(-1, 1, 12, dtype=np.float32).reshape(2, 6)
    made = checked(model.make_model())
    assert_well_named(made)
    outcome = run(made, x=array)
    np.testing.assert_array_equal(outcome["left"], array[:, :3])
    np.testing.assert_array_equal(outcome["low"], np.minimum(array[:, 3:], 0))
    np.testing.assert_array_equal(outcome["again"], outcome["low"])
    np.testing.assert_array_equal(outcome["x_as_it_is"], array)


def test_ints_are_floats_where_the_operator_wants_them_and_lists_may_be_empty():
    model = vo.Builder()
    x = model.node("LeakyRelu", model.input("x", [2]), alpha=2)
    scaled = model.node("Constant", value_floats=[1, 3])
    assert model.node("Constant", value_ints=[]).shape == (0,)
    assert model.node("Constant", value_strings=["a", b"b"]).dtype == object
    model.output("y", model.node("Mul", x, scaled))
    assert run(checked(model.make_model()), x=np.float32([-1, 1]))["y"].tolist() == [-2, 3]


@pytest.mark.parametrize("opset", [9, 13, 17, NEWEST])
def test_the_opset_is_that_of_the_model(opset):
    model = vo.Builder(opset=opset)
    model.output("y", model.node("Relu", model.input("x", [2])))
    made = checked(model.make_model())
    assert [(each.domain, each.version) for each in made.opset_import] == [("", opset)]
    assert made.ir_version == onnx.helper.find_min_ir_version_for(made.opset_import)


def test_arithmetic_of_values_is_refused():
    x, v = vo.Builder().input("x", [2]), vs.get_variable("v", [2])
    for use in (lambda: v + x, lambda: x @ v, lambda: np.ones(2) * x, lambda: v * x):
        with pytest.raises(TypeError):
            use()


# --- what is refused


def other_value():
    return vo.Builder().input("other", [2])


def of_other_graph():
    with vs.Graph().as_default():
        return vs.get_variable("v", [2])


@pytest.mark.parametrize(
    ("kind", "use", "words"),
    [
        (ValueError, lambda m, x: m.node("Matmul", x, x), ["opset 21", "'MatMul'", "'Matmul'"]),
        (ValueError, lambda m, x: m.node("nonsense", x), ["opset 21", "'nonsense'"]),
        (ValueError, lambda m, x: m.node("Upsample", x), ["Upsample", "deprecated"]),
        (TypeError, lambda m, x: m.node(x, x), ["op_type", '"MatMul"', "Value"]),
        (ValueError, lambda m, x: m.node("Add", x), ["Add", "(x float32 (2,))", "size 1"]),
        (ValueError, lambda m, x: m.node("Relu", x, axis=1), ["Unrecognized attribute: axis"]),
        (ValueError, lambda m, x: m.node("Relu", x, name="r"), ["Unrecognized attribute: name"]),
        (ValueError, lambda m, x: m.node("Softmax", x, axis="1"), ["'axis'", "opset 21"]),
        (ValueError, lambda m, x: m.node("Softmax", x, axis={}), ["Softmax", "axis"]),
        (ValueError, lambda m, x: m.node("Softmax", x, axis=[1]), ["'INT', actual: 'INTS'"]),
        (ValueError, lambda m, x: m.node("Transpose", x, perm=[0.5]), ["Transpose", "float"]),
        (ValueError, lambda m, x: m.node("Cast", x), ["'to' is missing"]),
        (ValueError, lambda m, x: m.node("Relu", x, outputs=2), ["Relu", "output size 2"]),
        (ValueError, lambda m, x: m.node("Relu", x, outputs=0), ["outputs", "1 or more", "0"]),
        (TypeError, lambda m, x: m.node("Relu", x, outputs="y"), ["outputs", "'y'"]),
        (
            ValueError,
            lambda m, x: m.node("MatMul", x, np.ones((3, 2), np.float32)),
            ["x float32 (2,), a constant float32 (3, 2)", "Incompatible dimensions"],
        ),
        (
            ValueError,
            lambda m, x: m.node("Add", x, np.array([1.0, 2.0])),
            ["a constant float64 (2,)", "inconsistent type tensor(double)"],
        ),
        (TypeError, lambda m, x: m.node("Add", x, 1.0), ["input 1 of Add", "numpy.array", "1.0"]),
        (TypeError, lambda m, x: m.node("Add", x, [1.0, 2.0]), ["input 1 of Add", "list"]),
        (TypeError, lambda m, x: m.node("Add", "x", x), ["input 0 of Add", "'x'"]),
        (
            TypeError,
            lambda m, x: m.node("Add", x, np.array([None])),
            ["input 1 of Add", "dtype('O')"],
        ),
        (ValueError, lambda m, x: m.node("Add", x, other_value()), ["same builder", "'other'"]),
        (ValueError, lambda m, x: m.node("Add", x, of_other_graph()), ["different graphs", "v:0"]),
        (ValueError, lambda m, x: m.input("x", [3]), ["'x'", "an input is"]),
        (ValueError, lambda m, x: m.output("x", x), ["'x'", "an input is"]),
        (ValueError, lambda m, x: m.input("y:0", [3]), ["name of an input", "'y:0'"]),
        (ValueError, lambda m, x: m.output("", x), ["name of an output", "''"]),
        (TypeError, lambda m, x: m.input(3, [3]), ["name of an input", "int"]),
        (TypeError, lambda m, x: m.output("y", None), ["an output", "None"]),
        (TypeError, lambda m, x: m.output("y", "x"), ["Identity", "'x'"]),
        (ValueError, lambda m, x: m.input("z", [-1]), ["-1"]),
        (TypeError, lambda m, x: m.input("z", [1.5]), ["1.5"]),
        (TypeError, lambda m, x: m.input("z", "batch"), ["'batch'"]),
        (TypeError, lambda m, x: m.input("z", [2], "nonsense"), ["'nonsense'"]),
        (ValueError, lambda m, x: m.make_model(), ["no output", "builder.output('y', value)"]),
        (ValueError, lambda m, x: m.save("m.onnx"), ["no output"]),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_all_as_it_was(kind, use, words, refused):
    model = vo.Builder()
    x = model.input("x", [2])
    with refused(kind, *words) as caught:
        use(model, x)
    assert isinstance(caught.value, errors.VarscopeError)
    assert repr(model) == "<Builder of 0 nodes and 0 tensors>"
    assert model.node("Relu", x).name == "Relu:0"
    model.output("y", x)
    checked(model.make_model())


def test_names_of_variables_are_kept_apart_from_those_of_inputs_and_outputs(refused):
    v, w = vs.get_variable("x", [2]), vs.get_variable("w", [2])
    model = vo.Builder()
    x = model.input("x", [2])
    with refused(errors.ArgumentValueError, "a variable", "'x'", "an input is"):
        model.node("Add", x, v)
    y = model.node("Add", x, w)
    with refused(errors.ArgumentValueError, "an output", "'w'", "a variable is"):
        model.output("w", y)
    with refused(errors.ArgumentValueError, "an input", "'w'", "a variable is"):
        model.input("w", [2])
    u = vs.get_variable("u", [2])
    with refused(errors.ArgumentValueError, "an output", "'u'", "the variable is"):
        model.output("u", u)
    model.output("u", y)
    with refused(errors.ArgumentValueError, "a variable", "'u'", "an output is"):
        model.node("Add", x, u)
    assert_well_named(checked(model.make_model()))


@pytest.mark.parametrize(
    ("kind", "use", "words"),
    [
        (TypeError, lambda: vo.Builder("graph"), ["graph", "varscope.Graph", "'graph'"]),
        (TypeError, lambda: vo.Builder(opset="21"), ["opset", "'21'"]),
        (ValueError, lambda: vo.Builder(opset=8), ["opset", "from 9 to", "8"]),
        (ValueError, lambda: vo.Builder(opset=NEWEST + 1), ["opset", f"to {NEWEST}"]),
        (TypeError, lambda: vo.initializers([]), ["graph", "varscope.Graph", "list"]),
    ],
)
def test_what_is_no_graph_or_opset_is_refused(kind, use, words, refused):
    with refused(kind, *words):
        use()


# --- files


@pytest.fixture
def model():
    """A builder of one large variable, one small one, and one in parts."""
    graph = vs.Graph(seed=1)
    with graph.as_default():
        model = vo.Builder()
        large = vs.get_variable("large", [300, 20])
        cut = vs.get_variable("cut", [20, 70], partitioner=vs.fixed_size_partitioner(2))
        small = vs.get_variable("small", [70], initializer=vs.ones)
        y = model.node("Add", model.node("MatMul", large, cut), small)
        model.output("y", y)
    return model


def wanted(model):
    g = model.graph
    return g["large"].value() @ g["cut"].value() + g["small"].value()


def data_files(folder):
    return sorted(name for name in os.listdir(folder) if name.endswith(".data"))


def test_large_values_lie_beside_the_model(model, tmp_path):
    path = tmp_path / "m.onnx"
    model.save(path)
    [data] = data_files(tmp_path)
    assert re.fullmatch(r"m\.onnx\.[0-9a-f]{8}\.data", data)
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", data]
    checked(str(path))
    tensors = {
        tensor.name: {each.key: each.value for each in tensor.external_data}
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
    }
    assert tensors["small"] == {}
    assert tensors["large"] == {"location": data, "offset": "0", "length": "24000"}
    assert tensors["cut"] == {"location": data, "offset": "24576", "length": "5600"}
    assert path.stat().st_size < 2000 and (tmp_path / data).stat().st_size == 24576 + 5600
    np.testing.assert_allclose(run(str(path))["y"], wanted(model), atol=1e-5)
    assert [*stored(onnx.load(path))] == ["large", "cut", "small"]


@pytest.mark.parametrize("threshold", [1, 5601, 24000, 24001])
def test_the_threshold_says_what_lies_beside(model, tmp_path, threshold):
    path = tmp_path / "m.onnx"
    model.save(path, size_threshold=threshold)
    beside = [
        tensor.name
        for tensor in onnx.load(path, load_external_data=False).graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    sizes = {"large": 24000, "cut": 5600, "small": 280}
    assert beside == [name for name, size in sizes.items() if size >= threshold]
    assert len(data_files(tmp_path)) == bool(beside)
    np.testing.assert_allclose(run(str(path))["y"], wanted(model), atol=1e-5)


def test_a_save_in_place_of_another_leaves_its_own_files_only(model, tmp_path):
    path = tmp_path / "m.onnx"
    others = ["m.onnx.data", "n.onnx.01234567.data", "m.onnx.0123456.data", "weights.bin"]
    for name in others:
        (tmp_path / name).write_text("of somebody")
    for threshold in (1, 10_000, 10**9, 1):
        model.save(path, size_threshold=threshold)
        names = {tensor.name for tensor in onnx.load(path).graph.initializer}
        assert names == {"large", "cut", "small"}
        assert len(os.listdir(tmp_path)) == len(others) + 1 + (threshold < 10**9)


def test_two_models_in_one_folder_leave_each_other_alone(model, tmp_path):
    for name in ("m.onnx", "model.onnx", "m.onnx", "m.onnx.onnx"):
        model.save(tmp_path / name)
    assert len(data_files(tmp_path)) == 3
    for name in ("m.onnx", "model.onnx", "m.onnx.onnx"):
        checked(str(tmp_path / name))


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("call", ["open", "fsync", "replace", "mkdir"])
def test_a_save_that_fails_leaves_what_was_there(model, tmp_path, monkeypatch, replaced, call):
    path = tmp_path / "m.onnx"
    if replaced:
        model.save(path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    module, real = os, getattr(os, call)
    for number in range(20):
        left = [number]

        def fails(*args, left=left, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "no space left")
            return real(*args, **kwargs)

        monkeypatch.setattr(module, call, fails)
        try:
            model.save(path)
            break
        except OSError as error:
            assert error.errno == 28
        finally:
            monkeypatch.setattr(module, call, real)
        after = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
        if after != before:  # only the last step has failed: to sync the folder
            assert call in ("open", "fsync")
            assert set(after) == {"m.onnx", *before, *data_files(tmp_path)}
            checked(str(path))
    else:
        pytest.fail("it never came to an end")
    assert number >= 1
    checked(str(path))
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize(
    ("kind", "path", "words"),
    [
        (errors.ArgumentValueError, "m", ["path", ".onnx", "'m'"]),
        (errors.ArgumentValueError, "", ["path", ".onnx"]),
        (errors.ArgumentValueError, "m\udcff.onnx", ["path", ".onnx"]),
        (errors.ArgumentTypeError, b"m.onnx", ["path", "b'm.onnx'"]),
        (errors.ArgumentTypeError, 3, ["path", "3"]),
        (FileNotFoundError, "nowhere/m.onnx", ["no such folder", "nowhere"]),
        (IsADirectoryError, "folder.onnx", ["this is a folder", "folder.onnx"]),
    ],
)
def test_a_path_that_cannot_be_is_refused(kind, path, words, model, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    with refused(kind, *words):
        model.save(path)
    assert os.listdir(tmp_path) == ["folder.onnx"]
    assert not model.graph["large"].initialized


@pytest.mark.parametrize(("kind", "size"), [(ValueError, 0), (TypeError, "1MB"), (TypeError, True)])
def test_a_threshold_that_cannot_be_is_refused(kind, size, model, tmp_path, refused):
    with refused(kind, "size_threshold", "1 or more"):
        model.save(tmp_path / "m.onnx", size_threshold=size)


def test_what_a_message_cannot_hold_is_refused_before_it_is_made(tmp_path, refused):
    huge = vs.get_variable("huge", [2**29])
    model = vo.Builder()
    model.output("y", huge)
    words = "takes 2,147,48", "2,147,483,647", "builder.save(path)"
    with refused(errors.ArgumentValueError, *words):
        model.make_model()
    with refused(errors.ArgumentValueError, *words):
        model.save(tmp_path / "m.onnx", size_threshold=2**40)
    assert not huge.initialized and not os.listdir(tmp_path)


def test_values_are_not_held_twice_while_they_are_saved(tmp_path):
    model = vo.Builder()
    v, w = vs.get_variable("v", [1 << 21]), vs.get_variable("w", [1 << 21], dtype="bfloat16")
    cut = vs.get_variable("cut", [1 << 21], partitioner=vs.fixed_size_partitioner(2))
    for name, variable in [("y", v), ("z", w), ("c", cut)]:
        model.output(name, variable)
    vs.initialize()
    gc.collect()
    tracemalloc.start()
    try:
        model.save(tmp_path / "m.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < cut.nbytes + (1 << 20)  # the whole of what is in parts, and no other
    found = stored(onnx.load(tmp_path / "m.onnx"))
    for variable in (v, w, cut):
        assert same(found[variable.op_name], variable.numpy())


KILLED = """
import os, sys
import numpy as np, onnx, varscope as vs
from varscope.interop import onnx as vo

path, killed = sys.argv[1], None
CALLS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir"}

def hook(event, arguments):
    global killed
    if killed is not None and event in CALLS:
        killed -= 1
        if killed < 0:
            os._exit(9)

def model(number):
    builder = vo.Builder(vs.Graph())
    with builder.graph.as_default():
        for name, size in [("a", 3000), ("b", 3), ("c", 5000)]:
            v = vs.get_variable(name, [size], initializer=vs.constant(number))
            builder.output(name.upper(), v)
    return builder

def held():
    values = [onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer]
    [number] = set(np.concatenate(values).tolist())
    return number

sys.addaudithook(hook)
model(0).save(path)
before, kills, changed = 0, 0, 0
while True:
    child = os.fork()
    if child == 0:
        killed = kills
        model(before + 1).save(path)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
    assert held() in (before, before + 1)
    changed += held() != before
    before, kills = held(), kills + 1
assert held() == before + 1
print(kills, changed, *sorted(name.partition(".onnx")[2][-5:] for name in os.listdir(".")))
"""


@on_posix
@pytest.mark.slow
def test_a_save_that_is_killed_leaves_one_whole_model(tmp_path):
    done = python(KILLED, "m.onnx", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    kills, changed, *left = done.stdout.split()
    assert int(kills) > 8 and int(changed) > 0
    assert left == [".data"]


@pytest.mark.slow
def test_a_model_above_two_gibibytes(tmp_path):
    """Which checker and runtime read from where it lies."""
    size = 1 << 28
    model = vo.Builder()
    x = model.input("x", [1], "int64")
    for i in range(3):
        table = vs.get_variable(f"table_{i}", [size, 1], initializer=vs.zeros)
        table[size - 1 - i] = i + 1
        x = model.node("Add", x, model.node("Cast", model.node("Gather", table, np.int64(
            [size - 1 - i])), to=onnx.TensorProto.INT64))  # fmt: skip
    model.output("y", x)
    with pytest.raises(errors.ArgumentValueError, match="takes 3,2"):
        model.make_model()
    model.save(tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    assert run(str(tmp_path / "m.onnx"), x=np.int64([10]))["y"].tolist() == [[16]]
