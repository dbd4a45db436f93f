"""Gradients centered, normalized and scaled."""

from collections.abc import Callable

import torch
from torch import Tensor

from functional_train.updates.checks import check_finite, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import GradientTransformation, check_params, stateless_columns
from functional_train.updates.transforms._choose import NOTHING
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter


def centralize() -> GradientTransformation:
    r"""Take off each unit's gradient its mean: $u_i = g_i - \mathrm{mean}(g_i)$.

    A unit $i$ is a row of a matrix or a filter of a convolution: all but the first dimension. Vectors and numbers pass
    through.

    Returns:
        Transformation with `EmptyState`.

    Source: Yong et al. 2020, arXiv:2004.01461, equation 1.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.centralize().update([torch.tensor([[1.0, 3.0], [0.0, 0.0]])], ft.EmptyState(), None)[0]
        [tensor([[-1.,  1.],
                [ 0.,  0.]])]
    """

    def center(leaf: Tensor) -> Tensor:
        if leaf.ndim < 2 or leaf.numel() == 0:
            return leaf
        return leaf - leaf.mean(dim=tuple(range(1, leaf.ndim)), keepdim=True)

    return stateless_columns(lambda g, p: g.map(center))


@schedulable
def normalize_by_global_norm(eps: Hyperparameter = 1e-6) -> GradientTransformation:
    r"""Give the gradients length 1: $u = g / (\lVert g \rVert + \epsilon)$.

    The norm is taken over all leaves as one vector.

    Args:
        eps: Added to the norm, at least 0; in gradient units.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when `eps` is a schedule.

    Raises:
        HyperparameterError: eps is negative or not finite.

    Source: Nesterov 2004, "Introductory lectures on convex optimization", section 3.2.3; Optax,
        `normalize_by_update_norm`.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.normalize_by_global_norm()
        >>> tx.update([torch.tensor([3.0, 4.0])], tx.init(None), None)[0]
        [tensor([0.6000, 0.8000])]
    """
    shift = check_non_negative("eps", eps, "1e-6 is usual.")
    return stateless_columns(lambda g, p: tree.scale(1 / (tree.global_norm(g.leaves) + shift), g.spend()))


@schedulable
def scale(factor: Hyperparameter = 1.0) -> GradientTransformation:
    r"""Multiply by a number: $u = c g$.

    Args:
        factor: The number $c$, of either sign. Dimensionless.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when `factor` is a schedule.

    Raises:
        HyperparameterError: factor is not finite.

    Source: Optax, `scale` and `scale_by_schedule`.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale(0.5)
        >>> tx.update([torch.ones(1)], tx.init(None), None)[0]
        [tensor([0.5000])]
    """
    number = check_finite("factor", factor)
    return stateless_columns(lambda g, p: tree.scale(number, g.spend()))


@schedulable
def scale_by_param_norm(min_norm: Hyperparameter = 1e-3) -> GradientTransformation:
    r"""Multiply each leaf by the length of its parameter: $u_i = g_i \max(\lVert p_i \rVert, \epsilon)$.

    Args:
        min_norm: Least length $\epsilon$, at least 0, without which parameters of 0 would stay; in parameter units.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when `min_norm` is a schedule.

    Raises:
        HyperparameterError: min_norm is negative or not finite.

    Source: Optax, `scale_by_param_block_norm`; Bernstein et al. 2020, arXiv:2002.03432, on Fromage.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_param_norm()
        >>> tx.update([torch.ones(2)], tx.init(None), [torch.tensor([3.0, 4.0])])[0]
        [tensor([5., 5.])]
    """
    least = check_non_negative("min_norm", min_norm, "1e-3 is usual.")
    return _scale_by_size(tree.norms, least, "scale_by_param_norm")


@schedulable
def scale_by_param_rms(min_rms: Hyperparameter = 1e-3) -> GradientTransformation:
    r"""Multiply each leaf by the root mean square of its parameter: $u_i = g_i \max(\mathrm{RMS}(p_i), \epsilon)$.

    Args:
        min_rms: Least size $\epsilon$, at least 0, without which parameters of 0 would stay; in parameter units.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when `min_rms` is a schedule.

    Raises:
        HyperparameterError: min_rms is negative or not finite.

    Source: Shazeer & Stern 2018, arXiv:1804.04235, section 8.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_param_rms()
        >>> tx.update([torch.ones(2)], tx.init(None), [torch.tensor([3.0, -3.0])])[0]
        [tensor([3., 3.])]
    """
    least = check_non_negative("min_rms", min_rms, "1e-3 is usual.")
    return _scale_by_size(tree.rms, least, "scale_by_param_rms")


def _scale_by_size(sizes_of: Callable[[Flat], Flat], least: float | Tensor, taker: str) -> GradientTransformation:
    def at_least(sizes: Tensor) -> Tensor:
        return torch.maximum(sizes, torch.as_tensor(least, dtype=sizes.dtype, device=sizes.device))

    return stateless_columns(lambda g, p: tree.scale(sizes_of(check_params(p, taker)).jointly(at_least), g.spend()))


def set_to_zero() -> GradientTransformation:
    """Let nothing through: parameters stay as they are, to the bit.

    Returns:
        Transformation with `EmptyState`; updates are -0.0, which changes no number that it is added to.

    Source: Optax, `set_to_zero`.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.set_to_zero()
        >>> ft.make_update(tx)([torch.ones(1)], tx.init(None), [torch.tensor([0.3])])[0]
        [tensor([0.3000])]
    """
    return stateless_columns(lambda g, p: g.map(_zeros_of))


def _zeros_of(leaf: Tensor) -> Tensor:
    # Computed from the leaf, so that who differentiates finds a derivative, which is zero.
    return torch.where(torch.zeros_like(leaf, dtype=torch.bool), leaf, NOTHING).to(leaf.dtype)
