"""The folded summary: what folds, what must not, and that nothing is lost."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import varscope as vs
from varscope import folding
from varscope.summary import expand, fold, format_bytes, summarize

F4 = "float32"


def patterns(*paths, dtype=F4, shape=(2,)):
    return [row.path for row in fold((path, dtype, shape) for path in paths)]


def numbered(template, numbers):
    return [template.format(number) for number in numbers]


def test_numbered_siblings_fold_to_a_range():
    assert patterns(*numbered("layers_{}/w", range(92))) == ["layers_[0-91]/w"]


def test_gaps_are_shown():
    assert patterns(*numbered("x_{}", [0, 1, 2, 3, 5, 7, 8, 9])) == ["x_[0-3,5,7-9]"]


def test_the_order_of_siblings_does_not_matter():
    assert patterns("x_2", "x_10", "x_1") == ["x_[1-2,10]"]


def test_default_names_fold_with_the_first_one_that_has_no_number():
    assert patterns("norm/w", "norm_1/w") == ["norm{,_1}/w"]
    assert patterns("layer/w", *numbered("layer_{}/w", range(1, 92))) == ["layer{,_[1-91]}/w"]


def test_bare_numbers_fold():
    assert patterns(*numbered("h/{}/w", range(12))) == ["h/[0-11]/w"]


def test_a_single_name_stays_as_it_is():
    assert patterns("x_7", "w1", "w2", "norm") == ["x_7", "w1", "w2", "norm"]


def test_leading_zeros_are_not_numbers():
    assert patterns("x_1", "x_01", "x_2") == ["x_[1-2]", "x_01"]
    assert patterns("x_00", "x_01") == ["x_00", "x_01"]


def test_digits_of_other_scripts_are_not_numbers():
    assert patterns("x_1", "x_\N{ARABIC-INDIC DIGIT TWO}") == [
        "x_1",
        "x_\N{ARABIC-INDIC DIGIT TWO}",
    ]


def test_numbers_too_long_to_count_stay_names():
    long = "x_" + "9" * 5000
    assert patterns("x_1", "x_2", long) == ["x_[1-2]", long]


def test_nested_repetition_multiplies():
    paths = [f"layers_{i}/experts_{j}/w1" for i in range(3) for j in range(5)]
    (row,) = fold((path, "float16", (4, 2)) for path in paths)
    assert (row.path, row.count) == ("layers_[0-2]/experts_[0-4]/w1", 15)
    assert (row.parameters, row.nbytes) == (120, 240)


def test_dots_end_components_too():
    names = numbered("model.layers.{}.w", range(12))
    assert patterns(*names, "model.norm.w", "model.norm_1.w") == [
        "model.layers.[0-11].w",
        "model.norm{,_1}.w",
    ]
    assert patterns("a.0/w", "a.1/w", "a/0.w", "a/1.w") == ["a.[0-1]/w", "a/[0-1].w"]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("a[0]", r"a\[0]"),
        ("a[x]", "a[x]"),
        ("a{,_1}", r"a\{,_1}"),
        ("{a}", "{a}"),
        ("a\\b", r"a\\b"),
        ("red\x1b[31m", r"red\x1b\[31m"),
        ("two\nlines", r"two\x0alines"),
        ("back\u202ewards", r"back\u202ewards"),
        ("\U000e0001", r"\U000e0001"),
        ("schön", "schön"),
        ("", ""),
        ("//..", "//.."),
    ],
)
def test_names_that_look_like_patterns(name, pattern):
    assert patterns(name) == [pattern]
    assert [path for path, _, _ in expand(fold([(name, F4, ())]))] == [name]
    assert pattern.isprintable()


def test_siblings_with_odd_names_fold():
    assert patterns("a[0]_1", "a[0]_2") == [r"a\[0]_[1-2]"]
    assert patterns("\t/w", "\t_1/w") == [r"\x09{,_1}/w"]


def test_a_dtype_that_is_not_known_has_no_size():
    (row,) = fold([("a", "F4_odd", (2,))])
    assert (row.dtype, row.parameters, row.nbytes) == ("F4_odd", 2, None)
    with pytest.raises(TypeError):
        fold([("a", object(), (2,))])


def test_different_shapes_and_dtypes_stay_apart():
    rows = fold([("x_0", F4, (2,)), ("x_1", F4, (3,)), ("x_2", "int8", (2,)), ("x_3", F4, (2,))])
    assert [(row.path, row.dtype, row.shape) for row in rows] == [
        ("x_[0,3]", F4, (2,)),
        ("x_1", F4, (3,)),
        ("x_2", "int8", (2,)),
    ]


def test_what_siblings_share_folds_although_they_differ_elsewhere():
    dense = [f"layers_{i}/{name}" for i in range(3) for name in ("query", "mlp/w")]
    experts = ("query", "experts_0/w", "experts_1/w")
    sparse = [f"layers_{i}/{name}" for i in range(3, 9) for name in experts]
    assert patterns(*dense, *sparse) == [
        "layers_[0-8]/query",
        "layers_[0-2]/mlp/w",
        "layers_[3-8]/experts_[0-1]/w",
    ]


def test_a_variable_and_a_scope_of_one_name_are_two_things():
    assert patterns("w", "w/a", "w_1", "w_1/a", "w_2/a") == ["w{,_1}", "w{,_[1-2]}/a"]


def test_rows_come_in_the_order_of_first_appearance():
    paths = [f"layers_{i}/{name}" for i in range(2) for name in ("z", "a", "m")]
    assert patterns("table", *paths, "end") == [
        "table",
        "layers_[0-1]/z",
        "layers_[0-1]/a",
        "layers_[0-1]/m",
        "end",
    ]


def test_depth_does_not_overflow_the_stack():
    path = "/".join(["a"] * 20_000)
    (row,) = fold([(path, F4, ())])
    assert row.path == path


def test_unknown_shapes_have_no_size():
    rows = fold([("a", F4, None), ("b", F4, (2, None)), ("c", F4, (0, 3)), ("d", F4, ())])
    assert [(row.shape, row.parameters, row.nbytes) for row in rows] == [
        (None, None, None),
        ((2, None), None, None),
        ((0, 3), 0, 0),
        ((), 1, 4),
    ]


def test_byte_order_is_kept():
    swapped = np.dtype(F4).newbyteorder("S")
    rows = fold([("x_0", np.dtype(F4), ()), ("x_1", swapped, ())])
    assert [np.dtype(row.dtype) for row in rows] == [np.dtype(F4), swapped]


def test_a_path_given_twice_is_refused():
    with pytest.raises(ValueError, match="twice"):
        fold([("a/b", F4, ()), ("a/b", F4, (1,))])


def test_nothing_folds_to_nothing():
    assert fold([]) == []
    assert list(expand([])) == []


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (3 * 1024**4 // 2, "1.5 TiB"),
        (1024**7, "1,024.0 EiB"),
    ],
)
def test_bytes_in_words(nbytes, text):
    assert format_bytes(nbytes) == text


components = st.one_of(
    st.sampled_from(["w", "w1", "norm", "a_1", "_", "a.b", "0", "x_", "x__1"]),
    st.builds("{}{}".format, st.sampled_from(["x_", "norm_", "a_1_", "_", ""]), st.integers(0, 12)),
    st.builds("x_0{}".format, st.integers(0, 12)),
    st.from_regex(r"[A-Za-z0-9_.\-]{0,5}", fullmatch=True),
)
ordinary = st.lists(components, min_size=1, max_size=4).map("/".join)
# Of other people's files: anything, much of it like a pattern or a number.
foreign = st.one_of(
    st.text(max_size=8),
    st.text(alphabet="[]{},_-\\01/.xu\x1b\ud800", max_size=12),
    st.lists(components | st.sampled_from(["[0-1]", "{,_1}", "", "\\", "x_[0]_1"]), max_size=4).map(
        ".".join
    ),
)
paths = ordinary | foreign
kinds = st.sampled_from([("float32", (2,)), ("float16", (2,)), ("float32", None), ("int8", (1, 3))])
models = st.lists(st.tuples(paths, kinds), unique_by=lambda item: item[0], max_size=60).map(
    lambda items: [(path, *kind) for path, kind in items]
)


def as_multiset(variables):
    return sorted(variables, key=repr)


@hypothesis.given(models)
def test_expanding_gives_back_exactly_what_was_folded(variables):
    rows = fold(variables)
    assert as_multiset(expand(rows)) == as_multiset(variables)
    for row in rows:
        assert row.count == len(list(expand([row])))
        assert row.path.isprintable()
        assert "".join(folding.components(row.path)) == row.path
    assert len({(row.path, row.dtype, row.shape) for row in rows}) == len(rows)


@hypothesis.given(models, st.randoms(use_true_random=False))
def test_the_order_of_variables_changes_the_order_of_rows_only(variables, random):
    shuffled = random.sample(variables, len(variables))
    assert set(fold(shuffled)) == set(fold(variables))
    assert fold(variables) == fold(list(variables))


@hypothesis.given(st.lists(foreign, unique=True, max_size=40))
def test_an_escaped_name_stands_for_itself_alone(names):
    for name in names:
        assert list(folding.expand(folding.escaped(name))) == [name]


@hypothesis.given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_a_regular_model_has_as_many_rows_as_kinds(layers, experts, names):
    variables = [
        (f"layers_{i}/experts_{j}/w{k}", F4, (k,))
        for i in range(layers)
        for j in range(experts)
        for k in range(names)
    ]
    assert [row.count for row in fold(variables)] == [layers * experts] * names


def test_a_graph_and_its_summary_agree():
    graph = vs.Graph()
    with graph.as_default():
        for i in range(5):
            with vs.variable_scope(f"layers_{i}"):
                vs.get_variable("w", [3, 4], dtype="float16")
                vs.get_variable("b", [4])
                vs.get_local_variable("steps", [], dtype="int64")
    summary = summarize(graph)
    assert summary.variables == len(graph) == 15
    assert summary.parameters == graph.num_parameters
    assert summary.nbytes == graph.nbytes
    assert [(row.path, row.dtype, row.shape) for row in summary.rows] == [
        ("layers_[0-4]/w", "float16", (3, 4)),
        ("layers_[0-4]/b", "float32", (4,)),
        ("layers_[0-4]/steps", "int64", ()),
    ]
    assert as_multiset(expand(summary.rows)) == as_multiset(
        (v.op_name, str(v.dtype), v.shape) for v in graph.variables
    )


def test_nothing_is_lost_of_names_that_stand_in_each_other():
    """Nearly alike siblings at every level: each is taken apart, and stays what it was."""
    paths = [
        f"a_{i}/b_{j}/c_{k}"
        for i in range(5)
        for j in range(5)
        for k in range(5)
        if (i * j + k) % 7 and (i, j) != (2, 3)
    ]
    rows = fold((path, F4, ()) for path in paths)
    assert sorted(path for path, _, _ in expand(rows)) == sorted(paths)
    assert sum(row.count for row in rows) == len(paths)


def test_a_summary_materialises_nothing():
    graph = vs.Graph()
    with graph.as_default():
        variable = vs.get_variable("huge", [10**6, 10**6])
    summarize(graph)
    assert not variable.initialized
