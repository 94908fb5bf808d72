"""What code written for TensorFlow 1 calls on a variable itself.

The rest of that spelling is in `varscope.compat.tf1`.  These few have to be methods, as a variable
is one object however it was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


class Dimension(int):
    """A dimension of a `TensorShape`: an int whose `value` is itself."""

    @property
    def value(self) -> int:
        """The int."""
        return int(self)


class TensorShape(tuple[Dimension | None, ...]):
    """A shape that is a tuple, with the methods that TensorFlow 1 gave it.

    >>> shape = TensorShape([3, 4])
    >>> shape, shape.as_list(), shape.ndims, shape.num_elements(), shape[0].value
    ((3, 4), [3, 4], 2, 12, 3)
    """

    __slots__ = ()

    def __new__(cls, dims: Iterable[Any]) -> TensorShape:
        return super().__new__(cls, (None if dim is None else Dimension(dim) for dim in dims))

    @property
    def ndims(self) -> int:
        """The number of dimensions."""
        return len(self)

    @property
    def dims(self) -> list[Dimension | None]:
        """The dimensions as a list."""
        return list(self)

    def as_list(self) -> list[int | None]:
        """The dimensions as a list of ints; None where one is not known."""
        return [None if dim is None else int(dim) for dim in self]

    def is_fully_defined(self) -> bool:
        """Whether every dimension is known."""
        return None not in self

    def num_elements(self) -> int | None:
        """The number of elements, None where a dimension is not known."""
        return None if None in self else math.prod(int(dim) for dim in self if dim is not None)


class Op(NamedTuple):
    """What `v.op` was asked for: a name and a graph."""

    name: str
    graph: Any


class TensorFlow1Methods:
    """Other names for what a `Variable` can do."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def op_name(self) -> str: ...
        @property
        def shape(self) -> tuple[int | None, ...] | None: ...
        @property
        def graph(self) -> Any: ...
        def value(self) -> np.ndarray: ...
        def numpy(self) -> np.ndarray: ...
        def assign(self, value: npt.ArrayLike) -> Any: ...

    def eval(self, session: Any = None) -> Any:
        """TensorFlow 1's spelling of `numpy()`; of a scalar it gives a NumPy number.

        A `session` of `varscope.compat.tf1` has to be one of the variable's graph.
        """
        return self.numpy()[()] if session is None else session.run(self)

    def read_value(self) -> np.ndarray:
        """TensorFlow 1's spelling of `value()`."""
        return self.value()

    def initialized_value(self) -> np.ndarray:
        """TensorFlow 1's spelling of `value()`, which makes the first values where need be."""
        return self.value()

    def load(self, value: npt.ArrayLike, session: Any = None) -> None:
        """TensorFlow 1's spelling of `assign(value)`."""
        self.assign(value)

    def get_shape(self) -> TensorShape:
        """TensorFlow 1's spelling of `shape`: a tuple that has `as_list()`.

        >>> import varscope as vs
        >>> vs.get_variable("v", [3, 4]).get_shape().as_list()
        [3, 4]
        """
        return TensorShape(self.value().shape if self.shape is None else self.shape)

    @property
    def op(self) -> Op:
        """TensorFlow 1's way to `op_name`: `v.op.name`."""
        return Op(self.op_name, self.graph)
