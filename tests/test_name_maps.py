"""Name maps: what each rule makes of names and tensors, every error, and the way back."""

import json
import re
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from brute_force import check_law
from hypothesis import strategies as st
from requires import require

import varscope as vs
from varscope.errors import ArgumentTypeError, NameMapError
from varscope.name_maps.maps import Plan, _Backwards


def tensor(*shape, start=0):
    return np.arange(start, start + int(np.prod(shape)), dtype="float32").reshape(shape)


def plan(rules, *sources, **settings):
    return vs.NameMap(rules, **settings).plan([*sources])


def renamed(rules, *names, **settings):
    """From read to written names, of those that are only renamed."""
    found = plan(rules, dict.fromkeys(names, tensor(1)), **settings)
    return {read: written for written, read in found.renames.items()}


def results(rules, *sources, **settings):
    """What is written, as lists; shapes and dtypes that were promised are kept."""
    found = {}
    for name, recipe in plan(rules, *sources, **settings).recipes.items():
        values = recipe.read()
        assert (recipe.shape, recipe.dtype) == (values.shape, values.dtype)
        out = np.full(recipe.shape, 99, recipe.dtype)
        assert recipe.read(out=out) is out
        np.testing.assert_array_equal(out, values)
        np.testing.assert_array_equal(recipe[...], values)
        found[name] = values.tolist()
    return found


# --- names


def test_a_prefix_is_replaced():
    rules = [{"prefix": "model.", "to": "encoder/"}]
    assert renamed(rules, "model.w", "model.0.b", "model") == {
        "model.w": "encoder/w",
        "model.0.b": "encoder/0.b",
    }


def test_a_prefix_with_another_separator():
    rules = [{"prefix": "model.", "to": "encoder/"}]
    assert renamed(rules, "model.layer.0.w", separator=".") == {
        "model.layer.0.w": "encoder/layer/0/w"
    }
    rules = [{"prefix": "encoder/", "to": "model."}]
    assert renamed(rules, "encoder/layer/0/w", to_separator=".") == {
        "encoder/layer/0/w": "model.layer.0.w"
    }


def test_an_empty_prefix_is_every_name():
    assert renamed([{"prefix": "", "to": "x/"}], "a", "b/c") == {"a": "x/a", "b/c": "x/b/c"}


@pytest.mark.parametrize(
    "glob, to, read, written",
    [
        ("encoder/layer/*/w", "layers_*/kernel", "encoder/layer/7/w", "layers_7/kernel"),
        ("*/*/w", "*_*/w", "a/b/w", "a_b/w"),
        ("{i}/{j}/w", "{j}/{i}/w", "a/b/w", "b/a/w"),
        ("{i}/*/w", "*/{i}", "a/b/w", "b/a"),
        ("{i}/{i}", "{i}", "a/a", "a"),
        ("a{i}_*b", "*/{i}", "a1_2b", "2/1"),
        ("layer_?/w", "l?/w", "layer_3/w", "l3/w"),
        ("a*", "b*", "a", "b"),
        ("**", "x/**", "a/b/c", "x/a/b/c"),
        ("**", "**", "a", "a"),
        ("a/**", "**", "a/b/c", "b/c"),
        ("**/w", "**/kernel", "w", "kernel"),
        ("**/w", "**/kernel", "a/b/w", "a/b/kernel"),
        ("**/w", "x/**", "a/b/w", "x/a/b"),
        ("a/**/w", "x/**/y", "a/w", "x/y"),
        ("a/**/w", "x/**/y", "a/b/c/w", "x/b/c/y"),
        ("**/{i}/w", "{i}/**", "a/b/w", "b/a"),
        ("100%/*", "%s_*%", "100%/x", "%s_x%"),
        ("a.b/*", "*", "a.b/x.y", "x.y"),
        ("[a]/*", "*", "[a]/x", "x"),
    ],
)
def test_globs(glob, to, read, written):
    assert renamed([{"glob": glob, "to": to}], read) == {read: written}


@pytest.mark.parametrize(
    "glob, name",
    [
        ("a/*", "a"),
        ("a/*", "a/b/c"),
        ("a/**", "a"),
        ("a/?", "a/bc"),
        ("{i}/{i}", "a/b"),
        ("a.b", "axb"),
        ("*/w", "w"),
        ("**/w", "aw"),
        ("A/*", "a/b"),
    ],
)
def test_what_globs_do_not_match(glob, name):
    found = vs.NameMap([{"glob": glob, "drop": True}]).plan([{name: tensor(1)}])
    assert (found.unused, found.dropped) == ([(0, name)], [])


def test_numbers_are_components_of_dotted_names():
    rules = [{"glob": "h.*.**", "to": "layers_*/**"}]
    assert renamed(rules, "h.10.attn.c_attn.weight", separator=".") == {
        "h.10.attn.c_attn.weight": "layers_10/attn/c_attn/weight"
    }


def test_a_rule_has_its_own_separators():
    rules = [
        {"prefix": "a.", "to": "a/", "separator": "."},
        {"prefix": "b:", "to": "b.", "separator": ":", "to_separator": "."},
        {"prefix": "c.", "to": "c/"},
    ]
    assert renamed(rules, "a.x.y", "b:x:y", "c.x.y") == {
        "a.x.y": "a/x/y",
        "b:x:y": "b.x.y",
        "c.x.y": "c/x.y",
    }


def test_separators_are_exchanged_so_that_names_stay_apart():
    found = renamed([{"glob": "**", "to": "**"}], "a/b.c", "a.b.c", separator=".")
    assert found == {"a/b.c": "a.b/c", "a.b.c": "a/b/c"}


@pytest.mark.parametrize(
    "regex, to, read, written",
    [
        (r"layer\.(\d+)\.(.*)", r"layers_\1/\2", "layer.12.a.b", "layers_12/a.b"),
        (r"(?P<x>.)-(?P<y>.)", r"\g<y>/\g<x>\1", "a-b", "b/aa"),
        (r"(a)?b", r"x\1", "b", "x"),
        (r"(a)?b", r"x\g<1>1", "ab", "xa1"),
        (r".*", r"100%s\\", "a", "100%s\\"),
        (r"(?i)W(\d)", r"w_\1", "w3", "w_3"),
    ],
)
def test_regexes(regex, to, read, written):
    assert renamed([{"regex": regex, "to": to}], read) == {read: written}


def test_a_regex_matches_the_whole_name():
    found = plan([{"regex": "a", "to": "b"}], {"ab": 1, "ba": 1})
    assert found.unused == [(0, "ab"), (0, "ba")]


def test_groups_are_written_with_the_other_separator():
    rules = [{"regex": r"layer\.(\d+)\.(.*)", "to": r"layers_\1/\2"}]
    assert renamed(rules, "layer.1.a.b", separator=".") == {"layer.1.a.b": "layers_1/a/b"}


def test_the_first_rule_that_matches_takes_the_name():
    rules = [
        {"name": "a/special", "to": "first"},
        {"glob": "a/*", "to": "second/*"},
        {"name": "a/other", "to": "never"},
        {"names": {"b": "third", "a/more": "never"}},
        {"glob": "b", "drop": True},
        {"prefix": "", "to": "rest/"},
    ]
    assert renamed(rules, "a/special", "a/other", "a/more", "b", "c") == {
        "a/special": "first",
        "a/other": "second/other",
        "a/more": "second/more",
        "b": "third",
        "c": "rest/c",
    }


def test_a_name_that_no_rule_matches_is_not_used():
    found = plan(
        [{"name": "a", "to": "b"}, {"glob": "c/*", "drop": True}], {"a": 1, "c/d": 1, "e": 1}
    )
    assert list(found.recipes) == ["b"]
    assert found.dropped == [(0, "c/d")]
    assert found.unused == [(0, "e")]


def test_a_dict_uses_what_is_in_it():
    found = vs.NameMap.of({"a": "x/a", "b": None}).plan([{"a": 1, "b": 1, "c": 1}])
    assert found.renames == {"x/a": "a"}
    assert (found.dropped, found.unused) == ([(0, "b")], [(0, "c")])


def test_a_function_says_what_becomes_of_each_name():
    found = vs.NameMap.of(lambda name: None if name == "b" else f"x/{name}").plan(
        [{"a": 1, "b": 1}]
    )
    assert found.renames == {"x/a": "a"}
    assert (found.dropped, found.unused) == ([(0, "b")], [])


def test_what_a_function_raises_passes():
    with pytest.raises(ZeroDivisionError):
        vs.NameMap.of(lambda name: 1 / 0).plan([{"a": 1}])


