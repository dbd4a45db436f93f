"""Every scheduler of torch, driven through an optimizer, gives the values of a function of the step."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import lr_scheduler, swa_utils

from functional_train import schedules
from tests.profiles import examples

LR = 0.5
NUM_STEPS = 70
Driven = Callable[[torch.optim.Optimizer], Any]
Case = tuple[Driven, Any, int]  # torch's scheduler, our schedule, and how many values are compared

lengths = st.integers(1, 30)
shares = st.floats(0.01, 0.99)
small = st.floats(0.0, 0.4)


def driven(make: Driven, num_values: int = NUM_STEPS, read: str = "lr") -> Tensor:
    """What one of torch's schedulers does to a hyperparameter that starts from 0.5, step by step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.5)
    scheduler, values = make(optimizer), []
    for _ in range(num_values):
        values.append(float(optimizer.param_groups[0][read]))
        optimizer.step()
        if len(values) < num_values:
            scheduler.step()
    return torch.tensor(values, dtype=torch.float64)


def assert_same(schedule: Any, expected: Tensor) -> None:
    steps = torch.arange(len(expected))
    # Torch multiplies its way along, so that a value near zero carries the rounding of the largest.
    atol = 1e-12 * float(expected.abs().max())
    torch.testing.assert_close(schedule(steps), expected, rtol=1e-12, atol=atol)
    torch.testing.assert_close(torch.stack([schedule(int(step)) for step in steps]), expected, rtol=1e-12, atol=atol)


@st.composite
def constant_lr(draw: st.DrawFn) -> Case:
    factor, length = draw(shares), draw(lengths)
    ours = schedules.join([factor * LR, LR], [length])
    return lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor, length), ours, NUM_STEPS


@st.composite
def linear_lr(draw: st.DrawFn) -> Case:
    start, end, length = draw(shares), draw(st.floats(0.0, 1.0)), draw(lengths)
    ours = schedules.linear(start * LR, end * LR, length)
    return lambda optimizer: lr_scheduler.LinearLR(optimizer, start, end, length), ours, NUM_STEPS


@st.composite
def exponential_lr(draw: st.DrawFn) -> Case:
    gamma = draw(st.floats(0.5, 1.1))
    return lambda optimizer: lr_scheduler.ExponentialLR(optimizer, gamma), schedules.exponential(LR, gamma), NUM_STEPS


@st.composite
def step_lr(draw: st.DrawFn) -> Case:
    gamma, length = draw(shares), draw(lengths)
    ours = schedules.exponential(LR, gamma, length, staircase=True)
    return lambda optimizer: lr_scheduler.StepLR(optimizer, length, gamma), ours, NUM_STEPS


@st.composite
def multi_step_lr(draw: st.DrawFn) -> Case:
    gamma, milestones = draw(shares), sorted(draw(st.lists(st.integers(0, NUM_STEPS + 5), max_size=5)))
    ours = schedules.piecewise_constant(LR, milestones, gamma)
    return lambda optimizer: lr_scheduler.MultiStepLR(optimizer, milestones, gamma), ours, NUM_STEPS


@st.composite
def multiplicative_lr(draw: st.DrawFn) -> Case:
    factor, length = draw(st.floats(0.5, 1.1)), draw(lengths)

    def theirs(step: int) -> float:
        return factor if step % 2 else step / (step + length)

    def ours(step: Tensor) -> Tensor:
        return torch.where(step % 2 == 1, factor, step.double() / (step + length))

    scheduled = schedules.multiplicative(LR, ours, NUM_STEPS)
    return lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, theirs), scheduled, NUM_STEPS


@st.composite
def lambda_lr(draw: st.DrawFn) -> Case:
    factor = draw(shares)
    ours = schedules.mul(LR, lambda step: factor / (step + 1.0).double())
    return lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: factor / (step + 1.0)), ours, NUM_STEPS


@st.composite
def polynomial_lr(draw: st.DrawFn) -> Case:
    power, length = draw(st.floats(0.3, 4.0)), draw(lengths)
    ours = schedules.polynomial(LR, 0.0, length, power)
    return lambda optimizer: lr_scheduler.PolynomialLR(optimizer, length, power), ours, NUM_STEPS


