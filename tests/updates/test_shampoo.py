"""Shampoo: figures of another library, what its roots are, and grafting."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import gradcheck

import functional_train as ft
from functional_train import testing
from functional_train.updates.transforms._eigen import symmetric_power
from tests.oracles import load, problem
from tests.trees import assert_bitwise, assert_close, like, normal
from tests.updates.oracle_runs import run_on
from tests.updates.watching import Watching

LEAVES = [leaf for leaf in problem.LEAVES if leaf != "scalar"]  # which the library leaves to SGD; a vector of one here


@pytest.mark.parametrize("name", ["given", "quadratic"])
def test_equals_the_figures(name: load.Problem) -> None:
    """Fifty updates lead where pytorch_optimizer's Shampoo leads.

    Its options have no row here: its roots are zero until update `preconditioning_compute_steps`, where Algorithm 2
    always has one; and its momentum mixes gradients with preconditioned ones of the update before.
    """
    reached = run_on(ft.shampoo(0.05), name)
    for step, expected in load.figures("pytorch_optimizer", "shampoo", name).items():
        for leaf in LEAVES:
            torch.testing.assert_close(reached[step][leaf], expected[leaf], rtol=0, atol=1e-10)


def test_a_vector_has_full_matrix_adagrad() -> None:
    """For vectors it is $H^{-1/2} g$ with H the sum of the gradients' outer products."""
    grads = [normal(step, (3,)) for step in range(6)]
    tx = ft.scale_by_shampoo(matrix_eps=0.1)
    state, total = tx.init(grads[0]), 0.1 * torch.eye(3, dtype=torch.float64)
    for slope in grads:
        updates, state = tx.update(slope, state, None)
        total = total + torch.outer(slope, slope)
        inverse = torch.linalg.inv(total)
        assert_close(state.roots[0] @ state.roots[0], inverse, 1e-13)
        assert_close(updates, state.roots[0] @ slope, 1e-14)


def test_a_turned_problem_gives_turned_updates() -> None:
    """Rotations of rows and columns pass through: $u(A G B) = A u(G) B$ for orthogonal A and B."""
    left, right = (torch.linalg.qr(normal(seed, (size, size))).Q for seed, size in ((0, 4), (1, 3)))
    tx = ft.scale_by_shampoo(matrix_eps=1e-2)
    grads = [normal(2 + step, (4, 3)) for step in range(6)]
    state, turned_state = tx.init(grads[0]), tx.init(grads[0])
    for slope in grads:
        updates, state = tx.update(slope, state, None)
        turned, turned_state = tx.update(left @ slope @ right, turned_state, None)
        assert_close(turned, left @ updates @ right, 1e-11)


def test_dimensions_that_are_too_large_have_diagonals() -> None:
    """With all of them too large, each number is divided by roots of the sums of squares of its slices."""
    tx = ft.scale_by_shampoo(matrix_eps=0.1, max_precond_dim=1)
    g = normal(0, (4, 3))
    updates, state = tx.update(g, tx.init(g), None)
    rows, columns = (0.1 + g.square().sum(dim, keepdim=True) for dim in (1, 0))
    assert_close(updates, g * rows**-0.25 * columns**-0.25, 1e-14)
    assert [tuple(entry.shape) for entry in state.statistics] == [(4,), (3,)]


def test_roots_are_kept_between_renewals() -> None:
    """Roots change at updates 1, 4, 7; in between the old ones act, also where everything is computed."""
    tx = ft.scale_by_shampoo(precondition_frequency=3)
    grads = [{"w": normal(step, (3, 2)), "b": normal(9 + step, (2,))} for step in range(5)]
    state = watched_state = tx.init(grads[0])
    changes: list[bool] = []
    for slope in grads:
        before = state.roots
        updates, state = tx.update(slope, state, None)
        with Watching():
            watched, watched_state = tx.update(slope, watched_state, None)
        assert_bitwise((watched, watched_state), (updates, state))
        changes.append(not torch.equal(before["w"][0], state.roots["w"][0]))
    assert changes == [True, False, False, True, False]


def test_the_derivative_of_a_root_is_right_where_eigenvalues_meet() -> None:
    """Finite differences agree at the identity, where eigenvectors have no derivative, and elsewhere."""

    def root(matrix: Tensor) -> Tensor:
        return symmetric_power((matrix + matrix.mT) / 2, -0.25, 1e-6)

    spread = normal(0, (3, 3))
    for matrix in (torch.eye(3, dtype=torch.float64), spread @ spread.mT + 0.1 * torch.eye(3, dtype=torch.float64)):
        assert gradcheck(root, (matrix.clone().requires_grad_(),), check_forward_ad=True)
        tangent = like(1, matrix)
        slope = torch.func.jvp(root, (matrix,), (tangent,))[1]
        ahead, behind = root(matrix + 1e-5 * tangent), root(matrix - 1e-5 * tangent)
        assert_close(slope, (ahead - behind) / 2e-5, 1e-7)
        pull = torch.func.vjp(root, matrix)[1]
        weights = like(2, matrix)
        assert_close((pull(weights)[0] * tangent).sum(), (weights * slope).sum(), 1e-12)


