"""safetensors files, and folders of them in the layout of Hugging Face, as a `Checkpoint`.

A folder has an index, which says which file each tensor lies in.  A save never overwrites a file:
it writes new ones, puts a new index in the place of the old one, and deletes the old files.  So who
reads an index and then finds a file of it gone reads the index again.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from varscope.checkpoint import safetensors_headers as headers
from varscope.checkpoint.contents import UNTRACKED, Checkpoint, Columns, MappedFile
from varscope.checkpoint.notes import Notes, check_header
from varscope.checkpoint.notes import read as read_notes
from varscope.checkpoint.safetensors_headers import Header, wrong

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LARGEST_INDEX = 1 << 30  # bytes; one of half a million names has 50 million
# There is no such file, or there can be none of such a name.
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL)
TRIES = 100  # to find all files of one index while others save


def is_one(path: Path) -> bool:
    """Whether a path is called as these files are, or is a folder of them."""
    if path.name.endswith((".safetensors", ".index.json")):
        return True
    return (path / INDEX).exists() or (path / SINGLE).exists()


def read(path: Path) -> Checkpoint:
    """What a file, a folder or an index holds."""
    if path.is_dir():
        return read_folder(path)
    if path.name.endswith(".index.json"):
        return read_index(path, path)
    return together(path, [map_file(path)])


def read_folder(path: Path) -> Checkpoint:
    """What a folder holds: the files of its index, or the one file without an index."""
    for _ in range(TRIES):
        try:
            return read_index(path, path / INDEX)
        except FileNotFoundError:
            pass
        try:
            return together(path, [map_file(path / SINGLE)])
        except FileNotFoundError:
            if not (path / INDEX).exists():  # which may have come just now
                break
    reason = f"no {INDEX}, no {SINGLE}, and no file 'checkpoint' of TensorFlow"
    wrong(path, None, f"there is no checkpoint in this folder: {reason}")


# --- the index of several files


def read_index(path: Path, index: Path) -> Checkpoint:
    """The files that an index lists; FileNotFoundError is for the index alone."""
    text = index_text(index)
    for _ in range(TRIES):
        weight_map = weight_map_of(index, text)
        names = list(dict.fromkeys(weight_map.values()))
        try:
            files = [map_file(inside(index, name)) for name in names]
        except OSError as error:
            if error.errno == errno.EMFILE:
                reason = (
                    f"it lists {len(names):,} files, more than this process may have open; allow "
                    "it more (ulimit -n), or save in larger ones (max_shard_size)"
                )
                raise OSError(error.errno, reason, os.fspath(index)) from None
            if error.filename is None or error.errno not in NOT_THERE:
                raise
            before, text = text, index_text(index)
            if text == before:
                name = Path(error.filename).name
                wrong(index, None, f"it lists {name!r:.200}, which is not there")
            continue
        checkpoint = together(path, files)
        check_names(index, checkpoint, weight_map, names)
        return checkpoint
    wrong(index, None, "it was replaced again and again while it was read")


def index_text(index: Path) -> bytes:
    check_regular(index)
    with index.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > LARGEST_INDEX:
            wrong(index, None, f"an index has {LARGEST_INDEX:,} bytes at most")
        return opened.read(size)  # for which so much memory is taken


def weight_map_of(index: Path, text: bytes) -> dict[str, str]:
    """Which file each tensor lies in.  That they do lie there is seen when the files are read."""
    try:
        # What it says twice or in odd ways differs from the files, or does no harm.
        tree = json.loads(text.decode())
    except (RecursionError, ValueError) as error:
        wrong(index, None, f"it is no JSON that can be read: {error!s:.300}")
    weight_map = tree.get("weight_map") if isinstance(tree, dict) else None
    if not isinstance(weight_map, dict) or not set(map(type, weight_map.values())) <= {str}:
        wrong(index, None, "it has no 'weight_map' that says in which file each tensor lies")
    return weight_map


def inside(index: Path, name: str) -> Path:
    """The path of a file that an index names; it lies in the index's folder, or below."""
    here, there = PurePosixPath(name), PureWindowsPath(name)  # what leads away, on any system
    leads_away = here.is_absolute() or there.drive or there.root or ".." in there.parts
    if leads_away or not here.name or "\0" in name or not headers.is_text(name):
        wrong(index, None, f"it lists {name!r:.200}: a file beside the index is needed")
    return index.parent / name


