"""`restore`: the values of a checkpoint become those of a graph's variables, of all or of none.

What can fail comes first.  All is compared before anything is read (`fitting`); then the values are
read, by several threads, to where they will lie but nobody looks yet: into fresh arrays, or into
the places in slabs of variables that are only declared.  The last step makes all of them the
values of their variables: one call of the core, which allocates nothing and sees no signal.

Values that a variable has already are overwritten in that step too, where they lie, so that views
of them stay good.  So nothing has to be put back, and there is no moment at which some variables
have old values and others new ones, but for the time that copying takes.

Files are read by position (`os.preadv`) straight into the arrays, not copied from their maps:
that takes as long, a file which somebody cuts meanwhile is an error and not a signal that ends
the process, and no pages of files count as memory of the process.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from varscope._scopecore import (
    Filling,
    commit_values,
    end_filling,
    put_in_places,
    reopen,
    scatter,
)
from varscope.checkpoint.contents import MappedFile, StoredTensor
from varscope.checkpoint.fitting import (
    Fit,
    Kind,
    Sources,
    Tensors,
    Wanted,
    check_arguments,
    fitted,
)
from varscope.errors import RestoreError, WithdrawnError
from varscope.graph import Graph
from varscope.progress import Helpers, Progress, SharedWork, as_report, as_threads
from varscope.storage import GRANULE, LARGE, RemoteStorage, SlabStorage, as_bytes, is_run
from varscope.variables import Content, Variable

CHUNK = 1 << 20  # bytes of neighbours in a file that are read at once
SMALL = 1 << 17  # bytes of a tensor that is read with its neighbours
GAP = 1 << 14  # bytes that nobody wants, and are read because their neighbours are
BLOCK = 1 << 22  # bytes of a large tensor that are read at once
STRETCH = 1 << 26  # bytes of a large tensor that a thread takes at a time
WORTH = 1 << 20  # bytes for which another thread is started


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What `restore` did: names of variables it filled, and those that it was to leave alone.

    `missing` are variables without a tensor, `left_over` tensors without a variable; both are
    empty but for `partial=True`.
    """

    restored: list[str]
    missing: list[str]
    left_over: list[str]

    def __repr__(self) -> str:
        return (
            f"<RestoreReport: {len(self.restored):,} restored, {len(self.missing):,} missing, "
            f"{len(self.left_over):,} left over>"
        )


