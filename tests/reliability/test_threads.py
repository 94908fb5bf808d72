"""What threads see of a graph in which others create, and take back what they created.

More of them are in test_isolation.py and test_free_threading.py.
"""

import contextlib
import copy
import itertools
import pickle
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import varscope as vs
from varscope import errors, generating
from varscope import graph as graphs

pytestmark = [pytest.mark.promise("threads"), pytest.mark.usefixtures("hasty_switching")]
THREADS = 8
PATIENCE = 60


@pytest.fixture
def needs_safetensors():
    pytest.importorskip("safetensors", reason="vs.save needs the library safetensors")


# --- who creates


@pytest.mark.parametrize(
    ("reuse", "rounds"),
    [(False, 1000), (vs.AUTO_REUSE, 1000)],
    ids=["exists", "shared"],
)
@pytest.mark.fails_without(
    "src/varscope/creation.py",
    """        if made is not None:
            return made
        # Another thread was quicker: look again.
""",
    """        return made  # type: ignore[return-value]
""",
)
def test_eight_threads_ask_for_a_name_at_once(reuse, rounds, tally):
    """One creates it, though each takes its time to plan what it would create; no op name is two.

    In half of the rounds the name is taken already as that of an op.
    """

    def ask(thread):
        got, created, op_names = [], [], []
        with graph.as_default(), vs.variable_scope("", reuse=reuse or None):
            for number in range(rounds):
                turn.wait(PATIENCE)
                try:
                    # An array is never remembered: each is planned anew.
                    v = vs.get_variable(f"v{number}", initializer=np.zeros(2, np.float32))
                    created.append(v.path)
                    got.append(v)
                except errors.VariableExistsError:
                    pass
                op_names.append(graph.unique_name(f"v{number}"))
        return got, created, op_names

    graph, turn = vs.Graph(seed=1), threading.Barrier(THREADS)
    for number in range(0, rounds, 2):
        graph.unique_name(f"v{number}")
    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(ask, range(THREADS)))
    names = [f"v{number}" for number in range(rounds)]
    if reuse:
        for same in zip(*(got for got, _, _ in answers), strict=True):
            assert len(set(map(id, same))) == 1
    else:
        created = itertools.chain.from_iterable(created for _, created, _ in answers)
        assert sorted(created) == sorted(names)
    assert [v.path for v in graph.variables] == names
    taken = [name for *_, op_names in answers for name in op_names] + list(graph)
    assert len(set(taken)) == len(taken)
    tally("rounds of eight threads", rounds)


# --- while others take back what they created


class Refused(Exception):
    pass


class Failing:
    """A thread that has created and is about to take it back: when it is told to."""

    def __init__(self, graph, *names):
        self.graph, self.names = graph, names
        self.created, self.go_on = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        assert self.created.wait(PATIENCE)

    def run(self):
        def failing(getter, full_name, **arguments):
            for name in self.names:
                if name.endswith("parts"):
                    getter(name, shape=[4], partitioner=vs.fixed_size_partitioner(2))
                else:
                    getter(name, **arguments)
            self.created.set()
            assert self.go_on.wait(PATIENCE)
            raise Refused

        with self.graph.as_default(), contextlib.suppress(Refused):
            vs.get_variable("asked", [2], custom_getter=failing)

    def fail(self):
        self.go_on.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def graph_with(*names):
    graph = vs.Graph(seed=1)
    with graph.as_default():
        for name in names:
            vs.get_variable(name, [2], initializer=vs.constant(len(name)))
    return graph


def late_ones(graph, *names):
    with graph.as_default():
        for name in names:
            vs.get_variable(name, [2], initializer=vs.zeros, regularizer=vs.l2_regularizer(1.0))


def meanwhile(monkeypatch, place, name, action):
    """Do something right behind the first call of a function, before its result is used."""
    plain, done = getattr(place, name), []

    def wrapped(*args, **kwargs):
        found = plain(*args, **kwargs)
        if not done:
            done.append(True)
            action()
        return found

    monkeypatch.setattr(place, name, wrapped)


