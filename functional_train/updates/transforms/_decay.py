"""Weight decay."""

from typing import Any

from functional_train.updates.checks import Number, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import (
    EmptyState,
    GradientTransformation,
    check_params,
    check_state,
    columnwise,
    stateless_columns,
)
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._lookup import Predicate, check_globs, matches
from functional_train.values.types import Hyperparameter, Tree


@schedulable
def add_decayed_weights(weight_decay: Hyperparameter = 1e-2, mask: Predicate | None = None) -> GradientTransformation:
    r"""Add a multiple of the parameters: $u = g + \lambda p$.

    Before a preconditioner this is the gradient of an L2 penalty; after it, decoupled weight decay.

    Args:
        weight_decay: At least 0; direction units per unit of parameter.
        mask: Which parameters decay: a glob of the path, several globs, or `(path, leaf) -> bool`, as in
            `ft.tree.partition`; by default all. `lambda path, leaf: leaf.ndim > 1` leaves out biases and norms.

    Returns:
        Transformation with `EmptyState`, or `ScheduledState` when `weight_decay` is a schedule.

    Raises:
        HyperparameterError: weight_decay is negative or not finite.
        PathError: at init: a glob of the mask matches no path.

    Source: Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2, line 12.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.add_decayed_weights(0.1, mask="*weight")
        >>> params = {"bias": torch.ones(1), "weight": torch.ones(1)}
        >>> tx.update(ft.tree.zeros_like(params), tx.init(params), params)[0]
        {'bias': tensor([0.]), 'weight': tensor([0.1000])}
    """
    decay = check_non_negative("weight_decay", weight_decay)
    if mask is None:
        return stateless_columns(lambda g, p: tree.add(g.spend(), check_params(p, "weight decay"), alpha=decay))
    return _add_where(decay, mask)


def _add_where(decay: Number, mask: Predicate) -> GradientTransformation:
    def init(params: Tree) -> EmptyState:
        check_globs(params, mask)
        return EmptyState()

    def update(g: Flat, state: Tree, p: Flat | None, **extra: Any) -> tuple[Flat, Tree]:
        del extra
        check_state(state, EmptyState)
        p = check_params(p, "weight decay")
        decays = [matches(mask, path, leaf) for path, leaf in zip(p.paths(), p.leaves, strict=True)]
        return g.at(decays, tree.add(g.only(decays), p.only(decays), alpha=decay)), state

    return GradientTransformation(init, columnwise(update))
