"""Projections of trees: the nearest point of a set, all leaves taken as one vector.

The public topic `ft.projections`. Each is a pure function of real floating leaves, `None` absorbs, and numbers that say
how large the set is may be 0-d tensors. `ft.project` holds parameters in such a set while they are trained.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functional_train.updates.hyperparameters import Number, check_non_negative
from functional_train.values import tree as trees
from functional_train.values.types import Tree

__all__ = [
    "box",
    "halfspace",
    "hypercube",
    "hyperplane",
    "l1_ball",
    "l1_sphere",
    "l2_ball",
    "l2_sphere",
    "line",
    "linf_ball",
    "non_negative",
    "simplex",
]


def non_negative(tree: Tree) -> Tree:
    """Go to the nearest point without negative numbers.

    Args:
        tree: A tree of tensors.

    Returns:
        A tree like `tree`.

    Source: Boyd & Vandenberghe 2004, "Convex optimization", section 8.1.1.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.projections.non_negative({"w": torch.tensor([-1.0, 2.0])})
        {'w': tensor([0., 2.])}
    """
    return trees.map(lambda leaf: torch.clamp(leaf, min=0), tree)


def box(tree: Tree, lower: Any, upper: Any) -> Tree:
    """Go to the nearest point between two bounds.

    Args:
        tree: A tree of tensors.
        lower: The least values: a number, a 0-d tensor, or a tree like `tree`.
        upper: The largest values, likewise; where they are below `lower` they win.

    Returns:
        A tree like `tree`.

    Raises:
        StructureError: the structures differ; the message names where.

    Source: Boyd & Vandenberghe 2004, "Convex optimization", section 8.1.1.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.projections.box({"w": torch.tensor([-1.0, 2.0])}, 0.0, {"w": torch.tensor([1.0, 1.5])})
        {'w': tensor([0.0000, 1.5000])}
    """
    for bound, nearest in ((lower, torch.maximum), (upper, torch.minimum)):
        if isinstance(bound, int | float) or (isinstance(bound, Tensor) and bound.ndim == 0):
            tree = trees.map(functools.partial(_bounded, nearest=nearest, bound=bound), tree)
        else:
            tree = trees.map(lambda leaf, own, nearest=nearest: _bounded(leaf, nearest, own), tree, bound)
    return tree


def _bounded(leaf: Tensor, nearest: Any, bound: Any) -> Tensor:
    return nearest(leaf, torch.as_tensor(bound, dtype=leaf.dtype, device=leaf.device))


def hypercube(tree: Tree, scale: Number = 1.0) -> Tree:
    """Go to the nearest point with all numbers between 0 and `scale`.

    Args:
        tree: A tree of tensors.
        scale: Length of an edge, at least 0.

    Returns:
        A tree like `tree`.

    Raises:
        HyperparameterError: scale is negative or not finite.

    Source: Boyd & Vandenberghe 2004, "Convex optimization", section 8.1.1.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.projections.hypercube({"w": torch.tensor([-1.0, 2.0])})
        {'w': tensor([0., 1.])}
    """
    return box(tree, 0.0, check_non_negative("scale", scale))


def linf_ball(tree: Tree, scale: Number = 1.0) -> Tree:
    """Go to the nearest point with all numbers of size `scale` at most.

    Args:
        tree: A tree of tensors.
        scale: Radius, at least 0.

    Returns:
        A tree like `tree`.

    Raises:
        HyperparameterError: scale is negative or not finite.

    Source: Parikh & Boyd 2014, "Proximal algorithms", section 6.2.1.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.projections.linf_ball({"w": torch.tensor([-3.0, 0.5])})
        {'w': tensor([-1.0000,  0.5000])}
    """
    scale = check_non_negative("scale", scale)
    return box(tree, -scale, scale)


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
    return vector.float() if vector.dtype in (torch.float16, torch.bfloat16) else vector, unravel


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


def line(tree: Tree, direction: Tree) -> Tree:
    r"""Go to the nearest multiple of a direction: $\frac{\langle x, a \rangle}{\langle a, a \rangle} a$.

    Args:
        tree: A tree of tensors.
        direction: A tree like `tree`, not all of it 0.

    Returns:
        A tree like `tree`.

    Raises:
        StructureError: the structures differ; the message names where.

    Source: Boyd & Vandenberghe 2004, "Convex optimization", section 8.1.1, projection on an affine set.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.projections.line({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([1.0, 0.0])})
        {'w': tensor([3., 0.])}
    """
    along = trees.vdot(tree, direction) / trees.vdot(direction, direction)
    return trees.cast(trees.scale(along, direction), tree)


def hyperplane(tree: Tree, normal: Tree, offset: Number = 0.0) -> Tree:
    r"""Go to the nearest point of a hyperplane: $\langle x, a \rangle = b$.

    Args:
        tree: A tree of tensors.
        normal: The vector $a$, a tree like `tree`, not all of it 0.
        offset: The number $b$.

    Returns:
        A tree like `tree`.

    Raises:
        StructureError: the structures differ; the message names where.

    Source: Boyd & Vandenberghe 2004, "Convex optimization", section 8.1.1.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.projections.hyperplane({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([0.0, 1.0])}, 1.0)
        {'w': tensor([3., 1.])}
    """
    beyond = (trees.vdot(tree, normal) - offset) / trees.vdot(normal, normal)
    return trees.sub(tree, normal, alpha=beyond)


def halfspace(tree: Tree, normal: Tree, offset: Number = 0.0) -> Tree:
    r"""Go to the nearest point on one side of a hyperplane: $\langle x, a \rangle \le b$.

    Args:
        tree: A tree of tensors.
        normal: The vector $a$, a tree like `tree`, not all of it 0.
        offset: The number $b$.

    Returns:
        A tree like `tree`, equal to it inside.

    Raises:
        StructureError: the structures differ; the message names where.

    Source: Boyd & Vandenberghe 2004, "Convex optimization", section 8.1.1.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.projections.halfspace({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([0.0, 1.0])}, 9.0)
        {'w': tensor([3., 4.])}
    """
    beyond = (trees.vdot(tree, normal) - offset) / trees.vdot(normal, normal)
    return trees.sub(tree, normal, alpha=torch.clamp(beyond, min=0))
