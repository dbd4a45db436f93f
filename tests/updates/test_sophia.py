"""Sophia, AdaHessian, and the estimates of curvature that they divide by."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import functional_train as ft
from tests.oracles import load, problem
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, normal, seeds
from tests.updates.oracle_runs import run_on
from tests.updates.watching import Watching


def given_diagonal(params: Any, /, *, diagonal: Any, **extra: Any) -> Any:
    """An estimator that is told the curvature."""
    del params, extra
    return diagonal


def of_problem(name: str) -> Callable[[int, Any], dict[str, Any]]:
    return lambda step, params: {"diagonal": problem.HESSIANS[name](step, params)}


SOPHIAS: dict[str, Any] = {
    "sophia_h": {"lr": 0.06, "weight_decay": 0.0, "clip_threshold": 1e-2},
    "sophia_h_options": {
        "lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1, "clip_threshold": 0.5, "eps": 1e-3,
    },
}  # fmt: skip
ADAHESSIANS: dict[str, Any] = {
    "adahessian": {"eps": 1e-16},
    "adahessian_options": {"betas": (0.8, 0.95), "weight_decay": 0.1, "hessian_power": 0.5, "eps": 1e-3},
}


@pytest.mark.parametrize("name", ["given", "quadratic"])
@pytest.mark.parametrize("case", [*SOPHIAS, *ADAHESSIANS])
def test_equals_the_figures(case: str, name: load.Problem) -> None:
    """Fifty updates lead where pytorch_optimizer leads, which is handed a Hessian at each of them.

    Its Sophia has no factor gamma, and its AdaHessian averages over no dimensions. Optax's Sophia is left out: it
    divides by the curvature of the update before and corrects the mean for its start, where line 9 and 13 of Algorithm
    3 use the new one and the mean as it is.
    """
    if case in SOPHIAS:
        optimizer = ft.sophia(**SOPHIAS[case], gamma=1.0, update_interval=1, estimator=given_diagonal)
    else:
        optimizer = ft.adahessian(**ADAHESSIANS[case], spatial_average=False, estimator=given_diagonal)
    reached = run_on(optimizer, name, extras=of_problem(name))
    for step, expected in load.figures("pytorch_optimizer", case, name).items():
        for leaf in problem.LEAVES:
            torch.testing.assert_close(reached[step][leaf], expected[leaf], rtol=0, atol=1e-10)


def loss_fn(params: Any, batch: Tensor, key: Tensor | None = None) -> Tensor:
    """Two leaves that depend on each other, and a third that stands alone."""
    del key
    return (params["a"].sin() @ batch @ params["b"]).square().sum() + (params["c"] ** 4).sum()


def at(seed: int) -> tuple[Any, Tensor]:
    params = {"a": normal(seed, (3,)), "b": normal(seed + 1, (2, 2)), "c": normal(seed + 2, ()), "n": torch.tensor(3)}
    return params, normal(seed + 3, (3, 2))


def exact_diagonal(params: Any, batch: Tensor) -> Any:
    def diagonal(name: str) -> Tensor:
        hessian = torch.func.hessian(lambda leaf: loss_fn({**params, name: leaf}, batch))(params[name])
        size = params[name].numel()
        return hessian.reshape(size, size).diagonal().reshape(params[name].shape)

    return {name: diagonal(name) for name in ("a", "b", "c")}


@given(seed=seeds())
@settings(max_examples=examples(5))
def test_the_mean_over_all_signs_is_the_diagonal(seed: int) -> None:
    """Averaged over 2000 keys, mapped over, the estimate is within 6 standard errors of the exact diagonal."""
    params, batch = at(seed)
    curved = ft.grad_and_value(loss_fn)

    def estimate(key: Tensor) -> list[Tensor]:
        return ft.tree.leaves(ft.hutchinson(params, grad_and_value_fn=lambda point: curved(point, batch), key=key))

    draws = torch.func.vmap(estimate)(ft.random.split(ft.random.key(seed), 2000))
    for drawn, expected in zip(draws, ft.tree.leaves(exact_diagonal(params, batch)), strict=True):
        error = drawn.std(0) / 2000**0.5
        assert ((drawn.mean(0) - expected).abs() <= 6 * error + 1e-12).all()


def test_a_diagonal_hessian_is_found_exactly() -> None:
    """By one draw, in eager mode, in a trace, below a transform, and where a graph is kept; leaves without a gradient
    have no estimate."""
    params = {"c": normal(0, (3,)), "n": torch.tensor(3)}
    curved = ft.grad_and_value(lambda params, batch: (batch * params["c"] ** 4).sum())
    batch = normal(1, (3,))
    expected = 12 * batch * params["c"] ** 2

    def estimate(leaf: Tensor) -> Tensor:
        fn = lambda point: curved(point, batch)  # noqa: E731
        made = ft.hutchinson({**params, "c": leaf}, grad_and_value_fn=fn, key=ft.random.key(0))
        assert made["n"] is None
        return made["c"]

    assert_close(estimate(params["c"]), expected, 1e-15)
    assert not estimate(params["c"]).requires_grad
    assert_close(torch.compile(estimate, fullgraph=True, backend="aot_eager")(params["c"]), expected, 1e-15)
    slope = torch.func.grad(lambda leaf: estimate(leaf).sum())(params["c"])
    assert_close(slope, 24 * batch * params["c"], 1e-14)
    watched = params["c"].clone().requires_grad_()
    (again,) = torch.autograd.grad(estimate(watched).sum(), watched)
    assert_close(again, slope, 1e-15)


def test_curvature_of_complex_numbers_is_that_of_their_parts() -> None:
    point = torch.complex(normal(0, (2,)), normal(1, (2,)))
    curved = ft.grad_and_value(lambda z, batch: (z.real**2 + 3 * z.imag**2).sum() / 2)
    made = ft.hutchinson(point, grad_and_value_fn=lambda z: curved(z, None), key=ft.random.key(0))
    assert_close(made, torch.complex(torch.ones(2), 3 * torch.ones(2)).to(point.dtype), 1e-15)


def test_each_leaf_has_signs_of_its_own() -> None:
    """Leaves of one shape are not probed alike: the sum over both has a cross term that must change sign."""
    params = [normal(0, (8,)), normal(1, (8,))]
    curved = ft.grad_and_value(lambda params, batch: (params[0] * params[1]).sum())
    made = ft.hutchinson(params, grad_and_value_fn=lambda point: curved(point, None), key=ft.random.key(0))
    assert 0 < (made[0] > 0).sum() < 8


def test_gauss_newton_bartlett_is_the_fisher_diagonal() -> None:
    """For logistic regression the mean over keys is the exact Gauss-Newton diagonal, within 6 standard errors."""
    inputs, weight = normal(0, (5, 3)), normal(1, (3,))
    chance = (inputs @ weight).sigmoid()

    def sampled(weight: Tensor, key: Tensor) -> tuple[Tensor, int]:
        labels = (ft.random.uniform(key, (5,), dtype=torch.float64) < chance).double()
        mean_loss = ft.grad_and_value(
            lambda w, _: torch.nn.functional.binary_cross_entropy_with_logits(inputs @ w, labels)
        )
        return mean_loss(weight, None)[0], 5

    keys = ft.random.split(ft.random.key(0), 2000)
    draws = torch.func.vmap(lambda key: ft.gauss_newton_bartlett(weight, sampled_grad_fn=sampled, key=key))(keys)
    expected = (inputs**2 * (chance * (1 - chance)).unsqueeze(1)).mean(0)
    assert ((draws.mean(0) - expected).abs() <= 6 * draws.std(0) / 2000**0.5).all()


def test_sophia_estimates_only_where_it_is_due() -> None:
    """An estimate is made at updates 1, 4, 7; where the host may not look at each, and the bits are the same."""
    calls: list[int] = []

    def estimator(params: Any, /, **extra: Any) -> Any:
        calls.append(1)
        return extra["diagonal"]

    optimizer = ft.scale_by_sophia(update_interval=3, estimator=estimator)
    params = {"w": normal(0, (3,)), "b": normal(1, ())}
    state = watched_state = optimizer.init(params)
    for step in range(7):
        grads, diagonal = like(step, params), like(50 + step, params)
        made, state = optimizer.update(grads, state, params, diagonal=diagonal)
        with Watching():
            watched, watched_state = optimizer.update(grads, watched_state, params, diagonal=diagonal)
        assert_bitwise((watched, watched_state), (made, state))
    assert len(calls) == 3 + 7


def test_climbing_is_descending_the_loss_turned_around() -> None:
    params, batch = at(0)
    down = ft.grad_and_value(lambda params, batch, key: -loss_fn(params, batch))
    up = ft.grad_and_value(lambda params, batch, key: loss_fn(params, batch))
    for make in (ft.sophia, ft.adahessian):
        ends: list[Any] = []
        for grad_fn, optimizer in ((down, make(0.01)), (up, make(0.01, maximize=True))):
            state = ft.init_state(params, optimizer, key=ft.random.key(0))
            ends.append(ft.fold(ft.make_step(grad_fn, optimizer), state, [batch] * 3).params)
        assert_close(ends[1], ends[0], 1e-14)


def test_spatial_average() -> None:
    """From the third dimension on, sizes of the curvature are averaged; smaller leaves keep theirs."""
    params = {"conv": normal(0, (2, 2, 3, 3)), "dense": normal(1, (2, 3))}
    diagonal = like(2, params)
    tx = ft.scale_by_adahessian(betas=(0.0, 0.0), eps=0.0, estimator=given_diagonal)
    made, _ = tx.update(params, tx.init(params), params, diagonal=diagonal)
    assert_close(made["conv"], params["conv"] / diagonal["conv"].abs().mean((2, 3), keepdim=True), 1e-14)
    assert_close(made["dense"], params["dense"] / diagonal["dense"].abs(), 1e-14)


def test_minimum_of_a_badly_scaled_problem() -> None:
    """A quadratic with curvatures from 1e-2 to 1e2 is solved; a step of AdaHessian at rate 1 is Newton's."""
    curvature = torch.tensor([1e-2, 1.0, 1e2], dtype=torch.float64)
    grad_fn = ft.grad_and_value(lambda params, batch, key: (curvature * (params - 1) ** 2).sum() / 2)
    start = torch.zeros(3, dtype=torch.float64)
    newton = ft.adahessian(1.0, betas=(0.0, 0.0), eps=0.0)
    state = ft.init_state(start, newton, key=ft.random.key(0))
    assert_close(ft.make_step(grad_fn, newton)(state, None)[0].params, start + 1, 1e-15)
    optimizer = ft.sophia(ft.schedules.cosine(0.1, 200), gamma=1.0, weight_decay=0.0, betas=(0.9, 0.9))
    state = ft.init_state(start, optimizer, key=ft.random.key(0))
    end = ft.fold(ft.make_step(grad_fn, optimizer), state, [None] * 200)
    assert (end.params - 1).abs().max() < 1e-3


