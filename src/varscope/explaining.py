"""Where a variable's name and settings come from, told without creating or changing anything.

`explain` reads the open scopes and asks `creation` what it would say to a request, up to the point
where something would be made.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from varscope import creation, initializers, shapes
from varscope._scopecore import (
    ComposedGetter,
    Defaults,
    VariableScope,
    get_default_graph,
    open_frames,
    site_text,
    substitutions,
)
from varscope.errors import ArgumentTypeError, FinalizedGraphError, VarscopeError
from varscope.graph import Graph
from varscope.partitioned import PartitionedVariable, find_partitioned
from varscope.summary import format_type
from varscope.variables import Variable

__all__ = ["Explanation", "explain"]

# What a scope can set, in the order in which the core keeps what was passed.
DEFAULTS = (
    "initializer", "regularizer", "caching_device", "partitioner", "custom_getter", "dtype",
    "constraint",
)  # fmt: skip
LIBRARY = "the library's default"
LONGEST_VALUE = 60


class Piece(NamedTuple):
    """A piece of a variable's path: its text, what gave it, and why it reads so, '' if plainly."""

    text: str
    given_by: str
    reason: str = ""


class Setting(NamedTuple):
    """What a variable has or would have of one kind, and which scope or call said so."""

    value: Any
    given_by: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Explanation:
    """What `explain` has found; its text is a table.

    Parameters
    ----------
    asked : str
        The call, or the variable, that is explained.
    path : str
        The full name by which `get_variable` finds the variable.
    pieces : tuple of Piece
        The parts of the path in their order, each a tuple `(text, given_by, reason)`.
    op_name : str
        The name as an op, which `v.name` shows: the path, or the next free name.
    name_scope : str
        The current name scope, in which ops are named; that of the variable plays no part.
    settings : dict from str to Setting
        By the name of the argument of `get_variable`: a tuple `(value, given_by)`.
    variable : Variable, PartitionedVariable or None
        The variable of this path, where there is one.
    outcome : "create", "share", "raise" or "there"
        What `get_variable` would do; "there" where a variable was given.
    error : VarscopeError or None
        What it would raise.
    answer : str
        The same as a sentence, with what to write.
    notes : tuple of str
        What else there is to know.

    >>> import varscope as vs
    >>> found = vs.explain("w")
    >>> found.path, found.outcome, found.settings["dtype"].given_by
    ('w', 'create', "the library's default")
    """

    asked: str
    path: str
    pieces: tuple[Piece, ...]
    op_name: str
    name_scope: str
    settings: dict[str, Setting]
    variable: Variable | PartitionedVariable | None
    outcome: str
    error: VarscopeError | None
    answer: str
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        rows = [("path", self.path, "")]
        for piece in self.pieces:
            why = f"{piece.given_by}: {piece.reason}" if piece.reason else piece.given_by
            rows.append(("", f"  {piece.text}", why))
        rows.append(("op name", self.op_name, "" if self.op_name == self.path else "not the path"))
        rows += [(name, shown(each.value), each.given_by) for name, each in self.settings.items()]
        first = max(len(name) for name, _, _ in rows)
        second = max(len(value) for _, value, _ in rows)
        lines = [f"  {a:{first}}  {b:{second}}  {c}".rstrip() for a, b, c in rows]
        return "\n".join([self.asked, *lines, *self.notes, self.answer])


def shown(value: Any) -> str:
    """A setting's value in a table."""
    if value is None:
        return "none"
    text = value if isinstance(value, str) else " ".join(str(value).split())
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


class Frame(NamedTuple):
    """One open scope, as the core tells it: see `open_frames`."""

    kind: str
    call: str | None
    path: str
    name_scope: str
    defaults: Defaults
    reuse: Any
    origin: tuple[Any, ...] | None
    passed: tuple[Any, ...] | None
    captured: VariableScope | None
    default_name: str | None


