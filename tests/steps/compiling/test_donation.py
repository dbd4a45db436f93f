"""A state that is moved: nobody who kept a part of it sees it change, and the old value says where it went."""

import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import functional_train as ft
from functional_train.testing import assert_trees_close
from tests.profiles import examples
from tests.steps.compiling.problems import PARAMS, TARGET, adamw_step, fresh
from tests.trees import assert_bitwise, normal

STEP, OPTIMIZER = adamw_step()
MOVING = ft.compile(STEP, donate=True, backend="eager")
COPYING = ft.compile(STEP, backend="eager")

# What a user may keep of a state, and how to read it later.
KEPT: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda state: None,
    "params": lambda state: state.params,
    "a leaf": lambda state: state.params["w"],
    "a row": lambda state: state.params["w"][0],
    "a transposed view": lambda state: state.params["w"].T,
    "detached": lambda state: state.params["b"].detach(),
    "data": lambda state: state.params["b"].data,
    "an array": lambda state: state.params["w"].numpy(),
    "a row of an array": lambda state: state.params["w"].numpy()[1:],
    "a memoryview": lambda state: memoryview(state.params["b"].numpy()),
    "by DLPack": lambda state: np.from_dlpack(state.params["b"]),
    "a storage": lambda state: state.params["w"].untyped_storage(),
    "the optimizer's state": lambda state: state.opt_state,
    "one moment": lambda state: ft.tree.get(state.opt_state, "exp_avg"),
    "a list of leaves": ft.tree.leaves,
    "a dict of params": lambda state: dict(state.params),
    "a graph": lambda state: torch.ones(2, dtype=torch.float64, requires_grad=True) * state.params["b"],
    "a closure": lambda state: lambda kept=state.params["c"]: kept,
    "a shallow copy": lambda state: state.replace(),
    "a weak reference": lambda state: weakref.ref(state.params["w"]),
    "the step": lambda state: state.step,
}


def read(kept: Any) -> Any:
    """The numbers that can be seen through what was kept."""
    if isinstance(kept, torch.UntypedStorage):
        return bytes(kept)
    if isinstance(kept, memoryview):
        return bytes(kept)
    if isinstance(kept, weakref.ref):
        leaf = kept()
        return None if leaf is None else leaf.clone()
    if callable(kept):
        return kept().clone()
    if isinstance(kept, torch.Tensor) and kept.requires_grad:
        (slope,) = torch.autograd.grad(kept.sum(), kept.grad_fn.next_functions[0][0].variable, retain_graph=True)
        return slope.clone()
    return pickle.loads(pickle.dumps(kept)) if not isinstance(kept, np.ndarray) else kept.copy()


def assert_same(actual: Any, expected: Any, what: str) -> None:
    if isinstance(actual, bytes | np.ndarray | type(None)):
        assert np.array_equal(np.asarray(actual), np.asarray(expected)), what
    else:
        assert_bitwise(actual, expected)


@settings(max_examples=examples(100))
@given(st.lists(st.sampled_from(sorted(KEPT)), min_size=1, max_size=6), st.data())
def test_nothing_that_was_kept_ever_changes(program: list[str], data: Any) -> None:
    """Random programs that keep parts of states compute the same bits moved as copied, and what they kept stays."""
    moved, copied = fresh(OPTIMIZER), fresh(OPTIMIZER)
    kept: list[tuple[str, Any, Any]] = []
    for name in program:
        part = KEPT[name](moved)
        kept.append((name, part, read(part)))
        del part
        if kept and data.draw(st.booleans()):
            kept.pop(data.draw(st.integers(0, len(kept) - 1)))
        target = ft.tree.scale(data.draw(st.sampled_from((1.0, -1.0))), TARGET)
        (moved, actual), (copied, expected) = MOVING(moved, target), COPYING(copied, target)
        assert_bitwise((moved, actual), (copied, expected))
        for what, one, then in kept:
            if what != "a weak reference" or one() is not None:
                assert_same(read(one), then, what)


