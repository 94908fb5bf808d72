"""Instructions that the registry's calls take, compared with the committed ones.

    python bench/instructions.py             a table; fails where a call takes 5 % more
    python bench/instructions.py --update    writes what is counted now to instructions.json

Times are noise where other programs run; instructions are not.  `valgrind --tool=callgrind` counts
them, with a fixed hash seed.  It starts this file again as its worker, which runs the statements
between marks.  Each statement is run for few and for many calls, and only the difference counts, so
that nothing is left of starting up.

A build is compared with its own line in instructions.json.  docs/benchmarks.md says what the two
numbers of a row are, what they depend on, and when a new baseline may be written.
"""

import argparse
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import varscope as vs
from varscope import _scopecore

BASELINE = Path(__file__).with_suffix(".json")
LIMIT = 1.05  # beside the baseline of the same build
STRANGER_LIMIT = 1.30  # beside that of another one: compilers and versions of Python differ
GROWTH_LIMIT = 2.2  # for twice as many names
FEW, MANY = 16_000, 32_000  # calls
SIZES = [125_000, 250_000, 500_000, 1_000_000]  # names
SETTINGS = {  # so that each run of the worker does the same
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
    # Whether growing a large table copies it would hang on what lies behind it by chance.
    "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072",
}

# --- the statements -----------------------------------------------------------------------------


def found(graph, scopes, names):
    get_variable, variable_scope = vs.get_variable, vs.variable_scope
    with graph.as_default():
        for scope in scopes:
            with variable_scope(scope, reuse=True):
                for name in names:
                    get_variable(name)


def found_with_shape(graph, scopes, names):
    get_variable, variable_scope = vs.get_variable, vs.variable_scope
    with graph.as_default():
        for scope in scopes:
            with variable_scope(scope, reuse=True):
                for name in names:
                    get_variable(name, [4, 4])


def created(graph, scopes, names):
    get_variable, variable_scope = vs.get_variable, vs.variable_scope
    with graph.as_default():
        for scope in scopes:
            with variable_scope(scope):
                for name in names:
                    get_variable(name, [4, 4])


def opened(graph, scopes, names):
    variable_scope = vs.variable_scope
    with graph.as_default():
        for scope in scopes:
            with variable_scope(scope):
                pass


def name_scope_opened(graph, scopes, names):
    name_scope = vs.name_scope
    with graph.as_default():
        for scope in scopes:
            with name_scope(scope):
                pass


def default_named(graph, scopes, names):
    variable_scope = vs.variable_scope
    with graph.as_default():
        for _ in scopes:
            with variable_scope(None, "layer"):
                pass


