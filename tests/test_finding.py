"""`Graph.find`: globs that are matched on the tree, beside a regex on every op name."""

import contextlib
import gc
import signal
import subprocess
import sys
import threading

import pytest
from brute_force import check_find as check
from brute_force import expected
from hypothesis import given
from hypothesis import strategies as st
from requires import on_posix

import varscope as vs
from varscope import errors


def failing(getter, name, *args, **kwargs):
    getter(name, *args, **kwargs)
    raise LookupError("withdraw it")


def create_and_fail(name):
    with pytest.raises(LookupError):
        vs.get_variable(name, [1], custom_getter=failing)


# --- beside brute force ---------------------------------------------------------------------------

COMPONENTS = ["a", "b", "a_1", "b_1", "ab", "part_0", "l_10"]
PARTS = ["**", "*", "a", "b", "a_1", "b_1", "ab", "a*", "*b", "?", "??", "?_1", "*_?", "*_*", "a*1",
         "part_0", "part_*", "l_1?", "*0", "", "c", "ä", "*ä", "."]  # fmt: skip

paths = st.lists(st.sampled_from(COMPONENTS), min_size=1, max_size=5).map("/".join)
patterns = st.lists(st.sampled_from(PARTS), min_size=1, max_size=6).map("/".join)
steps = st.tuples(st.sampled_from(["create", "open", "op", "parts", "fail", "find"]), paths)


def take(step, path):
    if step == "open":
        with vs.variable_scope(path):
            vs.get_variable("b", [1])
    elif step == "op":
        vs.get_default_graph().unique_name(path)
    elif step == "parts":
        vs.get_variable(path, [2], partitioner=vs.fixed_size_partitioner(2))
    elif step == "fail":
        create_and_fail(path)
    elif step == "create":
        vs.get_variable(path, [1])


@given(st.lists(steps, max_size=40), st.lists(patterns, min_size=1, max_size=8))
def test_random_patterns_in_random_trees(steps, patterns):
    """Op names that differ from paths, withdrawn variables and parts; searches in between."""
    graph = vs.Graph()
    with graph.as_default():
        for step, path in steps:
            with contextlib.suppress(ValueError, AssertionError):  # it is there already
                take(step, path)
            if step == "find":
                check(graph, *patterns)
    check(graph, *patterns)


@given(
    st.lists(st.text("ab_.1", min_size=1, max_size=9), max_size=30),
    st.lists(st.text("ab_.1?*", max_size=9), min_size=1, max_size=8),
)
def test_wildcards_in_a_component(names, patterns):
    with vs.Graph().as_default() as graph:
        for name in names:
            with contextlib.suppress(errors.VariableExistsError):
                vs.get_variable(f"s/{name}", [1])
    check(graph, *(f"s/{p}" for p in patterns if "**" not in p))
    check(graph, *(f"**/{p}" for p in patterns if "**" not in p))


