"""Folded names as a tree: scopes with what is below them, and the sums of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from varscope import folding
from varscope.summary import SummaryRow


class Node:
    """A scope, with its children by their patterns, or a row; and what it comes to."""

    __slots__ = ("children", "count", "nbytes", "parameters", "row")

    def __init__(self) -> None:
        self.children: dict[str, Node] = {}
        self.row: SummaryRow | None = None
        self.count = self.parameters = self.nbytes = 0

    def add(self, row: SummaryRow) -> None:
        """Count a row that is here or below."""
        self.count += row.count
        self.parameters += row.parameters or 0
        self.nbytes += row.nbytes or 0


class Entry(NamedTuple):
    """One line: how deep it is, what it is called there, and what stands there."""

    depth: int
    label: str
    node: Node


def tree(rows: Iterable[SummaryRow]) -> Node:
    """The root above all rows."""
    root = Node()
    for row in rows:
        node = root
        node.add(row)
        for component in folding.components(row.path):
            child = node.children.get(component)
            if child is None:
                child = node.children[component] = Node()
            child.add(row)
            node = child
        node.row = row
    return root


def entries(root: Node, depth: int | None = None) -> Iterator[Entry]:
    """The lines of a tree from the top, to a depth; scopes with one child only share its line."""
    waiting = [Entry(0, label, node) for label, node in reversed(root.children.items())]
    while waiting:
        level, label, node = waiting.pop()
        labels = [label]
        while node.row is None and len(node.children) == 1:
            ((label, node),) = node.children.items()
            labels.append(label)
        yield Entry(level, "".join(labels), node)
        if depth is None or level + 1 < depth:
            children = reversed(node.children.items())
            waiting += [Entry(level + 1, below, child) for below, child in children]
