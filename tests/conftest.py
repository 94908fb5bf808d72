"""What every test relies on: a graph of its own, and one way to look at a refusal."""

import contextlib
import functools
import threading

import pytest

import varscope as vs

PROBES = ("foo", "d", "v", "w", "a/b")
KEYS = [value for name, value in vars(vs.GraphKeys).items() if name.isupper()] + ["mine"]


@pytest.fixture(autouse=True)
def fresh_default_graph():
    """Every test starts in an empty default graph, and ends with no scope open."""
    vs.reset_default_graph()
    yield
    assert vs.get_variable_scope().name == ""
    assert vs.get_default_graph().get_name_scope() == ""


def pytest_collection_modifyitems(config, items):
    """Where pytest-run-parallel runs a test in threads, each of them has a graph of its own."""
    if (config.getoption("parallel_threads", None) or 1) != 1:
        for item in items:
            if isinstance(item, pytest.Function):
                item.obj = in_own_graph(item.obj)


def in_own_graph(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        if threading.current_thread() is threading.main_thread():
            return test(*args, **kwargs)
        with vs.Graph().as_default():
            return test(*args, **kwargs)

    return run


def next_default_name(base):
    # Closing a captured scope puts the marks back, so that looking leaves no mark.
    here = vs.variable_scope(vs.get_variable_scope(), auxiliary_name_scope=False)
    with here, vs.variable_scope(None, base, auxiliary_name_scope=False) as scope:
        return scope.name


def snap(graph):
    """All that a failure has to leave as it was: scope, names in order, collections, counters."""
    return {
        "scope": vs.get_variable_scope().name,
        "name scope": graph.get_name_scope(),
        "variables": [(v.name, v.initialized) for v in graph.variables],
        "collections": {key: list(graph.get_collection(key)) for key in KEYS},
        "op names": [graph.unique_name(name, mark_as_used=False) for name in PROBES],
        "default names": [next_default_name(name) for name in PROBES],
    }


@contextlib.contextmanager
def refusal(kind, *words):
    graph = vs.get_default_graph()
    before = snap(graph)
    with pytest.raises(kind) as caught:
        yield caught
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in the text {str(caught.value)!r}"
    assert snap(graph) == before


@pytest.fixture
def refused():
    """`with refused(kind, *words):` the block raises, says the words, and changes nothing."""
    return refusal
