"""What holds for the leaves of whole columns, asked at once: a loop over leaves takes as long as a kernel."""

from torch import Tensor

from functional_train.values.tree._flat import Flat
from functional_train.values.tree._precision import LOW_PRECISION, is_low


def any_low(column: Flat) -> bool:
    """Whether any leaf has 16 bits."""
    dtype = column.dtype
    return any(map(is_low, column.leaves)) if dtype is None else dtype in LOW_PRECISION


def any_complex(column: Flat) -> bool:
    """Whether any leaf is complex."""
    dtype = column.dtype
    return any(map(Tensor.is_complex, column.leaves)) if dtype is None else dtype.is_complex


def are_alike(first: Flat, *others: Flat) -> bool:
    """Whether all leaves are plain, dense, contiguous and of one dtype, and those side by side of one shape."""
    if not first.plain or first.dtype is None:
        return False
    for column in others:
        if not column.plain or column.dtype is not first.dtype or not column.contiguous:
            return False
        if first.sizes != column.sizes:
            return False
    return first.contiguous
