"""Opening scopes and asking for variables, with the arguments that TensorFlow 1 took."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Never

import numpy as np

from varscope import creation, graph, scopes, shapes, templates
from varscope._scopecore import (
    GraphEntry,
    NameScopeEntry,
    ScopeEntry,
    VariableScope,
    graph_of_values,
    restored_scope,
)
from varscope.errors import ArgumentTypeError, NotCoveredError
from varscope.variables import Variable as VarscopeVariable

__all__ = [
    "GraphKeys",
    "Variable",
    "add_to_collection",
    "add_to_collections",
    "all_variables",
    "get_collection",
    "get_collection_ref",
    "get_local_variable",
    "get_variable",
    "global_variables",
    "local_variables",
    "make_template",
    "model_variables",
    "moving_average_variables",
    "name_scope",
    "op_scope",
    "set_random_seed",
    "trainable_variables",
    "variable_op_scope",
    "variable_scope",
]


class GraphKeys(creation.GraphKeys):
    """The standard names of collections, with a few more that TensorFlow 1 had."""

    ASSET_FILEPATHS = "asset_filepaths"
    EVAL_STEP = "eval_step"
    LOCAL_RESOURCES = "local_resources"
    QUEUE_RUNNERS = "queue_runners"
    READY_FOR_LOCAL_INIT_OP = "ready_for_local_init_op"
    RESOURCES = "resources"
    SAVEABLE_OBJECTS = "saveable_objects"
    VARIABLES = creation.GraphKeys.GLOBAL_VARIABLES


# --- scopes


def inherited(reuse: Any) -> Any:
    """`reuse` as varscope takes it: False, and 0 and 1 of early code, made None and True."""
    if isinstance(reuse, (bool, int, np.bool_)) and reuse in (False, True):
        return True if reuse else None
    return reuse


def first_value(initializer: Any) -> Any:
    """An initializer; lists, which get no dtype of their own, as arrays of TensorFlow's dtypes."""
    if isinstance(initializer, (list, tuple)):
        return as_tensor(initializer)
    return initializer


def as_tensor(value: Any, dtype: Any = None) -> np.ndarray:
    """What `tf.convert_to_tensor` made of a value: Python's numbers take 32 bits."""
    array = np.asarray(value)
    if dtype is not None:
        wanted = shapes.as_dtype(dtype)
        if not shapes.fits(array.dtype, wanted, "same_kind"):
            raise ArgumentTypeError(
                f"a value of dtype {array.dtype} cannot be a first value of dtype {wanted}; "
                f"convert it first, with numpy.asarray(value).astype({str(wanted)!r})"
            )
        return array.astype(wanted)
    if not hasattr(value, "dtype"):
        small = {"f8": np.float32, "i8": np.int32}.get(array.dtype.str[1:])
        if small is not None:
            return array.astype(small)
    return array


def variable_scope(
    name_or_scope: Any,
    default_name: str | None = None,
    values: Iterable[Any] | None = None,
    initializer: Any = None,
    regularizer: Any = None,
    caching_device: Any = None,
    partitioner: Any = None,
    custom_getter: Any = None,
    reuse: Any = None,
    dtype: Any = None,
    use_resource: bool | None = None,
    constraint: Any = None,
    auxiliary_name_scope: bool = True,
) -> ScopeEntry:
    """`varscope.variable_scope`, where `reuse=False` means None.

    `use_resource` makes no difference.

    >>> from varscope.compat import tf1 as tf
    >>> with tf.variable_scope("tower", reuse=False):
    ...     tf.get_variable("w", [2]).name
    'tower/w:0'
    """
    return scopes.variable_scope(
        name_or_scope, default_name, values, first_value(initializer), regularizer,
        caching_device, partitioner, custom_getter, inherited(reuse), dtype,
        constraint=constraint, auxiliary_name_scope=auxiliary_name_scope,
    )  # fmt: skip


def variable_op_scope(
    values: Iterable[Any],
    name_or_scope: Any,
    default_name: str | None = None,
    initializer: Any = None,
    regularizer: Any = None,
    caching_device: Any = None,
    partitioner: Any = None,
    custom_getter: Any = None,
    reuse: Any = None,
    dtype: Any = None,
    use_resource: bool | None = None,
    constraint: Any = None,
) -> ScopeEntry:
    """`variable_scope` as it was called before TensorFlow 1: the values come first."""
    return variable_scope(
        name_or_scope, default_name, values, initializer, regularizer, caching_device,
        partitioner, custom_getter, reuse, dtype, use_resource, constraint,
    )  # fmt: skip


