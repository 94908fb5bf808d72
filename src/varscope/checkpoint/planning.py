"""`plan`: a graph, of which nothing is filled, becomes a `Plan` for many workers.

The files are those that `save` would write, to the last byte but their token, and do not depend on
the number of workers: only who fills which bytes does.  A file is cut where one of its pages ends,
so that no two workers write to one, and never within a tensor of which a part costs as much as the
whole.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from varscope import initializers, randomness, shapes
from varscope._scopecore import Spec, unfilled_rows
from varscope.checkpoint.dtypes import text_of
from varscope.checkpoint.entries import (
    Entries,
    Listing,
    Tensors,
    check_names,
    library,
    looked_through,
)
from varscope.checkpoint.fitting import folded, group
from varscope.checkpoint.plans import (
    COLUMNS,
    Layout,
    Plan,
    PlannedKind,
    as_line,
    digest_of,
    facts_of,
)
from varscope.checkpoint.safetensors_headers import DTYPES
from varscope.checkpoint.saving import SUFFIX, as_size, as_target
from varscope.checkpoint.written_headers import Entries as HeaderEntries
from varscope.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    InitializerError,
    PlanError,
)
from varscope.graph import Graph, unmoved
from varscope.summary import format_type

PAGE = 4096  # bytes
# A piece is what a worker that is killed does again: some of its share, and no more than is made in
# a second.
PARTS = 32  # of a worker's share
LEAST, MOST = 1 << 18, 1 << 28  # bytes of a piece, where a worker and a file have so many
WORTH = 1 << 20  # bytes from which on a matrix that is made as a whole is not made twice
MAKES_WHOLES = (initializers.orthogonal,)
BY = ("bytes", "files")
STORED = {name: stored for stored, (name, _) in DTYPES.items()}
NOT_PLAIN = "a function or an array as initializer"


def plan(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    workers: int,
    by: str = "bytes",
    max_shard_size: int | str = "5GB",
) -> Plan:
    """Say which worker fills which bytes of a checkpoint of first values, and fill nothing.

    The checkpoint will have the values that `varscope.initialize` would make and the files that
    `varscope.save` would write, however many workers there are.  Every worker calls
    `varscope.materialise(plan, k)`, on any machine that sees the folder; then one calls
    `varscope.finish(plan)`, and the checkpoint is there.

    Parameters
    ----------
    graph : Graph
        Its variables are only declared, and their initializers built-in ones: these go into the
        plan as names and settings.  Local variables are left out, as when a graph is saved.
    path : path
        The folder that becomes the checkpoint.
    workers : int
        How many there are.  More than there are machines are no harm.
    by : "bytes" or "files"
        "bytes": all workers fill as many, and several may fill parts of one file, or of one tensor.
        "files": each file has one worker, for file systems on which only one machine at a time
        should write to a file.
    max_shard_size : int or str
        How many bytes a file may have, as in `varscope.save`.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError : TypeError, ValueError
    PlanError : ValueError
        Variables that have values, or a function or an array as their initializer, or a shape that
        only their initializer knows.  It lists all of them.
    CheckpointError : ValueError
        A name that cannot be in a file.
    ImportError
        The library safetensors is not installed: it says in which order tensors lie in a file.
        Workers do not need it.

    >>> import varscope as vs
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default():
    ...     v = vs.get_variable("v", [1000, 100])
    >>> plan = vs.plan(g, "model", workers=2)
    >>> [[(piece.begin, piece.end) for piece in plan.pieces(k)] for k in (0, 1)]
    [[(0, 200520)], [(200520, 400000)]]
    """
    if not isinstance(graph, Graph):
        raise ArgumentTypeError.of("graph", "a varscope.Graph", graph)
    target = as_target(path)
    if target.name.endswith(SUFFIX):
        raise ArgumentValueError.of(
            "path", "a folder: several files are what workers can share", os.fspath(path)
        )
    count = shapes.as_int("workers", workers)
    if count < 1:
        raise ArgumentValueError.of("workers", "at least 1", workers)
    if by not in BY:
        raise ArgumentValueError.of("by", '"bytes" or "files"', by)
    most = as_size(max_shard_size)
    library()
    made = unmoved(graph, lambda: Planning(graph, target, most, count, by))
    return Plan._of(made.layout(relative=not os.path.isabs(path)))


class Draft:
    """The files of a plan in the making: what lies in which, and where each is cut in pieces."""

    kinds: list[PlannedKind]
    kind_of: npt.NDArray[np.intp]  # of each entry

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.columns: dict[str, list[Any]] = {key: [] for key in COLUMNS}
        self.lines: list[bytes] = []
        self.sizes: list[list[int]] = []  # of the pieces of each file

    def add_file(self, part: slice) -> bytes:
        """Plan one file, these entries; what tells of it, but for the cuts."""
        listing = self.listing
        places = listing.sorted(part)
        names = [listing.names[place] for place in places]
        kinds = self.kind_of[places]
        ends = np.cumsum(listing.nbytes_of[places])
        partitions, paths = self.partitions(places, names), self.paths(places, names)
        facts = facts_of(names, kinds, self.kinds, partitions)
        forms = [kind.form for kind in self.kinds]
        header = HeaderEntries(names, kinds, forms, ends, facts).length()
        nbytes = int(ends[-1]) if names else 0
        cuts = self.cuts(8 + header, places, kinds, ends)
        line: dict[str, Any] = {"names": names, "kinds": kinds.tolist()}
        line |= {"paths": paths} if paths else {}
        line |= {"partitions": partitions} if partitions else {}
        text = as_line(line)
        self.lines.append(as_line({"cuts": cuts})[:-2] + b"," + text[1:])
        edges = [0, *cuts, nbytes]
        self.sizes.append([end - begin for begin, end in itertools.pairwise(edges)])
        facts_of_file = (
            len(names), nbytes, header, len(cuts) + 1, len(self.lines[-1]),
            digest_of(self.lines[-1]),
        )  # fmt: skip
        for key, fact in zip(COLUMNS, facts_of_file, strict=True):
            self.columns[key].append(fact)
        return text

    def laid_out(self, **facts: Any) -> Layout:
        """All files that were added, with what else a layout says."""
        lines = dict(enumerate(self.lines))
        return Layout(kinds=self.kinds, columns=self.columns, lines=lines, **facts)

    def partitions(self, places: list[int], names: list[str]) -> dict[str, Any]:
        """How variables in parts were cut, by name."""
        raise NotImplementedError

    def paths(self, places: list[int], names: list[str]) -> dict[str, str]:
        """The paths of variables that have another name, by their places in the file."""
        return {}

    def cuts(
        self,
        start: int,
        places: list[int],
        kinds: npt.NDArray[np.intp],
        ends: npt.NDArray[np.int64],
    ) -> list[int]:
        """Where pieces of a file end whose data begins at `start`."""
        raise NotImplementedError


class Planning(Draft):
    """A plan in the making."""

    def __init__(self, graph: Graph, target: Any, most: int, workers: int, by: str) -> None:
        self.graph, self.target, self.workers, self.by = graph, target, workers, by
        self.seed = graph.seed
        entries = looked_through(graph, with_handles=False)
        check_names(entries.names, target)
        self.check_plannable(entries)
        self.tensors = Tensors(graph, entries)
        super().__init__(self.tensors)
        self.renamed = graph._renamed()
        self.kinds = []
        self.numbers: dict[bytes, int] = {}  # by what the plan says of a kind
        self.kind_of = self.find_kinds()
        self.piece = piece_size(self.tensors.nbytes, workers)
        self.model = hashlib.blake2b(digest_size=4, person=b"varscope plan")
        self.model.update(str(self.seed).encode() + b"\n")
        for part in self.tensors.cuts(most):
            self.model.update(self.add_file(part))
        for text in self.numbers:
            self.model.update(text)

    def layout(self, relative: bool) -> Layout:
        """All that the plan says."""
        return self.laid_out(
            path=self.target,
            relative=relative,
            seed=self.seed,
            token=self.model.hexdigest(),
            by=self.by,
            borders=self.borders(),
        )

    # --- what cannot be planned
    def check_plannable(self, entries: Entries) -> None:
        """One error that lists all variables whose values do not follow from names and settings."""
        specs, numbers = self.graph._all_specs(), entries.spec_numbers()
        refused = {number: fault(specs[number]) for number in np.unique(numbers[numbers >= 0])}
        faults: dict[str, list[int]] = {}
        for number, reason in refused.items():
            if reason:
                faults.setdefault(reason, []).extend(np.flatnonzero(numbers == number).tolist())
        for place in np.flatnonzero(numbers < 0).tolist():
            reason = fault(entries.others[-1 - entries.rows[place]]._spec)
            if reason:
                faults.setdefault(reason, []).append(place)
        faults["values already"] = self.with_values(entries)
        if not any(faults.values()):
            return
        lines: list[str] = []
        found: dict[str, list[str]] = {}
        for reason, places in faults.items():
            names = found[reason] = [entries.names[place] for place in sorted(places)]
            kinds = {name: described(self.graph[name]) for name in names}
            has = "variable has", "variables have"
            lines += group(folded(kinds), *has, reason, lambda kind: format_type(*kind))
        raise PlanError.unplannable(self.target, lines, found)

    def with_values(self, entries: Entries) -> list[int]:
        """The places of variables that are not only declared."""
        count = self.graph._count()
        unfilled = unfilled_rows(self.graph, None, 0, count, count)[0]
        if len(unfilled) == count:
            return []
        filled = np.ones(count, np.bool_)
        filled[unfilled] = False
        rows = np.array(entries.rows, np.intp)
        answer = [
            place
            for place in np.flatnonzero(rows < 0).tolist()
            if any(filled[shard._index] for shard in entries.others[-1 - entries.rows[place]])
        ]
        single = np.flatnonzero(rows >= 0)
        return [*answer, *single[filled[rows[single]]].tolist()]

    # --- kinds
    def find_kinds(self) -> npt.NDArray[np.intp]:
        """The number of each entry's kind."""
        tensors, specs = self.tensors, self.graph._all_specs()
        single = tensors.specs >= 0
        table = np.zeros(len(specs) + 1, np.intp)
        numbers, places = np.unique(tensors.specs, return_index=True)
        for number, place in zip(numbers.tolist(), places.tolist(), strict=True):
            if number >= 0:
                table[number] = self.number(specs[number], place)
        answer: npt.NDArray[np.intp] = table[tensors.specs]
        for place in np.flatnonzero(~single).tolist():
            answer[place] = self.number(tensors.others[-1 - tensors.rows[place]]._spec, place)
        return answer

    def number(self, spec: Spec, place: int) -> int:
        """The number of the kind that the variable at a place is of, whose values there can be."""
        shape, dtype, initializer = spec.shape, spec.dtype, spec.initializer
        stored = STORED[self.tensors.table[self.tensors.number(shape, dtype)].stored_dtype]
        kind = PlannedKind(shape, dtype, stored, initializer)  # type: ignore[arg-type]
        text = as_line(kind.described())
        found = self.numbers.get(text)
        if found is None:
            name = self.tensors.names[place]
            try:
                check_kind(kind)
            except InitializerError as error:
                raise InitializerError.stating(f"variable {name}: {error}", variable=name) from None
            found = self.numbers[text] = len(self.kinds)
            self.kinds.append(kind)
        return found

    # --- files
    def partitions(self, places: list[int], names: list[str]) -> dict[str, Any]:
        """How variables in parts were cut, by name."""
        tensors = self.tensors
        if not tensors.others:
            return {}
        return {
            name: list(tensors.others[-1 - tensors.rows[place]].partitions)
            for place, name in zip(places, names, strict=True)
            if tensors.rows[place] < 0
        }

    def paths(self, places: list[int], names: list[str]) -> dict[str, str]:
        """The paths of variables that have another name, by their places in the file."""
        if not self.renamed:
            return {}
        suffixes = (self.renamed.get(self.tensors.rows[place]) for place in places)
        return {
            str(i): names[i].removesuffix(f"_{suffix}")
            for i, suffix in enumerate(suffixes)
            if suffix is not None
        }

    def cuts(
        self,
        start: int,
        places: list[int],
        kinds: npt.NDArray[np.intp],
        ends: npt.NDArray[np.int64],
    ) -> list[int]:
        """Where pieces of a file end whose data begins at `start`."""
        solid = np.array(
            [isinstance(kind.initializer, MAKES_WHOLES) and kind.nbytes > WORTH
             for kind in self.kinds], np.bool_,
        )[kinds]  # fmt: skip
        found, end = [], int(ends[-1])
        at = page_after(start + self.piece) - start
        while at < end:
            place = int(np.searchsorted(ends, at, "right"))
            begin = int(ends[place - 1]) if place else 0
            if begin < at and solid[place]:
                at = page_after(start + int(ends[place])) - start
                continue
            found.append(at)
            at = page_after(start + at + self.piece) - start
        return found

    def borders(self) -> list[int]:
        """The number of each worker's first piece, and that of all."""
        if self.by == "files":  # which are not cut then
            whole = [sum(sizes) for sizes in self.sizes]
            counts = [0, *np.cumsum([len(sizes) for sizes in self.sizes]).tolist()]
            return [counts[border] for border in even_borders(whole, self.workers)]
        return even_borders([size for sizes in self.sizes for size in sizes], self.workers)


