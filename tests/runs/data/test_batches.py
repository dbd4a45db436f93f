"""`Batches`: the batch at a position is a function of a key and of that position, and of nothing else."""

import pickle
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import functional_train as ft
from functional_train.runs.data import _batches
from tests.profiles import examples
from tests.runs.counting import START, Counter, consistent, count
from tests.runs.data.sources import Sizes, Stream, bits_of, sizes
from tests.trees import Witness, assert_bitwise, normal
from tests.values.draws import LEVEL, keys

KEY = ft.random.key(0)


def computed_together(count: int) -> Any:
    """Have the order of about so many examples be computed at once, so that an epoch has several parts."""
    return mock.patch.object(_batches, "_COMPUTED_TOGETHER", count)


def epoch_of(batches: ft.data.Batches, epoch: int) -> list[int]:
    positions = batches.rest_of_epoch(epoch * len(batches))
    return [place for position in positions for place in batches.indices(position).tolist()]


def pass_over(source: Any, drawn: Sizes, options: dict[str, Any], epoch: int) -> list[Any]:
    """One epoch from its first batch to its last, read by an object of its own."""
    return list(ft.data.Batches(source, drawn.batch_size, **options).from_position(epoch * drawn.in_epoch))


@given(key=keys(), drawn=sizes(), epoch=st.integers(0, 10**9))
@settings(max_examples=examples(50))
def test_an_epoch_holds_every_example_once(key: Tensor, drawn: Sizes, epoch: int) -> None:
    """Each epoch holds every example once, or with `drop_last` as many as fill batches, all of them different."""
    batches = ft.data.Batches(torch.arange(drawn.size), drawn.batch_size, key=key, drop_last=drawn.drop_last)
    assert len(batches) == drawn.in_epoch
    found = [len(batches.indices(position)) for position in batches.rest_of_epoch(epoch * len(batches))]
    short = [drawn.size % drawn.batch_size] if not drawn.drop_last and drawn.size % drawn.batch_size else []
    assert found == [drawn.batch_size] * (drawn.size // drawn.batch_size) + short
    places = epoch_of(batches, epoch)
    assert len(set(places)) == len(places) == sum(found)
    assert set(places) <= set(range(drawn.size))


@given(data=st.data(), key=st.one_of(st.none(), keys()), drawn=sizes(), together=st.sampled_from([1, 7, 25, 2**14]))
@settings(max_examples=examples(25))
def test_a_batch_is_a_function_of_its_position(
    data: st.DataObject, key: Tensor | None, drawn: Sizes, together: int
) -> None:
    """In any order, from any position, and however much is computed ahead, each position has the one batch."""
    source = normal(0, (drawn.size, 2))
    options: dict[str, Any] = {"key": key, "drop_last": drawn.drop_last}
    expected = [batch for epoch in range(2) for batch in pass_over(source, drawn, options, epoch)]
    with computed_together(together):
        batches = ft.data.Batches(source, drawn.batch_size, **options)
    order = data.draw(st.lists(st.integers(0, len(expected) - 1), min_size=1, max_size=8))
    for position in order:
        assert_bitwise(batches[position], expected[position])
    rest = list(batches.from_position(order[0]))
    assert len(rest) == len(batches) - order[0] % len(batches)
    assert_bitwise(rest, expected[order[0] :][: len(rest)])
    assert_bitwise(list(batches), expected[: len(batches)])


def test_readers_of_the_same_batches_do_not_meet() -> None:
    """Two passes that take turns, in different epochs, give what each gives alone."""
    batches = ft.data.Batches(torch.arange(12), 4, key=KEY)
    first, second = list(batches.from_position(0)), list(batches.from_position(30))
    turns = list(zip(batches.from_position(0), batches.from_position(30), strict=True))
    assert_bitwise(turns, list(zip(first, second, strict=True)))


def test_an_epoch_of_several_parts() -> None:
    """More examples than are computed together, and batches that are larger than that, are in order too."""
    for batch_size in (7_000, 16_384, 20_000):
        batches = ft.data.Batches(torch.arange(50_000), batch_size, key=KEY, drop_last=False)
        order = ft.random.fold_in(ft.random.fold_in(KEY, 0), 1)
        assert epoch_of(batches, 1) == ft.data.shuffled(order, torch.arange(50_000), 50_000).tolist()


@given(data=st.data(), key=st.one_of(st.none(), keys()), drawn=sizes(), together=st.sampled_from([1, 25, 2**14]))
@settings(max_examples=examples(25))
def test_parts_of_ranks_are_the_batch(data: st.DataObject, key: Tensor | None, drawn: Sizes, together: int) -> None:
    """However many ranks there are, their parts, put together in order, are the batch, and differ by one in length."""
    world_size = data.draw(st.integers(1, drawn.batch_size))
    source = {"x": normal(0, (drawn.size, 2)), "y": torch.arange(drawn.size)}
    options: dict[str, Any] = {"key": key, "drop_last": drawn.drop_last}
    whole = ft.data.Batches(source, drawn.batch_size, **options)
    with computed_together(together):
        ranks = [
            ft.data.Batches(source, drawn.batch_size, **options, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
    for position in range(drawn.in_epoch - 1, drawn.in_epoch + 3):
        parts = [batches[position] for batches in ranks]
        assert_bitwise(ft.tree.map(lambda *leaves: torch.cat(leaves), *parts), whole[position])
        lengths = [len(part["y"]) for part in parts]
        assert max(lengths) - min(lengths) <= 1


def test_without_a_key_the_order_is_that_of_the_source() -> None:
    """Without a key every epoch is in order."""
    batches = ft.data.Batches(torch.arange(10), 4)
    assert [batches[n].tolist() for n in range(4)] == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2
    batches = ft.data.Batches(torch.arange(10), 4, drop_last=False)
    assert [batches[n].tolist() for n in range(2, 5)] == [[8, 9], [0, 1, 2, 3], [4, 5, 6, 7]]


def test_epochs_and_keys_have_orders_of_their_own() -> None:
    """No two of many epochs and keys have the same order."""
    orders = {
        tuple(epoch_of(ft.data.Batches(torch.arange(20), 5, key=ft.random.key(seed)), epoch))
        for seed in range(5)
        for epoch in range(20)
    }
    assert len(orders) == 100


def test_what_is_left_out_changes() -> None:
    """With `drop_last`, every example is left out of as many epochs as any other, but for chance."""
    batches = ft.data.Batches(torch.arange(9), 4, key=KEY)
    left_out = torch.tensor([36 - sum(epoch_of(batches, epoch)) for epoch in range(300)])
    assert stats.chisquare(torch.bincount(left_out, minlength=9)).pvalue > LEVEL


def test_a_batch_belongs_to_whoever_asked() -> None:
    """Writing to a batch, or to its indices, changes neither the source nor any later batch."""
    for key in (None, KEY):
        source = normal(0, (6, 2))
        batches, witness = ft.data.Batches(source, 3, key=key), Witness(source)
        indices, batch = batches.indices(0), batches[0]
        expected = indices.clone(), batch.clone()
        indices.zero_()
        batch.zero_()
        assert_bitwise((batches.indices(0), batches[0]), expected)
        witness.check()


def test_can_be_sent_to_another_process() -> None:
    """Pickled before or after they were read, batches are the same."""
    batches = ft.data.Batches(list(torch.arange(10)), 4, key=KEY, transform=bits_of)
    fresh = pickle.dumps(batches)
    expected = [batches[position] for position in range(4)]
    for sent in (fresh, pickle.dumps(batches)):
        assert_bitwise([pickle.loads(sent)[position] for position in range(4)], expected)


def test_the_default_device_has_no_say() -> None:
    """Batches are where their source is, whatever the default device is."""
    source = torch.arange(10)
    for key in (None, ft.random.key(12)):
        with torch.device("meta"):
            found = list(ft.data.Batches(source, 4, key=key))
        assert_bitwise(found, list(ft.data.Batches(source, 4, key=key)))


@given(
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 4)).filter(lambda drawn: drawn[1] <= drawn[0]),
    start=st.integers(0, 15),
    first=st.integers(0, 15),
    second=st.integers(0, 15),
)
@settings(max_examples=examples(20))
def test_a_run_in_two_parts_is_one_run(sizes: tuple[int, int], start: int, first: int, second: int) -> None:
    """`fit` reads from `state.step` on: two runs are one, which is the fold over the batches of those positions."""
    batches = ft.data.Batches(torch.arange(1.0, sizes[0] + 1), sizes[1], key=KEY)

    def step(state: Counter, batch: Tensor) -> tuple[Counter, dict[str, Tensor]]:
        # The place in the batch counts too, so that the order does.
        return count(state, (batch * torch.arange(1, len(batch) + 1)).sum())

    state = START._replace(step=torch.tensor(start))
    middle, one = ft.fit(step, state, batches, steps=first)
    end, two = ft.fit(step, middle, batches, steps=second)
    whole, history = ft.fit(step, state, batches, steps=first + second)
    assert_bitwise(end, whole)
    assert_bitwise(end, ft.fold(step, state, [batches[start + n] for n in range(first + second)]))
    assert consistent(whole, history, start)
    losses = [part["loss"] for part in (one, two) if "loss" in part]
    assert torch.equal(torch.cat([torch.empty(0), *losses]), history["loss"] if "loss" in history else torch.empty(0))


@settings(max_examples=examples(30))
@given(start=st.integers(0, 12), steps=st.one_of(st.none(), st.integers(1, 15)))
def test_evaluates_at_the_ends_of_epochs(start: int, steps: int | None) -> None:
    """Epochs end where they do in the whole run, wherever this one began; without `steps` a run ends there."""
    batches = ft.data.Batches(torch.arange(8.0), 2, key=KEY)
    state, history = ft.fit(
        lambda state, batch: count(state, batch.sum()), START._replace(step=torch.tensor(start)), batches, steps=steps,
        evaluate=lambda state: {"total": state.total},
    )  # fmt: skip
    end = (start // 4 + 1) * 4 if steps is None else start + steps
    assert int(state.step) == end
    assert history["eval/step"].tolist() == sorted({*[n for n in range(start + 1, end + 1) if n % 4 == 0], end})
    assert consistent(state, history, start)
    if start % 4 == 0 and steps is None:
        assert state.total == 28


def test_says_what_it_is() -> None:
    """The text of batches has the sizes, the order and the part."""
    source = torch.arange(1200)
    assert repr(ft.data.Batches(source, 7)) == "Batches of 7 from 1,200 examples, 171 an epoch, in order"
    parts = ft.data.Batches(source, 7, key=KEY, drop_last=False, rank=1, world_size=2)
    assert repr(parts) == "Batches of 7 from 1,200 examples, 172 an epoch, shuffled, rank 1 of 2"


X = torch.arange(10)
BAD_CALLS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: ft.data.Batches(X, 0), ft.HyperparameterError, "batch_size must be an int >= 1, got 0."),
    (lambda: ft.data.Batches(X, True), ft.HyperparameterError, "batch_size must be an int >= 1, got True."),
    (lambda: ft.data.Batches(X, 2.0), ft.HyperparameterError, "batch_size must be an int >= 1, got 2.0."),  # pyright: ignore[reportArgumentType]
    (lambda: ft.data.Batches(X, 2, world_size=0), ft.HyperparameterError, "world_size must be an int >= 1, got 0."),
    (lambda: ft.data.Batches(X, 2, rank=1), ft.HyperparameterError, "rank must be .* got 1, 1 and 2. The batch size"),
    (lambda: ft.data.Batches(X, 2, rank=-1, world_size=2), ft.HyperparameterError, "got -1, 2 and 2"),
    (lambda: ft.data.Batches(X, 2, rank=0.5), ft.HyperparameterError, "an int in .* got 0.5, 1 and 2"),  # pyright: ignore[reportArgumentType]
    (lambda: ft.data.Batches(X, 2, rank=0, world_size=3), ft.HyperparameterError, "counts the examples of all ranks"),
    (lambda: ft.data.Batches(X, 2, transform=bits_of), ft.HyperparameterError, r"given none. Pass key=\."),
    (lambda: ft.data.Batches(X, 2, collate=list), ft.HyperparameterError, "tensors have none; use transform="),
    (lambda: ft.data.Batches(X, 2, key=7), ft.StructureError, r"key must be an .* Make one with random.key\(7\)"),  # pyright: ignore[reportArgumentType]
    (lambda: ft.data.Batches(X, 11), ft.BatchesError, "there are 10 examples, fewer than a batch of 11. Take a sm"),
    (lambda: ft.data.Batches([], 4, drop_last=False), ft.BatchesError, "there are 0 examples"),
    (
        lambda: ft.data.Batches(list(X), 3, drop_last=False, world_size=2),
        ft.BatchesError,
        "the last batch of an epoch has 1 examples, fewer than the 2 ranks. Take drop_last=True",
    ),
    (lambda: ft.data.Batches(iter(X), 2), ft.StructureError, r"a data set with len\(\) and \[index\], got a .*pass it"),
    (lambda: ft.data.Batches(Stream(), 2), ft.StructureError, "got a Stream. A stream has no positions"),
    (lambda: ft.data.Batches({1, 2}, 2), ft.StructureError, "got a set"),
    (lambda: ft.data.Batches((X, {"y": torch.tensor(1.0)}), 2), ft.StructureError, "'1/y' of the source is no tensor"),
    (lambda: ft.data.Batches({"x": X, "y": "text"}, 2), ft.StructureError, "'y' of the source is no tensor with exam"),
    (lambda: ft.data.Batches((X, X[:9]), 2), ft.StructureError, "differ in how many .* hold: {'0': 10, '1': 9}"),
    (lambda: ft.data.Batches((), 2), ft.StructureError, "differ in how many examples they hold: none"),
    (lambda: ft.data.Batches(X, 2)[-1], ft.HyperparameterError, r"an int >= 0, got -1. .* int\(state.step\)"),
    (lambda: ft.data.Batches(X, 2)[torch.tensor(3)], ft.HyperparameterError, r"got tensor\(3\)"),  # pyright: ignore[reportArgumentType]
    (lambda: ft.data.Batches(X, 2).indices(1.0), ft.HyperparameterError, r"a position is an int >= 0, got 1\.0"),  # pyright: ignore[reportArgumentType]
    (lambda: ft.data.Batches(X, 2).from_position(-1), ft.HyperparameterError, "a position is an int >= 0, got -1"),
    (lambda: ft.data.Batches(X, 2).batch_sampler(-1), ft.HyperparameterError, "a position is an int >= 0, got -1"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS, ids=[message for *_, message in BAD_CALLS])
def test_mistakes_are_explained(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    """A bad argument raises an error that names it, the value got, the rule and the fix."""
    with pytest.raises(error, match=message):
        call()
