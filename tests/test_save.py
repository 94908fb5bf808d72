"""`save`: what files hold and who can read them, and what is refused before anything is written."""

import json
import os
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requires import on_posix, require, require_ml_dtypes

import varscope as vs
from varscope.checkpoint import dtypes, entries, saving

safetensors = require("safetensors", 'safetensors>=0.8 or "varscope-core[checkpoints]"')
from safetensors.numpy import load_file, save_file  # noqa: E402

INDEX = "model.safetensors.index.json"


def graph_of(arrays, storage=None, seed=1):
    """A graph with a variable of each array's values, by name."""
    graph = vs.Graph(seed=seed, storage=storage)
    with graph.as_default():
        for name, array in arrays.items():
            variable = vs.get_variable(
                name, array.shape, dtype=array.dtype, initializer=lambda shape, dtype: None
            )
            variable.assign(array)
    return graph


def some_arrays(count=5, seed=0):
    rng = np.random.default_rng(seed)
    return {f"layer_{i}/w": rng.normal(size=(i, 3)).astype(np.float32) for i in range(count)}


def listed(folder):
    return json.loads((folder / INDEX).read_text())["weight_map"]


def loaded(path):
    """What the safetensors library reads, of one file or of a folder."""
    if path.is_file():
        return load_file(path)
    found = {}
    for file in sorted(set(listed(path).values())):
        found |= load_file(path / file)
    return found


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_holds(path, arrays):
    with vs.open(path) as opened:
        opened.verify()
        assert set(opened) == set(arrays)
        for name, array in arrays.items():
            assert same(opened[name].numpy(), array), name


@pytest.fixture(params=["model.safetensors", "model"])
def target(request, tmp_path):
    return tmp_path / request.param


# --- what the files are


def test_other_libraries_read_a_file(tmp_path):
    arrays = some_arrays()
    vs.save(graph_of(arrays), tmp_path / "m.safetensors")
    with safetensors.safe_open(tmp_path / "m.safetensors", "numpy") as opened:
        assert opened.metadata()["format"] == "pt"
        assert set(opened.keys()) == set(arrays)
        for name, array in arrays.items():
            assert same(opened.get_tensor(name), array)


def test_a_folder_has_an_index_and_files_of_at_most_the_size(tmp_path):
    arrays = {f"v{i}": np.full((25,), i, np.float32) for i in range(10)}
    vs.save(graph_of(arrays), tmp_path / "m", max_shard_size=250)
    index = json.loads((tmp_path / "m" / INDEX).read_text())
    assert index["metadata"] == {"total_size": 1000}
    assert list(index["weight_map"]) == list(arrays)
    files = sorted(set(index["weight_map"].values()))
    assert [name[14:] for name in files] == [f"-0000{i}-of-00005.safetensors" for i in range(1, 6)]
    assert sorted(os.listdir(tmp_path / "m")) == [*files, INDEX]
    assert all(len(load_file(tmp_path / "m" / file)) == 2 for file in files)
    assert_holds(tmp_path / "m", arrays)


def test_a_tensor_is_never_cut(tmp_path):
    arrays = {"a": np.zeros(1, "f4"), "b": np.zeros(100, "f4"), "c": np.zeros(1, "f4")}
    vs.save(graph_of(arrays), tmp_path / "m", max_shard_size=8)
    assert len(set(listed(tmp_path / "m").values())) == 3


def test_a_header_is_kept_below_what_readers_take(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "LONG_HEADER", 1000)
    arrays = {f"{'n' * 100}{i}": np.zeros(1, "f4") for i in range(40)}
    vs.save(graph_of(arrays), tmp_path / "m")
    for file in set(listed(tmp_path / "m").values()):
        with open(tmp_path / "m" / file, "rb") as opened:
            assert int.from_bytes(opened.read(8), "little") <= 1000
    assert_holds(tmp_path / "m", arrays)
    monkeypatch.setattr(saving, "LONGEST_HEADER", 1000)
    with pytest.raises(vs.errors.CheckpointError, match=r"readers take 1,000; save to a folder"):
        vs.save(graph_of(arrays), tmp_path / "m.safetensors")
    assert os.listdir(tmp_path) == ["m"]


