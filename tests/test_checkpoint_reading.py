"""Opening safetensors files: what others wrote, and what is damaged or means harm.

The judgement of a file is held to that of the `safetensors` library.
"""
# ruff: noqa: UP031 -- for str.format, all braces of JSON would have to be doubled

import contextlib
import gc
import importlib.util
import json
import math
import os
import pickle
import random
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judgements import check_scan, facts, library_opens, only_the_library_takes
from requires import on_posix, require, require_large, require_ml_dtypes

import varscope as vs
from varscope import _scopecore
from varscope.checkpoint import safetensors_files
from varscope.errors import ArgumentTypeError, CheckpointError, VarscopeError

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


@pytest.fixture
def file(tmp_path):
    """A file as varscope writes it."""
    entries, data = header_of(ARRAYS)
    return write(tmp_path / "a.safetensors", noted(entries, data), data)


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


# --- what is there


def test_a_checkpoint_is_a_mapping_of_names_to_tensors(file):
    checkpoint = vs.open(file)
    assert list(checkpoint) == checkpoint.names == list(ARRAYS)
    assert len(checkpoint) == 4 and "step" in checkpoint and "other" not in checkpoint
    assert checkpoint.path == file
    assert checkpoint.format == "safetensors" and checkpoint.files == [file]
    assert checkpoint.metadata["format"] == "pt"
    assert checkpoint.dtype_names == ["float32", "float64", "int64", "float32"]
    assert checkpoint.shapes == [(3, 4), (4,), (), (3, 0)]
    assert checkpoint.nbytes_of.tolist() == [48, 32, 8, 0] and checkpoint.nbytes == 88
    assert repr(checkpoint) == f"<Checkpoint {str(file)!r} of 4 tensors>"
    for name, tensor in checkpoint.items():
        assert tensor.name == name and tensor.file == file
        assert tensor.shape == ARRAYS[name].shape and tensor.ndim == ARRAYS[name].ndim
        assert tensor.dtype == ARRAYS[name].dtype and tensor.dtype_name == tensor.dtype.name
        assert tensor.size == ARRAYS[name].size and tensor.nbytes == ARRAYS[name].nbytes
        assert tensor.partitions is None
        for array in (tensor.value(), tensor.numpy(), np.asarray(tensor), tensor[...]):
            assert_same(array, ARRAYS[name])
    assert checkpoint == checkpoint and checkpoint != vs.open(file)
    with pytest.raises(KeyError, match="no tensor 'other'"):
        checkpoint["other"]


def test_a_tensor_is_read_by_slices(file):
    tensor = vs.open(str(file))["layer_0/kernel"]
    np.testing.assert_array_equal(tensor[1:, ::2], ARRAYS["layer_0/kernel"][1:, ::2])
    np.testing.assert_array_equal(tensor[[2, 0]], ARRAYS["layer_0/kernel"][[2, 0]])
    assert tensor[2, 3] == 11 and len(tensor) == 3
    assert np.asarray(tensor, np.float64).dtype == np.float64
    with pytest.raises(TypeError, match="scalar"):
        len(vs.open(file)["step"])


def test_nothing_can_be_written(file):
    checkpoint = vs.open(file)
    for array in (checkpoint["layer_0/kernel"].value(), checkpoint["layer_0/kernel"][1:]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)
    copy = checkpoint["layer_0/kernel"].numpy()
    copy[0] = 1
    np.testing.assert_array_equal(checkpoint["layer_0/kernel"], ARRAYS["layer_0/kernel"])


def test_a_view_outlives_the_checkpoint(file):
    with vs.open(file) as checkpoint:
        tensor = checkpoint["layer_0/kernel"]
        view = tensor[1:]
    with pytest.raises(CheckpointError, match="closed"):
        tensor.value()
    with pytest.raises(CheckpointError, match="closed"):
        checkpoint.verify()
    assert tensor.shape == (3, 4)
    del checkpoint, tensor
    gc.collect()
    np.testing.assert_array_equal(view, ARRAYS["layer_0/kernel"][1:])


