"""Sorted tables: the files of keys and values in which TensorFlow keeps the index of a checkpoint.

A table is a row of blocks.  Those with the entries come first, then one for remarks, which is
empty, then one that says where the others lie, and at the end a footer that says where these two
lie.  In a block a key is written as the number of bytes that it shares with the key before it, and
the rest.  After each block stand a byte that tells how it is packed, and the CRC-32C of both.

There is no byte in a table that does not count: what is not as a writer would have left it is
damage.  So nothing is read twice, and reading takes time and memory as the file has bytes.
"""

from __future__ import annotations

import mmap
import operator
from pathlib import Path

from varscope import _scopecore
from varscope.errors import CheckpointError

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER = 48
TRAILER = 5
PLAIN, SNAPPY = 0, 1
LARGEST = 2**30  # bytes of a file; an index of ten million names takes a third of it
# Keys are longer than their file where they share much.  An entry takes about fifteen bytes, so
# this is for names of a thousand characters.
EXPANSION = 64
SMALL = 1 << 20


class Damage(Exception):
    """What is wrong with some bytes; who reads them knows of which file they are."""


def read(path: Path) -> tuple[list[bytes], list[bytes]]:
    """All keys of a table, in order, and their values.

    Raises
    ------
    CheckpointError : ValueError
        The file is no table, or a damaged one.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size > LARGEST:
            raise CheckpointError.of(path, None, f"it has {size:,} bytes; no index has as many")
        if size == 0:
            raise CheckpointError.of(path, None, "it is empty; a TensorFlow checkpoint is expected")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            try:
                return entries_of(pages)
            except Damage as damage:
                raise CheckpointError.of(path, None, str(damage)) from None


def entries_of(table: mmap.mmap) -> tuple[list[bytes], list[bytes]]:
    """The same of a file's bytes."""
    if table[-len(MAGIC) :] != MAGIC or len(table) < FOOTER:
        raise Damage(foreign(table[:16], len(table)))
    end = len(table) - FOOTER
    remarks, handles = footer(table[end:])
    handle_blocks: list[bytes] = []
    add_entries(block(table, *handles, end), [], handle_blocks, SMALL + EXPANSION * end)
    keys: list[bytes] = []
    values: list[bytes] = []
    room, at = SMALL + EXPANSION * end, 0
    for handle in handle_blocks:
        offset, size = numbers(handle, 2)
        if offset != at:
            raise Damage(
                f"a block is to begin at byte {offset:,}, and the one before ends at {at:,}"
            )
        first = max(len(keys) - 1, 0)
        room = add_entries(block(table, offset, size, end), keys, values, room)
        if any(map(operator.ge, keys[first:], keys[first + 1 :])):
            raise Damage(f"the keys of the block at byte {offset:,} are not in order")
        at = offset + size + TRAILER
    block(table, *remarks, end)
    if remarks[0] != at or handles[0] != sum(remarks, TRAILER) or end != sum(handles, TRAILER):
        raise Damage("its blocks do not fill it")
    return keys, values


def foreign(start: bytes, size: int) -> str:
    """What to say of a file that does not end as a table does."""
    kind = "it is cut off, or something else"
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        kind = "it is an HDF5 file, as Keras writes them"
    elif start.startswith(b"PK\x03\x04"):
        kind = "it is a zip archive, as NumPy, PyTorch and Keras write them"
    elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        kind = "it is a safetensors file"
    elif not start.strip(b"\0"):
        kind = "it begins with zeros: it was never written, or something else"
    return f"it is not the index of a TensorFlow checkpoint, which ends in {MAGIC.hex()}: {kind}"


