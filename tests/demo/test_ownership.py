"""The table of who owned what tells the truth, also about functions that write to their arguments."""

import torch
from torch import Tensor, nn

import functional_train as ft
from functional_train.demo import ownership
from functional_train.demo.task import Task

PARAMS = ft.Params({"w": torch.ones(2)})


def table_of(loss_fn: ft.LossFn, optimizer: ft.GradientTransformation) -> list[str]:
    """Measure one step of a task with one parameter."""
    task = Task(
        data="two numbers",
        module=nn.BatchNorm1d(2),
        params=PARAMS,
        buffers=ft.Params({}),
        loss_fn=loss_fn,
        grad_fn=ft.grad_and_value(loss_fn),
        batch_at=lambda position: torch.full((2,), float(position)),
        evaluate=lambda state: {},
        report=lambda state: "",
    )
    state = ft.init_state(ft.tree.copy(PARAMS), optimizer)
    return ownership.measure(task, optimizer, state, task.batch_at(3)).splitlines()


def pure_loss_fn(params: ft.Params, batch: Tensor) -> Tensor:
    return (params["w"] * batch).sum()


def impure_loss_fn(params: ft.Params, batch: Tensor) -> Tensor:
    loss = pure_loss_fn(params, batch.clone())
    batch.add_(1.0)
    return loss


def test_pure_functions_change_nothing() -> None:
    """Pure functions change nothing, and what they return is new."""
    loss_row, grad_row, update_row = table_of(pure_loss_fn, ft.adam())[1:4]
    assert loss_row.split() == ["loss_fn", "params", "1,", "batch", "1", "loss", "1", "all", "nothing"]
    assert grad_row.split()[-2:] == ["all", "nothing"]
    assert update_row.split()[-2:] == ["all", "nothing"]


def test_a_write_is_reported() -> None:
    """A loss that writes to its batch is found out in each phase that calls it, and only there."""
    loss_row, grad_row, update_row = table_of(impure_loss_fn, ft.sgd())[1:4]
    assert loss_row.endswith("batch")
    assert grad_row.endswith("batch")
    assert update_row.endswith("nothing")


def test_a_result_that_shares_memory_is_counted() -> None:
    """An optimizer that hands its old state back does not count as having made a new one."""
    kept = ft.GradientTransformation(
        init=lambda params: params, update=lambda grads, state, params, **_: (grads, state)
    )
    update_row = table_of(pure_loss_fn, kept)[3]
    assert update_row.split()[-4:] == ["1", "of", "2", "nothing"]
