"""`restore`: values come back under any cut, storage and dtype, for all variables or for none."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requires import require, require_ml_dtypes
from restores import (
    ELEMENTS,
    STORAGES,
    arrays,
    assert_equal,
    graph_of,
    restoring_reports,
    run_child,
    seldom,
    storage_of,
)

import varscope as vs
from varscope.checkpoint import fitting, restoring
from varscope.checkpoint.fitting import fit
from varscope.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    CheckpointError,
    NameMapError,
    RestoreError,
)

safetensors = require("safetensors.numpy", "safetensors")


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "model.safetensors"
    safetensors.save_file(arrays(), file)
    return file


# --- what comes back


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("initialized", [False, True])
@pytest.mark.parametrize("kind", STORAGES)
def test_all_values_come_back(path, kind, initialized, threads, tmp_path):
    graph = graph_of(arrays(), kind, tmp_path, initialized)
    report = vs.restore(graph, path, threads=threads)
    assert_equal(graph, arrays())
    assert report.restored == list(arrays()) and not report.missing and not report.left_over
    assert {v.version for v in graph.variables} == {1 + initialized}


@pytest.mark.parametrize("kind", STORAGES)
def test_views_of_values_stay_good(path, kind, tmp_path):
    graph = graph_of(arrays(), kind, tmp_path, initialized=True)
    held = {v.op_name: (v.array, v.value()) for v in graph.variables}
    vs.restore(graph, path)
    for name, (array, view) in held.items():
        assert np.shares_memory(graph[name].array, array) or array.size == 0
        assert np.array_equal(array, arrays()[name]) and np.array_equal(view, arrays()[name])


def test_no_initializer_and_no_constraint_runs(path):
    def never(*args, **kwargs):
        raise AssertionError("it ran")

    graph = graph_of(arrays(), initializer=never, constraint=never)
    vs.restore(graph, path)
    assert_equal(graph, arrays())


def test_a_flat_vector_shows_what_was_restored(path):
    graph = graph_of(arrays(), "arena")
    vs.restore(graph, path)
    expected = [v.ravel() for v in arrays().values() if v.dtype == "float32"]
    assert np.array_equal(graph.flat("float32"), np.concatenate(expected))


def test_local_variables_do_not_take_part(path):
    graph = graph_of(arrays())
    with graph.as_default():
        local = vs.get_local_variable("counter", [2], initializer=vs.ones)
    vs.restore(graph, path)
    assert not local.initialized


def test_a_name_is_the_op_name(tmp_path):
    graph = vs.Graph()
    with graph.as_default():
        with vs.variable_scope("b"):
            pass
        v = vs.get_variable("b", [2])
    assert v.op_name == "b_1"
    safetensors.save_file({"b_1": np.ones(2, "float32")}, tmp_path / "m.safetensors")
    vs.restore(graph, tmp_path / "m.safetensors")
    assert v.numpy().tolist() == [1, 1]


def test_a_finalized_graph_and_an_empty_one(path, tmp_path):
    graph = graph_of(arrays())
    graph.finalize()
    vs.restore(graph, path)
    safetensors.save_file({}, tmp_path / "none.safetensors")
    report = vs.restore(vs.Graph(), tmp_path / "none.safetensors")
    assert report == restoring.RestoreReport([], [], [])
    assert repr(report) == "<RestoreReport: 0 restored, 0 missing, 0 left over>"


@pytest.mark.parametrize("kind", STORAGES)
@pytest.mark.parametrize("shape", [None, [None, 4]])
def test_a_shape_that_only_the_initializer_knew_is_that_of_the_file(path, shape, kind, tmp_path):
    values = {"a/w": arrays()["a/w"]}
    safetensors.save_file(values, path)
    graph = vs.Graph(storage=storage_of(kind, tmp_path))
    with graph.as_default():
        v = vs.get_variable("a/w", shape, initializer=lambda s, d: 1 / 0, validate_shape=False)
    vs.restore(graph, path)
    assert v.shape == (3, 4)
    assert_equal(graph, values)


def test_an_open_shape_that_does_not_fit(path):
    graph = graph_of(arrays())
    with graph.as_default():
        vs.get_variable("c", [None, 7], initializer=vs.zeros, validate_shape=False)
    safetensors.save_file({**arrays(), "c": np.ones((2, 6), "float32")}, path)
    with pytest.raises(RestoreError) as caught:
        vs.restore(graph, path)
    assert caught.value.shapes == {"c": ((None, 7), (2, 6))}


def test_a_copy_on_a_device_is_renewed(path):
    graph = graph_of(arrays(), initialized=True, caching_device="cpu")
    before = graph["a/w"].value()
    vs.restore(graph, path)
    assert not np.array_equal(before, arrays()["a/w"])
    assert np.array_equal(graph["a/w"].value(), arrays()["a/w"])


# --- round trips

DTYPES = ["float32", "float16", "float64", "int8", "uint16", "int64", "bool", "complex64"]
SHAPES = [(), (0,), (3, 0), (1,), (5,), (4, 3), (2, 3, 4), (1, ELEMENTS), (5, 30_000)]
COMPONENT = st.text("abz019_.-", min_size=1, max_size=4).filter(lambda s: s[0] not in "_-")


@st.composite
def models(draw):
    """{name: (shape, dtype, cut before, cut after)}"""
    names = draw(st.lists(st.lists(COMPONENT, min_size=1, max_size=3).map("/".join), unique=True))
    # A name that is another one's scope, with a shard's name behind it, would be taken.
    names = [name for name in names if "part_" not in name]
    model = {}
    for name in names:
        shape = draw(st.sampled_from(SHAPES))
        cuts = []
        for _ in range(2):
            axis = draw(st.integers(0, max(0, len(shape) - 1)))
            most = shape[axis] if shape else 0
            count = draw(st.integers(0, min(most, 4)))
            cuts.append(None if count == 0 else (count, axis))
        model[name] = shape, draw(st.sampled_from(DTYPES)), *cuts
    return model


def built(model, cut, storage):
    graph = vs.Graph(seed=3, storage=storage)
    with graph.as_default():
        for name, (shape, dtype, *cuts) in model.items():
            chosen = cuts[cut]
            partitioner = None if chosen is None else vs.fixed_size_partitioner(*chosen)
            initializer = vs.random_uniform(0, 100) if np.dtype(dtype).kind in "iuf" else vs.zeros
            vs.get_variable(name, shape, dtype, initializer, partitioner=partitioner)
    return graph


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    model=models(),
    storages=st.tuples(*[st.sampled_from(["heap", "arena", "mapped"])] * 2),
    initialized=st.booleans(),
    shard=st.sampled_from([None, 1000, 300_000]),
    mapped=st.booleans(),
)
def test_what_was_saved_comes_back(tmp_path_factory, model, storages, initialized, shard, mapped):
    folder = tmp_path_factory.mktemp("round")
    path = folder / ("model" if shard else "model.safetensors")
    if sys.platform == "win32":
        storages = [kind.replace("mapped", "arena") for kind in storages]
    names = vs.NameMap([{"glob": "**", "to": "model.**"}], to_separator=".") if mapped else None
    before = built(model, 0, storage_of(storages[0], folder / "before"))
    with before.as_default():
        vs.initialize(threads=1)
    vs.save(before, path, names=names, **({"max_shard_size": shard} if shard else {}))
    after = built(model, 1, storage_of(storages[1], folder / "after"))
    after.seed = 4
    if initialized:
        with after.as_default():
            vs.initialize(threads=1)
    back = None if names is None else names.inverse()
    vs.restore(after, path, names=back, verify=True, threads=2)
    for name in model:
        assert after[name].numpy().tobytes() == before[name].numpy().tobytes(), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("kind", ["heap", "arena"])
def test_narrow_floats(dtype, kind, tmp_path):
    require_ml_dtypes()
    before = vs.Graph(seed=1)
    with before.as_default():
        for name, shape in [("small", [5]), ("large", [ELEMENTS]), ("none", [0])]:
            vs.get_variable(name, shape, dtype, initializer=vs.zeros)
        for v in before.variables:
            v.assign(np.linspace(-3, 3, v.size).astype(v.dtype))
    vs.save(before, tmp_path / "m.safetensors")
    after = graph_of({v.op_name: v for v in before.variables}, kind, initializer=vs.zeros)
    vs.restore(after, tmp_path / "m.safetensors")
    for v in before.variables:
        assert after[v.op_name].numpy().tobytes() == v.numpy().tobytes()
    wide = graph_of({v.op_name: (v.shape, "float32") for v in before.variables}, kind)
    with pytest.raises(RestoreError, match="write cast='safe'"):
        vs.restore(wide, tmp_path / "m.safetensors")
    vs.restore(wide, tmp_path / "m.safetensors", cast="same_kind")
    for v in before.variables:
        assert np.array_equal(wide[v.op_name].numpy(), v.numpy().astype("float32"))
    vs.save(wide, tmp_path / "wide.safetensors")
    vs.restore(after, tmp_path / "wide.safetensors", cast="same_kind")
    for v in before.variables:
        assert after[v.op_name].numpy().tobytes() == v.numpy().tobytes()


@pytest.mark.parametrize("dtype", ["complex128", "S3", "U2", ">f4", "M8[s]", "f4,i2"])
@pytest.mark.parametrize("kind", ["heap", "arena"])
def test_dtypes_that_the_format_lacks(dtype, kind, tmp_path):
    value = np.frombuffer(bytes(range(1, 97)) * 9, np.dtype(dtype), 6).reshape(2, 3)
    if np.dtype(dtype).kind == "U":
        value = np.full((2, 3), "é", dtype)
    graph = graph_of({"v": value}, kind, initializer=lambda shape, dtype: value)
    vs.save(graph, tmp_path / "m.safetensors")
    after = graph_of({"v": value}, kind, initializer=lambda shape, dtype: 1 / 0)
    vs.restore(after, tmp_path / "m.safetensors")
    assert after["v"].numpy().tobytes() == value.tobytes()


# --- dtypes that differ


@pytest.mark.parametrize(
    ("stored", "dtype", "least"),
    [
        ("float32", "float64", "safe"),
        ("float64", "float32", "same_kind"),
        ("int32", "int64", "safe"),
        ("int64", "int8", "same_kind"),
        ("int64", "float32", "same_kind"),
        ("float32", "int32", "unsafe"),
        ("bool", "float32", "safe"),
    ],
)
@pytest.mark.parametrize("kind", ["heap", "arena"])
def test_casts(path, stored, dtype, least, kind):
    values = {
        "small": np.arange(6).reshape(2, 3).astype(stored),
        "large": (np.arange(ELEMENTS) % 100).astype(stored),
        "none": np.empty((0, 2), stored),
    }
    safetensors.save_file(values, path)
    order = [None, "safe", "same_kind", "unsafe"]
    for cast in order:
        graph = graph_of({k: (v.shape, dtype) for k, v in values.items()}, kind)
        if order.index(cast) < order.index(least):
            with pytest.raises(RestoreError) as caught:
                vs.restore(graph, path, cast=cast)
            assert f"write cast={least!r}" in str(caught.value)
            assert caught.value.dtypes["small"] == (np.dtype(dtype), np.dtype(stored))
            assert not any(v.initialized for v in graph.variables)
        else:
            vs.restore(graph, path, cast=cast)
            assert_equal(graph, {k: v.astype(dtype) for k, v in values.items()})


@pytest.mark.parametrize(
    ("cast", "kind"),
    [(True, ArgumentTypeError), (1, ArgumentTypeError), ("no", ArgumentValueError)],
)
def test_a_cast_that_is_none(path, cast, kind):
    with pytest.raises(kind, match="cast must be None, 'safe', 'same_kind' or 'unsafe'"):
        vs.restore(graph_of(arrays()), path, cast=cast)


def test_the_callers_errstate_counts_in_all_threads(path):
    large = {f"v{i}": np.full(300_000, 1e300) for i in range(4)}
    safetensors.save_file(large, path)
    graph = graph_of({k: (v.shape, "float32") for k, v in large.items()})
    with np.errstate(over="ignore"):
        vs.restore(graph, path, cast="same_kind", threads=3)
    if np.lib.NumpyVersion(np.__version__) >= "1.24.0":  # before, casts said nothing
        with np.errstate(over="raise"), pytest.raises(FloatingPointError):
            vs.restore(graph, path, cast="same_kind", threads=3)


# --- what does not fit


def test_names_in_order_of_what_is_near():
    missing = {"layer_3/kernel": ("float32", (3, 4)), "head/b": ("float32", (7,))}
    left_over = {
        **{f"layers.{i}.kernel": ("float32", (3, 4)) for i in range(500)},
        "head.bias": ("float32", (7,)),
        "x": ("float32", (9,)),
    }
    assert fitting.near(missing, left_over, missing) == {
        "layer_3/kernel": "layers.3.kernel",
        "head/b": "head.bias",
    }


def test_a_fit_reads_no_values_and_says_the_same(path, monkeypatch):
    monkeypatch.setattr(restoring, "Run", None)
    graph = graph_of({"a/w": ((3, 4), "float32"), "more": ((2,), "float32")})
    found = fit(graph, path)
    assert found.restored == ["a/w"] and found.missing == ["more"]
    assert set(found.left_over) == set(arrays()) - {"a/w"}
    assert found.error(partial=True) is None
    assert "1 variable has no tensor" in str(found.error())
    assert "1 fit, 1 missing, 5 left over" in repr(found)


def test_partial(path):
    graph = graph_of({"a/w": ((3, 4), "float32"), "more": ((2,), "float32")})
    with pytest.raises(RestoreError, match="write partial=True"):
        vs.restore(graph, path)
    report = vs.restore(graph, path, partial=True)
    assert report.restored == ["a/w"] and report.missing == ["more"]
    assert set(report.left_over) == set(arrays()) - {"a/w"}
    assert not graph["more"].initialized
    assert_equal(graph, {"a/w": arrays()["a/w"]})


def test_arguments(path):
    graph = graph_of(arrays())
    with pytest.raises(ArgumentTypeError, match=r"graph must be a varscope\.Graph"):
        vs.restore("graph", path)
    with pytest.raises(ArgumentTypeError, match="path must be a path, an open Checkpoint"):
        vs.restore(graph, 7)
    with pytest.raises(ArgumentValueError, match="at least one path"):
        vs.restore(graph, [])
    with pytest.raises(ArgumentTypeError, match="threads must be an int"):
        vs.restore(graph, path, threads="many")
    with pytest.raises(FileNotFoundError):
        vs.restore(graph, path.parent / "not there")
    assert not any(v.initialized for v in graph.variables)


# --- several sources, name maps


def test_several_sources_and_open_checkpoints(path, tmp_path):
    values = arrays()
    first = {name: value for name, value in values.items() if name.startswith("a/")}
    second = {name: value for name, value in values.items() if name.startswith("b/")}
    safetensors.save_file(first, tmp_path / "first.safetensors")
    safetensors.save_file(second, tmp_path / "second.safetensors")
    graph = graph_of(values)
    with vs.open(tmp_path / "second.safetensors") as opened:
        vs.restore(graph, [tmp_path / "first.safetensors", opened])
        assert len(opened) and opened["b/ints"].value() is not None  # it is the caller's
    assert_equal(graph, values)
    with pytest.raises(NameMapError, match=r"'a/\w+' is in more than one of the sources"):
        vs.restore(graph, [path, tmp_path / "first.safetensors"])


def test_name_maps(path):
    values = arrays()
    graph = graph_of({f"model/{name}": value for name, value in values.items()})
    report = vs.restore(graph, path, names=lambda name: f"model/{name}")
    assert len(report.restored) == len(values)
    assert_equal(graph, {f"model/{name}": value for name, value in values.items()})
    stacked = graph_of({"both": ((2, 3, 4), "float32")})
    safetensors.save_file({"w.0": values["a/w"], "w.1": values["a/w"] + 1}, path)
    vs.restore(stacked, path, names=[{"glob": "w.{i}", "to": "both", "stack": 0}])
    assert_equal(stacked, {"both": np.stack([values["a/w"], values["a/w"] + 1])})


@pytest.mark.parametrize("kind", ["heap", "arena"])
@pytest.mark.parametrize("cut", [None, 0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_a_name_map_makes_of_tensors(path, kind, cut, dtype):
    """With a map that joins two tensors, small and large, into one variable, whole or in parts."""
    graph = vs.Graph(storage=kind)
    partitioner = None if cut is None else vs.fixed_size_partitioner(2, axis=cut)
    with graph.as_default():
        vs.get_variable("s/joined", [4, 3], dtype, partitioner=partitioner)
        vs.get_variable("l/joined", [4, ELEMENTS], dtype, partitioner=partitioner)
    values = {
        f"{size}/{i}": np.arange(2 * n, dtype="float32").reshape(2, n) + i
        for size, n in [("s", 3), ("l", ELEMENTS)]
        for i in range(2)
    }
    safetensors.save_file(values, path)
    names = [{"glob": "{size}/{i}", "to": "{size}/joined", "concatenate": 0}]
    vs.restore(graph, path, names=names, cast="safe", threads=2)
    for size in "sl":
        joined = np.concatenate([values[f"{size}/0"], values[f"{size}/1"]]).astype(dtype)
        assert np.array_equal(graph[f"{size}/joined"].numpy(), joined)


def test_what_no_rule_takes_is_left_over(path):
    graph = graph_of({"w": ((3, 4), "float32")})
    with pytest.raises(RestoreError, match=r"5 tensors are matched by no rule of names=") as caught:
        vs.restore(graph, path, names={"a/w": "w"})
    assert set(caught.value.left_over) == set(arrays()) - {"a/w"}
    assert vs.restore(graph, path, names={"a/w": "w"}, partial=True).restored == ["w"]


# --- all or nothing


# --- damaged files


# --- others meanwhile


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", STORAGES)
def test_who_reads_meanwhile_sees_first_values_and_then_those_of_the_file(
    path, kind, threads, tmp_path
):
    """Nobody waits for a restore, not even a function that it calls."""
    graph = graph_of(arrays(), kind, tmp_path)
    other = graph_of(arrays())
    read = {}

    def progress(done, total):
        for v in graph.variables:
            read.setdefault(v.op_name, v.value().copy())

    restoring_reports(graph, path, progress, threads)
    assert set(read) == set(arrays())
    for name, value in read.items():
        assert np.array_equal(value, other[name].value()) or np.array_equal(value, arrays()[name])
    assert any(np.array_equal(value, other[name].value()) for name, value in read.items())
    assert_equal(graph, arrays())


@pytest.mark.parametrize("kind", STORAGES)
def test_a_restore_within_a_restore(path, kind, tmp_path):
    graph = graph_of(arrays(), kind, tmp_path)
    inner = tmp_path / "inner.safetensors"
    safetensors.save_file(arrays(1), inner)
    done_inside = []

    def progress(done, total):
        if not done_inside:
            done_inside.append(vs.restore(graph, inner))
            assert_equal(graph, arrays(1))

    restoring_reports(graph, path, progress, 1)
    assert done_inside
    assert_equal(graph, arrays())


@pytest.mark.parametrize("kind", STORAGES)
def test_threads_that_restore_read_and_initialize_at_once(path, kind, tmp_path):
    other = tmp_path / "other.safetensors"
    safetensors.save_file(arrays(1), other)
    for turn in range(5):
        graph = graph_of(arrays(), kind, tmp_path / str(turn))
        barrier, errors = threading.Barrier(4), []

        def run(work, barrier=barrier, errors=errors):
            try:
                barrier.wait()
                work()
            except BaseException as error:
                errors.append(error)

        works = [
            lambda g=graph: vs.restore(g, path, threads=2),
            lambda g=graph: vs.restore(g, other, threads=2),
            lambda g=graph: vs.initialize(list(g.variables), threads=2),
            lambda g=graph: [v.value() for v in g.variables],
        ]
        threads = [threading.Thread(target=run, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        last = 0 if np.array_equal(graph["a/w"], arrays()["a/w"]) else 1
        assert_equal(graph, arrays(last))


def test_variables_that_are_withdrawn_meanwhile(path, monkeypatch):
    """A custom getter of another thread that fails takes its variables out again."""
    graph, values = vs.Graph(), arrays()
    asked, go_on = threading.Event(), threading.Event()

    def getter(get, name, *args, **kwargs):
        get(name, *args, **kwargs)
        asked.set()
        assert go_on.wait(60)
        raise ValueError

    def create():
        with graph.as_default(), pytest.raises(ValueError):
            vs.get_variable("a/first", [3, 4], custom_getter=getter)

    thread = threading.Thread(target=create)
    thread.start()
    assert asked.wait(60)
    with graph.as_default():
        for name, value in values.items():
            vs.get_variable(name, value.shape, value.dtype)

    def fitted(*args):
        found = original(*args)
        go_on.set()
        thread.join()
        with graph.as_default():
            vs.get_variable(f"more_{len(graph)}", [1])  # so that there are as many
        return found

    original = fitting.fitted
    monkeypatch.setattr(restoring, "fitted", fitted)
    safetensors.save_file({**values, "a/first": values["a/w"] + 1}, path)
    vs.restore(graph, path, partial=True)
    assert_equal(graph, values)


def test_progress(path):
    reports = []
    graph = graph_of(arrays())
    restoring_reports(graph, path, lambda done, total: reports.append((done, total)), 1)
    total = sum(value.nbytes for value in arrays().values())
    assert reports[-1] == (total, total)
    assert reports == sorted(set(reports)) and len(reports) > 2
    with pytest.raises(ArgumentTypeError, match="progress must be a function"):
        vs.restore(graph, path, progress=True)


# --- memory

PEAK = """
import sys
import varscope as vs

