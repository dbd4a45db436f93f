"""CAME."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.checks import Number, check_non_negative, check_pair, check_three_betas
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import descent
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._precision import wide
from functional_train.values.types import Hyperparameter, Tree

Factors = tuple[Tensor, ...]


class CAMEState(NamedTuple):
    """Running mean of the updates, and two second moments in factors.

    Matrices, and stacks of them, keep the means of their rows and of their columns; other leaves keep all elements.
    Factors of 16-bit leaves are in float32.

    Attributes:
        exp_avg: Like params, the mean of the updates.
        factors: Like params with a tuple for each leaf: mean squares of gradients, by rows and by columns, and of the
            updates' distance from their mean, by rows and by columns; or only mean squares of gradients.

    Example:
        >>> import functional_train as ft, torch
        >>> [factor.shape for factor in ft.scale_by_came().init(torch.ones(3, 2)).factors]
        [torch.Size([3]), torch.Size([2]), torch.Size([3]), torch.Size([2])]
    """

    exp_avg: Tree
    factors: Tree


class _Numbers(NamedTuple):
    betas: tuple[Number, Number, Number]
    eps: tuple[Number, Number]
    clip_threshold: Number


@schedulable
def scale_by_came(
    betas: tuple[Hyperparameter, Hyperparameter, Hyperparameter] = (0.9, 0.999, 0.9999),
    eps: tuple[Hyperparameter, Hyperparameter] = (1e-30, 1e-16),
    clip_threshold: Hyperparameter = 1.0,
) -> GradientTransformation:
    r"""Adafactor's direction with momentum, divided by how far updates stray from their mean.

    $$r \leftarrow \beta_2 r + (1-\beta_2) \operatorname{mean}_{\text{columns}}(g^2 + \epsilon_1), \quad
      c \leftarrow \beta_2 c + (1-\beta_2) \operatorname{mean}_{\text{rows}}(g^2 + \epsilon_1), \quad
      \hat u = g \Big/ \sqrt{\frac{r c}{\operatorname{mean}(r)}}$$
    $$m \leftarrow \beta_1 m + (1-\beta_1) \frac{\hat u}{\max(1, \operatorname{RMS}(\hat u) / d)}, \quad
      u = m \Big/ \sqrt{\frac{R C}{\operatorname{mean}(R)}}$$

    R and C are to the square of the clipped update's distance from m, plus $\epsilon_2$, with $\beta_3$, what r and c
    are to that of the gradient. Leaves below two dimensions keep the mean of $g^2 + \epsilon_1$ whole, and u = m.

    Args:
        betas: Decay of the mean of updates, of the squares of gradients, and of the squares of distances, each in
            [0, 1). Dimensionless.
        eps: Added to the squares of gradients, in their units squared, and to the squares of distances; at least 0.
        clip_threshold: d, the largest root mean square of an update; at least 0 and usually 1. Dimensionless.

    Returns:
        Transformation with `CAMEState`; a leaf whose gradient is `None` keeps its state.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or another number is negative.

    Source: Luo et al. 2023, arXiv:2307.02047, Algorithm 2; leaves below two dimensions as in the authors' code.

    Differs: the root of a complex number's squared size stands in the place of its own.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_came(betas=(0.0, 0.0, 0.0))
        >>> tx.update([torch.tensor([5.0, -0.1])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([ 1., -1.])]
    """
    three = check_three_betas(betas, (0.9, 0.999, 0.9999))
    first, second = (
        check_non_negative(f"eps[{place}]", one) for place, one in enumerate(check_pair(eps, "eps", (1e-30, 1e-16)))
    )
    longest = check_non_negative("clip_threshold", clip_threshold, "1.0 is usual.")
    rule = partial(_of_leaf, _Numbers(three, (first, second), longest))

    def init(params: Tree) -> CAMEState:
        return CAMEState(tree.zeros_like(params), tree.map(_zero_factors, params))

    def update(g: Flat, state: CAMEState, p: Flat | None, **extra: Any) -> tuple[Flat, CAMEState]:
        del p, extra
        check_state(state, CAMEState)
        (m,) = g.beside(state.exp_avg)
        direction, m, factors = g.map(rule, m, g.subtrees(state.factors), outputs=3)
        return direction, CAMEState(m.tree(absent=state.exp_avg), factors.tree(absent=state.factors))

    return GradientTransformation(init, columnwise(update))


def _zero_factors(leaf: Tensor) -> Factors:
    zeros = torch.zeros_like(_squares(leaf))
    if leaf.ndim < 2 or leaf.numel() == 0:
        return (zeros,)
    # Laid out as the means that will take their place; two of each, since a leaf of a state has memory of its own.
    rows, columns = (zeros.sum(dim, dtype=zeros.dtype) for dim in (-1, -2))
    return rows, columns, rows.clone(), columns.clone()


def _squares(leaf: Tensor) -> Tensor:
    leaf = wide(leaf)
    return (leaf * leaf.conj()).real if leaf.is_complex() else leaf * leaf


def _of_leaf(numbers: _Numbers, g: Tensor, m: Tensor, factors: Factors) -> tuple[Tensor, Tensor, Factors]:
    beta1, beta2, beta3 = numbers.betas
    squares = _squares(g)
    squares = _followed(factors[:2], squares + _like(numbers.eps[0], squares), beta2)
    u = g * _inverse_root(squares)
    size = torch.linalg.vector_norm(u) / max(1, u.numel()) ** 0.5
    u = u / torch.clamp(size / _like(numbers.clip_threshold, size), min=1.0)
    mean = torch.lerp(m.to(u.dtype), u, _like(1 - beta1, u))
    if len(factors) == 1:
        return mean.to(g.dtype), mean.to(m.dtype), squares
    distances = _squares(u - mean)
    distances = _followed(factors[2:], distances + _like(numbers.eps[1], distances), beta3)
    return (mean * _inverse_root(distances)).to(g.dtype), mean.to(m.dtype), (*squares, *distances)


def _followed(factors: Factors, new: Tensor, beta: Number) -> Factors:
    """Running means, of the rows and of the columns where those are kept."""
    means = (new.mean(-1), new.mean(-2)) if len(factors) == 2 else (new,)
    return tuple(torch.lerp(old, one, _like(1 - beta, one)) for old, one in zip(factors, means, strict=True))


def _inverse_root(factors: Factors) -> Tensor:
    if len(factors) == 1:
        return factors[0].rsqrt()
    rows, columns = factors
    return (rows / rows.mean(-1, keepdim=True)).rsqrt().unsqueeze(-1) * columns.rsqrt().unsqueeze(-2)


def _like(number: Number, leaf: Tensor) -> Number:
    """A number that turns no leaf, not even one of 0 dimensions, into another dtype."""
    return number.to(leaf.dtype) if isinstance(number, Tensor) else number


def came(
    lr: Hyperparameter = 2e-4,
    betas: tuple[Hyperparameter, Hyperparameter, Hyperparameter] = (0.9, 0.999, 0.9999),
    eps: tuple[Hyperparameter, Hyperparameter] = (1e-30, 1e-16),
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
    clip_threshold: Hyperparameter = 1.0,
) -> GradientTransformation:
    """CAME: Adafactor's memory, with confidence in updates that repeat themselves.

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        betas: As `scale_by_came`.
        eps: As `scale_by_came`.
        weight_decay: Decoupled, at least 0; direction units per unit of parameter.
        maximize: Whether to climb.
        clip_threshold: As `scale_by_came`.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Luo et al. 2023, arXiv:2307.02047, Algorithm 2; defaults of the authors' code, `lr` of pytorch_optimizer.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.came(0.1, betas=(0.0, 0.0, 0.0))
        >>> params = {"b": torch.ones(1)}
        >>> optimizer.update({"b": torch.ones(1)}, optimizer.init(params), params)[0]
        {'b': tensor([-0.1000])}
    """
    return descent(scale_by_came(betas, eps, clip_threshold), lr, weight_decay, maximize=maximize)
