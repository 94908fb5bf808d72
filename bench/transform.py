"""What `vs.transform` adds to tracing with JAX: beside the same function by hand, in one run.

python bench/transform.py [--variables 10000] [--rounds 9]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time

import jax
import jax.numpy as jnp

import varscope as vs


def model(x, layers):
    for i in range(layers):
        with vs.variable_scope(f"layer_{i}"):
            w = vs.get_variable("w", [4, 4])
            b = vs.get_variable("b", [4], initializer=vs.zeros)
        x = jnp.tanh(x @ w + b)
    return x


def by_hand(params, x, layers):
    for i in range(layers):
        x = jnp.tanh(x @ params[f"layer_{i}/w"] + params[f"layer_{i}/b"])
    return x


def asking(x, layers):
    """The same without JAX: what is left is scopes, look-ups and checks."""
    for i in range(layers):
        with vs.variable_scope(f"layer_{i}"):
            vs.get_variable("w", [4, 4])
            vs.get_variable("b", [4], initializer=vs.zeros)


def seconds(function, *arguments):
    """Processor time, which other programs disturb less."""
    gc.collect()
    begun = time.process_time()
    function(*arguments)
    return time.process_time() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variables", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    layers = given.variables // 2
    x = jnp.ones([2, 4])
    transformed = vs.transform(lambda x: model(x, layers))
    params = transformed.init(0, x)
    apply = transformed.apply
    only_asking = vs.transform(lambda x: asking(x, layers)).apply

    # Functions that JAX has not seen: those that it has it does not trace again.
    def ours():
        return jax.make_jaxpr(lambda params, x: apply(params, x))(params, x)

    def hand():
        return jax.make_jaxpr(lambda params, x: by_hand(params, x, layers))(params, x)

    assert str(ours()) == str(hand())
    ratios, alone, whole = [], [], []
    for _ in range(given.rounds):
        whole.append(seconds(hand))
        ratios.append(seconds(ours) / whole[-1])
        alone.append(seconds(only_asking, params, x) / given.variables)
    ratios.sort()
    middle = statistics.median(ratios)
    print(f"{given.variables:,} variables: tracing takes {middle:.2f} times as long as by hand")
    print(f"({ratios[0]:.2f} to {ratios[-1]:.2f} over {given.rounds} rounds)")
    each = statistics.median(whole) / given.variables
    print(f"a variable by hand: {each * 1e9:,.0f} ns")
    print(f"what is added, alone: {statistics.median(alone) * 1e9:,.0f} ns")


if __name__ == "__main__":
    main()