class NameScopeInGraph:
    """A name scope in the graph of its values; what `name_scope` returns where there is one."""

    def __init__(self, name: str | None, graph: GraphEntry) -> None:
        self._graph = graph
        self._scope = scopes.name_scope(name)

    def __enter__(self) -> str:
        self._graph.__enter__()
        try:
            return self._scope.__enter__()
        except BaseException:
            self._graph.__exit__(None, None, None)
            raise

    def __exit__(self, *raised: Any) -> None:
        try:
            self._scope.__exit__(*raised)
        finally:
            self._graph.__exit__(*raised)


def name_scope(
    name: str | None, default_name: str | None = None, values: Iterable[Any] | None = None
) -> NameScopeEntry | NameScopeInGraph:
    """`varscope.name_scope`, with a name for where none is given, and `values` of one graph.

    >>> from varscope.compat import tf1 as tf
    >>> with tf.name_scope(None, "loss", [1.0]) as scope:
    ...     scope
    'loss/'
    """
    chosen = default_name if name is None else name
    if chosen is None and values is not None:
        raise ValueError(
            "name_scope has values and no name: give name or default_name, as in "
            "name_scope(name, 'loss', values)"
        )
    found = None if values is None else graph_of_values(values)
    if found is None:
        return scopes.name_scope(chosen)
    return NameScopeInGraph(chosen, found.as_default())


def op_scope(
    values: Iterable[Any], name: str | None, default_name: str | None = None
) -> NameScopeEntry | NameScopeInGraph:
    """`name_scope` as it was called before TensorFlow 1: the values come first."""
    return name_scope(name, default_name, values)


def make_template(
    name_: str,
    func_: Callable[..., Any],
    create_scope_now_: bool = False,
    unique_name_: str | None = None,
    custom_getter_: Any = None,
    **kwargs: Any,
) -> templates.Template:
    """`varscope.make_template`, whose own arguments end in an underscore here."""
    return templates.make_template(
        name_,
        func_,
        create_scope_now=create_scope_now_,
        unique_name=unique_name_,
        custom_getter=custom_getter_,
        **kwargs,
    )


# --- variables


def get_variable(
    name: str,
    shape: Any = None,
    dtype: Any = None,
    initializer: Any = None,
    regularizer: Any = None,
    trainable: bool | None = True,
    collections: Iterable[Hashable] | None = None,
    caching_device: Any = None,
    partitioner: Any = None,
    validate_shape: bool = True,
    use_resource: bool | None = None,
    custom_getter: Any = None,
    constraint: Any = None,
) -> Any:
    """`varscope.get_variable` in the order of TensorFlow 1; `use_resource` makes no difference.

    Returns
    -------
    Variable, or PartitionedVariable where a partitioner has a say
    """
    return scopes.get_variable(
        name, shape, dtype, first_value(initializer), regularizer, trainable is None or trainable,
        collections, caching_device, partitioner, validate_shape, custom_getter,
        constraint=constraint,
    )  # fmt: skip


def get_local_variable(
    name: str,
    shape: Any = None,
    dtype: Any = None,
    initializer: Any = None,
    regularizer: Any = None,
    trainable: bool | None = False,
    collections: Iterable[Hashable] | None = None,
    caching_device: Any = None,
    partitioner: Any = None,
    validate_shape: bool = True,
    use_resource: bool | None = None,
    custom_getter: Any = None,
    constraint: Any = None,
) -> Any:
    """`varscope.get_local_variable`; as in TensorFlow 1 it is never trainable."""
    return scopes.get_local_variable(
        name, shape, dtype, first_value(initializer), regularizer, collections, caching_device,
        partitioner, validate_shape, custom_getter, constraint=constraint,
    )  # fmt: skip


def nowhere() -> VariableScope:
    """The root scope of the current graph as nobody changed it: no reuse, no defaults."""
    return restored_scope("", "", False, None, None, None, None, None, None, None)


