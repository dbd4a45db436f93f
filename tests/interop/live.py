"""A live training run of torch, as a user writes it, and the same loop over values."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import functional_train as ft
from tests.global_rng import seeded
from tests.trees import normal

MakeModel = Callable[[], nn.Module]
MakeOptimizer = Callable[[nn.Module], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler | None]


class Live(NamedTuple):
    """What a training loop of torch holds."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None


class Case(NamedTuple):
    """How a live run is made."""

    optimizer: MakeOptimizer
    model: MakeModel
    scheduler: MakeScheduler = lambda optimizer: None
    every: int = 1
    closure: bool = False


def start(case: Case) -> Live:
    """Make the objects, always the same ones."""
    with seeded(0):
        model = case.model()
    optimizer = case.optimizer(model)
    return Live(model, optimizer, case.scheduler(optimizer))


def inputs(step: int) -> Tensor:
    return normal(step, (5, 6), torch.float32)


def loss_of(output: Tensor) -> Tensor:
    return (output - 0.3).square().mean() + output.sin().mean()


def loop(case: Case, live: Live, steps: Iterable[int]) -> None:
    """The imperative loop."""
    model, optimizer, scheduler = live

    for step in steps:

        def backward(step: int = step) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model(inputs(step)))
            loss.backward()
            return loss

        if case.closure:
            optimizer.step(backward)
        else:
            backward()
            optimizer.step()
        if scheduler is not None and (step + 1) % case.every == 0:
            scheduler.step()


def fold(run: ft.TorchRun, steps: Iterable[int]) -> ft.TrainState:
    """The same loop over values."""

    def loss_fn(params: Any, batch: Tensor, buffers: Any = None) -> Any:
        if buffers is None:
            return loss_of(run.apply(params, batch)), {}
        output, buffers = run.apply(params, batch, buffers=buffers)
        return loss_of(output), ft.Aux({}, buffers)

    step_fn = ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), run.optimizer)
    state = run.state
    for step in steps:
        state, _ = step_fn(state, inputs(step))
    return state


def switch(case: Case, live: Live) -> ft.TorchRun:
    return ft.from_torch(*live, every=case.every)


def contents(live: Live) -> dict[str, Any]:
    """All that a run holds, as nested dicts of tensors and plain values; a scheduler's functions are left out."""
    model, optimizer, scheduler = live
    state: dict[str, Any] = {
        "params": dict(model.named_parameters()),
        "buffers": dict(model.named_buffers()),
        "optimizer": optimizer.state_dict(),
        "training": [module.training for module in model.modules()],
        "requires grad": [parameter.requires_grad for parameter in model.parameters()],
    }
    return state if scheduler is None else state | {"scheduler": scheduler.state_dict()}


def snapshot(live: Live) -> Any:
    """A copy of it, with gradients, that nothing written later changes."""
    grads = {name: parameter.grad for name, parameter in live.model.named_parameters()}
    return _copied({**contents(live), "grads": grads})


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list | tuple) else value


def assert_same_bits(actual: Any, expected: Any, path: str = "") -> None:
    """Same containers, types, dtypes and bits, the sign of zero included."""
    if isinstance(expected, Tensor):
        assert isinstance(actual, Tensor), path
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), path
        same = torch.equal(_bits(actual), _bits(expected))
        assert same, f"{path}: {actual.detach().flatten()[:4]} and {expected.detach().flatten()[:4]}"
    elif isinstance(expected, Mapping):
        assert type(actual) is type(expected), f"{path}: {type(actual)} and {type(expected)}"
        assert set(actual) == set(expected), f"{path}: {set(actual) ^ set(expected)}"
        for key, value in expected.items():
            assert_same_bits(actual[key], value, f"{path}/{key}")
    elif isinstance(expected, list | tuple):
        assert type(actual) is type(expected), f"{path}: {type(actual)} and {type(expected)}"
        assert len(actual) == len(expected), path
        for place, value in enumerate(expected):
            assert_same_bits(actual[place], value, f"{path}/{place}")
    else:
        assert type(actual) is type(expected), f"{path}: {type(actual)} and {type(expected)}"
        assert actual == expected or actual != actual, f"{path}: {actual!r} and {expected!r}"


def _bits(tensor: Tensor) -> Tensor:
    # Views of bytes need a dense tensor; as a sparse one only gradients occur.
    return tensor.detach().to_dense().contiguous().reshape(-1).view(torch.uint8)
