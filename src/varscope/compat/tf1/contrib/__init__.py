"""`tf.contrib`, as far as variables are concerned."""

from varscope.compat.tf1._missing import missing
from varscope.compat.tf1.contrib import framework, layers, slim

__all__ = ["framework", "layers", "slim"]

__getattr__ = missing(__name__, "contrib")