def check_names(
    index: Path, checkpoint: Checkpoint, weight_map: dict[str, str], files: list[str]
) -> None:
    """The index says of each tensor where it lies, and of no others."""
    names, held = checkpoint.names, [files[number] for number in checkpoint._columns.file_of]
    listed_in = list(map(weight_map.get, names))
    if listed_in == held and len(weight_map) == len(names):
        return
    for name, file, listed in zip(names, held, listed_in, strict=True):
        if listed != file:
            other = "does not list it" if listed is None else f"says that it is in {listed!r:.200}"
            wrong(index.parent / file, name, f"it is in this file, and {index.name} {other}")
    for name, listed in weight_map.items():
        if name not in checkpoint:
            wrong(index.parent / listed, name, f"{index.name} says that it is in this file")


# --- files


def check_regular(path: Path) -> None:
    """To open something else, a pipe for one, might take for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        wrong(path, None, "this is no file")


def map_file(path: Path) -> MappedFile:
    """A file in memory, where it can only be read."""
    check_regular(path)
    with path.open("rb") as opened:
        if os.fstat(opened.fileno()).st_size == 0:  # which cannot be mapped
            headers.no_such_file(
                path, "it is empty, and a safetensors file begins with eight bytes"
            )
        try:
            pages = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ, **UNTRACKED)
        except (OverflowError, ValueError) as error:
            wrong(path, None, f"it cannot be mapped into memory: {error}")
        return MappedFile(path, pages, opened.fileno())


def together(path: Path, files: list[MappedFile]) -> Checkpoint:
    """The tensors of some files as one checkpoint."""
    parts = [headers.read(file.path, file.pages) for file in files]
    nothing = np.empty(0, np.int64)
    columns = Columns([], [], [], nothing, nothing.astype(np.int32), nothing)
    columns.check_file = check_header
    notes = [read_notes(file.path, part) for file, part in zip(files, parts, strict=True)]
    for part, note in zip(parts, notes, strict=True):
        first = len(columns.names)
        columns.names += part.names
        columns.dtype_names += [headers.DTYPES[dtype][0] for dtype in part.dtypes]
        columns.shapes += part.shapes
        for place, dtype in note.dtypes.items():
            columns.dtype_names[first + place] = dtype
            columns.shapes[first + place] = part.shapes[place][:-1]
        columns.partitions |= note.partitions
    counts = [len(part.names) for part in parts]
    if parts:
        columns.nbytes_of = np.concatenate([part.ends - part.begins for part in parts])
        columns.offset_of = np.concatenate([part.begins for part in parts])
        columns.file_of = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
    put_checksums(columns, notes, counts)
    columns.places = dict(zip(columns.names, range(len(columns.names)), strict=True))
    if len(columns.places) < len(columns.names):
        check_once(files, parts)
    return Checkpoint(path, "safetensors", files, columns, in_common(parts))


def put_checksums(columns: Columns, notes: list[Notes], counts: list[int]) -> None:
    """The checksums of all tensors, and which of them have one."""
    if all(note.checksums is None for note in notes):
        return
    columns.checksums = np.concatenate(
        [
            np.zeros(count, np.uint32) if note.checksums is None else note.checksums
            for note, count in zip(notes, counts, strict=True)
        ]
    )
    if any(note.checksums is None for note in notes):
        columns.has_checksum = np.repeat([note.checksums is not None for note in notes], counts)


def check_once(files: list[MappedFile], parts: list[Header]) -> None:
    """Say which name there is twice."""
    seen: dict[str, Path] = {}
    for file, part in zip(files, parts, strict=True):
        for name in part.names:
            if name in seen:
                twice = "twice" if seen[name] == file.path else f"also in {seen[name].name!r}"
                wrong(file.path, name, f"it is {twice} in the checkpoint")
            seen[name] = file.path


def in_common(parts: list[Header]) -> dict[str, str]:
    """The metadata of a file, or what those of several files agree on."""
    if not parts:
        return {}
    first, *others = (part.metadata for part in parts)
    return {
        key: text for key, text in first.items() if all(other.get(key) == text for other in others)
    }
