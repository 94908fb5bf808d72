"""Who sees which scope: threads, asyncio tasks, contexts, generators, graphs, and ways to leave."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import itertools
import random
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from scope_model import Model

import varscope as vs
from varscope import errors

THREADS = 8
LEAVING = [
    Exception,
    ValueError,
    StopIteration,
    StopAsyncIteration,
    GeneratorExit,
    KeyboardInterrupt,
    SystemExit,
    MemoryError,
    RecursionError,
    asyncio.CancelledError,
    BaseException,
]


@pytest.fixture
def graph():
    graph = vs.Graph(seed=1)
    with graph.as_default():
        yield graph
        assert here(graph) == ROOT


ROOT = ("", False, "")


def here(graph):
    scope = vs.get_variable_scope()
    return scope.name, scope.reuse, graph.get_name_scope()


def default_name(base="layer"):
    with vs.variable_scope(None, base) as scope:
        return scope.name


def in_threads(function, arguments):
    """Call `function` once an argument, each call in a thread of its own, all of them at once."""
    barrier = threading.Barrier(len(arguments))

    def call(argument):
        barrier.wait(timeout=30)
        return function(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(call, arguments))


def in_thread(function):
    return in_threads(lambda _: function(), [None])[0]


# Threads


@pytest.mark.promise("threads")
def test_a_new_thread_starts_at_the_root_without_marks(graph):
    def elsewhere():
        with graph.as_default():
            return here(graph), default_name(), default_name()

    with vs.variable_scope("a", reuse=True):
        default_name()
        inside = in_thread(elsewhere)
        assert here(graph) == ("a", True, "a")
    default_name()
    assert inside == in_thread(elsewhere) == (ROOT, "layer", "layer_1")


@pytest.mark.promise("threads")
def test_a_new_thread_is_at_the_root_of_its_default_graph_whatever_that_is(graph):
    with vs.variable_scope("a", reuse=True):
        scope = in_thread(vs.get_variable_scope)
    assert (scope.name, scope.reuse) == ("", False)


@pytest.mark.promise("threads")
def test_what_a_thread_does_is_not_seen_outside(graph):
    def elsewhere():
        graph.as_default().__enter__()
        vs.get_variable_scope().reuse_variables()
        default_name()
        vs.variable_scope("never_left").__enter__()
        vs.name_scope("never_left_either").__enter__()

    with vs.variable_scope("a"):
        in_thread(elsewhere)
        assert here(graph) == ("a", False, "a")
    assert here(graph) == ROOT
    assert default_name() == "layer"


@pytest.mark.promise("threads")
def test_threads_that_follow_each_other_inherit_nothing(graph):
    def leave_things_behind():
        graph.as_default().__enter__()
        found = here(graph), default_name()
        vs.get_variable_scope().reuse_variables()
        vs.variable_scope("never_left").__enter__()
        return found

    assert {in_thread(leave_things_behind) for _ in range(100)} == {(ROOT, "layer")}


@pytest.mark.promise("threads")
def test_threads_in_nested_scopes_do_not_disturb_each_other(graph, hasty_switching):
    def build(number):
        with graph.as_default():
            for _ in range(200):
                with vs.variable_scope(f"t{number}") as outer:
                    with vs.variable_scope("x", reuse=True):
                        assert here(graph)[:2] == (f"t{number}/x", True)
                        with vs.variable_scope(outer):
                            assert here(graph)[:2] == (f"t{number}", False)
                    assert here(graph)[:2] == (f"t{number}", False)
            return here(graph)

    assert in_threads(build, range(THREADS)) == [ROOT] * THREADS


@pytest.mark.promise("threads")
def test_threads_that_build_the_same_tower_get_the_same_names(graph, hasty_switching):
    def build(_):
        with graph.as_default(), vs.variable_scope("tower", reuse=vs.AUTO_REUSE):
            variables = []
            for _ in range(30):
                with vs.variable_scope(None, "layer"), vs.variable_scope(None, "part"):
                    variables.append(vs.get_variable("w", [2]))
            return variables

    first, *others = in_threads(build, range(THREADS))
    keys = ["tower/layer/part/w"] + [f"tower/layer_{n}/part/w" for n in range(1, 30)]
    assert [variable.op_name for variable in first] == keys
    for variables in others:
        assert all(a is b for a, b in zip(first, variables, strict=True))


@pytest.mark.promise("threads")
def test_one_thread_creates_and_the_others_are_told_that_it_exists(graph, hasty_switching):
    def create(shift):
        created = []
        with graph.as_default(), vs.variable_scope("s"):
            for name in names[shift:] + names[:shift]:
                try:
                    created.append(vs.get_variable(name, [2]).op_name)
                except errors.VariableExistsError as error:
                    assert "already exists" in str(error)
        return created

    names = [f"v{number}" for number in range(1000)]
    # All threads start within a few names of each other, so that they meet again and again.
    created = list(itertools.chain(*in_threads(create, range(THREADS))))
    assert sorted(created) == sorted(f"s/{name}" for name in names)
    assert sorted(variable.op_name for variable in graph.variables) == sorted(created)
    for key in (vs.GraphKeys.GLOBAL_VARIABLES, vs.GraphKeys.TRAINABLE_VARIABLES):
        collected = [variable.op_name for variable in graph.get_collection(key)]
        assert sorted(collected) == sorted(created)


@pytest.mark.promise("threads")
def test_each_name_in_each_round_has_one_creator(graph, hasty_switching):
    def create(_):
        created = 0
        with graph.as_default():
            for number in range(1000):
                start.wait(timeout=30)
                with contextlib.suppress(errors.VariableExistsError):
                    vs.get_variable(f"v{number}", [2])
                    created += 1
        return created

    start = threading.Barrier(THREADS)
    assert sum(in_threads(create, range(THREADS))) == len(graph) == 1000


@pytest.mark.promise("threads")
def test_threads_under_auto_reuse_get_the_same_object(graph, hasty_switching):
    def get_all(_):
        with graph.as_default(), vs.variable_scope("s", reuse=vs.AUTO_REUSE):
            return [vs.get_variable(f"v{number}", [2]) for number in range(1000)]

    first, *others = in_threads(get_all, range(THREADS))
    for variables in others:
        assert all(a is b for a, b in zip(first, variables, strict=True))
    assert len(graph) == len(graph.get_collection(vs.GraphKeys.TRAINABLE_VARIABLES)) == 1000


@pytest.mark.promise("threads")
def test_no_name_is_handed_out_twice(graph, hasty_switching):
    def take(number):
        taken = []
        with graph.as_default():
            for round_ in range(200):
                taken.append(graph.unique_name("op"))
                with vs.name_scope("op") as opened:
                    taken.append(opened.removesuffix("/"))
                with contextlib.suppress(errors.VariableExistsError):
                    taken.append(vs.get_variable(f"op_{round_ * THREADS + number}", [1]).op_name)
                    taken.append(vs.get_variable(f"shared_{round_}", [1]).op_name)
                taken.append(graph.unique_name(f"shared_{round_}"))
        return taken

    taken = list(itertools.chain(*in_threads(take, range(THREADS))))
    assert len(set(taken)) == len(taken)


@pytest.mark.promise("threads")
def test_unique_names_from_many_threads_leave_no_gap(graph, hasty_switching):
    def take(_):
        return [graph.unique_name("op") for _ in range(500)]

    taken = set(itertools.chain(*in_threads(take, range(THREADS))))
    assert taken == {"op"} | {f"op_{number}" for number in range(1, 500 * THREADS)}


@pytest.mark.promise("threads")
def test_reuse_at_the_root_stays_in_its_thread_and_is_not_seen_by_others():
    graph = vs.Graph()

    def reuse_here():
        with graph.as_default():
            before = here(graph)
            vs.get_variable_scope().reuse_variables()
        with graph.as_default(), pytest.raises(errors.VariableMissingError):
            vs.get_variable("missing", [1])
        return before

    assert in_thread(reuse_here) == ROOT
    with graph.as_default():
        created = vs.get_variable("v", [1])
        vs.get_variable_scope().reuse_variables()
        assert vs.get_variable("v", [1]) is created
    assert in_thread(reuse_here) == ROOT
    with graph.as_default():
        assert here(graph) == ("", True, "")
        with vs.variable_scope("a"):
            assert here(graph) == ("a", True, "a")


@pytest.mark.promise("threads")
def test_two_threads_share_a_context_manager(graph, hasty_switching):
    def build(number):
        with graph.as_default(), vs.variable_scope(f"t{number}"):
            for _ in range(500):
                with shared, vs.variable_scope("x"):
                    assert here(graph)[0] == f"t{number}/shared/x"
                assert here(graph)[0] == f"t{number}"

    shared = vs.variable_scope("shared")
    in_threads(build, range(THREADS))


# Tasks


@pytest.mark.promise("tasks")
@pytest.mark.fails_without(
    "src/core/stack.pxi",
    """    if (Py_REFCNT(stack.variables) != 1 or recent_stack is not stack
            or Py_REFCNT(<PyObject *>stack) != 3):
