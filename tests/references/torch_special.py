"""Adafactor, Muon, SparseAdam, LBFGS, and what they are made of."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import functional_train as ft
from functional_train.updates.transformation import columnwise, on_columns
from tests.references.core import adam_direction
from tests.references.rules import Leaves, Reference, Settings, of_leaf, of_torch

Factory = Callable[..., ft.GradientTransformation]


def on_dense(transformation: ft.GradientTransformation) -> ft.GradientTransformation:
    """A transformation of sparse gradients, given dense ones, every row of which is there."""

    written = on_columns(transformation)
    assert written is not None
    assert written.move is not None
    fn, move_fn = written.fn, written.move

    def update(g: ft.tree.Flat, state: Any, p: Any, **extra: Any) -> tuple[ft.tree.Flat, Any]:
        updates, state = fn(g.map(sparse), state, p, **extra)
        return updates.map(Tensor.to_dense), state

    def move(g: ft.tree.Flat, state: Any, p: Any, **extra: Any) -> Any:
        return move_fn(g.map(sparse), state, p, **extra)

    return ft.GradientTransformation(transformation.init, columnwise(update, move))


def sparse(leaf: Tensor) -> Tensor:
    """Rows of a leaf as a sparse tensor, those of zeros too."""
    if leaf.ndim == 0:
        index, values = torch.zeros(0, 1, dtype=torch.int64), leaf.reshape(1)
    else:
        index, values = torch.arange(leaf.shape[0])[None], leaf
    return torch.sparse_coo_tensor(index, values, leaf.shape, check_invariants=False)


def for_dense(factory: Factory) -> Factory:
    """A factory of transformations of dense gradients, with the name and arguments of one for sparse ones."""

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> ft.GradientTransformation:
        return on_dense(factory(*args, **kwargs))

    return make


def sparse_adam_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    t = memory["t"] = memory.get("t", 0) + 1
    m = memory["m"] = 0.9 * memory.get("m", torch.zeros_like(g)) + 0.1 * g
    v = memory["v"] = 0.999 * memory.get("v", torch.zeros_like(g)) + 0.001 * g**2
    return (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) * m / (v.sqrt() + 1e-8)


def sparse_adam(params: Leaves, grads: list[list[Tensor | None]]) -> list[Leaves]:
    own = [torch.nn.Parameter(leaf.clone()) for leaf in params]
    optimizer = torch.optim.SparseAdam(own)
    reached: list[Leaves] = []
    for row in grads:
        for parameter, grad in zip(own, row, strict=True):
            parameter.grad = None if grad is None else sparse(grad)
        optimizer.step()
        reached.append([parameter.detach().clone() for parameter in own])
    return reached


def factored_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    """Algorithm 4 of arXiv:1804.04235 with means for sums and torch's place for eps, and Algorithm 5 for vectors."""
    t = memory["t"] = memory.get("t", 0) + 1
    beta, eps = 1 - t**-0.8, torch.finfo(g.dtype).eps
    if g.ndim > 1 and g.numel() > 0:
        r = memory["r"] = beta * memory.get("r", 0) + (1 - beta) * (g**2).mean(-1)
        c = memory["c"] = beta * memory.get("c", 0) + (1 - beta) * (g**2).mean(-2)
        v = r[..., :, None] * c[..., None, :] / r.mean(-1)[..., None, None].clamp(min=eps)
    else:
        v = memory["v"] = beta * memory.get("v", 0) + (1 - beta) * g**2
    u = g / v.sqrt().clamp(min=eps)
    return u / max(1.0, float((u**2).mean()) ** 0.5) if g.numel() > 0 else u


def adafactor(params: Leaves, grads: list[list[Tensor | None]]) -> list[Leaves]:
    """torch's class, which divides by the number of elements: a leaf without any is another one without gradients."""
    stand_in = torch.ones(1, dtype=torch.float64)
    rows = [[None if leaf is not None and leaf.numel() == 0 else leaf for leaf in row] for row in grads]
    filled = [leaf if leaf.numel() > 0 else stand_in for leaf in params]
    reached = of_torch(torch.optim.Adafactor)(filled, rows)
    return [[new if old.numel() > 0 else old for old, new in zip(params, row, strict=True)] for row in reached]


