"""Whatever a function of the user raises, and wherever: nothing has changed.

One program calls every kind of function that users may give to the library. It is run once to
count the calls, then again for each of them, which raises. The step that called it has to leave
the graph as it was and is repeated; at the end all has to be as in a run in which nothing failed.
"""

import functools

import numpy as np
import pytest
from snapshots import snap

import varscope as vs
from varscope import errors

pytestmark = pytest.mark.promise("hooks")

EXCEPTIONS = [ValueError, KeyboardInterrupt, SystemExit, RecursionError, MemoryError]
DEVICE = "a-device-that-may-fail"


class Faults:
    """Notes in which step each hook is called, and raises in one of the calls."""

    def __init__(self, hook=None, call=None, error=None):
        self.chosen, self.error = (hook, call), error
        self.calls = {hook: [] for hook in HOOKS}
        self.step, self.raised = None, False

    def __call__(self, hook):
        if self.step is None or self.raised:
            return
        call = hook, len(self.calls[hook])
        self.calls[hook].append(self.step)
        if call == self.chosen:
            self.raised = True
            raise self.error


class Program:
    """Its steps, each of which may fail; what they make is kept in the graph or in `self`."""

    def __init__(self, faults, shards, initializer_takes_parts):
        self.faults, self.shards = faults, shards
        self.takes_parts = initializer_takes_parts
        self.graph, self.outside = vs.Graph(seed=7), vs.Graph()

    # --- what the user gives

    def getter(self, place):
        def getter(getter, name, *args, **kwargs):
            self.faults(f"{place} getter, before")
            getter(f"{name}/beside_{place}", [2])
            made = getter(name, *args, **kwargs)
            self.faults(f"{place} getter, after")
            return made

        return getter

    def partitioner(self, shape, dtype):
        self.faults("partitioner")
        return [self.shards]

    def initializer(self):
        def whole(shape, dtype):
            self.faults("initializer")
            return np.arange(np.prod(shape), dtype=dtype)

        def part(shape, dtype, partition_info):
            self.faults("initializer")
            return np.arange(shape[0], dtype=dtype) + partition_info.var_offset[0]

        return part if self.takes_parts else whole

    def initializer_class(self):
        faults = self.faults

        class Initializer:
            def __init__(self):
                faults("initializer's constructor")

            def __call__(self, shape, dtype):
                return np.ones(shape, dtype)

        return Initializer

    def regularizer(self, values):
        self.faults("regularizer")
        return values.sum()

    def constraint(self, values):
        self.faults("constraint")
        return values / 2

    def caching_device(self, variable):
        self.faults("caching-device function")
        return DEVICE

    def put(self, array):
        self.faults("device")
        return array.tolist()

    def object(self, hook, **methods):
        """Something that is asked by these methods, or read by these attributes, and may fail."""

        def ask(answer):
            def asked(*_, **__):
                self.faults(hook)
                return answer() if callable(answer) else answer

            return asked

        made = {
            name: ask(answer) if name.startswith("__") else property(ask(answer))
            for name, answer in methods.items()
        }
        return type(hook, (), made)()

    # --- the steps

    def steps(self):
        yield self.create_without_getters
        for shard in self.parts_of(self.bare):
            yield shard.numpy
        yield self.make_scope
        yield self.enter
        yield self.create
        yield self.create_by_class
        yield self.create_of_array
        for shard in self.parts_of(self.made):
            yield shard.numpy
            yield shard.value
            yield shard.project
            yield functools.partial(shard.assign, np.full(shard.shape, 6), apply_constraint=True)
            yield shard.value
        yield vs.initialize  # what a penalty reads would get its values otherwise
        yield self.penalise
        yield self.made.project
        yield lambda: self.scope_manager.__exit__(None, None, None)

    def make_scope(self):
        self.scope_manager = vs.variable_scope(
            "a",
            values=[self.object("graph of values", graph=lambda: self.graph)],
            dtype=self.object("dtype of a scope", dtype=np.dtype("float32")),
            custom_getter=self.getter("outer"),
            regularizer=self.regularizer,
            auxiliary_name_scope=self.object("truth", __bool__=True),
        )

    def enter(self):
        self.scope_manager.__enter__()

    def create_without_getters(self):
        self.bare = self.created("bare", None)

    def create(self):
        self.made = self.created("v", self.getter("inner"))

    def created(self, name, getter):
        return vs.get_variable(
            name,
            self.object("shape", __iter__=lambda: iter([self.object("size", __index__=5)])),
            self.object("dtype", dtype=np.dtype("float64")),
            self.initializer(),
            trainable=self.object("truth", __bool__=True),
            collections=self.object(
                "collections", __iter__=lambda: iter([self.object("key", __hash__=11), "mine"])
            ),
            caching_device=self.caching_device,
            partitioner=self.partitioner if self.shards > 1 else None,
            validate_shape=self.object("truth", __bool__=True),
            custom_getter=getter,
            constraint=self.constraint,
        )

    def create_by_class(self):
        vs.get_variable("by_class", [2], initializer=self.initializer_class())

    def create_of_array(self):
        vs.get_variable("of_array", initializer=self.object("array", __array__=np.ones(3)))

    def parts_of(self, variable):
        return list(variable) if self.shards > 1 else [variable]

    def penalise(self):
        self.penalty = float(vs.get_regularization_loss())

    def run(self, failing=None):
        """All steps; the one that fails is repeated.  Returns what there is in the end."""
        vs.devices.register(DEVICE, self.put, replace=True)
        with self.outside.as_default(), vs.variable_scope("outside"):
            self.graph.unique_name("a/v")  # so that variables get other op names
            self.graph.unique_name("a/v/part_1")
            with self.graph.as_default():
                vs.get_variable("first", [1])
            for number, step in enumerate(self.steps()):
                if number == failing:
                    self.fail(step, number)
                self.faults.step = number
                step()
                self.faults.step = None
            return self.contents()

    def fail(self, step, number):
        before = self.picture()
        self.faults.step = number
        with pytest.raises(BaseException) as caught:
            step()
        self.faults.step = None
        assert self.faults.raised
        assert_passed_on(caught.value, self.faults)
        assert self.picture() == before

    def picture(self):
        graphs = {vs.get_default_graph(): None, self.outside: None, self.graph: None}
        with_values = [v for v in self.graph.variables if v.initialized]
        return (
            [(id(graph), snap(graph)) for graph in graphs],
            [(v.name, v.version, v.numpy().tolist()) for v in with_values],
            [(v.name, v.shape, v.caching_device) for v in self.graph.variables],
        )

    def contents(self):
        graph = self.graph
        return {
            "values": [
                (v.name, v.shape, str(v.dtype), v.numpy().tolist()) for v in graph.variables
            ],
            "versions": [v.version for v in graph.variables],
            "mine": [v.name for v in graph.get_collection("mine")],
            "trainable": [v.name for v in graph.trainable_variables()],
            "op names": [graph.unique_name(name) for name in ("a", "a/v", "first", "a/v/part_1")],
            "losses": [loss.name for loss in graph.get_regularization_losses()],
            "penalty": self.penalty,
            "whole": self.made.numpy().tolist(),
            "outside": list(self.outside),
        }


