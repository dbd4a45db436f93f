"""Transformations that shape gradients, watch parameters or hold them in a set."""

import functional_train as ft
from tests.references.rules import Reference, Settings, of_leaf

REFERENCES: dict[str, Reference] = {
    "ema_params": of_leaf(lambda g, p, memory: g),
    "swa_params": of_leaf(lambda g, p, memory: g),
    "zero_nans": of_leaf(lambda g, p, memory: g),
}

HYPERPARAMETERS: dict[str, Settings] = {
    "ema_params": (ft.ema_params, {"decay": 0.5}),
}
