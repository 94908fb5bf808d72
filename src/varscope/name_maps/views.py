"""Tensors that are to be read: which part of which, in which order of axes, put together how.

All of it is worked out from shapes alone.  A `View` is a part of one tensor; views of views are
views, because a range of a range is a range.  A `Recipe` makes one tensor of one view or of many.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Any

import numpy as np

from varscope.errors import NameMapError

Index = tuple[slice | int | EllipsisType, ...]

_ENTRY = re.compile(r"(-?\d+)?\s*(?:(:)\s*(-?\d+)?\s*(?::\s*(\d+)?)?)?", re.ASCII)


def as_index(text: object) -> Index:
    """The index that a text such as `"0:768"` or `"[:, 0:64]"` stands for; else ValueError."""
    expected = 'a text such as "0:768" or "[:, 0:64]" (in YAML: in quotes)'
    if not isinstance(text, str):
        raise ValueError(f"a slice must be {expected}, not {text!r:.100}; write it so")
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1]
    index = tuple(_as_entry(entry.strip()) for entry in inner.split(","))
    if None in index or index.count(...) > 1:
        raise ValueError(f"a slice must be {expected}, not {text!r:.100}; write it so")
    return index  # type: ignore[return-value]


def _as_entry(text: str) -> slice | int | EllipsisType | None:
    if text == "...":
        return ...
    match = _ENTRY.fullmatch(text)
    if match is None or not text or len(text) > 60:
        return None
    start, colon, stop, step = match.groups()
    if not colon:
        return int(start)
    if step is not None and int(step) == 0:
        return None
    return slice(*(None if number is None else int(number) for number in (start, stop, step)))


class View:
    """A part of a tensor: what is taken of each of its axes, and those that stay, in their order.

    An axis of which one element is taken is gone, as in NumPy.  A view does not change.
    """

    __slots__ = ("name", "order", "source", "taken", "tensor")

    def __init__(
        self,
        source: int,
        name: str,
        tensor: Any,
        taken: tuple[int | range, ...],
        order: tuple[int, ...],
    ) -> None:
        self.source, self.name, self.tensor = source, name, tensor
        self.taken, self.order = taken, order

    @classmethod
    def of(cls, source: int, name: str, tensor: Any) -> View:
        shape = tensor.shape
        if shape is None or None in shape:
            raise NameMapError(
                f"the shape of {name!r}, {shape}, is not known yet; read its values first"
            )
        return cls(source, name, tensor, tuple(map(range, shape)), tuple(range(len(shape))))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(self._range(axis)) for axis in range(len(self.order)))

    def _range(self, axis: int) -> range:
        taken = self.taken[self.order[axis]]
        assert isinstance(taken, range)  # others are not in the order
        return taken

    def misfit(self, what: str) -> NameMapError:
        return NameMapError(
            f"{self.name!r} has shape {self.shape}: {what}; write a rule that fits this shape"
        )

    def axis(self, axis: int) -> int:
        """An axis counted from the front; NameMapError where there is none of this number."""
        if not -len(self.order) <= axis < len(self.order):
            raise self.misfit(f"there is no axis {axis}")
        return axis % len(self.order)

    def sliced(self, index: Index) -> View:
        """The part of an index; bounds outside of the tensor are an error, not cut off."""
        missing = len(self.order) - len(index) + (... in index)
        if missing < 0:
            raise self.misfit(f"the slice {shown_index(index)} has too many dimensions")
        at = index.index(...) if ... in index else len(index)
        full = index[:at] + (slice(None),) * missing + index[at + 1 :]
        taken, order = list(self.taken), []
        for axis, entry in enumerate(full):
            assert not isinstance(entry, EllipsisType)
            taken[self.order[axis]] = self._cut(axis, entry)
            if isinstance(entry, slice):
                order.append(self.order[axis])
        return View(self.source, self.name, self.tensor, tuple(taken), tuple(order))

    def _cut(self, axis: int, entry: slice | int) -> int | range:
        whole = self._range(axis)
        size = len(whole)
        bounds = (entry.start, entry.stop) if isinstance(entry, slice) else (entry,)
        highest = size if isinstance(entry, slice) else size - 1
        for bound in bounds:
            if bound is not None and not -size <= bound <= highest:
                raise self.misfit(f"{bound} is outside of axis {axis} of size {size}")
        return whole[entry]

    def part(self, axis: int, entry: slice | int) -> View:
        """What an entry takes of one axis."""
        return self.sliced((*[slice(None)] * axis, entry))

    def transposed(self, axes: tuple[int, ...] | None) -> View:
        """With the axes in another order; None turns the order round."""
        if axes is None:
            order = self.order[::-1]
        elif len(axes) != len(self.order):
            raise self.misfit(f"transpose {list(axes)} is for {len(axes)} dimensions")
        else:
            order = tuple([self.order[axis] for axis in axes])
        return View(self.source, self.name, self.tensor, self.taken, order)

    def read(self) -> np.ndarray:
        """The values, as an array that must not be changed."""
        everything = tuple(map(range, self.tensor.shape))
        index = ... if self.taken == everything else tuple(map(_as_basic_index, self.taken))
        # By its index, what is stored gives views of a mapped file, which may be cut before they
        # are read, and a variable in parts gives these.
        read = getattr(self.tensor, "_read_part", None)
        array = np.asarray(self.tensor[index] if read is None else read(index))
        kept = sorted(self.order)
        return array.transpose([kept.index(axis) for axis in self.order])


def _as_basic_index(taken: int | range) -> int | slice:
    return slice(taken.start, taken.stop, taken.step) if isinstance(taken, range) else taken


def shown_index(index: Index) -> str:
    """An index as it is written in a rule."""
    return f"[{', '.join(map(_shown_entry, index))}]"


def _shown_entry(entry: slice | int | EllipsisType) -> str:
    if not isinstance(entry, slice):
        return "..." if entry is ... else str(entry)
    start, stop = ("" if bound is None else bound for bound in (entry.start, entry.stop))
    return f"{start}:{stop}" if entry.step is None else f"{start}:{stop}:{entry.step}"


class Recipe:
    """How one tensor is made of those that are read; its values are read when asked for.

    A recipe has `shape`, `dtype` and `[index]` as a tensor of a checkpoint has, so those of one
    plan can be the source of another.
    """

    __slots__ = ()

    plain: bool
    """Whether it is one tensor, whole and unchanged, under another name or the same."""

    how: str
    """What is done to the tensors besides renaming, in words; empty for a plain one."""

    @property
    def sources(self) -> tuple[tuple[int, str], ...]:
        """What is read: for each tensor the number of its source, and its name there."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result, known without reading."""
        raise NotImplementedError

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the result, known without reading."""
        raise NotImplementedError

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        """Read the values, only those that are needed.

        Parameters
        ----------
        out : array, optional
            Of the recipe's shape: each piece is put straight in its place there.  Without it the
            result must not be changed: it may be a view of what is read.
        """
        raise NotImplementedError

    def __getitem__(self, index: Any) -> np.ndarray:
        values: np.ndarray = self.read()[index]
        return values

    def __repr__(self) -> str:
        names = [name for _, name in self.sources]
        shown = repr(names[0]) if len(names) == 1 else f"{len(names):,} tensors"
        return f"<Recipe of {shown}{f', {self.how}' if self.how else ''}>"


class Renamed(Recipe):
    """The recipe of a tensor that is only called otherwise."""

    __slots__ = ("_name", "_place", "_source")

    plain = True
    how = ""

    def __init__(self, place: int, source: Mapping[str, Any], name: str) -> None:
        self._place, self._source, self._name = place, source, name

    @property
    def sources(self) -> tuple[tuple[int, str], ...]:
        return ((self._place, self._name),)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._source[self._name].shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> np.dtype:
        return self._source[self._name].dtype  # type: ignore[no-any-return]

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        return _put(np.asarray(self._source[self._name][...]), out)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._source[self._name][index]  # type: ignore[no-any-return]


class Changed(Recipe):
    """The recipe of a tensor that is part of another one, or one with its axes in other order."""

    __slots__ = ("_view", "how")

    plain = False

    def __init__(self, view: View, how: str) -> None:
        self._view, self.how = view, how

    @property
    def sources(self) -> tuple[tuple[int, str], ...]:
        return ((self._view.source, self._view.name),)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._view.shape

    @property
    def dtype(self) -> np.dtype:
        return self._view.tensor.dtype  # type: ignore[no-any-return]

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        return _put(self._view.read(), out)


class Joined(Recipe):
    """The recipe of several tensors that become one: stacked on a new axis, or concatenated."""

    __slots__ = ("_axis", "_dtype", "_shape", "_views", "how")

    plain = False

    def __init__(self, views: Sequence[View], axis: int, stacked: bool, how: str) -> None:
        self._views = tuple(views)
        self.how = how
        self._dtype = _common_dtype(self._views)
        first = self._views[0]
        if stacked:
            self._axis = _new_axis(first, axis)
            size = len(self._views)
            along = 0  # of the axis there is nothing in the tensors yet
        else:
            self._axis = first.axis(axis)
            size = sum(_size(view, self._axis) for view in self._views)
            along = 1
        for view in self._views:
            if _without(view.shape, self._axis, along) != _without(first.shape, self._axis, along):
                raise NameMapError(
                    f"{first.name!r} has shape {first.shape} and {view.name!r} {view.shape}: they "
                    f"cannot be {'stacked' if stacked else f'concatenated on axis {self._axis}'}; "
                    "write a rule that takes tensors that fit"
                )
        shape = list(first.shape)
        shape[self._axis : self._axis + along] = [size]
        self._shape = tuple(shape)

    @property
    def sources(self) -> tuple[tuple[int, str], ...]:
        return tuple((view.source, view.name) for view in self._views)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> np.dtype:
        return self._dtype

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            out = np.empty(self._shape, self._dtype)
        _check_shape(out, self._shape)
        for place, view in self._places():
            out[(*[slice(None)] * self._axis, place)] = view.read()
        return out

    def _places(self) -> Iterator[tuple[int | slice, View]]:
        if len(self._shape) > len(self._views[0].shape):
            yield from enumerate(self._views)
            return
        start = 0
        for view in self._views:
            stop = start + view.shape[self._axis]
            yield slice(start, stop), view
            start = stop


def _put(values: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is None:
        return values
    _check_shape(out, values.shape)
    out[...] = values
    return out


def _check_shape(out: np.ndarray, shape: tuple[int, ...]) -> None:
    if out.shape != shape:
        raise ValueError(f"out must be an array of shape {shape}, not {out.shape}; give such a one")


def _common_dtype(views: Sequence[View]) -> np.dtype:
    first = views[0]
    dtype: np.dtype = first.tensor.dtype
    for view in views:
        if view.tensor.dtype != dtype:
            raise NameMapError(
                f"{first.name!r} has dtype {dtype} and {view.name!r} {view.tensor.dtype}: one "
                "tensor cannot be made of both; write a rule that takes tensors of one dtype"
            )
    return dtype


def _new_axis(view: View, axis: int) -> int:
    dimensions = len(view.order) + 1
    if not -dimensions <= axis < dimensions:
        raise view.misfit(f"tensors of it cannot be stacked on axis {axis}")
    return axis % dimensions


def _size(view: View, axis: int) -> int:
    return view.shape[view.axis(axis)]


def _without(shape: tuple[int, ...], axis: int, along: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + along :]
