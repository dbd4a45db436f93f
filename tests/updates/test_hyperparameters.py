"""Hyperparameters: a number, a tensor and a schedule are three ways to say one value."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train.testing._runs import away_from_zero, extras
from tests import cases
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, normal, relative_difference, seeds

FACTORIES = cases.HYPERPARAMETERS
CASES = [
    (factory, name, place)
    for factory, (_, options) in FACTORIES.items()
    for name, value in options.items()
    if isinstance(value, float | tuple)
    for place in (range(len(value)) if isinstance(value, tuple) else [None])
]
params = {"w": normal(0, (4, 3)), "b": normal(1, ()), "z": normal(2, (0,))}


def with_value(factory: str, name: str, place: int | None, value: Any) -> ft.GradientTransformation:
    """The optimizer in which one hyperparameter is another value; one that is above 1 in its row stays there."""
    make, options = FACTORIES[factory]
    if _number(factory, name, place) > 1.0:
        value = _raised(value)
    if place is not None:
        pair = list(options[name])
        pair[place] = value
        value = tuple(pair)
    return make(**{**options, name: value})


def _number(factory: str, name: str, place: int | None) -> float:
    value = FACTORIES[factory][1][name]
    return value if place is None else value[place]


def _raised(value: Any) -> Any:
    def one_more(step: Tensor) -> Tensor:
        return 1 + value(step)

    return one_more if callable(value) else 1 + value


def gradients(seed: int) -> list[Any]:
    return [like(seed + step, params) for step in range(3)]


SOME_GRADIENTS = gradients(5)


def run(optimizers: list[ft.GradientTransformation], grads: list[Any] = SOME_GRADIENTS) -> tuple[Any, Any]:
    """One update with each optimizer, the state handed on."""
    current, state = params, optimizers[0].init(params)
    for optimizer, one in zip(optimizers, grads, strict=False):
        current, state = ft.make_update(optimizer)(one, state, current, **extras(one, current))
    return current, state


@pytest.mark.parametrize(("factory", "name", "place"), CASES)
@given(values=st.lists(st.floats(0.01, 0.95), min_size=3, max_size=3), seed=seeds())
@settings(max_examples=examples(5))
def test_a_schedule_is_its_values(factory: str, name: str, place: int | None, values: list[float], seed: int) -> None:
    """An optimizer with a schedule equals a new optimizer at every step, made with the schedule's value there.

    A float64 tensor takes the arithmetic of tensors where a number may take a kernel, so the last bits may differ: of
    the result, or of the numbers of size one that it is the difference of.
    """
    table = torch.tensor(values, dtype=torch.float64)
    scheduled = with_value(factory, name, place, lambda step: table[step])
    current, state = run([scheduled] * 3, gradients(seed))
    expected, expected_state = run([with_value(factory, name, place, value) for value in values], gradients(seed))
    found, wanted = (
        [leaf for leaf in ft.tree.leaves(ran) if leaf.is_floating_point()]
        for ran in ((current, state), (expected, expected_state))
    )
    for leaf, other in zip(found, wanted, strict=True):
        assert relative_difference(leaf, other, scale=1.0) <= 1e-13


@pytest.mark.parametrize(("factory", "name", "place"), CASES)
def test_a_tensor_is_its_number(factory: str, name: str, place: int | None) -> None:
    """A 0-d tensor in place of a number gives the same update, and leaves keep their dtype."""
    value = torch.tensor(0.25, dtype=torch.float64)
    assert_close(
        run([with_value(factory, name, place, value)] * 3), run([with_value(factory, name, place, 0.25)] * 3), 1e-13
    )


@pytest.mark.parametrize(("factory", "name", "place"), CASES)
def test_vmap_over_a_hyperparameter_equals_a_loop(factory: str, name: str, place: int | None) -> None:
    """Members that differ in one hyperparameter, updated together, are the members updated one by one."""
    values = torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)

    def train(value: Tensor) -> Any:
        return run([with_value(factory, name, place, value)] * 3)

    together = torch.func.vmap(train)(values)
    one_by_one = ft.tree.stack([train(value) for value in values])
    # A state that does not depend on the value comes out equal for all members.
    assert_close(together[0], one_by_one[0], 1e-13)
    assert_close(ft.tree.to(together[1], torch.float64), one_by_one[1], 1e-13)


def test_vmap_over_members_equals_a_loop() -> None:
    """Whole members, gradients and states included, can be mapped over."""
    optimizer = ft.chain(ft.clip_by_global_norm(1.0), ft.adamw(ft.schedules.linear(0.1, 0.0, 5), amsgrad=True))
    members = [like(seed, params) for seed in range(3)]
    grads = [like(seed + 10, params) for seed in range(3)]
    states = [optimizer.init(member) for member in members]
    update_fn = ft.make_update(optimizer)
    alone = [update_fn(*row) for row in zip(grads, states, members, strict=True)]
    together = torch.func.vmap(update_fn)(ft.tree.stack(grads), ft.tree.stack(states), ft.tree.stack(members))
    assert_close(together, ft.tree.stack(alone), 1e-13)


def test_a_low_precision_hyperparameter_does_not_lower_the_leaves() -> None:
    """Dtypes of params decide, whatever the dtype of a hyperparameter."""
    for dtype in (torch.float32, torch.float64, torch.int64):
        for name, (make, options) in FACTORIES.items():
            first = next(iter(options))
            if first == "betas" or (dtype == torch.int64 and first != "lr"):
                continue
            moved, _ = run([make(**{**options, first: torch.tensor(1).to(dtype)})])
            assert moved["w"].dtype == torch.float64, name


def test_a_schedule_counts_its_own_updates() -> None:
    """Each scheduled part counts the updates it made, in its own state, as a 0-d int64 tensor."""
    seen: list[int] = []

    def schedule(step: Tensor) -> Tensor:
        assert step.shape == ()
        assert step.dtype == torch.int64
        seen.append(int(step))
        return step * 0.1

    _, state = run([ft.scale_by_lr(schedule)] * 3)
    assert seen == [0, 0, 1, 2]  # `init` asks too
    assert int(state.step) == 3


def test_a_schedule_is_checked_where_it_is_used() -> None:
    """A schedule that leaves the range of its hyperparameter is an error when it does."""
    optimizer = ft.sgd(lambda step: 0.5 - float(step))
    state = optimizer.init(params)
    _, state = optimizer.update(like(3, params), state, params)
    with pytest.raises(ft.HyperparameterError, match=r"lr must be a finite number >= 0, got -0\.5"):
        optimizer.update(like(3, params), state, params)


def test_a_number_and_a_constant_schedule_are_one_run() -> None:
    """`constant(x)` is x, to the bit where only the learning rate is scheduled."""
    for make in (ft.sgd, ft.adam, ft.adamw):
        assert_bitwise(run([make(ft.schedules.constant(0.3))] * 3)[0], run([make(0.3)] * 3)[0])


@pytest.mark.parametrize(("factory", "name", "place"), CASES)
def test_the_derivative_in_a_hyperparameter_is_right(factory: str, name: str, place: int | None) -> None:
    """The slope of two updates in a hyperparameter is that of finite differences, forward and backward."""
    options = FACTORIES[factory][1][name]
    value = torch.tensor(options if place is None else options[place], dtype=torch.float64, requires_grad=True)
    grads = [away_from_zero(one) for one in SOME_GRADIENTS[:2]]

    def after(value: Tensor) -> dict[str, Tensor]:
        return run([with_value(factory, name, place, value)] * 2, grads)[0]

    moved = [path for path, leaf in after(value).items() if leaf.requires_grad and leaf.numel()]
    if not moved:
        return  # it decides only when something happens
    assert torch.autograd.gradcheck(
        lambda value: tuple(after(value)[path] for path in moved), value, check_forward_ad=True
    )
