"""Initializers under the names of TensorFlow 1; what they make are varscope's own.

TensorFlow 1 has them as classes, which may be passed with and without being called:
`initializer=tf.zeros_initializer()` and `initializer=tf.zeros_initializer`.  So they are classes
here, which give back something else than an instance of theirs.  Their `dtype` never counted in
`get_variable`, where the variable's does.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from varscope import initializers, shapes
from varscope.errors import InitializerError

__all__ = [
    "constant_initializer",
    "glorot_normal_initializer",
    "glorot_uniform_initializer",
    "ones_initializer",
    "orthogonal_initializer",
    "random_normal_initializer",
    "random_uniform_initializer",
    "truncated_normal_initializer",
    "uniform_unit_scaling_initializer",
    "variance_scaling_initializer",
    "zeros_initializer",
]


def spelled(make: Callable[..., Any]) -> Any:
    """A class that is called like the function, and returns what that returns."""
    signature = inspect.signature(make)

    def __new__(cls: type, *args: Any, **kwargs: Any) -> Any:
        dtype = signature.bind(*args, **kwargs).arguments.get("dtype")
        if dtype is not None:
            shapes.as_dtype(dtype)
        return make(*args, **kwargs)

    space = {"__new__": __new__, "__doc__": make.__doc__, "__module__": make.__module__}
    made = type(make.__name__, (), space)
    made.__signature__ = signature  # type: ignore[attr-defined]
    return made


@spelled
def zeros_initializer(dtype: Any = None) -> Any:
    """All elements zero: `varscope.zeros`.

    >>> from varscope.compat import tf1 as tf
    >>> a = tf.get_variable("a", [2], initializer=tf.zeros_initializer())
    >>> b = tf.get_variable("b", [2], initializer=tf.zeros_initializer)
    >>> a.initializer == b.initializer
    True
    """
    return initializers.zeros


@spelled
def ones_initializer(dtype: Any = None) -> Any:
    """All elements one: `varscope.ones`."""
    return initializers.ones


@spelled
def constant_initializer(value: Any = 0, dtype: Any = None, verify_shape: bool = False) -> Any:
    """All elements the same number, `varscope.constant`; or those of a list or array.

    Of a list or array the elements are taken in C order, whatever its shape, unless
    `verify_shape` is set.  Where there are too few, the last one fills the rest.

    >>> from varscope.compat import tf1 as tf
    >>> tf.get_variable("v", [2, 2], initializer=tf.constant_initializer([1, 2, 3])).numpy()
    array([[1., 2.],
           [3., 3.]], dtype=float32)
    """
    if np.ndim(value) == 0 and not verify_shape:
        return initializers.constant(value.item() if isinstance(value, np.ndarray) else value)
    return Elements(np.array(value), verify_shape)


@dataclass(frozen=True, eq=False)
class Elements:
    """The elements of an array in a variable's shape; what `constant_initializer` makes of one."""

    array: np.ndarray
    verify_shape: bool

    def __post_init__(self) -> None:
        if self.array.dtype.kind not in "biufcV" or self.array.size == 0:
            raise InitializerError(
                f"constant_initializer needs numbers, at least one, not {self.array!r:.100}; give "
                "numbers, such as constant_initializer([1.0, 2.0])"
            )
        self.array.flags.writeable = False

    def __call__(self, shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        if self.verify_shape and tuple(shape) != self.array.shape:
            raise InitializerError(
                f"constant_initializer has values of shape {self.array.shape}, and {tuple(shape)} "
                "was asked for; give the same shape, or leave out verify_shape"
            )
        size = math.prod(shape)
        if self.array.size > size:
            raise InitializerError(
                f"constant_initializer has {self.array.size:,} values, more than the {size:,} "
                f"elements of shape {tuple(shape)}; give no more values than that"
            )
        flat = np.full(size, self.array.flat[self.array.size - 1], dtype)
        flat[: self.array.size] = self.array.reshape(-1)
        return flat.reshape(shape)

    def __repr__(self) -> str:
        return f"constant_initializer(<array of shape {self.array.shape}>)"


@spelled
def random_uniform_initializer(
    minval: Any = 0, maxval: Any = None, seed: int | None = None, dtype: Any = None
) -> Any:
    """Uniform from `minval` to `maxval`, default 1: `varscope.random_uniform`."""
    return initializers.random_uniform(minval, maxval, seed)


@spelled
def random_normal_initializer(
    mean: float = 0.0, stddev: float = 1.0, seed: int | None = None, dtype: Any = None
) -> Any:
    """Normal: `varscope.random_normal`."""
    return initializers.random_normal(mean, stddev, seed)


@spelled
def truncated_normal_initializer(
    mean: float = 0.0, stddev: float = 1.0, seed: int | None = None, dtype: Any = None
) -> Any:
    """Normal, within two standard deviations of the mean: `varscope.truncated_normal`."""
    return initializers.truncated_normal(mean, stddev, seed)


@spelled
def uniform_unit_scaling_initializer(
    factor: float = 1.0, seed: int | None = None, dtype: Any = None
) -> Any:
    """Uniform, such that sums keep their scale: `varscope.uniform_unit_scaling`."""
    return initializers.uniform_unit_scaling(factor, seed)


@spelled
def variance_scaling_initializer(
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "truncated_normal",
    seed: int | None = None,
    dtype: Any = None,
) -> Any:
    """By the number of inputs or outputs: `varscope.variance_scaling`.

    `distribution="normal"` is the older name of "truncated_normal".
    """
    if distribution == "normal":
        distribution = "truncated_normal"
    return initializers.variance_scaling(scale, mode, distribution, seed)


@spelled
def glorot_uniform_initializer(seed: int | None = None, dtype: Any = None) -> Any:
    """What `get_variable` takes where no initializer is given: `varscope.glorot_uniform`."""
    return initializers.glorot_uniform(seed)


@spelled
def glorot_normal_initializer(seed: int | None = None, dtype: Any = None) -> Any:
    """Glorot's variance, normal: `varscope.glorot_normal`."""
    return initializers.glorot_normal(seed)


@spelled
def orthogonal_initializer(gain: float = 1.0, seed: int | None = None, dtype: Any = None) -> Any:
    """Orthogonal rows or columns: `varscope.orthogonal`."""
    return initializers.orthogonal(gain, seed)
