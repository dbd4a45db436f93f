"""Averaged stochastic gradient descent."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import climbing, decaying
from functional_train.updates.transformation import (
    GradientTransformation,
    check_params,
    check_state,
    columnwise,
    zero_step_per_leaf,
)
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter, Tree


class ASGDState(NamedTuple):
    """The average of the parameters.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        ax: Like params, the average: what to evaluate in the end.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_asgd().init({"w": torch.ones(1)}).ax
        {'w': tensor([1.])}
    """

    step: Tensor
    ax: Tree


@schedulable
def scale_by_asgd(
    lr: Hyperparameter = 1e-2,
    lambd: Hyperparameter = 1e-4,
    alpha: Hyperparameter = 0.75,
    t0: Hyperparameter = 1e6,
) -> GradientTransformation:
    r"""Take decaying steps, and average the parameters that they lead to.

    $$\eta_t = \frac{\mathrm{lr}}{(1 + \lambda \, \mathrm{lr} \, (t-1))^\alpha}, \quad u = -\eta_t (g + \lambda p),
      \quad a \leftarrow a + \frac{p + u - a}{\max(1, t - 1 - t_0)}$$

    The average is of the parameters to which `u` itself is added, so nothing should come after this in a chain.

    Args:
        lr: Step size at first, at least 0; parameter units per unit of gradient.
        lambd: How fast steps decay, and how strongly parameters do, at least 0; in gradient units per unit of
            parameter.
        alpha: Power of the decay, at least 0; dimensionless.
        t0: Updates of a leaf before averaging begins, at least 0; until then the average is the parameters.

    Returns:
        Transformation with `ASGDState`; a leaf whose gradient is `None` keeps its state. The average is read as
        `ft.tree.get(opt_state, "ax")`.

    Raises:
        HyperparameterError: a number is negative or not finite.
        StructureError: at the update: it was given no parameters.

    Source: Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging"; the step sizes are Bottou
        2012's, "Stochastic gradient descent tricks", section 5.3, as in torch.optim.ASGD.

    Differs: from torch.optim.ASGD, whose step sizes are in float32 by default, and lag one step behind a scheduled
        `lr`.

    Example:
        >>> import functional_train as ft, torch
        >>> params = [torch.ones(1)]
        >>> tx = ft.scale_by_asgd(0.1, t0=0.0)
        >>> updates, state = tx.update([torch.ones(1)], tx.init(params), params)
        >>> updates, state.ax
        ([tensor([-0.1000])], [tensor([0.9000])])
    """
    rate = check_non_negative("lr", lr, "To climb instead of descend, pass maximize=True to the optimizer.")
    shrinkage = check_non_negative("lambd", lambd, "1e-4 is usual.")
    power = check_non_negative("alpha", alpha, "0.75 is usual.")
    start = check_non_negative("t0", t0, "1e6 is usual.")

    def init(params: Tree) -> ASGDState:
        step = zero_step_per_leaf(params)
        return ASGDState(step, tree.copy(params))

    def update(g: Flat, state: ASGDState, p: Flat | None, **extra: Any) -> tuple[Flat, ASGDState]:
        del extra
        check_state(state, ASGDState)
        p = check_params(p, "ASGD")
        (ax,) = g.beside(state.ax)
        before = state.step.double()
        eta = rate / (1 + shrinkage * rate * before) ** power
        share = g.spread(1 / torch.clamp(before - start, min=1))
        updates = tree.scale(g.spread(-eta), tree.add(g.spend(), p, alpha=shrinkage))
        (ax,) = over_reals(lambda ax, new: (tree.lerp(ax, new, share),), ax, tree.add(p, updates))
        return updates, ASGDState(g.counted(state.step), ax.tree(absent=state.ax))

    return GradientTransformation(init, columnwise(update))


def asgd(
    lr: Hyperparameter = 1e-2,
    lambd: Hyperparameter = 1e-4,
    alpha: Hyperparameter = 0.75,
    t0: Hyperparameter = 1e6,
    weight_decay: Hyperparameter = 0.0,
    maximize: bool = False,
) -> GradientTransformation:
    """Averaged stochastic gradient descent.

    Args:
        lr: As `scale_by_asgd`.
        lambd: As `scale_by_asgd`.
        alpha: As `scale_by_asgd`.
        t0: As `scale_by_asgd`.
        weight_decay: L2 penalty added to the gradient; at least 0.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use. The average is read as
        `ft.tree.get(opt_state, "ax")`.

    Raises:
        HyperparameterError: a number is negative or not finite.

    Source: torch.optim.ASGD, whose rule this is; Polyak & Juditsky 1992, "Acceleration of stochastic approximation by
        averaging".

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.asgd(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> updates, opt_state = optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)
        >>> ft.tree.get(opt_state, "ax")
        {'w': tensor([0.9000])}
    """
    climb = climbing(maximize)
    decay = decaying(weight_decay)
    return chain(*climb, *decay, scale_by_asgd(lr, lambd, alpha, t0))
