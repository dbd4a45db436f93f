"""Every class of torch.optim with every set of options that its own tests try, beside the function of ours."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.testing._internal.common_optimizers import OptimizerInfo, optim_db

import functional_train as ft
from tests.references.rules import default_dtype
from tests.trees import SHAPES, normal

IMPLEMENTATION = {"foreach", "fused", "capturable", "differentiable"}

# Classes that are no rule for one leaf and its gradient; tests of their own hold what equals them.
ELSEWHERE = {"Adafactor", "LBFGS", "Muon", "SparseAdam"}

# Of a learning rate in float32 some for-loops of torch make all numbers in float32.
WIDE = partial(torch.tensor, dtype=torch.float64)
MORE_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {"lr": 0.01, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1},
        {"lr": torch.tensor(0.01), "momentum": 0.8, "nesterov": True},
    ],
    "Adam": [
        {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True, "maximize": True},
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
        {"betas": (0.0, 0.0), "eps": 1e-3},
    ],
    "AdamW": [{"lr": 0.01, "weight_decay": 0.2, "amsgrad": True, "maximize": True}],
    "NAdam": [
        {"lr": WIDE(0.01), "betas": (0.5, 0.9), "eps": 1e-3, "momentum_decay": 0.5},
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ],
    "RAdam": [
        {"lr": WIDE(0.01), "betas": (0.5, 0.9), "eps": 1e-3},
        {"betas": (0.9, 0.5)},  # so short a memory that the second moment is never known well enough
        {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
    ],
    "Adamax": [{"lr": WIDE(0.01), "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1, "maximize": True}],
    "Adadelta": [{"rho": 0.0, "eps": 1e-3}, {"rho": 1.0}, {"lr": WIDE(0.5), "maximize": True}],
    "Adagrad": [
        {"initial_accumulator_value": 0.5, "lr_decay": 0.1, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}
    ],
    "RMSprop": [
        {"momentum": 0.9, "alpha": 0.5, "eps": 1e-3},
        {"lr": WIDE(0.01), "centered": True, "maximize": True},
        {"alpha": 1.0},
    ],
    "Rprop": [{"lr": 0.1, "etas": (0.3, 1.7), "step_sizes": (0.05, 0.2), "maximize": True}],
    "ASGD": [
        {"lr": 0.1, "lambd": 0.3, "alpha": 0.5, "t0": 4},
        {"lr": WIDE(0.01), "t0": 0.0, "weight_decay": 0.1, "maximize": True},
    ],
}


class Options(NamedTuple):
    """A class of torch.optim, the function of ours that equals it, and keywords of both."""

    info: OptimizerInfo
    cls: Callable[..., torch.optim.Optimizer]
    factory: Callable[..., ft.GradientTransformation]
    kwargs: dict[str, Any]


def discovered(infos: list[OptimizerInfo], elsewhere: set[str]) -> dict[str, Options]:
    """All option sets by name. A class without a function of ours is an error, and so is a stale exception."""
    found: dict[str, Options] = {}
    classes = [cast("type[torch.optim.Optimizer]", info.optim_cls) for info in infos]
    spare = elsewhere - {cls.__name__ for cls in classes}
    if spare:
        raise LookupError(f"torch.optim has no {sorted(spare)}: take them out of ELSEWHERE")
    for info, cls in zip(infos, classes, strict=True):
        name = cls.__name__
        if name in elsewhere:
            continue
        factory = getattr(ft, name.lower(), None)
        if factory is None:
            raise LookupError(f"torch.optim.{name} has no function here: write ft.{name.lower()}")
        for options in info.optim_inputs_func("cpu"):
            kwargs = {key: value for key, value in options.kwargs.items() if key not in IMPLEMENTATION}
            found[f"{name}-{options.desc}"] = Options(info, cls, factory, kwargs)
        for place, kwargs in enumerate(MORE_OPTIONS[name]):
            found[f"{name}-more {place}"] = Options(info, cls, factory, kwargs)
    return found


OPTION_SETS = discovered(optim_db, ELSEWHERE)
CLASSES = {name.partition("-")[0]: one for name, one in OPTION_SETS.items()}
# A set of options of each class that uses most of its parts, for tests that cannot afford all.
THIN = {name: [key for key in OPTION_SETS if key.startswith(f"{name}-")][-1] for name in CLASSES}


def gradient(seed: int, place: int, step: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """None, zeros, huge, tiny or ordinary, by the bits of a seed."""
    mixed = (seed * 7919 + place * 104729 + step * 1299709) % 2**31
    kind = mixed % 8
    if kind == 0:
        return None
    return {1: 0.0, 2: 1e6, 3: 1e-10}.get(kind, 1.0) * normal(mixed, shape, dtype)


def gradients(seed: int, step: int, params: list[Tensor]) -> list[Tensor | None]:
    return [gradient(seed, place, step, tuple(leaf.shape), leaf.dtype) for place, leaf in enumerate(params)]


class Torchs:
    """An optimizer of torch over parameters of its own, which are detached to be looked at."""

    def __init__(self, options: Options, params: list[Tensor], implementation: Mapping[str, bool]) -> None:
        self.params = [torch.nn.Parameter(leaf.clone(memory_format=torch.contiguous_format)) for leaf in params]
        self.wide = any(leaf.dtype in {torch.float64, torch.complex128} for leaf in params)
        self.optimizer = options.cls(self.params, **options.kwargs, **implementation)

    def step(self, grads: Sequence[Tensor | None]) -> list[Tensor]:
        for parameter, grad in zip(self.params, grads, strict=True):
            parameter.grad = None if grad is None else grad.clone()
        with default_dtype(torch.float64 if self.wide else torch.float32):
            self.optimizer.step()
        return [parameter.detach() for parameter in self.params]

    def part(self, name: str) -> list[Any]:
        """What the state holds of each parameter under a name; None before its first gradient."""
        return [self.optimizer.state[parameter].get(name) for parameter in self.params]


class Step(NamedTuple):
    """Where both are after a step; leaves in order."""

    params: list[Tensor]
    state: Any
    expected: list[Tensor]
    torchs: Torchs


FOR_LOOP: Mapping[str, bool] = MappingProxyType({"foreach": False})


def trajectories(
    name: str,
    seed: int,
    dtype: torch.dtype,
    num_steps: int = 30,
    implementation: Mapping[str, bool] = FOR_LOOP,
) -> Iterator[Step]:
    """Both optimizers from the same start, through the same gradients.

    The fused kernels fail where only some leaves have had a gradient, so there all have one at the first step.
    """
    options = OPTION_SETS[name]
    params = [normal(seed + place, shape, dtype) for place, shape in enumerate(SHAPES)]
    torchs = Torchs(options, params, implementation)
    optimizer = options.factory(**options.kwargs)
    update_fn, state = ft.make_update(optimizer), optimizer.init(params)
    for step in range(num_steps):
        grads = gradients(seed, step, params)
        if step == 0 and "fused" in implementation:
            grads = [torch.ones_like(leaf) if grad is None else grad for leaf, grad in zip(params, grads, strict=True)]
        expected = torchs.step(grads)
        params, state = update_fn(grads, state, params)
        yield Step(params, state, expected, torchs)
