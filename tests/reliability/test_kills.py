"""A save that is killed at any moment: who reads sees the old checkpoint or the new one."""

import collections
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from children import environment
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
    prepare,
    save,
    wanted_at,
)

import varscope as vs
from varscope.checkpoint import replacement

require("safetensors", 'safetensors>=0.8 or "varscope-core[checkpoints]"')
pytestmark = [on_posix, pytest.mark.promise("kills")]


USUAL = [("m", True, False, 1), ("m.safetensors", True, True, 1)]

INDEX_FIRST = """\
            for name in names:
                if name not in (resumed or ()):
                    os.replace(place.path / name, folder / name)
            sync_folder(folder)
            os.replace(place.path / index, folder / index)
"""


@pytest.mark.fails_without(
    "src/varscope/checkpoint/replacement.py",
    INDEX_FIRST,
    """\
            os.replace(place.path / index, folder / index)
            for name in names:
                os.replace(place.path / name, folder / name)
            sync_folder(folder)
""",
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/replacement.py",
    "    os.replace(place.path / name, target)\n",
    "    target.write_bytes((place.path / name).read_bytes())\n",
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/replacement.py",
    "    for found in sorted(os.listdir(folder)):\n",
    "    for found in ():\n",
)
@pytest.mark.parametrize("scene", USUAL)
def test_killed_at_any_call_the_old_or_the_new_is_there(saver, tmp_path, tally, scene):
    kill_everywhere(saver, tmp_path, tally, *scene)


@pytest.mark.slow
@pytest.mark.parametrize("scene", sorted(set(SCENES) - set(USUAL)))
def test_killed_at_any_call_of_all_kinds_of_saves(saver, tmp_path, tally, scene):
    kill_everywhere(saver, tmp_path, tally, *scene)


def kill_everywhere(saver, tmp_path, tally, name, replacing, mapped, threads):
    """Each call in turn, the first of its kind, the second, …, until a save goes through.

    Of several threads each counts its own calls, and it is the one that comes first which is met.
    """
    path, options = tmp_path / name, {"threads": threads}
    if mapped:
        options["names"] = RULES
    prepare(path, replacing)
    calls = sorted(saver.count(2, path, **options))
    assert {"mkdir", "openat", "write", "fsync", "ftruncate", "unlink"} <= set(calls)
    seen = collections.Counter()
    for call in calls:
        for i in range(1, MOST):
            old = prepare(path, replacing)
            ended = saver.save(2, path, f"{call}:signal=KILL:when={i}", **options)
            found = held_or_empty(path)
            assert found in (old, 2), (call, i)
            if ended == 0:  # there is no call of this number
                assert found == 2 and files_at(path) == wanted_at(path), (call, i)
                break
            assert ended == -signal.SIGKILL, (call, i)
            seen[found] += 1
            tally("kills")
            if i == 1 or call in ("rename", "mkdir", "unlink"):
                save(3, path)
                assert held(path) == 3
                assert files_at(path) == wanted_at(path), (call, i)
        assert i < MOST - 1, call
        tally("saves", i + 1)
    assert len(seen) == 2  # both came about


@pytest.mark.fails_without(
    "src/varscope/checkpoint/saving.py", "    os.fsync(file.fileno())\n", "    pass\n"
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/replacement.py",
    "    os.replace(place.path / name, target)\n    sync_folder(target.parent)\n",
    "    os.replace(place.path / name, target)\n",
)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_renamed_is_on_the_disk_before(saver, tmp_path, tally, name, threads):
    """A crash of the system cannot be tried here, but the order of calls can be seen."""
    path = tmp_path / name
    save(1, path)
    folder, renamed = (path if path.is_dir() else tmp_path), []
    dirty, moved = set(), False  # files with unwritten bytes; whether renames are not on the disk
    for call, given in saver.trace(2, path, threads=threads):
        texts = re.findall(r'"([^"]*)"', given)
        of_descriptor = re.match(r"\d+<([^>]*)>", given)
        if call in ("write", "pwrite64", "ftruncate"):
            dirty.add(of_descriptor[1])
        elif call == "fsync":
            dirty.discard(of_descriptor[1])
            moved = moved and of_descriptor[1] != str(folder)
        elif call in ("rename", "renameat"):
            source, target = texts
            if ".tmp" in source or target.startswith(f"{folder}/."):
                # The library, within the workplace.
                dirty = {file.replace(source, target) for file in dirty}
                continue
            assert source not in dirty, source
            if target.endswith(".json"):  # by then the files that it lists are where they belong
                assert not moved
            moved = True
            renamed.append(target)
        elif call in ("unlink", "unlinkat"):
            file = f"{folder}/{texts[-1]}" if "/" not in texts[-1] else texts[-1]
            if file.endswith(".safetensors") and "/." not in file:
                assert not moved  # what is replaced goes last of all
    assert not moved and len(renamed) == (1 if path.is_file() else 3)
    tally("saves")


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


