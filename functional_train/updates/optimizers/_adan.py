"""Adan."""

from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import Number, check_non_negative, check_three_betas, is_zero
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import climbing
from functional_train.updates.transformation import (
    GradientTransformation,
    check_state,
    columnwise,
    stateless_columns,
    zero_step_per_leaf,
)
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter, Tree


class AdanState(NamedTuple):
    """Running moments of the gradient and of its changes.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        exp_avg: Like params, the mean gradient.
        exp_avg_diff: Like params, the mean change of the gradient.
        exp_avg_sq: Like params, the mean square of the gradient as it is foreseen.
        last_grad: Like params, the last gradient of each leaf.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_adan().init({"w": torch.ones(1)}).step
        tensor([0])
    """

    step: Tensor
    exp_avg: Tree
    exp_avg_diff: Tree
    exp_avg_sq: Tree
    last_grad: Tree


@schedulable
def scale_by_adan(
    betas: tuple[Hyperparameter, Hyperparameter, Hyperparameter] = (0.98, 0.92, 0.99), eps: Hyperparameter = 1e-8
) -> GradientTransformation:
    r"""Look ahead along the mean change of the gradient, and divide by the root of the mean square of what is seen.

    $$m \leftarrow \beta_1 m + (1-\beta_1) g, \quad d \leftarrow \beta_2 d + (1-\beta_2) (g - g_{t-1}), \quad
      n \leftarrow \beta_3 n + (1-\beta_3) (g + \beta_2 (g - g_{t-1}))^2$$
    $$u = \Big(\frac{m}{1-\beta_1^t} + \beta_2 \frac{d}{1-\beta_2^t}\Big) \Big/
      \Big(\sqrt{\frac{n}{1-\beta_3^t}} + \epsilon\Big)$$

    A leaf's first gradient has changed by nothing.

    Args:
        betas: Decay of the three moments, each in [0, 1). Dimensionless.
        eps: Added to the root, at least 0; in gradient units.

    Returns:
        Transformation with `AdanState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or eps is negative.

    Source: Xie et al. 2022, arXiv:2208.06677, Algorithm 1.

    Differs: betas are decays, as in the authors' code; the paper's are one minus those. The moments are corrected for
        their start at zero, as in the authors' code. Optax weights changes by 1 - beta_2 of these betas, which is
        0.08 and not 0.92.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_adan()
        >>> tx.update([torch.tensor([5.0, -0.1])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([ 1.0000, -1.0000])]
    """
    beta1, beta2, beta3 = check_three_betas(betas, (0.98, 0.92, 0.99))
    shift = check_non_negative("eps", eps, "1e-8 is usual.")

    def init(params: Tree) -> AdanState:
        return AdanState(zero_step_per_leaf(params), *[tree.zeros_like(params) for _ in range(4)])

    def update(g: Flat, state: AdanState, p: Flat | None, **extra: Any) -> tuple[Flat, AdanState]:
        del p, extra
        check_state(state, AdanState)
        step = g.counted(state.step)
        moments = g.beside(*state[1:])
        direction, *now = over_reals(partial(_recurrence, step, (beta1, beta2, beta3), shift), g, *moments)
        # The gradient itself is kept, not a copy: nothing here writes to it.
        kept = [column.tree(absent=old) for column, old in zip((*now, g), state[1:], strict=True)]
        return direction, AdanState(step, *kept)

    return GradientTransformation(init, columnwise(update))


def _recurrence(
    step: Tensor, betas: tuple[Number, ...], eps: Number, g: Flat, m: Flat, d: Flat, n: Flat, last: Flat
) -> tuple[Flat, ...]:
    beta1, beta2, beta3 = betas
    change = tree.scale(g.spread((step > 1).double()), tree.sub(g, last).spend())
    m, d = tree.lerp(m, g, 1 - beta1), tree.lerp(d, change, 1 - beta2)
    seen = tree.add(g, change, alpha=beta2)
    n = tree.addcmul(n, seen, seen, 1 - beta3, decay=beta3)
    # The correction of m goes into the denominator and into the weight of d, where it costs no pass.
    correction1, correction2, correction3 = (1 - beta ** step.double() for beta in betas)
    ahead = tree.add(m, d, alpha=g.spread(beta2 * correction1 / correction2))
    factor, shift = g.spread(correction1 * correction3**-0.5), g.spread(correction1 * eps)
    return tree.div_sqrt(ahead, n, factor=factor, outside=shift), m, d, n


@schedulable
def _proximal_step(lr: Hyperparameter, weight_decay: Hyperparameter) -> GradientTransformation:
    rate, decay = check_non_negative("lr", lr), check_non_negative("weight_decay", weight_decay)
    return stateless_columns(lambda g, p: tree.scale(-rate / (1 + rate * decay), tree.add(g.spend(), p, alpha=decay)))


def adan(
    lr: Hyperparameter = 1e-3,
    betas: tuple[Hyperparameter, Hyperparameter, Hyperparameter] = (0.98, 0.92, 0.99),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    r"""Adan: Adam with Nesterov's look ahead, estimated from how the gradient changes.

    $$p \leftarrow (p - \mathrm{lr} \cdot u) / (1 + \mathrm{lr} \lambda)$$

    Args:
        lr: As `scale_by_lr`; up to ten times that of AdamW.
        betas: As `scale_by_adan`.
        eps: As `scale_by_adan`.
        weight_decay: The weight of a proximal penalty, at least 0; direction units per unit of parameter.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Xie et al. 2022, arXiv:2208.06677, Algorithm 1; defaults of the authors' code.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.adan(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    climb = climbing(maximize)
    last = scale_by_lr(lr) if is_zero(weight_decay) else _proximal_step(lr, weight_decay)
    return chain(*climb, scale_by_adan(betas, eps), last)
