"""TensorFlow's checkpoints, `PREFIX.index` with `PREFIX.data-?????-of-?????`, as a `Checkpoint`.

The index is a sorted table of entries, one of each tensor; the data files hold the values, one
after another.
"""

from __future__ import annotations

import functools
import math
import mmap
import os.path
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from varscope import _scopecore
from varscope.checkpoint import sorted_tables
from varscope.checkpoint.bundle_entries import (
    FIRST_FORMAT,
    ITEMSIZES,
    SLICE_MARK,
    TEXT,
    Entries,
    dtype_name,
    header_of,
    is_numeric,
    read_entries,
)
from varscope.checkpoint.contents import UNTRACKED, Checkpoint, Columns, MappedFile, Piece
from varscope.checkpoint.sorted_tables import Damage, varint
from varscope.errors import CheckpointError

if TYPE_CHECKING:
    import numpy.typing as npt

STATE = "checkpoint"  # the file of a folder that names its latest checkpoint
STATE_SIZE = 1 << 16
DATA_FILE = "{}.data-{:05}-of-{:05}"
OWN_FILE = re.compile(r"(.+)\.(?:index|data-\d{5,}-of-\d{5,})", re.DOTALL)


# --- which path is one


def find_prefix(path: Path) -> Path | None:
    """The prefix of the checkpoint at a path, or None where there is none of TensorFlow's.

    A path is a prefix, such as `model.ckpt-1000`, one of the files of the checkpoint, or a folder
    in which a file `checkpoint` names the latest one, which lies in that folder or below.

    Raises
    ------
    CheckpointError : ValueError
        The folder names a checkpoint that is not there, or the file is a checkpoint of TensorFlow's
        first format.
    """
    # These take any text, also what is too long for a path, or can be none.
    if not os.path.isdir(path) or os.path.isfile(index_of(path)):
        return prefix_of(path)
    state = path / STATE
    if not os.path.isfile(state):
        return None
    with state.open("rb") as file:
        text = file.read(STATE_SIZE)
    named = re.search(
        rb'^[ \t]*model_checkpoint_path\s*:\s*"((?:[^"\\]|\\.)*)"', text, re.MULTILINE
    )
    if named is None:
        return None
    latest = Path(unescaped(named[1]).decode("utf-8", "replace"))
    # It may have been written elsewhere, under an absolute path, and brought here.  What still lies
    # there is not read: a file must not lead out of the folder that somebody chose to open.
    inside = [] if latest.anchor or ".." in latest.parts else [path / latest]
    for candidate in (*inside, path / latest.name):
        prefix = prefix_of(candidate)
        if prefix is not None:
            return prefix
    named_so = f"{str(latest)!r:.200} as the latest one"
    raise CheckpointError.of(
        state, None, f"it names {named_so}, which is not there: it is looked for in this folder"
    )


def prefix_of(path: Path) -> Path | None:
    """The same of a path that is no folder."""
    named = OWN_FILE.fullmatch(path.name)
    candidates = [path] if named is None else [path, path.with_name(named[1])]
    for candidate in candidates:
        if os.path.isfile(index_of(candidate)):
            return candidate
    if not os.path.isfile(path):
        return None
    with path.open("rb") as file:
        start = max(file.seek(0, 2) - len(sorted_tables.MAGIC), 0)
        file.seek(start)
        if file.read() != sorted_tables.MAGIC:
            return None
    raise CheckpointError.of(path, None, FIRST_FORMAT)


