"""A character-level transformer, as one function of scopes for NumPy, JAX and PyTorch.

It shows what scopes are for: default names for the blocks, an initializer for each scope, one
regularizer for all, an embedding that is cut into shards and shared with the output layer.  The
text that it learns is made here too.  `train_jax.py` and `train_torch.py` train it; they start from
the same values.

    python examples/transformer.py      lists the variables, and the loss before training
"""

import argparse
import math
import random

import numpy as np

import varscope as vs
from varscope.summary import summarize

LETTERS = "\n abcdefghijklmnopqrstuvwxyz,."
CONTEXT, WIDTH, HEADS, BLOCKS = 32, 48, 4, 2

# --- the text


def make_text(length=50_000, seed=0):
    """Sentences of a small grammar, some of which agree in number: enough to learn something."""
    pick = random.Random(seed).choice
    nouns = ["cat", "dog", "bird", "river", "child", "stone", "tree", "king"]
    verbs = ["sees", "follows", "likes", "carries", "hears"]
    places = ["in the garden", "by the old wall", "under the moon", "near the sea"]
    lines, size = [], 0
    while size < length:
        several = pick([False, True])
        noun, verb = pick(nouns), pick(verbs)
        if several:
            subject = f"the {noun}s" if noun != "child" else "the children"
            verb = verb[:-1] if not verb.endswith("ies") else "carry"
        else:
            subject = f"the {noun}"
        line = f"{subject} {verb} a {pick(nouns)}{pick(['', ' ' + pick(places)])}.\n"
        lines.append(line)
        size += len(line)
    return "".join(lines)[:length]


def encode(text):
    """The numbers of its letters, an array of int32."""
    return np.array([LETTERS.index(letter) for letter in text], np.int32)


def batches(text, size, count, seed=1):
    """`count` pairs (letters, the letters that follow), each of shape (size, CONTEXT)."""
    numbers = encode(text)
    draw = np.random.default_rng(seed)
    for _ in range(count):
        starts = draw.integers(0, len(numbers) - CONTEXT - 1, size)
        rows = numbers[starts[:, None] + np.arange(CONTEXT + 1)]
        yield rows[:, :-1], rows[:, 1:]


# --- the model, in the functions that numpy, jax.numpy and torch have alike


def dense(x, size, name):
    with vs.variable_scope(name):
        w = vs.get_variable("w", [x.shape[-1], size])
        b = vs.get_variable("b", [size], initializer=vs.zeros, regularizer=vs.no_regularizer)
        return x @ w + b


def normalized(x, xp, name):
    with vs.variable_scope(name, regularizer=vs.no_regularizer):
        gain = vs.get_variable("gain", [x.shape[-1]], initializer=vs.ones)
    x = x - xp.mean(x, axis=-1, keepdims=True)
    return gain * x / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + 1e-5)


def log_softmax(x, xp):
    x = x - xp.amax(x, axis=-1, keepdims=True)
    return x - xp.log(xp.sum(xp.exp(x), axis=-1, keepdims=True))


def attention(x, xp):
    """Each letter looks at itself and those before it."""
    batch, length, width = x.shape
    with vs.variable_scope("attention", initializer=vs.glorot_normal()):
        mixed = dense(x, 3 * width, "mix").reshape(batch, length, 3, HEADS, width // HEADS)
        queries, keys, values = (xp.swapaxes(mixed[:, :, i], 1, 2) for i in range(3))
        scores = queries @ xp.swapaxes(keys, 2, 3) / math.sqrt(width // HEADS)
        seen = xp.asarray(np.tril(np.ones((length, length), np.bool_)))
        weights = xp.exp(log_softmax(xp.where(seen, scores, -1e9), xp))
        joined = xp.swapaxes(weights @ values, 1, 2).reshape(batch, length, width)
        return dense(joined, width, "join")


def feed_forward(x, xp):
    with vs.variable_scope("feed_forward", initializer=vs.he_normal()):
        hidden = dense(x, 4 * WIDTH, "up")
        return dense(hidden * (1 + xp.tanh(hidden)) / 2, WIDTH, "down")


def model(letters, xp):
    """The logarithms of the probabilities of each next letter, (batch, length, letters)."""
    with vs.variable_scope(
        "transformer", initializer=vs.random_normal(stddev=0.1), regularizer=vs.l2_regularizer(1e-5)
    ):
        shards = vs.fixed_size_partitioner(3)
        # As one array: NumPy alone gets the variable, whose index is that of a shard.
        table = xp.asarray(vs.get_variable("letters", [len(LETTERS), WIDTH], partitioner=shards))
        places = vs.get_variable("places", [CONTEXT, WIDTH])
        x = table[letters] + places[: letters.shape[1]]
        for _ in range(BLOCKS):
            with vs.variable_scope(None, "block"):  # block, block_1, ...
                x = x + attention(normalized(x, xp, "before_attention"), xp)
                x = x + feed_forward(normalized(x, xp, "before_feed_forward"), xp)
        x = normalized(x, xp, "last")
        with vs.variable_scope("", reuse=True):  # tied to the embedding
            table = xp.asarray(vs.get_variable("letters", partitioner=shards))
        return log_softmax(x @ xp.swapaxes(table, 0, 1), xp)


def loss(letters, following, xp):
    """The mean negative logarithm of the probability of what follows, and the penalties."""
    picked = xp.asarray(np.eye(len(LETTERS), dtype=np.float32))[following]
    return -xp.mean(xp.sum(model(letters, xp) * picked, axis=-1)) + vs.get_regularization_loss()


def declared(seed=0):
    """A graph with the model's variables."""
    with vs.Graph(seed).as_default() as graph:
        letters, _ = next(batches(make_text(1000), 1, 1))
        model(letters, np)
    return graph


def arguments(description):
    """What the command line says to a program that trains the model."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", metavar="FILE", help="where the trained values go")
    return parser.parse_args()


if __name__ == "__main__":
    with vs.Graph(0).as_default() as graph:
        letters, following = next(batches(make_text(), 16, 1))
        first = float(loss(letters, following, np))
    for row in summarize(graph).rows:
        print(f"{row.path:50} {row.dtype} {row.shape} x {row.count}")
    print(f"loss before training {first:.4f}, of guessing {math.log(len(LETTERS)):.4f}")
