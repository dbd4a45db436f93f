"""A permutation that is computed where it is asked, and never held."""

import functools
import math

import torch
from torch import Tensor

from functional_train.values import random
from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.random._checks import check_key

# Fewer leave patterns that a chi-square test of small permutations sees.
_ROUNDS = 16
_MOST = 1 << 60


def shuffled(key: Tensor, positions: Tensor, size: int) -> Tensor:
    """Look up positions in a random permutation of `range(size)`.

    The permutation is a cipher on the numbers below `size`: each is computed by itself, in constant memory, however
    large `size` is. It is not uniform among all permutations, of which there are far more than keys; every position
    meets every number equally often.

    Args:
        key: (2,) int64 random key; one permutation belongs to it.
        positions: Integers in [0, size), of any shape.
        size: How many numbers are permuted, in [1, 2**60].

    Returns:
        int64, of the shape of `positions`: different numbers in [0, size) for different positions.

    Raises:
        HyperparameterError: size is out of its range, or a position is out of [0, size).
        StructureError: `key` is not a key, or positions are no tensor of integers.

    Source: Black & Rogaway 2002, "Ciphers with arbitrary finite domains", methods 2 and 3 (cycle walking; a Feistel
        network in a mixed radix), with the mixing function of Steele et al. 2014 (SplitMix64) in its rounds.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.data.shuffled(ft.random.key(0), torch.arange(5), 5).sort().values
        tensor([0, 1, 2, 3, 4])
        >>> ft.data.shuffled(ft.random.key(0), torch.tensor([10**12]), 10**15) < 10**15
        tensor([True])
    """
    check_key(key)
    is_integer = isinstance(positions, Tensor) and torch.can_cast(positions.dtype, torch.int64)  # pyright: ignore[reportUnnecessaryIsInstance]
    if not is_integer or positions.dtype == torch.bool:
        raise StructureError("positions must be a tensor of integers. Write torch.arange(size), or part of it.")
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= _MOST:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HyperparameterError(f"size must be an int in [1, 2**60], got {size!r}.")
    flat = positions.reshape(-1).long()
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < size:
        raise HyperparameterError(f"positions must be in [0, {size}), got {int(flat.min())} to {int(flat.max())}.")
    rounds = _round_keys(*key.tolist())
    width = math.isqrt(size - 1) + 1
    height = -(-size // width)
    found = _permuted(flat, width, height, rounds)
    # The table is a little larger than `size`: whatever falls outside goes on along its cycle until it is inside.
    outside = (found >= size).nonzero()[:, 0]
    while len(outside):
        found[outside] = _permuted(found[outside], width, height, rounds)
        outside = outside[found[outside] >= size]
    return found.reshape(positions.shape)


@functools.lru_cache(maxsize=64)
def _round_keys(high: int, low: int) -> tuple[int, ...]:
    words = random.bits(torch.tensor([high, low], device="cpu"), (2 * _ROUNDS,)).tolist()
    return tuple([(first << 31) ^ second for first, second in zip(words[::2], words[1::2], strict=True)])


def _permuted(numbers: Tensor, width: int, height: int, rounds: tuple[int, ...]) -> Tensor:
    """A permutation of the cells of a table: columns and rows are turned by amounts that the other coordinate gives."""
    row, column = numbers // width, numbers % width
    for place, key in enumerate(rounds):
        if place % 2:
            column = (column + _mixed(row, key)) % width
        else:
            row = (row + _mixed(column, key)) % height
    return row * width + column


def _mixed(numbers: Tensor, key: int) -> Tensor:
    """62 bits that depend on all bits of a number and of a key."""
    # Shifts of int64 carry the sign along; the masks take it away.
    mixed = (numbers + 1) * -7046029254386353131 + key
    mixed = (mixed ^ ((mixed >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    mixed = (mixed ^ ((mixed >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return ((mixed ^ ((mixed >> 31) & 0x1FFFFFFFF)) >> 2) & 0x3FFFFFFFFFFFFFFF
