"""Sessions, and the few operations that there are: first values, assignments and groups of them.

There is no graph of operations here.  What computes has its value at once; only what *changes*
variables waits for `Session.run`, because programs of TensorFlow 1 write those operations down
before they run `tf.global_variables_initializer()`, and run them many times.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

import numpy as np

from varscope import graph as graphs
from varscope import initialization
from varscope.compat.tf1 import _scopes
from varscope.errors import ArgumentTypeError, GraphMismatchError, NotCoveredError
from varscope.graph import Graph
from varscope.partitioned import PartitionedVariable
from varscope.regularizers import RegularizationLoss
from varscope.variables import Variable

__all__ = [
    "InteractiveSession",
    "Operation",
    "Session",
    "assign",
    "assign_add",
    "assign_sub",
    "control_dependencies",
    "device",
    "get_default_session",
    "global_variables_initializer",
    "group",
    "initialize_all_tables",
    "initialize_all_variables",
    "initialize_local_variables",
    "initialize_variables",
    "is_variable_initialized",
    "local_variables_initializer",
    "no_op",
    "report_uninitialized_variables",
    "tables_initializer",
    "variables_initializer",
]

_awaited: ContextVar[tuple[Operation, ...]] = ContextVar("varscope_tf1_awaited", default=())
_sessions: ContextVar[tuple[Session, ...]] = ContextVar("varscope_tf1_sessions", default=())


class Operation:
    """Something that `Session.run` does, every time it is run.

    `name` is its name in the graph, `control_inputs` are the operations that go before it.
    """

    def __init__(self, kind: str, name: str | None, action: Callable[[_Run], Any]) -> None:
        self.graph = graphs.get_default_graph()
        self.name = self.graph.unique_name(kind if name is None else name)
        self.type = kind
        self.control_inputs = _awaited.get()
        self._action = action

    def run(
        self, feed_dict: Mapping[Any, Any] | None = None, session: Session | None = None
    ) -> None:
        """Run it in the session, else in the default one, else in none."""
        self.eval(feed_dict, session)

    def eval(
        self, feed_dict: Mapping[Any, Any] | None = None, session: Session | None = None
    ) -> Any:
        """Run it, and return its value."""
        session = session or get_default_session()
        if session is not None:
            return session.run(self, feed_dict)
        refuse_feeds(feed_dict)
        return _Run(None).value(self)

    def __repr__(self) -> str:
        return f"<tf.Operation {self.name!r} type={self.type}>"


class _Run:
    """One call of `Session.run`: in it each operation happens once, after those it waits for."""

    def __init__(self, within: Session | None) -> None:
        self._session = within
        self._done: dict[Operation, Any] = {}

    def value(self, fetch: Any) -> Any:
        """What `Session.run` returns for a fetch."""
        if isinstance(fetch, Operation):
            return self._result(fetch)
        if isinstance(fetch, (Variable, PartitionedVariable)):
            self._belongs(fetch)
            return fetch.numpy()[()]  # a scalar is a number, as it was in TensorFlow
        if isinstance(fetch, RegularizationLoss):
            return fetch.value()
        if isinstance(fetch, str):
            return self.value(self._named(fetch))
        if isinstance(fetch, Mapping):
            return {key: self.value(part) for key, part in fetch.items()}
        if isinstance(fetch, tuple) and hasattr(fetch, "_fields"):
            return type(fetch)(*(self.value(part) for part in fetch))
        if isinstance(fetch, (list, tuple)):
            return type(fetch)(self.value(part) for part in fetch)
        if isinstance(fetch, (np.ndarray, np.generic, bool, int, float, complex)):
            return fetch  # computed already
        if callable(fetch) and not isinstance(fetch, type):
            raise NotCoveredError.of(
                f"Session.run({fetch!r:.100})",
                "call a function yourself; for the first values of a variable v, run "
                "tf.variables_initializer([v])",
            )
        raise ArgumentTypeError.of(
            "what Session.run fetches",
            "a variable, an operation, a name, an array or number, or a list, tuple or dict of "
            "those",
            fetch,
        )

    def _result(self, operation: Operation) -> Any:
        """Iterative, as chains of control inputs may be long."""
        self._belongs(operation)
        waiting = [operation]
        while waiting:
            last = waiting[-1]
            missing = [one for one in last.control_inputs if one not in self._done]
            if missing:
                waiting += reversed(missing)
                continue
            waiting.pop()
            if last not in self._done:
                self._done[last] = last._action(self)
        return self._done[operation]

    def _named(self, name: str) -> Any:
        where = graphs.get_default_graph() if self._session is None else self._session.graph
        if name not in where:
            raise ValueError(
                f"Session.run({name!r:.100}): there is no variable of this name in {where!r}; "
                "look with graph.find"
            )
        return where[name]

    def _belongs(self, fetch: Any) -> None:
        if self._session is not None and fetch.graph is not self._session.graph:
            raise GraphMismatchError.of(self._session, fetch)


def refuse_feeds(feed_dict: Mapping[Any, Any] | None) -> None:
    """Nothing can be fed, as nothing is computed later."""
    if feed_dict:
        raise NotCoveredError.of(
            "feed_dict",
            "what computes has its value at once; pass arrays as arguments of the function that "
            "computes, and call it again for each batch",
        )


# --- sessions


class Session:
    """A place to run things in, as TensorFlow 1 had it: `run` returns values.

    `with` makes it the default session, and its graph the default graph, and closes it at the end.
    The values belong to the variables, not to the session: another session of the same graph
    sees the same ones.

    Parameters
    ----------
    target : str
        Must be empty.
    graph : Graph, optional
        Default: the current one.
    config : None
        There is nothing to configure.

    >>> from varscope.compat import tf1 as tf
    >>> v = tf.get_variable("v", [2], initializer=tf.ones_initializer())
    >>> twice = tf.assign_add(v, v)
    >>> with tf.Session() as sess:
    ...     sess.run(tf.global_variables_initializer())
    ...     sess.run(twice)
    ...     sess.run({"v": v, "names": [v, v]})["v"]
    array([2., 2.], dtype=float32)
    array([2., 2.], dtype=float32)
    """

    def __init__(self, target: str = "", graph: Graph | None = None, config: None = None) -> None:
        if target or config is not None:
            raise NotCoveredError.of(
                "Session(target=..., config=...)",
                "nothing runs on a device or another machine here; write tf.Session(), or "
                "tf.Session(graph=graph)",
            )
        self.graph = graphs.get_default_graph() if graph is None else graph
        if not isinstance(self.graph, Graph):
            raise ArgumentTypeError.of("graph", "a Graph", graph)
        self._closed = False
        self._entered: list[contextlib.ExitStack] = []

    def run(
        self,
        fetches: Any,
        feed_dict: Mapping[Any, Any] | None = None,
        options: None = None,
        run_metadata: None = None,
    ) -> Any:
        """The values of what is fetched, in the order of the fetches.

        Parameters
        ----------
        fetches
            A variable (its value is copied), an operation (it is run), the name of a variable,
            a regularization loss, an array or number (returned as it is), or a list, tuple,
            named tuple or dict of those, however nested.
        feed_dict
            Must be empty: see the page on TensorFlow 1.

        Returns
        -------
        the same structure with values; None for an operation that has none
        """
        if self._closed:
            raise RuntimeError("this Session is closed: open another one with tf.Session()")
        refuse_feeds(feed_dict)
        if options is not None or run_metadata is not None:
            raise NotCoveredError.of("Session.run(options=..., run_metadata=...)", "leave it out")
        return _Run(self).value(fetches)

    @contextlib.contextmanager
    def as_default(self) -> Iterator[Self]:
        """A context manager in which this is the default session; the graph stays as it is."""
        _sessions.set((*_sessions.get(), self))
        try:
            yield self
        finally:
            _sessions.set(without_last(_sessions.get(), self))

    def close(self) -> None:
        """Nothing can be run any more; the variables keep their values."""
        self._closed = True

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.graph.as_default())
            stack.enter_context(self.as_default())
            self._entered.append(stack.pop_all())
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        self._entered.pop().close()

    def __repr__(self) -> str:
        return f"<tf.{type(self).__name__} {id(self):#x} of {self.graph!r}>"


class InteractiveSession(Session):
    """A session that is the default one from its creation until it is closed."""

    def __init__(self, target: str = "", graph: Graph | None = None, config: None = None) -> None:
        super().__init__(target, graph, config)
        self._installed = contextlib.ExitStack()
        if graph is not None:
            self._installed.enter_context(graph.as_default())
        self._installed.enter_context(self.as_default())

    def close(self) -> None:
        """No longer the default session, nor its graph the default one."""
        super().close()
        self._installed.close()


def without_last(sessions: tuple[Session, ...], session: Session) -> tuple[Session, ...]:
    """The sessions less the innermost entry of one of them."""
    places = [i for i, other in enumerate(sessions) if other is session]
    return sessions[: places[-1]] + sessions[places[-1] + 1 :] if places else sessions


def get_default_session() -> Session | None:
    """The innermost session that was entered in this thread or task, or None."""
    sessions = _sessions.get()
    return sessions[-1] if sessions else None


# --- operations


def no_op(name: str | None = None) -> Operation:
    """An operation that does nothing; what it waits for happens."""
    return Operation("NoOp", name, lambda run: None)


def group(*inputs: Any, name: str | None = None) -> Operation:
    """An operation that runs all of these, in this order."""
    several = list(flat(inputs))

    def run_all(run: _Run) -> None:
        for one in several:
            run.value(one)

    return Operation("group_deps", name, run_all)


def flat(inputs: Iterable[Any]) -> Iterator[Any]:
    """What is in nested lists and tuples."""
    for one in inputs:
        if isinstance(one, (list, tuple)):
            yield from flat(one)
        else:
            yield one


@contextlib.contextmanager
def control_dependencies(control_inputs: Iterable[Any] | None) -> Iterator[None]:
    """Operations that are made inside happen after these, in each run; None: after none."""
    before = _awaited.get()
    if control_inputs is None:
        _awaited.set(())
    else:
        _awaited.set(before + tuple(one for one in control_inputs if isinstance(one, Operation)))
    try:
        yield
    finally:
        _awaited.set(before)


@contextlib.contextmanager
def device(device_name_or_function: Any) -> Iterator[None]:
    """Makes no difference: the values of variables are NumPy arrays, in the machine's memory."""
    yield


