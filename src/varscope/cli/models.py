"""What a command looks at: a checkpoint, or what a builder declares."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence

from varscope.checkpoint.contents import Checkpoint
from varscope.checkpoint.opening import open as open_checkpoint
from varscope.cli import builders
from varscope.cli.failures import CommandError
from varscope.graph import Graph
from varscope.summary import SummaryRow, fold, fold_stored, summarize


def is_builder(target: str) -> bool:
    """Whether a target is FILE[:FUNCTION]: a file that ends in .py, or whose function is named."""
    if os.path.exists(target):
        return os.path.isfile(target) and target.endswith(".py")
    path, colon, _ = target.rpartition(":")
    return target.endswith(".py") or (
        colon != "" and (path.endswith(".py") or os.path.isfile(path))
    )


@contextlib.contextmanager
def opened(
    targets: Sequence[str], settings: Sequence[str], as_json: bool
) -> Iterator[list[Checkpoint | Graph]]:
    """The models of some targets; settings are for all the builders among them."""
    if settings and not any(map(is_builder, targets)):
        raise CommandError(
            f"{settings[0]!r} is for a builder, FILE[:FUNCTION], and {targets[0]!r} is none; leave "
            "--set out"
        )
    with contextlib.ExitStack() as stack:
        models: list[Checkpoint | Graph] = []
        for target in targets:
            if is_builder(target):
                graph = Graph()
                builders.run(target, settings, graph, as_json)
                models.append(graph)
            else:
                models.append(stack.enter_context(open_checkpoint(target)))
        yield models


def folded(model: Checkpoint | Graph, pattern: str | None) -> list[SummaryRow]:
    """All variables of a model folded, or those that a pattern finds."""
    if pattern is None:
        return list(summarize(model).rows)
    if isinstance(model, Graph):
        return fold((v.op_name, v.dtype, v.shape) for v in model.find(pattern))
    match = glob(pattern, separator(model.names)).fullmatch
    places = [place for place, name in enumerate(model.names) if match(name)]
    return fold_stored(
        [model.names[place] for place in places],
        [model.dtype_names[place] for place in places],
        [model.shapes[place] for place in places],
        model.nbytes_of[places].tolist(),
    )


def separator(names: Sequence[str]) -> str:
    """What separates the components of names: dots, where none of them has a slash."""
    return "/" if not names or any("/" in name for name in names) else "."


def glob(pattern: str, separator: str) -> re.Pattern[str]:
    """The regular expression of a pattern on components, as ``Graph.find`` has them.

    What stands between two wildcards is taken where it first comes, and never looked for again
    (``(?>``): so no pattern takes long, however many wildcards there are.
    """
    inner, end = f"[^{re.escape(separator)}]", re.escape(separator)
    runs: list[list[str]] = [[]]  # components with no ** between them
    *scopes, last = pattern.split(separator)
    for each in scopes:
        if each == "**":
            runs.append([])
        else:
            runs[-1].append(component(each, inner) + end)
    rest = ".*" if last == "**" else component(last, inner)
    first, *others = map("".join, runs)
    if not others:
        return re.compile(first + rest, re.DOTALL)
    middle = "".join(f"(?>(?:{inner}*+{end})*?{run})" for run in others[:-1] if run)
    return re.compile(f"{first}{middle}(?:{inner}*{end})*{others[-1]}{rest}", re.DOTALL)


def component(pattern: str, inner: str) -> str:
    """The regular expression of one component; `inner` is that of a character in it."""
    if "**" in pattern:
        raise CommandError(
            f"{pattern!r}: '**' must be a component of its own; write it so, as in 'a/**/w'"
        )
    first, *others = (
        "".join(inner if character == "?" else re.escape(character) for character in text)
        for text in pattern.split("*")
    )
    if not others:
        return first
    middle = "".join(f"(?>{inner}*?{text})" for text in others[:-1])
    return f"{first}{middle}{inner}*{others[-1]}"