def test_one_tensor_under_two_names():
    assert results([{"name": "e", "to": ["table", "kernel"]}], {"e": tensor(2)}) == {
        "table": [0, 1],
        "kernel": [0, 1],
    }


def test_the_order_is_that_of_what_is_read():
    source = {"q.1": tensor(1), "a": tensor(1), "q.0": tensor(1), "b": tensor(2)}
    rules = [
        {"glob": "q.{i}", "to": "q", "stack": 0},
        {"name": "b", "to": ["b0", "b1"], "split": 0},
        {"glob": "*", "to": "*"},
    ]
    assert list(plan(rules, source).recipes) == ["q", "a", "b0", "b1"]


# --- tensors


def test_transpose():
    source = {"a": tensor(2, 3), "b": tensor(2, 1, 3)}
    rules = [
        {"name": "a", "to": "a", "transpose": True},
        {"name": "b", "to": "b", "transpose": [2, 0, 1]},
    ]
    assert results(rules, source) == {
        "a": tensor(2, 3).T.tolist(),
        "b": tensor(2, 1, 3).transpose(2, 0, 1).tolist(),
    }


@pytest.mark.parametrize(
    "text",
    ["0:2", "[0:2]", ":, 1:3", "[:, 1:3]", "1", "-1", "[..., 0]", "..., 1:2", ":", "[::2, :1]",
     "-2:", "[1, ..., 2]", "3:3", "[ 0 : 2 , 1 ]", "2:1", "1:4:2, 1", "..."],
)  # fmt: skip
def test_slices_are_those_of_numpy(text):
    values = tensor(4, 3, 5)
    expected = eval(f"values[{text.strip('[]')}]")
    found = results([{"name": "a", "to": "b", "slice": text}], {"a": values})
    assert found == {"b": expected.tolist()}


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_stack_is_in_the_order_of_the_numbers(axis):
    source = {f"h.{i}.w": tensor(2, 3, start=100 * i) for i in (10, 2, 0, 1, *range(3, 10))}
    rules = [{"glob": "h.{i}.w", "to": "w", "stack": axis}]
    expected = np.stack([source[f"h.{i}.w"] for i in range(11)], axis)
    assert results(rules, source, separator=".") == {"w": expected.tolist()}


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_concatenate_over_a_wildcard(axis):
    source = {f"h/{i}": tensor(2, 2, start=10 * i) for i in (1, 0)}
    expected = np.concatenate([source["h/0"], source["h/1"]], axis)
    rules = [{"glob": "h/*", "to": "w", "concatenate": axis}]
    assert results(rules, source) == {"w": expected.tolist()}


def test_the_number_can_be_a_group_of_a_regex():
    source = {"h1_w": tensor(1), "h0_w": tensor(2)}
    rules = [{"regex": r"h(\d+)_(.*)", "to": r"\2", "concatenate": 0}]
    assert results(rules, source) == {"w": [0, 1, 0]}


def test_numbers_may_start_elsewhere():
    rules = [{"glob": "h/*", "to": "w", "stack": {"axis": 0, "start": 1}}]
    assert results(rules, {"h/2": tensor(1), "h/1": tensor(1, start=5)}) == {"w": [[5], [0]]}


def test_listed_tensors_are_joined_in_the_order_of_the_list():
    source = {f"h/{i}/{n}": tensor(k, 2) for i in (0, 1) for k, n in enumerate("vkq", 1)}
    rules = [{"glob": ["h/*/q", "h/*/k", "h/*/v"], "to": "h_*/qkv", "concatenate": 0}]
    expected = [*tensor(3, 2).tolist(), *tensor(2, 2).tolist(), *tensor(1, 2).tolist()]
    assert results(rules, source) == {"h_0/qkv": expected, "h_1/qkv": expected}
    rules = [{"name": ["b", "a"], "to": "c", "stack": 0}]
    assert results(rules, {"a": tensor(1), "b": tensor(1, start=7)}) == {"c": [[7], [0]]}


def test_stack_within_each_of_another_wildcard():
    source = {f"l/{i}/e/{j}": tensor(1, start=10 * i + j) for i in range(2) for j in range(3)}
    rules = [{"glob": "l/*/e/{j}", "to": "l_*/e", "stack": 0}]
    assert results(rules, source) == {
        "l_0/e": [[0], [1], [2]],
        "l_1/e": [[10], [11], [12]],
    }


def test_split():
    source = {"qkv": tensor(6, 2)}
    rules = [{"name": "qkv", "to": ["q", "k", "v"], "split": 0}]
    parts = np.split(source["qkv"], 3)
    assert results(rules, source) == {n: p.tolist() for n, p in zip("qkv", parts, strict=True)}
    rules = [{"name": "qkv", "to": ["q", "k"], "split": {"axis": 0, "sizes": [4, 2]}}]
    assert results(rules, source) == {
        "q": source["qkv"][:4].tolist(),
        "k": source["qkv"][4:].tolist(),
    }


def test_split_and_unstack_into_numbered_names():
    rules = [{"glob": "*/w", "to": "*/{i}/w", "unstack": {"axis": 1, "start": 1}}]
    assert results(rules, {"a/w": tensor(2, 2)}) == {"a/1/w": [0, 2], "a/2/w": [1, 3]}
    rules = [{"glob": "w", "to": "h_*/w", "split": {"axis": 0, "sizes": [1, 2]}}]
    assert results(rules, {"w": tensor(3)}) == {"h_0/w": [0], "h_1/w": [1, 2]}
    rules = [{"name": "w", "to": ["x", "y"], "unstack": -1}]
    assert results(rules, {"w": tensor(1, 2)}) == {"x": [0], "y": [1]}


def test_several_slices():
    rules = [{"glob": "h.*.qkv", "to": {"h_*/q": "[:, :2]", "h_*/k": "[:, 2]"}, "separator": "."}]
    values = tensor(2, 3)
    assert results(rules, {"h.0.qkv": values}) == {
        "h_0/q": values[:, :2].tolist(),
        "h_0/k": values[:, 2].tolist(),
    }


def test_slice_split_transpose_and_stack_have_one_order():
    values = tensor(6, 3)
    rules = [{"name": "a", "to": ["b", "c"], "split": 0, "slice": "[2:, 1:]", "transpose": True}]
    assert results(rules, {"a": values}) == {
        "b": values[2:4, 1:].T.tolist(),
        "c": values[4:6, 1:].T.tolist(),
    }
    source = {"a/0": tensor(3, 2), "a/1": tensor(3, 2, start=50)}
    rules = [{"glob": "a/*", "to": "b", "stack": 0, "slice": "1:", "transpose": True}]
    expected = [source["a/0"][1:].T.tolist(), source["a/1"][1:].T.tolist()]
    assert results(rules, source) == {"b": expected}


def test_scalars_and_empty_tensors():
    source = {"s/0": tensor(), "s/1": tensor(), "e": tensor(0, 3), "f": tensor(2, 0)}
    rules = [
        {"glob": "s/*", "to": "s", "stack": 0},
        {"name": "e", "to": "e", "transpose": True},
        {"name": "f", "to": ["f", "g"], "unstack": 0},
    ]
    found = {name: recipe.read() for name, recipe in plan(rules, source).recipes.items()}
    assert {name: values.shape for name, values in found.items()} == {
        "s": (2,), "e": (3, 0), "f": (0,), "g": (0,)
    }  # fmt: skip


def test_dtypes_stay():
    source = {"a/0": np.array([1], ">i2"), "a/1": np.array([2], ">i2")}
    recipe = plan([{"glob": "a/*", "to": "a", "stack": 0}], source).recipes["a"]
    assert recipe.dtype == recipe.read().dtype == np.dtype(">i2")


# --- sources


def test_every_source_is_read_where_a_rule_names_none():
    found = plan([{"glob": "*", "to": "*"}], {"a": tensor(1)}, {"b": tensor(1)}, {})
    assert [recipe.sources for recipe in found.recipes.values()] == [((0, "a"),), ((1, "b"),)]
    assert found.renames is None
    assert all(recipe.plain for recipe in found.recipes.values())


def test_a_rule_names_its_source():
    rules = [
        {"prefix": "", "to": "x/", "source": 0},
        {"name": "w", "to": "y/w", "source": 1},
    ]
    found = plan(rules, {"w": tensor(1)}, {"w": tensor(2), "b": tensor(3)})
    assert {name: recipe.shape for name, recipe in found.recipes.items()} == {
        "x/w": (1,),
        "y/w": (2,),
    }
    assert found.unused == [(1, "b")]


