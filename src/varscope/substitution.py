"""`substitute`: arrays of any library in place of variables, by path.

What a model asks for is looked up, created and checked as ever; then the entry of a mapping is
returned in place of the variable.  So a function that was written with scopes computes on whatever
stands in the mapping: tensors that record their gradient, or the tracers of a compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np

from varscope import shapes
from varscope._scopecore import Registry, count_substitutions, substitutions
from varscope.errors import (
    ArgumentTypeError,
    DTypeMismatchError,
    ScopeOrderError,
    ShapeMismatchError,
)
from varscope.variables import Valued


class substitute:
    """A context manager in which `get_variable` returns what a mapping has in place of variables.

    A variable is found or created as ever, with the same errors.  Where the mapping has its path,
    that entry is returned: an array of any library, with the variable's shape and dtype.  What it
    lacks is returned as it is, or by the next `substitute` further out.  Custom getters get the
    entry too, and regularization losses are computed on it.  Nothing is written to the variable,
    and its own values are not made.

    Parameters
    ----------
    mapping : mapping of str to array
        By the paths of variables, without ":0".  Of a variable in parts the whole counts: one
        entry of its shape, under its path.  Entries have a `shape` and a `dtype`.

    Raises
    ------
    ArgumentTypeError : TypeError
        What was given is no mapping; and by `get_variable` where an entry is no array.
    ShapeMismatchError, DTypeMismatchError : ValueError
        By `get_variable`: an entry is not what the variable is.  A variable that this call would
        have created is not there then.

    >>> import numpy as np, varscope as vs
    >>> def layer(x):
    ...     return x @ vs.get_variable("w", [2, 2])
    >>> with vs.substitute({"layer/w": np.eye(2, dtype="float32")}):
    ...     with vs.variable_scope("layer"):
    ...         layer(np.array([3.0, 4.0]))
    array([3., 4.])
    """

    def __init__(self, mapping: Mapping[str, Any]) -> None:
        if not isinstance(mapping, Mapping):
            raise ArgumentTypeError.of("mapping", "a dict of paths and arrays", mapping)
        self._mapping = mapping
        self._graph: Registry | None = None  # of any

    @classmethod
    def _in(cls, graph: Registry, mapping: Mapping[str, Any]) -> substitute:
        """One for the variables of a graph alone."""
        new = cls(mapping)
        new._graph = graph
        return new

    def __enter__(self) -> Mapping[str, Any]:
        substitutions.set(((self._mapping, self._graph, self), *substitutions.get(())))
        count_substitutions(1)
        return self._mapping

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        opened = substitutions.get(())
        owners = [owner for _, _, owner in opened]
        if self not in owners:  # a generator, say, that is closed elsewhere than it was begun
            raise ScopeOrderError.not_open("a substitute", "another one or none")
        place = owners.index(self)
        substitutions.set((*opened[:place], *opened[place + 1 :]))
        count_substitutions(-1)
        if place:
            raise ScopeOrderError.still_open("a substitute", "another one")

    def __reduce__(self) -> tuple[type[substitute], tuple[Mapping[str, Any]]]:
        return substitute, (self._mapping,)


def entry_for(made: Any) -> Any:
    """What stands for a variable here: an entry that fits it, or itself."""
    opened = substitutions.get(())
    if not opened or not isinstance(made, Valued):
        return made
    path = made.path
    for mapping, only, _ in opened:
        if only is not None and made.graph is not only:
            continue
        try:
            entry = mapping[path]
        except KeyError:
            continue
        check(made, path, entry)
        return entry
    return made


def check(variable: Valued, path: str, entry: Any) -> None:
    """Refuse an entry that is not what the variable is."""
    try:
        shape, dtype = entry.shape, entry.dtype
    except AttributeError:
        raise ArgumentTypeError.of(
            f"what stands for variable {path}", "an array with a shape and a dtype", entry
        ) from None
    expected = variable.shape
    shape = tuple(shape)
    if shape != expected and not shapes.is_compatible(expected, shape):
        raise ShapeMismatchError.of(path, expected, shape, "substituted")
    if as_numpy_dtype(dtype) != variable.dtype:
        raise DTypeMismatchError.of(path, variable.dtype, dtype, "substituted")


def as_numpy_dtype(dtype: Any) -> np.dtype | None:
    """NumPy's dtype for that of another library; None where it has none.

    TensorFlow tells it, and those of PyTorch are called `torch.float32`, and so on.
    """
    dtype = getattr(dtype, "as_numpy_dtype", dtype)
    if not isinstance(dtype, (np.dtype, type)):
        dtype = str(dtype).rpartition(".")[2]
    try:
        return shapes.as_dtype(dtype)
    except TypeError:
        return None


__all__ = ["substitute"]
