"""Where values come from that no process has sent: a few bytes, of which any worker makes them."""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from varscope import initializers, randomness
from varscope.checkpoint.dtypes import text_of
from varscope.checkpoint.planning import check_kind
from varscope.checkpoint.plans import PlannedKind, as_line
from varscope.errors import CheckpointError
from varscope.initializers import Initializer
from varscope.shapes import Part
from varscope.storage import is_run
from varscope.variables import Variable


@dataclass(frozen=True, slots=True)
class FirstValues:
    """A part of a variable's first values, which follow from the settings of its initializer."""

    initializer: Initializer
    dtype: np.dtype
    key: int  # of the seed and the path
    part: Part

    @property
    def shape(self) -> tuple[int, ...]:
        return self.part.shape

    @property
    def nbytes(self) -> int:
        return math.prod(self.part.shape) * self.dtype.itemsize

    @property
    def divisible(self) -> bool:
        """Whether a part of it costs no more than that part."""
        return not isinstance(self.initializer, initializers.orthogonal)

    def make(self) -> np.ndarray:
        values = self.initializer.part(self.part, self.dtype, self.key)
        return np.asarray(values, self.dtype, order="C")

    def elements(self, first: int, last: int) -> np.ndarray:
        """Elements number `first` to before `last` of the part, in C order."""
        part = self.part
        distribution = self.initializer.drawn_from(part.full_shape, self.dtype)
        if distribution is not None and is_run(part):
            values = np.empty(last - first, self.dtype)
            randomness.fill(values, distribution, self.key, part.first + first, (1,))
            return values
        if isinstance(self.initializer, initializers.identity) and part.shape == part.full_shape:
            return self.initializer.run(part.shape, self.dtype, first, last)
        return self.make().reshape(-1)[first:last]

    def rows(self, first: int, last: int) -> FirstValues:
        """Of the first axis, those from `first` to before `last`."""
        return replace(self, part=self.part[first:last][0])

    @property
    def task_key(self) -> str:
        """The key of the task that makes these values, and no others; so equal ones are one."""
        facts = {
            "initializer": initializers.described(self.initializer),
            "dtype": text_of(self.dtype),
            "key": self.key,
            "part": [self.part.full_shape, self.part.offset, self.part.shape],
        }
        return f"first-values-{hashlib.blake2b(as_line(facts), digest_size=16).hexdigest()}"

    @classmethod
    def of(cls, variable: Variable) -> FirstValues | None:
        """Those of a variable that is only declared; None where only this process can make them.

        That is so where the initializer is a function or an array.
        """
        spec = variable._spec
        initializer: Any = spec.initializer
        if spec.size < 0 or not isinstance(initializer, Initializer) or not is_plain(initializer):
            return None
        path, part = variable._origin()
        check(initializer, part.full_shape, spec.dtype)
        return cls(initializer, spec.dtype, variable._key(path), part)


@functools.lru_cache(maxsize=1024)
def is_plain(initializer: Initializer) -> bool:
    """Whether an initializer is a name and settings."""
    return initializers.described(initializer) is not None


@functools.lru_cache(maxsize=1024)
def check(initializer: Initializer, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Refuse what no worker could make."""
    check_kind(PlannedKind(shape, dtype, "", initializer))


@dataclass(frozen=True, slots=True)
class Stored:
    """A part of a tensor that lies in a file in one piece."""

    file: str
    offset: int  # of the whole tensor
    name: str
    stored: np.dtype
    dtype: np.dtype
    part: Part

    @property
    def nbytes(self) -> int:
        return math.prod(self.part.shape) * self.dtype.itemsize

    def make(self) -> np.ndarray:
        part, itemsize = self.part, self.stored.itemsize
        if is_run(part):
            count = math.prod(part.shape)
            values = self.read(self.offset + part.first * itemsize, count).reshape(part.shape)
        else:
            # Whole rows, of which it has a part each.
            row = math.prod(part.full_shape[1:])
            start = self.offset + part.offset[0] * row * itemsize
            rows = self.read(start, part.shape[0] * row)
            values = rows.reshape(part.shape[0], *part.full_shape[1:])[:, *part.index[1:]]
        return values.astype(self.dtype, order="C", copy=False)

    def read(self, start: int, count: int) -> np.ndarray:
        """So many elements from a byte of the file on."""
        data = np.empty(count * self.stored.itemsize, np.uint8)
        done = 0
        with open(self.file, "rb", buffering=0) as opened:
            opened.seek(start)
            while done < len(data):
                got = opened.readinto(data[done:].data)
                if not got:
                    raise CheckpointError.of(
                        Path(self.file),
                        self.name,
                        f"the file ends at byte {start + done:,}, before the values do",
                    )
                done += got
        return data.view(self.stored) if count else np.empty(0, self.stored)


def make(source: FirstValues | Stored) -> np.ndarray:
    """The values, on a worker."""
    return source.make()
