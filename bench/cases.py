"""The statements that are timed: what a user writes, and beside it the least plain Python for it.

A case has its name for life: charts follow it from version to version.  So cases are added, but
what one of them times is not changed.  `ratios.py` prints them as tables, `test_registry.py` times
them under pytest-benchmark.

Each function returns the seconds of its inner loops: the loop and the one statement in it.  What
stands around them, such as opening the scope in which names are found, is not timed.
"""

import fnmatch
import importlib.util
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter as clock

# NumPy's BLAS threads wait by spinning, on the cores that are being measured.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import varscope as vs

NAMES = [f"w{i}" for i in range(16)]  # in each scope
LEVELS = [f"level_{i}" for i in range(64)]  # of the deep nesting
SIBLINGS = 1_000  # default-named scopes that are timed
MOE = Path(__file__).resolve().parent.parent / "examples" / "moe.py"


class Data:
    """What the statements work on; tests make it small.

    16 names in each of so many scopes, in a graph and as full paths in a dict; and how many
    default-named scopes there are in one parent, how often the deep nesting is entered, and the
    size of the mixture of experts.
    """

    def __init__(self, scopes=1_000, siblings=1_000_000, descents=1_000, layers=92, experts=896):
        self.scopes = [f"scope_{i}" for i in range(scopes)]
        self.siblings = siblings
        self.descents = descents
        self.layers, self.experts = layers, experts

    @cached_property
    def graph(self):
        return filled_graph(len(self.scopes))

    @cached_property
    def paths(self):
        return filled_dict(len(self.scopes))

    def new_graph(self):
        return vs.Graph()

    def new_dict(self):
        return {}


def filled_graph(scopes):
    graph = vs.Graph()
    with graph.as_default():
        for i in range(scopes):
            with vs.variable_scope(f"scope_{i}"):
                for name in NAMES:
                    vs.get_variable(name, [4, 4])
    return graph


def filled_dict(scopes):
    paths = {}
    for i in range(scopes):
        prefix = f"scope_{i}/"
        for name in NAMES:
            paths[prefix + name] = None
    return paths


# --- found --------------------------------------------------------------------------------------


def found(data):
    get_variable, names, seconds = vs.get_variable, NAMES, 0.0
    with data.graph.as_default():
        for scope in data.scopes:
            with vs.variable_scope(scope, reuse=True):
                start = clock()
                for name in names:
                    get_variable(name)
                seconds += clock() - start
    return seconds


def found_held(data):
    """The same while the program holds all variables in a list of its own."""
    held = list(data.graph.variables)
    seconds = found(data)
    del held
    return seconds


def found_with_shape(data):
    get_variable, names, seconds = vs.get_variable, NAMES, 0.0
    with data.graph.as_default():
        for scope in data.scopes:
            with vs.variable_scope(scope, reuse=True):
                start = clock()
                for name in names:
                    get_variable(name, [4, 4])
                seconds += clock() - start
    return seconds


def found_in_dict(data):
    d, names, seconds = data.paths, NAMES, 0.0
    for scope in data.scopes:
        prefix = scope + "/"
        start = clock()
        for name in names:
            d[prefix + name]
        seconds += clock() - start
    return seconds


def found_or_created(data):
    """Where what is missing would be created; all is there."""
    get_variable, names, seconds = vs.get_variable, NAMES, 0.0
    with data.graph.as_default():
        for scope in data.scopes:
            with vs.variable_scope(scope, reuse=vs.AUTO_REUSE):
                start = clock()
                for name in names:
                    get_variable(name, [4, 4])
                seconds += clock() - start
    return seconds


def set_by_default(data):
    d, names, seconds = data.paths, NAMES, 0.0
    for scope in data.scopes:
        prefix = scope + "/"
        start = clock()
        for name in names:
            d.setdefault(prefix + name)
        seconds += clock() - start
    return seconds


# --- created ------------------------------------------------------------------------------------


def created(data):
    get_variable, names, seconds = vs.get_variable, NAMES, 0.0
    with data.new_graph().as_default():
        for scope in data.scopes:
            with vs.variable_scope(scope):
                start = clock()
                for name in names:
                    get_variable(name, [4, 4])
                seconds += clock() - start
    return seconds


def created_in_dict(data):
    d, names, seconds = data.new_dict(), NAMES, 0.0
    for scope in data.scopes:
        prefix = scope + "/"
        start = clock()
        for name in names:
            d[prefix + name] = None
        seconds += clock() - start
    return seconds


# --- names --------------------------------------------------------------------------------------


def full_name(data):
    """The text is put together each time that it is read."""
    seconds, width = 0.0, len(NAMES)
    held = list(data.graph.variables)
    for first in range(0, len(held), width):
        variables = held[first : first + width]
        start = clock()
        for v in variables:
            text = v.op_name  # noqa: F841
        seconds += clock() - start
    return seconds


