"""The guard on the global generators sees every one of them, and `seeded` puts them back."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tests.global_rng import disturbed, seeded, snapshot

DRAWS: dict[str, Callable[[], object]] = {
    "random": random.random,
    "numpy.random": lambda: np.random.rand(1),  # noqa: NPY002
    "torch": lambda: torch.rand(1),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_is_seen(name: str) -> None:
    """A draw from one generator is reported under its name, and under no other."""
    with seeded(0):
        before = snapshot()
        DRAWS[name]()
        assert disturbed(before, snapshot()) == [name]


@pytest.mark.parametrize("name", DRAWS)
def test_seeded_restores(name: str) -> None:
    """After `seeded`, every generator stands where it stood before, also when the block raises."""

    def draw_and_raise() -> None:
        with seeded(1):
            DRAWS[name]()
            raise KeyError

    before = snapshot()
    with pytest.raises(KeyError):
        draw_and_raise()
    assert disturbed(before, snapshot()) == []


def test_seeded_repeats() -> None:
    """The same seed builds the same module, and another seed another one."""

    def weight(value: int) -> torch.Tensor:
        with seeded(value):
            return nn.Linear(3, 2).weight.detach()

    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))


@pytest.mark.uses_global_rng("shows that the marker lifts the guard")
def test_marker_lifts_the_guard() -> None:
    """A marked test may move a global generator."""
    before = snapshot()
    torch.rand(1)
    assert disturbed(before, snapshot()) == ["torch"]
