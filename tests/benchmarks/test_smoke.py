"""The machinery of the benchmarks runs, refuses different work, and judges bars. No timing is asserted."""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import functional_train as ft
from tests.benchmarks.command import installed
from tests.benchmarks.compare import Effort, compare
from tests.benchmarks.draw_systems import DRAWS, check_law
from tests.benchmarks.draw_systems import SYSTEMS as DRAWING
from tests.benchmarks.draws import benchmark as draws_of
from tests.benchmarks.figures import Figures, Timings, figures
from tests.benchmarks.plain_step import SYSTEMS
from tests.benchmarks.processes import ROOT, BenchmarkError, System, workers
from tests.benchmarks.report import Bar, judge, table
from tests.benchmarks.systems import HYPERPARAMETERS, Advance, imperative
from tests.global_rng import seeded

LITTLE = Effort(rounds=1, seconds=0.001)


def without_decay(module: nn.Module) -> Advance:
    """A system that does a little less than the others."""
    return imperative(module, torch.optim.AdamW(module.parameters(), lr=HYPERPARAMETERS["lr"], weight_decay=0.0))


def dies(module: nn.Module) -> Advance:
    """A system that cannot start."""
    raise SystemExit(7)


@pytest.mark.slow
def test_saving_runs_from_the_command_line() -> None:
    """Every kind and system, on a few megabytes."""
    command = [sys.executable, "-m", "tests.benchmarks.saving", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for kind in ("save", "sync", "load", "stall"):
        assert f"\n{kind} " in done.stdout


def row(workload: str, system: str, milliseconds: float) -> Figures:
    return Figures(workload, system, milliseconds, 1.0, 1.0, 1.0, 1.0, 100.0, 10.0)


@pytest.mark.slow
def test_plain_step_runs_from_the_command_line(tmp_path: Path) -> None:
    """One row for each system that is installed, a word on each that is not, and the same figures in the file."""
    asked = ["imperative fused", "functional_train", "torchopt"]
    path = tmp_path / "figures.json"
    command = ["-m", "tests.benchmarks.plain_step", "--quick", "--workloads", "tiny", "--json", str(path)]
    done = subprocess.run(
        [sys.executable, *command, "--systems", *asked], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    saved = json.loads(path.read_text())
    present = [name for name in asked if name != "torchopt" or importlib.util.find_spec("torchopt")]
    assert [figure["system"] for figure in saved["figures"]] == present
    assert ("left out: torchopt" in done.stderr) == ("torchopt" not in present)
    for figure in saved["figures"]:
        assert figure["milliseconds"] > 0
        # The runner is light, so that the peaks are the workers' own.
        assert 0 < figure["beyond_imports"] < figure["peak"]
        assert figure["system"] in done.stdout


@pytest.mark.slow
def test_draws_run_from_the_command_line(tmp_path: Path) -> None:
    """One row for each system and size, in a file for each draw."""
    command = ["-m", "tests.benchmarks.draws", "--quick", "--draws", "uniform", "noise", "--systems", "torch", "plain"]
    done = subprocess.run(
        [sys.executable, *command, "--json", str(tmp_path / "figures.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for draw in ("uniform", "noise"):
        assert f"One draw: {draw}" in done.stdout
        saved = json.loads((tmp_path / f"figures_{draw}.json").read_text())
        assert [figure["system"] for figure in saved["figures"]] == ["torch", "plain"] * 2


@pytest.mark.parametrize("name", DRAWS)
def test_draws_follow_their_law(name: str) -> None:
    """Both torch's numbers and ours have the law's mean and deviation; shifted or stretched ones are refused."""
    draw, num = DRAWS[name], 4096
    x = torch.randn(num, generator=torch.Generator().manual_seed(1))
    given = x if draw.takes_numbers else x.shape
    with seeded():
        theirs = draw.torchs(given)
    _, std = draw.law(num)
    for drawn in (draw.ours(ft.random.key(1), given), theirs):
        check_law(name, drawn)
        numbers = drawn.double()
        for wrong in (numbers + 0.2 * std, 1.2 * numbers - 0.2 * numbers.mean()):
            with pytest.raises(BenchmarkError, match=f"{name}: mean and deviation of {num} draws"):
                check_law(name, wrong)


def test_draws_are_found_by_name() -> None:
    """Every system of every draw is where its worker looks for it."""
    for name in DRAWS:
        benchmark = draws_of(name)
        assert set(benchmark.systems) == set(DRAWING)
        for system in benchmark.systems.values():
            module, _, function = system.function.partition(":")
            assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.slow
def test_different_work_is_refused() -> None:
    """A system that leaves weight decay out is never timed."""
    systems = {"fused": SYSTEMS["imperative fused"], "other": System("tests.benchmarks.test_smoke:without_decay")}
    with pytest.raises(BenchmarkError, match="other does not do the work of fused"):
        compare(systems, "tiny", "fused", LITTLE)


@pytest.mark.slow
def test_systems_that_share_a_process() -> None:
    """Each goes its own way, from the same weights."""
    functions = {"plain": "plain_step", "other": "unchecked_step", "alone": "plain_step"}
    systems = {
        name: System(f"tests.benchmarks.systems:{function}", process="" if name == "alone" else "one")
        for name, function in functions.items()
    }
    with workers(systems, "tiny", 1) as group:
        first = group["plain"].ask("losses", 3)
        assert group["other"].ask("losses", 3) == group["alone"].ask("losses", 3) == first
        assert group["plain"].ask("losses", 3) != first
        assert len({id(worker.process) for worker in group.values()}) == 2


@pytest.mark.slow
def test_a_worker_that_dies_is_named() -> None:
    """A worker's end is an error that names it, and no hang."""
    with pytest.raises(BenchmarkError, match=r"test_smoke:dies on tiny ended with code 7"):
        compare({"dies": System("tests.benchmarks.test_smoke:dies")}, "tiny", "dies", LITTLE)


def test_runner_stays_light() -> None:
    """What the runner imports leaves torch out: a child's peak memory starts at its parent's."""
    names = ("plain_step", "compiled_step", "growth", "process_start", "update", "draws", "purity", "saving")
    benchmarks = ", ".join(f"tests.benchmarks.{name}" for name in names)
    code = f"import sys, {benchmarks}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_bars_are_judged() -> None:
    """A bar is met up to its ratio, missed above it, and missed when it was not measured."""
    rows = [row("tiny", "ours", 3.0), row("tiny", "theirs", 2.0)]
    for most, met in ((1.5, True), (1.49, False)):
        lines, all_met = judge([Bar("tiny", "ours", "theirs", most)], rows)
        assert all_met == met, lines
    lines, all_met = judge([Bar("tiny", "ours", "theirs", 0.99, "peak")], rows)
    assert not all_met
    assert "ours has a peak of at most 0.99 of theirs: 1.000" in lines[0]
    lines, all_met = judge([Bar("tiny", "ours", "absent", 1.0)], rows)
    assert not all_met
    assert "not measured" in lines[0]


def test_ratio_is_of_medians() -> None:
    """One disturbed block moves neither the ratio nor, by much, its interval."""
    calm = Timings([1.0] * 20, [1.0] * 20, 100.0, 110.0)
    disturbed = Timings([2.0] * 19 + [50.0], [2.0] * 20, 100.0, 130.0)
    _, own = figures("tiny", {"calm": calm, "disturbed": disturbed}, "calm")
    assert (own.ratio, own.low, own.high) == (2.0, 2.0, 2.0)
    assert own.beyond_imports == 30.0
    assert "disturbed" in table([own])


def test_missing_libraries_are_named() -> None:
    """A system that needs what is not there is left out, with what it needs; a submodule needs its library."""
    systems = {"here": System("x:y", ("torch._dynamo",)), "gone": System("x:y", ("no_such_library.part",))}
    present, missing = installed(systems)
    assert list(present) == ["here"]
    assert missing == {"gone": ["no_such_library"]}
