"""AdEMAMix, and its simplified form."""

from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from functional_train.updates.checks import Number, check_betas, check_non_negative, check_three_betas
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import descent
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.updates.transforms._moments import MomentsState, init_moments
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter, Tree


class AdEMAMixState(NamedTuple):
    """A fast and a slow mean of the gradient, and its mean square.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        exp_avg: Like params, the fast mean.
        exp_avg_slow: Like params, the slow mean.
        exp_avg_sq: Like params, the mean square.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_ademamix().init({"w": torch.ones(1)}).step
        tensor([0])
    """

    step: Tensor
    exp_avg: Tree
    exp_avg_slow: Tree
    exp_avg_sq: Tree


@schedulable
def scale_by_ademamix(
    betas: tuple[Hyperparameter, Hyperparameter, Hyperparameter] = (0.9, 0.999, 0.9999),
    alpha: Hyperparameter = 5.0,
    eps: Hyperparameter = 1e-8,
) -> GradientTransformation:
    r"""Divide the sum of a fast and a slow mean of the gradients by the root of their mean square.

    $$m \leftarrow \beta_1 m + (1-\beta_1) g, \quad n \leftarrow \beta_3 n + (1-\beta_3) g, \quad
      v \leftarrow \beta_2 v + (1-\beta_2) g^2$$
    $$u = \Big(\frac{m}{1-\beta_1^t} + \alpha n\Big) \Big/ \Big(\sqrt{\frac{v}{1-\beta_2^t}} + \epsilon\Big)$$

    Args:
        betas: Decay of the fast mean, of the mean square, and of the slow mean, each in [0, 1). Dimensionless. In a
            long run let the third rise from the first to its end by a schedule.
        alpha: Weight of the slow mean, at least 0. Dimensionless. In a long run let it rise from 0.
        eps: Added to the root, at least 0; in gradient units.

    Returns:
        Transformation with `AdEMAMixState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or another number is negative.

    Source: Pagliardini et al. 2024, arXiv:2409.03137, Algorithm 1.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_ademamix(alpha=ft.schedules.linear(0.0, 5.0, 1000))
        >>> tx.update([torch.tensor([5.0])], tx.init([torch.zeros(1)]), None)[0]
        [tensor([1.])]
    """
    three = check_three_betas(betas, (0.9, 0.999, 0.9999))
    weight = check_non_negative("alpha", alpha, "5.0 is usual.")
    shift = check_non_negative("eps", eps, "1e-8 is usual.")

    def init(params: Tree) -> AdEMAMixState:
        return AdEMAMixState(zero_step_per_leaf(params), *[tree.zeros_like(params) for _ in range(3)])

    def update(g: Flat, state: AdEMAMixState, p: Flat | None, **extra: Any) -> tuple[Flat, AdEMAMixState]:
        del p, extra
        check_state(state, AdEMAMixState)
        step = g.counted(state.step)
        direction, *now = over_reals(partial(_mixed, step, three, weight, shift), g, *g.beside(*state[1:]))
        kept = [column.tree(absent=old) for column, old in zip(now, state[1:], strict=True)]
        return direction, AdEMAMixState(step, *kept)

    return GradientTransformation(init, columnwise(update))


def _mixed(
    step: Tensor, betas: tuple[Number, Number, Number], alpha: Number, eps: Number, g: Flat, m: Flat, n: Flat, v: Flat
) -> tuple[Flat, Flat, Flat, Flat]:
    beta1, beta2, beta3 = betas
    m, n = tree.lerp(m, g, 1 - beta1), tree.lerp(n, g, 1 - beta3)
    v = tree.addcmul(v, g, g, 1 - beta2, decay=beta2)
    correction1, correction2 = (1 - beta ** step.double() for beta in (beta1, beta2))
    mixed = tree.add(m, n, alpha=g.spread(alpha * correction1))
    factor, shift = g.spread(correction1 * correction2**-0.5), g.spread(correction1 * eps)
    return tree.div_sqrt(mixed, v, factor=factor, outside=shift), m, n, v


