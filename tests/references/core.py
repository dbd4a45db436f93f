"""SGD, Adam, and what they are made of."""

from typing import Any

import torch
from torch import Tensor

import functional_train as ft
from tests.references.rules import Leaves, Reference, Settings, of_leaf, of_rule, of_torch


def momentum(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    memory["b"] = 0.9 * memory["b"] + g if memory else g
    return memory["b"]


def adam_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    t = memory["t"] = memory.get("t", 0) + 1
    m = memory["m"] = 0.9 * memory.get("m", torch.zeros_like(g)) + 0.1 * g
    v = memory["v"] = 0.999 * memory.get("v", torch.zeros_like(g)) + 0.001 * g**2
    return (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


def clipped(grads: Leaves, params: Leaves, memories: list[dict[str, Any]]) -> Leaves:
    norm = sum(float((g**2).sum()) for g in grads) ** 0.5
    return [g * min(1.0, 1.0 / (norm + 1e-6)) for g in grads]


REFERENCES: dict[str, Reference] = {
    "adam": of_torch(torch.optim.Adam),
    "adamw": of_torch(torch.optim.AdamW),
    "add_decayed_weights": of_leaf(lambda g, p, memory: g + 0.01 * p),
    "add_momentum": of_leaf(momentum),
    "clip_by_global_norm": of_rule(clipped),
    "identity": of_leaf(lambda g, p, memory: g),
    "negate": of_leaf(lambda g, p, memory: -g),
    "scale_by_adam": of_leaf(adam_direction),
    "scale_by_lr": of_leaf(lambda g, p, memory: -0.001 * g),
    "sgd": of_torch(torch.optim.SGD),
}

HYPERPARAMETERS: dict[str, Settings] = {
    "sgd": (ft.sgd, {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.05}),
    "nesterov": (ft.sgd, {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05, "nesterov": True}),
    "adam": (ft.adam, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.05}),
    "adamw": (ft.adamw, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.05, "amsgrad": True}),
    "clip_by_global_norm": (ft.clip_by_global_norm, {"max_norm": 0.5}),
    "add_decayed_weights": (ft.add_decayed_weights, {"weight_decay": 0.5}),
    "add_momentum": (ft.add_momentum, {"momentum": 0.5, "dampening": 0.5}),
    "scale_by_adam": (ft.scale_by_adam, {"betas": (0.8, 0.9), "eps": 1e-3}),
    "scale_by_lr": (ft.scale_by_lr, {"lr": 0.1}),
}
