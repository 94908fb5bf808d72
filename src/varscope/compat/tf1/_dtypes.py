"""The dtypes of TensorFlow 1 that NumPy has; as elsewhere in varscope they are `numpy.dtype`.

The one that NumPy does not have is looked up in `_door`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from varscope import shapes

if TYPE_CHECKING:
    import numpy.typing as npt

float16 = half = np.dtype("float16")
float32 = np.dtype("float32")
float64 = double = np.dtype("float64")
int8 = np.dtype("int8")
int16 = np.dtype("int16")
int32 = np.dtype("int32")
int64 = np.dtype("int64")
uint8 = np.dtype("uint8")
uint16 = np.dtype("uint16")
uint32 = np.dtype("uint32")
uint64 = np.dtype("uint64")
complex64 = np.dtype("complex64")
complex128 = np.dtype("complex128")
DType = np.dtype
bool = np.dtype("bool")


def as_dtype(type_value: npt.DTypeLike) -> np.dtype:
    """Anything that stands for a dtype, as a `numpy.dtype`."""
    return shapes.as_dtype(type_value)
