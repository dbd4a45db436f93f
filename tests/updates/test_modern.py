"""Modern optimizers reach minima, refuse what is out of range, and keep what their papers promise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train import testing
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, normal, seeds

Factory = Callable[..., ft.GradientTransformation]

# A rate at which the method gets far in few hundred updates; those that step by signs need one that falls.
RATES: dict[str, float] = {
    "adabelief": 0.1,
    "adan": 0.1,
    "ademamix": 0.05,
    "adopt": 0.1,
    "came": 0.1,
    "lamb": 0.1,
    "laprop": 0.1,
    "lars": 30.0,
    "lion": 0.1,
    "mars": 0.1,
    "novograd": 0.05,
    "sign_sgd": 0.1,
    "signum": 0.1,
    "simplified_ademamix": 0.02,
    "stable_adamw": 0.1,
    "tiger": 0.1,
    "yogi": 0.1,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "simplified_ademamix": {"betas": (0.9, 0.99)},
    "stable_adamw": {"weight_decay": 0.0},
    "tiger": {"weight_decay": 0.0},
}
each_optimizer = pytest.mark.parametrize("name", RATES)


def made(name: str, lr: Any) -> ft.GradientTransformation:
    return getattr(ft, name)(lr, **OPTIONS.get(name, {}))


def descend(
    optimizer: ft.GradientTransformation, loss_fn: Callable[[Any], Tensor], params: Any, num_steps: int
) -> tuple[Any, float]:
    state, update_fn, grad_fn = optimizer.init(params), ft.make_update(optimizer), ft.grad(loss_fn)
    for _ in range(num_steps):
        params, state = update_fn(grad_fn(params), state, params)
    return params, loss_fn(params).item()


@each_optimizer
def test_finds_the_minimum_of_a_quadratic(name: str) -> None:
    """A quadratic of condition 20 falls to a thousandth of where it began, with a rate that falls to zero."""
    target = {"w": normal(1, (4, 3)) + 2, "b": normal(2, (3,)) + 2}
    curvature = {"w": torch.linspace(0.1, 2, 12, dtype=torch.float64).reshape(4, 3), "b": torch.tensor([0.1, 1.0, 2.0])}

    def loss_fn(params: Any) -> Tensor:
        rows = ft.tree.map(lambda p, t, c: (c * (p - t) ** 2).sum() / 2, params, target, curvature)
        return rows["w"] + rows["b"]

    start = {"w": normal(3, (4, 3)), "b": normal(4, (3,))}
    _, reached = descend(made(name, ft.schedules.cosine(RATES[name], 400)), loss_fn, start, 400)
    assert reached <= 1e-3 * loss_fn(start).item()


@each_optimizer
def test_walks_along_rosenbrocks_valley(name: str) -> None:
    """From (-1.2, 1), where Rosenbrock's function is 24.2, it comes below 3.7, and so around the bend of the valley."""

    def loss_fn(p: Any) -> Tensor:
        x, y = p["xy"].unbind()
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    start = {"xy": torch.tensor([-1.2, 1.0], dtype=torch.float64)}
    rate = {"lars": 1.0, "simplified_ademamix": 0.01, "sign_sgd": 0.005, "adopt": 0.2}.get(name, 0.05)
    assert loss_fn(start).item() == pytest.approx(24.2)
    _, reached = descend(made(name, ft.schedules.cosine(rate, 500)), loss_fn, start, 500)
    assert reached < 3.7


@each_optimizer
def test_learns_to_classify(name: str) -> None:
    """Logistic regression on points beside a line tells them apart."""
    x = normal(7, (60, 2))
    x = x + 0.5 * torch.sign(x.sum(1, keepdim=True))
    y = (x.sum(1) > 0).double()

    def loss_fn(params: Any) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(x @ params["w"] + params["b"], y)

    start = {"w": 0.1 * normal(8, (2,)), "b": torch.full((), 0.1, dtype=torch.float64)}
    reached, _ = descend(made(name, ft.schedules.cosine(RATES[name], 200)), loss_fn, start, 200)
    assert ((x @ reached["w"] + reached["b"] > 0) == (y > 0)).double().mean() >= 0.95


