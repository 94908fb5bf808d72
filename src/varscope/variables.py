"""`Variable`: a name, a shape, a dtype, and values that are made when they are first read."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from varscope import devices, initializers, memory, randomness, shapes
from varscope._scopecore import (
    Filling,
    Handle,
    Registry,
    Spec,
    count_write,
    locate,
    notebook_html,
    swap_cached,
)
from varscope.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    DTypeMismatchError,
    InitializerError,
    ShapeMismatchError,
    VarscopeError,
)
from varscope.partitioners import SaveSliceInfo
from varscope.shapes import Part
from varscope.tf1_methods import TensorFlow1Methods

if TYPE_CHECKING:
    import numpy.typing as npt

    from varscope.randomness import Distribution


# What NumPy raises before it writes.  A FloatingPointError comes when all is written, and a
# KeyboardInterrupt may: after those a copy on a device has to be renewed.
UNCHANGED = (IndexError, TypeError, ValueError)


class Content:
    """What a materialised variable holds: storage, a read-only view, and how often it changed.

    Neither array is ever given away, only views of them: whoever gets one may set its shape, dtype
    and flags, and that is nobody else's.  And a view can be made writable only where the array is
    that owns the memory, or the buffer behind it; so that one is not, and `array` is a view of it
    that was made before.
    """

    __slots__ = ("array", "cached", "version", "view")

    def __init__(self, array: np.ndarray, view: np.ndarray | None = None) -> None:
        """`array` is nobody else's, or comes with a read-only view of memory that others share."""
        self.array = array.view()
        self.cached: tuple[int, Any] | None = None  # (version, its copy on the caching device)
        if view is None:
            owner = array if array.base is None else array.base
            while not self.array.flags.writeable:
                # There is another one of the same array: made by another thread that helped to fill
                # it, or by a restore that has to begin its last step again.
                owner.flags.writeable = array.flags.writeable = True
                self.array = array.view()
            owner.flags.writeable = False
            view = array if owner is array else array.view()
            view.flags.writeable = False
        self.view = view
        self.version = 1

    def write(self, index: Any, value: npt.ArrayLike) -> None:
        """Set some values, or raise one of `UNCHANGED` and set none."""
        try:
            self.array[index] = value
        except UNCHANGED:
            raise
        except BaseException:
            count_write(self)
            raise
        count_write(self)

    def to_write(self) -> np.ndarray:
        """An array with all values, to be changed and then passed to `written`."""
        return self.array.view()

    def written(self, array: np.ndarray) -> None:
        """Take what was written to the array of `to_write`."""
        count_write(self)


Method = TypeVar("Method", bound=Callable[..., Any])


def naming_the_variable(method: Method) -> Method:
    """Let what an initializer raises say of which variable: a model may have a million."""

    @functools.wraps(method)
    def named(self: Variable, *args: Any) -> Any:
        try:
            return method(self, *args)
        except InitializerError as error:
            if "variable" not in vars(error):  # otherwise that of a variable which it reads
                error.args = (f"variable {self.path}: {error}",)
                error.variable = self.path
            raise
        except VarscopeError:
            raise  # it names the variable by itself
        except Exception as error:
            note = f"(in the initializer of variable {self.path})"
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise

    return named  # type: ignore[return-value]


class _Running(threading.local):
    """The variables whose initializers run in this thread, to tell when one reads itself."""

    def __init__(self) -> None:
        # A tuple: to take an element off a list may need memory, for a smaller one.
        self.names: tuple[tuple[int, int], ...] = ()


_running = _Running()


