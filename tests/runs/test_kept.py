"""States that a run keeps are those it went through, and going on from one is going on from there."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import functional_train as ft
from tests.runs.checkpoints.trees import assert_same
from tests.runs.counting import START, count, numbers

OPTIMIZER = ft.adam(0.1)


def loss_fn(params: Any, batch: Any) -> Any:
    return ((params["w"] * params["frozen"][:3] - batch) ** 2).sum()


STEP = ft.make_step(ft.grad_and_value(loss_fn), ft.freeze(OPTIMIZER, "frozen"))


def start() -> ft.TrainState:
    params = {"w": torch.zeros(3), "frozen": torch.ones(1000)}
    return ft.init_state(params, ft.freeze(OPTIMIZER, "frozen"))


@given(steps=st.integers(0, 20), every=st.integers(1, 6), begin=st.integers(0, 5))
def test_states_are_those_of_their_steps(steps: int, every: int, begin: int) -> None:
    """The first, and each multiple."""
    state, _ = ft.fit(count, START, numbers(30), steps=begin, progress=False)
    _, history = ft.fit(count, state, numbers(30)[begin:], steps=steps, keep_every=every, progress=False)
    due = sorted({begin} | {step for step in range(begin, begin + steps + 1) if step % every == 0})
    assert list(history.states) == due
    for step, kept in history.states.items():
        assert_same(kept, ft.fit(count, START, numbers(30), steps=step, progress=False)[0])
        assert history.states.at(step) is kept
        assert history.states.at(step + every - step % every - 1) in history.states.values()


def test_a_branch_is_a_run_from_there() -> None:
    """Rewound and repeated it is the same; with another rate it is another, and the first is still there."""
    state, history = ft.fit(STEP, start(), numbers(4), steps=20, keep_every=5, progress=False)
    middle = history.states[8 + 2]
    again, repeated = ft.fit(STEP, middle, numbers(4)[2:] + numbers(4)[:2], steps=10, progress=False)
    assert_same(again, state)
    assert torch.equal(repeated["loss"], history["loss"][10:])
    slower = ft.freeze(ft.sgd(0.01), "frozen")
    other = middle.replace(opt_state=slower.init(middle.params))
    branch, _ = ft.fit(ft.make_step(ft.grad_and_value(loss_fn), slower), other, numbers(4), steps=10, progress=False)
    assert int(branch.step) == 20
    assert not torch.equal(branch.params["w"], state.params["w"])
    assert_same(history.states[10], middle)


def test_what_states_share_is_there_once() -> None:
    """Frozen parameters of many states take the memory of one, also where each had to be copied."""
    compiled = ft.compile(STEP, donate=True, backend="eager")
    for step in (STEP, compiled):
        _, history = ft.fit(step, start(), numbers(4), steps=20, keep_every=1, progress=False)
        assert len(history.states) == 21
        assert history.states.nbytes < 2 * 4000 + 21 * 200
    still = ft.compile(STEP, backend="eager")
    stayed, moved = (
        ft.fit(step, start(), numbers(4), steps=9, keep_every=3, progress=False)[1] for step in (still, compiled)
    )
    for first, second in zip(stayed.states.values(), moved.states.values(), strict=True):
        assert_same(second, first)


@given(budget=st.integers(0, 400), moved=st.booleans())
def test_a_budget(budget: int, moved: bool) -> None:
    """Is kept by keeping fewer, at equal distances, the first among them."""
    optimizer = ft.sgd(0.1)
    step = ft.make_step(ft.grad_and_value(lambda p, batch: (p - batch).square().sum()), optimizer)
    if moved:
        step.donates = True  # pyright: ignore[reportFunctionMemberAccess]
    state = ft.init_state(torch.zeros(2), optimizer)
    _, history = ft.fit(step, state, numbers(5), steps=40, keep_every=1, keep_bytes=budget, progress=False)
    kept = list(history.states)
    assert kept[0] == 0
    assert history.states.nbytes <= max(budget, 16)
    gaps = {second - first for first, second in itertools.pairwise(kept)}
    assert len(gaps) <= 1
    assert history.states.nbytes * 2 + 16 >= min(budget, 41 * 16)
    for number, each in history.states.items():
        assert int(each.step) == number


def test_signs_of_zero_survive_copying() -> None:
    """0.0 and -0.0 are equal, and not the same."""

    def flip(state: ft.TrainState, batch: Any) -> Any:
        del batch
        return state.replace(step=state.step + 1, params=-state.params), {"loss": state.step}

    flip.donates = True  # pyright: ignore[reportFunctionMemberAccess]
    state = ft.init_state(torch.zeros(2), ft.sgd())
    _, history = ft.fit(flip, state, numbers(3), keep_every=1, progress=False)
    assert [bool(kept.params.signbit().all()) for kept in history.states.values()] == [False, True, False, True]


def test_states_and_errors() -> None:
    """Interrupted and failed runs hand over what they kept; errors say what there is."""
    batches = [*numbers(5), torch.tensor(float("nan"))]
    with pytest.raises(ft.NonFiniteError) as caught:
        ft.fit(count, START, batches, keep_every=2, log_every=1, progress=False)
    assert list(caught.value.history.states) == [0, 2, 4, 6]
    states = caught.value.history.states
    with pytest.raises(KeyError, match=r"no state of step 3 was kept; there are 0, 2, 4, 6\. Try states\.at\(3\)"):
        states[3]
    with pytest.raises(KeyError, match="no state was kept at or before step -1"):
        states.at(-1)
    with pytest.raises(ft.HyperparameterError, match="keep_every must be an int >= 1, got 0"):
        ft.fit(count, START, batches, keep_every=0)
    assert not ft.fit(count, START, numbers(2), progress=False)[1].states
    many = ft.fit(count, START, numbers(30), keep_every=1, progress=False)[1].states
    assert repr(many) == "States of steps 0, 1, 2, 3, 4, ..., 28, 29, 30: 372 B"
