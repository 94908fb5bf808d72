"""Custom getters, constraints and collections: what test_spec_get_variable.py leaves open."""

import functools
import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import varscope as vs

EXCEPTIONS = [ValueError, KeyboardInterrupt, SystemExit, RecursionError, MemoryError]
KEYWORDS = {
    "shape", "dtype", "initializer", "regularizer", "reuse", "trainable", "collections",
    "caching_device", "partitioner", "validate_shape", "constraint",
}  # fmt: skip


def create(name="v", shape=(2,), initializer=vs.zeros, **options):
    return vs.get_variable(name, shape, initializer=initializer, **options)


def names():
    return [v.op_name for v in vs.get_default_graph().variables]


def seen_by_a_getter(**arguments):
    """The keywords that a getter gets for one call."""

    def look(getter, *args, **kwargs):
        seen.append((args, kwargs))

    seen = []
    assert vs.get_variable("v", custom_getter=look, **arguments) is None
    [(args, kwargs)] = seen
    assert args[1:] == ()
    return kwargs


# --- what a getter gets --------------------------------------------------------------------------


def halve(x):
    return x / 2


def in_two(shape, dtype):
    return [2]


GIVEN = {  # argument: something for it
    "shape": [2],
    "dtype": np.dtype("int8"),
    "initializer": vs.ones,
    "regularizer": halve,
    "trainable": False,
    "collections": ["mine"],
    "caching_device": "cpu",
    "partitioner": in_two,
    "validate_shape": False,
    "constraint": halve,
}
DEFAULTS = {"initializer", "regularizer", "caching_device", "partitioner", "constraint", "dtype"}


def test_a_getter_gets_everything_as_keywords():
    kwargs = seen_by_a_getter()
    assert set(kwargs) == KEYWORDS == {*GIVEN, "reuse"}
    expected = dict.fromkeys(KEYWORDS) | {
        "dtype": np.float32, "reuse": False, "trainable": True, "validate_shape": True
    }  # fmt: skip
    assert kwargs == expected


@pytest.mark.parametrize("argument", GIVEN)
def test_a_getter_gets_what_the_call_says(argument):
    others = {"initializer": vs.zeros, "dtype": "float16"}
    with vs.variable_scope("", **{k: v for k, v in others.items() if k == argument}):
        assert seen_by_a_getter(**{argument: GIVEN[argument]})[argument] == GIVEN[argument]


@pytest.mark.parametrize("argument", sorted(DEFAULTS))
def test_a_getter_gets_what_the_scope_says(argument):
    with vs.variable_scope("a", **{argument: GIVEN[argument]}), vs.variable_scope("b"):
        assert seen_by_a_getter()[argument] == GIVEN[argument]


@pytest.mark.parametrize("reuse", [True, vs.AUTO_REUSE])
def test_a_getter_gets_the_mode_of_the_scope(reuse):
    with vs.variable_scope("", reuse=reuse):
        assert seen_by_a_getter()["reuse"] is reuse


@pytest.mark.parametrize("initializer", [3, np.ones(2, "int8"), 1.5])
def test_the_dtype_is_left_to_a_value(initializer):
    with vs.variable_scope("", dtype="float64"):
        assert seen_by_a_getter(initializer=initializer)["dtype"] is None
        v = vs.get_variable(
            "v", initializer=initializer, custom_getter=lambda g, *a, **k: g(*a, **k)
        )
    assert v.dtype == vs.get_variable("w", initializer=initializer).dtype


def test_a_getter_of_the_call_is_not_passed_on():
    with pytest.raises(TypeError, match="custom_getter"):
        create(
            custom_getter=lambda getter, *args, **kwargs: getter(*args, custom_getter=1, **kwargs)
        )


# --- what it may do ------------------------------------------------------------------------------


def test_arguments_may_be_passed_by_position_in_the_order_of_get_variable():
    def positional(getter, name, *args, **kwargs):
        return getter(name, [3], "float64", vs.ones, None, False, False, ["mine"], "cpu", None,
                      True, halve)  # fmt: skip

    v = create(custom_getter=positional)
    assert (v.shape, v.dtype, v.initializer, v.trainable) == ((3,), np.float64, vs.ones, False)
    assert (v.caching_device, v.constraint, vs.get_collection("mine")) == ("cpu", halve, [v])


