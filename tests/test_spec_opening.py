"""SPEC section 2, opening a scope: row by row and sentence by sentence."""

import asyncio
import contextlib
import gc
import inspect
import itertools
import re
import threading
import timeit
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

import varscope as vs

MODES = [False, True, vs.AUTO_REUSE]


def current():
    return vs.get_variable_scope().name


def name_scope():
    return vs.get_default_graph().get_name_scope()


def opened_by_default(base="d", **options):
    """Open a default name, close it, and say which path it was given."""
    with vs.variable_scope(None, base, **options) as scope:
        return scope.name


def capture(name, **options):
    with vs.variable_scope(name, **options) as scope:
        return scope


def create(name="v", **options):
    return vs.get_variable(name, [2], initializer=vs.zeros, **options)


def in_new_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


# --- the call ------------------------------------------------------------------------------------


@pytest.mark.one_thread
def test_parameters_their_order_and_defaults():
    parameters = inspect.signature(vs.variable_scope).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional] == [
        "name_or_scope", "default_name", "values", "initializer", "regularizer",
        "caching_device", "partitioner", "custom_getter", "reuse", "dtype",
    ]  # fmt: skip
    assert positional[0].default is inspect.Parameter.empty
    assert all(p.default is None for p in positional[1:])
    others = {p.name: (p.kind, p.default) for p in parameters if p not in positional}
    assert others == {
        "constraint": (inspect.Parameter.KEYWORD_ONLY, None),
        "auxiliary_name_scope": (inspect.Parameter.KEYWORD_ONLY, True),
    }


def test_the_first_ten_may_be_given_by_position():
    device, getter = "cpu", lambda getter, *args, **kwargs: getter(*args, **kwargs)
    with vs.variable_scope(
        "s", None, None, vs.ones, vs.no_regularizer, device, None, getter, True, "float64"
    ) as scope:
        assert scope.initializer is vs.ones
        assert (scope.caching_device, scope.custom_getter) == (device, getter)
        assert (scope.reuse, scope.dtype) == (True, np.float64)


def test_it_is_a_context_manager_that_yields_a_variable_scope():
    with vs.variable_scope("foo") as scope:
        assert isinstance(scope, vs.VariableScope)
        assert vs.get_variable_scope() == scope


# --- the table: what was given, and what happens -------------------------------------------------


def test_a_string_is_appended_to_the_current_path():
    with vs.variable_scope("foo") as foo, vs.variable_scope("bar") as bar:
        assert (foo.name, bar.name) == ("foo", "foo/bar")
        assert create().name == "foo/bar/v:0"


def test_a_path_is_the_same_scope_as_its_components_opened_one_by_one():
    with vs.variable_scope("a/b") as at_once:
        v = create()
    with vs.variable_scope("a"), vs.variable_scope("b", reuse=True) as step_by_step:
        assert step_by_step == at_once
        assert create() is v


def test_a_captured_scope_is_jumped_to_from_anywhere():
    with vs.variable_scope("foo"):
        bar = capture("bar")
    with vs.variable_scope("x"), vs.variable_scope("y"), vs.variable_scope(bar) as again:
        assert again.name == "foo/bar"
        assert create().name == "foo/bar/v:0"


def test_a_captured_scope_brings_its_defaults_not_the_surrounding_ones():
    captured = capture("foo", dtype="float64", initializer=vs.ones)
    surrounding = vs.variable_scope("x", dtype="int8", initializer=vs.zeros, constraint=np.abs)
    with surrounding, vs.variable_scope(captured) as again:
        assert (again.dtype, again.initializer) == (np.float64, vs.ones)
        assert again.constraint is None


def test_a_captured_scope_is_overridden_by_what_is_passed():
    captured = capture("foo", dtype="float64", initializer=vs.ones)
    with vs.variable_scope(captured, dtype="float16", reuse=True) as again:
        assert (again.dtype, again.initializer, again.reuse) == (np.float16, vs.ones, True)
    assert (captured.dtype, captured.reuse) == (np.float64, False)


