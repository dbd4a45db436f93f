"""Smaller updates once a value has stopped improving."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.checks import check_choice, check_fraction, check_non_negative, check_whole
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step
from functional_train.values import tree
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.tree._structure import device_of
from functional_train.values.types import Hyperparameter, Tree


class PlateauState(NamedTuple):
    """What the values so far have come to.

    Attributes:
        scale: () float64, what updates are multiplied by.
        best: () float64, the best value so far; infinite before the first.
        num_bad: () int64, decisions in a row without a better value.
        num_cooldown: () int64, decisions to come that count none as bad.
        num_values: () int64, values since the last decision.
        total: () float64, their sum.

    Example:
        >>> import functional_train as ft, torch
        >>> state = ft.reduce_on_plateau().init({"w": torch.ones(1)})
        >>> ft.tree.get(state, "scale")
        tensor(1., dtype=torch.float64)
    """

    scale: Tensor
    best: Tensor
    num_bad: Tensor
    num_cooldown: Tensor
    num_values: Tensor
    total: Tensor


@schedulable
def reduce_on_plateau(
    mode: Literal["min", "max"] = "min",
    factor: Hyperparameter = 0.1,
    patience: int = 10,
    threshold: Hyperparameter = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
    cooldown: int = 0,
    min_scale: Hyperparameter = 0.0,
    eps: Hyperparameter = 1e-8,
    accumulation_size: int = 1,
) -> GradientTransformation:
    r"""Multiply updates by a scale that shrinks when `value=` has stopped improving: $u = c \cdot g$.

    Each update is given a value, which `make_step` takes from the loss. Every `accumulation_size` values their mean is
    compared with the best so far; after more than `patience` comparisons without an improvement,
    $c \leftarrow \max(f c, c_{\min})$, for this update already.

    Place it last in a chain: a scale before Adam and its like, which divide by the size of gradients, changes nothing.
    A value is that of one batch, so `patience` counts batches, where torch's counts epochs: single losses are noisy,
    and `accumulation_size` should be the batches of an epoch. To watch a validation loss, pass it as `value=` to what
    `make_update` returns.

    Args:
        mode: Whether a smaller value is better ("min") or a larger one ("max").
        factor: What the scale is multiplied by, in [0, 1).
        patience: How many comparisons in a row may fail, at least 0.
        threshold: By how much a better value must be better, at least 0.
        threshold_mode: Whether that is a share of the best value ("rel") or in units of the value ("abs").
        cooldown: How many comparisons after a reduction count none as failed, at least 0.
        min_scale: Smallest scale, at least 0.
        eps: A reduction by no more than this is left out, at least 0.
        accumulation_size: How many values are averaged for one comparison, at least 1: the batches of an epoch, for
            one decision an epoch on the mean of its losses.

    Returns:
        Transformation with `PlateauState`, whose `scale` is the current one.

    Raises:
        HyperparameterError: a number is outside its range, or a mode is unknown.
        StructureError: at the update: `value=` is missing, or has more than one number.

    Source: torch.optim.lr_scheduler.ReduceLROnPlateau, whose rule this is; `accumulation_size` is Optax's,
        `contrib.reduce_on_plateau`.

    Differs: from torch.optim.lr_scheduler.ReduceLROnPlateau, `min_scale` and `eps` are shares of the learning rate,
        `min_lr / lr` and `eps / lr`.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.chain(ft.sgd(1.0), ft.reduce_on_plateau(factor=0.5, patience=0))
        >>> params, grads = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
        >>> _, state = optimizer.update(grads, optimizer.init(params), params, value=3.0)
        >>> optimizer.update(grads, state, params, value=3.0)[0]
        {'w': tensor([-0.5000])}
    """
    check_choice("mode", mode, ("min", "max"))
    check_choice("threshold_mode", threshold_mode, ("rel", "abs"))
    shrink = check_fraction("factor", factor, "0.1 is usual; with 1.0 nothing would shrink.")
    margin = check_non_negative("threshold", threshold, "1e-4 is usual.")
    smallest, negligible = check_non_negative("min_scale", min_scale), check_non_negative("eps", eps)
    check_whole("patience", patience, 0, "It counts comparisons.")
    check_whole("cooldown", cooldown, 0, "It counts comparisons.")
    check_whole("accumulation_size", accumulation_size, 1, "It counts values.")
    sign = 1.0 if mode == "min" else -1.0

    def init(params: Tree) -> PlateauState:
        device = device_of(params)
        scale, best, total = [
            torch.full((), number, dtype=torch.float64, device=device) for number in (1.0, sign * float("inf"), 0.0)
        ]
        num_bad, num_cooldown, num_values = (zero_step(params) for _ in range(3))
        return PlateauState(scale, best, num_bad, num_cooldown, num_values, total)

    def decided(state: PlateauState, value: Tensor) -> PlateauState:
        """The state after one comparison."""
        goal = state.best * (1.0 - sign * margin) if threshold_mode == "rel" else state.best - sign * margin
        is_better = value < goal if mode == "min" else value > goal
        is_cooling = state.num_cooldown > 0
        num_bad = torch.where(is_better | is_cooling, 0, state.num_bad + 1)
        is_plateau = num_bad > patience
        reduced = torch.clamp(state.scale * shrink, min=smallest)
        is_reduced = is_plateau & (state.scale - reduced > negligible)
        return PlateauState(
            torch.where(is_reduced, reduced, state.scale),
            torch.where(is_better, value, state.best),
            torch.where(is_plateau, 0, num_bad),
            torch.where(is_plateau, cooldown, state.num_cooldown - is_cooling.long()),
            torch.zeros_like(state.num_values),
            torch.zeros_like(state.total),
        )

    def update(
        g: Flat, state: PlateauState, p: Flat | None, value: Any = None, **extra: Any
    ) -> tuple[Flat, PlateauState]:
        del p, extra
        check_state(state, PlateauState)
        value = _watched(value, state.total)
        num_values, total = state.num_values + 1, state.total + value
        after = decided(state, total / accumulation_size)
        waiting = state._replace(num_values=num_values, total=total)
        is_time = num_values >= accumulation_size
        state = PlateauState(*[torch.where(is_time, new, old) for new, old in zip(after, waiting, strict=True)])
        return tree.scale(state.scale, g.spend()), state

    return GradientTransformation(init, columnwise(update))


def _watched(value: Any, like: Tensor) -> Tensor:
    if value is None:
        raise StructureError(
            "reduce_on_plateau was given no value to watch. Pass update(grads, state, params, value=loss), and value= "
            "to what ft.make_update returns; ft.make_step passes the loss."
        )
    # A loss with a graph would keep it alive in the state, and no derivative passes a comparison.
    number = torch.as_tensor(value, dtype=like.dtype, device=like.device).detach()
    if number.ndim != 0:
        raise StructureError(
            f"reduce_on_plateau watches one number, got value= of shape {tuple(number.shape)}. Pass its mean."
        )
    return number
