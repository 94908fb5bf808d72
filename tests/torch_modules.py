"""What variables share with PyTorch; test_interop.py runs this in a process of its own."""

import copy
import doctest
import gc
import importlib.util
import sys

import examples
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_docs import ROOT, python_only
from torch.utils.dlpack import from_dlpack

import varscope as vs
from varscope import errors
from varscope.interop import torch as interop
from varscope.shapes import as_dtype

HAS_ML_DTYPES = importlib.util.find_spec("ml_dtypes") is not None
DTYPES = ["bool", "int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64"]
DTYPES += ["complex64", "complex128", "uint16"]
NARROW = ["bfloat16", "float8_e4m3fn", "float8_e5m2"] if HAS_ML_DTYPES else []
SHAPES = [(), (3,), (2, 3), (0,)]


@pytest.fixture(autouse=True)
def fresh():
    torch.set_num_threads(1)
    vs.reset_default_graph()


def address(v):
    return v.array.ctypes.data


def numbers(shape, dtype="float32"):
    return np.array(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2, as_dtype(dtype))


def model():
    """A graph of three scopes, nothing of which has values yet."""
    with vs.Graph(seed=1).as_default() as graph:
        with vs.variable_scope("layer"):
            vs.get_variable("kernel", [3, 2], regularizer=vs.l2_regularizer(0.1))
            vs.get_variable("bias", [2], initializer=vs.ones)
            with vs.variable_scope("norm"):
                vs.get_variable("mean", [2], initializer=vs.zeros, trainable=False)
        vs.get_variable("step", [], "int64", trainable=False)
    return graph


# --- zero copy


@pytest.mark.parametrize("dtype", [*DTYPES, *NARROW])
def test_dlpack_both_ways(dtype):
    for number, shape in enumerate(SHAPES):
        v = vs.get_variable(f"v_{number}", initializer=numbers(shape, dtype))
        tensor = from_dlpack(v)
        assert str(tensor.dtype) == f"torch.{v.dtype.name}" and tuple(tensor.shape) == shape
        w = vs.adopt(f"w_{number}", tensor)
        assert (w.dtype, w.shape) == (v.dtype, shape)
        assert w.numpy().tobytes() == v.numpy().tobytes()
        if v.size:
            assert tensor.data_ptr() == address(v) == address(w)
            tensor.fill_(1)
            assert w.numpy().tobytes() == np.ones(shape, v.dtype).tobytes()


def test_what_torch_cannot_share():
    cases = {
        "tensor.detach()": torch.ones(3, requires_grad=True),
        "x.contiguous()": torch.ones(2, 3).T,
        "DLPack": torch.ones(3).to_sparse(),
    }
    for words, tensor in cases.items():
        with pytest.raises(errors.AdoptionError) as caught:
            vs.adopt("v", tensor)
        assert words in str(caught.value)
    with pytest.raises(errors.AdoptionError, match=r"tensor\.cpu\(\)"):
        interop.from_state_dict({"v": torch.ones(3, device="meta")})
    with pytest.raises(errors.AdoptionError, match="meta"):
        vs.adopt("v", torch.ones(3, device="meta"))
    assert len(vs.get_default_graph()) == 0


def test_memory_outlives_whoever_had_it():
    tensor = torch.arange(4.0)
    with vs.Graph().as_default():
        v = vs.adopt("v", tensor)
    del tensor
    gc.collect()
    assert v.numpy().tolist() == [0, 1, 2, 3]
    tensor = from_dlpack(v)
    del v
    gc.collect()
    assert tensor.tolist() == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="resiz"):
        tensor.resize_(1000)


# --- state dicts


@pytest.mark.parametrize("dtype", [*DTYPES, *NARROW])
def test_state_dicts_share_the_memory(dtype):
    graph = vs.Graph()
    with graph.as_default(), vs.variable_scope("s"):
        for number, shape in enumerate(SHAPES):
            vs.get_variable(f"v_{number}", initializer=numbers(shape, dtype))
    state = interop.to_state_dict(graph)
    assert list(state) == [f"s.v_{number}" for number in range(len(SHAPES))]
    back = interop.from_state_dict(state)
    for v, w, tensor in zip(graph.variables, back.variables, state.values(), strict=True):
        assert str(tensor.dtype) == f"torch.{v.dtype.name}" and not tensor.requires_grad
        assert (w.path, w.shape, w.dtype) == (v.path, v.shape, v.dtype)
        assert w.array.tobytes() == v.array.tobytes()
        assert v.size == 0 or tensor.data_ptr() == address(v) == address(w)


