"""The header of a safetensors file as we write it, with our notes and checksums.

The safetensors library writes one too, around the values that it is given.  Files whose values are
written by many at once have this one, which is the same to the last byte.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from varscope._scopecore import crc32c
from varscope.checkpoint.notes import DIGITS, START, as_digits

if TYPE_CHECKING:
    import numpy.typing as npt

ALIGNED = 8  # bytes: of so many a header has a multiple, by spaces behind it
POWERS = 10 ** np.arange(1, 19, dtype=np.int64)
as_json = json.encoder.encode_basestring_ascii  # of names, which are ASCII


def metadata(facts: dict[str, Any], count: int, sums: bytes | None = None) -> dict[str, str]:
    """The metadata of a file of so many tensors, with their checksums or as long without."""
    digits = "0" * DIGITS * count
    if sums is not None:
        digits = np.frombuffer(sums, np.uint32).astype(">u4").tobytes().hex()
    ours = {"version": 1, "header": "0" * DIGITS, "crc32c": digits, **facts}
    return {"format": "pt", "varscope": json.dumps(ours, separators=(",", ":"))}


def header_start(metadata: dict[str, str]) -> bytes:
    """How the header of a file with this metadata begins."""
    return b'{"__metadata__":' + json.dumps(metadata, separators=(",", ":")).encode()


def with_checksum(start: bytes, rest: bytes) -> bytes:
    """The start of a header with the checksum of all that comes behind that."""
    noted = len(START) + DIGITS
    found = crc32c(rest, crc32c(start[noted:]))
    return START + as_digits(found) + start[noted:]


def is_intact(header: bytes) -> bool:
    """Whether a header of ours has the checksum of what it holds."""
    noted = len(START) + DIGITS
    return header[:noted] == START + as_digits(crc32c(header[noted:]))


class Entries:
    """What a header says of the tensors of a file, in the order of their data.

    `kinds` are places in `forms`, of each of which a header tells (dtype, shape).
    """

    def __init__(
        self,
        names: list[str],
        kinds: npt.NDArray[np.intp],
        forms: Sequence[tuple[str, tuple[int, ...]]],
        ends: npt.NDArray[np.int64],
        facts: dict[str, Any],
    ) -> None:
        self.names, self.kinds, self.ends, self.facts = names, kinds, ends, facts
        self.begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]
        self.middles = [
            f':{{"dtype":"{dtype}","shape":{json.dumps(shape, separators=(",", ":"))},'
            f'"data_offsets":['
            for dtype, shape in forms
        ]

    def length(self) -> int:
        """How many bytes the header has, without making it."""
        lengths = np.array([len(middle) for middle in self.middles], np.int64)[self.kinds]
        digits = sum(
            int((np.searchsorted(POWERS, each, "right") + 1).sum())
            for each in (self.begins, self.ends)
        )
        names = len(json.dumps(self.names, separators=(",", ":"))) - len(self.names) - 1
        #   a comma before each, one between its numbers, and "]}"
        found = int(lengths.sum()) + digits + names + 4 * len(self.names)
        found += len(header_start(metadata(self.facts, len(self.names)))) + 1
        return -(-found // ALIGNED) * ALIGNED

    def header(self, sums: bytes) -> bytes:
        """The header with the checksums of the tensors, which are a uint32 each."""
        middles = map(self.middles.__getitem__, self.kinds.tolist())
        rows = zip(
            map(as_json, self.names), middles, self.begins.tolist(), self.ends.tolist(), strict=True
        )
        text = "".join([f",{name}{middle}{a},{b}]}}" for name, middle, a, b in rows]) + "}"
        start = header_start(metadata(self.facts, len(self.names), sums))
        rest = text.encode()
        rest += b" " * (-(len(start) + len(rest)) % ALIGNED)
        return with_checksum(start, rest) + rest
