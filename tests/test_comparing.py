"""`compare`: names, renames, shapes, dtypes and values of two checkpoints, against plain NumPy."""

import hypothesis
import numpy as np
import pytest
from bundle_writer import Bundle, entry, varint
from command_line import write
from hypothesis import strategies as st
from requires import require, require_ml_dtypes

import varscope as vs
from varscope.checkpoint import differing_values
from varscope.checkpoint.comparing import compare

require("safetensors", '"varscope-core[checkpoints]"')

F4 = np.float32


@pytest.fixture
def compared(tmp_path):
    """Compare two dicts of arrays, by way of files."""

    def compared(a, b, **tolerances):
        paths = [write(tmp_path / f"{n}.safetensors", tensors) for n, tensors in enumerate((a, b))]
        with vs.open(paths[0]) as first, vs.open(paths[1]) as second:
            return compare(first, second, **tolerances)

    return compared


def numbers(*values, dtype=F4):
    return np.array(values, dtype)


def test_the_same(compared):
    tensors = {"a": numbers(1, np.nan), "b/c": np.zeros((2, 0), F4), "d": numbers(1, dtype="i8")}
    found = compared(tensors, dict(reversed(tensors.items())))
    assert found.same and found.compared == 3


def test_names(compared):
    found = compared({"a": numbers(1), "b": numbers(2, 2)}, {"a": numbers(1), "c": numbers(3)})
    assert (found.removed, found.added, found.renamed) == (["b"], ["c"], [])
    assert not found.same


def test_shapes_and_dtypes(compared):
    found = compared(
        {"a": numbers(1, 2), "b": numbers(1, 2), "c": numbers(1, 2)},
        {"a": numbers(1), "b": numbers(1, 2, dtype="f2"), "c": numbers(1, 3, dtype="i4")},
    )
    assert found.shapes == [("a", (2,), (1,))]
    assert found.dtypes == [("b", "float32", "float16"), ("c", "float32", "int32")]
    # What is of another dtype may have the same values all the same.
    assert [(each.name, each.elements, each.absolute) for each in found.values] == [("c", 1, 1.0)]


@pytest.mark.parametrize(
    ("a", "b", "elements", "absolute", "relative"),
    [
        (1.0, 1.5, 1, 0.5, 1 / 3),
        (0.0, -0.0, 0, 0, 0),
        (np.nan, np.nan, 0, 0, 0),
        (np.nan, 1.0, 1, np.inf, np.inf),
        (np.inf, np.inf, 0, 0, 0),
        (np.inf, -np.inf, 1, np.inf, np.inf),
        (1.0, np.inf, 1, np.inf, np.inf),
        (0.0, 2.0, 1, 2, 1),
    ],
)
def test_single_values(compared, a, b, elements, absolute, relative):
    for dtype in ("f2", "f4", "f8", "c8"):
        found = compared({"v": numbers(a, 7, dtype=dtype)}, {"v": numbers(b, 7, dtype=dtype)})
        if not elements:
            assert found.same
            continue
        (value,) = found.values
        assert (value.elements, value.absolute) == (elements, absolute)
        assert value.relative == pytest.approx(relative)


@pytest.mark.parametrize(
    ("dtype", "a", "b", "absolute"),
    [
        ("i8", -(2**63), 2**63 - 1, 2.0**64),
        ("i8", 2**62, 2**62 + 1, 1.0),
        ("u8", 0, 2**64 - 1, 2.0**64),
        ("i1", -128, 127, 255.0),
        ("?", False, True, 1.0),
    ],
)
def test_integers_have_exact_differences(compared, dtype, a, b, absolute):
    (value,) = compared(
        {"v": numbers(a, dtype=dtype)}, {"v": numbers(b, dtype=dtype)}
    ).values  # fmt: skip
    assert (value.elements, value.absolute) == (1, absolute)


def test_tolerances(compared):
    a, b = {"v": numbers(1.0, 100.0)}, {"v": numbers(1.25, 125.0)}
    assert compared(a, b).values[0].elements == 2
    assert compared(a, b, atol=0.25).values[0].elements == 1
    assert compared(a, b, rtol=0.2).same
    assert compared(b, a, rtol=0.2).same
    assert compared(a, b, rtol=0.19).values[0].elements == 2
    assert compared({"v": numbers(1)}, {"v": numbers(np.inf)}, rtol=1).values[0].elements == 1
    for wrong in (-1, np.nan):
        with pytest.raises(ValueError, match="rtol"):
            compared(a, b, rtol=wrong)


