"""What is not covered, and what to write instead."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Never

from varscope.errors import NotCoveredError

MATHEMATICS = (
    "it computes, which is not what this library is for; a varscope Variable goes wherever an "
    "array goes: use numpy, or jax or torch where gradients are needed"
)
GRADIENTS = (
    "there are no gradients here; compute them with jax or torch, and write new values back with "
    "v.assign(...)"
)
LAYERS = (
    "write the layer as a function of its inputs that asks tf.get_variable for its weights inside "
    "tf.variable_scope(name, default_name)"
)
CELLS = "write the cell as a function that asks tf.get_variable for its kernel and bias"
INPUTS = "pass arrays as arguments of the function that builds or runs the model"
FILES = (
    "write varscope.save(tf.get_default_graph(), path), and varscope.restore("
    "tf.get_default_graph(), path), which reads the checkpoints of tf.train.Saver too"
)
READING = (
    "use varscope.open(path), which gives what a checkpoint or a folder of them holds, by name"
)
LOGS = "log numbers with a logging library of your choice"
GRAPH_OF_OPS = "a graph holds variables and names here, no operations; write Python functions"
SESSIONS = "nothing runs on a device here: write tf.Session() without it"
RANDOM = (
    "for first values write initializer=tf.{0}_initializer(...) in tf.get_variable; use {1} of "
    "numpy.random.default_rng(seed) elsewhere"
)
HOOKS = "write it into the loop that trains"
ASSIGN_EACH = "write v.assign(value) for each variable"
FIRST_VALUES = "write varscope.initialize(variables), or run tf.variables_initializer(variables)"
NO_TENSORS = "values are NumPy arrays here: write numpy.ndarray"

# The function of NumPy that does the same; where only the name differs, what it is called there.
NUMPY = """
abs acos=arccos add angle argmax argmin argsort asin=arcsin atan=arctan atan2=arctan2 bincount
broadcast_to ceil clip_by_value=clip concat=concatenate conj constant=array
convert_to_tensor=asarray cos cosh cumprod cumsum diag diag_part=diagonal divide einsum equal exp
expand_dims expm1 eye fill=full floor floordiv=floor_divide greater greater_equal
histogram_fixed_width=histogram imag is_finite=isfinite is_inf=isinf is_nan=isnan less less_equal
linspace lin_space=linspace log log1p logical_and logical_not logical_or logical_xor matmul
matrix_inverse=linalg.inv matrix_determinant=linalg.det matrix_solve=linalg.solve maximum meshgrid
minimum mod multiply negative norm=linalg.norm not_equal ones ones_like pad pow=power qr=linalg.qr
range=arange rank=ndim real realdiv=true_divide reciprocal reduce_all=all reduce_any=any
reduce_max=max reduce_mean=mean reduce_min=min reduce_prod=prod reduce_sum=sum reshape
reverse=flip rint roll round searchsorted self_adjoint_eig=linalg.eigh sign sin sinh size sqrt
square squeeze stack subtract svd=linalg.svd tan tanh tensordot tile trace transpose
truediv=true_divide where zeros zeros_like nn.tanh=tanh
"""

ADVICE = {
    # mathematics without a namesake
    "add_n": "write sum(list)",
    "boolean_mask": "write x[mask]",
    "cast": "write x.astype(dtype)",
    "clip_by_global_norm": GRADIENTS,
    "clip_by_norm": GRADIENTS,
    "div": "write x / y, or numpy.floor_divide(x, y) for integers",
    "gather": "write x[indices]",
    "gather_nd": "write x[tuple(indices.T)]",
    "identity": "an array does not need a name: write the value itself",
    "one_hot": "write numpy.eye(depth)[indices]",
    "reduce_logsumexp": "write numpy.log(numpy.sum(numpy.exp(x)))",
    "rsqrt": "write 1 / numpy.sqrt(x)",
    "sequence_mask": "write numpy.arange(longest) < lengths[:, None]",
    "sparse": "use scipy.sparse, or numpy.add.at for sums over indices",
    "signal": "use numpy.fft, or scipy.signal",
    "spectral": "use numpy.fft",
    "strings": "use the methods of str and bytes",
    "shape": "write x.shape",
    "sigmoid": "write 1 / (1 + numpy.exp(-x))",
    "split": "write numpy.split(x, parts, axis)",
    "stop_gradient": "there are no gradients here: write the value itself",
    "to_double": "write x.astype(numpy.float64)",
    "to_float": "write x.astype(numpy.float32)",
    "to_int32": "write x.astype(numpy.int32)",
    "to_int64": "write x.astype(numpy.int64)",
    "unique": "write numpy.unique(x, return_inverse=True), which sorts",
    "unstack": "write list(x)",
    # random numbers
    "multinomial": "write choice of numpy.random.default_rng(seed)",
    "random_normal": RANDOM.format("random_normal", "normal"),
    "random_shuffle": "write permutation of numpy.random.default_rng(seed)",
    "distributions": "use numpy.random and scipy.stats",
    "contrib.distributions": "use numpy.random and scipy.stats",
    "random_uniform": RANDOM.format("random_uniform", "uniform"),
    "truncated_normal": RANDOM.format("truncated_normal", "normal"),
    # a graph of operations
    "Assert": "write assert",
    "Print": "write print",
    "assert_equal": "write assert",
    "assert_greater": "write assert",
    "assert_less": "write assert",
    "assert_positive": "write assert",
    "assert_rank": "write assert x.ndim == rank",
    "Tensor": NO_TENSORS,
    "SparseTensor": NO_TENSORS,
    "IndexedSlices": NO_TENSORS,
    "case": "write if and elif",
    "cond": "write if and else",
    "enable_eager_execution": "values are there at once in any case: leave it out",
    "function": "write the Python function as it is",
    "import_graph_def": GRAPH_OF_OPS,
    "map_fn": "write numpy.stack([f(x) for x in xs])",
    "py_func": "call the function",
    "scan": "write a for loop",
    "tuple": "write tuple(values)",
    "while_loop": "write a while loop",
    "GraphDef": GRAPH_OF_OPS,
    "errors": "use varscope.errors, whose exceptions are those of Python as well",
    "TensorArray": "write a list, and numpy.stack(list) at the end",
    # inputs and outputs
    "FixedLenFeature": INPUTS,
    "FIFOQueue": "use queue.Queue",
    "RandomShuffleQueue": "use queue.Queue",
    "TFRecordReader": INPUTS,
    "TextLineReader": INPUTS,
    "WholeFileReader": INPUTS,
    "VarLenFeature": INPUTS,
    "contrib.data": INPUTS,
    "contrib.lookup": "use a dict",
    "lookup": "use a dict",
    "train.Example": INPUTS,
    "train.Feature": INPUTS,
    "train.Features": INPUTS,
    "train.batch": INPUTS,
    "train.shuffle_batch": INPUTS,
    "train.slice_input_producer": INPUTS,
    "train.string_input_producer": INPUTS,
    "data": INPUTS,
    "decode_csv": INPUTS,
    "decode_raw": "write numpy.frombuffer(data, dtype)",
    "image": INPUTS,
    "parse_example": INPUTS,
    "parse_single_example": INPUTS,
    "placeholder": INPUTS,
    "placeholder_with_default": INPUTS,
    "sparse_placeholder": INPUTS,
    "read_file": "write pathlib.Path(path).read_bytes()",
    "python_io": INPUTS,
    "gfile": "use open, pathlib and glob",
    "summary": LOGS,
    "histogram_summary": LOGS,
    "image_summary": LOGS,
    "merge_all_summaries": LOGS,
    "scalar_summary": LOGS,
    "train.SummaryWriter": LOGS,
    # programs
    "app": "write if __name__ == '__main__': main()",
    "flags": "use argparse, or the package absl-py (absl.flags)",
    "logging": "use logging",
    "test": "use pytest or unittest",
    # sessions and devices
    "ConfigProto": SESSIONS,
    "GPUOptions": SESSIONS,
    "OptimizerOptions": SESSIONS,
    "RunMetadata": SESSIONS,
    "RunOptions": SESSIONS,
    "distribute": SESSIONS,
    "train.ClusterSpec": SESSIONS,
    "train.Coordinator": "use threading, or concurrent.futures",
    "train.QueueRunner": "use threading, or concurrent.futures",
    "train.CheckpointSaverHook": HOOKS,
    "train.LoggingTensorHook": HOOKS,
    "train.NanTensorHook": HOOKS,
    "train.SessionRunHook": HOOKS,
    "train.StopAtStepHook": HOOKS,
    "train.SummarySaverHook": HOOKS,
    "train.MonitoredTrainingSession": "write tf.Session()",
    "train.MonitoredSession": "write tf.Session()",
    "train.Scaffold": "write tf.Session()",
    "train.Server": SESSIONS,
    "train.SingularMonitoredSession": "write tf.Session()",
    "train.Supervisor": "write tf.Session()",
    "train.replica_device_setter": SESSIONS,
    "train.start_queue_runners": INPUTS,
    # files
    "saved_model": FILES,
    "train.Checkpoint": FILES,
    "train.Saver": FILES,
    "train.get_checkpoint_state": READING,
    "train.import_meta_graph": FILES,
    "train.init_from_checkpoint": FILES,
    "train.latest_checkpoint": READING,
    "train.list_variables": READING,
    "train.load_variable": READING,
    "train.write_graph": FILES,
    "contrib.framework.assign_from_checkpoint": FILES,
    "contrib.framework.assign_from_checkpoint_fn": FILES,
    "contrib.framework.assign_from_values": ASSIGN_EACH,
    "contrib.framework.assign_from_values_fn": ASSIGN_EACH,
    "contrib.framework.init_from_checkpoint": FILES,
    "contrib.framework.list_variables": READING,
    "contrib.framework.load_checkpoint": READING,
    "contrib.framework.load_variable": READING,
    "contrib.framework.zero_initializer": "write v[...] = 0",
    "contrib.slim.assign_from_checkpoint": FILES,
    "contrib.slim.assign_from_checkpoint_fn": FILES,
    "contrib.slim.assign_from_values": ASSIGN_EACH,
    "contrib.slim.assign_from_values_fn": ASSIGN_EACH,
    "contrib.slim.learning": "write a loop that trains",
    # gradients
    "custom_gradient": GRADIENTS,
    "gradients": GRADIENTS,
    "hessians": GRADIENTS,
    "GradientTape": GRADIENTS,
    "NoGradient": GRADIENTS,
    "RegisterGradient": GRADIENTS,
    "contrib.layers.optimize_loss": GRADIENTS,
    "contrib.opt": GRADIENTS,
    "train.AdadeltaOptimizer": GRADIENTS,
    "train.AdagradOptimizer": GRADIENTS,
    "train.AdamOptimizer": GRADIENTS,
    "train.FtrlOptimizer": GRADIENTS,
    "train.GradientDescentOptimizer": GRADIENTS,
    "train.MomentumOptimizer": GRADIENTS,
    "train.Optimizer": GRADIENTS,
    "train.RMSPropOptimizer": GRADIENTS,
    "train.exponential_decay": "write rate * decay ** (step / steps)",
    "train.piecewise_constant": "write values[numpy.searchsorted(boundaries, step)]",
    # variables
    "count_up_to": "write v.assign_add(1), and compare",
    "create_partitioned_variables": "write tf.get_variable(name, shape, partitioner=...)",
    "scatter_add": "write numpy.add.at(v.array, indices, updates)",
    "scatter_sub": "write numpy.subtract.at(v.array, indices, updates)",
    "scatter_update": "write v[indices] = updates",
    "scatter_nd_update": "write v[tuple(indices.T)] = updates",
    "assert_variables_initialized": FIRST_VALUES,
    "variable_creator_scope": "write tf.variable_scope(name, custom_getter=...)",
    "VariableSynchronization": "leave the argument out",
    "VariableAggregation": "leave the argument out",
    "keras.initializers": "write tf.initializers, or the initializers of varscope",
    "keras.regularizers": "write tf.contrib.layers.l2_regularizer, or those of varscope",
    "keras": LAYERS,
    "estimator": "write a Python function that trains",
    "metrics": "compute them with numpy, and count in variables of tf.get_local_variable",
    "string": "variables hold numbers: keep text in a list, and its indices in a variable",
    # layers
    "layers": LAYERS,
    "nn.bias_add": "write x + bias",
    "nn.bidirectional_dynamic_rnn": "write two for loops over the steps",
    "nn.dropout": "write x * mask / keep_prob, the mask from numpy.random.default_rng(seed)",
    "nn.dynamic_rnn": "write a for loop over the steps",
    "nn.embedding_lookup": "write table.value()[indices]",
    "nn.l2_loss": "write numpy.sum(numpy.square(x)) / 2",
    "nn.moments": "write numpy.mean(x, axis) and numpy.var(x, axis)",
    "nn.relu": "write numpy.maximum(x, 0)",
    "nn.relu6": "write numpy.clip(x, 0, 6)",
    "nn.softmax": "write e / e.sum(-1, keepdims=True), with e = numpy.exp(x - x.max(-1, "
    "keepdims=True))",
    "nn.rnn_cell": CELLS,
    "nn.sigmoid": "write 1 / (1 + numpy.exp(-x))",
    "nn.softplus": "write numpy.logaddexp(x, 0)",
    "nn.static_rnn": "write a for loop over the steps",
    "nn.xw_plus_b": "write x @ w + b",
    "nn": "it computes: use numpy, or jax.nn or torch.nn.functional",
    "contrib.cudnn_rnn": CELLS,
    "contrib.rnn": CELLS,
    "contrib.seq2seq": CELLS,
    "contrib.layers": LAYERS,
    "contrib.slim": LAYERS,
    "contrib.framework": "only what creates and finds variables is there, and arg_scope; write the "
    "rest as functions of your own",
    "contrib.training.HParams": "write a dataclass, or types.SimpleNamespace(**values)",
    "contrib.training": INPUTS,
    "compat": "use tf.compat.v1, which is this module",
    "contrib": "only framework, layers and slim are there, as far as variables are concerned; "
    "write the rest as functions of your own",
    "initializers": "tf.initializers holds initializers only; look at help(varscope.initializers)",
    "losses": "only regularization losses and the collection of losses are there; " + MATHEMATICS,
    "train": "only the global step and moving averages are there; " + GRADIENTS,
    "math": MATHEMATICS,
    "linalg": MATHEMATICS,
    "random": MATHEMATICS,
}
ADVICE |= {
    name: f"write numpy.{there or name}"
    for name, _, there in (entry.partition("=") for entry in NUMPY.split())
}


def refused(path: str, known: Mapping[str, Any] = MappingProxyType({})) -> NotCoveredError:
    """The error for `tf.<path>`; `known` are the names that are there beside it."""
    for prefix in ("math.", "random."):  # where the later versions of TensorFlow 1 repeat names
        if path.startswith(prefix) and path.removeprefix(prefix) in ADVICE:
            return NotCoveredError.of(f"tf.{path}", ADVICE[path.removeprefix(prefix)])
    at = path
    while at:
        if at in ADVICE:
            return NotCoveredError.of(f"tf.{path}", ADVICE[at])
        at = at.rpartition(".")[0]
    public = [name for name in known if not name.startswith("_")]
    nearest = difflib.get_close_matches(path.rpartition(".")[2], public, n=3, cutoff=0.8)
    return NotCoveredError.of(
        f"tf.{path}",
        f"write one of the nearest names that are: {', '.join(nearest)}"
        if nearest
        else "it has scopes, variables, initializers, regularizers, partitioners, collections, "
        "graphs, templates and sessions; for anything else use numpy or a library of its own",
    )


class Absent:
    """A part of TensorFlow, such as `tf.nn`, of which nothing is there: each use is refused."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __getattr__(self, name: str) -> Never:
        if name.startswith("__"):
            raise AttributeError(name)
        raise refused(f"{self._path}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Never:
        raise refused(self._path)

    def __repr__(self) -> str:
        return f"<tf.{self._path}, not covered>"


# Those some of whose names have advice of their own.
WITHIN = frozenset(name.rpartition(".")[0] for name in ADVICE if "." in name)
WITHIN |= {"layers", "linalg", "math", "random", "contrib.rnn"}


def missing(module: str, path: str = "") -> Callable[[str], Any]:
    """The `__getattr__` of a module that stands for `tf.<path>`."""

    def __getattr__(name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        full = f"{path}.{name}" if path else name
        if full in WITHIN:
            return Absent(full)
        raise refused(full, vars(sys.modules[module]))

    return __getattr__
