"""Op names against a plain dict of the names in use, which is how the original keeps them."""

import copy
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import varscope as vs


class PlainNames:
    """The counter of each name that is in use."""

    def __init__(self):
        self.used = {}
        self.left = 1_000  # statements until nothing is repeated any more

    def unique(self, name, mark=True):
        counter = self.used.get(name, 0)
        if mark:
            self.used[name] = counter + 1
        if counter == 0:
            return name
        while f"{name}_{counter}" in self.used:
            counter += 1
        if mark:
            self.used[f"{name}_{counter}"] = 1
        return f"{name}_{counter}"


NAMES = st.sampled_from(["a", "b", "a_1", "a_2", "a_1_1", "b_1", "a/b", "a_1/b", "b/a_2/b"])
STEPS = st.deferred(lambda: st.lists(STEP, max_size=4))
STEP = st.one_of(
    st.tuples(st.just("open"), NAMES, STEPS),
    st.tuples(st.just("again"), NAMES, STEPS),  # re-enter by the full name
    st.tuples(st.just("root"), STEPS),
    st.tuples(st.just("unique"), NAMES),
    st.tuples(st.just("look"), NAMES),
    st.tuples(st.just("variable"), NAMES),
    st.tuples(st.just("repeat"), st.integers(2, 5), STEPS),
)


def run(graph, plain, here, steps):
    for kind, *rest in steps:
        plain.left -= 1
        if kind == "repeat":
            for _ in range(rest[0] if plain.left > 0 else 1):
                run(graph, plain, here, rest[1])
        elif kind == "root":
            with vs.name_scope(None) as text:
                assert text == ""
                run(graph, plain, "", rest[0])
        elif kind == "again":
            with vs.name_scope(rest[0] + "/") as text:
                assert text == rest[0] + "/"
                run(graph, plain, rest[0], rest[1])
        elif kind == "variable":
            if rest[0] not in [v.path for v in graph.variables]:
                assert vs.get_variable(rest[0], [1]).op_name == plain.unique(rest[0])
        else:
            name = f"{here}/{rest[0]}" if here else rest[0]
            expected = plain.unique(name, mark=kind != "look")
            if kind == "open":
                with vs.name_scope(rest[0]) as text:
                    assert text == expected + "/"
                    run(graph, plain, expected, rest[1])
            else:
                assert graph.unique_name(rest[0], mark_as_used=kind == "unique") == expected


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_op_names_are_those_of_the_plain_dict(steps):
    graph, plain = vs.Graph(), PlainNames()
    with graph.as_default():
        run(graph, plain, "", steps)


@given(st.lists(STEP, min_size=1, max_size=3), st.lists(STEP, min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_copies_hand_out_the_same_op_names(before, after):
    graph, plain = vs.Graph(), PlainNames()
    with graph.as_default():
        run(graph, plain, "", before)
    clone = copy.deepcopy(graph)
    with clone.as_default():
        run(clone, plain, "", after)


@pytest.mark.parametrize("length", [245, 246, 247, 252, 253, 254, 255, 256, 300])
def test_long_names_with_numbers_behave_like_short_ones(length):
    graph, plain, name = vs.Graph(), PlainNames(), "n" * length
    with graph.as_default():
        for _ in range(12):
            with vs.name_scope(name) as text:
                assert text == plain.unique(name) + "/"
                assert graph.unique_name("op") == plain.unique(text + "op")
        for number in (1, 9, 10, 11):
            with vs.name_scope(f"{name}_{number}/") as text:
                assert graph.unique_name("op") == plain.unique(text + "op")
        assert graph.unique_name(f"{name}_11") == plain.unique(f"{name}_11")


def test_numbers_of_more_than_nine_digits_are_names_like_others():
    graph, plain = vs.Graph(), PlainNames()
    with graph.as_default():
        for name in ["a_999999999", "a_1000000000", "a_01", "a_1"] * 3:
            with vs.name_scope(name) as text:
                assert text == plain.unique(name) + "/"
                assert graph.unique_name("op") == plain.unique(text + "op")


NESTED = """
import resource, varscope as vs
def enter(times):
    for _ in range(times):
        with vs.variable_scope("model", reuse=vs.AUTO_REUSE):
            for block in range(3):
                with vs.variable_scope(None, "block"), vs.variable_scope("dense"):
                    vs.get_variable("w", [2])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = enter(1000)
print(enter(100_000) - before)
"""


def test_running_a_model_again_and_again_leaves_memory_flat():
    """Each run has op names of its own, model_7/block_1/dense: they are not kept one by one."""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", NESTED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1_000_000


def test_a_name_is_not_handed_out_twice_for_want_of_memory():
    testcapi = pytest.importorskip("_testcapi")
    graph = vs.Graph()
    with graph.as_default():
        with vs.variable_scope("m"):
            pass
        with vs.variable_scope("m_1", auxiliary_name_scope=False):
            vs.get_variable("v", [1])
        with vs.name_scope("m_1/"):
            for n in range(20):
                testcapi.set_nomemory(n, n + 1)
                try:
                    name = graph.unique_name("v")
                except MemoryError:
                    name = None
                finally:
                    testcapi.remove_mem_hooks()
                assert name != "m_1/v"


def test_op_names_that_were_pickled_by_paths_are_read():
    graph = vs.Graph()
    by_paths = [("a", 2), ("a/b", 3)], [("model_*/layer", [(1, 3, 2), (5, 5, 4)])]
    graph._load_op_state(by_paths)
    asked = ["a", "a/b", "model_3/layer", "model_4/layer", "model_5/layer"]
    expected = ["a_2", "a/b_3", "model_3/layer_2", "model_4/layer", "model_5/layer_4"]
    assert [graph.unique_name(name) for name in asked] == expected
    twin = copy.deepcopy(graph)
    assert [twin.unique_name(name) for name in asked] == [graph.unique_name(n) for n in asked]
