"""Transformations that take part at some updates only."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from functional_train.updates.transformation import (
    GradientTransformation,
    check_state,
    check_transformation,
    columnwise,
    zero_step,
)
from functional_train.updates.transforms._choose import choose_update, move_where, update_where
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.types import Tree


class ConditionFn(Protocol):
    """`(step, **extra) -> () bool`: whether a transformation takes part in an update.

    Example:
        >>> import functional_train as ft, torch
        >>> def every_other(step, **extra):
        ...     return step % 2 == 0
        >>> every_other(torch.tensor(4))
        tensor(True)
    """

    def __call__(self, step: Tensor, /, **extra: Any) -> Tensor | bool: ...


class ConditionState(NamedTuple):
    """How often a transformation was asked.

    Attributes:
        step: () int64, updates so far, those in which it took no part included.
        inner: The state of the transformation inside.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.conditionally_mask(ft.sgd(), lambda step, **extra: step > 9).init({"w": torch.ones(1)}).step
        tensor(0)
    """

    step: Tensor
    inner: Tree


def conditionally_mask(tx: GradientTransformation, condition_fn: ConditionFn) -> GradientTransformation:
    """Update at those updates only that a condition picks; at the others nothing moves.

    Args:
        tx: Whole optimizer. Where the condition is false its state stays, and so do the parameters, bit for bit.
        condition_fn: `(step, **extra) -> bool`, where `step` counts the updates before this one and `extra` is what the
            update was passed: `value=`, the loss, for one. The answer is a bool or a 0-d bool tensor.

    Returns:
        Transformation with `ConditionState`.

    Raises:
        StructureError: tx is no transformation; at the update: the condition's answer is no bool, or the state is
            another transformation's.

    Source: Optax, `conditionally_mask`.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.conditionally_mask(ft.sgd(1.0), lambda step, **extra: extra["value"] < 100)
        >>> params, state = torch.zeros(1), optimizer.init(torch.zeros(1))
        >>> for loss in (1.0, 1e6):
        ...     params, state = ft.make_update(optimizer)(torch.ones(1), state, params, value=torch.tensor(loss))
        ...     print(params)
        tensor([-1.])
        tensor([-1.])
    """
    check_transformation(tx, "conditionally_mask")

    def update(g: Flat, state: ConditionState, p: Flat | None, **extra: Any) -> tuple[Flat, ConditionState]:
        updates, inner = update_where(_asked(condition_fn, state, extra), tx, g, state.inner, p, extra)
        return updates, ConditionState(state.step + 1, inner)

    def move(g: Flat, state: ConditionState, p: Flat, **extra: Any) -> tuple[Flat, ConditionState]:
        new, inner = move_where(_asked(condition_fn, state, extra), tx, g, state.inner, p, extra)
        return new, ConditionState(state.step + 1, inner)

    return GradientTransformation(_init(tx), columnwise(update, move))


def conditionally_transform(tx: GradientTransformation, condition_fn: ConditionFn) -> GradientTransformation:
    """Transform gradients at those updates only that a condition picks; at the others they pass through.

    Args:
        tx: Part of an optimizer, such as clipping. Where the condition is false its state stays.
        condition_fn: As `conditionally_mask`.

    Returns:
        Transformation with `ConditionState`.

    Raises:
        StructureError: As `conditionally_mask`.

    Source: Optax, `conditionally_transform`.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.conditionally_transform(ft.scale(0.5), lambda step, **extra: step < 1)
        >>> updates, state = tx.update(torch.ones(1), tx.init(torch.zeros(1)), None)
        >>> updates, tx.update(torch.ones(1), state, None)[0]
        (tensor([0.5000]), tensor([1.]))
    """
    check_transformation(tx, "conditionally_transform")

    def update(g: Flat, state: ConditionState, p: Flat | None, **extra: Any) -> tuple[Flat, ConditionState]:
        # Held, so that `tx` cannot spend the leaves that may pass through.
        updates, inner = choose_update(_asked(condition_fn, state, extra), tx, g.held(), state.inner, p, extra, g)
        return updates, ConditionState(state.step + 1, inner)

    return GradientTransformation(_init(tx), columnwise(update))


def _init(tx: GradientTransformation) -> Any:
    def init(params: Tree) -> ConditionState:
        return ConditionState(zero_step(params), tx.init(params))

    return init


def _asked(condition_fn: ConditionFn, state: ConditionState, extra: Mapping[str, Any]) -> Tensor:
    check_state(state, ConditionState)
    answer = condition_fn(state.step, **extra)
    condition = torch.as_tensor(answer)
    if condition.dtype != torch.bool or condition.ndim != 0:
        raise StructureError(
            f"a condition must return a bool or a 0-d bool tensor, got {answer!r}. Compare: step % 2 == 0."
        )
    return condition
