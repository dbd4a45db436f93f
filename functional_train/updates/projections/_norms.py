"""Sets of points whose numbers add up: simplexes, spheres and balls."""

from collections.abc import Callable

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_non_negative
from functional_train.values import tree as trees
from functional_train.values.tree._precision import wide
from functional_train.values.types import Tree


def simplex(tree: Tree, scale: Number = 1.0) -> Tree:
    r"""Go to the nearest point without negative numbers whose sum is `scale`: $\max(x - \tau, 0)$.

    Args:
        tree: A tree of tensors.
        scale: The sum, at least 0.

    Returns:
        A tree like `tree`.

    Raises:
        HyperparameterError: scale is negative or not finite.

    Source: Duchi et al. 2008, "Efficient projections onto the l1-ball for learning in high dimensions", Figure 1.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.projections.simplex({"w": torch.tensor([2.0, 1.5, -1.0])})
        {'w': tensor([0.7500, 0.2500, 0.0000])}
    """
    vector, unravel = _as_vector(tree)
    return unravel(_simplex(vector, check_non_negative("scale", scale)))


def _as_vector(tree: Tree) -> tuple[Tensor, Callable[[Tensor], Tree]]:
    """All leaves as one vector, of 32 bits at least, in which long sums are right."""
    vector, unravel = trees.ravel(tree)
    return wide(vector), unravel


def _simplex(vector: Tensor, scale: Number) -> Tensor:
    if vector.numel() == 0:
        return vector
    largest = vector.sort(descending=True).values
    counts = torch.arange(1, vector.numel() + 1, dtype=vector.dtype, device=vector.device)
    surplus = (largest.cumsum(0) - scale) / counts
    # How many numbers stay above zero; the largest does even where rounding says otherwise.
    num_positive = (largest > surplus).sum().clamp(min=1)
    return torch.clamp(vector - surplus.gather(0, num_positive[None] - 1), min=0)


def l1_sphere(tree: Tree, scale: Number = 1.0) -> Tree:
    """Go to the nearest point whose sizes add up to `scale`.

    Args:
        tree: A tree of tensors. Of a zero, either side is as near; the positive one is taken.
        scale: Radius, at least 0.

    Returns:
        A tree like `tree`.

    Raises:
        HyperparameterError: scale is negative or not finite.

    Source: Duchi et al. 2008, "Efficient projections onto the l1-ball for learning in high dimensions", section 4.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.projections.l1_sphere({"w": torch.tensor([-2.0, 1.5])})
        {'w': tensor([-0.7500,  0.2500])}
    """
    vector, unravel = _as_vector(tree)
    return unravel(_l1_sphere(vector, check_non_negative("scale", scale)))


def _l1_sphere(vector: Tensor, scale: Number) -> Tensor:
    return torch.where(vector < 0, -1, 1).to(vector.dtype) * _simplex(vector.abs(), scale)


def l1_ball(tree: Tree, scale: Number = 1.0) -> Tree:
    """Go to the nearest point whose sizes add up to `scale` at most.

    Args:
        tree: A tree of tensors.
        scale: Radius, at least 0.

    Returns:
        A tree like `tree`, equal to it inside.

    Raises:
        HyperparameterError: scale is negative or not finite.

    Source: Duchi et al. 2008, "Efficient projections onto the l1-ball for learning in high dimensions", section 4.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.projections.l1_ball({"w": torch.tensor([-2.0, 1.5])}), ft.projections.l1_ball({"w": torch.tensor([0.5])})
        ({'w': tensor([-0.7500,  0.2500])}, {'w': tensor([0.5000])})
    """
    scale = check_non_negative("scale", scale)
    vector, unravel = _as_vector(tree)
    return unravel(torch.where(vector.abs().sum() <= scale, vector, _l1_sphere(vector, scale)))


def l2_sphere(tree: Tree, scale: Number = 1.0) -> Tree:
    """Go to the nearest point of length `scale`.

    Args:
        tree: A tree of tensors; one of length 0 is as near to every point, and becomes nan.
        scale: Radius, at least 0.

    Returns:
        A tree like `tree`.

    Raises:
        HyperparameterError: scale is negative or not finite.

    Source: Boyd & Vandenberghe 2004, "Convex optimization", section 8.1.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.projections.l2_sphere({"w": torch.tensor([3.0, 4.0])})
        {'w': tensor([0.6000, 0.8000])}
    """
    return trees.scale(check_non_negative("scale", scale) / trees.global_norm(tree), tree)


def l2_ball(tree: Tree, scale: Number = 1.0) -> Tree:
    """Go to the nearest point of length `scale` at most.

    Args:
        tree: A tree of tensors.
        scale: Radius, at least 0.

    Returns:
        A tree like `tree`, equal to it inside.

    Raises:
        HyperparameterError: scale is negative or not finite.

    Source: Parikh & Boyd 2014, "Proximal algorithms", section 6.5.1.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.projections.l2_ball({"w": torch.tensor([3.0, 4.0])}), ft.projections.l2_ball({"w": torch.tensor([0.5])})
        ({'w': tensor([0.6000, 0.8000])}, {'w': tensor([0.5000])})
    """
    scale = check_non_negative("scale", scale)
    norm = trees.global_norm(tree)
    inside = norm <= scale
    # The quotient is of 1 where it is not used, so that its derivative is finite there.
    return trees.scale(torch.where(inside, 1, scale / torch.where(inside, 1, norm)), tree)