@dataclass(frozen=True)
class Case:
    statement: str
    loop: Callable
    by: str  # "names" or "scopes": one call for each
    fresh: bool = False  # it starts with an empty graph, not with one that has all names

    def inputs(self, calls, few):
        """Scopes and the names in each, for so many calls."""
        if self.by == "scopes":
            return scopes_between(0, calls), names_in_scope(1)
        # As many scopes for few calls as for many, so that opening them is in no difference.
        # Eight names in each, and sixteen: more than that are kept in another way.
        scopes = few // 8
        return scopes_between(0, scopes), names_in_scope(calls // scopes)


CASES = {
    "found": Case("get_variable(name)", found, "names"),
    "found, shape": Case("get_variable(name, [4, 4])", found_with_shape, "names"),
    "created": Case("get_variable(name, [4, 4])", created, "names", fresh=True),
    "opened": Case("with variable_scope(name)", opened, "scopes"),
    "name scope": Case("with name_scope(name)", name_scope_opened, "scopes"),
    "default name": Case(
        'with variable_scope(None, "layer")', default_named, "scopes", fresh=True
    ),
}  # fmt: skip


def scopes_between(first, last):
    return [f"scope_{i}" for i in range(first, last)]


def names_in_scope(count):
    return [f"w{i}" for i in range(count)]


# --- the worker, under callgrind ----------------------------------------------------------------


def counted(function, *arguments):
    """Call it between two marks: callgrind begins a new part where it meets the C function."""
    os.getppid()
    function(*arguments)
    os.getppid()


def work_on_calls(few, many):
    """For each case three sections: to warm up, few calls, many."""
    for case in CASES.values():
        for calls in (few, few, many):
            scopes, names = case.inputs(calls, few)
            graph = vs.Graph()
            if not case.fresh:
                created(graph, scopes, names)
            counted(case.loop, graph, scopes, names)


def work_on_names(*sizes):
    """One graph grows; at each size a section for each case but siblings."""
    graph, names, before = vs.Graph(), names_in_scope(16), 0
    for size in sizes:
        scopes = scopes_between(0, size // 16)
        counted(created, graph, scopes[before:], names)
        for loop in (found, found_with_shape, opened, name_scope_opened):
            counted(loop, graph, scopes, names)
        before = len(scopes)


def work_on_siblings(*sizes):
    """One graph grows; a section from each size to the next."""
    graph = vs.Graph()
    for before, size in pairwise((0, *sizes)):
        counted(default_named, graph, range(before, size), ())


WORK = {"calls": work_on_calls, "names": work_on_names, "siblings": work_on_siblings}


def work(task, numbers):
    gc.collect()
    gc.disable()  # what it looks at is mostly NumPy's, and when it starts is by chance
    WORK[task](*numbers)


# --- counting -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """Instructions in the core itself, and all with those of the interpreter and C library."""

    core: float
    all: float


def count_calls(few, many):
    """A case's name to the Count of one call."""
    sections = under_callgrind("calls", [few, many], 3 * len(CASES))
    counts, calls = {}, many - few
    for case, less, more in zip(CASES, sections[1::3], sections[2::3], strict=True):
        core, everything = more.core - less.core, more.all - less.all
        counts[case] = Count(round(core / calls, 1), round(everything / calls, 1))
    return counts


def count_growth(sizes):
    """A case's name to all its instructions at each size."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        names = pool.submit(under_callgrind, "names", sizes, 5 * len(sizes))
        siblings = pool.submit(under_callgrind, "siblings", sizes, len(sizes))
    totals = [section.all for section in names.result()]
    # Creating and siblings go on where the size before ended; the others begin anew.
    return {
        "found": totals[1::5],
        "found, shape": totals[2::5],
        "created": list(accumulate(totals[0::5])),
        "opened": totals[3::5],
        "name scope": totals[4::5],
        "default name": list(accumulate(section.all for section in siblings.result())),
    }


def under_callgrind(task, numbers, expected):
    """The Counts of the sections that the worker runs."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise SystemExit(
            "instructions are counted by valgrind, which is not there; on Debian and Ubuntu: "
            "apt-get install valgrind"
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "part")
        command = [
            valgrind, "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}",
            "--dump-before=getppid", sys.executable, __file__, "--work", task, *map(str, numbers),
        ]  # fmt: skip
        result = subprocess.run(
            command, env={**os.environ, **SETTINGS}, capture_output=True, text=True, check=False
        )
        if result.returncode:
            raise SystemExit(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
        # Part 1 is what was before the first mark; then sections and what is between them.
        texts = [path.read_text() for path in sorted(out.parent.glob("part.*"), key=number)]
    if len(texts) != 2 * expected:
        raise SystemExit(
            f"callgrind wrote {len(texts)} parts, {2 * expected} were expected: is os.getppid() "
            "of this Python a call of the C function getppid()?"
        )
    return [read_part(text) for text in texts[1::2]]


def number(path):
    return int(path.suffix[1:])


def read_part(text):
    """The Count of one part of callgrind's output.

    Lines say in which object file the costs below them arose; a name stands there once, with a
    number in front, and later the number alone.  A line of cost is a position and instructions.
    The one below `calls=` is what the called function took, which stands elsewhere as its own.
    """
    files, current, core, everything, of_callee = {}, "", 0, 0, False
    for line in text.splitlines():
        if line.startswith("ob="):
            key, _, name = line[3:].partition(" ")
            current = files.setdefault(key, name or key)
        elif line.startswith("cob="):
            key, _, name = line[4:].partition(" ")
            files.setdefault(key, name or key)
        elif line.startswith("calls="):
            of_callee = True
        elif re.match(r"[0-9+*-]", line):
            cost = int(line.split()[1])
            if not of_callee:
                everything += cost
                core += cost if "_scopecore" in Path(current).name else 0
            of_callee = False
    total = re.search(r"^totals: (\d+)$", text, re.MULTILINE)
    if total is None or int(total[1]) != everything or not core:
        raise SystemExit(
            f"callgrind's output is not as expected: {core} instructions in _scopecore and "
            f"{everything} in all, and its own line says {total and total[0]}"
        )
    return Count(core, everything)


# --- the baseline -------------------------------------------------------------------------------


def this_build():
    """What the counts depend on besides our code: `CPython 3.11, x86_64, gcc 12`."""
    facts = [
        f"{platform.python_implementation()} {'.'.join(platform.python_version_tuple()[:2])}",
        platform.machine(),
        compiled_by(Path(_scopecore.__file__).read_bytes()),
    ]
    if "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""):
        facts.append("optimised interpreter")
    return ", ".join(facts)


def compiled_by(module):
    """The compilers that left their names in an object file, and one thing that they may add."""
    found = {b"gcc " + version for version in re.findall(rb"GCC: \([^)]*\) (\d+)", module)}
    found |= {b"clang " + version for version in re.findall(rb"clang version (\d+)", module)}
    words = " and ".join(sorted(name.decode() for name in found)) or "compiler unknown"
    return words + (", stack protector" if b"__stack_chk_fail" in module else "")


def nearest(builds, build):
    """Of the builds on the same architecture the one with fewest differences, or None."""
    facts = set(build.split(", "))
    here = [other for other in builds if other.split(", ")[1] == build.split(", ")[1]]
    return min(here, key=lambda other: len(facts ^ set(other.split(", "))), default=None)


def read_baseline(path):
    """Builds to cases to Counts."""
    if not path.exists():
        return {}
    builds = json.loads(path.read_text(encoding="utf-8"))
    return {
        build: {case: Count(**count) for case, count in cases.items()}
        for build, cases in builds.items()
    }


def write_baseline(path, build, counts):
    """Renew this build's lines; those of others stay."""
    builds = {**read_baseline(path), build: counts}
    texts = []
    for name in sorted(builds):
        lines = [
            f"    {json.dumps(case)}: {json.dumps(vars(count))}"
            for case, count in builds[name].items()
        ]
        texts.append(f"  {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n  }")
    path.write_text("{\n" + ",\n".join(texts) + "\n}\n", encoding="utf-8")


def compare(counts, baseline, limit):
    """What is wrong, a line for each number that is too high and each case that is not there."""
    wrong = []
    for case, count in counts.items():
        was = baseline.get(case)
        if was is None:
            wrong.append(f"{case}: not in the baseline; write one with --update")
            continue
        for place, words in (("core", "in the core"), ("all", "in all")):
            now, before = getattr(count, place), getattr(was, place)
            if now > before * limit:
                wrong.append(
                    f"{case}: {now:,.1f} instructions a call {words}, the baseline has "
                    f"{before:,.1f}: {change(now, before)}, at most {limit - 1:+.0%}"
                )
    wrong += [
        f"{case}: in the baseline, and not counted; write a new one with --update"
        for case in baseline
        if case not in counts
    ]
    return wrong


def compare_growth(sizes, totals):
    """The same for cases that take too much for twice the names."""
    return [
        f"{case}: {ratio:.3f} times as many instructions for {large:,} as for {small:,}, "
        f"at most {GROWTH_LIMIT}"
        for case, counts in totals.items()
        for (small, large), ratio in zip(pairwise(sizes), ratios(counts), strict=True)
        if ratio > GROWTH_LIMIT
    ]


def change(now, before):
    return f"{now / before - 1:+.1%}"


def ratios(counts):
    return [after / before for before, after in pairwise(counts)]


# --- the tables ---------------------------------------------------------------------------------


def print_calls(counts, baseline):
    rows = [("", "statement", "core", "was", "change", "all", "was", "change")]
    for case, count in counts.items():
        row = [case, CASES[case].statement]
        for place in ("core", "all"):
            now, before = getattr(count, place), getattr(baseline.get(case), place, None)
            row.append(f"{now:,.1f}")
            row += ["-", "-"] if before is None else [f"{before:,.1f}", change(now, before)]
        rows.append(row)
    print_columns(rows, texts=2)


def print_growth(sizes, totals):
    rows = [("", *(f"{size:,}" for size in sizes[1:]))]
    rows += [(case, *(f"{ratio:.3f}" for ratio in ratios(totals[case]))) for case in totals]
    print_columns(rows, texts=1)


def print_columns(rows, texts):
    """So many columns of text to the left, then numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if i < texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def check(path):
    """Print both tables; returns what is wrong."""
    build, builds = this_build(), read_baseline(path)
    counts, beside = count_calls(FEW, MANY), nearest(builds, build)
    baseline = builds.get(beside, {})
    limit = LIMIT if beside == build else STRANGER_LIMIT
    print(f"instructions a call, {build}")
    if beside is None:
        wrong = [f"{path.name} has no baseline for {build}: write one with --update"]
    else:
        wrong = compare(counts, baseline, limit)
        print(f"beside the baseline of {beside}, of which at most {limit - 1:+.0%} is allowed")
    print_calls(counts, baseline)
    totals = count_growth(SIZES)
    print("\ninstructions for so many names, over those for half as many")
    print_growth(SIZES, totals)
    return wrong + compare_growth(SIZES, totals)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Instructions a call, beside a baseline.")
    parser.add_argument("--update", action="store_true", help="write a new baseline")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)  # how this file starts itself
    options = parser.parse_args(arguments)
    if options.work:
        work(options.work[0], map(int, options.work[1:]))
        return 0
    if options.update:
        counts = count_calls(FEW, MANY)
        print_calls(counts, read_baseline(BASELINE).get(this_build(), {}))
        write_baseline(BASELINE, this_build(), counts)
        print(f"{BASELINE}: written for {this_build()}")
        return 0
    wrong = check(BASELINE)
    print("\n" + "\n".join(wrong or ["nothing takes more than it may"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
