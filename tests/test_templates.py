"""Templates: a function that creates its variables at the first call and shares them later."""

import asyncio
import contextlib
import copy
import functools
import gc
import inspect
import os
import pickle
import threading
import weakref

import pytest

import varscope as vs
from varscope import templates

EXCEPTIONS = [ValueError, KeyboardInterrupt, SystemExit, RecursionError, MemoryError]


def create(name="w", shape=(2,), **options):
    options.setdefault("initializer", vs.ones)
    return vs.get_variable(name, shape, **options)


def names(variables=None):
    variables = vs.get_default_graph().variables if variables is None else variables
    return [v.op_name for v in variables]


# --- first and later calls -----------------------------------------------------------------------


def test_the_first_call_creates_and_later_ones_share():
    t = vs.make_template("t", create)
    assert names() == []
    first = t()
    assert t() is t() is first
    assert names() == ["t/w"]


def test_arguments_and_results_pass_through():
    t = vs.make_template("t", lambda *args, **kwargs: (create(), args, kwargs))
    w, args, kwargs = t(1, 2, self=3, name=4)
    assert (args, kwargs) == ((1, 2), {"self": 3, "name": 4})
    assert t("other") == (w, ("other",), {})


def test_bound_arguments_count_unless_the_call_has_its_own():
    t = vs.make_template("t", lambda x, by=1, name="": (x, by, name), by=2, name="n")
    assert (t(0), t(0, by=3)) == ((0, 2, "n"), (0, 3, "n"))


def test_templates_of_one_function_have_variables_of_their_own():
    first, second = vs.make_template("t", create), vs.make_template("t", create)
    other = vs.make_template("u", create)
    assert len({first(), second(), other(), first(), second(), other()}) == 3
    assert names() == ["t/w", "t_1/w", "u/w"]


def test_the_scope_is_where_the_first_call_is():
    t = vs.make_template("t", create)
    with vs.variable_scope("a"):
        first = t()
    with vs.variable_scope("b"), vs.variable_scope("c"):
        assert t() is first
    assert t() is first
    assert names() == ["a/t/w"]


def test_the_first_call_inherits_and_later_ones_keep_what_it_inherited():
    t = vs.make_template("t", lambda: (create(initializer=None), vs.get_variable_scope()))
    with vs.variable_scope("a", dtype="float64", initializer=vs.zeros, caching_device="cpu"):
        w, first = t()
    with vs.variable_scope("b", dtype="int8"):
        again, later = t()
    assert (w.dtype, w.initializer, w.caching_device) == ("float64", vs.zeros, "cpu")
    assert again is w
    assert (first.name, first.reuse, first.dtype) == ("a/t", False, "float64")
    assert (later.name, later.reuse, later.dtype) == ("a/t", True, "float64")
    assert later == first


def test_what_the_function_sets_on_its_scope_holds_for_later_calls():
    def set_dtype():
        vs.get_variable_scope().set_dtype("float64")
        return create()

    t = vs.make_template("t", set_dtype)
    assert t() is t()
    assert t().dtype == "float64"
    u = vs.make_template("u", lambda: vs.get_variable("v", [1]).dtype if seen else set_dtype())
    seen = []
    u()
    seen.append(True)
    assert u.variable_scope.dtype == "float64"


def test_default_names_are_counted_as_with_a_scope():
    def layers():
        for _ in range(2):
            with vs.variable_scope(None, "layer"):
                create()

    t, u = vs.make_template("layer", layers), vs.make_template("layer", layers)
    with vs.variable_scope("a"):
        for template in (t, u, t, u):
            template()
        with vs.variable_scope(None, "layer") as behind:
            pass
    assert names() == [
        "a/layer/layer/w", "a/layer/layer_1/w", "a/layer_1/layer/w", "a/layer_1/layer_1/w"
    ]  # fmt: skip
    assert behind.name == "a/layer_2"


def test_op_names_are_new_at_each_call_and_names_of_variables_are_not():
    t = vs.make_template("t", lambda: (create().name, vs.get_default_graph().unique_name("op")))
    assert [t(), t()] == [("t/w:0", "t/op"), ("t/w:0", "t_1/op")]
    with vs.name_scope("n"):
        assert t() == ("t/w:0", "n/t/op")


