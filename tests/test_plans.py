"""Plans: the files of a checkpoint, filled by many workers, are those that one save writes."""

import copy
import inspect
import itertools
import json
import multiprocessing
import os
import pickle
import random
import shutil
import threading

import numpy as np
import pytest
from children import environment, python
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import INDEX, SHARD, files, model, planned, saved, shares
from requires import on_posix, require

import varscope as vs
from varscope import initializers
from varscope.checkpoint import materialising, planning, plans
from varscope.checkpoint.written_headers import is_intact
from varscope.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    CheckpointError,
    InitializerError,
    PlanError,
)

require("safetensors", '"varscope-core[checkpoints]"')


@pytest.fixture(scope="module")
def want(tmp_path_factory):
    """The files of the model, as a save writes them."""
    return saved(tmp_path_factory.mktemp("saved") / "model", model())


def fill(plan, workers=None, **options):
    for worker in range(plan.workers) if workers is None else workers:
        vs.materialise(plan, worker, **{"progress": False, **options})


def site(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".")]


# --- the same files, whoever fills them


@pytest.mark.parametrize("by", ["bytes", "files"])
@pytest.mark.parametrize("workers", [1, 2, 4, 50])
def test_the_files_are_those_of_a_save(tmp_path, want, workers, by):
    plan = planned(tmp_path / "model", model(), workers, by=by)
    order = random.Random(workers).sample(range(workers), workers)
    fill(plan, order)
    vs.finish(plan)
    assert files(tmp_path / "model") == want
    with vs.open(tmp_path / "model") as checkpoint:
        checkpoint.verify()
        assert checkpoint.partitions == {"table": (7, 1), "columns": (1, 3)}


@pytest.mark.parametrize("size", [1, "1MB", "5GB"])
def test_files_of_all_sizes(tmp_path, size):
    want = saved(tmp_path / "saved", model(), max_shard_size=size)
    plan = planned(tmp_path / "model", model(), 3, max_shard_size=size)
    fill(plan)
    vs.finish(plan)
    assert files(tmp_path / "model") == want


def test_values_are_those_of_initialize(tmp_path):
    graph = model()
    plan = planned(tmp_path / "model", graph, 3)
    fill(plan)
    vs.finish(plan)
    with graph.as_default():
        vs.initialize(progress=False)
    again = model()
    vs.restore(again, tmp_path / "model", verify=True)
    for variable in again.variables[: len(again) - 1]:  # but the local one
        mine, other = variable.numpy(), graph[variable.op_name].numpy()
        assert mine.tobytes() == other.tobytes(), variable


@pytest.mark.parametrize("storage", ["arena", pytest.param("files", marks=on_posix)])
def test_where_a_graph_keeps_values_does_not_matter(tmp_path, storage):
    kept = storage if storage == "arena" else vs.MemoryMapped(tmp_path / "values")
    graph = vs.Graph(seed=1, storage=kept)
    with graph.as_default():
        vs.get_variable("a", [100, 30])
        vs.get_variable("b", [5000])
    plan = planned(tmp_path / "model", graph, 2)
    fill(plan)
    vs.finish(plan)
    assert not graph["a"].initialized
    assert files(tmp_path / "model") == saved(tmp_path / "saved", graph)
    with pytest.raises(PlanError, match="2 variables have values already"):
        planned(tmp_path / "model", graph, 2)


def test_workers_as_threads(tmp_path, want):
    plan = planned(tmp_path / "model", model(), 4)
    threads = [threading.Thread(target=vs.materialise, args=(plan, k)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    vs.finish(plan)
    assert files(tmp_path / "model") == want


def one_process(path, worker):
    vs.materialise(vs.Plan.load(path), worker, threads=2, progress=False)


@pytest.mark.parametrize("workers", [[0, 1], [0, 1, 2, 3], [0, 0, 1, 1, 1, 0]])
def test_workers_as_processes(tmp_path, want, workers):
    """Some of them twice at once, which damages nothing."""
    plan = planned(tmp_path / "model", model(), max(workers) + 1)
    plan.save(tmp_path / "plan")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=one_process, args=(tmp_path / "plan", k)) for k in workers]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    vs.finish(plan)
    assert files(tmp_path / "model") == want


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("block", [4096, 5000, 1 << 22])
def test_blocks_and_threads_change_nothing(tmp_path, monkeypatch, want, block, threads):
    monkeypatch.setattr(materialising, "BLOCK", block)
    plan = planned(tmp_path / "model", model(), 2)
    told = []
    for worker in range(2):
        vs.materialise(plan, worker, threads=threads, progress=lambda *facts: told.append(facts))
        assert told[-1] == (shares(plan)[worker],) * 2
    vs.finish(plan)
    assert files(tmp_path / "model") == want


