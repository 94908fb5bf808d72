"""Small programs, each run with memory that fails at its n-th allocation.

Each is a function that prepares something in an empty graph and returns what is tried: that has to
raise MemoryError and leave everything as it was, or to succeed, and to succeed when it is tried
again.  `tests/reliability/test_memory.py` has a zygote call `attempt` with each program and n.
"""

import _testcapi
import contextvars
import copy
import copyreg
import faulthandler
import gc
import pickle
import re
import shutil
import sys
import tempfile
import traceback
import types
from pathlib import Path

import numpy as np

import varscope as vs
import varscope.summary
from varscope.checkpoint.comparing import compare

PROGRAMS = {}
FOLDER = Path()  # made by `warm`
PROBES = ("foo", "d", "v", "w", "a/b", "foo/v")
KEYS = [value for name, value in vars(vs.GraphKeys).items() if name.isupper()] + ["mine"]


# Those that leave a graph, or a scope whose context was copied: that takes memory, and where even
# what was kept for it cannot be had, the scope stays open and the MemoryError says so.  And those
# where CPython 3.11 goes round in circles, for want of an int where an exception is handled.
LEAVING = {
    "initializing many",
    "a scope in the graph of values", "a scope in a copied context", "a graph", "pickling",
    "a variable in an arena", "copying", "scopes in scopes", "many scopes side by side",
    "a variable created or found", "a variable through getters", "a scope that is set",
    "a template", "a first call of a template", "a later call of a template", "saving",
    "variables through a getter in parts", "many variables", "restoring",
    "restoring through a name map", "a function that initializes", "making a name map",
    "planning a name map", "what is missing",
}  # fmt: skip
AGAIN = "a later call of a template"
STEPS = set()  # those of several steps, of which some may be done when a later one fails


def program(function):
    PROGRAMS[function.__name__.replace("_", " ")] = function
    return function


def program_of_steps(function):
    STEPS.add(function.__name__.replace("_", " "))
    return program(function)


def opening(*arguments, **options):
    def attempt():
        with vs.variable_scope(*arguments, **options):
            pass

    return attempt


# --- scopes


@program
def a_scope():
    return opening("foo")


@program
def a_scope_whose_op_name_is_taken():
    vs.get_default_graph().unique_name("foo")
    return opening("foo")


@program
def a_scope_with_slashes():
    return opening("foo/d/e")


@program
def a_scope_of_a_default_name():
    for _ in range(3):
        with vs.variable_scope(None, "d"):
            pass
    return opening(None, "d")


@program
def a_scope_of_a_default_name_with_slashes():
    with vs.variable_scope(None, "a/b"):
        pass
    return opening(None, "a/b")


@program
def a_captured_scope():
    with vs.variable_scope("a/b", reuse=vs.AUTO_REUSE) as captured, vs.variable_scope("foo"):
        pass
    return opening(captured)


@program
def a_captured_scope_of_another_graph():
    with vs.Graph().as_default(), vs.variable_scope("a/b", reuse=True) as captured:
        pass
    return opening(captured)


@program
def a_scope_with_everything():
    return opening(
        "foo", None, None, vs.zeros, vs.l2_regularizer(0.5), "cpu", vs.fixed_size_partitioner(2),
        getting, True, "float16", constraint=np.abs,
    )  # fmt: skip


@program
def a_scope_in_the_graph_of_values():
    with vs.Graph().as_default():
        values = [vs.get_variable("v", [1])]
    return opening("foo", values=values)


@program_of_steps
def scopes_in_scopes():
    def attempt():
        with vs.variable_scope("foo"), vs.variable_scope("a/b") as scope:
            with vs.variable_scope(None, "d"), vs.variable_scope("", reuse=True):
                pass
            with vs.name_scope("d"), vs.variable_scope(scope):
                pass

    return attempt


@program_of_steps
def many_scopes_side_by_side():
    names = [f"s{i}" for i in range(40)]

    def attempt():
        with vs.variable_scope("foo"):
            for name in names:
                with vs.variable_scope(name):
                    pass

    return attempt


@program_of_steps
def a_scope_in_a_copied_context():
    def attempt():
        contextvars.copy_context().run(inner)

    inner = opening("foo")
    return attempt


