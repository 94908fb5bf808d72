"""Caching devices: a copy of the value somewhere, made once, renewed when the value changes."""

import contextlib
import copy
import gc
import importlib.machinery
import importlib.util
import pickle
import sys
import threading
import types
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import varscope as vs

EXCEPTIONS = [ValueError, KeyboardInterrupt, SystemExit, RecursionError, MemoryError]


@pytest.fixture(autouse=True)
def registered_here(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(vs.devices, "_registered", dict(vs.devices._BUILT_IN))


@pytest.fixture
def device():
    """A registered device; a list of what was put on it."""
    arrays = []

    def put(array):
        arrays.append(array)
        return array

    vs.devices.register("shelf", put)
    return arrays


def cached(name="v", shape=(3,), device="cpu", **options):
    options.setdefault("initializer", vs.ones)
    return vs.get_variable(name, shape, caching_device=device, **options)


def halve(x):
    return x / 2


# --- the copy ------------------------------------------------------------------------------------


def test_the_value_is_a_read_only_snapshot():
    v = cached()
    value = v.value()
    assert (value.tolist(), value.dtype, value.flags.writeable) == ([1, 1, 1], v.dtype, False)
    v.array[:] = 5
    assert value.tolist() == [1, 1, 1]
    assert not np.shares_memory(value, v.array)


def test_without_a_device_the_value_is_the_storage():
    v = vs.get_variable("v", [3])
    assert v.caching_device is None
    assert np.shares_memory(v.value(), v.array)


def test_the_storage_stays_where_it_is():
    v = cached()
    assert (v.caching_device, v.device) == ("cpu", "cpu")


def test_the_copy_is_made_once_and_only_when_the_value_is_asked_for(device):
    v = cached(device="shelf")
    assert not v.initialized
    _ = v + 1, v.numpy(), v[0], np.asarray(v), memoryview(v), v.array, np.exp(v), v.initialize()
    assert device == []
    assert v.value() is v.value() is device[0]
    assert len(device) == 1


CHANGES = {
    "assign": lambda v: v.assign([7, 7, 7]),
    "assign_add": lambda v: v.assign_add([6, 6, 6]),
    "assign_sub": lambda v: v.assign_sub([-6, -6, -6]),
    "setitem": lambda v: v.__setitem__(..., 7),
    "out": lambda v: np.add(v, 6, out=v),
    "in place": lambda v: v.__iadd__(6),
    "constraint": lambda v: v.assign([3.5, 3.5, 3.5]).project(),
    "initialize": lambda v: v.initialize(force=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_copy_is_renewed_when_the_value_changes(change, device):
    v = cached(device="shelf", constraint=lambda x: x * 2)
    before = v.value()
    CHANGES[change](v)
    after = v.value()
    assert after is v.value() is not before
    assert before.tolist() == [1, 1, 1]
    assert after.tolist() == ([1, 1, 1] if change == "initialize" else [7, 7, 7])
    assert len(device) == 2


def test_what_fails_to_change_the_value_renews_nothing(device):
    v = cached(device="shelf")
    before = v.value()
    for wrong in ([1, 2], [1j, 1j, 1j]):
        with pytest.raises(ValueError):
            v.assign(wrong)
        with pytest.raises((ValueError, TypeError)):
            v[...] = wrong
        with pytest.raises((ValueError, TypeError)):
            np.add(v, wrong, out=v)
    assert v.value() is before


FAILING_CHANGES = {
    "out": lambda v: np.divide(v, 0, out=v),
    "setitem": lambda v: v.__setitem__(..., np.full(3, 1e300)),
    "assign": lambda v: v.assign(np.full(3, 1e300)),
}


@pytest.mark.parametrize("change", FAILING_CHANGES)
def test_what_fails_behind_the_change_renews_the_copy(change, device):
    """NumPy writes first and raises a FloatingPointError then; not where it is old, and casts."""
    v = cached(device="shelf")
    v.value()
    with np.errstate(all="raise"), contextlib.suppress(FloatingPointError):
        FAILING_CHANGES[change](v)
    assert v.value().tolist() == v.numpy().tolist() == [np.inf] * 3


def test_an_interrupt_behind_the_change_renews_the_copy(device, monkeypatch):
    v = cached(device="shelf", initializer=vs.random_normal())
    v.assign([1, 1, 1]).value()
    fill = vs.randomness.fill

    def interrupted(*args):
        fill(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(vs.randomness, "fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        v.initialize(force=True)
    assert v.value().tolist() == v.numpy().tolist() != [1, 1, 1]


def test_everything_but_value_uses_the_storage():
    v = cached()
    before = v.value()
    v.array[:] = 5  # is not counted as a change
    assert v.value() is before
    for other in (v + 0, v.numpy(), v[:], np.asarray(v), np.positive(v), list(v), np.array(v)):
        assert list(other) == [5, 5, 5]
    v.assign(v.array)
    assert v.value().tolist() == [5, 5, 5]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["assign", "add", "item", "raw", "read"]), st.integers(0, 9)),
        max_size=12,
    )
)
def test_the_copy_is_what_the_values_were_when_it_was_first_read_after_a_change(steps):
    with vs.Graph().as_default():
        v = cached(shape=[2])
    fresh, expected = True, None
    for step, number in [*steps, ("read", 0)]:
        if step == "assign":
            v.assign([number, number])
        elif step == "add":
            v.assign_add([number, number])
        elif step == "item":
            v[1] = number
        elif step == "raw":
            v.array[0] = number
        elif fresh:
            expected = v.numpy().tolist()
        fresh = step not in ("raw", "read") or (fresh and step == "raw")
        if step == "read":
            assert v.value().tolist() == expected


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "bool", "complex64", ">f4"])
def test_shapes_and_dtypes(shape, dtype):
    v = cached(shape=shape, dtype=dtype)
    value = v.value()
    assert (value.shape, value.dtype) == (shape, np.dtype(dtype))
    assert np.array_equal(value, np.ones(shape, dtype))
    assert not np.shares_memory(value, v.array)


