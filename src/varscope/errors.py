"""What can go wrong, as exceptions that carry the facts.

Every class is also the built-in exception that a user of the original would catch.  The facts
stay on the exception as attributes; the text says what came, what was expected and what to write.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Self


class VarscopeError(Exception):
    """The base of all errors that this library defines."""

    @classmethod
    def stating(cls, message: str, **facts: Any) -> Self:
        """The error with its facts as attributes."""
        error = cls(message)
        vars(error).update(facts)
        return error


class ArgumentTypeError(VarscopeError, TypeError):
    """An argument of a type that cannot be used."""

    value: Any
    graph: Any

    @classmethod
    def of(cls, what: str, expected: str, value: object, mend: str | None = None) -> Self:
        """`what` was to be `expected`, and `value` came; `mend` is what to write."""
        return cls.stating(
            f"{what} must be {expected}, not {type(value).__name__}: {value!r:.200}; "
            f"{mend or mended(expected)}",
            value=value,
        )

    @classmethod
    def no_name(cls) -> Self:
        return cls(
            "variable_scope needs a name: give name_or_scope, or None and a default_name, as in "
            "variable_scope(None, 'layer')"
        )

    @classmethod
    def foreign_graph(cls, value: object, graph: object) -> Self:
        kind = f"{type(graph).__module__}.{type(graph).__qualname__}"
        return cls.stating(
            f"the graph of the value {value!r:.100} is a {kind}, not a varscope graph; attach it "
            "first: varscope.attach(value.graph)",
            value=value,
            graph=graph,
        )


class ArgumentValueError(VarscopeError, ValueError):
    """An argument of the right type whose value cannot be used."""

    value: Any

    @classmethod
    def of(cls, what: str, expected: str, value: object, mend: str | None = None) -> Self:
        """`what` was to be `expected`, and `value` came; `mend` is what to write."""
        return cls.stating(
            f"{what} must be {expected}, not {value!r:.200}; {mend or mended(expected)}",
            value=value,
        )


class InvalidNameError(VarscopeError, ValueError):
    """A name that no scope or variable can have; `name` and the offending `part`."""

    RULE = "write components of letters, digits, '_', '.' and '-', joined by single slashes"

    def __init__(self, message: str, name: str | None = None, part: str | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.part = part

    @classmethod
    def empty_component(cls, name: str) -> Self:
        if not name:
            return cls(f"the name is empty; {cls.RULE}", name, "")
        return cls(f"name {shown(name)} has an empty component; {cls.RULE}", name, "")

    @classmethod
    def bad_character(cls, name: str, index: int) -> Self:
        part = name[index]
        return cls(
            f"name {shown(name)} has the character {part!a} at position {index}; {cls.RULE}",
            name,
            part,
        )

    @classmethod
    def bad_start(cls, name: str) -> Self:
        first = name.partition("/")[0]
        return cls(
            f"name {shown(name)} starts with {first[0]!r}; at the root the first component "
            f"{shown(first)} must start with a letter, a digit or '.'; write "
            f"{first.lstrip('_-')[:50] or 'x'!r} there, or open a scope around it",
            name,
            first,
        )


def mended(expected: str) -> str:
    """What to write for an argument, where only the kind of it is known."""
    plain = {"a str": "write it as text, in quotes", "callable": "give a function"}
    return plain.get(expected, f"give {expected}")


def shown(name: str) -> str:
    """A name for a message: escaped, and not all of it where it is megabytes."""
    return ascii(name) if len(name) <= 200 else f"{name[:100]!a}...({len(name):,} characters)"


class InvalidShapeError(VarscopeError, ValueError):
    """A shape that no variable can have; `shape` as it came."""

    def __init__(self, message: str, shape: object = None) -> None:
        super().__init__(message)
        self.shape = shape


class InvalidShapeTypeError(InvalidShapeError, TypeError):
    """A shape or dimension of a type that is not an integer."""


class ReuseError(VarscopeError, ValueError):
    """A `reuse` that cannot be."""

    reuse: Any
    name: str

    @classmethod
    def unusable(cls, reuse: object) -> Self:
        return cls.stating(
            f"reuse must be None, True or varscope.AUTO_REUSE, not {reuse!r:.100}: reuse cannot "
            "be switched off inside a scope that reuses; write reuse=None to inherit it, or open "
            "the scope from outside, where reuse is off",
            reuse=reuse,
        )

    @classmethod
    def default_name(cls, name: str, reuse: object) -> Self:
        return cls.stating(
            f"reuse={reuse!r} with default_name={name!r} only: a default name is always a new "
            f"one; to reuse, name the scope: variable_scope({name!r}, reuse={reuse!r})",
            reuse=reuse,
            name=name,
        )


class NotCallableError(VarscopeError, ValueError):
    """A hook that cannot be called."""

    value: Any

    @classmethod
    def custom_getter(cls, value: object) -> Self:
        return cls.stating(
            f"custom_getter {value!r:.100} is not callable; write a function "
            "custom_getter(getter, name, *args, **kwargs)",
            value=value,
        )

    @classmethod
    def partitioner(cls, value: object) -> Self:
        return cls.stating(
            f"partitioner {value!r:.100} cannot be called for a list of slices; write a function "
            "partitioner(shape=..., dtype=...), or one such as varscope.fixed_size_partitioner(2)",
            value=value,
        )

    @classmethod
    def regularizer(cls, value: object) -> Self:
        return cls.stating(
            f"regularizer {value!r:.100} cannot be called on values; write a function of them, or "
            "one such as varscope.l2_regularizer(1e-4)",
            value=value,
        )

    @classmethod
    def model(cls, value: object) -> Self:
        return cls.stating(
            f"transform needs a function that asks for variables, not {value!r:.100}; write "
            "varscope.transform(model), without calling it",
            value=value,
        )

    @classmethod
    def step(cls, value: object) -> Self:
        return cls.stating(
            f"map_shards needs a function of values and a SaveSliceInfo, not {value!r:.100}; write "
            "one such as 'lambda value, shard: 0.9 * value'",
            value=value,
        )


class PartitionerError(VarscopeError, ValueError):
    """A partitioner that does not fit the variable; its `result`, and the variable's `shape`."""

    name: str | None
    shape: tuple[int | None, ...] | None
    result: Any

    @classmethod
    def bad_result(cls, name: str, shape: tuple[int, ...], result: object, fault: str) -> Self:
        ones = [1] * len(shape)
        return cls.stating(
            f"variable {name} of shape {shape}: the partitioner returned {result!r:.100}, {fault}; "
            f"return a list of {len(shape)} ints, one a dimension, each from 1 to the "
            f"dimension's size and at most one above 1, such as {ones}",
            name=name,
            shape=shape,
            result=result,
        )

    @classmethod
    def no_axis(cls, partitioner: Any, shape: tuple[int, ...]) -> Self:
        return cls.stating(
            f"{partitioner!r:.200} cannot cut the shape {shape}, which has {len(shape)} "
            f"dimensions; write an axis below {len(shape)}",
            name=None,
            shape=shape,
            result=None,
        )

    @classmethod
    def unknown_shape(cls, name: str, shape: Any) -> Self:
        return cls.stating(
            f"variable {name} is to be partitioned and its shape is {shape}: give one with every "
            "dimension known",
            name=name,
            shape=shape,
            result=None,
        )


