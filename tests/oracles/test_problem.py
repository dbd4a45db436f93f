"""The problems are what their formulas say, and the figures can be read."""

import pytest
import torch
from torch import Tensor

from tests.oracles import problem
from tests.oracles.load import LIBRARIES, case, figures, names, reason, versions

CASES = [(library, name) for library in LIBRARIES for name in names(library)]


def test_numbers_follow_their_formula() -> None:
    """Entries are quotients of small integers, so every library computes the same bits."""
    row, leaf, i = 7, 3, 4
    residue = (1009 * row + 97 * leaf + i + 1) ** 3 % 10007
    assert problem.numbers(row, leaf, 5)[i] == (2 * residue - 10007) / 10007
    assert float(problem.gradient(1, "scalar")).hex() == "-0x1.e1ea5b8860cd8p-1"
    assert float(problem.gradient(50, "cube")[1, 1, 2]).hex() == "-0x1.ebfeab7380ce5p-5"


def test_gradients_differ_and_are_no_zeros() -> None:
    """A leaf's gradients at no two steps are alike, and no entry is zero."""
    for leaf in problem.LEAVES:
        stacked = torch.stack([problem.gradient(step, leaf) for step in range(1, problem.NUM_STEPS + 1)])
        assert stacked.unique(dim=0).shape[0] == problem.NUM_STEPS
        assert bool((stacked != 0).all())
        assert bool((stacked.abs() < 1).all())


def test_condition_number_is_ten() -> None:
    """The largest curvature is ten times the smallest, over the whole tree."""
    entries = torch.cat([leaf.flatten() for leaf in problem.curvature().values()])
    assert entries.min().item() == 1
    assert entries.max().item() == 10


@pytest.mark.parametrize("name", ["given", "quadratic"])
def test_losses_have_the_gradients(name: str) -> None:
    """Autograd of the loss, written anew, gives the gradients."""
    params = {leaf: value.requires_grad_() for leaf, value in problem.start().items()}
    if name == "given":
        loss = 2 + sum((problem.gradient(3, leaf) * value).sum() for leaf, value in params.items())
    else:
        c, t = problem.curvature(), problem.target()
        loss = sum((0.5 * c[leaf] * (value - t[leaf]) ** 2).sum() for leaf, value in params.items())
    assert isinstance(loss, Tensor)
    expected = torch.autograd.grad(loss, list(params.values()))
    detached = {leaf: value.detach() for leaf, value in params.items()}
    torch.testing.assert_close(list(problem.GRADIENTS[name](3, detached).values()), list(expected))
    assert problem.LOSSES[name](3, detached) == pytest.approx(loss.item(), rel=1e-14)


def test_plain_descent_recomputed_gives_the_figures() -> None:
    """Gradient descent on both problems needs nothing but the formulas; a fused multiplication may round once less."""
    for name in ("given", "quadratic"):
        params = problem.start()
        found = figures("optax", "sgd", name)
        for step in range(1, problem.NUM_STEPS + 1):
            grads = problem.GRADIENTS[name](step, params)
            params = {leaf: value - 0.05 * grads[leaf] for leaf, value in params.items()}
            if step in problem.STEPS:
                torch.testing.assert_close(params, found[step], rtol=0, atol=step * 2**-53)


@pytest.mark.parametrize(("library", "name"), CASES, ids=str)
def test_case_is_well_formed(library: str, name: str) -> None:
    """Every case has both problems or says why not, all its steps and leaves, and points of the right shapes."""
    found = case(library, name)
    assert found.call
    assert found.function
    assert found.problems
    for key in ("given", "quadratic"):
        if key not in found.problems:
            assert reason(library, name, key)
            with pytest.raises(LookupError, match=f"has no figures for the problem '{key}'"):
                figures(library, name, key)
            continue
        steps = figures(library, name, key)
        assert tuple(steps) == problem.STEPS
        for tree in steps.values():
            assert tuple(tree) == found.leaves
            assert {leaf: tuple(value.shape) for leaf, value in tree.items()} == {
                leaf: problem.SHAPES[leaf] for leaf in found.leaves
            }
            assert all(value.dtype == torch.float64 for value in tree.values())
            # One case hands over a NaN on purpose.
            assert name == "apply_if_finite" or all(bool(value.isfinite().all()) for value in tree.values())


@pytest.mark.parametrize("library", LIBRARIES)
def test_versions_are_told(library: str) -> None:
    """Figures name the release that made them."""
    assert library in versions(library)


def test_hex_floats_come_back() -> None:
    """What the script writes without its "0x" is read bit by bit."""
    for number in (*problem.numbers(3, 1, 4), 0.0, -0.0, 1e-310, 2.0**60):
        text = number.hex().replace("0x", "")
        assert float.fromhex(text).hex() == number.hex()
