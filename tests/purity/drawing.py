"""Functions that draw from what nobody passed to them, or ask for the time."""

import os
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import functional_train as ft
from tests.purity.impure import (
    DIFFERS,
    RANDOM,
    Impure,
    on_x,
    x,
)


def draws_normal(x: Tensor) -> Tensor:
    return x + torch.randn(2)


def drops_out(x: Tensor) -> Tensor:
    return F.dropout(x)


def attends_with_dropout(x: Tensor) -> Tensor:
    queries = x[None, None]
    return F.scaled_dot_product_attention(queries, queries, queries, dropout_p=0.5)


def with_generator() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(0)

    def draw(x: Tensor) -> Tensor:
        return x + torch.rand(2, generator=generator)

    return draw, (x(),)


def moves_a_given_generator() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def draw(x: Tensor, generator: torch.Generator) -> Tensor:
        return x + torch.rand(2, generator=generator)

    return draw, (x(), torch.Generator().manual_seed(0))


def draws_from_python(x: Tensor) -> Tensor:
    return x * random.random()


def draws_from_python_by_a_function(x: Tensor) -> Tensor:
    return x * random.choice([1.0, 2.0, 3.0])


def draws_from_numpy(x: Tensor) -> Tensor:
    return x * float(np.random.rand())  # noqa: NPY002  # it is the case


def seeds_torch(x: Tensor) -> Tensor:
    torch.manual_seed(12345)
    return x * 2.0


def asks_the_clock(x: Tensor) -> Tensor:
    now = time.perf_counter()
    return x.double() * now


def asks_the_system(x: Tensor) -> Tensor:
    return x * float(os.urandom(4)[0] + os.urandom(4)[1] / 256 + os.urandom(4)[2] / 65536)


def with_numpy_generator() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    generator = np.random.default_rng(0)

    def add(x: Tensor) -> Tensor:
        return x + generator.normal()

    return add, (x(),)


def with_python_generator() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    generator = random.Random(0)

    def add(x: Tensor) -> Tensor:
        return x + generator.random()

    return add, (x(),)


def draws_in_a_gradient(x: Tensor) -> Tensor:
    return torch.func.grad(lambda x: F.dropout(x).sum())(x)


def draws_in_a_step() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def loss_fn(params: Any, batch: Tensor) -> Tensor:
        return (params["weight"] * F.dropout(batch)).square().sum()

    optimizer = ft.adamw()
    step = ft.make_step(ft.grad_and_value(loss_fn), optimizer)
    return step, (ft.init_state({"weight": torch.ones(2)}, optimizer), x())


DRAWING: dict[str, Impure] = {
    "torch.randn": on_x(draws_normal, RANDOM, "torch.randn(2)"),
    "dropout": on_x(drops_out, RANDOM, "F.dropout(x)"),
    "attention": on_x(attends_with_dropout, RANDOM, "F.scaled_dot_product_attention"),
    "generator held": Impure(with_generator, {RANDOM}, "generator=generator"),
    "generator given": Impure(moves_a_given_generator, {RANDOM}, "generator=generator"),
    "python random": on_x(draws_from_python, RANDOM, "random.random()"),
    "python choice": on_x(draws_from_python_by_a_function, RANDOM, "random.choice"),
    "numpy random": on_x(draws_from_numpy, RANDOM, "np.random.rand()"),
    "torch.manual_seed": on_x(seeds_torch, RANDOM, "torch.manual_seed"),
    "clock": on_x(asks_the_clock, DIFFERS, "time.perf_counter()"),
    "os.urandom": on_x(asks_the_system, DIFFERS, "os.urandom(4)"),
    "generator of NumPy held": Impure(with_numpy_generator, {RANDOM}, "generator.normal()"),
    "generator of Python held": Impure(with_python_generator, {RANDOM}, "generator.random()"),
    "dropout under grad": on_x(draws_in_a_gradient, RANDOM, "F.dropout(x).sum()"),
    "dropout in a step": Impure(draws_in_a_step, {RANDOM}, "F.dropout(batch)"),
}
