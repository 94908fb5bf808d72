"""Memory that variables share with others: DLPack, buffers, and arrays that were adopted."""

import array as arrays
import contextlib
import copy
import ctypes
import gc
import importlib.util
import mmap
import pickle
import subprocess
import sys
import threading
import types
import weakref
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from requires import on_posix, require_ml_dtypes, set_shape

import varscope as vs
from varscope import _scopecore, memory
from varscope.errors import AdoptionError, ArgumentTypeError
from varscope.shapes import as_dtype

NUMBERS = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
NUMBERS += ["float16", "float32", "float64", "complex64", "complex128"]
HAS_ML_DTYPES = importlib.util.find_spec("ml_dtypes") is not None
EXTENSIONS = [
    pytest.param(name, marks=pytest.mark.skipif(not HAS_ML_DTYPES, reason="needs ml_dtypes"))
    for name in memory.EXTENSIONS
]
SHAPES = [(), (3,), (2, 3), (0,), (3, 0, 2), (1, 1)]


def address(array):
    return _scopecore.locate([array])[0]


def numbers(shape, dtype="float32"):
    return np.array(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2, as_dtype(dtype))


def watched(gone):
    """An array whose memory tells when it goes."""
    owner = type("Watched", (bytearray,), {})(32)
    weakref.finalize(owner, gone.append, 1)
    return np.frombuffer(owner, np.float64)


class Plain:
    """What gives an array's memory by DLPack, and by nothing else."""

    def __init__(self, array):
        self.path, self.array, self.dtype = "x", array, array.dtype

    def __dlpack__(self, **arguments):
        return memory.capsule(self, **arguments)

    def __dlpack_device__(self):
        return memory.CPU


# --- DLPack to others


@pytest.mark.parametrize("dtype", [*NUMBERS, *EXTENSIONS])
def test_a_capsule_tells_what_the_variable_is(dtype):
    for number, shape in enumerate(SHAPES):
        v = vs.get_variable(f"v_{number}", initializer=numbers(shape, dtype))
        for version in (None, (0, 8), (1, 0), (1, 1), (1, 9), (2, 0)):
            taken = _scopecore.Imported(v.__dlpack__(max_version=version))
            assert (taken.shape, taken.bits, taken.lanes) == (shape, 8 * v.dtype.itemsize, 1)
            assert taken.device == 1 and taken.contiguous
            assert memory.dtype_of("v", taken) == v.dtype
            if version is None or version < (1, 0):
                assert taken.writable is None
                continue
            assert taken.writable is True
            shown = np.frombuffer(taken, np.uint8)
            assert shown.tobytes() == v.numpy().tobytes()
            assert shown.size == 0 or address(shown) == address(v.array)


def newest_numpy():
    return np.lib.NumpyVersion(np.__version__) >= "2.1.0"


def test_numpy_takes_it_writable_where_it_can():
    v = vs.get_variable("v", initializer=numbers((2, 3)))
    seen = np.from_dlpack(v)
    assert address(seen) == address(v.array) and seen.shape == (2, 3)
    if newest_numpy():
        seen[0, 0] = 9
        assert v.numpy()[0, 0] == 9
        other = np.from_dlpack(v, copy=True)
        assert not np.shares_memory(other, v.array) and other.tolist() == v.numpy().tolist()
        assert np.shares_memory(np.from_dlpack(v, copy=False, device="cpu"), v.array)


def test_a_copy_is_a_copy():
    v = vs.get_variable("v", initializer=numbers((4,)))
    taken = np.frombuffer(_scopecore.Imported(v.__dlpack__(copy=True, max_version=(1, 0))), "f4")
    assert not np.shares_memory(taken, v.array) and taken.tolist() == v.numpy().tolist()


def test_what_dlpack_does_not_give(refused):
    v = vs.get_variable("v", initializer=numbers((2,)))
    with refused(BufferError, "variable v", "stream=None"):
        v.__dlpack__(stream=1)
    with refused(BufferError, "variable v", "(2, 0)", "(1, 0)"):
        v.__dlpack__(dl_device=(2, 0))
    assert v.__dlpack_device__() == (1, 0) and v.__dlpack__(dl_device=(1, 0))
    for number, dtype in enumerate((">f4", "datetime64[s]", "S3", "V4")):
        odd = vs.get_variable(f"odd_{number}", [2], dtype, initializer=lambda s, d: np.zeros(s, d))
        with refused(BufferError, f"variable odd_{number}"):
            odd.__dlpack__()


