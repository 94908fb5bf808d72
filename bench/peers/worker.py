"""Measures one library: bench/peers.py runs this with the Python of each library's environment.

    python bench/peers/worker.py PEER NAMES SECONDS

It builds the same model with more and more layers, up to so many names and about so many seconds
in all, and writes a line of JSON first about the library and then for each size.

The model has layers `layer_0`, `layer_1`, …, each a scope with eight variables of shape [4, 4].
`created` is the time to build it the first time, `found` that to build it once more, sharing all
variables; both count everything: the loops, the scopes' names, opening and closing them.  They are
the processor's time for this thread, which changes little with what else the machine does.  The
garbage collector is on, as it is in life, and collects before each round, outside the time.

Each library does it in the words of its own documentation.  Where there are several, it is in the
ones that were quicker, and initial values are made the cheapest way, because the names are what
is compared.  It runs on Python 3.10 too.
"""

import contextlib
import gc
import json
import platform
import sys
from time import monotonic, perf_counter, thread_time

NAMES = ("query", "key", "value", "output", "gate", "up", "down", "scale")
LAYERS = (125, 400, 1_250, 4_000, 12_500, 40_000, 125_000, 400_000, 1_250_000)
ROUNDS, SECONDS = 5, 2.0  # the best of five counts, or of as many as begin within two seconds

# On Windows the processor's time goes on in steps of 16 ms.
clock = perf_counter if sys.platform == "win32" else thread_time


def build(library, layers, reuse):
    """The model, in words that varscope, TensorFlow 1 and the dict registry share."""
    variable_scope, get_variable = library.variable_scope, library.get_variable
    for i in range(layers):
        with variable_scope(f"layer_{i}", reuse=reuse):
            for name in NAMES:
                get_variable(name, [4, 4])


class Varscope:
    def __init__(self):
        import varscope

        self.library = varscope

    def create(self, layers):
        graph = self.library.Graph()
        with graph.as_default():
            build(self.library, layers, None)
        return graph

    def find(self, graph, layers):
        with graph.as_default():
            build(self.library, layers, True)

    def paths(self, graph):
        return list(graph)


class HandWritten:
    """What one writes in an afternoon: a dict of full paths, and a stack of prefixes."""

    library = None

    def create(self, layers):
        registry = Registry()
        build(registry, layers, None)
        return registry

    def find(self, registry, layers):
        build(registry, layers, True)

    def paths(self, registry):
        return list(registry.variables)


class Variable:
    __slots__ = ("dtype", "path", "shape")

    def __init__(self, path, shape, dtype):
        self.path = path
        self.shape = shape
        self.dtype = dtype


class Registry:
    def __init__(self):
        self.variables = {}
        self.scopes = [("", False)]

    @contextlib.contextmanager
    def variable_scope(self, name, reuse=None):
        prefix, inherited = self.scopes[-1]
        self.scopes.append((f"{prefix}{name}/", reuse or inherited))
        try:
            yield
        finally:
            self.scopes.pop()

    def get_variable(self, name, shape, dtype="float32"):
        prefix, reuse = self.scopes[-1]
        path = prefix + name
        variable = self.variables.get(path)
        if reuse:
            if variable is None:
                raise KeyError(f"{path} does not exist")
            if variable.shape != tuple(shape):
                raise ValueError(f"{path} has shape {variable.shape}, not {shape}")
        else:
            if variable is not None:
                raise KeyError(f"{path} exists")
            variable = self.variables[path] = Variable(path, tuple(shape), dtype)
        return variable


class TensorFlow:
    """A graph, in which a variable is some operations.  Those that fill it with zeros are few."""

    def __init__(self):
        import tensorflow.compat.v1 as tf

        self.library = tf

    def create(self, layers):
        tf = self.library
        graph = tf.Graph()
        zeros = tf.zeros_initializer()
        with graph.as_default(), tf.variable_scope(tf.get_variable_scope(), initializer=zeros):
            build(tf, layers, None)
        return graph

    def find(self, graph, layers):
        with graph.as_default():
            build(self.library, layers, True)

    def paths(self, graph):
        variables = graph.get_collection(self.library.GraphKeys.GLOBAL_VARIABLES)
        return [variable.op.name for variable in variables]


class Haiku:
    """`init` and `apply` of a transformed function; all parameters are one array, made before."""

    def __init__(self):
        import haiku
        import jax.numpy as jnp

        self.library = haiku
        self.zeros = jnp.zeros([4, 4])
        self.transformed = haiku.transform(self.model)

    def model(self, layers):
        name_scope, get_parameter = self.library.name_scope, self.library.get_parameter
        for i in range(layers):
            with name_scope(f"layer_{i}"):
                for name in NAMES:
                    get_parameter(name, [4, 4], init=self.initializer)

    def initializer(self, shape, dtype):
        return self.zeros

    def create(self, layers):
        return self.transformed.init(None, layers)

    def find(self, parameters, layers):
        self.transformed.apply(parameters, None, layers)

    def paths(self, parameters):
        return [f"{scope}/{name}" for scope, inside in parameters.items() for name in inside]


