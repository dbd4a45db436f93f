"""Parts of a state that are made anew only every so many updates."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from functional_train.values import tree
from functional_train.values._watching import is_readable
from functional_train.values.tree import Flat


def flags(g: Flat, due: Tensor) -> list[bool] | list[Tensor]:
    """One flag for each leaf of a column, of those for each leaf of its structure: bools where the host may look."""
    every = due.tolist() if is_readable(due) else list(due.unbind())
    return every if g.frame.ranks is None else [every[rank] for rank in g.frame.ranks]


def renewed(
    g: Flat, due: Tensor, make: Callable[..., tuple[Any, ...]], kept: tuple[Flat, ...], *given: Flat
) -> tuple[Flat, ...]:
    """Make columns anew at the leaves where that is due, and keep the others.

    Under `vmap` and in a trace nobody knows where it is due: everything is made, and then chosen from, with the same
    bits.

    Args:
        g: A column; `due` counts the leaves of its structure.
        due: (num_leaves,) bool.
        make: `(*kept, *given) -> new`, of the trees that stand at one leaf; `new` is like `kept`.
        kept: The columns that are made anew.
        *given: What else it takes to make them.

    Returns:
        Columns like `kept`.
    """

    def at_leaf(flag: bool | Tensor, *row: Any) -> tuple[Any, ...]:
        old = row[: len(kept)]
        if isinstance(flag, bool):
            return make(*row) if flag else old
        return tree.map(lambda new, before: torch.where(flag.to(new.device), new, before), make(*row), old)

    return Flat(flags(g, due), g.frame, g.plain).map(at_leaf, *kept, *given, outputs=len(kept))
