"""A save on a disk that is full or broken: an OSError, the old checkpoint intact, nothing left."""

import errno
import itertools
import os
import subprocess

import pytest
from requires import on_posix, require
from saves import (
    INDEX,
    LAYOUTS,
    MOST,
    RULES,
    SCENES,
    files_at,
    held,
    held_or_empty,
    large,
    prepare,
    save,
    wanted_at,
)

import varscope as vs
from varscope.checkpoint import replacement

require("safetensors", 'safetensors>=0.8 or "varscope-core[checkpoints]"')
resource = pytest.importorskip("resource", reason="limits of a process are those of POSIX")
pytestmark = [on_posix, pytest.mark.promise("broken-disks")]

ERRORS = ["EIO", "ENOSPC", "EDQUOT"]


USUAL = [("m.safetensors", True, False, 1), ("m", False, True, 2)]


@pytest.mark.fails_without(
    "src/varscope/checkpoint/replacement.py",
    """\
    except BaseException:
        place.remove()
        if made:
""",
    """\
    except BaseException:
        if made:
""",
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/replacement.py",
    "                folder.rmdir()\n",
    "                pass\n",
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/replacement.py",
    "            clear(not isinstance(error, OSError) and is_synced(folder))\n",
    "            pass\n",
)
@pytest.mark.parametrize("scene", USUAL)
def test_a_call_that_fails_is_an_error_and_nothing_is_left(saver, tmp_path, tally, scene):
    """Each call in turn gets one of the errors."""
    fail_everywhere(saver, tmp_path, tally, [None], *scene)


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES)
def test_all_calls_of_all_kinds_of_saves_fail_with_all_errors(saver, tmp_path, tally, scene):
    fail_everywhere(saver, tmp_path, tally, ERRORS, *scene)


def fail_everywhere(saver, tmp_path, tally, errors, name, replacing, mapped, threads):
    path, options = tmp_path / name, {"threads": threads}
    if mapped:
        options["names"] = RULES
    prepare(path, replacing)
    turn = itertools.cycle(ERRORS)
    for call in sorted(saver.count(2, path, **options)):
        for error in errors:
            for i in range(1, MOST):
                if not fails_well(saver, path, call, error or next(turn), i, replacing, options):
                    break
                tally("faults")
            assert i < MOST - 1, call


def fails_well(saver, path, call, error, i, replacing, options):
    """Whether there is a call of this number; if it fails, all is as it has to be."""
    old = prepare(path, replacing)
    ended = saver.save(2, path, f"{call}:error={error}:when={i}", **options)
    found, met = held_or_empty(path), "INJECTED" in saver.log.read_text()
    if ended == 0:  # to be without a lock, or unable to clear away, is no reason to fail
        assert not met or call in ("flock", "unlink", "rmdir", "openat"), (call, i)
        assert found == 2
        save(3, path)
    else:
        assert met and ended == getattr(errno, error), (call, i, ended)
        assert found in (old, 2), (call, i)
        if found == 2:  # maybe not on the disk: files of the old one must stay
            assert call in ("fsync", "openat") and wanted_at(path) <= files_at(path)
            save(3, path)
    assert files_at(path) == (wanted_at(path) if path.exists() else set()), (call, i)
    return met


@pytest.mark.parametrize(
    ("replacing", "threads"), [(True, 1), pytest.param(False, 2, marks=pytest.mark.slow)]
)
def test_a_plan_goes_on_when_the_disk_does(saver, tmp_path, tally, replacing, threads):
    """Each call of workers and of the last step fails in turn; then they are run again."""
    path, options = tmp_path / "m", {"threads": threads, "planned": True}
    prepare(path, replacing)
    turn = itertools.cycle(ERRORS)
    for call in sorted(saver.count(2, path, **options)):
        for i in range(1, MOST):
            old, error = prepare(path, replacing), next(turn)
            ended = saver.save(2, path, f"{call}:error={error}:when={i}", **options)
            met, found = "INJECTED" in saver.log.read_text(), held_or_empty(path)
            assert ended in (0, getattr(errno, error)), (call, i, ended)
            assert found == 2 if ended == 0 else found in (old, 2), (call, i)
            save(2, path, planned=True)
            assert held(path) == 2 and wanted_at(path) <= files_at(path), (call, i)
            if ended == 0 and call in ("openat", "unlink"):  # unable to clear away: the next can
                save(3, path)
            assert files_at(path) == wanted_at(path), (call, i)
            if not met:
                break
            tally("faults")
        assert i < MOST - 1, call


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


@pytest.mark.fails_without(
    "src/varscope/checkpoint/replacement.py",
    "            if done and not is_safe:\n",
    "            if False:\n",
)
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
