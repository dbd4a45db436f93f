"""The usual loop under observation: the exact sets of what each call reads and writes, and of what it calls."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import functional_train as ft
from tests.global_rng import seeded
from tests.purity.loops import X, Y, make_model, turn

WEIGHTS = {"model.0.weight", "model.0.bias", "model.2.weight", "model.2.bias"}
GRADS = {f"{name}.grad" for name in WEIGHTS}
BATCH = {"batch/0", "batch/1"}


def state_of(*entries: str, names: set[str] = WEIGHTS) -> set[str]:
    return {f"optimizer.state[{name}].{entry}" for name in names for entry in entries}


def recorded(model: nn.Module, optimizer: torch.optim.Optimizer, set_to_none: bool = True) -> ft.Effects:
    with ft.record_effects(model=model, optimizer=optimizer, batch=(X, Y)) as effects:
        turn(effects, model, optimizer, set_to_none)
    return effects


OPTIMIZERS: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], tuple[str, ...]]] = {
    "sgd": (lambda parameters: torch.optim.SGD(parameters, lr=0.1), ()),
    "momentum": (lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9), ("momentum_buffer",)),
    "adam": (torch.optim.Adam, ("step", "exp_avg", "exp_avg_sq")),
    "foreach": (lambda parameters: torch.optim.AdamW(parameters, foreach=True), ("step", "exp_avg", "exp_avg_sq")),
    "fused": (lambda parameters: torch.optim.AdamW(parameters, fused=True), ("step", "exp_avg", "exp_avg_sq")),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_phase_of_the_usual_loop(name: str) -> None:
    """Forward reads weights, backward those behind the first layer; the step reads and writes all but gradients."""
    make_optimizer, entries = OPTIMIZERS[name]
    model = make_model()
    optimizer = make_optimizer(model.parameters())
    first, second = recorded(model, optimizer), recorded(model, optimizer)
    reads = {
        "zero_grad": set(),
        "forward": WEIGHTS | {"batch/0"},
        "loss": {"batch/1"},
        "backward": {"model.2.weight"} | BATCH,
    }
    writes = {"forward": set(), "loss": set(), "backward": GRADS, "step": WEIGHTS | state_of(*entries)}
    # What the first step makes was not there when it began.
    assert first.reads == reads | {"step": WEIGHTS | GRADS}
    assert second.reads == reads | {"step": WEIGHTS | GRADS | state_of(*entries)}
    assert first.writes == writes | {"zero_grad": set()}
    assert second.writes == writes | {"zero_grad": GRADS}
    assert first.changes["step"] == {
        **{name: {"changed"} for name in WEIGHTS},
        **{name: {"appeared"} for name in state_of(*entries)},
    }
    assert set(second.changes["step"].values()) == {frozenset({"changed"})}
    assert set(second.changes["zero_grad"].values()) == {frozenset({"disappeared"})}
    assert set(second.changes["backward"].values()) == {frozenset({"appeared"})}
    for effects in (first, second):
        called = {"forward": {"model"}}
        assert effects.calls == {phase: called.get(phase, set()) for phase in effects.phases}


@pytest.mark.parametrize("is_training", [True, False])
def test_batchnorm_writes_its_statistics_while_training(is_training: bool) -> None:
    """BatchNorm reads and writes its buffers while training; in evaluation it reads two, and backward does too."""
    model = make_model(nn.BatchNorm1d(5)).train(is_training)
    effects = recorded(model, torch.optim.SGD(model.parameters(), lr=0.1))
    weights = WEIGHTS | {"model.1.weight", "model.1.bias"}
    statistics = {"model.1.running_mean", "model.1.running_var"}
    buffers = statistics | {"model.1.num_batches_tracked"}
    through = {"model.1.weight", "model.2.weight"} | BATCH
    grads = {f"{name}.grad" for name in weights}
    assert effects.reads == {
        "zero_grad": set(),
        "forward": weights | (buffers if is_training else statistics) | {"batch/0"},
        "loss": {"batch/1"},
        "backward": through if is_training else through | statistics,
        "step": weights | grads,
    }
    assert effects.writes["forward"] == (buffers if is_training else set())
    assert effects.writes["backward"] == grads


def test_accumulation() -> None:
    """A second backward reads and changes the gradients that are there; clearing them to zero only writes."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ft.record_effects(model=model, optimizer=optimizer) as effects:
        for name in ("first backward", "second backward"):
            loss = F.cross_entropy(model(X), Y)
            with effects.phase(name):
                loss.backward()
        with effects.phase("clip"):
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        with effects.phase("measure"):
            nn.utils.clip_grad_norm_(model.parameters(), torch.inf)
        with effects.phase("zero_grad"):
            optimizer.zero_grad(set_to_none=False)
        with effects.phase("zero_grad of zeros"):
            optimizer.zero_grad(set_to_none=False)
    assert effects.changes["first backward"] == {name: {"appeared"} for name in GRADS}
    for phase in ("second backward", "clip", "zero_grad"):
        assert effects.changes[phase] == {name: {"changed"} for name in GRADS}
    assert effects.writes["zero_grad of zeros"] == effects.writes["measure"] == set()
    assert effects.reads == {
        "first backward": {"model.2.weight"},
        "second backward": {"model.2.weight"} | GRADS,
        "clip": GRADS,
        "measure": GRADS,
        "zero_grad": set(),
        "zero_grad of zeros": set(),
    }


