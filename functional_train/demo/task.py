"""What the demo needs to know of a task."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import functional_train as ft


class Defaults(NamedTuple):
    """Options that a task chooses when the user does not."""

    num_steps: int
    batch_size: int
    lr: Mapping[str, float]  # by name of the optimizer


class Task(NamedTuple):
    """A model, a loss, the data as a function of the position, and a measure of success."""

    data: str  # in words
    module: nn.Module  # where params and buffers were copied from
    params: ft.Params
    buffers: ft.Params
    loss_fn: Callable[..., Any]  # an ft.LossFn
    grad_fn: ft.GradFn
    batch_at: Callable[[int], Any]  # position -> batch
    evaluate: Callable[[ft.TrainState], Mapping[str, Tensor]]
    report: Callable[[ft.TrainState], str]  # how good it became, in words


class TaskError(Exception):
    """A task that cannot be done with these options, or on this machine."""


@contextmanager
def weights_from(key: Tensor) -> Generator[None]:
    """Let modules that are made here draw their first weights from a key, and leave torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(ft.random.bits(key)))
        yield
