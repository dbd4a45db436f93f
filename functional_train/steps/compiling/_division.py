"""Division that rounds down, and its remainder, as torch computes them. Inductor's are off by one where x / y rounds.

Source: `div_floor_floating` in c10/util/generic_math.h.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
_DTYPES = (torch.float32, torch.float64)


def _of_floats(fn: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Any], Any]:
    """The function of tensors of the type of its result, where that is one that Inductor computes otherwise."""

    def of_numbers_too(x: Any, y: Any) -> Any:
        dtype = torch.result_type(x, y)
        if dtype not in _DTYPES:
            return NotImplemented
        device = (x if isinstance(x, Tensor) else y).device
        return fn(*[
            z.to(dtype) if isinstance(z, Tensor) else torch.full((), z, dtype=dtype, device=device) for z in (x, y)
        ])  # fmt: skip

    return of_numbers_too


@_of_floats
def _remainder(x: Tensor, y: Tensor) -> Tensor:
    rest = torch.fmod(x, y)
    return torch.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)


@_of_floats
def _floor_divide(x: Tensor, y: Tensor) -> Tensor:
    rest = torch.fmod(x, y)
    quotient = (x - rest) / y
    quotient = torch.where((rest != 0) & ((rest < 0) != (y < 0)), quotient - 1, quotient)
    floor = torch.floor(quotient)
    floor = torch.where(quotient - floor > 0.5, floor + 1, floor)
    floor = torch.where(quotient != 0, floor, torch.copysign(torch.zeros_like(quotient), x / y))
    # Of what overflows, vector instructions find no remainder.
    return torch.where((y == 0) | (torch.isinf(x / y) & torch.isfinite(x)), x / y, floor)


def _floor_divide_any(x: Any, y: Any) -> Any:
    found = _floor_divide(x, y)
    # What stays this operation Inductor does not know; it takes it apart in the same way.
    return torch.div(x, y, rounding_mode="floor") if found is NotImplemented else found


def _divide(x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    return _floor_divide(x, y) if rounding_mode == "floor" else NotImplemented


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    _aten.floor_divide.default: _floor_divide_any,
    _aten.div.Tensor_mode: _divide,
    _aten.div.Scalar_mode: _divide,
    _aten.remainder.Tensor: _remainder,
    _aten.remainder.Scalar: _remainder,
    _aten.remainder.Scalar_Tensor: _remainder,
}
"""For `make_fx`; other types are left to Inductor."""
