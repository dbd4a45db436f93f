"""Hypothesis strategies for transformations, schedules and states, made by calling registered factories."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from functional_train import updates
from functional_train.steps.state import TrainState, init_state
from functional_train.testing.strategies import keys, params, tensors
from functional_train.updates import schedules as schedule_factories
from functional_train.updates.chain import chain
from functional_train.updates.checks import Number
from functional_train.updates.transformation import GradientTransformation
from functional_train.values.errors import HyperparameterError
from functional_train.values.params import Params
from functional_train.values.types import Schedule

_UNNAMED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@functools.cache
def registered_factories() -> Mapping[str, Callable[..., GradientTransformation]]:
    """Every factory of the library that makes a transformation when called without arguments, by name."""
    names = [module.name for module in pkgutil.walk_packages(updates.__path__, f"{updates.__name__}.")]
    members = [item for name in names for item in vars(importlib.import_module(name)).items()]
    public = [(name, value) for name, value in members if inspect.isfunction(value) and not name.startswith("_")]
    made = {name: value for name, value in public if makes_transformation(value)}
    return {name: made[name] for name in sorted(made)}


def makes_transformation(factory: Callable[..., Any]) -> bool:
    """Whether a function is annotated to return a transformation and needs no arguments."""
    signature = inspect.signature(factory)
    needs = [each for each in signature.parameters.values() if each.default is each.empty or each.kind in _UNNAMED]
    return signature.return_annotation is GradientTransformation and not needs


def from_factory(factory: Callable[..., Any]) -> SearchStrategy[Any]:
    """Draw calls of a factory, with hyperparameters chosen by the signature.

    Where the default is a number, that number or one below it is drawn (0.1 for 0), for a transformation also as a 0-d
    tensor or a schedule; a bool is either; a tuple is drawn part by part. An `int` without a default is drawn between 0
    and 20, any other parameter without one between 0 and 1. Combinations that the factory refuses with
    `HyperparameterError` are left out.

    Args:
        factory: A function from hyperparameters to a transformation, or to a schedule.

    Returns:
        A strategy for what it returns; the simplest is that of the defaults.

    Example:
        >>> import functional_train as ft, functional_train.testing
        >>> from hypothesis import given
        >>> @given(ft.testing.from_factory(ft.adam), ft.testing.params_and_grads())
        ... def test_adam_keeps_shapes(adam, drawn):
        ...     ft.testing.updates_are_like_params(adam, *drawn)
    """
    signature = inspect.signature(factory)
    scheduled = signature.return_annotation is GradientTransformation

    # Named like the factory, so that a failing example shows the call.
    @functools.wraps(factory)
    def call(**hyperparameters: Any) -> Any:
        try:
            made = factory(**hyperparameters)
            if scheduled:
                made.init(())  # what a schedule gives is checked when it is evaluated
        except HyperparameterError:
            reject()
        return made

    named = [parameter for parameter in signature.parameters.values() if parameter.kind not in _UNNAMED]
    return st.builds(call, **{each.name: _values(each, scheduled) for each in named})


def _values(parameter: inspect.Parameter, scheduled: bool) -> SearchStrategy[Any]:
    if parameter.default is not parameter.empty:
        return _around(parameter.default, scheduled)
    return st.integers(0, 20) if parameter.annotation is int else st.floats(0, 1)


def _around(default: Any, scheduled: bool) -> SearchStrategy[Any]:
    if isinstance(default, bool):
        return st.sampled_from((default, not default))
    if isinstance(default, tuple):
        return st.tuples(*[_around(part, scheduled) for part in default])
    if isinstance(default, float):
        number = st.sampled_from((default, default / 2 if default else 0.1))
        tensor = number.map(lambda value: torch.tensor(value, dtype=torch.float64))
        forms = (number, tensor, number.map(schedule_factories.constant)) if scheduled else (number, tensor)
        return st.one_of(*forms)
    return st.just(default)


# These refuse the dense gradients that the strategies of this package draw.
_FOR_SPARSE_GRADIENTS = frozenset({"scale_by_sparse_adam", "sparse_adam"})


def gradient_transformations(
    *, max_size: int = 3, without: Collection[str] = ()
) -> SearchStrategy[GradientTransformation]:
    """Draw chains of the library's transformations of dense gradients, with drawn hyperparameters.

    Args:
        max_size: Largest number of links.
        without: Names of factories that no link comes from.

    Returns:
        A strategy for chains; the simplest has no link.

    Example:
        >>> import functional_train as ft, functional_train.testing
        >>> from hypothesis import given
        >>> @given(ft.testing.gradient_transformations(), ft.testing.params_and_grads())
        ... def test_chains_are_pure(chain, drawn):
        ...     ft.testing.is_pure(chain, *drawn)
    """
    left_out = _FOR_SPARSE_GRADIENTS.union(without)
    drawn = [factory for name, factory in registered_factories().items() if name not in left_out]
    link = st.sampled_from(drawn).flatmap(from_factory)
    return st.lists(link, max_size=max_size).map(lambda links: chain(*links))


def schedules() -> SearchStrategy[Schedule]:
    """Draw schedules of the library, with drawn hyperparameters; those made of other schedules are left out.

    Returns:
        A strategy for functions from a step to a value between 0 and 1.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> from hypothesis import given
        >>> @given(ft.testing.schedules())
        ... def test_values_are_float64(schedule):
        ...     assert schedule(torch.tensor(3)).dtype == torch.float64
        >>> test_values_are_float64()
    """
    factories = [getattr(schedule_factories, name) for name in schedule_factories.__all__]
    return st.sampled_from([factory for factory in factories if _takes_numbers(factory)]).flatmap(from_factory)


def _takes_numbers(factory: Callable[..., Any]) -> bool:
    needed = [each for each in inspect.signature(factory).parameters.values() if each.default is each.empty]
    return all(each.annotation in (int, Number) for each in needed)


def train_states(*, optimizer: GradientTransformation | None = None) -> SearchStrategy[TrainState]:
    """Draw states at step 0, with and without buffers and a key.

    Args:
        optimizer: Makes `opt_state`; by default any chain that `gradient_transformations` draws.

    Returns:
        A strategy for states that own at least one trained leaf.

    Example:
        >>> import functional_train as ft, functional_train.testing
        >>> from hypothesis import given
        >>> @given(ft.testing.train_states(optimizer=ft.sgd()))
        ... def test_states_begin_at_step_zero(state):
        ...     assert state.step == 0
        >>> test_states_begin_at_step_zero()
    """
    return _train_states(gradient_transformations() if optimizer is None else st.just(optimizer))


@st.composite
def _train_states(draw: DrawFn, optimizers: SearchStrategy[GradientTransformation]) -> TrainState:
    drawn, optimizer, key = draw(params(min_leaves=1)), draw(optimizers), draw(st.none() | keys())
    mean = tensors(dtype=torch.float32, elements=st.floats(-10, 10, width=32))
    count = tensors(dtype=torch.int64, shape=(), elements=st.integers(0, 10))
    made = st.builds(lambda mean, count: Params({"running_mean": mean, "num_batches_tracked": count}), mean, count)
    return init_state(drawn, optimizer, buffers=draw(st.none() | made), key=key)