@each_optimizer
def test_maximize_is_to_minimize_the_negative(name: str) -> None:
    """Climbing along gradients is descending along their negatives, bit for bit."""
    params = {"w": normal(0, (3, 2)), "b": normal(1, (2,))}
    factory: Factory = getattr(ft, name)
    up, down = factory(maximize=True), factory()
    climbed, fallen = params, params
    states = up.init(params), down.init(params)
    for step in range(3):
        grads = like(step, params)
        climbed, up_state = ft.make_update(up)(grads, states[0], climbed)
        fallen, down_state = ft.make_update(down)(ft.tree.scale(-1, grads), states[1], fallen)
        states = up_state, down_state
    assert_bitwise(climbed, fallen)


@settings(max_examples=examples(20))
@given(testing.params_and_grads(dtype=torch.float64), seeds())
def test_the_way_straight_to_parameters_ends_where_the_chain_does(drawn: Any, seed: int) -> None:
    """Decay and rate in one pass, and one after another, differ by rounding only."""
    params, grads = drawn
    lr, decay = ft.schedules.linear(0.1, 0.05, 3), torch.tensor(0.2, dtype=torch.float64)
    whole = ft.lion(lr, weight_decay=decay)
    parts = ft.chain(ft.scale_by_lion(), ft.add_decayed_weights(decay), ft.scale_by_lr(lr))
    reached, state = ft.make_update(whole)(grads, whole.init(params), params)
    updates, expected_state = parts.update(grads, parts.init(params), params)
    assert_close(reached, ft.apply_updates(params, updates), 1e-15)
    assert_bitwise(state, expected_state)


OUT_OF_RANGE: list[tuple[Callable[[], Any], str]] = [
    (lambda: ft.lion(-1.0), r"lr must be a finite number >= 0, got -1\.0"),
    (lambda: ft.lion(betas=(0.9, 1.0)), r"betas\[1\] must be in \[0, 1\), got 1\.0"),
    (lambda: ft.lion(weight_decay=-1.0), "weight_decay must be"),
    (
        lambda: ft.adan(betas=(0.9, 0.9)),  # pyright: ignore[reportArgumentType]
        r"betas must be three numbers, got \(0.9, 0.9\)\. \(0.98, 0.92, 0.99\) is usual",
    ),
    (lambda: ft.adan(betas=(0.9, 0.9, 1.0)), r"betas\[2\] must be in \[0, 1\), got 1\.0.*0\.99 is usual"),
    (lambda: ft.adan(lr=-1.0, weight_decay=0.1), "lr must be"),
    (lambda: ft.adan(eps=-1.0), "eps must be"),
    (lambda: ft.adabelief(eps=-1.0), "eps must be.*1e-16 is usual"),
    (lambda: ft.adabelief(betas=(1.0, 0.9)), r"betas\[0\]"),
    (lambda: ft.adopt(eps=-1.0), "eps must be.*1e-6 is usual"),
    (lambda: ft.adopt(weight_decay=-1.0), "weight_decay must be"),
    (lambda: ft.lamb(eps=-1.0), "eps must be"),
    (lambda: ft.lars(trust_coefficient=-1.0), r"trust_coefficient must be.*0\.001 is usual"),
    (lambda: ft.lars(eps=-1.0), "eps must be"),
    (lambda: ft.lars(weight_decay=-1.0), "weight_decay must be"),
    (lambda: ft.lars(momentum=-1.0), "momentum must be"),
    (lambda: ft.scale_by_trust_ratio(-1.0), "trust_coefficient must be"),
    (lambda: ft.scale_by_trust_ratio(eps=-1.0), "eps must be"),
    (lambda: ft.ademamix(alpha=-1.0), r"alpha must be.*5\.0 is usual"),
    (lambda: ft.ademamix(eps=-1.0), "eps must be"),
    (lambda: ft.simplified_ademamix(alpha=-1.0), "alpha must be"),
    (lambda: ft.simplified_ademamix(betas=(0.9, 1.5)), r"betas\[1\]"),
    (lambda: ft.mars(betas=0.9), "betas must be a pair, got 0.9"),  # pyright: ignore[reportArgumentType]
    (lambda: ft.mars(gamma=-1.0), r"gamma must be.*0\.025 is usual"),
    (lambda: ft.reduce_variance(momentum=1.0), r"momentum must be in \[0, 1\).*0\.95 is usual"),
    (lambda: ft.stable_adamw(eps=-1.0), "eps must be.*1e-6 is usual"),
    (lambda: ft.stable_adamw(weight_decay=-1.0), "weight_decay must be"),
    (lambda: ft.came(eps=(1e-30, -1.0)), r"eps\[1\] must be"),
    (lambda: ft.came(eps=1e-30), "eps must be a pair, got 1e-30"),  # pyright: ignore[reportArgumentType]
    (lambda: ft.came(clip_threshold=-1.0), r"clip_threshold must be.*1\.0 is usual"),
    (lambda: ft.signum(momentum=1.0), r"momentum must be in \[0, 1\), got 1\.0.*0\.9 is usual"),
    (lambda: ft.tiger(momentum=1.0), "momentum must be"),
    (lambda: ft.yogi(eps=-1.0), "eps must be.*1e-3 is usual"),
    (lambda: ft.novograd(betas=(0.9, 1.0)), r"beta must be in \[0, 1\), got 1\.0.*0\.98 is usual"),
    (lambda: ft.novograd(betas=(0.9,)), "betas must be a pair"),  # pyright: ignore[reportArgumentType]
    (lambda: ft.scale_by_layer_norm(eps=-1.0), "eps must be"),
    (lambda: ft.laprop(eps=-1.0), "eps must be.*1e-15 is usual"),
    (lambda: ft.grokfast_ema(alpha=1.0), r"alpha must be in \[0, 1\), got 1\.0.*0\.98 is usual"),
    (lambda: ft.grokfast_ema(lamb=-1.0), "lamb must be"),
    (lambda: ft.add_cautious_decay(-1.0), "weight_decay must be"),
    (lambda: ft.grokfast_ma(0), "window_size must be an int >= 1, got 0"),
    (lambda: ft.grokfast_ma(2.0), r"window_size must be an int >= 1, got 2\.0"),  # pyright: ignore[reportArgumentType]
    (lambda: ft.grokfast_ma(lamb=-1.0), "lamb must be"),
]


