"""`fold`, `scan` and `iterate`: three ways to look at one run."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from tests.profiles import examples
from tests.trees import Witness, assert_bitwise, like, nestings, seeds, tensors

OPTIMIZERS = {
    "sgd": lambda: ft.sgd(0.1, momentum=0.9),
    "adam": lambda: ft.adam(0.1),
    "scheduled": lambda: ft.adamw(ft.schedules.warmup_cosine(0.1, 2, 6)),
}


def distance(params: Any, batch: Any, *, key: Tensor) -> Any:
    apart = ft.tree.sub(params, batch)
    loss = ft.tree.vdot(apart, apart) * ft.random.uniform(key, (), low=0.5, high=1.5)
    return loss, {"norm": ft.tree.global_norm(apart)}


def start(params: Any, name: str) -> tuple[Any, ft.TrainState]:
    optimizer = OPTIMIZERS[name]()
    step = ft.make_step(ft.grad_and_value(distance, has_aux=True), optimizer)
    return step, ft.init_state(params, optimizer, key=ft.random.key(1))


runs = given(nestings(tensors()), st.sampled_from(sorted(OPTIMIZERS)), st.lists(seeds(), max_size=5))


@runs
@settings(max_examples=examples(25))
def test_a_fold_over_a_sum_is_a_fold_after_a_fold(params: Any, name: str, drawn: list[int]) -> None:
    """fold(xs ++ ys) is fold(ys) after fold(xs), at every place to cut, bit for bit."""
    step, state = start(params, name)
    batches = [like(seed, params) for seed in drawn]
    whole = ft.fold(step, state, batches)
    for cut in range(len(batches) + 1):
        assert_bitwise(ft.fold(step, ft.fold(step, state, batches[:cut]), batches[cut:]), whole)
    assert int(whole.step) == len(batches)


@runs
@settings(max_examples=examples(25))
def test_the_three_agree(params: Any, name: str, drawn: list[int]) -> None:
    """scan's state is fold's and the last of iterate; scan's metrics are iterate's, stacked."""
    step, state = start(params, name)
    batches = [like(seed, params) for seed in drawn]
    pairs = list(ft.iterate(step, state, batches))
    last = pairs[-1][0] if pairs else state
    assert_bitwise(ft.fold(step, state, batches), last)
    if not pairs:
        with pytest.raises(ft.BatchesError, match="no batches"):
            ft.scan(step, state, batches)
        return
    scanned, metrics = ft.scan(step, state, iter(batches))
    assert_bitwise(scanned, last)
    assert_bitwise(metrics, ft.tree.stack([measured for _, measured in pairs]))
    assert metrics["loss"].shape == (len(batches),)


def test_no_batches_no_change() -> None:
    """A fold over nothing is the identity."""
    state = object()
    assert ft.fold(lambda state, batch: (None, {}), state, []) is state
    assert list(ft.iterate(lambda state, batch: (None, {}), state, [])) == []


def test_iterate_reads_as_it_goes() -> None:
    """A batch is read when its step is asked for, so an endless generator will do."""
    read: list[int] = []

    def endless() -> Iterator[int]:
        for number in range(10**9):
            read.append(number)
            yield number

    pairs = ft.iterate(lambda state, batch: (state + batch, {}), 0, endless())
    assert [next(pairs)[0] for _ in range(3)] == [0, 1, 3]
    assert read == [0, 1, 2]


@pytest.mark.parametrize("loop", [ft.fold, lambda *args: list(ft.iterate(*args)), ft.scan])
def test_the_first_state_stays(loop: Any) -> None:
    """A loop writes to no state, no batch."""
    step, state = start({"w": torch.ones(3)}, "adam")
    batches = [{"w": torch.full((3,), float(number))} for number in range(3)]
    witness = Witness(state, batches)
    loop(step, state, batches)
    witness.check()


def test_a_loop_can_be_differentiated() -> None:
    """A fold inside a loss has a slope: the learning rate that it was run with can be learned."""

    def after(lr: Tensor) -> Tensor:
        optimizer = ft.sgd(lr)
        step = ft.make_step(ft.grad_and_value(lambda w, batch: (w * batch).square().sum() / 2), optimizer)
        state = ft.init_state(torch.ones(2, dtype=torch.float64), optimizer)
        return ft.fold(step, state, [torch.ones(2, dtype=torch.float64)] * 3).params.sum()

    # Each step multiplies w by 1 - lr: two times 1 * (1 - lr)**3, whose slope is -6 * (1 - lr)**2.
    slope = ft.grad(after)(torch.tensor(0.25, dtype=torch.float64))
    torch.testing.assert_close(slope, torch.tensor(-6 * 0.75**2, dtype=torch.float64), rtol=1e-14, atol=0)
