"""The global random generators of a process, which nothing here may move."""

import sys
from collections.abc import Mapping
from typing import Any

import torch


def generators() -> dict[str, Any]:
    """The state of every global generator that is loaded; one that is not cannot have been drawn from before."""
    states: dict[str, Any] = {"torch": torch.get_rng_state().numpy().tobytes()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states |= {f"cuda:{index}": bytes(s.tolist()) for index, s in enumerate(torch.cuda.get_rng_state_all())}
    # Read through sys.modules: this library imports none that draws.
    if "random" in sys.modules:
        states["random"] = sys.modules["random"].getstate()
    if "numpy.random" in sys.modules:
        _, words, *rest = sys.modules["numpy.random"].get_state(legacy=True)
        states["numpy.random"] = (words.tobytes(), *rest)
    return states


def moved_since(before: Mapping[str, Any]) -> list[str]:
    """Names of those that have another state than they had."""
    after = generators()
    return [name for name, state in before.items() if after.get(name) != state]
