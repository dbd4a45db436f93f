"""How the demo trains any of its tasks, and what it leaves on disk."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import functional_train as ft
from functional_train.demo.task import Task

OPTIMIZERS: dict[str, Callable[[ft.Hyperparameter], ft.GradientTransformation]] = {
    "sgd": lambda lr: ft.sgd(lr, momentum=0.9, nesterov=True),
    "adam": ft.adam,
    "adamw": ft.adamw,
}


def make_optimizer(name: str, lr: float, num_steps: int) -> ft.GradientTransformation:
    """Clip, then update with a learning rate that rises for a tenth of the run and falls for the rest."""
    schedule = ft.schedules.warmup_cosine(lr, num_steps // 10, num_steps)
    return ft.chain(ft.clip_by_global_norm(1.0), OPTIMIZERS[name](schedule))


def train(
    task: Task, optimizer: ft.GradientTransformation, num_steps: int, device: str
) -> tuple[ft.TrainState, ft.History]:
    """Train on the first `num_steps` batches of a task."""
    step = ft.make_step(task.grad_fn, optimizer)
    params, buffers = ft.tree.to((task.params, task.buffers), device)
    state = ft.init_state(params, optimizer, buffers=buffers)
    batches = map(task.batch_at, itertools.count())
    evaluate_every = math.ceil(num_steps / 5)
    return ft.fit(step, state, batches, steps=num_steps, evaluate=task.evaluate, evaluate_every=evaluate_every)


def save(folder: Path, name: str, state: ft.TrainState, history: ft.History) -> dict[Path, str]:
    """Write parameters and buffers, and a picture of the loss; returns what is in which file."""
    from safetensors.torch import save_file

    tensors, picture = folder / f"{name}.safetensors", folder / f"{name}_loss.png"
    save_file({**state.params, **(state.buffers or {})}, tensors)
    ft.plot.history(history).savefig(picture)
    return {tensors: "parameters and buffers, named as in the module's state dict", picture: "the loss by step"}
