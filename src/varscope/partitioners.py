"""How a variable is cut: partitioners, and the parts that follow from what they return.

A partitioner is called with the keywords `shape` (a tuple of int) and `dtype` (a `numpy.dtype`)
and returns into how many slices each dimension is cut: a sequence of ints, one a dimension, at
most one of them above 1.  `[3, 1]` cuts a matrix into three bands of rows.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from varscope.errors import ArgumentTypeError, ArgumentValueError, PartitionerError
from varscope.flyweights import Flyweight, Settings
from varscope.shapes import Part

KnownShape = tuple[int, ...]


@dataclass(frozen=True, repr=False, eq=False)
class fixed_size_partitioner(Settings, metaclass=Flyweight):
    """The same number of slices for every variable, as far as the axis is long enough.

    Parameters
    ----------
    num_shards : int
        At least 1.  An axis of fewer elements is cut into single ones.
    axis : int
        Which dimension is cut; -1 is the last.

    >>> import varscope as vs
    >>> cut = vs.fixed_size_partitioner(3)
    >>> cut(shape=(7, 2), dtype="float32"), cut(shape=(2, 2), dtype="float32")
    ([3, 1], [2, 1])
    """

    num_shards: int
    axis: int = 0

    def __post_init__(self) -> None:
        hold_int(self, "num_shards", 1)
        hold_int(self, "axis")

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> list[int]:
        return cut_along(self, shape, self.num_shards)


@dataclass(frozen=True, repr=False, eq=False)
class variable_axis_size_partitioner(Settings, metaclass=Flyweight):
    """As few slices as keep each within a number of bytes.

    A slice has at least one element along the axis, and may so be larger than asked for.

    Parameters
    ----------
    max_shard_bytes : int
        How large a slice may be; at least 1.
    axis : int
        Which dimension is cut; -1 is the last.
    bytes_per_string_element : int
        What an element counts for where the dtype is one of text; at least 1.
    max_shards : int, optional
        Never more slices than this, also where they are larger than asked for then.

    >>> import varscope as vs
    >>> cut = vs.variable_axis_size_partitioner(64)
    >>> cut(shape=(10, 4), dtype="float32")  # 16 bytes a row, so four rows a slice
    [3, 1]
    """

    max_shard_bytes: int
    axis: int = 0
    bytes_per_string_element: int = 16
    max_shards: int | None = None

    def __post_init__(self) -> None:
        hold_int(self, "max_shard_bytes", 1)
        hold_int(self, "axis")
        hold_int(self, "bytes_per_string_element", 1)
        if self.max_shards is not None:
            hold_int(self, "max_shards", 1)

    def __call__(self, shape: Sequence[int], dtype: Any) -> list[int]:
        length = length_along(self, shape)
        nbytes = math.prod(shape) * element_size(dtype, self.bytes_per_string_element)
        if nbytes == 0:
            return cut_along(self, shape, 1)
        rows = max(1, self.max_shard_bytes // (nbytes // length))  # in one slice
        slices = -(-length // rows)
        if self.max_shards is not None:
            slices = min(slices, self.max_shards)
        return cut_along(self, shape, slices)


@dataclass(frozen=True, repr=False, eq=False)
class min_max_variable_partitioner(Settings, metaclass=Flyweight):
    """One slice for each so many bytes that a variable has, up to a number of slices.

    Parameters
    ----------
    max_partitions : int
        Never more slices than this; 0 counts as 1, as in a program that runs on no server.
    axis : int
        Which dimension is cut; -1 is the last.
    min_slice_size : int
        Bytes for which there is one slice; at least 1.
    bytes_per_string_element : int
        What an element counts for where the dtype is one of text; at least 1.

    >>> import varscope as vs
    >>> cut = vs.min_max_variable_partitioner(max_partitions=8, min_slice_size=1024)
    >>> cut(shape=(100, 10), dtype="float32"), cut(shape=(10_000, 10), dtype="float32")
    ([4, 1], [8, 1])
    """

    max_partitions: int = 1
    axis: int = 0
    min_slice_size: int = 256 << 10
    bytes_per_string_element: int = 16

    def __post_init__(self) -> None:
        hold_int(self, "max_partitions", 0)
        hold_int(self, "axis")
        hold_int(self, "min_slice_size", 1)
        hold_int(self, "bytes_per_string_element", 1)

    def __call__(self, shape: Sequence[int], dtype: Any) -> list[int]:
        nbytes = math.prod(shape) * element_size(dtype, self.bytes_per_string_element)
        slices = -(-nbytes // self.min_slice_size)
        return cut_along(self, shape, min(slices, self.max_partitions))


def hold_int(partitioner: Any, field: str, least: int | None = None) -> None:
    """Make a field of a partitioner a plain int, of at least so much."""
    value = getattr(partitioner, field)
    what = f"{field} of {type(partitioner).__name__}"
    if isinstance(value, (bool, np.bool_)):
        raise ArgumentTypeError.of(what, "an int", value)
    try:
        number = int(operator.index(value))
    except TypeError:
        raise ArgumentTypeError.of(what, "an int", value) from None
    if least is not None and number < least:
        raise ArgumentValueError.of(what, f"at least {least}", value)
    object.__setattr__(partitioner, field, number)


def length_along(partitioner: Any, shape: Sequence[int]) -> int:
    """The size of the dimension that a partitioner cuts."""
    axis: int = partitioner.axis
    if not -len(shape) <= axis < len(shape):
        raise PartitionerError.no_axis(partitioner, tuple(shape))
    return shape[axis]


def cut_along(partitioner: Any, shape: Sequence[int], slices: int) -> list[int]:
    """So many slices along the partitioner's axis: at least one, and none without an element."""
    length = length_along(partitioner, shape)
    partitions = [1] * len(shape)
    partitions[partitioner.axis] = max(1, min(slices, length))
    return partitions