def test_a_model_that_makes_templates_is_shared_by_its_scope():
    def model():
        first, second = vs.make_template("t", create), vs.make_template("t", create)
        return [first(), second(), first()]

    with vs.variable_scope("m"):
        built = model()
    with vs.variable_scope("m", reuse=True):
        assert model() == built
    with vs.variable_scope("m", reuse=vs.AUTO_REUSE):
        assert model() == built
    assert names() == ["m/t/w", "m/t_1/w"]


def test_a_later_call_that_creates_is_an_error_that_names_the_template(refused):
    t = vs.make_template("t", create)
    t()
    with refused(ValueError, "t/other does not exist", "template 't'", "first call") as caught:
        t("other")
    assert isinstance(caught.value, vs.errors.VariableMissingError)
    assert (caught.value.template, caught.value.name) == ("t", "t/other")
    assert caught.value.origin[1][0] == __file__
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert t() is vs.get_default_graph()["t/w"]


def test_what_is_missing_elsewhere_is_no_fault_of_the_template():
    def elsewhere():
        with vs.variable_scope(root, reuse=True):
            vs.get_variable("nowhere")

    root = vs.get_variable_scope()
    t = vs.make_template("t", lambda: elsewhere() if t.variables else create())
    t()
    with pytest.raises(vs.errors.VariableMissingError) as caught:
        t()
    assert caught.value.template is None
    assert "template 't'" not in str(caught.value)


# --- where the scope is --------------------------------------------------------------------------


def test_create_scope_now_takes_the_name_at_once():
    with vs.variable_scope("a"):
        early = vs.make_template("t", create, create_scope_now=True)
        late = vs.make_template("t", create)
        assert late().op_name == "a/t_1/w"
    assert early.variable_scope.name == "a/t"
    with vs.variable_scope("b"):
        assert early().op_name == "a/t/w"
        assert early() is vs.get_default_graph()["a/t/w"]


def test_create_scope_now_opens_no_name_scope_yet():
    t = vs.make_template("t", lambda: vs.get_default_graph().unique_name("op"), True)
    assert vs.get_default_graph().unique_name("t", mark_as_used=False) == "t"
    assert [t(), t()] == ["t/op", "t_1/op"]


def test_create_scope_now_keeps_the_defaults_of_where_it_was_made():
    with vs.variable_scope("a", dtype="float64"):
        t = vs.make_template("t", create, create_scope_now=True)
    with vs.variable_scope("b", dtype="int8"):
        assert t().dtype == "float64"


@pytest.mark.parametrize("now", [False, True])
def test_a_unique_name_is_taken_as_it_is(now, refused):
    first = vs.make_template("t", create, now, "exact")
    second = vs.make_template("t", create, unique_name="exact", create_scope_now=now)
    assert first().op_name == "exact/w"
    with refused(ValueError, "exact/w already exists"):
        second()
    with vs.variable_scope("a"):
        assert (second if not now else vs.make_template("t", create, unique_name="exact"))(
        ).op_name == "a/exact/w"  # fmt: skip
    assert first() is vs.get_default_graph()["exact/w"]


def test_a_custom_getter_is_for_the_variables_of_the_function():
    def getter(getter, name, *args, **kwargs):
        seen.append(name)
        return getter(name, *args, **{**kwargs, "trainable": False})

    def outer(getter, name, *args, **kwargs):
        seen.append(f"outer {name}")
        return getter(name, *args, **kwargs)

    seen = []
    t = vs.make_template("t", create, custom_getter=getter)
    with vs.variable_scope("a", custom_getter=outer):
        w = t()
    assert t() is w
    assert create("v").trainable and not w.trainable
    assert seen == ["a/t/w", "outer a/t/w"] * 2


# --- what it shows -------------------------------------------------------------------------------


def test_what_a_template_shows():
    def build():
        create("a")
        create("b", trainable=False)
        vs.get_local_variable("c", [1])
        create("d", collections=["mine"], trainable=False)
        with vs.variable_scope("inner"):
            return create("e")

    t = vs.make_template("t", build)
    assert (t.name, t.func, t.variable_scope, t.var_scope) == ("t", build, None, None)
    assert t.variables == t.global_variables == t.local_variables == t.trainable_variables == []
    create("outside")
    with vs.variable_scope("t_", auxiliary_name_scope=False):
        create()
    e = t()
    graph = vs.get_default_graph()
    assert t.variable_scope == t.var_scope
    assert (t.variable_scope.name, t.variable_scope.graph) == ("t", graph)
    assert names(t.global_variables) == ["t/a", "t/b", "t/inner/e"]
    assert names(t.trainable_variables) == ["t/a", "t/inner/e"]
    assert names(t.local_variables) == ["t/c"]
    assert names(t.variables) == ["t/a", "t/b", "t/inner/e", "t/c"]
    assert e in t.variables


