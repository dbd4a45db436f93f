"""Measurements of what passes through a chain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from functional_train.updates.transformation import GradientTransformation, check_state, columnwise
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._structure import check_same_structure
from functional_train.values.types import Tree


class MonitorState(NamedTuple):
    """What was measured at the last update.

    Attributes:
        measured: Tree of tensors, as the function returned it; zeros before the first update.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.monitor(lambda updates, params: {"size": ft.tree.global_norm(updates)}).init([torch.ones(1)]).measured
        {'size': tensor(0.)}
    """

    measured: Tree


def monitor(measure_fn: Callable[[Tree, Tree], Tree]) -> GradientTransformation:
    """Measure what passes through a place of a chain, and change nothing.

    The numbers are in the state, where `ft.tree.get(opt_state, "measured")` finds them after each step; nothing waits
    for the device.

    Args:
        measure_fn: `(updates, params) -> tree of tensors`, the same tree each time: gradients at the head of a chain,
            steps at its end, with `None` where there is no gradient.

    Returns:
        Transformation with `MonitorState`.

    Raises:
        StructureError: at the update: the measurements are another tree than at init, or the state is another
            transformation's.

    Source: Optax, `monitor` and `snapshot`.

    Example:
        >>> import functional_train as ft, torch
        >>> sizes = ft.monitor(lambda updates, params: {"size": ft.tree.global_norm(updates)})
        >>> optimizer = ft.chain(sizes, ft.sgd(0.1))
        >>> params = {"w": torch.zeros(2)}
        >>> _, state = ft.make_update(optimizer)({"w": torch.tensor([3.0, 4.0])}, optimizer.init(params), params)
        >>> ft.tree.get(state, "measured")
        {'size': tensor(5.)}
    """

    def init(params: Tree) -> MonitorState:
        return MonitorState(tree.map(torch.zeros_like, measure_fn(tree.zeros_like(params), params)))

    def update(g: Flat, state: MonitorState, p: Flat | None, **extra: Any) -> tuple[Flat, MonitorState]:
        del extra
        check_state(state, MonitorState)
        measured = measure_fn(g.tree(), None if p is None else p.tree())
        names = ("what was measured at init", "what is measured now")
        check_same_structure(state.measured, measured, names, "A state keeps its structure from update to update.")
        return g, MonitorState(measured)

    return GradientTransformation(init, columnwise(update))
