"""What saving, restoring and opening cost, beside the safetensors library and a plain copy.

    python bench/checkpoints.py                  4 GB, and half a million small tensors; minutes
    python bench/checkpoints.py --quick          64 MB, and 20 thousand; seconds
    python bench/checkpoints.py --folder DIR     files there, as on another disk, or in /dev/shm

The two of a line are done in turn, A B A B, in one process, and the best round of each counts.
Files are in the system's cache when they are read.  `varscope.save` is done when the disk says so;
where the line is not about a copy, the other one leaves that to the system.
"""

import argparse
import gc
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter as clock

from tables import measured_with, table

import varscope as vs

PEAK = Path("/proc/self/status")
LARGE = 1 << 30  # bytes from which on the disk says how long writing takes


# --- models -------------------------------------------------------------------------------------


def large_ones(nbytes, storage="heap"):
    """A graph of sixteen variables that take so many bytes together."""
    graph = vs.Graph(seed=1, storage=storage)
    with graph.as_default():
        for i in range(16):
            with vs.variable_scope(f"layer_{i}"):
                vs.get_variable("kernel", [nbytes // 64 // 1024, 1024])
    return graph


def small_ones(names):
    """A graph of so many variables of sixteen elements."""
    graph = vs.Graph(seed=1)
    with graph.as_default():
        for i in range(names):
            with vs.variable_scope(f"layer_{i // 8192}/expert_{i // 4 % 2048}/{'wvgb'[i % 4]}"):
                vs.get_variable("kernel", [16])
    return graph


def filled(graph):
    with graph.as_default():
        vs.initialize(progress=False)
    return graph


def as_arrays(graph):
    return {variable.op_name: variable.array for variable in graph.variables}


# --- statements ---------------------------------------------------------------------------------


def seconds(function, *arguments):
    """What a call takes; arguments that are functions are called before, for what they give."""
    arguments = [argument() if callable(argument) else argument for argument in arguments]
    gc.collect()
    start = clock()
    held = function(*arguments)
    taken = clock() - start
    del held
    return taken


def saved(graph, path):
    vs.save(graph, path, progress=False)


def saved_by_library(arrays, path):
    from safetensors.numpy import save_file

    save_file(arrays, path)


def copied(source, target):
    """A plain copy that takes the place of the last one when the disk says so, as a save does."""
    beside = target.with_suffix(".new")
    shutil.copyfile(source, beside)
    with open(beside, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(beside, target)


def restored(graph, path):
    vs.restore(graph, path, progress=False)
    return graph


def loaded_by_library(path):
    from safetensors.numpy import load_file

    return load_file(path)


def opened(path):
    checkpoint = vs.open(path)
    return checkpoint, "no such name" in checkpoint


def opened_by_library(path):
    from safetensors import safe_open

    file = safe_open(path, framework="numpy")
    return file, set(file.keys())


# --- lines --------------------------------------------------------------------------------------


def line(title, rounds, ours, other):
    """The best seconds of two calls, made in turn; each is a function and what it is given."""
    pairs = [(seconds(*ours), seconds(*other)) for _ in range(rounds)]
    best, best_of_other = map(min, zip(*pairs, strict=True))
    return title, best, best_of_other, best / best_of_other


def writing(graph, folder, rounds):
    one, other = folder / "one.safetensors", folder / "other.safetensors"
    library = saved_by_library, as_arrays(graph), other
    several, single = (saved, graph, folder / "several"), (saved, graph, one)
    yield line("save, a folder; beside save_file", rounds, several, library)
    if graph.nbytes >= LARGE:  # in memory there may be no room for so many
        shutil.rmtree(folder / "several")
    yield line("save, one file; beside save_file", rounds, single, library)
    if graph.nbytes >= LARGE and shutil.disk_usage(folder).free > 4 * graph.nbytes:
        copy = folder / "copy.safetensors"
        copying = copied, other, copy
        yield line("save, one file; beside a copy with fsync", rounds, single, copying)
        copy.unlink()


def reading(declared, folder, rounds):
    one, other = folder / "one.safetensors", folder / "other.safetensors"
    library = loaded_by_library, other
    yield line("restore, one file; beside load_file", rounds, (restored, declared, one), library)
    if (folder / "several").exists():
        several = restored, declared, folder / "several"
        yield line("restore, a folder; beside load_file", rounds, several, library)
    both = (opened, one), (opened_by_library, other)
    yield line("open; beside safe_open and its keys", rounds, *both)


def lines(declared, folder, rounds):
    """Saving, restoring and opening one model, which `declared` makes."""
    return [*writing(filled(declared()), folder, rounds), *reading(declared, folder, rounds)]


def commands(folder, rounds):
    """Whole processes, their start included."""
    varscope = [sys.executable, "-m", "varscope"]
    rows = []
    for words in ("show one.safetensors", "show several", "diff one.safetensors several"):
        command, *paths = words.split()
        called = [*varscope, command, *(str(folder / path) for path in paths)]
        rows.append((f"varscope {words}", min(seconds(run, called) for _ in range(rounds))))
    return rows


def run(arguments):
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)


# --- memory -------------------------------------------------------------------------------------


def peak_over_values(nbytes, path, storage):
    """The most that a process held while it restored, less what it held before; over the values."""
    graph = large_ones(nbytes, storage)
    PEAK.with_name("clear_refs").write_text("5")  # the peak begins anew
    before = status("VmRSS")
    vs.restore(graph, path, progress=False)
    return (status("VmHWM") - before) / graph.nbytes


def status(field):
    (found,) = (row for row in PEAK.read_text().splitlines() if row.startswith(field))
    return int(found.split()[1]) * 1024


def print_peaks(nbytes, path):
    if not PEAK.exists():
        print("\nthe peak of memory is read from /proc, which is not here")
        return
    rows = []
    for storage in ("heap", "arena"):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            peak = pool.submit(peak_over_values, nbytes, path, storage).result()
        rows.append((storage, peak))
    table("the most memory a restore takes, over the bytes of the variables", ("storage", "ratio"),
          rows)  # fmt: skip


# --- the tables ---------------------------------------------------------------------------------

HEAD = ("", "seconds", "beside", "ratio")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Files beside the safetensors library.")
    parser.add_argument("--quick", action="store_true", help="64 MB, and 20 thousand names")
    parser.add_argument("--folder", metavar="DIR", type=Path, help="where the files go for a while")
    options = parser.parse_args(arguments)
    nbytes, names, rounds = (1 << 26, 20_000, 2) if options.quick else (1 << 32, 500_000, 5)
    print(measured_with())
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = lines(partial(large_ones, nbytes), Path(folder), rounds)
        table(f"{nbytes:,} bytes in sixteen variables, best of {rounds}", HEAD, rows)
        print_peaks(nbytes, Path(folder) / "one.safetensors")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = lines(partial(small_ones, names), Path(folder), rounds)
        table(f"{names:,} variables of sixteen float32, best of {rounds}", HEAD, rows)
        rows = commands(Path(folder), rounds)
        table(f"whole commands on {names:,} names", ("", "seconds"), rows)


if __name__ == "__main__":
    sys.exit(main())
