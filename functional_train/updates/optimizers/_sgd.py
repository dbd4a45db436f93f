"""Stochastic gradient descent."""

from typing import Any

from functional_train.updates.chain import chain
from functional_train.updates.checks import is_zero
from functional_train.updates.hyperparameters import scheduled
from functional_train.updates.optimizers._descent import climbing, decaying
from functional_train.updates.transformation import EmptyState, GradientTransformation, with_move
from functional_train.updates.transforms._momentum import MomentumState, add_momentum
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values.tree import Flat
from functional_train.values.tree._fused import SGDNumbers, fused_sgd
from functional_train.values.types import Hyperparameter, Tree


def sgd(
    lr: Hyperparameter = 1e-3,
    momentum: Hyperparameter = 0.0,
    dampening: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    nesterov: bool = False,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Stochastic gradient descent, with momentum when asked for.

    Args:
        lr: As `scale_by_lr`.
        momentum: As `add_momentum`; with 0 no velocity is kept.
        dampening: As `add_momentum`.
        weight_decay: L2 penalty, added to the gradient before momentum; at least 0.
        nesterov: As `add_momentum`.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is negative or not finite, or nesterov does not go with the others.

    Source: torch.optim.SGD, whose rule this is; Robbins & Monro 1951, "A stochastic approximation method".

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.sgd(0.1, momentum=0.9)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    before = climbing(maximize) + decaying(weight_decay)
    velocity = [add_momentum(momentum, dampening, nesterov)] if nesterov or not is_zero(momentum) else []
    parts = chain(*before, *velocity, scale_by_lr(lr))
    if not is_zero(dampening):
        return parts
    kinds = [EmptyState] * len(before) + [MomentumState] * len(velocity)
    place = len(before)

    def move(g: Flat, states: Tree, p: Flat, **extra: Any) -> tuple[Flat, Tree] | None:
        del extra
        if type(states) is not tuple or [type(state) for state in states[:-1]] != kinds:
            return None
        (buffer,) = g.beside(states[place].momentum_buffer) if velocity else (None,)
        rate, rate_state = scheduled(lr, states[-1])
        moved = fused_sgd(g, buffer, SGDNumbers(rate, momentum, weight_decay, nesterov, maximize), p)
        if moved is None:
            return None
        new, buffer = moved
        if buffer is None:
            return new, (*states[:-1], rate_state)
        old: MomentumState = states[place]
        new_state = MomentumState(g.counted(old.step), buffer.tree(absent=old.momentum_buffer))
        return new, (*states[:place], new_state, rate_state)

    return with_move(parts, move)
