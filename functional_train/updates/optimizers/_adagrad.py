"""Adagrad."""

from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import check_non_negative, is_zero
from functional_train.updates.hyperparameters import schedulable, scheduled
from functional_train.updates.optimizers._descent import climbing, decaying
from functional_train.updates.transformation import (
    EmptyState,
    GradientTransformation,
    check_state,
    columnwise,
    with_move,
    zero_step_per_leaf,
)
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import filled_like, over_wide_reals
from functional_train.values.tree._fused import AdagradNumbers, fused_adagrad
from functional_train.values.tree._sparse import over_touched
from functional_train.values.types import Hyperparameter, Tree


class AdagradState(NamedTuple):
    """All gradients so far.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        sum: Like params, the sum of the squares.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_adagrad(0.1).init({"w": torch.ones(1)}).sum
        {'w': tensor([0.1000])}
    """

    step: Tensor
    sum: Tree


@schedulable
def scale_by_adagrad(
    initial_accumulator_value: Hyperparameter = 0.0, eps: Hyperparameter = 1e-10, lr_decay: Hyperparameter = 0.0
) -> GradientTransformation:
    r"""Divide gradients by the root of the sum of all their squares.

    $$s \leftarrow s + g^2, \quad u = \frac{g}{(1 + (t-1) \gamma)(\sqrt s + \epsilon)}$$

    A sparse gradient changes only the rows that it touches; the update is as sparse, the state dense.

    Args:
        initial_accumulator_value: Sum at the start, at least 0; in squared gradient units.
        eps: Added to the root, at least 0; in gradient units.
        lr_decay: How fast directions shrink besides, at least 0; per update.

    Returns:
        Transformation with `AdagradState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a number is negative or not finite.

    Source: Duchi, Hazan & Singer 2011, "Adaptive subgradient methods for online learning and stochastic optimization",
        section 1.1, with diagonal matrices; the decay is torch.optim.Adagrad's.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_adagrad()
        >>> updates, state = tx.update([torch.tensor([3.0, -0.1])], tx.init([torch.zeros(2)]), None)
        >>> tx.update([torch.tensor([4.0, 0.0])], state, None)[0]
        [tensor([0.8000, 0.0000])]
    """
    start = check_non_negative("initial_accumulator_value", initial_accumulator_value)
    shift = check_non_negative("eps", eps, "1e-10 is usual.")
    decay = check_non_negative("lr_decay", lr_decay)

    def init(params: Tree) -> AdagradState:
        step = zero_step_per_leaf(params)
        return AdagradState(step, filled_like(params, start))

    def update(g: Flat, state: AdagradState, p: Flat | None, **extra: Any) -> tuple[Flat, AdagradState]:
        del p, extra
        check_state(state, AdagradState)
        factor = 1 if is_zero(decay) else g.spread(1 + decay * state.step.double())
        shrunk = shift if is_zero(decay) else g.spread((1 + decay * state.step.double()) * shift)
        rule = partial(over_wide_reals, partial(_recurrence, factor, shrunk))
        direction, total = over_touched(rule, g, *g.beside(state.sum))
        return direction, AdagradState(g.counted(state.step), total.tree(absent=state.sum))

    return GradientTransformation(init, columnwise(update))


def _recurrence(factor: Flat | int, shift: Any, g: Flat, total: Flat) -> tuple[Flat, ...]:
    total = tree.addcmul(total, g, g)
    return tree.div_sqrt(g, total, factor=factor, outside=shift), total


def adagrad(
    lr: Hyperparameter = 1e-2,
    lr_decay: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    initial_accumulator_value: Hyperparameter = 0.0,
    eps: Hyperparameter = 1e-10,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Adagrad: the more a parameter has been pushed, the less it moves.

    Args:
        lr: As `scale_by_lr`.
        lr_decay: As `scale_by_adagrad`.
        weight_decay: L2 penalty added to the gradient, which must then be dense; at least 0.
        initial_accumulator_value: As `scale_by_adagrad`.
        eps: As `scale_by_adagrad`.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is negative or not finite.

    Source: torch.optim.Adagrad, whose rule this is; Duchi, Hazan & Singer 2011, "Adaptive subgradient methods for
        online learning and stochastic optimization", section 1.1.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.adagrad(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    climb = climbing(maximize)
    decay = decaying(weight_decay)
    parts = chain(*climb, *decay, scale_by_adagrad(initial_accumulator_value, eps, lr_decay), scale_by_lr(lr))
    place = len(climb) + len(decay)
    kinds = [EmptyState] * place + [AdagradState]

    def move(g: Flat, states: Tree, p: Flat, **extra: Any) -> tuple[Flat, Tree] | None:
        del extra
        if type(states) is not tuple or [type(state) for state in states[:-1]] != kinds:
            return None
        old: AdagradState = states[place]
        (total,), step = g.beside(old.sum), g.counted(old.step)
        rate, rate_state = scheduled(lr, states[-1])
        moved = fused_adagrad(g, total, step, AdagradNumbers(rate, lr_decay, weight_decay, eps, maximize), p)
        if moved is None:
            return None
        return moved[0], (*states[:place], AdagradState(step, moved[1].tree(absent=old.sum)), rate_state)

    return with_move(parts, move)
