"""The command line: both tasks end to end in a few steps, bad options, repeatability, and an orderly end."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import functional_train as ft
from functional_train.demo import cli, digits, text
from functional_train.demo.task import Task
from tests import global_rng

TASKS = {"digits": digits, "text": text}


@pytest.fixture(autouse=True)
def short_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the text task's evaluation and sample short."""
    monkeypatch.setattr(text, "_MAX_TEST_WINDOWS", 4)
    monkeypatch.setattr(text, "_SAMPLE_BYTES", 12)


def run(out: Path, *arguments: str, task: str = "digits") -> int:
    return cli.main(["--task", task, "--steps", "3", "--batch-size", "4", "--out", str(out), *arguments])


@pytest.mark.parametrize("task", TASKS)
def test_a_run_reports_and_leaves_its_files(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run says how good the model is and who owned what, and saves a picture and all parameters and buffers."""
    assert run(tmp_path / "new" / "folder", task=task) == 0
    printed = capsys.readouterr().out
    assert "trained after 3 steps" in printed
    assert {"digits": "test accuracy", "text": "bits per byte on held-out files"}[task] in printed

    phases = [line for line in printed.splitlines() if "_fn " in line]
    assert [line.split()[0] for line in phases] == ["loss_fn", "grad_fn", "update_fn"]
    assert all(line.endswith("nothing") for line in phases)

    picture = (tmp_path / "new" / "folder" / f"{task}_loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    module = TASKS[task].make_task(ft.random.key(0), 1).module
    started_from = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    saved = load_file(tmp_path / "new" / "folder" / f"{task}.safetensors")
    module.load_state_dict(saved, strict=True)
    assert any(not saved[name].equal(tensor) for name, tensor in started_from.items())


@pytest.mark.parametrize("task", TASKS)
def test_the_seed_alone_decides(task: str, tmp_path: Path) -> None:
    """The same seed gives the same bytes wherever the global generators stand, and leaves them there."""
    written: list[bytes] = []
    for value in (1, 2):
        with global_rng.seeded(value):
            before = global_rng.snapshot()
            assert run(tmp_path, "--seed", "7", task=task) == 0
            assert global_rng.disturbed(before, global_rng.snapshot()) == []
        written.append((tmp_path / f"{task}.safetensors").read_bytes())
    assert written[0] == written[1]


def test_another_seed_makes_other_bytes(tmp_path: Path) -> None:
    """The seed is used: another one gives another file."""
    written: list[bytes] = []
    for seed in ("7", "8"):
        assert run(tmp_path, "--seed", seed) == 0
        written.append((tmp_path / "digits.safetensors").read_bytes())
    assert written[0] != written[1]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_optimizer_runs(optimizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each optimizer runs with its own learning rate, and with one that is given."""
    assert run(tmp_path, "--optimizer", optimizer, "--lr", "0.0125") == 0
    assert run(tmp_path, "--optimizer", optimizer) == 0
    printed = capsys.readouterr().out
    assert f"3 steps of {optimizer}, lr 0.0125" in printed
    assert f"3 steps of {optimizer}, lr {digits.DEFAULTS.lr[optimizer]:g}" in printed


BAD_OPTIONS = [
    (["--lr", "-1"], "argument --lr: must be a number above 0, got '-1'"),
    (["--lr", "0"], "argument --lr: must be a number above 0"),
    (["--lr", "nan"], "argument --lr: must be a number above 0"),
    (["--lr", "fast"], "argument --lr: must be a number above 0"),
    (["--steps", "0"], "argument --steps: must be a whole number of at least 1, got '0'"),
    (["--steps", "1.5"], "argument --steps: must be a whole number"),
    (["--batch-size", "-4"], "argument --batch-size: must be a whole number"),
    (["--batch-size", "5000"], "argument --batch-size: 5000 is more than the 1,438 training scans"),
    (["--task", "text", "--batch-size", "9000000"], "argument --batch-size: 9000000 is more than the"),
    (["--seed", "-1"], "argument --seed: must be a whole number from 0 to 2**64 - 1, got '-1'"),
    (["--seed", str(2**64)], "argument --seed: must be a whole number from 0"),
    (["--device", "abacus"], "argument --device: there is no device 'abacus' here"),
    (["--device", "cuda:99"], "argument --device: there is no device 'cuda:99' here"),
    (["--device", "meta"], "argument --device: there is no device 'meta' here"),
    (["--optimizer", "magic"], "argument --optimizer: invalid choice: 'magic'"),
    (["--task", "images"], "argument --task: invalid choice: 'images'"),
    (["--stepz", "3"], "unrecognized arguments: --stepz 3"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=lambda value: " ".join(value)[:40])
def test_a_bad_option_is_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad option ends the program with code 2 and a single line that names it."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["--out", str(tmp_path), *options])
    assert ended.value.code == 2
    written = capsys.readouterr().err
    assert message in written
    assert written.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "folder"])
