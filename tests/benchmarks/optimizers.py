"""Who updates: one optimizer, written the way each library wants it written.

A system takes a module and returns a function that takes gradients, updates once, and returns a number to compare.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import functional_train as ft
from tests.benchmarks.workloads import Batch

Advance = Callable[[Batch], Tensor]

OURS: dict[str, Callable[[], ft.GradientTransformation]] = {
    "adam": partial(ft.adam, 1e-2),
    "adamw": partial(ft.adamw, 1e-2),
    "sgd": partial(ft.sgd, 1e-2, momentum=0.9),
    "lion": partial(ft.lion, 1e-2, weight_decay=0.1),
}
TORCHS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, lr=1e-2),
    "adamw": partial(torch.optim.AdamW, lr=1e-2),
    "sgd": partial(torch.optim.SGD, lr=1e-2, momentum=0.9),
}


def ours(module: nn.Module, name: str) -> Advance:
    """functional_train: new parameters and a new state; those of before are dropped."""
    params: Any = [leaf.detach() for leaf in module.parameters()]
    optimizer = OURS[name]()
    update_fn, state = ft.make_update(optimizer), optimizer.init(params)

    def advance(grads: Batch) -> Tensor:
        nonlocal params, state
        params, state = update_fn(list(grads), state, params)
        return params[0][0, 0]

    return advance


def in_place(module: nn.Module, name: str, **implementation: bool) -> Advance:
    """torch.optim, which writes over its parameters."""
    parameters = list(module.parameters())
    return stepping(TORCHS[name](parameters, **implementation), parameters)


def stepping(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> Advance:
    """An optimizer over its own parameters."""

    def advance(grads: Batch) -> Tensor:
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        optimizer.step()
        return parameters[0].detach()[0, 0]

    return advance


def foreach_lion(module: nn.Module) -> Advance:
    """Lion of pytorch_optimizer, for torch.optim lacks it: a class like those of torch, with the same foreach calls."""
    from pytorch_optimizer import Lion

    parameters = list(module.parameters())
    return stepping(Lion(parameters, lr=1e-2, weight_decay=0.1, foreach=True), parameters)


def bare_lion(module: nn.Module) -> Advance:
    """The foreach calls of Lion alone: no class around them, and nothing is checked."""
    params = [leaf.detach() for leaf in module.parameters()]
    exp_avgs = [torch.zeros_like(leaf) for leaf in params]

    def advance(grads: Batch) -> Tensor:
        directions = torch._foreach_lerp(exp_avgs, list(grads), 1 - 0.9)
        torch._foreach_sign_(directions)
        torch._foreach_mul_(params, 1 - 1e-2 * 0.1)
        torch._foreach_add_(params, directions, alpha=-1e-2)
        torch._foreach_lerp_(exp_avgs, list(grads), 1 - 0.99)
        return params[0][0, 0]

    return advance


def torchopt(module: nn.Module, name: str) -> Advance:
    """TorchOpt, pure."""
    import torchopt

    factories = {
        "adam": partial(torchopt.adam, lr=1e-2),
        "adamw": partial(torchopt.adamw, lr=1e-2),
        "sgd": partial(torchopt.sgd, lr=1e-2, momentum=0.9),
    }
    params: Any = [leaf.detach() for leaf in module.parameters()]
    optimizer = factories[name]()
    state = optimizer.init(params)

    def advance(grads: Batch) -> Tensor:
        nonlocal params, state
        updates, state = optimizer.update(list(grads), state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
        return params[0][0, 0]

    return advance


def copy(module: nn.Module) -> Advance:
    """Read all parameters once and write them once: what memory allows."""
    sources = [leaf.detach() for leaf in module.parameters()]
    targets = [torch.empty_like(leaf) for leaf in sources]

    def advance(grads: Batch) -> Tensor:
        del grads
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)
        return targets[0][0, 0]

    return advance


# A worker finds its system by name.
ours_adam, ours_adamw, ours_sgd, ours_lion = (partial(ours, name=name) for name in OURS)
foreach_adam, foreach_adamw, foreach_sgd = (partial(in_place, name=name, foreach=True) for name in TORCHS)
fused_adam, fused_adamw, fused_sgd = (partial(in_place, name=name, fused=True) for name in TORCHS)
torchopt_adam, torchopt_adamw, torchopt_sgd = (partial(torchopt, name=name) for name in TORCHS)
