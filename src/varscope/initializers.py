"""What fills a new variable: callables `(shape, dtype)` to an array, or those of JAX.

The built-in ones are small frozen objects.  Nearly all of them are, for a variable of some shape,
a distribution of `randomness`, of which any part can be computed alone.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from varscope import _scopecore, randomness, shapes
from varscope._scopecore import Spec
from varscope.errors import ArgumentTypeError, InitializerError
from varscope.flyweights import Flyweight, Settings
from varscope.memory import Adoption
from varscope.randomness import Constant, Distribution, Normal, TruncatedNormal, Uniform
from varscope.shapes import Part


@dataclass(frozen=True, repr=False, eq=False)
class PartitionInfo(Settings):
    """Which part of a variable an initializer is asked for.

    `full_shape` is that of the whole variable, `var_offset` where the part begins in it; both
    are tuples of int.

    >>> import numpy as np, varscope as vs
    >>> def rows(shape, dtype, partition_info):
    ...     first = partition_info.var_offset[0]
    ...     return np.arange(first, first + shape[0], dtype=dtype)
    >>> cut = vs.fixed_size_partitioner(2)
    >>> v = vs.get_variable("v", [5], initializer=rows, partitioner=cut)
    >>> v[1].numpy().tolist()
    [3.0, 4.0]
    """

    full_shape: shapes.Shape | None
    var_offset: tuple[int, ...]


@dataclass(frozen=True, repr=False, eq=False)
class Initializer(Settings, metaclass=Flyweight):
    """The base of the built-in initializers: frozen, equal where their settings are, picklable.

    Calling one gives an array.  A variable passes its own `key`, so that it gets the same values
    again; called by hand, an initializer with a `seed` gives the same values each time, and one
    without draws new ones.

    >>> import varscope as vs
    >>> vs.random_normal(stddev=0.02), vs.he_normal() == vs.he_normal()
    (random_normal(stddev=0.02), True)
    >>> vs.random_uniform(seed=1)([2, 3]).shape
    (2, 3)
    """

    def drawn_from(self, shape: tuple[int, ...], dtype: np.dtype) -> Distribution | None:
        """What each element of a whole variable is drawn from; None: only `whole` knows."""
        return None

    def whole(self, shape: tuple[int, ...], dtype: np.dtype, key: int) -> np.ndarray:
        """All elements of a variable, where there is no distribution."""
        raise NotImplementedError

    def __call__(
        self,
        shape: Sequence[int] | None = None,
        dtype: Any = "float32",
        partition_info: PartitionInfo | None = None,
        key: int | None = None,
    ) -> np.ndarray:
        """An array of this shape and dtype: the part of a variable that `partition_info` tells."""
        known, dtype = shapes.as_shape(shape), shapes.as_dtype(dtype)
        if not shapes.is_known(known):
            mend = "write one, such as [3, 4]"
            if shape is None:  # called as a function that makes an initializer
                mend = f"write initializer={self!r}, or give one such as [3, 4]"
            raise InitializerError(
                f"{self!r} needs a shape with every dimension known, not {known}; {mend}"
            )
        part = Part.of_whole(known)
        if partition_info is not None:
            full_shape, offset = partition_info.full_shape, partition_info.var_offset
            part = Part.within(full_shape, offset, part.shape)  # type: ignore[arg-type]
        if key is None:
            key = randomness.loose_key(getattr(self, "seed", None))
        return self.part(part, dtype, key)

    def part(self, part: Part, dtype: np.dtype, key: int) -> np.ndarray:
        """The elements of a part of a variable."""
        distribution = self.drawn_from(part.full_shape, dtype)
        if distribution is None:
            return self.whole(part.full_shape, dtype, key)[part.index]
        values = np.empty(part.shape, dtype)
        randomness.fill(values, distribution, key, part.first, part.strides)
        return values

    def __repr__(self) -> str:
        given = [
            f"{field.name}={value!r}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def _settle(self, **checked: Any) -> None:
        """Put checked settings in place of those that came."""
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def number(what: str, value: Any) -> float:
    """A setting as a finite float."""
    if isinstance(value, (bool, np.bool_, str, bytes)) or np.ndim(value) != 0:
        raise ArgumentTypeError.of(what, "a number", value)
    try:
        result = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentTypeError.of(what, "a number", value) from None
    if not math.isfinite(result):
        raise InitializerError(f"{what} is {value!r}; write a finite number")
    return result


def not_negative(what: str, value: Any) -> float:
    """A setting as a finite float that is at least zero."""
    result = number(what, value)
    if result < 0:
        raise InitializerError(f"{what} is {value!r}; write a number that is not negative")
    return result


def optional_seed(seed: Any) -> int | None:
    """An initializer's own seed."""
    return None if seed is None else shapes.as_seed(seed)


