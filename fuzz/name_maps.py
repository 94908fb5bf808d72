"""What any bytes make of name maps, of patterns for `Graph.find` and of names, and what must hold.

The first byte of an input says what it is.  Texts are read as they stand; for all else each byte is
a choice: see Choices.  Whatever comes,

- a map is refused with a NameMapError, as data and from a file, and so is a plan that cannot be;
- a map has an inverse or says why not, and what is written by both is what was there;
- a plan gives tensors of the shapes and dtypes that it says, and its report all names;
- `find` gives the variables that a regex for the pattern fits, in the order of creation;
- names that are folded come back, each once.
"""

import atexit
import contextlib
import itertools
import json
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from brute_force import check_find, check_law

import varscope as vs
from varscope.errors import InvalidNameError, NameMapError, VarscopeError
from varscope.folding import expand, fold
from varscope.name_maps.maps import _Backwards

WORDS = [
    '{"rules":', '"separator":".",', '"to_separator":', '"prefix":', '"glob":', '"regex":',
    '"name":', '"names":', '"to":', '"drop":true', '"source":', '"slice":"0:2"', '"split":',
    '"unstack":', '"stack":', '"concatenate":', '{"axis":0,"sizes":', '"equal"', '"start":1',
    '"transpose":[1,0]', "{i}", "**", r"(\\d+)", r"\\1", r"\\g<n>", "(?P<n>", "&a ", "*a", "<<: ",
    "!!int ", "!!float ", "!!timestamp ", "!!bool ", "!!binary ", "!!set ", "? ", "- ", "null",
]  # fmt: skip

# --- choices

COMPONENTS = ["a", "b", "0", "1", "w", "a_0", "a_1", "l_10", "part_0", "a.b", "ä"]
SHAPES = [(), (2,), (4,), (2, 4), (4, 2), (0,), (3, 0), (2, 2, 2)]
TOKENS = ["a", "b", "0", "*", "**", "?", "{i}", "{j}", "a_*", "{i}_*", "w", "a.b", "*_?", "?*", ""]
EXPRESSIONS = ["a", "/", r"(\d+)", "(.*)", "([^/]*)", r"\.", "(a|b)", "_", "([a-z.]+)", "(?:w|0)",
               "(?P<n>.)"]  # fmt: skip
REFERENCES = [r"\1", r"\2", "/", "x", "_", ".", r"\g<n>"]
PARTS = ["**", "*", "a", "b", "w", "a_0", "l_10", "a*", "*b", "?", "??", "?_1", "*_?", "a*1",
         "part_*", "*0", "", "ä", "*ä", ".", "a**"]  # fmt: skip
TEXT = "ab_.0129/*?-[]{},\\\0\x1bä\ud800\U0001f600"


class Choices:
    """A byte a choice; where they end, the first one of all there is."""

    def __init__(self, data):
        self.left = iter(data)

    def number(self, count):
        return next(self.left, 0) % count

    def of(self, options):
        return options[self.number(len(options))]

    def several(self, make, most, least=0):
        return [make() for _ in range(least + self.number(most + 1 - least))]

    def name(self):
        return "/".join(self.several(lambda: self.of(COMPONENTS), 4, 1))

    def text(self, most):
        return "".join(self.several(lambda: self.of(TEXT), most))

    def some(self, make):
        return make() if self.number(3) else self.several(make, 3, 1)

    def rule(self):
        kind = self.of(["prefix", "glob", "name", "regex", "names", "drop", "slices"])
        if kind == "names":
            return {"names": dict(self.several(lambda: (self.name(), self.name()), 3))}
        if kind == "drop":
            return {"glob": self.glob(), "drop": True}
        if kind == "slices":
            to = dict(self.several(lambda: (self.name(), self.of([":2", "2:", "..., 0", "1"])), 3))
            return {"name": self.name(), "to": to}
        takes = {
            "prefix": self.name,
            "glob": self.glob,
            "name": self.name,
            "regex": lambda: "".join(self.several(lambda: self.of(EXPRESSIONS), 5, 1)),
        }[kind]
        gives = {
            "prefix": self.name,
            "glob": self.glob,
            "name": self.name,
            "regex": lambda: "".join(self.several(lambda: self.of(REFERENCES), 5, 1)),
        }[kind]
        rule = {kind: self.some(takes), "to": self.some(gives)}
        if kind == "prefix" and self.number(2):
            rule["prefix"] = ""
        for key, value in self.several(self.change, 2):
            rule[key] = value
        return rule  # fmt: skip

    def glob(self):
        return "/".join(self.several(lambda: self.of(TOKENS), 3, 1))

    def pattern(self):
        return "/".join(self.several(lambda: self.of(PARTS), 6))

    def change(self):
        axis = self.of([0, 1, -1])
        sized = {"axis": axis, "sizes": self.of(["equal", [2, 2], [1, 3]])}
        return self.of([
            ("transpose", self.of([True, [1, 0], [0]])), ("stack", axis), ("unstack", axis),
            ("stack", {"axis": axis, "start": 1}), ("split", axis), ("split", sized),
            ("concatenate", sized), ("slice", self.of(["0:2", "[..., 0]", "1:", "0"])),
            ("separator", "."), ("to_separator", "."), ("source", 0),
        ])  # fmt: skip

    def source(self):
        names = self.several(lambda: (self.name(), self.of(SHAPES)), 8)
        return {name: tensor(shape, start) for start, (name, shape) in enumerate(names)}


