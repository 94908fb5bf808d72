"""The statements of the registry beside those of plain Python, for pytest-benchmark.

    python -m pytest bench                     all, a minute or two
    python -m pytest bench -m "not slow"       16 thousand names only, seconds

A group holds a statement and its twin: the numbers in brackets are the ratio of the two.  What
they do stands in ratios.py, which prints the same as one table, and memory too.
"""

import functools

import pytest
import ratios

SIZES = {"16 thousand": 1_000, "1.6 million": 100_000}
ROUNDS = {"16 thousand": 15, "1.6 million": 5}
CASES = [
    *((case, "16 thousand") for case in [*ratios.CASES, ratios.FIRST_SIBLINGS]),
    *((case, "1.6 million") for case in [*ratios.CASES, ratios.LAST_SIBLINGS]),
]

# A case returns the seconds of its inner loops, without those in which it opens scopes.  So the
# clock of pytest-benchmark is one that goes on by what the cases return.
elapsed = 0.0


def inner_loops():
    return elapsed


def add_to_clock(run, data):
    global elapsed
    elapsed += run(data)


@functools.cache
def data_of(size):
    return ratios.Data(SIZES[size])


def marks(size):
    return [pytest.mark.slow] if size == "1.6 million" else []


@pytest.mark.benchmark(timer=inner_loops)
@pytest.mark.parametrize("which", ["varscope", "python"])
@pytest.mark.parametrize(
    ("case", "size"),
    [
        pytest.param(case, size, marks=marks(size), id=f"{case.group}, {size}")
        for case, size in CASES
    ],
)
def test_statement(benchmark, case, size, which):
    ours = which == "varscope"
    data = data_of(size)
    benchmark.group = f"{case.group}, {size}: {case.statement} beside {case.beside}"
    benchmark.extra_info["statements"] = case.statements(data)
    run = case.run if ours else case.run_beside
    before = elapsed
    benchmark.pedantic(
        add_to_clock, (run, data), rounds=ROUNDS[size], warmup_rounds=1, iterations=1
    )
    assert elapsed > before
