"""Hyperparameters: numbers, 0-d tensors or schedules."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, ParamSpec

from torch import Tensor

from functional_train.updates.apply import move_columns
from functional_train.updates.checks import Number
from functional_train.updates.transformation import (
    EmptyState,
    GradientTransformation,
    check_state,
    columnwise,
    on_columns,
    update_columns,
    zero_step,
)
from functional_train.values.tree import Flat
from functional_train.values.tree._lookup import Predicate
from functional_train.values.types import Hyperparameter, Tree

P = ParamSpec("P")
_OTHER_FUNCTIONS = (GradientTransformation, Predicate, Predicate | None)


class ScheduledState(NamedTuple):
    """The state of a transformation whose hyperparameters follow schedules.

    Attributes:
        step: () int64, updates applied so far.
        inner: The state of the transformation itself.

    Example:
        >>> import functional_train as ft, torch
        >>> state = ft.scale_by_lr(ft.schedules.linear(1.0, 0.0, 10)).init({"w": torch.ones(1)})
        >>> state.step
        tensor(0)
    """

    step: Tensor
    inner: Tree


def schedulable(
    factory: Callable[P, GradientTransformation], *, watches: bool = False
) -> Callable[P, GradientTransformation]:
    """Let every hyperparameter of a factory be a schedule; the factory itself is written for numbers and tensors.

    When one is, the transformation counts its updates and is built anew at each, from the schedules' values there.
    `watches` says that what the factory makes only looks at new parameters.
    """
    signature = inspect.signature(factory)
    # Functions that are no schedules: those of the transformation that a wrapper wraps, and predicates of leaves.
    wrapped = {name for name, each in signature.parameters.items() if each.annotation in _OTHER_FUNCTIONS}

    @functools.wraps(factory)
    def with_schedules(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        given = signature.bind(*args, **kwargs).arguments
        if not any(_has_schedule(value) for name, value in given.items() if name not in wrapped):
            return factory(*args, **kwargs)

        def at(step: Tensor) -> GradientTransformation:
            values = {name: value if name in wrapped else _evaluated(value, step) for name, value in given.items()}
            return factory(**values)  # pyright: ignore[reportCallIssue]

        def init(params: Tree) -> ScheduledState:
            step = zero_step(params)
            return ScheduledState(step, at(step).init(params))

        def update(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, ScheduledState]:
            check_state(state, ScheduledState)
            updates, inner, _ = update_columns(at(state.step), g, state.inner, p, extra)
            return updates, ScheduledState(state.step + 1, inner)

        def move(g: Flat, state: Tree, p: Flat, **extra: Any) -> tuple[Flat, ScheduledState]:
            check_state(state, ScheduledState)
            new, inner = move_columns(at(state.step), g, state.inner, p, extra)
            return new, ScheduledState(state.step + 1, inner)

        def watch(new: Flat, state: Tree, **extra: Any) -> ScheduledState:
            check_state(state, ScheduledState)
            written = on_columns(at(state.step))
            assert written is not None
            assert written.watch is not None
            return ScheduledState(state.step + 1, written.watch(new, state.inner, **extra))

        return GradientTransformation(init, columnwise(update, watch=watch) if watches else columnwise(update, move))

    return with_schedules


def scheduled(value: Hyperparameter, state: Tree) -> tuple[Number, Tree]:
    """The value of a hyperparameter at this update, and the state that its transformation has after it.

    For kernels that take the place of a stateless transformation which `schedulable` made.
    """
    if not callable(value):
        check_state(state, EmptyState)
        return value, state
    check_state(state, ScheduledState)
    return value(state.step), ScheduledState(state.step + 1, state.inner)


def _has_schedule(value: Any) -> bool:
    return any(map(_has_schedule, value)) if isinstance(value, tuple) else callable(value)


def _evaluated(value: Any, step: Tensor) -> Any:
    if isinstance(value, tuple):
        return tuple([_evaluated(part, step) for part in value])
    return value(step) if callable(value) else value