def muon_direction(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    """torch's rule in float64; with its own bfloat16 it is compared in tests/updates/test_muon.py."""
    m = memory["m"] = 0.95 * memory.get("m", torch.zeros_like(g)) + 0.05 * g
    ahead = 0.05 * g + 0.95 * m
    if g.numel() == 0:
        return ahead
    x = ahead.reshape(g.shape[0] if g.ndim else 1, -1)
    rows, columns = x.shape
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        x = 3.4445 * x - 4.775 * (x @ x.T @ x) + 2.0315 * (x @ x.T @ x @ x.T @ x)
    return max(1, rows / columns) ** 0.5 * x.reshape(g.shape)


def muon_update(g: Tensor, p: Tensor, memory: dict[str, Any]) -> Tensor:
    if g.ndim == 2:
        return -1e-3 * (muon_direction(g, p, memory) + 0.1 * p)
    return -1e-3 * (adam_direction(g, p, memory) + 0.01 * p)


def on_quadratic(transformation: ft.GradientTransformation) -> ft.GradientTransformation:
    """A transformation told of a loss where nobody tells it: half a squared distance that has the gradients given."""
    written = on_columns(transformation)
    assert written is not None
    assert written.move is not None
    fn, move_fn = written.fn, written.move

    def told(g: ft.tree.Flat, p: Any, extra: dict[str, Any]) -> dict[str, Any]:
        target = ft.tree.sub(p, g).leaves

        def grad_and_value_fn(params: Any) -> tuple[Any, Tensor]:
            (q,) = g.beside(params)
            apart = q.map(lambda leaf, goal: leaf - goal, ft.tree.Flat(target, g.frame, g.plain))
            return apart.tree(), sum([(leaf**2).sum() for leaf in apart.leaves], torch.zeros(())) / 2

        value = sum([(leaf**2).sum() for leaf in g.leaves], torch.zeros(())) / 2
        return {"value": value, "grad_and_value_fn": grad_and_value_fn} | extra

    def update(g: ft.tree.Flat, state: Any, p: Any, **extra: Any) -> tuple[ft.tree.Flat, Any]:
        return fn(g, state, p, **told(g, p, extra))

    def move(g: ft.tree.Flat, state: Any, p: Any, **extra: Any) -> Any:
        return move_fn(g, state, p, **told(g, p, extra))

    return ft.GradientTransformation(transformation.init, columnwise(update, move))


@functools.wraps(ft.lbfgs)
def lbfgs_on_quadratic(*args: Any, **kwargs: Any) -> ft.GradientTransformation:
    return on_quadratic(ft.lbfgs(*args, **kwargs))


def lbfgs(params: Leaves, grads: list[list[Tensor | None]]) -> list[Leaves]:
    """The inverse Hessian as a matrix, on quadratics whose Hessian is 1, over the coordinates that have gradients."""
    x = torch.cat([leaf.reshape(-1) for leaf in params])
    pairs: list[tuple[Tensor, Tensor]] = []
    d, t, before, scale, count = torch.zeros_like(x), 0.0, torch.zeros_like(x), 1.0, 0
    reached: list[Leaves] = []
    for row in grads:
        both = list(zip(params, row, strict=True))
        here = torch.cat([torch.full((leaf.numel(),), grad is not None) for leaf, grad in both])
        g = torch.cat([torch.zeros(leaf.numel()) if grad is None else grad.reshape(-1) for leaf, grad in both]).double()
        target = x - g
        for _ in range(4):
            if not here.any() or g.abs().max() <= 1e-7:
                break
            count += 1
            y, s = torch.where(here, g - before, 0), t * d
            if count > 1 and y @ s > 1e-10:
                pairs, scale = [*pairs, (y, s)], float(y @ s / (y @ y))
            eye = torch.eye(len(x), dtype=torch.float64)
            H = scale * eye
            for y, s in pairs:
                side = eye - torch.outer(y, s) / (y @ s)
                H = side.T @ H @ side + torch.outer(s, s) / (y @ s)
            d, before, loss = torch.where(here, -H @ g, 0), torch.where(here, g, before), (g @ g) / 2
            t = min(1.0, 1.0 / float(g.abs().sum())) if count == 1 else 1.0
            if g @ d > -1e-9:
                break
            x = x + t * d
            g = torch.where(here, x - target, 0)
            if (t * d).abs().max() <= 1e-9 or abs((g @ g) / 2 - loss) < 1e-9:
                break
        pieces = x.split([leaf.numel() for leaf in params])
        reached.append([piece.reshape(leaf.shape) for piece, leaf in zip(pieces, params, strict=True)])
    return reached


REFERENCES: dict[str, Reference] = {
    "lbfgs": lbfgs,
    "muon": of_leaf(muon_update),
    "scale_by_muon": of_leaf(muon_direction),
    "adafactor": adafactor,
    "scale_by_factored_rms": of_leaf(factored_direction),
    "scale_by_sparse_adam": of_leaf(sparse_adam_direction),
    "sparse_adam": sparse_adam,
}


def in_range(factory: Factory) -> Factory:
    """A factory of Adafactor's whose exponent and limit are given as numbers between 0 and 1."""
    moves: dict[str, Callable[[Any], Any]] = {"beta2_decay": lambda value: -value, "d": lambda value: 1 + value}

    def moved(move: Callable[[Any], Any], value: Any) -> Any:
        return (lambda step: move(value(step))) if callable(value) else move(value)

    @functools.wraps(factory)
    def make(**kwargs: Any) -> ft.GradientTransformation:
        return factory(**{name: moved(moves.get(name, lambda one: one), value) for name, value in kwargs.items()})

    return make


# In float64, where three steps of the iteration amplify rounding a hundredfold only.
MUON = {"momentum": 0.8, "ns_coefficients": (0.5, 0.4, 0.3), "eps": 1e-3, "ns_steps": 3, "ns_dtype": torch.float64}
ADAM = {"adam_lr": 0.1, "adam_betas": (0.8, 0.9), "adam_eps": 1e-3, "adam_weight_decay": 0.05}

LBFGS = {"lr": 0.1, "tolerance_grad": 0.1, "tolerance_change": 0.1, "max_iter": 4, "history_size": 3}

HYPERPARAMETERS: dict[str, Settings] = {
    "lbfgs": (lbfgs_on_quadratic, LBFGS),
    "muon": (ft.muon, {"lr": 0.1, "weight_decay": 0.05, **MUON, **ADAM}),
    "scale_by_muon": (ft.scale_by_muon, MUON),
    "adafactor": (
        in_range(ft.adafactor),
        {"lr": 0.1, "beta2_decay": 0.5, "eps": (0.1, 0.2), "d": 0.1, "weight_decay": 0.05, "beta1": 0.8},
    ),
    "scale_by_factored_rms": (in_range(ft.scale_by_factored_rms), {"beta2_decay": 0.5, "eps": 0.1, "d": 0.1}),
    "sparse_adam": (for_dense(ft.sparse_adam), {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3}),
    "scale_by_sparse_adam": (for_dense(ft.scale_by_sparse_adam), {"betas": (0.8, 0.9), "eps": 1e-3}),
}

# What stands for a factory before laws that it keeps in this form only: told of a loss, given sparse gradients, or
# without bfloat16, through which no derivative can be checked, and in which vmap rounds otherwise.
# tests/updates/test_muon.py puts Muon as it is before all other laws. Twenty iterations take long to trace.
STAND_INS: dict[str, Factory] = {
    "lbfgs": functools.partial(lbfgs_on_quadratic, max_iter=4),
    "muon": functools.partial(ft.muon, ns_dtype=None),
    "scale_by_muon": functools.partial(ft.scale_by_muon, ns_dtype=None),
    "scale_by_sparse_adam": for_dense(ft.scale_by_sparse_adam),
    "sparse_adam": for_dense(ft.sparse_adam),
}

_SPARSE = ("scale_by_sparse_adam", "sparse_adam")
EXEMPT: dict[tuple[str, str], str] = {
    **{(name, "vmap_equals_loop"): "torch has no batching rule for sparse tensors" for name in _SPARSE},
    **{(name, "traces_as_one_graph"): "torch.compile's tracer makes no sparse tensors" for name in _SPARSE},
}
