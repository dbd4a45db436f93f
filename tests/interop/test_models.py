"""Models and optimizers of every make go there and back."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer

import functional_train as ft
from tests.global_rng import seeded
from tests.interop.cases import CLASSES, OPTIONS, adam, after, all_of, plain, sgd
from tests.interop.live import (
    Case,
    Live,
    assert_same_bits,
    contents,
    fold,
    inputs,
    loop,
    loss_of,
    snapshot,
    start,
    switch,
)
from tests.trees import assert_bitwise


def test_a_chain_around_it_goes_on() -> None:
    """Clipping in front of the optimizer, as the loop clips; the memory is found in the chain's state."""
    case = Case(adam, plain)
    live, other = start(case), start(case)

    def clipped(live: Live, steps: range) -> None:
        for step in steps:
            live.optimizer.zero_grad()
            loss_of(live.model(inputs(step))).backward()
            nn.utils.clip_grad_value_(live.model.parameters(), 0.05)
            live.optimizer.step()

    clipped(live, range(5))
    clipped(other, range(10))
    run = switch(case, live)
    chain = ft.chain(ft.clip_by_value(0.05), run.optimizer)
    state = ft.init_state(run.state.params, chain)
    assert_bitwise(state.opt_state[1], run.state.opt_state)
    state = fold(ft.TorchRun(run.apply, chain, state), range(5, 10))
    ft.to_torch(state, *live)
    assert_same_bits(contents(live), contents(other))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def test_tied_parameters_stay_tied() -> None:
    """A tied weight is one leaf with one memory."""
    case = Case(all_of(optim.SGD, lr=0.1, momentum=0.9), Tied)
    live, other = start(case), start(case)
    loop(case, live, range(2))
    state = fold(switch(case, live), range(2, 6))
    ft.to_torch(state, *live)
    loop(case, other, range(6))
    assert "second.weight" not in state.params
    assert live.model.second.weight is live.model.first.weight
    assert_same_bits(contents(live), contents(other))


@pytest.mark.parametrize("name", ["AdamW", "LBFGS", "SGD"])
def test_frozen_parameters_stay(name: str) -> None:
    """Neither gradients nor decay move what requires no grad, and what it remembers goes back as it was."""
    case = CLASSES[name]
    live, other = start(case), start(case)
    for each in (live, other):
        each.model[0].weight.requires_grad_(name == "AdamW")
        loop(case, each, range(2))
        each.model[0].weight.requires_grad_(False)
    before = live.model[0].weight.detach().clone()
    state = fold(switch(case, live), range(2, 6))
    loop(case, other, range(2, 6))
    assert torch.equal(state.params["0.weight"], before)
    ft.to_torch(state, *live)
    assert_same_bits(contents(live), contents(other))


