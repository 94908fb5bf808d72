"""`Graph`: one namespace of variables and op names, with its collections, seed and storage."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, overload

from varscope import generating, initialization, randomness, shapes
from varscope._scopecore import (
    GraphEntry,
    Registry,
    Spec,
    declare,
    excerpt_at,
    find_matching,
    get_default_graph,
    glob,
    notebook_html,
    register,
    replace_default_graph,
    root_of,
)
from varscope.creation import GraphKeys, create_or_share
from varscope.errors import ArgumentTypeError, StorageError, WithdrawnError
from varscope.generating import told
from varscope.partitioned import Partition, PartitionedVariable, find_partitioned
from varscope.regularizers import RegularizationLoss, loss_values
from varscope.storage import Heap, SlabStorage, Storage, as_storage
from varscope.substitution import entry_for
from varscope.variables import Content, Variable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Found = TypeVar("Found")
STRETCH = 1024  # variables that a loop over all of them takes at a time


class Graph(Registry):
    """A namespace of variables and op names.

    Parameters
    ----------
    seed : int, optional
        From which all random initial values follow; drawn from the system where it is not given.
    storage : "heap", "arena", Heap, Arena, MemoryMapped or interop.dask.Cluster, optional
        Where the values lie: each variable by itself (the default), all of a dtype in one piece
        of memory, in files, or on the workers of a cluster.

    >>> import varscope as vs
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default():
    ...     with vs.variable_scope("layer"):
    ...         w = vs.get_variable("w", [3, 4])
    >>> len(g), g.num_parameters, g["layer/w"] is w
    (1, 12, True)
    """

    def __init__(self, seed: int | None = None, storage: Storage | str | None = None) -> None:
        self.seed = seed
        self.storage = as_storage(storage)
        if isinstance(self.storage, SlabStorage):
            self._use_slabs(self.storage)
        self._extras: dict[Any, list[tuple[int, Any]]] = {}

    @property
    def seed(self) -> int:
        """From which all random initial values follow."""
        return self._seed

    @seed.setter
    def seed(self, seed: int | None) -> None:
        if seed is None:
            seed = randomness.draw_seed()
        self._seed = shapes.as_seed(seed)

    def as_default(self) -> GraphEntry:
        """A context manager in which this is the current graph, at its own current scope."""
        return GraphEntry(self)

    # --- variables
    @property
    def variables(self) -> Variables:
        """All variables in the order of creation, as a sequence."""
        return Variables(self)

    def __len__(self) -> int:
        return self._count()

    def __iter__(self) -> Iterator[str]:
        return iter(self._op_names())

    def __bool__(self) -> bool:
        return True  # a graph without variables is still a graph

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._lookup(name) is not None

    def __getitem__(self, name: str) -> Variable | PartitionedVariable:
        if not isinstance(name, str):
            raise ArgumentTypeError.of("a variable's name", "a str", name)
        found = self._lookup(name)
        if found is None:
            raise KeyError(
                f"no variable {name!r} in this graph of {len(self):,}; look with graph.find"
            )
        return found

    def _lookup(self, name: str) -> Variable | PartitionedVariable | None:
        """By op name, and where no variable has that, by path; one made in parts by its path."""
        name = str.__str__(name)  # exact text: no method of a subclass is called
        op_name = name.removesuffix(":0")
        found = self._find_renamed(op_name)
        if found is None:
            found = self._find(op_name)
        return find_partitioned(self, name) if found is None else found

    @property
    def num_parameters(self) -> int:
        """The number of elements of all variables together."""
        return self._totals()[0]

    @property
    def nbytes(self) -> int:
        """The bytes of all variables together, allocated or not."""
        return self._totals()[1]

    def find(self, pattern: str | re.Pattern[str]) -> list[Variable]:
        """The variables whose full name fits, in the order of creation.

        Parameters
        ----------
        pattern : str or compiled regex
            In a str, `*` stands for any characters within a component, `?` for one, and `**` for
            any number of components; at the end of the pattern, for one at least.  A regex is
            matched from the start of the name.

        Raises
        ------
        InvalidNameError : ValueError
            `**` stands beside other characters: it must be a component of its own.

        >>> import varscope as vs
        >>> g = vs.Graph()
        >>> with g.as_default():
        ...     for name in ["a/w", "a/b/w", "a/b/v"]:
        ...         _ = vs.get_variable(name, [1])
        >>> [v.op_name for v in g.find("a/**/w")]
        ['a/w', 'a/b/w']
        """
        if isinstance(pattern, re.Pattern):
            match = pattern.match
            return unmoved(
                self,
                lambda: self._handles(
                    [row for row, name in enumerate(self._op_names()) if match(name)]
                ),
            )
        if not isinstance(pattern, str):
            raise ArgumentTypeError.of("pattern", "a str or a compiled regex", pattern)
        return find_matching(self, glob(pattern))

    def flat(self, dtype: npt.DTypeLike = "float32") -> np.ndarray:
        """All variables of a dtype as one writable vector, in the order of creation.

        Only declared ones get their first values.  The vector is the storage itself: `flat -= x`
        changes all variables, and what `assign` puts into one of them shows in it.  Vectors that
        were taken earlier stay good; variables that are created later lie behind their end.

        Raises
        ------
        StorageError : ValueError
            The graph keeps its variables apart: it was not made with `storage="arena"`, or files.

        >>> import varscope as vs
        >>> g = vs.Graph(storage="arena")
        >>> with g.as_default():
        ...     v = vs.get_variable("v", [3], initializer=vs.ones)
        >>> flat = g.flat()
        >>> flat *= 0.5
        >>> v.value().tolist()
        [0.5, 0.5, 0.5]
        """
        dtype = shapes.as_dtype(dtype)
        if not isinstance(self.storage, SlabStorage):
            raise StorageError.not_flat(self.storage)
        initialization.fill(self, dtype)
        return self.storage.flat(dtype, self._place_rows(None, len(self)).get(dtype, 0))

    # --- collections
    def add_to_collection(self, key: Hashable, value: object) -> None:
        """Add anything to a collection, behind what is there now."""
        self._extras.setdefault(key, []).append((len(self), value))

    def get_collection(
        self, key: Hashable, scope: str | re.Pattern[str] | None = None
    ) -> list[Any]:
        """The entries of a collection, in the order in which they were added.

        Parameters
        ----------
        key : hashable
            One of `GraphKeys`, or any other.
        scope : str or compiled regex, optional
            Only the entries whose name lies at or below this path; a regex is matched with
            `re.match`.
        """
        if scope is not None and not isinstance(scope, (str, re.Pattern)):
            raise ArgumentTypeError.of("scope", "a path or a compiled regex", scope)
        path = str.__str__(scope).removesuffix("/") if isinstance(scope, str) else None

        def look() -> list[tuple[float, Any]]:
            entries: list[tuple[float, Any]] = []
            entries += self._with_rows(self._rows_in(key, path or None))
            if key == GraphKeys.REGULARIZATION_LOSSES:
                entries += self._penalties(path or None)
            return entries

        entries = unmoved(self, look)
        for place, value in self._extras.get(key, ()):
            if path and not under(path, getattr(value, "name", None)):
                continue
            entries.append((place - 0.5, value))
        entries.sort(key=lambda entry: entry[0])
        values = [value for _, value in entries]
        if isinstance(scope, re.Pattern):
            names = [getattr(value, "name", None) for value in values]
            values = [
                value
                for value, name in zip(values, names, strict=True)
                if isinstance(name, str) and scope.match(name)
            ]
        return values

    def _penalties(self, path: str | None) -> Iterator[tuple[float, RegularizationLoss]]:
        """The losses of the variables with a regularizer, at or below a path, with their places.

        They are not kept anywhere: the variables tell.
        """
        for row, variable in self._with_rows(self._regularized(path)):
            yield row, RegularizationLoss(variable, variable.regularizer)  # type: ignore[arg-type]
        for name, kept in self._partitions():
            if kept.spec.regularizer is not None and (path is None or under(path, name)):
                parts = find_partitioned(self, name)
                if parts is not None:
                    yield parts[0]._index, RegularizationLoss(parts, kept.spec.regularizer)

    def _with_rows(self, rows: list[int]) -> list[tuple[int, Variable]]:
        return list(zip(rows, self._handles(rows), strict=True))

    def get_regularization_losses(self, scope: str | re.Pattern[str] | None = None) -> list[Any]:
        """The entries of `GraphKeys.REGULARIZATION_LOSSES`: lazy, see `RegularizationLoss`."""
        return self.get_collection(GraphKeys.REGULARIZATION_LOSSES, scope)

    def get_regularization_loss(self, scope: str | re.Pattern[str] | None = None) -> Any:
        """The sum of the regularization losses on the current values; 0.0 where there are none.

        What was added to the collection by hand counts too: anything with a `value()`, and numbers.

        >>> import varscope as vs
        >>> with vs.variable_scope("layer", regularizer=vs.l2_regularizer(0.5)):
        ...     w = vs.get_variable("w", [2], initializer=vs.ones)
        >>> vs.get_regularization_loss(), vs.get_regularization_loss("other")
        (0.5, 0.0)
        """
        return sum(loss_values(self.get_regularization_losses(scope)), 0.0)

    def global_variables(self, scope: str | re.Pattern[str] | None = None) -> list[Variable]:
        """The variables in `GraphKeys.GLOBAL_VARIABLES`."""
        return self.get_collection(GraphKeys.GLOBAL_VARIABLES, scope)

    def trainable_variables(self, scope: str | re.Pattern[str] | None = None) -> list[Variable]:
        """The variables in `GraphKeys.TRAINABLE_VARIABLES`."""
        return self.get_collection(GraphKeys.TRAINABLE_VARIABLES, scope)

    def local_variables(self, scope: str | re.Pattern[str] | None = None) -> list[Variable]:
        """The variables in `GraphKeys.LOCAL_VARIABLES`."""
        return self.get_collection(GraphKeys.LOCAL_VARIABLES, scope)

    # --- what was built elsewhere
    def graft(self, part: Graph, under: str) -> None:
        """Declare all that another graph has, in a scope of this one: as if it was built here.

        Names, order, collections, regularizers, partitions and all else come along.  What has
        values in the part has a copy of them here; what is only declared gets the values that this
        graph's seed gives for its path here.  The part stays as it is.

        Parameters
        ----------
        part : Graph
            Of this process, or one that was pickled in another.
        under : str
            The scope, as in `variable_scope(under)`: below the current one of this graph; "" is
            the current one itself.

        Raises
        ------
        NamesTakenError : ValueError
            Some of the variables are there, and the scope does not reuse.  It lists them all.
            Nothing is declared then, nor where anything else is raised.

        >>> import varscope as vs
        >>> part = vs.Graph()
        >>> with part.as_default(), vs.variable_scope("dense"):
        ...     w = vs.get_variable("w", [2, 3])
        >>> g = vs.Graph(seed=1)
        >>> for i in range(2):
        ...     g.graft(part, under=f"tower_{i}")
        >>> list(g)
        ['tower_0/dense/w', 'tower_1/dense/w']
        """
        generating.graft(self, part, under)

    def build(
        self, builders: Mapping[str, Callable[[], object]], processes: int | None = None
    ) -> None:
        """Run functions that build parts of this graph, each in a worker process.

        What they declare is there afterwards as if they had been called here one after another,
        each in a scope of its own.

        Parameters
        ----------
        builders : dict of str to callable
            By the names of their scopes, functions without arguments.  They are pickled, so they
            are functions of a module, or `functools.partial` of one.
        processes : int, optional
            How many work at a time; as many as there are processors where it is left out.

        Raises
        ------
        NamesTakenError : ValueError
            As in `graft`.  This and whatever a function raises leave the graph as it was.
        """
        generating.build(self, builders, processes)

    # --- copies
    def _repr_html_(self) -> str | None:
        return notebook_html(self)

    def __repr__(self) -> str:
        return f"<Graph {id(self):#x} of {len(self):,} variables>"

    def __reduce__(self) -> tuple[type[Graph], tuple[Any, ...], dict[str, Any]]:
        state = {
            "contents": Contents(self),
            # A variable of this graph cannot be looked up before the rows are there.
            "extras": {
                key: [(place, *self._packed(value)) for place, value in entries]
                for key, entries in list(self._extras.items())
            },
            "finalized": self.finalized,
        }
        storage = self.storage.for_copy()
        return Graph, (self._seed,) if isinstance(storage, Heap) else (self._seed, storage), state

    def _contents(self) -> dict[str, Any]:
        """The variables and what is known of names, for a copy.

        Other threads may create meanwhile, and withdraw what they have just created: what is told
        here was there at one time, a variable in parts with all of them.
        """
        found: list[tuple[int, Content | int]] = []
        excerpt = excerpt_at(self, "", "", found)
        values = [(row, *told(self, excerpt, row, content)) for row, content in found]
        return {"excerpt": excerpt, "values": values}

    def _packed(self, value: Any) -> tuple[int | str | None, Any]:
        """Where to look for a value in an unpickled graph, and what for, or the value itself."""
        if isinstance(value, (Variable, PartitionedVariable)) and value.graph is self:
            return value.path, isinstance(value, PartitionedVariable)
        return None, value

    def _unpacked(self, place: int | str | None, value: Any) -> Any:
        if isinstance(place, str):
            # Of the two that a path may have; older pickles do not tell which.
            found = None if value is True else self._find(place)
            return find_partitioned(self, place) if found is None else found
        return value if place is None else self._handle(place)  # a row, in older pickles

    def _take_over(self, contents: dict[str, Any]) -> None:
        """Become what `_contents` tells of, of this version or an earlier one."""
        if "excerpt" in contents:
            declare(self, root_of(self), [(contents["excerpt"], [""], None)])
            for row, array, version in contents["values"]:
                self._handle(row)._restore(array, version)
            return
        for path, spec, suffix, site, _ in contents["rows"]:
            self._load(path, spec, suffix, site)
        for row, (*_, content) in enumerate(contents["rows"]):
            if content is not None:
                self._handle(row)._restore(*content)
        for path, spec, partitions in contents["partitions"]:
            self._load_partition(path, Partition.cut(spec, partitions))
        self._load_op_state(contents["op_names"])

    def __setstate__(self, state: dict[str, Any]) -> None:
        contents = state["contents"]
        if contents is not None:  # of `copy.copy`, which takes over the object as it is
            self._take_over(contents.graph._contents())
        self._extras = {
            key: [
                (place, value)
                for place, *packed in entries
                for value in [self._unpacked(*packed)]
                if value is not None or packed[0] is None  # withdrawn while it was copied
            ]
            for key, entries in state["extras"].items()
        }
        if state["finalized"]:
            self.finalize()


def unmoved(graph: Registry, look: Callable[[], Found]) -> Found:
    """What a look at rows finds while all of them stay where they are.

    Where another thread withdraws a variable, because what created it raised, those behind it move
    up: then this looks again.
    """
    while True:
        removed = graph._removed()
        try:
            found = look()
        except (IndexError, WithdrawnError):
            if graph._removed() == removed:
                raise
        else:
            if graph._removed() == removed:
                return found


class Contents:
    """Stands for the variables of a graph while it is copied or pickled.

    A copy of this is made before what comes behind it, and fills the graph: so whatever lies in
    collections, lists of variables and losses of them too, finds its variables there.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Graph, dict[str, Any]]]:
        return Graph._take_over, (self.graph, self.graph._contents())


