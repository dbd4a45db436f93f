"""Adadelta."""

from functools import partial
from typing import Any, NamedTuple

from functional_train.updates.chain import chain
from functional_train.updates.checks import Number, check_non_negative, check_share
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import climbing, decaying
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_wide_reals
from functional_train.values.types import Hyperparameter, Tree


class AdadeltaState(NamedTuple):
    """Running mean squares.

    Attributes:
        square_avg: Like params, the mean square of the gradients.
        acc_delta: Like params, the mean square of the directions.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_adadelta().init({"w": torch.ones(1)}).acc_delta
        {'w': tensor([0.])}
    """

    square_avg: Tree
    acc_delta: Tree


@schedulable
def scale_by_adadelta(rho: Hyperparameter = 0.9, eps: Hyperparameter = 1e-6) -> GradientTransformation:
    r"""Bring gradients into the units of the parameters, by the sizes of past directions over those of gradients.

    $$v \leftarrow \rho v + (1-\rho) g^2, \quad u = \frac{\sqrt{a + \epsilon}}{\sqrt{v + \epsilon}} g, \quad
      a \leftarrow \rho a + (1-\rho) u^2$$

    Args:
        rho: Decay of both mean squares, in [0, 1]. Dimensionless.
        eps: Added under both roots, at least 0; in squared gradient units. With 0 nothing moves.

    Returns:
        Transformation with `AdadeltaState`; a leaf whose gradient is `None` keeps its state.

    Raises:
        HyperparameterError: rho is outside [0, 1], or eps is negative.

    Source: Zeiler 2012, arXiv:1212.5701, Algorithm 1.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_adadelta()
        >>> tx.update([torch.tensor([5.0, -0.1])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([ 0.0032, -0.0032])]
    """
    decay = check_share("rho", rho, "0.9 is usual.")
    shift = check_non_negative("eps", eps, "1e-6 is usual.")

    def init(params: Tree) -> AdadeltaState:
        return AdadeltaState(tree.zeros_like(params), tree.zeros_like(params))

    def update(g: Flat, state: AdadeltaState, p: Flat | None, **extra: Any) -> tuple[Flat, AdadeltaState]:
        del p, extra
        check_state(state, AdadeltaState)
        direction, v, a = over_wide_reals(partial(_recurrence, decay, shift), g, *g.beside(*state))
        return direction, AdadeltaState(v.tree(absent=state.square_avg), a.tree(absent=state.acc_delta))

    return GradientTransformation(init, columnwise(update))


def _recurrence(rho: Number, eps: Number, g: Flat, v: Flat, a: Flat) -> tuple[Flat, ...]:
    v = tree.addcmul(v, g, g, 1 - rho, decay=rho)
    direction = tree.div_sqrt(tree.mul(g, tree.sqrt(tree.add(a, eps))), v, inside=eps)
    return direction, v, tree.addcmul(a, direction, direction, 1 - rho, decay=rho)


def adadelta(
    lr: Hyperparameter = 1.0,
    rho: Hyperparameter = 0.9,
    eps: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Adadelta: steps whose size comes from the steps before.

    Args:
        lr: As `scale_by_lr`; dimensionless here.
        rho: As `scale_by_adadelta`.
        eps: As `scale_by_adadelta`.
        weight_decay: L2 penalty added to the gradient; at least 0.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: torch.optim.Adadelta, whose rule this is; Zeiler 2012, arXiv:1212.5701, Algorithm 1.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.adadelta()
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.0032])}
    """
    climb = climbing(maximize)
    decay = decaying(weight_decay)
    return chain(*climb, *decay, scale_by_adadelta(rho, eps), scale_by_lr(lr))
