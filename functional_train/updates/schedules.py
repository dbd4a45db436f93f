"""Schedules: pure functions from the count of updates to a value.

The public topic `ft.schedules`. A step is a Python int or an integer tensor of any shape; the value is float64 of that
shape. Hyperparameters may be 0-d tensors, to be mapped over or differentiated.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from functional_train.updates.hyperparameters import Number
from functional_train.values.errors import HyperparameterError

__all__ = ["constant", "cosine", "linear", "warmup_cosine"]

Step = int | Tensor


def _progress(step: Step, start: int, num_steps: int) -> Tensor:
    """How much of `num_steps` has passed since `start`, from 0 to 1; a phase without steps is over at once."""
    passed = torch.as_tensor(step, dtype=torch.float64) - start
    return torch.clamp(passed / num_steps, 0.0, 1.0) if num_steps > 0 else torch.ones_like(passed)


def _check_num_steps(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HyperparameterError(f"{name} must be an int >= 0, got {value!r}. It counts updates.")


def constant(value: Number) -> Callable[[Step], Tensor]:
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
    return lambda step: torch.as_tensor(value, dtype=torch.float64) + _progress(step, 0, 0) * 0.0


def linear(start: Number, end: Number, num_steps: int) -> Callable[[Step], Tensor]:
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
    _check_num_steps("num_steps", num_steps)
    return lambda step: start + (end - start) * _progress(step, 0, num_steps)


def cosine(start: Number, num_steps: int, end: Number = 0.0) -> Callable[[Step], Tensor]:
    r"""Half a cosine wave from one value to another: $e + (s - e)(1 + \cos(\pi t / T)) / 2$.

    Args:
        start: Value at step 0.
        num_steps: Length in updates, at least 0.
        end: Value from `num_steps` on.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: num_steps is not an int >= 0.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5.

    Differs: from torch.optim.lr_scheduler.CosineAnnealingLR, which climbs again after `T_max`.

    Example:
        >>> import functional_train as ft
        >>> ft.schedules.cosine(1.0, 10)(5)
        tensor(0.5000, dtype=torch.float64)
    """
    _check_num_steps("num_steps", num_steps)
    return lambda step: end + (start - end) * (1.0 + torch.cos(math.pi * _progress(step, 0, num_steps))) / 2.0


def warmup_cosine(
    peak: Number, num_warmup: int, num_steps: int, start: Number = 0.0, end: Number = 0.0
) -> Callable[[Step], Tensor]:
    """A straight line up to a peak, then half a cosine wave down.

    Args:
        peak: Largest value, reached at step `num_warmup`.
        num_warmup: Length of the line in updates, at least 0.
        num_steps: Length of both together in updates, at least `num_warmup`.
        start: Value at step 0.
        end: Value from `num_steps` on.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: a count is not an int >= 0, or the warmup is longer than the whole.

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2 (warmup); Loshchilov & Hutter 2017, arXiv:1608.03983,
        equation 5 (cosine).

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.warmup_cosine(1.0, 10, 30)(torch.tensor([0, 5, 10, 20, 30]))
        tensor([0.0000, 0.5000, 1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    _check_num_steps("num_warmup", num_warmup)
    _check_num_steps("num_steps", num_steps)
    if num_warmup > num_steps:
        raise HyperparameterError(
            f"num_warmup={num_warmup} is longer than num_steps={num_steps}, which counts the warmup too. Raise "
            "num_steps."
        )

    def schedule(step: Step) -> Tensor:
        rising = start + (peak - start) * _progress(step, 0, num_warmup)
        wave = (1.0 + torch.cos(math.pi * _progress(step, num_warmup, num_steps - num_warmup))) / 2.0
        return torch.where(torch.as_tensor(step) < num_warmup, rising, end + (peak - end) * wave)

    return schedule
