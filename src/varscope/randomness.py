"""Random values as a function of (graph seed, variable path, element index), and nothing else."""

from __future__ import annotations

import hashlib
import os

import numpy as np


def draw_seed() -> int:
    """A seed of 64 bits from the system."""
    return int.from_bytes(os.urandom(8), "little")


def path_key(seed: int, path: str, initializer_seed: int | None = None) -> int:
    """The 128-bit key of a variable's random values.

    BLAKE2b over the seeds and the path's components, each behind its length, so that `1/11` and
    `11/1` differ; 32-bit keys would meet at half a million names.

    >>> path_key(1, "1/11") == path_key(1, "11/1")
    False
    """
    digest = hashlib.blake2b(digest_size=16, person=b"varscope")
    for text in (
        str(seed),
        "" if initializer_seed is None else str(initializer_seed),
        *path.split("/"),
    ):
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return int.from_bytes(digest.digest(), "little")


def uniform(key: int, size: int) -> np.ndarray:
    """`size` float64 numbers in [0, 1): element i is the upper 53 bits of Philox's word i.

    The generator is counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    2011), and each element takes one word.
    """
    words = np.random.Philox(key=key).random_raw(size)
    return (words >> np.uint64(11)) * 2.0**-53
