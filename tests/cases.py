"""Every transformation and schedule that the library promises, what each must equal, and the laws it need not keep."""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import functional_train as ft
from functional_train.testing import LAWS

Leaves = list[Tensor]
Factory = Callable[..., Any]
# The parameters, and at each step the gradients in which None may stand for one; the parameters after each step.
Reference = Callable[[Leaves, list[list[Tensor | None]]], list[Leaves]]


def _factories() -> dict[str, Factory]:
    public = {name: getattr(ft, name) for name in ft.__all__}
    return {
        name: value
        for name, value in public.items()
        if inspect.isfunction(value) and inspect.signature(value).return_annotation is ft.GradientTransformation
    }


def _required(factory: Factory) -> list[inspect.Parameter]:
    return [each for each in inspect.signature(factory).parameters.values() if each.default is each.empty]


def _is_optimizer(factory: Factory) -> bool:
    return ".optimizers." in factory.__module__ and "lr" in inspect.signature(factory).parameters


def _wraps(factory: Factory) -> bool:
    needed = _required(factory)
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return len(needed) == 1 and needed[0].annotation is ft.GradientTransformation and needed[0].kind is named


OPTIMIZERS = {name: made for name, made in _factories().items() if not _required(made) and _is_optimizer(made)}
TRANSFORMS = {name: made for name, made in _factories().items() if not _required(made) and name not in OPTIMIZERS}
# From one transformation to another; tested around two.
WRAPPERS = {
    f"{name}({inner})": partial(wrap, OPTIMIZERS[inner]())
    for name, wrap in _factories().items()
    for inner in ("sgd", "adam")
    if _wraps(wrap)
}
SCHEDULES = {name: getattr(ft.schedules, name) for name in ft.schedules.__all__}


def of_torch(cls: type[torch.optim.Optimizer]) -> Reference:
    """A class of torch.optim with its defaults."""

    def reference(params: Leaves, grads: list[list[Tensor | None]]) -> list[Leaves]:
        own = [torch.nn.Parameter(leaf.clone()) for leaf in params]
        optimizer = cls(own, foreach=False)  # type: ignore[call-arg]
        reached: list[Leaves] = []
        for row in grads:
            for parameter, grad in zip(own, row, strict=True):
                parameter.grad = None if grad is None else grad.clone()
            optimizer.step()
            reached.append([parameter.detach().clone() for parameter in own])
        return reached

    return reference


def of_rule(rule: Callable[[Leaves, Leaves, list[dict[str, Any]]], Leaves]) -> Reference:
    """A literal rule `(grads, params, memories) -> updates` for the leaves that have a gradient."""

    def reference(params: Leaves, grads: list[list[Tensor | None]]) -> list[Leaves]:
        memories: list[dict[str, Any]] = [{} for _ in params]
        reached = [list(params)]
        for row in grads:
            there = [place for place, grad in enumerate(row) if grad is not None]
            new = list(reached[-1])
            chosen = ([grad for grad in row if grad is not None], [new[i] for i in there], [memories[i] for i in there])
            for place, update in zip(there, rule(*chosen), strict=True):
                new[place] = new[place] + update
            reached.append(new)
        return reached[1:]

    return reference


def of_leaf(rule: Callable[[Tensor, Tensor, dict[str, Any]], Tensor]) -> Reference:
    """A literal rule for one leaf."""
    return of_rule(lambda grads, params, memories: [rule(*row) for row in zip(grads, params, memories, strict=True)])


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
    "reduce_on_plateau": of_leaf(lambda g, p, memory: g),  # as long as it is patient; tests/updates/test_plateau.py
    "scale_by_adam": of_leaf(adam_direction),
    "scale_by_lr": of_leaf(lambda g, p, memory: -0.001 * g),
    "sgd": of_torch(torch.optim.SGD),
}

