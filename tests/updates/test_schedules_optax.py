"""Every schedule of Optax is one of ours, by the figures that optax_schedules.py wrote down."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from functional_train import schedules
from tests.updates.optax_schedules import CASES, STEPS

RECORD = json.loads(Path(__file__).with_name("optax_schedules.json").read_text())


def linear(init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0) -> Any:
    return schedules.shift(schedules.linear(init_value, end_value, transition_steps), transition_begin)


def polynomial(
    init_value: float, end_value: float, power: float, transition_steps: int, transition_begin: int = 0
) -> Any:
    return schedules.shift(schedules.polynomial(init_value, end_value, transition_steps, power), transition_begin)


def exponential(
    init_value: float,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Any:
    decay = schedules.exponential(init_value, decay_rate, transition_steps, end_value, staircase=staircase)
    return schedules.shift(decay, transition_begin)


def cosine(init_value: float, decay_steps: int, alpha: float = 0.0, exponent: float = 1.0) -> Any:
    return schedules.cosine(init_value, decay_steps, alpha * init_value, exponent)


def piecewise_constant(init_value: float, boundaries_and_scales: list[Any]) -> Any:
    return schedules.piecewise_constant(init_value, *_columns(boundaries_and_scales))


def piecewise_interpolate(interpolate_type: Any, init_value: float, boundaries_and_scales: list[Any]) -> Any:
    return schedules.piecewise_interpolate(init_value, *_columns(boundaries_and_scales), interpolate_type)


def linear_onecycle(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Any:
    milestones = (int(pct_start * transition_steps), int(pct_final * transition_steps), transition_steps)
    factors = (div_factor, 1 / div_factor, 1 / final_div_factor)
    return schedules.piecewise_interpolate(peak_value / div_factor, milestones, factors)


def cosine_onecycle(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Any:
    milestones = (int(pct_start * transition_steps), transition_steps)
    factors = (div_factor, 1 / div_factor / final_div_factor)
    return schedules.piecewise_interpolate(peak_value / div_factor, milestones, factors, "cosine")


def warmup_constant(init_value: float, peak_value: float, warmup_steps: int) -> Any:
    return schedules.warmup(peak_value, warmup_steps, init_value)


def warmup_cosine(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> Any:
    return schedules.warmup_cosine(peak_value, warmup_steps, decay_steps, init_value, end_value, exponent)


def warmup_exponential(init_value: float, peak_value: float, warmup_steps: int, **kwargs: Any) -> Any:
    return schedules.warmup(exponential(peak_value, **kwargs), warmup_steps, init_value)


def sgdr(cosine_kwargs: list[dict[str, Any]]) -> Any:
    ends = torch.tensor([kwargs["decay_steps"] for kwargs in cosine_kwargs]).cumsum(0).tolist()
    return schedules.join([warmup_cosine(**kwargs) for kwargs in cosine_kwargs], ends[:-1])


def _columns(pairs: list[Any]) -> tuple[Any, Any]:
    return tuple(milestone for milestone, _ in pairs), tuple(factor for _, factor in pairs)


OURS: dict[str, Callable[..., Any]] = {
    "constant_schedule": schedules.constant,
    "linear_schedule": linear,
    "polynomial_schedule": polynomial,
    "exponential_decay": exponential,
    "cosine_decay_schedule": cosine,
    "piecewise_constant_schedule": piecewise_constant,
    "piecewise_interpolate_schedule": piecewise_interpolate,
    "linear_onecycle_schedule": linear_onecycle,
    "cosine_onecycle_schedule": cosine_onecycle,
    "warmup_constant_schedule": warmup_constant,
    "warmup_cosine_decay_schedule": warmup_cosine,
    "warmup_exponential_decay_schedule": warmup_exponential,
    "sgdr_schedule": sgdr,
}


@pytest.mark.parametrize("row", RECORD["rows"], ids=lambda row: row["name"])
def test_equals_optaxs_schedule(row: dict[str, Any]) -> None:
    """Our function with the same numbers gives Optax's values, to beyond the end."""
    expected = torch.tensor(row["values"], dtype=torch.float64)
    actual = OURS[row["name"]](**row["kwargs"])(torch.tensor(STEPS))
    # Optax adds what our schedules multiply, so that a value near zero carries the rounding of the largest.
    atol = 1e-12 * float(expected.abs().max())
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=atol)


def test_the_record_is_of_these_cases() -> None:
    """The figures were written by the script as it stands."""
    assert RECORD["steps"] == STEPS
    recorded = [(row["name"], row["kwargs"]) for row in RECORD["rows"]]
    assert recorded == [(name, kwargs) for name, cases in CASES.items() for kwargs in cases]
    assert set(CASES) == set(OURS)
