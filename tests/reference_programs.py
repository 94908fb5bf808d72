"""Small programs, one or more for each public name and each way to fail, run again and again.

Each is run in an empty graph, in a process of its own that is forked from one in which all of them
have run.  `tests/reliability/test_references.py` looks whether something is left each time.
"""

import array
import contextlib
import copy
import gc
import importlib
import pathlib
import pickle
import re
import shutil
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

import varscope as vs
import varscope.plots
import varscope.summary
from varscope.compat import tf1
from varscope.interop import dask as vd
from varscope.interop import jax
from varscope.interop.dask import clients
from varscope.partitioned import PartitionedVariable

FOLDER = Path()  # made by `warm`
PROGRAMS = {}  # name: function
CLASSES = {}  # name of a class: the names that programs of it use
REFUSALS = {}  # name: (what is to be raised, and how it is stated), as in "ReuseError.unusable"


def program(*classes):
    """A program, and the classes whose members it calls."""

    def add(function):
        PROGRAMS[function.__name__.replace("_", " ")] = function
        for name in classes:
            CLASSES.setdefault(name, set()).update(names_in(function.__code__))
        return function

    return add


def refusal(stated, function=None):
    """A program that fails, with the error that says so and the method that states it."""

    def add(function):
        same = sum(known == stated for known in REFUSALS.values())
        name = f"{stated} ({same + 1})"
        PROGRAMS[name], REFUSALS[name] = refused(stated, function), stated
        return function

    return add if function is None else add(function)


def refused(stated, function):
    kind = getattr(vs.errors, stated.partition(".")[0])

    def run():
        try:
            function()
        except kind as error:
            assert type(error) is kind and str(error), type(error)
        else:
            raise AssertionError(f"{stated} is not raised")

    run.__wrapped__ = function
    return run


def names_in(code):
    found = set(code.co_names)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found |= names_in(inner)
    return found


def raises(kind, function, *arguments, **options):
    try:
        function(*arguments, **options)
    except kind:
        return
    raise AssertionError(f"{function} does not raise {kind}")


# --- scopes


@program("VariableScope")
def scopes():
    with vs.variable_scope("a", initializer=vs.zeros, dtype="float16") as a:
        with vs.variable_scope("b/c"), vs.variable_scope(None, "d"), vs.variable_scope(""):
            pass
        with vs.name_scope("n"), vs.name_scope("a/"), vs.name_scope(None):
            pass
    with vs.variable_scope(a, reuse=vs.AUTO_REUSE) as again:
        assert vs.get_variable_scope() == again == a
        assert (again.name, again.original_name_scope) == ("a", "a/") and again.graph is a.graph
        assert again.reuse is vs.AUTO_REUSE and again.dtype == "float16"
        assert again.initializer is vs.zeros


@program()
def what_explains_a_name():
    v = vs.get_variable("a/v", [2])
    parts = vs.get_variable("parts", [4], partitioner=vs.fixed_size_partitioner(2))
    with vs.variable_scope("a", dtype="float16", reuse=True) as a, vs.name_scope("n"):
        a.set_initializer(vs.zeros)
        assert isinstance(vs.explain("v").error, vs.errors.DTypeMismatchError)
        assert isinstance(vs.explain("w").error, vs.errors.VariableMissingError)
    with vs.variable_scope(None, "a"), vs.variable_scope(a):
        found = vs.explain("v")
    assert isinstance(found, vs.Explanation) and str(found)
    for each in (v, parts, parts[0], "a/v", "parts", "new"):
        assert str(vs.explain(each))


@program("VariableScope")
def what_is_set_on_a_scope():
    def getter(getter, *arguments, **options):
        return getter(*arguments, **options)

    with vs.variable_scope("a") as a, vs.variable_scope("b"):
        a.set_initializer(vs.ones)
        a.set_regularizer(vs.l2_regularizer(0.5))
        a.set_caching_device("cpu")
        a.set_partitioner(vs.fixed_size_partitioner(2))
        a.set_custom_getter(getter)
        a.set_dtype("float64")
        a.set_constraint(np.abs)
        a.reuse_variables()
        assert a.regularizer and a.caching_device and a.partitioner and a.custom_getter
        assert a.constraint


@program("VariableScope")
def what_a_scope_finds():
    with vs.variable_scope("a") as a:
        v = a.get_variable("v", [2])
        local = vs.get_local_variable("w", [2])
    assert a.global_variables() == a.trainable_variables() == [v] and a.local_variables() == [local]
    assert a.get_collection(vs.GraphKeys.LOCAL_VARIABLES) == [local]


@program("VariableScope")
def copies_of_scopes():
    with vs.variable_scope("a", reuse=True) as a:
        pass
    assert copy.copy(a) == copy.deepcopy(a) == pickle.loads(pickle.dumps(a)) == a
    assert repr(a) and hash(a) and a._repr_html_() is not None and vs.VariableScope


@program()
def scopes_in_values():
    class Host:
        pass

    host = Host()
    node = types.SimpleNamespace(graph=host)
    assert vs.attach(host) is vs.attach(host)
    with vs.variable_scope("a", values=[node, 1]):
        assert vs.get_default_graph() is vs.attach(host)


@program()
def a_scope_that_an_error_leaves():
    try:
        with vs.variable_scope("a"), vs.variable_scope(None, "b"):
            raise KeyError
    except KeyError:
        assert vs.get_variable_scope().name == ""


@program()
def generators_in_scopes():
    def inside(name):
        with vs.variable_scope(name):
            yield

    first, second = inside("a"), inside("b")
    next(first), next(second)
    raises(vs.errors.ScopeOrderError, first.close)
    second.close()


# --- getting variables


