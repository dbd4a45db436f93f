"""Rules over columns see leaves in another form, and hand them back in their own."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import filled_like, over_wide_reals
from functional_train.values.tree._sparse import over_touched
from tests.trees import Witness, assert_bitwise, normal, seeds

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.complex128)


def doubled(*columns: Flat) -> tuple[Flat, ...]:
    return tuple([ft.tree.add(column, column) for column in columns])


@given(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4), seeds())
def test_wide_reals_are_handed_back_in_their_own_dtypes(dtypes: list[torch.dtype], seed: int) -> None:
    """What a rule sees is real and at least 32 bits wide; what it makes has the dtypes and shapes that came in."""
    tree = [normal(seed + place, (3,), dtype) for place, dtype in enumerate(dtypes)]
    wide: Any = [leaf.float() if leaf.element_size() == 2 else leaf for leaf in tree]
    seen: list[Tensor] = []

    def rule(g: Flat, state: Flat) -> tuple[Flat, ...]:
        seen.extend(g.leaves + state.leaves)
        return doubled(g, state)

    g, state = ft.tree.flat(tree, wide)
    made = over_wide_reals(rule, g, state)
    assert {leaf.dtype for leaf in seen} <= {torch.float32, torch.float64}
    assert [leaf.shape for leaf in seen] == [(3, 2) if leaf.is_complex() else (3,) for leaf in tree + wide]
    assert_bitwise(made[0].tree(), [2 * leaf for leaf in tree])
    assert_bitwise(made[1].tree(), [2 * leaf for leaf in wide])


def test_conjugates_are_resolved() -> None:
    """A lazily conjugated leaf is its conjugate."""
    leaf = normal(0, (3,), torch.complex128)
    (column,) = ft.tree.flat([leaf.conj()])
    assert_bitwise(over_wide_reals(doubled, column)[0].tree(), [(2 * leaf).conj().resolve_conj()])


@pytest.mark.parametrize("value", [0.25, torch.tensor(0.25, dtype=torch.float64), torch.tensor(0.25)], ids=repr)
def test_filled_like_fills_both_parts(value: Any) -> None:
    """A tree of one number, in the dtypes, shapes and layouts of another."""
    tree = [normal(0, (), dtype) for dtype in DTYPES] + [normal(0, (2, 3), dtype).T for dtype in DTYPES]
    filled: list[Tensor] = filled_like(tree, value)
    for new, old in zip(filled, tree, strict=True):
        assert new.dtype == old.dtype
        assert new.stride() == old.stride()
        parts = torch.view_as_real(new) if new.is_complex() else new
        assert (parts == 0.25).all()
    assert_bitwise(filled_like({"n": torch.tensor(3), "none": None}, 0.0), {"n": torch.tensor(0), "none": None})


def test_rules_see_touched_rows_only() -> None:
    """Rows in order and once, their states beside them, dense leaves whole; what is not touched stays, bit for bit."""
    indices = torch.tensor([[4, 1, 4]])
    slope = torch.sparse_coo_tensor(indices, torch.tensor([1.0, 2.0, 3.0]), (6,), check_invariants=True)
    states = [normal(0, (6,), torch.float32), normal(1, (2,), torch.float32)]
    g, state = ft.tree.flat([slope, torch.ones(2)], states)
    held = Witness(states)
    seen: list[list[Tensor]] = []

    def rule(*columns: Flat) -> tuple[Flat, ...]:
        seen.extend(column.leaves for column in columns)
        return doubled(*columns)

    direction, new = over_touched(rule, g, state)
    held.check()
    assert_bitwise(seen[0], [torch.tensor([2.0, 4.0]), torch.ones(2)])
    assert_bitwise(seen[1], [states[0][[1, 4]], states[1]])
    assert direction.leaves[0].layout is torch.sparse_coo
    assert direction.leaves[0].to_dense().tolist() == [0.0, 4.0, 0.0, 0.0, 8.0, 0.0]
    factor = torch.tensor([1.0, 2.0, 1.0, 1.0, 2.0, 1.0])
    assert_bitwise(new.tree(), [factor * states[0], 2 * states[1]])


def test_dense_gradients_pass_as_they_are() -> None:
    """Where no gradient is sparse, the rule is given the columns themselves."""
    g, state = ft.tree.flat([torch.ones(2)], [torch.zeros(2)])
    assert over_touched(lambda *columns: columns, g, state) == (g, state)