def ademamix(
    lr: Hyperparameter = 1e-3,
    betas: tuple[Hyperparameter, Hyperparameter, Hyperparameter] = (0.9, 0.999, 0.9999),
    alpha: Hyperparameter = 5.0,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """AdEMAMix: AdamW with a second momentum that remembers thousands of gradients.

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        betas: As `scale_by_ademamix`.
        alpha: As `scale_by_ademamix`.
        eps: As `scale_by_ademamix`.
        weight_decay: As `add_decayed_weights`.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Pagliardini et al. 2024, arXiv:2409.03137, Algorithm 1; betas and alpha of bitsandbytes.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.ademamix(0.1, alpha=0.0)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    return descent(scale_by_ademamix(betas, alpha, eps), lr, weight_decay, maximize=maximize)


@schedulable
def scale_by_simplified_ademamix(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.99, 0.95), alpha: Hyperparameter = 0.0, eps: Hyperparameter = 1e-8
) -> GradientTransformation:
    r"""Divide a running sum of the gradients, with the newest in it once more, by the root of their mean square.

    $$m \leftarrow \beta_1 m + g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad
      u = (m + \alpha g) \Big/ \Big(\sqrt{\frac{v}{1-\beta_2^t}} + \epsilon\Big)$$

    Args:
        betas: Decay of the sum and of the mean square, each in [0, 1). Dimensionless.
        alpha: Additional weight of the newest gradient, at least 0. Dimensionless.
        eps: Added to the root, at least 0; in gradient units.

    Returns:
        Transformation with `MomentsState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or another number is negative.

    Source: Morwani et al. 2025, arXiv:2502.02431, Simplified-AdEMAMix.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_simplified_ademamix(alpha=1.0)
        >>> tx.update([torch.tensor([5.0])], tx.init([torch.zeros(1)]), None)[0]
        [tensor([2.])]
    """
    beta1, beta2 = check_betas(betas)
    weight = check_non_negative("alpha", alpha)
    shift = check_non_negative("eps", eps, "1e-8 is usual.")

    def update(g: Flat, state: MomentsState, p: Flat | None, **extra: Any) -> tuple[Flat, MomentsState]:
        del p, extra
        check_state(state, MomentsState)
        step = g.counted(state.step)
        rule = partial(_simplified, step, (beta1, beta2), weight, shift)
        direction, m, v = over_reals(rule, g, *g.beside(state.exp_avg, state.exp_avg_sq))
        return direction, MomentsState(step, m.tree(absent=state.exp_avg), v.tree(absent=state.exp_avg_sq))

    return GradientTransformation(init_moments, columnwise(update))


def _simplified(
    step: Tensor, betas: tuple[Number, Number], alpha: Number, eps: Number, g: Flat, m: Flat, v: Flat
) -> tuple[Flat, Flat, Flat]:
    beta1, beta2 = betas
    m, v = tree.add(g, m, alpha=beta1), tree.addcmul(v, g, g, 1 - beta2, decay=beta2)
    factor = g.spread((1 - beta2 ** step.double()) ** -0.5)
    return tree.div_sqrt(tree.add(m, g, alpha=alpha), v, factor=factor, outside=eps), m, v


def simplified_ademamix(
    lr: Hyperparameter = 1e-4,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.99, 0.95),
    alpha: Hyperparameter = 0.0,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """AdEMAMix with one momentum, in whose place the slow one stands, and the gradient in place of the fast one.

    Args:
        lr: As `scale_by_lr`; about `1 - betas[0]` times that of Adam. It also scales the decay.
        betas: As `scale_by_simplified_ademamix`.
        alpha: As `scale_by_simplified_ademamix`.
        eps: As `scale_by_simplified_ademamix`.
        weight_decay: As `add_decayed_weights`.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Morwani et al. 2025, arXiv:2502.02431, Simplified-AdEMAMix; betas and alpha of Optax.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.simplified_ademamix(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    return descent(scale_by_simplified_ademamix(betas, alpha, eps), lr, weight_decay, maximize=maximize)