def explain(name: str | Variable | PartitionedVariable) -> Explanation:
    """Tell which scope gives each piece of a variable's name, and each of its settings.

    A name is that of `get_variable(name)` in the current scope; at the root it is a full path.
    Nothing is created or changed by asking, and no function of yours is called.

    Parameters
    ----------
    name : str, Variable or PartitionedVariable
        What `get_variable` would be asked for here, or a variable that is there.  Of the latter
        the graph knows what it is and where it was created, not which scopes were open then.

    Returns
    -------
    Explanation
        The facts as attributes; printed, a table.

    Raises
    ------
    ArgumentTypeError : TypeError
        Neither a name nor a variable.
    InvalidNameError : ValueError
        A name that no variable can have.

    >>> import varscope as vs
    >>> with vs.variable_scope("model", dtype="float16"):
    ...     with vs.variable_scope(None, default_name="layer"):
    ...         found = vs.explain("w")
    >>> [(piece.text, piece.given_by) for piece in found.pieces[:2]]
    [('model', "variable_scope('model')"), ('layer', "variable_scope(None, 'layer')")]
    >>> found.settings["dtype"]
    Setting(value=dtype('float16'), given_by="variable_scope('model', dtype=...)")
    >>> print(found.answer)
    get_variable creates it; write get_variable('w', [3, 4]), with the shape that it is to have
    """
    if isinstance(name, (Variable, PartitionedVariable)):
        return of_variable(name)
    if not isinstance(name, str):
        raise ArgumentTypeError.of("name", "a str or a Variable", name)
    return of_request(str.__str__(name))


# --- what get_variable would be asked for


def of_request(name: str) -> Explanation:
    graph, frames = get_default_graph(), [Frame(*facts) for facts in open_frames()]
    scope = frames[-1]
    path = f"{scope.path}/{name}" if scope.path else name
    op_name = graph._next_op_name(path)  # refuses what is no name
    request, settings = request_of(graph, path, frames)
    variable, error, notes = verdict(request)
    if variable is not None:
        op_name = variable.op_name
    if error is not None:
        outcome, answer = "raise", f"get_variable raises {type(error).__name__}: {error}"
    elif variable is not None:
        outcome, answer = "share", f"get_variable shares it; write get_variable({name!r})"
    else:
        outcome, answer = "create", how_to_create(name, request)
    if request.partitioner is not None:
        notes.append("note: the partitioner is asked how to cut it")
    if scope.defaults.custom_getter is not None:
        notes.append("note: the custom getter may ask for something else, or return it")
    if op_name != path:
        notes.append(why_renamed(path))
    if substitutions.get(()):  # the mappings are not asked: they may be of the user's own
        notes.append(
            "note: varscope.substitute is open: an entry of this path is returned in place of the "
            "variable, and refused if it has not its shape and dtype"
        )
    notes += name_scope_notes(frames)
    if variable is None and scope.path:
        notes += elsewhere(graph, name)
    where = f"scope {scope.path!r}" if scope.path else "the root scope"
    return Explanation(
        f"get_variable({name!r}) in {where}", path, pieces_of(frames, name), op_name,
        scope.name_scope, settings, variable, outcome, error, answer,
        tuple(notes),
    )  # fmt: skip


def request_of(
    graph: Graph, path: str, frames: list[Frame]
) -> tuple[creation.VariableRequest, dict[str, Setting]]:
    """The request that `get_variable` with a name alone becomes, and where each of it is from."""
    scope = frames[-1]
    values = {field: getattr(scope.defaults, field) for field in DEFAULTS}
    dtype = values["dtype"]
    if initializers.is_value(values["initializer"]):
        dtype = initializers.as_value(values["initializer"]).dtype
    request = creation.VariableRequest(
        graph, scope.path, scope.origin, path, None, None, values["dtype"], values["initializer"],
        values["regularizer"], scope.reuse, True, None, values["caching_device"],
        values["partitioner"], True, values["constraint"],
    )  # fmt: skip
    settings = {}
    for field in sorted(DEFAULTS, key=lambda field: field != "dtype"):
        settings[field] = Setting(values[field], given_by(frames, field))
    if dtype is not values["dtype"]:
        settings["dtype"] = Setting(
            dtype, f"the initializer, from {given_by(frames, 'initializer')}"
        )
    if values["initializer"] is None:
        default = initializers.default_for(dtype)
        settings["initializer"] = Setting(default, settings["initializer"].given_by)
    settings["reuse"] = Setting(scope.reuse, reuse_given_by(frames))
    return request, settings


