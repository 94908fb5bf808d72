"""`save` when things go wrong: killed anywhere, the disk full or broken, several at one path."""

import collections
import contextlib
import errno
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from children import environment, python
from requires import on_posix, require, require_program

import varscope as vs
from varscope._scopecore import FileLock
from varscope.checkpoint import replacement, saving

require("safetensors", 'safetensors>=0.8 or "varscope-core[checkpoints]"')
pytestmark = on_posix

INDEX = "model.safetensors.index.json"
LAYOUTS = ["m.safetensors", "m"]
ROUNDS = 30


def model(number):
    """A graph whose every value tells which one it is, as a whole and in parts."""
    graph = vs.Graph(seed=1)
    with graph.as_default():
        for name, shape, parts in [("a", [40], 1), ("b/c", [6, 2], 2), ("d", [], 0)]:
            cut = vs.fixed_size_partitioner(parts) if parts else None
            vs.get_variable(name, shape, initializer=vs.constant(number), partitioner=cut)
    return graph


def save(number, path, **options):
    vs.save(model(number), path, max_shard_size=160, **{"progress": False, **options})


def held(path):
    """The number of the model at a path, all of it and nothing else; None where there is none."""
    try:
        opened = vs.open(path)
    except FileNotFoundError:
        return None
    with opened:
        opened.verify()
        assert set(opened) == {"a", "b/c", "d"}
        values = np.concatenate([tensor.value().reshape(-1) for tensor in opened.values()])
    assert values.shape == (53,) and (values == values[0]).all()
    return int(values[0])


def files_at(path):
    """All files of a checkpoint and beside it."""
    found = os.listdir(path.parent)
    return set(found) | (set(os.listdir(path)) if path.is_dir() else set())


def wanted_at(path):
    """What is there when nothing is left of those who failed."""
    if path.name.endswith(".safetensors"):
        return {path.name}
    listed = json.loads((path / INDEX).read_text())["weight_map"].values()
    return {path.name, INDEX, *listed}


# --- one system call after the other

SERVER = """
import ctypes, json, os, sys
import test_save_faults as faults

faults.save(0, sys.argv[1])  # what is imported or computed once
faults.save(0, sys.argv[1] + ".safetensors")
for line in sys.stdin:
    number, path, threads = json.loads(line)
    start, go = os.pipe()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # let strace attach
        os.read(start, 1)
        try:
            faults.save(number, path, threads=threads)
        except OSError as error:
            assert error.filename is not None, error
            os._exit(error.errno)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(255)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()
    os.write(go, b"x")
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os.close(start)
    os.close(go)
"""
CALLS = [
    *("mkdir", "openat", "flock", "ftruncate", "write", "pwrite64", "fchmod", "fsync", "rename"),
    *("renameat", "unlink", "unlinkat", "rmdir"),
]


class Saver:
    """A process that saves in children of its own, each watched by strace."""

    def __init__(self, folder):
        self.strace = require_program("strace", "strace")
        self.log = folder / "strace.log"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(folder / "warm")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def save(self, number, path, injected=None, threads=1):
        """How a save ended: 0, the number of an error, or that of a signal, negative."""
        self.ask(json.dumps([number, str(path), threads]))
        child = self.process.stdout.readline().strip()
        options = ["-e", f"inject={injected}"] if injected else []
        calls = ",".join(CALLS)
        with subprocess.Popen(
            [self.strace, "-f", "-o", str(self.log), "-e", f"trace={calls}", *options, "-p", child],
            stderr=subprocess.PIPE, text=True,
        ) as strace:  # fmt: skip
            first = strace.stderr.readline()
            if "attached" not in first:
                self.ask("")
                self.process.stdout.readline()
                pytest.skip(f"strace must not watch other processes here: {first}")
            self.ask("")
            return int(self.process.stdout.readline())

    def count(self, number, path):
        """How often a save makes each call."""
        assert self.save(number, path) == 0
        return collections.Counter(re.findall(r"^\d+ +(\w+)\(", self.log.read_text(), re.MULTILINE))

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(10) == 0
        self.process.stdout.close()


@pytest.fixture(scope="module")
def saver(tmp_path_factory):
    with contextlib.closing(Saver(tmp_path_factory.mktemp("saver"))) as saver:
        yield saver


def prepare(path, replacing):
    if replacing:
        save(1, path)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return 1 if replacing else None


SCENES = [
    pytest.param("m", True),
    pytest.param("m", False, marks=pytest.mark.slow),
    pytest.param("m.safetensors", True),
    pytest.param("m.safetensors", False, marks=pytest.mark.slow),
]


