"""`fit`: a fold of a step with progress, evaluation, records, and an orderly end."""

import contextlib
import itertools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from functional_train.runs.history import History, Recorder
from functional_train.runs.interrupts import Interrupts
from functional_train.runs.placement import place
from functional_train.runs.progress import Progress, note
from functional_train.steps.compiling._donate import Consumed
from functional_train.values.errors import BatchesError, HyperparameterError, NonFiniteError
from functional_train.values.tree._build import copy
from functional_train.values.tree._structure import device_of
from functional_train.values.types import StepFn

Observer = Callable[[Any, Mapping[str, Any]], None]

_SECONDS_BETWEEN_LOGS = 1.0


def fit(
    step: StepFn,
    state: Any,
    batches: Iterable[Any],
    *,
    steps: int | None = None,
    evaluate: Callable[[Any], Mapping[str, Any]] | None = None,
    evaluate_every: int | None = None,
    stop: Callable[[History], bool] | None = None,
    observers: Sequence[Observer] = (),
    log_every: int = 100,
    check_finite: bool = True,
    progress: bool = True,
) -> tuple[Any, History]:
    """Train, and return the last state and what was recorded.

    An interrupt (Ctrl-C, a stopped notebook cell) ends the run early and returns the last whole state. Metrics stay on
    their device until log time, which comes every `log_every` steps and about every second: only then does the host
    wait.

    Args:
        step: `(state, batch) -> (state, metrics)`.
        state: Where to begin, as `init_state` makes it; it stays as it is, and a step that donates moves a copy. Then
            an observer that keeps a state has to copy it.
        batches: Any iterable of batches, a `torch.utils.data.DataLoader` included, read from its beginning whatever
            `state.step` is: to go on in the middle, pass the batches that are left. When it ends before `steps` and can
            be iterated again, it is. Tensors are moved to the state's device.
        steps: How many further steps to take; by default one pass over `batches`.
        evaluate: `state -> metrics`, a pure function; recorded as `"eval/..."`.
        evaluate_every: Steps between evaluations; by default one evaluation a pass over `batches`. The last state is
            always evaluated.
        stop: `history -> bool`, asked after every evaluation, or every `log_every` steps when there is none; see
            `early_stopping`.
        observers: Functions called with `(state, metrics)` after every step.
        log_every: Most steps between two log times, at least 1.
        check_finite: Whether a loss that is not finite ends the run with an error, at log time; not where the step
            reports a metric `"skipped"` that is not 0, as `make_scaled_step` does when it stepped over an overflow.
        progress: Whether to show a progress bar; it stays quiet when output is neither a terminal nor a notebook.

    Returns:
        The last state, and the history.

    Raises:
        BatchesError: the iterable of batches is empty.
        NonFiniteError: the loss became infinite or nan; the error carries `.state` and `.history`. Any other exception
            that a step raises is given the same two attributes.
        HyperparameterError: steps is negative, or log_every or evaluate_every is less than 1.

    Example:
        >>> import functional_train as ft, torch
        >>> loss_fn = lambda params, batch: (params["w"] - batch).square().sum()
        >>> step = ft.make_step(ft.grad_and_value(loss_fn), optimizer := ft.sgd(0.1))
        >>> state = ft.init_state({"w": torch.zeros(1)}, optimizer)
        >>> state, history = ft.fit(step, state, [torch.ones(1)] * 10, steps=30)
        >>> len(history["loss"]), history.ended
        (30, 'finished')
    """
    for name, value, least in (("steps", steps, 0), ("evaluate_every", evaluate_every, 1), ("log_every", log_every, 1)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise HyperparameterError(f"{name} must be an int >= {least}, got {value!r}.")
    # The members of a stacked state have gone the same way.
    start = int(torch.as_tensor(getattr(state, "step", 0)).max())
    donates = getattr(step, "donates", False)
    if donates:
        state = copy(state)
    run = _Run(step, state, Recorder(start), evaluate, check_finite)
    try:
        with run.interrupts.installed(donates), Progress(steps, batches, progress) as bar:
            ended = _go_through(run, bar, _passes(batches, steps), evaluate_every, stop, tuple(observers), log_every)
        if steps is not None and ended == "finished" and run.recorder.taken < steps:
            ended = "batches ran out"
            warnings.warn(
                f"batches ran out after {run.recorder.taken} of {steps} steps: the iterable can be read only once. "
                "Pass a list, a DataLoader, or an endless generator.",
                RuntimeWarning,
                stacklevel=2,
            )
        return run.result(ended)
    except KeyboardInterrupt:
        ended = run.result("interrupted")
        note(f"fit was interrupted after {run.recorder.taken} steps and returns the last whole state.")
        return ended
    except NonFiniteError:
        raise
    except Exception as error:
        run.hand_over(error)
        raise


_END_OF_PASS = object()


def _passes(batches: Iterable[Any], steps: int | None) -> Iterator[Any]:
    """`steps` batches in pass after pass, or one pass, each followed by a mark; never reads a batch too many."""
    left = steps
    while left is None or left > 0:
        iterator = iter(batches)
        found = False
        for batch in itertools.islice(iterator, left):
            found = True
            yield batch
            left = None if left is None else left - 1
        if not found:
            if left == steps:
                raise BatchesError(
                    "there are no batches: the iterable is empty. A generator can be read only once; a DataLoader with "
                    "drop_last=True gives nothing when the data set is smaller than a batch."
                )
            return
        yield _END_OF_PASS
        if left is None or iterator is batches:
            return


class _Run:
    """What one call of `fit` changes as it goes. Nobody else sees it."""

    def __init__(
        self,
        step: StepFn,
        state: Any,
        recorder: Recorder,
        evaluate: Callable[[Any], Mapping[str, Any]] | None,
        check_finite: bool,
    ) -> None:
        self.step = step
        self.current: tuple[int, Any, Mapping[str, Any]] = (0, state, {})
        self.device = device_of(state)
        self.recorder = recorder
        self.evaluate_fn = evaluate
        self.check_finite = check_finite
        self.interrupts = Interrupts()
        self.last_log = time.monotonic()

    def take(self, batch: Any) -> None:
        taken, state, _ = self.current
        batch = place(batch, self.device)
        with self.interrupts.after_this():
            state, metrics = self.step(state, batch)
            # One assignment: an interrupt leaves either all of the old or all of the new.
            self.current = (taken + 1, state, metrics)
        self.catch_up()

    def catch_up(self) -> None:
        """Record the last step, unless that was done; an interrupt may come between a step and its record."""
        taken, _, metrics = self.current
        if self.recorder.taken < taken:
            self.recorder.add(metrics)

    def result(self, ended: str) -> tuple[Any, History]:
        """The last whole state with its records."""
        self.catch_up()
        # After an interrupt metrics are pending; if they cannot be recorded, the state is still worth more than that.
        with contextlib.suppress(Exception):
            self.recorder.flush()
        return self.current[1], self.recorder.history(ended)

    def log(self, bar: Progress) -> None:
        self.last_log = time.monotonic()
        chunk = self.recorder.flush()
        bar.show(chunk)
        if not self.check_finite or "loss" not in chunk:
            return
        bad = ~torch.isfinite(chunk["loss"])
        skipped = chunk.get("skipped")
        if skipped is not None and skipped.shape == bad.shape:
            bad &= skipped == 0
        bad = bad.nonzero()
        if len(bad):
            where = int(bad[0, 0])
            raise NonFiniteError(
                f"the loss is {chunk['loss'][where].tolist()} at step {int(chunk['step'][where])}. Lower lr, clip with "
                "ft.clip_by_global_norm, or look at that batch; check_finite=False goes on regardless. "
                "The last state is error.state, the records are error.history.",
                state=self.current[1],
                history=self.recorder.history("not finite"),
            )

    def evaluate(self) -> None:
        if self.evaluate_fn is not None and not self.recorder.is_evaluated:
            self.recorder.evaluate(self.evaluate_fn(self.current[1]))

    def hand_over(self, error: Exception) -> None:
        """Hand the last whole state to whoever catches the error: nothing is lost."""
        # The error may be that metrics cannot be recorded, and an error may refuse attributes.
        with contextlib.suppress(Exception):
            self.catch_up()
            self.recorder.flush()
        with contextlib.suppress(Exception):
            error.state = self.current[1]  # pyright: ignore[reportAttributeAccessIssue]
            error.history = self.recorder.history("failed")  # pyright: ignore[reportAttributeAccessIssue]
        rest = (
            "The step, which moves its state, raised when some of the new one was written, so the last state is lost. "
            "Keep copies now and then, with an observer and ft.tree.copy(state), or compile without donate."
            if isinstance(self.current[1], Consumed)
            else "The last whole state is error.state."
        )
        error.add_note(f"fit had taken {self.recorder.taken} steps. {rest} The records are error.history.")


def _go_through(
    run: _Run,
    bar: Progress,
    stream: Iterator[Any],
    evaluate_every: int | None,
    stop: Callable[[History], bool] | None,
    observers: tuple[Observer, ...],
    log_every: int,
) -> str:
    for batch in stream:
        if batch is _END_OF_PASS:
            due = evaluate_every is None and run.evaluate_fn is not None
        else:
            run.take(batch)
            for observer in observers:
                observer(*run.current[1:])
            bar.advance()
            due = evaluate_every is not None and run.recorder.taken % evaluate_every == 0
        # What ends a run is decided by counts alone; only the bar and the look at the loss go by the clock.
        asked = due or (run.evaluate_fn is None and batch is not _END_OF_PASS and run.recorder.taken % log_every == 0)
        to_log = due or run.recorder.taken % log_every == 0 or time.monotonic() - run.last_log > _SECONDS_BETWEEN_LOGS
        if to_log:
            run.log(bar)
        if due:
            run.evaluate()
        if stop is not None and asked and stop(run.recorder.history("running")):
            run.log(bar)
            return "stopped"
    run.log(bar)
    run.evaluate()
    return "finished"
