"""`tf.compat.v1` is this module itself, under the name that the last releases gave it."""

from varscope.compat import tf1 as v1
from varscope.compat.tf1._missing import missing

__all__ = ["v1"]

__getattr__ = missing(__name__, "compat")
