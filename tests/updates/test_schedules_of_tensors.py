"""Schedules take tensors and steps of every kind: slopes, members, devices, graphs, and the middle of a run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import functional_train as ft
from functional_train import schedules
from tests import cases
from tests.global_rng import seeded
from tests.trees import assert_bitwise

Schedule = Callable[[Any], Tensor]

# What each factory makes of tensors: its values, factors and exponents, and numbers to try them at.
OF_TENSORS: dict[str, tuple[Callable[..., Schedule], tuple[float, ...]]] = {
    "add": (lambda a, b: schedules.add(a, schedules.linear(b, a, 9), b), (0.7, 0.2)),
    "clip": (lambda a, b, c: schedules.clip(schedules.linear(a, 0.0, 12), b, c), (0.7, 0.21, 0.52)),
    "constant": (schedules.constant, (0.7,)),
    "cosine": (lambda a, b, p: schedules.cosine(a, 10, b, p), (0.7, 0.2, 1.3)),
    "cosine_annealing": (lambda a, b: schedules.cosine_annealing(a, 5, b), (0.7, 0.2)),
    "cyclic": (lambda a, b, g: schedules.cyclic(a, b, 3, 2, "exp_range", g), (0.2, 0.7, 0.9)),
    "exponential": (lambda a, g, e: schedules.exponential(a, g, 3, e), (0.7, 0.6, 0.31)),
    "exponential staircase": (lambda a, g: schedules.exponential(a, g, 3, staircase=True), (0.7, 1.2)),
    "inverse_sqrt": (lambda p, a: schedules.inverse_sqrt(p, 4, a), (0.7, 0.2)),
    "join": (lambda a, b: schedules.join([a, schedules.linear(a, b, 5), b], [3, 6]), (0.7, 0.2)),
    "linear": (lambda a, b: schedules.linear(a, b, 10), (0.7, 0.2)),
    "mul": (lambda a, b: schedules.mul(a, schedules.linear(b, a, 9), b), (0.7, 0.2)),
    "multiplicative": (lambda a, f: schedules.multiplicative(a, f, 8), (0.7, 0.9)),
    "one_cycle": (lambda p, a, b, s: schedules.one_cycle(p, 12, a, b, s, three_phase=True), (0.7, 0.2, 0.1, 0.32)),
    "one_cycle of roots": (lambda p, s: schedules.one_cycle(p, 12, pct_start=s, anneal="sqrt"), (0.7, 0.32)),
    "piecewise_constant": (lambda a, f, g: schedules.piecewise_constant(a, (3, 6), (f, g)), (0.7, 0.5, 1.5)),
    "piecewise_interpolate": (lambda a, g: schedules.piecewise_interpolate(a, (0, 4, 9), g, "cosine"), (0.7, 0.5)),
    "polynomial": (lambda a, b, p: schedules.polynomial(a, b, 10, p), (0.7, 0.2, 1.5)),
    "repeat": (lambda a, b: schedules.repeat(schedules.linear(a, b, 5), 3), (0.7, 0.2)),
    "rex": (lambda a, b: schedules.rex(a, 10, b), (0.7, 0.2)),
    "shift": (lambda a, b: schedules.shift(schedules.linear(a, b, 5), 3), (0.7, 0.2)),
    "warm_restarts": (lambda a, b, g: schedules.warm_restarts(a, 2, 2, b, g), (0.7, 0.2, 0.8)),
    "warmup": (lambda a, b: schedules.warmup(schedules.linear(a, b, 5), 3, b), (0.7, 0.2)),
    "warmup_cosine": (lambda p, a, b, q: schedules.warmup_cosine(p, 3, 10, a, b, q), (0.7, 0.2, 0.1, 1.5)),
    "warmup_stable_decay": (
        lambda p, a, b: schedules.warmup_stable_decay(p, 3, 4, 11, a, b, "sqrt"),
        (0.7, 0.2, 0.1),
    ),
}


def test_every_factory_is_given_tensors() -> None:
    """The table above misses none."""
    assert {name.split()[0] for name in OF_TENSORS} == set(schedules.__all__)


@pytest.mark.parametrize("name", OF_TENSORS)
def test_slopes_in_the_hyperparameters(name: str) -> None:
    """A schedule is differentiable in its values, so that they can be learned."""
    make, numbers = OF_TENSORS[name]
    inputs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in numbers]
    with seeded():  # gradcheck draws directions
        assert torch.autograd.gradcheck(lambda *given: make(*given)(torch.arange(12)), inputs, check_forward_ad=True)


@pytest.mark.parametrize("name", OF_TENSORS)
def test_members_have_their_own_hyperparameters(name: str) -> None:
    """Mapped over, tensors give what numbers give one by one; a tensor of 32 bits is computed with in 64."""
    make, numbers = OF_TENSORS[name]
    steps = torch.arange(14)
    members = [[value * factor for value in numbers] for factor in (1.0, 0.875, 0.5)]
    alone = torch.stack([make(*member)(steps) for member in members])
    columns = torch.tensor(members, dtype=torch.float64).unbind(1)
    # Kernels of powers and cosines round differently for other shapes.
    mapped = torch.func.vmap(lambda *given: make(*given)(steps))(*columns)
    torch.testing.assert_close(mapped, alone, rtol=1e-13, atol=1e-15)
    of_both = torch.func.vmap(lambda step, *given: make(*given)(step))(steps[:3], *columns)
    torch.testing.assert_close(of_both, alone.diagonal(), rtol=1e-13, atol=1e-15)
    low = [torch.tensor(value, dtype=torch.float32) for value in numbers]
    assert_bitwise(make(*low)(steps), make(*[value.double() for value in low])(steps))


@pytest.mark.parametrize("name", OF_TENSORS)
def test_values_are_where_the_step_is(name: str) -> None:
    """A step on another device is not brought over, and numbers and 0-d tensors may stay where they are."""
    make, numbers = OF_TENSORS[name]
    for given in (numbers, [torch.tensor(value) for value in numbers]):
        for step in (torch.zeros((), dtype=torch.int64, device="meta"), torch.arange(4, device="meta")):
            value = make(*given)(step)
            assert (value.device.type, value.shape, value.dtype) == ("meta", step.shape, torch.float64)


@pytest.mark.parametrize("name", OF_TENSORS)
def test_traces_as_one_graph(name: str) -> None:
    """`torch.compile` takes a schedule whole, hyperparameters and all, once for all steps."""
    make, numbers = OF_TENSORS[name]
    given = [torch.tensor(value, dtype=torch.float64) for value in numbers]
    torch.compiler.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        traced = torch.compile(lambda step, *given: make(*given)(step), fullgraph=True, backend="aot_eager")
        for step in (0, 5, 13):
            assert_bitwise(traced(torch.tensor(step), *given), make(*given)(step))


def test_an_optimizer_that_is_resumed_goes_on() -> None:
    """A schedule is a function of the step: from a saved state the same learning rates follow, and no other."""
    factories = [schedules.warmup_cosine, schedules.one_cycle, schedules.warm_restarts]
    made = [factory(*cases.SCHEDULE_ARGUMENTS[factory.__name__]) for factory in factories]
    for schedule in [*made, schedules.join(made, (3, 6))]:
        params, grads = {"w": torch.zeros(1, dtype=torch.float64)}, {"w": torch.ones(1, dtype=torch.float64)}
        state, used = ft.scale_by_lr(schedule).init(params), []
        for _ in range(12):
            # Nothing goes from one update to the next but the leaves of the state.
            leaves, structure = ft.tree.flatten(state)
            state = ft.tree.unflatten(structure, [leaf.clone() for leaf in leaves])
            updates, state = ft.scale_by_lr(schedule).update(grads, state, params)
            used.append(-updates["w"])
        assert_bitwise(torch.cat(used), torch.stack([schedule(step) for step in range(12)]))


def test_every_schedule_can_be_drawn() -> None:
    """`ft.plot.schedule` takes them all."""
    made = {name: make(*cases.SCHEDULE_ARGUMENTS[name]) for name, make in cases.SCHEDULES.items()}
    lines = ft.plot.schedule(made, 15).axes[0].lines
    for line, schedule in zip(lines, made.values(), strict=True):
        assert list(line.get_ydata()) == [float(schedule(step)) for step in range(16)]