def restore(
    graph: Graph,
    path: Any,
    *,
    names: Any = None,
    partial: bool = False,
    cast: str | None = None,
    verify: bool = False,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> RestoreReport:
    """Give variables the values that a checkpoint has under their names: all of them, or none.

    A variable is found by its `op_name`, one in parts by its whole name, however it was cut when it
    was saved.  Local variables do not take part.  After an exception, Ctrl-C included, all
    variables are as they were.  Variables that are only declared get the values at once, and no
    initializer runs; where there are values they are overwritten in place, so that views of them
    stay good.  Constraints are not applied.

    Parameters
    ----------
    graph : Graph
    path : path, Checkpoint, or list or dict of these
        What `varscope.open` takes, or has returned.  Several are read as one; the keys of a dict
        are what a name map calls them.
    names : NameMap, dict, function, path or list of rules, optional
        Turns the names in the files into those of variables: see `NameMap`.
    partial : bool
        Restore what is there on both sides, and leave the rest alone.  Shapes and dtypes must fit
        all the same, and something must be there on both sides.
    cast : "safe", "same_kind" or "unsafe", optional
        Convert dtypes that differ, as far as `numpy.can_cast` goes by that rule.
    verify : bool
        First compare all values in the files with the checksums that were recorded.
    threads : int, optional
        How many threads work, the calling one included; as many as the process may use processors
        where it is left out.
    progress : callable, or bool, optional
        `progress(done_bytes, total_bytes)`, as for `varscope.initialize`.

    Raises
    ------
    RestoreError : ValueError
        The checkpoint does not fit.  It lists all that differs, and what to write.
    CheckpointError : ValueError
        What is there is no checkpoint, or a damaged one.
    OSError
        The files cannot be read; FileNotFoundError where there are none.

    >>> import numpy as np, varscope as vs
    >>> from safetensors.numpy import save_file
    >>> save_file({"w": np.arange(3.0)}, "model.safetensors")
    >>> g = vs.Graph()
    >>> with g.as_default():
    ...     w = vs.get_variable("w", [3])
    >>> vs.restore(g, "model.safetensors", cast="same_kind")
    <RestoreReport: 1 restored, 0 missing, 0 left over>
    >>> w.value().tolist()
    [0.0, 1.0, 2.0]
    """
    check_arguments(graph, cast)
    workers = as_threads(threads)
    run = None
    try:
        with (
            as_report(progress, "restore") as report,
            contextlib.closing(Sources(path)) as sources,
        ):
            tensors, handles = Tensors(sources, names), None
            while handles is None:
                wanted = Wanted.of(graph)
                found = fitted(wanted, tensors, cast)
                error = found.error(bool(partial))
                if error is not None:
                    raise error
                handles = wanted.handles(found.rows.tolist())
            if verify:
                for checkpoint in sources.checkpoints:
                    checkpoint.verify()
            done = RestoreReport(found.restored, found.missing, found.left_over)
            if isinstance(graph.storage, RemoteStorage):
                parts = [wanted.parts.get(row) for row in found.rows.tolist()]
                graph.storage.restore(handles, tensors, found, parts, report)
                return done
            run = Run(wanted, handles, tensors, found, workers, report)
            run.run()
    except MemoryError:
        if run is None or not run.committed:  # else all that was left is to close what was open
            raise
    return done


# --- one at a time

# Held while values become those of variables: two restores of one graph must not mix theirs.  No
# other code runs meanwhile.
committing = threading.Lock()


def free_in_child() -> None:
    """A child of a fork has no other thread that would let go of it."""
    global committing
    committing = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=free_in_child)


# --- where values come from


