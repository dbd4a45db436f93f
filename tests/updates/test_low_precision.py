"""Parameters of 16 bits: nothing that they cannot hold is lost, or all of it is right on average."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from tests.profiles import examples
from tests.trees import assert_bitwise, like, normal, seeds

WRAPPERS: dict[str, Callable[[ft.GradientTransformation], ft.GradientTransformation]] = {
    "kahan": ft.kahan,
    "stochastic_rounding": ft.stochastic_rounding,
    "master_weights": ft.master_weights,
}
DTYPES = (torch.bfloat16, torch.float16)


def handed_on() -> ft.GradientTransformation:
    """A transformation whose updates are the gradients, so that a test can choose them."""
    return ft.identity()


def updated(wrap: Any, p: Tensor, u: Tensor, seed: int = 0) -> tuple[Tensor, Any]:
    optimizer = wrap(handed_on())
    return ft.make_update(optimizer)(u, optimizer.init(p), p, key=ft.random.key(seed))


STEPPED = {"sgd": ft.sgd(2e-5), "adam": ft.adam(2e-5, (0.9, 0.95))}


def train(optimizer: ft.GradientTransformation, dtype: torch.dtype) -> Tensor:
    """1,000 steps of 2e-5: a 200th of what bfloat16 resolves between 1 and 2."""
    params = torch.linspace(1.03, 1.9, 500).to(torch.bfloat16).to(dtype)
    state, grads, update_fn = optimizer.init(params), torch.ones_like(params), ft.make_update(optimizer)
    for key in ft.random.split(ft.random.key(1), 1000).unbind():
        params, state = update_fn(grads, state, params, key=key)
    return params.double()


@functools.cache
def in_float32(name: str) -> Tensor:
    return train(STEPPED[name], torch.float32)


@pytest.mark.parametrize("name", STEPPED)
def test_plain_16_bits_stand_still(name: str) -> None:
    assert_bitwise(train(STEPPED[name], torch.bfloat16), torch.linspace(1.03, 1.9, 500).bfloat16().double())
    assert (in_float32(name) - torch.linspace(1.03, 1.9, 500).bfloat16()).max() < -0.019


@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.parametrize(("wrap", "allowed"), [(ft.master_weights, 1e-6), (ft.kahan, 1e-3)])
def test_small_steps_are_not_lost(name: str, wrap: Any, allowed: float) -> None:
    """With a copy, and with compensation, bfloat16 follows float32 to its last digit: numbers are 2^-7 apart.

    A compensation has digits of its own, of which each step rounds off up to 2^-17.
    """
    apart = train(wrap(STEPPED[name]), torch.bfloat16) - in_float32(name)
    assert apart.abs().max() < 2**-8 + allowed


@pytest.mark.parametrize("name", STEPPED)
def test_small_steps_are_not_lost_on_average(name: str) -> None:
    """Rounded by chance, 500 numbers follow float32 as a walk does whose 1,000 steps jump by 2^-7 with a chance of
    2e-5 / 2^-7 each: their spread is 0.0125, and that of their mean the root of 500 smaller."""
    apart = train(ft.stochastic_rounding(STEPPED[name]), torch.bfloat16) - in_float32(name)
    assert abs(apart.mean()) < 5 * 0.0125 / 500**0.5
    assert 0.01 < apart.std() < 0.015
    assert apart.abs().max() < 5 * 0.0125


@settings(max_examples=examples(50))
@given(seeds(), st.sampled_from(DTYPES), st.floats(-14, 9), st.integers(1, 20))
def test_kahan_loses_nothing(seed: int, dtype: torch.dtype, ratio: float, count: int) -> None:
    """Parameter and compensation together are the exact sum, up to the digits of the compensation, however large an
    update is beside its parameter."""
    p = normal(seed, (40,)).to(dtype)
    optimizer = ft.kahan(handed_on())
    state, total = optimizer.init(p), p.double()
    for number in range(count):
        u = (2.0**ratio * normal(seed + 1 + number, (40,))).to(dtype)
        size = torch.maximum(p.double().abs(), u.double().abs())
        p, state = ft.make_update(optimizer)(u, state, p)
        total = total + u.double()
        held = p.double() + state.compensation.double()
        # The compensation is at most an eps of the largest number in sight, and has an error of eps of that.
        eps = torch.finfo(dtype).eps
        tiny = torch.finfo(dtype).smallest_normal * eps
        assert ((held - total).abs() <= (number + 1) * (8 * eps**2 * size.max() + tiny)).all()


@settings(max_examples=examples(50))
@given(seeds(), st.sampled_from(DTYPES), st.floats(-14, 14))
def test_parameters_are_their_master_rounded(seed: int, dtype: torch.dtype, ratio: float) -> None:
    """To the bit where the update is not larger than the parameter; elsewhere to the last digit, and not for long."""
    p = normal(seed, (40,)).to(dtype)
    u = (2.0**ratio * normal(seed + 1, (40,))).to(dtype)
    optimizer = ft.master_weights(handed_on())
    new, state = ft.make_update(optimizer)(u, optimizer.init(p), p)
    assert_bitwise(state.master, p.float() + u.float())
    target = state.master.to(dtype)
    small = u.abs() <= p.abs()
    assert_bitwise(new[small], target[small])
    assert ((new.double() - target.double()).abs() <= torch.finfo(dtype).eps * target.double().abs()).all()
    again, _ = ft.make_update(optimizer)(torch.zeros_like(u), state, new)
    assert_bitwise(again, target)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ratio", [2.0**-11, 2.0**-6, 0.3, 1.0, 3.0, 500.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_stochastic_rounding_is_unbiased(dtype: torch.dtype, ratio: float, sign: int) -> None:
    """The mean of 20,000 draws is the exact sum to five standard errors, for each of 8 sums, and at most two values
    occur, on either side of it."""
    p = (normal(3, (8, 1)).abs() + 0.5).to(dtype)
    u = (sign * ratio * (normal(4, (8, 1)).abs() + 0.5)).to(dtype)
    draws = 20_000
    new, _ = updated(ft.stochastic_rounding, p.expand(8, draws), u.expand(8, draws))
    exact = p.double() + u.double()
    for row, target in zip(new.double(), exact[:, 0], strict=True):
        values = row.unique()
        assert len(values) <= 2
        assert values.min() <= target <= values.max()
        spread = float(((values.max() - target) * (target - values.min())).clamp(min=0).sqrt())
        assert abs(row.mean() - target) <= 5 * spread / draws**0.5 + 1e-9 * abs(target)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stochastic_rounding_around_zero_and_at_the_ends(dtype: torch.dtype) -> None:
    """A sum that 16 bits hold is never moved; the neighbor of 0 is the smallest number; what overflows stays so."""
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    whole = torch.tensor([0.0, 1.0, -3.0, smallest, -smallest]).to(dtype)
    for seed in range(5):
        new, _ = updated(ft.stochastic_rounding, whole, -whole, seed)
        assert_bitwise(new, torch.zeros_like(whole))
        largest = torch.full((3,), torch.finfo(dtype).max, dtype=dtype)
        assert torch.isinf(updated(ft.stochastic_rounding, largest, largest, seed)[0]).all()


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("inner", [ft.sgd(0.1, momentum=0.9), ft.adamw(0.1)], ids=["sgd", "adamw"])
def test_wide_leaves_pass(name: str, inner: ft.GradientTransformation) -> None:
    """float32 and float64 leaves move as without the wrapper, bit for bit, alone and beside 16 bits; without a key."""
    params = {"w": normal(0, (4, 3), torch.float32), "d": normal(1, (3,), torch.float64)}
    grads = like(5, params)
    wrapped = WRAPPERS[name](inner)
    alone = ft.make_update(inner)(grads, inner.init(params), params)
    assert_bitwise(ft.make_update(wrapped)(grads, wrapped.init(params), params)[0], alone[0])
    low = {"h": normal(2, (2,), torch.bfloat16)}
    updates, _ = inner.update({**grads, **low}, inner.init({**params, **low}), {**params, **low})
    both, _ = wrapped.update({**grads, **low}, wrapped.init({**params, **low}), {**params, **low}, key=ft.random.key(0))
    assert_bitwise({name: both[name] for name in params}, {name: updates[name] for name in params})


@pytest.mark.parametrize("name", WRAPPERS)
def test_an_absent_gradient_leaves_its_leaf(name: str) -> None:
    """Its parameter and its state stay, and the draws for the others are the same."""
    params = ft.tree.to({"a": normal(0, (50,)), "b": normal(1, (50,))}, torch.bfloat16)
    optimizer = WRAPPERS[name](ft.adam(1e-3))
    grads, key = like(3, params), ft.random.key(4)
    whole, _ = ft.make_update(optimizer)(grads, optimizer.init(params), params, key=key)
    part, state = ft.make_update(optimizer)({**grads, "a": None}, optimizer.init(params), params, key=key)
    assert_bitwise(part, {"a": params["a"], "b": whole["b"]})
    for path, leaf in ft.tree.items(optimizer.init(params)):
        if path.endswith("/a"):
            assert_bitwise(ft.tree.get(state, path), leaf)
    assert ft.tree.get(state, "step").tolist() == [0, 1]


def test_what_is_wrapped_sees_float32() -> None:
    """Under `master_weights` gradients, parameters, state and the gradient function of the step are all float32."""
    seen: list[torch.dtype] = []

    def update(grads: Any, state: Any, params: Any, **extra: Any) -> Any:
        again, _ = extra["grad_and_value_fn"](params)
        seen.extend(leaf.dtype for leaf in (grads["w"], params["w"], state["w"], again["w"]))
        return {"w": -0.5 * again["w"]}, state

    optimizer = ft.master_weights(ft.GradientTransformation(lambda params: params, update))
    loss_fn = lambda params, batch: (params["w"].float() ** 2).sum() / 2  # noqa: E731
    step = ft.make_step(ft.grad_and_value(loss_fn), optimizer)
    state, _ = step(ft.init_state({"w": torch.ones(3, dtype=torch.float16)}, optimizer), None)
    assert seen == [torch.float32] * 4
    assert_bitwise(state.params, {"w": torch.full((3,), 0.5, dtype=torch.float16)})


@pytest.mark.parametrize("name", WRAPPERS)
def test_derivatives_are_those_of_what_is_wrapped(name: str) -> None:
    """To a derivative nothing is rounded, whatever the draw."""
    p, g = torch.linspace(1, 2, 40).bfloat16(), torch.ones(40, dtype=torch.bfloat16)
    rate = torch.tensor(2**-9, requires_grad=True)
    optimizer = WRAPPERS[name](ft.sgd(rate))
    new, _ = ft.make_update(optimizer)(g, optimizer.init(p), p, key=ft.random.key(0))
    (slope,) = torch.autograd.grad(new.float().sum(), rate)
    assert slope == -40


@pytest.mark.slow  # two graphs for a C++ compiler
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_compiler_does_not_see_through_the_rounding(name: str) -> None:
    """Compiled to machine code, where 16 bits are held in wider registers, ten updates are those of eager."""
    optimizer = WRAPPERS[name](ft.sgd(1e-3))
    p, grads = {"w": normal(0, (300,), torch.bfloat16)}, [like(seed, {"w": normal(0, (300,))}) for seed in range(10)]
    update_fn = ft.make_update(optimizer)

    def step(grads: Any, state: Any, params: Any, key: Tensor) -> Any:
        return update_fn(grads, state, params, key=key)

    eager = compiled = (p, optimizer.init(p))
    traced = torch.compile(step, fullgraph=True)
    for seed, one in enumerate(grads):
        one = ft.tree.to(one, torch.bfloat16)  # noqa: PLW2901
        eager = step(one, eager[1], eager[0], ft.random.key(seed))
        compiled = traced(one, compiled[1], compiled[0], ft.random.key(seed))
        assert_bitwise(compiled, eager)


def test_mistakes_are_explained() -> None:
    p = torch.ones(2, dtype=torch.bfloat16)
    for name, wrap in WRAPPERS.items():
        with pytest.raises(ft.StructureError, match=rf"{name} takes a GradientTransformation, got a function"):
            wrap(ft.sgd)  # type: ignore[arg-type]
        with pytest.raises(ft.StructureError, match=rf"{name} looks at the parameters, but its update was given None"):
            wrap(ft.sgd()).update(p, wrap(ft.sgd()).init(p), None)
    optimizer = ft.stochastic_rounding(ft.sgd())
    with pytest.raises(ft.StructureError, match=r"was given no key\. Pass key= to ft\.init_state, or to the update"):
        optimizer.update(p, optimizer.init(p), p)