@program("Variable")
def variables():
    v = vs.get_variable("a/v", [2, 3], initializer=vs.ones, caching_device="cpu")
    assert (v.name, v.op_name, v.path, v.shape) == ("a/v:0", "a/v", "a/v", (2, 3))
    assert (v.dtype, v.ndim, v.size, v.nbytes) == (np.float32, 2, 6, 24)
    assert v.trainable and v.graph is vs.get_default_graph() and v.initializer is vs.ones
    assert v.regularizer is v.constraint is v.save_slice_info is None and not v.initialized
    assert v.version == 0 and v.creation_site[1] and v.device and v.caching_device == "cpu"
    assert v.value() is v.value() and v.numpy().sum() == v.array.sum() == 6 and v.version == 1
    assert v.initial_value((1, slice(2))).tolist() == [1, 1]
    assert repr(v) and v._repr_html_() and hash(v) and vs.Variable


@program("Variable")
def assigning():
    v = vs.get_variable("v", [2], initializer=vs.ones, constraint=np.abs)
    v.assign([-1, 2], apply_constraint=True)
    v.assign_add([1, 1])
    v.assign_sub([1, 1])
    v.project()
    v[0] = 5
    v += 1
    np.maximum(v, 3, out=v)
    assert v.numpy().tolist() == [6, 3] and (v * 2 - v[1] / v)[0] and len(v) == len(list(v))
    v.initialize(force=True)
    assert np.asarray(v).sum() == np.from_dlpack(v).sum() == memoryview(v)[0] + 1 == 2


@program("Variable")
def memory_of_others():
    array = np.zeros(3, np.float32)
    v = vs.adopt("v", array)
    w = vs.adopt("w", v)
    u = vs.adopt("u", bytearray(4), trainable=False)
    for version in (None, (1, 0)):
        assert v.__dlpack__(max_version=version) and v.__dlpack_device__() == (1, 0)
    seen = np.from_dlpack(w)
    array[0] = 5
    assert seen[0] == v.numpy()[0] == w.numpy()[0] == 5 and u.shape == (4,)
    with vs.variable_scope("", reuse=True):
        assert vs.adopt("v", array) is v
    raises(BufferError, v.__dlpack__, stream=1)
    raises(BufferError, v.__dlpack__, dl_device=(2, 0))
    raises(ValueError, v.initialize, force=True)


@program("Variable", "PartitionedVariable")
def as_in_tensorflow():
    for cut in (None, vs.fixed_size_partitioner(2)):
        v = vs.get_variable(f"v{cut is None}", [4], initializer=vs.ones, partitioner=cut)
        assert v.eval().sum() == v.read_value().sum() == v.initialized_value().sum() == 4
        assert v.get_shape()[0] == 4 and v.op
        v.load([1, 2, 3, 4])


@program("PartitionedVariable", "SaveSliceInfo")
def parts():
    cut = vs.fixed_size_partitioner(3)
    v = vs.get_variable(
        "v", [7, 2], partitioner=cut, initializer=vs.ones, constraint=np.abs,
        regularizer=vs.l2_regularizer(2.0),
    )  # fmt: skip
    with vs.variable_scope("", reuse=True):
        assert vs.get_variable("v") is v and isinstance(v, vs.PartitionedVariable)
    assert isinstance(v[0].save_slice_info, vs.SaveSliceInfo)
    assert [part.save_slice_info.spec for part in v][1] == "7 2 3,2:0,2"
    assert (v.name, v.op_name, v.path, v.shape) == ("v", "v", "v", (7, 2))
    assert (v.dtype, v.ndim, v.size, v.nbytes, v.partitions) == ("f4", 2, 14, 56, (3, 1))
    assert v.trainable and v.graph and v.initializer and v.regularizer and v.constraint
    assert v.creation_site and v.device and not v.initialized and v.version == 0
    assert v.initial_value().sum() == v.value().sum() == v.numpy().sum() == 14
    v.assign(np.zeros((7, 2)))
    v.assign_add(np.ones((7, 2)))
    v.assign_sub(np.ones((7, 2)))
    v.project()
    v.initialize(force=True)
    assert vs.get_regularization_loss() == 14 and (v + v).sum() == 28 and repr(v) and len(v) == 3


@program()
def sharing():
    with vs.variable_scope("a", reuse=vs.AUTO_REUSE):
        v = vs.get_variable("v", [2])
        assert vs.get_variable("v") is vs.get_variable("v", [2]) is v


@program()
def getters():
    def twice(getter, name, *arguments, **options):
        getter(name + "_twin", *arguments, **options)
        return getter(name, *arguments, **options)

    def once(getter, name, *arguments, **options):
        return getter(name, *arguments, **options)

    with vs.variable_scope("a", custom_getter=once), vs.variable_scope("b", custom_getter=once):
        vs.get_variable("v", [2], custom_getter=twice)
    assert len(vs.get_default_graph()) == 2


@program()
def hooks_that_fail():
    def fails(*arguments, **options):
        raise KeyError

    def fails_late(getter, *arguments, **options):
        getter(*arguments, **options)
        raise KeyError

    for hook in ("custom_getter", "partitioner", "caching_device"):
        raises(KeyError, vs.get_variable, "v", [2], **{hook: fails})
    raises(KeyError, vs.get_variable, "v", [2], custom_getter=fails_late)
    v = vs.get_variable("v", [2], initializer=fails, constraint=fails, regularizer=fails)
    raises(KeyError, v.value)
    raises(KeyError, v.assign, [1, 2], apply_constraint=True)
    v.assign([1, 2])
    raises(KeyError, vs.get_regularization_loss)


@program()
def a_function_for_devices():
    v = vs.get_variable("v", [2], caching_device=lambda variable: "cpu", initializer=vs.ones)
    assert v.value() is v.value()


@program()
def the_functions_of_devices():
    vs.devices.register("list", np.ndarray.tolist, replace=True)
    assert "list" in vs.devices.names()
    v = vs.get_variable("v", [2], initializer=vs.ones, caching_device="list")
    assert v.value() == [1, 1]


# --- graphs


