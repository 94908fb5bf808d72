"""The threads that do a long piece of work, and who is told how far it is."""

from __future__ import annotations

import _thread
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from varscope import devices, shapes
from varscope.errors import ArgumentTypeError, ArgumentValueError

Progress: TypeAlias = Callable[[int, int], object]

REPORT = 0.05  # seconds between two reports of progress
QUIET = 0.5  # seconds before a bar appears


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def as_threads(threads: Any) -> int:
    """A number of threads; as many as the process has processors where it is left out."""
    if threads is None:
        return processors()
    number = shapes.as_int("threads", threads)
    if number < 1:
        raise ArgumentValueError.of("threads", "at least 1", number)
    return number


@contextlib.contextmanager
def as_report(progress: Any, word: str) -> Iterator[Progress | None]:
    """Whom to tell in a `with` block: a function, or a bar with a word before it, or nobody."""
    if progress is False:
        yield None
    elif progress is None:
        shows = sys.stderr is not None and sys.stderr.isatty()
        if shows and devices.is_installed("rich"):
            with contextlib.closing(Bar(word)) as bar:
                yield bar
        else:
            yield None
    elif progress is True or not callable(progress):
        raise ArgumentTypeError.of("progress", "a function, None or False", progress)
    else:
        yield progress


class Helpers:
    """Threads that work beside the calling one, which an interrupt at any moment leaves in order.

    They are started with `_thread` and looked at through a list, since neither takes a lock that
    the calling thread could be interrupted in holding: one that is interrupted within
    `threading.Thread.start`, or while it asks a `Future`, may leave the other thread waiting for
    ever, and then itself for that one.  `close` is to be called whatever happened.
    """

    def __init__(self) -> None:
        self.working: list[bool] = []
        self.closed = False

    def start(self, function: Callable[..., object], *args: Any) -> None:
        """Let another thread call a function, unless the system has no thread to give."""
        self.working.append(False)
        with contextlib.suppress(RuntimeError):  # what there is to do, those do that there are
            _thread.start_new_thread(self._call, (len(self.working) - 1, function, args))

    def _call(self, slot: int, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.working[slot] = True
        try:
            if not self.closed:  # else nobody waits for this thread any more
                function(*args)
        finally:
            self.working[slot] = False

    @property
    def busy(self) -> bool:
        """Whether one of them is at work: one that has not begun yet is not."""
        return any(self.working)

    def close(self) -> None:
        """Wait for those at work; those that have not begun will do nothing."""
        self.closed = True
        while self.busy:
            time.sleep(0.0005)


class SharedWork:
    """Work that threads share: how many bytes each has done, and who is told of it.

    The calling thread is number 0, and it alone reports.
    """

    def __init__(self, threads: int, total: int, report: Progress | None) -> None:
        self.threads, self.total, self.report = threads, total, report
        self.done = [0] * threads
        self.reported, self.when = -1, 0.0

    def tick(self, slot: int = 0, nbytes: int = 0) -> None:
        """A thread has done so many bytes more."""
        self.done[slot] += nbytes
        if slot == 0 and self.report is not None and time.monotonic() >= self.when + REPORT:
            self.tell(min(sum(self.done), self.total))

    def tell(self, done: int) -> None:
        """Report so many bytes, if they are more than before."""
        if self.report is None:
            return
        if done > self.reported:
            self.reported = done
            self.report(done, self.total)
        self.when = time.monotonic()


class Bar:
    """A bar on stderr; work that is over at once shows none."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.started = time.monotonic()
        self.bar: Any = None
        self.task: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None:
            if done == total or time.monotonic() < self.started + QUIET:
                return
            from rich import console, progress

            self.bar = progress.Progress(
                "[progress.description]{task.description}",
                progress.BarColumn(),
                progress.DownloadColumn(),
                progress.TimeRemainingColumn(),
                console=console.Console(stderr=True),
            )
            self.task = self.bar.add_task(self.word, total=total)
            self.bar.start()
        self.bar.update(self.task, completed=done, total=total)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
