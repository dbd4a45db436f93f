"""The for-loops of torch.optim beyond SGD and Adam, and what they are made of."""

from typing import Any

import torch
from torch import Tensor

import functional_train as ft
from tests.references.rules import Reference, Settings, of_leaf, of_torch


def counted(memory: dict[str, Any]) -> int:
    memory["t"] = memory.get("t", 0) + 1
    return int(memory["t"])


def kept(memory: dict[str, Any], name: str, like: Tensor) -> Tensor:
    return memory[name] if name in memory else torch.zeros_like(like)


def moments(g: Tensor, memory: dict[str, Any]) -> tuple[Tensor, Tensor]:
    m = memory["m"] = 0.9 * kept(memory, "m", g) + 0.1 * g
    v = memory["v"] = 0.999 * kept(memory, "v", g) + 0.001 * g**2
    return m, v


def nadam_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    t = counted(memory)
    m, v = moments(g, memory)
    mu, after = (0.9 * (1 - 0.5 * 0.96 ** (count * 0.004)) for count in (t, t + 1))
    product = memory["product"] = memory.get("product", 1.0) * mu
    ahead = after * m / (1 - product * after) + (1 - mu) * g / (1 - product)
    return ahead / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


def radam_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    t = counted(memory)
    m, v = moments(g, memory)
    longest = 2 / (1 - 0.999) - 1
    length = longest - 2 * t * 0.999**t / (1 - 0.999**t)
    if length <= 5:
        return m / (1 - 0.9**t)
    square = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return m / (1 - 0.9**t) * (square * (1 - 0.999**t)) ** 0.5 / (v.sqrt() + 1e-8)


def adamax_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    m = memory["m"] = 0.9 * kept(memory, "m", g) + 0.1 * g
    largest = memory["w"] = torch.maximum(0.999 * kept(memory, "w", g), g.abs() + 1e-8)
    return m / (1 - 0.9 ** counted(memory)) / largest


def adadelta_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    v = memory["v"] = 0.9 * kept(memory, "v", g) + 0.1 * g**2
    a = kept(memory, "a", g)
    direction = (a + 1e-6).sqrt() / (v + 1e-6).sqrt() * g
    memory["a"] = 0.9 * a + 0.1 * direction**2
    return direction


def adagrad_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    total = memory["s"] = kept(memory, "s", g) + g**2
    return g / (total.sqrt() + 1e-10)


def rmsprop_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    v = memory["v"] = 0.99 * kept(memory, "v", g) + 0.01 * g**2
    return g / (v.sqrt() + 1e-8)


def rprop_update(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    product = g * kept(memory, "prev", g)
    size = memory.get("size", torch.full_like(g, 0.01))
    size = torch.where(product > 0, 1.2 * size, torch.where(product < 0, 0.5 * size, size))
    memory["size"] = size.clamp(1e-6, 50.0)
    memory["prev"] = torch.where(product < 0, 0.0, g)
    return -memory["prev"].sign() * memory["size"]


def asgd_update(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    eta = 0.01 / (1 + 1e-4 * 0.01 * (counted(memory) - 1)) ** 0.75
    return -eta * (g + 1e-4 * p)


REFERENCES: dict[str, Reference] = {
    "adadelta": of_torch(torch.optim.Adadelta),
    "adagrad": of_torch(torch.optim.Adagrad),
    "adamax": of_torch(torch.optim.Adamax),
    "asgd": of_torch(torch.optim.ASGD),
    "nadam": of_torch(torch.optim.NAdam),
    "radam": of_torch(torch.optim.RAdam),
    "rmsprop": of_torch(torch.optim.RMSprop),
    "rprop": of_torch(torch.optim.Rprop),
    "scale_by_adadelta": of_leaf(adadelta_direction),
    "scale_by_adagrad": of_leaf(adagrad_direction),
    "scale_by_adamax": of_leaf(adamax_direction),
    "scale_by_asgd": of_leaf(asgd_update),
    "scale_by_nadam": of_leaf(nadam_direction),
    "scale_by_radam": of_leaf(radam_direction),
    "scale_by_rmsprop": of_leaf(rmsprop_direction),
    "scale_by_rprop": of_leaf(rprop_update),
}

BETAS = {"betas": (0.8, 0.9), "eps": 1e-3}
ADAGRAD = {"initial_accumulator_value": 0.1, "eps": 1e-3, "lr_decay": 0.5}
RPROP = {"lr": 0.1, "etas": (0.5, 1.2), "step_sizes": (0.05, 1.15)}
ASGD = {"lr": 0.1, "lambd": 0.1, "alpha": 0.75, "t0": 0.5}

HYPERPARAMETERS: dict[str, Settings] = {
    "adadelta": (ft.adadelta, {"lr": 0.1, "rho": 0.8, "eps": 1e-2, "weight_decay": 0.05}),
    "adagrad": (ft.adagrad, {"lr": 0.1, "weight_decay": 0.05, **ADAGRAD}),
    "adamax": (ft.adamax, {"lr": 0.1, "weight_decay": 0.05, **BETAS}),
    "asgd": (ft.asgd, {**ASGD, "weight_decay": 0.05}),
    "nadam": (ft.nadam, {"lr": 0.1, "momentum_decay": 0.1, "weight_decay": 0.05, **BETAS}),
    "nadam decoupled": (ft.nadam, {"lr": 0.1, "weight_decay": 0.05, "decoupled_weight_decay": True}),
    # With a shorter memory the second moment is known after fewer steps than the test takes.
    "radam": (ft.radam, {"lr": 0.1, "weight_decay": 0.05, "betas": (0.8, 0.9), "eps": 1e-3}),
    "radam decoupled": (ft.radam, {"lr": 0.1, "weight_decay": 0.05, "decoupled_weight_decay": True}),
    "rmsprop": (ft.rmsprop, {"lr": 0.1, "alpha": 0.8, "eps": 1e-2, "weight_decay": 0.05, "momentum": 0.8}),
    # Not alpha: where that is small, the mean square is nearly the square of the mean, and the rest is rounding.
    "rmsprop centered": (ft.rmsprop, {"lr": 0.1, "eps": 1e-2, "momentum": 0.8, "centered": True}),
    "rprop": (ft.rprop, RPROP),
    "scale_by_adadelta": (ft.scale_by_adadelta, {"rho": 0.8, "eps": 1e-2}),
    "scale_by_adagrad": (ft.scale_by_adagrad, ADAGRAD),
    "scale_by_adamax": (ft.scale_by_adamax, BETAS),
    "scale_by_asgd": (ft.scale_by_asgd, ASGD),
    "scale_by_nadam": (ft.scale_by_nadam, {"momentum_decay": 0.1, **BETAS}),
    "scale_by_radam": (ft.scale_by_radam, BETAS),
    "scale_by_rmsprop": (ft.scale_by_rmsprop, {"alpha": 0.8, "eps": 1e-2}),
    "scale_by_rprop": (ft.scale_by_rprop, RPROP),
}