@pytest.mark.parametrize("outside", [None, "foo", "foo/bar"])
def test_the_empty_string_is_the_current_path_and_pushes_no_name_scope(outside):
    with vs.variable_scope(outside) if outside else contextlib.nullcontext():
        before = current(), name_scope()
        with vs.variable_scope("", dtype="float64") as scope:
            assert (scope.name, name_scope()) == before == (outside or "", outside or "")
            assert scope.dtype == np.float64
        assert (current(), name_scope()) == before


def test_the_root_scope_is_the_root_path_and_pushes_no_name_scope():
    root = vs.get_variable_scope()
    with vs.variable_scope("foo"), vs.variable_scope(root) as scope:
        assert scope.name == ""
        assert name_scope() == "foo"
        assert create().name == "v:0"


def test_a_scope_of_another_graph_is_the_same_path_in_the_current_graph():
    with vs.Graph().as_default() as elsewhere:
        captured = capture("foo/bar", dtype="float64")
        create()
    with vs.variable_scope(captured) as scope:
        v = create()
    assert (scope.name, scope.dtype) == ("foo/bar", np.float64)
    assert v.graph is vs.get_default_graph() is not elsewhere
    assert v.name == "foo/bar/v:0"
    assert [v.name for v in elsewhere.variables] == ["v:0"]


@pytest.mark.parametrize("arguments", [(None,), (None, None)])
def test_no_name_at_all_is_a_type_error(arguments, refused):
    with refused(TypeError), vs.variable_scope(*arguments):
        pass


def test_a_default_name_is_made_unique_among_the_scopes_opened_in_the_same_scope():
    assert [opened_by_default() for _ in range(3)] == ["d", "d_1", "d_2"]
    with vs.variable_scope("foo"):
        assert [opened_by_default() for _ in range(3)] == ["foo/d", "foo/d_1", "foo/d_2"]


def test_a_default_name_passes_over_suffixes_that_are_taken():
    for taken in ("d", "d_1", "d_2", "d_4"):
        capture(taken)
    assert [opened_by_default() for _ in range(2)] == ["d_3", "d_5"]


def test_a_default_name_is_ignored_where_a_name_is_given():
    captured = capture("foo")
    assert [capture("foo", default_name="d").name for _ in range(2)] == ["foo", "foo"]
    assert capture(captured, default_name="d").name == "foo"
    assert opened_by_default() == "d"


@pytest.mark.parametrize("wrong", [42, b"foo", 1.5, ["foo"], ("foo",), object()])
@pytest.mark.parametrize("where", ["name_or_scope", "default_name", "both"])
def test_a_wrong_type_is_a_type_error_that_says_what_came(wrong, where, refused):
    name = wrong if where == "name_or_scope" else "foo" if where == "both" else None
    default = None if where == "name_or_scope" else wrong
    with refused(TypeError) as caught, vs.variable_scope(name, default):
        pass
    assert type(wrong).__name__ in str(caught.value) or repr(wrong) in str(caught.value)


# --- counting of default names -------------------------------------------------------------------


@pytest.mark.parametrize("form", ["string", "default name", "captured"])
def test_opening_a_scope_in_whatever_form_marks_it_as_used(form):
    with vs.variable_scope("p"):
        d = capture("d")
    with vs.variable_scope("p"):
        if form == "default name":
            assert opened_by_default() == "p/d"
        else:
            capture("d" if form == "string" else d)
        assert opened_by_default() == "p/d_1"


def test_a_path_marks_the_scope_it_names_and_none_above_it():
    capture("a/b")
    assert opened_by_default("a") == "a"
    with vs.variable_scope("c"):
        capture("a/b")
        with vs.variable_scope(capture("a")):  # closing the string scope "a" forgot "a/b"
            assert opened_by_default("b") == "c/a/b"


