"""PyTorch: variables as tensors and parameters that share their memory, in main memory.

`to_state_dict` and `from_state_dict` go from a graph to a state dict and back, and `as_module`
makes a graph a `torch.nn.Module` that can be trained, by functions that ask for variables too: with
its `entries` in `varscope.substitute`.  Nothing is copied.  Needs PyTorch:
pip install "varscope-core[torch]".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from varscope import memory, shapes
from varscope._scopecore import all_or_nothing
from varscope.errors import (
    AdoptionError,
    ArgumentTypeError,
    ArgumentValueError,
    DTypeMismatchError,
    InvalidNameError,
)
from varscope.graph import Graph
from varscope.initialization import initialize
from varscope.interop import imported
from varscope.scopes import adopt

if TYPE_CHECKING:
    from varscope.variables import Variable

MAKE_IT = 'varscope.interop.torch needs PyTorch: pip install "varscope-core[torch]"'


def library() -> Any:
    """The module torch."""
    return imported("torch", MAKE_IT)


# --- tensors


def tensor_of(torch: Any, variable: Variable) -> Any:
    """A tensor of a variable's memory."""
    array, dtype = variable.array, variable.dtype
    # from_numpy does not know those of ml_dtypes: the same bits under the same name.
    kind = getattr(torch, dtype.name, None) if dtype.name in memory.EXTENSIONS else None
    try:
        if kind is None:
            return torch.from_numpy(array)
        return torch.from_numpy(array.view(f"int{8 * dtype.itemsize}")).view(kind)
    except (TypeError, ValueError) as error:
        raise DTypeMismatchError(
            f"variable {variable.path} is {dtype}, of which PyTorch has no tensors ({error}); cast "
            "it to a dtype that it has"
        ) from error


def array_of(torch: Any, key: str, tensor: Any) -> np.ndarray:
    """An array of a tensor's memory; AdoptionError where there is none.

    A tensor that gives its memory to NumPy keeps its size, as others that share it do.
    """
    if not isinstance(tensor, torch.Tensor):
        raise ArgumentTypeError.of(f"entry {key!r:.200} of a state dict", "a torch.Tensor", tensor)
    tensor = tensor.detach()
    if tensor.device.type != "cpu":
        raise AdoptionError.of(
            key, f"it lies on {tensor.device}", "write tensor.cpu(), which is a copy"
        )
    if tensor.layout is not torch.strided:
        raise AdoptionError.of(key, f"its layout is {tensor.layout}", "write tensor.to_dense()")
    if not tensor.is_contiguous():
        raise AdoptionError.of(
            key,
            f"its elements do not follow each other in C order: its strides are {tensor.stride()}",
            "write tensor.contiguous(), which is a copy",
        )
    name = str(tensor.dtype).removeprefix("torch.")
    try:
        if not name.startswith(("bfloat16", "float8_")):
            return tensor.numpy()  # type: ignore[no-any-return]
        bits = tensor.view(getattr(torch, f"int{8 * tensor.dtype.itemsize}")).numpy()
        return bits.view(shapes.as_dtype(name))  # type: ignore[no-any-return]
    except (TypeError, RuntimeError) as error:
        raise AdoptionError.of(
            key, f"NumPy cannot have {tensor.dtype} ({error})", "cast it to a dtype that NumPy has"
        ) from error


# --- names


def key_of(variable: Variable) -> str:
    """A variable's path with dots for slashes, as PyTorch has it; back it must be the same."""
    path: str = variable.path
    if "." in path:
        raise InvalidNameError(
            f"variable {path} has a dot in its name, and PyTorch has dots for slashes: it would "
            "come back as another one; name it without",
            path,
            ".",
        )
    return path.replace("/", ".")


def path_of(key: Any) -> str:
    """The path of a key in a state dict."""
    if not isinstance(key, str):
        raise ArgumentTypeError.of("a key of a state dict", "a str", key)
    if "/" in key:
        raise InvalidNameError(
            f"the key {key!r:.200} of a state dict has a slash, and slashes stand for dots in the "
            "path that it becomes: it would come back as another one; rename it",
            key,
            "/",
        )
    return key.replace(".", "/")


# --- state dicts