def test_a_source_has_a_label_or_the_name_of_its_file(tmp_path):
    class Opened(dict):
        def __init__(self, path):
            super().__init__(w=tensor(1))
            self.path = path

    rules = [{"prefix": "", "to": "x/", "source": "one"}, {"prefix": "", "to": "y/"}]
    one, two = Opened(tmp_path / "one"), Opened(tmp_path / "two")
    assert list(plan(rules, two, one).recipes) == ["y/w", "x/w"]
    rules[0]["source"] = str(tmp_path / "one")
    assert list(plan(rules, two, one).recipes) == ["y/w", "x/w"]
    rules[0]["source"] = "first"
    found = vs.NameMap(rules).plan({"second": two, "first": one})
    assert list(found.recipes) == ["y/w", "x/w"]
    with pytest.raises(NameMapError, match=r"rule 1, .*: source 'first' must be one of .* is 0: "):
        plan(rules, two, one)
    rules[0]["source"] = "one"
    with pytest.raises(NameMapError, match=r"is 2: source 0 \(.*one\), source 1"):
        plan(rules, one, one)
    rules[0]["source"] = 2
    with pytest.raises(NameMapError, match="source 2 must be one of those that are read"):
        plan(rules, one, two)


def test_one_tensor_from_the_same_name_in_several_files():
    rules = [{"glob": "**", "to": "**", "source": [1, 0], "concatenate": 0}]
    sources = {"a/w": tensor(1)}, {"a/w": tensor(2, start=5)}
    assert results(rules, *sources) == {"a/w": [5, 6, 0]}
    with pytest.raises(NameMapError, match=r"'a/w' is made of 1 tensors.* of source 1 is missing"):
        results(rules, sources[0], {})


def test_sources_are_a_list_of_mappings():
    m = vs.NameMap([])
    for wrong in ({"w": tensor(1)}, [tensor(1)], [["w"]]):
        with pytest.raises(ArgumentTypeError, match="each source of a plan must be a checkpoint"):
            m.plan(wrong)


def test_variables_can_be_read():
    with vs.Graph().as_default() as graph:
        vs.get_variable("a", [2, 1], initializer=vs.ones)
        vs.get_variable("b", [2, 1], initializer=vs.zeros)
        vs.get_variable("c", None, initializer=lambda shape, dtype: [1.0], validate_shape=False)
    variables = {v.op_name: v for v in graph.variables}
    rules = [{"name": ["a", "b"], "to": "ab", "concatenate": 1}, {"glob": "*", "to": "*"}]
    found = plan(rules, variables)
    assert not graph["a"].initialized
    assert found.recipes["ab"].read().tolist() == [[1, 0], [1, 0]]
    with pytest.raises(NameMapError, match=r"^rule 1, .*the shape of 'c', None, is not known yet"):
        plan([{"name": "c", "to": "c", "transpose": True}], variables)


# --- nothing is read before it is needed


def test_checkpoints_are_read_by_the_names_of_their_files(tmp_path):
    save_file = require("safetensors.numpy", "safetensors").save_file
    paths = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for start, path in enumerate(paths):
        save_file({"w.0": tensor(2, 3, start=start), "w.1": tensor(2, 3, start=9)}, path)
    rules = [
        {"glob": "w.{i}", "to": "w", "stack": 0, "slice": "[:, 1:]", "source": paths[1].name},
        {"glob": "w.*", "to": "w_*", "source": str(paths[0])},
    ]
    with vs.open(paths[0]) as first, vs.open(paths[1]) as second:
        assert results(rules, first, second, separator=".") == {
            "w_0": tensor(2, 3).tolist(),
            "w_1": tensor(2, 3, start=9).tolist(),
            "w": [tensor(2, 3, start=start)[:, 1:].tolist() for start in (1, 9)],
        }


class Watched:
    """An array that notes what is read of it."""

    def __init__(self, values):
        self.values, self.read = values, []

    shape = property(lambda self: self.values.shape)
    dtype = property(lambda self: self.values.dtype)

    def __getitem__(self, index):
        found = self.values[index]
        self.read.append(found.size)
        return found


def test_a_plan_reads_nothing_and_a_recipe_only_its_pieces():
    source = {f"h.{i}": Watched(tensor(100, 4)) for i in range(3)}
    rules = [
        {"glob": "h.{i}", "to": "w", "stack": 0, "slice": "[:10, 1]"},
    ]
    found = plan(rules, source)
    recipe = found.recipes["w"]
    assert (recipe.shape, recipe.dtype) == ((3, 10), np.float32)
    str(found.report())
    assert not any(watched.read for watched in source.values())
    recipe.read()
    assert [watched.read for watched in source.values()] == [[10]] * 3


def test_pieces_go_straight_to_their_places():
    out = np.zeros((4, 2), "float32")
    source = {"a/0": tensor(2, 2), "a/1": tensor(2, 2, start=10)}
    plan([{"glob": "a/*", "to": "a", "concatenate": 0}], source).recipes["a"].read(out=out)
    assert out.tolist() == [[0, 1], [2, 3], [10, 11], [12, 13]]
    for rules in ([{"glob": "a/*", "to": "a", "stack": 0}], [{"glob": "**", "to": "**"}]):
        for recipe in plan(rules, source).recipes.values():
            with pytest.raises(ValueError, match=r"out must be an array of shape \(2, 2"):
                recipe.read(out=np.zeros(2))


def test_a_plain_recipe_is_a_view():
    values = tensor(3)
    recipe = plan([{"glob": "*", "to": "x/*"}], {"a": values}).recipes["x/a"]
    assert np.shares_memory(recipe.read(), values)
    assert recipe.plain and recipe.how == "" and recipe.sources == ((0, "a"),)
    assert repr(recipe) == "<Recipe of 'a'>"
    assert recipe[1:].tolist() == [1, 2]


def test_a_changed_recipe_is_not_plain():
    source = {"a": tensor(2, 2), "b/0": tensor(1), "b/1": tensor(1)}
    rules = [
        {"name": "a", "to": "a", "transpose": True},
        {"glob": "b/*", "to": "b", "stack": 0},
    ]
    found = plan(rules, source)
    assert found.renames is None
    assert [recipe.plain for recipe in found.recipes.values()] == [False, False]
    assert repr(found.recipes["b"]) == "<Recipe of 2 tensors, stacked on axis 0>"
    assert repr(found.recipes) == "<recipes of 2 tensors>"
    assert repr(found) == "<Plan: 2 written, 0 not used, 0 left out>"
    assert len(found.recipes) == 2 and "a" in found.recipes and "c" not in found.recipes
    with pytest.raises(KeyError):
        found.recipes["c"]


def test_the_recipes_of_a_plan_can_be_the_source_of_another():
    first = plan([{"glob": "h/*", "to": "w", "stack": 0}], {"h/0": tensor(2), "h/1": tensor(2)})
    assert results([{"name": "w", "to": "v", "transpose": True}], first.recipes) == {
        "v": [[0, 0], [1, 1]]
    }


# --- errors of rules

GOOD = {"glob": "a/*", "to": "b/*"}