@pytest.mark.parametrize("form", ["string", "default name"])
def test_closing_forgets_the_marks_below_but_not_its_own(form):
    def towers():
        return [opened_by_default() for _ in range(2)]

    with vs.variable_scope("p"):
        with vs.variable_scope(*["foo"] if form == "string" else [None, "foo"]) as foo:
            assert towers() == ["p/foo/d", "p/foo/d_1"]
            with vs.variable_scope("deep/er"):
                assert towers() == ["p/foo/deep/er/d", "p/foo/deep/er/d_1"]
        with vs.variable_scope(foo):
            assert towers() == ["p/foo/d", "p/foo/d_1"]
            with vs.variable_scope("deep"):
                assert opened_by_default("er") == "p/foo/deep/er"
        assert opened_by_default("foo") == "p/foo_1"


def test_closing_a_captured_scope_puts_the_marks_back_as_they_were_when_it_opened():
    with vs.variable_scope("p") as p:
        assert opened_by_default() == "p/d"
        with vs.variable_scope(p):
            assert [opened_by_default() for _ in range(2)] == ["p/d_1", "p/d_2"]
            assert opened_by_default("e") == "p/e"
        assert opened_by_default("e") == "p/e"
        assert [opened_by_default() for _ in range(2)] == ["p/d_1", "p/d_2"]


def test_closing_a_captured_scope_also_puts_back_marks_made_elsewhere():
    root = vs.get_variable_scope()
    captured = capture("foo")
    with vs.variable_scope(captured), vs.variable_scope(root):
        assert opened_by_default() == "d"
    assert opened_by_default() == "d"


def test_what_a_closed_string_scope_forgot_comes_back_with_the_captured_scope_around_it():
    with vs.variable_scope("p") as p, vs.variable_scope("q"):
        opened_by_default()
        with vs.variable_scope(p):
            capture("q")
            with vs.variable_scope("q"):
                assert opened_by_default() == "p/q/d"
        assert opened_by_default() == "p/q/d_1"


