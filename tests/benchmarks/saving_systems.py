"""Who saves and loads: the state of a run with AdamW, on disk the way each library wants it.

A system takes a module, of which it needs nothing, and returns a function that saves the state, or loads it and reads
every number. Size and folder come from the environment, since a worker is told the names of system and workload alone.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import functional_train as ft
from tests.benchmarks.saving import FOLDER, MEGABYTES
from tests.benchmarks.systems import Advance
from tests.benchmarks.workloads import Batch, Transformer

LAYERS, HEADS = 4, 4
# A block has 12 matrices of width x width, and each parameter 3 numbers of 4 bytes with its moments.
_BYTES_A_SQUARE = LAYERS * 12 * 3 * 4


def make_state() -> ft.TrainState:
    """A state of about so many megabytes: matrices, vectors, and the step."""
    side = (1e6 * float(os.environ[MEGABYTES]) / _BYTES_A_SQUARE) ** 0.5
    with torch.device("meta"):
        module = Transformer(LAYERS, max(1, round(side / HEADS)) * HEADS, HEADS)
        state = ft.init_state(ft.functionalize(module).params, ft.adamw())
    generator = torch.Generator().manual_seed(0)

    def draw(leaf: Tensor) -> Tensor:
        if leaf.is_floating_point():
            return torch.rand(leaf.shape, generator=generator)
        return torch.zeros(leaf.shape, dtype=leaf.dtype)

    return ft.tree.map(draw, state)


def total(leaves: Iterable[Tensor]) -> Tensor:
    """A sum that reads every number."""
    return torch.stack([leaf.sum().double() for leaf in leaves]).sum()


def _named(state: ft.TrainState) -> dict[str, Tensor]:
    return dict(ft.tree.items(state))


class Library(NamedTuple):
    """How a library saves and loads."""

    save: Callable[[Path, ft.TrainState, bool], None]  # the last: whether to wait for the disk
    load: Callable[[Path, ft.TrainState], Iterable[Tensor]]  # given a state without numbers


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _and_fsync(write: Callable[[dict[str, Tensor], Path], None]) -> Callable[[Path, ft.TrainState, bool], None]:
    """A function that writes named tensors, and afterwards waits for the disk when it should."""

    def save(path: Path, state: ft.TrainState, fsync: bool) -> None:
        write(_named(state), path)
        if fsync:
            _fsync(path)
            _fsync(path.parent)

    return save


def _save_ours(path: Path, state: ft.TrainState, fsync: bool) -> None:
    ft.save(path, state, fsync=fsync)


def _load_ours(path: Path, like: ft.TrainState) -> Iterable[Tensor]:
    return ft.tree.leaves(ft.load(path, like))


def _load_torch(path: Path, like: ft.TrainState, **options: Any) -> Iterable[Tensor]:
    del like
    return torch.load(path, weights_only=True, **options).values()


def _save_dcp(path: Path, state: ft.TrainState, fsync: bool) -> None:
    from torch.distributed import checkpoint

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is one process
        checkpoint.save(_named(state), storage_writer=checkpoint.FileSystemWriter(path, sync_files=fsync))


def _load_dcp(path: Path, like: ft.TrainState) -> Iterable[Tensor]:
    from torch.distributed import checkpoint

    found = {name: torch.empty_like(leaf, device="cpu") for name, leaf in _named(like).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.load(found, storage_reader=checkpoint.FileSystemReader(path))
    return found.values()


def _write_safetensors(named: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(named, path)


def _load_safetensors(path: Path, like: ft.TrainState) -> Iterable[Tensor]:
    del like
    from safetensors.torch import load_file

    return load_file(path).values()


LIBRARIES = {
    "functional_train": Library(_save_ours, _load_ours),
    "torch": Library(_and_fsync(torch.save), _load_torch),
    "mapped_torch": Library(_and_fsync(torch.save), partial(_load_torch, mmap=True)),
    "dcp": Library(_save_dcp, _load_dcp),
    "safetensors": Library(_and_fsync(_write_safetensors), _load_safetensors),
}


def saving(module: nn.Module, name: str, fsync: bool) -> Advance:
    """Save over the file of before."""
    del module
    state, path = make_state(), _path(name)

    def advance(batch: Batch) -> Tensor:
        del batch
        LIBRARIES[name].save(path, state, fsync)
        return torch.zeros(())

    return advance


def loading(module: nn.Module, name: str) -> Advance:
    """Load a file and read every number; the returned sum says whether they are those that were saved."""
    del module
    state, path = make_state(), _path(name)
    LIBRARIES[name].save(path, state, True)
    like = ft.tree.map(lambda leaf: leaf.to("meta"), state)
    del state

    def advance(batch: Batch) -> Tensor:
        del batch
        return total(LIBRARIES[name].load(path, like))

    return advance


def loading_cold(module: nn.Module, name: str) -> Advance:
    """Seconds to load a file and read every number, when nothing of it is in memory."""
    advance, path = loading(module, name), _path(name)

    def advance_cold(batch: Batch) -> Tensor:
        for file in [path] if path.is_file() else path.iterdir():
            _forget(file)
        began = time.perf_counter()
        advance(batch)
        return torch.tensor(time.perf_counter() - began, dtype=torch.float64)

    return advance_cold


def _forget(file: Path) -> None:
    """Have the system drop the pages of a file, which must be on the disk and mapped by nobody."""
    handle = os.open(file, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def _path(name: str) -> Path:
    return Path(os.environ[FOLDER], name)


def _timed(call: Callable[[ft.TrainState], Any], after: Callable[[], None] = lambda: None) -> Advance:
    """Seconds that a call takes, and not what follows."""
    state = make_state()

    def advance(batch: Batch) -> Tensor:
        del batch
        began = time.perf_counter()
        kept = call(state)
        seconds = time.perf_counter() - began
        after()
        del kept
        return torch.tensor(seconds, dtype=torch.float64)

    return advance


def stall_of_copy(module: nn.Module) -> Advance:
    """What a step waits for that copies the state before it goes on."""
    del module
    return _timed(ft.tree.copy)


def stall_of_checkpointer(module: nn.Module) -> Advance:
    """What a step waits for while a `Checkpointer` takes the state, with the file before on the disk."""
    del module
    checkpointer = ft.Checkpointer(_path("checkpoints"))
    return _timed(checkpointer.save, checkpointer.wait)


def nothing(module: nn.Module) -> Advance:
    """The state, which is only there."""
    del module
    state = make_state()

    def advance(batch: Batch) -> Tensor:
        del batch
        return state.step

    return advance


# A worker finds its system by name.
globals().update({f"save_{name}": partial(saving, name=name, fsync=False) for name in LIBRARIES})
globals().update({f"sync_{name}": partial(saving, name=name, fsync=True) for name in LIBRARIES})
globals().update({f"load_{name}": partial(loading, name=name) for name in LIBRARIES})
globals().update({f"cold_{name}": partial(loading_cold, name=name) for name in LIBRARIES})
