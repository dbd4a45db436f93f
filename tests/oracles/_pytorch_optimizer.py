"""The pytorch_optimizer package, in float64."""

from collections.abc import Iterator
from unittest import mock

import pytorch_optimizer
import torch
from pytorch_optimizer.optimizer.grokfast import gradfilter_ema, gradfilter_ma
from pytorch_optimizer.optimizer.utils import matrix

from tests.oracles._torch import DRIVERS, Run, float32_is_float64
from tests.oracles._writing import Points, Spec, write

NAMES = {
    **vars(pytorch_optimizer),
    "gradfilter_ema": gradfilter_ema,
    "gradfilter_ma": gradfilter_ma,
    "SGD": torch.optim.SGD,
}


def make() -> None:
    """Write `figures/pytorch_optimizer.json`."""
    with float32_is_float64():
        write("pytorch_optimizer", run, beside=("torch",))


def run(spec: Spec, problem: str) -> Iterator[Points]:
    """Yield the parameters after each step."""
    newton_schulz = matrix.zero_power_via_newton_schulz_5
    *others, dtype = newton_schulz.__defaults__
    assert dtype is torch.bfloat16
    precise = dtype if spec.name.endswith("_bfloat16") else torch.float64
    with mock.patch.object(newton_schulz, "__defaults__", (*others, precise)):
        yield from DRIVERS[spec.driver](Run(spec, problem, NAMES))
