"""sparse_adam is torch.optim.SparseAdam, and touches only the rows that a gradient holds."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor
from torch.testing._internal.common_optimizers import optim_db

import functional_train as ft
from tests.global_rng import seeded
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, normal, relative_difference, seeds

(INFO,) = [info for info in optim_db if info.optim_cls is torch.optim.SparseAdam]
OPTION_SETS: dict[str, dict[str, Any]] = {one.desc: one.kwargs for one in INFO.optim_inputs_func("cpu")}
OPTION_SETS["everything"] = {"lr": 0.05, "betas": (0.7, 0.9), "eps": 1e-4, "maximize": True}
SHAPES = {"table": (7, 3), "vector": (9,), "cube": (4, 2, 3), "empty": (3, 0)}


def gradient(seed: int, shape: tuple[int, ...], dtype: torch.dtype, sparse_dim: int = 1) -> Tensor:
    """Some rows, one of them twice, in no order; sometimes none."""
    generator = torch.Generator().manual_seed(seed)
    num_rows = int(torch.randint(0, 5, (), generator=generator)) if seed % 5 else 0
    index = torch.stack([torch.randint(0, size, (num_rows,), generator=generator) for size in shape[:sparse_dim]])
    index = torch.cat([index, index[:, :1]], 1)
    values = normal(seed, (index.shape[1], *shape[sparse_dim:]), dtype)
    return torch.sparse_coo_tensor(index, values, shape, check_invariants=False)


def trajectories(options: dict[str, Any], seed: int, dtype: torch.dtype) -> Any:
    """Parameters after every step, and torch's."""
    # torch computes its step size in the dtype of a tensor lr; in that of the leaves it is as exact as a number's.
    options = {name: one.to(dtype) if isinstance(one, Tensor) else one for name, one in options.items()}
    params = {path: normal(seed + place, shape, dtype) for place, (path, shape) in enumerate(SHAPES.items())}
    theirs = {path: torch.nn.Parameter(leaf.clone()) for path, leaf in params.items()}
    reference, optimizer = torch.optim.SparseAdam(list(theirs.values()), **options), ft.sparse_adam(**options)
    update_fn, state = ft.make_update(optimizer), optimizer.init(params)
    for step in range(30):
        grads: dict[str, Any] = {}
        for place, (path, parameter) in enumerate(theirs.items()):
            mixed = 7919 * seed + 101 * step + place
            sparse_dim = 2 if path == "cube" and step % 2 else 1
            grads[path] = None if mixed % 6 == 0 else gradient(mixed, SHAPES[path], dtype, sparse_dim)
            parameter.grad = None if grads[path] is None else grads[path].clone()
        reference.step()
        before, (params, state) = params, update_fn(grads, state, params)
        yield params, state, theirs, reference, (before, grads)


