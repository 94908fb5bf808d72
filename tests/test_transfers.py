"""Very many small arrays on their way to files and back: where they lie, and filling them."""

import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varscope._scopecore import checksums, crc32c, crc32c_each, locate, scatter

DTYPES = ["?", "i1", "u2", "f2", "<f4", ">f4", "f8", "c8", "c16", "M8[ns]", "S3", "U2"]
DTYPES += [np.dtype(np.longdouble), np.dtype([("a", "i4"), ("b", "f8")])]
try:
    import ml_dtypes
except ImportError:
    pass
else:
    DTYPES += [np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn)]
    DTYPES += [np.dtype(ml_dtypes.int4)]
SHAPES = [(), (0,), (3, 0), (1,), (5,), (2, 3), (1, 1, 1, 4)]


def array_of(dtype, shape, seed=0):
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    values = np.random.default_rng(seed).integers(0, 2, count, np.uint8)
    return values.view(dtype).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_array_is_located_summed_and_filled(dtype, shape):
    array = array_of(dtype, shape)
    assert locate([array]) == [array.ctypes.data]
    assert np.frombuffer(checksums([array]), np.uint32).tolist() == [crc32c(array.tobytes())]
    copy = np.zeros_like(array)
    scatter(b"??" + array.tobytes() + b"!", np.array([2]), [copy])
    assert copy.tobytes() == array.tobytes()


@given(st.lists(st.integers(0, 70), max_size=40), st.randoms(use_true_random=False))
def test_many_arrays(sizes, random):
    offsets = np.cumsum([3, *sizes], dtype=np.int64)[:-1]
    whole = np.frombuffer(random.randbytes(sum(sizes) + 5), np.uint8)
    arrays = [np.zeros(size, np.uint8) for size in sizes]
    scatter(whole, offsets, arrays)
    expected = [bytes(whole[at : at + size]) for at, size in zip(offsets, sizes, strict=True)]
    assert [bytes(array) for array in arrays] == expected
    sums = [crc32c(data) for data in expected]
    assert np.frombuffer(checksums(arrays), np.uint32).tolist() == sums
    found = crc32c_each(whole, offsets, np.array(sizes, np.int64))
    assert np.frombuffer(found, np.uint32).tolist() == sums


def test_more_than_go_at_a_time():
    arrays = [np.full(i % 7, i % 251, np.uint8) for i in range(3000)]
    arrays[1000] = np.ones(3_000_000, np.uint8)
    arrays[2000] = np.ones(20_000_000, np.uint8)
    assert locate(arrays) == [array.ctypes.data for array in arrays]
    assert np.frombuffer(checksums(arrays), np.uint32).tolist() == [
        crc32c(array) for array in arrays
    ]


def test_scalars_of_numpy_are_arrays_too():
    assert np.frombuffer(checksums([np.float32(2)]), np.uint32)[0] == crc32c(np.float32(2))


@pytest.mark.parametrize(
    ("array", "kind", "words"),
    [
        (np.zeros((4, 4))[:, ::2], ValueError, "C-contiguous"),
        (np.zeros((4, 4)).T, ValueError, "C-contiguous"),
        (np.array([None]), TypeError, "objects"),
        ([1, 2], TypeError, "not list"),
    ],
)
def test_arrays_that_are_refused(array, kind, words):
    with pytest.raises(kind, match=words):
        locate([array])
    with pytest.raises(kind, match=words):
        checksums([array])
    with pytest.raises(kind, match=words):
        scatter(bytes(200), np.zeros(1, np.int64), [array])


def test_what_scatter_refuses():
    array = np.zeros(4, np.uint8)
    for offset in (-1, 1, 5, 2**63 - 1, -(2**63)):
        with pytest.raises(ValueError, match=f"4 bytes from {offset} on do not lie in 4"):
            scatter(bytes(4), np.array([offset]), [array])
    with pytest.raises(ValueError, match="2 offsets for 1 arrays"):
        scatter(bytes(4), np.zeros(2, np.int64), [array])
    with pytest.raises(ValueError, match="int64"):
        scatter(bytes(4), np.zeros(2, np.int32), [array])
    with pytest.raises(ValueError, match="contiguous"):
        scatter(bytes(4), np.zeros(4, np.int64)[::2], [array])
    array.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        scatter(bytes(4), np.zeros(1, np.int64), [array])


def test_what_crc32c_each_refuses():
    one, two = np.zeros(1, np.int64), np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="as many lengths"):
        crc32c_each(bytes(4), one, two)
    with pytest.raises(ValueError, match="int64"):
        crc32c_each(bytes(4), one, b"8 bytes!")
    for offset, length in ((0, 5), (5, 0), (-1, 1), (0, -1), (1, 2**63 - 1)):
        with pytest.raises(ValueError, match="do not lie in 4"):
            crc32c_each(bytes(4), np.array([offset]), np.array([length]))


def test_other_threads_may_do_the_same_meanwhile():
    source = np.random.default_rng(1).integers(0, 256, 2**22, np.uint8)
    offsets = np.arange(2**10, dtype=np.int64) * 2**12
    wrong = []

    def work():
        arrays = [np.zeros(2**12, np.uint8) for _ in offsets]
        for _ in range(5):
            scatter(source, offsets, arrays)
            if checksums(arrays) != expected:
                wrong.append(1)

    expected = crc32c_each(source, offsets, np.full(2**10, 2**12))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert not wrong
