"""Prodigy and D-Adaptation: the figures of their packages, and an estimate that can be read and trusted."""

from typing import Any

import pytest
import torch
from torch import Tensor

import functional_train as ft
from tests.oracles import load
from tests.trees import assert_bitwise, assert_close, like, normal
from tests.updates.oracle_runs import run_on

FACTORIES = {"Prodigy": ft.prodigy, "DAdaptSGD": ft.dadapt_sgd, "DAdaptAdam": ft.dadapt_adam}
NAMES = {"weight_decouple": "decouple", "bias_correction": "use_bias_correction"}
# Where the oracle's defaults are not those of the authors' own packages, prodigyopt and dadaptation.
DEFAULTS = {"DAdaptSGD": {"momentum": 0.9}}
CASES = [
    (name, kind)
    for name in load.names("pytorch_optimizer")
    if load.case("pytorch_optimizer", name).function in FACTORIES
    for kind in load.case("pytorch_optimizer", name).problems
]
params = {"w": normal(0, (4, 3)), "b": normal(1, ())}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_figures_of_pytorch_optimizer(name: str, kind: load.Problem) -> None:
    """50 steps in float64."""
    case = load.case("pytorch_optimizer", name)
    options = DEFAULTS.get(case.function, {}) | {NAMES.get(key, key): value for key, value in case.kwargs.items()}
    optimizer = FACTORIES[case.function](**options)
    expected = load.figures("pytorch_optimizer", name, kind)
    for step, reached in run_on(optimizer, kind, case.leaves).items():
        assert_close(reached, expected[step], 1e-10)


# Optax corrects always.
OPTAX = {
    "prodigy": ft.prodigy(use_bias_correction=True),
    "prodigy_options": ft.prodigy(
        0.5, (0.8, 0.95), 0.9, 1e-6, 0.1, use_bias_correction=True, safeguard_warmup=True, d0=1e-3, d_coef=2.0
    ),
    "dadapt_adamw": ft.dadapt_adam(decouple=True, use_bias_correction=True),
    "dadapt_adamw_options": ft.dadapt_adam(
        0.5, (0.8, 0.95), 1e-6, 0.1, decouple=True, use_bias_correction=True, d0=1e-3
    ),
}


@pytest.mark.parametrize("kind", ["given", "quadratic"])
@pytest.mark.parametrize("name", OPTAX)
def test_figures_of_optax(name: str, kind: load.Problem) -> None:
    expected = load.figures("optax", name, kind)
    for step, reached in run_on(OPTAX[name], kind).items():
        assert_close(reached, expected[step], 1e-10)


def test_there_are_figures_of_every_class() -> None:
    assert {load.case("pytorch_optimizer", name).function for name, _ in CASES} == set(FACTORIES)


