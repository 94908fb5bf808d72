"""What nobody refers to any more goes, with all its variables, also where it refers to itself."""

import functools
import gc
import weakref

import numpy as np
import pytest

import varscope as vs

pytestmark = pytest.mark.promise("cycles")


class Kept(list):
    """A list that can be called for anything, and that can be watched while it goes."""

    def __call__(self, *arguments, **options):
        return "cpu"

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def zeros(kept, shape, dtype):
    return np.zeros(shape, dtype)


def whole(kept, shape, dtype):
    return [2]


def norm(kept, value):
    return 0.0


def same(kept, getter, *arguments, **options):
    return getter(*arguments, **options)


HOOKS = {
    "initializer": zeros, "regularizer": norm, "constraint": norm, "partitioner": whole,
    "custom_getter": same, "caching_device": None,
}  # fmt: skip


def hook(what, kept):
    """A function for a place in varscope, which holds a list."""
    return kept if HOOKS[what] is None else functools.partial(HOOKS[what], kept)


def dead(*references):
    gc.collect()
    return [reference() for reference in references] == [None] * len(references)


@pytest.mark.parametrize("materialised", [True, False])
@pytest.mark.parametrize("storage", ["heap", "arena"])
@pytest.mark.parametrize("of", ["scope", "call"])
@pytest.mark.parametrize("what", HOOKS)
@pytest.mark.fails_without(
    "src/core/stack.pxi",
    "        if self is PLAIN:\n            derived = graph.derived",
    "        if self is None:\n            derived = graph.derived",
)
def test_a_hook_that_holds_the_graph_and_the_variable(what, of, storage, materialised, tally):
    def build():
        kept, graph = Kept(), vs.Graph(storage=storage)
        given = {what: hook(what, kept)}
        with graph.as_default(), vs.variable_scope("a", **(given if of == "scope" else {})) as a:
            v = vs.get_variable("v", [4], **(given if of == "call" else {}))
        if materialised:
            v.numpy()
        kept += [graph, v, a, a.get_variable, v.assign]
        return weakref.ref(graph), weakref.ref(v), weakref.ref(kept)

    assert dead(*build())
    tally("cycles")


@pytest.mark.parametrize("what", HOOKS)
def test_a_hook_that_is_set_on_an_open_scope(what, tally):
    def build():
        kept, graph = Kept(), vs.Graph()
        with graph.as_default(), vs.variable_scope("a") as scope:
            getattr(scope, f"set_{what}")(hook(what, kept))
            v = vs.get_variable("v", [4])
        kept += [graph, v, scope]
        return weakref.ref(graph), weakref.ref(v), weakref.ref(kept)

    assert dead(*build())
    tally("cycles")


def test_a_template_that_holds_its_graph(tally):
    def build():
        kept, graph = Kept(), vs.Graph()

        def body():
            return kept and vs.get_variable("v", [2])

        with graph.as_default():
            template = vs.make_template("t", body)
            kept += [graph, template]
            kept.append(template())
        return weakref.ref(graph), weakref.ref(template), weakref.ref(kept)

    assert dead(*build())
    tally("cycles")


def test_an_entry_of_a_collection_that_holds_the_graph(tally):
    def build():
        kept, graph = Kept(), vs.Graph()
        with graph.as_default():
            v = vs.get_variable("v", [2], regularizer=vs.l2_regularizer(1.0))
            kept += [graph, v, *graph.get_regularization_losses(), graph.variables]
            vs.add_to_collection("mine", kept)
        return weakref.ref(graph), weakref.ref(v), weakref.ref(kept)

    assert dead(*build())
    tally("cycles")


def test_a_graph_is_no_hostage_of_an_open_checkpoint(tmp_path, tally):
    def build():
        kept, graph = Kept(), vs.Graph()
        with graph.as_default():
            v = vs.get_variable("v", [2], initializer=functools.partial(zeros, kept))
            vs.save(graph, tmp_path / "m.safetensors")
            opened = vs.open(tmp_path / "m.safetensors")
            vs.restore(graph, opened)
        kept += [graph, v, opened, opened["v"].value()]
        graph.add_to_collection("mine", opened)
        return weakref.ref(graph), weakref.ref(v), weakref.ref(opened), weakref.ref(kept)

    pytest.importorskip("safetensors")
    assert dead(*build())
    tally("cycles")


def test_an_attached_graph_and_its_host_go_together(tally):
    class Host:
        pass

    class Node:
        pass

    host, node = Host(), Node()
    node.graph = host
    vs.attach(host)
    with vs.variable_scope("s", values=[node]):
        vs.get_variable("v", [2], initializer=functools.partial(zeros, node))
    alive = weakref.ref(host)
    del host, node
    assert dead(alive)
    tally("cycles")


def test_variables_in_cyclic_garbage_with_their_graph():
    for _ in range(100):
        graph = vs.Graph()
        with graph.as_default():
            held = [vs.get_variable("v", [2])]
        held.append(held)
        del graph, held
    gc.collect()


def test_a_variable_keeps_its_graph():
    with vs.Graph().as_default():
        vs.get_variable("w", [2], initializer=vs.zeros)
        v = vs.get_variable("v", [2])
    gc.collect()
    assert len(v.graph) == 2
    assert v.graph["w"].numpy().tolist() == [0, 0]


@pytest.mark.fails_without(
    "src/varscope/partitioned.py",
    "    kept.live = weakref.ref(new)\n",
    "    kept.live = lambda: new\n",
)
def test_a_graph_with_parts_is_freed_at_once():
    gc.collect()
    gc.disable()
    try:
        with vs.Graph().as_default() as g:
            cut = vs.fixed_size_partitioner(3)
            v = vs.get_variable("v", [7], partitioner=cut, regularizer=vs.l2_regularizer(1.0))
            v.value()
            losses = vs.get_regularization_losses()
        reference = weakref.ref(g)
        del g, v, losses
        assert reference() is None
    finally:
        gc.enable()


def test_ten_thousand_graphs_leave_nothing_behind(tally):
    def build(count):
        for _ in range(count):
            kept, graph = [], vs.Graph(seed=1)
            with (
                graph.as_default(),
                vs.variable_scope("a", custom_getter=hook("custom_getter", kept)),
            ):
                v = vs.get_variable("v", [2], initializer=hook("initializer", kept))
                v.numpy()
            kept += [graph, v]
        del kept, graph, v
        gc.collect()
        with vs.Graph().as_default():
            pass
        gc.collect()
        return len(gc.get_objects())

    before = build(100)
    assert build(10_000) <= before + 5
    tally("graphs", 10_000)