""",
    "    if False:\n",
)
def test_a_task_starts_where_it_was_created_also_when_its_creator_has_left(graph):
    async def child():
        found = here(graph)
        vs.get_variable("v", [1])
        return found, default_name(), default_name()

    async def parent():
        with vs.variable_scope("a", reuse=vs.AUTO_REUSE), vs.name_scope("op"):
            default_name()
            task = asyncio.create_task(child())
            default_name()
            default_name()
        with vs.variable_scope("b"):
            assert await task == (("a", vs.AUTO_REUSE, "a/op"), "a/layer_1", "a/layer_2")
            assert here(graph) == ("b", False, "b")
        with vs.variable_scope("a"):
            return default_name()

    assert asyncio.run(parent()) == "a/layer"
    assert [variable.op_name for variable in graph.variables] == ["a/v"]


@pytest.mark.promise("tasks")
def test_a_task_and_its_creator_do_not_see_what_the_other_changes(graph):
    async def child(turns):
        await turns["child"].wait()
        found = [here(graph)[:2], default_name("parents")]
        vs.get_variable_scope().reuse_variables()
        default_name("childs")
        with vs.variable_scope("deeper"):
            turns["parent"].set()
            turns["child"].clear()
            await turns["child"].wait()
            found.append(here(graph)[:2])
        return [*found, here(graph)[:2], default_name("childs")]

    async def parent():
        turns = {"parent": asyncio.Event(), "child": asyncio.Event()}
        with vs.variable_scope("a") as scope:
            task = asyncio.create_task(child(turns))
            default_name("parents")
            turns["child"].set()
            await turns["parent"].wait()
            assert here(graph) == ("a", False, "a")
            assert scope.reuse is False
            assert default_name("childs") == "a/childs"
            assert default_name("parents") == "a/parents_1"
            turns["child"].set()
        return await task

    expected = [("a", False), "a/parents", ("a/deeper", True), ("a", True), "a/childs_1"]
    assert asyncio.run(parent()) == expected


@pytest.mark.promise("tasks")
def test_reuse_switched_on_by_the_creator_is_seen_by_later_tasks_only(graph):
    async def child():
        found = here(graph)[:2]
        await proceed.wait()
        with vs.variable_scope("b") as inner:
            return found, here(graph)[:2], inner.reuse

    async def parent():
        with vs.variable_scope("a") as scope:
            running = asyncio.create_task(child())
            await asyncio.sleep(0)
            unstarted = asyncio.create_task(child())
            scope.reuse_variables()
            assert here(graph)[:2] == ("a", True)
            later = asyncio.create_task(child())
        proceed.set()
        return [await running, await unstarted, await later]

    proceed = asyncio.Event()
    early = ("a", False), ("a/b", False), False
    late = ("a", True), ("a/b", True), True
    assert asyncio.run(parent()) == [early, early, late]


@pytest.mark.promise("tasks")
def test_reuse_at_the_root_is_inherited_by_tasks_and_not_handed_back():
    graph = vs.Graph()

    async def child(switch):
        before = here(graph)[1]
        if switch:
            vs.get_variable_scope().reuse_variables()
        await asyncio.sleep(0)
        return before, here(graph)[1]

    async def parent():
        early = asyncio.create_task(child(False))
        switching = asyncio.create_task(child(True))
        await asyncio.sleep(0)
        assert here(graph) == ROOT
        vs.get_variable_scope().reuse_variables()
        late = asyncio.create_task(child(False))
        return await early, await switching, await late

    with graph.as_default():
        found = asyncio.run(parent())
        assert here(graph) == ROOT
    assert found == ((False, False), (False, True), (True, True))


def agree(graph, model):
    mode = "auto" if here(graph)[1] is vs.AUTO_REUSE else here(graph)[1]
    assert (here(graph)[0], mode) == (model.scope.name, model.scope.reuse)
    assert here(graph)[2] == model.open_name_scope
    names = [variable.name for variable in graph.variables]
    assert names == [variable.name for variable in model.variables.values()]


class Wanderer:
    """One task of many: opens, creates, awaits and starts others at random, beside the model."""

    started = 0

    def __init__(self, graph, group, model, seed, captured):
        self.graph, self.group, self.model = graph, group, model
        self.random = random.Random(seed)
        self.captured = list(captured)
        self.inherited = model.scope

    def start(self):
        Wanderer.started += 1
        model = self.model.as_seen_by_new_task()
        child = Wanderer(self.graph, self.group, model, self.random.random(), self.captured)
        self.group.create_task(child.wander(0))

    async def wander(self, depth):
        agree(self.graph, self.model)
        for _ in range(self.random.randrange(1, 7 - depth)):
            step = self.random.choice([self.opens, self.opens, self.pauses, self.acts, self.acts])
            await step(depth)
            agree(self.graph, self.model)

    async def pauses(self, depth):
        for _ in range(self.random.randrange(3)):
            await asyncio.sleep(0)

    async def acts(self, depth):
        action = self.random.choice(["get", "get", "unique", "reuse"])
        name = self.random.choice(["v", "a", "a/v"])
        if action == "unique":
            assert self.graph.unique_name(name) == self.model.unique_name(name)
        elif action == "reuse":
            # Whether a captured object notices what a task does to its own view of it is open.
            if self.model.scope is self.inherited:
                return
            vs.get_variable_scope().reuse_variables()
            self.model.scope.reuse = True
        else:
            found = []
            for get_variable in (vs.get_variable, self.model.get_variable):
                with contextlib.suppress(ValueError):
                    found.append(get_variable(name, [1]).name)
            assert len(found) == 0 or found[0] == found[1]

    async def opens(self, depth):
        kind = self.random.choice(["string", "default", "captured", "name scope"])
        name = self.random.choice(["a", "b", "a/b"])
        if kind == "string":
            opening = vs.variable_scope(name), self.model.variable_scope(name)
        elif kind == "default":
            opening = vs.variable_scope(None, name), self.model.variable_scope(None, name)
        elif kind == "captured":
            scope, modelled = self.random.choice(self.captured)
            opening = vs.variable_scope(scope), self.model.variable_scope(modelled)
        else:
            opening = vs.name_scope(name), self.model.name_scope(name)
        with opening[0] as scope, opening[1] as modelled:
            if kind != "name scope":
                self.captured.append((scope, modelled))
            await self.pauses(depth)
            if depth < 4:
                await self.wander(depth + 1)


@pytest.mark.promise("tasks")
@pytest.mark.parametrize("seed", range(8))
def test_fifty_tasks_do_what_the_model_says(seed, tally):
    graph, before = vs.Graph(), Wanderer.started

    async def start_all():
        async with asyncio.TaskGroup() as group:
            captured = [(vs.get_variable_scope(), model.scope)]
            first = Wanderer(graph, group, model, seed, captured)
            for number in range(50):
                name = f"t{number % 5}"
                with vs.variable_scope(name) as scope, model.variable_scope(name) as modelled:
                    first.captured.append((scope, modelled))
                    first.start()
                    if number % 7 == 0:
                        await asyncio.sleep(0)

    model = Model()
    with graph.as_default():
        asyncio.run(start_all())
        agree(graph, model)
    assert len(graph) > 20
    tally("tasks", Wanderer.started - before)


@pytest.mark.promise("threads")
@pytest.mark.promise("tasks")
@pytest.mark.fails_without(
    "src/core/stack.pxi",
    """            if stack.thread != thread.id:
                stack = PRISTINE""",
    """            if False:
                stack = PRISTINE""",
)
def test_a_foreign_thread_with_a_copied_context_is_at_the_root_without_marks(graph):
    def elsewhere():
        with graph.as_default():
            found = here(graph), default_name(), default_name()
            with vs.variable_scope("b"):
                return *found, here(graph)[:2]

    async def parent():
        with vs.variable_scope("a", reuse=True):
            default_name()
            found = await asyncio.to_thread(elsewhere)
            assert here(graph) == ("a", True, "a")
            assert default_name() == "a/layer_1"
        return found

    assert asyncio.run(parent()) == (ROOT, "layer", "layer_1", ("b", False))


@pytest.mark.promise("threads")
@pytest.mark.promise("tasks")
def test_a_context_of_a_finished_thread_is_at_the_root_in_the_next_one(graph):
    # The system may give the next thread the identifier of the finished one.
    def copy_inside():
        with graph.as_default(), vs.variable_scope("a"):
            return contextvars.copy_context()

    def look():
        with graph.as_default():
            return here(graph), default_name()

    for _ in range(20):
        context = in_thread(copy_inside)
        assert in_thread(lambda context=context: context.run(look)) == (ROOT, "layer")


@pytest.mark.promise("threads")
@pytest.mark.promise("tasks")
def test_a_context_carried_to_a_thread_is_at_the_root_there(graph):
    def elsewhere():
        with graph.as_default():
            return here(graph), default_name()

    with vs.variable_scope("a"):
        default_name()
        context = contextvars.copy_context()
        assert in_thread(lambda: context.run(elsewhere)) == (ROOT, "layer")
        assert here(graph) == ("a", False, "a")


@pytest.mark.promise("cancellation")
def test_cancellation_and_timeouts_leave_the_scope(graph):
    async def stay():
        with vs.variable_scope("inner"), vs.name_scope("op"):
            await asyncio.sleep(30)

    async def parent():
        with vs.variable_scope("a"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await stay()
            assert here(graph) == ("a", False, "a")
            task = asyncio.create_task(stay())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert here(graph) == ("a", False, "a")

    asyncio.run(parent())


@pytest.mark.promise("cancellation")
def test_a_failing_task_group_leaves_every_scope(graph):
    left = []

    async def stay(number):
        try:
            with vs.variable_scope(f"t{number}"):
                await asyncio.sleep(30)
        finally:
            left.append(here(graph))

    async def fail():
        with vs.variable_scope("failing"):
            await asyncio.sleep(0)
            raise LookupError("on purpose")

    async def parent():
        with vs.variable_scope("a"):
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    for number in range(3):
                        group.create_task(stay(number))
                    group.create_task(fail())
            assert caught.group_contains(LookupError)
            assert here(graph) == ("a", False, "a")

    asyncio.run(parent())
    assert left == [("a", False, "a")] * 3


@pytest.mark.promise("tasks")
def test_two_tasks_share_a_context_manager_and_leave_it_in_any_order(graph):
    async def use(name, other_entered, entered, leave):
        with vs.variable_scope(name):
            with shared:
                entered.set()
                await other_entered.wait()
                assert here(graph)[0] == f"{name}/shared"
                await leave.wait()
            return here(graph)[0]

    async def parent():
        events = [asyncio.Event() for _ in range(4)]
        first = asyncio.create_task(use("x", events[1], events[0], events[2]))
        second = asyncio.create_task(use("y", events[0], events[1], events[3]))
        events[2].set()
        assert await first == "x"
        events[3].set()
        assert await second == "y"

    shared = vs.variable_scope("shared")
    asyncio.run(parent())


# Contexts


@pytest.mark.promise("tasks")
def test_a_copied_context_starts_in_the_scope_with_its_marks_and_hands_nothing_back(graph):
    def inside():
        found = here(graph), default_name(), default_name()
        vs.get_variable_scope().reuse_variables()
        vs.variable_scope("never_left").__enter__()
        return found

    with vs.variable_scope("a"):
        default_name()
        context = contextvars.copy_context()
        assert context.run(inside) == (("a", False, "a"), "a/layer_1", "a/layer_2")
        assert here(graph) == ("a", False, "a")
        assert default_name() == "a/layer_1"
        assert context.run(lambda: here(graph)[:2]) == ("a/never_left", True)
    assert context.run(lambda: here(graph)[:2]) == ("a/never_left", True)


@pytest.mark.promise("tasks")
def test_a_scope_is_entered_and_left_in_separate_runs_of_one_context(graph):
    manager = vs.variable_scope("b")
    with vs.variable_scope("a"):
        context = contextvars.copy_context()
        context.run(manager.__enter__)
        assert here(graph)[0] == "a"
    with vs.variable_scope("c"):
        assert context.run(lambda: here(graph)[0]) == "a/b"
        context.run(manager.__exit__, None, None, None)
        assert context.run(lambda: here(graph)[0]) == "a"
        assert here(graph)[0] == "c"


@pytest.mark.promise("tasks")
def test_many_short_lived_contexts_do_not_get_mixed_up(graph):
    def visit(number):
        found = here(graph)[0]
        vs.variable_scope(f"v{number}").__enter__()
        return found, here(graph)[0]

    for number in range(500):
        with vs.variable_scope("a"):
            context = contextvars.copy_context()
            assert context.run(visit, number) == ("a", f"a/v{number}")
            assert here(graph)[0] == "a"
        assert contextvars.Context().run(lambda: vs.get_variable_scope().name) == ""
        assert here(graph) == ROOT


@pytest.mark.promise("tasks")
def test_other_context_variables_come_and_go_without_a_trace(graph):
    others = [contextvars.ContextVar(f"other{number}") for number in range(40)]
    first = others[0]
    for other in others:
        other.set("outside")
    with vs.variable_scope("a"):
        token = first.set("in a")
        with vs.variable_scope("b"):
            for other in others[1:]:
                other.set("in b")
            assert here(graph)[0] == "a/b"
            first.reset(token)
            assert here(graph)[0] == "a/b"
        assert here(graph)[0] == "a"
        assert [other.get() for other in others] == ["outside"] + ["in b"] * 39
    assert here(graph) == ROOT
    assert [other.get() for other in others] == ["outside"] + ["in b"] * 39


# Generators


def in_own_context(test):
    """Run the test in a copy of the context, so that a stack it leaves broken is nobody else's."""

    @functools.wraps(test)
    def run(**arguments):
        contextvars.copy_context().run(test, **arguments)

    return run


