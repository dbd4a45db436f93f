"""Hyperparameters that live in the state: read them, set them, schedule them, map over them."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args, get_origin

import torch
from torch import Tensor

from functional_train.updates.apply import move_columns
from functional_train.updates.transformation import (
    GradientTransformation,
    check_state,
    columnwise,
    update_columns,
    zero_step,
)
from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.params import Params
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree


class InjectedState(NamedTuple):
    """The state of a transformation whose hyperparameters are part of it.

    Attributes:
        step: () int64, updates applied so far.
        hyperparams: Name to the value that the next update uses, () float64; a tuple of them for betas and the like.
        inner: The state of the transformation itself.

    Example:
        >>> import functional_train as ft, torch
        >>> state = ft.inject_hyperparams(ft.sgd)(lr=0.1).init({"w": torch.ones(1)})
        >>> ft.tree.get(state, "lr")
        tensor(0.1000, dtype=torch.float64)
    """

    step: Tensor
    hyperparams: Params
    inner: Tree


def inject_hyperparams(
    factory: Callable[..., GradientTransformation],
) -> Callable[..., GradientTransformation]:
    """Make a factory whose transformations keep their hyperparameters in their state.

    Numbers, tensors and schedules that are passed by name or position live in the state from then on, under their
    names: `ft.tree.get(opt_state, "lr")` reads one, and `ft.tree.set(opt_state, "lr", 0.1)` makes a state in which it
    is another, so a run that is resumed goes on with it. A schedule is evaluated after each update, for the next one;
    a value set in its place is thus used once. What is not passed stays the number of its default. For one `lr` of
    several groups, inject into a function of it that makes the whole optimizer.

    Args:
        factory: Any function from hyperparameters to a transformation. Where a parameter is annotated, only
            `ft.Hyperparameter` and tuples of it are kept in the state; elsewhere every float and tensor is.

    Returns:
        A factory with the parameters of `factory`, of transformations with `InjectedState`.

    Raises:
        HyperparameterError: when that is called: a number is outside its range. The value of a tensor is never looked
            at.
        StructureError: the argument is a transformation and not a factory.

    Source: Optax, `inject_hyperparams`.

    Differs: from Optax, the state shows the value of the next update and not of the last, so that what is read is what
        will be used, and what is set is used.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.inject_hyperparams(ft.sgd)(lr=0.1)
        >>> params = {"w": torch.ones(1)}
        >>> opt_state = ft.tree.set(optimizer.init(params), "lr", 0.5)
        >>> ft.make_update(optimizer)({"w": torch.ones(1)}, opt_state, params)[0]
        {'w': tensor([0.5000])}
    """
    if isinstance(factory, GradientTransformation):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StructureError(
            "inject_hyperparams takes a factory, got a GradientTransformation. Call what it returns: "
            "ft.inject_hyperparams(ft.adamw)(lr=1e-3)."
        )
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def injected(*args: Any, **kwargs: Any) -> GradientTransformation:
        given = signature.bind(*args, **kwargs).arguments
        kept = {name: value for name, value in given.items() if _is_kept(signature.parameters[name], value)}

        def at(hyperparams: Mapping[str, Any]) -> GradientTransformation:
            bound = signature.bind_partial()
            bound.arguments.update({**given, **hyperparams})
            return factory(*bound.args, **bound.kwargs)

        # Checks the numbers. As at an update, the factory itself need know nothing of schedules.
        first = torch.zeros((), dtype=torch.int64)
        at({name: _at(value, first) for name, value in kept.items() if callable(value)})

        def init(params: Tree) -> InjectedState:
            step = zero_step(params)
            hyperparams = Params({name: _at(value, step) for name, value in kept.items()})
            return InjectedState(step, hyperparams, at(hyperparams).init(params))

        def opened(state: InjectedState) -> GradientTransformation:
            check_state(state, InjectedState)
            if list(state.hyperparams) != list(kept):
                raise HyperparameterError(
                    f"the optimizer state holds the hyperparameters {list(state.hyperparams)}, this optimizer keeps "
                    f"{list(kept)}. The state was made by another optimizer: call optimizer.init(params)."
                )
            return at(state.hyperparams)

        def closed(state: InjectedState, inner: Tree) -> InjectedState:
            step = state.step + 1
            after = {name: _following(kept[name], value, step) for name, value in state.hyperparams.items()}
            return InjectedState(step, Params(after), inner)

        def update(g: Flat, state: InjectedState, p: Flat | None, **extra: Any) -> tuple[Flat, InjectedState]:
            updates, inner, _ = update_columns(opened(state), g, state.inner, p, extra)
            return updates, closed(state, inner)

        def move(g: Flat, state: InjectedState, p: Flat, **extra: Any) -> tuple[Flat, InjectedState]:
            new, inner = move_columns(opened(state), g, state.inner, p, extra)
            return new, closed(state, inner)

        return GradientTransformation(init, columnwise(update, move))

    return injected


def _is_kept(parameter: inspect.Parameter, value: Any) -> bool:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return isinstance(value, float | Tensor)
    if get_origin(annotation) is tuple:
        return all(_is_hyperparameter(part) for part in get_args(annotation))
    return value is not None and _is_hyperparameter(annotation)


def _is_hyperparameter(annotation: Any) -> bool:
    return {*get_args(Hyperparameter)} <= {*get_args(annotation)}


def _at(value: Any, step: Tensor) -> Any:
    if isinstance(value, tuple | list):
        return tuple([_at(part, step) for part in value])
    if value is None:  # one of a tuple's numbers that is left to the factory
        return None
    now = value(step) if callable(value) else value
    return torch.as_tensor(now, dtype=None if isinstance(now, Tensor) else torch.float64, device=step.device)


def _following(given: Any, now: Any, step: Tensor) -> Any:
    """What the next update uses: a schedule's value there, or what it was."""
    if isinstance(now, tuple):
        return tuple([_following(part, old, step) for part, old in zip(given, now, strict=True)])
    return _at(given, step) if callable(given) else now
