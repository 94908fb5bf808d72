"""Patterns that take names apart, and templates that put names together of what they took.

A pattern gives the texts that its wildcards or groups stand for, its *fields*; a template writes
them into another name.  Where the names that are read have another separator than those that are
written, fields are turned from the one spelling into the other in between.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Fields = tuple[Any, ...]
Spelling = Callable[[str], str] | None

_TOKEN = re.compile(r"\*\*|[*?]|\{(\w*)\}|[{}]|[^*?{}]+", re.DOTALL)
_REFERENCE = re.compile(r"\\(?:([1-9][0-9]?)|g<(\w+)>|(\\)|(.?))|[^\\]+", re.DOTALL)


class PatternError(ValueError):
    """A pattern or template that cannot be; whoever knows the rule makes it a NameMapError."""


def respelling(read: str, written: str) -> Spelling:
    """A function that exchanges two separators; None where they are the same.

    Exchanged, so that different names stay different: the other separator, should a name have
    it, becomes the first one.
    """
    if read == written:
        return None
    table = str.maketrans({read: written, written: read})

    def respelled(text: str) -> str:
        return text.translate(table) if written in text else text.replace(read, written)

    return respelled


# --- globs


@dataclass(frozen=True, slots=True)
class Wild:
    """A wildcard of a glob: `*`, `?`, `**`, or a `*` with a name, written `{name}`."""

    kind: str
    name: str | None = None

    def __str__(self) -> str:
        return self.kind if self.name is None else f"{{{self.name}}}"


Component = list["str | Wild"]


def parse_glob(text: str, separator: str) -> list[Component]:
    """The components of a glob, each as literal texts and wildcards."""
    return [_component(part, text) for part in text.split(separator)]


def _component(part: str, text: str) -> Component:
    tokens: Component = []
    for match in _TOKEN.finditer(part):
        token, name = match.group(), match.group(1)
        if name is not None and name.isidentifier() and name.isascii():
            tokens.append(Wild("*", name))
        elif token[0] in "{}":
            raise PatternError(
                f"{text!r}: a named wildcard is a name in braces, as in 'layers_{{i}}/kernel'; "
                "write such a one, or a regex for braces in names"
            )
        else:
            tokens.append(Wild(token) if token[0] in "*?" else token)
    if Wild("**") in tokens and len(tokens) > 1:
        raise PatternError(
            f"{text!r}: '**' must be a component of its own; write it so, as in 'a/**/w'"
        )
    return tokens


def wildcards(components: list[Component]) -> list[Wild]:
    """The wildcards in their order, a named one only where it is first."""
    found: list[Wild] = []
    for token in (token for component in components for token in component):
        if isinstance(token, Wild) and (token.name is None or token not in found):
            found.append(token)
    return found


def is_unambiguous(components: list[Component]) -> bool:
    """Whether a name that fits can be taken apart in one way only."""
    seen: set[Wild] = set()
    many = 0
    for component in components:
        stars = [token for token in component if isinstance(token, Wild) and token.kind == "*"]
        named = {token for token in stars if token.name is not None}
        if sum(token.name is None for token in stars) + len(named - seen) > 1:
            return False
        seen |= named
        many += component == [Wild("**")]
    return many <= 1


def glob_expression(components: list[Component], separator: str) -> str:
    """The regular expression of a glob, with a group for each of its wildcards."""
    border, inside = re.escape(separator), f"[^{re.escape(separator)}]"
    text = ""
    seen: set[str] = set()
    for number, component in enumerate(components):
        last = number == len(components) - 1
        if component == [Wild("**")]:
            text += ("(.+)" if number else "(.*)") if last else f"(?:(.+){border})?"
            continue
        for token in component:
            if isinstance(token, str):
                text += re.escape(token)
            elif token.name is None:
                text += f"({inside}{token.kind if token.kind == '*' else ''})"
            elif token.name in seen:
                text += f"(?P={token.name})"
            else:
                seen.add(token.name)
                text += f"(?P<{token.name}>{inside}*)"
        text += "" if last else border
    return text


# --- patterns


class Expression:
    """Names that an expression matches as a whole; its groups are the fields."""

    def __init__(self, expression: str, spelling: Spelling) -> None:
        try:
            self.regex = re.compile(expression, re.DOTALL)
        except (re.error, RecursionError, OverflowError) as error:
            raise PatternError(
                f"the regex {expression!r:.200} does not compile: {error}; correct it"
            ) from None
        self._match = self.regex.fullmatch
        self._spelling = spelling

    def fields(self, name: str) -> Fields | None:
        match = self._match(name)
        if match is None:
            return None
        groups = match.groups("")
        return groups if self._spelling is None else tuple(map(self._spelling, groups))


class Prefix:
    """Names that start with a text; the rest is the field."""

    def __init__(self, text: str, spelling: Spelling) -> None:
        self.text, self._size, self._spelling = text, len(text), spelling

    def fields(self, name: str) -> Fields | None:
        if not name.startswith(self.text):
            return None
        rest = name[self._size :]
        return (rest if self._spelling is None else self._spelling(rest),)


class Table:
    """Names that stand in a dict; what it gives them is the field, and None leaves them out."""

    def __init__(self, names: Mapping[str, str | None]) -> None:
        self.names = names

    def fields(self, name: str) -> Fields | None:
        return (self.names[name],) if name in self.names else None


class Called:
    """Every name: a function says what becomes of it, and None leaves it out."""

    def __init__(self, function: Callable[[str], Any]) -> None:
        self.function = function

    def fields(self, name: str) -> Fields | None:
        return (self.function(name),)


Pattern = Expression | Prefix | Table | Called


# --- templates


@dataclass
class Template:
    """Writes a name of literal texts and fields.

    `components` are joined by `separator`; each is a `%` format and the numbers of its fields.
    Those with a number in `optional` are left out where their field is empty: a `**` that stands
    for no component.
    """

    components: list[tuple[str, tuple[int, ...]]]
    separator: str = ""
    optional: frozenset[int] = frozenset()
    _format: str = field(init=False)
    _fields: tuple[int, ...] = field(init=False)
    _in_order: int = field(init=False)  # the number of fields, where all are written as they come

    def __post_init__(self) -> None:
        join = self.separator.replace("%", "%%")
        self._format = join.join(text for text, _ in self.components)
        self._fields = tuple(number for _, numbers in self.components for number in numbers)
        number = len(self._fields)
        self._in_order = number if self._fields == tuple(range(number)) else -1

    def write(self, fields: Fields) -> str:
        if self.optional and not all(fields[number] for number in self.optional):
            return self._without_empty(fields)
        if len(fields) == self._in_order:
            return self._format % fields
        return self._format % tuple([fields[number] for number in self._fields])

    def _without_empty(self, fields: Fields) -> str:
        texts = []
        for text, numbers in self.components:
            filled = text % tuple([fields[number] for number in numbers])
            if filled or not self.optional.intersection(numbers):
                texts.append(filled)
        return self.separator.join(texts)


class Given:
    """Writes the name that a dict or a function gave; None where it leaves the tensor out."""

    def write(self, fields: Fields) -> str | None:
        return fields[0]  # type: ignore[no-any-return]


def literal(text: str) -> Template:
    return Template([(text.replace("%", "%%"), ())])


def prefixed(text: str) -> Template:
    return Template([(text.replace("%", "%%") + "%s", (0,))])


def glob_template(
    components: list[Component], separator: str, places: Mapping[str, int], order: Sequence[int]
) -> Template:
    """Fills wildcards: named ones by `places`, the others in `order`."""
    unnamed = iter(order)
    written = []
    optional = set()
    for component in components:
        text, numbers = "", []
        for token in component:
            if isinstance(token, str):
                text += token.replace("%", "%%")
                continue
            text += "%s"
            numbers.append(next(unnamed) if token.name is None else places[token.name])
            if token.kind == "**":
                optional.add(numbers[-1])
        written.append((text, tuple(numbers)))
    return Template(written, separator, frozenset(optional))


@dataclass(frozen=True, slots=True)
class Group:
    """A group of a regex, by its number or name, where it is written."""

    key: int | str


def parse_reference(text: str) -> list[str | Group]:
    r"""The literal texts and groups of what is written for a regex: `\1`, `\g<1>`, `\g<name>`."""
    parts: list[str | Group] = []
    for match in _REFERENCE.finditer(text):
        number, name, backslash, other = match.groups()
        if other is not None:
            raise PatternError(
                f"{text!r}: a backslash stands before the number of a group, as in 'layers_\\1', "
                "or before g<name>; write two for one in a name"
            )
        if number is not None or (name is not None and name.isdecimal()):
            parts.append(Group(int(number or name)))
        elif name is not None:
            parts.append(Group(name))
        else:
            parts.append("\\" if backslash else match.group())
    return parts


def reference_template(text: str, regex: re.Pattern[str]) -> tuple[Template, set[int]]:
    """What is written for a regex, and the numbers of the groups in it, from 0."""
    written, numbers = "", []
    for part in parse_reference(text):
        if isinstance(part, str):
            written += part.replace("%", "%%")
            continue
        number = part.key if isinstance(part.key, int) else regex.groupindex.get(part.key, 0)
        if not 1 <= number <= regex.groups:
            names = "".join(f", {name!r}" for name in regex.groupindex)
            raise PatternError(
                f"{text!r} asks for the group {part.key!r}, and the regex has {regex.groups} "
                f"groups{names}; write one of these"
            )
        written += "%s"
        numbers.append(number - 1)
    return Template([(written, tuple(numbers))]), set(numbers)
