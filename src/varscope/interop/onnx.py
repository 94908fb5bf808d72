"""ONNX: models whose tensors are variables, and whose nodes are named by the scopes around them.

A `Builder` collects the nodes of one model and then makes a ModelProto of them, or files.
`initializers` gives the variables alone, for models whose nodes come from elsewhere.  Needs onnx:
pip install "varscope-core[onnx]".
"""

from __future__ import annotations

import difflib
import errno
import functools
import math
import os
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from varscope import shapes
from varscope._scopecore import get_default_graph
from varscope.checkpoint.entries import collected, encodes
from varscope.checkpoint.replacement import put_series, workplace
from varscope.checkpoint.saving import finish_file, told_of
from varscope.errors import ArgumentTypeError, ArgumentValueError, GraphMismatchError
from varscope.graph import Graph
from varscope.initialization import initialize
from varscope.partitioned import PartitionedVariable
from varscope.variables import Variable

__all__ = ["Builder", "Value", "initializers"]

MAKE_IT = 'varscope.interop.onnx needs onnx: pip install "varscope-core[onnx]"'
SUFFIX = ".onnx"
OLDEST = 9  # opsets: before it each initializer had to be an input too
MOST = 2**31 - 1  # bytes of a protobuf message
PAGE = 4096  # where values begin in a file, so that they can be mapped
NAME = re.compile(r"[A-Za-z0-9_.\-/]+")  # the colon is for what nodes give


def library() -> Any:
    """The library onnx, with those of its modules that are used here."""
    try:
        import onnx
        import onnx.defs
        import onnx.helper
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError as error:
        raise ImportError(MAKE_IT) from error
    return onnx


class Value:
    """What a node gives, or an input of the model: passed to the nodes that take it.

    Made by `Builder.input` and `Builder.node`.
    """

    # For NumPy it is no array, and arithmetic of variables with it a TypeError.
    __array_ufunc__ = None

    def __init__(self, builder: Builder, name: str, kind: Any) -> None:
        self._builder, self._name, self._type = builder, name, kind

    @property
    def name(self) -> str:
        """The name in the model: that of its node, a colon and a number, as in "layer/MatMul:0"."""
        return self._name

    @property
    def graph(self) -> Graph:
        """The graph of the builder, as `variable_scope(values=...)` looks for it."""
        return self._builder.graph

    @property
    def shape(self) -> tuple[int | str | None, ...] | None:
        """As far as it is known: dimensions may be names or None; None where the rank is not."""
        return shape_of(self._type)

    @property
    def dtype(self) -> np.dtype | None:
        """That of its elements, `object` for text; None of what is no tensor."""
        return dtype_of(self._type)

    def __repr__(self) -> str:
        return f"<Value {self.name!r} shape={self.shape} dtype={self.dtype}>"


class Operand(NamedTuple):
    """An input of a node: its name, or None of a constant, which has none yet; the source of its
    values, where they are in the model; and its type."""

    name: str | None
    source: Variable | PartitionedVariable | np.ndarray | None
    kind: Any


