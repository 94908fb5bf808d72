"""What an error says: what came, and last of all what to write instead."""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import varscope as vs
from varscope import errors
from varscope.compat.tf1._missing import ADVICE
from varscope.name_maps import NameMap

# The verbs with which an instruction begins.
VERBS = (
    "add|ask|assign|attach|call|cast|catch|choose|close|compute|convert|copy|correct|create|declare|"
    "decorate|define|do|export|find|fix|generate|give|install|keep|leave|load|log|look|make|move|name|"
    "open|pass|pickle|raise|read|rename|remove|restore|return|run|save|set|share|take|use|wrap|write"
)
INSTRUCTION = re.compile(rf"(?:or |and |first |then |to [^,;]+, )?(?:{VERBS})\b")


def instructs(text):
    """Whether a message ends in what to do: its last clause is one, or the end of that."""
    last = text.strip().rpartition("\n")[2].rpartition("; ")[2]
    return any(INSTRUCTION.match(part) for part in re.split(r"[:,?] ", last))


# --- every error that the module of errors can make

SITE = ("model.py", 3, "build")
with vs.Graph().as_default() as GRAPH:
    FIRST, SECOND = vs.get_variable("first", [1]), vs.get_variable("second", [1])
SAMPLES = {
    "closed": "scope 'a'",
    "dtype": np.dtype("int8"),
    "error": ValueError("no"),
    "expected": (2, 3),
    "first": FIRST,
    "given": (3, 2),
    "graph": GRAPH,
    "index": 1,
    "known": ["cpu", "jax:"],
    "lines": ["  a  float32[2]"],
    "name": "a b",
    "names": ["a/b", "a/c"],
    "origin": ("a", SITE),
    "path": "model.safetensors",
    "present": ["cpu:0"],
    "reason": "it is damaged",
    "result": np.ones(2),
    "scope": "a",
    "search": lambda: ["a/c"],
    "second": SECOND,
    "shape": (2, 3),
    "site": SITE,
    "storage": vs.Heap(),
    "value": 5,
    "variables": {"no": ["a"]},
    "workers": [1, 2],
}


def constructors():
    """Each class method that makes an error, apart from those that are given its whole text."""
    for name, kind in vars(errors).items():
        if not (inspect.isclass(kind) and issubclass(kind, errors.VarscopeError)):
            continue
        for method, made in vars(kind).items():
            given_all = method.startswith("_") or method == "stating"
            if isinstance(made, classmethod) and not given_all:
                yield pytest.param(getattr(kind, method), id=f"{name}.{method}")


def sample_of(parameter):
    if parameter.name in SAMPLES:
        return SAMPLES[parameter.name]
    return {"int": 2, "str": "some text", "BaseException": OSError("no")}.get(
        str(parameter.annotation), "something"
    )


GIVEN = {  # those whose end is given by who raises them: an instruction too
    "PlanError.of": {"reason": "it is damaged; make it again"},
    "DeviceError.of_variable": {"error": errors.DeviceError("no such device; write another")},
    "DeviceError.not_registered": {"reason": "write another name"},
    "NotCoveredError.of": {"instead": "write numpy.ones"},
}


@pytest.mark.parametrize("make", [*constructors()])
def test_an_error_ends_in_what_to_write(make):
    given = GIVEN.get(f"{make.__self__.__name__}.{make.__name__}", {})
    parameters = inspect.signature(make).parameters.values()
    arguments = {
        each.name: given.get(each.name, sample_of(each))
        for each in parameters
        if each.default is inspect.Parameter.empty or each.name in given
    }
    error = make(**arguments)
    assert isinstance(error, errors.VarscopeError)
    assert instructs(str(error)), str(error)


@pytest.mark.parametrize("expected", ["a str", "callable", "an int", "at least 1"])
def test_what_kind_of_argument_is_to_be_given(expected):
    for kind in (errors.ArgumentTypeError, errors.ArgumentValueError):
        assert instructs(str(kind.of("x", expected, 5)))
        assert str(kind.of("x", expected, 5, "write 6")).endswith("; write 6")


@pytest.mark.parametrize("name", ADVICE)
def test_what_is_not_covered_has_an_advice(name):
    assert instructs(ADVICE[name]), ADVICE[name]


# --- every text that is raised elsewhere in the library

