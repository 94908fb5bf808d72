"""Where names, nodes and rows are found: in line with the one before, and where they are not.

The core keeps the few variables of a scope side by side and has an index for the rest; a name's
first node and an op name's counter stand with what they belong to.  None of that may show: these
tests go from one way of keeping to the other, and compare with a plain dict.
"""

import contextlib
import contextvars
import gc
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import varscope as vs

SCOPES = ["a", "b", "a/b", "b/a", "a/a", "c_1", "c_2", "a/c_1"]


def create(scope, name):
    with vs.variable_scope(scope, auxiliary_name_scope=False):
        return vs.get_variable(name, [1])


def failing(getter, name, *args, **kwargs):
    getter(name, *args, **kwargs)
    raise LookupError("withdraw it")


def create_and_fail(scope, name):
    with (
        pytest.raises(LookupError),
        vs.variable_scope(scope, auxiliary_name_scope=False, custom_getter=failing),
    ):
        vs.get_variable(name, [1])


def check(graph, paths):
    assert list(graph) == paths
    for scope in SCOPES:
        with vs.variable_scope(scope, reuse=vs.AUTO_REUSE, auxiliary_name_scope=False):
            for i in range(20):
                assert (f"{scope}/w{i}" in graph) == (f"{scope}/w{i}" in paths)
    for number, path in enumerate(paths):
        scope, _, name = path.rpartition("/")
        with vs.variable_scope(scope, reuse=True, auxiliary_name_scope=False):
            assert vs.get_variable(name).path == path
        assert graph.variables[number].path == path


@given(
    st.lists(st.tuples(st.sampled_from(SCOPES), st.integers(0, 19), st.booleans()), max_size=150)
)
def test_scattered_variables_are_found(steps):
    graph, paths = vs.Graph(), []
    with graph.as_default():
        for scope, i, fails in steps:
            if f"{scope}/w{i}" in paths:
                with pytest.raises(vs.errors.VariableExistsError):
                    create(scope, f"w{i}")
            elif fails:
                create_and_fail(scope, f"w{i}")
            else:
                create(scope, f"w{i}")
                paths.append(f"{scope}/w{i}")
        check(graph, paths)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 18, 40, 1000])
def test_as_many_in_one_scope(count):
    graph = vs.Graph()
    with graph.as_default():
        for i in range(count):
            create("a", f"w{i}")
        for i in range(count):
            assert f"a/w{i}" in graph
        assert f"a/w{count}" not in graph
        create("b", "w0")
        create("a", "last")
        assert list(graph) == [*(f"a/w{i}" for i in range(count)), "b/w0", "a/last"]
        with vs.variable_scope("a", reuse=True):
            assert vs.get_variable("last").path == "a/last"
            for i in reversed(range(count)):
                assert vs.get_variable(f"w{i}").path == f"a/w{i}"


@pytest.mark.parametrize("meanwhile", ["a", "b"])
@pytest.mark.parametrize("place", [0, 1, 7, 15, 16, 17, 19])
def test_a_withdrawn_variable_leaves_no_gap(place, meanwhile):
    """It is taken out from among others that another thread has made meanwhile."""
    graph = vs.Graph()

    def in_thread():
        with graph.as_default():
            create(meanwhile, "w18")
            create(meanwhile, "w19")

    def slow_and_failing(getter, name, *args, **kwargs):
        getter(name, *args, **kwargs)
        thread = threading.Thread(target=in_thread)
        thread.start()
        thread.join()
        raise LookupError("withdraw it")

    with graph.as_default():
        for i in range(place):
            create("a", f"v{i}")
        with (
            pytest.raises(LookupError),
            vs.variable_scope("a", auxiliary_name_scope=False, custom_getter=slow_and_failing),
        ):
            vs.get_variable("gone", [1])
        create("a", "gone")
        create("b", "w0")
        check(
            graph,
            [*(f"a/v{i}" for i in range(place)), f"{meanwhile}/w18", f"{meanwhile}/w19",
             "a/gone", "b/w0"],
        )  # fmt: skip


