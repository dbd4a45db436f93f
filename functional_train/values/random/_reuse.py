"""Finding keys that are used twice."""

import contextlib
from collections.abc import Generator
from contextvars import ContextVar

import torch
from torch import Tensor

from functional_train.values._lines import running_line
from functional_train.values._watching import is_readable
from functional_train.values.errors import PurityError

_USED: ContextVar[dict[tuple[int, ...], str] | None] = ContextVar("used", default=None)


@contextlib.contextmanager
def debug_key_reuse() -> Generator[None]:
    """Find keys that are used twice, which makes numbers that belong together by mistake.

    Inside this context every draw and every `split` remembers its key; `fold_in` uses none up. Each use reads the key,
    so it is for looking for mistakes, not for long runs. Keys inside of `vmap`, of traces and of the recomputation of
    activation checkpointing are not looked at; nor are those of other threads.

    Returns:
        A context manager.

    Raises:
        PurityError: inside: a key is used a second time; the message has both lines.

    Source: `jax.debug_key_reuse`.

    Example:
        >>> import functional_train as ft
        >>> key = ft.random.key(0)
        >>> with ft.random.debug_key_reuse():
        ...     noise, other = ft.random.normal(key), ft.random.uniform(key)
        Traceback (most recent call last):
        ...
        functional_train.values.errors.PurityError: random.uniform was given a key that random.normal has used up, ...
    """
    token = _USED.set({})
    try:
        yield
    finally:
        _USED.reset(token)


def note_use(key: Tensor, use: str) -> None:
    """Remember that a key was used, if anybody looks for keys that are used twice."""
    used = None if torch.compiler.is_compiling() else _USED.get()
    # What backward computes again, it draws again.
    if used is None or not is_readable(key) or torch._C._current_graph_task_id() != -1:
        return
    words, line = tuple(key.tolist()), running_line()
    if words in used:
        raise PurityError(
            f"random.{use} was given a key that {used[words]}; now in {line}. Its numbers would be the same again, or "
            "go with those. Use each key once: key, key_noise = ft.random.split(key)."
        )
    used[words] = f"random.{use} has used up, in {line}"
