"""The schedulefree package, in float64."""

from collections.abc import Iterator

import schedulefree
import torch

from tests.oracles._torch import DRIVERS, Run, float32_is_float64
from tests.oracles._writing import Points, Spec, write


def make() -> None:
    """Write `figures/schedulefree.json`."""
    with float32_is_float64():
        write("schedulefree", run, beside=("torch",))


def run(spec: Spec, problem: str) -> Iterator[Points]:
    """Yield both points after each step."""
    return DRIVERS[spec.driver](Run(spec, problem, {**vars(schedulefree), "SGD": torch.optim.SGD}))
