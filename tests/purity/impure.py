"""What an impure function is, for the tables of `writing` and `hidden`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

STATE, INPUT, HIDDEN = "captured state written", "input written", "captured input"
GRADIENT, HOOK, RANDOM = "gradient written", "hook", "randomness"
SETTING, FILE, ALIAS = "setting", "file or process", "alias"
UNFILLED, DIFFERS = "uninitialized memory", "second call differs"


class Impure(NamedTuple):
    """One case.

    Attributes:
        make: Returns the function and its arguments.
        kinds: All kinds of findings.
        line: A part of the line that the first finding names.
    """

    make: Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]
    kinds: set[str]
    line: str


def x() -> Tensor:
    return torch.tensor([[1.0, -2.0], [3.0, 0.5], [0.25, 4.0]])


def on_x(fn: Callable[..., Any], kinds: set[str] | str, line: str) -> Impure:
    return Impure(lambda: (fn, (x(),)), {kinds} if isinstance(kinds, str) else kinds, line)
