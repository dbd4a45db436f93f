"""SOAP: figures of another library, its invariances, and the bases that it keeps."""

from typing import Any

import pytest
import torch
from torch import Tensor

import functional_train as ft
from tests.oracles import load, problem
from tests.trees import assert_bitwise, assert_close, like, normal
from tests.updates.oracle_runs import Between, run_on
from tests.updates.watching import Watching


def decayed_after(weight_decay: float) -> Between:
    """The library's decay at a rate of 0.05: after the step, and not at the first."""
    return lambda step, params: params if step == 1 else ft.tree.scale(1 - 0.05 * weight_decay, params)


def normalized(updates: Any, params: Any) -> Any:
    del params
    return ft.tree.map(lambda leaf: leaf / (leaf.square().mean().sqrt() + 1e-8), updates)


OPTIONS: dict[str, Any] = {
    "betas": (0.8, 0.9),
    "shampoo_beta": 0.7,
    "precondition_frequency": 3,
    "precondition_1d": True,
    "eps": 1e-6,
}
CASES = {
    "soap": (ft.soap(0.05, weight_decay=0.0), None),
    "soap_options": (ft.soap(0.05, weight_decay=0.0, **OPTIONS), decayed_after(0.1)),
    "soap_one_sided": (
        ft.chain(
            ft.scale_by_soap(max_precond_dim=3, precondition_frequency=5, correct_bias=False),
            ft.stateless(normalized),
            ft.scale_by_lr(0.05),
        ),
        decayed_after(0.01),
    ),
}


# Where the gradient has no part, rounding of some 1e-16 remains. The library divides it by eps = 1e-8 (Algorithm 3,
# line 8) and takes it for a step of lr times that; here it is zero. On the quadratic the second gradient of this leaf
# is the first one, of rank 3 in 4 rows.
WITH_NOISE = {("soap", "quadratic", "matrix"): 1e-8}
# The first gradient leaves two dimensions or more without any part of it, and so their basis to the rounding of the
# machine that made the figures.
LEFT_OPEN = {("soap", "wide"), ("soap_options", "wide"), ("soap_options", "vector")}


