"""Optimizer classes with the habits of other libraries, and with habits that no value can have."""

import math
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Closure = Callable[[], Any]


class Counting(torch.optim.Optimizer):
    """Python numbers, None, strings and containers in the state of a parameter, made at the first step."""

    def __init__(self, params: Any, lr: float = 0.1, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state, (beta1, beta2) = self.state[p], group["betas"]
                if not state:
                    state.update(steps=0, product=1.0, kind="first", compensation=None, flips=True, phase=1j)
                    # What starts from the gradient shows whether a first step is one.
                    state["buffers"] = {0.5: p.grad.clone(), 0.9: [p.grad.abs(), (p.grad.sign(), 3)]}
                    state["window"], state["norms"], state["open"] = deque(maxlen=4), [], {}
                state["steps"] += 1
                state["product"] *= beta1
                state["flips"] = not state["flips"]
                state["phase"] *= 1j
                state["window"].append(p.grad.clone())
                state["norms"].append(p.grad.norm().item())
                if state["steps"] == 2:
                    state["compensation"] = torch.zeros_like(p)
                half, (size, (sign, three)) = state["buffers"][0.5], state["buffers"][0.9]
                half.lerp_(p.grad, 1 - beta1)
                size.lerp_(p.grad.abs(), 1 - beta2)
                step = half / (1 - state["product"]) + 0.1 * sign * three + sum(state["window"]) * state["phase"].real
                if state["flips"] and state["compensation"] is not None:
                    state["compensation"].add_(step, alpha=0.01 * sum(state["norms"]) / state["steps"])
                    step = step + state["compensation"]
                p.add_(step, alpha=-group["lr"] * math.sqrt(1 - beta2 ** state["steps"]))


class Estimating(torch.optim.Optimizer):
    """State in the group, some of it written only now and then, a number that becomes a tensor; needs `train()`."""

    def __init__(self, params: Any, lr: float = 1.0, d0: float = 1e-2) -> None:
        super().__init__(params, {"lr": lr, "d": d0, "k": 0, "train_mode": False, "weight_sum": 0.0})

    def train(self) -> None:
        for group in self.param_groups:
            group["train_mode"] = True

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        for group in self.param_groups:
            if not group["train_mode"]:
                raise Exception("not in train mode")
            group.setdefault("numerator", torch.zeros(1))
            k, d = group["k"], group["d"]
            present = [p for p in group["params"] if p.grad is not None]
            for p in present:
                state = self.state[p]
                if "x0" not in state:
                    state["x0"] = p.detach().clone()
                group["numerator"] += (p.grad * (state["x0"] - p)).sum()
                p.sub_(p.grad, alpha=float(group["lr"] * d))
            # Written at each step, and another number only from the sixth on.
            group["d"] = d if k < 5 else torch.maximum(torch.as_tensor(d), group["numerator"] / (1 + k))
            group.update(k=k + 1, weight_sum=group["weight_sum"] + float(d) ** 2)


class Attributed(torch.optim.Optimizer):
    """State on the object and under a name in `state`; anchors that are made from the parameters when it is."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})
        self.total_steps = 0
        self.history: list[float] = []
        self.anchors = [p.detach().clone() for p in self.param_groups[0]["params"]]
        self.names = [("w", index) for index in range(3)]
        self.last: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        ema = self.state.setdefault("ema", {"short": 0.0, "all": []})
        group = self.param_groups[0]
        self.total_steps += 1
        for p, anchor in zip(group["params"], self.anchors, strict=True):
            if p.grad is not None:
                ema["short"] = 0.5 * ema["short"] + 0.5 * p.grad.abs().sum().item()
                ema["all"].append(self.total_steps)
                p.sub_(p.grad + 0.1 * (p - anchor), alpha=group["lr"] / (1 + ema["short"] / len(ema["all"])))
                self.last = p.grad.sum()
        self.history.append(ema["short"])
        if self.last is not None and self.total_steps % 2:
            self.history[-1] += self.last.item()
            group["params"][0].add_(self.history[-1] * 1e-3 if group["params"][0].grad is not None else 0.0)


class Climbing(torch.optim.Optimizer):
    """Climbs, and steps by the gradient at the top: it needs a closure."""

    def __init__(self, params: Any, lr: float = 0.1, rho: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "rho": rho})

    def step(self, closure: Closure | None = None) -> Any:
        if closure is None:
            raise RuntimeError("Climbing needs a closure")
        present = [p for p in self.param_groups[0]["params"] if p.grad is not None]
        before = [p.detach().clone() for p in present]
        with torch.no_grad():
            for p in present:
                p.add_(p.grad, alpha=self.param_groups[0]["rho"])
        value = closure()
        with torch.no_grad():
            for p, old in zip(present, before, strict=True):
                p.copy_(old - self.param_groups[0]["lr"] * p.grad * (1 + value.tanh()))
        return value


class Noisy(torch.optim.Optimizer):
    """Draws from global generators, when it is made too."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})
        self.probe = torch.randn(3)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                noise = torch.randn_like(p) + random.random() + np.random.random()  # noqa: NPY002
                p.sub_(p.grad + 0.1 * noise + self.probe.sum(), alpha=self.param_groups[0]["lr"])


class _Plain(torch.optim.Optimizer):
    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "phase": "first"})
        self.steps = 0

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:
        self.steps += 1
        for p in self.param_groups[0]["params"]:
            if p.grad is not None:
                p.sub_(p.grad, alpha=self.param_groups[0]["lr"])
                self.remember(p)

    def remember(self, p: Tensor) -> None:
        raise NotImplementedError


class Projector:
    """An object with tensors inside."""

    def __init__(self, p: Tensor) -> None:
        self.matrix = p.clone()


class KeepsObjects(_Plain):
    """Keeps an object of its own making."""

    def remember(self, p: Tensor) -> None:
        self.state[p]["projector"] = Projector(p)


class KeepsParameters(_Plain):
    """Keeps a parameter itself."""

    def remember(self, p: Tensor) -> None:
        self.state[p]["previous"] = p.data


class KeepsOptimizers(_Plain):
    """Has another optimizer do the work."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.inner = torch.optim.SGD(self.param_groups[0]["params"])

    def remember(self, p: Tensor) -> None:
        pass


class SwitchesInTheState(_Plain):
    """Makes an entry after some steps."""

    def remember(self, p: Tensor) -> None:
        if self.steps > 4:
            self.state[p]["late"] = torch.zeros(1)


class SwitchesInTheGroup(_Plain):
    """Becomes another method after some steps."""

    def remember(self, p: Tensor) -> None:
        if self.steps > 4:
            self.param_groups[0]["phase"] = "second"


class KeepsTheSameName(_Plain):
    """Has two entries that are written alike."""

    def remember(self, p: Tensor) -> None:
        self.state[p].update({1: 0.0, "1": 0.0})
