"""What a graph returns can be written to, or not; never can it be turned against the graph."""

import contextlib
import copy
import pickle

import numpy as np
import pytest
from requires import on_posix, set_shape

import varscope as vs
from varscope.variables import Content

pytestmark = [
    pytest.mark.promise("aliasing"),
    pytest.mark.filterwarnings("ignore:Setting the:DeprecationWarning"),  # of an array, NumPy 2.5
]

STORAGES = ["heap", "arena", pytest.param("files", marks=on_posix)]
SHAPE = (2, 3)


@pytest.fixture(params=STORAGES)
def graph(request, tmp_path):
    files = request.param == "files"
    return vs.Graph(
        seed=1, storage=vs.MemoryMapped(tmp_path / "values") if files else request.param
    )


@pytest.fixture
def v(graph):
    with graph.as_default():
        return vs.get_variable("v", SHAPE, initializer=vs.ones)


def facts(v):
    """All that the arrays say which others get of this variable."""
    arrays = v.array, v.value(), np.asarray(v), np.asarray(memoryview(v)), v.numpy()
    return [(a.shape, a.dtype, a.strides) for a in arrays], [a.flags.writeable for a in arrays]


SOURCES = {
    "array": lambda v: v.array,
    "value": lambda v: v.value(),
    "asarray": np.asarray,
    "index": lambda v: v[...],
    "dlpack": np.from_dlpack,
}
READ_ONLY = ["value", "index"]
DEEDS = {
    "shape": lambda a: setattr(a, "shape", (6,)),
    "dtype": lambda a: setattr(a, "dtype", "int32"),
    "strides": lambda a: setattr(a, "strides", (0, 0)),
    "resize": lambda a: a.resize((50,), refcheck=False),
    "read-only": lambda a: a.setflags(write=False),
    "unaligned": lambda a: a.setflags(align=False),
    "state": lambda a: a.__setstate__((1, (1,), np.dtype("f4"), False, b"abcd")),
}