def test_entering_a_scope_again_shares_the_variables_under_default_names():
    def layer():
        with vs.variable_scope(None, "layer"):
            return create()

    with vs.variable_scope("foo"):
        first = [layer(), layer()]
    with vs.variable_scope("foo", reuse=True):
        second = [layer(), layer()]
    assert [v.op_name for v in first] == ["foo/layer/v", "foo/layer_1/v"]
    assert all(a is b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("form", ["string", "captured"])
@pytest.mark.one_thread
def test_opening_and_closing_costs_the_same_however_many_scopes_there_are(form):
    def seconds(scopes):
        with vs.Graph().as_default():
            for i in range(scopes):
                capture(f"s{i}")
            p = capture("p")

            def rounds():
                for _ in range(100):
                    with vs.variable_scope(p if form == "captured" else "p"):
                        opened_by_default()

            return min(timeit.repeat(rounds, number=1, repeat=7))

    # A thousand times as many: a cost that grows with them would show as far more than this.
    assert seconds(20_000) < 20 * seconds(20)


def test_default_names_are_counted_per_thread():
    assert [opened_by_default("tower") for _ in range(2)] == ["tower", "tower_1"]
    names = in_new_thread(lambda: [opened_by_default("tower") for _ in range(2)])
    assert names == ["tower", "tower_1"]
    assert opened_by_default("tower") == "tower_2"


def test_default_names_are_counted_per_task():
    async def build():
        names = []
        for _ in range(2):
            with vs.variable_scope(None, "tower") as scope:
                await asyncio.sleep(0)
                names.append(scope.name)
        return names

    async def build_two():
        with vs.variable_scope("foo"):
            return await asyncio.gather(build(), build())

    assert asyncio.run(build_two()) == [["foo/tower", "foo/tower_1"]] * 2


# --- reuse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [False, 0, 1, 1.0, "auto", "True", (), object()])
@pytest.mark.parametrize("form", ["string", "captured", "default name"])
def test_any_other_mode_is_a_value_error_that_says_what_to_write_instead(wrong, form, refused):
    names = {"string": ["foo"], "captured": [vs.get_variable_scope()], "default name": [None, "d"]}
    words = "reuse", "cannot be switched off", "AUTO_REUSE"
    with refused(ValueError, *words), vs.variable_scope(*names[form], reuse=wrong):
        pass


@pytest.mark.parametrize("surrounding", MODES)
@pytest.mark.parametrize("passed", [None, True, vs.AUTO_REUSE])
def test_a_sub_scope_takes_what_is_passed_else_the_surrounding_mode(surrounding, passed):
    outer = vs.variable_scope("foo", reuse=surrounding or None)
    with outer, vs.variable_scope("bar", reuse=passed) as bar:
        assert bar.reuse is (surrounding if passed is None else passed)
        with vs.variable_scope("") as same, vs.variable_scope(None, "d") as below:
            assert same.reuse is below.reuse is bar.reuse


@pytest.mark.parametrize("own", MODES)
@pytest.mark.parametrize("surrounding", MODES)
@pytest.mark.parametrize("passed", [None, True, vs.AUTO_REUSE])
def test_a_captured_scope_takes_what_is_passed_else_its_own_mode(own, surrounding, passed):
    captured = capture("foo", reuse=own or None)
    outer = vs.variable_scope("x", reuse=surrounding or None)
    with outer, vs.variable_scope(captured, reuse=passed) as again:
        assert again.reuse is (own if passed is None else passed)


@pytest.mark.parametrize("mode", [True, vs.AUTO_REUSE])
def test_reuse_with_a_default_name_only_is_a_value_error(mode, refused):
    with refused(ValueError, "reuse"), vs.variable_scope(None, "d", reuse=mode):
        pass
    with vs.variable_scope("foo", default_name="d", reuse=mode) as scope:
        assert scope.reuse is mode


def test_reuse_reads_false_true_or_auto_reuse():
    modes = [capture("foo", reuse=mode).reuse for mode in (None, True, vs.AUTO_REUSE)]
    assert all(a is b for a, b in zip(modes, MODES, strict=True))
    assert vs.get_variable_scope().reuse is False


@pytest.mark.parametrize(
    ("mode", "exists", "outcome"),
    [
        (None, True, "already exists"),
        (None, False, "created"),
        (True, True, "returned"),
        (True, False, "does not exist"),
        (vs.AUTO_REUSE, True, "returned"),
        (vs.AUTO_REUSE, False, "created"),
    ],
)
def test_the_table_of_modes(mode, exists, outcome, refused):
    graph = vs.get_default_graph()
    with vs.variable_scope("foo"):
        v = create() if exists else None
    with vs.variable_scope("foo", reuse=mode):
        if outcome in ("created", "returned"):
            result = create()
            assert [result] == list(graph.variables)
            assert (result is v) == exists
        else:
            with refused(ValueError, "foo/v", outcome):
                create()


# --- values --------------------------------------------------------------------------------------


def variable_elsewhere(name="v"):
    with vs.Graph().as_default():
        return create(name)


@pytest.mark.parametrize("iterable", [list, tuple, iter, lambda x: (i for i in x), dict.fromkeys])
def test_values_is_any_iterable_and_its_graph_is_the_default_inside(iterable):
    v = variable_elsewhere()
    outer = vs.get_default_graph()
    with vs.variable_scope("foo", values=iterable([3, "no graph", v])):
        assert vs.get_default_graph() is v.graph
        assert create("w").graph is v.graph
    assert vs.get_default_graph() is outer
    assert [x.op_name for x in v.graph.variables] == ["v", "foo/w"]


def test_any_object_with_a_graph_counts():
    graph = vs.Graph()
    with vs.variable_scope("foo", values=[SimpleNamespace(graph=graph)]):
        assert vs.get_default_graph() is graph


@pytest.mark.parametrize("values", [None, [], [3, "x", None, np.ones(2), object()]])
def test_objects_without_a_graph_are_ignored(values):
    outer = vs.get_default_graph()
    with vs.variable_scope("foo", values=values) as scope:
        assert vs.get_default_graph() is outer
        assert scope.name == "foo"


def test_values_of_the_current_graph_change_nothing():
    v = create()
    with vs.variable_scope("foo"), vs.variable_scope("bar", values=[v, v]) as scope:
        assert scope.name == "foo/bar"


@pytest.mark.parametrize("name", ["foo", None])
def test_values_of_two_graphs_are_a_value_error_naming_two_that_differ(name, refused):
    here, there = create("weights_here"), variable_elsewhere("weights_there")
    words, values = ("weights_here", "weights_there"), [here, "x", here, there]
    with refused(ValueError, *words), vs.variable_scope(name, "d", values=values):
        pass


def test_values_read_from_a_generator_still_hold_at_the_second_entry():
    v = variable_elsewhere()
    manager = vs.variable_scope("foo", values=(x for x in [v]))
    for _ in range(2):
        with manager:
            assert vs.get_default_graph() is v.graph


class HostGraph:
    """A graph of another library."""


def test_a_graph_of_another_library_is_a_type_error_until_it_is_attached(refused):
    node = SimpleNamespace(graph=HostGraph())
    outer = vs.get_default_graph()
    with refused(TypeError, "attach"), vs.variable_scope("foo", values=[node]):
        pass
    vs.attach(node.graph)
    with vs.variable_scope("foo", values=[node]) as scope:
        assert isinstance(vs.get_default_graph(), vs.Graph)
        assert vs.get_default_graph() is not outer
        v = create()
    with vs.variable_scope(scope, values=[node, v], reuse=True):
        assert create() is v


def test_two_attached_graphs_are_two_graphs(refused):
    nodes = [SimpleNamespace(graph=HostGraph()) for _ in range(2)]
    for node in nodes:
        vs.attach(node.graph)
    with refused(ValueError), vs.variable_scope("foo", values=nodes):
        pass


def test_an_attached_graph_lives_as_long_as_its_host():
    node = SimpleNamespace(graph=HostGraph())
    vs.attach(node.graph)
    with vs.variable_scope("foo", values=[node]):
        graph = weakref.ref(vs.get_default_graph())
        create()
    gc.collect()
    vs.attach(node.graph)
    assert graph() is not None
    with vs.variable_scope("foo", values=[node], reuse=True):
        assert create().graph is graph()
    del node
    gc.collect()
    assert graph() is None


# --- name scope ----------------------------------------------------------------------------------


def test_a_name_scope_of_the_same_name_is_opened_and_made_unique():
    for expected in ("foo", "foo_1", "foo_2"):
        with vs.variable_scope("foo") as scope:
            assert (scope.name, name_scope()) == ("foo", expected)
            with vs.variable_scope("a/b"):
                assert name_scope() == f"{expected}/a/b"
            with vs.variable_scope("a/b"):
                assert name_scope() == f"{expected}/a/b_1"
            assert name_scope() == expected
        assert name_scope() == ""


def test_it_is_made_unique_among_all_op_names_of_the_graph():
    assert vs.get_default_graph().unique_name("foo") == "foo"
    with vs.variable_scope("foo") as scope:
        assert (scope.name, name_scope()) == ("foo", "foo_1")


def test_a_captured_scope_opens_a_name_scope_of_its_last_component():
    bar = capture("foo/bar")
    with vs.variable_scope("x"):
        for expected in ("x/bar", "x/bar_1"):
            with vs.variable_scope(bar):
                assert name_scope() == expected


def test_a_default_name_opens_a_name_scope_without_the_suffix_of_the_scope():
    opened_by_default("d", auxiliary_name_scope=False)
    with vs.variable_scope(None, "d") as scope:
        assert (scope.name, name_scope()) == ("d_1", "d")
    with vs.variable_scope(None, "d") as scope:
        assert (scope.name, name_scope()) == ("d_2", "d_1")


@pytest.mark.parametrize("form", ["string", "captured", "default name"])
def test_auxiliary_name_scope_false_skips_the_name_scope(form):
    arguments = {"string": ["s"], "captured": [capture("s")], "default name": [None, "d"]}[form]
    with vs.variable_scope("foo"):
        with vs.variable_scope(*arguments, auxiliary_name_scope=False):
            assert name_scope() == "foo"
        with vs.variable_scope("s"):
            assert name_scope() == "foo/s"


def test_original_name_scope_is_that_of_the_first_opening_kept_across_re_entry():
    with vs.variable_scope("foo"), vs.variable_scope("bar") as bar:
        assert bar.original_name_scope == "foo/bar/"
    for _ in range(2):
        with vs.variable_scope("x"), vs.variable_scope(bar) as again:
            assert again.original_name_scope == bar.original_name_scope == "foo/bar/"
            assert name_scope().endswith("/bar") and name_scope().startswith("x")


# --- every graph has its own current scope and name scope ----------------------------------------


def test_inside_another_graph_scopes_start_at_its_root():
    other = vs.Graph()
    with vs.variable_scope("foo", reuse=True, dtype="float64"):
        with other.as_default():
            assert (current(), name_scope()) == ("", "")
            root = vs.get_variable_scope()
            assert (root.reuse, root.dtype) == (False, np.float32)
            with vs.variable_scope("bar") as bar:
                assert (bar.name, name_scope()) == ("bar", "bar")
        assert (current(), name_scope()) == ("foo", "foo")


def test_a_graph_entered_again_is_where_it_was():
    first, second = vs.Graph(), vs.Graph()
    with first.as_default(), vs.variable_scope("foo"):
        with second.as_default(), vs.variable_scope("bar"):
            with first.as_default():
                assert (current(), name_scope()) == ("foo", "foo")
                with vs.variable_scope("deep"):
                    assert current() == "foo/deep"
            assert (current(), name_scope()) == ("bar", "bar")
        assert (current(), name_scope()) == ("foo", "foo")


def test_values_of_another_graph_have_the_same_effect():
    v = variable_elsewhere()
    with vs.variable_scope("foo"):
        with vs.variable_scope("bar", values=[v]) as bar:
            assert (bar.name, name_scope()) == ("bar", "bar")
        assert (current(), name_scope()) == ("foo", "foo")


@pytest.mark.parametrize("enter", ["as_default", "values"])
def test_the_old_scopes_are_back_after_an_exception(enter):
    v = variable_elsewhere()
    outer = vs.get_default_graph()
    with vs.variable_scope("foo"):
        other = {"as_default": v.graph.as_default(), "values": vs.variable_scope("x", values=[v])}
        with pytest.raises(KeyError), other[enter], vs.variable_scope("deep"):
            raise KeyError
        assert vs.get_default_graph() is outer
        assert (current(), name_scope()) == ("foo", "foo")


# --- isolation -----------------------------------------------------------------------------------


def test_a_new_thread_starts_at_the_root():
    with vs.variable_scope("foo", reuse=True):
        mode = in_new_thread(lambda: (current(), name_scope(), vs.get_variable_scope().reuse))
        assert mode == ("", "", False)


def test_scopes_of_two_threads_do_not_disturb_each_other():
    graph, barrier = vs.Graph(), threading.Barrier(2, timeout=30)

    def work(name):
        seen = []
        with graph.as_default(), vs.variable_scope(name):
            barrier.wait()
            with vs.variable_scope("in"):
                barrier.wait()
                seen.append(current())
            barrier.wait()
            seen.append(current())
        return seen

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, "ab")) == [["a/in", "a"], ["b/in", "b"]]


