"""How an operation meets the leaves: one fused call for plain ones, one by one for the others.

Every operation of `_arithmetic` goes through `elementwise`. Nothing above this file knows which way was taken.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from functional_train.values.errors import StructureError
from functional_train.values.tree._alike import any_low
from functional_train.values.tree._flat import Flat, flat
from functional_train.values.tree._precision import is_low, wide, wide_dtype

Scalar = float | int | complex | Tensor | Flat
"""A number, a 0-d tensor, or a column of 0-d tensors: one number a leaf."""

_WIDE = frozenset({torch.float32, torch.float64})
_MAY_PROMOTE = frozenset({complex, list})


def elementwise(
    together: Callable[..., Any],
    one: Callable[..., Any],
    trees: Sequence[Any],
    scalars: Sequence[Scalar] = (),
    into: Callable[..., Any] | None = None,
    *,
    wide: bool = False,
) -> Any:
    """Compute leaf by leaf over trees, or over columns.

    `together(*columns, *scalars)` takes lists of tensors and may write to tensors that it made itself; `one(*leaves,
    *scalars)` takes single leaves and may not; `into` is `together` written into the first column, used when that is
    spent. A scalar that is a tensor is rounded to the dtype of each leaf, and leaves of 16 bits are then computed in
    float32; so are they, whatever the scalars, when the operation is `wide`.
    """
    if type(trees[0]) is not Flat:
        return elementwise(together, one, flat(*trees), scalars, wide=wide).tree()
    first: Flat = trees[0]
    columns = [first.leaves]
    plain = first.plain
    for column in trees[1:]:
        if column.frame is not first.frame:
            raise StructureError("columns of different flat(...) calls cannot meet. Lay all trees down in one call.")
        columns.append(column.leaves)
        plain = plain and column.plain
    if not first.leaves:
        return Flat([], first.frame, plain)
    numbers: list[Any] = []
    has_tensor = False
    for scalar in scalars:
        if isinstance(scalar, Flat):
            numbers.append(scalar.leaves)
            plain, has_tensor = plain and scalar.plain, True
        elif isinstance(scalar, Tensor):
            numbers.append(_beside(first, scalar))
            plain, has_tensor = plain and not scalar.requires_grad, True
        else:
            numbers.append(scalar)
    dtype = first.dtype
    if has_tensor or wide:
        if any(map(any_low, trees)) or (has_tensor and (not plain or dtype is None)):
            per_leaf = [n if isinstance(n, list) else [n] * len(first.leaves) for n in numbers]
            width, rows = len(columns), zip(*columns, *per_leaf, strict=True)
            made = [_one_leaf(one, row[:width], row[width:]) for row in rows]
            return Flat(made, first.frame, plain, fresh=plain, dtype=dtype)
        if has_tensor and dtype is not None:
            numbers = [_as_dtype(number, dtype) for number in numbers]
    if plain and first.spent and into is not None:
        into(*columns, *numbers)
        return Flat(first.leaves, first.frame, True, fresh=True, dtype=dtype)
    made = together(*columns, *numbers) if plain else [one(*row, *numbers) for row in zip(*columns, strict=True)]
    # Types promote: a 16-bit tree plus a float32 one would be float32.
    if not _of_one_type(dtype, trees[1:], numbers) and [x.dtype for x in made] != [x.dtype for x in first.leaves]:
        made = [new.to(old.dtype) for new, old in zip(made, first.leaves, strict=True)]
    return Flat(list(made), first.frame, plain, fresh=plain, dtype=dtype)


def _beside(column: Flat, number: Tensor) -> Any:
    """A number, once for each leaf where they lie on several devices: only one in host memory meets them all."""
    if number.device.type == "cpu" or column.on_one_device:
        return number
    return [number.to(leaf.device) for leaf in column.leaves]


def _of_one_type(dtype: torch.dtype | None, others: Sequence[Flat], numbers: Sequence[Any]) -> bool:
    """Whether no type can promote: real columns of one dtype, and numbers that are real or of that dtype."""
    if dtype is None or not dtype.is_floating_point:
        return False
    for column in others:
        if column.dtype is not dtype:
            return False
    return not any(type(number) in _MAY_PROMOTE for number in numbers)


def multiplier(column: Flat, factor: Any) -> Any:
    """A factor as `torch._foreach_mul` takes it fastest, which makes a tensor of a number anew for each leaf.

    A tensor that is made once rounds as the number does, but only where leaves are of one wide dtype in host memory.
    """
    if type(factor) is not float or factor == 1 or not column.plain or column.dtype not in _WIDE or not column.leaves:
        return factor
    # `torch.tensor` takes three times as long.
    return torch.full((), factor, dtype=column.dtype, device="cpu") if column.leaves[0].is_cpu else factor


def _as_dtype(number: Any, dtype: torch.dtype) -> Any:
    if isinstance(number, Tensor) and number.dtype != dtype and not (dtype.is_complex and not number.dtype.is_complex):
        return number.to(dtype)
    return number


def _one_leaf(one: Callable[..., Any], row: Sequence[Any], numbers: Sequence[Any]) -> Any:
    dtype = row[0].dtype
    if any(map(is_low, row)):
        row, width = [wide(leaf) for leaf in row], wide_dtype(dtype)
        return one(*row, *(_as_dtype(number, width) for number in numbers)).to(dtype)
    out = one(*row, *(_as_dtype(number, dtype) for number in numbers))
    return out if out.dtype == dtype else out.to(dtype)


def is_scalar(value: Any) -> bool:
    """Whether a value stands for one number: a Python number, or a 0-d tensor."""
    return isinstance(value, int | float | complex) or (isinstance(value, Tensor) and value.ndim == 0)
