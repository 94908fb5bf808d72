"""Files that mean harm: no code is run, no path is left, and memory is bounded by the file.

The judgement of a header is held to that of the `safetensors` library.
"""
# ruff: noqa: UP031 -- for str.format, all braces of JSON would have to be doubled

import contextlib
import json
import os
import pickle
import re
import struct
import sys
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from bundle_writer import Bundle
from children import python
from hypothesis import given, settings
from hypothesis import strategies as st
from judgements import check_scan, facts, library_opens, only_the_library_takes
from requires import on_posix, plain_core, require
from written_files import (
    ARRAYS,
    EMPTY,
    ENTRY,
    INDEX,
    ONE,
    SHARDS,
    header_of,
    noted,
    refused,
    sharded,
    write,
)

import varscope as vs
from varscope import _scopecore
from varscope.errors import CheckpointError, NameMapError

pytestmark = pytest.mark.promise("hostile-files")

# --- headers

# Header, data, and what the error says; None where the file is good.
JUDGED = [
    ("{}", b"", None),
    ("", b"", "no JSON"),
    (" \n{} \t\r", b"", None),
    ("{}\0", b"", "no JSON"),
    ("[]", b"", "a list, not an object"),
    ("null", b"", "null, not an object"),
    ('{"a":{%s}}' % ENTRY, bytes(4), None),
    ('{"a":{%s},}' % ENTRY, bytes(4), "no JSON"),
    ('{"a":{%s}} {}' % ENTRY, bytes(4), "no JSON"),
    ('{"a":{%s}}' % ENTRY, bytes(3), "cut off"),
    ('{"a":{%s}}' % ENTRY, bytes(5), "last 1 bytes belong to no tensor"),
    ('{"a":{%s,"x":[1,{"y":null}]}}' % ENTRY, bytes(4), None),
    ('{"a":{%s,"dtype":"F32"}}' % ENTRY, bytes(4), "'dtype' comes twice"),
    (r'{"a":{%s,"x":"\ud800"}}' % ENTRY, bytes(4), "no text"),
    (r'{"a":{%s,"x":["\udc00"]}}' % ENTRY, bytes(4), "no text"),
    (r'{"a":{%s,"\ud800":1}}' % ENTRY, bytes(4), "no text"),
    ('{"a":{%s,"x":%s}}' % (ENTRY, "[" * 125 + "]" * 125), bytes(4), None),
    ('{"a":{%s,"x":%s}}' % (ENTRY, "[" * 126 + "]" * 126), bytes(4), "too deep"),
    ('{"a":{%s,"x":%s}}' % (ENTRY, "[" * 99999 + "]" * 99999), bytes(4), "too deep"),
    ('{"a":{%s,"x":%s1}}' % (ENTRY, '{"x":' * 99999), bytes(4), "too deep"),
    ("[" * 10**6, b"", "too deep"),
    ('{"a":{%s,"x":1e999}}' % ENTRY, bytes(4), "out of range"),
    ('{"a":{%s,"x":%s}}' % (ENTRY, "9" * 5000), bytes(4), "out of range"),
    ('{"a":{%s,"x":%s}}' % (ENTRY, "9" * 300), bytes(4), None),
    ('{"a":{%s,"x":NaN}}' % ENTRY, bytes(4), "NaN is no value"),
    ('{"a":{%s,"x":-Infinity}}' % ENTRY, bytes(4), "no value"),
    (ONE % ('"F32"', "[1]", "[-0,4]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[0.0,4]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[00,4]"), bytes(4), "no JSON"),
    (ONE % ('"F32"', "[1]", "[0,4e0]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[0,4,5]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[-4,0]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[true,4]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", '{"0":0,"1":4}'), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[0,18446744073709551616]"), bytes(4), "data_offsets"),
    (ONE % ('"F32"', "[1]", "[0,18446744073709551615]"), bytes(4), "cut off"),
    (ONE % ('"F32"', "[1]", "[18446744073709551612,18446744073709551615]"), bytes(4), "cut off"),
    (ONE % ('"F32"', "[1]", "[4,0]"), bytes(4), "from 4 to 0"),
    (ONE % ('"F32"', "[1.0]", "[0,4]"), bytes(4), "shape"),
    (ONE % ('"F32"', "[-1]", "[0,4]"), bytes(4), "shape"),
    (ONE % ('"F32"', "[true]", "[0,4]"), bytes(4), "shape"),
    (ONE % ('"F32"', "null", "[0,4]"), bytes(4), "shape"),
    (ONE % ('"F32"', "1", "[0,4]"), bytes(4), "shape"),
    (ONE % ('"F32"', "[2]", "[0,4]"), bytes(4), "F32 of shape (2,) is 8 bytes, and it has 4"),
    (ONE % ('"F4"', "[7]", "[0,4]"), bytes(4), "3.5 bytes"),
    (ONE % ('"F4"', "[8]", "[0,4]"), bytes(4), None),
    (ONE % ('"f32"', "[1]", "[0,4]"), bytes(4), "dtype 'f32' is none"),
    (ONE % ('"O"', "[1]", "[0,4]"), bytes(4), "dtype 'O' is none"),
    (ONE % ("4", "[1]", "[0,4]"), bytes(4), "dtype is a number"),
    (ONE % (r'"F\u00332"', "[1]", "[0,4]"), bytes(4), None),
    ('{"a":null}', b"", "entry is null"),
    ('{"a":{"shape":[1],"data_offsets":[0,4]}}', bytes(4), "no 'dtype'"),
    ('{"a":{"dtype":"F32","data_offsets":[0,4]}}', bytes(4), "no 'shape'"),
    ('{"a":{"dtype":"F32","shape":[1]}}', bytes(4), "no 'data_offsets'"),
    ('{"a":{%s}}' % EMPTY % "0,4611686018427387904,16", b"", None),
    ('{"a":{%s}}' % EMPTY % "4611686018427387904,16,0", b"", "more elements than can be"),
    ('{"a":{%s}}' % EMPTY % "18446744073709551615,0", b"", None),
    ('{"a":{%s}}' % EMPTY % "18446744073709551616,0", b"", "shape"),
    ('{"a":{%s}}' % EMPTY % "4611686018427387904", b"", "than a file has"),
    ('{"a":{%s}}' % EMPTY % "9223372036854775808,2", b"", "more elements than can be"),
    (ONE % ('"F32"', str([1] * 200), "[0,4]"), bytes(4), None),
    ('{"a":{%s},"b":{%s}}' % (ENTRY, EMPTY % 0), bytes(4), None),
    ('{"a":{%s},"b":{%s}}' % (ENTRY, ENTRY), bytes(4), "first 4 bytes are those of another"),
    ('{"a":{%s}}' % EMPTY.replace("[0,0]", "[2,2]") % 0, bytes(2), "2 bytes before"),
    ('{"a":{%s},"b":{%s}}' % (ENTRY, ENTRY.replace("[0", "[8")), bytes(12), "from 8 to 4"),
    ('{"a":{%s},"b":{%s}}' % (ENTRY, ENTRY.replace("0,4", "8,12")), bytes(12), "4 bytes before"),
    (r'{"\ud800":{%s}}' % ENTRY, bytes(4), "no text"),
    (r'{"\ud83d\ude00":{%s}}' % ENTRY, bytes(4), None),
    ('{"a\tb":{%s}}' % ENTRY, bytes(4), "no JSON"),
    (b'{"\xff":{%s}}' % ENTRY.encode(), bytes(4), "no JSON"),
    (b'{"\xed\xa0\x80":{%s}}' % ENTRY.encode(), bytes(4), "no JSON"),
    (b"\xef\xbb\xbf{}", b"", "no JSON"),
    ("{}".encode("utf-16"), b"", "no JSON"),
    ('{"__metadata__":null}', b"", None),
    ('{"__metadata__":{}}', b"", None),
    ('{"__metadata__":{"a":1}}', b"", "'a' is a number, not a string"),
    ('{"__metadata__":{"a":null}}', b"", "'a' is null"),
    ('{"__metadata__":{"a":{}}}', b"", "'a' is an object"),
    ('{"__metadata__":[]}', b"", "a list, not an object"),
    ('{"__metadata__":"x"}', b"", "a string, not an object"),
    ('{"__metadata__":{},"__metadata__":{}}', b"", "'__metadata__' comes twice"),
    (r'{"__metadata__":{"a":"\ud800"}}', b"", "not a string"),
    ('{"__metadata__":{"a" "b"}}', b"", "no JSON"),
    ('{"__metadata__":{"a":"b"', b"", "no JSON"),
]  # fmt: skip

# What the library takes, and we do not.
STRICTER = [
    ('{"a":{%s},"a":{%s}}' % (ENTRY, ENTRY), bytes(4), "'a'"),
    ('{"a":{%s,"x":1,"x":2}}' % ENTRY, bytes(4), "'x' comes twice"),
    ('{"__metadata__":{"a":"b","a":"c"}}', b"", "'a' comes twice"),
    ('{"a":["F32",[1],[0,4]]}', bytes(4), "a list, not an object"),
    (ONE % ('{"F32":null}', "[1]", "[0,4]"), bytes(4), "dtype is an object"),
]


def judged_id(value):
    return f"{value!s:.60}" if isinstance(value, (str, bytes)) and len(value) < 200 else "long"


@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_headers.py",
    "    for place in np.flatnonzero(begins != before[:-1])[:1]:\n",
    "    for place in ():\n",
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_headers.py",
    "    if before[-1] < room:\n",
    "    if False:\n",
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_headers.py",
    "    except RecursionError:\n",
    "    except ZeroDivisionError:\n",
)
@pytest.mark.parametrize(("header", "data", "words"), JUDGED, ids=judged_id)
def test_headers_are_judged_as_by_the_library(tmp_path, header, data, words):
    path = write(tmp_path / "a.safetensors", header, data)
    if words is None:
        assert dict(facts(vs.open(path))) == library_opens(path)
    else:
        with pytest.raises(CheckpointError) as caught:
            vs.open(path)
        assert words in str(caught.value) and str(caught.value).startswith(f"{path}: ")
        assert library_opens(path) is None