def tensor(shape, start):
    return np.arange(start, start + np.prod(shape, dtype=int), dtype=np.int64).reshape(shape)


# --- maps


def map_of(names, **settings):
    """A map, or None where it is refused."""
    with contextlib.suppress(NameMapError):
        return vs.NameMap(names, **settings) if settings else vs.NameMap.of(names)


def check_map(m, source):
    assert m.data == vs.NameMap.of(m.data).data and repr(m)
    back = None
    with contextlib.suppress(NameMapError):
        back = m.inverse()
        assert back.inverse() is m
    try:
        plan = m.plan([source])
    except NameMapError as error:
        assert len(str(error)) < 4000
        return
    check_plan(plan, source)
    if back is not None and leads_back(plan, back):
        check_law(m, source)


def leads_back(plan, back):
    """Whether no written name may come from two rules: then the first one is taken for it."""
    backwards = _Backwards(back, *back._forward)
    try:
        back.plan([plan.recipes])
        return all(len(set(backwards.rules(name))) <= 1 for name in plan.recipes)
    except NameMapError:
        return False


def check_plan(plan, source):
    read = {name for recipe in plan.recipes.values() for _, name in recipe.sources}
    unused, dropped = ({name for _, name in some} for some in (plan.unused, plan.dropped))
    assert read | unused | dropped == set(source) and not read & (unused | dropped)
    for recipe in itertools.islice(plan.recipes.values(), 20):
        values = recipe.read()
        assert (values.shape, values.dtype) == (recipe.shape, recipe.dtype)
    report = plan.report(["a", "w", "b/w"])
    assert str(report) and report.count == len(plan.recipes) and report.tensors == len(read)
    assert expanded(report.unused) == Counter(unused)
    assert expanded(report.dropped) == Counter(dropped)
    assert expanded(names for row in report.rows for names in row.written) == Counter(
        list(plan.recipes)
    )
    assert set(expanded(names for row in report.rows for names in row.read)) == read
    assert expanded(report.left_over) == Counter(plan.recipes.keys() - {"a", "w", "b/w"})
    assert expanded(report.missing) == Counter({"a", "w", "b/w"} - plan.recipes.keys())


def expanded(patterns):
    names = Counter()
    for pattern in patterns:
        found = list(expand(pattern.pattern))
        assert len(found) == pattern.count
        names.update(found)
    return names


SOURCE = {
    "w": tensor((4, 6), 0),
    "step": tensor((), 7),
    **{f"h.{i}.w": tensor((2, 4), i) for i in range(3)},
    **{f"h/{i}/a/b_1": tensor((2, 4), 9 * i) for i in range(3)},
}


def map_of_rules(data):
    """Rules of which each one alone has an inverse, or any rules."""
    choices = Choices(data)
    settings = {key: choices.of("/.") for key in ("separator", "to_separator")}
    invertible, rules = choices.number(2), choices.several(choices.rule, 3, 1)
    if invertible:
        rules = [rule for rule in rules if has_inverse(rule, settings)]
    m = map_of(rules, **settings)
    if m is None:
        return
    check_map(m, choices.source())
    path = file_with(json.dumps(m.data).encode(), ".json")
    assert vs.NameMap.of(path) == vs.NameMap.of(json.loads(path.read_text()))


def has_inverse(rule, settings):
    with contextlib.suppress(NameMapError):
        return vs.NameMap([rule], **settings).inverse()


def map_in_json(data):
    m = map_of(file_with(data, ".json"))
    if m is not None:
        check_map(m, SOURCE)


def map_in_yaml(data):
    m = map_of(file_with(data, ".yaml"))
    if m is not None:
        check_map(m, SOURCE)