def unescaped(text: bytes) -> bytes:
    """A string of the text format, where some characters are written as those of C."""
    plain = {b"n": b"\n", b"t": b"\t", b"r": b"\r"}

    def character(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes([int(code, 8) & 255]) if code.isdigit() else plain.get(code, code)

    return re.sub(rb"\\([0-7]{1,3}|.)", character, text)


def index_of(prefix: Path) -> Path:
    """The path of the index."""
    return Path(f"{prefix}.index")


# --- what it holds


def read(prefix: Path, path: Path | None = None) -> Checkpoint:
    """Open the checkpoint of a prefix; `path` is how it was asked for.

    Raises
    ------
    CheckpointError : ValueError
        It names the file and, where there is one, the tensor.
    """
    index = index_of(prefix)
    keys, values = sorted_tables.read(index)
    if not keys or keys[0] != b"":
        raise CheckpointError.of(index, None, "it has no header of a checkpoint")
    header = header_of(index, values[0])
    entries = read_entries(index, keys[1:], values[1:])
    files = DataFiles(prefix, header.num_files)
    files.add(entries)
    columns = columns_of(entries, header.swapped)
    return Checkpoint(path or prefix, "tensorflow", files.mapped, columns)


# --- data files


class DataFiles:
    """The data files of a prefix that entries lie in, mapped; each is opened once."""

    def __init__(self, prefix: Path, count: int) -> None:
        self.prefix, self.count = prefix, count
        self.mapped: list[MappedFile] = []

    def add(self, entries: Entries) -> None:
        """Map the files and check that the entries lie in them; `entries.files` is of `mapped`."""
        stored = np.ones(len(entries.keys), bool)
        stored[list(entries.cuts)] = False
        check_sizes(entries, stored)
        places = np.flatnonzero(stored)
        shards, first, number = np.unique(
            entries.files[places], return_index=True, return_inverse=True
        )
        sizes = []
        for shard, place in zip(shards.tolist(), places[first].tolist(), strict=True):
            if shard >= self.count:
                entries.fail(place, f"it is in data file {shard:,} of {self.count:,}")
            sizes.append(self._map(entries, shard, place))
        entries.files[places] = number
        room = np.array(sizes, np.int64)[number] - entries.nbytes[places]
        for place in places[entries.offsets[places] > room][:1].tolist():
            file = self.mapped[int(entries.files[place])].path
            reason = (
                f"it is to lie at bytes {entries.offsets[place]:,} to "
                f"{int(entries.offsets[place]) + int(entries.nbytes[place]):,}, and the file has "
                f"{sizes[int(entries.files[place])]:,}"
            )
            entries.fail(place, reason, file)
        check_overlaps(entries, places, self)

    def _map(self, entries: Entries, shard: int, place: int) -> int:
        """Map a file in which a tensor lies; its size."""
        path = Path(DATA_FILE.format(self.prefix, shard, self.count))
        if not path.is_file():
            entries.fail(place, "the file in which it lies is not there", path)
        with path.open("rb") as file:
            size = file.seek(0, 2)
            # An empty file cannot be mapped, and nothing is read from it.
            pages = (
                mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, **UNTRACKED)
                if size
                else mmap.mmap(-1, 1, access=mmap.ACCESS_READ)
            )
            self.mapped.append(MappedFile(path, pages, file.fileno()))
        return size


def check_sizes(entries: Entries, stored: npt.NDArray[np.bool_]) -> None:
    """Whether the bytes of each tensor are as many as its shape and dtype say."""
    known: dict[tuple[int, ...], int] = {}
    counts = np.fromiter(
        (known.get(shape) or known.setdefault(shape, math.prod(shape)) for shape in entries.shapes),
        np.int64,
        len(entries.shapes),
    )
    if (entries.dtypes == 0).any():
        entries.fail(int(np.argmin(entries.dtypes)), "it has no dtype")
    itemsizes = ITEMSIZES[np.where(is_numeric(entries.dtypes), entries.dtypes, 0)]
    wrong = stored & (itemsizes > 0) & (counts * itemsizes != entries.nbytes)
    for place in np.flatnonzero(wrong)[:1].tolist():
        dtype = int(entries.dtypes[place])
        reason = (
            f"it is {dtype_name(dtype)} of shape {entries.shapes[place]}, which takes "
            f"{counts[place] * itemsizes[place]:,} bytes, and has {entries.nbytes[place]:,}"
        )
        entries.fail(place, reason)


def check_overlaps(entries: Entries, places: npt.NDArray[np.int64], files: DataFiles) -> None:
    """Whether each byte is of one tensor at most."""
    places = places[entries.nbytes[places] > 0]
    places = places[np.lexsort((entries.offsets[places], entries.files[places]))]
    ends = (entries.offsets + entries.nbytes)[places]
    same = entries.files[places][1:] == entries.files[places][:-1]
    wrong = same & (entries.offsets[places][1:] < ends[:-1])
    for before in np.flatnonzero(wrong)[:1].tolist():
        place = int(places[before + 1])
        reason = f"it begins at byte {entries.offsets[place]:,}, before the end of another tensor"
        entries.fail(place, reason, files.mapped[int(entries.files[place])].path)


# --- tensors