# --- constants


@dataclass(frozen=True, repr=False, eq=False)
class Zeros(Initializer):
    """All elements zero (False for bool).

    >>> import varscope as vs
    >>> vs.zeros((2,), "int8")
    array([0, 0], dtype=int8)
    """

    def drawn_from(self, shape: tuple[int, ...], dtype: np.dtype) -> Distribution:
        return Constant(0)

    def __repr__(self) -> str:
        return "zeros"


@dataclass(frozen=True, repr=False, eq=False)
class Ones(Initializer):
    """All elements one (True for bool).

    >>> import varscope as vs
    >>> vs.ones((2,), "int8")
    array([1, 1], dtype=int8)
    """

    def drawn_from(self, shape: tuple[int, ...], dtype: np.dtype) -> Distribution:
        return Constant(1)

    def __repr__(self) -> str:
        return "ones"


zeros = Zeros()
ones = Ones()


def held(value: Any, dtype: np.dtype) -> np.ndarray:
    """Numbers in a dtype that can hold them; among floats they may be rounded."""
    values = np.asarray(value)
    real = values if dtype.kind == "c" else values.real
    with np.errstate(all="ignore"):
        cast = real.astype(dtype)
        if shapes.is_floating(dtype) or dtype.kind == "c":
            same = np.isfinite(cast) | ~np.isfinite(real)
        else:
            same = cast.astype(real.dtype) == real
    if not same.all() or (real is not values and values.imag.any()):
        raise InitializerError(
            f"constant {value!r:.100} cannot be held by dtype {dtype}; write another dtype or value"
        )
    return cast


@dataclass(frozen=True, repr=False, eq=False)
class constant(Initializer):
    """All elements the same number, or the elements of an array of the variable's size.

    Parameters
    ----------
    value : number or array-like
        An array is reshaped to the variable's shape.  InitializerError where the variable's dtype
        cannot hold a value, such as 0.5 in an integer.

    >>> import varscope as vs
    >>> vs.constant(0.5)((2,), "float16")
    array([0.5, 0.5], dtype=float16)
    >>> vs.constant([[1, 2], [3, 4]])((4,), "int64")
    array([1, 2, 3, 4])
    """

    value: Any

    def __post_init__(self) -> None:
        try:
            values = np.array(self.value)
        except (ValueError, Warning) as error:  # the latter by NumPy 1.23, of ragged lists
            raise InitializerError(
                f"constant of {self.value!r:.100}: {error}; give a number, or an array of one shape"
            ) from None
        if values.dtype.kind in "OSUMmV" and not shapes.is_floating(values.dtype):
            raise ArgumentTypeError.of("constant", "a number or an array of numbers", self.value)
        values.flags.writeable = False
        # A view of it cannot be made writable.
        self._settle(value=values.item() if values.ndim == 0 else values.view())

    def drawn_from(self, shape: tuple[int, ...], dtype: np.dtype) -> Distribution | None:
        if isinstance(self.value, np.ndarray):
            return None
        return Constant(held(self.value, dtype)[()])

    def whole(self, shape: tuple[int, ...], dtype: np.dtype, key: int) -> np.ndarray:
        values: np.ndarray = self.value
        if values.size != math.prod(shape):
            raise InitializerError(
                f"constant has {values.size} elements, of shape {values.shape}, and the variable "
                f"has shape {shape}; give as many as it has, or one number"
            )
        return held(values, dtype).reshape(shape)

    # 1, 1.0 and True are equal, and 0.0 and -0.0: told apart by what they look like.
    def _identity(self) -> Any:
        if isinstance(self.value, np.ndarray):
            return self.value.dtype, self.value.shape, self.value.tobytes()
        return repr(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, constant) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((constant, self._identity()))

    def __repr__(self) -> str:
        value = self.value.tolist() if isinstance(self.value, np.ndarray) else self.value
        return f"constant({value!r})"