@program("Graph")
def graphs():
    graph = vs.Graph(seed=3)
    graph.seed = graph.seed + 1
    with graph.as_default():
        v = vs.get_variable("a/v", [2], initializer=vs.ones, regularizer=vs.l1_regularizer(1.0))
        local = vs.get_local_variable("w", [1])
        assert graph.get_name_scope() == "" and graph.unique_name("v") == "v"
    graph.add_to_collection("mine", v)
    assert graph.get_collection("mine", "a") == graph.get_collection("mine", re.compile("a")) == [v]
    assert graph.global_variables() == graph.trainable_variables("a") == [v]
    assert graph.local_variables() == [local] and graph.get_regularization_loss() == 2
    assert [loss.value() for loss in graph.get_regularization_losses()] == [2]
    assert list(graph.variables) == [v, local] and graph.variables.index(v) == 0
    assert graph.find("a/*") == graph.find("**/v") == graph.find(re.compile("a")) == [v]
    assert (graph.num_parameters, graph.nbytes, len(graph)) == (3, 12, 2)
    assert "a/v" in graph and graph["a/v"] is v and list(graph) == ["a/v", "w"] and repr(graph)
    assert graph._repr_html_() and graph.variables.count(v) == 1
    graph.finalize()
    assert graph.finalized


@program("Graph", "Arena", "MemoryMapped", "Heap")
def storages():
    folder = tempfile.mkdtemp(dir=FOLDER)
    for storage in (vs.Arena(capacity=8192), vs.Heap(), vs.MemoryMapped(folder), "arena"):
        graph = vs.Graph(seed=1, storage=storage)
        with graph.as_default():
            v = vs.get_variable("v", [2], initializer=vs.ones)
            vs.get_variable("w", [3], partitioner=vs.fixed_size_partitioner(2))
        assert v.value().tolist() == [1, 1] and repr(graph.storage)
        if storage.__class__ is not vs.Heap:
            assert graph.flat().size == 5
    shutil.rmtree(folder)


@program()
def functions_of_the_current_graph():
    vs.set_random_seed(5)
    v = vs.get_variable("v", [2], regularizer=vs.l2_regularizer(0.5), initializer=vs.ones)
    vs.add_to_collection("mine", 1)
    assert vs.get_collection("mine") == [1] and vs.global_variables() == [v]
    assert vs.trainable_variables() == [v] and vs.local_variables() == []
    assert len(vs.get_regularization_losses()) == 1 and vs.get_regularization_loss() == 0.5
    assert vs.get_default_graph() is v.graph


@program("RegularizationLoss")
def losses():
    vs.get_variable("v", [2], regularizer=vs.l2_regularizer(0.5), initializer=vs.ones)
    [loss] = vs.get_regularization_losses()
    assert isinstance(loss, vs.RegularizationLoss) and loss.graph and loss.name
    assert loss.value() == float(loss) == loss + 0 and repr(loss) and loss == loss and hash(loss)


@program("GraphKeys")
def keys_of_collections():
    for name in vars(vs.GraphKeys):
        if name.isupper():
            vs.add_to_collection(getattr(vs.GraphKeys, name), 1)
            assert 1 in vs.get_collection(getattr(vs.GraphKeys, name))


@program()
def another_default_graph():
    import contextvars

    def anew():
        vs.reset_default_graph()
        vs.get_variable("v", [2])

    contextvars.Context().run(anew)


def model():
    vs.get_variable("a/v", [2], initializer=vs.ones, regularizer=vs.l2_regularizer(0.5))
    vs.get_variable("w", [4], partitioner=vs.fixed_size_partitioner(2), initializer=vs.ones)
    vs.get_variable("large", [300, 300], initializer=vs.random_normal())
    vs.get_default_graph().unique_name("foo")
    with vs.name_scope("m"), vs.name_scope("m"):
        pass
    return vs.get_default_graph()


@program()
def copies_of_graphs():
    graph = model()
    vs.initialize(threads=1)
    for other in (copy.deepcopy(graph), copy.copy(graph), pickle.loads(pickle.dumps(graph))):
        assert list(other) == list(graph)
    assert pickle.loads(pickle.dumps(graph["a/v"])).path == "a/v"
    assert isinstance(copy.deepcopy(graph["w"]), PartitionedVariable)


def part():
    """A graph with values, a variable in parts, a name that is not its path, and a collection."""
    with vs.Graph().as_default() as made:
        with vs.variable_scope("b"):
            w = vs.get_variable("w", [2], regularizer=vs.l2_regularizer(0.5)).assign([1, 2])
        vs.get_variable("b", [4], partitioner=vs.fixed_size_partitioner(2))
        vs.get_variable("b_1", [2])
        vs.add_to_collection("mine", w)
        vs.add_to_collection("mine", vs.RegularizationLoss(w, w.regularizer))
    return made


@program("Graph")
def grafts():
    graph = vs.get_default_graph()
    for storage in ("heap", "arena"):
        with vs.Graph(storage=storage).as_default() as other:
            other.graft(part(), under="a_1/b")
            other.graft(part(), under="")
    graph.graft(graph, under="copy")
    graph.build({})


@program()
def stamps():
    vs.get_default_graph().graft(part(), "a_0")
    with vs.variable_scope("a_0", auxiliary_name_scope=False) as scope:
        pass
    vs.stamp("a_0", into=["a_1", "a_2", "c/d"])
    vs.stamp(scope, into=["e"])
    with vs.variable_scope("", reuse=vs.AUTO_REUSE):
        vs.stamp("a_0", into=["a_1", "a_3"])


def asking():
    with vs.variable_scope("a"):
        return vs.get_variable("w", [2]), vs.get_variable("b", [2], initializer=vs.zeros)


def entries(shape=(2,), dtype="float32"):
    return {"a/w": np.zeros(shape, dtype), "a/b": np.zeros(shape, dtype)}


