"""Processes of Python that a test starts, which find what the test itself can import."""

import os
import subprocess
import sys


def environment(**changed):
    """The variables of the environment for a child."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **changed}


def python(code, *arguments, timeout=120, **options):
    """Run code in a fresh process, wait for it, and return what it printed and how it ended."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        **{"capture_output": True, "text": True, "env": environment(), **options},
        timeout=timeout,
    )
