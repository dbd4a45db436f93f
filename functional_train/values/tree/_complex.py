"""Complex numbers as pairs of real ones."""

from collections.abc import Callable

import torch
from torch import Tensor

from functional_train.values.tree._flat import Flat


def over_reals(fn: Callable[..., tuple[Flat, ...]], *columns: Flat) -> tuple[Flat, ...]:
    """Apply a function of columns with the two parts of a complex number as numbers of their own, as torch.optim does.

    `fn` is given and returns columns in which a complex leaf of shape `(*shape)` is a real one of shape `(*shape, 2)`.
    """
    is_complex = [leaf.is_complex() for leaf in columns[0].leaves]
    if not any(is_complex):
        return fn(*columns)

    def converted(column: Flat, convert: Callable[[Tensor], Tensor]) -> Flat:
        leaves = [convert(leaf) if here else leaf for leaf, here in zip(column.leaves, is_complex, strict=True)]
        return Flat(leaves, column.frame, column.plain)

    parts = [converted(column, lambda leaf: torch.view_as_real(leaf.resolve_conj())) for column in columns]
    return tuple([converted(column, torch.view_as_complex) for column in fn(*parts)])
