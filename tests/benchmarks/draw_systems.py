"""Who draws: numbers of one distribution, written the way each library wants it written.

A system takes a module, of which it needs nothing, and returns a function that draws as many numbers as the first
tensor of a batch has, and returns how many they are. Each library draws others, so what is compared is that count,
and at the first call mean and deviation with the law.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import functional_train as ft
from tests.benchmarks.processes import BenchmarkError
from tests.benchmarks.systems import Advance
from tests.benchmarks.workloads import Batch

HALF, HIGH = 0.5, 10
# Six standard errors: right numbers are refused once in a hundred million times.
_ERRORS = 6.0


class Draw(NamedTuple):
    """A distribution: how torch and how functional_train draws from it, and its law."""

    ours: Callable[[Tensor, Any], Tensor]  # (key, size or numbers)
    torchs: Callable[[Any], Tensor]  # (size or numbers,)
    law: Callable[[int], tuple[float, float]]  # how many -> mean and standard deviation
    takes_numbers: bool = False  # the batch's own, which are standard normal; else their size


def _law_of_integers(num: int) -> tuple[float, float]:
    return (num - 1) / 2, ((num * num - 1) / 12) ** 0.5


DRAWS = {
    "normal": Draw(ft.random.normal, torch.randn, lambda num: (0.0, 1.0)),
    "uniform": Draw(ft.random.uniform, torch.rand, lambda num: (0.5, 12**-0.5)),
    "bernoulli": Draw(
        partial(ft.random.bernoulli, p=HALF),
        lambda size: torch.empty(size, dtype=torch.bool).bernoulli_(HALF),
        lambda num: (0.5, 0.5),
    ),
    "randint": Draw(
        partial(ft.random.randint, high=HIGH), partial(torch.randint, HIGH), lambda num: _law_of_integers(HIGH)
    ),
    "truncated_normal": Draw(
        ft.random.truncated_normal,
        lambda size: nn.init.trunc_normal_(torch.empty(size)),
        lambda num: (0.0, 0.8796),
    ),
    "permutation": Draw(
        lambda key, size: ft.random.permutation(key, size.numel()),
        lambda size: torch.randperm(size.numel()),
        _law_of_integers,
    ),
    "dropout": Draw(
        partial(ft.random.dropout, p=HALF), partial(F.dropout, p=HALF), lambda num: (0.0, 2**0.5), takes_numbers=True
    ),
    "noise": Draw(
        lambda key, x: x + ft.random.normal(key, x.shape),
        lambda x: x + torch.randn(x.shape),
        lambda num: (0.0, 2**0.5),
        takes_numbers=True,
    ),
}


def _advancing(name: str, make: Callable[[Draw, Tensor], Callable[[Tensor], Any]]) -> Advance:
    draw = DRAWS[name]
    call: Callable[[Tensor], Any] | None = None
    count = torch.zeros(())

    def advance(batch: Batch) -> Tensor:
        nonlocal call, count
        if call is None:
            call = make(draw, batch[0])
            drawn = torch.as_tensor(call(batch[0]))
            check_law(name, drawn)
            count = torch.tensor(float(drawn.numel()))
        call(batch[0])
        return count

    return advance


def check_law(name: str, drawn: Tensor) -> None:
    """Refuse numbers whose mean or standard deviation is not that of the law."""
    num, numbers = drawn.numel(), drawn.double()
    mean, std = DRAWS[name].law(num)
    found = numbers.mean().item(), numbers.std(correction=0).item()
    # Written so that nan is refused.
    if not max(abs(found[0] - mean), abs(found[1] - std)) <= _ERRORS * std / num**0.5:
        raise BenchmarkError(
            f"{name}: mean and deviation of {num} draws are {found[0]:.4f} and {found[1]:.4f}, and those of the law "
            f"{mean:.4f} and {std:.4f}."
        )


def in_torch(module: nn.Module, name: str) -> Advance:
    """torch's global generator."""
    del module

    def make(draw: Draw, x: Tensor) -> Callable[[Tensor], Tensor]:
        size = x.shape
        return draw.torchs if draw.takes_numbers else lambda x: draw.torchs(size)

    return _advancing(name, make)


def ours(module: nn.Module, name: str, wrap: Callable[..., Any]) -> Advance:
    """functional_train, from a key."""
    del module

    def make(draw: Draw, x: Tensor) -> Callable[[Tensor], Tensor]:
        key, size = ft.random.key(0), x.shape
        if draw.takes_numbers:
            on_numbers = wrap(draw.ours)
            return lambda x: on_numbers(key, x)
        of_size = wrap(lambda key: draw.ours(key, size))
        return lambda x: of_size(key)

    return _advancing(name, make)


def in_jax(module: nn.Module, name: str) -> Advance:
    """JAX, jitted, from a key."""
    del module
    # XLA has no setting for the number of its threads: it takes as many as there are cores that it may use.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-torch.get_num_threads() :])
    import jax
    import jax.numpy as jnp

    def dropout(key: Any, x: Any) -> Any:
        return jnp.where(jax.random.bernoulli(key, 1 - HALF, x.shape), x / (1 - HALF), 0.0)

    draws: dict[str, Callable[[Any, Any], Any]] = {
        "normal": jax.random.normal,
        "uniform": jax.random.uniform,
        "bernoulli": lambda key, size: jax.random.bernoulli(key, HALF, size),
        "randint": lambda key, size: jax.random.randint(key, size, 0, HIGH),
        "truncated_normal": lambda key, size: jax.random.truncated_normal(key, -2.0, 2.0, size),
        "permutation": lambda key, size: jax.random.permutation(key, torch.Size(size).numel()),
        "dropout": dropout,
        "noise": lambda key, x: x + jax.random.normal(key, x.shape),
    }

    def make(draw: Draw, x: Tensor) -> Callable[[Tensor], Any]:
        key, size = jax.random.key(0), tuple(x.shape)
        if not draw.takes_numbers:
            of_size = jax.jit(lambda key: draws[name](key, size))
            return lambda x: _received(of_size(key))
        on_numbers = jax.jit(draws[name])
        converted: dict[int, Any] = {}

        def call(x: Tensor) -> Any:
            if id(x) not in converted:
                converted[id(x)] = jnp.asarray(x.numpy())
            return _received(on_numbers(key, converted[id(x)]))

        return call

    return _advancing(name, make)


def _received(numbers: Any) -> Any:
    return numbers.block_until_ready()


def _as_it_is(fn: Callable[..., Any]) -> Callable[..., Any]:
    return fn


# A worker finds its system by name.
SYSTEMS: dict[str, Callable[..., Advance]] = {
    "torch": in_torch,
    "plain": partial(ours, wrap=_as_it_is),
    "compiled": partial(ours, wrap=ft.compile),
    "jax": in_jax,
}
globals().update({f"{how}_{name}": partial(system, name=name) for how, system in SYSTEMS.items() for name in DRAWS})
