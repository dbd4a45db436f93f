"""Who trains: one AdamW step, written the way each library wants it written.

A system takes a module and returns a function that trains on one batch and returns the loss before the update.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import functional_train as ft
from tests.benchmarks.workloads import Batch, loss_of

Advance = Callable[[Batch], Tensor]

# A small rate, so that rounding is not amplified, and much decay, so that who leaves it out has other losses.
HYPERPARAMETERS = {"lr": 1e-4, "weight_decay": 10.0}


def plain_step(module: nn.Module) -> Advance:
    """functional_train, not compiled; the state of before is dropped when the new one has its name."""
    return _pure(module, lambda step: step)


def compiled_step(module: nn.Module) -> Advance:
    """functional_train, compiled, its state moved."""
    return _pure(module, partial(ft.compile, donate=True))


def copied_step(module: nn.Module) -> Advance:
    """functional_train, compiled, its state copied."""
    return _pure(module, ft.compile)


def unchecked_step(module: nn.Module) -> Advance:
    """functional_train, not compiled, without the checks that every plain step makes."""
    return _pure(module, lambda step: vars(step)["__wrapped__"])


def guarded_step(module: nn.Module) -> Advance:
    """functional_train, not compiled, each step inside `guard`."""

    def wrap(step: ft.StepFn) -> ft.StepFn:
        def guarded(state: Any, batch: Batch) -> Any:
            with ft.guard():
                return step(state, batch)

        return guarded

    return _pure(module, wrap)


def step_through_check(module: nn.Module) -> Advance:
    """functional_train, not compiled, each step by `check_pure`."""
    return _pure(module, lambda step: partial(ft.check_pure, step))


def _pure(module: nn.Module, wrap: Callable[[ft.StepFn], ft.StepFn]) -> Advance:
    apply, params, buffers = ft.functionalize(module)
    # Every system has one set of parameters: neither the module nor names below keep others alive.
    module.to("meta")

    def loss_fn(params: ft.Params, batch: Batch) -> Tensor:
        inputs, targets = batch
        return loss_of(apply(params, inputs), targets)

    def loss_with_buffers(params: ft.Params, batch: Batch, buffers: ft.Params) -> tuple[Tensor, ft.Aux]:
        inputs, targets = batch
        outputs, new = apply(params, inputs, buffers=buffers)
        return loss_of(outputs, targets), ft.Aux(buffers=new)

    grad_fn = ft.grad_and_value(loss_with_buffers, has_aux=True) if buffers else ft.grad_and_value(loss_fn)
    optimizer = ft.adamw(**HYPERPARAMETERS)
    step = wrap(ft.make_step(grad_fn, optimizer))
    state = ft.init_state(params, optimizer, buffers=buffers)
    del params, buffers

    def advance(batch: Batch) -> Tensor:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics["loss"]

    return advance


def imperative_fused(module: nn.Module) -> Advance:
    """The usual loop, with one kernel a parameter."""
    return imperative(module, torch.optim.AdamW(module.parameters(), **HYPERPARAMETERS, fused=True))


def imperative_compiled(module: nn.Module) -> Advance:
    """The usual loop around a compiled model, with one kernel a parameter."""
    optimizer = torch.optim.AdamW(module.parameters(), **HYPERPARAMETERS, fused=True)
    return imperative(torch.compile(module), optimizer)


def imperative_foreach(module: nn.Module) -> Advance:
    """The usual loop, with one call an operation."""
    return imperative(module, torch.optim.AdamW(module.parameters(), **HYPERPARAMETERS, foreach=True))


def imperative(module: nn.Module, optimizer: torch.optim.Optimizer) -> Advance:
    """The usual loop around an optimizer that holds the module's parameters."""

    def advance(batch: Batch) -> Tensor:
        inputs, targets = batch
        optimizer.zero_grad()
        loss = loss_of(module(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return advance


def torchopt_pure(module: nn.Module) -> Advance:
    """TorchOpt's functional AdamW, with its default operators."""
    return _torchopt(module, accelerated=False)


def torchopt_accelerated(module: nn.Module) -> Advance:
    """TorchOpt's functional AdamW, with its own C++ operators."""
    return _torchopt(module, accelerated=True)


def _torchopt(module: nn.Module, accelerated: bool) -> Advance:
    # What is fastest and still pure: autograd on detached leaves (torch.func.grad costs more), `inplace=False`, and a
    # module on the meta device, so that there are no second weights.
    import torchopt

    params = {name: leaf.detach().clone() for name, leaf in module.named_parameters()}
    buffers = {name: leaf.clone() for name, leaf in module.named_buffers()}
    skeleton = copy.deepcopy(module).to("meta")
    optimizer = torchopt.adamw(**HYPERPARAMETERS, use_accelerated_op=accelerated)
    state = optimizer.init(params)

    def advance(batch: Batch) -> Tensor:
        nonlocal params, state
        inputs, targets = batch
        watched = {name: leaf.detach().requires_grad_() for name, leaf in params.items()}
        loss = loss_of(torch.func.functional_call(skeleton, {**watched, **buffers}, (inputs,)), targets)
        slopes = torch.autograd.grad(loss, list(watched.values()))
        grads = dict(zip(watched, slopes, strict=True))
        updates, state = optimizer.update(grads, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
        return loss.detach()

    return advance