@pytest.mark.parametrize("place", range(len(OUT_OF_RANGE)))
def test_what_is_out_of_range_is_refused(place: int) -> None:
    """A number outside its range is named with its value, its rule and a usual one."""
    make, message = OUT_OF_RANGE[place]
    with pytest.raises(ft.HyperparameterError, match=message):
        make()


def test_cautious_takes_transformations_only() -> None:
    """A factory that was not called is an error."""
    with pytest.raises(ft.StructureError, match="cautious takes a GradientTransformation, got a function"):
        ft.cautious(ft.adam)  # pyright: ignore[reportArgumentType]


def test_a_schedule_out_of_range_is_refused_on_both_ways() -> None:
    """A rate or a decay that a schedule makes negative is an error, also where parameters are moved directly."""
    params = {"w": torch.ones(2)}
    for optimizer, name in (
        (ft.lion(lambda step: -1.0), "lr"),  # pyright: ignore[reportArgumentType]
        (ft.lion(weight_decay=lambda step: -1.0), "weight_decay"),  # pyright: ignore[reportArgumentType]
    ):
        moments, decay, rate = ft.lion(ft.schedules.constant(0.1), weight_decay=ft.schedules.constant(0.1)).init(params)
        state = (moments, rate) if name == "lr" else (moments, decay, ft.EmptyState())
        for update in (ft.make_update(optimizer), optimizer.update):
            with pytest.raises(ft.HyperparameterError, match=f"{name} must be"):
                update(params, state, params)


@given(testing.params_and_grads(dtype=torch.float64), st.booleans())
@settings(max_examples=examples(30))
def test_cautious_updates_agree_with_the_gradient(drawn: Any, direction: bool) -> None:
    """What is left of an update has the descending sign, and the rest is scaled by n over one more than is left."""
    params, grads = drawn
    inner = ft.chain(ft.add_momentum(0.9), ft.identity() if direction else ft.negate())
    state = inner.init(params)
    _, state = inner.update(ft.tree.scale(-0.5, grads), state, params)
    shifted = ft.tree.map(lambda leaf: leaf + torch.linspace(-1, 1, leaf.numel()).reshape(leaf.shape), grads)
    plain, _ = inner.update(shifted, state, params)
    ours, _ = ft.cautious(inner, direction=direction).update(shifted, state, params)
    side = 1 if direction else -1

    def expected(update: Tensor, grad: Tensor) -> Tensor:
        mask = (side * torch.sign(update) * torch.sign(grad) > 0).double()
        return update * mask * (update.numel() / (mask.sum() + 1))

    assert_close(ours, ft.tree.map(expected, plain, shifted), 1e-14)


