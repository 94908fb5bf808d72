"""``varscope verify``: the values in files against the checksums that were written with them."""

from __future__ import annotations

import numpy as np

from varscope.checkpoint.contents import Checkpoint
from varscope.checkpoint.opening import open as open_checkpoint
from varscope.checkpoint.renames import recorded_checksums
from varscope.cli import printing
from varscope.cli.failures import STATUS_FAILED, say_line
from varscope.errors import CheckpointError
from varscope.progress import as_report


def verify(path: str, as_json: bool) -> int:
    """Verify one checkpoint."""
    try:
        with open_checkpoint(path) as checkpoint, as_report(None, "verify") as report:
            checkpoint.verify(report)
            count, total = len(checkpoint), checkpoint.nbytes
            checked, nbytes = recorded(checkpoint)
    except CheckpointError as error:
        if as_json:
            damage = {"file": str(error.path), "tensor": error.tensor, "error": str(error)}
            printing.print_json({"path": path, "good": False, "damage": damage})
        say_line(str(error))
        return STATUS_FAILED
    if as_json:
        facts = {"tensors": count, "bytes": total, "checked": checked, "checked_bytes": nbytes}
        printing.print_json({"path": path, "good": True, **facts})
        return 0
    printing.print_pairs(
        [
            ("checked", f"{checked:,} of {count:,} tensors"),
            ("bytes", f"{printing.byte_count(nbytes)} of {total:,}"),
        ]
    )
    if checked < count:
        say_line(
            f"{count - checked:,} of the tensors in {path} have no checksum: nothing is known of "
            "their values"
        )
    return 0


def recorded(checkpoint: Checkpoint) -> tuple[int, int]:
    """How many tensors have checksums, and how many bytes these are."""
    known = np.zeros(len(checkpoint), np.bool_)
    sums = recorded_checksums(checkpoint)
    if sums is not None:
        known = sums[1].copy()
    for place, pieces in checkpoint._columns.pieces.items():
        known[place] = all(piece.checksum is not None for piece in pieces)
    known[list(checkpoint._columns.checks)] = True  # texts of TensorFlow: theirs is another one
    return int(known.sum()), int(checkpoint.nbytes_of[known].sum())
