"""`record_effects` names exactly what a piece of code writes to."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import functional_train as ft
from tests.global_rng import seeded

X, Y = torch.linspace(-1.0, 1.0, 24).reshape(6, 4).sin(), torch.tensor([0, 1, 2, 0, 1, 2])
WEIGHTS = {"model.0.weight", "model.0.bias", "model.2.weight", "model.2.bias"}
GRADS = {f"{name}.grad" for name in WEIGHTS}


def make_model(middle: nn.Module | None = None) -> nn.Sequential:
    with seeded():
        return nn.Sequential(nn.Linear(4, 5), middle or nn.Tanh(), nn.Linear(5, 3))


def state_of(*entries: str, names: set[str] = WEIGHTS) -> set[str]:
    return {f"optimizer.state[{name}].{entry}" for name in names for entry in entries}


def turn(effects: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One turn of the usual loop, phase by phase."""
    with effects.phase("zero_grad"):
        optimizer.zero_grad()
    with effects.phase("forward"):
        output = model(X)
    with effects.phase("loss"):
        loss = F.cross_entropy(output, Y)
    with effects.phase("backward"):
        loss.backward()
    with effects.phase("step"):
        optimizer.step()


OPTIMIZERS: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], tuple[str, ...]]] = {
    "sgd": (lambda parameters: torch.optim.SGD(parameters, lr=0.1), ()),
    "momentum": (lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9), ("momentum_buffer",)),
    "adam": (torch.optim.Adam, ("step", "exp_avg", "exp_avg_sq")),
    "fused": (lambda parameters: torch.optim.AdamW(parameters, fused=True), ("step", "exp_avg", "exp_avg_sq")),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_phase_of_the_usual_loop(name: str) -> None:
    """Clearing and backward write gradients, the step writes weights and its own state, forward and loss nothing."""
    make_optimizer, entries = OPTIMIZERS[name]
    model = make_model()
    optimizer = make_optimizer(model.parameters())
    with ft.record_effects(model=model, optimizer=optimizer) as first:
        turn(first, model, optimizer)
    with ft.record_effects(model=model, optimizer=optimizer) as second:
        turn(second, model, optimizer)
    expected = {
        "forward": set(),
        "loss": set(),
        "backward": GRADS,
        "step": WEIGHTS | state_of(*entries),
    }
    assert first.writes == expected | {"zero_grad": set()}
    assert second.writes == expected | {"zero_grad": GRADS}
    assert first.changes["step"] == {
        **{name: {"changed"} for name in WEIGHTS},
        **{name: {"appeared"} for name in state_of(*entries)},
    }
    assert set(second.changes["step"].values()) == {frozenset({"changed"})}
    assert set(second.changes["zero_grad"].values()) == {frozenset({"disappeared"})}
    assert set(second.changes["backward"].values()) == {frozenset({"appeared"})}


@pytest.mark.parametrize("is_training", [True, False])
def test_batchnorm_writes_its_statistics_while_training(is_training: bool) -> None:
    """The forward of a model with BatchNorm writes all three buffers, and none in evaluation."""
    model = make_model(nn.BatchNorm1d(5)).train(is_training)
    with ft.record_effects(model=model) as effects, effects.phase("forward"):
        model(X)
    buffers = {"model.1.running_mean", "model.1.running_var", "model.1.num_batches_tracked"}
    assert effects.writes["forward"] == (buffers if is_training else set())


def test_accumulation() -> None:
    """A second backward changes the gradients that are there; clearing to zero changes them too."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ft.record_effects(model=model, optimizer=optimizer) as effects:
        for name in ("first backward", "second backward"):
            with effects.phase(name):
                F.cross_entropy(model(X), Y).backward()
        with effects.phase("clip"):
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        with effects.phase("zero_grad"):
            optimizer.zero_grad(set_to_none=False)
        with effects.phase("zero_grad of zeros"):
            optimizer.zero_grad(set_to_none=False)
    assert effects.changes["first backward"] == {name: {"appeared"} for name in GRADS}
    for phase in ("second backward", "clip", "zero_grad"):
        assert effects.changes[phase] == {name: {"changed"} for name in GRADS}
    assert effects.writes["zero_grad of zeros"] == set()


def test_scheduler() -> None:
    """A scheduler writes the optimizer's lr and its own counters, and no tensor."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with ft.record_effects(model=model, optimizer=optimizer, scheduler=scheduler) as effects:
        turn(effects, model, optimizer)
        with effects.phase("scheduler.step()"):
            scheduler.step()
    own = {"scheduler.last_epoch", "scheduler._step_count", "scheduler._last_lr[0]"}
    assert effects.writes["scheduler.step()"] == own | {"optimizer.param_groups[0].lr"}
    assert effects.writes["step"] == WEIGHTS