class Valued(TensorFlow1Methods, NDArrayOperatorsMixin):
    """What a variable is, whether its values lie in one piece or in several.

    A subclass knows its `path`, its `_spec`, and what stands at the end.
    """

    __slots__ = ()

    # --- what it is
    @property
    def shape(self) -> shapes.Shape | None:
        """A tuple of ints; None, or None inside, while only the initializer knows."""
        return self._spec.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self._known_shape())

    @property
    def size(self) -> int:
        """The number of elements."""
        self._known_shape()
        return self._spec.size

    @property
    def nbytes(self) -> int:
        """The number of bytes of its values, whether they are allocated or not."""
        return self.size * self.dtype.itemsize

    @property
    def dtype(self) -> np.dtype:
        """The `numpy.dtype` of the elements."""
        return self._spec.dtype

    @property
    def trainable(self) -> bool:
        """Whether it is meant to be trained: it is in `GraphKeys.TRAINABLE_VARIABLES`."""
        return self._spec.trainable

    @property
    def initializer(self) -> Callable[..., Any]:
        """The callable that makes its first values."""
        return self._spec.initializer

    @property
    def regularizer(self) -> Callable[[Any], Any] | None:
        """The regularizer it was created with, or None."""
        return self._spec.regularizer

    @property
    def constraint(self) -> Callable[[Any], Any] | None:
        """The function that projects its values, or None."""
        return self._spec.constraint

    @property
    def device(self) -> str:
        """Where the storage lies: always "cpu"."""
        return "cpu"

    def _repr_html_(self) -> str | None:
        return notebook_html(self)

    # --- writing
    def assign(self, value: npt.ArrayLike, apply_constraint: bool = False) -> Self:
        """Set all values; shape and kind of number must fit, or nothing is changed.

        Parameters
        ----------
        value : array-like of this shape
            Cast as NumPy casts in place: float64 goes into float32, a float not into an int.
        apply_constraint : bool
            Put `constraint(value)` in its place first.
        """
        value = self._castable(value)
        if apply_constraint:
            value = self._constrained(value)
        return self._store(value)

    def assign_add(self, delta: npt.ArrayLike) -> Self:
        """Add to all values, in place."""
        delta = self._castable(delta)
        return self._store(self._read + delta)

    def assign_sub(self, delta: npt.ArrayLike) -> Self:
        """Subtract from all values, in place."""
        delta = self._castable(delta)
        return self._store(self._read - delta)

    def project(self) -> Self:
        """Put `constraint(values)` in place of the values; nothing without a constraint."""
        return self if self.constraint is None else self._store(self._constrained(self._read))

    def _castable(self, value: npt.ArrayLike) -> np.ndarray:
        """The value as an array that may be stored here: same shape, same kind of number."""
        array = np.asarray(value)
        if not shapes.is_compatible(self._spec.shape, array.shape):
            raise ShapeMismatchError.of(self.path, self._spec.shape, array.shape, "assigned")
        if shapes.fits(array.dtype, self.dtype, "same_kind"):
            return array
        if not hasattr(value, "dtype") and shapes.is_integral(self.dtype):
            # Python's numbers have no dtype of their own: they go where their values fit.
            cast = array.astype(self.dtype) if shapes.is_integral(array.dtype) else None
            if cast is not None and np.array_equal(cast, array):
                return cast
        raise DTypeMismatchError.of(self.path, self.dtype, array.dtype, "assigned")

    def _constrained(self, value: np.ndarray) -> np.ndarray:
        if self.constraint is None:
            return value
        value = value.astype(self.dtype, copy=False).view()
        value.flags.writeable = False  # it is the caller's, or the storage
        return self._castable(self.constraint(value))

    # --- arithmetic, as on its values
    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple[Any, ...] = (), **kwargs: Any
    ) -> Any:
        inputs = tuple(x._read if isinstance(x, Valued) else x for x in inputs)
        if out:
            kwargs["out"] = tuple(x._to_write() if isinstance(x, Valued) else x for x in out)
        written = True
        try:
            result = getattr(ufunc, method)(*inputs, **kwargs)
        except UNCHANGED:
            written = False
            raise
        finally:
            for given, array in zip(out, kwargs.get("out", ()), strict=True):
                if written and isinstance(given, Valued):
                    given._written(array)
        return out[0] if len(out) == 1 and isinstance(out[0], Valued) else result

    # Variables are keys of dicts and members of lists: comparing one compares the object.
    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __ne__ = object.__ne__
    __lt__ = object.__lt__  # type: ignore[operator]
    __le__ = object.__le__  # type: ignore[operator]
    __gt__ = object.__gt__  # type: ignore[operator]
    __ge__ = object.__ge__  # type: ignore[operator]

    if TYPE_CHECKING:

        @property
        def path(self) -> str: ...
        @property
        def _spec(self) -> Spec: ...
        @property
        def _read(self) -> np.ndarray:
            """All values as a read-only array in main memory."""

        def _known_shape(self) -> tuple[int, ...]:
            """The shape, asking the initializer where only it knows."""

        def _store(self, value: np.ndarray) -> Self:
            """Set all values to ones that have passed `_castable`."""

        def _to_write(self) -> np.ndarray:
            """An array with all values, to be changed and then passed to `_written`."""

        def _written(self, array: np.ndarray) -> None:
            """Take what was written to the array of `_to_write`."""


