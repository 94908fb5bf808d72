"""What every test relies on: a graph of its own, and one way to look at a refusal."""

import contextlib

import profiles
import pytest
from snapshots import snap

import varscope as vs

profiles.register()


def pytest_configure(config):
    profiles.choose(config)


@pytest.fixture(autouse=True)
def fresh_default_graph():
    """Every test starts in an empty default graph, and ends with no scope open."""
    vs.reset_default_graph()
    yield
    assert vs.get_variable_scope().name == ""
    assert vs.get_default_graph().get_name_scope() == ""


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
