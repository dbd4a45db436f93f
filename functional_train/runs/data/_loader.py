"""Batches that worker processes make, in order."""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from functional_train.runs.data._batches import WORKERS, Batches
from functional_train.values import random
from functional_train.values.types import Tree


class Loader:
    """The same batches, made by the worker processes of `torch.utils.data.DataLoader`.

    Their order is kept, and what workers draw is a function of the key and the position: a transform is given its keys,
    and the global generators of torch, Python and NumPy are seeded from them before each batch, in workers only. So the
    batches do not depend on the number of workers.

    Args:
        batches: What to load; its source has to be a data set.
        **options: For the DataLoader, such as `num_workers`, `pin_memory` and `prefetch_factor`.

    Example:
        >>> import functional_train as ft, torch
        >>> batches = ft.data.Batches(list(range(10)), 5, key=ft.random.key(0))
        >>> loader = ft.data.Loader(batches, num_workers=0)
        >>> all(torch.equal(loaded, batches[n]) for n, loaded in enumerate(loader))
        True
    """

    def __init__(self, batches: Batches, **options: Any) -> None:
        self.batches = batches
        self.options = options

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.batches)

    def __iter__(self) -> Iterator[Tree]:
        return self.from_position(0)

    def from_position(self, position: int) -> Iterator[Tree]:
        """The batches from a position to the end of its epoch.

        Args:
            position: Of a batch in the whole run, at least 0, such as `int(state.step)`.
        """
        # Without a generator of its own the DataLoader draws from the global one.
        generator = torch.Generator()
        data = _ByPosition(self.batches)
        rest = self.batches.rest_of_epoch(position)
        return iter(DataLoader(data, batch_size=None, sampler=rest, generator=generator, **self.options))


class _ByPosition(Dataset[Tree]):
    """A data set whose elements are whole batches."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, position: int) -> Tree:
        if self._batches.key is not None and get_worker_info() is not None:
            _seed(self._batches.key_at(position, WORKERS))
        return self._batches[position]


def _seed(key: Tensor) -> None:
    """Seed the generators of this process, which is a worker's own."""
    seed = int(random.bits(key, ()))
    torch.manual_seed(seed)
    if "random" in sys.modules:
        sys.modules["random"].seed(seed)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed(seed)
