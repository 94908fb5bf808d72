"""A name is accepted or refused at once, as the rule says; what is accepted survives everything."""

import contextlib
import os
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import varscope as vs

pytestmark = pytest.mark.promise("odd-names")


def capture(name):
    with vs.variable_scope(name) as scope:
        return scope


def create(name="v"):
    return vs.get_variable(name, [2], initializer=vs.zeros)


HUGE = "a" * 10_000_000
ACCEPTED = ["0", "V", "a.b-c_d", ".", "..", ".a", "a/../b", "a/_b", "a/-b", "a/b/c", HUGE]
REFUSED = [  # name, offending part
    ("/", "empty"),
    ("a//b", "empty"),
    ("/a", "empty"),
    ("a/", "empty"),
    ("a/b//", "empty"),
    ("a b", " "),
    ("good/b?d/fine", "?"),
    ("a\n", "\n"),
    ("\n", "\n"),
    ("a\0b", "\0"),
    ("a\ud800", "\ud800"),
    ("caf\u00e9", "\u00e9"),
    ("cafe\u0301", "\u0301"),
    ("a\u0663", "\u0663"),  # a digit, but none of 0-9
    ("a:0", ":"),
    ("a\\b", "\\"),
    ("a>b", ">"),
    ("_a", "_"),
    ("-a", "-"),
    ("_a/b", "_"),
    (HUGE + "/ ", " "),
]


def shortened(names):
    return [ascii(name if isinstance(name, str) else name[0])[:20] for name in names]


@pytest.fixture(params=["scope", "variable"])
def use(request):
    """Two ways to meet a name: as a scope and as a variable. Each returns the path it made."""

    def open_scope(name):
        with vs.variable_scope(name) as scope:
            return scope.name

    def create_variable(name):
        return create(name).op_name

    return open_scope if request.param == "scope" else create_variable


@pytest.mark.parametrize("name", ACCEPTED, ids=shortened(ACCEPTED))
def test_names_of_letters_digits_dots_dashes_and_underscores_are_accepted(name, use):
    assert use(name) == name


@pytest.mark.parametrize("name", ["_a", "-a", "_", "_a/_b"])
def test_only_at_the_root_a_name_must_start_with_a_letter_digit_or_dot(name, use, refused):
    with refused(ValueError, name):
        use(name)
    with vs.variable_scope("foo"):
        assert use(name) == f"foo/{name}"


def shown_as(text):
    return {text, repr(text)[1:-1], ascii(text)[1:-1]}


@pytest.mark.parametrize(("name", "part"), REFUSED, ids=shortened(REFUSED))
@pytest.mark.fails_without(
    "src/core/tables.pxi",
    "        if name[i] >= 128 or not CHARACTER[name[i]] & INSIDE:\n",
    "        if name[i] < 128 and False:\n",
)
@pytest.mark.fails_without("src/core/tables.pxi", "    if start == stop:\n", "    if False:\n")
def test_other_names_are_a_value_error_showing_name_and_offending_part(name, part, use, refused):
    with refused(ValueError) as caught:
        use(name)
    text = str(caught.value)
    if len(name) < 100:
        shown = [form for form in shown_as(name) if form in text]
        assert shown
        text = text.replace(max(shown, key=len), "", 1)
    assert any(form in text for form in shown_as(part))


@pytest.mark.parametrize("name", ["a b", "a//b", "_a"])
def test_a_default_name_obeys_the_same_rules(name, refused):
    with refused(ValueError, name), vs.variable_scope(None, name):
        pass


COMPONENT = r"[A-Za-z0-9_.\-]+"


@settings(deadline=None, database=None)
@given(st.text(st.sampled_from("aZ0._-/ \n\u00e9\0"), min_size=1, max_size=8))
def test_a_name_is_accepted_exactly_where_the_rule_says(name):
    allowed = re.fullmatch(rf"(?![_\-]){COMPONENT}(/{COMPONENT})*", name) is not None
    with vs.Graph().as_default():
        with contextlib.nullcontext() if allowed else pytest.raises(ValueError):
            assert capture(name).name == name
        with contextlib.nullcontext() if allowed else pytest.raises(ValueError):
            assert create(name + "/v").op_name == name + "/v"


# --- all the ways in which a name comes

