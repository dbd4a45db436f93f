"""Schedule-free SGD, AdamW and RAdam."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import Number, check_betas, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import decaying
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.updates.transforms._schedule_free import schedule_free
from functional_train.values import tree
from functional_train.values.errors import HyperparameterError
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter, Tree


class SecondMomentState(NamedTuple):
    """The running mean square of the gradient.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        exp_avg_sq: Like params.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.get(ft.schedule_free_adamw().init({"w": torch.ones(1)}), "exp_avg_sq")
        {'w': tensor([0.])}
    """

    step: Tensor
    exp_avg_sq: Tree


@schedulable
def schedule_free_sgd(
    lr: Hyperparameter = 1.0,
    momentum: Hyperparameter = 0.9,
    weight_decay: Hyperparameter = 0.0,
    warmup_steps: int = 0,
    r: Hyperparameter = 0.0,
    weight_lr_power: Hyperparameter = 2.0,
) -> GradientTransformation:
    r"""SGD whose places are averaged, so that it needs no schedule.

    Evaluate with `schedule_free_eval_params(opt_state, params)`.

    Args:
        lr: As `scale_by_lr`; larger than without the average, 1 to 50 times.
        momentum: As `schedule_free`.
        weight_decay: L2 penalty at the parameters of training; at least 0.
        warmup_steps: Updates over which the learning rate rises linearly to `lr`; at least 0.
        r: As `schedule_free`.
        weight_lr_power: As `schedule_free`.

    Returns:
        Transformation with `ScheduleFreeState`.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: schedulefree.SGDScheduleFree, whose rule this is; Defazio et al. 2024, arXiv:2405.15682, equations 3 to 5.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.schedule_free_sgd(0.5)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.5000])}
    """
    rate = _warmed_up(lr, warmup_steps)
    base = chain(*decaying(weight_decay), scale_by_lr(rate))
    return schedule_free(base, rate, momentum, weight_lr_power=weight_lr_power, r=r)


@schedulable
def schedule_free_adamw(
    lr: Hyperparameter = 0.0025,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    warmup_steps: int = 0,
    r: Hyperparameter = 0.0,
    weight_lr_power: Hyperparameter = 2.0,
) -> GradientTransformation:
    r"""AdamW whose places are averaged, so that it needs no schedule.

    Evaluate with `schedule_free_eval_params(opt_state, params)`. As much is remembered as by AdamW.

    Args:
        lr: As `scale_by_lr`; larger than AdamW's, 1 to 10 times.
        betas: The momentum of `schedule_free`, in (0, 1), and the decay of the mean square, in [0, 1). Dimensionless.
        eps: Added to the root of the mean square, at least 0; in gradient units.
        weight_decay: As `add_decayed_weights`, at the parameters of training.
        warmup_steps: Updates over which the learning rate rises linearly to `lr`; at least 0.
        r: As `schedule_free`.
        weight_lr_power: As `schedule_free`.

    Returns:
        Transformation with `ScheduleFreeState`.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: schedulefree.AdamWScheduleFree, whose rule this is; Defazio et al. 2024, arXiv:2405.15682, Algorithm 1.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.schedule_free_adamw(0.5)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.5000])}
    """
    momentum, beta2 = check_betas(betas)
    rate = _warmed_up(lr, warmup_steps)
    base = chain(_scale_by_second_moment(beta2, eps), *decaying(weight_decay), scale_by_lr(rate))
    return schedule_free(base, rate, momentum, weight_lr_power=weight_lr_power, r=r)


@schedulable
def schedule_free_radam(
    lr: Hyperparameter = 0.0025,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    r: Hyperparameter = 0.0,
    weight_lr_power: Hyperparameter = 2.0,
    silent_sgd_phase: bool = True,
) -> GradientTransformation:
    r"""RAdam whose places are averaged, so that it needs neither a schedule nor a warm-up.

    $$\rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \quad \rho_\infty = \frac{2}{1 - \beta_2} - 1, \quad
      \mathrm{lr}_t = \mathrm{lr} \sqrt{\frac{(\rho_t - 4) (\rho_t - 2) \rho_\infty}
      {(\rho_\infty - 4) (\rho_\infty - 2) \rho_t}}$$

    Where $\rho_t \le 4$ the mean square is not known well enough to divide by; gradients are then used as they are, or
    not at all. Evaluate with `schedule_free_eval_params(opt_state, params)`.

    Args:
        lr: As `scale_by_lr`.
        betas: As `schedule_free_adamw`; with a second of 0.6 or less $\rho_t$ never exceeds 4.
        eps: As `schedule_free_adamw`.
        weight_decay: As `schedule_free_adamw`.
        r: As `schedule_free`.
        weight_lr_power: As `schedule_free`.
        silent_sgd_phase: Whether parameters stay where they are while $\rho_t \le 4$; otherwise steps are SGD's.

    Returns:
        Transformation with `ScheduleFreeState`.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: schedulefree.RAdamScheduleFree, whose rule this is; Liu et al. 2020, arXiv:1908.03265, Algorithm 2.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.schedule_free_radam(0.5, silent_sgd_phase=False)
        >>> params = {"w": torch.ones(1)}
        >>> optimizer.update({"w": torch.ones(1)}, optimizer.init(params), params)[0]
        {'w': tensor([-0.5000])}
    """
    momentum, beta2 = check_betas(betas)
    highest = check_non_negative("lr", lr)

    def rate(step: Tensor) -> Tensor:
        known, factor = _rectification(step + 1, beta2)
        return highest * torch.where(known, factor, 0.0 if silent_sgd_phase else 1.0)

    base = chain(_scale_by_second_moment(beta2, eps, rectified=True), *decaying(weight_decay), scale_by_lr(rate))
    return schedule_free(base, rate, momentum, weight_lr_power=weight_lr_power, r=r)


def _rectification(step: Tensor, beta2: Number) -> tuple[Tensor, Tensor]:
    """Whether the mean square is known well enough after so many updates, and by how much to shorten steps then."""
    power = beta2 ** step.double()
    limit = torch.zeros_like(power) + (2 / (1 - beta2) - 1)
    length = limit - 2 * step * power / (1 - power)
    known = length > 4
    # Where it is not, any numbers above 4 keep the root and its slope finite.
    length, limit = torch.where(known, length, 5.0), torch.where(known, limit, 6.0)
    return known, ((length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)) ** 0.5


def _warmed_up(lr: Hyperparameter, warmup_steps: int) -> Hyperparameter:
    if not isinstance(warmup_steps, int) or isinstance(warmup_steps, bool) or warmup_steps < 0:
        raise HyperparameterError(f"warmup_steps must be an int >= 0, got {warmup_steps!r}. 0 means no warm-up.")
    if warmup_steps == 0:
        return lr
    highest = check_non_negative("lr", lr)
    return lambda step: highest * torch.clamp((step + 1).double() / warmup_steps, max=1.0)


@schedulable
def _scale_by_second_moment(
    beta2: Hyperparameter, eps: Hyperparameter, rectified: bool = False
) -> GradientTransformation:
    """Adam's direction without its mean, whose part the average of the places plays."""
    decay = check_non_negative("betas[1]", beta2)
    shift = check_non_negative("eps", eps, "1e-8 is usual.")

    def init(params: Tree) -> SecondMomentState:
        step = zero_step_per_leaf(params)
        return SecondMomentState(step, tree.zeros_like(params))

    def update(g: Flat, state: SecondMomentState, p: Flat | None, **extra: Any) -> tuple[Flat, SecondMomentState]:
        del p, extra
        check_state(state, SecondMomentState)
        step = g.counted(state.step)
        # A leaf that never had a gradient has no correction; any finite one keeps derivatives finite.
        count = step.clamp(min=1)
        factor, outside = (1 - decay ** count.double()) ** -0.5, torch.zeros_like(count).double() + shift
        if rectified:
            known, _ = _rectification(count, decay)
            factor, outside = torch.where(known, factor, 0), torch.where(known, outside, 1)

        def recurrence(g: Flat, v: Flat) -> tuple[Flat, ...]:
            v = tree.addcmul(v, g, g, 1 - decay, decay=decay)
            return tree.div_sqrt(g, v, factor=g.spread(factor), outside=g.spread(outside)), v

        (v,) = g.beside(state.exp_avg_sq)
        direction, v = over_reals(recurrence, g, v)
        return direction, SecondMomentState(step, v.tree(absent=state.exp_avg_sq))

    return GradientTransformation(init, columnwise(update))