@pytest.mark.fails_without(
    "src/varscope/variables.py", "while not self.array.flags.writeable:", "while False:"
)
@pytest.mark.parametrize("whole", [True, False])
def test_what_two_threads_made_of_one_array_can_be_written_to(whole):
    """Each of those who fill a large variable offers its array, and one offer counts."""
    array = np.zeros(4) if whole else np.zeros(8)[:4]
    for content in [Content(array) for _ in range(3)]:
        content.write(1, 2.0)
        assert content.view.tolist() == [0, 2, 0, 0] and not content.view.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            content.view.view().setflags(write=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer NumPy would rather not have them
@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.fails_without(
    "src/varscope/variables.py",
    "return self._materialised().array.view()",
    "return self._materialised().array",
)
@pytest.mark.fails_without(
    "src/varscope/variables.py",
    "return content.view.view() if device is None",
    "return content.view if device is None",
)
def test_what_is_done_to_an_array_is_done_to_that_one_only(v, source, deed, tally):
    before = facts(v)
    array = source(v)
    with contextlib.suppress(ValueError):  # NumPy refuses some of it; what, is up to its version
        deed(array)
    tally("arrays maltreated")
    del array
    assert facts(v) == before
    assert v.shape == SHAPE and v.dtype == "float32" and v.nbytes == 24
    v.assign(np.full(SHAPE, 5.0))
    v.assign_add(np.ones(SHAPE))
    assert v.numpy().tolist() == [[6.0] * 3] * 2
    assert pickle.loads(pickle.dumps(v)).numpy().tolist() == v.numpy().tolist()


@pytest.mark.parametrize("source", READ_ONLY)
@pytest.mark.fails_without(
    "src/varscope/variables.py",
    """            owner.flags.writeable = False
            view = array if owner is array else array.view()
""",
    """            view = array.view()
""",
)
@pytest.mark.fails_without(
    "src/varscope/storage.py", "found.bytes if writable else found.read_only", "found.bytes"
)
def test_a_read_only_array_cannot_be_made_writable(v, source):
    seen = SOURCES[source](v)
    with pytest.raises(ValueError, match="read-only"):
        seen[...] = 9
    for array in (seen, seen[1:], seen.T, seen.reshape(-1), seen.view(np.uint32)):
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    with pytest.raises((TypeError, ValueError, BufferError)):
        memoryview(seen)[0, 0] = 9
    with pytest.raises(ValueError):
        np.add(seen, 1, out=seen)
    assert v.numpy().tolist() == np.ones(SHAPE).tolist() and v.version == 1
    v.array[...] = 7
    assert seen.tolist() == [[7] * 3] * 2


@pytest.mark.fails_without(
    "src/core/slabs.pxi", "self.source.len, self.read_only, flags)", "self.source.len, 0, flags)"
)
def test_the_memory_behind_a_read_only_array_of_a_slab_is_read_only_too(v):
    base = v.value().base
    while isinstance(base, np.ndarray):
        with pytest.raises(ValueError, match="read-only"):
            base[...] = 9
        base = base.base
    if base is not None:
        assert memoryview(base).readonly


def test_a_large_variable_that_threads_fill_is_given_away_in_the_same_way(graph):
    with graph.as_default():
        v = vs.get_variable("large", [300_000], initializer=vs.random_normal())
    vs.initialize([v], threads=2)
    with pytest.raises(ValueError, match="WRITEABLE"):
        v.value().setflags(write=True)
    v.array.flags.writeable = False
    v.array[0] = 1
    set_shape(v.array, (3, 100_000))
    assert v.array.shape == v.value().shape == (300_000,) and v.value()[0] == 1


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.fails_without(
    "src/varscope/creation.py",
    "Content(*storage_of(request.initializer.array))",
    "Content(request.initializer.array)",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer NumPy would rather not have them
def test_memory_that_was_adopted_is_given_away_in_the_same_way(deed):
    array = np.ones(SHAPE, np.float32)
    v = vs.adopt("v", array)
    before = facts(v)
    for source in SOURCES.values():
        with contextlib.suppress(ValueError):
            DEEDS[deed](source(v))
        assert facts(v) == before
    if deed not in ("resize", "state"):  # which may move the memory, whoever shows it
        with contextlib.suppress(ValueError):
            DEEDS[deed](array)
        assert facts(v) == before
    v.assign(np.full(SHAPE, 5.0))
    assert v.numpy().tolist() == [[5.0] * 3] * 2
    for name in READ_ONLY:
        with pytest.raises(ValueError, match="WRITEABLE"):
            SOURCES[name](v).setflags(write=True)


@pytest.mark.parametrize("slices", [1, 2])
def test_what_a_variable_in_parts_returns(graph, slices):
    with graph.as_default():
        v = vs.get_variable(
            "v", [4], initializer=vs.ones, partitioner=vs.fixed_size_partitioner(slices)
        )
    value = v.value()
    with pytest.raises(ValueError, match="read-only"):
        value[...] = 9
    if slices == 1:
        with pytest.raises(ValueError, match="WRITEABLE"):
            value.setflags(write=True)
        assert np.shares_memory(value, v[0].array)
    else:  # a copy of its own
        value.setflags(write=True)
        value[...] = 9
    set_shape(value, (2, 2))
    shards = v[:]
    shards.clear()
    for given in (v.partitions, v.shape, v[0].save_slice_info.var_offset):
        assert type(given) is tuple
    with pytest.raises(AttributeError):
        v[0].save_slice_info.full_name = "other"
    assert len(v) == slices and v.numpy().tolist() == [1] * 4 and v.value().shape == (4,)


def test_a_copy_is_not_the_storage(v):
    for array in (v.numpy(), v + 0, np.array(v), v.initial_value()):
        array[...] = 9
        assert not np.shares_memory(array, v.array)
    assert v.numpy().tolist() == np.ones(SHAPE).tolist()


# --- what is handed in


@pytest.mark.parametrize("kind", ["array", "list", "constant", "function", "view of one"])
@pytest.mark.fails_without(
    "src/varscope/initializers.py",
    "value = np.array(initializer, dtype=kinds.get(type(initializer)))",
    "value = np.asarray(initializer, dtype=kinds.get(type(initializer)))",
)
@pytest.mark.fails_without(
    "src/varscope/storage.py",
    """        own = np.empty(values.shape, variable.dtype)
        own[...] = values
        return self._put""",
    """        own = np.asarray(values, variable.dtype)
        return self._put""",
)
def test_what_is_handed_in_is_copied(graph, kind):
    given = [1.0, 2.0] if kind == "list" else np.array([1.0, 2.0], np.float32)
    initializer = {
        "constant": lambda: vs.constant(given),
        "function": lambda: lambda shape, dtype: given,
        "view of one": lambda: given[:],
    }.get(kind, lambda: given)()
    shape = None if initializer is given or kind == "view of one" else [2]
    with graph.as_default():
        early, late = (vs.get_variable(n, shape, initializer=initializer) for n in ("a", "b"))
        early.initialize()
        if kind != "function":
            given[0] = 9.0
        assert late.numpy().tolist() == [1, 2]
    given[1] = 9.0
    assert early.numpy().tolist() == late.numpy().tolist() == [1, 2]
    late.array[...] = 5
    assert given[1] == 9.0 and early.numpy().tolist() == [1, 2]
    if kind != "function":
        assert late.initialize(force=True).numpy().tolist() == [1, 2]
    if kind != "list":
        assert given.flags.writeable


def test_what_is_assigned_is_copied(v):
    given = np.zeros(SHAPE, np.float32)
    v.assign(given)
    with v.graph.as_default():
        fresh = vs.get_variable("fresh", SHAPE).assign(given)
    given[...] = 9
    assert not v.numpy().any() and not fresh.numpy().any()
    assert given.flags.writeable


@pytest.mark.fails_without(
    "src/varscope/initializers.py",
    "        return self._kept.view()\n",
    "        return self._kept\n",
)
def test_the_array_of_an_initializer_stays_what_it_was():
    v = vs.get_variable("v", initializer=np.arange(6))
    w = vs.get_variable("w", [6], initializer=vs.constant(range(6)))
    for array in (v.initializer.array, w.initializer.value):
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)
    for initializer in (v.initializer, pickle.loads(pickle.dumps(v.initializer, 5))):
        set_shape(initializer.array, (2, 3))
        with pytest.raises(ValueError, match="WRITEABLE"):
            initializer.array.setflags(write=True)
        assert initializer.array.shape == (6,)
    assert v.numpy().tolist() == w.numpy().tolist() == list(range(6))


def test_lists_that_are_handed_in_may_be_changed_later():
    collections, shape = ["mine"], [2, 3]
    slices, penalties = [2, 1], [vs.l1_regularizer(1.0)]
    regularizer = vs.sum_regularizer(penalties)
    v = vs.get_variable("v", shape, collections=collections, regularizer=regularizer)
    p = vs.get_variable("p", [4, 1], partitioner=lambda shape, dtype: slices)
    collections.append("other")
    shape.append(7)
    slices[0] = 1
    penalties.clear()
    g = vs.get_default_graph()
    assert v in g.get_collection("mine") and g.get_collection("other") == []
    assert v.shape == SHAPE and v.value().shape == SHAPE
    assert p.partitions == (2, 1) and [shard.shape for shard in p] == [(2, 1)] * 2
    assert len(g.get_regularization_losses()) == 1
    assert g.get_regularization_losses()[0].value() == pytest.approx(np.abs(v.numpy()).sum())


# --- what is returned besides arrays


def lists_of(g, scope):
    return {
        "collection": g.get_collection(vs.GraphKeys.GLOBAL_VARIABLES),
        "mine": g.get_collection("mine"),
        "losses": g.get_regularization_losses(),
        "trainable": g.trainable_variables(),
        "of scope": scope.global_variables(),
        "found": g.find("**"),
        "slice of variables": g.variables[:],
        "names": list(g),
    }


def test_lists_that_are_returned_are_copies():
    g = vs.get_default_graph()
    with vs.variable_scope("s", regularizer=vs.l2_regularizer(1.0)) as scope:
        for name in "ab":
            vs.get_variable(name, [2])
    g.add_to_collection("mine", "thing")
    before = lists_of(g, scope)
    assert all(before.values())
    for given in lists_of(g, scope).values():
        given.reverse()
        given.append(None)
        given[0] = "other"
        del given[1:]
    assert lists_of(g, scope) == before and len(g) == 2


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (lambda: vs.get_default_graph().variables, "0"),
        (lambda: vs.get_default_graph()["v"].shape, "0"),
        (lambda: vs.get_default_graph()["v"].creation_site, "0"),
        (lambda: vs.get_default_graph().variables, None),
    ],
)
def test_sequences_that_are_shown_cannot_be_written_to(of, name):
    vs.get_variable("v", [2])
    sequence = of()
    with pytest.raises(TypeError):
        sequence[0] = None
    with pytest.raises(TypeError):
        del sequence[0]
    assert not hasattr(sequence, "append")