@program()
def substituting():
    regularized = vs.variable_scope("", reuse=vs.AUTO_REUSE, regularizer=vs.l2_regularizer(1.0))
    with regularized, vs.substitute(entries()), vs.substitute(types.MappingProxyType({})):
        asking()
        asking()
        vs.get_regularization_loss()
    with contextlib.suppress(ValueError), vs.substitute({"c": np.zeros(3)}):
        vs.get_variable("c", [2])


@program()
def transforming():
    apply = vs.transform(asking).apply
    apply(entries())
    apply({"a": {"w": np.zeros(2, "float32"), "b": np.zeros(2, "float32")}})


@program()
def initializing():
    vs.initialize([model()["w"]])
    vs.initialize(threads=2, progress=lambda *done: None)


# --- values


@program("Initializer", "PartitionInfo")
def initializers():
    made = [
        vs.constant(2), vs.zeros, vs.ones, vs.identity(), vs.orthogonal(), vs.random_normal(),
        vs.random_uniform(), vs.truncated_normal(), vs.uniform_unit_scaling(),
        vs.variance_scaling(), vs.glorot_normal(), vs.glorot_uniform(), vs.he_normal(),
        vs.he_uniform(), vs.lecun_normal(), vs.lecun_uniform(seed=3),
    ]  # fmt: skip
    for i, initializer in enumerate(made):
        assert isinstance(initializer, vs.Initializer) and repr(initializer) and hash(initializer)
        v = vs.get_variable(f"v{i}", [4, 4], initializer=initializer)
        assert v.value().shape == initializer((2, 2), np.dtype("float64")).shape[:1] * 0 + (4, 4)

    def with_all(shape, dtype, partition_info, key):
        assert isinstance(partition_info, vs.PartitionInfo) and partition_info.full_shape == (4,)
        assert key >= 0
        return np.zeros(shape, dtype)

    vs.get_variable(
        "w", [4], initializer=with_all, partitioner=vs.fixed_size_partitioner(2)
    ).value()
    vs.get_variable("x", initializer=np.arange(3.0)).value()
    vs.get_variable("y", initializer=with_shape, shape=[None], validate_shape=False).value()


def with_shape(shape, dtype):
    return np.zeros(5, dtype)


@program()
def regularizers():
    both = [vs.l1_regularizer(0.5), vs.l2_regularizer(0.5)]
    for i, regularizer in enumerate(
        [*both, vs.l1_l2_regularizer(0.5, 0.5), vs.sum_regularizer(both), vs.no_regularizer]
    ):
        vs.get_variable(f"v{i}", [2], initializer=vs.ones, regularizer=regularizer)
        assert repr(regularizer)
    assert vs.get_regularization_loss() == 4.5


@program()
def partitioners():
    for i, partitioner in enumerate(
        [
            vs.fixed_size_partitioner(2), vs.variable_axis_size_partitioner(16),
            vs.min_max_variable_partitioner(2, min_slice_size=8),
        ]
    ):  # fmt: skip
        assert len(vs.get_variable(f"v{i}", [8], partitioner=partitioner)) == 2 and hash(
            partitioner
        )


# --- templates, files and what is shown of models


@program("Template")
def templates():
    def body(name):
        return vs.get_variable(name, [2])

    template = vs.make_template("t", body, name="v")
    assert isinstance(template, vs.Template) and template() is template()
    assert template.name == "t" and template.func and template.var_scope == template.variable_scope
    assert template.variables == template.global_variables == template.trainable_variables
    assert template.local_variables == [] and repr(template)
    vs.make_template("t", body, create_scope_now=True, name="v")()


@program()
def a_template_that_fails():
    def fails():
        vs.get_variable("v", [2])
        raise KeyError

    template = vs.make_template("t", fails)
    raises(KeyError, template)
    assert len(vs.get_default_graph()) == 0


@program()
def saving():
    graph, path = model(), FOLDER / "saved.safetensors"
    vs.save(graph, path, threads=1)
    vs.save(graph, FOLDER / "saved", max_shard_size="100KB")
    graph.get_collection(vs.GraphKeys.GLOBAL_VARIABLES)
    vs.restore(graph, path, threads=2)


@program("Plan")
def plans():
    plan = vs.plan(model(), FOLDER / "planned", workers=2, by="files")
    plan.save(FOLDER / "plan")
    loaded = vs.Plan.load(FOLDER / "plan")
    assert isinstance(loaded, vs.Plan) and loaded.path == plan.path and repr(loaded) == repr(plan)
    assert (loaded.workers, loaded.by, loaded.seed, len(loaded)) == (2, "files", plan.seed, 3)
    assert loaded.nbytes == plan.nbytes and loaded.files == plan.files
    for worker in range(2):
        assert len(vs.materialise(plan.for_worker(worker), worker)) == len(plan.pieces(worker))
    vs.finish(loaded, verify=True)
    vs.materialise(pickle.loads(pickle.dumps(loaded)), threads=2)


@program("Checkpoint", "StoredTensor")
def opening():
    with vs.open(checkpoint()) as opened:
        assert isinstance(opened, vs.Checkpoint) and len(opened) == 3 and repr(opened)
        assert list(opened.keys()) == opened.names and len(opened.values()) == len(opened.items())
        assert opened.nbytes and opened.shapes and opened.dtype_names and opened.partitions
        assert opened.nbytes_of.sum() == opened.nbytes and opened.get("w") is not opened.get("none")
        opened.verify()
        tensor = opened["w"]
        assert isinstance(tensor, vs.StoredTensor) and tensor.name == "w" and tensor.file
        assert (tensor.shape, tensor.ndim, tensor.size, tensor.nbytes) == ((4,), 1, 4, 16)
        assert tensor.dtype == "f4" and tensor.dtype_name == "float32" and tensor.partitions
        assert tensor.numpy().sum() == tensor.value().sum() == np.asarray(tensor).sum() == 4
        assert tensor[1:].sum() == 3 and len(tensor) == 4 and repr(tensor)
        tensor.verify()
    opened.close()