NFC, NFD = "caf\u00e9", "cafe\u0301"
ODD = [
    "", "/", "//", "a//b", "/a", "a/", "a/b/", ".", "..", "...", "a/..", "../a", "a/../b", "./a",
    "a\n", "\na", "a\tb", "\r", " ", "a ", "\0", "a\0b", "\ud800", "a\udfff", "\ud83d\ude00", NFC,
    NFD, "\u00aa", "\uff41", "\u2215", "\u202ea", "\ufeffa", "\U0010ffff", "\x7f", "\x80", "a:0",
    "a:0:0", "*", "a/**", "?", "[a]", "a\\b", "C:", "con", "nul", "~", "$HOME", "%s", "{0}", "<a>",
    "'", '"', "_", "_a", "-", "-a", "a/_b", "a/-b", "a-", "a_", "a_1", "a_0", "a_01", "a_1_1", "_1",
    "1", "0x1", "a__1", "a_99999999999999999999", "part_0", "a/part_0", "None", "True",
    "__metadata__", "a.b", ".a", "a.", "A", "x" * 300, "x/" * 300 + "y", "a_1" * 100,
]  # fmt: skip
CHARACTERS = r"[A-Za-z0-9_.\-]+"


def is_good(name, at_root=True):
    """The rule, once more and in another way."""
    parts = name.split("/")
    return all(re.fullmatch(CHARACTERS, part, re.ASCII) for part in parts) and not (
        at_root and parts[0][0] in "_-"
    )


def path_of_name_scope(name):
    with vs.name_scope(name) as path:
        return path[:-1]


def getter_to(name):
    def getter(true, _, *args, **kwargs):
        return true(name, *args, **kwargs)

    return getter


DOORS = {
    "variable_scope": lambda name: capture(name).name,
    "default name": lambda name: opened_by_default(name),
    "get_variable": lambda name: create(name).path,
    "in parts": lambda name: vs.get_variable(
        name, [4], initializer=vs.zeros, partitioner=vs.fixed_size_partitioner(2)
    ).path,
    "local": lambda name: vs.get_local_variable(name, [2]).path,
    "custom getter": lambda name: vs.get_variable(
        "other", [2], custom_getter=getter_to(name)
    ).path,
    "unique_name": lambda name: vs.get_default_graph().unique_name(name),
    "name_scope": path_of_name_scope,
}  # fmt: skip


def means_something_else(name, door):
    """The current path or the root; and a slash behind a name scope is that very one again."""
    if door == "name_scope" and name.endswith("/"):
        return True
    return name == "" and door in ("variable_scope", "name_scope")


def opened_by_default(name):
    with vs.variable_scope(None, name) as scope:
        return scope.name


@pytest.mark.parametrize("door", DOORS)
def test_every_way_in_has_the_same_rule(door, refused, tally):
    for name in ODD:
        if means_something_else(name, door):
            continue
        with vs.Graph().as_default():
            if is_good(name):
                assert DOORS[door](name) == name
            else:
                with refused(ValueError) as caught:
                    DOORS[door](name)
                assert isinstance(caught.value, vs.errors.InvalidNameError)
                assert len(str(caught.value)) < 500
        tally("names")


@pytest.mark.parametrize("door", DOORS)
def test_a_surrounding_scope_changes_only_how_a_name_may_begin(door, refused, tally):
    for name in ["_a", "-a", "_", "a", "_a/_b", "", "/a", "a/", "_a b"]:
        if means_something_else(name, door):
            continue
        with vs.Graph().as_default(), vs.variable_scope("s"):
            # A getter is given full names, and may return one that lies elsewhere.
            full = door == "custom getter"
            if is_good(name, at_root=full):
                assert DOORS[door](name) == (name if full else f"s/{name}")
            else:
                with refused(ValueError):
                    DOORS[door](name)
        tally("names")


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "wrong",
    [b"a", bytearray(b"a"), 1, 0, 1.0, True, False, ["a"], ("a",), {"a": 1}, object, np.str_, ...],
    ids=repr,
)
def test_what_is_no_text_is_a_type_error(door, wrong, refused):
    with refused(TypeError) as caught:
        DOORS[door](wrong)
    assert type(wrong).__name__ in str(caught.value) or repr(wrong)[:20] in str(caught.value)


def test_text_of_numpy_is_text():
    assert create(np.str_("v")).path == "v" and type(capture(np.str_("s")).name) is str


