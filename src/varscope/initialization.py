"""`initialize`: the first values of many variables at once, by several threads."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from varscope import initializers, randomness
from varscope._scopecore import (
    Bulk,
    Filling,
    Registry,
    Scratch,
    Spec,
    get_default_graph,
    unfilled_rows,
    unfilled_specs,
)
from varscope.errors import ArgumentTypeError, WithdrawnError
from varscope.flyweights import Settings
from varscope.partitioned import PartitionedVariable
from varscope.progress import Helpers, Progress, SharedWork, as_report, as_threads
from varscope.shapes import Part
from varscope.storage import LARGE, RemoteStorage, SlabStorage
from varscope.variables import Variable

RANGE = 4096  # rows that a thread takes at a time
WORTH = 1 << 18  # bytes for which another thread is started


def initialize(
    variables: Iterable[Any] | None = None,
    threads: int | None = None,
    progress: Progress | bool | None = None,
) -> None:
    """Make the first values of many variables at once; those that have values keep them.

    The values are the same however they are made.  Built-in initializers run on several threads,
    large variables in blocks; functions of yours run in the calling thread, in its scope.  After
    an exception, Ctrl-C included, what is done is kept, and another call does the rest.

    Parameters
    ----------
    variables : iterable of Variable and PartitionedVariable, optional
        Of any graphs.  Left out: all that the current graph has now.
    threads : int, optional
        How many threads work, the calling one included; as many as the process may use
        processors where it is left out.
    progress : callable, or bool, optional
        `progress(done_bytes, total_bytes)` is called in the calling thread, again and again until
        both are equal.  Variables whose shape only their initializer knows are not counted.  Left
        out, there is a bar where rich is installed and stderr is a terminal; False: none.

    Raises
    ------
    ArgumentTypeError : TypeError
        Before anything starts.
    Exception
        What an initializer raised.

    >>> import varscope as vs
    >>> with vs.variable_scope("layer"):
    ...     w, b = vs.get_variable("w", [3, 4]), vs.get_variable("b", [4])
    >>> vs.initialize(threads=2)
    >>> w.initialized and b.initialized
    True
    """
    groups = grouped(variables)
    workers = as_threads(threads)
    with as_report(progress, "initialize") as report:
        Run(groups, workers, report).run()


# --- what was asked for


@dataclass(repr=False, eq=False)
class Group(Settings):
    """Variables of one graph: these, or all that there are now; of one dtype, or of any."""

    graph: Any
    variables: list[Variable] | None
    dtype: np.dtype | None = None


def grouped(variables: Iterable[Any] | None) -> list[Group]:
    """What is to be initialised, by graph."""
    if variables is None:
        return [Group(get_default_graph(), None)]
    if isinstance(variables, (str, bytes, Variable)) or not isinstance(variables, Iterable):
        raise ArgumentTypeError.of("variables", "an iterable of variables", variables)
    chosen: dict[int, dict[Variable, None]] = {}
    for variable in flattened(variables):
        chosen.setdefault(id(variable.graph), {})[variable] = None
    return [Group(next(iter(group)).graph, list(group)) for group in chosen.values()]


def flattened(variables: Iterable[Any]) -> Iterator[Variable]:
    for variable in variables:
        if isinstance(variable, Variable):
            variable.path  # noqa: B018 - one that was withdrawn says so
            yield variable
        elif isinstance(variable, PartitionedVariable):
            yield from variable
        else:
            raise ArgumentTypeError.of("each of variables", "a Variable", variable)


# --- how it is done


class Share:
    """The part of a run that one graph has: what fills the variables of each spec."""

    def __init__(self, group: Group) -> None:
        self.graph, self.variables = group.graph, group.variables
        self.dtype = group.dtype
        self.first = self.graph._first_unfilled() if self.variables is None else 0
        self.last = self.graph._count() if self.variables is None else len(self.variables)
        self.raw: dict[int, tuple[tuple[int, ...], np.dtype]] = {}
        self.total = 0
        self.in_slabs = isinstance(self.graph.storage, SlabStorage)
        if self.in_slabs:
            self.graph.storage.expect(self.graph._place_rows(self.variables, self.last))
        specs = self.graph._all_specs()  # before the plans are laid out, for at most as many
        self.bulk = Bulk(self.graph, self.graph.storage.preparation())
        # By spec: is it drawn from a distribution, in one piece or block by block?
        self.small, self.large = bytearray(len(specs)), bytearray(len(specs))
        self.other = bytearray(len(specs))
        for number, uses in unfilled_specs(self.graph, self.variables, self.first, self.last):
            if number >= len(specs) or not self.wants(specs[number]):
                continue
            self.total += uses * max(specs[number].size, 0) * specs[number].itemsize
            self.plan(number, specs[number])

    def wants(self, spec: Spec) -> bool:
        return self.dtype is None or spec.dtype == self.dtype

    def plan(self, number: int, spec: Spec) -> None:
        if self.graph.storage.elsewhere:
            self.other[number] = True
            return
        try:
            distribution = initializers.drawn_from(spec, Part.of_whole(spec.shape))
            law = None if distribution is None else randomness.law(distribution, spec.dtype)
        except Exception:
            distribution = None  # the variable itself will say what is wrong
        if distribution is None:
            self.other[number] = True
            return
        kind = self.large if spec.size > LARGE else self.small
        kind[number] = True
        if law is not None and spec.size <= LARGE:
            seed = getattr(spec.initializer, "seed", None)
            prefix = randomness.path_message(
                self.graph.seed, "", seed if isinstance(seed, int) else None
            )
            self.bulk.plan(number, law, prefix[:-8])  # without the length of no component

    def places(self, kind: bytearray) -> list[int]:
        """Where variables of a kind stand among all."""
        if self.variables is None:
            return unfilled_rows(self.graph, kind, self.first, self.last, self.last)[0]
        return [i for i in range(self.last) if list(self.declared(kind, i, i + 1))]

    def empty(self, variable: Variable) -> np.ndarray:
        """An array for a small variable, in bytes: the buffer protocol does not know all dtypes."""
        try:
            number = variable._spec_number
        except WithdrawnError:
            return np.empty(0, np.uint8)  # nothing comes of it
        if number not in self.raw:
            spec: Any = variable._spec
            self.raw[number] = spec.shape, np.dtype(f"V{spec.itemsize}")
        return np.empty(*self.raw[number])

    def declared(
        self, kind: bytearray | None, first: int | None = None, last: int | None = None
    ) -> Iterator[Variable]:
        """The variables without values of a kind of spec, or of any."""
        first = self.first if first is None else first
        last = self.last if last is None else last
        if self.variables is not None:
            for variable in self.variables[first:last]:
                if self.is_declared(variable, kind):
                    yield variable
            return
        while first < last:
            rows, first = unfilled_rows(self.graph, kind, first, last, 256)
            for row in rows:
                try:
                    variable = self.graph._handle(row)
                except IndexError:
                    continue  # rows moved up
                if self.is_declared(variable, None):
                    yield variable

    def is_declared(self, variable: Variable, kind: bytearray | None) -> bool:
        """Whether it has no values and its spec is marked; one newer than the marks is not."""
        try:
            number = variable._spec_number
            marked = kind is None or (number < len(kind) and bool(kind[number]))
            return not variable._filled and marked and self.wants(variable._spec)
        except WithdrawnError:  # in this moment, by another thread
            return False


class Run(SharedWork):
    """One call of `initialize`.

    Tasks lie in a queue from which every thread takes the next one.  Large variables come first,
    and a thread that finds no task helps with those that are not done.
    """

    def __init__(self, groups: list[Group], threads: int, report: Progress | None) -> None:
        self.shares = [Share(group) for group in groups]
        total = sum(share.total for share in self.shares)
        super().__init__(min(threads, 1 + total // WORTH), total, report)
        self.busy = [False] * self.threads
        self.stopped = False
        self.errors: list[BaseException] = []
        self.open: list[tuple[Variable, Filling]] = []
        self.tasks: deque[tuple[Callable[..., None], Share, int, int]] = deque()
        for share in self.shares:
            for place in share.places(share.large) if any(share.large) else ():
                self.tasks.append((self.large, share, place, place + 1))
        for share in self.shares:
            if any(share.small):
                for first in range(share.first, share.last, RANGE):
                    self.tasks.append((self.small, share, first, min(first + RANGE, share.last)))

    def run(self) -> None:
        helpers = Helpers()
        try:
            for slot in range(1, self.threads):
                helpers.start(self.help_out, slot)
            for share in self.shares:
                if isinstance(share.graph.storage, RemoteStorage):
                    there = list(share.declared(share.other))
                    share.graph.storage.make_all(there, functools.partial(self.tick, 0))
                for variable in share.declared(share.other) if any(share.other) else ():
                    self.one(variable, 0)
            self.work(0)
            while helpers.busy:
                self.tick()
                time.sleep(0.0005)
            # What nobody took: parts of larger variables, and rows that moved up meanwhile.
            for share in self.shares:
                if share.variables is None:
                    share.first = share.graph._first_unfilled()
                for variable in share.declared(None):
                    if self.errors:
                        break
                    self.one(variable, 0)
        finally:
            self.stopped = True
            helpers.close()
        if self.errors:
            raise self.errors[0]
        self.tell(self.total)

    def help_out(self, slot: int) -> None:
        """What a thread of the run's own does."""
        try:
            self.work(slot)
        except BaseException as error:
            self.errors.append(error)
            self.stopped = True
            self.busy[slot] = False

    def work(self, slot: int) -> None:
        """Do tasks until there are none, then help with what is large."""
        scratch = Scratch()
        while not self.stopped:
            self.busy[slot] = True
            try:
                task, share, first, last = self.tasks.popleft()
            except IndexError:
                self.busy[slot] = False
                if not self.assist(slot):
                    if not any(self.busy):
                        return
                    time.sleep(0.0002)
                    self.tick(slot)
                continue
            task(share, first, last, scratch, slot)

    def small(self, share: Share, first: int, last: int, scratch: Scratch, slot: int) -> None:
        """Variables that are filled in one piece."""
        at, left = first, not share.in_slabs
        while share.in_slabs and at < last and not self.stopped:
            at, nbytes, more = share.bulk.run(scratch, share.variables, at, last)
            left |= more
            self.tick(slot, nbytes)
        if not left:
            return
        rest = share.declared(share.small, first, last)
        while not self.stopped and (some := list(itertools.islice(rest, 256))):
            while some:
                arrays = [] if share.in_slabs else [share.empty(variable) for variable in some]
                filled = share.bulk.fill_arrays(scratch, some, arrays)
                for variable, array in zip(some[:filled], arrays, strict=False):
                    with contextlib.suppress(WithdrawnError):
                        variable._own(array.view(variable.dtype))
                    self.done[slot] += array.nbytes
                self.tick(slot)
                if filled < len(some):  # parts of larger variables, and dtypes of few
                    self.one(some[filled], slot)
                some = some[filled + 1 :]

    def large(self, share: Share, first: int, last: int, scratch: Scratch, slot: int) -> None:
        """Variables that are filled block by block."""
        for variable in share.declared(share.large, first, last):
            try:
                filling = variable._drawing()
                if filling is None:
                    self.one(variable, slot)
                else:
                    self.begun(share, variable, filling, slot)
            except WithdrawnError:
                if not variable._withdrawn:
                    raise

    def begun(self, share: Share, variable: Variable, filling: Filling, slot: int) -> None:
        """Do a filling with whoever helps."""
        self.open.append((variable, filling))
        done = False
        try:
            self.blocks(filling, slot)
            if not self.stopped:
                share.graph.storage.finish(variable, filling)
                done = True
        finally:
            self.open.remove((variable, filling))
            if not done:
                share.graph.storage.give_up(filling)

    def assist(self, slot: int) -> bool:
        """Do blocks of what other threads have begun; False where there is nothing to do."""
        return any([self.blocks(filling, slot) for _, filling in list(self.open)])

    def blocks(self, filling: Filling, slot: int) -> bool:
        any_done = False
        while not self.stopped and (nbytes := filling.step()):
            self.tick(slot, nbytes)
            any_done = True
        return any_done

    def one(self, variable: Variable, slot: int) -> None:
        """A variable by itself, as when it is read."""
        try:
            nbytes = max(variable._spec.size, 0) * variable._spec.itemsize
            variable._materialised()
        except WithdrawnError:
            if variable._withdrawn:
                return  # the custom getter that created it raised
            raise  # an initializer reads another one that is
        self.tick(slot, nbytes)


def fill(graph: Registry, dtype: np.dtype) -> None:
    """Initialise all variables of a graph that have a dtype."""
    Run([Group(graph, None, dtype)], as_threads(None), None).run()