def test_what_is_declared_is_made():
    graph = model()
    twin = model()
    state = interop.to_state_dict(graph)
    assert all(v.initialized for v in graph.variables)
    assert np.array_equal(state["layer.kernel"].numpy(), twin["layer/kernel"].numpy())
    state["layer.bias"].mul_(3)
    assert graph["layer/bias"].numpy().tolist() == [3, 3]
    assert graph["layer/bias"].version == 1  # not counted: nobody tells


def test_parts_are_tensors_of_their_own():
    graph = vs.Graph(seed=1)
    with graph.as_default():
        v = vs.get_variable("v", [3, 2], partitioner=vs.fixed_size_partitioner(2))
    state = interop.to_state_dict(graph)
    assert {key: tuple(t.shape) for key, t in state.items()} == {
        "v.part_0": (2, 2), "v.part_1": (1, 2)
    }  # fmt: skip
    state["v.part_1"].zero_()
    assert not v.numpy()[2].any() and v.numpy()[:2].any()


def test_a_module_s_tensors_become_variables():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    graph = interop.from_state_dict(module.state_dict())
    assert [v.path for v in graph.variables][:3] == ["0/weight", "0/bias", "1/weight"]
    assert graph["0/weight"].array.ctypes.data == module[0].weight.data_ptr()
    assert graph["1/running_mean"].trainable and not graph["1/num_batches_tracked"].trainable
    known = interop.from_state_dict(module.state_dict(keep_vars=True))
    trainable = {v.path.replace("/", ".") for v in known.trainable_variables()}
    assert trainable == {name for name, _ in module.named_parameters()}
    module[0].weight.requires_grad_(False)
    fixed = interop.from_state_dict(module.state_dict(keep_vars=True))
    assert not fixed["0/weight"].trainable
    known["0/bias"].assign(np.full(4, 7.0))
    assert module[0].bias.tolist() == [7] * 4


def test_into_a_scope_of_a_graph_all_or_nothing():
    graph = vs.Graph()
    state = {"a.w": torch.ones(2), "a.b": torch.zeros(3)}
    with graph.as_default(), vs.variable_scope("enc"):
        assert interop.from_state_dict(state, graph) is graph
        assert list(graph) == ["enc/a/w", "enc/a/b"]
        bad = {"x": torch.ones(1), "a.w": torch.ones(2)}
        with pytest.raises(errors.VariableExistsError, match="enc/a/w"):
            interop.from_state_dict(bad, graph)
    for wrong, error in [
        ({"x": torch.ones(1), "y": torch.ones(2, 3).T}, errors.AdoptionError),
        ({"x": torch.ones(1), "y": torch.ones(1, device="meta")}, errors.AdoptionError),
        ({"x": torch.ones(1), "y": torch.ones(1).to_sparse()}, errors.AdoptionError),
        ({"x": torch.ones(1), "y": np.ones(1)}, errors.ArgumentTypeError),
        ({"x": torch.ones(1), "y/z": torch.ones(1)}, errors.InvalidNameError),
        ({"x": torch.ones(1), "y..z": torch.ones(1)}, errors.InvalidNameError),
        ({"x": torch.ones(1), 3: torch.ones(1)}, errors.ArgumentTypeError),
        ([torch.ones(1)], errors.ArgumentTypeError),
    ]:
        with pytest.raises(error):
            interop.from_state_dict(wrong, graph)
        assert list(graph) == ["enc/a/w", "enc/a/b"]
    with pytest.raises(errors.ArgumentTypeError, match=r"varscope\.Graph"):
        interop.from_state_dict(state, "graph")
    with pytest.raises(errors.AdoptionError, match="keeps all"):
        interop.from_state_dict(state, vs.Graph(storage="arena"))


