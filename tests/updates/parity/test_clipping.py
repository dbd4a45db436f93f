"""Clipping is torch.nn.utils'."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings

import functional_train as ft
from tests.profiles import examples
from tests.trees import assert_close, nestings, tensors


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 3.0, 1e9])
@given(params=nestings(tensors()))
@settings(max_examples=examples(20))
def test_clipping_equals_torchs(params: Any, max_norm: float) -> None:
    """clip_by_global_norm is clip_grad_norm_ on a copy."""
    theirs = [torch.nn.Parameter(leaf.clone()) for leaf in ft.tree.leaves(params)]
    for parameter, grad in zip(theirs, ft.tree.leaves(params), strict=True):
        parameter.grad = grad.clone()
    torch.nn.utils.clip_grad_norm_(theirs, max_norm, foreach=False)
    ours, _ = ft.clip_by_global_norm(max_norm).update(params, ft.EmptyState(), params)
    assert_close(ft.tree.leaves(ours), [parameter.grad for parameter in theirs], 1e-15)
