"""CRC-32C: against published values, and each way to compute it against the definition."""

import array
import mmap
import signal
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from requires import on_posix

from varscope import _scopecore
from varscope._scopecore import crc32c


@pytest.fixture(params=["by instruction", "by tables"])
def way(request):
    """The ways that the machine knows, one after the other."""
    wanted = request.param == "by instruction"
    if _scopecore.use_crc_instruction(wanted) != wanted:
        pytest.skip("this machine, or this compiler, has no instruction for it")
    yield
    _scopecore.use_crc_instruction(True)


def byte_past(crc):
    """The definition, a bit at a time: divide by the polynomial of Castagnoli and others."""
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


TABLE = [byte_past(crc) for crc in range(256)]


def prefixes(data):
    """The checksums of data[:0], data[:1], ..."""
    crc, found = 0xFFFFFFFF, [0]
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
        found.append(crc ^ 0xFFFFFFFF)
    return found


# RFC 3720, appendix B.4, and the check value that catalogues of such codes give.
SCSI_READ = bytes.fromhex(
    "01c00000000000000000000000000000140000000000040000000014000000182800000000000000"
    "0200000000000000"
)
PUBLISHED = [
    (b"", 0),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (SCSI_READ, 0xD9963A56),
    (b"123456789", 0xE3069283),
]


@pytest.mark.parametrize(("data", "expected"), PUBLISHED, ids=lambda value: repr(value)[:20])
def test_published_values(way, data, expected):
    assert crc32c(data) == expected == prefixes(data)[-1]


def test_every_length_at_every_alignment(way):
    data = np.random.default_rng(1).bytes(320)
    room = np.zeros(640, np.uint8)
    at = -room.ctypes.data % 64
    room[at : at + 320] = np.frombuffer(data, np.uint8)
    for first in range(16):
        expected = prefixes(data[first : first + 300])
        found = [crc32c(room[at + first : at + first + n]) for n in range(301)]
        assert found == expected


def test_lengths_around_those_of_blocks(way):
    data = np.random.default_rng(2).bytes(3 * 4096 + 3 * 256 + 20)
    expected = prefixes(data)
    for n in (*range(750, 790), *range(1530, 1545), *range(12270, len(data) + 1)):
        assert crc32c(data[:n]) == expected[n]


@given(st.lists(st.binary(max_size=1500), max_size=5), st.integers(0, 2**32 - 1))
def test_parts_give_what_the_whole_gives(parts, start):
    whole, instruction = b"".join(parts), _scopecore.use_crc_instruction(True)
    for wanted in {False, instruction}:
        _scopecore.use_crc_instruction(wanted)
        crc = start
        for part in parts:
            crc = crc32c(part, crc)
        assert crc == crc32c(whole, start)
    _scopecore.use_crc_instruction(True)
    assert crc32c(whole) == prefixes(whole)[-1]


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_checksums_of_parts_are_joined(parts):
    found = 0
    for part in parts:
        found = _scopecore.crc32c_joined(found, crc32c(part), len(part))
    assert found == crc32c(b"".join(parts))


def test_checksums_of_large_parts_are_joined():
    zeros = crc32c(bytes(1 << 20))
    many = 0
    for _ in range(5):
        many = _scopecore.crc32c_joined(many, zeros, 1 << 20)
    assert many == crc32c(bytes(5 << 20))
    # As one part, however large, as in many: a register goes past 2**60 bytes as past two halves.
    half = _scopecore.crc32c_joined(_scopecore.crc32c_joined(7, 0, 1 << 59), 0, 1 << 59)
    assert half == _scopecore.crc32c_joined(7, 0, 1 << 60)
    for refused in (-1, 2**64):
        with pytest.raises(OverflowError):
            _scopecore.crc32c_joined(0, 0, refused)


def test_large_ones(way):
    data = np.random.default_rng(3).integers(0, 256, 20_000_003, np.uint8)
    assert crc32c(data) == crc32c(data[9_999_999:], crc32c(data[:9_999_999]))
    # Of zeros, computed by squaring: a register of ones, times x^8 for each byte.
    register, factor, n = 0xFFFFFFFF, 0x00800000, 40_000_001
    zeros = n
    while n:
        if n & 1:
            register = product(register, factor)
        factor, n = product(factor, factor), n >> 1
    assert crc32c(np.zeros(zeros, np.uint8)) == register ^ 0xFFFFFFFF


def product(a, b):
    """Of two polynomials, whose coefficient of x^0 is the highest bit."""
    result = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            result ^= b
        b = b >> 1 ^ (0x82F63B78 if b & 1 else 0)
    return result


def test_any_contiguous_buffer(tmp_path):
    path = tmp_path / "digits"
    path.write_bytes(b"123456789")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert crc32c(mapped) == 0xE3069283
    for buffer in (
        bytearray(b"123456789"),
        memoryview(b"123456789"),
        array.array("B", b"123456789"),
    ):
        assert crc32c(buffer) == 0xE3069283
    numbers = np.arange(6, dtype=">f8").reshape(2, 3)
    assert crc32c(numbers) == crc32c(numbers.tobytes())
    assert crc32c(np.float32(1.5)) == crc32c(np.float32(1.5).tobytes())
    assert crc32c(np.zeros((3, 0))) == 0


def test_what_is_refused():
    with pytest.raises(ValueError, match="contiguous"):
        crc32c(np.arange(6)[::2])
    with pytest.raises(TypeError, match="bytes-like"):
        crc32c("text")
    for value in (-1, 2**32):
        with pytest.raises(OverflowError):
            crc32c(b"", value)


@on_posix
def test_an_interrupt_ends_a_long_one():
    data = np.zeros(2**26, np.uint8)
    _scopecore.use_crc_instruction(False)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            for _ in range(10_000):
                crc32c(data)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        _scopecore.use_crc_instruction(True)


def test_other_threads_run_meanwhile():
    data = np.zeros(2**26, np.uint8)
    turns, done = 0, threading.Event()

    def work():
        for _ in range(200):
            if turns < 10:
                crc32c(data)
        done.set()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # so that only a GIL that was released lets this thread go on
    thread = threading.Thread(target=work)
    try:
        thread.start()
        while not done.is_set():
            turns += 1
            time.sleep(0)
    finally:
        sys.setswitchinterval(before)
        thread.join()
    assert turns >= 10
