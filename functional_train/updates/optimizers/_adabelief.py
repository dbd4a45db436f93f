"""AdaBelief."""

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
def scale_by_belief(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999), eps: Hyperparameter = 1e-16
) -> GradientTransformation:
    r"""Divide the mean of the gradients by the root of their mean square distance from it.

    $$m \leftarrow \beta_1 m + (1-\beta_1) g, \quad s \leftarrow \beta_2 s + (1-\beta_2) (g - m)^2 + \epsilon, \quad
      u = \frac{m}{1-\beta_1^t} \Big/ \Big(\sqrt{\frac{s}{1-\beta_2^t}} + \epsilon\Big)$$

    Args:
        betas: Decay of the two moments, each in [0, 1). Dimensionless.
        eps: Added to the second moment at each update and to its root, at least 0; in gradient units.

    Returns:
        Transformation with `MomentsState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or eps is negative.

    Source: Zhuang et al. 2020, arXiv:2010.07468, Algorithm 2.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_belief()
        >>> tx.update([torch.tensor([0.9, -9.0])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([ 1.1111, -1.1111])]
    """
    beta1, beta2 = check_betas(betas)
    shift = check_non_negative("eps", eps, "1e-16 is usual.")

    def update(g: Flat, state: MomentsState, p: Flat | None, **extra: Any) -> tuple[Flat, MomentsState]:
        del p, extra
        check_state(state, MomentsState)
        step = g.counted(state.step)
        moments = g.beside(state.exp_avg, state.exp_avg_sq)
        direction, m, s = over_reals(partial(_recurrence, step, (beta1, beta2), shift), g, *moments)
        return direction, MomentsState(step, m.tree(absent=state.exp_avg), s.tree(absent=state.exp_avg_sq))

    return GradientTransformation(init_moments, columnwise(update))


def _recurrence(
    step: Tensor, betas: tuple[Number, Number], eps: Number, g: Flat, m: Flat, s: Flat
) -> tuple[Flat, Flat, Flat]:
    beta1, beta2 = betas
    m = tree.lerp(m, g, 1 - beta1)
    surprise = tree.sub(g, m)
    squares = tree.mul(surprise.spend(), surprise)
    # Inside the mean rather than after it, where on leaves without elements torch would lay out the sum differently.
    s = tree.lerp(s, tree.add(squares.spend(), eps / (1 - beta2)), 1 - beta2)
    correction1, correction2 = (1 - beta ** step.double() for beta in betas)
    factor, shift = g.spread(correction1 * correction2**-0.5), g.spread(correction1 * eps)
    return tree.div_sqrt(m, s, factor=factor, outside=shift), m, s


def adabelief(
    lr: Hyperparameter = 1e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-16,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """AdaBelief: Adam whose steps are long where gradients are as foreseen, and short where they surprise.

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        betas: As `scale_by_belief`.
        eps: As `scale_by_belief`.
        weight_decay: Decoupled, at least 0; direction units per unit of parameter.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Zhuang et al. 2020, arXiv:2010.07468, Algorithm 2; defaults and decoupled decay of the authors' code.

    Differs: from the authors' code, which rectifies by default as RAdam does.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.adabelief(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1111])}
    """
    return descent(scale_by_belief(betas, eps), lr, weight_decay, maximize=maximize)
