"""Random use of scopes, side by side in the library and in the plain-Python model of the rules.

The state machine enters and leaves one level at a time, in any order of calls that the rules
allow. The programs below it run as real nested `with` blocks, and raise through several of them.
How many of each is a matter of hypothesis's profile: see tests/profiles.py.
"""

from contextlib import ExitStack, contextmanager
from itertools import product

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from profiles import settings_of_the_profile
from scope_model import Model

import varscope as vs

pytestmark = pytest.mark.promise("leaving")

MODES = {None: None, True: True, "auto": vs.AUTO_REUSE}
LEAVING = [ValueError, StopIteration, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError]

modes = st.sampled_from(list(MODES))
paths = st.sampled_from(["a", "b", "B", "layer", "layer_1", "a/b", "b/a/layer", ""])
default_names = st.sampled_from(["a", "layer", "a/b"])
name_scopes = st.sampled_from(["a", "op", "layer", "a/b", "a/", "a/op/", "layer_1/", None, ""])
op_names = st.sampled_from(["a", "op", "layer", "a_1", "layer_1", "v", "a/v"])
variables = st.sampled_from(["v", "b", "a/v", "layer"])
dtypes = st.sampled_from([None, None, "float32", "int32"])
positions = st.floats(0, 1, exclude_max=True)
auxiliary = st.booleans()


class Pair:
    """The library and the model on equal terms: each call goes to both, results are compared."""

    def __init__(self):
        self.graph = vs.Graph()
        self.model = Model()
        self.scopes = []  # pairs of the library's scope and the model's
        self.managers = []  # context managers of the library, and how to open the model's

    def look(self):
        scope = vs.get_variable_scope()
        now = *self.facts(scope), self.graph.get_name_scope()
        assert now == (*self.facts(self.model.scope), self.model.open_name_scope)
        names = [variable.name for variable in self.graph.variables]
        assert names == [variable.name for variable in self.model.variables.values()]
        for scope, modelled in self.scopes:
            assert self.facts(scope) == self.facts(modelled)

    @staticmethod
    def facts(scope):
        mode = "auto" if scope.reuse is vs.AUTO_REUSE else scope.reuse
        return scope.name, mode, scope.original_name_scope

    def capture_current(self):
        self.scopes.append((vs.get_variable_scope(), self.model.scope))

    def pick(self, position, kept):
        return kept[int(position * len(kept))]

    def by_string(self, name, mode, auxiliary):
        manager = vs.variable_scope(name, reuse=MODES[mode], auxiliary_name_scope=auxiliary)
        return self.known(manager, name, mode, auxiliary)

    def by_capture(self, position, mode, auxiliary):
        scope, modelled = self.pick(position, self.scopes)
        manager = vs.variable_scope(scope, reuse=MODES[mode], auxiliary_name_scope=auxiliary)
        return self.known(manager, modelled, mode, auxiliary)

    def known(self, manager, target, mode, auxiliary):
        def open_modelled():
            return self.model.variable_scope(target, None, mode, auxiliary)

        self.managers.append((manager, open_modelled))
        return self.both(manager, open_modelled())

    def by_known_manager(self, position):
        manager, open_modelled = self.pick(position, self.managers)
        return self.both(manager, open_modelled())

    def by_default_name(self, name, auxiliary):
        manager = vs.variable_scope(None, name, auxiliary_name_scope=auxiliary)
        return self.both(manager, self.model.variable_scope(None, name, None, auxiliary))

    @contextmanager
    def both(self, manager, modelled):
        with modelled as model_scope, manager as scope:
            assert vs.get_variable_scope() == scope
            self.scopes.append((scope, model_scope))
            yield

    @contextmanager
    def by_name_scope(self, name):
        with self.model.name_scope(name) as expected, vs.name_scope(name) as opened:
            assert opened == expected
            yield

    def refuse_default_name_with_reuse(self, name, mode):
        with pytest.raises(ValueError), vs.variable_scope(None, name, reuse=MODES[mode]):
            pass

    def unique_name(self, name, mark_as_used):
        expected = self.model.unique_name(name, mark_as_used)
        assert self.graph.unique_name(name, mark_as_used=mark_as_used) == expected

    def get(self, name, dtype):
        outcomes = [
            self.outcome(self.model.get_variable, name, (2,), dtype),
            self.outcome(vs.get_variable, name, (2,), dtype, vs.zeros),
        ]
        assert outcomes[0] == outcomes[1]

    def get_partitioned(self, name, slices):
        cut = vs.fixed_size_partitioner(slices)
        outcomes = [
            self.outcome(self.model.get_partitioned, name, slices, (2,)),
            self.outcome(vs.get_variable, name, (2,), None, vs.zeros, partitioner=cut),
        ]
        assert outcomes[0] == outcomes[1]

    @staticmethod
    def outcome(get_variable, *arguments, **options):
        try:
            return get_variable(*arguments, **options).name
        except ValueError as error:
            words = ["already exists", "does not exist"]
            return [word for word in words if word in str(error)]

    def reuse_here(self):
        self.model.scope.reuse = True
        vs.get_variable_scope().reuse_variables()

    def reuse_captured(self, position):
        scope, modelled = self.pick(position, self.scopes)
        scope.reuse_variables()
        modelled.reuse = True