def test_tensors_that_share_memory_do_so_as_variables():
    weight = torch.ones(2)
    graph = interop.from_state_dict({"in": weight, "out": weight})
    graph["in"].assign([5, 6])
    assert graph["out"].numpy().tolist() == [5, 6] == weight.tolist()
    with pytest.raises(RuntimeError, match="resiz"):
        weight.resize_(1000)


def test_names_and_dtypes_that_torch_cannot_have():
    with vs.Graph().as_default() as graph:
        vs.get_variable("a.b/w", [2])
        for use in (interop.to_state_dict, interop.as_module):
            with pytest.raises(errors.InvalidNameError, match=r"a\.b/w has a dot"):
                use(graph)
        assert not graph["a.b/w"].initialized
    for dtype in (">f4", "datetime64[s]", *(["int4"] * HAS_ML_DTYPES)):
        with vs.Graph().as_default() as graph:
            vs.get_variable("w", [2], dtype, initializer=lambda s, d: np.zeros(s, d))
            with pytest.raises(errors.DTypeMismatchError, match="variable w is"):
                interop.to_state_dict(graph)
    with pytest.raises(errors.ArgumentTypeError, match=r"varscope\.Graph"):
        interop.to_state_dict({})


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "w_1", "0"]), min_size=1, max_size=3).map(".".join),
        unique=True, max_size=6,
    )
)  # fmt: skip
def test_a_state_dict_comes_back(keys):
    state = {key: torch.full((2,), float(number)) for number, key in enumerate(keys)}
    back = interop.to_state_dict(interop.from_state_dict(state))
    assert list(back) == keys
    assert all(back[key].data_ptr() == state[key].data_ptr() for key in keys)


@pytest.mark.parametrize("storage", ["arena", "files"])
def test_storages_that_lie_in_one_piece(storage, tmp_path):
    storage = vs.MemoryMapped(tmp_path / "values") if storage == "files" else storage
    with vs.Graph(storage=storage).as_default() as graph:
        v, w = (vs.get_variable(name, [2], initializer=vs.ones) for name in "vw")
    state = interop.to_state_dict(graph)
    graph.flat()[:] = [1, 2, 3, 4]
    assert state["v"].tolist() == [1, 2] and state["w"].tolist() == [3, 4]
    state["w"].zero_()
    assert w.numpy().tolist() == [0, 0] and v.numpy().tolist() == [1, 2]


# --- modules


def test_a_module_of_a_graph_trains():
    graph = model()
    module = interop.as_module(graph)
    assert [name for name, _ in module.named_parameters()] == ["layer.kernel", "layer.bias"]
    assert sorted(name for name, _ in module.named_buffers()) == ["layer.norm.mean", "step"]
    kernel = graph["layer/kernel"]
    assert module.layer.kernel.data_ptr() == address(kernel)
    before = kernel.numpy()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    x = torch.ones(4, 3)
    for _ in range(3):
        optimizer.zero_grad()
        loss = (x @ module.layer.kernel + module.layer.bias).square().sum()
        loss.backward()
        optimizer.step()
    assert (kernel.numpy() != before).all()
    assert np.array_equal(kernel.numpy(), module.layer.kernel.detach().numpy())
    graph["layer/bias"].assign([5, 6])
    assert module.layer.bias.tolist() == [5, 6]


def test_loading_into_a_module_writes_the_variables():
    graph, other = model(), model()
    module = interop.as_module(graph)
    other["step"].assign(9)
    other["layer/bias"].assign([3, 4])
    module.load_state_dict(interop.to_state_dict(other))
    assert graph["step"].numpy() == 9 and graph["layer/bias"].numpy().tolist() == [3, 4]
    assert set(module.state_dict()) == {v.path.replace("/", ".") for v in graph.variables}
    twin = copy.deepcopy(module)
    twin.layer.bias.data.zero_()
    assert graph["layer/bias"].numpy().tolist() == [3, 4]
    del graph, other
    gc.collect()
    assert module.layer.bias.tolist() == [3, 4]


def test_whole_numbers_that_are_trained_need_no_gradient():
    v = vs.get_variable("v", [2], "int32")
    module = interop.as_module(v.graph)
    assert isinstance(module.v, torch.nn.Parameter) and not module.v.requires_grad


