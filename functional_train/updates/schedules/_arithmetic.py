"""Arithmetic on schedules as functions; a number stands for the schedule that never changes."""

import torch
from torch import Tensor

from functional_train.updates.schedules._phase import ScheduleFn, Step, as_schedule, filled
from functional_train.values.types import Hyperparameter


def add(*schedules: Hyperparameter) -> ScheduleFn:
    """The sum of schedules, step by step.

    Args:
        *schedules: Schedules or numbers; the sum of none is 0.

    Returns:
        `step -> value`.

    Example:
        >>> import functional_train as ft
        >>> ft.schedules.add(0.5, ft.schedules.linear(1.0, 0.0, 10))(5)
        tensor(1., dtype=torch.float64)
    """
    terms = [as_schedule(schedule) for schedule in schedules]

    def total(step: Step) -> Tensor:
        value = filled(0.0, step)
        for term in terms:
            value = value + term(step)
        return value

    return total


def mul(*schedules: Hyperparameter) -> ScheduleFn:
    """The product of schedules, step by step.

    Args:
        *schedules: Schedules or numbers; the product of none is 1.

    Returns:
        `step -> value`.

    Source: torch.optim.lr_scheduler.ChainedScheduler.

    Example:
        >>> import functional_train as ft
        >>> ft.schedules.mul(0.1, ft.schedules.linear(1.0, 0.0, 10))(5)
        tensor(0.0500, dtype=torch.float64)
    """
    factors = [as_schedule(schedule) for schedule in schedules]

    def product(step: Step) -> Tensor:
        value = filled(1.0, step)
        for factor in factors:
            value = value * factor(step)
        return value

    return product


def clip(
    schedule: Hyperparameter, low: Hyperparameter = float("-inf"), high: Hyperparameter = float("inf")
) -> ScheduleFn:
    """A schedule kept between two others.

    Args:
        schedule: What is clipped.
        low: Smallest value, a number or a schedule.
        high: Largest value, a number or a schedule; it wins where it is below `low`.

    Returns:
        `step -> value`.

    Example:
        >>> import functional_train as ft
        >>> ft.schedules.clip(ft.schedules.exponential(1.0, 0.5), low=0.1)(10)
        tensor(0.1000, dtype=torch.float64)
    """
    inner, smallest, largest = as_schedule(schedule), as_schedule(low), as_schedule(high)
    return lambda step: torch.minimum(torch.maximum(inner(step), smallest(step)), largest(step))
