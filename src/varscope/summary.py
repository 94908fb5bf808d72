"""Many variables in a few lines: repeated siblings fold into one row.

A generated model has half a million variables and a dozen kinds of them.  ``fold`` finds the
kinds: it turns ``layers_0/w``, ``layers_1/w``, … into the row ``layers_[0-91]/w`` wherever dtype
and shape agree.  Nothing is lost: ``expand`` gives back every variable.
`varscope.folding` says how a pattern reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy

from varscope import folding, shapes

if TYPE_CHECKING:
    from varscope.graph import Graph

__all__ = ["Summary", "SummaryRow", "expand", "fold", "format_bytes", "format_type", "summarize"]

Shape = tuple[int | None, ...] | None


class Stored(Protocol):
    """What a checkpoint says of its tensors, in columns."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def dtype_names(self) -> Sequence[str]: ...
    @property
    def shapes(self) -> Sequence[tuple[int, ...]]: ...
    @property
    def nbytes_of(self) -> numpy.ndarray: ...


class SummaryRow(NamedTuple):
    """All variables of one kind: a path pattern, what they share, and how many they are.

    ``parameters`` and ``nbytes`` are those of all ``count`` variables together; None where the
    shape is not known yet, or the dtype is not known here.
    """

    path: str
    dtype: str
    shape: Shape
    count: int  # type: ignore[assignment]  # a tuple's method of this name is of no use here
    parameters: int | None
    nbytes: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The rows of a model and their totals (variables of unknown shape count as nothing)."""

    rows: tuple[SummaryRow, ...]
    variables: int
    parameters: int
    nbytes: int


def summarize(model: Graph | Stored) -> Summary:
    """Fold all variables of a graph, or all tensors of a checkpoint.

    >>> import varscope as vs
    >>> graph = vs.Graph()
    >>> with graph.as_default():
    ...     for i in range(12):
    ...         with vs.variable_scope(f"layers_{i}"):
    ...             kernel = vs.get_variable("kernel", [8, 8])
    >>> summary = summarize(graph)
    >>> [(row.path, row.count) for row in summary.rows]
    [('layers_[0-11]/kernel', 12)]
    >>> summary.parameters
    768
    """
    if hasattr(model, "variables"):
        rows = fold((v.op_name, v.dtype, v.shape) for v in model.variables)
    else:
        rows = fold_stored(model.names, model.dtype_names, model.shapes, model.nbytes_of.tolist())
    return total(rows)


def total(rows: Sequence[SummaryRow]) -> Summary:
    """The rows and their totals."""
    return Summary(
        rows=tuple(rows),
        variables=sum(row.count for row in rows),
        parameters=sum(row.parameters or 0 for row in rows),
        nbytes=sum(row.nbytes or 0 for row in rows),
    )


def fold(variables: Iterable[tuple[str, Any, Shape]]) -> list[SummaryRow]:
    """Fold (path, dtype, shape) triples into rows, in the order in which kinds first appear.

    Paths are any texts, each at most once (``ValueError`` otherwise); a dtype is anything that
    ``numpy.dtype`` accepts, or a name that is not known here.

    >>> [row.path for row in fold([("w", "float32", (2,)), ("w_1", "float32", (2,))])]
    ['w{,_1}']
    """
    dtypes: dict[Any, tuple[str, int | None]] = {}
    rows = []
    kinds = ((path, (dtype, shape)) for path, dtype, shape in variables)
    for pattern, (dtype, shape), count in folding.fold(kinds):
        if dtype not in dtypes:
            dtypes[dtype] = _name_and_size(dtype)
        parameters = _parameters(shape, count)
        name, itemsize = dtypes[dtype]
        nbytes = None if parameters is None or itemsize is None else parameters * itemsize
        rows.append(SummaryRow(pattern, name, shape, count, parameters, nbytes))
    return rows


def fold_stored(
    names: Iterable[str],
    dtype_names: Iterable[str],
    shapes: Iterable[tuple[int, ...]],
    nbytes_of: Iterable[int],
) -> list[SummaryRow]:
    """Fold columns of tensors whose sizes in bytes are known, whatever their dtypes are."""
    kinds = zip(dtype_names, shapes, nbytes_of, strict=True)
    return [
        SummaryRow(pattern, dtype, shape, count, _parameters(shape, count), nbytes * count)
        for pattern, (dtype, shape, nbytes), count in folding.fold(zip(names, kinds, strict=True))
    ]


def expand(rows: Iterable[SummaryRow]) -> Iterator[tuple[str, str, Shape]]:
    """Undo ``fold``: every (path, dtype, shape), row by row.

    >>> rows = fold([("w", "float32", (2,)), ("w_1", "float32", (2,))])
    >>> list(expand(rows))
    [('w', 'float32', (2,)), ('w_1', 'float32', (2,))]
    """
    for row in rows:
        for path in folding.expand(row.path):
            yield path, row.dtype, row.shape


def format_bytes(nbytes: int) -> str:
    """``nbytes`` in the largest binary unit that leaves a number of at least one.

    >>> format_bytes(1536)
    '1.5 KiB'
    """
    if nbytes < 1024:
        return f"{nbytes} bytes"
    units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    size = nbytes / 1024
    # 1023.96 would be shown as 1024.0, which is one of the next unit.
    while round(size, 1) >= 1024 and len(units) > 1:
        size /= 1024
        del units[0]
    return f"{size:,.1f} {units[0]}"


def format_type(dtype: str, shape: Shape) -> str:
    """``dtype`` with ``shape`` behind it; sizes that are not known yet are question marks.

    >>> format_type("float16", (64, None)), format_type("int8", None)
    ('float16[64, ?]', 'int8[...]')
    """
    if shape is None:
        return f"{dtype}[...]"
    return f"{dtype}[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _parameters(shape: Shape, count: int) -> int | None:
    if shape is None:
        return None
    parameters = count
    for size in shape:
        if size is None:
            return None
        parameters *= size
    return parameters


def _name_and_size(dtype: Any) -> tuple[str, int | None]:
    try:
        known = shapes.as_dtype(dtype)
    except TypeError:
        if not isinstance(dtype, str):
            raise
        return dtype, None
    # str() shows the byte order where it is not the machine's own; .name hides it.
    return str(known), known.itemsize
