"""`shuffled`: a permutation that is looked up, spread as evenly as chance has it, in memory that does not grow."""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import functional_train as ft
from functional_train.runs.data import _shuffle
from tests.profiles import examples
from tests.trees import Witness, assert_bitwise
from tests.values.draws import LEVEL, keys

KEY = ft.random.key(0)
HUGE = 10**15
# Each a few numbers, and together tables of every kind: full and not, square and not, with sides even and odd.
SMALL = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 16, 20, 25)
# https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64: the first numbers from the seed 1234567.
SPLITMIX64 = (
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
)


def permutations(count: int, size: int, rounds: int = 2**10) -> Tensor:
    """Whole permutations of many keys at once: (count, size), int64; see the test that this is what `shuffled` does."""
    words = torch.func.vmap(lambda key: ft.random.bits(key, (2 * _shuffle._ROUNDS,)))(ft.random.split(KEY, count))
    used = tuple((words[:, ::2] << 31 ^ words[:, 1::2]).T[:rounds, :, None])
    width = math.isqrt(size - 1) + 1
    height = -(-size // width)
    found = _shuffle._permuted(torch.arange(size).expand(count, size), width, height, used)
    while (found >= size).any():
        found = torch.where(found >= size, _shuffle._permuted(found, width, height, used), found)
    return found


def is_permutation(found: Tensor) -> bool:
    return torch.equal(found.flatten().sort().values, torch.arange(found.numel()))


def neighbors_at(found: Tensor, place: int, size: int) -> Tensor:
    """How often each pair of different numbers is at a place and the next one."""
    counts = torch.bincount(found[:, place] * size + found[:, place + 1], minlength=size**2).view(size, size)
    return counts[~torch.eye(size, dtype=torch.bool)]


def chance(counts: Tensor) -> float:
    return float(stats.chisquare(counts).pvalue)


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_every_small_size_is_permuted(seed: int) -> None:
    """Of each size up to 200 every number is found, and found once."""
    key = ft.random.key(seed)
    for size in range(1, 201):
        assert is_permutation(ft.data.shuffled(key, torch.arange(size), size)), size


@given(key=keys(), size=st.integers(1, 5000))
@settings(max_examples=examples(30))
def test_is_a_permutation(key: Tensor, size: int) -> None:
    """Whatever the size and the key, every number is found, and found once."""
    assert is_permutation(ft.data.shuffled(key, torch.arange(size), size))


@given(data=st.data(), key=keys(), size=st.one_of(st.integers(1, 100), st.integers(1, 2**60)))
@settings(max_examples=examples(15))
def test_a_position_does_not_know_what_else_is_asked(data: st.DataObject, key: Tensor, size: int) -> None:
    """Positions looked up in any shape, order and number, some of them twice, are found as each is by itself."""
    asked = torch.tensor(data.draw(st.lists(st.integers(0, size - 1), min_size=6, max_size=6)))
    witness = Witness(key, asked)
    expected = torch.stack([ft.data.shuffled(key, position, size) for position in asked])
    assert expected.dtype == torch.int64
    assert (expected >= 0).all()
    assert (expected < size).all()
    shapes = (asked, asked.view(2, 3), asked.view(3, 1, 2), asked.flip(0), asked[::2], asked[:0])
    results = (expected, expected.view(2, 3), expected.view(3, 1, 2), expected.flip(0), expected[::2], expected[:0])
    for positions, result in zip(shapes, results, strict=True):
        assert_bitwise(ft.data.shuffled(key, positions, size), result)
    witness.check()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
def test_positions_may_be_any_integers(dtype: torch.dtype) -> None:
    """What is found is int64, and the same, whatever dtype the positions have."""
    positions = torch.arange(100)
    assert_bitwise(ft.data.shuffled(KEY, positions.to(dtype), 10**9), ft.data.shuffled(KEY, positions, 10**9))


def test_is_computed_where_the_positions_are() -> None:
    """The default device has no say."""
    key, positions = ft.random.key(11), torch.arange(50)
    with torch.device("meta"):
        found = ft.data.shuffled(key, positions, 50)
    assert is_permutation(found)
    assert_bitwise(found, ft.data.shuffled(key, positions, 50))


class Cost(TorchDispatchMode):
    """Counts operations, and the elements of the largest tensor that one of them made."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        self.largest = max([self.largest, *(leaf.numel() for leaf in ft.tree.leaves(result) if hasattr(leaf, "numel"))])
        return result


def test_cost_does_not_grow_with_size() -> None:
    """A look-up among 10**15 numbers takes the operations, and the memory, of one among a few thousand."""
    costs: list[Cost] = []
    for size in (64**2, HUGE, 2**60):
        positions = torch.arange(100)
        ft.data.shuffled(KEY, positions, size)
        with Cost() as cost:
            ft.data.shuffled(KEY, positions + (size - 100), size)
        costs.append(cost)
    assert [cost.largest for cost in costs] == [100, 100, 100]
    # The last row of a table may be unfinished; a number that falls there is permuted once more.
    assert max(cost.operations for cost in costs) <= 2 * costs[0].operations


@pytest.mark.parametrize("first", [0, HUGE // 3, HUGE - 50_000])
def test_numbers_of_a_huge_permutation_are_spread(first: int) -> None:
    """Neighbors among 10**15 are different, and equally likely to be in each of 16 parts, whatever the last one was."""
    found = ft.data.shuffled(KEY, torch.arange(first, first + 50_000), HUGE)
    assert len(found.unique()) == len(found)
    part = found * 16 // HUGE
    assert chance(torch.bincount(part, minlength=16)) > LEVEL
    assert chance(torch.bincount(part[:-1] * 16 + part[1:], minlength=256)) > LEVEL
    # Low digits come from another coordinate of the table than high ones.
    last = found % 16
    assert chance(torch.bincount(last[:-1] * 16 + last[1:], minlength=256)) > LEVEL


@pytest.mark.parametrize("size", [10_000, 65_536, 100_003])
def test_neighbors_in_a_large_permutation_are_independent(size: int) -> None:
    """In one permutation, which sixteenth a number is from says nothing about the number after it or 16 later."""
    part = ft.data.shuffled(KEY, torch.arange(size), size) * 16 // size
    for later in (1, 2, 16, math.isqrt(size - 1) + 1):
        assert chance(torch.bincount(part[:-later] * 16 + part[later:], minlength=256)) > LEVEL, later


def test_many_keys_at_once_are_each_by_itself() -> None:
    """The statistics below are of the permutations that `shuffled` looks up."""
    split = ft.random.split(KEY, 3)
    for size in SMALL:
        for key, found in zip(split, permutations(3, size), strict=True):
            assert_bitwise(ft.data.shuffled(key, torch.arange(size), size), found)


@pytest.mark.parametrize("size", SMALL)
def test_every_number_lands_everywhere_equally_often(size: int) -> None:
    """Over keys, each position meets each number equally often, and so do pairs of neighbors (chi-square)."""
    found = permutations(10_000, size)
    for place in range(size):
        assert chance(torch.bincount(found[:, place], minlength=size)) > LEVEL, place
    for place in range(size - 1 if size > 2 else 0):
        assert chance(neighbors_at(found, place, size)) > LEVEL, place


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_every_small_permutation_is_equally_likely(size: int) -> None:
    """Over keys, all permutations of a few numbers come equally often (chi-square)."""
    # Larger tables are not asked: turning columns of three numbers makes even permutations of nine only.
    found = permutations(10_000, size)
    codes = (found * size ** torch.arange(size)).sum(1)
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == math.factorial(size)
    assert chance(counts) > LEVEL


def test_too_few_rounds_would_be_seen() -> None:
    """With a third of the rounds, the same tests see that permutations are not evenly spread."""
    found = permutations(10_000, 5, rounds=_shuffle._ROUNDS // 3)
    assert chance(torch.bincount(found[:, 0], minlength=5)) < LEVEL
    assert chance(neighbors_at(found, 0, 5)) < LEVEL


@given(key=keys(), bit=st.integers(0, 63))
@settings(max_examples=examples(30))
def test_each_bit_of_a_key_matters(key: Tensor, bit: int) -> None:
    """Permutations of keys that differ in one bit agree in as few places as any two, which is one on average."""
    word = torch.tensor([1 << bit - 32, 0] if bit >= 32 else [0, 1 << bit])
    one, other = (ft.data.shuffled(which, torch.arange(1000), 1000) for which in (key, key ^ word))
    # Close to Poisson: beyond 15 has probability 2e-14.
    assert (one == other).sum() <= 15


def test_keys_agree_as_often_as_chance_has_it() -> None:
    """Permutations of any two epochs' keys agree in one place on average, as uniform ones do."""
    positions = torch.arange(1000)
    found = torch.stack([ft.data.shuffled(ft.random.fold_in(KEY, epoch), positions, 1000) for epoch in range(100)])
    agreeing = int((found[:-1] == found[1:]).sum())
    assert LEVEL < stats.poisson.cdf(agreeing, 99) < 1 - LEVEL
    fixed = int((found == positions).sum())
    assert LEVEL < stats.poisson.cdf(fixed, 100) < 1 - LEVEL


def test_is_pure() -> None:
    """A look-up repeats itself, whatever was looked up in between, and with nothing remembered."""
    positions = torch.arange(300)
    expected = ft.data.shuffled(KEY, positions, 300)
    for seed in range(1, 4):
        ft.data.shuffled(ft.random.key(seed), positions, 300)
    assert_bitwise(ft.data.shuffled(KEY, positions, 300), expected)
    with mock.patch.object(_shuffle, "_round_keys", _shuffle._round_keys.__wrapped__):
        assert_bitwise(ft.data.shuffled(KEY, positions, 300), expected)


def test_mixing_is_splitmix64() -> None:
    """The function of the rounds gives the numbers that are published for SplitMix64, less their last two bits."""
    expected = torch.tensor([number >> 2 for number in SPLITMIX64])
    assert_bitwise(_shuffle._mixed(torch.arange(5), 1234567), expected)


BAD_CALLS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: ft.data.shuffled(KEY, torch.arange(3), 0), ft.HyperparameterError, r"in \[1, 2\*\*60\], got 0\."),
    (lambda: ft.data.shuffled(KEY, torch.arange(3), -2), ft.HyperparameterError, r"got -2\."),
    (lambda: ft.data.shuffled(KEY, torch.arange(3), 2**60 + 1), ft.HyperparameterError, r"got 1152921504606846977\."),
    (lambda: ft.data.shuffled(KEY, torch.arange(1), True), ft.HyperparameterError, r"size must be an int .* got True"),
    (lambda: ft.data.shuffled(KEY, torch.arange(3), 3.0), ft.HyperparameterError, r"size must be an int .* got 3\.0"),  # pyright: ignore[reportArgumentType]
    (lambda: ft.data.shuffled(KEY, torch.arange(6), 5), ft.HyperparameterError, r"in \[0, 5\), got 0 to 5\."),
    (lambda: ft.data.shuffled(KEY, torch.tensor(-1), 5), ft.HyperparameterError, r"in \[0, 5\), got -1 to -1\."),
    (lambda: ft.data.shuffled(KEY, torch.ones(3), 5), ft.StructureError, r"tensor of integers. Write torch.arange"),
    (lambda: ft.data.shuffled(KEY, torch.ones(3, dtype=torch.bool), 5), ft.StructureError, "tensor of integers"),
    (lambda: ft.data.shuffled(KEY, torch.ones(3) * 1j, 5), ft.StructureError, "must be a tensor of integers"),
    (lambda: ft.data.shuffled(KEY, 3, 5), ft.StructureError, "must be a tensor of integers"),  # pyright: ignore[reportArgumentType]
    (lambda: ft.data.shuffled(3, torch.arange(5), 5), ft.StructureError, r"key must be .* random.key\(3\)"),  # pyright: ignore[reportArgumentType]
    (lambda: ft.data.shuffled(torch.arange(3), torch.arange(5), 5), ft.StructureError, r"shape \(2,\), got .* \(3,\)"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS, ids=[message for *_, message in BAD_CALLS])
def test_mistakes_are_explained(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    """A bad argument raises an error that names it, the value got and the rule."""
    with pytest.raises(error, match=message):
        call()
