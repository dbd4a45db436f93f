"""Orthogonalization of matrices by Newton and Schulz's iteration, for many leaves at once."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from functional_train.updates.checks import Number
from functional_train.values.tree import Flat

# Larger matrices fill the machine alone, and stacked they would take memory twice.
_MOST_ELEMENTS_TO_STACK = 2**15
# Alone, smaller matrices of bfloat16 go to another kernel of torch's on CPU than stacked, which rounds otherwise.
_FEWEST_ROWS_TO_STACK = 17


class NewtonSchulz(NamedTuple):
    """What the iteration is made of: coefficients, least norm, number of steps, and the dtype that it is done in."""

    coefficients: tuple[Number, Number, Number]
    eps: Number
    num_steps: int
    dtype: torch.dtype | None


def as_matrix(leaf: Tensor) -> Tensor:
    """A leaf as a matrix of `shape[0]` rows; a vector has one column, a number is a matrix of one."""
    rows = leaf.shape[0] if leaf.ndim > 0 else 1
    return leaf.reshape(rows, leaf.numel() // max(rows, 1))


def orthogonalized(column: Flat, settings: NewtonSchulz) -> Flat:
    """Each leaf, taken as a matrix, with singular values near 1; in the dtype of the settings."""
    groups: dict[tuple[torch.Size, torch.dtype, torch.device], list[tuple[int, Tensor]]] = {}
    made: list[Tensor] = list(column.leaves)
    for place, leaf in enumerate(column.leaves):
        if leaf.numel() > 0:
            start = _started(as_matrix(leaf), settings)
            groups.setdefault((start.shape, start.dtype, start.device), []).append((place, start))
    for members in groups.values():
        starts = [start for _, start in members]
        if len(members) > 1 and _is_stacked(starts[0]):
            done = _iterated(torch.stack(starts), settings, torch.baddbmm).unbind()
        else:
            done = [_iterated(start, settings, torch.addmm) for start in starts]
        for (place, _), matrix in zip(members, done, strict=True):
            leaf = column.leaves[place]
            rows, columns = as_matrix(leaf).shape
            made[place] = (matrix.mT if rows > columns else matrix).reshape(leaf.shape)
    return Flat(made, column.frame, column.plain)


def _is_stacked(start: Tensor) -> bool:
    fits = start.dtype is not torch.bfloat16 or start.shape[0] >= _FEWEST_ROWS_TO_STACK
    return fits and start.numel() <= _MOST_ELEMENTS_TO_STACK


def _started(matrix: Tensor, settings: NewtonSchulz) -> Tensor:
    """The matrix with at least as many columns as rows, divided by its norm, which no singular value exceeds."""
    x = matrix if settings.dtype is None else matrix.to(settings.dtype)
    x = x.mT if x.shape[0] > x.shape[1] else x
    least = settings.eps.to(x.dtype) if isinstance(settings.eps, Tensor) else settings.eps
    return x / torch.linalg.vector_norm(x).clamp(min=least)


def _iterated(x: Tensor, settings: NewtonSchulz, fused: Callable[..., Tensor]) -> Tensor:
    """The iteration; `fused` is `beta * x + alpha * a @ b`, of one matrix or of many."""
    a, b, c = settings.coefficients
    if isinstance(a, Tensor) or isinstance(b, Tensor) or isinstance(c, Tensor):
        a, b, c = (one.to(x.dtype) if isinstance(one, Tensor) else one for one in (a, b, c))
        for _ in range(settings.num_steps):
            gram = x @ x.mT
            x = a * x + (b * gram + c * (gram @ gram)) @ x
        return x
    for _ in range(settings.num_steps):
        gram = x @ x.mT
        x = fused(x, fused(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
