"""Where Optax has the rule of torch.optim, or one that settings make equal, its figures are ours.

Its RAdam adds eps to the root of the corrected mean square, sqrt(v / (1 - b2^t)) + eps, where torch.optim adds it to
sqrt(v); its RMSprop takes eps under the root, unless told otherwise; and its Rprop hands out the update of the step
before, and none in the two steps after a sign change. There this library follows torch.optim.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import functional_train as ft
from tests.oracles.load import Problem, figures
from tests.oracles.problem import GRADIENTS, NUM_STEPS, STEPS, start
from tests.trees import assert_close


def adamaxw() -> ft.GradientTransformation:
    return ft.chain(ft.scale_by_adamax(), ft.add_decayed_weights(0.1), ft.scale_by_lr(0.05))


# So fast a rise of the momentum that it is beta_1 from the first step, as in Dozat's Algorithm 2.
CONSTANT: dict[str, Any] = {"momentum_decay": 1e6}
NADAMW: dict[str, Any] = {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1, "decoupled_weight_decay": True}

CASES: dict[str, Callable[[], ft.GradientTransformation]] = {
    "adadelta": lambda: ft.adadelta(1.0),
    "adadelta_options": lambda: ft.adadelta(0.5, rho=0.8, eps=1e-4, weight_decay=0.1),
    # An eps under the root of a sum is one more square in that sum.
    "adagrad": lambda: ft.adagrad(0.1, initial_accumulator_value=0.1 + 1e-7, eps=0.0),
    "adagrad_options": lambda: ft.adagrad(0.1, initial_accumulator_value=1e-4, eps=0.0),
    "adamax": lambda: ft.adamax(0.05),
    "adamax_options": lambda: ft.adamax(0.05, betas=(0.8, 0.9), eps=1e-4),
    "adamaxw": adamaxw,
    "nadam": lambda: ft.nadam(0.05, **CONSTANT),
    "nadamw": lambda: ft.nadam(0.05, **NADAMW, **CONSTANT),
    "rmsprop_plain_eps": lambda: ft.rmsprop(0.02, alpha=0.8, eps=1e-2),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("problem", ["given", "quadratic"])
def test_figures_are_optaxs(name: str, problem: Problem) -> None:
    """Fifty steps, on gradients given in advance and on a quadratic."""
    optimizer, params = CASES[name](), start()
    update_fn, state = ft.make_update(optimizer), optimizer.init(params)
    if name == "rmsprop_plain_eps":
        # `initial_scale=1.0`: Optax's mean square starts at 1.
        state = ft.tree.set(state, "square_avg", ft.tree.map(torch.ones_like, params))
    expected = figures("optax", name, problem)
    for step in range(1, NUM_STEPS + 1):
        params, state = update_fn(GRADIENTS[problem](step, params), state, params)
        if step in STEPS:
            assert_close(params, expected[step], 1e-10)
