"""One transformation after another."""

from collections.abc import Sequence
from typing import Any

from functional_train.updates.apply import move_columns
from functional_train.updates.transformation import (
    EmptyState,
    GradientTransformation,
    check_state,
    check_transformation,
    columnwise,
    init_empty,
    on_columns,
    update_columns,
)
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.types import Tree


def identity() -> GradientTransformation:
    """Leave gradients as they are; the neutral element of `chain`.

    Returns:
        Transformation with `EmptyState`.

    Source: Optax, `identity`.

    Example:
        >>> import functional_train as ft
        >>> ft.identity().update([1.0], ft.EmptyState(), None)
        ([1.0], EmptyState())
    """

    def update(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, Tree]:
        del p, extra
        check_state(state, EmptyState)
        return g, state

    return GradientTransformation(init_empty, columnwise(update, neutral=True))


def chain(*transformations: GradientTransformation) -> GradientTransformation:
    """Apply transformations one after another, the first to the gradients, each next to what came out.

    Args:
        *transformations: In order of application.

    Returns:
        Transformation whose state is the tuple of theirs.

    Raises:
        StructureError: an argument is not a transformation, or at the update: the state is another optimizer's.

    Source: Optax, `chain`.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.chain(ft.clip_by_global_norm(1.0), ft.sgd(0.5))
        >>> params = {"w": torch.zeros(2)}
        >>> updates, _ = optimizer.update({"w": torch.tensor([3.0, 4.0])}, optimizer.init(params), params)
        >>> updates
        {'w': tensor([-0.3000, -0.4000])}
    """
    for position, transformation in enumerate(transformations):
        check_transformation(transformation, f"chain, as argument {position},")

    last = max([place for place, one in enumerate(transformations) if not _is_neutral(one)], default=-1)

    def init(params: Tree) -> tuple[Tree, ...]:
        return tuple([transformation.init(params) for transformation in transformations])

    def update(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, tuple[Tree, ...]]:
        _check_states(state, len(transformations))
        g, states, _ = _through(transformations, g, state, p, extra)
        return g, states

    def move(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, tuple[Tree, ...]]:
        _check_states(state, len(transformations))
        g, before, p = _through(transformations[:last], g, state[:last], p, extra)
        assert p is not None
        new, own = move_columns(transformations[last], g, state[last], p, extra)
        # What follows hands gradients on as they are, and so would it parameters; it looks at its state.
        new, after, _ = _through(transformations[last + 1 :], new, state[last + 1 :], new, extra)
        return new, (*before, own, *after)

    return GradientTransformation(init, columnwise(update, move if last >= 0 else None, neutral=last < 0))


def _is_neutral(transformation: GradientTransformation) -> bool:
    written = on_columns(transformation)
    return written is not None and written.neutral


def _through(
    transformations: Sequence[GradientTransformation], g: Flat, states: Sequence[Tree], p: Flat | None, extra: Any
) -> tuple[Flat, tuple[Tree, ...], Flat | None]:
    made: list[Tree] = []
    for transformation, own in zip(transformations, states, strict=True):
        g, new, p = update_columns(transformation, g, own, p, extra)
        made.append(new)
    return g, tuple(made), p


def _check_states(state: Tree, expected: int) -> None:
    if not isinstance(state, tuple) or len(state) != expected:
        found = f"a tuple of {len(state)}" if type(state) is tuple else type(state).__name__
        raise StructureError(
            f"a chain of {expected} transformations needs a tuple of {expected} states, got {found}. "
            "The optimizer state was made by another optimizer: call optimizer.init(params)."
        )
