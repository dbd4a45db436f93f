"""AdaHessian: Adam with the curvature in the place of the gradient's size."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import Number, check_betas, check_non_negative, check_positive
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import climbing, decaying
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.updates.transforms._hutchinson import DiagonalFn, diagonal, hutchinson
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._complex import over_reals
from functional_train.values.tree._precision import wide
from functional_train.values.types import Hyperparameter, Tree


class AdaHessianState(NamedTuple):
    """Running moments of the gradient and of the curvature.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        exp_avg: Like params, the mean of the gradient.
        exp_hessian_sq: Like params, the mean square of the estimates of the Hessian's diagonal.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_adahessian().init({"w": torch.ones(1)}).exp_hessian_sq
        {'w': tensor([0.])}
    """

    step: Tensor
    exp_avg: Tree
    exp_hessian_sq: Tree


def scale_by_adahessian(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-4,
    hessian_power: Hyperparameter = 1.0,
    spatial_average: bool = True,
    *,
    estimator: DiagonalFn = hutchinson,
) -> GradientTransformation:
    r"""Divide the mean of the gradients by a power of the root mean square of the curvature.

    $$m \leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) D^2, \quad
      u = \frac{m}{1-\beta_1^t} \Big/ \bigg(\Big(\frac{v}{1-\beta_2^t}\Big)^{k/2} + \epsilon\bigg)$$

    with D an estimate of the Hessian's diagonal at each update.

    Args:
        betas: Decay of the two moments, each in [0, 1). Dimensionless.
        eps: Added to the divisor, at least 0; in units of curvature to the power.
        hessian_power: The power k, above 0; 1 for Newton's step, less for a more careful one.
        spatial_average: Whether the sizes of D are averaged over the third dimension and those behind it, which are the
            space of a convolution's weight.
        estimator: `(params, **extra) -> diagonal`: `hutchinson`, `gauss_newton_bartlett`, or a function of yours.

    Returns:
        Transformation with `AdaHessianState`; a leaf whose gradient is `None` keeps its state.

    Raises:
        HyperparameterError: a number is outside its range.
        StructureError: at the update: what the estimator needs is not there; `hutchinson` needs a key.

    Source: Yao et al. 2020, arXiv:2006.00719, Algorithm 1, with its spatial averaging.

    Example:
        >>> import functional_train as ft, torch
        >>> loss_fn = lambda params, batch, key: (batch * params["w"] ** 2).sum() / 2
        >>> optimizer = ft.chain(ft.scale_by_adahessian(eps=0.0), ft.scale_by_lr(1.0))
        >>> state = ft.init_state({"w": torch.ones(2)}, optimizer, key=ft.random.key(0))
        >>> ft.make_step(ft.grad_and_value(loss_fn), optimizer)(state, torch.tensor([1.0, 3.0]))[0].params
        {'w': tensor([0., 0.])}
    """

    @schedulable
    def make(
        betas: tuple[Hyperparameter, Hyperparameter], eps: Hyperparameter, hessian_power: Hyperparameter
    ) -> GradientTransformation:
        beta1, beta2 = check_betas(betas)
        shift = check_non_negative("eps", eps, "1e-4 is usual.")
        power = check_positive("hessian_power", hessian_power, "1.0 is usual.")

        def update(g: Flat, state: AdaHessianState, p: Flat | None, **extra: Any) -> tuple[Flat, AdaHessianState]:
            check_state(state, AdaHessianState)
            step = g.counted(state.step)
            (m, v), d = g.beside(state.exp_avg, state.exp_hessian_sq), diagonal(estimator, g, p, extra)
            if spatial_average:
                d = d.map(_averaged)

            def recurrence(g: Flat, m: Flat, v: Flat, d: Flat) -> tuple[Flat, ...]:
                m = tree.lerp(m, g, 1 - beta1)
                v = tree.addcmul(v, d, d, 1 - beta2, decay=beta2)
                correction1, correction2 = (1 - beta ** step.double() for beta in (beta1, beta2))
                mean = tree.scale(g.spread(1 / correction1), m.map(wide))
                square = tree.scale(g.spread(1 / correction2), v.map(wide))
                divisor = square.map(lambda leaf: _power(leaf, power))
                direction = tree.div(mean, tree.add(divisor, shift))
                return m.map(lambda like, u: u.to(like.dtype), direction), m, v

            direction, m, v = over_reals(recurrence, g, m, v, d)
            new = AdaHessianState(step, m.tree(absent=state.exp_avg), v.tree(absent=state.exp_hessian_sq))
            return direction, new

        return GradientTransformation(_init, columnwise(update))

    return make(betas, eps, hessian_power)


def _init(params: Tree) -> AdaHessianState:
    step = zero_step_per_leaf(params)
    return AdaHessianState(step, tree.zeros_like(params), tree.zeros_like(params))


def _averaged(leaf: Tensor) -> Tensor:
    if leaf.ndim <= 2 or leaf.numel() == 0:
        return leaf
    if leaf.is_complex():
        return torch.view_as_complex(_averaged_parts(torch.view_as_real(leaf), leaf.ndim))
    return _averaged_parts(leaf, leaf.ndim)


def _averaged_parts(leaf: Tensor, ndim: int) -> Tensor:
    return leaf.abs().mean(tuple(range(2, ndim)), keepdim=True).expand_as(leaf).contiguous()


def _power(square: Tensor, power: Number) -> Tensor:
    """A power of the root, whose slope at 0 is taken to be 0."""
    power = power.to(square.dtype) if isinstance(power, Tensor) else power
    vanishing = square == 0
    return torch.where(vanishing, 0.0, torch.where(vanishing, 1.0, square).pow(power / 2))


def adahessian(
    lr: Hyperparameter = 0.1,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
    eps: Hyperparameter = 1e-4,
    weight_decay: Hyperparameter = 0.0,
    hessian_power: Hyperparameter = 1.0,
    spatial_average: bool = True,
    *,
    estimator: DiagonalFn = hutchinson,
    maximize: bool = False,
) -> GradientTransformation:
    """AdaHessian: Adam with the curvature in the place of the gradient's size, and decoupled weight decay.

    The state that is trained must own a key: `ft.init_state(params, optimizer, key=...)`.

    Args:
        lr: As `scale_by_lr`; it also scales the decay. A share of Newton's step.
        betas: As `scale_by_adahessian`.
        eps: As `scale_by_adahessian`.
        weight_decay: As `add_decayed_weights`.
        hessian_power: As `scale_by_adahessian`.
        spatial_average: As `scale_by_adahessian`.
        estimator: As `scale_by_adahessian`.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.
        StructureError: at the update: the state owns no key, or what else the estimator needs is not there.

    Source: Yao et al. 2020, arXiv:2006.00719, Algorithm 1.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.adahessian(1.0)
        >>> state = ft.init_state(torch.tensor(1.0), optimizer, key=ft.random.key(0))
        >>> step = ft.make_step(ft.grad_and_value(lambda params, batch, key: params**2), optimizer)
        >>> step(state, None)[0].params < 1e-4
        tensor(True)
    """
    decay = decaying(weight_decay)
    direction = scale_by_adahessian(betas, eps, hessian_power, spatial_average, estimator=estimator)
    return chain(*climbing(maximize), direction, *decay, scale_by_lr(lr))
