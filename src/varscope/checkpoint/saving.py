"""`save`: the variables of a graph in safetensors files, which take their place at once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from varscope._scopecore import checksums, locate
from varscope.checkpoint.entries import (
    LONGEST_HEADER,
    Tensors,
    as_named,
    check_names,
    collected,
    library,
    make_values,
)
from varscope.checkpoint.replacement import Workplace, put_file, put_series, workplace
from varscope.checkpoint.safetensors_files import INDEX, SINGLE
from varscope.checkpoint.written_headers import as_json, header_start, metadata, with_checksum
from varscope.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    CheckpointError,
    WithdrawnError,
)
from varscope.graph import Graph
from varscope.partitioned import PartitionedVariable
from varscope.progress import REPORT, Helpers, Progress, as_report, as_threads
from varscope.storage import RemoteStorage

SUFFIX = ".safetensors"
OURS = re.compile(r"model-[0-9a-f]{8}-\d{5,}-of-\d{5,}\.safetensors")
SHARD = re.compile(r"model-([0-9a-f]{8}-)?\d{5,}-of-\d{5,}\.safetensors")  # ours, or of others
# Names that say another format: as a folder of safetensors files they would mislead.
FOREIGN = re.compile(r".*\.(ckpt(-\d+)?|index|json|pt|pth|bin|npz|h5|gguf)", re.IGNORECASE)
UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def save(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    names: Any = None,
    max_shard_size: int | str = "5GB",
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> None:
    """Save all variables of a graph, but for local ones, in safetensors files.

    Readers see what was there before until all is written and on the disk, and then the new
    files; so they do after an exception, a crash or a kill at any moment.  Where several save to
    one path, the last one who is done counts.  Variables that are only declared get their first
    values.  A variable in parts is saved whole, and can be restored in other parts.

    Values must not be changed while they are saved.

    Parameters
    ----------
    graph : Graph
    path : path
        One file, where it ends in `.safetensors`; else a folder in the layout of Hugging Face:
        `model.safetensors.index.json`, and files that it lists.  The folder is made where there
        is none.
    names : optional
        How the names of variables become those in the files: a `NameMap`, or what
        `NameMap.of` takes.  Left out: each variable's `op_name`.
    max_shard_size : int or str
        How many bytes a file of a folder may have, as a number or in the way of "5GB" or
        "512MiB".  A tensor that is larger has a file of its own.
    threads : int, optional
        How many files are written at a time; as many as the process may use processors where it
        is left out.
    progress : callable, or bool, optional
        `progress(done_bytes, total_bytes)` is called in the calling thread, again and again until
        both are equal.  Left out, there is a bar where rich is installed and stderr is a terminal;
        False: none.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError : TypeError, ValueError
    NameMapError, CheckpointError : ValueError
        A name that cannot be in a file, or two variables of one name.  Nothing was written.
    OSError
        What the system said.  What was there before is as it was, unless it was only the last
        step that failed, which sees to it that the new checkpoint is on the disk.
    ImportError
        The library safetensors is not installed.

    >>> import tempfile, varscope as vs
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default():
    ...     v = vs.get_variable("layer/v", [2], initializer=vs.ones)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     vs.save(g, f"{folder}/model.safetensors")
    ...     vs.open(f"{folder}/model.safetensors")["layer/v"].numpy()
    array([1., 1.], dtype=float32)
    """
    if not isinstance(graph, Graph):
        raise ArgumentTypeError.of("graph", "a varscope.Graph", graph)
    target = as_target(path)
    most, workers = as_size(max_shard_size), as_threads(threads)
    with as_report(progress, "save") as report:
        library()
        check_place(target)
        nbytes = None
        while nbytes is None:
            removed = graph._removed()
            try:
                nbytes = save_all(graph, target, names, most, workers, report)
            except WithdrawnError:
                # Another thread took a variable back while it was written: begin again without it.
                if graph._removed() == removed:
                    raise
        if report is not None:
            report(nbytes, nbytes)


def save_all(
    graph: Graph, target: Path, names: Any, most: int, workers: int, report: Progress | None
) -> int:
    """Save what the graph has now; how many bytes it was."""
    entries = as_named(collected(graph), names)
    check_names(entries.names, target)
    if isinstance(graph.storage, RemoteStorage):
        return graph.storage.save(entries, target, most, report)
    make_values(graph, entries, workers)
    tensors = Tensors(graph, entries)
    if target.name.endswith(SUFFIX):
        save_file(tensors, target, workers, report)
    else:
        save_series(tensors, target, most, workers, report)
    return tensors.nbytes


# --- what was asked for


def as_target(path: Any) -> Path:
    """The path of a file or folder that `save` may write."""
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise ArgumentTypeError.of("path", "a str or a path", path)
    if not os.fspath(path):  # which would be the current folder
        raise ArgumentValueError.of("path", "the path of a file or folder", path)
    target = Path(path)
    if FOREIGN.fullmatch(target.name):
        raise ArgumentValueError.of(
            "path", f"a folder, or a file that ends in {SUFFIX}: varscope.save writes those", path
        )
    # From here on it is the same place, wherever the process goes meanwhile.  Links to folders are
    # followed, and one to a file is replaced.
    if target.name.endswith(SUFFIX):
        return Path(os.path.realpath(target.parent)) / target.name
    return Path(os.path.realpath(target))


def as_size(size: Any) -> int:
    """A number of bytes, from a number or a text such as "5GB" or "512 MiB"."""
    expected = 'a positive number of bytes, or a text such as "5GB" or "512MiB"'
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B\s*", size, re.IGNORECASE)
        if found is None:
            raise ArgumentValueError.of("max_shard_size", expected, size)
        number, unit, binary = found.groups()
        nbytes = int(float(number) * (1024 if binary else 1000) ** UNITS[unit.upper()])
    elif isinstance(size, (int, np.integer)) and not isinstance(size, bool):
        nbytes = int(size)
    else:
        raise ArgumentTypeError.of("max_shard_size", expected, size)
    if nbytes < 1:
        raise ArgumentValueError.of("max_shard_size", expected, size)
    return nbytes


def check_place(target: Path) -> None:
    """Refuse a target that cannot be, or would not be found, before anything is done."""
    in_file = target.name.endswith(SUFFIX)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "there is no such folder to save in; make it first", str(target.parent)
        )
    if in_file and target.is_dir():
        raise IsADirectoryError(
            errno.EISDIR,
            f"a path that ends in {SUFFIX} is one file, and this is a folder; give a file in it, "
            "or the folder another name",
            str(target),
        )
    if not in_file and target.exists() and not target.is_dir():
        raise NotADirectoryError(
            errno.ENOTDIR,
            "this is a file, and varscope.save would make a folder of that name; give another "
            f"one, or for one file a name that ends in {SUFFIX}",
            str(target),
        )
    folder, other = (target.parent, INDEX) if target.name == SINGLE else (target, SINGLE)
    if (target.name == SINGLE or not in_file) and os.path.lexists(folder / other):
        raise FileExistsError(
            errno.EEXIST,
            "this belongs to another model in the same folder, and readers differ in which of "
            "the two they take; remove it, or save elsewhere",
            str(folder / other),
        )


# --- files


def save_file(tensors: Tensors, target: Path, threads: int, report: Progress | None) -> None:
    """Save everything in one file."""
    with workplace(target.parent, target.name) as place:
        files = {target.name: slice(0, len(tensors.names))}
        Writing(tensors, files, place, target).run(threads, report)
        put_file(place, target.name, target)


def save_series(
    tensors: Tensors, folder: Path, most: int, threads: int, report: Progress | None
) -> None:
    """Save everything in a folder, in as many files as it takes."""
    cuts = tensors.cuts(most)
    with workplace(folder, SINGLE, make_folder=True) as place:
        files = {
            file_name(place.token, number, len(cuts)): part for number, part in enumerate(cuts, 1)
        }
        listing = named(tensors, files)
        Writing(tensors, files, place, folder).run(
            threads, report, lambda: write_index(listing, tensors.nbytes, place, folder)
        )
        put_series(place, files, INDEX, listed, lambda name: bool(OURS.fullmatch(name)))


def file_name(token: str, number: int, count: int) -> str:
    """What one of so many files is called, of which the first is number 1."""
    return f"model-{token}-{number:05}-of-{count:05}{SUFFIX}"


def named(tensors: Tensors, files: dict[str, slice]) -> Iterator[tuple[str, list[str]]]:
    """Each file with the names of what it holds, in the order of creation."""
    return ((file, tensors.names[part]) for file, part in files.items())


def write_index(
    files: Iterable[tuple[str, list[str]]], nbytes: int, place: Any, target: Path
) -> None:
    """Write the list of all names with the file in which each lies."""
    with told_of(target), open(place.path / INDEX, "w", encoding="ascii") as index:
        index.write(f'{{"metadata": {{"total_size": {nbytes}}},\n"weight_map": {{')
        comma = ""
        for file, names in files:
            lines = [f'\n{as_json(name)}: "{file}"' for name in names]
            index.write(comma + ",".join(lines))
            comma = ","
        index.write("\n}}\n")
        finish_file(index, place)


def listed(index: Path) -> list[str] | None:
    """The files that an index lists and that a save may remove; None where it cannot be read."""
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        return [name for name in names if SHARD.fullmatch(name)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def finish_file(file: Any, place: Any) -> None:
    """See to it that a file is on the disk, for whom new files are."""
    file.flush()
    if hasattr(os, "fchmod"):
        os.fchmod(file.fileno(), place.mode)  # the library makes them for the user alone
    os.fsync(file.fileno())


def nothing() -> None:
    """What there is to do beside."""


class Writing:
    """The files of one save on their way into a workplace; `files` says what each one holds."""

    def __init__(
        self, tensors: Tensors, files: dict[str, slice], place: Workplace, target: Path
    ) -> None:
        self.tensors, self.files, self.place, self.target = tensors, files, place, target
        self.waiting = deque(files)
        self.written: list[str] = []
        self.errors: list[BaseException] = []
        self.reported = -1
        self.share = tensors.nbytes / max(tensors.nbytes + int(tensors.described.sum()), 1)

    def run(
        self, threads: int, report: Progress | None, meanwhile: Callable[[], None] = nothing
    ) -> None:
        """Write them all: in this thread, or in others while this one reports.

        `meanwhile` is what else there is to do.
        """
        helpers = Helpers()
        try:
            if threads > 1 or report is not None:
                for _ in range(min(threads, len(self.files))):
                    helpers.start(self.help_out)
                meanwhile()
                self.wait(helpers, report)
            else:
                meanwhile()
            if not self.errors:
                self.work(beside=False)
        finally:
            self.waiting.clear()  # after an exception: files that are begun are finished
            helpers.close()
        if self.errors:
            raise self.errors[0]

    def wait(self, helpers: Helpers, report: Progress | None) -> None:
        """Report until all files are written, or one cannot be, or no thread is at work."""
        while not self.over:
            self.tell(report)
            until = time.monotonic() + REPORT
            while not self.over and time.monotonic() < until:
                time.sleep(0.0005)
            if not helpers.busy:
                return

    @property
    def over(self) -> bool:
        """Whether all files are written, or one cannot be."""
        return len(self.written) == len(self.files) or bool(self.errors)

    def help_out(self) -> None:
        """What a thread of the run's own does."""
        try:
            self.work(beside=True)
        except BaseException as error:
            self.errors.append(error)

    def work(self, beside: bool) -> None:
        """Write one file after the other, their checksums taken by a thread beside or by this."""
        while True:
            try:
                file = self.waiting.popleft()
            except IndexError:
                return
            self.write(file, beside)
            self.written.append(file)

    def tell(self, report: Progress | None) -> None:
        """Report how many bytes there are by now; that all are, `save` says when it is done."""
        if report is None:
            return
        nbytes, total = 0, self.tensors.nbytes
        with os.scandir(self.place.path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # just renamed
                    found = entry.stat()
                    # The library makes a file as long as it is going to be, and then fills it.
                    nbytes += min(found.st_size, getattr(found, "st_blocks", 0) * 512)
        done = min(int(nbytes * self.share), total - 1)
        if done > self.reported:
            self.reported = done
            report(done, total)

    def write(self, file: str, beside: bool) -> None:
        """Write one file, and take the checksums, `beside` that in another thread."""
        places = self.tensors.sorted(self.files[file])
        arrays = self.tensors.arrays(places)
        if [array.nbytes for array in arrays] != self.tensors.nbytes_of[places].tolist():
            raise CheckpointError.of(
                self.target, None, "a shape changed while it was saved", "save it again"
            )
        specs, facts = self.specs(places, locate(arrays)), self.facts(places)
        path, known = self.place.path / file, library()
        sums: list[bytes] = []
        helper = Helpers()
        try:
            if beside:
                helper.start(keep_checksums, arrays, sums)
            with told_of(self.target):
                try:
                    known.serialize_file(specs, path, metadata=metadata(facts, len(places)))
                except known.SafetensorError as error:
                    raise as_system_error(error, self.target) from error
        finally:
            helper.close()
        with told_of(self.target):
            self.complete(path, facts, sums[0] if sums else checksums(arrays))

    def specs(self, places: list[int], addresses: list[int]) -> dict[str, Any]:
        """What the library is told of some entries."""
        tensors, spec = self.tensors, library().TensorSpec
        kinds = [tensors.table[kind] for kind in tensors.kinds[places].tolist()]
        return {
            tensors.names[place]: spec(
                dtype=kind.stored_dtype,
                shape=kind.stored_shape,
                data_ptr=address,
                data_len=kind.nbytes,
            )
            for place, kind, address in zip(places, kinds, addresses, strict=True)
        }

    def facts(self, places: list[int]) -> dict[str, Any]:
        """What the format has no place for, by name: how tensors were cut, dtypes that it lacks."""
        tensors = self.tensors
        cut, texts = {}, {}
        for place in places if tensors.others else ():
            row = tensors.rows[place]
            other = tensors.others[-1 - row] if row < 0 else None
            if isinstance(other, PartitionedVariable):
                cut[tensors.names[place]] = other.partitions
        for place in places if any(kind.text is not None for kind in tensors.table) else ():
            text = tensors.table[tensors.kinds[place]].text
            if text is not None:
                texts[tensors.names[place]] = text
        return {**({"partitions": cut} if cut else {}), **({"dtypes": texts} if texts else {})}

    def complete(self, path: Path, facts: dict[str, Any], sums: bytes) -> None:
        """Put the checksums into a file, where the library was given zeros, and sync it.

        It writes the metadata in any order, and here they get the one that they always have: so
        the same values give the same bytes.
        """
        count = len(sums) // 4
        blank, full = metadata(facts, count), metadata(facts, count, sums)
        start = header_start(full)
        with open(path, "r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LONGEST_HEADER:
                raise CheckpointError.of(
                    self.target,
                    None,
                    f"the header of one file for {count:,} tensors would have {length:,} bytes, "
                    f"and readers take {LONGEST_HEADER:,}",
                    "save to a folder, as several files",
                )
            turned = dict(reversed(blank.items()))
            if file.read(len(start)) not in (header_start(blank), header_start(turned)):
                raise CheckpointError.of(
                    path,
                    None,
                    "the safetensors library wrote another header than it was given",
                    "install another version of it",
                )
            rest = file.read(length - len(start))
            file.seek(8)
            file.write(with_checksum(start, rest))
            finish_file(file, self.place)


def keep_checksums(arrays: list[np.ndarray], sums: list[bytes]) -> None:
    """What a thread beside the one that writes does."""
    with contextlib.suppress(MemoryError):  # the other one will ask for them itself
        sums.append(checksums(arrays))


# --- errors


@contextlib.contextmanager
def told_of(target: Path) -> Iterator[None]:
    """Let what the system says name what is saved, and not a file beside it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(target)) from error


def as_system_error(error: Exception, target: Path) -> Exception:
    """What the library raised, as what the system said."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found is None:
        return CheckpointError.of(
            target, None, f"the safetensors library says: {error}", "save what it can write"
        )
    number = int(found[1])
    if sys.platform == "win32":  # a number of its own kind
        return OSError(0, str(error), os.fspath(target), number)
    return OSError(number, os.strerror(number), os.fspath(target))
