"""Examples of pages and docstrings, run here or, with a large library, in a process of their own.

JAX and PyTorch start threads, and a process with those should not fork, as other tests do.
"""

import doctest
import re
import sys

import children
from requires import require, require_large, require_ml_dtypes

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE  # long messages are wrapped on a page
EXTRAS = {"plotly": "plots", "distributed": "dask", "jax": "jax", "optax": "jax"}
EXTRAS |= {"onnx": "onnx", "onnxruntime": "test-libraries"}
APART = {"jax", "optax", "torch", "onnx", "onnxruntime"}


class Checker(doctest.OutputChecker):
    """On a page, code stands in the file model.py; here doctest runs it."""

    def check_output(self, want, got, optionflags):
        got = re.sub(r"<doctest [^>]+>", "model.py", got)
        return super().check_output(want, got, optionflags)


def libraries(text):
    """What the examples of a text import at the beginnings of lines."""
    return set(re.findall(r"^ *>>> (?:import|from) (\w+)", text, re.MULTILINE)) | {
        name for line in re.findall(r"^ *>>> import (.+)$", text, re.MULTILINE)
        for name in re.findall(r"(?:^|, *)(\w+)", line)
    }  # fmt: skip


def check(text, name, optionflags=OPTIONS, names=None):
    """Run the examples of a text; what they need must be there, or the test is skipped or fails.

    `names` are what they may use without importing it, where they run in this process.
    """
    used = libraries(text)
    for module in sorted(used & {*EXTRAS, *APART}):
        require_large(module, f'"varscope-core[{EXTRAS.get(module, module)}]"')
    if re.search(r"v[sd]\.save\(|materialise|from safetensors", text):
        require("safetensors", '"varscope-core[checkpoints]"')
    if "ml_dtypes" in used:
        require_ml_dtypes()
    if not used & APART:
        report = failures(text, name, optionflags, names or {})
        assert not report, report
        return
    done = children.python(
        "import examples; examples.main()", name, optionflags, input=text,
        env=children.environment(JAX_PLATFORMS="cpu", PYTHONWARNINGS="error"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def failures(text, name, optionflags, names):
    """What doctest says of the examples that are not as they stand there."""
    test = doctest.DocTestParser().get_doctest(text, dict(names), name, name, 0)
    assert len(test.examples) == len(re.findall(r"^ *>>> ", text, re.MULTILINE))
    report = []
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=optionflags)
    runner.run(test, out=report.append)
    return "".join(report)


def main():
    """The same in a process of its own."""
    name, optionflags = sys.argv[1:]
    report = failures(sys.stdin.read(), name, int(optionflags), {})
    print(report)
    sys.exit(bool(report))
