"""Small batches that are updated on as one large batch."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import functional_train as ft
from tests.oracles.load import Problem
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, nestings, normal, seeds, tensors, without
from tests.updates.oracle_runs import distance
from tests.updates.watching import Watching

Tree = Any
CLIPPED = ft.chain(ft.clip_by_global_norm(0.3), ft.adamw(ft.schedules.warmup_cosine(0.1, 2, 20), weight_decay=0.1))
OPTIMIZERS = {
    "clipped adamw": CLIPPED,
    "momentum": ft.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "scaled sum": ft.chain(ft.clip_by_global_norm(0.3), ft.add_momentum(0.5, dampening=0.5), ft.scale_by_lr(0.1)),
    "averaged": ft.chain(CLIPPED, ft.ema_params(0.5)),
}
PARAMS = {"w": normal(0, (3, 2)), "b": normal(1, (2,))}


def loss_fn(params: Tree, batch: Tree) -> torch.Tensor:
    x, y = batch
    return (torch.tanh(x @ params["w"] + params["b"]) - y).square().mean()


def trained(optimizer: ft.GradientTransformation, batches: list[Tree], params: Tree = PARAMS) -> tuple[Tree, Tree]:
    state = ft.init_state(params, optimizer)
    state = ft.fold(ft.make_step(ft.grad_and_value(loss_fn), optimizer), state, batches)
    return state.params, state.opt_state


@pytest.mark.parametrize("name", OPTIMIZERS)
@given(every=st.integers(1, 5), seed=seeds(), num_updates=st.integers(1, 4))
@settings(max_examples=examples(10))
def test_small_batches_equal_a_large_one(name: str, every: int, seed: int, num_updates: int) -> None:
    """k batches of n samples lead where one batch of k n samples leads; clipping and schedules see the large one."""
    x, y = normal(seed, (num_updates, every * 4, 3)), normal(seed + 1, (num_updates, every * 4, 2))
    large = list(zip(x, y, strict=True))
    parts = [zip(one.chunk(every), other.chunk(every), strict=True) for one, other in large]
    expected, inner = trained(OPTIMIZERS[name], large)
    reached, state = trained(ft.accumulate_updates(OPTIMIZERS[name], every), [part for row in parts for part in row])
    assert_close(reached, expected, 1e-12)
    assert_close(state.inner, inner, 1e-12)
    assert int(state.step) == num_updates
    assert int(state.num_batches) == 0


def runs(optimizer: ft.GradientTransformation, params: Tree, grads: list[Tree]) -> list[tuple[Tree, Tree]]:
    state, made = optimizer.init(params), []
    for grad in grads:
        params, state = ft.make_update(optimizer)(grad, state, params)
        made.append((params, state))
    return made


@given(params=nestings(tensors()), seed=seeds(), every=st.integers(1, 3))
@settings(max_examples=examples(15))
def test_a_watched_run_has_the_same_bits(params: Tree, seed: int, every: int) -> None:
    """Where a condition cannot be read both ways are computed, and the one that is chosen is the one computed alone."""
    grads = [like(seed + step, params) for step in range(4)]
    for wrap in (ft.accumulate_updates, ft.apply_if_finite):
        tx = wrap(OPTIMIZERS["scaled sum"], every)
        made = runs(tx, params, grads)
        with Watching():
            watched = runs(tx, params, grads)
        assert_bitwise(watched, made)


@given(params=nestings(tensors()), seed=seeds(), every=st.integers(2, 4), lost=st.integers(0, 3))
@settings(max_examples=examples(25))
def test_nothing_moves_between_updates(params: Tree, seed: int, every: int, lost: int) -> None:
    """Before the k-th batch parameters, negative zeros too, and the state inside keep every bit."""
    params = ft.tree.map(lambda leaf: torch.where(leaf.abs() < 0.5, -0.0, leaf), params)
    grads = [without(like(seed + step, params), lambda place: place == lost) for step in range(every)]
    for tx in (ft.accumulate_updates(ft.adam(0.1), every), ft.accumulate_updates(CLIPPED, torch.tensor(every))):
        first = tx.init(params)
        made = runs(tx, params, grads)
        for reached, state in made[:-1]:
            assert_bitwise(reached, params)
            assert [torch.equal(one.signbit(), other.signbit()) for one, other in leaf_pairs(reached, params)]
            assert_bitwise(state.inner, first.inner)
        updates, _ = tx.update(grads[0], first, params)
        for one, other in leaf_pairs(ft.apply_updates(params, updates), params):
            assert torch.equal(one.signbit(), other.signbit())
            assert torch.equal(one, other)


def leaf_pairs(one: Tree, other: Tree) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(ft.tree.leaves(one), ft.tree.leaves(other), strict=True))


def test_an_absent_gradient_is_zero_and_what_is_left_waits() -> None:
    """A leaf that some batches lack has the mean with zeros for them; one that the last lacks is updated on next."""
    params = {"a": torch.zeros(1), "b": torch.zeros(1)}
    one, two = torch.ones(1), torch.full((1,), 2.0)
    made = runs(
        ft.accumulate_updates(ft.sgd(1.0, momentum=0.5), 2),
        params,
        [{"a": one, "b": None}, {"a": None, "b": two}, {"a": None, "b": two}, {"a": one, "b": None}],
    )
    (_, second), (last, fourth) = made[1], made[3]
    assert made[1][0] == {"a": params["a"], "b": torch.tensor([-1.0])}
    assert second.mean["a"] == 0.5
    assert list(second.inner[0].step) == [0, 1]
    assert last["a"] == -1.0
    assert last["b"] == -1.0
    assert fourth.mean == {"a": torch.zeros(1), "b": torch.ones(1)}


def test_every_may_follow_a_schedule_of_the_updates() -> None:
    """Large batches grow: 1, 2 and 3 small ones; what is no whole number is rounded up."""
    seen: list[int] = []

    def grow(step: torch.Tensor) -> torch.Tensor:
        seen.append(int(step))
        return step + 0.5

    tx = ft.accumulate_updates(ft.sgd(1.0), grow)
    grads = [torch.full((1,), float(2**place)) for place in range(6)]
    reached = [params.item() for params, _ in runs(tx, torch.zeros(1), grads)]
    assert reached == pytest.approx([-1.0, -1.0, -4.0, -4.0, -4.0, -4.0 - 56 / 3])
    assert seen == [0, 1, 1, 2, 2, 2]


def test_members_may_differ_in_how_many_batches_they_gather() -> None:
    """`every` can be mapped over, and each member is what it is alone."""
    grads = [like(seed, PARAMS) for seed in range(6)]

    def reached(every: Any) -> Tree:
        return runs(ft.accumulate_updates(CLIPPED, every), PARAMS, grads)[-1]

    together = torch.func.vmap(reached)(torch.tensor([1, 2, 3]))
    alone = ft.tree.stack([reached(every) for every in (1, 2, 3)])
    assert_close(ft.tree.to(together, torch.float64), ft.tree.to(alone, torch.float64), 1e-13)


def test_the_loss_inside_is_the_mean() -> None:
    """A transformation inside that takes `value=` gets the mean over the small batches, in the dtype of the loss."""
    seen: list[torch.Tensor] = []

    def update(grads: Tree, state: Tree, params: Tree, **extra: Any) -> tuple[Tree, Tree]:
        seen.append(extra["value"])
        return grads, state

    tx = ft.accumulate_updates(ft.GradientTransformation(lambda params: (), update), 2)
    state = tx.init(params := torch.ones(1))
    for value in (1.0, 3.0, 10.0, 20.0):
        _, state = tx.update(params, state, params, value=torch.tensor(value))
    assert seen == [torch.tensor(2.0), torch.tensor(15.0)]
    assert seen[0].dtype == torch.float32


def test_many_small_gradients_are_not_lost_in_16_bits() -> None:
    """With `dtype=float32` the mean of 512 gradients in bfloat16 is right to that dtype; the updates stay 16 bits."""
    grads = [torch.full((2,), 1.0 + place % 2, dtype=torch.bfloat16) for place in range(512)]
    tx = ft.accumulate_updates(ft.sgd(1.0), 512, dtype=torch.float32)
    reached, state = runs(tx, torch.zeros(2, dtype=torch.bfloat16), grads)[-1]
    assert reached.dtype == torch.bfloat16
    assert state.mean.dtype == torch.float32
    assert torch.equal(reached, torch.full_like(reached, -1.5))


def test_a_batch_that_is_not_finite_can_be_left_out() -> None:
    """`apply_if_finite` outside drops a small batch, which another then takes the place of."""
    tx = ft.apply_if_finite(ft.accumulate_updates(ft.sgd(1.0), 2))
    grads = [torch.ones(1), torch.full((1,), torch.inf), torch.full((1,), 3.0)]
    assert [params.item() for params, _ in runs(tx, torch.zeros(1), grads)] == [0.0, 0.0, -2.0]


@pytest.mark.parametrize("problem", ["given", "quadratic"])
def test_leads_where_optax_leads(problem: Problem) -> None:
    """Optax's MultiSteps, but for its clipping, which has no eps beside the norm: the norms here are above 2."""
    tx = ft.chain(ft.stateless(clipped), ft.adam(0.05))
    assert distance(ft.accumulate_updates(tx, 4), "optax", "multi_steps", problem) <= 1e-10


