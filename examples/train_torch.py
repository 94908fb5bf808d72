"""Trains the transformer of `transformer.py` with PyTorch.

    pip install "varscope-core[torch]"
    python examples/train_torch.py [--steps 200] [--seed 0] [--save trained.safetensors]

The parameters share the memory of the variables: what the optimizer changes shows there at once.
"""

import torch
import transformer

import varscope as vs
from varscope.interop.torch import as_module, entries


def main():
    given = transformer.arguments(__doc__)

    graph = transformer.declared(given.seed)
    module = as_module(graph)
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    text = transformer.make_text()
    pairs = list(transformer.batches(text, 16, given.steps + 1))

    def loss(pair):
        letters, following = (torch.from_numpy(numbers) for numbers in pair)
        with vs.Graph().as_default(), vs.substitute(entries(module)):
            return transformer.loss(letters, following, torch)

    for number, pair in enumerate(pairs[:-1]):
        value = loss(pair)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if number % 20 == 0:
            print(f"step {number:4}  loss {value:.4f}")
    print(f"step {given.steps:4}  loss {loss(pairs[-1]):.4f}")

    if given.save:
        vs.save(graph, given.save)


if __name__ == "__main__":
    main()