@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_headers.py",
    "    if len(found) != len(pairs):\n",
    "    if False:\n",
)
@pytest.mark.parametrize(("header", "data", "words"), STRICTER, ids=judged_id)
def test_where_we_are_stricter(tmp_path, header, data, words):
    path = write(tmp_path / "a.safetensors", header, data)
    with pytest.raises(CheckpointError) as caught:
        vs.open(path)
    assert words in str(caught.value)
    assert library_opens(path) is not None


TOKENS = [
    "0", "1", "4", "8", "-1", "-0", "1e1", "2.0", "null", "true", '""', '"a"', '"F32"', '"F16"',
    '"U8"', '"F4"', '"dtype"', '"shape"', '"data_offsets"', '"__metadata__"', "[]", "{}", "[0,4]",
    "[4,8]", ",", ":", "[", "]", "{", "}", " ", "\n", "\\u0061", "\\", '"', "18446744073709551616",
    "9223372036854775807", "4294967296", "é", "\x01",
]  # fmt: skip

GOOD = [
    json.dumps(dict(noted(*header_of(ARRAYS)), **{"__metadata__": {"a": "b", "c": "\n"}})),
    '{"a":{%s}}' % ENTRY,
    '{"a":{"data_offsets":[0,4],"shape":[2,1],"dtype":"U16"},"b":{"dtype":"U8","shape":[4],'
    '"data_offsets":[4,8]},"__metadata__":{"x":"y"}}  ',
    '{"b":{"dtype":"F64","shape":[],"data_offsets":[0,8]},"é":{"dtype":"F4","shape":[0,2],'
    '"data_offsets":[8,8]}}',
]


