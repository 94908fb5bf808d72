"""Other libraries: a module for each, which imports it where it is used."""

from importlib import import_module
from typing import Any


def imported(module: str, make_it: str) -> Any:
    """A module of another library; where it is missing, `make_it` says how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(make_it) from error