def two_scopes(name):
    with vs.variable_scope(f"{name}1"):
        yield
        with vs.variable_scope(f"{name}2"):
            yield
        yield


def names_all(text, paths):
    return set(paths) <= set(re.findall(r"[\w/]+", text))


class Interleaving:
    """What two generators of `two_scopes` do to the stack, when each closes only what is its own.

    A scope that is not on top cannot be closed: that is an error, and the scope is dropped from
    the stack where it is. An error ends the generator, which closes what else it has open.
    """

    def __init__(self):
        self.stack = [("base", "")]
        self.open = {"a": [], "b": []}
        self.steps = {"a": 0, "b": 0}

    def advance(self, name):
        """Return the pairs of paths, closed and on top, of the errors that this step raises."""
        step = self.steps[name]
        self.steps[name] += 1
        if step < 2:
            frame = f"{self.stack[-1][0]}/{name}{step + 1}", name
            self.stack.append(frame)
            self.open[name].append(frame)
            return []
        conflicts = self.close(name)
        while conflicts and self.open[name]:
            conflicts += self.close(name)
        return conflicts

    def close(self, name):
        frame = self.open[name].pop()
        top = self.stack[-1]
        self.stack.remove(frame)
        return [] if frame == top else [(frame[0], top[0])]


def chain_of(error):
    while error is not None:
        yield error
        error = error.__context__


