"""Who allocates the arrays of variables."""

from __future__ import annotations

import numpy as np


class Heap:
    """Each variable's array is allocated for itself."""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array whose contents do not matter: it is filled next."""
        return np.empty(shape, dtype)
