"""A run that is saved, and goes on in a new process, ends where the run that never stopped ends."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import functional_train as ft
from functional_train.testing import assert_trees_equal
from functional_train.testing._runs import extras
from tests import cases
from tests.trees import like, normal

ROOT = Path(__file__).parents[2]
NUM_STEPS = 3
params = {"w": normal(0, (4, 3)), "b": normal(1, (3,)), "s": normal(2, ())}


def advance(optimizer: ft.GradientTransformation, current: Any, state: Any, start: int) -> tuple[Any, Any]:
    """Some updates of a run, from one of its steps on."""
    for step in range(start, start + NUM_STEPS):
        grads = like(step, params)
        current, state = ft.make_update(optimizer)(grads, state, current, **extras(grads))
    return current, state


def written(tree: Any) -> dict[str, torch.Tensor]:
    return {str(place): leaf.clone() for place, leaf in enumerate(ft.tree.leaves(tree))}


def go_on(folder: Path) -> None:
    """What the new process does: for each optimizer, read a state, go on, write where it led."""
    for name, make in cases.OPTIMIZERS.items():
        structure = ft.tree.flatten((params, make().init(params)))[1]
        saved = load_file(folder / f"{name}.before")
        current, state = ft.tree.unflatten(structure, [saved[str(place)] for place in range(len(saved))])
        save_file(written(advance(make(), current, state, NUM_STEPS)), folder / f"{name}.after")


def test_every_optimizer_resumes_in_a_new_process(tmp_path: Path) -> None:
    """Bit for bit, from nothing but the leaves of parameters and state."""
    for name, make in cases.OPTIMIZERS.items():
        save_file(written(advance(make(), params, make().init(params), 0)), tmp_path / f"{name}.before")
    code = f"from pathlib import Path; from tests.updates.test_resume import go_on; go_on(Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)
    for name, make in cases.OPTIMIZERS.items():
        optimizer = make()
        whole = advance(optimizer, *advance(optimizer, params, optimizer.init(params), 0), NUM_STEPS)
        assert_trees_equal(load_file(tmp_path / f"{name}.after"), written(whole))
