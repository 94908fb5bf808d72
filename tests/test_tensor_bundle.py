"""TensorFlow's checkpoints: those that it wrote, ones made by hand, and damaged ones."""

import contextlib
import gc
import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from bundle_writer import Bundle, block, entry, field, header, pack, table, trailer, varint
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from requires import require_ml_dtypes

import varscope as vs
from varscope.checkpoint import bundle_entries, sorted_tables, tensor_bundle
from varscope.compat import tf1 as tf
from varscope.errors import CheckpointError

GOLDEN = Path(__file__).resolve().parent / "data" / "tf1_checkpoints"
PREFIXES = {
    "plain": GOLDEN / "plain" / "model.ckpt",
    "sharded": GOLDEN / "sharded" / "model.ckpt",
    "merged": GOLDEN / "merged" / "model.ckpt-7",
}


def read(prefix):
    return tensor_bundle.read(Path(prefix))


def refused(prefix, *words, tensor=None, file=".index"):
    """Opening fails with an error that names the file, the tensor if it is of one, and says why."""
    with pytest.raises(CheckpointError) as caught:
        read(prefix)
    error = caught.value
    assert str(error.path).endswith(file)
    assert error.tensor == tensor
    assert str(error).startswith(str(error.path))
    missing = [word for word in words if word not in str(error)]
    assert not missing, f"{missing} not in {error}"
    return error


@pytest.fixture
def prefix(tmp_path):
    return tmp_path / "model.ckpt"


# --- what TensorFlow wrote


@pytest.mark.parametrize("name", PREFIXES)
def test_values_are_those_that_tensorflow_saw(name):
    require_ml_dtypes()
    checkpoint = read(PREFIXES[name])
    with np.load(PREFIXES[name].with_name("expected.npz")) as expected:
        assert set(checkpoint) - {"words"} == {key.replace("|", "/") for key in expected}
        for key, value in expected.items():
            tensor = checkpoint[key.replace("|", "/")]
            found = tensor.value()
            if name == "merged":  # bytes, where NumPy cannot save values as what they are
                value = value.view(found.dtype)
            elif tensor.dtype_name == "bfloat16":
                found = found.astype(np.float32)
            assert tensor.shape == found.shape == value.shape
            assert found.dtype == value.dtype
            assert found.tobytes() == value.tobytes()
            assert tensor.nbytes == tensor.value().nbytes
            assert not found.flags.writeable or tensor.dtype_name == "bfloat16"
    checkpoint.verify()


@pytest.mark.parametrize("name", ["plain", "sharded"])
def test_partitions(name):
    checkpoint = read(PREFIXES[name])
    assert checkpoint.partitions == {"encoder/embed/table": (3, 1), "encoder/wide/w": (1, 2)}
    assert checkpoint["encoder/wide/w"].partitions == (1, 2)
    assert checkpoint.format == "tensorflow"


def test_several_data_files():
    checkpoint = read(PREFIXES["merged"])
    assert [file.name for file in checkpoint.files] == [
        f"model.ckpt-7.data-{number:05}-of-00004" for number in range(4)
    ]
    assert checkpoint.partitions == {"columns": (1, 3)}  # `both` is cut along two axes
    assert {piece.file for piece in checkpoint._columns.pieces[len(checkpoint) - 1]} == {0, 1, 2, 3}


def test_every_dtype_has_its_name():
    checkpoint = read(PREFIXES["merged"])
    for name in checkpoint:
        if name.startswith("dtypes/"):
            wanted = name.removeprefix("dtypes/")
            wanted = wanted.replace("qu", "u").removeprefix("q")
            assert checkpoint[name].dtype_name == wanted


@pytest.mark.parametrize(
    ("folder", "name"), [("merged", "words"), ("objects", "_CHECKPOINTABLE_OBJECT_GRAPH")]
)
def test_text_is_listed_and_not_read(folder, name):
    checkpoint = read({**PREFIXES, "objects": GOLDEN / "objects" / "ckpt"}[folder])
    assert checkpoint[name].dtype_name == "string"
    with pytest.raises(CheckpointError, match=r"string of TensorFlow.*cannot be read") as caught:
        checkpoint[name].value()
    assert caught.value.tensor == name
    checkpoint.verify()


