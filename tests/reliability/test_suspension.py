"""Scopes in which something is suspended while others go on: generators, tasks, and their ends."""

import asyncio
import contextvars
import itertools
import re

import pytest

import varscope as vs
from varscope import errors


def here(graph):
    return vs.get_variable_scope().name, graph.get_name_scope()


# Two generators and two scopes


def suspended(name):
    with vs.variable_scope(name):
        yield


class Generator:
    """A generator that is suspended in a scope, and goes on, is closed or gets an exception."""

    def __init__(self, name, ending):
        self.name, self.ending = name, ending
        self.generator = suspended(name)

    def open(self):
        next(self.generator)

    def close(self):
        if self.ending == "goes on":
            assert next(self.generator, None) is None
        elif self.ending == "is closed":
            self.generator.close()
        else:
            with pytest.raises(KeyError):
                self.generator.throw(KeyError)


class Block:
    def __init__(self, name, ending):
        self.name, self.manager = name, vs.variable_scope(name)

    def open(self):
        self.manager.__enter__()

    def close(self):
        self.manager.__exit__(None, None, None)


def run_interleaving(graph, order, ending):
    """Open and close in this order, beside a list of what is open: its names and paths."""
    kinds = {"a": Generator, "b": Generator, "c": Block, "d": Block}
    parties = {name: kind(name, ending) for name, kind in kinds.items()}
    stack, opened = [("base", "base")], set()
    for name in order:
        if name not in opened:
            opened.add(name)
            parties[name].open()
            stack.append((name, f"{stack[-1][1]}/{name}"))
        else:
            (frame,) = (frame for frame in stack if frame[0] == name)
            top = stack[-1]
            stack.remove(frame)
            if frame == top:
                parties[name].close()
            else:
                with pytest.raises(errors.ScopeOrderError) as caught:
                    parties[name].close()
                named = re.findall(r"[\w/]+", str(caught.value))
                assert {frame[1], top[1]} <= set(named)
        assert here(graph) == (stack[-1][1], stack[-1][1])
        with vs.variable_scope("usable"):
            assert vs.get_variable_scope().name == stack[-1][1] + "/usable"


@pytest.mark.promise("generators")
@pytest.mark.fails_without(
    "src/core/scopes.pxi",
    "        put_stack(stack, without(frame, above), stack.marks, stack.length)\n",
    "        pass\n",
)
@pytest.mark.parametrize(
    "ending",
    [
        "goes on",
        pytest.param("is closed", marks=pytest.mark.slow),
        pytest.param("gets an exception", marks=pytest.mark.slow),
    ],
)
def test_every_interleaving_of_two_generators_and_two_blocks(ending, tally):
    orders = set(itertools.permutations("aabbccdd"))
    for order in orders:
        with vs.Graph().as_default() as graph, vs.variable_scope("base"):
            # In a context of its own: what goes wrong in one is not seen by the next.
            contextvars.copy_context().run(run_interleaving, graph, order, ending)
            assert here(graph) == ("base", "base")
    assert len(orders) == 2520
    tally("interleavings", len(orders))


# Cancellation


async def climb(graph, pauses, left):
    """Three scopes with pauses before, in and behind each; notes where each was left to."""
    try:
        await pauses()
        with vs.variable_scope("one", reuse=vs.AUTO_REUSE):
            await pauses()
            try:
                with vs.name_scope("op"), vs.variable_scope(None, "two"):
                    await pauses()
                    try:
                        with vs.variable_scope("three"):
                            await pauses()
                            vs.get_variable("v", [1])
                        await pauses()
                    finally:
                        left.append(here(graph)[0])
                await pauses()
            finally:
                left.append(here(graph)[0])
        await pauses()
    finally:
        left.append(here(graph)[0])


PAUSES = 7


async def cancelled_by_a_call(graph, coroutine, reached):
    task = asyncio.create_task(coroutine)
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancelled_by_a_timeout(graph, coroutine, reached):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as timeout:
            expiring = asyncio.create_task(expire(timeout, reached))
            await coroutine
    await expiring