def test_repr():
    t = vs.make_template("t", create)
    assert repr(t).startswith("<Template 't' of <function create at") and "not called" in repr(t)
    with vs.variable_scope("a"):
        t()
    assert "'a/t'" in repr(t)


def test_the_parameters():
    parameters = inspect.signature(vs.make_template).parameters
    assert list(parameters) == [
        "name", "func", "create_scope_now", "unique_name", "custom_getter", "kwargs"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (dict(name=None), TypeError, "name of a template"),
        (dict(name=3), TypeError, "name of a template"),
        (dict(func=None), TypeError, "template 't'"),
        (dict(func="create"), TypeError, "callable"),
        (dict(unique_name=3), TypeError, "unique_name"),
        (dict(custom_getter=3), ValueError, "not callable"),
        (dict(name="a b", create_scope_now=True), ValueError, "'a b'"),
        (dict(unique_name="a//b", create_scope_now=True), ValueError, "'a//b'"),
    ],
)
def test_what_cannot_be_a_template(arguments, kind, words, refused):
    arguments = {"name": "t", "func": create, **arguments}
    with refused(kind, words):
        vs.make_template(arguments.pop("name"), arguments.pop("func"), **arguments)


def test_a_bad_name_is_found_at_the_first_call(refused):
    t = vs.make_template("a b", create)
    for _ in range(2):
        with refused(vs.errors.InvalidNameError, "'a b'"):
            t()


# --- functions of all kinds ----------------------------------------------------------------------


class Model:
    def __init__(self, units):
        self.units = units
        self.encode = vs.make_template("encode", self._encode)

    def _encode(self, scale):
        return create("kernel", [self.units]).value() * scale

    shared = vs.make_template("shared", create)


def test_methods_and_attributes_of_classes():
    first, second = Model(2), Model(3)
    assert first.encode(2).tolist() == first.encode(2).tolist() == [2, 2]
    assert second.encode(1).tolist() == [1, 1, 1]
    assert names() == ["encode/kernel", "encode_1/kernel"]
    assert first.shared() is second.shared() is Model.shared()


def test_partials_and_callable_objects():
    class Layer:
        def __call__(self, name):
            return create(name)

    assert vs.make_template("t", functools.partial(create, "v"))().op_name == "t/v"
    assert vs.make_template("t", Layer(), name="v")().op_name == "t_1/v"


def test_templates_inside_templates():
    inner = vs.make_template("inner", create)
    outer = vs.make_template("outer", lambda name: (create(name), inner(), inner()))
    for _ in range(2):
        assert names(outer("v")) == ["outer/v", "outer/inner/w", "outer/inner/w"]
    assert inner().op_name == "outer/inner/w"
    assert names() == ["outer/v", "outer/inner/w"]


def test_a_template_made_and_called_inside_another_one():
    def build():
        return vs.make_template("inner", create)()

    outer = vs.make_template("outer", build)
    assert outer() is outer()
    assert names() == ["outer/inner/w"]


def test_the_error_of_an_inner_template_names_the_inner_one():
    inner = vs.make_template("inner", create)
    outer = vs.make_template("outer", inner)
    outer("v")
    with pytest.raises(vs.errors.VariableMissingError) as caught:
        outer("w")
    assert caught.value.template == "inner"


def test_a_function_that_calls_its_own_template():
    def build(depth):
        create("shared")
        create(f"level_{depth}")
        return [vs.get_variable_scope().name] + (t(depth - 1) if depth else [])

    t = vs.make_template("t", build)
    assert t(2) == t(2) == ["t", "t", "t"]
    assert names() == ["t/shared", "t/level_2", "t/level_1", "t/level_0"]
    with pytest.raises(vs.errors.VariableMissingError):
        t(3)


