"""Checkpoints of TensorFlow that mean harm: an error, in memory as the files have bytes."""

import contextlib
import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from bundle_writer import (
    GOOD,
    Bundle,
    block,
    entry,
    field,
    header,
    pack,
    rows,
    small,
    table,
    trailer,
    varint,
    with_index,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from varscope.checkpoint import sorted_tables, tensor_bundle
from varscope.errors import CheckpointError

pytestmark = pytest.mark.promise("hostile-files")

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "tf1_checkpoints"


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


@pytest.mark.fails_without(
    "src/varscope/checkpoint/tensor_bundle.py",
    "    wrong = same & (entries.offsets[places][1:] < ends[:-1])\n",
    "    wrong = same & False\n",
)
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


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300) | st.lists(st.sampled_from([b"abcdefgh", b"xy"])).map(b"".join))
def test_unpacking(data):
    assert sorted_tables.unpacked(pack(data)) == data


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_unpacking_anything(data):
    with pytest.raises(sorted_tables.Damage):
        unpacked = sorted_tables.unpacked(data)
        assert len(unpacked) <= 64 * len(data)
        raise sorted_tables.Damage


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80), st.booleans())
def test_any_entry(tmp_path_factory, one, two, usual):
    """Whatever stands in entries under good checksums: an error of ours, or a checkpoint."""
    prefix = tmp_path_factory.mktemp("any") / "model.ckpt"
    with_index(prefix, rows(("v", GOOD[:4] + one if usual else one), ("w", two)))
    try:
        read(prefix).verify()
    except CheckpointError as error:
        assert error.tensor in ("v", "w")


@settings(max_examples=100, deadline=None)
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


@pytest.mark.fails_without(
    "src/varscope/checkpoint/sorted_tables.py",
    "        if room < 0:\n",
    "        if False:\n",
)
def test_keys_that_grow_without_end(prefix):
    # Each takes a few bytes and is many long: all together they would be 300 MB.
    size = 30_000
    long = raw(0, size, 0, b"a" * size)
    some = (raw(size, 2, 0, b"%c%c" % (98 + i // 100, 98 + i % 100)) for i in range(10_000))
    with_index(prefix, table([FIRST + long + b"".join(some) + LIST]))
    gc.collect()
    tracemalloc.start()
    refused(prefix, "64 times longer")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 70 * Path(f"{prefix}.index").stat().st_size + 2**21


@pytest.mark.fails_without(
    "src/varscope/checkpoint/sorted_tables.py",
    "        if offset != at:\n",
    "        if False:\n",
)
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
