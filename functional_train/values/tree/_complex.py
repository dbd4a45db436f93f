"""Leaves in another form while something is computed: complex numbers as pairs of real ones, 16 bits as 32."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functional_train.values.tree._alike import any_complex, any_low
from functional_train.values.tree._flat import Flat
from functional_train.values.tree._precision import wide_dtype
from functional_train.values.tree._structure import map


def over_reals(fn: Callable[..., tuple[Flat, ...]], *columns: Flat) -> tuple[Flat, ...]:
    """Apply a function of columns with the two parts of a complex number as numbers of their own, as torch.optim does.

    `fn` is given and returns columns in which a complex leaf of shape `(*shape)` is a real one of shape `(*shape, 2)`.
    """
    if not any_complex(columns[0]):
        return fn(*columns)
    is_complex = [leaf.is_complex() for leaf in columns[0].leaves]

    def converted(column: Flat, convert: Callable[[Tensor], Tensor]) -> Flat:
        leaves = [convert(leaf) if here else leaf for leaf, here in zip(column.leaves, is_complex, strict=True)]
        return Flat(leaves, column.frame, column.plain)

    parts = [converted(column, lambda leaf: torch.view_as_real(leaf.resolve_conj())) for column in columns]
    return tuple([converted(column, torch.view_as_complex) for column in fn(*parts)])


def over_wide_reals(fn: Callable[..., tuple[Flat, ...]], *columns: Flat) -> tuple[Flat, ...]:
    """`over_reals`, with leaves of 16 bits in float32, so that each result is rounded once and no small shift is lost.

    The columns that `fn` returns take the dtypes of those that it was given, in their order.
    """
    if not any(map(any_low, columns)):
        return over_reals(fn, *columns)
    wide = [_cast(column, [wide_dtype(leaf.dtype) for leaf in column.leaves]) for column in columns]
    made = over_reals(fn, *wide)
    return tuple([_cast(new, [leaf.dtype for leaf in old.leaves]) for new, old in zip(made, columns, strict=False)])


def _cast(column: Flat, dtypes: list[torch.dtype]) -> Flat:
    leaves = [leaf.to(dtype) for leaf, dtype in zip(column.leaves, dtypes, strict=True)]
    return Flat(leaves, column.frame, column.plain)


def filled_like(tree: Any, value: float | Tensor) -> Any:
    """A tree of one number, in both parts of complex leaves; a tensor's value is never looked at."""

    def filled(leaf: Tensor) -> Tensor:
        number = torch.complex(*2 * [torch.as_tensor(value, dtype=leaf.real.dtype)]) if leaf.is_complex() else value
        return (torch.zeros_like(leaf) + number).to(leaf.dtype)

    return map(filled, tree)
