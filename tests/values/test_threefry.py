"""The block cipher: when ints may stand in for lanes, and that both reach every counter."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from functional_train.values import random
from functional_train.values.random import _threefry
from tests.values.draws import DRAWS, assert_near_or_same, assert_same, keys, on_lanes


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