class PartitionMismatchError(VarscopeError, ValueError):
    """A variable that was made whole, or in parts, and is asked for otherwise.

    `name`, `site` of its creation, the partitions that are `expected`, None for whole, and those
    that were `given`, None where that is not known.
    """

    name: str
    site: tuple[str, int, str]
    expected: tuple[int, ...] | None
    given: tuple[int, ...] | None

    @classmethod
    def made_whole(cls, name: str, site: tuple[str, int, str]) -> Self:
        asked = "with a partitioner; leave that out, or give it where the variable is created"
        return cls._of(name, site, None, None, asked)

    @classmethod
    def made_in_parts(
        cls, name: str, site: tuple[str, int, str], expected: tuple[int, ...]
    ) -> Self:
        asked = (
            "without a partitioner in a scope that does not reuse; share it with reuse=True or "
            "reuse=varscope.AUTO_REUSE, or write another name"
        )
        return cls._of(name, site, expected, None, asked)

    @classmethod
    def other_parts(
        cls,
        name: str,
        site: tuple[str, int, str],
        expected: tuple[int, ...],
        given: tuple[int, ...],
    ) -> Self:
        asked = f"in partitions {list(given)}; leave the partitioner out to share it as it is"
        return cls._of(name, site, expected, given, asked)

    @classmethod
    def _of(
        cls,
        name: str,
        site: tuple[str, int, str],
        expected: tuple[int, ...] | None,
        given: tuple[int, ...] | None,
        asked: str,
    ) -> Self:
        made = "whole" if expected is None else f"in partitions {list(expected)}"
        file, line, function = site
        return cls.stating(
            f"variable {name} was made {made}, at {file}:{line} in {function}, and is asked for "
            f"{asked}",
            name=name,
            site=site,
            expected=expected,
            given=given,
        )