@pytest.mark.parametrize("name", ["given", "quadratic"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_figures(case: str, name: load.Problem) -> None:
    """Fifty updates lead where pytorch_optimizer's SOAP leads."""
    optimizer, after = CASES[case]
    leaves = [leaf for leaf in problem.LEAVES if (case, leaf) not in LEFT_OPEN]
    reached = run_on(optimizer, name, leaves, after=after)
    for step, expected in load.figures("pytorch_optimizer", case, name).items():
        for leaf in leaves:
            allowed = WITH_NOISE.get((case, name, leaf), 1e-10)
            torch.testing.assert_close(reached[step][leaf], expected[leaf], rtol=0, atol=allowed)


def test_without_rotation_it_is_adam_one_step_late() -> None:
    """With no dimension small enough to be rotated, the updates after the first are Adam's.

    Up to eps, which SOAP does not correct for bias: here it is 0.
    """
    params = {"w": normal(0, (4, 3)), "b": normal(1, (2,))}
    grads = [like(2 + step, params) for step in range(5)]
    soap, adam = ft.scale_by_soap(eps=0.0, max_precond_dim=1), ft.scale_by_adam((0.95, 0.95), eps=0.0)
    first, state = soap.update(grads[0], soap.init(params), params)
    assert_bitwise(first, ft.tree.zeros_like(params))
    adam_state = adam.init(params)
    for slope in grads[1:]:
        updates, state = soap.update(slope, state, params)
        expected, adam_state = adam.update(slope, adam_state, params)
        assert_close(updates, expected, 1e-14)


def test_a_turned_problem_gives_turned_updates() -> None:
    """Rotations of rows and columns pass through: $u(A G B) = A u(G) B$ for orthogonal A and B."""
    left, right = (torch.linalg.qr(normal(seed, (size, size))).Q for seed, size in ((0, 4), (1, 3)))
    tx = ft.scale_by_soap(precondition_frequency=2)
    # Wide: the smaller of two null spaces is empty, and the other has one dimension, so that no basis is left open.
    grads = [normal(2 + step, (4, 3)) for step in range(6)]
    state, turned_state = tx.init(grads[0]), tx.init(grads[0])
    for slope in grads:
        updates, state = tx.update(slope, state, None)
        turned, turned_state = tx.update(left @ slope @ right, turned_state, None)
        assert_close(turned, left @ updates @ right, 1e-9)


def test_bases_are_orthogonal_and_find_the_eigenvectors() -> None:
    """Power iteration keeps bases orthogonal, orders them, and makes the statistics diagonal."""
    tx = ft.scale_by_soap(precondition_frequency=1, precondition_1d=True)
    scales = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    params = {"w": torch.zeros(3, 3, dtype=torch.float64)}
    state = tx.init(params)
    for step in range(100):
        _, state = tx.update({"w": normal(step, (3, 3)) * scales}, state, params)
    for statistics, basis in zip(state.statistics["w"], state.bases["w"], strict=True):
        eye = torch.eye(3, dtype=torch.float64)
        torch.testing.assert_close(basis.mT @ basis, eye, rtol=0, atol=1e-14)
        diagonal = basis.mT @ statistics @ basis
        values = diagonal.diagonal()
        assert (values[:-1] > values[1:]).all()
        assert (diagonal - values.diag()).abs().max() < 0.05 * values.max()


def test_merged_dimensions_are_one() -> None:
    """A tensor whose neighboring dimensions merge is updated as the matrix that they make."""
    grads = [normal(step, (3, 2, 2)) for step in range(4)]
    merged = ft.scale_by_soap(merge_dims=True, max_precond_dim=4, precondition_frequency=1)
    plain = ft.scale_by_soap(precondition_frequency=1)
    state, plain_state = merged.init(grads[0]), plain.init(torch.zeros(3, 4, dtype=torch.float64))
    for slope in grads:
        updates, state = merged.update(slope, state, None)
        expected, plain_state = plain.update(slope.reshape(3, 4), plain_state, None)
        assert_close(updates.reshape(3, 4), expected, 1e-13)


def test_complex_leaves_are_pairs_of_numbers() -> None:
    """A complex matrix is the real one with both parts of each number beside each other."""
    grads = [torch.complex(normal(step, (3, 2)), normal(50 + step, (3, 2))) for step in range(4)]
    tx = ft.scale_by_soap(precondition_frequency=1)
    state, real_state = tx.init(grads[0]), tx.init(torch.zeros(3, 4, dtype=torch.float64))
    for slope in grads:
        updates, state = tx.update(slope, state, None)
        expected, real_state = tx.update(torch.view_as_real(slope).reshape(3, 4), real_state, None)
        assert_close(torch.view_as_real(updates).reshape(3, 4), expected, 1e-13)


def test_due_renewals_are_the_same_bits_when_everything_is_computed() -> None:
    """Where the host may not look, bases are computed at each update and chosen: the same numbers."""
    tx = ft.scale_by_soap(precondition_frequency=2)
    grads = [{"w": normal(step, (4, 3)), "b": normal(9 + step, (2,))} for step in range(5)]
    state = traced_state = tx.init(grads[0])
    for slope in grads:
        updates, state = tx.update(slope, state, None)
        with Watching():
            traced, traced_state = tx.update(slope, traced_state, None)
        assert_bitwise((traced, traced_state), (updates, state))


def test_nan_is_not_hidden() -> None:
    """A gradient that is not finite raises nothing, and shows in the next update."""
    tx = ft.scale_by_soap()
    bad = torch.full((2, 2), torch.nan)
    updates, state = tx.update(bad, tx.init(bad), None)
    updates, state = tx.update(torch.ones(2, 2), state, None)
    assert updates.isnan().any()


def test_leaves_of_16_bits_keep_their_statistics_in_32() -> None:
    low = torch.ones(3, 2, dtype=torch.bfloat16)
    state = ft.scale_by_soap().init({"w": low})
    assert [matrix.dtype for matrix in state.statistics["w"]] == [torch.float32] * 2
    assert state.exp_avg["w"].dtype == torch.bfloat16


def test_descends_from_the_second_update_to_a_minimum() -> None:
    """A least-squares problem whose inputs are badly scaled is solved."""
    inputs = normal(0, (20, 3)) * torch.tensor([3.0, 1.0, 0.3], dtype=torch.float64)
    targets = inputs @ normal(1, (3, 2))

    def loss_fn(params: Any, batch: Any) -> Tensor:
        del batch
        return (inputs @ params["w"] - targets).square().mean()

    optimizer = ft.soap(ft.schedules.cosine(0.1, 300), weight_decay=0.0, precondition_frequency=5)
    step = ft.make_step(ft.grad_and_value(loss_fn), optimizer)
    state = ft.init_state({"w": torch.zeros(3, 2, dtype=torch.float64)}, optimizer)
    state, metrics = ft.scan(step, state, [None] * 300)
    assert metrics["loss"][-1] < 1e-6 * metrics["loss"][0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be in \[0, 1\), got 1\.0"),
        ({"eps": -1.0}, r"eps must be a finite number >= 0, got -1\.0"),
        ({"shampoo_beta": 1.0}, r"shampoo_beta must be in \[0, 1\), got 1\.0\. 0\.95 is usual"),
        ({"precondition_frequency": 0}, r"precondition_frequency must be an int >= 1, got 0\. 10 is usual"),
        ({"precondition_frequency": 2.5}, r"precondition_frequency must be an int >= 1, got 2\.5"),
        ({"max_precond_dim": True}, r"max_precond_dim must be an int >= 1, got True\. 10000 is usual"),
    ],
)
def test_refuses(kwargs: Any, message: str) -> None:
    with pytest.raises(ft.HyperparameterError, match=message):
        ft.soap(**kwargs)
