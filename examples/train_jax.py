"""Trains the transformer of `transformer.py` with JAX and optax.

pip install "varscope-core[jax]" optax
python examples/train_jax.py [--steps 200] [--seed 0] [--save trained.safetensors]
"""

import jax
import jax.numpy as jnp
import optax
import transformer

import varscope as vs


def main():
    given = transformer.arguments(__doc__)

    init, loss = vs.transform(lambda *pair: transformer.loss(*pair, jnp))
    text = transformer.make_text()
    pairs = list(transformer.batches(text, 16, given.steps + 1))
    params = init(given.seed, *pairs[0])
    optimizer = optax.adam(3e-3)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, *pair):
        value, gradients = jax.value_and_grad(loss)(params, *pair)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state, value

    for number, pair in enumerate(pairs[:-1]):
        params, state, value = step(params, state, *pair)
        if number % 20 == 0:
            print(f"step {number:4}  loss {value:.4f}")
    print(f"step {given.steps:4}  loss {loss(params, *pairs[-1]):.4f}")

    if given.save:
        graph = transformer.declared(given.seed)
        for path, value in params.items():
            graph[path].assign(value)
        vs.save(graph, given.save)


if __name__ == "__main__":
    main()
