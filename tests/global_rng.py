"""The global random number generators that nothing in this library may touch: snapshot, compare, borrow."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch


class GlobalRng(NamedTuple):
    """State of every global generator that a test could disturb."""

    python: Any
    numpy: tuple[Any, ...]
    torch: torch.Tensor  # (5056,) uint8, the CPU generator


def snapshot() -> GlobalRng:
    """Read the state of all global generators."""
    return GlobalRng(random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state())  # noqa: NPY002


def restore(rng: GlobalRng) -> None:
    """Put all global generators back to `rng`."""
    random.setstate(rng.python)
    np.random.set_state(rng.numpy)  # noqa: NPY002
    torch.set_rng_state(rng.torch)


def seed(value: int) -> None:
    """Seed all global generators."""
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002
    torch.manual_seed(value)


def disturbed(before: GlobalRng, after: GlobalRng) -> list[str]:
    """Name the generators whose state differs between two snapshots."""
    same = {
        "random": before.python == after.python,
        "numpy.random": all(np.array_equal(a, b) for a, b in zip(before.numpy, after.numpy, strict=True)),
        "torch": torch.equal(before.torch, after.torch),
    }
    return [name for name, unchanged in same.items() if not unchanged]


@contextmanager
def seeded(value: int = 0) -> Iterator[None]:
    """Lend the seeded global generators to reference code, such as `nn.Module` constructors, and take them back.

    Example:
        with seeded(0):
            module = nn.Linear(2, 1)
    """
    before = snapshot()
    seed(value)
    try:
        yield
    finally:
        restore(before)
