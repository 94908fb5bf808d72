"""Functions of the user that use the library while it is calling them: all of them, in all ways.

Either that works, or there is an error that says what cannot be; and nobody waits for ever.
"""

import copy
import faulthandler
import gc
import pickle
import threading

import numpy as np
import pytest
from requires import require

import varscope as vs
from varscope import errors

pytestmark = pytest.mark.promise("reentry")

DEVICE = "a-device-that-uses-the-library"
PATIENCE = 60  # seconds after which everything is taken to wait for itself


@pytest.fixture(autouse=True)
def no_deadlock():
    """Ends the process, and shows where each thread is, where a test does not come back."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


class Turn:
    """What one hook does when it is next called; the others, and later calls, do nothing."""

    def __init__(self, hook=None, act=None):
        self.hook, self.act = hook, act
        self.taken = False

    def __call__(self, hook):
        if hook == self.hook and not self.taken:
            self.taken = True
            self.act()


turn = Turn()


# The hooks.  Classes and functions of the module, so that graphs which hold them can be pickled.


def ones(shape, dtype):
    turn("initializer")
    return np.ones(shape, dtype)


def ones_of_part(shape, dtype, partition_info):
    turn("initializer of parts")
    return np.ones(shape, dtype)


def penalty(values):
    turn("regularizer")
    return values.sum()


def halved(values):
    turn("constraint")
    return values / 2


def device_of(variable):
    turn("caching-device function")
    return DEVICE


def put(array):
    turn("device")
    return array.tolist()


def in_two(shape, dtype):
    turn("partitioner")
    return [2]


def getter(getter, name, *args, **kwargs):
    turn("getter, before")
    made = getter(name, *args, **kwargs)
    turn("getter, after")
    return made


class Type:
    @property
    def dtype(self):
        turn("dtype")
        return np.dtype("float64")


class Size:
    def __index__(self):
        turn("size")
        return 4


class Key:
    def __hash__(self):
        turn("key")
        return 5

    def __eq__(self, other):
        return isinstance(other, Key)


def get(parts=False):
    return vs.get_variable(
        "v",
        [Size()],
        Type(),
        ones_of_part if parts else ones,
        penalty,
        collections=[vs.GraphKeys.GLOBAL_VARIABLES, Key()],
        caching_device=device_of,
        partitioner=in_two if parts else None,
        custom_getter=getter,
        constraint=halved,
    )


def use(graph, parts):
    """Create a variable and make use of all that it was given."""
    with vs.variable_scope("scope", reuse=vs.AUTO_REUSE):
        made = get(parts)
        assert made.numpy().tolist() == [1] * 4
        for variable in made if parts else [made]:
            assert set(variable.value()) == {1}
        assert vs.get_regularization_loss("scope/v") == 4
        made.project()
        assert made.numpy().tolist() == [0.5] * 4
        made.assign(np.ones(4))


# What they do.


class Acts:
    def __init__(self, graph, folder, parts):
        self.graph, self.parts = graph, parts
        self.path = folder / "saved.safetensors"

    def opens_scopes(self):
        before = vs.get_variable_scope().name
        with vs.variable_scope("inner") as inner, vs.name_scope("op"):
            manager = vs.variable_scope(None, "layer")
            with manager as layer, manager as again, vs.variable_scope(inner) as back:
                assert (layer.name, back) == (inner.name + "/layer", inner)
                assert again.name == layer.name + "/layer"
        assert vs.get_variable_scope().name == before

    def leaves_a_scope_open_and_closes_it(self):
        managers = [vs.variable_scope("left"), vs.name_scope("open")]
        for manager in managers:
            manager.__enter__()
        for manager in reversed(managers):
            manager.__exit__(None, None, None)

    def creates_another_name(self):
        assert vs.get_variable("beside", [2], initializer=vs.zeros).numpy().tolist() == [0, 0]
        cut = vs.fixed_size_partitioner(2)
        assert len(vs.get_variable("in_parts", [4], partitioner=cut)) == 2

    def creates_many_names(self):
        for number in range(100):
            vs.get_variable(f"many_{number}/v", [number])

    def creates_the_same_name(self):
        assert get(self.parts).path == "scope/v"

    def resets_the_default_graph(self):
        vs.reset_default_graph()

    def switches_to_another_graph(self):
        with vs.Graph().as_default() as other:
            use(other, self.parts)
        assert vs.get_default_graph() is self.graph

    def pickles_the_graph(self):
        twin = pickle.loads(pickle.dumps(self.graph))
        assert list(twin) == list(self.graph)

    def copies_the_graph(self):
        twin = copy.deepcopy(self.graph)
        assert list(twin) == list(self.graph)

    def finalizes_the_graph(self):
        self.graph.finalize()

    def looks_around(self):
        found = self.graph.find("**/v*")
        assert all(variable.name in self.graph for variable in found)
        assert len(self.graph.variables) == len(list(self.graph))
        for key in (Key(), vs.GraphKeys.REGULARIZATION_LOSSES, vs.GraphKeys.GLOBAL_VARIABLES):
            repr(self.graph.get_collection(key, scope="scope"))

    def initialises_everything(self):
        vs.initialize()

    def saves_the_graph(self):
        vs.save(self.graph, self.path)

    def restores_the_graph(self):
        vs.restore(self.graph, self.path, partial=True)

    def works_in_another_thread(self):
        """Which could not, if the library held a lock while it calls its user."""

        def work():
            with self.graph.as_default():
                self.creates_another_name()
                self.looks_around()
                self.graph.unique_name("elsewhere")
                done.append(True)

        done = []
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(PATIENCE / 2)
        assert done

    def collects_garbage(self):
        cycle = [vs.variable_scope("suspended")]
        cycle.append(cycle)
        del cycle
        gc.collect()

    def reuses_here(self):
        vs.get_variable_scope().reuse_variables()


ACTS = [name for name in vars(Acts) if not name.startswith("_")]
HOOKS = [
    "initializer", "initializer of parts", "regularizer", "constraint", "caching-device function",
    "device", "partitioner", "getter, before", "getter, after", "dtype", "size", "key",
]  # fmt: skip
BEFORE = ["partitioner", "getter, before", "dtype", "size", "key"]  # it is created
ITSELF = [
    (hook, act)
    for hook in ("initializer", "initializer of parts")
    for act in ("initialises_everything", "saves_the_graph")
]
REFUSED = {
    **dict.fromkeys(ITSELF, (errors.InitializerError, "reads the variable itself")),
    **{(hook, "resets_the_default_graph"): (errors.OpenScopeError, "scope") for hook in HOOKS},
    **{(hook, "finalizes_the_graph"): (errors.FinalizedGraphError, "scope/v") for hook in BEFORE},
}


class Raising:
    @property
    def dtype(self):
        raise RuntimeError


try:
    np.dtype(Raising())
except TypeError:  # old ones say only that this is no dtype
    REFUSED["dtype", "resets_the_default_graph"] = (errors.ArgumentTypeError, "none that NumPy")
except RuntimeError:
    pass


@pytest.mark.fails_without(
    "src/varscope/variables.py", "        if me in running:\n", "        if False:\n"
)
@pytest.mark.fails_without(
    "src/varscope/creation.py",
    """        if made is not None:
            return made
        # Another""",
    """        return made
        # Another""",
)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_uses_the_library(hook, act, tmp_path, monkeypatch, tally):
    if act in ("saves_the_graph", "restores_the_graph"):
        require("safetensors", '"varscope-core[checkpoints]"')
    parts = hook in ("partitioner", "initializer of parts")
    vs.devices.register(DEVICE, put, replace=True)
    with vs.Graph(seed=1).as_default() as graph:
        vs.get_variable("first", [3])
        acts = Acts(graph, tmp_path, parts)
        if act == "restores_the_graph":
            acts.saves_the_graph()
        monkeypatch.setitem(globals(), "turn", Turn(hook, getattr(acts, act)))
        if (hook, act) in REFUSED:
            kind, words = REFUSED[hook, act]
            with pytest.raises(kind, match=words):
                use(graph, parts)
        else:
            use(graph, parts)
        assert turn.taken
        assert vs.get_variable_scope().name == "" and graph.get_name_scope() == ""
        if graph.finalized:
            return
        use(graph, parts)
        names = list(graph)
        assert len(names) == len(set(names))
        assert all(graph[name].name == name + ":0" for name in names)
        tally("re-entries")