def test_names_that_a_module_cannot_have():
    for paths in (["a/train"], ["forward/w"], ["a", "a/b"], ["a/b", "a"]):
        with vs.Graph().as_default() as graph:
            for path in paths:
                vs.get_variable(path, [2])
        with pytest.raises(errors.ArgumentValueError, match=f"variable {paths[-1]} has no place"):
            interop.as_module(graph)


def test_a_cached_copy_is_renewed_when_it_is_told():
    with vs.Graph().as_default() as graph:
        v = vs.get_variable("v", [2], initializer=vs.ones, caching_device="cpu")
    module = interop.as_module(graph)
    assert v.value().tolist() == [1, 1]
    module.v.data.mul_(5)
    assert v.numpy().tolist() == [5, 5] and v.value().tolist() == [1, 1]
    v.assign(v.array)
    assert v.value().tolist() == [5, 5]


# --- functions of scopes on tensors


def network(x):
    with vs.variable_scope("layer", reuse=vs.AUTO_REUSE):
        kernel = vs.get_variable("kernel", [3, 2], regularizer=vs.l2_regularizer(0.1))
        return x @ kernel + vs.get_variable("bias", [2], initializer=vs.ones)


def parameters_of(module):
    return {name.replace(".", "/"): tensor for name, tensor in module.named_parameters()}


def test_autograd_reaches_what_stands_for_variables():
    graph = model()
    module = interop.as_module(graph)
    with graph.as_default(), vs.substitute(parameters_of(module)):
        loss = network(torch.ones(4, 3)).sum()
        loss.backward()
    assert module.layer.bias.grad.tolist() == [4, 4]
    assert module.layer.kernel.grad.tolist() == [[4, 4]] * 3
    expected = np.ones((4, 3), "f4") @ graph["layer/kernel"].numpy() + 1
    assert loss.item() == pytest.approx(expected.sum(), rel=1e-5)


def test_regularization_losses_are_of_the_tensors():
    graph = model()
    module = interop.as_module(graph)
    with graph.as_default(), vs.substitute(parameters_of(module)):
        penalty = vs.get_regularization_loss()
        penalty.backward()
    kernel = graph["layer/kernel"].numpy()
    assert penalty.item() == pytest.approx(0.05 * (kernel**2).sum(), rel=1e-5)
    np.testing.assert_allclose(module.layer.kernel.grad.numpy(), 0.1 * kernel, rtol=1e-5)


def test_functions_of_functions():
    graph = model()
    state = interop.to_state_dict(graph)
    params = {"layer/kernel": state["layer.kernel"], "layer/bias": state["layer.bias"]}

    def loss(params, x):
        with graph.as_default(), vs.substitute(params):
            return network(x).square().mean()

    x = torch.arange(6.0).reshape(2, 3)
    grads = torch.func.grad(loss)(params, x)
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x)
    assert {name: tuple(grad.shape) for name, grad in each.items()} == {
        "layer/kernel": (2, 3, 2), "layer/bias": (2, 2)
    }  # fmt: skip
    for name, grad in grads.items():
        torch.testing.assert_close(each[name].mean(0), grad)


# --- torch.fx


def dense(x, units):
    """A layer that is written with scopes, and puts its operations into the graph of `x`."""
    with vs.variable_scope(None, "dense", values=[x]):
        host = x.graph
        g = vs.get_default_graph()
        w = vs.get_variable("w", [x.meta["width"], units])
        kernel = host.create_node("get_attr", w.path.replace("/", "."), name=w.op_name)
        y = host.create_node(
            "call_function", torch.matmul, (x, kernel), name=g.unique_name("matmul")
        )
        y.meta["width"] = units
        return y