class RegularizerError(VarscopeError, ValueError):
    """A regularizer that returned no number; the variable's `name`, and its `result`."""

    name: str
    result: Any

    @classmethod
    def no_number(cls, name: str, regularizer: object, result: Any) -> Self:
        return cls.stating(
            f"variable {name}: the regularizer {regularizer!r:.100} returned an array of shape "
            f"{tuple(result.shape)}; return a number, such as a sum over the values",
            name=name,
            result=result,
        )


class VariableExistsError(VarscopeError, ValueError):
    """A new variable was wanted and one of this name is there; `name`, `site` of its creation."""

    name: str
    site: tuple[str, int, str]

    @classmethod
    def of(cls, name: str, site: tuple[str, int, str], scope: str) -> Self:
        file, line, function = site
        return cls.stating(
            f"variable {name} already exists, created at {file}:{line} in {function}; to share "
            f"it, open {f'scope {scope!r}' if scope else 'the root scope'} with reuse=True, or "
            "with reuse=varscope.AUTO_REUSE to create what is missing",
            name=name,
            site=site,
        )


class NamesTakenError(VariableExistsError):
    """Variables were to be declared together and some are there: all their `names`.

    `name` is the first of them, `site` that of its creation.
    """

    names: list[str]

    @classmethod
    def among(cls, names: list[str], site: tuple[str, int, str] | None) -> Self:
        lines = [f"  {name}" for name in names[:10]]
        if site is not None:
            lines[0] += f" (created at {site[0]}:{site[1]} in {site[2]})"
        if len(names) > 10:
            lines.append(f"  ... and {len(names) - 10:,} more")
        many = "1 variable is" if len(names) == 1 else f"{len(names):,} variables are"
        return cls.stating(
            "\n".join([f"{many} there already, and nothing was declared:", *lines])
            + "\nwrite other names for the scopes, or open the scope around them with "
            "reuse=varscope.AUTO_REUSE to share what is there and is alike",
            name=names[0],
            names=names,
            site=site,
        )


class VariableMissingError(VarscopeError, ValueError):
    """A variable was to be reused and is not there; `name`, `origin`, `similar` names.

    `template` is the template whose later call asked for it, where there is one.
    Code that tries names and catches this should not pay for the search for similar ones: that
    is made when the text or `similar` is first read.
    """

    name: str
    origin: tuple[str, tuple[str, int, str]] | None
    template: str | None = None
    _search: Callable[[], list[str]]

    @classmethod
    def of(
        cls,
        name: str,
        origin: tuple[str, tuple[str, int, str]] | None,
        search: Callable[[], list[str]],
    ) -> Self:
        return cls.stating(name, name=name, origin=origin, _search=search)

    @cached_property
    def similar(self) -> list[str]:
        """The nearest names that exist, the nearest first."""
        return self._search()

    def __str__(self) -> str:
        where = ""
        if self.origin is not None:
            scope, (file, line, function) = self.origin
            scope = f"scope {scope!r}" if scope else "the root scope"
            where = f"; {scope} switched reuse on at {file}:{line} in {function}"
        nearest = f"; nearest existing names: {', '.join(self.similar)}" if self.similar else ""
        mend = (
            "to create what is missing, open the scope with reuse=varscope.AUTO_REUSE, or without "
            "reuse"
        )
        if self.template is not None:
            mend = (
                f"template {self.template!r} creates at its first call only; ask for all of its "
                "variables there"
            )
        return f"variable {self.name} does not exist{where}{nearest}; {mend}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _missing, (self.name, self.origin, self.similar, self.template)