class Flax:
    """`init` and `apply` of a function of a scope; all parameters are one array, made before.

    `Scope.param` makes a random key for each new parameter, and traces the initializer of one that
    exists to compare shapes: these are most of its time.
    """

    def __init__(self):
        import flax.core
        import jax

        self.library = flax
        self.zeros = jax.numpy.zeros([4, 4])
        self.key = jax.random.key(0)
        self.init = flax.core.init(self.model)
        self.apply = flax.core.apply(self.model)

    def model(self, scope, layers):
        for i in range(layers):
            layer = scope.push(f"layer_{i}")
            for name in NAMES:
                layer.param(name, self.initializer)

    def initializer(self, key):
        return self.zeros

    def create(self, layers):
        _, variables = self.init(self.key, layers)
        return variables

    def find(self, variables, layers):
        self.apply(variables, layers)

    def paths(self, variables):
        scopes = variables["params"].items()
        return [f"{scope}/{name}" for scope, inside in scopes for name in inside]


class NNabla:
    """One registry for the process.  Without an initializer, which is zeros and the quickest."""

    def __init__(self):
        import nnabla

        self.library = nnabla

    def build(self, layers):
        parameter_scope = self.library.parameter_scope
        get_parameter_or_create = self.library.parameter.get_parameter_or_create
        for i in range(layers):
            with parameter_scope(f"layer_{i}"):
                for name in NAMES:
                    get_parameter_or_create(name, [4, 4])

    def create(self, layers):
        if self.library.get_parameters():
            raise RuntimeError("there are parameters of another model")
        self.build(layers)
        return Parameters(self.library)

    def find(self, parameters, layers):
        self.build(layers)

    def paths(self, parameters):
        return list(self.library.get_parameters())


class Parameters:
    """Takes all parameters along when the model goes, outside the time that is measured."""

    def __init__(self, library):
        self.clear = library.clear_parameters

    def __del__(self):
        self.clear()


class PyTorch:
    """Modules of parameters without memory.  Found by path, as there is nothing to build again."""

    def __init__(self):
        import torch

        self.library = torch

    def create(self, layers):
        torch = self.library
        Module, Parameter, empty = torch.nn.Module, torch.nn.Parameter, torch.empty
        model = Module()
        for i in range(layers):
            layer = Module()
            for name in NAMES:
                layer.register_parameter(name, Parameter(empty([4, 4], device="meta")))
            model.add_module(f"layer_{i}", layer)
        return model

    def find(self, model, layers):
        for i in range(layers):
            layer = model.get_submodule(f"layer_{i}")
            for name in NAMES:
                layer.get_parameter(name)

    def paths(self, model):
        return [path.replace(".", "/") for path, _ in model.named_parameters()]


PEERS = {
    "varscope": Varscope,
    "dict": HandWritten,
    "tensorflow": TensorFlow,
    "haiku": Haiku,
    "flax": Flax,
    "nnabla": NNabla,
    "torch": PyTorch,
}


def check(peer):
    """See that it makes the model and shares it; what was never run before is loaded here."""
    model = peer.create(3)
    expected = sorted(f"layer_{i}/{name}" for i in range(3) for name in NAMES)
    for when in ("first", "second"):
        made = sorted(peer.paths(model))
        if made != expected:
            raise AssertionError(f"the {when} time it made {made}, not {expected}")
        peer.find(model, 3)


def measure(peer, layers):
    """The best times to create and to find."""
    end = monotonic() + SECONDS
    created, found, model = [], [], None
    while len(created) < ROUNDS and (not created or monotonic() < end):
        del model
        gc.collect()
        start = clock()
        model = peer.create(layers)
        created.append(clock() - start)
        start = clock()
        peer.find(model, layers)
        found.append(clock() - start)
    return min(created), min(found)


def sizes(peer, names, seconds):
    """Measure models of growing size, and stop before one that would probably take too long."""
    begin, before = monotonic(), None
    for layers in LAYERS:
        if layers * len(NAMES) > names:
            return
        start = monotonic()
        created, found = measure(peer, layers)
        yield {"names": layers * len(NAMES), "created": created, "found": found}
        # The next is about three times as large; for one that is as quick as it can be, count four.
        growth = max(4, (created + found) / before) if before else 4
        before = created + found
        now = monotonic()
        if now - begin + (now - start) * growth > seconds:
            return


def main(name, names, seconds):
    peer = PEERS[name]()
    check(peer)
    about = {
        "python": platform.python_version(),
        "version": getattr(peer.library, "__version__", None),
    }
    print(json.dumps(about), flush=True)
    for size in sizes(peer, int(names), float(seconds)):
        print(json.dumps(size), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