class Variable(Handle, Valued):
    """A variable of a graph; made by `varscope.get_variable`, shared by its name.

    It is only declared until its values are first read; then storage is allocated and its
    initializer runs.  While somebody holds one, it is the only object for its name: `is`, `==`
    and `hash` go by identity.  Arithmetic works as on its value and gives arrays; `v += x`
    changes the variable in place.

    >>> import varscope as vs
    >>> v = vs.get_variable("v", [2], initializer=vs.ones)
    >>> v.initialized, (v + 1).tolist(), v.initialized
    (False, [2.0, 2.0], True)
    """

    __slots__ = ()

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise ArgumentTypeError(
            "a Variable is made by varscope.get_variable; write get_variable('v', [3, 4])"
        )

    @property
    def caching_device(self) -> str | None:
        """Where the copy that `value()` returns lies; None where it returns the storage."""
        return self._spec.caching_device

    @property
    def initialized(self) -> bool:
        """Whether the values are allocated and filled."""
        return self._filled

    @property
    def version(self) -> int:
        """How often the values were set: 0 while only declared.

        Writing through `array` or another view of the storage is not counted.
        """
        content = self._content
        return 0 if content is None else content.version

    # --- reading
    @property
    def array(self) -> np.ndarray:
        """The storage itself, writable: a view of it, as are all others that see its changes."""
        return self._materialised().array.view()

    def value(self) -> np.ndarray | Any:
        """The values as a read-only array that shares the storage.

        With a caching device: a copy there, in what that device has for arrays.  It is made once
        and renewed after the values were set, as `version` counts it.
        """
        content, device = self._materialised(), self._spec.caching_device
        return content.view.view() if device is None else self._cached(content, device)

    @property
    def _read(self) -> np.ndarray:
        """The values as a read-only array that shares the storage, wherever a copy lies."""
        return self._materialised().view

    def _cached(self, content: Content, device: str) -> Any:
        """The copy on a device, made where there is none of the values as they are now."""
        version, cached = content.version, content.cached
        if cached is None or cached[0] != version:
            made = devices.copied(device, content.view)
            # Where another thread was quicker, all get the same copy.
            cached = swap_cached(content, version, made)
        return cached[1]

    def numpy(self) -> np.ndarray:
        """A copy of the values."""
        return self._materialised().view.copy()

    def _materialised(self) -> Content:
        content = self._content
        return self._fill() if content is None else content

    def initialize(self, force: bool = False) -> Variable:
        """Make the first values now; with `force`, make them again in place of later ones."""
        content = self._content
        if force and content is not None:
            self._refill(content)
        else:
            self._materialised()
        return self

    @naming_the_variable
    def _refill(self, content: Content) -> None:
        """Put the first values in place of those that are there."""
        storage = self.graph.storage
        if storage.make(self, content):
            return
        path, part = self._origin()
        distribution = None if storage.elsewhere else initializers.drawn_from(self._spec, part)
        if distribution is None:
            content.write(..., self._computed(path, part))
            return
        try:
            self._draw(content.array, distribution, path, part)
        finally:
            count_write(content)

    def initial_value(self, index: Any = ...) -> np.ndarray:
        """The first values, or a part of them, made anew: nothing is stored.

        Parameters
        ----------
        index : ints, slices and `...`
            Which part, as in `v[index]`.  Random and constant values are made for the part alone,
            whatever the size of the variable.

        >>> import varscope as vs
        >>> v = vs.get_variable("huge", [10**9, 1000])
        >>> v.initial_value((slice(5, 7), 3)).shape
        (2,)
        """
        self._known_shape()
        path, whole = self._origin()
        part, drop = whole[index]
        values = self._first_values(path, part)
        return values if index is Ellipsis else values[drop]  # which of a scalar is no array

    @naming_the_variable
    def _first_values(self, path: str, part: Part) -> np.ndarray:
        """A part of what the initializer gives for a path."""
        distribution = initializers.drawn_from(self._spec, part)
        if distribution is None:
            return self._computed(path, part).astype(self.dtype)
        values = np.empty(part.shape, self.dtype)
        self._draw(values, distribution, path, part)
        return values

    def _origin(self) -> tuple[str, Part]:
        """The path from which the first values follow, and which part of it they are.

        Those of a shard follow from the variable that it is a shard of.
        """
        kept = self._whole
        found = None if kept is None else kept.slicing.part_of(self.path)
        return found or (self.path, Part.of_whole(self._spec.shape))

    @property
    def save_slice_info(self) -> SaveSliceInfo | None:
        """Which part of which variable this is a shard of; None where it is none."""
        path, part = self._origin()
        if path == self.path:
            return None
        return SaveSliceInfo(path, part.full_shape, part.offset, part.shape)

    @naming_the_variable
    def _fill(self) -> Content:
        storage = self.graph.storage
        if storage.make(self):
            return self._content  # type: ignore[return-value]
        path, part = self._origin()
        distribution = initializers.drawn_from(self._spec, part)
        if distribution is None:
            values, given = self._returned(path, part)
            if given != part:
                self._fill_siblings(values)
                values = values[part.index]
            return self._keep(values)[0]
        storage.draw(self, distribution, self._key(path), part)
        return self._content  # type: ignore[return-value]

    @naming_the_variable
    def _drawing(self) -> Filling | None:
        """What fills it block by block; None where it is not large, or has values."""
        path, part = self._origin()
        distribution = initializers.drawn_from(self._spec, part)
        if distribution is None:
            return None
        return self.graph.storage.drawing(self, distribution, self._key(path), part)

    def _fill_siblings(self, whole: np.ndarray) -> None:
        """Give the other shards their parts of what was computed for all of them."""
        kept = self._whole
        if isinstance(self.initializer, initializers.Value) or kept is None:
            return
        full_name, _ = self._origin()
        for i in range(kept.slicing.count):
            shard = self.graph._find(f"{full_name}/part_{i}")
            if shard is not None and shard is not self and not shard.initialized:
                shard._keep(whole[kept.slicing.part(i).index])

    def _draw(self, out: np.ndarray, distribution: Distribution, path: str, part: Part) -> None:
        """Fill an array with a part of what the distribution gives for a path."""
        randomness.fill(out, distribution, self._key(path), part.first, part.strides)

    def _key(self, path: str) -> int:
        seed = getattr(self._spec.initializer, "seed", None)
        return randomness.path_key(self.graph.seed, path, seed if isinstance(seed, int) else None)

    def _keep(self, values: np.ndarray) -> tuple[Content, bool]:
        """Storage with these values; where another thread was quicker, its own, and False."""
        if self._spec.size < 0:
            values = values.astype(self.dtype)  # what can fail comes before the shape is settled
            self._spec = self._spec.resolved(values.shape)
        shape = self._spec.shape
        if values.shape != shape:  # another thread's are of another one, and were quicker
            raise ShapeMismatchError.of(self.path, shape, values.shape, "to be kept")
        is_new = self.graph.storage.keep(self, values)
        return self._content, is_new  # type: ignore[return-value]

    def _own(self, array: np.ndarray) -> bool:
        """Make an array that is the variable's alone its storage; False where it has some."""
        mine = Content(array)
        return self._settle(mine) is mine

    def _restore(self, values: np.ndarray, version: int) -> None:
        """Take over the values that it had in another graph."""
        # One whose memory is not its own shares that of the other graph, or of whoever read the
        # pickle.  And NumPy unpickles numbers in the byte order of this machine.
        as_it_is = values.flags.owndata and values.dtype == self.dtype
        if not (as_it_is and self.graph.storage.adopts and self._own(values)):
            self._keep(values)
        self._materialised().version = version

    def _lies_at(self, array: np.ndarray) -> bool:
        """Whether an array of its shape and dtype is of the very memory that it has."""
        content = self._content
        if not isinstance(content, Content):
            return False
        here, there = locate([content.array, array])
        return here == there or array.size == 0

    def _content_at(self, place: int) -> Content:
        """What the core keeps in mind as a place in a slab."""
        storage: Any = self.graph.storage
        return Content(
            storage.view(self.dtype, place, self.shape),
            storage.view(self.dtype, place, self.shape, writable=False),
        )

    def _computed(self, path: str, part: Part) -> np.ndarray:
        """A part of what the initializer returns, checked."""
        values, given = self._returned(path, part)
        return values if given == part else values[part.index]

    def _returned(self, path: str, part: Part) -> tuple[np.ndarray, Part]:
        """What the initializer returns for a part or for more, checked, and for which."""
        spec, me = self._spec, (id(self.graph), self._index)
        running = _running.names
        if me in running:
            raise InitializerError(
                "its initializer reads the variable itself; write one that does not need it"
            )
        _running.names = (*running, me)
        try:
            values, given = initializers.values(spec, self._key(path), part)
        finally:
            _running.names = running
        if not shapes.is_compatible(given.shape, values.shape):
            raise ShapeMismatchError.of(
                self.path, given.shape, values.shape, f"returned by {spec.initializer!r:.100}"
            )
        if not shapes.fits(values.dtype, spec.dtype, "safe"):
            raise DTypeMismatchError.of(
                self.path,
                spec.dtype,
                values.dtype,
                f"returned by {spec.initializer!r:.100}, which cannot be cast safely",
            )
        shapes.check_size(values.shape, spec.dtype)
        return values, given

    def _known_shape(self) -> tuple[int, ...]:
        """The shape, asking the initializer where only it knows."""
        if self._spec.size < 0:
            self._materialised()
        return self._spec.shape  # type: ignore[return-value]

    # --- writing
    def _store(self, value: np.ndarray) -> Self:
        content = self._content
        if content is None:
            content, is_new = self._keep(value)
            if is_new:
                return self
        content.write(..., value)
        return self

    def _to_write(self) -> np.ndarray:
        return self._materialised().to_write()

    def _written(self, array: np.ndarray) -> None:
        self._materialised().written(array)

    # --- as an array
    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False and self.graph.storage.elsewhere:
            raise ValueError(
                f"variable {self.path} lies on a cluster: as an array it is a copy; write v.numpy()"
            )
        array = self._to_write()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(
                    f"variable {self.path} is {array.dtype}: as {np.dtype(dtype)} it is a copy; "
                    "leave copy=False out"
                )
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        return memory.capsule(self, stream, max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return memory.CPU

    def __getitem__(self, index: Any) -> Any:
        return self._read[index]

    def __setitem__(self, index: Any, value: npt.ArrayLike) -> None:
        self._materialised().write(index, value)

    def __len__(self) -> int:
        return len(self._read)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._read)

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ArgumentValueError.stating(
                f"variable {self.path} of shape {self.shape} is ambiguous as true or false; write "
                "v.value().any() or v.value().all(), or 'v is not None' to ask whether it is there",
                value=self,
            )
        return bool(self._read)

    def __int__(self) -> int:
        return int(self._read)

    def __float__(self) -> float:
        return float(self._read)

    def __complex__(self) -> complex:
        return complex(self._read)

    def __index__(self) -> int:
        return self._read.__index__()

    def __repr__(self) -> str:
        if self._withdrawn:
            return "<Variable, withdrawn: what created it raised>"
        state = "" if self.initialized else ", declared"
        return f"<Variable {self.name!r} shape={self.shape} dtype={self.dtype}{state}>"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Registry, str]]:
        return _variable_of, (self.graph, self.path)


def _variable_of(graph: Registry, path: str) -> Variable | None:
    """The variable of an unpickled graph."""
    return graph._find(path)
