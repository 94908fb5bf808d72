"""What any bytes make of files that `varscope.open` and `restore` are given, and what must hold.

The first byte of an input says what it is, the second one is options, and the rest is cut at
SEPARATOR: a header and its data, an index and the files of a folder, the tables of TensorFlow.
Whatever comes,

- nothing is raised but CheckpointError, which names the file;
- a safetensors file is judged, and read, as the safetensors library does, but for what is refused
  on purpose; the core's scan of its header says what json says;
- a folder is what its index and its files say in the plainest reading of both, and so is a
  checkpoint of TensorFlow whose checksums are right;
- no file outside of the folder is opened;
- a restore that fails changes nothing, and one that does not gives the values of the files.
"""

import atexit
import contextlib
import json
import os
import re
import shutil
import struct
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from bundle_writer import Bundle, entry, header, pack, slice_key, table, trailer
from judgements import check_scan, facts, library_reads, only_the_library_takes

import varscope as vs
from varscope import _scopecore
from varscope.checkpoint import bundle_entries, sorted_tables
from varscope.errors import CheckpointError, VarscopeError

SEPARATOR = b"\n--\n"
FILES = ("a.safetensors", "b.safetensors", "sub/c.safetensors")
INDEX = "model.safetensors.index.json"
PREFIX = "model.ckpt"
DATA_FILES = ("data-00000-of-00001", "data-00000-of-00002", "data-00001-of-00002")
WORDS = [
    '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', '"__metadata__":', '"varscope":',
    '"dtype":', '"shape":', '"data_offsets":', '"weight_map":', '"version":1', '"crc32c":',
    '"partitions":', '"dtypes":', '"BF16"', '"F4"', '"U8"', '"I64"', "18446744073709551615",
    "../", "..\\\\", *FILES, "model_checkpoint_path: ", PREFIX, "\n--\n", "\\ud800", "\\u0061",
    "1e999", "-0", "\x00", "\x08\x01", "\x12", "\x35", "\x3a", "W\xfb\x80\x8b$uG\xdb",
]  # fmt: skip
LARGE = 1 << 16  # bytes of a value that is looked at


# --- where the files are


class Folder:
    """A folder for the files of one input, with something beside it that must not be opened."""

    def __init__(self):
        self.root = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, self.root, ignore_errors=True)
        self.path = self.root / "folder"
        Bundle().write(self.root / PREFIX)
        self.root.joinpath("model.safetensors").write_bytes(whole({}, b""))

    def __enter__(self):
        (self.path / "sub").mkdir(parents=True)
        return self.path

    def __exit__(self, *exception):
        shutil.rmtree(self.path)


class Watch:
    """Notes files that are opened outside of a folder, but for modules that are imported."""

    def __init__(self):
        self.inside, self.seen = None, []
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        if event != "open" or self.inside is None:
            return
        path = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else ""
        path = os.path.abspath(os.fsdecode(path))
        if not path.startswith(self.inside + os.sep) and not path.endswith((".py", ".pyc", ".so")):
            self.seen.append(path)

    @contextlib.contextmanager
    def over(self, folder):
        self.inside, self.seen = str(folder), []
        try:
            yield
        finally:
            self.inside = None
        assert not self.seen, f"opened outside of the folder: {self.seen}"


watch = None  # from the first input on: it cannot be taken away again


def opened(path, folder):
    """What is at a path: a checkpoint and None, or None and the error."""
    global watch
    watch = watch or Watch()
    with watch.over(folder):
        try:
            checkpoint = vs.open(path)
        except CheckpointError as error:
            assert str(folder) in str(error), "which file is it?"
            assert len(str(error)) < 4000, "the file has filled the message"
            return None, error
    assert all(folder in file.parents for file in checkpoint.files)
    return checkpoint, None


# --- what must hold of any checkpoint


