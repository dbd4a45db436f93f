"""Where a compiled function meets what it was not made for: odd layouts, mutable containers, threads, failures."""

import copy
import pickle
import subprocess
import sys
import threading
from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import functional_train as ft
from tests.global_rng import seeded
from tests.steps.compiling.problems import TARGET, adamw_step, fresh
from tests.trees import assert_bitwise, normal

STEP, OPTIMIZER = adamw_step()
X = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def eager(fn: Any, **options: Any) -> ft.Compiled:
    return ft.compile(fn, backend="eager", **options)


@ft.struct
class Plain:
    """A state with a dict of the user's inside."""

    parts: Any


@ft.struct
class Summed:
    """A state that remembers what was computed of its leaf."""

    w: Tensor

    @cached_property
    def total(self) -> Tensor:
        return self.w.sum()


def test_pooling_is_the_first_thing_compiled() -> None:
    """What decomposes it is loaded in a new process too."""
    code = (
        "import torch, functional_train as ft\n"
        "pool = ft.compile(lambda x: torch.nn.functional.max_pool2d(x, 2), backend='eager')\n"
        "print(tuple(pool(torch.ones(1, 1, 4, 4)).shape))\n"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout == "(1, 1, 2, 2)\n"


def test_slices_of_one_tensor_are_batches_of_any_length() -> None:
    """Where in a larger tensor a batch begins makes no variant."""
    compiled = eager(lambda x: 2 * x, dynamic=True)
    data = normal(0, (20, 3))
    for batch in (*data.split(8), data[1:6], data[3:], data[:, 1:].contiguous()[2:]):
        assert_bitwise(compiled(batch), 2 * batch)
    assert compiled.cache_info().misses == 2  # rows of 3 and of 2
    branching = eager(lambda x: x if len(x) < 10 else -x, dynamic=True)
    for rows in (12, 8, 9, 13):
        assert_bitwise(branching(data[:rows]), data[:rows] if rows < 10 else -data[:rows])
    assert branching.reports()[1].cause == "the code for any length does something else for these lengths"


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_graphs_without_operations(backend: str) -> None:
    """Arguments and constants come back."""
    assert_bitwise(ft.compile(lambda x: x, backend=backend)(X), X)
    assert ft.compile(lambda x: (x, 3), backend=backend)(X)[1] == 3
    state, metrics = ft.compile(lambda state: (state, {}), donate=True, backend=backend)(Plain({"w": X.clone()}))
    assert_bitwise(state.parts, {"w": X})
    assert metrics == {}


def test_a_dict_inside_a_state_is_looked_at_again() -> None:
    """A leaf that the user put into it is the one that is trained."""

    def step(state: Plain) -> Plain:
        return Plain({"w": 2 * state.parts["w"]})

    compiled = eager(step, donate=True)
    state = compiled(compiled(Plain({"w": torch.ones(2)})))
    state.parts["w"] = torch.full((2,), 100.0)
    assert_bitwise(compiled(state).parts, {"w": torch.full((2,), 200.0)})


def test_what_a_state_remembers_is_not_carried_over() -> None:
    """A cached property belongs to the old numbers."""
    compiled = eager(lambda state: Summed(2 * state.w), donate=True)
    state = compiled(compiled(Summed(torch.ones(3))))
    assert float(state.total) == 12.0
    assert float(compiled(state).total) == 24.0


def test_zeros_differ_by_their_sign() -> None:
    """And what is no number is found again."""
    compiled = eager(lambda x, zero: x / torch.tensor(zero))
    for zero in (0.0, -0.0, 0.0, float("nan"), float("nan")):
        torch.testing.assert_close(compiled(X, zero), X / torch.tensor(zero), equal_nan=True)
    assert compiled.cache_info()[:2] == (2, 3)


def test_one_state_in_two_threads() -> None:
    """One of them moves it, and the other is told; no number is torn."""
    compiled = eager(lambda state: Plain({"w": state.parts["w"] + 1}), donate=True)
    seen: Counter[str] = Counter()
    for _ in range(50):
        state = compiled(compiled(Plain({"w": torch.ones(1000)})))
        start = threading.Barrier(2)

        def move(state: Any = state, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                numbers = compiled(state).parts["w"]
            except ft.OwnershipError:
                seen["told"] += 1
            else:
                seen["moved" if numbers.eq(4).all() else "torn"] += 1

        threads = [threading.Thread(target=move) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == {"moved": 50, "told": 50}


def test_functions_compiled_in_threads_at_once() -> None:
    """Tracers change settings of the process, so they take turns."""
    found: list[float] = []
    threads = [
        threading.Thread(target=lambda k=k: found.append(float(eager(lambda x: (x * k).sum())(torch.ones(3)))))
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0.0, 3.0, 6.0, 9.0]


def test_results_of_convolutions_keep_their_strides() -> None:
    """Inside they are channels-last; outside they lie as the function lays them out."""
    images, weight = normal(0, (2, 3, 8, 8), torch.float32), normal(1, (4, 3, 3, 3), torch.float32)

    def fn(images: Tensor) -> list[Tensor]:
        found = F.conv2d(images, weight)
        return [found, found.transpose(1, 3), found.permute(0, 3, 1, 2), found.sum(dim=1)]

    for found, expected in zip(ft.compile(fn)(images), fn(images), strict=True):
        torch.testing.assert_close(found, expected)
        assert found.stride() == expected.stride()


def test_what_is_bound_to_strides_sees_them() -> None:
    """A view by strides of a convolution's result is one of its usual layout."""
    images, weight = normal(0, (1, 2, 5, 5), torch.float32), normal(1, (3, 2, 3, 3), torch.float32)

    def fn(images: Tensor) -> Tensor:
        return F.conv2d(images, weight).as_strided((1, 4), (1, 2)) * 1

    torch.testing.assert_close(ft.compile(fn)(images), fn(images))


def test_arrays_are_named() -> None:
    """With the path, and how to pass one."""
    with pytest.raises(ft.StructureError, match=r"'batch/0' is a ndarray: neither .*Pass torch\.from_numpy\(array\)"):
        eager(lambda state, batch: state)(X, (np.ones(2), X))
    state, _ = eager(STEP, donate=True)(fresh(OPTIMIZER), TARGET)
    with pytest.raises(ft.StructureError, match=r"'batch' is a ndarray"):
        eager(STEP, donate=True)(state, np.ones(2))


def test_a_consumed_state_is_not_pickled_or_copied() -> None:
    """Both say where it went; a compiled function is copied as functions are."""
    moving = eager(STEP, donate=True)
    state = fresh(OPTIMIZER)
    moving(state, TARGET)
    said = r"consumed by compile\(step, donate=True\), called in .*test_borders"
    for use in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(ft.OwnershipError, match=said):
            use(state)
    assert copy.deepcopy(moving) is moving


def test_a_state_by_keyword() -> None:
    """It is asked for by position."""
    with pytest.raises(ft.StructureError, match=r"as first argument: .*, got none by position"):
        eager(STEP, donate=True)(state=fresh(OPTIMIZER), batch=TARGET)


def test_fit_says_that_a_moved_state_is_lost() -> None:
    """A call that raises halfway leaves no state, and the note does not claim one."""
    with seeded():
        apply, params, _ = ft.functionalize(nn.Linear(2, 2))

    def loss_fn(params: Any, batch: Any) -> Tensor:
        return F.cross_entropy(apply(params, batch[0]), batch[1])

    step = eager(ft.make_step(ft.grad_and_value(loss_fn), OPTIMIZER), donate=True)
    batches = [(X, torch.tensor([0, 1, label])) for label in (1, 0, 99)]
    with pytest.raises((RuntimeError, IndexError)) as caught:
        ft.fit(step, ft.init_state(params, OPTIMIZER), batches, progress=False)
    error: Any = caught.value
    assert "fit had taken 2 steps. The step, which moves its state, raised when some" in error.__notes__[-1]
    with pytest.raises(ft.OwnershipError, match=r"there is no new state. Go on from an earlier copy"):
        ft.tree.leaves(error.state)
    assert error.history["loss"].shape == (2,)


def test_assigned_data_is_refused() -> None:
    """`x.data = value` is no operation, so no graph can hold it: an error with its line, and not the old numbers."""

    def assigns(x: Tensor) -> Tensor:
        y = x.clone()
        y.data = y + 1.0
        return y

    with pytest.raises(ft.CompileError, match=r"is assigned to.*y\.data = y \+ 1\.0\nMake a new"):
        eager(assigns)(X)

    def writes(x: Tensor) -> Tensor:
        y = x.clone()
        y.data.add_(1.0)
        return y

    assert_bitwise(eager(writes)(X), X + 1.0)