def _missing(
    name: str,
    origin: tuple[str, tuple[str, int, str]] | None,
    similar: list[str],
    template: str | None,
) -> VariableMissingError:
    """A pickled error, with the names that were found."""
    error = VariableMissingError.of(name, origin, lambda: similar)
    error.template = template
    return error


class ShapeMismatchError(VarscopeError, ValueError):
    """A shape that is not the variable's; `name`, `expected` and `given`."""

    name: str
    expected: Any
    given: Any

    @classmethod
    def of(cls, name: str, expected: object, given: object, what: str = "asked for") -> Self:
        return cls.stating(
            f"variable {name} has shape {expected}, and {given} was {what}; "
            f"{cls._mend(expected, what)}",
            name=name,
            expected=expected,
            given=given,
        )

    @staticmethod
    def _mend(expected: object, what: str) -> str:
        if what == "asked for":
            return f"write shape={expected} or leave it out, or write another name"
        verb = "return" if what.startswith("returned") else "give"
        return f"{verb} values of shape {expected}"


class DTypeMismatchError(VarscopeError, ValueError):
    """A dtype that is not the variable's; `name`, `expected` and `given`."""

    name: str
    expected: Any
    given: Any

    @classmethod
    def of(cls, name: str, expected: object, given: object, what: str = "asked for") -> Self:
        mend = f"write dtype={str(expected)!r}"
        if what != "asked for":
            mend = f"convert the values first, as in value.astype({str(expected)!r})"
        return cls.stating(
            f"variable {name} has dtype {expected}, and {given} was {what}; {mend}",
            name=name,
            expected=expected,
            given=given,
        )


class ParameterError(VarscopeError, ValueError):
    """Parameters of a transformed function that do not tell its variables; `name`, `similar`."""

    name: str
    similar: list[str]

    @classmethod
    def missing(cls, name: str, there: list[str]) -> Self:
        import difflib  # only a message needs it

        similar = difflib.get_close_matches(name, there[:4000], n=3, cutoff=0.5)
        nearest = f"; nearest that are there: {', '.join(similar)}" if similar else ""
        return cls.stating(
            f"the function asks for variable {name}, which is not in params{nearest}; pass what "
            "init returned for this function, or add the entry",
            name=name,
            similar=similar,
        )

    @classmethod
    def twice(cls, name: str) -> Self:
        return cls.stating(
            f"params has two entries for variable {name}, by its path and in dicts by scope; leave "
            "one of them out",
            name=name,
            similar=[],
        )

    @classmethod
    def no_tree(cls, name: str) -> Self:
        return cls.stating(
            f"variable {name} does not fit into dicts by scope: another variable has the path of "
            "its scope, or it that of another's; rename one, or leave out nested=True",
            name=name,
            similar=[],
        )


class InitializerError(VarscopeError, ValueError):
    """An initializer that cannot be, or does not fit its `variable`, which is given by its path."""

    variable: str


class DeviceError(VarscopeError, ValueError):
    """A device that cannot be used; `device`, and `known` or `present` ones where they help."""

    device: str
    known: list[str]
    present: list[str]
    variable: str

    @classmethod
    def unknown(cls, device: str, known: list[str]) -> Self:
        return cls.stating(
            f"device {device!r:.100} is unknown; known are {', '.join(known)} (a name that "
            "ends in a colon is followed by that library's device, as in jax:cpu or "
            "torch:cuda:0); write one of these, or add one: varscope.devices.register(name, put)",
            device=device,
            known=known,
        )

    @classmethod
    def not_installed(cls, device: str, module: str, install: str, error: ImportError) -> Self:
        return cls.stating(
            f"device {device!r:.100} needs the library {module}, which cannot be imported "
            f"({error}); install it: pip install {install}",
            device=device,
        )

    @classmethod
    def absent(cls, device: str, present: list[str], error: Exception) -> Self:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return cls.stating(
            f"device {device!r:.100} is not there ({reason:.300}); "
            + (
                f"there are {', '.join(present)}; write one of these"
                if present
                else "no device of its kind is; write caching_device='cpu'"
            ),
            device=device,
            present=present,
        )

    @classmethod
    def dtype(cls, device: str, dtype: object, error: Exception) -> Self:
        return cls.stating(
            f"device {device!r:.100} cannot hold {dtype} ({error!s:.300}); write another dtype, "
            'or caching_device=""',
            device=device,
        )

    @classmethod
    def not_registered(cls, device: str, reason: str) -> Self:
        return cls.stating(f"device {device!r:.100} cannot be registered: {reason}", device=device)

    @classmethod
    def of_variable(cls, name: str, error: DeviceError) -> Self:
        """The same error, of the variable that was to be created."""
        return cls.stating(f"variable {name}: {error}", **{**vars(error), "variable": name})


