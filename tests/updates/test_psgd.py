"""PSGD: what its fit comes to rest at, and that it is the mean of the paper's random steps.

No library is a reference here: those that have the method draw random vectors inside, of generators of their own.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

import functional_train as ft
from tests.trees import assert_bitwise, assert_close, normal
from tests.updates.watching import Watching


def fitted(tx: ft.GradientTransformation, grads: list[Tensor]) -> tuple[Tensor, Any]:
    state, updates = tx.init(grads[0]), grads[0]
    for slope in grads:
        updates, state = tx.update(slope, state, None)
    return updates, state


def test_at_rest_both_terms_are_equal() -> None:
    """For one matrix again and again, $Q_1 G Q_2^T$ times its transpose becomes $Q_1^{-T} Q_1^{-1} |Q_2^{-1}|^2$."""
    slope = normal(0, (3, 3))
    _, state = fitted(ft.scale_by_psgd(), [slope] * 900)
    first, second = state.factors
    whitened = first @ slope @ second.mT
    inverse = torch.linalg.inv(first)
    expected = inverse.mT @ inverse * torch.linalg.inv(second).square().sum()
    # The Lie gradient has only an upper triangle, whose mirror is equal.
    assert_close(whitened @ whitened.mT, expected, 1e-6)
    assert_bitwise(first.tril(-1), torch.zeros_like(first))


def test_the_preconditioner_is_the_inverse_root_of_the_covariance() -> None:
    r"""Gradients along three orthogonal directions in turn, of size 4: $C = 16/3\, I$ and $P = C^{-1/2}$.

    All of one size, so that the normalized steps of the fit weigh them alike.
    """
    basis = 4 * torch.linalg.qr(normal(0, (3, 3))).Q
    tx = ft.scale_by_psgd(precond_lr=ft.schedules.cosine(0.3, 1500))
    _, state = fitted(tx, [sign * column for column in basis.unbind(1) for sign in (1.0, -1.0)] * 250)
    (factor,) = state.inner.factors
    expected = (16 / 3) ** -0.5 * torch.eye(3, dtype=torch.float64)
    assert_close(factor.mT @ factor, expected, 1e-2)


def test_the_mean_over_draws_has_the_formula() -> None:
    """Products of the slices of $Q^{-T} v$ over 4000 draws of v are the formula's, within 6 standard errors."""
    factors = [normal(0, (2, 2)).triu() + 2 * torch.eye(2), normal(1, (3, 3)).triu() + 2 * torch.eye(3)]
    first, second = (torch.linalg.inv(factor) for factor in factors)
    draws = first.mT @ normal(2, (4000, 2, 3)) @ second
    products = draws @ draws.mT
    expected = first.mT @ first * second.square().sum()
    assert ((products.mean(0) - expected).abs() <= 6 * products.std(0) / 4000**0.5).all()


def test_dimensions_that_are_too_large_have_diagonals() -> None:
    """With diagonals alone, each factor moves as the diagonal of a whole one."""
    slope = normal(0, (3, 2))
    updates, state = ft.scale_by_psgd(max_precond_dim=1).update(
        slope, ft.scale_by_psgd(max_precond_dim=1).init(slope), None
    )
    assert [tuple(factor.shape) for factor in state.factors] == [(3,), (2,)]
    rows, columns = slope.square().sum(1), slope.square().sum(0)
    first = 1 - 0.1 / (rows + 2).norm() * (rows - 2)
    second = 1 - 0.1 / (columns + 3).norm() * (columns - 3)
    assert_close(updates, first.square().unsqueeze(1) * slope * second.square(), 1e-14)


def test_factors_stay_between_steps_of_the_fit() -> None:
    """Factors change at updates 1, 3, 5, also where everything is computed."""
    tx = ft.scale_by_psgd(precondition_frequency=2)
    state = watched_state = tx.init(normal(0, (3, 2)))
    changes: list[bool] = []
    for step in range(5):
        slope, before = normal(step, (3, 2)), state.factors[0]
        updates, state = tx.update(slope, state, None)
        with Watching():
            watched, watched_state = tx.update(slope, watched_state, None)
        assert_bitwise((watched, watched_state), (updates, state))
        changes.append(not torch.equal(before, state.factors[0]))
    assert changes == [True, False, True, False, True]


def test_minimum_of_a_badly_scaled_problem() -> None:
    """A least-squares problem with a condition number of 1e4 is solved in 600 updates."""
    inputs = normal(0, (20, 3)) * torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64)
    targets = inputs @ normal(1, (3, 2))
    grad_fn = ft.grad_and_value(lambda params, batch: (inputs @ params - targets).square().mean())
    optimizer = ft.psgd(ft.schedules.cosine(0.05, 600))
    state = ft.init_state(torch.zeros(3, 2, dtype=torch.float64), optimizer)
    _, metrics = ft.scan(ft.make_step(grad_fn, optimizer), state, [None] * 600)
    assert metrics["loss"][-1] < 1e-6 * metrics["loss"][0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1\.0\. 0\.9 is usual"),
        ({"precond_lr": 1.0}, r"precond_lr must be in \[0, 1\), got 1\.0\. 0\.1 is usual"),
        ({"precond_init_scale": 0.0}, r"precond_init_scale must be a finite number > 0, got 0\.0"),
        ({"precondition_frequency": 0}, "precondition_frequency must be an int >= 1, got 0"),
        ({"max_precond_dim": 0}, "max_precond_dim must be an int >= 1, got 0"),
    ],
)
def test_refuses(kwargs: Any, message: str) -> None:
    with pytest.raises(ft.HyperparameterError, match=message):
        ft.psgd(**kwargs)
