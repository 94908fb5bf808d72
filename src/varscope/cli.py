"""The command line: ``varscope build FILE[:FUNCTION] [--set key=value …] [--json]``.

It runs somebody else's Python function, so most of it is about telling whose mistake something
is.  What is wrong with the command is one line and status 2; what goes wrong in the builder is the
builder's own traceback, without a frame of ours, and status 1.

click and rich are imported where they are used: the library works without them.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from varscope.graph import Graph
from varscope.summary import Summary, SummaryRow, format_bytes, summarize

if TYPE_CHECKING:
    import click

__all__ = ["command", "main"]

DEFAULT_FUNCTION = "build"
ROWS_SHOWN = 200
WIDEST_COLUMN = 80
REFRESHES_PER_SECOND = 10
TIMES = "\N{MULTIPLICATION SIGN}"

STATUS_BUILDER_FAILED = 1
STATUS_BAD_COMMAND = 2
STATUS_INTERRUPTED = 130  # what a shell reports of a process that SIGINT ended


class CommandError(Exception):
    """The command cannot be carried out as given; the text is all that its user sees."""

    status = STATUS_BAD_COMMAND


class BuilderError(CommandError):
    """The builder's file or function raised; the text ends with its traceback."""

    status = STATUS_BUILDER_FAILED


@dataclass(frozen=True, slots=True)
class Report:
    """What one run of a builder gave."""

    summary: Summary
    seconds: float

    @property
    def variables_per_second(self) -> float:
        return self.summary.variables / self.seconds if self.seconds else 0.0


# ---------------------------------------------------------------------------- the command


def main() -> NoReturn:
    """Run the command line and exit with its status."""
    try:
        for module in ("click", "rich"):
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        message = f'the command line needs {module}: pip install "varscope-core[cli]"'
        print(f"varscope: {message}", file=sys.stderr)
        sys.exit(STATUS_BAD_COMMAND)
    sys.exit(command().main(standalone_mode=True))


def command() -> click.Group:
    """The command ``varscope``, made for click."""
    import click

    @click.group()
    def varscope() -> None:
        """Declare the variables of generated models, and look at them."""

    @varscope.command()
    @click.argument("target", metavar="FILE[:FUNCTION]")
    @click.argument("more_settings", nargs=-1, metavar="[KEY=VALUE]...")
    @click.option(
        "settings",
        "--set",
        multiple=True,
        metavar="KEY=VALUE",
        help="Set a parameter of the function. More pairs may follow: --set layers=92 experts=896.",
    )
    @click.option("as_json", "--json", is_flag=True, help="Print one JSON object, for programs.")
    @click.pass_context
    def build(
        context: click.Context,
        target: str,
        more_settings: tuple[str, ...],
        settings: tuple[str, ...],
        as_json: bool,
    ) -> None:
        """Run a builder function in a fresh graph, and print what it declared.

        FILE is a Python file, FUNCTION one of its functions ("build" where it is left out). FILE
        comes before the first KEY=VALUE. Variables are declared, not allocated, so a model may be
        far larger than the memory.
        """
        graph = Graph()
        try:
            # click hands over what follows "--set key=value" apart from it.
            report = build_report(target, [*settings, *more_settings], graph, as_json)
            print_json(report) if as_json else print_table(report)
        except CommandError as error:
            click.echo(f"varscope: {error}", err=True)
            context.exit(error.status)
        except KeyboardInterrupt:
            declared = f"variables declared so far: {len(graph):,}"
            click.echo(f"varscope: interrupted; {declared}", err=True)
            context.exit(STATUS_INTERRUPTED)

    return varscope


def build_report(target: str, settings: Sequence[str], graph: Graph, as_json: bool) -> Report:
    """Run the builder in ``graph``; with ``as_json``, what it prints goes to stderr."""
    path, name = split_target(target)
    stdout = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    # Leaving the graph raises too, where the builder has left a scope open.
    with stdout, builder_errors(str(path)), graph.as_default(), loaded(path) as module:
        function = find_function(module, name, path)
        arguments = bind(function, settings)
        with progress(graph), builder_errors(f"{name}() in {path}"):
            started = time.perf_counter()
            function(*arguments.args, **arguments.kwargs)
            seconds = time.perf_counter() - started
    return Report(summarize(graph), seconds)


# ---------------------------------------------------------------------------- the builder's file


