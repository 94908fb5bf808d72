"""How `get_variable` decides: custom getters, then sharing, then a plan and its commit.

A request is put together from what the caller gave and what the scope holds.  For a new variable
it becomes a `Spec`, which takes all checks; then the core adds one row, which cannot fail half-way.
The core calls `create_or_share` when it has not seen the like before, or when a getter has a say.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from varscope import devices, initializers, shapes
from varscope._scopecore import (
    AUTO_REUSE,
    ComposedGetter,
    Defaults,
    Registry,
    Spec,
    VariableScope,
    all_or_nothing,
    site_text,
    substituted,
    substitutions,
)
from varscope.errors import (
    AdoptionError,
    ArgumentTypeError,
    DeviceError,
    DTypeMismatchError,
    InitializerError,
    InvalidShapeError,
    NotCallableError,
    PartitionerError,
    PartitionMismatchError,
    ReuseError,
    ShapeMismatchError,
    VariableExistsError,
    VariableMissingError,
)
from varscope.flyweights import Settings
from varscope.memory import Adoption, storage_of
from varscope.partitioned import PartitionedVariable, add_partitioned, find_partitioned
from varscope.partitioners import call_partitioner
from varscope.regularizers import is_off
from varscope.variables import Content, Variable


class GraphKeys:
    """The standard names of collections, with the values that they have in TensorFlow 1.

    Variables enter the first two and `LOCAL_VARIABLES` by themselves, and regularizers'
    penalties `REGULARIZATION_LOSSES`; what goes into the others is for the model to say.

    >>> import varscope as vs
    >>> w = vs.get_variable("w", [2])
    >>> vs.get_collection(vs.GraphKeys.TRAINABLE_VARIABLES) == [w]
    True
    """

    GLOBAL_VARIABLES = "variables"
    TRAINABLE_VARIABLES = "trainable_variables"
    LOCAL_VARIABLES = "local_variables"
    MODEL_VARIABLES = "model_variables"
    METRIC_VARIABLES = "metric_variables"
    MOVING_AVERAGE_VARIABLES = "moving_average_variables"
    CONCATENATED_VARIABLES = "concatenated_variables"
    GLOBAL_STEP = "global_step"
    WEIGHTS = "weights"
    BIASES = "biases"
    ACTIVATIONS = "activations"
    LOSSES = "losses"
    REGULARIZATION_LOSSES = "regularization_losses"
    UPDATE_OPS = "update_ops"
    SUMMARIES = "summaries"
    TABLE_INITIALIZERS = "table_initializer"
    INIT_OP = "init_op"
    LOCAL_INIT_OP = "local_init_op"
    READY_OP = "ready_op"
    SUMMARY_OP = "summary_op"
    TRAIN_OP = "train_op"
    SAVERS = "savers"


@dataclass(slots=True, repr=False, eq=False)
class VariableRequest(Settings):
    """One call of `get_variable`, with the scope's defaults in place of what was left out."""

    graph: Registry
    scope: str  # path of the scope that was asked
    origin: tuple[str, Any, int] | None  # (scope, code, instruction) that switched reuse on
    name: str  # full name
    shape: Any
    dtype: Any  # None where an initializer's own dtype counts
    default_dtype: np.dtype
    initializer: Any
    regularizer: Any
    reuse: Any
    trainable: bool
    collections: Any
    caching_device: Any
    partitioner: Any
    validate_shape: bool
    constraint: Any


def create_or_share(
    graph: Registry,
    scope: str,
    defaults: Defaults,
    mode: int,
    origin: tuple[str, Any, int] | None,
    name: Any,
    shape: Any,
    dtype: Any,
    initializer: Any,
    regularizer: Any,
    trainable: Any,
    collections: Any,
    caching_device: Any,
    partitioner: Any,
    validate_shape: Any,
    custom_getter: Any,
    constraint: Any,
) -> Any:
    """The variable of a name in a scope; the core's way out of compiled code."""
    if not isinstance(name, str):
        raise ArgumentTypeError.of("name", "a str", name, how_to_name(name))
    name = str.__str__(name)
    arguments = {
        "shape": shape,
        "dtype": None if dtype is None else shapes.as_dtype(dtype),
        "initializer": inherited(initializer, defaults.initializer),
        "regularizer": inherited(regularizer, defaults.regularizer),
        "reuse": (False, True, AUTO_REUSE)[mode],
        "trainable": trainable,
        "collections": collections,
        "caching_device": inherited(caching_device, defaults.caching_device),
        "partitioner": inherited(partitioner, defaults.partitioner),
        "validate_shape": validate_shape,
        "constraint": inherited(constraint, defaults.constraint),
    }
    getter = TrueGetter(graph, scope, origin, defaults.dtype, arguments["reuse"])
    full_name = f"{scope}/{name}" if scope else name
    custom = composed(custom_getter, defaults.custom_getter)
    if custom is None:
        return getter(full_name, **arguments)
    if dtype is None and not initializers.is_value(arguments["initializer"]):
        arguments["dtype"] = defaults.dtype  # a getter sees what will be used
    return all_or_nothing(custom, getter, full_name, **arguments)


