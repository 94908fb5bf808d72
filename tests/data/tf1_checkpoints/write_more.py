"""Writes the folders `merged`, `first_format` and `objects` beside it, with TensorFlow 2.21.

pip install tensorflow-cpu==2.21.0 && python write_more.py
"""

import os
import shutil
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import ml_dtypes
import numpy as np
import tensorflow as tf

HERE = Path(__file__).resolve().parent
NUMBERS = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
    "float32", "float64", "complex64", "complex128",
]  # fmt: skip
OF_ML_DTYPES = [
    "bfloat16", "float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz",
    "float8_e5m2fnuz", "float4_e2m1fn", "int4", "uint4", "int2", "uint2",
]  # fmt: skip
QUANTISED = ["qint8", "quint8", "qint16", "quint16", "qint32"]


def folder(name):
    shutil.rmtree(HERE / name, ignore_errors=True)
    (HERE / name).mkdir()
    return HERE / name


def save(prefix, tensors):
    """Write tensors: name to (value, shape and slice, or "" for a whole one)."""
    values, slices = zip(*tensors.values(), strict=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=list(tensors), shape_and_slices=list(slices),
        tensors=[value if isinstance(value, tf.Tensor) else tf.constant(value) for value in values],
    )  # fmt: skip


def slices(table, cuts):
    """The slices of a table in TensorFlow's words, and their values."""
    sizes = " ".join(map(str, table.shape))
    for cut in cuts:
        words = ":".join("-" if size is None else f"{start},{size}" for start, size in cut)
        index = tuple(slice(start, size and start + size) for start, size in cut)
        yield f"{sizes} {words}", table[index]


def merged():
    """Three data files; each dtype; variables in slices along the second axis, and along both."""
    path, expected = folder("merged"), {}
    first, second, third = {}, {}, {}
    for name in NUMBERS + OF_ML_DTYPES:
        dtype = np.dtype(getattr(ml_dtypes, name) if name in OF_ML_DTYPES else name)
        value = np.array([[0, 1, 1], [1, 0, 1]] if name[0] == "u" else [[0, 1, -1], [-1, 0, 1]])
        first[f"dtypes/{name}"] = (value.astype(dtype), "")
        expected[f"dtypes/{name}"] = value.astype(dtype)
    for name in QUANTISED:
        value = np.arange(3, dtype=name.removeprefix("q").replace("quint", "uint"))
        second[f"dtypes/{name}"] = (tf.bitcast(tf.constant(value), getattr(tf, name)), "")
        expected[f"dtypes/{name}"] = value
    second["words"] = (np.array([b"one", b"", b"three" * 40]), "")
    for name, shape in {"scalar": (), "none": (0,), "rows": (3, 0), "deep": (2, 1, 3, 1)}.items():
        value = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 7
        second[f"shapes/{name}"] = (value, "")
        expected[f"shapes/{name}"] = value
    columns = np.arange(40, dtype=np.int32).reshape(4, 10)
    both = np.arange(63, dtype=np.float32).reshape(7, 9)
    cuts = [((0, None), (0, 5)), ((0, None), (5, 2)), ((0, None), (7, 3))]
    for shard, (words, value) in zip((third, first, second), slices(columns, cuts), strict=True):
        shard["columns"] = (value, words)
    cuts = [((0, 4), (0, 4)), ((0, 4), (4, 5)), ((4, 3), (0, 4)), ((4, 3), (4, 5))]
    for shard, (words, value) in zip((third, first, second, None), slices(both, cuts), strict=True):
        if shard is not None:
            shard["both"] = (value, words)
    expected |= {"columns": columns, "both": both}
    shards = [first, second, third, {"both": (value, words)}]
    for number, tensors in enumerate(shards):
        save(path / f"part-{number}", tensors)
    parts = [str(path / f"part-{number}") for number in range(len(shards))]
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(path / "model.ckpt-7")
    )
    tf.compat.v1.train.update_checkpoint_state(str(path), "model.ckpt-7")
    # What NumPy cannot save as itself, as the bytes of it.
    known = {
        name: value.view(np.uint8) if value.dtype.name in OF_ML_DTYPES else value
        for name, value in expected.items()
    }
    np.savez_compressed(
        path / "expected.npz", **{name.replace("/", "|"): known[name] for name in known}
    )


def first_format():
    """One variable in the format that TensorFlow wrote before version 0.12."""
    path = folder("first_format")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.get_variable("v", initializer=np.arange(3, dtype=np.float32))
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(
            write_version=tf.compat.v1.train.SaverDef.V1, save_relative_paths=True
        )
        saver.save(session, str(path / "model.ckpt"), write_meta_graph=False)


def objects():
    """A checkpoint of TensorFlow 2, where objects have the names."""
    path = folder("objects")
    layer = tf.Module()
    layer.kernel = tf.Variable(np.arange(6, dtype=np.float32).reshape(2, 3))
    tf.train.Checkpoint(model=layer, step=tf.Variable(5, dtype=tf.int64)).write(str(path / "ckpt"))


if __name__ == "__main__":
    merged()
    first_format()
    objects()
