"""The law of values: graph seed, path and element decide; nothing else does.

Each example builds a model in one of many ways, by order of creation, partitions, storage, threads
and reading, and compares every element with a variable that was made alone.
"""

import sys
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import varscope as vs


def shifted(shape, dtype, key):
    return vs.random_normal()(shape, dtype, key=key) + dtype.type(1)


INITIALIZERS = [
    vs.zeros,
    vs.constant(0.5),
    vs.random_uniform(-3, 2),
    vs.random_normal(1, 0.5),
    vs.truncated_normal(seed=3),
    vs.uniform_unit_scaling(),
    vs.variance_scaling(2.0, "fan_avg", "untruncated_normal"),
    vs.glorot_uniform(),
    vs.he_normal(),
    vs.orthogonal(),
    vs.identity(2.0),
    shifted,
]
PATHS = ["w", "1/11/w", "11/1/w", "a/b/c/kernel", "a/b/c/bias", "a/b/kernel"]


@st.composite
def variables(draw, path):
    """(path, shape, dtype, initializer, number of shards along each axis)."""
    shape = (draw(st.integers(2, 9)), draw(st.integers(2, 9)))
    shards = draw(st.none() | st.tuples(st.integers(0, 1), st.integers(1, 4)))
    if shards is not None:
        axis, count = shards
        shards = [1, 1]
        shards[axis] = min(count, shape[axis])
    dtype = draw(st.sampled_from(["float16", "float32", "float64"]))
    return path, shape, dtype, draw(st.sampled_from(INITIALIZERS)), shards


models = st.lists(st.sampled_from(PATHS), min_size=1, unique=True).flatmap(
    lambda paths: st.tuples(*map(variables, paths))
)


def alone(seed, path, shape, dtype, initializer, _shards):
    with vs.Graph(seed=seed).as_default():
        return vs.get_variable(path, shape, dtype, initializer=initializer).numpy()


def create(path, shape, dtype, initializer, shards):
    partitioner = None if shards is None else lambda shape, dtype: shards
    return vs.get_variable(path, shape, dtype, initializer=initializer, partitioner=partitioner)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**70),
    model=models,
    storage=st.sampled_from(["heap", "arena", *["files"] * (sys.platform != "win32")]),
    threads=st.none() | st.integers(1, 4),
    data=st.data(),
)
def test_only_seed_path_and_element_decide(seed, model, storage, threads, data):
    with tempfile.TemporaryDirectory() as folder:
        place = vs.MemoryMapped(f"{folder}/values") if storage == "files" else storage
        with vs.Graph(seed=seed, storage=place).as_default():
            made = {path: create(path, *rest) for path, *rest in data.draw(st.permutations(model))}
            for path in data.draw(st.lists(st.sampled_from(sorted(made)), max_size=2)):
                made[path].value()
            if threads is not None:
                vs.initialize(threads=threads, progress=False)
            for description in model:
                expected = alone(seed, *description)
                value = made[description[0]].value()
                assert value.dtype == expected.dtype
                np.testing.assert_array_equal(value, expected)
        del made, value


@settings(deadline=None)
@given(seed=st.integers(0, 9), model=models, index=st.tuples(st.slices(9), st.slices(9)))
def test_a_slice_is_that_region_of_the_whole(seed, model, index):
    with vs.Graph(seed=seed).as_default():
        for description in model:
            made = create(*description)
            parts = [made] if isinstance(made, vs.Variable) else made
            expected = alone(seed, *description)
            for part in parts:
                region = expected
                if part.save_slice_info is not None:
                    info = part.save_slice_info
                    region = expected[
                        tuple(
                            slice(start, start + size)
                            for start, size in zip(info.var_offset, info.var_shape, strict=True)
                        )
                    ]
                np.testing.assert_array_equal(part.initial_value(index), region[index])
                assert not part.initialized


@given(seed=st.integers(), paths=st.lists(st.sampled_from(PATHS), min_size=2, unique=True))
def test_other_paths_and_other_seeds_give_other_values(seed, paths):
    values = [
        alone(s, path, (3, 3), "float32", vs.random_normal(), None).tobytes()
        for path in paths
        for s in (seed, seed + 1)
    ]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("initializer", [vs.random_normal(), vs.orthogonal(), vs.zeros])
def test_an_empty_slice_may_begin_before_the_first_element(initializer):
    v = vs.get_variable("v", [2, 2], initializer=initializer)
    index = (slice(None), slice(-8, None, -1))
    assert v.initial_value(index).shape == v.value()[index].shape == (2, 0)