@on_posix
def test_what_takes_the_place_of_a_file_does_not_change_what_was_opened(file, tmp_path):
    checkpoint = vs.open(file)
    view = checkpoint["layer_0/kernel"].value()
    entries, data = header_of({"other": np.ones(100)})
    os.replace(write(tmp_path / "new", entries, data), file)
    np.testing.assert_array_equal(view, ARRAYS["layer_0/kernel"])
    np.testing.assert_array_equal(checkpoint["layer_0/bias"], ARRAYS["layer_0/bias"])
    assert list(vs.open(file)) == ["other"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_files_are_let_go_of(file):
    def descriptors():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for _ in range(3):
        checkpoint = vs.open(file)
        assert descriptors() > before
        checkpoint.close()
        assert descriptors() == before
        with contextlib.suppress(CheckpointError):
            vs.open(write(file.parent / "bad", "{"))
        assert descriptors() == before


# --- files of others


def test_files_of_the_library_for_numpy(tmp_path):
    library = require("safetensors.numpy", "safetensors")
    kinds = ["?", "i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4", "i8", "u8", "f8", "c8"]
    arrays = {}
    for number, kind in enumerate(kinds):
        dtype = np.dtype(kind)
        for shape in ((), (0,), (3, 0), (2, 3), (1, 5)):
            values = np.arange(math.prod(shape)).astype(dtype).reshape(shape)
            arrays[f"{number}/{shape}"] = values
    path = tmp_path / "numpy.safetensors"
    library.save_file(arrays, path, {"made by": "“them”\n"})
    compare(path, library.load_file(path), arrays)
    assert vs.open(path).metadata == {"made by": "“them”\n"}


def compare(path, expected, arrays):
    checkpoint = vs.open(path)
    assert set(checkpoint) == set(expected) == set(arrays)
    for name, array in expected.items():
        found = checkpoint[name].value()
        assert found.dtype == array.dtype == arrays[name].dtype and found.shape == array.shape
        assert found.tobytes() == array.tobytes()
    checkpoint.verify()


def test_files_of_the_library_with_narrow_floats(tmp_path):
    ml_dtypes = require_ml_dtypes()
    kinds = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"]
    kinds += ["float8_e8m0fnu"] if hasattr(ml_dtypes, "float8_e8m0fnu") else []
    arrays = {
        f"{kind}{shape}": np.ones(shape, np.float32).astype(getattr(ml_dtypes, kind))
        for kind in kinds
        for shape in ((), (0, 2), (3, 4))
    }
    path = tmp_path / "narrow.safetensors"
    specs = {name: library_spec(array, array.dtype.name) for name, array in arrays.items()}
    require("safetensors", "safetensors").serialize_file(specs, path, None)
    checkpoint = vs.open(path)
    assert set(checkpoint) == set(arrays)
    for name, array in arrays.items():
        assert checkpoint[name].dtype == array.dtype and checkpoint[name].shape == array.shape
        assert checkpoint[name].value().tobytes() == array.tobytes()


def library_spec(array, dtype):
    spec = require("safetensors", "safetensors>=0.8").TensorSpec
    return spec(dtype=dtype, shape=array.shape, data_ptr=array.ctypes.data, data_len=array.nbytes)


def test_dtypes_that_numpy_lacks_are_listed(tmp_path):
    data = np.arange(6, dtype=np.uint8)
    path = tmp_path / "packed.safetensors"
    packed = library_spec(data, "float4_e2m1fn_x2")
    require("safetensors", "safetensors").serialize_file({"w": packed, "v": packed}, path, None)
    checkpoint = vs.open(path)
    assert checkpoint.dtype_names == ["F4", "F4"] and checkpoint.shapes == [(12,), (12,)]
    assert checkpoint.nbytes_of.tolist() == [6, 6] and checkpoint["w"].size == 12
    with pytest.raises(CheckpointError, match=r"tensor 'w': its dtype 'F4' cannot be read"):
        checkpoint["w"].value()
    entry = {"dtype": "F6_E2M3", "shape": [2, 4], "data_offsets": [0, 6]}
    assert vs.open(write(path, {"w": entry}, data.tobytes())).shapes == [(2, 4)]


TORCH_WRITES = """
import sys, torch
from safetensors.torch import save_file
tensors = {
    "a": torch.arange(6).reshape(2, 3),
    "b": torch.ones(3, dtype=torch.float16),
    "c": torch.full((2,), 1.5, dtype=torch.bfloat16),
    "d": torch.full((2,), 1.5).to(torch.float8_e4m3fn),
}
save_file(tensors, sys.argv[1])
"""


def test_files_of_the_library_for_torch(tmp_path):
    """Written in a process of its own: with torch loaded, other tests take far longer."""
    require_ml_dtypes()
    if importlib.util.find_spec("torch") is None:
        require_large("torch", "torch")
    path = tmp_path / "torch.safetensors"
    subprocess.run([sys.executable, "-c", TORCH_WRITES, str(path)], check=True, timeout=300)
    checkpoint = vs.open(path)
    found = {name: (checkpoint.dtype_names[i], checkpoint.shapes[i])
             for i, name in enumerate(checkpoint)}  # fmt: skip
    assert found == {
        "a": ("int64", (2, 3)),
        "b": ("float16", (3,)),
        "c": ("bfloat16", (2,)),
        "d": ("float8_e4m3fn", (2,)),
    }
    np.testing.assert_array_equal(checkpoint["a"], np.arange(6).reshape(2, 3))
    for name, value in (("b", 1), ("c", 1.5), ("d", 1.5)):
        assert (checkpoint[name].value().astype(np.float32) == value).all()


def test_the_order_of_the_header_does_not_matter(tmp_path):
    entries, data = header_of(ARRAYS)
    for seed in range(20):
        names = list(entries)
        random.Random(seed).shuffle(names)
        path = write(tmp_path / "a", {name: entries[name] for name in names}, data)
        checkpoint = vs.open(path)
        assert [name for name in checkpoint if name != "none"] == list(ARRAYS)[:3]
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(checkpoint[name], array)


def test_a_file_of_nothing(tmp_path):
    checkpoint = vs.open(write(tmp_path / "a", "{}   "))
    assert len(checkpoint) == 0 and checkpoint.nbytes == 0 and checkpoint.names == []
    checkpoint.verify()


def test_any_text_is_a_name(tmp_path):
    names = ["", "a\0b", "../../x", "/etc/passwd", "é", "e\u0301", "😀", "x" * 10**6, "a\nb", '"']
    entries, data = header_of({name: np.full(2, i) for i, name in enumerate(names)})
    for ascii_only in (True, False):
        text = json.dumps(entries, ensure_ascii=ascii_only)
        checkpoint = vs.open(write(tmp_path / "a", text, data))
        assert checkpoint.names == names
        assert [int(tensor.value()[1]) for tensor in checkpoint.values()] == list(range(10))


# --- the judgement of the library

ENTRY = '"dtype":"F32","shape":[1],"data_offsets":[0,4]'
EMPTY = '"dtype":"F32","shape":[%s],"data_offsets":[0,0]'
ONE = '{"a":{"dtype":%s,"shape":%s,"data_offsets":%s}}'
# Header, data, and what the error says; None where the file is good.
JUDGED = [
    ("{}", b"", None),
    ("", b"", "no JSON"),
    (" \n{} \t\r", b"", None),
    ("{}\0", b"", "no JSON"),
    ("[]", b"", "a list, not an object"),
    ("null", b"", "null, not an object"),
    ('{"a":{%s}}' % ENTRY, bytes(4), None),
    ('{"a":{%s},}' % ENTRY, bytes(4), "no JSON"),
    ('{"a":{%s}} {}' % ENTRY, bytes(4), "no JSON"),
    ('{"a":{%s}}' % ENTRY, bytes(3), "cut off"),
    ('{"a":{%s}}' % ENTRY, bytes(5), "last 1 bytes belong to no tensor"),
    ('{"a":{%s,"x":[1,{"y":null}]}}' % ENTRY, bytes(4), None),
    ('{"a":{%s,"dtype":"F32"}}' % ENTRY, bytes(4), "'dtype' comes twice"),
    (r'{"a":{%s,"x":"\ud800"}}' % ENTRY, bytes(4), "no text"),
    (r'{"a":{%s,"x":["\udc00"]}}' % ENTRY, bytes(4), "no text"),
    (r'{"a":{%s,"\ud800":1}}' % ENTRY, bytes(4), "no text"),
    ('{"a":{%s,"x":%s}}' % (ENTRY, "[" * 125 + "]" * 125), bytes(4), None),
    ('{"a":{%s,"x":%s}}' % (ENTRY, "[" * 126 + "]" * 126), bytes(4), "too deep"),
    ('{"a":{%s,"x":%s}}' % (ENTRY, "[" * 99999 + "]" * 99999), bytes(4), "too deep"),
    ('{"a":{%s,"x":%s1}}' % (ENTRY, '{"x":' * 99999), bytes(4), "too deep"),
    ("[" * 10**6, b"", "too deep"),
    ('{"a":{%s,"x":1e999}}' % ENTRY, bytes(4), "out of range"),
    ('{"a":{%s,"x":%s}}' % (ENTRY, "9" * 5000), bytes(4), "out of range"),
    ('{"a":{%s,"x":%s}}' % (ENTRY, "9" * 300), bytes(4), None),
    ('{"a":{%s,"x":NaN}}' % ENTRY, bytes(4), "NaN is no value"),
    ('{"a":{%s,"x":-Infinity}}' % ENTRY, bytes(4), "no value"),
    (ONE % ('"F32"', "[1]", "[-0,4]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[0.0,4]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[00,4]"), bytes(4), "no JSON"),
    (ONE % ('"F32"', "[1]", "[0,4e0]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[0,4,5]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[-4,0]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[true,4]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", '{"0":0,"1":4}'), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[0,18446744073709551616]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[0,18446744073709551615]"), bytes(4), "cut off"),
    (ONE % ('"F32"', "[1]", "[18446744073709551612,18446744073709551615]"), bytes(4), "cut off"),
    (ONE % ('"F32"', "[1]", "[4,0]"), bytes(4), "from 4 to 0"),
    (ONE % ('"F32"', "[1.0]", "[0,4]"), bytes(4), "shape"),
    (ONE % ('"F32"', "[-1]", "[0,4]"), bytes(4), "shape"),
    (ONE % ('"F32"', "[true]", "[0,4]"), bytes(4), "shape"),
    (ONE % ('"F32"', "null", "[0,4]"), bytes(4), "shape"),
    (ONE % ('"F32"', "1", "[0,4]"), bytes(4), "shape"),
    (ONE % ('"F32"', "[2]", "[0,4]"), bytes(4), "F32 of shape (2,) is 8 bytes, and it has 4"),
    (ONE % ('"F4"', "[7]", "[0,4]"), bytes(4), "3.5 bytes"),
    (ONE % ('"F4"', "[8]", "[0,4]"), bytes(4), None),
    (ONE % ('"f32"', "[1]", "[0,4]"), bytes(4), "dtype 'f32' is none"),
    (ONE % ('"O"', "[1]", "[0,4]"), bytes(4), "dtype 'O' is none"),
    (ONE % ("4", "[1]", "[0,4]"), bytes(4), "dtype is a number"),
    (ONE % (r'"F\u00332"', "[1]", "[0,4]"), bytes(4), None),
    ('{"a":null}', b"", "entry is null"),
    ('{"a":{"shape":[1],"data_offsets":[0,4]}}', bytes(4), "no 'dtype'"),
    ('{"a":{"dtype":"F32","data_offsets":[0,4]}}', bytes(4), "no 'shape'"),
    ('{"a":{"dtype":"F32","shape":[1]}}', bytes(4), "no 'data_offsets'"),
    ('{"a":{%s}}' % EMPTY % "0,4611686018427387904,16", b"", None),
    ('{"a":{%s}}' % EMPTY % "4611686018427387904,16,0", b"", "more elements than can be"),
    ('{"a":{%s}}' % EMPTY % "18446744073709551615,0", b"", None),
    ('{"a":{%s}}' % EMPTY % "18446744073709551616,0", b"", "shape"),
    ('{"a":{%s}}' % EMPTY % "4611686018427387904", b"", "than a file has"),
    ('{"a":{%s}}' % EMPTY % "9223372036854775808,2", b"", "more elements than can be"),
    (ONE % ('"F32"', str([1] * 200), "[0,4]"), bytes(4), None),
    ('{"a":{%s},"b":{%s}}' % (ENTRY, EMPTY % 0), bytes(4), None),
    ('{"a":{%s},"b":{%s}}' % (ENTRY, ENTRY), bytes(4), "first 4 bytes are those of another"),
    ('{"a":{%s}}' % EMPTY.replace("[0,0]", "[2,2]") % 0, bytes(2), "2 bytes before"),
    ('{"a":{%s},"b":{%s}}' % (ENTRY, ENTRY.replace("[0", "[8")), bytes(12), "from 8 to 4"),
    ('{"a":{%s},"b":{%s}}' % (ENTRY, ENTRY.replace("0,4", "8,12")), bytes(12), "4 bytes before"),
    (r'{"\ud800":{%s}}' % ENTRY, bytes(4), "no text"),
    (r'{"\ud83d\ude00":{%s}}' % ENTRY, bytes(4), None),
    ('{"a\tb":{%s}}' % ENTRY, bytes(4), "no JSON"),
    (b'{"\xff":{%s}}' % ENTRY.encode(), bytes(4), "no JSON"),
    (b'{"\xed\xa0\x80":{%s}}' % ENTRY.encode(), bytes(4), "no JSON"),
    (b"\xef\xbb\xbf{}", b"", "no JSON"),
    ("{}".encode("utf-16"), b"", "no JSON"),
    ('{"__metadata__":null}', b"", None),
    ('{"__metadata__":{}}', b"", None),
    ('{"__metadata__":{"a":1}}', b"", "'a' is a number, not a string"),
    ('{"__metadata__":{"a":null}}', b"", "'a' is null"),
    ('{"__metadata__":{"a":{}}}', b"", "'a' is an object"),
    ('{"__metadata__":[]}', b"", "a list, not an object"),
    ('{"__metadata__":"x"}', b"", "a string, not an object"),
    ('{"__metadata__":{},"__metadata__":{}}', b"", "'__metadata__' comes twice"),
    (r'{"__metadata__":{"a":"\ud800"}}', b"", "not a string"),
    ('{"__metadata__":{"a" "b"}}', b"", "no JSON"),
    ('{"__metadata__":{"a":"b"', b"", "no JSON"),
]  # fmt: skip
# What the library takes, and we do not.
STRICTER = [
    ('{"a":{%s},"a":{%s}}' % (ENTRY, ENTRY), bytes(4), "'a'"),
    ('{"a":{%s,"x":1,"x":2}}' % ENTRY, bytes(4), "'x' comes twice"),
    ('{"__metadata__":{"a":"b","a":"c"}}', b"", "'a' comes twice"),
    ('{"a":["F32",[1],[0,4]]}', bytes(4), "a list, not an object"),
    (ONE % ('{"F32":null}', "[1]", "[0,4]"), bytes(4), "dtype is an object"),
]


def judged_id(value):
    return f"{value!s:.60}" if isinstance(value, (str, bytes)) and len(value) < 200 else "long"


@pytest.mark.parametrize(("header", "data", "words"), JUDGED, ids=judged_id)
def test_headers_are_judged_as_by_the_library(tmp_path, header, data, words):
    path = write(tmp_path / "a.safetensors", header, data)
    if words is None:
        assert dict(facts(vs.open(path))) == library_opens(path)
    else:
        with pytest.raises(CheckpointError) as caught:
            vs.open(path)
        assert words in str(caught.value) and str(caught.value).startswith(f"{path}: ")
        assert library_opens(path) is None


@pytest.mark.parametrize(("header", "data", "words"), STRICTER, ids=judged_id)
def test_where_we_are_stricter(tmp_path, header, data, words):
    path = write(tmp_path / "a.safetensors", header, data)
    with pytest.raises(CheckpointError) as caught:
        vs.open(path)
    assert words in str(caught.value)
    assert library_opens(path) is not None


TOKENS = [
    "0", "1", "4", "8", "-1", "-0", "1e1", "2.0", "null", "true", '""', '"a"', '"F32"', '"F16"',
    '"U8"', '"F4"', '"dtype"', '"shape"', '"data_offsets"', '"__metadata__"', "[]", "{}", "[0,4]",
    "[4,8]", ",", ":", "[", "]", "{", "}", " ", "\n", "\\u0061", "\\", '"', "18446744073709551616",
    "9223372036854775807", "4294967296", "é", "\x01",
]  # fmt: skip
GOOD = [
    json.dumps(dict(noted(*header_of(ARRAYS)), **{"__metadata__": {"a": "b", "c": "\n"}})),
    '{"a":{%s}}' % ENTRY,
    '{"a":{"data_offsets":[0,4],"shape":[2,1],"dtype":"U16"},"b":{"dtype":"U8","shape":[4],'
    '"data_offsets":[4,8]},"__metadata__":{"x":"y"}}  ',
    '{"b":{"dtype":"F64","shape":[],"data_offsets":[0,8]},"é":{"dtype":"F4","shape":[0,2],'
    '"data_offsets":[8,8]}}',
]


@st.composite
def damaged_headers(draw):
    text = draw(st.sampled_from(GOOD))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 6))
        text = text[:at] + draw(st.sampled_from(["", *TOKENS])) + text[at + length :]
    return text.encode()


