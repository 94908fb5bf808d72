"""Sizes that no machine can count or hold are refused before anything is allocated."""

import contextlib
import itertools
import math
import os
import tracemalloc

import numpy as np
import pytest
from children import python
from requires import on_posix, plain_core, require_ml_dtypes

import varscope as vs

pytestmark = pytest.mark.promise("overflow")

DIMENSIONS = [-1, 0, 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63]
LITTLE = 1 << 20  # bytes, beside which each of the large dimensions is a lot


def shapes_of(rank):
    return list(itertools.product(DIMENSIONS, repeat=rank))


def is_countable(shape, itemsize=4):
    """Whether every dimension and the bytes of all elements are numbers of 63 bits.

    A dimension of zero leaves nothing to be counted, and does not help: as NumPy has it.
    """
    if not all(0 <= dim < 2**63 for dim in shape):
        return False
    return math.prod(max(dim, 1) for dim in shape) * itemsize < 2**63


@contextlib.contextmanager
def little_memory(limit=LITTLE):
    """What is done inside takes little memory at any time; NumPy's arrays count as well."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit


def judge(shape, itemsize=4, **options):
    """Ask for a variable of a shape, and compare what becomes of it with the rule."""
    with vs.Graph(seed=1).as_default() as graph:
        if is_countable(shape, itemsize):
            v = vs.get_variable("v", shape, **options)
            assert v.shape == shape and not v.initialized and len(graph) >= 1
            assert v.size == math.prod(shape) and v.nbytes == v.size * itemsize
            assert graph.nbytes == v.nbytes and graph.num_parameters == v.size
            return True
        with pytest.raises(vs.errors.InvalidShapeError) as caught:
            vs.get_variable("v", shape, **options)
        assert str(shape) in str(caught.value)
        assert len(graph) == 0 and graph.nbytes == 0 and graph.unique_name("v") == "v"
        assert graph.trainable_variables() == [] and "v" not in graph
        return False


def judge_all(cases, tally, **options):
    with little_memory():
        accepted = sum(judge(shape, **options) for shape in cases)
    tally("shapes", len(cases))
    tally("shapes declared without being allocated", accepted)
    assert 0 < accepted < len(cases)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.fails_without(
    "src/varscope/shapes.py", "    if nbytes > LARGEST:\n", "    if nbytes > 2**200:\n"
)
@pytest.mark.fails_without(
    "src/varscope/shapes.py", "if not 0 <= value <= LARGEST:", "if not value <= LARGEST:"
)
def test_every_shape_of_extreme_dimensions_is_declared_or_refused(rank, tally):
    judge_all(shapes_of(rank), tally)


@pytest.mark.fails_without(
    "src/varscope/shapes.py",
    "nbytes *= max(dim or 0, 1)  # as NumPy counts: a zero elsewhere does not help",
    "nbytes *= dim or 0",
)
def test_a_sample_of_rank_four(tally):
    judge_all(shapes_of(4)[::13], tally)


@pytest.mark.slow
def test_every_shape_of_rank_four(tally):
    judge_all(shapes_of(4), tally)


@pytest.mark.parametrize(
    ("dtype", "itemsize"), [("bool", 1), ("float64", 8), ("complex128", 16), ("S0", 0), ("V24", 24)]
)
def test_the_bytes_count_and_not_the_elements(dtype, itemsize, tally):
    cases = [*shapes_of(1), *shapes_of(2)]
    options = {"dtype": dtype, "initializer": vs.zeros}
    with little_memory():
        for shape in cases:
            with vs.Graph(seed=1).as_default():
                if is_countable(shape, max(itemsize, 1)):
                    v = vs.get_variable("v", shape, **options)
                    assert v.nbytes == math.prod(shape) * itemsize
                else:
                    with pytest.raises(vs.errors.InvalidShapeError):
                        vs.get_variable("v", shape, **options)
    tally("shapes", len(cases))


def test_narrow_floats_count_their_own_bytes():
    require_ml_dtypes()
    assert judge((2**31, 2**30), 2, dtype="bfloat16")
    assert judge((2**31, 2**31), 1, dtype="float8_e4m3fn")
    assert not judge((2**31, 2**31), 2, dtype="bfloat16")


FORMS = {
    "list": list,
    "numpy ints": lambda shape: [np.uint64(d) if d >= 0 else np.int64(d) for d in shape],
    "array": lambda shape: np.array(shape, dtype=object),
    "generator": lambda shape: (dim for dim in shape),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_rule_is_the_same_in_whatever_form_a_shape_comes(form, tally):
    for shape in shapes_of(2):
        with vs.Graph(seed=1).as_default():
            if is_countable(shape):
                assert vs.get_variable("v", form(shape)).shape == shape
            else:
                with pytest.raises(vs.errors.InvalidShapeError):
                    vs.get_variable("v", form(shape))
    tally("shapes", len(shapes_of(2)))


def test_a_request_that_was_seen_before_is_judged_as_the_first():
    for shape in ([2**62, 2], [2**63], [-1], [2**63 - 1]):
        for name in ("a", "b", "c"):
            with pytest.raises(vs.errors.InvalidShapeError):
                vs.get_variable(name, shape)
    for name in ("a", "b", "c"):
        assert vs.get_variable(name, [2**60]).shape == (2**60,)
    # The quick way reads dimensions as 64 bits: 2**64 + 4 must not be taken for 4.
    with vs.variable_scope("s", reuse=vs.AUTO_REUSE):
        assert vs.get_variable("v", [4]).shape == (4,)
        for wrong in (2**64 + 4, 2**65 + 4, 4 - 2**64):
            with pytest.raises(ValueError, match=str(wrong)):
                vs.get_variable("v", [wrong])
            with pytest.raises(ValueError, match=str(wrong)):
                vs.get_variable("new", [wrong])


def test_many_huge_variables_add_up_to_more_than_63_bits():
    with little_memory():
        for i in range(40):
            vs.get_variable(f"v{i}", [2**60], "int8")
    g = vs.get_default_graph()
    assert g.num_parameters == g.nbytes == 40 * 2**60 > 2**63


# --- when the values are asked for


READINGS = {
    "value": lambda v: v.value(),
    "array": lambda v: v.array,
    "numpy": lambda v: v.numpy(),
    "initialize": lambda v: v.initialize(),
    "asarray": np.asarray,
    "assign_add": lambda v: v.assign_add(np.broadcast_to(np.float32(1), v.shape)),
    "vs.initialize": lambda v: vs.initialize([v]),
}


@pytest.mark.parametrize("read", READINGS.values(), ids=READINGS)
@pytest.mark.parametrize("storage", ["heap", "arena"])
@pytest.mark.parametrize("initializer", [vs.zeros, vs.random_normal(), vs.orthogonal()], ids=str)
def test_what_is_too_large_to_be_held_is_a_memory_error(read, storage, initializer):
    with vs.Graph(seed=1, storage=storage).as_default():
        small = vs.get_variable("small", [3], initializer=vs.ones)
        v = vs.get_variable("v", [2**30, 2**29], initializer=initializer)
        for _ in range(2):
            with pytest.raises(MemoryError):
                read(v)
            assert not v.initialized and v.version == 0
        assert small.numpy().tolist() == [1, 1, 1]


def test_a_part_of_what_is_too_large_can_still_be_looked_at():
    v = vs.get_variable("v", [2**31, 2**29], initializer=vs.random_normal())
    with little_memory():
        part = v.initial_value((slice(2**31 - 2, None), slice(0, 3)))
    assert part.shape == (2, 3) and len(set(part.ravel().tolist())) == 6


def test_a_shape_that_only_the_initializer_knows():
    def huge(shape, dtype):
        return np.broadcast_to(np.float32(0), (2**40, 2**20))  # four bytes, shown as 2**62

    v = vs.get_variable("v", validate_shape=False, initializer=huge)
    with pytest.raises(MemoryError):
        v.numpy()
    assert v.shape is None and not v.initialized


# --- partitioners

BAD = [-(2**63), -1, 0, 2**31, 2**63 - 1, 2**63, 2**64 + 1, 2**200]


@pytest.mark.parametrize("result", BAD)
@pytest.mark.parametrize("shape", [(6, 4), (2**31, 2), (0, 3), (1,)], ids=str)
@pytest.mark.fails_without(
    "src/varscope/partitioners.py", "        if count < 1:\n", "        if False:\n"
)
def test_a_partitioner_that_returns_an_extreme_number(shape, result, refused, tally):
    for axis in range(len(shape)):
        if 1 <= result <= shape[axis]:
            continue
        partitions = [1] * len(shape)
        partitions[axis] = result
        with little_memory(4 * LITTLE), refused(vs.errors.PartitionerError, str(shape)) as caught:
            vs.get_variable("v", shape, partitioner=lambda shape, dtype, p=partitions: p)
        assert str(result) in str(caught.value)
        tally("results of partitioners")


@pytest.mark.parametrize("shape", [(6, 4), (0, 3), (1,)], ids=str)
@pytest.mark.fails_without(
    "src/varscope/partitioners.py",
    "        if count > max(length, 1):\n",
    "        if count > max(length, 1) + 1:\n",
)
def test_one_slice_more_than_there_are_elements(shape, refused):
    for axis in range(len(shape)):
        partitions = [1] * len(shape)
        partitions[axis] = max(shape[axis], 1) + 1
        with refused(vs.errors.PartitionerError, str(shape)):
            vs.get_variable("v", shape, partitioner=lambda shape, dtype, p=partitions: p)


@pytest.mark.parametrize(
    "result",
    [[], [1], [1, 1, 1], [2, 2], [1.0, 1], [True, 1], ["2", 1], [None, 1], "11", 3, None, {1: 1},
     [np.float64(2), 1], [-1, -1], [np.iinfo(np.int64).min, 1], [1] * 100_000],
    ids=lambda result: repr(result)[:30],
)  # fmt: skip
def test_a_partitioner_that_returns_nonsense(result, refused):
    with little_memory(4 * LITTLE), refused(vs.errors.PartitionerError, "(6, 4)"):
        vs.get_variable("v", (6, 4), partitioner=lambda shape, dtype: result)


@pytest.mark.parametrize("shape", [s for r in (1, 2) for s in shapes_of(r) if s], ids=str)
def test_a_partitioner_sees_no_shape_that_cannot_be(shape, tally):
    seen = []

    def partitioner(shape, dtype):
        seen.append(shape)
        return [min(2, max(shape[0], 1)), *[1] * (len(shape) - 1)]

    with little_memory():
        assert judge(shape, partitioner=partitioner) == bool(seen)
    tally("shapes")


@pytest.mark.parametrize(
    "partitioner",
    [
        vs.fixed_size_partitioner(2**63),
        vs.variable_axis_size_partitioner(2**62),
        vs.min_max_variable_partitioner(max_partitions=3, min_slice_size=2**60),
    ],
    ids=lambda partitioner: type(partitioner).__name__,
)
def test_the_built_in_partitioners_count_in_whole_numbers(partitioner):
    shape = (3, 2**58) if isinstance(partitioner, vs.fixed_size_partitioner) else (2**58, 3)
    with little_memory():
        v = vs.get_variable("v", shape, partitioner=partitioner)
    assert sum(shard.size for shard in v) == v.size == 3 * 2**58
    assert 1 <= len(v) <= 4 and not v.initialized


# --- a process that could not allocate it


@on_posix
@plain_core
def test_declaring_takes_no_addresses():
    """A process that may have half a gigabyte of addresses more declares exabytes."""
    code = """
import resource, varscope as vs
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
sizes = [2**31, 2**32, 2**58]
for i, size in enumerate(sizes):
    v = vs.get_variable(f"v{i}", [size, 4])
    p = vs.get_variable(f"p{i}", [size, 4], partitioner=vs.fixed_size_partitioner(64))
    for each in (v, p):
        try:
            each.numpy()
        except MemoryError:
            pass
        else:
            raise AssertionError(each)
print(vs.get_default_graph().nbytes == 2 * sum(16 * size for size in sizes))
peak = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
print(peak < 2**29)
"""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc, which tells how much memory a process has")
    done = python(code)
    assert done.stdout.split() == ["True", "True"], done.stderr
