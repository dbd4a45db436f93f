"""Projections go to the nearest point, and parameters stay where they are held."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train import testing
from functional_train.updates import projections
from tests.oracles.load import Problem, figures
from tests.oracles.problem import STEPS, gradient, start
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, nestings, seeds, tensors, without
from tests.updates.oracle_runs import distance

Tree = Any
P = projections


def size(tree: Tree) -> Tensor:
    return torch.cat([leaf.abs().reshape(-1) for leaf in ft.tree.leaves(tree)]).sum()


def total(tree: Tree) -> Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in ft.tree.leaves(tree)]).sum()


def least(tree: Tree) -> Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in ft.tree.leaves(tree)]).min()


def largest(tree: Tree) -> Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in ft.tree.leaves(tree)]).max()


def is_two(number: Tensor) -> bool:
    return abs(number.item() - 2.0) <= 1e-12


# The set, whether it is convex, and whether a point is in it; `a` is a tree like x.
SETS: dict[str, tuple[Callable[[Tree, Tree], Tree], bool, Callable[[Tree, Tree], bool]]] = {
    "non_negative": (lambda x, a: P.non_negative(x), True, lambda x, a: bool(least(x) >= 0)),
    "box": (lambda x, a: P.box(x, -0.25, 0.5), True, lambda x, a: bool(least(x) >= -0.25 and largest(x) <= 0.5)),
    "hypercube": (lambda x, a: P.hypercube(x, 0.5), True, lambda x, a: bool(least(x) >= 0 and largest(x) <= 0.5)),
    "linf_ball": (lambda x, a: P.linf_ball(x, 0.5), True, lambda x, a: bool(least(x) >= -0.5 and largest(x) <= 0.5)),
    "simplex": (
        lambda x, a: P.simplex(x, 2.0),
        True,
        lambda x, a: bool(least(x) >= 0) and is_two(total(x)),
    ),
    "l1_sphere": (lambda x, a: P.l1_sphere(x, 2.0), False, lambda x, a: is_two(size(x))),
    "l1_ball": (lambda x, a: P.l1_ball(x, 2.0), True, lambda x, a: bool(size(x) <= 2.0 + 1e-12)),
    "l2_sphere": (
        lambda x, a: P.l2_sphere(x, 2.0),
        False,
        lambda x, a: is_two(ft.tree.global_norm(x)),
    ),
    "l2_ball": (lambda x, a: P.l2_ball(x, 2.0), True, lambda x, a: bool(ft.tree.global_norm(x) <= 2.0 + 1e-12)),
    "line": (P.line, True, lambda x, a: ft.tree.vdot(ft.tree.sub(x, P.line(x, a)), x).abs().item() <= 1e-10),
    "hyperplane": (
        lambda x, a: P.hyperplane(x, a, 0.5),
        True,
        lambda x, a: ft.tree.vdot(x, a).item() == pytest.approx(0.5, abs=1e-11),
    ),
    "halfspace": (lambda x, a: P.halfspace(x, a, 0.5), True, lambda x, a: bool(ft.tree.vdot(x, a) <= 0.5 + 1e-11)),
}


def test_every_projection_is_tried() -> None:
    assert set(SETS) == set(projections.__all__)


@pytest.mark.parametrize("name", SETS)
@given(nestings(tensors(shapes=((), (1,), (7,), (4, 5)))), seeds())
@settings(max_examples=examples(20))
def test_goes_to_the_nearest_point(name: str, like_what: Tree, seed: int) -> None:
    """The result is in the set; from there it goes nowhere; no other point of the set is nearer."""
    x, other, a = (like(seed + 50 * place, like_what, 2.0) for place in range(3))
    if ft.tree.global_norm(a) < 0.1 or ft.tree.global_norm(x) < 0.1:
        return
    fn, convex, holds = SETS[name]
    point = fn(x, a)
    assert ft.tree.same_structure(point, x)
    assert holds(point, a)
    testing.assert_trees_close(fn(point, a), point, rtol=0, atol=1e-12)
    elsewhere = fn(other, a)
    near, far = (ft.tree.global_norm(ft.tree.sub(x, end)) for end in (point, elsewhere))
    assert near <= far + 1e-12
    if convex:
        # The obtuse angle that makes a point the projection on a convex set.
        assert ft.tree.vdot(ft.tree.sub(x, point), ft.tree.sub(elsewhere, point)) <= 1e-10


@pytest.mark.parametrize("name", SETS)
def test_members_shapes_dtypes_and_derivatives(name: str) -> None:
    """Projections can be mapped over and differentiated, keep dtypes, let None be, and take an empty tree."""
    fn = SETS[name][0]
    a = {"v": torch.tensor([1.0, -2.0, 0.5, 0.25], dtype=torch.float64)}
    members = torch.tensor([[2.5, -0.875, 0.125, 1.0], [-1.0, 0.375, -2.5, 0.625]], dtype=torch.float64)
    together = torch.func.vmap(lambda x: fn({"v": x}, a)["v"])(members)
    assert_close(together, torch.stack([fn({"v": x}, a)["v"] for x in members]), 1e-13)
    for x in members:
        assert torch.autograd.gradcheck(lambda x: fn({"v": x}, a)["v"], x.clone().requires_grad_())
    low, normal = {"v": members[0].bfloat16(), "n": None}, {"v": a["v"].bfloat16(), "n": None}
    made = fn(low, normal)
    assert made["n"] is None
    assert made["v"].dtype == torch.bfloat16
    torch.testing.assert_close(made["v"].double(), fn({"v": members[0]}, a)["v"], rtol=0.02, atol=0.02)
    if name not in {"line", "hyperplane", "halfspace"}:
        assert fn({}, {}) == {}


FIGURES: dict[str, Callable[[Tree, Tree], Tree]] = {
    **{name: SETS[name][0] for name in ("non_negative", "box", "simplex", "l1_sphere", "l2_sphere", "linf_ball")},
    "l1_ball": lambda x, a: P.l1_ball(x, 19.0),
    "l2_ball": lambda x, a: P.l2_ball(x, 3.6),
    "hyperplane": SETS["hyperplane"][0],
    "halfspace": SETS["halfspace"][0],
    "vector": SETS["line"][0],
}


@pytest.mark.parametrize("name", FIGURES)
def test_is_that_of_optax(name: str) -> None:
    """Projections of the given gradients, with the first parameters for a direction."""
    expected = figures("optax", f"projection_{name}")
    leaves = list(expected[1])
    for step in STEPS:
        made = FIGURES[name]({leaf: gradient(step, leaf) for leaf in leaves}, start(leaves))
        assert_close(made, expected[step], 1e-12)


@pytest.mark.parametrize("bound", [0.25, torch.tensor(0.25), {"w": torch.full((3,), 0.25), "b": torch.tensor(0.25)}])
def test_bounds_of_a_box_are_numbers_or_trees(bound: Any) -> None:
    x = {"w": torch.tensor([-1.0, 0.0, 1.0]), "b": torch.tensor(3.0)}
    expected = {"w": torch.tensor([-0.25, 0.0, 0.25]), "b": torch.tensor(0.25)}
    lower = ft.tree.scale(-1, bound) if isinstance(bound, dict) else -bound
    assert_bitwise(P.box(x, lower, bound), expected)


@given(nestings(tensors(shapes=((1,), (7,), (4, 5)))), seeds(), st.integers(0, 3))
@settings(max_examples=examples(20))
def test_parameters_stay_in_the_set(params: Tree, seed: int, lost: int) -> None:
    """After each update they are what the projection made, to the bit; a leaf without a gradient stays as it is."""
    tx = ft.chain(ft.adam(0.5), ft.project(projections.linf_ball), ft.identity())
    state = tx.init(params)
    for step in range(2):
        grads, before = without(like(seed + step, params), lambda place: place == lost), params
        updates, _ = tx.update(grads, state, before)
        params, state = ft.make_update(tx)(grads, state, before)
        assert_close(ft.apply_updates(before, updates), params, 1e-12)
        for place, leaf in enumerate(ft.tree.leaves(params)):
            if place != lost:
                assert leaf.abs().max() <= 1.0
            else:
                assert leaf is ft.tree.leaves(before)[place]


def test_descends_to_the_nearest_minimum() -> None:
    """Projected gradient descent on a distance ends in the projection of where it would go."""
    target = {"w": torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64), "b": torch.tensor(2.0, dtype=torch.float64)}
    params = ft.tree.zeros_like(target)
    optimizer = ft.chain(ft.sgd(0.5), ft.project(projections.simplex))
    state = optimizer.init(params)
    for _ in range(60):
        params, state = ft.make_update(optimizer)(ft.tree.sub(params, target), state, params)
    assert_close(params, projections.simplex(target), 1e-12)


@pytest.mark.parametrize("problem", ["given", "quadratic"])
def test_no_parameter_is_negative(problem: Problem) -> None:
    """Optax's figures; and the same as projecting."""
    tx = ft.chain(ft.scale(-0.1), ft.keep_params_nonnegative())
    assert distance(tx, "optax", "keep_params_nonnegative", problem) <= 1e-10
    held = ft.chain(ft.scale(-0.1), ft.project(projections.non_negative))
    assert distance(held, "optax", "keep_params_nonnegative", problem) <= 1e-10


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: P.l2_ball([torch.ones(1)], -1.0), ft.HyperparameterError, "scale must be a finite number >= 0"),
        (lambda: P.simplex([torch.ones(1)], -1.0), ft.HyperparameterError, "scale must be a finite number >= 0"),
        (lambda: P.box([torch.ones(1)], {"a": torch.ones(1)}, 1.0), ft.StructureError, "trees differ"),
        (lambda: P.hyperplane([torch.ones(1)], {"a": torch.ones(1)}), ft.StructureError, "trees differ"),
        (
            lambda: ft.project(P.l2_ball).update([torch.ones(1)], ft.EmptyState(), None),
            ft.StructureError,
            "project looks at the parameters, but its update was given None",
        ),
        (
            lambda: ft.project(lambda tree: [tree[0][:1]]).update([torch.ones(2)], ft.EmptyState(), [torch.ones(2)]),
            ft.StructureError,
            r"a projection returned shape \(1,\) for a parameter of \(2,\). It must return the nearest point",
        ),
        (
            lambda: ft.project(lambda tree: {}).update([torch.ones(2)], ft.EmptyState(), [torch.ones(2)]),
            ft.StructureError,
            "trees differ",
        ),
        (
            lambda: ft.keep_params_nonnegative().update([torch.ones(1)], ft.EmptyState(), None),
            ft.StructureError,
            "keep_params_nonnegative looks at the parameters",
        ),
    ],
)
def test_mistakes_are_explained(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
