"""Processes that save and train, and are killed at any moment.

Run as a program of its own, so that what it forks has no threads and no tests in it: `python -m tests.runs.nursery
<what> <folder> <kills> <seed>` prints one line of counts.
"""

import contextlib
import io
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import functional_train as ft
from tests import cases

_LONGEST = 0.06
_START = {"w": torch.full((6, 4), 0.5), "b": torch.linspace(-1, 1, 4)}


def tree(number: int, size: int = 20_000) -> dict[str, Any]:
    """A tree all of which says which one it is."""
    return {"n": number, "a": torch.full((size,), float(number)), "b": torch.full((size // 2,), number)}


def number_in(found: Any) -> int:
    """Which tree it is; an error when it is parts of two."""
    (number,) = {found["n"], *found["a"].unique().int().tolist(), *found["b"].unique().tolist()}
    return number


def state(number: int) -> ft.TrainState:
    return ft.init_state({name: leaf for name, leaf in tree(number).items() if name != "n"}, ft.sgd()).replace(
        step=torch.tensor(number)
    )


def save_over_one_path(folder: Path, first: int, tell: Callable[[int], object]) -> None:
    for number in range(first, 1_000_000):
        ft.save(folder / "run.ckpt", tree(number))
        tell(number)


def save_to_a_folder(folder: Path, first: int, tell: Callable[[int], object]) -> None:
    checkpointer = ft.Checkpointer(folder, keep=2)
    for number in range(first, 1_000_000):
        checkpointer.save(state(number))
        if number > first:
            tell(number - 1)  # a save waits for the one before


def one_path_holds(folder: Path) -> int:
    path = folder / "run.ckpt"
    return number_in(ft.load(path)) if path.exists() else -1


def folder_holds(folder: Path) -> int:
    found = ft.Checkpointer(folder).restore(state(0))
    if found is None:
        return -1
    return number_in({"n": int(found.state.step), **found.state.params})


def forked(run: Callable[[], None]) -> int:
    """A child process that runs this and nothing after it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run()
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def killed_while_saving(kind: str, folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill a process that saves in a loop, again and again, at moments of every kind."""
    save, held = {
        "path": (save_over_one_path, one_path_holds),
        "folder": (save_to_a_folder, folder_holds),
    }[kind]
    counts = {"kills": 0, "unreadable": 0, "older": 0, "saved": 0}
    generator = torch.Generator().manual_seed(seed)
    reached = -1
    while counts["kills"] < kills:
        read, write = os.pipe()

        def run(write: int = write, first: int = reached + 1) -> None:
            save(folder, first, lambda number: os.write(write, number.to_bytes(8, "little")))

        child = forked(run)
        os.close(write)
        # The first save may take longer; every moment after it has the same chance.
        select.select([read], [], [], 20)
        time.sleep(float(torch.rand((), generator=generator)) * _LONGEST)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        told = b""
        while part := os.read(read, 1 << 16):
            told += part
        os.close(read)
        acknowledged = int.from_bytes(told[-8:], "little") if told else reached
        counts["kills"] += 1
        counts["saved"] += len(told) // 8
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                reached = held(folder)
        except Exception:  # noqa: BLE001 - whatever it is, it counts
            counts["unreadable"] += 1
            continue
        counts["older"] += reached < acknowledged
    left = [path for path in folder.iterdir() if path.name.startswith(".")]
    counts["unfinished"] = max(len(left) - 1, 0)  # of the last kill, which nobody saved after
    return counts


def training(name: str, dtype: torch.dtype, compiled: bool) -> tuple[Any, ft.TrainState, ft.data.Batches]:
    """A step of an optimizer, where it begins, and its batches."""
    make = cases.STAND_INS.get(name, cases.OPTIMIZERS[name])
    optimizer = ft.chain(make())

    def loss_fn(params: Any, batch: Any, *, key: torch.Tensor) -> torch.Tensor:
        x, y = batch
        kept = ft.random.dropout(key, x, 0.2)
        return ((kept.to(dtype) @ params["w"] + params["b"]).float() - y).square().mean()

    step = ft.make_step(ft.grad_and_value(loss_fn), optimizer)
    params = ft.Params({name: leaf.to(dtype) for name, leaf in _START.items()})
    start = ft.init_state(params, optimizer, key=ft.random.key(5))
    x = torch.linspace(-1, 1, 60).reshape(10, 6).sin()
    batches = ft.data.Batches((x, x[:, :4].cos()), 3, key=ft.random.key(2))
    return (ft.compile(step, donate=True, backend="eager") if compiled else step), start, batches


def killed_while_training(name: str, dtype: torch.dtype, compiled: bool, folder: Path, kills: int, seed: int) -> bool:
    """Whether a run that is killed at steps drawn at random, and resumed each time by a new process, is the same."""
    steps = 12
    step, start, batches = training(name, dtype, compiled)
    whole = ft.fit(step, start, batches, steps=steps, progress=False)
    generator = torch.Generator().manual_seed(seed)
    moments = torch.randint(1, steps + 1, (kills,), generator=generator).tolist()

    def until(moment: int) -> None:
        def observe(state: Any, metrics: Any) -> None:
            del metrics
            if int(state.step) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        checkpointer = ft.Checkpointer(folder, every=3)
        ft.fit(step, start, batches, steps=steps, checkpoint=checkpointer, observers=[observe], progress=False)

    for moment in [*moments, steps + 1]:
        os.waitpid(forked(lambda moment=moment: until(moment)), 0)
    resumed = ft.Checkpointer(folder).restore(start)
    if resumed is None or int(resumed.state.step) != steps:
        return False
    pairs = [
        *zip(ft.tree.leaves(resumed.state), ft.tree.leaves(whole[0]), strict=True),
        *zip(resumed.history.values(), whole[1].values(), strict=True),
    ]
    bits = [tuple(leaf.contiguous().reshape(-1).view(torch.uint8).tolist() for leaf in pair) for pair in pairs]
    return list(resumed.history) == list(whole[1]) and all(first == second for first, second in bits)


def killed_with_every_optimizer(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    counts: dict[str, Any] = {"runs": 0, "kills": 0, "differ": []}
    for place, name in enumerate(sorted(cases.OPTIMIZERS)):
        for dtype in (torch.float32, torch.bfloat16):
            for compiled in (False, True):
                label = f"{name}-{dtype}-{'compiled' if compiled else 'plain'}"
                counts["runs"] += 1
                counts["kills"] += kills
                with contextlib.redirect_stderr(io.StringIO()):
                    same = killed_while_training(name, dtype, compiled, folder / label, kills, seed + place)
                if not same:
                    counts["differ"].append(label)
    return counts


def main(what: str, folder: str, kills: str, seed: str) -> None:
    torch.set_num_threads(1)
    if what == "optimizers":
        counts = killed_with_every_optimizer(Path(folder), int(kills), int(seed))
    else:
        counts = killed_while_saving(what, Path(folder), int(kills), int(seed))
    sys.stdout.write(f"{counts!r}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
