"""A hundred thousand scopes in each other, where there is hardly any C stack."""

import pytest
from children import python
from requires import on_posix

pytestmark = [pytest.mark.promise("depth"), on_posix]

DEPTH = 100_000
SLOW = [pytest.param(place, marks=pytest.mark.slow) for place in ("main", "limited")]

# Runs a function in the main thread, or in one that has hardly any stack.
RUNNING = """
import contextvars, copy, pickle, resource, sys, threading
import varscope as vs

place, kind, depth = sys.argv[1], sys.argv[2], int(sys.argv[3])

def run(function):
    if place == "main":
        return function()
    if place == "limited":
        assert resource.getrlimit(resource.RLIMIT_STACK)[0] == 256 << 10
        return function()
    threading.stack_size(128 << 10)
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    assert results == [None]
"""

USING = """
def opening():
    return {
        "plain": lambda: vs.variable_scope("a"),
        "default": lambda: vs.variable_scope(None, "a"),
        "name scopes": lambda: vs.name_scope("a"),
    }[kind]()

def use():
    graph = vs.Graph(seed=1)
    with graph.as_default():
        managers = [opening() for _ in range(depth)]
        for manager in managers:
            manager.__enter__()
        scope, path = vs.get_variable_scope(), "/".join("a" * depth)
        bare = kind == "name scopes"
        assert graph.get_name_scope() == path
        assert scope.name == ("" if bare else path)
        assert repr(scope.name) in repr(scope)
        variable = vs.get_variable("v", [2])
        assert variable.op_name == ("v" if bare else path + "/v")
        assert repr(variable.name) in repr(variable)
        values = variable.numpy()
        scope.reuse_variables()  # which builds the frames anew
        assert vs.get_variable("v") is variable
        try:
            vs.get_variable("missing", [2])
        except ValueError as error:
            assert "does not exist" in str(error)
        twins = [pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)]
        scopes = [pickle.loads(pickle.dumps(scope)), copy.copy(scope)]
        for manager in reversed(managers):
            manager.__exit__(None, None, None)
        assert (vs.get_variable_scope().name, graph.get_name_scope()) == ("", "")
    for twin in twins:
        assert (twin[variable.op_name].value() == values).all()
        assert repr(twin.variables[0]) == repr(variable)
        with twin.as_default():
            for captured in [scope, *scopes]:
                with vs.variable_scope(captured) as again:
                    assert again.name == scope.name
                    assert vs.get_variable("v").numpy().tolist() == values.tolist()
        assert twin.unique_name("a/a") == "a/a_1"
    assert pickle.loads(pickle.dumps(scope)).original_name_scope == scope.original_name_scope

run(use)
print("used")
"""

DROPPING = """
def nest():
    with vs.variable_scope("a") as captured:
        pass
    graph = vs.Graph()
    for _ in range(depth):
        {
            "plain": lambda: vs.variable_scope("a"),
            "same": lambda: vs.variable_scope(""),
            "slashed": lambda: vs.variable_scope("a/b"),
            "captured": lambda: vs.variable_scope(captured),
            "default": lambda: vs.variable_scope(None, "a"),
            "getter": lambda: vs.variable_scope("a", custom_getter=lambda g, *a, **k: g(*a, **k)),
            "name scope": lambda: vs.name_scope("a"),
            "graph": graph.as_default,
        }[kind]().__enter__()

def drop():
    contextvars.copy_context().run(nest)
    assert vs.get_variable_scope().name == ""

run(drop)
run(nest)  # what a thread has open goes with it
print("dropped")
"""


def run(code, place, kind, depth):
    options = {}
    if place == "limited":
        resource = pytest.importorskip("resource")
        limit = 256 << 10
        options["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_STACK, (limit, -1))
    return python(RUNNING + code, place, kind, depth, timeout=120, **options)


# Where opening takes as long as the nesting is deep, it is less deep: a name scope gives its path.


@pytest.mark.parametrize("place", ["thread", *SLOW])
@pytest.mark.parametrize(
    ("kind", "depth"),
    [
        ("plain", DEPTH),
        ("name scopes", 2_000),
        pytest.param("default", DEPTH, marks=pytest.mark.slow),
    ],
)
def test_deep_nesting_is_entered_shown_pickled_and_left(kind, depth, place, tally):
    done = run(USING, place, kind, depth)
    assert (done.returncode, done.stdout) == (0, "used\n"), done.stderr
    tally("scopes", depth)


@pytest.mark.fails_without(
    "src/core/stack.pxi",
    "while frame is not None and is_sole(<PyObject *>frame):",
    "while False:",
)
def test_deep_scopes_are_dropped_where_there_is_hardly_any_stack(tally):
    done = run(DROPPING, "thread", "plain", DEPTH)
    assert (done.returncode, done.stdout) == (0, "dropped\n"), done.stderr
    tally("scopes", 2 * DEPTH)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["main", "limited", "thread"])
@pytest.mark.parametrize(
    ("kind", "depth"),
    [("plain", DEPTH), ("same", 20_000), ("slashed", 5_000), ("captured", 5_000),
     ("default", DEPTH), ("getter", 5_000), ("name scope", 5_000), ("graph", DEPTH)],
)  # fmt: skip
def test_deep_nesting_is_dropped_without_deep_recursion(kind, depth, place, tally):
    done = run(DROPPING, place, kind, depth)
    assert (done.returncode, done.stdout) == (0, "dropped\n"), done.stderr
    tally("scopes", 2 * depth)
