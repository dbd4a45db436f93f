"""`Checkpointer`: a folder of checkpoints that always has a whole one."""

import json
import math
import os
import re
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from functional_train.runs.checkpoints._contents import opened
from functional_train.runs.checkpoints._layout import Plan, plan
from functional_train.runs.checkpoints._plain import decode
from functional_train.runs.checkpoints._replace import make_folder, replacing
from functional_train.runs.checkpoints.files import load, write
from functional_train.runs.history import History
from functional_train.steps.state import position
from functional_train.updates.checks import check_whole
from functional_train.values.errors import CheckpointError, HyperparameterError, StructureError
from functional_train.values.types import Tree

_FILE = re.compile(r"step-(\d{8,})\.safetensors")
_MANIFEST = "manifest.json"


class Saved(NamedTuple):
    """What a checkpoint held.

    Attributes:
        state: As it was saved.
        history: The records up to it; empty when none were saved.
        path: Its file.

    Example:
        >>> import functional_train as ft, torch
        >>> checkpointer = ft.Checkpointer("run")
        >>> checkpointer.save(state := ft.init_state({"w": torch.ones(1)}, ft.sgd()))
        >>> checkpointer.restore(state).path.name
        'step-00000000.safetensors'
    """

    state: Tree
    history: History
    path: Path


def _check_counts(state: Tree) -> None:
    if not hasattr(state, "step"):
        raise StructureError(
            f"a {type(state).__name__} has no step to be saved under; a TrainState has. Use ft.save(path, tree)."
        )


def _for_json(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)


class _Record(NamedTuple):
    """A checkpoint whose header is whole."""

    step: int
    path: Path
    metric: float | None


