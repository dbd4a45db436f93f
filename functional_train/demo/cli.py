"""The command line of the demo: options in, a trained model and its files out."""

import argparse
import importlib.util
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

import functional_train as ft
from functional_train.demo import digits, ownership, text, training
from functional_train.demo.task import TaskError

PROGRAM = "python -m functional_train"
TASKS = {"digits": digits, "text": text}
_EXTRAS = {"digits": ("sklearn", "matplotlib", "safetensors"), "text": ("matplotlib", "safetensors")}
_INTERRUPTED = 130  # the exit code that shells expect after Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit code; a bad option ends it with code 2 and one line."""
    parser = _make_parser()
    options = parser.parse_args(argv)
    missing = [library for library in _EXTRAS[options.task] if importlib.util.find_spec(library) is None]
    if missing:
        return _complain(f'not installed: {", ".join(missing)}. Run: pip install "functional_train[demo]"')
    try:
        _check_writable(options.out)
        return _run(options)
    except TaskError as error:
        parser.error(str(error))
    except ft.NonFiniteError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return _complain("interrupted", _INTERRUPTED)


def _run(options: argparse.Namespace) -> int:
    make_task, defaults = TASKS[options.task].make_task, TASKS[options.task].DEFAULTS
    num_steps = options.steps or defaults.num_steps
    lr = options.lr or defaults.lr[options.optimizer]
    task = make_task(ft.random.key(options.seed), options.batch_size or defaults.batch_size)
    print(f"data   {task.data}")
    print(f"model  {ft.tree.num_elements(task.params):,} parameters in {len(task.params)} tensors")
    print(f"run    {num_steps} steps of {options.optimizer}, lr {lr:g}, on {options.device}", flush=True)

    optimizer = training.make_optimizer(options.optimizer, lr, num_steps)
    start = time.monotonic()
    state, history = training.train(task, optimizer, num_steps, options.device)
    seconds = time.monotonic() - start

    interrupted = history.ended == "interrupted"
    print(f"\n{'interrupted' if interrupted else 'trained'} after {int(state.step)} steps, {seconds:.1f} s")
    for path, content in training.save(options.out, options.task, state, history).items():
        print(f"saved {path}: {content}")
    print(f"\n{task.report(state)}", flush=True)
    batch = ft.tree.to(task.batch_at(int(state.step)), options.device)
    print(f"\nwho owned what, in one more step\n{ownership.measure(task, optimizer, state, batch)}")
    return _INTERRUPTED if interrupted else 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROGRAM}: {message}\n")


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        usage="%(prog)s [options]",
        description="Train a small model on real data with pure functions, and show who owned what on the way. "
        "The same seed gives the same numbers.",
        allow_abbrev=False,
    )
    steps, batch_size, lr = (
        "; ".join(f"{name}: {_shown(module.DEFAULTS[field])}" for name, module in TASKS.items()) for field in range(3)
    )
    add = parser.add_argument
    add("--task", choices=TASKS, default="digits", help="handwritten digits, or Python's source as text (digits)")
    add("--optimizer", choices=training.OPTIMIZERS, default="adamw", help="what updates the parameters (adamw)")
    add("--lr", type=_rate, metavar="RATE", help=f"the highest learning rate ({lr})")
    add("--steps", type=_count, metavar="N", help=f"how many batches to train on ({steps})")
    add("--batch-size", type=_count, metavar="N", help=f"how many samples a batch has ({batch_size})")
    add("--seed", type=_seed, default=0, metavar="N", help="what all randomness comes from (0)")
    add("--device", type=_device, default="cpu", help="cpu, cuda, cuda:1, ... (cpu)")
    add("--out", type=Path, default="functional_train_output", metavar="FOLDER", help="where files go (%(default)s)")
    return parser


def _shown(default: object) -> str:
    return (
        ", ".join(f"{name} {value:g}" for name, value in default.items()) if isinstance(default, dict) else str(default)
    )


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {word!r}")
    return int(word)


def _seed(word: str) -> int:
    if not word.isdecimal() or int(word) >= 2**64:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2**64 - 1, got {word!r}")
    return int(word)


def _rate(word: str) -> float:
    try:
        rate = float(word)
    except ValueError:
        rate = math.nan
    if not 0.0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {word!r}")
    return rate


def _device(word: str) -> str:
    # Reading a number fails on a device without memory; builds of torch without CUDA assert that they have it.
    try:
        float(torch.zeros((), device=word))
    except (RuntimeError, AssertionError):
        raise argparse.ArgumentTypeError(f"there is no device {word!r} here") from None
    return word


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise TaskError(f"argument --out: cannot write to {folder}: {error.strerror}") from None


def _complain(message: str, code: int = 1) -> int:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    return code
