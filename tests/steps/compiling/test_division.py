"""Division that rounds down: the numbers of torch to the last bit, also where a quotient rounds to a whole number."""

import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import functional_train as ft
from functional_train.steps.compiling._division import DECOMPOSITIONS
from tests.profiles import examples

EDGES = [0.0, -0.0, 0.1, 0.3, 1.0, -1.0, 2.5, -7.5, 6.0, 1e-30, 1e30, float("inf"), float("-inf"), float("nan")]
NUMBERS = st.lists(st.sampled_from(EDGES) | st.floats(width=32), min_size=4, max_size=4)
KINDS = {
    "x // y": lambda x, y: x // y,
    "x // 0.1": lambda x, y: x // 0.1,
    "x % y": lambda x, y: x % y,
    "x % -0.3": lambda x, y: x % -0.3,
    "1 % y": lambda x, y: torch.remainder(1, y),
    "floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "int // float": lambda x, y: torch.arange(4, device=x.device) // y,
    "int // int": lambda x, y: torch.arange(4, device=x.device) // 3 + 0 * y,
}


@functools.cache
def graph_of(kind: str, dtype: torch.dtype) -> Callable[..., Tensor]:
    """Traced once: a graph does not depend on numbers."""
    return make_fx(KINDS[kind], decomposition_table=DECOMPOSITIONS)(*torch.ones(2, 4, dtype=dtype))


def assert_same_bits(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert found.dtype is expected.dtype
    assert torch.equal(found.signbit() | found.isnan(), expected.signbit() | expected.isnan())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@given(x=NUMBERS, y=NUMBERS)
@settings(max_examples=examples(40))
def test_decompositions_equal_torch(kind: str, dtype: torch.dtype, x: list[float], y: list[float]) -> None:
    """Signs of zeros, infinities and what is no number included."""
    tensors = torch.tensor(x, dtype=dtype), torch.tensor(y, dtype=dtype)
    assert_same_bits(graph_of(kind, dtype)(*tensors), KINDS[kind](*tensors))


def test_compiled_division() -> None:
    """In machine code, for all pairs of edges."""
    x, y = (each.flatten() for each in torch.meshgrid(torch.tensor(EDGES), torch.tensor(EDGES), indexing="ij"))

    n = torch.arange(-98, 98)

    def fn(x: Tensor, y: Tensor, n: Tensor) -> list[Tensor]:
        floats = [x // y, x // 0.1, x % y, x % -0.3]
        return [*floats, n // 3, n // -7, n % 5, n // (n * n + 1), n // 0.5, torch.div(n, 4, rounding_mode="floor")]

    for found, expected in zip(ft.compile(fn)(x, y, n), fn(x, y, n), strict=True):
        assert_same_bits(found, expected)
