"""SOAP: Adam in the eigenbasis of Shampoo's statistics."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import (
    Number,
    check_betas,
    check_count,
    check_fraction,
    check_non_negative,
)
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import climbing, decaying
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.updates.transforms._dimensions import (
    Matrices,
    along_dims,
    layout,
    put_back,
    slice_products,
    statistics_dtype,
    viewed,
)
from functional_train.updates.transforms._eigen import eigenbasis, power_basis
from functional_train.updates.transforms._refresh import renewed
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree


class SoapState(NamedTuple):
    """Moments of the gradient, and the basis in which the second one is kept.

    Attributes:
        step: (num_leaves,) int64, gradients that each leaf has seen so far, the first included.
        exp_avg: Like params, the mean of the gradient.
        exp_avg_sq: Like params, the mean square of the rotated gradient.
        statistics: For each leaf a tuple with one entry a dimension: (size, size), the mean of the gradient's slices
            times each other, 32 bits wide at least; of size 0 for a dimension that is not rotated.
        bases: Like statistics, orthogonal, the eigenvectors as columns.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_soap().init({"w": torch.ones(2, 1)}).bases
        {'w': (tensor([[1., 0.],
                [0., 1.]]), tensor([[1.]]))}
    """

    step: Tensor
    exp_avg: Tree
    exp_avg_sq: Tree
    statistics: Tree
    bases: Tree


@schedulable
def scale_by_soap(
    betas: tuple[Hyperparameter, Hyperparameter] = (0.95, 0.95),
    eps: Hyperparameter = 1e-8,
    shampoo_beta: Hyperparameter | None = None,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    merge_dims: bool = False,
    precondition_1d: bool = False,
    correct_bias: bool = True,
) -> GradientTransformation:
    r"""Run Adam in the eigenbasis of Shampoo's statistics, a slowly turning frame in which a gradient is sparse.

    $$L \leftarrow \beta_s L + (1-\beta_s) G G^\top, \quad R \leftarrow \beta_s R + (1-\beta_s) G^\top G, \quad
      G' = Q_L^\top G Q_R, \quad M' = Q_L^\top M Q_R, \quad u = Q_L \frac{M'}{\sqrt{V} + \epsilon} Q_R^\top$$

    with $M$ the mean of $G$ and $V$ that of $G'^2$. The bases $Q$ are those of the statistics before this gradient: the
    first gradient of a leaf makes them, and moves nothing. Every `precondition_frequency` updates they are renewed by
    one round of power iteration and a QR decomposition.

    Args:
        betas: Decay of the two moments, each in [0, 1). Dimensionless.
        eps: Added to the root, at least 0; in gradient units.
        shampoo_beta: Decay of the statistics, in [0, 1); the second beta when None. Dimensionless.
        precondition_frequency: Updates from one renewal of the bases to the next, at least 1.
        max_precond_dim: Largest dimension that is rotated, at least 1; its two matrices have the square of its size.
        merge_dims: Whether neighboring dimensions become one, as long as that is not above `max_precond_dim`.
        precondition_1d: Whether vectors are rotated too.
        correct_bias: Whether the moments are corrected for their start at zero.

    Returns:
        Transformation with `SoapState`; a leaf whose gradient is `None` keeps its state. Under `vmap` and in a compiled
        step the bases are computed at each update, and used where they are due.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Vyas et al. 2024, arXiv:2409.11321, Algorithm 3, and for the first update and the order of the eigenvectors
        the authors' code.

    Differs: what rounding leaves of a gradient in a direction in which it has no part is zero, where Adam would make a
        whole step of it. Bases are computed in float64, and are constants in differentiation.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_soap(precondition_1d=True)
        >>> g = [torch.tensor([3.0, 4.0])]
        >>> updates, state = tx.update(g, tx.init(g), None)
        >>> updates, tx.update(g, state, None)[0]
        ([tensor([0., 0.])], [tensor([0.6000, 0.8000])])
    """
    beta1, beta2 = check_betas(betas)
    shift = check_non_negative("eps", eps, "1e-8 is usual.")
    beta = beta2 if shampoo_beta is None else check_fraction("shampoo_beta", shampoo_beta, "0.95 is usual.")
    check_count("precondition_frequency", precondition_frequency, 1, "10 is usual.")
    check_count("max_precond_dim", max_precond_dim, 1, "10000 is usual.")
    plan = partial(layout, max_dim=max_precond_dim, vectors=precondition_1d, merge=merge_dims)

    def init(params: Tree) -> SoapState:
        def matrices(leaf: Tensor, of_size: Any) -> Matrices:
            kind = {"dtype": statistics_dtype(leaf), "device": leaf.device}
            return plan(leaf).matrices(lambda size: of_size(size, **kind))

        step = zero_step_per_leaf(params)
        statistics = tree.map(lambda leaf: matrices(leaf, lambda size, **kind: torch.zeros(size, size, **kind)), params)
        bases = tree.map(lambda leaf: matrices(leaf, torch.eye), params)
        return SoapState(step, tree.zeros_like(params), tree.zeros_like(params), statistics, bases)

    def update(g: Flat, state: SoapState, p: Flat | None, **extra: Any) -> tuple[Flat, SoapState]:
        del p, extra
        check_state(state, SoapState)
        step = g.counted(state.step)
        layouts = g.map(plan)
        statistics, bases = g.subtrees(state.statistics), g.subtrees(state.bases)
        x, m, v = viewed(layouts, g, *g.beside(state.exp_avg, state.exp_avg_sq))

        rotated = x.map(_rotated, bases)
        # The first gradient only makes the bases.
        moves = (step > 1).double()
        m = tree.lerp(m, x, g.spread((1 - beta1) * moves))
        share = (1 - beta2) * moves
        v = tree.addcmul(v, rotated, rotated, g.spread(share), decay=g.spread(1 - share))
        factor = _correction(step, beta1, beta2) if correct_bias else torch.ones_like(moves)
        direction = _direction(m.map(along_dims, bases), v, g.spread(factor), g.spread(factor * shift))
        direction = direction.map(lambda array, turn: along_dims(array, _transposed(turn)), bases)

        statistics = x.map(partial(_with_products, 1 - beta), statistics)
        starts, turns = step == 1, (step > 1) & ((step - 1) % precondition_frequency == 0)
        (bases,) = renewed(g, starts, _started, (bases,), statistics)
        bases, v = renewed(g, turns, _turned, (bases, v), statistics)
        updates, m, v = put_back(layouts, g, direction, m, v)
        before = (state.exp_avg, state.exp_avg_sq, state.statistics, state.bases)
        made = [column.tree(absent=old) for column, old in zip((m, v, statistics, bases), before, strict=True)]
        return updates, SoapState(step, *made)

    return GradientTransformation(init, columnwise(update))


def _correction(step: Tensor, beta1: Number, beta2: Number) -> Tensor:
    """What the root of the second moment is multiplied by, to correct both."""
    counted = (step - 1).clamp(min=1).double()
    return (1 - beta1**counted) * (1 - beta2**counted) ** -0.5


def _rotated(array: Tensor, bases: Matrices) -> Tensor:
    if all(basis.numel() == 0 for basis in bases):
        return array
    made = along_dims(array, bases)
    # Rounding of the product: far below what the largest numbers of the gradient can tell.
    noise = 32 * torch.finfo(made.dtype).eps * torch.linalg.vector_norm(made.detach())
    return torch.where(made.abs() <= noise, 0.0, made)


def _transposed(bases: Matrices) -> Matrices:
    return tuple([basis.mT for basis in bases])


def _direction(m: Flat, v: Flat, factor: Flat, shift: Flat) -> Flat:
    """The mean over the root of the mean square, and 0 where that is 0."""
    v = m.map(lambda wide, square: square.to(wide.dtype), v)
    made = tree.div_sqrt(m, v, factor=factor, outside=shift)
    return made.map(lambda array, square: torch.where(square == 0, 0.0, array), v)


def _with_products(weight: Number, array: Tensor, statistics: Matrices) -> Matrices:
    weight = weight.detach() if isinstance(weight, Tensor) else weight

    def averaged(dim: int, old: Tensor) -> Tensor:
        if old.numel() == 0:
            return old
        return old + weight * (slice_products(array.detach().to(old.dtype), dim) - old)

    return tuple([averaged(dim, old) for dim, old in enumerate(statistics)])


def _started(bases: Matrices, statistics: Matrices) -> tuple[Matrices]:
    del bases
    return (tuple([eigenbasis(matrix) if matrix.numel() > 0 else matrix for matrix in statistics]),)


def _turned(bases: Matrices, v: Tensor, statistics: Matrices) -> tuple[Matrices, Tensor]:
    turned: list[Tensor] = []
    for dim, (matrix, basis) in enumerate(zip(statistics, bases, strict=True)):
        if matrix.numel() == 0:
            turned.append(basis)
            continue
        new, order = power_basis(matrix, basis)
        turned.append(new)
        v = v.index_select(dim, order)
    return tuple(turned), v


def soap(
    lr: Hyperparameter = 3e-3,
    betas: tuple[Hyperparameter, Hyperparameter] = (0.95, 0.95),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 1e-2,
    shampoo_beta: Hyperparameter | None = None,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    merge_dims: bool = False,
    precondition_1d: bool = False,
    correct_bias: bool = True,
    *,
    maximize: bool = False,
) -> GradientTransformation:
    """SOAP: Adam in the eigenbasis of Shampoo's statistics, with decoupled weight decay.

    Args:
        lr: As `scale_by_lr`; it also scales the decay.
        betas: As `scale_by_soap`.
        eps: As `scale_by_soap`.
        weight_decay: As `add_decayed_weights`.
        shampoo_beta: As `scale_by_soap`.
        precondition_frequency: As `scale_by_soap`.
        max_precond_dim: As `scale_by_soap`.
        merge_dims: As `scale_by_soap`.
        precondition_1d: As `scale_by_soap`.
        correct_bias: As `scale_by_soap`.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Vyas et al. 2024, arXiv:2409.11321, Algorithm 3.

    Differs: from the authors' code, parameters decay before they move, as in `adamw`, and at the first update too.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.soap(0.1)
        >>> params = {"w": torch.ones(2, 3)}
        >>> state = optimizer.init(params)
        >>> len(state)
        3
    """
    direction = scale_by_soap(
        betas, eps, shampoo_beta, precondition_frequency, max_precond_dim, merge_dims, precondition_1d, correct_bias
    )
    decay = decaying(weight_decay)
    return chain(*climbing(maximize), direction, *decay, scale_by_lr(lr))
