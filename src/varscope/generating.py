"""Parts of models declared at once: stamped from a scope that is there, or built elsewhere.

What lies below a scope is told as an `Excerpt`, and the core declares it in other scopes: all of
it, or nothing.  What comes on top, entries of collections and values in slabs, goes with it should
that fail.
"""

from __future__ import annotations

import functools
import pickle
from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from varscope._scopecore import (
    Excerpt,
    Registry,
    Spot,
    VariableScope,
    all_or_nothing,
    declare,
    drop_entries,
    excerpt_at,
    excerpt_of,
    get_default_graph,
    get_variable_scope,
    if_withdrawn,
    name_scope,
    rows_below,
    spot_of,
    variable_scope,
)
from varscope.errors import ArgumentTypeError, ArgumentValueError
from varscope.flyweights import Settings
from varscope.partitioned import PartitionedVariable, find_partitioned
from varscope.progress import processors
from varscope.regularizers import RegularizationLoss
from varscope.shapes import as_int
from varscope.variables import Content, Variable

if TYPE_CHECKING:
    import numpy as np


@dataclass(slots=True, repr=False, eq=False)
class Piece(Settings):
    """What is to be declared, in scopes of these names."""

    excerpt: Excerpt
    names: list[str]
    values: list[tuple[int, Content]] = field(default_factory=list)  # by number, in order
    # Of collections: (key, how many of the variables came before, what it is or a Moved).
    entries: list[tuple[Hashable, int, Any]] = field(default_factory=list)


@dataclass(slots=True, repr=False, eq=False)
class Moved(Settings):
    """An entry of a collection that is another variable in each scope."""

    path: str  # from the scope on
    whole: bool  # in parts: a shard of another variable may have the same path
    regularizer: Callable[[Any], Any] | None = None  # of an entry that is its loss


def stamp(scope: str | VariableScope, into: Iterable[str]) -> None:
    """Declare copies of a finished scope, with the values that building them would give.

    The same as opening each of the scopes and building in it what `scope` has, in much less time:
    names, order, shapes, initializers, collections, regularizers, partitions and op names are those
    of the original.  Values follow from the paths of the copies, as always.

    Parameters
    ----------
    scope : str or VariableScope
        A path in the current scope, or a scope that was captured.  It must have variables.
    into : iterable of str
        Names of scopes that lie where `scope` lies: `"layer_1"` beside `"model/layer_0"` is
        `"model/layer_1"`.

    Raises
    ------
    NamesTakenError : ValueError
        Some of the variables are there, and the current scope does not reuse; it lists them all.
        Nothing is declared then, nor where anything else is raised.
    ArgumentValueError : ValueError
        The scope has no variables, or the names are not all different.

    >>> import varscope as vs
    >>> with vs.variable_scope("model/layer_0"):
    ...     w = vs.get_variable("w", [3, 4])
    >>> vs.stamp("model/layer_0", into=["layer_1", "layer_2"])
    >>> [v.name for v in vs.global_variables()]
    ['model/layer_0/w:0', 'model/layer_1/w:0', 'model/layer_2/w:0']
    """
    graph = get_default_graph()
    if not isinstance(scope, (str, VariableScope)):
        raise ArgumentTypeError.of("scope", "a path or a VariableScope", scope)
    names = as_names(into)
    spot = spot_of(graph, scope)
    excerpt = None if spot.path_around is None else excerpt_of(spot)
    if not excerpt:
        raise ArgumentValueError.of(
            "the scope to stamp", "one with variables, and not the root", spot.path
        )
    piece = Piece(excerpt, names)
    if graph._extras:
        rows = rows_below(spot)
        piece.entries = [
            (key, bisect_left(rows, place), moved)
            for key, place, moved in entries_of(graph, spot.path)
            if isinstance(moved, Moved)
        ]
    join(graph, spot, [piece])