def test_cautious_does_not_touch_what_came_before() -> None:
    """Fresh columns from a link before stay whole for the comparison, though what is inside may write into its own."""
    params = {"w": normal(0, (5,))}
    grads = like(1, params)
    optimizer = ft.chain(ft.clip_by_global_norm(0.5), ft.cautious(ft.sgd(0.1)))
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    clipped, _ = ft.clip_by_global_norm(0.5).update(grads, ft.EmptyState(), params)
    assert_close(updates, ft.tree.scale(-0.1 * 5 / 6, clipped), 1e-15)


def test_cautious_takes_transformations_over_trees() -> None:
    """What is inside may be written over trees, and complex numbers are masked part by part."""
    halved = ft.stateless(lambda grads, params: ft.tree.scale(-0.5, grads))
    grads = {"w": torch.tensor([1.0, -2.0]), "n": None, "z": torch.tensor([1.0 - 2.0j])}
    params = {"w": torch.zeros(2), "n": torch.zeros(1), "z": torch.zeros(1, dtype=torch.complex64)}
    updates, _ = ft.cautious(halved).update(grads, ft.EmptyState(), params)
    assert_close(updates, ft.tree.scale(-0.5 * 2 / 3, grads), 1e-6)


@given(testing.params(dtype=torch.float64, min_leaves=1), st.integers(1, 4), seeds())
@settings(max_examples=examples(20))
def test_a_moving_average_is_added_as_soon_as_its_window_is_full(params: Any, window_size: int, seed: int) -> None:
    """Before, gradients pass through as they are; from then on the mean of the last ones is added."""
    tx = ft.grokfast_ma(window_size, 3.0)
    state, seen = tx.init(params), []
    for step in range(6):
        grads = ft.tree.abs(like(seed + step, params))  # of one sign, so that nothing cancels in a sum
        seen = [*seen, grads][-window_size:]
        updates, state = tx.update(grads, state, params)
        mean = ft.tree.map(lambda *leaves: torch.stack(leaves).mean(0), *seen)
        assert_close(updates, ft.tree.add(grads, mean, alpha=3.0) if len(seen) == window_size else grads, 1e-14)


def test_came_keeps_rows_and_columns_of_matrices_only() -> None:
    """The second moments of a matrix are two vectors each, in float32 at least; of a vector, one of its size."""
    params = {"w": torch.ones(3, 5, dtype=torch.bfloat16), "b": torch.ones(5), "e": torch.ones(2, 0)}
    state = ft.scale_by_came().init(params)
    shapes = {name: [tuple(one.shape) for one in factors] for name, factors in state.factors.items()}
    assert shapes == {"w": [(3,), (5,), (3,), (5,)], "b": [(5,)], "e": [(2, 0)]}
    assert {factor.dtype for factor in state.factors["w"]} == {torch.float32}


def test_stable_steps_are_short_where_the_second_moment_lags() -> None:
    """After a thousandfold larger gradient the step is no longer than it usually is."""
    params = torch.zeros(4, dtype=torch.float64)
    stable, plain = ft.scale_by_stable_adam(), ft.scale_by_adam((0.9, 0.99), 1e-6)
    states = stable.init(params), plain.init(params)
    for size in (1.0, 1.0, 1.0, 1000.0):
        grads = torch.full((4,), size, dtype=torch.float64)
        (short, one), (long, other) = stable.update(grads, states[0], params), plain.update(grads, states[1], params)
        states = one, other
    expected = 1000.0 / (states[1].exp_avg_sq[0] / (1 - 0.99**4)).sqrt()
    assert_close(short * expected, long, 1e-12)
    assert expected > 1.5