SHAPES = st.lists(st.integers(0, 40), max_size=3)
KINDS = st.tuples(
    SHAPES,
    st.sampled_from(["float32", "float16", "float64", "int8", "complex128", ">f8", "bool"]),
    st.integers(0, 3),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(KINDS, max_size=12), st.integers(1, 9), st.integers(1, 30_000), st.booleans())
def test_any_model(tmp_path_factory, kinds, workers, size, by_files):
    """A law: files depend on the model and the size of a file, and on nothing else."""
    folder = tmp_path_factory.mktemp("any")

    def build():
        graph = vs.Graph(seed=3)
        with graph.as_default():
            for i, (shape, dtype, parts) in enumerate(kinds):
                floats = dtype in ("float32", "float16", "float64", ">f8")
                fits = shape and 0 < parts <= shape[0]
                vs.get_variable(
                    f"v{i % 3}/w{i}", shape, dtype, vs.random_normal() if floats else vs.ones,
                    partitioner=vs.fixed_size_partitioner(parts) if fits else None,
                )  # fmt: skip
        return graph

    by = "files" if by_files else "bytes"
    plan = planned(folder / "model", build(), workers, max_shard_size=size, by=by)
    fill(plan, threads=1)
    vs.finish(plan)
    assert files(folder / "model") == saved(folder / "saved", build(), max_shard_size=size)
    shutil.rmtree(folder)


# --- what a plan is


def test_pieces_cover_all_and_end_with_pages():
    plan = planned("model", model(), 5)
    starts = {name: 8 + plan._layout.columns["header"][i] for i, name in enumerate(plan.files)}
    found = {name: [] for name in plan.files}
    for worker in range(5):
        for piece in plan.pieces(worker):
            found[piece.file].append((piece.begin, piece.end))
    for i, (name, pieces) in enumerate(found.items()):
        edges = [0, *itertools.chain(*pieces), plan._layout.columns["nbytes"][i]]
        assert edges[::2] == edges[1::2]  # each begins where the one before ends
        assert all((starts[name] + end) % 4096 == 0 for _, end in pieces[:-1])
    assert sum(shares(plan)) == plan.nbytes


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=200), st.integers(1, 20))
def test_borders_are_even(sizes, workers):
    borders = planning.even_borders(sizes, workers)
    assert borders[0] == 0 and borders[-1] == len(sizes) and len(borders) == workers + 1
    assert borders == sorted(borders)
    fair = sum(sizes) / workers
    filled = [sum(sizes[a:b]) for a, b in itertools.pairwise(borders)]
    assert all(abs(each - fair) <= max(sizes, default=0) for each in filled)


@pytest.mark.parametrize("workers", [2, 7, 64])
def test_shares_differ_little(workers):
    graph = vs.Graph(seed=1)
    with graph.as_default():
        vs.get_variable("huge", [10**10, 256])  # 10 TB
        vs.get_variable("small", [100])
    plan = vs.plan(graph, "model", workers=workers)
    fair = plan.nbytes / workers
    assert max(shares(plan)) < 1.04 * fair and min(shares(plan)) > 0.96 * fair


def test_a_matrix_that_is_made_as_a_whole_is_not_cut():
    graph = vs.Graph(seed=1)
    with graph.as_default():
        for name in "abcdef":
            vs.get_variable(name, [600, 500], initializer=vs.orthogonal())
    plan = vs.plan(graph, "model", workers=6)
    for _, begin, end in plan.pieces(0) + plan.pieces(3):
        assert (end - begin) % 1_200_000 < 2 * 4096 or end - begin == plan.nbytes


def test_by_files_each_file_has_one_worker():
    plan = planned("model", model(), 3, by="files")
    owners = [{piece.file for piece in plan.pieces(k)} for k in range(3)]
    assert sum(map(len, owners)) == len(set().union(*owners)) == len(plan.files)


