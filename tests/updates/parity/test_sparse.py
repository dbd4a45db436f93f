"""Adagrad takes the sparse gradients of embeddings, as torch.optim.Adagrad does."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from tests.profiles import examples
from tests.trees import Witness, assert_close, like, normal, seeds
from tests.updates.parity.options import CLASSES, FOR_LOOP, Torchs

KWARGS: list[dict[str, Any]] = [
    {},
    {"lr": 0.1, "lr_decay": 0.5, "initial_accumulator_value": 0.3, "eps": 1e-3},
    {"maximize": True},
    {"lr": torch.tensor(0.1, dtype=torch.float64)},
]


def sparse(seed: int, rows: list[int], shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """A gradient of an embedding; rows may come twice and in any order."""
    values = normal(seed, (len(rows), *shape[1:]), dtype)
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, shape, check_invariants=True)


@pytest.mark.parametrize("kwargs", KWARGS, ids=str)
@given(st.lists(st.lists(st.integers(0, 5), max_size=8), min_size=4, max_size=4), seeds(), st.booleans())
@settings(max_examples=examples(20))
def test_sparse_gradients_equal_torchs(
    kwargs: dict[str, Any], rows: list[list[int]], seed: int, has_dense: bool
) -> None:
    """Rows that come twice, and none at all; beside dense gradients and absent ones. No input changes."""
    params: dict[str, Any] = {"table": normal(seed, (6, 3)), "vector": normal(seed + 1, (6,)), "dense": normal(2, (4,))}
    torchs = Torchs(CLASSES["Adagrad"]._replace(kwargs=kwargs), list(params.values()), FOR_LOOP)
    optimizer = ft.adagrad(**kwargs)
    update_fn, state = ft.make_update(optimizer), optimizer.init(params)
    for step, touched in enumerate(rows):
        grads = {
            "table": sparse(seed + step, touched, (6, 3)),
            "vector": None if step == 2 else sparse(seed + step + 1, touched[::-1], (6,)),
            "dense": like(step, params["dense"]) if has_dense else None,
        }
        # torch's Adagrad makes sparse tensors of its own, and warns that it does not check them.
        with torch.sparse.check_sparse_tensor_invariants():
            expected = torchs.step(list(grads.values()))
        inputs = Witness(params, state, [grad.to_dense() for grad in grads.values() if grad is not None])
        params, state = update_fn(grads, state, params)
        inputs.check()
        assert_close(params, dict(zip(params, expected, strict=True)), 1e-12)
        sums: Any = ft.tree.get(state, "sum")
        assert_close(sums, dict(zip(params, torchs.part("sum"), strict=True)), 1e-12)


def test_a_sparse_gradient_touches_nothing_else() -> None:
    """The update is as sparse as the gradient, the state dense, and rows that are not touched keep their bits."""
    params = {"table": normal(0, (1000, 2))}
    optimizer = ft.adagrad(0.1)
    state = optimizer.init(params)
    updates, state = optimizer.update({"table": sparse(1, [7, 3, 7], (1000, 2))}, state, params)
    assert updates["table"].layout is torch.sparse_coo
    assert updates["table"].coalesce().indices().tolist() == [[3, 7]]
    assert ft.tree.get(state, "sum")["table"].nonzero()[:, 0].unique().tolist() == [3, 7]
    moved = ft.apply_updates(params, updates)["table"]
    assert (moved != params["table"]).any(1).nonzero().flatten().tolist() == [3, 7]


def test_sixteen_bits_take_sparse_gradients() -> None:
    """They are computed in float32, as dense ones are, and keep their dtype."""
    params = {"table": normal(0, (6, 3)).bfloat16()}
    grads = {"table": sparse(1, [1, 4], (6, 3), torch.bfloat16)}
    optimizer = ft.adagrad(0.1)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    dense, dense_state = optimizer.update({"table": grads["table"].to_dense()}, optimizer.init(params), params)
    assert torch.equal(updates["table"].to_dense(), dense["table"])
    assert torch.equal(ft.tree.get(state, "sum")["table"], ft.tree.get(dense_state, "sum")["table"])
