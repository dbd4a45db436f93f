"""The block cipher: when ints may stand in for lanes, and that both reach every counter."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from functional_train.values import _threefry, random

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


def assert_same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def assert_near_or_same(name: str, actual: Tensor, expected: Tensor) -> None:
    """Bit for bit, but for `normal`: a compiler may take the logarithm and the sine from another library."""
    if name.startswith("normal"):
        torch.testing.assert_close(actual, expected, rtol=2e-6, atol=2e-6)
    else:
        assert_same(actual, expected)


def test_nan_bounds_are_not_hidden() -> None:
    """A bound that is not a number, in a tensor, gives draws that are none."""
    key, nan = random.key(0), torch.tensor(math.nan)
    assert random.uniform(key, (4,), low=nan).isnan().all()
    assert random.uniform(key, (4,), high=nan).isnan().all()
    assert random.normal(key, (4,), std=nan).isnan().all()


def test_counters_carry_into_the_high_word() -> None:
    """Block 2**32 and those around it use both words of the counter, so a huge draw never repeats."""
    key, indices = random.key(5), [2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33 + 1]
    first, second = _threefry.encrypt_lanes(key, *_threefry.halves(torch.tensor(indices)))
    actual = [(a & 0xFFFFFFFF, b & 0xFFFFFFFF) for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    assert actual == [_threefry.encrypt_ints(key.tolist(), index >> 32, index & 0xFFFFFFFF) for index in indices]


@given(keys(), st.integers(0, _threefry.HOST_BLOCKS), st.sampled_from([0, 0x80000000]))
def test_the_two_ciphers_agree(key: Tensor, count: int, domain: int) -> None:
    """For any key and any number of blocks, packed ints and int32 lanes give the same words."""
    assert_same(_threefry.words(key, count, domain), on_lanes(_threefry.words, key, count, domain))


def test_a_draw_may_be_larger_than_a_word_counts() -> None:
    """More than 2**32 blocks are drawn like few; on the meta device nobody has to hold them."""
    assert random.bits(random.key(0, device="meta"), (2**34 + 1,)).shape == (2**34 + 1,)
    assert random.uniform(random.key(0, device="meta"), (2**17, 2**17), dtype=torch.float64).shape == (2**17, 2**17)


def test_values_are_read_only_where_nothing_is_in_the_way() -> None:
    """A plain CPU tensor may be read; one that is batched, differentiated, traced, watched or elsewhere may not."""
    seen: list[bool] = []

    def note(tensor: Tensor) -> Tensor:
        seen.append(_threefry.is_plain(tensor))
        return tensor * 1.0

    class Subclass(Tensor):
        pass

    tensor = torch.ones(2)
    note(tensor)
    assert seen == [True]
    seen.clear()
    torch.func.vmap(note)(tensor)
    torch.func.vmap(lambda _: note(tensor))(tensor)
    torch.func.grad(lambda x: note(x).sum())(tensor)
    torch.func.functionalize(note)(tensor)
    make_fx(note, tracing_mode="real")(tensor)
    make_fx(note, tracing_mode="fake")(tensor)
    note(tensor.as_subclass(Subclass))
    note(tensor.to("meta"))
    with TorchDispatchMode():
        seen.append(_threefry.is_plain(tensor))
    assert seen == [False] * 9


@pytest.mark.slow
def test_inductor_draws_the_same() -> None:
    """Inductor's kernels give the same integers and uniforms bit for bit, and normals to the last digits."""
    torch._dynamo.reset()

    names = ["bits", "permutation", "uniform torch.float32", "uniform bounds", "normal torch.float32"]

    def draws(key: Tensor) -> dict[str, Tensor]:
        return {name: DRAWS[name](key, 700) for name in names}

    compiled = torch.compile(draws, fullgraph=True)
    for key in random.split(random.key(3)):
        expected = draws(key)
        for name, actual in compiled(key).items():
            if name == "uniform bounds":  # a fused multiplication and addition round once
                torch.testing.assert_close(actual, expected[name], rtol=2e-6, atol=2e-6)
            else:
                assert_near_or_same(name, actual, expected[name])
