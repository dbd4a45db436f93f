"""Estimates of the diagonal of a Hessian, for optimizers that scale by curvature."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from functional_train.values import random, tree
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.tree._structure import is_floating
from functional_train.values.types import Tree


class DiagonalFn(Protocol):
    """`(params, **extra) -> diagonal`: an estimate like `params`, from what an update is passed besides.

    Example:
        >>> import functional_train as ft, torch
        >>> exact = lambda params, *, diagonal, **extra: diagonal
        >>> optimizer = ft.sophia(0.1, estimator=exact)
        >>> params = [torch.tensor(1.0)]
        >>> optimizer.update(params, optimizer.init(params), params, diagonal=[torch.tensor(2.0)])[0]
        [tensor(-0.1100)]
    """

    def __call__(self, params: Tree, /, **extra: Any) -> Tree: ...


def hutchinson(
    params: Tree,
    /,
    *,
    grad_and_value_fn: Callable[[Tree], tuple[Tree, Any]] | None = None,
    key: Tensor | None = None,
    **extra: Any,
) -> Tree:
    r"""Estimate the diagonal of the Hessian from one product of it with random signs.

    $$\hat h = z \odot H z, \quad z_i = \pm 1, \quad \mathbb E\, \hat h = \operatorname{diag} H$$

    Args:
        params: Where; a tree of tensors.
        grad_and_value_fn: `params -> (grads, value)`, as `make_step` passes it to every update. What it computes must
            be differentiable once more: a gradient that it detaches looks like one that never changes.
        key: The key to use up; each leaf draws from a key of its own.
        **extra: Not used; `make_step` passes more.

    Returns:
        A tree like `params`, `None` where there is no gradient; exact where the Hessian is diagonal. A complex number
        has the curvatures along its two parts.

    Raises:
        StructureError: there is no function or no key.

    Source: Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix"; the diagonal, Bekas et al.
        2007, "An estimator for the diagonal of a matrix".

    Example:
        >>> import functional_train as ft, torch
        >>> curved = ft.grad_and_value(lambda params, batch: (batch * params["w"] ** 2).sum())
        >>> fn = lambda params: curved(params, torch.tensor([1.0, 3.0]))
        >>> ft.hutchinson({"w": torch.ones(2)}, grad_and_value_fn=fn, key=ft.random.key(0))
        {'w': tensor([2., 6.])}
    """
    del extra
    if grad_and_value_fn is None:
        raise StructureError(
            "an estimate of the curvature needs grad_and_value_fn=, a function params -> (grads, value). make_step "
            "passes it; in a loop of your own pass it to the update."
        )
    if key is None:
        raise StructureError(
            "an estimate of the curvature draws random signs and needs key=. Let the state own one, "
            "ft.init_state(params, optimizer, key=ft.random.key(0)); in a loop of your own pass it to the update."
        )
    leaves, structure = tree.flatten(params, none_is_leaf=True)
    chosen = [place for place, leaf in enumerate(leaves) if is_floating(leaf)]
    there: list[int] = []

    def slopes_at(point: Sequence[Tensor]) -> list[Tensor]:
        filled = list(leaves)
        for place, leaf in zip(chosen, point, strict=True):
            filled[place] = leaf
        slopes, _ = tree.flatten(grad_and_value_fn(tree.unflatten(structure, filled))[0], none_is_leaf=True)
        there[:] = [rank for rank, place in enumerate(chosen) if slopes[place] is not None]
        # vjp refuses a function of which nothing comes out.
        return [slopes[chosen[rank]] for rank in there] or [point[0].detach()]

    estimate: list[Tensor | None] = [None] * len(leaves)
    if chosen:
        slopes, pull = torch.func.vjp(slopes_at, [leaves[place] for place in chosen])[:2]
        keys = random.split(key, len(chosen))
        signs = [_signs(keys[rank], slope) for rank, slope in zip(there, slopes, strict=False)]
        products = pull(signs)[0] if there else []
        for rank, sign in zip(there, signs, strict=True):
            estimate[chosen[rank]] = _by_parts(sign, products[rank])
    return tree.unflatten(structure, estimate)


def _signs(key: Tensor, like: Tensor) -> Tensor:
    shape = (*like.shape, 2) if like.is_complex() else tuple(like.shape)
    dtype = like.dtype.to_real() if like.is_complex() else like.dtype
    signs = (1 - 2 * (random.bits(key, shape) & 1)).to(dtype)
    return torch.view_as_complex(signs) if like.is_complex() else signs


def _by_parts(first: Tensor, second: Tensor) -> Tensor:
    if not first.is_complex():
        return first * second
    return torch.view_as_complex(torch.view_as_real(first) * torch.view_as_real(second.resolve_conj()))


def gauss_newton_bartlett(
    params: Tree,
    /,
    *,
    sampled_grad_fn: Callable[[Tree, Tensor], tuple[Tree, int]] | None = None,
    key: Tensor | None = None,
    **extra: Any,
) -> Tree:
    r"""Estimate the diagonal of the Gauss-Newton matrix from one gradient at labels that the model draws itself.

    $$\hat h = B\, \hat g \odot \hat g, \quad \hat g = \nabla_\theta \tfrac1B \sum_{b=1}^B
      \ell(f_\theta(x_b), \hat y_b), \quad \hat y_b \sim p_\theta(\cdot \mid x_b)$$

    Args:
        params: Where; a tree of tensors.
        sampled_grad_fn: `(params, key) -> (grads, B)`, the gradient of the mean loss over B samples whose labels are
            drawn from the model's own distribution. `make_step` passes none: pass it to the update.
        key: The key to use up.
        **extra: Not used.

    Returns:
        A tree like `params`, at least 0, `None` where there is no gradient.

    Raises:
        StructureError: there is no function or no key.

    Source: Liu et al. 2023, arXiv:2305.14342, Algorithm 2.

    Example:
        >>> import functional_train as ft, torch
        >>> fn = lambda params, key: (params, 4)
        >>> ft.gauss_newton_bartlett([torch.tensor(3.0)], sampled_grad_fn=fn, key=ft.random.key(0))
        [tensor(36.)]
    """
    del extra
    if sampled_grad_fn is None or key is None:
        raise StructureError(
            "the Gauss-Newton-Bartlett estimate needs sampled_grad_fn=, a function (params, key) -> (grads, number of "
            "samples) that draws labels from the model, and key=. Pass both to the update."
        )
    grads, num_samples = sampled_grad_fn(params, key)
    return tree.map(lambda slope: num_samples * _by_parts(slope, slope), grads)


def diagonal(estimator: DiagonalFn, g: Flat, p: Flat | None, extra: Mapping[str, Any]) -> Flat:
    """An estimate as a column beside gradients."""
    if p is None:
        raise StructureError("an estimate of the curvature needs params. Pass them to the update.")
    if not g.leaves:
        return g
    estimate = estimator(p.tree(), **extra)
    if any(leaf is None for leaf in g.subtrees(estimate).leaves):
        raise StructureError(
            "the estimate of the curvature lacks a leaf that has a gradient. grad_and_value_fn must give a gradient to "
            "each leaf that is updated."
        )
    return g.beside(estimate)[0]
