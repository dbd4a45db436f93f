"""A pytest plugin: a guard on the global random generators, and Hypothesis profiles that suit torch.

It is not registered on installation, since that would import torch into every run of pytest. Ask for it in the
top-level `conftest.py`: `pytest_plugins = ["functional_train.testing.plugin"]`, or with
`pytest -p functional_train.testing.plugin`. Then a test that takes the fixture `global_rng_untouched` fails when it
moves a global generator, and `--hypothesis-profile=torch` sets no deadline, since the first call of a kernel and of
every compiled function is slow.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from functional_train.testing.assertions import assert_global_rng_untouched

settings.register_profile("torch", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
# The same examples on every run, so that a failure belongs to the change that shows it.
settings.register_profile("torch-ci", settings.get_profile("torch"), derandomize=True, database=None)


@pytest.fixture
def global_rng_untouched() -> Iterator[None]:
    """Fail a test that moves a global random generator."""
    with assert_global_rng_untouched():
        yield
