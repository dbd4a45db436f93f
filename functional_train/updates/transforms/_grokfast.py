"""Gradients whose slow part is enlarged."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.checks import check_count, check_fraction, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree


class GrokfastEMAState(NamedTuple):
    """Running mean of the gradient.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        exp_avg: Like params.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.grokfast_ema().init({"w": torch.ones(1)}).step
        tensor([0])
    """

    step: Tensor
    exp_avg: Tree


class GrokfastMAState(NamedTuple):
    """The last gradients.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        window: Like params, each leaf of shape `(window_size, *shape)`, oldest first.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.grokfast_ma(2).init({"w": torch.ones(1)}).window
        {'w': tensor([[0.],
                [0.]])}
    """

    step: Tensor
    window: Tree


@schedulable
def grokfast_ema(alpha: Hyperparameter = 0.98, lamb: Hyperparameter = 2.0) -> GradientTransformation:
    r"""Add a multiple of the mean of the gradients to each gradient.

    $$m \leftarrow \alpha m + (1-\alpha) g, \quad u = g + \lambda m$$

    The mean starts at a leaf's first gradient. Put it before an optimizer, where it speeds up grokking.

    Args:
        alpha: Decay of the mean, in [0, 1). Dimensionless.
        lamb: Weight of the mean, at least 0. Dimensionless.

    Returns:
        Transformation with `GrokfastEMAState`; a leaf whose gradient is `None` keeps its state.

    Raises:
        HyperparameterError: alpha is outside [0, 1), or lamb is negative.

    Source: Lee et al. 2024, arXiv:2405.20233, Algorithm 2; defaults of the authors' code.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.chain(ft.grokfast_ema(lamb=2.0), ft.sgd(0.1))
        >>> optimizer.update([torch.ones(1)], optimizer.init([torch.zeros(1)]), [torch.zeros(1)])[0]
        [tensor([-0.3000])]
    """
    decay = check_fraction("alpha", alpha, "0.98 is usual.")
    weight = check_non_negative("lamb", lamb, "2.0 is usual.")

    def init(params: Tree) -> GrokfastEMAState:
        return GrokfastEMAState(zero_step_per_leaf(params), tree.zeros_like(params))

    def update(g: Flat, state: GrokfastEMAState, p: Flat | None, **extra: Any) -> tuple[Flat, GrokfastEMAState]:
        del p, extra
        check_state(state, GrokfastEMAState)
        (m,) = g.beside(state.exp_avg)
        m = tree.lerp(m, g, g.spread(1 - decay * (state.step > 0).double()))
        exp_avg = m.tree(absent=state.exp_avg)
        return tree.add(g.spend(), m, alpha=weight), GrokfastEMAState(g.counted(state.step), exp_avg)

    return GradientTransformation(init, columnwise(update))


@schedulable
def grokfast_ma(window_size: int = 100, lamb: Hyperparameter = 5.0) -> GradientTransformation:
    r"""Add a multiple of the mean of the last gradients to each gradient, as soon as the window is full.

    $$u_t = g_t + \frac{\lambda}{w} \sum_{i = t-w+1}^{t} g_i$$

    The state is `window_size` times as large as the parameters. Put it before an optimizer, where it speeds up
    grokking.

    Args:
        window_size: How many gradients are kept, at least 1.
        lamb: Weight of the mean, at least 0. Dimensionless.

    Returns:
        Transformation with `GrokfastMAState`; a leaf whose gradient is `None` keeps its state.

    Raises:
        HyperparameterError: window_size is no positive integer, or lamb is negative.

    Source: Lee et al. 2024, arXiv:2405.20233, Algorithm 1; defaults of the authors' code.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.chain(ft.grokfast_ma(1, lamb=2.0), ft.sgd(0.1))
        >>> optimizer.update([torch.ones(1)], optimizer.init([torch.zeros(1)]), [torch.zeros(1)])[0]
        [tensor([-0.3000])]
    """
    check_count("window_size", window_size, 1, "It counts gradients; 100 is usual.")
    weight = check_non_negative("lamb", lamb, "5.0 is usual.")

    def init(params: Tree) -> GrokfastMAState:
        window = tree.map(lambda leaf: torch.zeros_like(leaf).expand(window_size, *leaf.shape).contiguous(), params)
        return GrokfastMAState(zero_step_per_leaf(params), window)

    def update(g: Flat, state: GrokfastMAState, p: Flat | None, **extra: Any) -> tuple[Flat, GrokfastMAState]:
        del p, extra
        check_state(state, GrokfastMAState)
        step = g.counted(state.step)
        window = g.map(_pushed, *g.beside(state.window))
        mean = window.map(partial(torch.mean, dim=0))
        share = weight * (step >= window_size).double()
        updates = tree.add(g.spend(), mean, alpha=g.spread(share))
        return updates, GrokfastMAState(step, window.tree(absent=state.window))

    return GradientTransformation(init, columnwise(update))


def _pushed(newest: Tensor, window: Tensor) -> Tensor:
    return torch.cat([window[1:], newest.unsqueeze(0)])
