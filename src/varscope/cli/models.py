"""What a command looks at: a checkpoint, or what a builder declares."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

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
            f"{settings[0]!r} is for a builder, FILE[:FUNCTION], and {targets[0]!r} is none"
        )
    with contextlib.ExitStack() as stack:
        models: list[Checkpoint | Graph] = []
        for target in targets:
            if is_builder(target):
                graph = Graph()
                builders.run(target, settings, graph, as_json)
                models.append(graph)
            else:
                models.append(stack.enter_context(open_checkpoint(Path(target))))
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
    """The regular expression of a pattern on components, as ``Graph.find`` has them."""
    inner, end = f"[^{re.escape(separator)}]", re.escape(separator)
    *scopes, last = pattern.split(separator)
    text = "".join(
        f"(?:{inner}*{end})*" if each == "**" else component(each, inner) + end for each in scopes
    )
    return re.compile(text + (".*" if last == "**" else component(last, inner)), re.DOTALL)


def component(pattern: str, inner: str) -> str:
    """The regular expression of one component; `inner` is that of a character in it."""
    if "**" in pattern:
        raise CommandError(f"{pattern!r}: '**' must be a component of its own, as in 'a/**/w'")
    wild = {"*": f"{inner}*", "?": inner}
    return "".join(wild.get(character) or re.escape(character) for character in pattern)