@st.composite
def cosine_annealing_lr(draw: st.DrawFn) -> Case:
    end, length = draw(small), draw(lengths)
    ours = schedules.cosine_annealing(LR, length, end)
    return lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, length, end), ours, NUM_STEPS


@st.composite
def cosine_annealing_warm_restarts(draw: st.DrawFn) -> Case:
    end, length, multiplier = draw(small), draw(lengths), draw(st.integers(1, 4))
    ours = schedules.warm_restarts(LR, length, multiplier, end)
    return (
        lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, length, multiplier, end),
        ours,
        NUM_STEPS,
    )


@st.composite
def sequential_lr(draw: st.DrawFn) -> Case:
    boundaries = sorted(draw(st.lists(st.integers(1, NUM_STEPS), min_size=2, max_size=2, unique=True)))
    factor, gamma, length = draw(shares), draw(shares), draw(lengths)

    def theirs(optimizer: torch.optim.Optimizer) -> Any:
        parts = [
            lr_scheduler.LinearLR(optimizer, factor, 1.0, length),
            lr_scheduler.StepLR(optimizer, 3, gamma),
            lr_scheduler.CosineAnnealingWarmRestarts(optimizer, length),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, boundaries)

    parts = [
        schedules.linear(factor * LR, LR, length),
        schedules.exponential(LR, gamma, 3, staircase=True),
        schedules.warm_restarts(LR, length),
    ]
    return theirs, schedules.join(parts, boundaries), NUM_STEPS


@st.composite
def chained_scheduler(draw: st.DrawFn) -> Case:
    factor, gamma, length = draw(shares), draw(st.floats(0.5, 1.0)), draw(lengths)

    def theirs(optimizer: torch.optim.Optimizer) -> Any:
        parts = [
            lr_scheduler.ConstantLR(optimizer, factor, length),
            lr_scheduler.ExponentialLR(optimizer, gamma),
            lr_scheduler.MultiStepLR(optimizer, [2, 5], gamma),
        ]
        return lr_scheduler.ChainedScheduler(parts, optimizer)

    parts = (
        schedules.join([factor, 1.0], [length]),
        schedules.exponential(1.0, gamma),
        schedules.piecewise_constant(1.0, [2, 5], gamma),
    )
    return theirs, schedules.mul(LR, *parts), NUM_STEPS


@st.composite
def swalr(draw: st.DrawFn) -> Case:
    end, length, is_cosine = draw(small), draw(st.integers(0, 30)), draw(st.booleans())
    ours = schedules.cosine(LR, length, end) if is_cosine else schedules.linear(LR, end, length)
    anneal = "cos" if is_cosine else "linear"
    return lambda optimizer: swa_utils.SWALR(optimizer, end, length, anneal), ours, NUM_STEPS


FAMILIES = (
    *(constant_lr, linear_lr, exponential_lr, step_lr, multi_step_lr, multiplicative_lr, lambda_lr, polynomial_lr),
    *(cosine_annealing_lr, cosine_annealing_warm_restarts, sequential_lr, chained_scheduler, swalr),
)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_equals_torchs_scheduler(family: Callable[[], st.SearchStrategy[Case]]) -> None:
    """The learning rate at each step, to beyond the end, is the schedule's value there."""

    @settings(max_examples=examples(20))
    @given(family())
    def holds(case: Case) -> None:
        make, ours, num_values = case
        assert_same(ours, driven(make, num_values))

    holds()


def test_every_scheduler_of_torch_is_compared() -> None:
    """torch.optim.lr_scheduler has none that is not in this file, or in that of `reduce_on_plateau`."""
    theirs = {name.lower() for name in lr_scheduler.__all__} - {"lrscheduler", "reducelronplateau"}
    ours = {family.__name__.replace("_", "") for family in FAMILIES} | {"cycliclr", "onecyclelr"}
    assert ours - {"swalr"} == theirs


MODES = ("triangular", "triangular2", "exp_range")


