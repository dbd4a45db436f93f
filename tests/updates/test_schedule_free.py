"""Schedule-free training: both points agree with the package, and the average is what it says."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from tests.oracles import load
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, normal, seeds
from tests.updates.oracle_runs import run_on

FACTORIES = {
    "SGDScheduleFree": ft.schedule_free_sgd,
    "AdamWScheduleFree": ft.schedule_free_adamw,
    "RAdamScheduleFree": ft.schedule_free_radam,
}
CASES = [
    (name, kind)
    for name in load.names("schedulefree")
    if load.case("schedulefree", name).function in FACTORIES
    for kind in load.case("schedulefree", name).problems
]
params = {"w": normal(0, (4, 3)), "b": normal(1, ())}


def trained(optimizer: ft.GradientTransformation, start: Any, grads: list[Any]) -> tuple[Any, Any]:
    current, state = start, optimizer.init(start)
    for one in grads:
        current, state = ft.make_update(optimizer)(one, state, current)
    return current, state


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_both_points_are_those_of_schedulefree(name: str, kind: load.Problem) -> None:
    """50 steps: y, where gradients are taken, and x, which is evaluated, are the package's."""
    case = load.case("schedulefree", name)
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in case.kwargs.items()}
    optimizer = FACTORIES[case.function](**options)
    expected = [load.figures("schedulefree", name, kind, point) for point in ("params", "eval_params")]

    def both(params: Any, state: Any) -> tuple[Any, Any]:
        return params, ft.schedule_free_eval_params(state, params)

    for step, reached in run_on(optimizer, kind, case.leaves, read=both).items():
        for point, figures in zip(reached, expected, strict=True):
            assert_close(point, figures[step], 1e-10)


# Not Optax's `_options`: its warm-up gives the base the rate of the step before, so that the first is 0, where
# schedulefree, the authors' own, begins with lr / warmup_steps.
OTHERS = {
    ("optax", "schedule_free_sgd"): ft.schedule_free_sgd(0.1),
    ("optax", "schedule_free_adamw"): ft.schedule_free_adamw(0.05),
    ("pytorch_optimizer", "schedule_free_adamw"): ft.schedule_free_adamw(0.05),
    ("pytorch_optimizer", "schedule_free_adamw_options"): ft.schedule_free_adamw(0.05, (0.8, 0.95), 1e-4, 0.1, 8, 1.0),
}


@pytest.mark.parametrize("kind", ["given", "quadratic"])
@pytest.mark.parametrize(("library", "name"), OTHERS)
def test_figures_of_other_libraries(library: str, name: str, kind: load.Problem) -> None:
    expected = load.figures(library, name, kind)
    for step, reached in run_on(OTHERS[library, name], kind).items():
        assert_close(reached, expected[step], 1e-10)


def test_there_are_figures_of_every_class() -> None:
    assert {load.case("schedulefree", name).function for name, _ in CASES} == set(FACTORIES)


@settings(max_examples=examples(20))
@given(seeds(), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6), st.floats(0.05, 0.95), st.floats(0.0, 2.0))
def test_the_evaluated_point_is_the_weighted_mean(seed: int, rates: list[float], momentum: float, power: float) -> None:
    """Whatever the base and the schedule: x is the mean of z with weights max(lr)^p, and y lies between z and x."""
    table = torch.tensor(rates, dtype=torch.float64)
    base = ft.sgd(lambda step: table[step], momentum=0.5)
    optimizer = ft.schedule_free(base, lambda step: table[step], momentum, weight_lr_power=power, r=0.5)
    current, state = params, optimizer.init(params)
    total, mean = 0.0, ft.tree.zeros_like(params)
    for count in range(1, len(rates) + 1):
        current, state = ft.make_update(optimizer)(like(seed + count, params), state, current)
        weight = count**0.5 * max(rates[:count]) ** power
        total += weight
        mean = ft.tree.lerp(mean, state.inner.z, weight / total if total else 0.0)
    x = ft.schedule_free_eval_params(state, current)
    assert_close(x, mean if total else params, 1e-11)
    assert_close(current, ft.tree.lerp(state.inner.z, x, momentum), 1e-12)


def test_a_schedule_of_momentum_mixes_anew() -> None:
    """y is mixed with the momentum of its step, whatever the one before was."""
    momenta = torch.tensor([0.9, 0.3, 0.6], dtype=torch.float64)
    optimizer = ft.schedule_free(ft.sgd(0.1), momentum=lambda step: momenta[step])
    current, state = params, optimizer.init(params)
    places: list[Any] = []
    for count in range(3):
        current, state = ft.make_update(optimizer)(like(count, params), state, current)
        places.append(state.inner.z)
        mean = ft.tree.scale(1 / len(places), ft.tree.map(lambda *leaves: torch.stack(leaves).sum(0), *places))
        assert_close(ft.schedule_free_eval_params(state, current), mean, 1e-13)
        assert_close(current, ft.tree.lerp(places[-1], mean, float(momenta[count])), 1e-13)


