"""A folder of checkpoints: the newest whole one is found, some are kept, and later steps change none."""

import errno
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import functional_train as ft
from tests.runs.checkpoints.disk import CALLS, FAULTS, Recorded, after_power_failure, failing
from tests.runs.checkpoints.trees import assert_same


def state(step: int) -> ft.TrainState:
    """A state all of which says which one it is."""
    params = {"w": torch.full((50,), float(step)), "v": torch.full((30,), float(-step))}
    return ft.init_state(params, ft.sgd()).replace(step=torch.tensor(step))


def history(**columns: list[float]) -> ft.History:
    return ft.History({name.replace("_", "/"): torch.tensor(column) for name, column in columns.items()})


def save_all(checkpointer: ft.Checkpointer, steps: list[int]) -> None:
    for step in steps:
        checkpointer.save(state(step))
    checkpointer.wait()


def test_the_newest_comes_back(tmp_path: Path) -> None:
    """With its history, in another process's object."""
    checkpointer = ft.Checkpointer(tmp_path / "a" / "run")
    assert checkpointer.restore(state(0)) is None
    records = history(step=[1, 2], loss=[0.5, 0.25], eval_step=[2], eval_loss=[0.3])
    checkpointer.save(state(1))
    checkpointer.save(state(2), records)
    checkpointer.wait()
    found = ft.Checkpointer(tmp_path / "a" / "run").restore(state(0))
    assert found is not None
    assert_same(found.state, state(2))
    assert {name: column.tolist() for name, column in found.history.items()} == {
        name: column.tolist() for name, column in records.items()
    }
    earlier = checkpointer.restore(state(0), step=1)
    assert earlier is not None
    assert_same(earlier.state, state(1))
    assert not earlier.history
    with pytest.raises(FileNotFoundError, match="step-00000007"):
        checkpointer.restore(state(0), step=7)


@given(steps=st.lists(st.integers(0, 10**9), min_size=1, max_size=8, unique=True).map(sorted), keep=st.integers(1, 4))
def test_some_are_kept(tmp_path_factory: pytest.TempPathFactory, steps: list[int], keep: int) -> None:
    """The newest of them, and the manifest lists what is there."""
    folder = tmp_path_factory.mktemp("kept")
    checkpointer = ft.Checkpointer(folder, keep=keep, background=False)
    save_all(checkpointer, steps)
    assert checkpointer.steps == steps[-keep:]
    rows = json.loads((folder / "manifest.json").read_text())["checkpoints"]
    assert [row["step"] for row in rows] == steps[-keep:]
    assert all((folder / row["file"]).stat().st_size == row["bytes"] for row in rows)
    assert len(list(folder.iterdir())) == len(rows) + 1


@given(
    losses=st.lists(st.floats(-5, 5, width=32) | st.just(float("nan")), min_size=1, max_size=8),
    mode=st.sampled_from(["min", "max"]),
)
def test_the_best_is_kept(tmp_path_factory: pytest.TempPathFactory, losses: list[float], mode: str) -> None:
    """However old it is; nan is never the best."""
    folder = tmp_path_factory.mktemp("best")
    checkpointer = ft.Checkpointer(folder, keep=1, best="eval/loss", mode=mode, background=False)
    for step, loss in enumerate(losses):
        checkpointer.save(state(step), history(step=[step], loss=[0.0], eval_step=[step], eval_loss=[loss]))
    numbers = [(loss if mode == "min" else -loss, step) for step, loss in enumerate(losses) if loss == loss]
    expected = {len(losses) - 1} | ({min(numbers)[1]} if numbers else set())
    assert checkpointer.steps == sorted(expected)
    found = ft.Checkpointer(folder, best="eval/loss", mode=mode).restore_best(state(0))
    assert (found is None) == (not numbers)
    if found is not None:
        assert_same(found.state, state(min(numbers)[1]))


def test_a_metric_of_another_step_is_not_this_ones(tmp_path: Path) -> None:
    """Nor is one that was not measured yet; one that never will be is an error."""
    checkpointer = ft.Checkpointer(tmp_path, best="eval/loss")
    checkpointer.save(state(3), history(step=[1, 2, 3], loss=[3.0, 2.0, 1.0], eval_step=[2], eval_loss=[0.1]))
    checkpointer.save(state(4), history(step=[4], loss=[3.0]))
    assert checkpointer.restore_best(state(0)) is None
    with pytest.raises(
        ft.HyperparameterError, match="keeps the best 'eval/loss', which was not recorded; there is step"
    ):
        checkpointer.save(state(5), history(step=[5], loss=[1.0], eval_step=[5], eval_accuracy=[1.0]))


