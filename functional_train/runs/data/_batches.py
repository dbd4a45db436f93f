"""`Batches`: a data set as a function from positions to batches."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, default_collate

from functional_train.runs.data._shuffle import shuffled
from functional_train.updates.checks import check_whole
from functional_train.values import random, tree
from functional_train.values.errors import BatchesError, HyperparameterError, StructureError
from functional_train.values.random._checks import check_key
from functional_train.values.types import Tree

_TREES = (Tensor, tuple, Mapping)
_COMPUTED_TOGETHER = 1 << 14
# What is folded into the key for the order of examples, for what is drawn for them, and for workers.
_ORDER, _DRAWS, WORKERS = range(3)


class Batches:
    """The batches of a data set, each a pure function of a key and of its position.

    `batches[n]` is batch number n of the whole run, in constant time; it is in epoch `n // len(batches)`. Each epoch is
    a permutation of its own. `ft.fit` reads them from `state.step` on, so that a resumed run meets the batches it would
    have met.

    Args:
        source: Tensors of equal length in a tuple, mapping or by themselves; or a data set with `len` and `[index]`: of
            `torch.utils.data`, of Hugging Face, or a list of examples.
        batch_size: Examples in a batch, at least 1; over all ranks.
        key: (2,) int64 random key of the order; without one the order is that of the source.
        drop_last: Whether examples at the end of an epoch that do not fill a batch are left out, others each epoch.
        rank: Which part of each batch, in [0, world_size).
        world_size: Into how many parts batches are divided. The parts of all ranks are the batch, however many.
        transform: `(example, key) -> example` for data sets, with a key of its own for each example and position; and
            `(batch, key) -> batch` for tensors.
        collate: Makes a batch of a list of examples; torch's `default_collate` when None.

    Raises:
        BatchesError: there are no examples, or fewer than fill a batch; or the last batch of a data set, not dropped,
            has fewer than there are ranks.
        HyperparameterError: batch_size, rank or world_size is out of its range, transform has no key to draw from, or
            collate is given for tensors.
        StructureError: the source is neither of these, its tensors differ in length, or the key is none.

    Example:
        >>> import functional_train as ft, torch
        >>> x, y = torch.arange(10), torch.arange(10) ** 2
        >>> batches = ft.data.Batches((x, y), 4, key=ft.random.key(0))
        >>> len(batches), torch.equal(batches[7][0] ** 2, batches[7][1])
        (2, True)
        >>> ft.data.Batches(x, 4)[0]
        tensor([0, 1, 2, 3])
    """

    def __init__(
        self,
        source: Any,
        batch_size: int,
        *,
        key: Tensor | None = None,
        drop_last: bool = True,
        rank: int = 0,
        world_size: int = 1,
        transform: Callable[[Any, Tensor], Any] | None = None,
        collate: Callable[[list[Any]], Tree] | None = None,
    ) -> None:
        check_whole("batch_size", batch_size, 1)
        check_whole("world_size", world_size, 1)
        if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < world_size <= batch_size:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise HyperparameterError(
                f"rank must be an int in [0, world_size) and world_size at most batch_size, got {rank!r}, {world_size} "
                f"and {batch_size}. The batch size counts the examples of all ranks together."
            )
        if transform is not None and key is None:
            raise HyperparameterError("transform draws from a key, and Batches was given none. Pass key=.")
        if key is not None:
            check_key(key)
        if collate is not None and isinstance(source, _TREES):
            raise HyperparameterError(
                "collate makes a batch of a list of examples, and tensors have none; use transform=."
            )
        self.source = source
        self.size = _size(source)
        self.batch_size = batch_size
        self.key = key
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.transform = transform
        self.collate = default_collate if collate is None else collate
        self._together = max(_COMPUTED_TOGETHER // batch_size, 1)
        self._known: tuple[tuple[int, int] | None, Tensor] = (None, torch.empty(0, device="cpu"))
        if self.size < (batch_size if drop_last else 1):
            raise BatchesError(
                f"there are {self.size} examples, fewer than a batch of {batch_size}. Take a smaller batch, or "
                "drop_last=False."
            )
        left = self.size % batch_size
        if not drop_last and 0 < left < world_size and not isinstance(source, _TREES):
            # All ranks refuse at once; otherwise some would fail later, with a list of no examples, and others wait.
            raise BatchesError(
                f"the last batch of an epoch has {left} examples, fewer than the {world_size} ranks. Take "
                "drop_last=True, or another batch size."
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.size // self.batch_size if self.drop_last else -(-self.size // self.batch_size)

    def __repr__(self) -> str:
        part = f", rank {self.rank} of {self.world_size}" if self.world_size > 1 else ""
        order = "in order" if self.key is None else "shuffled"
        return f"Batches of {self.batch_size} from {self.size:,} examples, {len(self)} an epoch, {order}{part}"

    def __getitem__(self, position: int) -> Tree:
        return self.examples(position, self.indices(position))

    def __iter__(self) -> Iterator[Tree]:
        return self.from_position(0)

    def from_position(self, position: int) -> Iterator[Tree]:
        """The batches from a position to the end of its epoch.

        Args:
            position: Of a batch in the whole run, at least 0, such as `int(state.step)`.
        """
        return (self[at] for at in self.rest_of_epoch(position))

    def rest_of_epoch(self, position: int) -> range:
        """The positions from one to the end of its epoch."""
        _check_position(position)
        return range(position, (position // len(self) + 1) * len(self))

    def indices(self, position: int) -> Tensor:
        """Which examples are in this rank's part of a batch.

        Args:
            position: Of the batch in the whole run, at least 0.

        Returns:
            int64, shape (examples,).
        """
        _check_position(position)
        epoch, at = divmod(position, len(self))
        first = at * self.batch_size
        count = min(self.batch_size, self.size - first)
        low, high = (first + count * rank // self.world_size for rank in (self.rank, self.rank + 1))
        if self.key is None:
            return torch.arange(low, high, device="cpu")
        start = low - first + at % self._together * self.batch_size
        # A copy, so that whoever writes to it does not write to what is known of the order.
        return self._order(epoch, at // self._together)[start : start + high - low].clone()

    def _order(self, epoch: int, part: int) -> Tensor:
        """The order of as many batches as are computed together, which takes hardly longer than one."""
        known, order = self._known
        if known != (epoch, part):
            assert self.key is not None
            first = part * self._together * self.batch_size
            last = min(first + self._together * self.batch_size, self.size)
            # Not on the default device, which a worker process may not have.
            places = torch.arange(first, last, device="cpu")
            order = shuffled(random.fold_in(random.fold_in(self.key, _ORDER), epoch), places, self.size)
            # One assignment, so that threads find either.
            self._known = (epoch, part), order
        return order

    def batch_sampler(self, position: int = 0) -> "BatchSampler":
        """The indices of batches from a position to the end of its epoch, for a DataLoader's `batch_sampler=`.

        Args:
            position: Of a batch in the whole run, at least 0.

        Returns:
            A sequence of lists of ints, computed as they are read.
        """
        return BatchSampler(self, position)

    def examples(self, position: int, indices: Tensor) -> Tree:
        """The batch of given examples, transformed with the keys that belong to a position."""
        if isinstance(self.source, _TREES):
            batch = tree.map(lambda leaf: leaf.index_select(0, indices.to(leaf.device)), self.source)
            return batch if self.transform is None else self.transform(batch, self.key_at(position, _DRAWS))
        return self.collate(self.items(position, indices))

    def items(self, position: int, indices: Tensor) -> list[Any]:
        """The examples of a data set in a list, transformed with the keys that belong to a position."""
        places = indices.tolist()
        many: Callable[[list[int]], list[Any]] | None = getattr(self.source, "__getitems__", None)
        found = list(many(places)) if many is not None else [self.source[place] for place in places]
        if self.transform is None:
            return found
        keys = random.split(self.key_at(position, _DRAWS), max(len(found), 1))
        return [self.transform(item, key) for item, key in zip(found, keys, strict=False)]

    def key_at(self, position: int, use: int) -> Tensor:
        """The key for one use of a batch. Ranks draw differently for their parts of it."""
        assert self.key is not None
        return random.fold_in(random.fold_in(random.fold_in(self.key, use), position), self.rank)


class BatchSampler(Sequence[list[int]]):
    """Lists of indices, computed as they are read."""

    def __init__(self, batches: Batches, position: int) -> None:
        self._batches = batches
        self._positions = batches.rest_of_epoch(position)

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, place: int) -> list[int]: ...
    @overload
    def __getitem__(self, place: slice) -> list[list[int]]: ...
    def __getitem__(self, place: int | slice) -> list[int] | list[list[int]]:
        if isinstance(place, slice):
            return [self._batches.indices(position).tolist() for position in self._positions[place]]
        return self._batches.indices(self._positions[place]).tolist()


def _check_position(position: int) -> None:
    if isinstance(position, bool) or not isinstance(position, int) or position < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HyperparameterError(
            f"a position is an int >= 0, got {position!r}. That of a state is int(state.step); batches go on for ever."
        )


def _size(source: Any) -> int:
    if not isinstance(source, _TREES):
        # Torch's streams inherit an index that raises, and some have a length.
        is_stream = isinstance(source, IterableDataset)
        if is_stream or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise StructureError(
                f"Batches takes tensors, or a data set with len() and [index], got a {type(source).__name__}. A stream "
                "has no positions: pass it to ft.fit by itself."
            )
        return len(source)
    found = tree.items(source)
    for path, leaf in found:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0:
            raise StructureError(f"{path!r} of the source is no tensor with examples along its first dimension.")
    lengths = {path: len(leaf) for path, leaf in found}
    if len(set(lengths.values())) != 1:
        raise StructureError(f"the tensors of the source differ in how many examples they hold: {lengths or 'none'}.")
    return next(iter(lengths.values()))
