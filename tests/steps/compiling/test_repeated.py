"""Many steps in one compiled call: the graph of one step, whatever their number."""

from typing import Any

import pytest
import torch

import functional_train as ft
from tests.steps.compiling.problems import TARGET, adamw_step, fresh
from tests.trees import assert_bitwise, like, normal


def batches(number: int) -> Any:
    return ft.tree.stack([like(seed, TARGET) for seed in range(number)])


@pytest.mark.parametrize("backend", ["eager", "inductor"])
@pytest.mark.parametrize("donate", [False, True])
def test_it_equals_single_calls(backend: str, donate: bool) -> None:
    """Five steps in one call, twice, are ten calls of the compiled step, bit for bit; the key moves on each time."""
    step, optimizer = adamw_step()
    single = ft.compile(step, backend=backend, donate=donate)
    repeated = ft.compile(ft.repeat(step, 5), backend=backend, donate=donate)
    states, given = [fresh(optimizer, ft.random.key(3)) for _ in range(2)], batches(10)
    for start in (0, 5):
        chunk = ft.tree.map(lambda leaf, start=start: leaf[start : start + 5], given)
        states[0], measured = repeated(states[0], chunk)
        losses: list[Any] = []
        for place in range(start, start + 5):
            states[1], metrics = single(states[1], ft.tree.map(lambda leaf, place=place: leaf[place], given))
            losses.append(metrics["loss"])
        assert_bitwise(measured["loss"], torch.stack(losses))
    assert_bitwise(states[0], states[1])
    assert int(states[0].step) == 10
    assert repeated.cache_info() == (1, 1, 64, 1)


def test_the_graph_does_not_grow() -> None:
    """A hundred steps are compiled as one is."""
    step, optimizer = adamw_step()
    sizes: list[int] = []
    for number in (1, 100):
        compiled = ft.compile(ft.repeat(step, number, batch_dim=None), backend="eager")
        state, metrics = compiled(fresh(optimizer), TARGET)
        assert metrics["loss"].shape == (number,)
        assert int(state.step) == number
        sizes.append(compiled.reports()[0].operations)
    assert sizes[0] == sizes[1]


def test_whoever_keeps_the_state_keeps_its_numbers() -> None:
    """Without donation the state given stays; with it, a leaf that somebody holds is copied, and the state consumed."""
    step, optimizer = adamw_step()
    state, given = fresh(optimizer), batches(3)
    before = ft.tree.copy(state)
    ft.compile(ft.repeat(step, 3), backend="eager")(state, given)
    assert_bitwise(state, before)
    kept = state.params["w"]
    moving = ft.compile(ft.repeat(step, 3), donate=True, backend="eager")
    moving(state, given)
    assert_bitwise(kept, before.params["w"])
    with pytest.raises(ft.OwnershipError, match=r"consumed by compile\(repeat\(step, 3\), donate=True\)"):
        _ = state.params


def test_any_tree_is_carried() -> None:
    """A state that is no struct is carried too; what a step returns besides may hold numbers."""
    step = lambda state, batch: ((state[0] + batch, state[1]), {"sum": state[0].sum(), "rate": 0.5})  # noqa: E731
    state = (normal(0, (2,)), normal(1, (1,)))
    given = normal(2, (4, 2))
    for backend in ("eager", "inductor"):
        actual = ft.compile(ft.repeat(step, 4), backend=backend)(state, given)
        assert_bitwise(actual, ft.repeat(step, 4)(state, given))


REFUSED = {
    "another structure": (lambda s, b: ({"b": s["a"]}, {}), ft.StructureError, "of the structure of the old one"),
    "no pair": (lambda s, b: s, ft.StructureError, r"must return \(state, metrics\)"),
    "another dtype": (
        lambda s, b: ({"a": s["a"].double()}, {}),
        ft.StructureError,
        "'state/a' is not, or does not stay",
    ),
    "another shape": (lambda s, b: ({"a": s["a"].sum()}, {}), ft.StructureError, "'state/a'.*begin with a state"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_state_that_cannot_be_carried(name: str) -> None:
    """The new state must fit where the old one lies; the message has the leaf."""

    fn, error, message = REFUSED[name]

    def step(state: Any, batch: Any) -> Any:
        return fn(state, batch)

    with pytest.raises(error, match=message):
        ft.compile(ft.repeat(step, 2), backend="eager")({"a": torch.ones(3)}, torch.ones(2))


def test_how_it_is_called() -> None:
    """State and batches by position, batches of the right length, and no lengths left open."""
    step, optimizer = adamw_step()
    compiled = ft.compile(ft.repeat(step, 3), backend="eager")
    with pytest.raises(ft.StructureError, match="called with a state and batches, both by position"):
        compiled(fresh(optimizer), batches=batches(3))
    with pytest.raises(ft.BatchesError, match=r"repeat\(step, 3\) takes one batch a step"):
        compiled(fresh(optimizer), batches(2))
    with pytest.raises(ft.HyperparameterError, match="dynamic=True is for lengths of the first dimension"):
        ft.compile(ft.repeat(step, 3), dynamic=True)
