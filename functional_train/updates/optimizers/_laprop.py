"""LaProp."""

from functools import partial
from typing import Any

from torch import Tensor

from functional_train.updates.checks import Number, check_betas, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import descent
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise
from functional_train.updates.transforms._moments import MomentsState, init_moments
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter


@schedulable
def scale_by_laprop(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999), eps: Hyperparameter = 1e-15
) -> GradientTransformation:
    r"""Divide each gradient by the root of the mean square, and take the mean of what comes out.

    $$v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad
      m \leftarrow \beta_1 m + (1-\beta_1) g \Big/ \Big(\sqrt{\frac{v}{1-\beta_2^t}} + \epsilon\Big), \quad
      u = \frac{m}{1-\beta_1^t}$$

    Args:
        betas: Decay of the two moments, each in [0, 1). Dimensionless.
        eps: Added to the root, at least 0; in gradient units.

    Returns:
        Transformation with `MomentsState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or eps is negative.

    Source: Ziyin et al. 2020, arXiv:2002.04839, Algorithm 1.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_laprop()
        >>> tx.update([torch.tensor([5.0, -0.1])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([ 1.0000, -1.0000])]
    """
    two = check_betas(betas)
    shift = check_non_negative("eps", eps, "1e-15 is usual.")

    def update(g: Flat, state: MomentsState, p: Flat | None, **extra: Any) -> tuple[Flat, MomentsState]:
        del p, extra
        check_state(state, MomentsState)
        step = g.counted(state.step)
        moments = g.beside(state.exp_avg, state.exp_avg_sq)
        direction, m, v = over_reals(partial(_recurrence, step, two, shift), g, *moments)
        return direction, MomentsState(step, m.tree(absent=state.exp_avg), v.tree(absent=state.exp_avg_sq))

    return GradientTransformation(init_moments, columnwise(update))


def _recurrence(
    step: Tensor, betas: tuple[Number, Number], eps: Number, g: Flat, m: Flat, v: Flat
) -> tuple[Flat, Flat, Flat]:
    v = tree.addcmul(v, g, g, 1 - betas[1], decay=betas[1])
    correction1, correction2 = (1 - beta ** step.double() for beta in betas)
    scaled = tree.div_sqrt(g, v, factor=g.spread(correction2**-0.5), outside=eps)
    m = tree.lerp(m, scaled, 1 - betas[0])
    return tree.scale(g.spread(1 / correction1), m), m, v


def laprop(
    lr: Hyperparameter = 4e-4,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-15,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """LaProp: Adam that takes the mean after it has divided, so that both decays may be chosen freely.

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        betas: As `scale_by_laprop`.
        eps: As `scale_by_laprop`.
        weight_decay: Decoupled, at least 0; direction units per unit of parameter.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Ziyin et al. 2020, arXiv:2002.04839, Algorithm 1; defaults of the authors' code.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.laprop(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    return descent(scale_by_laprop(betas, eps), lr, weight_decay, maximize=maximize)
