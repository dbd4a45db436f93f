"""What Python does outside of the process: files that it opens to write, processes that it starts."""

import functools
import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

from functional_train.purity.findings import Finding
from functional_train.values._lines import line_of

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_OTHERS = frozenset({
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"),
    *("subprocess.Popen", "os.system", "os.fork", "os.posix_spawn", "socket.connect", "socket.sendto"),
})  # fmt: skip
# They write caches of code, which say nothing about the function that runs.
_CACHING = ("importlib", "linecache", "torch._inductor", "torch._dynamo", "torch._functorch", "torch.utils._triton")
_listeners: dict[int, Callable[[str, Any], None]] = {}


@contextmanager
def watched_files(report: Callable[[Finding], None], within: CodeType | None = None) -> Generator[None]:
    """Report what the current thread writes to files, or starts.

    Python's audit hooks see it; one is set when this is first used, and it stays, as all audit hooks do. What C++
    writes is not seen.

    Args:
        report: Called with each finding as it is made.
        within: Code that calls the function that is watched, for lines.
    """

    def listen(event: str, args: Any) -> None:
        what = _what(event, args)
        if what is None:
            return
        frame: FrameType | None = sys._getframe(1)
        innermost = frame
        while frame is not None and frame.f_code is not within:
            if frame.f_globals.get("__name__", "").startswith(_CACHING):
                return
            frame = frame.f_back
        report(Finding("file or process", str(args[0]), what, line_of(innermost, within)))

    _listen_once()
    thread = threading.get_ident()
    before = _listeners.get(thread)
    _listeners[thread] = listen
    try:
        yield
    finally:
        if before is None:
            del _listeners[thread]
        else:
            _listeners[thread] = before


@functools.cache
def _listen_once() -> None:
    sys.addaudithook(_hear)


def _hear(event: str, args: Any) -> None:
    if _listeners:
        listener = _listeners.get(threading.get_ident())
        if listener is not None:
            listener(event, args)


def _what(event: str, args: Any) -> str | None:
    if event == "open":
        path, mode, flags = args
        is_writing = any(letter in mode for letter in "wax+") if mode else bool((flags or 0) & _WRITING)
        return f"{path!r} is opened for writing" if is_writing and path != os.devnull else None
    return f"{event}({args[0]!r}) is called" if event in _OTHERS and args else None
