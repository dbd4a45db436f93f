"""Cautious updates, and cautious weight decay."""

from functools import partial
from typing import Any

import torch

from functional_train.updates.checks import Number, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import (
    GradientTransformation,
    check_transformation,
    columnwise,
    stateless_columns,
    update_columns,
)
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter, Tree


def cautious(transformation: GradientTransformation, *, direction: bool = False) -> GradientTransformation:
    r"""Leave out what an optimizer does against the gradient, and enlarge the rest in each leaf.

    $$u \leftarrow u \cdot [u g < 0] \cdot \frac{n}{1 + \#\{u g < 0\}}$$

    Here n counts the elements of a leaf.

    Args:
        transformation: Makes updates, which are added to parameters: an optimizer. What it decays is part of its
            updates. To climb, put `negate` before the whole.
        direction: Whether it makes a direction instead, which is subtracted later. So decay stays out of it:
            `ft.chain(ft.cautious(ft.scale_by_lion(), direction=True), ft.add_decayed_weights(), ft.scale_by_lr())`.

    Returns:
        Transformation with the state of the one inside.

    Raises:
        StructureError: an argument is not a transformation.

    Source: Liang et al. 2024, arXiv:2411.16085, Algorithm 1, with its constant of 1.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.cautious(ft.sgd(0.1, momentum=0.9))
        >>> params = torch.zeros(2)
        >>> updates, state = optimizer.update(torch.tensor([1.0, 1.0]), optimizer.init(params), params)
        >>> optimizer.update(torch.tensor([-0.5, 1.0]), state, params)[0]
        tensor([-0.0000, -0.1900])
    """
    check_transformation(transformation, "cautious")

    def update(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, Tree]:
        # The gradient is looked at again, so nothing inside may write into it.
        held = g.held()
        u, state, _ = update_columns(transformation, held, state, p, extra)
        if u.frame is not g.frame:
            (held,) = u.beside(g.tree())
        (masked,) = over_reals(partial(_masked, 1 if direction else -1), u, held)
        return masked, state

    return GradientTransformation(transformation.init, columnwise(update))


def _masked(side: int, u: Flat, g: Flat) -> tuple[Flat]:
    # Signs first: the product of two small numbers may be zero.
    agreement = tree.mul(tree.sign(u), tree.sign(g))
    agrees = tree.maximum(tree.scale(side, agreement.spend()).spend(), 0)
    if not u.leaves:
        return (u,)
    kept = torch.stack([leaf.sum(dtype=_wide(leaf.dtype)) for leaf in agrees.leaves])
    share = kept.new_tensor([leaf.numel() for leaf in u.leaves]) / (kept + 1)
    return (tree.mul(tree.scale(u.numbers(share), agrees.spend()).spend(), u),)


@schedulable
def add_cautious_decay(weight_decay: Hyperparameter = 1e-2) -> GradientTransformation:
    r"""Add a multiple of the parameters where that does not oppose the direction: $u = g + \lambda p [g p \ge 0]$.

    It stands where `add_decayed_weights` stands in AdamW, after a direction and before `scale_by_lr`.

    Args:
        weight_decay: At least 0; direction units per unit of parameter.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when `weight_decay` is a schedule.

    Raises:
        HyperparameterError: weight_decay is negative or not finite.

    Source: Chen et al. 2025, arXiv:2510.12402, Algorithm 1.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.add_cautious_decay(0.1)
        >>> tx.update([torch.tensor([1.0, -1.0])], tx.init(None), [torch.ones(2)])[0]
        [tensor([ 1.1000, -1.0000])]
    """
    decay = check_non_negative("weight_decay", weight_decay)

    def decayed(g: Flat, p: Flat | None) -> Flat:
        assert p is not None
        return over_reals(lambda g, p: (_decayed(decay, g, p),), g, p)[0]

    return stateless_columns(decayed)


def _decayed(decay: Number, g: Flat, p: Flat) -> Flat:
    agreement = tree.mul(tree.sign(g), tree.sign(p))
    mask = tree.minimum(tree.add(agreement.spend(), 1).spend(), 1)
    return tree.addcmul(g, mask, p, decay)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
