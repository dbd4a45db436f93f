"""Momentum."""

from typing import Any, NamedTuple

from torch import Tensor

from functional_train.updates.checks import check_non_negative, is_zero
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.values import tree
from functional_train.values.errors import HyperparameterError
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree


class MomentumState(NamedTuple):
    """The velocity of each parameter.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        momentum_buffer: Like params.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.add_momentum(0.9).init({"w": torch.ones(1)}).momentum_buffer
        {'w': tensor([0.])}
    """

    step: Tensor
    momentum_buffer: Tree


@schedulable
def add_momentum(
    momentum: Hyperparameter = 0.9, dampening: Hyperparameter = 0.0, nesterov: bool = False
) -> GradientTransformation:
    r"""Replace gradients by their running sum.

    $$b \leftarrow \mu b + (1 - \tau) g, \quad u = b \;\text{ or, with Nesterov, }\; g + \mu b$$

    The first gradient that a leaf sees enters its buffer whole.

    Args:
        momentum: Decay of the buffer, at least 0 and usually below 1. Dimensionless.
        dampening: Taken off each gradient but a leaf's first, at least 0. Dimensionless.
        nesterov: Whether to look one step ahead; needs momentum above 0 and no dampening.

    Returns:
        Transformation with `MomentumState`; a leaf whose gradient is `None` keeps its state.

    Raises:
        HyperparameterError: a number is negative or not finite, or nesterov does not go with the others.

    Source: Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning", equations 1 to
        4.

    Differs: from the paper, the learning rate is applied after the buffer, as in `torch.optim.SGD`.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.add_momentum(0.5)
        >>> updates, state = tx.update([torch.ones(1)], tx.init([torch.zeros(1)]), None)
        >>> tx.update([torch.ones(1)], state, None)[0]
        [tensor([1.5000])]
    """
    mu = check_non_negative("momentum", momentum, "0.9 is usual.")
    tau = check_non_negative("dampening", dampening)
    if nesterov and (is_zero(mu) or not is_zero(tau)):
        raise HyperparameterError(
            f"nesterov=True needs momentum > 0 and dampening 0, got momentum={momentum!r} and dampening={dampening!r}."
        )

    def init(params: Tree) -> MomentumState:
        step = zero_step_per_leaf(params)
        return MomentumState(step, tree.zeros_like(params))

    def update(g: Flat, state: MomentumState, p: Flat | None, **extra: Any) -> tuple[Flat, MomentumState]:
        del p, extra
        check_state(state, MomentumState)
        (b,) = g.beside(state.momentum_buffer)
        if is_zero(tau):
            b = tree.add(g, b, alpha=mu)
        else:
            # In float64, whatever torch's default is: `spread` rounds it to what the leaves need.
            share = 1.0 - tau * (state.step > 0).double()
            b = tree.add(tree.scale(g.spread(share), g), b, alpha=mu)
        updates = tree.add(g, b, alpha=momentum) if nesterov else b  # pyright: ignore[reportArgumentType]
        return updates, MomentumState(g.counted(state.step), b.tree(absent=state.momentum_buffer))

    return GradientTransformation(init, columnwise(update))