def test_a_shape_that_only_the_initializer_knows():
    v = cached(shape=None, validate_shape=False, initializer=lambda shape, dtype: np.ones((2, 2)))
    with pytest.raises(ValueError):  # float64 does not go into float32 safely
        v.value()
    w = cached("w", None, validate_shape=False,
               initializer=lambda shape, dtype: np.ones((2, 2), "float32"))  # fmt: skip
    assert (w.value().tolist(), w.caching_device) == ([[1, 1], [1, 1]], "cpu")


def test_a_device_gets_an_array_of_its_own(device):
    v = cached(shape=[4, 2], device="shelf", dtype="float16")
    value = v.value()
    assert value.flags.owndata and value.flags.c_contiguous and value.flags.writeable
    value[:] = 9  # the device may do with it what it likes
    assert v.numpy().tolist() == np.ones((4, 2)).tolist()


@pytest.mark.parametrize("exception", [*EXCEPTIONS, OSError])
def test_a_device_that_fails_leaves_variable_and_copy_as_they_were(exception, device):
    def put(array):
        if failing:
            raise exception("no room")
        return array.tolist()

    failing = True
    vs.devices.register("full", put)
    v = cached(device="full")
    for _ in range(2):
        with pytest.raises(exception):
            v.value()
    assert v.numpy().tolist() == [1, 1, 1]
    failing = False
    assert v.value() == [1, 1, 1]
    v.assign([2, 2, 2])
    failing = True
    with pytest.raises(exception):
        v.value()
    failing = False
    assert v.value() == [2, 2, 2]


def test_a_device_may_give_anything_none_included(device):
    calls = []
    vs.devices.register("nothing", lambda array: calls.append(array))
    v = cached(device="nothing")
    assert v.value() is v.value() is None
    assert len(calls) == 1


# --- which variables have one --------------------------------------------------------------------


def test_scopes_pass_a_device_down():
    with vs.variable_scope("a", caching_device="cpu") as a, vs.variable_scope("b") as b:
        v = vs.get_variable("v", [1])
    with vs.variable_scope("elsewhere"), vs.variable_scope(b):
        w = vs.get_variable("w", [1])
    assert a.caching_device == b.caching_device == v.caching_device == w.caching_device == "cpu"
    with vs.variable_scope("beside"):
        assert vs.get_variable("v", [1]).caching_device is None


@pytest.mark.parametrize("where", ["argument", "scope", "setter"])
def test_an_empty_string_switches_it_off(where, device):
    outer = vs.variable_scope("a", caching_device="shelf")
    inner = vs.variable_scope("b", caching_device="" if where == "scope" else None)
    with outer, inner as scope:
        if where == "setter":
            scope.set_caching_device("")
        v = cached(device="" if where == "argument" else None)
        w = cached("w", device="shelf")
    assert (v.caching_device, w.caching_device) == (None, "shelf")
    assert np.shares_memory(v.value(), v.array)
    assert device == []


