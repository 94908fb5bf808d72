"""What is public is pickled and copied, or says that it cannot be; and old pickles are readable."""

import copy
import pickle

import numpy as np
import pickled_things
import pytest
from pickled_things import ERRORS, FILES, PROTOCOLS, facts, things
from requires import on_posix

import varscope as vs

pytestmark = [
    pytest.mark.promise("pickles"),
    # The files name modules of NumPy as it had them before version 2, which still finds them.
    pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning"),
]

THINGS = things()
NAMES = list(THINGS)
COPIES = {
    **{f"protocol {n}": lambda thing, n=n: pickle.loads(pickle.dumps(thing, n)) for n in PROTOCOLS},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
each_copy = pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)


@each_copy
@pytest.mark.fails_without(
    "src/varscope/variables.py",
    "        return _variable_of, (self.graph, self.path)\n",
    "        return object.__reduce_ex__(self, 2)\n",
)
@pytest.mark.fails_without(
    "src/varscope/partitioned.py",
    "        return find_partitioned, (self._graph, self._path)\n",
    "        return object.__reduce_ex__(self, 2)\n",
)
@pytest.mark.fails_without(
    "src/varscope/errors.py",
    "        return _missing, (self.name, self.origin, self.similar, self.template)\n",
    "        return Exception.__reduce__(self)\n",
)
@pytest.mark.fails_without(
    "src/varscope/graph.py",
    '        if state["finalized"]:\n',
    "        if False:\n",
)
def test_everything_public_round_trips(duplicate, tally):
    for name, thing in THINGS.items():
        if duplicate is copy.copy and isinstance(thing, vs.Graph):
            continue  # a shallow one: what was added to collections is the same
        assert facts(duplicate(thing)) == facts(thing), name
        tally("things")


def test_errors_are_made_by_new_too():
    """As dask does with what workers raise."""
    for kind in vars(vs.errors).values():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert type(kind.__new__(kind, "text")) is kind


each_file = pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])


@each_file
@pytest.mark.fails_without(
    "src/varscope/variables.py",
    "def _variable_of(graph: Registry, path: str)",
    "def _variable_by(graph: Registry, path: str)",
)
def test_pickles_that_were_stored_are_readable(file, tally):
    """Also where the graph has grown since: what is new needs files of its own."""
    pickles = pickle.loads(file.read_bytes())
    assert len(pickles) >= 60
    for name, data in pickles.items():
        assert pickle.loads(data) is not None
        assert facts(pickle.loads(data)) == facts(THINGS[name]), name
        tally("stored pickles")


@each_file
def test_what_an_old_pickle_holds_can_be_worked_with(file):
    pickles = pickle.loads(file.read_bytes())
    g = pickle.loads(pickles["graph"])
    v = g["encoder/w"].assign_add(np.ones((2, 3)))
    assert v.numpy().tolist() == [[1, 2, 3], [4, 5, 6]]
    with g.as_default(), vs.variable_scope("encoder", reuse=vs.AUTO_REUSE):
        assert vs.get_variable("w", [2, 3]) is v
        parts = vs.get_variable("whole", partitioner=vs.fixed_size_partitioner(2))
        assert parts is g["encoder/whole"] and len(parts) == 2
        new = vs.get_variable("new", [4])
    assert new.numpy().tolist() == drawn_anew("encoder/new").tolist()
    with vs.variable_scope(pickle.loads(pickles["scope"]), reuse=vs.AUTO_REUSE):
        assert vs.get_variable("x", [1]).name == "encoder/x:0"
    with pickle.loads(pickles["finalized graph"]).as_default(), pytest.raises(RuntimeError):
        vs.get_variable("new", [1])


def drawn_anew(path):
    with vs.Graph(seed=42).as_default():
        return vs.get_variable(path, [4]).numpy()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_all_together_stay_together(protocol):
    """What belongs to one graph does so in the copy."""
    names = ["variable", "graph", "variable in parts", "shard", "loss", "variables"]
    v, g, parts, shard, loss, variables = pickle.loads(
        pickle.dumps([THINGS[name] for name in names], protocol)
    )
    assert g is not THINGS["graph"] and v.graph is g and v is g["encoder/w"] is variables[0]
    assert parts is g["encoder/whole"] and shard is parts[1] and loss.graph is g


