"""`tf.initializers`: the same initializers under shorter names, and a few more."""

from __future__ import annotations

from typing import Any

from varscope import initializers as own
from varscope.compat.tf1._initializers import constant_initializer as constant
from varscope.compat.tf1._initializers import glorot_normal_initializer as glorot_normal
from varscope.compat.tf1._initializers import glorot_uniform_initializer as glorot_uniform
from varscope.compat.tf1._initializers import ones_initializer as ones
from varscope.compat.tf1._initializers import orthogonal_initializer as orthogonal
from varscope.compat.tf1._initializers import random_normal_initializer as random_normal
from varscope.compat.tf1._initializers import random_uniform_initializer as random_uniform
from varscope.compat.tf1._initializers import spelled
from varscope.compat.tf1._initializers import truncated_normal_initializer as truncated_normal
from varscope.compat.tf1._initializers import (
    uniform_unit_scaling_initializer as uniform_unit_scaling,
)
from varscope.compat.tf1._initializers import variance_scaling_initializer as variance_scaling
from varscope.compat.tf1._initializers import zeros_initializer as zeros
from varscope.compat.tf1._missing import missing
from varscope.compat.tf1._sessions import global_variables_initializer as global_variables
from varscope.compat.tf1._sessions import local_variables_initializer as local_variables
from varscope.compat.tf1._sessions import tables_initializer
from varscope.compat.tf1._sessions import variables_initializer as variables

__all__ = [
    "constant",
    "global_variables",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "lecun_normal",
    "lecun_uniform",
    "local_variables",
    "ones",
    "orthogonal",
    "random_normal",
    "random_uniform",
    "tables_initializer",
    "truncated_normal",
    "uniform_unit_scaling",
    "variables",
    "variance_scaling",
    "zeros",
]


@spelled
def he_normal(seed: int | None = None, dtype: Any = None) -> Any:
    """He's variance, normal: `varscope.he_normal`."""
    return own.he_normal(seed)


@spelled
def he_uniform(seed: int | None = None, dtype: Any = None) -> Any:
    """He's variance, uniform: `varscope.he_uniform`."""
    return own.he_uniform(seed)


@spelled
def lecun_normal(seed: int | None = None, dtype: Any = None) -> Any:
    """LeCun's variance, normal: `varscope.lecun_normal`."""
    return own.lecun_normal(seed)


@spelled
def lecun_uniform(seed: int | None = None, dtype: Any = None) -> Any:
    """LeCun's variance, uniform: `varscope.lecun_uniform`."""
    return own.lecun_uniform(seed)


@spelled
def identity(gain: float = 1.0, dtype: Any = None) -> Any:
    """The identity matrix, scaled: `varscope.identity`."""
    return own.identity(gain)


__getattr__ = missing(__name__, "initializers")
