"""`check_pure` finds every impurity with its line, and accuses no pure function."""

import gc
import os
import random
import threading
import weakref
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import functional_train as ft
from functional_train.purity.findings import FIXES
from functional_train.testing import assert_trees_equal
from functional_train.values._captured import captured_by
from functional_train.values._generators import generators, moved_since
from functional_train.values._settings import settings
from tests.purity.drawing import DRAWING
from tests.purity.hidden import FILES, HIDING, OPEN, writes_to_an_open_file
from tests.purity.impure import x
from tests.purity.pure import PURE
from tests.purity.writing import WRITING

IMPURE = WRITING | HIDING | DRAWING


def refusal(fn: Any, *args: Any) -> ft.PurityError:
    with pytest.raises(ft.PurityError) as caught:
        ft.check_pure(fn, *args)
    return caught.value


@pytest.mark.parametrize("name", IMPURE)
def test_every_impurity_is_found(name: str) -> None:
    """What is found is all there is to find, and it names the line."""
    case = IMPURE[name]
    error = refusal(*_called(case.make()))
    assert {finding.kind for finding in error.findings} == case.kinds, str(error)
    assert case.line in error.findings[0].line
    assert all(finding.what in str(error) and FIXES[finding.kind] in str(error) for finding in error.findings)
    if case.line:
        assert "tests/purity/" in error.findings[0].line


def _called(case: tuple[Any, tuple[Any, ...]]) -> tuple[Any, ...]:
    fn, args = case
    return fn, *args


@pytest.mark.parametrize("name", FILES)
def test_files_are_found(name: str, tmp_path: Path) -> None:
    """What is written to or removed is found."""
    fn, line = FILES[name]
    path = tmp_path / "file"
    path.write_text("")
    error = refusal(fn, path, x())
    assert {finding.kind for finding in error.findings} == {"file or process"}, str(error)
    assert line in error.findings[0].line


@pytest.mark.parametrize("name", IMPURE)
def test_nothing_is_left_of_an_impure_call(name: str) -> None:
    """Arguments, what the function holds, gradients, settings and generators are as before, bit for bit."""
    fn, args = IMPURE[name].make()
    before = ft.tree.map(_copy, args)
    states, modes, folder, variables = generators(), settings(), Path.cwd(), dict(os.environ)
    held = captured_by(fn, written=True)
    first = refusal(fn, *args)
    assert_trees_equal(ft.tree.map(_copy, args), before)
    assert moved_since(states) == []
    assert settings() == modes
    assert (Path.cwd(), dict(os.environ)) == (folder, variables)
    assert all(leaf.grad is None for leaf in ft.tree.leaves(args) if isinstance(leaf, Tensor) and leaf.is_leaf)
    if name == "lazy module":  # which is one only once
        return
    assert [one.name for one in held.watched if one.changed()] == []
    again = refusal(fn, *args)
    assert [finding.kind for finding in again.findings] == [finding.kind for finding in first.findings]


def _copy(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach().clone()
    if isinstance(leaf, torch.Generator):
        return leaf.get_state()
    if isinstance(leaf, torch.nn.Module):
        return ft.functionalize(leaf).buffers
    return torch.from_numpy(leaf.copy()) if isinstance(leaf, np.ndarray) else leaf


@pytest.mark.parametrize("name", PURE)
def test_no_pure_function_is_accused(name: str) -> None:
    """A pure function's result is returned, with the bits of a plain call."""
    fn, args = PURE[name]()
    returned = ft.check_pure(fn, *args)
    expected = fn(*args)
    if is_dataclass(returned):
        returned, expected = vars(returned), vars(expected)
    if name != "a function":
        assert_trees_equal(_plain(returned), _plain(expected))


def _plain(tree: Any) -> Any:
    return ft.tree.map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


def test_there_are_enough() -> None:
    """The design asks for 28 impure functions found and 30 pure ones not accused."""
    assert len(IMPURE) + len(FILES) >= 28
    assert len(PURE) >= 30


def test_the_result_belongs_to_the_arguments() -> None:
    """A returned leaf is the caller's own, and the result is differentiable with respect to the caller's tensors."""
    weight, other = torch.ones(2, requires_grad=True), torch.zeros(3)

    def fn(weight: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return weight.square().sum(), other

    loss, returned = ft.check_pure(fn, weight, other)
    assert returned is other
    (slope,) = torch.autograd.grad(loss, weight)
    assert torch.equal(slope, torch.full((2,), 2.0))


def test_a_file_that_is_open_is_found(tmp_path: Path) -> None:
    """A write to a file that was opened before is found at its line; printing is not."""
    path = tmp_path / "file"
    with path.open("w") as OPEN[path]:
        error = refusal(writes_to_an_open_file, path, x())
    del OPEN[path]
    assert [finding.kind for finding in error.findings] == ["file or process"]
    assert "OPEN[path].write" in error.findings[0].line

    def prints(x: Tensor) -> Tensor:
        print(float(x.sum()))  # noqa: T201  # it is the case
        return x + 1.0

    ft.check_pure(prints, x())


def test_several_impurities_are_all_found() -> None:
    """One call may be impure in many ways, and each is reported, in a message that numbers them."""
    weight = torch.ones(2)

    def fn(x: Tensor) -> Tensor:
        x.mul_(2.0)
        y = x + torch.rand(2) * random.random()
        torch.set_default_dtype(torch.float64)
        return y * weight

    error = refusal(fn, x())
    kinds = [finding.kind for finding in error.findings]
    assert sorted(kinds) == ["captured input", "input written", "randomness", "randomness", "setting"]
    assert str(error).startswith("fn is not pure: 5 impurities\n  1. ")


def test_many_tensors_in_one_line_are_one_finding() -> None:
    """A forgotten `functionalize` is one finding, not one for each parameter."""
    with torch.random.fork_rng():
        module = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(3)])
    error = refusal(lambda x: module(x) + 1.0, x())
    assert len(error.findings) == 1
    assert "reads '0.weight', '0.bias' and 4 more of the module in 'module' of" in error.findings[0].what
    assert "functionalize" in error.findings[0].fix


