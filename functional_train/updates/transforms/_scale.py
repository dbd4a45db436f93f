"""Scaling by the learning rate, and maximizing."""

from typing import Any

from functional_train.updates.apply import added
from functional_train.updates.checks import check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import (
    EmptyState,
    GradientTransformation,
    check_state,
    stateless_columns,
    with_move,
)
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree


@schedulable
def scale_by_lr(lr: Hyperparameter = 1e-3) -> GradientTransformation:
    r"""Turn a direction into an update: $u = -\mathrm{lr} \cdot g$.

    Args:
        lr: Step size, at least 0; parameter units per unit of direction.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when `lr` is a schedule.

    Raises:
        HyperparameterError: lr is negative or not finite.

    Source: Robbins & Monro 1951, "A stochastic approximation method".

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_lr(0.1)
        >>> tx.update([torch.ones(1)], tx.init(None), None)[0]
        [tensor([-0.1000])]
    """
    rate = check_non_negative("lr", lr, "To climb instead of descend, pass maximize=True to the optimizer.")

    def move(g: Flat, state: Tree, p: Flat, **extra: Any) -> tuple[Flat, Tree]:
        del extra
        check_state(state, EmptyState)
        return added(p, g, share=-rate), state

    return with_move(stateless_columns(lambda g, p: tree.scale(-rate, g.spend())), move)


def negate() -> GradientTransformation:
    """Turn gradients around, so that what follows climbs.

    Returns:
        Transformation with `EmptyState`.

    Source: torch.optim, `maximize`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.negate().update([torch.ones(1)], ft.EmptyState(), None)[0]
        [tensor([-1.])]
    """
    return stateless_columns(lambda g, p: tree.scale(-1, g.spend()))