@program("NameMap")
def restoring_by_name_maps():
    names = vs.NameMap([{"prefix": "a/", "to": "b/"}, {"glob": "**", "drop": True}])
    v = vs.get_variable("b/v", [2])
    vs.restore(vs.get_default_graph(), checkpoint(), names=names)
    assert v.value().tolist() == [1, 1]
    exact = vs.NameMap.of({"a/v": "b/v"})
    assert exact.inverse().inverse() == exact and repr(names) and names.data
    with vs.open(checkpoint()) as opened:
        assert names.plan([opened]).renames["b/v"] == "a/v"


@program()
def comparing():
    from varscope.checkpoint.comparing import compare

    with vs.open(checkpoint()) as opened:
        assert compare(opened, opened).same and not compare(opened, vs.get_default_graph()).same


@program()
def summaries_and_pictures():
    summary = vs.summary.summarize(model())
    assert summary.rows and list(vs.summary.expand(summary.rows))
    with vs.open(checkpoint()) as opened:
        assert vs.summary.summarize(opened)
    assert vs.plots.ending("a.svg") == ".svg"
    if importlib.util.find_spec("plotly"):
        vs.plots.write(vs.plots.treemap(summary.rows), FOLDER / "picture.html")


@program()
def tensorflow_spelling():
    with tf1.variable_scope("a", initializer=tf1.zeros_initializer()):
        v = tf1.get_variable("v", [2], tf1.float32)
        w = tf1.Variable([1.0, 2.0], name="w")
    with tf1.Session() as session:
        session.run(tf1.global_variables_initializer())
        session.run(tf1.assign(v, [1, 2]))
        assert session.run([v, w])[0].tolist() == [1, 2]
    assert tf1.trainable_variables() == [v, w] and tf1.global_variables()


def checkpoint():
    """A file that others of these programs read."""
    path = FOLDER / "read.safetensors"
    if not path.exists():
        with vs.Graph(seed=1).as_default():
            vs.save(model(), path)
    return path


# --- what is refused: every way to state an error


def scope(*arguments, **options):
    with vs.variable_scope(*arguments, **options):
        pass


def made(**options):
    vs.get_variable("v", [4], **options)


get = vs.get_variable

for what in (
    lambda: scope(5),
    lambda: scope("a", 5),
    lambda: get("v", [1], constraint=5),
    lambda: get(b"v", [1]),
    lambda: get("v", [1], collections="losses"),
    lambda: get("v", [1], initializer="ones"),
    lambda: get("v", [1], caching_device=5),
    lambda: vs.Graph(seed="one"),
    lambda: vs.Graph()[5],
    lambda: vs.Graph().find(5),
    lambda: vs.Graph().get_collection("a", 5),
    lambda: vs.attach(5),
    lambda: vs.initialize(5),
    lambda: vs.initialize([5]),
    lambda: vs.initialize(threads=1.5),
    lambda: vs.initialize(progress=5),
    lambda: vs.l1_regularizer("1"),
    lambda: vs.sum_regularizer([5]),
    lambda: vs.fixed_size_partitioner(1.5),
    lambda: vs.constant("text"),
    lambda: vs.random_normal(stddev="1"),
    lambda: vs.make_template(5, len),
    lambda: vs.make_template("t", 5),
    lambda: vs.devices.register(5, len),
    lambda: vs.devices.register("a", 5),
    lambda: vs.save(5, "a"),
    lambda: vs.save(vs.Graph(), 5),
    lambda: vs.restore(5, "a"),
    lambda: vs.open(5),
    lambda: vs.plan(5, "a", workers=1),
    lambda: vs.materialise(5),
    lambda: vs.finish(5),
    lambda: vs.Plan.load(5),
    lambda: vs.Arena(capacity="1"),
):  # fmt: skip
    refusal("ArgumentTypeError.of", what)
refusal("ArgumentTypeError.no_name", lambda: scope(None))
for what in (
    vs.VariableScope,
    PartitionedVariable,
    lambda: vs.Variable().name,
    lambda: scope("a", dtype="nothing"),
    lambda: vs.Graph(storage=5),
    vs.Plan,
):
    refusal("ArgumentTypeError", what)
for what in (
    lambda: vs.initialize(threads=0),
    lambda: vs.l1_regularizer(-1),
    lambda: vs.fixed_size_partitioner(0),
    lambda: vs.save(vs.Graph(), "a", max_shard_size="many"),
    lambda: vs.restore(vs.Graph(), []),
    lambda: vs.plan(vs.Graph(), "a", workers=0),
):
    refusal("ArgumentValueError.of", what)
refusal("ArgumentValueError", lambda: vs.plots.ending("a.gif"))


@refusal("ArgumentValueError.of")
def _():
    vs.get_default_graph().graft(part(), "a")
    vs.stamp("a", into=["b", "b"])


@refusal("NamesTakenError.among")
def _():
    for _ in range(2):
        vs.get_default_graph().graft(part(), "a")


@refusal("ArgumentTypeError.foreign_graph")
def _():
    scope("a", values=[types.SimpleNamespace(graph=5)])


for what in (lambda: scope("a//b"), lambda: get("a/", [1]), lambda: vs.name_scope("/").__enter__()):
    refusal("InvalidNameError.empty_component", what)
for what in (lambda: scope("a b"), lambda: get("v:0", [1]), lambda: get("\xe4", [1])):
    refusal("InvalidNameError.bad_character", what)
refusal("InvalidNameError.bad_start", lambda: scope("_a"))
refusal("InvalidNameError.bad_start", lambda: vs.get_default_graph().unique_name("-a"))
for what in (
    lambda: get("v"), lambda: get("v", [-1]), lambda: get("v", [None]), lambda: get("v", [2**70]),
    lambda: get("v", [2**40, 2**40]),
):  # fmt: skip
    refusal("InvalidShapeError", what)
for what in (lambda: get("v", "4"), lambda: get("v", [True]), lambda: get("v", [2.0])):
    refusal("InvalidShapeTypeError", what)
