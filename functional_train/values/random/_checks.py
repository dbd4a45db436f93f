"""What may be drawn with: keys, shapes, dtypes and parameters, refused with words when they do not fit."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.random._reuse import note_use

DIGITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def check_key(key: Tensor, use: str | None = None) -> None:
    """Refuse what is no key; `use` names the function that uses it up."""
    if not isinstance(key, Tensor):
        fix = f"random.key({key})" if isinstance(key, int) and not isinstance(key, bool) else "random.key(seed)"
        raise StructureError(f"key must be an int64 tensor of shape (2,), got {describe(key)}. Make one with {fix}.")
    if key.dtype != torch.int64 or key.shape != (2,):
        fix = "Make one with random.key(seed)."
        if key.dtype == torch.int64 and key.dim() > 1 and key.shape[-1] == 2:
            fix = "These are many keys: take one of them, or map over them with torch.func.vmap."
        raise StructureError(f"key must be an int64 tensor of shape (2,), got {describe(key)}. {fix}")
    if use is not None:
        note_use(key, use)


def check_int(name: str, value: object, fix: str) -> None:
    """Refuse what is no whole number."""
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
        raise StructureError(f"{name} must be an int, got {describe(value)}. {fix}.")


def check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Sizes as a tuple."""
    if not isinstance(shape, (tuple, list)):
        fix = f"Write ({shape},)." if isinstance(shape, int) else "Write a tuple, such as (2, 3)."
        raise StructureError(f"shape must be a tuple of sizes, got {describe(shape)}. {fix}")
    for size in shape:
        if not isinstance(size, (int, torch.SymInt)) or isinstance(size, bool) or size < 0:
            raise StructureError(f"shape must hold ints of at least 0, got {tuple(shape)}. Write one like (2, 3).")
    return tuple(shape)


def check_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """A float dtype; the default one for None."""
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if dtype not in DIGITS:
        names = ", ".join(str(name) for name in DIGITS)
        raise StructureError(f"dtype must be one of {names}, got {dtype}. For whole numbers use random.randint.")
    return dtype


def check_interval(low: float, high: float, dtype: torch.dtype) -> None:
    """Refuse bounds between which a dtype has no room."""
    limits = torch.finfo(dtype)
    if not limits.eps * max(abs(low), abs(high)) <= high - low <= limits.max or low == high:
        raise HyperparameterError(
            f"high - low must be in [{limits.eps:.3} times the larger bound, {limits.max:.3}] for {dtype} and not 0, "
            f"got low={low} and high={high}. The defaults are 0.0 and 1.0."
        )


def fit(name: str, value: float | Tensor, size: tuple[int, ...], dtype: torch.dtype) -> float | Tensor:
    """A finite number as it is; a tensor in `dtype`, once it is known to broadcast to `size`."""
    if isinstance(value, Tensor):
        try:
            fits = torch.broadcast_shapes(value.shape, size) == torch.Size(size)
        except RuntimeError:
            fits = False
        if not fits or value.is_complex():
            raise StructureError(
                f"{name} must be real and broadcast to shape {size}, got {describe(value)}. "
                "Pass the shape of the result as shape=."
            )
        return value.to(dtype)
    if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        raise StructureError(f"{name} must be a number or a tensor, got {describe(value)}. Write {name}=1.0.")
    if not -math.inf < value < math.inf:
        raise HyperparameterError(f"{name} must be finite, got {value}. Write {name}=1.0, or another finite number.")
    return value


def describe(value: object) -> str:
    """What a value is, in a few words."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return f"{value!r} ({type(value).__name__})"


def fit_rate(name: str, value: float | Tensor, size: tuple[int, ...]) -> float | Tensor:
    """A probability: a number in [0, 1], or a float64 tensor that broadcasts to `size`."""
    rate = fit(name, value, size, torch.float64)
    if not isinstance(rate, Tensor) and not 0.0 <= rate <= 1.0:
        raise HyperparameterError(f"{name} must be in [0, 1], got {rate}. It is a probability; 0.5 is usual.")
    return rate
