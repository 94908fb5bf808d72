"""Scopes: opening them, and asking for variables in them.

The hot ones are the core's own: a function of this module around them would cost more than they.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Never, SupportsIndex

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

if TYPE_CHECKING:
    import numpy.typing as npt

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


def get_local_variable(
    name: str,
    shape: SupportsIndex | Iterable[SupportsIndex | None] | None = None,
    dtype: npt.DTypeLike | None = None,
    initializer: Callable[..., Any] | npt.ArrayLike | None = None,
    regularizer: Callable[[Any], Any] | None = None,
    collections: Iterable[Hashable] | None = None,
    caching_device: str | Callable[[Any], str] | None = None,
    partitioner: Callable[..., Sequence[int]] | None = None,
    validate_shape: bool = True,
    custom_getter: Callable[..., Any] | None = None,
    *,
    constraint: Callable[[Any], Any] | None = None,
) -> Variable:
    """`get_variable` for what is not part of the model: in `LOCAL_VARIABLES`, not trainable."""
    keys = () if collections is None else tuple(collections)
    if GraphKeys.LOCAL_VARIABLES not in keys:
        keys += (GraphKeys.LOCAL_VARIABLES,)
    return get_variable(
        name, shape, dtype, initializer, regularizer, False, keys, caching_device, partitioner,
        validate_shape, custom_getter, constraint=constraint,
    )  # fmt: skip


def make_template(name: str, func: Callable[..., Any], /, **kwargs: Any) -> Never:
    """Not in this version yet."""
    raise NotYetError(
        f"make_template({name!r}, ...) cannot be used yet in this version; share variables with "
        "variable_scope(name, reuse=varscope.AUTO_REUSE)"
    )