@st.composite
def damaged_headers(draw):
    text = draw(st.sampled_from(GOOD))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 6))
        text = text[:at] + draw(st.sampled_from(["", *TOKENS])) + text[at + length :]
    return text.encode()


@settings(max_examples=100)
@given(damaged_headers(), st.sampled_from([0, 4, 8, 88, 89]))
def test_damaged_headers_are_judged_as_by_the_library(tmp_path_factory, header, room):
    path = write(tmp_path_factory.getbasetemp() / "damaged", header, bytes(room))
    expected = library_opens(path)
    try:
        found = dict(facts(vs.open(path)))
    except CheckpointError as error:
        assert str(path) in str(error)
        if expected is not None:
            assert only_the_library_takes(header)
        return
    assert found == expected


@settings(max_examples=250)
@given(damaged_headers())
def test_the_scan_says_what_json_says_or_nothing(header):
    check_scan(header)


@pytest.mark.fails_without(
    "src/core/headers.pxi",
    "if rank == MAX_RANK or rank and not take",
    "if rank and not take",
)
def test_what_the_scan_leaves_to_json():
    assert _scopecore.scan_header(b"{}") == ([], [], [], b"", None)
    odd = [r'{"a\u0062":{%s}}' % ENTRY, '{"a":{%s,"x":1}}' % ENTRY, '{"__metadata__":null}']
    odd += [ONE % ('"F32"', "[%s]" % n, "[0,4]") for n in ("1" + "0" * 18, "01", "1e0", "-1", "+1")]
    odd += [ONE % ('"F32"', "[268435456,268435457]", "[0,4]"), ONE % ('"F32"', [1] * 65, "[0,4]")]
    for text in odd:
        assert _scopecore.scan_header(text.encode()) is None
    whole = GOOD[0].encode()
    assert _scopecore.scan_header(whole) is not None
    for end in range(len(whole)):
        assert _scopecore.scan_header(whole[:end]) is None


