"""A save that is interrupted: the old checkpoint or the new one is there, and nothing else."""

import os
import signal
import time

import numpy as np
import pytest
from children import python
from requires import on_posix, require
from saves import LAYOUTS, files_at, held, large, model, save, wanted_at

import varscope as vs
from varscope.checkpoint import saving

require("safetensors", 'safetensors>=0.8 or "varscope-core[checkpoints]"')
pytestmark = [on_posix, pytest.mark.promise("interrupts")]

ROUNDS = 10


class Stop(BaseException):
    pass


def interrupted(path, threads):
    """Save to a path many times, and stop most of them somewhere."""
    rng = np.random.default_rng(1)

    def stop(*_):
        raise Stop

    old, graph, stopped = 1, model(2), 0
    save(1, path)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for i in range(ROUNDS):
            graph = model(i)
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 4e-3))
                vs.save(graph, path, threads=threads, max_shard_size=160, progress=False)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Stop:
                pass
            assert files_at(path) == wanted_at(path), i
            found = held(path)
            assert found in (old, i)
            stopped += found == old
            old = found
    finally:
        signal.signal(signal.SIGALRM, before)
    assert stopped
    save(77, path)
    assert held(path) == 77 and files_at(path) == wanted_at(path)


def plan_interrupted(path, threads):
    """Fill and finish many plans, stop them somewhere, and go on."""
    rng = np.random.default_rng(1)

    def stop(*_):
        raise Stop

    stopped = 0
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for i in range(ROUNDS):
            plan = vs.plan(model(i), path, workers=2, max_shard_size=160)
            for j in range(100):
                try:
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 4e-3) * (1 + j))
                    vs.materialise(plan, threads=threads, progress=False)
                    vs.finish(plan)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                    break
                except Stop:
                    stopped += 1
            vs.finish(plan)  # maybe it was stopped behind the last step
            assert held(path) == i and files_at(path) == wanted_at(path), i
    finally:
        signal.signal(signal.SIGALRM, before)
    assert stopped > ROUNDS


# In a process of its own, which can be ended where it should hang.
INTERRUPTED = """
import sys
from pathlib import Path
import test_save_interrupts
getattr(test_save_interrupts, sys.argv[3])(Path(sys.argv[1]), int(sys.argv[2]))
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", LAYOUTS)
def test_interrupts_at_random_times(tmp_path, name, threads):
    done = python(INTERRUPTED, tmp_path / name, threads, "interrupted")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_plan_that_is_interrupted_at_random_times_goes_on(tmp_path, threads):
    done = python(INTERRUPTED, tmp_path / "m", threads, "plan_interrupted")
    assert done.returncode == 0, done.stderr[-3000:]


def test_an_interrupt_while_files_are_written_leaves_nothing(tmp_path):
    for name in LAYOUTS:
        path = tmp_path / name
        save(1, path)
        before = files_at(path)

        def progress(done, total):
            raise KeyboardInterrupt

        for threads in (1, 2):
            with pytest.raises(KeyboardInterrupt):
                vs.save(large(), path, threads=threads, max_shard_size="300KB", progress=progress)
            assert held(path) == 1 and files_at(path) == before


def test_after_an_interrupt_no_further_file_is_begun(tmp_path, monkeypatch):
    begun, write = [], saving.Writing.write

    def noted(self, file, beside):
        begun.append(file)
        time.sleep(0.1)
        write(self, file, beside)

    def progress(done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr(saving.Writing, "write", noted)
    with pytest.raises(KeyboardInterrupt):
        vs.save(large(), tmp_path / "m", threads=2, max_shard_size=1, progress=progress)
    assert 1 <= len(begun) < 4 and os.listdir(tmp_path) == []
