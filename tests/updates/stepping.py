"""Runs of an optimizer on the problems of the oracles, and a mode in which the host may not look."""

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

import functional_train as ft
from tests.oracles import problem

Between = Callable[[int, Any], Any]
Extras = Callable[[int, Any], dict[str, Any]]


def trained(
    optimizer: ft.GradientTransformation,
    name: str,
    leaves: Sequence[str] = problem.LEAVES,
    *,
    after: Between | None = None,
    extras: Extras | None = None,
) -> dict[int, Any]:
    """Parameters at the steps that have figures.

    `after` does what a library does to parameters when a step is done, and `extras` gives what an update is passed.
    """
    params = problem.start(leaves)
    state, update_fn, reached = optimizer.init(params), ft.make_update(optimizer), {}
    for step in range(1, problem.NUM_STEPS + 1):
        extra = {} if extras is None else extras(step, params)
        params, state = update_fn(problem.GRADIENTS[name](step, params), state, params, **extra)
        params = params if after is None else after(step, params)
        reached[step] = params
    return {step: reached[step] for step in problem.STEPS}


class Watching(TorchDispatchMode):
    """Passes every operation on; while it is active the host does not look at values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        return func(*args, **(kwargs or {}))