@settings(max_examples=examples(30))
@given(st.sampled_from(MODES), lengths, st.none() | lengths, st.floats(0.9, 1.0), st.tuples(small, shares, shares))
def test_cyclic_equals_torchs(
    mode: Any, num_up: int, num_down: int | None, gamma: float, ends: Sequence[float]
) -> None:
    """The learning rate and the momentum of CyclicLR, in all its modes."""
    low, least, most = ends

    def make(optimizer: torch.optim.Optimizer) -> Any:
        kwargs: Any = {"gamma": gamma, "base_momentum": least, "max_momentum": most}
        return lr_scheduler.CyclicLR(optimizer, low, LR, num_up, num_down, mode, **kwargs)

    assert_same(schedules.cyclic(low, LR, num_up, num_down, mode, gamma), driven(make))
    momentum = schedules.cyclic(most, least, num_up, num_down, mode, gamma)
    assert_same(momentum, driven(make, read="momentum"))


@given(lengths, st.integers(0, 30), st.booleans())
@settings(max_examples=examples(20))
def test_a_scale_of_cycles_is_a_product(num_up: int, num_down: int, of_cycles: bool) -> None:
    """CyclicLR's `scale_fn` is a factor, a function of the step or of the cycle."""
    length = num_up + num_down

    def make(optimizer: torch.optim.Optimizer) -> Any:
        kwargs: Any = {"scale_fn": lambda x: 1 / (1.0 + x), "scale_mode": "cycle" if of_cycles else "iterations"}
        return lr_scheduler.CyclicLR(optimizer, 0.1, 0.4, num_up, num_down, **kwargs)

    def scale(step: Tensor) -> Tensor:
        return 1 / (1.0 + (1 + step // length if of_cycles else step).double())

    cycles = schedules.cyclic(0.0, 0.4 - 0.1, num_up, num_down)
    assert_same(schedules.add(0.1, schedules.mul(cycles, scale)), driven(make))


@settings(max_examples=examples(40))
@given(
    st.integers(2, 60),
    st.floats(0.0, 1.0),
    st.sampled_from([("cosine", "cos"), ("linear", "linear")]),
    st.booleans(),
    st.tuples(st.floats(1.0, 50.0), st.floats(1.0, 1e5)),
)
def test_one_cycle_equals_torchs(num_steps: int, pct: float, anneal: Any, three_phase: bool, divisors: Any) -> None:
    """The learning rate and the momentum of OneCycleLR, with two phases and with three; then ours stay."""
    pct = pct / 2 if three_phase else pct
    assume(pct * num_steps != 1.0)  # then torch divides by zero, the length of the first phase
    ours, theirs = anneal
    low, lowest = LR / divisors[0], LR / divisors[0] / divisors[1]

    def make(optimizer: torch.optim.Optimizer) -> Any:
        kwargs: Any = {"pct_start": pct, "anneal_strategy": theirs, "three_phase": three_phase}
        kwargs |= {"base_momentum": 0.8, "max_momentum": 0.9, "div_factor": divisors[0]}
        return lr_scheduler.OneCycleLR(optimizer, LR, num_steps, final_div_factor=divisors[1], **kwargs)

    schedule = schedules.one_cycle(LR, num_steps, low, lowest, pct, ours, three_phase=three_phase)
    momentum = schedules.one_cycle(0.8, num_steps, 0.9, 0.9, pct, ours, three_phase=three_phase)
    assert_same(schedule, driven(make, num_steps))
    assert_same(momentum, driven(make, num_steps, "momentum"))
    assert schedule(10**6) == schedule(num_steps - 1)


def test_a_phase_that_ends_between_two_steps() -> None:
    """The end of a phase is compared in float64, however little lies between it and the next step."""
    pct = 1.0 - 2.0**-53
    momentum = driven(lambda optimizer: lr_scheduler.OneCycleLR(optimizer, LR, 2, pct_start=pct), 2, "momentum")
    assert_same(schedules.one_cycle(0.85, 2, 0.95, 0.95, pct), momentum)


def test_one_cycle_has_torchs_defaults() -> None:
    """Without further arguments the ends are torch's, too."""
    assert_same(schedules.one_cycle(LR, 50), driven(lambda optimizer: lr_scheduler.OneCycleLR(optimizer, LR, 50), 50))
