"""MARS."""

from functools import partial
from typing import Any, NamedTuple

import torch

from functional_train.updates.chain import chain
from functional_train.updates.checks import Number, check_fraction, check_non_negative, check_pair
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._adam import scale_by_adam
from functional_train.updates.optimizers._descent import descent
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter, Tree


class VarianceReductionState(NamedTuple):
    """The last gradient of each parameter.

    Attributes:
        last_grad: Like params; zero before the first.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.reduce_variance().init({"w": torch.ones(1)}).last_grad
        {'w': tensor([0.])}
    """

    last_grad: Tree


@schedulable
def reduce_variance(gamma: Hyperparameter = 0.025, momentum: Hyperparameter = 0.95) -> GradientTransformation:
    r"""Add a share of its last change to each gradient, and shorten what is longer than 1, leaf by leaf.

    $$c = g + \gamma \frac{\beta}{1-\beta} (g - g_{t-1}), \quad u = c / \max(1, \lVert c \rVert)$$

    Args:
        gamma: How much of the variance is to be taken off, at least 0 and usually below 1. Dimensionless.
        momentum: Decay of the mean of gradients that follows, in [0, 1). Dimensionless.

    Returns:
        Transformation with `VarianceReductionState`; a leaf whose gradient is `None` keeps its state.

    Raises:
        HyperparameterError: gamma is negative, or momentum is outside [0, 1).

    Source: Yuan et al. 2024, arXiv:2411.10438, Algorithm 1, lines 4 and 5, in its approximate form.

    Differs: the gradient before the first is zero, as in the authors' code.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.reduce_variance(1.0, 0.5)
        >>> updates, state = tx.update([torch.tensor([0.1])], tx.init([torch.zeros(1)]), None)
        >>> tx.update([torch.tensor([0.2])], state, None)[0]
        [tensor([0.3000])]
    """
    beta = check_fraction("momentum", momentum, "It is that of the mean of gradients that follows; 0.95 is usual.")
    share = check_non_negative("gamma", gamma, "0.025 is usual.") * beta / (1 - beta)

    def init(params: Tree) -> VarianceReductionState:
        return VarianceReductionState(tree.zeros_like(params))

    def update(
        g: Flat, state: VarianceReductionState, p: Flat | None, **extra: Any
    ) -> tuple[Flat, VarianceReductionState]:
        del p, extra
        check_state(state, VarianceReductionState)
        (corrected,) = over_reals(partial(_corrected, share), g, *g.beside(state.last_grad))
        # The gradient itself is kept, not a copy: nothing here writes to it.
        return corrected, VarianceReductionState(g.tree(absent=state.last_grad))

    return GradientTransformation(init, columnwise(update))


def _corrected(share: Number, g: Flat, last: Flat) -> tuple[Flat]:
    c = tree.add(g, tree.sub(g, last), alpha=share)
    factors = tree.norms(c).jointly(lambda norms: 1 / torch.clamp(norms, min=1.0))
    return (tree.scale(factors, c.spend()),)


def mars(
    lr: Hyperparameter = 3e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.95, 0.99),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
    gamma: Hyperparameter = 0.025,
) -> GradientTransformation:
    """MARS: AdamW on gradients of reduced variance.

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        betas: As `scale_by_adam`; the first is the momentum of `reduce_variance` too.
        eps: As `scale_by_adam`.
        weight_decay: As `add_decayed_weights`.
        maximize: Whether to climb.
        gamma: As `reduce_variance`.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Yuan et al. 2024, arXiv:2411.10438, Algorithm 2 (MARS-AdamW); defaults of the authors' code.

    Differs: from the authors' code, which leaves all but matrices to AdamW.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.mars(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    direction = chain(reduce_variance(gamma, check_pair(betas)[0]), scale_by_adam(betas, eps))
    return descent(direction, lr, weight_decay, maximize=maximize)
