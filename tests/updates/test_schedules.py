"""Schedules: pure functions of a step, continuous, within their ends, the same for ints and tensors."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train import schedules, testing
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
    return schedule, num_steps, min(low, peak), max(high, peak), slope if num_warmup < num_steps else 0.0


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


def test_is_the_topic_of_the_same_name() -> None:
    """`ft.schedules` is the module, and lists what it has."""
    assert ft.schedules is schedules
    assert all(callable(getattr(schedules, name)) for name in schedules.__all__)


steps_of = st.integers(0, 40)


@given(testing.schedules(), testing.schedules(), ends, steps_of)
def test_arithmetic_is_that_of_the_values(one: Schedule, other: Schedule, number: float, step: int) -> None:
    """Sums, products and limits are taken step by step, and a number is the schedule that never changes."""
    a, b = one(step), other(step)
    assert_bitwise(schedules.add(one, number, other)(step), a + number + b)
    assert_bitwise(schedules.mul(one, number, other)(step), a * number * b)
    assert_bitwise(schedules.clip(one, 0.25, other)(step), torch.minimum(a.clamp(min=0.25), b))
    assert_bitwise(schedules.clip(number, high=one)(step), a.clamp(max=number))
    assert schedules.add()(step) == 0.0
    assert schedules.mul()(step) == 1.0
    for make in (schedules.add, schedules.mul):
        assert_bitwise(make(one)(step), a)
        assert_bitwise(make(number, one)(step), make(one, schedules.constant(number))(step))


@given(testing.schedules(), testing.schedules(), steps_of, steps_of, steps_of)
def test_time_is_moved(one: Schedule, other: Schedule, step: int, first: int, second: int) -> None:
    """What is shifted, joined or repeated is the schedule itself at another step."""
    assert_bitwise(schedules.shift(one, first)(step + first), one(step))
    assert_bitwise(schedules.shift(one, first + 1)(step % (first + 1)), one(0))
    assert_bitwise(schedules.shift(one, -first)(step), one(step + first))
    assert_bitwise(schedules.repeat(one, first + 1)(step), one(step % (first + 1)))
    begin, end = sorted((first, second))
    joined = schedules.join([one, other, one], [begin, end])
    assert_bitwise(joined(step), one(step) if step < begin else other(step - begin) if step < end else one(step - end))
    assert_bitwise(schedules.join([one], [])(step), one(step))


def test_no_schedule_sees_a_negative_step() -> None:
    """What has not begun is evaluated at its beginning, so that it need not be defined, or have a slope, before."""
    seen: list[int] = []

    def schedule(step: Tensor) -> Tensor:
        seen.extend(step.tolist())
        return step.double()

    steps = torch.arange(8)
    schedules.join([schedule, schedule], [5])(steps)
    schedules.warmup(schedule, 5)(steps)
    schedules.shift(schedule, 5)(steps)
    assert (min(seen), len(seen)) == (0, 32)


@given(testing.schedules(), ends, st.integers(1, 30), steps_of)
def test_warmup_leads_to_the_beginning(one: Schedule, start: float, num_warmup: int, step: int) -> None:
    """The line begins at its start, has one slope, and ends where the schedule begins, which then is left alone."""
    warmed = schedules.warmup(one, num_warmup, start)
    assert warmed(0) == start
    assert_bitwise(warmed(num_warmup + step), one(step))
    slopes = warmed(torch.arange(num_warmup + 1)).diff()
    torch.testing.assert_close(
        slopes, torch.full_like(slopes, float((one(0) - start) / num_warmup)), rtol=0, atol=1e-14
    )
    assert_bitwise(schedules.warmup(one, 0, start)(step), one(step))


@given(ends, ends, ends, st.integers(1, 40), st.sampled_from(["linear", "cosine", "sqrt"]))
def test_curves_meet_their_ends(start: float, peak: float, end: float, num_steps: int, anneal: Any) -> None:
    """What is promised at an end is there to the last bit."""
    line, wave = schedules.linear(start, end, num_steps), schedules.cosine(start, num_steps, end)
    assert (line(0), line(num_steps), wave(num_steps)) == (start, end, end)
    warmed = schedules.warmup_cosine(peak, num_steps, 2 * num_steps, start, end)
    assert (warmed(0), warmed(2 * num_steps)) == (start, end)
    cycle = schedules.one_cycle(peak, 10 * num_steps, start, end, 0.5, anneal)
    assert (cycle(0), cycle(5 * num_steps - 1), cycle(10 * num_steps - 1)) == (start, peak, end)
    pieces = schedules.piecewise_interpolate(start, (num_steps, 2 * num_steps), 2.0, anneal)
    assert (pieces(0), pieces(num_steps), pieces(2 * num_steps)) == (start, 2 * start, 4 * start)


@given(st.data(), ends, ends, ends, st.sampled_from(["linear", "cosine", "sqrt"]))
def test_stable_between_two_ways(data: st.DataObject, start: float, peak: float, end: float, anneal: Any) -> None:
    """WSD goes up, stays, and comes down on the curve that was asked for."""
    num_warmup, num_stable, num_decay = data.draw(st.tuples(steps_of, st.integers(1, 40), steps_of))
    total = num_warmup + num_stable + num_decay
    schedule = schedules.warmup_stable_decay(peak, num_warmup, num_decay, total, start, end, anneal)
    values = schedule(torch.arange(total + 3)).tolist()
    assert values[0] == (start if num_warmup else peak)
    assert values[num_warmup : num_warmup + num_stable] == [peak] * num_stable
    assert values[total:] == [end] * 3
    for step in range(num_decay + 1):
        z = step / num_decay if num_decay else 1.0
        left = {"linear": 1 - z, "cosine": (1 + math.cos(math.pi * z)) / 2, "sqrt": 1 - math.sqrt(z)}[anneal]
        assert values[total - num_decay + step] == pytest.approx(end + (peak - end) * left, abs=1e-13)


@given(ends, ends, st.integers(1, 40), steps_of)
def test_curves_follow_their_formulas(start: float, end: float, num_steps: int, step: int) -> None:
    """REX and the inverse square root are those of their papers."""
    z = min(step / num_steps, 1.0)
    expected = end + (start - end) * (1 - z) / (0.5 + 0.5 * (1 - z))
    assert float(schedules.rex(start, num_steps, end)(step)) == pytest.approx(expected, abs=1e-13)
    # Vaswani et al., equation 3, for a model of width 1 / W, whose peak is 1.
    vaswani = min((step or 1) ** -0.5, step * num_steps**-1.5) * num_steps**0.5
    assert float(schedules.inverse_sqrt(1.0, num_steps)(step)) == pytest.approx(vaswani, abs=1e-14)
    assert schedules.inverse_sqrt(2.0, 3, timescale=num_steps)(3 + 3 * num_steps) == 1.0


@given(st.integers(1, 50), st.integers(2, 5), st.integers(0, 10**12))
def test_restarts_are_counted_exactly(num_steps: int, multiplier: int, step: int) -> None:
    """However late, a wave begins with the step that integers say, and is falling at the one before."""
    begin, length, wave = 0, num_steps, 0
    while begin + length <= step:
        begin, length, wave = begin + length, length * multiplier, wave + 1
    schedule = schedules.warm_restarts(1.0, num_steps, multiplier, gamma=0.5)
    assert schedule(begin) == 0.5**wave
    assert schedule(begin + length) == 0.5 ** (wave + 1)
    assert float(schedule(begin + length - 1)) == pytest.approx(
        0.5**wave * (1 + math.cos(math.pi * (length - 1) / length)) / 2, abs=1e-15
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.polynomial(1.0, 0.0, -1, 2.0), "num_steps must be an int >= 0, got -1. It counts updates."),
        (lambda: schedules.cosine_annealing(1.0, 0), "num_steps must be an int >= 1, got 0"),
        (lambda: schedules.warm_restarts(1.0, 0), "num_steps must be an int >= 1, got 0"),
        (lambda: schedules.warm_restarts(1.0, 5, 0), "multiplier must be an int >= 1, got 0"),
        (lambda: schedules.exponential(1.0, 0.9, 2.5), r"num_steps must be an int >= 1, got 2\.5"),  # type: ignore[arg-type]
        (lambda: schedules.multiplicative(1.0, 0.9, True), "num_steps must be an int >= 0, got True"),
        (lambda: schedules.rex(1.0, -2), "num_steps must be an int >= 0, got -2"),
        (lambda: schedules.inverse_sqrt(1.0, -2), "num_warmup must be an int >= 0, got -2"),
        (lambda: schedules.inverse_sqrt(1.0, 2, timescale=0), "timescale must be an int >= 1, got 0"),
        (lambda: schedules.warmup(1.0, -2), "num_warmup must be an int >= 0, got -2"),
        (lambda: schedules.repeat(1.0, 0), "num_steps must be an int >= 1, got 0"),
        (lambda: schedules.shift(1.0, 1.5), r"num_steps must be an int, got 1\.5"),  # type: ignore[arg-type]
        (lambda: schedules.warmup_stable_decay(1.0, 5, 11, 10), "num_decay=11 is longer than num_steps=10"),
        (lambda: schedules.warmup_stable_decay(1.0, 5, 6, 10), "num_warmup=5 and num_decay=6 together are longer"),
        (
            lambda: schedules.warmup_stable_decay(1.0, 5, 5, 10, anneal="cos"),  # type: ignore[arg-type]
            "anneal must be one of 'cosine', 'linear', 'sqrt', got 'cos'",
        ),
        (lambda: schedules.cyclic(0.0, 1.0, 0), "num_up must be an int >= 1, got 0"),
        (lambda: schedules.cyclic(0.0, 1.0, 1, -1), "num_down must be an int >= 0, got -1"),
        (lambda: schedules.cyclic(0.0, 1.0, 1, mode="saw"), "mode must be one of 'triangular', .*got 'saw'"),  # type: ignore[arg-type]
        (lambda: schedules.one_cycle(1.0, 0), "num_steps must be an int >= 1, got 0"),
        (lambda: schedules.one_cycle(1.0, 9, pct_start=1.5), r"pct_start must be in \[0, 1\.0\], got 1\.5"),
        (
            lambda: schedules.one_cycle(1.0, 9, pct_start=0.6, three_phase=True),
            r"pct_start must be in \[0, 0\.5\] with three phases, got 0\.6",
        ),
        (lambda: schedules.one_cycle(1.0, 9, anneal="cos"), "anneal must be one of"),  # type: ignore[arg-type]
        (lambda: schedules.piecewise_constant(1.0, (5, 3)), r"milestones must be ints >= 0 in ascending.*\(5, 3\)"),
        (lambda: schedules.piecewise_constant(1.0, (-1,)), r"milestones must be .*got \(-1,\)"),
        (lambda: schedules.piecewise_constant(1.0, 5), "milestones must be .*got 5. They are steps."),  # type: ignore[arg-type]
        (lambda: schedules.piecewise_constant(1.0, (5, 9), (0.1,)), "gamma has 1 factors for 2 milestones"),
        (lambda: schedules.piecewise_interpolate(1.0, (5,), 0.1, "step"), "anneal must be one of"),  # type: ignore[arg-type]
        (lambda: schedules.join([1.0, 2.0], [3, 4]), "2 schedules and 2 boundaries; there is one boundary between"),
        (lambda: schedules.join([1.0, 2.0], [3.5]), r"boundaries must be ints >= 0"),  # type: ignore[list-item]
        (lambda: schedules.join([], []), "0 schedules and 0 boundaries"),
    ],
)
def test_a_mistake_is_explained(make: Callable[[], Any], message: str) -> None:
    """Counts and words are checked where a schedule is made."""
    with pytest.raises(ft.HyperparameterError, match=message):
        make()