class GraphMismatchError(VarscopeError, ValueError):
    """Values of different graphs; `first` and `second` are two that differ."""

    first: Any
    second: Any

    @classmethod
    def of(cls, first: Any, second: Any) -> Self:
        return cls.stating(
            f"values belong to different graphs: {first!r:.100} to {first.graph!r}, and "
            f"{second!r:.100} to {second.graph!r}; give values of one graph",
            first=first,
            second=second,
        )


class ScopeOrderError(VarscopeError, RuntimeError):
    """A scope that was closed while it was not the innermost one; `closed` and `innermost`."""

    closed: str
    innermost: str

    @classmethod
    def still_open(cls, closed: str, innermost: str) -> Self:
        return cls.stating(
            f"{closed} was closed while {innermost}, opened after it, is still open; close "
            "scopes in the reverse order (a generator that is suspended inside one keeps it open)",
            closed=closed,
            innermost=innermost,
        )

    @classmethod
    def not_open(cls, closed: str, innermost: str) -> Self:
        return cls.stating(
            f"{closed} was closed and is not open in this thread or task, where the innermost "
            f"is {innermost}; close a scope where it was opened",
            closed=closed,
            innermost=innermost,
        )


class OpenScopeError(VarscopeError, RuntimeError):
    """Something that can only be done outside every scope."""

    @classmethod
    def reset(cls, innermost: str) -> Self:
        return cls(
            f"the default graph cannot be reset inside {innermost}; leave it first, or build in "
            "a graph of your own, inside 'with varscope.Graph().as_default():'"
        )


class FinalizedGraphError(VarscopeError, RuntimeError):
    """A finalized graph takes no new names."""

    name: str

    @classmethod
    def variable(cls, name: str) -> Self:
        return cls.stating(
            f"variable {name} cannot be created: the graph is finalized; create everything "
            "before graph.finalize()",
            name=name,
        )


class StorageError(VarscopeError, ValueError):
    """A storage that cannot do what was asked of it; `storage`, `directory` or `variables`."""

    storage: Any
    directory: Any
    variables: list[str]

    @classmethod
    def taken(cls, storage: object) -> Self:
        return cls.stating(
            f"{storage!r} is the storage of another graph; make a new one for each graph",
            storage=storage,
        )

    @classmethod
    def not_flat(cls, storage: object) -> Self:
        return cls.stating(
            f"{storage!r} keeps each variable by itself, so there is no flat view; write "
            "Graph(storage='arena')",
            storage=storage,
        )

    @classmethod
    def needs_posix(cls, storage: object) -> Self:
        return cls.stating(
            f"{storage!r} needs a system that can map a file which grows, as Linux and macOS do; "
            "write Graph(storage='arena')",
            storage=storage,
        )

    @classmethod
    def not_empty(cls, directory: object) -> Self:
        return cls.stating(
            f"directory {str(directory)!r} is not empty; give an empty one, or one that is not "
            "there yet",
            directory=directory,
        )

    @classmethod
    def no_array(cls, storage: object, name: str) -> Self:
        return cls.stating(
            f"the values of variable {name} lie on a cluster, and there is no memory to share; "
            "read a copy with v.value() or v.numpy(), and write with v.assign(...), v[...] = x or "
            "varscope.interop.dask.map_shards",
            storage=storage,
        )

    @classmethod
    def no_values(cls, storage: object, name: str) -> Self:
        return cls.stating(
            f"variable {name} has no values inside apply: they came as parameters; compute with "
            "what varscope.get_variable returns there",
            storage=storage,
        )

    @classmethod
    def not_copied(cls, storage: object) -> Self:
        return cls.stating(
            f"{storage!r} and its graph are not copied or pickled, as the values lie on a cluster; "
            "write varscope.save(graph, path), and varscope.restore into another graph",
            storage=storage,
        )

    @classmethod
    def not_on_cluster(cls, storage: object, name: str) -> Self:
        return cls.stating(
            f"variable {name} lies in {storage!r}, and map_shards changes variables on a cluster; "
            "write Graph(storage=varscope.interop.dask.Cluster(client))",
            storage=storage,
        )

    @classmethod
    def lost(cls, storage: object, names: list[str]) -> Self:
        """`variables` are the names of those whose values were lost."""
        return cls.stating(
            f"the values of {len(names):,} variables, {shown(names[0])} for one, were lost with a "
            "worker that died: they were sent to it, and no other one can make them; assign them "
            "again, or restore a checkpoint with varscope.restore",
            storage=storage,
            variables=names,
        )