@pytest.mark.parametrize(
    "rule, words",
    [
        ("a", "a rule is a dict such as"),
        (["a"], "a rule is a dict such as"),
        (None, "not NoneType None"),
        ({}, "has one of 'name', 'names', 'prefix', 'glob' and 'regex'; it has none of these"),
        ({"to": "a"}, "it has none of these"),
        ({"glob": "a", "regex": "b", "to": "c"}, "it has 'glob' and 'regex'"),
        ({"glb": "a", "to": "c"}, "the key 'glb' is unknown; did you mean 'glob'"),
        ({"glob": "a", "to": "c", 7: 1}, "the key 7 is unknown; known are name, names, prefix"),
        ({"glob": "a"}, "'to' is missing: the name to write, or 'drop': true"),
        ({"glob": "a", "to": 3}, "'to' must be a name, a list of names or a dict"),
        ({"glob": "a", "to": []}, "'to' must be a name"),
        ({"glob": "a", "to": ["b", 3]}, "'to' must be a name"),
        ({"glob": "a", "to": {}}, "'to' must be a name"),
        ({"glob": "a", "to": {3: ":"}}, "'to' must be a name"),
        ({"glob": "a", "to": {"b": 3}}, 'a slice must be a text such as "0:768"'),
        ({"glob": 3, "to": "c"}, "'glob' must be a text, or a list of texts, not 3"),
        ({"prefix": None, "to": "c"}, "'prefix' must be a text"),
        ({"regex": [], "to": "c"}, "'regex' must be a text"),
        ({"name": ["a", "b"], "to": "c"}, "add 'stack' or 'concatenate'"),
        ({"glob": "a", "drop": False}, "'drop' must be true, not False"),
        ({"glob": "a", "drop": "yes"}, "'drop' must be true, not 'yes'"),
        ({"glob": "a", "drop": True, "to": "b"}, "'to' cannot stand beside 'drop'"),
        ({"glob": "a", "drop": True, "transpose": True}, "'transpose' cannot stand beside 'drop'"),
        ({"names": {"a": "b"}, "to": "c"}, "'to' cannot stand beside 'names'"),
        ({"names": {"a": "b"}, "stack": 0}, "'stack' cannot stand beside 'names'"),
        ({"names": ["a"]}, "'names' must be a dict {read name: written name}"),
        ({"names": {"a": 3}}, "'a': 3 must be a name that is read, and the name that is written"),
        ({"names": {3: "a"}}, "3: 'a' must be a name that is read"),
        ({"function": "f"}, "'function' must be a function, not 'f'"),
        ({"glob": "a", "to": "b", "separator": ""}, "'separator' must be one character"),
        ({"glob": "a", "to": "b", "to_separator": "::"}, "'to_separator' must be one character"),
        ({"glob": "a", "to": "b", "separator": 3}, "'separator' must be one character"),
        ({"glob": "a/*", "to": "b"}, "'a/*' has the wildcards *, and 'b' has none"),
        ({"glob": "a", "to": "b/*"}, "'a' has the wildcards none, and 'b/*' has *"),
        ({"glob": "a/*", "to": "*/*"}, "'a/*' has the wildcards *, and '*/*' has * *"),
        ({"glob": "*/**", "to": "**/*"}, "'*/**' has the wildcards * **"),
        ({"glob": "{i}", "to": "{j}"}, "has the wildcards {i}, and '{j}' has {j}"),
        ({"glob": "{i}/{j}", "to": "{j}"}, "to leave one out on purpose with 'stack'"),
        ({"glob": "a**", "to": "b"}, "'**' must be a component of its own"),
        ({"glob": "a", "to": "b**"}, "'**' must be a component of its own"),
        ({"glob": "{i", "to": "b"}, "'{i': a named wildcard is a name in braces"),
        ({"glob": "a", "to": "i}"}, "'i}': a named wildcard is a name in braces"),
        ({"glob": "{1}", "to": "{1}"}, "a named wildcard is a name in braces"),
        ({"glob": "{}", "to": "{}"}, "a named wildcard is a name in braces"),
        ({"regex": "(", "to": "b"}, "the regex '(' does not compile: missing )"),
        ({"regex": "(?P<a>a)(?P<a>b)", "to": "b"}, "does not compile: redefinition of group"),
        ({"regex": "a", "to": r"\1"}, "asks for the group 1, and the regex has 0 groups"),
        ({"regex": "(?P<i>a)", "to": r"\g<j>"}, "the group 'j', and the regex has 1 groups, 'i'"),
        ({"regex": "(a)", "to": r"\g<0>"}, "asks for the group 0"),
        ({"regex": "(a)", "to": r"\x"}, "a backslash stands before the number of a group"),
        ({"regex": "(a)", "to": "b\\"}, "a backslash stands before the number of a group"),
        ({**GOOD, "transpose": False}, "'transpose' must be true, or each axis once"),
        ({**GOOD, "transpose": [0, 2]}, "'transpose' must be true, or each axis once"),
        ({**GOOD, "transpose": [0, True]}, "'transpose' must be true, or each axis once"),
        ({**GOOD, "transpose": "T"}, "'transpose' must be true, or each axis once"),
        ({**GOOD, "slice": 90}, "in YAML: in quotes), not 90"),
        ({**GOOD, "slice": ""}, "a slice must be a text such as"),
        ({**GOOD, "slice": "0:1:0"}, "a slice must be a text such as"),
        ({**GOOD, "slice": "::-1"}, "a slice must be a text such as"),
        ({**GOOD, "slice": "a:b"}, "a slice must be a text such as"),
        ({**GOOD, "slice": "..., ..."}, "a slice must be a text such as"),
        ({**GOOD, "slice": "1" * 5000}, "a slice must be a text such as"),
        ({**GOOD, "stack": 0, "concatenate": 0}, "'stack' and 'concatenate' cannot both be in one"),
        ({**GOOD, "split": 0, "unstack": 0}, "'split' and 'unstack' cannot both be in one rule"),
        ({**GOOD, "stack": 0, "split": 0}, "'split' cannot stand beside 'stack'"),
        ({**GOOD, "stack": 0}, "'stack' needs one wildcard that numbers the tensors"),
        ({"glob": "a", "to": "b", "stack": 0}, "needs one wildcard that numbers the tensors"),
        ({"glob": "*/*", "to": "a", "stack": 0}, "there are 2: *, * (or a list of names)"),
        ({"glob": "*/*", "to": "*", "stack": 0}, "there are 2: *, * (or a list of names)"),
        ({"glob": "{i}/{j}", "to": "a", "stack": 0}, "there are 2: {i}, {j}"),
        ({"glob": "{i}", "to": "{j}", "stack": 0}, "has the wildcards {i}, and '{j}' has {j}"),
        ({"regex": "(.)(.)", "to": "a", "stack": 0}, "there are 2: group 1, group 2"),
        ({"regex": "a", "to": "a", "stack": 0}, "there are 0 (or a list of names)"),
        ({"name": "a", "to": "b", "stack": 0}, "'stack' needs several tensors"),
        ({"prefix": "a", "to": "b", "concatenate": 0}, "'concatenate' needs several tensors"),
        ({"glob": "a/*", "to": ["b", "c"], "stack": 0}, "'stack' makes one tensor: write one name"),
        ({"glob": "a", "to": {"b": ":"}, "stack": 0}, "slices in 'to' cannot stand beside 'stack'"),
        ({"glob": "a", "to": {"b": ":"}, "split": 0}, "slices in 'to' cannot stand beside 'split'"),
        (
            {**GOOD, "unstack": 0},
            "'unstack' needs one wildcard that numbers the tensors: one in 'to'",
        ),
        ({"glob": "a", "to": "{i}{j}", "unstack": 0}, "there are 2: {i}, {j}"),
        ({"glob": "a", "to": "b*", "split": 0}, "how many parts? write"),
        (
            {"name": "a", "to": "b", "split": 0},
            "write a list of names in 'to', or a glob whose 'to'",
        ),
        ({**GOOD, "stack": "0"}, "'stack' must be an axis, such as 0, or {"),
        ({**GOOD, "stack": True}, "'stack' must be an axis"),
        ({**GOOD, "stack": {}}, "'stack' must be an axis"),
        ({**GOOD, "stack": {"axis": 0, "size": 2}}, "the key 'size' is unknown"),
        ({**GOOD, "stack": {"axis": 0, "sizes": [1]}}, "the key 'sizes' is unknown"),
        ({**GOOD, "stack": {"axis": 0, "start": -1}}, "'start' must be the number of the first"),
        ({**GOOD, "split": {"axis": 0, "sizes": 3}}, "'sizes' must be \"equal\" or a list"),
        ({**GOOD, "split": {"axis": 0, "sizes": []}}, "'sizes' must be \"equal\" or a list"),
        ({**GOOD, "split": {"axis": 0, "sizes": [-1]}}, "'sizes' must be \"equal\" or a list"),
        (
            {"name": "a", "to": ["b", "c"], "split": {"axis": 0, "sizes": [1, 1, 1]}},
            "there are 3 sizes for 2 parts",
        ),
        (
            {"name": ["b", "c"], "to": "a", "concatenate": {"axis": 0, "sizes": [1]}},
            "there are 1 sizes for 2 parts",
        ),
        (
            {"name": ["b", "c"], "to": "a", "stack": {"axis": 0, "start": 1}},
            "'start' is for parts that are numbered",
        ),
        ({**GOOD, "source": -1}, "'source' must be the number or the name of a file"),
        ({**GOOD, "source": None}, "'source' must be the number or the name of a file"),
        ({**GOOD, "source": True}, "'source' must be the number or the name of a file"),
        ({**GOOD, "source": [0, 1]}, "a list of sources is for 'stack' and 'concatenate'"),
        ({**GOOD, "source": []}, "a list of sources is for 'stack' and 'concatenate'"),
    ],
)
def test_a_rule_that_cannot_be(rule, words):
    with pytest.raises(NameMapError, match=re.escape(words)) as caught:
        vs.NameMap([GOOD, rule])
    assert caught.value.rule == 2
    assert str(caught.value).startswith("rule 2, ")
    assert len(str(caught.value)) < 1000


