"""Updates that may not happen, decided where the tensors are: the host waits for no device.

Where the host knows the condition, what is not chosen is not computed; the bits are the same either way.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from functional_train.updates.apply import move_columns
from functional_train.updates.transformation import GradientTransformation, update_columns
from functional_train.values import tree
from functional_train.values._watching import known
from functional_train.values.tree import Flat
from functional_train.values.types import Tree

# Added to a number it leaves every bit as it is; 0.0 would turn -0.0 around.
NOTHING = -0.0


def update_where(
    condition: Tensor, tx: GradientTransformation, g: Flat, state: Tree, p: Flat | None, extra: Mapping[str, Any]
) -> tuple[Flat, Tree]:
    """An update where the 0-d condition is true; elsewhere updates of nothing, and the state as it was."""
    return choose_update(condition, tx, g, state, p, extra, NOTHING)


def choose_update(
    condition: Tensor,
    tx: GradientTransformation,
    g: Flat,
    state: Tree,
    p: Flat | None,
    extra: Mapping[str, Any],
    otherwise: Flat | float,
) -> tuple[Flat, Tree]:
    """An update where the 0-d condition is true; elsewhere a number or a column beside g, and the state as it was."""
    apply = known(condition)
    if apply is False:
        return otherwise if isinstance(otherwise, Flat) else tree.where(condition, g, otherwise), state
    updates, new, _ = update_columns(tx, g, state, p, extra)
    if apply:
        return updates, new
    if isinstance(otherwise, Flat):
        otherwise = beside(updates, otherwise)
    return tree.where(condition, updates, otherwise), tree.where(condition, new, state)


def move_where(
    condition: Tensor, tx: GradientTransformation, g: Flat, state: Tree, p: Flat, extra: Mapping[str, Any]
) -> tuple[Flat, Tree]:
    """New parameters where the 0-d condition is true; elsewhere the old ones, and the state as it was."""
    apply = known(condition)
    if apply is False:
        return p, state
    moved, new = move_columns(tx, g, state, p, extra)
    if apply:
        return moved, new
    return tree.where(condition, moved, beside(moved, p)), tree.where(condition, new, state)


def beside(column: Flat, other: Flat) -> Flat:
    """The other column, on the frame of the first."""
    return other if other.frame is column.frame else column.beside(other.tree())[0]
