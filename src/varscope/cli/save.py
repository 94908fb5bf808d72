"""``varscope save``: a builder's variables with their first values, in files."""

from __future__ import annotations

import time
from collections.abc import Sequence

from varscope.checkpoint.opening import open as open_checkpoint
from varscope.checkpoint.saving import save as save_graph
from varscope.cli import builders, printing
from varscope.cli.settings import size_of
from varscope.errors import VarscopeError
from varscope.folding import printable
from varscope.graph import Graph


def save(
    target: str,
    settings: Sequence[str],
    output: str,
    seed: int | None,
    max_shard_size: str,
    as_json: bool,
) -> int:
    """Build, initialise and save one model."""
    graph = Graph(seed=seed)
    builders.run(target, settings, graph, as_json)
    started = time.perf_counter()
    not_the_builders = VarscopeError, OSError, ImportError
    with builders.builder_errors(f"an initializer of {target}", not_the_builders):
        save_graph(graph, output, max_shard_size=size_of(max_shard_size))
    seconds = time.perf_counter() - started
    with open_checkpoint(output) as written:
        count, nbytes, files = len(written), written.nbytes, [str(each) for each in written.files]
    if as_json:
        printing.print_json(
            {
                "path": output,
                "seed": graph.seed,
                "tensors": count,
                "bytes": nbytes,
                "seconds": seconds,
                "files": files,
            }
        )
    else:
        printing.print_pairs(
            [
                ("written", printable(output)),
                ("tensors", f"{count:,}"),
                ("bytes", printing.byte_count(nbytes)),
                ("files", f"{len(files):,}"),
                ("seed", str(graph.seed)),
                ("seconds", f"{seconds:.3f}"),
            ]
        )
    return 0
