"""NovoGrad."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import check_fraction, check_non_negative, check_pair
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import decaying, descent
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.updates.transforms._momentum import add_momentum
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree


class LayerNormState(NamedTuple):
    """The running mean square of each leaf's length.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        exp_avg_sq: Like params, but each leaf is () and real; in float32 at least.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_layer_norm().init({"w": torch.ones(2)}).exp_avg_sq
        {'w': tensor(0.)}
    """

    step: Tensor
    exp_avg_sq: Tree


@schedulable
def scale_by_layer_norm(beta: Hyperparameter = 0.98, eps: Hyperparameter = 1e-8) -> GradientTransformation:
    r"""Divide gradients by the root of their mean squared length, leaf by leaf.

    $$v \leftarrow \beta v + (1-\beta) \lVert g \rVert^2, \quad u = g / (\sqrt v + \epsilon)$$

    A leaf's first gradient sets v to its squared length.

    Args:
        beta: Decay of the mean, in [0, 1). Dimensionless.
        eps: Added to the root, at least 0; in gradient units.

    Returns:
        Transformation with `LayerNormState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: beta is outside [0, 1), or eps is negative.

    Source: Ginsburg et al. 2019, arXiv:1905.11286, Algorithm 1.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_layer_norm()
        >>> tx.update([torch.tensor([3.0, 4.0])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([0.6000, 0.8000])]
    """
    decay = check_fraction("beta", beta, "With 1.0 the second moment never moves; 0.98 is usual.")
    shift = check_non_negative("eps", eps, "1e-8 is usual.")

    def init(params: Tree) -> LayerNormState:
        return LayerNormState(zero_step_per_leaf(params), tree.map(_zero, params))

    def update(g: Flat, state: LayerNormState, p: Flat | None, **extra: Any) -> tuple[Flat, LayerNormState]:
        del p, extra
        check_state(state, LayerNormState)
        (v,) = g.beside(state.exp_avg_sq)
        weight = 1 - decay * (state.step > 0).double()
        v = tree.lerp(v, tree.norms(g).jointly(torch.square), g.spread(weight))
        u = tree.div(g.spend(), tree.sqrt(v, shift=shift))
        return u, LayerNormState(g.counted(state.step), v.tree(absent=state.exp_avg_sq))

    return GradientTransformation(init, columnwise(update))


def _zero(leaf: Tensor) -> Tensor:
    dtype = leaf.dtype.to_real() if leaf.dtype.is_complex else leaf.dtype
    return torch.zeros((), dtype=torch.float64 if dtype == torch.float64 else torch.float32, device=leaf.device)


def novograd(
    lr: Hyperparameter = 1e-2,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.95, 0.98),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    r"""NovoGrad: momentum over gradients of length about 1, leaf by leaf.

    $$m \leftarrow \beta_1 m + \Big(\frac{g}{\sqrt v + \epsilon} + \lambda p\Big), \quad
      p \leftarrow p - \mathrm{lr} \cdot m$$

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        betas: Decay of the momentum, at least 0 and usually below 1, and of the second moment, in [0, 1).
        eps: As `scale_by_layer_norm`.
        weight_decay: As `add_decayed_weights`; it goes through the momentum.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Ginsburg et al. 2019, arXiv:1905.11286, Algorithm 1; its defaults.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.novograd(0.1)
        >>> params = {"w": torch.ones(2)}
        >>> optimizer.update({"w": torch.tensor([3.0, 4.0])}, optimizer.init(params), params)[0]
        {'w': tensor([-0.0600, -0.0800])}
    """
    beta1, beta2 = check_pair(betas)
    decay = decaying(weight_decay)
    return descent(chain(scale_by_layer_norm(beta2, eps), *decay, add_momentum(beta1)), lr, maximize=maximize)
