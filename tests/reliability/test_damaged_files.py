"""Files that are cut or in which bits have flipped: an error that names them, and no value changed.

Each kind of checkpoint is damaged in the same ways: every file of it is cut at every byte, every
bit of what describes it is flipped, and one in 64 bytes of data.
"""

import itertools
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from bundle_writer import Bundle, small
from requires import on_posix, require
from restores import arrays, assert_equal, graph_of, seen

import varscope as vs
from varscope.errors import CheckpointError, RestoreError

require("safetensors", 'safetensors>=0.8 or "varscope-core[checkpoints]"')
pytestmark = pytest.mark.promise("damaged-files")

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "tf1_checkpoints"
KINDS = ["file", "folder", "tensorflow"]
INDICES = (".json", ".index")


class Damaged:
    """A checkpoint of some kind, one of whose files is damaged; and a graph that it would fit."""

    def __init__(self, folder, kind):
        draw = np.random.default_rng(1)
        self.values = {
            "a/w": draw.random((5, 4)),
            "b": draw.random(30).astype("float32"),
            "c/i": draw.integers(0, 99, (4, 2)),
            "c/none": np.zeros((0, 2)),
            "d": np.array(5, ">i4"),
        }
        if kind == "tensorflow":
            self.path = folder / "model.ckpt"
            self.values["d"] = self.values["d"].astype("int32")
            bundle = Bundle(2)
            for number, (name, value) in enumerate(self.values.items()):
                if name == "c/i":
                    halves = [(((0, 2), (0, -1)), 0), (((2, 2), (0, -1)), 1)]
                    bundle.add_slices(name, value, halves)
                else:
                    bundle.add(name, value, number % 2)
            bundle.write(self.path, per_block=3)
        else:
            self.path = folder / ("m.safetensors" if kind == "file" else "m")
            graph = vs.Graph()
            with graph.as_default():
                for name, value in self.values.items():
                    cut = vs.fixed_size_partitioner(2) if name == "c/i" else None
                    vs.get_variable(name, value.shape, value.dtype, partitioner=cut).assign(value)
            vs.save(graph, self.path, max_shard_size=280)
        self.folder = self.path if self.path.is_dir() else folder
        self.files = sorted(file for file in self.folder.iterdir() if file.is_file())
        self.facts = facts(self.path)
        self.graph = vs.Graph()
        with self.graph.as_default():  # some that have values, and some that are only declared
            for number, (name, value) in enumerate(self.values.items()):
                v = vs.get_variable(name, value.shape, value.dtype, vs.zeros)
                if number % 2:
                    v.value()
        self.before = seen(self.graph)

    def each(self, contents_of):
        """Write the files of `contents_of(file, content)` one after the other; gives the file."""
        for file in self.files:
            content = file.read_bytes()
            for damaged in contents_of(file, content):
                file.write_bytes(damaged)
                yield file
            file.write_bytes(content)
        vs.open(self.path).verify()

    def refused(self, file):
        """The error of a restore that compares checksums; no variable has changed."""
        with pytest.raises(CheckpointError) as caught:
            vs.restore(self.graph, self.path, verify=True, threads=1)
        assert seen(self.graph) == self.before
        assert file.name in str(caught.value) or type(caught.value) is RestoreError
        return caught.value


@pytest.fixture(params=KINDS)
def damaged(request, tmp_path):
    return Damaged(tmp_path, request.param)


def facts(path):
    """All that is in a checkpoint."""
    checkpoint = vs.open(path)
    columns = checkpoint.names, checkpoint.dtype_names, checkpoint.shapes, checkpoint.partitions
    return columns, [tensor.value().tobytes() for tensor in checkpoint.values()]


def header_end(file, content):
    """Where what describes the tensors ends."""
    if file.suffix in INDICES:
        return len(content)
    if file.suffix == ".safetensors":
        return 8 + struct.unpack("<Q", content[:8])[0]
    return 0


