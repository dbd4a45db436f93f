"""Modern optimizers lead where other libraries lead: 50 updates on two problems, in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import functional_train as ft
from tests.oracles.load import Problem, figures
from tests.oracles.problem import GRADIENTS, NUM_STEPS, STEPS, start


def slow_decay(start: float, end: float, steps: int) -> ft.Schedule:
    """Equation 3 of AdEMAMix's paper: the half-life of the slow mean grows in even steps, here from update 1 on."""

    def at(step: Tensor) -> Tensor:
        share = (step.double() + 1) / steps
        low, high = math.log(start), math.log(end)
        return torch.exp(low * high / ((1 - share) * high + share * low)).clamp(max=end)

    return at


def scale_by_shifted_adam(betas: tuple[float, float], eps: float) -> ft.GradientTransformation:
    """Adam as pytorch_optimizer's MARS has it: 1e-15 is added to v, and eps before v is corrected.

    The paper's equation is Adam's, m_hat / (sqrt(v_hat) + eps), and so is ours.
    """

    def update(grads: Any, state: Any, params: Any, **extra: Any) -> tuple[Any, Any]:
        t, m, v = state
        t, m = t + 1, ft.tree.lerp(m, grads, 1 - betas[0])
        v = ft.tree.addcmul(v, grads, grads, 1 - betas[1], decay=betas[1])
        correction1, correction2 = (1 - beta**t for beta in betas)
        factor = correction1 / correction2**0.5
        return ft.tree.div_sqrt(m, v, inside=1e-15, factor=factor, outside=factor * eps), (t, m, v)

    zeros = ft.tree.zeros_like
    return ft.GradientTransformation(lambda params: (0, zeros(params), zeros(params)), update)


def cautiously(direction: ft.GradientTransformation, lr: float, weight_decay: float = 0.0) -> ft.GradientTransformation:
    return ft.chain(ft.cautious(direction, direction=True), ft.add_decayed_weights(weight_decay), ft.scale_by_lr(lr))


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
    ("optax", "lamb"): lambda: ft.lamb(0.05),
    ("optax", "lamb_options"): lambda: ft.lamb(0.05, (0.8, 0.95), 1e-4, 0.1),
    ("optax", "lars"): lambda: ft.lars(10.0),
    # Optax divides by the length of g + wd p, where the paper's equation 6 has |g| + wd |p|.
    ("optax", "lars_options"): lambda: ft.chain(
        ft.add_decayed_weights(0.1),
        ft.scale_by_trust_ratio(0.02, 1e-3),
        ft.scale_by_lr(1.0),
        ft.add_momentum(0.8, nesterov=True),
    ),
    ("optax", "scale_by_trust_ratio"): lambda: ft.chain(ft.scale_by_trust_ratio(), ft.scale_by_lr(0.1)),
    ("optax", "ademamix"): lambda: ft.ademamix(0.05),
    ("pytorch_optimizer", "ademamix"): lambda: ft.ademamix(0.05),
    ("pytorch_optimizer", "ademamix_warmup"): lambda: ft.ademamix(
        0.02,
        (0.8, 0.95, slow_decay(0.8, 0.999, 30)),
        lambda step: 8.0 * ((step.double() + 1) / 30).clamp(max=1.0),
        1e-6,
        0.1,
    ),
    ("optax", "simplified_ademamix"): lambda: ft.simplified_ademamix(0.002),
    ("optax", "simplified_ademamix_options"): lambda: ft.simplified_ademamix(0.002, (0.9, 0.99), 10.0, 1e-4, 0.1),
    ("pytorch_optimizer", "mars_options"): lambda: ft.chain(
        ft.reduce_variance(0.1, 0.9),
        scale_by_shifted_adam((0.9, 0.95), 1e-6),
        ft.add_decayed_weights(0.1),
        ft.scale_by_lr(0.05),
    ),
    ("pytorch_optimizer", "stable_adamw"): lambda: ft.stable_adamw(0.05, eps=1e-8),
    ("pytorch_optimizer", "stable_adamw_options"): lambda: ft.stable_adamw(0.05, (0.8, 0.95), 1e-4, 0.1),
    ("pytorch_optimizer", "lion_cautious"): lambda: cautiously(ft.scale_by_lion(), 0.01, 0.1),
    ("pytorch_optimizer", "grokfast_ema"): lambda: ft.chain(ft.grokfast_ema(0.9, 2.0), ft.sgd(0.05)),
    ("pytorch_optimizer", "grokfast_ma"): lambda: ft.chain(ft.grokfast_ma(5, 2.0), ft.sgd(0.05)),
    ("pytorch_optimizer", "came"): lambda: ft.came(0.05),
    ("pytorch_optimizer", "came_options"): lambda: ft.came(
        0.05, (0.8, 0.9, 0.95), (1e-30, 1e-3), 0.1, clip_threshold=0.5
    ),
    ("optax", "sign_sgd"): lambda: ft.sign_sgd(0.01),
    ("optax", "signum"): lambda: ft.signum(0.01),
    ("optax", "signum_options"): lambda: ft.signum(0.01, 0.5),
    ("pytorch_optimizer", "tiger"): lambda: ft.tiger(0.01),
    ("pytorch_optimizer", "tiger_options"): lambda: ft.tiger(0.01, 0.8, 0.1),
    ("optax", "novograd"): lambda: ft.novograd(0.02, (0.9, 0.25), 1e-6),
    ("optax", "novograd_options"): lambda: ft.novograd(0.02, (0.8, 0.5), 1e-3, 0.1),
    ("pytorch_optimizer", "mars_lion"): lambda: ft.chain(
        ft.reduce_variance(), ft.scale_by_signum(0.95), ft.scale_by_lr(0.01)
    ),
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


@pytest.mark.parametrize("problem", ["given", "quadratic"])
@pytest.mark.parametrize(
    ("case", "optimizer"),
    [("yogi", ft.yogi(0.05)), ("yogi_options", ft.yogi(0.05, (0.8, 0.95), 1e-2))],
    ids=["yogi", "options"],
)
def test_yogi_is_optax_s_once_the_mean_starts_there(
    case: str, optimizer: ft.GradientTransformation, problem: Problem
) -> None:
    """Optax starts both moments at 1e-6; the paper's m_0 is 0, and so is ours."""

    def begin_as_optax_does(states: Any) -> Any:
        moments, *others = states
        return (moments._replace(exp_avg=moments.exp_avg_sq), *others)

    assert distance(optimizer, "optax", case, problem, begin_as_optax_does) <= 1e-10
