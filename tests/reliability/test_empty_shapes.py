"""Scalars and variables without an element are variables like any other, in every dtype."""

import copy
import importlib.util
import math
import pickle

import numpy as np
import pytest
from requires import on_posix, require_ml_dtypes

import varscope as vs

pytestmark = pytest.mark.promise("empty-shapes")

SHAPES = [(), (0,), (3, 0)]
ODDER_SHAPES = [(0, 3), (0, 0), (2, 0, 4), (1,), (1, 1)]
NUMBERS = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
    "float32", "float64", "complex64", "complex128",
]  # fmt: skip
NARROW = ["bfloat16", "float8_e4m3fn", "float8_e5m2"]
OTHERS = [
    "longdouble", "clongdouble", "M8[s]", "m8[us]", "S3", "U3", "V4", "V0", ">f4",
    [("a", "f4"), ("b", "i2", (2,))],
]  # fmt: skip
STORAGES = ["heap", "arena", pytest.param("files", marks=[on_posix, pytest.mark.slow])]

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", [*NUMBERS, *NARROW, *OTHERS], ids=str)
each_storage = pytest.mark.parametrize("storage", STORAGES)


def graph_in(storage, tmp_path):
    if storage == "files":
        storage = vs.MemoryMapped(tmp_path / f"values_{len(list(tmp_path.iterdir()))}")
    return vs.Graph(1, storage)


def dtype_of(given):
    if isinstance(given, str) and given in NARROW:
        return np.dtype(getattr(require_ml_dtypes(), given))
    return np.dtype(given)


def every_dtype():
    """All of them, those of ml_dtypes where it is installed."""
    numpy_s = [np.dtype(given) for given in (*NUMBERS, *OTHERS)]
    old = np.lib.NumpyVersion(np.__version__) < "1.26.0"  # see requires.require_ml_dtypes
    if old or importlib.util.find_spec("ml_dtypes") is None:
        return numpy_s
    return numpy_s + [dtype_of(given) for given in NARROW]


def some(shape, dtype):
    """Values that are not the first ones."""
    if dtype.kind == "V" and dtype.isbuiltin != 2:  # ml_dtypes' have a kind of their own
        return np.ndarray(shape, dtype, b"\1" * max(math.prod(shape) * dtype.itemsize, 1)).copy()
    if dtype.kind in "SU":
        return np.full(shape, "ab", dtype)
    return np.ones(shape, "i8").astype(dtype)


def same(a, b):
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    return a.tobytes() == b.tobytes() if a.dtype.kind == "V" else np.array_equal(a, b)


def variable(shape, dtype, name="v", **options):
    return vs.get_variable(name, shape, dtype, initializer=vs.zeros, **options)


def variables_of_all(g, **options):
    """In one graph: each dtype and shape, with others beside them."""
    made = {}
    with g.as_default():
        for number, dtype in enumerate(every_dtype()):
            for shape in SHAPES:
                name = f"{number}/" + ("x".join(map(str, shape)) or "scalar")
                made[name] = variable(shape, dtype, name, **options)
            vs.get_variable(f"{number}/beside", [2], initializer=vs.ones)
    return made


def assert_neighbours_are_ones(g):
    neighbours = g.find("*/beside")
    assert len(neighbours) == len(every_dtype())
    assert all(v.numpy().tolist() == [1, 1] for v in neighbours)


@each_dtype
@each_storage
@pytest.mark.fails_without(
    "src/varscope/storage.py",
    "if variable.dtype.itemsize == 0:  # no bytes to lie anywhere; NumPy makes one of some",
    "if False:",
)
def test_values_come_and_go(dtype, storage, tmp_path, tally):
    dtype = dtype_of(dtype)
    for shape in [*SHAPES, *ODDER_SHAPES]:
        with graph_in(storage, tmp_path).as_default() as g:
            v = variable(shape, dtype)
        assert (v.shape, v.dtype, v.ndim, v.size) == (shape, dtype, len(shape), math.prod(shape))
        assert v.nbytes == g.nbytes == v.size * dtype.itemsize and not v.initialized
        first, wanted = v.initial_value(), some(shape, dtype)
        assert first.shape == shape and same(v.numpy(), first) and v.initialized
        v.assign(wanted)
        for seen in (v.value(), v.array, v.numpy(), v.__array__(), v[...]):
            assert isinstance(seen, np.ndarray) and same(seen, wanted)
        v.initialize(force=True)
        assert same(v.numpy(), first) and v.version == 3
        v[...] = wanted
        v.array[...] = v.value()
        assert same(v.numpy(), wanted)
        if shape:
            assert len(v) == len(list(v)) == shape[0] and v[:0].shape == (0, *shape[1:])
        tally("shapes, dtypes and storages")


