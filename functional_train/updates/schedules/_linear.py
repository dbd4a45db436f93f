"""Straight lines and powers of them."""

from torch import Tensor

from functional_train.updates.checks import Number, check_num_updates
from functional_train.updates.schedules._phase import ScheduleFn, Step, between, filled, number, progress


def constant(value: Number) -> ScheduleFn:
    """Always the same value.

    Args:
        value: A number or 0-d tensor.

    Returns:
        `step -> value`.

    Example:
        >>> import functional_train as ft
        >>> ft.schedules.constant(0.5)(7)
        tensor(0.5000, dtype=torch.float64)
    """
    return lambda step: filled(value, step)


def linear(start: Number, end: Number, num_steps: int) -> ScheduleFn:
    """A straight line from one value to another, then the latter.

    Args:
        start: Value at step 0.
        end: Value from `num_steps` on.
        num_steps: Length of the line in updates, at least 0.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: num_steps is not an int >= 0.

    Source: torch.optim.lr_scheduler.LinearLR, in values instead of factors.

    Example:
        >>> import functional_train as ft
        >>> ft.schedules.linear(1.0, 0.0, 10)(4)
        tensor(0.6000, dtype=torch.float64)
    """
    check_num_updates("num_steps", num_steps)
    return lambda step: between(start, end, progress(step, 0, num_steps))


def polynomial(start: Number, end: Number, num_steps: int, power: Number) -> ScheduleFn:
    r"""A power of a straight line: $e + (s - e)(1 - t / T)^p$, then the end.

    Args:
        start: Value at step 0.
        end: Value from `num_steps` on.
        num_steps: Length in updates, at least 0.
        power: The exponent, above 0; 1 is `linear`, a larger one falls faster at first.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: num_steps is not an int >= 0.

    Source: torch.optim.lr_scheduler.PolynomialLR and Optax, `polynomial_schedule`.

    Example:
        >>> import functional_train as ft
        >>> ft.schedules.polynomial(1.0, 0.0, 10, power=2.0)(5)
        tensor(0.2500, dtype=torch.float64)
    """
    check_num_updates("num_steps", num_steps)

    def schedule(step: Step) -> Tensor:
        low = number(end)
        return low + (number(start) - low) * (1.0 - progress(step, 0, num_steps)) ** number(power)

    return schedule
