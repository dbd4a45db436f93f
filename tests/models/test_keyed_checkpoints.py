"""What activation checkpointing computes again, it draws again."""

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import functional_train as ft
from tests.global_rng import seeded
from tests.values.draws import assert_same

KEY = ft.random.key(0)
ROWS = torch.linspace(-1, 1, 5 * 3 * 8).view(5, 3, 8)


class Blocks(nn.Module):
    """Dropout before, in and between checkpoints, one inside another."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear, self.dropout, self.kind = nn.Linear(8, 8), nn.Dropout(0.5), kind

    def block(self, x: Tensor) -> Tensor:
        x = F.dropout(self.linear(x), 0.2)
        return self.dropout(torch.tanh(self.redone(self.part, x) if self.kind == "nested" else self.part(x)))

    def part(self, x: Tensor) -> Tensor:
        return torch.rand_like(x) * self.dropout(x.sin())

    def redone(self, fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return checkpoint(fn, x, use_reentrant=self.kind == "reentrant", preserve_rng_state=self.kind != "unpreserved")

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.linear(x))
        for _ in range(3):
            x = self.block(x) if self.kind == "plain" else self.redone(self.block, x)
            x = self.dropout(x)
        return x


@pytest.mark.parametrize("kind", ["newer", "nested", "reentrant", "unpreserved"])
@pytest.mark.parametrize("thread", [False, True], ids=["same thread", "another thread"])
def test_what_is_computed_again_is_drawn_again(kind: str, thread: bool) -> None:
    """Under activation checkpointing of both kinds the gradients are those without, whatever thread takes them."""
    found = []
    for each in ("plain", kind):
        with seeded():
            apply, params, _ = ft.functionalize(Blocks(each))
        leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
        loss = apply(leaves, ROWS, key=KEY).square().sum()
        if thread:
            worker = threading.Thread(target=loss.backward)
            worker.start()
            worker.join()
        else:
            loss.backward()
        found.append([leaf.grad for leaf in leaves.values()])
    for one, other in zip(*found, strict=True):
        assert_same(one, other)
