"""`NameMap`: rules that turn the names of what is read into the names of what is written.

A map is data: a list of rules, the same in Python, JSON and YAML.  A *plan* is what a map makes of
the names of some sources; it knows names, shapes and dtypes, and has read no value.
"""

from __future__ import annotations

import importlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varscope.errors import ArgumentTypeError, NameMapError
from varscope.name_maps import inverses, reports
from varscope.name_maps.patterns import Fields, Given, Table
from varscope.name_maps.rules import Alternative, Rule, kind_of, shown
from varscope.name_maps.views import Changed, Joined, Recipe, Renamed, View

if TYPE_CHECKING:
    from varscope.name_maps.reports import Report

_SETTINGS = ("rules", "separator", "to_separator")

Found = tuple[Rule, Alternative, Fields]


class NameMap:
    """Ordered rules for names; the first rule that matches a name takes it.

    A name that no rule matches is not used.  docs/name-maps.md lists what a rule can say.

    Parameters
    ----------
    rules : list of dict
        Each has one of `prefix`, `glob`, `regex`, `name` and `names`, and `to` or `drop`.
    separator, to_separator : str, optional
        One character between the components of the names that are read, and of those that are
        written; "/" where nothing else is said.

    Raises
    ------
    NameMapError : ValueError
        A rule that cannot be; `rule` is its number, from 1.

    >>> import numpy as np
    >>> m = NameMap([{"glob": "layer.*.w", "to": "layers_*/kernel", "transpose": True}],
    ...             separator=".")
    >>> plan = m.plan([{"layer.0.w": np.zeros((2, 3)), "step": np.array(7)}])
    >>> plan.recipes["layers_0/kernel"].shape, plan.unused
    ((3, 2), [(0, 'step')])
    """

    def __init__(
        self, rules: Sequence[Any], *, separator: str = "/", to_separator: str = "/"
    ) -> None:
        if not isinstance(rules, list | tuple):
            raise NameMapError(
                f"the rules of a map are a list of dicts, not {kind_of(rules)}; write such a list"
            )
        self._settings = {"separator": separator, "to_separator": to_separator}
        for key, value in self._settings.items():
            if not isinstance(value, str) or len(value) != 1:
                raise NameMapError(
                    f"{key!r} must be one character, such as '.', not {value!r:.80}; write one"
                )
        self._rules = [Rule(number, rule, self._settings) for number, rule in enumerate(rules, 1)]
        self._forward: tuple[NameMap, list[int]] | None = None  # of an inverse: see inverse()

    @classmethod
    def of(cls, names: Any) -> NameMap | None:
        """The map that is meant by whatever stands for one.

        Parameters
        ----------
        names : NameMap, list, dict, callable, path or None
            A list of rules, or a dict `{"rules": [...], "separator": "."}`; a dict
            `{read name: written name}`, None in place of a name to leave a tensor out; a function
            from a name to a name or None; the path of a file `.json`, `.yaml` or `.yml` that holds
            a list or dict; None for no map.

        Raises
        ------
        NameMapError : ValueError
            None of these, or a file that cannot be understood.

        >>> plan = NameMap.of({"a": "b"}).plan([{"a": 1, "c": 2}])
        >>> plan.renames, plan.unused
        ({'b': 'a'}, [(0, 'c')])
        """
        if names is None or isinstance(names, NameMap):
            return names
        if isinstance(names, str | os.PathLike):
            return cls._of_file(Path(names))
        if isinstance(names, Mapping):
            if isinstance(names.get("rules"), list | tuple):
                return cls._of_settings(names)
            return cls([{"names": names}])
        if isinstance(names, list | tuple):
            return cls(names)
        if callable(names):
            return cls([{"function": names}])
        raise NameMapError(
            "a name map is a list of rules, a dict {read name: written name}, a function, or the "
            f"path of a file .json or .yaml, not {kind_of(names)}; give one of these"
        )

    @classmethod
    def _of_settings(cls, data: Mapping[str, Any]) -> NameMap:
        for key in data:
            if key not in _SETTINGS:
                raise NameMapError(
                    f"the key {key!r:.80} is unknown beside 'rules'; known are "
                    f"{', '.join(map(repr, _SETTINGS))}; write one of these"
                )
        return cls(
            data["rules"],
            separator=data.get("separator", "/"),
            to_separator=data.get("to_separator", "/"),
        )

    @classmethod
    def _of_file(cls, path: Path) -> NameMap:
        data = _loaded(path)
        if not isinstance(data, list | dict):
            raise NameMapError(
                f"{path}: a file holds a list of rules, {{'rules': [...]}}, or a dict "
                f"{{read name: written name}}, not {kind_of(data)}; write one of these"
            )
        try:
            found = cls.of(data)
        except NameMapError as error:
            raise NameMapError.stating(f"{path}: {error}", **vars(error)) from None
        assert found is not None
        return found

    @property
    def data(self) -> dict[str, Any]:
        """The map as data, which `NameMap.of` takes: `{"rules": [...], "separator": "."}`."""
        settings = {key: value for key, value in self._settings.items() if value != "/"}
        return {**settings, "rules": [dict(rule.data) for rule in self._rules]}

    def plan(self, sources: Sequence[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]]) -> Plan:
        """What the map makes of the tensors of some sources; no value is read.

        Parameters
        ----------
        sources : list of mappings, or dict from label to mapping
            A source maps a name to anything with `shape`, `dtype` and `[index]`: a checkpoint, a
            dict of arrays.  A rule's `source` is the number of one, its label or, for one without
            a label, the name or path of its file.

        Raises
        ------
        NameMapError : ValueError
            Two results of one name; a part that is missing; shapes or dtypes that do not fit.
        """
        labels: list[str | None] = [None] * len(sources)
        if isinstance(sources, Mapping):
            labels, sources = list(sources), list(sources.values())
        for source in sources:
            if not isinstance(source, Mapping) and not hasattr(source, "keys"):
                raise ArgumentTypeError.of(
                    "each source of a plan", "a checkpoint, or a dict from names to arrays", source
                )
        return _Planner(self, list(sources), labels).plan()

    def inverse(self) -> NameMap:
        """The map the other way.

        What the rules with `drop` leave out does not come back.  Where several rules can have
        written a name, it is taken to be of the first of them.

        Raises
        ------
        NameMapError : ValueError
            A rule has no way back; the message says why.

        >>> NameMap([{"glob": "layers.{i}.w", "to": "w", "stack": 0}]).inverse().data
        {'rules': [{'glob': 'w', 'to': 'layers.{i}.w', 'unstack': 0}]}
        """
        if self._forward is not None:
            return self._forward[0]
        kept = [rule for rule in self._rules if not rule.drop]
        back = NameMap(
            [inverses.inverse(rule) for rule in kept],
            separator=self._settings["to_separator"],
            to_separator=self._settings["separator"],
        )
        back._forward = self, [rule.number for rule in kept]
        _check_reached(back, kept)
        return back

    def __eq__(self, other: object) -> bool:
        return self.data == other.data if isinstance(other, NameMap) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<NameMap of {len(self._rules):,} rules: {shown([r.data for r in self._rules])}>"