def test_broken_ones_are_passed_over(tmp_path: Path) -> None:
    """With a warning that says which and why; another kind of state is an error, and so is nothing whole."""
    checkpointer = ft.Checkpointer(tmp_path, keep=9)
    save_all(checkpointer, [1, 2, 3])
    for step in (2, 3):
        content = checkpointer.path(step).read_bytes()
        checkpointer.path(step).write_bytes(content[:-1] if step == 2 else content[:-1] + b"?")
    with pytest.warns(RuntimeWarning) as caught:
        found = checkpointer.restore(state(0))
    assert found is not None
    assert_same(found.state, state(1))
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 2
    assert "step-00000003.safetensors: 'state/params/v' is not what was saved" in messages[0]
    assert "step-00000002.safetensors: it ends after" in messages[1]
    with pytest.raises(ft.StructureError, match="at 'state/params/w': the file has shape"):
        checkpointer.restore(state(0).replace(params={"w": torch.ones(1), "v": torch.ones(30)}), step=1)
    checkpointer.path(1).write_bytes(b"")
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(ft.CheckpointError, match="has 3 checkpoints, and none of them is whole"),
    ):
        checkpointer.restore(state(0))


def test_broken_ones_do_not_drive_whole_ones_out(tmp_path: Path) -> None:
    """What cannot be read is not counted among the newest, nor removed."""
    checkpointer = ft.Checkpointer(tmp_path, keep=2)
    save_all(checkpointer, [1, 2])
    checkpointer.path(2).write_bytes(b"broken")
    save_all(checkpointer, [3])
    assert checkpointer.steps == [1, 2, 3]
    assert checkpointer.path(2).read_bytes() == b"broken"


def test_an_abandoned_future_is_set_aside(tmp_path: Path) -> None:
    """A run that goes on from an earlier step leaves the later ones of the old run behind, and loses none."""
    checkpointer = ft.Checkpointer(tmp_path, keep=5)
    save_all(checkpointer, [10, 20, 30])
    save_all(checkpointer, [15])
    assert checkpointer.steps == [10, 15]
    found = checkpointer.restore(state(0))
    assert found is not None
    assert_same(found.state, state(15))
    aside = tmp_path / "step-00000030.safetensors.aside"
    assert torch.equal(ft.load(aside)["state"].params["w"], state(30).params["w"])


def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have writing wait until the event is set."""
    gate, real = threading.Event(), os.pwrite

    def pwrite(handle: int, data: Any, at: int) -> int:
        gate.wait(20)
        return real(handle, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    return gate


def test_later_steps_do_not_change_what_is_being_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a step that moves its state, which would write into those very numbers."""
    step = ft.compile(
        ft.make_step(ft.grad_and_value(lambda p, batch: (p["w"] * batch).sum()), ft.sgd(0.1)),
        donate=True,
        backend="eager",
    )
    start = ft.init_state({"w": torch.ones(50)}, ft.sgd(0.1))
    now, _ = step(ft.tree.copy(start), torch.tensor(1.0))
    expected = ft.tree.copy(now)
    gate = held(monkeypatch)
    checkpointer = ft.Checkpointer(tmp_path)
    checkpointer.save(now)
    for _ in range(3):
        now, _ = step(now, torch.tensor(1.0))
    gate.set()
    checkpointer.wait()
    found = checkpointer.restore(start, step=1)
    assert found is not None
    assert_same(found.state, expected)
    assert int(now.step) == 4


def test_what_others_write_to_meanwhile_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the next save or wait; the checkpoint before it is whole."""
    checkpointer = ft.Checkpointer(tmp_path)
    save_all(checkpointer, [1])
    gate = held(monkeypatch)
    second = state(2)
    checkpointer.save(second)
    second.params["w"].add_(1)
    gate.set()
    with pytest.raises(ft.OwnershipError, match="'state/params/w' was written to while it was saved"):
        checkpointer.wait()
    assert checkpointer.steps == [1]
    checkpointer.wait()


@pytest.mark.parametrize("call", CALLS)
def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """At each write: the checkpoint before loads, no debris is left, and the error names the file."""
    checkpointer = ft.Checkpointer(tmp_path)
    failed = 0
    save_all(checkpointer, [1])
    for number in range(20):
        with monkeypatch.context() as patch:
            failing(call, number, FAULTS["disk full"], patch)
            checkpointer.save(state(2 + number))
            try:
                checkpointer.wait()
            except OSError as error:
                problem = error
            else:
                break
        failed += 1
        assert problem.filename in (str(checkpointer.path(2 + number)), str(tmp_path / "manifest.json"), None)
        found = checkpointer.restore(state(0))
        assert found is not None
        assert_same(found.state, state(int(found.state.step)))
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert failed >= 1


def test_a_power_failure_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a rotating folder: what was acknowledged, or something newer and whole, is found."""
    recorded = Recorded(tmp_path, monkeypatch)
    folder = tmp_path / "run"
    checkpointer = ft.Checkpointer(folder, keep=2)
    for step in range(1, 6):
        checkpointer.save(state(step))
        checkpointer.wait()
        recorded.acknowledge(step)
    monkeypatch.undo()
    elsewhere = tmp_path / "after"
    elsewhere.mkdir()
    states = 0
    for length in range(len(recorded.operations) + 1):
        done = recorded.operations[:length]
        acknowledged = max((rest[0] for kind, *rest in done if kind == "acknowledged"), default=0)
        for files in after_power_failure(done):
            for old in elsewhere.iterdir():
                old.unlink()
            for name, content in files.items():
                (elsewhere / Path(name).name).write_bytes(content)
            states += 1
            found = ft.Checkpointer(elsewhere).restore(state(0))
            step = 0 if found is None else int(found.state.step)
            assert acknowledged <= step <= acknowledged + 1
            if found is not None:
                assert_same(found.state, state(step))
    assert states > 100