@pytest.mark.parametrize("name", OPTION_SETS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Each of the 30 steps rounds a handful of times, relative to the largest value of a leaf.
    [(torch.float64, 1e-12), (torch.float32, 2e-6)],
    ids=["float64", "float32"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_torch_optim(name: str, dtype: torch.dtype, tolerance: float, seed: int) -> None:
    """Rows that repeat, that are absent and gradients without rows lead where SparseAdam leads, moments and all."""
    for params, state, theirs, reference, _ in trajectories(OPTION_SETS[name], seed, dtype):  # noqa: B007
        assert_close(params, {path: leaf.detach() for path, leaf in theirs.items()}, tolerance)
    for path, parameter in theirs.items():
        moments = ft.tree.get(state, "exp_avg"), ft.tree.get(state, "exp_avg_sq")
        for part, ours in zip(("exp_avg", "exp_avg_sq"), moments, strict=True):
            assert relative_difference(ours[path], reference.state[parameter][part]) <= tolerance
    steps = [reference.state[parameter]["step"] for _, parameter in sorted(theirs.items())]
    assert ft.tree.get(state, "step").tolist() == steps


def test_other_rows_rest() -> None:
    """A row that no gradient holds keeps its bits, in the parameter and in both moments."""
    old = None
    for params, state, _, _, (before, grads) in trajectories(OPTION_SETS["default"], 3, torch.float64):
        moments = (ft.tree.get(state, "exp_avg"), ft.tree.get(state, "exp_avg_sq"))
        if grads["table"] is not None and old is not None:
            rests = torch.ones(7, dtype=torch.bool).index_fill(0, grads["table"].coalesce().indices()[0], False)
            now = (params, *moments)
            for one, other in zip(now, (before, *old), strict=True):
                assert_bitwise(one["table"][rests], other["table"][rests])
        old = moments


@given(seed=seeds())
@settings(max_examples=examples(20))
def test_every_row_every_step_is_adam(seed: int) -> None:
    """With every row in every gradient it is Adam."""
    params = normal(seed, (5, 2))
    # Adam adds eps to the root of the corrected moment, so they are one where eps is far below it.
    lazy, adam = ft.sparse_adam(0.1, eps=1e-30), ft.adam(0.1, eps=1e-30)
    states, reached = [lazy.init(params), adam.init(params)], [params, params]
    for step in range(5):
        grad = normal(seed + step, (5, 2))
        reached[0], states[0] = ft.make_update(lazy)(grad.to_sparse(1), states[0], reached[0])
        reached[1], states[1] = ft.make_update(adam)(grad, states[1], reached[1])
    assert_close(reached[0], reached[1], 1e-12)


@pytest.mark.parametrize("maximize", [False, True])
def test_updates_are_sparse_and_add_up(maximize: bool) -> None:
    """`update` gives rows where the gradient has some, and adding them is what `make_update` does at once."""
    params = {"a": normal(0, (6, 2)), "b": normal(1, (4,))}
    grads = {"a": gradient(2, (6, 2), torch.float64), "b": None}
    optimizer = ft.sparse_adam(lambda step: 0.1 / (1 + step), maximize=maximize)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    assert updates["a"].layout is torch.sparse_coo
    assert updates["a"].is_coalesced()
    assert updates["b"] is None
    assert_bitwise(updates["a"].indices(), grads["a"].coalesce().indices())
    moved, state_too = ft.make_update(optimizer)(grads, optimizer.init(params), params)
    assert_close(ft.apply_updates(params, updates), moved, 1e-15)
    assert_bitwise(state, state_too)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_as_near_as_torchs(dtype: torch.dtype) -> None:
    """Tables of 16 bits stay 16 bits wide, and no farther from float64 than torch's."""
    params = normal(0, (32, 4)).to(dtype)
    exact, parameter = params.double(), torch.nn.Parameter(params.clone())
    reference, optimizer = torch.optim.SparseAdam([parameter]), ft.sparse_adam()
    update_fn, state, exact_state = ft.make_update(optimizer), optimizer.init(params), optimizer.init(exact)
    for step in range(30):
        grad = gradient(step, (32, 4), torch.float64).to(dtype).coalesce()
        parameter.grad = grad.clone()
        reference.step()
        params, state = update_fn(grad, state, params)
        exact, exact_state = update_fn(grad.double(), exact_state, exact)
    assert {leaf.dtype for leaf in ft.tree.leaves((params, state)) if leaf.is_floating_point()} == {dtype}
    # Both walk at random on the grid of the dtype; neither systematically nearer.
    assert (params.double() - exact).norm() <= 1.25 * (parameter.detach().double() - exact).norm()


def test_learns_an_embedding() -> None:
    """Gradients come sparse from an embedding, and the rows that are looked up reach their targets."""
    table, target, rows = normal(0, (10, 2)), normal(1, (10, 2)), torch.tensor([1, 4, 4, 7])

    def loss_fn(table: Tensor, batch: Any) -> Tensor:
        return (F.embedding(rows, table, sparse=True) - target[rows]).square().sum()

    optimizer = ft.sparse_adam(ft.schedules.linear(0.1, 0.0, 300))
    step = ft.make_step(ft.grad_and_value(loss_fn), optimizer)
    trained = ft.fold(step, ft.init_state(table, optimizer), [None] * 300).params
    expected = table.index_put((rows,), target[rows])
    torch.testing.assert_close(trained, expected, atol=1e-4, rtol=0)


def test_mistakes_are_explained() -> None:
    """Dense gradients, sparse or complex parameters and numbers out of range are refused."""
    table = torch.zeros(3, 2)
    optimizer = ft.sparse_adam()
    for update in (ft.make_update(optimizer), optimizer.update):
        with pytest.raises(ft.StructureError, match=r"shape \(3, 2\) that is not sparse .*ft\.adam"):
            update(table, optimizer.init(table), table)
    with pytest.raises(
        ft.StructureError, match=r"real, dense parameters, but 'a' is torch\.float32 and torch\.sparse_coo"
    ):
        optimizer.init({"a": table.to_sparse()})
    with pytest.raises(ft.StructureError, match=r"'a' is torch\.complex64"):
        optimizer.init({"a": table.to(torch.complex64)})
    with pytest.raises(ft.HyperparameterError, match=r"eps must be a finite number > 0, got 0\.0\. 1e-8"):
        ft.sparse_adam(eps=0.0)
    with seeded():
        errors = INFO.optim_error_inputs_func("cpu", torch.float32)
    for one in errors:
        options = one.optimizer_error_input.kwargs
        if options:
            with pytest.raises(ft.HyperparameterError):
                ft.sparse_adam(**options)
