"""Several that save to one path while others read: the last complete writer wins."""

import multiprocessing
import sys
import threading
import time

import pytest
from requires import on_posix, require
from saves import LAYOUTS, files_at, held, save, wanted_at

from varscope.checkpoint import replacement

require("safetensors", 'safetensors>=0.8 or "varscope-core[checkpoints]"')
pytestmark = [on_posix, pytest.mark.promise("writers")]


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
    with replacement.alone_in(tmp_path / "m"):
        writer = threading.Thread(target=save, args=(2, tmp_path / "m"))
        writer.start()
        time.sleep(0.2)
        assert held(tmp_path / "m") == 1
    writer.join()
    assert held(tmp_path / "m") == 2