def test_objects_of_tensorflow_2():
    checkpoint = read(GOLDEN / "objects" / "ckpt")
    value = checkpoint["model/kernel/.ATTRIBUTES/VARIABLE_VALUE"].value()
    assert value.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("origin", "name"),
    [(PREFIXES["merged"], "words"), (GOLDEN / "objects" / "ckpt", "_CHECKPOINTABLE_OBJECT_GRAPH")],
)
def test_every_flip_of_text(prefix, origin, name):
    for path in origin.parent.glob(f"{origin.name}.*"):
        (prefix.parent / f"model.ckpt{path.suffix}").write_bytes(path.read_bytes())
    tensor = read(prefix)[name]
    start = int(tensor._checkpoint._columns.offset_of[tensor._place])
    path = tensor.file
    content = path.read_bytes()
    text = content[start : start + tensor.nbytes]
    for number, flipped in enumerate(flips(text)):
        if number % 8 and number > 160:  # behind the lengths one of eight is enough
            continue
        path.write_bytes(content[:start] + flipped + content[start + len(text) :])
        checkpoint = read(prefix)
        for verify in (checkpoint[name].verify, checkpoint.verify):
            with pytest.raises(CheckpointError, match="not those that were written") as caught:
                verify()
            assert (caught.value.path, caught.value.tensor) == (path, name)


# --- which path is one


def test_paths():
    merged = PREFIXES["merged"]
    data = Path(f"{merged}.data-00002-of-00004")
    for path in (merged, Path(f"{merged}.index"), merged.parent, data):
        assert tensor_bundle.find_prefix(path) == merged
        checkpoint = vs.open(path)
        assert (checkpoint.path, checkpoint.format, len(checkpoint)) == (path, "tensorflow", 37)
    assert len(vs.open(str(merged))) == 37
    for path in (GOLDEN, GOLDEN / "plain", GOLDEN / "absent", merged.with_name("expected.npz")):
        assert tensor_bundle.find_prefix(path) is None


def test_a_prefix_that_is_a_folder_too(tmp_path, prefix):
    prefix.mkdir()
    assert tensor_bundle.find_prefix(prefix) is None
    Bundle().write(prefix)
    assert tensor_bundle.find_prefix(prefix) == prefix
    assert tensor_bundle.find_prefix(tmp_path) is None


def test_a_prefix_that_looks_like_a_file_of_another(tmp_path):
    for name in ("model.ckpt", "model.ckpt.index", "model.ckpt.data-00000-of-00001"):
        Bundle().write(tmp_path / name)
        assert tensor_bundle.find_prefix(tmp_path / name) == tmp_path / name


@pytest.mark.parametrize(
    "state",
    [
        'model_checkpoint_path: "{}/elsewhere/model.ckpt"\nall_model_checkpoint_paths: "a"\n',
        'all_model_checkpoint_paths: "a"\n  model_checkpoint_path : "model\\.c\\153pt"',
        'model_checkpoint_path: "/gone/model.ckpt"',
    ],
    ids=["absolute", "escaped", "moved"],
)
def test_the_latest_in_a_folder(tmp_path, prefix, state):
    Bundle().write(prefix)
    (tmp_path / "checkpoint").write_text(state.format(tmp_path), encoding="utf-8")
    assert tensor_bundle.find_prefix(tmp_path) == prefix


@pytest.mark.parametrize(
    "named",
    ["model.ckpt", "/", "", "..", "\\000", "a\\377", pytest.param("x" * 5000, id="long")],
)
def test_the_latest_is_not_there(tmp_path, named):
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{named}"', encoding="utf-8")
    with pytest.raises(CheckpointError, match="as the latest one, which is not there"):
        tensor_bundle.find_prefix(tmp_path)