@settings(max_examples=300)
@given(damaged_headers(), st.sampled_from([0, 4, 8, 88, 89]))
def test_damaged_headers_are_judged_as_by_the_library(tmp_path_factory, header, room):
    path = write(tmp_path_factory.getbasetemp() / "damaged", header, bytes(room))
    expected = library_opens(path)
    try:
        found = dict(facts(vs.open(path)))
    except CheckpointError as error:
        assert str(path) in str(error)
        if expected is not None:
            assert only_the_library_takes(header)
        return
    assert found == expected


@settings(max_examples=800)
@given(damaged_headers())
def test_the_scan_says_what_json_says_or_nothing(header):
    check_scan(header)


def test_the_scan_takes_what_libraries_write(tmp_path):
    entries, _ = header_of(ARRAYS)
    usual = json.dumps(dict({"__metadata__": {"a": '{"b":"c"}'}}, **entries))
    for text in (usual, usual + "    ", usual.replace(" ", ""), usual.replace(" ", " \n\t")):
        names, dtypes, shapes, _, metadata = _scopecore.scan_header(text.encode())
        assert names == list(ARRAYS)
        assert shapes == [array.shape for array in ARRAYS.values()]
        assert dtypes[0] is dtypes[3] and json.loads(metadata) == {"a": '{"b":"c"}'}
    many = {str(i): {"dtype": "F32", "shape": [i % 7], "data_offsets": [0, 0]} for i in range(999)}
    shapes = _scopecore.scan_header(json.dumps(many).encode())[2]
    assert len({id(shape) for shape in shapes}) == 7