def element_size(dtype: Any, bytes_of_text: int) -> int:
    """The bytes that an element counts for."""
    known = np.dtype(dtype)
    return bytes_of_text if known.kind in "OSTU" else known.itemsize


def call_partitioner(
    partitioner: Any, name: str, shape: KnownShape, dtype: np.dtype
) -> tuple[int, ...]:
    """What a partitioner returns for a variable, checked."""
    result = partitioner(shape=shape, dtype=dtype)
    listed = result.ndim > 0 if isinstance(result, np.ndarray) else isinstance(result, Sequence)
    if isinstance(result, (str, bytes)) or not listed:
        raise PartitionerError.bad_result(name, shape, result, f"a {type(result).__name__}")
    if len(result) != len(shape):
        raise PartitionerError.bad_result(name, shape, result, f"of length {len(result)}")
    partitions = []
    for length, slices in zip(shape, result, strict=False):
        try:
            if isinstance(slices, (bool, np.bool_)):
                raise TypeError
            count = int(operator.index(slices))
        except TypeError:
            fault = f"which holds {slices!r:.100}, a {type(slices).__name__}"
            raise PartitionerError.bad_result(name, shape, result, fault) from None
        if count < 1:
            raise PartitionerError.bad_result(name, shape, result, f"which holds {count}")
        if count > max(length, 1):
            fault = f"which cuts {length} elements into {count} slices"
            raise PartitionerError.bad_result(name, shape, result, fault)
        partitions.append(count)
    if len(partitions) - partitions.count(1) > 1:
        fault = "which cuts more than one dimension"
        raise PartitionerError.bad_result(name, shape, result, fault)
    return tuple(partitions)


@dataclass(frozen=True, repr=False, eq=False)
class SaveSliceInfo(Settings):
    """Which part of which variable a shard is.

    `full_name` is the variable's; `full_shape` and `var_shape` are the shapes of the whole and of
    the part, and `var_offset` is where the part begins: tuples of int.

    >>> import varscope as vs
    >>> info = vs.SaveSliceInfo("v", (20, 30), (0, 10), (20, 10))
    >>> info.spec
    '20 30 0,20:10,10'
    """

    full_name: str
    full_shape: KnownShape
    var_offset: KnownShape
    var_shape: KnownShape

    @property
    def spec(self) -> str:
        """The same as checkpoints of TensorFlow 1 write it: shape, then offset,length each."""
        sizes = " ".join(map(str, self.full_shape))
        extents = zip(self.var_offset, self.var_shape, strict=True)
        return f"{sizes} " + ":".join(f"{offset},{length}" for offset, length in extents)


@dataclass(slots=True, repr=False, eq=False)
class Slicing(Settings):
    """A shape and how it is cut: slices as even as possible, the first ones one larger.

    >>> [Slicing.of((7, 2), (3, 1)).part(i).shape for i in range(3)]
    [(3, 2), (2, 2), (2, 2)]
    """

    shape: KnownShape
    partitions: KnownShape
    axis: int  # the dimension that is cut; the first where none is
    count: int  # the number of parts
    larger: int  # how many of the first parts are one element longer than the others

    @classmethod
    @lru_cache(maxsize=1024)  # a model has many variables and few kinds of them
    def of(cls, shape: KnownShape, partitions: KnownShape) -> Slicing:
        """How a shape is cut into so many slices a dimension."""
        axis = max(range(len(shape)), key=partitions.__getitem__)
        count = math.prod(partitions)
        return cls(shape, partitions, axis, count, shape[axis] % count)

    def part(self, index: int) -> Part:
        """The part of this number."""
        axis, length = self.axis, self.shape[self.axis] // self.count
        offset, shape = [0] * len(self.shape), list(self.shape)
        offset[axis] = index * length + min(index, self.larger)
        shape[axis] = length + (index < self.larger)
        return Part.within(self.shape, tuple(offset), tuple(shape))

    def part_of(self, path: str) -> tuple[str, Part] | None:
        """The path of the whole and the part that the variable of a path is; None for no part."""
        whole, _, number = path.rpartition("/part_")
        if not number.isdecimal() or len(number) > len(str(self.count)):
            return None
        index = int(number)
        return (whole, self.part(index)) if str(index) == number and index < self.count else None