class AdoptionError(VarscopeError, ValueError):
    """Memory that cannot become a variable's storage as it is; `name` of the variable."""

    name: str

    @classmethod
    def of(
        cls, name: Any, reason: str, mend: str = "write numpy.array(x), which is a copy"
    ) -> Self:
        return cls.stating(
            f"{name!s:.200} cannot be adopted without a copy: {reason}; {mend}", name=name
        )

    @classmethod
    def storage(cls, name: str, storage: object) -> Self:
        return cls.stating(
            f"variable {name} cannot have memory of somebody else's: {storage!r} keeps all "
            "variables of its graph together; adopt in a graph made with Graph(), or copy with "
            f"get_variable({name.rpartition('/')[2]!r}, initializer=array)",
            name=name,
        )

    @classmethod
    def cut(cls, name: str) -> Self:
        return cls.stating(
            f"variable {name} cannot be adopted: a partitioner is in force, and memory that is "
            "adopted stays in one piece; adopt where there is no partitioner, or copy with "
            f"get_variable({name.rpartition('/')[2]!r}, initializer=array)",
            name=name,
        )

    @classmethod
    def other_memory(cls, name: str, site: tuple[str, int, str]) -> Self:
        return cls.stating(
            f"variable {name} is there, created at {site[0]}:{site[1]} in {site[2]}, and has other "
            "memory; write get_variable(...).assign(array) to copy the values",
            name=name,
        )


