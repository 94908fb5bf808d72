"""Other opinions of a safetensors file, which varscope's own is held to: the library's, json's."""

import json
import math

import numpy as np
from requires import require

from varscope import _scopecore
from varscope.checkpoint import safetensors_headers


def library_opens(path):
    """Whether the library opens a file; what it finds there: {name: (dtype, shape)}."""
    safetensors = require("safetensors", "safetensors")
    try:
        with safetensors.safe_open(path, "numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    except safetensors.SafetensorError:
        return None


def library_reads(content):
    """The same of a file's bytes, with those of the tensors: {name: ((dtype, shape), bytes)}."""
    safetensors = require("safetensors", "safetensors")
    try:
        found = safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return None
    return {
        name: ((tensor["dtype"], tuple(tensor["shape"])), bytes(tensor["data"]))
        for name, tensor in found
    }


def facts(checkpoint):
    """What varscope finds, as pairs of a name and (dtype, shape)."""
    codes = {ours: code for code, (ours, _) in safetensors_headers.DTYPES.items()}
    dtypes = [codes[dtype] for dtype in checkpoint.dtype_names]
    return zip(checkpoint, zip(dtypes, checkpoint.shapes, strict=True), strict=True)


def only_the_library_takes(header):
    """Whether a header that the library takes is one of those that we refuse."""
    tree = json.loads(header, object_pairs_hook=lambda pairs: pairs, parse_int=float)
    return has_repeats(tree) or has_odd_entries(header)


def has_repeats(tree):
    """Whether a key comes twice in an object, of which there is a list of pairs."""
    if not isinstance(tree, list):
        return False
    if tree and all(isinstance(pair, tuple) for pair in tree):
        keys = [key for key, _ in tree]
        return len(set(keys)) < len(keys) or any(has_repeats(value) for _, value in tree)
    return any(has_repeats(value) for value in tree)


def has_odd_entries(header):
    tree = json.loads(header, parse_int=float)
    tree.pop("__metadata__", None)
    return any(type(e) is list or type(e["dtype"]) is dict for e in tree.values())


def check_scan(header):
    """The core's scan of a header says what json says, or nothing."""
    found = _scopecore.scan_header(header)
    if found is None:
        return
    names, dtypes, shapes, numbers, metadata = found
    rows = np.frombuffer(numbers, np.int64).reshape(-1, 3).tolist()
    entries = [
        (name, {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]})
        for name, dtype, shape, (begin, end, _) in zip(names, dtypes, shapes, rows, strict=True)
    ]
    assert [size for _, _, size in rows] == [math.prod(shape) for shape in shapes]
    if metadata is not None:
        try:
            entries.append(("__metadata__", json.loads(metadata)))
        except ValueError:
            try:
                json.loads(header)
            except ValueError:
                return
            raise
    pairs = []
    json.loads(header, object_pairs_hook=lambda found: pairs.append(found) or dict(found))
    assert sorted(entries, key=lambda pair: pair[0]) == sorted(pairs[-1], key=lambda pair: pair[0])
