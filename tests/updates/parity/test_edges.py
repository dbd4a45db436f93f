"""Numbers that are not finite, leaves that share memory, and sixteen bits."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from tests.profiles import examples
from tests.trees import (
    SHAPES,
    Witness,
    assert_bitwise,
    assert_close,
    like,
    nestings,
    normal,
    relative_difference,
    seeds,
    tensors,
)
from tests.updates.parity.options import FOR_LOOP, OPTION_SETS, Torchs

INF, NAN = float("inf"), float("nan")


def spoiled(leaf: Tensor, seed: int) -> Tensor:
    """A leaf with inf, -inf and nan in its first entries, as far as it has that many."""
    flat = leaf.flatten().clone()
    bad = torch.tensor([INF, -INF, NAN], dtype=leaf.dtype).roll(seed)
    flat[: min(3, flat.numel())] = bad[: flat.numel()]
    return flat.reshape(leaf.shape)


@pytest.mark.parametrize("name", OPTION_SETS)
@pytest.mark.parametrize("first", [0, 8])
def test_what_is_not_finite_spreads_as_in_torch(name: str, first: int) -> None:
    """inf and nan come where torch has them at the step that meets them, and stay in the entries that they hit.

    From then on an entry of inf may be nan here: what is added to inf to decay it is -inf.
    """
    options = OPTION_SETS[name]
    params = [normal(place, shape) for place, shape in enumerate(SHAPES)]
    torchs, optimizer = Torchs(options, params, FOR_LOOP), options.factory(**options.kwargs)
    update_fn, state = ft.make_update(optimizer), optimizer.init(params)
    for step in range(first + 4):
        grads = [normal(100 * step + place, shape) for place, shape in enumerate(SHAPES)]
        if step == first:
            grads = [spoiled(grad, place) for place, grad in enumerate(grads)]
        expected = torchs.step(grads)
        params, state = update_fn(grads, state, params)
        for ours, theirs in zip(params, expected, strict=True):
            finite = torch.isfinite(theirs)
            assert torch.equal(torch.isfinite(ours), finite), step
            assert relative_difference(ours[finite], theirs[finite]) <= 1e-12
            if step == first:
                assert torch.equal(ours.isnan(), theirs.isnan())
                assert torch.equal(ours[theirs.isinf()], theirs[theirs.isinf()])


def shared() -> dict[str, Tensor]:
    """One tensor at two places, views that overlap, an expanded leaf, and a transposed one."""
    base, tied = normal(0, (12,)), normal(1, (2, 3))
    views = {"a": base[:6], "b": base[3:9], "expanded": base[:1].expand(4), "strided": base[::3]}
    return {"tied": tied, "again": tied, "turned": tied.T, **views}


@pytest.mark.parametrize("name", OPTION_SETS)
def test_leaves_that_share_memory_are_apart(name: str) -> None:
    """Each leaf moves by its own gradient, itself an input that is shared, and no input changes."""
    options = OPTION_SETS[name]
    params: dict[str, Any] = shared()
    torchs, optimizer = Torchs(options, list(params.values()), FOR_LOOP), options.factory(**options.kwargs)
    update_fn, state = ft.make_update(optimizer), optimizer.init(params)
    for step in range(4):
        whole = normal(step + 10, (6,))
        grads: dict[str, Any] = like(step, params) | {
            "a": whole,
            "b": whole,
            "expanded": whole[:1].expand(4),
            "tied": whole.reshape(2, 3),
            "again": None if step == 1 else normal(step, (3, 2)).T,
        }
        expected = torchs.step([grads[path] for path in params])
        inputs = Witness(params, grads, state)
        moved, state = update_fn(grads, state, params)
        inputs.check()
        params = moved
        assert_close(params, dict(zip(params, expected, strict=True)), 1e-12)


@settings(max_examples=examples(30))
@given(nestings(tensors()), seeds(), st.sampled_from(sorted(OPTION_SETS)), st.data())
def test_containers_play_no_part(params: Any, seed: int, name: str, data: st.DataObject) -> None:
    """Random trees follow torch.optim too."""
    options = OPTION_SETS[name]
    leaves, structure = ft.tree.flatten(params)
    torchs, optimizer = Torchs(options, leaves, FOR_LOOP), options.factory(**options.kwargs)
    state, expected = optimizer.init(params), leaves
    for step in range(4):
        absent = data.draw(st.sets(st.integers(0, len(leaves) - 1)))
        grads = [None if place in absent else like(seed + step, leaf) for place, leaf in enumerate(leaves)]
        expected = torchs.step(grads)
        params, state = ft.make_update(optimizer)(ft.tree.unflatten(structure, grads), state, params)
    assert_close(params, ft.tree.unflatten(structure, expected), 1e-12)


@pytest.mark.parametrize("name", OPTION_SETS)
def test_a_leaf_without_gradients_rests(name: str) -> None:
    """When no leaf has a gradient, nothing moves, the counts included."""
    options = OPTION_SETS[name]
    params = {"a": normal(0, (3,)), "b": normal(1, (2, 2))}
    optimizer = options.factory(**options.kwargs)
    moved, state = ft.make_update(optimizer)(like(2, params), optimizer.init(params), params)
    nothing = {"a": None, "b": None}
    assert_bitwise(ft.make_update(optimizer)(nothing, state, moved), (moved, state))
    assert_bitwise(optimizer.update(nothing, state, moved), (nothing, state))


FARTHER = {
    # With alpha 1 the square stays zero and a direction is a gradient over eps, which torch rounds once, with the sum.
    ("RMSprop-more 2", torch.bfloat16): 1.02,
    # All lengths are among five numbers, and it is chance on which side of each its neighbor of 16 bits lies.
    ("Rprop-more 0", torch.float16): 1.025,
}


def distances(name: str, dtype: torch.dtype, size: int) -> tuple[float, float]:
    """How far sixteen bits lead ours, and torch's for-loop, from the same run in float64."""
    options = OPTION_SETS[name]
    params = [normal(0, (size,)).to(dtype)]
    exact, low = Torchs(options, [params[0].double()], FOR_LOOP), Torchs(options, params, FOR_LOOP)
    optimizer = options.factory(**options.kwargs)
    update_fn, state = ft.make_update(optimizer), optimizer.init(params)
    expected = theirs = params
    for step in range(30):
        grads = [normal(step + 1, (size,)).to(dtype)]
        expected, theirs = exact.step([grads[0].double()]), low.step([grads[0]])
        params, state = update_fn(grads, state, params)
    assert params[0].dtype == dtype
    return (params[0].double() - expected[0]).norm().item(), (theirs[0].double() - expected[0]).norm().item()


@pytest.mark.parametrize("name", OPTION_SETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_is_as_near_as_torchs(name: str, dtype: torch.dtype) -> None:
    """Sixteen-bit parameters and moments keep their dtype and stay no farther from float64 than torch's for-loop."""
    ours, theirs = distances(name, dtype, 2**15)
    # In float16 the eps of some methods is zero, and torch's parameters are nan.
    if math.isfinite(theirs):
        # Both walk at random on the grid of the dtype: over so many numbers the ratio is known to half a percent.
        assert ours <= FARTHER.get((name, dtype), 1.005) * theirs