def how_to_name(given: object) -> str:
    """What to write for a name that is none."""
    if isinstance(given, VariableScope):
        return "open the scope, 'with variable_scope(scope):', and ask for a name inside"
    return "write the name first, as text in quotes, as in get_variable('w', [3, 4])"


def inherited(given: Any, default: Any) -> Any:
    """What the caller gave, or else what the scope holds."""
    return default if given is None else given


def composed(
    inner: Callable[..., Any] | None, outer: Callable[..., Any] | None
) -> Callable[..., Any] | None:
    """The call's getter inside the scope's: the inner one runs first."""
    if inner is None:
        return outer
    if not callable(inner):
        raise NotCallableError.custom_getter(inner)
    return inner if outer is None else ComposedGetter(inner, outer)


class TrueGetter:
    """The innermost `getter` that custom getters call: it creates or shares by full name."""

    __slots__ = ("_facts", "_reuse")

    def __init__(
        self,
        graph: Registry,
        scope: str,
        origin: tuple[str, Any, int] | None,
        default_dtype: np.dtype,
        reuse: Any,
    ) -> None:
        self._facts = graph, scope, origin, default_dtype
        self._reuse = reuse

    def __call__(
        self,
        name: str,
        shape: Any = None,
        dtype: Any = None,
        initializer: Any = None,
        regularizer: Any = None,
        reuse: Any = None,
        trainable: Any = True,
        collections: Any = None,
        caching_device: Any = None,
        partitioner: Any = None,
        validate_shape: Any = True,
        constraint: Any = None,
    ) -> Any:
        graph, scope, origin, default_dtype = self._facts
        if not isinstance(name, str):
            raise ArgumentTypeError.of("the name for a getter", "a str", name)
        name = str.__str__(name)
        if reuse is None:
            reuse = self._reuse
        elif not (reuse is True or reuse is False or reuse is AUTO_REUSE):
            raise ReuseError.unusable(reuse)
        request = VariableRequest(
            graph, scope, origin, name, shape, dtype, default_dtype, initializer, regularizer,
            reuse, bool(trainable), collections, caching_device, partitioner,
            bool(validate_shape), constraint,
        )  # fmt: skip
        if substitutions.get(()):  # an entry that does not fit takes back what was created for it
            return all_or_nothing(resolve_to_entry, request)
        return resolve(request)


def resolve_to_entry(request: VariableRequest) -> Any:
    """What stands for the variable of a request."""
    return substituted(resolve(request))


def resolve(request: VariableRequest) -> Variable | PartitionedVariable:
    """Share or create, as the request's reuse says."""
    graph, name = request.graph, request.name
    if request.partitioner is not None and not is_hook(request.partitioner):
        raise NotCallableError.partitioner(request.partitioner)
    while True:
        whole = graph._find(name)
        if whole is not None:
            return share_whole(request, whole)
        parts = find_partitioned(graph, name)
        if parts is not None:
            return share_parts(request, parts)
        if request.reuse is True:
            raise missing(request)
        made = create(request)
        if made is not None:
            return made
        # Another thread was quicker: look again.


def create(request: VariableRequest) -> Variable | PartitionedVariable | None:
    """One more variable; None where another thread was quicker."""
    spec = plan(request)
    if callable(request.caching_device):
        return all_or_nothing(add_and_place, request, spec)
    return add(request, spec)


def add(request: VariableRequest, spec: Spec) -> Variable | PartitionedVariable | None:
    """Put what was planned into the graph; None where another thread was quicker."""
    if isinstance(request.initializer, Adoption):
        return adopt(request, spec)
    if not is_cut(request, spec.shape):
        return request.graph._add(request.name, spec)
    if not shapes.is_known(spec.shape):
        raise PartitionerError.unknown_shape(request.name, spec.shape)
    return add_partitioned(request.graph, request.name, spec, partitions_for(request, spec))


