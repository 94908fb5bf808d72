"""A model with everything that a plan can hold, and its files as `save` writes them."""

import importlib.util
import json

import varscope as vs

INDEX = "model.safetensors.index.json"
SHARD = 200_000  # bytes of a file: some hold many tensors, some one
NARROW = importlib.util.find_spec("ml_dtypes") is not None  # none for the oldest NumPy


def model(seed=5, layers=6):
    """All built-in initializers, dtypes of all sizes, tensors larger and smaller than a page."""
    graph = vs.Graph(seed=seed)
    with graph.as_default():
        for i in range(layers):
            with vs.variable_scope(f"layer_{i}"):
                vs.get_variable("kernel", [30 + i, 64])
                vs.get_variable("bias", [64], initializer=vs.zeros)
                vs.get_variable("half", [33, 7], "float16", vs.random_normal(stddev=0.02))
                brain = "bfloat16" if NARROW else "float16"
                vs.get_variable("brain", [5, 3], brain, vs.truncated_normal(seed=3))
        vs.get_variable("large", [30_000, 5], initializer=vs.he_normal())
        vs.get_variable("eye", [70, 60], initializer=vs.identity(2.0))
        vs.get_variable("rotation", [70, 50], initializer=vs.orthogonal())
        vs.get_variable("complex", [77, 3], "complex128", vs.constant(1 + 2j))
        if NARROW:
            vs.get_variable("eight", [77, 3], "float8_e4m3fn", vs.random_uniform(-1, 1))
        vs.get_variable("big_endian", [77, 103], ">f4", vs.random_uniform(-1, 1))
        vs.get_variable("byte", [77, 3], "int8", vs.random_uniform(-100, 100))
        vs.get_variable("flag", [77], "bool", vs.ones)
        vs.get_variable("scalar", [])
        vs.get_variable("empty", [0, 3])
        vs.get_variable("double", [1001, 31], "float64", vs.random_normal())
        vs.get_variable("long", [1001], "int64", vs.random_uniform(0, 2**62))
        cut = vs.fixed_size_partitioner
        vs.get_variable("table", [1000, 40], partitioner=cut(7))
        vs.get_variable("columns", [100, 40], partitioner=cut(3, axis=1),
                        initializer=vs.orthogonal(2.0))  # fmt: skip
        with vs.variable_scope("renamed"):
            pass
        vs.get_variable("renamed", [10])  # whose op name is renamed_1
        vs.get_local_variable("local", [10], initializer=vs.constant([1.0] * 10))
    return graph


def files(folder):
    """The bytes of the files of a checkpoint in their order, and its index, without tokens."""
    index = json.loads((folder / INDEX).read_text())
    names = sorted(set(index["weight_map"].values()))
    assert {path.name for path in folder.iterdir()} == {INDEX, *names}, "something is left"
    listed = {name: file.partition("-")[2][9:] for name, file in index["weight_map"].items()}
    return [(folder / name).read_bytes() for name in names], listed, index["metadata"]


def saved(folder, graph, **options):
    """The same, of what `save` writes."""
    vs.save(graph, folder, **{"max_shard_size": SHARD, "progress": False, **options})
    return files(folder)


def planned(folder, graph, workers, **options):
    return vs.plan(graph, folder, workers=workers, **{"max_shard_size": SHARD, **options})


def shares(plan):
    """How many bytes each worker fills."""
    return [sum(b - a for _, a, b in plan.pieces(k)) for k in range(plan.workers)]
