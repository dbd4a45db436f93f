"""Every draw of `ft.random` under one signature, and what the tests of keys compare with."""

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from functional_train.values import random
from functional_train.values.random import _threefry

# Random123 1.14.0, tests/kat_vectors, threefry2x32 with 20 rounds: counter, key, block.
KNOWN_ANSWERS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
DIGITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}
# A fixed key either passes or does not: the level says how surprised to be by a failure, not how often to expect one.
LEVEL = 1e-6


def drawn(draw: Callable[[Tensor, int], Tensor], n: int, key: Tensor) -> Tensor:
    return draw(key, n)


def drawn_as(fn: Callable[..., Tensor], dtype: torch.dtype, key: Tensor, n: int) -> Tensor:
    return fn(key, (n,), dtype=dtype)


LOGITS = (0.0, 2.0, -1.0)
# Sizes on both sides of the border between ints and lanes, and odd ones, which use half of their last block.
SIZES = (0, 1, 7, 600)
DRAWS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "bits": lambda key, n: random.bits(key, (n,)),
    "split": lambda key, n: random.split(key, n + 1),
    "fold_in int": lambda key, n: random.fold_in(key, 2**40 + n),
    "fold_in tensor": lambda key, n: random.fold_in(key, torch.tensor(2**40 + n)),
    "permutation": random.permutation,
    "permutation tensor": lambda key, n: random.permutation(key, torch.arange(2.0 * n).view(2, n), 1),
    "uniform bounds": lambda key, n: random.uniform(key, (n,), low=-2.0, high=3.0),
    "truncated_normal": lambda key, n: random.truncated_normal(key, (n,), low=-1.0, high=3.0, mean=0.5),
    "exponential": lambda key, n: random.exponential(key, (n,), rate=2.0),
    "gumbel": lambda key, n: random.gumbel(key, (n,)),
    "bernoulli": lambda key, n: random.bernoulli(key, (n,), p=0.3),
    "bernoulli tensor": lambda key, n: random.bernoulli(key, (n,), p=torch.full((n,), 0.3)),
    "randint": lambda key, n: random.randint(key, (n,), low=-5, high=2**40),
    "randint tensor": lambda key, n: random.randint(key, (n,), high=torch.arange(1, n + 1), dtype=torch.int32),
    "categorical": lambda key, n: random.categorical(key, torch.tensor(LOGITS), shape=(n,)),
    "choice": lambda key, n: random.choice(key, 9, (n,)),
    "choice of some": lambda key, n: random.choice(key, n + 1, (n,), replace=False),
    "choice weighted": lambda key, n: random.choice(key, 3, (n,), p=torch.tensor(LOGITS).exp()),
    "choice of some weighted": lambda key, n: random.choice(
        key, n + 1, (n,), replace=False, p=1 + torch.arange(n + 1.0)
    ),
    "dropout": lambda key, n: random.dropout(key, torch.ones(n), 0.3),
    "like": lambda key, n: random.like(key, {"a": torch.ones(n), "b": torch.ones(n, dtype=torch.float64)})["a"],
    "normal moments": lambda key, n: random.normal(key, (n,), mean=-1.0, std=2.0),
    **{f"uniform {dtype}": partial(drawn_as, random.uniform, dtype) for dtype in DTYPES},
    **{f"normal {dtype}": partial(drawn_as, random.normal, dtype) for dtype in DTYPES},
}
each_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


def keys() -> st.SearchStrategy[Tensor]:
    return st.integers(0, 2**64 - 1).map(random.key)


def on_lanes(fn: Callable[..., Tensor], *args: Any) -> Tensor:
    """Call `fn` with the path on Python ints shut."""
    with mock.patch.object(_threefry, "is_plain", return_value=False):
        return fn(*args)


def words_are(*blocks: tuple[int, int]) -> Any:
    """Have every block hold these words, in turn."""

    def lanes(key: Tensor, count: int, domain: int = 0) -> tuple[Tensor, Tensor]:
        del key, domain
        rows = torch.tensor(blocks).repeat(count // len(blocks) + 1, 1)[:count]
        return tuple(rows.to(torch.int32).unbind(-1))

    return mock.patch.object(_threefry, "lanes", lanes)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def assert_near_or_same(name: str, actual: Tensor, expected: Tensor) -> None:
    """Bit for bit, but for logarithms and the like: a compiler may take them from another library."""
    if name.startswith(("normal", "truncated_normal", "exponential", "gumbel", "like")):
        torch.testing.assert_close(actual, expected, rtol=2e-6, atol=2e-6)
    else:
        assert_same(actual, expected)
