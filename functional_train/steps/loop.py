"""Training as a fold of a step over batches."""

from collections.abc import Iterable, Iterator
from typing import Any

from functional_train.values import tree
from functional_train.values.errors import BatchesError
from functional_train.values.types import StepFn


def iterate(step: StepFn, state: Any, batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Train batch by batch, giving out what every step makes.

    Args:
        step: `(state, batch) -> (state, metrics)`.
        state: Where to begin.
        batches: Any iterable.

    Returns:
        An iterator of `(state, metrics)`, one pair a batch.

    Example:
        >>> import functional_train as ft
        >>> running_sum = lambda state, batch: (state + batch, {"sum": state + batch})
        >>> [state for state, metrics in ft.iterate(running_sum, 0, [1, 2, 3])]
        [1, 3, 6]
    """
    for batch in batches:
        state, metrics = step(state, batch)
        yield state, metrics


def fold(step: StepFn, state: Any, batches: Iterable[Any]) -> Any:
    """Train on all batches and return the last state.

    Args:
        step: `(state, batch) -> (state, metrics)`.
        state: Where to begin, and what is returned when there are no batches.
        batches: Any finite iterable.

    Returns:
        The last state.

    Example:
        >>> import functional_train as ft
        >>> ft.fold(lambda state, batch: (state + batch, {}), 0, [1, 2, 3])
        6
    """
    for batch in batches:
        state, _ = step(state, batch)
    return state


def scan(step: StepFn, state: Any, batches: Iterable[Any]) -> tuple[Any, Any]:
    """Train on all batches and return the last state and everything measured on the way.

    Args:
        step: `(state, batch) -> (state, metrics)`.
        state: Where to begin.
        batches: Any finite iterable of at least one batch.

    Returns:
        The last state, and the metrics stacked along a new leading dimension, one entry a batch.

    Raises:
        BatchesError: there are no batches, so the metrics' structure is unknown.

    Example:
        >>> import functional_train as ft
        >>> ft.scan(lambda state, batch: (state + batch, {"sum": state + batch}), 0, [1, 2, 3])
        (6, {'sum': tensor([1, 3, 6])})
    """
    measured: list[Any] = []
    for batch in batches:
        state, metrics = step(state, batch)
        measured.append(metrics)
    if not measured:
        raise BatchesError(
            "scan was given no batches, so there are no metrics to stack. Use fold, or check the iterable: a generator "
            "can "
            "be read only once."
        )
    return state, tree.stack(measured)
