"""Training without a schedule, by an average of the iterates."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.checks import check_interior, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import (
    GradientTransformation,
    check_params,
    check_state,
    check_transformation,
    columnwise,
    update_columns,
    zero_step_per_leaf,
)
from functional_train.values import tree
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.tree._structure import children, is_floating
from functional_train.values.types import Hyperparameter, Tree


class ScheduleFreeState(NamedTuple):
    """Where the wrapped transformation is, and how its places are averaged.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        weight_sum: (num_leaves,) float64, the sum of the weights in each leaf's average.
        lr_max: (num_leaves,) float64, the largest learning rate that each leaf has seen.
        momentum: (num_leaves,) float64, the momentum that each parameter was last mixed with.
        z: Like params, where the wrapped transformation is.
        base: Its own state.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.schedule_free(ft.sgd()).init({"w": torch.ones(1)}).z
        {'w': tensor([1.])}
    """

    step: Tensor
    weight_sum: Tensor
    lr_max: Tensor
    momentum: Tensor
    z: Tree
    base: Tree


@schedulable
def schedule_free(
    base: GradientTransformation,
    lr: Hyperparameter = 1.0,
    momentum: Hyperparameter = 0.9,
    *,
    weight_lr_power: Hyperparameter = 2.0,
    r: Hyperparameter = 0.0,
) -> GradientTransformation:
    r"""Take gradients between the place of another transformation and the average of its places.

    $$z \leftarrow z + u(y), \quad x \leftarrow (1 - c) x + c z, \quad y = (1 - \beta) z + \beta x, \quad
      c_t = w_t \Big/ \sum_{s \le t} w_s, \quad w_t = t^r \max_{s \le t} \mathrm{lr}_s^p$$

    The parameters of training are $y$; for evaluation take $x$, with `schedule_free_eval_params`. The average does what
    a decaying learning rate does elsewhere; a warm-up belongs into the schedule of the wrapped transformation.

    Args:
        base: Makes the updates $u$, from gradients and parameters at $y$; without a momentum of its own.
        lr: The learning rate of `base`, once more, for the weights alone; when it is constant its value does not
            matter. At least 0.
        momentum: $\beta$, in (0, 1). Dimensionless.
        weight_lr_power: $p$, at least 0; with 0 the learning rate has no weight. Dimensionless.
        r: At least 0; later places weigh more. Dimensionless.

    Returns:
        Transformation with `ScheduleFreeState`; a leaf whose gradient is `None` keeps its state, its sums included.

    Raises:
        StructureError: base is not a transformation.
        HyperparameterError: a number is outside its range.

    Source: Defazio et al. 2024, arXiv:2405.15682, equations 3 to 5 and Algorithm 1; the weights are those of the
        package schedulefree.

    Differs: from schedulefree, in that each leaf counts its own updates, which matters only where gradients are
        absent; from Optax, in that the weight is that of the learning rate in use and not of the next.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.schedule_free(ft.sgd(0.5))
        >>> params = {"w": torch.ones(1)}
        >>> updates, opt_state = optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)
        >>> ft.schedule_free_eval_params(opt_state, ft.apply_updates(params, updates))
        {'w': tensor([0.5000])}
    """
    check_transformation(base, "schedule_free")
    rate = check_non_negative("lr", lr)
    beta = check_interior("momentum", momentum, "0.9 is usual.")
    power = check_non_negative("weight_lr_power", weight_lr_power, "2.0 is usual.")
    growth = check_non_negative("r", r, "0.0 is usual.")

    def init(params: Tree) -> ScheduleFreeState:
        step = zero_step_per_leaf(params)
        sums = step.double()
        return ScheduleFreeState(step, sums, sums.clone(), sums + beta, tree.copy(params), base.init(params))

    def update(g: Flat, state: ScheduleFreeState, p: Flat | None, **extra: Any) -> tuple[Flat, ScheduleFreeState]:
        check_state(state, ScheduleFreeState)
        y = check_params(p, "schedule_free")
        u, base_state, y = update_columns(base, g, state.base, y, extra)
        assert y is not None
        (z,) = u.beside(state.z)
        step = u.counted(state.step)
        here = step > state.step
        lr_max = torch.where(here, torch.clamp(state.lr_max, min=rate), state.lr_max)
        weight = step.double() ** growth * lr_max**power
        weight_sum = torch.where(here, state.weight_sum + weight, state.weight_sum)
        share = torch.where(weight_sum > 0, weight / torch.where(weight_sum > 0, weight_sum, 1), 0)
        kept = beta * (1 - share)
        # x is z + (y - z) / beta, with the beta that y was mixed with; put into the equations, x itself drops out.
        toward_z = u.spread(1 - kept / state.momentum)
        updates = tree.add(tree.scale(u.spread(1 - kept), u), tree.sub(z, y), alpha=toward_z)
        z = tree.add(z, u).tree(absent=state.z)
        mixed = torch.where(here, beta, state.momentum)
        return updates, ScheduleFreeState(step, weight_sum, lr_max, mixed, z, base_state)

    return GradientTransformation(init, columnwise(update))


def schedule_free_eval_params(opt_state: Tree, params: Tree) -> Tree:
    r"""Compute the parameters to evaluate: the average $x = y + (1 - 1 / \beta) (z - y)$.

    Train on with `params`, not with these. BatchNorm has statistics of `params`: compute these parameters' own with
    `update_bn`.

    Args:
        opt_state: The optimizer state that belongs to `params`; anywhere in it is one `ScheduleFreeState`.
        params: The parameters of training, $y$.

    Returns:
        A tree like `params`. Leaves that are not floating are those of `params`.

    Raises:
        StructureError: there is no `ScheduleFreeState` in `opt_state`, or more than one.

    Source: Defazio et al. 2024, arXiv:2405.15682, equation 3, solved for x.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.schedule_free_sgd()
        >>> params = {"w": torch.ones(1)}
        >>> ft.schedule_free_eval_params(optimizer.init(params), params)
        {'w': tensor([1.])}
    """
    found = _states(opt_state)
    if len(found) != 1:
        raise StructureError(
            f"schedule_free_eval_params found {len(found) or 'no'} ScheduleFreeState in the optimizer state; it needs "
            "one. Pass the opt_state of ft.schedule_free, alone or within chain; of several parts, one at a time."
        )
    trained, rest = tree.partition(params, lambda path, leaf: is_floating(leaf))
    y, z = tree.flat(trained, found[0].z)
    return tree.combine(tree.lerp(y, z, y.spread(1 - 1 / found[0].momentum)).tree(absent=trained), rest)


def _states(node: Tree) -> list[ScheduleFreeState]:
    if isinstance(node, ScheduleFreeState):
        return [node]
    return [state for _, child in children(node) or () for state in _states(child)]
