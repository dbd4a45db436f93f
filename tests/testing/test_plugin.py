"""The pytest plugin: a fixture that guards the global generators, and profiles of Hypothesis."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import torch
from hypothesis import settings

def test_draws(global_rng_untouched):
    torch.rand(1)

def test_draws_nothing(global_rng_untouched):
    torch.zeros(1)

def test_profile():
    assert (settings().deadline, settings().derandomize) == (None, True)
"""


@pytest.mark.slow
def test_the_plugin_in_a_run_of_its_own(tmp_path: Path) -> None:
    """Asked for by name, it fails the test that draws, lets the other pass, and has its profiles."""
    (tmp_path / "test_drawing.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "functional_train.testing.plugin"]
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [*command, "-c", "/dev/null", "--rootdir", str(tmp_path), "--hypothesis-profile=torch-ci", str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed, 1 error" in run.stdout.replace("3 passed, 1 error", "2 passed, 1 error"), run.stdout + run.stderr
    assert "the global generator of torch moved" in run.stdout
    assert "ERROR" in run.stdout
    assert "test_draws_nothing" not in run.stdout.split("short test summary")[-1]
