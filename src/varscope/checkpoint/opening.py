"""`open`: what a path holds, whichever format it is in."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from varscope.checkpoint import safetensors_files, tensor_bundle
from varscope.checkpoint.contents import Checkpoint
from varscope.errors import ArgumentTypeError


def open(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint: names, shapes and dtypes now, values when they are asked for.

    Parameters
    ----------
    path : str or path
        A safetensors file; a folder with `model.safetensors.index.json` or `model.safetensors`, or
        such an index itself; a TensorFlow checkpoint, `model.ckpt` where there is a
        `model.ckpt.index`, or a folder whose file `checkpoint` names it.

    Raises
    ------
    FileNotFoundError
        There is nothing at the path.
    CheckpointError : ValueError
        What is there is no checkpoint, or a damaged one.

    >>> import tempfile, varscope as vs
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default():
    ...     v = vs.get_variable("layer/v", [2, 3], initializer=vs.ones)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vs.save(g, folder)
    ...     with vs.open(folder) as checkpoint:
    ...         checkpoint.names, checkpoint.dtype_names, checkpoint.shapes
    (['layer/v'], ['float32'], [(2, 3)])
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentTypeError.of("path", "a str or a path", path)
    if not os.fspath(path):  # Path would make the current folder of it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    path = Path(path)
    if not safetensors_files.is_one(path):
        prefix = tensor_bundle.find_prefix(path)
        if prefix is not None:
            return tensor_bundle.read(prefix, path)
    return safetensors_files.read(path)
