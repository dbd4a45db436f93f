"""Random numbers as pure functions of a key that somebody owns.

A key is an int64 tensor of shape (2,) that holds two 32-bit words. It gives the same bits on every device, batched and
compiled; so a key is used once, and `split` makes new ones. A draw encrypts the counters 0, 1, 2, ... with the key
(Threefry-2x32-20) and takes the two words of every block in turn; so what `bits`, `uniform` or `normal` draws for a
shape begins with what it draws for a smaller one. `split` and `fold_in` encrypt counters whose two top bits are 10 and
11, which no draw reaches.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from functional_train.values import _threefry
from functional_train.values.errors import HyperparameterError, StructureError

__all__ = ["bits", "fold_in", "key", "normal", "permutation", "split", "uniform"]

_SPLIT, _FOLD = 0x80000000, 0xC0000000
_DIGITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


def key(seed: int, *, device: torch.device | str | None = None) -> Tensor:
    """Make a key from a seed.

    Args:
        seed: Any int in [0, 2**64); different seeds give different keys.
        device: Where the key lives, and so everything drawn from it; torch's default device when None.

    Returns:
        Shape (2,), int64: the high and the low 32 bits of the seed.

    Raises:
        StructureError: the seed is not an int.
        HyperparameterError: the seed is negative or does not fit in 64 bits.

    Example:
        >>> import functional_train as ft
        >>> ft.random.key(0)
        tensor([0, 0])
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise StructureError(f"seed must be an int, got {_describe(seed)}. Use random.key(0), or any other int.")
    if not 0 <= seed < 2**64:
        raise HyperparameterError(f"seed must be in [0, 2**64), got {seed}. Use seed % 2**64.")
    return torch.tensor([seed >> 32, seed & 0xFFFFFFFF], dtype=torch.int64, device=device)


def split(key: Tensor, num: int = 2) -> Tensor:
    """Make independent keys from one key, which is then used up.

    Args:
        key: The key to replace.
        num: How many keys, at least 1. Asking for more leaves the first ones as they were.

    Returns:
        Shape (num, 2), int64; unpacks into its keys, and `torch.func.vmap` maps over them.

    Raises:
        StructureError: `key` is not a key, or `num` is not an int.
        HyperparameterError: `num` is below 1.

    Example:
        >>> import functional_train as ft
        >>> key, key_dropout = ft.random.split(ft.random.key(0))
        >>> key_dropout
        tensor([2494418683,  513002203])
    """
    _check_key(key)
    _check_int("num", num, "Pass the number of keys")
    if num < 1:
        raise HyperparameterError(f"num must be at least 1, got {num}. random.split(key) makes 2 keys.")
    return _threefry.words(key, num, _SPLIT)


def fold_in(key: Tensor, data: int | Tensor) -> Tensor:
    """Make the key that belongs to a number, such as a step, a rank or a layer.

    Args:
        key: The key the new ones come from; good for any number of different `data`.
        data: An int in [0, 2**62), or an integer tensor of shape (), whose value is taken modulo 2**62.

    Returns:
        Shape (2,), int64: another key for every `data`, and none that `split` returns.

    Raises:
        StructureError: `key` is not a key, or `data` is neither an int nor an integer tensor of shape ().
        HyperparameterError: `data` is an int outside its range.

    Example:
        >>> import functional_train as ft
        >>> ft.random.fold_in(ft.random.key(0), 3)
        tensor([1792466513, 2036728422])
    """
    _check_key(key)
    if isinstance(data, Tensor):
        if data.shape != () or data.is_floating_point() or data.is_complex() or data.dtype == torch.bool:
            raise StructureError(
                f"data must be an int or an integer tensor of shape (), got {_describe(data)}. "
                "Use torch.func.vmap to fold in many numbers."
            )
        return _threefry.block(key, data.to(key.device, torch.int64), _FOLD)
    _check_int("data", data, "Pass a step, a rank or another whole number")
    if not 0 <= data < 2**62:
        raise HyperparameterError(f"data must be in [0, 2**62), got {data}. Use data % 2**62.")
    return _threefry.block(key, data, _FOLD)


