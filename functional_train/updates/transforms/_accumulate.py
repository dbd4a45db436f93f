"""Gradients of several small batches as one."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.checks import check_count
from functional_train.updates.transformation import (
    GradientTransformation,
    check_state,
    check_transformation,
    columnwise,
    zero_step,
)
from functional_train.updates.transforms._choose import move_where, update_where
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree


class AccumulateState(NamedTuple):
    """What the small batches since the last update amount to.

    Attributes:
        step: () int64, updates applied so far.
        num_batches: () int64, small batches since then.
        mean: Like params, their share of the mean gradient.
        value: () float64, their share of the mean loss.
        inner: The state of the transformation inside.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.accumulate_updates(ft.sgd(), 4).init({"w": torch.ones(1)}).num_batches
        tensor(0)
    """

    step: Tensor
    num_batches: Tensor
    mean: Tree
    value: Tensor
    inner: Tree


def accumulate_updates(
    tx: GradientTransformation, every: Hyperparameter = 2, *, dtype: torch.dtype | None = None
) -> GradientTransformation:
    r"""Update once every $k$ small batches, with the mean of their gradients.

    $$\bar g \leftarrow \bar g + g / k, \quad \text{and at the } k\text{-th: } u = \mathrm{tx}(\bar g),\; \bar g
      \leftarrow 0$$

    This is one update on the $k$ batches put together, where the loss is a mean over equally many samples: clipping,
    momentum and schedules inside `tx` see the large batch only. Between updates the parameters and the state of `tx`
    do not change by one bit. `tx` is computed at each small batch, and its result taken or not, so that the host need
    not wait for the device.

    Args:
        tx: Whole optimizer; what stands outside of it sees the small batches.
        every: Number of small batches to an update, at least 1; may be a tensor, or a schedule of the count of updates,
            both rounded up.
        dtype: Of the mean; by default that of each parameter. float32 is wise where that has 16 bits and `every` is
            large.

    Returns:
        Transformation with `AccumulateState`. `value=` reaches `tx` as the mean loss. A leaf whose gradient is `None`
        counts as zero for that small batch; where it is `None` at the `every`-th, what it has so far waits for the next
        update.

    Raises:
        HyperparameterError: every is a number other than 1, 2, 3, ...
        StructureError: tx is no transformation, or at the update: the state is another transformation's.

    Source: Goyal et al. 2017, arXiv:1706.02677, equations 2 to 4, on large batches; Optax, `MultiSteps`.

    Differs: from Optax, a running sum of shares takes the place of a running mean, so that absent gradients are zeros
        as in a large batch. `grad_and_value_fn=` and `key=` are those of the small batch that completes the large one.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.accumulate_updates(ft.sgd(1.0), every=2)
        >>> params = {"w": torch.zeros(1)}
        >>> update_fn, state = ft.make_update(optimizer), optimizer.init(params)
        >>> for grad in (1.0, 3.0):
        ...     params, state = update_fn({"w": torch.tensor([grad])}, state, params)
        ...     print(params["w"], state.step)
        tensor([0.]) tensor(0)
        tensor([-2.]) tensor(1)
    """
    check_transformation(tx, "accumulate_updates")
    if not callable(every):
        check_count("every", every, 1, "With 1 each batch is updated on.")

    def init(params: Tree) -> AccumulateState:
        step = zero_step(params)
        return AccumulateState(step, step.clone(), tree.zeros_like(params, dtype=dtype), step.double(), tx.init(params))

    def collected(g: Flat, state: AccumulateState, extra: dict[str, Any]) -> tuple[Tensor, Flat, AccumulateState]:
        check_state(state, AccumulateState)
        size = check_count("every", every(state.step), 1) if callable(every) else every
        size = torch.ceil(size.double()) if isinstance(size, Tensor) else size
        num_batches, value = state.num_batches + 1, state.value
        due = num_batches >= size
        (mean,) = g.beside(state.mean)
        mean = tree.add(mean, g, alpha=1 / size)
        if "value" in extra:
            value = value + extra["value"] / size
            extra["value"] = value.to(extra["value"].dtype)
        waiting = AccumulateState(
            state.step + due,
            torch.where(due, 0, num_batches),
            tree.where(~due, mean, 0.0).tree(absent=state.mean),
            torch.where(due, 0.0, value),
            state.inner,
        )
        whole = mean if dtype is None else mean.map(lambda leaf, like: leaf.to(like.dtype), g)
        return due, whole, waiting

    def update(g: Flat, state: AccumulateState, p: Flat | None, **extra: Any) -> tuple[Flat, AccumulateState]:
        due, mean, waiting = collected(g, state, extra)
        updates, inner = update_where(due, tx, mean, waiting.inner, p, extra)
        return updates, waiting._replace(inner=inner)

    def move(g: Flat, state: AccumulateState, p: Flat, **extra: Any) -> tuple[Flat, AccumulateState]:
        due, mean, waiting = collected(g, state, extra)
        new, inner = move_where(due, tx, mean, waiting.inner, p, extra)
        return new, waiting._replace(inner=inner)

    return GradientTransformation(init, columnwise(update, move))
