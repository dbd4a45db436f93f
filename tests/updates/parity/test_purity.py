"""No set of options mutates an input, draws from a global generator, or knows more than its state."""

import io
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import functional_train as ft
from tests.trees import SHAPES, Witness, assert_bitwise, normal
from tests.updates.parity.options import OPTION_SETS, gradients

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex128, torch.complex64)


class Impurities(NamedTuple):
    """What was seen in one case."""

    mutates: bool
    differs: bool
    draws: bool


def holds(check: Any, *args: Any) -> bool:
    try:
        check(*args)
    except AssertionError:
        return False
    return True


def saved_and_loaded(tree: Any, like: Any) -> Any:
    """A tree that went through bytes."""
    buffer = io.BytesIO()
    torch.save(ft.tree.leaves(tree), buffer)
    buffer.seek(0)
    return ft.tree.unflatten(ft.tree.flatten(like)[1], torch.load(buffer, weights_only=True))


def observed(optimizer: ft.GradientTransformation, seed: int, dtype: torch.dtype, num_steps: int) -> Impurities:
    """A run that is saved half way, and its second half again from what was saved."""
    params: Any = [normal(seed + place, shape, dtype) for place, shape in enumerate(SHAPES)]
    generators = torch.get_rng_state()
    update_fn, reached, mutates = ft.make_update(optimizer), [(params, optimizer.init(params))], False
    for step in range(num_steps):
        grads, before = gradients(seed, step, params), reached[-1]
        inputs = Witness(params, grads, before)
        reached.append(update_fn(grads, before[1], before[0]))
        mutates = mutates or not holds(inputs.check)
    half = num_steps // 2
    again = saved_and_loaded(reached[half], (params, optimizer.init(params)))
    differs = False
    for step in range(half, num_steps):
        again = update_fn(gradients(seed, step, params), again[1], again[0])
        differs = differs or not holds(assert_bitwise, again, reached[step + 1])
    return Impurities(mutates, differs, not torch.equal(torch.get_rng_state(), generators))


def count(dtypes: tuple[torch.dtype, ...], seeds: range, num_steps: int) -> tuple[int, dict[str, int]]:
    """How many cases there are, and how many of them show each impurity."""
    cases = [
        observed(options.factory(**options.kwargs), seed, dtype, num_steps)
        for options in OPTION_SETS.values()
        for dtype in dtypes
        for seed in seeds
    ]
    return len(cases), {kind: sum(getattr(case, kind) for case in cases) for kind in Impurities._fields}


NONE = {"mutates": 0, "differs": 0, "draws": 0}


def test_no_case_is_impure() -> None:
    """0 of all cases mutate an input, differ on replay from a saved state, or touch the global generator."""
    assert count((torch.float32,), range(1), 2) == (len(OPTION_SETS), NONE)


@pytest.mark.slow
def test_no_case_is_impure_in_any_dtype() -> None:
    """So it is in every dtype, from three starts, over ten steps."""
    assert count(DTYPES, range(3), 10) == (len(OPTION_SETS) * len(DTYPES) * 3, NONE)


def test_impurities_are_seen() -> None:
    """An optimizer with each fault is found out."""
    calls: list[int] = []

    def writes(grads: Any, state: Any, params: Any, **extra: Any) -> tuple[Any, Any]:
        return ft.tree.map(lambda leaf: leaf.mul_(2), grads), state

    def remembers(grads: Any, state: Any, params: Any, **extra: Any) -> tuple[Any, Any]:
        calls.append(1)
        return ft.tree.scale(float(len(calls)), grads), state

    def draws(grads: Any, state: Any, params: Any, **extra: Any) -> tuple[Any, Any]:
        return ft.tree.map(lambda leaf: leaf + torch.rand(()), grads), state

    def init(params: Any) -> tuple[Tensor, ...]:
        return ()

    before = torch.get_rng_state()
    seen = [
        observed(ft.GradientTransformation(init, fault), 0, torch.float64, 4) for fault in (writes, remembers, draws)
    ]
    torch.set_rng_state(before)
    assert [one.mutates for one in seen] == [True, False, False]
    assert [one.differs for one in seen] == [False, True, True]
    assert [one.draws for one in seen] == [False, False, True]
