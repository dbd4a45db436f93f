"""Averages of parameters are torch's, and leave training alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import swa_utils

import functional_train as ft
from tests.global_rng import seeded
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, nestings, normal, seeds, tensors, without

Tree = Any
NUM_STEPS = 7
# torch's `get_swa_multi_avg_fn` divides by a count in float32; its function of one leaf does not.
AVERAGES: dict[str, tuple[Callable[[], ft.GradientTransformation], dict[str, Any], float]] = {
    "ema": (lambda: ft.ema_params(0.9), {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.9)}, 1e-12),
    "ema of a leaf": (lambda: ft.ema_params(0.9), {"avg_fn": swa_utils.get_ema_avg_fn(0.9)}, 1e-12),
    "swa": (ft.swa_params, {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn()}, 1e-7),
    "swa of a leaf": (ft.swa_params, {"avg_fn": swa_utils.get_swa_avg_fn()}, 1e-12),
}


def models() -> tuple[nn.Module, swa_utils.AveragedModel, dict[str, Tensor]]:
    with seeded():
        module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return module, swa_utils.AveragedModel(module), {k: v.detach().clone() for k, v in module.named_parameters()}


@pytest.mark.parametrize("name", AVERAGES)
def test_is_that_of_torch(name: str) -> None:
    """The parameters of AveragedModel after each step of AdamW, to rounding."""
    make, theirs, tolerance = AVERAGES[name]
    module, _, params = models()
    averaged = swa_utils.AveragedModel(module, **theirs)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    tx = ft.chain(ft.adamw(0.1), make())
    state = tx.init(params)
    for step in range(NUM_STEPS):
        grads = like(step, params)
        for key, parameter in module.named_parameters():
            parameter.grad = grads[key].clone()
        optimizer.step()
        averaged.update_parameters(module)
        params, state = ft.make_update(tx)(grads, state, params)
        expected = {key: value.detach().clone() for key, value in averaged.module.named_parameters()}
        assert_close(ft.averaged_params(state), expected, tolerance)


def test_the_mean_of_a_schedule_of_updates_is_that_of_torch() -> None:
    """torch's loop of stochastic weight averaging: from an update on, at the end of each cycle."""
    module, averaged, params = models()
    tx = ft.chain(ft.sgd(0.1), ft.swa_params(start=2, every=2))
    state = tx.init(params)
    for step in range(NUM_STEPS):
        params, state = ft.make_update(tx)(like(step, params), state, params)
        if step + 1 > 2 and (step + 1 - 2) % 2 == 0:
            averaged.update_parameters(ft.merge(module, params))
        started = step + 1 >= 4
        expected = {key: value.detach().clone() for key, value in averaged.module.named_parameters()}
        assert_close(ft.averaged_params(state), expected if started else params, 1e-13)


def by_hand(weights: list[float], points: list[Tree]) -> Tree:
    total = sum(weights)
    terms = [ft.tree.scale(weight / total, point) for weight, point in zip(weights, points, strict=True)]
    return ft.tree.map(lambda *leaves: torch.stack(leaves).sum(0), *terms)


@given(nestings(tensors()), seeds(), st.floats(0.0, 0.99), st.integers(1, 3))
@settings(max_examples=examples(25))
def test_is_its_formula(params: Tree, seed: int, decay: float, every: int) -> None:
    """With `debias` the weights are powers of the decay, without it the first has the rest; the mean is a mean."""
    kinds = [ft.ema_params(decay), ft.ema_params(decay, debias=True), ft.swa_params(0, every)]
    optimizer = ft.chain(ft.sgd(0.1), *kinds)
    state, points = optimizer.init(params), []
    for step in range(4):
        params, state = ft.make_update(optimizer)(like(seed + step, params), state, params)
        points.append(params)
    powers = [decay ** (3 - step) for step in range(4)]
    assert_close(state[1].average, by_hand([powers[0], *[(1 - decay) * one for one in powers[1:]]], points), 1e-12)
    assert_close(state[2].average, by_hand(powers, points), 1e-12)
    taken = points[every - 1 :: every]
    assert_close(state[3].average, by_hand([1.0] * len(taken), taken), 1e-12)


@given(nestings(tensors()), seeds(), st.integers(0, 3))
@settings(max_examples=examples(25))
def test_training_does_not_notice(params: Tree, seed: int, lost: int) -> None:
    """Parameters and optimizer state are bit for bit those of training without an average, kernels included; the
    average of a leaf that has no gradient stays; and `update` sees what `make_update` sees."""
    plain = ft.adamw(0.1)
    watched = ft.chain(ft.chain(ft.adamw(0.1), ft.ema_params(ft.schedules.constant(0.5))), ft.identity())
    old, new = (params, plain.init(params)), (params, watched.init(params))
    for step in range(3):
        grads = without(like(seed + step, params), lambda place: place == lost)
        before = new
        old = ft.make_update(plain)(grads, old[1], old[0])
        new = ft.make_update(watched)(grads, new[1], new[0])
        assert_bitwise((new[0], new[1][0][0]), old)
        _, state = watched.update(grads, before[1], before[0])
        assert_close(ft.averaged_params(state), ft.averaged_params(new[1]), 1e-12)
    if lost < len(ft.tree.leaves(params)):
        assert torch.equal(ft.tree.leaves(ft.averaged_params(new[1]))[lost], ft.tree.leaves(params)[lost])


