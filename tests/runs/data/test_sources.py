"""What batches are made of: trees of tensors and data sets, transformed with keys, also by torch's own DataLoader."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import functional_train as ft
from tests.profiles import examples
from tests.runs.data.sources import Rows, Sizes, bits_of, sizes
from tests.trees import Witness, assert_bitwise, nestings, normal
from tests.values.draws import keys

KEY = ft.random.key(0)


@given(data=st.data(), size=st.integers(1, 8))
@settings(max_examples=examples(30))
def test_any_tree_of_tensors(data: st.DataObject, size: int) -> None:
    """Every leaf of a nested source gives its rows of the batch, in the source's structure and dtypes."""
    leaves = st.builds(
        lambda seed, shape, dtype: (10 * normal(seed, (size, *shape))).to(dtype),
        st.integers(0, 100),
        st.sampled_from([(), (3,), (2, 2), (0,)]),
        st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]),
    )
    # A list would be a data set of examples.
    source = data.draw(nestings(leaves).filter(lambda drawn: not isinstance(drawn, list)))
    batches = ft.data.Batches(source, data.draw(st.integers(1, size)), key=KEY, drop_last=False)
    witness = Witness(source)
    for position in range(len(batches)):
        chosen = batches.indices(position).tolist()
        assert_bitwise(batches[position], ft.tree.map(lambda leaf: torch.stack([leaf[i] for i in chosen]), source))  # noqa: B023
    witness.check()


def test_parts_of_a_data_set_are_the_batch() -> None:
    """Ranks divide the examples of a data set as they do those of tensors, the last batch too."""
    whole = ft.data.Batches(Rows(17), 7, key=KEY, drop_last=False)
    ranks = [ft.data.Batches(Rows(17), 7, key=KEY, drop_last=False, rank=rank, world_size=3) for rank in range(3)]
    for position in range(6):
        parts = [batches[position] for batches in ranks]
        assert torch.equal(torch.cat([part["image"] for part in parts]), whole[position]["image"])
        assert [text for part in parts for text in part["text"]] == whole[position]["text"]


@pytest.mark.parametrize(
    "source",
    [
        [(normal(n, (2,)), n) for n in range(11)],
        TensorDataset(torch.arange(11), normal(0, (11, 3))),
        torch.utils.data.Subset(TensorDataset(torch.arange(20)), range(3, 14)),
        Rows(11),
        torch.utils.data.Subset(Rows(20), range(3, 14)),
        range(11),
        normal(0, (11, 2)).numpy(),
    ],
    ids=["list", "TensorDataset", "Subset", "rows", "Subset of rows", "range", "numpy"],
)
@pytest.mark.parametrize("key", [None, KEY], ids=["in order", "shuffled"])
def test_a_data_loader_gives_the_same_batches(source: Any, key: Tensor | None) -> None:
    """Torch's DataLoader with `batch_sampler=` gives, from any position, the batches that are read directly."""
    batches = ft.data.Batches(source, 3, key=key, drop_last=False)
    for position in (0, 1, 3, 4, 6):
        sampler = batches.batch_sampler(position)
        loader = DataLoader(source, batch_sampler=sampler, generator=torch.Generator())
        loaded, expected = list(loader), list(batches.from_position(position))
        assert len(loader) == len(sampler) == len(loaded) == 4 - position % 4
        for one, other in zip(loaded, expected, strict=True):
            assert_bitwise(one, other)
        assert sum(map(len, sampler)) == 11 - 3 * (position % 4)


def test_a_sampler_is_a_sequence() -> None:
    """A sampler has an index, slices and an end, and computes lists of ints as they are read."""
    batches = ft.data.Batches(torch.arange(10), 2, key=KEY)
    sampler = batches.batch_sampler(7)
    expected = [batches.indices(position).tolist() for position in (7, 8, 9)]
    assert list(sampler) == [sampler[0], sampler[1], sampler[-1]] == sampler[:] == expected
    assert list(reversed(sampler)) == expected[::-1]
    with pytest.raises(IndexError):
        sampler[3]


def test_many_rows_are_asked_for_at_once() -> None:
    """A data set that gives many examples at once is asked once a batch."""
    rows = Rows(10)
    batches = ft.data.Batches(rows, 5, key=KEY)
    assert len(list(batches)) == rows.asked == 2


def test_collate_is_given_the_examples() -> None:
    """`collate` makes the batch of the list of examples, in the order of their indices."""
    batches = ft.data.Batches([f"example {n}" for n in range(6)], 3, key=KEY, collate=lambda items: items)
    for position in range(4):
        assert batches[position] == [f"example {n}" for n in batches.indices(position)]


def test_each_example_has_a_key_of_its_own() -> None:
    """Keys for transforms differ between examples, positions, epochs, ranks and seeds, and repeat themselves."""
    found: list[tuple[int, ...]] = []

    def transform(example: int, key: Tensor) -> int:
        found.append(tuple(key.tolist()))
        return example

    def options(seed: int, rank: int) -> dict[str, Any]:
        return {"key": ft.random.key(seed), "rank": rank, "world_size": 2, "transform": transform}

    for seed, rank in itertools.product(range(2), range(2)):
        batches = ft.data.Batches(list(range(20)), 10, **options(seed, rank))
        for position in range(6):
            batches[position]
    assert len(set(found)) == len(found) == 2 * 2 * 6 * 5
    first, found[:] = found[:5], []
    ft.data.Batches(list(range(20)), 10, **options(0, 0))[0]
    assert found == first


@given(key=keys(), drawn=sizes(), start=st.integers(0, 100))
@settings(max_examples=examples(15))
def test_what_a_transform_draws_depends_on_the_position_alone(key: Tensor, drawn: Sizes, start: int) -> None:
    """From any position on, a transform that draws gives what it gives when that batch alone is asked for."""
    source = list(torch.arange(drawn.size))
    options: dict[str, Any] = {"key": key, "drop_last": drawn.drop_last, "transform": bits_of}
    batches = ft.data.Batches(source, drawn.batch_size, **options)
    plain = ft.data.Batches(source, drawn.batch_size, key=key, drop_last=drawn.drop_last)
    for position, (batch, bits) in enumerate(batches.from_position(start), start):
        alone = ft.data.Batches(source, drawn.batch_size, **options)[position]
        assert_bitwise([batch, bits], alone)
        assert_bitwise(batch, plain[position])
        assert len(bits.unique(dim=0)) == len(batch)


def test_a_transform_of_tensors_is_given_the_batch() -> None:
    """Tensors are transformed a batch at a time, with one key for each position and rank."""
    keys_seen: set[tuple[int, ...]] = set()

    def transform(batch: Tensor, key: Tensor) -> Tensor:
        keys_seen.add(tuple(key.tolist()))
        return batch + ft.random.normal(key, batch.shape, dtype=batch.dtype)

    source = normal(0, (12, 2))
    noisy = [ft.data.Batches(source, 4, key=KEY, rank=rank, world_size=2, transform=transform) for rank in (0, 1)]
    plain = [ft.data.Batches(source, 4, key=KEY, rank=rank, world_size=2) for rank in (0, 1)]
    noise = [noisy[rank][position] - plain[rank][position] for rank in (0, 1) for position in range(6)]
    assert len(keys_seen) == len(noise) == 12
    # What is added is a function of the key, and keys differ.
    assert len({tuple(one.flatten().tolist()) for one in noise}) == 12
    assert_bitwise(noisy[0][5], noisy[0][5])
