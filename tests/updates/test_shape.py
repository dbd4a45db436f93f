"""Gradients that are centered, normalized, scaled, averaged, made noisy, and decay that leaves some leaves out."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import functional_train as ft
from tests.oracles.load import Problem
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, nestings, normal, seeds, tensors, without
from tests.updates.oracle_runs import distance

Tree = Any
OPTAX = {
    "centralize": ft.centralize,
    "ema": lambda: ft.ema(0.8),
    "ema_biased": lambda: ft.ema(0.8, debias=False),
    "normalize_by_update_norm": ft.normalize_by_global_norm,
    "normalize_by_update_norm_options": lambda: ft.chain(ft.normalize_by_global_norm(0.1), ft.scale(2.0)),
    "scale_by_param_block_norm": lambda: ft.scale_by_param_norm(1.0),
    "scale_by_param_block_rms": lambda: ft.scale_by_param_rms(0.5),
}


@pytest.mark.parametrize("problem", ["given", "quadratic"])
@pytest.mark.parametrize("case", OPTAX)
def test_leads_where_optax_leads(case: str, problem: Problem) -> None:
    """50 updates with each, and with pytorch_optimizer's centralization."""
    if case == "centralize":
        assert distance(ft.chain(ft.centralize(), ft.sgd(0.1)), "pytorch_optimizer", case, problem) <= 1e-10
    assert distance(ft.chain(OPTAX[case](), ft.scale(-0.1)), "optax", case, problem) <= 1e-10


@given(nestings(tensors()), seeds())
@settings(max_examples=examples(25))
def test_shapes_of_gradients(params: Tree, seed: int) -> None:
    """Centered units add up to nothing; normalized gradients have length 1; nothing let through moves no bit."""
    params = ft.tree.map(lambda leaf: torch.where(leaf.abs() < 0.5, -0.0, leaf), params)
    grads = like(seed, params)
    for leaf in ft.tree.leaves(ft.centralize().update(grads, ft.EmptyState(), params)[0]):
        if leaf.ndim > 1 and leaf.numel():
            assert leaf.flatten(1).sum(1).abs().max() <= 1e-12
    normalized = ft.normalize_by_global_norm(0.0).update(grads, ft.EmptyState(), params)[0]
    if ft.tree.num_elements(params):
        assert ft.tree.global_norm(normalized).item() == pytest.approx(1.0, abs=1e-12)
    stopped = ft.make_update(ft.set_to_zero())(like(seed, params, torch.inf), ft.EmptyState(), params)[0]
    for one, other in zip(ft.tree.leaves(stopped), ft.tree.leaves(params), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one.signbit(), other.signbit())


def test_scale_may_follow_a_schedule() -> None:
    tx = ft.scale(ft.schedules.linear(1.0, 0.0, 2))
    state = tx.init(None)
    for expected in (1.0, 0.5, 0.0):
        updates, state = tx.update(torch.ones(1), state, None)
        assert updates.item() == expected


@given(nestings(tensors()), seeds(), st.integers(0, 3))
@settings(max_examples=examples(25))
def test_noise_is_reproducible_and_of_each_leaf(params: Tree, seed: int, lost: int) -> None:
    """One key gives one noise, whichever leaf has no gradient; another key another; no two leaves share theirs."""
    grads = ft.tree.zeros_like(params)
    tx = ft.add_noise(1.0, 0.0)
    state = tx.init(params)
    key, other = ft.random.split(ft.random.key(seed))
    noise = tx.update(grads, state, params, key=key)[0]
    fewer, after = tx.update(without(grads, lambda place: place == lost), state, params, key=key)
    assert_bitwise(fewer, without(noise, lambda place: place == lost))
    assert after.step.tolist() == [int(place != lost) for place in range(len(ft.tree.leaves(params)))]
    drawn = torch.cat([leaf.reshape(-1) for leaf in ft.tree.leaves(noise)])
    assert len(set(drawn.tolist())) == len(drawn)
    again = tx.update(grads, state, params, key=other)[0]
    assert not set(drawn.tolist()) & {x for leaf in ft.tree.leaves(again) for x in leaf.reshape(-1).tolist()}


def test_noise_has_its_size_and_fades() -> None:
    """The spread of 20000 draws is that of the formula at each update; a standard error is half a percent."""
    params = torch.zeros(20_000, dtype=torch.float64)
    tx = ft.add_noise(0.3, 0.55)
    state = tx.init(params)
    for t in range(3):
        noise, state = tx.update(params, state, params, key=ft.random.key(t))
        assert noise.std().item() == pytest.approx((0.3 / (1 + t) ** 0.55) ** 0.5, rel=0.02)