def adopt(request: VariableRequest, spec: Spec) -> Variable | None:
    """The same with the memory that is to be its storage."""
    graph: Any = request.graph
    if not graph.storage.adopts:
        raise AdoptionError.storage(request.name, graph.storage)
    if is_cut(request, spec.shape):
        raise AdoptionError.cut(request.name)
    content = Content(*storage_of(request.initializer.array))
    return graph._add(request.name, spec, content)  # type: ignore[no-any-return]


def add_and_place(request: VariableRequest, spec: Spec) -> Variable | PartitionedVariable | None:
    """The same where a function tells the devices; where that fails, all is withdrawn.

    It is asked for each shard of a variable that is made in parts.
    """
    made = add(request, spec)
    for variable in () if made is None else [made] if isinstance(made, Variable) else list(made):
        device = as_device(variable.path, request.caching_device(variable), spec.dtype)
        now = variable._spec  # the function may have read the variable, which settles its shape
        variable._spec = Spec(
            now.shape, now.dtype, now.initializer, now.regularizer, now.trainable,
            now.collections, device, now.constraint, now.validate_shape, False,
        )  # fmt: skip
    return made


def as_device(name: str, given: Any, dtype: np.dtype) -> str | None:
    """A caching device as it is kept: one that can be used, or None for none."""
    if given is None:
        return None
    if not isinstance(given, str):
        raise ArgumentTypeError.of(
            f"the caching_device of variable {name}",
            "a device, as in 'cpu', or a function from the variable to one", given,
        )  # fmt: skip
    if not given:
        return None
    device: str = sys.intern(str.__str__(given))  # specs with the same device are the same spec
    try:
        devices.check(device, dtype)
    except DeviceError as error:
        raise DeviceError.of_variable(name, error) from error.__cause__
    return device


def is_cut(request: VariableRequest, shape: shapes.Shape | None) -> bool:
    """Whether the partitioner has a say: never for a scalar, which has no axis to cut along."""
    return request.partitioner is not None and shape != ()


def partitions_for(request: VariableRequest, spec: Spec) -> tuple[int, ...]:
    """How the request's partitioner cuts a variable of this spec."""
    return call_partitioner(request.partitioner, request.name, spec.shape, spec.dtype)  # type: ignore[arg-type]


def share_whole(request: VariableRequest, found: Variable) -> Variable:
    """A variable that is there and was made whole, if that is what was asked for."""
    asked = found.shape if request.shape is None else shapes.as_shape(request.shape)
    if is_cut(request, asked):
        raise PartitionMismatchError.made_whole(request.name, found.creation_site)
    if request.reuse is False:
        raise VariableExistsError.of(request.name, found.creation_site, request.scope)
    check_shareable(request, found._spec)
    if isinstance(request.initializer, Adoption) and not found._lies_at(request.initializer.array):
        raise AdoptionError.other_memory(request.name, found.creation_site)
    return found


def share_parts(request: VariableRequest, found: PartitionedVariable) -> PartitionedVariable:
    """A variable that is there and was made in parts, if that is what was asked for."""
    site, partitions = found.creation_site, found.partitions
    if request.reuse is False and request.partitioner is None:
        raise PartitionMismatchError.made_in_parts(request.name, site, partitions)
    if request.reuse is False:
        raise VariableExistsError.of(request.name, site, request.scope)
    check_shareable(request, found._spec)
    if isinstance(request.initializer, Adoption):
        raise AdoptionError.other_memory(request.name, site)
    if request.partitioner is not None:
        asked = partitions_for(request, found._spec)
        if asked != partitions:
            raise PartitionMismatchError.other_parts(request.name, site, partitions, asked)
    return found


def missing(request: VariableRequest) -> VariableMissingError:
    """The error for a name that is not there, with the names that may have been meant."""
    graph, name, origin = request.graph, request.name, request.origin

    def similar() -> list[str]:
        import difflib  # only a message needs it, and importing varscope should be quick

        scope, _, leaf = name.rpartition("/")
        candidates = graph._leaves_like(scope, leaf, 2000)
        for path, _ in graph._partitions():  # which have no rows
            above, _, last = path.rpartition("/")
            if (above == scope or last == leaf) and len(candidates) < 4000:
                candidates.append(path)
        return difflib.get_close_matches(name, candidates, n=3, cutoff=0.5)

    return VariableMissingError.of(
        name, None if origin is None else (origin[0], site_text(origin[1:])), similar
    )


