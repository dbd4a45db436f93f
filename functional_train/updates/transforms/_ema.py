"""Exponential moving average of gradients."""

from typing import Any, NamedTuple

from torch import Tensor

from functional_train.updates.checks import check_fraction
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree


class EmaState(NamedTuple):
    """The average of gradients so far.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        exp_avg: Like params, not corrected.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.ema().init({"w": torch.ones(1)}).exp_avg
        {'w': tensor([0.])}
    """

    step: Tensor
    exp_avg: Tree


@schedulable
def ema(decay: Hyperparameter = 0.9, debias: bool = True) -> GradientTransformation:
    r"""Replace gradients by their exponential moving average.

    $$m \leftarrow d m + (1 - d) g, \quad u = m / (1 - d^t) \;\text{ or, without debias, }\; m$$

    Args:
        decay: Weight of the past, in [0, 1). Dimensionless.
        debias: Whether to correct for the zeros that the average begins with.

    Returns:
        Transformation with `EmaState`, or `ScheduledState` around it when `decay` is a schedule; a leaf whose gradient
        is `None` keeps its state.

    Raises:
        HyperparameterError: decay is outside [0, 1).

    Source: Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1 and section 3, the first moment.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.ema(0.5)
        >>> updates, state = tx.update([torch.ones(1)], tx.init([torch.zeros(1)]), None)
        >>> updates, tx.update([torch.full((1,), 4.0)], state, None)[0]
        ([tensor([1.])], [tensor([3.])])
    """
    past = check_fraction("decay", decay, "With 1.0 the average never moves; 0.9 is usual.")

    def init(params: Tree) -> EmaState:
        step = zero_step_per_leaf(params)
        return EmaState(step, tree.zeros_like(params))

    def update(g: Flat, state: EmaState, p: Flat | None, **extra: Any) -> tuple[Flat, EmaState]:
        del p, extra
        check_state(state, EmaState)
        (m,) = g.beside(state.exp_avg)
        m, step = tree.lerp(m, g, 1 - past), g.counted(state.step)
        updates = tree.scale(g.spread(1 / (1 - past ** step.double())), m) if debias else m
        return updates, EmaState(step, m.tree(absent=state.exp_avg))

    return GradientTransformation(init, columnwise(update))
