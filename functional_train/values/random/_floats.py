"""Draws of real numbers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from functional_train.values.errors import HyperparameterError
from functional_train.values.random import _threefry
from functional_train.values.random._checks import DIGITS, check_dtype, check_interval, check_key, check_shape, fit
from functional_train.values.tree._precision import wide_dtype


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
        tensor([-0.1631, -0.5674])
    """
    check_key(key, "uniform")
    size, dtype = check_shape(shape), check_dtype(dtype)
    low, high = fit("low", low, size, dtype), fit("high", high, size, dtype)
    unit = unit_interval(key, math.prod(size), dtype).view(size)
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        check_interval(low, high, dtype)
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

    $$x = \mu + \sigma r_i \cos \theta_i \quad x' = \mu + \sigma r_i \sin \theta_i \quad
      r_i = \sqrt{-2 \ln u_i}$$ with $u$ uniform on (0, 1] and $\theta$ on a whole turn; 16 of the ones and 16 of the
    others in turn.

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
        tensor([-0.1065,  0.0584])
    """
    check_key(key, "normal")
    size, dtype = check_shape(shape), check_dtype(dtype)
    working = wide_dtype(dtype)
    mean, std = fit("mean", mean, size, working), fit("std", std, size, working)
    if not isinstance(std, Tensor) and std < 0.0:
        raise HyperparameterError(f"std must be at least 0, got {std}. With 0 every draw is the mean; 1.0 is usual.")
    num = math.prod(size)
    radius, angle = _polar(key, _threefry.blocks_for(num), working)
    radius = radius.log_().mul_(-2.0).sqrt_()
    value = _threefry.in_order(radius * angle.cos(), radius * angle.sin(), num).view(size)
    value = value if not isinstance(std, Tensor) and std == 1.0 else value * std
    value = value if not isinstance(mean, Tensor) and mean == 0.0 else value + mean
    return value.to(dtype)


def truncated_normal(
    key: Tensor,
    shape: Sequence[int] = (),
    *,
    low: float | Tensor = -2.0,
    high: float | Tensor = 2.0,
    mean: float | Tensor = 0.0,
    std: float | Tensor = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Draw from the normal distribution, given that the draw lies in [low, high].

    $$x = \mu + \sigma\, \Phi^{-1}\bigl(\Phi(\alpha) + u\, (\Phi(\beta) - \Phi(\alpha))\bigr) \quad
      \alpha = (a - \mu) / \sigma \quad \beta = (b - \mu) / \sigma$$ with $u$ uniform on (0, 1), all in float64.

    Args:
        key: The key to use up.
        shape: Shape of the result.
        low: Smallest value; a number, or a tensor that broadcasts to `shape`. As all four, gradients flow through.
        high: Largest value; a number, or a tensor that broadcasts to `shape`.
        mean: Center before truncation; a number, or a tensor that broadcasts to `shape`.
        std: Standard deviation before truncation, above 0; a number, or a tensor that broadcasts to `shape`.
        dtype: A float dtype; torch's default dtype when None.

    Returns:
        `shape`, `dtype`, in [low, high]. Bounds must not both lie further than 37 standard deviations to one side.

    Raises:
        StructureError: `key` is not a key, `shape` is not a sequence of sizes, `dtype` is not a float dtype, or a
            parameter does not fit `shape`.
        HyperparameterError: `high` is not above `low`, `std` is not above 0, or a number is not finite.

    Source: torch.nn.init.trunc_normal_, whose `a` and `b` these bounds are.

    Example:
        >>> import functional_train as ft
        >>> ft.random.truncated_normal(ft.random.key(0), (2,))
        tensor([-0.1964, -0.7415])
    """
    check_key(key, "truncated_normal")
    size, dtype = check_shape(shape), check_dtype(dtype)
    lowest, highest, center, spread = (
        fit(name, value, size, torch.float64)
        for name, value in (("low", low), ("high", high), ("mean", mean), ("std", std))
    )
    if not isinstance(spread, Tensor) and spread <= 0.0:
        raise HyperparameterError(f"std must be above 0, got {spread}. 1.0 is usual.")
    if not isinstance(lowest, Tensor) and not isinstance(highest, Tensor):
        check_interval(lowest, highest, dtype)
    below, above = (
        torch.as_tensor((bound - center) / spread, dtype=torch.float64, device=key.device)
        for bound in (lowest, highest)
    )
    # Left of the mean, where small probabilities keep all their digits.
    mirrored = below > 0.0
    first, last = torch.where(mirrored, -above, below), torch.where(mirrored, -below, above)
    # torch's own ndtr is 0 from 9 standard deviations on.
    start, end = (torch.special.erfc(bound * -math.sqrt(0.5)) / 2 for bound in (first, last))
    _, fraction, _ = _between(key, math.prod(size), torch.float64)
    value = torch.special.ndtri(start + fraction.view(size) * (end - start))
    value = torch.where(mirrored, -value, value) * spread + center
    lowest, highest = (torch.as_tensor(bound, dtype=torch.float64, device=key.device) for bound in (lowest, highest))
    return torch.minimum(torch.maximum(value, lowest), highest).to(dtype)