def test_files_do_not_depend_on_workers():
    by_count = [planned("model", model(), n).files for n in (1, 3, 100)]
    assert by_count[0] == by_count[1] == by_count[2]
    others = [planned("model", model(seed=6), 1), planned("model", model(layers=5), 1)]
    assert by_count[0][0] not in [plan.files[0] for plan in others]


def facts(plan):
    return (
        plan.path, plan.workers, plan.by, plan.seed, plan.nbytes, len(plan), plan.files,
        [plan.pieces(k) for k in range(plan.workers)], repr(plan),
    )  # fmt: skip


def test_a_plan_is_plain_data(tmp_path):
    plan = planned(tmp_path / "model", model(), 3)
    plan.save(tmp_path / "plan")
    loaded = vs.Plan.load(tmp_path / "plan")
    lines = (tmp_path / "plan").read_text().splitlines()
    assert len(lines) == 1 + len(plan.files) and all(map(json.loads, lines))
    again = [copy.deepcopy(plan), pickle.loads(pickle.dumps(plan)),
             pickle.loads(pickle.dumps(loaded))]  # fmt: skip
    assert all(facts(other) == facts(plan) for other in (loaded, *again))
    loaded.save(tmp_path / "plan")  # in its own place
    assert facts(vs.Plan.load(tmp_path / "plan")) == facts(plan)
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]