def even_borders(sizes: list[int], workers: int) -> list[int]:
    """Cut a row of sizes among workers, as evenly as it goes without cutting one.

    >>> even_borders([4, 4, 4, 4, 8], 3)
    [0, 2, 4, 5]
    """
    ends = np.concatenate([[0], np.cumsum(np.array(sizes, np.int64))])
    total, found = int(ends[-1]), [0]
    for k in range(1, workers):
        wanted = total * k / workers
        at = bisect.bisect_left(ends, wanted)
        if at and wanted - ends[at - 1] <= ends[min(at, len(sizes))] - wanted:
            at -= 1
        found.append(max(found[-1], min(at, len(sizes))))
    return [*found, len(sizes)]


def piece_size(nbytes: int, workers: int) -> int:
    """How many bytes a piece is to have."""
    share = nbytes // workers
    return min(max(share // PARTS, min(share, LEAST), PAGE), MOST)


def page_after(place: int) -> int:
    """The end of the page in which a byte of a file lies, or the place where one begins."""
    return -(-place // PAGE) * PAGE


def fault(spec: Spec) -> str | None:
    """Why variables of a spec cannot be planned: what they have."""
    if spec.size < 0:
        return "a shape that only the initializer knows"
    return NOT_PLAIN if initializers.described(spec.initializer) is None else None


def check_kind(kind: PlannedKind) -> None:
    """Refuse what no worker could fill."""
    initializer = kind.initializer
    distribution = initializer.drawn_from(kind.shape, kind.dtype)
    if distribution is not None:
        randomness.fill(np.empty(0, kind.dtype), distribution, 0)
    elif isinstance(initializer, initializers.identity):
        initializer.on_diagonal(kind.shape, kind.dtype)
    elif isinstance(initializer, initializers.orthogonal):
        initializer.check_matrix(kind.shape, kind.dtype)


def described(variable: Any) -> tuple[str, Any]:
    return text_of(variable.dtype), variable.shape
