"""Leaves of 16 bits, which are too coarse or too narrow for what is added up or divided by in between."""

import torch
from torch import Tensor

LOW_PRECISION = frozenset({torch.float16, torch.bfloat16})


def is_low(leaf: Tensor) -> bool:
    """Whether a leaf has 16 bits."""
    return leaf.dtype in LOW_PRECISION


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """A dtype itself, and float32 for one of 16 bits."""
    return torch.float32 if dtype in LOW_PRECISION else dtype


def wide(leaf: Tensor) -> Tensor:
    """A leaf itself, and in float32 when it has 16 bits."""
    return leaf.float() if leaf.dtype in LOW_PRECISION else leaf
