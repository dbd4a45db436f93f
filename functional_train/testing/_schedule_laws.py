"""Laws of schedules: pure functions from a step to a value."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from functional_train.testing.assertions import assert_trees_close, assert_trees_equal

StepSchedule = Callable[[int | Tensor], Tensor]


def is_finite(schedule: StepSchedule, num_steps: int) -> None:
    """Assert that a schedule is finite at every step, also long after its end.

    Args:
        schedule: `step -> value`.
        num_steps: How many steps from 0 are looked at.

    Raises:
        AssertionError: a value is infinite or nan; the message names the step.

    Example:
        >>> import functional_train as ft, functional_train.testing
        >>> ft.testing.is_finite(ft.schedules.cosine(1.0, 10), 20)
    """
    for step in [*range(num_steps + 1), 10**9]:
        value = schedule(torch.tensor(step))
        if not torch.isfinite(value):
            raise AssertionError(f"the value at step {step} is {value.item()}")


def is_function_of_step(schedule: StepSchedule, num_steps: int) -> None:
    """Assert that a step may be an int, a 0-d tensor, or an entry of a larger one or of a mapped one.

    The value is float64 and has the shape of the step. For an int and a 0-d tensor it is the same bits; in vectors the
    kernels of a cosine round differently.

    Args:
        schedule: As `is_finite`.
        num_steps: As `is_finite`.

    Raises:
        AssertionError: values differ.

    Example:
        >>> import functional_train as ft, functional_train.testing
        >>> ft.testing.is_function_of_step(ft.schedules.cosine(1.0, 10), 20)
    """
    steps = torch.arange(num_steps + 1)
    values = torch.stack([schedule(step) for step in steps])
    assert_trees_equal([schedule(int(step)) for step in steps], list(values))
    assert_trees_equal(values, values.double())
    # A few units in the last place.
    for together in (schedule(steps), torch.func.vmap(schedule)(steps), schedule(steps[None])[0]):
        assert_trees_close(together, values, rtol=1e-14, atol=1e-15)


def has_no_jumps(schedule: StepSchedule, num_steps: int) -> None:
    """Assert that a schedule is continuous: no step changes it by much more than the steps beside it do.

    A phase of a single step is a jump; so is a staircase, to which this law does not apply.

    Args:
        schedule: As `is_finite`.
        num_steps: As `is_finite`.

    Raises:
        AssertionError: there is a jump; the message names the step.

    Example:
        >>> import functional_train as ft, functional_train.testing
        >>> ft.testing.has_no_jumps(ft.schedules.warmup_cosine(1.0, 4, 20), 30)
    """
    values = schedule(torch.arange(num_steps + 1))
    changes = values.diff().abs().tolist()
    negligible = 1e-9 * float(values.abs().max())
    inside = zip(pairwise(changes), changes[2:], strict=False)
    for step, ((before, change), after) in enumerate(inside, start=1):
        if change > 2 * (before + after) + negligible:
            raise AssertionError(
                f"the schedule jumps from {values[step].item()!r} at step {step} to {values[step + 1].item()!r}"
            )
