"""Text: a byte-level language model on the source of Python's own standard library."""

import math
import os
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import functional_train as ft
from functional_train.demo.task import Defaults, Task, TaskError, weights_from
from functional_train.demo.transformer import Transformer

DEFAULTS = Defaults(num_steps=1000, batch_size=8, lr={"sgd": 0.1, "adam": 3e-3, "adamw": 3e-3})
_CONTEXT = 128
_HELD_OUT_FRACTION = 0.05
_MAX_TEST_WINDOWS = 256
_PROMPT = b"def "
_SAMPLE_BYTES = 400
# What not every installation of Python has, other people's packages, and tables of numbers.
_SKIPPED = {"dist-packages", "encodings", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tests"}


def make_task(key: Tensor, batch_size: int) -> Task:
    """Hold out some files by a key, and make the model and its loss."""
    key_files, key_weights, key_embedding, key_batches, key_sample = ft.random.split(key, 5)
    train_files, test_files = _split(key_files, _list_files())
    train, test = _read(train_files), _read(test_files)
    test_windows = test[: len(test) // (_CONTEXT + 1) * (_CONTEXT + 1)].view(-1, _CONTEXT + 1)
    test_windows = test_windows[:: math.ceil(len(test_windows) / _MAX_TEST_WINDOWS)]
    num_windows = len(train) // _CONTEXT
    if batch_size > num_windows:
        raise TaskError(f"argument --batch-size: {batch_size} is more than the {num_windows:,} training windows")

    with weights_from(key_weights):
        module = Transformer()
    apply, params, buffers = ft.functionalize(module)
    # Weights are values, so another start is another value: torch's own embedding is too large to be tied.
    params |= {"embedding.weight": ft.random.normal(key_embedding, params["embedding.weight"].shape, std=0.1)}

    def loss_fn(params: ft.Params, batch: Tensor) -> Tensor:
        tokens = batch.long()
        logits = apply(params, tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) / math.log(2)  # bits per byte

    def batch_at(position: int) -> Tensor:
        key = ft.random.fold_in(key_batches, position)
        starts = ft.random.uniform(key, (batch_size, 1), high=len(train) - _CONTEXT, dtype=torch.float64).long()
        return train[starts + torch.arange(_CONTEXT + 1)]

    def evaluate(state: ft.TrainState) -> Mapping[str, Tensor]:
        return {"loss": loss_fn(state.params, test_windows.to(state.step.device))}

    def report(state: ft.TrainState) -> str:
        sample = _sample(apply, state.params, key_sample)
        shown = "".join(chr(byte) if 32 <= byte < 127 or byte == 10 else "?" for byte in sample)
        indented = "\n".join(f"  | {line}" for line in shown.split("\n"))
        bits_per_byte = float(evaluate(state)["loss"])
        return f"{bits_per_byte:.3f} bits per byte on held-out files\n\nsample\n{indented}"

    data = f"{len(train_files)} files of Python's standard library ({len(train) / 1e6:.1f} MB) to train on, "
    data += f"{len(test_files)} ({len(test) / 1e6:.1f} MB) held out"
    return Task(data, module, params, buffers, loss_fn, ft.grad_and_value(loss_fn), batch_at, evaluate, report)


def _list_files() -> list[Path]:
    """The library's source files in the order of their names, which is the same on every machine."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED]
        files += [Path(folder, name) for name in names if name.endswith(".py")]
    if len(files) < 2:
        raise TaskError(f"there is no source of the standard library in {root}; the text task trains on it")
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def _split(key: Tensor, files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    order = ft.random.permutation(key, len(files)).tolist()
    num_test = math.ceil(_HELD_OUT_FRACTION * len(files))
    held_out = set(order[:num_test])
    train = [path for position, path in enumerate(files) if position not in held_out]
    return train, [files[position] for position in sorted(held_out)]


def _read(files: Sequence[Path]) -> Tensor:
    """All bytes of some files, one after another, as uint8."""
    return torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in files)), dtype=torch.uint8)


def _sample(apply: Callable[..., Tensor], params: ft.Params, key: Tensor) -> bytes:
    """Continue the prompt byte by byte: the largest of the logits, each with a Gumbel draw added (Gumbel 1954)."""
    device = params["embedding.weight"].device
    tokens = torch.tensor([list(_PROMPT)], device=device)
    for position in range(_SAMPLE_BYTES):
        logits = apply(params, tokens[:, -_CONTEXT:])[0, -1]
        uniform = ft.random.uniform(ft.random.fold_in(key, position), logits.shape).to(device)
        chosen = (logits - torch.log(-torch.log(uniform))).argmax()
        tokens = torch.cat([tokens, chosen.view(1, 1)], dim=1)
    return bytes(tokens[0].tolist())