for what in (lambda: scope("a", reuse=False), lambda: scope(None, "a", reuse=5)):
    refusal("ReuseError.unusable", what)
refusal("ReuseError.default_name", lambda: scope(None, "a", reuse=True))
for what in (
    lambda: scope("a", custom_getter=5),
    lambda: get("v", [1], custom_getter=5),
    lambda: vs.get_variable_scope().set_custom_getter(5),
    lambda: vs.make_template("t", len, custom_getter=5),
):
    refusal("NotCallableError.custom_getter", what)
refusal("NotCallableError.partitioner", lambda: get("v", [4], partitioner=5))
refusal("NotCallableError.regularizer", lambda: get("v", [4], regularizer=5))
refusal("NotCallableError.model", lambda: vs.transform(5))
refusal("NotCallableError.step", lambda: vd.map_shards(5, []))
for result in (5, [2, 2], [0], [5], ["a"], [2, 1]):
    refusal("PartitionerError.bad_result", lambda r=result: made(partitioner=lambda **facts: r))
refusal("PartitionerError.no_axis", lambda: made(partitioner=vs.fixed_size_partitioner(2, axis=1)))


@refusal("PartitionerError.unknown_shape")
def _():
    cut = vs.fixed_size_partitioner(2)
    get("v", [None], partitioner=cut, initializer=with_shape, validate_shape=False)


@refusal("PartitionMismatchError.made_whole")
def _():
    made()
    made(partitioner=vs.fixed_size_partitioner(2))


@refusal("PartitionMismatchError.made_in_parts")
def _():
    made(partitioner=vs.fixed_size_partitioner(2))
    made()


@refusal("PartitionMismatchError.other_parts")
def _():
    made(partitioner=vs.fixed_size_partitioner(2))
    with vs.variable_scope("", reuse=True):
        made(partitioner=vs.fixed_size_partitioner(3))


@refusal("RegularizerError.no_number")
def _():
    made(regularizer=np.abs, initializer=vs.ones)
    vs.get_regularization_loss()


@refusal("VariableExistsError.of")
def _():
    made()
    made()


@refusal("VariableExistsError.of")
def _():
    made(partitioner=vs.fixed_size_partitioner(2))
    made(partitioner=vs.fixed_size_partitioner(2))


@refusal("VariableMissingError.of")
def _():
    made()
    with vs.variable_scope("a", reuse=True):
        try:
            get("w")
        except vs.errors.VariableMissingError as error:
            assert str(error) and error.similar == [] and pickle.loads(pickle.dumps(error))
            raise


@refusal("ShapeMismatchError.of")
def _():
    made()
    with vs.variable_scope("", reuse=True):
        get("v", [5])


refusal("ShapeMismatchError.of", lambda: get("v", [4], initializer=with_shape).value())
refusal("ShapeMismatchError.of", lambda: get("v", [4]).assign([1]))


@refusal("DTypeMismatchError.of")
def _():
    made()
    with vs.variable_scope("", reuse=True):
        get("v", dtype="int8")


refusal("DTypeMismatchError.of", lambda: get("v", [1], dtype="int8").assign([1.5]))
refusal(
    "DTypeMismatchError.of",
    lambda: get("v", [1], dtype="int8", initializer=lambda shape, dtype: np.ones(shape)).value(),
)
for what in (
    lambda: get("v", [3], initializer=1.0),
    lambda: get("v", dtype="int64", initializer=0),
    lambda: get("v", [3], dtype="S4"),
    lambda: get("v", [3], initializer=vs.constant([1, 2])).value(),
    lambda: get("v", [3], initializer=vs.orthogonal()).value(),
    lambda: vs.random_normal(stddev=-1),
    lambda: vs.random_normal(mean=float("nan")),
    lambda: vs.variance_scaling(scale=0),
    lambda: vs.variance_scaling(mode="fan"),
    lambda: vs.random_uniform(2, 1),
):
    refusal("InitializerError", what)


@refusal("InitializerError")
def _():
    def reading(shape, dtype):
        return vs.get_default_graph()["v"].value()

    get("v", [3], initializer=reading).value()


refusal("DeviceError.unknown", lambda: vs.devices.resolve("nowhere"))
refusal("DeviceError.of_variable", lambda: made(caching_device="nowhere"))
for name in ("jax:cpu", "a b", "cpu"):
    refusal("DeviceError.not_registered", lambda name=name: vs.devices.register(name, len))


class FakeLibrary:
    """What stands for cupy: with one device, which holds numbers of one dtype."""

    class cuda:
        class runtime:
            @staticmethod
            def getDeviceCount():
                return 0


def with_cupy(module, device):
    before = sys.modules.get("cupy", vs)
    sys.modules["cupy"] = module
    try:
        vs.devices.resolve(device)
    finally:
        if before is vs:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before


refusal("DeviceError.not_installed", lambda: with_cupy(None, "cupy:0"))
refusal("DeviceError.absent", lambda: with_cupy(FakeLibrary, "cupy:5"))


class Refusing(vs.devices.Library):
    def transfer(self, module, place, array):
        raise TypeError("no such dtype")


refusal("DeviceError.dtype", lambda: Refusing().put(None, None, "cupy:0", np.zeros(1, "S4")))


@refusal("GraphMismatchError.of")
def _():
    values = []
    for _ in range(2):
        with vs.Graph().as_default():
            values.append(get("v", [1]))
    scope("a", values=values)


@refusal("ScopeOrderError.still_open")
def _():
    outer, inner = vs.variable_scope("a"), vs.variable_scope("b")
    outer.__enter__(), inner.__enter__()
    try:
        outer.__exit__(None, None, None)
    finally:
        inner.__exit__(None, None, None)


@refusal("ScopeOrderError.still_open")
def _():
    graph, inner = vs.Graph().as_default(), vs.variable_scope("b")
    graph.__enter__(), inner.__enter__()
    graph.__exit__(None, None, None)


