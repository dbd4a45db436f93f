"""The kinds of function and value that the library speaks of."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from functional_train.values.params import Params
from functional_train.values.struct import struct

Tree = Any
"""Any nesting of containers with tensors as leaves. Python's types cannot say which."""

Schedule = Callable[[Tensor], Tensor]
"""A pure function from a step count to a value."""

Hyperparameter = float | Tensor | Schedule
"""A number, a 0-d tensor (which can be mapped over and differentiated), or a schedule."""


class LossFn(Protocol):
    """`(params, batch, **owned) -> loss | (loss, aux)`: what is to be made small."""

    def __call__(self, params: Tree, batch: Tree, /, **owned: Any) -> Any: ...


class GradFn(Protocol):
    """`(params, batch, **owned) -> (grads, loss | (loss, aux))`: the slope of a loss and its value."""

    def __call__(self, params: Tree, batch: Tree, /, **owned: Any) -> tuple[Tree, Any]: ...


class UpdateFn(Protocol):
    """`(grads, opt_state, params, **extra) -> (params, opt_state)`: new parameters from a slope."""

    def __call__(self, grads: Tree, opt_state: Tree, params: Tree, /, **extra: Any) -> tuple[Tree, Tree]: ...


class StepFn(Protocol):
    """`(state, batch) -> (state, metrics)`: one step of training."""

    def __call__(self, state: Any, batch: Tree, /) -> tuple[Any, Mapping[str, Any]]: ...


@struct
class Aux:
    """What a loss returns beside its value when it owns buffers: `(loss, Aux(metrics, buffers))`.

    Args:
        metrics: Name to tensor, to be recorded.
        buffers: The module's new buffers.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.Aux(metrics={"accuracy": 0.5}).metrics
        {'accuracy': 0.5}
    """

    metrics: Mapping[str, Any]
    buffers: Params | None = None

    def __init__(self, metrics: Mapping[str, Any] | None = None, buffers: Params | None = None) -> None:
        object.__setattr__(self, "metrics", {} if metrics is None else metrics)
        object.__setattr__(self, "buffers", buffers)
