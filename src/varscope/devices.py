"""Where the cached copy of a variable lives: names of devices, and what puts an array there.

A name is one that was registered, `"cpu"` from the start, or starts with a library's: `"jax:"`,
`"torch:"` or `"cupy:"`, followed by what that library calls the device.  The libraries are
imported when one of their devices is first asked for.

>>> import varscope as vs
>>> v = vs.get_variable("v", [2], initializer=vs.ones, caching_device="cpu")
>>> v.value() is v.value()
True
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any

import numpy as np

from varscope.errors import ArgumentTypeError, DeviceError

Put = Callable[[np.ndarray], Any]


def on_cpu(array: np.ndarray) -> np.ndarray:
    """A read-only NumPy array."""
    array.flags.writeable = False
    return array


# --- what is registered

_BUILT_IN: dict[str, Put] = {"cpu": on_cpu}
_registered: dict[str, Put] = dict(_BUILT_IN)


def register(name: str, put: Put, *, replace: bool = False) -> None:
    """Give a device a name that `caching_device=` understands.

    Parameters
    ----------
    name : str
        Without white space, and not one that starts with `jax:`, `torch:` or `cupy:`.
    put : callable
        `put(array)` returns the copy on the device.  It gets a C-contiguous NumPy array of the
        variable's shape and dtype that is its own: nobody else has it, so it may be kept,
        changed, or returned as it is.
    replace : bool
        Allow a name that is registered already; what is cached stays until it is next renewed.

    Raises
    ------
    DeviceError : ValueError
        The name is taken, built in, or none that a device can have.
    ArgumentTypeError : TypeError
        `put` cannot be called, or the name is no str.

    >>> import varscope as vs
    >>> vs.devices.register("as-list", lambda array: array.tolist())
    >>> vs.get_variable("v", [2], initializer=vs.ones, caching_device="as-list").value()
    [1.0, 1.0]
    """
    if not isinstance(name, str):
        raise ArgumentTypeError.of("the name of a device", "a str", name)
    name = str.__str__(name)
    if not callable(put):
        raise ArgumentTypeError.of(f"what puts an array on device {name!r}", "callable", put)
    library = LIBRARIES.get(name.partition(":")[0])
    if library is not None:
        raise DeviceError.not_registered(
            name,
            f"names that start with {library.name} are those of the library {library.name}; write "
            "another name",
        )
    if not name or not name.isprintable() or name.split() != [name]:
        raise DeviceError.not_registered(name, "write a name without white space")
    if name in _BUILT_IN:
        raise DeviceError.not_registered(name, "it is built in; write another name")
    if replace:
        _registered[name] = put
    elif _registered.setdefault(name, put) is not put:  # one step, whatever other threads do
        raise DeviceError.not_registered(
            name, "it is registered already; write another name, or replace=True"
        )


def names() -> list[str]:
    """The devices that can be asked for: those registered, and the prefixes of the libraries.

    A prefix such as `"jax:"` is there where the library is installed; it is not imported to see
    which devices it has.

    >>> import varscope as vs
    >>> "cpu" in vs.devices.names()
    True
    """
    return [*_registered, *(f"{name}:" for name in LIBRARIES if is_installed(name))]


def is_installed(module: str) -> bool:
    """Whether a module could be imported, without doing so."""
    import importlib.util  # seldom needed

    return module in sys.modules or importlib.util.find_spec(module) is not None


def resolve(device: str) -> Put:
    """What puts an array on a device; it may keep the array that it is given.

    Parameters
    ----------
    device : str
        One of `names`, or a prefix with what that library takes, such as `"torch:cuda:0"`.

    Raises
    ------
    DeviceError : ValueError
        Nobody knows the device, its library is not installed, or it is not in this machine.

    >>> import numpy as np, varscope as vs
    >>> vs.devices.resolve("cpu")(np.zeros(2))
    array([0., 0.])
    """
    put = _registered.get(device)
    if put is not None:
        return put
    prefix, colon, rest = device.partition(":")
    library = LIBRARIES.get(prefix)
    if library is None or not colon:
        raise DeviceError.unknown(device, names())
    return library.resolve(device, rest)


def copied(device: str, array: np.ndarray) -> Any:
    """A copy of an array on a device.  It shares nothing with the array, whatever `put` does."""
    return resolve(device)(np.array(array, order="C"))


def check(device: str, dtype: np.dtype) -> None:
    """Refuse a device that cannot be used, or cannot hold numbers of this dtype."""
    if device not in _registered:
        _tried(device, dtype)


@lru_cache(1024)
def _tried(device: str, dtype: np.dtype) -> None:
    """An empty array there and nothing kept of it: says at once what would go wrong later."""
    resolve(device)(np.empty(0, dtype))


# --- devices of other libraries


class Library:
    """How to find the devices of a library, and to put arrays there."""

    name: str
    install: str  # for pip

    def resolve(self, device: str, rest: str) -> Put:
        """What puts an array on the device that the library calls `rest`."""
        try:
            module = importlib.import_module(self.name)
        except ImportError as error:
            raise DeviceError.not_installed(device, self.name, self.install, error) from error
        try:
            place = self.place(module, rest)
        except MemoryError:
            raise
        except Exception as error:  # of any class: each library says it in its own way
            raise DeviceError.absent(device, self.listed(module), error) from error
        return partial(self.put, module, place, device)

    def listed(self, module: Any) -> list[str]:
        """The names of the devices that are there, as far as the library can tell."""
        with suppress(Exception):  # where it cannot, what was wrong in the first place counts
            return [f"{self.name}:{known}" for known in self.present(module)]
        return []

    def place(self, module: Any, rest: str) -> Any:
        """The library's own object for a device; any exception where it is not there."""
        raise NotImplementedError

    def present(self, module: Any) -> list[str]:
        """The devices that are there, as they are written behind the prefix."""
        raise NotImplementedError

    def put(self, module: Any, place: Any, device: str, array: np.ndarray) -> Any:
        """The array on the device; DeviceError where the library has no such dtype."""
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        try:
            copy = self.transfer(module, place, array)
        except (TypeError, ValueError) as error:
            raise DeviceError.dtype(device, array.dtype, error) from error
        return copy

    def transfer(self, module: Any, place: Any, array: np.ndarray) -> Any:
        """The array on the device; TypeError or ValueError where there is no such dtype."""
        raise NotImplementedError


