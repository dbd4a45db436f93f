"""Updates applied to parameters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from functional_train.updates.checks import Number
from functional_train.updates.transformation import (
    GradientTransformation,
    check_transformation,
    on_columns,
    update_columns,
)
from functional_train.values import tree
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.tree._alike import any_low, are_alike
from functional_train.values.tree._structure import check_same_structure, difference
from functional_train.values.types import Tree, UpdateFn


def apply_updates(params: Tree, updates: Tree) -> Tree:
    """Add updates to parameters.

    Args:
        params: A tree of tensors.
        updates: A tree of the same structure; `None` leaves the parameter as it is.

    Returns:
        New parameters, in the dtypes of the old ones.

    Raises:
        StructureError: the structures differ; the message names where.

    Source: Optax, `apply_updates`.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.apply_updates({"w": torch.ones(1), "n": torch.tensor(3)}, {"w": torch.ones(1), "n": None})
        {'w': tensor([2.]), 'n': tensor(3)}
    """
    p, u = tree.flat(params, updates)
    return added(p, u).tree(absent=params)


def make_update(optimizer: GradientTransformation) -> UpdateFn:
    """Make the function that takes parameters one update further.

    Args:
        optimizer: Any transformation.

    Returns:
        `(grads, opt_state, params, **extra) -> (params, opt_state)`.

    Raises:
        StructureError: when called: the gradients do not have the structure and shapes of the parameters (`None` may
            stand for a leaf), or the state is another optimizer's.

    Source: `optax.apply_updates` after `update`, as one arrow.

    Differs: where torch has a kernel for an optimizer, it takes the parameters themselves one step on, and rounds as
        `torch.optim` with `fused=True` does; `apply_updates` after `update` may differ in the last bit.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.sgd(0.1)
        >>> update_fn = ft.make_update(optimizer)
        >>> params = {"w": torch.ones(1)}
        >>> update_fn({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([0.9000])}
    """
    check_transformation(optimizer, "make_update")

    def update_fn(grads: Tree, opt_state: Tree, params: Tree, **extra: Any) -> tuple[Tree, Tree]:
        p, g = _side_by_side(params, grads)
        try:
            p, new_state = move_columns(optimizer, g, opt_state, p, extra)
            return p.tree(absent=params), new_state
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            _check_state(optimizer, opt_state, params, error)
            _check_dense(g, error)
            raise

    return update_fn


def move_columns(
    transformation: GradientTransformation, g: Flat, state: Tree, p: Flat, extra: Mapping[str, Any]
) -> tuple[Flat, Tree]:
    """One update over columns, applied: new parameters, by way of updates unless the transformation has a kernel."""
    written = on_columns(transformation)
    if written is not None and written.move is not None:
        moved = written.move(g, state, p, **extra)
        if moved is not None:
            return moved
    updates, state, at = update_columns(transformation, g, state, p, extra)
    assert at is not None
    return added(at, updates), state


def added(p: Flat, u: Flat, keep: Number = 1, share: Number = 1) -> Flat:
    """Compute `keep * p + share * u`, in the place of the updates where they are fresh."""
    alike = are_alike(p, u)
    if not alike:
        _check_shapes(p, u)
    if any_low(u):
        # Of 16 bits each rounding is felt, and the sum rounds once.
        return tree.add(p if _is_one(keep) else tree.scale(keep, p).spend(), u, alpha=share)
    if not _is_one(share):
        u = tree.scale(share, u.spend())
    # Addition commutes, so the sum may take the place of fresh updates that lie in memory as the parameters do.
    if alike:
        return tree.add(u.spend(), p, alpha=keep)
    return tree.add(p if _is_one(keep) else tree.scale(keep, p), u)


def _is_one(value: Number) -> bool:
    return not isinstance(value, Tensor) and value == 1


def _check_shapes(p: Flat, u: Flat) -> None:
    for position, (x, y) in enumerate(zip(p.leaves, u.leaves, strict=True)):
        if x.shape != y.shape:
            raise StructureError(
                f"the updates have shape {tuple(y.shape)} at {u.paths()[position]!r}, the parameter {tuple(x.shape)}. "
                "A transformation must keep the shapes of the gradients."
            )


def _side_by_side(params: Tree, grads: Tree) -> tuple[Flat, Flat]:
    try:
        p, g = tree.flat(params, grads)
    except StructureError:
        check_same_structure(
            grads, params, ("grads", "params"), "Take gradients with respect to the tree that is updated, whole."
        )
        raise
    if are_alike(p, g):
        return p, g
    rows = list(zip(p.leaves, g.leaves, strict=True))
    for x, y in rows:
        if x.shape != y.shape or x.dtype is not y.dtype or not _lies_like(x, y):
            break
    else:
        return p, g
    for position, (x, y) in enumerate(rows):
        if x.shape != y.shape:
            raise StructureError(
                f"grads and params differ in shape at {g.paths()[position]!r}: the gradient has "
                f"{tuple(y.shape)}, the parameter {tuple(x.shape)}. A gradient has the shape of its parameter; was it "
                "reduced or batched on the way?"
            )
    converted = [y.to(x.dtype) if _lies_like(x, y) else y.to(x.dtype).contiguous() for x, y in rows]
    return p, Flat(converted, g.frame, g.plain)


def _lies_like(param: Tensor, gradient: Tensor) -> bool:
    """Whether what is computed from the gradient will be contiguous where the parameter is; a sparse one stays."""
    return gradient.layout is not param.layout or gradient.is_contiguous() or not param.is_contiguous()


def _check_dense(g: Flat, error: Exception) -> None:
    for position, leaf in enumerate(g.leaves):
        if leaf.layout is not torch.strided:
            raise StructureError(
                f"the gradient at {g.paths()[position]!r} is {leaf.layout}, which this optimizer cannot compute with. "
                "Give that leaf ft.sparse_adam or ft.sgd, with ft.partition, or make the gradient dense: to_dense()."
            ) from error


def _check_state(optimizer: GradientTransformation, opt_state: Tree, params: Tree, error: Exception) -> None:
    expected = optimizer.init(params)
    names = ("the optimizer state", "what this optimizer's init makes")
    hint = "It was made by another optimizer, or for other parameters: call optimizer.init(params)."
    if not tree.same_structure(opt_state, expected):
        raise StructureError(
            f"{names[0]} and {names[1]} differ {difference(opt_state, expected, names)}. {hint}"
        ) from error
    for (path, leaf), other in zip(tree.items(opt_state), tree.leaves(expected), strict=True):
        # What is empty at first may grow, as a list of past gradients does.
        grows = isinstance(other, Tensor) and other.numel() == 0
        if isinstance(leaf, Tensor) and isinstance(other, Tensor) and leaf.shape != other.shape and not grows:
            raise StructureError(
                f"{names[0]} has shape {tuple(leaf.shape)} at {path!r}, {names[1]} {tuple(other.shape)}. {hint}"
            ) from error
