"""Slow weights behind fast ones."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import functional_train as ft
from tests.oracles.load import Problem
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, nestings, normal, seeds, tensors
from tests.updates.oracle_runs import distance

Tree = Any


@given(nestings(tensors()), seeds(), st.integers(1, 4), st.floats(0.0, 1.0))
@settings(max_examples=examples(25))
def test_is_algorithm_1(params: Tree, seed: int, every: int, alpha: float) -> None:
    """Two nested loops: the inner optimizer k times from the slow weights, then a part of the way to where it led."""
    inner, tx = ft.sgd(0.1, momentum=0.9), ft.lookahead(ft.sgd(0.1, momentum=0.9), every, alpha)
    fast = slow = reached = params
    inner_state, state = inner.init(params), tx.init(params)
    for outer in range(2):
        for step in range(every):
            grads = like(seed + 10 * outer + step, params)
            fast, inner_state = ft.make_update(inner)(grads, inner_state, fast)
            if step == every - 1:
                slow = fast = ft.tree.map(lambda low, high: low + alpha * (high - low), slow, fast)
            before = reached
            updates, _ = tx.update(grads, state, before)
            reached, state = ft.make_update(tx)(grads, state, before)
            assert_close(reached, fast, 1e-13)
            assert_close(ft.apply_updates(before, updates), reached, 1e-13)
            assert_close(state.slow, slow, 1e-13)
        assert_bitwise(state.slow, reached)


def test_a_leaf_meets_after_its_own_updates() -> None:
    """A leaf without a gradient keeps its state, and meets when it has had `every` updates of its own."""
    tx = ft.lookahead(ft.sgd(1.0), every=2)
    params = {"a": torch.zeros(1), "b": torch.zeros(1)}
    state, one = tx.init(params), torch.ones(1)
    for grads in ({"a": None, "b": one}, {"a": one, "b": None}, {"a": one, "b": one}):
        params, state = ft.make_update(tx)(grads, state, params)
    assert [leaf.item() for leaf in ft.tree.leaves((params, state.slow))] == [-1.0, -1.0, -1.0, -1.0]
    assert list(state.step) == [2, 2]


@pytest.mark.parametrize("problem", ["given", "quadratic"])
def test_leads_where_others_lead(problem: Problem) -> None:
    """Fast and slow weights of Optax, and those of pytorch_optimizer."""
    tx = ft.lookahead(ft.sgd(0.05), 5, 0.5)
    assert distance(tx, "optax", "lookahead", problem) <= 1e-10
    slow = distance(tx, "optax", "lookahead", problem, point="eval_params", read=lambda params, state: state.slow)
    assert slow <= 1e-10
    assert distance(tx, "pytorch_optimizer", "lookahead", problem) <= 1e-10


def test_alpha_may_be_a_schedule_and_both_may_be_tensors() -> None:
    params, grads = normal(0, (3,)), normal(1, (3,))

    def reached(every: Any, alpha: Any) -> torch.Tensor:
        tx = ft.lookahead(ft.adam(0.1), every, alpha)
        current, state = params, tx.init(params)
        for _ in range(4):
            current, state = ft.make_update(tx)(grads, state, current)
        return current

    assert_close(reached(2, ft.schedules.constant(0.25)), reached(2, 0.25), 1e-13)
    together = torch.func.vmap(reached)(torch.tensor([1, 2, 3]), torch.tensor([0.5, 0.25, 0.75], dtype=torch.float64))
    assert_close(together, torch.stack([reached(1, 0.5), reached(2, 0.25), reached(3, 0.75)]), 1e-13)


def test_mistakes_are_explained() -> None:
    with pytest.raises(ft.HyperparameterError, match=r"every must be an int >= 1, got 0. 5 is usual"):
        ft.lookahead(ft.sgd(), 0)
    with pytest.raises(ft.HyperparameterError, match=r"alpha must be a finite number >= 0, got -1"):
        ft.lookahead(ft.sgd(), alpha=-1.0)
    with pytest.raises(ft.StructureError, match="lookahead takes a GradientTransformation"):
        ft.lookahead(ft.adam)  # type: ignore[arg-type]
    tx = ft.lookahead(ft.sgd())
    with pytest.raises(ft.StructureError, match="lookahead looks at the parameters, but its update was given None"):
        tx.update([torch.ones(1)], tx.init([torch.ones(1)]), None)
