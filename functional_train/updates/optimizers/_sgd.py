"""Stochastic gradient descent."""

from functional_train.updates.hyperparameters import is_zero
from functional_train.updates.transformation import GradientTransformation, chain
from functional_train.updates.transforms._decay import add_decayed_weights
from functional_train.updates.transforms._momentum import add_momentum
from functional_train.updates.transforms._scale import negate, scale_by_lr
from functional_train.values.types import Hyperparameter


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

    Source: torch.optim.SGD, whose rule this is; Robbins & Monro 1951, "A stochastic approximation method", equation 6.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.sgd(0.1, momentum=0.9)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    parts = [negate()] if maximize else []
    if not is_zero(weight_decay):
        parts.append(add_decayed_weights(weight_decay))
    if nesterov or not is_zero(momentum):
        parts.append(add_momentum(momentum, dampening, nesterov))
    return chain(*parts, scale_by_lr(lr))
