"""The rule that leads back: from what a rule writes to what it read.

A rule has one where nothing is lost and what is written can be taken apart in one way only.  That
is seen from the rule alone; whether two rules write the same names is seen when a plan is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from varscope.name_maps import patterns
from varscope.name_maps.patterns import Expression, Group, Table
from varscope.name_maps.rules import Along, Rule


def inverse(rule: Rule) -> dict[str, Any]:
    """The data of the rule that leads back; NameMapError where there is none, which says why."""
    why = _obstacle(rule)
    if why is not None:
        raise rule.one_way(why)
    back = dict(_names(rule))
    for key, other in (("separator", "to_separator"), ("to_separator", "separator")):
        if key in rule.data:
            back[other] = rule.data[key]
    if "transpose" in rule.data:
        axes = rule.transpose
        back["transpose"] = (
            True if axes is None else [axes.index(axis) for axis in range(len(axes))]
        )
    return {**back, **_division_of_join(rule), **_join_of_division(rule)}


def _obstacle(rule: Rule) -> str | None:
    """What is lost or cannot be told from what is written; None where nothing is."""
    if rule.kind == "function":
        return "what a function did to a name cannot be seen"
    if any(each.source is not None for each in rule.alternatives):
        return "it names its source, and what is written goes to one place"
    if rule.slice is not None:
        return "'slice' takes a part, and the rest is lost"
    if rule.slices is not None:
        return _uncovered(rule)
    if rule.division is None and len(rule.to) > 1:
        return "it writes a tensor under several names, and which of them counts is not known"
    if rule.join == "concatenate" and rule.joined.sizes is None:
        sizes = f"{{'axis': {rule.joined.axis}, 'sizes': ...}}"
        return (
            "where a tensor is to be cut again is not known; write the sizes, as in "
            f"'concatenate': {sizes} with a list, or 'equal' where names are listed"
        )
    if rule.joins_numbers and rule.joined.sizes == "equal":
        return "how many parts there were is not known; write their sizes as a list"
    return None


def _uncovered(rule: Rule) -> str | None:
    try:
        _axis_of_slices(rule)
    except ValueError:
        return (
            "its slices do not cover the tensor piece by piece along one axis; write the first one "
            "from the start, the last one to the end, and each from where the one before ends, as "
            "in ':64', '64:128', '128:'"
        )
    return None


def _axis_of_slices(rule: Rule) -> int:
    """The axis that the slices of a rule cut without a gap; ValueError where there is none."""
    assert rule.slices is not None
    reached: int | None = 0
    axes = set()
    for index in rule.slices:
        cuts = [axis for axis, entry in enumerate(index) if entry != slice(None)]
        if not cuts and len(rule.slices) == 1:
            return 0
        [axis] = cuts
        axes.add(axis)
        entry = index[axis]
        if not isinstance(entry, slice) or entry.step not in (None, 1):
            raise ValueError
        if reached is None or (entry.start or 0) != reached or ... in index:
            raise ValueError
        if entry.stop is not None and entry.stop < reached:
            raise ValueError
        reached = entry.stop
    [axis] = axes
    if reached is not None:
        raise ValueError
    return axis


# --- tensors


def _division_of_join(rule: Rule) -> dict[str, Any]:
    if rule.join is None:
        return {}
    division = "unstack" if rule.join == "stack" else "split"
    return {division: _written(rule.joined, equal=None)}


def _join_of_division(rule: Rule) -> dict[str, Any]:
    if rule.slices is not None:
        return {"concatenate": _axis_of_slices(rule)} if len(rule.slices) > 1 else {}
    if rule.division is None:
        return {}
    if rule.division == "unstack":
        return {"stack": _written(rule.divided, equal=None)}
    return {"concatenate": _written(rule.divided, equal="equal")}


def _written(along: Along, equal: str | None) -> int | dict[str, Any]:
    """An axis as it is written in a rule, with what is said of the parts where that is needed."""
    sizes = equal if along.sizes in (None, "equal") else list(along.sizes or ())
    said: dict[str, Any] = {"axis": along.axis}
    if sizes is not None:
        said["sizes"] = sizes
    if along.start:
        said["start"] = along.start
    return said if len(said) > 1 else along.axis


# --- names


def _names(rule: Rule) -> Mapping[str, Any]:
    """Which names the inverse takes, and what it writes."""
    if rule.kind == "names":
        return {"names": _turned_table(rule)}
    texts = rule.data[rule.kind]
    read = list(texts) if isinstance(texts, list | tuple) else [texts]
    if rule.kind == "regex":
        if len(read) > 1 or len(rule.to) > 1 or rule.join or rule.division:
            raise rule.one_way(
                "a regex that makes one tensor of many or many of one", "write it as a glob"
            )
        expression, to = _turned_regex(rule, read[0], rule.to[0])
        return {"regex": expression, "to": to}
    if rule.kind == "glob":
        for text in rule.to:
            if not patterns.is_unambiguous(patterns.parse_glob(text, rule.to_separator)):
                raise rule.one_way(
                    f"what {text!r} writes can be taken apart in several ways",
                    "write one wildcard a component, and one '**'",
                )
    return {rule.kind: _one_or_list(list(rule.to)), "to": _one_or_list(read)}


def _one_or_list(texts: list[str]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else texts


def _turned_table(rule: Rule) -> dict[str, str]:
    table = rule.alternatives[0].pattern
    assert isinstance(table, Table)
    back: dict[str, str] = {}
    for read, written in table.names.items():
        if written is None:
            continue
        if written in back:
            raise rule.one_way(f"{back[written]!r} and {read!r} are both written as {written!r}")
        back[written] = read
    return back


# --- regexes

_ATOM = re.compile(
    r"\\[dDsSwW]|\\[^A-Za-z0-9]|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\\[\]()|*+?{}^$]", re.DOTALL
)
_LITERAL = re.compile(r"(?:\\[^A-Za-z0-9]|[^\\\[\]()|*+?{}^$.])(?![*+?{|])", re.DOTALL)
_BETWEEN = re.compile(r"\(\?:|[()|]|[*+?]\??|\{[0-9]*,?[0-9]*\}\??")


@dataclass(frozen=True)
class Captured:
    """A group of a regex: its number, and what it matches, as atoms and what stands between."""

    number: int
    name: str | None
    atoms: tuple[str, ...]
    text: str

    def may_hold(self, character: str) -> bool:
        return any(re.fullmatch(atom, character, re.DOTALL) for atom in self.atoms)


class _NotTurned(ValueError):
    """Why a regex cannot be turned round."""


def _turned_regex(rule: Rule, expression: str, to: str) -> tuple[str, str]:
    """The regex for what is written, and what it writes."""
    try:
        read = list(_parts(expression))
        pattern = rule.alternatives[0].pattern
        assert isinstance(pattern, Expression)
        names = pattern.regex.groupindex
        groups = {
            part.number: _respelled(part, rule.separator, rule.to_separator)
            for part in read
            if isinstance(part, Captured)
        }
        written: list[str | Captured] = []
        for part in patterns.parse_reference(to):
            if isinstance(part, Group):
                key = part.key if isinstance(part.key, int) else names[part.key]
                written.append(groups[key])
            else:
                written.append(part)
        _check_clear(written, groups)
        order = list(dict.fromkeys(part.number for part in written if isinstance(part, Captured)))
        back = _expression_of(written, order)
    except _NotTurned as error:
        raise rule.one_way(str(error)) from None
    template = "".join(
        part.replace("\\", "\\\\")
        if isinstance(part, str)
        else f"\\g<{order.index(part.number) + 1}>"
        for part in read
    )
    return back, template


def _parts(expression: str) -> Iterator[str | Captured]:
    """The literal texts and groups of a regex that has nothing else at its top."""
    text = expression.removeprefix("^").removesuffix("$")
    place = number = 0
    while place < len(text):
        if text[place] == "(":
            number += 1
            group, place = _group(text, place, number)
            yield group
            continue
        match = _LITERAL.match(text, place)
        if match is None:
            raise _NotTurned(
                f"{text[place : place + 20]!r} matches more than one text and is not in a group"
            )
        yield match.group().removeprefix("\\")
        place = match.end()


def _group(text: str, start: int, number: int) -> tuple[Captured, int]:
    """The group that starts here, and where it ends."""
    named = re.compile(r"\((?:\?P<(\w+)>)?").match(text, start)
    assert named is not None
    place, depth, atoms = named.end(), 1, []
    while depth:
        match = _ATOM.match(text, place) or _BETWEEN.match(text, place)
        if match is None or match.group() == "(":
            raise _NotTurned(f"group {number} holds {text[place : place + 10]!r}")
        token = match.group()
        depth += (token == "(?:") - (token == ")")
        if _ATOM.fullmatch(token):
            atoms.append(token)
        place = match.end()
    if text[place : place + 1] in tuple("*+?{"):
        raise _NotTurned(f"group {number} is repeated")
    return Captured(number, named.group(1), tuple(atoms), text[named.end() : place - 1]), place


def _check_clear(written: Sequence[str | Captured], groups: Mapping[int, Captured]) -> None:
    """Refuse what loses a group, or can be taken apart in more than one way.

    From the left, a group ends where the character behind it comes, if it cannot hold that itself;
    from the right likewise.  One group may be left in between.
    """
    for number in groups:
        if not any(isinstance(part, Captured) and part.number == number for part in written):
            raise _NotTurned(f"group {number} is not written, so it is lost")
    left = _clear(written)
    right = _clear(written[::-1], backwards=True)
    if left + right < sum(isinstance(part, Captured) for part in written) - 1:
        raise _NotTurned("where one group ends and the next one begins cannot be told")


def _clear(written: Sequence[str | Captured], backwards: bool = False) -> int:
    count = 0
    for part, following in zip(written, [*written[1:], None], strict=True):
        if isinstance(part, str):
            continue
        if following is None:
            return count + 1
        character = following[-1 if backwards else 0] if isinstance(following, str) else None
        if not character or part.may_hold(character):
            break
        count += 1
    return count


def _expression_of(written: Sequence[str | Captured], order: Sequence[int]) -> str:
    text, seen = "", set()
    for part in written:
        if isinstance(part, str):
            text += re.escape(part)
        elif part.number in seen:
            text += f"(?:\\{order.index(part.number) + 1})"
        else:
            seen.add(part.number)
            text += f"({part.text})"
    return text


def _respelled(group: Captured, read: str, written: str) -> Captured:
    """What a group matches once its separators are exchanged."""
    text, atoms, place = "", [], 0
    while place < len(group.text):
        match = _ATOM.match(group.text, place) or _BETWEEN.match(group.text, place)
        assert match is not None
        token, place = match.group(), match.end()
        if _ATOM.fullmatch(token):
            token = _exchanged(token, read, written)
            atoms.append(token)
        text += token
    return replace(group, text=text, atoms=tuple(atoms))


def _exchanged(atom: str, read: str, written: str) -> str:
    def holds(atom: str, character: str) -> bool:
        return re.fullmatch(atom, character, re.DOTALL) is not None

    wanted = holds(atom, written), holds(atom, read)  # of the exchanged one: read, written
    if wanted[0] == wanted[1]:
        return atom
    other = re.escape(written if holds(atom, read) else read)
    if atom[0] == "[":
        other = atom.translate(str.maketrans(read + written, written + read))
    if (holds(other, read), holds(other, written)) != wanted:
        raise _NotTurned(f"{atom!r} tells {read!r} and {written!r} apart")
    return other
