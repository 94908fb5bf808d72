"""`help(...)` is enough to use what is public: a signature, what it is, its parameters, an example.

That the examples run is in test_packaging.
"""

import doctest
import importlib
import inspect
import io
import pkgutil
import pydoc
import re
import types

import pytest

import varscope as vs
from varscope import devices, errors
from varscope.compat import tf1
from varscope.interop import dask, jax, onnx

PUBLIC = {
    f"{prefix}.{name}": getattr(module, name)
    for prefix, module in {
        "vs": vs,
        "dask": dask,
        "jax": jax,
        "onnx": onnx,
        "devices": devices,
    }.items()
    for name in module.__all__
}
CALLABLE = {
    name: thing
    for name, thing in PUBLIC.items()
    if callable(thing) and not isinstance(thing, vs.Initializer)
}
CLASSES = {name: thing for name, thing in PUBLIC.items() if inspect.isclass(thing)}
# Nobody calls these: another function makes them, which their help names.
MADE = {
    "jax.Transformed": "varscope.transform",
    "onnx.Value": "Builder.node",
    "vs.Checkpoint": "varscope.open",
    "vs.PartitionedVariable": "get_variable",
    "vs.Plan": "varscope.plan",
    "vs.RegularizationLoss": "REGULARIZATION_LOSSES",
    "vs.StoredTensor": "checkpoint",
    "vs.Template": "make_template",
    "vs.Variable": "get_variable",
    "vs.VariableScope": "variable_scope",
}
# What takes the object itself, as whoever reads on finds out.
SELF_EVIDENT = {"self", "_value", "args", "variables"}


def text_of(thing):
    return inspect.getdoc(thing) or ""


def summary_of(thing):
    return text_of(thing).partition("\n")[0]


def is_summary(line):
    """One sentence on one line, which says something."""
    return len(line) > 10 and line.endswith((".", ":")) and len(line) <= 100


@pytest.mark.parametrize("name", PUBLIC)
def test_what_it_is_stands_in_the_first_line(name):
    thing = PUBLIC[name]
    if not isinstance(thing, (types.ModuleType, type(vs.AUTO_REUSE))):
        assert is_summary(summary_of(thing))


@pytest.mark.parametrize("name", sorted(set(CALLABLE) - set(MADE)))
def test_the_signature_is_shown_and_each_parameter_told(name):
    parameters = set(inspect.signature(CALLABLE[name]).parameters) - SELF_EVIDENT
    text = text_of(CALLABLE[name])
    missing = {each for each in parameters if not re.search(rf"\b{each}\b", text)}
    assert not missing, f"{name} does not say what {missing} are"
    if len(parameters) > 1 and not issubclass_of_record(CALLABLE[name]):
        assert "Parameters\n----------" in text


def issubclass_of_record(thing):
    """Facts that the library makes, and tells of in its docstring."""
    return thing in (vs.SaveSliceInfo, vs.PartitionInfo)


@pytest.mark.parametrize("name", MADE)
def test_who_makes_what_nobody_calls(name):
    assert MADE[name] in text_of(CLASSES[name]) + text_of(CLASSES[name].__init__)


@pytest.mark.parametrize("name", sorted(set(CALLABLE) - {"jax.Transformed", "onnx.Value"}))
def test_there_is_an_example(name):
    assert doctest.DocTestParser().get_examples(text_of(CALLABLE[name]))


def members(kind):
    """The public methods and properties that are written in the library."""
    for name in dir(kind):
        if name.startswith("_"):
            continue
        found = inspect.getattr_static(kind, name)
        plain = found.__func__ if isinstance(found, (classmethod, staticmethod)) else found
        home = getattr(plain, "__module__", None) or getattr(
            getattr(plain, "fget", None), "__module__", None
        )
        ours = home is None or home.startswith("varscope")
        if ours and (callable(plain) or isinstance(plain, property)):
            yield name, plain


@pytest.mark.parametrize("name", CLASSES)
def test_methods_and_properties_say_what_they_are(name):
    silent = [each for each, member in members(CLASSES[name]) if not text_of(member).strip()]
    assert silent == []


@pytest.mark.parametrize("name", ["get_variable", "variable_scope", "name_scope", "explain"])
def test_help_shows_it(name):
    out = io.StringIO()
    pydoc.Helper(output=out)(getattr(vs, name))
    shown = re.sub(r"\(\s+", "(", out.getvalue())  # one parameter a line, from Python 3.13 on
    assert f"{name}(name" in shown and "Parameters" in shown and ">>>" in shown


def test_help_of_the_package_names_what_is_in_it():
    shown = pydoc.render_doc(vs, renderer=pydoc.plaintext)
    for name in ("get_variable", "variable_scope", "Graph", "restore", "explain"):
        assert name in shown
    assert doctest.DocTestParser().get_examples(vs.__doc__)


def test_the_front_doors_tell_their_parameters_to_tools():
    for door in (vs.get_variable, vs.variable_scope, vs.VariableScope.get_variable):
        parameters = inspect.signature(door).parameters
        assert "partitioner" in parameters and "custom_getter" in parameters
        assert parameters["constraint"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize(
    "name", [each for each, thing in vars(errors).items() if inspect.isclass(thing)]
)
def test_an_error_says_when_it_is_raised(name):
    thing = getattr(errors, name)
    if issubclass(thing, Exception):
        assert is_summary(summary_of(thing))


TF1 = [
    tf1.__name__,
    *(found.name for found in pkgutil.walk_packages(tf1.__path__, tf1.__name__ + ".")),
]


@pytest.mark.parametrize("module", [name for name in TF1 if "._" not in name])
def test_the_names_of_tensorflow_1(module):
    loaded = importlib.import_module(module)
    assert is_summary(text_of(loaded).partition("\n")[0])
    for name in getattr(loaded, "__all__", []):
        thing = getattr(loaded, name)
        if inspect.isroutine(thing) or inspect.isclass(thing):
            assert summary_of(thing), f"{module}.{name}"
            if inspect.isfunction(thing):
                inspect.signature(thing)