def as_names(into: Iterable[str]) -> list[str]:
    """Names of scopes as a list; the core judges their characters."""
    if isinstance(into, (str, bytes)) or not isinstance(into, Iterable):
        raise ArgumentTypeError.of("into", "a list of names", into)
    names = list(into)
    for name in names:
        if not isinstance(name, str):
            raise ArgumentTypeError.of("a name in into", "a str", name)
        if not name:
            raise ArgumentValueError.of("a name in into", "one with characters", name)
    return names


def graft(graph: Any, part: Any, under: str) -> None:
    """`Graph.graft`."""
    if not isinstance(part, Registry):
        raise ArgumentTypeError.of("part", "a Graph", part)
    if not isinstance(under, str):
        raise ArgumentTypeError.of("under", "the path of a scope", under)
    piece = piece_of(part, "", "", under, copied)
    with graph.as_default():
        join(graph, None, [piece])


def piece_of(
    part: Any, path: str, opened_as: str, under: str, taken: Callable[[np.ndarray, int], Content]
) -> Piece:
    """What a graph has below a path and the name scope that was opened there."""
    found: list[tuple[int, Content | int]] = []
    excerpt = excerpt_at(part, path, opened_as, found)
    values = [(row, taken(*told(part, excerpt, row, content))) for row, content in found]
    return Piece(excerpt, [under], values, entries_of(part, path))


def told(graph: Any, excerpt: Excerpt, row: int, content: Content | int) -> tuple[np.ndarray, int]:
    """(array, version) of a variable that has values."""
    if isinstance(content, Content):
        return content.array, content.version
    spec = excerpt.spec(row)  # without an object for each
    return graph.storage.view(spec.dtype, content, spec.shape), 1


def copied(array: np.ndarray, version: int) -> Content:
    """Values that nobody else has."""
    return adopted(array.copy(), version)


def adopted(array: np.ndarray, version: int) -> Content:
    """Values of a graph that is dropped."""
    content = Content(array)
    content.version = version
    return content


def entries_of(graph: Any, above: str) -> list[tuple[Hashable, int, Any]]:
    """(key, place, value or Moved) of what was added to collections by hand."""
    return [
        (key, place, moved_from(graph, above, value))
        for key, entries in list(graph._extras.items())
        for place, value in list(entries)
    ]


def moved_from(graph: Any, above: str, value: Any) -> Any:
    """A Moved for a variable below a path, or its loss; anything else as it is."""
    if isinstance(value, RegularizationLoss):
        moved = moved_from(graph, above, value.variable)
        if not isinstance(moved, Moved):
            return value
        return Moved(moved.path, moved.whole, value.regularizer)
    if not isinstance(value, (Variable, PartitionedVariable)) or value.graph is not graph:
        return value
    start = f"{above}/" if above else ""
    if not value.path.startswith(start):
        return value
    if isinstance(value, Variable):
        part = value.save_slice_info
        if part is not None and part.full_name == above:
            return value  # a shard of what has the path itself does not lie below it
    return Moved(value.path[len(start) :], isinstance(value, PartitionedVariable))


def join(graph: Any, spot: Spot | None, pieces: list[Piece]) -> None:
    """Declare all pieces, with their values and their entries in collections, or nothing."""
    adopts = graph.storage.adopts
    jobs = [
        (piece.excerpt, piece.names, piece.values if adopts and piece.values else None)
        for piece in pieces
    ]
    if [piece for piece in pieces if piece.entries or (piece.values and not adopts)]:
        all_or_nothing(declare_and_add, graph, spot, pieces, jobs)
    else:
        declare(graph, spot, jobs)


def declare_and_add(
    graph: Any,
    spot: Spot | None,
    pieces: list[Piece],
    jobs: list[tuple[Excerpt, list[str], list[tuple[int, Content]] | None]],
) -> None:
    """Declare, and then what is no part of that step; withdrawn all together should that fail."""
    joining = declare(graph, spot, jobs)
    around, first = joining.path_around, joining.first_row
    added: list[tuple[list[Any], Any]] = []
    if_withdrawn(functools.partial(drop_entries, added))
    before = first
    for piece, (_, _, values) in zip(pieces, jobs, strict=True):
        for name in piece.names:
            path = below(around, name) if name else around
            if values is None:
                for row, content in piece.values:
                    variable = graph._find(below(path, piece.excerpt.path(row)))
                    if first <= variable._index < first + joining.count:  # otherwise it was there
                        put_values(variable, content)
            for key, place, value in piece.entries:
                if isinstance(value, Moved):
                    value = moved_to(graph, path, value)
                entries = graph._extras.setdefault(key, [])
                entry = (before + place, value)
                added.append((entries, entry))
                entries.append(entry)
            before += len(piece.excerpt)


