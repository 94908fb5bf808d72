"""A dask cluster makes, keeps, changes and saves values, which are those of one process."""

import contextlib
import copy
import os
import pickle
import signal
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from children import python
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import INDEX, SHARD, files, model, planned, saved
from requires import require, require_large

import varscope as vs
from varscope import errors

EXTRA = '"varscope-core[dask]"'
distributed = require_large("distributed", EXTRA)
dask = require_large("dask", EXTRA)
da = require_large("dask.array", EXTRA)
require("safetensors", '"varscope-core[checkpoints]"')

from varscope.interop import dask as vd  # noqa: E402
from varscope.interop.dask import arrays as arrays_module  # noqa: E402
from varscope.interop.dask import files as files_module  # noqa: E402

# Threads of distributed do, and Hypothesis takes it for the strategies.
other_threads_draw = pytest.mark.filterwarnings("ignore:Do not use the .random. module inside")


@pytest.fixture(scope="module")
def client():
    """Two workers, each a process that is started again when it dies."""
    quiet = {"distributed.logging.distributed": "critical", "distributed.admin.tick.limit": "1h"}
    with (
        dask.config.set(quiet),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as found,
    ):
        yield found


@pytest.fixture
def on_cluster(client):
    """A function that makes a graph on the cluster."""
    return lambda seed=1: vs.Graph(seed=seed, storage=vd.Cluster(client))


@pytest.fixture(scope="module")
def want(tmp_path_factory):
    """The files of the model, as a save writes them."""
    return saved(tmp_path_factory.mktemp("saved") / "model", model())


@pytest.fixture
def small_pieces(monkeypatch):
    """Files that are written a page at a time, or little more."""
    monkeypatch.setattr(files_module, "piece_size", lambda nbytes, workers: 4096)


def pids(client):
    return client.run(os.getpid)


def kill_a_worker(client, address=None):
    """End a worker, which is then started again: one that is just starting would not be."""
    client.wait_for_workers(2)
    while set(client.run(lambda dask_worker: dask_worker.status.name, nanny=True).values()) != {
        "running"
    }:
        time.sleep(0.01)
    workers = pids(client)
    os.kill(workers[address or min(workers)], signal.SIGKILL)


def holder(client, variable):
    """The address of the worker that holds a variable's values."""
    [addresses] = client.who_has([variable._content.future]).values()
    return addresses[0]


class Killing:
    """Progress that kills a worker, when something is done and something is not."""

    def __init__(self, client, workers=1):
        self.client, self.left, self.reports = client, workers, []

    def __call__(self, done, total):
        self.reports.append((done, total))
        if self.left and 0 < done < total:
            self.left -= 1
            kill_a_worker(self.client)


def same_values(graph, other):
    for variable in graph.variables:
        mine, theirs = variable.numpy(), other[variable.op_name].numpy()
        assert mine.dtype == theirs.dtype and mine.tobytes() == theirs.tobytes(), variable


# --- files


def test_a_cluster_writes_the_files_of_a_save(client, tmp_path, want):
    reports = []
    vd.materialise(model(), client, tmp_path / "model", max_shard_size=SHARD,
                   progress=lambda *facts: reports.append(facts))  # fmt: skip
    assert files(tmp_path / "model") == want
    assert reports == sorted(reports) and reports[-1][0] == reports[-1][1] == want[2]["total_size"]
    assert len(reports) > 2


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_files_do_not_depend_on_who_writes_them(client, tmp_path, monkeypatch, want, workers):
    """Threads of this process, and workers of the cluster with as many shares each."""
    plan = planned(tmp_path / "threads", model(), workers)
    threads = [threading.Thread(target=vs.materialise, args=(plan, k)) for k in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    vs.finish(plan)
    monkeypatch.setattr(files_module, "SHARES", workers)
    vd.materialise(model(), client, tmp_path / "dask", max_shard_size=SHARD, progress=False)
    assert files(tmp_path / "threads") == files(tmp_path / "dask") == want


@pytest.mark.parametrize("how", ["declared", "heap", "arena", "some", "cluster", "some there"])
def test_a_graph_is_saved_as_save_does(client, tmp_path, want, small_pieces, monkeypatch, how):
    storage = {"arena": "arena", "cluster": vd.Cluster(client), "some there": vd.Cluster(client)}
    monkeypatch.setattr(
        vs, "Graph", lambda seed, make=vs.Graph: make(seed, storage=storage.get(how))
    )
    graph = model()
    if how in ("heap", "arena", "cluster"):
        vs.initialize(graph.variables, progress=False)
    elif how != "declared":  # one shard of several, and every third variable
        vs.initialize([graph["table"][2], graph["columns"][1], *graph.variables[::3]])
    before = [variable.initialized for variable in graph.variables]
    vd.save(graph, client, tmp_path / "model", max_shard_size=SHARD, progress=False)
    assert files(tmp_path / "model") == want
    assert [variable.initialized for variable in graph.variables] == before
    with vs.open(tmp_path / "model") as checkpoint:
        checkpoint.verify()
        assert checkpoint.partitions == {"table": (7, 1), "columns": (1, 3)}


def test_one_file(client, tmp_path):
    vs.save(model(), tmp_path / "a.safetensors")
    vd.save(model(), client, tmp_path / "b.safetensors", progress=False)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "b.safetensors"}
    for name in ("empty.safetensors", "empty"):
        vd.save({}, client, tmp_path / name)
        assert len(vs.open(tmp_path / name)) == 0


