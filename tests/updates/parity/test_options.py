"""Parameters and states follow torch.optim's for-loops, with every set of options."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing._internal.common_optimizers import optim_db

import functional_train as ft
from tests.trees import SHAPES, relative_difference
from tests.updates.parity import options
from tests.updates.parity.options import CLASSES, ELSEWHERE, IMPLEMENTATION, OPTION_SETS, discovered, trajectories

# Each of the 30 steps rounds a handful of times, relative to the largest value that a leaf has had.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.complex128: 1e-12, torch.complex64: 2e-6}
STATE = (
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "exp_inf", "square_avg", "grad_avg"),
    *("acc_delta", "sum", "prev", "step_size", "ax", "mu_product", "step"),
)


def largest(scales: list[float], leaves: list[Tensor]) -> list[float]:
    return [max([scale, *leaf.abs().flatten().tolist()]) for scale, leaf in zip(scales, leaves, strict=True)]


def check_params(name: str, seed: int, dtype: torch.dtype) -> None:
    scales = [0.0] * len(SHAPES)
    for step, (params, _, expected, _) in enumerate(trajectories(name, seed, dtype)):
        scales = largest(scales, expected)
        for place, row in enumerate(zip(params, expected, scales, strict=True)):
            assert row[0].dtype == dtype
            assert relative_difference(*row) <= TOLERANCES[dtype], f"step {step}, leaf {place}"


@pytest.mark.parametrize("name", OPTION_SETS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equals_torch_optim(name: str, dtype: torch.dtype) -> None:
    """Parameters of every shape follow torch's for-loop, through zero, huge, tiny and absent gradients."""
    check_params(name, 0, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTION_SETS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_equals_torch_optim_from_many_starts(name: str, dtype: torch.dtype) -> None:
    """So they do from ten more starts, and in complex numbers."""
    for seed in range(1, 11):
        check_params(name, seed, dtype)


@pytest.mark.parametrize("name", options.THIN.values())
@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex64], ids=str)
def test_complex_parameters_equal_torch_optim(name: str, dtype: torch.dtype) -> None:
    """A complex number is two real ones, as in torch.optim."""
    assert OPTION_SETS[name].info.supports_complex
    check_params(name, 0, dtype)


@pytest.mark.parametrize("name", OPTION_SETS)
def test_states_equal_torch_optims(name: str) -> None:
    """What the state holds is what torch's holds under the same name, counts of each leaf's own steps included."""
    scales: dict[tuple[str, int], float] = {}
    state = None
    for _, state, _, torchs in trajectories(name, 3, torch.float64):
        for part in STATE:
            # Some rules of torch count what they do not use.
            if not any(part in path.split("/") for path in ft.tree.paths(state)):
                continue
            ours: Any = ft.tree.get(state, part)
            for place, theirs in enumerate(torchs.part(part)):
                # What torch has not made, or counts nowhere, as with SGD.
                if theirs is None:
                    continue
                scale = max([scales.get((part, place), 0.0), *theirs.abs().flatten().tolist()])
                assert relative_difference(ours[place], theirs, scale) <= 1e-12, f"{part} of leaf {place}"
                scales[part, place] = scale
    if any(leaf.is_floating_point() for leaf in ft.tree.leaves(state)):
        assert scales


@pytest.mark.parametrize("name", CLASSES)
def test_every_keyword_of_torch_is_ours(name: str) -> None:
    """Same keywords in the same order, same defaults, without those that choose an implementation."""
    theirs = dict(inspect.signature(CLASSES[name].cls).parameters)
    ours = dict(inspect.signature(getattr(ft, name.lower())).parameters)
    kept = {key: one.default for key, one in theirs.items() if key not in {*IMPLEMENTATION, "params"}}
    assert {key: one.default for key, one in ours.items()} == kept
    positional = [key for key, one in ours.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert positional == [key for key in kept if theirs[key].kind is theirs[key].POSITIONAL_OR_KEYWORD]


def test_classes_are_discovered() -> None:
    """A class without a function here is an error, and so is an exception that torch does not have."""
    with pytest.raises(LookupError, match=r"torch\.optim\.Muon has no function here"):
        discovered([info for info in optim_db if info.optim_cls is torch.optim.Muon], set())
    with pytest.raises(LookupError, match=r"torch\.optim has no \['Adan'\]"):
        discovered(optim_db, ELSEWHERE | {"Adan"})
