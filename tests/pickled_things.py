"""One of everything that can be pickled, what can be seen of it, and files of it.

    python tests/pickled_things.py

writes tests/data/pickles/protocol_<n>.pickle: each a dict from the name of a thing to its pickle.
Files that were written once are to be readable for good, so this is run only where there is
something new to write; older files are kept under another name, such as `rows_*`, of when a graph
was a list of its rows.  With a NumPy before 2, as a newer one writes what those cannot read.
"""

import pickle
from pathlib import Path

import numpy as np

import varscope as vs
from varscope import errors

FOLDER = Path(__file__).resolve().parent / "data" / "pickles"
FILES = sorted(FOLDER.glob("*.pickle"))
PROTOCOLS = range(2, 6)

# Variables know where they were created.  Wherever this file lies, that is "model.py".
MODEL = compile(
    """
import numpy as np
import varscope as vs

def build(storage):
    graph = vs.Graph(42, storage)
    with graph.as_default():
        with vs.variable_scope("encoder", regularizer=vs.l2_regularizer(0.5)):
            vs.get_variable("w", [2, 3]).assign(np.arange(6).reshape(2, 3))
            vs.get_variable("b", [3], initializer=vs.zeros, regularizer=vs.no_regularizer)
            vs.get_variable("drawn", [4]).initialize()
            vs.get_variable("whole", [5, 2], partitioner=vs.fixed_size_partitioner(2)).initialize()
        with vs.variable_scope("encoder", reuse=vs.AUTO_REUSE, auxiliary_name_scope=False):
            vs.get_variable("ids", initializer=np.arange(3), trainable=False)
        vs.get_local_variable("step", [], "int64", initializer=vs.ones)
        vs.get_variable("mine", [0, 2], "float64", collections=["mine", "variables"])
        vs.get_variable("encoder", [], constraint=np.abs, caching_device="cpu")
        graph.add_to_collection("things", {"all": [graph["encoder/w"], graph["encoder/whole"]]})
        graph.add_to_collection("losses", graph.get_regularization_losses()[0])
        graph.unique_name("op"), graph.unique_name("op")
    return graph
""",
    "model.py",
    "exec",
)

INITIALIZERS = {
    "zeros": vs.zeros,
    "ones": vs.ones,
    "constant": vs.constant(0.5),
    "constants": vs.constant([[1, 2], [3, 4]]),
    "random_uniform": vs.random_uniform(-1.0, 2.0, seed=3),
    "random_normal": vs.random_normal(stddev=0.02),
    "truncated_normal": vs.truncated_normal(stddev=0.02),
    "uniform_unit_scaling": vs.uniform_unit_scaling(factor=2.0),
    "variance_scaling": vs.variance_scaling(scale=2.0, mode="fan_out"),
    "glorot_uniform": vs.glorot_uniform(),
    "glorot_normal": vs.glorot_normal(),
    "he_uniform": vs.he_uniform(),
    "he_normal": vs.he_normal(),
    "lecun_uniform": vs.lecun_uniform(),
    "lecun_normal": vs.lecun_normal(),
    "orthogonal": vs.orthogonal(gain=2.0),
    "identity": vs.identity(gain=2.0),
}
OTHERS = {
    "l1": vs.l1_regularizer(0.1),
    "l2": vs.l2_regularizer(0.2),
    "l1_l2": vs.l1_l2_regularizer(0.1, 0.2),
    "sum": vs.sum_regularizer([vs.l1_regularizer(0.1), vs.l2_regularizer(0.2)]),
    "no_regularizer": vs.no_regularizer,
    "fixed_size": vs.fixed_size_partitioner(3, axis=1),
    "axis_size": vs.variable_axis_size_partitioner(64, max_shards=4),
    "min_max": vs.min_max_variable_partitioner(8, min_slice_size=1024),
    "slice": vs.SaveSliceInfo("v", (20, 30), (0, 10), (20, 10)),
    "partition_info": vs.PartitionInfo((20, 30), (0, 10)),
    "AUTO_REUSE": vs.AUTO_REUSE,
    "GraphKeys": vs.GraphKeys,
    "Heap": vs.Heap(),
    "Arena": vs.Arena(1 << 20),
    "name map": vs.NameMap([{"prefix": "a", "to": "b"}, {"name": "c", "drop": True}]),
}