def test_a_relative_path_is_relative_to_the_plan(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    plan = planned("model", model(), 2)
    assert plan.path == tmp_path / "here" / "model"
    plan.save("../plan")
    assert vs.Plan.load("../plan").path == plan.path
    shutil.copytree(tmp_path, tmp_path.with_name("there"), dirs_exist_ok=True)
    moved = vs.Plan.load(tmp_path.with_name("there") / "plan")
    assert moved.path == tmp_path.with_name("there") / "here" / "model"
    planned(tmp_path / "model", model(), 2).save("plan")
    assert vs.Plan.load("plan").path == tmp_path / "model"


def test_what_a_worker_needs_is_a_part_of_the_plan(tmp_path, want):
    plan = planned(tmp_path / "model", model(), 8, by="files")
    whole = len(pickle.dumps(plan))
    for worker in range(8):
        part = pickle.loads(pickle.dumps(plan.for_worker(worker)))
        assert len(pickle.dumps(part)) < whole
        assert part.pieces(worker) == plan.pieces(worker)
        vs.materialise(part, worker)
    with pytest.raises(PlanError, match="what for_worker gave to a worker"):
        part.pieces(0)
    vs.finish(plan)
    assert files(tmp_path / "model") == want


def test_a_worker_reads_the_lines_of_its_own_files_alone(tmp_path, monkeypatch):
    plan = planned(tmp_path / "model", model(), 8)
    plan.save(tmp_path / "plan")
    read = []
    one = plans.PlannedFile.__init__

    def noting(self, kinds, number, line):
        read.append(number)
        one(self, kinds, number, line)

    monkeypatch.setattr(plans.PlannedFile, "__init__", noting)
    loaded = vs.Plan.load(tmp_path / "plan")
    assert read == []
    vs.materialise(loaded, 3, threads=1)
    assert read == sorted({plan.files.index(piece.file) for piece in plan.pieces(3)})


@pytest.mark.parametrize(
    "initializer",
    [vs.zeros, vs.ones, vs.constant(1), vs.constant(1.0), vs.constant(True), vs.constant(-0.0),
     vs.constant(np.float32(0.1)), vs.constant(float("nan")), vs.constant(-np.inf),
     vs.constant(1 + 2j), vs.constant(complex("nan-infj")), vs.identity(3),
     vs.random_uniform(-1, 1), vs.random_uniform(np.float32(0.1), 2, seed=2**65),
     vs.random_uniform(), vs.random_normal(1, 0.1), vs.truncated_normal(seed=-1),
     vs.uniform_unit_scaling(1.43), vs.variance_scaling(2.0, "fan_out", "uniform", seed=1),
     vs.glorot_uniform(), vs.glorot_normal(), vs.he_uniform(), vs.he_normal(seed=3),
     vs.lecun_uniform(), vs.lecun_normal(), vs.orthogonal(0.5)],
    ids=repr,
)  # fmt: skip
def test_initializers_are_names_and_settings(initializer):
    text = json.dumps(initializers.described(initializer), allow_nan=False)
    again = initializers.of_description(json.loads(text))
    assert again == initializer and initializers.described(again) == json.loads(text)


def test_all_initializers_have_names():
    known = {
        value if isinstance(value, type) else type(value)
        for value in map(vars(initializers).get, initializers.BY_NAME)
    }
    assert set(initializers.BY_NAME.values()) == known

    def kinds(base):
        return {base}.union(*map(kinds, base.__subclasses__()))

    built_in = {
        kind for kind in kinds(vs.Initializer) if kind.__module__ == "varscope.initializers"
    }
    assert built_in - set(initializers.BY_NAME.values()) == {
        vs.Initializer, initializers.Value, initializers.Adopted, initializers._Scaled
    }  # fmt: skip


@pytest.mark.parametrize("description", [{}, {"name": "none"}, {"name": "zeros", "seed": 1},
                                         {"name": "constant", "value": "text"}])  # fmt: skip
def test_what_describes_no_initializer(description):
    with pytest.raises(InitializerError, match="is no initializer"):
        initializers.of_description(description)


# --- what cannot be planned


class Mine(vs.Initializer):
    def whole(self, shape, dtype, key):
        return np.ones(shape, dtype)


def test_what_is_no_plain_data_is_listed_in_one_error():
    graph = vs.Graph(seed=1)
    with graph.as_default():
        vs.get_variable("good", [2])
        for i in range(20):
            vs.get_variable(f"block_{i}/w", [2], initializer=lambda shape, dtype: np.ones(shape))
        vs.get_variable("array", initializer=np.ones(3, "float32"))
        vs.get_variable("list", [2], initializer=vs.constant([1.0, 2.0]))
        vs.get_variable("mine", [2], initializer=Mine())
        vs.get_variable("parts", [4], initializer=Mine(), partitioner=vs.fixed_size_partitioner(2))
        vs.get_variable("assigned", [2]).assign([1, 2])
        cut = vs.fixed_size_partitioner(2)
        vs.get_variable("partly", [4], partitioner=cut)[1].initialize()
        vs.get_variable("shapeless", None, validate_shape=False, initializer=vs.zeros)
        vs.get_local_variable("local", [2]).assign([1, 2])  # which is not saved
    with pytest.raises(PlanError) as caught:
        vs.plan(graph, "model", workers=1)
    assert caught.value.variables == {
        planning.NOT_PLAIN: [f"block_{i}/w" for i in range(20)]
        + ["array", "list", "mine", "parts"],
        "a shape that only the initializer knows": ["shapeless"],
        "values already": ["assigned", "partly"],
    }
    text = str(caught.value)
    assert text.count("\n") < 20 and "block_[0-19]/w  float32[2]  \N{MULTIPLICATION SIGN}20" in text
    assert "24 variables have a function or an array as initializer" in text
    assert "varscope.restore(graph, [one, other])" in text


@pytest.mark.parametrize(
    ("shape", "dtype", "initializer"),
    [([2], "float32", vs.identity()), ([2, 2], "int8", vs.orthogonal()),
     ([2, 2], "int8", vs.constant(0.5)), ([2], "complex64", vs.random_normal()),
     ([2], "float16", vs.random_normal(stddev=1e9)), ([2], "int8", vs.random_uniform())],
)  # fmt: skip
def test_what_no_worker_could_fill_is_refused_when_it_is_planned(shape, dtype, initializer):
    graph = vs.Graph(seed=1)
    with graph.as_default():
        vs.get_variable("good", [2])
        vs.get_variable("bad", shape, dtype, initializer)
    with pytest.raises(InitializerError, match=r"^variable bad: ") as caught:
        vs.plan(graph, "model", workers=1)
    assert caught.value.variable == "bad"


@pytest.mark.parametrize(
    ("error", "changed"),
    [(ArgumentTypeError, {"graph": 5}), (ArgumentTypeError, {"path": 5}),
     (ArgumentTypeError, {"workers": "2"}), (ArgumentTypeError, {"workers": True}),
     (ArgumentTypeError, {"max_shard_size": None}), (ArgumentValueError, {"workers": 0}),
     (ArgumentValueError, {"by": "names"}), (ArgumentValueError, {"path": "m.safetensors"}),
     (ArgumentValueError, {"path": "m.pt"}), (ArgumentValueError, {"path": ""}),
     (ArgumentValueError, {"max_shard_size": "5 apples"})],
)  # fmt: skip
def test_arguments_of_plan(error, changed):
    given = {"graph": vs.Graph(), "path": "model", "workers": 1, **changed}
    with pytest.raises(error, match="must be"):
        vs.plan(given.pop("graph"), given.pop("path"), **given)


def test_arguments_of_the_others(tmp_path):
    plan = planned(tmp_path / "model", model(), 2)
    for call in (vs.materialise, vs.finish):
        with pytest.raises(ArgumentTypeError, match=r"plan must be a varscope\.Plan"):
            call("plan")
    for worker in ("1", True, 1.5):
        with pytest.raises(ArgumentTypeError, match="worker must be an int"):
            vs.materialise(plan, worker)
    for worker in (-1, 2):
        with pytest.raises(ArgumentValueError, match="worker must be from 0 to 1"):
            plan.pieces(worker)
    for call in (plan.save, vs.Plan.load):
        with pytest.raises(ArgumentTypeError, match="path must be"):
            call(5)
    with pytest.raises(ArgumentTypeError, match=r"made by varscope\.plan"):
        vs.Plan()
    with pytest.raises(FileNotFoundError):
        vs.Plan.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="make it first"):
        vs.materialise(planned(tmp_path / "nowhere" / "model", model(), 2), 0)
    assert not list(tmp_path.iterdir())


