"""Adam and AdamW."""

from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import Number, check_betas, check_non_negative
from functional_train.updates.hyperparameters import schedulable, scheduled
from functional_train.updates.optimizers._descent import climbing, decaying
from functional_train.updates.transformation import (
    EmptyState,
    GradientTransformation,
    check_state,
    columnwise,
    with_move,
    zero_step_per_leaf,
)
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values import tree
from functional_train.values.errors import StructureError
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.tree._fused import AdamNumbers, fused_adam
from functional_train.values.types import Hyperparameter, Tree


class AdamState(NamedTuple):
    """Running moments of the gradient.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        exp_avg: Like params, the mean.
        exp_avg_sq: Like params, the mean of the square.
        max_exp_avg_sq: Like params, the largest mean of the square so far; `()` without amsgrad.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_adam().init({"w": torch.ones(1)}).step
        tensor([0])
    """

    step: Tensor
    exp_avg: Tree
    exp_avg_sq: Tree
    max_exp_avg_sq: Tree


@schedulable
def scale_by_adam(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999), eps: Hyperparameter = 1e-8, amsgrad: bool = False
) -> GradientTransformation:
    r"""Divide the mean of the gradients by the root of their mean square.

    $$m \leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad
      u = \frac{m}{1-\beta_1^t} \Big/ \Big(\sqrt{\frac{v}{1-\beta_2^t}} + \epsilon\Big)$$

    Args:
        betas: Decay of the two moments, each in [0, 1). Dimensionless.
        eps: Added to the root, at least 0; in gradient units.
        amsgrad: Whether to divide by the largest v so far.

    Returns:
        Transformation with `AdamState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a beta is outside [0, 1), or eps is negative.

    Source: Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1; Reddi et al. 2018, arXiv:1904.09237, Algorithm 2.

    Differs: from torch.optim.Adam in the order of rounding only; from Reddi et al. as torch does, in that the moments
        are corrected for their start at zero, v after the maximum is taken.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_adam()
        >>> tx.update([torch.tensor([5.0, -0.1])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([ 1.0000, -1.0000])]
    """
    beta1, beta2 = check_betas(betas)
    shift = check_non_negative("eps", eps, "1e-8 is usual.")

    def init(params: Tree) -> AdamState:
        step = zero_step_per_leaf(params)
        largest = tree.zeros_like(params) if amsgrad else ()
        return AdamState(step, tree.zeros_like(params), tree.zeros_like(params), largest)

    def update(g: Flat, state: AdamState, p: Flat | None, **extra: Any) -> tuple[Flat, AdamState]:
        del p, extra
        check_state(state, AdamState)
        moments, step = _moments(g, state, amsgrad), g.counted(state.step)
        # The kernel takes the rate times the direction off the parameters: zeros and a rate of -1 leave the direction.
        direction, moments = fused_adam(g, moments, step, AdamNumbers(-1.0, (beta1, beta2), shift)) or _plain(
            g, moments, step, (beta1, beta2), shift
        )
        return direction, _state(step, moments, state)

    return GradientTransformation(init, columnwise(update))


def _moments(g: Flat, state: AdamState, amsgrad: bool) -> tuple[Flat, ...]:
    if not amsgrad and type(state.max_exp_avg_sq) is not tuple and tree.leaves(state.max_exp_avg_sq):
        raise StructureError(
            "a state made with amsgrad=True was given to Adam without. "
            "The optimizer state was made by another optimizer: call optimizer.init(params)."
        )
    return g.beside(*state[1:]) if amsgrad else g.beside(state.exp_avg, state.exp_avg_sq)


def _state(step: Tensor, moments: tuple[Flat, ...], before: AdamState) -> AdamState:
    made = [column.tree(absent=old) for column, old in zip(moments, before[1:], strict=False)]
    return AdamState(step, made[0], made[1], made[2] if len(made) > 2 else ())


def _plain(
    g: Flat, moments: tuple[Flat, ...], step: Tensor, betas: tuple[Number, Number], eps: Number
) -> tuple[Flat, tuple[Flat, ...]]:
    direction, *moments_now = over_reals(partial(_recurrence, step, betas, eps), g, *moments)
    return direction, tuple(moments_now)


def _recurrence(
    step: Tensor, betas: tuple[Number, Number], eps: Number, g: Flat, m: Flat, v: Flat, *largest: Flat
) -> tuple[Flat, ...]:
    beta1, beta2 = betas
    m = tree.lerp(m, g, 1 - beta1)
    v = tree.addcmul(v, g, g, 1 - beta2, decay=beta2)
    largest = tuple([tree.maximum(old, v) for old in largest])
    # Both corrections go into the denominator, where they cost no pass over the numerator.
    correction1, correction2 = (1 - beta ** step.double() for beta in betas)
    factor, shift = g.spread(correction1 * correction2**-0.5), g.spread(correction1 * eps)
    direction = tree.div_sqrt(m, largest[0] if largest else v, factor=factor, outside=shift)
    return direction, m, v, *largest


def adam(
    lr: Hyperparameter = 1e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
) -> GradientTransformation:
    """Adam: steps of about `lr` in each coordinate, whatever the gradient's size.

    Args:
        lr: As `scale_by_lr`.
        betas: As `scale_by_adam`.
        eps: As `scale_by_adam`.
        weight_decay: L2 penalty added to the gradient, or decoupled decay; at least 0.
        amsgrad: As `scale_by_adam`.
        maximize: Whether to climb.
        decoupled_weight_decay: Whether decay bypasses the moments, which makes this AdamW.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: torch.optim.Adam, whose rule this is; Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.adam(0.1)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.1000])}
    """
    decay = decaying(weight_decay)
    before, after = ([], decay) if decoupled_weight_decay else (decay, [])
    climb = climbing(maximize)
    parts = chain(*climb, *before, scale_by_adam(betas, eps, amsgrad), *after, scale_by_lr(lr))
    place = len(climb) + len(before)
    kinds = [EmptyState] * place + [AdamState] + [EmptyState] * len(after)

    def move(g: Flat, states: Tree, p: Flat, **extra: Any) -> tuple[Flat, Tree] | None:
        del extra
        if type(states) is not tuple or [type(state) for state in states[:-1]] != kinds:
            return None
        moments, step = _moments(g, states[place], amsgrad), g.counted(states[place].step)
        rate, rate_state = scheduled(lr, states[-1])
        numbers = AdamNumbers(rate, betas, eps, weight_decay, decoupled_weight_decay, maximize)
        moved = fused_adam(g, moments, step, numbers, p)
        if moved is None:
            return None
        new_state = _state(step, moved[1], states[place])
        return moved[0], (*states[:place], new_state, *states[place + 1 : -1], rate_state)

    return with_move(parts, move)


def adamw(
    lr: Hyperparameter = 1e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 1e-2,
    amsgrad: bool = False,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """Adam with decoupled weight decay.

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        betas: As `scale_by_adam`.
        eps: As `scale_by_adam`.
        weight_decay: As `add_decayed_weights`.
        amsgrad: As `scale_by_adam`.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: torch.optim.AdamW, whose rule this is; Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.chain(ft.clip_by_global_norm(1.0), ft.adamw(ft.schedules.warmup_cosine(3e-4, 100, 1000)))
        >>> len(optimizer.init({"w": torch.ones(1)}))
        2
    """
    return adam(lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True)
