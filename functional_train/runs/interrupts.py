"""An interrupt that waits for the end of a step whose state is being written over."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether a step is running, and whether an interrupt came meanwhile."""

    def __init__(self) -> None:
        self._busy = False
        self._pending = False

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
    def installed(self, wanted: bool) -> Generator[None]:
        """Take Ctrl-C over, where Python's own handler has it: outside the main thread signals never arrive."""
        ours = wanted and threading.current_thread() is threading.main_thread()
        if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Whoever presses twice does not want to wait.
        if self._busy and not self._pending:
            self._pending = True
            return
        signal.default_int_handler(number, frame)
