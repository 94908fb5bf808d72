"""Opening safetensors files and folders of them, those of others too, and reading from them."""

import contextlib
import gc
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
from requires import on_posix, require, require_large, require_ml_dtypes
from written_files import (
    ARRAYS,
    INDEX,
    SHARDS,
    assert_same,
    header_of,
    noted,
    refused,
    sharded,
    write,
)

import varscope as vs
from varscope import _scopecore
from varscope.checkpoint import safetensors_files
from varscope.errors import ArgumentTypeError, CheckpointError, VarscopeError


@pytest.fixture
def file(tmp_path):
    """A file as varscope writes it."""
    entries, data = header_of(ARRAYS)
    return write(tmp_path / "a.safetensors", noted(entries, data), data)


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


# --- the scan of a header


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


# --- verifying


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


# --- what is none


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
