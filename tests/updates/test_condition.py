"""Transformations that take part at some updates only."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, nestings, normal, seeds, tensors

Tree = Any


@given(nestings(tensors()), seeds(), st.lists(st.booleans(), min_size=4, max_size=4))
@settings(max_examples=examples(25))
def test_updates_are_those_that_are_picked(params: Tree, seed: int, picked: list[bool]) -> None:
    """With a mask a run is the run of the picked updates alone, and nothing moves between them, to the bit; without one
    the others pass through."""
    table = torch.tensor(picked)
    inner = ft.adamw(0.1)
    masked = ft.conditionally_mask(inner, lambda step, **extra: table[step])
    momentum = ft.add_momentum(0.5)
    through = ft.chain(ft.conditionally_transform(momentum, lambda step, **extra: picked[int(step)]), ft.sgd(0.1))
    alone, held = (params, inner.init(params)), (params, masked.init(params))
    state, own = through.init(params), momentum.init(params)
    for step, here in enumerate(picked):
        grads = like(seed + step, params)
        if here:
            alone = ft.make_update(inner)(grads, alone[1], alone[0])
        before = held
        held = ft.make_update(masked)(grads, before[1], before[0])
        assert_bitwise((held[0], held[1].inner), alone)
        if not here:
            updates, _ = masked.update(grads, before[1], before[0])
            assert_bitwise(ft.apply_updates(before[0], updates), before[0])
        expected, own = momentum.update(grads, own, params) if here else (grads, own)
        updates, state = through.update(grads, state, params)
        assert_bitwise(updates, ft.tree.scale(-0.1, expected))
        assert_bitwise(state[0].inner, own)


def test_gradients_that_pass_are_not_written_to() -> None:
    """What `tx` would do with fresh gradients does not reach those that pass through, for each member too."""
    tx = ft.chain(ft.scale(2.0), ft.conditionally_transform(ft.scale(10.0), lambda step, **extra: step == 1))
    state = tx.init(params := torch.zeros(3))
    for expected in (2.0, 20.0, 2.0):
        updates, state = tx.update(torch.ones(3), state, params)
        assert torch.equal(updates, torch.full((3,), expected))
    states = (ft.EmptyState(), ft.ConditionState(torch.tensor([0, 1, 2]), ft.EmptyState()))
    mapped, _ = torch.func.vmap(tx.update)(torch.ones(3, 3), states, torch.zeros(3, 3))
    assert torch.equal(mapped, torch.tensor([2.0, 20.0, 2.0])[:, None].expand(3, 3))


def is_calm(step: Tensor, **extra: Any) -> Tensor:
    return extra["value"] < 10.0


def test_a_condition_may_ask_for_the_loss() -> None:
    """A jump of the loss leaves an update out, for each member."""
    tx = ft.conditionally_mask(ft.adam(0.1), is_calm)
    params, grads = normal(0, (2, 3)), normal(1, (2, 3))
    losses = torch.tensor([1.0, 100.0])

    def member(param: Tensor, grad: Tensor, loss: Tensor) -> Tree:
        return ft.make_update(tx)(grad, tx.init(param), param, value=loss)[0]

    together = torch.func.vmap(member)(params, grads, losses)
    assert torch.equal(together[1], params[1])
    assert_close(together[0], member(params[0], grads[0], losses[0]), 1e-13)


def test_a_condition_is_part_of_one_graph() -> None:
    """A trace computes both ways, and what is chosen is what is computed without one."""
    tx = ft.conditionally_mask(ft.sgd(0.1, momentum=0.9), is_calm)
    params, grads = normal(0, (2, 3)), normal(1, (2, 3))
    traced = torch.compile(tx.update, backend="aot_eager", fullgraph=True)
    for loss in (torch.tensor(1.0), torch.tensor(100.0)):
        made = traced(grads, tx.init(params), params, value=loss)[0]
        assert_close(made, tx.update(grads, tx.init(params), params, value=loss)[0], 1e-13)


def test_mistakes_are_explained() -> None:
    with pytest.raises(ft.StructureError, match="conditionally_mask takes a GradientTransformation"):
        ft.conditionally_mask(ft.sgd, lambda step, **extra: True)  # type: ignore[arg-type]
    for make in (ft.conditionally_mask, ft.conditionally_transform):
        tx = make(ft.sgd(), lambda step, **extra: step % 2)
        with pytest.raises(ft.StructureError, match=r"a condition must return a bool or a 0-d bool tensor, got tensor"):
            tx.update(torch.ones(1), tx.init(torch.ones(1)), torch.ones(1))
        with pytest.raises(ft.StructureError, match="ConditionState was given a EmptyState"):
            tx.update(torch.ones(1), ft.EmptyState(), torch.ones(1))
