"""Caching devices of JAX and torch, on the CPU; test_interop.py runs it in processes of its own."""

import copy
import importlib.util

import numpy as np
import pytest

import varscope as vs
from varscope.errors import DeviceError
from varscope.shapes import as_dtype

HAS_ML_DTYPES = importlib.util.find_spec("ml_dtypes") is not None
DTYPES = ["float16", "float32", "int8", "uint8", "int16", "int32", "bool", "complex64", ">f4"]
DTYPES += ["bfloat16", "float8_e4m3fn", "float8_e5m2"] if HAS_ML_DTYPES else []
WIDE = ["float64", "int64", "complex128"]


@pytest.fixture
def jax():
    import jax

    return jax


@pytest.fixture
def torch():
    import torch

    return torch


def variable(device, dtype="float32", shape=(3, 2), name="v"):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2 + 1
    return vs.get_variable(name, initializer=values.astype(as_dtype(dtype)), caching_device=device)


def unchanged_by_the_storage(v, as_list):
    """The copy shares nothing with the storage, in either direction, and is renewed."""
    first = v.value()
    assert v.value() is first
    before = as_list(first)
    assert before == v.numpy().astype("float64").tolist()
    v.array[...] = 0
    assert as_list(first) == before
    assert v.value() is first
    v.assign(np.ones_like(v.array))
    second = v.value()
    assert second is v.value() is not first
    assert as_list(second) == v.numpy().astype("float64").tolist()
    assert as_list(first) == before


# --- JAX


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 2), (), (0,), (300, 100)], ids=str)
def test_jax_copies(jax, dtype, shape):
    v = variable("jax:cpu", dtype, shape)
    value = v.value()
    assert isinstance(value, jax.Array)
    assert value.devices() == {jax.devices("cpu")[0]}
    assert (value.shape, value.dtype) == (shape, v.dtype.newbyteorder("="))
    if dtype != "complex64":
        unchanged_by_the_storage(v, lambda x: np.asarray(x).astype("float64").tolist())


@pytest.mark.parametrize("dtype", WIDE)
def test_jax_keeps_64_bits_where_it_was_told_to_and_is_refused_otherwise(jax, dtype, refused):
    with refused(DeviceError, "variable v", dtype, "jax_enable_x64"):
        variable("jax:cpu", dtype)
    jax.config.update("jax_enable_x64", True)
    try:
        v = variable("jax:cpu", dtype)
        assert v.value().dtype == dtype
    finally:
        jax.config.update("jax_enable_x64", False)
    v.assign(v.array)
    with pytest.raises(DeviceError, match="jax_enable_x64"):  # never 32 bits in silence
        v.value()


@pytest.mark.parametrize("rest", ["tpu:9", "cpu:7", "cpu:x", "cpu:-1", "nonsense", "", ":0"])
def test_jax_devices_that_are_not_there(jax, rest, refused):
    with refused(DeviceError, "variable v", "jax:cpu:0") as caught:
        variable(f"jax:{rest}")
    assert caught.value.present == ["jax:cpu:0"]
    assert variable("jax:cpu:0").caching_device == "jax:cpu:0"


def test_jax_dtypes_that_it_does_not_have(jax, refused):
    with refused(DeviceError, "variable v", "datetime64"):
        variable("jax:cpu", "datetime64[s]")


def test_jax_functions_take_the_copy(jax):
    with vs.variable_scope("layer", caching_device=lambda v: "jax:cpu" if v.trainable else None):
        kernel = vs.get_variable("kernel", [4, 2])
        steps = vs.get_variable("steps", [], dtype="int32", trainable=False)
    loss = jax.jit(lambda w, x: (x @ w).sum())
    assert np.isclose(loss(kernel.value(), np.ones((3, 4), "float32")), 3 * kernel.numpy().sum())
    assert isinstance(steps.value(), np.ndarray)


# --- torch


@pytest.mark.parametrize("dtype", [*DTYPES, *WIDE])
@pytest.mark.parametrize("shape", [(3, 2), (), (0,)], ids=str)
def test_torch_copies(torch, dtype, shape):
    v = variable("torch:cpu", dtype, shape)
    value = v.value()
    assert isinstance(value, torch.Tensor)
    assert (str(value.device), tuple(value.shape)) == ("cpu", shape)
    assert str(value.dtype) == f"torch.{v.dtype.name}"
    if not dtype.startswith("complex"):
        unchanged_by_the_storage(v, lambda x: x.to(torch.float64).tolist())


@pytest.mark.parametrize("rest", ["nonsense", "cpu:x", "", "meta", "cuda:99"])
def test_torch_devices_that_are_not_there(torch, rest, refused):
    with refused(DeviceError, "variable v", "torch:cpu") as caught:
        variable(f"torch:{rest}")
    assert "torch:cpu" in caught.value.present
    assert variable("torch:cpu").value().tolist() == [[1, 2], [1, 2], [1, 2]]


@pytest.mark.parametrize("dtype", ["datetime64[s]", *(["int4", "float8_e3m4"] * HAS_ML_DTYPES)])
def test_torch_dtypes_that_it_does_not_have(torch, dtype, refused):
    with refused(DeviceError, "variable v", dtype):
        vs.get_variable("v", [2], dtype, initializer=vs.zeros, caching_device="torch:cpu")


def test_torch_tensors_are_no_part_of_a_copied_graph(torch):
    v = variable("torch:cpu")
    v.value()
    twin = copy.deepcopy(v.graph)["v"]
    assert twin.value().tolist() == v.value().tolist()
    assert twin.value().data_ptr() != v.value().data_ptr()
