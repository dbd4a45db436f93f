"""Which line of the user's code is running."""

import linecache
import sys
from types import FrameType

_NOT_THE_USERS = frozenset({__name__.partition(".")[0], "torch", "optree", "contextlib", "threading", "random"})


def running_line() -> str:
    """The innermost line on the stack that is the user's, as `file:line: source`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_users(frame):
        frame = frame.f_back
    return "a line that could not be found" if frame is None else describe(frame.f_code.co_filename, frame.f_lineno)


def is_users(frame: FrameType) -> bool:
    """Whether code belongs neither to this library nor to those below it."""
    return frame.f_globals.get("__name__", "").partition(".")[0] not in _NOT_THE_USERS


def describe(file: str, line: int) -> str:
    """A place in a file, with what stands there."""
    return f"{file}:{line}: {linecache.getline(file, line).strip()}"
