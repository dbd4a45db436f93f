"""Slow weights behind fast ones."""

from typing import Any, NamedTuple

from torch import Tensor

from functional_train.updates.apply import move_columns
from functional_train.updates.checks import check_count, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import (
    GradientTransformation,
    check_params,
    check_state,
    check_transformation,
    columnwise,
    update_columns,
    zero_step_per_leaf,
)
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree


class LookaheadState(NamedTuple):
    """The slow weights.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        slow: Like params.
        inner: The state of the transformation inside.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.lookahead(ft.sgd()).init({"w": torch.ones(1)}).slow
        {'w': tensor([1.])}
    """

    step: Tensor
    slow: Tree
    inner: Tree


@schedulable
def lookahead(
    tx: GradientTransformation, every: Hyperparameter = 5, alpha: Hyperparameter = 0.5
) -> GradientTransformation:
    r"""Let an optimizer run ahead for $k$ updates, then go part of the way and start again from there.

    $$\theta \leftarrow \theta + \mathrm{tx}(g), \quad \text{and at each } k\text{-th: } \phi \leftarrow \phi + \alpha
      (\theta - \phi),\; \theta \leftarrow \phi$$

    The parameters are the fast weights $\theta$; the slow weights $\phi$ are in the state and begin as the parameters.
    Both are equal after each $k$-th update, which is when to evaluate and to save.

    Args:
        tx: Whole optimizer of the fast weights.
        every: Updates from one meeting to the next, at least 1.
        alpha: Part of the way that the slow weights go, at least 0 and usually at most 1. Dimensionless.

    Returns:
        Transformation with `LookaheadState`, or `ScheduledState` around it when a number is a schedule. A leaf whose
        gradient is `None` keeps its state and does not count the update.

    Raises:
        HyperparameterError: every is a number other than 1, 2, 3, ..., or alpha is negative or not finite.
        StructureError: tx is no transformation, or at the update: params are missing, or the state is another's.

    Source: Zhang et al. 2019, arXiv:1907.08610, Algorithm 1.

    Differs: from Optax, whose parameters are a pair; here they are the fast weights as in any other optimizer, and
        updates lead from them to the slow ones when they meet. The state of `tx` is kept then, as in Optax.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.lookahead(ft.sgd(1.0), every=2)
        >>> params, state = torch.zeros(1), optimizer.init(torch.zeros(1))
        >>> for _ in range(2):
        ...     params, state = ft.make_update(optimizer)(torch.ones(1), state, params)
        ...     print(params)
        tensor([-1.])
        tensor([-1.])
    """
    check_transformation(tx, "lookahead")
    period = check_count("every", every, 1, "5 is usual.")
    share = check_non_negative("alpha", alpha, "0.5 is usual.")

    def init(params: Tree) -> LookaheadState:
        step = zero_step_per_leaf(params)
        return LookaheadState(step, tree.copy(params), tx.init(params))

    def meet(fast: Flat, state: LookaheadState, inner: Tree) -> tuple[Flat, Flat, LookaheadState]:
        """Which leaves meet, where, and the state then."""
        step = fast.counted(state.step)
        meets = fast.spread(step % period == 0)
        (before,) = fast.beside(state.slow)
        slow = tree.where(meets, tree.lerp(before, fast, share), before)
        return meets, slow, LookaheadState(step, slow.tree(absent=state.slow), inner)

    def update(g: Flat, state: LookaheadState, p: Flat | None, **extra: Any) -> tuple[Flat, LookaheadState]:
        check_state(state, LookaheadState)
        updates, inner, at = update_columns(tx, g, state.inner, check_params(p, "lookahead"), extra)
        at = check_params(at, "lookahead")
        meets, slow, state = meet(tree.add(at, updates), state, inner)
        return tree.where(meets, tree.sub(slow, at), updates), state

    def move(g: Flat, state: LookaheadState, p: Flat, **extra: Any) -> tuple[Flat, LookaheadState]:
        check_state(state, LookaheadState)
        new, inner = move_columns(tx, g, state.inner, p, extra)
        meets, slow, state = meet(new, state, inner)
        return tree.where(meets, slow, new), state

    return GradientTransformation(init, columnwise(update, move))
