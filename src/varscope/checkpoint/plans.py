"""`Plan`: which worker fills which bytes of which file of a checkpoint, as plain data.

The text of a plan is lines of JSON.  The first one, the head, has what every worker needs: the
seed, what there is of kinds of variables, and columns of what is known of each file.  Then each
file has a line with the names of its tensors and where it may be cut; the head says how long these
lines are, so that a worker reads those of its own files and no others.

    {"varscope_plan":1,"path":"model","seed":1,"token":"0a1b2c3d","by":"bytes",
     "kinds":[{"shape":[4,4],"dtype":"float32","stored":"F32","initializer":{"name":"zeros"}}],
     "files":{"tensors":[2],"nbytes":[128],"header":[264],"pieces":[1],"line":[70],"digest":[...]},
     "workers":[0,1],"digest":...}
    {"cuts":[],"names":["layer_0/kernel","layer_1/kernel"],"kinds":[0,0]}

`kinds` of a line are places in those of the head.  A line may have `paths`, by place, where a
variable's path is not its name in the file, and `partitions`, by name.  Worker *k* fills the pieces
from number `workers[k]` to before `workers[k + 1]`, counted through all files; a file's pieces lie
between its `cuts`, in bytes of its data.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import operator
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from varscope import initializers, shapes
from varscope.checkpoint import dtypes
from varscope.checkpoint.replacement import put_file, workplace
from varscope.checkpoint.safetensors_headers import DTYPES
from varscope.checkpoint.saving import file_name, finish_file, told_of
from varscope.checkpoint.written_headers import Entries
from varscope.errors import ArgumentTypeError, ArgumentValueError, PlanError

if TYPE_CHECKING:
    import numpy.typing as npt

VERSION = 1
LONGEST_HEAD = 1 << 30  # bytes; one for a million files has a tenth of that
CUTS = b'{"cuts":'  # how the line of a file begins
COLUMNS = ("tensors", "nbytes", "header", "pieces", "line", "digest")


class Piece(NamedTuple):
    """Bytes of a file that are filled in one go: those of its data from `begin` to before `end`."""

    file: str
    begin: int
    end: int


@dataclass(frozen=True)
class PlannedKind:
    """What variables of one shape, dtype and initializer are, and how a file has them."""

    shape: tuple[int, ...]
    dtype: np.dtype
    stored: str  # what the format calls the dtype
    initializer: initializers.Initializer

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    @property
    def text(self) -> str | None:
        """The name of a dtype that the format lacks; a file has the bytes of its elements."""
        text = dtypes.text_of(self.dtype)
        return None if text == DTYPES[self.stored][0] else str(text)

    @property
    def form(self) -> tuple[str, tuple[int, ...]]:
        """The dtype and shape of which the header of a file tells."""
        lacking = self.text is not None
        return self.stored, (*self.shape, self.dtype.itemsize) if lacking else self.shape

    def described(self) -> dict[str, Any]:
        """This kind as what JSON has."""
        return {
            "shape": list(self.shape),
            "dtype": dtypes.text_of(self.dtype),
            "stored": self.stored,
            "initializer": initializers.described(self.initializer),
        }

    @classmethod
    def of(cls, described: dict[str, Any]) -> Self:
        return cls(
            tuple(map(operator.index, described["shape"])),
            dtypes.dtype_of(described["dtype"]),
            described["stored"],
            initializers.of_description(described["initializer"]),
        )


class PlannedFile:
    """One file of a plan: its tensors in the order of their data, and where it may be cut."""

    def __init__(self, kinds: list[PlannedKind], number: int, line: dict[str, Any]) -> None:
        self.number = number
        self.names: list[str] = line["names"]
        self.kinds = np.array(line["kinds"], np.intp)
        self.cuts: list[int] = line["cuts"]
        self.paths: dict[int, str] = {int(at): path for at, path in line.get("paths", {}).items()}
        nbytes = np.array([kind.nbytes for kind in kinds], np.int64)[self.kinds]
        self.ends = np.cumsum(nbytes, dtype=np.int64)
        self.begins = self.ends - nbytes
        self.entries = Entries(
            self.names, self.kinds, [kind.form for kind in kinds], self.ends,
            facts_of(self.names, self.kinds, kinds, line.get("partitions", {})),
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def path(self, place: int) -> str:
        """The path of a variable, from which its values follow."""
        return self.paths.get(place, self.names[place])

    def overlapping(self, begin: int, end: int) -> slice:
        """The tensors that have bytes from `begin` to before `end`."""
        first = int(np.searchsorted(self.ends, begin, "right"))
        return slice(first, max(first, int(np.searchsorted(self.begins, end, "left"))))


def facts_of(
    names: list[str],
    kinds: npt.NDArray[np.intp],
    table: list[PlannedKind],
    partitions: dict[str, Any],
) -> dict[str, Any]:
    """What the format has no place for, by name, as `save` notes it."""
    lacking = {number: kind.text for number, kind in enumerate(table) if kind.text is not None}
    texts = {
        names[place]: lacking[number]
        for place, number in enumerate(kinds.tolist() if lacking else ())
        if number in lacking
    }
    found: dict[str, Any] = {"partitions": partitions} if partitions else {}
    return {**found, "dtypes": texts} if texts else found


@dataclass(eq=False)
class Layout:
    """All that a plan says: its head, and the lines of files.

    `lines` are those of some files; the others lie in the file `source` from `start` on, where
    there is one.
    """

    path: Path
    relative: bool  # whether the path was given as a relative one
    seed: int
    token: str  # that of the files
    by: str
    kinds: list[PlannedKind]
    columns: dict[str, list[Any]]  # what is known of each file, by `COLUMNS`
    borders: list[int]  # the number of each worker's first piece, and that of all pieces
    lines: dict[int, bytes]
    source: Path | None = None
    start: int = 0

    @property
    def workers(self) -> int:
        return len(self.borders) - 1

    @cached_property
    def files(self) -> list[str]:
        """What the files are called."""
        count = len(self.columns["nbytes"])
        return [file_name(self.token, number, count) for number in range(1, count + 1)]

    @cached_property
    def first_pieces(self) -> list[int]:
        """The number of each file's first piece, and that of all pieces."""
        return list(itertools.accumulate(self.columns["pieces"], initial=0))

    @cached_property
    def line_starts(self) -> list[int]:
        """Where the line of each file begins, behind the head."""
        return list(itertools.accumulate(self.columns["line"], initial=0))

    # --- workers
    def checked_worker(self, worker: Any) -> int:
        """The number of a worker."""
        number = shapes.as_int("worker", worker)
        if not 0 <= number < self.workers:
            raise ArgumentValueError.of(
                "worker", f"from 0 to {self.workers - 1}, as the plan is for {self.workers}", number
            )
        return number

    def share(self, worker: int) -> Iterator[tuple[int, int, int]]:
        """The pieces of a worker: file, begin and end."""
        piece, last = self.borders[worker], self.borders[worker + 1]
        while piece < last:
            number = bisect.bisect_right(self.first_pieces, piece) - 1
            first, edges = self.first_pieces[number], self.edges(number)
            until = min(last, first + len(edges) - 1)
            for i in range(piece - first, until - first):
                yield number, edges[i], edges[i + 1]
            piece = until

    def worker_of(self, number: int, place: int) -> int:
        """Which worker fills a piece of a file."""
        return bisect.bisect_right(self.borders, self.first_pieces[number] + place) - 1

    # --- files
    def size_of(self, number: int) -> int:
        """The bytes of a file."""
        return int(8 + self.columns["header"][number] + self.columns["nbytes"][number])

    def edges(self, number: int) -> list[int]:
        """Where the pieces of a file begin, and where the last one ends."""
        pieces = self.columns["pieces"][number]
        text = self.line(number, len(CUTS) + 21 * pieces)
        try:
            cuts = json.loads(text[len(CUTS) : text.index(b"]") + 1])
        except ValueError:
            cuts = None
        if not text.startswith(CUTS) or not isinstance(cuts, list) or len(cuts) != pieces - 1:
            raise self.damaged(f"the line of file {number + 1} does not begin as one")
        return [0, *cuts, self.columns["nbytes"][number]]

    def file(self, number: int) -> PlannedFile:
        """A file, read anew."""
        line = self.line(number)
        if digest_of(line) != self.columns["digest"][number]:
            raise self.damaged(f"the line of file {number + 1} is not the one that was written")
        file = PlannedFile(self.kinds, number, json.loads(line))
        known = file.nbytes, len(file.names), len(file.cuts) + 1
        if known != tuple(self.columns[key][number] for key in ("nbytes", "tensors", "pieces")):
            raise self.damaged(f"the line of file {number + 1} does not fit the head")
        return file

    def line(self, number: int, most: int | None = None) -> bytes:
        """The line of a file, or not more than so many bytes of it."""
        found = self.lines.get(number)
        if found is not None:
            return found[:most]
        if self.source is None:
            raise PlanError.of(
                self.path,
                "this is what for_worker gave to a worker that does not fill that file; load the "
                "whole plan with Plan.load",
            )
        with open(self.source, "rb") as opened:
            opened.seek(self.start + self.line_starts[number])
            length = self.columns["line"][number]
            return opened.read(length if most is None else min(length, most))

    def with_lines(self, numbers: Iterable[int]) -> Layout:
        """The same with the lines of some files, and no other."""
        lines = {number: self.line(number) for number in numbers}
        return replace(self, lines=lines, source=None, start=0)

    def damaged(self, reason: str) -> PlanError:
        return PlanError.of(
            self.source or self.path, f"{reason}: it is damaged; make it again with varscope.plan"
        )

    # --- the head
    def head(self, folder: Path) -> bytes:
        """The first line of the text, for a file in this folder."""
        path = os.path.relpath(self.path, folder) if self.relative else os.fspath(self.path)
        head = {
            "varscope_plan": VERSION,
            "path": path,
            "seed": self.seed,
            "token": self.token,
            "by": self.by,
            "kinds": [kind.described() for kind in self.kinds],
            "files": self.columns,
            "workers": self.borders,
        }
        head["digest"] = digest_of(as_line(head))
        return as_line(head)

    @classmethod
    def of(cls, head: Any, source: Path, start: int) -> Self:
        """What a head says that was read from a file; ValueError and the like if it is none."""
        if not isinstance(head, dict) or "varscope_plan" not in head:
            raise ValueError("it does not begin as one")
        if head["varscope_plan"] != VERSION:
            raise ValueError(f"it is of version {head['varscope_plan']!r:.100}, not {VERSION}")
        if head.pop("digest", None) != digest_of(as_line(head)):
            raise ValueError("its first line is not the one that was written")
        columns = {key: head["files"][key] for key in COLUMNS}
        if len(set(map(len, columns.values()))) != 1:
            raise ValueError("its columns differ in length")
        folder = Path(os.path.realpath(source)).parent
        return cls(
            path=Path(os.path.normpath(folder / head["path"])),
            relative=not os.path.isabs(head["path"]),
            seed=head["seed"],
            token=head["token"],
            by=head["by"],
            kinds=[PlannedKind.of(kind) for kind in head["kinds"]],
            columns=columns,
            borders=head["workers"],
            lines={},
            source=source,
            start=start,
        )