class Plan:
    """What a map makes of some sources: what is written, and of what.

    `recipes` maps each written name to a `Recipe`, in the order of what is read.  `unused` lists
    the (number of the source, name) that no rule matched, and `dropped` those that are left out
    on purpose.
    """

    def __init__(self, sources: Sequence[Mapping[str, Any]]) -> None:
        self._sources = sources
        self._entries: dict[str, str | Recipe] = {}
        self.recipes: Mapping[str, Recipe] = Recipes(self._entries, sources)
        self.unused: list[tuple[int, str]] = []
        self.dropped: list[tuple[int, str]] = []

    @property
    def renames(self) -> dict[str, str] | None:
        """From written to read names, where there is one source and all recipes are plain.

        Else None.  With half a million names it saves as many recipes.
        """
        if len(self._sources) != 1:
            return None
        renames = {}
        for written, entry in self._entries.items():
            if not isinstance(entry, str):
                return None
            renames[written] = entry
        return renames

    @property
    def number_of_sources(self) -> int:
        """How many sources the plan is of."""
        return len(self._sources)

    def entries(self) -> Iterator[tuple[str, tuple[tuple[int, str], ...], str]]:
        """For each written name what is read, and what is done to it in words.

        The same as `sources` and `how` of the recipes, without making half a million of them.
        """
        for written, entry in self._entries.items():
            if isinstance(entry, str):
                yield written, ((0, entry),), ""
            else:
                yield written, entry.sources, entry.how

    def report(self, graph_names: Iterable[str] | None = None) -> Report:
        """What would be read and written, folded; `str()` of it is a text for people.

        Parameters
        ----------
        graph_names : iterable of str, optional
            The names that are wanted, a graph say: the report then says what is missing, and what
            is left over.

        >>> m = NameMap([{"prefix": "model/", "to": ""}])
        >>> print(m.plan([{"model/w": 1, "model/v": 2, "lr": 3}]).report(["w", "b"]))
        model/w -> w
        model/v -> v
        2 tensors read, 2 written
        1 that no rule matches:
            lr
        1 missing:
            b
        1 left over:
            v
        """
        return reports.report(self, graph_names)

    def __repr__(self) -> str:
        return (
            f"<Plan: {len(self._entries):,} written, {len(self.unused):,} not used, "
            f"{len(self.dropped):,} left out>"
        )