class Variables(Sequence[Variable]):
    """The variables of a graph in the order of creation; a view, not a copy."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __len__(self) -> int:
        return self._graph._count()

    @overload
    def __getitem__(self, index: SupportsIndex) -> Variable: ...
    @overload
    def __getitem__(self, index: slice) -> list[Variable]: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Variable | list[Variable]:
        if isinstance(index, slice):
            graph = self._graph
            return unmoved(graph, lambda: graph._handles(range(*index.indices(len(self)))))
        row = index.__index__()
        if not -len(self) <= row < len(self):
            raise IndexError(
                f"variable {row} of a graph of {len(self):,}; give an index below that"
            )
        return self._graph._handle(row % len(self))

    def __iter__(self) -> Iterator[Variable]:
        graph = self._graph
        given: list[Variable] = []  # the last ones
        row, removed = 0, graph._removed()  # where they end, and how many were withdrawn till then

        def following() -> tuple[int, int, list[Variable]]:
            # Where another thread withdraws variables those behind move up: go on behind the last
            # one that is still there.
            now = graph._removed()
            first = max(0, row - (now - removed))  # all of them stood before
            for variable in reversed(given):
                if not variable._withdrawn:
                    first = variable._index + 1
                    break
            return first, now, graph._handles(range(first, min(first + STRETCH, graph._count())))

        while True:
            row, removed, stretch = unmoved(graph, following)
            if not stretch:
                return
            yield from stretch
            row += len(stretch)
            given = given[-STRETCH:] + stretch

    def __contains__(self, value: object) -> bool:
        return isinstance(value, Variable) and value.graph is self._graph

    def index(self, value: object, start: int = 0, stop: int | None = None) -> int:
        """The place of a variable in the order of creation."""
        if (
            isinstance(value, Variable)
            and value in self
            and value._index in range(len(self))[start:stop]
        ):
            return value._index
        raise ValueError(f"{value!r} is not in the sequence; ask with 'in' first")

    def count(self, value: object) -> int:
        """1 for a variable of the graph, 0 for anything else."""
        return int(value in self)

    def __repr__(self) -> str:
        return f"<{len(self):,} variables of {self._graph!r}>"


def under(path: str, name: object) -> bool:
    """Whether a name lies at or below a path, at a component's border."""
    if not isinstance(name, str):
        return False
    return f"{name.removesuffix(':0')}/".startswith(f"{path}/")


