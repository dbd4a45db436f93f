"""Adafactor."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.checks import (
    Number,
    check_at_least,
    check_fraction,
    check_non_negative,
    check_non_positive,
    check_whole,
    is_zero,
)
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.values import tree
from functional_train.values.errors import HyperparameterError, StructureError
from functional_train.values.tree import Flat
from functional_train.values.tree._flat import is_plain
from functional_train.values.types import Hyperparameter, Tree


class AdafactorState(NamedTuple):
    """Mean squares of the gradient, by rows and columns where it is a matrix.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        variance: Like params; for a factored leaf of shape (..., m, n) a pair of shapes (..., m, 1) and (..., 1, n).
        exp_avg: Like params, the mean of the updates; `()` without momentum.

    Example:
        >>> import functional_train as ft, torch
        >>> state = ft.adafactor().init({"w": torch.ones(3, 2), "b": torch.ones(2)})
        >>> ft.tree.map(lambda leaf: tuple(leaf.shape), state.variance)
        {'w': ((3, 1), (1, 2)), 'b': (2,)}
    """

    step: Tensor
    variance: Tree
    exp_avg: Tree


class _Numbers(NamedTuple):
    beta2_decay: Number
    eps: Number | None
    d: Number | None


@schedulable
def scale_by_factored_rms(
    beta2_decay: Hyperparameter = -0.8,
    eps: Hyperparameter | None = None,
    d: Hyperparameter | None = 1.0,
    *,
    min_dim_size_to_factor: int = 0,
) -> GradientTransformation:
    r"""Divide gradients by the root of their mean square, which for matrices is kept by rows and columns only.

    $$\beta = 1 - t^\tau, \quad R \leftarrow \beta R + (1-\beta) \overline{g^2}_{rows}, \quad
      C \leftarrow \beta C + (1-\beta) \overline{g^2}_{columns}, \quad V = \frac{R C}{\max(\overline{R}, \epsilon)}$$
    $$U = \frac{g}{\max(\sqrt{V}, \epsilon)}, \quad u = \frac{U}{\max(1, \mathrm{RMS}(U) / d)}$$

    The last two dimensions of a leaf are its matrix; a leaf of fewer keeps V itself. Leaves of 16 bits are computed in
    float32.

    Args:
        beta2_decay: The exponent $\tau$, at most 0. Dimensionless.
        eps: At least 0, in gradient units; by default the machine epsilon of each leaf's dtype.
        d: Largest root of the mean square of an update, at least 1; `None` for no limit. Dimensionless.
        min_dim_size_to_factor: Least size of both dimensions at which a matrix is kept by rows and columns.

    Returns:
        Transformation with `AdafactorState`; a leaf whose gradient is `None` keeps its state, its step count included.

    Raises:
        HyperparameterError: a number is outside its range.
        StructureError: at `init`: a parameter is complex.

    Source: Shazeer & Stern 2018, arXiv:1804.04235, Algorithms 4 and 5.

    Differs: as torch.optim.Adafactor does, in that means stand for sums and eps bounds V and its root from below, where
        the paper adds it to g². From torch, in that eps is each leaf's own, where torch takes the first leaf's for all.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_factored_rms()
        >>> tx.update([torch.tensor([5.0, -0.1])], tx.init([torch.zeros(2)]), None)[0]
        [tensor([ 1., -1.])]
    """
    numbers = _checked_numbers(beta2_decay, eps, d)
    least = check_whole("min_dim_size_to_factor", min_dim_size_to_factor, 0, "128 is usual.")

    def update(g: Flat, state: AdafactorState, p: Flat | None, **extra: Any) -> tuple[Flat, AdafactorState]:
        del p, extra
        check_state(state, AdafactorState)
        step = g.counted(state.step)
        direction, factor, variance = _preconditioned(g, state, _from_one(step), numbers)
        updates = _narrowed(tree.scale(factor, direction.spend()), g)
        return updates, AdafactorState(step, variance.tree(absent=state.variance), state.exp_avg)

    return GradientTransformation(partial(_init, least=least, momentum=False), columnwise(update))


def _checked_numbers(beta2_decay: Hyperparameter, eps: Hyperparameter | None, d: Hyperparameter | None) -> _Numbers:
    return _Numbers(
        check_non_positive("beta2_decay", beta2_decay, "-0.8 is usual."),
        None if eps is None else check_non_negative("eps", eps, "None is usual."),
        None if d is None else check_at_least("d", d, 1.0, "1.0 is usual, and None sets no limit."),
    )


def _init(params: Tree, *, least: int, momentum: bool) -> AdafactorState:
    for path, leaf in tree.items(params):
        if leaf.is_complex():
            raise StructureError(f"Adafactor has no rule for complex parameters, but {path!r} is {leaf.dtype}.")
    step = zero_step_per_leaf(params)
    variance = tree.map(partial(_zero_variance, least=least), params)
    return AdafactorState(step, variance, tree.zeros_like(params) if momentum else ())


def _zero_variance(leaf: Tensor, least: int) -> Tensor | tuple[Tensor, Tensor]:
    if leaf.ndim < 2 or min(leaf.shape[-2:]) < least:
        return torch.zeros_like(leaf)
    *rest, m, n = leaf.shape
    return leaf.new_zeros(*rest, m, 1), leaf.new_zeros(*rest, 1, n)


def _from_one(step: Tensor) -> Tensor:
    # Leaves that never had a gradient are not used, but a power of 0 would spoil derivatives.
    return step.clamp(min=1).double()


def _preconditioned(g: Flat, state: AdafactorState, t: Tensor, numbers: _Numbers) -> tuple[Flat, Flat, Flat]:
    """Directions in float32 at least, the factors that limit them, and the new variances."""
    weight = g.spread(t**numbers.beta2_decay)
    rule = partial(_of_leaf, numbers)
    direction, factor, variance = g.map(rule, g.subtrees(state.variance), weight, outputs=3)
    # They were made here and nobody else has them, but a number may be watched.
    plain = direction.plain and is_plain((direction.leaves, factor.leaves))
    return (
        Flat(direction.leaves, g.frame, plain, fresh=plain),
        Flat(factor.leaves, g.frame, plain),
        variance,
    )


def _of_leaf(numbers: _Numbers, leaf: Tensor, variance: Any, weight: Tensor) -> tuple[Tensor, Tensor, Any]:
    g = leaf.to(weight.dtype)
    eps: Any = torch.finfo(leaf.dtype).eps if numbers.eps is None else _like(numbers.eps, weight)
    if isinstance(variance, tuple):
        row = torch.lerp(variance[0].to(g.dtype), _mean_square(g, -1), weight)
        col = torch.lerp(variance[1].to(g.dtype), _mean_square(g, -2), weight)
        # The mean divides the rows before the product, which is as large as the leaf.
        v = (row / (row.sum(-2, keepdim=True) / max(row.shape[-2], 1)).clamp(min=eps)) @ col
        kept: Any = (row.to(leaf.dtype), col.to(leaf.dtype))
    else:
        v = torch.lerp(variance.to(g.dtype), g * g, weight)
        kept = v.to(leaf.dtype)
    direction = v.clamp(min=eps * eps).rsqrt() * g
    if numbers.d is None:
        return direction, torch.ones_like(weight), kept
    return direction, 1 / (_rms(direction) / _like(numbers.d, weight)).clamp(min=1.0), kept


def _narrowed(updates: Flat, g: Flat) -> Flat:
    if all(x.dtype is y.dtype for x, y in zip(updates.leaves, g.leaves, strict=True)):
        return updates
    return updates.map(lambda update, leaf: update.to(leaf.dtype), g)


def _like(number: Number, other: Tensor) -> Number:
    return number.to(other.dtype) if isinstance(number, Tensor) else number


def _mean_square(g: Tensor, dim: int) -> Tensor:
    # The norm needs no memory for the squares.
    return torch.linalg.vector_norm(g, dim=dim, keepdim=True).square() / max(g.shape[dim], 1)


def _rms(leaf: Tensor) -> Tensor:
    return torch.linalg.vector_norm(leaf) / max(leaf.numel(), 1) ** 0.5


@schedulable
def adafactor(
    lr: Hyperparameter = 1e-2,
    beta2_decay: Hyperparameter = -0.8,
    eps: tuple[Hyperparameter | None, Hyperparameter] = (None, 1e-3),
    d: Hyperparameter | None = 1.0,
    weight_decay: Hyperparameter = 0.0,
    *,
    maximize: bool = False,
    beta1: Hyperparameter = 0.0,
    scale_parameter: bool = True,
    relative_step: bool = True,
    min_dim_size_to_factor: int = 0,
) -> GradientTransformation:
    r"""Adafactor: steps in proportion to each parameter's size, with memory for rows and columns of matrices only.

    $$\rho = \min(\mathrm{lr}, 1 / \sqrt{t}), \quad \alpha = \max(\epsilon_2, \mathrm{RMS}(p)) \, \rho, \quad
      p \leftarrow p - \mathrm{lr} \, \lambda p - \alpha u$$

    Args:
        lr: Largest step relative to the size of a parameter, at least 0. The warm-up of other libraries is the schedule
            `lambda step: 1e-6 * (step.double() + 1)`.
        beta2_decay: As `scale_by_factored_rms`.
        eps: The eps of `scale_by_factored_rms`, and the least size that a parameter is taken to have, in its units.
        d: As `scale_by_factored_rms`.
        weight_decay: Decoupled decay, scaled by lr alone; at least 0.
        maximize: Whether to climb.
        beta1: Decay of the mean of the updates, which replaces them, in [0, 1); with 0 none is kept. Dimensionless.
        scale_parameter: Whether steps are relative to the size of the parameter; otherwise $\alpha = \rho$.
        relative_step: Whether steps shrink as $1 / \sqrt{t}$; otherwise $\rho = \mathrm{lr}$.
        min_dim_size_to_factor: As `scale_by_factored_rms`.

    Returns:
        Transformation with `AdafactorState`, or `ScheduledState` when a number is a schedule.

    Raises:
        HyperparameterError: a number is outside its range.
        StructureError: at `init`: a parameter is complex.

    Source: torch.optim.Adafactor, whose rule this is; Shazeer & Stern 2018, arXiv:1804.04235, Algorithms 4 to 6. The
        momentum is that of its comparison, Adam with a factored second moment.

    Differs: as `scale_by_factored_rms`.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer, params = ft.adafactor(), {"w": torch.full((2, 2), 3.0)}
        >>> optimizer.update({"w": torch.ones(2, 2)}, optimizer.init(params), params)[0]["w"][0]
        tensor([-0.0300, -0.0300])
    """
    if not isinstance(eps, tuple | list) or len(eps) != 2:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HyperparameterError(f"eps must be a pair, got {eps!r}. (None, 1e-3) is usual.")
    rate = check_non_negative("lr", lr, "To climb instead of descend, pass maximize=True.")
    if eps[0] is not None:
        check_non_negative("eps[0]", eps[0], "None is usual.")
    smallest = check_non_negative("eps[1]", eps[1], "1e-3 is usual.")
    numbers = _checked_numbers(beta2_decay, eps[0], d)
    decay = check_non_negative("weight_decay", weight_decay)
    memory = check_fraction("beta1", beta1, "0.9 is usual, and 0.0 keeps no mean.")
    least = check_whole("min_dim_size_to_factor", min_dim_size_to_factor, 0, "128 is usual.")

    def update(g: Flat, state: AdafactorState, p: Flat | None, **extra: Any) -> tuple[Flat, AdafactorState]:
        del extra
        check_state(state, AdafactorState)
        if p is None:
            raise StructureError("Adafactor's steps are relative to the parameters: pass params to update, not None.")
        g = tree.scale(-1, g.spend()) if maximize else g
        step = g.counted(state.step)
        t = _from_one(step)
        direction, factor, variance = _preconditioned(g, state, t, numbers)
        size = g.spread(_bounded(t**-0.5, rate) if relative_step else torch.zeros_like(t) + rate)
        if scale_parameter:
            size = size.map(lambda rho, leaf: rho * _size_of(leaf, rho.dtype, smallest), p)
        factor = tree.mul(tree.scale(-1, size), factor)
        updates = _narrowed(tree.scale(factor, direction.spend()), g)
        exp_avg = state.exp_avg
        if not is_zero(memory):
            (mean,) = g.beside(exp_avg)
            updates = tree.lerp(mean, updates, 1 - memory)
            exp_avg = updates.tree(absent=exp_avg)
        if not is_zero(decay):
            updates = tree.add(updates.spend(), p, alpha=-rate * decay)
        return updates, AdafactorState(step, variance.tree(absent=state.variance), exp_avg)

    init = partial(_init, least=least, momentum=not is_zero(memory))
    return GradientTransformation(init, columnwise(update))


def _bounded(values: Tensor, most: Number) -> Tensor:
    return torch.minimum(values, most.to(values)) if isinstance(most, Tensor) else values.clamp(max=most)


def _size_of(leaf: Tensor, dtype: torch.dtype, least: Number) -> Tensor:
    size = _rms(leaf.to(dtype))
    return torch.maximum(size, least.to(size)) if isinstance(least, Tensor) else size.clamp(min=least)