def high():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

graph = vs.Graph(storage=sys.argv[2])
with graph.as_default():
    for i in range(8):
        vs.get_variable(f"v{i}", [6, 1 << 20], sys.argv[3], initializer=vs.zeros)
vs.restore(vs.Graph(), sys.argv[4])  # what is imported on the way counts before
before = high()
vs.restore(graph, sys.argv[1], cast="same_kind", threads=2)
print(high() - before, graph.nbytes, max(v.nbytes for v in graph.variables))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc of Linux")
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("heap", "float32"),
        ("arena", "float32"),
        seldom("heap", "float16"),
        seldom("arena", "float16"),
    ],
)
def test_peak_memory(tmp_path, kind, dtype):
    """Eight tensors of 24 MiB: no more than the variables, and one tensor."""
    file, none = tmp_path / "m.safetensors", tmp_path / "none.safetensors"
    safetensors.save_file({f"v{i}": np.ones((6, 1 << 20), "float32") for i in range(8)}, file)
    safetensors.save_file({}, none)
    taken, variables, largest = map(int, run_child(PEAK, file, kind, dtype, none).split())
    assert taken <= variables + largest


# --- other ways to the bytes


@pytest.mark.parametrize("kind", ["heap", "arena"])
def test_a_system_that_cannot_read_by_position(path, kind, monkeypatch):
    from varscope.checkpoint.contents import MappedFile

    monkeypatch.setattr(MappedFile, "descriptor", None)
    monkeypatch.setattr(MappedFile, "__init__", without_descriptor)
    graph = graph_of(arrays(), kind)
    vs.restore(graph, path)
    assert_equal(graph, arrays())


