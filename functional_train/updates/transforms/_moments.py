"""The state of methods that keep a first and a second moment."""

from typing import NamedTuple

from torch import Tensor

from functional_train.updates.transformation import zero_step_per_leaf
from functional_train.values import tree
from functional_train.values.types import Tree


class MomentsState(NamedTuple):
    """Running moments of two orders.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        exp_avg: Like params, the first moment.
        exp_avg_sq: Like params, the second moment.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_belief().init({"w": torch.ones(1)}).step
        tensor([0])
    """

    step: Tensor
    exp_avg: Tree
    exp_avg_sq: Tree


def init_moments(params: Tree) -> MomentsState:
    """Moments of zero."""
    return MomentsState(zero_step_per_leaf(params), tree.zeros_like(params), tree.zeros_like(params))