def test_a_function_that_calls_its_own_template_under_reuse_creates_nothing(refused):
    def build(depth):
        create(f"level_{depth}")
        return t(depth - 1) if depth else None

    create("t/level_1")
    t = vs.make_template("t", build)
    with (
        vs.variable_scope("", reuse=True),
        refused(vs.errors.VariableMissingError, "t/level_0"),
    ):
        t(1)


def test_shards_penalties_and_copies_in_a_template(refused):
    def build(fail=False):
        v = create("v", [4], partitioner=vs.fixed_size_partitioner(2),
                   regularizer=vs.l2_regularizer(1.0), caching_device="cpu")  # fmt: skip
        if fail:
            raise OSError
        return v

    t = vs.make_template("t", build)
    with refused(OSError):
        t(fail=True)
    v = t()
    assert t() is v
    assert t.variables == list(v)
    assert [float(loss) for loss in vs.get_regularization_losses("t")] == [2]
    assert v[0].caching_device == "cpu"


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize("scope", ["", "a"])
def test_a_first_call_that_raises_leaves_nothing_and_can_be_repeated(
    exception, now, scope, refused
):
    def first():
        create("v").initialize()
        create("u", collections=["mine"])
        with vs.variable_scope(None, "d"):
            create()
            if failing:
                raise exception("in the template")

    failing = True
    with vs.variable_scope(scope):
        t = vs.make_template("t", first, create_scope_now=now)
        for _ in range(2):
            with refused(exception):
                t()
        assert t.variables == []
        failing = False
        t()
        t()
        prefix = f"{scope}/" if scope else ""
        assert names() == [f"{prefix}t/{name}" for name in ("v", "u", "d/w")]
        with vs.variable_scope(None, "t") as next_one:
            assert next_one.name == f"{prefix}t_1"


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_a_later_call_that_raises_changes_nothing(exception, refused):
    def build(fail=False):
        w = create()
        if fail:
            raise exception("in the template")
        return w

    t = vs.make_template("t", build)
    w = t()
    with refused(exception):
        t(fail=True)
    assert t() is w


def test_a_failing_inner_first_call_goes_with_the_outer_one():
    inner = vs.make_template("inner", create)

    def build():
        inner()
        if failing:
            raise OSError
        return names()

    failing = True
    outer = vs.make_template("outer", build)
    with pytest.raises(OSError):
        outer()
    assert names() == []
    failing = False
    assert outer() == outer() == ["outer/inner/w"]


@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("where", ["getter", "caching device"])
def test_a_first_call_inside_something_else_that_fails(where, exception):
    t = vs.make_template("t", create)

    def getter(getter, name, *args, **kwargs):
        t("inside")
        raise exception

    with pytest.raises(exception):
        if where == "getter":
            create(custom_getter=getter)
        else:
            create(caching_device=lambda variable: getter(None, None))
    assert names() == []
    assert t() is t()  # another first call; that a scope was opened is not taken back
    assert names() == names(t.variables)


# --- graphs --------------------------------------------------------------------------------------


def test_each_graph_has_a_first_call_of_its_own():
    t = vs.make_template("t", create)
    here = t()
    with vs.Graph().as_default() as graph, vs.variable_scope("a"):
        there = t()
        assert t() is there is not here
        assert t.variables == [there]
    assert there.graph is graph
    assert (here.op_name, there.op_name) == ("t/w", "a/t/w")
    assert t() is here
    assert t.variables == [here]


def test_a_planned_scope_is_the_same_path_in_every_graph():
    with vs.variable_scope("a", dtype="float64"):
        t = vs.make_template("t", create, create_scope_now=True)
    with vs.Graph().as_default() as graph:
        assert t.variable_scope.graph is graph
        w = t()
        assert t() is w
    assert (w.op_name, w.dtype, w.graph) == ("a/t/w", "float64", graph)
    assert names() == []
    assert t() is not w


def test_a_template_keeps_no_graph_and_a_graph_no_template():
    def build(template):
        graph = vs.Graph()
        with graph.as_default(), vs.variable_scope("a", initializer=vs.ones):
            template()
            template()
        return weakref.ref(graph)

    template = vs.make_template("t", lambda: vs.get_variable("w", [1]) and None)
    gc.collect()
    gc.disable()
    try:
        alive = build(template)
        assert alive() is None  # at once: there is no cycle
    finally:
        gc.enable()
    template()
    gone = weakref.ref(template)
    del template
    gc.collect()
    assert gone() is None