def flipped(content, place, bit):
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_headers.py",
    "    for place in np.flatnonzero(ends > room)[:1]:\n",
    "    for place in ():\n",
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/tensor_bundle.py",
    "        for place in places[entries.offsets[places] > room][:1].tolist():\n",
    "        for place in ():\n",
)
def test_every_file_cut_at_every_byte(damaged, tally):
    """Where there are several files, at one in four."""
    cut_everywhere(damaged, tally, 1 if len(damaged.files) == 1 else 4)


@pytest.mark.slow
def test_every_one_of_several_files_cut_at_every_byte(damaged, tally):
    if len(damaged.files) > 1:
        cut_everywhere(damaged, tally, 1)


def cut_everywhere(damaged, tally, step):
    def cuts(file, content):
        return (content[:size] for size in range(0, len(content.rstrip(b"\n")), step))

    for file in damaged.each(cuts):
        with pytest.raises(CheckpointError):
            vs.open(damaged.path)  # which tells it before a value is wanted
        error = damaged.refused(file)
        assert str(file) in str(error)
        described = file.stat().st_size >= 8 and file.suffix not in INDICES
        if described and file.stat().st_size >= header_end(file, file.read_bytes()):
            assert error.tensor in damaged.values
        tally("cuts")


@pytest.mark.fails_without(
    "src/varscope/checkpoint/notes.py", "    if recorded != as_digits(found):\n", "    if False:\n"
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/notes.py", "    if start != START:\n", "    if False:\n"
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/sorted_tables.py", "    if found != recorded:\n", "    if False:\n"
)
def test_a_bit_of_each_byte_that_describes_the_tensors_flipped(damaged, tally):
    flip_everywhere(damaged, tally, lambda place: [place * 5 % 8])


@pytest.mark.slow
def test_every_bit_that_describes_the_tensors_flipped(damaged, tally):
    flip_everywhere(damaged, tally, lambda place: range(8))


def flip_everywhere(damaged, tally, bits_of):
    """Each is an error; but for those of an index that stand for nothing, such as total_size."""

    def flips(file, content):
        for place in range(header_end(file, content)):
            yield from (flipped(content, place, bit) for bit in bits_of(place))

    harmless = 0
    for number, file in enumerate(damaged.each(flips)):
        tally("bits flipped")
        try:
            with vs.open(damaged.path) as checkpoint:
                checkpoint.verify()
        except CheckpointError as error:
            assert file.name in str(error)
            if number % 9 == 0:
                damaged.refused(file)
        else:
            assert file.name.endswith("index.json") and facts(damaged.path) == damaged.facts
            harmless += 1
    assert harmless < 8 * 60