def file_with(content, ending):
    path = folder / f"rules{ending}"
    path.write_bytes(content)
    return path


# --- names


def patterns_in_a_tree(data):
    """Names are created, and withdrawn, between searches for some patterns."""
    choices = Choices(data)
    free = choices.number(2)  # names and patterns of any characters
    patterns = choices.several(lambda: choices.text(12) if free else choices.pattern(), 4, 1)
    patterns = [pattern for pattern in patterns if pattern.count("*") <= 8]  # a regex is slow
    steps = choices.several(lambda: choices.of([create, create, enter, op, parts, fail, None]), 30)
    with vs.Graph().as_default() as graph:
        for step in steps:
            if step is None:
                search(graph, patterns)
            else:
                with contextlib.suppress(VarscopeError):  # it is there, or is no name
                    step(choices.text(9) if free else choices.name())
        search(graph, patterns)


def search(graph, patterns):
    for pattern in patterns:
        if any("**" in part and part != "**" for part in pattern.split("/")):
            with contextlib.suppress(InvalidNameError):
                graph.find(pattern)
                raise AssertionError(f"{pattern!r} is no pattern")
        else:
            check_find(graph, pattern)


def create(name):
    vs.get_variable(name, [1])


def enter(name):
    with vs.variable_scope(name):
        vs.get_variable("b", [1])


def op(name):
    vs.get_default_graph().unique_name(name)


def parts(name):
    vs.get_variable(name, [2], partitioner=vs.fixed_size_partitioner(2))


def fail(name):
    def failing(getter, *args, **kwargs):
        getter(*args, **kwargs)
        raise LookupError

    with contextlib.suppress(LookupError):
        vs.get_variable(name, [1], custom_getter=failing)


def folded_names(data):
    choices = Choices(data)
    names = choices.several(lambda: choices.text(9), 40)
    kinds = [choices.number(2) for _ in names]
    try:
        rows = fold(zip(names, kinds, strict=True))
    except ValueError:
        assert len(set(names)) < len(names)
        return
    found = []
    for pattern, kind, count in rows:
        some = list(expand(pattern))
        assert len(some) == count and pattern.isprintable()
        found += ((name, kind) for name in some)
    assert Counter(found) == Counter(zip(names, kinds, strict=True))


# --- one input

KINDS = (map_of_rules, map_in_json, map_in_yaml, patterns_in_a_tree, folded_names)
folder = None


def test_one_input(data):
    """Raises where something does not hold."""
    global folder
    if not data:
        return
    if folder is None:
        folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        KINDS[data[0] % len(KINDS)](data[1:])


# --- inputs to begin with


def seeds():
    maps = [
        [{"prefix": "h.", "to": "x/"}, {"name": "w", "drop": True}, {"glob": "**", "to": "**"}],
        {"separator": ".", "rules": [{"glob": "h.*.w", "to": "w", "stack": 0}]},
        {"separator": ".", "rules": [{"glob": "h.{i}.**", "to": "**/l_{i}"}]},
        [{"regex": r"h\.(?P<n>\d+)\.(.*)", "to": r"l_\g<n>/\2"}],
        [{"name": "w", "to": ["q", "k"], "split": {"axis": 0, "sizes": [1, 3]}}],
        [{"name": "w", "to": {"q": ":2", "k": "2:"}}, {"names": {"step": None}}],
        [{"glob": "h/*/a/b_1", "to": "b", "concatenate": {"axis": 0, "sizes": [2, 2, 2]}}],
        [{"glob": ["h.0.w", "h.1.w"], "to": "v", "stack": 1, "source": 0}],
        [{"name": "w", "to": "l_*", "unstack": 0, "transpose": [0], "slice": "[:, 0:2]"}],
        {"separator": ".", "rules": [{"glob": "h.{i}.{j}", "to": "{j}{i}"}]},
        [{"regex": r"h\.([0-9]*)\.(.*)", "to": r"\2\1"}],
        {"w": "a", "step": None},
    ]
    for m in maps:
        yield b"\1" + json.dumps(m).encode()
        yield b"\2" + json.dumps(m).encode()
    yield b'\2separator: "."\nrules:\n  - {prefix: h., to: x/}\n  - glob: "**"\n    drop: true\n'
    yield b"\2- &a {name: w, to: v}\n- *a\n- <<: *a\n  name: step\n"
    counting = bytes(range(256))
    for start in range(0, 160, 8):
        for kind in (0, 3, 4):
            yield bytes([kind]) + counting[start : start + 60] * 2
