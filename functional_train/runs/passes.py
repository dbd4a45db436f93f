"""Batches in pass after pass, from where a run is."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from functional_train.values.errors import BatchesError

END_OF_PASS = object()


def passes(batches: Iterable[Any], steps: int | None, start: int = 0, taken: int = 0) -> Iterator[Any]:
    """`steps` batches in pass after pass, or one pass, each followed by a mark; never reads a batch too many.

    Batches that know positions (`ft.data`) are read from where the run is. Others are read from the beginning, and the
    first `taken` of them are not given, nor are the marks of passes that ended before the last of those.

    Args:
        batches: Any iterable.
        steps: How many, counted from `start`.
        start: Position in the data at which the run began.
        taken: How many batches were given before this.
    """
    if hasattr(batches, "from_position"):
        return _by_position(batches, steps, start, taken)
    return _by_iterating(batches, steps, taken)


def _by_position(batches: Any, steps: int | None, start: int, taken: int) -> Iterator[Any]:
    length = len(batches)
    left = (length - start % length if steps is None else steps) - taken
    position = start + taken
    if taken and position % length == 0:
        yield END_OF_PASS
    while left > 0:
        for batch in itertools.islice(batches.from_position(position), left):
            yield batch
            position, left = position + 1, left - 1
        yield END_OF_PASS


def _by_iterating(batches: Iterable[Any], steps: int | None, taken: int) -> Iterator[Any]:
    left = steps
    while left is None or left > 0:
        iterator = iter(batches)
        found = False
        for batch in itertools.islice(iterator, left):
            found = True
            if taken > 0:
                taken -= 1
            else:
                yield batch
            left = None if left is None else left - 1
        if not found:
            if left == steps:
                raise BatchesError(
                    "there are no batches: the iterable is empty. A generator can be read only once; a DataLoader with "
                    "drop_last=True gives nothing when the data set is smaller than a batch."
                )
            return
        if taken == 0:
            yield END_OF_PASS
        if left is None or iterator is batches:
            return