@pytest.mark.fails_without(
    "src/varscope/checkpoint/contents.py",
    "            for at in np.flatnonzero(found != columns.checksums[here])[:1].tolist():\n",
    "            for at in ():\n",
)
def test_a_bit_in_64_bytes_of_data_flipped(damaged, tally):
    def flips(file, content):
        start = header_end(file, content)
        for place in range(start, len(content), 64):
            yield flipped(content, place, place // 64 % 8)

    found = set()
    for file in damaged.each(flips):
        error = damaged.refused(file)
        assert "not those that were written" in str(error)
        assert error.path == file and error.tensor in damaged.values
        found.add(error.tensor)
        checkpoint = vs.open(damaged.path)
        with pytest.raises(CheckpointError, match="not those that were written"):
            checkpoint[error.tensor].verify()
        for name in checkpoint:
            if name != error.tensor:
                checkpoint[name].verify()
        tally("bits flipped")
    assert found > {"a/w", "b"}


@pytest.mark.slow
def test_every_bit_of_data_flipped(damaged, tally):
    def flips(file, content):
        for place in range(header_end(file, content), len(content)):
            yield from (flipped(content, place, bit) for bit in range(8))

    for file in damaged.each(flips):
        with pytest.raises(CheckpointError, match="not those that were written") as caught:
            vs.open(damaged.path).verify()
        assert caught.value.path == file and caught.value.tensor in damaged.values
        tally("bits flipped")


@pytest.mark.parametrize("with_metadata", [False, True])
def test_a_file_that_another_program_wrote_anew_is_not_damaged(tmp_path, with_metadata):
    """With our notes in it or without; its header may begin otherwise."""
    library = require("safetensors.numpy", "safetensors")
    safetensors = require("safetensors", "safetensors")
    path, values = tmp_path / "m.safetensors", {"a": np.arange(3.0), "b": np.ones((2, 2))}
    vs.save(graph_of(values, initializer=lambda shape, dtype: np.ones(shape, dtype)), path)
    starts = set()
    for _ in range(20):  # metadata in any order
        with safetensors.safe_open(path, "numpy") as opened:
            metadata, held = opened.metadata(), {name: opened.get_tensor(name) for name in values}
        library.save_file(held, path, metadata if with_metadata else None)
        starts.add(path.read_bytes()[8:60])
        vs.open(path).verify()
    assert len(starts) == 1 + with_metadata


def test_without_being_asked_nobody_looks(damaged):
    """A restore compares nothing by itself: it takes the bytes that are there."""
    file = damaged.files[0]
    file.write_bytes(flipped(file.read_bytes(), file.stat().st_size - 1, 0))
    if file.suffix in INDICES:
        damaged.refused(file)
    else:
        vs.restore(damaged.graph, damaged.path)


# --- cut meanwhile


@on_posix
@pytest.mark.parametrize("shape", [(1000,), (5_000_000,)], ids=["many", "large"])
def test_verify_of_a_file_that_was_cut_after_it_was_opened(tmp_path, shape):
    """Reading what is gone through the map would end the process."""
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


RULES = {
    "as it is": (None, {}),
    "changed": (
        [{"glob": "b/wide", "to": "b/wide", "transpose": True}, {"glob": "**", "to": "**"}],
        {"b/wide": (4000, 30)},
    ),
    "joined": (
        [{"name": ["b/wide", "b/more"], "to": "b/wide", "stack": 0}, {"glob": "**", "to": "**"}],
        {"b/wide": (2, 30, 4000), "b/more": None},
    ),
    "cut": (
        [{"name": "b/wide", "to": "b/wide", "slice": "[-3:, ::2]"}, {"glob": "**", "to": "**"}],
        {"b/wide": (3, 2000)},
    ),
}  # fmt: skip


@on_posix
@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs os.preadv")
@pytest.mark.fails_without(
    "src/varscope/name_maps/views.py", 'getattr(self.tensor, "_read_part", None)', "None"
)
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("kind", ["heap", "arena"])
def test_a_file_that_is_cut_after_it_was_opened(tmp_path, kind, rules, parts):
    """No signal ends the process: files are read by position, whatever is made of them."""
    path = tmp_path / "m.safetensors"
    values = {**arrays(), "b/more": arrays()["b/wide"]}
    vs.save(graph_of(values, initializer=lambda shape, dtype: np.ones(shape, dtype)), path)
    names, shapes = RULES[rules]
    graph = vs.Graph(storage=kind)
    with graph.as_default():
        for name, value in values.items():
            shape = shapes.get(name, value.shape)
            cut = vs.fixed_size_partitioner(parts, axis=1) if name == "b/wide" else None
            if shape is not None:
                vs.get_variable(name, shape, value.dtype, vs.zeros, partitioner=cut)
    before = seen(graph)
    with vs.open(path) as checkpoint:
        size = path.stat().st_size
        os.truncate(path, 4096)
        with pytest.raises(CheckpointError, match="the file ends at byte") as caught:
            vs.restore(graph, checkpoint, names=names, threads=1)
        assert caught.value.tensor in values and caught.value.path == path
        assert seen(graph) == before
        with open(path, "r+b") as file:
            file.truncate(size)
    vs.save(graph_of(values, initializer=lambda shape, dtype: np.ones(shape, dtype)), path)
    vs.restore(graph, path, names=names)
    assert all((v.numpy() == 1).all() for v in graph.variables)


@on_posix
@pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs os.preadv")
@pytest.mark.fails_without(
    "src/varscope/checkpoint/contents.py",
    "self._fetched(places[1], piece)",
    "self._stored(piece)[places[1]]",
)
@pytest.mark.parametrize("swapped", [False, True])
def test_slices_of_tensorflow_in_a_file_that_is_cut_after_it_was_opened(tmp_path, swapped):
    prefix, value = tmp_path / "model.ckpt", np.arange(60_000.0).reshape(600, 100)
    bundle = Bundle(swapped=swapped)
    bundle.add_slices("v", value, [(((0, 300), (0, -1)), 0), (((300, 300), (0, -1)), 0)])
    bundle.add("w", value)
    bundle.write(prefix)
    graph = graph_of({"v": value, "w": value})
    with vs.open(prefix) as checkpoint:
        (file,) = checkpoint.files
        content = file.read_bytes()
        os.truncate(file, 4096)
        with pytest.raises(CheckpointError, match="the file ends at byte") as caught:
            vs.restore(graph, checkpoint, threads=1)
        assert caught.value.path == file and caught.value.tensor in ("v", "w")
        assert not any(v.initialized for v in graph.variables)
        file.write_bytes(content)
    vs.restore(graph, prefix, verify=True)
    assert_equal(graph, {"v": value, "w": value})


# --- checkpoints of TensorFlow


@pytest.fixture
def prefix(tmp_path):
    return tmp_path / "model.ckpt"


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        (GOLDEN / "merged" / "model.ckpt-7", "words"),
        (GOLDEN / "objects" / "ckpt", "_CHECKPOINTABLE_OBJECT_GRAPH"),
    ],
)
def test_every_flip_of_text(prefix, tally, origin, name):
    for path in origin.parent.glob(f"{origin.name}.*"):
        (prefix.parent / f"model.ckpt{path.suffix}").write_bytes(path.read_bytes())
    tensor = vs.open(prefix)[name]
    start = int(tensor._checkpoint._columns.offset_of[tensor._place])
    path = tensor.file
    content = path.read_bytes()
    text = content[start : start + tensor.nbytes]
    for number, flipped in enumerate(flips(text)):
        if number % 24 and number > 80:  # behind the lengths some are enough
            continue
        path.write_bytes(content[:start] + flipped + content[start + len(text) :])
        checkpoint = vs.open(prefix)
        tally("bits flipped")
        for verify in (checkpoint[name].verify, checkpoint.verify):
            with pytest.raises(CheckpointError, match="not those that were written") as caught:
                verify()
            assert (caught.value.path, caught.value.tensor) == (path, name)


def flips(content):
    for place, bit in itertools.product(range(len(content)), range(8)):
        yield content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["objects/ckpt", "plain/model.ckpt"])
def test_every_flip_of_an_index_that_tensorflow_wrote(prefix, tally, origin):
    for path in (GOLDEN / origin).parent.glob(f"{Path(origin).name}.*"):
        (prefix.parent / f"model.ckpt{path.suffix}").write_bytes(path.read_bytes())
    index = Path(f"{prefix}.index")
    for content in flips(index.read_bytes()):
        index.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            vs.open(prefix)
        assert caught.value.path == index
        tally("bits flipped")


def test_a_data_file_is_missing(prefix):
    small().write(prefix)
    Path(f"{prefix}.data-00001-of-00002").unlink()
    with pytest.raises(CheckpointError, match=r"-of-00002: tensor 'a/cut'.* is not there"):
        vs.open(prefix)
