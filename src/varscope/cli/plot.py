"""``varscope plot``: a model as a treemap, in a page or a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from varscope import plots
from varscope.cli import models, printing
from varscope.folding import printable
from varscope.summary import summarize


def plot(target: str, settings: Sequence[str], output: str, as_json: bool) -> int:
    """Draw one model."""
    plots.ending(output)  # what cannot be written is refused before the work
    with models.opened([target], settings, as_json) as (model,):
        summary = summarize(model)
    plots.write(plots.treemap(summary.rows, title=Path(target).name or target), output)
    if as_json:
        printing.print_json({"file": output, "bytes": Path(output).stat().st_size})
    else:
        printing.print_pairs([("written", printable(output))])
    return 0
