"""Adamax."""

from functools import partial
from typing import Any, NamedTuple

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


class AdamaxState(NamedTuple):
    """The running mean of the gradient and the largest gradient of late.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        exp_avg: Like params, the mean.
        exp_inf: Like params, the largest size, which decays.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_adamax().init({"w": torch.ones(1)}).exp_inf
        {'w': tensor([0.])}
    """

    step: Tensor
    exp_avg: Tree
    exp_inf: Tree


@schedulable
def scale_by_adamax(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999), eps: Hyperparameter = 1e-8
) -> GradientTransformation:
    r"""Divide the mean of the gradients by their largest size of late.

    $$m \leftarrow \beta_1 m + (1-\beta_1) g, \quad w \leftarrow \max(\beta_2 w, |g| + \epsilon), \quad
      u = \frac{m}{(1-\beta_1^t) w}$$

    Args:
        betas: Decay of the mean and of the largest size, each in [0, 1). Dimensionless.
        eps: Added to the size of each gradient, at least 0; in gradient units. With 0 a gradient of 0 gives nan.

    Returns:
        Transformation with `AdamaxState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or eps is negative.

    Source: Kingma & Ba 2015, arXiv:1412.6980, Algorithm 2; eps is torch.optim.Adamax's.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_adamax()
        >>> tx.update([torch.tensor([5.0, -0.1])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([ 1., -1.])]
    """
    beta1, beta2 = check_betas(betas)
    shift = check_non_negative("eps", eps, "1e-8 is usual.")

    def init(params: Tree) -> AdamaxState:
        step = zero_step_per_leaf(params)
        return AdamaxState(step, tree.zeros_like(params), tree.zeros_like(params))

    def update(g: Flat, state: AdamaxState, p: Flat | None, **extra: Any) -> tuple[Flat, AdamaxState]:
        del p, extra
        check_state(state, AdamaxState)
        step = g.counted(state.step)
        rule = partial(_recurrence, (beta1, beta2), shift, g.spread(1 - beta1 ** step.double()))
        direction, m, largest = over_wide_reals(rule, g, *g.beside(state.exp_avg, state.exp_inf))
        return direction, AdamaxState(step, m.tree(absent=state.exp_avg), largest.tree(absent=state.exp_inf))

    return GradientTransformation(init, columnwise(update))


def _recurrence(
    betas: tuple[Number, Number], eps: Number, correction1: Flat, g: Flat, m: Flat, largest: Flat
) -> tuple[Flat, ...]:
    beta1, beta2 = betas
    m = tree.lerp(m, g, 1 - beta1)
    largest = tree.maximum(tree.scale(beta2, largest), tree.add(tree.abs(g), eps))
    return tree.div(m, tree.scale(correction1, largest)), m, largest


def adamax(
    lr: Hyperparameter = 2e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Adam with the largest gradient of late in place of the root of the mean square.

    Args:
        lr: As `scale_by_lr`.
        betas: As `scale_by_adamax`.
        eps: As `scale_by_adamax`.
        weight_decay: L2 penalty added to the gradient; at least 0.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: torch.optim.Adamax, whose rule this is; Kingma & Ba 2015, arXiv:1412.6980, Algorithm 2.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.adamax(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    climb = climbing(maximize)
    decay = decaying(weight_decay)
    return chain(*climb, *decay, scale_by_adamax(betas, eps), scale_by_lr(lr))