def test_numbers_of_less_than_a_byte_have_no_code(refused):
    require_ml_dtypes()
    v = vs.get_variable("v", [2], "int4", initializer=vs.zeros)
    with refused(BufferError, "int4", "no code"):
        v.__dlpack__()
    assert not v.initialized


def test_a_capsule_without_a_version_cannot_be_read_only():
    array = numbers((3,))
    array.flags.writeable = False
    with pytest.raises(BufferError, match="read-only"):
        memory.capsule(Plain(array))
    assert _scopecore.Imported(memory.capsule(Plain(array), max_version=(1, 0))).writable is False


@pytest.mark.parametrize("version", [None, (1, 0)])
@pytest.mark.parametrize("used", [False, True])
def test_what_was_exported_lives_as_long_as_it_is_held(version, used):
    gone = []
    array = watched(gone)
    capsule = memory.capsule(Plain(array), max_version=version)
    held = _scopecore.Imported(capsule) if used else None
    del array
    if used:
        del capsule
    gc.collect()
    assert not gone
    if used:
        things = [held]
        del held
        thread = threading.Thread(target=things.clear)
        thread.start()
        thread.join()
    else:
        del capsule
    gc.collect()
    assert gone == [1]


class Tensor(ctypes.Structure):
    """As dlpack.h lays it down, read by somebody else than the core."""

    _fields_: ClassVar = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_: ClassVar = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", DELETER)]


class Versioned(ctypes.Structure):
    _fields_: ClassVar = [
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("context", ctypes.c_void_p),
        ("deleter", DELETER), ("flags", ctypes.c_uint64), ("tensor", Tensor),
    ]  # fmt: skip


@pytest.mark.parametrize(("version", "layout"), [(None, Managed), ((1, 0), Versioned)])
def test_a_consumer_in_c_reads_it_and_calls_the_deleter_without_the_gil(version, layout):
    gone = []
    array = watched(gone).reshape(2, 2)
    capsule = Plain(array).__dlpack__(max_version=version)
    name = b"dltensor" if version is None else b"dltensor_versioned"
    python = ctypes.pythonapi
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    python.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
    place = python.PyCapsule_GetPointer(capsule, name)
    used = ctypes.create_string_buffer(b"used_" + name)
    python.PyCapsule_SetName(capsule, ctypes.cast(used, ctypes.c_char_p))
    found = layout.from_address(place)
    tensor = found.tensor
    assert (tensor.data, tensor.byte_offset, tensor.ndim) == (address(array), 0, 2)
    assert (tensor.device_type, tensor.device_id) == memory.CPU
    assert (tensor.code, tensor.bits, tensor.lanes) == (2, 64, 1)
    assert (tensor.shape[:2], tensor.strides[:2]) == ([2, 2], [2, 1])
    if version is not None:
        assert (found.major, found.minor, found.flags) == (1, 0, 0)
    del array, capsule
    gc.collect()
    assert not gone
    thread = threading.Thread(target=found.deleter, args=(place,))  # ctypes lets go of the GIL
    thread.start()
    thread.join()
    gc.collect()
    assert gone == [1]


@pytest.mark.parametrize(
    ("code", "bits", "lanes"),
    [(0, 4, 1), (0, 8, 4), (2, 80, 1), (2, 128, 1), (2, 8, 1), (3, 64, 1), (4, 32, 1), (5, 32, 1),
     (6, 1, 1), (6, 16, 1), (9, 16, 1), (17, 4, 1), (99, 8, 1), (0, 0, 1), (0, 128, 1)],
)  # fmt: skip
def test_codes_that_numpy_does_not_have(code, bits, lanes):
    odd = types.SimpleNamespace(code=code, bits=bits, lanes=lanes)
    with pytest.raises(AdoptionError, match=f"code {code} with {bits} bits and {lanes} lanes"):
        memory.dtype_of("v", odd)


