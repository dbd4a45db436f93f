"""Parameters held in a set."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from functional_train.updates.transformation import (
    EmptyState,
    GradientTransformation,
    check_params,
    check_state,
    columnwise,
    init_empty,
    stateless_columns,
)
from functional_train.values import tree
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.types import Tree


def project(projection_fn: Callable[[Tree], Tree]) -> GradientTransformation:
    r"""Let updates end in a set: $u' = P(\theta + u) - \theta$.

    Place it last in a chain, behind the learning rate.

    Args:
        projection_fn: From a tree to the nearest point of the set, a tree like it: one of `ft.projections`, or any
            other. It is given the parameters that have a gradient, `None` for the others.

    Returns:
        Transformation with `EmptyState`. With `make_update` and `make_step` the new parameters are the projection's
        own; what `update` returns leads there up to rounding.

    Raises:
        StructureError: at the update: params are missing, the projection is no tree like params, or the state is
            another transformation's.

    Source: Bertsekas 1976, "On the Goldstein-Levitin-Polyak gradient projection method".

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.chain(ft.sgd(1.0), ft.project(ft.projections.non_negative))
        >>> params = {"w": torch.tensor([1.0, 1.0])}
        >>> ft.make_update(optimizer)({"w": torch.tensor([0.5, 3.0])}, optimizer.init(params), params)[0]
        {'w': tensor([0.5000, 0.0000])}
    """

    def projected(g: Flat, state: Tree, p: Flat | None) -> tuple[Flat, Flat]:
        check_state(state, EmptyState)
        p = check_params(p, "project")
        # What p came from may hold leaves that have no gradient.
        there = Flat(p.leaves, p.frame, p.plain)
        (new,) = there.beside(projection_fn(tree.add(there, g).tree()))
        return new.map(_like, there), there

    def update(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, Tree]:
        del extra
        new, p = projected(g, state, p)
        return tree.sub(new, p), state

    def move(g: Flat, state: Tree, p: Flat, **extra: Any) -> tuple[Flat, Tree]:
        del extra
        return projected(g, state, p)[0], state

    return GradientTransformation(init_empty, columnwise(update, move))


def _like(new: Tensor, param: Tensor) -> Tensor:
    if new.shape != param.shape:
        raise StructureError(
            f"a projection returned shape {tuple(new.shape)} for a parameter of {tuple(param.shape)}. It must return "
            "the nearest point, a tree like the one it is given."
        )
    return new.to(param.dtype)


def keep_params_nonnegative() -> GradientTransformation:
    r"""Let no parameter become negative: $u' = \max(u, -\theta)$.

    Place it last in a chain, behind the learning rate.

    Returns:
        Transformation with `EmptyState`. A parameter that is negative becomes 0.

    Source: Optax, `keep_params_nonnegative`; Bertsekas 1976, "On the Goldstein-Levitin-Polyak gradient projection
        method".

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.chain(ft.sgd(1.0), ft.keep_params_nonnegative())
        >>> params = {"w": torch.tensor([1.0, 1.0])}
        >>> ft.make_update(optimizer)({"w": torch.tensor([0.5, 3.0])}, optimizer.init(params), params)[0]
        {'w': tensor([0.5000, 0.0000])}
    """

    def stop(g: Flat, p: Flat | None) -> Flat:
        return tree.maximum(g, tree.scale(-1, check_params(p, "keep_params_nonnegative")))

    return stateless_columns(stop)