def test_functions_and_arrays_as_initializers_are_sent(client, tmp_path):
    def graph():
        found = vs.Graph(seed=1)
        with found.as_default():
            vs.get_variable("ramp", [5, 3], initializer=lambda shape, dtype: np.ones(shape, dtype))
            vs.get_variable("given", initializer=np.arange(7.0))
            vs.get_variable("constant", [3], initializer=vs.constant([1.0, 2.0, 3.0]))
            cut = vs.fixed_size_partitioner(2)
            vs.get_variable("cut", [3, 2], partitioner=cut,
                            initializer=lambda shape, dtype: np.full(shape, 7, dtype))  # fmt: skip
        return found

    vs.save(graph(), tmp_path / "a.safetensors")
    vd.save(graph(), client, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    found = dask.compute(vd.to_dask(graph(), client))[0]
    assert found["ramp"].tolist() == np.ones((5, 3)).tolist()
    assert found["cut"].tolist() == np.full((3, 2), 7.0).tolist()
    with pytest.raises(ValueError, match=r"client must be a dask.distributed.Client, as values of"):
        vd.to_dask(graph())


GRIDS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=3),  # size, chunks
        st.sampled_from(["float32", "int8", "complex128", "bool"]),
    ),
    min_size=1, max_size=3,
)  # fmt: skip


