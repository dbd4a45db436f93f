"""The schedulefree package, in float64."""

from collections.abc import Iterator

import schedulefree
import torch

from tests.oracles._torch import DRIVERS, Run, float32_is_float64
from tests.oracles._writing import Points, Spec, entry, write
from tests.oracles.problem import LEAVES

EVAL = "params is y (training), eval_params is x."
SGD = (
    "Weight k^r lr_max^power with k from 1; y <- lerp(y, z, c) + lr (momentum (1 - c) - 1) g, z <- z - lr g; weight decay of y joins g; "
    "warm-up factor is (k + 1) / warmup_steps from k = 0."
)
ADAMW = SGD + " g is divided by sqrt(v / (1 - beta2^k)) + eps before the weight decay joins; no bias correction of momentum."
RADAM = (
    "lr is lr times the rectification; where rho <= 4 it is 0 (silent_sgd_phase, parameters do not move and the weight is 0) or 1 (plain SGD); "
    "no warmup_steps; else as AdamW."
)


NO_SCALAR = ("vector", "matrix", "wide", "cube")


def _spec(name: str, call: str, rule: str, leaves: tuple[str, ...] = LEAVES) -> Spec:
    return Spec(name, call, rule, EVAL, leaves, driver="schedule_free")


SPECS = (
    _spec("sgd", "SGDScheduleFree(params, lr=0.1)", SGD),
    _spec("sgd_options", "SGDScheduleFree(params, lr=0.1, momentum=0.8, weight_decay=0.1, warmup_steps=8, r=1.0, weight_lr_power=1.0)", SGD),
    _spec("sgd_plain_average", "SGDScheduleFree(params, lr=0.1, momentum=0.5, weight_lr_power=0.0, warmup_steps=20)", SGD),
    _spec("adamw", "AdamWScheduleFree(params, lr=0.05)", ADAMW),
    _spec("adamw_options", "AdamWScheduleFree(params, lr=0.05, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1, warmup_steps=8, r=1.0, weight_lr_power=1.0)", ADAMW),
    _spec("adamw_warmup", "AdamWScheduleFree(params, lr=0.05, warmup_steps=20, weight_decay=0.05)", ADAMW),
    _spec("radam", "RAdamScheduleFree(params, lr=0.05)", RADAM),
    _spec("radam_options", "RAdamScheduleFree(params, lr=0.05, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1, r=1.0, weight_lr_power=1.0)", RADAM),
    _spec("radam_loud", "RAdamScheduleFree(params, lr=0.05, betas=(0.9, 0.99), silent_sgd_phase=False)", RADAM),
    _spec("wrapped_sgd", "ScheduleFreeWrapper(SGD(params, lr=0.05), momentum=0.9, weight_decay_at_y=0.1)", "Base optimizer steps z; weight decay at y first, with lr; weight lr_max^2.", NO_SCALAR),
)  # fmt: skip


def make() -> None:
    """Write `figures/schedulefree.json`."""
    with float32_is_float64():
        write("schedulefree", {spec.name: entry(spec, run) for spec in SPECS}, beside=("torch",))


def run(spec: Spec, problem: str) -> Iterator[Points]:
    """Yield both points after each step."""
    return DRIVERS[spec.driver](Run(spec, problem, {**vars(schedulefree), "SGD": torch.optim.SGD}))
