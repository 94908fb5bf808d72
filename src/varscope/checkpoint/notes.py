"""What varscope notes of the tensors of a file in its metadata, beside what the format has.

The value of "varscope" in a safetensors file's metadata is a JSON object:

    {"version": 1, "header": "77e0c9d4", "crc32c": "0f3a91c2...", "partitions": {name: [2, 1]},
     "dtypes": {name: ">f4"}}

the CRC-32C of all of the header that follows it; eight hex digits of one for each tensor, in the
order of the data; how a variable was cut; and dtypes that the format lacks.  A tensor of such a one
is stored as U8 with one more dimension, the bytes of an element.

Another program may write these notes into a header that begins otherwise: that one has no checksum.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from varscope import _scopecore
from varscope.checkpoint.contents import BLOCK, MappedFile, readable_dtype
from varscope.checkpoint.safetensors_headers import Header, load, told, wrong
from varscope.errors import CheckpointError

if TYPE_CHECKING:
    import numpy.typing as npt

KEY = "varscope"
VERSION = 1
WHAT = "its metadata 'varscope'"
# How the header of a file of ours begins, up to its own checksum.
START = b'{"__metadata__":{"format":"pt","varscope":"{\\"version\\":1,\\"header\\":\\"'
DIGITS = 8
FEW = 4  # bytes: a start that differs from ours in no more was ours


@dataclass(slots=True)
class Notes:
    """The notes of one file, which fit its tensors."""

    checksums: npt.NDArray[np.uint32] | None = None  # by place
    partitions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: dict[int, str] = field(default_factory=dict)  # by place; a dimension is to go


def read(path: Path, header: Header) -> Notes:
    """The notes of a file; none where another program wrote it."""
    if KEY not in header.metadata:
        return Notes()
    tree = load(path, header.metadata[KEY], WHAT)
    if not isinstance(tree, dict):
        wrong(path, None, f"{WHAT} is {told(tree)}, not an object")
    version = tree.get("version")
    if type(version) is not int or version != VERSION:
        reason = f"{WHAT} is of version {version!r:.100}, and this varscope reads {VERSION}"
        wrong(path, None, f"{reason}: a newer one is needed, or the file is damaged")
    cuts, dtypes = (of_names(path, tree, key) for key in ("partitions", "dtypes"))
    notes = Notes(checksums_of(path, header, tree.get("crc32c")))
    if cuts or dtypes:
        places = dict(zip(header.names, range(len(header.names)), strict=True))
        for name, text in dtypes.items():
            place = place_of(path, places, name, "a dtype")
            check_dtype(path, header, place, text)
            notes.dtypes[place] = text
        for name, cut in cuts.items():
            place = place_of(path, places, name, "partitions")
            rank = len(header.shapes[place]) - (place in notes.dtypes)
            notes.partitions[name] = checked_cut(path, name, cut, rank)
    return notes


def check_header(file: MappedFile) -> None:
    """Compare a header with the checksum in it, where varscope wrote it.

    Most damage is none that a header can have.  But a bit of a name that flips makes another name,
    or one of ">f4" another dtype.
    """
    first = bytearray(8 + len(START) + DIGITS)
    if len(file.pages) < len(first):
        return
    file.read(0, memoryview(first), None)
    end = 8 + int.from_bytes(first[:8], "little")
    start, recorded = bytes(first[8:-DIGITS]), bytes(first[-DIGITS:])
    if end < len(first) or sum(map(operator.ne, start, START)) > FEW:
        return
    found = 0
    for begin in range(len(first), end, BLOCK):
        data = memoryview(bytearray(min(end - begin, BLOCK)))
        file.read(begin, data, None)
        found = _scopecore.crc32c(data, found)
    reason = "its header is not the one that was written:"
    if start != START:
        wrong(file.path, None, f"{reason} it begins with {start!r}")
    if recorded != as_digits(found):
        told_sum = recorded.decode("ascii", "backslashreplace")
        reason += f" its CRC-32C is {found:08x}, and {told_sum} was recorded"
        wrong(file.path, None, reason)


def as_digits(checksum: int) -> bytes:
    return b"%0*x" % (DIGITS, checksum)


def of_names(path: Path, tree: dict[str, Any], key: str) -> dict[str, Any]:
    found = tree.get(key, {})
    if not isinstance(found, dict):
        wrong(path, None, f"{WHAT} has {told(found)} as {key!r}, not an object")
    return found


def place_of(path: Path, places: dict[str, int], name: str, what: str) -> int:
    if name not in places:
        wrong(path, name, f"{WHAT} has {what} for it, and the file has no such tensor")
    return places[name]


def checksums_of(path: Path, header: Header, digits: Any) -> npt.NDArray[np.uint32] | None:
    if digits is None:
        return None
    count = len(header.names)
    if (
        not isinstance(digits, str)
        or len(digits) != 8 * count
        or re.fullmatch("[0-9a-fA-F]*", digits) is None
    ):
        reason = f"{WHAT} has a 'crc32c' that is not of eight hex digits for each of {count:,}"
        wrong(path, None, f"{reason} tensors")
    return np.frombuffer(bytes.fromhex(digits), ">u4").astype(np.uint32)


def check_dtype(path: Path, header: Header, place: int, text: Any) -> None:
    """A tensor of bytes that are elements of another dtype, which may be one not known here."""
    name, shape = header.names[place], header.shapes[place]
    if not isinstance(text, str):
        wrong(path, name, f"{WHAT} has {told(text)} as its dtype, not a string")
    if header.dtypes[place] != "U8" or not shape:
        reason = f"{WHAT} says that it is {text!r:.100}, and it is not stored as bytes of elements"
        wrong(path, name, reason)
    try:
        itemsize = readable_dtype(text, path, name).itemsize
    except CheckpointError:
        return  # it can be listed, and reading it says why it cannot be read
    if itemsize != shape[-1]:
        reason = f"an element has {shape[-1]:,} bytes, and {text!r:.100} has {itemsize}"
        wrong(path, name, reason)


def checked_cut(path: Path, name: str, cut: Any, rank: int) -> tuple[int, ...]:
    if not isinstance(cut, list) or len(cut) != rank or not all(is_count(n) for n in cut):
        reason = f"{WHAT} has the partitions {cut!r:.100} for it, not {rank} numbers from 1 on"
        wrong(path, name, reason)
    return tuple(cut)


def is_count(n: Any) -> bool:
    return type(n) is int and 1 <= n < 1 << 63