_LAST_LINE = """
import sys, torch, functional_train as ft
state = ft.init_state({str(i): torch.full((1 << 20,), float(i)) for i in range(6)}, ft.sgd())
ft.Checkpointer(sys.argv[1]).save(state)
"""


def test_a_script_that_ends_while_it_saves(tmp_path: Path) -> None:
    """The save is finished first."""
    subprocess.run([sys.executable, "-W", "error", "-c", _LAST_LINE, str(tmp_path)], check=True)
    like = ft.init_state({str(i): torch.zeros(1 << 20) for i in range(6)}, ft.sgd())
    found = ft.Checkpointer(tmp_path).restore(like)
    assert found is not None
    assert float(found.state.params["5"][-1]) == 5


def test_an_interrupted_wait_is_no_acknowledgment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one waits for the same save, and gives its error."""
    checkpointer = ft.Checkpointer(tmp_path)
    gate = held(monkeypatch)
    checkpointer.save(state(1))
    with monkeypatch.context() as patch:
        patch.setattr(Future, "result", lambda self: interrupted())
        with pytest.raises(KeyboardInterrupt):
            checkpointer.wait()
    assert checkpointer.steps == []
    gate.set()
    checkpointer.wait()
    assert checkpointer.steps == [1]


def interrupted() -> None:
    raise KeyboardInterrupt


def test_the_best_of_another_metric_is_not_this_ones(tmp_path: Path) -> None:
    """Metrics are kept by name."""
    first = ft.Checkpointer(tmp_path, best="eval/loss")
    first.save(state(1), history(step=[1], loss=[0.0], eval_step=[1], eval_loss=[5.0]))
    first.wait()
    second = ft.Checkpointer(tmp_path, best="eval/accuracy", mode="max")
    assert second.restore_best(state(0)) is None
    second.save(state(2), history(step=[2], loss=[0.0], eval_step=[2], eval_accuracy=[0.5]))
    found = second.restore_best(state(0))
    assert found is not None
    assert int(found.state.step) == 2


def test_a_process_that_goes_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative folder stays where it was."""
    monkeypatch.chdir(tmp_path)
    checkpointer = ft.Checkpointer("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    save_all(checkpointer, [1])
    assert ft.Checkpointer(tmp_path / "run").steps == [1]


def test_what_cannot_be_read_now_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be whole: only what is broken is."""
    checkpointer = ft.Checkpointer(tmp_path)
    save_all(checkpointer, [1, 2])
    with monkeypatch.context() as patch:
        failing("open", 0, OSError(errno.EMFILE, "Too many open files"), patch)
        with pytest.raises(OSError, match="Too many open files"):
            checkpointer.restore(state(0))
    found = checkpointer.restore(state(0))
    assert found is not None
    assert int(found.state.step) == 2


def test_a_forked_child_saves_too(tmp_path: Path) -> None:
    """It has none of its parent's threads."""
    checkpointer = ft.Checkpointer(tmp_path)
    save_all(checkpointer, [1])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            save_all(checkpointer, [2])
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert checkpointer.steps == [1, 2]


def test_bad_arguments(tmp_path: Path) -> None:
    """Errors say the rule."""
    for options, words in [
        ({"every": 0}, "every must be an int >= 1, got 0"),
        ({"keep": 0}, "keep must be an int >= 1, got 0"),
        ({"keep": True}, "keep must be an int >= 1, got True"),
        ({"mode": "best"}, "mode must be 'min' or 'max', got 'best'"),
    ]:
        with pytest.raises(ft.HyperparameterError, match=words):
            ft.Checkpointer(tmp_path, **options)
    with pytest.raises(ft.StructureError, match="a dict has no step to be saved under"):
        ft.Checkpointer(tmp_path).save({"w": torch.ones(1)})
    with pytest.raises(ft.StructureError, match="'state/params/w' is on the meta device"):
        ft.Checkpointer(tmp_path).save(state(1).replace(params={"w": torch.ones(1, device="meta")}))
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(FileExistsError):
        ft.Checkpointer(file)
    assert repr(ft.Checkpointer(tmp_path, keep=2)) == f"Checkpointer({str(tmp_path)!r}, every=1000, keep=2, steps=[])"
