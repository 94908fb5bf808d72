"""Penalties on the values of variables, and the losses that they give.

A regularizer is a callable: the values of a variable to a number, or None for no penalty.  The
built-in ones take an array of another library as well, such as a tensor that records its gradient
or a tracer, and then compute with its own operations, in its own dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from varscope._scopecore import substituted
from varscope.errors import ArgumentTypeError, ArgumentValueError, RegularizerError
from varscope.flyweights import Flyweight, Settings

if TYPE_CHECKING:
    import numpy.typing as npt

BLOCK = 1 << 16  # elements that are converted at a time


def no_regularizer(_value: object) -> None:
    """No penalty: switches off the regularizer of the surrounding scope.

    >>> import varscope as vs
    >>> with vs.variable_scope("layer", regularizer=vs.l2_regularizer(0.1)):
    ...     bias = vs.get_variable("bias", [2], regularizer=vs.no_regularizer)
    >>> bias.regularizer is None
    True
    """
    return None


@dataclass(frozen=True, repr=False, eq=False)
class l1_regularizer(Settings, metaclass=Flyweight):
    """`scale * sum(|x|)`.

    Parameters
    ----------
    scale : float
        At least 0; 0 switches regularizing off, as `no_regularizer` does.

    >>> import varscope as vs
    >>> vs.l1_regularizer(0.5)([1.0, -2.0])
    1.5
    """

    scale: float

    def __post_init__(self) -> None:
        hold_scale(self, "scale")

    def __call__(self, values: Any) -> Any:
        """The penalty, None where the scale is 0.

        Of NumPy's arrays it is computed in float64 whatever their dtype.
        """
        if not self.scale:
            return None
        if is_foreign(values):
            return self.scale * abs(values).sum()
        return self.scale * summed(sum_of_sizes, values)


@dataclass(frozen=True, repr=False, eq=False)
class l2_regularizer(Settings, metaclass=Flyweight):
    """`scale * sum(x**2) / 2`: half the square, whose derivative is `scale * x`.

    Parameters
    ----------
    scale : float
        At least 0; 0 switches regularizing off, as `no_regularizer` does.

    >>> import varscope as vs
    >>> vs.l2_regularizer(0.5)([2.0, 4.0])
    5.0
    """

    scale: float

    def __post_init__(self) -> None:
        hold_scale(self, "scale")

    def __call__(self, values: Any) -> Any:
        """The penalty, None where the scale is 0.

        Of NumPy's arrays it is computed in float64 whatever their dtype.
        """
        if not self.scale:
            return None
        if is_foreign(values):
            sizes = abs(values) if "complex" in str(values.dtype) else values
            return self.scale * ((sizes * sizes).sum() / 2)
        return self.scale * (summed(sum_of_squares, values) / 2)


@dataclass(frozen=True, repr=False, eq=False)
class l1_l2_regularizer(Settings, metaclass=Flyweight):
    """`scale_l1 * sum(|x|) + scale_l2 * sum(x**2) / 2`.

    Parameters
    ----------
    scale_l1, scale_l2 : float
        At least 0; where both are 0 regularizing is switched off, as by `no_regularizer`.

    >>> import varscope as vs
    >>> vs.l1_l2_regularizer(1.0, 0.5)([2.0, -4.0])
    11.0
    """

    scale_l1: float = 1.0
    scale_l2: float = 1.0

    def __post_init__(self) -> None:
        hold_scale(self, "scale_l1")
        hold_scale(self, "scale_l2")

    def __call__(self, values: Any) -> Any:
        """The penalty, None where both scales are 0.

        Of NumPy's arrays it is computed in float64 whatever their dtype.
        """
        both = l1_regularizer(self.scale_l1), l2_regularizer(self.scale_l2)
        return total_of(both, values if is_foreign(values) else np.asarray(values))


@dataclass(frozen=True, repr=False, eq=False)
class sum_regularizer(Settings, metaclass=Flyweight):
    """The sum of several penalties; those that are None do not count.

    Parameters
    ----------
    regularizer_list : iterable of callable or None
        Without one that counts, regularizing is switched off, as by `no_regularizer`.

    >>> import varscope as vs
    >>> both = vs.sum_regularizer([vs.l1_regularizer(1.0), vs.l2_regularizer(0.5), None])
    >>> both([2.0, -4.0])
    11.0
    """

    regularizer_list: tuple[Callable[[Any], Any], ...]

    def __init__(self, regularizer_list: Iterable[Callable[[Any], Any] | None]) -> None:
        if callable(regularizer_list) or not isinstance(regularizer_list, Iterable):
            raise ArgumentTypeError.of(
                "regularizer_list", "an iterable of regularizers", regularizer_list
            )
        parts = tuple(part for part in regularizer_list if part is not None)
        for part in parts:
            if not callable(part):
                raise ArgumentTypeError.of("a regularizer in the list", "callable", part)
        object.__setattr__(self, "regularizer_list", parts)

    def __call__(self, values: Any) -> Any:
        """The sum, None where no penalty is there."""
        return total_of(self.regularizer_list, values)


def is_off(regularizer: object) -> bool:
    """Whether a regularizer never gives a penalty, as far as can be told without calling it."""
    match regularizer:
        case None:
            return True
        case l1_regularizer(scale) | l2_regularizer(scale):
            return scale == 0
        case l1_l2_regularizer(l1, l2):
            return l1 == l2 == 0
        case sum_regularizer(parts):
            return all(map(is_off, parts))
    return regularizer is no_regularizer


def hold_scale(regularizer: Any, field: str) -> None:
    """Make a field of a regularizer a plain float, finite and not negative."""
    value = getattr(regularizer, field)
    what = f"{field} of {type(regularizer).__name__}"
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise ArgumentTypeError.of(what, "a number", value)
    try:
        scale = float(value)
    except (TypeError, ValueError):
        raise ArgumentTypeError.of(what, "a number", value) from None
    except OverflowError:
        scale = math.inf
    if not 0 <= scale < math.inf:
        raise ArgumentValueError.of(what, "a finite number that is not negative", value)
    object.__setattr__(regularizer, field, scale + 0.0)  # which makes -0.0 the same as 0.0


def is_foreign(values: Any) -> bool:
    """Whether these are an array of another library, which NumPy may not be able to read."""
    if isinstance(values, (np.ndarray, np.generic, NDArrayOperatorsMixin)):
        return False
    return hasattr(values, "dtype") and hasattr(values, "sum")


def sum_of_sizes(block: np.ndarray) -> Any:
    """The sum of |x|."""
    with np.errstate(over="ignore"):
        return np.add.reduce(np.abs(block))


def sum_of_squares(block: np.ndarray) -> Any:
    """The sum of |x|**2."""
    return np.vdot(block, block).real


def summed(function: Callable[[np.ndarray], Any], values: Any) -> float:
    """What a function of blocks gives for all of them, in float64 or better."""
    flat = np.asarray(values).reshape(-1)
    dtype = summing_dtype(flat.dtype)
    if flat.size <= BLOCK:
        return float(function(flat.astype(dtype, copy=False)))
    starts = range(0, flat.size, BLOCK)
    blocks = (flat[start : start + BLOCK].astype(dtype, copy=False) for start in starts)
    with np.errstate(over="ignore"):
        return float(sum(map(function, blocks)))


@lru_cache(maxsize=64)
def summing_dtype(dtype: np.dtype) -> np.dtype:
    """float64, or complex128; long double stays what it is."""
    least = np.dtype(np.complex128 if dtype.kind == "c" else np.float64)
    return np.result_type(dtype, least) if dtype.kind in "fc" else least


def total_of(regularizers: Iterable[Callable[[Any], Any]], values: Any) -> Any:
    """The sum of the penalties that are there, None where none is."""
    penalties = (regularizer(values) for regularizer in regularizers)
    there = [penalty for penalty in penalties if penalty is not None]
    return sum(there[1:], there[0]) if there else None


@dataclass(frozen=True, eq=False, repr=False)
class RegularizationLoss(NDArrayOperatorsMixin):
    """The penalty on a variable: what `REGULARIZATION_LOSSES` holds of one with a regularizer.

    It is lazy: nothing is computed before `value` is called, and then on the values as they are
    at that time.  Arithmetic computes too and gives numbers, so losses can be summed and scaled.
    Two are equal where they are of the same variable and equal regularizers.

    >>> import varscope as vs
    >>> v = vs.get_variable("v", [2], initializer=vs.ones, regularizer=vs.l2_regularizer(0.5))
    >>> (loss,) = vs.get_regularization_losses()
    >>> loss.name, loss.value()
    ('v/Regularizer', 0.5)
    """

    variable: Any
    regularizer: Callable[[Any], Any]

    @property
    def name(self) -> str:
        """The variable's name as an op, then "/Regularizer"."""
        return f"{self.variable.op_name}/Regularizer"

    @property
    def graph(self) -> Any:
        """The variable's graph."""
        return self.variable.graph

    def value(self) -> Any:
        """The penalty on the current values: a number, 0.0 where the regularizer returns None."""
        values = substituted(self.variable)
        if values is self.variable:
            values = values._read  # wherever a copy lies
        penalty = self.regularizer(values)
        if penalty is None:
            return 0.0
        if getattr(penalty, "ndim", 0):
            raise RegularizerError.no_number(self.variable.op_name, self.regularizer, penalty)
        return penalty

    def __float__(self) -> float:
        return float(self.value())

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.value(), dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        values = (x.value() if isinstance(x, RegularizationLoss) else x for x in inputs)
        return getattr(ufunc, method)(*values, **kwargs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RegularizationLoss):
            return NotImplemented
        mine, its = self.regularizer, other.regularizer
        return self.variable is other.variable and (mine is its or bool(mine == its))

    __ne__ = object.__ne__  # what __eq__ does not say

    def __hash__(self) -> int:
        return hash(self.variable)

    def __repr__(self) -> str:
        return f"<RegularizationLoss {self.name!r} by {self.regularizer!r:.100}>"


def loss_values(entries: Iterable[Any]) -> Iterator[Any]:
    """The number that each entry of a collection of losses stands for."""
    for entry in entries:
        yield entry.value() if callable(getattr(entry, "value", None)) else entry
