"""The statements of the registry beside those of plain Python, for pytest-benchmark.

    python -m pytest bench                           16 thousand names, seconds
    python -m pytest bench -m "slow or not slow"     ten million too, some minutes

A group holds a statement and its twin: the numbers in brackets are the ratio of the two.  What
they do stands in `cases.py`.  The names of the tests are for life, because charts follow them.
"""

import functools

import cases
import pytest

# Names, scopes, rounds.
SMALL = ("16 thousand", 1_000, 15)
LARGE = ("1.6 million", 100_000, 5)
HUGE = ("10 million", 625_000, 2)

# A case returns the seconds of its inner loops, without those in which it opens scopes.  So the
# clock of pytest-benchmark is one that goes on by what the cases return.
elapsed = 0.0


def inner_loops():
    return elapsed


def add_to_clock(run, data):
    global elapsed
    elapsed += run(data)


@functools.lru_cache(maxsize=1)  # the largest takes 2 GB
def data_of(scopes):
    return cases.Data(scopes)


def parameters():
    """Case, scopes, rounds and group."""
    for case in cases.AT_ONE_SIZE:
        # A late sibling beside the first ones too: that is a ratio of its own.
        group = case.name.removesuffix(", late")
        yield pytest.param(case, 1_000, 5, group, id=case.name)
    for chosen, (names, scopes, rounds), marks in [
        (cases.AT_SIZES, SMALL, []),
        (cases.AT_SIZES, LARGE, [pytest.mark.slow]),
        ([cases.FOUND, cases.CREATED], HUGE, [pytest.mark.slow]),
    ]:
        for case in chosen:
            group = f"{case.name}, {names}"
            yield pytest.param(case, scopes, rounds, group, marks=marks, id=group)


@pytest.mark.benchmark(timer=inner_loops)
@pytest.mark.parametrize("which", ["varscope", "python"])
@pytest.mark.parametrize(("case", "scopes", "rounds", "group"), [*parameters()])
def test_statement(benchmark, case, scopes, rounds, group, which):
    data = data_of(scopes)
    benchmark.group = f"{group}: {case.statement} beside {case.beside}"
    benchmark.extra_info["statements"] = case.statements(data)
    run = case.run if which == "varscope" else case.run_beside
    before = elapsed
    benchmark.pedantic(add_to_clock, (run, data), rounds=rounds, warmup_rounds=1, iterations=1)
    assert elapsed > before
