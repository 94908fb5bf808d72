"""The entries of a TensorFlow checkpoint's index: where each tensor lies, and how it is cut.

Under the empty key stands a header, under a tensor's name an entry: dtype, shape, the data file,
offset and size in it, and the checksum.  The entry of a variable that was saved in slices lists
these instead; each has an entry of its own, under a key that is made of the name and the slice.
Headers and entries are protocol buffers.

Half a million entries that are all alike are not taken one by one: each field is read of all of
them at once, and what is not written in the usual way is read again, slowly.
"""

from __future__ import annotations

import bisect
import collections
import itertools
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from varscope.checkpoint.sorted_tables import Damage, varint
from varscope.errors import CheckpointError
from varscope.shapes import Part

if TYPE_CHECKING:
    import numpy.typing as npt

VERSION = 1  # of the format
BIG = 1  # the order of bytes in which the first is worth most
SLICE_MARK = b"\0"  # the keys of slices begin so
LARGEST_RANK = 32  # of a NumPy array, before its version 2
MOST_AXES = 4  # along which a variable is cut; the work doubles with each

# By TensorFlow's number of a dtype, from 0 on: NumPy's or ml_dtypes' name, and bytes an element.
# Quantised ints are ints; each element of less than a byte takes one, as in ml_dtypes.
DTYPES = (
    ("", 0), ("float32", 4), ("float64", 8), ("int32", 4), ("uint8", 1), ("int16", 2), ("int8", 1),
    ("string", 0), ("complex64", 8), ("int64", 8), ("bool", 1), ("int8", 1), ("uint8", 1),
    ("int32", 4), ("bfloat16", 2), ("int16", 2), ("uint16", 2), ("uint16", 2), ("complex128", 16),
    ("float16", 2), ("resource", 0), ("variant", 0), ("uint32", 4), ("uint64", 8),
    ("float8_e5m2", 1), ("float8_e4m3fn", 1), ("float8_e4m3fnuz", 1), ("float8_e4m3b11fnuz", 1),
    ("float8_e5m2fnuz", 1), ("int4", 1), ("uint4", 1), ("int2", 1), ("uint2", 1),
    ("float4_e2m1fn", 1),
)  # fmt: skip
ITEMSIZES = np.array([itemsize for _, itemsize in DTYPES], np.int64)
LARGEST_ITEM = 16
TEXT = 7

FIRST_FORMAT = (
    "it is a checkpoint in TensorFlow's first format, which is not read here; write it anew in "
    "TensorFlow, with a Saver(write_version=tf.train.SaverDef.V2)"
)


def dtype_name(number: int) -> str:
    """The name of TensorFlow's dtype of this number."""
    return DTYPES[number][0] if number < len(DTYPES) else f"DT_{number}"