def test_a_new_task_starts_with_the_scope_of_its_creation():
    async def work(name):
        seen = [current()]
        with vs.variable_scope(name):
            await asyncio.sleep(0)
            seen.append(current())
        return [*seen, current()]

    async def main():
        with vs.variable_scope("p"):
            tasks = [asyncio.create_task(work(name)) for name in "ab"]
        with vs.variable_scope("q"):
            results = await asyncio.gather(*tasks)
            assert current() == "q"
        assert current() == ""
        return results

    assert asyncio.run(main()) == [["p", "p/a", "p"], ["p", "p/b", "p"]]


def test_the_variables_of_a_graph_are_shared_by_all_threads():
    with vs.variable_scope("foo"):
        v = create()

    def find():
        with v.graph.as_default(), vs.variable_scope("foo", reuse=True):
            return create()

    assert in_new_thread(find) is v


@pytest.mark.parametrize("mode", [None, vs.AUTO_REUSE])
def test_two_threads_that_create_one_name_at_once(mode):
    threads, rounds = 4, 200
    graph, barrier = vs.Graph(), threading.Barrier(threads, timeout=30)

    def race(_):
        results = []
        with graph.as_default(), vs.variable_scope("foo", reuse=mode):
            for i in range(rounds):
                barrier.wait()
                try:
                    results.append(create(f"v{i}"))
                except ValueError as error:
                    results.append(str(error))
        return results

    with ThreadPoolExecutor(threads) as pool:
        for results in zip(*pool.map(race, range(threads)), strict=True):
            variables = [r for r in results if not isinstance(r, str)]
            assert len(set(variables)) == 1
            assert len(variables) == (threads if mode else 1)
            assert all("already exists" in r for r in results if isinstance(r, str))
    assert len(graph) == rounds


