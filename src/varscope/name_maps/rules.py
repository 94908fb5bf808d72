"""`Rule`: one entry of a name map, checked and made ready to be followed.

A rule says which names it takes, how they are written, and what is done to the tensors on the way,
always in this order: slice, then split or unstack, then transpose, then stack or concatenate.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from varscope.errors import NameMapError
from varscope.name_maps import patterns
from varscope.name_maps.patterns import (
    Called,
    Expression,
    Fields,
    Given,
    Pattern,
    PatternError,
    Prefix,
    Spelling,
    Table,
    Template,
    Wild,
)
from varscope.name_maps.views import Index, View, as_index, shown_index

KINDS = ("name", "names", "prefix", "glob", "regex", "function")
_JOINS = ("stack", "concatenate")
_DIVISIONS = ("split", "unstack")
_SETTINGS = ("separator", "to_separator")
_ON_TENSORS = ("slice", "transpose", *_JOINS, *_DIVISIONS)
_KEYS = (*KINDS, "to", "drop", "source", *_ON_TENSORS, *_SETTINGS)
MOST_PARTS = 10_000_000  # of a tensor that is unstacked
_NUMBER = re.compile("0|[1-9][0-9]{0,17}")

_short = reprlib.Repr()
_short.maxdict, _short.maxlist, _short.maxstring, _short.maxother, _short.maxlevel = 9, 6, 80, 80, 4


def shown(data: object) -> str:
    """Data for a message, in short."""
    return _short.repr(data)


@dataclass(frozen=True, slots=True)
class Along:
    """The axis on which tensors are joined or divided, and what was said of the parts.

    `sizes` are the parts' sizes on that axis, "equal", or None for any.  Parts that are numbered
    by a wildcard count from `start`.
    """

    axis: int
    sizes: tuple[int, ...] | str | None = None
    start: int = 0


@dataclass(frozen=True, slots=True)
class Alternative:
    """One pattern of a rule, the source in which it looks, and what it writes.

    `number` is the field that holds the number of a part, where parts are joined by it.
    """

    pattern: Pattern
    source: int | str | None
    targets: tuple[Template | Given, ...]
    number: int | None = None
    place: int = 0  # among the alternatives of the rule


class Rule:
    """One rule of a map; `number` counts from 1, `data` is what was written down."""

    def __init__(self, number: int, data: object, settings: Mapping[str, Any]) -> None:
        self.number = number
        if not isinstance(data, Mapping):
            raise self._wrong(
                data, f"a rule is a dict such as {_EXAMPLE}, not {kind_of(data)}; write one"
            )
        self.data: Mapping[str, Any] = data
        check_keys(self, data, _KEYS)
        self.kind = self._kind()
        self.separator = self._separator("separator", settings)
        self.to_separator = self._separator("to_separator", settings)
        self.drop = self._drop()
        self.slice = self._slice(data["slice"]) if "slice" in data else None
        self.transpose = self._transpose()
        self.join, self.joined = self._along(_JOINS)
        self.division, self.divided = self._along(_DIVISIONS)
        self._check_combination()
        self.to, self.slices = self._to()
        try:
            self.alternatives = tuple(
                replace(each, place=place) for place, each in enumerate(self._alternatives())
            )
        except PatternError as error:
            raise self.error(str(error)) from None
        self._check_parts()
        self.how = self._how()
        self.plain = not (
            self.slice or self.slices or "transpose" in data or self.join or self.division
        )

    # --- errors
    def error(self, message: str) -> NameMapError:
        """An error that says which rule it is about."""
        return self._wrong(self.data, message)

    def _wrong(self, data: object, message: str) -> NameMapError:
        return NameMapError.stating(
            f"rule {self.number}, {shown(data)}: {message}", rule=self.number
        )

    def expect(self, what: str, expected: str, value: object) -> NameMapError:
        return self.error(f"{what!r} must be {expected}, not {shown(value)}; write {expected}")

    def one_way(
        self, why: str, mend: str = "write the way back as a map of its own"
    ) -> NameMapError:
        """An error of a rule that has no inverse."""
        return self.error(f"it cannot be turned round: {why}; {mend}")

    # --- what was written down
    def _kind(self) -> str:
        kinds = [kind for kind in KINDS if kind in self.data]
        if len(kinds) != 1:
            said = f"it has {' and '.join(map(repr, kinds))}" if kinds else "it has none of these"
            raise self.error(
                f"a rule has one of 'name', 'names', 'prefix', 'glob' and 'regex'; {said}; "
                "write one"
            )
        return kinds[0]

    def _separator(self, key: str, settings: Mapping[str, Any]) -> str:
        value = self.data.get(key, settings.get(key, "/"))
        if not isinstance(value, str) or len(value) != 1:
            raise self.expect(key, "one character, such as '.'", value)
        return value

    def _drop(self) -> bool:
        if "drop" in self.data and self.data["drop"] is not True:
            raise self.expect("drop", "true", self.data["drop"])
        return "drop" in self.data

    def _slice(self, value: object) -> Index:
        try:
            return as_index(value)
        except ValueError as error:
            raise self.error(str(error)) from None

    def _transpose(self) -> tuple[int, ...] | None:
        value = self.data.get("transpose", True)
        if value is True:
            return None
        axes = is_ints(value) and sorted(value) == list(range(len(value)))
        if not axes:
            raise self.expect("transpose", "true, or each axis once, such as [1, 0]", value)
        return tuple(value)

    def _along(self, keys: Sequence[str]) -> tuple[str | None, Along]:
        given = [key for key in keys if key in self.data]
        if not given:
            return None, Along(0)
        if len(given) > 1:
            raise self.error(
                f"{' and '.join(map(repr, given))} cannot both be in one rule; write two"
            )
        key = given[0]
        value = self.data[key]
        if not isinstance(value, Mapping):
            value = {"axis": value}
        allowed = ("axis", "start") if key.endswith("stack") else ("axis", "start", "sizes")
        check_keys(self, value, allowed)
        axis, start, sizes = value.get("axis"), value.get("start", 0), value.get("sizes")
        example = '0, or {"axis": 0, "start": 1}'
        if not is_ints([axis]):
            raise self.expect(key, f"an axis, such as {example}", self.data[key])
        if not is_ints([start]) or start < 0:
            raise self.expect("start", "the number of the first part, such as 1", start)
        if sizes not in (None, "equal") and not (is_ints(sizes) and sizes and min(sizes) >= 0):
            raise self.expect("sizes", '"equal" or a list such as [64, 64]', sizes)
        return key, Along(axis, tuple(sizes) if isinstance(sizes, list | tuple) else sizes, start)

    def _check_combination(self) -> None:
        others: tuple[str, ...]
        if self.kind in ("names", "function"):
            beside, others = self.kind, (*_ON_TENSORS, "to", "drop")
        elif self.drop:
            beside, others = "drop", (*_ON_TENSORS, "to")
        elif self.join is not None:
            beside, others = self.join, _DIVISIONS
        else:
            return
        wrong = [key for key in others if key in self.data]
        if wrong:
            raise self.error(f"{wrong[0]!r} cannot stand beside {beside!r}; write a rule for each")

    def _to(self) -> tuple[tuple[str, ...], tuple[Index, ...] | None]:
        if self.drop or self.kind in ("names", "function"):
            return (), None
        if "to" not in self.data:
            raise self.error(
                "'to' is missing: the name to write, or 'drop': true to leave it out; write one"
            )
        to = self.data["to"]
        if isinstance(to, Mapping) and to and all(isinstance(name, str) for name in to):
            if self.division or self.join:
                raise self.error(
                    f"slices in 'to' cannot stand beside {self.division or self.join!r}; write "
                    "one of them"
                )
            return tuple(to), tuple(self._slice(value) for value in to.values())
        return self._texts("to", to, 'a name, a list of names or a dict {name: "slice"}'), None

    def _texts(self, key: str, value: object, expected: str) -> tuple[str, ...]:
        texts = value if isinstance(value, list | tuple) else [value]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise self.expect(key, expected, value)
        return tuple(texts)

    # --- what takes names, and what writes them
    def _alternatives(self) -> Iterator[Alternative]:
        sources = self._sources()
        if self.kind == "names":
            yield Alternative(Table(self._table()), sources[0], (Given(),))
        elif self.kind == "function":
            if not callable(self.data["function"]):
                raise self.expect("function", "a function", self.data["function"])
            yield Alternative(Called(self.data["function"]), sources[0], (Given(),))
        else:
            texts = self._texts(self.kind, self.data[self.kind], "a text, or a list of texts")
            spelling = patterns.respelling(self.separator, self.to_separator)
            for text in texts:
                for source in sources:
                    yield self._alternative(text, source, spelling)

    def _sources(self) -> list[int | str | None]:
        value = self.data.get("source")
        values: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
        for each in values:
            good = isinstance(each, str) or (is_ints([each]) and each >= 0)
            if not good and not (each is None and "source" not in self.data):
                raise self.expect("source", "the number or the name of a file", value)
        if len(values) != 1 and not (values and self.join):
            raise self.error("a list of sources is for 'stack' and 'concatenate'; write one source")
        return values

    def _table(self) -> dict[str, str | None]:
        table = self.data["names"]
        if not isinstance(table, Mapping):
            raise self.expect("names", "a dict {read name: written name}", table)
        for read, written in table.items():
            if not isinstance(read, str) or not isinstance(written, str | None):
                raise self.error(
                    f"{shown(read)}: {shown(written)} must be a name that is read, and the name "
                    "that is written, or none to leave it out; write both as text"
                )
        return dict(table)

    def _alternative(self, text: str, source: int | str | None, spelling: Spelling) -> Alternative:
        if self.kind == "name":
            targets = tuple(patterns.literal(to) for to in self.to)
            return Alternative(Table({text: None if self.drop else ""}), source, targets)
        if self.kind == "prefix":
            targets = tuple(patterns.prefixed(to) for to in self.to)
            return Alternative(Prefix(text, spelling), source, targets)
        if self.kind == "glob":
            return self._glob(text, source, spelling)
        expression = Expression(text, spelling)
        linked = [patterns.reference_template(to, expression.regex) for to in self.to]
        number = None
        if self.joins_numbers:
            missing = set(range(expression.regex.groups)).difference(*(used for _, used in linked))
            self._one_number([f"group {group + 1}" for group in sorted(missing)])
            number = sorted(missing)[0]
        return Alternative(expression, source, tuple(template for template, _ in linked), number)

    @property
    def joins_numbers(self) -> bool:
        """Whether the tensors that are joined are told apart by a number in their names."""
        several = isinstance(self.data[self.kind], list | tuple) and len(self.data[self.kind]) > 1
        return self.join is not None and not several and len(self._sources()) == 1

    @property
    def divides_by_numbers(self) -> bool:
        """Whether the parts of a tensor are written under one name with a number in it."""
        return self.division is not None and len(self.to) == 1

    def _glob(self, text: str, source: int | str | None, spelling: Spelling) -> Alternative:
        glob = patterns.parse_glob(text, self.separator)
        expression = Expression(patterns.glob_expression(glob, self.separator), spelling)
        read = patterns.wildcards(glob)
        places = {wild.name: place for place, wild in enumerate(read) if wild.name is not None}
        unnamed = [place for place, wild in enumerate(read) if wild.name is None]
        number: int | None = None
        targets = []
        for to in self.to:
            components = patterns.parse_glob(to, self.to_separator)
            written = patterns.wildcards(components)
            only_read, only_written = _differences(read, written)
            if self.joins_numbers:
                self._one_number([str(read[place]) for place in only_read])
                number = only_read[0]
                only_read = []
            order = [place for place in unnamed if place != number]
            if self.divides_by_numbers:
                self._one_number([str(wild) for wild in only_written])
                places = {**places, **{wild.name: len(read) for wild in only_written if wild.name}}
                order += [len(read)] * (only_written[0].name is None)
                only_written = []
            if only_read or only_written:
                raise self._unlike(text, read, to, written)
            targets.append(patterns.glob_template(components, self.to_separator, places, order))
        return Alternative(expression, source, tuple(targets), number)

    def _one_number(self, candidates: Sequence[str]) -> None:
        if len(candidates) == 1:
            return
        verb = self.join or self.division
        there = "'to'" if self.join else f"{self.kind!r}"
        here = f"{self.kind!r}" if self.join else "'to'"
        raise self.error(
            f"{verb!r} needs one wildcard that numbers the tensors: one in {here} that is not in "
            f"{there}; there are {len(candidates)}{': ' if candidates else ''}"
            f"{', '.join(candidates)} (or a list of names); write one"
        )

    def _unlike(
        self, text: str, read: Sequence[Wild], to: str, written: Sequence[Wild]
    ) -> NameMapError:
        def listed(wilds: Sequence[Wild]) -> str:
            return " ".join(map(str, wilds)) or "none"

        return self.error(
            f"{text!r} has the wildcards {listed(read)}, and {to!r} has {listed(written)}: they "
            "must be the same, unnamed ones in the same order (to write them in another order, or "
            "to leave one out on purpose with 'stack', name them, as in layers_{i})"
        )

    def _check_parts(self) -> None:
        if self.join is not None:
            if len(self.to) != 1:
                raise self.error(f"{self.join!r} makes one tensor: write one name in 'to'")
            if self.kind in ("name", "prefix") and len(self.alternatives) == 1:
                raise self.error(f"{self.join!r} needs several tensors: write a list of names")
        elif len(self.alternatives) > 1 and not self.drop:
            raise self.error(
                f"a list in {self.kind!r} makes one tensor of many: add 'stack' or 'concatenate', "
                "or write a rule for each"
            )
        if self.divides_by_numbers:
            if self.kind != "glob":
                raise self.error(
                    f"{self.division!r} makes several tensors: write a list of names in 'to', or a "
                    "glob whose 'to' has a wildcard more"
                )
            if self.division == "split" and not isinstance(self.divided.sizes, tuple):
                raise self.error("how many parts? write 'split': {'axis': 0, 'sizes': [64, 64]}")
        for along, count in ((self.joined, self._parts_joined()), (self.divided, len(self.to))):
            if isinstance(along.sizes, tuple) and count > 1 and len(along.sizes) != count:
                raise self.error(
                    f"there are {len(along.sizes)} sizes for {count} parts; write one for each"
                )
            if along.start and count > 1:
                raise self.error(
                    "'start' is for parts that are numbered, and these are listed; leave it out"
                )

    def _parts_joined(self) -> int:
        return 0 if not self.join or self.joins_numbers else len(self.alternatives)

    # --- following it
    def parts(self, view: View, alternative: Alternative, fields: Fields) -> list[tuple[str, View]]:
        """What becomes of a tensor: parts of it, and the names under which they are written."""
        if self.slice is not None:
            view = view.sliced(self.slice)
        divided = self._divided(view, len(alternative.targets))
        written = []
        for number, part in enumerate(divided):
            if self.divides_by_numbers:
                target = alternative.targets[0]
                extra: Fields = (str(number + self.divided.start),)
            else:
                target, extra = alternative.targets[number], ()
            if "transpose" in self.data:
                part = part.transposed(self.transpose)
            name = target.write(fields + extra)
            assert name is not None  # dicts and functions have no parts
            written.append((name, part))
        return written

    def _divided(self, view: View, targets: int) -> list[View]:
        if self.slices is not None:
            return [view.sliced(index) for index in self.slices]
        if self.division is None:
            return [view] * targets
        axis = view.axis(self.divided.axis)
        whole = view.shape[axis]
        if self.division == "unstack":
            if whole == 0:
                raise view.misfit(f"axis {axis} has nothing to unstack")
            if whole > MOST_PARTS:  # of no bytes, a file may claim any number
                raise view.misfit(f"axis {axis} would be {whole:,} tensors, beyond {MOST_PARTS:,}")
            if not self.divides_by_numbers and whole != targets:
                raise view.misfit(f"axis {axis} cannot be unstacked into {targets} tensors")
            return [view.part(axis, number) for number in range(whole)]
        sizes = self.divided.sizes
        if not isinstance(sizes, tuple):
            if whole % targets:
                raise view.misfit(f"axis {axis} cannot be split into {targets} equal parts")
            sizes = (whole // targets,) * targets
        if sum(sizes) != whole:
            raise view.misfit(f"axis {axis} is not the sum of the sizes {list(sizes)}")
        ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
        return [
            view.part(axis, slice(end - size, end)) for size, end in zip(sizes, ends, strict=True)
        ]

    def part_number(self, alternative: Alternative, fields: Fields, name: str) -> int:
        """Which part a tensor is of those that are joined, from 0."""
        if alternative.number is None:
            return alternative.place
        text = fields[alternative.number]
        if _NUMBER.fullmatch(text) is None:
            raise self.error(
                f"{name!r}: {text!r} numbers the parts, and is no number; write a pattern that "
                "takes numbers only"
            )
        if int(text) < self.joined.start:
            raise self.error(
                f"{name!r}: the parts start at {self.joined.start}; write a smaller 'start'"
            )
        return int(text) - self.joined.start

    def ordered(self, written: str, parts: Mapping[int, View]) -> list[View]:
        """The parts in their order; NameMapError where one is missing or has another size."""
        count = self._parts_joined() or max(parts) + 1
        missing = next((number for number in range(count) if number not in parts), None)
        if missing is not None:
            raise self.error(
                f"{written!r} is made of {len(parts):,} tensors, such as "
                f"{parts[max(parts)].name!r}, and {self._missing_part(missing)}; give all of them"
            )
        views = [parts[number] for number in range(count)]
        self._check_sizes(written, views)
        return views

    def _missing_part(self, number: int) -> str:
        if self.joins_numbers:
            hint = f' (to count from 1, write {{"axis": {self.joined.axis}, "start": 1}})'
            number += self.joined.start
            return f"number {number} is missing{'' if number else hint}"
        source = self.alternatives[number].source
        texts = self._texts(self.kind, self.data[self.kind], "")
        of = "" if source is None else f" of source {source!r}"
        return f"{texts[number // len(self._sources())]!r}{of} is missing"

    def _check_sizes(self, written: str, views: Sequence[View]) -> None:
        sizes = self.joined.sizes
        if sizes is None:
            return
        found = [view.shape[view.axis(self.joined.axis)] for view in views]
        if sizes == "equal":
            sizes = (found[0],) * len(found)
        if tuple(found) != tuple(sizes):
            raise self.error(
                f"{written!r}: the sizes on axis {self.joined.axis} are {shown(found)}, and not "
                f"{shown(list(sizes))}: {', '.join(f'{v.name!r} {v.shape}' for v in views[:8])}; "
                "write the sizes that they have"
            )

    def samples(self) -> Iterator[str]:
        """Some of the names that the rule writes: all, where they are listed."""
        for each in self.alternatives:
            if self.kind == "names" and isinstance(each.pattern, Table):
                yield from filter(None, each.pattern.names.values())
                continue
            for text in ("0", "x", "w/0"):
                names = (target.write((text,) * 100) for target in each.targets)
                yield from filter(None, names)

    def _how(self) -> str:
        """What the rule does to tensors, in words."""
        words = []
        if self.slice is not None:
            words.append(f"sliced {shown_index(self.slice)}")
        if self.slices is not None:
            words.append("cut in slices")
        if self.division is not None:
            words.append(f"{self.division} on axis {self.divided.axis}")
        if "transpose" in self.data:
            axes = "" if self.transpose is None else f" {list(self.transpose)}"
            words.append(f"transposed{axes}")
        if self.join is not None:
            verb = "stacked" if self.join == "stack" else "concatenated"
            words.append(f"{verb} on axis {self.joined.axis}")
        return ", ".join(words)


_EXAMPLE = '{"prefix": "model.", "to": "encoder/"}'


def _differences(read: Sequence[Wild], written: Sequence[Wild]) -> tuple[list[int], list[Wild]]:
    """The places of the wildcards that are only read, and the wildcards that are only written.

    Unnamed ones are compared as a whole: they are filled in order, so all of them fit or none.
    """
    named = {wild.name for wild in read} & {wild.name for wild in written} - {None}
    mine = [place for place, wild in enumerate(read) if wild.name is None]
    theirs = [wild for wild in written if wild.name is None]
    if [read[place].kind for place in mine] == [wild.kind for wild in theirs]:
        mine, theirs = [], []
    mine += [place for place, wild in enumerate(read) if wild.name not in {None, *named}]
    theirs += [wild for wild in written if wild.name not in {None, *named}]
    return sorted(mine), theirs


def check_keys(rule: Rule, data: Mapping[Any, Any], allowed: Sequence[str]) -> None:
    for key in data:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(allowed)}"
            raise rule.error(
                f"the key {key!r:.80} is unknown; {meant}; write one of the known keys"
            )


def is_ints(values: object) -> bool:
    return isinstance(values, list | tuple) and all(type(value) is int for value in values)


def kind_of(value: object) -> str:
    return f"{type(value).__name__} {shown(value)}"
