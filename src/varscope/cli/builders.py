"""Builders: a function in somebody's Python file, run in a graph of its own.

Most of it is about telling whose mistake something is.  What goes wrong in the builder is the
builder's own traceback, without a frame of ours.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from varscope.cli.failures import BuilderError, CommandError, Interrupted
from varscope.cli.settings import bind
from varscope.graph import Graph

DEFAULT_FUNCTION = "build"
REFRESHES_PER_SECOND = 10


def run(target: str, settings: Sequence[str], graph: Graph, as_json: bool) -> float:
    """Run the builder in ``graph``, and give the seconds; with ``as_json``, it prints to stderr."""
    path, name = split_target(target)
    stdout = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    try:
        # Leaving the graph raises too, where the builder has left a scope open.
        with stdout, builder_errors(str(path)), graph.as_default(), loaded(path) as module:
            function = find_function(module, name, path)
            arguments = bind(function, settings)
            with progress(graph), builder_errors(f"{name}() in {path}"):
                started = time.perf_counter()
                function(*arguments.args, **arguments.kwargs)
                return time.perf_counter() - started
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; variables declared so far: {len(graph):,}") from None


def split_target(target: str) -> tuple[Path, str]:
    """The file and the function of ``FILE[:FUNCTION]``."""
    path, colon, name = target.rpartition(":")
    is_drive = os.name == "nt" and len(path) == 1
    if not colon or "/" in name or "\\" in name or is_drive or os.path.isfile(target):
        return Path(target), DEFAULT_FUNCTION
    if not name.isidentifier():
        raise CommandError(
            f"not the name of a function: {name!r} in {target!r}; write FILE:FUNCTION"
        )
    return Path(path), name


@contextlib.contextmanager
def loaded(path: Path) -> Iterator[ModuleType]:
    """The module in ``path``, importable and with its folder on ``sys.path`` inside the block.

    It is compiled here rather than imported, so that no __pycache__ appears beside the file and a
    file without the ending ``.py`` works.
    """
    source = read_source(path)
    # Under its own name pickle and the file's neighbours find it; a name that is taken stays so.
    name = path.stem if path.stem not in sys.modules else f"varscope_builder_{path.stem}"
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None  # with a loader given, there is always one
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.modules[name] = module
    sys.path.insert(0, folder)
    try:
        with builder_errors(str(path)):
            # The absolute path, so that tracebacks find their lines after a change of folder.
            code = compile(source, path.absolute(), "exec", dont_inherit=True)
            exec(code, module.__dict__)
        yield module
    finally:
        with contextlib.suppress(ValueError):  # the builder may have taken it off itself
            sys.path.remove(folder)
        sys.modules.pop(name, None)


def read_source(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CommandError(f"no such file: {path}; give the path of one") from None
    except IsADirectoryError:
        raise CommandError(
            f"a folder, not a Python file: {path}; give the path of a file in it"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CommandError(f"cannot read {path}: {error}; give a file that can be read") from None


def find_function(module: ModuleType, name: str, path: Path) -> Callable[..., object]:
    """The function ``name`` of the builder's file."""
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if is_own_function(value, module)]
        known = f"write one of its functions: {', '.join(own)}" if own else "define it there"
        raise CommandError(f"no function {name!r} in {path}; {known}")
    function: Callable[..., object] = getattr(module, name)
    if not callable(function):
        kind = type(function).__name__
        raise CommandError(
            f"{name!r} in {path} is not a function but of type {kind}; give the name of a function"
        )
    lazy = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(is_lazy(function) for is_lazy in lazy):
        raise CommandError(
            f"{name}() in {path} is a coroutine or a generator: calling it would not run it; "
            "wrap it in a plain function"
        )
    return function


def is_own_function(value: object, module: ModuleType) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__


@contextlib.contextmanager
def builder_errors(what: str, others: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what the builder raises into a ``BuilderError`` with the builder's traceback.

    ``others`` are exceptions that are not the builder's.
    """
    try:
        yield
    except CommandError:
        raise
    except others:
        raise
    except (Exception, SystemExit) as error:
        frames = error.__traceback__
        while frames is not None and is_ours(frames.tb_frame.f_globals.get("__name__", "")):
            frames = frames.tb_next
        lines = traceback.format_exception(type(error), error, frames)
        text = "".join(lines).rstrip("\n")
        raise BuilderError(f"{what} raised {type(error).__name__}\n{text}") from None


def is_ours(module: str) -> bool:
    return module == "varscope" or module.startswith("varscope.")


@contextlib.contextmanager
def progress(graph: Graph) -> Iterator[None]:
    """Show on a terminal how far the builder is; rich's own thread looks, the builder only runs."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TimeElapsedColumn,
    )
    from rich.text import Text

    class Declared(ProgressColumn):
        def render(self, task: Task) -> Text:
            variables = len(graph)
            rate = variables / task.elapsed if task.elapsed else 0.0
            return Text(f"{variables:,} variables  {rate:,.0f}/s")

    console = Console(stderr=True)
    bar = Progress(
        SpinnerColumn("line" if console.options.ascii_only else "dots"),
        BarColumn(bar_width=20),
        Declared(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        refresh_per_second=REFRESHES_PER_SECOND,
        # What the builder prints has to appear above the bar; but into a file, as it is.
        redirect_stdout=sys.stdout.isatty(),
    )
    with bar:
        bar.add_task("", total=None)
        try:
            yield
        finally:
            sys.stdout.flush()  # rich holds back a line without its end, and would drop it