# --- leaving -------------------------------------------------------------------------------------

EXCEPTIONS = [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, StopIteration]


@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("form", ["string", "captured", "default name", "empty"])
def test_a_scope_is_left_on_any_exception(exception, form):
    captured = capture("s")
    arguments = {"string": ["x"], "captured": [captured], "default name": [None, "d"]}
    with vs.variable_scope("foo"):
        with pytest.raises(exception), vs.variable_scope("bar"):
            with pytest.raises(exception), vs.variable_scope(*arguments.get(form, [""])):
                raise exception
            assert (current(), name_scope()) == ("foo/bar", "foo/bar")
            raise exception
        assert (current(), name_scope()) == ("foo", "foo")
    assert (current(), name_scope()) == ("", "")


@pytest.mark.parametrize("form", ["string", "captured", "default name"])
def test_a_context_manager_object_can_be_entered_again(form):
    captured = capture("s")
    arguments = {"string": ["x"], "captured": [captured], "default name": [None, "d"]}[form]
    expected = {"string": ["x", "x"], "captured": ["s", "s"], "default name": ["d", "d_1"]}[form]
    manager = vs.variable_scope(*arguments)
    for name in expected:
        with manager as scope:
            assert scope.name == current() == name
        assert current() == ""


@pytest.mark.parametrize("form", ["string", "captured", "default name"])
def test_a_context_manager_object_can_be_entered_while_it_is_open(form):
    captured = capture("s")
    arguments = {"string": ["x"], "captured": [captured], "default name": [None, "d"]}[form]
    deep = {"string": "x/x/x", "captured": "s", "default name": "d/d/d"}[form]
    manager = vs.variable_scope(*arguments)
    with manager as first:
        with manager, manager:
            assert current() == deep
        assert current() == first.name
        with manager as again:
            assert current() == again.name
    assert (current(), name_scope()) == ("", "")


