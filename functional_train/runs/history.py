"""`History`: what a run recorded, as a mapping of arrays."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from functional_train.runs.kept import States
from functional_train.updates.checks import check_whole
from functional_train.values.errors import HyperparameterError, StructureError

if TYPE_CHECKING:
    import pandas


_COUNTS = ("step", "eval/step")


class History(Mapping[str, Tensor]):
    """An immutable mapping from metric name to a tensor with one entry a step.

    `"step"` counts batches consumed. Evaluations are named `"eval/..."` and have an `"eval/step"` of their own.

    Args:
        columns: Name to tensor; equal lengths among the steps and among the evaluations.
        ended: Why the run ended: "finished", "interrupted", "stopped", "time limit" or "batches ran out"; beside an
            error "failed" or "not finite".
        states: Step to state, of those that were kept.

    Example:
        >>> import functional_train as ft, torch
        >>> history = ft.History({"step": torch.tensor([1, 2]), "loss": torch.tensor([0.5, 0.25])})
        >>> history["loss"]
        tensor([0.5000, 0.2500])
        >>> history
        History of 2 steps: loss 0.25 (finished)
    """

    def __init__(
        self, columns: Mapping[str, Tensor], ended: str = "finished", states: Mapping[int, Any] | None = None
    ) -> None:
        self._columns = dict(columns)
        self._ended = ended
        self._states = States(states or {})

    @property
    def ended(self) -> str:
        """Why the run ended, in a word or two; see the class."""
        return self._ended

    @property
    def states(self) -> States:
        """The states that `fit(keep_every=...)` kept: `history.states[200]`, `history.states.at(250)`."""
        return self._states

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._columns:
            raise KeyError(f"{name!r} was not recorded; there is {', '.join(self._columns) or 'nothing'}.")
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        steps = len(self._columns["step"]) if "step" in self._columns else 0
        last = [
            f"{name} {float(column[-1]):.4g}" if column.ndim == 1 else f"{name} of shape {tuple(column.shape[1:])}"
            for name, column in self._columns.items()
            if name not in _COUNTS and len(column) and not column.is_complex()
        ]
        return f"History of {steps} steps: {', '.join(last) or 'nothing recorded'} ({self.ended})"

    def frame(self) -> "pandas.DataFrame":
        """The records as a pandas frame indexed by step; evaluations have gaps between them.

        Returns:
            One row a step, one column a metric; metrics that are not single numbers are left out.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("History.frame() needs pandas: pip install pandas") from error
        frames = []
        for prefix in ("", "eval/"):
            if f"{prefix}step" in self._columns:
                chosen = {
                    name: column.tolist()
                    for name, column in self._columns.items()
                    if name.startswith("eval/") == bool(prefix) and name not in _COUNTS and column.ndim == 1
                }
                frames.append(pandas.DataFrame(chosen, index=self._columns[f"{prefix}step"].tolist()))
        joined = frames[0].join(frames[1:], how="outer") if frames else pandas.DataFrame()
        joined.index.name = "step"
        return joined


class Recorder:
    """Collects metrics without waiting for the device; `flush` does the waiting.

    Chunks on the host and metrics still pending are held in one attribute, so that an interrupt finds either all of a
    flush or nothing of it.

    Args:
        start: The step before the first that is recorded.
        before: Columns of a history to go on from; what they hold of `start` and earlier is left out.
    """

    def __init__(self, start: int, before: Mapping[str, Tensor] | None = None) -> None:
        self.start = start
        before = {name: column.cpu() for name, column in (before or {}).items()}
        chunk = _later(before, "step", start)
        # Chunks, the number of steps in them, and metrics pending.
        self._held: tuple[tuple[dict[str, Tensor], ...], int, list[Mapping[str, Any]]] = (
            (chunk,) if chunk else (),
            len(chunk.get("step", ())),
            [],
        )
        evaluated = _later(before, "eval/step", start)
        self._evaluations: list[tuple[int, dict[str, Tensor]]] = [
            (
                step - start,
                {name.removeprefix("eval/"): column[row] for name, column in evaluated.items() if name not in _COUNTS},
            )
            for row, step in enumerate(evaluated["eval/step"].tolist() if evaluated else ())
        ]

    @property
    def taken(self) -> int:
        """How many steps were recorded."""
        return self._held[1] + len(self._held[2])

    @property
    def is_evaluated(self) -> bool:
        """Whether there is an evaluation after the last step."""
        return bool(self._evaluations) and self._evaluations[-1][0] == self.taken

    def add(self, metrics: Mapping[str, Any]) -> None:
        self._held[2].append(metrics)

    def evaluate(self, metrics: Mapping[str, Any]) -> None:
        where = f"the evaluation after step {self.start + self.taken}"
        row = {name: tensor.cpu() for name, tensor in _row(metrics, where).items()}
        if self._evaluations:
            _check_alike(row, self._evaluations[0][1], where)
        self._evaluations.append((self.taken, row))

    def flush(self) -> dict[str, Tensor]:
        """Bring pending metrics to the host; returns them as columns, empty when nothing is pending."""
        chunks, before, pending = self._held
        if not pending:
            return {}
        first = self.start + before + 1
        rows = [_row(metrics, f"step {first + position}") for position, metrics in enumerate(pending)]
        like = {name: column[0] for name, column in chunks[0].items() if name != "step"} if chunks else rows[0]
        for position, row in enumerate(rows):
            _check_alike(row, like, f"step {first + position}")
        chunk = {"step": torch.arange(first, first + len(pending))}
        for name in like:
            chunk[name] = torch.stack([row[name] for row in rows]).cpu()
        self._held = ((*chunks, chunk), before + len(pending), [])
        return chunk

    def history(self, ended: str) -> History:
        """Everything flushed and evaluated so far."""
        chunks = self._held[0]
        columns = {name: torch.cat([chunk[name] for chunk in chunks]) for name in (chunks[0] if chunks else ())}
        if self._evaluations:
            columns["eval/step"] = torch.tensor([self.start + taken for taken, _ in self._evaluations])
            for name in self._evaluations[0][1]:
                columns[f"eval/{name}"] = torch.stack([metrics[name] for _, metrics in self._evaluations])
        return History(columns, ended)


