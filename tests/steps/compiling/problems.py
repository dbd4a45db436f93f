"""A small problem, and what several tests do with it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import functional_train as ft
from tests.trees import normal


def distance(params: Any, target: Any, key: Tensor | None = None) -> Tensor:
    """Half the squared distance to a target, moved by noise when there is a key."""
    shift = 0.0 if key is None else ft.random.normal(key, dtype=torch.float64)
    pairs = zip(ft.tree.leaves(params), ft.tree.leaves(target), strict=True)
    return torch.stack([(leaf - goal - shift).square().sum() for leaf, goal in pairs]).sum() / 2


PARAMS = ft.Params({"w": normal(0, (3, 2)), "b": normal(1, (2,)), "c": normal(2, ())})
TARGET = ft.Params({"w": normal(3, (3, 2)), "b": normal(4, (2,)), "c": normal(5, ())})


def adamw_step() -> tuple[ft.StepFn, ft.GradientTransformation]:
    """A step with clipping, and its optimizer."""
    optimizer = ft.chain(ft.clip_by_global_norm(1.0), ft.adamw(0.1))
    return ft.make_step(ft.grad_and_value(distance), optimizer), optimizer


def fresh(optimizer: ft.GradientTransformation, key: Tensor | None = None) -> ft.TrainState:
    """A state that nobody else has any part of."""
    return ft.init_state(ft.tree.copy(PARAMS), optimizer, key=None if key is None else key.clone())


def trajectory(step: Callable[..., Any], state: Any, steps: int = 3) -> list[Any]:
    """Copies of the states and metrics of some steps."""
    made: list[Any] = []
    for _ in range(steps):
        state, metrics = step(state, TARGET)
        made.append(ft.tree.copy((state, metrics)))
    return made
