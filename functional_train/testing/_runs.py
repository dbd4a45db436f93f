"""Two updates from given gradients, which is what most laws look at."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.testing.assertions import assert_same_structure
from functional_train.updates.apply import apply_updates
from functional_train.updates.transformation import GradientTransformation
from functional_train.values import random, tree
from functional_train.values.types import Tree

# Rounding of float64, amplified by methods that divide by the size of a gradient.
RTOL = ATOL = 1e-9


class Update(NamedTuple):
    """What one update made."""

    updates: Tree
    state: Tree
    params: Tree


def gradients(grads: Tree) -> tuple[Tree, Tree]:
    """Two gradients that point in opposite directions."""
    return grads, tree.scale(-0.5, grads)


def extras(grads: Tree, params: Tree = None) -> dict[str, Any]:
    """What `make_step` would pass to an update besides.

    The gradient function is that of a loss whose Hessian is the identity, and which has `grads` at `params`; without
    `params` it has them everywhere.
    """
    value = torch.ones(())

    def grad_and_value_fn(at: Tree) -> tuple[Tree, Tensor]:
        return (grads if params is None else tree.map(_moved, at, params, grads)), value

    return {"value": value, "grad_and_value_fn": grad_and_value_fn, "key": random.key(0)}


def _moved(at: Tensor, start: Tensor, grad: Tensor | None) -> Tensor | None:
    return None if grad is None else grad + (at - start)


def run(transformation: GradientTransformation, params: Tree, grads: Tree, state: Tree | None = None) -> list[Update]:
    """Two updates, from a state or from the beginning."""
    made: list[Update] = []
    state = transformation.init(params) if state is None else state
    for slope in gradients(grads):
        updates, state = transformation.update(slope, state, params, **extras(slope, params))
        assert_same_structure(updates, slope)
        params = apply_updates(params, updates)
        made.append(Update(updates, state, params))
    return made


def in_float64(*trees: Tree) -> tuple[Tree, ...]:
    """Trees whose floating leaves are float64, so that rounding is far below any mistake."""
    return tuple([tree.to(each, torch.float64) for each in trees])


def away_from_zero(grads: Tree) -> Tree:
    """Gradients of size 1.5 and more, where methods that divide by a gradient's size are smooth."""
    return tree.map(lambda leaf: leaf + torch.where(leaf < 0, -1.5, 1.5).to(leaf.dtype), grads)


def off_constants(values: Tree) -> Tree:
    """Numbers times pi / 3: Hypothesis tries the constants of the code under test, where rules have kinks."""
    return tree.map(lambda leaf: leaf * (math.pi / 3) if leaf.is_floating_point() else leaf, values)


def laid_out(*trees: Tree) -> tuple[Tree, ...]:
    """Trees whose leaves are contiguous and neither expanded nor transposed."""
    return tree.map(lambda leaf: leaf.clone(memory_format=torch.contiguous_format), trees)


def pairs(params: Tree, grads: Tree) -> list[tuple[Any, Any]]:
    """Each parameter beside its gradient, which may be None."""
    found: list[tuple[Any, Any]] = []
    tree.map(lambda leaf, grad: found.append((leaf, grad)), params, grads)
    return found
