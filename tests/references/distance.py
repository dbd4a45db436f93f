"""Methods that estimate the distance to the minimum, as their packages write them: nothing in units of the estimate."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import functional_train as ft
from tests.references.rules import Leaves, Reference, Settings

Row = list[Tensor | None]
# (gradients of the leaves that are there, their places, parameters, memory) -> what is added to each.
Rule = Callable[[Leaves, list[int], Leaves, dict[str, Any]], Leaves]


def of_all(rule: Rule) -> Reference:
    """A rule that remembers all leaves, since the norms of the estimate are taken over all."""

    def reference(params: Leaves, grads: list[Row]) -> list[Leaves]:
        memory: dict[str, Any] = {name: [torch.zeros_like(leaf) for leaf in params] for name in ("s", "m", "v")}
        memory |= {"p0": list(params), "d": 1e-6, "a": 0.0, "g0": 0.0}
        reached = [list(params)]
        for row in grads:
            here = [place for place, grad in enumerate(row) if grad is not None]
            new = list(reached[-1])
            if here:
                updates = rule([grad for grad in row if grad is not None], here, new, memory)
                for place, update in zip(here, updates, strict=True):
                    new[place] = new[place] + update
            reached.append(new)
        return reached[1:]

    return reference


def dot(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum())


def prodigy(grads: Leaves, here: list[int], params: Leaves, memory: dict[str, Any]) -> Leaves:
    d, s, m, v = (memory[name] for name in "dsmv")
    memory["a"] *= 0.999**0.5
    for i, g in zip(here, grads, strict=True):
        memory["a"] += (d / 1e-6) * d * dot(g, memory["p0"][i] - params[i])
        m[i] = 0.9 * m[i] + 0.1 * d * g
        v[i] = 0.999 * v[i] + 0.001 * (d * g) ** 2
        s[i] = 0.999**0.5 * s[i] + (d / 1e-6) * d * g
    size = sum(float(leaf.abs().sum()) for leaf in s)
    memory["d"] = max(d, memory["a"] / size if size else 0.0)
    return [-d * m[i] / (v[i].sqrt() + memory["d"] * 1e-8) for i in here]


def dadapt_sgd(grads: Leaves, here: list[int], params: Leaves, memory: dict[str, Any]) -> Leaves:
    d, s = memory["d"], memory["s"]
    memory["g0"] = memory["g0"] or sum(dot(g, g) for g in grads) ** 0.5
    rate = d / memory["g0"] if memory["g0"] else 0.0
    for i, g in zip(here, grads, strict=True):
        memory["a"] += rate * dot(g, s[i])
        s[i] = s[i] + rate * g
    size = sum(dot(leaf, leaf) for leaf in s) ** 0.5
    memory["d"] = max(d, 2 * memory["a"] / size if size else 0.0)
    return [memory["p0"][i] - s[i] - params[i] for i in here]


def dadapt_adam(grads: Leaves, here: list[int], params: Leaves, memory: dict[str, Any]) -> Leaves:
    d, s, m, v = (memory[name] for name in "dsmv")
    root, product = 0.999**0.5, 0.0
    for i, g in zip(here, grads, strict=True):
        product += d * dot(g, s[i] / (v[i].sqrt() + 1e-8))
        m[i] = 0.9 * m[i] + 0.1 * d * g
        v[i] = 0.999 * v[i] + 0.001 * g**2
        s[i] = root * s[i] + (1 - root) * d * g
    memory["a"] = root * memory["a"] + (1 - root) * product
    size = sum(float(leaf.abs().sum()) for leaf in s)
    memory["d"] = max(d, memory["a"] / ((1 - root) * size) if size else 0.0)
    return [-m[i] / (v[i].sqrt() + 1e-8) for i in here]


REFERENCES: dict[str, Reference] = {
    "dadapt_adam": of_all(dadapt_adam),
    "dadapt_sgd": of_all(dadapt_sgd),
    "prodigy": of_all(prodigy),
}

NUMBERS = {"lr": 0.5, "weight_decay": 0.05, "d0": 0.1, "growth_rate": 1.5}
HYPERPARAMETERS: dict[str, Settings] = {
    "prodigy": (ft.prodigy, NUMBERS | {"betas": (0.8, 0.9), "beta3": 0.7, "eps": 1e-3, "d_coef": 2.0}),
    "prodigy that corrects": (
        ft.prodigy,
        NUMBERS | {"betas": (0.8, 0.9), "decouple": False, "use_bias_correction": True, "slice_p": 2},
    ),
    "dadapt_sgd": (ft.dadapt_sgd, NUMBERS | {"momentum": 0.5}),
    "dadapt_adam": (ft.dadapt_adam, NUMBERS | {"betas": (0.8, 0.9), "eps": 1e-3}),
    "dadapt_adam that corrects": (
        ft.dadapt_adam,
        NUMBERS | {"betas": (0.8, 0.9), "decouple": True, "use_bias_correction": True},
    ),
}