class Places:
    """Where in which file the values of each tensor begin, of all sources as columns."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors
        self.files: list[MappedFile] = []
        file_of, offset_of, odd = [], [], []
        for checkpoint in tensors.sources.checkpoints:
            columns = checkpoint._columns
            file_of.append(np.asarray(columns.file_of, np.int64) + len(self.files))
            offset_of.append(np.asarray(columns.offset_of, np.int64))
            self.files += [checkpoint._mapped(i) for i in range(len(checkpoint.files))]
            in_one_piece = np.ones(len(checkpoint), bool)
            if getattr(columns, "swapped", False):
                in_one_piece[:] = False
            in_one_piece[list(columns.pieces)] = False
            odd.append(~in_one_piece)
        made = len(tensors.recipes)
        none = np.zeros(made, np.int64)
        self.file_of = np.concatenate([*file_of, none])
        self.offset_of = np.concatenate([*offset_of, none])
        # What does not lie somewhere as it is: made by a name map, in pieces, in another order.
        self.odd = np.concatenate([*odd, np.ones(made, bool)])


# --- how they get there

# How a tensor is read: with its neighbours, at once by itself, in stretches, or otherwise.
TOGETHER, WHOLE, LARGE_ONE, ODD = range(4)

Task = tuple[Callable[..., None], Any]


class Run(SharedWork):
    """One restore, once it is known that all fits: values are read, then all become those.

    A *target* is a variable with a number here.  The values of target i lie in `arrays[i]`, or
    already in its place in a slab, where nobody looks before they count: small ones have
    `in_place[i]` set, and large ones a claim, which ends where another thread wants first values.
    """

    def __init__(
        self,
        wanted: Wanted,
        handles: list[Variable],
        tensors: Tensors,
        found: Fit,
        threads: int,
        report: Progress | None,
    ) -> None:
        self.graph = wanted.graph
        self.storage: Any = self.graph.storage
        self.in_slabs = isinstance(self.storage, SlabStorage)
        self.tensors, self.names = tensors, wanted.names
        self.rows: list[int] = found.rows.tolist()
        self.numbers: list[int] = found.numbers.tolist()
        self.numbers_of = found.numbers
        self.which, self.alike = found.which, found.kinds
        self.kinds: list[Kind] = [found.kinds[number] for number in found.which.tolist()]
        self.parts = {}
        if wanted.parts:
            self.parts = {
                i: wanted.parts[row] for i, row in enumerate(self.rows) if row in wanted.parts
            }
        self.handles = handles
        self.cut_across = np.zeros(len(self.rows), bool)  # shards in more than one run of bytes
        for i, part in self.parts.items():
            self.cut_across[i] = not is_run(part)
        self.places = Places(tensors)
        sizes = [nbytes_of(kind) if type(kind) is Kind else 0 for kind in found.kinds]
        self.sizes = np.array(sizes, np.int64)[found.which]
        self.files, self.offsets = self._origins()
        count = len(self.handles)
        self.arrays: list[np.ndarray | None] = [None] * count
        self.in_place = bytearray(count)
        self.claims: dict[int, Filling] = {}
        self.opened: dict[int, Any] = {}  # specs as they were, of shapes that were settled
        total = int(self.sizes.sum())
        super().__init__(min(threads, 1 + total // WORTH), total, report)
        self.errors: list[BaseException] = []
        self.stopped = False
        self.tasks: deque[Task] = deque()
        self.committed = False  # whether the variables have their values
        self.holds_places = False  # whether this run may write to the places of small variables

    def _origins(self) -> tuple[np.ndarray, np.ndarray]:
        """In which file the values of each target lie, and from which byte on."""
        files = self.places.file_of[self.numbers_of]
        offsets = self.places.offset_of[self.numbers_of]
        for i, part in self.parts.items():
            offsets[i] += part.first * self.kinds[i].stored.itemsize
        return files, offsets

    def run(self) -> None:
        if self.in_slabs:
            self.holds_places = self.storage.restoring.acquire(blocking=False)
        try:
            todo = list(range(len(self.handles)))
            if not todo:
                self.tell(0)
            while todo:
                self.stage(todo)
                self.tell(self.total)  # what it raises comes before anything is changed
                todo = self.commit()
        except BaseException:
            if not self.committed:
                for i, spec in self.opened.items():
                    reopen(self.handles[i], spec)
            raise
        finally:
            for claim in list(self.claims.values()):
                claim.drop()
                end_filling(self.storage._fillings, claim)
            if self.holds_places:
                self.storage.restoring.release()

    # --- what there is to do
    def stage(self, targets: list[int]) -> None:
        """Read the values of targets to where they count next."""
        if self.in_slabs:
            self.storage.expect(self.graph._place_rows(None, len(self.graph)))
        chosen = np.array(targets, np.int64)
        of_kind = np.array([self.sort(kind) for kind in self.alike])
        sorts = of_kind[self.which[chosen]]
        sorts[self.places.odd[self.numbers_of[chosen]] | self.cut_across[chosen]] = ODD
        alone: dict[int, list[int]] = {}
        for i in chosen[sorts == ODD].tolist():
            alone.setdefault(self.numbers[i], []).append(i)
        for i in chosen[sorts == LARGE_ONE].tolist():
            self.begin_large(i)
        self.tasks += [(self.whole, i) for i in chosen[sorts == WHOLE].tolist()]
        together = chosen[sorts == TOGETHER]
        for chunk in self.chunks(together):
            self.tasks.append((self.chunk, chunk))
        self.work_off([(self.odd_one, *entry) for entry in alone.items()])

    def sort(self, kind: Any) -> int:
        """How tensors of a kind are read."""
        if type(kind) is not Kind:
            return ODD  # it does not fit, and there is no such target
        elements = math.prod(kind.shape)
        nbytes = elements * max(kind.dtype.itemsize, kind.stored.itemsize)
        if elements > LARGE if self.in_slabs else nbytes > SMALL:
            return LARGE_ONE
        return TOGETHER if kind.plain and nbytes <= SMALL else WHOLE

    def chunks(self, targets: np.ndarray) -> Iterator[np.ndarray]:
        """Targets that lie side by side in a file, a chunk at a time."""
        if targets.size == 0:
            return
        order = np.lexsort((self.offsets[targets], self.files[targets]))
        targets = targets[order]
        files, starts = self.files[targets], self.offsets[targets]
        stops = starts + self.sizes[targets]
        first, begin, end = 0, starts[0], stops[0]
        breaks = (files[1:] != files[:-1]) | (starts[1:] > stops[:-1] + GAP)
        for at in range(1, len(targets)):
            if breaks[at - 1] or stops[at] > begin + CHUNK or at - first == 4096:
                yield targets[first:at]
                first, begin, end = at, starts[at], stops[at]
            end = max(end, stops[at])
        yield targets[first:]

    def begin_large(self, i: int) -> None:
        """Have a large target's memory ready, and read it in stretches."""
        array = self.room(i)
        kind = self.kinds[i]
        step = max(1, STRETCH // max(1, kind.stored.itemsize))
        for first in range(0, array.size, step):
            self.tasks.append((self.stretch, (i, array, first, min(first + step, array.size))))

    def room(self, i: int) -> np.ndarray:
        """The memory that a target's values are read to: its place where that may be, or fresh."""
        kind, handle = self.kinds[i], self.handles[i]
        if self.in_slabs and kind.spec is None and math.prod(kind.shape) > LARGE:
            with contextlib.suppress(WithdrawnError):
                claimed = self.storage.claim(handle, kind.shape)
                if claimed is not None:
                    self.claims[i], array = claimed
                    return array  # type: ignore[no-any-return]
        array = self.arrays[i] = np.empty(kind.shape, kind.dtype)
        return array

    # --- tasks
    def chunk(self, targets: np.ndarray, slot: int) -> None:
        """Small tensors that lie side by side."""
        chosen: list[int] = targets.tolist()
        start = int(self.offsets[chosen[0]])
        stops = self.offsets[targets] + self.sizes[targets]
        data: Any = np.empty(int(stops.max()) - start, np.uint8)
        file = self.places.files[self.files[chosen[0]]]
        file.read(start, data.data, self.tensor(chosen[0]))
        offsets = self.offsets[targets] - start
        if self.holds_places:
            others = self.put(chosen, data, offsets)
            chosen, offsets = [chosen[k] for k in others], offsets[others]
        kinds, empty = self.kinds, np.empty
        arrays = [empty(kinds[i].shape, kinds[i].dtype) for i in chosen]
        scatter(data, offsets, arrays)
        for i, array in zip(chosen, arrays, strict=True):
            self.arrays[i] = array
        self.tick(slot, int(self.sizes[targets].sum()))

    def whole(self, i: int, slot: int) -> None:
        """A tensor that is read by itself at once: of another dtype, say."""
        array = np.empty(self.kinds[i].shape, self.kinds[i].dtype)
        self.copy(i, array, 0, array.size, slot)
        self.deliver(i, array)

    def stretch(self, task: tuple[int, np.ndarray, int, int], slot: int) -> None:
        """Some elements of a large tensor."""
        self.copy(*task, slot)

    def copy(self, i: int, array: np.ndarray, first: int, last: int, slot: int) -> None:
        """Read some elements of a tensor to where they belong, a block at a time."""
        kind, start = self.kinds[i], int(self.offsets[i])
        file, tensor = self.places.files[self.files[i]], self.tensor(i)
        flat, itemsize = array.reshape(-1), kind.stored.itemsize
        step = max(1, BLOCK // max(1, itemsize))
        scratch = flat[:0] if kind.plain else np.empty(min(step, last - first), kind.stored)
        for begin in range(first, last, step):
            end = min(begin + step, last)
            into = flat[begin:end] if kind.plain else scratch[: end - begin]
            reading = start + begin * itemsize, as_bytes(into).data, tensor
            if kind.plain:
                wanted = self.write(i, file.read, *reading)
            else:
                file.read(*reading)
                wanted = self.write(i, np.copyto, flat[begin:end], into, "unsafe")
            if not wanted or self.stopped:
                return
            self.tick(slot, (end - begin) * kind.dtype.itemsize)

    def odd_one(self, number: int, targets: list[int]) -> None:
        """A tensor that takes more than reading a run of bytes, for one variable or its parts.

        One at a time: it may need as much memory again.
        """
        arrays = [self.room(i) for i in targets]
        if self.places.odd[number]:
            self.made(number, targets, arrays)
        else:
            self.cut(number, targets, arrays)
        for i, array in zip(targets, arrays, strict=True):
            if i not in self.claims:
                self.deliver(i, array)
            self.tick(0, int(self.sizes[i]))

    def made(self, number: int, targets: list[int], arrays: list[np.ndarray]) -> None:
        """What a name map makes of tensors, or what lies in the file in pieces."""
        recipe = self.tensors.recipes.get(number)
        if recipe is not None and not self.parts.get(targets[0]) and self.kinds[targets[0]].plain:
            self.write(targets[0], recipe.read, arrays[0])
            return
        take: Callable[[Any], np.ndarray]
        if recipe is None:
            take = StoredTensor(*self.tensors.origin(number))._read_part
        else:
            take = recipe.read().__getitem__
        for i, array in zip(targets, arrays, strict=True):
            index = self.parts[i].index if i in self.parts else ...
            self.write(i, np.copyto, array, take(index), "unsafe")

    def cut(self, number: int, targets: list[int], arrays: list[np.ndarray]) -> None:
        """A tensor whose shards do not lie in one piece each: some rows at a time."""
        shape, stored = self.tensors.shapes[number], self.kinds[targets[0]].stored
        row = math.prod(shape[1:])
        step = max(1, BLOCK // max(1, row * stored.itemsize))
        scratch = np.empty((min(step, shape[0]), *shape[1:]), stored)
        file = self.places.files[self.places.file_of[number]]
        start = int(self.places.offset_of[number])
        for first in range(0, shape[0], step):
            rows = scratch[: min(step, shape[0] - first)]
            begin = start + first * row * stored.itemsize
            file.read(begin, as_bytes(rows).data, self.tensor(targets[0]))
            for i, array in zip(targets, arrays, strict=True):
                part = rows[(slice(None), *self.parts[i].index[1:])]
                self.write(i, np.copyto, array[first : first + len(rows)], part, "unsafe")
            if self.stopped:
                return

    def write(self, i: int, function: Callable[..., object], *args: Any) -> bool:
        """Let a function write to where a target's values go, while that may be.

        False where somebody wants first values there: it is read again, to another place.
        """
        claim = self.claims.get(i)
        if claim is not None:
            return claim.write(function, *args)
        function(*args)
        return True

    def deliver(self, i: int, array: np.ndarray) -> None:
        """Have a target's values where they count next."""
        if self.holds_places and not self.put([i], as_bytes(array), np.zeros(1, np.int64)):
            self.arrays[i] = None
        else:
            self.arrays[i] = array

    def put(self, targets: list[int], data: Any, offsets: np.ndarray) -> list[int]:
        """Write small variables' values to their places; returns which have values there."""
        handles = [self.handles[i] for i in targets]
        prepare = self.storage.preparation()
        if prepare is not None:
            self.prepare(targets, prepare)
        others = put_in_places(self.graph, handles, data, offsets)
        taken = set(others)
        for k, i in enumerate(targets):
            self.in_place[i] = k not in taken
        return others

    def prepare(self, targets: list[int], prepare: Any) -> None:
        """Get the storage ready for writing to the places of targets."""
        stretches: dict[np.dtype, list[tuple[int, int]]] = {}
        for i in targets:
            if self.kinds[i].spec is not None:
                continue  # it has no place before its shape is settled
            with contextlib.suppress(WithdrawnError):
                place = self.handles[i]._place()
                if place is not None:
                    found = stretches.setdefault(self.kinds[i].dtype, [])
                    found.append((place, place + int(self.sizes[i])))
        for dtype, found in stretches.items():
            found.sort()
            start, stop = found[0]
            for begin, end in found:
                if begin > stop + GRANULE:
                    prepare(dtype, start, stop)
                    start = begin
                stop = max(stop, end)
            prepare(dtype, start, stop)

    # --- all or nothing
    def commit(self) -> list[int]:
        """Make what was read the values of all variables; returns which have to be read again.

        They have to where another thread gave a variable first values, in whose place the values
        were being written: those are overwritten then.
        """
        self.settle_shapes()
        while True:
            contents, values = self.entries()
            with committing:
                late = commit_values(self.graph, self.handles, contents, values)
                if not late:
                    self.committed = True
                    return late
            for i in late:
                self.in_place[i] = False
                claim = self.claims.pop(i, None)
                if claim is not None:
                    claim.drop()
                    end_filling(self.storage._fillings, claim)
            again = [i for i in late if self.arrays[i] is None]
            if again:
                return again

    def entries(self) -> tuple[list[Content | None], list[Any]]:
        """What `commit_values` takes, target by target."""
        contents: list[Content | None] = []
        values: list[Any] = []
        for i, handle in enumerate(self.handles):
            content: Content | None = None
            array: Any = self.arrays[i]
            if array is None or self.in_place[i]:
                array = self.claims.get(i)
            elif self.is_filled(handle):
                content = handle._content
                self.check_shape(i, content.array.shape)  # type: ignore[union-attr]
            elif self.in_slabs and array.dtype.itemsize:
                self.make_room(i)
            else:
                content, array = Content(array), None
            contents.append(content)
            values.append(array)
        return contents, values

    def is_filled(self, handle: Variable) -> bool:
        try:
            return handle._filled
        except WithdrawnError:
            return False  # nothing comes of it

    def make_room(self, i: int) -> None:
        """Have the place of a variable that is only declared ready."""
        with contextlib.suppress(WithdrawnError):
            place = self.handles[i]._place()
            if place is not None:
                self.storage.prepare(self.kinds[i].dtype, place, place + int(self.sizes[i]))

    def settle_shapes(self) -> None:
        """Give variables whose shape only their initializer knew that of the file."""
        for i, kind in enumerate(self.kinds):
            if kind.spec is not None and i not in self.opened:
                with contextlib.suppress(WithdrawnError):
                    self.opened[i] = self.handles[i]._spec
                    self.handles[i]._spec = kind.spec
                    self.check_shape(i, self.handles[i]._spec.shape)

    def check_shape(self, i: int, shape: Any) -> None:
        """Refuse another shape than the file's: another thread settled one meanwhile."""
        if shape != self.kinds[i].shape:
            name = self.name(i)
            differs = {name: (shape, self.kinds[i].shape)}
            raise RestoreError.stating(
                f"variable {name} has got the shape {shape} meanwhile, and the file has "
                f"{self.kinds[i].shape}; nothing was restored: write shapes that are known, or "
                "read no values meanwhile",
                path=self.tensors.sources.text,
                tensor=name,
                missing=[],
                left_over=[],
                shapes=differs,
                dtypes={},
            )

    # --- threads
    def work_off(self, first: list[tuple[Callable[..., None], int, list[int]]]) -> None:
        """Do these in the calling thread, and all tasks by all threads."""
        helpers, settings = Helpers(), np.geterr()
        try:
            for slot in range(1, min(self.threads, len(self.tasks))):
                helpers.start(self.help_out, slot, settings)
            for function, number, targets in first:
                if not self.stopped:
                    function(number, targets)
            self.work(0)
            while helpers.busy:
                self.tick(0)
                time.sleep(0.0005)
        except BaseException:
            self.tasks.clear()
            raise
        finally:
            self.stopped = True
            helpers.close()
        if self.errors:
            raise self.errors[0]
        self.stopped = False

    def help_out(self, slot: int, settings: Any) -> None:
        """What a thread of the run's own does."""
        try:
            with np.errstate(**settings):  # of the calling thread, for what is converted
                self.work(slot)
        except BaseException as error:
            self.errors.append(error)
            self.stopped = True

    def work(self, slot: int) -> None:
        while not self.stopped:
            try:
                task, what = self.tasks.popleft()
            except IndexError:
                return
            task(what, slot)

    # --- names for errors
    def name(self, i: int) -> str:
        """The name of a target's variable."""
        return self.names[self.rows[i]]

    def tensor(self, i: int) -> str:
        """The name of a target's tensor."""
        return self.tensors.name(self.numbers[i])


def nbytes_of(kind: Kind) -> int:
    """The bytes of a variable."""
    return math.prod(kind.shape) * kind.dtype.itemsize
