"""safetensors files, and folders of them in the layout of Hugging Face, as a `Checkpoint`."""

from __future__ import annotations

import json
import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from varscope.checkpoint.contents import Checkpoint, Columns, MappedFile
from varscope.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

# The format's names of dtypes, and NumPy's.  Those of less than a byte have none.
DTYPE_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}


def read(path: Path) -> Checkpoint:
    """What a file, a folder or an index holds."""
    if path.is_dir():
        index = path / INDEX
        return read_index(path, index) if index.exists() else read_files(path, [path / SINGLE])
    if path.name.endswith(".index.json"):
        return read_index(path, path)
    return read_files(path, [path])


def read_index(path: Path, index: Path) -> Checkpoint:
    """The files that an index lists."""
    weight_map = json.loads(index.read_bytes())["weight_map"]
    return read_files(path, [index.parent / name for name in dict.fromkeys(weight_map.values())])


def read_files(path: Path, files: list[Path]) -> Checkpoint:
    """The tensors of some files together."""
    columns = Columns(
        [], [], [], np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int64)
    )
    mapped, metadata, nbytes, offsets, numbers, sums = [], {}, [], [], [], []
    for number, file in enumerate(files):
        with file.open("rb") as opened:
            pages = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        mapped.append(MappedFile(file, pages))
        length = int.from_bytes(pages[:8], "little")
        header: dict[str, Any] = json.loads(pages[8 : 8 + length])
        metadata = header.pop("__metadata__", {})
        ours = json.loads(metadata.get("varscope", "{}"))
        tensors = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        for name, entry in tensors:
            own = ours.get("dtypes", {}).get(name)
            shape = tuple(entry["shape"])
            columns.names.append(name)
            columns.dtype_names.append(own or DTYPE_NAMES.get(entry["dtype"], entry["dtype"]))
            columns.shapes.append(shape[:-1] if own else shape)
            start, stop = entry["data_offsets"]
            nbytes.append(stop - start)
            offsets.append(8 + length + start)
            numbers.append(number)
        sums.append(np.frombuffer(bytes.fromhex(ours.get("crc32c", "")), ">u4"))
        columns.partitions.update(
            {name: tuple(cuts) for name, cuts in ours.get("partitions", {}).items()}
        )
    columns.nbytes_of = np.array(nbytes, np.int64)
    columns.offset_of = np.array(offsets, np.int64)
    columns.file_of = np.array(numbers, np.int32)
    if sum(map(len, sums)) == len(columns.names):
        columns.checksums = np.concatenate(sums).astype(np.uint32) if sums else None
    assert all(math.prod(shape) >= 0 for shape in columns.shapes)
    if not mapped:
        raise CheckpointError.of(path, None, "it lists no files")
    return Checkpoint(path, "safetensors", mapped, columns, metadata)
