#!/usr/bin/env python
"""Take away one protection after another, and see that a test notices each time.

    python tools/protections.py                 all of them
    python tools/protections.py memory kills    those of some promises
    python tools/protections.py --check         only whether the sources still read as the tests say

A test in tests/reliability says by `@pytest.mark.fails_without(file, old, new)` what it watches
over.  This script works on a copy of the checkout: it writes `new` in the place of `old`, builds
the core again where it has to, and runs the test, which has to fail, crash or hang.  It needs what
the tests need, and a C compiler.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 240  # seconds after which a test counts as hanging
FAILED, PASSED = 1, 0  # how pytest ends; anything from 2 to 5 is no answer


class Collector:
    """A plugin of pytest that keeps what tests say of themselves."""

    def __init__(self):
        self.promises = set()
        self.found = {}  # (file, old, new) -> the tests that watch over it

    def pytest_collection_finish(self, session):
        for item in session.items:
            promises = {mark.args[0] for mark in item.iter_markers("promise")}
            self.promises |= promises
            for mark in item.iter_markers("fails_without"):
                change = mark.args
                test = item.nodeid.partition("[")[0]
                self.found.setdefault(change, {}).setdefault(test, set()).update(promises)


def collect():
    collector = Collector()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        arguments = ["tests/reliability", "--collect-only", "-q", "-m", "slow or not slow"]
        status = pytest.main([*arguments, "-p", "no:cacheprovider"], [collector])
    if status != PASSED:
        sys.exit("the tests cannot be collected: python -m pytest tests/reliability --collect-only")
    return collector.found, collector.promises


def check(changes, promised):
    """Each text to be replaced stands in its file once, and each promise has one."""
    wrong = []
    for (file, old, new), tests in changes.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        if text.count(old) != 1 or old == new:
            wrong.append(f"{file} has {text.count(old)} times what {min(tests)} names:\n{old}")
    watched = set().union(*(promises for tests in changes.values() for promises in tests.values()))
    wrong += [f"no test of {promise!r} names a protection" for promise in promised - watched]
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(changes)} protections, each where the tests say")


class Copy:
    """A copy of the checkout in which the core can be built anew."""

    def __init__(self, folder):
        self.folder = Path(folder)
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        files = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, files.split("\0")):
            if (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.folder / name)
        setup = self.folder / "setup.py"
        setup.write_text(setup.read_text().replace('"-O3"', '"-O0"'))  # it is built often
        self.build()

    def build(self):
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"the core cannot be built:\n{done.stdout}{done.stderr}"[-3000:])

    @contextlib.contextmanager
    def changed(self, file, old, new):
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        compiled = not file.endswith(".py")
        (built,) = (self.folder / "src/varscope").glob("_scopecore*.so")
        kept = built.with_suffix(".kept")
        path.write_text(text.replace(old, new), encoding="utf-8")
        try:
            if compiled:
                shutil.move(built, kept)
                self.build()
            yield
        finally:
            path.write_text(text, encoding="utf-8")
            if kept.exists():
                shutil.move(kept, built)

    def test(self, *tests):
        """How pytest ends; None where it does not."""
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": "src", "CI": "false"}
        with tempfile.TemporaryFile("w+") as output:
            try:
                return subprocess.run(
                    [*command, "-m", "slow or not slow", *tests], cwd=self.folder, env=environment,
                    stdout=output, stderr=output, timeout=PATIENCE,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("promises", nargs="*", help="only those of these promises")
    parser.add_argument("--check", action="store_true", help="only look for them in the sources")
    options = parser.parse_args()
    os.chdir(ROOT)
    started = time.monotonic()
    changes, promised = collect()
    check(changes, promised)
    if options.check:
        return
    unnoticed, count = [], 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(folder)
        for change, tests in sorted(changes.items()):
            chosen = {
                test: promises
                for test, promises in tests.items()
                if not options.promises or promises & set(options.promises)
            }
            if not chosen:
                continue
            if copy.test(*chosen) != PASSED:
                print(f"these fail already: {' '.join(chosen)}", flush=True)
                unnoticed += chosen
                continue
            with copy.changed(*change):
                for test, promises in chosen.items():
                    status, count = copy.test(test), count + 1
                    noticed = status is None or status < 0 or status == FAILED or status > 5
                    word = "hangs" if status is None else "fails" if status == FAILED else "crashes"
                    if not noticed:
                        word = "PASSES" if status == PASSED else f"is no answer ({status})"
                        unnoticed.append(test)
                    line = change[1].strip().splitlines()[0]
                    print(f"{', '.join(sorted(promises)):16} {word:8} {test}")
                    print(f"{'':16} without {change[0]}: {line}", flush=True)
    print(
        f"{count} tests without their protections in {time.monotonic() - started:.0f} s, ", end=""
    )
    print(f"{len(unnoticed)} of them unmoved")
    if unnoticed:
        sys.exit(1)


if __name__ == "__main__":
    main()
