"""The kinds of function and value that the library speaks of."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from functional_train.values.struct import struct

Tree = Any
"""Any nesting of containers with tensors as leaves. Python's types cannot say which."""

Schedule = Callable[[Tensor], Tensor]
"""A pure function from a step count to a value."""

Hyperparameter = float | Tensor | Schedule
"""A number, a 0-d tensor (which can be mapped over and differentiated), or a schedule."""


class LossFn(Protocol):
    """`(params, batch, **owned) -> loss | (loss, aux)`: what is to be made small.

    Example:
        >>> import functional_train as ft, torch
        >>> def loss_fn(params, batch):
        ...     return (params["w"] - batch).square().mean()
        >>> loss_fn({"w": torch.tensor(3.0)}, torch.tensor([1.0, 1.0]))
        tensor(4.)
    """

    # With *args too, the rest of the signature is free: (params, batch) and (params, batch, *, key) are both losses.
    def __call__(self, params: Tree, batch: Tree, /, *args: Any, **owned: Any) -> Any: ...


class GradFn(Protocol):
    """`(params, batch, **owned) -> (grads, loss | (loss, aux))`: the slope of a loss and its value.

    Example:
        >>> import functional_train as ft, torch
        >>> grad_fn = ft.grad_and_value(lambda params, batch: (params - batch).square())
        >>> grad_fn(torch.tensor(3.0), torch.tensor(1.0))
        (tensor(4.), tensor(4.))
    """

    def __call__(self, params: Tree, batch: Tree, /, *args: Any, **owned: Any) -> tuple[Tree, Any]: ...


class UpdateFn(Protocol):
    """`(grads, opt_state, params, **extra) -> (params, opt_state)`: new parameters from a slope.

    Example:
        >>> import functional_train as ft, torch
        >>> update_fn = ft.make_update(ft.sgd(0.5))
        >>> update_fn(torch.tensor(4.0), ft.sgd(0.5).init(torch.tensor(3.0)), torch.tensor(3.0))
        (tensor(1.), (EmptyState(),))
    """

    def __call__(self, grads: Tree, opt_state: Tree, params: Tree, /, **extra: Any) -> tuple[Tree, Tree]: ...


class StepFn(Protocol):
    """`(state, batch) -> (state, metrics)`: one step of training.

    Example:
        >>> import functional_train as ft, torch
        >>> step = ft.make_step(ft.grad_and_value(lambda params, batch: (params - batch).square()), ft.sgd(0.5))
        >>> state, metrics = step(ft.init_state(torch.tensor(3.0), ft.sgd(0.5)), torch.tensor(1.0))
        >>> state.params
        tensor(1.)
    """

    def __call__(self, state: Any, batch: Tree, /) -> tuple[Any, Mapping[str, Any]]: ...


@struct
class Aux:
    """What a loss returns beside its value when it owns buffers: `(loss, Aux(metrics, buffers))`.

    Args:
        metrics: Name to tensor, to be recorded.
        buffers: The new buffers, in the structure of those that the loss was handed.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.Aux(metrics={"accuracy": 0.5}).metrics
        {'accuracy': 0.5}
    """

    metrics: Mapping[str, Any]
    buffers: Tree | None = None

    def __init__(self, metrics: Mapping[str, Any] | None = None, buffers: Tree | None = None) -> None:
        object.__setattr__(self, "metrics", {} if metrics is None else metrics)
        object.__setattr__(self, "buffers", buffers)