class Checkpointer:
    """Saves states to a folder, keeps some of them, and finds the newest whole one.

    Each checkpoint is one file `step-00001000.safetensors`, written by `ft.save`; `manifest.json` lists them for
    people. A file takes its name when it is on the disk, so whenever the process is killed the folder has a whole
    checkpoint, at least as new as the last save that `wait` waited for. Writing goes on in the background: a state is a
    value, so it stays what it is while later steps make others. A step that moves its state copies the leaves that are
    still being written.

    Args:
        folder: Made when it is not there. One run at a time writes to it.
        every: Steps of `fit` between checkpoints, at least 1; the last state of a run is always saved.
        keep: How many of the newest checkpoints stay, at least 1.
        best: A metric of the history, such as "eval/loss". The checkpoint with its best value stays too, and `fit`
            saves after each evaluation that is the best so far.
        mode: "min" when a small metric is good, "max" when a large one is.
        background: Whether `save` returns before the file is written.

    Raises:
        HyperparameterError: every, keep or mode is none of these.
        OSError: the folder cannot be made.

    Example:
        >>> import functional_train as ft, torch
        >>> step = ft.make_step(ft.grad_and_value(lambda p, batch: (p["w"] - batch).square().sum()), ft.sgd(0.1))
        >>> state, batches = ft.init_state({"w": torch.zeros(1)}, ft.sgd(0.1)), [torch.ones(1)] * 10
        >>> _ = ft.fit(step, state, batches, steps=20, checkpoint=ft.Checkpointer("run", every=10))
        >>> state, history = ft.fit(step, state, batches, steps=30, checkpoint="run")  # goes on at step 20
        >>> len(history["loss"]), ft.Checkpointer("run").steps
        (30, [10, 20, 30])
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        every: int = 1000,
        keep: int = 3,
        best: str | None = None,
        mode: str = "min",
        background: bool = True,
    ) -> None:
        check_whole("every", every, 1)
        check_whole("keep", keep, 1)
        if mode not in ("min", "max"):
            raise HyperparameterError(f"mode must be 'min' or 'max', got {mode!r}.")
        # Wherever the process goes later.
        self.folder = Path(folder).absolute()
        self.every = every
        self.keep = keep
        self.best = best
        self.mode = mode
        make_folder(self.folder)
        self._background = background
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._process = os.getpid()
        self._pending: Future[None] | None = None
        self._metrics: dict[tuple[str, int, int], float | None] = {}

    def __repr__(self) -> str:
        return f"Checkpointer({str(self.folder)!r}, every={self.every}, keep={self.keep}, steps={self.steps})"

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints in the folder, the newest last; broken ones are not told apart."""
        return [step for step, _ in self._files()]

    def path(self, step: int) -> Path:
        """The file of a step, whether or not it is there."""
        return self.folder / f"step-{step:08d}.safetensors"

    def save(self, state: Tree, history: History | None = None) -> None:
        """Save a state under its step.

        Waits for the save before, if that is still being written. Checkpoints of later steps, which a run leaves behind
        that goes on from an earlier one, are set aside: their names get an ending.

        Args:
            state: Any tree with a `step`; `TrainState` has one.
            history: The records so far, `best` among them.

        Raises:
            StructureError: the state has no step, or a leaf that cannot be saved.
            OSError: this file, or that of the save before, cannot be written; the message names it.
        """
        _check_counts(state)
        step = position(state)
        if step < 0:
            raise StructureError(f"the state is at step {step}; a checkpoint is of a step >= 0.")
        metric = None if history is None else self.metric_of(history, step)
        columns = {} if history is None else dict(history)
        named = {} if metric is None else {self.best: metric}
        planned = plan({"state": state, "history": columns, "metric": named})
        self.wait()
        if os.getpid() != self._process:  # a child has none of its parent's threads
            self._pool, self._process = ThreadPoolExecutor(1, thread_name_prefix="checkpoint"), os.getpid()
        self._pending = self._pool.submit(self._write, step, planned)
        if not self._background:
            self.wait()

    def wait(self) -> None:
        """Wait until all that was saved is on the disk.

        Raises:
            OSError: a file cannot be written; the message names it.
        """
        pending = self._pending
        if pending is None or os.getpid() != self._process:
            return
        try:
            pending.result()
        finally:
            # An interrupt may come before it is done.
            if pending.done():
                self._pending = None

    def restore(self, like: Tree, step: int | None = None) -> Saved | None:
        """Load the newest whole checkpoint, or that of one step.

        Args:
            like: A state of the same structure, such as the one that training starts from.
            step: Which; by default the newest one that is whole. Those that are not are passed over with a warning.

        Returns:
            What was saved, or None when the folder has no checkpoint.

        Raises:
            StructureError: the checkpoint holds another kind of state; the message lists where.
            CheckpointError: there are checkpoints, and none of them is whole.
            FileNotFoundError: there is no checkpoint of that step.
        """
        self.wait()
        if step is not None:
            return self._load(self.path(step), like)
        failed: list[str] = []
        for _, path in reversed(self._files()):
            try:
                return self._load(path, like)
            except (CheckpointError, FileNotFoundError) as error:
                failed.append(str(error))
                warnings.warn(f"a checkpoint was passed over: {error}", RuntimeWarning, stacklevel=2)
        if failed:
            raise CheckpointError(
                f"{self.folder} has {len(failed)} checkpoints, and none of them is whole:\n  " + "\n  ".join(failed)
            )
        return None

    def restore_best(self, like: Tree) -> Saved | None:
        """Load the checkpoint with the best value of the metric `best`.

        Args:
            like: As `restore`.

        Returns:
            What was saved, or None when no checkpoint has that metric.

        Raises:
            StructureError: as `restore`.
            CheckpointError: the file is not what was saved.
        """
        self.wait()
        found = self._best(self._records())
        return None if found is None else self._load(found.path, like)

    def is_best(self, history: History) -> bool:
        """Whether the last step of a history has a better value of the metric `best` than all checkpoints."""
        value = self.metric_of(history, int(history["step"][-1])) if len(history.get("step", ())) else None
        if value is None or math.isnan(value):
            return False
        best = self._best(self._records())
        return best is None or best.metric is None or self._better(value, best.metric)

    def metric_of(self, history: History, step: int) -> float | None:
        """The value of the metric `best` at a step, or None when it was not measured then."""
        if self.best is None:
            return None
        column = history.get(self.best)
        if column is None or not len(column):
            if self.best.startswith("eval/") and "eval/step" not in history:
                return None
            raise HyperparameterError(
                f"the checkpointer keeps the best {self.best!r}, which was not recorded; there is {', '.join(history)}."
            )
        steps = history["eval/step" if self.best.startswith("eval/") else "step"]
        return float(column[-1]) if int(steps[-1]) == step else None

    def _better(self, value: float, other: float) -> bool:
        return value < other if self.mode == "min" else value > other

    def _best(self, records: list[_Record]) -> _Record | None:
        found: _Record | None = None
        for record in records:
            value = record.metric
            if value is None or math.isnan(value):
                continue
            if found is None or found.metric is None or self._better(value, found.metric):
                found = record
        return found

    def _files(self) -> list[tuple[int, Path]]:
        """The checkpoints in the folder by step."""
        found = ((_FILE.fullmatch(path.name), path) for path in self.folder.iterdir())
        return sorted((int(match[1]), path) for match, path in found if match)

    def _records(self) -> list[_Record]:
        """The checkpoints whose headers are whole, by step."""
        records: list[_Record] = []
        for step, path in self._files():
            try:
                status = path.stat()
                identity = (path.name, status.st_mtime_ns, status.st_size)
                if identity not in self._metrics:
                    with opened(path) as (_, header):
                        node = header.node["children"][header.node["keys"].index("metric")]
                    metric = dict(zip(node["keys"], node["children"], strict=True)).get(self.best)
                    self._metrics[identity] = None if metric is None else float(decode(metric["value"]))
                records.append(_Record(step, path, self._metrics[identity]))
            except (CheckpointError, OSError, ValueError, TypeError, KeyError):
                continue
        return records

    def _write(self, step: int, planned: Plan) -> None:
        path = self.path(step)
        write(path, planned, fsync=True)
        for other, old in self._files():
            if other > step:
                old.replace(old.with_name(f"{old.name}.aside"))
        records = self._records()
        best = self._best(records)
        kept = [record for record in records if record in records[-self.keep :] or record is best]
        self._write_manifest(kept, best)
        for record in records:
            if record not in kept:
                record.path.unlink(missing_ok=True)

    def _write_manifest(self, kept: list[_Record], best: _Record | None) -> None:
        rows = [
            {"file": record.path.name, "step": record.step, "bytes": record.path.stat().st_size}
            | ({} if record.metric is None else {str(self.best): _for_json(record.metric)})
            | ({"best": True} if record is best and self.best is not None else {})
            for record in kept
        ]
        note = "For people: load goes by the files themselves."
        with replacing(self.folder / _MANIFEST, fsync=False) as file:
            file.write(json.dumps({"note": note, "checkpoints": rows}, indent=2).encode(), 0)

    def check(self, state: Tree) -> None:
        """Refuse a state that cannot be saved, before a run takes hours to come to that.

        Args:
            state: As `save`.

        Raises:
            StructureError: as `save`.
        """
        _check_counts(state)
        plan(state)

    def _load(self, path: Path, like: Tree) -> Saved:
        found = load(path, {"state": like, "history": ..., "metric": ...})
        return Saved(found["state"], History(found["history"]), path)
