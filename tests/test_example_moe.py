"""examples/moe.py: how many variables it declares, and what they inherit."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import varscope as vs
from varscope.summary import summarize

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "moe.py"


def load_example():
    spec = importlib.util.spec_from_file_location("moe_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


moe = load_example()


def declared(**sizes):
    graph = vs.Graph()
    with graph.as_default():
        result = moe.build(**sizes)
    return graph, result


def expected_count(layers, experts):
    each_layer = 6 * experts + 4 + 2 + 1  # experts, attention, norms, router
    return layers * each_layer + 2  # and the embeddings, and the last norm


@pytest.mark.parametrize(("layers", "experts"), [(0, 0), (1, 1), (3, 5), (4, 8)])
def test_number_of_variables(layers, experts):
    graph, _ = declared(layers=layers, experts=experts)
    assert len(graph) == expected_count(layers, experts)


@pytest.mark.slow
def test_the_size_of_the_largest_models():
    graph, _ = declared(layers=92, experts=896)
    assert len(graph) == expected_count(92, 896) > 92 * 896 * 6 == 494_592
    summary = summarize(graph)
    assert len(summary.rows) == 14
    assert summary.variables == len(graph)
    (w1,) = [row for row in summary.rows if row.path == "layers_[0-91]/experts_[0-895]/w1"]
    assert w1.count == 82_432


def test_the_names():
    graph, _ = declared(layers=2, experts=3)
    assert [(row.path, row.count) for row in summarize(graph).rows] == [
        ("embeddings/table", 1),
        ("layers_[0-1]/norm{,_1}/scale", 4),
        ("layers_[0-1]/attention/query", 2),
        ("layers_[0-1]/attention/key", 2),
        ("layers_[0-1]/attention/value", 2),
        ("layers_[0-1]/attention/output", 2),
        ("layers_[0-1]/router/kernel", 2),
        ("layers_[0-1]/experts_[0-2]/w1", 6),
        ("layers_[0-1]/experts_[0-2]/w2", 6),
        ("layers_[0-1]/experts_[0-2]/w3", 6),
        ("layers_[0-1]/experts_[0-2]/w1_scale", 6),
        ("layers_[0-1]/experts_[0-2]/w2_scale", 6),
        ("layers_[0-1]/experts_[0-2]/w3_scale", 6),
        ("norm/scale", 1),
    ]


def test_the_shapes():
    graph, _ = declared(
        layers=1, experts=2, hidden=12, expert_hidden=5, heads=3, key_value_heads=1, vocabulary=7
    )
    assert {v.op_name: v.shape for v in graph.variables if "experts_1" not in v.op_name} == {
        "embeddings/table": (7, 12),
        "layers_0/norm/scale": (12,),
        "layers_0/attention/query": (12, 12),
        "layers_0/attention/key": (12, 4),
        "layers_0/attention/value": (12, 4),
        "layers_0/attention/output": (12, 12),
        "layers_0/norm_1/scale": (12,),
        "layers_0/router/kernel": (12, 2),
        "layers_0/experts_0/w1": (12, 5),
        "layers_0/experts_0/w2": (5, 12),
        "layers_0/experts_0/w3": (12, 5),
        "layers_0/experts_0/w1_scale": (5,),
        "layers_0/experts_0/w2_scale": (12,),
        "layers_0/experts_0/w3_scale": (5,),
        "norm/scale": (12,),
    }


def kind(name):
    if "scale" in name or "router" in name:
        return "float32"
    return "inherited"


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_dtype_and_initializer_are_inherited(dtype):
    graph, _ = declared(layers=1, experts=1, dtype=dtype)
    for variable in graph.variables:
        expected = {"float32": "float32", "inherited": dtype}[kind(variable.op_name)]
        assert variable.dtype == np.dtype(expected), variable.op_name
    matrices = [v for v in graph.variables if v.op_name.endswith(("w1", "query", "table"))]
    assert len(matrices) == 3
    assert len({v.initializer for v in matrices}) == 1
    assert graph["norm/scale"].initializer is vs.ones


def test_values():
    graph, _ = declared(layers=1, experts=1)
    assert (graph["layers_0/experts_0/w1_scale"].numpy() == 1).all()
    w1 = graph["layers_0/experts_0/w1"].numpy()
    assert w1.dtype == np.float16
    assert len(np.unique(w1)) > 100


def test_the_embeddings_are_tied():
    graph, projection = declared(layers=1, experts=1)
    assert projection is graph["embeddings/table"]
    assert [v.op_name for v in graph.variables].count("embeddings/table") == 1


def test_it_fits_into_a_larger_model():
    graph = vs.Graph()
    with graph.as_default():
        for name in ("student", "teacher"):
            with vs.variable_scope(name):
                projection = moe.build(layers=1, experts=1)
            assert projection.op_name == f"{name}/embeddings/table"
    assert len(graph) == 2 * expected_count(1, 1)
