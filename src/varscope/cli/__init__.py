"""The command line: what ``varscope`` and its commands take, and how they end.

Each command is a module beside this one, imported when it runs, so that none waits for another's
libraries.  click and rich are imported where they are used: the library works without them.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from varscope.cli.failures import STATUS_BAD_COMMAND, carried_out

if TYPE_CHECKING:
    import click

__all__ = ["command", "main"]


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
    # Half a million names are many objects and no garbage: looking for it would take a third of the
    # time.
    gc.set_threshold(100_000, 50, 100)
    sys.exit(command().main(standalone_mode=True))


def command() -> click.Group:
    """The command ``varscope``, made for click."""
    import click

    @click.group()
    def varscope() -> None:
        """Declare the variables of generated models, save them, and look at them.

        PATH is a safetensors file, a folder of them or its index, or a TensorFlow checkpoint. FILE
        is a Python file, FUNCTION one of its functions ("build" where it is left out) that declares
        variables. They are declared, not allocated, so a model may be far larger than the memory.
        """

    def run(name: str, *arguments: Any) -> None:
        """Carry out the command in the module of its name."""
        module = importlib.import_module(f"varscope.cli.{name}")
        work: Callable[..., int] = getattr(module, name)
        click.get_current_context().exit(carried_out(lambda: work(*arguments)))

    def parameters(*decorators: Callable[..., Any], builder: bool = True) -> Callable[..., Any]:
        """A command with these parameters, the settings of a builder, and ``--json``."""

        def decorated(function: Callable[..., Any]) -> click.Command:
            for decorator in [as_json, *(settings if builder else []), *reversed(decorators)]:
                function = decorator(function)
            return varscope.command()(function)

        return decorated

    def path_or_builder(name: str, metavar: str = "PATH|FILE[:FUNCTION]") -> Callable[..., Any]:
        return click.argument(name, metavar=metavar)

    as_json = click.option("as_json", "--json", is_flag=True, help="Print JSON, for programs.")
    settings = [
        click.option(
            "settings",
            "--set",
            multiple=True,
            metavar="KEY=VALUE",
            help="Set a parameter of FUNCTION. More pairs may follow: --set layers=92 experts=896.",
        ),
        # click hands over what follows "--set key=value" apart from it.
        click.argument("more", nargs=-1, metavar="[KEY=VALUE]..."),
    ]
    output = click.option("output", "-o", required=True, metavar="OUT", help="What to write.")

    @parameters(path_or_builder("target", "FILE[:FUNCTION]"))
    def build(target: str, settings: tuple[str, ...], more: tuple[str, ...], as_json: bool) -> None:
        """Run a builder function in a fresh graph, and print what it declared."""
        run("build", target, [*settings, *more], as_json)

    @parameters(
        path_or_builder("target"),
        click.option("--depth", type=click.IntRange(min=1), help="Show N levels of the tree."),
        click.option("pattern", "--find", metavar="PATTERN", help="Show what this finds: a/**/w."),
    )
    def show(
        target: str,
        depth: int | None,
        pattern: str | None,
        settings: tuple[str, ...],
        more: tuple[str, ...],
        as_json: bool,
    ) -> None:
        """Show the names, types and sizes of a model as a folded tree."""
        run("show", target, [*settings, *more], depth, pattern, as_json)

    @parameters(
        path_or_builder("a", "A"),
        path_or_builder("b", "B"),
        click.option("--rtol", type=float, default=0.0, help="Relative tolerance of values."),
        click.option("--atol", type=float, default=0.0, help="Absolute tolerance of values."),
    )
    def diff(
        a: str,
        b: str,
        rtol: float,
        atol: float,
        settings: tuple[str, ...],
        more: tuple[str, ...],
        as_json: bool,
    ) -> None:
        """Compare two models: names, shapes, dtypes and values; status 1 where they differ.

        A and B are PATH or FILE[:FUNCTION]; a FILE has no values to compare. Values differ where
        |a - b| > atol + rtol * max(|a|, |b|).
        """
        run("diff", (a, b), [*settings, *more], rtol, atol, as_json)

    @parameters(path_or_builder("target"), output)
    def plot(
        target: str, output: str, settings: tuple[str, ...], more: tuple[str, ...], as_json: bool
    ) -> None:
        """Draw a model as a treemap: OUT ends in .html, .svg or .png."""
        run("plot", target, [*settings, *more], output, as_json)

    seed_option = click.option(
        "--seed", type=int, help="The seed of the graph; drawn where it is left out."
    )
    size_option = click.option(
        "--max-shard-size", default="5GB", metavar="SIZE", help="Of one file: 5GB, 512MiB."
    )

    @parameters(
        path_or_builder("target", "FILE[:FUNCTION]"),
        output,
        seed_option,
        size_option,
    )
    def save(
        target: str,
        output: str,
        seed: int | None,
        max_shard_size: str,
        settings: tuple[str, ...],
        more: tuple[str, ...],
        as_json: bool,
    ) -> None:
        """Run a builder, make the first values, and save them.

        OUT is a safetensors file, or else a folder for several of them.
        """
        run("save", target, [*settings, *more], output, seed, max_shard_size, as_json)

    @parameters(
        path_or_builder("target", "FILE[:FUNCTION]"),
        output,
        click.option(
            "path", "--path", required=True, metavar="PATH", help="The checkpoint's folder."
        ),
        click.option("--workers", type=int, required=True, metavar="N", help="How many there are."),
        click.option(
            "--by",
            type=click.Choice(["bytes", "files"]),
            default="bytes",
            help="Whether several workers may fill parts of one file.",
        ),
        seed_option,
        size_option,
    )
    def plan(
        target: str,
        output: str,
        path: str,
        workers: int,
        by: str,
        seed: int | None,
        max_shard_size: str,
        settings: tuple[str, ...],
        more: tuple[str, ...],
        as_json: bool,
    ) -> None:
        """Run a builder, and say which of N workers fills what of its first values.

        OUT is the file of the plan, for `varscope materialise`; nothing is filled yet.
        """
        arguments = output, path, workers, by, seed, max_shard_size
        run("plan", target, [*settings, *more], *arguments, as_json)

    @parameters(
        click.argument("path", metavar="PLAN"),
        click.option(
            "workers", "--worker", type=int, multiple=True, metavar="K",
            help="Fill what one worker has to, from 0 on; may be given again.",
        ),
        click.option("only_finish", "--finish", is_flag=True, help="Only the last step."),
        click.option("--verify", is_flag=True, help="Read all bytes again before they count."),
        click.option("--threads", type=int, metavar="N", help="One a processor by default."),
        builder=False,
    )  # fmt: skip
    def materialise(
        path: str,
        workers: tuple[int, ...],
        only_finish: bool,
        verify: bool,
        threads: int | None,
        as_json: bool,
    ) -> None:
        """Fill files as a plan says, and make them a checkpoint.

        With --worker one share is filled, with --finish all is checked and put in its place; with
        neither, both is done for all workers. Status 1 where --finish finds that something is not
        filled.
        """
        run("materialise", path, workers, only_finish, verify, threads, as_json)

    @parameters(
        path_or_builder("target", "FILE[:FUNCTION]"),
        path_or_builder("path", "PATH"),
        click.option("--names", metavar="MAP", help="A name map: a YAML or JSON file."),
        click.option("--dry-run", is_flag=True, help="Read no values; say what would be restored."),
    )
    def restore(
        target: str,
        path: str,
        names: str | None,
        dry_run: bool,
        settings: tuple[str, ...],
        more: tuple[str, ...],
        as_json: bool,
    ) -> None:
        """Restore a checkpoint into what a builder declares, to see whether it fits.

        Status 1 where it does not, and then nothing is restored.
        """
        run("restore", target, [*settings, *more], path, names, dry_run, as_json)

    @parameters(click.argument("path", metavar="PATH"), builder=False)
    def verify(path: str, as_json: bool) -> None:
        """Compare all values in files with the checksums that were recorded with them.

        Status 1 where something is damaged.
        """
        run("verify", path, as_json)

    return varscope
