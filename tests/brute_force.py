"""What globs and name maps must do, said in the plainest way."""

import re

import numpy as np


def as_regex(pattern):
    """What a pattern means, for names as texts; takes forever where there are many `**`."""
    parts = pattern.split("/")
    texts = ["".join({"*": "[^/]*", "?": "[^/]"}.get(c, re.escape(c)) for c in p) for p in parts]
    above = "".join(
        "(?:[^/]+/)*" if p == "**" else t + "/" for p, t in zip(parts, texts, strict=True)
    )
    if parts[-1] == "**":
        return re.compile(above.removesuffix("(?:[^/]+/)*") + ".*", re.DOTALL)
    return re.compile(above.removesuffix("/"), re.DOTALL)


def expected(graph, pattern):
    """The variables that `find` has to find."""
    fits = as_regex(pattern).fullmatch
    return [v for v, name in zip(graph.variables, graph, strict=True) if fits(name)]


def check_find(graph, *patterns):
    for pattern in patterns:
        names = [v.op_name for v in expected(graph, pattern)]
        assert [v.op_name for v in graph.find(pattern)] == names, pattern


def check_law(m, source):
    """What is written by a map and by its inverse is what was there."""
    there = m.plan([source])
    back = m.inverse().plan([there.recipes])
    used = source.keys() - {name for _, name in there.unused + there.dropped}
    assert not back.unused and not back.dropped
    assert back.recipes.keys() == used
    for name in used:
        values = back.recipes[name].read()
        assert (values.shape, values.dtype) == (source[name].shape, source[name].dtype)
        np.testing.assert_array_equal(values, source[name])
    return back
