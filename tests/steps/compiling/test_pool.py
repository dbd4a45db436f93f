"""Memory kept from call to call: nothing in use is handed out, and what leaves is not kept."""

import gc
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import functional_train as ft
from functional_train.steps.compiling._pool import Pool
from tests.global_rng import seeded
from tests.profiles import examples
from tests.trees import assert_bitwise, normal

SIZES = [(4,), (2, 2), (3,), (0, 5), ()]
STRIDES = {(4,): (1,), (2, 2): (1, 2), (3,): (1,), (0, 5): (5, 1), (): ()}
ACTIONS = st.lists(st.tuples(st.sampled_from(["take", "drop", "view", "end"]), st.integers(0, 9)), max_size=40)


def allocate(size: Any, stride: Any, dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype)


@given(ACTIONS)
@settings(max_examples=examples(100))
def test_no_memory_is_shared(actions: list[tuple[str, int]]) -> None:
    """Whatever is taken, dropped, looked at and given away: each tensor keeps the number that was written to it."""
    pool, held = Pool(allocate), []
    for number, (action, place) in enumerate(actions):
        if action == "take":
            size = SIZES[place % len(SIZES)]
            taken = pool(size, STRIDES[size], torch.float32)
            assert taken.shape == size
            assert taken.stride() == STRIDES[size]
            held.append((taken.fill_(number), number))
        elif held and action == "drop":
            held.pop(place % len(held))
        elif held and action == "view":
            tensor, expected = held.pop(place % len(held))
            held.append((tensor.view_as(tensor), expected))
            del tensor
        elif held and action == "end":
            pool.end([held[place % len(held)][0], None])
        assert all(tensor.eq(expected).all() for tensor, expected in held)


def test_memory_is_taken_again() -> None:
    """What is free serves the next tensor of its size and dtype, in any shape; another pool's call lets go of it."""
    made: list[Any] = []

    def counted(*arguments: Any) -> Tensor:
        made.append(arguments)
        return allocate(*arguments)

    pool = Pool(counted)
    for _ in range(3):
        pool((2, 3), (3, 1), torch.float32)
        pool((6,), (1,), torch.float32)
    assert len(made) == 1
    pool((6,), (1,), torch.float64)
    assert len(made) == 2
    pool.begin()
    pool.begin()
    pool((6,), (1,), torch.float64)
    assert len(made) == 2
    Pool(allocate).begin()
    pool((6,), (1,), torch.float64)
    assert len(made) == 3


def large_problem() -> tuple[ft.Compiled, ft.TrainState]:
    """A step whose tensors are worth keeping, and which returns large ones too."""
    with seeded():
        apply, params, _ = ft.functionalize(nn.Sequential(nn.Linear(8, 512), nn.Tanh(), nn.Linear(512, 512)))

    def loss_fn(params: Any, x: Tensor) -> tuple[Tensor, ft.Aux]:
        outputs = apply(params, x)
        return outputs.square().mean(), ft.Aux({"outputs": outputs})

    optimizer = ft.adam(1e-3)
    step = ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), optimizer)
    return ft.compile(step, donate=True), ft.init_state(params, optimizer)


def test_results_stay() -> None:
    """Large results of earlier calls keep their numbers, and the state can still be moved."""
    compiled, state = large_problem()
    kept: list[Tensor] = []
    copies: list[Tensor] = []
    for seed in range(4):
        state, metrics = compiled(state, normal(seed, (1024, 8), torch.float32))
        kept.append(metrics["outputs"])
        copies.append(metrics["outputs"].clone())
    assert_bitwise(kept, copies)
    assert len({tensor.data_ptr() for tensor in kept}) == 4
    addresses = [leaf.data_ptr() for leaf in ft.tree.leaves(state)]
    state, _ = compiled(state, normal(9, (1024, 8), torch.float32))
    assert [leaf.data_ptr() for leaf in ft.tree.leaves(state)] == addresses


def test_a_state_that_a_copying_step_made_can_be_moved() -> None:
    """The pool has no part of a state that leaves it."""
    compiled, state = large_problem()
    copying = ft.compile(compiled.__wrapped__)
    for seed in range(2):
        state, _ = copying(state, normal(seed, (1024, 8), torch.float32))
    gc.collect()
    addresses = [leaf.data_ptr() for leaf in ft.tree.leaves(state)]
    state, _ = compiled(state, normal(3, (1024, 8), torch.float32))
    assert [leaf.data_ptr() for leaf in ft.tree.leaves(state)] == addresses


@pytest.mark.parametrize("stride", [(1, 4), (8, 1)])
def test_strides_are_kept(stride: tuple[int, int]) -> None:
    """Transposed and padded tensors come as asked for."""
    pool = Pool(allocate)
    for _ in range(2):
        assert pool((4, 3), stride, torch.float32).stride() == stride


def test_sizes_that_are_not_asked_for_again_go() -> None:
    """A hundred lengths of batches leave the memory of one."""
    pool = Pool(allocate)
    for length in range(1, 101):
        pool.begin()
        taken = pool((length, 1000), (1000, 1), torch.float32)
        pool.end([])
        del taken
    assert [len(blocks) for blocks in pool._blocks.values()] == [1]
