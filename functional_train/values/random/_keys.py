"""Keys: made from a seed, split, numbered, and turned into bits."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.random import _threefry
from functional_train.values.random._checks import check_int, check_key, check_shape, describe

_SPLIT, _FOLD = 0x80000000, 0xC0000000


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
        raise StructureError(f"seed must be an int, got {describe(seed)}. Use random.key(0), or any other int.")
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
    check_key(key, "split")
    check_int("num", num, "Pass the number of keys")
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
    check_key(key)
    if isinstance(data, Tensor):
        if data.shape != () or data.is_floating_point() or data.is_complex() or data.dtype == torch.bool:
            raise StructureError(
                f"data must be an int or an integer tensor of shape (), got {describe(data)}. "
                "Use torch.func.vmap to fold in many numbers."
            )
        return _threefry.block(key, data.to(key.device, torch.int64), _FOLD)
    check_int("data", data, "Pass a step, a rank or another whole number")
    if not 0 <= data < 2**62:
        raise HyperparameterError(f"data must be in [0, 2**62), got {data}. Use data % 2**62.")
    return _threefry.block(key, data, _FOLD)


def bits(key: Tensor, shape: Sequence[int] = ()) -> Tensor:
    """Draw 32 random bits for each element.

    Args:
        key: The key to use up.
        shape: Shape of the result; `bits(key, (4,))` is the beginning of `bits(key, (8,))`.

    Returns:
        `shape`, int64, uniform over the whole numbers in [0, 2**32): in row-major order the first words of blocks 0 to
        15, their second words, the first words of blocks 16 to 31, ...

    Raises:
        StructureError: `key` is not a key, or `shape` is not a sequence of sizes.

    Example:
        >>> import functional_train as ft
        >>> ft.random.bits(ft.random.key(0), (2,))
        tensor([1797259609,  928981903])
    """
    check_key(key, "bits")
    size = check_shape(shape)
    return _threefry.unsigned(_threefry.sequence(key, math.prod(size))).view(size)
