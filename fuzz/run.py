#!/usr/bin/env python
"""Run the fuzzers: python fuzz/run.py [--seconds 30] [checkpoint_reader] [name_maps]

    python fuzz/run.py --seconds 300                one after the other, and the figures of each
    python fuzz/run.py checkpoint_reader --input F  what one input does, without a fuzzer
    python fuzz/run.py --seconds 600 --keep         and put what was new into the corpus

An input that something does not hold for is kept in fuzz/findings, and ends the run with a status
that is not zero.  It needs what the tests need; and to fuzz, atheris, which is there for CPython
3.11 to 3.13 on Linux and x86-64: pip install atheris

The fuzzer follows the way through Python code.  To let it follow that through the compiled core as
well, compile one that tells, and run with it:

    cc -O2 -fPIC -c fuzz/core_coverage.c -o core_coverage.o
    CFLAGS=-fsanitize-coverage=trace-pc,trace-cmp LDFLAGS=$PWD/core_coverage.o \\
        python -m pip install --no-deps --target told .
    PYTHONPATH=told python fuzz/run.py
"""

import argparse
import ctypes
import hashlib
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGETS = ("checkpoint_reader", "name_maps")
LONGEST = 4096  # bytes of an input
ROOM = 1 << 30  # bytes that one input may take: beyond, there is a MemoryError, which is a finding
PATIENCE = 30  # seconds for one input, which takes milliseconds, on a machine that may be busy
COMMITTED = 75_000  # bytes of a committed corpus
STATUS = re.compile(r"#(\d+)\s+\w+.*cov: (\d+) ft: (\d+) corp: (\d+)/(\S+)")


def inside(target, arguments):
    """Be the fuzzer."""
    import resource

    import atheris

    sys.path.insert(0, str(HERE))
    with atheris.instrument_imports(include=["varscope"]):
        module = importlib.import_module(target)
    core = ctypes.CDLL(importlib.import_module("varscope._scopecore").__file__)
    waiting = [core.tell_libfuzzer] if hasattr(core, "tell_libfuzzer") else []

    def test_one_input(data):
        if waiting:  # before the first input there is no libFuzzer
            waiting.pop()(ctypes.c_void_p(ctypes.CDLL(libfuzzer_of(atheris))._handle))
        module.test_one_input(data)

    memory = Path("/proc/self/statm").read_text().split()[0]
    limit = int(memory) * resource.getpagesize() + ROOM
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    atheris.Setup([os.environ["FUZZER"], *arguments], test_one_input)
    atheris.Fuzz()


def libfuzzer_of(atheris):
    """The library that holds it."""
    (found,) = Path(atheris.__file__).parent.glob("core_with_libfuzzer*.so")
    return str(found)


def start(target, *arguments):
    """Run the fuzzer in a process of its own, with the files of its inputs in memory."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory(dir=memory) as files:
        program = Path(work, target)  # as which libFuzzer starts itself anew, to minimise a corpus
        command = shlex.join([sys.executable, str(HERE / "run.py"), "--inside", target])
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o700)
        environment = {"TMPDIR": files, "FUZZER": str(program), "PYTHONHASHSEED": "0"}
        return subprocess.run(
            [program, *map(str, arguments)], env={**os.environ, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


def write_words(target, path):
    """A dictionary of what makes up good inputs."""
    words = importlib.import_module(target).WORDS
    escaped = ["".join(f"\\x{byte:02x}" for byte in word.encode("latin-1")) for word in words]
    path.write_text("".join(f'"{word}"\n' for word in escaped))


def write_inputs(folder, contents):
    folder.mkdir(exist_ok=True, parents=True)
    for content in contents:
        (folder / hashlib.sha1(content).hexdigest()).write_bytes(content)


def fuzz(target, seconds, work, keep):
    """Run one target; whether it has found nothing."""
    corpus, findings = HERE / "corpus" / target, HERE / "findings"
    corpus.mkdir(exist_ok=True, parents=True)
    findings.mkdir(exist_ok=True)
    new, seeds, words = work / "new", work / "seeds", work / "words"
    new.mkdir()
    write_inputs(seeds, importlib.import_module(target).seeds())
    write_words(target, words)
    settings = [
        f"-max_len={LONGEST}", f"-dict={words}", f"-timeout={PATIENCE}", "-rss_limit_mb=2048",
        f"-artifact_prefix={findings}/{target}-", "-print_final_stats=1", "-use_value_profile=1",
    ]  # fmt: skip
    started = time.monotonic()
    done = start(target, f"-max_total_time={seconds}", *settings, new, corpus, seeds)
    taken, output = time.monotonic() - started, done.stdout.decode("utf-8", "replace")
    found = re.findall(r"Test unit written to (\S+)", output)
    if done.returncode:
        print(output.partition(" === Uncaught")[2][-6000:] or output[-6000:])
        for path in found:
            print(f"to see it again: {sys.executable} fuzz/run.py {target} --input {path}")
        print(f"{target}: ended with status {done.returncode}", flush=True)
    else:
        tried, covered, features, kept, size = STATUS.findall(output)[-1]
        print(
            f"{target}: {int(tried):,} inputs in {taken:.0f} s, {int(tried) / taken:,.0f} a "
            f"second; {covered} branches and {features} features seen, by {kept} inputs of {size}",
            flush=True,
        )
        if keep:
            minimise(target, corpus, [corpus, seeds, new], work)
    return done.returncode == 0


def minimise(target, corpus, sources, work):
    """Make a small corpus of all inputs: what adds most, the shortest first, to a bound."""
    merged = work / "merged"
    merged.mkdir()
    done = start(target, "-merge=1", f"-max_len={LONGEST}", merged, *sources)
    if done.returncode or not any(merged.iterdir()):
        sys.exit(done.stdout.decode("utf-8", "replace")[-3000:])
    paths = sorted(merged.iterdir(), key=lambda path: path.stat().st_size)
    size, chosen = 0, []
    for path in paths:
        size += path.stat().st_size
        if size <= COMMITTED:
            chosen.append(path.read_bytes())
    shutil.rmtree(corpus)
    write_inputs(corpus, chosen)
    print(f"{corpus}: {len(chosen)} of {len(paths)} inputs, {sum(map(len, chosen)):,} bytes")


def main():
    if sys.argv[1:2] == ["--inside"]:
        return inside(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help=f"some of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("--input", type=Path, help="a file to be tried once")
    parser.add_argument("--keep", action="store_true", help="put what is new into the corpus")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    targets = options.targets or TARGETS
    for target in targets:
        if target not in TARGETS:
            parser.error(f"there is no target {target!r}")
    if options.input is not None:
        for target in targets:
            importlib.import_module(target).test_one_input(options.input.read_bytes())
            print(f"{target}: nothing to be said of {options.input}")
        return None
    good = True
    for target in targets:
        with tempfile.TemporaryDirectory() as work:
            good &= fuzz(target, options.seconds, Path(work), options.keep)
    return None if good else 1


if __name__ == "__main__":
    sys.exit(main())