def held_or_empty(path):
    """The same as `held`, but for a folder that was made and in which nothing is yet."""
    if path.is_dir() and not (path / INDEX).exists():
        return None
    return held(path)


@pytest.mark.parametrize(("name", "replacing"), SCENES)
def test_killed_at_any_call_the_old_or_the_new_is_there(saver, tmp_path, name, replacing):
    path = tmp_path / name
    prepare(path, replacing)
    counts = saver.count(2, path)
    assert {"mkdir", "openat", "write", "fsync", "rename", "ftruncate", "unlink"} <= set(counts)
    seen = collections.Counter()
    for call, count in counts.items():
        for i in range(1, count + 1):
            old = prepare(path, replacing)
            assert saver.save(2, path, f"{call}:signal=KILL:when={i}") == -signal.SIGKILL
            found = held_or_empty(path)
            assert found in (old, 2), (call, i)
            seen[found] += 1
            if i == 1 or i == count or call in ("rename", "mkdir", "unlink"):
                save(3, path)
                assert held(path) == 3
                assert files_at(path) == wanted_at(path), (call, i)
    assert len(seen) == 2


@pytest.mark.parametrize(("name", "replacing"), SCENES)
def test_a_call_that_fails_is_an_error_and_nothing_is_left(saver, tmp_path, name, replacing):
    path = tmp_path / name
    prepare(path, replacing)
    counts = saver.count(2, path)
    for call, count in counts.items():
        for i in range(1, count + 1):
            error = "EIO" if call in ("fsync", "unlink") else "ENOSPC"
            old = prepare(path, replacing)
            ended = saver.save(2, path, f"{call}:error={error}:when={i}")
            found = held_or_empty(path)
            if ended == 0:  # to be without a lock, or unable to clear away, is no reason to fail
                assert call in ("flock", "unlink", "rmdir", "openat"), (call, i)
                assert found == 2
                save(3, path)
            else:
                assert ended == getattr(errno, error), (call, i)
                assert found in (old, 2), (call, i)
                if found == 2:  # maybe not on the disk: files of the old one must stay
                    assert call in ("fsync", "openat") and wanted_at(path) <= files_at(path)
                    save(3, path)
            assert files_at(path) == (wanted_at(path) if path.exists() else set()), (call, i)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_killed_in_other_threads(saver, tmp_path, name):
    path = tmp_path / name
    save(1, path)
    counts = saver.count(2, path)
    for call in ("write", "fsync", "ftruncate", "rename", "openat"):
        for i in range(1, counts[call] + 2):
            save(1, path)
            assert saver.save(2, path, f"{call}:signal=KILL:when={i}", 2) in (-signal.SIGKILL, 0)
            assert held(path) in (1, 2)
    save(3, path)
    assert held(path) == 3 and files_at(path) == wanted_at(path)


# --- the disk is full


