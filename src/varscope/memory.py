"""Memory that is shared with other libraries: DLPack, both ways, and what can be adopted."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import numpy as np

from varscope import shapes
from varscope._scopecore import MAIN_MEMORY, Imported, Memory, dlpack_capsule
from varscope.errors import AdoptionError, ArgumentTypeError

CPU = (1, 0)  # as DLPack counts devices
NEWEST = (1, 1)  # the version of DLPack that brought the kinds of float8
# DLPack's codes of NumPy's kinds, and of the types of ml_dtypes that are whole bytes.
CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
EXTENSIONS = {
    "bfloat16": 4,
    "float8_e3m4": 7,
    "float8_e4m3": 8,
    "float8_e4m3b11fnuz": 9,
    "float8_e4m3fn": 10,
    "float8_e4m3fnuz": 11,
    "float8_e5m2": 12,
    "float8_e5m2fnuz": 13,
    "float8_e8m0fnu": 14,
}
KINDS = {code: kind for kind, code in CODES.items()}
NAMES = {code: name for name, code in EXTENSIONS.items()}
WIDTHS = {"f": (2, 4, 8), "c": (8, 16)}  # what long double is differs from machine to machine


# --- to others


class Source(Protocol):
    """What a capsule is made of: a variable."""

    @property
    def path(self) -> str: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def array(self) -> np.ndarray: ...


def capsule(
    source: Source,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """A DLPack capsule of a variable's storage; BufferError where there can be none."""
    if stream is not None:
        raise BufferError(
            f"variable {source.path} lies in main memory, where there are no streams; write "
            "stream=None"
        )
    if dl_device is not None and tuple(dl_device) != CPU:
        raise BufferError(
            f"variable {source.path} lies on the CPU, which is device {CPU}, and not on "
            f"{tuple(dl_device)}; move what you get to another device"
        )
    code = code_of(source.path, source.dtype)
    array = source.array.copy() if copy else source.array
    version = None
    if max_version is not None:
        major, minor = max_version
        version = min((major, minor), NEWEST) if major >= 1 else None
    bare = array.reshape(-1).view(np.uint8)
    bits = 8 * array.dtype.itemsize
    return dlpack_capsule(bare, array.shape, code, bits, version=version, copied=bool(copy))


def code_of(name: str, dtype: np.dtype) -> int:
    """DLPack's code for a dtype."""
    if is_extension(dtype):
        code = EXTENSIONS.get(dtype.name)
    else:
        code = CODES.get(dtype.kind)
        if dtype.itemsize not in WIDTHS.get(dtype.kind, (dtype.itemsize,)):
            code = None
    if code is None:
        raise BufferError(
            f"variable {name} is {dtype}, for which DLPack has no code; write v.value()"
        )
    if not dtype.isnative:
        raise BufferError(
            f"variable {name} is {dtype}, and DLPack knows this machine's order of bytes alone; "
            f"write v.numpy().astype({dtype.newbyteorder('=').name!r})"
        )
    return code


def is_extension(dtype: np.dtype) -> bool:
    """Whether it is one of the dtypes of `ml_dtypes`."""
    return dtype.type.__module__.startswith("ml_dtypes")


# --- from others


