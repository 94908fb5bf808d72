"""TensorFlow's checkpoints: those that it wrote, and ones made by hand."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from bundle_writer import GOOD, Bundle, entry, field, pack, rows, with_index
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


def test_another_file_of_that_name(tmp_path):
    (tmp_path / "checkpoint").write_bytes(bytes(range(256)) * 1000)
    assert tensor_bundle.find_prefix(tmp_path) is None
    (tmp_path / "checkpoint").write_bytes(b"\n" * 1000 + b" " * 50_000 + b"\n" * 20_000)
    assert tensor_bundle.find_prefix(tmp_path) is None


@pytest.mark.parametrize("path", ["", "model.ckpt"])
def test_the_first_format(path):
    with pytest.raises(CheckpointError, match="first format, which is not read here; write it"):
        tensor_bundle.find_prefix(GOLDEN / "first_format" / path)


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


# --- entries


def test_fields_in_any_order_and_unknown_ones(prefix):
    parts = [field(99, b"new"), b"\x35\x01\0\0\0", field(5, 4), field(2, b""), field(1, 4),
             field(2, field(2, field(1, 2))), field(2, field(2, field(1, 2) + field(2, b"name"))),
             b"\xf9\x07" + bytes(8)]  # fmt: skip
    with_index(prefix, rows(("v", b"".join(parts)), ("w", GOOD[:-5] + b"\x20\x04" + GOOD[-5:])))
    checkpoint = read(prefix)
    assert checkpoint.shapes == [(2, 2), (4,)]
    assert checkpoint._columns.offset_of.tolist() == [0, 4]


def test_unknown_dtypes_are_listed(prefix):
    with_index(prefix, rows(("v", entry(77, (4,), nbytes=4))))
    tensor = read(prefix)["v"]
    assert tensor.dtype_name == "DT_77"
    with pytest.raises(CheckpointError, match="DT_77"):
        tensor.value()


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