# --- first values


def variables_initializer(var_list: Iterable[Any], name: str = "init") -> Operation:
    """An operation that gives these variables their first values, also where they have others."""
    variables = list(each_whole(var_list))

    def initialize(run: _Run) -> None:
        changed = [variable for variable in variables if variable.initialized]
        initialization.initialize(variables)
        for variable in changed:
            variable.initialize(force=True)

    return Operation("NoOp", name, initialize)


def each_whole(var_list: Iterable[Any]) -> Iterator[Variable]:
    """The variables of a list, shard by shard where they are partitioned."""
    for variable in var_list:
        if isinstance(variable, PartitionedVariable):
            yield from variable
        elif isinstance(variable, Variable):
            yield variable
        else:
            raise ArgumentTypeError.of("var_list", "a list of variables", variable)


def global_variables_initializer() -> Operation:
    """An operation that gives all global variables that are there now their first values."""
    return variables_initializer(_scopes.global_variables())


def local_variables_initializer() -> Operation:
    """An operation that gives all local variables that are there now their first values."""
    return variables_initializer(_scopes.local_variables())


def initialize_variables(var_list: Iterable[Any], name: str = "init") -> Operation:
    """`variables_initializer` as it was called before TensorFlow 1."""
    return variables_initializer(var_list, name)


