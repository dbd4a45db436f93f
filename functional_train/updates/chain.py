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
from functional_train.values.params import Params
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


def named_chain(*links: tuple[str, GradientTransformation]) -> GradientTransformation:
    """Apply transformations one after another, like `chain`, with a state in which each has a name.

    Args:
        *links: Pairs of name and transformation, in order of application; no name twice.

    Returns:
        Transformation whose state is a `Params` of theirs, so that `ft.tree.get(opt_state, "adam/0/exp_avg")` finds
        them.

    Raises:
        StructureError: a link is no such pair, a name comes twice, or at the update: the state is another optimizer's.

    Source: Optax, `named_chain`.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.named_chain(("clip", ft.clip_by_global_norm(1.0)), ("adam", ft.adam(1e-3)))
        >>> opt_state = optimizer.init({"w": torch.ones(1)})
        >>> ft.tree.get(opt_state, "adam/0/exp_avg/w")
        tensor([0.])
    """
    for place, link in enumerate(links):
        if not (isinstance(link, tuple) and len(link) == 2 and isinstance(link[0], str)):
            raise StructureError(
                f"named_chain takes pairs of name and transformation, got {type(link).__name__} as argument {place}. "
                'Write named_chain(("clip", ft.clip_by_global_norm(1.0)), ("adam", ft.adam(1e-3))).'
            )
    names = [name for name, _ in links]
    if len(set(names)) != len(names):
        raise StructureError(f"named_chain needs another name for each link, got {names}.")
    chained = chain(*[transformation for _, transformation in links])
    written = on_columns(chained)
    assert written is not None

    def states(state: Tree) -> tuple[Tree, ...]:
        if not isinstance(state, Params) or list(state) != names:
            found = list(state) if isinstance(state, Params) else type(state).__name__
            raise StructureError(
                f"a chain of {names} needs the Params of their states, got {found}. "
                "The optimizer state was made by another optimizer: call optimizer.init(params)."
            )
        return tuple(state.values())

    def named(made: tuple[Flat, Tree]) -> tuple[Flat, Params]:
        return made[0], Params(dict(zip(names, made[1], strict=True)))

    def init(params: Tree) -> Params:
        return Params(dict(zip(names, chained.init(params), strict=True)))

    def update(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, Params]:
        return named(written.fn(g, states(state), p, **extra))

    def move(g: Flat, state: Tree, p: Flat, **extra: Any) -> tuple[Flat, Params]:
        return named(move_columns(chained, g, states(state), p, extra))

    return GradientTransformation(init, columnwise(update, move))


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
