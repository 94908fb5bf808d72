"""Scopes: opening them, and asking for variables in them.

The hot ones are the core's own: a function of this module around them would cost more than they.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

from varscope._scopecore import (
    AUTO_REUSE,
    VariableScope,
    get_variable,
    get_variable_scope,
    name_scope,
    variable_scope,
)
from varscope.creation import GraphKeys, as_keys
from varscope.memory import Adoption, adoptable
from varscope.variables import Variable

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "AUTO_REUSE",
    "VariableScope",
    "adopt",
    "get_local_variable",
    "get_variable",
    "get_variable_scope",
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
    """`get_variable` for what is not part of the model: in `LOCAL_VARIABLES`, not trainable.

    Parameters
    ----------
    name, shape, dtype, initializer, regularizer, caching_device, partitioner, validate_shape, \
    custom_getter, constraint
        As those of `get_variable`.
    collections : iterable of hashable, optional
        They come on top of `LOCAL_VARIABLES`.  It is in `GLOBAL_VARIABLES` only where that is among
        them.

    Returns
    -------
    Variable
        Only declared: its values are made when they are first read.

    >>> import varscope as vs
    >>> steps = vs.get_local_variable("steps", [], dtype="int64")
    >>> vs.local_variables() == [steps], vs.global_variables()
    (True, [])
    """
    keys = as_keys(collections, GraphKeys.LOCAL_VARIABLES)
    if GraphKeys.LOCAL_VARIABLES not in keys:
        keys += (GraphKeys.LOCAL_VARIABLES,)
    return get_variable(
        name, shape, dtype, initializer, regularizer, False, keys, caching_device, partitioner,
        validate_shape, custom_getter, constraint=constraint,
    )  # fmt: skip


def adopt(
    name: str,
    array: Any,
    *,
    regularizer: Callable[[Any], Any] | None = None,
    trainable: bool = True,
    collections: Iterable[Hashable] | None = None,
    caching_device: str | Callable[[Any], str] | None = None,
    constraint: Callable[[Any], Any] | None = None,
) -> Variable:
    """A variable of the current scope whose storage is the memory of an array: nothing is copied.

    What is written to the array shows in the variable, and the other way round.  The memory stays
    for as long as anything shows it.  Shape and dtype are the array's; there are no first values
    to go back to.  In a scope that reuses, the variable that is there is returned where it has
    this very memory.

    Parameters
    ----------
    name : str
        As for `get_variable`.
    array : numpy.ndarray, or anything with DLPack or the buffer protocol
        In main memory, writable, aligned, and with its elements in C order: a `torch.Tensor` or a
        `bytearray`, say.  It must keep its size: `resize` and `resize_` may move what it has.
    regularizer, trainable, collections, caching_device, constraint : optional
        As for `get_variable`.

    Raises
    ------
    AdoptionError : ValueError
        The memory cannot be the storage as it is; the graph keeps its variables in an arena, files
        or a cluster; a partitioner is in force; or the variable that is there has other memory.
    ArgumentTypeError : TypeError
        It is nothing that has memory to share.
    VariableExistsError, VariableMissingError : ValueError
        As for `get_variable`.

    >>> import numpy as np, varscope as vs
    >>> array = np.zeros(3, np.float32)
    >>> with vs.variable_scope("layer"):
    ...     v = vs.adopt("bias", array)
    >>> array[0] = 7
    >>> v.name, v.numpy().tolist()
    ('layer/bias:0', [7.0, 0.0, 0.0])
    """
    given: Any = Adoption(adoptable(name, array))
    return get_variable(
        name, None, None, given, regularizer, trainable, collections, caching_device,
        constraint=constraint,
    )  # fmt: skip
