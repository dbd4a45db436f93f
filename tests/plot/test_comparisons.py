"""Runs beside each other are drawn as they are."""

from typing import Any

import pytest
import torch
from torch import Tensor

import functional_train as ft


def valley(point: Tensor) -> Tensor:
    x, y = point.unbind(-1)
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def test_a_way_is_its_points() -> None:
    """Each run is a line through its points, from a ring to a disk; all of them are inside the picture."""
    ways = {"a": torch.tensor([[-1.0, 1.0], [0.0, 0.5], [1.0, 1.0]]), "b": [torch.tensor([2.0, 2.0]), torch.zeros(2)]}
    axes = ft.plot.trajectories(valley, ways).axes[0]
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    assert torch.equal(torch.tensor(axes.lines[0].get_xydata()), ways["a"].double())
    for edges, lowest, highest in ((axes.get_xlim(), -1.0, 2.0), (axes.get_ylim(), 0.0, 2.0)):
        assert edges[0] < lowest < highest < edges[1]


def test_curves_are_their_values() -> None:
    """Each run is a line over steps from 1 on, with gaps where values are not finite."""
    axes = ft.plot.compare({"a": torch.tensor([3.0, torch.inf, 1.0]), "b": torch.tensor([2.0])}, label="error").axes[0]
    first = torch.tensor(axes.lines[0].get_xydata())
    assert first[:, 0].tolist() == [1, 2, 3]
    assert first[1, 1].isnan()
    assert axes.get_ylabel() == "error"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ft.plot.compare({}), "compare was given no runs"),
        (lambda: ft.plot.compare({"a": torch.ones(2, 2)}), r"run 'a' are one number a step.*shape \(2, 2\)"),
        (lambda: ft.plot.compare({"a": [1.0]}), "this is a list"),
        (lambda: ft.plot.trajectories(valley, {}), "trajectories was given no runs"),
        (
            lambda: ft.plot.trajectories(valley, {"a": torch.ones(3, 3)}),
            r"run 'a' need shape \(num_points, 2\).*\(3, 3",
        ),
        (lambda: ft.plot.trajectories(valley, {"a": torch.full((1, 2), torch.nan)}), "no point of any run is finite"),
    ],
)
def test_mistakes_are_explained(make: Any, message: str) -> None:
    """Each mistake names the run and what was expected."""
    with pytest.raises(ft.StructureError, match=message):
        make()