def test_noise_comes_from_the_key_of_the_state() -> None:
    """A step whose state owns a key passes one on; without it the error says how to get one."""
    optimizer = ft.chain(ft.add_noise(), ft.sgd(0.1))
    grad_fn = ft.grad_and_value(lambda params, batch, key=None: (params - batch).square().sum())
    step = ft.make_step(grad_fn, optimizer)
    reached, _ = step(ft.init_state(torch.zeros(2), optimizer, key=ft.random.key(0)), torch.ones(2))
    plain, _ = ft.make_step(grad_fn, ft.sgd(0.1))(ft.init_state(torch.zeros(2), ft.sgd(0.1)), torch.ones(2))
    assert not torch.equal(reached.params, plain.params)
    assert_close(reached.params, plain.params, 0.2)
    with pytest.raises(ft.StructureError, match=r"add_noise draws from a key.*init_state\(params, optimizer, key="):
        step(ft.init_state(torch.zeros(2), optimizer), torch.ones(2))


def test_noise_of_complex_gradients_is_in_both_parts() -> None:
    grads = torch.zeros(1000, dtype=torch.complex128)
    tx = ft.add_noise(1.0)
    noise = tx.update(grads, tx.init(grads), grads, key=ft.random.key(0))[0]
    assert noise.real.std().item() == pytest.approx(1.0, rel=0.1)
    assert noise.imag.std().item() == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("mask", ["*weight", ["a/weight", "b/weight"], lambda path, leaf: leaf.ndim > 1])
def test_decay_leaves_out_what_the_mask_does(mask: Any) -> None:
    """Weights decay as without a mask, and the other gradients pass through to the bit, absent ones or not."""
    params = {name: {"bias": normal(0, (2,)), "weight": normal(1, (2, 3))} for name in ("a", "b")}
    grads = like(7, params)
    masked, plain = ft.add_decayed_weights(0.5, mask), ft.add_decayed_weights(0.5)
    for given_grads in (grads, without(grads, lambda place: place in (0, 3))):
        expected, _ = plain.update(given_grads, ft.EmptyState(), params)
        made, _ = masked.update(given_grads, masked.init(params), params)
        for name in ("a", "b"):
            assert_bitwise(made[name]["weight"], expected[name]["weight"])
            assert_bitwise(made[name]["bias"], given_grads[name]["bias"])


def test_masked_decay_is_that_of_groups_in_torch() -> None:
    """Two parameter groups of AdamW, one without decay, in an update that is mapped over and traced."""
    params = {"weight": normal(0, (2, 3)), "bias": normal(1, (3,))}
    tx = ft.chain(
        ft.scale_by_adam(),
        ft.add_decayed_weights(ft.schedules.constant(0.3), lambda path, leaf: leaf.ndim > 1),
        ft.scale_by_lr(0.1),
    )
    theirs = {name: torch.nn.Parameter(leaf.clone()) for name, leaf in params.items()}
    groups = [{"params": [theirs["weight"]], "weight_decay": 0.3}, {"params": [theirs["bias"]], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    ours, state = params, tx.init(params)
    traced = torch.compile(tx.update, backend="aot_eager", fullgraph=True)
    for step in range(3):
        grads = like(step, params)
        for name, parameter in theirs.items():
            parameter.grad = grads[name].clone()
        optimizer.step()
        assert_close(traced(grads, state, ours)[0], tx.update(grads, state, ours)[0], 1e-13)
        ours, state = ft.make_update(tx)(grads, state, ours)
        assert_close(ours, {name: leaf.detach() for name, leaf in theirs.items()}, 1e-12)
    members = ft.tree.stack([params, like(9, params)])
    mapped = torch.func.vmap(lambda p: tx.update(p, tx.init(p), p)[0])(members)
    alone = [tx.update(p, tx.init(p), p)[0] for p in ft.tree.unstack(members)]
    assert_close(mapped, ft.tree.stack(alone), 1e-13)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ft.scale(torch.nan), ft.HyperparameterError, "factor must be a finite number, got nan"),
        (lambda: ft.normalize_by_global_norm(-1.0), ft.HyperparameterError, "eps must be a finite number >= 0, got -1"),
        (lambda: ft.scale_by_param_norm(-1.0), ft.HyperparameterError, "min_norm must be a finite number >= 0"),
        (lambda: ft.scale_by_param_rms(-1.0), ft.HyperparameterError, "min_rms must be a finite number >= 0"),
        (lambda: ft.ema(1.0), ft.HyperparameterError, r"decay must be in \[0, 1\), got 1.0.*0.9 is usual"),
        (lambda: ft.add_noise(-1.0), ft.HyperparameterError, "eta must be a finite number >= 0, got -1.0. 0.01, 0.3"),
        (lambda: ft.add_noise(gamma=-1.0), ft.HyperparameterError, "gamma must be a finite number >= 0, got -1.0"),
        (lambda: ft.add_decayed_weights(mask="*.wait").init({"w": torch.ones(1)}), ft.PathError, "no path matches"),
        (
            lambda: ft.scale_by_param_norm().update([torch.ones(1)], ft.EmptyState(), None),
            ft.StructureError,
            "scale_by_param_norm looks at the parameters, but its update was given None",
        ),
        (
            lambda: ft.add_decayed_weights().update([torch.ones(1)], ft.EmptyState(), None),
            ft.StructureError,
            "weight decay looks at the parameters",
        ),
    ],
)
def test_mistakes_are_explained(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
