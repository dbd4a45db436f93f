"""Every mistake in `tests.mistakes` is explained, and a state goes to the optimizer that made it only."""

from collections.abc import Callable

import pytest
import torch

import functional_train as ft
from tests.mistakes import MISTAKES, Row, ones, params, updated

FAMILIES: dict[str, Callable[[], ft.GradientTransformation]] = {
    "sgd": lambda: ft.sgd(0.1),
    "decayed sgd": lambda: ft.sgd(0.1, weight_decay=0.1),
    "momentum": lambda: ft.sgd(0.1, momentum=0.9),
    "scheduled sgd": lambda: ft.sgd(ft.schedules.constant(0.1)),
    "adam": lambda: ft.adam(0.1),
    "amsgrad": lambda: ft.adam(0.1, amsgrad=True),
    "l2 adam": lambda: ft.adam(0.1, weight_decay=0.1),
    "adamw": lambda: ft.adamw(0.1),
    "scheduled adam": lambda: ft.adam(ft.schedules.constant(0.1)),
    "scheduled betas": lambda: ft.adam(betas=(ft.schedules.constant(0.9), 0.99)),
    "clipped adam": lambda: ft.chain(ft.clip_by_global_norm(1.0), ft.adam(0.1)),
    "lion": ft.lion,
    "decayed lion": lambda: ft.lion(weight_decay=0.1),
    "adan": ft.adan,
    "adopt": ft.adopt,
    "came": ft.came,
    "novograd": ft.novograd,
    "clip": lambda: ft.clip_by_global_norm(1.0),
    "scale_by_adam": ft.scale_by_adam,
    "add_momentum": ft.add_momentum,
    "identity": ft.identity,
}


@pytest.mark.parametrize("row", MISTAKES, ids=lambda row: row.name.replace(" ", "-"))
def test_a_mistake_is_explained(row: Row) -> None:
    """Each mistake raises the error of its kind, and the message says what is wrong, where, and what to do."""
    with pytest.raises(row.error, match=f"(?s){row.message}") as caught:
        row.make()
    assert caught.type is row.error


@pytest.mark.parametrize("own", FAMILIES)
@pytest.mark.parametrize("other", FAMILIES)
def test_a_state_of_another_optimizer_is_refused(own: str, other: str) -> None:
    """A state whose structure is not what the optimizer's own `init` makes is an error; where it is, the states are the
    same and so is the update."""
    optimizer, state = FAMILIES[own](), FAMILIES[other]().init(params)
    if ft.tree.same_structure(state, optimizer.init(params)):
        updated(params, optimizer, state)
        return
    with pytest.raises(ft.StructureError, match=r"another optimizer.*call optimizer\.init\(params\)"):
        updated(params, optimizer, state)
    with pytest.raises(ft.StructureError, match=r"another optimizer|trees differ"):
        optimizer.update(params, state, params)


@pytest.mark.parametrize("name", [name for name in FAMILIES if ft.tree.leaves(FAMILIES[name]().init(params))])
def test_a_state_for_other_parameters_is_refused(name: str) -> None:
    """A state made for a tree of other names or shapes is an error too."""
    optimizer = FAMILIES[name]()
    for others in ({"w": params["w"]}, {**params, "more": ones}, {"w": torch.ones(4, 2, 3), "layer": params["layer"]}):
        state = optimizer.init(others)
        if ft.tree.same_structure(state, optimizer.init(params)) and all(
            one.shape == other.shape
            for one, other in zip(ft.tree.leaves(state), ft.tree.leaves(optimizer.init(params)), strict=True)
        ):
            continue  # it remembers nothing about parameters
        with pytest.raises(ft.StructureError):
            updated(params, optimizer, state)
