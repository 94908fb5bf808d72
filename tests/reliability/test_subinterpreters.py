"""An interpreter beside the main one: a clean ImportError, and the main one works on."""

import textwrap

import pytest
from children import python

pytestmark = pytest.mark.promise("subinterpreters")

# `elsewhere(code)` runs code in a new interpreter, as far from the main one as this version of
# CPython can make it.
START = """
import sys

def elsewhere(code):
    if sys.version_info >= (3, 13):
        import _interpreters as interpreters
        other = interpreters.create("isolated")
        failed = interpreters.exec(other, code)
        assert failed is None, failed
    else:
        import _xxsubinterpreters as interpreters
        other = interpreters.create(isolated=True)
        interpreters.run_string(other, code)
    interpreters.destroy(other)

IMPORT = f'''
import sys
sys.path[:] = {sys.path!r}
try:
    import {{0}}
except ImportError as error:
    print("refused:", error)
else:
    print("imported")
try:
    import {{0}}
except ImportError as error:
    print("again:", error)
print("NumPy" if "numpy" in sys.modules else "not loaded", flush=True)
'''

def check(vs, seed=1):
    graph = vs.Graph(seed=seed)
    with graph.as_default(), vs.variable_scope("a"):
        v = vs.get_variable("v", [2])
        vs.initialize(progress=False)
        return v.name, v.value().tolist()
"""


def run(program):
    done = python(START + textwrap.dedent(program))
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.splitlines()


def refused_twice(found):
    """An interpreter was told so each time, before it had loaded NumPy."""
    words = "varscope cannot be used in a subinterpreter"
    first, second, last = found
    assert first.startswith(f"refused: {words}") and second.startswith(f"again: {words}"), found
    assert last == "not loaded"


@pytest.mark.fails_without("src/varscope/interpreters.py", "if not in_main:", "if False:")
def test_beside_a_main_interpreter_that_uses_it(tally):
    *found, last = run("""
        import varscope as vs
        before, kept = check(vs), vs.get_variable("kept", [1])
        for module in ["varscope", "varscope.graph"]:
            elsewhere(IMPORT.format(module))
            assert check(vs) == before and kept.graph["kept"] is kept
        print("fine")
    """)
    assert last == "fine"
    refused_twice(found[:3])
    refused_twice(found[3:])
    tally("interpreters", 2)


@pytest.mark.fails_without("src/varscope/interpreters.py", "if not in_main:", "if False:")
def test_before_the_main_interpreter_imports_it(tally):
    """Whoever comes first, it is the main interpreter that can use it."""
    *found, last = run("""
        for _ in range(3):
            elsewhere(IMPORT.format("varscope"))
        import varscope as vs
        print(check(vs)[0])
    """)
    assert last == "a/v:0"
    for first in range(0, 9, 3):
        refused_twice(found[first : first + 3])
    tally("interpreters", 3)


def test_what_a_main_interpreter_has_open_stays_open(tally):
    """Also while its other threads create."""
    *found, last = run("""
        import threading
        import varscope as vs
        graph, stop = vs.Graph(seed=1), threading.Event()

        def create(number):
            with graph.as_default(), vs.variable_scope(f"t{number}"):
                for i in range(100_000):
                    if stop.is_set():
                        break
                    assert vs.get_variable(f"v{i}", [1]).path == f"t{number}/v{i}"

        threads = [threading.Thread(target=create, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        with graph.as_default(), vs.variable_scope("outer"):
            elsewhere(IMPORT.format("varscope"))
            name = vs.get_variable("v", [1]).name
        stop.set()
        for thread in threads:
            thread.join()
        assert len(set(graph)) == len(graph) and vs.get_variable_scope().name == ""
        print(name)
    """)
    assert last == "outer/v:0"
    refused_twice(found)
    tally("interpreters")