LOOKS = {
    "a collection": ("_rows_in", lambda g: g.get_collection("trainable_variables")),
    "the losses": ("_regularized", lambda g: [x.variable for x in g.get_regularization_losses()]),
    "a regex": ("_op_names", lambda g: g.find(re.compile("late"))),
    "a slice": ("_count", lambda g: g.variables[1:]),
    "all": ("_count", lambda g: list(g.variables)),
}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("more", [1, 3])
@pytest.mark.fails_without(
    "src/varscope/graph.py",
    """        else:
            if graph._removed() == removed:
                return found
""",
    """        else:
            return found
""",
)
def test_a_look_at_all_is_not_mixed_up_by_rows_that_move(look, more, monkeypatch, tally):
    method, ask = LOOKS[look]
    graph = graph_with("first")
    failing = Failing(graph, *(f"gone{i}" for i in range(more)))
    names = [f"late{i}" for i in range(5)]
    late_ones(graph, *names)
    others = [f"other{i}" for i in range(more)]  # which stand in rows that others have left
    with graph.as_default():
        for name in others:
            vs.get_variable(name, [2], trainable=False)
    meanwhile(monkeypatch, graphs.Graph, method, failing.fail)
    found = [variable.path for variable in ask(graph)]
    before = ["first"] if look in ("a collection", "all") else []
    behind = others if look in ("a slice", "all") else []
    assert found == before + names + behind
    tally("looks")


def test_a_loop_over_all_skips_nothing_and_repeats_nothing(monkeypatch, tally):
    """Wherever it is when those that it has passed are taken back."""
    monkeypatch.setattr(graphs, "STRETCH", 4)
    for at, before, count in itertools.product(range(14), [0, 3, 9], [1, 5, 9]):
        graph = graph_with(*(f"a{i}" for i in range(before)))
        failing = Failing(graph, *(f"gone{i}" for i in range(count)))
        late_ones(graph, *(f"b{i}" for i in range(7)))
        seen, loop = [], iter(graph.variables)
        for _ in range(at):
            with contextlib.suppress(StopIteration):
                seen.append(next(loop).path)
        failing.fail()
        for variable in loop:
            with contextlib.suppress(errors.WithdrawnError):
                seen.append(variable.path)
        kept = [path for path in seen if not path.startswith("gone")]
        assert kept == [f"a{i}" for i in range(before)] + [f"b{i}" for i in range(7)]
        assert len(set(seen)) == len(seen)
        tally("loops")


def test_an_op_name_leads_to_its_variable_though_rows_move(monkeypatch):
    graph = vs.Graph()
    failing = Failing(graph, "gone")
    with graph.as_default():
        graph.unique_name("w")
        renamed = vs.get_variable("w", [1])
        other = vs.get_variable("x", [1])
    assert renamed.op_name == "w_1"
    failing.fail()
    assert graph["w_1"] is renamed is graph["w"] and graph["x"] is other


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "graft"])
def test_a_copy_is_of_one_moment(how, monkeypatch):
    """All of it is read in one step; what is taken back behind that was there."""
    graph = graph_with("first")
    failing = Failing(graph, "gone", "parts")
    late_ones(graph, "late")
    graph["late"].assign([1, 2])
    graph.add_to_collection("mine", graph["late"])
    graph.add_to_collection("mine", "text")
    names = list(graph)
    meanwhile(monkeypatch, generating if how == "graft" else graphs, "excerpt_at", failing.fail)
    if how == "graft":
        twin = vs.Graph()
        twin.graft(graph, "")
    else:
        twin = copy.deepcopy(graph) if how == "deepcopy" else pickle.loads(pickle.dumps(graph))
    assert list(graph) == ["first", "late"] and len(names) > 3
    assert list(twin) == names
    assert len(twin["parts"]) == len([name for name in names if name.startswith("parts/")])
    assert twin.get_collection("mine") == [twin["late"], "text"]
    assert twin["late"].numpy().tolist() == [1, 2] and twin["late"].regularizer is not None