def below(path: str, name: str) -> str:
    """The path of a name in a scope."""
    return f"{path}/{name}" if path else name


def put_values(variable: Variable, content: Content) -> None:
    """Make these the values, also where another thread has just asked for the first ones."""
    mine, is_new = variable._keep(content.array)
    if not is_new:
        mine.write(..., content.array)
    mine.version = content.version


def moved_to(graph: Any, path: str, moved: Moved) -> Any:
    """What an entry is in the scope of this path."""
    name = below(path, moved.path)
    found = find_partitioned(graph, name) if moved.whole else graph._find(name)
    return found if moved.regularizer is None else RegularizationLoss(found, moved.regularizer)


# --- in worker processes


def build(
    graph: Any, builders: Mapping[str, Callable[[], object]], processes: int | None = None
) -> None:
    """`Graph.build`."""
    from concurrent.futures import ProcessPoolExecutor  # which takes long to import

    if not isinstance(builders, Mapping):
        raise ArgumentTypeError.of("builders", "a dict of scopes and functions", builders)
    for under, builder in builders.items():
        if not isinstance(under, str):
            raise ArgumentTypeError.of("a scope in builders", "a str", under)
        if not callable(builder):
            raise ArgumentTypeError.of(f"the builder of {under!r}", "callable", builder)
        above = under
        while above:
            above = above.rpartition("/")[0]
            if above in builders:
                expected = f"outside of {above!r}, which is built too"
                raise ArgumentValueError.of("a scope in builders", expected, under)
    count = processors() if processes is None else as_int("processes", processes)
    if count < 1:
        raise ArgumentValueError.of("processes", "at least 1", processes)
    if not builders:
        return
    with graph.as_default():
        here = type(graph), graph.seed, get_variable_scope(), graph.get_name_scope()
    # Pickled here and now: what cannot be is an error before any process is started.
    requests = [pickle.dumps((*here, under, builder)) for under, builder in builders.items()]
    executor = ProcessPoolExecutor(min(count, len(builders)))
    try:
        waiting = [executor.submit(built, request) for request in requests]
        pieces = [
            piece_built(under, future.result)
            for under, future in zip(builders, waiting, strict=True)
        ]
    finally:
        executor.shutdown(cancel_futures=True)
    with graph.as_default():
        join(graph, None, pieces)


def built(request: bytes) -> bytes:
    """Build in a graph of its own, where paths, op names and values are those of the one to come.

    The pickle of that graph, the path of the scope and the name scope that was opened for it.
    """
    kind, seed, scope, opened_as, under, builder = pickle.loads(request)
    part = kind(seed)
    with (
        part.as_default(),
        variable_scope(scope, auxiliary_name_scope=False),
        name_scope(f"{opened_as}/" if opened_as else None),
        variable_scope(under) as inside,
    ):
        builder()
    return pickle.dumps((part, inside.name, inside.original_name_scope.removesuffix("/")))


def piece_built(under: str, result: Callable[[], bytes]) -> Piece:
    """What a worker has built; all of it has to lie in the scope that it was given."""
    try:
        pickled = result()
    except Exception as error:
        error.add_note(f"raised while {under!r} was built in a worker process")
        raise
    part, path, opened_as = pickle.loads(pickled)
    piece = piece_of(part, path, opened_as, under, adopted)
    if len(piece.excerpt) != len(part):
        outside = next(v.path for v in part.variables if not v.path.startswith(f"{path}/"))
        raise ArgumentValueError.of(
            f"a variable of the builder of {under!r}", f"below {path!r}", outside
        )
    return piece