def test_a_set_default_is_used_and_none_takes_it_back():
    with vs.variable_scope("a") as scope:
        scope.set_caching_device("cpu")
        v = vs.get_variable("v", [1])
        scope.set_caching_device(None)
        w = vs.get_variable("w", [1])
    assert (v.caching_device, w.caching_device) == ("cpu", None)


def test_local_variables_have_one_too():
    v = vs.get_local_variable("v", [2], initializer=vs.ones, caching_device="cpu")
    assert (v.caching_device, v.value().tolist()) == ("cpu", [1, 1])


@pytest.mark.parametrize("first", ["cpu", None])
def test_reuse_changes_no_device_and_asks_nobody(first):
    v = cached(device=first)

    def never(variable):
        raise AssertionError

    with vs.variable_scope("", reuse=True, caching_device=never):
        assert vs.get_variable("v", [3]) is v
        assert vs.get_variable("v", [3], caching_device="cpu") is v
    assert v.caching_device == first


def test_equal_requests_make_variables_alike():
    here, there = "".join(["c", "pu"]), "".join(["cp", "u"])
    assert here is not there
    with vs.variable_scope("", caching_device=here):
        variables = [vs.get_variable(f"v{i}", [2], initializer=vs.ones) for i in range(3)]
    variables.append(vs.get_variable("w", [2], initializer=vs.ones, caching_device=there))
    assert len({id(v._spec) for v in variables}) == 1
    assert len({id(v.value()) for v in variables}) == 4


def test_getters_see_and_change_the_device():
    seen = []

    def getter(getter, name, *args, **kwargs):
        seen.append(kwargs["caching_device"])
        return getter(name, *args, **{**kwargs, "caching_device": "cpu" if name == "v" else ""})

    with vs.variable_scope("", caching_device="nowhere", custom_getter=getter):
        assert [vs.get_variable(name, [1]).caching_device for name in "vw"] == ["cpu", None]
    assert seen == ["nowhere", "nowhere"]


# --- functions -----------------------------------------------------------------------------------


def test_a_function_is_asked_once_for_each_new_variable(device):
    asked = []

    def place(variable):
        asked.append((variable.name, variable.shape))
        return "shelf" if variable.shape == (2,) else None

    with vs.variable_scope("a", caching_device=place) as scope:
        variables = [vs.get_variable(f"v{i}", [2], initializer=vs.ones) for i in range(3)]
        scalar = vs.get_variable("s", [], initializer=vs.ones)
        assert scope.caching_device is place
        scope.reuse_variables()
        assert vs.get_variable("v1", [2]) is variables[1]
    assert asked == [("a/v0:0", (2,)), ("a/v1:0", (2,)), ("a/v2:0", (2,)), ("a/s:0", ())]
    assert [v.caching_device for v in [*variables, scalar]] == ["shelf"] * 3 + [None]
    assert [v.value().tolist() for v in variables] == [[1, 1]] * 3
    assert len(device) == 3


@pytest.mark.parametrize("result", [None, ""])
def test_a_function_may_say_no(result):
    v = cached(device=lambda variable: result)
    assert v.caching_device is None
    assert np.shares_memory(v.value(), v.array)


def test_a_function_may_name_the_device_of_the_variable():
    assert cached(device=lambda variable: variable.device).caching_device == "cpu"


def test_a_function_may_read_the_variable_and_create_others():
    def place(variable):
        assert variable.value().shape == (2, 2)
        vs.get_variable("beside", [1], caching_device="")
        return "cpu"

    v = cached(shape=None, validate_shape=False, device=place,
               initializer=lambda shape, dtype: np.ones((2, 2), dtype))  # fmt: skip
    assert (v.shape, v.caching_device, v.value().tolist()) == ((2, 2), "cpu", [[1, 1], [1, 1]])
    assert [v.op_name for v in vs.get_default_graph().variables] == ["v", "beside"]


def failures():
    for exception in EXCEPTIONS:

        def fail(variable, exception=exception):
            variable.initialize()
            vs.get_variable(f"{variable.path}_beside", [1], caching_device="")
            raise exception("in the caching device")

        yield pytest.param(fail, exception, id=exception.__name__)
    yield pytest.param(lambda variable: "nowhere", vs.errors.DeviceError, id="unknown")
    yield pytest.param(lambda variable: 3, TypeError, id="no str")
    yield pytest.param(lambda variable: variable, TypeError, id="no str either")