class ScopeMachine(RuleBasedStateMachine):
    programs = 0

    def __init__(self):
        super().__init__()
        ScopeMachine.programs += 1
        self.pair = Pair()
        self.whole = ExitStack()
        self.whole.enter_context(self.pair.graph.as_default())
        self.pair.capture_current()
        self.levels = []

    def enter(self, opening):
        opening.__enter__()
        self.levels.append(opening)

    @rule(name=paths, mode=modes, auxiliary=auxiliary)
    def open_by_string(self, name, mode, auxiliary):
        self.enter(self.pair.by_string(name, mode, auxiliary))

    @rule(position=positions, mode=modes, auxiliary=auxiliary)
    def open_captured(self, position, mode, auxiliary):
        self.enter(self.pair.by_capture(position, mode, auxiliary))

    @rule(name=default_names, auxiliary=auxiliary)
    def open_by_default_name(self, name, auxiliary):
        self.enter(self.pair.by_default_name(name, auxiliary))

    @precondition(lambda self: self.pair.managers)
    @rule(position=positions)
    def enter_the_same_context_manager_again(self, position):
        self.enter(self.pair.by_known_manager(position))

    @rule(name=name_scopes)
    def open_name_scope(self, name):
        self.enter(self.pair.by_name_scope(name))

    @rule(name=default_names, mode=st.sampled_from([True, "auto"]))
    def default_name_with_reuse_is_refused(self, name, mode):
        self.pair.refuse_default_name_with_reuse(name, mode)

    @rule(name=op_names, mark_as_used=st.booleans())
    def unique_name(self, name, mark_as_used):
        self.pair.unique_name(name, mark_as_used)

    @rule(name=variables, dtype=dtypes)
    def get_variable(self, name, dtype):
        self.pair.get(name, dtype)

    @rule(name=variables, slices=st.integers(1, 2))
    def get_partitioned(self, name, slices):
        self.pair.get_partitioned(name, slices)

    @rule()
    def reuse_the_current_scope(self):
        self.pair.reuse_here()

    @rule(position=positions)
    def reuse_a_captured_scope(self, position):
        self.pair.reuse_captured(position)

    @rule()
    def capture_the_current_scope(self):
        self.pair.capture_current()

    @precondition(lambda self: self.levels)
    @rule()
    def leave(self):
        assert not self.levels.pop().__exit__(None, None, None)

    @precondition(lambda self: self.levels)
    @rule(depth=st.integers(1, 5), kind=st.sampled_from(LEAVING))
    def raise_through_several_levels(self, depth, kind):
        error = kind("on the way out")
        for _ in range(min(depth, len(self.levels))):
            assert not self.levels.pop().__exit__(kind, error, None)
            self.pair.look()

    @invariant()
    def library_and_model_agree(self):
        self.pair.look()

    def teardown(self):
        with self.whole:
            while self.levels:
                self.levels.pop().__exit__(None, None, None)
            self.pair.look()


