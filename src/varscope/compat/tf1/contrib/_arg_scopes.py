"""Defaults for the arguments of functions, by block: `arg_scope`."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from varscope.errors import ArgumentTypeError

__all__ = [
    "add_arg_scope",
    "arg_scope",
    "arg_scoped_arguments",
    "current_arg_scope",
    "has_arg_scope",
]

F = TypeVar("F", bound=Callable[..., Any])

_current: ContextVar[Mapping[str, Mapping[str, Any]]] = ContextVar("varscope_tf1_arg_scope")


def current_arg_scope() -> Mapping[str, Mapping[str, Any]]:
    """The arguments that are set here: a function's key to its arguments."""
    return _current.get({})


def has_arg_scope(func: Any) -> bool:
    """Whether `arg_scope` can set arguments of the function."""
    return hasattr(func, "_key_op")


def arg_scoped_arguments(func: Any) -> tuple[str, ...]:
    """The names of the arguments that `arg_scope` can set: those with a default."""
    if not has_arg_scope(func):
        raise not_decorated(func)
    parameters = inspect.signature(func).parameters.values()
    return tuple(p.name for p in parameters if p.default is not inspect.Parameter.empty)


def not_decorated(func: Any) -> ValueError:
    return ValueError(
        f"{func!r:.200} cannot be used in arg_scope; decorate it with @add_arg_scope where it is "
        "defined"
    )


def add_arg_scope(func: F) -> F:
    """A decorator: `arg_scope` can set arguments of this function; what a call gives counts more.

    >>> from varscope.compat import tf1 as tf
    >>> framework = tf.contrib.framework
    >>> @framework.add_arg_scope
    ... def dense(size, activation="none"):
    ...     return size, activation
    >>> with framework.arg_scope([dense], activation="relu"):
    ...     dense(3), dense(3, activation="tanh")
    ((3, 'relu'), (3, 'tanh'))
    """
    key = f"{func.__module__}.{func.__qualname__}"

    @functools.wraps(func)
    def with_args(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **{**current_arg_scope().get(key, {}), **kwargs})

    with_args._key_op = key  # type: ignore[attr-defined]
    return with_args  # type: ignore[return-value]


@contextlib.contextmanager
def arg_scope(
    list_ops_or_scope: Iterable[Any] | Mapping[str, Mapping[str, Any]], **kwargs: Any
) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    """Set arguments of decorated functions for a block, for this thread or task.

    Parameters
    ----------
    list_ops_or_scope : list of functions, or what another `arg_scope` yielded
        The latter brings back what was set there, and only that.
    kwargs
        The arguments.
    """
    before = current_arg_scope()
    if isinstance(list_ops_or_scope, Mapping):
        if kwargs:
            raise ValueError(
                "arg_scope(scope) brings back the arguments of that scope: open another arg_scope "
                f"inside it for {', '.join(kwargs)}"
            )
        inside = dict(list_ops_or_scope)
    elif isinstance(list_ops_or_scope, (list, tuple, set)):
        inside = dict(before)
        for func in list_ops_or_scope:
            if not has_arg_scope(func):
                raise not_decorated(func)
            inside[func._key_op] = {**inside.get(func._key_op, {}), **kwargs}
    else:
        raise ArgumentTypeError.of(
            "list_ops_or_scope", "a list of functions or an arg_scope", list_ops_or_scope
        )
    _current.set(inside)
    try:
        yield inside
    finally:
        _current.set(before)
