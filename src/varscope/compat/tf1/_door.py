"""What `varscope.compat.tf1` looks up only when it is asked for, and switches without effect."""

from __future__ import annotations

import importlib
from typing import Any

from varscope import shapes
from varscope.compat.tf1._missing import missing
from varscope.errors import ArgumentTypeError, NotCoveredError

PACKAGE = "varscope.compat.tf1"

# The release whose interface this is: programs compare it.
__version__ = "1.15.0+varscope"

_missing = missing(PACKAGE)


def __getattr__(name: str) -> Any:
    if name == "compat":  # it imports the package, which is not there yet when that is imported
        return importlib.import_module(f"{PACKAGE}.compat")
    if name == "bfloat16":
        try:
            return shapes.as_dtype(name)
        except ArgumentTypeError:
            raise NotCoveredError.of(
                "tf.bfloat16", "it comes with a package; install it, with pip install ml_dtypes"
            ) from None
    return _missing(name)


def disable_v2_behavior() -> None:
    """Makes no difference: this is the behaviour of TensorFlow 1."""


def disable_eager_execution() -> None:
    """Makes no difference: what computes does so at once, as NumPy does."""


def disable_resource_variables() -> None:
    """Makes no difference: there is one kind of variable."""


def enable_resource_variables() -> None:
    """Makes no difference: there is one kind of variable."""
