"""Runs beside the figures of other libraries."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

import functional_train as ft
from tests.oracles.load import Point, Problem, figures
from tests.oracles.problem import GRADIENTS, NUM_STEPS, STEPS, start

Gradient = Callable[[int, dict[str, Tensor]], dict[str, Tensor]]


def distance(
    optimizer: ft.GradientTransformation,
    library: str,
    case: str,
    problem: Problem,
    *,
    point: Point = "params",
    read: Callable[[Any, Any], Any] = lambda params, state: params,
    gradient: Gradient | None = None,
    without: Collection[str] = (),
) -> float:
    """How far apart two runs ever are, where figures are kept; nan where only one of them is nan.

    `read` makes what is compared of parameters and state, and `without` names leaves that are not.
    """
    expected = figures(library, case, problem, point)
    params: dict[str, Tensor] = start(expected[1])
    state, update_fn = optimizer.init(params), ft.make_update(optimizer)
    gradient = GRADIENTS[problem] if gradient is None else gradient
    apart = [torch.zeros((), dtype=torch.float64)]
    for step in range(1, NUM_STEPS + 1):
        params, state = update_fn(gradient(step, params), state, params)
        if step in STEPS:
            ours, theirs = read(params, state), expected[step]
            for leaf in set(params).difference(without):
                agree = ours[leaf].isnan() & theirs[leaf].isnan()
                apart.append(torch.where(agree, 0.0, (ours[leaf] - theirs[leaf]).abs()).max())
    return torch.stack(apart).max().item()
