"""Schedules to hold the laws to, and the plateau."""

from typing import Any

import functional_train as ft
from tests.references.rules import Reference, Settings, of_leaf

# Phases of at least two steps, so that neighbors can show a jump.
SCHEDULE_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "add": (0.1, ft.schedules.cosine(1.0, 40)),
    "clip": (ft.schedules.cosine(1.0, 40), 0.2, 0.8),
    "constant": (0.1,),
    "cosine": (1.0, 40),
    "cosine_annealing": (1.0, 20),
    "cyclic": (0.1, 1.0, 8, 12, "triangular2"),
    "exponential": (1.0, 0.9, 5),
    "inverse_sqrt": (1.0, 8),
    "join": ((ft.schedules.linear(0.0, 1.0, 8), ft.schedules.cosine(1.0, 20), 0.0), (8, 28)),
    "linear": (1.0, 0.1, 30),
    "mul": (0.1, ft.schedules.cosine(1.0, 40), ft.schedules.linear(0.1, 1.0, 8)),
    "multiplicative": (1.0, ft.schedules.linear(1.0, 0.9, 20), 40),
    "one_cycle": (1.0, 40),
    "piecewise_constant": (1.0, (4, 30)),
    "piecewise_interpolate": (1.0, (10, 30), (2.0, 0.1), "cosine"),
    "polynomial": (1.0, 0.1, 30, 2.0),
    "repeat": (ft.schedules.cosine(1.0, 8), 8),
    "rex": (1.0, 40),
    "shift": (ft.schedules.linear(1.0, 0.1, 30), 5),
    "warm_restarts": (1.0, 4, 2),
    "warmup": (ft.schedules.exponential(1.0, 0.9), 8),
    "warmup_cosine": (1.0, 8, 40),
    "warmup_stable_decay": (1.0, 8, 10, 40),
}

_JUMPS = "the jumps are what it is for"
EXEMPT: dict[tuple[str, str], str] = {
    ("piecewise_constant", "has_no_jumps"): _JUMPS,
    ("repeat", "has_no_jumps"): _JUMPS,
    ("warm_restarts", "has_no_jumps"): _JUMPS,
}

REFERENCES: dict[str, Reference] = {
    # As long as it is patient; tests/updates/test_plateau.py has the rest.
    "reduce_on_plateau": of_leaf(lambda g, p, memory: g),
}

HYPERPARAMETERS: dict[str, Settings] = {
    "reduce_on_plateau": (
        ft.reduce_on_plateau,
        {"factor": 0.5, "patience": 0, "threshold": 0.1, "min_scale": 0.05, "eps": 1e-3},
    ),
}
