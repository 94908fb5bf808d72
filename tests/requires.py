"""What an optional test needs: missing, it is skipped at home, and a failure in CI."""

import importlib
import os

import pytest


def require(module, install):
    """Import and return a module; `install` is what to give to pip where it is missing."""
    words = f"needs the module {module}: pip install {install}"
    if os.environ.get("CI") != "true":
        return pytest.importorskip(module, reason=words)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.fail(f"{words} ({error})", pytrace=False)