# --- graphs of other libraries


class Attachment:
    """What `attach` leaves with a graph of another library; copies of that graph hold nothing."""

    __slots__ = ("graph", "host")

    def __init__(self, host: object, graph: Graph) -> None:
        self.host = weakref.ref(host)
        self.graph = graph

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _detached, ()


def _detached() -> None:
    """What a copied or pickled `Attachment` becomes."""


# Of hosts that have no __dict__.  Where there is one the attachment lies in it, so that the
# garbage collector sees a cycle from the graph's initializers back to the host.
_attached: weakref.WeakKeyDictionary[Any, Attachment] = weakref.WeakKeyDictionary()
_KEY = "_varscope_attachment"


def attach(host_graph: Any) -> Graph:
    """Give a graph of another library a varscope graph that lives as long as it does.

    Afterwards objects whose `graph` attribute is `host_graph` can be passed as `values` to
    `variable_scope`.  Attaching again returns the same graph.

    Parameters
    ----------
    host_graph
        Any object that can be weakly referenced, a `torch.fx.Graph` say.

    Returns
    -------
    Graph

    Raises
    ------
    ArgumentTypeError : TypeError
        It cannot be weakly referenced.

    >>> import varscope as vs
    >>> class Host:
    ...     pass
    >>> class Value:
    ...     graph = Host()
    >>> graph = vs.attach(Value.graph)
    >>> with vs.variable_scope("layer", values=[Value]):
    ...     vs.get_variable("w", [2]).graph is graph
    True
    """
    if isinstance(host_graph, Graph):
        return host_graph
    found = attached(host_graph)
    if found is not None:
        return found
    try:
        attachment = Attachment(host_graph, Graph())
        holders = getattr(host_graph, "__dict__", None)
        if isinstance(holders, dict):
            # One that a copy of the host took along is not the host's.
            stale = holders.get(_KEY)
            if stale is not None and stale.host() is not host_graph:
                holders.pop(_KEY, None)
            attachment = holders.setdefault(_KEY, attachment)
        else:
            attachment = _attached.setdefault(host_graph, attachment)
    except TypeError:
        raise ArgumentTypeError.of("host_graph", "weakly referenceable", host_graph) from None
    return attachment.graph


