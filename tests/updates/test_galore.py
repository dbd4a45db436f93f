"""GaLore: figures of two libraries, what it projects, and how little it remembers."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import functional_train as ft
from tests.oracles import load, problem
from tests.trees import assert_bitwise, assert_close, like, normal
from tests.updates.oracle_runs import run_on
from tests.updates.watching import Watching


def adam_of_the_library(betas: tuple[float, float], eps: float) -> ft.GradientTransformation:
    """Adam whose eps is not corrected for bias: the library corrects the rate."""

    def init(params: Any) -> Any:
        return {"t": torch.tensor(0), "m": ft.tree.zeros_like(params), "v": ft.tree.zeros_like(params)}

    def update(grads: Any, state: Any, params: Any, **extra: Any) -> Any:
        t = state["t"] + 1
        m = ft.tree.lerp(state["m"], grads, 1 - betas[0])
        v = ft.tree.addcmul(state["v"], grads, grads, 1 - betas[1], decay=betas[1])
        rate = (1 - betas[1] ** t.double()).sqrt() / (1 - betas[0] ** t.double())
        return ft.tree.scale(rate, ft.tree.div_sqrt(m, v, outside=eps)), {"t": t, "m": m, "v": v}

    return ft.GradientTransformation(init, update)


# The library, the rank, updates between renewals, the scale, the side, and the optimizer inside.
CASES: dict[tuple[str, str], tuple[int, int, float, Any, ft.GradientTransformation]] = {
    ("optax", "galore"): (2, 10, 1.0, "reverse_std", ft.scale_by_adam()),
    ("optax", "galore_options"): (1, 4, 0.25, "reverse_std", ft.scale_by_adam()),
    ("pytorch_optimizer", "galore"): (2, 10, 1.0, "std", adam_of_the_library((0.9, 0.999), 1e-6)),
    ("pytorch_optimizer", "galore_options"): (1, 4, 0.25, "reverse_std", adam_of_the_library((0.8, 0.95), 1e-4)),
}


@pytest.mark.parametrize("name", ["given", "quadratic"])
@pytest.mark.parametrize(("library", "case"), CASES)
def test_equals_the_figures(library: str, case: str, name: load.Problem) -> None:
    """Fifty updates lead where two libraries lead; matrices up to the first renewal.

    There the sign of a singular vector is open, and the moments of the old ones stay (section 4.1): the runs part.
    pytorch_optimizer renews at updates 10 and 4, one before Algorithm 2 and Optax, and decays after the step. Optax
    projects the longer side, where section 3.2 projects the shorter, and a decay joins behind.
    """
    rank, gap, scale, kind, inner = CASES[library, case]
    decay = 0.1 if case == "galore_options" else 0.0
    before = [ft.add_decayed_weights(decay)] if library == "optax" else []
    optimizer = ft.chain(ft.galore(inner, rank, gap, scale, kind), *before, ft.scale_by_lr(0.05))
    after = None if library == "optax" else lambda step, params: ft.tree.scale(1 - 0.05 * decay, params)
    reached = run_on(optimizer, name, after=after)
    together = gap if library == "optax" else gap - 1
    for step, expected in load.figures(library, case, name).items():
        for leaf in problem.LEAVES:
            if expected[leaf].ndim != 2 or step <= together:
                torch.testing.assert_close(reached[step][leaf], expected[leaf], rtol=0, atol=1e-10)


def best_of_rank(matrix: Tensor, rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


@pytest.mark.parametrize("kind", ["std", "reverse_std", "left", "right"])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_plain_descent_takes_the_best_approximation(
    shape: tuple[int, int], kind: Literal["std", "reverse_std", "left", "right"]
) -> None:
    """At each renewal, here at every update, what comes out is the gradient's best of that rank (Eckart and Young)."""
    optimizer = ft.galore(ft.sgd(1.0), 2, 1, 0.5, kind)
    state = optimizer.init(torch.zeros(shape, dtype=torch.float64))
    for step in range(3):
        slope = normal(step, shape)
        updates, state = optimizer.update(slope, state, slope)
        assert_close(updates, -0.5 * best_of_rank(slope, 2), 1e-13)