def split_target(target: str) -> tuple[Path, str]:
    """The file and the function of ``FILE[:FUNCTION]``."""
    path, colon, name = target.rpartition(":")
    is_drive = os.name == "nt" and len(path) == 1
    if not colon or "/" in name or "\\" in name or is_drive or os.path.isfile(target):
        return Path(target), DEFAULT_FUNCTION
    if not name.isidentifier():
        raise CommandError(f"not the name of a function: {name!r} in {target!r}")
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
        raise CommandError(f"no such file: {path}") from None
    except IsADirectoryError:
        raise CommandError(f"a folder, not a Python file: {path}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise CommandError(f"cannot read {path}: {error}") from None


def find_function(module: ModuleType, name: str, path: Path) -> Callable[..., object]:
    """The function ``name`` of the builder's file."""
    if not hasattr(module, name):
        own = [key for key, value in vars(module).items() if is_own_function(value, module)]
        known = f"its functions: {', '.join(own)}" if own else "it defines no function"
        raise CommandError(f"no function {name!r} in {path}; {known}")
    function: Callable[..., object] = getattr(module, name)
    if not callable(function):
        kind = type(function).__name__
        raise CommandError(f"{name!r} in {path} is not a function but of type {kind}")
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
def builder_errors(what: str) -> Iterator[None]:
    """Turn what the builder raises into a ``BuilderError`` with the builder's traceback."""
    try:
        yield
    except CommandError:
        raise
    except (Exception, SystemExit) as error:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_globals is globals():
            frames = frames.tb_next
        lines = traceback.format_exception(type(error), error, frames)
        text = "".join(lines).rstrip("\n")
        raise BuilderError(f"{what} raised {type(error).__name__}\n{text}") from None


# ---------------------------------------------------------------------------- settings


def bind(function: Callable[..., object], settings: Sequence[str]) -> inspect.BoundArguments:
    """The arguments for a call of ``function`` with these ``key=value`` settings."""
    texts = split_settings(settings)
    signature = signature_of(function)
    name = getattr(function, "__name__", str(function))
    named, takes_any = named_parameters(signature)
    extra = [key for key in texts if key not in named]
    if extra and not takes_any:
        raise CommandError(unknown_parameter(name, extra[0], named))
    bound = signature.bind_partial(**{key: parse_value(texts[key], None) for key in extra})
    for key, parameter in named.items():
        if key in texts:
            bound.arguments[key] = parse_setting(key, texts[key], parameter)
        elif parameter.default is parameter.empty:
            raise CommandError(f"{name}() needs a value for {key!r}: --set {key}=...")
    # With every default filled in, also positional-only parameters can be left out in the middle.
    bound.apply_defaults()
    return bound


def split_settings(settings: Sequence[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise CommandError(f"not a setting: {setting!r}; settings are written key=value")
        if key in texts:
            raise CommandError(f"{key!r} is set twice: {key}={texts[key]} and {setting}")
        texts[key] = text
    return texts


def signature_of(function: Callable[..., object]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise CommandError(f"the parameters of {function!r} are not known: {error}") from None


def named_parameters(signature: inspect.Signature) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters that have a name of their own, and whether any other name is taken too."""
    parameters = signature.parameters.values()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {p.name: p for p in parameters if p.kind not in several}
    return named, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def unknown_parameter(name: str, key: str, named: dict[str, inspect.Parameter]) -> str:
    if not named:
        return f"{name}() has no parameter {key!r}: it takes none"
    shown = [
        key if parameter.default is parameter.empty else f"{key}={parameter.default!r}"
        for key, parameter in named.items()
    ]
    near = difflib.get_close_matches(key, named, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{name}() has no parameter {key!r}{hint}; its parameters: {', '.join(shown)}"


def parse_setting(key: str, text: str, parameter: inspect.Parameter) -> object:
    """The value of one setting, which has to fit a parameter of a plain type."""
    kind = plain_type(parameter)
    value = parse_value(text, kind)
    if kind is float and type(value) is int:
        return float(value)
    if kind is None or type(value) is kind:
        return value
    no_default = parameter.default is parameter.empty
    default = "" if no_default else f" (the default of {key!r} is {parameter.default!r})"
    raise CommandError(f"{key}={text}: not of type {kind.__name__}{default}")


def plain_type(parameter: inspect.Parameter) -> type | None:
    """bool, int, float or str where the parameter is plainly that, by annotation or default.

    Any other annotation (``int | None``) admits more than the default shows, so it gives None.
    """
    plain: dict[object, type] = {kind: kind for kind in (bool, int, float, str)}
    plain |= {kind.__name__: kind for kind in (bool, int, float, str)}
    if parameter.annotation is not parameter.empty:
        annotation = parameter.annotation
        return plain.get(annotation) if isinstance(annotation, type | str) else None
    return plain.get(type(parameter.default))


def parse_value(text: str, kind: type | None) -> object:
    """A Python literal where ``text`` is one, else the text; for ``str`` the text as it stands."""
    if kind is not str and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
    return text if kind is str and type(value) is not str else value


# ---------------------------------------------------------------------------- what is shown


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


def print_json(report: Report) -> None:
    import click

    summary = report.summary
    document = {
        "variables": summary.variables,
        "parameters": summary.parameters,
        "bytes": summary.nbytes,
        "seconds": report.seconds,
        "variables_per_second": report.variables_per_second,
        "summary": [json_row(row) for row in summary.rows],
    }
    click.echo(json.dumps(document, indent=2))


def json_row(row: SummaryRow) -> dict[str, Any]:
    fields = row._asdict()
    fields["bytes"] = fields.pop("nbytes")
    return fields


def print_table(report: Report) -> None:
    """Rows and totals in aligned columns; with colours on a terminal."""
    lines = [*row_lines(report.summary.rows), *total_lines(report)]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.text import Text

        console = Console()
        for line in lines:
            cells = [(printable(text, console.encoding), style) for text, style in line]
            # A long line goes over the edge as it would from print(): cropped, it could not be
            # copied.
            console.print(Text.assemble(*cells), soft_wrap=True)
    else:
        import click

        for line in lines:
            text = "".join(text for text, _ in line)
            click.echo(printable(text.rstrip(), sys.stdout.encoding))
    if not report.summary.variables:
        print("varscope: the builder declared nothing in the default graph", file=sys.stderr)


Line = list[tuple[str, str]]  # cells: text and style


def row_lines(rows: Sequence[SummaryRow]) -> Iterator[Line]:
    shown = rows[:ROWS_SHOWN]
    table = [
        ("variable", "type", "count", "parameters"),
        *((row.path, type_text(row), count_text(row), number(row.parameters)) for row in shown),
    ]
    path, kind, count, parameters = (
        min(max(map(len, column)), WIDEST_COLUMN) for column in zip(*table, strict=True)
    )
    for index, cells in enumerate(table):
        yield [
            (f"{cells[0]:<{path}}  ", "bold" if index else "dim"),
            (f"{cells[1]:<{kind}}  ", "cyan" if index else "dim"),
            (f"{cells[2]:>{count}}  ", "green" if index else "dim"),
            (f"{cells[3]:>{parameters}}", "" if index else "dim"),
        ]
    if len(rows) > ROWS_SHOWN:
        yield [(f"… {len(rows) - ROWS_SHOWN:,} more rows; --json lists all", "dim")]


def total_lines(report: Report) -> Iterator[Line]:
    summary = report.summary
    in_words = f" ({format_bytes(summary.nbytes)})" if summary.nbytes >= 1024 else ""
    totals = [
        ("variables", f"{summary.variables:,}"),
        ("parameters", f"{summary.parameters:,}"),
        ("bytes", f"{summary.nbytes:,}{in_words}"),
        ("seconds", f"{report.seconds:.3f}"),
        ("variables/s", f"{report.variables_per_second:,.0f}"),
    ]
    yield []
    for label, value in totals:
        yield [(f"{label:<11}  ", "dim"), (value, "bold")]


def type_text(row: SummaryRow) -> str:
    if row.shape is None:
        return f"{row.dtype}[...]"
    return f"{row.dtype}[{', '.join('?' if size is None else str(size) for size in row.shape)}]"


def count_text(row: SummaryRow) -> str:
    return f"{TIMES}{row.count:,}" if row.count > 1 else ""


def number(parameters: int | None) -> str:
    return "?" if parameters is None else f"{parameters:,}"


def printable(text: str, encoding: str) -> str:
    """``text``, or a plainer one where ``encoding`` has no signs for it."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace(TIMES, "x").replace("…", "...").encode("ascii", "replace").decode()
    return text
