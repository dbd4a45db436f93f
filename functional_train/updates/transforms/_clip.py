"""Clipping."""

import torch
from torch import Tensor

from functional_train.updates.checks import check_above, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import GradientTransformation, check_params, stateless_columns
from functional_train.values import tree
from functional_train.values.errors import HyperparameterError
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.tree._precision import wide
from functional_train.values.types import Hyperparameter


@schedulable
def clip_by_global_norm(max_norm: Hyperparameter = 1.0, norm_type: float = 2) -> GradientTransformation:
    r"""Shorten gradients that are longer than `max_norm`: $u = g \cdot \min(1, c / (\lVert g \rVert + 10^{-6}))$.

    The norm is taken over all leaves as one vector. Nothing is synchronized with the host.

    Args:
        max_norm: Largest length, at least 0; in gradient units.
        norm_type: Power of the norm, above 0, a number; infinity gives the largest size.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when `max_norm` is a schedule.

    Raises:
        HyperparameterError: max_norm is negative or not finite, or norm_type is not above 0.

    Source: Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1; the 1e-6 is torch.nn.utils.clip_grad_norm_'s.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.clip_by_global_norm(1.0)
        >>> tx.update([torch.tensor([3.0, 4.0])], tx.init(None), None)[0]
        [tensor([0.6000, 0.8000])]
    """
    longest = check_non_negative("max_norm", max_norm, "1.0 is usual.")
    if not norm_type > 0:
        raise HyperparameterError(f"norm_type must be a number > 0, got {norm_type!r}. 2 is usual.")

    def shorten(g: Flat, p: Flat | None) -> Flat:
        del p
        factor = torch.clamp(longest / (tree.global_norm(g.leaves, norm_type) + 1e-6), max=1.0)
        return tree.scale(factor, g.spend())

    return stateless_columns(shorten)


@schedulable
def clip_by_leaf_norm(max_norm: Hyperparameter = 1.0) -> GradientTransformation:
    r"""Shorten each leaf that is longer than `max_norm`: $u_i = g_i \cdot \min(1, c / (\lVert g_i \rVert + 10^{-6}))$.

    Args:
        max_norm: Largest length of a leaf, at least 0; in gradient units.

    Returns:
        As `clip_by_global_norm`.

    Raises:
        HyperparameterError: max_norm is negative or not finite.

    Source: torch.nn.utils, `clip_grad_norm_`, called on one parameter at a time.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.clip_by_leaf_norm(1.0)
        >>> tx.update([torch.tensor([3.0, 4.0]), torch.tensor([0.5])], tx.init(None), None)[0]
        [tensor([0.6000, 0.8000]), tensor([0.5000])]
    """
    longest = check_non_negative("max_norm", max_norm, "1.0 is usual.")

    def shorten(g: Flat, p: Flat | None) -> Flat:
        del p
        factors = tree.norms(g).jointly(lambda norms: torch.clamp(longest / (norms + 1e-6), max=1.0))
        return tree.scale(factors, g.spend())

    return stateless_columns(shorten)


@schedulable
def clip_by_block_rms(max_rms: Hyperparameter = 1.0) -> GradientTransformation:
    r"""Shrink each leaf whose root mean square is above a bound: $u_i = g_i / \max(1, \mathrm{RMS}(g_i) / d)$.

    Args:
        max_rms: The bound $d$, above 0; in gradient units.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when `max_rms` is a schedule.

    Raises:
        HyperparameterError: max_rms is not above 0, or not finite.

    Source: Shazeer & Stern 2018, arXiv:1804.04235, section 6.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.clip_by_block_rms(1.0)
        >>> tx.update([torch.tensor([2.0, -2.0]), torch.tensor([0.5])], tx.init(None), None)[0]
        [tensor([ 1., -1.]), tensor([0.5000])]
    """
    bound = check_above("max_rms", max_rms, 0, "1.0 is usual.")

    def shrink(g: Flat, p: Flat | None) -> Flat:
        del p
        factors = tree.rms(g).jointly(lambda rms: 1 / torch.clamp(rms / bound, min=1.0))
        return tree.scale(factors, g.spend())

    return stateless_columns(shrink)


@schedulable
def clip_by_value(clip_value: Hyperparameter = 1.0) -> GradientTransformation:
    r"""Move each number of the gradients into an interval: $u = \min(\max(g, -c), c)$.

    Args:
        clip_value: Largest size $c$, at least 0; in gradient units.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when `clip_value` is a schedule. Of complex numbers both
        parts are clipped.

    Raises:
        HyperparameterError: clip_value is negative or not finite.

    Source: torch.nn.utils, `clip_grad_value_`.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.clip_by_value(1.0)
        >>> tx.update([torch.tensor([0.5, -4.0])], tx.init(None), None)[0]
        [tensor([ 0.5000, -1.0000])]
    """
    largest = check_non_negative("clip_value", clip_value, "1.0 is usual.")
    return stateless_columns(lambda g, p: over_reals(lambda g: (tree.clamp(g, -largest, largest),), g)[0])


@schedulable
def adaptive_grad_clip(clipping: Hyperparameter = 0.01, eps: Hyperparameter = 1e-3) -> GradientTransformation:
    r"""Shorten the gradient of each unit that is long beside the unit's weights.

    $$u_i = g_i \cdot \min\Big(1, \lambda \frac{\max(\lVert w_i \rVert, \epsilon)}{\lVert g_i \rVert}\Big)$$

    A unit $i$ is a row of a matrix, a filter of a convolution (all but the first dimension), and a whole vector.

    Args:
        clipping: Largest ratio $\lambda$ of the two norms, at least 0. Dimensionless.
        eps: Least norm of the weights, at least 0, without which weights of 0 would stay; in parameter units.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when a number is a schedule.

    Raises:
        HyperparameterError: a number is negative or not finite.

    Source: Brock et al. 2021, arXiv:2102.06171, equation 3.

    Differs: the norm of a gradient counts as 1e-6 at least, as in the authors' code.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.adaptive_grad_clip(0.1)
        >>> weight, grad = torch.tensor([[1.0, 0.0], [5.0, 0.0]]), torch.tensor([[0.0, 0.5], [0.5, 0.0]])
        >>> tx.update([grad], tx.init(None), [weight])[0]
        [tensor([[0.0000, 0.1000],
                [0.5000, 0.0000]])]
    """
    ratio = check_non_negative("clipping", clipping, "0.01 is usual.")
    least = check_non_negative("eps", eps, "1e-3 is usual.")

    def shorten(leaf: Tensor, weight: Tensor) -> Tensor:
        own, bound = _unit_norm(leaf), _unit_norm(weight)
        bound = ratio * torch.maximum(bound, torch.as_tensor(least, dtype=bound.dtype, device=bound.device))
        return (leaf * torch.clamp(bound / torch.clamp(own, min=1e-6), max=1.0)).to(leaf.dtype)

    return stateless_columns(lambda g, p: g.map(shorten, check_params(p, "adaptive_grad_clip")))


def _unit_norm(leaf: Tensor) -> Tensor:
    """Norm over all dimensions but the first, kept; of a whole vector or number."""
    leaf = wide(leaf)
    if leaf.ndim < 2:
        return torch.linalg.vector_norm(leaf, keepdim=True)
    return torch.linalg.vector_norm(leaf, dim=tuple(range(1, leaf.ndim)), keepdim=True)