def test_between_renewals_the_subspace_stays() -> None:
    """A gradient is projected with the vectors of the last renewal, also where everything is computed."""
    optimizer = ft.galore(ft.sgd(1.0), 1, 3, 1.0)
    params = {"w": normal(0, (4, 3)), "b": normal(1, (3,))}
    state = watched_state = optimizer.init(params)
    changes: list[bool] = []
    for step in range(5):
        grads, before = like(step, params), state.projections["w"]
        updates, state = optimizer.update(grads, state, params)
        with Watching():
            watched, watched_state = optimizer.update(grads, watched_state, params)
        assert_bitwise((watched, watched_state), (updates, state))
        assert_bitwise(updates["b"], -grads["b"])
        projection = state.projections["w"]
        assert_close(updates["w"], -(grads["w"] @ projection) @ projection.mT, 1e-14)
        changes.append(not torch.equal(projection, before))
    assert changes == [True, False, False, True, False]


def test_the_state_is_of_low_rank() -> None:
    """Adam's two moments of a (100, 60) matrix at rank 4, and the projection, are a tenth of what they were."""
    params = {"w": torch.zeros(100, 60), "b": torch.zeros(60)}
    state = ft.galore(ft.adam(), rank=4).init(params)
    assert state.projections["w"].shape == (60, 4)
    assert sum(leaf.numel() for leaf in ft.tree.leaves(state)) < 0.1 * ft.tree.num_elements(ft.adam().init(params))


def test_at_full_rank_descent_is_what_it_was() -> None:
    params = {"w": normal(0, (4, 3)), "z": torch.complex(normal(1, (2, 3)), normal(2, (2, 3)))}
    grads = {"w": normal(3, (4, 3)), "z": torch.complex(normal(4, (2, 3)), normal(5, (2, 3)))}
    momentum = ft.sgd(0.1, momentum=0.9)
    full = ft.galore(momentum, rank=8, scale=1.0)
    state, plain = full.init(params), momentum.init(params)
    for factor in (1.0, -0.5, 0.3):
        slope = ft.tree.scale(factor, grads)
        updates, state = full.update(slope, state, params)
        expected, plain = momentum.update(slope, plain, params)
        assert_close(updates, expected, 1e-13)


def test_inner_transformations_over_trees_and_decay() -> None:
    """One that is written over trees is given trees of low rank, parameters too."""
    seen: list[Any] = []

    def look(grads: Any, params: Any) -> Any:
        seen.append((grads["w"].shape, params["w"].shape))
        return grads

    params = {"w": normal(0, (5, 3)), "b": normal(1, (2,))}
    optimizer = ft.galore(ft.stateless(look), rank=2, scale=1.0)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert seen == [((5, 2), (5, 2))]
    assert_close(updates["w"], best_of_rank(params["w"], 2), 1e-13)


def test_scale_may_be_a_tensor_or_a_schedule() -> None:
    slope = normal(0, (4, 3))
    for scale in (torch.tensor(0.5), ft.schedules.constant(0.5)):
        tx = ft.galore(ft.sgd(1.0), 1, scale=scale)
        made, _ = tx.update(slope, tx.init(slope), slope)
        assert_close(made, -0.5 * best_of_rank(slope, 1), 1e-13)


def test_minimum_with_a_state_of_rank_one() -> None:
    """A least-squares problem of full rank is solved in subspaces of rank one that turn every 5 updates."""
    target = normal(0, (4, 3))
    grad_fn = ft.grad_and_value(lambda params, batch: (params - target).square().sum())
    optimizer = ft.galore(ft.sgd(0.1), rank=1, update_proj_gap=5, scale=1.0)
    state = ft.init_state(torch.zeros(4, 3, dtype=torch.float64), optimizer)
    end = ft.fold(ft.make_step(grad_fn, optimizer), state, [None] * 200)
    assert_close(end.params, target, 1e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rank": 0}, "rank must be an int >= 1, got 0. 128 is usual"),
        ({"update_proj_gap": 0}, "update_proj_gap must be an int >= 1, got 0. 200 is usual"),
        ({"scale": -1.0}, r"scale must be a finite number >= 0, got -1\.0"),
        ({"proj_type": "both"}, "proj_type must be one of 'std', 'reverse_std', 'left', 'right', got 'both'"),
    ],
)
def test_refuses(kwargs: Any, message: str) -> None:
    with pytest.raises(ft.HyperparameterError, match=message):
        ft.galore(ft.sgd(), **kwargs)


def test_refuses_what_is_no_transformation() -> None:
    with pytest.raises(ft.StructureError, match="galore takes a GradientTransformation, got a function"):
        ft.galore(ft.adam)  # type: ignore[arg-type]