def bits(key: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """Draw 32 random bits for each element.

    Args:
        key: The key to use up.
        shape: Shape of the result; `bits(key, (4,))` is the beginning of `bits(key, (8,))`.

    Returns:
        `shape`, int64, uniform over the whole numbers in [0, 2**32): in row-major order the first word of block 0, the
        second word of block 0, the first word of block 1, ...

    Raises:
        StructureError: `key` is not a key, or `shape` is not a sequence of sizes.

    Example:
        >>> import functional_train as ft
        >>> ft.random.bits(ft.random.key(0), (2,))
        tensor([1797259609, 2579123966])
    """
    _check_key(key)
    size = _check_shape(shape)
    num = math.prod(size)
    return _threefry.words(key, (num + 1) // 2).view(-1)[:num].view(size)


def uniform(
    key: Tensor,
    shape: Sequence[int] = (),
    *,
    low: float | Tensor = 0.0,
    high: float | Tensor = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draw from the uniform distribution on [low, high).

    $$x = a + (b - a)\, k\, 2^{-p}$$ with $k$ uniform over the whole numbers below $2^p$, and $p$ the digits of the
    dtype: 53 for float64, 24 for float32, 11 for float16, 8 for bfloat16.

    Args:
        key: The key to use up.
        shape: Shape of the result.
        low: Smallest value; a number, or a tensor that broadcasts to `shape`. Gradients flow through.
        high: Bound above, never reached; a number, or a tensor that broadcasts to `shape`. Gradients flow through.
        dtype: A float dtype; torch's default dtype when None.

    Returns:
        `shape`, `dtype`. A value that rounds up to `high` is returned as `low`, so that all values keep the same share.
        With bounds other than 0 and 1 the last digit may differ when compiled.

    Raises:
        StructureError: `key` is not a key, `shape` is not a sequence of sizes, `dtype` is not a float dtype, or a bound
            does not fit `shape`.
        HyperparameterError: `low` and `high` are numbers between which `dtype` has no room: `high` is not above `low`,
            or both are almost the same, or infinitely far apart.

    Example:
        >>> import functional_train as ft
        >>> ft.random.uniform(ft.random.key(0), (2,), low=-1.0)
        tensor([-0.1631,  0.2010])
    """
    _check_key(key)
    size, dtype = _check_shape(shape), _check_dtype(dtype)
    low, high = _fit("low", low, size, dtype), _fit("high", high, size, dtype)
    unit = _unit(key, math.prod(size), dtype).view(size)
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        _check_interval(low, high, dtype)
        if low == 0.0 and high == 1.0:
            return unit
    value = unit * (high - low) + low
    return torch.where(value >= high, low, value)


def normal(
    key: Tensor,
    shape: Sequence[int] = (),
    *,
    mean: float | Tensor = 0.0,
    std: float | Tensor = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draw from the normal distribution.

    $$x_{2i} = \mu + \sigma r_i \cos \theta_i \quad x_{2i+1} = \mu + \sigma r_i \sin \theta_i \quad
      r_i = \sqrt{-2 \ln u_i}$$ with $u$ uniform on (0, 1] and $\theta$ on a whole turn.

    Args:
        key: The key to use up.
        shape: Shape of the result.
        mean: Center; a number, or a tensor that broadcasts to `shape`. Gradients flow through.
        std: Standard deviation, at least 0; a number, or a tensor that broadcasts to `shape`. Gradients flow through.
        dtype: A float dtype; torch's default dtype when None.

    Returns:
        `shape`, `dtype`. No draw is further from the mean than 6.66 standard deviations in float32, and in the shorter
        dtypes, which are rounded from it; 8.57 in float64. The logarithm and the sine are the device's own: their
        last digits may differ between devices and when compiled.

    Raises:
        StructureError: `key` is not a key, `shape` is not a sequence of sizes, `dtype` is not a float dtype, or `mean`
            or `std` does not fit `shape`.
        HyperparameterError: `mean` is a number that is not finite, or `std` one that is negative or not finite.

    Source: Box & Muller 1958, "A note on the generation of random normal deviates".

    Example:
        >>> import functional_train as ft
        >>> ft.random.normal(ft.random.key(0), (2,), std=0.1)
        tensor([-0.1065, -0.0779])
    """
    _check_key(key)
    size, dtype = _check_shape(shape), _check_dtype(dtype)
    working = torch.float64 if dtype == torch.float64 else torch.float32
    mean, std = _fit("mean", mean, size, working), _fit("std", std, size, working)
    if not isinstance(std, Tensor) and std < 0.0:
        raise HyperparameterError(f"std must be at least 0, got {std}. With 0 every draw is the mean; 1.0 is usual.")
    num = math.prod(size)
    radius, angle = _polar(key, (num + 1) // 2, working)
    radius = radius.log_().mul_(-2.0).sqrt_()
    value = torch.stack((radius * angle.cos(), radius * angle.sin()), -1).view(-1)[:num].view(size)
    value = value if not isinstance(std, Tensor) and std == 1.0 else value * std
    value = value if not isinstance(mean, Tensor) and mean == 0.0 else value + mean
    return value.to(dtype)


def permutation(key: Tensor, n_or_tensor: int | Tensor, dim: int = 0) -> Tensor:
    """Shuffle the whole numbers below n, or a tensor along one dimension.

    Args:
        key: The key to use up.
        n_or_tensor: How many numbers, at least 0; or the tensor to shuffle, whose gradients flow through.
        dim: The dimension of the tensor to shuffle; its slices stay whole.

    Returns:
        Shape (n,), int64; or a tensor like the one given.

    Raises:
        StructureError: `key` is not a key, `n_or_tensor` is neither an int nor a tensor, or is a tensor of shape ().
        HyperparameterError: n is negative.

    Example:
        >>> import functional_train as ft
        >>> ft.random.permutation(ft.random.key(0), 5)
        tensor([1, 0, 4, 3, 2])
    """
    _check_key(key)
    if isinstance(n_or_tensor, Tensor):
        if n_or_tensor.dim() == 0:
            raise StructureError(
                "n_or_tensor must be an int or a tensor with a dimension to shuffle, got a tensor of shape (). "
                "Use random.permutation(key, int(n)) for the numbers below n."
            )
        order = permutation(key, n_or_tensor.shape[dim])
        return n_or_tensor.index_select(dim, order)
    _check_int("n_or_tensor", n_or_tensor, "Pass a number of elements, or a tensor")
    if n_or_tensor < 0:
        raise HyperparameterError(f"n_or_tensor must be at least 0, got {n_or_tensor}. Pass a number of elements.")
    first, second = _threefry.words(key, n_or_tensor).unbind(-1)
    # 63 bits a number: among a million, a tie has a chance of about 5e-8, and the stable sort settles it.
    return torch.sort((first << 31) ^ second, stable=True).indices


def _unit(key: Tensor, num: int, dtype: torch.dtype) -> Tensor:
    """Uniform on [0, 1), shape (num,): all the digits that the dtype has."""
    digits = _DIGITS[dtype]
    if digits > 32:
        first, second = _threefry.words(key, num).unbind(-1)
        return ((first << (digits - 32)) | (second >> (64 - digits))).to(dtype).mul_(2.0**-digits)
    word = _threefry.words(key, (num + 1) // 2).view(-1)[:num]
    return (word >> (32 - digits)).to(dtype).mul_(2.0**-digits)


def _polar(key: Tensor, num: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`num` uniforms on (0, 1], for the radii, and `num` angles in [0, 2 pi]."""
    if dtype == torch.float64:
        first, second = _unit(key, 2 * num, dtype).view(num, 2).unbind(-1)
        return 1.0 - first, second * (2.0 * math.pi)
    # All 32 bits, unlike in `uniform`: near 0, where the long radii come from, a float keeps every one of them.
    first, second = _threefry.words(key, num).to(dtype).unbind(-1)
    return (first + 1.0).mul_(2.0**-32), second * (math.pi * 2.0**-31)


def _check_key(key: Tensor) -> None:
    if not isinstance(key, Tensor):
        fix = f"random.key({key})" if isinstance(key, int) and not isinstance(key, bool) else "random.key(seed)"
        raise StructureError(f"key must be an int64 tensor of shape (2,), got {_describe(key)}. Make one with {fix}.")
    if key.dtype != torch.int64 or key.shape != (2,):
        fix = "Make one with random.key(seed)."
        if key.dtype == torch.int64 and key.dim() > 1 and key.shape[-1] == 2:
            fix = "These are many keys: take one of them, or map over them with torch.func.vmap."
        raise StructureError(f"key must be an int64 tensor of shape (2,), got {_describe(key)}. {fix}")


def _check_int(name: str, value: object, fix: str) -> None:
    if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
        raise StructureError(f"{name} must be an int, got {_describe(value)}. {fix}.")


def _check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(shape, (tuple, list)):
        fix = f"Write ({shape},)." if isinstance(shape, int) else "Write a tuple, such as (2, 3)."
        raise StructureError(f"shape must be a tuple of sizes, got {_describe(shape)}. {fix}")
    for size in shape:
        if not isinstance(size, (int, torch.SymInt)) or isinstance(size, bool) or size < 0:
            raise StructureError(f"shape must hold ints of at least 0, got {tuple(shape)}. Write one like (2, 3).")
    return tuple(shape)


def _check_dtype(dtype: torch.dtype | None) -> torch.dtype:
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if dtype not in _DIGITS:
        names = ", ".join(str(name) for name in _DIGITS)
        raise StructureError(f"dtype must be one of {names}, got {dtype}. For whole numbers use random.bits.")
    return dtype


def _check_interval(low: float, high: float, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    if not limits.eps * max(abs(low), abs(high)) <= high - low <= limits.max or low == high:
        raise HyperparameterError(
            f"high - low must be in [{limits.eps:.3} times the larger bound, {limits.max:.3}] for {dtype} and not 0, "
            f"got low={low} and high={high}. The defaults are 0.0 and 1.0."
        )


def _fit(name: str, value: float | Tensor, size: tuple[int, ...], dtype: torch.dtype) -> float | Tensor:
    """A finite number as it is; a tensor in `dtype`, once it is known to broadcast to `size`."""
    if isinstance(value, Tensor):
        try:
            fits = torch.broadcast_shapes(value.shape, size) == torch.Size(size)
        except RuntimeError:
            fits = False
        if not fits or value.is_complex():
            raise StructureError(
                f"{name} must be real and broadcast to shape {size}, got {_describe(value)}. "
                "Pass the shape of the result as shape=."
            )
        return value.to(dtype)
    if not isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        raise StructureError(f"{name} must be a number or a tensor, got {_describe(value)}. Write {name}=1.0.")
    if not -math.inf < value < math.inf:
        raise HyperparameterError(f"{name} must be finite, got {value}. Write {name}=1.0, or another finite number.")
    return value


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    return f"{value!r} ({type(value).__name__})"