def to_state_dict(graph: Graph) -> dict[str, Any]:
    """All variables of a graph as tensors that share their memory.

    What is only declared gets its first values.  Of a variable in parts there are the shards, each
    by itself: `w.part_0`, `w.part_1`, ...

    Parameters
    ----------
    graph : Graph
        With its values in this process.

    Returns
    -------
    dict of str to torch.Tensor
        In the order of creation, by path with dots for slashes.

    Raises
    ------
    InvalidNameError : ValueError
        A name has a dot itself.
    DTypeMismatchError : ValueError
        PyTorch has no such dtype.
    StorageError : ValueError
        The values lie on a cluster.

    >>> import varscope as vs
    >>> from varscope.interop.torch import to_state_dict
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default(), vs.variable_scope("layer"):
    ...     w = vs.get_variable("w", [2], initializer=vs.ones)
    >>> state = to_state_dict(g)
    >>> _ = state["layer.w"].mul_(3)
    >>> w.numpy().tolist()
    [3.0, 3.0]
    """
    torch = library()
    variables = materialised(graph)
    return {key_of(variable): tensor_of(torch, variable) for variable in variables}


def materialised(graph: Any) -> list[Variable]:
    """All variables of a graph, with values."""
    if not isinstance(graph, Graph):
        raise ArgumentTypeError.of("graph", "a varscope.Graph", graph)
    variables = list(graph.variables)
    for variable in variables:
        key_of(variable)  # an error before much is computed
    initialize(variables)
    return variables


def from_state_dict(state_dict: Mapping[str, Any], graph: Graph | None = None) -> Graph:
    """Adopt the tensors of a state dict: variables that share their memory.

    Where some of them are parameters, as in `module.state_dict(keep_vars=True)`, these are
    trainable if they require gradients, and nothing else is.  Where there are only tensors, those
    of floating-point and complex numbers are trainable.

    Parameters
    ----------
    state_dict : mapping from str to torch.Tensor
        On the CPU, and contiguous.  Dots in its keys become slashes.
    graph : Graph, optional
        Where they go: below its current scope.  A new one if it is left out.

    Returns
    -------
    Graph

    Raises
    ------
    AdoptionError : ValueError
        A tensor cannot be adopted without a copy: it lies on another device, say.
    VariableExistsError, InvalidNameError : ValueError
        A name is there, or none that a variable can have.  Whatever is raised, nothing is adopted.

    >>> import torch, varscope as vs
    >>> from varscope.interop.torch import from_state_dict
    >>> g = from_state_dict(torch.nn.Linear(3, 4).state_dict())
    >>> [(v.op_name, v.shape) for v in g.variables]
    [('weight', (4, 3)), ('bias', (4,))]
    """
    torch = library()
    if not isinstance(state_dict, Mapping):
        raise ArgumentTypeError.of("state_dict", "a mapping from str to torch.Tensor", state_dict)
    if graph is None:
        graph = Graph()
    elif not isinstance(graph, Graph):
        raise ArgumentTypeError.of("graph", "a varscope.Graph", graph)
    tensors = dict(state_dict)
    parameters = [isinstance(tensor, torch.nn.Parameter) for tensor in tensors.values()]

    def trainable(tensor: Any, is_parameter: bool) -> bool:
        if any_parameters:
            return is_parameter and tensor.requires_grad
        return bool(tensor.is_floating_point() or tensor.is_complex())

    any_parameters = any(parameters)
    entries = [
        (path_of(key), array_of(torch, key, tensor), trainable(tensor, is_parameter))
        for (key, tensor), is_parameter in zip(tensors.items(), parameters, strict=True)
    ]

    def adopt_all() -> None:
        with graph.as_default():
            for path, array, trained in entries:
                adopt(path, array, trainable=trained)

    all_or_nothing(adopt_all)
    return graph


# --- modules