@pytest.mark.parametrize("name", ["model.safetensors", "model"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.fails_without(
    "src/varscope/checkpoint/saving.py",
    "if graph._removed() == removed:",
    "if True:",
)
def test_a_save_goes_on_without_what_is_taken_back(
    needs_safetensors, tmp_path, name, threads, monkeypatch
):
    from varscope.checkpoint import saving

    graph = graph_with("first")
    failing = Failing(graph, "gone")
    late_ones(graph, "late")
    meanwhile(monkeypatch, saving, "Tensors", failing.fail)
    vs.save(graph, tmp_path / name, threads=threads, progress=False)
    with vs.open(tmp_path / name) as saved:
        assert {key: tensor.numpy().tolist() for key, tensor in saved.items()} == {
            "first": [5, 5], "late": [0, 0],
        }  # fmt: skip


@pytest.mark.fails_without(
    "src/varscope/checkpoint/fitting.py",
    "return unmoved(graph, lambda: cls(graph))",
    "return cls(graph)",
)
def test_a_restore_does_not_mix_up_what_moves(needs_safetensors, tmp_path, monkeypatch):
    graph = graph_with("first")
    failing = Failing(graph, "gone")
    with graph.as_default():
        for i in range(4):
            vs.get_variable(f"late{i}", [i + 3], initializer=vs.constant(i))
    twin = copy.deepcopy(graph)
    vs.save(twin, tmp_path / "m", progress=False)
    meanwhile(monkeypatch, graphs.Graph, "_op_names", failing.fail)
    report = vs.restore(graph, tmp_path / "m", partial=True, progress=False)
    assert report.restored == ["first", *(f"late{i}" for i in range(4))]
    assert graph["late3"].numpy().tolist() == [3] * 6


def test_what_fails_again_and_again_beside_all_ways_to_look(tally):
    graph = graph_with(*(f"m/v{i}" for i in range(50)))
    kept = [v.path for v in graph.variables]
    stop = threading.Event()

    def failing(getter, name, **arguments):
        getter(name, **arguments)
        getter(f"{name}_parts", shape=[4], partitioner=vs.fixed_size_partitioner(2))
        raise Refused

    def fail(number):
        with graph.as_default():
            for i in itertools.count():
                if stop.is_set():
                    return i
                with contextlib.suppress(Refused):
                    vs.get_variable(f"gone{number}_{i}", [2], custom_getter=failing)

    def paths(variables):
        found = []
        for variable in variables:
            with contextlib.suppress(errors.WithdrawnError):
                found.append(variable.path)
        return [path for path in found if not path.startswith("gone")]

    def look():
        draw = random.Random(1)
        ways = [
            lambda: paths(graph.variables),
            lambda: paths(graph.variables[:]),
            lambda: paths(graph.get_collection("variables")),
            lambda: paths(graph.find(re.compile(".*"))),
            lambda: paths(graph.find("**")),
            lambda: paths(pickle.loads(pickle.dumps(graph)).variables),
        ]
        for _ in range(60):
            assert draw.choice(ways)() == kept
        return 60

    with ThreadPoolExecutor(THREADS) as pool:
        failures = [pool.submit(fail, number) for number in range(3)]
        try:
            looks = [pool.submit(look) for _ in range(2)]
            tally("looks", sum(look.result(PATIENCE) for look in looks))
        finally:
            stop.set()
        tally("creations that failed", sum(done.result(PATIENCE) for done in failures))
    assert len(graph) == 50


# --- initialise, save and restore while others create


def creating(graph, stop, created, number):
    """Create until it is told to stop; what was created is noted behind."""
    shapes = [[2], [3, 2], []]
    with graph.as_default(), vs.variable_scope(f"t{number}"):
        for i in itertools.count():
            if stop.is_set():
                return
            if i % 5 == 4:
                vs.get_variable(f"p{i}", [4], partitioner=vs.fixed_size_partitioner(2))
            else:
                vs.get_variable(f"v{i}", shapes[i % 3])
            created[number] = i + 1
            if i > 300:
                stop.wait(0.001)


@contextlib.contextmanager
def creators(graph, count=4):
    """`created[number]` is how many that thread has surely created."""
    stop, created = threading.Event(), [0] * count
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(creating, graph, stop, created, i) for i in range(count)]
        try:
            while min(created) < 20:
                assert not any(future.done() for future in running)
            yield created
        finally:
            stop.set()
        for future in running:
            future.result(PATIENCE)


def names_until(created):
    """The names, in files, of what threads had created."""
    for number, count in enumerate(created):
        for i in range(count):
            yield f"t{number}/{'p' if i % 5 == 4 else 'v'}{i}"


def value_of(name):
    with reference.as_default(), vs.variable_scope("", reuse=vs.AUTO_REUSE):
        i = int(name.rpartition("/")[2][1:])
        if "/p" in name:
            return vs.get_variable(name, [4], partitioner=vs.fixed_size_partitioner(2)).numpy()
        return vs.get_variable(name, [[2], [3, 2], []][i % 3]).numpy()


reference = vs.Graph(seed=7)


def test_initialize_beside_threads_that_create(tally):
    graph = vs.Graph(seed=7)
    with creators(graph) as created:
        for turn in range(6):
            before = list(created)
            with graph.as_default():
                vs.initialize(threads=1 + turn % 3, progress=False)
            for name in names_until(before):
                variable = graph[name]
                parts = variable if isinstance(variable, vs.PartitionedVariable) else [variable]
                assert all(part.initialized for part in parts), name
            tally("times initialised")
    for name in random.Random(1).sample(list(names_until(created)), 50):
        np.testing.assert_array_equal(graph[name].numpy(), value_of(name))


@pytest.mark.parametrize("name", ["model.safetensors", "model"])
def test_save_beside_threads_that_create(needs_safetensors, tmp_path, name, tally):
    """A file has all that was there when it began, and nothing in part."""
    graph = vs.Graph(seed=7)
    with creators(graph) as created:
        for turn in range(4):
            before = list(created)
            vs.save(graph, tmp_path / name, threads=1 + turn % 2, progress=False)
            after = [count + 1 for count in created]
            with vs.open(tmp_path / name) as saved:
                saved.verify()
                assert set(names_until(before)) <= set(saved) <= set(names_until(after))
                for key in random.Random(turn).sample(sorted(saved), 20):
                    np.testing.assert_array_equal(saved[key].numpy(), value_of(key))
                # Of each thread all up to one of its creations: what came first is there.
                for number in range(len(created)):
                    mine = [key for key in saved if key.startswith(f"t{number}/")]
                    numbers = sorted(int(key.rpartition("/")[2][1:]) for key in mine)
                    assert numbers == list(range(len(numbers)))
            tally("times saved")


def test_restore_beside_threads_that_create(needs_safetensors, tmp_path, tally):
    """Those that the file knows get its values, all of them; the others have none yet."""
    source, graph = vs.Graph(seed=7), vs.Graph(seed=7)
    names = list(names_until([40] * 4))
    with source.as_default():
        for name in names:
            i = int(name.rpartition("/")[2][1:])
            if "/p" in name:
                vs.get_variable(name, [4], partitioner=vs.fixed_size_partitioner(4))
            else:
                vs.get_variable(name, [[2], [3, 2], []][i % 3])
    for variable in source.variables:
        variable.assign(np.full(variable.shape, variable._index, np.float32))
    vs.save(source, tmp_path / "m", progress=False)
    with creators(graph) as created:
        while min(created) < 40:
            pass
        for turn in range(6):
            if turn % 2:
                report = vs.restore(
                    graph, tmp_path / "m", partial=True, threads=1 + turn % 3, progress=False
                )
                assert len(report.restored) == len(names), report
            else:
                with pytest.raises(errors.RestoreError):
                    vs.restore(graph, tmp_path / "m", threads=2, progress=False)
            tally("times restored")
    for name in names:
        np.testing.assert_array_equal(graph[name].numpy(), source[name].numpy())
    for name in names_until(created):
        if name not in source:
            variable = graph[name]
            parts = variable if isinstance(variable, vs.PartitionedVariable) else [variable]
            assert not any(part.initialized for part in parts), name
