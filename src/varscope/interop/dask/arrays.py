"""`to_dask` and `restore`: variables, and what files hold, as dask arrays that workers fill."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from varscope.checkpoint.entries import collected
from varscope.checkpoint.fitting import Sources, Tensors
from varscope.checkpoint.restoring import Places
from varscope.checkpoint.saving import as_size
from varscope.errors import ArgumentTypeError, ArgumentValueError, CheckpointError
from varscope.graph import Graph
from varscope.interop.dask.clients import as_client, library, mapped, new_keys, wait_for
from varscope.interop.dask.files import source_of
from varscope.interop.dask.sources import FirstValues, Stored, make
from varscope.partitioned import PartitionedVariable
from varscope.partitioners import Slicing
from varscope.progress import Progress, as_report
from varscope.shapes import Part


def to_dask(
    graph: Graph, client: Any = None, *, max_chunk_size: int | str = "128MiB"
) -> dict[str, Any]:
    """Give all variables of a graph, but for local ones, as dask arrays.

    A variable in parts has a chunk for each shard.  One that is not in parts is one chunk, or,
    where it is only declared and larger than `max_chunk_size`, blocks of its first axis.  First
    values are made by the workers when the arrays are computed: a task has the settings of an
    initializer, a key and which part it is.  They are no variables: what is computed from an array
    does not change the graph.

    Parameters
    ----------
    graph : Graph
        With `Cluster` as its storage, chunks are the values that lie on the workers.
    client : dask.distributed.Client, optional
        Needed where variables have values in this process, or initializers that are functions or
        arrays: these values are sent at once, and once.
    max_chunk_size : int or str
        In bytes, or in the way of "128MiB".

    Returns
    -------
    dict of str to dask.array.Array
        By `op_name`, or the name of the whole for a variable in parts.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError : TypeError, ValueError
    ImportError
        dask or distributed is not installed.

    >>> import varscope as vs
    >>> from varscope.interop.dask import to_dask
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default():
    ...     v = vs.get_variable("v", [5, 2], partitioner=vs.fixed_size_partitioner(2))
    >>> array = to_dask(g)["v"]
    >>> array.chunks, bool((array.compute() == v.value()).all())
    (((3, 2), (2,)), True)
    """
    library()
    if not isinstance(graph, Graph):
        raise ArgumentTypeError.of("graph", "a varscope.Graph", graph)
    most = as_size(max_chunk_size)
    entries = collected(graph)
    variables = [
        entries.variables[row] if row >= 0 else entries.others[-1 - row] for row in entries.rows
    ]
    grids = [grid_of(variable, most) for variable in variables]
    here = {
        (number, i): source
        for number, (_, sources) in enumerate(grids)
        for i, source in enumerate(sources)
        if isinstance(source, np.ndarray)
    }
    sent: dict[Any, Any] = {}
    if here:
        if client is None:
            name = entries.names[next(iter(here))[0]]
            raise ArgumentValueError.of(
                "client", f"a dask.distributed.Client, as values of {name} are sent to it", client
            )
        keys = new_keys("sent", len(here))
        data = dict(zip(keys, here.values(), strict=True))
        futures = as_client(client).scatter(data)
        sent = {place: futures[key] for place, key in zip(here, keys, strict=True)}
    found = {}
    for number, (name, variable) in enumerate(zip(entries.names, variables, strict=True)):
        chunks, sources = grids[number]
        sources = [sent.get((number, i), source) for i, source in enumerate(sources)]
        found[name] = as_array(chunks, sources, variable.dtype)
    return found


def grid_of(variable: Any, most: int) -> tuple[tuple[tuple[int, ...], ...], list[Any]]:
    """The chunks of a variable, as dask writes them, and where each comes from."""
    if isinstance(variable, PartitionedVariable):
        slicing = variable._kept.slicing
        return chunks_of(slicing), [source_of(shard) for shard in variable]
    source, shape = source_of(variable), variable._known_shape()
    if isinstance(source, FirstValues) and source.divisible and source.nbytes > most:
        borders = blocks(shape, source.dtype.itemsize, most)
        rows = [source.rows(first, last) for first, last in itertools.pairwise(borders)]
        return chunked(shape, borders), rows
    return tuple((size,) for size in shape), [source]


def chunks_of(slicing: Slicing) -> tuple[tuple[int, ...], ...]:
    """How dask writes the way in which a variable is cut."""
    parts = [slicing.part(i) for i in range(slicing.count)]
    return tuple(
        tuple(part.shape[axis] for part in parts) if count > 1 else (size,)
        for axis, (size, count) in enumerate(zip(slicing.shape, slicing.partitions, strict=True))
    )


def blocks(shape: tuple[int, ...], itemsize: int, most: int) -> list[int]:
    """Where blocks of the first axis begin that are no larger, and where the last one ends."""
    if not shape or math.prod(shape) * itemsize <= most:
        return [0, shape[0]] if shape else []
    rows = max(1, most // (math.prod(shape[1:]) * itemsize))
    return [*range(0, shape[0], rows), shape[0]]


def chunked(shape: tuple[int, ...], borders: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """How dask writes that the first axis is cut at these places."""
    if not shape:
        return ()
    first = tuple(last - begin for begin, last in itertools.pairwise(borders))
    return first, *((size,) for size in shape[1:])


def as_array(chunks: tuple[tuple[int, ...], ...], sources: list[Any], dtype: np.dtype) -> Any:
    """A dask array of chunks that are made, or lie on the workers."""
    dask = library("dask")
    tokens = [s.task_key if isinstance(s, FirstValues) else s.key for s in sources]
    plain = all(isinstance(source, FirstValues) for source in sources)
    name = f"{'first-values' if plain else 'variable'}-{dask.base.tokenize(chunks, tokens)}"
    places = itertools.product(*(range(len(sizes)) for sizes in chunks))
    layer = {
        (name, *place): (make, source) if isinstance(source, FirstValues) else source
        for place, source in zip(places, sources, strict=True)
    }
    graph = dask.highlevelgraph.HighLevelGraph.from_collections(name, layer)
    return dask.array.Array(graph, name, chunks, dtype=dtype)


def restore(
    path: str | os.PathLike[str],
    client: Any,
    *,
    max_chunk_size: int | str = "128MiB",
    progress: Progress | bool | None = None,
) -> dict[str, Any]:
    """Read a checkpoint to the workers of a cluster: each chunk is read by the one that holds it.

    A tensor is cut as the variable was that it was saved from; another one, if it is larger than
    `max_chunk_size`, into blocks of its first axis.  All workers see the files, which must stay: of
    a worker that dies, what it held is read again.  For a graph whose storage is `Cluster`, write
    `varscope.restore(graph, path)`.

    Parameters
    ----------
    path : path
        What `varscope.open` takes.
    client : dask.distributed.Client
    max_chunk_size : int or str
        In bytes, or in the way of "128MiB".
    progress : callable, or bool, optional
        As for `varscope.restore`.  The dashboard shows the tasks as "restore".

    Returns
    -------
    dict of str to dask.array.Array
        By the names in the files; the values lie on the workers.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError : TypeError, ValueError
    CheckpointError : ValueError
        What is there is no checkpoint, or a damaged one, or one in pieces or in another byte order
        than this machine's, as checkpoints of TensorFlow may be.
    OSError
    ImportError
        dask or distributed is not installed.

    >>> import varscope as vs
    >>> from varscope.interop.dask import restore
    >>> from distributed import Client
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default():
    ...     v = vs.get_variable("v", [3], initializer=vs.ones)
    >>> vs.save(g, "model")
    >>> with Client(processes=False, dashboard_address=":0") as client:
    ...     restore("model", client)["v"].sum().compute()
    np.float32(3.0)
    """
    client, most = as_client(client), as_size(max_chunk_size)
    with as_report(progress, "restore") as report:
        sources = Sources(path)
        try:
            grids = stored(Tensors(sources, None), most)
        finally:
            sources.close()
        there = [source for _, _, sources in grids.values() for source in sources]
        futures = mapped(client, new_keys("restore", len(there)), make, there)
        wait(futures, grids, report)
    left = iter(futures)
    return {
        name: as_array(chunks, list(itertools.islice(left, len(sources))), dtype)
        for name, (chunks, dtype, sources) in grids.items()
    }


Grid = tuple[tuple[tuple[int, ...], ...], np.dtype, list[Stored]]


def stored(tensors: Tensors, most: int) -> dict[str, Grid]:
    """The chunks, the dtype and the places in files of all tensors, by name."""
    places, found = Places(tensors), {}
    for name, number in tensors.number_of.items():
        shape, dtype = tensors.shapes[number], tensors.dtypes[number]
        path = os.path.realpath(places.files[places.file_of[number]].path)
        partitions = tensors.origin(number)[0].partitions
        if places.odd[number] or not isinstance(dtype, np.dtype):
            raise CheckpointError.of(
                path, name, "it is of a dtype that is not known, or in pieces, or in another byte "
                "order, and workers read it as it lies there",
                "write varscope.restore(graph, path)",
            )  # fmt: skip
        if name in partitions:
            slicing = Slicing.of(shape, partitions[name])
            chunks = chunks_of(slicing)
            parts = [slicing.part(i) for i in range(slicing.count)]
        else:
            borders = blocks(shape, dtype.itemsize, most)
            chunks, whole = chunked(shape, borders), Part.of_whole(shape)
            parts = [whole[a:b][0] for a, b in itertools.pairwise(borders)] if shape else [whole]
        start = int(places.offset_of[number])
        sources = [Stored(path, start, name, dtype, dtype, part) for part in parts]
        found[name] = chunks, dtype, sources
    return found


def wait(futures: list[Any], grids: dict[str, Grid], report: Progress | None) -> None:
    """Wait until all chunks are read."""
    sizes = [source.nbytes for _, _, sources in grids.values() for source in sources]
    done, total = 0, sum(sizes)

    def tick(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if report is not None:
            report(done, total)

    tick(0)
    wait_for(futures, sizes, tick)
