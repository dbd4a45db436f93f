"""A small model, a batch, and one turn of the usual loop around them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.global_rng import seeded

X, Y = torch.linspace(-1.0, 1.0, 24).reshape(6, 4).sin(), torch.tensor([0, 1, 2, 0, 1, 2])


def make_model(middle: nn.Module | None = None) -> nn.Sequential:
    with seeded():
        return nn.Sequential(nn.Linear(4, 5), middle or nn.Tanh(), nn.Linear(5, 3))


def turn(effects: Any, model: nn.Module, optimizer: torch.optim.Optimizer, set_to_none: bool = True) -> None:
    """One turn of the usual loop, phase by phase."""
    with effects.phase("zero_grad"):
        optimizer.zero_grad(set_to_none)
    with effects.phase("forward"):
        output = model(X)
    with effects.phase("loss"):
        loss = F.cross_entropy(output, Y)
    with effects.phase("backward"):
        loss.backward()
    with effects.phase("step"):
        optimizer.step()
