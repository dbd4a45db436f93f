"""`reduce_on_plateau` is torch's ReduceLROnPlateau as a function of a state, fed with the value of each update."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

import functional_train as ft
from tests.profiles import examples
from tests.trees import assert_bitwise

params = {"w": torch.ones(3)}
# Few values that are near each other, so that plateaus come about.
values = st.lists(
    st.sampled_from([1.0, 1.00005, 0.9999, 0.999, 0.5, 0.0, -1.0, -1.0002, 2.0]) | st.floats(-3, 3), max_size=40
)


def run(transformation: ft.GradientTransformation, fed: Any, state: Any = None) -> list[ft.PlateauState]:
    """The states after each value; the updates are the gradients times the scale."""
    state, states = transformation.init(params) if state is None else state, []
    for value in fed:
        updates, state = transformation.update(params, state, params, value=value)
        assert_bitwise(updates, ft.tree.scale(state.scale, params))
        states.append(state)
    return states


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    """Everything that ReduceLROnPlateau and `reduce_on_plateau` have in common."""
    return {
        "mode": draw(st.sampled_from(["min", "max"])),
        "factor": draw(st.floats(0.0, 0.99)),
        "patience": draw(st.integers(0, 4)),
        "threshold": draw(st.sampled_from([0.0, 1e-4, 0.1, 1.0, 1.5])),
        "threshold_mode": draw(st.sampled_from(["rel", "abs"])),
        "cooldown": draw(st.integers(0, 4)),
        "eps": draw(st.sampled_from([0.0, 1e-8, 0.1])),
    }


@settings(max_examples=examples(100))
@given(options(), values, st.sampled_from([0.0, 0.01, 0.3, 2.0]))
def test_equals_torchs_scheduler(chosen: dict[str, Any], fed: list[float], least: float) -> None:
    """After each value the scale and all counters are torch's, bit for bit."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = ReduceLROnPlateau(optimizer, min_lr=least, **chosen)
    for value, state in zip(fed, run(ft.reduce_on_plateau(min_scale=least, **chosen), fed), strict=True):
        theirs.step(value)
        assert float(state.scale) == optimizer.param_groups[0]["lr"]
        assert float(state.best) == theirs.best
        assert (int(state.num_bad), int(state.num_cooldown)) == (theirs.num_bad_epochs, theirs.cooldown_counter)


def test_values_that_are_no_numbers_are_bad() -> None:
    """As in torch, nan improves on nothing, and infinity is the value to begin with."""
    fed = [float("inf"), float("nan"), 1.0, float("nan"), float("-inf"), 0.0]
    states = run(ft.reduce_on_plateau(factor=0.5, patience=0), fed)
    assert [float(state.scale) for state in states] == [0.5, 0.25, 0.25, 0.125, 0.125, 0.0625]


@settings(max_examples=examples(30))
@given(options(), st.lists(st.integers(-64, 64), min_size=12, max_size=24), st.integers(1, 5))
def test_values_are_averaged(chosen: dict[str, Any], fed: list[int], size: int) -> None:
    """With `accumulation_size` a decision is made on the mean of so many values, and nothing changes in between."""
    groups = [fed[begin : begin + size] for begin in range(0, len(fed) - size + 1, size)]
    means = [sum(group) / size for group in groups]
    decided = run(ft.reduce_on_plateau(**chosen), means)
    states = run(ft.reduce_on_plateau(**chosen, accumulation_size=size), [float(value) for value in fed])
    scales = [1.0] * (size - 1) + [float(state.scale) for state in decided for _ in range(size)]
    assert [float(state.scale) for state in states] == scales[: len(fed)]
    for state, expected in zip(states[size - 1 :: size], decided, strict=True):
        assert_bitwise(state, expected)
    assert [int(state.num_values) for state in states] == [(place + 1) % size for place in range(len(fed))]


def test_a_run_can_be_resumed_at_any_value() -> None:
    """What the state shows is all there is."""
    kwargs: Any = {"factor": 0.5, "patience": 1, "cooldown": 1, "accumulation_size": 2}
    fed = [3.0, 2.0, 2.5, 2.5, 2.5, 2.5, 2.5, 2.0, 2.5, 2.5]
    whole = run(ft.reduce_on_plateau(**kwargs), fed)
    assert float(whole[-1].scale) < 1.0
    for place, state in enumerate(whole[:-1]):
        resumed = run(
            ft.reduce_on_plateau(factor=0.5, patience=1, cooldown=1, accumulation_size=2), fed[place + 1 :], state
        )
        assert_bitwise(resumed[-1], whole[-1])