def is_numeric(dtypes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which dtypes are numbers.  Checksums of others are not of the bytes in the file."""
    return np.append(ITEMSIZES > 0, False)[np.minimum(dtypes, len(DTYPES))]


# --- the header and entries


@dataclass(frozen=True, slots=True)
class Header:
    """How many data files there are, and whether their bytes are in the other order than here."""

    num_files: int
    swapped: bool


def header_of(index: Path, value: bytes) -> Header:
    """The entry of the empty key."""
    num_files, order, oldest = 0, 0, 0
    try:
        for number, content in fields(value):
            if number == 1:
                if isinstance(content, bytes):
                    raise Damage(FIRST_FORMAT)
                num_files = content
            elif number == 2:
                order = as_number(content)
            elif number == 3:
                for inner, version in fields(as_bytes(content)):
                    if inner == 2:
                        oldest = as_number(version)
    except Damage as damage:
        raise CheckpointError.of(index, None, str(damage)) from None
    if oldest > VERSION:
        reason = f"it is for readers of version {oldest} of the format; known is {VERSION}"
        raise CheckpointError.of(index, None, reason)
    if not 0 < num_files < 2**31:
        raise CheckpointError.of(index, None, f"it counts {num_files:,} data files")
    return Header(num_files, (order == BIG) != (sys.byteorder == "big"))


@dataclass(frozen=True, slots=True)
class Cut:
    """How a variable is cut into slices.

    `suffixes` are what its slices have behind its name in their keys, `parts` which parts of it
    they are, `partitions` into how many each axis is cut, None where it is more than one axis.
    """

    suffixes: list[bytes]
    parts: list[Part]
    partitions: tuple[int, ...] | None


@dataclass
class Entries:
    """What the index says, one entry of each a key.

    Variables in slices have a cut, and no data of their own.
    """

    index: Path
    keys: list[bytes]
    shapes: list[tuple[int, ...]]
    dtypes: npt.NDArray[np.int64]
    files: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    nbytes: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]
    cuts: dict[int, Cut]

    @property
    def num_slices(self) -> int:
        """How many of the keys are those of slices; they come first."""
        return bisect.bisect_left(self.keys, b"\1")

    def fail(self, place: int, reason: str, file: Path | None = None) -> NoReturn:
        """Say what is wrong with a tensor."""
        key = self.keys[place]
        if key.startswith(SLICE_MARK):  # in front of the name; behind it comes what it is of it
            key = key[1:].partition(b"\0\1")[0]
        name = key.decode("utf-8", "backslashreplace")
        raise CheckpointError.of(file or self.index, name, reason)


def read_entries(index: Path, keys: list[bytes], values: list[bytes]) -> Entries:
    """All entries of an index but the header."""
    usual = UsualEntries(values)
    entries = Entries(
        index, keys, [], usual.dtype, usual.file, usual.offset, usual.nbytes, usual.checksum, {}
    )
    known: dict[bytes, tuple[int, ...]] = {}
    for place, message in enumerate(usual.shapes):
        shape = known.get(message)
        if shape is None:
            try:
                shape = known[message] = shape_of(message)
            except Damage as damage:
                entries.fail(place, str(damage))
        entries.shapes.append(shape)
    alike: dict[bytes, Entry] = {}  # of most variables in slices there are others like them
    for place in np.flatnonzero(~usual.read).tolist():
        value = values[place]
        try:
            entry = alike.get(value) or alike.setdefault(value, entry_of(value))
        except Damage as damage:
            entries.fail(place, str(damage))
        entries.shapes[place], entries.dtypes[place] = entry.shape, entry.dtype
        entries.files[place], entries.offsets[place] = entry.file, entry.offset
        entries.nbytes[place], entries.checksums[place] = entry.nbytes, entry.checksum
        if entry.cut is not None:
            entries.cuts[place] = entry.cut
    # A checksum is kept turned, and with a number added.
    turned = entries.checksums - np.uint32(0xA282EAD8)
    entries.checksums = turned >> np.uint32(17) | turned << np.uint32(15)
    return entries


class UsualEntries:
    """The fields of many entries that are written as TensorFlow's writers do, in order.

    A field that is not there is zero, as protocol buffers have it.  `read` tells of which entries
    nothing is left over; of the others, what stands here means nothing.  `shapes` are still bytes.
    """

    def __init__(self, values: list[bytes]) -> None:
        padded = b"".join([*values, bytes(64)])  # reading beyond the end finds no field
        self._data = np.frombuffer(padded, np.uint8)
        self._lost = len(padded) - 63  # where no entry ends
        sizes = np.fromiter(map(len, values), np.int64, len(values))
        ends = np.cumsum(sizes)
        self._at = ends - sizes
        self.dtype = self._number(b"\x08")
        length = self._number(b"\x12")
        begin, self._at = (
            self._at,
            np.minimum(self._at + np.minimum(length, self._lost), self._lost),
        )
        end = self._at
        self.file = self._number(b"\x18")
        self.offset = self._number(b"\x20")
        self.nbytes = self._number(b"\x28")
        self.checksum = self._fixed(b"\x35")
        self.read = self._at == ends
        pairs = zip(begin.tolist(), np.where(self.read, end, begin).tolist(), strict=True)
        self.shapes = [padded[start:stop] for start, stop in pairs]

    def _number(self, tag: bytes) -> npt.NDArray[np.int64]:
        """A field that is a varint."""
        numbers = np.zeros(len(self._at), np.int64)
        places = np.flatnonzero(self._data[self._at] == tag[0])
        at = self._at.copy()
        at[places] += 1
        for shift in range(0, 63, 7):  # what is longer is negative, or damaged
            byte = self._data[at[places]].astype(np.int64)
            numbers[places] |= (byte & 127) << shift
            at[places] += 1
            places = places[byte > 127]
            if not places.size:
                break
        at[places] = self._lost
        self._at = np.minimum(at, self._lost)
        return numbers

    def _fixed(self, tag: bytes) -> npt.NDArray[np.uint32]:
        """A field that is four bytes."""
        numbers = np.zeros(len(self._at), np.uint32)
        places = np.flatnonzero(self._data[self._at] == tag[0])
        at = self._at[places][:, None] + np.arange(1, 5)
        numbers[places] = np.ascontiguousarray(self._data[at]).view("<u4")[:, 0]
        self._at = self._at.copy()
        self._at[places] += 5
        return numbers


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry."""

    shape: tuple[int, ...]
    dtype: int
    file: int
    offset: int
    nbytes: int
    checksum: int
    cut: Cut | None


def entry_of(value: bytes) -> Entry:
    """One entry, its fields in any order, and unknown ones among them."""
    numbers = dict.fromkeys((1, 3, 4, 5, 6), 0)
    shapes, slices = [], []
    for number, content in fields(value):
        if number in numbers:
            numbers[number] = as_number(content)
        elif number == 2:
            shapes.append(as_bytes(content))
        elif number == 7:
            slices.append(extents_of(as_bytes(content)))
    if not all(0 <= number < 2**63 for number in numbers.values()):
        raise Damage("its entry has a number that is negative, or too large")
    shape = shape_of(b"".join(shapes))  # which is how several are one
    cut = cut_of(shape, slices) if slices else None
    dtype, file, offset, nbytes, checksum = numbers.values()
    return Entry(shape, dtype, file, offset, nbytes, checksum & 0xFFFFFFFF, cut)


# --- protocol buffers


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: number, and a signed integer or bytes."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == 0:
            number, at = varint(message, at)
            number &= 2**64 - 1
            yield tag >> 3, number - (number >> 63 << 64)
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, at = varint(message, at)
        if size is None:
            raise Damage(f"its entry has a field of kind {kind}, which there is not")
        content, at = message[at : at + size], at + size
        if at > len(message):
            raise Damage("its entry is cut off")
        yield tag >> 3, content if kind == 2 else int.from_bytes(content, "little")


def as_number(content: int | bytes) -> int:
    if isinstance(content, bytes):
        raise Damage("its entry has bytes where a number is expected")
    return content


def as_bytes(content: int | bytes) -> bytes:
    if isinstance(content, int):
        raise Damage("its entry has a number where bytes are expected")
    return content


def shape_of(message: bytes) -> tuple[int, ...]:
    """A shape, whose size in bytes can be counted."""
    dims = []
    for number, content in fields(message):
        if number == 2:
            # A dimension may have a name too, which nobody gives.
            inner = dict(fields(as_bytes(content)))
            dims.append(as_number(inner.get(1, 0)))
        elif number == 3 and content:
            raise Damage("its shape is not known")
    if len(dims) > LARGEST_RANK:
        raise Damage(f"it has {len(dims)} dimensions; NumPy takes {LARGEST_RANK}")
    if min(dims, default=0) < 0:
        raise Damage(f"its shape {dims} has a negative dimension")
    # As NumPy counts: a zero elsewhere does not help.
    if math.prod(max(dim, 1) for dim in dims) * LARGEST_ITEM >= 2**63:
        raise Damage(f"its shape {dims} is of more bytes than can be addressed")
    return tuple(dims)


# --- slices

Extents = tuple[tuple[int, int], ...]  # the start and the size of each axis, -1 for all of it


def extents_of(message: bytes) -> Extents:
    """A slice."""
    extents = []
    for number, content in fields(message):
        if number == 1:
            inner = dict(fields(as_bytes(content)))
            extents.append((as_number(inner.get(1, 0)), as_number(inner.get(2, -1))))
    return tuple(extents)


def slice_key(name: bytes, extents: Extents) -> bytes:
    """The key of a slice of a tensor: keys sort as the names and numbers that are in them."""
    return SLICE_MARK + name + key_suffix(extents)


def key_suffix(extents: Extents) -> bytes:
    """What follows the name: its end, the number of axes, and what is in the slice."""
    rank = len(extents)
    size = (rank.bit_length() + 7) // 8
    numbers = b"".join(map(ordered, itertools.chain.from_iterable(extents)))
    return b"\0\1" + bytes([size]) + rank.to_bytes(size, "big") + numbers


def ordered(number: int) -> bytes:
    """A signed integer so that the bytes of a larger one sort behind those of a smaller one.

    The first bit tells the sign.  As many as follow of its kind, so many bytes follow the first.

    >>> ordered(5).hex(), ordered(-1).hex(), ordered(0x424242).hex()
    ('85', '7f', 'f0424242')
    """
    positive = number if number >= 0 else ~number
    size = positive.bit_length() // 7 + 1
    code = positive + (((1 << size) - 1) << (7 * size))
    return (code if number >= 0 else code ^ ((1 << 8 * size) - 1)).to_bytes(size, "big")


def cut_of(full: tuple[int, ...], slices: list[Extents]) -> Cut:
    """What slices make of a variable of some shape: the whole, each element once."""
    parts = [part_of(full, extents) for extents in slices]
    axes = [axis for axis, dim in enumerate(full) if any(part.shape[axis] != dim for part in parts)]
    if len(axes) > MOST_AXES:
        raise Damage(f"it is cut along {len(axes)} axes; up to {MOST_AXES} are read")
    if not fill(full, parts, axes):
        raise Damage(f"its {len(parts)} slices overlap, or leave something out")
    order = sorted(range(len(parts)), key=lambda number: parts[number].offset)
    partitions = None
    if len(axes) <= 1:
        partitions = tuple(len(parts) if [axis] == axes else 1 for axis in range(len(full)))
    return Cut(
        [key_suffix(slices[number]) for number in order],
        [parts[number] for number in order],
        partitions,
    )


def part_of(full: tuple[int, ...], extents: Extents) -> Part:
    """Which part of a variable a slice is."""
    offset, shape = [], []
    for (start, size), dim in zip(extents, full, strict=False):
        size = dim if (start, size) == (0, -1) else size
        if start < 0 or size < 0 or start + size > dim:
            raise Damage(f"its slice {extents!r:.200} is not inside shape {full}")
        offset.append(start)
        shape.append(size)
    if len(extents) != len(full):
        raise Damage(f"its slice {extents!r:.200} is not one of shape {full}")
    return Part.within(full, tuple(offset), tuple(shape))


def fill(full: tuple[int, ...], parts: list[Part], axes: list[int]) -> bool:
    """Whether blocks that are cut along some axes make up the whole, each element once.

    Count the corners of each block, where it begins as 1 and where it ends as -1, an axis, and
    their products.  What is beside each other cancels out there; just when what remains are the
    corners of the whole, the blocks fill it.
    """
    corners: collections.Counter[tuple[int, ...]] = collections.Counter()
    for block, sign in [(Part.of_whole(full), -1), *((part, 1) for part in parts)]:
        ends = [(block.offset[axis], block.offset[axis] + block.shape[axis]) for axis in axes]
        for sides in itertools.product((0, 1), repeat=len(axes)):
            corner = tuple(pair[side] for pair, side in zip(ends, sides, strict=True))
            corners[corner] += sign * (-1) ** sum(sides)
    return not any(corners.values())
