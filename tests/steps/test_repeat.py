"""`repeat`: several steps as one."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import functional_train as ft
from tests.profiles import examples
from tests.steps.test_loop import OPTIMIZERS, start
from tests.trees import assert_bitwise, like, nestings, seeds, tensors


@given(nestings(tensors()), st.sampled_from(sorted(OPTIMIZERS)), st.lists(seeds(), min_size=1, max_size=4))
@settings(max_examples=examples(25))
def test_it_equals_a_scan(params: Any, name: str, drawn: list[int]) -> None:
    """State and metrics are those of `scan` over the batches that were stacked, bit for bit."""
    step, state = start(params, name)
    batches = [like(seed, params) for seed in drawn]
    repeated = ft.repeat(step, len(batches))
    assert_bitwise(repeated(state, ft.tree.stack(batches)), ft.scan(step, state, batches))
    shared = ft.repeat(step, len(batches), batch_dim=None)
    assert_bitwise(shared(state, batches[0]), ft.scan(step, state, batches[:1] * len(batches)))


def test_batches_along_another_dimension() -> None:
    """The entries of a step may lie along any dimension, counted from either end."""
    add = lambda state, batch: (state + batch, {"sum": state + batch})  # noqa: E731
    rows = torch.arange(6).reshape(2, 3)
    for dim in (1, -1):
        state, metrics = ft.repeat(add, 3, batch_dim=dim)(torch.zeros(2, dtype=torch.int64), rows)
        assert state.tolist() == [3, 12]
        assert metrics["sum"].tolist() == [[0, 3], [1, 7], [3, 12]]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (
            torch.ones(2, 4),
            r"repeat\(<lambda>, 3\) takes one batch a step: dimension 0 .* length 3\. The batch is .*2, 4",
        ),
        ({"x": torch.ones(3), "y": torch.tensor(1.0)}, r"'y' is a tensor of shape \(\)\. Stack the batches"),
        ((torch.ones(3), "name"), r"'1' is a str\. .* batch_dim=None"),
    ],
)
def test_batches_that_do_not_fit(batches: Any, message: str) -> None:
    """A leaf without one entry a step is named."""
    with pytest.raises(ft.BatchesError, match=message):
        ft.repeat(lambda state, batch: (state, {}), 3)(0, batches)


@pytest.mark.parametrize("num_steps", [0, -1, 2.0, True, None])
def test_how_often(num_steps: Any) -> None:
    """The number of steps is an int of at least 1."""
    with pytest.raises(ft.HyperparameterError, match="num_steps must be an int >= 1"):
        ft.repeat(lambda state, batch: (state, {}), num_steps)


def test_which_dimension() -> None:
    """The dimension is an int or None."""
    with pytest.raises(ft.HyperparameterError, match="batch_dim must be an int or None, got 'rows'"):
        ft.repeat(lambda state, batch: (state, {}), 1, batch_dim="rows")  # type: ignore[arg-type]