def test_a_folder_that_cannot_be_written_is_one_line(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output folder that is a file, or lies below one, is found out before training."""
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        cli.main(["--out", str(tmp_path / "file" / below)])
    assert ended.value.code == 2
    written = capsys.readouterr().err
    assert "argument --out: cannot write to" in written
    assert written.count("\n") == 1


@pytest.mark.parametrize("library", ["sklearn", "matplotlib", "safetensors"])
def test_a_missing_extra_is_one_line(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library that is not installed is named, with the command that installs it."""
    monkeypatch.setitem(sys.modules, library, None)
    assert run(tmp_path) == 1
    written = capsys.readouterr().err
    assert library in written
    assert 'pip install "functional_train[demo]"' in written
    assert written.count("\n") == 1


def test_a_loss_that_is_not_finite_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training that blows up ends with what happened and what to do."""
    assert run(tmp_path, "--optimizer", "sgd", "--lr", "1e38", task="text") == 1
    written = capsys.readouterr().err
    assert "the loss is nan at step" in written
    assert written.count("\n") == 1


def test_an_interrupt_saves_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in training saves the last whole state, which is the one a shorter run ends in."""
    make_task = digits.make_task

    def interrupted_task(*args: Any) -> Task:
        task = make_task(*args)

        def batch_at(position: int) -> Any:
            # Asked once more afterwards, for the table.
            if position == 3 and not interrupts:
                interrupts.append(position)
                raise KeyboardInterrupt
            return task.batch_at(position)

        return task._replace(batch_at=batch_at)

    interrupts: list[int] = []
    monkeypatch.setattr(digits, "make_task", interrupted_task)
    assert run(tmp_path, "--steps", "100") == 130
    assert interrupts == [3]
    assert "interrupted after 3 steps" in capsys.readouterr().out
    assert "0.weight" in load_file(tmp_path / "digits.safetensors")


def test_an_interrupt_before_training_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C while there is nothing to save is one line, and leaves no file."""

    def interrupted_load() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "_load", interrupted_load)
    assert run(tmp_path) == 130
    assert capsys.readouterr().err == "python -m functional_train: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` explains each option in at most 80 columns."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--task", "--optimizer", "--lr", "--steps", "--batch-size", "--seed", "--device", "--out"):
        assert option in shown


def _run_module(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "functional_train", "--out", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])


@pytest.mark.slow
def test_the_module_runs(tmp_path: Path) -> None:
    """`python -m functional_train` passes options on, and exit codes back."""
    assert _run_module("--steps", "2", folder=tmp_path).returncode == 0
    assert (tmp_path / "digits.safetensors").exists()
    refused = _run_module("--lr", "-1", folder=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_are_learned(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The defaults reach the accuracy that the README promises, whatever the seed."""
    assert cli.main(["--seed", str(seed), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    accuracy = float(printed.split("test accuracy ")[1].split("%")[0])
    assert accuracy >= 97.0


@pytest.mark.slow
def test_text_is_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The defaults reach the bits per byte that the README promises."""
    monkeypatch.setattr(text, "_MAX_TEST_WINDOWS", 256)
    assert cli.main(["--task", "text", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    bits_per_byte = float(printed.split(" bits per byte")[0].split()[-1])
    assert bits_per_byte < 3.0