@pytest.mark.promise("generators")
@pytest.mark.parametrize("order", sorted(set(itertools.permutations("aaaabbbb"))), ids="".join)
@in_own_context
def test_every_interleaving_of_two_generators_and_two_scopes(graph, order):
    expected = Interleaving()
    with vs.variable_scope("base"):
        generators = {"a": two_scopes("a"), "b": two_scopes("b")}
        dead = set()
        for name in order:
            if name in dead:
                continue
            conflicts = expected.advance(name)
            raised = None
            try:
                next(generators[name], None)
            except errors.ScopeOrderError as error:
                raised = error
                dead.add(name)
            texts = [str(error) for error in chain_of(raised)]
            assert len(texts) == len(conflicts)
            for text, conflict in zip(reversed(texts), conflicts, strict=True):
                assert names_all(text, conflict)
            assert here(graph)[0] == expected.stack[-1][0]
        with vs.variable_scope("usable"):
            assert here(graph)[0] == "base/usable"
        assert here(graph)[0] == "base"


def suspended(name):
    with vs.variable_scope(name) as scope:
        yield scope


@pytest.mark.promise("generators")
@in_own_context
def test_a_generator_that_is_closed_out_of_order_is_a_runtime_error_that_names_both(graph):
    first, second = suspended("first"), suspended("second")
    next(first)
    next(second)
    with pytest.raises(RuntimeError) as caught:
        first.close()
    assert isinstance(caught.value, errors.ScopeOrderError)
    assert names_all(str(caught.value), ["first", "first/second"])
    assert here(graph)[0] == "first/second"
    second.close()
    assert here(graph) == ROOT