class Adoption:
    """Stands as the initializer for an array whose memory is to be a variable's storage."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __repr__(self) -> str:
        return f"<memory of shape {self.array.shape}, {self.array.dtype}>"


def adoptable(name: Any, given: Any) -> np.ndarray:
    """An array of the memory of something else; AdoptionError where that cannot be a storage."""
    if isinstance(given, np.ma.MaskedArray):
        raise AdoptionError.of(name, "it has a mask", "write x.filled(0), which is a copy")
    if isinstance(given, np.ndarray):
        array = np.asarray(given)
    elif hasattr(given, "__dlpack__"):
        array = of_dlpack(name, given)
    else:
        try:
            array = np.asarray(memoryview(given))
        except (TypeError, ValueError, BufferError):
            raise ArgumentTypeError.of(
                f"what is to be adopted as {name!r:.200}",
                "a NumPy array, or something with DLPack or the buffer protocol", given,
            ) from None  # fmt: skip
    if array.dtype.hasobject or array.dtype.kind in "SU":
        raise AdoptionError.of(name, f"it is an array of dtype {array.dtype}", "adopt numbers")
    if not array.flags.writeable:
        raise AdoptionError.of(name, "it is read-only")
    if not array.flags.c_contiguous:
        raise AdoptionError.of(
            name,
            f"its elements do not follow each other in C order: its strides are {array.strides} "
            f"and its shape {array.shape}",
            "write numpy.ascontiguousarray(x), which is a copy",
        )
    if not array.flags.aligned:
        raise AdoptionError.of(name, "it is not aligned")
    return array


def of_dlpack(name: Any, given: Any) -> np.ndarray:
    """An array of what gives DLPack capsules, whatever NumPy itself knows of its dtype."""
    if callable(getattr(given, "is_neg", None)) and given.is_neg():  # which PyTorch does not tell
        raise AdoptionError.of(
            name, "its memory has the negative numbers", "write x.resolve_neg(), which is a copy"
        )
    try:
        device, number = map(int, given.__dlpack_device__())
        memory = Imported(given_capsule(given)) if device in MAIN_MEMORY else None
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise AdoptionError.of(name, f"it gives no memory by DLPack ({error})") from error
    if memory is None:
        raise AdoptionError.of(
            name,
            f"it lies on device {(device, number)} of DLPack, and a variable lies in main memory",
            "take a copy there, as x.cpu() is in PyTorch",
        )
    if memory.writable is None:
        kind = f"{type(given).__module__}.{type(given).__qualname__}"
        raise AdoptionError.of(
            name,
            f"the DLPack capsule of a {kind} does not say whether its memory may be written to",
            "adopt numpy.asarray(x), where that shares it, or numpy.array(x), which is a copy",
        )
    if not memory.contiguous:
        raise AdoptionError.of(
            name,
            "its elements do not follow each other in C order",
            "take a copy where they do, as x.contiguous() is in PyTorch",
        )
    return np.ndarray(memory.shape, dtype_of(name, memory), memory)  # type: ignore[arg-type]


def given_capsule(given: Any) -> Any:
    """What it gives to someone who knows all of the protocol, or as much of it as it knows."""
    for arguments in ({"max_version": NEWEST, "copy": False}, {"max_version": NEWEST}):
        try:
            return given.__dlpack__(**arguments)
        except TypeError:
            pass
    return given.__dlpack__()


def dtype_of(name: Any, memory: Imported) -> np.dtype:
    """NumPy's dtype for a DLPack code."""
    code, bits, lanes = memory.code, memory.bits, memory.lanes
    kind = KINDS.get(code)
    if lanes == 1 and code in NAMES and bits == (16 if NAMES[code] == "bfloat16" else 8):
        return shapes.as_dtype(NAMES[code])
    if lanes == 1 and bits in (8, 16, 32, 64, 128) and kind is not None:
        with contextlib.suppress(TypeError):
            dtype = np.dtype(f"{kind}{bits // 8}")
            if dtype.itemsize in WIDTHS.get(kind, (dtype.itemsize,)):
                return dtype
    raise AdoptionError.of(
        name,
        f"NumPy has no dtype for DLPack's code {code} with {bits} bits and {lanes} lanes",
        "take a copy of a dtype that NumPy has",
    )


def storage_of(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of the same memory: one to write to, and one that can never be written to."""
    bare: Any = array.reshape(-1).view(np.uint8)
    return tuple(
        np.ndarray(array.shape, array.dtype, Memory(bare, read_only=read_only))  # type: ignore[arg-type]
        for read_only in (False, True)
    )  # type: ignore[return-value]
