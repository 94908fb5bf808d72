"""Random values as a function of (graph seed, variable path, element index), and nothing else.

A variable has a key, a key has a stream of words, and element i of the variable is computed from
a fixed place in that stream.  So any part of a variable can be computed alone, in any order.
"""

from __future__ import annotations

import importlib
import math
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from varscope import _scopecore, shapes
from varscope.errors import InitializerError
from varscope.flyweights import Settings

if TYPE_CHECKING:
    from fractions import Fraction


def draw_seed() -> int:
    """A seed of 64 bits from the system."""
    return int.from_bytes(os.urandom(8), "little")


def path_message(seed: int, path: str, initializer_seed: int | None = None) -> bytes:
    """What a key is the digest of: the seeds and the path's components, each behind its length.

    So `1/11` and `11/1` differ.
    """
    texts = (
        str(seed),
        "" if initializer_seed is None else str(initializer_seed),
        *path.split("/"),
    )
    message = bytearray()
    for text in texts:
        data = text.encode()
        message += len(data).to_bytes(8, "little") + data
    return bytes(message)


def path_key(seed: int, path: str, initializer_seed: int | None = None) -> int:
    """The 128-bit key of a variable's random values.

    BLAKE2b (RFC 7693) of `path_message`; 32-bit keys would meet at half a million names.

    >>> path_key(1, "1/11") == path_key(1, "11/1")
    False
    """
    import hashlib  # takes a while, and the core has a BLAKE2b of its own

    message = path_message(seed, path, initializer_seed)
    digest = hashlib.blake2b(message, digest_size=16, person=b"varscope")
    return int.from_bytes(digest.digest(), "little")


def loose_key(seed: int | None) -> int:
    """The key of values that belong to no variable: new ones where there is no seed."""
    return path_key(draw_seed() if seed is None else seed, "")


def words(key: int, start: int, count: int) -> np.ndarray:
    """The words number start to start + count - 1 of a key, as uint64.

    The generator is counter-based (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
    2011): Philox4x64-10, and the words are those of NumPy.

    >>> import numpy as np
    >>> np.array_equal(words(7, 0, 9), np.random.Philox(key=7).random_raw(9))
    True
    """
    out = np.empty(count, np.uint64)
    _scopecore.words(key, start, out)
    return out


# --- distributions


@dataclass(repr=False, eq=False)
class Constant(Settings):
    """Every element the same."""

    value: Any


@dataclass(repr=False, eq=False)
class Uniform(Settings):
    """All between low and high, low included and high excluded, alike."""

    low: float
    high: float


@dataclass(repr=False, eq=False)
class Normal(Settings):
    """The normal distribution."""

    mean: float
    stddev: float


@dataclass(repr=False, eq=False)
class TruncatedNormal(Settings):
    """The normal distribution under the condition of being within two stddev of the mean."""

    mean: float
    stddev: float


Distribution = Constant | Uniform | Normal | TruncatedNormal
Law = tuple[int, int, int, float, float, float, float, int, int, bytes]

# As in kernels.h.
CONSTANT, UNIFORM, NORMAL, TRUNCATED, INTEGERS = range(5)
FLOAT16, BFLOAT16, FLOAT32, FLOAT64, BITS = range(5)
ITEMSIZES = (2, 2, 4, 8)
FLOATS = {"float16": FLOAT16, "bfloat16": BFLOAT16, "float32": FLOAT32, "float64": FLOAT64}


def law(distribution: Distribution, dtype: np.dtype) -> Law | None:
    """What compiled code is told of a distribution; None where it cannot and `fill` must do it.

    (kind, type, itemsize, a, b, bottom, top, low, range, pattern): the fields of varscope_law in
    kernels.h.
    """
    if isinstance(distribution, Constant):
        return constant_law(distribution, dtype)
    if not shapes.is_floating(dtype):
        facts = integer_law(distribution, dtype)
        return facts if dtype.isnative else None
    computed_as = compiled_float(dtype)
    return None if computed_as is None else float_law(distribution, dtype, computed_as)