def test_a_getter_may_supply_what_the_call_lacks():
    def supply(getter, name, *args, **kwargs):
        return getter(name, *args, **{**kwargs, "shape": [4]})

    assert create(shape=None, custom_getter=supply).shape == (4,)
    assert create("w", shape="nonsense", custom_getter=supply).shape == (4,)


@pytest.mark.parametrize("reuse", [True, vs.AUTO_REUSE, None, False])
def test_a_getter_may_pass_another_reuse(reuse, refused):
    def change(getter, name, *args, **kwargs):
        return getter(name, *args, **{**kwargs, "reuse": reuse})

    v = create("there")
    with vs.variable_scope("", custom_getter=change):
        if reuse:
            assert create("there") is v
        else:
            with refused(ValueError, "already exists"):
                create("there")
        if reuse is True:
            with refused(ValueError, "does not exist"):
                create("new")
        else:
            assert create("new").op_name == "new"


@pytest.mark.parametrize("reuse", ["yes", 1, 0, np.True_])
def test_a_reuse_that_cannot_be(reuse, refused):
    with refused(vs.errors.ReuseError, "AUTO_REUSE"):
        create(custom_getter=lambda getter, name, *args, **kwargs: getter(name, reuse=reuse))


@pytest.mark.parametrize("name", ["a b", "", "a//b", 3, None])
def test_a_name_that_cannot_be(name, refused):
    with refused((ValueError, TypeError)):
        create(custom_getter=lambda getter, _, *args, **kwargs: getter(name, *args, **kwargs))


def test_a_getter_may_create_anywhere():
    def elsewhere(getter, name, *args, **kwargs):
        with vs.variable_scope(other):
            create("beside")
        with graph.as_default():
            create("there")
        return getter("far/" + name.rpartition("/")[2], *args, **kwargs)

    graph = vs.Graph()
    with vs.variable_scope("other") as other:
        pass
    with vs.variable_scope("a"):
        assert create(custom_getter=elsewhere).op_name == "far/v"
    assert names() == ["other/beside", "far/v"]
    assert list(graph) == ["there"]


def test_get_variable_in_a_getter_of_the_scope_starts_anew():
    def getter(getter, name, *args, **kwargs):
        calls.append(name)
        if not name.endswith("/inner"):
            vs.get_variable(f"{name.rpartition('/')[2]}/inner", [1])
        return getter(name, *args, **kwargs)

    calls = []
    with vs.variable_scope("a", custom_getter=getter):
        create()
    assert calls == ["a/v", "a/v/inner"]
    assert names() == ["a/v/inner", "a/v"]


def test_what_a_getter_of_a_call_creates_takes_no_getter_of_that_call():
    def getter(getter, name, *args, **kwargs):
        create("beside")
        return getter(name, *args, **kwargs)

    create(custom_getter=getter)
    assert names() == ["beside", "v"]


class Suffix:
    def __init__(self, suffix):
        self.suffix = suffix

    def __call__(self, getter, name, *args, **kwargs):
        return getter(name + self.suffix, *args, **kwargs)

    def method(self, getter, name, *args, **kwargs):
        return getter(name + self.suffix, *args, **kwargs)


@pytest.mark.parametrize(
    "getter",
    [Suffix("_x"), Suffix("_x").method, functools.partial(Suffix("_x"))],
    ids=["object", "method", "partial"],
)
def test_getters_of_all_kinds(getter):
    with vs.variable_scope("a", custom_getter=getter):
        assert create().op_name == "a/v_x"


def test_a_getter_is_asked_each_time():
    asked = []

    def getter(getter, name, *args, **kwargs):
        asked.append(name)
        return getter(name, *args, **kwargs)

    with vs.variable_scope("", custom_getter=getter, reuse=vs.AUTO_REUSE):
        for name in ("v", "w", "v", "w"):
            vs.get_variable(name, [2])
    assert asked == ["v", "w", "v", "w"]