def test_bfloat16_and_float8(tmp_path):
    ml_dtypes = require_ml_dtypes()
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
        for n in range(2):
            with vs.Graph().as_default() as graph:
                vs.get_variable("v", initializer=np.array([1, 2 + n, np.nan], dtype))
                vs.save(graph, tmp_path / f"{n}.safetensors")
        with (
            vs.open(tmp_path / "0.safetensors") as a,
            vs.open(tmp_path / "1.safetensors") as b,
        ):
            (value,) = compare(a, b).values
        assert (value.elements, value.absolute) == (1, 1.0)


# ---------------------------------------------------------------------------- renamed


def test_renamed_by_values(compared):
    a = {"x/w": numbers(1, 2), "x/v": numbers(3, 4), "same": numbers(0)}
    b = {"y.v": numbers(3, 4), "z": numbers(1, 2), "same": numbers(0)}
    found = compared(a, b)
    assert sorted(found.renamed) == [("x/v", "y.v", "values"), ("x/w", "z", "values")]
    assert (found.removed, found.added, found.values) == ([], [], [])
    assert not found.same


def test_equal_values_are_told_apart_by_their_names(compared):
    a = {f"h_{i}/{name}": np.zeros(3, F4) for i in range(11) for name in ("b", "c")}
    b = {f"block.{i}.{name}": np.zeros(3, F4) for name in ("c", "b") for i in range(11)}
    found = compared(a, b)
    assert len(found.renamed) == 22
    for old, new, by in found.renamed:
        assert (old.replace("h_", "block.").replace("/", "."), by) == (new, "values")


def test_renamed_by_names(compared):
    a = {f"h_{i}/w": np.full(3, i, F4) for i in range(4)}
    b = {f"block_{i}/w": np.full(3, i + 0.5, F4) for i in range(4)}
    found = compared(a, b)
    assert found.renamed == [(f"h_{i}/w", f"block_{i}/w", "names") for i in range(4)]
    assert [(each.name, each.absolute) for each in found.values] == [
        (f"h_{i}/w", 0.5) for i in range(4)
    ]


def test_what_could_be_several_is_left_alone(compared):
    a = {"a/w": numbers(1), "b/w": numbers(2)}
    b = {"c/w": numbers(3), "d/w": numbers(4)}
    found = compared(a, b)
    assert (found.renamed, len(found.removed), len(found.added)) == ([], 2, 2)
    assert compared({"a": numbers(1)}, {"b": numbers(1, dtype="i4")}).renamed == []


# ---------------------------------------------------------------------------- checksums, graphs


def save(path, **values):
    with vs.Graph().as_default() as graph:
        for name, value in values.items():
            vs.get_variable(name, initializer=value)
        vs.save(graph, path)
    return path


def test_equal_checksums_are_not_read(tmp_path, monkeypatch):
    a = save(tmp_path / "a.safetensors", v=numbers(1, 2), w=numbers(3))
    b = save(tmp_path / "b.safetensors", v=numbers(1, 2), w=numbers(4))
    read = []
    bytes_of = differing_values.Stored.bytes_of

    def noted(self, places):
        read.extend(self.columns.names[place] for place in places)
        return bytes_of(self, places)

    monkeypatch.setattr(differing_values.Stored, "bytes_of", noted)
    with vs.open(a) as first, vs.open(b) as second:
        found = compare(first, second)
    assert [each.name for each in found.values] == ["w"]
    assert (found.compared, set(read)) == (2, {"w"})


def test_a_graph_has_names_and_shapes(tmp_path):
    path = save(tmp_path / "a.safetensors", v=numbers(1, 2), w=numbers(3))
    with vs.Graph().as_default() as graph:
        vs.get_variable("v", [2])
        vs.get_variable("w", [2], dtype="float16")
        vs.get_local_variable("steps", [], dtype="int64")
        with vs.variable_scope("cut", partitioner=vs.fixed_size_partitioner(2)):
            vs.get_variable("x", [4])
        vs.get_variable("later", validate_shape=False, initializer=vs.zeros)
    with vs.open(path) as checkpoint:
        found = compare(checkpoint, graph)
        assert (found.added, found.removed) == (["cut/x", "later"], [])
        assert (found.shapes, found.dtypes) == (
            [("w", (1,), (2,))], [("w", "float32", "float16")]
        )  # fmt: skip
        assert (found.values, found.compared) == ([], 0)
        with pytest.raises(TypeError, match="Checkpoint or a Graph"):
            compare(checkpoint, str(path))


