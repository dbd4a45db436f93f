"""Cycles between two values, for ever or once."""

from typing import Literal

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_choice, check_num_updates
from functional_train.updates.schedules._phase import Anneal, ScheduleFn, Step, between, check_anneal, number, progress
from functional_train.values.errors import HyperparameterError

Mode = Literal["triangular", "triangular2", "exp_range"]


def cyclic(
    start: Number,
    peak: Number,
    num_up: int = 2000,
    num_down: int | None = None,
    mode: Mode = "triangular",
    gamma: Number = 1.0,
) -> ScheduleFn:
    r"""Go up and down between two values on straight lines, for ever: $s + (p - s)\, a(t)\, h(t)$.

    The height $h$ is 1 in the mode "triangular", $2^{-n}$ in cycle $n$ in "triangular2", and $\gamma^t$ in "exp_range".
    For a momentum that goes down while the learning rate goes up, let `peak` be the smaller value.

    Args:
        start: Value at the beginning of each cycle.
        peak: Value in the middle of the first cycle, above or below `start`.
        num_up: Steps from `start` to `peak`, at least 1.
        num_down: Steps back, at least 0; by default as many as `num_up`.
        mode: What becomes of the height: "triangular", "triangular2" or "exp_range".
        gamma: Decay of the height at each step, in the mode "exp_range".

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: a count is too small, or the mode is unknown.

    Source: Smith 2017, arXiv:1506.01186, section 3; torch.optim.lr_scheduler.CyclicLR, its momentum included.

    Differs: torch's `scale_fn` is a product: `add(start, mul(cyclic(0.0, peak - start, ...), scale_fn))`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.cyclic(0.0, 1.0, 2, mode="triangular2")(torch.arange(7))
        tensor([0.0000, 0.5000, 1.0000, 0.5000, 0.0000, 0.2500, 0.5000], dtype=torch.float64)
        >>> momentum = ft.schedules.cyclic(0.9, 0.8, 2)
    """
    num_down = num_up if num_down is None else num_down
    check_num_updates("num_up", num_up, 1)
    check_num_updates("num_down", num_down)
    check_choice("mode", mode, ("triangular", "triangular2", "exp_range"))
    length = num_up + num_down

    def schedule(step: Step) -> Tensor:
        step = torch.as_tensor(step)
        place = step % length
        height = torch.where(place <= num_up, progress(place, 0, num_up), 1.0 - progress(place, num_up, num_down))
        if mode == "triangular2":
            height = height * 0.5 ** (step // length).double()
        elif mode == "exp_range":
            height = height * number(gamma) ** step.double()
        return number(start) + (number(peak) - number(start)) * height

    return schedule


def one_cycle(
    peak: Number,
    num_steps: int,
    start: Number | None = None,
    end: Number | None = None,
    pct_start: Number = 0.3,
    anneal: Anneal = "cosine",
    *,
    three_phase: bool = False,
) -> ScheduleFn:
    """Go up once, and down to far below where it began.

    Of `num_steps` values the first is `start`, if any step goes up, and the last is `end`. With three phases the way
    down takes as long as the way up and leads to `start`, and the rest of the steps lead to `end`. The momentum of a
    cycle is the same function: `one_cycle(0.85, num_steps, start=0.95, end=0.95)` goes down and up.

    Args:
        peak: Value after the first phase.
        num_steps: How many values there are, at least 1.
        start: Value at step 0; by default a 25th of the peak.
        end: Value from step `num_steps - 1` on; by default a 10000th of `start`.
        pct_start: The share of the steps that go up, in [0, 1], and with three phases in [0, 0.5].
        anneal: The curve of a phase: "cosine", "linear" or "sqrt".
        three_phase: Whether there is a third phase.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: num_steps is not an int >= 1, pct_start is outside its range, or the curve is unknown.

    Source: Smith & Topin 2018, arXiv:1708.07120, section 3; torch.optim.lr_scheduler.OneCycleLR, whose rule this is.

    Differs: torch.optim.lr_scheduler.OneCycleLR takes `start` and `end` as divisors; beyond its last step it climbs
        once, and then raises.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.one_cycle(1.0, 11, start=0.0, end=0.0, pct_start=0.5)(torch.tensor([0, 10]))
        tensor([0., 0.], dtype=torch.float64)
        >>> momentum = ft.schedules.one_cycle(0.85, 11, start=0.95, end=0.95)
    """
    check_num_updates("num_steps", num_steps, 1)
    check_anneal(anneal)
    largest = 0.5 if three_phase else 1.0
    if not isinstance(pct_start, Tensor) and not 0.0 <= pct_start <= largest:
        raise HyperparameterError(
            f"pct_start must be in [0, {largest}]{' with three phases' if three_phase else ''}, got {pct_start!r}. It "
            "is the share of the steps that go up."
        )
    last = num_steps - 1

    def schedule(step: Step) -> Tensor:
        low = number(peak) / 25.0 if start is None else number(start)
        lowest = low / 1e4 if end is None else number(end)
        step = torch.as_tensor(step, dtype=torch.float64).clamp(max=last)
        top = number(pct_start) * num_steps - 1
        bottom = 2 * number(pct_start) * num_steps - 2 if three_phase else last
        up = between(low, number(peak), progress(step, 0, top), anneal)
        down = between(number(peak), low if three_phase else lowest, progress(step, top, bottom - top), anneal)
        value = torch.where(step <= top, up, down)
        if three_phase:
            out = between(low, lowest, progress(step, bottom, last - bottom), anneal)
            value = torch.where(step <= bottom, value, out)
        return value

    return schedule
