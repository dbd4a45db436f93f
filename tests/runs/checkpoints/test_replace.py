"""A file is the old one or the new one, whatever fails, and nothing else is left."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import functional_train as ft
from functional_train.runs.checkpoints._replace import is_unfinished
from tests.runs.checkpoints.disk import CALLS, FAULTS, Recorded, after_power_failure, failing


def tree(number: int) -> dict[str, Any]:
    """A tree all of which says which one it is."""
    return {"n": number, "a": torch.full((300,), float(number)), "b": torch.full((200,), number)}


def number_in(found: Any) -> int:
    """Which tree it is; an error when it is parts of two."""
    numbers = {found["n"], *found["a"].unique().int().tolist(), *found["b"].unique().tolist()}
    (number,) = numbers
    return number


def test_a_power_failure_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saving over one path: at every prefix of the operations, and whatever unsynced writes did, one whole tree."""
    recorded = Recorded(tmp_path, monkeypatch)
    path = tmp_path / "run.ckpt"
    for number in range(4):
        ft.save(path, tree(number))
        recorded.acknowledge(number)
    monkeypatch.undo()
    elsewhere = tmp_path / "after"
    elsewhere.mkdir()
    states = 0
    for length in range(len(recorded.operations) + 1):
        done = recorded.operations[:length]
        acknowledged = max((rest[0] for kind, *rest in done if kind == "acknowledged"), default=-1)
        begun = acknowledged + 1
        for files in after_power_failure(done):
            states += 1
            if str(path) not in files:
                assert acknowledged == -1
                continue
            (elsewhere / "run.ckpt").write_bytes(files[str(path)])
            assert acknowledged <= number_in(ft.load(elsewhere / "run.ckpt")) <= begun
    assert states > 100


def test_the_simulated_disk_can_lose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above would see a save that does not wait for the disk."""
    recorded = Recorded(tmp_path, monkeypatch)
    path = tmp_path / "run.ckpt"
    ft.save(path, tree(0), fsync=False)
    monkeypatch.undo()
    found = [files.get(str(path)) for files in after_power_failure(recorded.operations)]
    assert None in found
    assert b"" in found
    assert path.read_bytes() in found


def failure(path: Path, value: Any) -> OSError | None:
    """The error of a save, or None when it went well."""
    try:
        ft.save(path, value)
    except OSError as error:
        return error
    return None


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("call", CALLS)
def test_every_call_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, fault: str) -> None:
    """The old file loads, nothing is left of the new one, and the error names the path."""
    path = tmp_path / "run.ckpt"
    ft.save(path, tree(0))
    failed = 0
    for number in range(20):
        with monkeypatch.context() as patch:
            failing(call, number, FAULTS[fault], patch)
            error = failure(path, tree(1))
        if error is None:
            break
        failed += 1
        assert (type(error), error.errno, error.filename) == (type(FAULTS[fault]), FAULTS[fault].errno, str(path))
        # The very last call, of the folder's fsync, comes after the name has changed.
        assert number_in(ft.load(path)) in (0, 1)
        if number_in(ft.load(path)) == 1:
            assert call in ("fsync", "open")
            ft.save(path, tree(0))
        assert names(tmp_path) == ["run.ckpt"]
    assert failed >= 1
    assert number_in(ft.load(path)) == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """By its permissions, or because it is none."""
    with pytest.raises(FileNotFoundError) as caught:
        ft.save(tmp_path / "none" / "run.ckpt", tree(0))
    assert caught.value.filename == str(tmp_path / "none" / "run.ckpt")
    with pytest.raises(IsADirectoryError, match="a file is written at exactly the path given"):
        ft.save(tmp_path, tree(0))
    assert names(tmp_path) == []


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A limit of the system on the size of files, as a real one would fail."""
    code = (
        "import resource, signal, sys, torch, functional_train as ft\n"
        "path = sys.argv[1]\n"
        "ft.save(path, {'n': 0})\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: ft.save(path, {'n': 1, 'w': torch.ones(1_000_000)})\n"
        "except OSError as error: print(error.filename == path, ft.load(path))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run.ckpt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "True {'n': 0}"
    assert names(tmp_path) == ["run.ckpt"]


def test_an_interrupt_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves the old file and nothing else."""
    path = tmp_path / "run.ckpt"
    ft.save(path, tree(0))

    def pwrite(*args: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(KeyboardInterrupt):
            ft.save(path, tree(1))
    assert number_in(ft.load(path)) == 0
    assert names(tmp_path) == ["run.ckpt"]


def test_short_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may write less than it was given."""
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda handle, data, at: real(handle, data[:7], at))
        ft.save(tmp_path / "run.ckpt", tree(5))
    assert number_in(ft.load(tmp_path / "run.ckpt")) == 5


def test_links_and_permissions_stay(tmp_path: Path) -> None:
    """A link goes on pointing to the file, and the file keeps its mode."""
    real, link = tmp_path / "real.ckpt", tmp_path / "latest.ckpt"
    ft.save(real, tree(0))
    real.chmod(0o640)
    link.symlink_to(real)
    ft.save(link, tree(1))
    assert link.is_symlink()
    assert number_in(ft.load(real)) == 1
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    """By the next save to the same path; what a living one is writing is not, nor other files."""
    code = (
        "import os, sys, time, functional_train.runs.checkpoints._replace as r\nfrom pathlib import Path\n"
        "with r.replacing(Path(sys.argv[1])) as file:\n"
        "    file.write(b'x' * 100, 0); print('begun', flush=True); time.sleep(60)\n"
    )
    path = tmp_path / "run[1].ckpt"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
    other = tmp_path / ".notes"
    other.write_text("mine")
    processes[0].kill()
    processes[0].wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        ft.save(path, tree(3))
        left = [name for name in names(tmp_path) if is_unfinished(name)]
        if len(left) == 1:
            break
    assert len(left) == 1
    assert str(processes[1].pid) in left[0]
    processes[1].kill()
    for process in processes:
        process.communicate()
    ft.save(path, tree(4))
    assert names(tmp_path) == [".notes", "run[1].ckpt"]
    assert number_in(ft.load(path)) == 4