def test_what_is_missing_is_named() -> None:
    optimizer, params = ft.sophia(), [torch.ones(2)]
    state = optimizer.init(params)
    with pytest.raises(ft.StructureError, match=r"needs grad_and_value_fn=, a function params -> \(grads, value\)"):
        optimizer.update(params, state, params)
    with pytest.raises(ft.StructureError, match=r"needs key=\. Let the state own one, ft\.init_state\(params, opt"):
        optimizer.update(params, state, params, grad_and_value_fn=lambda at: (at, None))
    with pytest.raises(ft.StructureError, match="an estimate of the curvature needs params"):
        optimizer.update(params, state, None)
    with pytest.raises(ft.StructureError, match="lacks a leaf that has a gradient"):
        optimizer.update(params, state, params, grad_and_value_fn=lambda at: ([None], None), key=ft.random.key(0))
    with pytest.raises(ft.StructureError, match=r"needs sampled_grad_fn=, a function \(params, key\) -> \(grads"):
        ft.gauss_newton_bartlett(params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ft.sophia(eps=0.0), r"eps must be a finite number > 0, got 0\.0"),
        (lambda: ft.sophia(gamma=-1.0), r"gamma must be a finite number >= 0, got -1\.0\. 0\.01 is usual"),
        (lambda: ft.sophia(clip_threshold=0.0), r"clip_threshold must be a finite number > 0, got 0\.0"),
        (lambda: ft.sophia(update_interval=0), "update_interval must be an int >= 1, got 0. 10 is usual"),
        (lambda: ft.sophia(betas=(1.0, 0.9)), r"betas\[0\] must be in \[0, 1\), got 1\.0"),
        (lambda: ft.adahessian(eps=-1.0), r"eps must be a finite number >= 0, got -1\.0\. 1e-4 is usual"),
        (lambda: ft.adahessian(hessian_power=0.0), r"hessian_power must be a finite number > 0, got 0\.0"),
    ],
)
def test_refuses(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ft.HyperparameterError, match=message):
        make()
