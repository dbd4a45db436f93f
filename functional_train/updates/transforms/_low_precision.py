"""Leaves of 16 bits, as wrappers that round for them see them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from functional_train.updates.apply import move_columns
from functional_train.updates.transformation import GradientTransformation
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._precision import is_low
from functional_train.values.types import Tree


def has_low(column: Flat) -> bool:
    """Whether any leaf of a column has 16 bits."""
    return any(is_low(leaf) for leaf in column.leaves)


def for_low(params: Tree, dtype: torch.dtype | None = None) -> Tree:
    """Zeros for each leaf of 16 bits; for the others, of which nothing is remembered, tensors without elements."""
    return tree.map(lambda p: torch.zeros_like(p, dtype=dtype) if is_low(p) else p.new_zeros(0), params)


def stored(leaf: Tensor) -> Tensor:
    """A leaf of 16 bits as memory holds it.

    A compiler keeps what is only passed on in registers of 32 bits, and then nothing seems to be lost in rounding.
    Looking at the bits makes it round.
    """
    traced = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    if not traced or leaf.requires_grad:
        return leaf
    return (leaf.view(torch.int16) & -1).view(leaf.dtype)


def move_wide(transformation: GradientTransformation, g: Flat, inner: Tree, p: Flat, extra: Mapping[str, Any]) -> Any:
    """The move of what is wrapped, where no leaf has 16 bits and there is nothing to do; otherwise None."""
    return None if has_low(p) else move_columns(transformation, g, inner, p, extra)
