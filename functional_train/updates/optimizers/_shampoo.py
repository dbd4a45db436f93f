"""Shampoo: a full-matrix preconditioner for each dimension."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.chain import chain
from functional_train.updates.checks import Number, check_count, check_positive, is_zero
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.optimizers._descent import climbing, decaying
from functional_train.updates.transformation import GradientTransformation, check_state, columnwise, zero_step_per_leaf
from functional_train.updates.transforms._dimensions import (
    Matrices,
    along_dims,
    every_dim,
    put_back,
    slice_products,
    statistics_dtype,
    unfolded,
    viewed,
)
from functional_train.updates.transforms._eigen import symmetric_power
from functional_train.updates.transforms._graft import graft
from functional_train.updates.transforms._momentum import add_momentum
from functional_train.updates.transforms._refresh import renewed
from functional_train.updates.transforms._scale import scale_by_lr
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.types import Hyperparameter, Tree


class ShampooState(NamedTuple):
    """What gradients have added up to along each dimension.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        statistics: For each leaf a tuple with one entry a dimension, the sum of the gradient's slices times each other,
            32 bits wide at least: (size, size), or its diagonal (size,) for a dimension that is too large.
        roots: Like statistics, their inverse roots.

    Example:
        >>> import functional_train as ft, torch
        >>> ft.scale_by_shampoo(matrix_eps=1.0).init({"w": torch.ones(2, 1)}).statistics
        {'w': (tensor([[1., 0.],
                [0., 1.]]), tensor([[1.]]))}
    """

    step: Tensor
    statistics: Tree
    roots: Tree


@schedulable
def scale_by_shampoo(
    matrix_eps: Hyperparameter = 1e-6,
    precondition_frequency: int = 1,
    max_precond_dim: int = 1200,
    merge_dims: bool = False,
) -> GradientTransformation:
    r"""Multiply each dimension of a gradient by the inverse root of what its slices have added up to.

    $$H_i \leftarrow H_i + G_{(i)} G_{(i)}^\top, \quad u = G \times_1 H_1^{-1/2k} \times_2 \cdots \times_k H_k^{-1/2k}$$

    for a gradient of $k$ dimensions, where $G_{(i)}$ has the slices along dimension $i$ as rows, and $H_i$ starts at
    $\epsilon I$. A matrix becomes $L^{-1/4} G R^{-1/4}$, a vector that of full-matrix Adagrad.

    Args:
        matrix_eps: Start of the diagonals, above 0; in squared gradient units.
        precondition_frequency: Updates from one computation of the roots to the next, at least 1.
        max_precond_dim: Largest dimension with a whole matrix, at least 1; a larger one has the diagonal.
        merge_dims: Whether neighboring dimensions become one, as long as that is not above `max_precond_dim`.

    Returns:
        Transformation with `ShampooState`; a leaf whose gradient is `None` keeps its state. Under `vmap` and in a
        compiled step roots are computed at each update, and used where they are due.

    Raises:
        HyperparameterError: a number is outside its range.

    Source: Gupta et al. 2018, arXiv:1802.09568, Algorithm 2, and for large dimensions its diagonal variant.

    Differs: a leaf of one number is a vector of one. Roots are computed in float64, with eigenvalues below the rounding
        of the largest raised to it. Only first derivatives pass through a root.

    Example:
        >>> import functional_train as ft, torch
        >>> tx = ft.scale_by_shampoo()
        >>> g = [torch.tensor([[3.0, 0.0], [0.0, 0.5]])]
        >>> tx.update(g, tx.init(g), None)[0]
        [tensor([[1.0000, 0.0000],
                [0.0000, 1.0000]])]
    """
    start = check_positive("matrix_eps", matrix_eps, "With 0 a root could have no inverse; 1e-6 is usual.")
    check_count("precondition_frequency", precondition_frequency, 1, "1 is most exact, 20 to 100 usual.")
    check_count("max_precond_dim", max_precond_dim, 1, "1200 is usual.")
    plan = partial(every_dim, max_dim=max_precond_dim, merge=merge_dims)

    def init(params: Tree) -> ShampooState:
        step = zero_step_per_leaf(params)
        statistics = tree.map(partial(_started, plan, start, max_precond_dim), params)
        return ShampooState(step, statistics, tree.map(torch.zeros_like, statistics))

    def update(g: Flat, state: ShampooState, p: Flat | None, **extra: Any) -> tuple[Flat, ShampooState]:
        del p, extra
        check_state(state, ShampooState)
        step, layouts = g.counted(state.step), g.map(plan)
        (x,) = viewed(layouts, g)
        statistics = x.map(_added, g.subtrees(state.statistics))
        due = (step - 1) % precondition_frequency == 0
        (roots,) = renewed(g, due, partial(_rooted, start), (g.subtrees(state.roots),), statistics)
        (updates,) = put_back(layouts, g, x.map(along_dims, roots))
        new = (column.tree(absent=old) for column, old in ((statistics, state.statistics), (roots, state.roots)))
        return updates, ShampooState(step, *new)

    return GradientTransformation(init, columnwise(update))


def _started(plan: Any, start: Number, largest: int, leaf: Tensor) -> Matrices:
    kind: Any = {"dtype": statistics_dtype(leaf), "device": leaf.device}

    def of_size(size: int) -> Tensor:
        return start * (torch.eye(size, **kind) if size <= largest else torch.ones(size, **kind))

    return tuple([made.to(kind["dtype"]) for made in plan(leaf).matrices(of_size)])


def _added(array: Tensor, statistics: Matrices) -> Matrices:
    added: list[Tensor] = []
    for dim, old in enumerate(statistics):
        if old.numel() == 0:
            added.append(old)
            continue
        wide = array.to(old.dtype)
        added.append(old + (slice_products(wide, dim) if old.ndim == 2 else unfolded(wide, dim).square().sum(-1)))
    return tuple(added)


def _rooted(floor: Number, roots: Matrices, statistics: Matrices) -> tuple[Matrices]:
    del roots
    exponent = -0.5 / len(statistics)

    def root(matrix: Tensor) -> Tensor:
        if matrix.numel() == 0:
            return matrix
        return symmetric_power(matrix, exponent, floor) if matrix.ndim == 2 else matrix.pow(exponent)

    return (tuple([root(matrix) for matrix in statistics]),)


def shampoo(
    lr: Hyperparameter = 1e-3,
    momentum: Hyperparameter = 0.0,
    weight_decay: Hyperparameter = 0.0,
    matrix_eps: Hyperparameter = 1e-6,
    precondition_frequency: int = 1,
    max_precond_dim: int = 1200,
    merge_dims: bool = False,
    *,
    grafting: GradientTransformation | None = None,
    maximize: bool = False,
) -> GradientTransformation:
    """Shampoo: a full-matrix preconditioner for each dimension of a parameter.

    Args:
        lr: As `scale_by_lr`.
        momentum: As `add_momentum`, of the preconditioned gradients; 0 for none.
        weight_decay: L2 penalty added to the gradient, at least 0.
        matrix_eps: As `scale_by_shampoo`.
        precondition_frequency: As `scale_by_shampoo`.
        max_precond_dim: As `scale_by_shampoo`.
        merge_dims: As `scale_by_shampoo`.
        grafting: Gives each leaf of the preconditioned gradient its length, as in `graft`: `ft.identity()` for that of
            the gradient, `ft.scale_by_adam()` for that of Adam's step.
        maximize: Whether to climb.

    Returns:
        Transformation; its state is a tuple with one state for each part in use.

    Raises:
        HyperparameterError: a number is outside its range.
        StructureError: grafting is not a transformation.

    Source: Gupta et al. 2018, arXiv:1802.09568, Algorithm 2; grafting, Agarwal et al. 2020, arXiv:2002.11803.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.shampoo(0.1, grafting=ft.scale_by_adam())
        >>> params = {"w": torch.ones(2, 2)}
        >>> optimizer.update(params, optimizer.init(params), params)[0]
        {'w': tensor([[-0.1000, -0.1000],
                [-0.1000, -0.1000]])}
    """
    direction = scale_by_shampoo(matrix_eps, precondition_frequency, max_precond_dim, merge_dims)
    return chain(
        *climbing(maximize),
        *decaying(weight_decay),
        direction if grafting is None else graft(grafting, direction),
        *([] if is_zero(momentum) else [add_momentum(momentum)]),
        scale_by_lr(lr),
    )