def footer(data: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where the block of remarks and that of handles lie: offsets and sizes."""
    found, at, longer = [], 0, False
    for _ in range(4):
        start = at
        number, at = varint(data, at)
        found.append(number)
        longer |= at > start + 1 and data[at - 1] == 0  # than it needs to be
    if longer or at > FOOTER - len(MAGIC) or any(data[at : -len(MAGIC)]):
        raise Damage("its footer is damaged")
    return (found[0], found[1]), (found[2], found[3])


def block(table: mmap.mmap, offset: int, size: int, end: int) -> bytes:
    """A block, checked and unpacked."""
    stop = offset + size
    if stop + TRAILER > end:
        raise Damage(f"a block is to end at byte {stop + TRAILER:,}, and the blocks end at {end:,}")
    body = table[offset : stop + 1]
    recorded = int.from_bytes(table[stop + 1 : stop + TRAILER], "little")
    found = masked(_scopecore.crc32c(body))
    if found != recorded:
        raise Damage(
            f"the block at byte {offset:,} is damaged: its checksum is {found:08x}, and "
            f"{recorded:08x} was recorded"
        )
    packing, body = body[-1], body[:-1]
    if packing not in (PLAIN, SNAPPY):
        raise Damage(f"the block at byte {offset:,} is packed in way {packing}, which is not known")
    return body if packing == PLAIN else unpacked(body)


def masked(checksum: int) -> int:
    """A CRC-32C as tables and bundles hold it: turned, and a constant added.

    >>> f"{masked(0xE3069283):08x}"
    'c78ab0e5'
    """
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def add_entries(data: bytes, keys: list[bytes], values: list[bytes], room: int) -> int:
    """Append the entries of a block; what is left of the room for keys, in bytes."""
    stop = len(data) - 4 - 4 * int.from_bytes(data[-4:], "little")  # before the restarts
    if stop < 0:
        raise Damage("a block is shorter than the list at its end")
    at, key = 0, b""
    while at < stop:
        shared, own, size = data[at], data[at + 1], data[at + 2]
        start = at + 3
        if shared | own | size > 127:
            shared, start = varint(data, at)
            own, start = varint(data, start)
            size, start = varint(data, start)
        middle = start + own
        at = middle + size
        if shared > len(key) or at > stop:
            raise Damage("a block has an entry that is longer than it can be")
        key = key[:shared] + data[start:middle]
        room -= len(key)
        if room < 0:
            raise Damage(f"its keys are more than {EXPANSION} times longer than the file")
        keys.append(key)
        values.append(data[middle:at])
    return room


def varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """A number that is written in groups of seven bits, low ones first; and where it ends.

    >>> varint(b"\\x96\\x01", 0)
    (150, 2)
    """
    number = 0
    for shift, byte in zip(range(0, 70, 7), data[at : at + 10], strict=False):
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at + shift // 7 + 1
    raise Damage("it has a number without an end")


def numbers(data: bytes, count: int) -> list[int]:
    """So many varints and nothing else."""
    found, at = [], 0
    for _ in range(count):
        number, at = varint(data, at)
        found.append(number)
    if at != len(data):
        raise Damage("it has a handle that is not two numbers")
    return found


def unpacked(packed: bytes) -> bytes:
    """What was packed by snappy: literal bytes, and copies of what was there before.

    TensorFlow 1.1 packed an index that it merged from several; no other version packs one.  A copy
    is of at most 64 bytes and takes three, so what comes out is bounded by what is there.
    """
    size, at = varint(packed, 0)
    data = bytearray()
    while at < len(packed) and len(data) < size <= LARGEST:
        tag, at = packed[at], at + 1
        length, extra = (tag >> 2) + 1, (0, 1, 2, 4)[tag & 3]
        if tag & 3 == 0:
            extra = max(length - 60, 0)
        number, at = int.from_bytes(packed[at : at + extra], "little"), at + extra
        if tag & 3 == 0:
            length = number + 1 if extra else length
            data += packed[at : at + length]
            at += length
            continue
        if tag & 3 == 1:
            length, number = 4 + (tag >> 2 & 7), (tag >> 5) << 8 | number
        if not 0 < number <= len(data):
            raise Damage("a packed block copies what is not there")
        start = len(data) - number
        repeated = data[start : start + length]
        data += (repeated * (length // number + 1))[:length]
    if at != len(packed) or len(data) != size:
        raise Damage("a packed block does not unpack to its size")
    return bytes(data)
