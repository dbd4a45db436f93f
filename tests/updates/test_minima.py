"""Optimizers reach minima that are known."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import functional_train as ft
from tests.trees import normal

# The step sizes that were best of a few powers of ten and their thirds: in a bent valley, and in a round one.
VALLEY: dict[str, ft.GradientTransformation] = {
    "adadelta": ft.adadelta(ft.schedules.cosine(3.0, 1000)),
    "adagrad": ft.adagrad(1.0),
    "adamax": ft.adamax(0.1),
    "asgd": ft.asgd(1e-3),
    "nadam": ft.nadam(0.03),
    "radam": ft.radam(5e-3),
    "rmsprop": ft.rmsprop(ft.schedules.cosine(0.02, 1000)),
    "rprop": ft.rprop(0.1),
}
BOWL: dict[str, ft.GradientTransformation] = {
    "adadelta": ft.adadelta(10.0),
    "adagrad": ft.adagrad(1.0),
    "adamax": ft.adamax(0.1),
    "asgd": ft.asgd(0.1),
    "nadam": ft.nadam(0.03),
    "radam": ft.radam(0.1),
    "rmsprop": ft.rmsprop(0.02),
    "rprop": ft.rprop(0.1),
}
NAMES = sorted(BOWL)


def reached(optimizer: ft.GradientTransformation, loss_fn: Callable[[Any], Tensor], params: Any, steps: int) -> Any:
    """Parameters and optimizer state after some steps down."""
    grad_fn, update_fn, state = ft.grad(loss_fn), ft.make_update(optimizer), optimizer.init(params)
    for _ in range(steps):
        params, state = update_fn(grad_fn(params), state, params)
    return params, state


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_bent_valley_is_descended(name: str) -> None:
    """Rosenbrock's function, whose minimum is 0 at (1, 1): from 24.2 at the usual start to less than a fortieth."""

    def rosenbrock(params: Any) -> Tensor:
        x, y = params["x"], params["y"]
        return (1 - x).square() + 100 * (y - x.square()).square()

    start = {"x": torch.tensor(-1.2, dtype=torch.float64), "y": torch.tensor(1.0, dtype=torch.float64)}
    params, _ = reached(VALLEY[name], rosenbrock, start, 1000)
    assert rosenbrock(params) < rosenbrock(start) / 40


@pytest.mark.parametrize("name", NAMES)
def test_the_minimum_of_a_quadratic_is_found(name: str) -> None:
    """Condition number 10, a minimum of size 1, found to three digits."""
    curvature, target = torch.linspace(1, 10, 8, dtype=torch.float64), normal(0, (8,))
    start = torch.zeros(8, dtype=torch.float64)
    params, _ = reached(BOWL[name], lambda p: (curvature * (p - target).square()).sum() / 2, start, 300)
    torch.testing.assert_close(params, target, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_is_trained(name: str) -> None:
    """Two clouds of points are told apart by a layer of weights."""
    labels = torch.arange(64) % 2
    points = normal(1, (64, 2)) + 4 * labels[:, None] - 2

    def scores(params: Any) -> Tensor:
        return points @ params["weight"] + params["bias"]

    def loss_fn(params: Any) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(scores(params), labels.double())

    start = {"weight": torch.zeros(2, dtype=torch.float64), "bias": torch.zeros((), dtype=torch.float64)}
    params, _ = reached(BOWL[name], loss_fn, start, 100)
    assert ((scores(params) > 0) == (labels == 1)).double().mean() > 0.97


def test_the_average_of_asgd_is_nearer_than_its_last_step() -> None:
    """Where gradients are noisy, the average that the state holds is nearer to the minimum."""
    optimizer = ft.asgd(0.5, lambd=0.01, t0=100.0)
    params = torch.full((50,), 3.0, dtype=torch.float64)
    state, update_fn = optimizer.init(params), ft.make_update(optimizer)
    assert torch.equal(ft.tree.get(state, "ax"), params)
    for step in range(500):
        params, state = update_fn(params + normal(step, (50,)), state, params)
        if step < 100:
            assert torch.equal(ft.tree.get(state, "ax"), params)
    assert ft.tree.get(state, "ax").norm() < params.norm() / 3