@each_storage
def test_all_at_once_and_with_neighbours(storage, tmp_path):
    g = graph_in(storage, tmp_path)
    made = variables_of_all(g)
    vs.initialize(g.variables)
    assert all(v.initialized for v in g.variables)
    for v in made.values():
        assert same(v.numpy(), v.initial_value())
        v.assign(some(v.shape, v.dtype))
    assert_neighbours_are_ones(g)
    assert all(same(v.numpy(), some(v.shape, v.dtype)) for v in made.values())
    if storage != "heap":
        for dtype in every_dtype():
            if dtype.itemsize:
                assert g.flat(dtype).size == sum(v.size for v in g.variables if v.dtype == dtype)


@pytest.mark.parametrize("name", ["m.safetensors", "m"])
@pytest.mark.parametrize("storage", ["heap", "arena"])
def test_saved_and_restored(storage, name, tmp_path, tally):
    source, target, late = (graph_in(storage, tmp_path) for _ in range(3))
    for v in variables_of_all(source).values():
        v.assign(some(v.shape, v.dtype))
    for graph in (target, late):
        variables_of_all(graph)
    vs.initialize(late.variables)
    vs.save(source, tmp_path / name)
    with vs.open(tmp_path / name) as opened:
        opened.verify()
        for v in source.variables:
            stored = opened[v.op_name]
            assert (stored.shape, stored.dtype) == (v.shape, v.dtype)
            assert same(stored.value(), v.numpy()) and same(stored.numpy(), v.numpy())
    for graph in (target, late):
        report = vs.restore(graph, tmp_path / name)
        assert report.restored == list(source)
        assert all(same(graph[v.op_name].numpy(), v.numpy()) for v in source.variables)
        tally("values restored", len(graph))


@each_shape
def test_another_empty_shape_does_not_fit(shape, tmp_path):
    with vs.Graph().as_default() as g:
        variable(shape, "float32")
    vs.save(g, tmp_path / "m.safetensors")
    for other in [s for s in [*SHAPES, *ODDER_SHAPES] if s != shape]:
        with vs.Graph().as_default() as g:
            v = variable(other, "float32")
        with pytest.raises(vs.errors.RestoreError):
            vs.restore(g, tmp_path / "m.safetensors")
        assert not v.initialized


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"{n}": lambda g, n=n: pickle.loads(pickle.dumps(g, n)) for n in range(2, 6)},
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
@each_storage
@pytest.mark.fails_without(
    "src/varscope/variables.py",
    "as_it_is = values.flags.owndata and values.dtype == self.dtype",
    "as_it_is = values.flags.owndata",
)
def test_pickled_and_copied(storage, duplicate, tmp_path, tally):
    g = graph_in(storage, tmp_path)
    for number, v in enumerate(variables_of_all(g).values()):
        if number % 4:
            v.assign(some(v.shape, v.dtype))
    twin = duplicate(g)
    for v in g.variables:
        w = twin[v.op_name]
        assert (w.shape, w.dtype, w.initialized) == (v.shape, v.dtype, v.initialized)
        assert same(w.numpy(), v.numpy())
        w.assign(v.initial_value())
        tally("copies")
    assert all(not v.initialized or v.version == 1 for v in g.variables)
    vs.save(twin, tmp_path / "m.safetensors")
    with vs.open(tmp_path / "m.safetensors") as opened:
        for v in twin.variables:
            assert same(opened[v.op_name].value(), v.numpy())


@pytest.mark.parametrize("shape", [*SHAPES, *ODDER_SHAPES], ids=str)
@each_storage
def test_shared_without_a_copy(shape, storage, tmp_path):
    with graph_in(storage, tmp_path).as_default():
        for dtype in NUMBERS:
            v = variable(shape, dtype, f"v_{dtype}")
            view = memoryview(v)
            assert (view.shape, view.ndim, view.nbytes) == (shape, len(shape), v.nbytes)
            assert same(np.asarray(view), v.numpy())
            if dtype != "bool":  # older NumPy versions export no bool
                assert same(np.array(np.from_dlpack(v)), v.numpy())


@pytest.mark.parametrize("shape", [*SHAPES, *ODDER_SHAPES], ids=str)
@pytest.mark.fails_without(
    "src/varscope/creation.py",
    "return request.partitioner is not None and shape != ()",
    "return request.partitioner is not None",
)
def test_in_parts(shape, tmp_path, tally):
    """Along each axis, all dtypes in one graph."""
    for axis in range(len(shape)) if shape else [0]:
        cut, graphs = vs.fixed_size_partitioner(4, axis), []
        for storage in ("heap", "arena"):
            with vs.Graph(1, storage).as_default() as g:
                made = [
                    variable(shape, dtype, f"v{number}", partitioner=cut)
                    for number, dtype in enumerate(every_dtype())
                ]
            graphs.append((g, made))
        for v in graphs[0][1]:
            if shape == ():  # there is no axis to cut along
                assert isinstance(v, vs.Variable)
            else:
                parts = min(4, max(shape[axis], 1))
                assert v.partitions == tuple(parts if a == axis else 1 for a in range(len(shape)))
                assert len(v) == parts and sum(shard.size for shard in v) == v.size
                assert [s.save_slice_info.full_shape for s in v] == [shape] * parts
            assert same(v.numpy(), v.initial_value())
            v.assign(some(shape, v.dtype))
        path = tmp_path / f"{axis}.safetensors"
        vs.save(graphs[0][0], path)
        vs.restore(graphs[1][0], path)
        twin = pickle.loads(pickle.dumps(graphs[0][0]))
        with vs.open(path) as opened:
            for v, other in zip(*(made for _, made in graphs), strict=True):
                wanted = some(shape, v.dtype)
                assert same(opened[v.op_name].value(), wanted)
                assert same(other.numpy(), wanted) and same(twin[v.op_name].numpy(), wanted)
                tally("cuts")


