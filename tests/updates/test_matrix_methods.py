"""What all methods with matrices or curvature do alike: train a classifier, and leave alone what has no gradient."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import functional_train as ft
from tests.global_rng import seeded
from tests.trees import assert_bitwise, like, normal, without

OPTIMIZERS: dict[str, Callable[[], ft.GradientTransformation]] = {
    "soap": lambda: ft.soap(0.03, precondition_frequency=2),
    "shampoo": lambda: ft.shampoo(0.3, grafting=ft.identity()),
    "sophia": lambda: ft.sophia(0.03, gamma=1.0, update_interval=2),
    "adahessian": lambda: ft.adahessian(0.1),
    "galore": lambda: ft.galore(ft.adam(0.05), rank=2, update_proj_gap=10, scale=1.0),
    "psgd": lambda: ft.psgd(0.03),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_trains_a_classifier(name: str) -> None:
    """Two classes that no line separates, an inner disk and a ring, are told apart in 150 updates of a module."""
    angle, radius = 6.28 * torch.arange(64) / 64, torch.tensor([0.5, 1.5]).repeat(32)
    inputs, labels = torch.stack((radius * angle.cos(), radius * angle.sin()), 1), (radius > 1).long()
    with seeded():
        apply, params, _ = ft.functionalize(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)))

    def loss_fn(params: Any, batch: Any, key: Tensor) -> Tensor:
        del batch, key
        return nn.functional.cross_entropy(apply(params, inputs), labels)

    optimizer = OPTIMIZERS[name]()
    state = ft.init_state(params, optimizer, key=ft.random.key(0))
    state = ft.fold(ft.make_step(ft.grad_and_value(loss_fn), optimizer), state, [None] * 150)
    right = (apply(state.params, inputs).argmax(1) == labels).float().mean()
    assert right > 0.95, f"{right:.2f} are right"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_has_no_gradient_is_left_alone(name: str) -> None:
    """A leaf that misses an update is, state and all, where it would be had the update not been made."""
    params = {"gone": normal(1, (3, 2)), "here": normal(0, (3, 2))}
    optimizer = OPTIMIZERS[name]()
    update_fn = ft.make_update(optimizer)

    def extras(present: Callable[[int], bool]) -> dict[str, Any]:
        curved = lambda at: (without(ft.tree.scale(2.0, at), lambda place: not present(place)), torch.ones(()))  # noqa: E731
        return {"grad_and_value_fn": curved, "key": ft.random.key(0)}

    state, reached = optimizer.init(params), params
    reached, state = update_fn(like(5, params), state, reached, **extras(lambda place: True))
    fewer = without(like(9, params), lambda place: place == 0)
    moved, after = update_fn(fewer, state, reached, **extras(lambda place: place == 1))
    assert_bitwise(moved["gone"], reached["gone"])
    assert not torch.equal(moved["here"], reached["here"])
    before = dict(ft.tree.items(state))
    for path, leaf in ft.tree.items(after):
        parts = path.split("/")
        if "gone" in parts:
            assert_bitwise(leaf, before[path])
        elif parts[-1] == "step":
            assert_bitwise(leaf, before[path] + torch.tensor([0, 1]))