@program
def a_graph():
    graph = vs.Graph(seed=1)

    def attempt():
        with graph.as_default():
            pass

    return attempt


@program
def a_new_graph():
    return lambda: vs.Graph(seed=1, storage="arena")


@program
def a_name_scope():
    def attempt():
        with vs.name_scope("foo"):
            pass

    return attempt


@program
def a_name_scope_that_is_opened_again():
    def attempt():
        with vs.name_scope("foo/d/"):
            pass

    return attempt


@program
def a_name_that_is_unique():
    graph = vs.get_default_graph()
    for _ in range(300):
        graph.unique_name("v")
    return lambda: graph.unique_name("v")


@program_of_steps
def names_that_are_unique_below_numbered_scopes():
    graph = vs.get_default_graph()
    with vs.name_scope("m"):
        pass

    def attempt():
        with vs.name_scope("m"):
            graph.unique_name("v")

    return attempt


@program_of_steps
def a_scope_that_is_set():
    with vs.variable_scope("foo") as scope:
        pass

    def attempt():
        with vs.variable_scope(scope):
            scope.set_initializer(vs.zeros)
            scope.set_dtype("float16")
            scope.reuse_variables()

    return attempt


# --- variables


def getting(getter, name, *arguments, **options):
    return getter(name, *arguments, **options)


def creating(*arguments, **options):
    return lambda: vs.get_variable(*arguments, **options)


@program
def a_variable():
    return creating("v", [2, 3])


@program
def a_variable_with_a_path():
    return creating("a/b/v", [2, 3], initializer=vs.ones)


@program
def a_variable_like_others():
    vs.get_variable("w", [2, 3])
    return creating("v", [2, 3])


@program
def a_variable_whose_op_name_is_taken():
    graph = vs.get_default_graph()
    for i in range(300):
        vs.get_variable(f"u{i}", [1])
        graph.unique_name("v")
    return creating("v", [2])


@program
def many_variables():
    names = [f"v{i}" for i in range(60)]

    def attempt():
        return vs.get_variable("v", [1], custom_getter=several)

    def several(getter, name, *arguments, **options):
        return [getter(name, *arguments, **options) for name in names]

    return attempt


@program
def a_variable_that_is_found():
    vs.get_variable("v", [2, 3])
    vs.get_variable_scope().reuse_variables()
    return creating("v", [2, 3])


@program_of_steps
def a_variable_created_or_found():
    with vs.variable_scope("", reuse=vs.AUTO_REUSE) as scope:
        pass

    def attempt():
        with vs.variable_scope(scope):
            vs.get_variable("v", [2], initializer=vs.zeros)
            vs.get_variable("v", [2])

    return attempt


@program
def a_local_variable_in_collections():
    def attempt():
        vs.get_local_variable("v", [2])

    return attempt


@program
def a_variable_in_a_collection():
    return creating("v", [2], collections=["mine", vs.GraphKeys.GLOBAL_VARIABLES])


@program
def a_variable_in_parts():
    return creating("v", [7, 2], partitioner=vs.fixed_size_partitioner(3))


@program
def a_variable_in_parts_found():
    vs.get_variable("v", [7, 2], partitioner=vs.fixed_size_partitioner(3))
    vs.get_variable_scope().reuse_variables()
    return creating("v")


@program_of_steps
def a_variable_through_getters():
    with vs.variable_scope("foo", custom_getter=getting) as scope:
        pass

    def attempt():
        with vs.variable_scope(scope):
            vs.get_variable("v", [2], custom_getter=getting)

    return attempt


@program
def variables_through_a_getter_in_parts():
    def twice(getter, name, *arguments, **options):
        getter(name + "_twin", *arguments, **options)
        return getter(name, *arguments, **options)

    graph = vs.get_default_graph()
    for _ in range(3):
        graph.unique_name("v_twin/part_1")
    return creating(
        "v", [7, 2], partitioner=vs.fixed_size_partitioner(3), custom_getter=twice,
        initializer=vs.zeros,
    )  # fmt: skip


@program
def a_variable_with_a_regularizer():
    return creating("v", [2], regularizer=vs.l2_regularizer(0.5))


