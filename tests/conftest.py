"""Settings of the whole suite: one thread, Hypothesis profiles, and a guard on the global random generators."""

import contextlib
import importlib
import os
import zlib
from collections.abc import Iterator

# Before torch is imported, and inherited by subprocesses: two workers share two cores, and sums keep their order.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Figures are drawn to files, also where there is a display.
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests import global_rng

# Draws from `random` when it is first imported, as scikit-learn and transformers do on the way; no test is to blame.
with contextlib.suppress(ImportError):
    importlib.import_module("rich.style")

# When it is first imported, it puts a Hypothesis profile of its own in force, of ten examples and called "dev" too. So
# that is done before ours are made, and not by whichever test needs a reference from it.
importlib.import_module("torch.testing._internal.common_utils")

# The first call of a torch kernel, and of every compiled function, is slow: neither a deadline nor a rate of examples
# says anything about the code under test.
settings.register_profile(
    "dev",
    settings.get_profile("default"),  # and not the one that torch put in force
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
# The same examples on every run, so that a failure belongs to the change that shows it.
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, database=None)
settings.register_profile("nightly", settings.get_profile("dev"), max_examples=1000)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --nightly."""
    parser.addoption("--nightly", action="store_true", help="run slow tests too, and ten times the Hypothesis examples")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the Hypothesis profile and the tests that are selected."""
    nightly = config.getoption("--nightly")
    if nightly and config.option.markexpr == "not slow":
        config.option.markexpr = ""
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("nightly" if nightly else "ci" if os.environ.get("CI") else "dev")
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give each test its own global seed, so that neither order nor worker decides what reference code draws."""
    global_rng.seed(zlib.crc32(item.nodeid.encode()))


@pytest.fixture(autouse=True)
def global_rng_is_untouched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that moves a global generator. Reference code draws inside `tests.global_rng.seeded`."""
    marker = request.node.get_closest_marker("uses_global_rng")
    if marker is not None and not (marker.args or marker.kwargs.get("reason")):
        pytest.fail("uses_global_rng needs a reason: @pytest.mark.uses_global_rng('why')")
    before = global_rng.snapshot()
    yield
    moved = global_rng.disturbed(before, global_rng.snapshot())
    if moved and marker is None:
        pytest.fail(f"the test moved the global generator of {', '.join(moved)}; draw from a key, or inside seeded()")
