"""Follow one frame from statement to statement."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from functional_train.purity._statements import Body, Statement


@contextmanager
def follow(frame: FrameType, body: Body, begin: Callable[[str], Callable[[], None]]) -> Generator[None]:
    """Tell when each statement of a body begins and ends, while the frame is in it.

    Whatever traced before rests meanwhile and is put back, unless another tracer has taken over by then.

    Args:
        frame: It is at the head of the `with` statement.
        body: Of that statement.
        begin: Called with the source of each statement that begins; what it returns is called at its end.
    """
    before, before_here = sys.gettrace(), frame.f_trace
    tracer = _Tracer(body, begin, before_here)
    frame.f_trace = tracer
    sys.settrace(_pass)
    tracer.go_to(body.beside, frame.f_lasti)
    try:
        yield
    finally:
        if sys.gettrace() is _pass:
            sys.settrace(before)
        if frame.f_trace is tracer:
            frame.f_trace = before_here
        tracer.go_to(None, 0)


class _Tracer:
    def __init__(self, body: Body, begin: Callable[[str], Callable[[], None]], outer: Any) -> None:
        self._body = body
        self._begin = begin
        self._outer = outer if isinstance(outer, _Tracer) else None  # another recording of the same lines
        self._now: Statement | None = None
        self._begun_at = 0
        self._end: Callable[[], None] | None = None

    def __call__(self, frame: FrameType, event: str, arg: Any) -> "_Tracer":
        if event == "line":
            statement = self._body.statements.get(frame.f_lineno)
            # A statement of several lines is met several times; when it runs again, the code goes back.
            if statement is None or statement is not self._now or frame.f_lasti <= self._begun_at:
                self.go_to(statement, frame.f_lasti)
        if self._outer is not None:
            self._outer(frame, event, arg)
        return self

    def go_to(self, statement: Statement | None, offset: int) -> None:
        """End the statement that runs, and begin another."""
        end, self._end, self._now = self._end, None, None
        if end is not None:
            end()
        if statement is not None:
            self._now, self._begun_at = statement, offset
            self._end = self._begin(statement.source)


def _pass(frame: FrameType, event: str, arg: Any) -> None:
    """Trace no function that is called: Python looks at a frame's own tracer only while there is one for all."""