@other_threads_draw
@settings(max_examples=8, deadline=None)
@given(grids=GRIDS)
def test_arrays_of_any_chunks_are_saved_as_they_are(client, tmp_path_factory, grids):
    """The same file as of a graph with these values."""
    folder, graph, arrays = tmp_path_factory.mktemp("grids"), vs.Graph(seed=1), {}
    for i, (axes, dtype) in enumerate(grids):
        shape, chunks = [size for size, _ in axes], [max(1, -(-size // n)) for size, n in axes]
        values = np.random.default_rng(i).integers(0, 2, shape).astype(dtype)
        arrays[f"v{i}"] = da.from_array(values, chunks=tuple(chunks))
        with graph.as_default():
            vs.get_variable(f"v{i}", initializer=values)
    vs.save(graph, folder / "a.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files_module, "piece_size", lambda nbytes, workers: 4096)
        vd.save(arrays, client, folder / "b.safetensors")
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()


@pytest.mark.parametrize("chunks", [(1000, 33), (77, 100), (300, 40), (300, -1)])
def test_large_arrays_are_written_by_whoever_holds_a_part(client, tmp_path, monkeypatch, chunks):
    monkeypatch.setattr(files_module, "piece_size", lambda nbytes, workers: 16384)
    values = np.arange(100_000, dtype="int32").reshape(1000, 100)
    vd.save({"w": da.from_array(values, chunks=chunks)}, client, tmp_path / "w.safetensors")
    with vs.open(tmp_path / "w.safetensors") as checkpoint:
        checkpoint.verify()
        assert np.array_equal(checkpoint["w"].value(), values)


def test_what_is_saved_takes_the_place_of_what_was_there(client, tmp_path):
    path = tmp_path / "model"
    vs.save(model(seed=1), path, max_shard_size=SHARD)
    with vs.open(path) as before:
        vd.save(model(seed=2), client, path, max_shard_size=SHARD, progress=False)
        vd.materialise(model(seed=3), client, path, max_shard_size=SHARD, progress=False)
        assert before["scalar"].value() == model(seed=1)["scalar"].initial_value()
    assert files(path)[1:] == saved(tmp_path / "other", model(seed=3))[1:]
    assert vs.open(path)["scalar"].value() == model(seed=3)["scalar"].initial_value()


def test_what_fails_leaves_what_was_there(client, tmp_path):
    path = tmp_path / "model"
    vd.save(model(seed=1), client, path, progress=False)
    there = files(path)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vd.save(model(seed=2), client, path, progress=stop)
    assert files(path) == there
    with pytest.raises(ZeroDivisionError):
        bad = da.ones((4, 4), chunks=2).map_blocks(lambda block: 1 // 0, dtype=float)
        vd.save({"fine": da.ones(3), "bad": bad}, client, path)
    assert files(path) == there
    with pytest.raises(KeyboardInterrupt):
        vd.materialise(model(seed=2), client, path, progress=stop)
    assert {name.name for name in path.iterdir() if not name.name.startswith(".")} == {
        INDEX, *(name.name for name in path.glob("model-*"))
    }  # fmt: skip
    vd.materialise(model(seed=2), client, path, max_shard_size=SHARD, progress=False)
    vd.materialise(model(seed=2), client, path, max_shard_size=SHARD, progress=False)
    vs.open(path).verify()


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (lambda c, p: (5, c, p), TypeError, "what is saved must be a varscope.Graph or a mapping"),
        (lambda c, p: ({"w": np.ones(3)}, c, p), TypeError, "must be a dask.array.Array"),
        (lambda c, p: ({5: da.ones(3)}, c, p), TypeError, "name of an array must be a str"),
        (lambda c, p: ({}, 5, p), TypeError, "client must be a dask.distributed.Client"),
        (lambda c, p: ({}, c, 5), TypeError, "path must be a str or a path"),
        (lambda c, p: ({}, c, p / "a.npz"), ValueError, "path must be a folder, or a file"),
        (lambda c, p: ({}, c, p / "no" / "b"), FileNotFoundError, "no such folder"),
        (lambda c, p: ({"__metadata__": da.ones(3)}, c, p), ValueError, "cannot have a tensor"),
        (lambda c, p: ({"w": da.ones(9)[da.arange(9) > 4]}, c, p), ValueError,
         r"'w'.*compute_chunk_sizes\(\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved(client, tmp_path, arguments, kind, words):
    with pytest.raises(kind, match=words):
        vd.save(*arguments(client, tmp_path))


def test_a_client_for_an_event_loop_is_refused(client):
    class Later(distributed.Client):
        def __init__(self):
            pass

        asynchronous = True

        def __del__(self):
            pass

        def __repr__(self):
            return "<Later>"

    with pytest.raises(ValueError, match=r"client must be one that waits, as Client\(...\)"):
        vd.Cluster(Later())


def test_what_cannot_be_planned_is_refused_here_too(client, tmp_path):
    graph = model()
    graph["scalar"].initialize()
    with pytest.raises(errors.PlanError, match="has values already"):
        vd.materialise(graph, client, tmp_path / "model")


# --- arrays


def test_arrays_are_made_by_the_workers(client):
    graph, expected = model(), model()
    vs.initialize(expected.variables, progress=False)
    arrays = vd.to_dask(graph)
    assert list(arrays) == [name for name in vs_names(graph) if name != "local"]
    assert arrays["table"].chunks == ((143, 143, 143, 143, 143, 143, 142), (40,))
    assert arrays["columns"].chunks == ((100,), (14, 13, 13))
    for name, values in client.compute(arrays, sync=True).items():
        wanted = expected[name].numpy()
        assert arrays[name].dtype == wanted.dtype and arrays[name].shape == wanted.shape
        assert np.asarray(values).tobytes() == wanted.tobytes(), name
    assert not any(variable.initialized for variable in graph.variables)


def vs_names(graph):
    """The names of variables, those in parts by the whole."""
    return dict.fromkeys(name.partition("/part_")[0] for name in graph)


def test_a_large_variable_is_cut_into_blocks():
    with vs.Graph(seed=1).as_default() as graph:
        v = vs.get_variable("v", [1000, 10])
        vs.get_variable("turned", [100, 50], initializer=vs.orthogonal())
    arrays = vd.to_dask(graph, max_chunk_size="12 kB")
    assert arrays["v"].chunks == ((300, 300, 300, 100), (10,))
    assert arrays["turned"].chunks == ((100,), (50,))  # a part costs what the whole does
    assert arrays["v"].compute().tobytes() == v.numpy().tobytes()
    assert np.array_equal(arrays["v"][450:460, 3].compute(), v[450:460, 3])


def test_what_describes_a_chunk_is_small():
    with vs.Graph(seed=1).as_default() as graph:
        vs.get_variable("v", [10**6, 10**5], initializer=vs.he_normal())
    array = vd.to_dask(graph)["v"]
    layer = dict(array.dask)
    assert len(layer) > 2000
    assert max(len(pickle.dumps(task)) for task in list(layer.values())[:20]) < 1000
    assert array.name == vd.to_dask(graph)["v"].name  # equal ones are computed once


def test_what_was_assigned_is_in_the_arrays(client):
    graph = model()
    graph["scalar"].assign(5.0)
    graph["table"][3].assign(np.full((143, 40), 3.0))
    arrays = vd.to_dask(graph, client)
    assert arrays["scalar"].compute() == 5
    table = graph["table"].numpy()
    assert np.array_equal(arrays["table"].compute(), table) and (table[429:572] == 3).all()
    assert float((arrays["table"].sum() + arrays["scalar"]).compute()) == pytest.approx(
        float(table.sum(dtype="float64")) + 5, rel=1e-4
    )


def test_arrays_of_a_graph_on_the_cluster_are_its_values(client, on_cluster):
    graph = on_cluster()
    with graph.as_default():
        v = vs.get_variable("v", [6], partitioner=vs.fixed_size_partitioner(2))
    v.assign(np.arange(6.0))
    array = vd.to_dask(graph)["v"]
    v.assign(np.zeros(6))
    assert array.chunks == ((3, 3),) and array.compute().tolist() == list(range(6))


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"graph": 5}, TypeError, "graph must be a varscope.Graph"),
        ({"graph": vs.Graph(), "max_chunk_size": 0}, ValueError, "a positive number of bytes"),
    ],
)
def test_what_gives_no_arrays(arguments, kind, words):
    with pytest.raises(kind, match=words):
        vd.to_dask(**arguments)


# --- restoring to the workers


def test_files_are_read_by_the_workers(client, tmp_path):
    graph, reports = model(), []
    vs.save(graph, tmp_path / "model", max_shard_size=SHARD)
    found = vd.restore(tmp_path / "model", client, max_chunk_size="10kB",
                       progress=lambda *facts: reports.append(facts))  # fmt: skip
    assert set(found) == set(vs.open(tmp_path / "model"))
    assert found["table"].chunks[0] == (143, 143, 143, 143, 143, 143, 142)
    assert found["columns"].chunks == ((100,), (14, 13, 13))
    assert len(found["large"].chunks[0]) == 60 and reports[-1][0] == reports[-1][1]
    for name, values in client.compute(found, sync=True).items():
        assert np.asarray(values).tobytes() == graph[name].numpy().tobytes(), name
    vd.save(found, client, tmp_path / "again.safetensors", progress=False)
    again = model()
    vs.restore(again, tmp_path / "again.safetensors", verify=True)
    for variable in again.variables[:-1]:
        assert variable.numpy().tobytes() == graph[variable.op_name].numpy().tobytes()


def test_files_that_cannot_be_read_there(client, tmp_path):
    vs.save(model(), tmp_path / "model.safetensors")
    array = vd.restore(tmp_path / "model.safetensors", client, progress=False)["large"]
    assert array.shape == (30_000, 5)
    source = arrays_module.Stored(
        str(tmp_path / "model.safetensors"), 10**9, "large", array.dtype, array.dtype,
        vs.shapes.Part.of_whole((3,)),
    )  # fmt: skip
    with pytest.raises(errors.CheckpointError, match=r"'large'.*ends at byte 1,000,000,000"):
        client.submit(arrays_module.make, source).result()
    with pytest.raises(FileNotFoundError):
        vd.restore(tmp_path / "nothing", client)


# --- a graph on the cluster


def test_values_are_those_of_any_storage(client, on_cluster, tmp_path):
    graph = vs.Graph(seed=5, storage=vd.Cluster(client))
    reports = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vs, "Graph", lambda seed, make=vs.Graph: graph)
        model()
    vs.initialize(graph.variables, progress=lambda *facts: reports.append(facts))
    assert all(variable.initialized and variable.version == 1 for variable in graph.variables)
    assert reports[-1] == (graph.nbytes, graph.nbytes) and reports == sorted(reports)
    same_values(graph, model())
    vs.save(
        graph, tmp_path / "model.safetensors", names=[{"glob": "**", "to": "a/**"}], progress=False
    )
    for storage in (vd.Cluster(client), "heap"):
        later = vs.Graph(seed=2, storage=storage)
        with pytest.MonkeyPatch.context() as patch, later.as_default():
            patch.setattr(vs, "Graph", lambda seed, later=later: later)
            model()
        if storage != "heap":
            vs.initialize(later.variables[:20], progress=False)
        vs.restore(
            later, tmp_path / "model.safetensors", names=[{"glob": "a/**", "to": "**"}], verify=True
        )
        same_values(later, graph)
        assert later["layer_0/kernel"].version == (1 if storage == "heap" else 2)


def test_a_variable_is_made_when_it_is_read(on_cluster):
    graph = on_cluster()
    with graph.as_default():
        v = vs.get_variable("v", [3], initializer=vs.ones)
        w = vs.get_variable("w", [3], initializer=lambda shape, dtype: np.ones(shape, dtype))
        scalar = vs.get_variable("scalar", [], "int8", vs.constant(7))
    assert not v.initialized and v.version == 0
    assert v.value().tolist() == w.value().tolist() == [1, 1, 1]
    assert v.initialized and v.version == 1 and not v.value().flags.writeable
    assert scalar.value().shape == () and int(scalar) == 7
    assert "declared" not in repr(v) and v.value() is not v.value()


def test_writing(on_cluster):
    graph = on_cluster()
    with graph.as_default():
        v = vs.get_variable("v", [4], initializer=vs.zeros, constraint=lambda x: np.clip(x, 0, 9))
        parts = vs.get_variable("p", [4, 2], partitioner=vs.fixed_size_partitioner(3, 0))
        exact = vs.random_uniform(Fraction(1, 3), 1)  # which no JSON has: it is drawn here
        exotic = vs.get_variable("exotic", [3], initializer=exact)
    assert np.array_equal(exotic, exotic.initial_value())
    v.assign([1, 2, 3, 4])
    v[1:3] = 7
    v += 1
    v.assign_add([10, 0, 0, 0]).project()
    assert v.value().tolist() == [9, 8, 8, 5] and v.version == 5
    np.multiply(v, 2, out=v)
    assert v.numpy().tolist() == [18, 16, 16, 10] and (v + 1).tolist() == [19, 17, 17, 11]
    parts.assign(np.arange(8).reshape(4, 2))
    parts *= 2
    assert parts.value().tolist() == (np.arange(8).reshape(4, 2) * 2).tolist()
    for variable in (v, parts, exotic):
        variable.initialize(force=True)
    assert np.array_equal(exotic, exotic.initial_value()) and exotic.version == 2
    assert v.value().tolist() == [0, 0, 0, 0]
    assert np.array_equal(parts, parts.initial_value())
    with pytest.raises(errors.DTypeMismatchError):
        v.assign([1j, 0, 0, 0])
    with pytest.raises(ValueError, match="could not broadcast"):
        v[...] = [1, 2]
    assert v.value().tolist() == [0, 0, 0, 0]


def test_what_needs_memory_of_this_process_is_refused(on_cluster, client):
    graph = on_cluster()
    with graph.as_default():
        v = vs.get_variable("v", [3], initializer=vs.ones)
    words = "the values of variable v lie on a cluster, and there is no memory to share; read a"
    for use in (lambda: v.array, lambda: memoryview(v), v.__dlpack__):
        with pytest.raises(errors.StorageError, match=words):
            use()
    assert np.asarray(v).tolist() == [1, 1, 1]
    np.asarray(v)[:] = 5  # a copy
    assert v.value().tolist() == [1, 1, 1]
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        with pytest.raises(ValueError, match="v lies on a cluster: as an array it is a copy"):
            np.asarray(v, copy=False)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        for thing in (graph, graph.storage, v) if copied is not copy.copy else (graph,):
            with pytest.raises(errors.StorageError, match=r"not copied or pickled.*varscope\.save"):
                copied(thing)
    with pytest.raises(errors.StorageError, match="no flat view"):
        graph.flat()
    with pytest.raises(errors.StorageError, match="storage of another graph"):
        vs.Graph(storage=graph.storage)
    with pytest.raises(TypeError, match=r"client must be a dask\.distributed\.Client, not int"):
        vd.Cluster(5)
    assert repr(graph.storage) == f"Cluster({client!r})"


def sent_by_workers(client):
    found = client.run(lambda dask_worker: dask_worker.transfer_outgoing_bytes_total)
    return sum(found.values())


def test_reading_a_shard_fetches_that_shard(client, on_cluster):
    graph, size = on_cluster(), 100_000
    with graph.as_default():
        v = vs.get_variable("v", [8, size], partitioner=vs.fixed_size_partitioner(8))
        cached = vs.get_variable("cached", [size], caching_device="cpu")
    vs.initialize(graph.variables, progress=False)
    before = sent_by_workers(client)
    v[3].value()
    after = sent_by_workers(client)
    assert 4 * size <= after - before < 4 * size + 10_000
    v.value()
    assert 8 * 4 * size <= sent_by_workers(client) - after < 8 * 4 * size + 80_000
    after = sent_by_workers(client)
    assert cached.value() is not None and cached.value() is cached.value()
    assert 4 * size <= sent_by_workers(client) - after < 4 * size + 10_000


def test_what_is_changed_where_it_lies_is_not_fetched(client, on_cluster):
    graph, size = on_cluster(), 100_000
    with graph.as_default():
        v = vs.get_variable("v", [8, size], partitioner=vs.fixed_size_partitioner(8))
    vs.initialize(graph.variables, progress=False)
    before = sent_by_workers(client)
    for _ in range(3):
        vd.map_shards(lambda value, shard: value + 1, [v])
    assert sent_by_workers(client) - before < 4 * size
    assert np.allclose(v, v.initial_value() + 3) and v.version == 8 * 4


def momentum(weight, gradient, moment, shard):
    moment = 0.9 * moment + gradient
    return weight - 0.1 * moment, moment


@other_threads_draw
@settings(max_examples=6, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    slices=st.integers(1, 4), axis=st.integers(0, 2), steps=st.integers(1, 3),
)  # fmt: skip
def test_parts_and_wholes_come_to_the_same(client, shape, slices, axis, steps):
    """Momentum, on the cluster in parts and in one piece, and in this process."""
    axis %= len(shape)
    results = []
    for storage, parts in (("heap", 1), (vd.Cluster(client), 1), (vd.Cluster(client), slices)):
        graph = vs.Graph(seed=3, storage=storage)
        cut = vs.fixed_size_partitioner(min(parts, shape[axis]), axis) if parts > 1 else None
        with graph.as_default(), vs.variable_scope("", partitioner=cut):
            weight = vs.get_variable("weight", shape, initializer=vs.he_normal())
            gradient = vs.get_variable("gradient", shape, initializer=vs.random_normal())
            moment = vs.get_variable("moment", shape, initializer=vs.zeros)
        for _ in range(steps):
            if storage == "heap":
                new, kept = momentum(weight.value(), gradient.value(), moment.value(), None)
                weight.assign(new)
                moment.assign(kept)
            else:
                vd.map_shards(
                    lambda w, g, m, shard: momentum(w, g, m, shard)[0], weight, gradient, moment
                )
                vd.map_shards(lambda m, g, shard: 0.9 * m + g, moment, gradient)
        results.append([weight.numpy(), moment.numpy()])
    for weight, moment in results[1:]:
        assert weight.tobytes() == results[0][0].tobytes()
        assert moment.tobytes() == results[0][1].tobytes()


def test_several_variables_change_at_once(on_cluster):
    graph = on_cluster()
    with graph.as_default(), vs.variable_scope("", partitioner=vs.fixed_size_partitioner(2)):
        weight, gradient, moment = (
            vs.get_variable(name, [5], initializer=vs.ones) for name in ("w", "g", "m")
        )
    vd.map_shards(lambda w, m, g, shard: (w - g, (m + g).astype("float64")), [weight], [moment],
                  [gradient], updates=2)  # fmt: skip
    assert weight.value().tolist() == [0] * 5 and moment.value().tolist() == [2] * 5
    assert moment.dtype == np.float32 and [v.version for v in graph.variables] == [2, 2, 1, 1, 2, 2]


def test_a_function_is_told_which_shard_it_has(on_cluster):
    graph = on_cluster()
    with graph.as_default():
        with vs.variable_scope("layer", partitioner=vs.fixed_size_partitioner(3)):
            cut = vs.get_variable("cut", [5, 2], initializer=vs.zeros)
        whole = vs.get_variable("layer/whole", [2], initializer=vs.zeros)

    def told(value, shard):
        assert not value.flags.writeable and value.shape == shard.var_shape
        return value + 10 * shard.var_offset[0] + len(shard.full_name) + shard.full_shape[0] / 8

    vd.map_shards(told, graph.global_variables())
    assert cut.value()[:, 0].tolist() == [9.625, 9.625, 29.625, 29.625, 49.625]
    assert whole.value().tolist() == [11.25, 11.25]


def test_all_change_or_none(on_cluster):
    graph = on_cluster()
    with graph.as_default():
        for name in ("a", "b", "c"):
            vs.get_variable(name, [2], initializer=vs.ones)

    def before():
        return [(v.version, v.value().tolist()) for v in graph.variables]

    vs.initialize(graph.variables)
    known = before()
    for bad, kind, words in (
        (lambda value: 1 / 0, ZeroDivisionError, "division"),
        (lambda value: value[:1], errors.ShapeMismatchError, r"b has shape \(2,\), and \(1,\) was"),
        (lambda value: value * 1j, errors.DTypeMismatchError, "b has dtype float32, and complex"),
        (lambda value: value.__setitem__(0, 1), ValueError, "read-only"),
    ):
        with pytest.raises(kind, match=words):
            vd.map_shards(
                lambda value, shard, bad=bad: bad(value) if shard.full_name == "b" else value + 1,
                graph.variables,
            )
        assert before() == known
    with pytest.raises(ValueError, match="what fn returns must be a tuple of 2 arrays"):
        a, b = graph["a"], graph["b"]
        vd.map_shards(lambda a, b, shard: a, [a], [b], updates=2)
    assert before() == known
    vd.map_shards(lambda value, shard: value, [])
    vd.map_shards(lambda value, shard: list(value), graph["a"])
    assert graph["a"].version == 2 and before()[1:] == known[1:]


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "words"),
    [
        (lambda g: (5, g.variables), {}, errors.NotCallableError, "map_shards needs a function"),
        (lambda g: (max,), {}, errors.ArgumentValueError, "updates must be from 1 to 0"),
        (lambda g: (max, 5), {}, errors.ArgumentTypeError, "variables must be an iterable"),
        (lambda g: (max, "a"), {}, errors.ArgumentTypeError, "variables must be an iterable"),
        (lambda g: (max, [5]), {}, errors.ArgumentTypeError, "each of variables must be a Var"),
        (lambda g: (max, g), {}, errors.ArgumentTypeError, "each of variables must be a Var"),
        (lambda g: (max, g["a"], []), {}, errors.ArgumentValueError, r"as many in each.*\[1, 0\]"),
        (lambda g: (max, [g["a"]] * 2), {}, errors.ArgumentValueError, "different ones"),
        (lambda g: (max, g["a"], g["b"]), {}, errors.ShapeMismatchError,
         r"b has shape \(2,\), and \(3,\) was taken together with a"),
        (lambda g: (max, g["a"]), {"updates": 2}, errors.ArgumentValueError, "from 1 to 1"),
        (lambda g: (max, g["a"]), {"updates": True}, errors.ArgumentTypeError, "an int"),
        (lambda g: (max, g["a"], local()), {}, errors.StorageError, r"v lies in Heap\(\), and map"),
    ],
)  # fmt: skip
def test_what_cannot_be_mapped(on_cluster, arguments, options, kind, words):
    graph = on_cluster()
    with graph.as_default():
        vs.get_variable("a", [2])
        vs.get_variable("b", [3])
    with pytest.raises(kind, match=words):
        vd.map_shards(*arguments(graph), **options)
    assert not any(variable.initialized for variable in graph.variables)


