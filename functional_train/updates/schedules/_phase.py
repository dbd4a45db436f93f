"""How far a phase of a schedule has come, and what schedules check where they are made."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_choice, check_num_updates
from functional_train.values.errors import HyperparameterError
from functional_train.values.types import Hyperparameter

Step = int | Tensor
ScheduleFn = Callable[[Step], Tensor]
Anneal = Literal["cosine", "linear", "sqrt"]

# From the share of a phase's steps that have passed to the share of its way that is done. The root is kept from zero,
# where its slope is infinite.
_ANNEALS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda passed: (1.0 - torch.cos(math.pi * passed)) / 2.0,
    "linear": lambda passed: passed,
    "sqrt": lambda passed: torch.where(passed > 0, torch.where(passed > 0, passed, 1.0).sqrt(), 0.0),
}


def number(value: Number) -> Number:
    """A tensor in the precision of schedules; a Python number has it already."""
    return value.double() if isinstance(value, Tensor) else value


def filled(value: Any, step: Step) -> Tensor:
    """A value in the shape of a step, in float64, on its device."""
    zeros = torch.zeros_like(torch.as_tensor(step), dtype=torch.float64)
    return torch.as_tensor(value, dtype=torch.float64) + zeros


def as_schedule(operand: Hyperparameter) -> ScheduleFn:
    """A schedule as it is, and a number as the schedule that never changes."""
    if callable(operand):
        return lambda step: filled(operand(torch.as_tensor(step)), step)
    return lambda step: filled(operand, step)


def progress(step: Step, begin: Number, length: Number) -> Tensor:
    """How much of `length` has passed since `begin`, from 0 to 1; a phase without steps is over at once."""
    passed = torch.as_tensor(step, dtype=torch.float64) - begin
    if isinstance(length, Tensor):
        length = filled(length, step)
        share = torch.clamp(passed / torch.where(length > 0, length, 1.0), 0.0, 1.0)
        return torch.where(length > 0, share, 1.0)
    return torch.clamp(passed / length, 0.0, 1.0) if length > 0 else torch.ones_like(passed)


def between(start: Number, end: Number, passed: Tensor, anneal: str = "linear") -> Tensor:
    """The value on the way from one to another, which at both ends is exactly theirs."""
    done, distance = _ANNEALS[anneal](passed), number(end) - number(start)
    return torch.where(done < 0.5, number(start) + distance * done, number(end) - distance * (1.0 - done))


def half_wave(passed: Tensor, power: Number = 1.0) -> Tensor:
    """From 1 to 0 and, beyond 1, back: half a cosine wave, to a power."""
    wave = (1.0 + torch.cos(math.pi * passed)) / 2.0
    return wave if not isinstance(power, Tensor) and power == 1.0 else wave ** number(power)


def check_part(part: str, num_part: int, num_steps: int) -> None:
    """Refuse a part that is longer than the whole."""
    check_num_updates(part, num_part)
    check_num_updates("num_steps", num_steps)
    if num_part > num_steps:
        raise HyperparameterError(
            f"{part}={num_part} is longer than num_steps={num_steps}, which counts it too. Raise num_steps."
        )


def check_ascending(name: str, steps: Sequence[int]) -> tuple[int, ...]:
    """Refuse what is no row of steps in order."""
    is_row = isinstance(steps, Sequence) and not isinstance(steps, str)
    if not is_row or not all(isinstance(step, int) and step >= 0 for step in steps) or list(steps) != sorted(steps):
        raise HyperparameterError(f"{name} must be ints >= 0 in ascending order, got {steps!r}. They are steps.")
    return tuple(steps)


def check_anneal(value: str) -> None:
    """Refuse a word that names no way to anneal."""
    check_choice("anneal", value, tuple(_ANNEALS))
