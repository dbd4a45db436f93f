"""A state that counts, and a step that does: the smallest training there is."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

import functional_train as ft


class Counter(NamedTuple):
    """A state that remembers what it was trained on."""

    step: Tensor
    total: Tensor


START = Counter(torch.tensor(0), torch.tensor(0.0))


def count(state: Counter, batch: Any) -> tuple[Counter, dict[str, Tensor]]:
    """Add the batch to the state; the loss is the sum so far."""
    total = state.total + batch
    return Counter(state.step + 1, total), {"loss": total}


def numbers(size: int) -> list[Tensor]:
    return [torch.tensor(float(number)) for number in range(1, size + 1)]


def consistent(state: Counter, history: ft.History, start: int = 0) -> bool:
    """Whether the records are those of the steps that led to the state, each once and in order."""
    taken = int(state.step) - start
    steps = history["step"].tolist() if "step" in history else []
    losses = history["loss"].tolist() if "loss" in history else []
    return (
        steps == list(range(start + 1, start + 1 + taken))
        and len(losses) == taken
        and (taken == 0 or losses[-1] == state.total.item())
    )