@pytest.mark.parametrize(("place", "exception"), list(failures()))
@pytest.mark.parametrize("where", ["argument", "scope", "getter"])
def test_a_function_that_fails_leaves_the_graph_as_it_was(place, exception, where, refused):
    def getter(getter, name, *args, **kwargs):
        if name == "a/v":
            kwargs["caching_device"] = place
        return getter(name, *args, **kwargs)

    here = {"getter": {"custom_getter": getter}, "scope": {"caching_device": place}}
    with vs.variable_scope("a", **here.get(where, {})), refused(exception):
        cached(device=place if where == "argument" else None, collections=["mine"])
    with vs.variable_scope("a"):
        assert cached().op_name == "a/v"
    assert len(vs.get_default_graph()) == 1


def test_a_withdrawn_variable_says_so():
    kept = []
    with pytest.raises(ZeroDivisionError):
        cached(device=lambda variable: kept.append(variable) or 1 / 0)
    with pytest.raises(vs.errors.WithdrawnError):
        kept[0].value()
    assert "withdrawn" in repr(kept[0])


def test_a_function_may_ask_for_the_same_name(refused):
    def place(variable):
        return vs.get_variable("v", [3]) and None

    with refused(ValueError, "already exists"):
        cached(device=place)
    with vs.variable_scope("", reuse=vs.AUTO_REUSE):
        v = cached(device=lambda variable: "cpu" if vs.get_variable("v") is variable else "")
    assert v.caching_device == "cpu"


# --- variables in shards -------------------------------------------------------------------------


def in_shards(count=3, **options):
    return cached(shape=[6, 2], partitioner=vs.fixed_size_partitioner(count), **options)


def test_each_shard_has_a_copy_of_its_own(device):
    v = in_shards(device="shelf")
    assert [shard.caching_device for shard in v] == ["shelf"] * 3
    assert v.value().shape == (6, 2)  # the whole is put together from the storage
    assert device == []
    copies = [shard.value() for shard in v]
    assert [copy.shape for copy in copies] == [(2, 2)] * 3
    v.assign(np.full((6, 2), 7))
    assert [shard.value().tolist() for shard in v] == [[[7, 7], [7, 7]]] * 3
    assert [copy.tolist() for copy in copies] == [[[1, 1], [1, 1]]] * 3


def test_a_function_is_asked_for_each_shard():
    asked = []

    def place(shard):
        asked.append((shard.path, shard.shape, shard.save_slice_info.var_offset))
        return "cpu" if len(asked) % 2 else None

    v = in_shards(device=place)
    assert asked == [(f"v/part_{i}", (2, 2), (2 * i, 0)) for i in range(3)]
    assert [shard.caching_device for shard in v] == ["cpu", None, "cpu"]
    with vs.variable_scope("", reuse=True):
        assert in_shards(device=place) is v
    assert len(asked) == 3


@pytest.mark.parametrize("exception", EXCEPTIONS)
@pytest.mark.parametrize("k", range(3))
def test_a_function_that_fails_for_one_shard_leaves_none(exception, k, refused):
    def place(shard):
        if shard.path == f"v/part_{k}":
            raise exception("in the caching device")
        return "cpu"

    with refused(exception):
        in_shards(device=place, collections=["mine"], regularizer=vs.l2_regularizer(1.0))
    assert cached().op_name == "v"  # not even the name is in shards


def test_a_penalty_is_on_the_storage(device):
    v = cached(device="shelf", regularizer=vs.l2_regularizer(1.0))
    w = in_shards(name="w", device="shelf", regularizer=vs.l2_regularizer(1.0))
    assert [float(loss) for loss in vs.get_regularization_losses()] == [1.5, 6]
    assert (v.initialized, w.initialized, device) == (True, True, [])


# --- what cannot be a device ---------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [3, 0, False, b"cpu", ["cpu"], 1.5], ids=repr)
@pytest.mark.parametrize("where", ["argument", "scope"])
def test_no_device_and_no_function(wrong, where, refused):
    scope = vs.variable_scope("", caching_device=wrong if where == "scope" else None)
    with scope, refused(TypeError, "variable v", "device", type(wrong).__name__):
        cached(device=wrong if where == "argument" else None)


