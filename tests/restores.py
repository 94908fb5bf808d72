"""Graphs and values that are restored: what the tests of it share."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from requires import on_posix

import varscope as vs

ELEMENTS = 70_000  # more than a variable may have that is filled in one piece

STORAGES = ["heap", "arena", pytest.param("mapped", marks=on_posix)]


def storage_of(kind, folder):
    return vs.MemoryMapped(Path(folder) / "slabs") if kind == "mapped" else kind


def graph_of(variables, kind="heap", folder=".", initialized=False, **settings):
    """A graph with variables of these {name: array-like or (shape, dtype)}."""
    graph = vs.Graph(seed=1, storage=storage_of(kind, folder))
    with graph.as_default():
        for name, like in variables.items():
            shape, dtype = like if isinstance(like, tuple) else (like.shape, like.dtype)
            vs.get_variable(name, shape, dtype, **settings)
        if initialized:
            vs.initialize(threads=1)
    return graph


def arrays(seed=0):
    """Values of many kinds: small and large, of no element and of one."""
    draw = np.random.default_rng(seed)
    return {
        "a/w": draw.normal(size=(3, 4)).astype("float32"),
        "a/none": np.empty((3, 0), "float32"),
        "a/scalar": np.array(2.5 + seed, "float32"),
        "b/large": draw.normal(size=(ELEMENTS,)).astype("float32"),
        "b/ints": draw.integers(0, 100, 7),
        "b/wide": draw.normal(size=(30, 4000)),
    }


def seen(graph):
    """All that a failed restore has to leave as it was."""
    return [
        (
            v.op_name,
            v.initialized,
            v.version,
            v.shape,
            v.numpy().tobytes() if v.initialized else None,
        )
        for v in graph.variables
    ]


def assert_equal(graph, values):
    for name, value in values.items():
        found = graph[name].numpy()
        assert found.dtype == value.dtype and found.tobytes() == value.tobytes(), name


def seldom(*arguments):
    return pytest.param(*arguments, marks=pytest.mark.slow)


def run_child(program, *arguments, **settings):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=250,
        **settings,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def restoring_reports(graph, path, progress, threads):
    """A restore that tells of its progress at every step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("varscope.progress.REPORT", 0)
        return vs.restore(graph, path, progress=progress, threads=threads)


def fail_with(error, after=0):
    count = iter(range(10**9))

    def failing(*args, **kwargs):
        if next(count) >= after:
            raise error
        return failing.original(*args, **kwargs)

    return failing
