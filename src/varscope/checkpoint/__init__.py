"""Models in files: saved, restored, opened and compared."""

from varscope.checkpoint.contents import Checkpoint, StoredTensor
from varscope.checkpoint.opening import open

__all__ = ["Checkpoint", "StoredTensor", "open"]
