"""A run that stops and goes on is the run that never stopped: state, history, data, evaluations."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from tests.runs.checkpoints.trees import assert_same
from tests.runs.counting import START, Counter, count, numbers


class StopError(Exception):
    """The end of a process, as far as a test in one process can have it."""


def stopping_at(steps: int) -> Callable[[Any, Any], None]:
    def observe(state: Any, metrics: Any) -> None:
        del metrics
        if int(state.step) == steps:
            raise StopError

    return observe


def same_run(first: tuple[Any, ft.History], second: tuple[Any, ft.History]) -> None:
    assert_same(first[0], second[0])
    assert_same(dict(first[1]), dict(second[1]))
    assert first[1].ended == second[1].ended


@given(
    length=st.integers(1, 6),
    steps=st.none() | st.integers(0, 15),
    every=st.integers(1, 4),
    evaluate_every=st.none() | st.integers(1, 4),
    stops=st.lists(st.integers(1, 15), max_size=3),
    positioned=st.booleans(),
    shuffled=st.booleans(),
)
def test_stopped_anywhere_and_resumed(
    tmp_path_factory: pytest.TempPathFactory,
    length: int,
    steps: int | None,
    every: int,
    evaluate_every: int | None,
    stops: list[int],
    positioned: bool,
    shuffled: bool,
) -> None:
    """Any number of times, at any steps, with lists and with `ft.data`: nothing differs from the run in one piece."""
    key = ft.random.key(1) if shuffled else None
    batches = ft.data.Batches(torch.stack(numbers(length)), 1, key=key) if positioned else numbers(length)
    options: dict[str, Any] = {
        "steps": steps,
        "evaluate": lambda state: {"total": state.total * 2},
        "evaluate_every": evaluate_every,
        "log_every": 3,
        "progress": False,
    }

    def step(state: Counter, batch: Tensor) -> tuple[Counter, dict[str, Tensor]]:
        return count(state, batch.sum())

    whole = ft.fit(step, START, batches, **options)
    folder = tmp_path_factory.mktemp("run")
    for stop in stops:
        # It may have come farther already.
        with contextlib.suppress(StopError):
            ft.fit(
                step, START, batches, **options, observers=[stopping_at(stop)],
                checkpoint=ft.Checkpointer(folder, every=every),
            )  # fmt: skip
    same_run(ft.fit(step, START, batches, **options, checkpoint=folder), whole)
    # And once more: there is nothing left to do.
    same_run(ft.fit(step, START, batches, **options, checkpoint=folder), whole)


def test_the_checkpoint_is_older_than_the_stop(tmp_path: Path) -> None:
    """As after a kill: the steps since the last checkpoint are taken again."""
    batches = numbers(7)
    whole = ft.fit(count, START, batches, steps=20, evaluate=lambda state: {"x": state.total}, progress=False)
    checkpointer = ft.Checkpointer(tmp_path, every=4, keep=9)
    ft.fit(count, START, batches, steps=20, evaluate=lambda s: {"x": s.total}, checkpoint=checkpointer, progress=False)
    assert checkpointer.steps == [4, 8, 12, 16, 20]
    for step in (20, 16, 12, 8, 4):
        for later in checkpointer.steps:
            if later > step:
                checkpointer.path(later).unlink()
        resumed = ft.fit(
            count,
            START,
            batches,
            steps=20,
            evaluate=lambda state: {"x": state.total},
            checkpoint=tmp_path,
            progress=False,
        )
        same_run(resumed, whole)


def test_early_stopping_and_schedules_of_evaluation(tmp_path: Path) -> None:
    """What ends a run is asked the same of the same history."""

    def evaluate(state: Counter) -> dict[str, Tensor]:
        return {"loss": (state.total - 20).abs()}

    options: dict[str, Any] = {"steps": 60, "evaluate": evaluate, "evaluate_every": 2, "progress": False}
    stop = ft.early_stopping(patience=3)
    whole = ft.fit(count, START, numbers(5), stop=stop, **options)
    assert whole[1].ended == "stopped"
    with pytest.raises(StopError):
        ft.fit(count, START, numbers(5), stop=stop, checkpoint=tmp_path, observers=[stopping_at(7)], **options)
    same_run(ft.fit(count, START, numbers(5), stop=stop, checkpoint=tmp_path, **options), whole)


def test_the_best_is_saved_when_it_is_measured(tmp_path: Path) -> None:
    """Also between the steps of `every`."""
    checkpointer = ft.Checkpointer(tmp_path, every=1000, keep=1, best="eval/loss")
    ft.fit(
        count, START, numbers(5), steps=20, evaluate=lambda state: {"loss": (state.total - 20).abs()}, evaluate_every=2,
        checkpoint=checkpointer, progress=False,
    )  # fmt: skip
    best = checkpointer.restore_best(START)
    assert best is not None
    assert float(best.state.total) == 21  # 1+2+3+4+5+1+2+3, of the totals after 2, 4, 6, ... steps the nearest to 20
    assert best.history["eval/loss"][-1] == 1


def test_a_step_that_moves_its_state(tmp_path: Path) -> None:
    """The caller's state stays, and the run resumes."""
    step = ft.compile(
        ft.make_step(ft.grad_and_value(lambda p, batch: (p["w"] - batch).square().sum()), ft.adam(0.1)),
        donate=True, backend="eager",
    )  # fmt: skip
    start = ft.init_state({"w": torch.zeros(3)}, ft.adam(0.1))
    whole = ft.fit(step, start, numbers(4), steps=11, progress=False)
    checkpointer = ft.Checkpointer(tmp_path, every=2)
    with pytest.raises(StopError):
        ft.fit(step, start, numbers(4), steps=11, observers=[stopping_at(7)], checkpoint=checkpointer, progress=False)
    same_run(ft.fit(step, start, numbers(4), steps=11, checkpoint=checkpointer, progress=False), whole)
    assert int(start.step) == 0