def test_lr_as_a_tensor() -> None:
    """A hyperparameter that is a tensor is seen changing in place."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1))
    with ft.record_effects(optimizer=optimizer) as effects, effects.phase("halve"):
        optimizer.param_groups[0]["lr"].mul_(0.5)
    assert effects.changes["halve"] == {"optimizer.param_groups[0].lr": {"changed"}}


def test_average_and_scaler() -> None:
    """An averaged model and a gradient scaler are written by their own calls only."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = torch.optim.swa_utils.AveragedModel(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with ft.record_effects(model=model, optimizer=optimizer, average=average, scaler=scaler) as effects:
        with effects.phase("backward"):
            scaler.scale(F.cross_entropy(model(X), Y)).backward()
        with effects.phase("step"):
            scaler.step(optimizer)
        with effects.phase("update"):
            scaler.update()
        with effects.phase("average"):
            average.update_parameters(model)
    assert effects.writes["backward"] == GRADS
    assert effects.writes["step"] == WEIGHTS | GRADS  # the scaler divides the gradients first
    assert effects.writes["update"] == {"scaler._growth_tracker"}
    averaged = {name.replace("model.", "average.module.") for name in WEIGHTS}
    assert effects.writes["average"] == averaged | {"average.n_averaged"}


@pytest.mark.parametrize("optimizer", [ft.sgd(0.1, momentum=0.9, nesterov=True), ft.adamw(), ft.sgd()])
def test_pure_functions_write_nothing(optimizer: ft.GradientTransformation) -> None:
    """Neither a gradient, nor an update, nor a step writes to its arguments or to the module it came from."""
    model = make_model(nn.BatchNorm1d(5))
    apply, params, buffers = ft.functionalize(model)

    def loss_fn(params: Any, batch: Any, buffers: Any) -> Any:
        output, new_buffers = apply(params, batch[0], buffers=buffers)
        return F.cross_entropy(output, batch[1]), ft.Aux(buffers=new_buffers)

    grad_fn, update_fn = ft.grad_and_value(loss_fn, has_aux=True), ft.make_update(optimizer)
    state = ft.init_state(params, optimizer, buffers=buffers)
    with ft.record_effects(model=model, state=state, batch=(X, Y)) as effects:
        with effects.phase("grad"):
            grads, _ = grad_fn(state.params, (X, Y), buffers=state.buffers)
        with effects.phase("update"):
            update_fn(grads, state.opt_state, state.params)
        with effects.phase("step"):
            after, _ = ft.make_step(grad_fn, optimizer)(state, (X, Y))
    assert effects.writes == {"grad": set(), "update": set(), "step": set()}
    assert {"state/params/0.weight", "state/buffers/1.running_mean", "state/step"} <= set(effects.watched)
    assert not torch.equal(after.params["0.weight"], state.params["0.weight"])


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
        "model.weight                           .        changed, rebound",
        "model.weight.grad                      .        .",
        "model.bias                             .        .",
        "model.bias.grad                        .        .",
        "optimizer.param_groups[0].lr           changed  .",
        f"optimizer.param_groups[0].*: {count} values  .        .",
    ]
    html = effects._repr_html_()
    assert "&lt;write&gt;" in html
    assert "<write>" not in html
    assert '<td style="text-align: left">changed, rebound</td>' in html


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
    assert dict(effects.table().rows[0].cells[1]) == {"changed": 1}
    assert str(effects).splitlines()[1].endswith("changed 1/4")
    smallest = [row.label for row in effects.table(1).rows]
    assert smallest[:3] == ["model.*: 24 parameters", "model.*.grad: 24 gradients", "model.*: 18 buffers"]
    assert len(effects.table(1000).rows) > 80