def attached(host_graph: Any) -> Graph | None:
    """The graph that `attach` gave, or None."""
    attachment = getattr(host_graph, "__dict__", {}).get(_KEY)
    if attachment is None:
        try:
            attachment = _attached.get(host_graph)
        except TypeError:  # cannot be weakly referenced, or not hashed
            return None
    if attachment is None or attachment.host() is not host_graph:
        return None
    return attachment.graph


# --- the default graph


def reset_default_graph() -> None:
    """Put a fresh graph in place of the default one.

    Raises
    ------
    OpenScopeError : RuntimeError
        Inside a scope, or `with graph.as_default()`.

    >>> import varscope as vs
    >>> w = vs.get_variable("w", [2])
    >>> vs.reset_default_graph()
    >>> len(vs.get_default_graph())
    0
    """
    replace_default_graph(Graph())


def set_random_seed(seed: int | None) -> None:
    """Set the seed of the current graph; what is materialised already stays as it is.

    Parameters
    ----------
    seed : int or None
        From which all random initial values follow; None draws one from the system.

    >>> import varscope as vs
    >>> vs.set_random_seed(7)
    >>> vs.get_default_graph().seed
    7
    """
    get_default_graph().seed = seed


def get_collection(key: Hashable, scope: str | re.Pattern[str] | None = None) -> list[Any]:
    """The entries of a collection of the current graph, as a new list.

    Parameters
    ----------
    key : hashable
        One of `GraphKeys`, or your own.
    scope : str or compiled regex, optional
        A path, of which those at and below it are chosen; a regex is matched from the start of
        the names.

    >>> import varscope as vs
    >>> w = vs.get_variable("a/w", [2])
    >>> vs.get_collection(vs.GraphKeys.GLOBAL_VARIABLES, scope="a") == [w]
    True
    """
    return get_default_graph().get_collection(key, scope)