def local():
    with vs.Graph(seed=1).as_default():
        return vs.get_variable("v", [2])


def test_a_restore_that_fails_changes_nothing(on_cluster, tmp_path, monkeypatch):
    graph = on_cluster()
    with graph.as_default():
        v, w = vs.get_variable("v", [3]), vs.get_variable("w", [2], initializer=vs.ones)
    v.assign([1, 2, 3])
    vs.save(graph, tmp_path / "m.safetensors")
    v.assign([4, 5, 6])
    later = on_cluster()
    with later.as_default():
        for name, shape in (("v", [3]), ("w", [3])):
            vs.get_variable(name, shape)
    with pytest.raises(errors.RestoreError, match="another shape"):
        vs.restore(later, tmp_path / "m.safetensors")
    assert not any(variable.initialized for variable in later.variables)

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vs.restore(graph, tmp_path / "m.safetensors", progress=stop)
    assert v.value().tolist() == [4, 5, 6] and v.version == 2 and not w.initialized
    vs.restore(graph, tmp_path / "m.safetensors")
    assert v.value().tolist() == [1, 2, 3] and w.value().tolist() == [1, 1]
    assert v.version == 3 and w.version == 1


def test_a_restore_with_casts_maps_and_open_shapes(on_cluster, tmp_path):
    source = vs.Graph(seed=1)
    with source.as_default():
        vs.get_variable("wide", [3, 4], "float64", vs.random_normal())
        vs.get_variable("turned", [3, 4], initializer=vs.random_normal())
        vs.get_variable("open", [7], initializer=vs.ones)
        vs.get_variable("cut", [5, 6], partitioner=vs.fixed_size_partitioner(2))
    vs.save(source, tmp_path / "m.safetensors")
    graph = on_cluster()
    with graph.as_default():
        vs.get_variable("wide", [3, 4])
        vs.get_variable("turned", [4, 3])
        vs.get_variable("open", validate_shape=False, initializer=lambda shape, dtype: np.ones(2))
        cut = vs.get_variable("cut", [5, 6], partitioner=vs.fixed_size_partitioner(3, 1))
    rules = [
        {"name": "turned", "to": "turned", "transpose": [1, 0]}, {"glob": "**", "to": "**"},
    ]  # fmt: skip
    vs.restore(graph, tmp_path / "m.safetensors", cast="same_kind", names=rules)
    assert np.array_equal(graph["wide"], source["wide"].numpy().astype("float32"))
    assert np.array_equal(graph["turned"], source["turned"].numpy().T)
    assert graph["open"].shape == (7,) and np.array_equal(cut, source["cut"])
    with pytest.raises(errors.CheckpointError, match="a map that only renames"):
        vs.save(graph, tmp_path / "n.safetensors", names=rules)


