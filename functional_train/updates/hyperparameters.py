"""Hyperparameters: numbers, 0-d tensors or schedules, checked where a factory is called."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec

import torch
from torch import Tensor

from functional_train.updates.apply import move_columns
from functional_train.updates.transformation import (
    EmptyState,
    GradientTransformation,
    check_state,
    columnwise,
    update_columns,
)
from functional_train.values.errors import HyperparameterError
from functional_train.values.tree import Flat
from functional_train.values.tree._structure import device_of
from functional_train.values.types import Hyperparameter, Tree

P = ParamSpec("P")
Number = float | Tensor


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


def schedulable(factory: Callable[P, GradientTransformation]) -> Callable[P, GradientTransformation]:
    """Let every hyperparameter of a factory be a schedule; the factory itself is written for numbers and tensors.

    When one is, the transformation counts its updates and is built anew at each, from the schedules' values there.
    """
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def with_schedules(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        given = signature.bind(*args, **kwargs).arguments
        if not any(_has_schedule(value) for value in given.values()):
            return factory(*args, **kwargs)

        def at(step: Tensor) -> GradientTransformation:
            values = {name: _evaluated(value, step) for name, value in given.items()}
            return factory(**values)  # pyright: ignore[reportCallIssue]

        def init(params: Tree) -> ScheduledState:
            step = torch.zeros((), dtype=torch.int64, device=device_of(params))
            return ScheduledState(step, at(step).init(params))

        def update(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, ScheduledState]:
            check_state(state, ScheduledState)
            updates, inner, _ = update_columns(at(state.step), g, state.inner, p, extra)
            return updates, ScheduledState(state.step + 1, inner)

        def move(g: Flat, state: Tree, p: Flat, **extra: Any) -> tuple[Flat, ScheduledState]:
            check_state(state, ScheduledState)
            new, inner = move_columns(at(state.step), g, state.inner, p, extra)
            return new, ScheduledState(state.step + 1, inner)

        return GradientTransformation(init, columnwise(update, move))

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


def check_non_negative(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse a negative, infinite or nan number; a tensor's value is never looked at."""
    return _checked(name, value, lambda number: 0.0 <= number < float("inf"), "must be a finite number >= 0", hint)


def check_positive(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse zero, a negative, infinite or nan number; a tensor's value is never looked at."""
    return _checked(name, value, lambda number: 0.0 < number < float("inf"), "must be a finite number > 0", hint)


def check_fraction(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse a number outside [0, 1); a tensor's value is never looked at."""
    return _checked(name, value, lambda number: 0.0 <= number < 1.0, "must be in [0, 1)", hint)


def check_betas(betas: tuple[Hyperparameter, Hyperparameter]) -> tuple[Number, Number]:
    """Refuse betas that are not a pair, or a beta outside [0, 1)."""
    if not isinstance(betas, tuple | list) or len(betas) != 2:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HyperparameterError(f"betas must be a pair, got {betas!r}. (0.9, 0.999) is usual.")
    return (
        check_fraction("betas[0]", betas[0], "With 1.0 the first moment never moves; 0.9 is usual."),
        check_fraction("betas[1]", betas[1], "With 1.0 the second moment never moves; 0.999 is usual."),
    )


def check_count(name: str, value: int, least: int = 0, hint: str = "It counts updates.") -> None:
    """Refuse what is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise HyperparameterError(f"{name} must be an int >= {least}, got {value!r}. {hint}".rstrip())


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is none of the choices."""
    if value not in choices:
        raise HyperparameterError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def _checked(name: str, value: Any, accept: Callable[[float], bool], rule: str, hint: str) -> Number:
    if isinstance(value, Tensor):
        if value.ndim != 0:
            raise HyperparameterError(
                f"{name} has shape {tuple(value.shape)}; a tensor hyperparameter is 0-d. For one value a member use "
                "vmap."
            )
    elif isinstance(value, bool) or not isinstance(value, int | float) or not accept(value):
        raise HyperparameterError(f"{name} {rule}, got {value!r}. {hint}".rstrip())
    return value


def is_zero(value: Hyperparameter) -> bool:
    """Whether a hyperparameter is the number zero, so that its term can be left out; a tensor never is."""
    return not isinstance(value, Tensor) and value == 0
