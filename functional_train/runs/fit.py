"""`fit`: a fold of a step with progress, evaluation, records, and an orderly end."""

import contextlib
import itertools
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, NoReturn

from functional_train.runs.checkpoints.checkpointer import Checkpointer, Saved
from functional_train.runs.faults import is_out_of_memory, not_finite, skipped_in_a_row
from functional_train.runs.history import History, Recorder
from functional_train.runs.interrupts import Interrupts
from functional_train.runs.kept import Keeper
from functional_train.runs.passes import END_OF_PASS, passes
from functional_train.runs.placement import place
from functional_train.runs.progress import Progress, note
from functional_train.steps.compiling._donate import is_lost
from functional_train.steps.state import position
from functional_train.updates.checks import check_whole
from functional_train.values.errors import HyperparameterError, NonFiniteError, StructureError
from functional_train.values.tree._build import copy
from functional_train.values.tree._structure import device_of
from functional_train.values.types import StepFn

Observer = Callable[[Any, Mapping[str, Any]], None]

_SECONDS_BETWEEN_LOGS = 1.0
_MOST_SKIPPED = 100
_RESUMED = object()


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
    checkpoint: Checkpointer | str | PathLike[str] | None = None,
    keep_every: int | None = None,
    keep_bytes: int = 1 << 30,
    time_limit: float | None = None,
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
        batches: `ft.data.Batches` or a `Loader`, read from position `state.step` on; or any iterable of batches, a
            `torch.utils.data.DataLoader` included, read from its beginning whatever `state.step` is: to go on in the
            middle, pass the batches that are left, and to resume exactly let it give the same ones in each process.
            When it ends before `steps` and can be iterated again, it is. Tensors are moved to the state's device.
        steps: How many further steps to take; by default one pass over `batches`.
        evaluate: `state -> metrics`, a pure function; recorded as `"eval/..."`.
        evaluate_every: Steps between evaluations; by default one evaluation a pass over `batches`. The last state is
            always evaluated.
        stop: `history -> bool`, asked after every evaluation, or every `log_every` steps when there is none; see
            `early_stopping`.
        observers: Functions called with `(state, metrics)` after every step.
        log_every: Most steps between two log times, at least 1.
        check_finite: Whether a loss that is not finite ends the run with an error, at log time; not where the step
            reports a metric `"skipped"` that is not 0, as `make_skipping_step` and `make_scaled_step` do. When 100
            steps in a row were skipped, the run stands still and ends as well.
        checkpoint: A `Checkpointer`, or a folder for one with its defaults. When it has a checkpoint, the run goes on
            from the newest whole one as if it had never stopped: `steps` and one pass are counted from `state`, and
            batches that were consumed are passed over. So the same call resumes a run, or returns at once what it had
            come to. The last state is saved too, also after an interrupt or an error, and when the process is told to
            end (SIGTERM), which it then does with status 143.
        keep_every: Steps between states that stay in memory as `history.states`, to go back to and to branch from; by
            default none. They are values, so what two of them share is there once.
        keep_bytes: When those states take more memory, every second one is given up, and `keep_every` doubles.
        time_limit: Seconds after which the run ends, as "time limit", with the step that is running.
        progress: Whether to show a progress bar; it stays quiet when output is neither a terminal nor a notebook.

    Returns:
        The last state, and the history.

    Raises:
        BatchesError: the iterable of batches is empty.
        NonFiniteError: the loss became infinite or nan, or too many steps were skipped; the error carries `.state`
            and `.history`. Any other exception that a step raises is given the same two attributes.
        HyperparameterError: steps or time_limit is negative, or log_every, evaluate_every or keep_every is below 1.
        StructureError: the checkpoint holds another kind of state, or one of an earlier step than `state`.
        CheckpointError: there are checkpoints, and none of them is whole.

    Example:
        >>> import functional_train as ft, torch
        >>> loss_fn = lambda params, batch: (params["w"] - batch).square().sum()
        >>> step = ft.make_step(ft.grad_and_value(loss_fn), optimizer := ft.sgd(0.1))
        >>> state = ft.init_state({"w": torch.zeros(1)}, optimizer)
        >>> state, history = ft.fit(step, state, [torch.ones(1)] * 10, steps=30)
        >>> len(history["loss"]), history.ended
        (30, 'finished')
    """
    for name, value, least in (
        ("steps", steps, 0),
        ("evaluate_every", evaluate_every, 1),
        ("log_every", log_every, 1),
        ("keep_every", keep_every, 1),
    ):
        if value is not None:
            check_whole(name, value, least)
    if time_limit is not None and not (isinstance(time_limit, int | float) and time_limit >= 0):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HyperparameterError(f"time_limit must be a number of seconds >= 0, got {time_limit!r}.")
    donates = getattr(step, "donates", False)
    checkpointer = (
        checkpoint if checkpoint is None or isinstance(checkpoint, Checkpointer) else Checkpointer(checkpoint)
    )
    start = position(state)
    if checkpointer is not None:
        checkpointer.check(state)
    saved = None if checkpointer is None else checkpointer.restore(state)
    if saved is not None:
        state = saved.state
        _check_resumed(saved, start)
        if progress:
            # Who meant to begin anew is told which folder says otherwise.
            note(f"fit goes on from step {position(state)}, saved as {saved.path}.")
    elif donates:
        state = copy(state)
    recorder = Recorder(start, saved.history if saved is not None else None)
    # A checkpoint that somebody saved without a history still says how far it had come.
    before = 0 if recorder.taken else position(state) - start
    recorder = recorder if before == 0 else Recorder(start + before)
    taken = before + recorder.taken
    keeper = None if keep_every is None else Keeper(keep_every, keep_bytes, moved=donates)
    run = _Run(step, state, recorder, evaluate, check_finite, checkpointer, keeper)
    deadline = None if time_limit is None else time.monotonic() + time_limit
    try:
        interrupts = run.interrupts.installed(donates, checkpointer is not None)
        with interrupts, Progress(steps, batches, progress, taken) as bar:
            stream = passes(batches, steps, start, taken)
            ended = _go_through(run, bar, stream, evaluate_every, stop, tuple(observers), log_every, deadline)
            run.save(always=True)
            if checkpointer is not None:
                checkpointer.wait()
        if run.interrupts.asked_to_end:
            note(f"fit was told to end after {before + run.recorder.taken} steps, and saved the last state.")
            raise SystemExit(128 + signal.SIGTERM)
        if steps is not None and ended == "finished" and before + run.recorder.taken < steps:
            ended = "batches ran out"
            warnings.warn(
                f"batches ran out after {before + run.recorder.taken} of {steps} steps: the iterable can be read only "
                "once. Pass a list, a DataLoader, or an endless generator.",
                RuntimeWarning,
                stacklevel=2,
            )
        return run.result(ended)
    except KeyboardInterrupt:
        ended = run.result("interrupted")
        try:
            saved = run.save_last()
        except Exception as error:  # noqa: BLE001 - the state is worth more than its checkpoint
            saved = ""
            warnings.warn(f"the last state could not be saved: {error}", RuntimeWarning, stacklevel=2)
        note(f"fit was interrupted after {run.recorder.taken} steps and returns the last whole state.{saved}")
        return ended
    except Exception as error:
        run.hand_over(error)
        raise


def _check_resumed(saved: Saved, start: int) -> None:
    reached = position(saved.state)
    if reached < start:
        raise StructureError(
            f"{saved.path} is at step {reached}, and the state that fit was given at {start} already: it is not the "
            "beginning of that run. Give fit the state that the run began with, or another folder."
        )


class _Run:
    """What one call of `fit` changes as it goes. Nobody else sees it."""

    def __init__(
        self,
        step: StepFn,
        state: Any,
        recorder: Recorder,
        evaluate: Callable[[Any], Mapping[str, Any]] | None,
        check_finite: bool,
        checkpointer: Checkpointer | None,
        keeper: Keeper | None,
    ) -> None:
        self.step = step
        self.current: tuple[int, Any, Mapping[str, Any]] = (recorder.taken, state, {})
        self.device = device_of(state)
        self.recorder = recorder
        self.evaluate_fn = evaluate
        self.check_finite = check_finite
        self.checkpointer = checkpointer
        self.keeper = keeper
        self.keep()
        self.saved: tuple[int, bool] | None = None
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
        self.keep()

    def keep(self) -> None:
        if self.keeper is not None:
            self.keeper.offer(self.recorder.start + self.recorder.taken, self.current[1])

    def history(self, ended: str) -> History:
        """The records, with the states that were kept."""
        found = self.recorder.history(ended)
        return found if self.keeper is None else History(found, ended, self.keeper.states())

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
        return self.current[1], self.history(ended)

    def log(self, bar: Progress) -> None:
        self.last_log = time.monotonic()
        chunk = self.recorder.flush()
        bar.show(chunk)
        bad = not_finite(chunk)
        if self.check_finite and len(bad):
            where = int(bad[0, 0])
            self._raise_not_finite(
                f"the loss is {chunk['loss'][where].tolist()} at step {int(chunk['step'][where])}. Lower lr, clip with "
                "ft.clip_by_global_norm, skip such batches with ft.make_skipping_step, or look at that one;"
            )
        skipped = skipped_in_a_row(self.current[1]) if self.check_finite else 0
        if skipped >= _MOST_SKIPPED:
            self._raise_not_finite(
                f"the last {skipped} steps up to {position(self.current[1])} were all skipped: the run stands still. "
                "Lower lr, look at the parameters and the data, or go back earlier, with ft.roll_back;"
            )

    def _raise_not_finite(self, what: str) -> NoReturn:
        raise NonFiniteError(f"{what} check_finite=False goes on regardless.")

    def evaluate(self) -> None:
        if self.evaluate_fn is not None and not self.recorder.is_evaluated:
            self.recorder.evaluate(self.evaluate_fn(self.current[1]))

    @property
    def is_save_due(self) -> bool:
        """Whether the last step is one of those after which a checkpoint is saved."""
        count = self.recorder.start + self.recorder.taken
        return self.checkpointer is not None and count % self.checkpointer.every == 0

    def save(self, *, always: bool = False) -> None:
        """Save the last state if it is time to, or if its evaluation is the best so far, and nothing is pending."""
        point = (self.recorder.taken, self.recorder.is_evaluated)
        if self.checkpointer is None or self.saved == point:
            return
        if always or self.is_save_due or (point[1] and self.checkpointer.best is not None):
            history = self.recorder.history("running")
            if always or self.is_save_due or self.checkpointer.is_best(history):
                self.checkpointer.save(self.current[1], history)
                self.saved = point

    def settle(self) -> None:
        """Wait for what is being saved; an error on the way out would hide the one that is being raised."""
        if self.checkpointer is not None:
            try:
                self.checkpointer.wait()
            except Exception:  # noqa: BLE001 - whatever it is, the last state is not on the disk
                self.saved = None

    def save_last(self) -> str:
        """Save the last state after an interrupt or an error, if it is whole and finite; says in words that it did."""
        self.settle()
        history = self.recorder.history("interrupted")
        lost = is_lost(self.current[1]) or (self.check_finite and len(not_finite(history)) > 0)
        if self.checkpointer is None or lost:
            return ""
        self.save(always=True)
        self.checkpointer.wait()
        return f" It is saved in {self.checkpointer.folder}."

    def hand_over(self, error: Exception) -> None:
        """Hand the last whole state to whoever catches the error: nothing is lost."""
        # The error may be that metrics cannot be recorded, and an error may refuse attributes.
        with contextlib.suppress(Exception):
            self.catch_up()
            self.recorder.flush()
        ended = "not finite" if isinstance(error, NonFiniteError) else "failed"
        with contextlib.suppress(Exception):
            # A step that skips or goes back knows better which state is whole.
            if not isinstance(error, NonFiniteError) or error.state is None:
                error.state = self.current[1]  # pyright: ignore[reportAttributeAccessIssue]
            error.history = self.history(ended)  # pyright: ignore[reportAttributeAccessIssue]
        saved = ""
        with contextlib.suppress(Exception):
            saved = self.save_last()
        rest = (
            "The step, which moves its state, raised when some of the new one was written, so the last state is lost. "
            "Keep states now and then with keep_every= or checkpoint=, or compile without donate."
            if is_lost(self.current[1])
            else f"The last whole state is error.state.{saved}"
        )
        if is_out_of_memory(error):
            rest += (
                " Go on from there with smaller batches; ft.accumulate_updates(optimizer, every=k) makes one update of "
                "k of them."
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
    deadline: float | None,
) -> str:
    # What was due after the step that a resumed run begins with may not have been done.
    for batch in itertools.chain([_RESUMED] if run.recorder.taken else [], stream):
        if batch is not END_OF_PASS and batch is not _RESUMED:
            run.take(batch)
            for observer in observers:
                observer(*run.current[1:])
            bar.advance()
        if batch is END_OF_PASS:
            due = evaluate_every is None and run.evaluate_fn is not None
        else:
            due = evaluate_every is not None and run.recorder.taken % evaluate_every == 0
        # What ends a run is decided by counts alone; only the bar and the look at the loss go by the clock.
        due_to_save = batch is not END_OF_PASS and run.is_save_due
        asked = due or (run.evaluate_fn is None and batch is not END_OF_PASS and run.recorder.taken % log_every == 0)
        to_log = (
            due
            or due_to_save
            or run.recorder.taken % log_every == 0
            or time.monotonic() - run.last_log > _SECONDS_BETWEEN_LOGS
        )
        if to_log:
            run.log(bar)
        if due:
            run.evaluate()
        if due or due_to_save:
            run.save()
        if stop is not None and asked and stop(run.recorder.history("running")):
            run.log(bar)
            return "stopped"
        if run.interrupts.asked_to_end or (deadline is not None and time.monotonic() > deadline):
            run.log(bar)
            return "terminated" if run.interrupts.asked_to_end else "time limit"
    run.log(bar)
    run.evaluate()
    return "finished"