def test_an_unknown_device_lists_the_known_ones(device, refused):
    words = "variable a/v", "'/gpu:0'", "unknown", "cpu", "shelf", "register"
    with vs.variable_scope("a"), refused(ValueError, *words) as caught:
        cached(device="/gpu:0")
    assert isinstance(caught.value, vs.errors.DeviceError)
    assert (caught.value.device, caught.value.variable) == ("/gpu:0", "a/v")
    assert caught.value.known == vs.devices.names()
    assert cached().caching_device == "cpu"


def test_the_names_of_what_is_there(device):
    assert vs.devices.names()[:2] == ["cpu", "shelf"]
    for library in ("jax", "torch", "cupy"):
        there = importlib.util.find_spec(library) is not None
        assert (f"{library}:" in vs.devices.names()) == there


@pytest.mark.parametrize("library", ["jax", "torch", "cupy"])
def test_a_library_that_is_not_installed_is_named_with_the_pip_line(library, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, library, None)
    with refused(vs.errors.DeviceError, "variable v", f"pip install {library}") as caught:
        cached(device=f"{library}:0")
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_device_may_be_registered_later_or_not_be_there_any_more(device, monkeypatch):
    with vs.variable_scope("", caching_device="later"):
        with pytest.raises(vs.errors.DeviceError):
            vs.get_variable("v", [1])
        vs.devices.register("later", lambda array: array)
        v = vs.get_variable("v", [1], initializer=vs.ones)
    monkeypatch.delitem(vs.devices._registered, "later")  # in another process, say
    with pytest.raises(vs.errors.DeviceError, match="later"):
        v.value()
    assert v.numpy().tolist() == [1]


# --- the registry --------------------------------------------------------------------------------


def test_resolve_gives_what_puts_an_array_there():
    assert vs.devices.resolve("cpu")(np.ones(2)).tolist() == [1, 1]
    vs.devices.register("as-list", np.ndarray.tolist)
    assert vs.devices.resolve("as-list") is np.ndarray.tolist
    with pytest.raises(vs.errors.DeviceError, match="cpu"):
        vs.devices.resolve("nowhere")


def test_a_name_is_registered_once_unless_it_says_replace(device):
    v = cached(device="shelf")
    first = v.value()
    put = vs.devices.resolve("shelf")
    vs.devices.register("shelf", put)  # the same once more changes nothing
    with pytest.raises(ValueError, match="replace=True"):
        vs.devices.register("shelf", np.ndarray.tolist)
    assert vs.devices.resolve("shelf") is put
    vs.devices.register("shelf", np.ndarray.tolist, replace=True)
    assert v.value() is first
    assert v.assign([2, 2, 2]).value() == [2, 2, 2]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "white space"),
        ("two words", "white space"),
        (" a", "white space"),
        ("a\n", "white space"),
        ("\0", "white space"),
        ("cpu", "built in"),
        ("jax", "library jax"),
        ("jax:cpu", "library jax"),
        ("torch:mine", "library torch"),
        ("cupy:0", "library cupy"),
    ],
)
@pytest.mark.parametrize("replace", [False, True])
def test_names_that_cannot_be_registered(name, words, replace):
    before = vs.devices.names()
    with pytest.raises(vs.errors.DeviceError, match=words) as caught:
        vs.devices.register(name, np.ndarray.tolist, replace=replace)
    assert caught.value.device == name
    assert vs.devices.names() == before


@pytest.mark.parametrize("name", [None, 3, b"x"])
def test_a_name_is_a_str(name):
    with pytest.raises(TypeError, match="device"):
        vs.devices.register(name, np.ndarray.tolist)


@pytest.mark.parametrize("put", [None, 3, "cpu"])
def test_what_puts_is_called(put):
    with pytest.raises(TypeError, match="callable"):
        vs.devices.register("mine", put)
    assert "mine" not in vs.devices.names()


# --- threads, copies, memory ---------------------------------------------------------------------


def in_threads(function, count=8):
    barrier, results = threading.Barrier(count), []

    def run():
        barrier.wait()
        results.append(function())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == count
    return results


def test_threads_that_read_at_once_get_the_same_copy():
    with vs.Graph().as_default():
        for i in range(50):
            v = cached(f"v{i}")
            assert {id(value) for value in in_threads(v.value, 4)} == {id(v.value())}


