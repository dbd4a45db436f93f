"""RAdam."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import Number, check_betas, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import climbing, decaying
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_wide_reals
from functional_train.values.types import Hyperparameter, Tree


class RAdamState(NamedTuple):
    """Running moments of the gradient.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        exp_avg: Like params, the mean.
        exp_avg_sq: Like params, the mean of the square.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_radam().init({"w": torch.ones(1)}).step
        tensor([0])
    """

    step: Tensor
    exp_avg: Tree
    exp_avg_sq: Tree


@schedulable
def scale_by_radam(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999), eps: Hyperparameter = 1e-8
) -> GradientTransformation:
    r"""Divide the mean of the gradients by the root of their mean square, once that is known well enough.

    $$\rho_\infty = \frac{2}{1 - \beta_2} - 1, \quad \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \quad
      r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}}$$

    $$u = \frac{m}{1 - \beta_1^t} \cdot \frac{r_t \sqrt{1 - \beta_2^t}}{\sqrt v + \epsilon}
      \;\text{ where } \rho_t > 5, \text{ elsewhere }\; u = \frac{m}{1 - \beta_1^t}$$

    Args:
        betas: Decay of the two moments, each in [0, 1). Dimensionless.
        eps: Added to the root, at least 0; in gradient units.

    Returns:
        Transformation with `RAdamState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or eps is negative.

    Source: Liu et al. 2020, arXiv:1908.03265, Algorithm 2.

    Differs: from the paper as torch.optim.RAdam does, in eps and in that it asks for 5 where the paper asks for 4.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_radam()
        >>> tx.update([torch.tensor([5.0, -0.1])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([ 5.0000, -0.1000])]
    """
    beta1, beta2 = check_betas(betas)
    shift = check_non_negative("eps", eps, "1e-8 is usual.")

    def init(params: Tree) -> RAdamState:
        step = zero_step_per_leaf(params)
        return RAdamState(step, tree.zeros_like(params), tree.zeros_like(params))

    def update(g: Flat, state: RAdamState, p: Flat | None, **extra: Any) -> tuple[Flat, RAdamState]:
        del p, extra
        check_state(state, RAdamState)
        step = g.counted(state.step)
        correction1, correction2 = (1 - beta ** step.double() for beta in (beta1, beta2))
        is_known, rectification = _rectification(step, beta2, correction2)
        factor = correction1 / (correction2.sqrt() * rectification)
        known = g.spread(is_known).map(Tensor.bool)
        numbers = [g.spread(one) for one in (correction1, factor, factor * shift)]
        rule = partial(_recurrence, (beta1, beta2), known, *numbers)
        direction, m, v = over_wide_reals(rule, g, *g.beside(state.exp_avg, state.exp_avg_sq))
        exp_avg, exp_avg_sq = m.tree(absent=state.exp_avg), v.tree(absent=state.exp_avg_sq)
        return direction, RAdamState(step, exp_avg, exp_avg_sq)

    return GradientTransformation(init, columnwise(update))


def _rectification(step: Tensor, beta2: Number, correction2: Tensor) -> tuple[Tensor, Tensor]:
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * (1 - correction2) / correction2
    is_known = length > 5
    # Numbers at which nothing is divided by zero, and no root taken of less, take the place of those not used.
    length = torch.where(is_known, length, 6.0)
    longest = torch.where(is_known, longest, 6.0)
    square = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return is_known, square.sqrt()


def _recurrence(
    betas: tuple[Number, Number],
    known: Flat,
    correction1: Flat,
    factor: Flat,
    shift: Flat,
    g: Flat,
    m: Flat,
    v: Flat,
) -> tuple[Flat, ...]:
    beta1, beta2 = betas
    m = tree.lerp(m, g, 1 - beta1)
    v = tree.addcmul(v, g, g, 1 - beta2, decay=beta2)
    adaptive = tree.div_sqrt(m, v, factor=factor, outside=shift)
    return tree.where(known, adaptive, tree.div(m, correction1)), m, v


def radam(
    lr: Hyperparameter = 1e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Adam that needs no warm-up: the first steps are plain momentum, until the second moment is known well enough.

    Args:
        lr: As `scale_by_lr`.
        betas: As `scale_by_radam`.
        eps: As `scale_by_radam`.
        weight_decay: L2 penalty added to the gradient, or decoupled decay; at least 0.
        decoupled_weight_decay: Whether decay bypasses the moments.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: torch.optim.RAdam, whose rule this is; Liu et al. 2020, arXiv:1908.03265, Algorithm 2.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.radam(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    decay = decaying(weight_decay)
    before, after = ([], decay) if decoupled_weight_decay else (decay, [])
    climb = climbing(maximize)
    return chain(*climb, *before, scale_by_radam(betas, eps), *after, scale_by_lr(lr))
