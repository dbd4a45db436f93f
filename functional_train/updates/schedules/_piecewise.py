"""Values that change at milestones, in jumps or on the way between them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from functional_train.updates.checks import Number
from functional_train.updates.schedules._phase import (
    Anneal,
    ScheduleFn,
    Step,
    between,
    check_anneal,
    check_ascending,
    filled,
    number,
    progress,
)
from functional_train.values.errors import HyperparameterError


def piecewise_constant(start: Number, milestones: Sequence[int], gamma: Number | Sequence[Number] = 0.1) -> ScheduleFn:
    """Multiply by a factor at each milestone, and stay in between.

    Args:
        start: Value before the first milestone.
        milestones: Steps at which the value changes, ascending; one that is repeated counts as often.
        gamma: The factor at every milestone, or a sequence of one factor for each.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: milestones are no ascending ints >= 0, or there are more or fewer factors.

    Source: torch.optim.lr_scheduler.MultiStepLR; with a factor each, Optax, `piecewise_constant_schedule`.

    Differs: torch.optim.lr_scheduler.MultiStepLR takes milestones in any order.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.piecewise_constant(1.0, (30, 80))(torch.tensor([29, 30, 80]))
        tensor([1.0000, 0.1000, 0.0100], dtype=torch.float64)
        >>> ft.schedules.piecewise_constant(1.0, (30, 80), gamma=(0.5, 0.1))(80)
        tensor(0.0500, dtype=torch.float64)
    """
    pieces = _pieces(milestones, gamma)

    def schedule(step: Step) -> Tensor:
        step, value = torch.as_tensor(step), filled(start, step)
        for milestone, factor in pieces:
            value = torch.where(step >= milestone, value * number(factor), value)
        return value

    return schedule


def piecewise_interpolate(
    start: Number, milestones: Sequence[int], gamma: Number | Sequence[Number] = 0.1, anneal: Anneal = "linear"
) -> ScheduleFn:
    """Multiply by a factor from each milestone to the next, on a curve; after the last, stay.

    Args:
        start: Value at step 0.
        milestones: Steps at which a piece ends, ascending; where two are equal there is a jump.
        gamma: The factor of every piece, or a sequence of one factor for each.
        anneal: The curve of a piece: "linear", "cosine" or "sqrt", which is steep at first.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: milestones are no ascending ints >= 0, there are more or fewer factors, or the curve is
            unknown.

    Source: Optax, `piecewise_interpolate_schedule`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.piecewise_interpolate(1.0, (4, 8), gamma=(0.1, 0.01))(torch.tensor([0, 2, 4, 6, 8]))
        tensor([1.0000, 0.5500, 0.1000, 0.0505, 0.0010], dtype=torch.float64)
    """
    check_anneal(anneal)
    pieces = _pieces(milestones, gamma)

    def schedule(step: Step) -> Tensor:
        step, value = torch.as_tensor(step), filled(start, step)
        begin, before = 0, number(start)
        for milestone, factor in pieces:
            after = before * number(factor)
            curve = between(before, after, progress(step, begin, milestone - begin), anneal)
            value = torch.where(step >= begin, curve, value)
            begin, before = milestone, after
        return value

    return schedule


def _pieces(milestones: Sequence[int], gamma: Number | Sequence[Number]) -> list[tuple[int, Number]]:
    """Each milestone with its factor."""
    steps = check_ascending("milestones", milestones)
    if not isinstance(gamma, Sequence):
        return [(step, gamma) for step in steps]
    if len(gamma) != len(steps):
        raise HyperparameterError(
            f"gamma has {len(gamma)} factors for {len(steps)} milestones. Give one for each, or a single number."
        )
    return list(zip(steps, gamma, strict=True))