def test_a_plan_of_nothing(tmp_path):
    plan = planned(tmp_path / "model", vs.Graph(), 3)
    assert [plan.pieces(k) for k in range(3)] == [[], [], []]
    fill(plan)
    vs.finish(plan)
    with vs.open(tmp_path / "model") as checkpoint:
        assert len(checkpoint) == 0


@pytest.mark.parametrize("place", range(0, 6000, 97))
def test_a_flipped_bit_of_a_plan_is_found(tmp_path, place):
    plan = planned(tmp_path / "model", model(), 3)
    plan.save(tmp_path / "plan")
    data = bytearray((tmp_path / "plan").read_bytes())
    if place >= len(data):
        return
    data[place] ^= 1
    (tmp_path / "plan").write_bytes(data)
    with pytest.raises(PlanError):
        loaded = vs.Plan.load(tmp_path / "plan")
        for number in range(len(loaded.files)):
            loaded._layout.file(number)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]\n", b"{}\n", b'{"varscope_plan":2}\n', b'{"varscope_plan":1}\n', b"\xff\n",
     b'{"varscope_plan":1,"digest":"0"}\n', b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_plan(tmp_path, text):
    (tmp_path / "plan").write_bytes(text)
    with pytest.raises(PlanError, match="no plan that can be read"):
        vs.Plan.load(tmp_path / "plan")


def test_a_plan_that_was_cut_off(tmp_path):
    plan = planned(tmp_path / "model", model(), 3)
    plan.save(tmp_path / "plan")
    data = (tmp_path / "plan").read_bytes()
    (tmp_path / "plan").write_bytes(data[:-5])
    with pytest.raises(PlanError, match="cut off"):
        vs.Plan.load(tmp_path / "plan")


# --- begun, left, taken up again


def test_there_is_no_checkpoint_before_it_is_finished(tmp_path):
    plan = planned(tmp_path / "model", model(), 2)
    for _ in range(2):
        fill(plan, [0])
        with pytest.raises(CheckpointError, match="no checkpoint in this folder"):
            vs.open(tmp_path / "model")
        with pytest.raises(PlanError, match="of worker 1; run these again") as caught:
            vs.finish(plan)
        assert caught.value.workers == [1]
    fill(plan, [1])
    with pytest.raises(CheckpointError):
        vs.open(tmp_path / "model")
    vs.finish(plan)
    assert len(vs.open(tmp_path / "model")) == len(plan)


def test_finishing_what_was_not_begun_leaves_no_trace(tmp_path):
    plan = planned(tmp_path / "model", model(), 3)
    with pytest.raises(PlanError, match="of worker 0, 1, 2; run"):
        vs.finish(plan)
    assert not (tmp_path / "model").exists()


def test_the_old_checkpoint_is_there_until_the_new_one_is(tmp_path, want):
    old = vs.Graph(seed=9)
    with old.as_default():
        vs.get_variable("old", [3])
    vs.save(old, tmp_path / "model")
    plan = planned(tmp_path / "model", model(), 2)
    fill(plan)
    assert vs.open(tmp_path / "model").names == ["old"]
    vs.finish(plan)
    assert files(tmp_path / "model") == want