names_of_bytes = st.sampled_from(["f4", "f8", "i2", "u1", "?", "c8", "c16", ">f4", "S3", "m8[s]"])


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 30),
    fixed=st.lists(names_of_bytes, min_size=1, max_size=10),
    odd=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_no_header_is_longer_than_expected(seed, count, fixed, odd):
    names = [f"{'x' * (i % 7)}{i}" + '"é\\\n\U0001d11e' * odd for i in range(count)]
    graph = graph_of({f"v{i}": np.zeros([i % 3] * (i % 4), fixed[i % len(fixed)])
                      for i in range(count)})  # fmt: skip
    chosen = entries.collected(graph)
    chosen.names = names
    tensors = entries.Tensors(graph, chosen)
    writing = saving.Writing(tensors, {"m": slice(0, count)}, None, None)
    places = tensors.sorted(slice(0, count))
    specs = writing.specs(places, saving.locate(tensors.arrays(places)))
    facts = saving.metadata(writing.facts(places), count)
    header = int.from_bytes(safetensors.serialize(specs, facts)[:8], "little")
    assert header <= tensors.described.sum() + 200


def test_the_same_values_give_the_same_bytes(tmp_path):
    arrays = some_arrays() | {"z": np.zeros(3, "c16"), "b": np.ones(2, "?"), "a": np.ones(2, "?")}
    found = set()
    for i in range(4):
        vs.save(graph_of(arrays), tmp_path / f"{i}", threads=1 + i % 2, max_shard_size=90)
        text = (tmp_path / f"{i}" / INDEX).read_text()
        token = text.partition("model-")[2][:8]
        found.add((
            text.replace(token, "*"),
            *((tmp_path / f"{i}" / file).read_bytes() for file in sorted(set(listed(
                tmp_path / f"{i}").values()))),
        ))  # fmt: skip
    assert len(found) == 1


def test_a_save_in_place_of_another_leaves_its_own_files_only(tmp_path):
    for size in (40, 10**9, 60):
        arrays = some_arrays(seed=size)
        vs.save(graph_of(arrays), tmp_path / "m", max_shard_size=size)
        assert set(os.listdir(tmp_path / "m")) == {INDEX, *listed(tmp_path / "m").values()}
        assert_holds(tmp_path / "m", arrays)


def test_a_checkpoint_of_other_programs_is_replaced(tmp_path):
    arrays = some_arrays()
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for shard in [*shards, "other.safetensors"]:
        save_file(arrays, tmp_path / shard)
    weight_map = dict.fromkeys(arrays, shards[0]) | {
        "a": shards[1], "b": "other.safetensors", "c": "../elsewhere.safetensors"
    }  # fmt: skip
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (tmp_path / "config.json").write_text("{}")
    vs.save(graph_of(arrays), tmp_path)
    kept = {INDEX, "config.json", "other.safetensors", *listed(tmp_path).values()}
    assert set(os.listdir(tmp_path)) == kept and len(kept) == 4