# Phases of at least two steps, so that neighbors can show a jump.
SCHEDULE_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "add": (0.1, ft.schedules.cosine(1.0, 40)),
    "clip": (ft.schedules.cosine(1.0, 40), 0.2, 0.8),
    "constant": (0.1,),
    "cosine": (1.0, 40),
    "cosine_annealing": (1.0, 20),
    "cyclic": (0.1, 1.0, 8, 12, "triangular2"),
    "exponential": (1.0, 0.9, 5),
    "inverse_sqrt": (1.0, 8),
    "join": ((ft.schedules.linear(0.0, 1.0, 8), ft.schedules.cosine(1.0, 20), 0.0), (8, 28)),
    "linear": (1.0, 0.1, 30),
    "mul": (0.1, ft.schedules.cosine(1.0, 40), ft.schedules.linear(0.1, 1.0, 8)),
    "multiplicative": (1.0, ft.schedules.linear(1.0, 0.9, 20), 40),
    "one_cycle": (1.0, 40),
    "piecewise_constant": (1.0, (4, 30)),
    "piecewise_interpolate": (1.0, (10, 30), (2.0, 0.1), "cosine"),
    "polynomial": (1.0, 0.1, 30, 2.0),
    "repeat": (ft.schedules.cosine(1.0, 8), 8),
    "rex": (1.0, 40),
    "shift": (ft.schedules.linear(1.0, 0.1, 30), 5),
    "warm_restarts": (1.0, 4, 2),
    "warmup": (ft.schedules.exponential(1.0, 0.9), 8),
    "warmup_cosine": (1.0, 8, 40),
    "warmup_stable_decay": (1.0, 8, 10, 40),
}

_HALF = (
    "without torch's kernel, float16 rounds eps=1e-8 to 0, so a gradient of zero gives 0/0; so does torch's for-loop"
)
_JUMPS = "the jumps are what it is for"
# A law that a case need not keep, and why. An exemption that is no longer needed fails.
EXEMPT: dict[tuple[str, str], str] = {
    ("adam", "takes_any_tree"): _HALF,
    ("adamw", "takes_any_tree"): _HALF,
    ("piecewise_constant", "has_no_jumps"): _JUMPS,
    ("repeat", "has_no_jumps"): _JUMPS,
    ("scale_by_adam", "takes_any_tree"): _HALF,
    ("warm_restarts", "has_no_jumps"): _JUMPS,
}


def with_laws(kind: str, cases: Iterable[str]) -> list[Any]:
    """Each case with each law of its kind, as parameters of a test; an exempted one must fail."""
    return [
        pytest.param(case, law, id=f"{case}-{law.__name__}", marks=_marks(case, law.__name__))
        for case in cases
        for law in LAWS[kind]
    ]


def _marks(case: str, law: str) -> list[pytest.MarkDecorator]:
    if (case, law) not in EXEMPT:
        return []
    reason = f"{case} need not keep {law}: {EXEMPT[case, law]}"
    return [pytest.mark.xfail(raises=AssertionError, strict=True, reason=reason)]


def check_tables() -> None:
    """Every case has its row in every table, and no table has a row too many."""
    laws = {law.__name__ for kind in LAWS.values() for law in kind}
    exempt = {name for name, _ in EXEMPT}
    for table, rows, expected in (
        ("REFERENCES", set(REFERENCES), {*OPTIMIZERS, *TRANSFORMS}),
        ("SCHEDULE_ARGUMENTS", set(SCHEDULE_ARGUMENTS), set(SCHEDULES)),
        ("EXEMPT", exempt, exempt & {*OPTIMIZERS, *TRANSFORMS, *WRAPPERS, *SCHEDULES}),
        ("EXEMPT", {law for _, law in EXEMPT}, {law for _, law in EXEMPT} & laws),
    ):
        missing, spare = sorted(expected - rows), sorted(rows - expected)
        if missing or spare:
            raise LookupError(f"tests/cases.py, {table}: no row for {missing}, and rows for nothing: {spare}")


check_tables()