def test_tensors_in_pieces(tmp_path, monkeypatch):
    """Read row by row, as pieces and other byte orders are."""
    a = write(tmp_path / "a.safetensors", {"v": np.arange(60, dtype=F4).reshape(12, 5), "s": F4(1)})
    b = write(tmp_path / "b.safetensors", {"v": np.arange(60, dtype=F4).reshape(12, 5), "s": F4(3)})
    monkeypatch.setattr(differing_values, "BLOCK", 50)
    monkeypatch.setattr(differing_values.Stored, "in_one_piece", lambda self: np.zeros(2, np.bool_))
    with vs.open(a) as first, vs.open(b) as second:
        assert [(each.name, each.absolute) for each in compare(first, second).values] == [("s", 2)]


# ---------------------------------------------------------------------------- any tensors

arrays = st.builds(
    lambda dtype, shape, seed: (
        np.random.default_rng(seed).integers(0, 3, shape).astype(dtype),
        np.random.default_rng(seed + 1).integers(0, 3, shape).astype(dtype),
    ),
    st.sampled_from(["f4", "f8", "f2", "i4", "u1", "?", "c8"]),
    st.sampled_from([(), (0,), (3, 0), (1,), (2, 3), (40,), (7, 11)]),
    st.integers(0, 5),
)


def expected(a, b):
    if a.dtype.kind == "b":
        a, b = a.astype("i4"), b.astype("i4")
    apart = np.abs(a.astype("c16") - b.astype("c16"))
    scale = np.maximum(np.abs(a), np.abs(b))
    return int((apart > 0).sum()), apart.max(), (apart[apart > 0] / scale[apart > 0]).max()


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(
    st.lists(arrays, max_size=8), st.randoms(use_true_random=False), st.integers(1, 200)
)
def test_any_tensors_in_any_order(compared, pairs, random, block):
    """Blocks of any size, so that tensors are in batches, by themselves, and cut."""
    names = [f"t{i}" for i in range(len(pairs))]
    shuffled = random.sample(names, len(names))
    a = {name: pair[0] for name, pair in zip(names, pairs, strict=True)}
    both = dict(zip(names, pairs, strict=True))
    b = {name: both[name][1] for name in shuffled}
    told = []
    before = differing_values.BLOCK
    differing_values.BLOCK = block
    try:
        found = compared(a, b, progress=lambda done, total: told.append((done, total)))
    finally:
        differing_values.BLOCK = before
    wanted = {name: expected(*pair) for name, pair in both.items() if (pair[0] != pair[1]).any()}
    got = {each.name: (each.elements, each.absolute, each.relative) for each in found.values}
    assert got.keys() == wanted.keys()
    for name in wanted:
        assert got[name] == pytest.approx(wanted[name])
    assert told == sorted(told) and told[-1][0] == told[-1][1] == sum(x.nbytes for x in a.values())


# ---------------------------------------------------------------------------- what differs in kind


@pytest.mark.parametrize("dtype", ["f4", "f2", "i4", "c8"])
def test_float64_beside_another_dtype(compared, dtype):
    """To NumPy the dtype float64 equals None."""
    a, b = {"v": np.array([1.0, 2.0])}, {"v": np.array([1, 3]).astype(dtype)}
    for one, other in ((a, b), (b, a)):
        (value,) = compared(one, other).values
        assert (value.elements, value.absolute) == (1, 1.0)


def bundle(path, **settings):
    made = Bundle(**settings)
    return made, lambda: vs.open(made.write(path))


@pytest.mark.parametrize("size", [5, 2 << 20])
def test_texts_of_tensorflow(tmp_path, size):
    """Of one shape, and yet of other lengths; they count as bytes."""
    checkpoints = []
    for number, text in enumerate((b"a" * size, b"ab" + b"a" * size)):
        made, opened = bundle(tmp_path / str(number))
        made.data[0] += varint(len(text)) + text
        made.entries[b"t"] = entry("string", (1,), nbytes=len(made.data[0]))
        checkpoints.append(opened())
    a, b = checkpoints
    for one, other in ((a, b), (b, a)):
        (value,) = compare(one, other).values
        assert value.elements >= 3
        assert value.absolute is None
    assert compare(a, a).same


def test_equal_bytes_in_another_order_are_other_values(tmp_path):
    values = np.array([1, 2], F4)
    made, little = bundle(tmp_path / "little")
    made.add("v", values)
    made.add("old", values)
    made, big = bundle(tmp_path / "big", swapped=True)
    made.add("v", values.byteswap())
    made.add("new", values.byteswap())
    found = compare(little(), big())
    assert [value.elements for value in found.values] == [2]
    assert not found.renamed
    made.add("v", values)
    made.entries[b"old"] = made.entries.pop(b"new")
    assert [value.name for value in compare(little(), big()).values] == ["old"]
