"""One transformation after another."""

from collections.abc import Mapping, Sequence
from typing import Any

from functional_train.updates.apply import move_columns
from functional_train.updates.transformation import (
    EmptyState,
    GradientTransformation,
    WatchFn,
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
        del p
        return g, watch(g, state, **extra)

    def watch(new: Flat, state: Tree, **extra: Any) -> Tree:
        del new, extra
        check_state(state, EmptyState)
        return state

    return GradientTransformation(init_empty, columnwise(update, watch=watch))


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

    watches = [_watch(one) for one in transformations]
    last = max([place for place, watch in enumerate(watches) if watch is None], default=-1)

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
        return new, (*before, own, *watched(new, state, extra))

    def watched(new: Flat, state: Tree, extra: Mapping[str, Any]) -> list[Tree]:
        """The states of the transformations behind the last that makes updates."""
        rest = zip(watches[last + 1 :], state[last + 1 :], strict=True)
        return [watch(new, own, **extra) for watch, own in rest if watch is not None]

    def watch(new: Flat, state: Tree, **extra: Any) -> tuple[Tree, ...]:
        _check_states(state, len(transformations))
        return tuple(watched(new, state, extra))

    return GradientTransformation(init, columnwise(update, move) if last >= 0 else columnwise(update, watch=watch))


def _watch(transformation: GradientTransformation) -> WatchFn | None:
    written = on_columns(transformation)
    return None if written is None else written.watch


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