def check_values(checkpoint):
    """Values are what their facts say, in whole and in part."""
    assert len(set(checkpoint)) == len(checkpoint) == len(checkpoint.names)
    assert str(checkpoint) and checkpoint.nbytes == sum(t.nbytes for t in checkpoint.values())
    for tensor in checkpoint.values():
        if tensor.nbytes > LARGE or len(tensor.shape) > 8:
            continue
        try:
            value = tensor.value()
        except CheckpointError:
            continue
        assert (value.shape, value.dtype) == (tensor.shape, tensor.dtype)
        assert value.nbytes == tensor.nbytes and not value.flags.writeable
        if value.shape and value.shape[0] > 0:
            for index in (slice(1, None), slice(None, None, -2), -1, (..., 0)):
                if index != (..., 0) or value.shape[-1]:
                    assert np.asarray(tensor[index]).tobytes() == value[index].tobytes()


def check_verify(checkpoint, checksums):
    """Flipped bytes are found; `checksums` are recorded ones, and the bytes, by name."""
    flipped = {name for name, (sum_of, data) in checksums.items() if crc32c(data) != sum_of}
    try:
        checkpoint.verify()
    except CheckpointError as error:
        assert error.tensor in flipped or error.tensor not in checksums
    else:
        assert not flipped, f"not noticed: {flipped}"


def crc32c(data):
    return _scopecore.crc32c(bytes(data))


def state(graph):
    return [
        (v.op_name, v.initialized, v.version, v.initialized and v.value().tobytes())
        for v in graph.variables
    ]


def graphs_for(checkpoint):
    """A graph that may fit, and one that is made to."""
    with vs.Graph().as_default() as graph:
        vs.get_variable("a", [2], initializer=vs.ones).value()
        vs.get_variable("b/c", [])
    yield graph
    with vs.Graph().as_default() as graph:
        for name, tensor in list(checkpoint.items())[:20]:
            if tensor.nbytes <= LARGE and len(tensor.shape) <= 8:
                with contextlib.suppress(VarscopeError):  # no name here, or no dtype
                    v = vs.get_variable(name, tensor.shape, dtype=tensor.dtype)
                    if v.op_name == "a" and v.dtype.kind in "fiu":
                        v.value()
    yield graph


def check_restore(checkpoint, options):
    """All of it, or nothing."""
    settings = {"partial": options & 4, "verify": options & 2, "threads": 1, "progress": False}
    for graph in graphs_for(checkpoint):
        before = state(graph)
        cast = "unsafe" if options & 8 else None
        try:
            report = vs.restore(graph, checkpoint, cast=cast, **settings)
        except CheckpointError:
            assert state(graph) == before
            continue
        assert options & 4 or len(report.restored) == len(graph) == len(checkpoint)
        for old, new, v in zip(before, state(graph), graph.variables, strict=True):
            if v.op_name not in report.restored:
                assert new == old
            elif v.dtype == checkpoint[v.op_name].dtype:
                assert v.value().tobytes() == checkpoint[v.op_name].value().tobytes()


def check_any(checkpoint, options):
    check_values(checkpoint)
    check_restore(checkpoint, options)


# --- safetensors


