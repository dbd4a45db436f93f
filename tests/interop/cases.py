"""Live runs: every class of torch.optim with its options, and schedulers of every kind."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn.utils import parametrizations
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from tests.interop.live import Case, Live, loop, start


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def weight_normed() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 2))


class Low(nn.Module):
    """A model of 16 bits in memory of another order than its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 2), nn.Flatten(), nn.Linear(8, 3)).to(torch.bfloat16)
        self.layers.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(torch.cat([x, x[:, :6]], 1).reshape(-1, 2, 2, 3).to(torch.bfloat16)).float()


class Wide(nn.Module):
    """A model of float64."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = plain().double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.double())


class Complex(nn.Module):
    """A model with a complex parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex64) @ self.weight).abs()


class Embedded(nn.Module):
    """Rows of a table that make sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.table((3 * x).long().abs().clamp(max=8))


def all_of(cls: Callable[..., Optimizer], **kwargs: Any) -> Callable[[nn.Module], Optimizer]:
    return lambda model: cls(model.parameters(), **kwargs)


def matrices_of(cls: Callable[..., Optimizer], **kwargs: Any) -> Callable[[nn.Module], Optimizer]:
    return lambda model: cls([leaf for leaf in model.parameters() if leaf.ndim == 2], **kwargs)


def two_groups(cls: Callable[..., Optimizer], **kwargs: Any) -> Callable[[nn.Module], Optimizer]:
    """The last parameters first, with settings of their own, and one that the optimizer does not hold."""

    def make(model: nn.Module) -> Optimizer:
        first, *middle, weight, bias = model.parameters()
        del first
        return cls([{"params": [bias, weight], "lr": 0.002, "weight_decay": 0.05}, {"params": middle}], **kwargs)

    return make


CLASSES: dict[str, Case] = {
    "ASGD": Case(all_of(optim.ASGD, lr=0.05, t0=30), normed),
    "Adadelta": Case(all_of(optim.Adadelta), normed),
    "Adafactor": Case(all_of(optim.Adafactor), normed),
    "Adagrad": Case(all_of(optim.Adagrad, lr=0.05, lr_decay=0.01, initial_accumulator_value=0.1), normed),
    "Adam": Case(all_of(optim.Adam, lr=0.01), normed),
    "AdamW": Case(all_of(optim.AdamW, lr=0.01), normed),
    "Adamax": Case(all_of(optim.Adamax, lr=0.01), normed),
    "LBFGS": Case(all_of(optim.LBFGS, lr=0.1, max_iter=2, history_size=6), plain, closure=True),
    "Muon": Case(matrices_of(optim.Muon, lr=0.01), normed),
    "NAdam": Case(all_of(optim.NAdam, lr=0.01), normed),
    "RAdam": Case(all_of(optim.RAdam, lr=0.01), normed),
    "RMSprop": Case(all_of(optim.RMSprop, lr=0.01), normed),
    "Rprop": Case(all_of(optim.Rprop, lr=0.001), normed),
    "SGD": Case(all_of(optim.SGD, lr=0.05), normed),
    "SparseAdam": Case(all_of(optim.SparseAdam, lr=0.01), Embedded),
}

OPTIONS: dict[str, Case] = {
    "Adagrad-foreach": Case(all_of(optim.Adagrad, lr=0.05, foreach=True, weight_decay=0.1), normed),
    "Adagrad-fused": Case(all_of(optim.Adagrad, lr=0.05, fused=True), normed),
    "Adagrad-sparse": Case(all_of(optim.Adagrad, lr=0.05), Embedded),
    "Adam-amsgrad": Case(all_of(optim.Adam, lr=0.01, amsgrad=True, weight_decay=0.1), normed),
    "Adam-foreach-maximize": Case(all_of(optim.Adam, lr=0.001, foreach=True, maximize=True), normed),
    "Adam-fused": Case(all_of(optim.Adam, lr=0.01, fused=True), normed),
    "Adam-tensor-lr": Case(lambda model: optim.Adam(model.parameters(), lr=torch.tensor(0.01)), normed),
    "Adam-complex": Case(all_of(optim.Adam, lr=0.01, amsgrad=True), Complex),
    "Adam-integer-lr": Case(all_of(optim.Adam, lr=1), plain),
    "AdamW-bfloat16": Case(all_of(optim.AdamW, lr=0.01), Low),
    "AdamW-fused-amsgrad": Case(all_of(optim.AdamW, lr=0.01, fused=True, amsgrad=True), normed),
    "AdamW-groups": Case(two_groups(optim.AdamW, lr=0.01), normed),
    "LBFGS-reversed": Case(
        lambda model: optim.LBFGS(list(model.parameters())[::-1], lr=0.2, max_iter=2), weight_normed, closure=True
    ),
    "LBFGS-wolfe": Case(all_of(optim.LBFGS, max_iter=2, line_search_fn="strong_wolfe"), plain, closure=True),
    "Muon-groups": Case(
        lambda model: optim.Muon([{"params": [model[3].weight], "lr": 0.1}, {"params": [model[0].weight]}]), normed
    ),
    "NAdam-decoupled": Case(all_of(optim.NAdam, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True), normed),
    "RMSprop-centered-momentum": Case(all_of(optim.RMSprop, lr=0.01, centered=True, momentum=0.9), normed),
    "RMSprop-groups": Case(two_groups(optim.RMSprop, lr=0.01, foreach=True), normed),
    "SGD-bfloat16-foreach": Case(all_of(optim.SGD, lr=0.05, momentum=0.9, foreach=True), Low),
    "SGD-float64": Case(all_of(optim.SGD, lr=0.05, momentum=0.9), Wide),
    "SGD-dampening": Case(all_of(optim.SGD, lr=0.05, momentum=0.9, dampening=0.3, weight_decay=0.1), normed),
    "SGD-fused": Case(all_of(optim.SGD, lr=0.05, momentum=0.9, fused=True), normed),
    "SGD-groups": Case(two_groups(optim.SGD, lr=0.05, momentum=0.9), normed),
    "SGD-names": Case(lambda model: optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9), normed),
    "SGD-nesterov": Case(all_of(optim.SGD, lr=0.05, momentum=0.9, nesterov=True), normed),
    "SGD-sparse": Case(all_of(optim.SGD, lr=0.05), Embedded),
}


class Halving:
    """A factor that remembers how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, epoch: int) -> float:
        self.asked += 1
        return 0.97**self.asked + 0.001 * epoch


