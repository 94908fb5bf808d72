"""Shapes and dtypes as they are given, made plain: tuples of int or None, and numpy.dtype."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from varscope.errors import ArgumentTypeError, InvalidShapeError, InvalidShapeTypeError
from varscope.flyweights import Settings

Shape = tuple[int | None, ...]
LARGEST = 2**63 - 1
RULE = "write a sequence of non-negative ints, such as [3, 4], or [] for a scalar"


def as_shape(shape: Any) -> Shape | None:
    """A shape as a tuple; dimensions may be None, and None is a shape of unknown rank.

    >>> as_shape(3), as_shape([2, None])
    ((3,), (2, None))
    """
    if shape is None:
        return None
    if isinstance(shape, (str, bytes)):
        raise InvalidShapeTypeError(f"shape {shape!r} is text; {RULE}", shape)
    if isinstance(shape, Iterable) and not (isinstance(shape, np.ndarray) and shape.ndim == 0):
        dims = tuple(shape)
    else:
        dims = (shape,)
    # A list: CPython 3.12 frees a generator's code twice where there is no memory to start it.
    return tuple([None if dim is None else as_dim(dim, shape) for dim in dims])


def as_dim(dim: Any, shape: Any) -> int:
    """One dimension as an int from 0 to 2**63 - 1."""
    if isinstance(dim, (bool, np.bool_)):
        raise InvalidShapeTypeError(f"shape {shape!r} holds the bool {dim!r}; {RULE}", shape)
    try:
        value = int(operator.index(dim))  # an int subclass may be anything in a comparison
    except TypeError:
        raise InvalidShapeTypeError(
            f"shape {shape!r} holds {dim!r}, a {type(dim).__name__}; {RULE}", shape
        ) from None
    if not 0 <= value <= LARGEST:
        raise InvalidShapeError(
            f"shape {shape!r} holds {value}, which is not from 0 to 2**63 - 1; {RULE}", shape
        )
    return value


def is_known(shape: Shape | None) -> bool:
    """Whether every dimension is a number."""
    return shape is not None and None not in shape


def check_size(shape: Shape, dtype: np.dtype) -> None:
    """Refuse a shape whose bytes cannot be counted in 63 bits, before anything is allocated."""
    nbytes = max(dtype.itemsize, 1)
    for dim in shape:
        nbytes *= max(dim or 0, 1)  # as NumPy counts: a zero elsewhere does not help
    if nbytes > LARGEST:
        raise InvalidShapeError(
            f"shape {shape} of {dtype} takes {nbytes:,} bytes, more than 2**63 - 1 can be "
            "addressed; write smaller dimensions",
            shape,
        )


def is_compatible(asked: Shape | None, actual: Shape | None) -> bool:
    """Whether the two agree wherever both are known.

    >>> is_compatible((None, 4), (3, 4)), is_compatible((3,), (3, 4))
    (True, False)
    """
    if asked is None or actual is None:
        return True
    return len(asked) == len(actual) and all(
        a is None or b is None or a == b for a, b in zip(asked, actual, strict=True)
    )


@dataclass(slots=True, repr=False, eq=False)
class Part(Settings):
    """Some elements of a variable: from `offset` on, every `step`-th, `shape` of them an axis.

    Of a variable whose shape is not known there is only the whole, of that shape.
    """

    full_shape: tuple[int, ...]
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    step: tuple[int, ...]

    @classmethod
    def of_whole(cls, shape: Shape | None) -> Self:
        """All elements of a variable of this shape."""
        rank = len(shape or ())
        return cls(shape, (0,) * rank, shape, (1,) * rank)  # type: ignore[arg-type]

    @classmethod
    def within(
        cls, full_shape: tuple[int, ...], offset: tuple[int, ...], shape: tuple[int, ...]
    ) -> Self:
        """A block that begins at an offset."""
        return cls(full_shape, offset, shape, (1,) * len(offset))

    def __getitem__(self, index: Any) -> tuple[Part, tuple[Any, ...]]:
        """The part of this part that a basic index selects, and the index of its dropped axes.

        >>> part, drop = Part.of_whole((4, 6))[1, ::-2]
        >>> part.offset, part.shape, part.step, drop
        ((1, 5), (1, 3), (1, -2), (0, slice(None, None, None)))
        """
        items = list(index) if isinstance(index, tuple) else [index]
        dots = [place for place, item in enumerate(items) if item is Ellipsis] or [len(items)]
        missing = len(self.shape) - sum(item is not Ellipsis for item in items)
        items[dots[0] : dots[0] + 1] = [slice(None)] * missing
        if len(items) != len(self.shape):
            raise IndexError(
                f"index {index!r:.100} is not one of shape {self.shape}; write one entry a "
                "dimension"
            )
        ranges: list[range] = []
        drop: list[Any] = []
        for item, size in zip(items, self.shape, strict=True):
            if isinstance(item, slice):
                ranges.append(range(size)[item] or range(0))  # which may begin at -1 otherwise
                drop.append(slice(None))
            else:
                try:
                    place = range(size)[item]
                except TypeError:
                    raise IndexError(
                        f"index {index!r:.100} holds {item!r:.100}; write ints, slices and ..."
                    ) from None
                ranges.append(range(place, place + 1))
                drop.append(0)
        part = Part(
            self.full_shape,
            tuple(o + s * r.start for o, s, r in zip(self.offset, self.step, ranges, strict=True)),
            tuple(map(len, ranges)),
            tuple(s * r.step for s, r in zip(self.step, ranges, strict=True)),
        )
        return part, tuple(drop)

    @property
    def is_block(self) -> bool:
        """Whether no element is left out in between."""
        return all(step == 1 for step in self.step)

    @property
    def index(self) -> tuple[slice, ...]:
        """The slices that select the part from the whole variable."""
        slices = []
        for start, step, size in zip(self.offset, self.step, self.shape, strict=True):
            stop = start + step * size
            # Down to the first one, and that too: there is no number for it.
            slices.append(slice(start, None if stop < 0 else stop, step) if size else slice(0))
        return tuple(slices)

    @property
    def first(self) -> int:
        """The number of the first element in the whole variable, counted in C order."""
        strides = c_strides(self.full_shape)
        return sum(start * stride for start, stride in zip(self.offset, strides, strict=True))

    @property
    def strides(self) -> tuple[int, ...]:
        """How many elements of the whole variable lie from one to the next, an axis."""
        strides = c_strides(self.full_shape)
        return tuple(step * stride for step, stride in zip(self.step, strides, strict=True))


def c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """How far apart neighbours are in a C-ordered array, in elements.

    >>> c_strides((2, 3, 4))
    (12, 4, 1)
    """
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def as_dtype(dtype: Any) -> np.dtype:
    """Anything that `numpy.dtype` takes, as a dtype whose values lie in the array itself.

    NumPy learns names such as "bfloat16" from `ml_dtypes`, which is imported for them.
    """
    try:
        found: np.dtype = np.dtype(dtype)
    except TypeError as error:
        extension = extension_type(dtype)
        if extension is None:
            raise ArgumentTypeError(
                f"dtype {dtype!r:.100} is none that NumPy knows ({error}); write a name such as "
                "'float32' or a type such as numpy.float32; for bfloat16 and float8, install them "
                "with pip install ml_dtypes"
            ) from None
        found = np.dtype(extension)
    if found.hasobject:
        raise ArgumentTypeError(
            f"dtype {dtype!r:.100} holds Python objects; write a dtype of numbers"
        )
    return found


def extension_type(name: Any) -> type | None:
    """The scalar type of this name in `ml_dtypes`, None where there is none."""
    import importlib.util  # seldom needed

    if not isinstance(name, str) or importlib.util.find_spec("ml_dtypes") is None:
        return None
    found = getattr(importlib.import_module("ml_dtypes"), name, None)
    return found if isinstance(found, type) and issubclass(found, np.generic) else None


def is_floating(dtype: np.dtype) -> bool:
    """Whether it is a real floating-point dtype, those of ml_dtypes included."""
    return dtype.kind == "f" or (
        dtype.type.__module__.startswith("ml_dtypes") and "float" in dtype.name
    )


def is_integral(dtype: np.dtype) -> bool:
    """Whether it is an integer dtype or bool, those of ml_dtypes included."""
    return dtype.kind in "iub" or (
        dtype.type.__module__.startswith("ml_dtypes") and "int" in dtype.name
    )


def fits(given: np.dtype, dtype: np.dtype, casting: str) -> bool:
    """Whether values of one dtype may go into another under a NumPy casting rule.

    NumPy knows no kind for the floats of ml_dtypes: between two floats, "same_kind" allows all.
    """
    if np.can_cast(given, dtype, casting):  # type: ignore[arg-type]
        return True
    return (
        casting == "same_kind" and is_floating(dtype) and (is_floating(given) or is_integral(given))
    )


def as_seed(seed: Any) -> int:
    """A seed as a Python int of any size."""
    return as_int("seed", seed)


def as_int(name: str, value: Any, expected: str = "an int") -> int:
    """The argument of this name as a Python int, which a bool is not."""
    if isinstance(value, (bool, np.bool_)):
        raise ArgumentTypeError.of(name, expected, value)
    try:
        return operator.index(value)
    except TypeError:
        raise ArgumentTypeError.of(name, expected, value) from None
