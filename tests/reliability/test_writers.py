"""Several that save to one path while others read: the last complete writer wins."""

import json
import multiprocessing
import sys
import threading
import time

import numpy as np
import pytest
from requires import on_posix, require
from saves import LAYOUTS, files_at, held, save, wanted_at
from written_files import INDEX, SHARDS, refused, sharded

import varscope as vs
from varscope._scopecore import FileLock
from varscope.checkpoint import replacement, safetensors_files, saving

require("safetensors", 'safetensors>=0.8 or "varscope-core[checkpoints]"')
pytestmark = [on_posix, pytest.mark.promise("writers")]


def write_often(path, first, count):
    for i in range(count):
        save(first + i, path, threads=1 + i % 2)


def read_until(path, done, seen, readings):
    while not done.is_set():
        seen.add(held(path))
        readings[0] += 1


def several_writers(path, writers, count, tally):
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    save(0, path)
    seen, done, readings = set(), threading.Event(), [0]
    processes = [context.Process(target=write_often, args=(path, 1000 * i, count))
                 for i in range(1, writers + 1)]  # fmt: skip
    for process in processes:
        process.start()
    errors = []

    def read():
        try:
            read_until(path, done, seen, readings)
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
    tally("saves", 1 + writers * count)
    tally("readings", readings[0])
    return seen


@pytest.mark.parametrize("name", LAYOUTS)
def test_two_writers_and_a_reader(tmp_path, tally, name):
    several_writers(tmp_path / name, 2, 6, tally)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_four_writers_and_a_reader(tmp_path, tally, name):
    assert len(several_writers(tmp_path / name, 4, 100, tally)) > 10


@pytest.mark.parametrize("name", LAYOUTS)
def test_threads_of_one_process(tmp_path, name):
    path = tmp_path / name
    threads = [threading.Thread(target=write_often, args=(path, 1000 * i, 8)) for i in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(path) in (1007, 2007, 3007) and files_at(path) == wanted_at(path)


@pytest.mark.fails_without(
    "src/varscope/checkpoint/replacement.py",
    "    if not (lock.take(wait) or wait):\n        return None\n",
    "    lock.take(wait)\n",
)
@pytest.mark.parametrize("name", LAYOUTS)
def test_what_another_writer_is_about_to_write_is_left_alone(tmp_path, monkeypatch, name):
    path, told = tmp_path / name, []
    complete = saving.Writing.complete

    def complete_and_wait(writing, *arguments):
        complete(writing, *arguments)
        monkeypatch.setattr(saving.Writing, "complete", complete)
        save(2, path)  # of another one, from begin to end
        told.append(held(path))
        monkeypatch.setattr(saving.Writing, "complete", complete_and_wait)

    save(1, path)
    monkeypatch.setattr(saving.Writing, "complete", complete_and_wait)
    save(3, path, threads=1)
    assert set(told) == {2} and held(path) == 3 and files_at(path) == wanted_at(path)


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


@pytest.mark.fails_without(
    "src/varscope/checkpoint/replacement.py",
    "    lock.open(folder, os.O_RDONLY)\n    return lock.take(wait=True)\n",
    "    return True\n",
)
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


# --- who opens a folder meanwhile


@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_files.py",
    "            if text == before:\n",
    "            if True:\n",
)
def test_a_folder_that_is_saved_to_while_it_is_opened(tmp_path, monkeypatch):
    sharded(tmp_path, SHARDS)
    map_file, opened = safetensors_files.map_file, []

    def map_after_a_save(path):
        opened.append(path.name)
        number = len(opened)
        if number in (2, 4, 6):  # the second file of an index is gone
            name = f"model-{number}-{{}}.safetensors"
            sharded(tmp_path, {name.format(i): {f"new{i}": np.ones(number)} for i in (1, 2)})
            path.unlink()
        return map_file(path)

    monkeypatch.setattr(safetensors_files, "map_file", map_after_a_save)
    checkpoint = vs.open(tmp_path)
    assert list(checkpoint) == ["new1", "new2"] and checkpoint.shapes == [(6,), (6,)]


def test_a_folder_that_changes_for_ever(tmp_path, monkeypatch):
    sharded(tmp_path, {}, {"a": "gone"})
    count = iter(range(10**6))

    def index_text(index):
        return json.dumps({"weight_map": {"a": "gone"}, "n": next(count)}).encode()

    monkeypatch.setattr(safetensors_files, "index_text", index_text)
    refused(tmp_path, "replaced again and again", where=tmp_path / INDEX)
