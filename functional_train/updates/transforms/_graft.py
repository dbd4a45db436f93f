"""The direction of one transformation with the size of another."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.transformation import (
    GradientTransformation,
    check_state,
    check_transformation,
    columnwise,
    update_columns,
)
from functional_train.values.tree import Flat
from functional_train.values.types import Tree


class GraftState(NamedTuple):
    """The states of both transformations.

    Attributes:
        magnitude: That of the one whose size is taken.
        direction: That of the one whose direction is taken.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.graft(ft.identity(), ft.scale_by_adam()).init({"w": torch.ones(1)}).magnitude
        EmptyState()
    """

    magnitude: Tree
    direction: Tree


def graft(magnitude: GradientTransformation, direction: GradientTransformation) -> GradientTransformation:
    r"""Give each leaf of one transformation's updates the length that it has in another's.

    $$u = \frac{\lVert u_m \rVert}{\lVert u_d \rVert} u_d$$

    Args:
        magnitude: Gives the lengths.
        direction: Gives the directions.

    Returns:
        Transformation with `GraftState`. A leaf without direction is not moved.

    Raises:
        StructureError: an argument is not a transformation, or at the update: the state is another's.

    Source: Agarwal et al. 2020, arXiv:2002.11803, Algorithm 1.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.graft(ft.identity(), ft.scale_by_adam())
        >>> tx.update([torch.tensor([3.0, -4.0])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([ 3.5355, -3.5355])]
    """
    check_transformation(magnitude, "graft, as its first argument,")
    check_transformation(direction, "graft, as its second argument,")

    def init(params: Tree) -> GraftState:
        return GraftState(magnitude.init(params), direction.init(params))

    def update(g: Flat, state: GraftState, p: Flat | None, **extra: Any) -> tuple[Flat, GraftState]:
        check_state(state, GraftState)
        # Columns of their own, since each may spend what it is given.
        sizes, magnitude_state, _ = update_columns(magnitude, g.held(), state.magnitude, p, extra)
        ways, direction_state, at = update_columns(direction, g.held(), state.direction, p, extra)
        del at
        sizes, ways = (column if column.frame is g.frame else g.beside(column.tree())[0] for column in (sizes, ways))
        return ways.map(_resized, sizes), GraftState(magnitude_state, direction_state)

    return GradientTransformation(init, columnwise(update))


def _resized(way: Tensor, size: Tensor) -> Tensor:
    wide = torch.float64 if way.dtype in (torch.float64, torch.complex128) else torch.float32
    long, short = (torch.linalg.vector_norm(leaf, dtype=None).to(wide) for leaf in (size, way))
    ratio = torch.where(short == 0, 0.0, long / torch.where(short == 0, 1.0, short))
    return (way * ratio).to(way.dtype)
