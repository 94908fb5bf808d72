"""`Checkpoint` and `StoredTensor`: what files hold, by name, read-only and lazy.

A checkpoint of half a million tensors is a few columns, not half a million objects: a name is found
in a dict, and a `StoredTensor` is made when it is asked for.
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from varscope import _scopecore
from varscope.checkpoint import dtypes
from varscope.errors import ArgumentTypeError, CheckpointError
from varscope.progress import REPORT
from varscope.shapes import Part

if TYPE_CHECKING:
    import numpy.typing as npt

BLOCK = 1 << 24  # bytes whose checksums are taken at a time
# From Python 3.13 on a map need not hold a descriptor beside ours; a process may have few.
UNTRACKED: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


@dataclass(frozen=True, slots=True)
class Piece:
    """Where some of a tensor's values lie; `part` says which, None all of them."""

    file: int
    offset: int
    nbytes: int
    part: Part | None = None
    checksum: int | None = None


@dataclass
class Columns:
    """What is known of the tensors, one entry of each list a tensor.

    A tensor lies in `files[file_of]` from byte `offset_of` on.  One that lies in several pieces has
    them in `pieces`, by its number, and nothing in those two.
    """

    names: list[str]
    dtype_names: list[str]
    shapes: list[tuple[int, ...]]
    nbytes_of: npt.NDArray[np.int64]
    file_of: npt.NDArray[np.int32]
    offset_of: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32] | None = None
    has_checksum: npt.NDArray[np.bool_] | None = None  # all where None
    pieces: dict[int, list[Piece]] = field(default_factory=dict)
    partitions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    places: dict[str, int] | None = None  # by name, where that is known already
    swapped: bool = False  # whether the bytes of each number are in the other order than here
    # Of tensors whose recorded checksum is not one of their bytes: what is wrong with these.
    checks: dict[int, Callable[[memoryview], str | None]] = field(default_factory=dict)
    check_file: Callable[[MappedFile], None] | None = None  # what else is wrong with one


class MappedFile:
    """A file of data, mapped into memory read-only.

    `descriptor` is one of the file, for who would rather read than touch memory: what is cut off a
    mapped file meanwhile ends the process that touches it.  None where the system has no preadv.
    It is closed when nobody holds this object any more, so that no other file can have its number.
    """

    descriptor: int | None = None

    def __init__(self, path: Path, pages: mmap.mmap, opened: int | None = None) -> None:
        self.path, self.pages = path, pages
        if opened is not None and hasattr(os, "preadv"):
            self.descriptor = os.dup(opened)

    def read(self, offset: int, out: memoryview, tensor: str | None) -> None:
        """Fill `out` with the bytes from `offset` on; `tensor`, whose they are, is for errors."""
        if self.descriptor is None:
            out[:] = memoryview(self.pages)[offset : offset + len(out)]
            return
        done = 0
        while done < len(out):
            try:
                got = os.preadv(self.descriptor, [out[done:]], offset + done)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from None
            if got == 0:
                raise CheckpointError.of(
                    self.path,
                    tensor,
                    f"the file ends at byte {offset + done:,}, before the values do: it was cut "
                    "after it had been opened",
                )
            done += got

    def __del__(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)