class Builder:
    """The nodes of one ONNX model, in the order in which they are made.

    Variables become initializers under their `op_name`, once each, however often they are used;
    one in parts becomes a whole one.  Their values are read when the model is made or saved, so
    they may be restored in between.  Each node is checked when it is made: operator, inputs,
    attributes, dtypes and shapes.

    Parameters
    ----------
    graph : Graph, optional
        Whose variables are used and whose scopes name the nodes; the current one where it is left
        out.
    opset : int
        The version of ONNX's operators: 21 is the first that has integers of 4 bits.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError : TypeError, ValueError
    ImportError
        The library onnx is not installed.

    >>> import varscope as vs
    >>> from varscope.interop import onnx as vo
    >>> with vs.Graph(seed=1).as_default():
    ...     model = vo.Builder()
    ...     x = model.input("x", ["batch", 3])
    ...     with vs.variable_scope("layer"):
    ...         y = model.node("MatMul", x, vs.get_variable("w", [3, 4]))
    ...     model.output("y", y)
    >>> y
    <Value 'layer/MatMul:0' shape=('batch', 4) dtype=float32>
    >>> [tensor.name for tensor in model.make_model().graph.initializer]
    ['layer/w']
    """

    def __init__(self, graph: Graph | None = None, *, opset: int = 21) -> None:
        onnx = library()
        if graph is not None and not isinstance(graph, Graph):
            raise ArgumentTypeError.of("graph", "a varscope.Graph", graph)
        newest = onnx.defs.onnx_opset_version()
        expected = f"an int from {OLDEST} to {newest}, the newest of this onnx"
        self.opset = shapes.as_int("opset", opset, expected)
        if not OLDEST <= self.opset <= newest:
            raise ArgumentValueError.of("opset", expected, opset)
        self.graph: Graph = get_default_graph() if graph is None else graph
        self._imports = [onnx.helper.make_opsetid("", self.opset)]
        self._ir_version = onnx.helper.find_min_ir_version_for(self._imports)
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._tensors: dict[str, Variable | PartitionedVariable | np.ndarray] = {}
        self._taken: dict[str, str] = {}  # what has each name without a colon

    def input(self, name: str, shape: Any = None, dtype: Any = "float32") -> Value:
        """Declare an input of the model.

        Parameters
        ----------
        name : str
            As the model's users will write it; no scope is put in front.
        shape : sequence of int, str or None, optional
            A str names a dimension whose size differs from run to run, None leaves one open.  Left
            out, the number of dimensions is open too.
        dtype : dtype
            One that ONNX has.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError, InvalidShapeError : TypeError, ValueError

        >>> import varscope as vs
        >>> from varscope.interop import onnx as vo
        >>> vo.Builder().input("ids", ["batch", 16], "int64")
        <Value 'ids' shape=('batch', 16) dtype=int64>
        """
        self._check_name(name, "an input")
        dtype = shapes.as_dtype(dtype)
        kind = type_of(f"the dtype of input {name!r}", dtype, as_dims(shape))
        self._taken[name] = "an input"
        self._inputs.append(library().helper.make_value_info(name, kind))
        return Value(self, name, kind)

    def node(self, op_type: str, /, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node, named after its operator in the current scope.

        Parameters
        ----------
        op_type : str
            One of ONNX's operators, such as "MatMul".
        *inputs : Value, Variable, PartitionedVariable, ndarray or None
            NumPy's arrays and scalars are constants of the model; None is an optional input that is
            left out.
        outputs : int
            How many of what the operator gives are wanted: the first ones.
        **attributes
            What the operator has of them: ints, floats, texts, lists of these, or onnx's protos.

        Returns
        -------
        Value, or tuple of Value where `outputs` is above 1

        Raises
        ------
        ArgumentTypeError, ArgumentValueError : TypeError, ValueError
            There is no such operator, or it does not take these inputs or attributes.  The model
            and the graph's names are as before.
        GraphMismatchError : ValueError
            A variable of another graph.

        >>> import numpy as np, varscope as vs
        >>> from varscope.interop import onnx as vo
        >>> with vs.Graph().as_default(), vs.name_scope("head"):
        ...     model = vo.Builder()
        ...     x = model.input("x", [6, 4])
        ...     left, right = model.node("Split", x, outputs=2, num_outputs=2, axis=0)
        ...     rows = model.node("Reshape", right, np.array([2, -1]))
        >>> right.name, rows
        ('head/Split:1', <Value 'head/Reshape:0' shape=(2, 6) dtype=float32>)
        """
        if not isinstance(op_type, str):
            raise ArgumentTypeError.of(
                "op_type", 'the name of an operator, such as "MatMul"', op_type
            )
        expected = "a number of outputs, 1 or more"
        count = shapes.as_int("outputs", outputs, expected)
        if count < 1:
            raise ArgumentValueError.of("outputs", expected, outputs)
        made = self._add(op_type, inputs, count, attributes)
        return made[0] if count == 1 else tuple(made)

    def output(self, name: str, value: Any) -> None:
        """Make something an output of the model, under a name without the scope.

        Parameters
        ----------
        name : str
            As the model's users will write it.
        value : Value, Variable, PartitionedVariable or ndarray
            A node `Identity` gives it that name, so it may be an input, or another output too.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError, GraphMismatchError : TypeError, ValueError
        """
        self._check_name(name, "an output")
        if value is None:
            raise ArgumentTypeError.of("an output", "a value, a variable or an array", value)
        if isinstance(value, (Variable, PartitionedVariable)) and value.op_name == name:
            raise self._refused_name(name, "an output", "the variable")
        made = self._add("Identity", [value], 1, {}, name)
        self._taken[name] = "an output"
        self._outputs.append(library().helper.make_value_info(name, made[0]._type))

    def make_model(self) -> Any:
        """The model, with copies of all values in it.

        Variables that are only declared get their first values.

        Returns
        -------
        onnx.ModelProto

        Raises
        ------
        ArgumentValueError : ValueError
            It has no output, or is larger than the 2 GiB of a ModelProto; `save` takes any size.
        """
        self._check_size(list(self._tensors))
        self._initialize()
        return self._model([tensor_of(name, source) for name, source in self._tensors.items()])

    def save(self, path: str | os.PathLike[str], *, size_threshold: int = 4096) -> None:
        """Write the model to a file, and large values to another one beside it.

        The second one is called like the first, with eight random digits and `.data` behind; the
        model says so, and runtimes find it in the same folder.  Values are written from where they
        lie.  Readers see the old model until the new one is complete and on the disk; then the
        data of the old one are removed.  Variables that are only declared get their first values.

        Parameters
        ----------
        path : path
            It ends in `.onnx`.
        size_threshold : int
            Values of so many bytes or more are not in the model but beside it.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError : TypeError, ValueError
            It has no output, or is larger than 2 GiB without what lies beside it.
        OSError

        >>> import onnx, varscope as vs
        >>> from varscope.interop import onnx as vo
        >>> with vs.Graph().as_default():
        ...     model = vo.Builder()
        ...     model.output("table", vs.get_variable("w", [1000, 8]))
        >>> model.save("table.onnx")
        >>> onnx.checker.check_model("table.onnx")
        """
        target = as_target(path)
        expected = "a number of bytes, 1 or more"
        least = shapes.as_int("size_threshold", size_threshold, expected)
        if least < 1:
            raise ArgumentValueError.of("size_threshold", expected, size_threshold)
        tensors = self._tensors.items()
        large = {name for name, source in tensors if external_size(source) >= least}
        self._check_size([name for name in self._tensors if name not in large])
        self._initialize()
        ours = re.compile(re.escape(target.name) + r"\.[0-9a-f]{8}\.data")

        def listed(index: Path) -> list[str] | None:
            """The files with values of the model that lies there."""
            try:
                content = index.read_bytes()
            except FileNotFoundError:
                return []
            except OSError:
                return None
            return [found.decode() for found in re.findall(ours.pattern.encode(), content)]

        with workplace(target.parent, target.name) as place:
            data = f"{target.name}.{place.token}.data"
            with told_of(target), open(place.path / data, "wb") as file:
                model = self._model(
                    [
                        self._written(name, file, data)
                        if name in large
                        else tensor_of(name, source)
                        for name, source in tensors
                    ]
                )
                finish_file(file, place)
            with told_of(target), open(place.path / target.name, "wb") as file:
                file.write(model.SerializeToString())
                finish_file(file, place)
            names = [data] if large else []
            put_series(place, names, target.name, listed, lambda name: bool(ours.fullmatch(name)))

    def __repr__(self) -> str:
        return f"<Builder of {len(self._nodes):,} nodes and {len(self._tensors):,} tensors>"

    # --- nodes
    def _add(
        self,
        op_type: str,
        inputs: Any,
        count: int,
        attributes: dict[str, Any],
        output: str | None = None,
    ) -> list[Value]:
        """A node, and what it gives: under its own name, or the one that is given."""
        operands = [self._operand(op_type, i, value) for i, value in enumerate(inputs)]
        node, kinds = self._inferred(op_type, operands, count, attributes)
        # From here on nothing fails.
        node.name = self.graph.unique_name(op_type)
        for i, operand in enumerate(operands):
            name = operand.name
            if operand.source is not None:
                if name is None:
                    name = node.input[i] = f"{self.graph.unique_name('Constant')}:0"
                else:
                    self._taken[name] = "a variable"
                self._tensors[name] = operand.source
        names = [f"{node.name}:{i}" for i in range(count)] if output is None else [output]
        node.output[:] = names
        self._nodes.append(node)
        return [Value(self, name, kind) for name, kind in zip(names, kinds, strict=True)]

    def _operand(self, op_type: str, i: int, value: Any) -> Operand:
        """An input of a node, which is not part of the model yet."""
        if value is None:
            return Operand("", None, None)
        if isinstance(value, Value):
            if value._builder is not self:
                raise ArgumentValueError.of(
                    f"input {i} of {op_type}", "a value of the same builder", value
                )
            return Operand(value.name, None, value._type)
        if isinstance(value, (Variable, PartitionedVariable)):
            if value.graph is not self.graph:
                raise GraphMismatchError.of(value, self)
            name, what = value.op_name, f"the dtype of variable {value.op_name}"
            if self._tensors.get(name, value) is not value or self._taken.get(name) not in (
                None, "a variable"
            ):  # fmt: skip
                raise self._refused_name(name, "a variable", self._taken[name])
            return Operand(name, value, type_of(what, value.dtype, value._known_shape()))
        if isinstance(value, (np.ndarray, np.generic)):
            what = f"the dtype of input {i} of {op_type}"
            return Operand(None, np.array(value), type_of(what, value.dtype, value.shape))
        raise ArgumentTypeError.of(
            f"input {i} of {op_type}",
            "a value of the builder, a variable, a NumPy array such as numpy.array([0, -1]), or "
            "None for one that is left out",
            value,
            "write numbers as an array",
        )

    def _inferred(
        self, op_type: str, operands: list[Operand], count: int, attributes: dict[str, Any]
    ) -> tuple[Any, list[Any]]:
        """A node that has been checked, still without names of its own, and what types it gives."""
        onnx = library()
        schema = self._schema(op_type)
        names = [f":{i}" if each.name is None else each.name for i, each in enumerate(operands)]
        kinds, data = {}, {}
        for name, operand in zip(names, operands, strict=True):
            if operand.kind is not None:
                kinds[name] = operand.kind
            if isinstance(operand.source, np.ndarray):
                data[name] = tensor_of(name, operand.source)
        outputs = [f":out{i}" for i in range(count)]
        try:
            node = onnx.NodeProto(
                op_type=op_type,
                input=names,
                output=outputs,
                attribute=[
                    attribute_of(schema, key, value) for key, value in sorted(attributes.items())
                ],
            )
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, kinds, data, opset_imports=self._imports, ir_version=self._ir_version
            )
        except (
            onnx.checker.ValidationError,
            onnx.shape_inference.InferenceError,
            TypeError,
            ValueError,
        ) as error:
            given = ", ".join(told(each) for each in operands)
            reason = re.sub(r"\[\w+Error\] ", "", str(error)).strip()
            raise ArgumentValueError.stating(
                f"{op_type} cannot be made of ({given}) and {attributes!r:.200} in opset "
                f"{self.opset}: {reason}; give other inputs or attributes",
                value=op_type,
            ) from error
        for name in outputs:
            kind = found.get(name)
            if kind is None or (kind.HasField("tensor_type") and not kind.tensor_type.elem_type):
                raise ArgumentValueError.stating(
                    f"onnx cannot tell the dtype of what {op_type} gives; write it with other "
                    "operators",
                    value=op_type,
                )
        return node, [found[name] for name in outputs]

    def _schema(self, op_type: str) -> Any:
        """What onnx knows of an operator."""
        defs = library().defs
        try:
            return defs.get_schema(op_type, self.opset, "")
        except defs.SchemaError:
            known = {
                schema.name
                for schema in defs.get_all_schemas_with_history()
                if schema.domain == "" and schema.since_version <= self.opset
            }
            similar = difflib.get_close_matches(op_type, sorted(known), 3)
            raise ArgumentValueError.of(
                "op_type",
                f"an operator of opset {self.opset}"
                + (f", such as {' or '.join(map(repr, similar))}" if similar else ""),
                op_type,
                "write its name as ONNX spells it",
            ) from None

    def _check_name(self, name: Any, what: str) -> None:
        """Refuse a name that an input or output cannot have."""
        expected = 'a name such as "input_ids", of letters, digits, "_", ".", "-" and "/"'
        if not isinstance(name, str):
            raise ArgumentTypeError.of(f"the name of {what}", expected, name)
        if not NAME.fullmatch(name):
            raise ArgumentValueError.of(f"the name of {what}", expected, name)
        if name in self._taken:
            raise self._refused_name(name, what, self._taken[name])

    def _refused_name(self, name: str, what: str, other: str) -> ArgumentValueError:
        return ArgumentValueError.stating(
            f"{what} of this model cannot be called {name!r}, as {other} is; give the input or "
            "output another name",
            value=name,
        )

    # --- the model
    def _check_size(self, names: list[str]) -> None:
        """Refuse, before anything is copied, a model that is not whole or cannot be a message."""
        if not self._outputs:
            raise ArgumentValueError(
                "the model has no output; name one: builder.output('y', value)"
            )
        size = sum(node.ByteSize() + 8 for node in self._nodes)
        size += sum(stored_size(self._tensors[name]) + 2 * len(name) + 100 for name in names)
        if size > MOST:
            raise ArgumentValueError.stating(
                f"the model takes {size:,} bytes with {len(names):,} tensors in it, and a "
                f"ModelProto takes {MOST:,}; write builder.save(path), and size_threshold=1024 or "
                "less where there are many small tensors",
                value=size,
            )

    def _initialize(self) -> None:
        """First values for what is only declared."""
        sources = self._tensors.values()
        initialize([each for each in sources if not isinstance(each, np.ndarray)], progress=False)

    def _model(self, tensors: list[Any]) -> Any:
        helper = library().helper
        graph = helper.make_graph(
            self._nodes, "varscope", self._inputs, self._outputs, initializer=tensors
        )
        return helper.make_model(
            graph,
            opset_imports=self._imports,
            ir_version=self._ir_version,
            producer_name="varscope",
        )

    def _written(self, name: str, file: Any, location: str) -> Any:
        """Write the values of a tensor at the end of a file; the tensor that says where."""
        onnx, source = library(), self._tensors[name]
        element = known_element(f"the dtype of {name}", source.dtype)
        begin = -(-file.tell() // PAGE) * PAGE
        file.seek(begin)
        if element.packed:
            file.write(tensor_of(name, source).raw_data)
        else:
            values = values_of(source)
            if sys.byteorder == "big":
                values = values.byteswap()
            file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
        tensor = onnx.TensorProto(
            name=name,
            dims=source.shape,
            data_type=element.number,
            data_location=onnx.TensorProto.EXTERNAL,
        )
        for key, value in [
            ("location", location),
            ("offset", str(begin)),
            ("length", str(file.tell() - begin)),
        ]:
            tensor.external_data.add(key=key, value=value)
        return tensor


def initializers(graph: Graph) -> list[Any]:
    """All variables of a graph, but for local ones, as initializers for a GraphProto.

    Variables that are only declared get their first values, and one in parts becomes a whole one.

    Parameters
    ----------
    graph : Graph

    Returns
    -------
    list of onnx.TensorProto
        In the order of creation, named by `op_name`, with copies of the values.

    Raises
    ------
    ArgumentTypeError : TypeError
        No graph, or a variable of a dtype that ONNX lacks.
    ImportError
        The library onnx is not installed.

    >>> import varscope as vs
    >>> from varscope.interop import onnx as vo
    >>> g = vs.Graph(seed=1)
    >>> with g.as_default(), vs.variable_scope("layer"):
    ...     w = vs.get_variable("w", [3, 4], dtype="bfloat16")
    >>> [(tensor.name, list(tensor.dims)) for tensor in vo.initializers(g)]
    [('layer/w', [3, 4])]
    """
    library()
    if not isinstance(graph, Graph):
        raise ArgumentTypeError.of("graph", "a varscope.Graph", graph)
    entries = collected(graph)
    sources = {
        name: entries.variables[row] if row >= 0 else entries.others[-1 - row]
        for name, row in zip(entries.names, entries.rows, strict=True)
    }
    for name, source in sources.items():
        type_of(f"the dtype of variable {name}", source.dtype, ())
    initialize(sources.values(), progress=False)
    return [tensor_of(name, source) for name, source in sources.items()]


# --- dtypes, shapes and values as ONNX has them


class Element(NamedTuple):
    """A dtype of ONNX: its number, how many bytes eight elements take, 0 of text, and whether
    NumPy needs more for them."""

    number: int
    size: int
    packed: bool


@functools.lru_cache(maxsize=1000)
def element_of(dtype: np.dtype) -> Element | None:
    """What a dtype is in ONNX, None where ONNX lacks it."""
    onnx = library()
    if dtype.kind in "SU":
        return Element(onnx.TensorProto.STRING, 0, False)
    if dtype.hasobject:
        return None
    native = dtype.newbyteorder("=")
    try:
        number = onnx.helper.np_dtype_to_tensor_dtype(native)
        size = len(onnx.numpy_helper.from_array(np.zeros(8, native)).raw_data)
    except (TypeError, ValueError):
        return None
    return Element(number, size, size < 8 * native.itemsize)


def known_element(what: str, dtype: np.dtype) -> Element:
    """The same of a dtype that ONNX has; `what` has the dtype."""
    element = element_of(dtype)
    if element is None:
        raise ArgumentTypeError.of(
            what, "one that ONNX has, such as float32, bfloat16, float8_e4m3fn or int4", dtype
        )
    return element


def type_of(what: str, dtype: np.dtype, dims: Any) -> Any:
    """The type of a tensor; `what` has the dtype."""
    return library().helper.make_tensor_type_proto(known_element(what, dtype).number, dims)


def dtype_of(kind: Any) -> np.dtype | None:
    """The dtype of a tensor's type, None of another one."""
    number = kind.tensor_type.elem_type
    found: np.dtype | None = library().helper.tensor_dtype_to_np_dtype(number) if number else None
    return found


def shape_of(kind: Any) -> tuple[int | str | None, ...] | None:
    """The shape of a tensor's type, None where not even the rank is known."""
    if not kind.tensor_type.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
        for dim in kind.tensor_type.shape.dim
    )


