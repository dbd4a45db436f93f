"""A run that switches to values, and back, at any step has the bits of one that never does."""

import pytest
import torch

import functional_train as ft
from tests.interop.cases import CLASSES, RUNS, SCHEDULERS
from tests.interop.live import assert_same_bits, contents, fold, loop, start, switch

NUM_STEPS, AT, BACK_AT = 100, 50, 75

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # made by torch


def test_all_classes_are_tried() -> None:
    """The table has every optimizer, and every scheduler that needs no loss, of torch."""
    members = {name for name, value in vars(torch.optim).items() if isinstance(value, type)}
    assert set(CLASSES) == members - {"Optimizer"}
    module = torch.optim.lr_scheduler
    schedulers = {
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, module.LRScheduler) and not name.startswith("_")
    }
    tried = {name.split("-")[0] for name in SCHEDULERS}
    assert schedulers - {"LRScheduler", "ReduceLROnPlateau"} == tried - {"SWALR", "Zigzag"}


@pytest.mark.parametrize("name", RUNS)
def test_there_and_back(name: str) -> None:
    """Fifty steps of the loop, then of the fold, there to the end or back at 75, are a hundred of the loop."""
    case = RUNS[name]
    live = start(case)
    loop(case, live, range(AT))
    run = switch(case, live)
    loop(case, live, range(AT, NUM_STEPS))
    expected = contents(live)

    half = fold(run, range(AT, BACK_AT))
    there = start(case)
    ft.to_torch(fold(run._replace(state=half), range(BACK_AT, NUM_STEPS)), *there)
    assert_same_bits(contents(there), expected)

    back = start(case)
    ft.to_torch(half, *back)
    loop(case, back, range(BACK_AT, NUM_STEPS))
    assert_same_bits(contents(back), expected)


@pytest.mark.parametrize("name", CLASSES)
def test_back_in_the_same_objects(name: str) -> None:
    """Every class goes on in the very objects that were left, whose own memory is of before the switch."""
    case = CLASSES[name]
    live, other = start(case), start(case)
    loop(case, live, range(6))
    ft.to_torch(fold(switch(case, live), range(6, 10)), *live)
    loop(case, live, range(10, 14))
    loop(case, other, range(14))
    assert_same_bits(contents(live), contents(other))
