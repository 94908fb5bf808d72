"""What the header of one safetensors file says, checked against the file.

A header is JSON: for each tensor its dtype, its shape, and where in the data behind the header its
bytes begin and end.  The usual layout is scanned by the core; anything else, all errors among it,
goes through `json` and is looked at piece by piece.  The judgement is that of the `safetensors`
library, but that keys which come twice are refused, of which it takes the last, and so are
spellings of an entry that only its parser knows (a list in the place of an object).

Nothing of a header is trusted: no memory is taken but in proportion to what is there, text is never
evaluated, and no name becomes a path.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import numpy as np

from varscope import _scopecore
from varscope.errors import CheckpointError

if TYPE_CHECKING:
    import numpy.typing as npt

LARGEST = 100_000_000  # bytes of a header, as in the library
DEEPEST = 127  # objects and lists in one another, as in the library
MOST_ELEMENTS = 1 << 56  # of a tensor: more lie in no file, and the products below cannot overflow

# The format's names of dtypes, NumPy's, and the bits of an element.  Those of less than a byte have
# no dtype in NumPy.
DTYPES = {
    "BOOL": ("bool", 8),
    "F4": ("F4", 4),
    "F6_E2M3": ("F6_E2M3", 6),
    "F6_E3M2": ("F6_E3M2", 6),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "U16": ("uint16", 16),
    "I16": ("int16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "U32": ("uint32", 32),
    "I32": ("int32", 32),
    "F32": ("float32", 32),
    "U64": ("uint64", 64),
    "I64": ("int64", 64),
    "F64": ("float64", 64),
    "C64": ("complex64", 64),
}
SURROGATES = re.compile("[\ud800-\udfff]")
BITS = {name: bits for name, (_, bits) in DTYPES.items()}


@dataclass(slots=True)
class Header:
    """The tensors of a file, in the order of their data; where they begin and end in the file."""

    names: list[str]
    dtypes: list[str]  # as the format calls them
    shapes: list[tuple[int, ...]]
    begins: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]  # elements
    metadata: dict[str, str]


def read(path: Path, pages: mmap.mmap) -> Header:
    """The header of a mapped file.  Whether a name comes twice is left to the caller."""
    length = header_length(path, pages)
    start, text = 8 + length, memoryview(pages)[8 : 8 + length]
    header = scanned(path, text) or parsed(path, bytes(text), len(pages) - start)
    put_in_order(header)
    check_dtypes(path, header)
    check_places(path, header, len(pages) - start)
    header.begins = header.begins + start
    header.ends = header.ends + start
    return header


def header_length(path: Path, pages: mmap.mmap) -> int:
    """How long the header is, which the first eight bytes say."""
    size = len(pages)
    if size < 8:
        no_such_file(path, f"it has {size} bytes, and a safetensors file begins with eight")
    length = int.from_bytes(pages[:8], "little")
    if length > LARGEST:
        reason = f"its header would have {length:,} bytes, and {LARGEST:,} are the most"
        no_such_file(path, f"{reason}: this is no safetensors file")
    if length > size - 8:
        reason = f"its header would have {length:,} bytes, and {size - 8:,} are left in the file"
        no_such_file(path, f"{reason}: it was cut off, or is no safetensors file")
    return length


def no_such_file(path: Path, reason: str) -> Never:
    """Refuse what does not even begin as one; by its name it may be meant as something else."""
    if not path.name.endswith(".safetensors"):
        reason += f"; nor is it a checkpoint of TensorFlow: there is no {path.name}.index"
    wrong(path, None, reason)


# --- the two ways to read it


def scanned(path: Path, text: memoryview) -> Header | None:
    """What a header says that is written as the libraries write it; None of any other."""
    found = _scopecore.scan_header(text)
    if found is None:
        return None
    names, dtypes, shapes, numbers, metadata = found
    begins, ends, sizes = np.frombuffer(numbers, np.int64).reshape(-1, 3).T
    texts = {} if metadata is None else as_texts(path, load(path, metadata))
    return Header(names, dtypes, shapes, begins, ends, sizes, texts)


def parsed(path: Path, text: bytes, room: int) -> Header:
    """The same of any header that is JSON; `room` is the number of bytes behind it."""
    tree = load(path, text)
    if not isinstance(tree, dict):
        wrong(path, None, f"its header is {told(tree)}, not an object: this is no safetensors file")
    texts = as_texts(path, tree.pop("__metadata__", None))
    entries = [Entry.of(path, name, entry, room) for name, entry in tree.items()]
    begins, ends, sizes = (
        np.array([getattr(entry, column) for entry in entries], np.int64)
        for column in ("begin", "end", "size")
    )
    dtypes, shapes = [entry.dtype for entry in entries], [entry.shape for entry in entries]
    return Header(list(tree), dtypes, shapes, begins, ends, sizes, texts)


@dataclass(slots=True)
class Entry:
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    begin: int
    end: int

    @classmethod
    def of(cls, path: Path, name: str, entry: Any, room: int) -> Entry:
        if not is_text(name):
            wrong(path, None, f"the name {name!r:.100} is no text that UTF-8 has")
        if not isinstance(entry, dict):
            wrong(path, name, f"its entry is {told(entry)}, not an object")
        for key in ("dtype", "shape", "data_offsets"):
            if key not in entry:
                wrong(path, name, f"its entry has no {key!r}")
        for key, value in entry.items():
            if not is_text(key) or not is_plain(value, 3):
                wrong(path, name, f"its entry {key!r:.100} is nested too deep, or no text")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str):
            wrong(path, name, f"its dtype is {told(dtype)}, not a string")
        if not are_sizes(shape):
            wrong(path, name, f"its shape is {shape!r:.100}, not a list of numbers from 0 on")
        if not are_sizes(offsets) or len(offsets) != 2:
            wrong(path, name, f"its data_offsets are {offsets!r:.100}, not two numbers from 0 on")
        begin, end = offsets
        if end > room:
            wrong(path, name, beyond(end, room))
        if begin > end:
            wrong(path, name, f"its bytes are said to be those from {begin:,} to {end:,}")
        return cls(dtype, tuple(shape), cls.elements(path, name, shape), begin, end)

    @staticmethod
    def elements(path: Path, name: str, shape: list[int]) -> int:
        size = 1
        for dim in shape:  # in this order: what is too large before a zero comes, is too large
            size *= dim
            if size >= 1 << 64:
                wrong(path, name, f"its shape {shape!r:.100} is of more elements than can be")
        if size > MOST_ELEMENTS:
            wrong(path, name, f"its shape {shape!r:.100} is of more elements than a file has")
        return size


def load(path: Path, text: bytes | str, what: str = "its header") -> Any:
    """JSON as the standard defines it, in which no key comes twice in an object."""
    try:
        decoded = text if isinstance(text, str) else text.decode()
        return json.loads(
            decoded,
            object_pairs_hook=distinct,
            parse_int=as_int,
            parse_float=as_float,
            parse_constant=no_constant,
        )
    except RecursionError:
        wrong(path, None, f"{what} is nested too deep")
    except ValueError as error:  # of json, of the decoder, and those below
        wrong(path, None, f"{what} is no JSON that can be read: {error!s:.300}")


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"{repeated(key for key, _ in pairs)!r:.300} comes twice")
    return found


def repeated(names: Iterable[str]) -> str | None:
    """The first of some names that was there before."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def as_int(text: str) -> int | float:
    # Beyond 64 bits the library takes it for a float; and Python would take its time.
    return int(text) if len(text) <= 20 and text != "-0" else as_float(text)


