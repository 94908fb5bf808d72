"""`tf.contrib.framework`: variables, finding them, and `arg_scope`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from varscope import graph
from varscope._scopecore import VariableScope
from varscope.compat.tf1 import _scopes
from varscope.compat.tf1._missing import missing
from varscope.compat.tf1._scopes import GraphKeys, get_collection
from varscope.compat.tf1.contrib._arg_scopes import (
    add_arg_scope,
    arg_scope,
    arg_scoped_arguments,
    current_arg_scope,
    has_arg_scope,
)
from varscope.compat.tf1.train import (
    create_global_step,
    get_global_step,
    get_or_create_global_step,
)

__all__ = [
    "add_arg_scope",
    "add_model_variable",
    "arg_scope",
    "arg_scoped_arguments",
    "create_global_step",
    "current_arg_scope",
    "get_global_step",
    "get_local_variables",
    "get_model_variables",
    "get_or_create_global_step",
    "get_trainable_variables",
    "get_unique_variable",
    "get_variables",
    "get_variables_by_name",
    "get_variables_by_suffix",
    "get_variables_to_restore",
    "has_arg_scope",
    "local_variable",
    "model_variable",
    "variable",
]


# --- creating


@add_arg_scope
def variable(
    name: str,
    shape: Any = None,
    dtype: Any = None,
    initializer: Any = None,
    regularizer: Any = None,
    trainable: bool = True,
    collections: Iterable[Hashable] | None = None,
    caching_device: Any = None,
    device: Any = None,
    partitioner: Any = None,
    custom_getter: Any = None,
    use_resource: bool | None = None,
) -> Any:
    """`tf.get_variable`; `device` and `use_resource` make no difference."""
    keys = [GraphKeys.GLOBAL_VARIABLES] if collections is None else list(collections)
    return _scopes.get_variable(
        name, shape, dtype, initializer, regularizer, trainable, tuple(keys), caching_device,
        partitioner, custom_getter=custom_getter,
    )  # fmt: skip


@add_arg_scope
def model_variable(
    name: str,
    shape: Any = None,
    dtype: Any = None,
    initializer: Any = None,
    regularizer: Any = None,
    trainable: bool = True,
    collections: Iterable[Hashable] | None = None,
    caching_device: Any = None,
    device: Any = None,
    partitioner: Any = None,
    custom_getter: Any = None,
    use_resource: bool | None = None,
) -> Any:
    """`variable` that is in MODEL_VARIABLES too."""
    keys = [*(collections or ()), GraphKeys.GLOBAL_VARIABLES, GraphKeys.MODEL_VARIABLES]
    # By name, so that an arg_scope over both functions does not give them twice.
    return variable(
        name,
        shape=shape,
        dtype=dtype,
        initializer=initializer,
        regularizer=regularizer,
        trainable=trainable,
        collections=keys,
        caching_device=caching_device,
        device=device,
        partitioner=partitioner,
        custom_getter=custom_getter,
        use_resource=use_resource,
    )


def local_variable(
    initial_value: Any,
    validate_shape: bool = True,
    name: str | None = None,
    use_resource: bool | None = None,
) -> Any:
    """`tf.Variable` that is local and not trainable."""
    return _scopes.Variable(
        initial_value,
        trainable=False,
        collections=[GraphKeys.LOCAL_VARIABLES],
        validate_shape=validate_shape,
        name=name,
    )


def add_model_variable(var: Any) -> None:
    """Put a variable into MODEL_VARIABLES, unless it is there."""
    if not any(var is other for other in get_collection(GraphKeys.MODEL_VARIABLES)):
        graph.add_to_collection(GraphKeys.MODEL_VARIABLES, var)


# --- finding


def get_variables(
    scope: str | VariableScope | None = None,
    suffix: str | None = None,
    collection: Hashable = GraphKeys.GLOBAL_VARIABLES,
) -> list[Any]:
    """The variables of a collection whose name fits `scope`, then anything, then `suffix`."""
    if isinstance(scope, VariableScope):
        scope = scope.name
    if suffix is not None:
        scope = f"{scope or ''}.*{suffix}"
    return get_collection(collection, scope)


def get_model_variables(
    scope: str | VariableScope | None = None, suffix: str | None = None
) -> list[Any]:
    """`get_variables` of the collection MODEL_VARIABLES."""
    return get_variables(scope, suffix, GraphKeys.MODEL_VARIABLES)


def get_local_variables(
    scope: str | VariableScope | None = None, suffix: str | None = None
) -> list[Any]:
    """`get_variables` of the collection LOCAL_VARIABLES."""
    return get_variables(scope, suffix, GraphKeys.LOCAL_VARIABLES)


def get_trainable_variables(
    scope: str | VariableScope | None = None, suffix: str | None = None
) -> list[Any]:
    """`get_variables` of the collection TRAINABLE_VARIABLES."""
    return get_variables(scope, suffix, GraphKeys.TRAINABLE_VARIABLES)


def get_variables_by_suffix(suffix: str, scope: str | VariableScope | None = None) -> list[Any]:
    """The global variables whose name ends so."""
    return get_variables(scope, suffix)


def get_variables_by_name(given_name: str, scope: str | VariableScope | None = None) -> list[Any]:
    """The global variables whose last component is this."""
    return [v for v in get_variables(scope) if v.op_name.rpartition("/")[2] == given_name]


def get_unique_variable(var_op_name: str) -> Any:
    """The variable of this full name."""
    try:
        return graph.get_default_graph()[var_op_name]
    except KeyError as error:
        raise ValueError(*error.args) from None


def get_variables_to_restore(
    include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
) -> list[Any]:
    """The global variables that fit one of `include` (default: all) and none of `exclude`."""

    def fitting(scopes: Iterable[str]) -> dict[Any, None]:
        return {v: None for scope in scopes for v in get_variables(scope)}

    wanted = dict.fromkeys(get_variables()) if include is None else fitting(include)
    unwanted = fitting(exclude or ())
    return [v for v in wanted if v not in unwanted]


__getattr__ = missing(__name__, "contrib.framework")
