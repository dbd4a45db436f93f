"""`Loader`: worker processes make the same batches in the same order, however many they are."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

import functional_train as ft
from tests import global_rng
from tests.runs.counting import START, count
from tests.runs.data.sources import Rows
from tests.trees import assert_bitwise, normal

KEY = ft.random.key(0)
# Workers are forked beside the threads of pytest-xdist, and newer Pythons warn of that.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Noisy(Dataset[tuple[int, Tensor]]):
    """Examples that draw from all global generators, as data sets with augmentations do."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, place: int) -> tuple[int, Tensor]:
        assert get_worker_info() is not None
        drawn = (random.random(), np.random.rand(), torch.rand((), dtype=torch.float64).item())  # noqa: NPY002
        return place, torch.tensor(drawn, dtype=torch.float64)


def add_noise(example: dict[str, Any], key: Tensor) -> dict[str, Any]:
    image = example["image"]
    return {**example, "image": image + ft.random.normal(key, image.shape, dtype=image.dtype)}


def batches_of(transform: Any = None, **options: Any) -> ft.data.Batches:
    return ft.data.Batches(Rows(11), 3, key=KEY, drop_last=False, transform=transform, **options)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("transform", [None, add_noise], ids=["as they are", "transformed"])
@pytest.mark.parametrize("position", [0, 6])
def test_gives_the_batches_in_order(num_workers: int, transform: Any, position: int) -> None:
    """From any position, what a loader gives is what is read directly, and global generators stay where they are."""
    batches, generators = batches_of(transform), global_rng.snapshot()
    loader = ft.data.Loader(batches, num_workers=num_workers)
    loaded = list(loader.from_position(position))
    assert not global_rng.disturbed(generators, global_rng.snapshot())
    assert len(loader) == 4
    assert len(loaded) == 4 - position % 4
    assert_bitwise(loaded, list(batches.from_position(position)))


def test_begins_at_the_first_epoch() -> None:
    """Iterated by itself, a loader gives the first epoch, each time."""
    loader = ft.data.Loader(batches_of())
    assert_bitwise(list(loader), list(batches_of()))
    assert_bitwise(list(loader), list(batches_of()))


def test_any_source_can_be_loaded() -> None:
    """Tensors, parts of ranks, and data sets without a key are loaded as they are read."""
    tensors = {"x": normal(0, (7, 2)), "y": torch.arange(7)}
    for batches in (
        ft.data.Batches(tensors, 3, key=KEY),
        batches_of(add_noise, rank=1, world_size=2),
        ft.data.Batches(list(range(7)), 3),
    ):
        assert_bitwise(list(ft.data.Loader(batches, num_workers=1)), list(batches))


def test_what_workers_draw_depends_on_the_position_alone() -> None:
    """Draws of a data set from global generators are the same for one worker and two, and for a start in the middle."""
    batches = ft.data.Batches(Noisy(), 3, key=KEY)
    one = list(ft.data.Loader(batches, num_workers=1).from_position(4))
    two = list(ft.data.Loader(batches, num_workers=2).from_position(4))
    middle = list(ft.data.Loader(batches, num_workers=2).from_position(6))
    assert_bitwise(two, one)
    assert_bitwise(middle, one[2:])


def test_no_two_batches_draw_the_same() -> None:
    """Batches, epochs, ranks and keys draw different numbers from each of the global generators."""

    def drawn(seed: int, rank: int, position: int) -> list[Tensor]:
        batches = ft.data.Batches(Noisy(), 3, key=ft.random.key(seed), rank=rank, world_size=2)
        return [noise for _, noise in ft.data.Loader(batches, num_workers=1).from_position(position)]

    numbers = torch.cat([*drawn(0, 0, 0), *drawn(0, 0, 4), *drawn(0, 1, 0), *drawn(1, 0, 0)])
    assert numbers.shape == (4 * 1 + 4 * 1 + 4 * 2 + 4 * 1, 3)
    for column in numbers.unbind(1):
        assert len(column.unique()) == len(column)


def test_fit_reads_from_where_the_state_is() -> None:
    """`fit` in two parts, with workers and a stop in the middle of an epoch, is one run over the batches themselves."""
    batches = batches_of(add_noise)

    def step(state: Any, batch: dict[str, Any]) -> Any:
        return count(state, batch["image"].sum().float())

    expected, history = ft.fit(step, START, batches, steps=7)
    loader = ft.data.Loader(batches, num_workers=2)
    middle, one = ft.fit(step, START, loader, steps=2)
    end, two = ft.fit(step, middle, loader, steps=5)
    assert_bitwise(end, expected)
    assert torch.equal(torch.cat([one["loss"], two["loss"]]), history["loss"])


def test_positions_are_checked_at_once() -> None:
    """A bad position is refused when the batches are asked for, before any worker starts."""
    with pytest.raises(ft.HyperparameterError, match="a position is an int >= 0, got -1"):
        ft.data.Loader(batches_of(), num_workers=2).from_position(-1)