def test_the_text_of_a_rule_is_in_the_message():
    with pytest.raises(NameMapError, match=re.escape("rule 1, {'glob': 'a/*', 'to': 'b'}: 'a/*'")):
        vs.NameMap([{"glob": "a/*", "to": "b"}])


@pytest.mark.parametrize(
    "names, words",
    [
        (3, "a name map is a list of rules, a dict"),
        ({"rules": [], "separater": "."}, "the key 'separater' is unknown beside 'rules'; known"),
        ({"rules": [], "separator": 3}, "'separator' must be one character"),
        ({"rules": [], "to_separator": ""}, "'to_separator' must be one character"),
        ({"rule": [GOOD]}, "'rule': [{'glob'"),
        ({"a": 3}, "must be a name that is read"),
        ("map.txt", "map.txt: the name of a file of rules ends in .json, .yaml or .yml"),
    ],
)
def test_what_is_no_map(names, words):
    with pytest.raises(NameMapError, match=re.escape(words)):
        vs.NameMap.of(names)


def test_rules_are_a_list():
    with pytest.raises(NameMapError, match="the rules of a map are a list of dicts, not dict"):
        vs.NameMap({"a": "b"})


def test_what_stands_for_a_map():
    m = vs.NameMap([GOOD], separator=".")
    assert vs.NameMap.of(None) is None
    assert vs.NameMap.of(m) is m
    assert vs.NameMap.of([GOOD]) == vs.NameMap([GOOD]) == vs.NameMap.of({"rules": [GOOD]})
    assert vs.NameMap.of(m.data) == m != vs.NameMap([GOOD])
    assert m.data == {"separator": ".", "rules": [GOOD]}
    assert m != "m"
    assert vs.NameMap.of({"rules": "a"}).plan([{"rules": 1}]).renames == {"a": "rules"}
    assert repr(m) == "<NameMap of 1 rules: [{'glob': 'a/*', 'to': 'b/*'}]>"
    with pytest.raises(TypeError):
        hash(m)


# --- errors of plans

A34 = {"a/0": tensor(3, 4), "a/1": tensor(3, 5), "b": tensor(3, 4)}


@pytest.mark.parametrize(
    "rules, source, words",
    [
        (
            [{"prefix": "a/", "to": ""}, {"prefix": "b/", "to": ""}],
            {"a/w": tensor(1), "b/w": tensor(1)},
            "rule 2, {'prefix': 'b/', 'to': ''}: two tensors would be written as 'w': 'a/w' of "
            "source 0 and 'b/w' of source 0",
        ),
        (
            [{"name": "a", "to": ["x", "x"]}],
            {"a": tensor(1)},
            "two tensors would be written as 'x': 'a' of source 0 and 'a' of source 0",
        ),
        (
            [{"glob": "a/*", "to": "a", "stack": 0}, {"name": "b", "to": "a"}],
            A34,
            "two tensors would be written as 'a': 'a/0' of source 0 and 'b' of source 0",
        ),
        (
            [{"glob": "{x}/{i}", "to": "a", "stack": 0}],
            {},
            "needs one wildcard",
        ),
        ([{"prefix": "a", "to": ""}], {"a": tensor(1)}, "would be written as ''; a name is a text"),
        ([{"function": lambda name: 3}], {"a": 1}, "'a' of source 0 would be written as 3; a name"),
        ([{"function": lambda name: [3]}], {"a": 1}, "and a function returns one, or None"),
        (
            [{"glob": "a/*", "to": "a", "stack": 0}],
            A34,
            "'a/0' has shape (3, 4) and 'a/1' (3, 5): they cannot be stacked",
        ),
        (
            [{"glob": "a/*", "to": "a", "concatenate": 0}],
            A34,
            "'a/0' has shape (3, 4) and 'a/1' (3, 5): they cannot be concatenated on axis 0",
        ),
        (
            [{"glob": "a/*", "to": "a", "concatenate": 2}],
            A34,
            "'a/0' has shape (3, 4): there is no axis 2",
        ),
        (
            [{"name": ["b", "a/0"], "to": "a", "stack": -4}],
            A34,
            "'b' has shape (3, 4): tensors of it cannot be stacked on axis -4",
        ),
        (
            [{"name": ["b", "c"], "to": "a", "stack": 0}],
            {"b": tensor(1), "c": np.zeros(1, "int8")},
            "'b' has dtype float32 and 'c' int8: one tensor cannot be made of both",
        ),
        (
            [{"name": ["b", "c"], "to": "a", "stack": 0}],
            {"b": tensor(1)},
            "'a' is made of 1 tensors, such as 'b', and 'c' is missing",
        ),
        (
            [{"glob": "a/*", "to": "a", "stack": 0}],
            {"a/0": tensor(1), "a/2": tensor(1)},
            "'a' is made of 2 tensors, such as 'a/2', and number 1 is missing",
        ),
        (
            [{"glob": "a/*", "to": "a", "stack": 0}],
            {"a/1": tensor(1), "a/2": tensor(1)},
            'number 0 is missing (to count from 1, write {"axis": 0, "start": 1})',
        ),
        (
            [{"glob": "a/*", "to": "a", "stack": 0}],
            {"a/0": tensor(1), "a/999999999999999999": tensor(1)},
            "number 1 is missing",
        ),
        (
            [{"glob": "a/*", "to": "a", "stack": {"axis": 0, "start": 2}}],
            {"a/1": tensor(1)},
            "'a/1': the parts start at 2",
        ),
        (
            [{"glob": "a/*", "to": "a", "stack": 0}],
            {"a/01": tensor(1)},
            "'a/01': '01' numbers the parts, and is no number",
        ),
        (
            [{"glob": "a/*", "to": "a", "stack": 0}],
            {"a/x": tensor(1)},
            "'a/x': 'x' numbers the parts, and is no number",
        ),
        (
            [{"name": ["b", "a/0"], "to": "a", "concatenate": {"axis": 0, "sizes": [3, 4]}}],
            A34,
            "'a': the sizes on axis 0 are [3, 3], and not [3, 4]: 'b' (3, 4), 'a/0' (3, 4)",
        ),
        (
            [{"name": ["a/1", "a/0"], "to": "a", "concatenate": {"axis": 1, "sizes": "equal"}}],
            A34,
            "'a': the sizes on axis 1 are [5, 4], and not [5, 5]",
        ),
        (
            [{"name": "b", "to": ["c", "d"], "split": 0}],
            A34,
            "'b' has shape (3, 4): axis 0 cannot be split into 2 equal parts",
        ),
        (
            [{"name": "b", "to": ["c", "d"], "split": {"axis": 0, "sizes": [1, 1]}}],
            A34,
            "'b' has shape (3, 4): axis 0 is not the sum of the sizes [1, 1]",
        ),
        (
            [{"name": "b", "to": ["c", "d"], "unstack": 0}],
            A34,
            "'b' has shape (3, 4): axis 0 cannot be unstacked into 2 tensors",
        ),
        (
            [{"glob": "b", "to": "b/*", "unstack": 0}],
            {"b": tensor(0, 2)},
            "'b' has shape (0, 2): axis 0 has nothing to unstack",
        ),
        (
            [{"glob": "b", "to": "b/*", "unstack": 0}],
            {"b": np.empty((2**50, 0))},
            "axis 0 would be 1,125,899,906,842,624 tensors, beyond 10,000,000",
        ),
        (
            [{"name": "b", "to": "c", "slice": "0:4"}],
            A34,
            "'b' has shape (3, 4): 4 is outside of axis 0 of size 3",
        ),
        ([{"name": "b", "to": "c", "slice": "3"}], A34, "3 is outside of axis 0 of size 3"),
        ([{"name": "b", "to": "c", "slice": "-4:"}], A34, "-4 is outside of axis 0 of size 3"),
        (
            [{"name": "b", "to": "c", "slice": "[:, 1:, ::2]"}],
            A34,
            "'b' has shape (3, 4): the slice [:, 1:, ::2] has too many dimensions",
        ),
        (
            [{"name": "b", "to": "c", "transpose": [0, 2, 1]}],
            A34,
            "'b' has shape (3, 4): transpose [0, 2, 1] is for 3 dimensions",
        ),
    ],
)
def test_a_plan_that_cannot_be(rules, source, words):
    with pytest.raises(NameMapError, match=re.escape(words)) as caught:
        plan(rules, source)
    assert caught.value.rule == len(rules)
    assert str(caught.value).startswith(f"rule {len(rules)}, ")


