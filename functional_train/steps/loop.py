"""Training as a fold of a step over batches."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from functional_train.updates.checks import check_whole
from functional_train.values import tree
from functional_train.values.errors import BatchesError, HyperparameterError
from functional_train.values.tree._structure import items, map
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


class Repeated:
    """Several steps as one, as `repeat` returns it.

    Attributes:
        step: The step that is taken.
        num_steps: How many times, an int of at least 1.
        batch_dim: The dimension along which a batch's leaves hold one entry a step; None where all steps share them.

    Example:
        >>> import functional_train as ft
        >>> ft.repeat(lambda state, batch: (state, {}), 3).num_steps
        3
    """

    def __init__(self, step: StepFn, num_steps: int, batch_dim: int | None) -> None:
        self.step = step
        self.num_steps = num_steps
        self.batch_dim = batch_dim
        self.__name__ = f"repeat({getattr(step, '__name__', type(step).__name__)}, {num_steps})"

    def __repr__(self) -> str:
        return self.__name__

    def __call__(self, state: Any, batches: Any) -> tuple[Any, Any]:
        """Take all steps; the metrics are stacked."""
        self.check(batches)
        return scan(self.step, state, [self.batch(batches, place) for place in range(self.num_steps)])

    def batch(self, batches: Any, place: int) -> Any:
        """What the step at this place is given."""
        return batches if self.batch_dim is None else map(lambda leaf: leaf.select(self.batch_dim, place), batches)

    def check(self, batches: Any) -> None:
        """Refuse batches that do not hold one entry a step."""
        if self.batch_dim is None:
            return
        for path, leaf in items(batches):
            shape = tuple(leaf.shape) if isinstance(leaf, Tensor) else ()
            if shape and -len(shape) <= self.batch_dim < len(shape) and shape[self.batch_dim] == self.num_steps:
                continue
            what = f"a tensor of shape {shape}" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"
            raise BatchesError(
                f"{self!r} takes one batch a step: dimension {self.batch_dim} of each leaf has length "
                f"{self.num_steps}. {repr(path) if path else 'The batch'} is {what}. Stack the batches with "
                "ft.tree.stack, or say batch_dim=None where all steps share one."
            )


def repeat(step: StepFn, num_steps: int, *, batch_dim: int | None = 0) -> Repeated:
    """Make one step of several, so that one call takes them all.

    Compiled, the steps run one after another with nothing of Python's between them but the call of the graph, which is
    the graph of a single step: the time to compile does not grow with their number.

    Args:
        step: `(state, batch) -> (state, metrics)`, whose new state is laid out as the old one.
        num_steps: How many steps, an int of at least 1.
        batch_dim: The dimension of each leaf of a batch that has an entry for each step, or None to take all steps on
            the same batch.

    Returns:
        `(state, batches) -> (state, metrics)`, where metrics are stacked along a new leading dimension. It equals
        `scan` over the batches one by one.

    Raises:
        HyperparameterError: num_steps is no int of at least 1, or batch_dim neither an int nor None.
        BatchesError: when called: a leaf does not have that many entries.

    Source: `jax.lax.scan`.

    Example:
        >>> import functional_train as ft, torch
        >>> running_sum = lambda state, batch: (state + batch, {"sum": state + batch})
        >>> ft.repeat(running_sum, 3)(torch.tensor(0), torch.tensor([1, 2, 3]))
        (tensor(6), {'sum': tensor([1, 3, 6])})
    """
    check_whole("num_steps", num_steps, 1)
    if batch_dim is not None and type(batch_dim) is not int:
        raise HyperparameterError(f"batch_dim must be an int or None, got {batch_dim!r}.")
    return Repeated(step, num_steps, batch_dim)