def test_a_graph_of_torch_fx_is_built_by_scopes():
    host = torch.fx.Graph()
    graph = vs.attach(host)
    graph.seed = 1
    x = host.placeholder("x")
    x.meta["width"] = 3
    host.output(dense(dense(x, 4), 2))
    names = [node.name for node in host.nodes]
    assert names == ["x", "dense_w", "dense_matmul", "dense_1_w", "dense_1_matmul", "output"]
    assert list(graph) == ["dense/w", "dense_1/w"]
    module = torch.fx.GraphModule(interop.as_module(graph), host)
    given = numbers((5, 3))
    expected = given @ graph["dense/w"].numpy() @ graph["dense_1/w"].numpy()
    np.testing.assert_allclose(module(torch.from_numpy(given)).detach(), expected, rtol=1e-5)
    module(torch.from_numpy(given)).sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.5).step()
    assert module.dense.w.data_ptr() == address(graph["dense/w"])
    other = given @ graph["dense/w"].numpy() @ graph["dense_1/w"].numpy()
    assert not np.allclose(other, expected)
    np.testing.assert_allclose(module(torch.from_numpy(given)).detach(), other, rtol=1e-5)


def test_a_graph_of_torch_fx_that_was_not_attached():
    x = torch.fx.Graph().placeholder("x")
    with pytest.raises(TypeError, match="attach"), vs.variable_scope("s", values=[x]):
        pass


# --- what is written about it


def test_the_page():
    page = ROOT / "docs" / "pytorch.md"
    text = python_only(page.read_text(encoding="utf-8"))
    report = examples.failures(text, page.name, examples.OPTIONS, {})
    assert not report, report


def test_the_examples_in_docstrings():
    outcome = doctest.testmod(interop)
    assert outcome.attempted > 5 and outcome.failed == 0


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for use in (interop.to_state_dict, interop.from_state_dict, interop.as_module):
        with pytest.raises(ImportError, match=r'pip install "varscope-core\[torch\]"'):
            use(vs.Graph())


def test_entries_are_what_substitute_takes():
    cut = vs.fixed_size_partitioner(3)

    def model(x):
        with vs.variable_scope("a", reuse=vs.AUTO_REUSE):
            table = vs.get_variable("table", [7, 2], partitioner=cut)
            return (x @ table + vs.get_variable("b", [2], trainable=False)).sum()

    graph = vs.Graph(1)
    with graph.as_default(), vs.substitute({}):
        model(np.ones((1, 7), "float32"))
    module = interop.as_module(graph)
    found = interop.entries(module)
    assert list(found) == ["a/b", "a/table"]
    assert found["a/b"] is module.a.b
    assert np.array_equal(found["a/table"].detach().numpy(), graph["a/table"].numpy())
    x = torch.arange(7.0)[None]
    with vs.Graph().as_default(), vs.substitute(found):
        model(x).backward()
    joined = torch.cat([getattr(module.a.table, f"part_{i}").grad for i in range(3)])
    assert joined.tolist() == [[i, i] for i in range(7)]
    torch.optim.SGD(module.parameters(), lr=1.0).step()
    changed = interop.entries(module)["a/table"].detach().numpy()
    assert np.array_equal(changed, graph["a/table"].numpy())  # made anew, it shows the step
    assert not np.array_equal(changed, found["a/table"].detach().numpy())


@pytest.mark.parametrize("thing", [torch.nn.Linear(2, 2), {}, None])
def test_entries_of_what_is_no_module_of_ours(thing):
    with pytest.raises(errors.ArgumentTypeError, match="one that as_module returned"):
        interop.entries(thing)


def test_entries_of_parameters_that_are_tied_or_gone():
    with vs.Graph().as_default() as graph:
        for scope in "ab":
            vs.get_variable(f"{scope}/w", [2], initializer=vs.ones)
    module = interop.as_module(graph)
    module.b.w = module.a.w
    assert interop.entries(module)["b/w"] is module.a.w
    del module.b.w
    with pytest.raises(errors.ArgumentValueError, match=r"has no 'b\.w' any more"):
        interop.entries(module)


def test_memory_that_stands_for_the_negative_numbers_is_not_adopted():
    imaginary = torch.tensor([1 + 2j]).conj().imag
    with pytest.raises(errors.AdoptionError, match=r"write x\.resolve_neg"):
        vs.adopt("x", imaginary)
    with pytest.raises(errors.AdoptionError):
        interop.from_state_dict({"x": imaginary})
    assert vs.adopt("x", imaginary.resolve_neg()).numpy().tolist() == [-2]