def columns_of(entries: Entries, swapped: bool) -> Columns:
    """The tensors in the order of the data; slices are pieces of theirs."""
    pieces, partitions = join_slices(entries)
    for place, some in pieces.items():
        entries.files[place], entries.offsets[place] = some[0].file, some[0].offset
        entries.nbytes[place] = sum(piece.nbytes for piece in some)
    order = np.lexsort((entries.offsets, entries.files))
    order = order[order >= entries.num_slices]
    places = order.tolist()
    try:
        names = [entries.keys[place].decode() for place in places]
    except UnicodeDecodeError as error:
        reason = f"it has a name that is not UTF-8: {error.object!r:.200}"
        raise CheckpointError.of(entries.index, None, reason) from None
    number_of = {place: number for number, place in enumerate(places)} if pieces else {}
    numbers = entries.dtypes[order].tolist()
    name_of = {number: dtype_name(number) for number in set(numbers)}
    return Columns(
        names=names,
        dtype_names=[name_of[number] for number in numbers],
        shapes=[entries.shapes[place] for place in places],
        nbytes_of=entries.nbytes[order],
        file_of=entries.files[order].astype(np.int32),
        offset_of=entries.offsets[order],
        checksums=entries.checksums[order],
        has_checksum=is_numeric(entries.dtypes[order]),
        pieces={number_of[place]: some for place, some in pieces.items()},
        partitions={names[number_of[place]]: cut for place, cut in partitions.items()},
        swapped=swapped,
        checks=checks_of(entries, order, swapped),
    )


def checks_of(
    entries: Entries, order: npt.NDArray[np.int64], swapped: bool
) -> dict[int, Callable[[memoryview], str | None]]:
    """How tensors of text are compared with their checksums, by their number in an order."""
    byteorder: Literal["little", "big"] = (
        "little" if (sys.byteorder == "little") != swapped else "big"
    )
    checks: dict[int, Callable[[memoryview], str | None]] = {}
    for number in np.flatnonzero(entries.dtypes[order] == TEXT).tolist():
        place = int(order[number])
        if place not in entries.cuts:
            count, recorded = math.prod(entries.shapes[place]), int(entries.checksums[place])
            checks[number] = functools.partial(what_is_wrong, count, byteorder, recorded)
    return checks


def what_is_wrong(
    count: int, byteorder: Literal["little", "big"], recorded: int, data: memoryview
) -> str | None:
    """What is wrong with a tensor of text: so many lengths, a checksum of them, and the text.

    The checksum is one of all, with the lengths as numbers of four bytes, eight for a large one.
    """
    lengths, at = bytearray(), 0
    try:
        for _ in range(count):
            length, at = varint(data, at)
            lengths += length.to_bytes(4 if length < 2**32 else 8, byteorder)
    except (Damage, OverflowError):
        return "its bytes are not those that were written: there are not as many lengths as texts"
    found = _scopecore.crc32c(data[at:], _scopecore.crc32c(lengths))
    if found == recorded:
        return None
    return (
        f"its bytes are not those that were written: the CRC-32C of its text is {found:08x}, and "
        f"{recorded:08x} was recorded"
    )


def join_slices(entries: Entries) -> tuple[dict[int, list[Piece]], dict[int, tuple[int, ...]]]:
    """The pieces of each variable in slices, and how it was cut, where along one axis."""
    count = entries.num_slices
    left = {key: at for at, key in enumerate(entries.keys[:count])}
    dtypes, files = entries.dtypes[:count].tolist(), entries.files[:count].tolist()
    offsets, nbytes = entries.offsets[:count].tolist(), entries.nbytes[:count].tolist()
    checksums = entries.checksums[:count].tolist()
    numeric = is_numeric(entries.dtypes[:count]).tolist()
    pieces, partitions = {}, {}
    for place, cut in entries.cuts.items():
        key, dtype = SLICE_MARK + entries.keys[place], int(entries.dtypes[place])
        some = []
        for suffix, part in zip(cut.suffixes, cut.parts, strict=True):
            at = left.pop(key + suffix, None)
            if at is None:
                entries.fail(place, f"its slice at {part.offset} is not there, or listed twice")
            if entries.shapes[at] != part.shape or dtypes[at] != dtype:
                entries.fail(
                    place,
                    f"its slice at {part.offset} is {dtype_name(dtypes[at])} of shape "
                    f"{entries.shapes[at]}, and {dtype_name(dtype)} of {part.shape} is expected",
                )
            checksum = checksums[at] if numeric[at] else None
            some.append(Piece(files[at], offsets[at], nbytes[at], part, checksum))
        pieces[place] = some
        if cut.partitions is not None:
            partitions[place] = cut.partitions
    for at in left.values():
        entries.fail(at, "there is a slice of it that the tensor itself does not list")
    return pieces, partitions
