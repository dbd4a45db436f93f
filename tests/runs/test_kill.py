"""Nothing that was acknowledged is lost by kill -9, and no run differs for it."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def nursery(what: str, folder: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.runs.nursery", what, str(folder), str(kills), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("what", ["path", "folder"])
@pytest.mark.parametrize("kills", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_while_saving(tmp_path: Path, what: str, kills: int) -> None:
    """At random moments of a loop of saves: 0 unreadable, 0 mixed, never older than what was acknowledged."""
    counts = nursery(what, tmp_path, kills)
    assert counts["kills"] == kills
    assert (counts["unreadable"], counts["older"], counts["unfinished"]) == (0, 0, 0)
    assert counts["saved"] > kills  # the kills came in the midst of saving


@pytest.mark.slow
def test_killed_while_training(tmp_path: Path) -> None:
    """At 20 random steps, and resumed by new processes: every optimizer, float32 and bfloat16, plain and compiled."""
    counts = nursery("optimizers", tmp_path, 20)
    assert counts["runs"] > 100
    assert not counts["differ"]
