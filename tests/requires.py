"""What an optional test needs: missing, it is skipped at home, and a failure in CI."""

import importlib
import os
import sys

import numpy as np
import pytest

on_posix = pytest.mark.skipif(
    sys.platform == "win32", reason="needs signals, forks, terminals or growing files of POSIX"
)


def require(module, install):
    """Import and return a module; `install` is what to give to pip where it is missing."""
    words = f"needs the module {module}: pip install {install}"
    if os.environ.get("CI") != "true":
        return pytest.importorskip(module, reason=words)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.fail(f"{words} ({error})", pytrace=False)


def require_ml_dtypes():
    """The same for ml_dtypes, which has no version for the oldest NumPy."""
    if np.lib.NumpyVersion(np.__version__) < "1.26.0":
        return pytest.importorskip("ml_dtypes", reason="ml_dtypes needs a newer NumPy")
    return require("ml_dtypes", "ml_dtypes")