def test_a_save_leaves_a_site_alone_and_is_replaced(tmp_path, want):
    plan = planned(tmp_path / "model", model(), 2)
    fill(plan, [0])
    saved_graph = vs.Graph(seed=9)
    with saved_graph.as_default():
        vs.get_variable("other", [3])
    vs.save(saved_graph, tmp_path / "model")
    assert vs.open(tmp_path / "model").names == ["other"] and len(site(tmp_path / "model")) == 1
    assert all(each.found for each in vs.materialise(plan, 0))
    fill(plan, [1])
    vs.finish(plan)
    assert files(tmp_path / "model") == want


def test_what_is_there_is_not_filled_again(tmp_path, want):
    plan = planned(tmp_path / "model", model(), 2)
    first = vs.materialise(plan, 0)
    assert not any(each.found for each in first)
    again = vs.materialise(plan, 0)
    assert [each._replace(found=False) for each in again] == first
    assert all(each.found for each in again)
    everything = vs.materialise(plan)
    assert sum(each.found for each in everything) == len(first)
    vs.finish(plan)
    vs.finish(plan)
    assert all(each.found and each.crc32c is None for each in vs.materialise(plan))
    assert files(tmp_path / "model") == want


def test_digests_are_those_of_the_bytes(tmp_path):
    plan = planned(tmp_path / "model", model(), 3)
    filled = vs.materialise(plan)
    assert [each[:3] for each in filled] == [piece for k in range(3) for piece in plan.pieces(k)]
    vs.finish(plan)
    for file, begin, end, checksum, _ in filled:
        data = (tmp_path / "model" / file).read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        assert vs._scopecore.crc32c(data[start + begin : start + end]) == checksum


def test_a_plan_for_more_workers_goes_on_with_what_fits(tmp_path, want):
    fill(planned(tmp_path / "model", model(), 2), [0])
    plan = planned(tmp_path / "model", model(), 5)
    fill(plan)
    vs.finish(plan)
    assert files(tmp_path / "model") == want


def spoilt(folder, how, plan):
    """Damage what lies in a site."""
    [place] = site(folder)
    data = sorted(place.glob("*.safetensors"))[0]
    record = sorted(place.glob("*.json"))[0]
    if how == "file gone":
        data.unlink()
    elif how == "record gone":
        record.unlink()
    elif how == "record cut":
        record.write_bytes(record.read_bytes()[:-3])
    elif how == "record of another file":
        facts = json.loads(record.read_bytes())
        record.write_text(json.dumps({**facts, "mark": "ff" * 24}))
    elif how == "record with too little":
        facts = json.loads(record.read_bytes())
        record.write_text(json.dumps({**facts, "parts": facts["parts"][8:]}))
    elif how == "record of nothing":
        record.write_text("[]")
    elif how == "half of a new file":
        (place / f"{data.name}.12345678.new").write_bytes(b"half")
        data.unlink()
    return place


@pytest.mark.parametrize(
    "how",
    ["file gone", "record gone", "record cut", "record of another file", "record with too little",
     "record of nothing", "half of a new file"],
)  # fmt: skip
def test_what_was_lost_is_made_again(tmp_path, how):
    plan = planned(tmp_path / "model", model(), 2, max_shard_size="5GB")  # one file
    fill(plan, [0])
    spoilt(tmp_path / "model", how, plan)
    assert not vs.materialise(plan, 0)[0].found
    spoilt(tmp_path / "model", how, plan)
    fill(plan, [1])
    with pytest.raises(PlanError, match="not filled, of worker 0; run"):
        vs.finish(plan)
    fill(plan)
    vs.finish(plan)
    assert files(tmp_path / "model") == saved(tmp_path / "saved", model(), max_shard_size="5GB")


def test_a_file_of_another_length_is_refused(tmp_path):
    plan = planned(tmp_path / "model", model(), 2)
    fill(plan, [0])
    [place] = site(tmp_path / "model")
    data = place / plan.pieces(1)[-1].file
    data.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"has 14 bytes, not .*; remove it"):
        fill(plan, [1])
    data.unlink()
    fill(plan, [1])
    vs.finish(plan)