def test_a_capsule_is_used_once():
    capsule = memory.capsule(Plain(numbers((3,))))
    first = _scopecore.Imported(capsule)
    with pytest.raises(BufferError, match="used already"):
        _scopecore.Imported(capsule)
    with pytest.raises(BufferError, match="no DLPack capsule"):
        _scopecore.Imported("nonsense")
    with pytest.raises(TypeError, match="made once"):
        first.__init__(memory.capsule(Plain(numbers((3,)))))


# --- adopting


def bytes_of(kind):
    return {
        "bytearray": lambda: bytearray(b"abcd"),
        "array": lambda: arrays.array("d", [1.0, 2.0]),
        "memoryview": lambda: memoryview(bytearray(8)).cast("f"),
        "mmap": lambda: mmap.mmap(-1, 4096),
        "matrix": lambda: np.zeros((2, 2)).view(type("Sub", (np.ndarray,), {})),
        "numpy": lambda: numbers((2, 3)),
        "bytes of records": lambda: np.zeros(2, [("a", "f4"), ("b", "i2")]),
        "other byte order": lambda: np.zeros(3, ">f8"),
        "scalar": lambda: np.array(3.0),
        "empty": lambda: np.zeros((0, 2)),
        "dlpack": lambda: Plain(numbers((2, 3))),
    }[kind]()


