"""A model larger than the memory, through files, beside what the disk and the kernels can do.

    python bench/scale.py                       10 GB by a process that may have 1 GB; minutes
    python bench/scale.py --quick               64 MB, and a few thousand names; seconds
    python bench/scale.py --bytes 2e9 --memory 250e6
    python bench/scale.py --folder DIR          files there, as on another disk, or in /dev/shm

What is measured, each as often as `--rounds` says, in turn, and the best of each:

    disk       as many bytes from one buffer, written and synced by as many threads
    kernels    as many bytes of first values, made in memory by as many threads, a block at a time
    workers    `varscope materialise` in a process whose address space, or data, is limited

The last is compared with the slower one of the others.  Then names: how many a second are planned,
filled as small tensors, and finished, by one thread, in seconds of the processor; and what a plan
takes.  `tools/scale.py` goes on from there.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter as clock
from time import process_time

import numpy as np

import varscope as vs
from varscope import randomness

BLOCK = 1 << 22
LIMITS = {"address space": "RLIMIT_AS", "data": "RLIMIT_DATA"}
# What the limited process runs; it says how much memory it had and how long it took.
WORKER = """
import json, resource, sys, time
import numpy
import varscope as vs
limit, kind, path, threads = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
resource.setrlimit(getattr(resource, kind), (limit, limit))
try:
    numpy.empty(limit, "uint8")
except MemoryError:
    pass
else:
    raise SystemExit("the limit is none")
plan = vs.Plan.load(path)
started = time.perf_counter()
filled = vs.materialise(plan, 0, threads=threads)
seconds = time.perf_counter() - started
vs.finish(plan)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "peak": peak, "finished": time.perf_counter() - started}))
"""


# --- models


def large_model(nbytes):
    """A variable that takes a third of so many bytes, and many that take the rest."""
    graph = vs.Graph(seed=1)
    rows = nbytes // 3 // 4096
    with graph.as_default():
        vs.get_variable("table", [rows, 1024], initializer=vs.random_uniform(-1, 1))
        for i in range(64):
            with vs.variable_scope(f"layer_{i}"):
                vs.get_variable("kernel", [(nbytes // 4096 - rows) // 64, 1024])
    return graph


def small_model(names):
    """So many variables of sixteen elements."""
    graph = vs.Graph(seed=1)
    with graph.as_default():
        for i in range(names // 4):
            with vs.variable_scope(f"layer_{i // 2048}/expert_{i % 2048}"):
                for name in ("query", "key", "value", "output"):
                    vs.get_variable(name, [16])
    return graph


# --- what is measured


def in_threads(threads, function):
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(function, range(threads)))


def disk(folder, nbytes, threads):
    """Bytes a second that are written and synced."""
    data = memoryview(np.random.default_rng(1).bytes(BLOCK))
    path = folder / "disk"

    def write(k):
        with open(path, "r+b") as file:
            for at in range(k * BLOCK, nbytes, threads * BLOCK):
                os.pwrite(file.fileno(), data, at)
            os.fsync(file.fileno())

    path.touch()
    started = clock()
    in_threads(threads, write)
    seconds = clock() - started
    path.unlink()
    return nbytes / seconds


def kernels(nbytes, threads):
    """Bytes a second of first values that are made in memory."""
    law = randomness.Uniform(-1.0, 1.0)

    def fill(k):
        out = np.empty(BLOCK // 4, "float32")
        for at in range(k * BLOCK, nbytes, threads * BLOCK):
            randomness.fill(out, law, 7, at // 4)

    started = clock()
    in_threads(threads, fill)
    return nbytes / (clock() - started)


def workers(folder, nbytes, threads, memory, kind):
    """Bytes a second of a worker in a limited process; and what it says of itself."""
    plan = vs.plan(large_model(nbytes), folder / "model", workers=1)
    plan.save(folder / "plan")
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(memory), kind, str(folder / "plan"), str(threads)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"a worker with {memory:,} bytes has failed:\n{done.stderr}")
    shutil.rmtree(folder / "model")
    said = json.loads(done.stdout)
    return plan.nbytes / said["seconds"], said


def names(folder, count):
    """What names cost: planned, written down, filled, finished."""
    graph = small_model(count)
    shard = max(count * 64 // 20, 1 << 16)
    vs.plan(vs.Graph(), folder / "small", workers=1)  # what is imported once
    started = process_time()
    plan = vs.plan(graph, folder / "small", workers=4, max_shard_size=shard)
    plan.save(folder / "plan")
    planned = process_time()
    vs.materialise(plan, threads=1, progress=False)
    filled = process_time()
    vs.finish(plan)
    finished = process_time()
    head = len((folder / "plan").open("rb").readline())
    size = (folder / "plan").stat().st_size
    shutil.rmtree(folder / "small")
    return {
        "planned": count / (planned - started),
        "filled": count / (filled - planned),
        "finished": count / (finished - filled),
        "bytes": (size - head) / count,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bytes", type=float, default=10e9)
    parser.add_argument("--memory", type=float, default=1e9)
    parser.add_argument("--names", type=int, default=1_000_000)
    parser.add_argument("--limit", choices=LIMITS, default="address space")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    nbytes, memory = int(given.bytes), int(given.memory)
    if given.quick:
        nbytes, given.names, given.rounds = 64 << 20, 8192, 1
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        free = shutil.disk_usage(folder).free
        if free < 1.5 * nbytes:
            raise SystemExit(f"{folder} has {free:,} bytes free: {1.5 * nbytes:,.0f} are needed")
        best = {"disk": 0.0, "kernels": 0.0, "workers": 0.0}
        said = {}
        for _ in range(given.rounds):
            best["disk"] = max(best["disk"], disk(folder, nbytes, given.threads))
            best["kernels"] = max(best["kernels"], kernels(nbytes, given.threads))
            speed, told = workers(folder, nbytes, given.threads, memory, LIMITS[given.limit])
            if speed > best["workers"]:
                best["workers"], said = speed, told
        cost = names(folder, given.names)
    finally:
        shutil.rmtree(folder)
    bound = min("disk", "kernels", key=best.__getitem__)
    print(f"{nbytes:,} bytes by {given.threads} threads in {memory:,} bytes of {given.limit}")
    for what, speed in best.items():
        print(f"  {what:10} {speed / 1e9:6.2f} GB/s")
    print(f"  workers beside the {bound}: {best['workers'] / best[bound]:.2f}")
    print(f"  resident at most: {said['peak']:,} bytes")
    print(f"{given.names:,} names, in seconds of the processor")
    for what in ("planned", "filled", "finished"):
        print(f"  {what:10} {cost[what]:10,.0f} a second")
    print(f"  a plan takes {cost['bytes']:.1f} bytes a name")


if __name__ == "__main__":
    main()
