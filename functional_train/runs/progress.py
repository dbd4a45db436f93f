"""A progress bar that shows itself only where somebody looks."""

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from torch import Tensor
from tqdm import tqdm


class Progress:
    """A bar over steps, with the last loss; quiet when output is neither a terminal nor a notebook."""

    def __init__(self, steps: int | None, batches: Any, shown: bool, taken: int = 0) -> None:
        total = steps if steps is not None else _length(batches)
        quiet = not (shown and (_is_notebook() or sys.stderr.isatty()))
        self._bar: tqdm[Any] = tqdm(
            total=total, initial=taken, disable=quiet, unit=" steps", dynamic_ncols=True, file=sys.stderr
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self) -> None:
        self._bar.update()

    def show(self, chunk: Mapping[str, Tensor]) -> None:
        """Put the last value of each measured number beside the bar."""
        if not self._bar.disable and chunk:
            real = {name: column for name, column in chunk.items() if column.ndim == 1 and not column.is_complex()}
            numbers = {name: f"{float(column[-1]):.4g}" for name, column in real.items()}
            numbers.pop("step", None)
            self._bar.set_postfix(numbers)


def _length(batches: Any) -> int | None:
    try:
        return len(batches)
    except TypeError:
        return None


def _is_notebook() -> bool:
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return type(running).__name__ == "ZMQInteractiveShell"


def note(text: str) -> None:
    """Tell whoever watches, below any bar."""
    tqdm.write(text, file=sys.stderr)
