"""Laws: what a transformation keeps of the trees that it is given."""

import torch

from functional_train.testing._runs import ATOL, RTOL, away_from_zero, extras, in_float64, pairs, run
from functional_train.testing.assertions import assert_trees_alike, assert_trees_close, assert_trees_equal
from functional_train.updates.apply import make_update
from functional_train.updates.transformation import GradientTransformation
from functional_train.values import tree
from functional_train.values.types import Tree

_FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def updates_are_like_params(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    """Assert that updates have the structure, shapes, dtypes and devices of the gradients.

    New parameters have those of the old. Where the gradient is `None` so is the update, and `make_update` leaves the
    parameter as it is, bit for bit.

    Args:
        transformation: What is tested. It is given everything that `make_step` passes to an update.
        params: A tree of tensors.
        grads: A tree like `params`, in which `None` may stand for a leaf.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.updates_are_like_params(ft.adam(), {"w": torch.ones(2)}, {"w": torch.zeros(2)})
    """
    for updates, state, new in run(transformation, params, grads):
        assert_trees_alike((updates, new), (grads, params))
        again, _ = make_update(transformation)(grads, state, params, **extras(grads, params))
        for (old, grad), (_, kept) in zip(pairs(params, grads), pairs(params, again), strict=True):
            if grad is None:
                assert_trees_equal(kept, old)


def state_keeps_its_structure(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    """Assert that an update returns a state with the structure, shapes and dtypes of the one it was given.

    Otherwise a compiled step compiles anew, a saved state fits no new one, and a fold is not a fold.

    Args:
        transformation: As `updates_are_like_params`.
        params: As `updates_are_like_params`.
        grads: As `updates_are_like_params`.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.state_keeps_its_structure(ft.adam(), {"w": torch.ones(2)}, {"w": torch.zeros(2)})
    """
    first = transformation.init(params)
    for _, state, _ in run(transformation, params, grads):
        assert_trees_alike(state, first)


def keeps_low_precision(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    """Assert that parameters of 16 bits stay 16 bits wide, and that updates from gradients of 1.5 and more are finite.

    Args:
        transformation: As `updates_are_like_params`.
        params: As `updates_are_like_params`; it is converted to bfloat16 and float16.
        grads: As `updates_are_like_params`; same.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.keeps_low_precision(ft.adam(), {"w": torch.ones(2)}, {"w": torch.zeros(2)})
    """
    for dtype in (torch.bfloat16, torch.float16):
        low, slopes = tree.to(params, dtype), tree.to(away_from_zero(grads), dtype)
        for updates, _, new in run(transformation, low, slopes):
            assert_trees_alike((updates, new), (slopes, low))
            _assert_finite(updates)


def takes_any_tree(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    """Assert that gradients of zero, empty trees, scalars, leaves without elements and absent gradients all work.

    Updates are finite, and have the structure of the gradients.

    Args:
        transformation: As `updates_are_like_params`.
        params: As `updates_are_like_params`.
        grads: As `updates_are_like_params`; zeros and `None` take its place.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.takes_any_tree(ft.sgd(), {"w": torch.ones(2)}, {"w": torch.ones(2)})
    """
    empty = [{}, (), [], (None,), {"a": (), "b": {"c": []}, "d": None}]
    small = [torch.ones(()), [torch.ones(0), torch.ones(2, 0)], [torch.ones(2, dtype=one) for one in _FLOATING]]
    cases = [(edge, tree.zeros_like(edge)) for edge in empty + small]
    cases += [(params, tree.zeros_like(grads)), (params, tree.map(lambda leaf: None, params))]
    for some_params, some_grads in cases:
        for updates, _, new in run(transformation, some_params, some_grads):
            assert_trees_alike((updates, new), (some_grads, some_params))
            _assert_finite(updates)


def _assert_finite(updates: Tree) -> None:
    for path, leaf in tree.items(updates):
        if not torch.isfinite(leaf).all():
            raise AssertionError(f"the update at {path!r} is not finite: {leaf}")


def ignores_names_and_order(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    """Assert that other names, another order and other containers change no number.

    Args:
        transformation: As `updates_are_like_params`.
        params: As `updates_are_like_params`; its leaves are also put into a dict, in reverse.
        grads: As `updates_are_like_params`; same.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.ignores_names_and_order(ft.adam(), [torch.ones(1), torch.ones(2)], [torch.ones(1), None])
    """
    params, grads = in_float64(params, grads)
    both = pairs(params, grads)
    names = [f"{len(both) - position:04}" for position in range(len(both))]
    renamed = [{name: pair[which] for name, pair in zip(names, both, strict=True)} for which in (0, 1)]
    for own, other in zip(run(transformation, params, grads), run(transformation, renamed[0], renamed[1]), strict=True):
        expected = {name: update for name, (_, update) in zip(names, pairs(params, own.updates), strict=True)}
        assert_trees_close(other.updates, expected, rtol=RTOL, atol=ATOL)