def exponential(
    key: Tensor, shape: Sequence[int] = (), *, rate: float | Tensor = 1.0, dtype: torch.dtype | None = None
) -> Tensor:
    r"""Draw from the exponential distribution: waiting times, $-\ln(u) / \lambda$.

    Args:
        key: The key to use up.
        shape: Shape of the result.
        rate: How many events a unit of time, above 0; a number, or a tensor that broadcasts to `shape`. Gradients flow
            through.
        dtype: A float dtype; torch's default dtype when None.

    Returns:
        `shape`, `dtype`, above 0; at most 22.9 / rate in float32 and the shorter dtypes, 37.4 / rate in float64.

    Raises:
        StructureError: `key` is not a key, `shape` is not a sequence of sizes, `dtype` is not a float dtype, or `rate`
            does not fit `shape`.
        HyperparameterError: `rate` is a number that is not above 0, or not finite.

    Source: Devroye 1986, "Non-Uniform Random Variate Generation", II.2.

    Example:
        >>> import functional_train as ft
        >>> ft.random.exponential(ft.random.key(0), (2,))
        tensor([0.5421, 0.2437])
    """
    check_key(key, "exponential")
    size, dtype = check_shape(shape), check_dtype(dtype)
    working = wide_dtype(dtype)
    rate = fit("rate", rate, size, working)
    if not isinstance(rate, Tensor) and rate <= 0.0:
        raise HyperparameterError(f"rate must be above 0, got {rate}. 1.0 is usual.")
    return (waiting(key, size, working) / rate).to(dtype)


def gumbel(key: Tensor, shape: Sequence[int] = (), *, dtype: torch.dtype | None = None) -> Tensor:
    r"""Draw from the standard Gumbel distribution: $-\ln(-\ln u)$, whose maxima choose among logits.

    Args:
        key: The key to use up.
        shape: Shape of the result.
        dtype: A float dtype; torch's default dtype when None.

    Returns:
        `shape`, `dtype`, finite.

    Raises:
        StructureError: `key` is not a key, `shape` is not a sequence of sizes, or `dtype` is not a float dtype.

    Source: Gumbel 1954, "Statistical theory of extreme values and some practical applications".

    Example:
        >>> import functional_train as ft
        >>> ft.random.gumbel(ft.random.key(0), (2,))
        tensor([0.6124, 1.4117])
    """
    check_key(key, "gumbel")
    size, dtype = check_shape(shape), check_dtype(dtype)
    return gumbels(key, size, wide_dtype(dtype)).to(dtype)


def gumbels(key: Tensor, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Standard Gumbel draws, float32 or float64."""
    return -waiting(key, size, dtype).log()


def waiting(key: Tensor, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Standard exponential draws, float32 or float64, with all their digits at both ends."""
    is_low, low, high = _between(key, math.prod(size), dtype)
    return -torch.where(is_low, torch.log1p(-low), high.log()).view(size)


def _between(key: Tensor, num: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Uniform on (0, 1): whether below a half, the value, and its distance from 1, each exact where it is small."""
    if dtype == torch.float64:
        whole = _long_words(key, num)
        low, high = ((each.to(dtype) + 0.5) * 2.0**-53 for each in (whole, (1 << 53) - 1 - whole))
        return whole < 1 << 52, low, high
    lane = _threefry.sequence(key, num)
    low, high = ((_as_floats(each) + 0.5) * 2.0**-32 for each in (lane, ~lane))
    return lane >= 0, low, high


def unit_interval(key: Tensor, num: int, dtype: torch.dtype) -> Tensor:
    """Uniform on [0, 1), shape (num,): all the digits that the dtype has."""
    digits = DIGITS[dtype]
    if digits > 32:
        return _long_words(key, num).to(dtype).mul_(2.0**-digits)
    # The right shift copies the sign.
    lane = (_threefry.sequence(key, num) >> (32 - digits)).bitwise_and_((1 << digits) - 1)
    return lane.to(dtype).mul_(2.0**-digits)


def _long_words(key: Tensor, num: int) -> Tensor:
    """Uniform on [0, 2**53), of which float64 has every one, shape (num,)."""
    first, second = _threefry.pairs(key, num)
    return (first << 21) | (second >> 11)


def _polar(key: Tensor, num: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`num` uniforms on (0, 1], for the radii, and `num` angles that go once around."""
    if dtype == torch.float64:
        first, second = unit_interval(key, 2 * num, dtype).view(num, 2).unbind(-1)
        return 1.0 - first, second * (2.0 * math.pi)
    # All 32 bits, unlike in `uniform`: near 0, where the long radii come from, a float keeps every one of them.
    first, second = _threefry.lanes(key, num)
    return (_as_floats(first) + 1.0).mul_(2.0**-32), second.to(dtype) * (math.pi * 2.0**-31)


def _as_floats(lane: Tensor) -> Tensor:
    """32 bits as float32 in [0, 2**32], exact where they are few."""
    return torch.where(lane < 0, 2.0**32, 0.0) + lane.to(torch.float32)
