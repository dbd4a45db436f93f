"""Cautious updates."""

from functools import partial
from typing import Any

import torch

from functional_train.updates.transformation import (
    GradientTransformation,
    check_transformation,
    columnwise,
    update_columns,
)
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Tree


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
        held = Flat(g.leaves, g.frame, g.plain, g.source)
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


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
