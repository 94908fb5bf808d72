"""Which of the names that are only in one of two checkpoints may be the same tensor renamed.

A guess, from the surest sign to the weakest: equal bytes, then names that are alike, always of one
shape and dtype.  What could be several is paired in order, where there are as many of one as of the
other, and else left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from varscope import _scopecore
from varscope.checkpoint.contents import Checkpoint

if TYPE_CHECKING:
    import numpy.typing as npt

BY_VALUES, BY_NAMES = "values", "names"

_NUMBERS = re.compile("[0-9]+")


Side = tuple[list[str], "npt.NDArray[np.intp]", "npt.NDArray[np.int64]"]


def renamed(
    a: Side, b: Side, contents: tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]] | None
) -> Iterator[tuple[int, int, str]]:
    """Pairs of places in `a` and `b`, and by what they were found.

    A side is all its names, the places of those that only it has, and numbers of the kinds of
    these: only what is of one kind can be the same.  `contents` are their checksums, where there
    are values.
    """
    names = a[0], b[0]
    places = a[1].tolist(), b[1].tolist()
    sides: list[dict[int, Any]]
    if contents is not None:
        if np.array_equal(a[2], b[2]) and np.array_equal(*contents):
            # Everything was renamed and nothing else done: all are in their old order.
            yield from ((old, new, BY_VALUES) for old, new in zip(*places, strict=True))
            return
        sides = [
            dict(zip(each, zip(side[2].tolist(), sums.tolist(), strict=True), strict=True))
            for each, side, sums in zip(places, (a, b), contents, strict=True)
        ]
        yield from _paired(sides, BY_VALUES, list(map(_alike, names)), in_order=False)
        yield from _paired(sides, BY_VALUES, None, in_order=True)
        sides = [{place: kind for place, (kind, _) in side.items()} for side in sides]
    else:
        sides = [
            dict(zip(each, side[2].tolist(), strict=True))
            for each, side in zip(places, (a, b), strict=True)
        ]
    yield from _paired(sides, BY_NAMES, list(map(_alike, names)), in_order=False)
    yield from _paired(sides, BY_NAMES, list(map(_last, names)), in_order=False)


def _alike(names: list[str]) -> Callable[[int], Hashable]:
    """What names that stand for the same thing have in common: the last component, all numbers."""

    def key(place: int) -> Hashable:
        name = names[place]
        return _last_component(name), tuple(_NUMBERS.findall(name))

    return key


def _last(names: list[str]) -> Callable[[int], Hashable]:
    return lambda place: _last_component(names[place])


def _last_component(name: str) -> str:
    slash = name.rfind("/") + 1
    return name[name.rfind(".", slash) + 1 or slash :]


def _paired(
    sides: list[dict[int, Any]],
    by: str,
    keys: list[Callable[[int], Hashable]] | None,
    in_order: bool,
) -> Iterator[tuple[int, int, str]]:
    """Pairs of equal keys, one of each side, which are taken out; equal numbers of them too."""
    groups: list[dict[Any, list[int]]] = [{}, {}]
    for number, (group, side) in enumerate(zip(groups, sides, strict=True)):
        for place, kind in side.items():
            key = kind if keys is None else (kind, keys[number](place))
            group.setdefault(key, []).append(place)
    for key, olds in groups[0].items():
        news = groups[1].get(key, [])
        if len(olds) == len(news) and (in_order or len(olds) == 1):
            for old, new in zip(olds, news, strict=True):
                del sides[0][old], sides[1][new]
                yield old, new, by


# --- checksums, of what has none as well


def checksums(checkpoint: Checkpoint, chosen: npt.NDArray[np.intp]) -> npt.NDArray[np.uint32]:
    """The CRC-32C of tensors' bytes: what was recorded, or else what it is."""
    columns = checkpoint._columns
    found = np.zeros(len(chosen), np.uint32)
    unknown = np.ones(len(chosen), np.bool_)
    recorded = recorded_checksums(checkpoint)
    if recorded is not None:
        sums, known = recorded
        found, unknown = sums[chosen], ~known[chosen]
    in_pieces = np.isin(chosen, list(columns.pieces))
    for at in np.flatnonzero(in_pieces).tolist():
        name = columns.names[int(chosen[at])]
        value = np.ascontiguousarray(checkpoint[name].value())
        found[at] = _scopecore.crc32c(value.reshape(-1).view(np.uint8).data)
    missing = np.flatnonzero(unknown & ~in_pieces)
    for file in np.unique(columns.file_of[chosen[missing]]).tolist():
        here = missing[columns.file_of[chosen[missing]] == file]
        offsets, lengths = columns.offset_of[chosen[here]], columns.nbytes_of[chosen[here]]
        computed = _scopecore.crc32c_each(checkpoint._pages(file), offsets, lengths)
        found[here] = np.frombuffer(computed, np.uint32)
    return found


def recorded_checksums(
    checkpoint: Checkpoint,
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]] | None:
    """All checksums that were recorded of whole tensors, and which there are."""
    columns = checkpoint._columns
    if columns.checksums is None:
        return None
    known = columns.has_checksum
    if known is None:
        known = np.ones(len(columns.names), np.bool_)
    if columns.pieces:
        known = known.copy()
        known[list(columns.pieces)] = False
    return columns.checksums, known
