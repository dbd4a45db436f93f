"""Laws: how transformations compose, and that an optimizer descends."""

import torch
from torch import Tensor

from functional_train.testing._runs import ATOL, RTOL, extras, in_float64, laid_out, pairs, run
from functional_train.testing.assertions import assert_trees_close, assert_trees_equal
from functional_train.updates.apply import apply_updates, make_update
from functional_train.updates.chain import chain, identity
from functional_train.updates.transformation import GradientTransformation, on_columns
from functional_train.updates.transforms._decay import add_decayed_weights
from functional_train.updates.transforms._scale import negate
from functional_train.values import tree
from functional_train.values.types import Tree

_NUM_DESCENTS = 10


def composes(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    """Assert that a chain is the composition of its links, bit for bit.

    `identity` before or behind changes nothing; a chain of chains is one chain; a link that follows gets the updates
    and leaves the state alone; `make_update` is `update` and then `apply_updates`, up to the last bits of float64 where
    a kernel does both at once.

    Args:
        transformation: What is tested. It is given everything that `make_step` passes to an update.
        params: A tree of tensors.
        grads: A tree like `params`, in which `None` may stand for a leaf.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.composes(ft.adam(), {"w": torch.ones(2)}, {"w": torch.ones(2)})
    """
    alone = run(transformation, params, grads)
    for own_position, chained in enumerate((chain(transformation, identity()), chain(identity(), transformation))):
        for one, own in zip(run(chained, params, grads), alone, strict=True):
            assert_trees_equal(one._replace(state=one.state[own_position]), own)
    decay = add_decayed_weights(0.1)
    left = chain(chain(negate(), transformation), chain(decay, transformation))
    right = chain(negate(), chain(transformation, chain(decay, transformation)))
    for one, other in zip(run(left, params, grads), run(right, params, grads), strict=True):
        assert_trees_equal((one.updates, tree.leaves(one.state)), (other.updates, tree.leaves(other.state)))
    first = transformation.update(grads, transformation.init(params), params, **extras(grads, params))
    turned = chain(transformation, negate())
    updates, state = turned.update(grads, turned.init(params), params, **extras(grads, params))
    assert_trees_equal((updates, state[0]), (tree.scale(-1, first[0]), first[1]))
    # make_update lays gradients out like their parameters, and kernels round differently in another layout.
    _assert_moves(transformation, *laid_out(params, grads))


def _assert_moves(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    written = on_columns(transformation)
    has_kernel = written is not None and written.move is not None
    params, grads = in_float64(params, grads) if has_kernel else (params, grads)
    before = transformation.init(params)
    new = make_update(transformation)(grads, before, params, **extras(grads, params))
    updates, state = transformation.update(grads, before, params, **extras(grads, params))
    if has_kernel:
        assert_trees_close(new, (apply_updates(params, updates), state), rtol=RTOL, atol=ATOL)
    else:
        assert_trees_equal(new, (apply_updates(params, updates), state))


def descends(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    r"""Assert that ten steps down $\lVert p - c \rVert^2 / 2$ each come closer to $c$.

    Args:
        transformation: As `composes`; an optimizer, whose steps are much smaller than 1.
        params: As `composes`; where the descent begins, once limited to [-1, 1], where weight decay pulls little.
        grads: As `composes`; the first gradient, moved away from zero by 1, which says where the minimum is.

    Raises:
        AssertionError: a step led up, or nowhere, before a billionth of the first loss was left.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.descends(ft.adam(), {"w": torch.ones(2)}, {"w": torch.ones(2)})
    """
    both = [pair for pair in pairs(*in_float64(params, grads)) if pair[1] is not None]
    position = [leaf.clamp(-1, 1) for leaf, _ in both]
    away = [grad + torch.where(grad < 0, -1.0, 1.0) for _, grad in both]
    target = tree.sub(position, away)
    if not tree.num_elements(position):
        return
    state, update_fn = transformation.init(position), make_update(transformation)

    def grad_and_value_fn(params: Tree) -> tuple[Tree, Tensor]:
        return tree.sub(params, target), _half_square(params, target)

    start = distance = _half_square(position, target)
    for number in range(_NUM_DESCENTS):
        slope = tree.sub(position, target)
        moved, state = update_fn(
            slope, state, position, **{**extras(slope), "value": distance, "grad_and_value_fn": grad_and_value_fn}
        )
        way = tree.vdot(slope, tree.sub(moved, position))
        before, position, distance = distance, moved, _half_square(moved, target)
        if distance <= 1e-9 * start:
            return
        # From parameters that are almost 0 a step in proportion to them is lost in the loss, not in the parameters.
        if not (way < 0 and distance <= before):
            raise AssertionError(f"update {number} led from a loss of {before.item()!r} to {distance.item()!r}")


def _half_square(position: list[Tensor], target: list[Tensor]) -> Tensor:
    return tree.global_norm(tree.sub(position, target)).square() / 2