@program
def a_variable_on_a_device():
    return creating("v", [2], caching_device="cpu")


@program
def a_variable_on_a_device_that_a_function_names():
    def device(variable):
        return "cpu"

    return creating("v", [2], caching_device=device)


@program
def a_variable_of_values():
    values = np.arange(3.0)
    return creating("v", initializer=values)


@program_of_steps
def a_variable_in_an_arena():
    graph = vs.Graph(seed=1, storage="arena")

    def attempt():
        with graph.as_default():
            v = vs.get_variable("v", [3], initializer=vs.ones)
        assert v.numpy().tolist() == [1, 1, 1]

    def again():
        with graph.as_default(), vs.variable_scope("", reuse=vs.AUTO_REUSE):
            attempt_found()

    def attempt_found():
        v = vs.get_variable("v", [3], initializer=vs.ones)
        assert v.numpy().tolist() == [1, 1, 1]

    return again


# --- looking


@program
def finding():
    for name in ("a/b/w", "a/b", "a/w", "foo/d"):
        vs.get_variable(name, [1])
    graph = vs.get_default_graph()

    def attempt():
        assert len(graph.find("a/**/w")) == 2
        assert len(graph.find("*/?")) == 3

    return attempt


@program
def what_a_graph_tells():
    graph = vs.get_default_graph()
    for name in ("a/w", "a/b"):
        vs.get_variable(name, [1])

    def attempt():
        assert (len(graph), graph.num_parameters, graph.nbytes) == (2, 2, 8)
        assert "a/w" in graph and graph["a/b"].name == "a/b:0" and list(graph) == ["a/w", "a/b"]
        assert [v.op_name for v in graph.variables] == ["a/w", "a/b"]
        repr(graph), repr(graph["a/b"])

    return attempt


@program
def reading_collections():
    graph = vs.get_default_graph()
    for name in ("a/w", "a/b", "foo/w"):
        vs.get_variable(name, [1], regularizer=vs.l2_regularizer(0.5), initializer=vs.ones)
    vs.initialize(threads=1)

    def attempt():
        assert len(vs.trainable_variables("a")) == 2
        assert len(graph.get_collection("nothing")) == 0
        assert vs.get_regularization_loss() == 0.75

    return attempt


@program
def adding_to_a_collection():
    return lambda: vs.add_to_collection("mine", 5)


@program
def a_summary():
    graph = vs.get_default_graph()
    for i in range(4):
        vs.get_variable(f"layer_{i}/w", [2, 3])
    return lambda: vs.summary.summarize(graph)


@program
def what_is_missing():
    vs.get_variable("a/v", [2])
    vs.get_variable_scope().reuse_variables()

    def attempt():
        try:
            vs.get_variable("a/w")
        except vs.errors.VariableMissingError as error:
            assert "a/w does not exist" in str(error)

    return attempt


# --- values


@program
def reading_and_assigning():
    v = vs.get_variable("v", [2], initializer=vs.ones)

    def attempt():
        assert v.value().tolist() == [1, 1]
        v.assign([1, 1])

    return attempt


@program
def values_of_a_large_variable():
    v = vs.get_variable("v", [300, 300], initializer=vs.ones)
    return v.initialize


@program
def a_function_that_initializes():
    def ones(shape, dtype):
        return np.ones(shape, dtype)

    return vs.get_variable("v", [2, 3], initializer=ones, validate_shape=False).initialize


@program
def initializing_many():
    for i in range(5):
        vs.get_variable(f"v{i}", [2], initializer=vs.ones)
    vs.get_variable("w", [300, 300], initializer=vs.zeros)
    return lambda: vs.initialize(threads=1)


@program
def values_in_parts():
    v = vs.get_variable("v", [7], partitioner=vs.fixed_size_partitioner(3), initializer=vs.ones)

    def attempt():
        assert v.numpy().tolist() == [1] * 7

    return attempt


@program
def assigning_to_parts():
    v = vs.get_variable("v", [7], partitioner=vs.fixed_size_partitioner(3), initializer=vs.ones)
    v.initialize()
    values = np.full(7, 2.0, "float32")
    return lambda: v.assign(values)