OPTIMIZERS = {
    "prodigy": ft.prodigy(),
    "safeguarded": ft.prodigy(safeguard_warmup=True, use_bias_correction=True),
    "sliced": ft.prodigy(slice_p=3),
    "dadapt_sgd": ft.dadapt_sgd(),
    "dadapt_adam": ft.dadapt_adam(use_bias_correction=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_distance_is_found(name: str) -> None:
    """On a bowl whose bottom is 3 away in each of 20 coordinates, d grows to that order and never shrinks."""
    optimizer = OPTIMIZERS[name]
    step = ft.make_step(ft.grad_and_value(lambda p, batch: (p - 3).square().sum() / 2), optimizer)
    state = ft.init_state(torch.zeros(20, dtype=torch.float64), optimizer)
    distances: list[Tensor] = [ft.tree.get(state.opt_state, "d")]
    for _ in range(300):
        state, metrics = step(state, None)
        distances.append(ft.tree.get(state.opt_state, "d"))
    found = torch.stack(distances)
    assert found[0] == 1e-6
    assert (found.diff() >= 0).all()
    assert 0.3 < found[-1] < 3 * 20**0.5
    assert metrics["loss"] < 1e-2


@pytest.mark.parametrize("name", ["prodigy", "safeguarded", "dadapt_sgd", "dadapt_adam"])
def test_16_bits_find_the_same_distance(name: str) -> None:
    """In float16, where the square of the first distance is 0, the estimate is that of float32 to its digits."""
    optimizer = OPTIMIZERS[name]
    found: list[Tensor] = []
    for dtype in (torch.float32, torch.float16):
        step = ft.make_step(ft.grad_and_value(lambda p, batch: (p - 3).float().square().mean()), optimizer)
        state = ft.fold(step, ft.init_state(torch.zeros(20, dtype=dtype), optimizer), [None] * 100)
        found.append(ft.tree.get(state.opt_state, "d"))
        assert state.params.dtype == dtype
    assert found[0] > 0.05
    assert abs(found[1] / found[0] - 1) < 0.05


def test_growth_is_limited() -> None:
    """After its first rise, Prodigy's estimate grows by at most its rate in an update; a tensor may be infinite."""
    wide, narrow = (ft.prodigy(d0=1e-3, growth_rate=rate) for rate in (torch.tensor(torch.inf), 1.1))
    reached: dict[str, list[float]] = {}
    for name, optimizer in (("wide", wide), ("narrow", narrow)):
        current, state = params, optimizer.init(params)
        for _ in range(12):
            current, state = ft.make_update(optimizer)(ft.tree.add(current, -3), state, current)
            reached.setdefault(name, []).append(float(ft.tree.get(state, "d")))
    risen = [new / old for old, new in zip(reached["narrow"], reached["narrow"][1:], strict=False) if old > 1e-3]
    assert 1 < max(risen) <= 1.1 * 1.1 + 1e-12
    assert reached["wide"][-1] > reached["narrow"][-1]


@pytest.mark.parametrize("make", FACTORIES.values())
def test_an_absent_gradient_leaves_its_leaf(make: Any) -> None:
    """Its parameter and its state stay; without any gradient nothing at all happens."""
    optimizer = make()
    current, state = ft.make_update(optimizer)(like(3, params), optimizer.init(params), params)
    moved, after = ft.make_update(optimizer)({**like(4, params), "b": None}, state, current)
    assert_bitwise(moved["b"], current["b"])
    assert_bitwise(after.s["b"], state.s["b"])
    nothing = ft.tree.map(lambda leaf: None, params)
    assert_bitwise(ft.make_update(optimizer)(nothing, state, current), (current, state))


def test_complex_numbers_are_pairs() -> None:
    """A complex leaf moves as the real leaf of its parts does."""
    pair = normal(5, (6, 2))
    for optimizer in OPTIMIZERS.values():
        if optimizer is OPTIMIZERS["sliced"]:
            continue
        reached: list[Tensor] = []
        for start in (pair, torch.view_as_complex(pair)):
            current, state = start, optimizer.init(start)
            for count in range(4):
                slope = normal(count, (6, 2))
                slope = torch.view_as_complex(slope) if start.is_complex() else slope
                current, state = ft.make_update(optimizer)(slope, state, current)
            reached.append(torch.view_as_real(current) if current.is_complex() else current)
        assert_close(reached[1], reached[0], 1e-14)


MISTAKES = [
    (ft.prodigy, {"lr": -1.0}, r"lr must be a finite number >= 0, got -1\.0\. 1\.0 is usual: it is a multiple"),
    (ft.prodigy, {"betas": (0.9, 1.0)}, r"betas\[1\] must be in \[0, 1\), got 1\.0"),
    (ft.prodigy, {"beta3": 1.0}, r"beta3 must be in \[0, 1\), got 1\.0\. None is usual"),
    (ft.prodigy, {"eps": -1.0}, r"eps must be a finite number >= 0, got -1\.0"),
    (ft.prodigy, {"weight_decay": -1.0}, r"weight_decay must be a finite number >= 0, got -1\.0"),
    (ft.prodigy, {"d0": 0.0}, r"d0 must be a finite number > 0, got 0\.0\. 1e-6 is usual"),
    (ft.prodigy, {"d_coef": 0.0}, r"d_coef must be a finite number > 0, got 0\.0"),
    (ft.prodigy, {"growth_rate": 0.0}, r"growth_rate must be a number > 0, got 0\.0\. inf means no limit"),
    (ft.prodigy, {"slice_p": 0}, r"slice_p must be an int >= 1, got 0\. 1 looks at everything"),
    (ft.dadapt_sgd, {"lr": -1.0}, r"lr must be a finite number >= 0"),
    (ft.dadapt_sgd, {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1\.0"),
    (ft.dadapt_sgd, {"weight_decay": -1.0}, r"weight_decay must be a finite number >= 0"),
    (ft.dadapt_sgd, {"d0": -1.0}, r"d0 must be a finite number > 0, got -1\.0"),
    (ft.dadapt_sgd, {"growth_rate": -1.0}, r"growth_rate must be a number > 0"),
    (ft.dadapt_adam, {"lr": -1.0}, r"lr must be a finite number >= 0"),
    (ft.dadapt_adam, {"betas": (1.0, 0.9)}, r"betas\[0\] must be in \[0, 1\), got 1\.0"),
    (ft.dadapt_adam, {"eps": -1.0}, r"eps must be a finite number >= 0"),
    (ft.dadapt_adam, {"weight_decay": -1.0}, r"weight_decay must be a finite number >= 0"),
    (ft.dadapt_adam, {"d0": 0.0}, r"d0 must be a finite number > 0"),
    (ft.dadapt_adam, {"growth_rate": 0.0}, r"growth_rate must be a number > 0"),
]


@pytest.mark.parametrize(("make", "options", "message"), MISTAKES)
def test_bad_numbers_are_explained(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ft.HyperparameterError, match=message):
        make(**options)


@pytest.mark.parametrize("make", FACTORIES.values())
def test_parameters_are_needed(make: Any) -> None:
    with pytest.raises(ft.StructureError, match=r"looks at the parameters, but its update was given None"):
        make().update(params, make().init(params), None)
