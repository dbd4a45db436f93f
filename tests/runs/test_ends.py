"""However a run of `fit` ends, the last whole state is there, with the records of just the steps to it."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from tests.profiles import examples
from tests.runs.counting import START, Counter, consistent, count, numbers
from tests.trees import assert_bitwise


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("log_every", [1, 4, 100])
def test_a_loss_that_is_not_finite(bad: float, log_every: int) -> None:
    """It is found at log time and named by its step; the error has the last whole state and all records."""
    batches = [*numbers(5), torch.tensor(bad), *numbers(5)]
    with pytest.raises(ft.NonFiniteError, match=f"the loss is {bad} at step 6") as caught:
        ft.fit(count, START, batches, log_every=log_every)
    steps = int(caught.value.state.step)
    assert steps == min(-(-6 // log_every) * log_every, len(batches))
    assert caught.value.history["step"].tolist() == list(range(1, steps + 1))
    assert caught.value.history.ended == "not finite"
    state, history = ft.fit(count, START, batches, log_every=log_every, check_finite=False)
    assert int(state.step) == len(history["loss"]) == 11


def test_losses_of_many_members_are_checked_too() -> None:
    """A loss may have a dimension of members."""

    def step(state: Counter, batch: Tensor) -> Any:
        return Counter(state.step + 1, state.total), {"loss": torch.stack([batch, batch / (batch - 2)])}

    with pytest.raises(ft.NonFiniteError, match=r"the loss is \[2\.0, inf\] at step 2"):
        ft.fit(step, START, numbers(4))


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_step_that_was_skipped_may_have_any_loss(log_every: int) -> None:
    """Loss scaling steps over an overflow, and the run goes on; a loss of a step that was taken is still looked at."""

    def step(state: Counter, batch: Tensor) -> Any:
        return Counter(state.step + 1, state.total), {"loss": batch[0], "skipped": batch[1]}

    taken, skipped = (torch.stack([torch.tensor(float("inf")), torch.tensor(flag)]) for flag in (0.0, 1.0))
    state, history = ft.fit(step, START, [torch.zeros(2), skipped, torch.zeros(2)], log_every=log_every)
    assert int(state.step) == len(history["loss"]) == 3
    with pytest.raises(ft.NonFiniteError, match="the loss is inf at step 2"):
        ft.fit(step, START, [skipped, taken], log_every=log_every)


def test_an_overflow_with_loss_scaling_does_not_end_a_run() -> None:
    """`fit` goes on over batches that overflow in float16, and the parameters stay finite."""
    loss_fn = ft.mixed_precision(lambda params, batch: (batch @ params["w"]).square().mean(), torch.float16)
    optimizer = ft.sgd(0.01)
    state = ft.init_scaled_state({"w": torch.ones(2, 1)}, optimizer)
    batches = [torch.full((3, 2), size) for size in (1.0, 1e4, 1.0)]
    state, history = ft.fit(ft.make_scaled_step(loss_fn, optimizer), state, batches, progress=False)
    assert not torch.isfinite(history["loss"][1])
    assert history["skipped"][1] == 1.0
    assert bool(torch.isfinite(state.params["w"]).all())


@pytest.mark.parametrize("where", ["step", "observer", "evaluate", "stop", "batches"])
@pytest.mark.parametrize("when", [1, 4])
def test_an_exception_hands_over_what_was_reached(where: str, when: int) -> None:
    """Whatever raises, the error keeps its type and carries the last whole state and the records up to it."""

    def raise_at(number: int) -> None:
        if number == when:
            raise KeyError("on purpose")

    def batches() -> Iterator[Tensor]:
        for number, batch in enumerate(numbers(6)):
            raise_at(number + 1 if where == "batches" else -1)
            yield batch

    def step(state: Counter, batch: Tensor) -> Any:
        raise_at(int(state.step) + 1 if where == "step" else -1)
        return count(state, batch)

    def evaluate(state: Counter) -> Any:
        raise_at(int(state.step) if where == "evaluate" else -1)
        return {"total": state.total}

    def stop(history: ft.History) -> bool:
        raise_at(len(history["step"]) if where == "stop" else -1)
        return False

    with pytest.raises(KeyError, match="on purpose") as caught:
        ft.fit(
            step, START, batches(), evaluate=evaluate, evaluate_every=1, stop=stop, log_every=3,
            observers=[lambda state, metrics: raise_at(int(state.step) if where == "observer" else -1)],
        )  # fmt: skip
    error: Any = caught.value
    assert int(error.state.step) == (when - 1 if where in ("step", "batches") else when)
    assert consistent(error.state, error.history)
    assert error.history.ended == "failed"
    assert f"fit had taken {int(error.state.step)} steps" in error.__notes__[0]


@pytest.mark.parametrize(
    "bad", [{"loss": 1.0, "extra": 2.0}, {}, {"loss": torch.ones(2)}, {"loss": "low"}, {"loss": 1.0, "step": 3}]
)
@pytest.mark.parametrize("log_every", [1, 2, 100])
def test_metrics_that_cannot_be_recorded(bad: Any, log_every: int) -> None:
    """A step that measures something else than those before is an error that names the step and loses no state."""

    def step(state: Counter, batch: Tensor) -> Any:
        new, metrics = count(state, batch)
        return new, bad if int(new.step) == 3 else metrics

    with pytest.raises(ft.StructureError, match="of step 3") as caught:
        ft.fit(step, START, numbers(4), log_every=log_every)
    error: Any = caught.value
    assert int(error.state.step) >= 3
    assert error.history.ended == "failed"


def test_a_warning_that_is_an_error_loses_nothing() -> None:
    """When warnings are errors, running out of batches still hands the state over."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="ran out") as caught:
            ft.fit(count, START, iter(numbers(3)), steps=5)
    assert consistent(caught.value.state, caught.value.history)  # type: ignore[attr-defined]


