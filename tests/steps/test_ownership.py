"""Who wrote to a state: found on entry, and when a step itself did."""

from typing import Any

import pytest
import torch
from torch import Tensor

import functional_train as ft

OPTIMIZER = ft.sgd(0.1, momentum=0.9)


def _loss_fn(params: Any, batch: Tensor) -> Tensor:
    return (params["w"] - batch).square().sum()


def test_a_replaced_leaf_of_a_dict_is_found() -> None:
    """A state around a plain dict cannot keep the dict from being written to, and the next step says that it was."""
    params = {"w": torch.zeros(2)}
    state = ft.init_state(params, OPTIMIZER)
    step = ft.make_step(ft.grad_and_value(_loss_fn), OPTIMIZER)
    step(state, torch.ones(2))
    params["w"] = torch.full((2,), 100.0)
    with pytest.raises(ft.OwnershipError, match="holds other leaves now"):
        step(state, torch.ones(2))


def test_a_loss_that_writes_to_its_parameters_is_found_in_that_step() -> None:
    """A write during the step does not become part of the next state."""

    def loss_fn(params: Any, batch: Tensor) -> Tensor:
        with torch.no_grad():
            params["w"].add_(100.0)
        return _loss_fn(params, batch)

    state = ft.init_state(ft.Params({"w": torch.zeros(2)}), OPTIMIZER)
    with pytest.raises(ft.OwnershipError, match="'params/w' was written to by this step"):
        ft.make_step(ft.grad_and_value(loss_fn), OPTIMIZER)(state, torch.ones(2))


def test_a_loss_that_writes_to_its_buffers_is_found_in_that_step() -> None:
    """Buffers written in place, the usual mistake, are named; new ones are to be returned."""

    def loss_fn(params: Any, batch: Tensor, *, buffers: ft.Params) -> tuple[Tensor, ft.Aux]:
        return _loss_fn(params, batch), ft.Aux(buffers=ft.Params({"count": buffers["count"].add_(1)}))

    buffers = ft.Params({"count": torch.zeros(1)})
    state = ft.init_state(ft.Params({"w": torch.zeros(2)}), OPTIMIZER, buffers=buffers)
    with pytest.raises(ft.OwnershipError, match="'buffers/count' was written to by this step"):
        ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), OPTIMIZER)(state, torch.ones(2))
