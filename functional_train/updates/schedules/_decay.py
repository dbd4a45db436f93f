"""Curves of decay: REX and the inverse square root."""

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_num_updates
from functional_train.updates.schedules._phase import ScheduleFn, Step, between, number, progress


def rex(start: Number, num_steps: int, end: Number = 0.0) -> ScheduleFn:
    r"""Reflected exponential, late and steep: $e + (s - e) \frac{1 - z}{1/2 + (1 - z)/2}$ with $z = t / T$.

    Args:
        start: Value at step 0.
        num_steps: Length in updates, at least 0.
        end: Value from `num_steps` on.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: num_steps is not an int >= 0.

    Source: Chen, Wolfe & Kyrillidis 2022, "REX: Revisiting Budgeted Training with an Improved Schedule",
        arXiv:2107.04197, the REX profile.

    Example:
        >>> import functional_train as ft
        >>> ft.schedules.rex(1.0, 10)(5)
        tensor(0.6667, dtype=torch.float64)
    """
    check_num_updates("num_steps", num_steps)

    def schedule(step: Step) -> Tensor:
        left = 1.0 - progress(step, 0, num_steps)
        low = number(end)
        return low + (number(start) - low) * left / (0.5 + 0.5 * left)

    return schedule


def inverse_sqrt(peak: Number, num_warmup: int, start: Number = 0.0, timescale: int | None = None) -> ScheduleFn:
    r"""A straight line up to a peak, then decay by the root of the step: $p \sqrt{\tau / (t - W + \tau)}$.

    Args:
        peak: Largest value, reached at step `num_warmup`.
        num_warmup: Length of the line in updates, at least 0.
        start: Value at step 0.
        timescale: After how many steps of decay the value is $p / \sqrt 2$, at least 1; by default as many as the
            warmup takes, so that the value is $p \sqrt{W / t}$.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: a count is too small.

    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 3, whose peak is $(d W)^{-1/2}$.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.inverse_sqrt(1.0, 10)(torch.tensor([0, 5, 10, 40]))
        tensor([0.0000, 0.5000, 1.0000, 0.5000], dtype=torch.float64)
    """
    check_num_updates("num_warmup", num_warmup)
    scale = max(num_warmup, 1) if timescale is None else timescale
    check_num_updates("timescale", scale, 1)

    def schedule(step: Step) -> Tensor:
        step = torch.as_tensor(step)
        decayed = number(peak) * torch.sqrt(scale / ((step - num_warmup).clamp(min=0).double() + scale))
        return torch.where(step < num_warmup, between(start, peak, progress(step, 0, num_warmup)), decayed)

    return schedule
