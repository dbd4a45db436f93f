"""Learning rates and other hyperparameters go there and back, and can be set on the way."""

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from torch.optim import lr_scheduler

import functional_train as ft
from tests.interop.cases import OPTIONS, SCHEDULERS, after, normed, plain, sgd
from tests.interop.live import (
    Case,
    assert_same_bits,
    contents,
    fold,
    loop,
    start,
    switch,
)


def test_hyperparameters_are_part_of_the_state() -> None:
    """To set lr in the state is to set it in the group."""
    case = OPTIONS["SGD-groups"]
    live, other = after("SGD-groups", 3), after("SGD-groups", 3)
    run = switch(case, live)
    state = ft.tree.set(run.state, "group1/lr", 0.25)
    state = fold(run._replace(state=state), range(3, 6))
    other.optimizer.param_groups[1]["lr"] = 0.25
    loop(case, other, range(3, 6))
    ft.to_torch(state, *live)
    assert_same_bits(contents(live), contents(other))


def test_a_plateau_stays_outside() -> None:
    """What looks at a loss decides between steps, and its lr goes into the state."""
    case = Case(sgd, normed)
    lives = [start(case), start(case)]
    plateaus = [lr_scheduler.ReduceLROnPlateau(live.optimizer, patience=0) for live in lives]
    run = switch(case, lives[0])
    state = run.state
    for epoch in range(4):
        steps = range(3 * epoch, 3 * epoch + 3)
        for plateau in plateaus:
            plateau.step(1.0)
        lr = lives[0].optimizer.param_groups[0]["lr"]
        state = fold(run._replace(state=ft.tree.set(state, "group0/lr", lr)), steps)
        loop(case, lives[1], steps)
    assert lives[1].optimizer.param_groups[0]["lr"] < 1e-4
    ft.to_torch(state, *lives[0])
    assert_same_bits(contents(lives[0]), contents(lives[1]))


def test_tensors_of_groups_are_written_in_place() -> None:
    """A learning rate that is a tensor stays the tensor that a captured graph may read."""
    live = after("StepLR-tensor-lr", 3)
    lr = live.optimizer.param_groups[0]["lr"]
    state = fold(switch(SCHEDULERS["StepLR-tensor-lr"], live), range(3, 10))
    ft.to_torch(state, *live)
    assert live.optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == pytest.approx(0.001)


def test_lists_that_somebody_kept_stay() -> None:
    """What `get_last_lr` gave before is not written to."""
    live = after("StepLR", 6)
    assert live.scheduler is not None
    kept = live.scheduler.get_last_lr()
    before = list(kept)
    ft.to_torch(fold(switch(SCHEDULERS["StepLR"], live), range(6, 20)), *live)
    assert kept == before != live.scheduler.get_last_lr()


def test_schedule_steps_once_an_epoch() -> None:
    """Between two calls the learning rate stays, and the position counts the updates that waited."""
    case = SCHEDULERS["StepLR-epochs"]
    run = switch(case, after("StepLR-epochs", 15))
    epochs = [ft.tree.get(fold(run, range(15, 15 + num)), "last_epoch").item() for num in (0, 4, 5, 9, 10)]
    assert epochs == [3, 3, 4, 4, 5]


def test_lrs_of_numpy() -> None:
    """A schedule in NumPy's floats, which are Python's with more methods, is the same schedule."""
    import numpy as np

    case = Case(sgd, plain, lambda o: lr_scheduler.LambdaLR(o, lambda epoch: np.cos(epoch / 10)))
    live, other = start(case), start(case)
    loop(case, live, range(3))
    state = fold(switch(case, live), range(3, 6))
    loop(case, other, range(6))
    assert_same_bits(dict(state.params), dict(other.model.named_parameters()))
    assert ft.tree.get(state, "group0/lr").item() == other.optimizer.param_groups[0]["lr"]


def test_an_error_of_torch_is_its_own() -> None:
    """A schedule that has run out says so in torch's words."""
    case = Case(sgd, plain, lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=4))
    run = switch(case, start(case))
    fold(run, range(3))
    with pytest.raises(ValueError, match="Tried to step"):
        fold(run, range(5))


class Trainer:
    """Holds what cannot be copied, and says the factor of a schedule."""

    def __init__(self) -> None:
        self.lock, self.decay = threading.Lock(), 0.9

    def factor(self, epoch: int) -> float:
        return self.decay**epoch


@pytest.mark.parametrize("wrap", [lambda method: method, functools.partial], ids=["method", "partial"])
def test_methods_of_others_are_functions(wrap: Callable[[Any], Any]) -> None:
    """Of a method of somebody else's a schedule is a copy, and the somebody is not."""
    case = Case(sgd, plain, lambda o: lr_scheduler.LambdaLR(o, [wrap(Trainer().factor)]))
    live, other = start(case), start(case)
    loop(case, live, range(2))
    state = fold(switch(case, live), range(2, 5))
    loop(case, other, range(5))
    assert_same_bits(dict(state.params), dict(other.model.named_parameters()))
