"""Small matrix products in generated loops: which they are, and that their numbers are those of the library."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx import Graph
from torch.fx.experimental.proxy_tensor import make_fx

import functional_train as ft
from functional_train.steps.compiling._products import inline_products
from tests.profiles import examples
from tests.trees import normal

SMALL = torch.ops.functional_train.small_product.default
SIZES = st.integers(0, 5)


def traced(fn: Any, *tensors: Tensor) -> Any:
    return make_fx(fn, tracing_mode="fake")(*tensors)


def targets(graph: Graph) -> set[Any]:
    return {node.target for node in graph.nodes if node.op == "call_function"}


@given(SIZES, SIZES, SIZES, SIZES)
@settings(max_examples=examples(30))
def test_the_graph_computes_the_same(batch: int, rows: int, inner: int, columns: int) -> None:
    """Products of any sizes, alone, with something added that is spread, and in batches."""
    left, right = normal(0, (rows, inner)), normal(1, (inner, columns))
    rights = normal(2, (batch, inner, columns))
    added = [normal(3, (columns,)), normal(4, (rows, columns)), normal(5, (rows, 1)), normal(6, ())]

    def fn(left: Tensor, right: Tensor, rights: Tensor, *added: Tensor) -> list[Tensor]:
        lefts = left.expand(len(rights), *left.shape)
        return [left @ right, torch.bmm(lefts, rights), *[torch.addmm(each, left, right) for each in added]]

    arguments = (left, right, rights, *added)
    graph = traced(fn, *arguments)
    inline_products(graph.graph)
    graph.graph.lint()
    graph.recompile()
    aten = torch.ops.aten
    assert SMALL in targets(graph.graph)
    assert not targets(graph.graph) & {aten.mm.default, aten.bmm.default, aten.addmm.default}
    for found, expected in zip(graph(*arguments), fn(*arguments), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64, torch.int64], ids=str)
def test_other_dtypes_are_left_alone(dtype: torch.dtype) -> None:
    """Those whose sums the library accumulates in another way."""
    square = torch.ones(3, 3, dtype=dtype)
    graph = traced(torch.mm, square, square)
    inline_products(graph.graph)
    assert targets(graph.graph) == {torch.ops.aten.mm.default}


@pytest.mark.parametrize(("width", "inlined"), [(64, True), (65, False)])
def test_large_products_are_left_alone(width: int, inlined: bool) -> None:
    """32 * 64 * 64 multiplications are few, and more are not."""
    graph = traced(torch.mm, torch.ones(32, 64), torch.ones(64, width))
    inline_products(graph.graph)
    assert (targets(graph.graph) == {SMALL}) == inlined


def test_weighted_sums_are_left_alone() -> None:
    """With factors of its own an addmm is more than a product and a sum."""
    square = torch.ones(3, 3)
    graph = traced(lambda x: torch.addmm(x, x, x, beta=0.5, alpha=2.0), square)
    inline_products(graph.graph)
    assert targets(graph.graph) == {torch.ops.aten.addmm.default}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_compiled_products(dtype: torch.dtype) -> None:
    """In machine code: transposed, expanded, strided and empty operands, and products of what loops compute."""
    shapes = [(1, 1, 1), (3, 1, 4), (1, 7, 1), (5, 6, 7), (9, 33, 17), (2, 0, 3), (0, 2, 3), (1, 4000, 1)]
    pairs = [(normal(0, (m, k), dtype), normal(1, (k, n), dtype)) for m, k, n in shapes]
    pairs += [
        (normal(2, (6, 5), dtype).T, normal(3, (7, 6), dtype).T),
        (normal(4, (5, 12), dtype)[:, ::2], normal(5, (6, 1), dtype).expand(6, 7)),
        (normal(6, (4, 3, 5), dtype), normal(7, (4, 5, 2), dtype)),
        (normal(8, (3, 5), dtype).expand(4, 3, 5), normal(9, (4, 2, 5), dtype).mT),
    ]

    def fn(pairs: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        found: list[Tensor] = []
        for left, right in pairs:
            product = left.tanh() @ right
            found += [left @ right, product, torch.softmax(product + 1, -1).mT @ product.exp().sum(-1, keepdim=True)]
        return found

    tolerance = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
    for found, expected in zip(ft.compile(fn)(pairs), fn(pairs), strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        assert found.stride() == expected.stride()


@pytest.mark.slow
def test_what_is_not_finite_stays_so() -> None:
    """A zero times infinity is no number, wherever it is summed."""
    left = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    right = torch.tensor([[torch.inf, 1.0], [torch.nan, 2.0]])
    torch.testing.assert_close(ft.compile(torch.mm)(left, right), left @ right, equal_nan=True)