KINDS = ["bytearray", "array", "memoryview", "mmap", "matrix", "numpy", "bytes of records"]
KINDS += ["other byte order", "scalar", "empty", "dlpack"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_adopted_is_not_copied(kind):
    source = bytes_of(kind)
    seen = np.asarray(source.array if kind == "dlpack" else source)
    v = vs.adopt("v", source)
    assert type(v) is vs.Variable and type(v.array) is np.ndarray
    assert (v.shape, v.dtype, v.initialized, v.version) == (seen.shape, seen.dtype, True, 1)
    assert v.size == 0 or address(v.array) == address(v.value()) == address(seen)
    v.assign(np.ones_like(seen))
    assert np.array_equal(seen, np.ones_like(seen))
    seen[...] = np.zeros_like(seen)
    assert np.array_equal(v.numpy(), np.zeros_like(seen))


@pytest.mark.parametrize("dtype", [*NUMBERS, *EXTENSIONS])
def test_every_dtype_by_dlpack(dtype):
    for number, shape in enumerate(SHAPES):
        source = numbers(shape, dtype)
        v = vs.adopt(f"v_{number}", Plain(source))
        w = vs.adopt(f"w_{number}", v)  # a variable is something with DLPack too
        for made in (v, w):
            assert (made.shape, made.dtype) == (shape, source.dtype)
            assert made.numpy().tobytes() == source.tobytes()
            assert made.size == 0 or address(made.array) == address(source)


def frozen(array):
    array.flags.writeable = False
    return array


def unaligned():
    return np.frombuffer(bytearray(9), np.uint8)[1:].view("f4")


class Elsewhere(Plain):
    def __dlpack_device__(self):
        return 2, 7


class Older(Plain):
    def __dlpack__(self):
        return memory.capsule(self)


class Broken(Plain):
    def __dlpack__(self, **arguments):
        raise BufferError("out of order")


class Strided(Plain):
    def __dlpack__(self, **arguments):
        return self.array.T.__dlpack__(max_version=(1, 0))


REFUSED = {
    "objects": (lambda: np.array([{}]), AdoptionError, "object; adopt numbers"),
    "text": (lambda: np.array(["a"]), AdoptionError, "adopt numbers"),
    "read-only": (lambda: frozen(np.zeros(3)), AdoptionError, "numpy.array(x)"),
    "bytes": (lambda: b"abcd", AdoptionError, "numpy.array(x)"),
    "fortran": (lambda: np.zeros((2, 3)).T, AdoptionError, "numpy.ascontiguousarray(x)"),
    "steps": (lambda: np.zeros(6)[::2], AdoptionError, "numpy.ascontiguousarray(x)"),
    "broadcast": (lambda: np.broadcast_to(1.0, (3,)), AdoptionError, "numpy.array(x)"),
    "unaligned": (unaligned, AdoptionError, "aligned"),
    "list": (lambda: [1.0, 2.0], ArgumentTypeError, "DLPack or the buffer protocol"),
    "number": (lambda: 3.0, ArgumentTypeError, "DLPack or the buffer protocol"),
    "None": (lambda: None, ArgumentTypeError, "DLPack or the buffer protocol"),
    "another device": (lambda: Elsewhere(np.zeros(3)), AdoptionError, "device (2, 7)"),
    "no version": (lambda: Older(np.zeros(3)), AdoptionError, "does not say"),
    "no capsule": (lambda: Broken(np.zeros(3)), AdoptionError, "out of order"),
    "read-only capsule": (lambda: Plain(frozen(np.zeros(3))), AdoptionError, "read-only"),
}
if newest_numpy():
    REFUSED["strides"] = (lambda: Strided(np.zeros((2, 3))), AdoptionError, "x.contiguous()")


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_adopted(case, refused):
    make, error, words = REFUSED[case]
    with refused(error, "v", words):
        vs.adopt("v", make())
    assert vs.adopt("v", np.zeros(2)).initialized


def test_it_is_a_variable_of_the_scope():
    array, device = numbers((2, 2)), []
    with vs.variable_scope("s", regularizer=vs.l2_regularizer(2.0), dtype="float64") as scope:
        v = vs.adopt("v", array, collections=["mine"], constraint=abs)
        w = vs.adopt(
            "a/w", np.ones(3), trainable=False, regularizer=vs.no_regularizer,
            caching_device=lambda variable: device.append(variable.path) or "cpu",
        )  # fmt: skip
    assert (v.name, w.op_name, device) == ("s/v:0", "s/a/w", ["s/a/w"])
    assert v.graph.get_collection("mine") == [v] and v.trainable and not w.trainable
    assert vs.trainable_variables() == [v] and vs.global_variables() == [w]
    assert v.dtype == "float32" and v.constraint is abs
    assert vs.get_regularization_loss() == pytest.approx((array**2).sum())
    assert v.creation_site[0] == __file__
    value = w.value()
    assert w.caching_device == "cpu" and value is w.value()
    assert w.assign([5, 6, 7]).value().tolist() == [5, 6, 7] != value.tolist()
    with vs.variable_scope(scope, reuse=True):
        assert vs.get_variable("v", [2, 2], "float32") is v


def test_sharing_one_that_is_there(refused):
    array = numbers((3,))
    v = vs.adopt("v", array)
    with refused(vs.errors.VariableExistsError, "v already exists"):
        vs.adopt("v", array)
    for mode in (True, vs.AUTO_REUSE):
        with vs.variable_scope("", reuse=mode):
            assert vs.adopt("v", array) is v and vs.adopt("v", v.array) is v
            with refused(AdoptionError, "v is there", "test_zero_copy.py", "other memory"):
                vs.adopt("v", array.copy())
            with refused(vs.errors.ShapeMismatchError, "(3,)", "(2,)"):
                vs.adopt("v", array[:2])
            with refused(vs.errors.DTypeMismatchError, "float32", "int32"):
                vs.adopt("v", array.view("int32"))
    with vs.variable_scope("", reuse=True), refused(vs.errors.VariableMissingError, "w"):
        vs.adopt("w", array)
    with vs.variable_scope("", reuse=vs.AUTO_REUSE):
        assert address(vs.adopt("w", array).array) == address(array)
        vs.get_variable("declared", [3])
        with refused(AdoptionError, "declared is there"):
            vs.adopt("declared", array)
        assert not vs.get_default_graph()["declared"].initialized


def test_partitioners_and_variables_in_parts(refused):
    cut = vs.fixed_size_partitioner(2)
    with vs.variable_scope("s", partitioner=cut):
        with refused(AdoptionError, "s/v", "partitioner is in force"):
            vs.adopt("v", numbers((4,)))
        assert vs.adopt("scalar", numbers(())).shape == ()  # which has no axis to cut along
    p = vs.get_variable("p", [4], partitioner=cut)
    with vs.variable_scope("", reuse=True), refused(AdoptionError, "p is there"):
        vs.adopt("p", numbers((4,)))
    assert not p[0].initialized


@pytest.mark.parametrize("storage", ["arena", pytest.param("files", marks=on_posix)])
def test_storages_that_keep_variables_together(storage, tmp_path, refused):
    storage = vs.MemoryMapped(tmp_path / "values") if storage == "files" else storage
    with vs.Graph(storage=storage).as_default() as graph:
        with refused(AdoptionError, "v", "keeps all", "Graph()"):
            vs.adopt("v", numbers((3,)))
        assert len(graph) == 0
        v = vs.get_variable("v", initializer=numbers((3,)))
    with vs.Graph().as_default():
        assert np.shares_memory(vs.adopt("v", v.array).array, v.array)


def test_a_finalized_graph_adopts_nothing(refused):
    g = vs.get_default_graph()
    array = numbers((3,))
    v = vs.adopt("v", array)
    g.finalize()
    with refused(vs.errors.FinalizedGraphError, "w"):
        vs.adopt("w", array)
    array[0] = 5
    assert v.numpy()[0] == 5 and v.assign([1, 2, 3]).numpy().tolist() == [1, 2, 3]


def test_there_are_no_first_values(refused):
    v = vs.adopt("v", numbers((3,)))
    for ask in (lambda: v.initialize(force=True), v.initial_value, lambda: v.initial_value(0)):
        with refused(vs.errors.InitializerError, "variable v", "was adopted"):
            ask()
    assert v.initialize() is v and v.version == 1
    vs.initialize()
    assert v.numpy().tolist() == [0, 1, 0]
    assert v.initializer is pickle.loads(pickle.dumps(v.initializer))


def test_copies_are_not_the_memory():
    array = numbers((3,))
    v = vs.adopt("v", array)
    v.assign([5, 6, 7])
    for duplicate in (copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g, 5))):
        twin = duplicate(v.graph)["v"]
        assert not np.shares_memory(twin.array, array)
        assert (twin.numpy().tolist(), twin.version) == ([5, 6, 7], 2)
        twin.assign([0, 0, 0])
    other = vs.Graph()
    other.graft(v.graph, under="part")
    assert not np.shares_memory(other["part/v"].array, array)
    assert other["part/v"].numpy().tolist() == array.tolist() == [5, 6, 7]


