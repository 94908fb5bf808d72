"""No call and no error leaves anything behind: each is repeated, in a process of its own."""

import inspect

import pytest
import requires
from zygote import Zygote

import varscope as vs

programs = pytest.importorskip("reference_programs", exc_type=ImportError)

pytestmark = [pytest.mark.promise("references"), requires.on_posix]


@pytest.fixture(scope="module")
def zygote():
    with Zygote("reference_programs") as found:
        yield found


def check(zygote, name, repetitions, rounds):
    answer, status, said = zygote.ask("growing", name, repetitions, rounds)
    assert status == 0, said[-3000:]
    assert answer == [{}, []]


@pytest.mark.parametrize("name", programs.PROGRAMS)
@pytest.mark.fails_without(
    "src/core/slabs.pxi",
    "        give_up_none()\n        PyBuffer_FillInfo",
    "        PyBuffer_FillInfo",
)
def test_nothing_is_left(zygote, name, tally):
    check(zygote, name, 3, 600)
    tally("calls and errors repeated")


@pytest.mark.slow
@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_nothing_is_left_by_many(zygote, name, tally):
    check(zygote, name, 30, 600)
    tally("calls and errors repeated often")


@pytest.mark.parametrize("name", programs.REFUSALS)
def test_each_error_is_stated_in_its_own_way(zygote, name):
    stated, status, said = zygote.ask("stated", name)
    assert status == 0, said[-3000:]
    if "." in programs.REFUSALS[name]:
        assert programs.REFUSALS[name] in stated


def public(thing):
    return {name for name in dir(thing) if not name.startswith("_")}


def test_every_public_name_has_a_program():
    used = set()
    for program in [*programs.PROGRAMS.values(), programs.made, programs.with_cupy]:
        code = getattr(inspect.unwrap(program), "__code__", None)
        used |= programs.names_in(code) if code else {inspect.unwrap(program).__name__}
    assert {name for name in vs.__all__ if name not in used} == set()
    for name in ("register", "names", "resolve"):
        assert name in vs.devices.__all__ and name in used


@pytest.mark.parametrize(
    "name",
    ["Checkpoint", "Graph", "NameMap", "PartitionedVariable", "Plan", "RegularizationLoss",
     "SaveSliceInfo", "StoredTensor", "Template", "Variable", "VariableScope"],
)  # fmt: skip
def test_every_public_member_has_a_program(name):
    assert public(getattr(vs, name)) - programs.CLASSES[name] == set()


def test_every_error_and_every_way_to_state_one_has_a_program():
    ways = set()
    for kind in vars(vs.errors).values():
        if inspect.isclass(kind) and kind.__module__ == vs.errors.__name__:
            stating = {
                f"{kind.__name__}.{name}"
                for name, member in vars(kind).items()
                if isinstance(member, classmethod) and not name.startswith("_")
            }
            ways |= stating or {kind.__name__}
    ways.remove("VarscopeError.stating")  # what the others call
    assert ways - set(programs.REFUSALS.values()) == set()