def test_a_part_that_occurs_twice():
    rules = [{"glob": "a/*", "to": "a", "stack": 0}]
    words = "two tensors would be written as 'a': 'a/0' of source 0 and 'a/0' of source 1"
    with pytest.raises(NameMapError, match=words):
        plan(rules, {"a/0": tensor(1)}, {"a/0": tensor(1)})


# --- files

DATA = {
    "separator": ".",
    "rules": [
        {"prefix": "model.", "to": "encoder/", "transpose": [1, 0]},
        {"regex": r"head\.(\d+)", "to": r"head_\1", "slice": "0:1"},
        {"names": {"lr": None, "step": "step"}},
        {"glob": "**", "drop": True},
    ],
}

YAML = r"""
separator: "."
rules:
  - {prefix: model., to: encoder/, transpose: [1, 0]}
  - regex: head\.(\d+)
    to: head_\1
    slice: "0:1"
  - names: {lr: null, step: step}
  - {glob: "**", drop: true}
"""


def test_a_json_file(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps(DATA))
    assert vs.NameMap.of(path) == vs.NameMap.of(str(path)) == vs.NameMap.of(DATA)
    path.write_text(json.dumps(DATA["rules"]))
    assert vs.NameMap.of(path) == vs.NameMap(DATA["rules"])
    path.write_text('{"a": "b"}')
    assert vs.NameMap.of(path) == vs.NameMap.of({"a": "b"})


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".YAML"])
def test_a_yaml_file(tmp_path, suffix):
    require("yaml", "pyyaml")
    path = tmp_path / f"map{suffix}"
    path.write_text(YAML)
    assert vs.NameMap.of(path) == vs.NameMap.of(DATA)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        vs.NameMap.of(tmp_path / "no.json")


def test_without_pyyaml_the_pip_line_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = tmp_path / "map.yaml"
    path.write_text("[]")
    with pytest.raises(ImportError, match=re.escape('pip install "varscope-core[yaml]"')):
        vs.NameMap.of(path)


def test_the_number_of_a_rule_is_kept_for_a_file(tmp_path):
    path = tmp_path / "map.json"
    path.write_text('[{"glob": "a", "to": "b"}, {"glob": "a"}]')
    with pytest.raises(NameMapError) as caught:
        vs.NameMap.of(path)
    assert caught.value.rule == 2


# --- the way back


SOURCE = {
    "w": tensor(4, 6),
    "b": tensor(6),
    **{f"h.{i}.w": tensor(2, 4, start=i) for i in range(3)},
    **{f"h.{i}.a.b_1": tensor(2, 4, start=9 * i) for i in range(3)},
}


@pytest.mark.parametrize(
    "rules, settings, expected",
    [
        ([{"prefix": "h.", "to": "x/"}], {}, [{"prefix": "x/", "to": "h."}]),
        ([{"prefix": "", "to": "x/"}], {"separator": "."}, [{"prefix": "x/", "to": ""}]),
        (
            [{"glob": "h.{i}.**", "to": "**/l_{i}"}],
            {"separator": "."},
            [{"glob": "**/l_{i}", "to": "h.{i}.**"}],
        ),
        (
            [{"regex": r"h\.(\d+)\.(.*)", "to": r"l_\1/\2"}],
            {},
            [{"regex": r"l_(\d+)/(.*)", "to": r"h.\g<1>.\g<2>"}],
        ),
        (
            [{"regex": r"h\.(\d+)\.([^.:]*)(\.?.*)", "to": r"l_\1/\2:\3"}],
            {"separator": "."},
            [{"regex": r"l_(\d+)/([^/:]*):(/?.*)", "to": r"h.\g<1>.\g<2>\g<3>"}],
        ),
        (
            [{"regex": r"(?P<x>w|b)", "to": r"\1/\g<x>"}],
            {},
            [{"regex": r"(w|b)/(?:\1)", "to": r"\g<1>"}],
        ),
        ([{"names": {"w": "b", "b": "w"}}], {}, [{"names": {"b": "w", "w": "b"}}]),
        ([{"names": {"w": "v", "b": None}}], {}, [{"names": {"v": "w"}}]),
        ([{"name": "w", "to": "v"}], {}, [{"name": "v", "to": "w"}]),
        (
            [{"name": "w", "to": "v", "transpose": True}],
            {},
            [{"name": "v", "to": "w", "transpose": True}],
        ),
        (
            [{"name": "w", "to": "v", "transpose": [1, 0]}, {"glob": "**", "drop": True}],
            {},
            [{"name": "v", "to": "w", "transpose": [1, 0]}],
        ),
        (
            [{"glob": "h.{i}.w", "to": "w", "stack": {"axis": 1, "start": 0}}],
            {"separator": "."},
            [{"glob": "w", "to": "h.{i}.w", "unstack": 1}],
        ),
        (
            [{"glob": "h.*.w", "to": "w", "stack": -1, "transpose": [1, 0]}],
            {"separator": "."},
            [{"glob": "w", "to": "h.*.w", "unstack": -1, "transpose": [1, 0]}],
        ),
        (
            [{"glob": "h.*.w", "to": "w", "concatenate": {"axis": 0, "sizes": [2, 2, 2]}}],
            {"separator": "."},
            [{"glob": "w", "to": "h.*.w", "split": {"axis": 0, "sizes": [2, 2, 2]}}],
        ),
        (
            [{"glob": ["h.*.w", "h.*.a.b_1"], "to": "l_*",
              "concatenate": {"axis": 0, "sizes": "equal"}}],
            {"separator": "."},
            [{"glob": "l_*", "to": ["h.*.w", "h.*.a.b_1"], "split": 0}],
        ),
        (
            [{"glob": ["h.*.w", "h.*.a.b_1"], "to": "l_*", "stack": 0}],
            {"separator": "."},
            [{"glob": "l_*", "to": ["h.*.w", "h.*.a.b_1"], "unstack": 0}],
        ),
        (
            [{"name": "w", "to": ["x", "y"], "split": 0, "transpose": True}],
            {},
            [{"name": ["x", "y"], "to": "w", "transpose": True,
              "concatenate": {"axis": 0, "sizes": "equal"}}],
        ),
        (
            [{"name": "w", "to": ["x", "y"], "split": {"axis": -1, "sizes": [1, 5]}}],
            {},
            [{"name": ["x", "y"], "to": "w", "concatenate": {"axis": -1, "sizes": [1, 5]}}],
        ),
        (
            [{"glob": "w", "to": "x/{i}", "unstack": {"axis": 1, "start": 3}}],
            {},
            [{"glob": "x/{i}", "to": "w", "stack": {"axis": 1, "start": 3}}],
        ),
        (
            [{"name": "w", "to": {"x": "[:, :1]", "y": "[:, 1:4]", "z": "[:, 4:]"}}],
            {},
            [{"name": ["x", "y", "z"], "to": "w", "concatenate": 1}],
        ),
        ([{"name": "w", "to": {"x": ":"}}], {}, [{"name": "x", "to": "w"}]),
        (
            [{"prefix": "h.", "to": "h:", "separator": ".", "to_separator": ":"}],
            {},
            [{"prefix": "h:", "to": "h.", "to_separator": ".", "separator": ":"}],
        ),
    ],
)  # fmt: skip
def test_the_inverse(rules, settings, expected):
    m = vs.NameMap(rules, **settings)
    back = m.inverse()
    assert back.data["rules"] == expected
    assert back.inverse() is m
    assert len(check_law(m, SOURCE).recipes)
    # As data it leads back too, where the rules do not write into each other's names.
    again = vs.NameMap.of(back.data).plan([m.plan([SOURCE]).recipes])
    assert again.recipes.keys() == back.plan([m.plan([SOURCE]).recipes]).recipes.keys()


