"""Modern optimizers lead where other libraries lead: 50 updates on two problems, in float64."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

import functional_train as ft
from tests.oracles.load import Problem, figures
from tests.oracles.problem import GRADIENTS, NUM_STEPS, STEPS, start

# What equals which case of which library, as it stands.
CASES: dict[tuple[str, str], Callable[[], ft.GradientTransformation]] = {
    ("pytorch_optimizer", "adabelief"): lambda: ft.adabelief(0.05),
    ("pytorch_optimizer", "adabelief_options"): lambda: ft.adabelief(0.05, (0.8, 0.95), 1e-6, 0.1),
    ("pytorch_optimizer", "adan"): lambda: ft.adan(0.05),
    ("pytorch_optimizer", "adan_options"): lambda: ft.chain(
        ft.clip_by_global_norm(2.0), ft.adan(0.05, (0.9, 0.8, 0.95), 1e-6, 0.1)
    ),
    ("pytorch_optimizer", "adan_decoupled"): lambda: ft.chain(
        ft.scale_by_adan(), ft.add_decayed_weights(0.1), ft.scale_by_lr(0.05)
    ),
    ("optax", "adopt"): lambda: ft.adopt(0.05),
    ("optax", "adopt_options"): lambda: ft.adopt(0.05, (0.8, 0.95), 0.1),
    ("optax", "lion"): lambda: ft.lion(0.01, weight_decay=1e-3),
    ("optax", "lion_options"): lambda: ft.lion(0.01, (0.8, 0.95), 0.1),
    ("pytorch_optimizer", "lion"): lambda: ft.lion(0.01),
    ("pytorch_optimizer", "lion_options"): lambda: ft.lion(0.01, (0.8, 0.95), 0.1),
}


def distance(
    optimizer: ft.GradientTransformation,
    library: str,
    case: str,
    problem: Problem,
    prepare: Callable[[Any], Any] = lambda state: state,
) -> float:
    """How far apart the two runs ever are, where figures are kept."""
    expected = figures(library, case, problem)
    params: dict[str, Tensor] = start(expected[1])
    state, update_fn = prepare(optimizer.init(params)), ft.make_update(optimizer)
    apart = 0.0
    for step in range(1, NUM_STEPS + 1):
        params, state = update_fn(GRADIENTS[problem](step, params), state, params)
        if step in STEPS:
            apart = max([apart, *[(params[leaf] - expected[step][leaf]).abs().max().item() for leaf in params]])
    return apart


@pytest.mark.parametrize("problem", ["given", "quadratic"])
@pytest.mark.parametrize(("library", "case"), CASES)
def test_leads_where_the_other_leads(library: str, case: str, problem: Problem) -> None:
    """Parameters of order 1 stay together to 1e-10, which leaves room for rounding that feeds back."""
    assert distance(CASES[library, case](), library, case, problem) <= 1e-10
