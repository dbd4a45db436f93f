"""CUDA graphs: which calls are recorded, and that a recording is used rightly. On CPU a stand-in records."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import functional_train as ft
from functional_train.steps.compiling._cudagraphs import Replayed
from tests.steps.compiling.problems import TARGET, adamw_step, fresh
from tests.trees import assert_bitwise, normal


class Recorder:
    """Records as CUDA does: nothing runs at first, and each replay reads and writes the memory of the first launch."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, launch: Callable[[], Sequence[Any]]) -> tuple[Callable[[], None], Sequence[Any]]:
        self.recorded += 1
        results = [torch.empty(())]

        def replay() -> None:
            results[0].copy_(launch()[0])

        return replay, results


def step(arguments: list[Tensor]) -> list[Tensor]:
    """Add the batch to the state, and return their product from before."""
    state, batch, factor = arguments
    arguments.clear()
    product = (state * batch).sum() * factor
    state.add_(batch)
    return [product]


def test_replays_equal_runs() -> None:
    """Runs, recordings and replays write the same state and return the same; results are not written over later."""
    recorder, factor = Recorder(), torch.tensor(2.0)
    replayed = Replayed(step, {0, 2}, recorder)
    states = [torch.zeros(3), torch.zeros(3)]
    results: tuple[list[Tensor], list[Tensor]] = ([], [])
    given = [normal(seed, (3,), torch.float32) for seed in range(6)]
    before = [batch.clone() for batch in given]
    for batch in given:
        results[0].extend(replayed([states[0], batch, factor]))
        results[1].extend(step([states[1], batch, factor]))
    assert recorder.recorded == 1
    assert_bitwise(results[0], results[1])
    assert_bitwise(states[0], states[1])
    assert_bitwise(given, before)


def test_each_state_has_its_recording() -> None:
    """Two states in turn are recorded twice, once each is used twice running, and never write to each other."""
    recorder, factor = Recorder(), torch.tensor(1.0)
    replayed = Replayed(step, {0, 2}, recorder)
    states, plain = [torch.zeros(2), torch.ones(2)], [torch.zeros(2), torch.ones(2)]
    for place in (0, 0, 0, 1, 1, 0, 1, 0):
        batch = normal(place, (2,), torch.float32)
        assert_bitwise(replayed([states[place], batch, factor]), step([plain[place], batch, factor]))
    assert recorder.recorded == 2
    assert_bitwise(states, plain)


def test_recordings_are_bounded() -> None:
    """Of many states, the recordings of the last are kept."""
    recorder, factor = Recorder(), torch.tensor(1.0)
    replayed = Replayed(step, {0, 2}, recorder)
    states = [torch.zeros(2) for _ in range(12)]
    for state in states:
        for _ in range(2):
            replayed([state, torch.ones(2), factor])
    assert recorder.recorded == 12
    assert len(replayed._recordings) == 8


def test_tensors_elsewhere_are_refused() -> None:
    """On CPU there is nothing to record; the message says where the tensors are."""
    plain, optimizer = adamw_step()
    compiled = ft.compile(plain, donate=True, backend="cudagraphs")
    with pytest.raises(
        ft.CompileError, match=r'"cudagraphs" records kernels of one CUDA device.*on cpu.*backend="induct'
    ):
        compiled(state := fresh(optimizer), TARGET)
    assert int(state.step) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda() -> None:
    """Ten steps equal Inductor's, bit for bit."""
    plain, optimizer = adamw_step()
    target = ft.tree.map(lambda leaf: leaf.cuda(), TARGET)
    states = [ft.tree.map(lambda leaf: leaf.cuda(), fresh(optimizer)) for _ in range(2)]
    steps = [ft.compile(plain, donate=True, backend=backend) for backend in ("cudagraphs", "inductor")]
    for _ in range(10):
        states = [one(state, target)[0] for one, state in zip(steps, states, strict=True)]
    assert_bitwise(states[0], states[1])


def test_batches_keep_their_strides() -> None:
    """Code relies on them: columns, every second one, spread ones and none at all."""
    data = normal(0, (4, 6), torch.float32)
    views = [data[:, :3], data[:, ::2], data.T, data[:1].expand(5, 6), data[:0], data[0, 0]]
    for view in views:
        seen: list[Any] = []

        def launch(arguments: list[Tensor], seen: list[Any] = seen) -> list[Tensor]:
            seen.append(arguments[0].stride())
            return [arguments[0].sum()]

        replayed = Replayed(launch, set(), Recorder())
        results = [replayed([view])[0] for _ in range(3)]
        assert {*seen} == {view.stride()}
        assert_bitwise(results, [view.sum()] * 3)
