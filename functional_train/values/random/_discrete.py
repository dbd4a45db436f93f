"""Draws of whole numbers, of categories and of elements."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from functional_train.values._watching import is_readable
from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.random import _threefry
from functional_train.values.random._checks import check_int, check_key, check_shape, describe, fit, fit_rate
from functional_train.values.random._floats import gumbels, unit_interval
from functional_train.values.tree._precision import wide_dtype

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def bernoulli(key: Tensor, shape: Sequence[int] = (), *, p: float | Tensor = 0.5) -> Tensor:
    """Draw whether events happen.

    Args:
        key: The key to use up.
        shape: Shape of the result.
        p: Probability of True, in [0, 1]; a number, or a tensor that broadcasts to `shape`.

    Returns:
        `shape`, bool. The probability is rounded to 32 binary digits.

    Raises:
        StructureError: `key` is not a key, `shape` is not a sequence of sizes, or `p` does not fit `shape`.
        HyperparameterError: `p` is a number outside [0, 1].

    Source: `jax.random.bernoulli`; `torch.bernoulli` returns floats instead.

    Example:
        >>> import functional_train as ft
        >>> ft.random.bernoulli(ft.random.key(0), (4,), p=0.5)
        tensor([False, False,  True,  True])
    """
    check_key(key, "bernoulli")
    size = check_shape(shape)
    return happens(key, size, fit_rate("p", p, size))


def randint(
    key: Tensor,
    shape: Sequence[int] = (),
    *,
    low: int | Tensor = 0,
    high: int | Tensor,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    """Draw whole numbers from [low, high), all equally likely.

    Args:
        key: The key to use up.
        shape: Shape of the result.
        low: Smallest value; an int, or an integer tensor that broadcasts to `shape`.
        high: Bound above, never reached; an int, or an integer tensor that broadcasts to `shape`.
        dtype: An integer dtype that holds the values.

    Returns:
        `shape`, `dtype`. Of n values none is more than n / 2**63 likelier than another, relative to its share.

    Raises:
        StructureError: `key` is not a key, `shape` is not a sequence of sizes, `dtype` is not an integer dtype, or a
            bound is no int and does not fit `shape`.
        HyperparameterError: `high` is not above `low`, or the values do not fit in `dtype`.

    Source: `torch.randint`.

    Example:
        >>> import functional_train as ft
        >>> ft.random.randint(ft.random.key(0), (5,), high=10)
        tensor([2, 7, 3, 6, 2])
    """
    check_key(key, "randint")
    size = check_shape(shape)
    if dtype not in _INTEGERS:
        names = ", ".join(map(str, _INTEGERS))
        raise StructureError(f"dtype must be one of {names}, got {dtype}. For real numbers use random.uniform.")
    lowest, highest = _fit_int("low", low, size), _fit_int("high", high, size)
    if not isinstance(lowest, Tensor) and not isinstance(highest, Tensor):
        limits = torch.iinfo(dtype)
        if not lowest < highest or highest - lowest >= 2**63:
            raise HyperparameterError(
                f"high must be above low, by less than 2**63, got low={lowest} and high={highest}. high=n draws from 0 "
                "to n - 1."
            )
        if lowest < limits.min or highest - 1 > limits.max:
            raise HyperparameterError(
                f"values in [{lowest}, {highest}) do not fit in {dtype}, which ends at {limits.max}. Use a longer one."
            )
    return (_long_words(key, math.prod(size)).view(size) % (highest - lowest) + lowest).to(dtype)


def categorical(key: Tensor, logits: Tensor, *, dim: int = -1, shape: Sequence[int] | None = None) -> Tensor:
    """Draw categories, each with probability softmax(logits).

    Args:
        key: The key to use up.
        logits: Any shape with at least one dimension, floating; they need not be normalized. -inf is never drawn.
        dim: The dimension of the categories.
        shape: Shape of the result, which must end with that of `logits` without `dim`; that shape itself when None.

    Returns:
        `shape`, int64: positions along `dim`.

    Raises:
        StructureError: `key` is not a key, `logits` is no floating tensor with a dimension, or `shape` does not fit.

    Source: the Gumbel-max trick, Maddison, Tarlow & Minka 2014, "A* sampling", section 2; `jax.random.categorical`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.random.categorical(ft.random.key(0), torch.tensor([0.0, 1.0, 0.0]), shape=(4,))
        tensor([1, 1, 1, 2])
    """
    check_key(key, "categorical")
    if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.dim() == 0:
        raise StructureError(
            f"logits must be a floating tensor with a dimension of categories, got {describe(logits)}. Of "
            "probabilities, pass p.log()."
        )
    rows = logits.movedim(dim, -1)
    batch = tuple(rows.shape[:-1])
    size = batch if shape is None else check_shape(shape)
    if size[len(size) - len(batch) :] != batch:
        raise StructureError(
            f"shape must end with {batch}, that of the logits without dim={dim}, got {size}. Put the number of draws "
            "in front."
        )
    return (rows + gumbels(key, (*size, rows.shape[-1]), wide_dtype(logits.dtype))).argmax(-1)


def choice(
    key: Tensor,
    n_or_tensor: int | Tensor,
    shape: Sequence[int] = (),
    *,
    replace: bool = True,
    p: Tensor | None = None,
    dim: int = 0,
) -> Tensor:
    """Choose from the whole numbers below n, or slices of a tensor along one dimension.

    Args:
        key: The key to use up.
        n_or_tensor: How many numbers, at least 1; or the tensor to choose from, whose gradients flow through.
        shape: Shape of what is chosen.
        replace: Whether one may be chosen several times.
        p: Shape (n,), floating, at least 0: how likely each is; need not sum to 1. None: all equally.
        dim: The dimension of the tensor to choose along.

    Returns:
        `shape`, int64; or a tensor like the one given with `shape` in place of `dim`.

    Raises:
        StructureError: `key` is not a key, `n_or_tensor` is neither an int nor a tensor with a dimension, `shape` is
            not a sequence of sizes, or `p` is no floating tensor of shape (n,).
        HyperparameterError: there is nothing to choose from, or, without replacement, fewer than `shape` asks for.

    Source: `jax.random.choice`. Without replacement and with `p`, the largest of log p + Gumbel are chosen: Efraimidis
        & Spirakis 2006, "Weighted random sampling with a reservoir".

    Example:
        >>> import functional_train as ft, torch
        >>> ft.random.choice(ft.random.key(0), torch.tensor([10, 20, 30]), (2,), replace=False)
        tensor([20, 10])
    """
    check_key(key, "choice")
    size = check_shape(shape)
    if isinstance(n_or_tensor, Tensor):
        if n_or_tensor.dim() == 0:
            raise StructureError(
                "n_or_tensor must be an int or a tensor with a dimension to choose along, got a tensor of shape (). "
                "Use random.choice(key, int(n)) for the numbers below n."
            )
        chosen = _chosen(key, n_or_tensor.shape[dim], size, replace, p)
        slices = n_or_tensor.index_select(dim, chosen.flatten())
        return slices.unflatten(dim, size) if size else slices.squeeze(dim)
    check_int("n_or_tensor", n_or_tensor, "Pass a number of elements, or a tensor")
    return _chosen(key, n_or_tensor, size, replace, p)


def _chosen(key: Tensor, n: int, size: tuple[int, ...], replace: bool, p: Tensor | None) -> Tensor:
    num = math.prod(size)
    if p is not None and (not isinstance(p, Tensor) or not p.is_floating_point() or p.shape != (n,)):
        raise StructureError(f"p must be a floating tensor of shape ({n},), one for each element, got {describe(p)}.")
    possible = n if p is None or not is_readable(p) else int((p > 0).sum())
    if num and possible < (1 if replace else num):
        raise HyperparameterError(
            f"{num} elements are to be chosen{'' if replace else ' without replacement'}, and {possible} can be. Pass "
            f"{'some with p above 0' if replace else 'replace=True, or a smaller shape'}."
        )
    if p is None:
        indices = _long_words(key, num) % max(n, 1) if replace else _shuffled(key, n)[:num]
    elif replace:
        total = p.double().cumsum(0)
        points = unit_interval(key, num, torch.float64) * total[-1]
        indices = torch.searchsorted(total, points, right=True).clamp(max=n - 1)
    else:
        indices = (p.log() + gumbels(key, (n,), wide_dtype(p.dtype))).sort(descending=True).indices[:num]
    return indices.view(size)


def dropout(key: Tensor, x: Tensor, p: float = 0.5) -> Tensor:
    r"""Put zeros in place of some numbers, and scale the others so that the mean stays: $x\, m / (1 - p)$.

    Args:
        key: The key to use up.
        x: Any shape, floating. Gradients flow through.
        p: Probability that a number becomes zero, in [0, 1].

    Returns:
        Shape and dtype of `x`.

    Raises:
        StructureError: `key` is not a key, or `x` is no floating tensor.
        HyperparameterError: `p` is outside [0, 1].

    Source: Srivastava et al. 2014, "Dropout", section 4; `torch.nn.functional.dropout`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.random.dropout(ft.random.key(0), torch.ones(4))
        tensor([0., 0., 2., 2.])
    """
    check_key(key, "dropout")
    if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()):
        raise StructureError(f"x must be a floating tensor, got {describe(x)}.")
    rate = fit_rate("p", p, ())
    if isinstance(rate, Tensor):
        raise StructureError(
            f"p must be a number, got {describe(p)}. Multiply with random.bernoulli(key, shape, p=...)."
        )
    return x * kept(key, tuple(x.shape), rate, x.dtype)


def kept(key: Tensor, size: tuple[int, ...], rate: float, dtype: torch.dtype) -> Tensor:
    """What dropout multiplies with: zeros, as often as `rate` says, and 1 / (1 - rate)."""
    if rate == 1.0:
        return torch.zeros(size, dtype=dtype, device=key.device)
    return happens(key, size, 1.0 - rate).to(dtype).div_(1.0 - rate)


def happens(key: Tensor, size: tuple[int, ...], p: float | Tensor) -> Tensor:
    """Bools that are True with probability `p`, a number or a float64 tensor."""
    lane = _threefry.sequence(key, math.prod(size)).view(size)
    # Signed words are as far above -2**31 as unsigned ones above 0.
    if isinstance(p, Tensor):
        return lane.to(torch.float64) < (p * 2.0**32).round() - 2.0**31
    limit = round(p * 2**32) - 2**31
    return lane <= limit - 1 if limit > -(2**31) else torch.zeros_like(lane, dtype=torch.bool)


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
    check_key(key, "permutation")
    if isinstance(n_or_tensor, Tensor):
        if n_or_tensor.dim() == 0:
            raise StructureError(
                "n_or_tensor must be an int or a tensor with a dimension to shuffle, got a tensor of shape (). "
                "Use random.permutation(key, int(n)) for the numbers below n."
            )
        order = _shuffled(key, n_or_tensor.shape[dim])
        return n_or_tensor.index_select(dim, order)
    check_int("n_or_tensor", n_or_tensor, "Pass a number of elements, or a tensor")
    if n_or_tensor < 0:
        raise HyperparameterError(f"n_or_tensor must be at least 0, got {n_or_tensor}. Pass a number of elements.")
    return _shuffled(key, n_or_tensor)


def _shuffled(key: Tensor, n: int) -> Tensor:
    # Among a million numbers of 63 bits, a tie has a chance of about 5e-8, and the stable sort settles it.
    return torch.sort(_long_words(key, n), stable=True).indices


def _long_words(key: Tensor, num: int) -> Tensor:
    """Uniform on [0, 2**63), shape (num,)."""
    first, second = _threefry.pairs(key, num)
    return (first << 31) ^ second


def _fit_int(name: str, value: int | Tensor, size: tuple[int, ...]) -> int | Tensor:
    """An int as it is; an integer tensor once it is known to broadcast to `size`."""
    if not isinstance(value, Tensor):
        check_int(name, value, f"Write {name}=10, or pass an integer tensor")
        return value
    if value.dtype not in _INTEGERS:
        raise StructureError(f"{name} must be an int or an integer tensor, got {describe(value)}.")
    return fit(name, value, size, torch.int64)  # pyright: ignore[reportReturnType]