refusal("ScopeOrderError.not_open", lambda: vs.variable_scope("a").__exit__(None, None, None))
refusal("ScopeOrderError.not_open", lambda: vs.Graph().as_default().__exit__(None, None, None))


@refusal("OpenScopeError.reset")
def _():
    vs.reset_default_graph()  # in the graph of the program


@refusal("OpenScopeError.reset")
def _():
    with vs.variable_scope("a"):
        vs.reset_default_graph()


@refusal("FinalizedGraphError.variable")
def _():
    vs.get_default_graph().finalize()
    made()


for what in (
    lambda: vs.adopt("v", np.zeros((2, 3)).T),
    lambda: vs.adopt("v", b"read-only"),
    lambda: vs.adopt("v", np.array([{}])),
):
    refusal("AdoptionError.of", what)
refusal("ArgumentTypeError.of", lambda: vs.adopt("v", [1.0]))


@refusal("AdoptionError.storage")
def _():
    with vs.Graph(storage="arena").as_default():
        vs.adopt("v", np.zeros(2))


@refusal("AdoptionError.cut")
def _():
    with vs.variable_scope("s", partitioner=vs.fixed_size_partitioner(2)):
        vs.adopt("v", np.zeros(2))


@refusal("AdoptionError.other_memory")
def _():
    vs.adopt("v", np.zeros(2))
    with vs.variable_scope("", reuse=True):
        vs.adopt("v", np.zeros(2))


@refusal("StorageError.taken")
def _():
    storage = vs.Arena()
    vs.Graph(storage=storage)
    vs.Graph(storage=storage)


refusal("StorageError.not_flat", lambda: vs.Graph().flat())
refusal("StorageError.not_empty", lambda: vs.Graph(storage=vs.MemoryMapped(checkpoint().parent)))


def with_changed(module, name, value, function):
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        function()
    finally:
        setattr(module, name, before)


refusal(
    "StorageError.needs_posix",
    lambda: with_changed(sys, "platform", "win32", lambda: vs.MemoryMapped("a")),
)


class FakeFuture:
    """What a cluster would have made, made here."""

    status = "finished"

    def __init__(self, key, value):
        self.key, self.value, self.lost = key, value, False

    def result(self, timeout=None):
        return self.value

    def cancelled(self):
        return self.lost


class FakeClient:
    """As much of a client of dask.distributed as a storage needs."""

    asynchronous = False

    def scatter(self, data):
        return {key: FakeFuture(key, value) for key, value in data.items()}

    def submit(self, function, *arguments, key):
        return FakeFuture(key, function(*arguments))

    def map(self, function, *arguments, key):
        called = zip(key, *arguments, strict=True)
        return [FakeFuture(name, function(*values)) for name, *values in called]


FAKE_DASK = types.SimpleNamespace(Client=FakeClient, as_completed=iter)


@contextlib.contextmanager
def on_cluster(**options):
    """A variable of a graph on what stands for a cluster."""
    before, clients.library = clients.library, lambda name="distributed": FAKE_DASK
    try:
        with vs.Graph(seed=1, storage=vd.Cluster(FakeClient())).as_default():
            yield get("v", [4], **options)
    finally:
        clients.library = before


@program()
def on_a_cluster():
    with on_cluster(partitioner=vs.fixed_size_partitioner(2)) as v:
        vs.initialize(v)
        v.assign(v.value() + 1)
        v += 1
        v[0].initialize(force=True)


@refusal("StorageError.no_array")
def _():
    with on_cluster() as v:
        v.array  # noqa: B018


@refusal("StorageError.no_values")
def _():
    vs.transform(lambda: asking() and vs.global_variables()[0].value()).apply(entries())


refusal("ParameterError.missing", lambda: vs.transform(asking).apply({"a/v": np.zeros(2)}))
refusal(
    "ParameterError.twice",
    lambda: vs.transform(asking).apply({**entries(), "a": {"w": np.zeros(2)}}),
)
refusal("ParameterError.no_tree", lambda: jax.nest({"a": 1, "a/b": 2}))
refusal("ParameterError.no_tree", lambda: jax.nest({"a/b": 2, "a": 1}))


@refusal("StorageError.not_copied")
def _():
    with on_cluster() as v:
        copy.deepcopy(v.graph)


@refusal("StorageError.not_on_cluster")
def _():
    made(initializer=vs.zeros)
    vd.map_shards(max, vs.get_default_graph().variables)


@refusal("StorageError.lost")
def _():
    with on_cluster(initializer=lambda shape, dtype: np.zeros(shape, dtype)) as v:
        v.value()
        v._content.future.lost = True
        v.value()


@refusal("StorageFullError.arena")
def _():
    with vs.Graph(storage=vs.Arena(capacity=4096)).as_default():
        get("v", [2000], initializer=vs.zeros).value()


def no_room(*arguments, **options):
    raise OSError(12, "no room")


@refusal("StorageFullError.refused")
def _():
    with vs.Graph(storage="arena").as_default():
        v = get("v", [20], initializer=vs.zeros)
        with_changed(vs.storage.mmap, "mmap", no_room, v.value)


@refusal("StorageFullError.file")
def _():
    folder = tempfile.mkdtemp(dir=FOLDER)
    try:
        with vs.Graph(storage=vs.MemoryMapped(folder)).as_default():
            get("v", [2], initializer=vs.zeros).value()
            get("w", [1 << 50], initializer=vs.zeros).value()
    finally:
        shutil.rmtree(folder)


def written(name, data):
    path = FOLDER / name
    if not path.exists():
        path.write_bytes(data)
    return path


