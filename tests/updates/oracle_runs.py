"""Runs of an optimizer on the problems of the oracles, and how far they end from the figures of other libraries."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor

import functional_train as ft
from tests.oracles.load import Point, Problem, figures
from tests.oracles.problem import GRADIENTS, LEAVES, NUM_STEPS, STEPS, start

Gradient = Callable[[int, dict[str, Tensor]], dict[str, Tensor]]
Between = Callable[[int, Any], Any]
Extras = Callable[[int, Any], dict[str, Any]]
Read = Callable[[Any, Any], Any]


def run_on(
    optimizer: ft.GradientTransformation,
    problem: Problem,
    leaves: Iterable[str] = LEAVES,
    *,
    after: Between | None = None,
    extras: Extras | None = None,
    read: Read = lambda params, state: params,
    gradient: Gradient | None = None,
) -> dict[int, Any]:
    """What `read` makes of parameters and state at the steps that have figures.

    `after` does what a library does to parameters when a step is done, and `extras` gives what an update is passed.
    """
    params: dict[str, Tensor] = start(leaves)
    state, update_fn, reached = optimizer.init(params), ft.make_update(optimizer), {}
    gradient = GRADIENTS[problem] if gradient is None else gradient
    for step in range(1, NUM_STEPS + 1):
        extra = {} if extras is None else extras(step, params)
        params, state = update_fn(gradient(step, params), state, params, **extra)
        params = params if after is None else after(step, params)
        if step in STEPS:
            reached[step] = read(params, state)
    return reached


def distance(
    optimizer: ft.GradientTransformation,
    library: str,
    case: str,
    problem: Problem,
    *,
    point: Point = "params",
    read: Read = lambda params, state: params,
    gradient: Gradient | None = None,
    without: Collection[str] = (),
) -> float:
    """How far apart two runs ever are, where figures are kept; nan where only one of them is nan.

    `read` makes what is compared of parameters and state, and `without` names leaves that are not.
    """
    expected = figures(library, case, problem, point)
    apart = [torch.zeros((), dtype=torch.float64)]
    for step, ours in run_on(optimizer, problem, expected[1], read=read, gradient=gradient).items():
        theirs = expected[step]
        for leaf in set(theirs).difference(without):
            agree = ours[leaf].isnan() & theirs[leaf].isnan()
            apart.append(torch.where(agree, 0.0, (ours[leaf] - theirs[leaf]).abs()).max())
    return torch.stack(apart).max().item()