def constant_law(distribution: Constant, dtype: np.dtype) -> Law | None:
    pattern = np.full((), distribution.value, dtype).tobytes()
    if len(pattern) > 16:
        return None
    return CONSTANT, BITS, dtype.itemsize, 0.0, 0.0, 0.0, 0.0, 0, 0, pattern


@lru_cache(maxsize=64)
def compiled_float(dtype: np.dtype) -> int | None:
    """The type of kernels.h that a dtype is, None where it is none."""
    return FLOATS.get(dtype.name) if dtype.isnative else None


@lru_cache(maxsize=256)  # models repeat a few
def float_law(distribution: Distribution, dtype: np.dtype, computed_as: int) -> Law:
    """The law of a real distribution; its values may be converted to `dtype` afterwards."""
    size = ITEMSIZES[computed_as]
    if isinstance(distribution, Uniform):
        low, high = float(distribution.low), float(distribution.high)
        if not (low <= high and math.isfinite(high - low)):
            raise InitializerError.stating(
                f"uniform from {low} to {high}: low must not be above high, and high - low finite; "
                "write minval and maxval so",
                low=low,
                high=high,
            )
        bottom, top = at_least(low, dtype), below(high, dtype)
        if bottom > top:
            bottom = top = nearest(low, dtype)
        return UNIFORM, computed_as, size, low, high - low, bottom, top, 0, 0, b""
    mean, stddev = float(distribution.mean), float(distribution.stddev)  # type: ignore[union-attr]
    if isinstance(distribution, Normal):
        return NORMAL, computed_as, size, mean, stddev, -math.inf, math.inf, 0, 0, b""
    from fractions import Fraction

    # Without rounding: that of mean - 2 * stddev may lie further away.
    cut = 2 * Fraction(stddev)
    bottom, top = at_least(Fraction(mean) - cut, dtype), at_most(Fraction(mean) + cut, dtype)
    if bottom > top:
        bottom = top = nearest(mean, dtype)
    return TRUNCATED, computed_as, size, mean, stddev, bottom, top, 0, 0, b""


def nearest(x: float | Fraction, dtype: np.dtype) -> float:
    """The finite value of a dtype next to x."""
    least, most = finite_range(dtype)
    return float(dtype.type(float(min(max(x, least), most))))


def neighbour(x: float, towards: float, dtype: np.dtype) -> float:
    return float(np.nextafter(dtype.type(x), dtype.type(towards)))


def at_least(low: float | Fraction, dtype: np.dtype) -> float:
    """The smallest finite value that is not below low, or else the largest.

    >>> import numpy as np
    >>> at_least(0.1, np.dtype("float16")), below(0.1, np.dtype("float16"))
    (0.10003662109375, 0.0999755859375)
    """
    value = nearest(low, dtype)
    return value if value >= low else neighbour(value, finite_range(dtype)[1], dtype)


def at_most(high: float | Fraction, dtype: np.dtype) -> float:
    """The largest finite value that is not above high, or else the smallest."""
    value = nearest(high, dtype)
    return value if value <= high else neighbour(value, finite_range(dtype)[0], dtype)


def below(high: float, dtype: np.dtype) -> float:
    """The largest finite value below high, or else the smallest."""
    value = nearest(high, dtype)
    return value if value < high else neighbour(value, finite_range(dtype)[0], dtype)


def finite_range(dtype: np.dtype) -> tuple[float, float]:
    source: Any = np if dtype.type.__module__ == "numpy" else importlib.import_module("ml_dtypes")
    info = source.finfo(dtype)
    return float(info.min), float(info.max)