class Value(Initializer):
    """An initializer that is an array: what was given, as it was then."""

    _kept: np.ndarray

    # Each is one of its own, as the arrays are.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __init__(self, array: np.ndarray) -> None:
        """`array` is nobody else's."""
        own = array if array.flags.owndata else array.copy()
        own.flags.writeable = False
        self._settle(_kept=own)

    @property
    def array(self) -> np.ndarray:
        """The array, read-only: a view, which cannot be made writable."""
        return self._kept.view()

    def __reduce__(self) -> tuple[type[Value], tuple[np.ndarray]]:
        return Value, (self._kept,)

    def part(self, part: Part, dtype: np.dtype, key: int) -> np.ndarray:
        return self._kept[part.index]

    def __repr__(self) -> str:
        return f"<value of shape {self._kept.shape}, {self._kept.dtype}>"


class Adopted(Initializer):
    """The initializer of a variable whose memory was adopted: there is nothing to make it from."""

    def part(self, part: Part, dtype: np.dtype, key: int) -> np.ndarray:
        raise InitializerError(
            "its memory was adopted with the values that it had, and there are no first values to "
            "make again; write assign(values)"
        )

    def __reduce__(self) -> tuple[type[Adopted], tuple[()]]:
        return Adopted, ()


@dataclass(frozen=True, repr=False, eq=False)
class identity(Initializer):
    """The identity matrix times `gain`; the variable is a matrix, of any two dimensions.

    Parameters
    ----------
    gain : number
        What stands on the diagonal.

    >>> import varscope as vs
    >>> vs.identity(gain=2.0)((2, 3)).tolist()
    [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]]
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        self._settle(gain=number("gain", self.gain))

    def part(self, part: Part, dtype: np.dtype, key: int) -> np.ndarray:
        gain = self.on_diagonal(part.full_shape, dtype)
        rows, columns = (
            start + step * np.arange(size)
            for start, step, size in zip(part.offset, part.step, part.shape, strict=True)
        )
        values: np.ndarray = np.equal.outer(rows, columns) * gain
        return values

    def run(self, shape: tuple[int, ...], dtype: np.dtype, first: int, last: int) -> np.ndarray:
        """The elements of a matrix from number `first` to before `last`, in C order."""
        gain = self.on_diagonal(shape, dtype)
        values = np.zeros(last - first, dtype)
        apart = shape[1] + 1  # from one element of the diagonal to the next
        end = min(last, (min(shape) - 1) * apart + 1)
        values[-first % apart : max(end - first, 0) : apart] = gain
        return values

    def on_diagonal(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """What stands on the diagonal of a matrix, which this must be the shape of."""
        if len(shape) != 2:
            raise InitializerError(
                f"identity makes matrices, and the variable has shape {shape}; write two "
                "dimensions, such as [4, 4]"
            )
        return held(self.gain, dtype)


# --- random ones


@dataclass(frozen=True, repr=False, eq=False)
class random_uniform(Initializer):
    """Uniform in [minval, maxval).

    Parameters
    ----------
    minval, maxval : number
        For an integer variable both are integers; `maxval` is 1 for floats where it is left out.
    seed : int, optional
        Mixed into the variable's key.

    >>> import varscope as vs
    >>> v = vs.get_variable("v", [1000], initializer=vs.random_uniform(-1, 1))
    >>> bool((abs(v.value()) <= 1).all())
    True
    """

    minval: float = 0.0
    maxval: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        low, high = self.minval, 1 if self.maxval is None else self.maxval
        number("minval", low)
        if not number("maxval", high) >= number("minval", low):
            raise InitializerError(
                f"random_uniform from {low!r} to {high!r}: write a maxval that is not below minval"
            )
        self._settle(seed=optional_seed(self.seed))

    def drawn_from(self, shape: tuple[int, ...], dtype: np.dtype) -> Distribution:
        if not shapes.is_integral(dtype):
            return Uniform(float(self.minval), 1.0 if self.maxval is None else float(self.maxval))
        low, high = self.minval, self.maxval
        if high is None or low != int(low) or high != int(high) or low == high:
            raise InitializerError(
                f"{self!r} for dtype {dtype}: write two integers minval < maxval, of which maxval "
                "does not occur"
            )
        return Uniform(int(low), int(high))


@dataclass(frozen=True, repr=False, eq=False)
class random_normal(Initializer):
    """Normal with this mean and standard deviation.

    Parameters
    ----------
    mean, stddev : number
        `stddev` is not negative.
    seed : int, optional
        Mixed into the variable's key.

    >>> import varscope as vs
    >>> vs.get_variable("v", [2, 3], initializer=vs.random_normal(stddev=0.02)).initializer
    random_normal(stddev=0.02)
    """

    mean: float = 0.0
    stddev: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        mean, stddev = number("mean", self.mean), not_negative("stddev", self.stddev)
        self._settle(mean=mean, stddev=stddev, seed=optional_seed(self.seed))

    def drawn_from(self, shape: tuple[int, ...], dtype: np.dtype) -> Distribution:
        self.check_range(dtype)
        return Normal(self.mean, self.stddev)

    def check_range(self, dtype: np.dtype) -> None:
        """Refuse numbers beyond those of a dtype: infinity less infinity is none."""
        if shapes.is_floating(dtype):
            most = randomness.finite_range(dtype)[1]
            if max(abs(self.mean), self.stddev) > most:
                raise InitializerError(
                    f"{self!r} for dtype {dtype}: mean and stddev must be from {-most:g} to "
                    f"{most:g}; write smaller ones, or a dtype that can hold them"
                )


@dataclass(frozen=True, repr=False, eq=False)
class truncated_normal(random_normal):
    """Normal, but for values further from the mean than two `stddev`, which do not occur.

    Parameters
    ----------
    mean, stddev : number
        Those of the normal distribution before it is cut; what is left has 0.88 times `stddev`.
    seed : int, optional
        Mixed into the variable's key.

    >>> import varscope as vs
    >>> bool((abs(vs.truncated_normal(stddev=0.5)((1000,))) <= 1).all())
    True
    """

    def drawn_from(self, shape: tuple[int, ...], dtype: np.dtype) -> Distribution:
        self.check_range(dtype)
        return TruncatedNormal(self.mean, self.stddev)


@dataclass(frozen=True, repr=False, eq=False)
class uniform_unit_scaling(Initializer):
    """Uniform within sqrt(3 / n) * factor of zero; n is the product of all dimensions but the last.

    It keeps the variance from layer to layer (Sussillo and Abbott, "Random walk initialization for
    training very deep feedforward networks", 2014).

    Parameters
    ----------
    factor : number
        By what follows: 1.0 for linear layers, 1.43 for relu, 1.15 for tanh.
    seed : int, optional
        Mixed into the variable's key.

    >>> import varscope as vs
    >>> bool((abs(vs.uniform_unit_scaling(1.43)((3, 100))) <= 1.43).all())
    True
    """

    factor: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        factor = not_negative("factor", self.factor)
        self._settle(factor=factor, seed=optional_seed(self.seed))

    def drawn_from(self, shape: tuple[int, ...], dtype: np.dtype) -> Distribution:
        limit = math.sqrt(3.0 / max(1.0, float(math.prod(shape[:-1])))) * self.factor
        return Uniform(-limit, limit)


FANS = ("fan_in", "fan_out", "fan_avg")
DISTRIBUTIONS = ("truncated_normal", "normal", "untruncated_normal", "uniform")
# The standard deviation of a normal distribution cut at two: sqrt(1 - 4 p(2) / (2 P(2) - 1)), with
# its density p and distribution function P.
CUT_STDDEV = 0.8796256610342398


def scaled(shape: tuple[int, ...], scale: float, mode: str, distribution: str) -> Distribution:
    """The distribution whose variance is scale / fan."""
    fan_in, fan_out = fans(shape)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    variance = scale / max(1.0, fan)
    if distribution == "uniform":
        limit = math.sqrt(3.0 * variance)
        return Uniform(-limit, limit)
    if distribution == "untruncated_normal":
        return Normal(0.0, math.sqrt(variance))
    return TruncatedNormal(0.0, math.sqrt(variance) / CUT_STDDEV)


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight of this shape.

    >>> fans((3, 3, 16, 32)), fans((7,)), fans(())
    ((144, 288), (7, 7), (1, 1))
    """
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    field = math.prod(shape[:-2])
    return field * shape[-2], field * shape[-1]


@dataclass(frozen=True, repr=False, eq=False)
class variance_scaling(Initializer):
    """Random with the variance scale / fan.

    A part of a partitioned variable is scaled by the fans of the whole.

    Parameters
    ----------
    scale : number
        Above zero.
    mode : "fan_in", "fan_out" or "fan_avg"
        By which fan it is divided: the number of inputs of an output, of outputs of an input, or
        the mean of both.  The last two dimensions are in and out, those before them the receptive
        field of a convolution; a vector counts for both.
    distribution : "truncated_normal", "normal", "untruncated_normal" or "uniform"
        "normal" is the same as "truncated_normal", as in TensorFlow 1.
    seed : int, optional
        Mixed into the variable's key.

    >>> import varscope as vs
    >>> vs.variance_scaling(2.0, mode="fan_out", distribution="uniform")
    variance_scaling(scale=2.0, mode='fan_out', distribution='uniform')
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"
    seed: int | None = None

    def __post_init__(self) -> None:
        for what, given, known in (
            ("mode", self.mode, FANS),
            ("distribution", self.distribution, DISTRIBUTIONS),
        ):
            if given not in known:
                raise InitializerError(
                    f"{what} of variance_scaling is {given!r:.100}; write one of "
                    f"{', '.join(map(repr, known))}"
                )
        scale = not_negative("scale", self.scale)
        if scale == 0:
            raise InitializerError("scale of variance_scaling is 0; write a number above it")
        self._settle(scale=scale, seed=optional_seed(self.seed))

    def drawn_from(self, shape: tuple[int, ...], dtype: np.dtype) -> Distribution:
        return scaled(shape, self.scale, self.mode, self.distribution)


@dataclass(frozen=True, repr=False, eq=False)
class _Scaled(Initializer):
    """A variance scaling that has a name of its own."""

    seed: int | None = None
    settings: ClassVar[tuple[float, str, str]]

    def __post_init__(self) -> None:
        self._settle(seed=optional_seed(self.seed))

    def drawn_from(self, shape: tuple[int, ...], dtype: np.dtype) -> Distribution:
        return scaled(shape, *self.settings)


class glorot_uniform(_Scaled):
    """Uniform in [-limit, limit), limit = sqrt(6 / (fan_in + fan_out)).

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", 2010.  Fans are counted as in `variance_scaling`.

    Parameters
    ----------
    seed : int, optional
        Mixed into the variable's key.

    >>> import varscope as vs
    >>> vs.glorot_uniform(seed=1)((2, 3)).shape
    (2, 3)
    """

    settings = 1.0, "fan_avg", "uniform"


class glorot_normal(_Scaled):
    """Truncated normal with the variance 2 / (fan_in + fan_out), as it is after cutting.

    Glorot and Bengio, 2010, as `glorot_uniform`.

    Parameters
    ----------
    seed : int, optional
        Mixed into the variable's key.

    >>> import varscope as vs
    >>> vs.glorot_normal(seed=1)((2, 3)).shape
    (2, 3)
    """

    settings = 1.0, "fan_avg", "truncated_normal"


class he_uniform(_Scaled):
    """Uniform in [-limit, limit), limit = sqrt(6 / fan_in).

    He, Zhang, Ren and Sun, "Delving deep into rectifiers", 2015.

    Parameters
    ----------
    seed : int, optional
        Mixed into the variable's key.

    >>> import varscope as vs
    >>> vs.he_uniform(seed=1)((2, 3)).shape
    (2, 3)
    """

    settings = 2.0, "fan_in", "uniform"


class he_normal(_Scaled):
    """Truncated normal with the variance 2 / fan_in, as it is after cutting (He et al., 2015).

    Parameters
    ----------
    seed : int, optional
        Mixed into the variable's key.

    >>> import varscope as vs
    >>> vs.he_normal(seed=1)((2, 3)).shape
    (2, 3)
    """

    settings = 2.0, "fan_in", "truncated_normal"


class lecun_uniform(_Scaled):
    """Uniform in [-limit, limit), limit = sqrt(3 / fan_in).

    LeCun, Bottou, Orr and Mueller, "Efficient backprop", 1998.

    Parameters
    ----------
    seed : int, optional
        Mixed into the variable's key.

    >>> import varscope as vs
    >>> vs.lecun_uniform(seed=1)((2, 3)).shape
    (2, 3)
    """

    settings = 1.0, "fan_in", "uniform"


class lecun_normal(_Scaled):
    """Truncated normal with the variance 1 / fan_in, as it is after cutting.

    LeCun, Bottou, Orr and Mueller, 1998, as `lecun_uniform`.

    Parameters
    ----------
    seed : int, optional
        Mixed into the variable's key.

    >>> import varscope as vs
    >>> vs.lecun_normal(seed=1)((2, 3)).shape
    (2, 3)
    """

    settings = 1.0, "fan_in", "truncated_normal"


@dataclass(frozen=True, repr=False, eq=False)
class orthogonal(Initializer):
    """A random matrix with orthonormal rows or columns, whichever are fewer, times `gain`.

    All dimensions but the last count as rows.  It is the Q of the QR decomposition of a matrix of
    normal numbers, with the signs for which R has a positive diagonal, and so uniformly distributed
    (Mezzadri, "How to generate random matrices from the classical compact groups", 2007; Saxe,
    McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks", 2014).

    A part of such a matrix takes as long as the whole: for m rows and n columns, m > n, about
    4 m n**2 operations in float64.

    Parameters
    ----------
    gain : number
        By which the matrix is multiplied.
    seed : int, optional
        Mixed into the variable's key.

    >>> import numpy as np, varscope as vs
    >>> q = vs.orthogonal(seed=1)((3, 2), "float64")
    >>> np.allclose(q.T @ q, np.eye(2))
    True
    """

    gain: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        self._settle(gain=number("gain", self.gain), seed=optional_seed(self.seed))

    def whole(self, shape: tuple[int, ...], dtype: np.dtype, key: int) -> np.ndarray:
        self.check_matrix(shape, dtype)
        rows, columns = math.prod(shape[:-1]), shape[-1]
        matrix = np.empty((max(rows, columns), min(rows, columns)))
        randomness.fill(matrix, Normal(0.0, 1.0), key)
        _scopecore.orthogonalize(matrix)
        matrix *= self.gain
        return (matrix if rows >= columns else matrix.T).reshape(shape).astype(dtype)

    def check_matrix(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        """Refuse what is no matrix of floats."""
        if len(shape) < 2 or not shapes.is_floating(dtype):
            raise InitializerError(
                f"orthogonal makes matrices of floats, and the variable has shape {shape} and "
                f"dtype {dtype}; write two dimensions or more, such as [4, 4], and a float dtype"
            )


# --- as plain data

BY_NAME: dict[str, type[Initializer]] = {
    "zeros": Zeros,
    "ones": Ones,
    **{
        kind.__name__: kind
        for kind in (
            constant, identity, random_uniform, random_normal, truncated_normal,
            uniform_unit_scaling, variance_scaling, glorot_uniform, glorot_normal, he_uniform,
            he_normal, lecun_uniform, lecun_normal, orthogonal,
        )
    },
}  # fmt: skip
NAME_OF = {kind: name for name, kind in BY_NAME.items()}


def described(initializer: object) -> dict[str, Any] | None:
    """A built-in initializer as what JSON has, its name and settings; None of any other.

    None also of an array, and of a setting that JSON cannot have to the last bit.

    >>> import varscope as vs
    >>> described(vs.random_normal(stddev=0.5)), described(vs.constant([1, 2]))
    ({'name': 'random_normal', 'mean': 0.0, 'stddev': 0.5, 'seed': None}, None)
    """
    if not isinstance(initializer, Initializer) or type(initializer) not in NAME_OF:
        return None
    given = {field.name: getattr(initializer, field.name) for field in fields(initializer)}
    found = {
        "name": NAME_OF[type(initializer)],
        **{key: plain(value) for key, value in given.items()},
    }
    if any(found[key] is None for key, value in given.items() if value is not None):
        return None
    return found if of_description(found) == initializer else None


def plain(value: Any) -> Any:
    """A setting as JSON has it; a number that it lacks as the text of one."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        return repr(value)
    return value if type(value) in (bool, int, float, str, type(None)) else None


def of_description(description: dict[str, Any]) -> Initializer:
    """The initializer that `described` has described.

    Raises
    ------
    InitializerError : ValueError
        It is the description of none.
    """
    settings = dict(description)
    kind = BY_NAME.get(settings.pop("name", ""))
    if kind is None:
        known = ", ".join(BY_NAME)
        raise InitializerError(
            f"{description!r:.200} is no initializer; give one of these names: {known}"
        )
    try:
        if kind is constant and isinstance(settings.get("value"), str):
            text = settings["value"]
            settings["value"] = complex(text) if "j" in text else float(text)
        return kind(**settings)
    except (TypeError, ValueError) as error:
        raise InitializerError(
            f"{description!r:.200} is no initializer: {error}; give what `described` returns"
        ) from None


DEFAULT = glorot_uniform()


def default_for(dtype: np.dtype) -> Callable[..., Any] | None:
    """What fills a variable that names no initializer: by its dtype, None where nothing fits."""
    if shapes.is_floating(dtype):
        return DEFAULT  # one for all, so that variables alike have one spec
    return zeros if shapes.is_integral(dtype) else None


def is_value(initializer: object) -> bool:
    """Whether it is an array or a number, which fixes shape and dtype, and not a callable."""
    return initializer is not None and not callable(initializer)


def as_value(initializer: Any) -> np.ndarray:
    """A private, read-only copy of an array or number; of memory to be adopted, that itself.

    Python's numbers become bool, int32, float32 and complex128, as TensorFlow has them; arrays
    and NumPy scalars keep their dtype.
    """
    if isinstance(initializer, Adoption):
        return initializer.array
    kinds = {bool: np.bool_, int: np.int32, float: np.float32}
    try:
        value = np.array(initializer, dtype=kinds.get(type(initializer)))
    except (TypeError, ValueError, OverflowError, Warning) as error:
        raise InitializerError(
            f"the initializer {initializer!r:.100} is no array or number that can be kept: "
            f"{error}; give a function of shape and dtype, or an array of one shape"
        ) from None
    if value.dtype.kind in "OSU":
        raise ArgumentTypeError.of(
            "initializer", "a callable, an array or a number", initializer,
            "write one such as initializer=varscope.zeros",
        )  # fmt: skip
    value.flags.writeable = False
    return value


def how_to_call(initializer: Callable[..., Any]) -> tuple[bool, frozenset[str]]:
    """Is its dtype keyword-only, and which of partition_info and key does it take.

    "key first" is among these for an initializer of JAX, `(key, shape, dtype)`.  InitializerError
    of a function that takes no shape and dtype: of what it raises itself later, nobody could tell
    that from.
    """
    try:
        signature = inspect.signature(initializer)
    except (TypeError, ValueError):  # a builtin, such as numpy.zeros, does not tell
        return False, frozenset()
    jax = list(signature.parameters)[:2] in (["key", "shape"], ["rng", "shape"])
    dtype = signature.parameters.get("dtype")
    keyword_only = dtype is not None and dtype.kind is inspect.Parameter.KEYWORD_ONLY
    takes = frozenset({"partition_info", "key"} & set(signature.parameters))
    names = takes | {"dtype"} if keyword_only else takes
    try:
        if jax:
            signature.bind(None, None, None)
            return False, frozenset({"key first"})
        signature.bind(*[None] * (1 if keyword_only else 2), **dict.fromkeys(names))
    except TypeError as error:
        raise InitializerError(
            f"{initializer!r:.100} cannot be called with a shape and a dtype ({error}); write it "
            f"as 'def initializer({'key, ' if jax else ''}shape, dtype):'"
        ) from None
    return keyword_only, takes


def called_as_by_jax(
    initializer: Callable[..., Any], key: int, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """What an initializer `(key, shape, dtype)` returns for a key of JAX made of ours.

    As many of the 128 bits as a key of JAX's current kind has.  It is evaluated here and now, also
    where JAX traces the function around it.
    """
    jax = importlib.import_module("jax")  # whose initializer this is
    with jax.ensure_compile_time_eval():
        length = jax.random.key_data(jax.random.key(0)).shape[-1]
        words = [key >> 32 * i & 0xFFFFFFFF for i in range(length)]
        wrapped = jax.random.wrap_key_data(np.array(words, np.uint32))
        values = np.asarray(initializer(wrapped, shape, dtype))
    if values.dtype != dtype and dtype.itemsize == 2 * values.dtype.itemsize:
        raise InitializerError(
            f"an initializer of JAX has made {values.dtype} for {dtype}, as JAX does unless told "
            "otherwise; write jax.config.update('jax_enable_x64', True), or ask for "
            f"dtype={values.dtype.name!r}"
        )
    return values


def drawn_from(spec: Spec, part: Part) -> Distribution | None:
    """What the elements of a variable are drawn from; None where its initializer must be asked."""
    if not isinstance(spec.initializer, Initializer) or not shapes.is_known(part.full_shape):
        return None
    return spec.initializer.drawn_from(part.full_shape, spec.dtype)


def values(spec: Spec, key: int, part: Part) -> tuple[np.ndarray, Part]:
    """What a spec's initializer returns for a part of a variable, or for more; and for which.

    A function that does not take `partition_info` is asked for the whole: so how a variable is
    partitioned does not change its values.
    """
    initializer = spec.initializer
    if isinstance(initializer, Value):
        return initializer.array, Part.of_whole(initializer.array.shape)
    if isinstance(initializer, identity) and shapes.is_known(part.full_shape):
        return initializer.part(part, spec.dtype, key), part
    if spec.how_to_call is None:
        spec.how_to_call = how_to_call(initializer)
    keyword_only, takes = spec.how_to_call
    if "partition_info" not in takes or isinstance(initializer, Initializer) or not part.is_block:
        part = Part.of_whole(part.full_shape)
    if "key first" in takes:
        return called_as_by_jax(initializer, key, part.shape, spec.dtype), part
    extra: dict[str, Any] = {}
    if "partition_info" in takes:
        extra["partition_info"] = PartitionInfo(part.full_shape, part.offset)
    if "key" in takes:
        extra["key"] = key
    if keyword_only:
        result = initializer(part.shape, dtype=spec.dtype, **extra)
    else:
        result = initializer(part.shape, spec.dtype, **extra)
    return np.asarray(result), part
