"""Statistics of BatchNorm computed anew are torch's."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import swa_utils

import functional_train as ft
from tests.global_rng import seeded
from tests.trees import assert_bitwise, assert_close, normal


def convolutional(momentum: float | None = 0.1) -> nn.Sequential:
    with seeded():
        module = nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=momentum), nn.ReLU(), nn.Flatten(),
            nn.Linear(12, 4), nn.BatchNorm1d(4, momentum=0.3), nn.BatchNorm1d(4, track_running_stats=False),
        )  # fmt: skip
    return module.double()


BATCHES = [normal(seed, (5, 2, 4, 4)) * (1 + seed) + seed for seed in range(3)]


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, "label"), lambda x: [x]])
def test_is_that_of_torch(momentum: float | None, wrap: Any) -> None:
    """The same buffers bit for bit, whatever they were before; nothing given is changed."""
    module = convolutional(momentum)
    _, params, buffers = ft.functionalize(module)
    _, buffers = ft.functionalize(module).apply(params, BATCHES[0], buffers=buffers)
    shifted = ft.Params({name: leaf + 0.1 for name, leaf in params.items()})
    theirs = copy.deepcopy(ft.merge(module, shifted, buffers))
    swa_utils.update_bn([wrap(batch) for batch in BATCHES], theirs)
    before = ft.tree.copy((shifted, buffers))
    made = ft.update_bn(module, shifted, buffers, (wrap(batch) for batch in BATCHES))
    assert_bitwise(made, ft.Params(dict(theirs.named_buffers())))
    assert_bitwise((shifted, buffers), before)
    assert module[1].momentum == momentum
    assert module[5].momentum == 0.3


def test_a_predicate_leaves_dropout_out() -> None:
    """Statistics without dropout: with it in training mode they would be those of another network."""
    with seeded():
        module = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))
    _, params, buffers = ft.functionalize(module)
    x = normal(0, (8, 3), torch.float32)
    made = ft.update_bn(module, params, buffers, [x], train=lambda path: path != "0")
    assert_close(made["1.running_mean"], x.mean(0), 1e-6)


def test_without_batch_norm_nothing_is_done() -> None:
    """Other buffers are returned as they are, and no batch is asked for."""
    module = nn.Sequential(nn.Flatten())
    module.register_buffer("scale", torch.ones(2))
    _, params, buffers = ft.functionalize(module)
    assert ft.update_bn(module, params, buffers, [])["scale"] is buffers["scale"]


def test_no_batches_are_an_error() -> None:
    module = convolutional()
    _, params, buffers = ft.functionalize(module)
    with pytest.raises(ft.BatchesError, match="update_bn was given no batches"):
        ft.update_bn(module, params, buffers, [])
    with pytest.raises(ft.StructureError, match="params"):
        ft.update_bn(module, {}, buffers, BATCHES)
