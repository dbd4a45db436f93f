"""The machinery of the benchmarks runs, refuses different work, and judges bars. No timing is asserted."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.benchmarks.command import installed
from tests.benchmarks.compare import Effort, compare
from tests.benchmarks.figures import Figures, Timings, figures
from tests.benchmarks.plain_step import SYSTEMS
from tests.benchmarks.processes import ROOT, BenchmarkError, System
from tests.benchmarks.report import Bar, judge, table
from tests.benchmarks.systems import HYPERPARAMETERS, Advance, imperative

LITTLE = Effort(rounds=1, seconds=0.001)


def without_decay(module: nn.Module) -> Advance:
    """A system that does a little less than the others."""
    return imperative(module, torch.optim.AdamW(module.parameters(), lr=HYPERPARAMETERS["lr"], weight_decay=0.0))


def dies(module: nn.Module) -> Advance:
    """A system that cannot start."""
    raise SystemExit(7)


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
def test_different_work_is_refused() -> None:
    """A system that leaves weight decay out is never timed."""
    systems = {"fused": SYSTEMS["imperative fused"], "other": System("tests.benchmarks.test_smoke:without_decay")}
    with pytest.raises(BenchmarkError, match="other does not do the work of fused"):
        compare(systems, "tiny", "fused", LITTLE)


@pytest.mark.slow
def test_a_worker_that_dies_is_named() -> None:
    """A worker's end is an error that names it, and no hang."""
    with pytest.raises(BenchmarkError, match=r"test_smoke:dies on tiny ended with code 7"):
        compare({"dies": System("tests.benchmarks.test_smoke:dies")}, "tiny", "dies", LITTLE)


def test_runner_stays_light() -> None:
    """What the runner imports leaves torch out: a child's peak memory starts at its parent's."""
    code = "import sys, tests.benchmarks.plain_step; sys.exit('torch' in sys.modules)"
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
