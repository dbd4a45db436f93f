"""Which line of the user's code raised an error, or drew."""

import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from functional_train.values._generators import generators
from functional_train.values._lines import describe, is_users, running_line


def raising_line(traceback: TracebackType | None) -> str:
    """The innermost line of a traceback that is the user's, as `file:line: source`."""
    found = "a line that could not be found"
    while traceback is not None:
        if is_users(traceback.tb_frame):
            found = describe(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
        traceback = traceback.tb_next
    return found


def drawing_line(run: Callable[[], object]) -> str | None:
    """Run something, and find the first line of the user's that draws from one of Python's generators meanwhile."""
    library: Any = sys.modules["random"]
    found: list[str] = []

    def watch(frame: FrameType, event: str, called: Any) -> None:
        del frame
        if event == "c_call" and not found and isinstance(getattr(called, "__self__", None), library.Random):
            found.append(running_line())

    previous = sys.getprofile()
    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(previous)
    return found[0] if found else None


def draws_from_numpy(run: Callable[[], object]) -> bool:
    """Whether running something, which cannot be watched, moves NumPy's global generator in the same way twice."""
    library: Any = sys.modules["numpy.random"]
    start, before, ends = library.get_state(), generators()["numpy.random"], []
    for _ in range(2):
        library.set_state(start)
        run()
        ends.append(generators()["numpy.random"])
    return ends[0] == ends[1] != before
