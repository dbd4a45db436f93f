"""Lines, hyperplanes and what lies on one side of them."""

import torch

from functional_train.updates.checks import Number
from functional_train.values import tree as trees
from functional_train.values.types import Tree


def line(tree: Tree, direction: Tree) -> Tree:
    r"""Go to the nearest multiple of a direction: $\frac{\langle x, a \rangle}{\langle a, a \rangle} a$.

    Args:
        tree: A tree of tensors.
        direction: A tree like `tree`, not all of it 0.

    Returns:
        A tree like `tree`.

    Raises:
        StructureError: the structures differ; the message names where.

    Source: Boyd & Vandenberghe 2004, "Convex optimization", section 8.1, projection on a set.

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
