"""RMSprop."""

from functools import partial
from typing import Any, NamedTuple

from functional_train.updates.chain import chain
from functional_train.updates.checks import Number, check_non_negative, check_share, is_zero
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import climbing, decaying
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise
from functional_train.updates.transforms._momentum import add_momentum
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values import tree
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_wide_reals
from functional_train.values.types import Hyperparameter, Tree


class RMSpropState(NamedTuple):
    """Running moments of the gradient.

    Attributes:
        square_avg: Like params, the mean of the square.
        grad_avg: Like params, the mean; `()` unless centered.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_rmsprop().init({"w": torch.ones(1)})
        RMSpropState(square_avg={'w': tensor([0.])}, grad_avg=())
    """

    square_avg: Tree
    grad_avg: Tree


@schedulable
def scale_by_rmsprop(
    alpha: Hyperparameter = 0.99, eps: Hyperparameter = 1e-8, centered: bool = False
) -> GradientTransformation:
    r"""Divide gradients by the root of their mean square, or by their standard deviation.

    $$v \leftarrow \alpha v + (1-\alpha) g^2, \quad u = g / (\sqrt v + \epsilon)$$

    Centered, $v - m^2$ takes the place of $v$ under the root, where $m \leftarrow \alpha m + (1-\alpha) g$.

    Args:
        alpha: Decay of the means, in [0, 1]. Dimensionless.
        eps: Added to the root, at least 0; in gradient units.
        centered: Whether to divide by the standard deviation.

    Returns:
        Transformation with `RMSpropState`; a leaf whose gradient is `None` keeps its state.

    Raises:
        HyperparameterError: alpha is outside [0, 1], or eps is negative.
        StructureError: at the update: the state was made with `centered`, and this was not.

    Source: Tieleman & Hinton 2012, "Lecture 6.5: rmsprop"; centered: Graves 2013, arXiv:1308.0850, equations 38 to 40.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_rmsprop()
        >>> tx.update([torch.tensor([5.0, -0.1])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([ 10.0000, -10.0000])]
    """
    decay = check_share("alpha", alpha, "0.99 is usual.")
    shift = check_non_negative("eps", eps, "1e-8 is usual.")

    def init(params: Tree) -> RMSpropState:
        return RMSpropState(tree.zeros_like(params), tree.zeros_like(params) if centered else ())

    def update(g: Flat, state: RMSpropState, p: Flat | None, **extra: Any) -> tuple[Flat, RMSpropState]:
        del p, extra
        check_state(state, RMSpropState)
        if not centered and tree.leaves(state.grad_avg):
            raise StructureError(
                "a state made with centered=True was given to RMSprop without. "
                "The optimizer state was made by another optimizer: call optimizer.init(params)."
            )
        before = state if centered else state[:1]
        direction, *moments = over_wide_reals(partial(_recurrence, decay, shift), g, *g.beside(*before))
        made = [column.tree(absent=old) for column, old in zip(moments, before, strict=True)]
        return direction, RMSpropState(made[0], made[1] if centered else ())

    return GradientTransformation(init, columnwise(update))


def _recurrence(alpha: Number, eps: Number, g: Flat, v: Flat, *mean: Flat) -> tuple[Flat, ...]:
    v = tree.addcmul(v, g, g, 1 - alpha, decay=alpha)
    if not mean:
        return tree.div_sqrt(g, v, outside=eps), v
    m = tree.lerp(mean[0], g, 1 - alpha)
    return tree.div_sqrt(g, tree.addcmul(v, m, m, -1), outside=eps), v, m


def rmsprop(
    lr: Hyperparameter = 1e-2,
    alpha: Hyperparameter = 0.99,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    momentum: Hyperparameter = 0.0,
    centered: bool = False,
    maximize: bool = False,
) -> GradientTransformation:
    """RMSprop: gradients over the root of their mean square, with momentum when asked for.

    Args:
        lr: As `scale_by_lr`.
        alpha: As `scale_by_rmsprop`.
        eps: As `scale_by_rmsprop`.
        weight_decay: L2 penalty added to the gradient; at least 0.
        momentum: As `add_momentum`, of the divided gradients; with 0 no velocity is kept.
        centered: As `scale_by_rmsprop`.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: torch.optim.RMSprop, whose rule this is; Graves 2013, arXiv:1308.0850, equations 38 to 41.

    Differs: from Graves, eps is added to the root and not under it, as torch does.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.rmsprop(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-1.0000])}
    """
    climb = climbing(maximize)
    decay = decaying(weight_decay)
    velocity = [] if is_zero(momentum) else [add_momentum(momentum)]
    return chain(*climb, *decay, scale_by_rmsprop(alpha, eps, centered), *velocity, scale_by_lr(lr))
