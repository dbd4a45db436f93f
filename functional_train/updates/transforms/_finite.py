"""Updates only where gradients are finite."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.checks import check_count
from functional_train.updates.transformation import (
    GradientTransformation,
    check_state,
    check_transformation,
    columnwise,
    stateless_columns,
    zero_step,
)
from functional_train.updates.transforms._choose import move_where, update_where
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Tree


class FiniteState(NamedTuple):
    """How often gradients were not finite.

    Attributes:
        num_consecutive_errors: () int64, times in a row; 0 after finite gradients.
        num_errors: () int64, times in all.
        inner: The state of the transformation inside.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.apply_if_finite(ft.sgd()).init({"w": torch.ones(1)}).num_errors
        tensor(0)
    """

    num_consecutive_errors: Tensor
    num_errors: Tensor
    inner: Tree


def apply_if_finite(tx: GradientTransformation, max_consecutive_errors: int | Tensor = 5) -> GradientTransformation:
    """Leave out updates on gradients that hold an infinite number or a nan.

    Parameters and the state of `tx` then stay as they are, bit for bit. When there are too many in a row the next is
    applied after all, so that a run which is lost shows it.

    Args:
        tx: Whole optimizer.
        max_consecutive_errors: How many updates in a row may be left out, at least 0.

    Returns:
        Transformation with `FiniteState`.

    Raises:
        HyperparameterError: max_consecutive_errors is a number other than 0, 1, 2, ...
        StructureError: tx is no transformation, or at the update: the state is another transformation's.

    Source: Optax, `apply_if_finite`; Micikevicius et al. 2018, arXiv:1710.03740, section 3.2, skips such updates.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.apply_if_finite(ft.sgd(1.0))
        >>> params = {"w": torch.ones(1)}
        >>> params, state = ft.make_update(optimizer)({"w": torch.tensor([torch.nan])}, optimizer.init(params), params)
        >>> params["w"], state.num_errors
        (tensor([1.]), tensor(1))
    """
    check_transformation(tx, "apply_if_finite")
    most = check_count("max_consecutive_errors", max_consecutive_errors, 0, "5 is usual.")

    def init(params: Tree) -> FiniteState:
        count = zero_step(params)
        return FiniteState(count, count.clone(), tx.init(params))

    def counted(g: Flat, state: FiniteState) -> tuple[Tensor, FiniteState]:
        check_state(state, FiniteState)
        finite = tree.all_finite(g.leaves).to(state.num_errors.device)
        in_a_row = torch.where(finite, 0, state.num_consecutive_errors + 1)
        return finite | (in_a_row > most), FiniteState(in_a_row, state.num_errors + ~finite, state.inner)

    def update(g: Flat, state: FiniteState, p: Flat | None, **extra: Any) -> tuple[Flat, FiniteState]:
        apply, state = counted(g, state)
        updates, inner = update_where(apply, tx, g, state.inner, p, extra)
        return updates, state._replace(inner=inner)

    def move(g: Flat, state: FiniteState, p: Flat, **extra: Any) -> tuple[Flat, FiniteState]:
        apply, state = counted(g, state)
        new, inner = move_where(apply, tx, g, state.inner, p, extra)
        return new, state._replace(inner=inner)

    return GradientTransformation(init, columnwise(update, move))


def zero_nans() -> GradientTransformation:
    """Put 0 in place of each nan.

    Returns:
        Transformation with `EmptyState`; infinite numbers stay.

    Source: Optax, `zero_nans`.

    Differs: from Optax, it does not record where they were.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.zero_nans().update([torch.tensor([1.0, torch.nan])], ft.EmptyState(), None)[0]
        [tensor([1., 0.])]
    """
    return stateless_columns(lambda g, p: g.map(lambda leaf: torch.where(leaf.isnan(), 0, leaf)))
