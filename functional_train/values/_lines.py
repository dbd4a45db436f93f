"""Which line of the user's code is running."""

import linecache
import sys
from types import CodeType, FrameType

_NOT_THE_USERS = frozenset({__name__.partition(".")[0], "torch", "optree"})
_BUILDING_BLOCKS = ("torch.nn.", "torch.optim.")


def running_line(within: CodeType | None = None) -> str:
    """The innermost line on the stack that is the user's, as `file:line: source`.

    Args:
        within: Code that calls the user's; what called it is not looked at.
    """
    return line_of(sys._getframe(1), within)


def line_of(frame: FrameType | None, within: CodeType | None = None) -> str:
    """The same for any frame; where no line is the user's, the innermost of a module or optimizer of torch."""
    torchs: FrameType | None = None
    while frame is not None and frame.f_code is not within:
        if is_users(frame):
            return describe(frame.f_code.co_filename, frame.f_lineno)
        if torchs is None and frame.f_globals.get("__name__", "").startswith(_BUILDING_BLOCKS):
            torchs = frame
        frame = frame.f_back
    return "a line that could not be found" if torchs is None else describe(torchs.f_code.co_filename, torchs.f_lineno)


def is_users(frame: FrameType) -> bool:
    """Whether code belongs neither to this library nor to those below it, Python's own among them."""
    home = frame.f_globals.get("__name__", "").partition(".")[0]
    return not (home in _NOT_THE_USERS or home in sys.stdlib_module_names)


def describe(file: str, line: int) -> str:
    """A place in a file, with what stands there."""
    return f"{file}:{line}: {linecache.getline(file, line).strip()}"
