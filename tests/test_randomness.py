"""Values: a function of a key and a place, the same wherever and however they are computed."""

import hashlib
import importlib.util
import json
import math
import sys
import threading
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import varscope as vs
from varscope import _scopecore, randomness
from varscope.errors import InitializerError
from varscope.randomness import Constant, Normal, TruncatedNormal, Uniform, fill, words

FLOATS = [np.dtype(name) for name in ("float16", "float32", "float64")]
if importlib.util.find_spec("ml_dtypes"):
    import ml_dtypes

    FLOATS += [np.dtype(ml_dtypes.bfloat16), np.dtype(ml_dtypes.float8_e4m3fn)]
INTEGERS = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
OTHERS = [np.dtype(np.longdouble), np.dtype(">f4"), np.dtype(">f8"), np.dtype(">i4")]
REAL = [Uniform(-0.25, 0.5), Normal(0.5, 2.0), TruncatedNormal(-0.5, 0.1)]


def whole_range(dtype):
    return Uniform(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max) + 1)


LAWS = [(law, dtype) for dtype in FLOATS for law in REAL]
LAWS += [(whole_range(dtype), dtype) for dtype in INTEGERS]
LAWS += [(Uniform(-7, 100), np.dtype("int8")), (Uniform(3, 2**63 + 9), np.dtype("uint64"))]
LAWS += [(law, dtype) for dtype in OTHERS[:3] for law in REAL]
LAWS += [(Uniform(-(2**31), 2**31), OTHERS[3])]
LAWS += [(Constant(3), dtype) for dtype in (*FLOATS, *INTEGERS, *OTHERS)]
LAWS += [(Constant(1 - 2j), np.dtype("complex128")), (Constant(True), np.dtype("bool"))]


def law_name(pair):
    return f"{type(pair[0]).__name__}-{pair[1]}"


each_law = pytest.mark.parametrize("pair", LAWS, ids=map(law_name, LAWS))


def values(law, dtype, count, key=1, first=0):
    out = np.empty(count, dtype)
    fill(out, law, key, first)
    return out


def bits(array):
    """The bytes of each element; longdouble has some that mean nothing."""
    return (array.astype("float64") if array.dtype == np.longdouble else array).tobytes()


# --- words

KEYS = [0, 1, 2**64 - 1, 2**64, 2**127 + 12345, 2**128 - 1]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("start", [0, 1, 3, 4, 7, 1000, 12345])
def test_words_are_those_of_numpy(key, start):
    expected = np.random.Philox(key=key).random_raw(start + 150)[start:]
    assert np.array_equal(words(key, start, 150), expected)


