"""The suite's own settings do what they say, shown on a small suite in a folder of its own."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.global_rng import seeded

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
SUITE = """
import pytest, torch
from hypothesis import settings

@pytest.mark.slow
def test_slow(): pass

def test_profile(): print("profile:", settings.get_current_profile_name())

def test_draws(): torch.rand(1)

@pytest.mark.uses_global_rng("reference")
def test_marked(): torch.rand(1)

@pytest.mark.uses_global_rng
def test_marked_without_reason(): pass
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Iterator[pytest.Pytester]:
    """The small suite under this repository's conftest and pytest settings."""
    profile = settings.get_current_profile_name()
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    pytester.makepyprojecttoml((ROOT / "pyproject.toml").read_text())
    pytester.makepyfile(test_suite=SUITE)
    with seeded(0):
        yield pytester
    settings.load_profile(profile)


@pytest.mark.parametrize(
    ("args", "ci", "profile", "counts"),
    [
        ((), "", "dev", {"passed": 3, "errors": 2, "deselected": 1}),
        ((), "true", "ci", {"passed": 3, "errors": 2, "deselected": 1}),
        (("-m", ""), "", "dev", {"passed": 4, "errors": 2}),
        (("--nightly",), "true", "nightly", {"passed": 4, "errors": 2}),
    ],
)
def test_selection_profile_and_guard(
    suite: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    ci: str,
    profile: str,
    counts: dict[str, int],
) -> None:
    """Slow tests run only when asked for, the profile follows, and an unmarked draw fails."""
    monkeypatch.setenv("CI", ci)
    result = suite.runpytest_inprocess("-n", "0", "-s", "-p", "no:cacheprovider", "test_suite.py", *args)
    result.assert_outcomes(**counts)
    result.stdout.fnmatch_lines([f"*profile: {profile}*", "*moved the global generator of torch*", "*needs a reason*"])


def test_the_profile_is_ours() -> None:
    """Torch's own test library, imported by a reference, does not replace the profile that was chosen."""
    importlib.import_module("torch.testing._internal.common_optimizers")
    assert settings().max_examples >= 100
