"""What every test relies on: a graph of its own, and one way to look at a refusal."""

import contextlib
import functools
import gc
import threading

import profiles
import pytest
from snapshots import snap

import varscope as vs

profiles.register()


def pytest_configure(config):
    profiles.choose(config)


def pytest_addoption(parser):
    parser.addoption("--figures", action="store_true", help="print what was tried, by promise")


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


def pytest_collection_finish():
    """What tests themselves consist of is no garbage: collections need not look through it again.

    Each would take a tenth of a second, and hundreds of tests want one.
    """
    gc.collect()
    gc.freeze()


def in_own_graph(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        if threading.current_thread() is threading.main_thread():
            return test(*args, **kwargs)
        with vs.Graph().as_default():
            return test(*args, **kwargs)

    return run


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