def integer_law(distribution: Distribution, dtype: np.dtype) -> Law:
    if not isinstance(distribution, Uniform) or dtype.kind not in "iu":
        raise no_such(distribution, dtype)
    info = np.iinfo(dtype)
    try:
        low, high = operator.index(distribution.low), operator.index(distribution.high)  # type: ignore[arg-type]
    except TypeError:
        raise no_such(distribution, dtype) from None
    if not info.min <= low < high <= info.max + 1:
        raise InitializerError.stating(
            f"uniform from {low} to {high} in {dtype}: low must be below high, and both from "
            f"{info.min} to {info.max + 1}; write minval and maxval so",
            low=low,
            high=high,
        )
    signed = low if low < 2**63 else low - 2**64
    numbers = (high - low) % 2**64  # 0 for all that 64 bits can hold
    return INTEGERS, BITS, dtype.itemsize, 0.0, 0.0, 0.0, 0.0, signed, numbers, b""


def no_such(distribution: Distribution, dtype: np.dtype) -> InitializerError:
    return InitializerError.stating(
        f"{distribution} has no values of {dtype}; write one of the dtypes that work: float16, "
        "bfloat16, float32, float64 and other real floats, and for a uniform distribution between "
        "integers int8 to int64 and uint8 to uint64",
        distribution=distribution,
        dtype=dtype,
    )


# --- filling


def fill(
    out: np.ndarray,
    distribution: Distribution,
    key: int,
    first: int = 0,
    strides: Sequence[int] | None = None,
) -> None:
    """Fill an array with elements of a variable: those from `first` on, or any region.

    The element at multi-index i becomes number `first + sum(i * strides)` of the whole variable
    in C order; without strides, those of a C-contiguous array of the shape of `out`.  The array
    may have any strides of its own.

    >>> import numpy as np
    >>> whole, corner = np.empty((4, 6), "float32"), np.empty((2, 3), "float32")
    >>> fill(whole, Normal(0.0, 1.0), key=7)
    >>> fill(corner, Normal(0.0, 1.0), key=7, first=2 * 6 + 3, strides=(6, 1))
    >>> np.array_equal(corner, whole[2:, 3:])
    True
    """
    if isinstance(distribution, Constant):
        out[...] = np.full((), distribution.value, out.dtype)
        return
    steps = shapes.c_strides(out.shape) if strides is None else tuple(strides)
    check_region(out, first, steps)
    facts = law(distribution, out.dtype)
    if out.size == 0:
        return  # it begins nowhere, and `first` may be anything
    # Where an axis has one element, the step to the next may be beyond all numbers.
    steps = tuple(step if dim > 1 else 0 for dim, step in zip(out.shape, steps, strict=True))
    if facts is not None:
        # The buffer protocol knows no bfloat16: bits are bits.
        _scopecore.fill(out.view(f"u{out.dtype.itemsize}"), facts, key, first, steps)
    elif not out.dtype.isnative:
        native = np.empty(out.shape, out.dtype.newbyteorder("="))
        fill(native, distribution, key, first, steps)
        out[...] = native
    else:
        # float8 and such are computed in float32, longdouble in float64, and converted.
        wide = np.dtype(np.float64 if out.dtype.itemsize > 4 else np.float32)
        bounded_by = out.dtype if out.dtype.itemsize < wide.itemsize else wide
        facts = float_law(distribution, bounded_by, FLOATS[wide.name])
        values = np.empty(out.shape, wide)
        _scopecore.fill(values, facts, key, first, steps)
        out[...] = values.astype(out.dtype)


def check_region(out: np.ndarray, first: int, strides: tuple[int, ...]) -> None:
    if len(strides) != out.ndim:
        raise ValueError(f"{len(strides)} strides for an array of shape {out.shape}")
    if out.size == 0:
        return
    ends = [(dim - 1) * step for dim, step in zip(out.shape, strides, strict=True)]
    lowest = first + sum(end for end in ends if end < 0)
    highest = first + sum(end for end in ends if end > 0)
    if lowest < 0 or highest >= 2**63:
        raise ValueError(
            f"elements {lowest} to {highest} were asked for; a variable has those from 0 to "
            "2**63 - 1; ask for some of these"
        )
