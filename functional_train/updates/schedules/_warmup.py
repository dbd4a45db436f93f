"""Lines up to where something else begins."""

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_num_updates
from functional_train.updates.schedules._cosine import cosine
from functional_train.updates.schedules._phase import (
    Anneal,
    ScheduleFn,
    Step,
    as_schedule,
    between,
    check_anneal,
    check_part,
    progress,
)
from functional_train.values.errors import HyperparameterError
from functional_train.values.types import Hyperparameter


def warmup(schedule: Hyperparameter, num_warmup: int, start: Number = 0.0) -> ScheduleFn:
    """A straight line up to where a schedule begins, then that schedule from its step 0 on.

    Args:
        schedule: What comes after the line; a number stays as it is.
        num_warmup: Length of the line in updates, at least 0.
        start: Value at step 0.

    Returns:
        `step -> value`, without a jump where the schedule begins.

    Raises:
        HyperparameterError: num_warmup is not an int >= 0.

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2; Optax, `warmup_constant_schedule` and
        `warmup_exponential_decay_schedule`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.warmup(ft.schedules.exponential(1.0, 0.5), 2)(torch.arange(5))
        tensor([0.0000, 0.5000, 1.0000, 0.5000, 0.2500], dtype=torch.float64)
    """
    check_num_updates("num_warmup", num_warmup)
    after = as_schedule(schedule)

    def warmed(step: Step) -> Tensor:
        step = torch.as_tensor(step)
        later = torch.clamp(step - num_warmup, min=0)
        # Before the line ends, `later` is 0, so this is the value that it leads to.
        value = after(later)
        return torch.where(step < num_warmup, between(start, value, progress(step, 0, num_warmup)), value)

    return warmed


def warmup_cosine(
    peak: Number,
    num_warmup: int,
    num_steps: int,
    start: Number = 0.0,
    end: Number = 0.0,
    power: Number = 1.0,
) -> ScheduleFn:
    """A straight line up to a peak, then half a cosine wave down.

    Args:
        peak: Largest value, reached at step `num_warmup`.
        num_warmup: Length of the line in updates, at least 0.
        num_steps: Length of both together in updates, at least `num_warmup`.
        start: Value at step 0.
        end: Value from `num_steps` on.
        power: Exponent of the wave, above 0, as in `cosine`.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: a count is not an int >= 0, or the warmup is longer than the whole.

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2 (warmup); Loshchilov & Hutter 2017, arXiv:1608.03983,
        equation 5 (cosine); Optax, `warmup_cosine_decay_schedule` (exponent).

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.warmup_cosine(1.0, 10, 30)(torch.tensor([0, 5, 10, 20, 30]))
        tensor([0.0000, 0.5000, 1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    check_part("num_warmup", num_warmup, num_steps)
    down = cosine(peak, num_steps - num_warmup, end, power)

    def schedule(step: Step) -> Tensor:
        step = torch.as_tensor(step)
        # Up to the peak, even where a wave of no steps begins with its end.
        up = between(start, peak, progress(step, 0, num_warmup))
        return torch.where(step < num_warmup, up, down(step - num_warmup))

    return schedule


def warmup_stable_decay(
    peak: Number,
    num_warmup: int,
    num_decay: int,
    num_steps: int,
    start: Number = 0.0,
    end: Number = 0.0,
    anneal: Anneal = "linear",
) -> ScheduleFn:
    r"""A straight line up to a peak, a long stay there, and a short way down ("WSD").

    Args:
        peak: Value from `num_warmup` until `num_decay` steps before the end.
        num_warmup: Length of the line up in updates, at least 0.
        num_decay: Length of the way down in updates, at least 0.
        num_steps: Length of the whole in updates, at least that of both ways together.
        start: Value at step 0.
        end: Value from `num_steps` on.
        anneal: The curve of the way down: "linear", "cosine", or "sqrt", which is $1 - \sqrt z$ and steep at first.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: a count is not an int >= 0, the ways are longer than the whole, or the curve is unknown.

    Source: Hu et al. 2024, arXiv:2404.06395, section 4.2; the root is from Hägele et al. 2024, arXiv:2405.18392,
        section 3.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.warmup_stable_decay(1.0, 10, 20, 100)(torch.tensor([0, 5, 10, 80, 90, 100]))
        tensor([0.0000, 0.5000, 1.0000, 1.0000, 0.5000, 0.0000], dtype=torch.float64)
    """
    check_part("num_warmup", num_warmup, num_steps)
    check_part("num_decay", num_decay, num_steps)
    check_anneal(anneal)
    begin = num_steps - num_decay
    if num_warmup > begin:
        raise HyperparameterError(
            f"num_warmup={num_warmup} and num_decay={num_decay} together are longer than num_steps={num_steps}. Raise "
            "num_steps."
        )
    warmed = warmup(peak, num_warmup, start)

    def schedule(step: Step) -> Tensor:
        step = torch.as_tensor(step)
        down = between(peak, end, progress(step, begin, num_decay), anneal)
        return torch.where(step < begin, warmed(step), down)

    return schedule