class StorageFullError(VarscopeError, MemoryError):
    """No room for more values; `dtype`, `needed` and `capacity` in bytes."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # That of MemoryError, which comes next, refuses to make an object of a class like this; and
        # what copies errors, as dask does, asks for `__new__` by its name.
        return Exception.__new__(cls, *args, **kwargs)

    dtype: Any
    needed: int
    capacity: int

    @classmethod
    def arena(cls, dtype: object, needed: int, capacity: int) -> Self:
        return cls.stating(
            f"the arena's variables of {dtype} take {needed:,} bytes, and its capacity is "
            f"{capacity:,}; write Graph(storage=varscope.Arena(capacity=...)) with what all of a "
            "dtype will take",
            dtype=dtype,
            needed=needed,
            capacity=capacity,
        )

    @classmethod
    def file(cls, directory: object, dtype: object, needed: int, capacity: int) -> Self:
        return cls.stating(
            f"the variables of {dtype} take {needed:,} bytes, and the range of addresses for their "
            f"file in {str(directory)!r} ends at {capacity:,}; declare the large ones before the "
            "first values are made",
            dtype=dtype,
            needed=needed,
            capacity=capacity,
        )

    @classmethod
    def refused(cls, dtype: object, nbytes: int, reason: BaseException) -> Self:
        return cls.stating(
            f"the system does not let {nbytes:,} bytes of addresses be reserved for the variables "
            f"of {dtype}: {reason}; raise the limit, such as that of 'ulimit -v', or write "
            "Graph(storage='heap')",
            dtype=dtype,
            needed=nbytes,
            capacity=0,
        )


class CheckpointError(VarscopeError, ValueError):
    """Files that are no checkpoint, or a damaged one; `path`, and `tensor` or None."""

    path: Any
    tensor: str | None

    ANEW = "give the path of an intact checkpoint, or save this one again"

    @classmethod
    def of(cls, path: object, tensor: str | None, reason: str, mend: str = ANEW) -> Self:
        """What is wrong with a file, or with a tensor in it, and what to do about it."""
        which = "" if tensor is None else f": tensor {shown(tensor)}"
        return cls.stating(f"{path}{which}: {reason}; {mend}", path=path, tensor=tensor)

    @classmethod
    def flipped(cls, path: object, tensor: str, recorded: int, found: int) -> Self:
        return cls.of(
            path,
            tensor,
            f"its bytes are not those that were written: their CRC-32C is {found:08x}, and "
            f"{recorded:08x} was recorded",
        )

    @classmethod
    def closed(cls, path: object) -> Self:
        return cls.of(path, None, "the checkpoint is closed", "open it again with varscope.open")


class RestoreError(CheckpointError):
    """A checkpoint that does not fit a graph; all that differs, by name.

    `missing` are variables without a tensor, `left_over` tensors without a variable; `shapes` and
    `dtypes` map a variable to what (it has, the file has).
    """

    missing: list[str]
    left_over: list[str]
    shapes: dict[str, tuple[Any, Any]]
    dtypes: dict[str, tuple[Any, Any]]


class PlanError(VarscopeError, ValueError):
    """A plan that cannot be made or followed.

    `path` of the plan or of what it makes; `variables`, by why they cannot be planned; `workers`
    that have not filled all they should.
    """

    path: Any
    variables: dict[str, list[str]]
    workers: list[int]

    @classmethod
    def of(cls, path: object, reason: str) -> Self:
        """What is wrong with a plan."""
        return cls.stating(f"plan {path}: {reason}", path=path)

    @classmethod
    def unplannable(cls, path: object, lines: list[str], variables: dict[str, list[str]]) -> Self:
        """Variables whose values do not follow from the graph's seed and their path."""
        return cls.stating(
            "\n".join(
                [
                    f"{path} cannot be planned: a worker makes first values out of names and "
                    "settings alone",
                    *lines,
                    "declare these in a graph of their own, save that with varscope.save, and "
                    "restore both: varscope.restore(graph, [one, other])",
                ]
            ),
            path=path,
            variables=variables,
        )

    @classmethod
    def unfinished(cls, path: object, missing: int, pieces: int, workers: list[int]) -> Self:
        """The last step was asked for, and pieces of some workers are not there."""
        some = ", ".join(map(str, workers[:5]))
        some += f" and {len(workers) - 5:,} more" if len(workers) > 5 else ""
        return cls.stating(
            f"{path}: {missing:,} of {pieces:,} pieces are not filled, of worker {some}; run "
            f"these again: varscope.materialise(plan, {workers[0]}), or varscope materialise PLAN "
            f"--worker {workers[0]}",
            path=path,
            workers=workers,
        )


class NameMapError(VarscopeError, ValueError):
    """Rules for names that cannot be followed; `rule` is the number of one, from 1, or None."""

    rule: int | None = None


class WithdrawnError(VarscopeError, RuntimeError):
    """A variable that is no longer there: its creation was part of something that failed."""

    @classmethod
    def of(cls, name: str | None) -> Self:
        which = "this variable" if name is None else f"variable {name}"
        return cls(
            f"{which} was withdrawn: what created it raised; create it again with get_variable, "
            "and keep none of a call that has failed"
        )


class NotCoveredError(VarscopeError, NotImplementedError, AttributeError):
    """A part of TensorFlow 1 that `varscope.compat.tf1` does not have; `name` and `instead`.

    It is an AttributeError too, so that `hasattr` says no and tools that look around go on.
    """

    name: str
    instead: str

    @classmethod
    def of(cls, name: str, instead: str) -> Self:
        error = cls(f"{name} is not covered by varscope.compat.tf1: {instead}")
        error.name, error.instead = name, instead  # AttributeError keeps `name` in its own place
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, (self.name, self.instead)


class PictureError(VarscopeError, RuntimeError):
    """A picture that cannot be made because of a browser: none is there, or it has failed."""

    @classmethod
    def of(cls, ending: str, error: Exception) -> Self:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return cls(
            f"a {ending} picture is drawn by a browser, which has failed ({reason:.300}); install "
            "Chrome or Chromium (Debian: apt-get install chromium), or name one in the environment "
            "variable BROWSER_PATH, or write .html, which needs none here"
        )