def _later(columns: Mapping[str, Tensor], count: str, start: int) -> dict[str, Tensor]:
    """The records of steps after `start`, of those columns that are counted by `count`."""
    if count not in columns:
        return {}
    later = columns[count] > start
    of_evaluations = count.startswith("eval/")
    chosen = {name: column for name, column in columns.items() if name.startswith("eval/") == of_evaluations}
    return {name: column[later] for name, column in chosen.items()} if later.any() else {}


def _row(metrics: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    row: dict[str, Tensor] = {}
    for name, value in metrics.items():
        if name.startswith("eval/") and where.startswith("step "):
            raise StructureError(
                f"the metrics of {where} have a {name!r}, a name that evaluations have. Call it something else."
            )
        if name == "step":
            raise StructureError(
                f"the metrics of {where} have a 'step', which fit counts itself. Call it something else."
            )
        try:
            row[name] = torch.as_tensor(value).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise StructureError(
                f"the metric {name!r} of {where} is a {type(value).__name__}; metrics are numbers and tensors."
            ) from error
    return row


def _check_alike(row: Mapping[str, Tensor], like: Mapping[str, Tensor], where: str) -> None:
    found, expected = ({name: tuple(tensor.shape) for name, tensor in one.items()} for one in (row, like))
    if found != expected:
        raise StructureError(
            f"the metrics of {where} have shapes {found}, those before had {expected}. "
            "Always measure the same; use nan where there is nothing to measure."
        )


def early_stopping(
    metric: str = "eval/loss", patience: int = 5, min_delta: float = 0.0, mode: str = "min"
) -> Callable[[History], bool]:
    """Make the predicate that says when a metric has stopped improving.

    Args:
        metric: Name in the history.
        patience: How many entries in a row may fail to improve on the best before them; at least 1.
        min_delta: By how much an entry must be better to count, at least 0; in the metric's unit.
        mode: "min" when small is good, "max" when large is.

    Returns:
        `history -> bool`, for `fit(stop=...)`. It remembers nothing: it reads the history.

    Raises:
        HyperparameterError: patience, min_delta or mode is none of these, or when asked: the metric was not recorded.

    Source: Prechelt 1998, "Early stopping - but when?", the class UP of criteria.

    Example:
        >>> import functional_train as ft, torch
        >>> stop = ft.early_stopping(patience=2)
        >>> stop(ft.History({"eval/loss": torch.tensor([1.0, 0.5, 0.6, 0.7])}))
        True
        >>> stop(ft.History({"eval/loss": torch.tensor([1.0, 0.5, 0.6, 0.4])}))
        False
    """
    if mode not in ("min", "max"):
        raise HyperparameterError(f"mode must be 'min' or 'max', got {mode!r}.")
    check_whole("patience", patience, 1, "5 is usual.")
    if not 0.0 <= min_delta < float("inf"):
        raise HyperparameterError(f"min_delta must be a finite number >= 0, got {min_delta!r}.")

    def stop(history: History) -> bool:
        if metric not in history:
            raise HyperparameterError(
                f"early_stopping watches {metric!r}, which was not recorded; there is "
                f"{', '.join(history) or 'nothing'}. "
                "Metrics of fit(evaluate=...) are called 'eval/...'."
            )
        values = [float(value) if mode == "min" else -float(value) for value in history[metric]]
        best, since = float("inf"), 0
        for value in values:
            if value < best - min_delta:
                best, since = value, 0
            else:
                since += 1
        return since >= patience

    return stop
