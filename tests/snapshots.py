"""All of a graph that a failure has to leave as it was."""

import varscope as vs

PROBES = ("foo", "d", "v", "w", "a/b")
KEYS = [value for name, value in vars(vs.GraphKeys).items() if name.isupper()] + ["mine"]


def next_default_name(base):
    # Closing a captured scope puts the marks back, so that looking leaves no mark.
    here = vs.variable_scope(vs.get_variable_scope(), auxiliary_name_scope=False)
    with here, vs.variable_scope(None, base, auxiliary_name_scope=False) as scope:
        return scope.name


def snap(graph):
    """All that a failure has to leave as it was: scope, names in order, collections, counters."""
    return {
        "scope": vs.get_variable_scope().name,
        "name scope": graph.get_name_scope(),
        "variables": [(v.name, v.initialized) for v in graph.variables],
        "collections": {key: list(graph.get_collection(key)) for key in KEYS},
        "op names": [graph.unique_name(name, mark_as_used=False) for name in PROBES],
        "default names": [next_default_name(name) for name in PROBES],
    }
