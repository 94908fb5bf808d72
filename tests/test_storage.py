"""Storage: the heap, arenas and mapped files hold the same values, each where it says."""

import contextlib
import copy
import gc
import itertools
import os
import pickle
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from requires import on_posix, plain_core, require_ml_dtypes

import varscope as vs
from varscope import errors

SLABS = ["arena", pytest.param("files", marks=on_posix)]
STORAGES = ["heap", *SLABS]
DTYPES = ["float32", "float16", "float64", "int8", "int64", "bool", ">f4", "complex128",
          "longdouble", "datetime64[s]"]  # fmt: skip


@pytest.fixture
def make(tmp_path):
    """A function that makes a graph with the storage of a name."""
    numbers = itertools.count()

    def make(storage, seed=1):
        if storage == "files":
            storage = vs.MemoryMapped(tmp_path / f"files_{next(numbers)}")
        return vs.Graph(seed=seed, storage=storage)

    return make


def declare(graph, specs, **options):
    with graph.as_default():
        return [
            vs.get_variable(f"v{i}", shape, dtype, **options)
            for i, (shape, dtype) in enumerate(specs)
        ]


# --- choosing one


@pytest.mark.parametrize(
    ("given", "kind"),
    [(None, vs.Heap), ("heap", vs.Heap), ("arena", vs.Arena), (vs.Arena(), vs.Arena),
     (vs.Heap(), vs.Heap)],
)  # fmt: skip
def test_storage_is_chosen_with_the_graph(given, kind):
    assert type(vs.Graph(storage=given).storage) is kind


@pytest.mark.parametrize("wrong", ["Arena", "", 3, vs.Arena, object(), b"heap", ["heap"]])
def test_anything_else_is_refused(wrong):
    with pytest.raises(TypeError, match=r"storage must be None, 'heap', 'arena'"):
        vs.Graph(storage=wrong)


@on_posix
def test_a_storage_belongs_to_one_graph(tmp_path):
    for storage in (vs.Heap(), vs.Arena(), vs.MemoryMapped(tmp_path / "x")):
        graph = vs.Graph(storage=storage)
        with pytest.raises(errors.StorageError, match="of another graph"):
            vs.Graph(storage=storage)
        assert graph.storage is storage


@pytest.mark.parametrize("wrong", ["1", 1.0, True, None, b"x"])
def test_a_capacity_is_an_int(wrong):
    if wrong is None:
        assert repr(vs.Arena(wrong)) == "Arena()"
        return
    with pytest.raises(TypeError, match="capacity"):
        vs.Arena(wrong)


@pytest.mark.parametrize("wrong", [0, -1, 2**62, 2**80])
def test_a_capacity_is_positive(wrong):
    with pytest.raises(ValueError, match="capacity"):
        vs.Arena(wrong)


@pytest.mark.parametrize("wrong", [None, 3, b"folder", ["x"]])
def test_a_directory_is_a_path(wrong):
    with pytest.raises(TypeError, match="directory"):
        vs.MemoryMapped(wrong)


# --- the same values everywhere


@pytest.mark.parametrize("storage", SLABS)
@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16", "float8_e5m2", "int4"])
def test_all_dtypes(make, storage, dtype):
    if dtype in ("bfloat16", "float8_e5m2", "int4"):
        require_ml_dtypes()
    shapes = [(), (3,), (0,), (2, 3), (3, 0), (5,)]
    options = {
        "complex128": {"initializer": vs.constant(1 + 2j)},
        "datetime64[s]": {"initializer": lambda shape, dtype: np.ones(shape, dtype)},
        "int4": {"initializer": vs.ones},
    }.get(dtype, {})
    specs = [(shape, dtype) for shape in shapes]
    heap = declare(make(None), specs, **options)
    graph = make(storage)
    for ours, theirs in zip(reversed(declare(graph, specs, **options)), reversed(heap),
                            strict=True):  # fmt: skip
        assert not ours.initialized
        assert (ours.version, ours.shape) == (0, theirs.shape)
        assert np.array_equal(ours, theirs)
        assert (ours.initialized, ours.version, ours.dtype) == (True, 1, theirs.dtype)
        assert ours.array.flags.aligned and ours.array.flags.c_contiguous
        assert ours.array.flags.writeable and not ours.value().flags.writeable
    flat = graph.flat(dtype)
    assert np.array_equal(flat, np.concatenate([v.numpy().ravel() for v in heap]))


