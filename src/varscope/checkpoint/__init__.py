"""Models in files: saved, restored, opened and compared."""

from varscope.checkpoint.contents import Checkpoint, StoredTensor
from varscope.checkpoint.opening import open
from varscope.checkpoint.restoring import RestoreReport, restore
from varscope.checkpoint.saving import save

__all__ = ["Checkpoint", "RestoreReport", "StoredTensor", "open", "restore", "save"]
