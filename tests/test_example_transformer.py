"""examples/transformer.py: the same model, the same first values and the same loss everywhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from requires import require, require_large

import varscope as vs

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
STEPS = 21


def run(script, *arguments):
    """What a script of the examples prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        env={**os.environ, "JAX_PLATFORMS": "cpu",
             "XLA_FLAGS": "--xla_backend_optimization_level=0", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def transformer():
    sys.path.insert(0, str(EXAMPLES))
    try:
        import transformer

        yield transformer
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def first_loss(transformer):
    """Before training, by NumPy."""
    letters, following = next(transformer.batches(transformer.make_text(), 16, 1))
    with vs.Graph(0).as_default():
        return float(transformer.loss(letters, following, np))


def test_the_text_is_the_same_each_time(transformer):
    text = transformer.make_text(2000)
    assert text == transformer.make_text(2000) != transformer.make_text(2000, seed=1)
    assert set(text) <= set(transformer.LETTERS)
    letters, following = next(transformer.batches(text, 4, 1))
    assert letters.shape == following.shape == (4, transformer.CONTEXT)
    assert (letters[:, 1:] == following[:, :-1]).all()


def test_a_letter_does_not_see_those_behind_it(transformer):
    letters, _ = next(transformer.batches(transformer.make_text(2000), 1, 1))
    other = letters.copy()
    other[:, 20:] = 1
    with vs.variable_scope("", reuse=vs.AUTO_REUSE):
        one, two = (transformer.model(each, np) for each in (letters, other))
    assert np.array_equal(one[:, :20], two[:, :20])
    assert not np.array_equal(one[:, 20:], two[:, 20:])
    np.testing.assert_allclose(np.exp(one).sum(-1), 1, rtol=1e-5)


def test_what_it_declares(transformer):
    graph = transformer.declared()
    assert len(graph) == 3 + 1 + 2 * 10 + 1
    assert graph["transformer/letters"].partitions == (3, 1)
    assert "transformer/block_1/attention/mix/w" in graph
    shrunk = {loss.variable.path for loss in graph.get_regularization_losses()}
    assert shrunk == {v.path for v in graph.variables if v.path.endswith(("/w", "places"))} | {
        "transformer/letters"
    }


@pytest.mark.parametrize(
    ("library", "install", "script"),
    [("optax", "jax", "train_jax.py"), ("torch", "torch", "train_torch.py")],
)
def test_training_begins_with_the_same_loss_which_falls(
    library, install, script, first_loss, transformer, tmp_path
):
    require_large(library, f'"varscope-core[{install}]"')
    require("safetensors", '"varscope-core[checkpoints]"')
    file = tmp_path / "trained.safetensors"
    printed = run(script, "--steps", STEPS, "--save", file)
    losses = [float(number) for number in re.findall(r"loss (\d+\.\d+)", printed)]
    assert losses[0] == pytest.approx(first_loss, abs=2e-4)
    assert len(losses) == 3 and losses[2] < losses[1] < 0.8 * losses[0]
    graph = transformer.declared()
    vs.restore(graph, file)
    letters, following = list(transformer.batches(transformer.make_text(), 16, STEPS + 1))[-1]
    with graph.as_default(), vs.variable_scope("", reuse=True):
        again = float(transformer.loss(letters, following, np))
    assert again == pytest.approx(losses[2], abs=2e-4)
