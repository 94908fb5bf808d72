"""`tf.contrib.layers`: its initializers and regularizers."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable
from typing import Any

from varscope import graph, initializers, regularizers
from varscope.compat.tf1._initializers import spelled
from varscope.compat.tf1._missing import missing
from varscope.compat.tf1._scopes import GraphKeys, get_collection
from varscope.errors import ArgumentTypeError

__all__ = [
    "apply_regularization",
    "l1_l2_regularizer",
    "l1_regularizer",
    "l2_regularizer",
    "sum_regularizer",
    "variance_scaling_initializer",
    "xavier_initializer",
    "xavier_initializer_conv2d",
]


@spelled
def xavier_initializer(uniform: bool = True, seed: int | None = None, dtype: Any = None) -> Any:
    """`varscope.glorot_uniform`, or `varscope.glorot_normal`."""
    return initializers.glorot_uniform(seed) if uniform else initializers.glorot_normal(seed)


xavier_initializer_conv2d = xavier_initializer


@spelled
def variance_scaling_initializer(
    factor: float = 2.0,
    mode: str = "FAN_IN",
    uniform: bool = False,
    seed: int | None = None,
    dtype: Any = None,
) -> Any:
    """`varscope.variance_scaling` with other defaults, and modes in capitals."""
    distribution = "uniform" if uniform else "truncated_normal"
    return initializers.variance_scaling(factor, str(mode).lower(), distribution, seed)


def checked(scale: Any, name: str) -> float:
    """The scale of a regularizer, which TensorFlow wanted to be a float."""
    if isinstance(scale, numbers.Integral):
        raise ArgumentTypeError.of(name, "a float", scale)
    return float(scale)


def l1_regularizer(scale: float, scope: str | None = None) -> Any:
    """`varscope.l1_regularizer`; with 0.0 none, whatever the scope around says."""
    return regularizers.l1_regularizer(checked(scale, "scale"))


def l2_regularizer(scale: float, scope: str | None = None) -> Any:
    """`varscope.l2_regularizer`; with 0.0 none, whatever the scope around says."""
    return regularizers.l2_regularizer(checked(scale, "scale"))


def l1_l2_regularizer(
    scale_l1: float = 1.0, scale_l2: float = 1.0, scope: str | None = None
) -> Any:
    """`varscope.l1_l2_regularizer`."""
    return regularizers.l1_l2_regularizer(
        checked(scale_l1, "scale_l1"), checked(scale_l2, "scale_l2")
    )


def sum_regularizer(
    regularizer_list: Iterable[Callable[[Any], Any] | None], scope: str | None = None
) -> Any:
    """`varscope.sum_regularizer`; None where nothing is left to sum."""
    some = [one for one in regularizer_list if one is not None]
    return regularizers.sum_regularizer(some) if some else None


def apply_regularization(
    regularizer: Callable[[Any], Any], weights_list: Iterable[Any] | None = None
) -> Any:
    """The sum of a regularizer's penalties now, also added to REGULARIZATION_LOSSES.

    The weights are those given, or the collection WEIGHTS.
    """
    weights = get_collection(GraphKeys.WEIGHTS) if weights_list is None else weights_list
    penalties = [regularizer(weight) for weight in weights]
    total = sum((penalty for penalty in penalties if penalty is not None), 0.0)
    graph.add_to_collection(GraphKeys.REGULARIZATION_LOSSES, total)
    return total


__getattr__ = missing(__name__, "contrib.layers")
