"""Old values moved toward new ones: target networks, and averages of what an optimizer does not see."""

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_count, check_non_negative
from functional_train.values import tree
from functional_train.values.tree._structure import is_floating
from functional_train.values.types import Tree


def incremental_update(new: Tree, old: Tree, step_size: Number) -> Tree:
    r"""Move a tree part of the way to another: $\mathrm{old} + s (\mathrm{new} - \mathrm{old})$.

    Args:
        new: Where to go: parameters, buffers, or both.
        old: A tree like `new`, which an earlier call returned.
        step_size: The part of the way, at least 0 and usually at most 1. Dimensionless.

    Returns:
        A tree like `old`. Leaves that are not floating, such as counts, are those of `new`.

    Raises:
        HyperparameterError: step_size is negative or not finite.
        StructureError: the structures differ; the message names where.

    Source: Lillicrap et al. 2016, arXiv:1509.02971, Algorithm 1, the target networks; Optax, `incremental_update`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.incremental_update({"w": torch.ones(1)}, {"w": torch.zeros(1)}, 0.1)
        {'w': tensor([0.1000])}
    """
    part = check_non_negative("step_size", step_size)

    moving = tree.map(lambda leaf: leaf if is_floating(leaf) else None, old)
    return tree.combine(tree.lerp(moving, new, part), new)


def periodic_update(new: Tree, old: Tree, step: int | Tensor, every: int | Tensor) -> Tree:
    """Take a tree over at each `every`-th step, and keep the old one between.

    Args:
        new: What is taken.
        old: A tree like `new`, which an earlier call returned.
        step: () int64, the count of steps.
        every: Steps from one time to the next, at least 1.

    Returns:
        `new` where `step` is a multiple of `every`, else `old`.

    Raises:
        HyperparameterError: every is a number other than 1, 2, 3, ...
        StructureError: the structures differ; the message names where.

    Source: Mnih et al. 2015, "Human-level control through deep reinforcement learning", Algorithm 1, the target
        network; Optax, `periodic_update`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.periodic_update({"w": torch.ones(1)}, {"w": torch.zeros(1)}, step=torch.tensor(4), every=2)
        {'w': tensor([1.])}
    """
    due = torch.as_tensor(step % check_count("every", every, 1) == 0)
    return tree.where(due, new, old)
