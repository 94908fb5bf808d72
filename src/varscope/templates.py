"""Templates: functions that create their variables at the first call and share them later.

The scope of a template is opened under a new name at the first call, and reopened with reuse at
each later one.  Each graph has a first call of its own, so a template keeps no graph alive.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from varscope._scopecore import (
    AUTO_REUSE,
    Registry,
    VariableScope,
    all_or_nothing,
    get_default_graph,
    get_variable_scope,
    if_withdrawn,
    variable_scope,
)
from varscope.errors import ArgumentTypeError, NotCallableError, VariableMissingError
from varscope.variables import Variable


def make_template(
    name: str,
    func: Callable[..., Any],
    /,
    create_scope_now: bool = False,
    unique_name: str | None = None,
    custom_getter: Callable[..., Any] | None = None,
    **kwargs: Any,
) -> Template:
    """A function that creates its variables at the first call and shares them at each later one.

    Parameters
    ----------
    name : str
        Of the scope in which `func` runs; made unique with `_1`, `_2`, … as a default name is.
    func : callable
        Asks for its variables with `get_variable`, for all of them at the first call.
    create_scope_now : bool
        Choose the scope here, inside the scope that is current now, and not at the first call.
    unique_name : str, optional
        The name of the scope as it is, in place of `name`.
    custom_getter : callable, optional
        For the variables of `func`.
    **kwargs
        Given to `func` at each call, unless the call itself says otherwise.

    Returns
    -------
    Template

    >>> import varscope as vs
    >>> def scaled(x, by):
    ...     return x * vs.get_variable(by, [2], initializer=vs.ones)
    >>> scale = vs.make_template("scale", scaled, by="factor")
    >>> scale(2).tolist(), scale(3).tolist(), [v.op_name for v in scale.variables]
    ([2.0, 2.0], [3.0, 3.0], ['scale/factor'])
    """
    return Template(name, func, create_scope_now, unique_name, custom_getter, kwargs)


class FirstCall:
    """A first call that is going on: which thread makes it, and in which scope."""

    __slots__ = ("owner", "scope")

    def __init__(self) -> None:
        self.owner = threading.get_ident()
        self.scope: VariableScope | None = None


class Uses:
    """What a template did in one graph."""

    __slots__ = ("first", "scope")

    def __init__(self) -> None:
        # At most one for each process: in a child that was forked meanwhile it does not go on.
        self.first: dict[int, FirstCall] = {}
        self.scope: VariableScope | None = None  # once the first call is over

    def are_over(self, call: FirstCall) -> bool:
        """Wait until a first call is over; False, at once, where that could never be.

        That is so in the first call itself, and where it waits for a call of this thread.

        It looks again and again, rather than have itself be woken: an interrupt at the wrong
        moment cannot leave it waiting.
        """
        me, process, pause = threading.get_ident(), os.getpid(), 1e-4
        try:
            _awaited[me] = call
            while self.scope is None and self.first.get(process) is call:
                if waits_for_itself(me):
                    return False
                time.sleep(pause)
                pause = min(2 * pause, 0.01)
            return True
        finally:
            _awaited.pop(me, None)


# The first call that a thread waits for.  A thread writes its own entry before it reads others':
# of two that are about to wait for each other, at least one sees it.
_awaited: dict[int, FirstCall] = {}


def waits_for_itself(me: int) -> bool:
    """Whether a thread waits for a call that, maybe through others, waits for the thread."""
    seen: set[int] = set()
    who = me
    while who not in seen:
        seen.add(who)
        call = _awaited.get(who)
        if call is None:
            return False
        who = call.owner
    return who == me


class Template:
    """What `make_template` returns: call it like the function that it was made of.

    In another graph the next call is a first one again.  Where several threads call first, one
    creates and the others wait for it; should two templates wait for each other, both go on and
    share what is there.  A first call that raises leaves no variable behind, and the next one is
    the first.

    >>> import varscope as vs
    >>> def layer(x):
    ...     return x * vs.get_variable("w", [2], initializer=vs.ones)
    >>> shared = vs.make_template("layer", layer)
    >>> shared(2).tolist(), shared(3).tolist(), len(shared.variables)
    ([2.0, 2.0], [3.0, 3.0], 1)
    """

    def __init__(
        self,
        name: str,
        func: Callable[..., Any],
        create_scope_now: bool,
        unique_name: str | None,
        custom_getter: Callable[..., Any] | None,
        kwargs: dict[str, Any],
    ) -> None:
        for what, given in (("name", name), ("unique_name", unique_name)):
            if not isinstance(given, str) and (given is not None or what == "name"):
                raise ArgumentTypeError.of(f"the {what} of a template", "a str", given)
        if not callable(func):
            raise ArgumentTypeError.of(f"the function of template {name!r}", "callable", func)
        if custom_getter is not None and not callable(custom_getter):
            raise NotCallableError.custom_getter(custom_getter)
        self._name, self._unique_name, self._custom_getter = name, unique_name, custom_getter
        self._func = functools.partial(func, **kwargs) if kwargs else func
        self._uses: weakref.WeakKeyDictionary[Registry, Uses] = weakref.WeakKeyDictionary()
        # Scopes are kept as those of a graph that holds nothing but their paths.  Opened in
        # another graph they mean the same path there, and keep no graph alive.
        self._paths = Registry()
        self._planned: VariableScope | None = None
        if create_scope_now:
            with self._opened(auxiliary_name_scope=False) as scope:
                self._planned = self._kept(scope)

    # --- what it is
    @property
    def name(self) -> str:
        """The name that it was given."""
        return self._name

    @property
    def func(self) -> Callable[..., Any]:
        """The function; with the arguments that were bound, where there are such."""
        return self._func

    @property
    def variable_scope(self) -> VariableScope | None:
        """Its scope in the current graph, None before the first call there has opened it."""
        graph = get_default_graph()
        uses = self._uses.get(graph)
        first = None if uses is None else uses.first.get(os.getpid())
        if uses is not None and uses.scope is not None:
            return moved(uses.scope, graph)
        if first is not None and first.scope is not None:
            return first.scope
        return None if self._planned is None else moved(self._planned, graph)

    var_scope = variable_scope

    @property
    def variables(self) -> list[Variable]:
        """Its global and local variables in the current graph."""
        return list(dict.fromkeys([*self.global_variables, *self.local_variables]))

    @property
    def global_variables(self) -> list[Variable]:
        """Its global variables in the current graph, in the order of creation."""
        scope = self.variable_scope
        return [] if scope is None else scope.global_variables()

    @property
    def local_variables(self) -> list[Variable]:
        """Its local variables in the current graph, in the order of creation."""
        scope = self.variable_scope
        return [] if scope is None else scope.local_variables()

    @property
    def trainable_variables(self) -> list[Variable]:
        """Its trainable variables in the current graph, in the order of creation."""
        scope = self.variable_scope
        return [] if scope is None else scope.trainable_variables()

    def __reduce__(self) -> Any:
        raise ArgumentTypeError(
            f"{self!r} cannot be copied or pickled: it knows its scopes by the graphs that live in "
            "this process; make a template of the same name and function where it is needed"
        )

    def __repr__(self) -> str:
        scope = self.variable_scope
        where = "not called yet" if scope is None else f"in scope {scope.name!r}"
        return f"<Template {self._name!r} of {self._func!r:.100}, {where}>"

    # --- calling it
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        uses = self._uses.setdefault(get_default_graph(), Uses())
        process = os.getpid()
        while uses.scope is None:
            mine = FirstCall()
            try:
                call = uses.first.setdefault(process, mine)  # one step, whatever others do
                if call is mine and uses.scope is None:
                    return all_or_nothing(self._create, uses, call, args, kwargs)
            finally:
                if uses.first.get(process) is mine:
                    del uses.first[process]
            if call is not mine and not uses.are_over(call):
                return self._join(call, args, kwargs)
        return self._share(uses.scope, args, kwargs)

    def _create(
        self, uses: Uses, call: FirstCall, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The first call."""
        if_withdrawn(functools.partial(uses.first.pop, os.getpid(), None))
        opened = self._opened() if self._planned is None else variable_scope(self._planned)
        # Leaving a captured scope puts the marks for default names back: a call that raises is
        # repeated under the same name.
        with variable_scope(get_variable_scope(), auxiliary_name_scope=False), opened as scope:
            call.scope = scope
            result = self._func(*args, **kwargs)
        # This call may be part of something else that fails.
        if_withdrawn(functools.partial(setattr, uses, "scope", None))
        uses.scope = self._kept(scope)
        with variable_scope(scope, auxiliary_name_scope=False):
            return result  # opening it leaves its mark

    def _join(self, call: FirstCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call inside the first one, or beside one that cannot be waited for."""
        scope = call.scope
        reuse: Any = True if scope is not None and scope.reuse is True else AUTO_REUSE
        with variable_scope(scope, self._name, reuse=reuse):
            return self._func(*args, **kwargs)

    def _share(self, scope: VariableScope, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A later call."""
        try:
            with variable_scope(scope, reuse=True):
                return self._func(*args, **kwargs)
        except VariableMissingError as error:
            if error.name.startswith(f"{scope.name}/") and error.template is None:
                error.template = self._name
            raise

    def _opened(self, auxiliary_name_scope: bool = True) -> Any:
        return variable_scope(
            self._unique_name, self._name, custom_getter=self._custom_getter,
            auxiliary_name_scope=auxiliary_name_scope,
        )  # fmt: skip

    def _kept(self, scope: VariableScope) -> VariableScope:
        """The scope as it is kept here."""
        return moved(scope, self._paths)


def moved(scope: VariableScope, graph: Registry) -> VariableScope:
    """The same path with the same defaults in another graph."""
    return scope.__deepcopy__({id(scope.graph): graph})


__all__ = ["Template", "make_template"]