@pytest.mark.parametrize("text", ['{"a":{"shape":[', '{"', '{"a":{"shape":[1,', "{", '{"a":{'])
def test_the_scan_takes_time_in_proportion(text):
    # What ended each entry is missing: none may be looked for again and again.
    _scopecore.scan_header((text * 200_000).encode())
    _scopecore.scan_header((text + " " * 10**7).encode())


# --- what is in them, and beside them


def test_any_text_is_a_name(tmp_path):
    names = ["", "a\0b", "../../x", "/etc/passwd", "é", "e\u0301", "😀", "x" * 10**6, "a\nb", '"']
    entries, data = header_of({name: np.full(2, i) for i, name in enumerate(names)})
    for ascii_only in (True, False):
        text = json.dumps(entries, ensure_ascii=ascii_only)
        checkpoint = vs.open(write(tmp_path / "a", text, data))
        assert checkpoint.names == names
        assert [int(tensor.value()[1]) for tensor in checkpoint.values()] == list(range(10))


@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_headers.py",
    "    if length > size - 8:\n",
    "    if False:\n",
)
@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_headers.py",
    "    if length > LARGEST:\n",
    "    if False:\n",
)
@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "is empty"),
        (b"{}", "it has 2 bytes"),
        (struct.pack("<Q", 2**64 - 1), "would have 18,446,744,073,709,551,615 bytes"),
        (struct.pack("<Q", 100_000_001), "100,000,000 are the most"),
        (struct.pack("<Q", 100_000_000), "0 are left in the file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "no safetensors file"),
        (b"PK\x03\x04\x00\x00\x00\x00" + bytes(100), "no safetensors file"),
        (pickle.dumps([1] * 100, 2), "no safetensors file"),
    ],
)
def test_what_is_no_such_file(tmp_path, start, words):
    path = tmp_path / "a.safetensors"
    path.write_bytes(start)
    refused(path, words)
    assert library_opens(path) is None


