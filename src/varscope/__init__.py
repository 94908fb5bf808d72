"""varscope: a fast, trustworthy registry of scopes and names for very large models.

`variable_scope` opens a scope, a prefix with defaults; `get_variable` creates or shares a variable
by its name in it.  What is in a graph can be found, initialised, saved and restored:

>>> import varscope as vs
>>> with vs.variable_scope("layer", initializer=vs.ones):
...     w = vs.get_variable("w", [2, 3])
>>> with vs.variable_scope("layer", reuse=True):
...     vs.get_variable("w") is w
True
>>> w.name, w.numpy().sum().item()
('layer/w:0', 6.0)

| to | ask |
|---|---|
| open scopes and ask for variables | `variable_scope`, `get_variable`, `get_variable_scope` |
| see why one is called so, or refused | `explain`; the errors are in `varscope.errors` |
| build several models in a program | `Graph`, `make_template`, `stamp` |
| make the first values of many at once | `initialize`, `set_random_seed` |
| save and restore | `save`, `restore`, `open`, `plan` |
"""

from typing import TYPE_CHECKING

from varscope import interpreters  # noqa: F401  (before NumPy is loaded)

# isort: split
from varscope import devices, errors
from varscope.creation import GraphKeys
from varscope.generating import stamp
from varscope.graph import (
    Graph,
    add_to_collection,
    attach,
    get_collection,
    get_default_graph,
    get_regularization_loss,
    get_regularization_losses,
    global_variables,
    local_variables,
    reset_default_graph,
    set_random_seed,
    trainable_variables,
)
from varscope.initialization import initialize
from varscope.initializers import (
    Initializer,
    PartitionInfo,
    constant,
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    identity,
    lecun_normal,
    lecun_uniform,
    ones,
    orthogonal,
    random_normal,
    random_uniform,
    truncated_normal,
    uniform_unit_scaling,
    variance_scaling,
    zeros,
)
from varscope.partitioned import PartitionedVariable
from varscope.partitioners import (
    SaveSliceInfo,
    fixed_size_partitioner,
    min_max_variable_partitioner,
    variable_axis_size_partitioner,
)
from varscope.regularizers import (
    RegularizationLoss,
    l1_l2_regularizer,
    l1_regularizer,
    l2_regularizer,
    no_regularizer,
    sum_regularizer,
)
from varscope.scopes import (
    AUTO_REUSE,
    VariableScope,
    adopt,
    get_local_variable,
    get_variable,
    get_variable_scope,
    name_scope,
    variable_scope,
)
from varscope.storage import Arena, Heap, MemoryMapped
from varscope.substitution import substitute
from varscope.templates import Template, make_template
from varscope.variables import Variable

if TYPE_CHECKING:
    from varscope.checkpoint.contents import Checkpoint, StoredTensor
    from varscope.checkpoint.materialising import finish, materialise
    from varscope.checkpoint.opening import open
    from varscope.checkpoint.planning import plan
    from varscope.checkpoint.plans import Plan
    from varscope.checkpoint.restoring import restore
    from varscope.checkpoint.saving import save
    from varscope.explaining import Explanation, explain
    from varscope.interop.jax import transform
    from varscope.name_maps import NameMap

__all__ = [
    "AUTO_REUSE",
    "Arena",
    "Checkpoint",
    "Explanation",
    "Graph",
    "GraphKeys",
    "Heap",
    "Initializer",
    "MemoryMapped",
    "NameMap",
    "PartitionInfo",
    "PartitionedVariable",
    "Plan",
    "RegularizationLoss",
    "SaveSliceInfo",
    "StoredTensor",
    "Template",
    "Variable",
    "VariableScope",
    "add_to_collection",
    "adopt",
    "attach",
    "constant",
    "devices",
    "errors",
    "explain",
    "finish",
    "fixed_size_partitioner",
    "get_collection",
    "get_default_graph",
    "get_local_variable",
    "get_regularization_loss",
    "get_regularization_losses",
    "get_variable",
    "get_variable_scope",
    "global_variables",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "initialize",
    "l1_l2_regularizer",
    "l1_regularizer",
    "l2_regularizer",
    "lecun_normal",
    "lecun_uniform",
    "local_variables",
    "make_template",
    "materialise",
    "min_max_variable_partitioner",
    "name_scope",
    "no_regularizer",
    "ones",
    "open",
    "orthogonal",
    "plan",
    "random_normal",
    "random_uniform",
    "reset_default_graph",
    "restore",
    "save",
    "set_random_seed",
    "stamp",
    "substitute",
    "sum_regularizer",
    "trainable_variables",
    "transform",
    "truncated_normal",
    "uniform_unit_scaling",
    "variable_axis_size_partitioner",
    "variable_scope",
    "variance_scaling",
    "zeros",
]
__version__ = "0.1.0"

# What many programs never use is imported when it is first asked for: where each name is.
_LATE = {
    "Checkpoint": "checkpoint.contents",
    "Explanation": "explaining",
    "NameMap": "name_maps",
    "Plan": "checkpoint.plans",
    "StoredTensor": "checkpoint.contents",
    "explain": "explaining",
    "finish": "checkpoint.materialising",
    "materialise": "checkpoint.materialising",
    "open": "checkpoint.opening",
    "plan": "checkpoint.planning",
    "restore": "checkpoint.restoring",
    "save": "checkpoint.saving",
    "transform": "interop.jax",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f"varscope.{_LATE[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
