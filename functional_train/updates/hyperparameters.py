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
    on_columns,
    update_columns,
)
from functional_train.values.errors import HyperparameterError
from functional_train.values.tree import Flat
from functional_train.values.tree._lookup import Predicate
from functional_train.values.tree._structure import device_of
from functional_train.values.types import Hyperparameter, Tree

P = ParamSpec("P")
Number = float | Tensor
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


def check_non_negative(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse a negative, infinite or nan number; a tensor's value is never looked at."""
    return _checked(name, value, lambda number: 0.0 <= number < float("inf"), "must be a finite number >= 0", hint)


def check_fraction(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse a number outside [0, 1); a tensor's value is never looked at."""
    return _checked(name, value, lambda number: 0.0 <= number < 1.0, "must be in [0, 1)", hint)


def check_share(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse a number outside [0, 1]; a tensor's value is never looked at."""
    return _checked(name, value, lambda number: 0.0 <= number <= 1.0, "must be in [0, 1]", hint)


def check_above(name: str, value: Hyperparameter, bound: float, hint: str = "") -> Number:
    """Refuse a number that is not above a bound, or not finite; a tensor's value is never looked at."""
    rule = f"must be a finite number > {bound:g}"
    return _checked(name, value, lambda number: bound < number < float("inf"), rule, hint)


def check_interior(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse a number outside (0, 1); a tensor's value is never looked at."""
    return _checked(name, value, lambda number: 0.0 < number < 1.0, "must be in (0, 1)", hint)


def check_betas(betas: tuple[Hyperparameter, Hyperparameter]) -> tuple[Number, Number]:
    """Refuse betas that are not a pair, or a beta outside [0, 1)."""
    check_pair(betas)
    return (
        check_fraction("betas[0]", betas[0], "With 1.0 the first moment never moves; 0.9 is usual."),
        check_fraction("betas[1]", betas[1], "With 1.0 the second moment never moves; 0.999 is usual."),
    )


def check_pair(
    pair: tuple[Hyperparameter, Hyperparameter], name: str = "betas", usual: tuple[float, float] = (0.9, 0.999)
) -> tuple[Hyperparameter, Hyperparameter]:
    """Refuse what is not a pair; each of its numbers is looked at where it is used."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HyperparameterError(f"{name} must be a pair, got {pair!r}. {usual} is usual.")
    return pair


def check_three_betas(
    betas: tuple[Hyperparameter, Hyperparameter, Hyperparameter], usual: tuple[float, float, float]
) -> tuple[Number, Number, Number]:
    """Refuse betas that are not three, or a beta outside [0, 1)."""
    if not isinstance(betas, tuple | list) or len(betas) != 3:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HyperparameterError(f"betas must be three numbers, got {betas!r}. {usual} is usual.")
    first, second, third = (
        check_fraction(f"betas[{place}]", beta, f"With 1.0 a moment never moves; {usual[place]} is usual.")
        for place, beta in enumerate(betas)
    )
    return first, second, third


def check_count(name: str, value: Hyperparameter, least: int, hint: str = "") -> Number:
    """Refuse anything but a whole number that is not below `least`; a tensor's value is never looked at."""
    if not isinstance(value, Tensor | int):
        raise HyperparameterError(f"{name} must be an int >= {least}, got {value!r}. {hint}".rstrip())
    return _checked(name, value, lambda number: number >= least, f"must be an int >= {least}", hint)


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


def check_positive(name: str, value: Hyperparameter, hint: str = "", *, finite: bool = True) -> Number:
    """Refuse a number that is not above zero, is nan, or infinite where it must not be; a tensor is never looked at."""
    if finite:
        return check_above(name, value, 0.0, hint)
    return _checked(name, value, lambda number: number > 0.0, "must be a number > 0", hint)


def check_non_positive(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse a positive, infinite or nan number; a tensor's value is never looked at."""
    return _checked(name, value, lambda number: float("-inf") < number <= 0.0, "must be a finite number <= 0", hint)


def check_at_least(name: str, value: Hyperparameter, least: float, hint: str = "") -> Number:
    """Refuse a number below the least, infinite or nan; a tensor's value is never looked at."""
    return _checked(
        name, value, lambda number: least <= number < float("inf"), f"must be a finite number >= {least:g}", hint
    )


def check_whole(name: str, value: int, least: int, hint: str = "") -> int:
    """Refuse what is not an int, or below the least."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HyperparameterError(f"{name} must be an int >= {least}, got {value!r}. {hint}".rstrip())
    return value


def check_num_updates(name: str, value: int, least: int = 0) -> int:
    """Refuse what is no count of updates."""
    return check_whole(name, value, least, "It counts updates.")


def check_finite(name: str, value: Hyperparameter, hint: str = "") -> Number:
    """Refuse an infinite or nan number; a tensor's value is never looked at."""
    return _checked(name, value, lambda number: abs(number) < float("inf"), "must be a finite number", hint)
