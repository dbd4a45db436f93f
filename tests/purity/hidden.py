"""Functions with hidden inputs, outputs or randomness."""

import functools
import itertools
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.testing._internal.logging_tensor import LoggingTensorMode

from tests.purity.impure import (
    DIFFERS,
    FILE,
    GRADIENT,
    HIDDEN,
    HOOK,
    SETTING,
    STATE,
    UNFILLED,
    Impure,
    on_x,
    x,
)


def with_counter() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    count = 0

    def add(x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return x + count

    return add, (x(),)


def with_iterator() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    counts = itertools.count()

    def add(x: Tensor) -> Tensor:
        return x + next(counts)

    return add, (x(),)


def with_log() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    log: list[float] = []

    def add(x: Tensor) -> Tensor:
        log.append(1.0)
        return x + 1.0

    return add, (x(),)


def with_set() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    seen: set[int] = set()

    def add(x: Tensor) -> Tensor:
        seen.add(len(x))
        return x + 1.0

    return add, (x(),)


def with_queue() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    losses: deque[float] = deque()

    def add(x: Tensor) -> Tensor:
        losses.append(1.0)
        return x + 1.0

    return add, (x(),)


def with_dict() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    metrics: dict[str, float] = {}

    def add(x: Tensor) -> Tensor:
        metrics["loss"] = 1.0
        return x + 1.0

    return add, (x(),)


def counts_itself(x: Tensor) -> Tensor:
    counts_itself.calls += 1  # pyright: ignore[reportFunctionMemberAccess]
    return x + 1.0


counts_itself.calls = 0  # pyright: ignore[reportFunctionMemberAccess]


class Counter:
    """What counts in an attribute that its class has."""

    calls = 0

    def loss_fn(self, x: Tensor) -> Tensor:
        """One more."""
        self.calls += 1
        return x + 1.0


class Model:
    """What keeps state in an attribute."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + 1.0


def leaks_grad_mode(x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    return x + 1.0


def leaks_default_dtype(x: Tensor) -> Tensor:
    torch.set_default_dtype(torch.float64)
    return x + 1.0


def leaks_a_number_of_threads(x: Tensor) -> Tensor:
    torch.set_num_threads(torch.get_num_threads() + 1)
    return x + 1.0


def leaks_autocast(x: Tensor) -> Tensor:
    torch.set_autocast_enabled("cpu", True)
    return x + 1.0


def leaks_a_variable(x: Tensor) -> Tensor:
    os.environ["FUNCTIONAL_TRAIN_TEST"] = "1"
    return x + 1.0


def leaks_a_dispatch_mode(x: Tensor) -> Tensor:
    LoggingTensorMode().__enter__()
    return x + 1.0


def leaks_a_function_mode(x: Tensor) -> Tensor:
    torch.device("cpu").__enter__()
    return x + 1.0


def with_weight(requires_grad: bool) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    weight = torch.ones(2, requires_grad=requires_grad)

    def multiply(x: Tensor) -> Tensor:
        return (x * weight).sum()

    return multiply, (x(),)


def with_partial() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def multiply(weight: Tensor, x: Tensor) -> Tensor:
        return (x * weight).sum()

    return partial(multiply, torch.ones(2)), (x(),)


def with_numbers_of_numpy() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    array = np.ones(2, dtype=np.float32)

    def multiply(x: Tensor) -> Tensor:
        return (x * torch.from_numpy(array)).sum()

    return multiply, (x(),)


def writes_what_it_holds() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    mean = torch.zeros(2)

    def average(x: Tensor) -> Tensor:
        mean.lerp_(x.mean(0), 0.1)
        return x + 1.0

    return average, (x(),)


def with_many() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    tensors = [torch.zeros(2) for _ in range(100)]

    def add(x: Tensor) -> Tensor:
        tensors[3].add_(1.0)
        return x + 1.0

    return add, (x(),)


def with_sparse() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    held = torch.eye(2).to_sparse()

    def add(x: Tensor) -> Tensor:
        held.mul_(2.0)
        return x + 1.0

    return add, (x(),)


def with_cache() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    @functools.cache
    def mask(num: int) -> Tensor:
        return torch.ones(num)

    def multiply(x: Tensor) -> Tensor:
        return x * mask(2)

    return multiply, (x(),)


def held_module() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    module = nn.Identity()
    module.log = []  # pyright: ignore[reportArgumentType]

    def run(x: Tensor) -> Tensor:
        module.log.append(1.0)  # pyright: ignore[reportCallIssue]
        return module(x) + 1.0

    return run, (x(),)


def returns_an_object() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    counts = itertools.count()

    def give(x: Tensor) -> Any:
        return {next(counts)}, x + 1.0

    return give, (x(),)


def returns_what_it_holds() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    kept = torch.ones(2)

    def give(x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1.0, kept

    return give, (x(),)


def steps_an_optimizer() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def train(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = (x * weight).square().sum()
        loss.backward()
        optimizer.step()
        return loss.detach().clone()

    return train, (x(),)


def goes_backward() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def loss_fn(weight: Tensor) -> Tensor:
        loss = weight.square().sum()
        loss.backward()
        return loss.detach() + 0.0

    return loss_fn, (torch.ones(2, requires_grad=True),)


def registers_a_hook() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def loss_fn(weight: Tensor) -> Tensor:
        weight.register_hook(lambda slope: slope * 2.0)
        return weight.square().sum()

    return loss_fn, (torch.ones(2, requires_grad=True),)


def registers_a_hook_of_a_module() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    module = nn.Identity()

    def run(x: Tensor) -> Tensor:
        module.register_forward_hook(lambda module, args, output: None)
        return module(x) + 1.0

    return run, (x(),)


def with_lazy_module() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    module = nn.LazyBatchNorm1d(affine=False)

    def run(x: Tensor) -> Tensor:
        return module(x).sum()

    return run, (x(),)


def writes_a_file(path: Path, x: Tensor) -> Tensor:
    path.write_text("x")
    return x + 1.0


def saves(path: Path, x: Tensor) -> Tensor:
    torch.save(x, path)
    return x + 1.0


def writes_to_an_open_file(path: Path, x: Tensor) -> Tensor:
    OPEN[path].write("x")
    return x + 1.0


OPEN: dict[Path, Any] = {}


def removes_a_file(path: Path, x: Tensor) -> Tensor:
    path.unlink(missing_ok=True)
    return x + 1.0


def starts_a_process(x: Tensor) -> Tensor:
    subprocess.run([sys.executable, "-c", ""], check=True)
    return x + 1.0


def reads_unfilled_memory(x: Tensor) -> Tensor:
    room = torch.empty(2)
    return x + room


def fills_in_part(x: Tensor) -> Tensor:
    room = x.new_empty((4, 2))
    room[:3] = x
    return room


def grows_without_filling(x: Tensor) -> Tensor:
    room = torch.zeros(1)
    room.resize_(3)
    return x[:, 0] + room


def under_vmap(x: Tensor) -> Tensor:
    return torch.vmap(lambda row: row + torch.empty(2))(x)


# Where files are meant, the test gives a path first.
FILES: dict[str, tuple[Callable[..., Any], str]] = {
    "file write": (writes_a_file, "path.write_text"),
    "torch.save": (saves, "torch.save(x, path)"),
    "file removal": (removes_a_file, "path.unlink"),
}
HIDING: dict[str, Impure] = {
    "counter": Impure(with_counter, {STATE}, "count += 1"),
    "itertools.count": Impure(with_iterator, {DIFFERS}, ""),
    "log": Impure(with_log, {STATE}, "log.append(1.0)"),
    "set": Impure(with_set, {STATE}, "seen.add(len(x))"),
    "queue": Impure(with_queue, {STATE}, "losses.append(1.0)"),
    "metrics": Impure(with_dict, {STATE}, 'metrics["loss"] = 1.0'),
    "attribute of the function": on_x(counts_itself, STATE, "counts_itself.calls += 1"),
    "attribute of the class": Impure(lambda: (Counter().loss_fn, (x(),)), {STATE}, "self.calls += 1"),
    "attribute": Impure(lambda: (Model(), (x(),)), {STATE}, "self.calls += 1"),
    "grad mode": on_x(leaks_grad_mode, SETTING, "torch.set_grad_enabled(False)"),
    "default dtype": on_x(leaks_default_dtype, SETTING, "torch.set_default_dtype"),
    "threads": on_x(leaks_a_number_of_threads, SETTING, "torch.set_num_threads"),
    "autocast": on_x(leaks_autocast, SETTING, "torch.set_autocast_enabled"),
    "dispatch mode": on_x(leaks_a_dispatch_mode, SETTING, "LoggingTensorMode().__enter__()"),
    "function mode": on_x(leaks_a_function_mode, SETTING, 'torch.device("cpu").__enter__()'),
    "os.environ": on_x(leaks_a_variable, SETTING, 'os.environ["FUNCTIONAL_TRAIN_TEST"]'),
    "weight held": Impure(lambda: with_weight(requires_grad=True), {HIDDEN}, "(x * weight).sum()"),
    "constant held": Impure(lambda: with_weight(requires_grad=False), {HIDDEN}, "(x * weight).sum()"),
    "partial": Impure(with_partial, {HIDDEN}, "(x * weight).sum()"),
    "array held": Impure(with_numbers_of_numpy, {HIDDEN}, "torch.from_numpy(array)"),
    "many held": Impure(with_many, {STATE}, "tensors[3].add_(1.0)"),
    "sparse held": Impure(with_sparse, {STATE}, "held.mul_(2.0)"),
    "cache": Impure(with_cache, {HIDDEN}, "x * mask(2)"),
    "log of a held module": Impure(held_module, {STATE}, "module.log.append(1.0)"),
    "object that differs": Impure(returns_an_object, {DIFFERS}, ""),
    "average held": Impure(writes_what_it_holds, {STATE}, "mean.lerp_"),
    "returned constant": Impure(returns_what_it_holds, {HIDDEN}, ""),
    "optimizer": Impure(steps_an_optimizer, {STATE, HIDDEN, GRADIENT}, "optimizer.step()"),
    ".backward()": Impure(goes_backward, {GRADIENT}, "loss.backward()"),
    "hook": Impure(registers_a_hook, {HOOK}, "weight.register_hook"),
    "hook of a module": Impure(registers_a_hook_of_a_module, {HOOK}, "module.register_forward_hook"),
    "lazy module": Impure(with_lazy_module, {STATE, HIDDEN}, "module(x).sum()"),
    "process": on_x(starts_a_process, FILE, "subprocess.run"),
    "torch.empty": on_x(reads_unfilled_memory, UNFILLED, "torch.empty(2)"),
    "new_empty": on_x(fills_in_part, UNFILLED, "x.new_empty((4, 2))"),
    "resize_": on_x(grows_without_filling, UNFILLED, "room.resize_(3)"),
    "torch.empty under vmap": on_x(under_vmap, UNFILLED, "torch.empty(2)"),
}
