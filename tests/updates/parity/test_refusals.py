"""What torch.optim refuses of hyperparameters is refused here, where the optimizer is made."""

from typing import Any

import pytest
import torch
from torch.testing._internal.common_optimizers import ErrorOptimizerInput, OptimizerErrorEnum, OptimizerInfo

import functional_train as ft
from tests.global_rng import seeded
from tests.updates.parity.options import CLASSES, IMPLEMENTATION

# Implementations of torch cannot mix the two; here each number may be what it likes.
MIXED = "betas must be either both floats or both Tensors"


def error_inputs(info: OptimizerInfo) -> list[ErrorOptimizerInput]:
    with seeded():
        assert info.optim_error_inputs_func is not None
        return info.optim_error_inputs_func("cpu", torch.float64)


def concerns_a_range(error: ErrorOptimizerInput) -> bool:
    """Whether an error input is about hyperparameters, and not about parameters or implementations."""
    given = error.optimizer_error_input
    about_numbers = given.params is None and not IMPLEMENTATION & set(given.kwargs)
    return about_numbers and error.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR and error.error_regex != MIXED


REFUSED = [
    pytest.param(name, error.optimizer_error_input.kwargs, id=f"{name}-{error.optimizer_error_input.desc}")
    for name, one in CLASSES.items()
    for error in error_inputs(one.info)
    if concerns_a_range(error)
]
# Each is refused by torch too, or has no meaning.
MORE: list[tuple[str, dict[str, Any], str]] = [
    ("adadelta", {"rho": -0.1}, r"rho must be in \[0, 1\], got -0\.1\. 0\.9 is usual\."),
    ("adadelta", {"eps": -1e-6}, "eps must be a finite number >= 0, got -1e-06. 1e-6 is usual"),
    (
        "adagrad",
        {"initial_accumulator_value": -1.0},
        r"initial_accumulator_value must be .* >= 0, got -1\.0",
    ),
    ("adagrad", {"lr_decay": -0.5}, r"lr_decay must be a finite number >= 0, got -0\.5"),
    ("adagrad", {"eps": float("nan")}, "eps must be a finite number >= 0, got nan"),
    ("adamax", {"betas": (0.0, 1.0)}, r"betas\[1\] must be in \[0, 1\), got 1\.0"),
    ("adamax", {"eps": -1.0}, r"eps must be a finite number >= 0, got -1\.0. 1e-8 is usual"),
    ("asgd", {"lr": -1.0}, r"lr must be a finite number >= 0, got -1\.0\. To climb .* maximize=True"),
    ("asgd", {"lambd": -1.0}, r"lambd must be a finite number >= 0, got -1\.0\. 1e-4 is usual"),
    ("asgd", {"alpha": -1.0}, r"alpha must be a finite number >= 0, got -1\.0\. 0\.75 is usual"),
    ("asgd", {"t0": -1.0}, r"t0 must be a finite number >= 0, got -1\.0\. 1e6 is usual"),
    ("nadam", {"betas": (0.9,)}, r"betas must be a pair, got \(0\.9,\)"),
    ("nadam", {"momentum_decay": -0.2}, r"momentum_decay must be a finite number >= 0, got -0\.2\. 4e-3 is usual"),
    ("radam", {"betas": (1.0, 0.0)}, r"betas\[0\] must be in \[0, 1\), got 1\.0"),
    ("rmsprop", {"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1\.5\. 0\.99 is usual\."),
    ("rmsprop", {"momentum": -1.0}, r"momentum must be a finite number >= 0, got -1\.0"),
    ("rprop", {"etas": (1.0, 0.5)}, r"etas\[0\] must be in \[0, 1\), got 1\.0\. 0\.5 is usual"),
    ("rprop", {"etas": (0.0, 1.2)}, r"etas\[0\] must be a finite number > 0, got 0\.0\. 0\.5 is usual"),
    ("rprop", {"etas": (0.5, 1.0)}, r"etas\[1\] must be a finite number > 1, got 1\.0\. 1\.2 is usual"),
    ("rprop", {"etas": 0.5}, r"etas must be a pair, got 0\.5\. \(0\.5, 1\.2\) is usual"),
    ("rprop", {"step_sizes": (2.0, 1.0)}, r"step_sizes must be \(least, largest\), got \(2\.0, 1\.0\)"),
    ("rprop", {"step_sizes": (-1.0, 1.0)}, r"step_sizes\[0\] must be a finite number >= 0, got -1\.0"),
    ("rprop", {"lr": -1.0}, r"lr must be a finite number >= 0, got -1\.0\. To climb"),
]


@pytest.mark.parametrize(("name", "kwargs"), REFUSED)
def test_error_inputs_of_torch_are_refused(name: str, kwargs: dict[str, Any]) -> None:
    """Every error input of torch's tests that concerns the range of a number."""
    with pytest.raises(ft.HyperparameterError):
        getattr(ft, name.lower())(**kwargs)


def test_every_class_has_error_inputs() -> None:
    """Those about numbers are told from the others, and no class is without."""
    for name, one in CLASSES.items():
        errors = error_inputs(one.info)
        chosen = [error for error in errors if concerns_a_range(error)]
        assert len(chosen) >= 2, name
        assert len(chosen) < len(errors), name


@pytest.mark.parametrize(("name", "kwargs", "message"), MORE)
def test_messages_name_number_rule_and_remedy(name: str, kwargs: dict[str, Any], message: str) -> None:
    """What is refused is said with its value and its rule, as a number and as a schedule."""
    with pytest.raises(ft.HyperparameterError, match=message):
        getattr(ft, name)(**kwargs)


def test_states_of_others_are_refused() -> None:
    """A state made with other options, and an update without the parameters that it needs."""
    params = {"w": torch.ones(2)}
    centered = ft.scale_by_rmsprop(centered=True)
    with pytest.raises(ft.StructureError, match=r"made with centered=True was given.*init\(params\)"):
        ft.scale_by_rmsprop().update(params, centered.init(params), params)
    with pytest.raises(ft.StructureError, match="trees differ"):
        centered.update(params, ft.scale_by_rmsprop().init(params), params)
    with pytest.raises(ft.StructureError, match=r"ASGD looks at the parameters.*update\(grads, opt_state, params\)"):
        ft.scale_by_asgd().update(params, ft.scale_by_asgd().init(params), None)
    for name in ("adadelta", "adagrad", "adamax", "asgd", "nadam", "radam", "rmsprop", "rprop"):
        with pytest.raises(ft.StructureError, match=r"whose state is .*State was given a EmptyState"):
            getattr(ft, f"scale_by_{name}")().update(params, ft.EmptyState(), params)