def suspended(open_scope, name):
    with open_scope(name):
        yield


each_kind = pytest.mark.parametrize("open_scope", [vs.variable_scope, vs.name_scope])


def assert_stack_is_usable():
    assert (current(), name_scope()) == ("", "")
    with vs.variable_scope("again") as scope, vs.variable_scope("below") as below:
        assert (scope.name, below.name) == ("again", "again/below")
        assert name_scope() == "again/below"


@each_kind
def test_closing_out_of_order_is_a_runtime_error_that_names_both(open_scope):
    generator = suspended(open_scope, "left_open")
    with pytest.raises(RuntimeError) as caught, open_scope("outer"):
        next(generator)
    assert re.search(r"outer(?!/)", str(caught.value))
    assert "outer/left_open" in str(caught.value)
    with contextlib.suppress(RuntimeError):
        generator.close()
    assert_stack_is_usable()


@each_kind
@pytest.mark.parametrize("order", list(itertools.permutations(["one", "two", "three"])), ids=str)
def test_suspended_generators_closed_in_any_order(open_scope, order):
    generators = {name: suspended(open_scope, name) for name in ("one", "two", "three")}
    for generator in generators.values():
        next(generator)
    assert name_scope() == "one/two/three"
    errors = []
    for name in order:
        try:
            generators[name].close()
        except RuntimeError as error:
            errors.append(str(error))
    if order[0] == "three":
        assert not any("one/two/three" in error for error in errors)
    else:
        assert re.search(f"{order[0]}(?!/)", errors[0])
        assert "one/two/three" in errors[0]
    assert (order == ("three", "two", "one")) == (errors == [])
    assert_stack_is_usable()