@program
def arithmetic_in_place():
    v = vs.get_variable("v", [2], initializer=vs.ones)
    v.initialize()

    def attempt():
        np.maximum(v, 1, out=v)

    return attempt


# --- copies, templates, files


def small_model():
    vs.get_variable("a/v", [2], initializer=vs.ones)
    vs.get_variable("w", [4], partitioner=vs.fixed_size_partitioner(2), initializer=vs.ones)
    vs.get_default_graph().unique_name("foo")
    vs.initialize(threads=1)
    return vs.get_default_graph()


@program
def pickling():
    graph = small_model()

    def attempt():
        assert list(pickle.loads(pickle.dumps(graph))) == list(graph)

    return attempt


@program
def copying():
    graph = small_model()

    def attempt():
        assert list(copy.deepcopy(graph)) == list(graph)

    return attempt


def template_body():
    return vs.get_variable("v", [2], initializer=vs.zeros)


@program_of_steps
def a_first_call_of_a_template():
    return vs.make_template("foo", template_body)


@program_of_steps
def a_template():
    def attempt():
        template = vs.make_template("foo", template_body)
        assert template() is template()

    return attempt


@program
def a_later_call_of_a_template():
    template = vs.make_template("foo", template_body)
    template()
    return template


@program
def saving():
    graph, path = small_model(), Path(tempfile.mkdtemp(dir=FOLDER)) / "m.safetensors"
    vs.save(graph, path, threads=1)
    before = path.read_bytes()

    def attempt():
        vs.save(graph, path, threads=1)

    def check():
        assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [
            path.name
        ]

    attempt.check = check
    return attempt


@program
def opening_a_checkpoint():
    path = checkpoint()

    def attempt():
        with vs.open(path) as opened:
            assert opened["a/v"].numpy().tolist() == [1, 1]
            opened.verify()

    return attempt


@program
def restoring():
    path, graph = checkpoint(), small_model()
    for variable in graph.variables:
        variable.assign([0, 0])

    def attempt():
        vs.restore(graph, path, threads=1)

    return attempt


@program
def restoring_through_a_name_map():
    path, graph = checkpoint(), vs.get_default_graph()
    vs.get_variable("b/v", [2])
    names = vs.NameMap([{"name": "a/v", "to": "b/v"}, {"glob": "**", "drop": True}])

    def attempt():
        vs.restore(graph, path, names=names, partial=True, threads=1)

    return attempt


@program
def planning_a_name_map():
    path = checkpoint()
    opened = vs.open(path)
    names = vs.NameMap([{"glob": "a/{name}", "to": "b/{name}"}, {"prefix": "w", "to": "c/w"}])

    def attempt():
        names.plan([opened])
        names.inverse()

    return attempt


@program
def making_a_name_map():
    return lambda: vs.NameMap([{"glob": "a/{name}", "to": "b/{name}"}])


@program
def comparing():
    path, graph = checkpoint(), small_model()
    opened = vs.open(path)
    return lambda: compare(opened, graph)


def checkpoint():
    """A file that others of these programs read."""
    path = FOLDER / "read.safetensors"
    if not path.exists():
        with vs.Graph(seed=1).as_default():
            vs.save(small_model(), path, threads=1)
    return path


# --- how they are tried


def next_default_name(base):
    # Closing a captured scope puts the marks back, so that looking leaves no mark.
    here = vs.variable_scope(vs.get_variable_scope(), auxiliary_name_scope=False)
    with here, vs.variable_scope(None, base, auxiliary_name_scope=False) as scope:
        return scope.name


def values_of(variable):
    return variable.numpy().tolist() if variable.initialized else None


def seen(graph):
    """All that a failure has to leave as it was, as plain data."""
    scope = vs.get_variable_scope()
    return {
        "graph": vs.get_default_graph() is graph,
        "scope": [scope.name, str(scope.reuse), str(scope.dtype), scope.original_name_scope],
        "name scope": graph.get_name_scope(),
        "variables": [(v.name, v.shape, str(v.dtype), v.version) for v in graph.variables],
        "values": [values_of(v) for v in graph.variables if v.size < 100],
        "parts": [path for path, _ in graph._partitions()],
        "collections": {
            key: [getattr(entry, "name", entry) for entry in graph.get_collection(key)]
            for key in KEYS
        },
        "op names": [graph.unique_name(name, mark_as_used=False) for name in PROBES],
        "default names": [next_default_name(name) for name in PROBES],
    }