def test_what_the_scan_leaves_to_json():
    assert _scopecore.scan_header(b"{}") == ([], [], [], b"", None)
    odd = [r'{"a\u0062":{%s}}' % ENTRY, '{"a":{%s,"x":1}}' % ENTRY, '{"__metadata__":null}']
    odd += [ONE % ('"F32"', "[%s]" % n, "[0,4]") for n in ("1" + "0" * 18, "01", "1e0", "-1", "+1")]
    odd += [ONE % ('"F32"', "[268435456,268435457]", "[0,4]"), ONE % ('"F32"', [1] * 65, "[0,4]")]
    for text in odd:
        assert _scopecore.scan_header(text.encode()) is None
    whole = GOOD[0].encode()
    assert _scopecore.scan_header(whole) is not None
    for end in range(len(whole)):
        assert _scopecore.scan_header(whole[:end]) is None


@pytest.mark.parametrize("text", ['{"a":{"shape":[', '{"', '{"a":{"shape":[1,', "{", '{"a":{'])
def test_the_scan_takes_time_in_proportion(text):
    # What ended each entry is missing: none may be looked for again and again.
    _scopecore.scan_header((text * 200_000).encode())
    _scopecore.scan_header((text + " " * 10**7).encode())


# --- damage


@on_posix
@pytest.mark.parametrize("shape", [(1000,), (5_000_000,)], ids=["many", "large"])
def test_verify_of_a_file_that_was_cut_after_it_was_opened(tmp_path, shape):
    """Reading what is gone through the map would end the process."""
    require("safetensors", '"varscope-core[checkpoints]"')
    path = tmp_path / "m.safetensors"
    graph = vs.Graph(seed=1)
    with graph.as_default():
        for i in range(3):
            vs.get_variable(f"v{i}", shape)
    vs.save(graph, path)
    checkpoint = vs.open(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=r"tensor 'v[012]': the file ends at byte [0-9,]+"):
        checkpoint.verify()


