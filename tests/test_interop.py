"""What of other libraries can be imported where they are not installed, and what it says then."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from requires import require_large

import varscope as vs
from varscope.interop import dask as vd
from varscope.interop import onnx as vo


@pytest.mark.parametrize("missing", ["distributed", "dask.array"])
@pytest.mark.parametrize(
    "use",
    [
        lambda: vd.Cluster(None),
        lambda: vd.materialise(vs.Graph(), None, "model"),
        lambda: vd.save(vs.Graph(), None, "model"),
        lambda: vd.restore("model", None),
        lambda: vd.to_dask(vs.Graph()),
    ],
)
def test_without_dask_there_is_an_error_that_says_how_to_get_it(monkeypatch, missing, use):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "varscope-core\[dask\]"'):
        use()


APART = [
    (["jax_functions.py", "device_libraries.py"], ["jax", "optax"], "not slow"),
    (["torch_modules.py", "device_libraries.py"], ["torch"], "not slow"),
    (["onnx_models.py", "onnx_minilm.py"], ["onnx", "onnxruntime"], "not slow"),
    (["onnx_models.py", "onnx_minilm.py"], ["onnx", "onnxruntime"], "slow"),
]


@pytest.mark.parametrize(
    ("files", "libraries", "marked"),
    [
        pytest.param(
            *row, id=f"{row[0][0]}-{row[2]}", marks=[pytest.mark.slow] * (row[2] == "slow")
        )
        for row in APART
    ],
)
def test_beside_a_library_that_starts_threads(files, libraries, marked):
    """In a process of its own: with those a process should not fork, as other tests do."""
    for library in libraries:
        require_large(library, '"varscope-core[test-libraries]"')
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked,
         "-k", libraries[0],
         *(str(Path(__file__).with_name(file)) for file in files)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_jax_there_is_an_error_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    init, apply = vs.transform(lambda: vs.get_variable("w", [2]))
    with pytest.raises(ImportError, match=r'pip install "varscope-core\[jax\]"'):
        init(0)
    entry = np.zeros(2, "float32")
    assert apply({"w": entry}) is entry  # which needs no JAX


@pytest.mark.parametrize("use", [vo.Builder, lambda: vo.initializers(vs.Graph())])
def test_without_onnx_there_is_an_error_that_says_how_to_get_it(monkeypatch, use):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'pip install "varscope-core\[onnx\]"'):
        use()


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module in (vd, vo) for name in module.__all__]
)
def test_a_public_name_says_what_it_is(module, name):
    assert (getattr(module, name).__doc__ or "").strip()
    assert getattr(module, name).__module__.startswith(module.__name__)
