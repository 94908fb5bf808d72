"""``varscope plan``: which worker fills what of a builder's first values, as a file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from varscope.checkpoint.planning import plan as plan_graph
from varscope.cli import builders, printing
from varscope.cli.failures import STATUS_FAILED, say
from varscope.cli.settings import size_of
from varscope.errors import PlanError
from varscope.folding import printable
from varscope.graph import Graph


def plan(
    target: str,
    settings: Sequence[str],
    output: str,
    path: str,
    workers: int,
    by: str,
    seed: int | None,
    max_shard_size: str,
    as_json: bool,
) -> int:
    """Build one model, and write a plan for it."""
    graph = Graph(seed=seed)
    builders.run(target, settings, graph, as_json)
    started = time.perf_counter()
    size = size_of(max_shard_size)
    try:
        made = plan_graph(graph, path, workers=workers, by=by, max_shard_size=size)
    except PlanError as error:
        say(str(error))
        return STATUS_FAILED
    made.save(output)
    seconds = time.perf_counter() - started
    nbytes = Path(output).stat().st_size
    if as_json:
        printing.print_json(
            {
                "plan": output,
                "plan_bytes": nbytes,
                "path": path,
                "seed": graph.seed,
                "workers": made.workers,
                "tensors": len(made),
                "bytes": made.nbytes,
                "files": len(made.files),
                "seconds": seconds,
            }
        )
    else:
        printing.print_pairs(
            [
                ("plan", f"{printable(output)}, {printing.byte_count(nbytes)}"),
                ("of", printable(path)),
                ("tensors", f"{len(made):,}"),
                ("bytes", printing.byte_count(made.nbytes)),
                ("files", f"{len(made.files):,}"),
                ("workers", f"{made.workers:,}"),
                ("seed", str(graph.seed)),
                ("seconds", f"{seconds:.3f}"),
            ]
        )
    return 0
