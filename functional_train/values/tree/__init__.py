"""Trees: any nesting of dicts, tuples, lists, NamedTuples, `Params` and structs, with tensors as leaves.

The public topic `ft.tree`.
"""

from functional_train.values.tree._arithmetic import add, addcdiv, addcmul, div, lerp, mul, scale, sub
from functional_train.values.tree._build import copy, num_elements, ravel, stack, to, unstack, zeros_like
from functional_train.values.tree._flat import Flat, flat
from functional_train.values.tree._functions import abs, cast, clamp, div_sqrt, maximum, minimum, sign, sqrt, where
from functional_train.values.tree._lookup import combine, get, map_params, partition, set
from functional_train.values.tree._reductions import global_norm, vdot
from functional_train.values.tree._structure import flatten, items, leaves, map, paths, same_structure, unflatten

__all__ = [
    "Flat",
    "abs",
    "add",
    "addcdiv",
    "addcmul",
    "cast",
    "clamp",
    "combine",
    "copy",
    "div",
    "div_sqrt",
    "flat",
    "flatten",
    "get",
    "global_norm",
    "items",
    "leaves",
    "lerp",
    "map",
    "map_params",
    "maximum",
    "minimum",
    "mul",
    "num_elements",
    "partition",
    "paths",
    "ravel",
    "same_structure",
    "scale",
    "set",
    "sign",
    "sqrt",
    "stack",
    "sub",
    "to",
    "unflatten",
    "unstack",
    "vdot",
    "where",
    "zeros_like",
]