def test_a_state_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    """A run that broke resumes from before it did."""
    batches = [torch.tensor(1.0)] * 5 + [torch.tensor(float("nan"))]
    checkpointer = ft.Checkpointer(tmp_path, every=1)
    with pytest.raises(ft.NonFiniteError, match="step 6"):
        ft.fit(count, START, batches, log_every=1, checkpoint=checkpointer, progress=False)
    assert checkpointer.steps == [3, 4, 5]


def test_an_interrupt_saves(tmp_path: Path) -> None:
    """And the run that is started again goes on there."""

    def interrupt(state: Any, metrics: Any) -> None:
        if int(state.step) == 3 and not metrics.get("resumed"):
            raise KeyboardInterrupt

    state, history = ft.fit(
        count, START, numbers(9), steps=9, observers=[interrupt], checkpoint=tmp_path, progress=False
    )
    assert (int(state.step), history.ended) == (3, "interrupted")
    assert ft.Checkpointer(tmp_path).steps == [3]
    same_run(
        ft.fit(count, START, numbers(9), steps=9, checkpoint=tmp_path, progress=False),
        ft.fit(count, START, numbers(9), steps=9, progress=False),
    )


def test_the_order_to_end(tmp_path: Path) -> None:
    """SIGTERM: the step ends, its state is saved, the process leaves with the usual status; handlers are put back."""

    def terminate(state: Any, metrics: Any) -> None:
        del metrics
        if int(state.step) == 4:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        ft.fit(count, START, numbers(9), observers=[terminate], checkpoint=tmp_path, progress=False)
    assert caught.value.code == 143
    assert ft.Checkpointer(tmp_path).steps == [4]
    assert signal.getsignal(signal.SIGTERM) is before
    same_run(
        ft.fit(count, START, numbers(9), checkpoint=tmp_path, progress=False),
        ft.fit(count, START, numbers(9), progress=False),
    )


