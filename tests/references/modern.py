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


def adam_direction(g: Tensor, memory: Memory, beta1: float, beta2: float, eps: float) -> Tensor:
    t = count(memory)
    m = memory["m"] = beta1 * kept(memory, "m", g) + (1 - beta1) * g
    v = memory["v"] = beta2 * kept(memory, "v", g) + (1 - beta2) * g**2
    return (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)


def trusted(g: Tensor, p: Tensor) -> Tensor:
    lengths = p.norm(), g.norm()
    return g * (lengths[0] / lengths[1]) if min(lengths) > 0 else g


def lamb_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    return trusted(adam_direction(g, memory, 0.9, 0.999, 1e-6), p)


def lars(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    ratio = 0.001 * p.norm() / g.norm() if p.norm() > 0 and g.norm() > 0 else 1.0
    memory["b"] = 0.9 * kept(memory, "b", g) + ratio * g
    return -memory["b"]


def ademamix_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    t = count(memory)
    m = memory["m"] = 0.9 * kept(memory, "m", g) + 0.1 * g
    n = memory["n"] = 0.9999 * kept(memory, "n", g) + (1 - 0.9999) * g
    v = memory["v"] = 0.999 * kept(memory, "v", g) + 0.001 * g**2
    return (m / (1 - 0.9**t) + 5 * n) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


def simplified_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    t = count(memory)
    m = memory["m"] = 0.99 * kept(memory, "m", g) + g
    v = memory["v"] = 0.95 * kept(memory, "v", g) + 0.05 * g**2
    return m / ((v / (1 - 0.95**t)).sqrt() + 1e-8)


def of_less_variance(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    c = g + 0.025 * 0.95 / 0.05 * (g - kept(memory, "last", g))
    memory["last"] = g
    return c / max(1.0, float(c.norm()))


def mars_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    return adam_direction(of_less_variance(g, p, memory), memory, 0.95, 0.99, 1e-8)


def stable_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    u = adam_direction(g, memory, 0.9, 0.99, 1e-6)
    v = memory["v"] / (1 - 0.99 ** memory["t"])
    return u / max(1.0, float((g**2 / v.clamp(min=1e-12)).mean().sqrt())) if g.numel() else u


def stable_with_decay(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    u = adam_direction(g, memory, 0.9, 0.99, 1e-6) + 0.01 * p
    v = memory["v"] / (1 - 0.99 ** memory["t"])
    return u / max(1.0, float((g**2 / v.clamp(min=1e-12)).mean().sqrt())) if g.numel() else u


def sign_of_mean(beta: float, g: Tensor, memory: Memory) -> Tensor:
    memory["m"] = beta * kept(memory, "m", g) + (1 - beta) * g
    return torch.sign(memory["m"])


def signum_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    return sign_of_mean(0.9, g, memory)


def tiger_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    return sign_of_mean(0.965, g, memory) + 0.01 * p


def yogi_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    t = count(memory)
    m = memory["m"] = 0.9 * kept(memory, "m", g) + 0.1 * g
    v = memory.get("v", torch.full_like(g, 1e-6))
    v = memory["v"] = v - 0.001 * torch.sign(v - g**2) * g**2
    return (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-3)


def layer_normed(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    square = float((g**2).sum())
    memory["v"] = 0.98 * memory.get("v", square) + 0.02 * square
    return g / (memory["v"] ** 0.5 + 1e-8)


def novograd_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    memory["m"] = 0.95 * kept(memory, "m", g) + layer_normed(g, p, memory)
    return memory["m"]


def laprop_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    t = count(memory)
    v = memory["v"] = 0.999 * kept(memory, "v", g) + 0.001 * g**2
    m = memory["m"] = 0.9 * kept(memory, "m", g) + 0.1 * g / ((v / (1 - 0.999**t)).sqrt() + 1e-15)
    return m / (1 - 0.9**t)


def followed(memory: Memory, name: str, squares: Tensor, beta: float) -> Tensor:
    """The second moment whole, or put together from the means of rows and columns."""
    if squares.ndim < 2 or squares.numel() == 0:
        memory[name] = beta * kept(memory, name, squares) + (1 - beta) * squares
        return memory[name]
    for which, dim in (("rows", -1), ("columns", -2)):
        mean = squares.mean(dim, keepdim=True)
        memory[name + which] = beta * kept(memory, name + which, mean) + (1 - beta) * mean
    rows = memory[name + "rows"]
    return rows / rows.mean(-2, keepdim=True) * memory[name + "columns"]


def came_direction(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    u = g / followed(memory, "v", g**2 + 1e-30, 0.999).sqrt()
    u = u / max(1.0, float((u**2).mean().sqrt())) if g.numel() else u
    m = memory["m"] = 0.9 * kept(memory, "m", g) + 0.1 * u
    if g.ndim < 2 or g.numel() == 0:
        return m
    return m / followed(memory, "s", (u - m) ** 2 + 1e-16, 0.9999).sqrt()


def slow(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    m = memory["m"] = 0.98 * memory.get("m", g) + 0.02 * g
    return g + 2 * m


def before_the_window_is_full(g: Tensor, p: Tensor, memory: Memory) -> Tensor:
    return g


def at_rate(rate: float, direction: Callable[[Tensor, Tensor, Memory], Tensor]) -> Reference:
    return of_leaf(lambda g, p, memory: -rate * direction(g, p, memory))


REFERENCES: dict[str, Reference] = {
    "add_cautious_decay": of_leaf(lambda g, p, memory: g + 0.01 * p * (torch.sign(g) * torch.sign(p) >= 0)),
    "came": at_rate(2e-4, came_direction),
    "laprop": at_rate(4e-4, laprop_direction),
    "novograd": at_rate(1e-2, novograd_direction),
    "scale_by_came": of_leaf(came_direction),
    "scale_by_laprop": of_leaf(laprop_direction),
    "scale_by_layer_norm": of_leaf(layer_normed),
    "scale_by_sign": of_leaf(lambda g, p, memory: torch.sign(g)),
    "scale_by_signum": of_leaf(signum_direction),
    "scale_by_yogi": of_leaf(yogi_direction),
    "sign_sgd": of_leaf(lambda g, p, memory: -1e-3 * torch.sign(g)),
    "signum": at_rate(1e-3, signum_direction),
    "tiger": at_rate(1e-3, tiger_direction),
    "yogi": at_rate(1e-2, yogi_direction),
    "grokfast_ema": of_leaf(slow),
    "grokfast_ma": of_leaf(before_the_window_is_full),
    "ademamix": at_rate(1e-3, ademamix_direction),
    "lamb": at_rate(1e-3, lamb_direction),
    "lars": of_leaf(lars),
    "mars": at_rate(3e-3, mars_direction),
    "reduce_variance": of_leaf(of_less_variance),
    "scale_by_ademamix": of_leaf(ademamix_direction),
    "scale_by_simplified_ademamix": of_leaf(simplified_direction),
    "scale_by_stable_adam": of_leaf(stable_direction),
    "scale_by_trust_ratio": of_leaf(lambda g, p, memory: trusted(g, p)),
    "simplified_ademamix": at_rate(1e-4, simplified_direction),
    "stable_adamw": at_rate(1e-3, stable_with_decay),
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
    "add_cautious_decay": (ft.add_cautious_decay, {"weight_decay": 0.5}),
    "came": (
        ft.came,
        {
            "lr": 0.1,
            "betas": (0.8, 0.9, 0.95),
            "eps": (0.1, 0.2),
            "weight_decay": 0.05,
            "clip_threshold": 0.5,
        },
    ),
    "laprop": (ft.laprop, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.05}),
    "novograd": (ft.novograd, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.05}),
    "scale_by_came": (ft.scale_by_came, {"betas": (0.8, 0.9, 0.95), "eps": (0.1, 0.2), "clip_threshold": 0.5}),
    "scale_by_laprop": (ft.scale_by_laprop, {"betas": (0.8, 0.9), "eps": 1e-3}),
    "scale_by_layer_norm": (ft.scale_by_layer_norm, {"beta": 0.8, "eps": 1e-3}),
    "scale_by_signum": (ft.scale_by_signum, {"momentum": 0.8}),
    "scale_by_yogi": (ft.scale_by_yogi, {"betas": (0.8, 0.9), "eps": 1e-2}),
    "sign_sgd": (ft.sign_sgd, {"lr": 0.1, "weight_decay": 0.05}),
    "signum": (ft.signum, {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05}),
    "tiger": (ft.tiger, {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05}),
    "yogi": (ft.yogi, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-2, "weight_decay": 0.05}),
    "grokfast_ema": (ft.grokfast_ema, {"alpha": 0.9, "lamb": 1.0}),
    "grokfast_ma": (ft.grokfast_ma, {"lamb": 1.0, "window_size": 2}),
    "ademamix": (
        ft.ademamix,
        {"lr": 0.1, "betas": (0.8, 0.9, 0.95), "alpha": 2.0, "eps": 1e-3, "weight_decay": 0.05},
    ),
    "lamb": (ft.lamb, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.05}),
    "lars": (
        ft.lars,
        {"lr": 1.0, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.05, "trust_coefficient": 0.1, "eps": 0.3},
    ),
    "mars": (ft.mars, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.05, "gamma": 0.1}),
    "reduce_variance": (ft.reduce_variance, {"gamma": 0.1, "momentum": 0.8}),
    "scale_by_ademamix": (ft.scale_by_ademamix, {"betas": (0.8, 0.9, 0.95), "alpha": 2.0, "eps": 1e-3}),
    "scale_by_simplified_ademamix": (
        ft.scale_by_simplified_ademamix,
        {"betas": (0.8, 0.9), "alpha": 2.0, "eps": 1e-3},
    ),
    "scale_by_stable_adam": (ft.scale_by_stable_adam, {"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.05}),
    "scale_by_trust_ratio": (ft.scale_by_trust_ratio, {"trust_coefficient": 0.1, "eps": 0.3}),
    "simplified_ademamix": (
        ft.simplified_ademamix,
        {"lr": 0.1, "betas": (0.8, 0.9), "alpha": 2.0, "eps": 1e-3, "weight_decay": 0.05},
    ),
    "stable_adamw": (ft.stable_adamw, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.05}),
    "adabelief": (ft.adabelief, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.05}),
    "adan": (ft.adan, {"lr": 0.1, "betas": (0.8, 0.7, 0.9), "eps": 1e-3, "weight_decay": 0.05}),
    "adopt": (ft.adopt, {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.3, "weight_decay": 0.05}),
    "scale_by_adan": (ft.scale_by_adan, {"betas": (0.8, 0.7, 0.9), "eps": 1e-3}),
    "scale_by_adopt": (ft.scale_by_adopt, {"betas": (0.8, 0.9), "eps": 0.3}),
    "scale_by_belief": (ft.scale_by_belief, {"betas": (0.8, 0.9), "eps": 1e-3}),
    "lion": (ft.lion, {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.05}),
    "scale_by_lion": (ft.scale_by_lion, {"betas": (0.8, 0.9)}),
}

JUMPS = "the ratio of lengths is 1 where the parameter is 0, as in Optax, and near 0 beside it"
EXEMPT = {
    (
        "add_cautious_decay",
        "is_differentiable",
    ): "decay acts on one side of 0 only, which makes a kink there",
    ("lamb", "is_differentiable"): JUMPS,
    ("lars", "is_differentiable"): JUMPS,
    ("lars", "descends"): "a parameter that is 0 has no ratio, and takes the steps of SGD with a rate of 1",
    ("scale_by_trust_ratio", "is_differentiable"): JUMPS,
    ("adopt", "descends"): "by Algorithm 2 of its paper the first gradient sets the second moment and moves nothing",
}
