"""Calls of functions that torch's operations do not show: Python's generators, clocks, `torch.save`, `backward()`."""

import io
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import torch
from torch.autograd.graph import _engine_run_backward

from functional_train.purity.findings import Finding
from functional_train.values._lines import line_of

# Of the module `time`, all but these.
_NO_CLOCKS = frozenset({"sleep", "strftime", "struct_time"})
_OTHER_CLOCKS = frozenset({"now", "utcnow", "today", "urandom", "getpid", "generate_time_safe"})
_HOMES = frozenset({None, os.name, "_uuid"})
# `seed` and `setstate` draw nothing; where they leave the generator elsewhere, that is seen afterwards.
_DRAWING = frozenset({"random", "getrandbits"})
_WRITES = frozenset({"write", "writelines", "truncate"})
_FILES = (io.TextIOWrapper, io.FileIO, io.BufferedWriter, io.BufferedRandom)
_SAVE, _BACKWARD = torch.save.__code__, _engine_run_backward.__code__


@contextmanager
def watched_calls(
    report: Callable[[Finding], None],
    within: CodeType | None = None,
    accumulates: Callable[[Any], str | None] = lambda outputs: None,
) -> Generator[list[tuple[str, str]]]:
    """Report what is called in the current thread.

    Args:
        report: Called with each finding as it is made; what it raises is raised by the call.
        within: Code that calls the function that is watched, for lines.
        accumulates: From what `backward()` begins at to the name of something whose gradient it would write.

    Yields:
        What asks for the time, for random bytes of the system, or for the process, with its line; added as found.
    """
    clocks: list[tuple[str, str]] = []
    library: Any = sys.modules.get("random")

    def watch(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            owner = getattr(called, "__self__", None)
            name, module = getattr(called, "__name__", ""), getattr(called, "__module__", None)
            if library is not None and owner is library._inst and name in _DRAWING:
                what = "the global generator of random is drawn from"
                report(Finding("randomness", "random", what, line_of(frame, within)))
            elif (module == "time" and name not in _NO_CLOCKS) or (name in _OTHER_CLOCKS and module in _HOMES):
                clocks.append((f"{module or type(owner).__name__}.{name}", line_of(frame, within)))
            elif name in _WRITES and isinstance(owner, _FILES) and owner not in (sys.stdout, sys.stderr):
                path = str(getattr(owner, "name", "a file"))
                report(Finding("file or process", path, f"{path!r} is written to", line_of(frame, within)))
        elif event == "call" and frame.f_code is _SAVE:
            path = str(frame.f_locals["f"])
            report(Finding("file or process", path, f"torch.save writes {path!r}", line_of(frame, within)))
        elif event == "call" and frame.f_code is _BACKWARD and _is_accumulating(frame):
            inputs = frame.f_locals["args"][3:4]
            own = [one for one in inputs[0] if isinstance(one, torch.Tensor)] if inputs and inputs[0] else None
            name = accumulates(frame.f_locals["t_outputs"] if own is None else own)
            if name is not None:
                what = f"backward() adds to the gradient of {name}, which was there before"
                report(Finding("gradient written", name, what, line_of(frame, within)))

    previous = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield clocks
    finally:
        sys.setprofile(previous)


def _is_accumulating(frame: FrameType) -> bool:
    return bool(frame.f_locals["kwargs"].get("accumulate_grad", False))