@pytest.mark.parametrize("name", KEPT)
def test_each_way_of_keeping(name: str) -> None:
    """What was kept of the first state, and of one that a step made, stays as it was."""
    state = fresh(OPTIMIZER)
    for _ in range(3):
        part = KEPT[name](state)
        before = read(part)
        state, _ = MOVING(state, TARGET)
        if not isinstance(part, weakref.ref):
            assert_same(read(part), before, name)
        del part


def pointers(state: Any) -> list[int]:
    return [leaf.data_ptr() for leaf in ft.tree.leaves(state)]


def test_buffers_are_reused() -> None:
    """A state that nobody else has keeps its memory from step to step, the first one as well, compilation included."""
    for backend in ("eager", "inductor"):
        step = ft.compile(STEP, donate=True, backend=backend)
        state = fresh(OPTIMIZER)
        there = pointers(state)
        for _ in range(3):
            state, _ = step(state, TARGET)
            assert pointers(state) == there


def test_buffers_outlive_a_change_of_variant() -> None:
    """Another batch, or another compiled function, finds the buffers unseen too."""
    other = ft.compile(STEP, donate=True, backend="eager")
    wide = ft.tree.map(lambda leaf: leaf.expand(2, *leaf.shape).contiguous(), TARGET)
    state = fresh(OPTIMIZER)
    there = pointers(state)
    for step, batch in ((MOVING, TARGET), (MOVING, wide), (MOVING, TARGET), (other, TARGET), (MOVING, wide)):
        state, _ = step(state, batch)
        assert pointers(state) == there


def test_only_what_is_seen_is_copied() -> None:
    """One kept leaf costs one copy, and once."""
    state = fresh(OPTIMIZER)
    there = pointers(state)
    kept = state.params["w"]
    state, _ = MOVING(state, TARGET)
    moved = [new == old for new, old in zip(pointers(state), there, strict=True)]
    assert moved.count(False) == 1
    assert kept.data_ptr() in there
    there = pointers(state)
    state, _ = MOVING(state, TARGET)
    assert pointers(state) == there


def test_memory_of_numpy_is_left_alone() -> None:
    """A parameter made around an array is copied: the array has the memory, though no tensor shows it."""
    array = np.ones(3)
    state = ft.init_state({"w": torch.from_numpy(array)}, optimizer := ft.sgd(0.1))
    step = ft.compile(
        ft.make_step(ft.grad_and_value(lambda params, batch: params["w"].sum()), optimizer),
        donate=True,
        backend="eager",
    )
    step(state, torch.zeros(()))
    assert (array == 1).all()


def test_ties_and_leaves_of_the_batch() -> None:
    """A leaf that stands in two places, or in the batch too, is copied for each."""
    shared = normal(0, (3,))
    state = ft.init_state({"a": shared, "b": shared}, optimizer := ft.sgd(0.1))

    def loss_fn(params: Any, batch: Any) -> torch.Tensor:
        return (params["a"] * batch).sum() + (params["b"] ** 2).sum()

    step = ft.make_step(ft.grad_and_value(loss_fn), optimizer)
    expected = step(state, shared)
    before = shared.clone()
    actual = ft.compile(step, donate=True, backend="eager")(state, shared)
    assert_trees_close(actual, expected, rtol=1e-12)
    assert_bitwise(shared, before)


def test_outputs_that_show_the_old_state() -> None:
    """A metric that is an old parameter, a view of one, or a swap of two leaves, is what it was before the step."""

    @ft.struct
    class Pair:
        a: Any
        b: Any

    def swap(pair: Any, x: Any) -> Any:
        return Pair(pair.b, pair.a + x), {"old": pair.a, "row": pair.b[0], "x": x, "twice": pair.a}

    pair = Pair(normal(0, (3, 2)), normal(1, (3, 2)))
    a, b, x = pair.a.clone(), pair.b.clone(), normal(2, ())
    for backend in ("eager", "inductor"):
        given_pair = Pair(a.clone(), b.clone())
        new, seen = ft.compile(swap, donate=True, backend=backend)(given_pair, x)
        assert_bitwise((new.a, new.b), (b, a + x))
        assert_bitwise(seen, {"old": a, "row": b[0], "x": x, "twice": a})


