"""Faults that the core once had, or that its design has to keep out: each a small program."""

import contextlib
import contextvars
import random
import threading
import weakref

import numpy as np
import pytest

import varscope as vs


@pytest.mark.promise("tasks")
def test_a_stack_is_never_changed_under_a_copied_context():
    """However many other variables a context holds, and whenever they are set."""
    draw = random.Random(1)
    pool = [contextvars.ContextVar(f"other{i}") for i in range(300)]
    witness = contextvars.ContextVar("witness")

    def trial(before, meanwhile):
        for variable in before:
            variable.set(0)
        with vs.variable_scope("seen"):
            with vs.variable_scope("first"):
                pass
            for variable in meanwhile:
                variable.set(1)
            copy = contextvars.copy_context()
            copy.run(witness.set, 1)
            with vs.variable_scope("mine"):
                return copy.run(lambda: vs.get_variable_scope().name)

    for _ in range(2000):
        before = draw.sample(pool, draw.randint(0, 4))
        meanwhile = draw.sample(pool, draw.randint(1, draw.choice([3, 30])))
        assert contextvars.Context().run(trial, before, meanwhile) == "seen"


def test_a_thread_that_runs_in_the_middle_of_an_opening_does_no_harm():
    witness = contextvars.ContextVar("witness")

    class Half:
        asked = 0

        @property
        def dtype(self):
            Half.asked += 1
            if Half.asked == 2:  # the scope is being entered
                other = threading.Thread(target=lambda: vs.variable_scope("other").__enter__())
                other.start()
                other.join()
            return np.dtype("float16")

    def opening():
        with vs.variable_scope("seen"):
            with vs.variable_scope("first"):
                pass
            copy = contextvars.copy_context()
            copy.run(witness.set, 1)
            with vs.variable_scope("mine", dtype=Half()) as scope:
                assert scope.name == "seen/mine"
                return copy.run(lambda: vs.get_variable_scope().name)

    assert contextvars.Context().run(opening) == "seen"


@pytest.mark.promise("reentry")
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("at", range(1, 5))
def test_a_collection_key_whose_hash_creates_variables(at, fails):
    class Key:
        hashed = 0

        def __hash__(self):
            Key.hashed += 1
            if Key.hashed == at:
                vs.get_variable("inner", [7], collections=["other"])
                if fails:
                    raise RuntimeError
            return 5

    try:
        outer = vs.get_variable("outer", [3], collections=[Key()])
    except RuntimeError:
        outer = None
    Key.hashed = at + 1
    shapes = {v.op_name: v.shape for v in vs.get_default_graph().variables}
    assert shapes.get("inner", (7,)) == (7,)
    assert shapes.get("outer", (3,)) == (3,)
    assert outer is None or outer.shape == (3,)


def test_threads_that_read_a_variable_first_share_one_storage():
    for _ in range(200):
        variable = vs.Graph(seed=1)
        with variable.as_default():
            variable = vs.get_variable("v", [3])
        barrier, arrays = threading.Barrier(4), []

        def read(variable=variable, barrier=barrier, arrays=arrays):
            barrier.wait()
            arrays.append(variable.array)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(np.shares_memory(array, variable.array) for array in arrays)


@pytest.mark.promise("hooks")
def test_a_withdrawn_variable_gives_back_no_name_that_others_had_since():
    graph, names = vs.get_default_graph(), []
    graph.unique_name("v")

    def failing(getter, name, *args, **kwargs):
        getter("v", shape=[1])
        names.append(graph.unique_name("v"))
        raise KeyError

    with pytest.raises(KeyError):
        vs.get_variable("v", [1], custom_getter=failing)
    names += [graph.unique_name("v"), graph.unique_name("v")]
    assert len(set(names)) == 3


@pytest.mark.promise("hooks")
def test_withdrawing_a_name_that_was_never_renamed_leaves_no_counter():
    graph = vs.get_default_graph()
    graph.unique_name("a/v")

    def failing(getter, name, *args, **kwargs):
        for i in range(3):
            getter(f"{name}{i}", *args, **kwargs)
        getter("a/v", *args, **kwargs)
        raise KeyError

    def free():
        names = ["w", "w0", "w1", "w2", "a", "a/v", "a/v_1"]
        return [graph.unique_name(name, mark_as_used=False) for name in names]

    before = free()
    with pytest.raises(KeyError):
        vs.get_variable("w", [1], custom_getter=failing)
    assert free() == before and len(graph) == 0
    assert vs.get_variable("a/v", [1]).op_name == "a/v_1"


@pytest.mark.promise("hooks")
def test_withdrawing_many_that_were_renamed_takes_no_look_at_the_others():
    """Each look at all of them would make this a matter of minutes."""
    graph, n = vs.get_default_graph(), 50_000
    for i in range(n):
        graph.unique_name(f"v/part_{i}")

    def failing(getter, name, *args, **kwargs):
        getter(name, *args, **kwargs)
        raise KeyError

    with pytest.raises(KeyError):
        vs.get_variable("v", [n], partitioner=vs.fixed_size_partitioner(n), custom_getter=failing)
    assert len(graph) == 0
    assert vs.get_variable("v/part_0", [1]).op_name == "v/part_0_1"


@pytest.mark.promise("hooks")
def test_what_a_failing_getter_created_goes_though_another_swallows_the_error():
    def inner(getter, name, *args, **kwargs):
        kept = getter(name + "_kept", *args, **kwargs)
        with contextlib.suppress(KeyError):
            getter(name + "_lost", *args, **kwargs)
        return kept

    def outer(getter, name, *args, **kwargs):
        made = getter(name, *args, **kwargs)
        if name.endswith("lost"):
            raise KeyError
        return made

    with vs.variable_scope("", custom_getter=outer):
        vs.get_variable("v", [2], custom_getter=inner)
    assert [v.op_name for v in vs.get_default_graph().variables] == ["v_kept"]


@pytest.mark.promise("reentry")
def test_a_weak_reference_to_a_dying_variable_may_ask_for_it_again():
    asked = []
    with vs.variable_scope("", reuse=vs.AUTO_REUSE):
        for _ in range(100):
            variable = vs.get_variable("v", [2])
            told = weakref.ref(variable, lambda _: asked.append(vs.get_variable("v").path))
            del variable
            assert told() is None
    assert asked == ["v"] * 100
    assert len(vs.get_default_graph()) == 1


def test_classes_without_their_door_are_refused_politely():
    with pytest.raises(TypeError, match="get_variable"):
        _ = vs.Variable().name
    with pytest.raises(TypeError, match="variable_scope"):
        vs.VariableScope()
    with pytest.raises(AttributeError):
        _ = vs.VariableScope.__new__(vs.VariableScope).name
