"""Clipping."""

import torch

from functional_train.updates.hyperparameters import check_non_negative, schedulable
from functional_train.updates.transformation import GradientTransformation, stateless_columns
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter


@schedulable
def clip_by_global_norm(max_norm: Hyperparameter = 1.0) -> GradientTransformation:
    r"""Shorten gradients that are longer than `max_norm`: $u = g \cdot \min(1, c / (\lVert g \rVert + 10^{-6}))$.

    The norm is taken over all leaves as one vector. Nothing is synchronized with the host.

    Args:
        max_norm: Largest length, at least 0; in gradient units.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when `max_norm` is a schedule.

    Raises:
        HyperparameterError: max_norm is negative or not finite.

    Source: Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1; the 1e-6 is torch.nn.utils.clip_grad_norm_'s.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.clip_by_global_norm(1.0)
        >>> tx.update([torch.tensor([3.0, 4.0])], tx.init(None), None)[0]
        [tensor([0.6000, 0.8000])]
    """
    longest = check_non_negative("max_norm", max_norm, "1.0 is usual.")

    def shorten(g: Flat, p: Flat | None) -> Flat:
        del p
        factor = torch.clamp(longest / (tree.global_norm(g.leaves) + 1e-6), max=1.0)
        return tree.scale(factor, g.spend())

    return stateless_columns(shorten)
