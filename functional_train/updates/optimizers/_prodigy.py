"""Prodigy: Adam whose learning rate is an estimate of the distance to the minimum."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.checks import check_betas, check_fraction, check_non_negative, check_positive, is_zero
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._distance import inner, limited, norm, ratio
from functional_train.updates.transformation import (
    GradientTransformation,
    check_params,
    check_state,
    columnwise,
    zero_step,
)
from functional_train.values import tree
from functional_train.values.errors import HyperparameterError
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.types import Hyperparameter, Tree


class ProdigyState(NamedTuple):
    """Adam's moments, and what the distance is estimated from.

    Attributes:
        step: () int64, updates applied so far.
        d: () float64, the distance as estimated so far; the learning rate is `d * lr`.
        d_max: () float64, the largest estimate so far, which `d` may still have to grow to.
        unit: () float64, the distance that the fields below are in units of.
        numerator: () float64, the weighted sum of inner products.
        s: Like params, or every `slice_p`-th number of them: the weighted sum of gradients.
        p0: Like `s`, the first parameters.
        exp_avg: Like params, the mean.
        exp_avg_sq: Like params, the mean square.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.tree.get(ft.prodigy(d0=0.5).init({"w": torch.ones(1)}), "d")
        tensor(0.5000, dtype=torch.float64)
    """

    step: Tensor
    d: Tensor
    d_max: Tensor
    unit: Tensor
    numerator: Tensor
    s: Tree
    p0: Tree
    exp_avg: Tree
    exp_avg_sq: Tree


@schedulable
def prodigy(
    lr: Hyperparameter = 1.0,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    beta3: Hyperparameter | None = None,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    decouple: bool = True,
    use_bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: Hyperparameter = 1e-6,
    d_coef: Hyperparameter = 1.0,
    growth_rate: Hyperparameter = float("inf"),
    slice_p: int = 1,
) -> GradientTransformation:
    r"""Adam without a learning rate to tune: it is estimated from how far gradients have led.

    $$m \leftarrow \beta_1 m + (1-\beta_1) d g, \quad v \leftarrow \beta_2 v + (1-\beta_2) d^2 g^2, \quad
      a \leftarrow \beta_3 a + \mathrm{lr}\, d^2 \langle g, p_0 - p \rangle, \quad
      s \leftarrow \beta_3 s + \mathrm{lr}\, d^2 g$$
    $$d' = \max\big(d, c\, a / \lVert s \rVert_1\big), \quad
      u = -\mathrm{lr}\, d\, \big(m / (\sqrt v + d' \epsilon) + \lambda p\big)$$

    Args:
        lr: Multiple of the estimated distance, usually 1 times a schedule; at least 0. Dimensionless.
        betas: Decay of the two moments, each in [0, 1). Dimensionless.
        beta3: Decay of the estimate, in [0, 1); the root of the second beta when None. Dimensionless.
        eps: Added to the root, at least 0; in gradient units.
        weight_decay: Decoupled decay, or an L2 penalty; at least 0.
        decouple: Whether decay bypasses the moments.
        use_bias_correction: Whether the learning rate is corrected for moments that begin at zero, as Adam's is.
        safeguard_warmup: Whether `s` leaves out `lr`, so that a warm-up does not make the estimate too large.
        d0: First estimate of the distance, above 0 and far too small; in parameter units.
        d_coef: $c$, above 0; 0.5 to 2 is usual. Dimensionless.
        growth_rate: Largest factor by which the distance grows in one update, once it has begun to. Dimensionless.
        slice_p: The estimate looks at every `slice_p`-th number of a leaf; 11 saves almost half of the state.

    Returns:
        Transformation with `ProdigyState`, or `ScheduledState` around it. The distance is `ft.tree.get(opt_state,
        "d")`.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Mishchenko & Defazio 2023, arXiv:2306.06101, the Adam-like version; the options are those of the
        package prodigyopt.

    Differs: in rounding from the equations, since moments and sums are kept in units of `d`, where 16 bits can hold
        them. The norm of `s` counts leaves whose gradient is absent, too.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.prodigy()
        >>> step = ft.make_step(ft.grad_and_value(lambda p, batch: (p - batch).square().sum()), optimizer)
        >>> state = ft.fold(step, ft.init_state(torch.zeros(1), optimizer), 200 * [torch.full((1,), 7.0)])
        >>> bool(ft.tree.get(state.opt_state, "d") > 1)
        True
    """
    rate = check_non_negative("lr", lr, "1.0 is usual: it is a multiple of the estimated distance.")
    beta1, beta2 = check_betas(betas)
    memory = beta2**0.5 if beta3 is None else check_fraction("beta3", beta3, "None is usual.")
    shift = check_non_negative("eps", eps, "1e-8 is usual.")
    decay = check_non_negative("weight_decay", weight_decay)
    first = check_positive("d0", d0, "1e-6 is usual.")
    coefficient = check_positive("d_coef", d_coef, "1.0 is usual.")
    growth = check_positive("growth_rate", growth_rate, "inf means no limit.", finite=False)
    if not isinstance(slice_p, int) or isinstance(slice_p, bool) or slice_p < 1:
        raise HyperparameterError(f"slice_p must be an int >= 1, got {slice_p!r}. 1 looks at everything.")

    def sliced(leaf: Tensor) -> Tensor:
        return leaf if slice_p == 1 else leaf.reshape(-1)[::slice_p]

    def init(params: Tree) -> ProdigyState:
        step = zero_step(params)
        zero = step.double()
        d = zero + first
        p0 = tree.map(lambda leaf: sliced(leaf).clone(), params)
        moments = tree.zeros_like(params), tree.zeros_like(params)
        return ProdigyState(step, d, d.clone(), d.clone(), zero, tree.zeros_like(p0), p0, *moments)

    def update(g: Flat, state: ProdigyState, p: Flat | None, **extra: Any) -> tuple[Flat, ProdigyState]:
        del extra
        check_state(state, ProdigyState)
        p = check_params(p, "prodigy")
        if not g.leaves:
            return g, state
        if not decouple and not is_zero(decay):
            g = tree.add(g, p, alpha=decay)
        step, d = state.step + 1, state.d
        scaled = rate
        if use_bias_correction:
            scaled = rate * (1 - beta2 ** step.double()) ** 0.5 / (1 - beta1 ** step.double())
        s, p0, m, v = g.beside(state.s, state.p0, state.exp_avg, state.exp_avg_sq)
        # What the state holds is in units of the distance that was; of `lr * d * d` only `lr` is left in units of `d`.
        kept = state.unit / d
        whole, seen = (g, p) if slice_p == 1 else (g.map(sliced), p.map(sliced))
        numerator = memory * kept**2 * state.numerator + scaled * inner(whole, tree.sub(p0, seen))
        s = tree.add(tree.scale(memory * kept**2, s), whole, alpha=1.0 if safeguard_warmup else scaled)
        new_s = s.tree(absent=state.s)

        estimate = coefficient * ratio(numerator, norm(new_s, 1))
        grown = torch.where(d == first, torch.maximum(d, estimate), d)
        d_max = torch.maximum(state.d_max, estimate)
        new_d = limited(d_max, grown, growth)

        def recurrence(g: Flat, m: Flat, v: Flat) -> tuple[Flat, ...]:
            m = tree.add(tree.scale(beta1 * kept, m), g, alpha=1 - beta1)
            v = tree.addcmul(v, g, g, 1 - beta2, decay=beta2 * kept**2)
            return tree.div_sqrt(m, v, outside=new_d / d * shift), m, v

        u, m, v = over_reals(recurrence, g, m, v)
        if decouple and not is_zero(decay):
            u = tree.add(u, p, alpha=decay)
        moments = m.tree(absent=state.exp_avg), v.tree(absent=state.exp_avg_sq)
        new_state = ProdigyState(step, new_d, d_max, d, numerator, new_s, state.p0, *moments)
        return tree.scale(-scaled * d, u), new_state

    return GradientTransformation(init, columnwise(update))