def check_shareable(request: VariableRequest, spec: Spec) -> None:
    """Whether the variable that is there is what was asked for."""
    shape, dtype = shapes.as_shape(request.shape), request.dtype
    if initializers.is_value(request.initializer):
        value = initializers.as_value(request.initializer)
        check_value(request, value)
        shape, dtype = value.shape, value.dtype
    elif dtype is None:
        dtype = request.default_dtype
    if not shapes.is_compatible(shape, spec.shape):
        raise ShapeMismatchError.of(request.name, spec.shape, shape)
    if shapes.as_dtype(dtype) != spec.dtype:
        raise DTypeMismatchError.of(request.name, spec.dtype, dtype)


def plan(request: VariableRequest) -> Spec:
    """What the new variable will be; everything that can be wrong with it is found here."""
    if request.constraint is not None and not callable(request.constraint):
        raise ArgumentTypeError.of(
            "constraint", "callable", request.constraint,
            "write a function of the values, such as 'lambda x: numpy.clip(x, 0, 1)'",
        )  # fmt: skip
    shape, initializer = shapes.as_shape(request.shape), request.initializer
    dtype = request.default_dtype if request.dtype is None else shapes.as_dtype(request.dtype)
    repeatable = True
    if initializers.is_value(initializer):
        value = initializers.as_value(initializer)
        check_value(request, value)
        # A number stays what it is; an array can be written to between two requests.
        repeatable = isinstance(initializer, (bool, int, float, complex))
        shape, dtype = value.shape, value.dtype
        if isinstance(initializer, Adoption):
            initializer = initializers.Adopted()
        else:
            initializer = initializers.Value(value)
    elif initializer is None:
        initializer = initializers.default_for(dtype)
        if initializer is None:
            raise InitializerError(
                f"variable {request.name} of dtype {dtype} needs an initializer: the default is "
                "there for floats, integers and bool only; write one, such as "
                "initializer=varscope.zeros"
            )
    elif isinstance(initializer, type):
        initializer = initializer()
    if shapes.is_known(shape):
        shapes.check_size(shape, dtype)  # type: ignore[arg-type]
    elif request.validate_shape:
        raise InvalidShapeError(
            f"variable {request.name} is new and its shape is {shape}: give one with every "
            "dimension known, such as [3, 4], or validate_shape=False to let the initializer "
            "decide",
            shape,
        )
    device = request.caching_device
    if callable(device):
        device, repeatable = None, False  # it is asked once the variable is there
    else:
        device = as_device(request.name, device, dtype)
    return Spec(
        shape, dtype, initializer, given_regularizer(request), request.trainable,
        as_collections(request), device, request.constraint, request.validate_shape, repeatable,
    )  # fmt: skip


def check_value(request: VariableRequest, value: np.ndarray) -> None:
    """An array or number as initializer allows no other shape or dtype beside it."""
    if request.shape is not None:
        raise InitializerError(
            f"variable {request.name}: the initializer is a value of shape {value.shape}, which "
            f"fixes the shape; do not specify shape ({request.shape!r:.100} was given), or write "
            "initializer=varscope.constant(value) to fill it"
        )
    if request.dtype is not None and shapes.as_dtype(request.dtype) != value.dtype:
        raise InitializerError(
            f"variable {request.name}: initializer dtype {value.dtype} and explicit dtype "
            f"{request.dtype} don't match; leave dtype out, or convert the initializer"
        )


def given_regularizer(request: VariableRequest) -> Any:
    """The regularizer, None where that means none."""
    if is_off(request.regularizer):
        return None
    if not is_hook(request.regularizer):
        raise NotCallableError.regularizer(request.regularizer)
    return request.regularizer


def is_hook(value: Any) -> bool:
    """Whether it can be called as it is: `l2_regularizer` still needs its scale."""
    return callable(value) and not isinstance(value, type)


def as_collections(request: VariableRequest) -> tuple[Hashable, ...]:
    """The collections that a new variable goes to."""
    keys = as_keys(request.collections, GraphKeys.GLOBAL_VARIABLES)
    if request.trainable and GraphKeys.TRAINABLE_VARIABLES not in keys:
        keys += (GraphKeys.TRAINABLE_VARIABLES,)
    return keys


def as_keys(collections: Any, default: Hashable) -> tuple[Hashable, ...]:
    """Keys of collections, each once; the default where none are given."""
    if collections is None:
        return (default,)
    if isinstance(collections, (str, bytes)):
        raise ArgumentTypeError.of(
            "collections",
            "a list of keys",
            collections,
            f"write collections=[{collections!r:.100}]",
        )
    return tuple(dict.fromkeys(collections))


__all__ = ["GraphKeys", "as_keys", "create_or_share"]