def without_descriptor(self, path, pages, opened=None):
    self.path, self.pages = path, pages


@pytest.mark.parametrize("kind", ["heap", "arena"])
@pytest.mark.parametrize("cut", [None, 0, -1])
def test_checkpoints_of_tensorflow(kind, cut):
    """Their variables in parts lie in several pieces in the files."""
    folder = Path(__file__).parent / "data" / "tf1_checkpoints"
    prefixes = sorted({file.with_suffix("") for file in folder.rglob("*.index")})
    prefixes = [p for p in prefixes if vs.open(p).format == "tensorflow"]
    assert prefixes
    for prefix in prefixes:
        with vs.open(prefix) as checkpoint:
            tensors = {n: t for n, t in checkpoint.items() if readable(t) and ":" not in n}
            values = {name: tensor.numpy() for name, tensor in tensors.items()}
            graph = vs.Graph(storage=kind)
            with graph.as_default():
                for name, value in values.items():
                    axis = None if cut is None or not value.ndim else cut % value.ndim
                    partitioner = None
                    if axis is not None and value.shape[axis] > 1:
                        partitioner = vs.fixed_size_partitioner(2, axis)
                    vs.get_variable(
                        name, value.shape, value.dtype, vs.zeros, partitioner=partitioner
                    )
            report = vs.restore(graph, checkpoint, partial=True, verify=True)
            assert set(report.restored) == set(values)
            assert_equal(graph, values)


def readable(tensor):
    try:
        return tensor.dtype.kind in "fiubc"
    except CheckpointError:
        return False
