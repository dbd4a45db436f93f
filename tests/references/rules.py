"""Ways to state a reference."""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import torch
from torch import Tensor

import functional_train as ft

Leaves = list[Tensor]
# The parameters, and at each step the gradients in which None may stand for one; the parameters after each step.
Reference = Callable[[Leaves, list[list[Tensor | None]]], list[Leaves]]
# A factory, and values for its numeric hyperparameters at which each of them makes a difference.
Settings = tuple[Callable[..., ft.GradientTransformation], dict[str, Any]]


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Generator[None]:
    """Let torch.optim keep in `dtype` what it keeps in torch's default one: step sizes, products of momenta."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def of_torch(cls: type[torch.optim.Optimizer]) -> Reference:
    """A class of torch.optim with its defaults."""

    @default_dtype(torch.float64)
    def reference(params: Leaves, grads: list[list[Tensor | None]]) -> list[Leaves]:
        own = [torch.nn.Parameter(leaf.clone()) for leaf in params]
        optimizer = cls(own, foreach=False)  # type: ignore[call-arg]
        reached: list[Leaves] = []
        for row in grads:
            for parameter, grad in zip(own, row, strict=True):
                parameter.grad = None if grad is None else grad.clone()
            optimizer.step()
            reached.append([parameter.detach().clone() for parameter in own])
        return reached

    return reference


def of_rule(rule: Callable[[Leaves, Leaves, list[dict[str, Any]]], Leaves]) -> Reference:
    """A literal rule `(grads, params, memories) -> updates` for the leaves that have a gradient."""

    def reference(params: Leaves, grads: list[list[Tensor | None]]) -> list[Leaves]:
        memories: list[dict[str, Any]] = [{} for _ in params]
        reached = [list(params)]
        for row in grads:
            there = [place for place, grad in enumerate(row) if grad is not None]
            new = list(reached[-1])
            chosen = ([grad for grad in row if grad is not None], [new[i] for i in there], [memories[i] for i in there])
            for place, update in zip(there, rule(*chosen), strict=True):
                new[place] = new[place] + update
            reached.append(new)
        return reached[1:]

    return reference


def of_leaf(rule: Callable[[Tensor, Tensor, dict[str, Any]], Tensor]) -> Reference:
    """A literal rule for one leaf."""
    return of_rule(lambda grads, params, memories: [rule(*row) for row in zip(grads, params, memories, strict=True)])