HUGE = [
    {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
    {"a": {"dtype": "F32", "shape": [2**40, 0], "data_offsets": [0, 0]}},
    {"a": {"dtype": "U8", "shape": [2**40, 0], "data_offsets": [0, 0]}},
    {"__metadata__": {"varscope": '{"version":1,"dtypes":{"a":"|S0"}}'},
     "a": {"dtype": "U8", "shape": [2**40, 0], "data_offsets": [0, 0]}},
    {"__metadata__": {"varscope": '{"version":1,"dtypes":{"a":"|V999999999"}}'},
     "a": {"dtype": "U8", "shape": [0, 999999999], "data_offsets": [0, 0]}},
    {"a": {"dtype": "U8", "shape": [0] + [1] * 99, "data_offsets": [0, 0]}},
    {"a": {"dtype": "F64", "shape": [0, 2**62], "data_offsets": [0, 0]}},
    {"a": {"dtype": "F64", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}},
]  # fmt: skip


def test_memory_is_bounded_by_the_file(tmp_path):
    """Nothing is allocated because a file says that it is large."""
    vs.open(write(tmp_path / "a", {})).verify()
    tracemalloc.start()
    for header in HUGE:
        with contextlib.suppress(CheckpointError):
            checkpoint = vs.open(write(tmp_path / "a", header))
            assert checkpoint["a"].value().nbytes == 0
            checkpoint.verify()
    for start in (struct.pack("<Q", 99_999_999), b"\xff" * 20):
        (tmp_path / "a").write_bytes(start)
        refused(tmp_path / "a")
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_memory_is_bounded_by_the_index(tmp_path):
    sharded(tmp_path, SHARDS)
    assert len(vs.open(tmp_path)) == 3
    tracemalloc.start()
    vs.open(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_what_numpy_cannot_have_is_an_error_of_the_file(tmp_path):
    header = {"a": {"dtype": "F64", "shape": [0, 2**64 - 1], "data_offsets": [0, 0]}}
    checkpoint = vs.open(write(tmp_path / "a", header))
    with pytest.raises(CheckpointError, match=r"a: tensor 'a': NumPy has no array of shape"):
        checkpoint["a"].value()


def test_a_name_that_comes_twice(tmp_path):
    path = write(tmp_path / "a", '{"a b":{%s},"a b":{%s}}' % (EMPTY % 0, ENTRY), bytes(4))
    refused(path, "twice", tensor="a b")


@pytest.mark.parametrize(
    ("notes", "words", "tensor"),
    [
        ("", "no JSON", None),
        ("[]", "a list, not an object", None),
        ("1", "a number", None),
        ("[" * 10**5, "too deep", None),
        ('{"version":1,"version":1}', "comes twice", None),
        ("{}", "version None", None),
        ('{"version":"1"}', "version '1'", None),
        ('{"version":true}', "version True", None),
        ('{"version":2}', "a newer one is needed", None),
        ('{"version":1,"crc32c":"0"}', "eight hex digits for each of 1", None),
        ('{"version":1,"crc32c":"0000000g"}', "eight hex digits", None),
        ('{"version":1,"crc32c":"00 00 00"}', "eight hex digits", None),
        (
            '{"version":1,"crc32c":"\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0660"}',
            "eight hex digits",
            None,
        ),
        ('{"version":1,"crc32c":[0]}', "eight hex digits", None),
        ('{"version":1,"crc32c":"%s"}' % ("0" * 16), "eight hex digits", None),
        ('{"version":1,"partitions":[]}', "a list as 'partitions'", None),
        ('{"version":1,"partitions":{"b":[1]}}', "no such tensor", "b"),
        ('{"version":1,"partitions":{"a":1}}', "the partitions 1", "a"),
        ('{"version":1,"partitions":{"a":[1,1]}}', "not 1 numbers", "a"),
        ('{"version":1,"partitions":{"a":[0]}}', "from 1 on", "a"),
        ('{"version":1,"partitions":{"a":[true]}}', "from 1 on", "a"),
        ('{"version":1,"partitions":{"a":[1.0]}}', "from 1 on", "a"),
        ('{"version":1,"partitions":{"a":[99999999999999999999]}}', "from 1 on", "a"),
        ('{"version":1,"dtypes":"x"}', "a string as 'dtypes'", None),
        ('{"version":1,"dtypes":{"b":"<c16"}}', "no such tensor", "b"),
        ('{"version":1,"dtypes":{"a":null}}', "null as its dtype", "a"),
        ('{"version":1,"dtypes":{"a":"<c16"}}', "an element has 4 bytes", "a"),
    ],
)
def test_notes_that_do_not_fit(tmp_path, notes, words, tensor):
    entry = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
    header = {"__metadata__": {"varscope": notes}, "a": entry}
    path = write(tmp_path / "a.safetensors", header, bytes(4))
    refused(path, words, tensor=tensor)


def test_notes_of_a_dtype_on_what_is_not_stored_as_bytes(tmp_path):
    notes = {"varscope": '{"version":1,"dtypes":{"a":"<c8"}}'}
    for entry in ({"dtype": "F32", "shape": [8]}, {"dtype": "U8", "shape": []}):
        nbytes = 32 if entry["shape"] else 1
        header = {"__metadata__": notes, "a": {**entry, "data_offsets": [0, nbytes]}}
        path = write(tmp_path / "a.safetensors", header, bytes(nbytes))
        refused(path, "not stored as bytes of elements", tensor="a")


@pytest.mark.fails_without(
    "src/varscope/checkpoint/dtypes.py",
    "    if NAME.fullmatch(text) is None:\n",
    "    if False:\n",
)
@pytest.mark.parametrize(
    "dtype",
    ["O", "|O8", "object", "f4,O", "(2,)f4", "float999", "a10", "int0", "V", "", "<i3",
     "<U999999999", "<M8[zz]", "__import__('os')", "numpy.float64", "os.system", "é",
     "x" * 10**6, "finfo", '[["a","O"]]', '{"names":["a"],"formats":["O"]}'],
)  # fmt: skip
def test_dtypes_that_are_none_cannot_be_read(tmp_path, dtype):
    header = {
        "__metadata__": {"varscope": json.dumps({"version": 1, "dtypes": {"a": dtype}})},
        "a": {"dtype": "U8", "shape": [1, 8], "data_offsets": [0, 8]},
    }
    path = write(tmp_path / "a.safetensors", header, bytes(8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError) as caught:
            vs.open(path)["a"].value()
    assert caught.value.tensor == "a" and len(str(caught.value)) < 1000


@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_files.py",
    '    if leads_away or not here.name or "\\0" in name or not headers.is_text(name):\n',
    "    if False:\n",
)
@pytest.mark.parametrize(
    "name",
    ["../secret", "a/../../secret", "/etc/passwd", "..", ".", "", "a\0b", "\\\\host\\share\\a",
     "C:\\a", "C:a", "..\\secret", "a\\..\\..\\secret", "\ud800", "//host/a", "/"],
)  # fmt: skip
def test_an_index_cannot_lead_out_of_its_folder(tmp_path, name):
    folder = tmp_path / "folder"
    folder.mkdir()
    entries, data = header_of({"a": np.ones(2)})
    write(tmp_path / "secret", entries, data)
    sharded(folder, {}, {"a": name})
    refused(folder, "a file beside the index is needed", where=folder / INDEX)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[" * 10**5, "no JSON"),
        ("1" * 5000, "no JSON"),
        (b"\xff", "no JSON"),
        ("[]", "no 'weight_map'"),
        ("{}", "no 'weight_map'"),
        ('{"weight_map":[]}', "no 'weight_map'"),
        ('{"weight_map":{"a":1}}', "no 'weight_map'"),
        ('{"weight_map":{"a":["x"]}}', "no 'weight_map'"),
        ('{"weight_map":{"a":null}}', "no 'weight_map'"),
        ('{"weight_map":{"a":"gone.safetensors"}}', "lists 'gone.safetensors', which is not there"),
        ('{"weight_map":{"a":"%s/x"}}' % INDEX, "lists 'x', which is not there"),
        ('{"weight_map":{"a":"%s"}}' % ("x" * 3000), "xxx, which is not there"),
    ],
)
def test_an_index_that_is_none(tmp_path, text, words):
    (tmp_path / INDEX).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(tmp_path, words, where=tmp_path / INDEX)


def test_an_index_that_lists_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    refused(sharded(tmp_path, {}, {"a": "a"}), "this is no file", where=tmp_path / "a")


@on_posix
def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "this is no file")
    refused(
        sharded(tmp_path, {}, {"a": "a.safetensors"}), "no file", where=tmp_path / "a.safetensors"
    )
    os.mkfifo(tmp_path / "x.index.json")
    refused(tmp_path / "x.index.json", "this is no file")