def joined_name(data):
    names, seconds = NAMES, 0.0
    for scope in data.scopes:
        prefix = scope + "/"
        start = clock()
        for name in names:
            text = prefix + name  # noqa: F841
        seconds += clock() - start
    return seconds


def searched(data):
    graph = data.graph
    start = clock()
    graph.find("**/w1")
    return clock() - start


def searched_in_dict(data):
    d = data.paths
    start = clock()
    fnmatch.filter(d, "*/w1")
    return clock() - start


def scope_patterns(data):
    """One for each of eight scopes, from all over the graph."""
    step = max(1, len(data.scopes) // 8)
    return [f"{scope}/w?" for scope in data.scopes[::step][:8]]


def scopes_searched(data):
    graph, patterns = data.graph, scope_patterns(data)
    start = clock()
    for pattern in patterns:
        graph.find(pattern)
    return clock() - start


def scopes_searched_in_dict(data):
    d, patterns = data.paths, scope_patterns(data)
    start = clock()
    for pattern in patterns:
        fnmatch.filter(d, pattern)
    return clock() - start


# --- opened -------------------------------------------------------------------------------------


def opened(data):
    variable_scope = vs.variable_scope
    with data.graph.as_default():
        start = clock()
        for name in data.scopes:
            with variable_scope(name):
                pass
        return clock() - start


def opened_by_object(data):
    variable_scope, captured = vs.variable_scope, []
    with data.graph.as_default():
        for name in data.scopes:
            with variable_scope(name) as scope:
                captured.append(scope)
        start = clock()
        for scope in captured:
            with variable_scope(scope):
                pass
        return clock() - start


def opened_with_options(data):
    variable_scope, zeros = vs.variable_scope, vs.zeros
    with data.graph.as_default():
        start = clock()
        for name in data.scopes:
            with variable_scope(name, initializer=zeros, reuse=True):
                pass
        return clock() - start


def name_scope_opened(data):
    name_scope = vs.name_scope
    with data.graph.as_default():
        start = clock()
        for name in data.scopes:
            with name_scope(name):
                pass
        return clock() - start


def locked(data):
    Lock = threading.Lock
    start = clock()
    for name in data.scopes:  # noqa: B007
        with Lock():
            pass
    return clock() - start


def first_siblings(data):
    return siblings_after(0, data.new_graph())


def last_siblings(data):
    return siblings_after(data.siblings - SIBLINGS, data.new_graph())


def siblings_after(others, graph):
    """A thousand default-named scopes in a parent that has so many others already."""
    variable_scope = vs.variable_scope
    with graph.as_default(), variable_scope("model"):
        for _ in range(others):
            with variable_scope(None, "layer"):
                pass
        start = clock()
        for _ in range(SIBLINGS):
            with variable_scope(None, "layer"):
                pass
        return clock() - start


def first_counted(data):
    return counted_after(0)


def last_counted(data):
    return counted_after(data.siblings - SIBLINGS)


def counted_after(others):
    Lock, counts = threading.Lock, {"layer": others}
    start = clock()
    for _ in range(SIBLINGS):
        count = counts["layer"]
        counts["layer"] = count + 1
        name = f"layer_{count}" if count else "layer"  # noqa: F841
        with Lock():
            pass
    return clock() - start


def nested(data):
    """64 scopes in one another, and a variable that is found in the innermost."""
    variable_scope, get_variable, depth = vs.variable_scope, vs.get_variable, len(LEVELS)

    def descend(level):
        if level == depth:
            get_variable("w")
        else:
            with variable_scope(LEVELS[level]):
                descend(level + 1)

    with data.new_graph().as_default():
        get_variable("/".join(LEVELS) + "/w", [4, 4])
        with variable_scope("", reuse=True):
            start = clock()
            for _ in range(data.descents):
                descend(0)
            return clock() - start


def nested_in_stack(data):
    d, stack, depth = data.new_dict(), [], len(LEVELS)

    def descend(level):
        if level == depth:
            d["/".join(stack) + "/w"]
        else:
            stack.append(LEVELS[level])
            descend(level + 1)
            stack.pop()

    d["/".join(LEVELS) + "/w"] = None
    start = clock()
    for _ in range(data.descents):
        descend(0)
    return clock() - start


# --- a whole model ------------------------------------------------------------------------------


def load_moe():
    spec = importlib.util.spec_from_file_location("moe", MOE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def moe(data):
    build = load_moe().build
    with data.new_graph().as_default():
        start = clock()
        build(data.layers, data.experts)
        return clock() - start


def moe_in_dict(data):
    """The names of examples/moe.py, by the same loops."""
    d = data.new_dict()
    start = clock()
    d["embeddings/table"] = None
    for layer in range(data.layers):
        d[f"layers_{layer}/norm/scale"] = None
        for name in ("query", "key", "value", "output"):
            d[f"layers_{layer}/attention/{name}"] = None
        d[f"layers_{layer}/norm_1/scale"] = None
        d[f"layers_{layer}/router/kernel"] = None
        for expert in range(data.experts):
            d[f"layers_{layer}/experts_{expert}/w1"] = None
            d[f"layers_{layer}/experts_{expert}/w2"] = None
            d[f"layers_{layer}/experts_{expert}/w3"] = None
            d[f"layers_{layer}/experts_{expert}/w1_scale"] = None
            d[f"layers_{layer}/experts_{expert}/w2_scale"] = None
            d[f"layers_{layer}/experts_{expert}/w3_scale"] = None
    d["norm/scale"] = None
    d["embeddings/table"]
    return clock() - start


# --- the cases ----------------------------------------------------------------------------------


def each_name(data):
    return len(data.scopes) * len(NAMES)


def each_scope(data):
    return len(data.scopes)


def each_pattern(data):
    return len(scope_patterns(data))


def each_sibling(data):
    return SIBLINGS


def each_level(data):
    return data.descents * len(LEVELS)


def each_request(data):
    return data.layers * (7 + 6 * data.experts) + 3


@dataclass(frozen=True)
class Case:
    """A statement of the registry, and the one beside it."""

    name: str
    statement: str
    run: Callable[[Data], float]
    beside: str
    run_beside: Callable[[Data], float]
    statements: Callable[[Data], int]  # how many are timed, of each of the two


LOOK_UP, LOCK = "d[prefix + name]", "with threading.Lock()"
SIBLING, COUNTED = 'with variable_scope(None, "layer")', f"count in a dict, {LOCK}"

FOUND = Case("found", "get_variable(name)", found, LOOK_UP, found_in_dict, each_name)
HELD = Case("found, held", "get_variable(name)", found_held, LOOK_UP, found_in_dict, each_name)
SHAPED = Case(
    "found, shape", "get_variable(name, [4, 4])", found_with_shape,
    LOOK_UP, found_in_dict, each_name,
)  # fmt: skip
AUTO_REUSE = Case(
    "auto reuse", "get_variable(name, [4, 4])", found_or_created,
    "d.setdefault(prefix + name)", set_by_default, each_name,
)  # fmt: skip
CREATED = Case(
    "created", "get_variable(name, [4, 4])", created,
    f"{LOOK_UP} = None", created_in_dict, each_name,
)  # fmt: skip
FULL_NAME = Case("full name", "v.op_name", full_name, "prefix + name", joined_name, each_name)
FIND = Case(
    "find", 'g.find("**/w1")', searched, 'fnmatch.filter(d, "*/w1")', searched_in_dict, each_name
)
FIND_SCOPE = Case(
    "find, one scope", 'g.find(scope + "/w?")', scopes_searched,
    'fnmatch.filter(d, scope + "/w?")', scopes_searched_in_dict, each_pattern,
)  # fmt: skip
OPENED = Case("opened", "with variable_scope(name)", opened, LOCK, locked, each_scope)
BY_OBJECT = Case(
    "opened, object", "with variable_scope(scope)", opened_by_object, LOCK, locked, each_scope
)
WITH_OPTIONS = Case(
    "opened, options", "with variable_scope(name, initializer=zeros, reuse=True)",
    opened_with_options, LOCK, locked, each_scope,
)  # fmt: skip
NAME_SCOPE = Case(
    "name scope", "with name_scope(name)", name_scope_opened, LOCK, locked, each_scope
)
SIBLINGS_FIRST = Case("default name", SIBLING, first_siblings, COUNTED, first_counted, each_sibling)
SIBLINGS_LATE = Case(
    "default name, late", SIBLING, last_siblings, COUNTED, last_counted, each_sibling
)
NESTED = Case(
    "nested", "with variable_scope(level), 64 deep", nested,
    "stack.append(level), stack.pop()", nested_in_stack, each_level,
)  # fmt: skip
MODEL = Case(
    "model", "examples/moe.py", moe, "d[f-string] = None", moe_in_dict, each_request
)  # fmt: skip

# Those that depend on how many names there are, and those that do not.
AT_SIZES = [FOUND, HELD, SHAPED, AUTO_REUSE, CREATED, FULL_NAME, FIND, FIND_SCOPE, OPENED,
            BY_OBJECT, WITH_OPTIONS, NAME_SCOPE]  # fmt: skip
AT_ONE_SIZE = [SIBLINGS_FIRST, SIBLINGS_LATE, NESTED, MODEL]
CASES = [*AT_SIZES, *AT_ONE_SIZE]