PACKAGE = Path(vs.__file__).parent
# Functions that end what they are given: with an instruction of their own.
ENDED = re.compile(
    r"(Argument(Type|Value)Error|AdoptionError|CheckpointError|\w*MismatchError|RegularizerError)\.\w+"
    r"|PartitionerError\.bad_result|\w+\.(expect|misfit|one_way|damaged|fail)|NotCoveredError\.of"
    r"|Damage|_NotTurned|wrong|Interrupted|BuilderError|AttributeError|DeviceError\.\w+"
)
TEXTS = re.compile(r"(\w+Error(\.stating|\.of)?|\w+\.error)")
# What these raise is caught, and becomes the reason in an error that says what to do.
INSIDE = {"safetensors_headers.py", "plans.py", "devices.py", "contents.py", "maps.py", "dtypes.py"}


def text_of(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    return None


def raised(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
            continue
        function = ast.unparse(node.exc.func)
        if ENDED.fullmatch(function) or not TEXTS.fullmatch(function):
            continue
        if function == "ValueError" and path.name in INSIDE:
            continue
        texts = [text for text in map(text_of, node.exc.args) if text]
        text = max(texts, key=len, default="{}")
        if not text.endswith("{}"):
            yield node.lineno, text


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_what_is_raised_ends_in_what_to_write(path):
    assert [(line, text) for line, text in raised(path) if not instructs(text)] == []


# --- what newcomers do


def ones(shape):
    return np.ones(shape)


def kept():
    return vs.get_variable("kept", [2, 3])


def in_scope(call, **options):
    with vs.variable_scope("layer", **options):
        return call()


def twice():
    for _ in range(2):
        with vs.variable_scope("layer"):
            vs.get_variable("w", [2])


def two_graphs():
    with vs.Graph().as_default():
        other = vs.get_variable("w", [2])
    return vs.variable_scope("layer", values=[kept(), other])


def left_inside():
    with vs.variable_scope("layer"):
        vs.reset_default_graph()


def finalized():
    vs.get_default_graph().finalize()
    vs.get_variable("w", [2])


def partition(result):
    return lambda shape, dtype: result


MISTAKES = {
    "no shape": (lambda: vs.get_variable("w"), ValueError, ["such as [3, 4]"]),
    "a shape with None": (lambda: vs.get_variable("w", [None, 3]), ValueError, ["(None, 3)"]),
    "a shape of floats": (lambda: vs.get_variable("w", [4 / 2]), TypeError, ["2.0", "ints"]),
    "a negative size": (lambda: vs.get_variable("w", [-1]), ValueError, ["-1", "non-negative"]),
    "a shape as text": (lambda: vs.get_variable("w", "3"), TypeError, ["is text", "[3, 4]"]),
    "a list as name": (
        lambda: vs.get_variable(["w"], [2]), TypeError, ["not list", "text in quotes"],
    ),
    "shape before name": (
        lambda: vs.get_variable([2], "w"), TypeError, ["write the name first"],
    ),
    "a scope as name": (
        lambda: vs.get_variable(vs.get_variable_scope(), [2]), TypeError,
        ["not VariableScope", "with variable_scope(scope):"],
    ),
    "the name of an output": (
        lambda: vs.get_variable("w:0", [2]), ValueError, ["':' at position 1", "joined by"],
    ),
    "a blank in a name": (
        lambda: vs.variable_scope("my layer").__enter__(), ValueError, ["' '", "letters"],
    ),
    "an empty name": (lambda: vs.get_variable("", [2]), ValueError, ["empty", "letters"]),
    "a hidden name at the root": (
        lambda: vs.get_variable("_w", [2]), ValueError, ["starts with '_'", "write 'w' there"],
    ),
    "a name that is taken": (twice, ValueError, ["layer/w already exists", "reuse=True"]),
    "reuse without a variable": (
        lambda: in_scope(lambda: vs.get_variable("w", [2]), reuse=True), ValueError,
        ["layer/w does not exist", "'layer' switched reuse on", "varscope.AUTO_REUSE"],
    ),
    "reuse=False": (
        lambda: vs.variable_scope("layer", reuse=False), ValueError, ["write reuse=None"],
    ),
    "reuse with a default name": (
        lambda: vs.variable_scope(None, "layer", reuse=True), ValueError,
        ["variable_scope('layer', reuse=True)"],
    ),
    "another shape": (
        lambda: (kept(), in_root("kept", [3, 2])), ValueError,
        ["has shape (2, 3)", "(3, 2)", "write shape=(2, 3)"],
    ),
    "another dtype": (
        lambda: (kept(), in_root("kept", dtype="float64")), ValueError, ["write dtype='float32'"],
    ),
    "an unknown dtype": (
        lambda: vs.get_variable("w", [2], "flaot32"), TypeError, ["'flaot32'", "'float32'"],
    ),
    "no name for a scope": (lambda: vs.variable_scope(None), TypeError, ["(None, 'layer')"]),
    "a number as scope": (lambda: vs.variable_scope(5), TypeError, ["not int", "in quotes"]),
    "a scope that is not opened": (
        lambda: vs.variable_scope("layer").get_variable("w", [2]), AttributeError,
        ["'get_variable'", "with variable_scope('layer') as scope:"],
    ),
    "a value and a shape": (
        lambda: vs.get_variable("w", [3], initializer=1.0), ValueError,
        ["do not specify shape", "varscope.constant"],
    ),
    "the name of an initializer": (
        lambda: vs.get_variable("w", [3], initializer="zeros"), TypeError,
        ["'zeros'", "initializer=varscope.zeros"],
    ),
    "an initializer that is called": (
        lambda: vs.get_variable("w", [3], initializer=vs.zeros()), ValueError,
        ["write initializer=zeros"],
    ),
    "an initializer of a shape only": (
        lambda: vs.get_variable("w", [3], initializer=ones).value(), ValueError,
        ["variable w", "cannot be called with a shape and a dtype", "def initializer(shape, "],
    ),
    "an initializer that returns another shape": (
        lambda: vs.get_variable("w", [3], initializer=lambda s, d: np.ones(2, d)).value(),
        ValueError, ["variable w has shape (3,)", "return values of shape (3,)"],
    ),
    "no initializer for the dtype": (
        lambda: vs.get_variable("w", [3], "complex64"), ValueError, ["varscope.zeros"],
    ),
    "a regularizer without its scale": (
        lambda: vs.get_variable("w", [3], regularizer=vs.l2_regularizer), ValueError,
        ["l2_regularizer(1e-4)"],
    ),
    "a constraint that is no function": (
        lambda: vs.get_variable("w", [3], constraint=1.0), TypeError, ["numpy.clip"],
    ),
    "a collection by itself": (
        lambda: vs.get_variable("w", [3], collections="losses"), TypeError,
        ["collections=['losses']"],
    ),
    "a custom getter that is no function": (
        lambda: vs.variable_scope("layer", custom_getter=5), ValueError, ["(getter, name"],
    ),
    "a partitioner with two cuts": (
        lambda: vs.get_variable("w", [4, 4], partitioner=partition([2, 2])), ValueError,
        ["[2, 2]", "return a list of 2 ints"],
    ),
    "an unknown device": (
        lambda: vs.get_variable("w", [2], caching_device="gpu"), ValueError, ["known are", "cpu"],
    ),
    "a variable as truth": (lambda: bool(kept()), ValueError, ["kept", "any()", "is not None"]),
    "a variable that is made by hand": (lambda: vs.Variable(1.0), TypeError, ["get_variable('v'"]),
    "a scope that is made by hand": (lambda: vs.VariableScope("a"), TypeError, ["as scope:"]),
    "values of another shape": (
        lambda: kept().assign(np.ones(3)), ValueError, ["(3,)", "give values of shape (2, 3)"],
    ),
    "values of another kind": (
        lambda: vs.get_variable("n", [2], "int32").assign([0.5, 1]), ValueError,
        ["value.astype('int32')"],
    ),
    "variables of two graphs": (two_graphs, ValueError, ["give values of one graph"]),
    "a reset inside a scope": (left_inside, RuntimeError, ["scope 'layer'", "leave it first"]),
    "a graph that is finalized": (finalized, RuntimeError, ["before graph.finalize()"]),
    "no variable of that name": (
        lambda: vs.get_default_graph()["nothing"], KeyError, ["look with graph.find"],
    ),
    "a seed that is no number": (lambda: vs.Graph(seed="x"), TypeError, ["give an int"]),
    "an unknown storage": (lambda: vs.Graph(storage="disk"), TypeError, ["'arena'", "write one"]),
    "a pattern with **": (
        lambda: vs.get_default_graph().find("a**"), ValueError, ["'a/**/w'"],
    ),
    "a name map with a misspelt key": (
        lambda: NameMap([{"prefx": "a", "to": "b"}]), ValueError, ["'prefix'"],
    ),
}  # fmt: skip


def in_root(*args, **kwargs):
    with vs.variable_scope("", reuse=True):
        return vs.get_variable(*args, **kwargs)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_newcomers_do(mistake):
    call, kind, words = MISTAKES[mistake]
    with vs.Graph().as_default(), pytest.raises(kind) as caught:
        call()
    said = str(caught.value)
    assert instructs(said.strip("\"'")), said
    assert [word for word in words if word not in said] == [], said
