"""varscope: a fast, trustworthy registry of scopes and names for very large models."""

from varscope import errors
from varscope.creation import GraphKeys
from varscope.graph import (
    Graph,
    add_to_collection,
    attach,
    get_collection,
    get_default_graph,
    global_variables,
    initialize,
    local_variables,
    reset_default_graph,
    set_random_seed,
    trainable_variables,
)
from varscope.initializers import constant, glorot_uniform, ones, zeros
from varscope.regularizers import no_regularizer
from varscope.scopes import (
    AUTO_REUSE,
    VariableScope,
    get_local_variable,
    get_variable,
    get_variable_scope,
    make_template,
    name_scope,
    variable_scope,
)
from varscope.variables import Variable

__all__ = [
    "AUTO_REUSE",
    "Graph",
    "GraphKeys",
    "Variable",
    "VariableScope",
    "add_to_collection",
    "attach",
    "constant",
    "errors",
    "get_collection",
    "get_default_graph",
    "get_local_variable",
    "get_variable",
    "get_variable_scope",
    "global_variables",
    "glorot_uniform",
    "initialize",
    "local_variables",
    "make_template",
    "name_scope",
    "no_regularizer",
    "ones",
    "reset_default_graph",
    "set_random_seed",
    "trainable_variables",
    "variable_scope",
    "zeros",
]
__version__ = "0.1.0"
