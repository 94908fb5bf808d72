"""`tf.losses`: the regularization losses, and the collection of the other ones."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from varscope import graph
from varscope.compat.tf1._missing import missing
from varscope.compat.tf1._scopes import GraphKeys, get_collection
from varscope.regularizers import loss_values

__all__ = [
    "add_loss",
    "get_losses",
    "get_regularization_loss",
    "get_regularization_losses",
    "get_total_loss",
]


def add_loss(loss: Any, loss_collection: Hashable | None = GraphKeys.LOSSES) -> None:
    """Add a loss to a collection."""
    if loss_collection is not None:
        graph.add_to_collection(loss_collection, loss)


def get_losses(scope: str | None = None, loss_collection: Hashable = GraphKeys.LOSSES) -> list[Any]:
    """The losses that were added; `scope` as in `get_collection`."""
    return get_collection(loss_collection, scope)


def get_regularization_losses(scope: str | None = None) -> list[Any]:
    """The regularization losses; each computes when its `value()` is asked for."""
    return get_collection(GraphKeys.REGULARIZATION_LOSSES, scope)


def get_regularization_loss(
    scope: str | None = None, name: str = "total_regularization_loss"
) -> Any:
    """The sum of the regularization losses now, 0.0 where there are none."""
    return sum(loss_values(get_regularization_losses(scope)), 0.0)


def get_total_loss(
    add_regularization_losses: bool = True, name: str = "total_loss", scope: str | None = None
) -> Any:
    """The sum of the losses that were added and the regularization losses, now."""
    total = sum(get_losses(scope), 0.0)
    return total + get_regularization_loss(scope) if add_regularization_losses else total


__getattr__ = missing(__name__, "losses")