def test_partitions_and_penalties_pass_through():
    def twice(getter, name, *args, **kwargs):
        seen.append((kwargs["partitioner"], kwargs["regularizer"]))
        first = getter(name, *args, **kwargs)
        return first, getter(name + "_whole", *args, **{**kwargs, "partitioner": None})

    seen, cut, penalty = [], vs.fixed_size_partitioner(2), vs.l2_regularizer(1.0)
    with vs.variable_scope("a", partitioner=cut, regularizer=penalty, custom_getter=twice) as a:
        parts, whole = create(initializer=vs.ones)
        a.reuse_variables()
        assert create() == (parts, whole)
    assert isinstance(parts, vs.PartitionedVariable) and isinstance(whole, vs.Variable)
    assert (parts.name, whole.name) == ("a/v", "a/v_whole:0")
    assert seen == [(cut, penalty)] * 2
    assert [float(loss) for loss in vs.get_regularization_losses()] == [1, 1]


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_shards_and_penalties_of_a_getter_that_fails_are_taken_back(exception, refused):
    def fail(getter, name, *args, **kwargs):
        getter(name, *args, **kwargs).initialize()
        raise exception

    options = dict(
        partitioner=vs.fixed_size_partitioner(2), regularizer=vs.l2_regularizer(1.0),
        caching_device=lambda shard: "cpu", constraint=halve,
    )  # fmt: skip
    with refused(exception):
        create(custom_getter=fail, **options)
    assert create().op_name == "v"  # the name is free, also for a variable in one piece
    assert create("w", **options)[1].value().tolist() == [0]


# --- composition ---------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=5))
def test_any_number_of_scopes_with_and_without_getters(scopes):
    """Suffixes are added from the inside out; 0 is a scope without a getter."""
    labels = [f"_{i}" if kind else "" for i, kind in enumerate(scopes)]
    with vs.Graph().as_default():
        opened = [
            vs.variable_scope("s", custom_getter=Suffix(label) if label else None)
            for label in labels
        ]
        for scope in opened:
            scope.__enter__()
        captured = vs.get_variable_scope()
        v = create(custom_getter=Suffix("_call"))
        for scope in reversed(opened):
            scope.__exit__(None, None, None)
        with vs.variable_scope(captured):
            w = create("w")
    prefix = "s/" * len(labels)
    assert v.path == f"{prefix}v_call{''.join(reversed(labels))}"
    assert w.path == f"{prefix}w{''.join(reversed(labels))}"


def test_outer_getters_run_as_often_as_the_inner_one_calls():
    def times(count):
        def getter(getter, name, *args, **kwargs):
            return [getter(f"{name}/{i}", *args, **kwargs) for i in range(count)]

        return getter

    with vs.variable_scope("a", custom_getter=times(2)):
        assert create(custom_getter=times(0)) == []
        assert names() == []
        made = create(custom_getter=times(3))
    assert [[v.op_name for v in pair] for pair in made] == [
        [f"a/v/{i}/{k}" for k in range(2)] for i in range(3)
    ]


def test_the_inner_one_gets_what_the_outer_one_returns():
    def doubled(getter, name, *args, **kwargs):
        return 2 * getter(name, *args, **kwargs)

    def plus_one(getter, name, *args, **kwargs):
        return 1 + getter(name, *args, **kwargs)

    with vs.variable_scope("", custom_getter=doubled):
        assert create(custom_getter=plus_one, initializer=vs.ones).tolist() == [3, 3]


def test_set_custom_getter_replaces_all_that_was_inherited():
    with vs.variable_scope("a", custom_getter=Suffix("_a")):
        with vs.variable_scope("b", custom_getter=Suffix("_b")) as b:
            assert create().op_name == "a/b/v_b_a"
            b.set_custom_getter(Suffix("_c"))
            assert create().op_name == "a/b/v_c"
            b.set_custom_getter(None)
            assert create().op_name == "a/b/v"
        assert create().op_name == "a/v_a"


def test_a_hundred_getters_on_one_scope():
    with vs.variable_scope("", custom_getter=Suffix("_x")) as scope:
        for _ in range(100):
            with vs.variable_scope(
                scope, custom_getter=lambda getter, *a, **k: getter(*a, **k)
            ) as scope:
                pass
    with vs.variable_scope(scope):
        assert create().op_name == "v_x"


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("who", ["inner", "outer"])
@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_composed_getters_that_fail_leave_the_graph_as_it_was(exception, who, when, refused):
    def getter(me):
        def run(getter, name, *args, **kwargs):
            for moment in ("before", "between", "after"):
                if (me, moment) == (who, when):
                    raise exception("in a getter")
                if moment != "after":
                    made = getter(f"{name}_{me}_{moment}", *args, **kwargs)
                    made.initialize()
            return made

        return run

    with vs.variable_scope("a", custom_getter=getter("outer")), refused(exception):
        create(custom_getter=getter("inner"), collections=["mine"])
    assert names() == []
    with vs.variable_scope("a", custom_getter=Suffix("_outer_before")):
        assert create("v_inner_before").op_name == "a/v_inner_before_outer_before"


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_what_a_failing_getter_created_in_other_graphs_and_scopes_goes_too(exception, refused):
    def getter(getter, name, *args, **kwargs):
        with graph.as_default(), vs.variable_scope("b"):
            create("there")
        with vs.variable_scope(scope):
            create("here")
        raise exception

    graph = vs.Graph()
    with vs.variable_scope("s") as scope:
        pass
    with refused(exception):
        create(custom_getter=getter)
    assert (list(graph), names()) == ([], [])
    with graph.as_default(), vs.variable_scope("b"):
        assert create("there").op_name == "b/there"


