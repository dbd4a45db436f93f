"""Decay by a factor at each step."""

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_num_updates
from functional_train.updates.schedules._phase import ScheduleFn, Step, as_schedule, filled, number
from functional_train.values.types import Hyperparameter


def exponential(
    start: Number, gamma: Number, num_steps: int = 1, end: Number | None = None, *, staircase: bool = False
) -> ScheduleFn:
    r"""Decay by a factor every so many steps: $s \gamma^{t / T}$.

    Args:
        start: Value at step 0.
        gamma: Factor, at least 0 and usually below 1.
        num_steps: In how many updates the value is multiplied by `gamma`, at least 1.
        end: Where the value stops: it falls no lower when `gamma` is below 1, and otherwise grows no larger.
        staircase: Whether the value stays for `num_steps` and then jumps, $s \gamma^{\lfloor t / T \rfloor}$.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: num_steps is not an int >= 1.

    Source: torch.optim.lr_scheduler.ExponentialLR; with a staircase, torch.optim.lr_scheduler.StepLR; Optax,
        `exponential_decay`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.exponential(1.0, 0.5)(3)
        tensor(0.1250, dtype=torch.float64)
        >>> ft.schedules.exponential(1.0, 0.1, 30, staircase=True)(torch.tensor([29, 30]))
        tensor([1.0000, 0.1000], dtype=torch.float64)
    """
    check_num_updates("num_steps", num_steps, 1)

    def schedule(step: Step) -> Tensor:
        whole = torch.as_tensor(step)
        periods = whole // num_steps if staircase else whole.double() / num_steps
        value = number(start) * number(gamma) ** periods.double()
        if end is None:
            return value
        stop = filled(end, step)
        return torch.where(filled(gamma, step) < 1.0, torch.maximum(value, stop), torch.minimum(value, stop))

    return schedule


def multiplicative(start: Number, factor: Hyperparameter, num_steps: int) -> ScheduleFn:
    r"""Multiply by a factor that is itself a schedule: $s \prod_{i=1}^{t} f(i)$.

    The products up to `num_steps` are computed once, where the schedule is made.

    Args:
        start: Value at step 0.
        factor: The factor of each step from 1 on, as a schedule of vectors of steps or as a number.
        num_steps: How many steps change the value, at least 0; then it stays.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: num_steps is not an int >= 0.

    Source: torch.optim.lr_scheduler.MultiplicativeLR.

    Differs: from torch.optim.lr_scheduler.MultiplicativeLR, which has no last step.

    Example:
        >>> import functional_train as ft
        >>> ft.schedules.multiplicative(1.0, lambda step: step / (step + 1.0), 100)(3)
        tensor(0.2500, dtype=torch.float64)
    """
    check_num_updates("num_steps", num_steps)
    factors = as_schedule(factor)(torch.arange(1, num_steps + 1))
    products = torch.cat([torch.ones(1, dtype=torch.float64), factors.cpu()]).cumprod(0)

    def schedule(step: Step) -> Tensor:
        step = torch.as_tensor(step).clamp(0, num_steps)
        reached = products.to(step.device)[step.reshape(-1)].reshape(step.shape)
        return number(start) * reached

    return schedule