def test_verify_finds_pieces_that_are_not_what_was_filled(tmp_path, want):
    plan = planned(tmp_path / "model", model(), 3)
    for worker in (0, 2, None):
        fill(plan)
        [place] = site(tmp_path / "model")
        if worker is not None:
            file, _, end = plan.pieces(worker)[-1]
            data = bytearray((place / file).read_bytes())
            data[len(data) - plan._layout.columns["nbytes"][plan.files.index(file)] + end - 1] ^= 1
            (place / file).write_bytes(data)
            with pytest.raises(PlanError, match=f"not filled, of worker {worker}; run"):
                vs.finish(plan, verify=True)
            assert not (tmp_path / "model" / INDEX).exists()
    vs.finish(plan, verify=True)
    assert files(tmp_path / "model") == want


def test_without_verify_what_was_damaged_is_found_later(tmp_path):
    plan = planned(tmp_path / "model", model(), 1)
    fill(plan)
    [place] = site(tmp_path / "model")
    data = bytearray((place / plan.files[0]).read_bytes())
    data[-1] ^= 1
    (place / plan.files[0]).write_bytes(data)
    vs.finish(plan)
    with vs.open(tmp_path / "model") as checkpoint, pytest.raises(CheckpointError, match="CRC"):
        checkpoint.verify()


def test_a_header_that_was_damaged_is_found_by_the_last_step(tmp_path):
    plan = planned(tmp_path / "model", model(), 1)
    fill(plan)
    [place] = site(tmp_path / "model")
    checked = materialising.Site(plan._layout)
    assert checked.is_complete(0)
    path = place / plan.files[0]
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="its header is not the one that was written"):
        vs.finish(plan)
    path.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=r"bytes, not"):
        vs.finish(plan)
    assert not (tmp_path / "model" / INDEX).exists()


def test_an_exception_while_it_is_put_in_place_loses_nothing(tmp_path, monkeypatch, want):
    plan = planned(tmp_path / "model", model(), 2)
    fill(plan)
    real, calls = os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) in (2, len(plan.files) + 2):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            vs.finish(plan)
        assert not (tmp_path / "model" / INDEX).exists()
        assert all(each.found for each in vs.materialise(plan))
    vs.finish(plan)
    assert files(tmp_path / "model") == want


def test_what_a_save_has_removed_is_made_again(tmp_path, monkeypatch, want):
    """After a last step that was ended between its renamings, when the records are still there."""
    plan = planned(tmp_path / "model", model(), 2)
    fill(plan)
    real, calls = os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) > 2:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", failing)
        vs.finish(plan)
    other = vs.Graph(seed=9)
    with other.as_default():
        vs.get_variable("other", [3])
    vs.save(other, tmp_path / "model")
    with pytest.raises(PlanError, match="not filled"):
        vs.finish(plan)
    fill(plan)
    vs.finish(plan)
    assert files(tmp_path / "model") == want


def test_who_comes_late_finds_it_finished(tmp_path, monkeypatch, want):
    """A worker that was started twice, of which one is done and the last step too."""
    plan = planned(tmp_path / "model", model(), 1)
    real = materialising.Site.claim

    def late(self):
        real(self)
        monkeypatch.setattr(materialising.Site, "claim", real)
        fill(plan)
        vs.finish(plan)

    monkeypatch.setattr(materialising.Site, "claim", late)
    assert all(each.found for each in vs.materialise(plan, 0, threads=1))
    assert files(tmp_path / "model") == want


def test_who_is_late_within_a_piece_damages_nothing(tmp_path, monkeypatch, want):
    plan = planned(tmp_path / "model", model(), 1)
    real = materialising.Filler.block

    def late(self, *arguments):
        monkeypatch.setattr(materialising.Filler, "block", real)
        fill(plan)
        vs.finish(plan)
        real(self, *arguments)

    monkeypatch.setattr(materialising.Filler, "block", late)
    filled = vs.materialise(plan, 0, threads=1)
    assert all(each.found for each in filled)
    assert files(tmp_path / "model") == want


def test_without_links_it_works_too(tmp_path, monkeypatch, want):
    def refusing(*_):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refusing)
    plan = planned(tmp_path / "model", model(), 2)
    fill(plan)
    vs.finish(plan)
    assert files(tmp_path / "model") == want


def test_a_callback_that_raises_ends_it(tmp_path, want):
    plan = planned(tmp_path / "model", model(), 2)

    def stop(done, total):
        raise KeyError

    with pytest.raises(KeyError):
        vs.materialise(plan, progress=stop)
    fill(plan)
    vs.finish(plan)
    assert files(tmp_path / "model") == want