def test_values_go_with_their_graph(client, on_cluster):
    graph = on_cluster(seed=12345)
    with graph.as_default():
        v = vs.get_variable("v", [3])
    key = v.initialize()._content.future.key
    assert key in client.futures
    del v, graph
    waited = time.monotonic() + 10
    while key in client.futures and time.monotonic() < waited:
        time.sleep(0.01)  # the client lets go in a thread of its own
    assert key not in client.futures


def test_two_threads_that_make_one_variable(on_cluster):
    graph, found = on_cluster(), []
    with graph.as_default():
        v = vs.get_variable("v", [1000])
    threads = [threading.Thread(target=lambda: found.append(v.numpy())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and {values.tobytes() for values in found} == {v.numpy().tobytes()}
    assert v.version == 1


# --- workers that die


def test_a_worker_dies_while_a_checkpoint_is_made(client, tmp_path, want):
    killing = Killing(client)
    vd.materialise(model(), client, tmp_path / "model", max_shard_size=SHARD, progress=killing)
    assert files(tmp_path / "model") == want and not killing.left


@pytest.mark.parametrize("how", ["declared", "sent", "there"])
def test_a_worker_dies_while_a_graph_is_saved(client, tmp_path, want, small_pieces, how):
    killing, graph = Killing(client), vs.Graph(5, vd.Cluster(client) if how == "there" else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vs, "Graph", lambda seed: graph)
        model()
    if how != "declared":
        vs.initialize(graph.variables, progress=False)
    if how == "there":  # which are no first values then, though the same ones
        vd.map_shards(lambda value, shard: value, [v for v in graph.variables if v.path != "local"])
    vd.save(graph, client, tmp_path / "model", max_shard_size=SHARD, progress=killing)
    assert files(tmp_path / "model") == want and not killing.left


def test_what_can_be_computed_again_is(client, on_cluster, tmp_path):
    graph = on_cluster()
    with graph.as_default():
        v = vs.get_variable("v", [8], partitioner=vs.fixed_size_partitioner(4))
    expected = v.initial_value()
    vs.initialize(graph.variables, progress=False)
    kill_a_worker(client, holder(client, v[0]))
    assert np.array_equal(v, expected)
    for _ in range(3):
        vd.map_shards(lambda value, shard: 2 * value + shard.var_offset[0], v)
        expected = 2 * expected + np.array([0, 0, 2, 2, 4, 4, 6, 6], "float32")
    kill_a_worker(client, holder(client, v[1]))
    assert np.array_equal(v, expected) and v.version == 16
    vs.save(graph, tmp_path / "m.safetensors")
    vs.restore(graph, tmp_path / "m.safetensors")  # from here on nothing else is needed
    vd.map_shards(lambda value, shard: -value, v)
    kill_a_worker(client, holder(client, v[2]))
    assert np.array_equal(v, -expected)


def test_what_was_sent_and_is_lost_is_an_error(client, on_cluster, tmp_path):
    graph = on_cluster()
    with graph.as_default():
        v, w = vs.get_variable("v", [3]), vs.get_variable("w", [3], initializer=vs.ones)
    v.assign([1, 2, 3])
    vd.map_shards(lambda value, shard: 2 * value, [v, w])
    words = r"the values of 1 variables, '?v'? for one, were lost with a worker that died"
    while True:
        kill_a_worker(client, holder(client, v))
        with contextlib.suppress(errors.StorageError):
            if v.value().tolist() == [2, 4, 6]:
                continue  # the other worker has what it is made of
        break
    with pytest.raises(errors.StorageError, match=words) as caught:
        v.value()
    assert caught.value.variables == ["v"] and w.value().tolist() == [2, 2, 2]
    for use in (
        lambda: vd.map_shards(lambda value, shard: value, [w, v]),
        lambda: vs.save(graph, tmp_path / "m.safetensors"),
    ):
        with pytest.raises(errors.StorageError, match="were lost with a worker that died"):
            use()
    assert w.version == 2 and not list(tmp_path.iterdir())
    v.assign([4, 5, 6])
    vd.map_shards(lambda value, shard: 2 * value, [v, w])
    assert v.value().tolist() == [8, 10, 12] and w.value().tolist() == [4, 4, 4]


def test_a_restore_ends_what_the_scheduler_keeps(client, on_cluster, tmp_path):
    graph = on_cluster(seed=7)
    with graph.as_default():
        v = vs.get_variable("v", [6], partitioner=vs.fixed_size_partitioner(3))

    def steps(dask_scheduler):
        return {key for key in dask_scheduler.tasks if str(key).startswith("map-shards")}

    before = client.run_on_scheduler(steps)
    for _ in range(4):
        vd.map_shards(lambda value, shard: value + 1, v)
    known = client.run_on_scheduler(steps) - before
    assert len(known) == 12
    vs.save(graph, tmp_path / "m")
    vs.restore(graph, tmp_path / "m")
    waited = time.monotonic() + 10
    while known & client.run_on_scheduler(steps) and time.monotonic() < waited:
        time.sleep(0.01)
    assert not known & client.run_on_scheduler(steps)
    assert np.allclose(v, v.initial_value() + 4)


KILLED = """
import os, signal, sys
from distributed import Client
from planned import SHARD, model
from varscope.interop import dask as vd

def killing(done, total):
    os.kill(os.getpid(), signal.SIGKILL)

client = Client(sys.argv[1])
function = getattr(vd, sys.argv[2])
function(model(seed=2), client, sys.argv[3], max_shard_size=SHARD, progress=killing)
"""


@pytest.mark.parametrize("function", ["materialise", "save"])
def test_this_process_dies_while_the_cluster_writes(client, tmp_path, function):
    path = tmp_path / "model"
    vs.save(model(seed=1), path, max_shard_size=SHARD)
    before = files(path)
    done = python(KILLED, client.scheduler.address, function, path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [name for name in path.iterdir() if name.name.startswith(".")]
    assert len(left) == 1 and (path / INDEX).exists()
    for name in {name.name for name in path.glob("model-*")}:
        assert name in (path / INDEX).read_text()
    time.sleep(0.5)  # workers end what they were about
    getattr(vd, function)(model(seed=2), client, path, max_shard_size=SHARD, progress=False)
    assert files(path) == saved(tmp_path / "other", model(seed=2)) != before


def test_tasks_have_names_that_tell(client, on_cluster, tmp_path):
    """The dashboard shows tasks whose keys begin alike as one."""
    graph = on_cluster(seed=6)
    with graph.as_default():
        v = vs.get_variable("v", [3])
    vd.materialise(local().graph, client, tmp_path / "a")
    vd.map_shards(lambda value, shard: value, v)
    vd.save(graph, client, tmp_path / "b")
    vs.restore(graph, tmp_path / "b")
    known = client.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.task_prefixes))
    assert known >= {"materialise", "first-values", "write", "map-shards", "restore"}
