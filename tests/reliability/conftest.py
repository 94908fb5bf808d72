"""What varscope promises, which tests hold each promise, and how much they have tried.

    @pytest.mark.promise("memory")              this test holds that promise
    @pytest.mark.fails_without(file, old, new)  it fails where `old` in the sources reads `new`
    def test_...(tally):
        tally("failed allocations", 12)         what it has done, for the summary

`python -m pytest tests/reliability --figures` prints the summary.  `tools/protections.py` takes
each protection away and sees its tests fail.
"""

import collections
import contextlib
import sys
import time

import pytest
from promises import PROMISES

figures = {promise: collections.Counter() for promise in PROMISES}
seconds = collections.Counter()


def promises_of(item):
    found = [mark.args[0] for mark in item.iter_markers("promise")]
    unknown = [promise for promise in found if promise not in PROMISES]
    if unknown:
        raise pytest.UsageError(f"{item.nodeid}: no promise {unknown}; there are {PROMISES}")
    return found


def pytest_collection_modifyitems(items):
    for item in items:
        promises_of(item)


@pytest.fixture
def tally(request):
    """`tally(what, number=1)` counts what a test has tried, for the summary."""

    def count(what, number=1):
        for promise in promises_of(request.node):
            figures[promise][what] += number

    return count


@pytest.fixture
def hasty_switching():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def saver(tmp_path_factory):
    """A process whose saves strace kills, or has fail."""
    from saves import Saver

    with contextlib.closing(Saver(tmp_path_factory.mktemp("saver"))) as found:
        yield found


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    started = time.perf_counter()
    try:
        return (yield)
    finally:
        for promise in promises_of(item):
            figures[promise]["tests"] += 1
            seconds[promise] += time.perf_counter() - started


def pytest_terminal_summary(terminalreporter, config):
    if not config.getoption("figures", False):
        return
    terminalreporter.section("what was tried")
    for promise, counts in figures.items():
        tests = counts.pop("tests", 0)
        rest = "".join(f", {number:,} {what}" for what, number in sorted(counts.items()))
        terminalreporter.line(f"{promise:16} {tests:5,} tests in {seconds[promise]:6.1f} s{rest}")