def as_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text:.40} is out of range")
    return number


def no_constant(text: str) -> Never:
    raise ValueError(f"{text} is no value")


def as_texts(path: Path, value: Any) -> dict[str, str]:
    """The metadata of a file."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        wrong(path, None, f"its __metadata__ is {told(value)}, not an object of strings")
    for key, text in value.items():
        if not is_text(key) or not isinstance(text, str) or not is_text(text):
            wrong(path, None, f"its __metadata__ {key!r:.100} is {told(text)}, not a string")
    return value


def is_text(text: str) -> bool:
    """Whether UTF-8 has it: what JSON writes as half of a pair, it has not."""
    return text.isascii() or not SURROGATES.search(text)


def is_plain(value: Any, depth: int) -> bool:
    """Whether a value is text all through, and no deeper than the library goes."""
    waiting = [(value, depth)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            if not is_text(value):
                return False
        elif isinstance(value, (dict, list)):
            if depth > DEEPEST:
                return False
            waiting += ((each, depth + 1) for each in value)
            if isinstance(value, dict):
                waiting += ((each, depth + 1) for each in value.values())
    return True


def are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 64 for n in value)


# --- what it says, beside the file


def put_in_order(header: Header) -> None:
    """Bring the tensors into the order of their data, as files mostly have them."""
    begins, ends = header.begins, header.ends
    if (begins[1:] >= ends[:-1]).all():
        return
    order = np.lexsort((ends, begins))
    header.begins, header.ends, header.sizes = begins[order], ends[order], header.sizes[order]
    places = order.tolist()
    header.names = [header.names[place] for place in places]
    header.dtypes = [header.dtypes[place] for place in places]
    header.shapes = [header.shapes[place] for place in places]


def check_dtypes(path: Path, header: Header) -> None:
    for dtype in dict.fromkeys(header.dtypes):
        if dtype not in DTYPES:
            name = header.names[header.dtypes.index(dtype)]
            wrong(path, name, f"its dtype {dtype!r:.100} is none that the format has")


def check_places(path: Path, header: Header, room: int) -> None:
    """Every byte behind the header belongs to one tensor, which has as many as its shape takes."""
    names, begins, ends = header.names, header.begins, header.ends
    before = np.concatenate((np.zeros(1, np.int64), ends))
    for place in np.flatnonzero(ends < begins)[:1]:
        reason = f"its bytes are said to be those from {begins[place]:,} to {ends[place]:,}"
        wrong(path, names[place], reason)
    for place in np.flatnonzero(begins != before[:-1])[:1]:
        apart = int(begins[place] - before[place])
        reason = f"its first {-apart:,} bytes are those of another tensor, too"
        if apart > 0:
            reason = f"the {apart:,} bytes before its own belong to no tensor"
        wrong(path, names[place], reason)
    bits = header.sizes * np.fromiter(map(BITS.__getitem__, header.dtypes), np.int64, len(names))
    for place in np.flatnonzero((bits % 8 != 0) | (bits // 8 != ends - begins))[:1]:
        reason = (
            f"{header.dtypes[place]} of shape {header.shapes[place]!r:.100} is "
            f"{bits[place] / 8:,.10g} bytes, and it has {ends[place] - begins[place]:,}"
        )
        wrong(path, names[place], reason)
    for place in np.flatnonzero(ends > room)[:1]:
        wrong(path, names[place], beyond(int(ends[place]), room))
    if before[-1] < room:
        wrong(path, None, f"its last {room - before[-1]:,} bytes belong to no tensor")


# --- words


def beyond(end: int, room: int) -> str:
    return (
        f"its bytes end at {end:,} of the data, and the file has {room:,}: it was cut off, or its "
        "header is damaged"
    )


def told(value: Any) -> str:
    """What came, as JSON calls it."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a bool"}
    return "null" if value is None else kinds.get(type(value), "a number")


def wrong(path: Path, tensor: str | None, reason: str) -> Never:
    raise CheckpointError.of(path, tensor, reason)