HOOKS = (
    "inner getter, before", "inner getter, after", "outer getter, before", "outer getter, after",
    "partitioner", "initializer", "initializer's constructor", "array", "regularizer",
    "constraint", "caching-device function", "device", "graph of values", "dtype of a scope",
    "dtype", "shape", "size", "collections", "key", "truth",
)  # fmt: skip

WRAPPED = {
    # NumPy lets pass of these what it likes, and then says that this is no dtype.
    "dtype": (errors.ArgumentTypeError, BaseException),
    "dtype of a scope": (errors.ArgumentTypeError, BaseException),
    "array": (errors.InitializerError, ValueError),
}
LAYOUTS = {"whole": (1, False), "shards at once": (3, False), "shard by shard": (3, True)}


def assert_passed_on(error, faults):
    if error is not faults.error:
        wrapper, wrapped = WRAPPED[faults.chosen[0]]
        assert isinstance(error, wrapper)
        assert isinstance(faults.error, wrapped)


@pytest.fixture(scope="module")
def undisturbed():
    """What each layout comes to, and which steps call which hook, where nothing fails."""
    found = {}
    for layout, arguments in LAYOUTS.items():
        faults = Faults()
        found[layout] = Program(faults, *arguments).run(), faults.calls
    return found


def test_every_hook_is_called(undisturbed):
    for layout, (_, calls) in undisturbed.items():
        silent = {hook for hook, steps in calls.items() if not steps}
        assert silent == ({"partitioner"} if layout == "whole" else set())
    whole, parts = (undisturbed[layout][1] for layout in ("whole", "shard by shard"))
    for hook in ("initializer", "constraint", "caching-device function", "device"):
        assert len(parts[hook]) >= len(whole[hook]) + 2


@pytest.mark.fails_without(
    "src/varscope/creation.py",
    "return all_or_nothing(custom, getter, full_name, **arguments)",
    "return custom(getter, full_name, **arguments)",
)
@pytest.mark.fails_without(
    "src/varscope/creation.py",
    "return all_or_nothing(add_and_place, request, spec)",
    "return add_and_place(request, spec)",
)
@pytest.mark.fails_without(
    "src/core/registry.pxi",
    "self.use(&creation.scope, name, creation.counter)",
    "pass",
)
@pytest.mark.fails_without(
    "src/core/scopes.pxi",
    """        except BaseException:
            if self.switch is not None:
                leave_graph(self.switch)
            raise
""",
    """        except BaseException:
            raise
""",
)
@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_raises_in_any_call_leaves_all_as_it_was(hook, exception, undisturbed, tally):
    for layout, (expected, calls) in undisturbed.items():
        for call, step in enumerate(calls[hook]):
            faults = Faults(hook, call, exception("of the user"))
            assert Program(faults, *LAYOUTS[layout]).run(step) == expected
            tally("faults")