def test_stamped_copies_are_declared_and_have_no_first_values(refused):
    with vs.variable_scope("layer") as scope:
        v = vs.adopt("v", numbers((3,)))
    vs.stamp(scope, into=["copy"])
    twin = v.graph["copy/v"]
    assert not twin.initialized and twin.shape == (3,)
    with refused(vs.errors.InitializerError, "variable copy/v", "assign(values)"):
        twin.value()
    assert twin.assign([1, 2, 3]).numpy().tolist() == [1, 2, 3] != v.numpy().tolist()


def test_no_plan_makes_it(tmp_path, refused):
    pytest.importorskip("safetensors")
    v = vs.adopt("v", numbers((3,)))
    with refused(vs.errors.PlanError, "v"):
        vs.plan(v.graph, tmp_path / "model", workers=1)


def test_files_and_back(tmp_path):
    pytest.importorskip("safetensors")
    array = numbers((3,))
    v = vs.adopt("v", array)
    vs.save(v.graph, tmp_path / "m.safetensors")
    array[...] = 9
    vs.restore(v.graph, tmp_path / "m.safetensors")
    assert array.tolist() == [0, 1, 0] and address(v.array) == address(array)
    assert v.version == 2
    vs.save(v.graph, tmp_path / "m.safetensors")
    assert vs.open(tmp_path / "m.safetensors")["v"].numpy().tolist() == [0, 1, 0]


def test_what_is_read_cannot_be_made_writable():
    array = numbers((2, 3))
    v = vs.adopt("v", array)
    for seen in (v.value(), v[...], v.value().T, v.value().reshape(-1)):
        with pytest.raises(ValueError, match="WRITEABLE"):
            seen.setflags(write=True)
    base = v.value().base
    while isinstance(base, np.ndarray):
        assert not base.flags.writeable
        base = base.base
    assert memoryview(base).readonly
    v.array.flags.writeable = False
    set_shape(v.array, (6,))
    array.flags.writeable = False  # theirs to do: the variable was made before
    assert v.assign(np.ones((2, 3))).shape == (2, 3) and array.tolist() == [[1] * 3] * 2


