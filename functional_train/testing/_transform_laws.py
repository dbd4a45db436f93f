"""Laws: a transformation can be mapped over, differentiated and traced."""

from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.autograd.gradcheck import GradcheckError, gradcheck

from functional_train.testing._runs import (
    ATOL,
    RTOL,
    Update,
    away_from_zero,
    extras,
    in_float64,
    laid_out,
    off_constants,
    pairs,
    run,
)
from functional_train.testing.assertions import assert_trees_alike, assert_trees_close
from functional_train.updates.transformation import GradientTransformation
from functional_train.values import tree
from functional_train.values.types import Tree

_FACTORS = (1.0, -0.5)


def vmap_equals_loop(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    """Assert that mapping over members, state and all, gives what a loop over them gives.

    Args:
        transformation: What is tested. It is given everything that `make_step` passes to an update.
        params: A tree of tensors; each member has a multiple of them.
        grads: A tree like `params`, in which `None` may stand for a leaf.

    Raises:
        AssertionError: the law is broken; the message says where.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.vmap_equals_loop(ft.adam(), {"w": torch.ones(2)}, {"w": torch.ones(2)})
    """
    for cast, given in ((False, (params, grads)), (True, in_float64(params, grads))):
        members = [tree.scale(factor, given) for factor in _FACTORS]
        if not tree.leaves(given):
            return
        for mapped, member in zip(_mapped(transformation, members), members, strict=True):
            alone = run(transformation, *member)
            if cast:
                assert_trees_close(mapped, alone, rtol=RTOL, atol=ATOL)
            else:
                assert_trees_alike(mapped, alone)


def _mapped(transformation: GradientTransformation, members: list[Tree]) -> list[list[Update]]:
    columns, structure = tree.flatten(tree.stack(members))
    made: list[Any] = []

    # Lists of tensors cross the border, since torch's own pytree takes None for a leaf.
    def run_leaves(*leaves: Tensor) -> list[Tensor]:
        out, made[:] = _flatten_run(run(transformation, *tree.unflatten(structure, leaves)))
        return out

    try:
        out = torch.func.vmap(run_leaves)(*columns)
    except RuntimeError as error:
        raise AssertionError(f"the update cannot be mapped over. {error}") from error
    return [tree.unflatten(made[0], [leaf[index] for leaf in out]) for index in range(len(members))]


def _flatten_run(updates: list[Update]) -> tuple[list[Tensor], list[Any]]:
    leaves, structure = tree.flatten(updates)
    return leaves, [structure]


def is_differentiable(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    """Assert that derivatives through two updates, in gradients and parameters, are those of finite differences.

    They are compared in float64 and away from zero, where adaptive methods are steep, and from round numbers, where
    rules change; at gradients of zero derivatives are finite.

    Args:
        transformation: As `vmap_equals_loop`.
        params: As `vmap_equals_loop`; each number is multiplied by pi / 3.
        grads: As `vmap_equals_loop`; each number is moved away from zero by 1.5, and multiplied by pi / 3.

    Raises:
        AssertionError: the law is broken; the message says where.

    Source: torch.autograd.gradcheck.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.is_differentiable(ft.adam(), {"w": torch.ones(2)}, {"w": torch.ones(2)})
    """
    params, grads = in_float64(params, grads)
    leaves, structure = tree.flatten(off_constants((away_from_zero(grads), params)))
    watched = [leaf.clone().requires_grad_(leaf.is_floating_point() and leaf.numel() > 0) for leaf in leaves]

    def updates_of(*leaves: Tensor) -> tuple[Tensor, ...]:
        slopes, values = tree.unflatten(structure, leaves)
        made = tree.leaves([update.updates for update in run(transformation, values, slopes)])
        return tuple([leaf for leaf in made if leaf.numel() > 0])

    if not any(leaf.requires_grad for leaf in watched) or not updates_of(*watched):
        return
    try:
        gradcheck(updates_of, watched, check_undefined_grad=False)
    except GradcheckError as error:
        raise AssertionError(f"the derivative through the update is wrong. {error}") from error
    _assert_finite_at_zero(transformation, params, grads)


def _assert_finite_at_zero(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    zeros = tree.map(lambda leaf: torch.zeros_like(leaf).requires_grad_(), grads)
    made = tree.leaves([update.updates for update in run(transformation, params, zeros)])
    total = torch.stack([leaf.sum() for leaf in made]).sum()
    if not total.requires_grad:
        return
    slopes = torch.autograd.grad(total, tree.leaves(zeros), allow_unused=True, materialize_grads=True)
    for (path, _), slope in zip(tree.items(grads), slopes, strict=True):
        if not torch.isfinite(slope).all():
            raise AssertionError(f"the derivative in the gradient at {path!r} is not finite where all gradients are 0")


def traces_as_one_graph(transformation: GradientTransformation, params: Tree, grads: Tree) -> None:
    """Assert that `torch.compile` takes `update` as one graph, once for all steps, and computes the same.

    The leaves are laid out in one dict, because torch's tracer fails on a dict without tensors inside a tree. Those
    without elements, which torch lays out now in one way and now in another, are left out; nothing is asserted where no
    leaf has a gradient.

    Args:
        transformation: As `vmap_equals_loop`.
        params: As `vmap_equals_loop`.
        grads: As `vmap_equals_loop`.

    Raises:
        AssertionError: it is not one graph, or another is needed at the second step, or the numbers differ.

    Example:
        >>> import functional_train as ft, functional_train.testing, torch
        >>> ft.testing.traces_as_one_graph(ft.sgd(), {"w": torch.ones(2)}, {"w": torch.ones(2)})
    """
    # Other layouts than the plain one may change once, from the first state to the second.
    both = enumerate(pair for pair in pairs(*laid_out(*in_float64(params, grads))) if pair[0].numel())
    named = {f"leaf{position:04}": pair for position, pair in both}
    values, slopes = ({name: pair[which] for name, pair in named.items()} for which in (0, 1))

    if not tree.leaves(slopes):
        return

    def update(slopes: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        return transformation.update(slopes, state, params, **extras(slopes, params))

    eager = compiled = transformation.init(values)
    torch.compiler.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        traced = torch.compile(update, fullgraph=True, backend="aot_eager")
        for factor in (1.0, -0.5, 0.25):
            slope = tree.scale(factor, slopes)
            expected, eager = update(slope, eager, values)
            try:
                actual, compiled = traced(slope, compiled, values)
            except TorchDynamoException as error:
                raise AssertionError(f"the update cannot be traced as one graph for all steps. {error}") from error
            assert_trees_close((actual, compiled), (expected, eager), rtol=RTOL, atol=ATOL)