def test_a_copied_graph_can_share_what_the_template_made():
    t = vs.make_template("t", create)
    w = t()
    with copy.deepcopy(w.graph).as_default() as twin, vs.variable_scope("", reuse=True):
        assert t() is twin["t/w"] is not w


# --- threads and tasks ---------------------------------------------------------------------------


def run_threads(*functions, timeout=20):
    results, threads = {}, []
    barrier = threading.Barrier(len(functions))
    graph = vs.get_default_graph()

    def run(number, function):
        barrier.wait()
        with graph.as_default():
            try:
                results[number] = function()
            except Exception as error:
                results[number] = error

    for number, function in enumerate(functions):
        threads.append(threading.Thread(target=run, args=(number, function), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(timeout)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    return [results[number] for number in range(len(functions))]


def test_of_threads_that_call_first_one_creates():
    for i in range(30):
        t = vs.make_template(f"t{i}", lambda: [create(f"w{k}") for k in range(3)])
        results = run_threads(*[t] * 4)
        assert all(result == results[0] for result in results)
        assert len(t.variables) == 3


def test_a_first_call_that_is_over_just_before_another_one_would_begin():
    class Late(dict):
        def setdefault(self, key, value):
            if not others:
                others.append(True)
                others.append(t())  # as another thread might
            return super().setdefault(key, value)

    others = []
    t = vs.make_template("t", create)
    t._uses[vs.get_default_graph()] = uses = templates.Uses()
    uses.first = Late()
    assert t() is t() is others[1]
    assert names() == ["t/w"]


def test_when_the_first_thread_fails_another_one_is_the_first():
    calls = []

    def build():
        calls.append(create())
        if len(calls) < 3:
            raise OSError
        return calls[-1]

    t = vs.make_template("t", build)
    results = run_threads(*[t] * 5)
    failed = [result for result in results if isinstance(result, OSError)]
    shared = {result for result in results if not isinstance(result, OSError)}
    assert len(failed) == 2
    assert len(shared) == 1
    assert names() == ["t/w"]


@pytest.mark.parametrize("attempt", range(10))
def test_templates_that_call_each_other_from_both_ends_do_not_wait_for_ever(attempt):
    def function(leaf, other):
        def call(goes_on):
            create(leaf)
            if not goes_on:
                return leaf
            with contextlib.suppress(threading.BrokenBarrierError):
                meet.wait(5)  # now both first calls are going on
            return leaf + pair[other](False)

        return call

    meet = threading.Barrier(2)
    pair = {
        "a": vs.make_template("a", function("u", "b")),
        "b": vs.make_template("b", function("v", "a")),
    }
    assert run_threads(*[functools.partial(t, True) for t in pair.values()]) == ["uv", "vu"]
    assert sorted(v.path.rpartition("/")[2] for t in pair.values() for v in t.variables) == [
        "u", "v"
    ]  # fmt: skip
    assert len(vs.global_variables()) == 2


def test_a_thread_in_a_scope_of_its_own_shares():
    t = vs.make_template("t", create)

    def elsewhere():
        with vs.variable_scope("b"):
            return t()

    with vs.variable_scope("a"):
        w = t()
    assert run_threads(elsewhere, t) == [w, w]


def test_tasks_share_too():
    async def call():
        await asyncio.sleep(0)
        return t()

    async def run():
        with vs.variable_scope("a"):
            return await asyncio.gather(*[call() for _ in range(5)])

    t = vs.make_template("t", create)
    assert set(names(asyncio.run(run()))) == {"a/t/w"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_forked_during_a_first_call_makes_its_own():
    def build():
        w = create()
        inside.set()
        release.wait(20)
        return w

    inside, release = threading.Event(), threading.Event()
    t = vs.make_template("t", build)
    graph = vs.get_default_graph()
    thread = threading.Thread(target=lambda: graph.as_default().__enter__() and t())
    thread.start()
    inside.wait(20)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            release.set()
            with vs.variable_scope("", reuse=vs.AUTO_REUSE):
                status = 0 if t().op_name == "t/w" else 2
        finally:
            os._exit(status)
    release.set()
    thread.join(20)
    assert os.waitpid(child, 0)[1] == 0