@pytest.mark.parametrize("count", [61, 62, 63, 64, 65, 127, 128, 129, 200])
def test_patterns_of_many_components(count):
    """More than there are bits in a word of the machine."""
    with vs.Graph().as_default() as graph:
        for length in (1, 2, count - 2, count - 1, count, count + 1, count + 2):
            vs.get_variable("/".join("ab"[i % 2] for i in range(length)) + "/w", [1])
    names = ["ab"[i % 2] for i in range(count)]
    wild = ["ab?"[i % 3] for i in range(count)]
    for start in ([], ["**"], ["*"], ["**", "*", "**"]):
        for end in (["w"], ["*"], ["**"], ["**", "w"], ["**", "?"]):
            check(graph, *("/".join([*start, *middle, *end]) for middle in (names, wild)))
            check(graph, "/".join([*start, *names[: count // 2], "**", *names[: count // 3], *end]))


# --- names ----------------------------------------------------------------------------------------


def test_what_counts_is_the_op_name():
    with vs.Graph().as_default() as graph:
        with vs.variable_scope("s/b"):
            kept = vs.get_variable("w", [1])
        first = vs.get_variable("s/b", [1])
        second = vs.get_variable("s/b_1", [1])
    assert (first.op_name, second.op_name) == ("s/b_1", "s/b_1_1")
    for pattern in ("s/b_1", "**/b_1", "*/b_1", "s/?_1", "**/?_1", "s/**/?_1"):
        assert graph.find(pattern) == [first]
    for pattern in ("s/b_1_1", "**/b_1_1", "s/b_?_?"):
        assert graph.find(pattern) == [second]
    for pattern in ("s/b", "**/b", "s/?", "b_1", "**/s/b_1/**"):
        assert graph.find(pattern) == []
    assert graph.find("s/*") == graph.find("**/b*") == [first, second]
    assert graph.find("**") == graph.find("s/**") == [kept, first, second]


def test_the_order_is_that_of_creation():
    """Though the tree has another one, and names a third."""
    with vs.Graph().as_default() as graph:
        names = ["b/z", "a/y", "b/a/y", "y", "a/b/z", "b/y", "a/x", "x"]
        for name in names:
            vs.get_variable(name, [1])
    assert [v.op_name for v in graph.find("**")] == names
    assert [v.op_name for v in graph.find("**/?")] == names
    assert [v.op_name for v in graph.find("**/y")] == ["a/y", "b/a/y", "y", "b/y"]
    assert [v.op_name for v in graph.find("?/?")] == ["b/z", "a/y", "b/y", "a/x"]


def test_many_variables_in_one_scope():
    """The core keeps more than sixteen in another way, and those that came late."""
    with vs.Graph().as_default() as graph:
        for i in range(40):
            vs.get_variable(f"many/w{i}", [1])
            vs.get_variable(f"few/{i % 8}/w{i}", [1])
        create_and_fail("many/gone")
        vs.get_variable("few/late", [1])
    check(graph, "many/*", "many/w7", "many/w?", "many/gone", "few/?/w1?", "few/*", "**/w3*")


def test_searches_see_what_was_created_and_withdrawn_since():
    with vs.Graph().as_default() as graph:
        assert graph.find("**") == graph.find("a/w") == []
        for i in range(50):
            vs.get_variable(f"a/w{i}", [1])
            create_and_fail(f"a/v{i}")
            vs.get_variable(f"b_{i}/w", [1])
            create_and_fail(f"b_{i}")
            check(graph, "a/*", "**/w", f"b_{i}/**", f"a/w{i}", f"a/v{i}", "b_?/w")
    assert len(graph.find("**")) == 100


def test_parts_are_found_by_their_own_names():
    with vs.Graph().as_default() as graph:
        table = vs.get_variable("table", [6], partitioner=vs.fixed_size_partitioner(3))
    assert graph.find("table/*") == graph.find("**/part_?") == list(table)
    assert graph.find("**/part_1") == [table[1]]
    assert graph.find("table") == []


def test_only_what_fits_gets_a_handle():
    with vs.Graph().as_default() as graph:
        for i in range(1000):
            vs.get_variable(f"layer_{i}/w", [1])
    gc.collect()

    def handles():
        return sum(type(thing) is vs.Variable for thing in gc.get_objects())

    before = handles()
    kept = graph.find("layer_12?/w")
    assert handles() - before == len(kept) == 10
    assert graph.find("layer_125/*") == [kept[5]]


# --- patterns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["a**", "**b/c", "a/***", "x/**y**/z", "a/b**"])
def test_two_stars_are_a_component_of_their_own(pattern):
    (part,) = (part for part in pattern.split("/") if "**" in part)
    with pytest.raises(errors.InvalidNameError) as caught:
        vs.Graph().find(pattern)
    words = f"pattern {pattern!r}: '**' must be a component of its own; write it so, as in 'a/**/w'"
    assert str(caught.value) == words
    assert part in caught.value.args or caught.value.__dict__


@pytest.mark.parametrize("pattern", [None, b"a", 3, ["a"]])
def test_a_pattern_is_a_text_or_a_compiled_regex(pattern):
    with pytest.raises(TypeError, match="a str or a compiled regex"):
        vs.Graph().find(pattern)


def test_a_pattern_of_a_subclass_of_str_counts_as_its_text():
    class Sly(str):
        def __hash__(self):
            raise AssertionError

        def __eq__(self, other):
            raise AssertionError

        def __str__(self):
            return "other"

        split = None

    with vs.Graph().as_default() as graph:
        wanted = [vs.get_variable("a/w", [1])]
    assert graph.find(Sly("a/*")) == graph.find(Sly("a/w")) == wanted


def test_more_patterns_than_are_kept():
    with vs.Graph().as_default() as graph:
        wanted = [vs.get_variable(f"w{i}", [1]) for i in range(1100)]
    for _ in range(2):
        assert [graph.find(f"w{i}*")[0] for i in range(1100)] == wanted


def test_a_kept_pattern_serves_graphs_with_other_names():
    for names in (["a/x", "b/x"], ["x", "b/a", "a/b/x", "a/x"]):
        with vs.Graph().as_default() as graph:
            for name in names:
                vs.get_variable(name, [1])
        check(graph, "a/**/x", "**/x", "a/x", "*/x")


# --- hostile ones ---------------------------------------------------------------------------------


def test_patterns_that_could_be_tried_in_very_many_ways():
    """A search that goes back and tries again would not end."""
    name = "/".join(["a"] * 60)
    with vs.Graph().as_default() as graph:
        v, w = vs.get_variable(f"{name}/w", [1]), vs.get_variable("x/" + "a" * 5000 + "/y", [1])
    stars = "/".join(["**", "*"] * 25)
    assert graph.find(f"{stars}/**/**/x") == []
    assert graph.find(f"{stars}/w") == [v]
    assert graph.find("**/" + "a/**/" * 40 + "b") == []
    assert graph.find("**/" + "a/**/" * 40 + "w") == [v]
    assert graph.find("**/" + "?*/**/" * 40 + "?") == [v]
    assert graph.find("x/" + "*a" * 2000 + "b/y") == []
    assert graph.find("x/" + "*a" * 2000 + "*/y") == [w]


def test_a_pattern_that_is_longer_than_any_name():
    with vs.Graph().as_default() as graph:
        vs.get_variable("a/w", [1])
    for part in ("a", "*", "?"):
        assert graph.find(f"{part}/" * 100_000 + "w") == []
    assert graph.find("**/" * 100_000 + "w") == graph.find("**")


DEEP = """
import contextvars
import varscope as vs

def nest():
    graph.as_default().__enter__()
    for level in range(100_000):
        vs.variable_scope("ab"[level % 2]).__enter__()
        if level % 1000 == 999:
            vs.get_variable("w", [1])

graph = vs.Graph()
contextvars.copy_context().run(nest)
for pattern, count in {
    "**/w": 100, "**": 100, "a/**": 100, "**/a/**": 100, "**/b/w": 100, "**/a/w": 0, "b/w": 0,
    "**/a/**/b/**/a/**/w": 100, "*/**/w": 100, "?/**/?": 100, "**/x/**/w": 0, "**/w/**": 0,
    "**/b/a/b/a/b/?": 100, "b/**": 0, "**/*/**/a/**/*/**/?": 100, "a/*/a/**": 100,
}.items():
    assert len(graph.find(pattern)) == count, pattern
print("found")
"""


def test_deep_trees_without_deep_recursion():
    resource = pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", DEEP], capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, (512 * 1024, -1)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "found\n"), done.stderr[-1000:]


# --- what comes in between ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large():
    """So many variables that a search looks at signals on its way."""
    with vs.Graph().as_default() as graph:
        for i in range(100):
            with vs.variable_scope(f"layer_{i}"):
                for j in range(1000):
                    vs.get_variable(f"w{j}", [1])
    return graph


@contextlib.contextmanager
def handling(function):
    """Call a function at each signal that is seen in `find`, and let there always be one."""
    at_work = False

    def handle(number, frame):
        nonlocal at_work
        if frame.f_code.co_name == "find" and not at_work:
            at_work = True
            try:
                function()
            finally:
                at_work = False

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 5e-5, 5e-5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


WAYS = ["**", "*/*", "**/?*", "layer_*/**", "**/layer_*/?*"]  # to go through all of them


@on_posix
@pytest.mark.parametrize("pattern", WAYS)
def test_a_search_can_be_interrupted(large, pattern):
    """While it runs: one signal alone would be seen behind it too."""
    seen = []

    def interrupt():
        seen.append(None)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), handling(interrupt):
        large.find(pattern)
    assert len(large.find("layer_7/*")) >= 1000


@on_posix
@pytest.mark.parametrize("pattern", WAYS)
def test_what_a_signal_creates_during_a_search(large, pattern):
    """It is not looked at, wherever it lies, though a search inside the handler finds it."""
    wanted, start, made = expected(large, pattern), len(large), []

    def create():
        number = len(large)
        with large.as_default():
            made.append(vs.get_variable(f"layer_{number % 100}/new_{number}", [1]))
            if len(made) < 9:
                made.append(vs.get_variable(f"new_{number}/a/b/c/d/e/f/g/w", [1]))
        assert made[-1] in large.find(f"**/{made[-1].op_name}")

    with handling(create):
        found = large.find(pattern)
    assert len(made) > 1
    assert found[: len(wanted)] == wanted
    assert all(v._index >= start for v in found[len(wanted) :])  # made as the search was called


@on_posix
@pytest.mark.parametrize("pattern", WAYS)
def test_what_a_signal_withdraws_during_a_search(large, pattern):
    created, fails = threading.Event(), threading.Event()

    def waiting_and_failing(getter, name, *args, **kwargs):
        getter(name, *args, **kwargs)
        created.set()
        fails.wait()
        raise LookupError("withdraw it")

    def in_thread():
        with large.as_default(), pytest.raises(LookupError):
            vs.get_variable("layer_0/gone", [1], custom_getter=waiting_and_failing)

    def withdraw():
        fails.set()
        thread.join()

    thread = threading.Thread(target=in_thread)
    thread.start()
    created.wait()
    number = len(large)
    with large.as_default():
        for i in range(100):
            vs.get_variable(f"layer_{i}/behind_{number}", [1])
    with handling(withdraw):
        found = large.find(pattern)
    assert len(large) == number + 99
    assert [v._index for v in found] == [v._index for v in expected(large, pattern)]


def test_a_search_for_which_memory_is_short_changes_nothing():
    testcapi = pytest.importorskip("_testcapi")
    failed, unknown = 0, object()
    for n in range(60):
        with vs.Graph().as_default() as graph:
            vs.get_variable("a/b/w", [1])
            vs.get_variable("a/b", [1])  # its op name is a/b_1
            vs.get_variable("a/w", [1])
            pattern = ["*/b_?", "**/b/*", "a/**/w"][n % 3]
            found = unknown
            testcapi.set_nomemory(n // 3, n // 3 + 1)
            try:
                found = graph.find(pattern)
            except MemoryError:
                failed += 1
            finally:
                testcapi.remove_mem_hooks()
            assert found is unknown or found == expected(graph, pattern)
            check(graph, "*/b_?", "**/b/*", "a/**/w", "**")
    assert failed > 10


def test_chains_of_scopes_that_grew_side_by_side():
    """What lies above a variable is not that above the one before: the search turns to walking."""
    graph = vs.Graph()
    chains = ["a", "b", "c"]
    with graph.as_default():
        for depth in range(60):
            for number, path in enumerate(chains):
                vs.get_variable(f"{path}/w", [1])
                chains[number] = f"{path}/{'xxy'[(depth + number) % 3]}"
    check(graph, "**/x/w", "**/?/w", "x/?/w", "x/**/w", "**/y/x/?/w", "*/*/x/**/y/w", "**/z/w")