def test_nan_is_not_hidden() -> None:
    """A gradient that is not finite raises nothing, and shows."""
    tx = ft.scale_by_shampoo()
    bad = torch.full((2, 2), torch.nan)
    assert tx.update(bad, tx.init(bad), None)[0].isnan().all()


def test_grafting_takes_one_length_and_another_direction() -> None:
    params = {"w": normal(0, (3, 2)), "b": normal(1, ()), "z": normal(2, (0,))}
    adam, shampoo = ft.scale_by_adam(), ft.scale_by_shampoo()
    tx = ft.graft(adam, shampoo)
    grads = like(3, params)
    updates, state = tx.update(grads, tx.init(params), params)
    lengths, adam_state = adam.update(grads, adam.init(params), params)
    ways, shampoo_state = shampoo.update(grads, shampoo.init(params), params)
    assert_bitwise(state, ft.GraftState(adam_state, shampoo_state))
    for leaf in ("w", "b"):
        assert_close(updates[leaf].norm(), lengths[leaf].norm(), 1e-14)
        assert_close(updates[leaf] / updates[leaf].norm(), ways[leaf] / ways[leaf].norm(), 1e-14)


def test_grafting_onto_itself_changes_nothing() -> None:
    """Also behind a link whose gradients nobody else has, which either of the two could write into."""
    params = {"w": normal(0, (3, 2))}
    for inner in (ft.scale_by_adam(), ft.negate(), ft.chain(ft.negate(), ft.scale_by_lr(0.1))):
        grafted = ft.chain(ft.scale_by_lr(2.0), ft.graft(inner, inner))
        plain = ft.chain(ft.scale_by_lr(2.0), inner)
        assert_close(
            grafted.update(params, grafted.init(params), params)[0],
            plain.update(params, plain.init(params), params)[0],
            1e-15,
        )
    none, _ = ft.graft(ft.identity(), ft.stateless(lambda grads, params: ft.tree.zeros_like(grads))).update(
        params, ft.GraftState(ft.EmptyState(), ft.EmptyState()), params
    )
    assert_bitwise(none, ft.tree.zeros_like(params))


@pytest.mark.parametrize("law", ["is_pure", "vmap_equals_loop", "is_differentiable", "takes_any_tree", "composes"])
def test_grafting_keeps_the_laws(law: str) -> None:
    params = {"w": normal(0, (3, 2)), "b": normal(1, (2,)), "n": torch.tensor(3)}
    grads = {"w": normal(2, (3, 2)), "b": normal(3, (2,)), "n": None}
    getattr(testing, law)(ft.graft(ft.scale_by_adam(), ft.scale_by_shampoo()), params, grads)


def test_minimum_of_a_badly_scaled_problem() -> None:
    """A least-squares problem with a condition number of 1e4 is solved in 300 updates."""
    inputs = normal(0, (20, 3)) * torch.tensor([10.0, 1.0, 0.1], dtype=torch.float64)
    targets = inputs @ normal(1, (3, 2))

    def loss_fn(params: Any, batch: Any) -> Tensor:
        del batch
        return (inputs @ params["w"] - targets).square().mean()

    optimizer = ft.shampoo(2.0)
    state = ft.init_state({"w": torch.zeros(3, 2, dtype=torch.float64)}, optimizer)
    _, metrics = ft.scan(ft.make_step(ft.grad_and_value(loss_fn), optimizer), state, [None] * 300)
    assert metrics["loss"][-1] < 1e-6 * metrics["loss"][0]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"matrix_eps": 0.0},
            r"matrix_eps must be a finite number > 0, got 0\.0\. With 0 a root could",
        ),
        ({"precondition_frequency": 0}, "precondition_frequency must be an int >= 1, got 0"),
        ({"max_precond_dim": 0}, "max_precond_dim must be an int >= 1, got 0"),
        ({"momentum": -1.0}, r"momentum must be a finite number >= 0, got -1\.0"),
    ],
)
def test_refuses(kwargs: Any, message: str) -> None:
    with pytest.raises(ft.HyperparameterError, match=message):
        ft.shampoo(**kwargs)


def test_grafting_refuses_what_is_no_transformation() -> None:
    with pytest.raises(ft.StructureError, match="graft, as its first argument, takes a GradientTransformation"):
        ft.graft(ft.sgd, ft.sgd())  # type: ignore[arg-type]
    with pytest.raises(ft.StructureError, match="graft, as its second argument, takes a GradientTransformation"):
        ft.graft(ft.sgd(), ft.sgd)  # type: ignore[arg-type]