def given_by(frames: list[Frame], field: str) -> str:
    """Which scope a default is from, and whether it was opened with it or told later."""
    number = DEFAULTS.index(field)
    for i in range(len(frames) - 1, -1, -1):
        frame = frames[i]
        value = getattr(frame.defaults, field)
        passed = None if frame.passed is None else frame.passed[number]
        told = f"set_{field}(...) on {scope_text(frame.path)}"
        if value is None:
            told = f"{LIBRARY}, after set_{field}(None) on {scope_text(frame.path)}"
        if passed is not None and is_made_of(value, passed):
            here = f"{call_text(frame)[:-1]}, {field}=...)"
            if isinstance(value, ComposedGetter):
                return f"{here}, around it {outer_given_by(frames[:i], frame, value.outer)}"
            return here
        if frame.captured is not None:
            if value is not getattr(frame.captured, field):
                return told
            if value is None:
                return f"{LIBRARY}, as captured {scope_text(frame.path)} sets none"
            return f"captured {scope_text(frame.path)}"
        if i and value is not getattr(frames[i - 1].defaults, field):
            return told
        if not i and (value is not None if field != "dtype" else value != np.float32):
            return told
    return LIBRARY


def outer_given_by(outside: list[Frame], frame: Frame, outer: Any) -> str:
    """The same for the custom getter around the one that a scope was opened with."""
    if frame.captured is not None:
        return f"that of captured {scope_text(frame.path)}"
    return given_by(outside, "custom_getter")


def is_made_of(value: Any, passed: Any) -> bool:
    """Whether a scope still has what it was opened with."""
    if isinstance(value, ComposedGetter):
        return value is passed or value.inner is passed
    return value is passed or (isinstance(value, np.dtype) and value == shapes.as_dtype(passed))


def reuse_given_by(frames: list[Frame]) -> str:
    scope = frames[-1]
    if scope.reuse is False:
        return "no scope switches it on"
    if scope.origin is None:
        return f"captured {scope_text(scope.path)}"  # one that was pickled keeps no more
    path, *site = scope.origin
    return f"{scope_text(path)}, at {place(site_text(tuple(site)))}"


def pieces_of(frames: list[Frame], name: str) -> tuple[Piece, ...]:
    """What each open scope adds to the path, and the name behind them."""
    pieces: list[Piece] = []
    path = ""
    for frame in frames:
        if frame.captured is not None:
            reason = f"it is opened from anywhere, so {path!r} is not before it" if path else ""
            pieces = [Piece(frame.path, call_text(frame), reason)] if frame.path else []
        elif frame.path != path:
            text = frame.path.removeprefix(f"{path}/") if path else frame.path
            reason, default = "", frame.default_name
            if default is not None and text != default:
                reason = (
                    f"the first of {default}, {default}_1, ... that was not opened in "
                    f"{scope_text(path)} before"
                )
            pieces.append(Piece(text, call_text(frame), reason))
        path = frame.path
    return (*pieces, Piece(name, "the name that is asked for"))


def name_scope_notes(frames: list[Frame]) -> list[str]:
    """Why ops made here are called otherwise than variables."""
    scope = frames[-1]
    if scope.name_scope == scope.path:
        return []
    opened = [b for a, b in itertools.pairwise(frames) if a.name_scope != b.name_scope]
    by = f", which {call_text(opened[-1])} opened" if opened else ""
    return [
        f"note: ops made here are named in {scope.name_scope or 'the root'!r}{by}: each opening "
        "takes a name that is free; variables go by the path"
    ]


def why_renamed(path: str) -> str:
    return (
        f"note: the op name {path!r} was taken before, by a name scope or an op; get_variable goes "
        "by the path"
    )