def test_a_compiled_function_is_checked_as_it_was_written() -> None:
    """What compiling would refuse is found in what was compiled, and a donated state stays whole."""

    def loss_fn(params: Any, batch: Tensor) -> Tensor:
        return (params["weight"] * batch).square().sum()

    optimizer = ft.adamw()
    step = ft.compile(ft.make_step(ft.grad_and_value(loss_fn), optimizer), donate=True, backend="eager")
    state = ft.init_state({"weight": torch.ones(2)}, optimizer)
    new, _ = ft.check_pure(step, state, x())
    assert int(new.step) == 1
    assert torch.equal(state.params["weight"], torch.ones(2))


def test_an_error_of_the_function_is_raised_as_it_is() -> None:
    """A function that raises is no matter of purity; settings and generators are put back all the same."""
    states = generators()

    def fn(x: Tensor) -> Tensor:
        raise ValueError(f"{random.random()}")

    with pytest.raises(ValueError, match=r"0\."):
        ft.check_pure(fn, x())
    assert moved_since(states) == []


def test_keyword_arguments() -> None:
    """Arguments by name are named so in findings."""

    def fn(x: Tensor, *, scale: Tensor) -> Tensor:
        return x * scale.mul_(2.0)

    with pytest.raises(ft.PurityError, match="mul_ writes to 'scale'"):
        ft.check_pure(fn, x(), scale=torch.ones(2))


def test_shared_memory_is_shared_in_the_copies() -> None:
    """A write to one of two views of one memory is a write to both, and both stay as they were."""
    flat = torch.arange(6.0)

    def fn(first: Tensor, second: Tensor) -> Tensor:
        first.add_(1.0)
        return second.sum()

    error = refusal(fn, flat[:4], flat[2:])
    assert error.findings[0].what == "'second' and 'first' are written to"
    assert error.findings[0].subject == "second, first"
    assert torch.equal(flat, torch.arange(6.0))
    assert ft.check_pure(lambda first, second: first.sum() + second.sum(), flat[:4], flat[2:]) == 6.0 + 14.0


def test_nothing_is_kept_alive() -> None:
    """Neither arguments nor results live on after the check."""
    given = x()
    returned = ft.check_pure(lambda x: x + 1.0, given)
    lives = weakref.ref(given), weakref.ref(returned)
    del given, returned
    gc.collect()
    assert [life() for life in lives] == [None, None]


def test_what_cannot_be_checked() -> None:
    """The border says what is wrong and what to do."""
    with pytest.raises(ft.StructureError, match=r"got a int for the function. Write check_pure\(loss_fn"):
        ft.check_pure(3, x())  # pyright: ignore[reportArgumentType]

    def batches() -> Iterator[Tensor]:
        yield x()

    with pytest.raises(
        ft.StructureError, match=r"'batches/0' is a generator, which can be read only once.*Pass a list"
    ):
        ft.check_pure(lambda batches: x(), [batches()])

    class Locked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.lock = threading.Lock()

    locked = Locked()
    with pytest.raises(ft.StructureError, match=r"a Locked among the arguments cannot be copied.*Pass its tensors"):
        ft.check_pure(lambda module: module.count.add_(1.0), locked)
    assert locked.count == 0
    with ft.guard(), pytest.raises(ft.StructureError, match=r"outside of torch\.func transforms"):
        ft.check_pure(torch.sum, x())


def test_findings_are_values() -> None:
    """An error with findings survives pickling, as between processes of a test run."""
    import pickle

    error = refusal(lambda x: x.add_(1.0), x())
    again = pickle.loads(pickle.dumps(error))
    assert again.findings == error.findings
    assert str(again) == str(error)