def whole(entries, data):
    """The bytes of a file."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def check_file(path, content, folder):
    """One file beside the library; the checkpoint, or None."""
    (length,) = struct.unpack("<Q", content[:8].ljust(8, b"\0"))
    text = content[8 : 8 + length]
    check_scan(text)
    path.write_bytes(content)
    checkpoint, error = opened(path, folder)
    expected = library_reads(content)
    if checkpoint is None:
        if expected is not None and "its metadata 'varscope'" not in str(error):
            assert only_the_library_takes(text), f"the library takes what we refuse: {error}"
        return None
    assert expected is not None, "we take what the library refuses"
    metadata = json.loads(text, parse_int=float).get("__metadata__") or {}
    assert checkpoint.metadata == metadata
    places = range(len(checkpoint))
    data = {checkpoint.names[place]: bytes(checkpoint._bytes(place)) for place in places}
    assert data == {name: data for name, (_, data) in expected.items()}
    notes = json.loads(metadata.get("varscope", "{}"))
    if not notes.get("dtypes"):
        assert dict(facts(checkpoint)) == {name: what for name, (what, _) in expected.items()}
    digits = notes.get("crc32c") or ""
    sums = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    check_verify(checkpoint, {name: (sums[at], data[name]) for at, name in enumerate(data)}
                 if sums else {})  # fmt: skip
    return checkpoint


def one_file(folder, options, parts):
    check_header(folder, options, SEPARATOR.join(parts))


def one_header(folder, options, parts):
    check_header(folder, options, whole(parts[0], SEPARATOR.join(parts[1:])))


def check_header(folder, options, content):
    checkpoint = check_file(folder / FILES[0], content, folder)
    if checkpoint is not None:
        check_any(checkpoint, options)


def several_files(folder, options, parts):
    held = {}
    rest = [*parts[1:], *[b""] * (len(parts) % 2 == 0)]
    for name, text, data in zip(FILES, rest[::2], rest[1::2], strict=False):
        checkpoint = check_file(folder / name, whole(text, data), folder)
        held[name] = None if checkpoint is None else list(checkpoint)
    (folder / INDEX).write_bytes(parts[0])
    expected = in_plain_reading(parts[0], held)
    checkpoint, error = opened(folder / INDEX if options & 1 else folder, folder)
    if checkpoint is None:
        assert expected is None, f"refused for no reason: {error}"
        return
    assert expected is not None, "what the index says is not so"
    found = {tensor.name: tensor.file for tensor in checkpoint.values()}
    assert found == {name: folder / file for name, file in expected.items()}
    check_any(checkpoint, options)


def in_plain_reading(text, held):
    """Where each tensor is by an index, None where that is not so; `held` is by file."""
    try:
        listed = json.loads(text.decode())["weight_map"]
        files = list(dict.fromkeys(listed.values()))
        names = [name for file in files for name in held[safely(file)]]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    places = {name: file for file in files for name in held[safely(file)]}
    return listed if places == listed and len(names) == len(places) else None


def safely(name):
    if name.startswith("/") or "\0" in name or ".." in re.split(r"[/\\]", name):
        raise LookupError(name)
    return os.path.normpath(name)


# --- TensorFlow


def repaired(index):
    """A table in which the checksum of each block that is found is right."""
    index, end = bytearray(index), len(index) - sorted_tables.FOOTER

    def fix(offset, size):
        stop = offset + size
        if stop + sorted_tables.TRAILER > end:
            raise sorted_tables.Damage
        body, packing = bytes(index[offset:stop]), index[stop]
        index[stop : stop + sorted_tables.TRAILER] = trailer(body, packing)
        return sorted_tables.block(bytes(index), offset, size, end)

    with contextlib.suppress(sorted_tables.Damage, IndexError):
        remarks, handles = sorted_tables.footer(bytes(index[max(end, 0) :]))
        fix(*remarks)
        found = []
        sorted_tables.add_entries(fix(*handles), [], found, LARGE)
        for handle in found:
            fix(*sorted_tables.numbers(handle, 2))
    return bytes(index)


def one_table(folder, options, parts):
    index = repaired(parts[0]) if options & 1 else parts[0]
    check_bundle(folder, options, index, [SEPARATOR.join(parts[1:])] * len(DATA_FILES))


def table_of_entries(folder, options, parts):
    one, two, *rest = parts if len(parts) > 1 else [*parts, b""]
    rows = sorted(dict(zip(rest[::2], rest[1::2], strict=False)).items())
    check_entries([value for key, value in rows if key])
    per_block = 1 + (options >> 4)
    blocks = [rows[start : start + per_block] for start in range(0, len(rows), per_block)]
    index = table(blocks, pack if options & 1 else None)
    check_bundle(folder, options, index, (one, one, two))


def check_bundle(folder, options, index, data_files):
    prefix = folder / PREFIX
    prefix.with_name(f"{PREFIX}.index").write_bytes(index)
    for name, data in zip(DATA_FILES, data_files, strict=True):
        prefix.with_name(f"{PREFIX}.{name}").write_bytes(data)
    checkpoint, _ = opened(prefix, folder)
    if checkpoint is None:
        return
    rows = dict(zip(*sorted_tables.read(prefix.with_name(f"{PREFIX}.index")), strict=True))
    assert checkpoint.names == sorted(checkpoint, key=checkpoint.names.index)
    assert {name.encode() for name in checkpoint} == {
        key for key in rows if not key.startswith(b"\0") and key
    }
    swapped = bundle_entries.header_of(prefix, rows[b""]).swapped
    checksums, taken = {}, Counter()
    for name, tensor in checkpoint.items():
        pieces = plainly_read(rows, name.encode(), data_files)
        if not tensor.dtype_name or tensor.dtype_name in ("string", "resource", "variant"):
            continue
        with contextlib.suppress(CheckpointError):
            value, dtype = tensor.value(), tensor.dtype
            assert value.shape == tensor.shape
            count = np.zeros(value.shape, np.int64)
            for number, (part, place, data, recorded) in enumerate(pieces):
                taken.update((place[0], at) for at in range(place[1], place[1] + len(data)))
                stored = np.frombuffer(data, dtype.newbyteorder() if swapped else dtype)
                stored = stored.astype(dtype).reshape(value[part].shape)
                assert stored.tobytes() == value[part].tobytes() or dtype.kind in "fcV"
                count[part] += 1
                checksums[name if len(pieces) == 1 else (name, number)] = recorded, data
            assert (count == 1).all(), "slices that overlap, or leave something out"
    assert not taken or max(taken.values()) == 1, "bytes of two tensors"
    check_verify_of_pieces(checkpoint, checksums)
    check_any(checkpoint, options)


def check_verify_of_pieces(checkpoint, checksums):
    flipped = [name for name, (recorded, data) in checksums.items() if crc32c(data) != recorded]
    try:
        checkpoint.verify()
    except CheckpointError as error:
        assert error.tensor in checkpoint
    else:
        assert not flipped, f"not noticed: {flipped}"


def plainly_read(rows, name, data_files):
    """The pieces of a tensor as its entries say: which part, the place, bytes, the checksum."""
    entry = bundle_entries.entry_of(rows[name])
    slices = [
        bundle_entries.extents_of(bundle_entries.as_bytes(content))
        for number, content in bundle_entries.fields(rows[name])
        if number == 7
    ]
    if not slices:
        return [(..., *stored(entry, rows, data_files))]
    found = []
    for extents in slices:
        part = tuple(slice(start, None if size < 0 else start + size) for start, size in extents)
        piece = bundle_entries.entry_of(rows[slice_key(name, extents)])
        found.append((part, *stored(piece, rows, data_files)))
    return found


def stored(entry, rows, data_files):
    count = bundle_entries.header_of(Path(PREFIX), rows[b""]).num_files
    data = data_files[{1: 0, 2: 1}[count] + entry.file]
    content = data[entry.offset : entry.offset + entry.nbytes]
    assert len(content) == entry.nbytes
    turned = entry.checksum - 0xA282EAD8 & 0xFFFFFFFF
    place = entry.file, entry.offset
    return place, content, (turned >> 17 | turned << 15) & 0xFFFFFFFF


def check_entries(values):
    """What is read of all entries at once is what is read of each one."""
    usual = bundle_entries.UsualEntries(values)
    for place in np.flatnonzero(usual.read).tolist():
        with contextlib.suppress(sorted_tables.Damage):
            shape = bundle_entries.shape_of(usual.shapes[place])
            entry = bundle_entries.entry_of(values[place])
            facts = usual.dtype, usual.file, usual.offset, usual.nbytes, usual.checksum
            found = (shape, *(int(column[place]) for column in facts))
            slow = entry.shape, entry.dtype, entry.file, entry.offset, entry.nbytes
            assert found == (*slow, entry.checksum) and entry.cut is None


def named_by_a_state(folder, options, parts):
    """A folder whose file `checkpoint` names what is in it, or something else."""
    Bundle().write(folder / PREFIX)
    Bundle().write(folder / "sub" / PREFIX)
    (folder / "checkpoint").write_bytes(SEPARATOR.join(parts))
    checkpoint, _ = opened(folder, folder)
    assert checkpoint is None or len(checkpoint) == 0


# --- one input

KINDS = (one_file, one_header, several_files, one_table, table_of_entries, named_by_a_state)
place = None


def test_one_input(data):
    """Raises where something does not hold."""
    global place
    if len(data) < 2:
        return
    place = place or Folder()
    with place as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        KINDS[data[0] % len(KINDS)](folder, data[1], data[2:].split(SEPARATOR))


# --- inputs to begin with


def seeds():
    one = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
           "b/c": {"dtype": "F32", "shape": [], "data_offsets": [8, 12]}}  # fmt: skip
    data = np.array([1.5, -2, 3], "<f4").tobytes()
    sums = f"{crc32c(data[:8]):08x}{crc32c(data[8:]):08x}"
    notes = {"version": 1, "crc32c": sums, "partitions": {"a": [2]}}
    noted = {"__metadata__": {"format": "pt", "varscope": json.dumps(notes)}, **one}
    odd = {
        "__metadata__": {"varscope": '{"version":1,"dtypes":{"d":"<c16"}}'},
        "d": {"dtype": "U8", "shape": [1, 16], "data_offsets": [0, 16]},
        "e": {"dtype": "F4", "shape": [2, 3], "data_offsets": [16, 19]},
        "f": {"dtype": "BF16", "shape": [0, 3], "data_offsets": [19, 19]},
    }

    def texts(*parts):
        return SEPARATOR.join(
            part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()
            for part in parts
        )

    for options in (0, 6, 12):
        mark = bytes([0, options])
        yield mark + whole(noted, data)
        for found, content in ((one, data), (noted, data), (odd, bytes(19)), ({}, b"")):
            yield bytes([1, options]) + texts(found, content)
    twice = json.dumps(one).replace('"dtype"', '"dtype": "F32", "dtype"').encode()
    yield bytes([1, 0]) + texts(twice, data)
    for begin, end in ((4, 8), (12, 16)):  # bytes of two tensors, and of none
        apart = {**one, "b/c": {"dtype": "F32", "shape": [], "data_offsets": [begin, end]}}
        yield bytes([1, 0]) + texts(apart, bytes(max(8, end)))
    other = {"x": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}
    for first, last in ((FILES[0], FILES[1]), ("./" + FILES[0], "sub/../b.safetensors")):
        listed = {"metadata": {}, "weight_map": {"a": first, "b/c": first, "x": last}}
        yield bytes([2, 0]) + texts(listed, noted, data, other, bytes(8))
    listed = {"weight_map": {"x": FILES[0]}}
    yield bytes([2, 1]) + texts(listed, other, bytes(8))
    for name in ("../model.safetensors", "x" * 300, FILES[0] + "/x"):
        yield bytes([2, 0]) + texts({"weight_map": {"x": name}}, other, bytes(8))

    for swapped in (False, True):
        bundle = Bundle(swapped=swapped)
        bundle.add("a", np.array([1.5, -2], np.float32))
        bundle.add("b/c", np.float32(3))
        for options in (0, 1, 2):
            for settings in ({}, {"pack": pack}, {"per_block": 1}):
                yield bytes([3, options]) + bundle.index(**settings) + SEPARATOR + bundle.data[0]
        yield from entries_of(bundle)
    bundle = Bundle(files=2)
    bundle.add_slices("cut", np.arange(12.0).reshape(4, 3), [(((0, 2), (0, -1)), 0),
                                                             (((2, 2), (0, -1)), 1)])  # fmt: skip
    bundle.add("i", np.arange(3), 1)
    yield from entries_of(bundle)
    bundle.add_slices("grid", np.arange(4, dtype=np.int8).reshape(2, 2),
                      [(((i, 1), (j, 1)), i) for i in (0, 1) for j in (0, 1)])  # fmt: skip
    yield from entries_of(bundle)
    bundle = Bundle()
    bundle.entries[b"text"] = entry("string", [2], nbytes=5, checksum=1)
    bundle.data[0] += b"\1\2abc"
    yield from entries_of(bundle)
    bundle = Bundle()
    bundle.add("a", np.arange(3, dtype=np.int16))
    bundle.entries[b"b"] = entry("int16", [2], offset=2, nbytes=4, checksum=crc32c(b"\1\0\2\0"))
    yield from entries_of(bundle)
    for named in (PREFIX, f"sub/{PREFIX}", f"../{PREFIX}", f"/gone/{PREFIX}", r"model\.c\153pt"):
        yield bytes([5, 0]) + b'model_checkpoint_path: "%s"' % named.encode()


def entries_of(bundle):
    data = [bytes(each) for each in bundle.data] + [b""]
    rows = [(b"", header(len(bundle.data), int(bundle.swapped))), *bundle.entries.items()]
    for options in (0, 1, 16):
        yield bytes([4, options]) + SEPARATOR.join(
            [data[0], data[1], *(part for row in rows for part in row)]
        )