class Plan:
    """Which worker fills which bytes of which file of a checkpoint; `varscope.plan` makes one.

    A plan is plain data: `save` writes it as lines of JSON, `Plan.load` reads it, and it can be
    pickled.  Of a plan that was loaded, the names of a file's tensors are read when they are asked
    for.  `len(plan)` is how many tensors there are.

    >>> import varscope as vs
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default():
    ...     v = vs.get_variable("v", [1000, 100])
    >>> plan = vs.plan(g, "model", workers=2)
    >>> plan.workers, len(plan), plan.nbytes, len(plan.files)
    (2, 1, 400000, 1)
    >>> plan.save("model.plan")
    >>> vs.Plan.load("model.plan").pieces(1) == plan.pieces(1)
    True
    """

    _layout: Layout

    def __init__(self) -> None:
        raise ArgumentTypeError(
            "a Plan is made by varscope.plan, or read by Plan.load; write one of these"
        )

    @classmethod
    def _of(cls, layout: Layout) -> Self:
        new = cls.__new__(cls)
        new._layout = layout
        return new

    # --- what it says
    @property
    def path(self) -> Path:
        """The folder that becomes the checkpoint."""
        return self._layout.path

    @property
    def workers(self) -> int:
        """How many workers there are; they are numbered from 0."""
        return self._layout.workers

    @property
    def by(self) -> str:
        """What is balanced: "bytes" or "files", see `varscope.plan`."""
        return self._layout.by

    @property
    def seed(self) -> int:
        """That of the graph, from which all values follow."""
        return self._layout.seed

    @property
    def files(self) -> list[str]:
        """The files of the checkpoint, but its index."""
        return list(self._layout.files)

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(self._layout.columns["nbytes"])

    def __len__(self) -> int:
        return sum(self._layout.columns["tensors"])

    def pieces(self, worker: int) -> list[Piece]:
        """What one worker fills, in the order of files and bytes.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError : TypeError, ValueError
            There is no such worker.
        PlanError : ValueError
            The plan is another worker's, or damaged.
        """
        layout = self._layout
        return [
            Piece(layout.files[number], begin, end)
            for number, begin, end in layout.share(layout.checked_worker(worker))
        ]

    # --- what becomes of it
    def for_worker(self, worker: int) -> Plan:
        """What one worker needs of the plan: the names of its own files and no others.

        It is what to send where the plan's file cannot be read; it works as the plan does, for
        this worker.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError : TypeError, ValueError
            There is no such worker.
        """
        layout = self._layout
        chosen = {number for number, *_ in layout.share(layout.checked_worker(worker))}
        return Plan._of(layout.with_lines(chosen))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a file, in the place of what is there.

        Where the checkpoint's path was given as a relative one, the file notes it relative to
        itself, so that both can be mounted anywhere.

        Raises
        ------
        ArgumentTypeError : TypeError
        PlanError : ValueError
            This is what `for_worker` gave.
        OSError
        """
        target, layout = as_path(path), self._layout
        target = Path(os.path.realpath(target.parent)) / target.name
        with told_of(target), workplace(target.parent, target.name) as place:
            with open(place.path / target.name, "wb") as file:
                file.write(layout.head(target.parent))
                file.writelines(map(layout.line, range(len(layout.files))))
                finish_file(file, place)
            put_file(place, target.name, target)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a plan that `save` has written.

        Raises
        ------
        ArgumentTypeError : TypeError
        PlanError : ValueError
            The file holds no plan, or a damaged one.
        OSError
        """
        source = as_path(path)
        with open(source, "rb") as opened:
            text = opened.readline(LONGEST_HEAD)
            size = os.fstat(opened.fileno()).st_size
        try:
            layout = Layout.of(json.loads(text), source, len(text))
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise PlanError.of(
                source,
                f"this is no plan that can be read: {error!s:.300}; make it again with "
                "varscope.plan",
            ) from None
        if len(text) + layout.line_starts[-1] != size:
            raise PlanError.of(
                source,
                "it was cut off, or something was added to it; make it again with varscope.plan",
            )
        return cls._of(layout)

    def __reduce__(self) -> tuple[Any, ...]:
        layout = self._layout
        if layout.source is not None:
            layout = layout.with_lines(range(len(layout.files)))
        return Plan._of, (layout,)

    def __repr__(self) -> str:
        return (
            f"<Plan of {os.fspath(self.path)!r}: {len(self):,} tensors, {self.nbytes:,} bytes, "
            f"{len(self._layout.files):,} files, {self.workers:,} workers>"
        )


def as_path(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise ArgumentTypeError.of("path", "a str or a path", path)
    return Path(path)


def as_line(facts: dict[str, Any]) -> bytes:
    return json.dumps(facts, separators=(",", ":")).encode() + b"\n"


def digest_of(*texts: bytes) -> str:
    """A digest of 64 bits, which tells texts apart that somebody could confuse."""
    digest = hashlib.blake2b(digest_size=8, person=b"varscope plan")
    for text in texts:
        digest.update(text)
    return digest.hexdigest()
