"""`TrainState`: one immutable value, whose leaves nobody may write to."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import optree
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as torch_pytree

import functional_train as ft
from tests.global_rng import seeded
from tests.profiles import examples
from tests.trees import assert_bitwise, nestings, normal, seeds, tensors


def distance(params: Any, batch: Any) -> Tensor:
    return ft.tree.vdot(params, params) * batch


def make(params: Any, **owned: Any) -> tuple[Any, ft.TrainState]:
    optimizer = ft.adam(0.1, amsgrad=True)
    return ft.make_step(ft.grad_and_value(distance), optimizer), ft.init_state(params, optimizer, **owned)


REBUILDS: dict[str, Callable[[Any], Any]] = {
    "map": lambda state: ft.tree.map(lambda leaf: leaf, state),
    "map to clones": lambda state: ft.tree.map(torch.clone, state),
    "copy": ft.tree.copy,
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda state: pickle.loads(pickle.dumps(state)),
    "replace": lambda state: state.replace(),
    "flatten": lambda state: ft.tree.unflatten(*reversed(ft.tree.flatten(state))),
    "torch's pytree": lambda state: torch_pytree.tree_map(lambda leaf: leaf, state),
    "stack": lambda state: ft.tree.unstack(ft.tree.stack([state, state]))[1],
    "partition": lambda state: ft.tree.combine(*ft.tree.partition(state, "params/*")),
    "to": lambda state: ft.tree.to(ft.tree.to(state, "meta"), "meta") and ft.tree.to(state, "cpu"),
    "set": lambda state: ft.tree.set(state, "step", state.step),
}


@pytest.mark.parametrize("name", REBUILDS)
@given(nestings(tensors()), seeds())
@settings(max_examples=examples(5))
def test_a_state_survives(name: str, params: Any, seed: int) -> None:
    """A state that went through any of these is the same state, and a step takes it, although tensors that were once
    written to have other versions in a copy."""
    for leaf in ft.tree.leaves(params):
        leaf.add_(0.5)  # versions above 0 before the state is made are nobody's fault
    step, state = make(params)
    state, _ = step(state, torch.tensor(0.5, dtype=torch.float64))
    rebuilt = REBUILDS[name](state)
    assert type(rebuilt) is ft.TrainState
    assert_bitwise(rebuilt, state)
    batch = torch.tensor(0.25, dtype=torch.float64)
    assert_bitwise(step(rebuilt, batch), step(state, batch))


@ft.struct
class Labeled:
    """Parameters with a name that is no leaf."""

    weights: Any
    name: str = ft.static_field(default="model")


def test_static_fields_belong_to_the_structure() -> None:
    """A struct with static fields is trained like any tree, and keeps its metadata."""
    step, state = make(Labeled({"w": normal(0, (3,))}, name="left"))
    for rebuild in REBUILDS.values():
        new_state, _ = step(rebuild(state), torch.tensor(1.0, dtype=torch.float64))
        assert new_state.params.name == "left"
    other = state.replace(params=Labeled({"w": normal(0, (3,))}, name="right"))
    assert not ft.tree.same_structure(state, other)
    with pytest.raises(ft.StructureError, match="static fields differ"):
        ft.tree.add(state.params, other.params)


@pytest.mark.parametrize(
    ("path", "find"),
    [
        ("params/w", lambda state: state.params["w"]),
        ("params/b/0", lambda state: state.params["b"][0]),
        ("opt_state/0/exp_avg/w", lambda state: state.opt_state[0].exp_avg["w"]),
        ("step", lambda state: state.step),
        ("buffers/running.mean", lambda state: state.buffers["running.mean"]),
        ("key", lambda state: state.key),
    ],
)
@pytest.mark.parametrize("through", ["itself", "a view", "detach"])
def test_a_leaf_that_was_written_to_is_named(path: str, find: Callable[[Any], Tensor], through: str) -> None:
    """A step refuses a state in which a tensor changed, and names it with both versions."""
    buffers, key = ft.Params({"running.mean": torch.zeros(2)}), ft.random.key(0)
    step, state = make({"w": normal(0, (3,)), "b": [normal(1, (2,))]}, buffers=buffers, key=key)
    leaf = find(state)
    before = leaf._version
    {"itself": leaf, "a view": leaf.view(-1), "detach": leaf.detach()}[through].add_(1)
    message = f"'{path}' was written to after its TrainState was made: its version was {before} and is {before + 1}"
    with pytest.raises(ft.OwnershipError, match=message):
        step(state, torch.tensor(1.0))
    # What is made of it anew is a new value, which somebody owns.
    assert ft.tree.copy(state).params["w"] is not state.params["w"]


def test_writing_to_the_values_a_state_was_made_from_is_found() -> None:
    """Parameters that somebody else also holds, such as an optimizer of torch, are watched."""
    w = torch.ones(3)
    step, state = make({"w": w})
    torch.optim.SGD([w], lr=0.1)
    w.grad = torch.ones(3)
    with torch.no_grad():
        w -= 0.1 * w.grad
    with pytest.raises(ft.OwnershipError, match="'params/w' was written to"):
        step(state, torch.tensor(1.0))


def test_states_made_in_inference_mode_are_taken() -> None:
    """Tensors of inference mode have no versions to compare."""
    with torch.inference_mode():
        step, state = make({"w": torch.ones(3)})
        step(state, torch.tensor(1.0))


@given(nestings(tensors()), st.booleans(), st.booleans())
@settings(max_examples=examples(20))
def test_a_state_is_one_tree(params: Any, has_buffers: bool, has_key: bool) -> None:
    """Its leaves are those of its fields, in both pytree libraries, and what is not owned adds none."""
    buffers = ft.Params({"mean": torch.zeros(2)}) if has_buffers else None
    key = ft.random.key(0) if has_key else None
    _, state = make(params, buffers=buffers, key=key)
    leaves = ft.tree.leaves([state.step, state.params, state.opt_state, state.buffers, state.key])
    assert all(one is other for one, other in zip(ft.tree.leaves(state), leaves, strict=True))
    assert len(torch_pytree.tree_leaves(state)) == len(leaves)
    assert len(optree.tree_leaves(state, namespace="functional_train")) == len(leaves)
    assert state.step.shape == ()
    assert state.step.dtype == torch.int64


def test_empty_buffers_are_none() -> None:
    """A module without buffers owns none, so its loss is not asked to take any."""
    with seeded():
        _, _, buffers = ft.functionalize(torch.nn.Linear(1, 1))
    assert make({"w": torch.ones(1)}, buffers=buffers)[1].buffers is None


def test_old_states_are_never_changed() -> None:
    """A run keeps no hold on the states it went through: each stays what it was."""
    step, state = make({"w": normal(0, (3,))})
    states, copies = [state], [ft.tree.copy(state)]
    for _ in range(5):
        state, _ = step(state, torch.tensor(0.5, dtype=torch.float64))
        states.append(state)
        copies.append(ft.tree.copy(state))
    for kept, expected in zip(states, copies, strict=True):
        assert_bitwise(kept, expected)
        step(kept, torch.tensor(0.5, dtype=torch.float64))
