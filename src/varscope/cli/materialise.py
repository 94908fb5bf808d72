"""``varscope materialise``: what a plan gives to workers, and the step that makes it count."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from varscope.checkpoint.materialising import Filled, finish
from varscope.checkpoint.materialising import materialise as fill
from varscope.checkpoint.plans import Plan
from varscope.cli import printing
from varscope.cli.failures import STATUS_FAILED, CommandError, say_line
from varscope.errors import PlanError
from varscope.folding import printable


def materialise(
    path: str,
    workers: Sequence[int],
    only_finish: bool,
    verify: bool,
    threads: int | None,
    as_json: bool,
) -> int:
    """Fill the shares of these workers; or of all, and finish; or finish alone."""
    if workers and only_finish:
        raise CommandError("--finish is the last step, when all workers are done: run it by itself")
    if workers and verify:
        raise CommandError("--verify belongs to the last step: write it with --finish")
    plan = Plan.load(path)
    started = time.perf_counter()
    filled: list[Filled] = []
    for worker in () if only_finish else workers or range(plan.workers):
        filled += fill(plan, worker, threads=threads)
    finished = not workers
    if finished:
        try:
            finish(plan, verify=verify)
        except PlanError as error:
            say_line(str(error))
            return STATUS_FAILED
    seconds = time.perf_counter() - started
    found = sum(each.found for each in filled)
    nbytes = sum(each.end - each.begin for each in filled if not each.found)
    if as_json:
        printing.print_json(
            {
                "path": str(plan.path),
                "workers": list(workers) if workers else None,
                "finished": finished,
                "found": found,
                "bytes": nbytes,
                "seconds": seconds,
                "pieces": [as_facts(each) for each in filled],
            }
        )
        return 0
    printing.print_pairs(
        [
            ("checkpoint", f"{printable(str(plan.path))}{'' if finished else ', not finished'}"),
            ("pieces", f"{len(filled) - found:,} filled, {found:,} found filled"),
            ("bytes", printing.byte_count(nbytes)),
            ("seconds", f"{seconds:.3f}"),
        ]
    )
    return 0


def as_facts(piece: Filled) -> dict[str, Any]:
    """A piece as what JSON has."""
    checksum = None if piece.crc32c is None else f"{piece.crc32c:08x}"
    return {**piece._asdict(), "crc32c": checksum}
