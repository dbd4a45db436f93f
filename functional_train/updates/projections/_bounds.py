"""Sets that bound each number by itself."""

import functools
from typing import Any

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_non_negative
from functional_train.values import tree as trees
from functional_train.values.types import Tree


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

    Source: Parikh & Boyd 2014, "Proximal algorithms", section 6.5, on norm balls.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.projections.linf_ball({"w": torch.tensor([-3.0, 0.5])})
        {'w': tensor([-1.0000,  0.5000])}
    """
    scale = check_non_negative("scale", scale)
    return box(tree, -scale, scale)