@pytest.mark.parametrize("shape", [*SHAPES, *ODDER_SHAPES], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
@pytest.mark.parametrize("slices", [None, 2])
def test_regularized(shape, dtype, slices):
    dtype = dtype_of(dtype)
    regularizers = [
        vs.l1_regularizer(0.5), vs.l2_regularizer(0.5), vs.l1_l2_regularizer(0.5, 0.5),
        vs.sum_regularizer([vs.l1_regularizer(0.5)]),
    ]  # fmt: skip
    for number, regularizer in enumerate(regularizers):
        options = {} if slices is None else {"partitioner": vs.fixed_size_partitioner(slices)}
        variable(shape, dtype, f"v{number}", regularizer=regularizer, **options)
    g = vs.get_default_graph()
    losses = g.get_regularization_losses()
    assert len(losses) == 4 and all(float(loss.value()) == 0.0 for loss in losses)
    for loss in losses:
        g[loss.name.removesuffix("/Regularizer")].assign(np.full(shape, 2, dtype))
    size = math.prod(shape)
    assert [float(loss.value()) for loss in losses] == [1.0 * size, size, 2 * size, 1.0 * size]
    assert float(g.get_regularization_loss()) == 5.0 * size


INITIALIZERS = [
    vs.zeros, vs.ones, vs.constant(3), vs.random_normal(), vs.random_uniform(),
    vs.truncated_normal(), vs.uniform_unit_scaling(), vs.variance_scaling(), vs.glorot_uniform(),
    vs.glorot_normal(), vs.he_uniform(), vs.he_normal(), vs.lecun_uniform(), vs.lecun_normal(),
]  # fmt: skip


@pytest.mark.parametrize("initializer", INITIALIZERS, ids=str)
@pytest.mark.parametrize("storage", ["heap", "arena"])
def test_every_initializer(initializer, storage, tally):
    for dtype in ("float16", "float32", "float64"):
        for shape in (*SHAPES, *ODDER_SHAPES):
            with vs.Graph(1, storage).as_default():
                one, two = (
                    vs.get_variable(n, shape, dtype, initializer=initializer) for n in ("a", "b")
                )
                vs.initialize([two])
                for v in (one, two):
                    assert v.numpy().shape == shape and np.isfinite(v.numpy()).all()
                    assert same(v.initial_value(), v.numpy())
            tally("initial values")


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("initializer", [vs.identity(), vs.orthogonal()], ids=str)
def test_initializers_of_matrices(initializer, shape):
    v = vs.get_variable("v", shape, initializer=initializer)
    assert v.numpy().shape == shape and np.isfinite(v.numpy()).all()


@each_dtype
def test_given_as_an_array_or_made_by_a_function(dtype):
    dtype = dtype_of(dtype)
    for shape in [*SHAPES, *ODDER_SHAPES]:
        wanted = some(shape, dtype)
        with vs.Graph(1).as_default():
            if dtype.kind not in "SU":  # text is no initial value
                v = vs.get_variable("array", initializer=wanted)
                assert (v.shape, v.dtype) == (shape, dtype) and same(v.numpy(), wanted)
            made_by = {"dtype": dtype, "initializer": lambda shape, dtype, made=wanted: made}
            known = vs.get_variable("known", shape, **made_by)
            unknown = vs.get_variable("unknown", validate_shape=False, **made_by)
            assert same(known.numpy(), wanted) and same(unknown.numpy(), wanted)
            assert unknown.shape == shape and unknown.size == math.prod(shape)


@each_shape
def test_arithmetic_and_what_is_shared(shape):
    with vs.variable_scope("s", reuse=vs.AUTO_REUSE):
        v = variable(shape, "float32", constraint=np.abs)
        assert variable(shape, "float32") is vs.get_variable("v") is v
        with pytest.raises(vs.errors.ShapeMismatchError):
            vs.get_variable("v", [1])
        with pytest.raises(vs.errors.ShapeMismatchError):
            vs.get_variable("v", [0, 3] if shape != (0, 3) else [])
    assert (v + 1).shape == np.negative(v).shape == shape
    v += 2
    v.assign_sub(np.ones(shape))
    v.project()
    assert v.numpy().tolist() == np.ones(shape).tolist()
    assert repr(shape) in repr(v)