def test_a_getter_that_catches_the_error_of_the_registry_goes_on(refused):
    def first_free(getter, name, *args, **kwargs):
        for i in itertools.count():
            try:
                return getter(f"{name}_{i}", *args, **kwargs)
            except vs.errors.VariableExistsError:
                continue

    with vs.variable_scope("", custom_getter=first_free):
        assert [create().op_name for _ in range(3)] == ["v_0", "v_1", "v_2"]


def test_a_getter_in_one_thread_withdraws_nothing_of_another():
    def getter(getter, name, *args, **kwargs):
        getter(name, *args, **kwargs)
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
        raise OSError

    def beside():
        with graph.as_default():
            create("beside")

    graph = vs.get_default_graph()
    with pytest.raises(OSError):
        create(custom_getter=getter)
    assert names() == ["beside"]


# --- constraints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("how", ["assign", "project"])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_constraint_that_fails_changes_nothing(exception, how, device, refused):
    def fail(x):
        raise exception("in the constraint")

    v = create(constraint=fail, caching_device=device).assign([1, 2])
    value, version = v.value(), v.version
    with refused(exception):
        v.project() if how == "project" else v.assign([3, 4], apply_constraint=True)
    assert (v.numpy().tolist(), v.version) == ([1, 2], version)
    assert v.value().tolist() == [1, 2]
    assert device is None or v.value() is value
    assert v.assign([3, 4]).numpy().tolist() == [3, 4]


@pytest.mark.parametrize(
    "result", [[1], [[1, 2]], 5, None, "text", [1j, 2], ["a", "b"], [1, None]], ids=repr
)
@pytest.mark.parametrize("how", ["assign", "project"])
def test_a_constraint_that_returns_what_does_not_fit_changes_nothing(result, how, refused):
    v = create(constraint=lambda x: result).assign([1, 2])
    with refused(ValueError, "variable v"):
        v.project() if how == "project" else v.assign([3, 4], apply_constraint=True)
    assert (v.numpy().tolist(), v.version) == ([1, 2], 1)


def test_a_constraint_gets_values_in_the_dtype_of_the_variable_and_cannot_write_to_them():
    def look(x):
        seen.append((type(x), x.dtype, x.shape, x.flags.writeable))
        with pytest.raises(ValueError, match="read-only"):
            x += 1
        return x

    seen, mine = [], np.array([1.5, 2.5])
    v = create(dtype="float16", constraint=look)
    v.assign(mine, apply_constraint=True).project()
    assert seen == [(np.ndarray, np.float16, (2,), False)] * 2
    assert (mine.tolist(), mine.flags.writeable, v.numpy().tolist()) == (
        [1.5, 2.5],
        True,
        [1.5, 2.5],
    )


def test_a_constraint_may_return_another_kind_of_number_and_a_view_of_what_it_got():
    v = create(constraint=lambda x: x[::-1]).assign([1, 2])
    assert v.project().numpy().tolist() == [2, 1]
    w = create("w", constraint=lambda x: (x > 1).astype("float64")).assign([1, 2])
    assert w.project().numpy().tolist() == [0, 1]


def test_without_a_constraint_nothing_happens():
    v = create()
    assert v.project() is v
    assert (v.initialized, v.version) == (False, 0)
    assert v.assign([1, 2], apply_constraint=True).numpy().tolist() == [1, 2]
    assert (v.project().version, v.numpy().tolist()) == (1, [1, 2])


def test_constraints_run_only_when_they_are_asked_for():
    calls = []
    v = create(constraint=lambda x: calls.append(1) or x)
    v.assign([1, 2]).assign_add([1, 1]).initialize(force=True)
    v[...] = 3
    v += 1
    assert calls == []
    v.assign([1, 2], True).project()
    assert calls == [1, 1]