class Unused(nn.Module):
    """A layer that the loss never reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


@pytest.mark.parametrize("freeze", [True, False])
def test_what_the_loss_never_reaches(freeze: bool) -> None:
    """Frozen before the switch it stays, as in the loop; else its zero gradient lets decay move it."""
    case = Case(all_of(optim.AdamW, lr=0.1), Unused)
    live = start(case)
    loop(case, live, range(2))
    before = live.model.unused.weight.detach().clone()
    live.model.unused.requires_grad_(not freeze)
    state = fold(switch(case, live), range(2, 4))
    assert torch.equal(state.params["unused.weight"], before) is freeze
    ft.to_torch(state, *live)
    loop(case, other := start(case), range(4))
    assert torch.equal(live.model.used.weight, other.model.used.weight)


def test_hooks_run_in_steps_only() -> None:
    """A hook that the optimizer has runs once a step, and never while a state is made."""
    case = Case(sgd, plain)
    live, other = start(case), start(case)
    seen: list[int] = []

    def clip(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        del args, kwargs
        seen.append(1)
        nn.utils.clip_grad_value_(optimizer.param_groups[0]["params"], 0.01)

    for each in (live, other):
        each.optimizer.register_step_pre_hook(clip)
    run = switch(case, live)
    assert not seen
    state = fold(run, range(3))
    assert len(seen) == 3
    loop(case, other, range(3))
    ft.to_torch(state, *live)
    assert_same_bits(contents(live), contents(other))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda optimizer: ft.accumulate_updates(optimizer, 1),
        lambda optimizer: ft.named_chain(("all", optimizer)),
        lambda optimizer: ft.chain(optimizer, ft.ema_params(0.9)),
        ft.apply_if_finite,
        ft.lookahead,
    ],
)
def test_is_found_inside(wrap: Callable[[ft.GradientTransformation], ft.GradientTransformation]) -> None:
    """However deep a state holds the memory, it is put back."""
    live = after("SGD-nesterov", 3)
    run = switch(OPTIONS["SGD-nesterov"], live)
    before = snapshot(live)
    ft.to_torch(ft.init_state(run.state.params, wrap(run.optimizer)), *live)
    assert_same_bits(snapshot(live), before)


def test_dropout_goes_on_with_a_key() -> None:
    """Where the loop drew from a global generator, the state owns a key from the switch on."""
    case = Case(adam, lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)))
    live = start(case)
    with seeded(0):
        loop(case, live, range(2))
    run = switch(case, live)

    def loss_fn(params: Any, batch: Tensor, key: Tensor) -> Tensor:
        return loss_of(run.apply(params, batch, key=key))

    step = ft.make_step(ft.grad_and_value(loss_fn), run.optimizer)
    state, _ = step(run.state.replace(key=ft.random.key(0)), inputs(2))
    ft.to_torch(state, *live)
    assert live.optimizer.state[live.model[0].weight]["step"] == 3


def test_gradients_on_parameters_stay() -> None:
    """The switch takes none of the gradients that lie on parameters, and leaves them there."""
    live = after("Adam", 2)
    grads = [parameter.grad for parameter in live.model.parameters()]
    ft.to_torch(fold(switch(CLASSES["Adam"], live), range(2, 4)), *live)
    assert all(one.grad is other for one, other in zip(live.model.parameters(), grads, strict=True))
    assert all(grad is not None for grad in grads)


def test_buffers_are_owned_by_those_who_have_some() -> None:
    """A model without buffers gives a state without; a state without leaves those of the model alone."""
    assert switch(CLASSES["LBFGS"], after("LBFGS", 1)).state.buffers is None
    live = after("Adam", 2)
    state = switch(CLASSES["Adam"], live).state
    mean = live.model[1].running_mean.clone()
    ft.to_torch(state.replace(buffers=None), *live)
    assert torch.equal(live.model[1].running_mean, mean)


def test_a_class_of_a_user() -> None:
    """A subclass with arguments that nobody can read back, and memory in attributes, goes on too."""

    class Lagging(Optimizer):
        def __init__(self, params: Any, *, secret: Callable[[int], float]) -> None:
            super().__init__(params, {"lr": 0.1})
            self.calls, self.secret = 0, secret

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            self.calls += 1
            for group in self.param_groups:
                for leaf in group["params"]:
                    leaf.sub_(leaf.grad, alpha=group["lr"] * self.secret(self.calls))

    case = Case(lambda model: Lagging(model.parameters(), secret=lambda calls: 1 / calls), plain)
    live, other = start(case), start(case)
    loop(case, live, range(3))
    state = fold(switch(case, live), range(3, 6))
    ft.to_torch(state, *live)
    loop(case, other, range(6))
    assert live.optimizer.calls == other.optimizer.calls == 6
    assert_same_bits(contents(live), contents(other))


def test_forward_keywords_are_passed_on() -> None:
    """`method` and `forward_kwargs` are those of `functionalize`."""
    with seeded(0):
        attention = nn.MultiheadAttention(4, 1)
    optimizer = optim.SGD(attention.parameters(), lr=0.1)
    with pytest.raises(ft.StructureError, match="'key'"):
        ft.from_torch(attention, optimizer)
    run = ft.from_torch(attention, optimizer, forward_kwargs=("key",))
    x = torch.ones(2, 4)
    assert run.apply(run.state.params, x, key=x, value=x)[0].shape == (2, 4)