@pytest.mark.promise("generators")
@in_own_context
def test_a_scope_that_outlives_the_one_around_it_is_named_when_that_one_is_left(graph):
    with vs.variable_scope("base"):
        with pytest.raises(errors.ScopeOrderError) as caught, vs.variable_scope("outer"):
            generator = suspended("inner")
            next(generator)
        assert names_all(str(caught.value), ["base/outer", "base/outer/inner"])
        generator.close()
        assert here(graph)[0] == "base"


@pytest.mark.promise("generators")
@in_own_context
def test_a_generator_collected_out_of_order_is_reported_and_leaves_the_stack(graph, monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append(report.exc_value))
    generator = suspended("first")
    next(generator)
    with vs.variable_scope("second"):
        del generator
        gc.collect()
        assert here(graph)[0] == "first/second"
    assert [type(error) for error in reported] == [errors.ScopeOrderError]
    assert here(graph) == ROOT


COLLECTIONS = """
import gc, sys
import varscope as vs

def suspended(kept, manager):
    with manager:
        yield kept

def drop_a_suspended_generator_in_a_cycle(manager):
    generator = suspended([], manager)
    next(generator).append(generator)

def scopes():
    with vs.variable_scope("a") as a, vs.variable_scope(None, "b") as b:
        assert b.name == a.name + "/b"

def settings():
    with vs.variable_scope("a") as a:
        a.reuse_variables()
        assert vs.get_variable_scope().reuse is True

def names():
    with vs.name_scope("a") as a, vs.name_scope("b") as b:
        assert b.startswith(a)

def variables():
    with vs.variable_scope("a", reuse=vs.AUTO_REUSE):
        vs.get_variable("v", [1])

def graphs():
    with vs.Graph().as_default(), vs.variable_scope("a") as a:
        assert a.name == "a"

act, threshold = globals()[sys.argv[1]], int(sys.argv[2])
reported = []
sys.unraisablehook = lambda report: reported.append(report.exc_type.__name__)
graph = vs.Graph()
with graph.as_default():
    root = vs.get_variable_scope()
    gc.set_threshold(threshold)
    for _ in range(500):
        drop_a_suspended_generator_in_a_cycle(vs.variable_scope("suspended"))
        drop_a_suspended_generator_in_a_cycle(vs.name_scope("suspended"))
        with vs.variable_scope(root):
            act()
    gc.collect()
    assert (vs.get_variable_scope().name, graph.get_name_scope()) == ("", "")
assert set(reported) <= {"ScopeOrderError"}
"""