@pytest.mark.parametrize("wrong", [3, "clip", [abs]], ids=repr)
@pytest.mark.parametrize("where", ["argument", "scope"])
def test_a_constraint_is_callable(wrong, where, refused):
    scope = vs.variable_scope("", constraint=wrong if where == "scope" else None)
    with scope, refused(TypeError, "constraint"):
        create(constraint=wrong if where == "argument" else None)


# --- collections ---------------------------------------------------------------------------------


def test_the_keys_are_those_of_tensorflow():
    assert {name: key for name, key in vars(vs.GraphKeys).items() if name.isupper()} == {
        "GLOBAL_VARIABLES": "variables",
        "TRAINABLE_VARIABLES": "trainable_variables",
        "LOCAL_VARIABLES": "local_variables",
        "MODEL_VARIABLES": "model_variables",
        "METRIC_VARIABLES": "metric_variables",
        "MOVING_AVERAGE_VARIABLES": "moving_average_variables",
        "CONCATENATED_VARIABLES": "concatenated_variables",
        "GLOBAL_STEP": "global_step",
        "WEIGHTS": "weights",
        "BIASES": "biases",
        "ACTIVATIONS": "activations",
        "LOSSES": "losses",
        "REGULARIZATION_LOSSES": "regularization_losses",
        "UPDATE_OPS": "update_ops",
        "SUMMARIES": "summaries",
        "TABLE_INITIALIZERS": "table_initializer",
        "INIT_OP": "init_op",
        "LOCAL_INIT_OP": "local_init_op",
        "READY_OP": "ready_op",
        "SUMMARY_OP": "summary_op",
        "TRAIN_OP": "train_op",
        "SAVERS": "savers",
    }


def test_collections_of_local_variables_come_on_top():
    plain = vs.get_local_variable("plain", [1])
    extra = vs.get_local_variable("extra", [1], collections=iter(["mine"]))
    both = vs.get_local_variable(
        "both", [1], collections=[vs.GraphKeys.GLOBAL_VARIABLES, vs.GraphKeys.LOCAL_VARIABLES]
    )
    assert vs.local_variables() == [plain, extra, both]
    assert (vs.get_collection("mine"), vs.global_variables()) == ([extra], [both])
    assert vs.trainable_variables() == []


@pytest.mark.parametrize("get", [vs.get_variable, vs.get_local_variable])
@pytest.mark.parametrize("collections", ["mine", b"mine", 3, [[]]], ids=repr)
def test_collections_are_a_list_of_keys(get, collections, refused):
    with refused(TypeError):
        get("v", [1], collections=collections)


def test_local_variables_take_the_defaults_of_the_scope():
    def seen(getter, name, *args, **kwargs):
        calls.append((kwargs["trainable"], kwargs["collections"]))
        return getter(name, *args, **kwargs)

    calls = []
    with vs.variable_scope(
        "a", initializer=vs.ones, dtype="float64", caching_device="cpu", constraint=halve,
        custom_getter=seen,
    ):  # fmt: skip
        v = vs.get_local_variable("v", [2])
    assert (v.initializer, v.dtype, v.caching_device) == (vs.ones, np.float64, "cpu")
    assert v.project().numpy().tolist() == [0.5, 0.5]
    assert calls == [(False, ("local_variables",))]


def test_a_local_variable_in_shards():
    with vs.variable_scope("a", partitioner=vs.fixed_size_partitioner(2)):
        v = vs.get_local_variable("v", [4], initializer=vs.ones, collections=["mine"])
    assert isinstance(v, vs.PartitionedVariable)
    assert vs.local_variables() == vs.get_collection("mine") == list(v)
    assert vs.global_variables() == vs.trainable_variables() == []


def test_a_local_variable_says_where_it_was_created():
    v = vs.get_local_variable("v", [1])
    assert v.creation_site[0] == __file__
    with pytest.raises(vs.errors.VariableExistsError, match="test_getters"):
        vs.get_local_variable("v", [1])


def test_sharing_puts_a_variable_into_no_other_collection():
    v = create()
    with vs.variable_scope("", reuse=True):
        assert vs.get_local_variable("v", [2], collections=["mine"]) is v
    assert vs.local_variables() == vs.get_collection("mine") == []
    assert vs.global_variables() == vs.trainable_variables() == [v]
