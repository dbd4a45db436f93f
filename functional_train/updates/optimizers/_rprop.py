"""Rprop."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import Number, check_above, check_fraction, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import climbing
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise
from functional_train.values import tree
from functional_train.values.errors import HyperparameterError
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import filled_like, over_wide_reals
from functional_train.values.types import Hyperparameter, Tree


class RpropState(NamedTuple):
    """The gradient before, and the length of the next step.

    Attributes:
        prev: Like params, the gradient before; 0 where it turned around.
        step_size: Like params, in parameter units.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_rprop(0.1).init({"w": torch.ones(1)}).step_size
        {'w': tensor([0.1000])}
    """

    prev: Tree
    step_size: Tree


@schedulable
def scale_by_rprop(
    lr: Hyperparameter = 1e-2,
    etas: tuple[Hyperparameter, Hyperparameter] = (0.5, 1.2),
    step_sizes: tuple[Hyperparameter, Hyperparameter] = (1e-6, 50.0),
) -> GradientTransformation:
    r"""Keep only the signs of gradients, and steps of lengths that grow until a sign turns around.

    $$\Delta \leftarrow \operatorname{clamp}(\Delta \cdot \eta^{+} \text{ if } g g_{t-1} > 0,\;
      \Delta \cdot \eta^{-} \text{ if } g g_{t-1} < 0), \quad
      g \leftarrow 0 \text{ if } g g_{t-1} < 0, \quad u = -\operatorname{sign}(g) \Delta$$

    Args:
        lr: Length of the first steps, at least 0; in parameter units. Looked at when the state is made.
        etas: Factors by which a length shrinks and grows, in (0, 1) and above 1. Dimensionless.
        step_sizes: Least and largest length, at least 0; in parameter units.

    Returns:
        Transformation with `RpropState`; a leaf whose gradient is `None` keeps its state. Updates are in parameter
        units and point down: no `scale_by_lr` comes after.

    Raises:
        HyperparameterError: a number is outside its range, or the least length exceeds the largest.

    Source: Riedmiller & Braun 1993, "A direct adaptive method for faster backpropagation learning: the RPROP
        algorithm"; without its way back, as in Igel & Hüsken 2000, "Improving the Rprop learning algorithm", iRprop-.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_rprop(0.1)
        >>> updates, state = tx.update([torch.tensor([5.0, -0.1])], tx.init([torch.zeros(2)]), None)
        >>> tx.update([torch.tensor([3.0, 0.2])], state, None)[0]
        [tensor([-0.1200, -0.0000])]
    """
    first = check_non_negative("lr", lr, "To climb instead of descend, pass maximize=True to the optimizer.")
    factors, limits = _check_etas(etas), _check_step_sizes(step_sizes)

    def init(params: Tree) -> RpropState:
        return RpropState(tree.zeros_like(params), filled_like(params, first))

    def update(g: Flat, state: RpropState, p: Flat | None, **extra: Any) -> tuple[Flat, RpropState]:
        del p, extra
        check_state(state, RpropState)
        direction, prev, size = over_wide_reals(partial(_recurrence, factors, limits), g, *g.beside(*state))
        return direction, RpropState(prev.tree(absent=state.prev), size.tree(absent=state.step_size))

    return GradientTransformation(init, columnwise(update))


def _check_etas(etas: tuple[Hyperparameter, Hyperparameter]) -> tuple[Number, Number]:
    shrink, grow = _pair("etas", etas, "(0.5, 1.2) is usual.")
    return (
        check_fraction("etas[0]", check_above("etas[0]", shrink, 0.0, "0.5 is usual."), "0.5 is usual."),
        check_above("etas[1]", grow, 1.0, "1.2 is usual."),
    )


def _check_step_sizes(step_sizes: tuple[Hyperparameter, Hyperparameter]) -> tuple[Number, Number]:
    both = _pair("step_sizes", step_sizes, "(1e-6, 50.0) is usual.")
    least, largest = (check_non_negative(f"step_sizes[{place}]", each) for place, each in enumerate(both))
    if not isinstance(least, Tensor) and not isinstance(largest, Tensor) and least > largest:
        raise HyperparameterError(f"step_sizes must be (least, largest), got {step_sizes!r}. (1e-6, 50.0) is usual.")
    return least, largest


def _pair(name: str, value: Any, hint: str) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:  # pyright: ignore[reportUnknownArgumentType]
        raise HyperparameterError(f"{name} must be a pair, got {value!r}. {hint}")
    return value[0], value[1]  # pyright: ignore[reportUnknownVariableType]


def _recurrence(
    factors: tuple[Number, Number], limits: tuple[Number, Number], g: Flat, prev: Flat, size: Flat
) -> tuple[Flat, ...]:
    kept, factor = g.map(partial(_compared, *factors), prev, outputs=2)
    size = tree.clamp(tree.mul(size, factor), *limits)
    return tree.mul(tree.scale(-1, tree.sign(kept).spend()), size), kept, size


def _compared(shrink: Number, grow: Number, g: Tensor, prev: Tensor) -> tuple[Tensor, Tensor]:
    shrunk, grown = (torch.as_tensor(each, dtype=g.dtype, device=g.device) for each in (shrink, grow))
    product = g * prev
    turned, same = product < 0, torch.ones_like(product)
    return torch.where(turned, 0, g), torch.where(turned, shrunk, torch.where(product > 0, grown, same))


def rprop(
    lr: Hyperparameter = 1e-2,
    etas: tuple[Hyperparameter, Hyperparameter] = (0.5, 1.2),
    step_sizes: tuple[Hyperparameter, Hyperparameter] = (1e-6, 50.0),
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Rprop: every parameter has a step length of its own, and of gradients only the signs count.

    Args:
        lr: As `scale_by_rprop`.
        etas: As `scale_by_rprop`.
        step_sizes: As `scale_by_rprop`.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: torch.optim.Rprop, whose rule this is; Riedmiller & Braun 1993, "A direct adaptive method for faster
        backpropagation learning: the RPROP algorithm".

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.rprop(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    climb = climbing(maximize)
    return chain(*climb, scale_by_rprop(lr, etas, step_sizes))
