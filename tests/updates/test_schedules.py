"""Schedules: pure functions of a step, continuous, within their ends, the same for ints and tensors."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import lr_scheduler

import functional_train as ft
from functional_train import schedules
from tests.global_rng import seeded
from tests.trees import assert_bitwise

Schedule = Callable[[Any], Tensor]
ends = st.floats(0.0, 10.0)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Schedule, int, float, float, float]:
    """A schedule, its length, its smallest and largest value, and how far it may move in one step."""
    start, end, num_steps = draw(ends), draw(ends), draw(st.integers(0, 40))
    low, high = sorted((start, end))
    kind = draw(st.sampled_from(["constant", "linear", "cosine", "warmup_cosine"]))
    if kind == "constant":
        return schedules.constant(start), 0, start, start, 0.0
    if kind == "linear":
        return schedules.linear(start, end, num_steps), num_steps, low, high, (high - low) / max(num_steps, 1)
    if kind == "cosine":
        slope = math.pi / 2 * (high - low) / max(num_steps, 1)
        return schedules.cosine(start, num_steps, end), num_steps, low, high, slope
    peak, num_warmup = draw(ends), draw(st.integers(0, num_steps))
    slope = max(abs(peak - start) / max(num_warmup, 1), math.pi / 2 * abs(peak - end) / max(num_steps - num_warmup, 1))
    schedule = schedules.warmup_cosine(peak, num_warmup, num_steps, start, end)
    return schedule, num_steps, min(low, peak), max(high, peak), slope


@given(cases())
def test_stays_between_its_ends_and_moves_smoothly(case: tuple[Schedule, int, float, float, float]) -> None:
    """Values are finite, within the ends, and no two neighbors are farther apart than the steepest slope allows."""
    schedule, num_steps, low, high, slope = case
    values = schedule(torch.arange(num_steps + 5))
    assert values.isfinite().all()
    assert values.dtype == torch.float64
    assert (values >= low - 1e-12).all()
    assert (values <= high + 1e-12).all()
    inside = values[: num_steps + 1].diff().abs()
    # A phase of no steps is a jump, and is allowed to be one.
    if slope * max(num_steps, 1) > 0 and len(inside) > 1:
        assert (inside <= slope + 1e-12).all()
    assert (values[num_steps:].diff() == 0).all()


@given(cases(), st.integers(0, 60))
def test_ints_and_tensors_of_any_shape_agree(case: tuple[Schedule, int, float, float, float], step: int) -> None:
    """A Python int, a 0-d tensor, an entry of a larger tensor and a member under vmap give one value."""
    schedule = case[0]
    expected = schedule(step)
    assert expected.shape == ()
    steps = torch.tensor([[step, step + 1]])
    assert_bitwise(schedule(torch.tensor(step)), expected)
    assert_bitwise(schedule(steps)[0, 0], expected)
    assert_bitwise(torch.func.vmap(schedule)(steps.flatten())[0], expected)


@pytest.mark.parametrize(("num_warmup", "num_steps"), [(0, 10), (1, 10), (5, 10), (10, 10), (0, 0)])
def test_warmup_meets_the_peak(num_warmup: int, num_steps: int) -> None:
    """The line begins at its start, reaches the peak at the end of the warmup, and the wave ends at its end."""
    schedule = schedules.warmup_cosine(3.0, num_warmup, num_steps, start=1.0, end=0.5)
    assert schedule(0) == (1.0 if num_warmup else 3.0 if num_steps else 0.5)
    assert schedule(num_warmup) == (3.0 if num_warmup < num_steps else 0.5)
    assert schedule(num_steps) == 0.5
    assert schedule(10**9) == 0.5


def values_of(make: Callable[[torch.optim.Optimizer], Any], num_steps: int) -> list[float]:
    """The learning rates of one of torch's schedulers, which start from 0.5."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, values = make(optimizer), []
    for _ in range(num_steps):
        values.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize("num_steps", [1, 2, 17])
def test_equals_torchs_schedulers(num_steps: int) -> None:
    """Linear and cosine are LinearLR and CosineAnnealingLR, up to where those climb again."""
    steps = torch.arange(num_steps + 1)
    linear = values_of(lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.2, 0.8, num_steps), num_steps + 1)
    cosine = values_of(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, num_steps, 0.1), num_steps + 1)
    expected = torch.tensor([linear, cosine], dtype=torch.float64)
    ours = torch.stack([schedules.linear(0.1, 0.4, num_steps)(steps), schedules.cosine(0.5, num_steps, 0.1)(steps)])
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


def test_slopes_in_the_ends() -> None:
    """A schedule is differentiable in its values, so that they can be learned."""

    def at(start: Tensor, end: Tensor) -> Tensor:
        steps = torch.arange(12)
        return torch.stack(
            [
                schedules.constant(start)(steps),
                schedules.linear(start, end, 10)(steps),
                schedules.cosine(start, 10, end)(steps),
                schedules.warmup_cosine(start, 3, 10, end, end)(steps),
            ]
        )

    inputs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.7, 0.2)]
    with seeded():  # gradcheck draws directions
        assert torch.autograd.gradcheck(at, inputs, check_forward_ad=True)


def test_is_the_topic_of_the_same_name() -> None:
    """`ft.schedules` is the module, and lists what it has."""
    assert ft.schedules is schedules
    assert all(callable(getattr(schedules, name)) for name in schedules.__all__)