def test_scheduler() -> None:
    """A scheduler writes the optimizer's lr and its own counters, and reads no tensor."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with ft.record_effects(model=model, optimizer=optimizer, scheduler=scheduler) as effects:
        turn(effects, model, optimizer)
        with effects.phase("scheduler.step()"):
            scheduler.step()
    own = {"scheduler.last_epoch", "scheduler._step_count", "scheduler._last_lr[0]"}
    assert effects.writes["scheduler.step()"] == own | {"optimizer.param_groups[0].lr"}
    assert effects.reads["scheduler.step()"] == set()
    assert effects.writes["step"] == WEIGHTS


def test_lr_as_a_tensor() -> None:
    """A hyperparameter that is a tensor is seen read by the step, and changing in place."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1))
    F.cross_entropy(model(X), Y).backward()
    with ft.record_effects(optimizer=optimizer) as effects:
        with effects.phase("halve"):
            optimizer.param_groups[0]["lr"].mul_(0.5)
        with effects.phase("step"):
            optimizer.step()
    assert effects.changes["halve"] == {"optimizer.param_groups[0].lr": {"changed"}}
    assert effects.reads["halve"] == effects.reads["step"] == {"optimizer.param_groups[0].lr"}
    assert effects.writes["step"] == set()


def test_scaler() -> None:
    """A gradient scaler reads its scale wherever losses and gradients are scaled, and writes it in its update."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    for is_made in (False, True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), Y)
        with ft.record_effects(model=model, optimizer=optimizer, scaler=scaler) as effects:
            with effects.phase("scale"):
                scaled = scaler.scale(loss)
            with effects.phase("backward"):
                scaled.backward()
            with effects.phase("unscale_"):
                scaler.unscale_(optimizer)
            with effects.phase("step"):
                scaler.step(optimizer)
            with effects.phase("update"):
                scaler.update()
        scale = {"scaler.scale"}
        assert effects.reads == {
            "scale": scale if is_made else set(),  # a number became a tensor there
            "backward": {"model.2.weight"} | scale,
            "unscale_": GRADS | scale,
            "step": WEIGHTS | GRADS,
            "update": {"scaler.scale", "scaler._growth_tracker"},
        }
        assert effects.writes == {
            "scale": set(),
            "backward": GRADS,
            "unscale_": GRADS,
            "step": WEIGHTS,
            "update": scale,
        }


def test_average() -> None:
    """An averaged model first copies the model, then mixes it in; the model is read, and neither is called."""
    model = make_model(nn.BatchNorm1d(5))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    weights = {f"model.{name}" for name, _ in model.named_parameters()}
    buffers = {f"model.{name}" for name, _ in model.named_buffers()}
    averaged, count = {name.replace("model.", "average.module.") for name in weights}, {"average.n_averaged"}
    with ft.record_effects(model=model, average=average) as effects:
        for name in ("first", "second"):
            with torch.no_grad():
                model(X)
                model[0].weight.add_(1.0)
            with effects.phase(name):
                average.update_parameters(model)
    assert effects.reads["first"] == weights | buffers | count
    assert effects.reads["second"] == weights | buffers | count | averaged
    kept = {name.replace("model.", "average.module.") for name in buffers}
    assert effects.writes["first"] == kept | count | {"average.module.0.weight"}
    # The mean of equal numbers may round.
    assert kept | count | {"average.module.0.weight"} <= effects.writes["second"] <= kept | count | averaged
    assert effects.calls == {"first": set(), "second": set()}
    assert effects.describe(1).endswith("(the average was not called).")


def test_tied_weights() -> None:
    """A tied weight is read and written under its one name."""
    with seeded():
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    effects = recorded(model, optimizer)
    assert effects.reads["forward"] == {"model.0.weight", "batch/0"}
    assert effects.reads["backward"] == {"model.0.weight"} | BATCH
    assert effects.reads["step"] == {"model.0.weight", "model.0.weight.grad"}
    assert effects.writes["step"] == {"model.0.weight"}


def test_a_model_of_hundreds_of_parameters() -> None:
    """Of a deep transformer the sets are exact, and table and sentences name its parts."""
    with seeded():
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        model = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x = torch.linspace(-1.0, 1.0, 48).reshape(2, 3, 8).sin()
    model(x).square().mean().backward()
    optimizer.step()
    with ft.record_effects(model=model, optimizer=optimizer) as effects, effects.lines():
        for _ in range(1):
            loss = model(x).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    weights = {f"model.{name}" for name, _ in model.named_parameters()}
    grads, state = {f"{name}.grad" for name in weights}, state_of("step", "exp_avg", "exp_avg_sq", names=weights)
    first_in_backward = {"model.layers.0.self_attn.in_proj_weight"}  # its input needs no gradient
    biases = {name for name in weights if name.endswith("bias")}
    assert effects.reads == {
        "for _ in range(1):": set(),
        "loss = model(x).square().mean()": weights,
        "optimizer.zero_grad()": set(),
        "loss.backward()": weights - biases - first_in_backward,
        "optimizer.step()": weights | grads | state,
    }
    assert effects.writes == {
        "for _ in range(1):": set(),
        "loss = model(x).square().mean()": set(),
        "optimizer.zero_grad()": grads,
        "loss.backward()": grads,
        "optimizer.step()": weights | state,
    }
    assert len(effects.watched) > 700
    assert len(effects.table().rows) <= 30
    assert len(effects.describe()) < 1000
    assert effects.describe().splitlines()[-2:] == [
        "`loss.backward()` read model.layers.* (71 of 144 parameters) and wrote model.layers.*.grad (144 gradients).",
        (
            "`optimizer.step()` read model.layers.* (144 parameters), model.layers.*.grad (144 gradients) and "
            "optimizer.state[model.layers.*] (432 tensors) and wrote model.layers.* (144 parameters) (the model was "
            "not called) and optimizer.state[model.layers.*] (432 tensors)."
        ),
    ]


@pytest.mark.parametrize("optimizer", [ft.sgd(0.1, momentum=0.9, nesterov=True), ft.adamw()])
def test_pure_functions_write_nothing(optimizer: ft.GradientTransformation) -> None:
    """A gradient reads parameters, buffers and batch, an update parameters and state; neither writes anything."""
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
    parts: dict[str, set[str]] = {
        part: {name for name in effects.watched if name.startswith(f"state/{part}")}
        for part in ("params", "opt_state", "buffers", "step")
    }
    assert all(parts.values())
    assert effects.writes == {"grad": set(), "update": set(), "step": set()}
    assert effects.reads == {
        "grad": parts["params"] | parts["buffers"] | BATCH,
        "update": parts["params"] | parts["opt_state"],
        "step": set().union(*parts.values()) | BATCH,
    }
    assert effects.calls == {"grad": set(), "update": set(), "step": set()}
    assert "wrote" not in effects.describe()
    assert not torch.equal(after.params["0.weight"], state.params["0.weight"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_recording_changes_no_number(name: str) -> None:
    """The same turns end in the same bits, recorded line by line or not, dropout included."""

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, effects: Any) -> list[torch.Tensor]:
        with seeded(1), effects.lines() if effects else torch.enable_grad():
            for _ in range(3):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(X), Y)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
            return [torch.get_rng_state(), *model.state_dict().values()]

    model = make_model(nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5)))
    twin = copy.deepcopy(model)
    plain = train(model, OPTIMIZERS[name][0](model.parameters()), None)
    optimizer = OPTIMIZERS[name][0](twin.parameters())
    with ft.record_effects(model=twin, optimizer=optimizer) as effects:
        watched = train(twin, optimizer, effects)
    assert effects.writes["loss.backward()"]
    assert all(map(torch.equal, plain, watched))


def test_recording_a_step_changes_no_number() -> None:
    """A pure step returns the same bits whether it is recorded or not, and draws the same from its key."""
    apply, params, buffers = ft.functionalize(make_model(nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.5))))

    def loss_fn(params: Any, batch: Any, buffers: Any, key: Any) -> Any:
        output, new_buffers = apply(params, batch[0], buffers=buffers, key=key)
        return F.cross_entropy(output, batch[1]), ft.Aux(buffers=new_buffers)

    optimizer = ft.adamw()
    step = ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), optimizer)
    state = ft.init_state(params, optimizer, buffers=buffers, key=ft.random.key(0))
    plain, _ = step(*(step(state, (X, Y))[0], (X, Y)))
    with ft.record_effects(state=state) as effects, effects.phase("step"):
        watched, _ = step(*(step(state, (X, Y))[0], (X, Y)))
    assert "state/key" in effects.reads["step"]
    assert effects.writes["step"] == set()
    assert all(map(torch.equal, ft.tree.leaves(plain), ft.tree.leaves(watched)))
