"""After which line of a function something is no longer as it was."""

import sys
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any

from functional_train.values._lines import is_users, line_of

_FOLLOWED = ("torch.nn.", "torch.optim.")


def first_lines(run: Callable[[], object], found: Callable[[], Iterable[str]], within: CodeType) -> dict[str, str]:
    """Run something, and note for each thing that is found the line after which it was there first.

    Args:
        run: Calls the function; an error ends it quietly.
        found: The names of what is found now. Called after each line of the function.
        within: Code that calls the function.

    Returns:
        Name to `file:line: source`.
    """
    lines: dict[str, str] = {}
    last = ""

    def look() -> None:
        for name in found():
            lines.setdefault(name, last)

    def follow(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal last
        del arg
        look()
        # What the rest of the calling line does comes after the return.
        last = line_of(frame.f_back if event == "return" else frame, within)
        return follow

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        is_followed = is_users(frame) or frame.f_globals.get("__name__", "").startswith(_FOLLOWED)
        return follow(frame, event, arg) if is_followed else None

    previous = sys.gettrace()
    sys.settrace(enter)
    try:
        run()
    except Exception:  # noqa: BLE001  # what it raised before, if anything, was reported then
        look()
    finally:
        sys.settrace(previous)
    look()
    return {name: line for name, line in lines.items() if line}
