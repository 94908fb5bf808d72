"""What an optional test needs: missing, it is skipped at home, and a failure in CI."""

import importlib
import os
import shutil
import sys
import warnings

import numpy as np
import pytest

on_posix = pytest.mark.skipif(
    sys.platform == "win32", reason="needs signals, forks, terminals or growing files of POSIX"
)

plain_core = pytest.mark.skipif(
    os.environ.get("VARSCOPE_CHECKED") == "1",
    reason="the sanitizers reserve more addresses than this test leaves",
)


def require(module, install, needed_when="CI"):
    """Import and return a module; `install` is what to give to pip where it is missing."""
    words = f"needs the module {module}: pip install {install}"
    if os.environ.get(needed_when) not in ("true", "1"):
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


def require_large(module, install):
    """The same for what is too large to be installed beside each version of Python in CI."""
    return require(module, install, needed_when="VARSCOPE_TEST_LARGE")


def require_program(name, package):
    """The path of a program; `package` is that of Debian which has it."""
    found = shutil.which(name)
    words = f"needs the program {name}: apt-get install {package}"
    if found is None and sys.platform == "linux" and os.environ.get("CI") == "true":
        pytest.fail(words, pytrace=False)
    if found is None:
        pytest.skip(words, allow_module_level=True)
    return found


def set_shape(array, shape):
    """Give an array itself another shape, of which NumPy warns from 2.5 on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.shape = shape