async def expire(timeout, reached):
    await reached.wait()
    timeout.reschedule(asyncio.get_running_loop().time())


async def cancelled_by_a_sibling(graph, coroutine, reached):
    async def fail():
        await reached.wait()
        with vs.variable_scope("failing"):
            raise LookupError

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(coroutine)
            group.create_task(fail())
    assert caught.group_contains(LookupError)


@pytest.mark.promise("cancellation")
@pytest.mark.fails_without(
    "src/core/scopes.pxi",
    """        if self.switch is None:
            leave(self)
            return
""",
    """        if self.switch is None:
            if exception_type is None or issubclass(exception_type, Exception):
                leave(self)
            return
""",
)
@pytest.mark.parametrize(
    "cancel", [cancelled_by_a_call, cancelled_by_a_timeout, cancelled_by_a_sibling]
)
@pytest.mark.parametrize("at", range(PAUSES))
def test_a_cancellation_at_any_await_leaves_all_scopes(cancel, at, tally):
    async def parent(graph):
        reached, count, left = asyncio.Event(), itertools.count(), []

        async def pauses():
            if next(count) == at:
                reached.set()
                await asyncio.Event().wait()  # for ever
            await asyncio.sleep(0)

        with vs.variable_scope("base"):
            await cancel(graph, climb(graph, pauses, left), reached)
            assert here(graph) == ("base", "base")
        return left

    with vs.Graph().as_default() as graph:
        left = asyncio.run(parent(graph))
        assert here(graph) == ("", "")
    entered = (1, 1, 2, 3, 3, 3, 3)[at]  # blocks that note where they were left to
    assert left == ["base/one/two", "base/one", "base"][-entered:]
    tally("cancellations")


# Async generators


@pytest.mark.promise("cancellation")
@pytest.mark.parametrize("deep", [1, 2])
@pytest.mark.parametrize("closer", ["opener", "other", "loop"])
def test_an_async_generator_that_is_closed_anywhere_leaves_every_stack_usable(
    closer, deep, monkeypatch
):
    """By the task that opened it, by another one, or by the loop when it ends."""
    reported = []

    async def scopes():
        with vs.variable_scope("outer"):
            yield
            with vs.variable_scope("inner"):
                yield

    async def opener(generator, opened, closed):
        for _ in range(deep):
            await anext(generator)
        opened.set()
        if closer == "opener":
            await generator.aclose()
            assert here(graph) == ("base", "base")
        elif closer == "other":
            await closed.wait()
            # It is this task's stack that the scopes stay in, which goes with the task.
            assert here(graph)[0] == "base/outer/inner"[: 10 if deep == 1 else None]
        with vs.variable_scope("usable"):
            assert here(graph)[0].endswith("/usable")

    async def other(generator, opened, closed):
        await opened.wait()
        with vs.variable_scope("own"):
            if closer == "other":
                with pytest.raises(errors.ScopeOrderError) as caught:
                    await generator.aclose()
                assert "base/own" in str(caught.value)
            assert here(graph) == ("base/own", "base/own")
            with vs.variable_scope("usable"):
                assert here(graph)[0] == "base/own/usable"
        closed.set()

    async def parent():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        generator, opened, closed = scopes(), asyncio.Event(), asyncio.Event()
        with vs.variable_scope("base"):
            await asyncio.gather(
                opener(generator, opened, closed), other(generator, opened, closed)
            )
            assert here(graph) == ("base", "base")
        kept.append(generator)  # so that the loop finds it

    kept = []
    with vs.Graph().as_default() as graph:
        asyncio.run(parent())
        assert here(graph) == ("", "")
        with vs.variable_scope("usable"):
            assert vs.get_variable("v", [1]).op_name == "usable/v"
    assert [type(error) for error in reported] == [errors.ScopeOrderError] * (closer == "loop")
