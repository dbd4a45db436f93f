"""Yogi."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_betas, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import descent
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.updates.transforms._moments import MomentsState
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter, Tree


@schedulable
def scale_by_yogi(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999), eps: Hyperparameter = 1e-3
) -> GradientTransformation:
    r"""Adam's direction with a second moment that changes by no more than the newest square.

    $$m \leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow v - (1-\beta_2) \operatorname{sign}(v - g^2) g^2, \quad
      u = \frac{m}{1-\beta_1^t} \Big/ \Big(\sqrt{\frac{v}{1-\beta_2^t}} + \epsilon\Big)$$

    Args:
        betas: Decay of the two moments, each in [0, 1). Dimensionless.
        eps: Added to the root, at least 0; in gradient units.

    Returns:
        Transformation with `MomentsState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or eps is negative.

    Source: Zaheer et al. 2018, "Adaptive methods for nonconvex optimization", Algorithm 2.

    Differs: v starts at 1e-6, and the moments are corrected for a start at zero, as in Optax; there m starts at 1e-6
        too, here at 0 as in the paper.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_yogi()
        >>> tx.update([torch.tensor([0.999, 0.0])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([0.9985, 0.0000])]
    """
    two = check_betas(betas)
    shift = check_non_negative("eps", eps, "1e-3 is usual.")

    def init(params: Tree) -> MomentsState:
        return MomentsState(zero_step_per_leaf(params), tree.zeros_like(params), tree.map(_first_square, params))

    def update(g: Flat, state: MomentsState, p: Flat | None, **extra: Any) -> tuple[Flat, MomentsState]:
        del p, extra
        check_state(state, MomentsState)
        step = g.counted(state.step)
        moments = g.beside(state.exp_avg, state.exp_avg_sq)
        direction, m, v = over_reals(partial(_recurrence, step, two, shift), g, *moments)
        return direction, MomentsState(step, m.tree(absent=state.exp_avg), v.tree(absent=state.exp_avg_sq))

    return GradientTransformation(init, columnwise(update))


def _first_square(leaf: Tensor) -> Tensor:
    return torch.full_like(leaf, 1e-6 + 1e-6j if leaf.is_complex() else 1e-6)


def _recurrence(
    step: Tensor, betas: tuple[Number, Number], eps: Number, g: Flat, m: Flat, v: Flat
) -> tuple[Flat, Flat, Flat]:
    m, squares = tree.lerp(m, g, 1 - betas[0]), tree.mul(g, g)
    v = tree.addcmul(v, tree.sign(tree.sub(squares, v).spend()), squares, 1 - betas[1])
    correction1, correction2 = (1 - beta ** step.double() for beta in betas)
    factor, shift = g.spread(correction1 * correction2**-0.5), g.spread(correction1 * eps)
    return tree.div_sqrt(m, v, factor=factor, outside=shift), m, v


def yogi(
    lr: Hyperparameter = 1e-2,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-3,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Yogi: Adam whose steps do not suddenly grow after a run of small gradients.

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        betas: As `scale_by_yogi`.
        eps: As `scale_by_yogi`.
        weight_decay: Decoupled, at least 0; direction units per unit of parameter.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Zaheer et al. 2018, "Adaptive methods for nonconvex optimization", Algorithm 2; its defaults.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.yogi(0.1, eps=0.0)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    return descent(scale_by_yogi(betas, eps), lr, weight_decay, maximize=maximize)