class Recipes(Mapping[str, Recipe]):
    """The recipes of a plan by written name; plain ones are made when they are asked for."""

    def __init__(
        self, entries: dict[str, str | Recipe], sources: Sequence[Mapping[str, Any]]
    ) -> None:
        # An entry is a recipe, or only the name in the first source for a plain one.
        self._entries, self._sources = entries, sources

    def __getitem__(self, name: str) -> Recipe:
        entry = self._entries[name]
        return Renamed(0, self._sources[0], entry) if isinstance(entry, str) else entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<recipes of {len(self):,} tensors>"


# --- planning


class _Planner:
    """One run of a map over the names of its sources."""

    def __init__(
        self,
        names: NameMap,
        sources: Sequence[Mapping[str, Any]],
        labels: Sequence[str | None],
    ) -> None:
        self._map, self._sources, self._labels = names, sources, labels
        self._plan = Plan(sources)
        self._entries = self._plan._entries
        # What is joined: the parts found so far, by written name.
        self._joins: dict[str, tuple[Rule, dict[int, View]]] = {}

    def plan(self) -> Plan:
        for place, source in enumerate(self._sources):
            self._read(place, source, self._finder(place))
        for written, (rule, parts) in self._joins.items():
            self._join(written, rule, parts)
        return self._plan

    def _finder(self, place: int) -> Callable[[str], Found | None]:
        """What finds the rule for a name of the source."""
        if self._map._forward is not None:
            return _Backwards(self._map, *self._map._forward).find
        return _Finder(self._map._rules, self._source_numbers(), place).find

    def _source_numbers(self) -> dict[int | str, int]:
        """From what rules call sources to their numbers; NameMapError for one that is not there."""
        numbers: dict[int | str, int] = {}
        places = range(len(self._sources))
        for rule in self._map._rules:
            for label in {each.source for each in rule.alternatives} - {None, *numbers}:
                assert label is not None
                found = [place for place in places if label in self._called(place)]
                if len(found) != 1:
                    there = ", ".join(map(self._shown, places)) or "none"
                    raise rule.error(
                        f"source {label!r} must be one of those that are read, and is "
                        f"{len(found)}: {there}; write the number or name of one"
                    )
                numbers[label] = found[0]
        return numbers

    def _called(self, place: int) -> tuple[int | str | None, ...]:
        """What a rule may call a source."""
        path = getattr(self._sources[place], "path", None)
        if self._labels[place] is not None or path is None:
            return (place, self._labels[place])
        return (place, str(path), Path(path).name)

    def _shown(self, place: int) -> str:
        path = getattr(self._sources[place], "path", None)
        label = self._labels[place] or path
        return f"source {place}" if label is None else f"source {place} ({label})"

    def _read(
        self, place: int, source: Mapping[str, Any], find: Callable[[str], Found | None]
    ) -> None:
        entries = self._entries
        for name in source:
            found = find(name)
            if found is None:
                self._plan.unused.append((place, name))
                continue
            rule, alternative, fields = found
            if rule.drop or (type(alternative.targets[0]) is Given and fields[0] is None):
                self._plan.dropped.append((place, name))
            elif rule.plain:
                entry = name if place == 0 else Renamed(place, source, name)
                for target in alternative.targets:
                    written = target.write(fields)
                    if not isinstance(written, str) or not written or written in entries:
                        raise self._refused(rule, written, place, name)
                    entries[written] = entry
            else:
                self._change(found, place, name, source[name])

    def _change(self, found: Found, place: int, name: str, tensor: Any) -> None:
        """Enter what a rule makes of a tensor that it changes."""
        rule, alternative, fields = found
        try:
            parts = rule.parts(View.of(place, name, tensor), alternative, fields)
        except NameMapError as error:
            raise _of_rule(rule, error) from None
        for written, part in parts:
            if rule.join is not None:
                number = rule.part_number(alternative, fields, name)
                self._enter_part(rule, number, written, part)
            elif not written or written in self._entries:
                raise self._refused(rule, written, place, name)
            else:
                self._entries[written] = Changed(part, rule.how)

    def _enter_part(self, rule: Rule, number: int, written: str, part: View) -> None:
        found, parts = self._joins.get(written, (None, None))
        if found is None and written and written not in self._entries:
            self._entries[written] = part.name  # keeps the place in the order
            self._joins[written] = rule, {number: part}
        elif found is rule and parts is not None and number not in parts:
            parts[number] = part
        else:
            raise self._refused(rule, written, part.source, part.name)

    def _join(self, written: str, rule: Rule, parts: dict[int, View]) -> None:
        try:
            views = rule.ordered(written, parts)
            stacked = rule.join == "stack"
            self._entries[written] = Joined(views, rule.joined.axis, stacked, rule.how)
        except NameMapError as error:
            raise _of_rule(rule, error) from None

    def _refused(self, rule: Rule, written: object, place: int, name: str) -> NameMapError:
        """The error for a name that cannot be written, or is written already."""
        this = f"{name!r} of {self._shown(place)}"
        if not isinstance(written, str) or not written:
            function = ", and a function returns one, or None to leave it out; return one of these"
            raise rule.error(
                f"{this} would be written as {written!r:.80}; a name is a text that is not empty"
                f"{function if rule.kind == 'function' else '; write one'}"
            )
        number, other = self._plan.recipes[written].sources[0]
        if written in self._joins:
            parts = self._joins[written][1].values()
            same = [part for part in parts if part.name == name] or list(parts)
            number, other = same[0].source, same[0].name
        return rule.error(
            f"two tensors would be written as {written!r}: {other!r} of "
            f"{self._shown(number)} and {this}; write a rule that tells them apart"
        )