def test_goes_on_in_float32_beside_16_bits() -> None:
    """An average in float32 moves where one in bfloat16 is stuck."""
    params = torch.zeros(1, dtype=torch.bfloat16)
    averages = [ft.ema_params(0.999, dtype=dtype) for dtype in (None, torch.float32)]
    optimizer = ft.chain(ft.sgd(1.0), *averages)
    state = optimizer.init(params)
    for grad in (-1.0, -0.0625, *[0.0] * 8):
        params, state = ft.make_update(optimizer)(torch.full_like(params, grad), state, params)
    assert state[1].average.dtype == torch.bfloat16
    assert state[1].average == 1.0
    assert state[2].average.dtype == torch.float32
    assert state[2].average.item() == pytest.approx(1.0625 - 0.0625 * 0.999**9)


def test_the_average_inside_sees_updates_only() -> None:
    """Inside `accumulate_updates` an average moves with each update, and not with each batch."""
    tx = ft.accumulate_updates(ft.chain(ft.sgd(1.0), ft.swa_params()), 2)
    params, state = torch.zeros(1), tx.init(torch.zeros(1))
    for _ in range(4):
        params, state = ft.make_update(tx)(torch.ones(1), state, params)
    assert ft.averaged_params(state).item() == -1.5


def test_an_average_is_found_or_missed() -> None:
    """One average anywhere in a state is found; none and two are errors that say so."""
    params = {"w": torch.ones(2)}
    state = ft.init_state(
        params, ft.chain(ft.sgd(), ft.chain(ft.identity(), ft.ema_params(ft.schedules.constant(0.5))))
    )
    assert_bitwise(ft.averaged_params(state.opt_state), params)
    assert_bitwise(ft.averaged_params(state), params)
    with pytest.raises(ft.StructureError, match=r"one average, and found 0. Put one ft\.ema_params\(\)"):
        ft.averaged_params(ft.adam().init(params))
    with pytest.raises(ft.StructureError, match=r"found 2.*pass the part that is meant"):
        ft.averaged_params(ft.chain(ft.ema_params(), ft.swa_params()).init(params))


def test_mistakes_are_explained() -> None:
    with pytest.raises(ft.HyperparameterError, match=r"decay must be in \[0, 1\), got 1.0. With 1.0 the average never"):
        ft.ema_params(1.0)
    with pytest.raises(ft.HyperparameterError, match=r"start must be an int >= 0, got -1"):
        ft.swa_params(-1)
    with pytest.raises(ft.HyperparameterError, match=r"every must be an int >= 1, got 1.5"):
        ft.swa_params(0, 1.5)  # type: ignore[arg-type]
    tx = ft.ema_params()
    with pytest.raises(ft.StructureError, match="an average of parameters looks at the parameters"):
        tx.update([torch.ones(1)], tx.init([torch.ones(1)]), None)


def test_old_values_move_toward_new() -> None:
    """Part of the way for what is floating; what counts is taken over; all of it, at once, each so many steps."""
    old = {"mean": torch.zeros(2), "count": torch.tensor(3), "none": None}
    new = {"mean": torch.ones(2), "count": torch.tensor(5), "none": None}
    moved = ft.incremental_update(new, old, 0.25)
    assert_bitwise(moved, {"mean": torch.full((2,), 0.25), "count": torch.tensor(5), "none": None})
    half = torch.func.vmap(lambda size: ft.incremental_update(new, old, size)["mean"])(torch.tensor([0.0, 1.0]))
    assert torch.equal(half, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    for step in range(5):
        expected = new if step % 2 == 0 else old
        assert_bitwise(ft.periodic_update(new, old, step, 2), expected)
        assert_bitwise(ft.periodic_update(new, old, torch.tensor(step), torch.tensor(2)), expected)
    with pytest.raises(ft.HyperparameterError, match="step_size must be a finite number >= 0"):
        ft.incremental_update(new, old, -0.1)
    with pytest.raises(ft.HyperparameterError, match="every must be an int >= 1, got 0"):
        ft.periodic_update(new, old, 1, 0)
    with pytest.raises(ft.StructureError, match="trees differ"):
        ft.incremental_update({"mean": torch.ones(2)}, old, 0.1)


def test_a_target_network_follows_like_torch() -> None:
    """A chain of `incremental_update` is torch's average with a decay, over parameters and buffers."""
    averaged = points = None
    for step in range(4):
        points = {"w": normal(step, (2, 2)), "n": torch.tensor(step)}
        averaged = points if averaged is None else ft.incremental_update(points, averaged, 0.1)
    expected = normal(0, (2, 2))
    for step in range(1, 4):
        expected = 0.9 * expected + 0.1 * normal(step, (2, 2))
    assert_close(averaged, {"w": expected, "n": torch.tensor(3)}, 1e-14)
