"""Modern optimizers of single elements and of layers."""

from typing import Any

import torch
from torch import Tensor

import functional_train as ft
from tests.references.rules import Reference, Settings, of_leaf

Memory = dict[str, Any]


def kept(memory: Memory, name: str, g: Tensor) -> Tensor:
    return memory.get(name, torch.zeros_like(g))


def lion_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    m = kept(memory, "m", g)
    memory["m"] = 0.99 * m + 0.01 * g
    return torch.sign(0.9 * m + 0.1 * g)


REFERENCES: dict[str, Reference] = {
    "lion": of_leaf(lambda g, p, memory: -1e-4 * lion_direction(g, p, memory)),
    "scale_by_lion": of_leaf(lion_direction),
}

HYPERPARAMETERS: dict[str, Settings] = {
    "lion": (ft.lion, {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.05}),
    "scale_by_lion": (ft.scale_by_lion, {"betas": (0.8, 0.9)}),
}