@pytest.mark.parametrize("named", ["../model.ckpt", "sub/../../model.ckpt", "{}/model.ckpt"])
def test_the_latest_is_looked_for_in_its_folder_alone(tmp_path, prefix, named):
    Bundle().write(prefix)
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    named = named.format(tmp_path.as_posix())
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{named}"', encoding="utf-8")
    with pytest.raises(CheckpointError, match="not there: it is looked for in this folder"):
        tensor_bundle.find_prefix(folder)
    Bundle().write(folder / "model.ckpt")
    assert tensor_bundle.find_prefix(folder) == folder / "model.ckpt"


def test_another_file_of_that_name(tmp_path):
    (tmp_path / "checkpoint").write_bytes(bytes(range(256)) * 1000)
    assert tensor_bundle.find_prefix(tmp_path) is None
    (tmp_path / "checkpoint").write_bytes(b"\n" * 1000 + b" " * 50_000 + b"\n" * 20_000)
    assert tensor_bundle.find_prefix(tmp_path) is None


@pytest.mark.parametrize("path", ["", "model.ckpt"])
def test_the_first_format(path):
    with pytest.raises(CheckpointError, match="first format, which is not read here; write it"):
        tensor_bundle.find_prefix(GOLDEN / "first_format" / path)


FOREIGN = {
    "empty": (b"", "it is empty"),
    "first format": ((GOLDEN / "first_format" / "model.ckpt").read_bytes(), "first format"),
    "safetensors": (b'\x0a\0\0\0\0\0\0\0{"a":1}   ' + bytes(99), "it is a safetensors file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "it is an HDF5 file"),
    "zip": (b"PK\x03\x04" + bytes(99), "it is a zip archive"),
    "zeros": (bytes(99), "it begins with zeros"),
    "text": (b"what is this?\n", "it is cut off, or something else"),
    "short": (sorted_tables.MAGIC, "it is cut off, or something else"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files(prefix, kind):
    content, words = FOREIGN[kind]
    Path(f"{prefix}.index").write_bytes(content)
    refused(prefix, words)


def test_nothing_there(prefix):
    with pytest.raises(FileNotFoundError):
        read(prefix)


# --- round trips


def slicings(draw, shape):
    """Slices of a shape: cuts along some axes, each extent in either way of writing it."""
    cuts = []
    for dim in shape:
        inner = draw(st.sets(st.integers(1, max(dim - 1, 1)), max_size=2)) if dim > 1 else set()
        borders = [0, *sorted(inner), dim]
        some = [(start, stop - start) for start, stop in itertools.pairwise(borders)]
        cuts.append([(0, -1)] if len(some) == 1 and draw(st.booleans()) else some)
    return draw(st.permutations(list(itertools.product(*cuts))))


DTYPES = ["bool", "int8", "uint16", "int32", "uint64", "float16", "float32", "float64",
          "complex64", "complex128"]  # fmt: skip
NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.lists(st.sampled_from(["a", "layer_1", "w", "..", "x" * 200]), min_size=1).map("/".join),
).filter(lambda name: name[0] != "\0")


@st.composite
def bundles(draw):
    """A bundle, what it holds, and into how many slices its variables are cut, an axis."""
    files = draw(st.integers(1, 3))
    bundle, held, partitions = Bundle(files, swapped=draw(st.booleans())), {}, {}
    for name in draw(st.sets(NAMES, max_size=8)):
        shape = draw(npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
        seed = draw(st.integers(0, 2**32 - 1))
        size = int(np.prod(shape)) * 16
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        data = np.random.default_rng(seed).bytes(size)
        array = np.frombuffer(data, "u1")[: size // 16 * dtype.itemsize].view(dtype).reshape(shape)
        if dtype.kind == "b":
            array = array.view("u1") % 2 == 1
        held[name] = array
        slices = slicings(draw, shape)
        if len(slices) == 1 or "\0" in name:
            bundle.add(name, array, draw(st.integers(0, files - 1)))
            continue
        bundle.add_slices(name, array, [(one, draw(st.integers(0, files - 1))) for one in slices])
        counts = tuple(len({extents[axis] for extents in slices}) for axis in range(len(shape)))
        if sum(count > 1 for count in counts) <= 1:
            partitions[name] = counts
    return bundle, held, partitions


@settings(max_examples=60, deadline=None)
@given(bundles(), st.integers(1, 5), st.booleans(), st.data())
def test_round_trip(tmp_path_factory, made, per_block, packed, data):
    bundle, held, partitions = made
    prefix = tmp_path_factory.mktemp("bundle") / "model.ckpt"
    bundle.write(prefix, per_block=per_block, pack=pack if packed else None)
    checkpoint = read(prefix)
    assert set(checkpoint) == set(held)
    assert checkpoint.partitions == partitions
    checkpoint.verify()
    for name, array in held.items():
        tensor = checkpoint[name]
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
        assert tensor.value().tobytes() == array.tobytes()
        assert tensor.value().dtype == array.dtype
        index = data.draw(npst.basic_indices(array.shape, allow_newaxis=True, allow_ellipsis=True))
        some = tensor[index]
        assert np.shape(some) == np.shape(array[index])
        assert np.asarray(some).tobytes() == np.asarray(array[index]).tobytes()


def test_a_part_is_read_from_the_slices_that_it_touches(prefix):
    bundle = Bundle(4)
    array = np.arange(24).reshape(8, 3)
    bundle.add_slices("v", array, [(((2 * part, 2), (0, -1)), part) for part in range(4)])
    bundle.write(prefix)
    checkpoint = read(prefix)
    asked = []
    whole = checkpoint._bytes
    checkpoint._bytes = lambda place, piece: asked.append(piece.file) or whole(place, piece)
    assert checkpoint["v"][3:5].tolist() == array[3:5].tolist()
    assert asked == [1, 2]
    asked.clear()
    assert checkpoint["v"][-1, 2] == 23
    assert asked == [3]
    asked.clear()
    assert checkpoint["v"][8:].shape == (0, 3)
    assert asked == []


def test_another_order_of_bytes(prefix):
    ml_dtypes = require_ml_dtypes()
    bundle = Bundle(swapped=True)
    wide = np.arange(4, dtype=np.float32) + 0.5
    half = wide.astype(ml_dtypes.bfloat16)
    bundle.add("half", half)
    bundle.add_slices("wide", wide, [(((0, 2),), 0), (((2, 2),), 0)])
    bundle.write(prefix)
    checkpoint = read(prefix)
    assert checkpoint["half"].value().tolist() == checkpoint["wide"].value().tolist()
    assert checkpoint["half"][2] == half[2]
    checkpoint.verify()


@pytest.mark.parametrize("per_block", [1, 7, 3000])
def test_many_names(prefix, per_block):
    count = 400 if per_block < 10 else 100_000
    bundle = Bundle()
    names = [f"layers_{number // 64}/experts_{number % 64}/w" for number in range(count)]
    value = np.zeros(1, np.uint8)
    for name in names:
        bundle.add(name, value)
    bundle.write(prefix, per_block=per_block)
    checkpoint = read(prefix)
    assert checkpoint.names == names
    assert checkpoint.shapes == [(1,)] * count
    assert checkpoint._columns.offset_of.tolist() == list(range(count))


def test_names_are_no_paths(tmp_path, prefix):
    secret = tmp_path.parent / f"{tmp_path.name}-secret"
    secret.write_bytes(b"secret")
    names = [f"../{secret.name}", str(secret), "..", "C:\\x", "a\nb", "\x1b[31m"]
    bundle = Bundle()
    for name in names:
        bundle.add(name, np.zeros(6, np.uint8))
    bundle.write(prefix)
    checkpoint = read(prefix)
    assert set(checkpoint) == set(names)
    assert all(checkpoint[name].value().tobytes() == bytes(6) for name in names)
    assert [file.parent for file in checkpoint.files] == [tmp_path]
    secret.unlink()


# --- damage


def small():
    """A bundle with what there is: two blocks, two files, slices, an empty one."""
    bundle = Bundle(2)
    bundle.add_slices("a/cut", np.arange(6.0), [(((0, 4),), 0), (((4, 2),), 1)])
    bundle.add("a/none", np.zeros((0, 3), np.int32))
    bundle.add("b", np.arange(5, dtype=np.int16), 1)
    return bundle


def test_every_truncation(prefix):
    small().write(prefix, per_block=3)
    for path in sorted(prefix.parent.iterdir()):
        content = path.read_bytes()
        for size in range(len(content)):
            path.write_bytes(content[:size])
            with pytest.raises(CheckpointError) as caught:
                read(prefix)
            assert caught.value.path == path
            assert (caught.value.tensor is None) == (path.suffix == ".index")
        path.write_bytes(content)
    read(prefix).verify()


def flips(content):
    for place, bit in itertools.product(range(len(content)), range(8)):
        yield content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


@pytest.mark.parametrize(
    "name",
    ["small", "objects", pytest.param("plain", marks=pytest.mark.slow)],
)
def test_every_flip_of_the_index(prefix, name):
    if name == "small":
        small().write(prefix, per_block=3)
    else:
        origin = GOLDEN / "objects" / "ckpt" if name == "objects" else PREFIXES[name]
        for path in origin.parent.glob(f"{origin.name}.*"):
            (prefix.parent / f"model.ckpt{path.suffix}").write_bytes(path.read_bytes())
    index = Path(f"{prefix}.index")
    for content in flips(index.read_bytes()):
        index.write_bytes(content)
        refused(prefix)


def test_every_flip_of_the_data(prefix):
    small().write(prefix)
    for path in sorted(prefix.parent.glob("*.data-*")):
        content = path.read_bytes()
        for flipped in flips(content):
            path.write_bytes(flipped)
            with pytest.raises(CheckpointError, match="not those that were written") as caught:
                read(prefix).verify()
            assert caught.value.path == path
            assert caught.value.tensor in ("a/cut", "b")
        path.write_bytes(content)


def test_a_data_file_is_missing(prefix):
    small().write(prefix)
    Path(f"{prefix}.data-00001-of-00002").unlink()
    refused(prefix, "is not there", tensor="a/cut", file=".data-00001-of-00002")


def with_index(prefix, content, data=bytes(64)):
    Path(f"{prefix}.index").write_bytes(content)
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
    return prefix


def rows(*entries, head=None):
    """A table of entries, in order."""
    named = [(name.encode(), value) for name, value in entries]
    return table([[(b"", header() if head is None else head), *named]])


GOOD = entry("uint8", (4,), nbytes=4)
ENDLESS = b"\xff" * 30


WRONG = {
    "endless number": (b"\x08" + ENDLESS, "number without an end"),
    "cut off": (GOOD[:-2], "cut off"),
    "bytes for a number": (field(1, b"x"), "bytes where a number"),
    "number for bytes": (field(2, 4), "number where bytes"),
    "group": (b"\x0b\x0c", "kind 3"),
    "negative dimension": (entry("uint8", (-4,), nbytes=4), "negative dimension"),
    "huge dimensions": (entry("uint8", (2**40, 2**40), nbytes=4), "more bytes than can be"),
    "huge and empty": (entry("uint8", (2**62, 0)), "more bytes than can be"),
    "many dimensions": (entry("uint8", (1,) * 33, nbytes=1), "33 dimensions"),
    "very many dimensions": (entry("uint8", (2**62,) * 5000), "5000 dimensions"),
    "unknown shape": (GOOD + field(2, field(3, 1)), "shape is not known"),
    "size and shape": (entry("uint8", (5,), nbytes=4), "takes 5 bytes, and has 4"),
    "negative size": (entry("uint8", (), nbytes=-1), "negative"),
    "negative offset": (entry("uint8", (4,), offset=-4, nbytes=4), "negative"),
    "huge offset": (entry("uint8", (4,), offset=2**62, nbytes=4), "the file has 64"),
    "too large a number": (GOOD + b"\x21" + b"\xff" * 8, "too large"),
    "beyond the end": (entry("uint8", (4,), offset=61, nbytes=4), "bytes 61 to 65"),
    "other file": (entry("uint8", (4,), 1, nbytes=4), "data file 1 of 1"),
    "no dtype": (entry(0, (4,), nbytes=4), "no dtype"),
    "hole": (entry("uint8", (4,), slices=[((0, 2),), ((3, 1),)]), "leave something out"),
    "overlap": (entry("uint8", (4,), slices=[((0, 3),), ((2, 2),)]), "2 slices overlap"),
    "twice the whole": (entry("uint8", (4,), slices=[((0, -1),)] * 2), "2 slices overlap"),
    "slice outside": (entry("uint8", (4,), slices=[((2, 3),)]), "not inside shape (4,)"),
    "slice before": (entry("uint8", (4,), slices=[((-1, 3),)]), "not inside shape (4,)"),
    "rank of a slice": (entry("uint8", (4,), slices=[((0, 4), (0, 1))]), "not one of shape"),
    "slice not there": (entry("uint8", (4,), slices=[((0, 4),)]), "is not there, or listed"),
    "many axes": (entry("uint8", (2,) * 5, slices=[((0, 1),) * 5]), "cut along 5 axes"),
}  # fmt: skip


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_entries(prefix, kind, last):
    value, words = WRONG[kind]
    others = [] if last else [("w", entry("uint8", (4,), offset=32, nbytes=4))]
    with_index(prefix, rows(("v", value), *others))
    error = refused(prefix, words, tensor="v", file="")
    assert len(str(error)) < 1000


def test_fields_in_any_order_and_unknown_ones(prefix):
    parts = [field(99, b"new"), b"\x35\x01\0\0\0", field(5, 4), field(2, b""), field(1, 4),
             field(2, field(2, field(1, 2))), field(2, field(2, field(1, 2) + field(2, b"name"))),
             b"\xf9\x07" + bytes(8)]  # fmt: skip
    with_index(prefix, rows(("v", b"".join(parts)), ("w", GOOD[:-5] + b"\x20\x04" + GOOD[-5:])))
    checkpoint = read(prefix)
    assert checkpoint.shapes == [(2, 2), (4,)]
    assert checkpoint._columns.offset_of.tolist() == [0, 4]


HEADERS = {
    "no files": (header(0), "0 data files"),
    "negative": (header(-1), "-1 data files"),
    "newer": (header(oldest=2), "version 2"),
    "first format": (field(1, b"meta"), "first format"),
    "endless": (b"\x08" + ENDLESS, "without an end"),
    "cut off": (header()[:-1], "cut off"),
    "wrong kind": (field(2, b""), "bytes where a number"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_wrong_headers(prefix, kind):
    content, words = HEADERS[kind]
    with_index(prefix, rows(("v", GOOD), head=content))
    refused(prefix, words)


def test_a_header_of_a_million_files(prefix):
    with_index(prefix, rows(("v", GOOD), head=header(2**31 - 1)))
    refused(prefix, "is not there", tensor="v", file=".data-00000-of-2147483647")


def raw(shared, own, size, rest=b""):
    """An entry of a block as it is said to be."""
    return varint(shared) + varint(own) + varint(size) + rest


LIST = bytes(4) + b"\1\0\0\0"  # of one restart
FIRST = raw(0, 0, len(header()), header())
BLOCKS = {
    "no list": (b"\0\0", "shorter than the list"),
    "long list": (FIRST + b"\xff\xff\xff\xff", "shorter than the list"),
    "shares too much": (FIRST + raw(1, 1, 0, b"v") + LIST, "longer than it can be"),
    "key beyond the end": (FIRST + raw(0, 100, 0, b"v") + LIST, "longer than it can be"),
    "value beyond the end": (FIRST + raw(0, 1, 2**60, b"v") + LIST, "longer than it can be"),
    "endless": (FIRST + ENDLESS + LIST, "number without an end"),
    "no header": (raw(0, 1, len(GOOD), b"v" + GOOD) + LIST, "no header"),
    "a name twice": (FIRST + raw(0, 1, 0, b"v") * 2 + LIST, "not in order"),
    "out of order": (FIRST + raw(0, 1, 0, b"v") + raw(0, 1, 0, b"u") + LIST, "not in order"),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_wrong_blocks(prefix, kind):
    content, words = BLOCKS[kind]
    with_index(prefix, table([content]))
    refused(prefix, words)


def test_names_that_are_not_text(prefix):
    bundle = Bundle()
    bundle.add("", np.zeros(2), key=b"\xffv")
    bundle.write(prefix)
    refused(prefix, "not UTF-8", "ffv")


def test_tensors_that_share_bytes(prefix):
    two = ("v", GOOD), ("w", entry("uint8", (4,), offset=3, nbytes=4))
    with_index(prefix, rows(*two))
    refused(prefix, "byte 3, before the end of another", tensor="w", file="-of-00001")


def test_a_slice_that_nobody_lists(prefix):
    bundle = small()
    bundle.entries[b"a/cut"] = entry("float64", (6,), nbytes=48)
    bundle.data[0] += bytes(48)
    bundle.write(prefix)
    refused(prefix, tensor="a/cut", file="")
    bundle = small()
    del bundle.entries[b"a/cut"]
    bundle.write(prefix)
    refused(prefix, "does not list", tensor="a/cut")


@pytest.mark.parametrize("dtype", ["float32", "string"])
def test_a_slice_of_another_kind(prefix, dtype):
    bundle = small()
    bundle.entries[b"a/cut"] = entry(dtype, (6,), slices=[((0, 4),), ((4, 2),)])
    bundle.write(prefix)
    refused(prefix, f"{dtype} of (4,) is expected", tensor="a/cut")


def test_unknown_dtypes_are_listed(prefix):
    with_index(prefix, rows(("v", entry(77, (4,), nbytes=4))))
    tensor = read(prefix)["v"]
    assert tensor.dtype_name == "DT_77"
    with pytest.raises(CheckpointError, match="DT_77"):
        tensor.value()


def test_packed_blocks(prefix):
    bundle = Bundle()
    for number in range(2000):
        bundle.add(f"layer_{number}/kernel", np.full(1, number % 256, np.uint8))
    bundle.write(prefix, pack=pack)
    assert sum(map(len, read(prefix).names)) > Path(f"{prefix}.index").stat().st_size
    bundle.write(prefix, pack=lambda data: pack(data)[:-1])
    refused(prefix, "unpack to its size")
    bundle.write(prefix, pack=lambda data: varint(len(data)) + b"\x05\x01")
    refused(prefix, "copies what is not there")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300) | st.lists(st.sampled_from([b"abcdefgh", b"xy"])).map(b"".join))
def test_unpacking(data):
    assert sorted_tables.unpacked(pack(data)) == data


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_unpacking_anything(data):
    with pytest.raises(sorted_tables.Damage):
        unpacked = sorted_tables.unpacked(data)
        assert len(unpacked) <= 64 * len(data)
        raise sorted_tables.Damage


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80), st.booleans())
def test_any_entry(tmp_path_factory, one, two, usual):
    """Whatever stands in entries under good checksums: an error of ours, or a checkpoint."""
    prefix = tmp_path_factory.mktemp("any") / "model.ckpt"
    with_index(prefix, rows(("v", GOOD[:4] + one if usual else one), ("w", two)))
    try:
        read(prefix).verify()
    except CheckpointError as error:
        assert error.tensor in ("v", "w")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_block(tmp_path_factory, data):
    """The same of blocks, and of what says where they lie."""
    prefix = tmp_path_factory.mktemp("any") / "model.ckpt"
    small().write(prefix)
    content = Path(f"{prefix}.index").read_bytes()
    body = bytearray(block([(b"", header(2)), *sorted(small().entries.items())]))
    assert bytes(body) == content[: len(body)]
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body)))
        body[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    made = table([bytes(body)])
    if data.draw(st.booleans()):
        place = data.draw(st.integers(len(made) - 48, len(made) - 9))
        made = made[:place] + data.draw(st.binary(min_size=1, max_size=1)) + made[place + 1 :]
    Path(f"{prefix}.index").write_bytes(made)
    with contextlib.suppress(CheckpointError):
        checkpoint = read(prefix)
        for tensor in checkpoint.values():
            assert tensor.shape is not None
            with contextlib.suppress(CheckpointError):
                assert tensor.value().shape == tensor.shape
        checkpoint.verify()


def test_keys_that_grow_without_end(prefix):
    # Each takes a few bytes and is a million long.
    long = raw(0, 10**6, 0, b"a" * 10**6)
    with_index(prefix, table([FIRST + long + raw(10**6, 1, 0, b"b") * 10**5 + LIST]))
    gc.collect()
    tracemalloc.start()
    refused(prefix, "64 times longer")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 70 * Path(f"{prefix}.index").stat().st_size + 2**21


def test_one_block_that_is_named_again_and_again(prefix):
    data, foot = bytearray(), b""
    handle = varint(0) + varint(len(FIRST + LIST))
    handles = [raw(0, 4, len(handle), b"%04d" % number + handle) for number in range(999)]
    for number, body in enumerate([FIRST + LIST, LIST, b"".join(handles) + LIST]):
        foot += varint(len(data)) + varint(len(body)) if number else b""
        data += body + trailer(body)
    with_index(prefix, bytes(data) + foot.ljust(40, b"\0") + sorted_tables.MAGIC)
    refused(prefix, "a block is to begin at byte 0, and the one before ends at")


def test_entries_that_claim_all_that_follows(prefix):
    # Were the bytes of each shape taken, this would be some gigabytes.
    greedy = b"\x08\x01\x12" + varint(2**40)
    names = [(f"{number:06}", greedy) for number in range(20_000)]
    with_index(prefix, rows(*names))
    gc.collect()
    tracemalloc.start()
    refused(prefix, "cut off", tensor="000000")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**26


# --- the parts


@pytest.mark.parametrize("number", [0, 1, -1, 63, 64, -64, -65, 2**13, 2**55, 2**62, -(2**63)])
def test_ordered_numbers_sort(number):
    codes = [bundle_entries.ordered(other) for other in (number - 1, number, number + 1)]
    assert codes == sorted(codes)
    assert len(set(codes)) == 3


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_fill(data):
    """Blocks fill a box just when each of its elements is in one of them."""
    full = data.draw(npst.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=3))
    if data.draw(st.booleans()):
        slices = slicings(data.draw, full)
    else:
        extent = [st.tuples(st.integers(0, dim), st.integers(0, dim)) for dim in full]
        slices = data.draw(st.lists(st.tuples(*extent), min_size=1, max_size=5))
    counts = np.zeros(full, int)
    for extents in slices:
        counts[tuple(slice(a, None if n < 0 else a + n) for a, n in extents)] += 1
    try:
        cut = bundle_entries.cut_of(full, slices)
    except sorted_tables.Damage as damage:
        assert "outside" in str(damage) or "inside" in str(damage) or (counts != 1).any()
    else:
        assert (counts == 1).all()
        assert len(cut.parts) == len(slices)


# --- an old model


def test_an_old_model_finds_its_values_by_the_names_of_scopes():
    def layer(size):
        with tf.variable_scope(None, default_name="layer"):
            return tf.get_variable("kernel", [size, 4]), tf.get_variable("bias", [4])

    checkpoint = vs.open(PREFIXES["plain"])
    size, width = checkpoint["encoder/embed/table"].shape
    with tf.Graph().as_default() as graph, tf.variable_scope("encoder"):
        halves = tf.fixed_size_partitioner(2)  # in the file it is in three parts
        table = tf.get_variable("embed/table", [size, width], partitioner=halves)
        layers = [layer(checkpoint["encoder/layer/kernel"].shape[0]) for _ in range(3)]
    vs.restore(graph, PREFIXES["plain"], partial=True, verify=True)
    with np.load(PREFIXES["plain"].with_name("expected.npz")) as expected:
        assert (table.numpy() == expected["encoder|embed|table"]).all()
        for number, (kernel, bias) in enumerate(layers):
            scope = f"encoder|layer_{number}" if number else "encoder|layer"
            assert (kernel.numpy() == expected[f"{scope}|kernel"]).all()
            assert (bias.numpy() == expected[f"{scope}|bias"]).all()
