"""Modern optimizers of single elements and of layers."""

from collections.abc import Callable
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


def count(memory: Memory) -> int:
    memory["t"] = memory.get("t", 0) + 1
    return memory["t"]


def adan_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    t = count(memory)
    change = g - memory.get("last", g)
    m = memory["m"] = 0.98 * kept(memory, "m", g) + 0.02 * g
    d = memory["d"] = 0.92 * kept(memory, "d", g) + 0.08 * change
    n = memory["n"] = 0.99 * kept(memory, "n", g) + 0.01 * (g + 0.92 * change) ** 2
    memory["last"] = g
    ahead = m / (1 - 0.98**t) + 0.92 * d / (1 - 0.92**t)
    return ahead / ((n / (1 - 0.99**t)).sqrt() + 1e-8)


def belief_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    t = count(memory)
    m = memory["m"] = 0.9 * kept(memory, "m", g) + 0.1 * g
    s = memory["s"] = 0.999 * kept(memory, "s", g) + 0.001 * (g - m) ** 2 + 1e-16
    return (m / (1 - 0.9**t)) / ((s / (1 - 0.999**t)).sqrt() + 1e-16)


def adopt_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    if not memory:
        memory["v"] = g**2
        memory["t"] = 0
        return torch.zeros_like(g)
    bound = count(memory) ** 0.25
    scaled = (g / memory["v"].sqrt().clamp(min=1e-6)).clamp(-bound, bound)
    memory["m"] = 0.9 * kept(memory, "m", g) + 0.1 * scaled
    memory["v"] = 0.9999 * memory["v"] + 0.0001 * g**2
    return memory["m"]


def at_rate(rate: float, direction: Callable[[Tensor, Tensor, Memory], Tensor]) -> Reference:
    return of_leaf(lambda g, p, memory: -rate * direction(g, p, memory))


REFERENCES: dict[str, Reference] = {
    "adabelief": at_rate(1e-3, belief_direction),
    "adan": at_rate(1e-3, adan_direction),
    "adopt": at_rate(1e-3, adopt_direction),
    "lion": at_rate(1e-4, lion_direction),
    "scale_by_adan": of_leaf(adan_direction),
    "scale_by_adopt": of_leaf(adopt_direction),
    "scale_by_belief": of_leaf(belief_direction),
    "scale_by_lion": of_leaf(lion_direction),
}

HYPERPARAMETERS: dict[str, Settings] = {
    "adabelief": (ft.adabelief, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.05}),
    "adan": (ft.adan, {"lr": 0.1, "betas": (0.8, 0.7, 0.9), "eps": 1e-3, "weight_decay": 0.05}),
    "adopt": (ft.adopt, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.3, "weight_decay": 0.05}),
    "scale_by_adan": (ft.scale_by_adan, {"betas": (0.8, 0.7, 0.9), "eps": 1e-3}),
    "scale_by_adopt": (ft.scale_by_adopt, {"betas": (0.8, 0.9), "eps": 0.3}),
    "scale_by_belief": (ft.scale_by_belief, {"betas": (0.8, 0.9), "eps": 1e-3}),
    "lion": (ft.lion, {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.05}),
    "scale_by_lion": (ft.scale_by_lion, {"betas": (0.8, 0.9)}),
}

EXEMPT = {
    ("adopt", "descends"): "by Algorithm 2 of its paper the first gradient sets the second moment and moves nothing",
}