def an_error(kind):
    """One of a class, with facts."""
    if kind is errors.VariableMissingError:
        error = kind.of("a/b", ("a", ("model.py", 3, "build")), lambda: ["a/c"])
        error.template = "t"
        return error
    if kind is errors.NotCoveredError:
        return kind.of("tf.thing", "write something else")
    if kind is errors.InvalidNameError:
        return kind.bad_character("a b", 1)
    if issubclass(kind, errors.InvalidShapeError):
        return kind("shape (-1,) cannot be", (-1,))
    return kind.stating(f"what {kind.__name__} says", name="a/b", expected=(1, 2), given=None)


ERRORS = {
    name: an_error(kind)
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.VarscopeError)
}


def things():
    """By name, one of everything."""
    building = {}
    exec(MODEL, building)
    heap, arena = building["build"]("heap"), building["build"]("arena")
    with heap.as_default():
        with vs.variable_scope(
            "encoder", dtype="float64", initializer=vs.ones, reuse=True
        ) as scope:
            pass
        root = vs.get_variable_scope()
    return {
        "graph": heap,
        "graph in an arena": arena,
        "finalized graph": finalized(building["build"]("heap")),
        "variable": heap["encoder/w"],
        "declared variable": heap["encoder"],
        "variable in parts": heap["encoder/whole"],
        "shard": heap["encoder/whole/part_1"],
        "variables": heap.variables,
        "loss": heap.get_regularization_losses()[0],
        "loss of parts": heap.get_regularization_losses()[-1],
        "scope": scope,
        "root scope": root,
        **INITIALIZERS,
        **OTHERS,
        **ERRORS,
    }


def finalized(graph):
    graph.finalize()
    return graph


# --- what can be seen of them


def facts(thing):
    """All that a thing shows, in plain values that can be compared."""
    for kind, look in LOOKS.items():
        if isinstance(thing, kind):
            return type(thing).__name__, look(thing)
    return type(thing).__name__, repr(thing)


def of_graph(graph):
    keys = [value for name, value in vars(vs.GraphKeys).items() if name.isupper()]
    (listed,) = graph.get_collection("things")
    (loss,) = graph.get_collection("losses")[:1]
    assert listed["all"][0] is graph["encoder/w"] and loss.graph is graph
    return {
        "seed": graph.seed,
        "storage": repr(graph.storage),
        "finalized": graph.finalized,
        "names": list(graph),
        "variables": [of_variable(v) for v in graph.variables],
        "collections": {
            key: [getattr(entry, "name", None) for entry in graph.get_collection(key)]
            for key in [*keys, "mine"]
        },
        "loss": float(graph.get_regularization_loss()),
        "next": [graph.unique_name(n, mark_as_used=False) for n in ("op", "encoder", "new")],
    }


def of_variable(v):
    return {
        "name": v.name,
        "path": v.path,
        "shape": v.shape,
        "dtype": str(v.dtype),
        "trainable": v.trainable,
        "initialized": v.initialized,
        "version": v.version,
        "values": (v.initial_value() if not v.initialized else v.numpy()).tolist(),
        "initializer": repr(v.initializer),
        "regularizer": repr(v.regularizer),
        "constraint": repr(v.constraint),
        "creation site": v.creation_site,
        "slice": repr(getattr(v, "save_slice_info", None)),
        "same": v is v.graph[v.op_name],
        "of": len(v.graph),
    }


def of_parts(v):
    return {**of_variable(v), "parts": v.partitions, "shards": [of_variable(s) for s in v]}


def of_scope(scope):
    names = ("name", "original_name_scope", "reuse", "initializer", "regularizer", "dtype")
    return {name: repr(getattr(scope, name)) for name in names}


def of_error(error):
    # What is looked for when it is first read counts as it reads.
    known = {key: repr(value) for key, value in vars(error).items() if not key.startswith("_")}
    return str(error), {**known, "similar": getattr(error, "similar", None)}


def of_initializer(initializer):
    shape = (2, 2)
    return repr(initializer), initializer(shape, "float32", key=7).tolist()


LOOKS = {
    vs.Graph: of_graph,
    vs.PartitionedVariable: of_parts,
    vs.Variable: of_variable,
    vs.VariableScope: of_scope,
    vs.RegularizationLoss: lambda loss: (loss.name, float(loss.value()), len(loss.graph)),
    type(vs.Graph().variables): lambda variables: [of_variable(v) for v in variables],
    errors.VarscopeError: of_error,
    vs.Initializer: of_initializer,
}


if __name__ == "__main__":
    assert int(np.__version__.partition(".")[0]) < 2, "run it with a NumPy before 2"
    FOLDER.mkdir(exist_ok=True)
    for protocol in PROTOCOLS:
        pickles = {name: pickle.dumps(thing, protocol) for name, thing in things().items()}
        (FOLDER / f"protocol_{protocol}.pickle").write_bytes(pickle.dumps(pickles, protocol))