def test_an_absent_gradient_leaves_both_points() -> None:
    """A leaf without a gradient keeps y, x, its sums and its count."""
    optimizer = ft.schedule_free_adamw(0.1, warmup_steps=3)
    current, state = trained(optimizer, params, [like(3, params)])
    moved, after = ft.make_update(optimizer)({**like(4, params), "b": None}, state, current)
    assert_bitwise(moved["b"], current["b"])
    assert_bitwise(ft.schedule_free_eval_params(after, moved)["b"], ft.schedule_free_eval_params(state, current)["b"])
    assert ft.tree.get(after, "inner/step").tolist() == [1, 2]
    assert ft.tree.get(after, "weight_sum")[0] == ft.tree.get(state, "weight_sum")[0]


def test_integers_and_16_bits_are_evaluated_too() -> None:
    """Leaves that cannot be averaged are handed on; 16-bit leaves are mixed in float32 and stay 16 bits wide."""
    mixed = {"n": torch.tensor(3), "w": torch.ones(3, dtype=torch.bfloat16)}
    optimizer = ft.schedule_free_sgd(0.5)
    updates, state = optimizer.update({"n": None, "w": mixed["w"]}, optimizer.init(mixed), mixed)
    x = ft.schedule_free_eval_params(state, ft.apply_updates(mixed, updates))
    assert_bitwise(x, {"n": torch.tensor(3), "w": torch.full((3,), 0.5, dtype=torch.bfloat16)})


def test_the_state_is_found_anywhere() -> None:
    """Inside a chain too; none and two are errors that say what to pass."""
    one = ft.chain(ft.clip_by_global_norm(1.0), ft.schedule_free_sgd())
    assert_bitwise(ft.schedule_free_eval_params(one.init(params), params), params)
    with pytest.raises(ft.StructureError, match=r"found no ScheduleFreeState.*Pass the opt_state of ft\.schedule_free"):
        ft.schedule_free_eval_params(ft.adam().init(params), params)
    with pytest.raises(ft.StructureError, match=r"found 2 ScheduleFreeState"):
        ft.schedule_free_eval_params((one.init(params), one.init(params)), params)


@pytest.mark.parametrize(
    "optimizer",
    [
        ft.schedule_free_sgd(0.008),
        ft.schedule_free_adamw(0.2),
        ft.schedule_free_radam(0.5),
        ft.schedule_free(ft.adam(0.2, (0.0, 0.999))),
    ],
)
def test_the_minimum_of_a_valley_is_reached(optimizer: ft.GradientTransformation) -> None:
    """Rosenbrock's function, from the usual start: the evaluated point comes to (1, 1)."""

    def valley(point: Tensor, _: Any) -> Tensor:
        return (1 - point[0]) ** 2 + 10 * (point[1] - point[0] ** 2) ** 2

    step = ft.make_step(ft.grad_and_value(valley), optimizer)
    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    state = ft.fold(step, ft.init_state(start, optimizer), [None] * 600)
    assert valley(ft.schedule_free_eval_params(state.opt_state, state.params), None) < 1e-2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ft.schedule_free(ft.sgd), r"schedule_free takes a GradientTransformation, got a function"),
        (lambda: ft.schedule_free(ft.sgd(), -1.0), r"lr must be a finite number >= 0, got -1\.0"),
        (lambda: ft.schedule_free(ft.sgd(), momentum=1.0), r"momentum must be in \(0, 1\), got 1\.0. 0\.9 is usual"),
        (lambda: ft.schedule_free_sgd(momentum=0.0), r"momentum must be in \(0, 1\), got 0\.0"),
        (lambda: ft.schedule_free_sgd(r=-1.0), r"r must be a finite number >= 0, got -1\.0"),
        (lambda: ft.schedule_free_sgd(weight_lr_power=-1.0), r"weight_lr_power must be a finite number >= 0"),
        (lambda: ft.schedule_free_sgd(warmup_steps=1.5), r"warmup_steps must be an int >= 0, got 1\.5. 0 means no"),
        (lambda: ft.schedule_free_adamw(betas=(0.9, 1.0)), r"betas\[1\] must be in \[0, 1\), got 1\.0"),
        (lambda: ft.schedule_free_adamw(eps=-1.0), r"eps must be a finite number >= 0, got -1\.0"),
        (lambda: ft.schedule_free_radam(lr=-1.0), r"lr must be a finite number >= 0, got -1\.0"),
        (lambda: ft.schedule_free_sgd(weight_decay=-1.0), r"weight_decay must be a finite number >= 0"),
        (
            lambda: ft.schedule_free(ft.sgd()).update(params, ft.schedule_free(ft.sgd()).init(params), None),
            r"schedule_free looks at the parameters, but its update was given None",
        ),
    ],
)
def test_mistakes_are_explained(make: Any, message: str) -> None:
    with pytest.raises((ft.HyperparameterError, ft.StructureError), match=message):
        make()
