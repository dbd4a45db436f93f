"""Laws of steps: training is a fold of a pure function."""

from collections.abc import Sequence

from functional_train.steps.loop import fold, iterate, scan
from functional_train.testing.assertions import (
    assert_global_rng_untouched,
    assert_trees_alike,
    assert_trees_equal,
    assert_untouched,
)
from functional_train.values import tree
from functional_train.values.types import StepFn, Tree


def step_is_pure(step: StepFn, state: Tree, batches: Sequence[Tree]) -> None:
    """Assert that a step changes neither state nor batch, draws nothing, and returns the same bits twice.

    Args:
        step: `(state, batch) -> (state, metrics)`.
        state: Where to begin.
        batches: Any number of batches.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> step = ft.make_step(ft.grad_and_value(lambda p, batch: (p - batch).square()), ft.adam())
        >>> ft.testing.step_is_pure(step, ft.init_state(torch.tensor(3.0), ft.adam()), [torch.tensor(1.0)])
    """
    with assert_global_rng_untouched():
        for batch in batches:
            made = assert_untouched(step, state, batch)
            assert_trees_equal(assert_untouched(step, state, batch), made)
            state = made[0]


def step_keeps_structure(step: StepFn, state: Tree, batches: Sequence[Tree]) -> None:
    """Assert that a step returns a state like the one it was given, and a detached "loss" among its metrics.

    Args:
        step: As `step_is_pure`.
        state: As `step_is_pure`.
        batches: As `step_is_pure`.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> step = ft.make_step(ft.grad_and_value(lambda p, batch: (p - batch).square()), ft.adam())
        >>> ft.testing.step_keeps_structure(step, ft.init_state(torch.tensor(3.0), ft.adam()), [torch.tensor(1.0)])
    """
    for new, metrics in iterate(step, state, batches):
        assert_trees_alike(new, state)
        if "loss" not in metrics or metrics["loss"].requires_grad:
            raise AssertionError(f"metrics need a detached tensor 'loss', got {dict(metrics)}")


def folds_in_parts(step: StepFn, state: Tree, batches: Sequence[Tree]) -> None:
    """Assert that training may stop and go on anywhere: `fold(xs ++ ys)` is `fold(ys)` after `fold(xs)`, bit for bit.

    Args:
        step: As `step_is_pure`.
        state: As `step_is_pure`.
        batches: As `step_is_pure`; cut in two at every place.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> step = ft.make_step(ft.grad_and_value(lambda p, batch: (p - batch).square()), ft.adam())
        >>> ft.testing.folds_in_parts(step, ft.init_state(torch.tensor(3.0), ft.adam()), 3 * [torch.tensor(1.0)])
    """
    whole = fold(step, state, batches)
    for cut in range(len(batches) + 1):
        assert_trees_equal(fold(step, fold(step, state, batches[:cut]), batches[cut:]), whole)


def loops_agree(step: StepFn, state: Tree, batches: Sequence[Tree]) -> None:
    """Assert that `fold`, `scan` and `iterate` reach the same state and metrics, bit for bit.

    Args:
        step: As `step_is_pure`.
        state: As `step_is_pure`.
        batches: As `step_is_pure`.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> step = ft.make_step(ft.grad_and_value(lambda p, batch: (p - batch).square()), ft.adam())
        >>> ft.testing.loops_agree(step, ft.init_state(torch.tensor(3.0), ft.adam()), 3 * [torch.tensor(1.0)])
    """
    reached = list(iterate(step, state, batches))
    last = reached[-1][0] if reached else state
    assert_trees_equal(fold(step, state, batches), last)
    if reached:
        assert_trees_equal(scan(step, state, batches), (last, tree.stack([metrics for _, metrics in reached])))
