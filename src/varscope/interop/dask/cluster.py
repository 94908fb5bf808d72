"""`Cluster`: a storage whose values lie on the workers of a cluster; and what changes them there.

What a variable has is a `RemoteContent`: the number under which the future of its values is kept in
one table, with how often it changed.  New values are made aside, as futures; then one `dict.update`
makes them those of all variables that they are for.  No code runs in the middle of that, and no
signal comes in: so many variables change at once, or none does.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from varscope import shapes
from varscope._scopecore import commit_values, reopen
from varscope.checkpoint.contents import StoredTensor
from varscope.checkpoint.restoring import Places, committing
from varscope.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    DTypeMismatchError,
    NotCallableError,
    ShapeMismatchError,
    StorageError,
    WithdrawnError,
)
from varscope.initialization import flattened
from varscope.interop.dask import files
from varscope.interop.dask.clients import as_client, completed, mapped, new_keys, wait_for
from varscope.interop.dask.sources import FirstValues, Stored, make
from varscope.partitioned import PartitionedVariable
from varscope.partitioners import SaveSliceInfo
from varscope.shapes import Part
from varscope.storage import RemoteStorage
from varscope.variables import Variable

# The values of each content: their future, and how often they were set.
held: dict[int, tuple[Any, int]] = {}
numbers = itertools.count()
changing = threading.RLock()  # one after the other, so that each is counted


class RemoteContent:
    """What a variable has whose values lie on a worker; see `variables.Content`."""

    __slots__ = ("cached", "dtype", "name", "number", "shape", "storage")

    def __init__(self, storage: Cluster, variable: Any, future: Any) -> None:
        self.storage, self.name = storage, variable.path
        self.shape, self.dtype = variable.shape, variable.dtype
        self.cached: tuple[int, Any] | None = None
        self.number = next(numbers)
        held[self.number] = future, 1

    def __del__(self, held: dict[int, tuple[Any, int]] = held) -> None:
        held.pop(self.number, None)

    @property
    def future(self) -> Any:
        found = held[self.number][0]
        if found.cancelled():
            raise StorageError.lost(self.storage, [self.name])
        return found

    @property
    def version(self) -> int:
        return held[self.number][1]

    @property
    def view(self) -> np.ndarray:
        """The values, which come here each time."""
        try:
            values: np.ndarray = np.asarray(self.future.result()).view()
        except CancelledError:
            raise StorageError.lost(self.storage, [self.name]) from None
        values.flags.writeable = False
        return values

    @property
    def array(self) -> NoReturn:
        raise StorageError.no_array(self.storage, self.name)

    def to_write(self) -> np.ndarray:
        return self.view.copy()

    def written(self, array: np.ndarray) -> None:
        self.write(..., array)

    def write(self, index: Any, value: Any) -> None:
        whole = index is Ellipsis
        values = np.empty(self.shape, self.dtype) if whole else self.to_write()
        values[index] = value
        put_all({self: self.storage.sent(values)})


def put_all(values: dict[RemoteContent, Any]) -> None:
    """Make futures the values of contents: of all of them at once."""
    with changing:
        before = [held[content.number] for content in values]  # let go of behind the step
        after = {
            content.number: (future, version + 1)
            for (content, future), (_, version) in zip(values.items(), before, strict=True)
        }
        held.update(after)


class Cluster(RemoteStorage):
    """The values of each variable, or shard, lie on a worker of a dask.distributed cluster.

    Reading one fetches it, and it alone, each time; with a caching device there is a copy here
    until it changes.  First values are made on the workers, but for those of initializers that are
    functions or arrays.  `map_shards` changes values where they lie.  There is no `v.array`, as
    there is no memory to share, and such a graph is neither copied nor pickled.

    What a worker held that dies is computed anew, from first values, or from the file that was
    restored, through all calls of `map_shards` since.  Values that this process has sent, by
    `assign` say, cannot be: where the only worker that held them dies, reading them is a
    StorageError.

    Parameters
    ----------
    client : dask.distributed.Client
        It must stay open for as long as the graph is used.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError : TypeError, ValueError
        It is no client, or one for use in an event loop.
    ImportError
        dask or distributed is not installed.

    >>> import varscope as vs
    >>> from varscope.interop.dask import Cluster
    >>> from distributed import Client
    >>> with Client(processes=False, dashboard_address=":0") as client:
    ...     g = vs.Graph(seed=1, storage=Cluster(client))
    ...     with g.as_default():
    ...         v = vs.get_variable("v", [2], initializer=vs.ones)
    ...     v.value()
    array([1., 1.], dtype=float32)
    """

    def __init__(self, client: Any) -> None:
        super().__init__()
        self.client = as_client(client)

    def __reduce__(self) -> Any:
        raise StorageError.not_copied(self)

    def for_copy(self) -> NoReturn:
        raise StorageError.not_copied(self)

    def __repr__(self) -> str:
        return f"Cluster({self.client!r})"

    # --- values of one variable
    def sent(self, values: np.ndarray) -> Any:
        """The future of values that this process has."""
        [key] = new_keys("assigned", 1)
        return self.client.scatter({key: values})[key]

    def _put(self, variable: Any, own: np.ndarray) -> bool:
        content = RemoteContent(self, variable, self.sent(own))
        return variable._settle(content) is content

    def make(self, variable: Any, content: Any = None) -> bool:
        source = FirstValues.of(variable)
        if source is None:
            return False
        if content is None:
            self.make_each([variable], [source], nothing)
        else:
            put_all({content: self.client.submit(make, source, key=source.task_key)})
        return bool(variable._filled)

    # --- of many
    def make_all(self, variables: list[Any], tick: Callable[[int], object]) -> None:
        chosen, sources = [], []
        for variable in variables:
            with contextlib.suppress(WithdrawnError):
                source = FirstValues.of(variable)
                if source is not None:
                    chosen.append(variable)
                    sources.append(source)
        self.make_each(chosen, sources, tick)

    def make_each(
        self, variables: list[Any], sources: list[FirstValues], tick: Callable[[int], object]
    ) -> None:
        """Let workers make the first values of variables."""
        futures = mapped(self.client, [source.task_key for source in sources], make, sources)
        for number, is_lost in completed(futures):
            if not is_lost:
                with contextlib.suppress(WithdrawnError):
                    variable = variables[number]
                    variable._settle(RemoteContent(self, variable, futures[number]))
                tick(sources[number].nbytes)

    def save(self, entries: Any, target: Path, most: int, report: Any) -> int:
        return files.save_tensors(
            files.tensors_of(entries, target), self.client, target, most, report
        )

    def restore(
        self, handles: list[Any], tensors: Any, found: Any, parts: Any, report: Any
    ) -> None:
        Restoring(self, handles, tensors, found, parts, report).run()


class Restoring:
    """One restore: values are read by the workers, and then become those of all variables."""

    def __init__(
        self,
        storage: Cluster,
        handles: list[Any],
        tensors: Any,
        found: Any,
        parts: Any,
        report: Any,
    ) -> None:
        self.storage, self.handles, self.report = storage, handles, report
        self.kinds = [found.kinds[number] for number in found.which.tolist()]
        self.sizes = [math.prod(kind.shape) * kind.dtype.itemsize for kind in self.kinds]
        self.total, self.done = sum(self.sizes), 0
        places, self.tensors = Places(tensors), tensors
        self.sources: list[Stored] = []
        self.read_here: list[tuple[int, int, Part | None]] = []
        self.numbers: list[int] = []  # of the targets, parallel to `sources`
        for i, number in enumerate(found.numbers.tolist()):
            if places.odd[number]:
                self.read_here.append((i, number, parts[i]))
                continue
            kind, part = self.kinds[i], parts[i]
            self.numbers.append(i)
            self.sources.append(
                Stored(
                    os.path.realpath(places.files[places.file_of[number]].path),
                    int(places.offset_of[number]),
                    tensors.name(number),
                    kind.stored,
                    kind.dtype,
                    Part.of_whole(kind.shape) if part is None else part,
                )
            )

    def run(self) -> None:
        futures: list[Any] = [None] * len(self.handles)
        keys = new_keys("restore", len(self.sources))
        some = mapped(self.storage.client, keys, make, self.sources)
        for i, future in zip(self.numbers, some, strict=True):
            futures[i] = future
        # What a name map makes of tensors, or what lies in a file in another form than it has here.
        for i, number, part in self.read_here:
            futures[i] = self.storage.sent(self.read(i, number, part))
        self.tick(0)
        lost = wait_for(futures, self.sizes, self.tick)
        if lost:
            raise StorageError.lost(self.storage, [self.handles[i].path for i in lost])
        self.commit(futures)

    def read(self, i: int, number: int, part: Part | None) -> np.ndarray:
        """Read a tensor in this process."""
        recipe, kind = self.tensors.recipes.get(number), self.kinds[i]
        index = ... if part is None else part.index
        if recipe is not None:
            values = recipe.read()[index]
        else:
            values = StoredTensor(*self.tensors.origin(number))._read_part(index)
        return np.array(values, kind.dtype, order="C")

    def tick(self, nbytes: int) -> None:
        self.done += nbytes
        if self.report is not None:
            self.report(self.done, self.total)

    def commit(self, futures: list[Any]) -> None:
        """Make them the values of all variables."""
        opened = {}
        try:
            for i, kind in enumerate(self.kinds):
                if kind.spec is not None:
                    with contextlib.suppress(WithdrawnError):
                        opened[i] = self.handles[i]._spec
                        self.handles[i]._spec = kind.spec
            while not self.committed(futures):
                pass  # a variable that was only declared has got values meanwhile
        except BaseException:
            for i, spec in opened.items():
                reopen(self.handles[i], spec)
            raise

    def committed(self, futures: list[Any]) -> bool:
        replaced: dict[RemoteContent, Any] = {}
        new: list[Any] = []
        contents: list[Any] = []
        for handle, future in zip(self.handles, futures, strict=True):
            with contextlib.suppress(WithdrawnError):
                content = handle._content
                if content is not None:
                    replaced[content] = future
                else:
                    new.append(handle)
                    contents.append(RemoteContent(self.storage, handle, future))
        graph: Any = self.handles[0].graph if self.handles else None
        with committing:
            if new and commit_values(graph, new, contents, [None] * len(new)):
                return False
            put_all(replaced)
        return True


# --- changing values where they lie


def map_shards(fn: Callable[..., Any], *variables: Iterable[Any], updates: int = 1) -> None:
    """Give variables new values, which the workers compute from those that they hold.

    Each shard of the first variables is taken together with the same one of the others, and so is
    each variable that is not in parts.  `fn(value, ..., shard)` is called with their values, as
    read-only arrays, and a `SaveSliceInfo` that tells which part of which variable they are; so a
    model in parts is treated as one that is not, where `fn` works by element.  What `fn` returns
    becomes the new value.  All variables change, or none does.

    Parameters
    ----------
    fn : callable
        Goes to the workers by pickle, and may run more than once for a shard.
    *variables : iterables of Variable and PartitionedVariable
        Weights, say, then their gradients, then moments: as many in each, cut alike.
    updates : int
        Of how many of these `fn` returns new values, the first ones: for more than one, as a tuple.
        Each has the shape and the kind of number of the variable, as for `assign`.

    Raises
    ------
    NotCallableError, ArgumentTypeError, ArgumentValueError : ValueError, TypeError, ValueError
    ShapeMismatchError, DTypeMismatchError : ValueError
        Variables that are not alike, or a result that does not fit.
    StorageError : ValueError
        A variable's graph has another storage, or values were lost with a worker.
    Exception
        What `fn` raised.

    >>> import varscope as vs
    >>> from varscope.interop.dask import Cluster, map_shards
    >>> from distributed import Client
    >>> with Client(processes=False, dashboard_address=":0") as client:
    ...     g = vs.Graph(seed=1, storage=Cluster(client))
    ...     with g.as_default():
    ...         v = vs.get_variable("v", [4], initializer=vs.ones)
    ...     map_shards(lambda value, shard: 2 * value, [v])
    ...     v.value()
    array([2., 2., 2., 2.], dtype=float32)
    """
    if not callable(fn):
        raise NotCallableError.step(fn)
    groups = [list(flattened(as_variables(each))) for each in variables]
    updates = shapes.as_int("updates", updates)
    check_groups(groups, updates)
    storage: Any
    for storage in {variable.graph.storage: None for group in groups for variable in group}:
        declared = {
            variable: None
            for group in groups
            for variable in group
            if variable.graph.storage is storage and not variable._filled
        }
        storage.make_all(list(declared), nothing)
    contents: list[list[Any]] = [
        [variable._materialised() for variable in group] for group in groups
    ]
    results = stepped(fn, groups, contents, updates) if groups[0] else []
    put_all(
        {
            content: future
            for some, found in zip(contents, results, strict=False)
            for content, future in zip(some, found, strict=True)
        }
    )


def stepped(
    fn: Callable[..., Any], groups: list[list[Variable]], contents: list[list[Any]], updates: int
) -> list[list[Any]]:
    """The futures of the new values, when they are there, for each list that changes."""
    storage: Any = groups[0][0].graph.storage
    client, count = storage.client, len(groups[0])
    facts = [shard_facts(variable) for variable in groups[0]]
    forms = [
        [(content.name, content.shape, content.dtype) for content in some[:updates]]
        for some in zip(*contents, strict=True)
    ]
    values = [[content.future for content in some] for some in contents]
    keys = new_keys("map-shards", count)
    results = [mapped(client, keys, partial(step, fn), forms, facts, *values)]
    lost = wait_for(results[0], [0] * count, nothing)
    if updates > 1 and not lost:
        together = results[0]
        results = [
            mapped(client, new_keys("pick", count), pick, together, [i] * count)
            for i in range(updates)
        ]
        lost = [number for some in results for number in wait_for(some, [0] * count, nothing)]
    if lost:
        names = dict.fromkeys(groups[0][number].path for number in lost)
        raise StorageError.lost(storage, list(names))
    return results


def as_variables(given: Any) -> Iterable[Any]:
    """Variables in a row, also where one was given."""
    if isinstance(given, (Variable, PartitionedVariable)):
        return [given]
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ArgumentTypeError.of("variables", "an iterable of variables", given)
    return given


def check_groups(groups: list[list[Variable]], updates: int) -> None:
    """Refuse variables that cannot be taken together."""
    if not 1 <= updates <= len(groups):
        raise ArgumentValueError.of(
            "updates", f"from 1 to {len(groups)}, as so many lists of variables came", updates
        )
    counts = [len(group) for group in groups]
    if len(set(counts)) != 1:
        raise ArgumentValueError.of("variables", "as many in each list, shards counted", counts)
    written = [variable for group in groups[:updates] for variable in group]
    if len(set(written)) != len(written):
        raise ArgumentValueError.of("variables", "different ones, of those that change", written)
    for variable in {variable for group in groups for variable in group}:
        if not isinstance(variable.graph.storage, Cluster):
            raise StorageError.not_on_cluster(variable.graph.storage, variable.path)
    for first, *others in zip(*groups, strict=True):
        for other in others:
            if other.shape != first.shape:
                words = f"taken together with {first.path}"
                raise ShapeMismatchError.of(other.path, first.shape, other.shape, words)


def shard_facts(variable: Variable) -> SaveSliceInfo:
    """Which part of which variable this is; of one that is no shard, all of it."""
    shape = variable.shape
    whole = SaveSliceInfo(variable.path, shape, (0,) * len(shape), shape)  # type: ignore
    return variable.save_slice_info or whole


def step(fn: Callable[..., Any], forms: list[Any], shard: SaveSliceInfo, *values: Any) -> Any:
    """On a worker: the new values of a shard, checked; one array, or a tuple of several."""
    views = []
    for value in values:
        views.append(np.asarray(value).view())
        views[-1].flags.writeable = False  # others may be computed from it, or it anew
    results = fn(*views, shard)
    if len(forms) == 1:
        results = (results,)
    if not isinstance(results, tuple) or len(results) != len(forms):
        raise ArgumentValueError.of("what fn returns", f"a tuple of {len(forms)} arrays", results)
    done = tuple(fitting(result, *form) for result, form in zip(results, forms, strict=True))
    return done[0] if len(done) == 1 else done


def fitting(result: Any, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """What `fn` has returned, as the new value of a variable, which nobody else holds."""
    values = np.asarray(result)
    if values.shape != shape:
        raise ShapeMismatchError.of(name, shape, values.shape, "returned by fn")
    if not shapes.fits(values.dtype, dtype, "same_kind"):
        raise DTypeMismatchError.of(name, dtype, values.dtype, "assigned")
    own = values.flags.owndata and values.flags.c_contiguous  # and no view of what was given
    return values if own and values.dtype == dtype else np.array(values, dtype, order="C")


def pick(results: tuple[Any, ...], i: int) -> Any:
    """On a worker: one of several results."""
    return results[i]


def nothing(nbytes: int) -> None:
    """What there is to do when bytes are there."""
