"""NAdam."""

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


class NAdamState(NamedTuple):
    """Running moments of the gradient, and the product of all momenta.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        mu_product: (num_leaves,) float64, the product of the momenta that each leaf has seen.
        exp_avg: Like params, the mean.
        exp_avg_sq: Like params, the mean of the square.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_nadam().init({"w": torch.ones(1)}).mu_product
        tensor([1.], dtype=torch.float64)
    """

    step: Tensor
    mu_product: Tensor
    exp_avg: Tree
    exp_avg_sq: Tree


@schedulable
def scale_by_nadam(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    momentum_decay: Hyperparameter = 4e-3,
) -> GradientTransformation:
    r"""Divide a mean of the gradients that looks one step ahead by the root of their mean square.

    $$\mu_t = \beta_1 \big(1 - \tfrac12 0.96^{t \psi}\big), \quad
      \hat m = \frac{\mu_{t+1} m}{1 - \prod_{i \le t+1} \mu_i} + \frac{(1 - \mu_t) g}{1 - \prod_{i \le t} \mu_i}, \quad
      u = \hat m \Big/ \Big(\sqrt{\frac{v}{1 - \beta_2^t}} + \epsilon\Big)$$

    Args:
        betas: Decay of the two moments, each in [0, 1). Dimensionless.
        eps: Added to the root, at least 0; in gradient units.
        momentum_decay: How fast the momentum rises to `betas[0]`, at least 0; per update.

    Returns:
        Transformation with `NAdamState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or another number is negative or not finite.

    Source: Dozat 2016, "Incorporating Nesterov momentum into Adam", Nadam; the momenta are torch.optim.NAdam's.

    Differs: from torch.optim.NAdam in the order of rounding, and in that the product of the momenta is in float64.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_nadam()
        >>> tx.update([torch.tensor([5.0, -0.1])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([ 1.0565, -1.0565])]
    """
    beta1, beta2 = check_betas(betas)
    shift = check_non_negative("eps", eps, "1e-8 is usual.")
    decay = check_non_negative("momentum_decay", momentum_decay, "4e-3 is usual.")

    def momentum(step: Tensor) -> Tensor:
        return beta1 * (1 - 0.5 * 0.96 ** (step.double() * decay))

    def init(params: Tree) -> NAdamState:
        step = zero_step_per_leaf(params)
        product = torch.ones_like(step, dtype=torch.float64)
        return NAdamState(step, product, tree.zeros_like(params), tree.zeros_like(params))

    def update(g: Flat, state: NAdamState, p: Flat | None, **extra: Any) -> tuple[Flat, NAdamState]:
        del p, extra
        check_state(state, NAdamState)
        step = g.counted(state.step)
        mu, mu_next = momentum(step), momentum(step + 1)
        product = torch.where(step == state.step, state.mu_product, state.mu_product * mu)
        correction2 = 1 - beta2 ** step.double()
        numbers = [g.spread(one) for one in ((1 - mu) / (1 - product), mu_next / (1 - product * mu_next))]
        rule = partial(_recurrence, (beta1, beta2), shift, *numbers, g.spread(correction2**-0.5))
        direction, m, v = over_wide_reals(rule, g, *g.beside(state.exp_avg, state.exp_avg_sq))
        exp_avg, exp_avg_sq = m.tree(absent=state.exp_avg), v.tree(absent=state.exp_avg_sq)
        return direction, NAdamState(step, product, exp_avg, exp_avg_sq)

    return GradientTransformation(init, columnwise(update))


def _recurrence(
    betas: tuple[Number, Number], eps: Number, share: Flat, ahead: Flat, factor: Flat, g: Flat, m: Flat, v: Flat
) -> tuple[Flat, ...]:
    beta1, beta2 = betas
    m = tree.lerp(m, g, 1 - beta1)
    v = tree.addcmul(v, g, g, 1 - beta2, decay=beta2)
    mean = tree.add(tree.scale(ahead, m), g, alpha=share)
    return tree.div_sqrt(mean, v, factor=factor, outside=eps), m, v


def nadam(
    lr: Hyperparameter = 2e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    momentum_decay: Hyperparameter = 4e-3,
    decoupled_weight_decay: bool = False,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Adam with Nesterov momentum.

    Args:
        lr: As `scale_by_lr`.
        betas: As `scale_by_nadam`.
        eps: As `scale_by_nadam`.
        weight_decay: L2 penalty added to the gradient, or decoupled decay; at least 0.
        momentum_decay: As `scale_by_nadam`.
        decoupled_weight_decay: Whether decay bypasses the moments.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: torch.optim.NAdam, whose rule this is; Dozat 2016, "Incorporating Nesterov momentum into Adam".

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.nadam(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1056])}
    """
    decay = decaying(weight_decay)
    before, after = ([], decay) if decoupled_weight_decay else (decay, [])
    climb = climbing(maximize)
    return chain(*climb, *before, scale_by_nadam(betas, eps, momentum_decay), *after, scale_by_lr(lr))
