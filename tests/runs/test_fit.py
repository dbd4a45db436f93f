"""`fit`: a fold with records, that never loses a whole state however it ends."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import functional_train as ft
from tests import global_rng
from tests.profiles import examples
from tests.runs.counting import START, Counter, consistent, count, numbers
from tests.trees import Witness, assert_bitwise, normal


@given(
    size=st.integers(1, 6),
    steps=st.one_of(st.none(), st.integers(0, 15)),
    log_every=st.integers(1, 7),
    evaluate_every=st.one_of(st.none(), st.integers(1, 6)),
    has_evaluation=st.booleans(),
)
@settings(max_examples=examples(60))
def test_is_a_fold_whatever_is_watched(
    size: int, steps: int | None, log_every: int, evaluate_every: int | None, has_evaluation: bool
) -> None:
    """How often a run logs and evaluates changes nothing about it: it is the fold over pass after pass."""
    batches = numbers(size)
    taken = size if steps is None else steps
    evaluated: list[int] = []

    def evaluate(state: Counter) -> dict[str, Tensor]:
        evaluated.append(int(state.step))
        return {"total": state.total}

    state, history = ft.fit(
        count, START, batches, steps=steps, log_every=log_every, evaluate_every=evaluate_every,
        evaluate=evaluate if has_evaluation else None,
    )  # fmt: skip
    assert_bitwise(state, ft.fold(count, START, itertools.islice(itertools.cycle(batches), taken)))
    assert consistent(state, history)
    assert history.ended == "finished"
    every = evaluate_every or size
    due = sorted({*range(every, taken + 1, every), taken}) if has_evaluation else []
    assert evaluated == due
    if has_evaluation:
        assert history["eval/step"].tolist() == due
        assert len(history["eval/total"]) == len(due)


@given(steps=st.integers(0, 8), size=st.integers(0, 8))
def test_never_reads_a_batch_too_many(steps: int, size: int) -> None:
    """A generator gives as many batches as steps are taken; when it ends early, a warning says so."""
    read: list[int] = []

    def batches() -> Iterator[Tensor]:
        for number in range(size):
            read.append(number)
            yield torch.tensor(1.0)

    if size == 0 and steps > 0:
        with pytest.raises(ft.BatchesError, match="the iterable is empty"):
            ft.fit(count, START, batches(), steps=steps)
        return
    if steps > size:
        with pytest.warns(RuntimeWarning, match=f"batches ran out after {size} of {steps} steps"):
            state, history = ft.fit(count, START, batches(), steps=steps)
        assert history.ended == "batches ran out"
    else:
        state, history = ft.fit(count, START, batches(), steps=steps)
        assert history.ended == "finished"
    assert len(read) == int(state.step) == min(steps, size)
    assert consistent(state, history)


def test_one_pass_over_anything_iterable() -> None:
    """Without `steps` a list, a tuple, an iterator and a DataLoader are read once."""
    data = TensorDataset(torch.arange(1.0, 7.0))
    loader = DataLoader(data, batch_size=None, generator=torch.Generator())
    expected, _ = ft.fit(count, START, numbers(6))
    for batches in (tuple(numbers(6)), iter(numbers(6)), (number for number in numbers(6)), numbers(6)):
        assert_bitwise(ft.fit(count, START, batches)[0], expected)
    assert_bitwise(ft.fit(lambda state, batch: count(state, batch[0]), START, loader)[0], expected)
    twice, history = ft.fit(lambda state, batch: count(state, batch[0]), START, loader, steps=9)
    assert twice.total == 21 + 6
    assert consistent(twice, history)


def test_history_goes_on_where_the_state_was() -> None:
    """A second run from the state of the first counts on, and its records continue the others."""
    middle, first = ft.fit(count, START, numbers(4))
    state, second = ft.fit(count, middle, numbers(3), evaluate=lambda state: {"total": state.total})
    assert consistent(state, second, start=4)
    assert torch.cat([first["step"], second["step"]]).tolist() == list(range(1, 8))
    assert second["eval/step"].tolist() == [7]


def test_observers_see_every_step_in_order() -> None:
    """Each observer is called with state and metrics after each step, in the order of the list."""
    seen: list[Any] = []
    observers = [
        lambda state, metrics, who=who: seen.append((who, int(state.step), metrics["loss"].item())) for who in "ab"
    ]
    ft.fit(count, START, numbers(3), observers=observers)
    assert seen == [("a", 1, 1.0), ("b", 1, 1.0), ("a", 2, 3.0), ("b", 2, 3.0), ("a", 3, 6.0), ("b", 3, 6.0)]


def test_nothing_is_written_to_and_nothing_drawn() -> None:
    """The first state and the batches stay, and no global generator moves."""
    optimizer = ft.adam(0.1)
    step = ft.make_step(ft.grad_and_value(lambda params, batch: (params["w"] - batch).square().sum()), optimizer)
    state, batches = ft.init_state({"w": normal(0, (3,))}, optimizer), [normal(seed, (3,)) for seed in range(4)]
    witness, generators = Witness(state, batches), global_rng.snapshot()
    trained, _ = ft.fit(step, state, batches, steps=9)
    witness.check()
    assert not global_rng.disturbed(generators, global_rng.snapshot())
    assert_bitwise(trained, ft.fold(step, state, [*batches, *batches, batches[0]]))


@pytest.mark.parametrize(
    ("values", "patience", "stopped_at"), [([5, 4, 3, 2], 2, 4), ([5, 4, 4, 4, 1], 2, 4), ([1, 2], 1, 2)]
)
def test_early_stopping(values: list[float], patience: int, stopped_at: int) -> None:
    """A run ends at the evaluation at which the metric has not improved for `patience` evaluations."""
    state, history = ft.fit(
        count, START, numbers(len(values)), evaluate_every=1, stop=ft.early_stopping("eval/score", patience),
        evaluate=lambda state: {"score": values[int(state.step) - 1]},
    )  # fmt: skip
    assert int(state.step) == stopped_at
    assert history.ended == ("stopped" if stopped_at < len(values) or values == [1, 2] else "finished")
    assert consistent(state, history)


def test_stopping_without_evaluation() -> None:
    """Without an evaluation `stop` is asked at log time, and may look at what the steps measured."""
    state, history = ft.fit(count, START, numbers(50), log_every=5, stop=lambda history: history["loss"][-1] > 50)
    assert int(state.step) == 10
    assert history.ended == "stopped"
    assert consistent(state, history)


def test_records_hold_no_graph() -> None:
    """Metrics that a step of one's own forgot to detach are detached when they are recorded."""

    def step(state: Counter, batch: Tensor) -> Any:
        return Counter(state.step + 1, state.total), {"loss": (batch * torch.ones((), requires_grad=True))}

    _, history = ft.fit(step, START, numbers(3))
    assert not history["loss"].requires_grad


def test_the_same_metrics_object_at_every_step_is_recorded_every_time() -> None:
    """Steps are counted, not told apart by what they return."""
    metrics = {"loss": torch.tensor(1.0)}
    state, history = ft.fit(lambda state, batch: (Counter(state.step + 1, state.total), metrics), START, numbers(5))
    assert len(history["loss"]) == int(state.step) == 5
