"""Signals that wait for the end of a step: an interrupt while a state is written over, and the order to end."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """Whether a step is running, and whether an interrupt came meanwhile."""

    def __init__(self) -> None:
        self._busy = False
        self._pending = False
        self.asked_to_end = False
        self._process = os.getpid()

    @contextmanager
    def after_this(self) -> Generator[None]:
        """Hold an interrupt back until the block is done."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            pending, self._pending = self._pending, False
        if pending:
            raise KeyboardInterrupt

    @contextmanager
    def installed(self, hold_back: bool, end_cleanly: bool = False) -> Generator[None]:
        """Take signals over, where Python's own handlers have them: outside the main thread signals never arrive.

        Args:
            hold_back: Whether Ctrl-C waits for the end of a step.
            end_cleanly: Whether the order to end is noted, in `asked_to_end`, instead of followed at once.
        """
        with contextlib.ExitStack() as stack:
            if threading.current_thread() is threading.main_thread():
                if hold_back:
                    stack.enter_context(_handled(signal.SIGINT, signal.default_int_handler, self._handle))
                if end_cleanly:
                    stack.enter_context(_handled(signal.SIGTERM, signal.SIG_DFL, self._note))
            yield

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._process:
            # A child that was forked meanwhile has its parent's handlers, and nobody who asks.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.asked_to_end = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Whoever presses twice does not want to wait.
        if self._busy and not self._pending:
            self._pending = True
            return
        signal.default_int_handler(number, frame)


@contextmanager
def _handled(number: signal.Signals, usual: Any, handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    """Have a signal handled in another way than usual; somebody else's way is left."""
    if signal.getsignal(number) is not usual:
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, usual)