RUNS = str(Path(ft.fit.__code__.co_filename).parent)


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line that runs in fit's own files or in this test's step."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.lines = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        path = frame.f_code.co_filename
        if not (path.startswith(RUNS) or frame.f_code in (count.__code__, evaluate.__code__)):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                raise KeyboardInterrupt
        return self

    def run(self) -> tuple[Counter, ft.History]:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            return ft.fit(count, START, numbers(2), steps=5, log_every=2, evaluate=evaluate)
        finally:
            sys.settrace(before)


def evaluate(state: Counter) -> dict[str, Tensor]:
    """An evaluation, in which an interrupt may come too."""
    return {"total": state.total}


def test_an_interrupt_at_any_line_leaves_a_whole_state() -> None:
    """Wherever Ctrl-C comes in a run, fit returns the last whole state, with the records of just the steps to it.

    Before its first step there is nothing to return, and the interrupt may pass through.
    """
    whole = Interrupt(None)
    whole.run()
    assert whole.lines > 200
    reached = set()
    for line in range(1, whole.lines + 1):
        interrupt = Interrupt(line)
        try:
            state, history = interrupt.run()
        except KeyboardInterrupt:
            assert not reached, f"line {line} lost what was trained"
            continue
        assert interrupt.lines >= line
        assert consistent(state, history), f"line {line}: {state}, {dict(history)}"
        assert history.ended == "interrupted", f"line {line} ended as {history.ended}"
        evaluated = history["eval/step"].tolist() if "eval/step" in history else []
        assert evaluated == [step for step in (2, 4, 5) if step in evaluated]
        expected = ft.fold(count, START, [*numbers(2), *numbers(2), *numbers(1)][: int(state.step)])
        assert_bitwise(state, expected)
        reached.add(int(state.step))
    assert reached == {0, 1, 2, 3, 4, 5}


@given(st.integers(1, 8), st.sampled_from(["before", "after"]))
@settings(max_examples=examples(20))
def test_an_interrupt_in_a_step_or_an_observer(when: int, where: str) -> None:
    """An interrupt within a step leaves the state before it; one in an observer the state after the step."""

    def interrupted(state: Counter, batch: Tensor) -> Any:
        if where == "before" and int(state.step) + 1 == when:
            raise KeyboardInterrupt
        return count(state, batch)

    def observer(state: Counter, metrics: Any) -> None:
        if where == "after" and int(state.step) == when:
            raise KeyboardInterrupt

    state, history = ft.fit(interrupted, START, numbers(3), steps=10, observers=[observer], log_every=2)
    assert int(state.step) == (when - 1 if where == "before" else when)
    assert consistent(state, history)
    assert history.ended == "interrupted"


@pytest.mark.parametrize("log_every", [1, 7, 100])
def test_a_run_that_stands_still_ends(log_every: int) -> None:
    """When each step is skipped nothing is trained any more, which is an error and not a run without end."""
    optimizer = ft.sgd(0.1)
    step = ft.make_skipping_step(ft.grad_and_value(lambda params, batch: params.sum() * batch), optimizer)
    bad, good = torch.tensor(torch.nan), torch.tensor(1.0)
    start = ft.init_skipping_state(torch.ones(2), optimizer)
    batches = [bad] * 60 + [good] + [bad] * 99 + [good] + [bad] * 500
    with pytest.raises(
        ft.NonFiniteError, match=r"the last \d+ steps up to \d+ were all skipped.*ft\.roll_back"
    ) as caught:
        ft.fit(step, start, batches, log_every=log_every, progress=False)
    assert 261 <= int(caught.value.state.step) < 261 + log_every + 1
    assert_bitwise(caught.value.state.params, ft.fold(step, start, [good, good]).params)
    assert len(caught.value.history["loss"]) == int(caught.value.state.step)
    state, _ = ft.fit(step, start, batches, check_finite=False, progress=False)
    assert state.step == len(batches)


def test_a_run_that_stands_still_is_seen_in_any_form(tmp_path: Path) -> None:
    """Several steps in one, several members at once, and a run in several parts."""
    optimizer = ft.sgd(0.1)
    step = ft.make_skipping_step(ft.grad_and_value(lambda params, batch: params.sum() * batch), optimizer)
    start = ft.init_skipping_state(torch.ones(2), optimizer)
    bad = torch.tensor(torch.nan)
    with pytest.raises(ft.NonFiniteError, match="all skipped"):
        ft.fit(ft.repeat(step, 5), start, [torch.stack([bad] * 5)] * 300, progress=False)
    with pytest.raises(ft.NonFiniteError, match="all skipped"):
        ft.fit(torch.func.vmap(step, in_dims=(0, None)), ft.tree.stack([start] * 3), [bad] * 250, progress=False)
    ft.fit(step, start, [bad] * 500, steps=90, checkpoint=tmp_path, progress=False)
    with pytest.raises(ft.NonFiniteError, match="all skipped") as caught:
        ft.fit(step, start, [bad] * 500, steps=180, checkpoint=tmp_path, log_every=10, progress=False)
    assert "It is saved in" in caught.value.__notes__[0]
