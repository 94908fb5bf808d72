"""Where there is no memory: a MemoryError, everything as it was, and no crash.

Each program of `memory_programs` is run with an allocation that fails, for one allocation after
the other, and with all from there on, each time in a process of its own.
"""

import linecache
import re
import signal
import sys

import pytest
import requires
from zygote import Zygote

pytest.importorskip("_testcapi", reason="needs a Python that can make allocations fail")
programs = pytest.importorskip("memory_programs", exc_type=ImportError)

pytestmark = [
    pytest.mark.promise("memory"),
    requires.on_posix,
    pytest.mark.skipif(
        sys.version_info >= (3, 12),
        reason="CPython 3.12 and 3.13 crash where there is no memory for a nested function",
    ),
]


@pytest.fixture(scope="module")
def zygote():
    with Zygote("memory_programs") as found:
        yield found


def attempt(zygote, tally, name, first, last, copied=False):
    """Whether an allocation has failed, which has to be without consequences."""
    answer, status, said = zygote.ask("attempt", name, first, last, copied)
    if status == -signal.SIGSEGV and is_pythons_own(said):
        tally("crashes of Python's own")
        return True
    assert status == 0, (first, status, said[-3000:])
    kind, wrong = answer
    assert not wrong, (first, "\n".join(wrong))
    if kind is not None:
        tally("failed allocations")
    return kind is not None


def is_pythons_own(said):
    """CPython crashes where there is no memory for the pairs that a loop over a dict gives.

    Its iterator is let go of before the garbage collector knows it, and taken from it nonetheless:
    see `dictiter_new` in Objects/dictobject.c.
    """
    file, line = re.search(r'File "(.+)", line (\d+)', said).groups()
    return ".items()" in linecache.getline(file, int(line))


@pytest.mark.parametrize("name", programs.PROGRAMS)
@pytest.mark.fails_without(
    "src/varscope/variables.py", "            _running.names = running\n", "            pass\n"
)
def test_an_allocation_that_fails(zygote, tally, name):
    """Some of them."""
    for n in (0, 1, 2, 3, 4, 5, 8, 13, 36, 97, 98):
        attempt(zygote, tally, name, n, n + 1)


@pytest.mark.slow
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_every_allocation_that_fails(zygote, tally, name, copied):
    n = unhindered = 0
    while unhindered < 20:  # Python and the library do without some
        failed = attempt(zygote, tally, name, n, n + 1, copied)
        n, unhindered = n + 1, 0 if failed else unhindered + 1
    assert n > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(programs.PROGRAMS) - programs.LEAVING))
def test_no_memory_from_any_allocation_on(zygote, tally, name):
    n = 0
    while attempt(zygote, tally, name, n, 0):
        n += 1
    assert n
