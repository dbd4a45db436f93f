"""Hyperparameters that live in the state, chains with names, and maps over what stands for parameters."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
from functional_train.values import tree
from tests.profiles import examples
from tests.trees import assert_bitwise, assert_close, like, nestings, normal, seeds, tensors

params = {"w": normal(0, (4, 3)), "b": normal(1, ())}


def run(optimizer: ft.GradientTransformation, state: Any, current: Any = params, steps: int = 3, seed: int = 7) -> Any:
    """A few updates."""
    for step in range(steps):
        current, state = ft.make_update(optimizer)(like(seed + step, current), state, current)
    return current, state


@settings(max_examples=examples(20))
@given(nestings(tensors()), seeds(), st.floats(0.001, 1.0), st.booleans())
def test_injecting_changes_no_number(params: Any, seed: int, lr: float, scheduled: bool) -> None:
    """A factory with its hyperparameters in the state gives the bits of the factory itself."""
    rate = ft.schedules.linear(lr, 0.0, 5) if scheduled else lr
    plain, injected = ft.adamw(rate, weight_decay=0.1), ft.inject_hyperparams(ft.adamw)(rate, weight_decay=0.1)
    expected, state = run(plain, plain.init(params), params, seed=seed)
    found, injected_state = run(injected, injected.init(params), params, seed=seed)
    # The decay is a tensor here, which takes the arithmetic of tensors in place of a kernel.
    assert_close(found, expected, 1e-13)
    fixed = ft.inject_hyperparams(ft.adamw)(rate)
    assert_bitwise(
        run(fixed, fixed.init(params), params, seed=seed)[0],
        run(ft.adamw(rate), ft.adamw(rate).init(params), params, seed=seed)[0],
    )
    assert int(injected_state.step) == 3
    del state


def test_what_is_read_is_what_will_be_used() -> None:
    """The state shows the value of the next update, from the first on; what is set there is used."""
    schedule = ft.schedules.linear(1.0, 0.0, 10)
    optimizer = ft.chain(ft.clip_by_global_norm(1e9), ft.inject_hyperparams(ft.sgd)(lr=schedule))
    state, current = optimizer.init(params), params
    for step in range(4):
        shown = tree.get(state, "lr")
        assert shown == schedule(step)
        moved, state = ft.make_update(optimizer)(params, state, current)
        assert_close(current["w"] - moved["w"], shown * params["w"], 1e-14)
        current = moved
    once = tree.set(state, "lr", 7.0)
    moved, after = ft.make_update(optimizer)(params, once, current)
    assert_close(current["w"] - moved["w"], 7.0 * params["w"], 1e-14)
    assert tree.get(after, "lr") == schedule(5)


def test_what_is_set_stays() -> None:
    """A number that is set in a state is used from then on, and the state is all that knows it."""
    optimizer = ft.inject_hyperparams(ft.adamw)(lr=0.1, betas=(0.8, 0.9))
    state = optimizer.init(params)
    assert tree.get(state, "betas/0") == 0.8
    changed = tree.set(state, "lr", 0.01)
    assert_close(run(optimizer, changed)[0], run(ft.adamw(0.01, (0.8, 0.9)), ft.adamw(0.01).init(params))[0], 1e-13)
    assert tree.get(run(optimizer, changed)[1], "lr") == 0.01
    again = ft.inject_hyperparams(ft.adamw)(lr=0.1, betas=(0.8, 0.9))
    assert_bitwise(run(again, changed), run(optimizer, changed))


def test_members_with_other_rates_are_mapped_over() -> None:
    """States that differ in a hyperparameter are stacked and updated together."""
    optimizer = ft.inject_hyperparams(ft.adam)(lr=0.1)
    states = [tree.set(optimizer.init(params), "lr", rate) for rate in (0.1, 0.2, 0.4)]
    grads = like(3, params)

    def update(state: Any) -> Any:
        return ft.make_update(optimizer)(grads, state, params)[0]

    together = torch.func.vmap(update)(tree.stack(states))
    assert_close(together, tree.stack([update(state) for state in states]), 1e-13)


def test_only_hyperparameters_are_kept() -> None:
    """Switches and counts stay in the factory; in one without annotations, floats and tensors are kept."""

    def factory(rate, times, flag=True):  # noqa: ANN001, ANN202
        return ft.scale_by_lr(rate * times if flag else rate)

    assert list(ft.inject_hyperparams(ft.sgd)(0.1, momentum=0.9, nesterov=True).init(params).hyperparams) == [
        "lr",
        "momentum",
    ]
    assert list(ft.inject_hyperparams(factory)(0.1, 2).init(params).hyperparams) == ["rate"]
    assert list(ft.inject_hyperparams(factory)(torch.tensor(0.1), times=2, flag=False).init(params).hyperparams) == [
        "rate"
    ]


def test_the_gradient_of_training_in_an_injected_rate() -> None:
    """Training can be differentiated in a hyperparameter of the state."""
    optimizer = ft.inject_hyperparams(ft.sgd)(lr=0.1)
    grads = like(3, params)

    def after(rate: Tensor) -> Tensor:
        state = tree.set(optimizer.init(params), "lr", rate)
        return ft.make_update(optimizer)(grads, state, params)[0]["w"].sum()

    slope = torch.func.grad(after)(torch.tensor(0.1, dtype=torch.float64))
    assert_close(slope, -grads["w"].sum(), 1e-14)


def test_a_named_chain_is_a_chain_with_names() -> None:
    """Names reach the states of links; nothing else differs."""
    links = {"clip": ft.clip_by_global_norm(0.5), "adam": ft.adamw(0.1)}
    named, plain = ft.named_chain(*links.items()), ft.chain(*links.values())
    (moved, state), (expected, plain_state) = run(named, named.init(params)), run(plain, plain.init(params))
    assert_bitwise(moved, expected)
    assert_bitwise(tree.get(state, "adam"), plain_state[1])
    assert tree.get(state, "adam/0/step").tolist() == [3, 3]
    updates, _ = named.update(params, named.init(params), params)
    assert_bitwise(updates, plain.update(params, plain.init(params), params)[0])


def test_a_map_over_parameters_finds_the_moments() -> None:
    """`map_params` changes what has the structure and shapes of the parameters, and keeps the rest as it is."""
    optimizer = ft.inject_hyperparams(ft.adamw)(lr=0.1)
    state = optimizer.init(params)
    halved = tree.map_params(lambda leaf, param: (leaf + param).bfloat16(), state, params)
    for path, leaf in tree.items(halved):
        if "exp_avg" in path:
            assert_bitwise(leaf, params[path.rsplit("/", maxsplit=1)[-1]].bfloat16())
        else:
            assert leaf is tree.get(state, path)
    assert tree.map_params(lambda leaf, param: leaf, (), params) == ()


def test_a_class_of_torch_follows_a_schedule() -> None:
    """The factory is given values, so that it need not take schedules itself."""

    def make(lr: ft.Hyperparameter) -> ft.GradientTransformation:
        return ft.wrap_torch_optimizer(torch.optim.NAdam, lr=lr)

    optimizer = ft.inject_hyperparams(make)(lr=ft.schedules.linear(0.1, 0.0, 2))
    own = ft.nadam(lr=ft.schedules.linear(0.1, 0.0, 2))
    grads = {"w": torch.ones(2, dtype=torch.float64)}
    start = ft.tree.zeros_like(grads)
    states = optimizer.init(start), own.init(start)
    found, expected = start, start
    for _ in range(3):
        found, wrapped_state = ft.make_update(optimizer)(grads, states[0], found)
        expected, own_state = ft.make_update(own)(grads, states[1], expected)
        states = wrapped_state, own_state
        torch.testing.assert_close(found, expected)
    assert tree.get(states[0], "lr") == 0.0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ft.inject_hyperparams(ft.sgd)(lr=-1.0), ft.HyperparameterError, "lr must be a finite number >= 0"),
        (
            lambda: ft.inject_hyperparams(ft.sgd)(lr=0.1).update(
                params, ft.inject_hyperparams(ft.sgd)(lr=0.1, momentum=0.9).init(params), params
            ),
            ft.HyperparameterError,
            r"holds the hyperparameters \['lr', 'momentum'\], this optimizer keeps \['lr'\].*optimizer\.init",
        ),
        (
            lambda: ft.inject_hyperparams(ft.sgd(0.1)),  # pyright: ignore[reportArgumentType]
            ft.StructureError,
            r"takes a factory, got a GradientTransformation.*inject_hyperparams\(ft\.adamw\)\(lr",
        ),
        (lambda: ft.named_chain(ft.sgd()), ft.StructureError, "pairs of name and transformation, got Gradient"),
        (lambda: ft.named_chain(("a", ft.sgd()), ("a", ft.sgd())), ft.StructureError, r"another name.*\['a', 'a'\]"),
        (
            lambda: ft.named_chain(("a", ft.sgd())).update(params, (ft.EmptyState(),), params),
            ft.StructureError,
            r"a chain of \['a'\] needs the Params of their states, got tuple",
        ),
    ],
)
def test_mistakes_are_explained(make: Any, error: type[Exception], message: str) -> None:
    """Each mistake names what is wrong and the way out."""
    with pytest.raises(error, match=f"(?s){message}"):
        make()
