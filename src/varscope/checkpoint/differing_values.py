"""By how much the values of tensors differ, many tensors at a time, in bounded memory.

Small tensors are compared in batches of up to `BLOCK` bytes: one slice of each file where they lie
side by side there, and put together from as few slices as there are gaps where they do not.  Larger
ones are compared in as many blocks as they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from varscope import shapes
from varscope.checkpoint.contents import Checkpoint, readable_dtype
from varscope.errors import CheckpointError

if TYPE_CHECKING:
    import numpy.typing as npt

BLOCK = 1 << 20  # bytes that are compared at a time: their differences stay in the cache
BYTES = np.dtype("V1")  # what a tensor of a dtype that cannot be read here is made of


class Stored:
    """One side of a comparison: the bytes of a checkpoint's tensors by their places."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.columns = checkpoint._columns
        self._dtypes: dict[str, np.dtype | None] = {}

    def dtype(self, place: int) -> np.dtype | None:
        """The dtype of a tensor; None of one that cannot be read here."""
        name = self.columns.dtype_names[place]
        if name not in self._dtypes:
            try:
                self._dtypes[name] = readable_dtype(name, self.checkpoint.path, name)
            except CheckpointError:
                self._dtypes[name] = None
        return self._dtypes[name]

    def in_one_piece(self) -> npt.NDArray[np.bool_]:
        """Of each tensor, whether its bytes lie in the file as they are in memory."""
        found = np.full(len(self.columns.names), not getattr(self.columns, "swapped", False))
        found[list(self.columns.pieces)] = False
        return found

    def bytes_of(self, places: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
        """The bytes of tensors one after another."""
        files, offsets = self.columns.file_of[places], self.columns.offset_of[places]
        ends = offsets + self.columns.nbytes_of[places]
        apart = (files[1:] != files[:-1]) | (offsets[1:] != ends[:-1])
        cuts = np.flatnonzero(apart) + 1
        firsts, lasts = np.append(0, cuts), np.append(cuts, len(places)) - 1
        slices = zip(files[firsts].tolist(), offsets[firsts].tolist(), ends[lasts].tolist())  # noqa: B905 - of one length
        views = self._views(set(files.tolist()))
        runs = [views[file][start:end] for file, start, end in slices]
        return np.frombuffer(runs[0] if len(runs) == 1 else b"".join(runs), np.uint8)

    def block_of(self, place: int, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Some of the bytes of a large tensor in one piece."""
        view = self._views([int(self.columns.file_of[place])])
        offset = int(self.columns.offset_of[place])
        (pages,) = view.values()
        return np.frombuffer(pages[offset + start : offset + stop], np.uint8)

    def all_bytes_of(self, place: int) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, also of one in pieces."""
        pieces: list[Any] = self.columns.pieces.get(place, [None])
        parts = [self.checkpoint._bytes(place, piece) for piece in pieces]
        return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)

    def _views(self, files: Iterable[int]) -> dict[int, memoryview]:
        return {file: memoryview(self.checkpoint._pages(file)) for file in files}


class Differences:
    """What differs, of pairs of tensors of one shape: how many elements, and by how much at most.

    `elements`, `absolute` and `relative` have an entry for each pair.  Of dtypes that are no
    numbers there is no size of a difference: it is NaN.
    """

    def __init__(
        self,
        a: Checkpoint,
        b: Checkpoint,
        places_a: npt.NDArray[np.intp],
        places_b: npt.NDArray[np.intp],
        tolerances: tuple[float, float],
    ) -> None:
        self.sides = Stored(a), Stored(b)
        self.places = places_a, places_b
        self.rtol, self.atol = tolerances
        count = len(places_a)
        self.elements = np.zeros(count, np.int64)
        self.absolute = np.zeros(count)
        self.relative = np.zeros(count)

    def find(self, pairs: npt.NDArray[np.intp], tell: Callable[[int], object]) -> None:
        """Compare the values of these pairs; `tell(bytes)` hears of each block that is done."""
        a, b = self.sides
        sizes = a.columns.nbytes_of[self.places[0]]
        other_sizes = b.columns.nbytes_of[self.places[1]]
        flat = a.in_one_piece()[self.places[0]] & b.in_one_piece()[self.places[1]]
        for dtypes, group in self._by_dtypes(pairs):
            if any(dtype is None for dtype in dtypes):  # not by ==: to NumPy, None is float64
                continue  # one of them cannot be read: that the dtypes differ is said already
            if dtypes[0] == BYTES:
                apart = ~flat[group] | (sizes[group] != other_sizes[group])
                for pair in group[apart].tolist():
                    self._compare_bytes(pair, tell)
                group = group[~apart]
            for pair in group[~flat[group]].tolist():
                self._compare_rows(pair, tell)
            for batch in batches(group[flat[group]], sizes):
                if len(batch) == 1 and sizes[batch[0]] > BLOCK:
                    self._compare_large(int(batch[0]), dtypes, tell)
                else:
                    self._compare_batch(batch, dtypes)
                    tell(int(sizes[batch].sum()))

    def _by_dtypes(self, pairs: npt.NDArray[np.intp]) -> Iterator[tuple[Any, Any]]:
        """The pairs by their two dtypes; those of each in the order of the first file."""
        names = [
            list(map(side.columns.dtype_names.__getitem__, places[pairs].tolist()))
            for side, places in zip(self.sides, self.places, strict=True)
        ]
        numbers = {
            kind: number for number, kind in enumerate(dict.fromkeys(zip(*names, strict=True)))
        }
        number_of = np.fromiter(
            map(numbers.__getitem__, zip(*names, strict=True)), np.intp, len(pairs)
        )
        for (name_a, name_b), number in numbers.items():
            group = pairs[number_of == number]
            dtype_a, dtype_b = (
                side.dtype(int(places[group[0]]))
                for side, places in zip(self.sides, self.places, strict=True)
            )
            if dtype_a is None and name_a == name_b:
                dtype_a = dtype_b = BYTES  # these can be compared all the same
            yield (dtype_a, dtype_b), group[np.argsort(self.places[0][group], kind="stable")]

    def _compare_batch(self, batch: npt.NDArray[np.intp], dtypes: Any) -> None:
        """Small tensors of one pair of dtypes, together."""
        arrays = [
            side.bytes_of(places[batch]).view(dtype)
            for side, places, dtype in zip(self.sides, self.places, dtypes, strict=True)
        ]
        at, absolute, relative = differing(arrays[0], arrays[1], self.rtol, self.atol)
        if not len(at):
            return
        itemsize = dtypes[0].itemsize
        ends = np.cumsum(self.sides[0].columns.nbytes_of[self.places[0][batch]] // itemsize)
        tensor = np.searchsorted(ends, at, "right")
        firsts = np.flatnonzero(np.append(True, tensor[1:] != tensor[:-1]))
        changed = batch[tensor[firsts]]
        self.elements[changed] = np.diff(np.append(firsts, len(at)))
        self.absolute[changed] = np.maximum.reduceat(absolute, firsts)
        self.relative[changed] = np.maximum.reduceat(relative, firsts)

    def _compare_large(self, pair: int, dtypes: Any, tell: Callable[[int], object]) -> None:
        """A tensor that is larger than a block."""
        places = [int(places[pair]) for places in self.places]
        elements = int(self.sides[0].columns.nbytes_of[places[0]]) // dtypes[0].itemsize
        step = max(1, BLOCK // max(dtype.itemsize for dtype in dtypes))
        for start in range(0, elements, step):
            stop = min(start + step, elements)
            arrays = [
                side.block_of(place, start * dtype.itemsize, stop * dtype.itemsize).view(dtype)
                for side, place, dtype in zip(self.sides, places, dtypes, strict=True)
            ]
            self._add(pair, *arrays)
            tell((stop - start) * dtypes[0].itemsize)

    def _compare_bytes(self, pair: int, tell: Callable[[int], object]) -> None:
        """Texts, say, of other lengths: the bytes that only one has differ too."""
        a, b = (
            side.all_bytes_of(int(places[pair]))
            for side, places in zip(self.sides, self.places, strict=True)
        )
        common = min(len(a), len(b))
        for start in range(0, common, BLOCK):
            stop = min(start + BLOCK, common)
            self._add(pair, a[start:stop].view(BYTES), b[start:stop].view(BYTES))
        if len(a) != len(b):
            self.elements[pair] += abs(len(a) - len(b))
            self.absolute[pair] = self.relative[pair] = np.nan
        tell(len(a))

    def _compare_rows(self, pair: int, tell: Callable[[int], object]) -> None:
        """A tensor that has to be put together of pieces, or has another byte order."""
        a, b = (
            side.checkpoint[side.columns.names[int(places[pair])]]
            for side, places in zip(self.sides, self.places, strict=True)
        )
        if not a.shape:
            self._add(pair, a.value().reshape(-1), b.value().reshape(-1))
        else:
            rows = max(1, BLOCK * a.shape[0] // max(a.nbytes, 1))
            for start in range(0, a.shape[0], rows):
                index = slice(start, start + rows)
                self._add(pair, a[index].reshape(-1), b[index].reshape(-1))
        tell(a.nbytes)

    def _add(self, pair: int, a: np.ndarray, b: np.ndarray) -> None:
        at, absolute, relative = differing(a, b, self.rtol, self.atol)
        if len(at):
            self.elements[pair] += len(at)
            self.absolute[pair] = np.maximum(self.absolute[pair], absolute.max())
            self.relative[pair] = np.maximum(self.relative[pair], relative.max())


def batches(
    pairs: npt.NDArray[np.intp], sizes: npt.NDArray[np.int64]
) -> Iterator[npt.NDArray[np.intp]]:
    """The pairs that have any bytes, in runs of about a block; larger ones each by itself."""
    pairs = pairs[sizes[pairs] > 0]
    if not len(pairs):
        return
    large = sizes[pairs] > BLOCK
    block = np.cumsum(np.where(large, 0, sizes[pairs])) // BLOCK
    new = (block[1:] != block[:-1]) | large[1:] | large[:-1]
    yield from np.split(pairs, np.flatnonzero(new) + 1)


def differing(
    a: np.ndarray, b: np.ndarray, rtol: float, atol: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where two vectors differ, and by how much: absolutely, and relative to the larger one.

    NaN is equal to NaN.  A difference is infinite where only one of two is NaN or infinite.
    """
    if a.dtype == b.dtype:
        # Equal bytes are equal values, and most are: only the others are looked at closely.
        at = np.flatnonzero(unequal_bytes(a, b))
        a, b = a[at], b[at]
    else:
        at = np.arange(len(a))
    if not (is_number(a.dtype) and is_number(b.dtype)):
        unknown = np.full(len(at), np.nan)
        return at, unknown, unknown
    with np.errstate(all="ignore"):  # what is not finite is meant to come out of this
        absolute, scale, equal = distances(a, b)
        relative = np.where(np.isfinite(absolute), absolute / np.where(scale > 0, scale, 1), np.inf)
        within = np.isfinite(absolute) & (absolute <= atol + rtol * scale)
    apart = ~(equal | within) if rtol or atol else ~equal
    return at[apart], absolute[apart], relative[apart]


def unequal_bytes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each element of two vectors of one dtype, whether any byte differs."""
    size = a.dtype.itemsize
    if size in (1, 2, 4, 8):
        unsigned = np.dtype(f"u{size}")
        found: np.ndarray = a.view(unsigned) != b.view(unsigned)
    else:
        bytes_a, bytes_b = (
            np.ascontiguousarray(each).view(np.uint8).reshape(-1, size) for each in (a, b)
        )
        found = (bytes_a != bytes_b).any(axis=1)
    return found


def distances(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The absolute difference of numbers, the larger magnitude, and where they are equal."""
    a, b = (each.astype(arithmetic(each.dtype), copy=False) for each in (a, b))
    common = np.result_type(a, b)
    if common.kind in "iu":
        low, high = (np.asarray(f(a, b), common) for f in (np.minimum, np.maximum))
        # Modulo 2**64 this is right also where the difference of two signed ones has no room.
        between = high.astype(np.uint64) - low.astype(np.uint64)
        scale = np.maximum(np.abs(low.astype(np.float64)), np.abs(high.astype(np.float64)))
        return between.astype(np.float64), scale, between == 0
    a, b = a.astype(common, copy=False), b.astype(common, copy=False)
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    absolute = np.abs(a - b)
    absolute = np.where(np.isnan(absolute), np.inf, absolute)
    absolute[equal] = 0
    return absolute, np.maximum(np.abs(a), np.abs(b)), equal


def is_number(dtype: np.dtype) -> bool:
    """Whether values of a dtype have distances."""
    return dtype.kind in "biufc" or shapes.is_floating(dtype) or shapes.is_integral(dtype)


def arithmetic(dtype: np.dtype) -> np.dtype:
    """A dtype in which NumPy computes the differences of values of another without loss."""
    if dtype.kind in "iu":
        return dtype
    if dtype.kind == "b" or (dtype.kind not in "fc" and shapes.is_integral(dtype)):
        return np.dtype(np.int64)
    return np.result_type(dtype, np.float64) if dtype.kind in "fc" else np.dtype(np.float64)
