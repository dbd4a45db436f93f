"""Schedules moved in time: one after another, later, and over again."""

from collections.abc import Sequence

import torch
from torch import Tensor

from functional_train.updates.checks import check_num_updates
from functional_train.updates.schedules._phase import ScheduleFn, Step, as_schedule, check_ascending
from functional_train.values.errors import HyperparameterError
from functional_train.values.types import Hyperparameter


def join(schedules: Sequence[Hyperparameter], boundaries: Sequence[int]) -> ScheduleFn:
    """One schedule after another, each from its own step 0 on.

    Args:
        schedules: Schedules or numbers, at least one.
        boundaries: The steps at which the second begins, the third, and so on; ascending.

    Returns:
        `step -> value`; it is continuous if each schedule ends where the next begins.

    Raises:
        HyperparameterError: boundaries are no ascending ints >= 0, or not one fewer than schedules.

    Source: torch.optim.lr_scheduler.SequentialLR; Optax, `join_schedules`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.join([0.1, ft.schedules.linear(1.0, 0.0, 10)], [5])(torch.tensor([4, 5, 10, 15]))
        tensor([0.1000, 1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    steps = check_ascending("boundaries", boundaries)
    parts = [as_schedule(schedule) for schedule in schedules]
    if len(steps) != len(parts) - 1:
        raise HyperparameterError(
            f"join was given {len(parts)} schedules and {len(steps)} boundaries; there is one boundary between each "
            "two."
        )

    def joined(step: Step) -> Tensor:
        step = torch.as_tensor(step)
        value = parts[0](step)
        for boundary, part in zip(steps, parts[1:], strict=True):
            value = torch.where(step < boundary, value, part(torch.clamp(step - boundary, min=0)))
        return value

    return joined


def shift(schedule: Hyperparameter, num_steps: int) -> ScheduleFn:
    """A schedule that begins later, and until then has its first value.

    Args:
        schedule: What is moved.
        num_steps: By how many updates; a negative number leaves out the first steps.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: num_steps is not an int.

    Source: Optax, `transition_begin`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.shift(ft.schedules.linear(1.0, 0.0, 10), 5)(torch.tensor([0, 5, 10, 15]))
        tensor([1.0000, 1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    if isinstance(num_steps, bool) or not isinstance(num_steps, int):
        raise HyperparameterError(f"num_steps must be an int, got {num_steps!r}. It counts updates.")
    inner = as_schedule(schedule)
    return lambda step: inner(torch.clamp(torch.as_tensor(step) - num_steps, min=0))


def repeat(schedule: Hyperparameter, num_steps: int) -> ScheduleFn:
    """The first steps of a schedule over and over.

    Args:
        schedule: What is repeated.
        num_steps: How many of its steps, at least 1; step `num_steps` is its step 0 again.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: num_steps is not an int >= 1.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.repeat(ft.schedules.linear(1.0, 0.0, 2), 2)(torch.arange(5))
        tensor([1.0000, 0.5000, 1.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    check_num_updates("num_steps", num_steps, 1)
    inner = as_schedule(schedule)
    return lambda step: inner(torch.as_tensor(step) % num_steps)