def test_the_owner_cannot_move_what_is_adopted():
    source = bytearray(8)
    v = vs.adopt("v", source)
    with pytest.raises(BufferError):
        source.extend(b"more")
    array = np.zeros(4)
    w = vs.adopt("w", array)
    with pytest.raises(ValueError, match="resize"):
        array.resize(1000)
    assert v.shape == (8,) and w.shape == (4,)


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_what_is_withdrawn_lets_go_of_the_memory(raised):
    source = bytearray(8)

    def getter(getter, name, *args, **kwargs):
        getter(name, *args, **kwargs)
        raise raised

    with vs.variable_scope("s", custom_getter=getter), pytest.raises(raised):
        vs.adopt("v", source)
    with pytest.raises(raised):
        vs.adopt("w", source, caching_device=lambda variable: getter(lambda name: name, "w"))
    gc.collect()
    source.extend(b"nobody holds it")
    assert len(vs.get_default_graph()) == 0


def test_custom_getters_see_what_is_adopted():
    seen = []

    def getter(getter, name, *args, **kwargs):
        seen.append((name, kwargs["initializer"], kwargs["trainable"]))
        return getter(f"{name}_renamed", *args, **kwargs)

    array = numbers((2,))
    with vs.variable_scope("s", custom_getter=getter):
        v = vs.adopt("v", array)
    assert v.op_name == "s/v_renamed" and np.shares_memory(v.array, array)
    [(name, initializer, trainable)] = seen
    assert (name, initializer.array is array, trainable) == ("s/v", True, True)
    assert repr(initializer) == "<memory of shape (2,), float32>"


SHOWING = {
    "variable": lambda v: v,
    "graph": lambda v: v.graph,
    "view": lambda v: v.value()[1:],
    "memoryview": memoryview,
    "capsule": lambda v: v.__dlpack__(),
}


@pytest.mark.parametrize("last", SHOWING)
@pytest.mark.parametrize("by", ["numpy", "dlpack"])
def test_the_memory_lives_as_long_as_anything_shows_it(last, by):
    gone = []
    array = watched(gone)
    with vs.Graph().as_default() as graph:
        v = vs.adopt("v", Plain(array) if by == "dlpack" else array)
    del array
    held = SHOWING[last](v)
    del v, graph
    gc.collect()
    assert not gone
    del held
    gc.collect()
    assert gone == [1]


def test_two_threads_adopt_one_name():
    for _ in range(50):
        graph, made, barrier = vs.Graph(), [], threading.Barrier(2)
        sources = [np.full(3, i, np.float32) for i in range(2)]

        def run(i, graph=graph, made=made, barrier=barrier, sources=sources):
            barrier.wait()
            with graph.as_default(), contextlib.suppress(vs.errors.VariableExistsError):
                v = vs.adopt("v", sources[i])
                made.append((v, i))

        threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [(v, i)] = made
        assert graph["v"] is v and address(v.array) == address(sources[i])


@given(
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    st.sampled_from([*NUMBERS, *(memory.EXTENSIONS if HAS_ML_DTYPES else [])]),
    st.data(),
)
def test_there_and_back(shape, dtype, data):
    """By DLPack to another variable: the same bytes at the same place."""
    size = int(np.prod(shape, dtype=int)) * as_dtype(dtype).itemsize
    raw = np.frombuffer(bytearray(data.draw(st.binary(min_size=size, max_size=size))), np.uint8)
    source = raw.view(as_dtype(dtype)).reshape(shape)
    with vs.Graph().as_default():
        v = vs.adopt("v", source)
        w = vs.adopt("w", v)
    assert w.dtype == source.dtype and w.shape == shape
    assert w.array.tobytes() == source.tobytes()
    assert size == 0 or address(w.array) == address(source)


def test_at_the_end_of_the_process():
    """Whatever is left is let go of without a crash, capsules that nobody used among it."""
    code = """
import threading
import numpy as np, varscope as vs
v = vs.adopt("v", np.zeros(4, np.float32))
left = v.__dlpack__(), v.__dlpack__(max_version=(1, 0)), np.from_dlpack(v), memoryview(v)
w = vs.adopt("w", v)
class Late:
    def __init__(self): self.kept = v.__dlpack__()
    def __del__(self): self.kept = None
late = Late()
late.itself = late
threading.Thread(target=threading.Event().wait, args=(0.05,), daemon=True).start()
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_an_array_with_a_mask_is_not_adopted():
    with pytest.raises(AdoptionError, match=r"it has a mask; write x\.filled"):
        vs.adopt("x", np.ma.array([1.0, 2.0], mask=[0, 1]))