@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_files.py",
    "    if listed_in == held and len(weight_map) == len(names):\n",
    "    if True:\n",
)
def test_an_index_and_files_that_disagree(tmp_path):
    one, two = SHARDS
    good = {"a": one, "b": one, "c": two}
    sharded(tmp_path, SHARDS, {**good, "d": two})
    refused(tmp_path, f"{INDEX} says that it is in this file", tensor="d", where=tmp_path / two)
    sharded(tmp_path, SHARDS, {"a": one, "c": two})
    refused(tmp_path, f"{INDEX} does not list it", tensor="b", where=tmp_path / one)
    sharded(tmp_path, SHARDS, {**good, "b": two})
    refused(tmp_path, f"says that it is in '{two}'", tensor="b", where=tmp_path / one)
    sharded(tmp_path, {**SHARDS, two: {"a": np.ones(1), "c": np.ones(1)}}, good)
    refused(tmp_path, f"also in '{one}'", tensor="a", where=tmp_path / two)


def test_a_file_of_an_index_that_is_damaged(tmp_path):
    sharded(tmp_path, SHARDS)
    _, two = SHARDS
    (tmp_path / two).write_bytes((tmp_path / two).read_bytes()[:-1])
    refused(tmp_path, "cut off", tensor="c", where=tmp_path / two)


# --- files of name maps