def as_module(graph: Graph) -> Any:
    """A `torch.nn.Module` whose parameters and buffers share the memory of a graph's variables.

    It is nested as the scopes are: `layer/w` is `module.layer.w`.  What is trainable is a
    parameter, everything else a buffer.  What an optimizer changes shows in the variables at once,
    and what is assigned to these in the module; `state_dict` and `load_state_dict` work.  What
    gives the parameters other memory ends the sharing: `module.to` another device or dtype,
    `load_state_dict(..., assign=True)`, `copy.deepcopy`.

    What is only declared gets its first values.  Variables that are created later are not in it.

    Parameters
    ----------
    graph : Graph
        With its values in this process.

    Returns
    -------
    torch.nn.Module
        Without a `forward`: a model's function finds the variables by name.

    Raises
    ------
    ArgumentValueError : ValueError
        A module cannot have a member of that name, as every module has one, or a variable and a
        scope share a path.
    InvalidNameError, DTypeMismatchError, StorageError : ValueError
        As for `to_state_dict`.

    >>> import torch, varscope as vs
    >>> from varscope.interop.torch import as_module
    >>> v = vs.get_variable("layer/w", [2], initializer=vs.ones)
    >>> module = as_module(v.graph)
    >>> module.layer.w.sum().backward()
    >>> torch.optim.SGD(module.parameters(), lr=0.5).step()
    >>> v.numpy().tolist()
    [0.5, 0.5]
    """
    torch = library()
    root = torch.nn.Module()
    modules = {"": root}
    variables = materialised(graph)
    # For `entries`: what there is; what lies in shards, along which axis, and in how many.
    root._varscope_keys = [key_of(variable) for variable in variables]
    root._varscope_parts = [
        (path, kept.slicing.axis, kept.slicing.count) for path, kept in graph._partitions()
    ]
    for variable in variables:
        scope, _, name = variable.path.rpartition("/")
        try:
            module = module_at(torch, modules, scope)
            tensor = tensor_of(torch, variable)
            if variable.trainable:
                number = tensor.is_floating_point() or tensor.is_complex()
                module.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=number))
            else:
                module.register_buffer(name, tensor)
        except KeyError as error:
            raise ArgumentValueError(
                f"variable {variable.path} has no place in a module ({error.args[0]}): what a "
                "scope of a torch.nn.Module is called must be free there; name it otherwise"
            ) from None
    return root


def module_at(torch: Any, modules: dict[str, Any], scope: str) -> Any:
    """The module of a scope, which is made with those around it where it is new."""
    found = modules.get(scope)
    if found is None:
        above, _, name = scope.rpartition("/")
        found = torch.nn.Module()
        module_at(torch, modules, above).register_module(name, found)
        modules[scope] = found
    return found


def entries(module: Any) -> dict[str, Any]:
    """The parameters and buffers of a module of `as_module`, as `varscope.substitute` takes them.

    A model's function that runs under `substitute` computes on them, so that gradients reach the
    parameters.  Of a variable in parts there is the whole, joined of its shards: it is made anew by
    each call, and goes with one step of training.

    Parameters
    ----------
    module : torch.nn.Module
        What `as_module` returned, on whatever device it is by now.

    Returns
    -------
    dict of str to torch.Tensor
        By the paths of variables.

    Raises
    ------
    ArgumentTypeError : TypeError
        It is no module of `as_module`.
    ArgumentValueError : ValueError
        Parameters that it had are gone: it was wrapped or parametrized.

    >>> import torch, varscope as vs
    >>> from varscope.interop.torch import as_module, entries
    >>> def model(x):
    ...     cut = vs.fixed_size_partitioner(2)
    ...     return x @ vs.get_variable("w", [4, 1], initializer=vs.ones, partitioner=cut)
    >>> with vs.Graph().as_default() as graph:
    ...     y = model([[0.0, 0.0, 0.0, 0.0]])         # declares the variables
    >>> module = as_module(graph)
    >>> with vs.Graph().as_default(), vs.substitute(entries(module)):
    ...     model(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
    >>> module.w.part_1.grad.tolist()
    [[3.0], [4.0]]
    """
    torch = library()
    parts = getattr(module, "_varscope_parts", None)
    if parts is None:
        raise ArgumentTypeError.of("module", "one that as_module returned", module)
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    tensors = {key: tensor for key, tensor in named}
    missing = [key for key in module._varscope_keys if key not in tensors]
    if missing:
        raise ArgumentValueError(
            f"the module has no {missing[0]!r} any more, and {len(missing):,} such are missing: it "
            "was wrapped, or its parameters were replaced by others; pass the module that "
            "as_module returned"
        )
    found = {path_of(key): tensors[key] for key in module._varscope_keys}
    wholes = {
        path: torch.cat([found.pop(f"{path}/part_{number}") for number in range(count)], axis)
        for path, axis, count in parts
    }
    return {**found, **wholes}


__all__ = ["as_module", "entries", "from_state_dict", "to_state_dict"]