def test_a_consumed_state_says_who_took_it() -> None:
    """Touching, flattening and stepping from it are refused, with the call; showing it is not."""
    state = fresh(OPTIMIZER)
    MOVING(state, TARGET)
    message = (
        r"(?s)this state was consumed by compile\(step, donate=True\), called in .*test_donation.py:\d+: "
        r"MOVING\(state, TARGET\)\. .*ft.tree.copy"
    )
    for touch in (
        lambda: state.params,
        lambda: ft.tree.leaves(state),
        lambda: MOVING(state, TARGET),
        lambda: STEP(state, TARGET),
        lambda: state.replace(step=state),
    ):
        with pytest.raises(ft.OwnershipError, match=message):
            touch()
    assert repr(state).startswith("<a state consumed by compile(step, donate=True), called in")


def test_a_failure_leaves_whole_or_consumed() -> None:
    """Before anything is written the state stays usable; once a step was running it is consumed, and says so."""
    state = fresh(OPTIMIZER)
    with pytest.raises(ValueError, match="shorter"):
        MOVING(state, {"w": TARGET["w"]})
    state, _ = MOVING(state, TARGET)
    broken = ft.compile(STEP, donate=True, backend="eager")
    state, _ = broken(state, TARGET)
    (entry,) = broken._entries.values()

    def stopped(arguments: list[Any]) -> Any:
        raise KeyboardInterrupt

    vars(state)["_owned"] = vars(state)["_owned"]._replace(entry=entry._replace(run=stopped))
    with pytest.raises(KeyboardInterrupt):
        broken(state, TARGET)
    with pytest.raises(ft.OwnershipError, match="which raised when some of it was written"):
        ft.tree.leaves(state)


def test_fit_keeps_the_first_state() -> None:
    """fit moves a copy."""
    state = fresh(OPTIMIZER)
    before = ft.tree.copy(state)
    last, history = ft.fit(MOVING, state, [TARGET] * 3, steps=3, progress=False)
    assert_bitwise(ft.tree.leaves(state), ft.tree.leaves(before))
    assert int(last.step) == 3
    assert len(history["loss"]) == 3


def test_donation_needs_a_struct() -> None:
    """A plain container cannot be consumed, and a function that returns no new state cannot move the old one."""
    with pytest.raises(ft.StructureError, match=r"takes the state it moves as first argument: .* got dict"):
        ft.compile(lambda params: params, donate=True)({"w": torch.ones(1)})
    with pytest.raises(ft.StructureError, match="must return the new state alone or first in a tuple"):
        ft.compile(lambda state: state.step, donate=True, backend="eager")(fresh(OPTIMIZER))


def test_nothing_is_kept_alive() -> None:
    """When the last state goes, so do its buffers."""
    state, _ = MOVING(fresh(OPTIMIZER), TARGET)
    leaf = weakref.ref(state.params["w"])
    del state
    gc.collect()
    assert leaf() is None
    assert PARAMS["w"].shape == (3, 2)


def test_what_could_not_be_moved_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A line for whoever looks for the time that copies take, with the leaves that something else can see."""
    first = MOVING(fresh(OPTIMIZER), TARGET)[0]
    kept = first.params
    with caplog.at_level("DEBUG", logger="functional_train.compile"):
        second = MOVING(first, TARGET)[0]
    [line] = caplog.messages
    assert line == (
        "compile(step, donate=True) copied 3 of the 11 leaves that it writes over, which something else can see "
        "(another name, a view, a list, an output that a notebook keeps): 'state/params/w', 'state/params/b', "
        "'state/params/c'"
    )
    caplog.clear()
    with caplog.at_level("DEBUG", logger="functional_train.compile"):
        MOVING(second, TARGET)
    assert not caplog.messages
    del kept