@on_posix
def test_files_are_made_for_whom_others_are(tmp_path):
    before = os.umask(0o027)
    try:
        plan = planned(tmp_path / "model", model(), 2)
        fill(plan)
        [place] = site(tmp_path / "model")
        made = [path.stat().st_mode & 0o777 for path in place.iterdir()]
        vs.finish(plan)
        made += [path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()]
    finally:
        os.umask(before)
    assert set(made) == {0o640}


def test_two_who_finish_at_once(tmp_path, want):
    plan = planned(tmp_path / "model", model(), 2)
    fill(plan)
    errors = []

    def work():
        try:
            vs.finish(plan)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and files(tmp_path / "model") == want


# --- what others read


def test_other_libraries_read_it(tmp_path):
    library = require("safetensors.numpy", '"varscope-core[checkpoints]"')
    graph = vs.Graph(seed=1)
    with graph.as_default():
        vs.get_variable("a/kernel", [200, 30])
        vs.get_variable("b", [50], "float16", vs.random_normal())
    plan = vs.plan(graph, tmp_path / "model", workers=3, max_shard_size=1000)
    fill(plan)
    vs.finish(plan)
    listed = json.loads((tmp_path / "model" / INDEX).read_text())
    assert listed["metadata"]["total_size"] == plan.nbytes
    for name, file in listed["weight_map"].items():
        loaded = library.load_file(tmp_path / "model" / file)[name]
        assert np.array_equal(loaded, graph[name].value())


def test_headers_say_what_they_hold(tmp_path):
    plan = planned(tmp_path / "model", model(), 1)
    fill(plan)
    vs.finish(plan)
    for name in plan.files:
        data = (tmp_path / "model" / name).read_bytes()
        length = int.from_bytes(data[:8], "little")
        assert is_intact(data[8 : 8 + length]) and not is_intact(data[9 : 8 + length])


WITHOUT = """
import sys
sys.modules["safetensors"] = None
import varscope as vs
plan = vs.Plan.load(sys.argv[1])
vs.materialise(plan)
vs.finish(plan)
"""


def test_workers_need_no_other_library(tmp_path, want):
    planned(tmp_path / "model", model(), 2).save(tmp_path / "plan")
    done = python(WITHOUT, tmp_path / "plan")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "model") == want


# --- how much it holds

LIMITED = """
import resource, sys
import numpy
import varscope as vs
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    numpy.empty(limit, "uint8")
except MemoryError:
    plan = vs.Plan.load(sys.argv[1])
    vs.materialise(plan, threads=1)
    vs.finish(plan)
"""


@on_posix
@pytest.mark.slow
def test_a_model_larger_than_the_memory(tmp_path):
    """2 GB by a process that may have 200 MB, one variable of which is larger than that."""
    nbytes, limit = 2_000_000_000, 200_000_000
    if shutil.disk_usage(tmp_path).free < 2 * nbytes:
        pytest.skip("needs 4 GB on the disk")
    graph = vs.Graph(seed=1)
    with graph.as_default():
        large = vs.get_variable("large", [nbytes // 3 // 4096, 1024])
        for i in range(32):
            vs.get_variable(f"layer_{i}/w", [nbytes // 48 // 4096, 1024])
    plan = vs.plan(graph, tmp_path / "model", workers=1, max_shard_size="1GB")
    plan.save(tmp_path / "plan")
    done = python(
        LIMITED,
        tmp_path / "plan",
        limit,
        timeout=600,
        env=environment(OPENBLAS_NUM_THREADS="1", MALLOC_ARENA_MAX="1"),
    )
    assert done.returncode == 0, done.stderr
    with vs.open(tmp_path / "model") as checkpoint:
        checkpoint.verify()
        tensor = checkpoint["large"]
        for row in (0, 12_345, large.shape[0] - 1):
            assert np.array_equal(tensor[row], large.initial_value(row))
    shutil.rmtree(tmp_path / "model")


def test_the_default_size_of_files_is_that_of_a_save():
    ours, other = (inspect.signature(each).parameters for each in (vs.plan, vs.save))
    assert ours["max_shard_size"].default == other["max_shard_size"].default
    assert SHARD < 5_000_000_000