def large(nbytes=1 << 20):
    graph = vs.Graph()
    with graph.as_default():
        for i in range(4):
            vs.get_variable(f"v{i}", [nbytes // 16], initializer=vs.zeros)
    return graph


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_that_must_not_become_so_large(tmp_path, name, threads):
    path = tmp_path / name
    save(1, path)
    before, graph = files_at(path), large()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(OSError) as caught:
            vs.save(graph, path, threads=threads, max_shard_size="300KB")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert held(path) == 1 and files_at(path) == before


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
                          capture_output=True, text=True)  # fmt: skip
    if made.returncode != 0:
        pytest.skip(f"needs to be allowed to mount: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_full_disk(tiny_disk, name, threads):
    path = tiny_disk / name
    save(1, path)
    before = files_at(path)
    with pytest.raises(OSError) as caught:
        vs.save(large(), path, threads=threads, max_shard_size="300KB")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert held(path) == 1 and files_at(path) == before
    save(2, path)
    assert held(path) == 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do all")
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_that_must_not_be_written_to(tmp_path, name):
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        save(1, tmp_path / "shut" / name)


def test_old_files_stay_until_the_new_index_is_on_the_disk(tmp_path, monkeypatch):
    save(1, tmp_path / "m")
    old, text = files_at(tmp_path / "m"), (tmp_path / "m" / INDEX).read_bytes()
    sync, times = replacement.sync_folder, []

    def second_fails(folder):
        times.append(folder)
        if len(times) == 2:
            raise OSError(errno.EIO, "broken", str(folder))
        sync(folder)

    monkeypatch.setattr(replacement, "sync_folder", second_fails)
    with pytest.raises(OSError, match="broken"):
        save(2, tmp_path / "m")
    assert held(tmp_path / "m") == 2 and old <= files_at(tmp_path / "m")
    (tmp_path / "m" / INDEX).write_bytes(text)  # as a crash of the system may leave it
    assert held(tmp_path / "m") == 1
    save(3, tmp_path / "m")
    assert held(tmp_path / "m") == 3 and files_at(tmp_path / "m") == wanted_at(tmp_path / "m")


# --- interrupts


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


# In a process of its own, which can be ended where it should hang.
INTERRUPTED = """
import sys
from pathlib import Path
import test_save_faults
test_save_faults.interrupted(Path(sys.argv[1]), int(sys.argv[2]))
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", LAYOUTS)
def test_interrupts_at_random_times(tmp_path, name, threads):
    done = python(INTERRUPTED, tmp_path / name, threads)
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


# --- several at one path


def write_often(path, first, count):
    for i in range(count):
        save(first + i, path, threads=1 + i % 2)


def read_until(path, done, seen):
    while not done.is_set():
        seen.add(held(path))


def several_writers(path, writers, count):
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    save(0, path)
    seen, done = set(), threading.Event()
    processes = [context.Process(target=write_often, args=(path, 1000 * i, count))
                 for i in range(1, writers + 1)]  # fmt: skip
    for process in processes:
        process.start()
    errors = []

    def read():
        try:
            read_until(path, done, seen)
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for process in processes:
        process.join()
    done.set()
    reader.join()
    assert not errors, errors
    assert [process.exitcode for process in processes] == [0] * writers
    assert held(path) in {1000 * i + count - 1 for i in range(1, writers + 1)}
    assert files_at(path) == wanted_at(path)
    return seen


@pytest.mark.parametrize("name", LAYOUTS)
def test_two_writers_and_a_reader(tmp_path, name):
    several_writers(tmp_path / name, 2, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_four_writers_and_a_reader(tmp_path, name):
    assert len(several_writers(tmp_path / name, 4, 100)) > 10


@pytest.mark.parametrize("name", LAYOUTS)
def test_threads_of_one_process(tmp_path, name):
    path = tmp_path / name
    threads = [threading.Thread(target=write_often, args=(path, 1000 * i, 8)) for i in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(path) in (1007, 2007, 3007) and files_at(path) == wanted_at(path)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_another_writer_is_about_to_write_is_left_alone(tmp_path, name):
    path, told = tmp_path / name, []

    def progress(done, total):
        if done < total:
            save(2, path)  # of another one, from begin to end
            told.append(held(path))

    save(1, path)
    save(3, path, threads=1, progress=progress)
    assert set(told) == {2} and held(path) == 3 and files_at(path) == wanted_at(path)


def test_what_is_left_of_the_dead_is_removed_and_nothing_else(tmp_path):
    save(1, tmp_path / "m")
    folder = tmp_path / "m"
    for name in (".model.safetensors.0123abcd.partial", ".model.safetensors.4567abcd.partial",
                 ".other.safetensors.0123abcd.partial"):  # fmt: skip
        (folder / name).mkdir()
        (folder / name / ".tmpabc").write_text("half")
    (folder / ".model.safetensors.4567abcd.partial" / replacement.LOCK).write_text("")
    (folder / "model-0123abcd-00001-of-00002.safetensors").write_text("half")
    (folder / "model-00001-of-00002.safetensors").write_text("somebody's")
    (folder / ".model.safetensors.89abcdef.partial").symlink_to(tmp_path)
    save(2, folder)
    assert files_at(folder) - wanted_at(folder) == {
        ".other.safetensors.0123abcd.partial",
        ".model.safetensors.89abcdef.partial",
        "model-00001-of-00002.safetensors",
    }
    assert held(folder) == 2


@pytest.mark.parametrize("name", LAYOUTS)
def test_without_locks_nobody_s_files_are_removed(tmp_path, monkeypatch, name):
    path = tmp_path / name
    save(1, path)
    folder = path if path.is_dir() else tmp_path
    monkeypatch.setattr(replacement, "fcntl", None)
    left = folder / f".{'model' if path.is_dir() else 'm'}.safetensors.0123abcd.partial"
    left.mkdir()
    save(2, path)
    assert held(path) == 2 and files_at(path) == wanted_at(path) | {left.name}


def test_waiting_for_another_writer_is_short(tmp_path):
    save(1, tmp_path / "m")
    lock = FileLock(replacement.fcntl)
    assert replacement.take_folder(lock, tmp_path / "m")
    writer = threading.Thread(target=save, args=(2, tmp_path / "m"))
    writer.start()
    time.sleep(0.2)
    assert held(tmp_path / "m") == 1
    lock.close()
    writer.join()
    assert held(tmp_path / "m") == 2