def clipped(grads: Tree, params: Tree) -> Tree:
    return ft.tree.scale(torch.clamp(2.0 / ft.tree.global_norm(grads), max=1.0), grads)


@pytest.mark.parametrize("problem", ["given", "quadratic"])
def test_a_sum_is_a_mean_of_a_larger_rate(problem: Problem) -> None:
    """Optax's sum of three gradients is three times their mean."""
    assert distance(ft.accumulate_updates(ft.sgd(0.15, momentum=0.9), 3), "optax", "multi_steps_sum", problem) <= 1e-10


@pytest.mark.parametrize("every", [0, -1, 2.5, True, "2"])
def test_bad_numbers_are_refused(every: Any) -> None:
    with pytest.raises(ft.HyperparameterError, match=r"every must be an int >= 1, got .*With 1 each batch"):
        ft.accumulate_updates(ft.sgd(), every)


def test_a_factory_is_not_a_transformation() -> None:
    with pytest.raises(ft.StructureError, match=r"accumulate_updates takes a GradientTransformation.*ft\.adam\(1e-3\)"):
        ft.accumulate_updates(ft.sgd)  # type: ignore[arg-type]
    tx = ft.accumulate_updates(ft.sgd(), 2)
    with pytest.raises(ft.StructureError, match=r"AccumulateState was given a EmptyState"):
        tx.update(PARAMS, ft.EmptyState(), PARAMS)