class Checkpoint(Mapping[str, "StoredTensor"]):
    """What the files of a checkpoint hold: a mapping from name to `StoredTensor`.

    Made by `varscope.open`.  Opening reads names, shapes and dtypes; values are read when they are
    asked for.  The files stay mapped until `close`, or the end of a `with` block, and as long as an
    array of theirs is held: a later save to the same path does not change what is read here.

    >>> import tempfile, varscope as vs
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default():
    ...     v = vs.get_variable("layer/v", [2, 3], initializer=vs.ones)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vs.save(g, folder)
    ...     with vs.open(folder) as checkpoint:
    ...         checkpoint.verify()
    ...         list(checkpoint.items())
    [('layer/v', <StoredTensor 'layer/v' shape=(2, 3) dtype=float32>)]
    """

    def __init__(
        self,
        path: Path,
        format: str,
        files: list[MappedFile],
        columns: Columns,
        metadata: dict[str, str] | None = None,
    ) -> None:
        self.path = path
        self.format = format
        self.metadata = {} if metadata is None else metadata
        self._files: list[MappedFile] | None = files
        self.files = [file.path for file in files]
        self._columns = columns

    # --- what there is
    @property
    def names(self) -> list[str]:
        """The names, in the order of the data."""
        return self._columns.names

    @property
    def dtype_names(self) -> list[str]:
        """The names of the dtypes, parallel to `names`; of ones that cannot be read here too."""
        return self._columns.dtype_names

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes, parallel to `names`."""
        return self._columns.shapes

    @property
    def nbytes_of(self) -> npt.NDArray[np.int64]:
        """The bytes of each tensor, parallel to `names`."""
        return self._columns.nbytes_of

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors together."""
        return int(self._columns.nbytes_of.sum())

    @property
    def partitions(self) -> dict[str, tuple[int, ...]]:
        """Into how many slices each dimension of a variable was cut, by name, where it was."""
        return self._columns.partitions

    def __len__(self) -> int:
        return len(self._columns.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.names)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name()

    def __getitem__(self, name: str) -> StoredTensor:
        try:
            place = self._by_name()[name]
        except KeyError:
            raise KeyError(
                f"no tensor {name!r} in {self.path}; write one of its {len(self):,} `names`"
            ) from None
        return StoredTensor(self, place)

    def _by_name(self) -> dict[str, int]:
        columns = self._columns
        if columns.places is None:
            columns.places = dict(zip(columns.names, range(len(columns.names)), strict=True))
        return columns.places

    # As an open file, it is equal to itself alone.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    # --- values
    def _where(self, place: int, piece: Piece | None = None) -> tuple[int, int, int]:
        """The file, the first byte and the number of bytes of a tensor in one piece, or a piece."""
        columns = self._columns
        if piece is not None:
            return piece.file, piece.offset, piece.nbytes
        columns_of = columns.file_of, columns.offset_of, columns.nbytes_of
        number, start, nbytes = (int(column[place]) for column in columns_of)
        return number, start, nbytes

    def _bytes(self, place: int, piece: Piece | None = None) -> memoryview:
        """The bytes of a tensor that lies in one piece, or of a piece, in the mapped file."""
        number, start, nbytes = self._where(place, piece)
        return memoryview(self._pages(number))[start : start + nbytes]

    def _pages(self, number: int) -> mmap.mmap:
        return self._mapped(number).pages

    def _mapped(self, number: int) -> MappedFile:
        if self._files is None:
            raise CheckpointError.closed(self.path)
        return self._files[number]

    def verify(self, progress: Callable[[int, int], object] | None = None) -> None:
        """Compare all values with the checksums that were recorded when they were written.

        Parameters
        ----------
        progress : callable, optional
            `progress(done_bytes, total_bytes)` is called again and again.

        Raises
        ------
        CheckpointError : ValueError
            It names the file and the tensor.
        """
        total, told = self.nbytes, time.monotonic()
        for done in self._verify_all():
            if progress is not None and time.monotonic() >= told + REPORT:
                progress(done, total)
                told = time.monotonic()
        if progress is not None:
            progress(total, total)

    def _verify_all(self) -> Iterator[int]:
        """Compare block by block; gives the number of bytes that are done."""
        columns, count, check = self._columns, len(self), self._columns.check_file
        if check is not None:
            for number in range(len(self.files)):
                check(self._mapped(number))
        ends = np.cumsum(columns.nbytes_of)
        first = 0
        while first < count:
            before = int(ends[first - 1]) if first else 0
            last = int(np.searchsorted(ends, before + BLOCK, "right"))
            if last <= first:  # one that is larger
                for done in self._verify(first):
                    yield before + done
                first += 1
            else:
                self._verify_run(first, last)
                first = last
                yield int(ends[last - 1])

    def _verify_run(self, first: int, last: int) -> None:
        """Compare tensors that follow one upon the other, many at a time."""
        columns = self._columns
        pieces, checks = columns.pieces, columns.checks
        apart = [place for place in range(first, last) if place in pieces or place in checks]
        for place in apart:
            exhaust(self._verify(place))
        if columns.checksums is None:
            return
        known = np.ones(last - first, np.bool_)
        if columns.has_checksum is not None:
            known = columns.has_checksum[first:last].copy()
        known[[place - first for place in apart]] = False
        places = np.flatnonzero(known) + first
        for number in np.unique(columns.file_of[places]).tolist():
            here = places[columns.file_of[places] == number]
            offsets, lengths = columns.offset_of[here], columns.nbytes_of[here]
            low, high = int(offsets.min()), int((offsets + lengths).max())
            if high - low > 2 * BLOCK:  # they lie far apart
                for place in here.tolist():
                    exhaust(self._verify(place))
                continue
            data = bytearray(high - low)
            self._mapped(number).read(low, memoryview(data), columns.names[int(here[0])])
            sums = _scopecore.crc32c_each(data, offsets - low, lengths)
            found = np.frombuffer(sums, np.uint32)
            for at in np.flatnonzero(found != columns.checksums[here])[:1].tolist():
                place = int(here[at])
                recorded = int(columns.checksums[place])
                raise self._flipped(place, number, recorded, int(found[at]))

    def _verify(self, place: int) -> Iterator[int]:
        """Compare one tensor; gives the number of bytes that are done."""
        columns, done = self._columns, 0
        if place in columns.checks:
            number, offset, nbytes = self._where(place)
            text = memoryview(bytearray(nbytes))
            self._mapped(number).read(offset, text, columns.names[place])
            wrong = columns.checks[place](text)
            if wrong is not None:
                raise CheckpointError.of(self.files[number], columns.names[place], wrong)
        pieces: list[tuple[Piece | None, int | None]] = []
        if place in columns.pieces:
            pieces += ((piece, piece.checksum) for piece in columns.pieces[place])
        elif columns.checksums is not None and (
            columns.has_checksum is None or columns.has_checksum[place]
        ):
            pieces.append((None, int(columns.checksums[place])))
        for piece, recorded in pieces:
            if recorded is None:
                continue
            number, offset, nbytes = self._where(place, piece)
            found, block = 0, memoryview(bytearray(min(nbytes, BLOCK)))
            for start in range(0, nbytes, BLOCK):
                data = block[: nbytes - start]
                self._mapped(number).read(offset + start, data, columns.names[place])
                found = _scopecore.crc32c(data, found)
                yield done + start
            done += nbytes
            if found != recorded:
                raise self._flipped(place, number, recorded, found)

    def _flipped(self, place: int, number: int, recorded: int, found: int) -> CheckpointError:
        return CheckpointError.flipped(
            self.files[number], self._columns.names[place], recorded, found
        )

    # --- the end
    def close(self) -> None:
        """Let go of the files; arrays that are held stay good."""
        self._files = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise ArgumentTypeError(
            f"{self!r} cannot be copied or pickled: its files are mapped into this process; pass "
            "its path on, and open that"
        )

    def __repr__(self) -> str:
        return f"<Checkpoint {str(self.path)!r} of {len(self):,} tensors>"


