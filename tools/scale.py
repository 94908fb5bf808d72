#!/usr/bin/env python
"""What a model of any size would take on a cluster, computed from what one machine was seen to do.

    python tools/scale.py                      10 million names, 10 TB, up to 1,000 workers
    python tools/scale.py --names 500000 --bytes 1e12 --workers 64
    python tools/scale.py --measure 10000000   declare and plan all of them here; takes 5 GB

The plan is no guess: as many names as `--measure` says are declared and planned here, for so many
workers as would have as many each, and what that took is scaled up.  All else follows from speeds,
which the options below set.  Those left out are what `python bench/scale.py` printed on a machine
of two processors with a disk, and can be replaced by what it prints on yours.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from time import process_time as clock  # one thread works, and others may run beside it

import varscope as vs

GB = 1e9


def options():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--names", type=int, default=10_000_000)
    parser.add_argument("--bytes", type=float, default=10e12)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--measure", type=int, default=1_000_000, metavar="NAMES")
    parser.add_argument("--shard", type=float, default=5e9, help="bytes of a file")
    speeds = parser.add_argument_group("what one machine does")
    speeds.add_argument("--kernels", type=float, default=2.2, help="GB/s of first values made")
    speeds.add_argument("--write", type=float, default=0.30, help="GB/s that a worker writes")
    speeds.add_argument("--small", type=float, default=390_000, help="names/s filled, if tiny")
    speeds.add_argument("--finish", type=float, default=2_000_000, help="names/s of the last step")
    speeds.add_argument("--start", type=float, default=0.5, help="seconds until a worker works")
    store = parser.add_argument_group("what the cluster's file system does")
    store.add_argument("--store", type=float, default=100, help="GB/s that all write together")
    store.add_argument("--latency", type=float, default=1e-3, help="seconds to open a small file")
    return parser.parse_args()


def declared(names, nbytes):
    """A graph of so many variables of about so many bytes together, named as a model's are."""
    graph = vs.Graph(seed=1)
    rows = max(1, round(nbytes / names / 4096))
    with graph.as_default():
        for i in range(names // 4):
            with vs.variable_scope(f"layers_{i // 2048}/experts_{i % 2048}"):
                for name in ("query", "key", "value", "output"):
                    vs.get_variable(name, [rows, 1024])
    return graph


def measured(given, folder):
    """What declaring and planning take here: names a second, and bytes."""
    count = min(given.measure, given.names)
    workers = max(1, round(given.workers * count / given.names))
    vs.plan(vs.Graph(), folder / "m", workers=1)  # what is imported once
    started = clock()
    graph = declared(count, given.bytes * count / given.names)
    built = clock()
    plan = vs.plan(graph, folder / "m", workers=workers, max_shard_size=int(given.shard))
    plan.save(folder / "plan")
    done = clock()
    with open(folder / "plan", "rb") as file:
        head = len(file.readline())
    read = clock()
    loaded = vs.Plan.load(folder / "plan")
    pieces = sum(len(loaded.pieces(worker)) for worker in range(min(workers, 10)))
    return {
        "declared": len(graph) / (built - started),
        "planned": len(graph) / (done - built),
        "line": ((folder / "plan").stat().st_size - head) / len(graph),
        "head": head / max(workers, len(plan.files)),  # it has a few numbers for each of them
        "look": (clock() - read) / min(workers, 10),
        "files": len(plan.files) / len(graph),
        "pieces": pieces / min(workers, 10),
        "counted": len(graph),
    }


def on_paper(given, here, workers):
    """What the model takes with so many workers: (what, value) in the order of time."""
    names, nbytes = given.names, given.bytes
    files = max(1.0, here["files"] * names)
    head = here["head"] * max(workers, files)
    lines = here["line"] * names
    speed = min(given.write, given.kernels, given.store / workers)
    share = nbytes / workers
    # A worker writes a record for each of its pieces, and reads those of the files that it ends.
    pieces, mine = max(workers * 32, nbytes / (1 << 28)), min(files, files / workers + 1)
    opened = 3 * pieces / workers + mine * pieces / files
    filling = share / GB / speed + names / workers / given.small + opened * given.latency
    steps = {
        "declare": names / here["declared"],
        "plan": names / here["planned"],
        "start": given.start + here["look"],
        "fill": filling,
        "finish": names / given.finish + 4 * files * given.latency,
    }
    # A worker reads the lines of the files that its share lies in: one more than a share of them.
    lines_of_one = lines / files * mine
    return {
        "plan bytes": head + lines,
        "a worker reads": head + lines_of_one,
        "all read": workers * (head + lines_of_one),
        "for each byte filled": workers * (head + lines_of_one) / nbytes,
        **{f"seconds: {step}": value for step, value in steps.items()},
        "seconds: all": sum(steps.values()),
        "TB a second": nbytes / 1e12 / filling,
    }


def shown(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


def main():
    given = options()
    if given.names < 4 or given.workers < 1 or given.bytes <= 0:
        sys.exit("at least four names, one worker and one byte")
    with tempfile.TemporaryDirectory() as folder:
        here = measured(given, Path(folder))
    print(
        f"measured here: {here['counted']:,} names declared at {here['declared']:,.0f} a second "
        f"and planned at {here['planned']:,.0f}, {here['line']:.1f} bytes of a plan each"
    )
    counts = sorted({n for n in (1, 10, 100, 1000, 10_000) if n < given.workers} | {given.workers})
    columns = [on_paper(given, here, workers) for workers in counts]
    rows = [["workers", *(f"{n:,}" for n in counts)]]
    rows += [[what, *(shown(column[what]) for column in columns)] for what in columns[0]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        print("  ".join([first.ljust(widths[0]), *cells]))


if __name__ == "__main__":
    main()
