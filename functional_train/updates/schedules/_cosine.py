"""Cosine waves: once down, up and down, and with restarts."""

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_num_updates
from functional_train.updates.schedules._phase import ScheduleFn, Step, half_wave, number, progress

_LAST_STEP = 2**53  # float64 does not hold every step beyond it


def cosine(start: Number, num_steps: int, end: Number = 0.0, power: Number = 1.0) -> ScheduleFn:
    r"""Half a cosine wave from one value to another: $e + (s - e)((1 + \cos(\pi t / T)) / 2)^p$, then the latter.

    Args:
        start: Value at step 0.
        num_steps: Length in updates, at least 0.
        end: Value from `num_steps` on.
        power: Exponent of the wave, above 0; a larger one falls faster at first.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: num_steps is not an int >= 0.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5; the exponent is Optax's, `cosine_decay_schedule`.

    Differs: from torch.optim.lr_scheduler.CosineAnnealingLR, which climbs again after `T_max`, as `cosine_annealing`.
        Optax's `alpha` is `end / start`.

    Example:
        >>> import functional_train as ft
        >>> ft.schedules.cosine(1.0, 10)(5)
        tensor(0.5000, dtype=torch.float64)
    """
    check_num_updates("num_steps", num_steps)

    def schedule(step: Step) -> Tensor:
        low = number(end)
        return low + (number(start) - low) * half_wave(progress(step, 0, num_steps), power)

    return schedule


def cosine_annealing(start: Number, num_steps: int, end: Number = 0.0) -> ScheduleFn:
    r"""A cosine wave that never stops: down in `num_steps`, up in as many, and again.

    $$e + (s - e)(1 + \cos(\pi t / T)) / 2$$

    Args:
        start: Value at step 0, and at every other multiple of `num_steps`.
        num_steps: Length of half a wave in updates, at least 1.
        end: Value at the odd multiples of `num_steps`.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: num_steps is not an int >= 1.

    Source: torch.optim.lr_scheduler.CosineAnnealingLR, whose rule this is.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.cosine_annealing(1.0, 10)(torch.tensor([0, 10, 20]))
        tensor([1., 0., 1.], dtype=torch.float64)
    """
    check_num_updates("num_steps", num_steps, 1)

    def schedule(step: Step) -> Tensor:
        low = number(end)
        # Within one wave, so that a late step is not rounded away.
        passed = torch.as_tensor(step) % (2 * num_steps)
        return low + (number(start) - low) * half_wave(passed.double() / num_steps)

    return schedule


def warm_restarts(
    start: Number, num_steps: int, multiplier: int = 1, end: Number = 0.0, gamma: Number = 1.0
) -> ScheduleFn:
    r"""Half a cosine wave down, a jump up, and again: $e + (s \gamma^n - e)(1 + \cos(\pi t_n / T_n)) / 2$.

    Here $n$ counts restarts, $t_n$ the steps since the last one, and $T_n = T_0 m^n$.

    Args:
        start: Value at step 0.
        num_steps: Length of the first wave in updates, at least 1.
        multiplier: How many times longer each wave is than the one before, an int of at least 1.
        end: What every wave falls towards.
        gamma: Factor on the start of each further wave; with 1 all begin at `start`.

    Returns:
        `step -> value`.

    Raises:
        HyperparameterError: num_steps or multiplier is not an int >= 1.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, section 3;
        torch.optim.lr_scheduler.CosineAnnealingWarmRestarts.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedules.warm_restarts(1.0, 4, multiplier=2)(torch.tensor([0, 2, 4, 8, 12]))
        tensor([1.0000, 0.5000, 1.0000, 0.5000, 1.0000], dtype=torch.float64)
    """
    check_num_updates("num_steps", num_steps, 1)
    check_num_updates("multiplier", multiplier, 1)
    restarts = _restarts(num_steps, multiplier)

    def schedule(step: Step) -> Tensor:
        step = torch.as_tensor(step)
        if multiplier == 1:
            wave, begin, length = step // num_steps, step - step % num_steps, num_steps
        else:
            # Counted in integers: a logarithm would be a step off where it is rounded.
            passed = step.unsqueeze(-1) >= torch.tensor(restarts, device=step.device)
            wave = passed.sum(-1)
            length = num_steps * multiplier**wave
            begin = (length - num_steps) // (multiplier - 1)
        low = number(end)
        return low + (number(start) * number(gamma) ** wave.double() - low) * half_wave(
            (step - begin).double() / length
        )

    return schedule


def _restarts(num_steps: int, multiplier: int) -> list[int]:
    """The steps at which a wave begins anew, if the waves grow."""
    restarts: list[int] = []
    while multiplier > 1 and (restart := sum(restarts[-1:]) * multiplier + num_steps) <= _LAST_STEP:
        restarts.append(restart)
    return restarts