@pytest.mark.parametrize("key", [5, 2**128 - 7])
@pytest.mark.parametrize("start", [2**32 - 6, 2**62 + 3, 2**63 - 100])
def test_words_far_out_are_those_of_numpy(key, start):
    # Four words a block; NumPy's counter is that of the block before.
    expected = np.random.Philox(key=key, counter=start // 4).random_raw(104)[start % 4 :]
    assert np.array_equal(words(key, start, 100), expected[:100])


@pytest.mark.parametrize("counter", [0, 2**64 - 3, 2**128 - 2, 2**192 - 1, 2**256 - 4, 2**256 - 1])
def test_the_counter_carries_as_numpys_does(counter):
    out = np.empty(40, np.uint64)
    _scopecore.words_behind(9, counter, out)
    assert np.array_equal(out, np.random.Philox(key=9, counter=counter).random_raw(40))


# --- keys


def digest(message):
    data = hashlib.blake2b(message, digest_size=16, person=b"varscope").digest()
    return int.from_bytes(data, "little")


COPIES = range(3)  # of the kernels: plain, AVX2, AVX-512


@pytest.fixture(params=COPIES)
def wide(request):
    """Each copy of the kernels that the machine can run."""
    if _scopecore.use_wide(request.param) != request.param:
        pytest.skip("this machine has no such instructions")
    yield request.param
    _scopecore.use_wide(max(COPIES))


def test_keys_are_those_of_hashlib(wide):
    text = bytes(range(256)) * 4
    messages = [text[i % 7 : i % 7 + i] for i in range(401)]
    order = np.random.default_rng(1).permutation(len(messages))
    messages = [messages[i] for i in order] + [text]
    assert _scopecore.path_keys(messages) == [digest(message) for message in messages]
    for count in range(40):
        assert _scopecore.path_keys(messages[:count]) == list(map(digest, messages[:count]))
    padded = [message.ljust(-(-max(len(message), 1) // 128) * 128, b"\0") for message in messages]
    keys = _scopecore.path_keys(padded, list(map(len, messages)))
    assert keys == list(map(digest, messages))
    with pytest.raises(ValueError, match="whole number of blocks"):
        _scopecore.path_keys([b"abc"], [3])


def test_a_path_key_is_the_key_of_its_message():
    for path, seed, own in [("a", 1, None), ("a/b", -5, 0), ("ä/b" * 50, 2**200, -3)]:
        (key,) = _scopecore.path_keys([randomness.path_message(seed, path, own)])
        assert randomness.path_key(seed, path, own) == key


def test_paths_are_taken_apart_before_they_are_hashed():
    def keys_of(*requests):
        return len({randomness.path_key(*request) for request in requests})

    assert keys_of((1, "1/11/w"), (1, "11/1/w"), (11, "1/1/w"), (1, "111/w"), (1, "1/1/1/w")) == 5
    assert keys_of((1, "w"), (1, "w", 1), (11, "w"), (1, "1/w"), (1, "w", 0)) == 5


@pytest.mark.slow
def test_no_two_of_a_million_paths_share_a_key():
    message, keys = randomness.path_message, set()
    for layer in range(100):
        keys.update(
            _scopecore.path_keys(
                [
                    message(1, f"layers_{layer}/experts_{expert}/w{i}")
                    for expert in range(1000)
                    for i in range(10)
                ]
            )
        )
    assert len(keys) == 1_000_000


# --- regions

slices = st.tuples(
    st.integers(0, 8), st.integers(0, 8), st.sampled_from([-9, -3, -2, -1, 1, 2, 3, 8, 9])
).map(lambda ends: slice(*ends) if ends[2] > 0 else slice(ends[1], ends[0] or None, ends[2]))


@st.composite
def regions(draw):
    """A shape, and an index that gives a region of it."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 7, 40]), max_size=4)))
    return shape, tuple(draw(slices) for _ in shape)


@each_law
@settings(max_examples=15, deadline=None)
@given(regions(), st.integers(0, 2**128 - 1), st.data())
def test_any_region_equals_that_of_the_whole(pair, region, key, data):
    (law, dtype), (shape, index) = pair, region
    whole = np.empty(shape, dtype)
    fill(whole, law, key)
    expected = whole[(*index, ...)]
    places = np.arange(whole.size, dtype=np.int64).reshape(shape)[(*index, ...)]
    first = int(places.flat[0]) if places.size else 0
    strides = [step // 8 for step in places.strides]

    # Somewhere in a larger array, in any order of the axes and any direction.
    order = data.draw(st.permutations(range(len(shape))))
    signs = [slice(None, None, data.draw(st.sampled_from([-2, -1, 1, 2]))) for _ in order]
    room = np.empty([2 * expected.shape[axis] for axis in order], dtype)
    room = room.transpose(np.argsort(order)) if order else room
    out = room[(*signs, ...)]
    out = out[(*map(slice, expected.shape), ...)]
    assert out.shape == expected.shape
    fill(out, law, key, first, strides)
    assert bits(out) == bits(expected)


@each_law
def test_a_run_does_not_depend_on_where_it_begins(pair):
    law, dtype = pair
    for first in (0, 1, 2, 7, 8, 15, 16, 17, 255, 256, 257, 2**40 + 1, 2**62 - 3):
        run = values(law, dtype, 700, first=first)
        for start, stop in [(0, 1), (1, 2), (3, 20), (255, 258), (1, 513), (699, 700)]:
            part = values(law, dtype, stop - start, first=first + start)
            assert bits(part) == bits(run[start:stop])


@each_law
def test_zero_size_and_scalars(pair):
    law, dtype = pair
    for shape in [(0,), (3, 0), (0, 2, 0)]:
        fill(np.empty(shape, dtype), law, 1)
        fill(np.empty(shape, dtype), law, 1, -1, [2**70] * len(shape))
    scalar = np.empty((), dtype)
    fill(scalar, law, 1, first=5)
    assert bits(scalar) == bits(values(law, dtype, 6)[5:])


@each_law
def test_unaligned_memory(pair):
    law, dtype = pair
    room = np.empty(100 * dtype.itemsize + 1, np.uint8)
    out = room[1:].view(dtype)
    fill(out, law, 1)
    assert bits(out) == bits(values(law, dtype, 100))


def test_an_axis_of_stride_zero_repeats():
    out = np.empty((3, 4, 2), np.float32)
    fill(out, Normal(0.0, 1.0), 1, strides=(0, 1, 0))
    assert (out == values(Normal(0.0, 1.0), np.float32, 4)[:, None]).all()


def test_regions_that_no_variable_has():
    out = np.empty((2, 2), np.float32)
    for first, strides in [(-1, None), (0, (-1, 1)), (2**63 - 3, None), (0, (2**62, 2**62))]:
        with pytest.raises(ValueError, match=r"a variable has those from 0 to 2\*\*63 - 1"):
            fill(out, Normal(0.0, 1.0), 1, first, strides)
    with pytest.raises(ValueError, match=r"1 strides for an array of shape \(2, 2\)"):
        fill(out, Normal(0.0, 1.0), 1, 0, (1,))
    fill(out, Normal(0.0, 1.0), 1, 2**63 - 4)
    out.flags.writeable = False
    for law in (Normal(0.0, 1.0), Constant(1)):
        with pytest.raises(ValueError, match="read-only"):
            fill(out, law, 1)


def test_the_core_refuses_what_does_not_fit():
    law = randomness.law(Normal(0.0, 1.0), np.dtype("float32"))
    with pytest.raises(ValueError, match="does not fit"):
        _scopecore.fill(np.empty(3, np.float64), law, 1, 0, (1,))
    with pytest.raises(ValueError, match="does not fit"):
        _scopecore.fill(np.empty(3, np.float32), law, 1, 0, (1, 1))
    with pytest.raises(ValueError, match="does not fit"):
        _scopecore.fill_each(np.empty((3, 2), np.float32), law, [1])
    with pytest.raises(ValueError, match="16 at most"):
        _scopecore.fill(np.empty(3, np.float32), (*law[:-1], bytes(17)), 1, 0, (1,))
    with pytest.raises(OverflowError):
        _scopecore.fill(np.empty(3, np.float32), law, -1, 0, (1,))
    with pytest.raises(TypeError):
        _scopecore.path_keys(["text"])


def test_many_variables_at_once(wide):
    keys = [3 * 2**64 * i + i for i in range(23)]
    for law, dtype in LAWS:
        facts = randomness.law(law, dtype)
        if facts is None:
            continue
        for count in (0, 1, 8, 9, 16, 33, 64, 65, 300):
            out = np.empty((len(keys), count), dtype)
            _scopecore.fill_each(out.view(f"V{dtype.itemsize}"), facts, keys)
            for key, row in zip(keys, out, strict=True):
                assert bits(row) == bits(values(law, dtype, count, key=key))


PATHS = ["a", "layer_12/attention/query", "1/11", "11/1", "", "a" * 300, "a/" * 60 + "b", "x//y"]


def test_many_variables_by_their_names(wide):
    """Keys are those of the paths, and nothing but the parts of the buffer is written to."""
    prefix = randomness.path_message(7, "", 3)[:-8]
    for law, dtype in LAWS:
        facts = randomness.law(law, dtype)
        if facts is None or dtype == np.longdouble:  # which has bytes that nobody sets
            continue
        for count in (0, 1, 9, 65):
            room = count * dtype.itemsize
            out = np.full(len(PATHS) * (room + 8), 0xAA, np.uint8)
            offsets = np.arange(len(PATHS))[::-1] * (room + 8)
            _scopecore.fill_named(out, offsets, facts, count, prefix, PATHS)
            for path, offset in zip(PATHS, offsets.tolist(), strict=True):
                key = randomness.path_key(7, path, 3)
                assert bits(out[offset : offset + room]) == bits(values(law, dtype, count, key=key))
                assert (out[offset + room : offset + room + 8] == 0xAA).all()


def test_names_and_places_that_do_not_fit():
    law = randomness.law(Normal(0.0, 1.0), np.dtype("float32"))

    def named(out, offsets, count=2, paths=("a",), law=law):
        _scopecore.fill_named(out, np.array(offsets, np.int64), law, count, b"", list(paths))

    room = np.empty(16, np.uint8)
    named(room, [8])
    for offsets in ([9], [-1], [2**62]):
        with pytest.raises(ValueError, match="do not lie in 16"):
            named(room, offsets)
    for count in (5, 2**48, 2**60):
        with pytest.raises(ValueError, match=r"do not lie in 16|no buffer has as many"):
            named(room, [0], count)
    with pytest.raises(ValueError, match="1 offsets for 2 paths"):
        named(room, [0], paths=["a", "b"])
    for path in ("\N{LATIN SMALL LETTER E WITH ACUTE}", b"a", 5):
        with pytest.raises(ValueError, match="is no path"):
            named(room, [0], paths=[path])
    with pytest.raises(ValueError, match="16 at most"):
        named(room, [0], law=(*law[:-1], bytes(17)))
    with pytest.raises(ValueError, match="int64"):
        _scopecore.fill_named(room, np.zeros(1, np.int32), law, 1, b"", ["a"])
    room.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        named(room, [0])


@each_law
def test_the_copies_of_the_kernels_agree(pair):
    law, dtype = pair
    results = []
    for wide in COPIES:
        _scopecore.use_wide(wide)
        results.append(bits(values(law, dtype, 5000, first=3)))
    _scopecore.use_wide(max(COPIES))
    assert len(set(results)) == 1


def test_filling_releases_the_interpreter():
    out, started, finished = np.empty(2**24, np.float32), threading.Event(), threading.Event()

    def work():
        started.set()
        fill(out, Normal(0.0, 1.0), 1)
        finished.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody gives the interpreter up who does not mean to
    try:
        thread = threading.Thread(target=work)
        thread.start()
        started.wait()
        assert not finished.is_set()
        thread.join()
    finally:
        sys.setswitchinterval(interval)


# --- what an element is


def units(key, count):
    """The numbers in (0, 1) or [0, 1) behind elements: 32 bits each, 53 of a word, 52 + 1/2."""
    stream = words(key, 0, count)
    halves = np.ravel(np.stack([stream & 0xFFFFFFFF, stream >> 32], 1)).astype(np.float64)
    return (
        halves,
        (stream >> np.uint64(11)) * 2.0**-53,
        ((stream >> np.uint64(12)) + 0.5) * 2.0**-52,
    )


def test_uniform_is_what_it_says():
    halves, upper, _ = units(1, 20_000)
    low, high = -0.3, 1.7
    single, double = np.float32, np.float64
    expected = (low + (high - low) * (halves * 2.0**-32)).astype(single)
    assert np.array_equal(values(Uniform(low, high), single, 40_000), expected)
    assert np.array_equal(values(Uniform(low, high), double, 20_000), low + (high - low) * upper)


def box_muller(u, v):
    radius = np.sqrt(-2 * np.log(u))
    return np.ravel(np.stack([radius * np.cos(2 * np.pi * v), radius * np.sin(2 * np.pi * v)], 1))


def test_normal_is_what_it_says():
    halves, _, middle = units(1, 50_000)
    halves = (halves + 0.5) * 2.0**-32
    expected = box_muller(halves[::2], halves[1::2])
    relative = abs(values(Normal(0.0, 1.0), np.float32, 100_000) / expected - 1)
    assert relative.max() < 5e-7
    expected = box_muller(middle[::2], middle[1::2])
    # NumPy's own error: 2 pi v is rounded before its cosine is taken.
    assert abs(values(Normal(0.0, 1.0), np.float64, 50_000) - expected).max() < 1e-14


def cosine_and_sine(x):
    """By their series, to the precision of the decimal context."""
    sums, term = [Decimal(0), Decimal(0)], Decimal(1)
    for n in range(80):  # x is below 7
        sums[n % 2] += term if n % 4 < 2 else -term
        term = term * x / (n + 1)
    return sums


def test_float64_normals_in_40_digits():
    pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
    result = values(Normal(0.0, 1.0), np.float64, 1000).tolist()
    with localcontext(prec=45):
        u, v = np.reshape(words(1, 0, 1000) >> np.uint64(12), (-1, 2)).T.tolist()
        for i in range(500):
            radius = (-2 * ((u[i] + Decimal("0.5")) / 2**52).ln()).sqrt()
            angle = 2 * pi * (v[i] + Decimal("0.5")) / 2**52
            for value, turn in zip(result[2 * i :], cosine_and_sine(angle), strict=False):
                assert abs(Decimal(value) / (radius * turn) - 1) < Decimal("1e-15")


def test_truncated_normal_is_what_it_says():
    halves, _, middle = units(1, 2_000)
    whole = math.erf(math.sqrt(2))
    for dtype, u, error in [
        (np.float32, (halves + 0.5) * 2.0**-32, 5e-7),
        (np.float64, middle, 2e-15),
    ]:
        z = values(TruncatedNormal(0.0, 1.0), dtype, len(u))
        assert abs(z).max() <= 2
        for at, x in zip(u.tolist(), z.tolist(), strict=True):
            # The error of z that this difference of the distribution function stands for.
            density = 2 * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
            missed = math.erf(x / math.sqrt(2)) - (2 * at - 1) * whole
            assert abs(missed) <= error * abs(x) * density + 3e-16


def test_mean_and_stddev():
    z = values(Normal(0.0, 1.0), np.float32, 1000)
    scaled = values(Normal(0.3, 0.7), np.float32, 1000)
    assert np.array_equal(scaled, np.float32(0.3) + np.float32(0.7) * z)
    z = values(Normal(0.0, 1.0), np.float64, 1000)
    assert np.array_equal(values(Normal(0.3, 0.7), np.float64, 1000), 0.3 + 0.7 * z)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_the_upper_word_of_a_product(dtype):
    info, stream = np.iinfo(dtype), words(1, 0, 2000).tolist()
    ends = {info.min, -1, 0, 1, 100, info.max, info.max + 1}
    for low in ends:
        for high in ends:
            if info.min <= low < high <= info.max + 1:
                expected = [low + (word * (high - low) >> 64) for word in stream]
                assert values(Uniform(low, high), dtype, 2000).tolist() == expected


@pytest.mark.parametrize("dtype", [dtype for dtype in FLOATS if dtype.itemsize < 4], ids=str)
@pytest.mark.parametrize("law", REAL, ids=lambda law: type(law).__name__)
def test_narrow_floats_are_float32_rounded(dtype, law):
    narrow = values(law, dtype, 5000).astype(np.float64)
    rounded = values(law, np.float32, 5000).astype(dtype).astype(np.float64)
    differs = narrow != rounded  # where rounding led out of the interval
    assert differs.mean() < 0.08
    if isinstance(law, Normal):
        assert not differs.any()
    elif isinstance(law, Uniform):
        assert (rounded[differs] >= law.high).all()
        assert (narrow >= law.low).all() and (narrow < law.high).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@settings(max_examples=60, deadline=None)
@given(
    st.floats(-1e5, 1e5, allow_subnormal=True),
    st.floats(0, 1e3) | st.floats(0, 1e-6),
    st.integers(0, 2**64),
)
@example(0.7, 1e-9, 1)
@example(0.0, 5e-324, 1)
@example(-0.1, 0.1, 1)
def test_uniform_values_are_in_their_interval(dtype, low, width, key):
    high = low + width
    out = values(Uniform(low, high), dtype, 300, key=key).astype(np.float64)
    if randomness.at_least(low, dtype) < high:  # else the dtype has no value there
        if randomness.at_least(low, dtype) >= low:
            assert (out >= low).all()
        if randomness.below(high, dtype) < high:
            assert (out < high).all()
    assert np.isfinite(out).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@settings(max_examples=60, deadline=None)
@given(st.floats(-300, 300), st.floats(0, 50), st.integers(0, 2**64))
def test_truncated_values_are_within_two_stddev(dtype, mean, stddev, key):
    out = values(TruncatedNormal(mean, stddev), dtype, 300, key=key).astype(np.float64)
    low, high = mean - 2 * stddev, mean + 2 * stddev
    if randomness.at_least(low, dtype) <= high:
        assert (out >= low).all() and (out <= high).all()


def rounded(kind, value):
    """One float32 through the kernels' own conversion to 16 bits."""
    out = np.empty((), np.uint16)
    law = (randomness.UNIFORM, kind, 2, value, -0.0, -math.inf, math.inf, 0, 0, b"")
    _scopecore.fill(out, law, 0, 0, ())
    return int(out)


def test_rounding_to_16_bits():
    """Over all exponents, at and beside the places where the rounding turns."""
    ends = [0, 1, 2, 0xFFE, 0xFFF, 0x1000, 0x1001, 0x1FFF, 0x7FFF, 0x8000, 0x8001, 0x17FFF, 0x18000]
    mantissas = {start + end for start in (0, 0x2000, 0x7E0000) for end in ends}
    exponents = np.arange(255, dtype=np.uint32)[:, None] << 23
    singles = (exponents | np.array(sorted(mantissas), np.uint32)).ravel()
    singles = np.concatenate([singles, [0x7F800000]]).astype(np.uint32)
    singles = np.concatenate([singles, singles | 0x80000000]).astype(np.uint32).view(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        expected = singles.astype(np.float16).view(np.uint16).tolist()
    assert [rounded(randomness.FLOAT16, x) for x in singles.tolist()] == expected
    if "ml_dtypes" in sys.modules:
        expected = singles.astype(ml_dtypes.bfloat16).view(np.uint16).tolist()
        assert [rounded(randomness.BFLOAT16, x) for x in singles.tolist()] == expected


# --- dtypes that cannot be


@pytest.mark.parametrize("dtype", ["bool", "complex64", "S3", "U2", "datetime64[s]", "V4"])
@pytest.mark.parametrize("law", REAL, ids=lambda law: type(law).__name__)
def test_dtypes_without_such_values(dtype, law, refused):
    with refused(InitializerError, dtype.partition("[")[0], "dtypes that work", "bfloat16"):
        fill(np.empty(3, dtype), law, 1)


def test_integers_from_what_is_no_integer(refused):
    for law in (Normal(0, 1), TruncatedNormal(0, 1), Uniform(0.0, 3.0)):
        with refused(InitializerError, "int32", "uniform distribution between integers"):
            fill(np.empty(3, np.int32), law, 1)
    for low, high in [(3, 3), (5, 3), (-129, 0), (0, 129)]:
        with refused(InitializerError, f"from {low} to {high} in int8", "from -128 to 128"):
            fill(np.empty(3, np.int8), Uniform(low, high), 1)


def test_intervals_that_are_none(refused):
    for low, high in [(1.0, 0.0), (math.nan, 1.0), (-math.inf, 0.0), (-1.7e308, 1.7e308)]:
        with refused(InitializerError, f"uniform from {low} to {high}"):
            fill(np.empty(3), Uniform(low, high), 1)


def test_numbers_that_lead_nowhere_do_no_harm():
    for law in (Normal(math.nan, 1.0), Normal(0.0, -1.0), Normal(1e300, 1e300)):
        fill(np.empty(100, np.float32), law, 1)
        fill(np.empty(100, np.float16), law, 1)
    assert (values(Uniform(0.1, 0.1), np.float32, 9) == np.float32(0.1)).all()
    assert (values(TruncatedNormal(0.1, 0.0), np.float16, 9) == np.float16(0.1)).all()
    assert (values(TruncatedNormal(0.1, 1e-9), np.float16, 9) == np.float16(0.1)).all()


# --- distributions


def distances(samples, cdf, points):
    """The Kolmogorov-Smirnov statistic, looked at in so many of the sorted samples."""
    samples = np.sort(samples)
    places = np.linspace(0, len(samples) - 1, points).astype(int)
    expected = np.array([cdf(x) for x in samples[places].tolist()])
    return max(abs(expected - places / len(samples)).max(),
               abs(expected - (places + 1) / len(samples)).max())  # fmt: skip


def normal_cdf(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def truncated_cdf(x):
    return 0.5 + 0.5 * math.erf(x / math.sqrt(2)) / math.erf(math.sqrt(2))


INSIDE = 2 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))  # 2 phi(2) / mass
# Mean, variance and fourth moment of z, and the variance of z**2.
SHAPES = {
    "Uniform": (Uniform(-1.0, 1.0), lambda x: (x + 1) / 2, 1 / 3, 1 / 5),
    "Normal": (Normal(0.0, 1.0), normal_cdf, 1.0, 3.0),
    "TruncatedNormal": (
        TruncatedNormal(0.0, 1.0), truncated_cdf, 1 - 2 * INSIDE, 3 - 14 * INSIDE,
    ),
}  # fmt: skip


def check_distribution(name, dtype, count, points):
    law, cdf, second, fourth = SHAPES[name]
    x = values(law, dtype, count, key=20261122)
    # Above these, one key in a thousand is expected, or one in a hundred thousand.
    assert distances(x, cdf, points) < 1.95 / math.sqrt(count)
    x = x.astype(np.float64)
    scale = 4.4 / math.sqrt(count)
    assert abs(x.mean()) < scale * math.sqrt(second)
    assert abs((x**2).mean() - second) < scale * math.sqrt(fourth - second**2)
    # Neighbours: those that come from one word, one pair, one block, and the next ones.
    for lag in (1, 2, 3, 4, 8, 16):
        assert abs((x[:-lag] * x[lag:]).mean()) < scale * second
        squares = x**2 - second
        assert abs((squares[:-lag] * squares[lag:]).mean()) < scale * (fourth - second**2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_distributions(name, dtype):
    check_distribution(name, dtype, 100_000, 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SHAPES)
def test_distributions_of_ten_million(name, dtype):
    check_distribution(name, dtype, 10_000_000, 100_000)


def check_integers(dtype, count):
    x = values(Uniform(-100, 100), dtype, count)
    counts = np.bincount(x.astype(np.int64) + 100, minlength=200)
    expected = count / 200
    # Chi-squared with 199 degrees of freedom: 280 is exceeded once in ten thousand times.
    assert len(counts) == 200 and ((counts - expected) ** 2 / expected).sum() < 280


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_integers_are_alike(dtype):
    check_integers(dtype, 100_000)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_ten_million_integers_are_alike(dtype):
    check_integers(dtype, 10_000_000)


@pytest.mark.parametrize("key", range(3))
def test_float32_normals_have_no_atoms(key):
    """Near zero too, where a few bits of a uniform number would be all that is left."""
    x = values(Normal(0.0, 1.0), np.float32, 1_000_000, key=key)
    assert len(np.unique(x)) > 960_000  # as many as there are different float32 for them
    near = np.sort(abs(x))[:100]
    assert len(np.unique(near)) == 100


# --- the same for ever

# SHA-256 of the bytes.  Never to be changed: whoever has a seed has these values.
GOLDEN = json.loads((Path(__file__).parent / "data" / "values.json").read_text())


NARROW = [Uniform(-0.1, 0.3), Normal(0.5, 0.02), TruncatedNormal(0.0, 0.02)]
ALL_GOLDEN = [
    (law, name) for name in ("float16", "bfloat16", "float32", "float64") for law in NARROW
]
ALL_GOLDEN += [(Uniform(3, 120), str(dtype)) for dtype in INTEGERS]
ALL_GOLDEN += [(whole_range(dtype), str(dtype)) for dtype in INTEGERS]


@pytest.mark.parametrize("law, dtype", ALL_GOLDEN, ids=str)
def test_values_are_what_they_always_were(law, dtype):
    if dtype == "bfloat16" and "ml_dtypes" not in sys.modules:
        pytest.skip("needs the module ml_dtypes: pip install ml_dtypes")
    key = randomness.path_key(42, "encoder/layers_3/kernel")
    out = values(law, np.dtype(dtype), 4001, key=key, first=2**33 + 5)
    assert hashlib.sha256(out.tobytes()).hexdigest() == GOLDEN[f"{law} {dtype}"]


def test_orthonormal_columns_are_what_they_always_were():
    matrix = values(Normal(0.0, 1.0), np.float64, 150 * 70, key=5).reshape(150, 70)
    _scopecore.orthogonalize(matrix)
    assert hashlib.sha256(matrix.tobytes()).hexdigest() == GOLDEN["orthogonalize"]


# --- orthonormal columns


@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 1), (5, 3), (31, 31), (33, 32), (33, 33), (64, 40), (129, 65), (200, 97)]
)
def test_columns_become_those_of_q(shape, wide):
    matrix = values(Normal(0.0, 1.0), np.float64, math.prod(shape)).reshape(shape)
    q = matrix.copy()
    _scopecore.orthogonalize(q)
    assert abs(q.T @ q - np.eye(shape[1])).max() < 1e-14
    r = q.T @ matrix
    assert abs(np.tril(r, -1)).max() < 1e-13 and (np.diag(r) > 0).all()
    assert abs(q @ r - matrix).max() < 1e-13


@pytest.mark.parametrize("shape", [(70, 70), (150, 33), (97, 64)])
def test_the_copies_give_the_same_columns(shape):
    results = []
    for wide in COPIES:
        _scopecore.use_wide(wide)
        matrix = values(Normal(0.0, 1.0), np.float64, math.prod(shape)).reshape(shape)
        _scopecore.orthogonalize(matrix)
        results.append(bits(matrix))
    _scopecore.use_wide(max(COPIES))
    assert len(set(results)) == 1


def test_columns_that_depend_on_each_other_become_orthonormal_too():
    for matrix in (np.zeros((5, 3)), np.ones((40, 35)), np.empty((3, 0)), np.empty((0, 0))):
        _scopecore.orthogonalize(matrix)
        assert abs(matrix.T @ matrix - np.eye(matrix.shape[1])).max(initial=0) < 1e-14


@pytest.mark.parametrize(
    "matrix", [np.empty((2, 3)), np.empty(4), np.empty((4, 2), np.float32), np.empty((2, 2, 2))]
)
def test_what_cannot_be_orthogonalized(matrix):
    with pytest.raises(ValueError, match="float64 matrix with no more columns than rows"):
        _scopecore.orthogonalize(matrix)


def test_a_region_whose_ends_are_the_first_and_the_last_element():
    corner = np.empty((2, 2), "float32")
    fill(corner, Normal(0.0, 1.0), 7, 2**63 - 1, (-(2**62), -1))
    for row, last in zip(corner, (2**63 - 1, 2**62 - 1), strict=True):
        assert row[::-1].tolist() == values(Normal(0.0, 1.0), "float32", 2, 7, last - 1).tolist()


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 3)])
def test_nothing_at_all_backwards(shape):
    v = vs.get_variable("v", shape, initializer=vs.random_normal())
    assert v.initial_value((slice(None, None, -1),) * len(shape)).shape == shape


def test_a_step_beyond_all_numbers():
    v = vs.get_variable("v", [4, 10], initializer=vs.random_normal())
    row = v.initial_value((slice(1, None, 10**30), slice(None, None, -(10**30))))
    assert row.tolist() == [[v.numpy()[1, 9]]]


@pytest.mark.parametrize("mean, stddev", [(-1.0, 1 - 2**-53), (1e16, 0.8)])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_truncated_means_within_two_stddev_without_any_rounding(mean, stddev, dtype):
    if abs(mean) > 100 and dtype != np.float64:
        mean = math.copysign(16.0, mean)
    out = values(TruncatedNormal(mean, stddev), dtype, 10_000)
    distances = {abs(Fraction(float(x)) - Fraction(mean)) for x in out}
    assert max(distances) <= 2 * Fraction(stddev)