# --- what survives

ACCEPTED_ODD = [name for name in ODD if is_good(name)] + ACCEPTED[:-1]


def assert_survives(name, folder):
    """A variable of this name is found, shown, pickled, saved and restored under it."""
    with vs.Graph(seed=1).as_default() as g:
        v = create(name).assign(np.array([1, 2]))
    for key in (name, name + ":0"):
        assert key in g and g[key] is v
    assert v.name == name + ":0" and list(g) == [name] and g.find(name) == [v]
    assert len(name) > 1000 or repr(v.name) in repr(v)
    assert g.get_collection("variables", scope=name) == [v]
    for protocol in (2, 5):
        assert pickle.loads(pickle.dumps(g, protocol))[name].numpy().tolist() == [1, 2]
        assert pickle.loads(pickle.dumps(v, protocol)).op_name == name
    for target in (folder / "m.safetensors", folder / "m"):
        vs.save(g, target)
        with vs.open(target) as opened:
            assert list(opened) == [name] and opened[name].numpy().tolist() == [1, 2]
        with vs.Graph(seed=1).as_default() as other:
            w = create(name)
        assert vs.restore(other, target).restored == [name]
        assert w.numpy().tolist() == [1, 2]
    assert sorted(os.listdir(folder)) == ["m", "m.safetensors"]  # a name is never that of a file


@pytest.mark.parametrize("name", ACCEPTED_ODD, ids=lambda name: ascii(name)[:20])
def test_what_is_accepted_survives(name, tmp_path, tally):
    assert_survives(name, tmp_path)
    tally("names that survive")


@pytest.mark.slow
def test_ten_megabytes_survive(tmp_path):
    assert_survives(HUGE, tmp_path)
    assert_survives("a/" * 100_000 + "b", tmp_path)


def test_all_of_them_in_one_graph(tmp_path):
    with vs.Graph(seed=1).as_default() as g:
        made = {name: create(name) for name in dict.fromkeys(ACCEPTED_ODD)}
    assert [v.path for v in g.variables] == list(made) and len(set(g)) == len(made)
    vs.save(g, tmp_path / "m.safetensors")
    with vs.open(tmp_path / "m.safetensors") as opened:
        assert sorted(opened) == sorted(g)
    twin = pickle.loads(pickle.dumps(g))
    assert list(twin) == list(g) and [v.path for v in twin.variables] == list(made)
    assert all(g[v.op_name] is v for v in made.values())


ANY_TEXT = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(categories=["Cs", "Cc", "Lu", "Nd", "Pd"]), max_size=6),
    st.text("ab_-./1", min_size=1, max_size=12),
    st.from_regex(r"\A[A-Za-z0-9.][A-Za-z0-9_.\-]{0,9}(/[A-Za-z0-9_.\-]{1,9}){0,4}\Z"),
)


@settings(deadline=None, database=None, max_examples=30)
@given(name=ANY_TEXT)
def test_any_text_is_accepted_or_refused_and_survives(name, tmp_path_factory):
    if is_good(name):
        assert_survives(name, tmp_path_factory.mktemp("name"))
        return
    with vs.Graph().as_default() as g:
        for door in DOORS:
            before = list(g), g.unique_name("a", mark_as_used=False)
            if means_something_else(name, door):
                continue
            with pytest.raises(vs.errors.InvalidNameError):
                DOORS[door](name)
            assert before == (list(g), g.unique_name("a", mark_as_used=False))


def test_names_that_look_alike_are_refused_or_two():
    for name in (NFC, NFD, "\u0430", "a\u200d"):
        with pytest.raises(ValueError):
            create(name)
    assert create("a") is not create("A")
    assert len(vs.get_default_graph()) == 2


@pytest.mark.parametrize("name", ["", "/", "a\n", "\ud800", "a/../b", NFC, b"a", 1, None])
def test_asking_for_an_odd_name_finds_nothing(name):
    g = vs.get_default_graph()
    create("a/b")
    assert name not in g
    with pytest.raises(KeyError if isinstance(name, str) else TypeError):
        g[name]
    if isinstance(name, str):
        assert g.get_collection("variables", scope="x" + name) == []
        with vs.variable_scope("a", reuse=True), pytest.raises(ValueError):
            vs.get_variable(name)