@pytest.mark.parametrize("text", ["", "[", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_an_index_that_cannot_be_read_is_replaced(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(b"of somebody")
    vs.save(graph_of(some_arrays()), tmp_path)
    assert_holds(tmp_path, some_arrays())
    assert (tmp_path / "model-00001-of-00001.safetensors").exists()


@on_posix
def test_files_are_for_whom_new_files_are(target):
    before = os.umask(0o027)
    try:
        vs.save(graph_of(some_arrays()), target)
    finally:
        os.umask(before)
    for file in [target] if target.is_file() else target.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o640


@on_posix
def test_views_of_a_checkpoint_keep_their_values_when_it_is_saved_over(target):
    arrays = {"v": np.arange(3000, dtype=np.float32)}
    graph = graph_of(arrays)
    vs.save(graph, target)
    with vs.open(target) as opened:
        view = opened["v"].value()
        with graph.as_default():
            graph["v"].assign(np.zeros(3000))
        vs.save(graph, target)
        assert same(view, arrays["v"]) and same(opened["v"].numpy(), arrays["v"])
        opened.verify()
    assert not vs.open(target)["v"].value().any()


# --- what is saved


def test_local_variables_are_left_out_and_parts_are_saved_whole(target):
    g = vs.Graph(seed=1)
    with g.as_default():
        first = vs.get_variable("first", [2])
        vs.get_local_variable("step", [])
        whole = vs.get_variable("whole", [5, 2], partitioner=vs.fixed_size_partitioner(3))
        vs.get_local_variable("cut", [4], partitioner=vs.fixed_size_partitioner(2))
        one = vs.get_variable("one", [5], partitioner=vs.fixed_size_partitioner(1))
        last = vs.get_variable("last", [])
    vs.save(g, target)
    assert not any(v.initialized for v in g.local_variables())
    wanted = {v.op_name: v.numpy() for v in (first, whole, one, last)}
    assert_holds(target, wanted)
    with vs.open(target) as opened:
        assert opened.partitions == {"whole": (3, 1), "one": (1,)}
    if target.is_dir():
        assert list(listed(target)) == ["first", "whole", "one", "last"]


def test_what_is_declared_gets_its_first_values(target):
    def declared():
        g = vs.Graph(seed=7)
        with g.as_default():
            vs.get_variable("a", [300, 300])
            square = np.ones((2, 2), np.float32)
            vs.get_variable("b", initializer=lambda *_: square, validate_shape=False)
            vs.get_variable("c", [3], initializer=vs.ones)
        return g

    g, other = declared(), declared()
    g["c"].assign(np.zeros(3))
    vs.save(g, target)
    assert all(v.initialized for v in g.variables)
    with other.as_default():
        assert_holds(
            target, {"a": other["a"].numpy(), "b": np.ones((2, 2), "f4"), "c": np.zeros(3, "f4")}
        )


def withdrawing(create):
    """A graph, whose `s/x` a thread has just made with `create`, and takes back.

    It waits for the first event before it does, and sets the second one when it has.
    """
    created, go, gone = (threading.Event() for _ in range(3))
    graph = vs.Graph(seed=1)

    def getter(get, name, *args, **options):
        get(name, *args, **options)
        created.set()
        go.wait(20)
        raise ValueError("no")

    def fail():
        with (
            graph.as_default(),
            vs.variable_scope("s", custom_getter=getter),
            pytest.raises(ValueError, match="no"),
        ):
            create("x", [2], initializer=vs.constant(-1.0))
        gone.set()

    thread = threading.Thread(target=fail)
    thread.start()
    assert created.wait(20)
    return graph, thread, go, gone


def test_variables_that_are_withdrawn_or_created_meanwhile(target, monkeypatch):
    graph, thread, go, gone = withdrawing(vs.get_variable)
    with graph.as_default():
        for i in range(4):
            vs.get_variable(f"v{i}", [2], initializer=vs.constant(i))
    vs.initialize(list(graph.variables))
    look = entries.looked_through

    def meanwhile(graph):
        found = look(graph)
        if not gone.is_set():
            assert "s/x" in found.names
            go.set()
            assert gone.wait(20)
            with graph.as_default():
                cut = vs.fixed_size_partitioner(2)
                vs.get_variable("late", [2], initializer=vs.constant(-2.0), partitioner=cut)
                vs.get_local_variable("local", [2], initializer=vs.constant(-3.0))
        return found

    monkeypatch.setattr(entries, "looked_through", meanwhile)
    vs.save(graph, target)
    thread.join()
    wanted = {f"v{i}": np.full(2, i, np.float32) for i in range(4)}
    assert_holds(target, wanted | {"late": np.full(2, -2, np.float32)})


def test_variables_keep_their_values_where_others_are_withdrawn_later(tmp_path, monkeypatch):
    """The same behind the look: what is written is found by handles."""
    graph, thread, go, gone = withdrawing(vs.get_local_variable)
    arrays = {f"v{i}": np.full(2, i, np.float32) for i in range(4)}
    with graph.as_default():
        for name, array in arrays.items():
            vs.get_variable(name, [2]).assign(array)
    names_are_fine = saving.check_names

    def meanwhile(names, target):
        names_are_fine(names, target)
        go.set()
        assert gone.wait(20)
        with graph.as_default():
            vs.get_variable("late", [2], initializer=vs.constant(-2.0))

    monkeypatch.setattr(saving, "check_names", meanwhile)
    vs.save(graph, tmp_path / "m")
    thread.join()
    assert_holds(tmp_path / "m", arrays)


def test_an_initializer_that_raises_leaves_everything(target):
    vs.save(graph_of(some_arrays()), target)
    g = vs.Graph()
    with g.as_default():
        vs.get_variable("v", [2], initializer=lambda shape, dtype: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        vs.save(g, target)
    assert_holds(target, some_arrays())


@pytest.mark.parametrize("storage", ["heap", "arena"])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_storage_and_number_of_threads(target, storage, threads):
    arrays = some_arrays(40) | {
        "large": np.arange(100_000, dtype=np.float64), "none": np.zeros((3, 0), "i4"),
        "no bytes": np.zeros(3, "S0"), "flag": np.array(True),
    }  # fmt: skip
    arrays = {name.replace(" ", "_"): array for name, array in arrays.items()}
    vs.save(graph_of(arrays, storage), target, threads=threads, max_shard_size="1 KB")
    wanted = {name: array for name, array in arrays.items() if array.dtype != "S0"}
    with vs.open(target) as opened:
        opened.verify()
        assert set(opened) == set(arrays)
        assert all(same(opened[name].numpy(), array) for name, array in wanted.items())


@on_posix
def test_files_as_storage(target, tmp_path):
    arrays = some_arrays(10)
    vs.save(graph_of(arrays, vs.MemoryMapped(tmp_path / "values")), target)
    assert_holds(target, arrays)


def test_an_empty_graph(target):
    vs.save(vs.Graph(), target)
    vs.save(vs.Graph(), target)
    assert len(vs.open(target)) == 0
    assert loaded(target) == {}


DTYPES = [
    "?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8",
    "c16", "g", "G", ">f4", ">i8", ">c16", "S3", "S0", "U2", "V5", "M8[s]", "m8[3ns]",
    [("x", "i1"), ("y", ">f4", (2,)), ("z", [("s", "S2")])],
]  # fmt: skip


def filler(dtype, shape, seed=0):
    """Any values of a dtype, made of bytes that are good for every dtype."""
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(0, 2, size, np.uint8)
    if dtype.kind in "gG" or dtype.char in "gG":
        return np.random.default_rng(seed).integers(0, 9, shape).astype(dtype)
    return np.frombuffer(raw.tobytes(), dtype).reshape(shape) if size else np.zeros(shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back(tmp_path, dtype):
    dtype = np.dtype(dtype)
    array = filler(dtype, (2, 3))
    graph = vs.Graph()
    with graph.as_default():
        vs.get_variable("v", (2, 3), dtype, initializer=lambda shape, dtype: array)
    vs.save(graph, tmp_path / "m.safetensors")
    with vs.open(tmp_path / "m.safetensors") as opened:
        opened.verify()
        found = opened["v"]
        assert (found.dtype, found.shape, found.nbytes) == (dtype, (2, 3), 6 * dtype.itemsize)
        values = found.numpy()
        # NumPy makes arrays of the former out of the latter.
        assert values.dtype == dtype or (dtype, values.dtype) == ("S0", "S1")
        assert (values == array).all()
    stored = load_file(tmp_path / "m.safetensors")["v"]
    if stored.dtype != dtype:
        assert stored.dtype == np.uint8 and stored.shape == (2, 3, dtype.itemsize)
    assert stored.nbytes == 6 * dtype.itemsize


def test_every_dtype_of_ml_dtypes_comes_back(tmp_path):
    ml_dtypes = require_ml_dtypes()
    found = [getattr(ml_dtypes, name) for name in dir(ml_dtypes)]
    kinds = [np.dtype(kind) for kind in found
             if isinstance(kind, type) and issubclass(kind, np.generic)]  # fmt: skip
    assert len(kinds) >= 8
    arrays = {f"v_{dtype.name}": np.arange(2).astype(dtype).reshape(2, 1) for dtype in kinds}
    vs.save(graph_of(arrays), tmp_path / "m")
    assert_holds(tmp_path / "m", arrays)
    (file,) = set(listed(tmp_path / "m").values())
    with safetensors.safe_open(tmp_path / "m" / file, "numpy") as opened:
        stored = opened.get_slice("v_bfloat16").get_dtype(), opened.get_slice("v_int4").get_dtype()
        assert stored == ("BF16", "U8")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_dtype_as_text(dtype):
    dtype = np.dtype(dtype)
    assert dtypes.dtype_of(dtypes.text_of(dtype)) == dtype


@pytest.mark.parametrize(
    "text", ["", "O", "object", "{", "{}", '{"names": 1}', '{"a":' * 100_000, "nonsense",
             '{"names":["a"],"formats":["O"],"offsets":[0],"itemsize":8}']
)  # fmt: skip
def test_a_text_that_is_no_dtype(text):
    with pytest.raises(vs.errors.ArgumentTypeError):
        dtypes.dtype_of(text)


components = st.text("abcXYZ019_.-", min_size=1, max_size=6).filter(lambda c: c[0] not in "_-")
paths = st.lists(components, min_size=1, max_size=3).map("/".join)
shapes = st.sampled_from([(), (0,), (3, 0), (1,), (5,), (2, 3), (4, 1, 2)])


@st.composite
def models(draw):
    """[(name, values, in how many parts)], with op names that nobody else has."""
    names = draw(st.lists(paths, min_size=0, max_size=8, unique_by=str.casefold))
    found = []
    for name in names:
        if any(f"{other}/".startswith(f"{name}/") or f"{name}/".startswith(f"{other}/")
               for other, *_ in found):  # fmt: skip
            continue
        dtype = np.dtype(draw(st.sampled_from(["?", "i1", "f2", "f4", "f8", "c8", "c16", ">f4",
                                               "S3", "M8[s]"])))  # fmt: skip
        shape = draw(shapes)
        most = shape[0] if shape else 0
        parts = draw(st.integers(0, min(most, 3))) if most else 0
        found.append((name, filler(dtype, shape, len(found)), parts))
    return found


@given(model=models(), size=st.sampled_from([1, 20, 10**6]), in_file=st.booleans(),
       threads=st.integers(1, 2), storage=st.sampled_from(["heap", "arena"]))  # fmt: skip
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_round_trips(tmp_path_factory, model, size, in_file, threads, storage):
    graph, cuts = vs.Graph(seed=1, storage=storage), {}
    with graph.as_default():
        for name, array, parts in model:
            cut = vs.fixed_size_partitioner(parts) if parts else None
            variable = vs.get_variable(name, array.shape, dtype=array.dtype, partitioner=cut,
                                       initializer=lambda shape, dtype: None)  # fmt: skip
            variable.assign(array)
            if parts:
                cuts[name] = (parts,) + (1,) * (array.ndim - 1)
    path = tmp_path_factory.mktemp("round") / ("m.safetensors" if in_file else "m")
    vs.save(graph, path, max_shard_size=size, threads=threads)
    assert_holds(path, {name: array for name, array, _ in model})
    assert vs.open(path).partitions == cuts
    found = loaded(path)
    assert set(found) == {name for name, *_ in model}
    for name, array, _ in model:
        assert found[name].tobytes() == array.tobytes()


# --- names


def test_variables_go_under_their_op_names(target):
    g = vs.Graph()
    with g.as_default():
        with vs.variable_scope("b"):
            vs.get_variable("w", [2])
        v = vs.get_variable("b", [3])
    assert v.op_name == "b_1"
    vs.save(g, target)
    assert set(vs.open(target)) == {"b/w", "b_1"}


def test_two_variables_of_one_name_are_refused(target):
    g = vs.Graph()
    with g.as_default():
        with vs.name_scope("b"):
            pass
        vs.get_variable("b", [3])
        vs.get_variable("b_1", [4], partitioner=vs.fixed_size_partitioner(2))
    with pytest.raises(vs.errors.CheckpointError, match="'b_1': two variables would be saved"):
        vs.save(g, target)
    assert not target.exists() and os.listdir(target.parent) == []


def test_names_from_a_map(target):
    arrays = some_arrays(3)
    vs.save(graph_of(arrays), target, names={name: f"model.{name}".replace("/", ".")
                                             for name in arrays})  # fmt: skip
    assert_holds(target, {f"model.layer_{i}.w": arrays[f"layer_{i}/w"] for i in range(3)})


def test_parts_under_another_name_and_what_is_left_out(target):
    g = vs.Graph(seed=1)
    with g.as_default():
        v = vs.get_variable("v", [4, 2], partitioner=vs.fixed_size_partitioner(2))
        w = vs.get_variable("w", [2])
    vs.save(g, target, names=lambda name: "é" if name == "v" else None)
    assert_holds(target, {"é": v.numpy()})
    assert vs.open(target).partitions == {"é": (2, 1)}
    assert not w.initialized


def test_tensors_that_a_map_makes(target):
    arrays = {f"e_{i}/w": np.full((2, 3), i, np.float32) for i in range(3)}
    rules = [{"glob": "e_*/w", "to": "experts.w", "stack": 0}]
    vs.save(graph_of(arrays), target, names=rules)
    assert_holds(target, {"experts.w": np.stack(list(arrays.values()))})


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(
    ("rule", "made"),
    [
        ({"to": "t", "transpose": True}, lambda v: {"t": v.T}),
        ({"to": "some", "slice": "[1:3, 0]"}, lambda v: {"some": v[1:3, 0]}),
        ({"to": ["a", "b"], "split": 0}, lambda v: {"a": v[:3], "b": v[3:]}),
    ],
)
def test_tensors_that_a_map_makes_of_a_variable_in_parts(target, rule, made, parts):
    g = vs.Graph(seed=1)
    with g.as_default():
        v = vs.get_variable("v", [6, 2], partitioner=vs.fixed_size_partitioner(parts))
    vs.save(g, target, names=[{"name": "v", **rule}])
    assert_holds(target, made(v.numpy()))


def test_a_map_that_forgets_a_variable_is_refused(target):
    with pytest.raises(vs.errors.NameMapError, match=r"no rule of names= takes 4 .* 'layer_1/w'"):
        vs.save(graph_of(some_arrays()), target, names={"layer_0/w": "a"})
    assert not target.exists()


@pytest.mark.parametrize(("name", "kind"), [("__metadata__", ValueError), ("\ud800", ValueError)])
def test_names_that_no_file_can_have(target, name, kind):
    with pytest.raises(kind, match="cannot have a tensor of this name"):
        vs.save(graph_of({"v": np.zeros(2)}), target, names=lambda _: name)
    assert os.listdir(target.parent) == []


@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
@settings(max_examples=20, deadline=None)
def test_any_other_name_of_a_map(tmp_path_factory, name):
    array = np.arange(3)
    for path in ("m.safetensors", "m"):
        path = tmp_path_factory.mktemp("name") / path
        vs.save(graph_of({"v": array}), path, names=lambda _: name)
        assert_holds(path, {name: array})
        assert list(loaded(path)) == [name]


# --- what is refused, before anything is written


@pytest.mark.parametrize("graph", [None, {}, "model", np.zeros(2)])
def test_only_a_graph_is_saved(graph, target, refused):
    with refused(TypeError, "graph must be a varscope.Graph, not"):
        vs.save(graph, target)


@pytest.mark.parametrize("path", [None, 3, b"model", b"m.safetensors"])
def test_a_path_is_text(path, refused):
    with refused(TypeError, "path must be"):
        vs.save(vs.Graph(), path)


@pytest.mark.parametrize("name", ["model.ckpt", "model.ckpt-1000", "model.pt", f"m/{INDEX}"])
def test_names_of_other_formats_are_refused(name, tmp_path, refused):
    (tmp_path / "m").mkdir()
    with refused(ValueError, "path must be a folder, or a file that ends in .safetensors"):
        vs.save(vs.Graph(), tmp_path / name)


def test_an_empty_path_is_not_the_current_folder(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refused(vs.errors.ArgumentValueError, "path", "''"):
        vs.save(vs.Graph(), "")
    assert os.listdir(tmp_path) == []
    vs.save(graph_of(some_arrays()), ".")
    assert_holds(tmp_path, some_arrays())


@on_posix
def test_links(tmp_path):
    arrays, graph = some_arrays(), graph_of(some_arrays())
    (tmp_path / "real").mkdir()
    (tmp_path / "folder").symlink_to("real")
    vs.save(graph, tmp_path / "folder")
    assert (tmp_path / "folder").is_symlink() and INDEX in os.listdir(tmp_path / "real")
    (tmp_path / "new").symlink_to("made")  # leads nowhere yet
    vs.save(graph, tmp_path / "new")
    assert_holds(tmp_path / "made", arrays)
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError):
        vs.save(graph, tmp_path / "round")
    vs.save(graph, tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").stat()
    (tmp_path / "b.safetensors").symlink_to("a.safetensors")
    vs.save(graph, tmp_path / "b.safetensors")  # in the place of the link, as safetensors does
    assert not (tmp_path / "b.safetensors").is_symlink()
    assert (tmp_path / "a.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    assert_holds(tmp_path / "b.safetensors", arrays)


@pytest.mark.parametrize("name", ["m.safetensors", "m"])
def test_a_relative_path_is_where_the_process_was_at_first(tmp_path, monkeypatch, name):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)

    def leave(done, total):
        os.chdir(tmp_path / "other")

    for threads in (1, 2):
        os.chdir(tmp_path)
        vs.save(graph_of(some_arrays()), name, threads=threads, max_shard_size=60, progress=leave)
        assert sorted(os.listdir(tmp_path)) == sorted([name, "other"])
        assert os.listdir(tmp_path / "other") == []
        assert_holds(tmp_path / name, some_arrays())


@pytest.mark.parametrize(
    "name", ["x" * 243 + ".safetensors", "\xfc" * 121 + ".safetensors", "y" * 255]
)
def test_names_as_long_as_they_may_be(tmp_path, name):
    try:
        (tmp_path / name).mkdir()
        (tmp_path / name).rmdir()
    except OSError:
        pytest.skip("this file system takes shorter names only")
    vs.save(graph_of(some_arrays()), tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert_holds(tmp_path / name, some_arrays())


def test_a_folder_that_is_not_there(tmp_path):
    for name in ("m.safetensors", "m"):
        with pytest.raises(FileNotFoundError, match="no such folder to save in"):
            vs.save(vs.Graph(), tmp_path / "nowhere" / name)


def test_a_file_for_a_folder_and_a_folder_for_a_file(tmp_path):
    (tmp_path / "m.safetensors").mkdir()
    (tmp_path / "m").write_text("")
    with pytest.raises(IsADirectoryError, match="and this is a folder"):
        vs.save(vs.Graph(), tmp_path / "m.safetensors")
    with pytest.raises(NotADirectoryError, match="this is a file"):
        vs.save(vs.Graph(), tmp_path / "m")


def test_two_models_in_one_folder_are_refused(tmp_path):
    vs.save(vs.Graph(), tmp_path / "model.safetensors")
    with pytest.raises(FileExistsError, match="readers differ"):
        vs.save(vs.Graph(), tmp_path)
    os.unlink(tmp_path / "model.safetensors")
    vs.save(vs.Graph(), tmp_path)
    with pytest.raises(FileExistsError, match="readers differ"):
        vs.save(vs.Graph(), tmp_path / "model.safetensors")
    vs.save(vs.Graph(), tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("size", "nbytes"),
    [(7, 7), (np.int64(9), 9), ("5GB", 5 * 10**9), ("1.5 kb", 1500), ("2MiB", 2**21), ("3B", 3),
     ("1TIB", 2**40)],
)  # fmt: skip
def test_sizes(size, nbytes):
    assert saving.as_size(size) == nbytes


@pytest.mark.parametrize("size", [0, -1, "", "5", "GB", "5 XB", "-5GB", "0B", True, None, 1.5])
def test_sizes_that_are_none(size, target, refused):
    with refused((TypeError, ValueError), "max_shard_size must be", "5GB"):
        vs.save(vs.Graph(), target, max_shard_size=size)


@pytest.mark.parametrize(("name", "value"), [("threads", 0), ("threads", "2"), ("progress", True)])
def test_other_arguments(name, value, target, refused):
    with refused((TypeError, ValueError), f"{name} must be"):
        vs.save(vs.Graph(), target, **{name: value})


def test_without_the_library_the_error_says_what_to_install(tmp_path):
    (tmp_path / "safetensors.py").write_text("raise ImportError('hidden')\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import varscope as vs
try:
    vs.save(vs.Graph(), {str(tmp_path / "m.safetensors")!r})
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          timeout=60)  # fmt: skip
    assert 'pip install "varscope-core[checkpoints]"' in done.stdout
    assert os.listdir(tmp_path) in (["safetensors.py"], ["__pycache__", "safetensors.py"],
                                    ["safetensors.py", "__pycache__"])  # fmt: skip


# --- progress


@pytest.mark.parametrize("threads", [1, 2])
def test_progress_rises_until_all_is_there(target, threads):
    graph, told = graph_of(some_arrays(30)), []

    def progress(done, total):
        assert threading.current_thread() is threading.main_thread()
        told.append((done, total))

    vs.save(graph, target, threads=threads, max_shard_size=100, progress=progress)
    assert told[-1] == (graph.nbytes, graph.nbytes)
    dones = [done for done, _ in told]
    assert dones == sorted(set(dones)) and {total for _, total in told} == {graph.nbytes}


def test_an_error_in_progress_ends_the_save(target):
    vs.save(graph_of(some_arrays(3)), target)

    def progress(done, total):
        raise OSError("mine")

    with pytest.raises(OSError, match=r"^mine$"):
        vs.save(graph_of(some_arrays(30)), target, progress=progress)
    if target.is_dir():
        assert set(os.listdir(target)) == {INDEX, *listed(target).values()}
    assert set(os.listdir(target.parent)) == {target.name}


def test_an_order_that_is_not_known_is_an_error(monkeypatch, target):
    monkeypatch.setattr(entries, "sorted", lambda *args, **options: [], raising=False)
    entries.order.cache_clear()
    try:
        with pytest.raises(ImportError, match="lays out its files in an order"):
            vs.save(graph_of(some_arrays()), target)
    finally:
        entries.order.cache_clear()
    assert not target.exists()