NAMES = [
    "name", "op_name", "path", "shape", "dtype", "trainable", "initializer", "regularizer",
    "constraint", "graph", "device", "caching_device", "creation_site", "initialized", "version",
    "array", "save_slice_info", "size", "nbytes", "ndim",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_a_variable_is_cannot_be_set(name):
    v = vs.get_variable("v", [2])
    with pytest.raises(AttributeError):
        setattr(v, name, None)
    with pytest.raises(AttributeError):
        delattr(v, name)
    assert v.shape == (2,) and v is vs.get_default_graph()["v"]


def test_facts_of_an_error_are_not_the_graph_s():
    with vs.variable_scope("s"):
        vs.get_variable("weights", [2])
        with vs.variable_scope("", reuse=True), pytest.raises(ValueError) as caught:
            vs.get_variable("weight")
    caught.value.similar.clear()
    assert vs.get_default_graph().find("s/*")[0].name == "s/weights:0"


# --- copies


DUPLICATES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda g: pickle.loads(pickle.dumps(g, 5)),
}


@pytest.mark.parametrize("duplicate", DUPLICATES.values(), ids=DUPLICATES)
@pytest.mark.fails_without(
    "src/varscope/variables.py",
    "as_it_is = values.flags.owndata and values.dtype == self.dtype",
    "as_it_is = True",
)
def test_the_copy_of_a_graph_has_storage_of_its_own(graph, v, duplicate):
    v.initialize()
    twin = duplicate(graph)["v"]
    assert not np.shares_memory(twin.array, v.array)
    twin.array[...] = 7
    v.assign_add(np.ones(SHAPE))
    assert v.numpy().tolist() == [[2.0] * 3] * 2 and twin.numpy().tolist() == [[7.0] * 3] * 2
    with pytest.raises(ValueError, match="WRITEABLE"):
        twin.value().setflags(write=True)


