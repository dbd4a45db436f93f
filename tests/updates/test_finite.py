"""Gradients that are not finite."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from tests.oracles.load import Problem
from tests.oracles.problem import GRADIENTS
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, nestings, normal, seeds, tensors
from tests.updates.oracle_runs import distance

Tree = Any
BAD = [torch.nan, torch.inf, -torch.inf]
CLIPPED = ft.chain(ft.clip_by_global_norm(1.0), ft.adamw(ft.schedules.linear(0.1, 0.0, 9)))


@given(nestings(tensors(shapes=((), (3,), (2, 2)))), seeds(), st.sampled_from(BAD), st.data())
@settings(max_examples=examples(30))
def test_bad_gradients_change_no_bit(params: Tree, seed: int, bad: float, data: Any) -> None:
    """One number that is not finite, anywhere, and neither parameters nor the state inside change; then all goes on as
    if the gradients had never come."""
    grads = [like(seed + step, params) for step in range(2)]
    place = data.draw(st.integers(0, len(ft.tree.leaves(params)) - 1))
    leaves, structure = ft.tree.flatten(grads[0])
    leaves[place] = leaves[place].clone()
    leaves[place].view(-1)[-1] = bad
    spoiled = ft.tree.unflatten(structure, leaves)

    tx = ft.apply_if_finite(CLIPPED)
    update_fn = ft.make_update(tx)
    before = update_fn(grads[0], tx.init(params), params)
    kept = update_fn(spoiled, before[1], before[0])
    assert_bitwise((kept[0], kept[1].inner), (before[0], before[1].inner))
    updates, _ = tx.update(spoiled, before[1], before[0])
    assert_bitwise(ft.apply_updates(before[0], updates), before[0])
    assert (int(kept[1].num_consecutive_errors), int(kept[1].num_errors)) == (1, 1)
    after = update_fn(grads[1], kept[1], kept[0])
    assert (int(after[1].num_consecutive_errors), int(after[1].num_errors)) == (0, 1)
    alone = CLIPPED.init(params), params
    for grad in grads:
        alone = ft.make_update(CLIPPED)(grad, alone[0], alone[1])[::-1]
    assert_bitwise((after[1].inner, after[0]), alone)


def test_too_many_in_a_row_are_let_through() -> None:
    """Two are left out and the third is not."""
    tx = ft.apply_if_finite(ft.sgd(1.0), max_consecutive_errors=2)
    params, state = torch.zeros(1), tx.init(torch.zeros(1))
    seen = []
    for grad in (torch.nan, torch.nan, 1.0, torch.nan, torch.nan, torch.nan):
        params, state = ft.make_update(tx)(torch.full((1,), grad), state, params)
        seen.append(params.item())
    assert seen[:5] == [0.0, 0.0, -1.0, -1.0, -1.0]
    assert seen[5] != seen[5]
    assert int(state.num_errors) == 5


def test_members_are_left_out_one_by_one() -> None:
    """Under vmap one member's nan stops that member only, and so may the number of errors that are borne differ."""
    params = normal(0, (4, 3))
    grads = normal(1, (4, 3))
    grads[1, 0] = grads[2, 0] = torch.nan

    def member(param: Tensor, grad: Tensor, most: Tensor) -> Tree:
        tx = ft.apply_if_finite(ft.adam(0.1), most)
        return ft.make_update(tx)(grad, tx.init(param), param)

    most = torch.tensor([1, 1, 0, 0])
    together = torch.func.vmap(member)(params, grads, most)
    alone = [member(*row) for row in zip(params, grads, most, strict=True)]
    assert_close(torch.cat([together[0][:2], together[0][3:]]), torch.stack([alone[i][0] for i in (0, 1, 3)]), 1e-13)
    assert torch.equal(together[0][1], params[1])
    assert together[0][2].isnan().any()


def test_large_numbers_are_finite() -> None:
    """Numbers whose squares are not finite are; integers always are; a tree without numbers is."""
    assert ft.tree.all_finite({"a": torch.full((3,), 3e38), "n": torch.tensor(3), "none": None, "z": torch.zeros(0)})
    assert ft.tree.all_finite(())
    for dtype in (torch.float16, torch.bfloat16, torch.complex64):
        assert ft.tree.all_finite(torch.ones(3, dtype=dtype))
        for bad in BAD:
            assert not ft.tree.all_finite([torch.ones(3), torch.tensor([1.0, bad], dtype=dtype)])


SPOILED = {2, 7, 8, 9}


@pytest.mark.parametrize("problem", ["given", "quadratic"])
@pytest.mark.parametrize(("case", "most"), [("apply_if_finite", 2), ("apply_if_finite_patient", 5)])
def test_leads_where_optax_leads(case: str, most: int, problem: Problem) -> None:
    """Optax's rule, nan for nan."""

    def gradient(step: int, params: dict[str, Tensor]) -> dict[str, Tensor]:
        grads = GRADIENTS[problem](step, params)
        if step in SPOILED:
            grads["vector"] = torch.cat([torch.tensor([torch.nan]), grads["vector"][1:]])
        return grads

    tx = ft.apply_if_finite(ft.adam(0.05), most)
    assert distance(tx, "optax", case, problem, gradient=gradient) <= 1e-10


def test_zero_nans_leaves_the_rest() -> None:
    grads = torch.tensor([1.0, torch.nan, -torch.inf])
    assert torch.equal(ft.zero_nans().update(grads, ft.EmptyState(), None)[0], torch.tensor([1.0, 0.0, -torch.inf]))


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ft.HyperparameterError, match=r"max_consecutive_errors must be an int >= 0, got -1. 5 is usual"):
        ft.apply_if_finite(ft.sgd(), -1)
    with pytest.raises(ft.StructureError, match="apply_if_finite takes a GradientTransformation"):
        ft.apply_if_finite(None)  # type: ignore[arg-type]
