"""`GradientTransformation`, and what makes one of a function or of several."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from functional_train.values import tree
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.tree._structure import device_of
from functional_train.values.types import Tree


class InitFn(Protocol):
    """`params -> opt_state`."""

    def __call__(self, params: Tree, /) -> Tree: ...


class TransformFn(Protocol):
    """`(grads, opt_state, params, **extra) -> (updates, opt_state)`."""

    def __call__(self, grads: Tree, opt_state: Tree, params: Tree, /, **extra: Any) -> tuple[Tree, Tree]: ...


class GradientTransformation(NamedTuple):
    """Two pure functions that together are an optimizer, or a part of one.

    Attributes:
        init: `params -> opt_state`, a pytree of tensors.
        update: `(grads, opt_state, params, **extra) -> (updates, opt_state)`. Updates are added to the parameters.
            Extra arguments that a transformation does not use it ignores; `make_step` passes `value=` (the loss),
            `grad_and_value_fn=` (params -> (grads, value)) and, when the state owns one, `key=`.

    Source: the pair of functions of Optax (DeepMind 2020).

    Example:
        >>> import functional_train as ft, torch
        >>> negate = ft.GradientTransformation(
        ...     init=lambda params: (), update=lambda grads, state, params, **extra: (ft.tree.scale(-1, grads), state)
        ... )
        >>> negate.update({"w": torch.ones(1)}, negate.init(None), None)
        ({'w': tensor([-1.])}, ())
    """

    init: InitFn
    update: TransformFn


class EmptyState(NamedTuple):
    """The state of a transformation that remembers nothing.

    Example:
        >>> import functional_train as ft
        >>> ft.tree.leaves(ft.EmptyState())
        []
    """


class ColumnsFn(Protocol):
    """`(g, opt_state, p, **extra) -> (updates, opt_state)` over columns of gradients and parameters."""

    def __call__(self, g: Flat, opt_state: Any, p: Flat | None, /, **extra: Any) -> tuple[Flat, Any]: ...


class MoveFn(Protocol):
    """`(g, opt_state, p, **extra) -> (new p, opt_state)` over columns, or None where it does not apply."""

    def __call__(self, g: Flat, opt_state: Any, p: Flat, /, **extra: Any) -> tuple[Flat, Any] | None: ...


class WatchFn(Protocol):
    """`(new p, opt_state, **extra) -> opt_state`, of a transformation that hands gradients on as they are."""

    def __call__(self, new: Flat, opt_state: Any, /, **extra: Any) -> Any: ...


class OnColumns(NamedTuple):
    """What an update function is written over columns as."""

    owner: TransformFn
    fn: ColumnsFn
    move: MoveFn | None
    watch: WatchFn | None


def columnwise(fn: ColumnsFn, move: MoveFn | None = None, *, watch: WatchFn | None = None) -> TransformFn:
    """Make an update function of one that is written over columns of leaves.

    Leaves whose gradient is `None` are in no column. `chain` and `make_update` hand columns from one such function to
    the next, so that trees are taken apart and put together once a step. A column that is handed over has no other
    user: `spend` it. `move` is for kernels that make new parameters without making updates first. `watch` says that
    gradients pass through as they are, and what becomes of the state when new parameters are there already.
    """

    def update(grads: Tree, state: Tree, params: Tree, **extra: Any) -> tuple[Tree, Tree]:
        if params is None:
            (g,), p = tree.flat(grads), None
        else:
            p, g = tree.flat(params, grads)
        updates, state = fn(g, state, p, **extra)
        return updates.tree(), state

    # With its owner: functools.wraps would hand the attribute on to a wrapper, which must not be passed by.
    update.on_columns = OnColumns(update, fn, move, watch)  # pyright: ignore[reportFunctionMemberAccess]
    return update


def watching(watch: WatchFn, taker: str) -> TransformFn:
    """Make the update function of a transformation that only looks at the parameters which updates lead to."""

    def update(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, Tree]:
        return g, watch(tree.add(check_params(p, taker), g), state, **extra)

    return columnwise(update, watch=watch)


def on_columns(transformation: GradientTransformation) -> OnColumns | None:
    """What the update function is over columns, or None when it is written over trees."""
    found: OnColumns | None = getattr(transformation.update, "on_columns", None)
    return found if found is not None and found.owner is transformation.update else None


def update_columns(
    transformation: GradientTransformation, g: Flat, state: Tree, p: Flat | None, extra: Mapping[str, Any]
) -> tuple[Flat, Tree, Flat | None]:
    """One update over columns, of any transformation; one that is written over trees is given trees."""
    written = on_columns(transformation)
    if written is not None:
        updates, state = written.fn(g, state, p, **extra)
        # A transformation inside it that is written over trees laid its updates down anew.
        if p is not None and updates.frame is not p.frame:
            (p,) = updates.beside(p.tree())
        return updates, state, p
    params = None if p is None else p.tree()
    updates, state = transformation.update(g.tree(), state, params, **extra)
    if params is None:
        return tree.flat(updates)[0], state, None
    p, g = tree.flat(params, updates)
    return g, state, p


def with_move(transformation: GradientTransformation, move: MoveFn) -> GradientTransformation:
    """The same transformation, with a way straight to new parameters."""
    written = on_columns(transformation)
    assert written is not None
    return GradientTransformation(transformation.init, columnwise(written.fn, move))


def stateless(fn: Callable[[Tree, Tree], Tree]) -> GradientTransformation:
    """Make a transformation of a function that remembers nothing.

    Args:
        fn: `(grads, params) -> updates`.

    Returns:
        Transformation with `EmptyState`.

    Raises:
        StructureError: at the update: the state is another transformation's.

    Source: Optax, `stateless`.

    Example:
        >>> import functional_train as ft, torch
        >>> sign = ft.stateless(lambda grads, params: ft.tree.map(torch.sign, grads))
        >>> sign.update([torch.tensor(-3.0)], sign.init(None), None)[0]
        [tensor(-1.)]
    """

    def update(grads: Tree, state: Tree, params: Tree, **extra: Any) -> tuple[Tree, Tree]:
        del extra
        check_state(state, EmptyState)
        return fn(grads, params), state

    return GradientTransformation(init_empty, update)


def stateless_columns(fn: Callable[[Flat, Flat | None], Flat]) -> GradientTransformation:
    """`stateless` for a function over columns."""

    def update(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, Tree]:
        del extra
        check_state(state, EmptyState)
        return fn(g, p), state

    return GradientTransformation(init_empty, columnwise(update))


def init_empty(params: Tree) -> EmptyState:
    """The `init` of what remembers nothing."""
    del params
    return EmptyState()


def zero_step(params: Tree) -> Tensor:
    """A count of no updates yet: shape `()`, int64."""
    return torch.zeros((), dtype=torch.int64, device=device_of(params))


def zero_step_per_leaf(params: Tree) -> Tensor:
    """A count of no updates yet for each leaf: shape `(num_leaves,)`, int64."""
    return torch.zeros(len(tree.leaves(params)), dtype=torch.int64, device=device_of(params))


def check_state(state: Tree, kind: type) -> None:
    """Refuse the state of another transformation."""
    if type(state) is not kind:
        raise StructureError(
            f"a transformation whose state is {kind.__name__} was given a {type(state).__name__}. "
            "The optimizer state was made by another optimizer: call optimizer.init(params)."
        )


def check_params(params: Flat | None, taker: str) -> Flat:
    """Refuse an update that was given no parameters, of a transformation that looks at them."""
    if params is None:
        raise StructureError(
            f"{taker} looks at the parameters, but its update was given None. Call update(grads, opt_state, params)."
        )
    return params


def check_transformation(optimizer: Any, taker: str) -> None:
    """Refuse what is no transformation: a factory that was not called, an optimizer of torch."""
    if isinstance(optimizer, list):
        raise StructureError(f"{taker} takes a GradientTransformation, got a list. Unpack it: ft.chain(*links).")
    if not isinstance(optimizer, GradientTransformation):
        raise StructureError(
            f"{taker} takes a GradientTransformation, got a {type(optimizer).__name__}. Call the factory, "
            "ft.adam(1e-3) and "
            "not ft.adam; of torch's optimizers use the functions of their names, ft.adamw for torch.optim.AdamW."
        )