def test_hooks_that_come_back_are_equal_and_do_the_same():
    for name in [*pickled_things.INITIALIZERS, *pickled_things.OTHERS]:
        thing = THINGS[name]
        if not isinstance(thing, (vs.Heap, vs.Arena, type)):
            for duplicate in COPIES.values():
                assert duplicate(thing) == thing, name
    v = vs.get_variable("v", [50], initializer=pickle.loads(pickle.dumps(vs.random_normal(seed=1))))
    with vs.Graph(vs.get_default_graph().seed).as_default():
        w = vs.get_variable("v", [50], initializer=vs.random_normal(seed=1))
    assert v.numpy().tolist() == w.numpy().tolist()


def test_every_error_is_here():
    assert len(ERRORS) >= 28
    for kind in (type(error) for error in ERRORS.values()):
        assert kind.__name__ in NAMES


# --- what stays where it is


def template():
    made = vs.make_template("t", vs.get_variable, name="w", shape=[2])
    made()
    return made


def saved(tmp_path):
    vs.save(THINGS["graph"], tmp_path / "m.safetensors")
    return vs.open(tmp_path / "m.safetensors")


BOUND = {
    "template": lambda tmp_path: template(),
    "checkpoint": saved,
    "tensor": lambda tmp_path: saved(tmp_path)["encoder/w"],
    "files": pytest.param(lambda tmp_path: vs.MemoryMapped(tmp_path / "values"), marks=on_posix),
}


@each_copy
@pytest.mark.parametrize("make", BOUND.values(), ids=BOUND)
@pytest.mark.fails_without(
    "src/varscope/templates.py",
    "    def __reduce__(self) -> Any:\n",
    "    def _reduce(self) -> Any:\n",
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/contents.py",
    "    def __reduce__(self) -> Any:\n",
    "    def _reduce(self) -> Any:\n",
)
def test_what_cannot_go_elsewhere_is_a_type_error(make, duplicate, tmp_path, refused):
    thing = make(tmp_path)
    if isinstance(thing, vs.StoredTensor) and duplicate is copy.copy:
        assert duplicate(thing).numpy().tolist() == thing.numpy().tolist()
        return
    with refused(TypeError, "cannot be copied or pickled"):
        duplicate(thing)


def test_every_public_class_is_here_or_there():
    shown = {type(thing) for thing in THINGS.values()} | {vs.GraphKeys}
    shown |= {vs.Template, vs.Checkpoint, vs.StoredTensor, vs.MemoryMapped}
    shown |= {vs.Plan, vs.Explanation}  # tests/test_plans.py, tests/test_explain.py
    shown |= {vs.substitute}  # below
    public = {thing for name in vs.__all__ if isinstance(thing := getattr(vs, name), type)}
    assert public - shown - {vs.Initializer} == set()  # the base of all initializers


@on_posix
def test_a_graph_in_files_is_copied_into_memory(tmp_path):
    with vs.Graph(1, vs.MemoryMapped(tmp_path / "values")).as_default() as g:
        v = vs.get_variable("v", [3], initializer=vs.ones)
    v.initialize()
    for duplicate in COPIES.values():
        twin = duplicate(g)
        assert isinstance(twin.storage, vs.Heap) and twin["v"].numpy().tolist() == [1, 1, 1]
        assert not np.shares_memory(twin["v"].array, v.array)


@each_copy
def test_a_context_manager_that_is_copied_opens_the_same(duplicate):
    with duplicate(vs.variable_scope("s", dtype="float16")) as scope, duplicate(vs.name_scope("n")):
        assert (scope.name, scope.dtype) == ("s", "float16")
        assert vs.get_default_graph().get_name_scope() == "s/n"
    with vs.substitute({"w": np.zeros(2, "float32")}) as entries:
        closed = duplicate(vs.substitute(entries))
    with closed, vs.Graph().as_default():
        assert np.array_equal(vs.get_variable("w", [2]), entries["w"])
    with duplicate(vs.Graph(seed=5).as_default()) as graph:
        assert graph.seed == 5 and vs.get_default_graph() is graph


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_graph_that_cannot_be_pickled_stays_as_it_was(protocol, refused):
    def local(shape, dtype):
        return np.zeros(shape, dtype)

    g = vs.get_default_graph()
    vs.get_variable("v", [2], initializer=local)
    with refused((AttributeError, TypeError, pickle.PicklingError)):
        pickle.dumps(g, protocol)
    assert copy.deepcopy(g)["v"].numpy().tolist() == [0, 0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_that_is_cut_is_an_error_and_changes_nothing(protocol, refused, tally):
    data = pickle.dumps(THINGS["graph"], protocol)
    with refused(Exception):
        for length in [*range(0, len(data), max(1, len(data) // 60))]:
            with pytest.raises(Exception):  # whatever `pickle` says of it  # noqa: B017
                pickle.loads(data[:length])
            tally("cut pickles")
        pickle.loads(data[:-1])
