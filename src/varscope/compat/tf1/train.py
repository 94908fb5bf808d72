"""`tf.train`: the global step, and moving averages of variables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from varscope import graph as graphs
from varscope import scopes
from varscope.compat.tf1._missing import missing
from varscope.compat.tf1._scopes import (
    GraphKeys,
    moving_average_variables,
    nowhere,
    trainable_variables,
)
from varscope.compat.tf1._sessions import Operation, Session
from varscope.errors import ArgumentTypeError, VariableExistsError
from varscope.graph import Graph
from varscope.initializers import zeros
from varscope.variables import Variable

__all__ = [
    "ExponentialMovingAverage",
    "create_global_step",
    "get_global_step",
    "get_or_create_global_step",
    "global_step",
]


# --- the global step


def get_global_step(graph: Graph | None = None) -> Variable | None:
    """The variable that counts steps: that of the collection GLOBAL_STEP, or None."""
    here = graphs.get_default_graph() if graph is None else graph
    found = list(dict.fromkeys(here.get_collection(GraphKeys.GLOBAL_STEP)))
    if len(found) > 1:
        raise ValueError(
            f"there are {len(found)} variables in the collection GLOBAL_STEP, so none is the "
            "global step: add one only"
        )
    if found:
        return found[0]  # type: ignore[no-any-return]
    return here._find("global_step")


def create_global_step(graph: Graph | None = None) -> Variable:
    """Create the variable that counts steps, an int64 that is not trainable."""
    here = graphs.get_default_graph() if graph is None else graph
    found = get_global_step(here)
    if found is not None:
        raise VariableExistsError.of(found.path, found.creation_site, "")
    with here.as_default():
        return scopes.get_variable(
            "global_step",
            [],
            "int64",
            zeros,
            trainable=False,
            collections=(GraphKeys.GLOBAL_VARIABLES, GraphKeys.GLOBAL_STEP),
        )


def get_or_create_global_step(graph: Graph | None = None) -> Variable:
    """The variable that counts steps, created where there is none.

    >>> from varscope.compat import tf1 as tf
    >>> step = tf.train.get_or_create_global_step()
    >>> step is tf.train.get_or_create_global_step(), step.name, int(step)
    (True, 'global_step:0', 0)
    """
    found = get_global_step(graph)
    return create_global_step(graph) if found is None else found


def global_step(sess: Session, global_step_tensor: Any) -> int:
    """How many steps were counted."""
    return int(sess.run(global_step_tensor))


# --- moving averages


class ExponentialMovingAverage:
    """Averages of variables over time: `average -= (1 - decay) * (average - variable)`.

    Parameters
    ----------
    decay : float
        How much of the old average is kept at each update.
    num_updates : number or variable, optional
        How many updates there were; then the decay is at most (1 + n) / (10 + n).
    zero_debias : bool
        Must be False.
    name : str
        The last component of the names of the averages.

    >>> from varscope.compat import tf1 as tf
    >>> w = tf.get_variable("w", initializer=1.0)
    >>> ema = tf.train.ExponentialMovingAverage(0.5)
    >>> update = ema.apply([w])
    >>> _ = w.assign(3.0)
    >>> update.run()
    >>> ema.average(w).name, float(ema.average(w))
    ('w/ExponentialMovingAverage:0', 2.0)
    """

    def __init__(
        self,
        decay: float,
        num_updates: Any = None,
        zero_debias: bool = False,
        name: str = "ExponentialMovingAverage",
    ) -> None:
        if zero_debias:
            raise ArgumentTypeError.of("zero_debias", "False", zero_debias)
        self._decay = decay
        self._num_updates = num_updates
        self.name = name
        self._averages: dict[Variable, Variable] = {}

    def apply(self, var_list: Iterable[Variable] | None = None) -> Operation:
        """Create the averages that are not there, and return the operation that updates all.

        Each begins as the value that its variable has now.  The variables (default: the trainable
        ones) go to the collection MOVING_AVERAGE_VARIABLES.
        """
        variables = list(trainable_variables() if var_list is None else var_list)
        for variable in variables:
            if not isinstance(variable, Variable):
                raise ArgumentTypeError.of("var_list", "a list of variables", variable)
        for variable in variables:
            if variable not in self._averages:
                self._averages[variable] = self._average_of(variable)
                graphs.add_to_collection(GraphKeys.MOVING_AVERAGE_VARIABLES, variable)

        def update(run: Any) -> None:
            rate = self._rate()
            for variable in variables:
                average = self._averages[variable]
                average.assign_sub((rate * (average - variable)).astype(average.dtype))

        return Operation("NoOp", self.name, update)

    def _average_of(self, variable: Variable) -> Variable:
        """A new variable below the current scope, under the whole name of the other one."""
        here = scopes.variable_scope(
            None, f"{variable.op_name}/{self.name}", auxiliary_name_scope=False
        )
        with here as scope:
            path = scope.name
        return nowhere().get_variable(path, initializer=variable.numpy(), trainable=False)

    def _rate(self) -> float:
        decay = float(np.asarray(self._decay))
        if self._num_updates is not None:
            n = float(np.asarray(self._num_updates))
            decay = min(decay, (1 + n) / (10 + n))
        return 1.0 - decay

    def average(self, var: Variable) -> Variable | None:
        """The average of a variable, None where there is none."""
        return self._averages.get(var)

    def average_name(self, var: Variable) -> str:
        """The name of the average of a variable: what it is, or would be in this name scope."""
        if var in self._averages:
            return self._averages[var].op_name
        name = f"{var.op_name}/{self.name}"
        return graphs.get_default_graph().unique_name(name, mark_as_used=False)

    def variables_to_restore(
        self, moving_avg_variables: Iterable[Variable] | None = None
    ) -> dict[str, Variable]:
        """Which variable takes which saved value: the averages' for those that have one."""
        averaged = moving_avg_variables
        if averaged is None:
            averaged = trainable_variables() + moving_average_variables()
        names = {self.average_name(variable): variable for variable in averaged}
        taken = set(names.values())
        here = graphs.get_default_graph()
        others = [v for v in here.global_variables() if v not in taken]
        return names | {v.op_name: v for v in others if v.op_name not in names}


__getattr__ = missing(__name__, "train")
