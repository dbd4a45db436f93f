"""What methods that estimate the distance to a minimum have in common."""

import math

import torch
from torch import Tensor

from functional_train.updates.checks import Number
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._precision import is_low, wide
from functional_train.values.types import Tree


def widened(column: Flat) -> Flat:
    """The column with leaves of 16 bits in float32, which has the range for quotients."""
    if not any(is_low(leaf) for leaf in column.leaves):
        return column
    return column.map(wide)


def inner(first: Flat, second: Flat) -> Tensor:
    """The inner product of two columns, complex numbers taken as pairs of real ones; () float64."""
    rows = zip(first.leaves, second.leaves, strict=True)
    return _total([torch.dot(_real(one).reshape(-1), _real(other).reshape(-1)) for one, other in rows])


def norm(values: Tree, order: int) -> Tensor:
    """The norm of a whole tree, complex numbers taken as pairs of real ones; () float64."""
    powers = [torch.linalg.vector_norm(_real(leaf), order).double() ** order for leaf in tree.leaves(values)]
    total = _total(powers)
    if order == 1:
        return total
    # The slope of a root at 0, which has none, is taken to be 0.
    vanishing = total == 0
    return torch.where(vanishing, 0, torch.where(vanishing, 1, total) ** (1 / order))


def _real(leaf: Tensor) -> Tensor:
    if leaf.is_complex():
        return torch.view_as_real(leaf.resolve_conj())
    return leaf if leaf.dtype in (torch.float32, torch.float64) else leaf.float()


def _total(parts: list[Tensor]) -> Tensor:
    if not parts:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack([part.double().to(parts[0].device) for part in parts]).sum()


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where there is nothing to divide by."""
    return torch.where(denominator > 0, numerator / torch.where(denominator > 0, denominator, 1), 0)


def limited(target: Tensor, d: Tensor, growth_rate: Number) -> Tensor:
    """The smaller of the target and of `d` grown by its rate, which may be infinite."""
    if not isinstance(growth_rate, Tensor):
        # A clone, because torch's tracer counts a tensor that stands twice in a state as a change of the state.
        return target.clone() if math.isinf(growth_rate) else torch.minimum(target, d * growth_rate)
    endless = torch.isinf(growth_rate)
    return torch.where(endless, target, torch.minimum(target, d * torch.where(endless, 1, growth_rate)))
