"""The data and the models of the demo."""

from pathlib import Path

import pytest
import torch

import functional_train as ft
from functional_train.demo import digits, text
from functional_train.demo.task import TaskError, weights_from
from functional_train.demo.transformer import Transformer

KEY = ft.random.key(0)


@pytest.mark.parametrize("module", [digits, text])
def test_a_batch_is_a_function_of_its_position(module: object) -> None:
    """The n-th batch is the same however often it is asked for, and unlike its neighbor."""
    task = module.make_task(KEY, 4)
    again = module.make_task(KEY, 4)
    first, second = ft.tree.leaves(task.batch_at(5)), ft.tree.leaves(again.batch_at(5))
    assert all(map(torch.equal, first, second))
    assert not all(map(torch.equal, first, ft.tree.leaves(task.batch_at(6))))


def test_the_split_of_digits_is_a_partition() -> None:
    """Every scan is either trained on or tested on, and the key decides which."""
    everything = digits._load()
    train, test = digits._split(KEY, everything)
    assert len(train.labels) + len(test.labels) == len(everything.labels) == 1797
    together = torch.cat([train.images, test.images]).flatten(1).sum(1).sort().values
    torch.testing.assert_close(together, everything.images.flatten(1).sum(1).sort().values, rtol=0, atol=0)
    assert not torch.equal(test.images, digits._split(ft.random.key(1), everything)[1].images)


def test_a_shift_moves_by_at_most_a_pixel() -> None:
    """A shifted image is the image moved up, down, left or right by one pixel or none, over black."""
    images = torch.zeros(200, 1, 8, 8)
    images[:, 0, 4, 4] = 1.0
    shifted = digits._shifted(KEY, images)
    found = shifted.nonzero()
    assert shifted.shape == images.shape
    assert len(found) == 200
    offsets = {(int(row) - 4, int(column) - 4) for _, _, row, column in found}
    assert offsets == {(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)}


def test_held_out_files_are_not_trained_on() -> None:
    """Files are split without overlap, in the order of their names, and the key decides how."""
    files = text._list_files()
    train, test = text._split(KEY, files)
    assert sorted([*train, *test]) == sorted(files)
    assert set(train).isdisjoint(test)
    assert train == [path for path in files if path in set(train)]
    assert test != text._split(ft.random.key(1), files)[1]


def test_python_without_its_source_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the standard library has no source, the text task says so."""
    monkeypatch.setattr(text.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(TaskError, match="no source of the standard library"):
        text.make_task(KEY, 1)


def test_the_transformer_is_causal() -> None:
    """A byte changes no prediction before it, and every prediction from it on."""
    with weights_from(KEY):
        apply, params, _ = ft.functionalize(Transformer(width=16, num_layers=2, num_heads=2))
    tokens = torch.arange(10)[None]
    changed = tokens.clone()
    changed[0, 6] = 200
    differs = (apply(params, tokens) != apply(params, changed)).any(-1)[0]
    assert differs.tolist() == [False] * 6 + [True] * 4


def test_the_transformer_sees_order() -> None:
    """Two bytes that change places change the prediction after them."""
    with weights_from(KEY):
        apply, params, _ = ft.functionalize(Transformer(width=16, num_layers=1, num_heads=2))
    last = apply(params, torch.tensor([[1, 2, 3], [2, 1, 3]]))[:, -1]
    assert not torch.allclose(last[0], last[1], atol=1e-4)


def test_first_weights_come_from_a_key() -> None:
    """The same key makes the same weights, another key others, and torch's generator stays where it was."""
    before = torch.get_rng_state()

    def weight(seed: int) -> torch.Tensor:
        with weights_from(ft.random.key(seed)):
            return torch.nn.Linear(3, 3).weight.detach()

    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))
    assert torch.equal(before, torch.get_rng_state())
