"""Scopes: opening them, and asking for variables in them.

The hot ones are the core's own: a function of this module around them would cost more than they.
"""

from __future__ import annotations

from varscope._scopecore import (
    AUTO_REUSE,
    VariableScope,
    get_variable,
    get_variable_scope,
    name_scope,
    variable_scope,
)
from varscope.creation import GraphKeys
from varscope.errors import NotYetError
from varscope.variables import Variable

__all__ = [
    "AUTO_REUSE",
    "VariableScope",
    "get_local_variable",
    "get_variable",
    "get_variable_scope",
    "make_template",
    "name_scope",
    "variable_scope",
]


def get_local_variable(name, shape=None, dtype=None, initializer=None, regularizer=None,
                       collections=None, caching_device=None, partitioner=None,
                       validate_shape=True, custom_getter=None, *, constraint=None) -> Variable:  # fmt: skip
    """`get_variable` for what is not part of the model: in `LOCAL_VARIABLES`, not trainable."""
    keys = () if collections is None else tuple(collections)
    if GraphKeys.LOCAL_VARIABLES not in keys:
        keys += (GraphKeys.LOCAL_VARIABLES,)
    return get_variable(
        name, shape, dtype, initializer, regularizer, False, keys, caching_device, partitioner,
        validate_shape, custom_getter, constraint=constraint,
    )  # fmt: skip


def make_template(name, func, /, **kwargs):
    """Not in this version yet."""
    raise NotYetError(
        f"make_template({name!r}, ...) cannot be used yet in this version; share variables with "
        "variable_scope(name, reuse=varscope.AUTO_REUSE)"
    )
