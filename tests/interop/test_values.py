"""What `from_torch` gives is a value, and what `to_torch` takes is one."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import functional_train as ft
import functional_train.testing as laws
from tests.interop.cases import OPTIONS, RUNS, SCHEDULERS, adam, after, plain
from tests.interop.live import (
    Case,
    Live,
    assert_same_bits,
    contents,
    fold,
    inputs,
    loop,
    loss_of,
    snapshot,
    start,
    switch,
)
from tests.profiles import examples
from tests.trees import assert_bitwise

LAWS = (
    laws.updates_are_like_params,
    laws.state_keeps_its_structure,
    laws.is_pure,
    laws.resumes_from_leaves,
    laws.runs_are_independent,
)
QUICK = ("Adam", "SGD", "SGD-groups", "Adam-tensor-lr", "OneCycleLR-betas", "SequentialLR", "CyclicLR", "Zigzag")

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # made by torch


@settings(max_examples=examples(20))
@given(st.sampled_from(QUICK), st.lists(st.integers(0, 4), min_size=2, max_size=4))
def test_any_number_of_switches(name: str, lengths: list[int]) -> None:
    """Loop and fold in turns, of any length, none included and before the first step too, are one loop."""
    case = RUNS[name]
    turns, live, at = start(case), start(case), 0
    for turn, length in enumerate(lengths):
        steps = range(at, at + length)
        at += length
        loop(case, live, steps)
        if turn % 2:
            loop(case, turns, steps)
        else:
            ft.to_torch(fold(switch(case, turns), steps), *turns)
    assert_same_bits(contents(turns), contents(live))


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("name", RUNS)
def test_only_reads(name: str, steps: int) -> None:
    """Neither the switch nor the fold changes what is live: contents, gradients, objects, versions of tensors."""
    live = after(name, steps)
    before = snapshot(live)
    objects = [list(map(id, each)) for each in _objects(live)]
    versions = [leaf._version for leaf in live.model.parameters()]
    fold(switch(RUNS[name], live), range(steps, steps + 2))
    assert_same_bits(snapshot(live), before)
    assert [list(map(id, each)) for each in _objects(live)] == objects
    assert [leaf._version for leaf in live.model.parameters()] == versions


def _objects(live: Live) -> list[list[Any]]:
    state = [value for entries in live.optimizer.state.values() for value in entries.values()]
    return [list(live.model.parameters()), live.optimizer.param_groups, list(live.optimizer.state), state]


@pytest.mark.parametrize("name", RUNS)
def test_round_trip_is_the_identity(name: str) -> None:
    """There and back at once changes nothing live, and back and there again gives the same state."""
    live = after(name, 3)
    before = snapshot(live)
    state = switch(RUNS[name], live).state
    ft.to_torch(state, *live)
    assert_same_bits(snapshot(live), before)
    assert_bitwise(switch(RUNS[name], live).state, state)


@pytest.mark.parametrize("name", ["Adam", "SGD-groups", "LBFGS", "OneCycleLR-betas"])
def test_shares_no_memory(name: str) -> None:
    """What is taken is a copy, and so is what is put back: neither side sees later writes of the other."""
    live = after(name, 3)
    state = switch(RUNS[name], live).state
    taken = ft.tree.copy(state)
    loop(RUNS[name], live, range(3, 5))
    assert_bitwise(state, taken)
    ft.to_torch(state, *live)
    loop(RUNS[name], live, range(3, 5))
    assert_bitwise(state, taken)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", [*SCHEDULERS, "AdamW-groups", "Adam-fused", "RMSprop-centered-momentum"])
def test_keeps_the_law(name: str, law: Any) -> None:
    """An optimizer with groups, and a scheduler inside, is a pure function of a state; None is no gradient."""
    run = switch(RUNS[name], after(name, 3))
    grads = {path: 0.1 * torch.ones_like(leaf) for path, leaf in ft.tree.items(run.state.params)}
    law(run.optimizer, run.state.params, ft.Params(grads | {"3.bias": None}))


def test_steps_are_functions_of_the_state() -> None:
    """The same state gives the same next one however often and late it is asked, with a scheduler inside too."""
    case = SCHEDULERS["LambdaLR-object"]
    live = start(case)
    run = switch(case, live)
    first = fold(run, range(2))
    fold(run, range(5))
    assert_bitwise(fold(run, range(2)), first)


def test_goes_on_in_new_objects() -> None:
    """A state that was saved as leaves goes on with the optimizer of another process, made anew from the start."""
    case = SCHEDULERS["SequentialLR"]
    live = after("SequentialLR", 30)
    state = fold(switch(case, live), range(30, 35))
    leaves = [leaf.clone() for leaf in ft.tree.leaves(state)]

    run = switch(case, after("SequentialLR", 1))
    again = ft.tree.unflatten(ft.tree.flatten(run.state)[1], leaves)
    assert_bitwise(fold(run._replace(state=again), range(35, 40)), fold(switch(case, live), range(30, 40)))


def test_names_what_it_keeps() -> None:
    """Names of parameters and torch's names of memory are the paths; groups have their numbers."""
    state = switch(OPTIONS["AdamW-groups"], after("AdamW-groups", 3)).state
    paths = ft.tree.paths(state)
    assert "opt_state/leaves/3.weight/exp_avg" in paths
    assert not [path for path in paths if path.startswith("opt_state/leaves/0.weight")]
    assert ft.tree.get(state, "group0/lr").item() == 0.002
    assert ft.tree.get(state, "group1/lr").item() == 0.01
    assert ft.tree.get(state, "group0/weight_decay").item() == 0.05


@pytest.mark.parametrize(
    ("name", "steps", "expected"),
    [("Adam", 4, 4), ("SGD", 4, 0), ("StepLR", 4, 4), ("StepLR-epochs", 10, 10), ("Adam", 0, 0)],
)
def test_position(name: str, steps: int, expected: int) -> None:
    """The position is what the optimizer counted, or else its scheduler; or what one says."""
    live = after(name, steps)
    assert switch(RUNS[name], live).state.step.item() == expected
    assert ft.from_torch(*live, step=7).state.step.item() == 7


def test_fits_and_saves_as_other_states() -> None:
    """`fit` runs on from it, and a deep copy of the state is as good as the state."""
    live = after("Adam", 2)
    run = switch(Case(adam, plain), live)
    apply = run.apply

    def loss_fn(params: Any, batch: Tensor, buffers: Any) -> Any:
        output, buffers = apply(params, batch, buffers=buffers)
        return loss_of(output), ft.Aux({}, buffers)

    step = ft.make_step(ft.grad_and_value(loss_fn, has_aux=True), run.optimizer)
    state, _ = ft.fit(step, copy.deepcopy(run.state), [inputs(2), inputs(3)], progress=False)
    assert_bitwise(state, fold(run, range(2, 4)))
    assert state.step.item() == 4