def test_a_file_cut_at_every_byte(file):
    whole = file.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    for size in range(len(whole)):
        path = file.with_name(str(size))
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError) as caught:
            vs.open(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert library_opens(path) is None
        if size >= 8 + length:
            named = [name for name in ARRAYS if f"{name!r}" in str(caught.value)]
            assert named == [caught.value.tensor]


def test_every_bit_of_a_header_flipped(file):
    """An error, or other facts, of which a restore tells; never other values under the same."""
    entries, data = header_of({"a/w": np.ones((2, 1), np.float32), "b": np.array(7)})
    write(file, noted(entries, data, partitions={"a/w": [2, 1]}), data)
    before = told(vs.open(file))
    whole = file.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    refusals = 0
    for bit in range(8 * (8 + length)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path = file.with_name(str(bit))
        path.write_bytes(flipped)
        try:
            checkpoint = vs.open(path)
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ")
            refusals += 1
            continue
        after = told(checkpoint)
        try:
            checkpoint.verify()
        except CheckpointError as error:
            assert error.tensor in checkpoint
            continue
        if after["facts"] == before["facts"]:
            assert after["values"] == before["values"]
    assert refusals > 6 * length


def told(checkpoint):
    facts = [checkpoint.names, checkpoint.dtype_names, checkpoint.shapes, checkpoint.partitions]
    return {"facts": facts, "values": [t.value().tobytes() for t in checkpoint.values()]}


def test_flipped_data_is_found(tmp_path):
    arrays = {f"w{i}": np.random.default_rng(i).random(20 + i) for i in range(8)}
    entries, data = header_of(arrays)
    path = tmp_path / "a.safetensors"
    for at in range(0, len(data), 64):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at // 64 % 8
        checkpoint = vs.open(write(path, noted(entries, data), bytes(flipped)))
        (name,) = (
            n for n, e in entries.items() if e["data_offsets"][0] <= at < e["data_offsets"][1]
        )
        with pytest.raises(CheckpointError, match=rf"tensor '{name}': its bytes") as caught:
            checkpoint.verify()
        assert caught.value.path == path and caught.value.tensor == name
        for other in arrays:
            if other != name:
                checkpoint[other].verify()
        with pytest.raises(CheckpointError, match="CRC-32C"):
            checkpoint[name].verify()


def test_large_tensors_are_verified_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("varscope.checkpoint.contents.BLOCK", 100)
    monkeypatch.setattr("varscope.checkpoint.contents.REPORT", -1)
    arrays = {f"w{i}": np.random.default_rng(i).random(i * 7 % 30) for i in range(30)}
    entries, data = header_of(arrays)
    path = write(tmp_path / "a.safetensors", noted(entries, data), data)
    told = []
    vs.open(path).verify(lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {len(data)}
    dones = [done for done, _ in told]
    assert dones == sorted(dones) and dones[-1] == len(data) and len(set(dones)) > 30
    for name, entry in entries.items():
        if entry["data_offsets"][1] > entry["data_offsets"][0]:
            flipped = bytearray(data)
            flipped[entry["data_offsets"][1] - 1] ^= 1
            path = write(tmp_path / "a.safetensors", noted(entries, data), bytes(flipped))
            with pytest.raises(CheckpointError, match=f"tensor '{name}'"):
                vs.open(path).verify()


def test_what_has_no_checksums_verifies(tmp_path):
    entries, data = header_of(ARRAYS)
    told = []
    checkpoint = vs.open(write(tmp_path / "a", entries, data))
    checkpoint.verify(lambda done, total: told.append((done, total)))
    assert told[-1] == (88, 88)
    checkpoint["step"].verify()


# --- malice


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "is empty"),
        (b"{}", "it has 2 bytes"),
        (struct.pack("<Q", 2**64 - 1), "would have 18,446,744,073,709,551,615 bytes"),
        (struct.pack("<Q", 100_000_001), "100,000,000 are the most"),
        (struct.pack("<Q", 100_000_000), "0 are left in the file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "no safetensors file"),
        (b"PK\x03\x04\x00\x00\x00\x00" + bytes(100), "no safetensors file"),
        (pickle.dumps([1] * 100, 2), "no safetensors file"),
    ],
)
def test_what_is_no_such_file(tmp_path, start, words):
    path = tmp_path / "a.safetensors"
    path.write_bytes(start)
    refused(path, words)
    assert library_opens(path) is None


def test_what_is_neither_kind_of_checkpoint(tmp_path):
    for start in (b"", b"junk", b"junk" * 9):
        (tmp_path / "junk").write_bytes(start)
        refused(tmp_path / "junk", "safetensors file", "there is no junk.index")
        (tmp_path / "junk.safetensors").write_bytes(start)
        assert "TensorFlow" not in str(refused(tmp_path / "junk.safetensors"))


def test_a_file_that_is_too_large_to_be_mapped(file, monkeypatch):
    def refuse(*arguments, **options):
        raise ValueError("mmap length is too large")

    monkeypatch.setattr(safetensors_files.mmap, "mmap", refuse)
    refused(file, "cannot be mapped into memory: mmap length is too large")


def test_memory_is_bounded_by_the_file(tmp_path):
    """Nothing is allocated because a file says that it is large."""
    huge = [
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"a": {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]}},
        {"a": {"dtype": "U8", "shape": [2**40, 0], "data_offsets": [0, 0]}},
        {"__metadata__": {"varscope": '{"version":1,"dtypes":{"a":"|S0"}}'},
         "a": {"dtype": "U8", "shape": [2**40, 0], "data_offsets": [0, 0]}},
        {"__metadata__": {"varscope": '{"version":1,"dtypes":{"a":"|V999999999"}}'},
         "a": {"dtype": "U8", "shape": [0, 999999999], "data_offsets": [0, 0]}},
        {"a": {"dtype": "U8", "shape": [0] + [1] * 99, "data_offsets": [0, 0]}},
        {"a": {"dtype": "F64", "shape": [0, 2**62], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F64", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}},
    ]  # fmt: skip
    vs.open(write(tmp_path / "a", {})).verify()
    tracemalloc.start()
    for header in huge:
        with contextlib.suppress(CheckpointError):
            checkpoint = vs.open(write(tmp_path / "a", header))
            assert checkpoint["a"].value().nbytes == 0
            checkpoint.verify()
    for start in (struct.pack("<Q", 99_999_999), b"\xff" * 20):
        (tmp_path / "a").write_bytes(start)
        refused(tmp_path / "a")
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_memory_is_bounded_by_the_index(tmp_path):
    sharded(tmp_path, SHARDS)
    assert len(vs.open(tmp_path)) == 3
    tracemalloc.start()
    vs.open(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_what_numpy_cannot_have_is_an_error_of_the_file(tmp_path):
    header = {"a": {"dtype": "F64", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}}
    checkpoint = vs.open(write(tmp_path / "a", header))
    with pytest.raises(CheckpointError, match=r"a: tensor 'a': NumPy has no array of shape"):
        checkpoint["a"].value()


def test_a_name_that_comes_twice(tmp_path):
    path = write(tmp_path / "a", '{"a b":{%s},"a b":{%s}}' % (EMPTY % 0, ENTRY), bytes(4))
    refused(path, "twice", tensor="a b")


GOOD_NOTES = {"version": 1, "crc32c": "00" * 4}


@pytest.mark.parametrize(
    ("notes", "words", "tensor"),
    [
        ("", "no JSON", None),
        ("[]", "a list, not an object", None),
        ("1", "a number", None),
        ("[" * 10**5, "too deep", None),
        ('{"version":1,"version":1}', "comes twice", None),
        ("{}", "version None", None),
        ('{"version":"1"}', "version '1'", None),
        ('{"version":true}', "version True", None),
        ('{"version":2}', "a newer one is needed", None),
        ('{"version":1,"crc32c":"0"}', "eight hex digits for each of 1", None),
        ('{"version":1,"crc32c":"0000000g"}', "eight hex digits", None),
        ('{"version":1,"crc32c":"00 00 00"}', "eight hex digits", None),
        (
            '{"version":1,"crc32c":"\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660"}',
            "eight hex digits",
            None,
        ),
        ('{"version":1,"crc32c":[0]}', "eight hex digits", None),
        ('{"version":1,"crc32c":"%s"}' % ("0" * 16), "eight hex digits", None),
        ('{"version":1,"partitions":[]}', "a list as 'partitions'", None),
        ('{"version":1,"partitions":{"b":[1]}}', "no such tensor", "b"),
        ('{"version":1,"partitions":{"a":1}}', "the partitions 1", "a"),
        ('{"version":1,"partitions":{"a":[1,1]}}', "not 1 numbers", "a"),
        ('{"version":1,"partitions":{"a":[0]}}', "from 1 on", "a"),
        ('{"version":1,"partitions":{"a":[true]}}', "from 1 on", "a"),
        ('{"version":1,"partitions":{"a":[1.0]}}', "from 1 on", "a"),
        ('{"version":1,"partitions":{"a":[99999999999999999999]}}', "from 1 on", "a"),
        ('{"version":1,"dtypes":"x"}', "a string as 'dtypes'", None),
        ('{"version":1,"dtypes":{"b":"<c16"}}', "no such tensor", "b"),
        ('{"version":1,"dtypes":{"a":null}}', "null as its dtype", "a"),
        ('{"version":1,"dtypes":{"a":"<c16"}}', "an element has 4 bytes", "a"),
    ],
)
def test_notes_that_do_not_fit(tmp_path, notes, words, tensor):
    entry = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
    header = {"__metadata__": {"varscope": notes}, "a": entry}
    path = write(tmp_path / "a.safetensors", header, bytes(4))
    refused(path, words, tensor=tensor)


def test_notes_of_a_dtype_on_what_is_not_stored_as_bytes(tmp_path):
    notes = {"varscope": '{"version":1,"dtypes":{"a":"<c8"}}'}
    for entry in ({"dtype": "F32", "shape": [8]}, {"dtype": "U8", "shape": []}):
        nbytes = 32 if entry["shape"] else 1
        header = {"__metadata__": notes, "a": {**entry, "data_offsets": [0, nbytes]}}
        path = write(tmp_path / "a.safetensors", header, bytes(nbytes))
        refused(path, "not stored as bytes of elements", tensor="a")


@pytest.mark.parametrize(
    "dtype",
    ["O", "|O8", "object", "f4,O", "(2,)f4", "float999", "a10", "int0", "V", "", "<i3",
     "<U999999999", "<M8[zz]", "__import__('os')", "numpy.float64", "os.system", "é",
     "x" * 10**6, "finfo", '[["a","O"]]', '{"names":["a"],"formats":["O"]}'],
)  # fmt: skip
def test_dtypes_that_are_none_cannot_be_read(tmp_path, dtype):
    header = {
        "__metadata__": {"varscope": json.dumps({"version": 1, "dtypes": {"a": dtype}})},
        "a": {"dtype": "U8", "shape": [1, 8], "data_offsets": [0, 8]},
    }
    path = write(tmp_path / "a.safetensors", header, bytes(8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError) as caught:
            vs.open(path)["a"].value()
    assert caught.value.tensor == "a" and len(str(caught.value)) < 1000


@pytest.mark.parametrize("dtype", ["complex128", "<c16", ">f8", "|S5", "<M8[ns]", "<U2"])
def test_dtypes_that_the_format_lacks(tmp_path, dtype):
    values = np.arange(6).astype(dtype).reshape(2, 3)
    shape = [*values.shape, values.dtype.itemsize]
    entries = {"a": {"dtype": "U8", "shape": shape, "data_offsets": [0, values.nbytes]}}
    header = noted(entries, values.tobytes(), dtypes={"a": dtype}, partitions={"a": [2, 1]})
    checkpoint = vs.open(write(tmp_path / "a", header, values.tobytes()))
    assert_same(checkpoint["a"].value(), values)
    assert checkpoint["a"].dtype == values.dtype and checkpoint.dtype_names == [dtype]
    assert checkpoint.shapes == [(2, 3)] and checkpoint["a"].partitions == (2, 1)
    assert checkpoint.partitions == {"a": (2, 1)}
    checkpoint.verify()


# --- folders


@pytest.mark.parametrize("what", ["folder", "index", "text"])
def test_several_files_are_one_checkpoint(tmp_path, what):
    sharded(tmp_path, SHARDS)
    path = {"folder": tmp_path, "index": tmp_path / INDEX, "text": str(tmp_path)}[what]
    checkpoint = vs.open(path)
    assert list(checkpoint) == ["a", "b", "c"] and str(checkpoint.path) == str(path)
    assert [file.name for file in checkpoint.files] == list(SHARDS)
    assert checkpoint.metadata["format"] == "pt" and "varscope" not in checkpoint.metadata
    for file, arrays in SHARDS.items():
        for name, array in arrays.items():
            assert_same(checkpoint[name], array)
            assert checkpoint[name].file == tmp_path / file
    checkpoint.verify()


def test_a_folder_with_one_file(tmp_path):
    entries, data = header_of(ARRAYS)
    write(tmp_path / "model.safetensors", entries, data)
    assert list(vs.open(tmp_path)) == list(ARRAYS)
    (tmp_path / "sub").mkdir()
    refused(tmp_path / "sub", "no checkpoint in this folder", INDEX)
    with pytest.raises(FileNotFoundError):
        vs.open(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        vs.open(tmp_path / "other.index.json")
    with pytest.raises(FileNotFoundError):  # not the current folder
        vs.open("")
    with pytest.raises(ArgumentTypeError, match="path must be a str or a path"):
        vs.open(b"a")


def test_some_files_with_checksums_and_some_without(tmp_path):
    sharded(tmp_path, SHARDS)
    entries, data = header_of(SHARDS["model-00002-of-00002.safetensors"])
    path = write(tmp_path / "model-00002-of-00002.safetensors", entries, data)
    vs.open(tmp_path).verify()
    write(path, entries, b"\1" * len(data))
    vs.open(tmp_path).verify()
    first = tmp_path / "model-00001-of-00002.safetensors"
    first.write_bytes(first.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CheckpointError, match="tensor 'b'"):
        vs.open(tmp_path).verify()


def test_an_index_of_nothing(tmp_path):
    checkpoint = vs.open(sharded(tmp_path, {}))
    assert len(checkpoint) == 0 and checkpoint.files == [] and checkpoint.metadata == {}
    checkpoint.verify()


def test_files_in_folders_below(tmp_path):
    (tmp_path / "part").mkdir()
    assert list(vs.open(sharded(tmp_path, {"part/one.safetensors": {"a": np.ones(2)}}))) == ["a"]


@pytest.mark.parametrize(
    "name",
    ["../secret", "a/../../secret", "/etc/passwd", "..", ".", "", "a\0b", "\\\\host\\share\\a",
     "C:\\a", "C:a", "..\\secret", "a\\..\\..\\secret", "\ud800", "//host/a", "/"],
)  # fmt: skip
def test_an_index_cannot_lead_out_of_its_folder(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    entries, data = header_of({"a": np.ones(2)})
    write(tmp_path / "secret", entries, data)
    sharded(folder, {}, {"a": name})
    refused(folder, "a file beside the index is needed", where=folder / INDEX)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[" * 10**5, "no JSON"),
        ("1" * 5000, "no JSON"),
        (b"\xff", "no JSON"),
        ("[]", "no 'weight_map'"),
        ("{}", "no 'weight_map'"),
        ('{"weight_map":[]}', "no 'weight_map'"),
        ('{"weight_map":{"a":1}}', "no 'weight_map'"),
        ('{"weight_map":{"a":["x"]}}', "no 'weight_map'"),
        ('{"weight_map":{"a":null}}', "no 'weight_map'"),
        ('{"weight_map":{"a":"gone.safetensors"}}', "lists 'gone.safetensors', which is not there"),
        ('{"weight_map":{"a":"%s/x"}}' % INDEX, "lists 'x', which is not there"),
        ('{"weight_map":{"a":"%s"}}' % ("x" * 3000), "xxx, which is not there"),
    ],
)
def test_an_index_that_is_none(tmp_path, text, words):
    (tmp_path / INDEX).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(tmp_path, words, where=tmp_path / INDEX)


def test_an_index_that_lists_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    refused(sharded(tmp_path, {}, {"a": "a"}), "this is no file", where=tmp_path / "a")


def test_an_index_and_files_that_disagree(tmp_path):
    one, two = SHARDS
    good = {"a": one, "b": one, "c": two}
    sharded(tmp_path, SHARDS, {**good, "d": two})
    refused(tmp_path, f"{INDEX} says that it is in this file", tensor="d", where=tmp_path / two)
    sharded(tmp_path, SHARDS, {"a": one, "c": two})
    refused(tmp_path, f"{INDEX} does not list it", tensor="b", where=tmp_path / one)
    sharded(tmp_path, SHARDS, {**good, "b": two})
    refused(tmp_path, f"says that it is in '{two}'", tensor="b", where=tmp_path / one)
    sharded(tmp_path, {**SHARDS, two: {"a": np.ones(1), "c": np.ones(1)}}, good)
    refused(tmp_path, f"also in '{one}'", tensor="a", where=tmp_path / two)


def test_a_file_of_an_index_that_is_damaged(tmp_path):
    sharded(tmp_path, SHARDS)
    _, two = SHARDS
    (tmp_path / two).write_bytes((tmp_path / two).read_bytes()[:-1])
    refused(tmp_path, "cut off", tensor="c", where=tmp_path / two)


def test_a_folder_that_is_saved_to_while_it_is_opened(tmp_path, monkeypatch):
    sharded(tmp_path, SHARDS)
    map_file, opened = safetensors_files.map_file, []

    def map_after_a_save(path):
        opened.append(path.name)
        number = len(opened)
        if number in (2, 4, 6):  # the second file of an index is gone
            name = f"model-{number}-{{}}.safetensors"
            sharded(tmp_path, {name.format(i): {f"new{i}": np.ones(number)} for i in (1, 2)})
            path.unlink()
        return map_file(path)

    monkeypatch.setattr(safetensors_files, "map_file", map_after_a_save)
    checkpoint = vs.open(tmp_path)
    assert list(checkpoint) == ["new1", "new2"] and checkpoint.shapes == [(6,), (6,)]


def test_a_folder_that_changes_for_ever(tmp_path, monkeypatch):
    sharded(tmp_path, {}, {"a": "gone"})
    count = iter(range(10**6))

    def index_text(index):
        return json.dumps({"weight_map": {"a": "gone"}, "n": next(count)}).encode()

    monkeypatch.setattr(safetensors_files, "index_text", index_text)
    refused(tmp_path, "replaced again and again", where=tmp_path / INDEX)


@on_posix
def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "this is no file")
    refused(
        sharded(tmp_path, {}, {"a": "a.safetensors"}), "no file", where=tmp_path / "a.safetensors"
    )
    os.mkfifo(tmp_path / "x.index.json")
    refused(tmp_path / "x.index.json", "this is no file")


@on_posix
def test_links_are_followed(tmp_path):
    """As caches of downloads have them: names that lead to files elsewhere."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    sharded(tmp_path / "blobs", SHARDS)
    for number, file in enumerate((tmp_path / "blobs").iterdir()):
        name = file.name
        file = file.rename(tmp_path / "blobs" / str(number))
        (tmp_path / "snapshot" / name).symlink_to(file)
    assert list(vs.open(tmp_path / "snapshot")) == ["a", "b", "c"]


# --- many


def test_many_threads_read_one_checkpoint(file):
    checkpoint, wrong = vs.open(file), []

    def work():
        for _ in range(50):
            checkpoint.verify()
            for name, array in ARRAYS.items():
                if checkpoint[name].value().tobytes() != array.tobytes():
                    wrong.append(name)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert not wrong


def test_errors_are_of_the_library(tmp_path):
    for kind in (VarscopeError, ValueError):
        with pytest.raises(kind):
            vs.open(write(tmp_path / "a", "{"))


@pytest.mark.slow
def test_half_a_million_names(tmp_path):
    count = 500_000
    names = [f"layers_{i // 600}/experts_{i // 6}/w{i % 6}" for i in range(count)]
    entries = {
        name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [16 * i, 16 * i + 16]}
        for i, name in enumerate(names)
    }
    data = np.arange(4 * count, dtype=np.float32).tobytes()
    checkpoint = vs.open(write(tmp_path / "a", noted(entries, data), data))
    checkpoint.verify()
    assert checkpoint.names == names and checkpoint[names[-1]].value()[1, 1] == 4 * count - 1


def test_more_files_than_may_be_open(tmp_path):
    require("safetensors", '"varscope-core[checkpoints]"')
    resource = pytest.importorskip("resource", reason="limits of a process are those of POSIX")
    graph = vs.Graph(seed=1)
    with graph.as_default():
        for number in range(40):
            vs.get_variable(f"v{number}", [10])
    vs.save(graph, tmp_path, max_shard_size=40)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, hard))
    try:
        with pytest.raises(OSError, match="40 files, more than this process may have open"):
            vs.open(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(vs.open(tmp_path)) == 40
