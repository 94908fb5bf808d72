"""JAX: functions that ask for variables, as pure functions of a dict of parameters.

`transform` is `varscope.transform` too.  Needs JAX: pip install "varscope-core[jax]".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from varscope import shapes
from varscope.devices import Jax
from varscope.errors import (
    ArgumentTypeError,
    DeviceError,
    NotCallableError,
    ParameterError,
    StorageError,
)
from varscope.graph import Graph
from varscope.interop import imported
from varscope.partitioned import find_partitioned
from varscope.storage import Heap, Variable
from varscope.substitution import substitute

MAKE_IT = 'varscope.transform needs jax: pip install "varscope-core[jax]"'


class Transformed(NamedTuple):
    """A function that asks for variables as two that do not: `init` and `apply`.

    Made by `varscope.transform`, whose help has an example.
    """

    init: Callable[..., dict[str, Any]]
    apply: Callable[..., Any]


def transform(function: Callable[..., Any], nested: bool = False) -> Transformed:
    """A model of scopes and `get_variable` as a pure function of its parameters.

    `init(seed, *args)` calls the function once, in a graph of its own, and gives the first values
    of the variables that it asks for.  `apply(params, *args)` gives what the function returns with
    those values, or others, in their place.  It has no side effects, so that `jax.grad`, `jax.jit`,
    `jax.vmap` and the optimizers of optax work on it.

    Each call has its own graph: names are counted anew, scopes are those of the function alone,
    and what is asked for is checked as ever, shapes, dtypes and reuse.

    Parameters
    ----------
    function : callable
        It computes with what `get_variable` returns, which are arrays of JAX.
    nested : bool
        Whether `init` gives a dict of dicts by scope, `{"layer": {"w": ...}}`, instead of one by
        path, `{"layer/w": ...}`.  `apply` takes either, and what lies between.

    Returns
    -------
    Transformed
        The named tuple `(init, apply)`.  `seed` is an int; the values are those that variables have
        in a `Graph(seed)`.  A variable in parts is one entry, of the whole.

    Raises
    ------
    ParameterError : ValueError
        By `apply`: the function asks for a variable that is not in `params`.
    ShapeMismatchError, DTypeMismatchError : ValueError
        By `apply`: an entry is not what the function asks for.
    DeviceError : ValueError
        By `init`: JAX would change a dtype, as it does with 64 bits unless told otherwise.
    ImportError
        By `init`: JAX is not installed.

    >>> import jax, jax.numpy as jnp, varscope as vs
    >>> def model(x):
    ...     with vs.variable_scope("layer"):
    ...         w = vs.get_variable("w", [2, 1], initializer=vs.ones)
    ...     return jnp.sum(x @ w)
    >>> init, apply = vs.transform(model)
    >>> x = jnp.array([1.0, 2.0])
    >>> params = init(0, x)
    >>> params["layer/w"].tolist(), float(apply(params, x))
    ([[1.0], [1.0]], 3.0)
    >>> jax.jit(jax.grad(apply))(params, x)["layer/w"].tolist()
    [[1.0], [2.0]]
    """
    if not callable(function):
        raise NotCallableError.model(function)

    def init(seed: int, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        graph = Graph(shapes.as_seed(seed))
        values = FirstValues(graph)
        with graph.as_default(), substitute._in(graph, values):
            function(*args, **kwargs)
        return nest(values) if nested else dict(values)

    def apply(params: Mapping[str, Any], /, *args: Any, **kwargs: Any) -> Any:
        entries = flattened(params)
        graph = Graph(0, Nowhere())
        with (
            graph.as_default(),
            substitute._in(graph, Missing(entries)),
            substitute._in(graph, entries),
        ):
            return function(*args, **kwargs)

    return Transformed(init, apply)


def library() -> Any:
    """JAX."""
    return imported("jax", MAKE_IT)


class FirstValues(dict[str, Any]):
    """Arrays of JAX with the first values of variables, each made when it is asked for."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __missing__(self, path: str) -> Any:
        # Not graph[path], which goes by op names first.
        variable: Any = find_partitioned(self._graph, path) or self._graph._find(path)
        # A copy: JAX may share the memory of what it is given, and the function may write there.
        values = np.array(variable._read, order="C")
        try:
            self[path] = Jax().put(library(), None, "jax", values)
        except DeviceError as error:
            raise DeviceError.of_variable(path, error) from error.__cause__
        return self[path]


class Missing(dict[str, Any]):
    """Nothing stands for any variable: that it is asked for is an error."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self._there = entries

    def __missing__(self, path: str) -> Any:
        raise ParameterError.missing(path, list(self._there))


class Nowhere(Heap):
    """The storage of a graph whose variables have no values: they came as parameters."""

    def make(self, variable: Variable, content: Any = None) -> bool:
        raise StorageError.no_values(self, variable.path)

    def __repr__(self) -> str:
        return "the graph of a transformed function"


def flattened(params: Mapping[str, Any]) -> dict[str, Any]:
    """Entries by path, of a dict of dicts by scope too."""
    if not isinstance(params, Mapping):
        raise ArgumentTypeError.of("params", "a dict of paths and arrays", params)
    if not any(issubclass(kind, Mapping) for kind in set(map(type, params.values()))):
        return dict(params)
    found: dict[str, Any] = {}
    for path, value in leaves_of(params):
        if path in found:
            raise ParameterError.twice(path)
        found[path] = value
    return found


def leaves_of(params: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(path, entry) of a dict of dicts."""
    for name, value in params.items():
        path = f"{above}{name}"
        if isinstance(value, Mapping):
            yield from leaves_of(value, f"{path}/")
        else:
            yield path, value


def nest(entries: Mapping[str, Any]) -> dict[str, Any]:
    """A dict of dicts by scope, of entries by path."""
    found: dict[str, Any] = {}
    for path, value in entries.items():
        *scopes, name = path.split("/")
        inner = found
        for scope in scopes:
            inner = inner.setdefault(scope, {})
            if type(inner) is not dict:
                raise ParameterError.no_tree(path)
        if name in inner:
            raise ParameterError.no_tree(path)
        inner[name] = value
    return found


__all__ = ["Transformed", "transform"]