@pytest.mark.promise("generators")
@pytest.mark.parametrize("act", ["scopes", "settings", "names", "variables", "graphs"])
@pytest.mark.parametrize("threshold", ["1", "10"])
def test_generators_collected_at_any_moment_do_no_harm(act, threshold):
    # In a process of its own: where setting a context variable is interrupted by the collector,
    # which closes a scope, which sets that variable, the interpreter itself may crash.
    command = [sys.executable, "-c", COLLECTIONS, act, threshold]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.promise("generators")
@pytest.mark.parametrize("more", range(4))
def test_a_generator_collected_while_an_op_name_is_looked_up_leaves_its_scope(
    graph, monkeypatch, more
):
    monkeypatch.setattr(sys, "unraisablehook", lambda report: None)
    threshold = gc.get_threshold()
    vs.get_variable("layer", [1])
    with vs.variable_scope("model"):
        pass
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(errors.ScopeOrderError), vs.variable_scope("model"):
            cycle = [suspended("inner")]
            next(cycle[0])
            cycle.append(cycle)
            del cycle
            manager = vs.variable_scope("layer")
            kept = [[] for _ in range(300)]  # none lies ready: to make one may start a collection
            gc.set_threshold(gc.get_count()[0] + more)
            gc.enable()
            manager.__enter__()  # asks whether model_1/layer is a variable
            gc.disable()
            manager.__exit__(None, None, None)
            assert len(kept) == 300
    finally:
        gc.set_threshold(*threshold)
        gc.enable()
    gc.collect()
    assert here(graph) == ROOT