for name, data in (
    ("empty.safetensors", b""),
    ("short.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
    ("bad.safetensors", b"\x02\0\0\0\0\0\0\0[]"),
    ("bad.index", b"\0" * 100),
):
    refusal("CheckpointError.of", lambda name=name, data=data: vs.open(written(name, data)))


@refusal("CheckpointError.flipped")
def _():
    data = bytearray(checkpoint().read_bytes())
    data[-1] ^= 1
    with vs.open(written("flipped.safetensors", data)) as opened:
        opened.verify()


@refusal("CheckpointError.closed")
def _():
    with vs.open(checkpoint()) as opened:
        pass
    opened["w"].numpy()


@refusal("RestoreError")
def _():
    made()
    get("large", [2], dtype="int8")
    vs.restore(vs.get_default_graph(), checkpoint())


for rules in ([{"glob": "a**b", "to": "c"}], [{"to": "c"}], 5, [{"regex": "(", "to": "c"}]):
    refusal("NameMapError", lambda rules=rules: vs.NameMap(rules))


@refusal("PlanError.of")
def _():
    (FOLDER / "no.plan").write_text("nothing")
    vs.Plan.load(FOLDER / "no.plan")


@refusal("PlanError.of")
def _():
    made(initializer=vs.zeros)
    plan = vs.plan(vs.get_default_graph(), FOLDER / "other", workers=2)
    vs.materialise(plan.for_worker(0), 1)


@refusal("PlanError.unplannable")
def _():
    made(initializer=with_shape)
    vs.plan(vs.get_default_graph(), FOLDER / "other", workers=1)


@refusal("PlanError.unfinished")
def _():
    made(initializer=vs.zeros)
    vs.finish(vs.plan(vs.get_default_graph(), FOLDER / "other", workers=1))


@refusal("WithdrawnError.of")
def _():
    kept = []

    def fails(getter, *arguments, **options):
        kept.append(getter(*arguments, **options))
        raise KeyError

    raises(KeyError, made, custom_getter=fails)
    _ = kept[0].name


refusal("NotCoveredError.of", lambda: tf1.reduce_mean)
refusal("NotCoveredError.of", lambda: tf1.Session().run(5, feed_dict={"x": 1}))


@refusal("PictureError.of")
def _():
    class Figure:
        def to_dict(self):
            raise OSError("no browser")

    kaleido, before = types.ModuleType("kaleido"), sys.modules.get("kaleido")
    kaleido.calc_fig_sync = no_room
    sys.modules["kaleido"] = kaleido
    try:
        vs.plots.write(Figure(), FOLDER / "a.svg")
    finally:
        if before is None:
            del sys.modules["kaleido"]
        else:
            sys.modules["kaleido"] = before


# --- how they are run


def run(name):
    with vs.Graph(seed=1).as_default():
        PROGRAMS[name]()


# What lives as long as the process: how often it is referred to tells of references that are
# never given back, which no count of objects shows.
LASTING = []
COUNTED = ["objects", "blocks", "references"]
if hasattr(sys, "gettotalrefcount"):
    COUNTED.append("all references")


def warm():
    """Run everything before the first fork, so that nothing is made for the first time later."""
    global FOLDER
    if sys.version_info[:2] == (3, 12):
        # That version never lets an interned text go, and its pathlib interns each part of a path:
        # every save, whose files have names of their own, would leave some behind.
        pathlib.sys = types.SimpleNamespace(**{**vars(sys), "intern": lambda text: text})
    FOLDER = Path(tempfile.mkdtemp())
    for name in PROGRAMS:
        run(name)
        run(name)
    gc.collect()
    LASTING[:] = [None, True, False, NotImplemented, Ellipsis, (), "", b""]
    # Not float64, to which ones() and zeros() of NumPy 2.4 leave a reference each.
    LASTING.extend(map(np.dtype, ["f2", "f4", "i4", "i8"]))
    LASTING.extend(filter(is_ours, gc.get_objects()))
    gc.freeze()


def is_ours(thing):
    module = getattr(thing, "__module__", None)
    return isinstance(module, str) and module.startswith("varscope")


def count(numbers):
    """Write down what there is, in a place that is there already."""
    gc.collect()
    numbers[0] = len(gc.get_objects())
    numbers[1] = sys.getallocatedblocks()
    numbers[2] = sum(map(sys.getrefcount, LASTING))
    if len(COUNTED) > 3:
        numbers[3] = sys.gettotalrefcount()


def growing(name, repetitions, rounds):
    """What there is more of after each round of repetitions: {what: by how much each time}.

    It ends with the first round behind which nothing was found that grows in all of them.  Caches
    of Python and NumPy fill for a while, by less and less, so blocks count where there is at least
    one more for each repetition.
    """
    width, ignored = len(COUNTED), []
    before, after = array.array("q", [0] * width), array.array("q", [0] * width)
    suspects = {what: array.array("q", [0] * rounds) for what in COUNTED}
    sys.unraisablehook = lambda told: ignored.append(f"{told.exc_value!r} in {told.object!r}")
    for _ in range(repetitions):
        run(name)
    for i in range(rounds):
        count(before)
        for _ in range(repetitions):
            run(name)
        count(after)
        for at, what in enumerate(COUNTED):
            grown = after[at] - before[at]
            if what in suspects and grown < (repetitions if what == "blocks" else 1):
                del suspects[what]
            elif what in suspects:
                suspects[what][i] = grown
        if not suspects:
            break
    return {what: list(grown) for what, grown in suspects.items()}, ignored


def stated(name):
    """The methods of errors that a program calls, as in "ReuseError.unusable"."""
    called = []

    def noting(full_name, method):
        def note(cls, *arguments, **options):
            called.append(full_name)
            return method.__func__(cls, *arguments, **options)

        return classmethod(note)

    for kind in vars(vs.errors).values():
        if isinstance(kind, type) and kind.__module__ == vs.errors.__name__:
            for method_name, method in list(vars(kind).items()):
                if isinstance(method, classmethod):
                    full_name = f"{kind.__name__}.{method_name}"
                    setattr(kind, method_name, noting(full_name, method))
    run(name)
    return called


def tidy():
    shutil.rmtree(FOLDER)
