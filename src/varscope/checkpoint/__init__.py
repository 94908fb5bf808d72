"""Models in files: saved, restored, opened and compared."""

from varscope.checkpoint.contents import Checkpoint, StoredTensor
from varscope.checkpoint.opening import open
from varscope.checkpoint.saving import save

__all__ = ["Checkpoint", "StoredTensor", "open", "save"]