def initialize_all_variables() -> Operation:
    """`global_variables_initializer` as it was called before TensorFlow 1."""
    return global_variables_initializer()


def initialize_local_variables() -> Operation:
    """`local_variables_initializer` as it was called before TensorFlow 1."""
    return local_variables_initializer()


def tables_initializer(name: str = "init_all_tables") -> Operation:
    """An operation that does nothing: there are no tables here."""
    return no_op(name)


def initialize_all_tables(name: str = "init_all_tables") -> Operation:
    """`tables_initializer` as it was called before TensorFlow 1."""
    return tables_initializer(name)


def is_variable_initialized(variable: Any) -> Operation:
    """Run, it says whether the variable has values."""
    [whole] = [list(each_whole([variable]))]
    return Operation(
        "IsVariableInitialized", None, lambda run: all(part.initialized for part in whole)
    )


def report_uninitialized_variables(
    var_list: Iterable[Any] | None = None, name: str = "report_uninitialized_variables"
) -> Operation:
    """Run, it gives the op names, as bytes, of the variables without values.

    Those that are looked at are the given ones, or the global and local ones that are there now.
    """
    if var_list is None:
        var_list = _scopes.global_variables() + _scopes.local_variables()
    variables = list(each_whole(var_list))

    def report(run: _Run) -> np.ndarray:
        names = [variable.op_name.encode() for variable in variables if not variable.initialized]
        return np.array(names, dtype=object)

    return Operation("Report", name, report)


# --- assignments


def assignment(
    kind: str, name: str | None, ref: Any, value: Any, change: Callable[[Any, Any], Any]
) -> Operation:
    """An operation that changes a variable, and gives its new value."""
    if not isinstance(ref, (Variable, PartitionedVariable)):
        raise ArgumentTypeError.of("ref", "a variable", ref)

    def run_it(run: _Run) -> Any:
        change(ref, value() if callable(value) else value)
        return run.value(ref)

    return Operation(kind, name, run_it)


def assign(
    ref: Any,
    value: Any,
    validate_shape: bool | None = None,
    use_locking: bool | None = None,
    name: str | None = None,
) -> Operation:
    """An operation that sets a variable; its value is the new one.

    Nothing happens until `Session.run`.  `value` is a number or array, which stays what it is; a
    variable, which is read at each run; or a function without arguments, called at each run.  The
    method `v.assign` of varscope, for comparison, acts at once.

    >>> from varscope.compat import tf1 as tf
    >>> average = tf.get_variable("average", initializer=0.0)
    >>> update = tf.assign(average, lambda: 0.5 * average + 0.5 * 8.0)
    >>> sess = tf.Session()
    >>> [float(sess.run(update)) for _ in range(3)]
    [4.0, 6.0, 7.0]
    """
    return assignment("Assign", name, ref, value, lambda v, x: v.assign(x))


def assign_add(
    ref: Any, value: Any, use_locking: bool | None = None, name: str | None = None
) -> Operation:
    """An operation that adds to a variable; its value is the new one.  See `assign`."""
    return assignment("AssignAdd", name, ref, value, lambda v, x: v.assign_add(x))


def assign_sub(
    ref: Any, value: Any, use_locking: bool | None = None, name: str | None = None
) -> Operation:
    """An operation that subtracts from a variable; its value is the new one.  See `assign`."""
    return assignment("AssignSub", name, ref, value, lambda v, x: v.assign_sub(x))