@pytest.mark.parametrize("kind", [None, bytes, bytearray])
@pytest.mark.fails_without(
    "src/varscope/variables.py",
    "as_it_is = values.flags.owndata and values.dtype == self.dtype",
    "as_it_is = True",
)
def test_values_that_are_pickled_beside_are_copied(graph, v, kind):
    """Out of the pickle, that is: what `pickle` calls out-of-band buffers."""
    v.initialize()
    buffers = []
    data = pickle.dumps(graph, 5, buffer_callback=buffers.append)
    given = buffers if kind is None else [kind(buffer.raw()) for buffer in buffers]
    twin = pickle.loads(data, buffers=given)["v"]
    twin.assign(np.full(SHAPE, 7.0))
    twin.array[0, 0] = 3
    assert v.numpy().tolist() == np.ones(SHAPE).tolist()
    if kind is bytearray:
        for buffer in given:
            buffer[:] = bytes(len(buffer))
    assert twin.numpy().tolist() == [[3, 7, 7], [7, 7, 7]]
    with pytest.raises(ValueError, match="WRITEABLE"):
        twin.value().setflags(write=True)


def test_a_fortran_ordered_array_that_is_pickled_comes_back(graph):
    with graph.as_default():
        v = vs.get_variable("f", initializer=np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    twin = pickle.loads(pickle.dumps(graph))["f"]
    assert twin.numpy().tolist() == v.numpy().tolist() == [[0, 1, 2], [3, 4, 5]]


# --- checkpoints


@pytest.mark.parametrize("name", ["model.safetensors", "model"])
@on_posix
def test_views_of_a_checkpoint_survive_later_saves(tmp_path, name, tally):
    with vs.Graph(seed=1).as_default() as graph:
        v = vs.get_variable("v", [3000], initializer=vs.ones)
    path, views = tmp_path / name, []
    for number in range(5):
        v.assign(np.full(3000, number))
        vs.save(graph, path)
        views.append((vs.open(path), vs.open(path)["v"].value()))
        tally("saves over views")
        for held, (checkpoint, view) in enumerate(views):
            assert (view == held).all() and (checkpoint["v"][5:7] == held).all()
    for _, view in views:
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.setflags(write=True)
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1


@on_posix
def test_a_restored_variable_is_not_the_file(tmp_path, graph, v):
    path = tmp_path / "model.safetensors"
    vs.save(graph, path)
    with vs.open(path) as opened:
        vs.restore(graph, path)
        v.array[...] = 9
        assert opened["v"].numpy().tolist() == np.ones(SHAPE).tolist()
        opened.verify()
        vs.save(graph, path)
    assert (vs.open(path)["v"].value() == 9).all()
    with pytest.raises(ValueError, match="WRITEABLE"):
        v.value().setflags(write=True)
