"""`record_effects` names exactly what a piece of code writes to."""

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import nn

import functional_train as ft
from tests.global_rng import seeded
from tests.purity.loops import make_model, turn


def test_phases_of_one_name_are_merged_and_phases_may_nest() -> None:
    """A phase in a loop gathers what all its turns wrote; an outer phase has what the inner one has."""
    first, second = torch.zeros(2), torch.zeros(2)
    with ft.record_effects(first=first, second=second) as effects:
        for tensor in (first, second):
            with effects.phase("outer"), effects.phase("inner"):
                tensor.add_(1.0)
    assert effects.phases == ("outer", "inner")
    assert effects.writes["outer"] == effects.writes["inner"] == {"first", "second"}


def test_a_phase_that_fails_is_recorded() -> None:
    """An error passes through, and what was written before it is on record."""
    tensor = torch.zeros(2)
    with ft.record_effects(tensor=tensor) as effects, pytest.raises(ZeroDivisionError), effects.phase("fail"):
        tensor.add_(1.0 / float(tensor.add_(1.0)[0] - 1.0))
    assert effects.writes["fail"] == {"tensor"}


def test_recording_does_not_disturb() -> None:
    """Training under observation gives the same bits, bumps no version, and keeps no tensor alive afterwards."""
    plain, watched = make_model(nn.BatchNorm1d(5)), make_model(nn.BatchNorm1d(5))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (plain, watched)]
    with ft.record_effects(nothing=torch.zeros(1)) as elsewhere:
        turn(elsewhere, plain, optimizers[0])
    with ft.record_effects(model=watched, optimizer=optimizers[1]) as effects:
        turn(effects, watched, optimizers[1])
    assert all(map(torch.equal, plain.state_dict().values(), watched.state_dict().values()))
    assert [tensor._version for tensor in plain.parameters()] == [tensor._version for tensor in watched.parameters()]
    gone = weakref.ref(watched[0].weight)
    del watched, optimizers
    gc.collect()
    assert gone() is None
    assert pickle.loads(pickle.dumps(effects)).writes == effects.writes == copy.deepcopy(effects).writes


@pytest.mark.parametrize("name", ["", None])
def test_a_phase_needs_a_name(name: Any) -> None:
    """A phase without a name is refused."""
    with ft.record_effects(x=torch.zeros(1)) as effects:
        with pytest.raises(ft.StructureError, match="a phase has a name"), effects.phase(name):
            pass
        with pytest.raises(ft.StructureError, match="max_rows must be at least 1, got 0"):
            effects.table(0)
    assert effects.phases == ()


def test_a_phase_after_the_end_is_refused() -> None:
    """A recording that has ended can be read, not continued."""
    with ft.record_effects(x=torch.zeros(1)) as effects:
        pass
    with pytest.raises(ft.StructureError, match="'late' comes after the end of the recording"), effects.phase("late"):
        pass
    assert effects.writes == {}
    assert "x" in repr(effects)


def test_table_text() -> None:
    """The table shows every tensor, and numbers that nobody wrote to in one row."""
    with seeded():
        model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ft.record_effects(model=model, optimizer=optimizer) as effects:
        with effects.phase("lr"):
            optimizer.param_groups[0]["lr"] = 0.2
        with effects.phase("<write>"), torch.no_grad():
            model.weight = nn.Parameter(model.weight + 1.0)
    count = len(optimizer.param_groups[0]) - 2  # the parameters are no number, and lr was written to
    assert str(effects).splitlines() == [
        "                                       lr       <write>",
        "model.weight                           .        read, changed, rebound",
        "model.weight.grad                      .        .",
        "model.bias                             .        .",
        "model.bias.grad                        .        .",
        "optimizer.param_groups[0].lr           changed  .",
        f"optimizer.param_groups[0].*: {count} values  .        .",
    ]
    html = effects._repr_html_()
    assert "&lt;write&gt;" in html
    assert "<write>" not in html
    assert '<td style="text-align: left">read, changed, rebound</td>' in html


def test_table_groups_by_module() -> None:
    """A table that would be long has a row for each module, and then for larger parts, down to one for each kind."""
    with seeded():
        model = nn.Sequential(*[nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(6)])
    optimizer = torch.optim.Adam(model.parameters())
    with ft.record_effects(model=model, optimizer=optimizer) as effects:
        with effects.phase("train"):
            model(torch.eye(2)).sum().backward()
            optimizer.step()
        with effects.phase("poke"), torch.no_grad():
            model[0][0].weight.add_(1.0)
    assert len(effects.table().rows) <= 30 < len(effects.watched)
    labels = [row.label for row in effects.table().rows]
    assert labels[:3] == ["model.0.*: 4 parameters", "model.0.*.grad: 4 gradients", "model.0.*: 3 buffers"]
    assert "optimizer.state[model.5.*]: 12 tensors" in labels
    assert labels[-1].startswith("optimizer.param_groups[0].*: ")
    assert dict(effects.table().rows[0].cells[1]) == {"read": 1, "changed": 1}
    assert str(effects).splitlines()[1].endswith("read 1/4, changed 1/4")
    smallest = [row.label for row in effects.table(1).rows]
    assert smallest[:3] == ["model.*: 24 parameters", "model.*.grad: 24 gradients", "model.*: 18 buffers"]
    assert len(effects.table(1000).rows) > 80
