"""GaLore: any optimizer on gradients of low rank."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from functional_train.updates.checks import check_choice, check_count, check_non_negative
from functional_train.updates.hyperparameters import schedulable
from functional_train.updates.transformation import (
    GradientTransformation,
    check_state,
    check_transformation,
    columnwise,
    update_columns,
    zero_step_per_leaf,
)
from functional_train.updates.transforms._dimensions import statistics_dtype
from functional_train.updates.transforms._eigen import leading_singular_vectors
from functional_train.updates.transforms._refresh import renewed
from functional_train.values import tree
from functional_train.values.tree import Flat
from functional_train.values.tree._structure import is_floating
from functional_train.values.types import Hyperparameter, Tree

ProjectionType = Literal["std", "reverse_std", "left", "right"]
_CHOICES: tuple[ProjectionType, ...] = ("std", "reverse_std", "left", "right")


class GaLoreState(NamedTuple):
    """The subspace of each matrix, and the state of the optimizer in it.

    Attributes:
        step: (num_leaves,) int64, updates applied to each leaf so far.
        projections: For each matrix its orthonormal columns, (rows or columns, rank); of size 0 for other leaves.
        inner: The state of the wrapped transformation, for gradients of shape (rows, rank) or (rank, columns).

    Example:
        >>> import functional_train as ft, torch
        >>> state = ft.galore(ft.scale_by_adam(), rank=2).init({"w": torch.ones(5, 4)})
        >>> state.inner.exp_avg["w"].shape
        torch.Size([5, 2])
    """

    step: Tensor
    projections: Tree
    inner: Tree


def galore(
    inner: GradientTransformation,
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: Hyperparameter = 0.25,
    proj_type: ProjectionType = "std",
) -> GradientTransformation:
    r"""Run a transformation on gradients projected to a low rank, so that its state is that much smaller.

    $$R = G P, \quad u = \alpha\, \rho(R)\, P^\top$$

    for a matrix G with at least as many rows as columns; P has the right singular vectors of the largest singular
    values of G, and is renewed every `update_proj_gap` updates. A wide matrix is projected from the left. Other leaves
    go to the transformation as they are.

    Args:
        inner: The transformation, $\rho$. It is given projected parameters beside projected gradients: weight decay in
            it acts in the subspace alone, so put `add_decayed_weights` behind `galore`. Of what `make_step` passes it
            does not get `grad_and_value_fn=`, whose parameters are not projected. Its state begins at parameters of 0.
        rank: At least 1; a matrix with fewer rows or columns keeps its own.
        update_proj_gap: Updates from one projection to the next, at least 1.
        scale: Factor of the updates of matrices, $\alpha$, at least 0. Dimensionless.
        proj_type: Side of the projection: `"std"`, the shorter one; `"reverse_std"`, the longer one; `"left"`;
            `"right"`.

    Returns:
        Transformation with `GaLoreState`; a leaf whose gradient is `None` keeps its state. Under `vmap` and in a
        compiled step projections are computed at each update, and used where they are due.

    Raises:
        HyperparameterError: a number is outside its range.
        StructureError: inner is not a transformation.

    Source: Zhao et al. 2024, arXiv:2403.03507, Algorithms 1 and 2.

    Differs: singular vectors are computed in float64, and are constants in differentiation. As in the paper, moments
        stay as they are when the subspace turns.

    Example:
        >>> import functional_train as ft, torch
        >>> optimizer = ft.galore(ft.sgd(1.0), rank=1, scale=1.0)
        >>> g = [torch.tensor([[3.0, 0.0], [0.0, 1.0]])]
        >>> ft.make_update(optimizer)(g, optimizer.init(g), g)[0]
        [tensor([[0., 0.],
                [0., 1.]])]
    """
    check_transformation(inner, "galore")
    check_count("rank", rank, 1, "128 is usual.")
    check_count("update_proj_gap", update_proj_gap, 1, "200 is usual.")
    check_choice("proj_type", proj_type, _CHOICES)

    def empty(leaf: Tensor) -> Tensor:
        size = min(rank, *leaf.shape) if _is_matrix(leaf) else 0
        long = leaf.shape[1 if _from_right(leaf, proj_type) else 0] if size else 0
        dtype = leaf.dtype if leaf.is_complex() else statistics_dtype(leaf)
        return torch.zeros(long, size, dtype=dtype, device=leaf.device)

    def down(leaf: Tensor, projection: Tensor) -> Tensor:
        if projection.numel() == 0:
            return leaf
        wide = leaf.to(projection.dtype)
        made = wide @ projection if _from_right(leaf, proj_type) else projection.mH @ wide
        return made.to(leaf.dtype).contiguous()

    def renew(projection: Tensor, leaf: Tensor) -> tuple[Tensor]:
        if projection.numel() == 0:
            return (projection,)
        wide = leaf.to(projection.dtype)
        return (leading_singular_vectors(wide, projection.shape[1], right=_from_right(leaf, proj_type)),)

    def init(params: Tree) -> GaLoreState:
        step = zero_step_per_leaf(params)
        projections = tree.map(empty, params)
        return GaLoreState(step, projections, inner.init(tree.map(down, params, projections)))

    @schedulable
    def make(scale: Hyperparameter) -> GradientTransformation:
        factor = check_non_negative("scale", scale, "0.25 and 1.0 are usual.")

        def up(like: Tensor, update: Tensor, projection: Tensor) -> Tensor:
            if projection.numel() == 0:
                return update
            wide = update.to(projection.dtype)
            made = wide @ projection.mH if _from_right(like, proj_type) else projection @ wide
            return (factor * made).to(like.dtype)

        def update(g: Flat, state: GaLoreState, p: Flat | None, **extra: Any) -> tuple[Flat, GaLoreState]:
            check_state(state, GaLoreState)
            extra.pop("grad_and_value_fn", None)
            due = state.step % update_proj_gap == 0
            (projections,) = renewed(g, due, renew, g.beside(state.projections), g)
            kept = projections.tree(absent=state.projections)
            low = g.map(down, projections)
            # All parameters, those without a gradient too: what is wrapped may look at the whole.
            at = None if p is None else p.beside(tree.map(down, p.tree(), kept))[0]
            updates, inner_state, _ = update_columns(inner, low, state.inner, at, extra)
            if updates.frame is not g.frame:
                (updates,) = g.beside(updates.tree())
            new = GaLoreState(g.counted(state.step), kept, inner_state)
            return g.map(up, updates, projections), new

        return GradientTransformation(init, columnwise(update))

    return make(scale)


def _is_matrix(leaf: Tensor) -> bool:
    return leaf.ndim == 2 and leaf.numel() > 0 and is_floating(leaf)


def _from_right(leaf: Tensor, proj_type: ProjectionType) -> bool:
    tall = leaf.shape[0] >= leaf.shape[1]
    return {"std": tall, "reverse_std": not tall, "left": False, "right": True}[proj_type]
