"""PSGD with triangular factors: a preconditioner that whitens gradients, fitted along with them."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import Number, check_count, check_fraction, check_positive, is_zero
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import climbing, decaying
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.updates.transforms._dimensions import (
    Matrices,
    along_dims,
    every_dim,
    put_back,
    statistics_dtype,
    unfolded,
    viewed,
)
from functional_train.updates.transforms._momentum import add_momentum
from functional_train.updates.transforms._refresh import renewed
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree


class PsgdState(NamedTuple):
    """The factors of the preconditioner of each parameter.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        factors: For each leaf a tuple with one entry a dimension, 32 bits wide at least: upper triangular (size, size),
            or a diagonal (size,) for a dimension that is too large.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_psgd().init({"w": torch.ones(2, 1)}).factors
        {'w': (tensor([[1., 0.],
                [0., 1.]]), tensor([[1.]]))}
    """

    step: Tensor
    factors: Tree


@schedulable
def scale_by_psgd(
    precond_lr: Hyperparameter = 0.1,
    precond_init_scale: Hyperparameter = 1.0,
    precondition_frequency: int = 1,
    max_precond_dim: int = 8192,
    merge_dims: bool = False,
) -> GradientTransformation:
    r"""Multiply a gradient by a preconditioner that is fitted to make its covariance the identity.

    $$P = Q^\top Q, \quad Q = Q_1 \otimes \cdots \otimes Q_k, \quad u = P g, \quad
      Q_i \leftarrow Q_i - \frac{\mu}{\lVert A_i + B_i \rVert} \operatorname{triu}(A_i - B_i)\, Q_i$$

    with one triangular factor a dimension. Where $a = Q g$ and $b = Q^{-\top} v$ for a normal vector v, the matrices
    $A_i$ and $B_i$ hold the products of the slices of a, and of b, along dimension i; the fit is at rest where their
    means agree, each gradient weighed by the step's divisor. With equal weights and a single factor
    $P = (\mathbb E\, g g^\top)^{-1/2}$.

    Args:
        precond_lr: Step size of the fit, $\mu$, in [0, 1). Dimensionless.
        precond_init_scale: Start of Q, above 0; in units of the root of an update per gradient.
        precondition_frequency: Updates from one step of the fit to the next, at least 1.
        max_precond_dim: Largest dimension with a whole factor, at least 1; a larger one has a diagonal.
        merge_dims: Whether neighboring dimensions become one, as long as that is not above `max_precond_dim`.

    Returns:
        Transformation with `PsgdState`; a leaf whose gradient is `None` keeps its state. Under `vmap` and in a compiled
        step a step of the fit is computed at each update, and used where it is due.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Li 2018, arXiv:1512.04202; Li 2022, arXiv:2211.04422, on Lie groups.

    Differs: $B_i$ is its mean over v, which has a formula, where the paper draws a v: no key is needed, and updates
        repeat. The norm is Frobenius', an upper bound of the paper's.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_psgd()
        >>> g, state = [torch.tensor(4.0)], tx.init([torch.tensor(0.0)])
        >>> for _ in range(100):
        ...     updates, state = tx.update(g, state, None)
        >>> updates[0].round(decimals=2)
        tensor(1.)
    """
    rate = check_fraction("precond_lr", precond_lr, "0.1 is usual.")
    start = check_positive("precond_init_scale", precond_init_scale, "1.0 is usual.")
    check_count("precondition_frequency", precondition_frequency, 1, "1 is most exact, 10 to 30 usual later on.")
    check_count("max_precond_dim", max_precond_dim, 1, "8192 is usual.")
    plan = partial(every_dim, merge=merge_dims, max_dim=max_precond_dim)

    def init(params: Tree) -> PsgdState:
        def started(leaf: Tensor) -> Matrices:
            kind: Any = {"dtype": statistics_dtype(leaf), "device": leaf.device}
            layout = plan(leaf)
            share = start ** (1 / len(layout.shape))
            return layout.matrices(
                lambda size: (
                    share * (torch.eye(size, **kind) if size <= max_precond_dim else torch.ones(size, **kind))
                ).to(kind["dtype"])
            )

        step = zero_step_per_leaf(params)
        return PsgdState(step, tree.map(started, params))

    def update(g: Flat, state: PsgdState, p: Flat | None, **extra: Any) -> tuple[Flat, PsgdState]:
        del p, extra
        check_state(state, PsgdState)
        layouts = g.map(plan)
        (x,) = viewed(layouts, g)
        due = state.step % precondition_frequency == 0
        (factors,) = renewed(g, due, partial(_fitted, rate), (g.subtrees(state.factors),), x)
        (updates,) = put_back(layouts, g, x.map(_preconditioned, factors))
        return updates, PsgdState(g.counted(state.step), factors.tree(absent=state.factors))

    return GradientTransformation(init, columnwise(update))


def _fitted(rate: Number, factors: Matrices, array: Tensor) -> tuple[Matrices]:
    if array.numel() == 0 or factors[0].numel() == 0:
        return (factors,)
    rate = rate.to(factors[0].dtype) if isinstance(rate, Tensor) else rate
    whitened = along_dims(array, tuple([_transposed(factor) for factor in factors]))
    # The mean of b's products along one dimension is Q^-T Q^-1 there, times the squares of the other inverses.
    inverses = [_inverse(factor) for factor in factors]
    squares = [inverse.square().sum() for inverse in inverses]
    made: list[Tensor] = []
    for dim, (factor, inverse) in enumerate(zip(factors, inverses, strict=True)):
        others = torch.ones_like(squares[dim])
        for place, square in enumerate(squares):
            others = others if place == dim else others * square
        rows = unfolded(whitened, dim)
        if factor.ndim == 2:
            a, b = rows @ rows.mT, others * (inverse.mT @ inverse)
            made.append(factor - rate / torch.linalg.vector_norm(a + b) * (a - b).triu() @ factor)
        else:
            a, b = rows.square().sum(-1), others * inverse.square()
            made.append(factor - rate / torch.linalg.vector_norm(a + b) * (a - b) * factor)
    return (tuple(made),)


def _inverse(factor: Tensor) -> Tensor:
    if factor.ndim == 1:
        return 1 / factor
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, eye, upper=True)


def _transposed(factor: Tensor) -> Tensor:
    return factor.mT if factor.ndim == 2 else factor


def _preconditioned(array: Tensor, factors: Matrices) -> Tensor:
    return along_dims(along_dims(array, tuple([_transposed(factor) for factor in factors])), factors)


def psgd(
    lr: Hyperparameter = 1e-3,
    momentum: Hyperparameter = 0.9,
    weight_decay: Hyperparameter = 0.0,
    precond_lr: Hyperparameter = 0.1,
    precond_init_scale: Hyperparameter = 1.0,
    precondition_frequency: int = 1,
    max_precond_dim: int = 8192,
    merge_dims: bool = False,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """PSGD: descent along the mean of the gradients, whitened by triangular factors that are fitted to it.

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        momentum: Decay of the mean, in [0, 1); 0 for none. Dimensionless.
        weight_decay: As `add_decayed_weights`, decoupled.
        precond_lr: As `scale_by_psgd`.
        precond_init_scale: As `scale_by_psgd`.
        precondition_frequency: As `scale_by_psgd`.
        max_precond_dim: As `scale_by_psgd`.
        merge_dims: As `scale_by_psgd`.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Li 2022, arXiv:2211.04422.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.psgd(0.1, momentum=0.0)
        >>> len(optimizer.init({"w": torch.ones(2, 2)}))
        2
    """
    if not callable(momentum):
        check_fraction("momentum", momentum, "0.9 is usual.")
    direction = scale_by_psgd(precond_lr, precond_init_scale, precondition_frequency, max_precond_dim, merge_dims)
    return chain(
        *climbing(maximize),
        *([] if is_zero(momentum) else [add_momentum(momentum, momentum)]),
        direction,
        *decaying(weight_decay),
        scale_by_lr(lr),
    )
