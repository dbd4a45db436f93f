"""An interrupt during a step that writes over its state waits for the end of the step."""

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import functional_train as ft
from functional_train.runs.interrupts import Interrupts


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Python's own handler: a process in the background of a shell begins without one, deaf to interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Donating:
    """A step that says it moves its state, and is interrupted in the middle of some calls."""

    donates = True

    def __init__(self, at: int, times: int = 1) -> None:
        self.calls, self.at, self.times = 0, at, times

    def __call__(self, state: Any, batch: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return state + batch, {"loss": state}


def test_an_interrupt_waits_for_the_step() -> None:
    """fit returns the state after the step that was interrupted, and Python's handler is back."""
    state, history = ft.fit(Donating(at=3), torch.zeros(()), [torch.ones(())] * 5, progress=False)
    assert (float(state), history.ended) == (3.0, "interrupted")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_does_not_wait() -> None:
    """Who asks twice gets out at once, with the state of before."""
    state, history = ft.fit(Donating(at=3, times=2), torch.zeros(()), [torch.ones(())] * 5, progress=False)
    assert (float(state), history.ended) == (2.0, "interrupted")


def test_between_steps_an_interrupt_is_immediate() -> None:
    """Only the step is waited for, not the next batch."""
    interrupts = Interrupts()
    with interrupts.installed(True), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_handlers_of_others_are_left_alone() -> None:
    """Whoever has taken Ctrl-C keeps it, and other threads, where signals never arrive, take nothing."""
    mine: Any = lambda number, frame: None  # noqa: E731
    signal.signal(signal.SIGINT, mine)
    try:
        with Interrupts().installed(True):
            assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    seen: list[Any] = []

    def elsewhere() -> None:
        with Interrupts().installed(True):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