class VariableClass(type):
    """The type of `tf.Variable`, of which every variable is an instance."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, VarscopeVariable)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, VarscopeVariable)


class Variable(metaclass=VariableClass):
    """A new variable with a first value, under a name that nobody has yet.

    It goes by name scopes alone: it takes the first free op name of `name` (default "Variable")
    in the current one.  Reuse, custom getters and the defaults of variable scopes have no part in
    it.  In one thing it is not as it was: the name that it got is also its path, by which
    `get_variable` finds it.

    Whatever `tf.get_variable` returns is an instance, partitioned variables excepted.

    Parameters
    ----------
    initial_value : array, number, variable, or a function without arguments that returns one
        Python's numbers take 32 bits.
    dtype : dtype-like, optional
        What the first value is cast to.
    trainable, collections, validate_shape, caching_device, constraint
        As for `get_variable`.
    variable_def, expected_shape, import_scope, use_resource
        Make no difference.

    >>> from varscope.compat import tf1 as tf
    >>> with tf.variable_scope("layer"):
    ...     b = tf.Variable([0.5, 0.5], name="b")
    ...     c = tf.Variable([0.5, 0.5], name="b")
    >>> b.name, c.name, b.dtype, isinstance(b, tf.Variable)
    ('layer/b:0', 'layer/b_1:0', dtype('float32'), True)
    """

    def __new__(
        cls,
        initial_value: Any = None,
        trainable: bool | None = True,
        collections: Iterable[Hashable] | None = None,
        validate_shape: bool = True,
        caching_device: Any = None,
        name: str | None = None,
        variable_def: Any = None,
        dtype: Any = None,
        expected_shape: Any = None,
        import_scope: str | None = None,
        constraint: Any = None,
        use_resource: bool | None = None,
    ) -> Any:
        if initial_value is None:
            raise ValueError(
                "tf.Variable needs a first value: write tf.Variable(numpy.zeros(shape)), or "
                "tf.get_variable(name, shape)"
            )
        value = as_tensor(initial_value() if callable(initial_value) else initial_value, dtype)
        here = graph.get_default_graph()
        path = here.unique_name("Variable" if name is None else name, mark_as_used=False)
        return nowhere().get_variable(
            path,
            initializer=value,
            trainable=trainable is None or trainable,
            collections=collections,
            caching_device=caching_device,
            validate_shape=validate_shape,
            constraint=constraint,
        )


# --- collections


def get_collection(key: Hashable, scope: str | re.Pattern[str] | None = None) -> list[Any]:
    """The entries of a collection, as TensorFlow 1 chose them.

    `scope` is a regular expression that is matched with `re.match`, so "D" stands for "D_pre"
    too; `Graph.get_collection` takes a path, which ends at a slash.  Entries without a name are
    left out where a scope is given.
    """
    if isinstance(scope, str):
        scope = re.compile(scope)
    return graph.get_default_graph().get_collection(key, scope)


def get_collection_ref(key: Hashable) -> CollectionRef:
    """The collection itself: what is appended is in it."""
    return CollectionRef(graph.get_default_graph(), key)


class CollectionRef(Sequence[Any]):
    """A collection of a graph as a list that only grows."""

    def __init__(self, graph: graph.Graph, key: Hashable) -> None:
        self._graph = graph
        self._key = key

    def _now(self) -> list[Any]:
        return self._graph.get_collection(self._key)

    def __len__(self) -> int:
        return len(self._now())

    def __getitem__(self, index: Any) -> Any:
        return self._now()[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._now())

    def append(self, value: Any) -> None:
        """Add something at the end."""
        self._graph.add_to_collection(self._key, value)

    def extend(self, values: Iterable[Any]) -> None:
        """Add several things at the end."""
        for value in values:
            self.append(value)

    def __delitem__(self, index: Any) -> Never:
        raise NotCoveredError.of(
            "deleting from a collection",
            "collections only grow; keep such things in a list of your own, or build the model "
            "anew in another graph",
        )

    def __repr__(self) -> str:
        return f"<collection {self._key!r}: {self._now()!r:.500}>"


def add_to_collection(name: Hashable, value: Any) -> None:
    """Add anything to a collection of the current graph."""
    graph.add_to_collection(name, value)


def add_to_collections(names: Hashable | Iterable[Hashable], value: Any) -> None:
    """Add one thing to several collections."""
    several = names if isinstance(names, Iterable) and not isinstance(names, str) else (names,)
    for name in dict.fromkeys(several):
        graph.add_to_collection(name, value)


def global_variables(scope: str | re.Pattern[str] | None = None) -> list[Any]:
    """The global variables of the current graph; `scope` as in `get_collection`."""
    return get_collection(GraphKeys.GLOBAL_VARIABLES, scope)


def all_variables() -> list[Any]:
    """`global_variables` as it was called before TensorFlow 1."""
    return global_variables()


def local_variables(scope: str | re.Pattern[str] | None = None) -> list[Any]:
    """The local variables of the current graph; `scope` as in `get_collection`."""
    return get_collection(GraphKeys.LOCAL_VARIABLES, scope)


def trainable_variables(scope: str | re.Pattern[str] | None = None) -> list[Any]:
    """The trainable variables of the current graph; `scope` as in `get_collection`."""
    return get_collection(GraphKeys.TRAINABLE_VARIABLES, scope)


def model_variables(scope: str | re.Pattern[str] | None = None) -> list[Any]:
    """What is in the collection MODEL_VARIABLES; `scope` as in `get_collection`."""
    return get_collection(GraphKeys.MODEL_VARIABLES, scope)


def moving_average_variables(scope: str | re.Pattern[str] | None = None) -> list[Any]:
    """The variables of which there is a moving average; `scope` as in `get_collection`."""
    return get_collection(GraphKeys.MOVING_AVERAGE_VARIABLES, scope)


def set_random_seed(seed: int | None) -> None:
    """`varscope.set_random_seed`."""
    graph.set_random_seed(seed)
