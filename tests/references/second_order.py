"""Methods that precondition by matrices or by curvature."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import functional_train as ft
from tests.references.rules import Reference, Settings, of_leaf


def soap_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    """Vyas et al. 2024, Algorithm 3, with the bases of the first gradient, for three updates."""
    t = memory["t"] = memory.get("t", 0) + 1
    rotates = g.ndim >= 2 and g.numel() > 0
    if t == 1:
        bases = []
        for dim in range(g.ndim if rotates else 0):
            rows = g.transpose(0, dim).flatten(1)
            bases.append(torch.linalg.eigh(0.05 * rows @ rows.T)[1].flip(1))
        memory.update(m=torch.zeros_like(g), v=torch.zeros_like(g), bases=bases)
        return torch.zeros_like(g)

    def rotated(x: Tensor, back: bool = False) -> Tensor:
        for basis in memory["bases"]:
            x = torch.einsum("k...,kj->...j", x, basis.T if back else basis)
        return x

    turned = rotated(g)
    if rotates:
        turned = torch.where(turned.abs() <= 32 * 2.0**-52 * turned.norm(), 0.0, turned)
    m = memory["m"] = 0.95 * memory["m"] + 0.05 * g
    v = memory["v"] = 0.95 * memory["v"] + 0.05 * turned**2
    ratio = torch.where(v == 0, 0.0, rotated(m) / (v.sqrt() + 1e-8))
    return (1 - 0.95 ** (t - 1)) ** 0.5 / (1 - 0.95 ** (t - 1)) * rotated(ratio, back=True)


def has_one_eigenbasis(g: Tensor) -> bool:
    """Whether what is rounded far from the last digit decides nothing in SOAP's basis of this gradient.

    An eigenvector is known up to rounding over the gap to the next eigenvalue, and those are squares of the gradient's
    singular values. Across a narrow gap, numbers that belong at 0 come out above the noise that both ways cut off, and
    the root of the second moment then makes steps of them: two ways of rounding, two results.
    """
    if g.ndim < 2 or not g.any():
        return True
    turned = g
    for dim in range(g.ndim):
        bases, sizes, _ = torch.linalg.svd(g.transpose(0, dim).flatten(1))
        there = sizes[sizes > 1e-12 * sizes[0]] / sizes[0]
        if there[-1] < 1 / 16 or bool((there.diff().abs() < 1 / 64).any()):
            return False
        turned = torch.einsum("k...,kj->...j", turned, bases)
    parts = turned.abs() / turned.norm()
    return bool(((parts < 16 * 2.0**-52) | (parts > 1 / 64)).all())


def shampoo_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    """Gupta et al. 2018, Algorithm 2."""
    if g.numel() == 0:
        return g
    x = g.reshape(1) if g.ndim == 0 else g
    made = x
    for dim in range(x.ndim):
        rows = x.movedim(dim, 0).reshape(x.shape[dim], -1)
        matrix = memory.get(f"{dim}", 1e-6 * torch.eye(x.shape[dim], dtype=x.dtype)) + rows @ rows.T
        memory[f"{dim}"] = matrix
        values, vectors = torch.linalg.eigh(matrix)
        root = (vectors * values.clamp(min=max(1e-6, 2.0**-52 * float(values[-1]))) ** (-0.5 / x.ndim)) @ vectors.T
        made = (made.movedim(dim, -1) @ root).movedim(-1, dim)
    return made.reshape(g.shape)


def sophia_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    """Liu et al. 2023, Algorithm 3, where the gradient never changes: the curvature is zero."""
    m = memory["m"] = 0.96 * memory.get("m", torch.zeros_like(g)) + 0.04 * g
    return (m / 1e-12).clamp(-1, 1)


def adahessian_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    """Yao et al. 2020, Algorithm 1, where the gradient never changes: the curvature is zero."""
    t = memory["t"] = memory.get("t", 0) + 1
    m = memory["m"] = 0.9 * memory.get("m", torch.zeros_like(g)) + 0.1 * g
    return m / (1 - 0.9**t) / 1e-4


def psgd_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    """Li 2022: the gradient on the group of triangular factors, its second term the mean over v, by a whole Q."""
    if g.numel() == 0:
        return g
    x = g.reshape(1) if g.ndim == 0 else g
    factors = memory.get("factors", [torch.eye(size, dtype=x.dtype) for size in x.shape])
    whole = factors[0]
    for factor in factors[1:]:
        whole = torch.kron(whole, factor)
    a, inverse = (whole @ x.flatten()).reshape(x.shape), torch.linalg.inv(whole)
    b = (inverse.T @ inverse).reshape(*x.shape, *x.shape)
    made: list[Tensor] = []
    for dim, factor in enumerate(factors):
        rows = a.movedim(dim, 0).reshape(x.shape[dim], -1)
        first, second = rows @ rows.T, b.movedim((dim, x.ndim + dim), (0, 1))
        while second.ndim > 2:
            second = second.diagonal(dim1=2, dim2=2 + (second.ndim - 2) // 2).sum(-1)
        made.append(factor - 0.1 / (first + second).norm() * (first - second).triu() @ factor)
    memory["factors"] = made
    whole = made[0]
    for factor in made[1:]:
        whole = torch.kron(whole, factor)
    return (whole.T @ whole @ x.flatten()).reshape(g.shape)


def psgd_update(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    mean = memory["mean"] = 0.9 * memory["mean"] + 0.1 * g if "mean" in memory else g
    return -1e-3 * psgd_direction(mean, p, memory)


REFERENCES: dict[str, Reference] = {
    "adahessian": of_leaf(lambda g, p, memory: -0.1 * adahessian_direction(g, p, memory)),
    "scale_by_adahessian": of_leaf(adahessian_direction),
    "scale_by_sophia": of_leaf(sophia_direction),
    "sophia": of_leaf(lambda g, p, memory: -1e-3 * (sophia_direction(g, p, memory) + 0.1 * p)),
    "psgd": of_leaf(psgd_update),
    "scale_by_psgd": of_leaf(psgd_direction),
    "scale_by_shampoo": of_leaf(shampoo_direction),
    "scale_by_soap": of_leaf(soap_direction),
    "shampoo": of_leaf(lambda g, p, memory: -1e-3 * shampoo_direction(g, p, memory)),
    "soap": of_leaf(lambda g, p, memory: -3e-3 * (soap_direction(g, p, memory) + 0.01 * p)),
}

HYPERPARAMETERS: dict[str, Settings] = {
    "psgd": (
        ft.psgd,
        {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.05, "precond_lr": 0.2, "precond_init_scale": 0.5},
    ),
    "scale_by_psgd": (ft.scale_by_psgd, {"precond_lr": 0.2, "precond_init_scale": 0.5}),
    "adahessian": (
        ft.adahessian,
        {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-2, "weight_decay": 0.05, "hessian_power": 0.7},
    ),
    "scale_by_adahessian": (ft.scale_by_adahessian, {"betas": (0.8, 0.9), "eps": 1e-2, "hessian_power": 0.7}),
    "sophia": (
        ft.sophia,
        {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-2, "weight_decay": 0.05, "gamma": 5.0, "clip_threshold": 0.6,
         "update_interval": 2},
    ),
    "scale_by_sophia": (
        ft.scale_by_sophia,
        {"betas": (0.8, 0.9), "eps": 1e-2, "gamma": 5.0, "clip_threshold": 0.6},
    ),
    "shampoo": (ft.shampoo, {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.05, "matrix_eps": 1e-2}),
    "scale_by_shampoo": (ft.scale_by_shampoo, {"matrix_eps": 1e-2}),
    "soap": (
        ft.soap,
        {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.05, "shampoo_beta": 0.7,
         "precondition_frequency": 1},
    ),
    "scale_by_soap": (ft.scale_by_soap, {"betas": (0.8, 0.9), "eps": 1e-3}),
}  # fmt: skip

EXEMPT = {
    **{
        (name, "is_differentiable"): "eigenvectors jump where eigenvalues meet, so bases are held constant"
        for name in ("soap", "scale_by_soap")
    },
    (
        "galore(adam)",
        "is_differentiable",
    ): "singular vectors jump where singular values meet; constant",
    ("soap", "descends"): "the first gradient of a leaf makes its bases and moves nothing, as in the authors' code",
}

DRAWS = {"adahessian", "sophia"}

WELL_POSED: dict[str, Callable[[Tensor], bool]] = dict.fromkeys(("soap", "scale_by_soap"), has_one_eigenbasis)
