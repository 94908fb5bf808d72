"""Safetensors files and folders of them, written by hand: right ones, and any others."""

import json
import struct

import numpy as np
import pytest

import varscope as vs
from varscope import _scopecore
from varscope.errors import CheckpointError

INDEX = "model.safetensors.index.json"


def write(path, header, data=b""):
    """A file with this header: an object, JSON text, or bytes."""
    if isinstance(header, dict):
        header = json.dumps(header, separators=(",", ":"))
    if isinstance(header, str):
        header = header.encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def header_of(arrays, kinds=None):
    """(entries, data) for arrays: the layout by hand."""
    codes = {"f4": "F32", "f8": "F64", "i8": "I64", "u1": "U8", "f2": "F16", "b1": "BOOL"}
    entries, data = {}, b""
    for name, array in arrays.items():
        begin, data = len(data), data + array.tobytes()
        kind = codes[array.dtype.str[1:]]
        offsets = [begin, len(data)]
        entries[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
    return entries, data


def noted(entries, data, **notes):
    """The entries with our notes in front of them, checksums among these."""
    places = [entry["data_offsets"] for entry in entries.values()]
    sums = "".join(f"{_scopecore.crc32c(data[begin:end]):08x}" for begin, end in places)
    notes = {"version": 1, "crc32c": sums, **notes}
    return {"__metadata__": {"format": "pt", "varscope": json.dumps(notes)}, **entries}


ARRAYS = {
    "layer_0/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "layer_0/bias": np.arange(4, dtype=np.float64),
    "step": np.array(7),
    "none": np.zeros((3, 0), np.float32),
}


def sharded(folder, shards, weight_map=None, **index):
    """A folder in the layout of Hugging Face; `shards` maps the names of files to arrays."""
    for name, arrays in shards.items():
        entries, data = header_of(arrays)
        write(folder / name, noted(entries, data), data)
    if weight_map is None:
        weight_map = {name: file for file, arrays in shards.items() for name in arrays}
    text = json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map, **index})
    (folder / INDEX).write_text(text, encoding="utf-8")
    return folder


SHARDS = {
    "model-00001-of-00002.safetensors": {"a": np.arange(3.0), "b": np.ones((2, 2), np.float32)},
    "model-00002-of-00002.safetensors": {"c": np.array(5)},
}


def assert_same(found, expected):
    found = np.asarray(found)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def refused(path, *words, tensor=None, where=None):
    """The error of opening, which names the file and the tensor."""
    with pytest.raises(CheckpointError) as caught:
        vs.open(path)
    error = caught.value
    missing = [word for word in words if word not in str(error)]
    assert not missing, f"{missing} not in the text {str(error)!r}"
    assert str(error).startswith(str(where or path))
    assert error.path == (where or path)
    assert error.tensor == tensor
    assert tensor is None or ascii(tensor) in str(error)
    return error


ENTRY = '"dtype":"F32","shape":[1],"data_offsets":[0,4]'

EMPTY = '"dtype":"F32","shape":[%s],"data_offsets":[0,0]'

ONE = '{"a":{"dtype":%s,"shape":%s,"data_offsets":%s}}'
