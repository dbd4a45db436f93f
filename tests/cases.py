"""Every transformation and schedule that the library promises, what each must equal, and the laws it need not keep."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
from torch import Tensor

import functional_train as ft
from functional_train.testing import LAWS
from tests import references
from tests.references.rules import Reference, Settings

Factory = Callable[..., Any]


def _factories() -> dict[str, Factory]:
    public = {name: getattr(ft, name) for name in ft.__all__}
    return {
        name: value
        for name, value in public.items()
        if inspect.isfunction(value) and inspect.signature(value).return_annotation is ft.GradientTransformation
    }


def _required(factory: Factory) -> list[inspect.Parameter]:
    return [each for each in inspect.signature(factory).parameters.values() if each.default is each.empty]


def _is_optimizer(factory: Factory) -> bool:
    return ".optimizers." in factory.__module__ and "lr" in inspect.signature(factory).parameters


def _wraps(factory: Factory) -> bool:
    needed = _required(factory)
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return len(needed) == 1 and needed[0].annotation is ft.GradientTransformation and needed[0].kind is named


OPTIMIZERS = {name: made for name, made in _factories().items() if not _required(made) and _is_optimizer(made)}
TRANSFORMS = {name: made for name, made in _factories().items() if not _required(made) and name not in OPTIMIZERS}
# From one transformation to another; tested around two.
WRAPPERS = {
    f"{name}({inner})": partial(wrap, OPTIMIZERS[inner]())
    for name, wrap in _factories().items()
    for inner in ("sgd", "adam")
    if _wraps(wrap)
}
SCHEDULES = {name: getattr(ft.schedules, name) for name in ft.schedules.__all__}


REFERENCES: dict[str, Reference] = {}
HYPERPARAMETERS: dict[str, Settings] = {}
SCHEDULE_ARGUMENTS: dict[str, tuple[Any, ...]] = {}
# A law that a case need not keep, and why. An exemption that is no longer needed fails.
EXEMPT: dict[tuple[str, str], str] = {}
# Factories that are put before the laws in place of those of the same name.
STAND_INS: dict[str, Factory] = {}
# Optimizers that draw numbers, and so train only a state that owns a key.
DRAWS: set[str] = set()
# Of gradients for which alone a rule says what comes out; for others it is a matter of rounding.
WELL_POSED: dict[str, Callable[[Tensor], bool]] = {}
for found in pkgutil.iter_modules(references.__path__):
    tables = vars(importlib.import_module(f"{references.__name__}.{found.name}"))
    REFERENCES |= tables.get("REFERENCES", {})
    HYPERPARAMETERS |= tables.get("HYPERPARAMETERS", {})
    SCHEDULE_ARGUMENTS |= tables.get("SCHEDULE_ARGUMENTS", {})
    EXEMPT |= tables.get("EXEMPT", {})
    STAND_INS |= tables.get("STAND_INS", {})
    DRAWS |= tables.get("DRAWS", set())
    WELL_POSED |= tables.get("WELL_POSED", {})


def with_laws(kind: str, cases: Iterable[str]) -> list[Any]:
    """Each case with each law of its kind, as parameters of a test; an exempted one must fail."""
    return [
        pytest.param(case, law, id=f"{case}-{law.__name__}", marks=_marks(case, law.__name__))
        for case in cases
        for law in LAWS[kind]
    ]


def _marks(case: str, law: str) -> list[pytest.MarkDecorator]:
    if (case, law) not in EXEMPT:
        return []
    reason = f"{case} need not keep {law}: {EXEMPT[case, law]}"
    return [pytest.mark.xfail(raises=AssertionError, strict=True, reason=reason)]


def _numbers(factory: Factory) -> set[str]:
    """The hyperparameters whose default is a number, or a tuple of numbers."""
    return {
        name
        for name, each in inspect.signature(factory).parameters.items()
        if isinstance(each.default, float) or (isinstance(each.default, tuple) and isinstance(each.default[0], float))
    }


def _settings() -> set[str]:
    """The numbers of factories that some row of settings tries; a row may have any name."""
    return {f"{factory.__name__}.{name}" for factory, options in HYPERPARAMETERS.values() for name in options}


def _all_numbers() -> set[str]:
    return {f"{name}.{one}" for name, made in {**OPTIMIZERS, **TRANSFORMS}.items() for one in _numbers(made)}


def check_tables() -> None:
    """Every case has its row in every table, and no table has a row too many."""
    laws = {law.__name__ for kind in LAWS.values() for law in kind}
    exempt = {name for name, _ in EXEMPT}
    for table, rows, expected in (
        ("REFERENCES", set(REFERENCES), {*OPTIMIZERS, *TRANSFORMS}),
        ("HYPERPARAMETERS", _settings() & _all_numbers(), _all_numbers()),
        ("SCHEDULE_ARGUMENTS", set(SCHEDULE_ARGUMENTS), set(SCHEDULES)),
        ("WELL_POSED", set(WELL_POSED), set(WELL_POSED) & set(REFERENCES)),
        ("EXEMPT", exempt, exempt & {*OPTIMIZERS, *TRANSFORMS, *WRAPPERS, *SCHEDULES}),
        ("EXEMPT", {law for _, law in EXEMPT}, {law for _, law in EXEMPT} & laws),
    ):
        missing, spare = sorted(expected - rows), sorted(rows - expected)
        if missing or spare:
            raise LookupError(f"tests/cases.py, {table}: no row for {missing}, and rows for nothing: {spare}")


check_tables()