def elsewhere(graph: Graph, name: str) -> list[str]:
    """That a name which is not there is the full path of a variable, so that may be meant."""
    if graph._find(name) is None and find_partitioned(graph, name) is None:
        return []
    return [
        f"note: a variable of the full path {name!r} is there, which is asked for at the root; "
        f"write explain(get_default_graph()[{name!r}])"
    ]


def verdict(
    request: creation.VariableRequest,
) -> tuple[Variable | PartitionedVariable | None, VarscopeError | None, list[str]]:
    """The variable that is there, what asking for it would raise, and what there is to say."""
    graph, path = request.graph, request.name
    variable: Variable | PartitionedVariable | None = graph._find(path)
    if variable is None:
        variable = find_partitioned(graph, path)
    error: VarscopeError | None = None
    try:
        if isinstance(variable, Variable):
            creation.share_whole(request, variable)
        elif variable is not None:
            if request.reuse is not False:
                request.partitioner = None  # it is not called; whether it agrees stays open
            creation.share_parts(request, variable)
        elif request.reuse is True:
            error = creation.missing(request)
        elif graph.finalized:
            error = FinalizedGraphError.variable(path)
    except VarscopeError as raised:
        error = raised.with_traceback(None)
    return variable, error, [] if variable is None else what_is_there(variable)


def how_to_create(name: str, request: creation.VariableRequest) -> str:
    """What to write for a variable that is not there."""
    more = ""
    if not initializers.is_value(request.initializer):
        more = ", [3, 4]"
        if request.initializer is None and initializers.default_for(request.default_dtype) is None:
            more += ", initializer=varscope.zeros"
    words = f"get_variable creates it; write get_variable({name!r}{more})"
    return f"{words}, with the shape that it is to have" if more else words


# --- a variable that is there


def of_variable(variable: Variable | PartitionedVariable) -> Explanation:
    path, spec, site = variable.path, variable._spec, place(variable.creation_site)
    settings = {
        field: Setting(getattr(spec, field), "as it was created")
        for field in ("dtype", "shape", "initializer", "regularizer", "caching_device",
                      "constraint", "trainable", "collections")
    }  # fmt: skip
    pieces = [Piece(path, f"get_variable at {site}")]
    whole = variable._whole if isinstance(variable, Variable) else None
    if whole is not None:
        above, _, part = path.rpartition("/")
        pieces = [
            Piece(above, f"get_variable at {site}"),
            Piece(part, "the partitioner", f"it cuts {whole.spec.shape} into "
                  f"{list(whole.slicing.partitions)}"),
        ]  # fmt: skip
    notes = what_is_there(variable)
    if variable.op_name != path:
        notes.append(why_renamed(path))
    notes.append("note: which scopes were open when it was created is not kept")
    here = "" if variable.graph is get_default_graph() else ", in its graph"
    answer = (
        f"get_variable shares it{here}; write get_variable({path!r}) at the root, inside "
        "`with varscope.variable_scope('', reuse=True):`"
    )
    return Explanation(
        f"variable {path}", path, tuple(pieces), variable.op_name, "",
        settings, variable, "there", None, answer, tuple(notes),
    )  # fmt: skip


def what_is_there(variable: Variable | PartitionedVariable) -> list[str]:
    parts = ""
    if isinstance(variable, PartitionedVariable):
        parts = f", in parts {list(variable.partitions)}"
    kind = format_type(str(variable.dtype), variable.shape)
    state = "has values" if variable.initialized else "is only declared"
    return [f"there is {kind}{parts}, created at {place(variable.creation_site)}; it {state}"]


# --- texts


def scope_text(path: str) -> str:
    return f"scope {path!r}" if path else "the root scope"


def call_text(frame: Frame) -> str:
    """The call that opened a scope, without what it passes as defaults."""
    if frame.captured is not None:
        return f"variable_scope(<captured {scope_text(frame.captured.name)}>)"
    return frame.call or "the root scope"


def place(site: tuple[str, int, str]) -> str:
    file, line, function = site
    return f"{file}:{line} in {function}"