def test_who_makes_a_copy_that_another_one_made_meanwhile_gets_that_one(device):
    def put(array):
        if len(device) < 1:
            device.append(None)
            device.append(v.value())  # as another thread might
        return array

    v = cached(device="shelf")
    vs.devices.register("shelf", put, replace=True)
    assert v.value() is v.value() is device[1]


def test_one_of_several_threads_registers():
    def attempt():
        with contextlib.suppress(vs.errors.DeviceError):
            vs.devices.register("raced", put := lambda array: array)
            return put

    for _ in range(20):
        vs.devices._registered.pop("raced", None)
        (winner,) = [put for put in in_threads(attempt) if put is not None]
        assert vs.devices.resolve("raced") is winner


def test_a_reader_never_keeps_a_copy_of_what_was_there_before(device):
    v = cached(device="shelf")

    def put(array):
        if len(device) < 3:
            device.append(None)
            v.assign([len(device)] * 3)  # as another thread might, while the copy is being made
        return array

    vs.devices.register("shelf", put, replace=True)
    assert [v.value().tolist() for _ in range(4)] == [[1] * 3, [1] * 3, [2] * 3, [3] * 3]


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda graph: pickle.loads(pickle.dumps(graph))]
)
def test_copies_of_a_graph_take_the_device_and_no_cached_copy(duplicate):
    vs.devices.register("locked", lambda array: threading.Lock())  # cannot be copied
    graph = vs.get_default_graph()
    v = cached(device="locked")
    assert v.value() is v.value()
    twin = duplicate(graph)["v"]
    assert twin.caching_device == "locked"
    assert twin.value() is twin.value() is not v.value()
    assert twin.numpy().tolist() == [1, 1, 1]


def test_cached_copies_go_with_the_variable():
    class Copy:
        pass

    vs.devices.register("counted", lambda array: Copy())
    with vs.Graph().as_default():
        v = cached(device="counted")
        copies = [weakref.ref(v.value()), weakref.ref(v.assign([2, 2, 2]).value())]
        assert [alive() is not None for alive in copies] == [False, True]
    del v
    gc.collect()
    assert copies[1]() is None


def test_a_function_does_not_keep_the_graph():
    def build():
        graph = vs.Graph()
        with graph.as_default():
            variable = vs.get_variable("v", [1])
            with vs.variable_scope("a", caching_device=lambda new: variable.device):
                vs.get_variable("w", [1])
        return weakref.ref(graph)

    alive = build()
    gc.collect()
    assert alive() is None


# --- libraries -----------------------------------------------------------------------------------


class FakeCupy(types.ModuleType):
    """Two GPUs, as far as `varscope.devices` looks; the real library needs one to be imported."""

    def __init__(self):
        super().__init__("cupy")
        self.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
        self.current = []
        self.cuda = types.SimpleNamespace(
            Device=self.device, runtime=types.SimpleNamespace(getDeviceCount=lambda: 2)
        )

    @contextlib.contextmanager
    def device(self, index):
        self.current.append(index)
        yield
        self.current.pop()

    def asarray(self, array):
        if array.dtype.itemsize > 8:
            raise ValueError(f"Unsupported dtype {array.dtype}")
        return self.current[-1], array


@pytest.fixture
def cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy())
    vs.devices._tried.cache_clear()
    yield
    vs.devices._tried.cache_clear()


def test_cupy_devices_are_numbers(cupy, refused):
    v = cached(device="cupy:1", dtype=">f4")
    index, array = v.value()
    assert (index, array.tolist(), array.dtype) == (1, [1, 1, 1], np.dtype("=f4"))
    assert v.value()[1] is array
    for wrong in ("2", "", "-1", "gpu", "²"):
        with refused(vs.errors.DeviceError, "cupy:0, cupy:1") as caught:
            cached("w", device=f"cupy:{wrong}")
        assert caught.value.present == ["cupy:0", "cupy:1"]
    with refused(vs.errors.DeviceError, "complex128", "dtype"):
        cached("w", device="cupy:0", dtype="complex128")
    assert "cupy:" in vs.devices.names()


def test_a_library_that_is_out_of_memory_or_has_no_driver(cupy, refused):
    def fail():
        raise failure

    sys.modules["cupy"].cuda.runtime.getDeviceCount = fail
    failure = MemoryError()
    with refused(MemoryError):
        cached(device="cupy:0")
    failure = RuntimeError("no driver\nsecond line")
    with refused(vs.errors.DeviceError, "RuntimeError: no driver); no device") as caught:
        cached(device="cupy:0")
    assert caught.value.present == []
