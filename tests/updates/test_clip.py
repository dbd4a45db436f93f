"""Clipping is torch's, and that of other libraries."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from tests.oracles.load import Problem
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, nestings, normal, seeds, tensors
from tests.updates.oracle_runs import distance

Tree = Any
POWERS = [2, 1, 3, 0.5, float("inf")]


def parameters(grads: Tree) -> list[Tensor]:
    """torch's way to hand gradients over."""
    made: list[Tensor] = [torch.nn.Parameter(torch.zeros_like(leaf)) for leaf in ft.tree.leaves(grads)]
    for parameter, grad in zip(made, ft.tree.leaves(grads), strict=True):
        parameter.grad = grad.clone()
    return made


def stripped(parameters: list[Tensor]) -> list[Any]:
    return [parameter.grad for parameter in parameters]


@given(nestings(tensors(shapes=((), (7,), (4, 5)))), seeds(), st.floats(0.0, 8.0), st.sampled_from(POWERS))
@settings(max_examples=examples(50))
def test_norms_are_clipped_as_in_torch(params: Tree, seed: int, max_norm: float, power: float) -> None:
    """`clip_grad_norm_` for every power, over all leaves and leaf by leaf."""
    grads = like(seed, params)
    theirs = parameters(grads)
    torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type=power)
    tx = ft.clip_by_global_norm(max_norm, norm_type=power)
    assert_close(ft.tree.leaves(tx.update(grads, tx.init(params), params)[0]), stripped(theirs), 1e-13)

    theirs = parameters(grads)
    for parameter in theirs:
        torch.nn.utils.clip_grad_norm_(parameter, max_norm)
    tx = ft.clip_by_leaf_norm(max_norm)
    assert_close(ft.tree.leaves(tx.update(grads, tx.init(params), params)[0]), stripped(theirs), 1e-13)


@given(nestings(tensors()), seeds(), st.floats(0.0, 2.0))
@settings(max_examples=examples(25))
def test_values_are_clipped_as_in_torch(params: Tree, seed: int, clip_value: float) -> None:
    grads = like(seed, params)
    theirs = parameters(grads)
    torch.nn.utils.clip_grad_value_(theirs, clip_value)
    tx = ft.clip_by_value(clip_value)
    assert_bitwise(ft.tree.leaves(tx.update(grads, tx.init(params), params)[0]), stripped(theirs))


def test_both_parts_of_complex_numbers_are_clipped() -> None:
    grads = torch.tensor([3.0 - 0.5j, 0.25 + 2j])
    tx = ft.clip_by_value(1.0)
    assert torch.equal(tx.update(grads, tx.init(grads), grads)[0], torch.tensor([1.0 - 0.5j, 0.25 + 1j]))


@given(nestings(tensors()), seeds(), st.floats(0.01, 3.0))
@settings(max_examples=examples(25))
def test_no_leaf_or_unit_is_larger_than_its_bound(params: Tree, seed: int, bound: float) -> None:
    """After clipping every root mean square and every ratio is at most the bound; what was below it is untouched."""
    grads = like(seed, params, 3.0)
    shrunk = ft.clip_by_block_rms(bound).update(grads, ft.EmptyState(), params)[0]
    ratio = ft.adaptive_grad_clip(bound, eps=0.5).update(grads, ft.EmptyState(), params)[0]
    rows = zip(*map(ft.tree.leaves, (grads, shrunk, ratio, params)), strict=True)
    for grad, small, held, param in rows:
        if grad.numel() == 0:
            continue
        before, after = grad.square().mean().sqrt(), small.square().mean().sqrt()
        assert after <= bound * (1 + 1e-12)
        if before <= bound:
            assert torch.equal(grad, small)
        units = [(leaf if leaf.ndim > 1 else leaf.reshape(1, -1)).flatten(1) for leaf in (grad, held, param)]
        own, left, weight = (unit.norm(dim=1) for unit in units)
        allowed = bound * weight.clamp(min=0.5)
        assert (left <= allowed * (1 + 1e-12)).all()
        assert torch.equal(units[0][own <= allowed], units[1][own <= allowed])


OPTAX = {
    "clip": lambda: ft.clip_by_value(0.3),
    "clip_by_block_rms": lambda: ft.clip_by_block_rms(0.4),
}


@pytest.mark.parametrize("problem", ["given", "quadratic"])
@pytest.mark.parametrize("case", OPTAX)
def test_leads_where_optax_leads(case: str, problem: Problem) -> None:
    """Optax's clipping by value and by root mean square; by norm it has no eps, so torch is followed there."""
    assert distance(ft.chain(OPTAX[case](), ft.scale(-0.1)), "optax", case, problem) <= 1e-10


@pytest.mark.parametrize("problem", ["given", "quadratic"])
@pytest.mark.parametrize(("case", "numbers"), [("agc", (0.1,)), ("agc_options", (0.5, 1.0))])
def test_clips_units_as_the_other_does(case: str, numbers: tuple[float, ...], problem: Problem) -> None:
    """pytorch_optimizer's function, but for leaves of three dimensions, where it takes the norm over the second only,
    and the paper's units are all that leads to one output (section 4.1)."""
    tx = ft.chain(ft.adaptive_grad_clip(*numbers), ft.sgd(0.1))
    assert distance(tx, "pytorch_optimizer", case, problem, without={"cube"}) <= 1e-10


def test_clipping_is_for_each_member() -> None:
    """Bounds and gradients may be mapped over."""
    grads, bounds = normal(0, (3, 4, 2)), torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    for make in (ft.clip_by_global_norm, ft.clip_by_leaf_norm, ft.clip_by_block_rms, ft.adaptive_grad_clip):
        together = torch.func.vmap(lambda g, bound, make=make: made(make(bound), g))(grads, bounds)
        alone = torch.stack([made(make(bound), g) for g, bound in zip(grads, bounds.tolist(), strict=True)])
        assert_close(together, alone, 1e-13)


def made(tx: ft.GradientTransformation, grads: Tensor) -> Tensor:
    return tx.update(grads, ft.EmptyState(), torch.ones_like(grads))[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ft.clip_by_global_norm(norm_type=0), r"norm_type must be a number > 0, got 0. 2 is usual"),
        (lambda: ft.clip_by_global_norm(norm_type=float("nan")), r"norm_type must be a number > 0, got nan"),
        (lambda: ft.clip_by_leaf_norm(-1.0), r"max_norm must be a finite number >= 0, got -1.0. 1.0 is usual"),
        (lambda: ft.clip_by_block_rms(0.0), r"max_rms must be a finite number > 0, got 0.0. 1.0 is usual"),
        (lambda: ft.clip_by_value(float("inf")), r"clip_value must be a finite number >= 0, got inf"),
        (lambda: ft.adaptive_grad_clip(-0.1), r"clipping must be a finite number >= 0, got -0.1. 0.01 is usual"),
        (lambda: ft.adaptive_grad_clip(eps=-1.0), r"eps must be a finite number >= 0, got -1.0. 1e-3 is usual"),
    ],
)
def test_bad_numbers_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ft.HyperparameterError, match=message):
        make()


def test_parameters_are_needed() -> None:
    with pytest.raises(ft.StructureError, match="adaptive_grad_clip looks at the parameters, but its update was given"):
        ft.adaptive_grad_clip().update(torch.ones(1), ft.EmptyState(), None)
