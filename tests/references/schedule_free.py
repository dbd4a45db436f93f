"""Schedule-free methods, with all three places written out and each leaf counting for itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import functional_train as ft
from tests.references.rules import Reference, Settings, of_leaf


def averaged(
    direction: Callable[[Tensor, dict[str, Any], int], Tensor], rate: Callable[[int], float], beta: float = 0.9
) -> Reference:
    """Equations 3 to 5 of Defazio et al. 2024 for one leaf, with the weight max(lr)²."""

    def rule(g: Tensor, y: Tensor, memory: dict[str, Any]) -> Tensor:
        t = memory["t"] = memory.get("t", 0) + 1
        lr = rate(t)
        memory["lr_max"] = max(memory.get("lr_max", 0.0), lr)
        weight = memory["lr_max"] ** 2
        memory["sum"] = memory.get("sum", 0.0) + weight
        share = weight / memory["sum"] if memory["sum"] > 0 else 0.0
        z = memory["z"] = memory.get("z", y) - lr * direction(g, memory, t)
        x = memory["x"] = (1 - share) * memory.get("x", y) + share * z
        return (1 - beta) * z + beta * x - y

    return of_leaf(rule)


def normalized(g: Tensor, memory: dict[str, Any], t: int) -> Tensor:
    v = memory["v"] = 0.999 * memory.get("v", torch.zeros_like(g)) + 0.001 * g**2
    return g / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


REFERENCES: dict[str, Reference] = {
    "schedule_free_sgd": averaged(lambda g, memory, t: g, lambda t: 1.0),
    "schedule_free_adamw": averaged(normalized, lambda t: 0.0025),
    # In the first five updates the length of the average is at most 4, and the defaults keep still.
    "schedule_free_radam": averaged(lambda g, memory, t: g, lambda t: 0.0),
}

HYPERPARAMETERS: dict[str, Settings] = {
    "schedule_free_sgd": (
        ft.schedule_free_sgd,
        {"lr": 0.1, "momentum": 0.7, "weight_decay": 0.05, "warmup_steps": 2, "r": 0.5, "weight_lr_power": 1.5},
    ),
    "schedule_free_adamw": (
        ft.schedule_free_adamw,
        {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.05, "warmup_steps": 2, "r": 0.5}
        | {"weight_lr_power": 1.5},
    ),
    "schedule_free_radam": (
        ft.schedule_free_radam,
        {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.05, "r": 0.5, "weight_lr_power": 1.5}
        | {"silent_sgd_phase": False},
    ),
}

EXEMPT: dict[tuple[str, str], str] = {
    ("schedule_free_radam", "descends"): "its first five updates only measure the gradient, by design",
}