@pytest.mark.parametrize(
    "rule, words",
    [
        ({"function": str.upper}, "what a function did to a name cannot be seen"),
        ({"prefix": "a", "to": "b", "source": 0}, "it names its source"),
        ({"name": "a", "to": "b", "slice": "0:1"}, "'slice' takes a part, and the rest is lost"),
        ({"name": "a", "to": ["b", "c"]}, "it writes a tensor under several names"),
        ({"name": ["a", "b"], "to": "c", "concatenate": 0}, "is not known; write the sizes"),
        (
            {"glob": "a/*", "to": "c", "concatenate": {"axis": 0, "sizes": "equal"}},
            "how many parts there were is not known",
        ),
        ({"names": {"a": "c", "b": "c"}}, "'a' and 'b' are both written as 'c'"),
        ({"glob": "*/*", "to": "*_*"}, "what '*_*' writes can be taken apart in several ways"),
        ({"glob": "**/x/**", "to": "**/x/**"}, "can be taken apart in several ways"),
        ({"regex": "a(.)b(.)", "to": r"\1"}, "group 2 is not written, so it is lost"),
        ({"regex": "(.*)-(.*)", "to": r"\1\2"}, "where one group ends and the next one begins"),
        ({"regex": "(.*)-(.*)", "to": r"\1-\2"}, "where one group ends and the next one begins"),
        ({"regex": "a.b", "to": "c"}, "'.b' matches more than one text and is not in a group"),
        ({"regex": "a?", "to": "c"}, "'a?' matches more than one text"),
        ({"regex": "a|b", "to": "c"}, "'a|b' matches more than one text"),
        ({"regex": r"\d", "to": "c"}, r"'\\d' matches more than one text"),
        ({"regex": "[ab]", "to": "c"}, "'[ab]' matches more than one text"),
        ({"regex": "(a)?", "to": r"\1c"}, "group 1 is repeated"),
        ({"regex": "((a)b)", "to": r"\1\2"}, "group 1 holds '(a)b)'"),
        ({"regex": "(a$)", "to": r"\1"}, "group 1 holds"),
        ({"regex": r"(\bx)", "to": r"\1"}, "group 1 holds"),
        ({"regex": "x([!-.]*)", "to": r"\1", "separator": "."}, "'[!-.]' tells '.' and '/' apart"),
        ({"regex": r"x(\d)", "to": "c", "stack": 0}, "write it as a glob"),
        ({"name": "a", "to": {"b": ":2", "c": "2:4"}}, "its slices do not cover the tensor"),
        ({"name": "a", "to": {"b": ":2", "c": "3:"}}, "its slices do not cover the tensor"),
        ({"name": "a", "to": {"b": "1:2", "c": "2:"}}, "its slices do not cover the tensor"),
        ({"name": "a", "to": {"b": ":2", "c": "[:, 2:]"}}, "its slices do not cover the tensor"),
        ({"name": "a", "to": {"b": ":2, :2", "c": "2:"}}, "its slices do not cover the tensor"),
        ({"name": "a", "to": {"b": "0", "c": "1:"}}, "its slices do not cover the tensor"),
        ({"name": "a", "to": {"b": "::2", "c": "1::2"}}, "its slices do not cover the tensor"),
        ({"name": "a", "to": {"b": "..., :2", "c": "..., 2:"}}, "its slices do not cover"),
        ({"name": "a", "to": {"b": ":-2", "c": "-2:"}}, "its slices do not cover the tensor"),
        ({"name": "a", "to": {"b": ":", "c": ":"}}, "its slices do not cover the tensor"),
    ],
)
def test_rules_without_a_way_back(rule, words):
    m = vs.NameMap([GOOD, rule])
    with pytest.raises(NameMapError, match=re.escape(words)) as caught:
        m.inverse()
    assert caught.value.rule == 2
    assert ": it cannot be turned round: " in str(caught.value)


def test_of_rules_that_can_write_a_name_the_first_takes_it_back():
    m = vs.NameMap(
        [
            {"glob": "m.*.qk", "to": ["x/l_*/q", "x/l_*/k"], "split": 0},
            {"name": "m.special", "to": "x/other"},
            {"prefix": "m.", "to": "x/"},
        ],
        separator=".",
    )
    source = {"m.0.qk": tensor(4), "m.special": tensor(1), "m.a.b": tensor(2)}
    assert check_law(m, source).recipes.keys() == source.keys()


@pytest.mark.parametrize(
    "rules",
    [
        [{"prefix": "a/", "to": "x/"}, {"prefix": "b/", "to": "x/"}],
        [{"prefix": "a/", "to": ""}, {"glob": "b/*", "to": "x/*"}],
        [{"glob": "**/a", "to": "x/**"}, {"name": "b", "to": "x/y"}],
        [{"prefix": "a/", "to": "x/"}, {"names": {"b": "x/b", "c": "x/c"}}],
        [{"name": ["a", "b"], "to": "x", "stack": 0}, {"name": "c", "to": "x"}],
    ],
)
def test_a_rule_that_is_never_reached_on_the_way_back(rules):
    words = r"names such as 'x(/[0bcy])?' are taken back by rule 1, which can write them too"
    with pytest.raises(NameMapError, match=f"^rule 2, .*{words}") as caught:
        vs.NameMap(rules).inverse()
    assert caught.value.rule == 2


def test_a_rule_that_can_write_one_name_in_two_ways():
    m = vs.NameMap([{"glob": "a/*", "to": ["x_*", "*_y"], "split": 0}])
    words = re.escape("'x_y' may have come from 'a/y' or from 'a/x'")
    with pytest.raises(NameMapError, match=words):
        m.inverse().plan([{"x_y": tensor(1)}])


def test_a_rule_that_never_takes_a_name_does_not_stand_in_the_way():
    m = vs.NameMap([{"glob": "a/*", "to": "x/*"}, {"prefix": "a/", "to": "x/"}])
    check_law(m, {"a/b": tensor(1), "a/b/c": tensor(2)})
    m = vs.NameMap([{"prefix": "a/", "to": "x/"}, {"glob": "a/b/*", "to": "x/b/*"}])
    check_law(m, {"a/b": tensor(1), "a/b/c": tensor(2)})


def test_the_inverse_knows_which_rule_of_the_map_would_take_a_name():
    m = vs.NameMap([{"name": "a/w", "drop": True}, {"glob": "a/*", "to": "x_*"}])
    back = m.inverse().plan([{"x_w": tensor(1), "x_b": tensor(1)}])
    assert back.renames == {"a/b": "x_b"}
    assert back.unused == [(0, "x_w")]  # the map would never write it


COMPONENTS = st.sampled_from(["a", "b", "0", "1", "a_0", "a.b", "w"])
NAMES = st.lists(COMPONENTS, min_size=1, max_size=4).map("/".join)
SHAPES = st.sampled_from([(), (2,), (4,), (2, 4), (4, 2), (0,), (3, 0)])
SOURCES = st.dictionaries(NAMES, SHAPES, max_size=8).map(
    lambda shapes: {name: tensor(*shape, start=i) for i, (name, shape) in enumerate(shapes.items())}
)
TOKENS = st.sampled_from(["a", "b", "0", "*", "**", "?", "{i}", "{j}", "a_*", "{i}_*", "w", "a.b"])
GLOBS = st.lists(TOKENS, min_size=1, max_size=3).map("/".join)
REGEXES = st.lists(
    st.sampled_from(["a", "/", r"(\d+)", "(.*)", "([^/]*)", r"\.", "(a|b)", "_", "([a-z.]+)"]),
    min_size=1, max_size=5,
).map("".join)  # fmt: skip
REFERENCES = st.lists(
    st.sampled_from([r"\1", r"\2", "/", "x", "_", "."]), min_size=1, max_size=5
).map("".join)
AXES = st.sampled_from([0, 1, -1])
CHANGES = st.one_of(
    st.just({}),
    st.just({"transpose": True}),
    st.just({"transpose": [1, 0]}),
    st.builds(lambda axis: {"stack": axis}, AXES),
    st.builds(lambda axis: {"unstack": axis}, AXES),
    st.builds(lambda axis: {"split": axis}, AXES),
    st.builds(lambda axis: {"concatenate": {"axis": axis, "sizes": "equal"}}, AXES),
    st.builds(lambda axis: {"concatenate": {"axis": axis, "sizes": [2, 2]}}, AXES),
    st.builds(lambda axis: {"split": {"axis": axis, "sizes": [2, 2]}}, AXES),
)


def some(texts):
    return st.one_of(texts, st.lists(texts, min_size=2, max_size=2))


RULES = st.one_of(
    st.builds(lambda a, b, c: {"prefix": a, "to": b, **c}, some(st.one_of(st.just(""), NAMES)),
              some(NAMES), CHANGES),
    st.builds(lambda a, b, c: {"glob": a, "to": b, **c}, some(GLOBS), some(GLOBS), CHANGES),
    st.builds(lambda a, b, c: {"name": a, "to": b, **c}, some(NAMES), some(NAMES), CHANGES),
    st.builds(lambda a, b: {"name": a, "to": {b: ":2", b + "x": "2:"}}, NAMES, NAMES),
    st.builds(lambda a, b, c: {"regex": a, "to": b, **c}, REGEXES, REFERENCES, CHANGES),
    st.builds(lambda names: {"names": names}, st.dictionaries(NAMES, NAMES, max_size=3)),
    st.builds(lambda a: {"glob": a, "drop": True}, GLOBS),
)  # fmt: skip


