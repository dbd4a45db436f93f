"""`History` and `early_stopping`: what was recorded, as values."""

import copy
import pickle
from collections.abc import Mapping

import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import functional_train as ft
from functional_train.runs.history import Recorder

COLUMNS = {
    "step": torch.tensor([1, 2, 3, 4]),
    "loss": torch.tensor([4.0, 3.0, 2.0, 1.5]),
    "per_class": torch.ones(4, 2),
    "overstep": torch.tensor([0, 0, 1, 0]),
    "eval/step": torch.tensor([2, 4]),
    "eval/accuracy": torch.tensor([0.5, 0.75]),
}
history = ft.History(COLUMNS)


def test_is_a_mapping() -> None:
    """A history is an immutable mapping, equal to what it was made of, and does not follow later changes of that."""
    assert isinstance(history, Mapping)
    assert list(history) == list(COLUMNS)
    assert len(history) == len(COLUMNS)
    assert dict(history) == COLUMNS
    assert "loss" in history
    assert "lost" not in history
    with pytest.raises(TypeError):
        history["loss"] = torch.zeros(4)  # type: ignore[index]
    columns = dict(COLUMNS)
    kept = ft.History(columns)
    columns.clear()
    assert len(kept) == len(COLUMNS)


@pytest.mark.parametrize("rebuild", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_can_be_copied_and_stored(rebuild: object) -> None:
    """Copies and pickles hold the same records."""
    again = rebuild(ft.History(COLUMNS, "stopped"))  # type: ignore[operator]
    assert again.ended == "stopped"
    assert all(torch.equal(again[name], column) for name, column in COLUMNS.items())


def test_a_missing_name_lists_those_there_are() -> None:
    """A KeyError helps."""
    with pytest.raises(KeyError, match=r"'accuracy' was not recorded; there is step, loss, .*eval/accuracy"):
        history["accuracy"]
    with pytest.raises(KeyError, match="there is nothing"):
        ft.History({})["loss"]


def test_reads_at_a_glance() -> None:
    """The repr says how long the run was, where it stands and why it ended; of vectors it says the shape."""
    assert repr(history) == (
        "History of 4 steps: loss 1.5, per_class of shape (2,), overstep 0, eval/accuracy 0.75 (finished)"
    )
    assert repr(ft.History({}, "interrupted")) == "History of 0 steps: nothing recorded (interrupted)"


def test_frame_joins_steps_and_evaluations() -> None:
    """One row a step, one column a single number; evaluations stand at their steps."""
    frame = history.frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.index.name == "step"
    assert frame.index.tolist() == [1, 2, 3, 4]
    assert list(frame.columns) == ["loss", "overstep", "eval/accuracy"]
    assert frame["loss"].tolist() == [4.0, 3.0, 2.0, 1.5]
    assert frame["eval/accuracy"].dropna().to_dict() == {2: 0.5, 4: 0.75}
    assert ft.History({}).frame().empty
    before_the_first = ft.History({"eval/step": torch.tensor([0]), "eval/loss": torch.tensor([1.0])})
    assert before_the_first.frame().index.tolist() == [0]


@given(st.lists(st.integers(1, 4), max_size=6), st.integers(0, 100))
def test_when_a_recorder_flushes_changes_nothing(sizes: list[int], start: int) -> None:
    """Flushed in chunks of any sizes, the records are the same."""
    recorder, value = Recorder(start), 0.0
    for size in sizes:
        for _ in range(size):
            recorder.add({"loss": torch.tensor(value), "plain": value})
            value += 1.0
        assert set(recorder.flush()) == {"step", "loss", "plain"}
        assert recorder.flush() == {}
    found = recorder.history("finished")
    assert recorder.taken == sum(sizes)
    if sizes:
        expected = torch.arange(float(sum(sizes)))
        assert torch.equal(found["loss"], expected)
        assert torch.equal(found["plain"], expected)
        assert torch.equal(found["step"], start + 1 + torch.arange(sum(sizes)))


def test_a_recorder_refuses_evaluations_that_differ() -> None:
    """Every evaluation measures the same; one per step is kept."""
    recorder = Recorder(0)
    recorder.evaluate({"accuracy": 0.5})
    assert recorder.is_evaluated
    recorder.add({"loss": 1.0})
    assert not recorder.is_evaluated
    with pytest.raises(ft.StructureError, match="of the evaluation after step 1"):
        recorder.evaluate({"accuracy": 0.5, "more": 1.0})
    recorder.flush()
    assert recorder.history("failed")["eval/step"].tolist() == [0]


@given(
    st.lists(st.one_of(st.floats(-5, 5), st.just(float("nan"))), min_size=1, max_size=12),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5]),
)
def test_early_stopping_counts_entries_since_the_best(values: list[float], patience: int, min_delta: float) -> None:
    """It says stop when the last `patience` entries all failed to beat the best by `min_delta`; nan never does."""
    entries = torch.tensor(values, dtype=torch.float64)
    best, since = float("inf"), 0
    for value in values:
        best, since = (value, 0) if value < best - min_delta else (best, since + 1)
    expected = since >= patience
    for mode, sign in (("min", 1), ("max", -1)):
        stop = ft.early_stopping("loss", patience, min_delta, mode)
        record = ft.History({"loss": sign * entries})
        assert stop(record) == expected
        assert stop(record) == expected  # it remembers nothing
    with pytest.raises(ft.HyperparameterError, match="'eval/loss', which was not recorded; there is loss"):
        ft.early_stopping("eval/loss")(ft.History({"loss": entries}))
