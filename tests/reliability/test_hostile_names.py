"""Names that were chosen to be slow are not, and no method of a class of names is called."""

import sys

import hostile_names
import pytest
from requires import require_program

import varscope as vs

pytestmark = pytest.mark.promise("hostile-names")

GROWTH = 2.3  # of instructions, for twice as many names


def assert_linear(attacks, size, tally):
    """Over two doublings, because small tables grow fourfold, and all in one process: that is
    seconds until Python has started under callgrind.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("instructions are counted on Linux only")
    require_program("valgrind", "valgrind")
    sizes = size, 4 * size
    bits = sizes[1].bit_length()  # of the places in a table for so many
    data = {"names": [], "pairs": [], "scopes": 40 * int(sizes[1] ** 0.5)}
    if "names of equal low bits" in attacks:
        data["names"] = hostile_names.names_of_equal_low_bits(sizes[1], bits)
    if "ids that meet" in attacks:
        data["pairs"] = hostile_names.pairs_that_meet(sizes[1], data["scopes"], bits + 1)
    for attack, (few, many) in hostile_names.count(attacks, sizes, data).items():
        growth = max(many.core / few.core, many.all / few.all) ** 0.5
        assert growth < GROWTH, f"{attack}: {growth:.2f} times the instructions for twice the names"
        assert 0 < few.core < few.all < many.all
        tally("names whose instructions were counted", sum(sizes))


@pytest.mark.slow
@pytest.mark.fails_without(
    "src/core/tables.pxi", "* <uint64_t>0x9E3779B97F4A7C15ULL >> 32)", "& <uint64_t>0xFFFFFFFFULL)"
)
@pytest.mark.fails_without(
    "src/core/tables.pxi", "0xBF58476D1CE4E5B9ULL ^ SECRET)", "0xBF58476D1CE4E5B9ULL)"
)
def test_names_that_meet_in_a_table_take_no_longer_than_others(tally):
    assert_linear(["names of equal low bits", "ids that meet"], 250, tally)


@pytest.mark.slow
@pytest.mark.fails_without(
    "src/core/scopes.pxi",
    "        sibling.suffix = marks.next_suffix(parent, sibling.name)\n",
    "        pass\n",
)
def test_names_that_are_taken_take_no_longer_than_others(tally):
    attacks = ["scopes x_n to x_1", "ops x_1 to x_n", "one default name", "one unique name"]
    assert_linear(attacks, 250, tally)


@pytest.mark.slow
@pytest.mark.parametrize("attack", hostile_names.ATTACKS)
def test_twice_as_many_names_take_twice_the_instructions(attack, tally):
    size = 25_000 if attack in ("one default name", "one unique name") else 600
    assert_linear([attack], size, tally)


# --- classes of names


called = []  # methods of names


def spy(name):
    def method(self, *args, **kwargs):
        called.append(name)
        raise RuntimeError(f"{name} of a name was called")

    return method


def hostile():
    """A subclass of `str` all of whose methods note that they were called, and raise."""

    left = ("__new__", "__init__", "__class__", "__getattribute__", "__init_subclass__",
            "__subclasshook__", "__del__", "__setattr__", "__delattr__", "__dir__")  # fmt: skip
    names = [name for name in dir(str) if name not in left and callable(getattr(str, name))]
    return type("Hostile", (str,), {name: spy(name) for name in names})


Hostile = hostile()


class Liar(str):
    """Equal to everything, with the hash of "a", and another text for whoever asks."""

    __slots__ = ()

    def __hash__(self):
        return hash("a")

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    def __str__(self):
        return "something else"

    def __len__(self):
        return 0

    def __iter__(self):
        return iter("something else")

    def __getitem__(self, index):
        return "z"

    def __contains__(self, other):
        return False


def opened_path(*args):
    with vs.variable_scope(*args) as scope:
        return scope.name


def path_of_name_scope(name):
    with vs.name_scope(name) as path:
        return path


USES = {
    "variable_scope": (opened_path, "s"),
    "default name": (lambda name: opened_path(None, name), "s"),
    "get_variable": (lambda name: vs.get_variable(name, [1]).path, "s"),
    "get_variable, in parts": (
        lambda name: vs.get_variable(
            name, [2], partitioner=vs.fixed_size_partitioner(2)
        )[1].save_slice_info.full_name,
        "s",
    ),
    "getter": (
        lambda name: vs.get_variable(
            "other", [1], custom_getter=lambda getter, _, **options: getter(name, **options)
        ).path,
        "s",
    ),
    "name_scope": (path_of_name_scope, "s/"),
    "unique_name": (lambda name: vs.get_default_graph().unique_name(name), "s"),
    "template": (lambda name: vs.make_template(name, opened_path)("x"), "s/x"),
}  # fmt: skip


@pytest.mark.parametrize("kind", [Hostile, Liar])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("text", ["s", "t/u"])
@pytest.mark.fails_without(
    "src/core/tables.pxi",
    "        return PyUnicode_FromObject(name)\n",
    "        return <str>name\n",
)
def test_a_name_of_a_class_of_its_own_counts_as_its_text(use, text, kind, tally):
    function, expected = USES[use]
    called.clear()
    try:
        made = function(kind(text))
    except vs.errors.VarscopeError:
        made = None  # or it is refused
    assert called == []
    if made is not None:
        assert type(made) is str and made == expected.replace("s", text, 1)
    tally("names of classes")


LOOKUPS = {
    "in": lambda g, name: name in g,
    "item": lambda g, name: g[name],
    "find": lambda g, name: g.find(name)[0],
    "collection": lambda g, name: g.get_collection("variables", scope=name)[0],
    "reuse": lambda g, name: vs.get_variable(name),
    "reuse, with a shape": lambda g, name: vs.get_variable(name, [1]),
}


@pytest.mark.parametrize("kind", [Hostile, Liar])
@pytest.mark.parametrize("lookup", LOOKUPS)
def test_looking_for_a_name_calls_none_of_its_methods(lookup, kind):
    g = vs.get_default_graph()
    with vs.variable_scope("a"):
        v = vs.get_variable("b", [1])
    others = [vs.get_variable(f"c{i}", [1]) for i in range(40)]
    called.clear()
    with vs.variable_scope("", reuse=True):
        found = LOOKUPS[lookup](g, kind("a/b"))
        assert found is True or found is v
        other = LOOKUPS[lookup](g, kind("c7"))
        assert other is True or other is others[7]
    assert called == []


def test_names_that_are_equal_to_all_others_are_told_apart():
    g = vs.get_default_graph()
    made = [vs.get_variable(Liar(f"v{i}"), [1]) for i in range(50)]
    assert len(g) == 50 and len(set(made)) == 50
    assert [v.name for v in made] == [f"v{i}:0" for i in range(50)]
    assert all(type(v.op_name) is str for v in made)
    assert [opened_path(None, Liar("d")) for _ in range(3)] == ["d", "d_1", "d_2"]
    assert [g.unique_name(Liar("v0")) for _ in range(2)] == ["v0_1", "v0_2"]


@pytest.mark.parametrize("use", USES)
def test_bytes_are_no_name(use, refused):
    for name in (b"s", bytearray(b"s"), type("Bytes", (bytes,), {})(b"s"), memoryview(b"s")):
        with refused(TypeError):
            USES[use][0](name)


def test_names_are_told_apart_by_text_whatever_their_class_says():
    class Liar(str):
        __slots__ = ()

        def __hash__(self):
            raise RuntimeError("no hash for you")

        def __eq__(self, other):
            return True

        def __str__(self):
            return "something else"

    with vs.variable_scope(Liar("foo")) as scope:
        assert scope.name == "foo"
        assert type(scope.name) is str
        v, w = vs.get_variable(Liar("v"), [2]), vs.get_variable(Liar("w"), [2])
    with vs.variable_scope("foo", reuse=True):
        assert vs.get_variable("v", [2]) is v
        assert vs.get_variable(Liar("w"), [2]) is w
    assert type(v.op_name) is str
    assert opened_path(None, Liar("foo")) == "foo_1"
