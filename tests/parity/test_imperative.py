"""A fold of our step is the loop that everybody writes: same weights, same batches, 200 steps, same numbers."""

import pytest
import torch

from tests.parity.models import CASES, NUM_STEPS, OPTIMIZERS, Trained, imperative, ours
from tests.trees import relative_difference

# Each model and each optimizer in the default run, all pairs at night.
DEFAULT = [("mlp", "adamw"), ("cnn", "sgd"), ("transformer", "adam")]
PAIRS = [
    pytest.param(case, optimizer, marks=[] if (case, optimizer) in DEFAULT else pytest.mark.slow)
    for case in CASES
    for optimizer in OPTIMIZERS
]


def compared(case: str, run: Trained) -> dict[str, torch.Tensor]:
    """What a run ends with, without the entries whose true gradient is zero: there Adam amplifies rounding."""
    leaves = {**run.params, **run.buffers}
    kept = {name: leaf[~CASES[case].is_flat(name, leaf)] for name, leaf in leaves.items()}
    return {name: leaf for name, leaf in kept.items() if leaf.numel() > 0}


@pytest.mark.parametrize(("case", "optimizer"), PAIRS)
def test_float64_runs_are_equal(case: str, optimizer: str) -> None:
    """Every parameter, every buffer and every loss is within 1e-11 relative after 200 steps."""
    actual, expected = (run(case, optimizer, torch.float64) for run in (ours, imperative))
    assert len(expected.losses) == NUM_STEPS
    assert relative_difference(actual.losses, expected.losses) <= 1e-11
    found, wanted = compared(case, actual), compared(case, expected)
    assert found.keys() == wanted.keys()
    for name, leaf in wanted.items():
        assert relative_difference(found[name], leaf) <= 1e-11, name
    # What was left out is not far either: it is rounding, magnified to the size of a step.
    for name, leaf in expected.params.items():
        assert relative_difference(actual.params[name], leaf) <= 1e-7, name


@pytest.mark.parametrize(("case", "optimizer"), PAIRS)
def test_float32_runs_are_as_near_as_torchs_own(case: str, optimizer: str) -> None:
    """Losses stay within 1e-4 of the imperative loop's, and no leaf is farther from the float64 run than torch's fused
    optimizer is."""
    exact = compared(case, imperative(case, optimizer, torch.float64))
    fused = imperative(case, optimizer, torch.float32, fused=True)
    actual = ours(case, optimizer, torch.float32)
    for reference in (fused, imperative(case, optimizer, torch.float32)):
        assert (actual.losses - reference.losses).abs().max() <= 1e-4
    found, torchs = compared(case, actual), compared(case, fused)
    for name, leaf in exact.items():
        near, torchs_near = ((one[name].double() - leaf).norm() / leaf.double().norm() for one in (found, torchs))
        assert near <= torchs_near, name


def test_the_models_learn() -> None:
    """The comparison is of runs that go somewhere: every loss falls."""
    for case, optimizer in DEFAULT:
        losses = imperative(case, optimizer, torch.float64).losses
        assert losses[-20:].mean() < 0.9 * losses[:20].mean()