class TestScopeMachine(ScopeMachine.TestCase):
    settings = settings_of_the_profile(stateful_step_count=50)

    @pytest.fixture(autouse=True)
    def counted(self, tally):
        before = ScopeMachine.programs
        yield
        tally("programs", ScopeMachine.programs - before)


class Interruption(BaseException):
    """Unwinds as many levels as it is told to."""

    def __init__(self, levels):
        super().__init__(levels)
        self.levels = levels


plain_steps = st.one_of(
    st.tuples(st.just("get"), variables, dtypes),
    st.tuples(st.just("get_partitioned"), variables, st.integers(1, 2)),
    st.tuples(st.just("unique_name"), op_names, st.booleans()),
    st.tuples(st.just("reuse_here")),
    st.tuples(st.just("reuse_captured"), positions),
    st.tuples(st.just("refuse_default_name_with_reuse"), default_names, st.just("auto")),
    st.tuples(st.just("raise"), st.integers(1, 4)),
)


def opening_steps(programs):
    steps = st.one_of(
        st.tuples(st.just("by_string"), paths, modes, auxiliary),
        st.tuples(st.just("by_capture"), positions, modes, auxiliary),
        st.tuples(st.just("by_known_manager"), positions),
        st.tuples(st.just("by_default_name"), default_names, auxiliary),
        st.tuples(st.just("by_name_scope"), name_scopes),
    )
    return st.tuples(steps, programs)


programs = st.recursive(
    st.lists(plain_steps, max_size=3),
    lambda inner: st.lists(st.one_of(plain_steps, opening_steps(inner)), max_size=5),
    max_leaves=40,
)


def run(pair, program):
    for step in program:
        if isinstance(step[0], tuple):
            run_inside(pair, *step)
        elif step[0] == "raise":
            raise Interruption(step[1])
        else:
            getattr(pair, step[0])(*step[1:])
        pair.look()


def run_inside(pair, opening, program):
    how, *arguments = opening
    if how == "by_known_manager" and not pair.managers:
        return
    try:
        with getattr(pair, how)(*arguments):
            pair.look()
            run(pair, program)
    except Interruption as interruption:
        pair.look()
        interruption.levels -= 1
        if interruption.levels:
            raise


@settings_of_the_profile(
    share=1.5,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(program=programs)
def test_nested_blocks_do_what_the_model_says(tally, program):
    tally("programs")
    pair = Pair()
    with pair.graph.as_default():
        pair.capture_current()
        try:
            run(pair, program)
        except Interruption:
            pair.look()
        assert vs.get_variable_scope().name == ""


OPENINGS = [
    ("by_string", "b", None, True),
    ("by_string", "a/b", "auto", False),
    ("by_string", "", True, True),
    ("by_capture", 0.0, None, True),
    ("by_capture", 0.99, None, True),
    ("by_known_manager", 0.0),
    ("by_default_name", "layer", True),
    ("by_name_scope", "a"),
    ("by_name_scope", "a/"),
    ("by_name_scope", None),
]


@pytest.mark.fails_without(
    "src/core/scopes.pxi",
    "    marks, length = top.marks_below, top.length_below\n    if top.kind == OPENED:\n",
    "    marks, length = stack.marks, stack.length\n    if top.kind == OPENED:\n",
)
@pytest.mark.fails_without(
    "src/core/scopes.pxi",
    """        if self.switch is None:
            leave(self)
            return
""",
    """        if self.switch is None:
            if exception_type is None or issubclass(exception_type, Exception):
                leave(self)
            return
""",
)
@pytest.mark.parametrize("first, second", list(product(OPENINGS, repeat=2)))
def test_every_pair_of_openings_nests_and_repeats_as_the_model_says(first, second):
    pair = Pair()
    steps = [("get", "v", None), ("unique_name", "b", True), ("reuse_here",), ("get", "v", None)]
    program = [(first, [*steps, (second, steps), (second, [*steps, ("raise", 2)])])] * 2
    with pair.graph.as_default():
        pair.capture_current()
        with pair.by_string("a", None, True):
            run(pair, program)
        run(pair, program)
