"""StableAdamW."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_betas, check_non_negative, is_zero
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import descent
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise
from functional_train.updates.transforms._moments import MomentsState, init_moments
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter


@schedulable
def scale_by_stable_adam(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.99),
    eps: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 0.0,
) -> GradientTransformation:
    r"""Adam's direction, shortened leaf by leaf where the second moment lags behind the gradient.

    $$r = \sqrt{\operatorname{mean}\frac{g^2}{\max(\hat v, \epsilon^2)}}, \quad
      u = \Big(\frac{\hat m}{\sqrt{\hat v} + \epsilon} + \lambda p\Big) \Big/ \max(1, r)$$

    The moments are those of `scale_by_adam`, corrected for their start at zero.

    Args:
        betas: Decay of the two moments, each in [0, 1). Dimensionless.
        eps: Added to the root, at least 0; in gradient units.
        weight_decay: Decoupled, and shortened as well; at least 0; direction units per unit of parameter.

    Returns:
        Transformation with `MomentsState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or another number is negative.

    Source: Wortsman et al. 2023, arXiv:2304.13013, Algorithm 2.

    Differs: the paper corrects the betas and not the moments, which comes to the same.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_stable_adam()
        >>> tx.update([torch.tensor([5.0, -0.1])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([ 1.0000, -1.0000])]
    """
    two = check_betas(betas)
    shift = check_non_negative("eps", eps, "1e-6 is usual.")
    decay = check_non_negative("weight_decay", weight_decay)

    def update(g: Flat, state: MomentsState, p: Flat | None, **extra: Any) -> tuple[Flat, MomentsState]:
        del extra
        check_state(state, MomentsState)
        step = g.counted(state.step)
        columns = [*g.beside(state.exp_avg, state.exp_avg_sq), *([] if is_zero(decay) or p is None else [p])]
        direction, m, v = over_reals(partial(_recurrence, step, two, shift, decay), g, *columns)
        return direction, MomentsState(step, m.tree(absent=state.exp_avg), v.tree(absent=state.exp_avg_sq))

    return GradientTransformation(init_moments, columnwise(update))


def _recurrence(
    step: Tensor, betas: tuple[Number, Number], eps: Number, decay: Number, g: Flat, m: Flat, v: Flat, *p: Flat
) -> tuple[Flat, Flat, Flat]:
    beta1, beta2 = betas
    m, v = tree.lerp(m, g, 1 - beta1), tree.addcmul(v, g, g, 1 - beta2, decay=beta2)
    correction1, correction2 = (1 - beta ** step.double() for beta in betas)
    root = tree.sqrt(v, factor=g.spread(correction2**-0.5))
    surprise = tree.rms(tree.div(g, tree.maximum(root.spend(), eps)))
    factor, shift = g.spread(correction1 * correction2**-0.5), g.spread(correction1 * eps)
    u = tree.div_sqrt(m, v, factor=factor, outside=shift)
    for parameters in p:
        u = tree.add(u.spend(), parameters, alpha=decay)
    return tree.scale(surprise.jointly(lambda rms: 1 / torch.clamp(rms, min=1.0)), u.spend()), m, v


def stable_adamw(
    lr: Hyperparameter = 1e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.99),
    eps: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 1e-2,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """AdamW with clipped updates: no step is long because the second moment has not yet seen large gradients.

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        betas: As `scale_by_stable_adam`.
        eps: As `scale_by_stable_adam`.
        weight_decay: As `scale_by_stable_adam`.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Wortsman et al. 2023, arXiv:2304.13013, Algorithm 2; defaults of optimi's StableAdamW.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.stable_adamw(0.1, weight_decay=0.0)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    return descent(scale_by_stable_adam(betas, eps, weight_decay), lr, maximize=maximize)
