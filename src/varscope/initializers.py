"""What fills a new variable: callables `(shape, dtype)` to an array."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from varscope import randomness, shapes
from varscope._scopecore import Spec
from varscope.errors import ArgumentTypeError, InitializerError


@dataclass(frozen=True)
class Zeros:
    """All elements zero (False for bool).

    >>> import varscope as vs
    >>> vs.zeros((2,), "int8")
    array([0, 0], dtype=int8)
    """

    def __call__(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        return np.zeros(shape, dtype)

    def __repr__(self) -> str:
        return "zeros"


@dataclass(frozen=True)
class Ones:
    """All elements one (True for bool)."""

    def __call__(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        return np.ones(shape, dtype)

    def __repr__(self) -> str:
        return "ones"


zeros = Zeros()
ones = Ones()


@dataclass(frozen=True)
class constant:
    """All elements the same number, in the variable's shape and dtype.

    >>> import varscope as vs
    >>> vs.constant(0.5)((2,), "float16")
    array([0.5, 0.5], dtype=float16)
    """

    value: complex

    def __post_init__(self) -> None:
        if np.ndim(self.value) != 0 or isinstance(self.value, (str, bytes)):
            raise ArgumentTypeError.of("constant", "a number", self.value)

    def __call__(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        return np.full(shape, self.value, dtype)

    def __repr__(self) -> str:
        return f"constant({self.value!r})"


@dataclass(frozen=True)
class glorot_uniform:
    """Uniform in [-limit, limit), limit = sqrt(6 / (fan_in + fan_out)).

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", 2010.  The last two dimensions are in and out, those before them the receptive
    field of a convolution; a vector counts for both.
    """

    seed: int | None = None

    def __call__(
        self,
        shape: Sequence[int],
        dtype: Any,
        partition_info: PartitionInfo | None = None,
        key: int | None = None,
    ) -> np.ndarray:
        if key is None:
            key = randomness.draw_seed()
        fan_in, fan_out = fans(shape)
        limit = math.sqrt(6.0 / max(1.0, fan_in + fan_out))
        numbers = randomness.uniform(key, math.prod(shape))
        numbers *= 2 * limit
        numbers -= limit
        return numbers.reshape(shape).astype(dtype)

    def __repr__(self) -> str:
        return "glorot_uniform()" if self.seed is None else f"glorot_uniform(seed={self.seed})"


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight of this shape.

    >>> fans((3, 3, 16, 32)), fans((7,)), fans(())
    ((144, 288), (7, 7), (1, 1))
    """
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    field = math.prod(shape[:-2])
    return field * shape[-2], field * shape[-1]


DEFAULT = glorot_uniform()


def default_for(dtype: np.dtype) -> Callable[..., Any] | None:
    """What fills a variable that names no initializer: by its dtype, None where nothing fits."""
    if shapes.is_floating(dtype):
        return DEFAULT  # one for all, so that variables alike have one spec
    return zeros if shapes.is_integral(dtype) else None


def is_value(initializer: object) -> bool:
    """Whether it is an array or a number, which fixes shape and dtype, and not a callable."""
    return initializer is not None and not callable(initializer)


def as_value(initializer: Any) -> np.ndarray:
    """A private, read-only copy of an array or number.

    Python's numbers become bool, int32, float32 and complex128, as TensorFlow has them; arrays
    and NumPy scalars keep their dtype.
    """
    kinds = {bool: np.bool_, int: np.int32, float: np.float32}
    try:
        value = np.array(initializer, dtype=kinds.get(type(initializer)))
    except (TypeError, ValueError, OverflowError) as error:
        raise InitializerError(
            f"the initializer {initializer!r:.100} is no array or number that can be kept: {error}"
        ) from None
    if value.dtype.kind in "OSU":
        raise ArgumentTypeError.of("initializer", "a callable, an array or a number", initializer)
    value.flags.writeable = False
    return value


@dataclass(frozen=True, eq=False)
class Value:
    """An initializer that is an array: what was given, as it was then."""

    array: np.ndarray

    def __call__(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        return self.array


@dataclass(frozen=True)
class PartitionInfo:
    """Which part of a variable an initializer is asked for.

    `full_shape` is that of the whole variable, `var_offset` where the part begins in it; both
    are tuples of int.
    """

    full_shape: shapes.Shape | None
    var_offset: tuple[int, ...]


def how_to_call(initializer: Callable[..., Any]) -> tuple[bool, frozenset[str]]:
    """Is its dtype keyword-only, and which of partition_info and key does it take."""
    try:
        parameters = inspect.signature(initializer).parameters
    except (TypeError, ValueError):  # a builtin, such as numpy.zeros, does not tell
        return False, frozenset()
    dtype = parameters.get("dtype")
    keyword_only = dtype is not None and dtype.kind is inspect.Parameter.KEYWORD_ONLY
    return keyword_only, frozenset({"partition_info", "key"} & set(parameters))


def call(spec: Spec, key: int) -> Any:
    """The result of a spec's initializer, as it comes."""
    if spec.how_to_call is None:
        spec.how_to_call = how_to_call(spec.initializer)
    keyword_only, takes = spec.how_to_call
    extra: dict[str, Any] = {}
    if "partition_info" in takes:
        extra["partition_info"] = PartitionInfo(spec.shape, (0,) * len(spec.shape or ()))
    if "key" in takes:
        extra["key"] = key
    if keyword_only:
        return spec.initializer(spec.shape, dtype=spec.dtype, **extra)
    return spec.initializer(spec.shape, spec.dtype, **extra)
