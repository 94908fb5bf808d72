"""`tf.contrib.slim`: what it took from `framework` and `layers`, and from `tf.losses`."""

from varscope.compat.tf1 import losses
from varscope.compat.tf1._missing import missing
from varscope.compat.tf1.contrib.framework import (
    add_arg_scope,
    add_model_variable,
    arg_scope,
    arg_scoped_arguments,
    create_global_step,
    current_arg_scope,
    get_global_step,
    get_local_variables,
    get_model_variables,
    get_or_create_global_step,
    get_trainable_variables,
    get_unique_variable,
    get_variables,
    get_variables_by_name,
    get_variables_by_suffix,
    get_variables_to_restore,
    has_arg_scope,
    local_variable,
    model_variable,
    variable,
)
from varscope.compat.tf1.contrib.layers import (
    l1_l2_regularizer,
    l1_regularizer,
    l2_regularizer,
    variance_scaling_initializer,
    xavier_initializer,
    xavier_initializer_conv2d,
)

__all__ = [
    "add_arg_scope",
    "add_model_variable",
    "arg_scope",
    "arg_scoped_arguments",
    "create_global_step",
    "current_arg_scope",
    "get_global_step",
    "get_local_variables",
    "get_model_variables",
    "get_or_create_global_step",
    "get_trainable_variables",
    "get_unique_variable",
    "get_variables",
    "get_variables_by_name",
    "get_variables_by_suffix",
    "get_variables_to_restore",
    "has_arg_scope",
    "l1_l2_regularizer",
    "l1_regularizer",
    "l2_regularizer",
    "local_variable",
    "losses",
    "model_variable",
    "variable",
    "variance_scaling_initializer",
    "xavier_initializer",
    "xavier_initializer_conv2d",
]

__getattr__ = missing(__name__, "contrib.slim")
