"""A change beside what it starts from: the same benchmarks on both, in turn, as ratios.

    python bench/compare.py main       this checkout, as it stands, beside the commit main

Both are built as they are installed, into an environment each, and run the benchmarks of this
checkout, `python -m pytest bench`, base and head in turn.  Of each benchmark the quickest round of
all counts.  It prints a table, and fails where the head takes more than THRESHOLD times as long as
the base.  The last line says how far the plain Python of the benchmarks was apart, which is the
same on both sides: where that is much, the machine was busy, and the table says little.

It needs git, a C compiler and a package registry, and takes five minutes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
THRESHOLD = 1.2
TURNS = 5


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="a commit, a branch or a tag of this repository")
    base = parser.parse_args().base
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        base_python = installed(folder / "base", git("archive", base))
        head_python = installed(folder / "head", archive_of_head())
        runs = {"base": [], "head": []}
        for turn in range(TURNS):
            sides = [("base", base_python), ("head", head_python)]
            for side, python in sides if turn % 2 == 0 else reversed(sides):
                print(f"turn {turn + 1} of {TURNS}: {side}", file=sys.stderr)
                runs[side].append(benchmarks(python, folder / "head", folder / "result.json"))
    sys.exit(report(quickest(runs["base"]), quickest(runs["head"])))


# --- two environments


def git(*arguments, **options):
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **options).stdout


def archive_of_head():
    """What a commit of everything here would hold; nothing is committed, or staged."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GIT_INDEX_FILE": str(Path(folder, "index"))}
        git("add", "--all", env=environment)
        tree = git("write-tree", env=environment, text=True).strip()
    return git("archive", tree)


def installed(folder, archive):
    """Unpack the sources into the folder; the Python of an environment that has them installed."""
    folder.mkdir()
    subprocess.run(["tar", "-xf", "-", "-C", folder], input=archive, check=True)
    environment = folder.with_name(f"{folder.name}-environment")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    pip = [python, "-m", "pip", "-qq", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, f"{folder}[test]"], check=True)
    return python


# --- the benchmarks


def benchmarks(python, folder, result):
    """The seconds of the quickest round of each, by name."""
    result.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # Hashes differ from run to run, and with them how far a dict or table has to look.
    environment["PYTHONHASHSEED"] = "0"
    command = [python, "-m", "pytest", "-q", "bench", f"--benchmark-json={result}"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    # The base may fail in what only the head can do; the other benchmarks have their results.
    if not result.exists() or result.stat().st_size == 0:
        sys.exit(f"no benchmarks were run:\n{done.stdout}{done.stderr}")
    found = json.loads(result.read_text(encoding="utf-8"))["benchmarks"]
    return {one["name"]: one["stats"]["min"] for one in found}


def quickest(runs):
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: min(run[name] for run in runs if name in run) for name in names}


# --- the report


def is_twin(name):
    """Whether it is the plain Python beside a case of ours: test_statement[found-python]."""
    return name.endswith("-python]")


def report(base, head):
    """Print the table; how many benchmarks are slower than they may be."""
    ratios = {name: head[name] / base[name] for name in head if name in base}
    ours = {name: ratio for name, ratio in ratios.items() if not is_twin(name)}
    twins = [ratio for name, ratio in ratios.items() if is_twin(name)]
    slower = [name for name, ratio in ours.items() if ratio > THRESHOLD]
    print("| benchmark | base, ms | head, ms | ratio |\n|---|---:|---:|---:|")
    for name, ratio in ours.items():
        mark = " **slower**" if name in slower else ""
        times = f"{base[name] * 1e3:.3f} | {head[name] * 1e3:.3f}"
        print(f"| {name} | {times} | {ratio:.2f}{mark} |")
    for name in sorted(base.keys() ^ head.keys()):
        print(f"| {name} | only in the {'head' if name in head else 'base'} | | |")
    print(f"\nslower than {THRESHOLD} times the base: {len(slower)} of {len(ours)}")
    if twins:
        print(f"plain Python, the same on both sides: {min(twins):.2f} to {max(twins):.2f}")
    return len(slower)


if __name__ == "__main__":
    main()