class Zigzag(LRScheduler):
    """A scheduler of a user, with memory of its own in containers."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.memory = {"seen": [0.0, 0.0], "sign": 1}
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        self.memory["sign"] = -self.memory["sign"]
        self.memory["seen"] = [self.memory["seen"][1], self.optimizer.param_groups[0]["lr"]]
        return [lr * (1 + 0.1 * self.memory["sign"]) + 0.01 * self.memory["seen"][0] for lr in self.base_lrs]


def sequential(optimizer: Optimizer) -> LRScheduler:
    warmup = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=25)
    return lr_scheduler.SequentialLR(optimizer, [warmup, cosine, lr_scheduler.ExponentialLR(optimizer, 0.9)], [20, 60])


def chained(optimizer: Optimizer) -> LRScheduler:
    parts = [lr_scheduler.ConstantLR(optimizer, 0.1, total_iters=55), lr_scheduler.ExponentialLR(optimizer, 0.99)]
    return lr_scheduler.ChainedScheduler(parts, optimizer)


sgd = all_of(optim.SGD, lr=0.05, momentum=0.9)
adam = all_of(optim.Adam, lr=0.01)
groups = two_groups(optim.AdamW, lr=0.01)
Restarts = lr_scheduler.CosineAnnealingWarmRestarts

SCHEDULERS: dict[str, Case] = {
    "LambdaLR": Case(sgd, normed, lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch))),
    "LambdaLR-object": Case(sgd, normed, lambda o: lr_scheduler.LambdaLR(o, Halving())),
    "LambdaLR-groups": Case(groups, normed, lambda o: lr_scheduler.LambdaLR(o, [lambda e: 0.9**e, lambda e: 1])),
    "MultiplicativeLR": Case(sgd, normed, lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.98)),
    "StepLR": Case(sgd, normed, lambda o: lr_scheduler.StepLR(o, 7, 0.7)),
    "StepLR-epochs": Case(sgd, normed, lambda o: lr_scheduler.StepLR(o, 3, 0.7), every=5),
    "MultiStepLR": Case(sgd, normed, lambda o: lr_scheduler.MultiStepLR(o, [10, 52, 70], 0.5)),
    "ConstantLR": Case(sgd, normed, lambda o: lr_scheduler.ConstantLR(o, 0.5, 60)),
    "LinearLR": Case(sgd, normed, lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=70)),
    "ExponentialLR": Case(adam, normed, lambda o: lr_scheduler.ExponentialLR(o, 0.97)),
    "PolynomialLR": Case(adam, normed, lambda o: lr_scheduler.PolynomialLR(o, 90, 2.0)),
    "CosineAnnealingLR": Case(adam, normed, lambda o: lr_scheduler.CosineAnnealingLR(o, 40)),
    "CosineAnnealingLR-groups": Case(groups, normed, lambda o: lr_scheduler.CosineAnnealingLR(o, 100)),
    "CosineAnnealingWarmRestarts": Case(adam, normed, lambda o: Restarts(o, 11, 2)),
    "CyclicLR": Case(sgd, normed, lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 13, mode="triangular2")),
    "CyclicLR-range": Case(sgd, normed, lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 13, mode="exp_range", gamma=0.9)),
    "OneCycleLR-momentum": Case(sgd, normed, lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=101)),
    "OneCycleLR-betas": Case(adam, normed, lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=101)),
    "OneCycleLR-groups": Case(
        groups, normed, lambda o: lr_scheduler.OneCycleLR(o, [0.1, 0.02], total_steps=101, three_phase=True)
    ),
    "SequentialLR": Case(adam, normed, sequential),
    "ChainedScheduler": Case(adam, normed, chained),
    "SWALR": Case(sgd, normed, lambda o: optim.swa_utils.SWALR(o, swa_lr=0.001, anneal_epochs=70)),
    "StepLR-tensor-lr": Case(
        lambda model: optim.Adam(model.parameters(), lr=torch.tensor(0.01)), normed, lambda o: lr_scheduler.StepLR(o, 7)
    ),
    "Zigzag": Case(sgd, normed, Zigzag),
}

RUNS = {**CLASSES, **OPTIONS, **SCHEDULERS}


def after(name: str, steps: int) -> Live:
    """A run that has taken some steps."""
    live = start(RUNS[name])
    loop(RUNS[name], live, range(steps))
    return live