# Values that were asked for may be there, of some variables, and a shape that only they tell.
LAZY = ("variables", "values")


def may_change(name):
    """What a program that fails may have changed all the same."""
    if name in STEPS:
        return (*LAZY, "parts", "collections", "op names", "default names")
    if name == AGAIN:  # a scope that was opened has used its op name
        return ("op names",)
    if name == "arithmetic in place":  # what NumPy may have written to counts as changed
        return ("variables",)
    # A shard after the other is assigned to.
    lazy = ("values", "initializ", "reading", "assigning")
    return LAZY if any(word in name for word in lazy) else ()


def differing(before, after, ignored=()):
    return [
        f"{what}: {before[what]} became {after[what]}"
        for what in before
        if before[what] != after[what] and what not in ignored
    ]


def whole(name):
    """What a program that nothing hinders leaves."""
    with vs.Graph(seed=1).as_default() as graph:
        attempt = PROGRAMS[name]()
        seen(graph)
        attempt()
        return seen(graph)


EXPECTED = {}


def warm():
    """Run everything before the first fork, so that nothing is imported where memory fails."""
    global FOLDER
    FOLDER = Path(tempfile.mkdtemp())
    faulthandler.enable()
    for dtype in (np.float16, np.float32, np.float64, np.int32, np.int64, bool):
        # NumPy crashes where there is no memory for what it says of a dtype that is copied.
        copyreg.pickle(type(np.dtype(dtype)), lambda kind: (np.dtype, (kind.str,)))
    for name in PROGRAMS:
        whole(name)
        EXPECTED[name] = whole(name)
    gc.collect()
    gc.freeze()


def attempt(name, first, last, copied=False):
    """Run a program while the allocations from `first` to `last`, 0 for all later ones, fail.

    Where the context is copied first, each change of the current scope has to set a variable in it.

    Returns the class of what was raised, None for nothing, and what is wrong.
    """
    wrong, caught = [], None
    sys.unraisablehook = lambda told: (
        ignored(told) or wrong.append(f"ignored: {told.exc_value!r} in {told.object!r}")
    )
    with vs.Graph(seed=1).as_default() as graph:
        tried = PROGRAMS[name]()
        before = seen(graph)
        kept = [contextvars.copy_context()] if copied else []
        _testcapi.set_nomemory(first, last)
        try:
            tried()
        except BaseException as error:
            caught = error
        finally:
            _testcapi.remove_mem_hooks()
        kind = None if caught is None else type(caught).__name__
        if not (kind in (None, "MemoryError", "StorageFullError") or is_pythons_own(caught)):
            wrong.append("".join(traceback.format_exception(caught)))
        caught = None
        kept.clear()
        gc.collect()
        if kind is not None:
            wrong += differing(before, seen(graph), may_change(name))
            tried()
        steps = kind is not None and (name in STEPS or name == AGAIN)
        again = may_change(name) if steps else ("variables",)
        wrong += differing(EXPECTED[name], seen(graph), again)
        if hasattr(tried, "check"):
            tried.check()
    return kind, wrong


LOST = re.compile(
    r"without (exception set|setting an exception)$|can't allocate (read )?lock$"
    r"|returned a result with an exception set$|str(ing)?, bytes.*, not PosixPath$"
)


def is_pythons_own(error):
    """CPython says otherwise at times that there is no memory.

    Where there is none for a frame in a traceback, it loses the exception on the way; and a path
    whose text cannot be made is none.  The result with an exception set is NumPy's, of pickling.
    """
    said = str(error)
    if type(error) is pickle.PicklingError:
        return re.search(r": import of module '.+' failed$", said) is not None
    if type(error) not in (SystemError, RuntimeError, TypeError) or "varscope" in said:
        return False
    return LOST.search(said) is not None


def ignored(told):
    """A generator that is let go of takes memory for the GeneratorExit that it gets."""
    return told.exc_type is MemoryError and isinstance(told.object, types.GeneratorType)


def tidy():
    shutil.rmtree(FOLDER)