def test_structured_dtypes_lie_in_arenas_too(make):
    dtype = np.dtype([("a", "i2"), ("b", "f8")])
    graph = make("arena")
    [v] = declare(graph, [((3,), dtype)], initializer=lambda shape, dtype: np.ones(shape, dtype))
    v.array["b"] = 2.5
    assert graph.flat(dtype)["b"].tolist() == [2.5] * 3


@pytest.mark.parametrize("storage", SLABS)
def test_elements_of_no_bytes(make, storage):
    graph = make(storage)
    [v, w] = declare(graph, [((3,), "V0"), ((2,), "float32")],
                     initializer=lambda shape, dtype: np.zeros(shape, dtype))  # fmt: skip
    assert v.value().shape == (3,)
    assert w.value().tolist() == [0, 0]
    assert graph.flat("V0").size == 0


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", ["S0", "U0"])
def test_text_of_no_bytes(make, storage, dtype):
    [v] = declare(make(storage), [((3,), dtype)], initializer=vs.zeros)
    assert v.value().shape == (3,)


SIZES = st.lists(
    st.tuples(
        st.sampled_from([(), (0,), (1,), (7,), (16,), (3, 5), (70_000,), (300, 1001)]),
        st.sampled_from(["float32", "float64", "float16", "int32"]),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(
    specs=SIZES,
    storage=st.sampled_from(["heap", "arena"]),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**70),
    random=st.randoms(use_true_random=False),
)
def test_values_depend_on_seed_and_path_only(specs, storage, threads, seed, random):
    expected = [v.numpy() for v in declare(vs.Graph(seed=seed), specs)]
    graph = vs.Graph(seed=seed, storage=storage)
    variables = declare(graph, specs)
    chosen = random.sample(variables, random.randrange(len(variables) + 1))
    for variable in chosen[::3]:
        variable.value()
    vs.initialize(chosen, threads=threads)
    assert all(variable.initialized for variable in chosen)
    with graph.as_default():
        vs.initialize(threads=threads)
    for variable, values in zip(variables, expected, strict=True):
        assert variable.initialized
        assert np.array_equal(variable.value(), values)
        assert variable.version == 1


# --- arenas


def test_positions_follow_the_order_of_creation():
    for order in itertools.permutations(range(3)):
        graph = vs.Graph(seed=1, storage="arena")
        variables = declare(graph, [((2,), "float32"), ((3,), "float32"), ((1,), "float32")])
        for i in order:
            variables[i].value()
        flat = graph.flat()
        assert flat.tolist() == [x for v in variables for x in v.value().tolist()]
        addresses = [v.array.ctypes.data for v in variables]
        assert np.diff(addresses).tolist() == [8, 12]
        assert addresses[0] % 4096 == 0


@pytest.mark.parametrize("storage", SLABS)
def test_a_flat_view_is_the_storage(make, storage):
    graph = make(storage)
    v, w = declare(graph, [((2,), "float32"), ((2, 2), "float32")], initializer=vs.ones)
    flat = graph.flat("float32")
    assert flat.flags.writeable and flat.flags.c_contiguous and flat.ndim == 1
    assert v.initialized and w.initialized
    flat *= np.arange(6)
    assert (v.value().tolist(), w.value().tolist()) == ([0, 1], [[2, 3], [4, 5]])
    w.assign(np.zeros((2, 2)))
    assert flat.tolist() == [0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("storage", SLABS)
def test_growing_moves_nothing(make, storage):
    graph = make(storage)
    [first] = declare(graph, [((5,), "float32")])
    before = graph.flat("float32")
    held = first.array
    with graph.as_default():
        later = [vs.get_variable(f"w{i}", [1000, 100]) for i in range(200)]
    after = graph.flat("float32")
    assert after.size == 5 + 200 * 100_000
    assert before.ctypes.data == after.ctypes.data == held.ctypes.data
    before[0] = 7
    assert after[0] == held[0] == first.value()[0] == 7
    after[-1] = 8
    assert later[-1].value()[-1, -1] == 8


def test_a_flat_view_of_a_dtype_that_nobody_has():
    assert vs.Graph(storage="arena").flat("float64").shape == (0,)
    with pytest.raises(errors.StorageError, match="storage='arena'"):
        vs.Graph().flat("float32")


def test_slabs_are_apart_by_dtype():
    graph = vs.Graph(storage="arena")
    declare(graph, [((2,), "float32"), ((3,), "int8"), ((4,), "float32")], initializer=vs.zeros)
    graph.flat("float32")[:] = 1
    assert graph.flat("int8").tolist() == [0] * 3
    assert graph.flat("float32").size == 6


def test_shapes_that_only_the_initializer_knows_come_last():
    graph = vs.Graph(storage="arena")
    with graph.as_default():
        a = vs.get_variable("a", [2], initializer=vs.zeros)
        b = vs.get_variable("b", validate_shape=False, initializer=lambda *_: np.ones(3, "f4"))
        c = vs.get_variable("c", [1], initializer=vs.zeros)
    c.value()
    assert graph.flat().tolist() == [0, 0, 0, 1, 1, 1]
    b.assign([1, 2, 3])
    assert graph.flat()[3:].tolist() == [1, 2, 3]
    assert a.initialized and b.shape == (3,)


def test_a_withdrawn_variable_leaves_a_hole():
    graph = vs.Graph(storage="arena")

    def failing(getter, name, *args, **kwargs):
        getter(name, *args, **kwargs).value()
        raise KeyError

    with graph.as_default():
        vs.get_variable("a", [2], initializer=vs.ones)
        with pytest.raises(KeyError):
            vs.get_variable("b", [3], initializer=vs.ones, custom_getter=failing)
        c = vs.get_variable("c", [1], initializer=vs.ones)
        vs.get_variable("b", [2], initializer=vs.constant(2))
    assert c.value().tolist() == [1]
    assert graph.flat().tolist()[:2] + graph.flat().tolist()[5:] == [1, 1, 1, 2, 2]
    assert graph["b"].value().tolist() == [2, 2]


def test_a_variable_that_fails_to_be_made_stays_declared():
    graph, calls = vs.Graph(storage="arena"), []

    def failing(shape, dtype):
        calls.append(shape)
        if len(calls) == 1:
            raise KeyError
        return np.ones(shape, dtype)

    [v] = declare(graph, [((3,), "float32")], initializer=failing)
    with pytest.raises(KeyError):
        graph.flat()
    assert not v.initialized
    assert graph.flat().tolist() == [1, 1, 1]


def test_a_full_arena_says_its_capacity():
    graph = vs.Graph(storage=vs.Arena(capacity=40))
    a, b = declare(graph, [((4,), "float32"), ((6,), "float32")], initializer=vs.ones)
    assert b.value().sum() == 6
    with graph.as_default():
        c = vs.get_variable("c", [1], initializer=vs.ones)
        other = vs.get_variable("d", [5], "float64", initializer=vs.ones)
    for attempt in (c.value, graph.flat, lambda: c.assign([1])):
        with pytest.raises(MemoryError, match=r"44 bytes, and its capacity is 40") as caught:
            attempt()
        assert (caught.value.needed, caught.value.capacity) == (44, 40)
        assert not c.initialized
    with graph.as_default(), pytest.raises(MemoryError):
        vs.initialize()
    assert a.value().sum() == 4
    assert other.initialized  # there is room for it


def test_what_there_is_no_room_for_is_in_nobody_elses_way():
    graph = vs.Graph(seed=1, storage=vs.Arena(capacity=4096))
    large, small, other = declare(
        graph, [((2000,), "float32"), ((3,), "float32"), ((3,), "int32")]
    )  # fmt: skip
    assert other.numpy().tolist() == [0, 0, 0]
    assert small.value().shape == (3,)
    for fails in (large.value, large.initialize, lambda: graph.flat("float32")):
        with pytest.raises(vs.errors.StorageFullError, match="8,012 bytes"):
            fails()
    assert not large.initialized
    with graph.as_default():
        later = vs.get_variable("later", [3], initializer=vs.ones)
        with pytest.raises(vs.errors.StorageFullError):
            vs.initialize(progress=False)
    assert later.numpy().tolist() == [1, 1, 1]
    assert small.numpy().tolist() == small.initial_value().tolist()


def test_a_capacity_that_cannot_be_had():
    [v] = declare(vs.Graph(storage=vs.Arena(capacity=2**60)), [((1,), "float32")])
    with pytest.raises(MemoryError, match="addresses"):
        v.value()


LIMITED = """
import resource, varscope as vs
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
graph = vs.Graph(storage="arena")
with graph.as_default():
    for dtype in ("float32", "float64"):
        vs.get_variable(dtype, [1000, 1000], dtype)
    vs.initialize(threads=1)
    print(graph.flat("float32").size, graph.flat("float64").size)
    vs.get_variable("huge", [1 << 36], "int8")
    try:
        graph.flat("int8")
    except MemoryError as error:
        print(type(error).__name__)
"""


@plain_core
def test_where_the_system_allows_few_addresses():
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert done.stdout.split() == ["1000000", "1000000", "StorageFullError"], done.stderr


SCARCE = """
import resource, sys, tempfile
import numpy as np, varscope as vs
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
storage = "arena" if sys.argv[1] == "arena" else vs.MemoryMapped(tempfile.mkdtemp())
graph = vs.Graph(storage=storage)
with graph.as_default():
    for dtype in ("float32", "float64", "int8", "float16"):
        vs.get_variable(dtype, [10], dtype)
    vs.initialize()
print(np.empty(1 << 31, "int8").size)
"""


@plain_core
@pytest.mark.parametrize("storage", SLABS)
def test_scarce_addresses_are_left_for_others(storage):
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", SCARCE, storage], capture_output=True, text=True)
    assert done.stdout == f"{1 << 31}\n", done.stderr


# --- who keeps the memory


@pytest.mark.parametrize("storage", SLABS)
def test_an_array_keeps_the_memory_and_not_the_graph(make, storage):
    graph = make(storage)
    [v] = declare(graph, [((1000,), "float32")], initializer=vs.ones)
    array, view, alive = v.array, v.value(), weakref.ref(graph)
    del graph, v
    gc.collect()
    assert alive() is None
    array[3] = 5
    assert view.sum() == 1004


def test_a_cycle_through_an_initializer_is_collected():
    for _ in range(3):
        graph = vs.Graph(storage="arena")
        [v] = declare(graph, [((3,), "float32")], initializer=lambda s, d, g=graph: np.ones(s, d))
        v.value()
        alive = weakref.ref(graph)
        del graph, v
        gc.collect()
        assert alive() is None


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="reads /proc/self/maps")
def test_a_graph_that_goes_gives_its_memory_back():
    def maps():
        gc.collect()
        with open("/proc/self/maps") as file:
            return sum(1 for _ in file)

    def once():
        graph = vs.Graph(storage="arena")
        declare(graph, [((1000, 1000), "float32"), ((3,), "float64")])
        graph.flat()

    once()
    before = maps()
    for _ in range(20):
        once()
    assert maps() < before + 20


def test_the_memory_cannot_be_pulled_away():
    graph = vs.Graph(storage="arena")
    [v] = declare(graph, [((3,), "float32")], initializer=vs.ones)
    base, seen = v.array, []
    while base is not None:
        seen.append(type(base).__name__)
        assert not {"close", "release", "resize"} & set(dir(base)) - set(dir(np.ndarray))
        base = getattr(base, "base", None)
    assert seen[-1] == "Memory"
    v.array.setflags(write=False)
    assert graph.flat().flags.writeable
    assert v.value().tolist() == [1, 1, 1]


@on_posix
def test_a_fork_has_values_of_its_own():
    graph = vs.Graph(storage="arena")
    v, w = declare(graph, [((3,), "float32"), ((100_000,), "float32")], initializer=vs.ones)
    v.value()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            v.assign([5, 5, 5])
            code = 0 if v.value().sum() == 15 and w.value().sum() == 100_000 else 2
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert v.value().tolist() == [1, 1, 1]
    assert not w.initialized


# --- files


@on_posix
def test_files_are_numbered_and_sparse(tmp_path):
    folder = tmp_path / "a" / "b"
    graph = vs.Graph(seed=1, storage=vs.MemoryMapped(folder))
    with graph.as_default():
        for i in range(300):
            vs.get_variable(f"..{i}/x", [i % 7])
        vs.get_variable("huge", [1 << 33])
        vs.get_variable("f", [3], "float64", initializer=vs.ones)
        assert graph["huge"].initial_value(slice(5, 7)).shape == (2,)
        assert not graph["huge"].initialized
        small = [v for v in graph.variables if v.size < 10]
        vs.initialize(small)
    assert sorted(os.listdir(folder)) == ["0.bin", "1.bin"]
    sizes = {(folder / name).stat().st_size for name in os.listdir(folder)}
    assert all(size % (1 << 26) == 0 for size in sizes)
    assert max(sizes) >= 1 << 35
    taken = sum((folder / name).stat().st_blocks * 512 for name in os.listdir(folder))
    assert taken <= 8 << 20


@on_posix
def test_files_hold_the_bytes_and_stay(tmp_path):
    graph = vs.Graph(storage=vs.MemoryMapped(tmp_path / "x"))
    v, w = declare(graph, [((3,), "float32"), ((2,), "float32")], initializer=vs.ones)
    v.assign([1, 2, 3])
    w.array[1] = 7
    del graph, v, w
    gc.collect()
    stored = np.fromfile(tmp_path / "x" / "0.bin", "float32", count=5)
    assert stored.tolist() == [1, 2, 3, 1, 7]


def test_a_system_that_cannot_map_growing_files_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(
        errors.StorageError, match=r"needs a system .*; write Graph\(storage='arena'"
    ):
        vs.MemoryMapped(tmp_path / "x")
    assert os.listdir(tmp_path) == []


@on_posix
def test_a_directory_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "other").touch()
    with pytest.raises(errors.StorageError, match="not empty"):
        vs.Graph(storage=vs.MemoryMapped(tmp_path))
    with pytest.raises(OSError):
        vs.Graph(storage=vs.MemoryMapped(tmp_path / "other"))
    assert os.listdir(tmp_path) == ["other"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs posix_fallocate")
def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    graph = vs.Graph(seed=1, storage=vs.MemoryMapped(tmp_path / "x"))
    variables = declare(graph, [((3,), "float32"), ((100_000,), "float32"), ((5,), "float64")])

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, graph.as_default():
        patched.setattr(os, "posix_fallocate", full)
        for attempt in (vs.initialize, graph.flat, *(v.value for v in variables)):
            with pytest.raises(OSError, match="No space left"):
                attempt()
        assert not any(v.initialized for v in variables)
    with graph.as_default():
        vs.initialize()
    expected = declare(vs.Graph(seed=1), [(v.shape, v.dtype) for v in variables])
    assert all(np.array_equal(a, b) for a, b in zip(variables, expected, strict=True))


@on_posix
def test_a_file_that_cannot_be_mapped_is_gone(tmp_path, monkeypatch):
    graph = vs.Graph(storage=vs.MemoryMapped(tmp_path / "x"))
    [v] = declare(graph, [((3,), "float32")])

    def refused(*args):
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr(vs.storage.mmap, "mmap", refused)
        with pytest.raises(errors.StorageFullError):
            v.value()
    assert os.listdir(tmp_path / "x") == []
    v.initialize()
    assert os.listdir(tmp_path / "x") == ["0.bin"]


def test_a_file_size_limit_is_an_error(tmp_path):
    resource = pytest.importorskip("resource")
    code = (
        "import sys, varscope as vs\n"
        "g = vs.Graph(storage=vs.MemoryMapped(sys.argv[1]))\n"
        "with g.as_default():\n"
        "    v = vs.get_variable('v', [1 << 20])\n"
        "try:\n    v.value()\nexcept (OSError, MemoryError) as error:\n    print('refused')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )  # fmt: skip
    assert done.stdout == "refused\n", done.stderr


# --- what changes between declaring and filling


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("others", [0, 300])
def test_a_variable_that_gets_its_device_when_it_has_a_place(make, storage, others):
    """The function that names the device reads a later variable: so this one is placed first."""

    def device(variable):
        vs.get_variable("beside", [3], initializer=vs.ones).initialize()
        return "cpu"

    with make(storage).as_default():
        for i in range(others):
            vs.get_variable(f"other_{i}", [i + 1])
        v = vs.get_variable("v", [5], initializer=vs.ones, caching_device=device)
        assert not v.initialized
        if others:
            vs.initialize()
        assert v.value().tolist() == [1] * 5


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("sizes", [(3, 4), (3, 70_000), (70_000, 3), (70_000, 80_000)])
def test_two_threads_that_find_two_shapes(make, storage, sizes):
    """One of them counts; the other is an error, and nothing lies over anything else."""
    both, made = threading.Barrier(2), iter(sizes)

    def initializer(shape, dtype):
        values = np.ones(next(made), dtype)
        both.wait()
        return values

    graph = make(storage)
    with graph.as_default():
        v = vs.get_variable("v", None, initializer=initializer, validate_shape=False)
        w = vs.get_variable("w", [40], initializer=vs.zeros)
    found = []

    def read():
        try:
            found.append(v.value().shape)
        except errors.ShapeMismatchError as error:
            found.append(error.expected)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [v.shape] * 2
    assert v.shape in [(size,) for size in sizes]
    assert v.value().tolist() == [1] * v.size
    assert w.value().tolist() == [0] * 40


@pytest.mark.parametrize("storage", STORAGES)
def test_an_interrupted_first_value_is_nobody_elses(make, storage, monkeypatch):
    """Objects of variables are reused: what one has begun must not be taken for another's."""
    graph = make(storage)
    declare(graph, [((300_000,), "float32")] * 2)
    with monkeypatch.context() as patched:

        def interrupted(variable, filling):
            filling.step()
            raise KeyboardInterrupt

        patched.setattr(graph.storage, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            graph["v0"].value()
    graph.seed = 2  # and it counts for what has no values yet
    for name in ("v1", "v0"):
        np.testing.assert_array_equal(graph[name].value(), graph[name].initial_value())


# --- copies


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("way", ["deepcopy", 2, 3, 4, 5])
def test_copies_of_a_graph_have_its_values(make, storage, way):
    graph = make(storage)
    v, w, x, y = declare(graph, [((3,), "float32"), ((100_000,), "float32"), ((2,), "int8"),
                                 ((4,), "float32")])  # fmt: skip
    vs.initialize([v, w])
    v.assign([1, 2, 3])
    if way == "deepcopy":
        other = copy.deepcopy(graph)
    else:
        other = pickle.loads(pickle.dumps(graph, protocol=way))
    assert type(other.storage) is {"arena": vs.Arena}.get(storage, vs.Heap)
    assert [u.initialized for u in other.variables] == [True, True, False, False]
    assert other["v0"].version == v.version == 2
    for ours, theirs in zip(graph.variables, other.variables, strict=True):
        assert np.array_equal(ours, theirs)
        assert not np.shares_memory(ours.array, theirs.array)
    if storage == "arena":
        assert np.array_equal(other.flat(), graph.flat())
        assert x.initialized and y.initialized


def test_a_capacity_is_copied():
    graph = copy.deepcopy(vs.Graph(storage=vs.Arena(capacity=1000)))
    assert repr(graph.storage) == "Arena(capacity=1000)"


@on_posix
def test_files_are_not_copied(tmp_path):
    storage = vs.MemoryMapped(tmp_path / "x")
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="copy the graph"):
            copied(storage)


# --- threads


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("size", [7, 200_000])
def test_whoever_is_first_settles_the_values(make, storage, size):
    for _ in range(20):
        [v] = declare(make(storage), [((size,), "float32")])
        barrier, seen, adding = threading.Barrier(4), [], threading.Lock()

        def read(v=v, barrier=barrier, seen=seen, adding=adding):
            barrier.wait()
            array = v.array
            with adding:  # an array's own addition reads and writes in two steps
                array[0] += 1
            seen.append(array)

        first = v.initial_value(0)
        run_together([read] * 4)
        assert all(np.shares_memory(array, v.array) for array in seen)
        assert v.value()[0] == np.float32(np.float32(np.float32(np.float32(first + 1) + 1) + 1) + 1)


@pytest.mark.parametrize("storage", STORAGES)
def test_an_assignment_beside_a_first_read_is_not_lost(make, storage):
    for size in (5, 150_000):
        for _ in range(20):
            [v] = declare(make(storage), [((size,), "float32")])
            values = np.full(size, 3, "float32")
            run_together([lambda v=v, values=values: v.assign(values), v.value, v.value])
            assert v.value()[0] == v.value()[-1] == 3


def run_together(functions):
    failed = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


# --- very large graphs

TERABYTES = """
import re, sys, tempfile
import varscope as vs
from varscope.summary import summarize

with tempfile.TemporaryDirectory() as folder:
    storage = {"heap": "heap", "arena": "arena", "files": vs.MemoryMapped(folder)}[sys.argv[1]]
    graph = vs.Graph(seed=1, storage=storage)
    with graph.as_default():
        vs.get_variable("small", [3])
        for layer in range(100):
            with vs.variable_scope(f"layer_{layer}"):
                for expert in range(100):
                    vs.get_variable(f"expert_{expert}", [16384, 16384])
    assert graph.nbytes == 12 + 10_000 * 2**30 > 10e12
    assert graph.num_parameters == graph.nbytes // 4
    assert len(graph.find("layer_7/*")) == 100
    v = graph["layer_99/expert_99"]
    assert v.initial_value((slice(0, 100), slice(3, 5))).shape == (100, 2)
    assert not v.initialized
    assert graph["small"].value().shape == (3,)
    assert graph["layer_50/expert_3"].initial_value(7).shape == (16384,)
    del v
    summarize(graph)
with open("/proc/self/status") as file:
    print(int(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1]) // 1024)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc/self/status")
@pytest.mark.parametrize("storage", STORAGES)
def test_ten_terabytes_are_declared_and_a_slice_is_made(storage):
    done = subprocess.run(
        [sys.executable, "-c", TERABYTES, storage], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300  # MiB