def add_to_collection(key: Hashable, value: object) -> None:
    """Add an entry to a collection of the current graph.

    Parameters
    ----------
    key : hashable
        One of `GraphKeys`, or your own.
    value : object
        What `get_collection` will list, behind what is there.

    >>> import varscope as vs
    >>> vs.add_to_collection("notes", "tied weights")
    >>> vs.get_collection("notes")
    ['tied weights']
    """
    get_default_graph().add_to_collection(key, value)


def get_regularization_losses(scope: str | re.Pattern[str] | None = None) -> list[Any]:
    """The regularization losses of the current graph: lazy, see `RegularizationLoss`.

    Parameters
    ----------
    scope : str or compiled regex, optional
        A path, of which those at and below it are chosen; a regex is matched from the start of
        the names.

    >>> import varscope as vs
    >>> w = vs.get_variable("w", [2], regularizer=vs.l2_regularizer(0.5))
    >>> vs.get_regularization_losses()
    [<RegularizationLoss 'w/Regularizer' by l2_regularizer(scale=0.5)>]
    """
    return get_default_graph().get_regularization_losses(scope)


def get_regularization_loss(scope: str | re.Pattern[str] | None = None) -> Any:
    """The sum of the regularization losses of the current graph; 0.0 where there are none.

    Parameters
    ----------
    scope : str or compiled regex, optional
        A path, of which those at and below it are chosen; a regex is matched from the start of
        the names.

    >>> import varscope as vs
    >>> l2 = vs.l2_regularizer(0.5)
    >>> w = vs.get_variable("w", [2], initializer=vs.ones, regularizer=l2)
    >>> vs.get_regularization_loss()
    0.5
    """
    return get_default_graph().get_regularization_loss(scope)


