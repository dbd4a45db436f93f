"""D-Adaptation: SGD and Adam whose learning rate is an estimate of the distance to the minimum."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.checks import check_betas, check_fraction, check_non_negative, check_positive, is_zero
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._distance import inner, limited, norm, ratio, widened
from functional_train.updates.transformation import (
    GradientTransformation,
    check_params,
    check_state,
    columnwise,
    zero_step,
)
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter, Tree


class DAdaptSGDState(NamedTuple):
    """What the distance is estimated from, and where SGD began.

    Attributes:
        d: () float64, the distance as estimated so far; the learning rate is `d * lr` over the first gradient's norm.
        unit: () float64, the distance that the fields below are in units of.
        numerator: () float64, the sum of inner products.
        g0_norm: () float64, the norm of the first gradient that was not zero.
        s: Like params, the sum of the steps taken.
        x0: Like params, the first parameters.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.get(ft.dadapt_sgd(d0=0.5).init({"w": torch.ones(1)}), "d")
        tensor(0.5000, dtype=torch.float64)
    """

    d: Tensor
    unit: Tensor
    numerator: Tensor
    g0_norm: Tensor
    s: Tree
    x0: Tree


class DAdaptAdamState(NamedTuple):
    """Adam's moments, and what the distance is estimated from.

    Attributes:
        step: () int64, updates applied so far.
        d: () float64, the distance as estimated so far; the learning rate is `d * lr`.
        unit: () float64, the distance that `numerator`, `s` and `exp_avg` are in units of.
        numerator: () float64, the running mean of inner products.
        s: Like params, the running mean of gradients that the distance is estimated from.
        exp_avg: Like params, the mean.
        exp_avg_sq: Like params, the mean square.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.get(ft.dadapt_adam(d0=0.5).init({"w": torch.ones(1)}), "d")
        tensor(0.5000, dtype=torch.float64)
    """

    step: Tensor
    d: Tensor
    unit: Tensor
    numerator: Tensor
    s: Tree
    exp_avg: Tree
    exp_avg_sq: Tree


@schedulable
def dadapt_sgd(
    lr: Hyperparameter = 1.0,
    momentum: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    d0: Hyperparameter = 1e-6,
    growth_rate: Hyperparameter = float("inf"),
) -> GradientTransformation:
    r"""SGD without a learning rate to tune: it is estimated from how far gradients have led.

    $$\lambda = \mathrm{lr}\, d / \lVert g_0 \rVert, \quad a \leftarrow a + \lambda \langle g, s \rangle, \quad
      s \leftarrow s + \lambda g, \quad d' = \max(d, 2 a / \lVert s \rVert_2), \quad
      p \leftarrow \mu p + (1 - \mu)(p_0 - s)$$

    Args:
        lr: Multiple of the estimated distance, usually 1 times a schedule; at least 0. Dimensionless.
        momentum: $\mu$, in [0, 1). Dimensionless.
        weight_decay: L2 penalty, at least 0.
        d0: First estimate of the distance, above 0 and far too small; in parameter units.
        growth_rate: Largest factor by which the distance grows in one update. Dimensionless.

    Returns:
        Transformation with `DAdaptSGDState`, or `ScheduledState` around it. The distance is `ft.tree.get(opt_state,
        "d")`.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Defazio & Mishchenko 2023, arXiv:2301.07733, Algorithm 4; the options are those of the package dadaptation.

    Differs: in rounding, since sums are kept in units of `d`, where 16 bits can hold them. The norm of `s` counts
        leaves whose gradient is absent, too.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.dadapt_sgd()
        >>> step = ft.make_step(ft.grad_and_value(lambda p, batch: (p - batch).square().sum()), optimizer)
        >>> state = ft.fold(step, ft.init_state(torch.zeros(1), optimizer), 200 * [torch.full((1,), 7.0)])
        >>> bool(ft.tree.get(state.opt_state, "d") > 1)
        True
    """
    rate = check_non_negative("lr", lr, "1.0 is usual: it is a multiple of the estimated distance.")
    mu = check_fraction("momentum", momentum, "0.9 is usual.")
    decay = check_non_negative("weight_decay", weight_decay)
    first = check_positive("d0", d0, "1e-6 is usual.")
    growth = check_positive("growth_rate", growth_rate, "inf means no limit.", finite=False)

    def init(params: Tree) -> DAdaptSGDState:
        zero = zero_step(params).double()
        d = zero + first
        return DAdaptSGDState(d, d.clone(), zero, zero.clone(), tree.zeros_like(params), tree.copy(params))

    def update(g: Flat, state: DAdaptSGDState, p: Flat | None, **extra: Any) -> tuple[Flat, DAdaptSGDState]:
        del extra
        check_state(state, DAdaptSGDState)
        p = check_params(p, "dadapt_sgd")
        if not g.leaves:
            return g, state
        d, kept = state.d, state.unit / state.d
        g0_norm = torch.where(state.g0_norm > 0, state.g0_norm, norm(g.leaves, 2))
        scaled = ratio(torch.zeros_like(d) + rate, g0_norm)
        if not is_zero(decay):
            g = tree.add(g, p, alpha=decay)
        s, x0 = g.beside(state.s, state.x0)
        s = tree.scale(kept, s)
        numerator = kept**2 * state.numerator + scaled * inner(g, s)
        s = tree.add(s, g, alpha=scaled)
        u = tree.scale(1 - mu, tree.sub(tree.sub(x0, s, alpha=d), p))
        new_s = s.tree(absent=state.s)
        estimate = 2 * d * ratio(numerator, norm(new_s, 2))
        new_d = torch.maximum(d, limited(estimate, d, growth))
        return u, DAdaptSGDState(new_d, d, numerator, g0_norm, new_s, state.x0)

    return GradientTransformation(init, columnwise(update))


@schedulable
def dadapt_adam(
    lr: Hyperparameter = 1.0,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    decouple: bool = False,
    use_bias_correction: bool = False,
    d0: Hyperparameter = 1e-6,
    growth_rate: Hyperparameter = float("inf"),
) -> GradientTransformation:
    r"""Adam without a learning rate to tune: it is estimated from how far gradients have led.

    $$\lambda = \mathrm{lr}\, d, \quad
      a \leftarrow \sqrt{\beta_2}\, a + (1 - \sqrt{\beta_2}) \lambda \langle g, s / (\sqrt v + \epsilon) \rangle, \quad
      m \leftarrow \beta_1 m + (1 - \beta_1) \lambda g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2$$
    $$s \leftarrow \sqrt{\beta_2}\, s + (1 - \sqrt{\beta_2}) \lambda g, \quad
      d' = \max\Big(d, \frac{a}{(1 - \sqrt{\beta_2}) \lVert s \rVert_1}\Big), \quad u = -m / (\sqrt v + \epsilon)$$

    Args:
        lr: As `dadapt_sgd`.
        betas: Decay of the two moments, each in [0, 1). Dimensionless.
        eps: Added to the root, at least 0; in gradient units.
        weight_decay: L2 penalty, or decoupled decay; at least 0.
        decouple: Whether decay bypasses the moments.
        use_bias_correction: Whether the learning rate is corrected for moments that begin at zero, as Adam's is.
        d0: As `dadapt_sgd`.
        growth_rate: As `dadapt_sgd`.

    Returns:
        Transformation with `DAdaptAdamState`, or `ScheduledState` around it. The distance is `ft.tree.get(opt_state,
        "d")`.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Defazio & Mishchenko 2023, arXiv:2301.07733, Algorithm 5; the options are those of the package dadaptation.

    Differs: as `dadapt_sgd`; and as the package does from the paper, in that the inner product is divided by the v of
        the step before.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.dadapt_adam()
        >>> step = ft.make_step(ft.grad_and_value(lambda p, batch: (p - batch).square().sum()), optimizer)
        >>> state = ft.fold(step, ft.init_state(torch.zeros(1), optimizer), 200 * [torch.full((1,), 7.0)])
        >>> bool(ft.tree.get(state.opt_state, "d") > 1)
        True
    """
    rate = check_non_negative("lr", lr, "1.0 is usual: it is a multiple of the estimated distance.")
    beta1, beta2 = check_betas(betas)
    memory = beta2**0.5
    shift = check_non_negative("eps", eps, "1e-8 is usual.")
    decay = check_non_negative("weight_decay", weight_decay)
    first = check_positive("d0", d0, "1e-6 is usual.")
    growth = check_positive("growth_rate", growth_rate, "inf means no limit.", finite=False)

    def init(params: Tree) -> DAdaptAdamState:
        step = zero_step(params)
        zero = step.double()
        d = zero + first
        s, m, v = (tree.zeros_like(params) for _ in range(3))
        return DAdaptAdamState(step, d, d.clone(), zero, s, m, v)

    def update(g: Flat, state: DAdaptAdamState, p: Flat | None, **extra: Any) -> tuple[Flat, DAdaptAdamState]:
        del extra
        check_state(state, DAdaptAdamState)
        p = check_params(p, "dadapt_adam")
        if not g.leaves:
            return g, state
        if not decouple and not is_zero(decay):
            g = tree.add(g, p, alpha=decay)
        step, d, kept = state.step + 1, state.d, state.unit / state.d
        scaled = rate
        if use_bias_correction:
            scaled = rate * (1 - beta2 ** step.double()) ** 0.5 / (1 - beta1 ** step.double())
        s, m, v = g.beside(state.s, state.exp_avg, state.exp_avg_sq)
        s = tree.scale(kept, s)
        (divided,) = over_reals(lambda s, v: (tree.div_sqrt(widened(s), widened(v), outside=shift),), s, v)
        numerator = memory * kept**2 * state.numerator + (1 - memory) * scaled * inner(g, divided)
        s = tree.add(tree.scale(memory, s), g, alpha=(1 - memory) * scaled)

        def recurrence(g: Flat, m: Flat, v: Flat) -> tuple[Flat, ...]:
            m = tree.add(tree.scale(beta1 * kept, m), g, alpha=(1 - beta1) * scaled)
            v = tree.addcmul(v, g, g, 1 - beta2, decay=beta2)
            return tree.div_sqrt(m, v, outside=shift), m, v

        u, m, v = over_reals(recurrence, g, m, v)
        if decouple and not is_zero(decay):
            u = tree.add(u, p, alpha=decay * scaled)
        new_s = s.tree(absent=state.s)
        estimate = d * ratio(numerator, (1 - memory) * norm(new_s, 1))
        new_d = torch.maximum(d, limited(estimate, d, growth))
        moments = m.tree(absent=state.exp_avg), v.tree(absent=state.exp_avg_sq)
        return tree.scale(-d, u), DAdaptAdamState(step, new_d, d, numerator, new_s, *moments)

    return GradientTransformation(init, columnwise(update))
