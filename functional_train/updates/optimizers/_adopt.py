"""ADOPT."""

from functools import partial
from typing import Any

from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import Number, check_betas, check_non_negative, is_zero
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import descent
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise
from functional_train.updates.transforms._decay import add_decayed_weights
from functional_train.updates.transforms._moments import MomentsState, init_moments
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter


@schedulable
def scale_by_adopt(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.9999), eps: Hyperparameter = 1e-6
) -> GradientTransformation:
    r"""Divide each gradient by the root of the mean square of those before it, and take the mean of what comes out.

    $$m \leftarrow \beta_1 m + (1-\beta_1) \operatorname{clip}\Big(\frac{g}{\max(\sqrt v, \epsilon)},
      \pm t^{1/4}\Big), \quad u = m, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2$$

    Here t counts the updates before this one. A leaf's first gradient only sets v to its square, and moves nothing.

    Args:
        betas: Decay of the two moments, each in [0, 1). Dimensionless.
        eps: Least divisor, at least 0; in gradient units.

    Returns:
        Transformation with `MomentsState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or eps is negative.

    Source: Taniguchi et al. 2024, arXiv:2411.02853, ADOPT with clipped directions.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_adopt()
        >>> updates, state = tx.update([torch.tensor([5.0])], tx.init([torch.zeros(1)]), None)
        >>> tx.update([torch.tensor([-5.0])], state, None)[0]
        [tensor([-0.1000])]
    """
    beta1, beta2 = check_betas(betas)
    least = check_non_negative("eps", eps, "1e-6 is usual.")

    def update(g: Flat, state: MomentsState, p: Flat | None, **extra: Any) -> tuple[Flat, MomentsState]:
        del p, extra
        check_state(state, MomentsState)
        moments = g.beside(state.exp_avg, state.exp_avg_sq)
        m, v = over_reals(partial(_recurrence, state.step, (beta1, beta2), least), g, *moments)
        exp_avg, exp_avg_sq = m.tree(absent=state.exp_avg), v.tree(absent=state.exp_avg_sq)
        return m, MomentsState(g.counted(state.step), exp_avg, exp_avg_sq)

    return GradientTransformation(init_moments, columnwise(update))


def _recurrence(
    before: Tensor, betas: tuple[Number, Number], eps: Number, g: Flat, m: Flat, v: Flat
) -> tuple[Flat, Flat]:
    beta1, beta2 = betas
    # Before a leaf's first gradient the bound is 0 and holds the mean at 0, and the weight of the new square is 1.
    bound = before.double() ** 0.25
    scaled = tree.div(g, tree.maximum(tree.sqrt(v).spend(), eps))
    clipped = tree.minimum(tree.maximum(scaled.spend(), g.spread(-bound)).spend(), g.spread(bound))
    weight = g.spread(1 - beta2 * (before > 0).double())
    return tree.lerp(m, clipped, 1 - beta1), tree.lerp(v, tree.mul(g, g), weight)


def adopt(
    lr: Hyperparameter = 1e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.9999),
    eps: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> GradientTransformation:
    """ADOPT: Adam that converges with any decay of the second moment.

    Args:
        lr: As `scale_by_lr`.
        betas: As `scale_by_adopt`.
        eps: As `scale_by_adopt`.
        weight_decay: L2 penalty added to the gradient, or decoupled decay; at least 0.
        maximize: Whether to climb.
        decoupled_weight_decay: Whether decay bypasses the moments.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Taniguchi et al. 2024, arXiv:2411.02853; defaults of the authors' code.

    Differs: from the authors' code, decoupled decay acts from the first update on, not from the second.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.adopt(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> updates, state = optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)
        >>> optimizer.update({"w": torch.ones(1)}, state, params)[0]
        {'w': tensor([-0.0100])}
    """
    direction = scale_by_adopt(betas, eps)
    if is_zero(weight_decay) or decoupled_weight_decay:
        return descent(direction, lr, weight_decay, maximize=maximize)
    return descent(chain(add_decayed_weights(weight_decay), direction), lr, maximize=maximize)