@pytest.mark.promise("generators")
@in_own_context
def test_a_scope_that_is_closed_inside_another_graph_is_an_error_and_stays_closed(graph):
    first, second = suspended("first"), suspended("second")
    next(first)
    next(second)
    with vs.Graph().as_default() as other, vs.variable_scope("a"):
        with pytest.raises(errors.ScopeOrderError) as caught:
            second.close()
        assert names_all(str(caught.value), ["first/second", "a"])
        assert here(other) == ("a", False, "a")
    assert here(graph)[0] == "first"
    first.close()
    assert here(graph) == ROOT


@pytest.mark.promise("generators")
@in_own_context
def test_a_scope_that_is_closed_by_forgetting_a_context_stays_closed(graph):
    keeper = contextvars.ContextVar("keeper")

    def keep(cell):
        keeper.set(cell)
        return here(graph)[0]

    cell = [suspended("first")]
    next(cell[0])
    context = contextvars.copy_context()
    assert context.run(keep, cell) == "first"
    # The last reference to the generator is now one of the context; whoever drops that closes it.
    del context, cell
    with vs.variable_scope("second"):
        gc.collect()
    assert here(graph) == ROOT
    assert contextvars.copy_context().run(here, graph) == ROOT


@pytest.mark.promise("generators")
@in_own_context
def test_a_scope_of_another_graph_that_is_closed_out_of_order_gives_the_graph_back(graph):
    other = vs.Graph()
    with other.as_default():
        variable = vs.get_variable("v", [1])

    manager = vs.variable_scope("outer", values=[variable])
    manager.__enter__()
    generator = suspended("inner")
    next(generator)
    with pytest.raises(errors.ScopeOrderError):
        manager.__exit__(None, None, None)
    assert vs.get_default_graph() is graph
    with contextlib.suppress(errors.ScopeOrderError):
        generator.close()
    assert vs.get_default_graph() is graph
    assert here(graph) == ROOT


@pytest.mark.promise("generators")
@in_own_context
def test_name_scopes_that_are_closed_out_of_order_name_both(graph):
    def suspended_name_scope(name):
        with vs.name_scope(name):
            yield

    first, second = suspended_name_scope("first"), suspended_name_scope("second")
    next(first)
    next(second)
    with pytest.raises(errors.ScopeOrderError) as caught:
        first.close()
    assert names_all(str(caught.value), ["first", "first/second"])
    second.close()
    assert here(graph) == ROOT


@pytest.mark.promise("cancellation")
def test_an_async_generator_closed_by_another_task_leaves_both_stacks_intact(graph):
    async def suspended_in_a():
        with vs.variable_scope("a"):
            yield

    async def opener(generator, opened, closed):
        with contextlib.suppress(errors.ScopeOrderError), vs.variable_scope("opener"):
            await anext(generator)
            opened.set()
            await closed.wait()
            assert here(graph)[:2] == ("opener/a", False)
            with vs.variable_scope("b"):
                assert here(graph)[:2] == ("opener/a/b", False)
            assert here(graph)[:2] == ("opener/a", False)

    async def closer(generator, opened, closed):
        await opened.wait()
        with vs.variable_scope("closer"), vs.variable_scope("a"):
            with pytest.raises(errors.ScopeOrderError) as caught:
                await generator.aclose()
            assert names_all(str(caught.value), ["a", "closer/a"])
            assert here(graph)[:2] == ("closer/a", False)
        assert here(graph) == ROOT
        closed.set()

    async def parent():
        generator, opened, closed = suspended_in_a(), asyncio.Event(), asyncio.Event()
        await asyncio.gather(opener(generator, opened, closed), closer(generator, opened, closed))

    asyncio.run(parent())


