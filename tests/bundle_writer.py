"""A writer of tensor bundles, for tests of their reader: right ones, and wrong ones by hand."""

import struct
from pathlib import Path

import numpy as np

from varscope import _scopecore
from varscope.checkpoint.bundle_entries import DTYPES, slice_key
from varscope.checkpoint.sorted_tables import MAGIC, masked

NUMBERS = {name: number for number, (name, _) in reversed(list(enumerate(DTYPES)))}


def varint(number):
    """A number, in groups of seven bits; a negative one as if it had 64 bits."""
    number &= 2**64 - 1
    groups = []
    while number > 127:
        groups.append(number & 127 | 128)
        number >>= 7
    return bytes([*groups, number])


def field(number, content):
    """A field of a message: an int, or bytes."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def optional(number, content):
    """The same; a zero is not written, as by TensorFlow."""
    return field(number, content) if content else b""


def header(files=1, order=0, oldest=0, extra=b""):
    version = field(3, field(1, 1) + optional(2, oldest))
    return optional(1, files) + optional(2, order) + version + extra


def shape_message(shape):
    return b"".join(field(2, optional(1, dim)) for dim in shape)


def slice_message(extents):
    return b"".join(
        field(1, optional(1, start) + (field(2, size) if size >= 0 else b""))
        for start, size in extents
    )


def entry(dtype, shape, file=0, offset=0, nbytes=0, checksum=0, slices=()):
    """An entry, `checksum` as it is before it is masked."""
    number = NUMBERS.get(dtype, dtype)
    return b"".join(
        [optional(1, number), field(2, shape_message(shape)), optional(3, file),
         optional(4, offset), optional(5, nbytes), b"\x35" + struct.pack("<I", masked(checksum)),
         *(field(7, slice_message(extents)) for extents in slices)]
    )  # fmt: skip


def block(entries, every=16):
    """The bytes of a block, with a key in full once in so many."""
    data, restarts, before = bytearray(), [], b""
    for count, (key, value) in enumerate(entries):
        shared = 0
        if count % every == 0:
            restarts.append(len(data))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        data += varint(shared) + varint(len(key) - shared) + varint(len(value))
        data += key[shared:] + value
        before = key
    restarts = restarts or [0]
    return bytes(data) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def trailer(body, packing=0):
    tail = bytes([packing])
    return tail + struct.pack("<I", masked(_scopecore.crc32c(body + tail)))


def table(blocks, pack=None):
    """A table of some blocks, each a list of (key, value) or bytes; `pack` compresses them."""
    data, handles = bytearray(), []

    def add(body):
        if not isinstance(body, bytes):
            body = block(body)
        packing = 0
        if pack is not None:
            body, packing = pack(body), 1
        handle = varint(len(data)) + varint(len(body))
        data.extend(body + trailer(body, packing))
        return handle

    for body in blocks:
        last = b"" if isinstance(body, bytes) else body[-1][0]
        handles.append((last, add(body)))
    foot = add([]) + add(handles)
    return bytes(data) + foot.ljust(40, b"\0") + MAGIC


def pack(data):
    """What snappy could make of some bytes: literals, and copies of eight bytes seen before."""
    packed, seen, at, literal = bytearray(varint(len(data))), {}, 0, bytearray()

    def flush():
        for start in range(0, len(literal), 300):
            some = literal[start : start + 300]
            size = len(some) - 1
            packed.extend([size << 2] if size < 60 else [60 << 2, size] if size < 256 else
                          [61 << 2, size & 255, size >> 8])  # fmt: skip
            packed.extend(some)
        literal.clear()

    while at < len(data):
        before = seen.get(data[at : at + 8])
        seen[data[at : at + 8]] = at
        if before is None or at + 8 > len(data):
            literal.append(data[at])
            at += 1
            continue
        flush()
        distance = at - before
        if distance < 2048:
            packed.extend([1 | 4 << 2 | distance >> 8 << 5, distance & 255])
        elif distance < 65536:
            packed.extend([2 | 7 << 2, *distance.to_bytes(2, "little")])
        else:
            packed.extend([3 | 7 << 2, *distance.to_bytes(4, "little")])
        at += 8
    flush()
    return bytes(packed)


class Bundle:
    """A checkpoint in the making: tensors are added, then it is written.

    `swapped` writes numbers as a machine does on which their first byte is worth most.
    """

    def __init__(self, files=1, swapped=False):
        self.data = [bytearray() for _ in range(files)]
        self.entries = {}
        self.swapped = swapped

    def add(self, name, array, file=0, key=None):
        array = np.asarray(array)
        data = (array.byteswap() if self.swapped else array).tobytes()
        self.entries[name.encode() if key is None else key] = entry(
            array.dtype.name, array.shape, file, len(self.data[file]), len(data),
            _scopecore.crc32c(data),
        )  # fmt: skip
        self.data[file] += data

    def add_slices(self, name, array, slices):
        """A variable in slices: pairs of extents (start and size, an axis) and a file."""
        for extents, file in slices:
            index = tuple(
                slice(None) if size < 0 else slice(start, start + size) for start, size in extents
            )
            self.add(name, array[index], file, slice_key(name.encode(), extents))
        self.entries[name.encode()] = entry(
            array.dtype.name, array.shape, slices=[extents for extents, _ in slices]
        )

    def index(self, per_block=1000, pack=None, **settings):
        order = int(self.swapped)
        settings = {"files": len(self.data), "order": order, **settings}
        rows = [(b"", header(**settings)), *sorted(self.entries.items())]
        blocks = [rows[start : start + per_block] for start in range(0, len(rows), per_block)]
        return table(blocks, pack)

    def write(self, prefix, **settings):
        prefix.with_name(f"{prefix.name}.index").write_bytes(self.index(**settings))
        for number, data in enumerate(self.data):
            name = f"{prefix.name}.data-{number:05}-of-{len(self.data):05}"
            prefix.with_name(name).write_bytes(data)
        return prefix


def small():
    """A bundle with what there is: two blocks, two files, slices, an empty one."""
    bundle = Bundle(2)
    bundle.add_slices("a/cut", np.arange(6.0), [(((0, 4),), 0), (((4, 2),), 1)])
    bundle.add("a/none", np.zeros((0, 3), np.int32))
    bundle.add("b", np.arange(5, dtype=np.int16), 1)
    return bundle


def with_index(prefix, content, data=bytes(64)):
    Path(f"{prefix}.index").write_bytes(content)
    Path(f"{prefix}.data-00000-of-00001").write_bytes(data)
    return prefix


def rows(*entries, head=None):
    """A table of entries, in order."""
    named = [(name.encode(), value) for name, value in entries]
    return table([[(b"", header() if head is None else head), *named]])


GOOD = entry("uint8", (4,), nbytes=4)