class StoredTensor:
    """One tensor of a checkpoint; its values are read when they are asked for.

    `tensor[index]` gives a read-only array: a view of the mapped file where the tensor lies there
    in one piece, so a slice of a huge one costs what the slice is.

    >>> import tempfile, varscope as vs
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default():
    ...     v = vs.get_variable("v", [2, 3], initializer=vs.ones)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vs.save(g, f"{folder}/model.safetensors")
    ...     tensor = vs.open(f"{folder}/model.safetensors")["v"]
    ...     tensor.shape, tensor.dtype, tensor[1, :2]
    ((2, 3), dtype('float32'), array([1., 1.], dtype=float32))
    """

    __slots__ = ("_checkpoint", "_place")

    def __init__(self, checkpoint: Checkpoint, place: int) -> None:
        self._checkpoint = checkpoint
        self._place = place

    # --- what it is
    @property
    def name(self) -> str:
        """Its name in the file."""
        return self._checkpoint.names[self._place]

    @property
    def shape(self) -> tuple[int, ...]:
        """A tuple of ints."""
        return self._checkpoint.shapes[self._place]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        size = 1
        for dim in self.shape:
            size *= dim
        return size

    @property
    def nbytes(self) -> int:
        """The number of bytes of its values."""
        return int(self._checkpoint.nbytes_of[self._place])

    @property
    def dtype_name(self) -> str:
        """The name of its dtype, also of one that cannot be read here."""
        return self._checkpoint.dtype_names[self._place]

    @property
    def dtype(self) -> np.dtype:
        """The `numpy.dtype` of the elements."""
        return readable_dtype(self.dtype_name, self.file, self.name)

    @property
    def file(self) -> Path:
        """The file in which it lies, or the first of several."""
        columns = self._checkpoint._columns
        pieces = columns.pieces.get(self._place)
        number = pieces[0].file if pieces else int(columns.file_of[self._place])
        return self._checkpoint.files[number]

    @property
    def partitions(self) -> tuple[int, ...] | None:
        """Into how many slices each dimension was cut; None where it was one variable."""
        return self._checkpoint.partitions.get(self.name)

    # --- reading
    def __getitem__(self, index: Any) -> np.ndarray:
        columns = self._checkpoint._columns
        pieces = columns.pieces.get(self._place)
        if pieces is None:
            found: np.ndarray = self._stored()[index]
        else:
            found = self._assembled(index, pieces)
        if columns.swapped:
            found = found.byteswap()
        if isinstance(found, np.ndarray):
            found.flags.writeable = False
        return found

    def _read_part(self, index: Any) -> np.ndarray:
        """The values of a basic index, read by position: of a file that was cut it is an error."""
        columns = self._checkpoint._columns
        pieces = columns.pieces.get(self._place)
        if pieces is None:
            wanted, dropped = Part.of_whole(self.shape)[index]
            found: np.ndarray = self._fetched(wanted.index)[dropped]
        else:
            found = self._assembled(index, pieces)
        return found.byteswap() if columns.swapped else found

    def value(self) -> np.ndarray:
        """All values, as a read-only array."""
        return self[...]

    def numpy(self) -> np.ndarray:
        """A copy of the values."""
        return self.value().copy()

    def _stored(self, piece: Piece | None = None) -> np.ndarray:
        """What lies in the file, of a tensor in one piece or of a piece."""
        shape = self.shape if piece is None or piece.part is None else piece.part.shape
        data, dtype = self._checkpoint._bytes(self._place, piece), self.dtype
        try:
            array: np.ndarray = np.ndarray(shape, dtype, data)
            if array.nbytes != len(data):
                raise ValueError(f"there are {len(data):,} bytes for {array.nbytes:,}")
            return array
        except (OverflowError, ValueError) as error:  # 65 dimensions, 2**63 rows of nothing
            reason = f"NumPy has no array of shape {shape!r:.100} and {dtype}: {error}"
            raise CheckpointError.of(self.file, self.name, reason) from None

    def _fetched(self, index: tuple[slice, ...], piece: Piece | None = None) -> np.ndarray:
        """Some of what lies in the file, in memory of its own: what is between is read, too."""
        whole = self._stored(piece)
        everywhere: tuple[Any, ...] = (*index, ...)
        view: np.ndarray = whole[everywhere]  # of the map, in which nothing is touched
        if view.nbytes == 0:
            return view.copy()
        first = view.ctypes.data - whole.ctypes.data
        reach = [(size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True)]
        low = first + sum(step for step in reach if step < 0)
        high = first + sum(step for step in reach if step > 0) + view.itemsize
        number, start, _ = self._checkpoint._where(self._place, piece)
        data: Any = np.empty(high - low, np.uint8)
        self._checkpoint._mapped(number).read(start + low, data.data, self.name)
        return np.ndarray(view.shape, view.dtype, data, first - low, view.strides)

    def _assembled(self, index: Any, pieces: list[Piece]) -> np.ndarray:
        """Some of the values of a tensor in pieces, copied from those that hold them."""
        basic = (int, np.integer, slice, type(...))
        items = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(item, basic) and not isinstance(item, bool) for item in items):
            found: np.ndarray = self._assembled(..., pieces)[index]
            return found
        wanted, dropped = Part.of_whole(self.shape)[index]
        values = np.empty(wanted.shape, self.dtype)
        for piece in pieces:
            assert piece.part is not None
            places = common(wanted, piece.part)
            if places is not None:
                values[places[0]] = self._fetched(places[1], piece)
        found = values[dropped]
        return found

    def verify(self) -> None:
        """Compare the values with the recorded checksum; CheckpointError where they differ."""
        exhaust(self._checkpoint._verify(self._place))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        array = self.value()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(
                    f"{self.name} is {array.dtype}: as {np.dtype(dtype)} it is a copy; leave "
                    "copy=False out"
                )
            return array.astype(dtype)
        return array.copy() if copy else array

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{self.name} is a scalar: it has no length; read its value()")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<StoredTensor {self.name!r} shape={self.shape} dtype={self.dtype_name}>"


