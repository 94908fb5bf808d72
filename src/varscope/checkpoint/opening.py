"""`open`: what a path holds, whichever format it is in."""

from __future__ import annotations

import os
from pathlib import Path

from varscope.checkpoint import safetensors_files
from varscope.checkpoint.contents import Checkpoint
from varscope.errors import ArgumentTypeError


def open(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint: names, shapes and dtypes now, values when they are asked for.

    Parameters
    ----------
    path : str or path
        A safetensors file; a folder with `model.safetensors.index.json` or `model.safetensors`, or
        such an index itself; a TensorFlow checkpoint, `model.ckpt` where there is a
        `model.ckpt.index`.

    Raises
    ------
    FileNotFoundError
        There is nothing at the path.
    CheckpointError : ValueError
        What is there is no checkpoint, or a damaged one.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentTypeError.of("path", "a str or a path", path)
    return safetensors_files.read(Path(path))
