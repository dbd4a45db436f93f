"""Data sets and sizes that the tests of batches share."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

import functional_train as ft
from tests.trees import normal


class Sizes(NamedTuple):
    """How many examples there are, and how many are in a batch."""

    size: int
    batch_size: int
    drop_last: bool

    @property
    def in_epoch(self) -> int:
        return self.size // self.batch_size if self.drop_last else -(-self.size // self.batch_size)


class Rows(Dataset[dict[str, Any]]):
    """A data set that gives many rows at once, as those of Hugging Face do, and counts how often it is asked."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {"label": place, "image": normal(place, (2, 3)), "text": str(place)}

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        self.asked += 1
        return [self[place] for place in places]


class Stream(IterableDataset[int]):
    """Has a length and an inherited index, and can be read in one order only."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def sizes() -> st.SearchStrategy[Sizes]:
    """Any sizes that leave a batch in an epoch."""
    return st.builds(Sizes, st.integers(1, 40), st.integers(1, 20), st.booleans()).filter(lambda drawn: drawn.in_epoch)


def bits_of(batch: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """A transform that draws."""
    return batch, ft.random.bits(key, (3,))
