"""Measurements of what passes through a chain."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings

import functional_train as ft
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, nestings, normal, seeds, tensors, without

Tree = Any


def sizes(updates: Tree, params: Tree) -> Tree:
    return {"norm": ft.tree.global_norm(updates), "norms": ft.tree.norms(ft.tree.combine(updates, params))}


@given(nestings(tensors()), seeds())
@settings(max_examples=examples(25))
def test_measures_and_changes_nothing(params: Tree, seed: int) -> None:
    """A chain with monitors anywhere trains to the same bits, and they hold what passed them."""
    plain = ft.chain(ft.clip_by_global_norm(1.0), ft.add_momentum(0.5), ft.scale_by_lr(0.1))
    watched = ft.chain(
        ft.monitor(sizes), ft.clip_by_global_norm(1.0), ft.add_momentum(0.5), ft.scale_by_lr(0.1), ft.monitor(sizes)
    )
    old, new = (params, plain.init(params)), (params, watched.init(params))
    for step in range(2):
        grads = without(like(seed + step, params), lambda place: place == 1)
        updates, _ = plain.update(grads, old[1], old[0])
        old = ft.make_update(plain)(grads, old[1], old[0])
        new = ft.make_update(watched)(grads, new[1], new[0])
        assert_bitwise((new[0], new[1][1:-1]), old)
        assert_bitwise(new[1][0].measured["norm"], ft.tree.global_norm(grads))
        assert_bitwise(new[1][-1].measured["norm"], ft.tree.global_norm(updates))


def test_is_mapped_and_traced() -> None:
    tx = ft.chain(ft.monitor(sizes), ft.sgd(0.1))
    members = normal(0, (3, 2))
    states = torch.func.vmap(lambda p: tx.update(p, tx.init(p), p)[1])(members)
    assert_close(states[0].measured["norm"], members.norm(dim=1), 1e-13)
    params = {"w": normal(1, (3,))}
    traced = torch.compile(tx.update, backend="aot_eager", fullgraph=True)
    assert_close(traced(params, tx.init(params), params), tx.update(params, tx.init(params), params), 1e-13)


def test_another_tree_of_measurements_is_refused() -> None:
    """A state keeps its structure."""
    tx = ft.monitor(lambda updates, params: [torch.ones(1)] if updates[0].sum() == 0 else (torch.ones(1),))
    with pytest.raises(ft.StructureError, match=r"measured at init and what is measured now differ.*keeps its struct"):
        tx.update([torch.ones(1)], tx.init([torch.ones(1)]), [torch.ones(1)])
