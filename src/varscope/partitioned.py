"""`PartitionedVariable`: one variable whose values lie in several, its shards."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, overload

import numpy as np

from varscope import initializers
from varscope._scopecore import Registry, Spec, swap_live
from varscope.errors import ArgumentTypeError, VariableExistsError, WithdrawnError
from varscope.partitioners import Slicing
from varscope.shapes import Part
from varscope.variables import Valued, Variable

if TYPE_CHECKING:
    import numpy.typing as npt


class Partition:
    """What a graph keeps of a variable that was made in parts.

    `spec` is that of the whole.  `live` holds a weak reference to the object that stands for the
    variable while somebody holds it, so that there is one at a time and no cycle with the graph.
    """

    __slots__ = ("live", "slicing", "spec")

    live: weakref.ref[PartitionedVariable] | None

    def __init__(self, spec: Spec, slicing: Slicing) -> None:
        self.spec = spec
        self.slicing = slicing
        self.live = None

    def again(self, spec: Spec) -> Partition:
        """The same for another variable, or one of another graph."""
        return Partition(spec, self.slicing)

    def __reduce__(self) -> tuple[Callable[..., Partition], tuple[Spec, tuple[int, ...]]]:
        return Partition.cut, (self.spec, self.slicing.partitions)

    @classmethod
    def cut(cls, spec: Spec, partitions: tuple[int, ...]) -> Partition:
        """What is kept of a variable of this spec in so many slices a dimension."""
        return cls(spec, Slicing.of(spec.shape, partitions))

    def part_spec(self, index: int) -> Spec:
        """What a shard is.  The regularizer is not among it: the whole has one penalty."""
        spec = self.spec
        return Spec(
            self.slicing.part(index).shape, spec.dtype, spec.initializer, None, spec.trainable,
            spec.collections, spec.caching_device, spec.constraint, spec.validate_shape, False,
        )  # fmt: skip


class PartitionedVariable(Valued):
    """A variable that is cut along one axis into shards; made where a partitioner has a say.

    Its shards are variables named `name/part_0`, `name/part_1`, ...; they are what collections
    hold.  While somebody holds one, it is the only object for its name: `is`, `==` and `hash` go
    by identity.  Arithmetic works as on its value and gives arrays; iterating and indexing give
    shards.

    >>> import varscope as vs
    >>> v = vs.get_variable("v", [5, 2], partitioner=vs.fixed_size_partitioner(2))
    >>> v.name, v.shape, v.partitions, len(v)
    ('v', (5, 2), (2, 1), 2)
    >>> [(shard.name, shard.shape) for shard in v]
    [('v/part_0:0', (3, 2)), ('v/part_1:0', (2, 2))]
    """

    _graph: Registry
    _kept: Partition
    _path: str
    _shards: list[Variable]

    def __init__(self) -> None:
        raise ArgumentTypeError(
            "a PartitionedVariable is made by varscope.get_variable; write "
            "get_variable('v', [4, 2], partitioner=varscope.fixed_size_partitioner(2))"
        )

    @classmethod
    def _of(cls, graph: Registry, path: str, kept: Partition) -> PartitionedVariable:
        """One without its shards yet."""
        new = cls.__new__(cls)
        new._graph, new._path, new._kept, new._shards = graph, path, kept, []
        return new

    # --- what it is
    @property
    def graph(self) -> Any:
        """The graph that it belongs to."""
        return self._graph

    @property
    def path(self) -> str:
        """The full name by which `get_variable` finds it: scope path, slash, name."""
        return self._path

    @property
    def name(self) -> str:
        """The same as `path`: it is no op, and its name is never made unique."""
        return self._path

    @property
    def op_name(self) -> str:
        """The same as `path`."""
        return self._path

    @property
    def _spec(self) -> Spec:
        return self._kept.spec

    @property
    def partitions(self) -> tuple[int, ...]:
        """Into how many slices each dimension is cut."""
        return self._kept.slicing.partitions

    @property
    def creation_site(self) -> tuple[str, int, str]:
        """`(file, line, function)` of the call that created the variable."""
        return self._live_shards()[0].creation_site

    @property
    def initialized(self) -> bool:
        """Whether the values of all shards are allocated and filled."""
        return all(shard.initialized for shard in self._live_shards())

    @property
    def version(self) -> int:
        """How often values of the shards were set, all together."""
        return sum(shard.version for shard in self._live_shards())

    def __len__(self) -> int:
        return len(self._live_shards())

    def __bool__(self) -> bool:
        return True

    @overload
    def __getitem__(self, index: SupportsIndex) -> Variable: ...
    @overload
    def __getitem__(self, index: slice) -> list[Variable]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Variable | list[Variable]:
        return self._live_shards()[index]

    def __iter__(self) -> Iterator[Variable]:
        return iter(tuple(self._live_shards()))

    def _live_shards(self) -> list[Variable]:
        if self._shards[0]._withdrawn:
            raise WithdrawnError.of(self._path)
        return self._shards

    # --- reading
    def value(self) -> np.ndarray:
        """The values of the whole as a read-only array: a copy where there are several shards."""
        shards = self._live_shards()
        if len(shards) == 1:
            return shards[0]._read.view()
        whole = self.numpy()
        whole.flags.writeable = False
        return whole

    def numpy(self) -> np.ndarray:
        """A copy of the values of the whole."""
        slicing = self._kept.slicing
        shards = self._live_shards()
        whole = np.empty(slicing.shape, self.dtype)
        for i, shard in enumerate(shards):
            whole[slicing.part(i).index] = shard._read
        return whole

    def initialize(self, force: bool = False) -> Self:
        """Make the first values of all shards; with `force`, in place of later ones too."""
        shards = self._live_shards()
        if force and initializers.drawn_from(self._spec, Part.of_whole(self.shape)) is None:
            return self._returned_anew(shards)
        for shard in shards:
            shard.initialize(force)
        return self

    def _returned_anew(self, shards: list[Variable]) -> Self:
        """What the initializer returns now; one that is asked for the whole is asked once."""
        for i, shard in enumerate(shards):
            part = self._kept.slicing.part(i)
            values, given = shard._returned(self._path, part)
            if given != part:
                return self._store(values)
            shard._store(values)
        return self

    def initial_value(self, index: Any = ...) -> np.ndarray:
        """The first values of the whole, or a part of them, made anew: nothing is stored.

        `index` is of ints, slices and `...`, as for an array of the whole.
        """
        part, drop = Part.of_whole(self.shape)[index]
        values = self._live_shards()[0]._first_values(self._path, part)
        return values if index is Ellipsis else values[drop]

    @property
    def _read(self) -> np.ndarray:
        return self.value()

    def _read_part(self, index: Any) -> np.ndarray:
        """The values of a basic index of the whole, where `[index]` gives shards."""
        found: np.ndarray = self.value()[index]
        return found

    # --- writing
    def _store(self, value: np.ndarray) -> Self:
        """Cut a value of the whole among the shards.

        What can fail comes first: the cast, then the memory of shards that have none yet.  Where
        that ends, those that got some have their part of the value, and the others what they had.
        """
        shards, slicing = self._live_shards(), self._kept.slicing
        value = value.astype(self.dtype, copy=False)
        for i in sorted(range(len(shards)), key=lambda i: shards[i].initialized):
            shards[i]._store(value[slicing.part(i).index])
        return self

    def _known_shape(self) -> tuple[int, ...]:
        return self._kept.slicing.shape

    def _to_write(self) -> np.ndarray:
        return self.numpy()

    def _written(self, array: np.ndarray) -> None:
        self._store(array)

    # --- as an array
    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(
                f"variable {self._path} lies in parts: as one array it is a copy; write v.numpy()"
            )
        return self.numpy() if dtype is None else self.numpy().astype(dtype, copy=False)

    def __repr__(self) -> str:
        if self._shards[0]._withdrawn:
            return "<PartitionedVariable, withdrawn: what created it raised>"
        state = "" if self.initialized else ", declared"
        return (
            f"<PartitionedVariable {self._path!r} shape={self.shape} dtype={self.dtype} "
            f"partitions={self.partitions}{state}>"
        )

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Registry, str]]:
        return find_partitioned, (self._graph, self._path)


def add_partitioned(
    graph: Registry, path: str, spec: Spec, partitions: tuple[int, ...]
) -> PartitionedVariable | None:
    """A new variable in parts: all of them or none; None where its name was taken meanwhile."""
    kept = Partition.cut(graph._shared_spec(spec), partitions)
    count = kept.slicing.count
    larger = kept.slicing.larger
    specs = [kept.part_spec(0)] * larger + [kept.part_spec(count - 1)] * (count - larger)
    new = PartitionedVariable._of(graph, path, kept)
    kept.live = weakref.ref(new)
    if graph._add_parts(path, kept, specs, new._shards):
        return new
    for i in range(count):
        found = graph._find(f"{path}/part_{i}")
        if found is not None and graph._partition(path) is None:
            raise VariableExistsError.of(found.path, found.creation_site, path)
    return None


def find_partitioned(graph: Registry, path: str) -> PartitionedVariable | None:
    """The variable of this full name that was made in parts, the one object for it, or None."""
    kept = graph._partition(path)
    while kept is not None:
        reference = kept.live
        found = None if reference is None else reference()
        if found is not None:
            return found
        new = PartitionedVariable._of(graph, path, kept)
        for i in range(kept.slicing.count):
            shard = graph._find(f"{path}/part_{i}")
            if shard is None:
                return None  # withdrawn meanwhile
            new._shards.append(shard)
        if swap_live(kept, reference, weakref.ref(new)):
            return new
    return None