@hypothesis.settings(
    deadline=None, max_examples=400, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(
    st.lists(RULES, min_size=1, max_size=3), SOURCES, st.sampled_from("/."), st.sampled_from("/.")
)
def test_any_map_that_has_an_inverse_leads_back(rules, source, separator, to_separator):
    maps = []
    for rule in rules:
        try:
            vs.NameMap([rule], separator=separator, to_separator=to_separator).inverse()
            maps.append(rule)
        except NameMapError:
            continue
    m = vs.NameMap(maps, separator=separator, to_separator=to_separator)
    try:
        there, back = m.plan([source]), m.inverse()
        backwards = _Backwards(back, *back._forward)
        hypothesis.assume(all(len(set(backwards.rules(name))) <= 1 for name in there.recipes))
        back.plan([there.recipes])
    except NameMapError:
        return
    check_law(m, source)


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(
    st.integers(1, 12), st.sampled_from(["stack", "concatenate"]), st.integers(-1, 1),
    st.booleans(), st.sampled_from(["layers_", "x/h"]),
)  # fmt: skip
def test_a_model_leads_back(layers, join, axis, transpose, stem):
    source = {f"m.h.{i}.{name}": tensor(2, 3, start=i) for i in range(layers) for name in "ab"}
    source |= {"m.embed.weight": tensor(5, 2), "m.head": tensor(6, 2)}
    along = {"axis": axis, "sizes": [(2, 3)[axis]] * layers}
    rules = [
        {"glob": "m.h.{i}.a", "to": "a", join: axis if join == "stack" else along},
        {"glob": "m.h.*.**", "to": f"{stem}*/**"},
        {"name": "m.embed.weight", "to": "embed/table"}
        | ({"transpose": True} if transpose else {}),
        {"name": "m.head", "to": ["head/w", "head/v"], "split": 0},
    ]
    back = check_law(vs.NameMap(rules, separator="."), source)
    assert back.recipes.keys() == source.keys()


# --- reports


def test_a_report():
    source = {f"model.layer.{i}.{n}": tensor(2, 2) for i in range(12) for n in ("w", "b")}
    source |= {"model.embed": tensor(6, 2), "lr": tensor(1), "ids": tensor(1)}
    rules = [
        {"glob": "model.layer.{i}.w", "to": "w", "stack": 0},
        {"name": "model.embed", "to": ["q", "k", "v"], "split": 0, "transpose": True},
        {"prefix": "model.", "to": "m/"},
        {"name": "ids", "drop": True},
    ]
    found = vs.NameMap(rules, separator=".").plan([source])
    assert isinstance(found, Plan)
    wanted = ["w", "q", "k", "x_1", "x_2", *(f"m/layer/{i}/b" for i in range(12))]
    times = "\N{MULTIPLICATION SIGN}"
    assert str(found.report(wanted)).splitlines() == [
        "model.layer.[0-11].w -> w  12 to 1  (stacked on axis 0)",
        f"model.layer.[0-11].b -> m/layer/[0-11]/b  {times}12",
        "model.embed -> q  (split on axis 0, transposed)",
        "model.embed -> k  (split on axis 0, transposed)",
        "model.embed -> v  (split on axis 0, transposed)",
        "25 tensors read, 16 written",
        "1 left out on purpose:",
        "    ids",
        "1 that no rule matches:",
        "    lr",
        "2 missing:",
        f"    x_[1-2]  {times}2",
        "1 left over:",
        "    v",
    ]
    report = found.report()
    assert (report.missing, report.left_over) == ((), ())
    assert [(row.tensors, row.count) for row in report.rows] == [(12, 1), (12, 12)] + [(1, 1)] * 3


def test_a_report_of_several_sources():
    rules = [{"glob": "*", "to": "*", "source": [0, 1], "stack": 0}]
    source = {"w_0": tensor(1), "w_1": tensor(1), "w": tensor(1)}
    found = plan(rules, source, {**source, "a/b": tensor(1)})
    assert str(found.report()).splitlines() == [
        "source 0: w{,_[0-1]}",
        "source 1: w{,_[0-1]} ->  6 to 3  (stacked on axis 0)",
        "    w{,_[0-1]}",
        "6 tensors read, 3 written",
        "1 that no rule matches:",
        "    source 1: a/b",
    ]


def test_names_with_dots_and_slashes_are_folded_as_they_are():
    source = {f"a.{i}/b_{i % 2}.c": tensor(1) for i in range(4)} | {"x.0": tensor(1)}
    report = plan([{"prefix": "", "to": "y/"}], source).report()
    patterns = [names.pattern for row in report.rows for names in row.read]
    assert sum(names.count for row in report.rows for names in row.read) == 5
    assert patterns == ["a.[0,2]/b_0.c", "a.[1,3]/b_1.c", "x.0"]


def test_a_long_report_is_cut():
    source = {f"a{'x' * i}": tensor(1) for i in range(1000)}
    text = str(plan([{"glob": "*", "to": "*"}], source).report([]))
    assert "    ... and 960 lines more" in text
    assert text.count("\n") < 100


def test_the_command_line_reports_what_a_map_would_do(tmp_path):
    require("click", '"varscope-core[cli]"')
    require("rich", '"varscope-core[cli]"')
    save_file = require("safetensors.numpy", "safetensors").save_file
    save_file(
        {f"h.{i}": tensor(2, 3) for i in range(3)} | {"lr": tensor(1)}, tmp_path / "t.safetensors"
    )
    rules = [{"glob": "h.*", "to": "l_*/w", "transpose": True}, {"name": "lr", "drop": True}]
    (tmp_path / "map.json").write_text(json.dumps({"separator": ".", "rules": rules}))
    (tmp_path / "model.py").write_text(
        "import varscope as vs\n"
        "def build():\n"
        "    for i in range(3):\n"
        "        vs.get_variable(f'l_{i}/w', [3, 2])\n"
    )
    command = [sys.executable, "-X", "utf8", "-m", "varscope", "restore", "model.py"]
    command += ["t.safetensors", "--names", "map.json", "--dry-run"]

    def output(*more):
        done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, check=True)
        return done.stdout.decode()

    assert re.search(r"^h\.\[0-2\] -> l_\[0-2\]/w +transposed +.3$", output(), re.MULTILINE)
    assert re.search(r"^left out on purpose.*\nlr *$", output(), re.MULTILINE)
    report = json.loads(output("--json"))
    assert report["fits"] and report["dropped"] == ["lr"]
    assert report["map"] == [
        {
            "read": ["h.[0-2]"],
            "written": ["l_[0-2]/w"],
            "how": "transposed",
            "tensors": 3,
            "count": 3,
        }
    ]


# --- many names


def test_a_hundred_thousand_names():
    names = [f"model.layer.{i // 10}.block.{i % 10}.weight" for i in range(100_000)]
    source = dict.fromkeys(names, tensor(1))
    rules = [
        {"name": "model.step", "drop": True},
        {"prefix": "optimizer.", "drop": True},
        {"glob": "model.layer.*.block.*.weight", "to": "layers_*/block_*/kernel"},
    ]
    found = plan(rules, source, separator=".")
    assert len(found.recipes) == 100_000
    assert found.recipes["layers_9999/block_9/kernel"].sources == ((0, names[-1]),)
    assert len(str(found.report())) < 300


def test_the_work_grows_with_the_names_and_not_with_the_entries():
    """Counted in calls of functions: with entries in a dict they are the same for each name."""

    def calls(size):
        rules = [{"name": f"n{i}", "to": f"x/{i}"} for i in range(size)]
        m, source = vs.NameMap(rules), {f"n{i}": 1 for i in range(size)}
        count = 0

        def profile(*_):
            nonlocal count
            count += 1

        sys.setprofile(profile)
        try:
            m.plan([source])
        finally:
            sys.setprofile(None)
        return count

    assert calls(2000) < 2.2 * calls(1000)


def test_plain_recipes_are_made_when_they_are_asked_for():
    found = plan([{"prefix": "", "to": "x/"}], dict.fromkeys("abc", tensor(1)))
    assert found.renames == {"x/a": "a", "x/b": "b", "x/c": "c"}
    assert found.recipes["x/a"].shape == (1,)