def _of_rule(rule: Rule, error: NameMapError) -> NameMapError:
    return error if "rule" in vars(error) else rule.error(str(error))


class _Finder:
    """Finds the first rule for a name of one source: whole names in a dict, the others in turn."""

    def __init__(self, rules: Sequence[Rule], numbers: Mapping[int | str, int], place: int) -> None:
        self._exact: dict[str, Found] = {}
        self._patterns: list[tuple[int, Callable[[str], Fields | None], Rule, Alternative]] = []
        for rule in rules:
            for each in rule.alternatives:
                if each.source is not None and numbers[each.source] != place:
                    continue
                if isinstance(each.pattern, Table):
                    for name, written in each.pattern.names.items():
                        self._exact.setdefault(name, (rule, each, (written,)))
                else:
                    self._patterns.append((rule.number, each.pattern.fields, rule, each))

    def find(self, name: str) -> Found | None:
        exact = self._exact.get(name)
        for number, fields_of, rule, alternative in self._patterns:
            if exact is not None and exact[0].number <= number:
                break
            fields = fields_of(name)
            if fields is not None:
                return rule, alternative, fields
        return exact


class _Backwards:
    """Finds the rule of an inverse map for a name: the first one that leads to where it came from.

    What the inverse makes of the name must be what the map itself turns into this name, by the
    same rule.
    """

    def __init__(self, back: NameMap, forward: NameMap, numbers: Sequence[int]) -> None:
        self._find = _Finder(forward._rules, {}, 0).find
        self._numbers = numbers
        self._exact: dict[str, list[Found]] = {}
        self._patterns = []
        for rule in back._rules:
            for each in rule.alternatives:
                if isinstance(each.pattern, Table):
                    for name, read in each.pattern.names.items():
                        self._exact.setdefault(name, []).append((rule, each, (read,)))
                else:
                    self._patterns.append((rule, each))

    def find(self, name: str) -> Found | None:
        found: Found | None = None
        read: str | None = None
        for rule, alternative, fields in self._fitting(name):
            if found is not None and rule is not found[0]:
                break
            origin = self._origin(rule, alternative, fields, name)
            if origin is not None and found is not None:
                raise rule.error(
                    f"{name!r} may have come from {read!r} or from {origin!r}: a rule that can "
                    "write one name in two ways has no way back; write two rules"
                )
            if origin is not None:
                found, read = (rule, alternative, fields), origin
        return found

    def rules(self, name: str) -> list[Rule]:
        """All rules that may have written a name."""
        return [found[0] for found in self._fitting(name) if self._origin(*found, name) is not None]

    def _fitting(self, name: str) -> list[Found]:
        """The rules whose patterns match, in their order."""
        fitting = [*self._exact.get(name, ())]
        for rule, alternative in self._patterns:
            fields = alternative.pattern.fields(name)
            if fields is not None:
                fitting.append((rule, alternative, fields))
        return sorted(fitting, key=lambda found: found[0].number) if len(fitting) > 1 else fitting

    def _origin(
        self, rule: Rule, alternative: Alternative, fields: Fields, name: str
    ) -> str | None:
        """The name from which the map makes this name by the rule; None if it makes another."""
        extra: Fields = (str(rule.divided.start),) if rule.divides_by_numbers else ()
        read = alternative.targets[0].write(fields + extra)
        found = self._find(read) if read is not None else None
        if found is None or found[0].number != self._numbers[rule.number - 1]:
            return None
        number = () if alternative.number is None else (fields[alternative.number],)
        _, forward, taken = found
        return read if name in [each.write(taken + number) for each in forward.targets] else None