def test_members_have_their_own_plateaus() -> None:
    """Mapped over values and factors, each member is reduced when it alone would be."""
    fed = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.5, 0.4, 0.3], [1.0, 1.0, 0.5, 0.5]], dtype=torch.float64)
    factors = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64)

    def scales(row: Tensor, factor: Tensor) -> Tensor:
        return torch.stack([state.scale for state in run_without_checks(row, factor)])

    def run_without_checks(row: Tensor, factor: Tensor) -> list[ft.PlateauState]:
        transformation = ft.reduce_on_plateau(factor=factor, patience=0)
        state, states = transformation.init(params), []
        for value in row:
            _, state = transformation.update(params, state, params, value=value)
            states.append(state)
        return states

    alone = torch.stack([scales(row, factor) for row, factor in zip(fed, factors, strict=True)])
    assert alone.tolist() == [[1, 0.5, 0.25, 0.125], [1, 1, 1, 1], [1, 0.125, 0.125, 0.015625]]
    assert_bitwise(torch.func.vmap(scales)(fed, factors), alone)


def test_the_factor_has_a_slope_and_the_value_has_none() -> None:
    """The scale can be differentiated in the factor; a loss with a graph does not keep it alive in the state."""
    factor = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    loss = torch.tensor(1.0, requires_grad=True) * 2.0
    states = run(ft.reduce_on_plateau(factor=factor, patience=0), [loss, loss, loss])
    assert torch.autograd.grad(states[-1].scale, factor)[0] == 1.0  # the slope of f squared
    assert not states[-1].best.requires_grad
    assert not states[-1].total.requires_grad


def test_a_factor_may_be_a_schedule() -> None:
    """Like any hyperparameter."""
    transformation = ft.reduce_on_plateau(factor=ft.schedules.linear(0.5, 0.25, 2), patience=0)
    state, scales = transformation.init(params), []
    for _ in range(3):
        _, state = transformation.update(params, state, params, value=1.0)
        scales.append(float(ft.tree.get(state, "scale")))
    assert scales == [1.0, 0.375, 0.09375]


def test_a_step_feeds_it_with_the_loss() -> None:
    """In a step made of it and an optimizer, the scale halves as soon as the loss stays, and can be read."""
    optimizer = ft.chain(ft.sgd(0.25), ft.reduce_on_plateau(factor=0.5, patience=0, threshold=0.0))
    grad_fn = ft.grad_and_value(lambda params, batch: (params["w"] * batch).sum())
    step = ft.make_step(grad_fn, optimizer)
    state, scales = ft.init_state({"w": torch.ones(3)}, optimizer), []
    for batch in (1.0, 0.5, 0.0, 0.0, 0.0):
        state, _ = step(state, torch.full((3,), batch))
        scales.append(float(ft.tree.get(state.opt_state, "scale")))
    assert scales == [1.0, 1.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ft.reduce_on_plateau("least"), "mode must be one of 'min', 'max', got 'least'"),
        (lambda: ft.reduce_on_plateau(factor=1.0), r"factor must be in \[0, 1\), got 1.0.*nothing would shrink"),
        (lambda: ft.reduce_on_plateau(patience=-1), "patience must be an int >= 0, got -1. It counts comparisons."),
        (lambda: ft.reduce_on_plateau(patience=2.0), "patience must be an int >= 0, got 2.0"),
        (lambda: ft.reduce_on_plateau(threshold=-0.1), "threshold must be a finite number >= 0, got -0.1"),
        (lambda: ft.reduce_on_plateau(threshold_mode="share"), "threshold_mode must be one of 'rel', 'abs'"),
        (lambda: ft.reduce_on_plateau(cooldown=-1), "cooldown must be an int >= 0, got -1"),
        (lambda: ft.reduce_on_plateau(min_scale=-1.0), "min_scale must be a finite number >= 0"),
        (lambda: ft.reduce_on_plateau(eps=-1.0), "eps must be a finite number >= 0"),
        (lambda: ft.reduce_on_plateau(accumulation_size=0), "accumulation_size must be an int >= 1, got 0. It counts"),
    ],
)
def test_a_mistake_is_explained(make: Callable[[], Any], message: str) -> None:
    """Numbers and words are checked where the transformation is made."""
    with pytest.raises(ft.HyperparameterError, match=message):
        make()


def test_a_missing_value_is_explained() -> None:
    """Without a value, or with more than one, the update says what to pass."""
    transformation = ft.chain(ft.sgd(), ft.reduce_on_plateau())
    state = transformation.init(params)
    with pytest.raises(ft.StructureError, match=r"no value to watch. Pass update\(grads, state, params, value=loss\)"):
        transformation.update(params, state, params)
    with pytest.raises(ft.StructureError, match="no value to watch"):
        ft.make_update(transformation)(params, state, params)
    with pytest.raises(ft.StructureError, match=r"one number, got value= of shape \(3,\). Pass its mean"):
        transformation.update(params, state, params, value=torch.ones(3))