def as_dims(shape: Any) -> tuple[int | str | None, ...] | None:
    """A shape in which dimensions may have names."""
    if not isinstance(shape, (list, tuple)):
        return shapes.as_shape(shape)
    sizes: Any = shapes.as_shape([None if isinstance(dim, str) else dim for dim in shape])
    return tuple(
        dim if isinstance(dim, str) else size for dim, size in zip(shape, sizes, strict=True)
    )


def values_of(source: Any) -> np.ndarray:
    """The values of a variable or a constant in the byte order of this machine."""
    values: np.ndarray = source if isinstance(source, np.ndarray) else source._read
    if values.dtype.kind in "SU":
        return values.astype(object)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def tensor_of(name: str, source: Any) -> Any:
    """The values of a variable or a constant as a tensor of ONNX."""
    return library().numpy_helper.from_array(values_of(source), name)


def stored_size(source: Any) -> int:
    """How many bytes the values take in a model."""
    size = known_element("the dtype of a tensor", source.dtype).size
    shape = source.shape if isinstance(source, np.ndarray) else source._known_shape()
    count: int = math.prod(shape)
    return -(-count * size // 8) if size else count * source.dtype.itemsize


def external_size(source: Any) -> int:
    """The same of values that can lie beside a model; 0 of text, which cannot."""
    return 0 if source.dtype.kind in "SU" else stored_size(source)


def attribute_of(schema: Any, key: str, value: Any) -> Any:
    """An attribute of a node, of the type that the operator wants."""
    proto = library().AttributeProto
    listed, kind = (proto.INTS, proto.FLOATS, proto.STRINGS), None
    if key in schema.attributes:
        kind = proto.AttributeType.Value(schema.attributes[key].type.name)
        if kind == proto.FLOAT and type(value) is int:
            value = float(value)
    # Where it is left out, onnx goes by the value, and its check tells what was wanted.
    known = kind if kind in listed and isinstance(value, (list, tuple)) else None
    return library().helper.make_attribute(key, value, attr_type=known)


def told(operand: Operand) -> str:
    """An input of a node for a message."""
    if operand.kind is None:
        return "None"
    return f"{operand.name or 'a constant'} {dtype_of(operand.kind)} {shape_of(operand.kind)}"


# --- files


def as_target(path: Any) -> Path:
    """The path of a file that `save` may write."""
    if not isinstance(path, (str, os.PathLike)) or isinstance(os.fspath(path), bytes):
        raise ArgumentTypeError.of("path", "a str or a path", path)
    target = Path(path)
    if not target.name.endswith(SUFFIX) or not encodes(target.name):
        raise ArgumentValueError.of("path", f"that of a file which ends in {SUFFIX}", path)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "there is no such folder to save in; make it first", str(target.parent)
        )
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "this is a folder; give a file in it", str(target))
    return Path(os.path.realpath(target.parent)) / target.name
