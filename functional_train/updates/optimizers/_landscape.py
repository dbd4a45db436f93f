"""A loss as a function of one real vector, for methods that look at it several times in an update."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from functional_train.values import tree
from functional_train.values.tree._structure import is_floating
from functional_train.values.types import Tree

is_trained = is_floating


def real_size(leaf: Tensor) -> int:
    """How many real numbers a leaf holds."""
    return leaf.numel() * (2 if leaf.is_complex() else 1)


def real_dtype(leaves: Sequence[Tensor]) -> torch.dtype:
    """The dtype that holds all leaves, float32 at least."""
    return reduce(torch.promote_types, [_as_real(leaf).dtype for leaf in leaves], torch.float32)


class Landscape:
    """A loss around parameters, as a function of the vector of all their floating leaves.

    Attributes:
        size: Length of the vector.
        start: The parameters as a vector.
        gradient: The gradient that was given, as a vector; zero where it is None.

    Coordinates whose leaf has no gradient rest: they do not move, and what is remembered of them stays.
    """

    def __init__(
        self, params: Tree, grads: Tree, grad_and_value_fn: Callable[[Tree], tuple[Tree, Any]], dtype: torch.dtype
    ) -> None:
        self._grad_and_value_fn = grad_and_value_fn
        self._leaves, self._structure = tree.flatten(params, none_is_leaf=True)
        slopes = tree.flatten(grads, none_is_leaf=True)[0]
        self._places = [place for place, leaf in enumerate(self._leaves) if is_trained(leaf)]
        trained = [self._leaves[place] for place in self._places]
        self._absent = [slopes[place] is None for place in self._places]
        self._dtype = dtype
        self.size = sum(map(real_size, trained))
        if self.size == 0:
            return
        self.start = self._vector(trained)
        self.gradient = self._gradient_of(slopes)
        self._rests: Tensor | None = None
        if any(self._absent):
            marks = [torch.full((real_size(leaf),), gone) for leaf, gone in zip(trained, self._absent, strict=True)]
            self._rests = torch.cat(marks).to(self.start.device)

    def _vector(self, leaves: Sequence[Tensor]) -> Tensor:
        return torch.cat([_as_real(leaf).reshape(-1).to(self._dtype) for leaf in leaves])

    def _gradient_of(self, slopes: Sequence[Any]) -> Tensor:
        rows: list[Tensor] = []
        for place, gone in zip(self._places, self._absent, strict=True):
            slope = None if gone else slopes[place]
            slope = torch.zeros_like(self._leaves[place]) if slope is None else slope
            rows.append(slope.to_dense() if slope.layout is not torch.strided else slope)
        return self._vector(rows)

    def params_at(self, x: Tensor) -> Tree:
        """The parameters at a vector, in their own dtypes; leaves that rest are the same tensors."""
        filled = list(self._leaves)
        pieces = x.split([real_size(self._leaves[place]) for place in self._places])
        for place, piece, gone in zip(self._places, pieces, self._absent, strict=True):
            like = self._leaves[place]
            if gone:
                continue
            if like.is_complex():
                filled[place] = torch.complex(*piece.reshape(*like.shape, 2).unbind(-1)).to(like.dtype)
            else:
                filled[place] = piece.reshape(like.shape).to(like.dtype)
        return tree.unflatten(self._structure, filled)

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient at a vector."""
        grads, value = self._grad_and_value_fn(self.params_at(x))
        return value, self._gradient_of(tree.flatten(grads, none_is_leaf=True)[0])

    def moved(self, x: Tensor, d: Tensor, t: float | Tensor) -> Tensor:
        """`x + t * d`, rounded as the parameters there are."""
        x = x + d * t if isinstance(t, Tensor) else torch.add(x, d, alpha=t)
        if all(_as_real(self._leaves[place]).dtype is self._dtype for place in self._places):
            return x
        leaves, _ = tree.flatten(self.params_at(x), none_is_leaf=True)
        return self._vector([leaves[place] for place in self._places])

    def moving(self, d: Tensor) -> Tensor:
        """A direction without the coordinates that rest."""
        return d if self._rests is None else torch.where(self._rests, 0, d)

    def change(self, g: Tensor, before: Tensor) -> Tensor:
        """What changed from one gradient to another, where it is known."""
        return self.moving(g - before)

    def remembered(self, g: Tensor, before: Tensor) -> Tensor:
        """The gradient, and where there is none that of before."""
        return g if self._rests is None else torch.where(self._rests, before, g)


def _as_real(leaf: Tensor) -> Tensor:
    return torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf
