"""Modern optimizers lead where other libraries lead: 50 updates on two problems, in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import functional_train as ft
from tests.oracles.load import Problem, figures, names
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
    ("optax", "adabelief"): lambda: ft.adabelief(0.05),
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
    # Optax divides by the length of g + wd p, where the paper has |g| + wd |p|.
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


def laprop_of_the_library(
    grads: Any, state: Any, lr: float, betas: tuple[float, float], eps: float, decay: float, *, theirs: bool
) -> Any:
    """LaProp by the paper's Algorithm 1, or as pytorch_optimizer has it: 1e-15 joins v, and eps is debiased with it."""
    params, t, m, v = state
    t, v = t + 1, {leaf: betas[1] * v[leaf] + (1 - betas[1]) * g**2 for leaf, g in grads.items()}
    correction1, correction2 = (1 - beta**t for beta in betas)
    inside, outside = (1e-15, eps / correction2**0.5) if theirs else (0.0, eps)
    scaled = {leaf: g / (((v[leaf] + inside) / correction2).sqrt() + outside) for leaf, g in grads.items()}
    m = {leaf: betas[0] * m[leaf] + (1 - betas[0]) * scaled[leaf] for leaf in grads}
    # Theirs decays what the step has made, ours what it has begun with.
    moved = {leaf: -lr * m[leaf] / correction1 for leaf in grads}
    keep = 1 - lr * decay
    params = {leaf: keep * (p + moved[leaf]) if theirs else keep * p + moved[leaf] for leaf, p in params.items()}
    return params, t, m, v


@pytest.mark.parametrize("problem", ["given", "quadratic"])
@pytest.mark.parametrize(
    ("case", "numbers"),
    [("laprop", (0.05, (0.9, 0.999), 1e-15, 0.0)), ("laprop_options", (0.05, (0.8, 0.95), 1e-4, 0.1))],
)
def test_laprop_is_the_library_s_but_for_where_it_adds_eps(case: str, numbers: Any, problem: Problem) -> None:
    """One literal rule gives the library's figures with its three departures from the paper, and ours without."""
    lr, betas, eps, decay = numbers
    optimizer = ft.laprop(lr, betas, eps, decay)
    zeros = {leaf: torch.zeros_like(p) for leaf, p in start().items()}
    theirs, paper = (start(), 0, zeros, zeros), (start(), 0, zeros, zeros)
    params, state, update_fn = start(), optimizer.init(start()), ft.make_update(optimizer)
    expected = figures("pytorch_optimizer", case, problem)
    for step in range(1, NUM_STEPS + 1):
        theirs = laprop_of_the_library(GRADIENTS[problem](step, theirs[0]), theirs, *numbers, theirs=True)
        paper = laprop_of_the_library(GRADIENTS[problem](step, paper[0]), paper, *numbers, theirs=False)
        params, state = update_fn(GRADIENTS[problem](step, params), state, params)
        for leaf in params if step in STEPS else ():
            assert (theirs[0][leaf] - expected[step][leaf]).abs().max() <= 1e-10
            assert (paper[0][leaf] - params[leaf]).abs().max() <= 1e-10


# Cases of the methods here that nothing above is compared with, and why.
LEFT_OUT = {
    ("optax", "adabelief_options"): "eps inside s and beside the root differ, where Algorithm 2 has one eps",
    ("optax", "adabelief_nesterov"): "Algorithm 2 has no look ahead",
    ("pytorch_optimizer", "adabelief_rectified"): "Algorithm 2 has no rectification",
    # With decays b = 1 - beta, Algorithm 1's 1 - beta_2 is b2, as in the authors' code.
    ("optax", "adan"): "changes are weighted by 1 - b2 with decays b, and 1e-8 is added inside the root",
    ("optax", "adan_options"): "changes are weighted by 1 - b2 with decays b, and decay is AdamW's",
    ("optax", "adopt_unclipped"): "Algorithm 2 clips",
    ("optax", "adopt_nesterov"): "Algorithm 2 has no look ahead",
    ("pytorch_optimizer", "adopt"): "its bound counts this update too, where Algorithm 2 counts those before",
    ("pytorch_optimizer", "adopt_options"): "as adopt",
    ("pytorch_optimizer", "adopt_unclipped"): "Algorithm 2 clips",
    ("pytorch_optimizer", "adopt_cautious"): "as adopt",
    ("optax", "ademamix_options"): "1e-6 is added inside the root, where Algorithm 1 adds eps outside only",
    ("pytorch_optimizer", "ademamix_cautious"): "its mask acts on one of two means, that of the paper on the update",
    ("pytorch_optimizer", "simplified_ademamix"): "its sum has a factor 1 - b1, and its v is not debiased",
    ("pytorch_optimizer", "simplified_ademamix_options"): "as simplified_ademamix",
    ("pytorch_optimizer", "lamb"): "v is not debiased, |p| is clamped and decay is outside, unlike Algorithm 2",
    ("pytorch_optimizer", "lamb_options"): "as lamb, and gradients are normalized",
    ("pytorch_optimizer", "lars"): "leaves below two dimensions are left to SGD; here all are treated alike",
    ("pytorch_optimizer", "lars_options"): "as lars",
    ("optax", "scale_by_trust_ratio_options"): "norms have a lower limit, which neither paper has",
    ("pytorch_optimizer", "lion_centralized"): "gradients are centralized before",
    ("pytorch_optimizer", "laprop_centered"): "Algorithm 1 is not centered",
    ("pytorch_optimizer", "laprop_cautious"): "1e-15 joins v; the mask is compared in lion_cautious",
    ("pytorch_optimizer", "mars"): "leaves below two dimensions are left to AdamW; here all are treated alike",
    ("pytorch_optimizer", "mars_cautious"): "the mask acts before the division by the root of v, and 1e-15 joins v",
    ("pytorch_optimizer", "mars_shampoo"): "matrices are orthogonalized, which is another method",
    ("pytorch_optimizer", "grokfast_ma_cold"): "means of windows that are not full are no means of the window",
    ("pytorch_optimizer", "grokfast_adamw"): "the rate is divided by 1 + lamb, and the root has a lower limit",
    ("pytorch_optimizer", "grokfast_adamw_options"): "as grokfast_adamw, from a later update on",
}
FAMILIES = (
    "adan", "adabelief", "adopt", "ademamix", "simplified_ademamix", "stable_adamw", "mars", "lion", "lamb",
    "lars", "scale_by_trust_ratio", "laprop", "grokfast", "came", "sign", "signum", "tiger", "yogi", "novograd",
)  # fmt: skip


def test_every_figure_is_compared_or_left_out_for_a_reason() -> None:
    """No case of a family here is forgotten, and none is both compared and left out."""
    own = {
        (library, name)
        for library in ("optax", "pytorch_optimizer")
        for name in names(library)
        if any(name == family or name.startswith(f"{family}_") for family in FAMILIES)
    }
    elsewhere = {("optax", "yogi"), ("optax", "yogi_options")}
    elsewhere |= {("pytorch_optimizer", "laprop"), ("pytorch_optimizer", "laprop_options")}
    assert own == {*CASES, *LEFT_OUT} | elsewhere
    assert not {*CASES} & {*LEFT_OUT}