# Leaving


@pytest.mark.promise("leaving")
@pytest.mark.parametrize("kind", LEAVING)
def test_every_exception_leaves_each_level_as_it_was(graph, kind):
    seen = []

    def nest(*openings):
        if not openings:
            raise error
        before = here(graph)
        try:
            with openings[0]:
                nest(*openings[1:])
        finally:
            seen.append(here(graph) == before)

    error = kind("on the way out")
    with vs.variable_scope("captured", reuse=True) as scope:
        pass
    with pytest.raises(kind) as caught:
        nest(
            vs.variable_scope("a"),
            vs.name_scope("op"),
            vs.variable_scope(None, "layer"),
            vs.variable_scope(scope),
            vs.variable_scope("b/c", reuse=vs.AUTO_REUSE, auxiliary_name_scope=False),
            vs.name_scope(None),
            vs.variable_scope(""),
        )
    assert caught.value is error
    assert seen == [True] * 7


@pytest.mark.promise("leaving")
@in_own_context
def test_running_out_of_stack_leaves_all_scopes(graph):
    def dive():
        with vs.variable_scope("d"):
            dive()

    def outcome():
        # Only the kind of the error: the chain of them would be a thousand levels long.
        try:
            dive()
        except Exception as error:
            return type(error), here(graph)

    with vs.variable_scope("a"):
        for _ in range(3):
            assert outcome() == (RecursionError, ("a", False, "a"))


@pytest.mark.promise("leaving")
def test_an_exit_stack_closes_scopes_in_order(graph):
    with contextlib.ExitStack() as stack:
        for number in range(100):
            stack.enter_context(vs.variable_scope(f"s{number}"))
        assert here(graph)[0].count("/") == 99
    assert here(graph) == ROOT


# Graphs


def test_each_graph_has_its_own_current_scope_and_name_scope(graph):
    other = vs.Graph()
    with vs.variable_scope("a", reuse=True), vs.name_scope("op"):
        with other.as_default():
            assert here(other) == ROOT
            assert graph.get_name_scope() == "a/op"
            with vs.variable_scope("b"):
                assert here(other) == ("b", False, "b")
                with graph.as_default():
                    assert here(graph) == ("a", True, "a/op")
                    with vs.variable_scope("c"):
                        assert here(graph) == ("a/c", True, "a/op/c")
                assert here(other) == ("b", False, "b")
            assert here(other) == ROOT
        assert here(graph) == ("a", True, "a/op")


def test_each_graph_has_its_own_marks(graph):
    other = vs.Graph()
    with vs.variable_scope("a"):
        assert default_name() == "a/layer"
        with other.as_default():
            assert [default_name(), default_name()] == ["layer", "layer_1"]
            with vs.variable_scope("a"):
                assert default_name() == "a/layer"
        assert default_name() == "a/layer_1"


def test_values_of_another_graph_switch_to_its_scope_and_back(graph):
    other = vs.Graph()
    with other.as_default():
        variable = vs.get_variable("v", [1])
    with vs.variable_scope("a"):
        with vs.variable_scope("b", values=[variable]):
            assert vs.get_default_graph() is other
            assert here(other) == ("b", False, "b")
            assert vs.get_variable("w", [1]).graph is other
        assert vs.get_default_graph() is graph
        assert here(graph) == ("a", False, "a")


def test_an_exception_out_of_another_graph_brings_the_old_scope_back(graph):
    other = vs.Graph()
    with vs.variable_scope("a"):
        with pytest.raises(KeyboardInterrupt), other.as_default(), vs.variable_scope("b"):
            raise KeyboardInterrupt
        assert vs.get_default_graph() is graph
        assert here(graph) == ("a", False, "a")
    with other.as_default():
        assert here(other) == ROOT


def test_reuse_at_the_root_of_one_graph_is_not_that_of_another(graph):
    other = vs.Graph()
    with other.as_default():
        vs.get_variable_scope().reuse_variables()
        with graph.as_default():
            assert here(graph) == ROOT
        assert here(other) == ("", True, "")


def test_a_task_keeps_the_scopes_of_every_graph_that_were_open_when_it_was_created(graph):
    other = vs.Graph()

    async def child():
        found = [here(graph)[0]]
        with other.as_default():
            found.append(here(other)[0])
        return [*found, here(graph)[0]]

    async def parent():
        with other.as_default():
            with vs.variable_scope("b"), graph.as_default(), vs.variable_scope("a"):
                task = asyncio.create_task(child())
            with vs.variable_scope("c"):
                return await task

    assert asyncio.run(parent()) == ["a", "b", "a"]
