"""What `fit` does around a run: batches on the device of the state, and a bar where somebody looks."""

import io
import sys
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput
from transformers.tokenization_utils_base import BatchEncoding

import functional_train as ft
from functional_train.runs.placement import place
from functional_train.runs.progress import Progress
from tests.runs.counting import START, count, numbers


@pytest.mark.parametrize(
    "wrap", [BatchEncoding, BaseModelOutput, dict, ft.Params, lambda batch: [(batch["x"], "text", 3)]]
)
def test_batches_are_moved_to_the_device_of_the_state(wrap: Any) -> None:
    """Tensors in any container go where the state is, mappings that optree does not know included."""
    batch = wrap({"x": torch.ones(2)})
    assert place(batch, torch.device("cpu")) is batch
    assert place(batch, None) is batch
    moved = place({"inner": batch}, torch.device("meta"))["inner"]
    found = moved[0][0] if isinstance(moved, list) else moved["x"]
    assert found.device.type == "meta"
    if wrap in (BatchEncoding, ft.Params):
        assert type(moved) is wrap
    if isinstance(moved, list):
        assert moved[0][1:] == ("text", 3)
    original = batch[0][0] if isinstance(batch, list) else batch["x"]
    assert original.device.type == "cpu"


def test_fit_takes_a_tokenizers_batches() -> None:
    """A BatchEncoding is a batch."""
    batches = [BatchEncoding({"x": number}) for number in numbers(3)]
    state, _ = ft.fit(lambda state, batch: count(state, batch["x"]), START, batches)
    assert state.total == 6


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("terminal", "progress", "shown"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_progress_shows_itself_only_where_somebody_looks(
    terminal: bool, progress: bool, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar appears on a terminal, with the loss beside it, and not when it is turned off or output goes to a file."""
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    ft.fit(count, START, numbers(3), log_every=1, progress=progress)
    assert bool(stream.getvalue()) == shown
    if shown:
        assert "3/3" in stream.getvalue()
        assert "loss=6" in stream.getvalue()


def test_progress_counts_what_is_known() -> None:
    """The bar's length is `steps`, or the length of the batches, or unknown."""
    for steps, batches, total in ((7, [], 7), (None, [1, 2], 2), (None, iter([1]), None)):
        with Progress(steps, batches, shown=False) as bar:
            assert bar._bar.total == total
