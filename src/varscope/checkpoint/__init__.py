"""Models in files: saved, restored, opened and compared."""

from varscope.checkpoint.contents import Checkpoint, StoredTensor
from varscope.checkpoint.fitting import Fit, fit
from varscope.checkpoint.opening import open
from varscope.checkpoint.restoring import RestoreReport, restore
from varscope.checkpoint.saving import save

__all__ = [
    "Checkpoint",
    "Fit",
    "RestoreReport",
    "StoredTensor",
    "fit",
    "open",
    "restore",
    "save",
]
