"""What a compiled function says of itself: how its variants came to be, and that one is being made."""

import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

from tqdm import tqdm

_SECONDS_UNTIL_NOTE = 3.0


class CacheInfo(NamedTuple):
    """How often variants were found and made, as `functools.lru_cache` tells it.

    Attributes:
        hits: Calls that found their variant.
        misses: Calls for which one was made.
        maxsize: Most variants kept; the one used longest ago goes first.
        currsize: Variants kept.

    Example:
        >>> import functional_train as ft
        >>> ft.compile(lambda x: 2 * x).cache_info()
        CacheInfo(hits=0, misses=0, maxsize=64, currsize=0)
    """

    hits: int
    misses: int
    maxsize: int
    currsize: int


class CompileReport(NamedTuple):
    """What making one variant took, and why it was made.

    Attributes:
        cause: What differed from the last variant, or "first call".
        trace_seconds: For recording the graph.
        lower_seconds: For turning it into code; 0 where that was found in the cache on disk.
        load_seconds: For loading code from the cache on disk; 0 where it was made.
        operations: Nodes in the graph.

    Example:
        >>> import functional_train as ft, torch
        >>> double = ft.compile(lambda x: 2 * x, backend="eager")
        >>> double(torch.ones(1)), double(torch.ones(2))
        (tensor([2.]), tensor([2., 2.]))
        >>> double.reports()[1].cause
        "'x' was float32 (1,) with strides (1,) on cpu and is float32 (2,) with strides (1,) on cpu"
    """

    cause: str
    trace_seconds: float
    lower_seconds: float
    load_seconds: float
    operations: int


@contextmanager
def note_when_long(name: str) -> Generator[None]:
    """Say so when it takes more than a few seconds."""
    text = f"{name} is being compiled; another process will find the code in the cache on disk."
    timer = threading.Timer(_SECONDS_UNTIL_NOTE, tqdm.write, [text], {"file": sys.stderr})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