def test_in_another_thread(tmp_path: Path) -> None:
    """Where signals never arrive, everything else is the same."""
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(ft.fit(count, START, numbers(5), checkpoint=tmp_path, progress=False))
    )
    thread.start()
    thread.join()
    same_run(results[0], ft.fit(count, START, numbers(5), progress=False))


def test_a_time_limit(tmp_path: Path) -> None:
    """Ends the run after the step that is running, and what was reached is saved."""
    state, history = ft.fit(count, START, numbers(9), time_limit=0.0, checkpoint=tmp_path, progress=False)
    assert (int(state.step), history.ended) == (1, "time limit")
    assert ft.Checkpointer(tmp_path).steps == [1]
    state, history = ft.fit(count, START, numbers(9), time_limit=1e6, checkpoint=tmp_path, progress=False)
    assert (int(state.step), history.ended) == (9, "finished")
    with pytest.raises(ft.HyperparameterError, match="time_limit must be a number of seconds >= 0, got -1"):
        ft.fit(count, START, numbers(9), time_limit=-1, progress=False)


def test_one_run_after_another_in_one_folder(tmp_path: Path) -> None:
    """Counted from the state that each begins with."""
    first = ft.fit(count, START, numbers(3), steps=4, checkpoint=tmp_path, progress=False)
    second = ft.fit(count, first[0], numbers(3), steps=5, checkpoint=tmp_path, progress=False)
    same_run(second, ft.fit(count, first[0], numbers(3), steps=5, progress=False))
    assert second[1]["step"].tolist() == [5, 6, 7, 8, 9]
    with pytest.raises(ft.StructureError, match=r"is at step 9, and the state that fit was given at 12 already"):
        ft.fit(count, Counter(torch.tensor(12), torch.tensor(0.0)), numbers(3), checkpoint=tmp_path, progress=False)
    other = ft.init_state({"w": torch.ones(1)}, ft.sgd())
    with pytest.raises(ft.StructureError, match="the file has a Counter, wanted is a TrainState"):
        ft.fit(count, other, numbers(3), checkpoint=tmp_path, progress=False)


def test_a_checkpoint_without_a_history(tmp_path: Path) -> None:
    """Somebody's own `save`: the run goes on, with records from there."""
    checkpointer = ft.Checkpointer(tmp_path)
    reached, _ = ft.fit(count, START, numbers(4), steps=6, progress=False)
    checkpointer.save(reached)
    state, history = ft.fit(count, START, numbers(4), steps=10, checkpoint=checkpointer, progress=False)
    assert_same(state, ft.fit(count, START, numbers(4), steps=10, progress=False)[0])
    assert history["step"].tolist() == [7, 8, 9, 10]


def test_batches_that_can_be_read_once(tmp_path: Path) -> None:
    """A generator, made anew by each process, is read past what was consumed."""

    def stream() -> Iterator[Tensor]:
        yield from numbers(8)

    with pytest.raises(StopError):
        ft.fit(count, START, stream(), checkpoint=tmp_path, observers=[stopping_at(5)], progress=False)
    same_run(
        ft.fit(count, START, stream(), checkpoint=tmp_path, progress=False),
        ft.fit(count, START, stream(), progress=False),
    )


def full_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    real, calls = os.pwrite, iter(range(1000))

    def pwrite(handle: int, data: Any, at: int) -> int:
        if next(calls) >= writes:
            raise OSError(28, "No space left on device")
        return real(handle, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)