def _check_reached(back: NameMap, kept: Sequence[Rule]) -> None:
    """Refuse an inverse in which an earlier rule takes whatever a rule has written."""
    assert back._forward is not None
    backwards = _Backwards(back, *back._forward)
    for rule, turned in zip(kept, back._rules, strict=True):
        taken = []
        for name in rule.samples():
            rules = backwards.rules(name)
            if rules and rules[0] is turned:
                break
            if turned in rules:
                taken.append((name, kept[rules[0].number - 1]))
        else:
            if taken:
                name, other = taken[0]
                raise rule.error(
                    f"it cannot be turned round: names such as {name!r} are taken back by rule "
                    f"{other.number}, which can write them too; write patterns that do not meet"
                )


# --- files


def _loaded(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix not in (".json", ".yaml", ".yml"):
        raise NameMapError(
            f"{path}: the name of a file of rules ends in .json, .yaml or .yml; rename it"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise NameMapError(f"{path}: the file is not UTF-8: {error}; write it in UTF-8") from None
    try:
        return _loaded_json(text) if suffix == ".json" else _loaded_yaml(text, path)
    except RecursionError:
        raise NameMapError(
            f"{path}: the data is nested too deeply; write a list of rules"
        ) from None
    except ValueError as error:
        raise NameMapError(f"{path}: {error}; correct the file") from None


def _loaded_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        loaded = dict(pairs)
        if len(loaded) != len(pairs):
            [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
            raise ValueError(f"the key {twice!r:.80} occurs twice in one object")
        return loaded

    return json.loads(text, object_pairs_hook=unique)


def _loaded_yaml(text: str, path: Path) -> Any:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError as error:
        raise ImportError(
            f'{path}: YAML needs PyYAML; install it, with pip install "varscope-core[yaml]"'
        ) from error

    def construct_mapping(self: Any, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):  # others are refused below
                if key.value in seen:
                    raise ValueError(f"the key {key.value!r:.80} occurs twice{key.start_mark}")
                seen.add(key.value)
        return yaml.SafeLoader.construct_mapping(self, node, deep)

    # Of a key that occurs twice, the loader itself would keep the last.
    strict = type("Strict", (yaml.SafeLoader,), {"construct_mapping": construct_mapping})
    try:
        return yaml.load(text, strict)
    except yaml.YAMLError as error:
        raise ValueError(f"this is no YAML: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        # What a tag does not fit, `!!bool 7` say, ends in whatever the loader stumbles over.
        reason = f"{type(error).__name__}: {error!s:.80}"
        raise ValueError(f"a value is not of the kind that its tag says ({reason})") from None
