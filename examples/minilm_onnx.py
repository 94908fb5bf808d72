"""The model of minilm.py as an ONNX file, which computes the same embeddings in any runtime.

    python examples/minilm_onnx.py MINILM.onnx
    python examples/minilm_onnx.py MINILM.onnx "A cat sits on the mat." "Stocks fell."

Both forms write the file, and beside it another one with the weights. The second form embeds the
sentences with onnxruntime and with NumPy, and prints how far apart the two are. What it needs
besides what minilm.py does:

    pip install "varscope-core[onnx]" onnxruntime

The scopes and names are those of minilm.py, and so are weights, tokenizer and name map. Only here a
function gets a value and gives another one: the nodes that it makes are called after the scope that
is open, as in "minilm/encoder/layer/0/attention/self/query/Gemm". The variables are declared while
the nodes are made; the weights come last.
"""

import argparse
import math
import sys
from pathlib import Path

import minilm
import numpy as np

import varscope as vs
from varscope.interop import onnx as vo


def linear(model, x, name, units):
    with vs.variable_scope(name):
        weight = vs.get_variable("weight", [units, x.shape[-1]])
        bias = vs.get_variable("bias", [units], initializer=vs.zeros)
        return model.node("Gemm", x, weight, bias, transB=1)


def layer_norm(model, x, epsilon):
    with vs.variable_scope("LayerNorm"):
        scale = vs.get_variable("weight", [x.shape[-1]], initializer=vs.ones)
        offset = vs.get_variable("bias", [x.shape[-1]], initializer=vs.zeros)
        return model.node("LayerNormalization", x, scale, offset, epsilon=epsilon)


def embedding(model, ids, name, rows, features):
    with vs.variable_scope(name):
        table = vs.get_variable("weight", [rows, features])
        return model.node("Gather", table, ids)


def self_attention(model, x, heads):
    features = x.shape[-1]

    def split(name, order):  # (tokens, features) -> (tokens, heads, features of one head), in order
        y = linear(model, x, name, features)
        y = model.node("Reshape", y, np.array([0, heads, features // heads]))
        return model.node("Transpose", y, perm=order)

    with vs.variable_scope("self"):
        query, key, value = (
            split("query", [1, 0, 2]),
            split("key", [1, 2, 0]),
            split("value", [1, 0, 2]),
        )
        scores = model.node("MatMul", query, key)
        scores = model.node("Div", scores, np.float32(math.sqrt(features // heads)))
        mixed = model.node("MatMul", model.node("Softmax", scores, axis=-1), value)
        mixed = model.node("Transpose", mixed, perm=[1, 0, 2])
        return model.node("Reshape", mixed, np.array([0, features]))


def add_and_norm(model, x, update, config):
    with vs.variable_scope("output"):
        update = linear(model, update, "dense", config.hidden_size)
        return layer_norm(model, model.node("Add", x, update), config.layer_norm_eps)


def transformer_layer(model, x, config):
    with vs.variable_scope("attention"):
        x = add_and_norm(model, x, self_attention(model, x, config.num_attention_heads), config)
    with vs.variable_scope("intermediate"):
        wide = model.node("Gelu", linear(model, x, "dense", config.intermediate_size))
    return add_and_norm(model, x, wide, config)


def encoder(model, ids, config):
    """The embedding of a sentence's token ids: the mean of their last states, at length 1."""
    width = config.hidden_size
    with vs.variable_scope("embeddings"):
        words = embedding(model, ids, "word_embeddings", config.vocab_size, width)
        numbers = model.node("Range", np.int64(0), model.node("Size", ids), np.int64(1))
        rows = config.max_position_embeddings
        positions = embedding(model, numbers, "position_embeddings", rows, width)
        kinds = config.type_vocab_size
        kind = embedding(model, np.int64(0), "token_type_embeddings", kinds, width)
        x = model.node("Add", model.node("Add", words, positions), kind)
        x = layer_norm(model, x, config.layer_norm_eps)
    for number in range(config.num_hidden_layers):
        with vs.variable_scope(f"encoder/layer/{number}"):
            x = transformer_layer(model, x, config)
    mean = model.node("ReduceMean", x, np.array([0]), keepdims=0)
    return model.node("LpNormalization", mean, axis=-1, p=2)


def build(folder=None):
    """Return the model of a folder, with its weights: input "ids", int64, output "embedding"."""
    folder = minilm.model_folder() if folder is None else Path(folder)
    graph = vs.Graph()
    with graph.as_default(), vs.variable_scope("minilm"):
        model = vo.Builder()
        ids = model.input("ids", ["tokens"], "int64")
        model.output("embedding", encoder(model, ids, minilm.read_config(folder)))
    vs.restore(graph, folder / "model.safetensors", names=minilm.NAMES)
    return model


def embed(path, sentences, folder=None):
    """Return the embeddings of a list of sentences by the model at a path, a row for each."""
    import onnxruntime

    tokenizer = minilm.read_tokenizer(minilm.model_folder() if folder is None else Path(folder))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows = [tokenizer.encode(sentence).ids for sentence in sentences]
    return np.array([session.run(None, {"ids": np.array(row)})[0] for row in rows])


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="minilm_onnx.py", description="Write all-MiniLM-L6-v2 as an ONNX model."
    )
    parser.add_argument("path", metavar="MINILM.onnx")
    parser.add_argument("sentences", nargs="*", type=minilm.utf8, metavar="sentence")
    arguments = parser.parse_args(argv)
    try:
        build().save(arguments.path)
        if arguments.sentences:
            theirs = embed(arguments.path, arguments.sentences)
            ours = minilm.embed(arguments.sentences)
            print(f"largest difference from NumPy: {np.abs(theirs - ours).max():.1e}")
    except (ImportError, OSError, ValueError) as error:
        parser.exit(2, f"minilm_onnx.py: error: {error}\n")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")
    main()