def exhaust(steps: Iterator[int]) -> None:
    """Run something to its end."""
    for _ in steps:
        pass


def common(wanted: Part, block: Part) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """The index of the elements that two parts have in common, in either; None for none at all.

    Steps of the first one may be any, those of the block are 1.

    >>> from varscope.checkpoint import contents
    >>> wanted, _ = Part.of_whole((9,))[::-2]
    >>> contents.common(wanted, Part.within((9,), (3,), (4,)))
    ((slice(1, 3, 1),), (slice(3, None, -2),))
    """
    here: list[slice] = []
    offset, shape = [], []
    for start, step, size, low, length in zip(
        wanted.offset, wanted.step, wanted.shape, block.offset, block.shape, strict=True
    ):
        # Element i is number start + i * step; these are the first two with low <= it < high.
        high = low + length
        if step > 0:
            first, stop = -((start - low) // step), -((start - high) // step)
        else:
            first, stop = (start - high) // -step + 1, (start - low) // -step + 1
        first, stop = max(first, 0), min(stop, size)
        if first >= stop:
            return None
        here.append(slice(first, stop, 1))
        offset.append(start + first * step - low)
        shape.append(stop - first)
    there = Part(block.shape, tuple(offset), tuple(shape), wanted.step)
    return tuple(here), there.index


def readable_dtype(name: str, file: Path, tensor: str) -> np.dtype:
    """The dtype of a name that a file has."""
    if name in ("string", "resource", "variant"):
        reason = f"it is a {name} of TensorFlow, not numbers: it is listed, and cannot be read"
        raise CheckpointError.of(file, tensor, reason, "leave it out, or read the others by name")
    try:
        return dtypes.dtype_of(name)
    except (OverflowError, TypeError, ValueError) as error:
        raise CheckpointError.of(
            file, tensor, f"its dtype {name!r:.100} cannot be read: {error!s:.300}"
        ) from None