@pytest.mark.fails_without(
    "src/varscope/name_maps/maps.py",
    'type("Strict", (yaml.SafeLoader,)',
    'type("Strict", (yaml.UnsafeLoader,)',
)
@pytest.mark.parametrize(
    "name, text, words",
    [
        ("map.json", "{", "line 1 column 2"),
        ("map.json", "3", "a file holds a list of rules"),
        ("map.json", '{"a": "b", "c": "d", "a": "e"}', "the key 'a' occurs twice in one object"),
        ("map.json", '{"rules": [{"glob": "a", "glob": "b", "to": "c"}]}', "the key 'glob' occurs"),
        ("map.json", '[{"glob": "a"}]', "rule 1, {'glob': 'a'}: 'to' is missing"),
        ("map.json", "[" * 100_000, "the data is nested too deeply"),
        ("map.json", b"\xff", "the file is not UTF-8"),
        ("map.yaml", "a: [", "this is no YAML"),
        ("map.yaml", "", "a file holds a list of rules"),
        ("map.yaml", "a: b\nc: d\na: e", "the key 'a' occurs twice"),
        ("map.yaml", "- {glob: a, to: b, glob: c}", "the key 'glob' occurs twice"),
        ("map.yaml", "!!python/object/apply:os.getcwd []", "this is no YAML: could not determine"),
        ("map.yaml", "- {glob: a, to: b, slice: 1:30}", "in YAML: in quotes), not 90"),
        ("map.yaml", "? [a]\n: b", "this is no YAML"),
        ("map.yaml", "3: a", "3: 'a' must be a name that is read"),
        ("map.yaml", "[" * 2_000, "the data is nested too deeply"),
        ("map.yaml", "a: !!bool 7", "a value is not of the kind that its tag says (KeyError: '7')"),
        ("map.yaml", "a: !!int ''", "of the kind that its tag says (IndexError"),
        ("map.yaml", "a: !!timestamp b", "of the kind that its tag says (AttributeError"),
        ("map.yaml", f"a: 1{':10' * 300}.0", "of the kind that its tag says (OverflowError"),
    ],
)
def test_a_file_that_cannot_be_understood(tmp_path, name, text, words):
    if name.endswith("yaml"):
        require("yaml", "pyyaml")
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(NameMapError, match=re.escape(words)) as caught:
        vs.NameMap.of(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000


def test_yaml_that_repeats_itself_stays_small(tmp_path):
    require("yaml", "pyyaml")
    levels = "\n".join(
        f"- &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]" for i in range(24)
    )
    path = tmp_path / "map.yaml"
    path.write_text(f"- &a [x]\n{levels}\n")
    with pytest.raises(NameMapError, match="a rule is a dict") as caught:
        vs.NameMap.of(path)
    assert len(str(caught.value)) < 100_000


# --- no code is run, no path is left, and memory is bounded

WATCHED = """
import json, os, resource, sys
import varscope as vs
from varscope.errors import VarscopeError

def look(path):
    graph = vs.Graph()
    with graph.as_default():
        vs.get_variable("a", [2])
    try:
        if path.endswith((".yaml", ".json")) and "index" not in path:
            vs.NameMap.of(path)
        else:
            with vs.open(path) as checkpoint:
                for tensor in checkpoint.values():
                    try:
                        tensor.value()
                    except VarscopeError:
                        pass
                checkpoint.verify()
        vs.restore(graph, path, partial=True, verify=True, threads=1)
    except (VarscopeError, OSError, ImportError) as error:
        return type(error).__name__
    return "nothing"

def look_at_all(folder):
    return {name: look(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}

look_at_all(sys.argv[2])  # good ones: what is imported on the way
events, opened = set(), []

def watch(event, arguments):
    if event == "open":
        opened.append(str(arguments[0]))
    elif event == "import":
        events.add("import " + arguments[0])
    else:
        events.add(event)

taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[3]), -1))
sys.addaudithook(watch)
errors = look_at_all(sys.argv[1])
print(json.dumps([errors, sorted(events), opened]))
"""
ROOM = 64 << 20
# Of what Python tells, what runs or changes something.
HARMFUL = re.compile(
    r"(import|exec|compile|pickle|marshal|ctypes|subprocess|shutil|socket|code\b|os\.(?!listdir|scandir))"
)


class Bomb:
    """What makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def hostile_files(folder, marker):
    """One of each kind, and of some many."""
    bomb = Bomb(marker)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(bomb, protocol)
        for ending in ("safetensors", "index.json", "ckpt", "ckpt.index", "pt", "bin", "npy"):
            (folder / f"pickle{protocol}.{ending}").write_bytes(data)
    objects = np.array([bomb, None], object)
    np.save(folder / "objects.npy", objects, allow_pickle=True)
    np.savez(folder / "objects.npz", objects)
    for name in ("torch.pt", "torch.safetensors", "torch.ckpt.index"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(bomb, 2))
            archive.writestr("archive/version", "3")
    (folder / "apply.yaml").write_text(f"!!python/object/apply:builtins.open [{marker}, w]")
    (folder / "deep.json").write_text("[" * 10**6)
    for number, (header, data, _) in enumerate([*JUDGED, *STRICTER]):
        write(folder / f"header{number}.safetensors", header, data)
    for number, header in enumerate(HUGE):
        write(folder / f"huge{number}.safetensors", header)
    for number, length in enumerate((2**64 - 1, 2**63, 100_000_000, 99_999_999)):
        (folder / f"long{number}.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    texts = ("O", "|O8", "f4,O", "__import__('os')", "os.system", "builtins.open", "pickle")
    for number, text in enumerate(texts):
        notes = {"varscope": json.dumps({"version": 1, "dtypes": {"a": text}})}
        entry = {"dtype": "U8", "shape": [2, 8], "data_offsets": [0, 16]}
        path = folder / f"dtype{number}.safetensors"
        write(path, {"__metadata__": notes, "a": entry}, bytes(16))
    names = ["../../x", "/etc/passwd", str(marker), "C:\\x", "a/../../b", "file:///etc/passwd"]
    entries, data = header_of({name: np.zeros(2, "f4") for name in names})
    write(folder / "names.safetensors", entries, data)
    for number, name in enumerate([*names, "..", "a/../../b", "\\\\host\\share"]):
        below = folder / f"index{number}"
        below.mkdir()
        sharded(below, {}, {"a": name})
    bundle = Bundle()
    for name in names:
        bundle.add(name, np.zeros(2, "f4"))
    bundle.write(folder / "names.ckpt")
    (folder / "latest").mkdir()
    (folder / "latest" / "checkpoint").write_text('model_checkpoint_path: "../../x"')


@pytest.mark.fails_without(
    "src/varscope/checkpoint/safetensors_files.py",
    "        return opened.read(size)  #",
    "        return opened.read(LARGEST_INDEX + 1)  #",
)
@pytest.mark.fails_without(
    "src/varscope/name_maps/maps.py",
    'type("Strict", (yaml.SafeLoader,)',
    'type("Strict", (yaml.UnsafeLoader,)',
)
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc of Linux")
@plain_core
def test_no_code_is_run_no_path_is_left_and_memory_is_bounded(tmp_path, tally):
    """Python tells an audit hook of all that it opens, imports, compiles and unpickles."""
    hostile, good, marker = tmp_path / "hostile", tmp_path / "good", tmp_path / "marker"
    hostile.mkdir()
    good.mkdir()
    (tmp_path / "x").write_text("not to be read")
    hostile_files(hostile, marker)
    entries, data = header_of({"a": np.zeros(2, "f4")})
    write(good / "a.safetensors", noted(entries, data), data)
    write(good / "odd.safetensors", " " + json.dumps(noted(entries, data, dtypes={})), data)
    (good / "map.json").write_text('{"a": "b"}')
    (good / "map.yaml").write_text('{"a": "b"}')
    for name in ("junk.safetensors", "junk.ckpt.index", "junk.yaml", "junk.json"):
        (good / name).write_text("[junk")  # so that what an error takes is imported, too
    bundle = Bundle()
    bundle.add("a", np.zeros(2, "f4"))
    bundle.write(good / "a.ckpt")
    done = python(WATCHED, hostile, good, ROOM)
    assert done.returncode == 0, done.stderr[-3000:]
    errors, events, opened = json.loads(done.stdout)
    assert not marker.exists()
    assert list(filter(HARMFUL.match, events)) == []
    assert [path for path in opened if not path.startswith(f"{hostile}/")] == []
    assert {error for name, error in errors.items() if "pickle" in name} == {"CheckpointError"}
    tally("hostile files", len(errors))