@contextlib.contextmanager
def a_collection_that_withdraws(graph, more, also):
    """Yields how to start it after `more` allocations; another thread withdraws `gone` then."""
    created, fails = threading.Event(), threading.Event()

    def waiting_and_failing(getter, name, *args, **kwargs):
        getter(name, *args, **kwargs)
        created.set()
        fails.wait()
        raise LookupError("withdraw it")

    def in_thread():
        with graph.as_default(), pytest.raises(LookupError):
            vs.get_variable("gone", [1], custom_getter=waiting_and_failing)

    def collecting(phase, info):
        if phase == "start" and not fails.is_set():
            also()
            fails.set()
            thread.join()

    def start():
        gc.callbacks.append(collecting)
        gc.set_threshold(gc.get_count()[0] + more)
        gc.enable()

    threshold, thread = gc.get_threshold(), threading.Thread(target=in_thread)
    gc.collect()
    gc.disable()
    thread.start()
    created.wait()
    try:
        yield start
    finally:
        gc.callbacks[:] = [kept for kept in gc.callbacks if kept is not collecting]
        gc.set_threshold(*threshold)
        gc.enable()
        fails.set()
        thread.join()


@pytest.mark.parametrize("more", range(4))
def test_a_variable_is_found_though_one_before_it_is_withdrawn_meanwhile(more):
    graph = vs.Graph()
    with graph.as_default(), a_collection_that_withdraws(graph, more, lambda: None) as start:
        for name in ("a", "b", "c"):
            vs.get_variable(name, [1])
        kept = [create("many", f"w{i}") for i in range(100)]  # no handle lies ready
        with vs.variable_scope("", reuse=True):
            start()
            found = vs.get_variable("b")
            gc.disable()
        assert (found.path, len(kept)) == ("b", 100)


@pytest.mark.parametrize("more", range(4))
def test_a_name_is_made_once_though_another_is_withdrawn_meanwhile(more):
    graph = vs.Graph()

    def get():
        with contextlib.suppress(vs.errors.VariableExistsError):
            vs.get_variable("w", [1])

    with graph.as_default():
        create("b", "w")  # the like of it was asked for before
        with (
            vs.variable_scope("a"),
            a_collection_that_withdraws(graph, more, get) as start,
        ):
            kept = [create("many", f"w{i}") for i in range(100)]
            start()
            get()
            gc.disable()
        assert list(graph) == ["b/w", *(variable.path for variable in kept), "a/w"]


@given(st.lists(st.tuples(st.sampled_from(SCOPES), st.sampled_from(["w", "w_1", "v"]))))
def test_op_names_do_not_depend_on_what_became_a_node_when(steps):
    """A counter may be older than the node of its name: both forms count as one."""
    graph, taken = vs.Graph(), {}
    with graph.as_default():
        for scope, name in steps:
            path = f"{scope}/{name}"
            wanted = path
            while wanted in taken:
                taken[path] = taken.get(path, 0) + 1
                wanted = f"{path}_{taken[path]}"
            taken.setdefault(wanted, 0)
            assert graph.unique_name(path) == wanted
            # A variable scope of that path makes the node that the counter then stands in.
            with vs.variable_scope(path, auxiliary_name_scope=False):
                pass


@pytest.mark.parametrize("opens", [False, True])
def test_a_withdrawn_counter_is_gone_though_its_name_got_a_node(opens):
    graph = vs.Graph()

    def failing_and_opening(getter, name, *args, **kwargs):
        assert getter(name, *args, **kwargs).op_name == "v_1_1"
        if opens:
            with vs.variable_scope("v_1", auxiliary_name_scope=False):
                pass
        raise LookupError("withdraw it")

    with graph.as_default():
        assert [graph.unique_name("v") for _ in range(2)] == ["v", "v_1"]
        for _ in range(2):
            with pytest.raises(LookupError):
                vs.get_variable("v_1", [1], custom_getter=failing_and_opening)
        assert vs.get_variable("v_1", [1]).op_name == "v_1_1"


@given(st.lists(st.integers(0, 30), max_size=60))
def test_scopes_are_opened_in_any_order(order):
    """Default names after scopes that were opened in order, again in order, and in disorder."""
    graph = vs.Graph()

    def make_nodes():
        with graph.as_default():
            for i in range(31):
                create(f"model/s{i}", "w")

    contextvars.Context().run(make_nodes)  # what is opened there does not count here
    with graph.as_default():
        opened = set()
        with vs.variable_scope("model"):
            for i in order:
                with vs.variable_scope(f"s{i}"):
                    pass
                opened.add(i)
            for i in range(31):
                with vs.variable_scope(None, f"s{i}") as scope:
                    assert scope.name == (f"model/s{i}_1" if i in opened else f"model/s{i}")
