"""The memory that the registry takes, beside a dict of full paths.

    python bench/memory.py                up to ten million names and 2 GB, some minutes
    python bench/memory.py --quick        10 thousand names, seconds
    python bench/memory.py --json FILE    writes the figures too, named for a chart

Each figure is what a fresh process takes more of resident memory after than before.
"""

import argparse
import gc
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from cases import NAMES, filled_dict, filled_graph
from tables import measured_with, table

import varscope as vs

STATM = Path("/proc/self/statm")
SIZES = {"10 thousand": 625, "1 million": 62_500, "10 million": 625_000}  # names: scopes


def resident():
    """The bytes of memory that this process takes now; None where nothing tells."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if shutil.which("ps") is None:
        return None
    asked = ["ps", "-o", "rss=", "-p", str(os.getpid())]
    told = subprocess.run(asked, capture_output=True, check=False, encoding="ascii").stdout
    return int(told) * 1024 if told.strip().isdigit() else None


# --- names --------------------------------------------------------------------------------------


def filled_and_held(scopes):
    """All variables of a graph, in a list of the program's own."""
    held = []
    with vs.Graph().as_default():
        for i in range(scopes):
            with vs.variable_scope(f"scope_{i}"):
                for name in NAMES:
                    held.append(vs.get_variable(name, [4, 4]))
    return held


def growth(fill, scopes):
    """Resident bytes a name of what `fill` returns."""
    # Memory comes from the system in large pieces: small ones are filled many times over.
    copies = max(1, 62_500 // scopes)
    fill(scopes=10)
    gc.collect()
    before = resident()
    filled = [fill(scopes) for _ in range(copies)]
    gc.collect()
    return (resident() - before) / sum(map(len, filled))


def dropped_bytes(scopes):
    return growth(filled_graph, scopes)


def kept_bytes(scopes):
    return growth(filled_and_held, scopes)


def dict_bytes(scopes):
    return growth(filled_dict, scopes)


# --- re-entries ---------------------------------------------------------------------------------


def reentry_bytes(times):
    """Resident bytes that so many openings of the same scope leave behind, all together."""

    def enter(times):
        for _ in range(times):
            with vs.variable_scope("model"):
                pass

    return left_behind(enter, times)


def nested_reentry_bytes(times):
    """The same with a second scope inside, for which each name scope has to be kept apart."""

    def enter(times):
        for _ in range(times):
            with vs.variable_scope("model"), vs.variable_scope("layer"):
                pass

    return left_behind(enter, times)


def left_behind(enter, times):
    enter(20_000)
    gc.collect()
    before = resident()
    enter(times)
    gc.collect()
    return resident() - before


# --- the tables ---------------------------------------------------------------------------------


def in_fresh_process(function, argument):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(function, argument).result()


def print_names(sizes):
    """A table of bytes a name; return the same as figures with their names."""
    rows, figures = [], {}
    for size, scopes in sizes.items():
        dropped, kept, others = (
            in_fresh_process(function, scopes)
            for function in (dropped_bytes, kept_bytes, dict_bytes)
        )
        figures[f"a variable, handles dropped, {size}"] = dropped
        figures[f"a variable, handles kept, {size}"] = kept
        figures[f"a path in a dict, {size}"] = others
        rows.append((scopes * len(NAMES), dropped, kept, others, dropped / others, kept / others))
    table(
        "bytes a declared variable, name included, beside a dict of full paths",
        ("names", "handles dropped", "kept", "dict", "ratio: dropped", "kept"),
        rows,
    )
    return figures


def print_reentries(times=1_000_000):
    """A table of bytes left behind; return the same as figures with their names."""
    one = in_fresh_process(reentry_bytes, times)
    two = in_fresh_process(nested_reentry_bytes, times)
    table(
        f"bytes that {times:,} re-entries leave behind, and for each of them",
        ("", "bytes", "each"),
        [
            ('with variable_scope("model")', one, one / times),
            ('with variable_scope("model"), variable_scope("layer")', two, two / times),
        ],
    )
    return {"a million re-entries of a scope": one, "a million re-entries of two scopes": two}


def entries(figures):
    """The form that tools for charts read, those in which smaller is better."""
    return [
        {"name": name, "unit": "bytes", "value": round(value, 1), "extra": measured_with()}
        for name, value in figures.items()
    ]


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Bytes beside plain Python.")
    parser.add_argument("--quick", action="store_true", help="10 thousand names only")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there too")
    options = parser.parse_args(arguments)
    if resident() is None:
        sys.exit("nothing is measured: resident memory is read from /proc/self/statm or asked of "
                 "the command ps, and here neither tells")  # fmt: skip
    print(measured_with())
    figures = print_names(dict([*SIZES.items()][:1]) if options.quick else SIZES)
    figures |= print_reentries()
    if options.json:
        text = json.dumps(entries(figures), indent=2) + "\n"
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