def global_variables(scope: str | re.Pattern[str] | None = None) -> list[Variable]:
    """The global variables of the current graph, in the order of creation.

    Parameters
    ----------
    scope : str or compiled regex, optional
        A path, of which those at and below it are chosen; a regex is matched from the start of
        the names.

    >>> import varscope as vs
    >>> w = vs.get_variable("a/w", [2])
    >>> vs.global_variables("a") == [w], vs.global_variables("b")
    (True, [])
    """
    return get_default_graph().global_variables(scope)


def trainable_variables(scope: str | re.Pattern[str] | None = None) -> list[Variable]:
    """The trainable variables of the current graph, in the order of creation.

    Parameters
    ----------
    scope : str or compiled regex, optional
        A path, of which those at and below it are chosen; a regex is matched from the start of
        the names.

    >>> import varscope as vs
    >>> w, step = vs.get_variable("w", [2]), vs.get_variable("step", [], trainable=False)
    >>> vs.trainable_variables() == [w]
    True
    """
    return get_default_graph().trainable_variables(scope)


def local_variables(scope: str | re.Pattern[str] | None = None) -> list[Variable]:
    """The local variables of the current graph, in the order of creation.

    Parameters
    ----------
    scope : str or compiled regex, optional
        A path, of which those at and below it are chosen; a regex is matched from the start of
        the names.

    >>> import varscope as vs
    >>> w, seen = vs.get_variable("w", [2]), vs.get_local_variable("seen", [])
    >>> vs.local_variables() == [seen]
    True
    """
    return get_default_graph().local_variables(scope)


register(
    handle=Variable,
    create_or_share_with=create_or_share,
    dtype_from=shapes.as_dtype,
    default_dtype=shapes.as_dtype("float32"),
    attached=attached,
    substituted_with=entry_for,
)
replace_default_graph(Graph())

__all__ = ["Graph", "GraphKeys", "Spec", "attach", "get_default_graph"]