class Jax(Library):
    """`jax:PLATFORM` or `jax:PLATFORM:INDEX`, among the devices of this process."""

    name = "jax"
    install = "jax"

    def place(self, module: Any, rest: str) -> Any:
        platform, _, index = rest.partition(":")
        if not platform:
            raise ValueError("write a platform, as in jax:cpu")
        return module.local_devices(backend=platform)[as_index(index or "0")]

    def present(self, module: Any) -> list[str]:
        platforms = {"cpu", *(device.platform for device in module.local_devices())}
        return [
            f"{platform}:{index}"
            for platform in sorted(platforms)
            for index in range(len(module.local_devices(backend=platform)))
        ]

    def transfer(self, module: Any, place: Any, array: np.ndarray) -> Any:
        copy = module.device_put(array, place)
        if copy.dtype != array.dtype:  # unless told otherwise, JAX makes 32 bits of 64
            raise TypeError(
                f"it becomes {copy.dtype}; write jax.config.update('jax_enable_x64', True) to keep "
                "64 bits"
            )
        return copy


class Torch(Library):
    """`torch:` and what `torch.device` takes, such as `torch:cuda:0`."""

    name = "torch"
    install = "torch"

    def place(self, module: Any, rest: str) -> Any:
        place = module.device(rest)
        if place.type == "meta":
            raise ValueError("the meta device holds no values")
        module.empty(0, device=place)  # a device can be named that is not there
        return place

    def present(self, module: Any) -> list[str]:
        found = ["cpu", *(f"cuda:{index}" for index in range(module.cuda.device_count()))]
        return [*found, "mps"] if module.backends.mps.is_available() else found

    def transfer(self, module: Any, place: Any, array: np.ndarray) -> Any:
        name = array.dtype.name
        if not name.startswith(("bfloat16", "float8_")):
            return module.from_numpy(array).to(place)
        # Types of ml_dtypes, which from_numpy does not know: the same bits under the same name.
        kind = getattr(module, name, None)
        if kind is None:
            raise TypeError(f"torch has no {name}")
        bits = array.view(f"int{8 * array.dtype.itemsize}")
        return module.from_numpy(bits).view(kind).to(place)


class Cupy(Library):
    """`cupy:INDEX`, the number of the GPU."""

    name = "cupy"
    install = "cupy-cuda12x"

    def place(self, module: Any, rest: str) -> Any:
        index = as_index(rest)
        if index >= module.cuda.runtime.getDeviceCount():
            raise IndexError(f"there is no GPU {index}")
        return module.cuda.Device(index)

    def present(self, module: Any) -> list[str]:
        return [str(index) for index in range(module.cuda.runtime.getDeviceCount())]

    def transfer(self, module: Any, place: Any, array: np.ndarray) -> Any:
        with place:
            return module.asarray(array)


def as_index(text: str) -> int:
    """The number of a device."""
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!r} is not the number of a device")
    return int(text)


LIBRARIES: dict[str, Library] = {library.name: library for library in (Jax(), Torch(), Cupy())}

__all__ = ["names", "register", "resolve"]
