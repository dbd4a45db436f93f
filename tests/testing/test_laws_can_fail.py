"""Every law can be broken: each fails on a function that breaks it, and says how."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import settings

import functional_train as ft
from functional_train import testing
from functional_train.testing.laws import LAWS, check_law, settings_for
from functional_train.updates.transformation import columnwise
from tests.global_rng import seeded

PARAMS = {"a": torch.tensor([3.0, -2.0]), "b": torch.tensor(0.5)}
GRADS = {"a": torch.tensor([1.0, -1.0]), "b": torch.tensor(2.0)}


def of(rule: Callable[..., Any], init: Callable[[Any], Any] = lambda params: ()) -> ft.GradientTransformation:
    """A transformation from `(grads, state) -> (updates, state)`."""
    return ft.GradientTransformation(init, lambda grads, state, params, **extra: rule(grads, state))


def stateless(rule: Callable[[Any], Any]) -> ft.GradientTransformation:
    return of(lambda grads, state: (rule(grads), state))


def on_leaves(rule: Callable[[Any], Any]) -> ft.GradientTransformation:
    return stateless(lambda grads: ft.tree.map(rule, grads))


def counting() -> ft.GradientTransformation:
    """Remembers in a closure how often it was called."""
    calls = itertools.count(1)
    return stateless(lambda grads: ft.tree.scale(next(calls), grads))


def recognizing() -> ft.GradientTransformation:
    """Remembers in a closure which states it made itself."""
    made: list[Any] = []

    def rule(grads: Any, state: Any) -> Any:
        known = any(state is one for one in made)
        made.append(new := torch.ones(()))
        return ft.tree.scale(1 if known else 2, grads), new

    def init(params: Any) -> Any:
        made.append(new := torch.ones(()))
        return new

    return of(rule, init)


def leaking() -> ft.GradientTransformation:
    """Keeps as state the leaves that the next link may write into."""

    def update(g: Any, state: Any, p: Any, **extra: Any) -> Any:
        doubled = ft.tree.scale(2, g)
        return doubled, tuple(doubled.leaves)

    return ft.GradientTransformation(lambda params: tuple(ft.tree.leaves(params)), columnwise(update))


def in_place(grads: Any) -> Any:
    for leaf in ft.tree.leaves(grads):
        leaf.neg_()
    return grads


def is_mapped(leaf: torch.Tensor) -> bool:
    return torch._C._functorch.is_batchedtensor(leaf)


def first_leaf_alone(grads: Any) -> Any:
    leaves, structure = ft.tree.flatten(grads)
    return ft.tree.unflatten(structure, [*leaves[:1], *(0 * leaf for leaf in leaves[1:])])


BROKEN: list[tuple[Callable[..., None], ft.GradientTransformation, str]] = [
    (testing.updates_are_like_params, on_leaves(torch.Tensor.double), "differ in dtype at '0/a'"),
    (testing.updates_are_like_params, stateless(ft.tree.leaves), "at the top: actual has a list there"),
    (testing.state_keeps_its_structure, of(lambda grads, state: (grads, (state,))), "at the top|at '0'"),
    (testing.state_keeps_its_structure, of(lambda g, s: (g, s.float()), lambda p: torch.tensor(0)), "differ in dtype"),
    (testing.keeps_low_precision, on_leaves(torch.Tensor.float), "dtype at '0/a': actual has torch.float32"),
    (testing.keeps_low_precision, on_leaves(lambda leaf: leaf * 1e5), "the update at 'a' is not finite"),
    (testing.takes_any_tree, on_leaves(lambda leaf: leaf / leaf.norm()), "is not finite"),
    (testing.ignores_names_and_order, stateless(first_leaf_alone), "differ at '0001' in 1 of 1 elements: 2.0 is not"),
    (testing.is_pure, stateless(in_place), r"argument '0/a' was written to: its version was \d+ and is \d+"),
    (testing.is_pure, counting(), "trees differ at '0/a' in 2 of 2 elements"),
    (testing.is_pure, on_leaves(lambda leaf: leaf + 0 * torch.rand(())), "the global generator of torch moved"),
    (testing.resumes_from_leaves, recognizing(), "trees differ at 'updates/a'"),
    (
        testing.resumes_from_leaves,
        of(lambda g, s: (g, {}), lambda params: params),
        r"has 0 leaves after an update and had 2 at init.*where the gradient is None, keep",
    ),
    (testing.runs_are_independent, counting(), "trees differ at '0/a'"),
    (testing.composes, leaking(), "trees differ at '"),
    (testing.vmap_equals_loop, on_leaves(lambda leaf: leaf if leaf.sum() > 0 else -leaf), "cannot be mapped over. "),
    (testing.vmap_equals_loop, on_leaves(lambda leaf: 2 * leaf if is_mapped(leaf) else leaf), "is not within rtol"),
    (testing.is_differentiable, on_leaves(torch.Tensor.detach), "the derivative through the update is wrong"),
    (testing.is_differentiable, on_leaves(lambda leaf: leaf / leaf.abs().sqrt()), "at 'a' is not finite where all"),
    (testing.traces_as_one_graph, on_leaves(lambda leaf: leaf if leaf.sum() > 0 else -leaf), "cannot be traced"),
    (testing.traces_as_one_graph, of(lambda g, s: (g, s + 1), lambda p: 0), "cannot be traced as one graph"),
    (testing.descends, ft.identity(), "update 0 led from a loss of"),
]


@pytest.mark.parametrize(
    ("law", "broken", "message"), BROKEN, ids=[f"{row[0].__name__}-{place}" for place, row in enumerate(BROKEN)]
)
def test_law_of_transformations(law: Callable[..., None], broken: Any, message: str) -> None:
    """The law raises AssertionError on a transformation that breaks it, with where and what."""
    with seeded(), pytest.raises(AssertionError, match=message):
        law(broken, ft.tree.copy(PARAMS), ft.tree.copy(GRADS))


SCHEDULES: list[tuple[Callable[..., None], Callable[[Any], Any], str]] = [
    (testing.is_finite, lambda step: 1 / (step - 3.0), "the value at step 3 is inf"),
    (testing.is_function_of_step, lambda step: torch.as_tensor(step) * 1.0, "differ in dtype"),
    (testing.is_function_of_step, lambda step: torch.tensor(0.5 * isinstance(step, int)).double(), "trees differ at"),
    (testing.has_no_jumps, lambda step: torch.where(step < 5, 1.0, 0.5), "jumps from 1.0 at step 4 to 0.5"),
]


@pytest.mark.parametrize(("law", "broken", "message"), SCHEDULES)
def test_law_of_schedules(law: Callable[..., None], broken: Any, message: str) -> None:
    """The law raises AssertionError on a schedule that breaks it."""
    with pytest.raises(AssertionError, match=message):
        law(broken, 20)


def growing() -> Any:
    calls = itertools.count(1)
    return lambda state, batch: (state + next(calls), {"loss": state})


STEPS: list[tuple[Callable[..., None], Any, str]] = [
    (testing.step_is_pure, lambda state, batch: (state.add_(batch), {}), "argument '0' was written to"),
    (testing.step_keeps_structure, lambda state, batch: ([state], {"loss": state}), "at the top"),
    (testing.step_keeps_structure, lambda state, batch: (state, {}), "metrics need a detached tensor 'loss'"),
    (testing.folds_in_parts, growing(), "trees differ at '' in 1 of 1 elements: 8.0 is not 4.0"),
    (testing.loops_agree, growing(), "trees differ at ''"),
]


@pytest.mark.parametrize(("law", "broken", "message"), STEPS)
def test_law_of_steps(law: Callable[..., None], broken: Any, message: str) -> None:
    """The law raises AssertionError on a step that breaks it."""
    with pytest.raises(AssertionError, match=message):
        law(broken, torch.tensor(1.0), [torch.tensor(1.0), torch.tensor(2.0)])


def test_every_law_is_seen_to_fail() -> None:
    """The tables above miss no law."""
    seen = {law for law, _, _ in [*BROKEN, *SCHEDULES, *STEPS]}
    missing = [law.__name__ for kind in LAWS.values() for law in kind if law not in seen]
    assert not missing


def test_check_law_finds_a_counterexample() -> None:
    """The search reports the law's own message, and the simplest arguments in the notes of the error."""
    # In place where torch allows it, which is not where elements share memory.
    broken = on_leaves(lambda leaf: leaf.neg_() if leaf.is_contiguous() else leaf)
    with pytest.raises(AssertionError, match="argument '0' was written to: its version was 0 and is 1") as error:
        check_law(testing.is_pure, broken, testing.params_and_grads())
    assert "drawn=(tensor(0., dtype=torch.float64), tensor(0., dtype=torch.float64))" in "".join(error.value.__notes__)


def test_a_kink_at_a_round_number_breaks_no_law() -> None:
    """Adafactor's steps change at parameters of 1e-3, which Hypothesis reads in its source, and tries."""
    params = {"w": torch.tensor([1e-3]), "b": torch.tensor(-1e-3)}
    testing.is_differentiable(ft.adafactor(), params, ft.tree.map(torch.ones_like, params))
    testing.is_differentiable(ft.clip_by_value(), params, {"w": torch.tensor([0.5]), "b": torch.tensor(-0.5)})


def test_no_law_is_too_slow() -> None:
    """Under Hypothesis's own profile, too, which has a deadline that a trace would miss."""
    profile = settings.get_current_profile_name()
    settings.load_profile("default")
    try:
        assert settings().deadline is not None
        assert all(settings_for(law).deadline is None for law in LAWS["transformation"])
    finally:
        settings.load_profile(profile)
