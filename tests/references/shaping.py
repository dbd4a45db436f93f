"""Transformations that clip and shape gradients, or watch parameters."""

from typing import Any

import torch
from torch import Tensor

import functional_train as ft
from tests.references.rules import Leaves, Reference, Settings, of_leaf, of_rule


def size(leaf: Tensor) -> Tensor:
    return leaf.square().sum().sqrt()


def rms(leaf: Tensor) -> Tensor:
    return leaf.square().mean().sqrt() if leaf.numel() else torch.zeros((), dtype=leaf.dtype)


def unit_sizes(leaf: Tensor) -> Tensor:
    """The norm of each unit, in the place of each of its numbers."""
    if leaf.ndim < 2:
        return torch.ones_like(leaf) * size(leaf)
    rows = [torch.ones_like(row) * size(row) for row in leaf]
    return torch.stack(rows) if rows else leaf


def adaptive(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    bound = 0.01 * unit_sizes(p).clamp(min=1e-3)
    own = unit_sizes(g)
    return torch.where(own > bound, g * bound / own.clamp(min=1e-6), g)


def centered(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    if g.ndim < 2 or g.numel() == 0:
        return g
    return torch.stack([row - row.sum() / row.numel() for row in g])


def average(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    t = memory["t"] = memory.get("t", 0) + 1
    m = memory["m"] = 0.9 * memory.get("m", torch.zeros_like(g)) + 0.1 * g
    return m / (1 - 0.9**t)


def of_length_one(grads: Leaves, params: Leaves, memories: list[dict[str, Any]]) -> Leaves:
    norm = sum(float(size(g)) ** 2 for g in grads) ** 0.5
    return [g / (norm + 1e-6) for g in grads]


def noisy(params: Leaves, grads: list[list[Tensor | None]]) -> list[Leaves]:
    """Noise from the key that the tests pass to each update, split over the leaves."""
    keys = ft.random.split(ft.random.key(0), max(1, len(params)))
    counts, reached = [0 for _ in params], [list(params)]
    for row in grads:
        new = list(reached[-1])
        for place, g in enumerate(row):
            if g is not None:
                deviation = (0.01 / (1 + counts[place]) ** 0.55) ** 0.5
                new[place] = new[place] + (g + deviation * ft.random.normal(keys[place], g.shape, dtype=g.dtype))
                counts[place] += 1
        reached.append(new)
    return reached[1:]


REFERENCES: dict[str, Reference] = {
    "adaptive_grad_clip": of_leaf(adaptive),
    "add_noise": noisy,
    "centralize": of_leaf(centered),
    "clip_by_block_rms": of_leaf(lambda g, p, memory: g / max(1.0, float(rms(g)))),
    "clip_by_leaf_norm": of_leaf(lambda g, p, memory: g * min(1.0, 1.0 / (float(size(g)) + 1e-6))),
    "clip_by_value": of_leaf(lambda g, p, memory: g.clamp(-1.0, 1.0)),
    "ema": of_leaf(average),
    "ema_params": of_leaf(lambda g, p, memory: g),
    "keep_params_nonnegative": of_leaf(lambda g, p, memory: torch.where(p + g < 0, -p, g)),
    "normalize_by_global_norm": of_rule(of_length_one),
    "scale": of_leaf(lambda g, p, memory: g),
    "scale_by_param_norm": of_leaf(lambda g, p, memory: g * max(float(size(p)), 1e-3)),
    "scale_by_param_rms": of_leaf(lambda g, p, memory: g * max(float(rms(p)), 1e-3)),
    "set_to_zero": of_leaf(lambda g, p, memory: torch.zeros_like(g)),
    "swa_params": of_leaf(lambda g, p, memory: g),
    "zero_nans": of_leaf(lambda g, p, memory: g),
}

HYPERPARAMETERS: dict[str, Settings] = {
    "add_noise": (ft.add_noise, {"eta": 0.5, "gamma": 0.5}),
    "adaptive_grad_clip": (ft.adaptive_grad_clip, {"clipping": 0.5, "eps": 0.8}),
    "clip_by_block_rms": (ft.clip_by_block_rms, {"max_rms": 0.5}),
    "clip_by_leaf_norm": (ft.clip_by_leaf_norm, {"max_norm": 0.5}),
    "clip_by_value": (ft.clip_by_value, {"clip_value": 0.5}),
    "ema": (ft.ema, {"decay": 0.5}),
    "ema_params": (ft.ema_params, {"decay": 0.5}),
    "normalize_by_global_norm": (ft.normalize_by_global_norm, {"eps": 0.5}),
    "scale": (ft.scale, {"factor": 0.5}),
    "scale_by_param_norm": (ft.scale_by_param_norm, {"min_norm": 0.5}),
    "scale_by_param_rms": (ft.scale_by_param_rms, {"min_rms": 0.5}),
}

EXEMPT: dict[tuple[str, str], str] = {
    ("add_noise", "ignores_names_and_order"): "each leaf has the noise of its place",
}