def test_nothing_is_said_to_be_saved_that_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that failed in the background is not taken for one, whatever ends the run."""
    full_after(monkeypatch, 0)
    checkpointer = ft.Checkpointer(tmp_path, every=3)
    with pytest.raises(StopError) as caught:
        ft.fit(count, START, numbers(9), observers=[stopping_at(3)], checkpoint=checkpointer, progress=False)
    assert "saved" not in "".join(caught.value.__notes__)
    assert int(caught.value.state.step) == 3  # pyright: ignore[reportAttributeAccessIssue]

    def interrupt(state: Any, metrics: Any) -> None:
        del metrics
        if int(state.step) == 4:
            raise KeyboardInterrupt

    with pytest.warns(RuntimeWarning, match="the last state could not be saved: .*No space left"):
        state, history = ft.fit(count, START, numbers(9), observers=[interrupt], checkpoint=tmp_path, progress=False)
    assert (int(state.step), history.ended) == (4, "interrupted")
    assert checkpointer.steps == []


def test_the_order_to_end_in_the_last_evaluation(tmp_path: Path) -> None:
    """Is followed too, and the state is saved."""

    def evaluate(state: Counter) -> dict[str, Tensor]:
        signal.raise_signal(signal.SIGTERM)
        return {"x": state.total}

    with pytest.raises(SystemExit):
        ft.fit(count, START, numbers(4), evaluate=evaluate, checkpoint=tmp_path, progress=False)
    assert ft.Checkpointer(tmp_path).steps == [4]


def test_a_child_forked_meanwhile_follows_the_order_to_end(tmp_path: Path) -> None:
    """It has its parent's handler, and nobody who asks what that noted."""

    def fork(state: Any, metrics: Any) -> None:
        del state, metrics
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, b"ready")  # Python drops signals that arrive while it forks
            time.sleep(20)
            os._exit(0)
        os.read(read, 5)
        os.close(read)
        os.close(write)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM

    _, history = ft.fit(count, START, numbers(1), observers=[fork], checkpoint=tmp_path, progress=False)
    assert history.ended == "finished"


def test_what_cannot_be_saved_is_refused_at_once(tmp_path: Path) -> None:
    """Not after a thousand steps."""
    taken: list[int] = []
    bad = ft.init_state({"w": torch.ones(1)}, ft.sgd()).replace(buffers={"f": len})
    with pytest.raises(ft.StructureError, match="'buffers/f' is a builtin_function_or_method"):
        ft.fit(lambda state, batch: taken.append(1), bad, numbers(3), checkpoint=tmp_path, progress=False)  # pyright: ignore[reportArgumentType]
    assert not taken
    with pytest.raises(ft.StructureError, match="metrics of step 1 have a 'eval/x', a name that evaluations have"):
        ft.fit(lambda state, batch: (state, {"eval/x": 1.0}), START, numbers(3), progress=False)


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends the run with the state in the error's hands, and the checkpoint before it on the disk."""
    full_after(monkeypatch, 16)
    checkpointer = ft.Checkpointer(tmp_path, every=2)
    with pytest.raises(OSError, match="No space left") as caught:
        ft.fit(count, START, numbers(40), checkpoint=checkpointer, progress=False)
    monkeypatch.undo()
    assert int(caught.value.state.step) > max(checkpointer.steps)  # pyright: ignore[reportAttributeAccessIssue]
    same_run(
        ft.fit(count, START, numbers(40), checkpoint=tmp_path, progress=False),
        ft.fit(count, START, numbers(40), progress=False),
    )


def test_who_resumes_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A folder that holds another run already is not taken for a new one without a word; and quiet stays quiet."""
    optimizer = ft.sgd(0.1)
    step = ft.make_step(ft.grad_and_value(lambda params, batch: (params - batch).square().sum()), optimizer)
    start = ft.init_state(torch.zeros(2), optimizer)
    batches = [torch.ones(2)] * 4
    ft.fit(step, start, batches, steps=3, checkpoint=tmp_path)
    assert "goes on" not in capfd.readouterr().err
    ft.fit(step, start, batches, steps=4, checkpoint=tmp_path)
    assert f"fit goes on from step 3, saved as {tmp_path}" in capfd.readouterr().err
    ft.fit(step, start, batches, steps=4, checkpoint=tmp_path, progress=False)
    assert "goes on" not in capfd.readouterr().err
