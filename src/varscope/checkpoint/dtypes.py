"""dtypes as text, for files: every dtype that a variable can have, structured ones included."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import numpy as np

from varscope import shapes
from varscope.errors import ArgumentTypeError

# Texts come from files, and `numpy.dtype` takes more than names: code for shapes, old names that it
# warns of, objects.  Only these come near it.
NAME = re.compile(
    r"(bool|(u?int|b?(float|complex))[1-9][0-9]{0,3}(_[a-z0-9]{1,20})?|str|bytes|void"
    r"|[<>|=][biufcmMSUV][0-9]{1,9}(\[[A-Za-z0-9]{1,20}\])?|(datetime|timedelta)64(\[\w{1,20}\])?)"
)
DEEPEST = 32  # structured dtypes in one another


@functools.lru_cache(maxsize=1000)
def text_of(dtype: np.dtype) -> str:
    """A text from which `dtype_of` makes an equal dtype.

    It is the name where that says all, as "complex128" and "int4" do; NumPy's short form, such as
    ">f4" or "|S3"; or JSON for a structured dtype.

    >>> import numpy as np
    >>> text_of(np.dtype("complex128")), text_of(np.dtype(">f4"))
    ('complex128', '>f4')
    >>> text_of(np.dtype([("x", "i1"), ("y", "f4", 2)]))
    '{"names":["x","y"],"formats":["int8",["float32",[2]]],"offsets":[0,1],"itemsize":9}'
    """
    described = description(dtype)
    text = described if isinstance(described, str) else json.dumps(described, separators=(",", ":"))
    if dtype_of(text) != dtype:
        raise ArgumentTypeError.of("dtype", "one that can be written down in a file", dtype)
    return text


def dtype_of(text: str) -> np.dtype:
    """The dtype of a text that `text_of` made, or of a name such as "float32".

    Raises
    ------
    ArgumentTypeError : TypeError
        It is none; or it is of a library that is not installed, which the error names.
    """
    if not text.startswith("{"):
        return named(text)
    try:
        return built(json.loads(text))
    except (LookupError, OverflowError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, ArgumentTypeError):
            raise
        raise ArgumentTypeError.of("dtype", f"the JSON text of a dtype ({error})", text) from None


def named(text: str) -> np.dtype:
    """The dtype of a name or of NumPy's short form."""
    if NAME.fullmatch(text) is None:
        raise ArgumentTypeError.of("dtype", "the name of a dtype, such as 'float32'", text)
    try:
        return shapes.as_dtype(text)
    except (OverflowError, ValueError) as error:
        raise ArgumentTypeError.of("dtype", f"the name of a dtype ({error})", text) from None


def description(dtype: np.dtype) -> Any:
    """A dtype as what JSON has: a text; [a description, shape]; or a dict of fields."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [description(base), list(shape)]
    if dtype.names is not None:
        fields = [dtype.fields[name] for name in dtype.names]  # type: ignore[index]
        return {
            "names": list(dtype.names),
            "formats": [description(field[0]) for field in fields],
            "offsets": [field[1] for field in fields],
            "itemsize": dtype.itemsize,
        }
    return dtype.name if is_named(dtype) else dtype.str


def is_named(dtype: np.dtype) -> bool:
    """Whether its name says all: that of a big-endian number or of a text does not."""
    try:
        return shapes.as_dtype(dtype.name) == dtype
    except ArgumentTypeError:
        return False


def built(described: Any, depth: int = 0) -> np.dtype:
    """The dtype of a description."""
    if depth > DEEPEST:
        raise ValueError("it is nested too deep")
    if isinstance(described, str):
        return named(described)
    if isinstance(described, list):
        base, shape = described
        return np.dtype((built(base, depth + 1), tuple(shape)))
    formats = [built(each, depth + 1) for each in described["formats"]]
    facts = {key: described[key] for key in ("names", "offsets", "itemsize")}
    fields: Any = {**facts, "formats": formats}
    made: np.dtype = np.dtype(fields)
    return made