# --- workers of a plan

MARK_LAST = """\
                opened.seek(MARKED)
                opened.write(text[MARKED:])
                sync(opened)
                opened.seek(0)
                opened.write(text[:MARKED])
                sync(opened)
"""


@pytest.mark.fails_without(
    "src/varscope/checkpoint/materialising.py",
    MARK_LAST,
    """\
                opened.seek(0)
                opened.write(text[:MARKED])
                sync(opened)
                opened.write(text[MARKED:])
                sync(opened)
""",
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/replacement.py",
    "                if name not in (resumed or ()):\n",
    "                if True:\n",
)
@pytest.mark.parametrize(
    ("replacing", "threads"), [(True, 1), pytest.param(False, 2, marks=pytest.mark.slow)]
)
def test_a_plan_killed_at_any_call_and_run_again(saver, tmp_path, tally, replacing, threads):
    """What it makes then is what it would have made, and nothing is left."""
    path, options = tmp_path / "m", {"threads": threads, "planned": True}
    prepare(path, replacing)
    calls = sorted(saver.count(2, path, **options))
    assert {"mkdir", "openat", "link", "pwrite64", "fsync", "rename", "unlink"} <= set(calls)
    wanted = contents(path)
    seen = collections.Counter()
    for call in calls:
        for i in range(1, MOST):
            old = prepare(path, replacing)
            ended = saver.save(2, path, f"{call}:signal=KILL:when={i}", **options)
            found = held_or_empty(path)
            assert found in (old, 2), (call, i)
            save(2, path, planned=True)
            assert held(path) == 2 and contents(path) == wanted, (call, i)
            assert files_at(path) == wanted_at(path), (call, i)
            if ended == 0:
                break
            assert ended == -signal.SIGKILL, (call, i)
            seen[found] += 1
            tally("kills of workers")
        assert i < MOST - 1, call
    assert len(seen) == 2


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.fails_without(
    "src/varscope/checkpoint/materialising.py",
    "                os.fsync(descriptor)\n",
    "                pass\n",
)
def test_what_a_worker_records_is_on_the_disk_before(saver, tmp_path, tally):
    path = tmp_path / "m"
    dirty, files = set(), 0
    for call, given in saver.trace(2, path, planned=True):
        texts = re.findall(r'"([^"]*)"', given)
        of_descriptor = re.match(r"\d+<([^>]*)>", given)
        if call in ("write", "pwrite64"):
            dirty.add(of_descriptor[1])
        elif call == "fsync":
            dirty.discard(of_descriptor[1])
        elif call == "link":  # the mark of a new file, which a record needs
            dirty = {texts[1] if file == texts[0] else file for file in dirty}
        elif call == "rename":
            source, target = texts
            assert source not in dirty, source
            if target.endswith(".json") or target.endswith(".safetensors"):
                assert not {file for file in dirty if file.endswith(".safetensors")}, target
                files += target.endswith(".safetensors")
    assert files == 2
    tally("saves")


WORKER = """
import sys
import varscope as vs
vs.materialise(vs.Plan.load(sys.argv[1]), int(sys.argv[2]), threads=2, progress=False)
"""


@pytest.mark.parametrize("rounds", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_workers_killed_at_random_times(tmp_path, tally, rounds):
    """Two of each worker at once, some of which are killed in the middle of pieces."""
    graph = vs.Graph(seed=1)
    with graph.as_default():
        for i in range(12):
            vs.get_variable(f"layer_{i}/w", [500 + i, 1024], initializer=vs.random_normal())
    plan = vs.plan(graph, tmp_path / "m", workers=2, max_shard_size="9MB")
    plan.save(tmp_path / "plan")
    rng = random.Random(1)
    left = []
    for _ in range(rounds):
        running = [
            subprocess.Popen(
                [sys.executable, "-c", WORKER, tmp_path / "plan", str(k)], env=environment()
            )
            for k in (0, 1, rng.choice((0, 1)))
        ]
        time.sleep(rng.uniform(0.2, 0.6))
        for process in running:
            process.kill()
        tally("kills of workers", sum(process.wait() != 0 for process in running))
        try:
            vs.finish(plan)
        except vs.errors.PlanError as error:
            left.append(error.workers)
        else:
            shutil.rmtree(tmp_path / "m")
    for worker in range(2):
        vs.materialise(plan, worker)
    vs.finish(plan)
    assert left
    assert files_at(tmp_path / "m") == {"plan", "m", INDEX, *plan.files}
    with vs.open(tmp_path / "m") as checkpoint:
        checkpoint.verify()
        for name, tensor in checkpoint.items():
            assert np.array_equal(tensor.value(), graph[name].initial_value())
